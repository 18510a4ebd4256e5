"""`tiffref info` explains each codec: what it stands for, why, and who reads it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from microscopes import write_rgb_pyramid

import tiffref
from sequences import geo_tags
from tiffref.cli import main
from tiffref.model.array import Array

DATA = np.arange(64 * 48, dtype="u2").reshape(64, 48)


def told(path, capsys):
    assert main(["info", str(path)]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("how", "meaning", "readers"),
    [
        ({}, "none: no compression", "zarrita.js"),
        ({"compression": "zlib"}, "zlib: TIFF compression deflate (Adobe)", "GDAL"),
        (
            {"compression": "zlib", "predictor": True},
            "imagecodecs_delta + zlib: TIFF compression deflate (Adobe), horizontal predictor",
            "with imagecodecs-numcodecs installed",
        ),
        (
            {"bitspersample": 12, "rowsperstrip": 20},
            "tiffref_segment: no compression; samples are packed or have no NumPy dtype",
            "with tiffref installed",
        ),
    ],
)
def test_one_codec(tmp_path, capsys, how, meaning, readers):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, DATA, metadata=None, **how)
    text = told(path, capsys)
    assert f"{meaning} opens in " in text
    assert readers in text


def test_codecs_of_one_name_that_differ(tmp_path, capsys):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(DATA, bitspersample=12, metadata=None)
        # a strip with more than its rows: codecs of others take LZW that ends exactly
        strips = iter([imagecodecs.lzw_encode(DATA.tobytes())])
        tif.write(strips, shape=(32, 48), dtype=DATA.dtype, compression="lzw", metadata=None)
        tif.write(DATA[:16], metadata=None)
    text = told(path, capsys)
    assert "tiffref_segment of image: no compression; samples are packed" in text
    assert "tiffref_segment of image_s1: TIFF compression LZW; LZW segments may" in text
    assert "none: no compression opens" in text


def lines_of(path, capsys):
    assert main(["info", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in out.splitlines()
                if "  " in line.strip())  # fmt: skip


def test_info_shows_sizes_channels_and_magnification_first(tmp_path, capsys):
    path = tmp_path / "a.ome.tif"
    metadata = {
        "axes": "CYX",
        "PhysicalSizeX": 0.25,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 0.5,
        "PhysicalSizeYUnit": "µm",
        "TimeIncrement": 0.0,  # as Micro-Manager writes it; no reason to warn
        "Channel": {"Name": ["DAPI", "GFP"]},
    }
    tifffile.imwrite(path, np.stack([DATA, DATA]), ome=True, metadata=metadata,
                     photometric="minisblack")  # fmt: skip
    lines = lines_of(path, capsys)
    assert lines["pixel size"] == "0.25 x 0.5 micrometer"
    assert lines["extent"] == "12 x 32 micrometer"
    assert lines["c"] == "DAPI, GFP"
    assert not {"x", "y", "channels"} & set(lines)


def test_channels_without_names_are_not_listed(tmp_path, capsys):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.stack([DATA, DATA]), ome=True, metadata={"axes": "CYX"},
                     photometric="minisblack")  # fmt: skip
    assert not {"c", "channels"} & set(lines_of(path, capsys))


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of older rasterio's own
def test_info_of_a_georeferenced_file(tmp_path, capsys):
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("pyproj")
    profile = {"driver": "GTiff", "width": 48, "height": 64, "dtype": "uint8"}
    transform = rasterio.transform.from_origin(0, 64, 1, 1)
    # a system without parameters in CF: its name is in its WKT only
    with rasterio.open(tmp_path / "a.tif", "w", **profile, count=3, photometric="rgb", crs=3857,
                       transform=transform) as image:  # fmt: skip
        image.write(np.zeros((3, 64, 48), "u1"))
    lines = lines_of(tmp_path / "a.tif", capsys)
    assert lines["crs"] == "EPSG:3857 (WGS 84 / Pseudo-Mercator)"
    assert lines["pixel size"] == "1 x 1"
    assert lines["color_interpretation"] == "red, green, blue"
    assert "band" not in lines
    points = [rasterio.control.GroundControlPoint(n, n, n, n) for n in range(3)]
    with rasterio.open(tmp_path / "b.tif", "w", **profile, count=1, gcps=points, crs=4326) as image:
        image.write(np.zeros((1, 64, 48), "u1"))
    lines = lines_of(tmp_path / "b.tif", capsys)
    assert (lines["crs"], lines["control points"]) == ("EPSG:4326 (WGS 84)", "3")


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of older rasterio's own
def test_info_of_overviews_rotation_and_sensor_models(tmp_path, capsys):
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("pyproj")
    profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 1, "dtype": "uint8"}
    affine = rasterio.Affine.translation(500, 900) * rasterio.Affine.rotation(30)
    affine *= rasterio.Affine.scale(10, -20)
    with rasterio.open(tmp_path / "a.tif", "w", **profile, transform=affine, crs=32633) as image:
        image.write(np.zeros((1, 64, 64), "u1"))
    rpcs = [(50844, 12, 92, [1.0] * 92, True)]
    tifffile.imwrite(tmp_path / "b.tif", DATA, extratags=rpcs, metadata=None)
    lines = lines_of(tmp_path / "a.tif", capsys)
    assert (lines["pixel size"], lines["bounds"][:13]) == ("10 x 20", "x 500 to 1694")
    assert lines_of(tmp_path / "b.tif", capsys)["sensor model"] == "RPC"
    crs = "+proj=geos +h=35786023 +lon_0=-75 +sweep=x +ellps=GRS80"  # without a name
    with rasterio.open(tmp_path / "d.tif", "w", **profile, transform=affine, crs=crs) as image:
        image.write(np.zeros((1, 64, 64), "u1"))
    crs = lines_of(tmp_path / "d.tif", capsys)["crs"]
    assert crs == "unknown, Geostationary Satellite (Sweep X)"
    with tifffile.TiffWriter(tmp_path / "c.tif") as tif:  # levels share a grid mapping
        tif.write(DATA, subifds=1, extratags=geo_tags(5e5, 6e6), metadata=None)
        tif.write(DATA[::2, ::2], subfiletype=1, metadata=None)
    lines = lines_of(tmp_path / "c.tif", capsys)
    assert lines["bounds"] == "x 500000 to 500480, y 5999360 to 6000000"
    assert lines["pixel size"] == "10 x 10"


def test_info_lists_levels_codecs_and_readers(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "image.tif"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for words in (
        "image.tif",
        "y 96, x 64",
        "y_1 48, x_1 32",
        "uint16",
        "32 x 32",
        "zlib",
        "xarray",
    ):
        assert words in captured.out


def test_info_as_json(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "image.tif", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    (series,) = facts["series"]
    full, half = series["levels"]
    assert (full["path"], full["shape"], full["chunks"]) == ("image", [96, 64], [32, 32])
    assert (half["shape"], half["n_chunks"]) == ([48, 32], 2)
    assert full["codecs"][0]["ids"] == ["zlib"]
    assert facts["sources"][0]["size"] == image.stat().st_size


def test_info_wraps_sentences_and_spells_numbers(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.zeros((64, 64), np.float32)
    nodata = (42113, "s", 0, "nan", True)
    tifffile.imwrite(
        "sparse.tif", image, tile=(32, 32), compression="zlib", predictor=3, extratags=[nodata],
        metadata=None,
    )  # fmt: skip
    with tifffile.TiffFile("sparse.tif", mode="r+b") as tif:
        tif.pages[0].tags["TileByteCounts"].overwrite((0, 0, 0, 0))
        tif.pages[0].tags["TileOffsets"].overwrite((0, 0, 0, 0))
    assert main(["info", "sparse.tif"]) == 0
    out = capsys.readouterr().out
    assert "level 0: 4 of 4 chunks not stored" in out
    _, sentences = out.split("imagecodecs_floatpred + zlib: ")
    assert "\n    VirtualiZarr" in sentences
    assert max(map(len, sentences.splitlines())) <= 80
    assert main(["info", "sparse.tif", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert facts["meaning"]["nodata"] == "NaN"


def test_info_of_an_unsupported_file_gives_1(
    unsupported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "jbig.tif"]) == 1
    captured = capsys.readouterr()
    assert "JBIG" in captured.out + captured.err
    assert "Traceback" not in captured.err


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of older rasterio's own
def test_info_shows_location_and_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("pyproj")
    path = tmp_path / "LC08_L1TP_193024_20220505_20220511_02_T1_B4.TIF"
    transform = rasterio.transform.from_origin(500_000, 6_000_000, 30, 30)
    profile = {"driver": "GTiff", "width": 40, "height": 50, "count": 1, "dtype": "int16"}
    with rasterio.open(path, "w", **profile, crs=32633, transform=transform, nodata=-9999) as image:
        image.write(np.zeros((1, 50, 40), "int16"))
    assert main(["info", str(path)]) == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines() if line)
    assert lines["crs"] == "EPSG:32633 (WGS 84 / UTM zone 33N)"
    assert lines["bounds"] == "x 500000 to 501200, y 5998500 to 6000000"
    assert lines["nodata"] == "-9999"
    assert lines["time"].startswith("2022-05-05")


def test_info_shows_axes_and_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.ome.tif"
    metadata = {
        "axes": "CYX",
        "PhysicalSizeX": 0.25,
        "PhysicalSizeXUnit": "µm",
        "Channel": {"Name": ["DAPI", "GFP"]},
    }
    data = np.zeros((2, 40, 50), "u2")
    tifffile.imwrite(path, data, ome=True, metadata=metadata, photometric="minisblack")
    assert main(["info", "--json", str(path)]) == 0
    meaning = json.loads(capsys.readouterr().out)["meaning"]
    assert meaning["axes"]["x"]["step"] == 0.25
    assert meaning["axes"]["x"]["units"] == "micrometer"
    assert meaning["channels"] == ["DAPI", "GFP"]


def refs(name: str) -> dict:
    return json.loads(Path(name).read_text())["refs"]


def test_info_of_a_document(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["scan", "image.tif", "-o", "refs.json"])
    main(["stack", "scenes/S_{time:%Y%m%d}.tif", "-o", "cube.json"])
    capsys.readouterr()
    assert main(["info", "refs.json"]) == 0
    of_document = capsys.readouterr().out
    assert main(["info", "image.tif"]) == 0
    of_image = capsys.readouterr().out
    assert of_document.splitlines()[1:] == of_image.splitlines()[1:]
    assert main(["info", "cube.json"]) == 0
    assert "2 files" in capsys.readouterr().out
    assert main(["info", "cube.json", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["sources"]) == 2


def test_info_of_a_document_of_others(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = tiffref.scan("image.tif").to_kerchunk()
    document["refs"][".zattrs"] = "{}"
    Path("theirs.json").write_text(json.dumps(document))
    assert main(["info", "theirs.json"]) == 0
    out = capsys.readouterr().out
    assert "series 0, references" in out
    assert "uint16" in out


@pytest.mark.parametrize(
    ("attributes", "bounds"),
    [
        ({"GeoTransform": "0 1 0 0 0 -1"}, "x 0 to 48, y -64 to 0"),
        ({"GeoTransform": "0 1 0"}, None),
        ({"GeoTransform": [0, 1, 0, 0, 0, -1], "gcps": "{}"}, None),
        ({"GeoTransform": None, "gcps": "none", "crs_wkt": 3}, None),
    ],
)
def test_info_of_georeferences_of_others(tmp_path, capsys, attributes, bounds):
    tifffile.imwrite(tmp_path / "a.tif", DATA, metadata=None)
    references = tiffref.scan(tmp_path / "a.tif")
    names = {"grid_mapping": "spatial_ref", "channel_names": 3}
    image = references.group["image"].with_attributes(**names)
    variable = Array.from_values(np.int64(0), (), attributes)
    group = references.group.with_children({"image": image, "spatial_ref": variable})
    references = dataclasses.replace(references, group=group).with_attributes(**{"proj:code": 7})
    references.write_fsspec(tmp_path / "a.json")
    text = told(tmp_path / "a.json", capsys)
    assert "bounds" not in text if bounds is None else bounds in text


def test_info_of_a_catalog(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    assert main(["catalog", "build", "scenes", "-o", "archive", "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["info", "archive/"]) == 0
    assert "archive/: 2 files, 2 ok" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("compression", "codecs", "readers"),
    [
        (None, "transpose", "xarray, zarr and dask; VirtualiZarr; zarrita.js"),
        ("zstd", "transpose + zstd", "xarray, zarr and dask; VirtualiZarr; zarrita.js"),
        ("zlib", "transpose + zlib", "xarray, zarr and dask; VirtualiZarr; zarrita.js"),
        ("jpeg", "transpose + imagecodecs_jpeg",
         "xarray, zarr and dask with imagecodecs-zarr installed; VirtualiZarr with "
         "imagecodecs-zarr installed"),
    ],
)  # fmt: skip
def test_codecs_of_a_slide_in_zarr_v3(tmp_path, capsys, compression, codecs, readers):
    write_rgb_pyramid(tmp_path / "a.ome.tif", compression)
    references = tiffref.scan(tmp_path / "a.ome.tif")
    references.write_fsspec(tmp_path / "a.json", zarr_format=3)
    text = told(tmp_path / "a.json", capsys)
    assert re.search(rf" {re.escape(codecs)}: [\w ()]+ opens in {readers}$", text), text
    # in Zarr v2 nothing transposes but our own codec, and axes stay as they are stored
    references.write_fsspec(tmp_path / "b.json")
    assert "transpose" not in told(tmp_path / "b.json", capsys)


def test_bands_first_in_zarr_v3_is_read_by_gdal(tmp_path, capsys):
    data = np.zeros((32, 48, 3), "u1")
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", tile=(16, 16), metadata=None)
    references = tiffref.scan(tmp_path / "a.tif", axes="bands-first")
    references.write_fsspec(tmp_path / "a.json", zarr_format=3)
    text = told(tmp_path / "a.json", capsys)
    assert "opens in xarray, zarr and dask; GDAL 3.12; VirtualiZarr" in text
    assert "zarrita" not in text


@pytest.mark.parametrize(
    ("pattern", "names", "text"),
    [
        ("S_{time:%Y%m%d}.tif", ("S_20240131", "S_20240302"), "2024-01-31 to 2024-03-02, 2 values"),
        ("S_{time:%Y%m%d%H}.tif", ("S_2024013100", "S_2024013106"),
         "2024-01-31T00:00:00+00:00 to 2024-01-31T06:00:00+00:00, 2 values"),
    ],
)  # fmt: skip
def test_times_of_a_stack(tmp_path, capsys, pattern, names, text):
    for name in names:
        tifffile.imwrite(tmp_path / f"{name}.tif", DATA, metadata=None)
    tiffref.scan_sequence(str(tmp_path / pattern)).write_fsspec(tmp_path / "a.json")
    assert text in told(tmp_path / "a.json", capsys)
