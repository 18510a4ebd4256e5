"""What may stand for many files."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile

import tiffref
import tiffref.catalog
from sequences import pixels, read, write
from tiffref.errors import (
    MetadataWarning,
    MissingSource,
    SelectionError,
    SourceError,
)
from tiffref.sequences.inputs import _from_stac, list_files, natural_key
from tiffref.zarr import ZarrTiffStore


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write eleven files into an archive; each holds its number."""
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("a.zip", "w") as file:
        for n in range(11):
            tifffile.imwrite("one.tif", np.full((4, 5), n, np.uint8), metadata=None)
            file.write("one.tif", f"t{n}.tif")
    return tmp_path / "a.zip"


@pytest.mark.parametrize(
    ("before", "after"),
    [("", "::{archive}"), ("", "::file://{archive}"), ("simplecache::", "::{archive}")],
)
def test_globs_in_chains_keep_the_chain(before: str, after: str, archive: Path) -> None:
    after = after.format(archive=archive)
    found = list_files(f"{before}zip://t*.tif{after}")
    assert found.urls == [f"{before}zip://t{n}.tif{after}" for n in range(11)]
    stack = tiffref.imread(f"{before}zip://t*.tif{after}", aszarr=True)
    assert stack[:, 0, 0].tolist() == list(range(11))


@pytest.mark.parametrize(
    ("name", "zarr_format"), [("refs.json", 2), ("refs.json", 3), ("refs.parq", 2)]
)
def test_an_archive_that_is_published_elsewhere(name: str, zarr_format: Any, archive: Path) -> None:
    """The names inside the archive stay: the bytes of the archive itself are no pixels."""
    stack = tiffref.scan_sequence(f"zip://t*.tif::{archive}")
    folder = archive.parent / "new"
    folder.mkdir()
    with pytest.warns(MetadataWarning, match="is inside another file"):
        stack.write_fsspec(name, url=f"file://{folder}", zarr_format=zarr_format)
    archive.rename(folder / "a.zip")
    with ZarrTiffStore(name, allow="*") as store:
        assert store[:, 0, 0].tolist() == list(range(11))


@pytest.mark.parametrize("pattern", ["t1.tif", "t*.tif"])
def test_a_catalog_of_an_archive_that_is_published_elsewhere(pattern: str, archive: Path) -> None:
    pytest.importorskip("pyarrow")
    tiffref.catalog.build(f"zip://{pattern}::{archive}", "c", url_prefix="s3://bucket")
    documents = [*Path("c/references").rglob("*.json")]
    assert len(documents) == (1 if pattern == "t1.tif" else 11)
    for path in documents:
        ((name, *_),) = [
            v for v in json.loads(path.read_text())["refs"].values() if type(v) is list
        ]
        assert name == f"zip://{path.name.partition('%3A')[0]}::s3://bucket/a.zip"


def test_patterns_in_chains_find_files_and_name_places(archive: Path) -> None:
    stack = tiffref.scan_sequence(f"zip://t{{time:d}}.tif::{archive}")
    assert stack.group["image"].dims == ("time", "y", "x")
    assert stack.group["image"].shape == (11, 4, 5)


@pytest.mark.parametrize("name", ["https://host/a.tif?key=a*b", "a[1].tif", "a{b}.tif"])
def test_names_of_single_files_are_no_patterns(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "://" not in name:
        Path(name).touch()
    assert list_files(name).urls == [name]


def test_globs_among_other_names_find_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a2.tif", "a10.tif", "b[1].tif", "c.tif"):
        Path(name).touch()
    assert list_files(["c.tif", "a*.tif", "b[1].tif"]).urls == [
        "c.tif", "a2.tif", "a10.tif", "b[1].tif",
    ]  # fmt: skip


def test_inputs_that_are_not_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=rf"{tmp_path}/: is a folder without TIFF files"):
        list_files(f"{tmp_path}/")
    with pytest.raises(
        SelectionError, match="a pattern with fields cannot be combined with other files, got t_"
    ):
        list_files(["a.tif", "t_{time}.tif"])


@pytest.mark.parametrize("name", ["a::b.tif", "zip::c.tif"])
def test_local_names_may_look_like_chains(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = np.arange(20, dtype=np.uint8).reshape(4, 5)
    tifffile.imwrite(name, image, metadata=None)
    for where in (name, tmp_path / name):
        np.testing.assert_array_equal(tiffref.imread(where, aszarr=True)[:], image)
    assert tiffref.imread("*.tif", aszarr=True).shape == (4, 5)
    assert tiffref.zarr.ZarrFileSequenceStore("*.tif").shape == (1, 4, 5)
    tiffref.scan(name).write_fsspec("refs.json")
    again = tiffref.zarr.ZarrTiffStore("refs.json")
    np.testing.assert_array_equal(again[:], image)


def test_names_are_ordered_as_people_do() -> None:
    times = ["a99999999999999999999", "a100000000000000000000"]  # of more digits than 64 bits hold
    ordered = ["a", "a0-", "a01", "a1", "a1b", "a9", "a10", "a10-2", "a10-11", "a10b", *times, "a-"]
    assert sorted(set(ordered), key=natural_key) == ordered


def make_item(**asset: Any) -> dict[str, Any]:
    return {"type": "Feature", "properties": {"datetime": "2022-01-01"}, "assets": {"a": asset}}


@pytest.mark.parametrize(
    "document",
    [
        make_item(type="image/tiff"),
        make_item(href=5, type="image/tiff"),
        make_item(href="x.tif", roles=5),
        {"type": "Feature", "assets": [1]},
        {"type": "Feature", "properties": "no", "assets": {}},
        {"type": "FeatureCollection", "features": [3]},
    ],
)
def test_mappings_that_are_not_stac_items(tmp_path: Path, document: Any) -> None:
    (tmp_path / "items.json").write_text(json.dumps(document))
    with pytest.raises(SourceError, match="not a STAC item"):
        list_files(tmp_path / "items.json")


BANDS = {
    "1.0": {"raster:bands": [{"scale": 0.5, "offset": -1, "nodata": 0, "unit": "m"}]},
    "1.1": {
        "bands": [{"name": "a", "raster:scale": 0.5, "raster:offset": -1, "nodata": 0, "unit": "m"}]
    },
    "of the asset": {"raster:scale": 0.5, "raster:offset": -1, "nodata": "0", "unit": "m"},
    "both": {
        "raster:bands": [{"nodata": 0, "unit": "m"}],
        "bands": [{"name": "a", "raster:scale": 0.5, "raster:offset": -1}],
    },
    "of the item": {},
}
OF_ITEM = {"raster:scale": 0.5, "raster:offset": -1, "nodata": 0, "unit": "m"}


def stac_items(folder: Path, asset: dict, **tags: Any) -> list[dict]:
    items = []
    for day in range(2):
        path = folder / f"{day}.tif"
        tifffile.imwrite(path, np.array([[0, 7]], "u2"), metadata=None, **tags)
        own = {**asset, "href": str(path), "type": "image/tiff"}
        items.append(
            {
                "type": "Feature",
                "properties": {"datetime": f"2024-01-0{day + 1}"},
                "assets": {"a": own},
            }
        )
    return items


@pytest.mark.parametrize("version", BANDS)
@pytest.mark.parametrize("byteorder", "<>")
def test_band_metadata_of_stac(tmp_path: Path, version: str, byteorder: str) -> None:
    items = stac_items(tmp_path, BANDS[version], byteorder=byteorder)
    for item in items if version == "of the item" else ():
        item["properties"] |= OF_ITEM
    (tmp_path / "items.json").write_text(
        json.dumps({"type": "FeatureCollection", "features": items})
    )
    for source in (items, tmp_path / "items.json"):
        image = tiffref.scan_sequence(source).group["image"]
        assert (image.attributes["scale_factor"], image.attributes["add_offset"]) == (0.5, -1.0)
        assert (image.fill_value, image.attributes["units"]) == (0, "m")
    # what is added later says the same
    first = tiffref.scan_sequence(items[:1])
    both = tiffref.append_sequence(first, items).group["image"]
    assert (both.shape, both.attributes["scale_factor"], both.fill_value) == ((2, 1, 2), 0.5, 0)


@pytest.mark.parametrize("catalog", ["earthsearch", "sentinel"])
@pytest.mark.parametrize("is_applied", [True, False])
def test_offset_of_stac_that_the_file_includes(
    tmp_path: Path, catalog: str, is_applied: bool
) -> None:
    """Earth Search repeats the offset of Sentinel-2 in items of files that include it."""
    items = stac_items(tmp_path, BANDS["1.0"])
    for item in items:
        item["properties"][f"{catalog}:boa_offset_applied"] = is_applied
    attributes = tiffref.scan_sequence(items).group["image"].attributes
    packing = attributes.get("scale_factor"), attributes.get("add_offset", 0)
    assert packing == (0.5, 0 if is_applied else -1)


def test_addresses_of_stac_assets() -> None:
    hrefs = [
        "https://h/a.TIF?sig=S",
        "b",
        "../10:20.tiff",
        "/d.tif",
        "https://h/e.tif;jsessionid=S",
    ]
    assets = {str(n): {"href": href} for n, href in enumerate([*hrefs, "https://h/c?name=c.tif"])}
    assets["1"]["type"] = "image/GeoTIFF"
    item = {"properties": {"datetime": "2024-01-01"}, "assets": assets}
    for folder, parent, root in (
        ("https://host/x/y", "https://host/x", "https://host"),
        ("s3://bucket/x/y", "s3://bucket/x", "s3://bucket"),
        ("/data/y", "/data/y/..", ""),
    ):
        urls = [hrefs[0], f"{folder}/b", f"{parent}/10:20.tiff", f"{root}/d.tif", hrefs[4]]
        assert _from_stac([(item, folder)], None).urls == urls


@pytest.mark.parametrize("as_list", [False, True])
def test_several_files_of_stac_items(tmp_path: Path, as_list: bool) -> None:
    """Relative addresses are those of each file."""
    names = []
    for n in range(3):
        (tmp_path / f"s{n}").mkdir()
        tifffile.imwrite(tmp_path / f"s{n}" / "a.tif", np.full((2, 3), n, "u1"))
        time = {"datetime": f"2024-01-0{3 - n}T00:00:00Z"}
        item = {"type": "Feature", "properties": time, "assets": {"a": {"href": "a.tif"}}}
        names.append(tmp_path / f"s{n}" / "item.json")
        items = {"type": "FeatureCollection", "features": [item]}
        names[n].write_text(json.dumps(items if n else item))
    files = names if as_list else f"{tmp_path}/s*/item.json"
    references = tiffref.scan_sequence(files)
    assert ZarrTiffStore(references)[:, 0, 0].tolist() == [2, 1, 0]
    with pytest.raises(SourceError, match="no files"):
        list_files(f"{tmp_path}/*.json")


def test_band_metadata_of_the_file_wins(tmp_path: Path) -> None:
    for role, value, expected in (
        ("scale", "3", [3.0, None, "m"]),
        ("unittype", "K", [0.5, -1, "K"]),
    ):
        item = f'<Item name="{role.upper()}" sample="0" role="{role}">{value}</Item>'
        tags = {42112: f"<GDALMetadata>{item}</GDALMetadata>", 42113: "7"}
        own = [(code, 2, 0, text, True) for code, text in tags.items()]
        items = stac_items(tmp_path, BANDS["1.0"], extratags=own)
        image = tiffref.scan_sequence(items).group["image"]
        names = ("scale_factor", "add_offset", "units")
        assert [image.attributes.get(name) for name in names] == expected
        assert image.fill_value == 7


@pytest.mark.parametrize("nodata", [1e10, 10**10, "10000000000", 2.0**62])
@pytest.mark.parametrize("byteorder", "<>")
def test_nodata_of_stac_in_64_bits(tmp_path: Path, nodata: Any, byteorder: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((2, 2), "i8"), metadata=None, byteorder=byteorder)
    band = {"raster:bands": [{"nodata": nodata}], "href": str(tmp_path / "a.tif")}
    item = {"type": "Feature", "properties": {"datetime": "2024-01-01"}, "assets": {"a": band}}
    image = tiffref.scan_sequence([item]).group["image"]
    assert image.fill_value == int(nodata)


@pytest.mark.parametrize("unit", [None, "K"])
def test_units_of_stac_that_differ_are_left_out(tmp_path: Path, unit: str | None) -> None:
    items = stac_items(tmp_path, BANDS["1.0"])
    asset = items[1]["assets"]["a"]
    asset["raster:bands"] = [{**asset["raster:bands"][0], "unit": unit}]
    image = tiffref.scan_sequence(items).group["image"]
    assert (image.shape, image.attributes["scale_factor"]) == ((2, 1, 2), 0.5)
    assert "units" not in image.attributes


def test_invalid_band_metadata_is_reported(tmp_path: Path) -> None:
    items = stac_items(tmp_path, {"raster:bands": [{"scale": 0}]})
    with pytest.warns(MetadataWarning, match="is not valid"):
        assert "scale_factor" not in tiffref.scan_sequence(items).group["image"].attributes
    items = stac_items(tmp_path, {"raster:bands": [{"scale": 2}, {"scale": 3}]})
    with pytest.warns(MetadataWarning, match="2 bands, expected 1"):
        assert "scale_factor" not in tiffref.scan_sequence(items).group["image"].attributes
    items = stac_items(tmp_path, {"raster:bands": [{}, {}]})
    assert "scale_factor" not in tiffref.scan_sequence(items).group["image"].attributes
    assert not tiffref.scan_sequence(stac_items(tmp_path, {})).group["image"].attributes.keys() & {
        "scale_factor"
    }


def test_a_catalog_has_the_band_metadata_of_stac(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    tiffref.catalog.build(stac_items(tmp_path, BANDS["1.1"]), tmp_path / "c")
    for path in (tmp_path / "c" / "references").iterdir():
        image = tiffref.References.open(path).group["image"]
        assert (image.attributes["scale_factor"], image.fill_value) == (0.5, 0)


def test_ragged_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "files.csv").write_text("url,t\na.tif,1\nb,c.tif,2\n")
    with pytest.raises(SelectionError, match="row 2 of the table has more cells"):
        list_files(tmp_path / "files.csv")
    with pytest.raises(SelectionError, match="differ in length"):
        list_files({"url": ["a.tif", "b.tif"], "t": [1]})


def test_lists_and_tables_of_a_sequence(tmp_path: Path) -> None:
    from tiffref.sequences.inputs import list_files

    (tmp_path / "list.txt").write_text("# a comment\na.tif\n\n  /b.tif\ns3://c/d.tif\n./e.tif\n")
    assert list_files(tmp_path / "list.txt").urls == [
        f"{tmp_path}/a.tif", "/b.tif", "s3://c/d.tif", f"{tmp_path}/e.tif",
    ]  # fmt: skip
    for text in ("{}", "[1]", "no JSON"):
        (tmp_path / "refs.json").write_text(text)
        with pytest.raises(SourceError, match=r"refs\.json: (contains no STAC|cannot be read)"):
            list_files(tmp_path / "refs.json")
    (tmp_path / "bad.parquet").write_bytes(b"PAR0")
    with pytest.raises(SourceError, match="cannot be read"):
        list_files(tmp_path / "bad.parquet")


def test_stac_items(tmp_path):
    items = []
    for n in range(2):
        for band in ("red", "nir"):
            write(tmp_path / f"{n}_{band}.tif", pixels(n + 10 * len(band)))
        kinds = "image/tiff; application=geotiff"
        assets = {
            b: {"href": str(tmp_path / f"{n}_{b}.tif"), "type": kinds} for b in ("red", "nir")
        }
        assets["thumb"] = {"href": "t.png", "type": "image/png"}
        items.append({
            "type": "Feature", "assets": assets,
            "properties": {"datetime": f"2022-05-1{n}T10:00:00.5Z"},
        })  # fmt: skip
    references = tiffref.scan_sequence(items)
    assert references.group["image"].dims == ("time", "band", "y", "x")
    assert references.group["time"].attributes["units"] == "milliseconds since 1970-01-01"
    np.testing.assert_array_equal(read(references)[1, 0], pixels(31))
    (tmp_path / "items.json").write_text(
        json.dumps({"type": "FeatureCollection", "features": items})
    )
    again = tiffref.scan_sequence(tmp_path / "items.json", assets=["red"])
    assert again.group["image"].dims == ("time", "y", "x")


def test_a_file_sequence_of_tifffile(tmp_path):
    for n in (3, 4):
        write(tmp_path / f"a_t{n}.tif", pixels(n))
    sequence = tifffile.TiffSequence(
        [str(tmp_path / f"a_t{n}.tif") for n in (4, 3)], pattern=r"_(t)(\d)"
    )
    references = tiffref.scan_sequence(sequence)
    assert references.group["image"].dims == ("t", "y", "x")
    np.testing.assert_array_equal(read(references), np.stack([pixels(3), pixels(4)]))


def test_a_glob_of_urls():
    fs = fsspec.filesystem("memory")
    for n in range(3):
        with fs.open(f"/seq/t_{n}.tif", "wb") as file:
            tifffile.imwrite(file, pixels(n), tile=(16, 16), compression="zlib", metadata=None)
    references = tiffref.scan_sequence("memory://seq/t_{t}.tif")
    np.testing.assert_array_equal(read(references), np.stack([pixels(n) for n in range(3)]))


@pytest.mark.parametrize("files", [[], "nothing_*.tif", "nothing_{t}.tif", "memory://no/*.tif"])
def test_no_files(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingSource if files else SourceError, match="no files"):
        tiffref.scan_sequence(files)


@pytest.mark.parametrize("pattern", ["nothing_*.tif", "memory://no/*.tif"])
def test_a_glob_without_files_among_others_is_not_ignored(pattern, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("a.tif", pixels(0))
    with pytest.raises(MissingSource, match="no files"):
        tiffref.scan_sequence(["a.tif", pattern])
