from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import sys
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from groups import VALUES, assert_same, from_kerchunk, make_flat, make_group, make_image

import zarr
from tiffref.errors import InvalidReferences, MissingSource, SourceError
from tiffref.formats import kerchunk
from tiffref.formats.kerchunk import to_kerchunk, write_json
from tiffref.formats.keys import BLOCK_ROWS
from tiffref.io import atomic
from tiffref.io.urls import plan_prefix
from tiffref.model.array import Array, Group
from tiffref.model.codec import ForeignCodec
from tiffref.model.manifest import MISSING, Manifest, Source
from tiffref.references import References

FORMATS = [(2, 0), (2, 1), (3, 0), (3, 1)]

pytestmark = [
    # what zarr says of v3 data types without a specification is not ours to mend
    pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification.*"),
]


def expand(array: Array) -> np.ndarray:
    """Return what `make_image` reads as."""
    values = VALUES.copy()
    for flat in np.flatnonzero(array.manifest.source == MISSING).tolist():
        row, column = divmod(flat, 2)
        values[row * 4 : row * 4 + 4, column * 5 : column * 5 + 5] = array.fill_value or 0
    return values


# ---- the document


def test_document_opens_everywhere_by_its_form(tmp_path: Path) -> None:
    write_json(make_group(tmp_path), tmp_path / "refs.json")
    text = (tmp_path / "refs.json").read_text()
    squeezed = text.replace(" ", "").replace("\n", "")
    assert squeezed.startswith('{"version":1,"refs":{".zgroup":"')  # what GDAL looks for
    document = json.loads(text)
    assert list(document) == ["version", "refs"]
    for key, value in document["refs"].items():
        if key.rpartition("/")[2].startswith(".z"):
            assert isinstance(json.loads(value), dict)
        elif not isinstance(value, str):
            url, offset, length = value
            assert url.startswith("file:///")
            assert (type(offset), type(length)) == (int, int)


@pytest.mark.parametrize(("zarr_format", "version"), FORMATS)
def test_file_and_dictionary_agree(tmp_path: Path, zarr_format: int, version: int) -> None:
    group = make_group(tmp_path, missing=(3,), fill_value=9)
    options = {"zarr_format": zarr_format, "version": version}
    write_json(group, tmp_path / "refs.json", **options)
    assert json.loads((tmp_path / "refs.json").read_text()) == to_kerchunk(group, **options)


@pytest.mark.parametrize(("zarr_format", "version"), FORMATS)
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_round_trip(tmp_path: Path, zarr_format: int, version: int, byteorder: str) -> None:
    group = make_group(tmp_path, missing=(0, 3), byteorder=byteorder, fill_value=9)
    document = to_kerchunk(group, zarr_format=zarr_format, version=version)
    assert_same(group, from_kerchunk(document))
    assert_same(group, from_kerchunk(json.loads(json.dumps(document))))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("fill", [None, 0, 5])
def test_fill_value_and_none_are_distinguished(
    tmp_path: Path, zarr_format: int, fill: object
) -> None:
    group = Group({"image": make_image(tmp_path, fill_value=fill)})
    again = from_kerchunk(to_kerchunk(group, zarr_format=zarr_format))
    assert again["image"].fill_value == fill


@pytest.mark.parametrize("n_sources", [1, 7, 3000])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_round_trip_over_several_blocks(tmp_path: Path, n_sources: int, zarr_format: int) -> None:
    group = make_flat(300, 311, n_sources)
    assert group["image"].manifest.n_chunks > BLOCK_ROWS
    write_json(group, tmp_path / "refs.json", zarr_format=zarr_format)
    assert_same(group, from_kerchunk(tmp_path / "refs.json"))


def test_whole_files_and_inlined_chunks() -> None:
    sources = [Source("s3://bucket/0.tif"), Source("s3://bucket/1.tif")]
    manifest = Manifest((4,), tuple(sources), np.array([0, 1, -2, -2], np.int32),
                        np.zeros(4, np.uint64), np.array([0, 12, 0, 0], np.uint64),
                        {2: b"printable", 3: b"base64:"})  # fmt: skip
    flat = make_flat(2, 2)["image"]
    image = Array((8,), (2,), np.dtype("u1"), ("x",), flat.codecs, manifest)
    document = to_kerchunk(Group({"image": image}))
    assert document["refs"]["image/0"] == ["s3://bucket/0.tif"]
    assert document["refs"]["image/1"] == ["s3://bucket/1.tif", 0, 12]
    assert document["refs"]["image/2"] == "printable"
    assert base64.b64decode(document["refs"]["image/3"].removeprefix("base64:")) == b"base64:"
    assert from_kerchunk(document)["image"].manifest == manifest


def test_strange_names_survive(tmp_path: Path) -> None:
    names = [
        'a "b".tif',
        "back\\slash.tif",
        "é ü.tif",
        "tab\t.tif",
        "{{u}}.tif",
        "%20.tif",
        "#1.tif",
    ]
    flat = make_flat(1, len(names))["image"]
    sources = tuple(Source(f"/data/{name}") for name in names)
    manifest = Manifest((1, len(names)), sources, np.arange(len(names), dtype=np.int32),
                        flat.manifest.offset, flat.manifest.length)  # fmt: skip
    image = Array(flat.shape, flat.chunks, flat.dtype, flat.dims, flat.codecs, manifest)
    group = Group({'im"age é': image})
    write_json(group, tmp_path / "refs.json")
    document = json.loads((tmp_path / "refs.json").read_text())
    assert document == to_kerchunk(group)
    assert_same(group, from_kerchunk(tmp_path / "refs.json"))


def test_templates() -> None:
    group = make_flat(2, 2, 2)
    rename = plan_prefix("s3://bucket/x", [s.url for s in group["image"].manifest.sources])
    document = to_kerchunk(group, rename=rename, templates={"u": "s3://bucket/"})
    assert document["templates"] == {"u": "s3://bucket/"}
    assert document["refs"]["image/0.1"][0] == "{{u}}x/image_000001.tif"
    again = from_kerchunk(document)["image"].manifest
    assert [source.url for source in again.sources] == [
        "s3://bucket/x/image_000000.tif", "s3://bucket/x/image_000001.tif"
    ]  # fmt: skip
    assert "templates" not in to_kerchunk(group, version=0, templates={"u": "/"})
    with pytest.raises(InvalidReferences, match="braces"):
        to_kerchunk(group, rename=lambda url: "s3://{a}.tif", templates={"u": "s3://"})


@pytest.mark.parametrize("version", [2, True, "1", None])
def test_no_such_version(version: object) -> None:
    with pytest.raises(InvalidReferences, match="0 or 1"):
        to_kerchunk(make_flat(1, 1), version=version)


# ---- readers


@pytest.mark.parametrize(("zarr_format", "version"), FORMATS)
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_zarr_reads_it(tmp_path: Path, zarr_format: int, version: int, byteorder: str) -> None:
    group = make_group(tmp_path, missing=(2,), byteorder=byteorder, fill_value=3)
    document = to_kerchunk(group, zarr_format=zarr_format, version=version)
    opened = zarr.open_group(
        "reference://", mode="r", storage_options={"fo": document}, zarr_format=zarr_format
    )
    for path in ("image", "inner/level/image"):
        np.testing.assert_array_equal(opened[path][:], expand(group["image"]))
    np.testing.assert_array_equal(opened["y"][:], np.linspace(0, 1, 12))
    assert opened["spatial_ref"][()] == 0
    assert opened.attrs["title"] == group.attributes["title"]


def test_xarray_reads_v2(tmp_path: Path) -> None:
    write_json(make_group(tmp_path), tmp_path / "refs.json")
    with xr.open_dataset(str(tmp_path / "refs.json"), engine="kerchunk") as dataset:
        assert dataset["image"].dims == ("y", "x")
        assert dataset["image"].dtype == np.uint16  # a fill value would have made it float
        np.testing.assert_array_equal(dataset["image"], VALUES)
        np.testing.assert_array_equal(dataset["y"], np.linspace(0, 1, 12))
        assert json.loads(dataset.attrs["tiffref"])["version"] == 1


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("fill", [None, 3])
def test_xarray_masks_only_a_fill_value(tmp_path: Path, zarr_format: int, fill: int | None) -> None:
    group = Group({"image": make_image(tmp_path, fill_value=fill)})
    document = to_kerchunk(group, zarr_format=zarr_format)
    options = {"storage_options": {"fo": document}, "consolidated": False}
    with xr.open_dataset("reference://", engine="zarr", backend_kwargs=options) as dataset:
        expected = VALUES if fill is None else np.where(fill == VALUES, np.nan, VALUES)
        np.testing.assert_array_equal(dataset["image"], expected)
        assert (dataset["image"].dtype == np.uint16) == (fill is None)


# ---- writing


def test_paths_urls_and_open_files(tmp_path: Path) -> None:
    group = make_group(tmp_path)
    expected = to_kerchunk(group)
    write_json(group, str(tmp_path / "1.json"))
    assert json.loads((tmp_path / "1.json").read_text()) == expected
    write_json(group, f"file://{tmp_path}/2.json")
    assert json.loads((tmp_path / "2.json").read_text()) == expected
    text, binary = io.StringIO(), io.BytesIO()
    write_json(group, text)
    write_json(group, binary)
    assert json.loads(text.getvalue()) == json.loads(binary.getvalue()) == expected
    write_json(group, "memory://formats/3.json")
    assert_same(group, from_kerchunk("memory://formats/3.json"))
    (tmp_path / "4.json.gz").write_bytes(gzip.compress((tmp_path / "1.json").read_bytes()))
    assert_same(group, from_kerchunk(tmp_path / "4.json.gz"))


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt(), ValueError()])
@pytest.mark.parametrize("target", ["file", "memory"])
def test_an_error_in_the_middle_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, target: str
) -> None:
    path = tmp_path / "refs.json" if target == "file" else "memory://formats/atomic.json"
    write_json(make_flat(1, 1), path)
    before = from_kerchunk(path)
    made = kerchunk._json_rows
    n_blocks = []

    def fail(*arguments: object) -> bytes:
        n_blocks.append(1)
        if len(n_blocks) > 1:
            raise error
        return made(*arguments)

    monkeypatch.setattr(kerchunk, "_json_rows", fail)
    with pytest.raises(SourceError if isinstance(error, OSError) else type(error)):
        write_json(make_flat(300, 311), path)
    assert len(n_blocks) == 2
    assert_same(before, from_kerchunk(path))
    if target == "file":
        assert [file.name for file in tmp_path.iterdir()] == ["refs.json"]


def test_a_file_that_was_not_there_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, target: Path) -> None:
        raise OSError(5, "disk error")

    monkeypatch.setattr(atomic.os, "replace", fail)
    with pytest.raises(SourceError, match="disk error"):
        write_json(make_flat(1, 1), tmp_path / "refs.json")
    assert list(tmp_path.iterdir()) == []


def test_targets_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for target in (tmp_path, tmp_path / "no" / "folder.json"):
        with pytest.raises(SourceError, match="cannot write"):
            write_json(make_flat(1, 1), target)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SourceError, match="no file system is known"):
        write_json(make_flat(1, 1), "nosuchscheme://a.json")

    def refuse(*arguments: object, **options: object) -> None:
        raise NotImplementedError("this file system only reads")

    monkeypatch.setattr("fsspec.AbstractFileSystem.put_file", refuse)
    with pytest.raises(SourceError, match="only reads"):
        write_json(make_flat(1, 1), "memory://formats/a.json")


def test_a_link_keeps_pointing(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "refs.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real" / "refs.json")
    write_json(make_flat(1, 1), tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert_same(make_flat(1, 1), from_kerchunk(tmp_path / "real" / "refs.json"))


@pytest.mark.parametrize("options", [{}, {"zarr_format": 3}, {"version": 0}])
def test_few_rows_are_formatted_like_many(
    options: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group({**make_group(tmp_path).children, "é": make_flat(5, 4, 3).children["image"]})
    few, many = io.BytesIO(), io.BytesIO()
    write_json(group, few, **options)
    monkeypatch.setattr("tiffref.formats.keys.FEW_ROWS", -1)
    monkeypatch.setattr(kerchunk, "FEW_ROWS", -1)
    write_json(group, many, **options)
    assert few.getvalue() == many.getvalue()


def test_writing_makes_no_object_per_chunk(tmp_path: Path) -> None:
    group = make_flat(1000, 1000)
    write_json(make_flat(300, 300), tmp_path / "warm.json")
    tracemalloc.start()
    try:
        write_json(group, tmp_path / "refs.json")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # a million objects of any kind take more than this; some blocks of text do not
    assert peak < 48 * 1_000_000
    assert (tmp_path / "refs.json").stat().st_size > 48 * 1_000_000


def test_codecs_of_v2_only_are_encoded_again_for_v3(tmp_path: Path) -> None:
    values = np.linspace(5, 6, 1000)
    plain = Array.from_values(values, ("x",))
    codec = ForeignCodec(2, {"dtype": "<f8", "filters": None, "order": "C",
                             "compressor": {"id": "bz2", "level": 1}})  # fmt: skip
    manifest = replace(plain.manifest, inlined={0: bz2.compress(values.tobytes())})
    group = Group({"x": replace(plain, codecs=(codec,), manifest=manifest)})
    assert_same(group, from_kerchunk(to_kerchunk(group)))
    for zarr_format in (2, 3):
        document = to_kerchunk(group, zarr_format=zarr_format)
        opened = zarr.open_group("reference://", mode="r", storage_options={"fo": document})
        np.testing.assert_array_equal(opened["x"][:], values)
    image = replace(make_image(tmp_path), codecs=(codec,))
    with pytest.raises(InvalidReferences, match=r"'image'.*only in Zarr v2"):
        to_kerchunk(Group({"image": image}), zarr_format=3)
    foreign = ForeignCodec(3, {"data_type": "uint16", "codecs": [{"name": "bytes"}]})
    with pytest.raises(InvalidReferences, match=r"'g/image'.*only in Zarr v3"):
        to_kerchunk(Group({"g": Group({"image": replace(image, codecs=(foreign,))})}))


@pytest.mark.parametrize(("zarr_format", "name"), [(2, "zlib"), (3, "zstd")])
def test_coordinates_are_compressed_once_for_each_format(
    monkeypatch: pytest.MonkeyPatch, zarr_format: int, name: str
) -> None:
    values = {"x": np.linspace(5, 6, 1000), "band": np.arange(1, 65), "n": np.arange(5000) % 251}
    arrays = {key: Array.from_values(data, (key,)) for key, data in values.items()}
    arrays["n"] = replace(arrays["n"], fill_value=250, attributes={"units": "m"})
    monkeypatch.setattr(kerchunk, "decode_foreign", pytest.fail)
    document = to_kerchunk(Group(arrays), zarr_format=zarr_format)["refs"]
    metadata = {key: document[f"{key}/{'.zarray' if zarr_format == 2 else 'zarr.json'}"]
                for key in values}  # fmt: skip
    assert [name in metadata[key] for key in values] == [True, False, True]
    opened = zarr.open_group("reference://", mode="r", storage_options={"fo": document})
    for key, data in values.items():
        np.testing.assert_array_equal(opened[key][:], data)
    assert opened["n"].fill_value == 250
    assert opened["n"].attrs["units"] == "m"


# ---- documents of others


def wrap(refs: dict, **members: object) -> dict:
    return {"version": 1, "refs": refs, **members}


def zarray(**members: object) -> str:
    return json.dumps(
        {
            "zarr_format": 2, "shape": [4, 4], "chunks": [2, 2], "dtype": "<u2", "order": "C",
            "compressor": None, "filters": None, "fill_value": 0, **members,
        }
    )  # fmt: skip


def test_array_at_the_root() -> None:
    document = {".zarray": zarray(), ".zattrs": '{"units": "m"}', "1.1": ["s3://b/a.tif", 4, 8]}
    group = from_kerchunk(document)
    assert list(group.children) == [""]
    image = group[""]
    assert image.attributes == {"units": "m"}
    assert image.manifest.source.tolist() == [-1, -1, -1, 0]
    assert_same(group, from_kerchunk(to_kerchunk(group, version=0)))
    assert ".zgroup" not in to_kerchunk(group, version=0)


@pytest.mark.parametrize("as_object", [False, True])
@pytest.mark.parametrize("separator", [".", "/"])
def test_nested_groups_and_separators(separator: str, as_object: bool) -> None:
    text = zarray(dimension_separator=separator)
    metadata = json.loads(text) if as_object else text
    group = from_kerchunk(
        wrap({
            ".zgroup": {"zarr_format": 2},
            ".zmetadata": "not even JSON",
            "a/b/0/.zarray": metadata,
            "a/b/0/.zattrs": {"_ARRAY_DIMENSIONS": ["y", "x"]},
            f"a/b/0/1{separator}0": ["http://h/a.tif", 4, 8],
        })
    )  # fmt: skip
    image = group["a/b/0"]
    assert image.dims == ("y", "x")
    assert image.attributes == {}
    assert image.manifest.source.tolist() == [-1, -1, 0, -1]


def test_names_of_dimensions_that_do_not_fit_stay_attributes() -> None:
    attributes = {"_ARRAY_DIMENSIONS": ["y"]}
    group = from_kerchunk({"a/.zarray": zarray(), "a/.zattrs": attributes})
    assert group["a"].dims == ("dim_0", "dim_1")
    assert group["a"].attributes == attributes


def test_foreign_codecs_are_kept() -> None:
    compressor = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
    text = zarray(compressor=compressor, order="F", dtype=">f4", fill_value="NaN")
    group = from_kerchunk({".zgroup": '{"zarr_format": 2}', "a/.zarray": text})
    assert group["a"].dtype == np.dtype("f4")
    again = json.loads(to_kerchunk(group)["refs"]["a/.zarray"])
    assert {name: again[name] for name in json.loads(text)} == json.loads(text)


def v3(**members: object) -> dict:
    return {
        "zarr_format": 3, "node_type": "array", "shape": [4, 4], "data_type": "uint16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2, 2]}},
        "chunk_key_encoding": {"name": "default"}, "fill_value": 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}], **members,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("encoding", "key"),
    [
        ({"name": "default", "configuration": {"separator": "."}}, "c.1.0"),
        ("default", "c/1/0"),
        ({"name": "v2"}, "1.0"),
        ({"name": "v2", "configuration": {"separator": "/"}}, "1/0"),
    ],
)
def test_v3_chunk_keys(encoding: object, key: str) -> None:
    metadata = v3(chunk_key_encoding=encoding, dimension_names=["y", None])
    group = from_kerchunk({"a/zarr.json": metadata, f"a/{key}": ["s3://b/x", 1, 8]})
    assert group["a"].dims == ("y", "dim_1")
    assert group["a"].manifest.source.tolist() == [-1, -1, 0, -1]


def test_v2_wins_over_v3() -> None:
    group = from_kerchunk({"a/zarr.json": v3(), "a/.zarray": zarray(dtype="|i1")})
    assert group["a"].dtype == np.dtype("i1")


def test_foreign_nan_tokens(tmp_path: Path) -> None:
    (tmp_path / "refs.json").write_text('{".zgroup": {"zarr_format": 2}, ".zattrs": {"a": NaN}}')
    assert np.isnan(from_kerchunk(tmp_path / "refs.json").attributes["a"])


def test_documents_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(MissingSource, match="no such file"):
        from_kerchunk(tmp_path / "none.json")
    with pytest.raises(SourceError, match="is a folder"):
        from_kerchunk(tmp_path)
    with pytest.raises(SourceError, match="no file system is known"):
        from_kerchunk("nosuchscheme://a.json")
    for content in (b"", b"{", b"\xff\xfe", b"II*\0\x08\0\0\0", b"[" * 100_000):
        (tmp_path / "refs.json").write_bytes(content)
        with pytest.raises(InvalidReferences, match=r"refs\.json: (not a JSON|is a TIFF)"):
            from_kerchunk(tmp_path / "refs.json")


# ---- References


def test_references_round_trip(tmp_path: Path) -> None:
    group = make_group(tmp_path)
    series = [{"index": 0, "kind": "generic", "name": "", "axes": "YX",
               "levels": [{"path": "image"}, {"refused": "too odd"}]}]  # fmt: skip
    references = References(group, series)
    references.write_fsspec(tmp_path / "refs.json")
    again = References.from_kerchunk(tmp_path / "refs.json")
    assert list(again.series) == series
    assert again.sources == references.sources
    assert [source.etag for source in again.sources] == ["tag-a.bin", "tag-b.bin"]
    assert_same(again.group, group)
    assert again.to_kerchunk() == references.to_kerchunk()


def test_a_small_document_takes_few_steps(tmp_path):
    calls: Counter[str] = Counter()

    def count(frame, event, _):
        if event == "call":
            calls[frame.f_code.co_name] += 1

    image = make_flat(2, 3).children["image"].with_attributes(sizes=[1, 2])
    images = {f"image_{n}": image for n in range(3)}
    axes = {
        f"{axis}_{n}": Array.from_values(np.arange(9.0), (f"{axis}_{n}",), {"axis": axis.upper()})
        for axis in "xy"
        for n in range(3)
    }
    references = References(Group({**images, **axes}))
    references.write_fsspec(tmp_path / "first.json")
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        references.write_fsspec(tmp_path / "second.json")
    finally:
        sys.setprofile(before)
    # the attributes of each image, the provenance, three for the seal and one for all lines
    assert calls["iterencode"] <= 9, calls["iterencode"]
    assert calls.total() <= 450, calls.most_common(10)
