"""Every GeoTIFF of a corpus: what references say is what rasterio says.

Files of others are not part of this repository; without a corpus the test is skipped.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

import tiffref
from tiffref.errors import MetadataWarning, TiffrefError

rasterio = pytest.importorskip("rasterio")
pyproj = pytest.importorskip("pyproj")

KNOWN = {
    "corrupted_gtiff_tags.tif": "GDAL drops all GeoKeys if one is broken; the CRS is readable",
}
"""Files, by the end of their name, where what differs is not a mistake, and why."""
GOAL = 0.97
HUGE = 1 << 40


def truth(path: Path) -> dict | None:
    """Ask rasterio, without side-car files; None for what is no GeoTIFF."""
    with (
        rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            source = rasterio.open(path, driver="GTiff")
        except rasterio.errors.RasterioError:
            return None
        with source:
            gcps, gcp_crs = source.gcps
            transform = tuple(source.transform)[:6]
            crs = source.crs or gcp_crs
            is_plain = not crs and transform == (1, 0, 0, 0, 1, 0)
            if is_plain or source.width * source.height > HUGE:
                return None
            return {
                "crs": crs.to_wkt() if crs else None,
                "transform": None if gcps else transform,
                "gcps": [(g.row, g.col, g.x, g.y, g.z) for g in gcps],
                "nodata": source.nodatavals[0],
                "scales": list(source.scales),
                "offsets": list(source.offsets),
                "descriptions": [text or "" for text in source.descriptions],
                "units": [text or "" for text in source.units],
            }


def found(path: Path) -> dict:
    """Ask the references."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MetadataWarning)
        group = tiffref.scan(path).group
    image = group["image"]
    bands = dict(zip(image.dims, image.shape, strict=True)).get("band", 1)
    attributes = image.attributes
    mapping = attributes.get("grid_mapping")
    reference = dict(group[mapping].attributes) if mapping else {}
    # a grid mapping that levels share has none; the group has that of the full-size one
    placed = group.attributes.get("spatial:transform")
    numbers = [float(n) for n in reference.get("GeoTransform", "").split()]
    gcps = json.loads(reference.get("gcps", '{"features": []}'))["features"]
    return {
        "crs": reference.get("crs_wkt"),
        "transform": tuple(numbers[n] for n in (1, 2, 0, 4, 5, 3))
        if numbers
        else placed and tuple(placed),
        "gcps": [
            (f["properties"]["row"], f["properties"]["col"], *f["geometry"]["coordinates"])
            for f in gcps
        ],
        "nodata": image.fill_value,
        "scales": spread(attributes, "scale_factor", "scales", bands, 1.0),
        "offsets": spread(attributes, "add_offset", "offsets", bands, 0.0),
        "descriptions": spread(attributes, "long_name", "", bands, ""),
        "units": spread(attributes, "units", "", bands, ""),
    }


def spread(attributes: dict, one: str, many: str, n: int, default: object) -> list:
    value = attributes.get(one, attributes.get(many, default))
    return list(value) if isinstance(value, list) else [value] * n


def is_same(key: str, got: object, expected: object) -> bool:
    if key == "crs" and got is not None and expected is not None:
        ours, theirs = pyproj.CRS(got), pyproj.CRS(expected)
        codes = ours.to_epsg(), theirs.to_epsg()
        return ours == theirs or (codes[0] is not None and codes[0] == codes[1])
    if key == "transform" and expected == (1, 0, 0, 0, 1, 0):
        return got is None or got == expected
    if key == "nodata" and got is not None and expected is not None:
        got, expected = np.complex128(got), np.complex128(expected)
        if math.isnan(got.real) or math.isnan(expected.real):
            return math.isnan(got.real) and math.isnan(expected.real)
        return bool(np.isclose(got, expected, rtol=1e-7, atol=0))
    return got == expected


def test_georeferences_are_those_of_rasterio(corpus: Path, capsys: pytest.CaptureFixture) -> None:
    n_files, differing, refused = 0, [], []
    for path in sorted((corpus / "files").glob("*.tif*")):
        expected = truth(path)
        if expected is None:
            continue
        try:
            got = found(path)
        except TiffrefError as error:
            refused.append(f"{path.name}: {error}")
            continue
        n_files += 1
        wrong = [key for key in expected if not is_same(key, got[key], expected[key])]
        if wrong:
            reason = next((why for end, why in KNOWN.items() if path.name.endswith(end)), "")
            values = "; ".join(f"{key}: {got[key]} != {expected[key]}" for key in wrong)
            differing.append(f"{path.name}: {reason or values}")
    with capsys.disabled():
        print(f"\n{n_files - len(differing)} of {n_files} GeoTIFFs as rasterio has them", end="")
        print(f", {len(refused)} refused", *differing, *refused, sep="\n  ")
    assert n_files > 100 or "TIFFREF_CORPUS" in os.environ
    assert len(differing) <= (1 - GOAL) * n_files
