"""Documents of strangers: nothing outside the allow-list is read, no code is run.

Each attack is a document with a secret file or host in it. All files that Python opens, all
requests that a server gets and all processes that are started are counted.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import sys
import tracemalloc
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks import BESIDE_ALLOWED, DOCUMENTS, GROUP, MEASURE, TEXTS, addresses, inlined, refs
from faulty import FaultyServer

import tiffref
from tiffref.codecs.guard import HARMLESS_BYTES
from tiffref.errors import InvalidReferences, TiffrefError, UntrustedSource
from tiffref.formats import load
from tiffref.io.allow import AllowList, location_prefix
from tiffref.references import References
from tiffref.zarr import ZarrTiffStore


class Watch:
    """What Python opens, connects to and starts while an attack runs."""

    def __init__(self) -> None:
        self.is_on = False
        self.seen: list[tuple[str, str]] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if not self.is_on:
            return
        if event in (
            "os.system",
            "subprocess.Popen",
            "os.exec",
            "os.posix_spawn",
            "pickle.find_class",
        ):
            self.seen.append((event, repr(args)))
        elif event == "socket.connect":
            self.seen.append((event, repr(args[1])))
        elif event == "open" and isinstance(args[0], str | bytes):
            self.seen.append((event, os.fsdecode(args[0])))


_WATCH = Watch()


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Watch with everything imported that reading imports."""
    references = References.from_kerchunk(inlined(bytes(16)), allow=[])
    assert not ZarrTiffStore(references)[:].any()
    _WATCH.seen.clear()
    yield _WATCH
    _WATCH.is_on = False


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    """Return the folder of a document, with links out of it, and a secret outside of it."""
    here, outside = tmp_path / "here", tmp_path / "secret"
    for folder in (here, outside, tmp_path / "here-evil"):
        folder.mkdir()
        (folder / "secret.bin").write_bytes(b"s" * 64)
    (here / "link.bin").symlink_to(outside / "secret.bin")
    (here / "out").symlink_to(outside)
    return here, outside / "secret.bin"


def read_everything(path: Path, **options: Any) -> None:
    store = ZarrTiffStore(path, **options)
    for key in list(store.keys()):
        store[key]
    store[(0,) * store.ndim]


def forbidden(watch: Watch, here: Path) -> list[tuple[str, str]]:
    """Return what was touched besides the document, and files of the interpreter's own."""
    own = (sys.prefix, sys.base_prefix, str(Path(tiffref.__file__).parent))
    return [
        (event, what)
        for event, what in watch.seen
        if not (event == "open" and (what == str(here / "refs.json") or what.startswith(own)))
    ]


def attack(watch: Watch, here: Path, document: Any, **options: Any) -> TiffrefError:
    path = here / "refs.json"
    path.write_text(json.dumps(document))
    watch.is_on = True
    with pytest.raises(TiffrefError) as caught:
        read_everything(path, **options)
    watch.is_on = False
    assert forbidden(watch, here) == []
    assert len(str(caught.value)) < 2000
    return caught.value


@pytest.mark.parametrize("way", TEXTS)
def test_addresses(
    way: str, watch: Watch, place: tuple[Path, Path], server: FaultyServer, data: bytes
) -> None:
    here, secret = place
    server.files.update({"/secret": b"s" * 64, "/database": b"s" * 64, "/data/a": b"s" * 64})
    url = addresses(str(secret), server.url)[way]
    url = url.replace("{here}", str(here)).replace("{base}", server.url)
    if way in BESIDE_ALLOWED:
        error = attack(watch, here, refs(url), allow=[f"{server.url}/data"])
    else:
        error = attack(watch, here, refs(url))
    assert isinstance(error, UntrustedSource | InvalidReferences)
    assert server.requests == []


@pytest.mark.filterwarnings("ignore:.*the provenance:tiffref.MetadataWarning")
@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents(name: str, watch: Watch, place: tuple[Path, Path]) -> None:
    here, secret = place
    document = DOCUMENTS[name](str(secret))
    tracemalloc.start()
    try:
        attack(watch, here, document)
        # two times what a chunk may harmlessly take, and the document itself
        assert tracemalloc.get_traced_memory()[1] < 3 * HARMLESS_BYTES
    finally:
        tracemalloc.stop()
    assert not Path("/tmp/tiffref-was-here").exists()


@pytest.mark.parametrize(
    "name", ["pickle compressor", "pickle v3", "pickle v3 in a shard", "codec of nobody"]
)
def test_codecs_are_refused_before_they_are_loaded(name: str) -> None:
    """Newer versions of numcodecs refuse pickles too, older ones run them."""
    with pytest.raises(InvalidReferences, match="not allowed"):
        References.from_kerchunk(DOCUMENTS[name]("/s/secret"))


PARQUET_WAYS = ("path", "file url", "localhost", "climbs", "link", "link to a folder", "http",
                "simplecache", "chain behind allowed", "reference in reference", "s3")  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*inside another file:tiffref.MetadataWarning")
@pytest.mark.parametrize("way", PARQUET_WAYS)
def test_addresses_in_parquet(
    way: str, watch: Watch, place: tuple[Path, Path], server: FaultyServer
) -> None:
    pytest.importorskip("pyarrow")
    here, secret = place
    server.files["/secret"] = b"s" * 64
    url = addresses(str(secret), server.url)[way]
    url = url.replace("{here}", str(here)).replace("{base}", server.url)
    folder = here / "refs.parq"
    References.from_kerchunk(refs(url), allow="*").to_parquet(folder)
    watch.is_on = True
    with pytest.raises(UntrustedSource):
        read_everything(folder)
    watch.is_on = False
    assert [one for one in forbidden(watch, here) if not one[1].startswith(str(folder))] == []
    assert server.requests == []


@pytest.mark.parametrize("record_size", [0, -1, 10**30, 0.5, "x", None])
@pytest.mark.parametrize("name", ["a", "../secret", "/etc/passwd", "a/../../secret"])
def test_invalid_parquet(
    record_size: Any, name: str, watch: Watch, place: tuple[Path, Path]
) -> None:
    pytest.importorskip("pyarrow")
    here, _ = place
    folder = here / "refs.parq"
    folder.mkdir()
    metadata = {".zgroup": GROUP, f"{name}/.zarray": MEASURE}
    text = json.dumps({"metadata": metadata, "record_size": record_size})
    (folder / ".zmetadata").write_text(text)
    watch.is_on = True
    with pytest.raises(TiffrefError):
        read_everything(folder)
    watch.is_on = False
    assert [one for one in forbidden(watch, here) if not one[1].startswith(str(folder))] == []


def parquet(folder: Path, name: str = "a", record_size: int = 10, **zarray: Any) -> Path:
    """Write the metadata of parquet references; return the folder of the array's files."""
    (folder / name).mkdir(parents=True)
    metadata = {".zgroup": GROUP, f"{name}/.zarray": {**MEASURE, **zarray}}
    text = json.dumps({"metadata": metadata, "record_size": record_size})
    (folder / ".zmetadata").write_text(text)
    return folder / name


def test_one_value_for_many_chunks_is_counted_as_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dictionary of one value, a kilobyte of parquet, may stand for gigabytes."""
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "refs.parq"
    files = parquet(folder, shape=[400], chunks=[4], record_size=50)
    raw = pa.DictionaryArray.from_arrays(pa.array([0] * 50), pa.array([bytes(4)], pa.binary()))
    empty = {"path": pa.nulls(50, pa.string()), "offset": [0] * 50, "size": [4] * 50}
    for number in range(2):
        pa.parquet.write_table(pa.table({**empty, "raw": raw}), files / f"refs.{number}.parq")
    assert len(References.open(folder).to_kerchunk()["refs"]) == 100 + 3
    monkeypatch.setattr(load, "LIMITS", load.Limits(inlined_bytes=300))
    with pytest.raises(InvalidReferences, match="too many inlined"):
        References.open(folder).to_kerchunk()
    monkeypatch.setattr(load, "LIMITS", load.Limits(inlined_bytes=30))
    with pytest.raises(InvalidReferences, match="not parquet references"):
        References.open(folder)


def test_more_rows_than_chunks_are_not_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    files = parquet(tmp_path / "refs.parq")
    n = 3_000_000
    columns = {"path": pa.nulls(n, pa.string()), "offset": pa.array(np.zeros(n, "i8")),
               "size": pa.array(np.zeros(n, "i8"))}  # fmt: skip
    pa.parquet.write_table(pa.table(columns), files / "refs.0.parq")
    before = pa.total_allocated_bytes()
    references = References.open(tmp_path / "refs.parq")
    assert references.group["a"].manifest.is_missing.all()
    assert pa.total_allocated_bytes() - before < n


def test_ten_million_files_are_not_listed(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    folder = tmp_path / "refs.parq"
    parquet(folder, shape=[10**7], chunks=[1], record_size=1)
    tracemalloc.start()
    try:
        with pytest.raises(TiffrefError):
            References.open(folder)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


def test_pipe_among_parquet_files(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    files = parquet(tmp_path / "refs.parq")
    os.mkfifo(files / "refs.0.parq")
    with pytest.raises(OSError, match="regular"):
        References.open(tmp_path / "refs.parq")


def test_parquet_files_lie_in_their_folder(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    parquet(tmp_path / "refs.parq", "../outside")
    with pytest.raises(InvalidReferences, match="outside the folder"):
        References.open(tmp_path / "refs.parq")


def test_redirects_stay_inside(
    watch: Watch, place: tuple[Path, Path], server: FaultyServer
) -> None:
    other = FaultyServer()
    try:
        other.files["/secret"] = b"s" * 64
        server.redirects["/data/a"] = f"{other.url}/secret"
        server.redirects["/data/b"] = "/secret"
        server.redirects["/data/c"] = "/data/d"
        server.redirects["/data/loop"] = "/data/loop"
        server.files.update({"/secret": b"s" * 64, "/data/d": bytes(range(64))})
        allowed = [f"{server.url}/data"]
        for name in "ab":
            references = References.from_kerchunk(refs(f"{server.url}/data/{name}"), allow=allowed)
            with pytest.raises(UntrustedSource, match="redirected"):
                ZarrTiffStore(references)[:]
        references = References.from_kerchunk(refs(f"{server.url}/data/loop"), allow=allowed)
        with pytest.raises(OSError, match="redirected too often"):
            ZarrTiffStore(references)[:]
        references = References.from_kerchunk(refs(f"{server.url}/data/c"), allow=allowed)
        np.testing.assert_array_equal(ZarrTiffStore(references)[:].ravel(), np.arange(16))
        assert other.requests == []
        assert ("GET", "/secret") not in server.requests
    finally:
        other.close()


def test_pipe_in_the_place_of_a_file(place: tuple[Path, Path]) -> None:
    here, _ = place
    os.mkfifo(here / "pipe")
    (here / "refs.json").write_text(json.dumps(refs(str(here / "pipe"))))
    with pytest.raises(OSError, match="regular"):
        ZarrTiffStore(here / "refs.json")[:]


def test_files_beside_the_document_and_allowed_ones_are_read(place: tuple[Path, Path]) -> None:
    here, secret = place
    (here / "refs.json").write_text(json.dumps(refs(str(here / "secret.bin"))))
    assert (ZarrTiffStore(here / "refs.json")[:] == ord("s")).all()
    (here / "refs.json").write_text(json.dumps(refs(f"file://{secret}")))
    for allow in (str(secret.parent), f"file://{secret}", "*", [str(here), secret.parent]):
        assert (ZarrTiffStore(here / "refs.json", allow=allow)[:] == ord("s")).all()


def test_what_this_process_scanned_needs_no_list(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "a.tif").write_bytes(data)
    tiffref.scan(tmp_path / "in" / "a.tif").write_fsspec(tmp_path / "out" / "refs.json")
    assert ZarrTiffStore(tmp_path / "out" / "refs.json")[:].any()


def test_document_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    path = tmp_path / "refs.json.gz"
    path.write_bytes(gzip.compress(b" " * 100_000))
    monkeypatch.setattr("tiffref.formats.load.LIMITS", load.Limits(document_bytes=50_000))
    with pytest.raises(InvalidReferences, match="too large"):
        References.from_kerchunk(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(OSError, match="cannot read"):
        References.from_kerchunk(path)


def test_counts_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "LIMITS", load.Limits(references=1, inlined_bytes=100))
    with pytest.raises(InvalidReferences, match="too many references"):
        References.from_kerchunk({**refs("x"), "a/0.1": ["x", 0, 16]})
    with pytest.raises(InvalidReferences, match="too many inlined"):
        References.from_kerchunk(inlined(bytes(200)))


@pytest.mark.parametrize(
    ("location", "prefix"),
    [
        ("/a/b/refs.json", "/a/b/"),
        ("file:///a/refs.json", "/a/"),
        ("s3://bucket/x/refs.json", "s3://bucket/x/"),
        ("s3://bucket", "s3://bucket/"),
        ("https://h/a/refs.json?token=b/c", "https://h/a/"),
    ],
)
def test_location_prefix(location: str, prefix: str) -> None:
    assert location_prefix(location) == prefix


def test_prefixes_end_at_parts() -> None:
    allowed = AllowList(["s3://bucket/data", "https://Host/"])
    assert allowed.permits("s3://bucket/data") and allowed.permits("s3://bucket/data/a.tif")
    assert not allowed.permits("s3://bucket/database") and not allowed.permits("s3://bucket2/data")
    assert allowed.permits("https://host/a") and not allowed.permits("http://host/a")
    assert not allowed.permits(f"https://host/{urllib.parse.quote('..', safe='')}/%2e%2e/a")
    assert pickle.loads(pickle.dumps(allowed)).prefixes == allowed.prefixes


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("file:///data/my tiffs/a.tif", "allow=['/data/my tiffs/']"),
        ("https://host/a/b.tif", "allow=['https://host/a/']"),
        ("zip://a.tif::https://host/a.zip", "beginning of its URL to allow=[...]"),
        ("https://host/a/../b.tif", "beginning of its URL to allow=[...]"),
    ],
)
def test_a_refusal_says_what_to_allow(url: str, hint: str) -> None:
    with pytest.raises(UntrustedSource) as caught:
        AllowList(["s3://bucket/"]).check(url)
    assert hint in str(caught.value)
