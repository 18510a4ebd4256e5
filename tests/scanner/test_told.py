"""Documents of told files are those that a scan in full writes, whatever differs."""

from __future__ import annotations

import copy
import io
import json
import pickle
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile

import tiffref
from tiffref.errors import TiffrefError
from tiffref.scanner import moved, tiff, told
from tiffref.scanner.similar import SimilarFiles

GEO = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> SimilarFiles:
    memory = SimilarFiles()
    monkeypatch.setattr(tiff, "_SIMILAR", memory)
    return memory


@pytest.fixture
def n_described(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List the files that are described."""
    urls: list[str] = []
    describe = told.describe
    monkeypatch.setattr(
        told, "describe", lambda facts, *a: urls.append(facts.source.url) or describe(facts, *a)
    )
    return urls


def write(path: Path, x: float = 3e5, y: float = 5e6, **options: object) -> Path:
    seed = hash((path.name, x)) % 1000
    data = np.random.default_rng(seed).integers(0, 9, (80, 96), np.uint16)
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, x, y, 0.0), True),
        (34735, "H", len(GEO), GEO, True),
    ]
    how = {"tile": (32, 32), "compression": "zlib", "metadata": None, **options}
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, data, extratags=tags, **how)
    return path


def written(references: tiffref.References, **options: object) -> bytes:
    file = io.BytesIO()
    references.write_fsspec(file, **options)  # type: ignore[arg-type]
    return file.getvalue()


def check(path: Path, **options: object) -> bytes:
    """Hold the document of a file against that of a scan in full."""
    quick = written(tiffref.scan(path), **options)
    # what is strict is scanned in full
    assert quick == written(tiffref.scan(path, strict=True), **options)
    return quick


def make(n: int, folder: Path) -> Path:
    """Write a file that differs from others in place and both dates."""
    made = f"2022:05:{n + 1:02} 10:00:00"
    name = f"LC08_L2SP_193024_202205{n + 1:02}_20220511_02_T1_SR_B4.tif"
    return write(folder / name, 3e5 + 960 * n, 5e6 - 480 * (n % 3), datetime=made)


def test_documents_are_filled_in(tmp_path: Path, n_described: list[str]) -> None:
    documents = [check(make(n, tmp_path)) for n in range(12)]
    assert len(set(documents)) == 12
    # two in full, one to take to pieces, some to prove these by; and each of them by `check`
    assert len(n_described) - 12 <= 6


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_nothing_is_filled_in_that_is_not_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_described: list[str], missing: int
) -> None:
    spell = moved.spell_changing

    def forgetful(changing: object, *rest: object) -> tuple[bytes, ...]:
        texts = spell(changing, *rest)  # type: ignore[arg-type]
        return tuple(text for n, text in enumerate(texts) if n != missing)

    monkeypatch.setattr(told, "spell_changing", forgetful)
    for n in range(8):
        check(make(n, tmp_path))
    assert len(n_described) == 16


def test_a_place_with_other_texts_is_written_out(tmp_path: Path) -> None:
    for n in range(8):
        check(write(tmp_path / f"{n}.tif", x=3e5 + n, y=5e6 + n))
    for x in (-1e300, 1e308, 0.0, -0.0, 1e-320, 123456.78901234567):
        check(write(tmp_path / "odd.tif", x=x))


def test_addresses_may_be_given(tmp_path: Path) -> None:
    for n in range(8):
        path = make(n, tmp_path)
        there = json.loads(check(path, url="https://host/data"))
        assert there["refs"]["image/0.0"][0] == f"https://host/data/{path.name}"
        here = json.loads(check(path))
        assert here["refs"]["image/0.0"][0] == f"file://{path}"
        for options in ({"zarr_format": 3}, {"version": 0}, {"groupname": "a"},
                        {"templatename": "u"}):  # fmt: skip
            check(path, **options)


def test_names_may_be_of_any_kind(tmp_path: Path) -> None:
    for n, name in enumerate(("a", "b", "c", "d", 'q"uote', "a b%20c", "ä\u2028", "image", "5000")):
        check(write(tmp_path / f"{name}.tif", x=3e5 + n))


def test_groups_are_made_when_asked_for(tmp_path: Path, n_described: list[str]) -> None:
    for n in range(3):
        path = make(n, tmp_path)
        references = tiffref.scan(path)
    assert len(n_described) == 2 and references.sources[0].url == str(path)
    full = tiffref.scan(path, strict=True)
    assert references.to_kerchunk() == full.to_kerchunk()
    assert references.group is references.group
    for other in (pickle.loads(pickle.dumps(tiffref.scan(path))), copy.copy(tiffref.scan(path))):
        assert other.to_kerchunk() == full.to_kerchunk()
    added = tiffref.scan(path, zattrs={"a": 1})
    assert added.group.attributes["a"] == 1 and b'\\"a\\":1' in written(added)
    with pytest.raises(AttributeError):
        references.nothing  # noqa: B018


def test_what_is_changed_in_a_group_is_written(tmp_path: Path) -> None:
    for n in range(8):
        references = tiffref.scan(make(n, tmp_path))
        if n % 2:
            references.group.attributes["mine"] = n  # type: ignore[index]
        assert (b"mine" in written(references)) == n % 2


def test_threads_share_what_they_know(tmp_path: Path) -> None:
    paths = [make(n, tmp_path) for n in range(24)]
    with ThreadPoolExecutor(6) as pool:
        quick = list(pool.map(lambda path: written(tiffref.scan(path)), paths * 3))
    full = [written(tiffref.scan(path, strict=True)) for path in paths] * 3
    assert quick == full


def test_ome_that_names_its_file_is_not_told(tmp_path: Path, n_described: list[str]) -> None:
    data = np.zeros((2, 16, 16), "u1")
    for names_file in (False, True):
        first = tmp_path / f"{names_file}0.ome.tif"
        tifffile.imwrite(first, data, metadata={"axes": "ZYX"}, compression="zlib",
                         photometric="minisblack")  # fmt: skip
        if names_file:
            text = tifffile.tiffcomment(first)
            assert isinstance(text, str) and "FileName" not in text
            plain = '<TiffData IFD="0" PlaneCount="2"/>'
            uuid = text.partition('UUID="')[2].partition('"')[0]
            named = f'<UUID FileName="{first.name}">{uuid}</UUID>'
            tifffile.tiffcomment(first, text.replace(plain, f"{plain[:-2]}>{named}</TiffData>"))
        for n in range(1, 4):
            shutil.copy(first, tmp_path / f"{names_file}{n}.ome.tif")
        n_described.clear()
        for n in range(4):
            tiffref.scan(tmp_path / f"{names_file}{n}.ome.tif")
        assert len(n_described) == (4 if names_file else 2)


def test_segments_that_follow_one_another_are_put_together_as_ever(tmp_path: Path) -> None:
    """Whether or not they do so in the model."""
    for n, gap in enumerate((16, 16, 16, 0, 0, 16)):
        path = tmp_path / f"{n}.tif"
        tifffile.imwrite(path, np.full((64, 64), n, np.uint8), rowsperstrip=32, metadata=None)
        with tifffile.TiffFile(path) as tif:
            second = tif.pages.first.dataoffsets[1]
            place = tif.pages.first.tags[273].valueoffset
        data = bytearray(path.read_bytes())
        data[second:second] = bytes(gap)
        data[place + 4 : place + 8] = (second + gap).to_bytes(4, "little")
        path.write_bytes(data)
        assert b'"image/1.0"' in check(path) or not gap


def test_signs_of_zero_count(tmp_path: Path) -> None:
    for n in range(8):
        path = write(tmp_path / f"{n}.tif", x=3e5 + n)
        with tifffile.TiffFile(path) as tif:
            place = tif.pages.first.tags[33550].valueoffset + 16
        data = bytearray(path.read_bytes())
        data[place : place + 8] = np.float64(-0.0 if n > 5 else 0.0).tobytes()
        path.write_bytes(data)
        assert (b"-0.0]" in check(path)) == (n > 5)


@pytest.mark.parametrize("seed", range(4))
def test_changed_copies_are_told_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever byte of a directory differs, what comes out is what a scan in full gives."""
    rng = np.random.default_rng(seed)
    how: dict = [{}, {"compression": None}, {"tile": None}, {"bigtiff": True}][seed]
    paths = [write(tmp_path / f"{n}.tif", x=3e5 + n, **how) for n in range(6)]
    for path in paths:
        outcome(path)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        spans = [(tag.offset, tag.offset + 12) for tag in page.tags]
        spans += [(tag.valueoffset, tag.valueoffset + tag.valuebytecount) for tag in page.tags]
    whole = path.read_bytes()
    n_told = 0
    for _ in range(60):
        data = bytearray(whole)
        at = int(rng.integers(*spans[rng.integers(len(spans))]))
        data[at] = (data[at] ^ (1 << rng.integers(8))) if rng.random() < 0.7 else rng.integers(256)
        path.write_bytes(data[: rng.integers(len(data))] if rng.random() < 0.1 else data)
        quick, is_told = outcome(path)
        n_told += is_told
        with monkeypatch.context() as patch:
            patch.setattr(tiff, "_SIMILAR", SimilarFiles())
            assert outcome(path)[0] == quick
    assert 0 < n_told < 60


def outcome(path: Path) -> tuple[object, bool]:
    """Give what comes of a file: its document, or the kind of error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            references = tiffref.scan(path)
            return written(references), references.told is not None
        except TiffrefError as error:
            return type(error), False
