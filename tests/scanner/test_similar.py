"""Files told by the memory of `scan` are told as a scan in full would."""

from __future__ import annotations

import io
import json
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile

import tiffref
from tiffref.errors import MetadataWarning, TiffrefError
from tiffref.scanner import tiff
from tiffref.scanner.similar import SimilarFiles
from tiffref.scanner.source import LocalSource

CORPUS = Path(
    os.environ.get("TIFFREF_CORPUS", Path(__file__).parents[3] / "shared/conformance/corpus")
)
_MAX_BYTES = 4 << 20
GEO = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> SimilarFiles:
    """Give an empty memory, which counts the files that it tells."""
    memory = SimilarFiles()
    monkeypatch.setattr(tiff, "_SIMILAR", memory)
    return memory


def write(path: Path, x: float = 1e5, seed: int = 0, **how: object) -> Path:
    """Write a small georeferenced image; `how` says what is unlike the others."""
    data = np.random.default_rng(seed).integers(0, 9, (64, 64), np.uint16)
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, x, 5e6, 0.0), True),
        (34735, "H", 16, how.pop("geo", GEO), True),
    ]
    tags += how.pop("tags", [])  # type: ignore[operator]
    options = {"tile": (32, 32), "compression": "zlib", "metadata": None, **how}
    tifffile.imwrite(path, data, extratags=tags, **options)
    return path


def document(path: Path, **options: object) -> dict:
    return tiffref.scan(path, **options).to_kerchunk()  # type: ignore[arg-type]


def told(memory: SimilarFiles, path: Path) -> bool:
    """Say whether the memory tells a file, and hold what comes of it against a scan in full."""
    found = is_told(memory, path)
    quick = document(path)
    texts = {text(path), text(path)}  # taken to pieces, and filled in
    with forgotten(memory):
        assert document(path) == quick
        assert {text(path)} == texts
    return found


def text(path: Path) -> bytes:
    file = io.BytesIO()
    tiffref.scan(path).write_fsspec(file)
    return file.getvalue()


def is_told(memory: SimilarFiles, path: Path) -> bool:
    with closing(LocalSource(path)) as there:
        return any(memory.find(there, key[0]) is not None for key in memory._kinds)


@contextmanager
def forgotten(memory: SimilarFiles) -> Iterator[None]:
    """Let files be scanned in full."""
    kept = memory._kinds, memory._imprinted
    memory._kinds, memory._imprinted, memory._noted = {}, (), {}
    yield
    memory._kinds, memory._imprinted = kept
    memory._noted = {}


def learn(folder: Path, **how: object) -> None:
    for n in range(2):
        document(write(folder / f"model{n}.tif", x=2e5 + n, seed=n, **how))


def test_a_similar_file_is_told(tmp_path: Path, memory: SimilarFiles) -> None:
    document(write(tmp_path / "a.tif"))
    assert not memory._kinds, "one file is no kind"
    document(write(tmp_path / "b.tif", seed=1))
    assert len(memory._kinds) == 1
    other = write(tmp_path / "c.tif", x=3e5, seed=2, datetime="2020:01:02 03:04:05")
    assert not told(memory, other), "it has one more tag"
    assert told(memory, write(tmp_path / "d.tif", x=4e5, seed=3))
    image = tiffref.scan(tmp_path / "d.tif").group
    assert image.attributes["spatial:transform"][2] == 4e5
    with tifffile.TiffFile(tmp_path / "d.tif") as tif:
        assert image["image"].manifest.offset.tolist() == list(tif.pages.first.dataoffsets)


def test_dates_may_differ(tmp_path: Path, memory: SimilarFiles) -> None:
    learn(tmp_path, datetime="2020:01:01 00:00:00")
    other = write(tmp_path / "other.tif", seed=5, datetime="2021:01:02 03:04:05")
    assert told(memory, other)
    made = tiffref.scan(other).group["image"].attributes["date_created"]
    assert made == "2021-01-02T03:04:05"
    text = other.read_bytes().replace(b"2021:01:02 03:04:05", b"on a day in January")
    (tmp_path / "text.tif").write_bytes(text)
    assert not told(memory, tmp_path / "text.tif")


@pytest.mark.parametrize(
    "how",
    [
        {"description": "another"},
        {"geo": (*GEO[:-1], 32634)},
        {"tile": (16, 16)},
        {"compression": "lzma"},
        {"predictor": True},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"resolution": (72, 72)},
        {"tags": [(42113, "s", 2, "7", True)]},
        {"tags": [(700, "B", 4, b"abcd", True)]},
        {"tags": [(34664, "I", 1, 8, True)]},
        {"x": float("inf")},
    ],
    ids=str,
)
def test_any_difference_means_a_scan_in_full(
    tmp_path: Path, memory: SimilarFiles, how: dict
) -> None:
    learn(tmp_path)
    assert memory._kinds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MetadataWarning)
        assert not told(memory, write(tmp_path / "other.tif", **how))


def test_exif_is_not_compared_and_so_never_told(tmp_path: Path, memory: SimilarFiles) -> None:
    for n in range(3):
        path = write(tmp_path / f"{n}.tif", tags=[(34664, "I", 1, 8, True)])
        # which tifffile does not write itself
        code, exif = struct.pack("<HHI", 34664, 4, 1), struct.pack("<HHI", 34665, 4, 1)
        assert code in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(code, exif))
        document(path)
    assert not memory._kinds


def test_the_marker_of_jpeg_segments_counts(tmp_path: Path, memory: SimilarFiles) -> None:
    for n in range(3):
        data = np.random.default_rng(n).integers(0, 9, (64, 64), np.uint8)
        tifffile.imwrite(tmp_path / f"{n}.tif", data, compression="jpeg", tile=(32, 32))
        document(tmp_path / f"{n}.tif")
    assert told(memory, tmp_path / "2.tif")
    with tifffile.TiffFile(tmp_path / "2.tif") as tif:
        marker = tif.pages.first.dataoffsets[0] + 6
    data = bytearray(Path(tmp_path / "2.tif").read_bytes())
    data[marker : marker + 4] = b"JFIX" if data[marker : marker + 4] == b"JFIF" else b"JFIF"
    (tmp_path / "other.tif").write_bytes(data)
    assert not is_told(memory, tmp_path / "other.tif")


def test_other_options_are_other_scans(tmp_path: Path, memory: SimilarFiles) -> None:
    learn(tmp_path, compression=None, tile=None, rowsperstrip=16)
    other = write(tmp_path / "other.tif", compression=None, tile=None, rowsperstrip=16)
    merged = tiffref.scan(other).group["image"].manifest.n_chunks
    native = tiffref.scan(other, chunkmode="strile").group["image"].manifest.n_chunks
    assert (merged, native) == (1, 4)
    assert tiffref.scan(other, fillvalue=3).group["image"].fill_value == 3
    assert "0/image" in dict(tiffref.scan(other, layout="tree").group.arrays())
    assert tiffref.scan(other, zattrs={"a": 1}).group.attributes["a"] == 1


def test_segments_are_looked_at_as_ever(tmp_path: Path, memory: SimilarFiles) -> None:
    learn(tmp_path)
    bad = write(tmp_path / "bad.tif")
    with tifffile.TiffFile(bad) as tif:
        offset = tif.pages.first.dataoffsets[0]
    with bad.open("r+b") as file:
        file.seek(offset)
        file.write(b"no zlib")
    with pytest.raises(TiffrefError, match="segment"):
        tiffref.scan(bad)


def test_segments_behind_the_end_are_an_error_as_ever(tmp_path: Path, memory: SimilarFiles) -> None:
    learn(tmp_path)
    bad = write(tmp_path / "bad.tif")
    with tifffile.TiffFile(bad) as tif:
        place = tif.pages.first.tags[324].valueoffset
    with bad.open("r+b") as file:
        file.seek(place)
        file.write(struct.pack("<I", 1 << 30))
    with pytest.raises(TiffrefError, match="behind the end"):
        tiffref.scan(bad)


def test_defects_are_warned_of_for_each_file(tmp_path: Path, memory: SimilarFiles) -> None:
    for n in range(4):
        path = write(tmp_path / f"{n}.tif", tags=[(42112, "s", 8, "<broken", True)])
        with pytest.warns(MetadataWarning, match="XML") as caught:
            tiffref.scan(path)
        assert str(path) in str(caught[0].message)


def test_records_are_not_shared(tmp_path: Path, memory: SimilarFiles) -> None:
    learn(tmp_path)
    first = tiffref.scan(write(tmp_path / "c.tif"))
    first.series[0]["levels"][0]["path"] = "spoilt"
    first.group.attributes["spoilt"] = 1  # type: ignore[index]
    again = tiffref.scan(tmp_path / "c.tif")
    assert again.series[0]["levels"][0]["path"] == "image"
    assert "spoilt" not in again.group.attributes
    assert json.dumps(again.to_kerchunk()) == json.dumps(document(tmp_path / "c.tif"))


def test_files_of_many_pages_are_not_remembered(tmp_path: Path, memory: SimilarFiles) -> None:
    for n_pages, is_remembered in ((300, False), (20, True)):
        for n in range(3):
            how = {"metadata": None, "photometric": "minisblack", "compression": "zlib"}
            path = tmp_path / f"{n}.tif"
            tifffile.imwrite(path, np.zeros((n_pages, 8, 8), "u1"), **how)
            document(path)
        assert bool(memory._kinds) == is_remembered
    assert told(memory, path)


@pytest.mark.parametrize(("n_tags", "n_bytes"), [(1, 1 << 17), (6, 50_000)])
def test_files_with_long_tags_are_not_remembered(
    tmp_path: Path, memory: SimilarFiles, n_tags: int, n_bytes: int
) -> None:
    more = [(65000 + n, "B", n_bytes, bytes(n_bytes), True) for n in range(n_tags)]
    learn(tmp_path, tags=more)
    assert not memory._kinds
    learn(tmp_path, tags=more[:1] if n_tags > 1 else [])
    assert memory._kinds


@pytest.mark.slow
@pytest.mark.skipif(not CORPUS.is_dir(), reason="no corpus; TIFFREF_CORPUS says where it is")
def test_copies_of_all_files_are_told_alike(tmp_path: Path, memory: SimilarFiles) -> None:
    n_told = 0
    for path in sorted(CORPUS.rglob("*.tif")):
        if path.stat().st_size >= _MAX_BYTES:
            continue
        memory._kinds, memory._imprinted, memory._noted = {}, (), {}
        copies = [tmp_path / f"{n}_{path.name}" for n in range(3)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                for copy in copies:
                    copy.write_bytes(path.read_bytes())
                    document(copy)
            except TiffrefError:
                continue
            n_told += told(memory, copies[2])
        for copy in copies:
            copy.unlink()
    assert n_told
