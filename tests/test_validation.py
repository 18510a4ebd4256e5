from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from bad_documents import BAD, GOOD
from groups import make_flat, make_group
from microscopes import write_rgb_pyramid

import tiffref
from tiffref.errors import InvalidReferences, MetadataWarning, SourceError, TruncationWarning
from tiffref.formats.parquet import write_parquet
from tiffref.references import References
from tiffref.validation import Report, validate

ZARRAY: dict[str, Any] = {
    "zarr_format": 2, "shape": [4, 4], "chunks": [2, 2], "dtype": "<u2", "order": "C",
    "compressor": None, "filters": None, "fill_value": None,
}  # fmt: skip
ZARR_JSON: dict[str, Any] = {
    "zarr_format": 3, "node_type": "array", "shape": [4, 4], "data_type": "uint16",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2, 2]}},
    "chunk_key_encoding": {"name": "default"}, "fill_value": 0,
    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
}  # fmt: skip


def codes(report: Report) -> list[str]:
    return [finding.code for finding in report.findings]


def check(refs: dict[str, Any]) -> Report:
    return validate({"version": 1, "refs": {".zgroup": {"zarr_format": 2}, **refs}})


# ---- the document


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("version", [0, 1])
def test_our_documents_are_valid(tmp_path: Path, zarr_format: int, version: int) -> None:
    group = make_group(tmp_path, missing=(1,))
    report = validate(References(group).to_kerchunk(zarr_format, version))
    assert report.ok
    assert report.findings == []
    assert report.n_sources == 2
    assert report.arrays["image"] == {
        "shape": [12, 10], "chunks": [4, 5], "dtype": "<u2", "n_chunks": 6,
        "n_missing": 1, "n_inlined": 0, "n_stored": 5,
    }  # fmt: skip
    assert report.arrays["y"]["n_inlined"] == 1
    json.dumps(report.to_json())


@pytest.mark.parametrize("name", GOOD)
def test_structure_of_good_documents(name: str) -> None:
    report = validate(GOOD[name])
    assert [finding for finding in report.findings if finding.stage == "structure"] == []


@pytest.mark.parametrize("name", BAD)
def test_structure_of_bad_documents(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(BAD[name][0]), encoding="utf-8")
    report = validate(path)
    assert not report.ok
    assert report.findings[0].code == BAD[name][1]
    with pytest.raises(InvalidReferences):
        report.raise_first()


@pytest.mark.parametrize(
    "change",
    [
        {"zarr_format": 3}, {"zarr_format": True}, {"shape": [4]}, {"shape": 4}, {"shape": [-1, 4]},
        {"shape": [4.0, 4]}, {"chunks": [0, 2]}, {"chunks": [2]}, {"chunks": [2, 2, 2]},
        {"dtype": "<q9"}, {"dtype": None, "order": "C"}, {"order": "K"}, {"fill_value": "abc"},
        {"fill_value": 70000}, {"fill_value": 1.5}, {"dimension_separator": "-"},
        {"shape": [10**9, 10**9]},
    ],
)  # fmt: skip
def test_bad_array_metadata(change: dict[str, Any]) -> None:
    if change.get("dtype", "") is None:
        metadata = {name: value for name, value in ZARRAY.items() if name != "dtype"}
    else:
        metadata = ZARRAY | change
    for document in (metadata, json.dumps(metadata)):
        report = check({"a/.zarray": document})
        assert codes(report) == ["metadata"]
        assert report.findings[0].key == "a/.zarray"
        assert report.findings[0].got
        assert report.findings[0].expected


@pytest.mark.parametrize(
    "change",
    [
        {"zarr_format": 2}, {"node_type": "file"}, {"shape": [4]}, {"data_type": "uint17"},
        {"data_type": {"name": "odd"}}, {"fill_value": None}, {"fill_value": "NaN"},
        {"chunk_grid": {"name": "rectilinear"}}, {"chunk_grid": None}, {"dimension_names": ["y"]},
        {"chunk_key_encoding": {"name": "other"}}, {"attributes": []},
        {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "-"}}},
    ],
)  # fmt: skip
def test_bad_v3_metadata(change: dict[str, Any]) -> None:
    report = validate({"version": 1, "refs": {"a/zarr.json": ZARR_JSON | change}})
    assert codes(report)[0] == "metadata"
    assert report.findings[0].key == "a/zarr.json"


@pytest.mark.parametrize("text", ["{", "[]", "7", "", "base64:AAE=", '"text"'])
def test_metadata_that_is_not_a_json_object(text: str) -> None:
    report = check({"a/.zarray": text})
    assert codes(report) == ["json"]
    assert report.findings[0].key == "a/.zarray"


def test_keys_outside_arrays_are_warnings() -> None:
    report = check({"a/.zarray": ZARRAY, "a/2.0": ["a.tif", 0, 8], "b/0": "x", "a/0.0": "12345678"})
    assert codes(report) == ["stray"]
    assert (report.findings[0].key, report.findings[0].n_more) == ("a/2.0", 1)
    assert report.ok


def test_chunks_that_cannot_have_their_bytes() -> None:
    report = check({"a/.zarray": ZARRAY, "a/0.0": ["a.tif", 0, 8], "a/0.1": ["a.tif", 0, 7],
                    "a/1.0": "1234567890"})  # fmt: skip
    assert codes(report) == ["length"]
    finding = report.findings[0]
    assert (finding.key, finding.got, finding.expected) == ("a chunk (0, 1)", "7 bytes", "8 bytes")
    assert finding.n_more == 1
    assert check({"a/.zarray": ZARRAY | {"compressor": {"id": "zlib", "level": 1}},
                  "a/0.0": ["a.tif", 0, 7]}).ok  # fmt: skip


def test_overlapping_ranges_are_fine() -> None:
    refs = {f"a/{i}.{j}": ["a.tif", 4, 8] for i in (0, 1) for j in (0, 1)}
    assert check({"a/.zarray": ZARRAY, **refs}).findings == []


@pytest.mark.parametrize(
    "metadata",
    [
        {"a/.zarray": ZARRAY | {"compressor": {"id": "nobody_knows"}}},
        {"a/.zarray": ZARRAY | {"filters": [{"id": "nobody_knows"}]}},
        {"a/zarr.json": ZARR_JSON | {"codecs": [{"name": "nobody_knows"}]}},
    ],
)
def test_unknown_codecs(metadata: dict[str, Any]) -> None:
    report = check(metadata)
    assert codes(report) == ["unknown-codec"]
    assert report.findings[0].got == "nobody_knows"


@pytest.mark.parametrize("value", [{}, [], {"id": None, "name": 1}, {"id": ["zlib"]}, 0, True])
@pytest.mark.parametrize("member", ["compressor", "filters", "codecs"])
def test_codecs_without_a_name(member: str, value: Any) -> None:
    if member == "codecs":
        metadata = {"a/zarr.json": ZARR_JSON | {"codecs": [*ZARR_JSON["codecs"], value]}}
    else:
        metadata = {"a/.zarray": ZARRAY | {member: value if member == "compressor" else [value]}}
    assert "metadata" in codes(check(metadata))
    with pytest.raises(InvalidReferences, match="codecs as objects"):
        References.from_kerchunk({"version": 1, "refs": metadata})
    assert check({"a/.zarray": ZARRAY | {"filters": []}}).ok


def test_known_codecs_of_others() -> None:
    blosc = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
    v3 = [{"name": "bytes", "configuration": {"endian": "little"}},
          {"name": "blosc", "configuration": {"cname": "lz4"}}]  # fmt: skip
    assert check({"a/.zarray": ZARRAY | {"compressor": blosc}}).ok
    assert check({"a/zarr.json": ZARR_JSON | {"codecs": v3}}).ok


def test_nodes_inside_arrays() -> None:
    report = check({"a/.zarray": ZARRAY, "a/b/.zarray": ZARRAY, "a/c/.zgroup": {"zarr_format": 2}})
    assert codes(report) == ["nesting", "nesting"]
    assert list(report.arrays) == ["a"]


def test_array_at_the_root_is_a_warning() -> None:
    report = validate({".zarray": ZARRAY})
    assert codes(report) == ["root-array"]
    assert report.ok


def test_many_references_are_checked_in_columns(tmp_path: Path) -> None:
    document = References(make_flat(300, 311)).to_kerchunk()
    document["refs"]["image/7.7"] = ["file:///data/folder/image_000000.tif", 5, -1]
    report = validate(document)
    assert codes(report) == ["value"]
    assert report.arrays["image"]["n_missing"] == 1


# ---- files


def test_files_as_json_and_parquet(tmp_path: Path) -> None:
    group = make_group(tmp_path)
    References(group).write_fsspec(tmp_path / "refs.json")
    write_parquet(group, tmp_path / "refs.parquet")
    for name in ("refs.json", "refs.parquet"):
        report = validate(tmp_path / name, sources=True, pixels="all")
        assert report.url == str(tmp_path / name)
        # the files here are other than their record says, in time and ETag, and there is no record
        # of what is in them
        assert {finding.code for finding in report.findings} <= {"stale", "not-compared"}
        assert list(report.arrays) == [path for path, _ in group.arrays()]


def test_files_that_are_not_documents(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        validate(tmp_path / "none.json")
    for content in (b"", b"{", b"[1]", b"\xff"):
        (tmp_path / "refs.json").write_bytes(content)
        report = validate(tmp_path / "refs.json")
        assert codes(report)[0] == "document"
        assert not report.ok


def test_a_parquet_folder_elsewhere() -> None:
    write_parquet(make_flat(2, 2), "memory://validation/refs.parquet")
    report = validate("memory://validation/refs.parquet")
    assert (report.findings, report.arrays["image"]["n_stored"]) == ([], 4)


def test_a_bad_parquet_folder(tmp_path: Path) -> None:
    write_parquet(make_flat(2, 2), tmp_path / "refs.parquet")
    (tmp_path / "refs.parquet" / ".zmetadata").write_text("{}")
    assert codes(validate(tmp_path / "refs.parquet")) == ["document"]


# ---- sources and pixels


@pytest.fixture
def image(tmp_path: Path) -> Path:
    values = np.random.default_rng(3).integers(0, 50, (3, 70, 50)).astype(np.uint16)
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, values, tile=(16, 32), compression="zlib", predictor=2,
                     photometric="minisblack")  # fmt: skip
    tiffref.scan(path).write_fsspec(tmp_path / "refs.json")
    return path


def test_pixels_of_a_good_file(image: Path) -> None:
    report = validate(image.with_name("refs.json"), sources=True, pixels="all")
    assert report.findings == []
    assert report.n_chunks_compared == report.arrays["image"]["n_chunks"] == 3 * 5 * 2
    report = validate(image.with_name("refs.json"), pixels=4)
    assert (report.findings, report.n_chunks_compared) == ([], 4)


@pytest.mark.parametrize("form", ["json", "json3", "parquet"])
@pytest.mark.parametrize(("n_cut", "code"), [(100, "damaged"), (700, "left-out")])
def test_a_file_that_was_cut_off_when_it_was_scanned(
    tmp_path: Path, form: str, n_cut: int, code: str
) -> None:
    """Of an OME-TIFF, the description is lost first, then the end of the smaller level."""
    data = np.random.default_rng(0).integers(0, 255, (64, 64), "u1")
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tif:
        tif.write(data, subifds=1, tile=(32, 32), compression="zlib")
        tif.write(data[::2, ::2], subfiletype=1, tile=(32, 32), compression="zlib")
    whole = (tmp_path / "a.ome.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[:-n_cut])
    (tmp_path / "b.tif").write_bytes(whole)
    for name, is_whole in (("a.tif", False), ("b.tif", True)):
        with pytest.warns((MetadataWarning, TruncationWarning)) if not is_whole else nullcontext():
            references = tiffref.scan(tmp_path / name)
        path = tmp_path / f"{name}.{form}"
        if form == "parquet":
            references.to_parquet(path)
        else:
            references.write_fsspec(path, zarr_format=3 if form == "json3" else 2)
        report = validate(path, pixels="all", sources=True)
        assert report.ok
        found = {finding.code: str(finding) for finding in report.findings}
        assert code in found if not is_whole else found == {}
        assert str(tmp_path) not in found.get("damaged", "")


def damage(name: str) -> None:
    """Let the next IFD, of which there is none, be past the end."""
    with tifffile.TiffFile(name) as tif:
        end = tif.pages[0].offset + 2 + 12 * len(tif.pages[0].tags)
    with Path(name).open("r+b") as file:
        file.seek(end)
        file.write(b"\0\0\1\0")


def damaged_codes(references: References, path: Path) -> list[str]:
    references.write_fsspec(path)
    return codes(validate(path, sources=True, pixels="all"))


@pytest.mark.parametrize("n_damaged", [0, 1, 2])
def test_a_damaged_file_of_a_sequence(tmp_path: Path, n_damaged: int) -> None:
    """Its pixels are there, but it once had more pages; so in files that were appended."""
    names = [str(tmp_path / f"t{n}.tif") for n in range(3)]
    for name in names:
        tifffile.imwrite(name, np.eye(16, dtype="u1"), metadata=None)
    assert damaged_codes(tiffref.scan_sequence(names), tmp_path / "whole.json") == []
    damage(names[n_damaged])
    for n_first in (3, 2):
        with pytest.warns(TruncationWarning, match="next IFD"):
            references = tiffref.scan_sequence(names[:n_first])
            if n_first < 3:
                references = tiffref.append_sequence(references, names[n_first:])
        assert damaged_codes(references, tmp_path / f"{n_first}.json") == ["damaged"]


@pytest.mark.parametrize("form", ["json", "json3", "parquet"])
def test_a_truncated_strip_that_decodes_in_part(tmp_path: Path, form: str) -> None:
    data = np.random.default_rng(0).integers(0, 255, (64, 64), "u1")
    tifffile.imwrite(tmp_path / "a.tif", data, compression="jpeg", rowsperstrip=64, metadata=None)
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-200])
    with pytest.warns(TruncationWarning):
        references = tiffref.scan(tmp_path / "a.tif", allow_holes=True)
    path = tmp_path / f"refs.{form}"
    references.write_fsspec(path, zarr_format=3 if form == "json3" else 2)
    assert codes(validate(path)) == ["damaged"]


def test_a_missing_file(image: Path) -> None:
    image.unlink()
    report = validate(image.with_name("refs.json"), sources=True)
    assert codes(report) == ["unreachable"]
    assert str(image) in report.findings[0].what
    assert validate(image.with_name("refs.json")).ok


def test_a_file_that_changed(image: Path) -> None:
    image.write_bytes(image.read_bytes() + b"more")
    report = validate(image.with_name("refs.json"), sources=True)
    assert codes(report) == ["stale"]


def test_a_range_past_the_end(image: Path) -> None:
    document = json.loads(image.with_name("refs.json").read_text())
    size = image.stat().st_size
    document["refs"]["image/1.2.0"] = [f"file://{image}", size - 10, 11]
    report = validate(document, sources=True)
    assert codes(report) == ["range"]
    assert report.findings[0].key == "image chunk (1, 2, 0)"
    assert report.findings[0].got == f"end at {size + 1}"


def test_two_chunks_exchanged(image: Path) -> None:
    document = json.loads(image.with_name("refs.json").read_text())
    refs = document["refs"]
    refs["image/0.0.0"], refs["image/1.0.0"] = refs["image/1.0.0"], refs["image/0.0.0"]
    assert validate(document, sources=True).ok  # only the pixels tell
    report = validate(document, pixels="all")
    assert codes(report) == ["pixels"]
    assert report.findings[0].key == "image chunk (0, 0, 0)"


def test_a_range_that_does_not_decode(image: Path) -> None:
    document = json.loads(image.with_name("refs.json").read_text())
    document["refs"]["image/2.0.0"] = [f"file://{image}", 0, 40]
    report = validate(document, pixels="all")
    assert codes(report) == ["undecodable"]
    assert report.findings[0].key == "image chunk (2, 0, 0)"


def test_a_changed_file_is_reported_once(image: Path) -> None:
    tifffile.imwrite(image, np.zeros((3, 70, 50), np.uint16), photometric="minisblack")
    report = validate(image.with_name("refs.json"), sources=True, pixels=2)
    assert codes(report) == ["stale"]


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    whole = np.arange(128 * 96, dtype=np.uint16).reshape(128, 96)
    for row in range(2):
        for column in range(2):
            part = whole[row * 64 : row * 64 + 64, column * 48 : column * 48 + 48]
            tifffile.imwrite(tmp_path / f"r{row}_c{column}.tif", part, tile=(16, 16),
                             compression="zlib")  # fmt: skip
            # the last strip is short: it lies in the document
            tifffile.imwrite(tmp_path / f"s{row}_c{column}.tif", part, rowsperstrip=40,
                             compression="zlib")  # fmt: skip
    return tmp_path


SEQUENCES = {
    # name: (files, how they are joined, chunks to compare)
    "stacked": ("r{row}_c{column}.tif", {}, 4 * 12),
    "joined": ("r{row}_c{column}.tif", {"concat": {"row": "y", "column": "x"}}, 4 * 12),
    "both": ("r{row}_c{column}.tif", {"concat": {"column": "x"}}, 4 * 12),
    "inlined": ("s{row}_c{column}.tif", {}, 4 * 2),
    "holes": ("r{row}_c{column}.tif", {"allow_holes": True}, 3 * 12),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_each_file_of_a_sequence_is_compared(tiles: Path, name: str) -> None:
    files, options, n_chunks = SEQUENCES[name]
    if name == "holes":
        (tiles / "r1_c0.tif").unlink()
    document = tiffref.scan_sequence(str(tiles / files), **options).to_kerchunk()
    report = validate(document, pixels="all")
    assert (report.findings, report.n_chunks_compared) == ([], n_chunks)


def test_two_files_of_a_sequence_exchanged(tiles: Path) -> None:
    for name in ("stacked", "joined"):
        files, options, _ = SEQUENCES[name]
        document = tiffref.scan_sequence(str(tiles / files), **options).to_kerchunk()
        # the document takes the second tile of a file for its first
        first, second = [key for key in document["refs"] if key.startswith("image/0")][:2]
        document["refs"][first] = document["refs"][second]
        assert codes(validate(document, pixels="all")) == ["pixels"]


def test_files_that_tifffile_cannot_decode_are_named_once(
    tiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tiffref.scan_sequence(str(tiles / "r{row}_c{column}.tif")).to_kerchunk()

    def fail(*_: object) -> None:
        raise ValueError("no decoder")

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", fail)
    report = validate(document, pixels="all")
    (finding,) = report.findings
    assert (finding.code, finding.severity, finding.n_more) == ("not-compared", "warning", 47)
    assert "tifffile cannot decode it: ValueError: no decoder" in finding.what
    assert report.n_chunks_compared == 0


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("axes", ["as-stored", "ngff"])
def test_a_selected_level_is_compared(tmp_path: Path, zarr_format: int, axes: Any) -> None:
    path = tmp_path / "a.ome.tif"
    write_rgb_pyramid(path, "zlib")
    references = tiffref.scan(path, level=1, axes=axes)
    document = references.to_kerchunk(zarr_format)
    report = validate(document, pixels="all")
    n_chunks = references.group["image"].manifest.n_chunks
    assert (report.findings, report.n_chunks_compared) == ([], n_chunks)
    first, second = [key for key in document["refs"] if re.search(r"image/[\d./c]+$", key)][:2]
    document["refs"][first] = document["refs"][second]
    assert codes(validate(document, pixels="all")) == ["pixels"]


@pytest.mark.parametrize(
    ("form", "byteorder"), [("json2", "<"), ("json2", ">"), ("json3", ">"), ("parquet", "<")]
)
@pytest.mark.parametrize(("axes", "series"), [("as-stored", None), ("bands-first", 0)])
def test_selected_pages_are_compared(
    tmp_path: Path, form: str, byteorder: Any, axes: Any, series: int | None
) -> None:
    pixels = np.random.default_rng(0).integers(0, 999, (3, 40, 50, 3), np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, byteorder=byteorder, photometric="rgb", tile=(32, 32),
                     compression="zlib")  # fmt: skip
    keys: Any = ((-1, 1), ([2], 1), ((2, 0), 2), (slice(1, None), 2), (slice(None, None, -2), 2))
    for key, n_pages in keys:
        references = tiffref.scan(path, key=key, series=series, axes=axes)
        document: Any = references.to_kerchunk(3 if form == "json3" else 2)
        if form == "parquet":
            document = tmp_path / f"{len(list(tmp_path.iterdir()))}.parq"
            references.to_parquet(document)
        report = validate(document, pixels="all")
        assert (report.findings, report.n_chunks_compared) == ([], 4 * n_pages)
        others = tiffref.scan(path, key=[1] * n_pages, series=series, axes=axes)
        wrong = replace(others, series=references.series)
        assert codes(validate(wrong, pixels="all")) == ["pixels"]


def test_the_pages_of_a_sequence_are_compared(tiles: Path) -> None:
    for path in tiles.glob("r*.tif"):
        with tifffile.TiffWriter(path, append=True) as tif:
            tif.write(tifffile.imread(path) + 1, tile=(16, 16), compression="zlib")
    names = str(tiles / "r{row}_c{column}.tif")
    references = tiffref.scan_sequence(names, key=1)
    report = validate(references, pixels="all")
    assert (report.findings, report.n_chunks_compared) == ([], 4 * 12)
    other = tiffref.scan_sequence(names, key=0)
    assert codes(validate(replace(other, series=references.series), pixels="all")) == ["pixels"]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_wells_are_compared(tiles: Path, zarr_format: int) -> None:
    references = tiffref.scan_sequence(str(tiles / "r{row}_c{column}.tif"), layout="hcs")
    document = references.to_kerchunk(zarr_format)
    report = validate(document, pixels="all")
    assert (report.findings, report.n_chunks_compared) == ([], 4 * 12)
    first, second = [key for key in document["refs"] if re.search(r"image/[\d./c]+$", key)][:2]
    document["refs"][first] = document["refs"][second]
    assert codes(validate(document, pixels="all")) == ["pixels"]


def test_what_is_not_compared_is_reported(tiles: Path) -> None:
    for path in tiles.glob("r*.tif"):
        with tifffile.TiffWriter(path, append=True) as tif:
            tif.write(np.zeros((5, 6), np.uint8))
    document = tiffref.scan_sequence(str(tiles / "r{row}_c{column}.tif"), series=0, layout="hcs")
    (first, *_) = findings = validate(document, pixels="all").findings
    assert [one.code for one in findings] == ["not-compared"] * 4
    assert "several images" in first.what
    foreign = tiffref.scan(tiles / "r0_c0.tif").to_kerchunk()
    del foreign["refs"][".zattrs"]
    report = validate(foreign, pixels="all")
    assert (codes(report), report.n_chunks_compared) == (["not-compared"] * 2, 0)
    assert "which image of the TIFF" in report.findings[0].what


def test_open_references(image: Path, tmp_path: Path) -> None:
    references = tiffref.scan(image)
    report = validate(references, sources=True, pixels="all")
    assert (report.findings, report.url) == ([], None)
    assert (
        report.n_chunks_compared
        == validate(references.to_kerchunk(), pixels="all").n_chunks_compared
        > 0
    )
    references.write_fsspec(tmp_path / "refs.parq")
    assert (
        validate(References.open(tmp_path / "refs.parq"), pixels="all").to_json()
        == report.to_json()
    )
    image.write_bytes(image.read_bytes() + b"0")
    assert codes(validate(references, sources=True)) == ["stale"]
    with pytest.raises(InvalidReferences, match="cannot open int as references"):
        validate(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["stacked", "joined"])
def test_of_large_images_only_the_chunks_are_decoded(
    name: str, tiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiffref.validation._MAX_DECODED_BYTES", 10)
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", None)
    files, options, n_chunks = SEQUENCES[name]
    document = tiffref.scan_sequence(str(tiles / files), **options).to_kerchunk()
    report = validate(document, pixels="all")
    assert (report.findings, report.n_chunks_compared) == ([], n_chunks)
    first, second = [key for key in document["refs"] if key.startswith("image/0")][:2]
    document["refs"][first] = document["refs"][second]
    assert codes(validate(document, pixels="all")) == ["pixels"]


@pytest.mark.parametrize("nodata", [None, 7])
def test_chunks_that_large_images_do_not_store(
    nodata: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sparse.tif"
    extra = [] if nodata is None else [(42113, 2, 0, str(nodata), True)]
    with tifffile.TiffWriter(path) as tif:
        tif.write((np.full((16, 16), n, "u2") if n < 5 else None for n in range(6)), shape=(32, 48),
                  dtype="u2", tile=(16, 16), extratags=extra, metadata=None)  # fmt: skip
    document = tiffref.scan(path).to_kerchunk()
    assert "image/1.2" not in document["refs"]
    for limit in (10, 1 << 20):
        monkeypatch.setattr("tiffref.validation._MAX_DECODED_BYTES", limit)
        report = validate(document, pixels="all")
        assert (report.findings, report.n_chunks_compared) == ([], 6)


def test_only_allowed_sources_are_opened(image: Path) -> None:
    refs = image.with_name("refs.json")
    assert validate(refs, sources=True, pixels=1, allow=[str(image.parent)]).ok
    report = validate(refs, sources=True, pixels=1, allow=["s3://bucket/"])
    assert codes(report) == ["not-allowed"]
    assert report.n_chunks_compared == 0
    document = json.loads(refs.read_text())
    document["refs"]["image/0.0.0"][0] = f"file://{image.parent}/../secret"
    assert codes(validate(document, sources=True, allow=[str(image.parent)])) == ["not-allowed"]
    (finding,) = validate(document, allow="s3://bucket/data/").findings
    assert finding.expected == "s3://bucket/data/"


def test_unreachable_sources(image: Path) -> None:
    """A file system that tells nothing of a source is asked for a byte of it."""
    pytest.importorskip("s3fs")
    references = tiffref.scan(image)
    document = json.loads(
        json.dumps(references.to_kerchunk()).replace(image.resolve().as_uri(), "s3://b/a.tif")
    )
    options = {"endpoint_url": "http://127.0.0.1:9", "key": "a", "secret": "b",
               "config_kwargs": {"retries": {"max_attempts": 0}}}  # fmt: skip
    report = validate(document, sources=True, source_options=options)
    assert codes(report) == ["unreachable"]
    report = validate(document, pixels=1, source_options=options)
    assert codes(report) == ["undecodable"]


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
@pytest.mark.parametrize("axes", ["as-stored", "ngff", "bands-first"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_pixels_of_images_whose_axes_are_in_another_order(
    tmp_path: Path, zarr_format: int, axes: str
) -> None:
    from microscopes import write_imagej_stack, write_rgb_pyramid

    write_rgb_pyramid(tmp_path / "a.ome.tif")
    write_imagej_stack(tmp_path / "b.tif")
    for name in ("a.ome.tif", "b.tif"):
        document = tmp_path / "refs.json"
        tiffref.scan(tmp_path / name, axes=axes).write_fsspec(document, zarr_format=zarr_format)
        report = tiffref.validate(document, sources=True, pixels="all")
        assert report.findings == []
        assert report.n_chunks_compared
