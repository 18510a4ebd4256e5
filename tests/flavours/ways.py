"""Four ways to the pixels of a file's references, compared with the values written."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from samples import rng

import tiffref
import zarr
from tiffref.zarr import ZarrTiffStore


def scan(path: Path) -> tiffref.References:
    """Scan a file where it is, and from afar: both must say the same."""
    fsspec = pytest.importorskip("fsspec")
    references = tiffref.scan(path)
    fsspec.filesystem("memory").pipe(f"/flavours/{path.name}", path.read_bytes())
    from_afar = tiffref.scan(f"memory://flavours/{path.name}")
    here, there = (dict(one.group.arrays()) for one in (references, from_afar))
    assert {name: _told(array) for name, array in here.items()} == {
        name: _told(array) for name, array in there.items()
    }
    store = ZarrTiffStore(from_afar)
    np.testing.assert_array_equal(store[...], ZarrTiffStore(references)[...])
    return references


def _told(array: Any) -> tuple[Any, ...]:
    return array.shape, array.dims, array.dtype, array.attributes


def pixels(*shape: int, dtype: str = "u2") -> np.ndarray:
    """Return samples, none of them 0."""
    return rng.integers(1, 250, shape).astype(dtype)


def kinds(references: tiffref.References) -> list[str]:
    """Return the kind of each series."""
    return [series["kind"] for series in references.series]


def channel_names(references: tiffref.References, path: str = "image") -> list[str] | None:
    """Return the names of channels that an image's attributes have."""
    return references.group[path].attributes.get("channel_names")


def UM(size: float) -> tuple[Any, str]:
    """Return a size in micrometres, about."""
    return pytest.approx(size), "micrometer"


def read_ways(references: tiffref.References) -> dict[str, Mapping[str, Any]]:
    """Open references as v2 and v3 document in zarr, as store, and with xarray: by array's path."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("kerchunk")
    ways: dict[str, Mapping[str, Any]] = {}
    # OME-NGFF 0.5 has a group for each level; the axes stay as tifffile has them
    stored = dataclasses.replace(references, axes="as-stored")
    moved = stored.laid_out(3).series
    for zarr_format in (2, 3):
        options = {
            "fo": stored.to_kerchunk(zarr_format=zarr_format), "remote_protocol": "file",
            "asynchronous": True, "remote_options": {"asynchronous": True},
        }  # fmt: skip
        group = zarr.open_group(
            "reference://", mode="r", storage_options=options, zarr_format=zarr_format
        )
        ways[f"v{zarr_format} in zarr"] = {
            before["path"]: group[before["path"] if zarr_format == 2 else after["path"]]
            for old, new in zip(references.series, moved, strict=True)
            for before, after in zip(old["levels"], new["levels"], strict=True)
            if "path" in before
        }
    arrays = dict(references.group.arrays())
    ways["store[...]"] = {
        path: ZarrTiffStore(tiffref.References(references.group.with_children({path: array})))
        for path, array in arrays.items()
    }
    ways["xarray"] = xarray.open_dataset(
        references.to_kerchunk(), engine="kerchunk", mask_and_scale=False, decode_times=False,
        storage_options={"remote_protocol": "file"},
    )  # fmt: skip
    return ways


def assert_pixels(
    references: tiffref.References, expected: Mapping[str, np.ndarray], part: Any = ...
) -> None:
    """Compare arrays by path, in every way, all of them or a part."""
    for way, arrays in read_ways(references).items():
        for path, values in expected.items():
            got = np.asarray(arrays[path][part])
            assert got.dtype.newbyteorder("=") == values.dtype, (way, path)
            np.testing.assert_array_equal(got, values, err_msg=f"{path}, {way}")


def assert_like_tifffile(path: Path, references: tiffref.References) -> None:
    """Compare all levels that the references have with what tifffile reads."""
    expected = {}
    with warnings.catch_warnings(), tifffile.TiffFile(path) as tif:
        for series in references.series:
            for n, level in enumerate(series["levels"]):
                if "path" in level:
                    expected[level["path"]] = tif.asarray(series=series["index"], level=n)
    assert_pixels(references, expected)


def scales_of(references: tiffref.References, path: str = "image") -> dict[str, tuple[float, str]]:
    """Distance between neighbours along each dimension that has coordinates, and their unit."""
    found = {}
    for dim in references.group[path].dims:
        array = references.group.children.get(dim)
        if array is not None and array.dtype.kind == "f" and array.shape[0] > 1:
            values = ZarrTiffStore(
                tiffref.References(references.group.with_children({dim: array}))
            )[...]
            found[dim] = (float(values[1] - values[0]), array.attributes.get("units", ""))
    return found
