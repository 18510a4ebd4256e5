from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray as xr
from groups import VALUES, assert_same, from_parquet, make_flat, make_group, make_image

import zarr
from tiffref.errors import InvalidReferences, ManifestMismatch, MissingExtra, SourceError
from tiffref.formats import parquet
from tiffref.formats.kerchunk import to_kerchunk
from tiffref.formats.parquet import write_parquet
from tiffref.model.array import Array, Group
from tiffref.model.codec import ForeignCodec, SegmentCodec
from tiffref.model.manifest import MISSING, Manifest
from tiffref.references import References

pytest.importorskip("pyarrow")
pytest.importorskip("fastparquet")

# what fsspec's readers warn about among themselves is not ours to mend
pytestmark = pytest.mark.filterwarnings("ignore:.*fastparquet", "ignore::DeprecationWarning")


@pytest.mark.parametrize("record_size", [1, 4, 100_000])
@pytest.mark.parametrize("fill", [None, 3])
def test_round_trip_and_readers(tmp_path: Path, record_size: int, fill: int | None) -> None:
    group = make_group(tmp_path, missing=(0, 3), fill_value=fill)
    path = str(tmp_path / "refs.parquet")
    write_parquet(group, path, record_size=record_size)
    assert_same(group, from_parquet(path))
    expected = VALUES.copy()
    expected[:4, :5] = expected[4:8, 5:] = fill or 0
    opened = zarr.open_group(
        "reference://",
        mode="r",
        storage_options={"fo": path, "remote_protocol": "file"},
        zarr_format=2,
    )
    for name in ("image", "inner/level/image"):
        np.testing.assert_array_equal(opened[name][:], expected)
    assert opened["spatial_ref"][()] == 0
    options = {"storage_options": {"remote_protocol": "file"}}  # for the groups inside
    with xr.open_dataset(path, engine="kerchunk", **options) as dataset:
        masked = expected if fill is None else np.where(expected == fill, np.nan, expected)
        np.testing.assert_array_equal(dataset["image"], masked)
        np.testing.assert_array_equal(dataset["y"], np.linspace(0, 1, 12))


def test_missing_chunks_at_the_very_beginning(tmp_path: Path) -> None:
    group = Group({"image": make_image(tmp_path, missing=(0, 1, 2, 3, 4, 5))})
    path = str(tmp_path / "refs.parquet")
    write_parquet(group, path)
    again = from_parquet(path)["image"]
    assert again.manifest.is_missing.all()
    with xr.open_dataset(path, engine="kerchunk") as dataset:
        assert not dataset["image"].values.any()


@pytest.mark.parametrize(
    "codec",
    [
        SegmentCodec((1, 4, 5, 1), "<u2", 8),
        SegmentCodec((1, 4, 5, 1), "<u2", 50000, predictor=2),
        SegmentCodec((1, 4, 5, 1), "<u2", 5, byteorder=">"),
        SegmentCodec((1, 4, 5, 1), "<u2", 1, edge=(1, 2, 5)),
        SegmentCodec((1, 4, 5, 1), "|b1", 1),
        SegmentCodec((1, 4, 5, 1), "|b1", 4),
        SegmentCodec((1, 4, 5, 1), "<c8", 1, bits=(32,), sample_format=5),
    ],
    ids=["zlib", "zstd and predictor", "LZW", "tiffref_segment", "bits", "fax", "complex integers"],
)
def test_missing_chunks_of_compressed_arrays(tmp_path: Path, codec: SegmentCodec) -> None:
    image = make_image(tmp_path, missing=(0, 1, 2, 3, 4, 5), fill_value=7)
    dtype = np.dtype(codec.dtype)
    fill = dtype.type(7).item()
    group = Group({"image": Array(image.shape, image.chunks, dtype, image.dims, (codec,),
                                  image.manifest, fill)})  # fmt: skip
    path = str(tmp_path / "refs.parquet")
    write_parquet(group, path)
    assert from_parquet(path)["image"].manifest.is_missing.all()
    opened = zarr.open_group(
        "reference://",
        mode="r",
        storage_options={"fo": path, "remote_protocol": "file"},
        zarr_format=2,
    )
    np.testing.assert_array_equal(opened["image"][:], np.full((12, 10), fill))


@pytest.mark.parametrize("fill", [7.0, 7.4])
def test_missing_chunks_of_codecs_that_round(tmp_path: Path, fill: float) -> None:
    """The fill value stands in their place, unless it comes back as another one."""
    rounding = {"id": "fixedscaleoffset", "offset": 0, "scale": 1, "dtype": "<f4", "astype": "|u1"}
    codec = ForeignCodec(2, {"dtype": "<f4", "order": "C", "filters": [rounding],
                             "compressor": {"id": "zlib", "level": 1}})  # fmt: skip
    image = make_image(tmp_path, missing=(0, 1, 2, 3, 4, 5), fill_value=fill)
    dtype, path = np.dtype("<f4"), tmp_path / "refs.parquet"
    group = Group({"image": Array(image.shape, image.chunks, dtype, image.dims, (codec,),
                                  image.manifest, fill)})  # fmt: skip
    if fill == 7.0:
        write_parquet(group, path)
        assert from_parquet(path)["image"].manifest.is_missing.all()
        return
    with pytest.raises(ManifestMismatch, match=r"'image'.*different values after decoding"):
        write_parquet(group, path)
    assert not path.exists()


def test_what_kerchunk_writes(tmp_path: Path) -> None:
    df = pytest.importorskip("kerchunk.df")
    group = make_group(tmp_path)
    path = str(tmp_path / "refs.parquet")
    df.refs_to_dataframe(to_kerchunk(group), path, record_size=4)
    again = from_parquet(path)
    assert sorted(again.children) == sorted(group.children)
    for name in ("image", "y", "inner/level/x"):
        assert again[name].manifest == group[name].manifest


@pytest.mark.parametrize("n_sources", [1, 500])
def test_many_chunks(tmp_path: Path, n_sources: int) -> None:
    group = make_flat(300, 311, n_sources)
    write_parquet(group, tmp_path / "refs.parquet", record_size=40_000)
    files = sorted(file.name for file in (tmp_path / "refs.parquet" / "image").iterdir())
    assert files == ["refs.0.parq", "refs.1.parq", "refs.2.parq"]
    assert_same(group, from_parquet(tmp_path / "refs.parquet"))


def test_references(tmp_path: Path) -> None:
    series = [{"index": 0, "levels": [{"path": "image"}]}]
    references = References(make_group(tmp_path), series)
    references.to_parquet(tmp_path / "a.parquet", url="s3://bucket/x", groupname="g")
    again = References.from_parquet(tmp_path / "a.parquet")
    assert [source.url for source in again.sources] == [
        "s3://bucket/x/a.bin",
        "s3://bucket/x/b.bin",
    ]
    assert list(again.series) == [{"index": 0, "levels": [{"path": "g/image"}]}]
    assert "image" in again.group["g"].children


def test_remote_folder(tmp_path: Path) -> None:
    group = make_group(tmp_path)
    write_parquet(group, "memory://formats/refs.parquet")
    assert_same(group, from_parquet("memory://formats/refs.parquet"))


def test_an_old_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "refs.parquet"
    write_parquet(make_flat(3, 3), path, record_size=1)
    write_parquet(make_flat(2, 2), path, record_size=4)
    assert len(list((path / "image").iterdir())) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["refs.parquet"]


def test_another_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "precious").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("home", "file"):
        with pytest.raises(SourceError, match="holds something else"):
            write_parquet(make_flat(2, 2), tmp_path / name)
    assert (tmp_path / "home" / "precious").read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "home"]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "refs.parquet"
    write_parquet(make_flat(2, 2), path)

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(parquet, "_record_columns", fail)
    with pytest.raises(SourceError if isinstance(error, OSError) else type(error)):
        write_parquet(make_flat(3, 3), path)
    monkeypatch.undo()
    assert_same(make_flat(2, 2), from_parquet(path))
    assert [file.name for file in tmp_path.iterdir()] == ["refs.parquet"]


def test_what_the_layout_cannot_say(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    with pytest.raises(InvalidReferences, match="array at the root"):
        write_parquet(Group({"": image}), tmp_path / "refs.parquet")
    with pytest.raises(InvalidReferences, match="record_size"):
        write_parquet(Group({"a": image}), tmp_path / "refs.parquet", record_size=0)


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        from_parquet(tmp_path / "none")
    path = tmp_path / "refs.parquet"
    write_parquet(make_flat(2, 2), path)
    good = (path / ".zmetadata").read_text()
    sizes = [json.dumps({"metadata": {}, "record_size": n}) for n in (0, 1 << 63, 1.5, "1")]
    for bad in ("", "[]", "{}", *sizes):
        (path / ".zmetadata").write_text(bad)
        with pytest.raises(InvalidReferences, match="not parquet references"):
            from_parquet(path)
    (path / ".zmetadata").write_text(good)
    (path / "image" / "refs.0.parq").write_bytes(b"PAR1 and more")
    with pytest.raises(InvalidReferences, match="not parquet references"):
        from_parquet(path)
    (path / "image" / "refs.0.parq").unlink()
    with pytest.raises(SourceError, match=r"refs\.0\.parq"):
        from_parquet(path)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtra, match=r"tiffref\[parquet\]"):
        write_parquet(make_flat(2, 2), tmp_path / "refs.parquet")
    with pytest.raises(MissingExtra, match=r"tiffref\[parquet\]"):
        from_parquet(tmp_path / "refs.parquet")


# ---- files of parquet references, parsed when one of their chunks is needed

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return a list that grows by the columns asked for with each reading of a file."""
    asked: list[list[str]] = []
    read = parquet.Record.read

    def counting(self: parquet.Record, file: object, columns: list[str]) -> object:
        asked.append(list(columns))
        return read(self, file, columns)

    monkeypatch.setattr(parquet.Record, "read", counting)
    return asked


def test_one_chunk_needs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = make_flat(20, 20)
    write_parquet(group, tmp_path / "refs.parquet", record_size=50)
    asked = count_reads(monkeypatch)
    manifest: Manifest = from_parquet(tmp_path / "refs.parquet")["image"].manifest
    # a footer says that there is one address only, so that no column is read
    assert asked == []
    assert manifest.sources == group["image"].manifest.sources
    assert manifest.at(77) == group["image"].manifest.at(77)
    assert len(asked) == 1
    assert manifest == group["image"].manifest
    assert len(asked) == 8


def test_several_addresses_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = make_flat(20, 20, 7)
    write_parquet(group, tmp_path / "refs.parquet", record_size=200)
    asked = count_reads(monkeypatch)
    manifest = from_parquet(tmp_path / "refs.parquet")["image"].manifest
    assert asked == [["path"], ["path"]]
    assert manifest.sources == group["image"].manifest.sources


def test_what_is_read_later_is_what_was_opened(tmp_path: Path) -> None:
    group = make_flat(20, 20)
    write_parquet(group, tmp_path / "refs.parquet", record_size=50)
    again = from_parquet(tmp_path / "refs.parquet")
    shutil.rmtree(tmp_path / "refs.parquet")
    assert_same(group, again)


def rewrite(folder: Path, change: object, **options: object) -> Path:
    """Write the one file of an image of 4 chunks anew, as another writer might."""
    write_parquet(make_flat(2, 2), folder)
    path = folder / "image" / "refs.0.parq"
    table = pq.read_table(path)
    pq.write_table(change(table), path, **options)  # type: ignore[operator]
    return folder


@pytest.mark.parametrize(
    "options", [{"write_statistics": False}, {"row_group_size": 1}, {"use_dictionary": False}]
)
def test_files_of_other_writers(tmp_path: Path, options: dict) -> None:
    def plain(table: pa.Table) -> pa.Table:
        return table.set_column(0, "path", table["path"].cast(pa.string()))

    folder = rewrite(tmp_path / "refs.parquet", plain, **options)
    assert_same(make_flat(2, 2), from_parquet(folder))


@pytest.mark.parametrize("kind", [pa.null(), pa.large_binary()])
def test_columns_without_values(tmp_path: Path, kind: pa.DataType) -> None:
    """Those of `raw` in most files; pandas, polars and pyarrow have a type for such columns."""

    def empty(table: pa.Table) -> pa.Table:
        return table.set_column(3, "raw", pa.nulls(len(table), kind))

    folder = rewrite(tmp_path / "refs.parquet", empty)
    assert_same(make_flat(2, 2), from_parquet(folder))


def test_files_without_addresses(tmp_path: Path) -> None:
    def inline(table: pa.Table) -> pa.Table:
        table = table.set_column(0, "path", pa.nulls(len(table)))
        return table.set_column(3, "raw", pa.array([bytes(9)] * len(table)))

    manifest = from_parquet(rewrite(tmp_path / "refs.parquet", inline))["image"].manifest
    assert [bytes(manifest.data(flat)) for flat in range(4)] == [bytes(9)] * 4


def test_addresses_as_bytes(tmp_path: Path) -> None:
    def recode(table: pa.Table) -> pa.Table:
        paths = table["path"].cast(pa.string()).cast(pa.binary())
        return table.set_column(0, "path", paths)

    assert_same(make_flat(2, 2), from_parquet(rewrite(tmp_path / "refs.parquet", recode)))


@pytest.mark.parametrize("engine", ["fastparquet", "pyarrow"])
def test_what_fsspec_writes(tmp_path: Path, engine: str) -> None:
    from fsspec.implementations.reference import LazyReferenceMapper

    group, folder = make_flat(2, 2), str(tmp_path / "refs.parquet")
    local = fsspec.filesystem("file")
    mapper = LazyReferenceMapper.create(folder, fs=local, record_size=3, engine=engine)
    for key, value in to_kerchunk(group)["refs"].items():
        mapper[key] = value.encode() if isinstance(value, str) else value
    mapper.flush()
    assert from_parquet(folder)["image"].manifest == group["image"].manifest


def test_rows_that_are_not_there_are_missing_chunks(tmp_path: Path) -> None:
    folder = rewrite(tmp_path / "refs.parquet", lambda table: table.slice(0, 3))
    manifest = from_parquet(folder)["image"].manifest
    assert manifest.source.tolist() == [0, 0, 0, MISSING]
    np.testing.assert_array_equal(manifest.length[:3], make_flat(2, 2)["image"].manifest.length[:3])


def test_more_rows_than_chunks_are_left_out(tmp_path: Path) -> None:
    folder = rewrite(tmp_path / "refs.parquet", lambda table: pa.concat_tables([table, table]))
    assert_same(make_flat(2, 2), from_parquet(folder))


def test_statistics_that_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(make_flat(2, 2), tmp_path / "refs.parquet")
    monkeypatch.setattr(parquet, "_only_address", lambda file: "/another/file.tif")
    manifest = from_parquet(tmp_path / "refs.parquet")["image"].manifest
    with pytest.raises(InvalidReferences, match="not in the statistics"):
        manifest.at(0)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("offset", ["a", "b", "c", "d"]),
        ("offset", [0, 8, -8, 24]),
        ("offset", [0.0, 8.0, float("nan"), 24.0]),
        ("offset", [0, 8, 1 << 63, 24]),
        ("size", [8, 8, -8, 8]),
        ("size", [8.0, 8.0, 8.5, 8.0]),
        ("size", [8, 8, 0, 8]),
    ],
)
def test_numbers_that_are_none(tmp_path: Path, name: str, numbers: list) -> None:
    def change(table: pa.Table) -> pa.Table:
        kind = pa.uint64() if max(numbers) == 1 << 63 else None
        return table.set_column(table.column_names.index(name), name, pa.array(numbers, kind))

    manifest = from_parquet(rewrite(tmp_path / "refs.parquet", change))["image"].manifest
    with pytest.raises(InvalidReferences, match=r"refs\.0\.parq: not parquet references"):
        manifest.load()
