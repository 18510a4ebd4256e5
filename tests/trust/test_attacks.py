"""Documents of strangers: nothing outside the allow-list is read, no code is run.

Each attack is a document with a secret file or host in it. All files that Python opens, all
requests that a server gets and all processes that are started are counted.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import sys
import tracemalloc
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty import FaultyServer

import tiffref
from tiffref.access.allow import AllowList, location_prefix
from tiffref.codecs.limits import HARMLESS_BYTES
from tiffref.errors import InvalidReferences, TiffrefError, UntrustedSource
from tiffref.formats import limits
from tiffref.references import References
from tiffref.zarr import ZarrTiffStore

MEASURE = {
    "zarr_format": 2, "shape": [4, 4], "chunks": [4, 4], "dtype": "|u1", "compressor": None,
    "filters": None, "fill_value": None, "order": "C",
}  # fmt: skip
GROUP = {"zarr_format": 2}


class Bomb:
    """What must never come to life."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/tiffref-was-here",)


def refs(url: Any, offset: Any = 0, length: Any = 16, **zarray: Any) -> dict[str, Any]:
    return {
        ".zgroup": json.dumps(GROUP),
        "a/.zarray": json.dumps({**MEASURE, **zarray}),
        "a/0.0": [url, offset, length],
    }


def inlined(data: bytes, **zarray: Any) -> dict[str, Any]:
    document = refs("x", **zarray)
    del document["a/0.0"]
    key = ".".join("0" for _ in zarray.get("shape", (4, 4)))
    document[f"a/{key}"] = "base64:" + base64.b64encode(data).decode()
    return document


def version1(references: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"version": 1, "refs": references, **members}


def zarr_json(**members: Any) -> dict[str, Any]:
    document = {
        "zarr_format": 3, "node_type": "array", "shape": [4, 4], "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 4]}},
        "chunk_key_encoding": {"name": "default"}, "fill_value": 0, "attributes": {},
        "codecs": [{"name": "bytes"}], **members,
    }  # fmt: skip
    pickled = base64.b64encode(pickle.dumps(Bomb())).decode()
    return {"a/zarr.json": json.dumps(document), "a/c/0/0": f"base64:{pickled}"}


def _addresses(secret: str, host: str) -> dict[str, str]:
    """Ways to name the secret file, or the secret host."""
    up = os.path.relpath(secret)
    return {
        "path": secret,
        "file url": f"file://{secret}",
        "local url": f"local://{secret}",
        "upper case": f"FILE://{secret}",
        "one slash": f"file:{secret}",
        "localhost": f"file://localhost{secret}",
        "relative": up,
        "climbs": "{here}/../secret/secret.bin",
        "climbs in a url": "file://{here}/../secret/secret.bin",
        "link": "{here}/link.bin",
        "link to a folder": "{here}/out/secret.bin",
        "sibling of the prefix": "{here}-evil/secret.bin",
        "etc": "/etc/passwd",
        "proc": "/proc/self/environ",
        "device": "/dev/zero",
        "http": f"{host}/secret",
        "http user": f"http://127.0.0.1@{host.removeprefix('http://')}/secret",
        "http allowed user": "{base}@" + f"{host.removeprefix('http://')}/secret",
        "http climbs": "{base}/data/../secret",
        "http climbs encoded": "{base}/data/%2e%2e/secret",
        "http climbs encoded twice": "{base}/data/%252e%252e/secret",
        "http climbs backwards": "{base}/data/..\\secret",
        "http sibling": "{base}/database",
        "http host suffix": "{base}.evil.example/secret",
        "http line break": "{base}/data/\r\nHost: evil/secret",
        "cloud metadata": "http://169.254.169.254/latest/meta-data/",
        "simplecache": f"simplecache::file://{secret}",
        "simplecache http": f"simplecache::{host}/secret",
        "zip": f"zip://secret::file://{secret}",
        "chain behind allowed": "{base}/data/a::" + f"file://{secret}",
        "reference in reference": f"reference://a::file://{secret}",
        "reference": "reference://",
        "ssh": "ssh://127.0.0.1/etc/passwd",
        "sftp": "sftp://root@127.0.0.1/etc/passwd",
        "ftp": "ftp://127.0.0.1/secret",
        "smb": "smb://127.0.0.1/share/secret",
        "git": "git://.:HEAD@secret",
        "github": "github://org:repo@main/secret",
        "s3": "s3://other-bucket/secret",
        "memory": "memory://secret",
        "data": "data:text/plain;base64,AAAA",
        "localhost with a dot": f"file://localhost./{secret}",
        "two slashes": f"file:/{secret}",
        "four slashes": f"file:////{secret.lstrip('/')}",
        "mixed case and climbs": "File://{here}/../secret/secret.bin",
        "percent in a file url": f"file://{secret.replace('secret', '%73ecret')}",
        "home": "~/.ssh/id_rsa",
        "home of root": "~root/.ssh/id_rsa",
        "unc": "\\\\host\\share\\secret",
        "unc with slashes": "//host/share/secret",
        "drive": "C:\\secret",
        "glob": "{here}/../secret/*.bin",
        "fragment": "{here}/#/../../secret/secret.bin",
        "query climbs": "{here}/?/../../secret/secret.bin",
        "http default port": "http://127.0.0.1/secret",
        "http other port": "http://127.0.0.1:1/data/a",
        "http other scheme": f"https://{host.removeprefix('http://')}/data/a",
        "http ipv6": "http://[::1]/secret",
        "http ipv6 of ipv4": "http://[::ffff:127.0.0.1]/secret",
        "http number": "http://2130706433/secret",
        "http short host": "http://127.1/secret",
        "http trailing dot": f"http://localhost.:{host.rpartition(':')[2]}/secret",
        "http other name": f"http://localhost:{host.rpartition(':')[2]}/data/a",
        "http climbs with a half": "{base}/data/%2e./secret",
        "http climbs at the end": "{base}/data/..",
        "http slash encoded": "{base}/data/..%2fsecret",
        "http backslash encoded": "{base}/data/..%5csecret",
        "http dot": "{base}/data/./../secret",
        "http two slashes": "{base}//secret",
        "http query": "{base}?/data/a",
        "http fragment": "{base}/#/data/a",
        "http user is allowed": f"http://x:y@{host.removeprefix('http://')}/data/a",
        "http semicolon": "{base};/data/a",
        "chain in a query": "{base}/secret?::{base}/data/a",
        "chain of three": "simplecache::zip://a::{base}/secret",
        "filecache": "filecache::{base}/data/a",
        "blockcache": "blockcache::file://" + secret,
        "dir": "dir::file://" + str(secret),
        "cached": "cached::file://" + secret,
        "tar": f"tar://secret.bin::file://{secret}",
        "libarchive": f"libarchive://secret.bin::file://{secret}",
        "reference of itself": "reference::{here}/refs.json",
        "reference of itself by name": "reference://a/0.0::file://{here}/refs.json",
        "nested s3": "s3://bucket/../other/secret",
        "gs": "gs://other/secret",
        "az": "az://other/secret",
        "hdfs": "hdfs://127.0.0.1/secret",
        "webhdfs": "webhdfs://127.0.0.1/secret",
        "dask": "dask://127.0.0.1/secret",
        "jupyter": "jlab://127.0.0.1/secret",
        "asynclocal": f"asynclocal://{secret}",
        "generic": f"generic://{secret}",
        "object": "object://1",
        "nul": secret + "\0.tif",
        "unknown": "nosuch://secret",
    }


_WAYS = _addresses("/s/secret.bin", "http://h")
TEXTS = tuple(_WAYS)
BESIDE_ALLOWED = frozenset(
    way for way, url in _WAYS.items()
    if way.startswith(("http", "chain in", "filecache")) and ("{base}" in url or "data/a" in url)
)  # fmt: skip
"""Those that name a host of which the reader allows a part."""

HUGE_PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (1 << 20).to_bytes(4, "big") * 2 + b"\x08\0\0\0\0" + bytes(4)
)
PICKLED = pickle.dumps(Bomb())
DOCUMENTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "template names the secret": lambda s: version1(refs("{{u}}"), templates={"u": s}),
    "template joins": lambda s: version1(refs("{{u}}{{v}}"), templates={"u": s[:3], "v": s[3:]}),
    "template runs": lambda s: version1(refs("{{ lipsum.__globals__ }}"), templates={"u": s}),
    "template filter": lambda s: version1(refs("{{u|attr('format')}}"), templates={"u": s}),
    "template statement": lambda s: version1(refs("{% for x in u %}"), templates={"u": s}),
    "template in a template": lambda s: version1(refs("{{u}}"), templates={"u": "{{u}}{{u}}"}),
    "template is a function": lambda s: version1(refs("{{u(c='1')}}"), templates={"u": "{{c}}"}),
    "gen calls": lambda s: version1(refs("x"), gen=[
        {"key": "a/{{i}}", "url": "{{__import__('os').system('id')}}", "dimensions": {"i": [1]}}]),
    "gen power": lambda s: version1(refs("x"), gen=[
        {"key": "a/{{9**9**9}}", "url": s, "dimensions": {"i": [1]}}]),
    "gen without end": lambda s: version1(refs("x"), gen=[
        {"key": "a/{{i}}", "url": s, "dimensions": {"i": {"stop": 10**15}}}]),
    "gen names the secret": lambda s: version1(
        {k: v for k, v in refs("x").items() if k != "a/0.0"},
        gen=[{"key": "a/{{i}}.0", "url": s, "offset": "0", "length": "16",
              "dimensions": {"i": [0]}}]),
    "pickle filter": lambda s: inlined(PICKLED, filters=[{"id": "pickle"}], dtype="|O"),
    "pickle compressor": lambda s: inlined(PICKLED, compressor={"id": "pickle", "protocol": 5}),
    "pickle v3": lambda s: zarr_json(codecs=[{"name": "numcodecs.pickle"}]),
    "pickle v3 in a shard": lambda s: zarr_json(codecs=[{
        "name": "sharding_indexed", "configuration": {"chunk_shape": [4, 4], "codecs": [
            {"name": "bytes"}, {"name": "numcodecs.pickle"}]}}]),
    "codec of nobody": lambda s: inlined(b"", compressor={"id": "os.system"}),
    "codec without a name": lambda s: inlined(b"", compressor={"level": 1}),
    "codec that is a list": lambda s: inlined(b"", compressor=[["id", "pickle"]]),
    "objects": lambda s: inlined(bytes(128), dtype="|O"),
    "objects in fields": lambda s: inlined(bytes(144), dtype=[["a", "|O"], ["b", "|u1"]]),
    "objects by segment": lambda s: inlined(bytes(128), dtype="|O", compressor={
        "id": "tiffref_segment", "shape": [1, 1, 1, 16], "dtype": "|O"}),
    "huge chunk": lambda s: inlined(b"x", shape=[2**40], chunks=[2**40]),
    "huge segment": lambda s: inlined(b"x", shape=[2**20, 2**10], chunks=[2**20, 2**10],
        compressor={"id": "tiffref_segment", "shape": [1, 1, 2**20, 2**10], "dtype": "|u1",
                    "compression": 8}),
    "huge type": lambda s: inlined(b"x", dtype="|V2147483647"),
    "bomb": lambda s: inlined(b"\0" * 64, shape=[2**30], chunks=[2**30],
                              compressor={"id": "zlib", "level": 1}),
    "bomb in a bomb": lambda s: inlined(
        zlib.compress(zlib.compress(bytes(1 << 27))), filters=[{"id": "zlib", "level": 1}],
        compressor={"id": "zlib", "level": 1}),
    "bomb of gzip": lambda s: inlined(
        gzip.compress(bytes(1 << 27), 1), compressor={"id": "gzip", "level": 1}),
    "frame that says exabytes": lambda s: inlined(
        b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x0f\1\0\0", compressor={"id": "zstd"}),
    "picture of a million by a million": lambda s: inlined(
        HUGE_PNG, compressor={"id": "imagecodecs_png"}),
    "picture that is broken": lambda s: inlined(
        HUGE_PNG[:40], compressor={"id": "imagecodecs_png"}),
    "many chunks": lambda s: refs("x", shape=[2**26], chunks=[1]),
    "many arrays of chunks": lambda s: {
        f"{n}/.zarray": json.dumps({**MEASURE, "shape": [2**22], "chunks": [1]})
        for n in range(9)},
    "more chunks than numbers": lambda s: refs("x", shape=[2**62, 2**62], chunks=[1, 1]),
    "deep path": lambda s: {"/".join("d" * 5000) + "/.zgroup": json.dumps(GROUP)},
    "deep json": lambda s: {".zgroup": "[" * 100000},
    "key climbs": lambda s: {**refs("x"), "../../a/0.0": "evil"},
    "key is absolute": lambda s: {**refs("x"), "/etc/cron.d/a": "evil"},
    "metadata elsewhere": lambda s: {".zgroup": json.dumps(GROUP), "a/.zarray": [s]},
    "attributes elsewhere": lambda s: {**refs("x"), "a/.zattrs": [s, 0, 10]},
    "negative offset": lambda s: refs("x", -1),
    "offset too large": lambda s: refs("x", 2**64),
    "offset is text": lambda s: refs("x", "0"),
    "length 0": lambda s: refs("x", 0, 0),
    "address is a list": lambda s: refs([s]),
    "address is nothing": lambda s: refs(None),
    "options in the document": lambda s: version1(
        refs(s), storage_options={"protocol": "file"}, remote_protocol="file"),
    "options in the reference": lambda s: refs(s, 0, {"storage_options": {"anon": True}}),
    "four members": lambda s: {**refs("x"), "a/0.0": [s, 0, 16, {"protocol": "file"}]},
    "base of addresses": lambda s: version1(refs("secret.bin"), base=str(Path(s).parent)),
    "template joins by a scheme": lambda s: version1(
        refs("{{u}}://{{v}}"), templates={"u": "file", "v": s}),
    "template of a chain": lambda s: version1(
        refs("{{u}}::{{v}}"), templates={"u": "simplecache", "v": f"file://{s}"}),
    "provenance renames": lambda s: {
        **refs("secret.bin"), ".zattrs": json.dumps({"tiffref": json.dumps(
            {"version": 1, "sources": [{"url": s, "address": "secret.bin", "size": 64}]})})},
    "version 2": lambda s: {**version1(refs(s)), "version": 2},
    "provenance is code": lambda s: {
        ".zgroup": json.dumps(GROUP), ".zattrs": json.dumps({"tiffref": "__import__('os')"}),
        **refs(s)},
}  # fmt: skip


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
    """Give the folder of a document, with links out of it, and a secret outside of it."""
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
    """Give what was touched besides the document, and files of the interpreter's own."""
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
    url = _addresses(str(secret), server.url)[way]
    url = url.replace("{here}", str(here)).replace("{base}", server.url)
    if way in BESIDE_ALLOWED:
        error = attack(watch, here, refs(url), allow=[f"{server.url}/data"])
    else:
        error = attack(watch, here, refs(url))
    assert isinstance(error, UntrustedSource | InvalidReferences)
    assert server.requests == []


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
def test_codecs_are_refused_before_others_hear_of_them(name: str) -> None:
    """Newer versions of numcodecs refuse pickles too, older ones run them."""
    with pytest.raises(InvalidReferences, match="not one of those that are run"):
        References.from_kerchunk(DOCUMENTS[name]("/s/secret"))


PARQUET_WAYS = ("path", "file url", "localhost", "climbs", "link", "link to a folder", "http",
                "simplecache", "chain behind allowed", "reference in reference", "s3")  # fmt: skip


@pytest.mark.parametrize("way", PARQUET_WAYS)
def test_addresses_in_parquet(
    way: str, watch: Watch, place: tuple[Path, Path], server: FaultyServer
) -> None:
    pytest.importorskip("pyarrow")
    here, secret = place
    server.files["/secret"] = b"s" * 64
    url = _addresses(str(secret), server.url)[way]
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
def test_parquet_that_makes_no_sense(
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
        with pytest.raises(OSError, match="without an end"):
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
    import gzip

    path = tmp_path / "refs.json.gz"
    path.write_bytes(gzip.compress(b" " * 100_000))
    monkeypatch.setattr("tiffref.formats.load.LIMITS", limits.Limits(document_bytes=50_000))
    with pytest.raises(InvalidReferences, match="too large"):
        References.from_kerchunk(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(OSError, match="cannot read"):
        References.from_kerchunk(path)


def test_counts_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LIMITS", limits.Limits(references=1, inlined_bytes=100))
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
