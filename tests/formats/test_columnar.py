"""Documents whose references are spaced alike need no general reader; all others are read by it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest

from tiffref.errors import InvalidReferences
from tiffref.formats import kerchunk_read, load
from tiffref.formats.kerchunk import to_kerchunk, write_json
from tiffref.formats.kerchunk_read import parse_document, read_document
from tiffref.model.array import Array, Group
from tiffref.model.codec import SegmentCodec
from tiffref.model.manifest import Manifest, Source


def make_array(manifest: Manifest) -> Array:
    """Return an array of one sample in each chunk."""
    shape, dims = manifest.shape, tuple(f"d{n}" for n in range(len(manifest.shape)))
    codec = SegmentCodec((1, 1, 1, 1), "<u2")
    return Array(shape, (1,) * len(shape), np.dtype("u2"), dims, (codec,), manifest)


def _array(grid: tuple[int, ...], sources: list[str], seed: int = 0, n_missing: int = 0) -> Array:
    """An array of one-sample chunks at offsets of 1 to 17 digits, sources in runs."""
    rng = np.random.default_rng(seed)
    n = int(np.prod(grid))
    offset = 10 ** rng.integers(0, 17, n) + rng.integers(0, 9, n)
    length = 10 ** rng.integers(0, 6, n) + rng.integers(0, 9, n)
    manifest = Manifest.from_columns(
        grid, [Source(url) for url in sources], offset, length,
        index=np.sort(rng.integers(0, len(sources), n)),
    )  # fmt: skip
    manifest.source[:n_missing] = -1
    return make_array(manifest)


GROUPS = {
    "one": Group({"image": _array((7, 130), ["/data/a.tif"])}),
    "pyramid": Group(
        {
            "image": _array((12, 11), ["s3://b/a.tif"]),
            "image_1": _array((6, 6), ["s3://b/a.tif"], 1),
            "image_2": _array((3, 3), ["s3://b/a.ovr"], 2),
        }
    ),
    "nested": Group({"a": Group({"1": _array((30,), ["/x 1.tif"]), "c": _array((4, 5), ["/y"])})}),
    "sources": Group({"image": _array((4, 4, 4), [f"/data/[{n}] \"'é,.tif" for n in range(5)])}),
    "holes": Group({"image": _array((40, 3), ["/a.tif", "/b.tif"], n_missing=17)}),
    "inlined": Group(
        {
            "x": Array.from_values(np.int16([7]), ("x",)),
            "image": make_array(
                _array((5, 50), ["/a"]).manifest.with_inlined({3: b"c", 249: b"d"})
            ),
        }
    ),
}


def _write(tmp_path: Path, group: Group, **options: object) -> Path:
    path = tmp_path / "refs.json"
    write_json(group, path, **options)
    return path


def _refuse(*args: object) -> None:
    raise AssertionError("the general reader was asked")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", GROUPS)
def test_our_documents_need_no_general_reader(
    name: str, zarr_format: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path, GROUPS[name], zarr_format=zarr_format)
    expected = parse_document(json.loads(path.read_text()))
    monkeypatch.setattr(kerchunk_read, "parse_json", _refuse)
    found = read_document(path)
    assert dict(found.group.arrays()).keys() == dict(expected.group.arrays()).keys()
    for name, array in expected.group.arrays():
        other = found.group[name]
        assert isinstance(other, Array)
        assert other.manifest == array.manifest
        assert other.manifest.source.dtype == array.manifest.source.dtype
        assert (other.shape, other.attributes) == (array.shape, array.attributes)


@pytest.mark.parametrize("slash", ["/", r"\/"])
def test_the_ranges_of_an_array_may_be_apart(slash: str, tmp_path: Path) -> None:
    array = make_array(_array((250,), ["/a"]).manifest.with_inlined({3: b"c", 149: b"d"}))
    document = to_kerchunk(Group({"image": array}))
    chunks = {f"image/{n}": document["refs"].pop(f"image/{n}") for n in range(250)}
    document["refs"] |= chunks
    path = tmp_path / "refs.json"
    path.write_text(json.dumps(document).replace("image/2", f"image{slash}2"))
    assert read_document(path).group["image"].manifest == array.manifest


def test_blocks_and_layouts_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiffref.formats.columnar._BLOCK_BYTES", 300)
    monkeypatch.setattr(kerchunk_read, "parse_json", _refuse)
    group = GROUPS["pyramid"]
    found = read_document(_write(tmp_path, group)).group
    for name, array in group.arrays():
        assert found[name].manifest == array.manifest


def _spaced(document: dict, separator: str, colon: str, inner: str) -> str:
    """Return a document spaced in some way, byte ranges otherwise than the rest."""
    refs = document.get("refs", document)
    values = {
        key: json.dumps(value)
        if isinstance(value, str)
        else f"[{inner}{json.dumps(value[0])},{inner}{value[1]},{inner}{value[2]}{inner}]"
        for key, value in refs.items()
    }
    body = f",{separator}".join(f"{json.dumps(key)}{colon}{text}" for key, text in values.items())
    wrapped = f'{{"version":{inner}1,"refs":{{{body}}}{inner}}}' if "refs" in document else ""
    return wrapped or f"{{{separator}{body}{inner}}}"


SPACINGS = {
    "json.dumps": json.dumps,
    "compact": lambda document: json.dumps(document, separators=(",", ":")),
    "indented": lambda document: json.dumps(document, indent=2),
    "ujson": lambda document: json.dumps(document).replace("/", r"\/"),
    "tifffile": lambda document: _spaced(document, "\n ", ": ", " "),
    "odd": lambda document: _spaced(document, "\r\n\t", " : ", "\n"),
}


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", GROUPS)
def test_documents_with_other_spacing_need_no_general_reader(
    name: str, spacing: str, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiffref.formats.columnar._BLOCK_BYTES", 1000)
    document = to_kerchunk(GROUPS[name], version=version)
    path = tmp_path / "refs.json"
    path.write_text(SPACINGS[spacing](document), newline="")
    monkeypatch.setattr(kerchunk_read, "parse_json", _refuse)
    found = read_document(path).group
    for path_inside, array in GROUPS[name].arrays():
        assert found[path_inside].manifest == array.manifest


@pytest.mark.filterwarnings("ignore:.*the provenance:tiffref.MetadataWarning")
@pytest.mark.parametrize("spacing", SPACINGS)
def test_any_damage_is_left_to_the_general_reader(
    spacing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiffref.formats.columnar._BLOCK_BYTES", 1000)
    random = Random(spacing)
    signs = '"{}[],: 0123456789\n\t\\/ax'
    n_read = 0
    documents = [to_kerchunk(GROUPS["nested"], version=version) for version in (0, 1)]
    for _ in range(60):
        text = SPACINGS[spacing](random.choice(documents))
        at = random.randrange(len(text))
        n_lost, n_new = random.choice([(0, 1), (1, 0), (1, 1), (70, 0)])
        text = text[:at] + "".join(random.choices(signs, k=n_new)) + text[at + n_lost :]
        short = kerchunk_read._parse_lines(text.encode())
        if short is None:
            continue
        n_read += 1
        general = parse_document(kerchunk_read.parse_json(text.encode(), "refs.json")).group
        for name, array in short.group.arrays():
            assert general[name].manifest == array.manifest
    assert n_read > 3  # damage to an address is none


@pytest.mark.parametrize("is_changed", [False, True])
def test_large_files_are_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_changed: bool
) -> None:
    monkeypatch.setattr(load, "_LARGE_BYTES", 1000)
    monkeypatch.setattr(load, "_PART_BYTES", 100)
    monkeypatch.setattr("tiffref.formats.columnar._BLOCK_BYTES", 500)
    path = _write(tmp_path, GROUPS["one"])
    if is_changed:
        monkeypatch.setattr(load.FileText, "is_changed", True)
    else:
        monkeypatch.setattr(kerchunk_read, "fetch_text", _refuse)
        monkeypatch.setattr(kerchunk_read, "parse_json", _refuse)
    found = read_document(path).group["image"]
    assert found.manifest == GROUPS["one"]["image"].manifest


def test_a_large_file_of_another_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_LARGE_BYTES", 1000)
    document = to_kerchunk(GROUPS["one"])
    document["templates"] = {"unused": "text"}
    path = tmp_path / "refs.json"
    path.write_text(json.dumps(document))
    assert read_document(path).group["image"].manifest == GROUPS["one"]["image"].manifest


def test_text_in_a_file_is_searched_as_text_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_PART_BYTES", 7)
    random = Random(1)
    data = bytes(random.choices(b"ab", k=300))
    path = tmp_path / "text"
    path.write_bytes(data)
    with path.open("rb") as file:
        text = load.FileText(file)
        assert (len(text), text[:], text[3:9], text[290:400]) == (300, data, data[3:9], data[290:])
        for _ in range(300):
            part = bytes(random.choices(b"ab", k=random.randrange(1, 9)))
            start, stop = sorted(random.choices(range(301), k=2))
            assert text.find(part, start, stop) == data.find(part, start, stop)
            assert text.rfind(part, start, stop) == data.rfind(part, start, stop)
        assert not text.is_changed
        path.write_bytes(data[:-1])
        assert text.is_changed


CHANGES = {
    "leading zero": ('"image/0.1":', '"image/0.01":'),
    "leading zero of an offset": (",12345,", ",012345,"),
    "sign": (",12345,", ",-12345,"),
    "space": (",12345,", ", 12345,"),
    "other digits": (",12345,", ",1234\\u0665,"),
    "float": (",12345,", ",12345.0,"),
    "too large": (",12345,", ",12345678901234567890,"),
    "empty": (",12345,7]", ",12345,0]"),
    "outside of the grid": ('"image/0.1":', '"image/0.9":'),
    "named twice": ('"image/0.1":', '"image/0.0":'),
    "named twice, once with text": ('"image/.zarray"', '"image/0.0":"x",\n"image/.zarray"'),
    "another key": ('"image/0.1":', '"image/0.x":'),
    "another array": ('"image/0.1":', '"other/0.1":'),
    "no comma": ("],\n", "]\n"),
    "a comma too many": ("]\n}}", "],\n}}"),
    "template": ("file:///a.tif", "{{u}}a.tif"),
    "whole file": (",12345,7]", "]"),
    "no address": ("file:///a.tif", ""),
    "bad escape": ("file:///a.tif", "file:///\\x.tif"),
    "two lines in one": ("],\n", "],"),
    "metadata as an object": ('".zgroup":"{\\"zarr_format\\":2}"', '".zgroup":{"zarr_format":2}'),
    "metadata last": (
        '".zgroup":"{\\"zarr_format\\":2}",\n',
        "",
    ),
    "cut": ("\n}}\n", ""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_difference_is_left_to_the_general_reader(change: str, tmp_path: Path) -> None:
    manifest = Manifest.from_columns((1, 4), Source("/a.tif"), [12345, 20, 30, 40], [7] * 4)
    path = _write(tmp_path, Group({"image": make_array(manifest)}))
    text = path.read_text()
    old, new = CHANGES[change]
    assert old in text
    changed = text.replace(old, new)
    path.write_text(changed)

    def outcome(read: object) -> object:
        try:
            return read().group["image"].manifest
        except (InvalidReferences, KeyError) as error:
            return type(error), getattr(error, "what", None)

    general = outcome(lambda: parse_document(kerchunk_read.parse_json(changed.encode(), str(path))))
    assert outcome(lambda: read_document(path)) == general


def test_chunks_cost_no_object(tmp_path: Path) -> None:
    n = 20_000
    manifest = Manifest.from_columns((n,), Source("/a.tif"), np.arange(1, n + 1), np.full(n, 9))
    path = _write(tmp_path, Group({"image": make_array(manifest)}))
    read_document(path)
    before = sys.getallocatedblocks()
    kept = read_document(path)
    assert sys.getallocatedblocks() - before < n / 10
    assert kept.group["image"].manifest == manifest
