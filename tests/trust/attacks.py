"""Documents of strangers: ways to name a secret, and documents that ask for what they must not."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = [
    "BESIDE_ALLOWED",
    "DOCUMENTS",
    "GROUP",
    "MEASURE",
    "TEXTS",
    "addresses",
    "inlined",
    "refs",
]

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


def addresses(secret: str, host: str) -> dict[str, str]:
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


_WAYS = addresses("/s/secret.bin", "http://h")
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
    "filters that are a text": lambda s: inlined(b"", filters="zlib"),
    "filters that are an object": lambda s: inlined(b"", filters={"id": "zlib"}),
    "codecs that are a text": lambda s: zarr_json(codecs="zlib"),
    "codecs that are null": lambda s: zarr_json(codecs=None),
    "settings that are a list": lambda s: zarr_json(codecs=[
        {"name": "bytes", "configuration": [1]}]),
    "axes that are not there": lambda s: zarr_json(codecs=[
        {"name": "transpose", "configuration": {"order": [5, 6]}}, {"name": "bytes"}]),
    "names that are objects": lambda s: zarr_json(dimension_names=[{"x": 1}, {"y": 1}]),
    "more dimensions than NumPy has": lambda s: inlined(b"", shape=[1] * 65, chunks=[1] * 65),
    "deep provenance": lambda s: {
        **refs("x"), ".zattrs": json.dumps({"tiffref": "[" * 100_000 + "]" * 100_000})},
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
