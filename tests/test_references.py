from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from groups import assert_same, make_flat, make_group

from tiffref.errors import InvalidReferences, MetadataWarning, SelectionError, SourceError
from tiffref.model.array import Array, Group
from tiffref.references import References, level_paths, select_levels

SERIES = (
    {
        "index": 0,
        "kind": "generic",
        "name": "",
        "axes": "YX",
        "levels": [{"path": "image"}, {"refused": "UnsupportedTiff: too odd"}],
    },
)


@pytest.fixture
def references(tmp_path: Path) -> References:
    return References(make_group(tmp_path), SERIES)


def test_sources_are_listed_once(references: References, tmp_path: Path) -> None:
    assert [source.url for source in references.sources] == [
        str(tmp_path / "a.bin"),
        str(tmp_path / "b.bin"),
    ]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("version", [0, 1])
def test_round_trip(references: References, zarr_format: int, version: int) -> None:
    document = references.to_kerchunk(zarr_format, version)
    again = References.from_kerchunk(document)
    assert_same(again.group, references.group)
    assert again.sources == references.sources
    assert tuple(again.series) == SERIES
    assert again.to_kerchunk(zarr_format, version) == document


def test_provenance_names_the_addresses_of_the_document(references: References) -> None:
    document = references.to_kerchunk(url="s3://bucket/folder")
    assert document["refs"]["image/0.0"][0] == "s3://bucket/folder/a.bin"
    provenance = json.loads(json.loads(document["refs"][".zattrs"])["tiffref"])
    sources = {"prefix": "s3://bucket/folder/", "url": ["a.bin", "b.bin"], "size": [136, 136]}
    assert provenance["sources"] == sources
    assert provenance["series"] == list(SERIES)


def test_time_and_etag_are_of_the_file_that_was_scanned(references: References) -> None:
    folder = f"file://{Path(references.sources[0].url).parent}/"
    for document in (references.to_kerchunk(), references.to_kerchunk(url=folder)):
        provenance = json.loads(json.loads(document["refs"][".zattrs"])["tiffref"])
        assert provenance["sources"] == {
            "prefix": folder,
            "url": ["a.bin", "b.bin"],
            "size": [136, 136],
            "mtime": [1.5e9, 1.5e9],
            "etag": ["tag-a.bin", "tag-b.bin"],
        }


def test_write_fsspec_writes_the_document_of_to_kerchunk(
    references: References, tmp_path: Path
) -> None:
    options = {"groupname": "g/h", "templatename": "u", "zarr_format": 3, "version": 1}
    references.write_fsspec(tmp_path / "refs.json", "https://host/x", **options)
    document = json.loads((tmp_path / "refs.json").read_text())
    assert document == references.to_kerchunk(3, 1, "https://host/x", groupname="g/h",
                                              templatename="u")  # fmt: skip
    assert document["templates"] == {"u": "https://host/x/"}
    assert document["refs"]["g/h/image/c/0/0"][0] == "{{u}}a.bin"
    again = References.from_kerchunk(tmp_path / "refs.json")
    assert again.series[0]["levels"][0] == {"path": "g/h/image"}
    assert again.series[0]["levels"][1] == SERIES[0]["levels"][1]
    assert again.group["g/h/image"].manifest.sources[0].url == "https://host/x/a.bin"


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", ["../g", "g/./h", "g//h", "g\\h", "g\0", 3])
def test_groupnames_that_no_reader_accepts(
    references: References, name: Any, zarr_format: int, version: int
) -> None:
    with pytest.raises(SelectionError, match="groupname"):
        references.to_kerchunk(zarr_format, version, groupname=name)
    for root in (None, "", "/"):
        document = references.to_kerchunk(zarr_format, version, groupname=root)
        assert document == references.to_kerchunk(zarr_format, version)


@pytest.mark.parametrize("name", ["refs.json", "refs.JSON", "refs.tif"])
def test_to_parquet_refuses_names_of_other_formats(
    references: References, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InvalidReferences, match=r"are parquet, not a .*Name them .*refs\.parq\."):
        references.to_parquet(tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["refs.parq", "refs.Parquet", "held"])
def test_write_fsspec_writes_parquet_as_the_program_does(
    references: References, tmp_path: Path, name: str
) -> None:
    pytest.importorskip("pyarrow")
    if name == "held":  # the name says nothing: what is there does
        References(make_flat(1, 1)).to_parquet(tmp_path / name)
    with pytest.raises(InvalidReferences, match="only Zarr v2"):
        references.write_fsspec(tmp_path / name, zarr_format=3)
    references.write_fsspec(tmp_path / name, "https://host/x", groupname="g")
    again = References.from_parquet(tmp_path / name)
    assert again.to_kerchunk() == references.to_kerchunk(url="https://host/x", groupname="g")


def test_arguments_as_tifffile_has_them(references: References) -> None:
    file = io.StringIO()
    references.write_fsspec(file, "http://host", groupname=None, templatename=None,
                            zarr_format=None, version=None)  # fmt: skip
    assert json.loads(file.getvalue()) == references.to_kerchunk(url="http://host")


def test_a_template_of_one_file() -> None:
    document = References(make_flat(2, 2)).to_kerchunk(url="s3://b", templatename="u")
    assert document["templates"] == {"u": "s3://b/"}
    assert document["refs"]["image/0.0"][0] == "{{u}}image_000000.tif"


def test_no_provenance_is_written_without_sources() -> None:
    document = References(make_flat(1, 1)).to_kerchunk()
    del document["refs"][".zattrs"]
    again = References.from_kerchunk(document)
    assert again.series == ()
    assert again.sources[0].size is None


def test_provenance_of_another_version_is_ignored() -> None:
    document = References(make_flat(1, 1)).to_kerchunk()
    document["refs"][".zattrs"] = json.dumps({"tiffref": '{"version": 99}', "a": 1})
    with pytest.warns(MetadataWarning, match=r"unknown version.* are not noticed"):
        again = References.from_kerchunk(document)
    assert again.group.attributes == {"a": 1}
    assert again.series == ()


@pytest.mark.parametrize("value", [b"refs.json", 7, None, 1.5, ["refs.json"], object()])
def test_what_is_no_path_and_no_document(value: Any) -> None:
    readers = (References.open, References.from_kerchunk, References.from_parquet)
    for read in readers:
        with pytest.raises(InvalidReferences, match="cannot open"):
            read(value)
    for write in (References(make_flat(1, 1)).write_fsspec, References(make_flat(1, 1)).to_parquet):
        with pytest.raises(SelectionError, match="not a path or URL"):
            write(value)


def test_bad_documents(tmp_path: Path) -> None:
    with pytest.raises(InvalidReferences, match="no arrays and no groups"):
        References.from_kerchunk({})
    with pytest.raises(SourceError):
        References.from_kerchunk(tmp_path / "none.json")


def test_dropping_levels_drops_their_coordinates(tmp_path: Path) -> None:
    group = make_group(tmp_path)
    image = next(one for _, one in group.arrays() if one.manifest.sources and one.shape)

    def named(suffix: str) -> dict[str, Array | Group]:
        dims = tuple(f"{dim}{suffix}" for dim in image.dims)
        axis = Array.from_values(np.arange(image.shape[-1]), dims[-1:])
        return {f"image{suffix}": image.as_variable(dims, {}), dims[-1]: axis}

    attributes = {"title": "all"}
    root = Group({**named(""), "1": Group(named("_1"), attributes)}, attributes)
    levels = [{"path": "image"}, {"path": "1/image_1"}]
    references = References(root, ({"index": 0, "levels": levels},), ("/data/",), "ngff")
    last = image.dims[-1]
    for level, kept in ((0, {"image", last}), (1, {"1/image_1", f"1/{last}_1"})):
        for index in (level, level - 2):
            chosen = select_levels(references, None, index)
            assert {path for path, _ in chosen.group.arrays()} == kept
            assert level_paths(chosen.series) == [levels[level]["path"]]
            assert (chosen.allow, chosen.axes) == (references.allow, references.axes)
            assert all(one.attributes == attributes for _, one in chosen.group.walk()
                       if isinstance(one, Group))  # fmt: skip
    assert select_levels(references, 0, None).group.children.keys() == root.children.keys()
    with pytest.raises(SelectionError, match="level 2 does not exist"):
        select_levels(references, 0, 2)
    with pytest.raises(SelectionError, match="series 'x' does not exist"):
        select_levels(references, "x", None)  # type: ignore[arg-type]
    with pytest.raises(InvalidReferences, match="does not record which arrays"):
        select_levels(References(root), 0, None)
