"""What gives access stays with whom it was given to: in redirects, documents and messages."""

from __future__ import annotations

import json
import logging
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import tiffref
import zarr
from tiffref.errors import MetadataWarning, SourceError
from tiffref.zarr import ZarrTiffStore

pytest.importorskip("aiohttp")


class Server:
    """Serves one file at any path, or sends on to another server; keeps all headers."""

    def __init__(self, data: bytes, target: str | None = None) -> None:
        self.seen: list[dict[str, str]] = []
        self.total = True
        self.unit = "bytes"
        self.encoding: str | None = None
        self.status = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                outer.seen.append({name.lower(): value for name, value in self.headers.items()})
                if outer.status:
                    self.send_error(outer.status)
                    return
                if target is not None:
                    self.send_response(302)
                    self.send_header("Location", target + self.path)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                span = self.headers.get("Range")
                first, last = map(int, span[6:].split("-")) if span else (0, len(data) - 1)
                last = min(last, len(data) - 1)
                self.send_response(206 if span else 200)
                total = len(data) if outer.total else "*"
                if span:
                    self.send_header("Content-Range", f"{outer.unit} {first}-{last}/{total}")
                if outer.encoding is not None:
                    self.send_header("Content-Encoding", outer.encoding)
                self.send_header("Content-Length", str(last - first + 1))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data[first : last + 1])

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def far(data: bytes) -> Iterator[Server]:
    server = Server(data)
    yield server
    server.close()


@pytest.fixture
def near(data: bytes, far: Server) -> Iterator[Server]:
    server = Server(data, far.url)
    yield server
    server.close()


OPTIONS: list[dict[str, Any]] = [
    {"headers": {"Authorization": "Bearer SECRET", "X-Api-Key": "SECRET"}},
    {"cookies": {"session": "SECRET"}},
    {"client_kwargs": {"headers": {"X-Api-Key": "SECRET", "Authorization": "SECRET"}}},
    {"client_kwargs": {"cookies": {"session": "SECRET"}}},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("is_listed", [False, True])
def test_redirects_carry_no_secrets_to_another_origin(
    near: Server, far: Server, options: dict[str, Any], is_listed: bool
) -> None:
    url = f"{near.url}/a.tif"
    references = tiffref.scan(url, storage_options=options)
    source: Any = references
    more = {"allow": [near.url, far.url]} if is_listed else {}
    assert ZarrTiffStore(source, storage_options=options, **more)[...].any()
    assert "SECRET" in json.dumps(near.seen)
    assert far.seen and "SECRET" not in json.dumps(far.seen)


def test_user_information_stays_with_its_host(near: Server, far: Server) -> None:
    url = near.url.replace("http://", "http://me:SECRET@") + "/a.tif"
    assert ZarrTiffStore(tiffref.scan(url))[...].any()
    assert any("authorization" in one for one in near.seen)
    assert not any("authorization" in one for one in far.seen)


@pytest.mark.parametrize(
    "query", ["?sig=SECRET&se=2026&v=3", "?X-Amz-Signature=SECRET&v=3", "??sig=SECRET&v=3"]
)
@pytest.mark.parametrize("write", ["dictionary", "json", "parquet"])
def test_documents_have_no_signature(far: Server, tmp_path: Path, query: str, write: str) -> None:
    references = tiffref.scan(f"{far.url}/a.tif{query}")
    with pytest.warns(MetadataWarning, match="without its signature") as caught:
        if write == "dictionary":
            text = json.dumps(references.to_kerchunk())
        elif write == "json":
            references.write_fsspec(tmp_path / "r.json")
            text = (tmp_path / "r.json").read_text()
        else:
            pytest.importorskip("pyarrow")
            references.to_parquet(tmp_path / "r.parq")
            text = "".join(p.read_bytes().decode("latin-1") for p in tmp_path.rglob("*")
                           if p.is_file())  # fmt: skip
    assert "SECRET" not in text and "a.tif?v=3" in text
    assert not any("SECRET" in str(one.message) for one in caught)


def test_a_signature_is_kept_where_one_asks_for_it(far: Server) -> None:
    references = tiffref.scan(f"{far.url}/a.tif?sig=SECRET")
    with pytest.warns(MetadataWarning, match="is written with its signature"):
        document = references.to_kerchunk(keep_signature=True)
    assert "a.tif?sig=SECRET" in json.dumps(document)
    assert ZarrTiffStore(document)[...].any()


@pytest.mark.parametrize("mismatch", ["error", "split"])
def test_files_left_out_of_documents_have_no_signature(far: Server, mismatch: str) -> None:
    urls = [f"{far.url}/{name}?sig=SECRET&v=3" for name in ("t0.tif", "t1.tif", "none.tif")]
    references = tiffref.scan_sequence(urls, allow_holes=True, on_mismatch=mismatch)
    with pytest.warns(MetadataWarning, match="without its signature"):
        text = json.dumps(references.to_kerchunk())
    assert "SECRET" not in text and "none.tif?v=3" in text


def everything_in(folder: Path) -> str:
    """Return the bytes and names of all files of a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "".join(str(path) + path.read_bytes().decode("latin-1") for path in files)


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("format", ["json", "parquet"])
def test_catalogs_have_no_signature(
    far: Server, tmp_path: Path, format: str, is_kept: bool
) -> None:
    """Files are known again by the address without it: each run may have another signature."""
    pytest.importorskip("pyarrow")
    from tiffref import catalog

    plain = [f"{far.url}/t{n}.tif" for n in range(2)]
    urls = [f"{url}?sig=SECRET&se=2026" for url in plain]
    options: Any = {"pattern": "t{t:d}.tif", "stack": True, "format": format, "stac": True,
                    "keep_signature": is_kept, "report": tmp_path / "report.jsonl",
                    "stack_format": format}  # fmt: skip
    with pytest.warns(MetadataWarning, match="with its signature|without its signature"):
        summary = catalog.build([*urls, urls[0]], tmp_path / "c", **options)
    assert (summary.failed, summary.scanned, len(summary.combined_failed)) == (0, 2, 0)
    text = everything_in(tmp_path) + repr(catalog.open(tmp_path / "c"))
    assert ("SECRET" in text) == is_kept
    assert catalog.open(tmp_path / "c").urls == (urls if is_kept else plain)
    n_asked = len(far.seen)
    again = urls if is_kept else [url.replace("SECRET", "OTHER") for url in urls]
    with pytest.warns(MetadataWarning):
        assert catalog.build(again, tmp_path / "c", **options).skipped == 2
    assert len(far.seen) == n_asked


def test_failures_in_catalogs_have_no_signature(far: Server, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from tiffref import catalog

    url = "http://me:SECRET@127.0.0.1:9/a.tif?sig=SECRET"
    with pytest.warns(MetadataWarning):
        summary = catalog.build([url], tmp_path / "c", retries=0)
    assert summary.failed == 1
    text = everything_in(tmp_path) + repr(summary) + repr(summary.failures)
    assert "SECRET" not in text and "127.0.0.1:9/a.tif" in text


def test_commands_keep_a_signature_where_asked(far: Server, tmp_path: Path) -> None:
    from tiffref.cli import main

    url = f"{far.url}/a.tif?sig=SECRET"
    for command in (["scan", url], ["stack", url]):
        for keep in ([], ["--keep-signature"]):
            output = tmp_path / "r.json"
            assert main([*command, "-o", str(output), *keep]) == 0
            assert ("sig=SECRET" in output.read_text()) == bool(keep)
            output.unlink()


def test_published_addresses_have_no_query(far: Server) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for query in ("", "?sig=SECRET", "?path=/b.tif", "#part"):
            references = tiffref.scan(f"{far.url}/x/a.tif{query}")
            document = references.to_kerchunk(url="https://example.org/")
            urls = {ref[0] for ref in document["refs"].values() if isinstance(ref, list)}
            assert urls == {"https://example.org/a.tif"}
            assert "SECRET" not in json.dumps(document)


def test_commands_print_no_signature(far: Server, capsys: pytest.CaptureFixture[str]) -> None:
    from tiffref.cli import main

    url = f"{far.url}/a.tif?sig=SECRET"
    for command in (["info", url], ["info", url, "--json"], ["scan", url, "--dry-run", "-v"]):
        assert main(command) == 0
        shown = "".join(capsys.readouterr())
        assert "SECRET" not in shown
        assert "a.tif?sig=***" in shown


@pytest.mark.parametrize("secret", ["?sig=S3CRET/a", "?md5=S3CRET/a&expires=9"])
def test_objects_show_no_signature(far: Server, secret: str) -> None:
    references = tiffref.scan(f"{far.url}/a.tif{secret}")
    store = ZarrTiffStore(references)
    array = zarr.open_array(store, mode="r")
    shown = [repr(references), references._repr_html_(), references.info(), repr(store),
             store._repr_html_(), repr(array), str(array.info)]  # fmt: skip
    assert "S3CRET" not in "".join(shown)
    assert "a.tif?" in references.info() and "a.tif?" in repr(store)


def test_catalogs_that_keep_signatures_show_none(far: Server, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from tiffref import catalog

    with pytest.warns(MetadataWarning, match="with its signature"):
        catalog.build([f"{far.url}/a.tif?sig=S3CRET"], tmp_path, keep_signature=True)
    opened = catalog.open(tmp_path)
    assert "S3CRET" in opened.urls[0] and "S3CRET" not in opened._repr_html_()


def test_tracebacks_have_no_signature(far: Server) -> None:
    """Clients name whole addresses in their exceptions, which a traceback prints as causes."""
    far.status = 403
    secret = "me:S3CRET@"
    url = far.url.replace("http://", f"http://{secret}") + "/a.zip?sig=S3CRET"
    attempts: list[Callable[[], Any]] = [
        partial(tiffref.scan, f"zip://a.tif::{url}"),
        partial(tiffref.scan, f"simplecache::{url}"),
        partial(tiffref.scan, url.replace("127.0.0.1", "[bad")),
        partial(ZarrTiffStore, url),
        partial(tiffref.References.from_kerchunk, url),
        partial(tiffref.References.from_kerchunk, f"simplecache::{url}"),
        partial(tiffref.catalog.open, url),
    ]
    for attempt in attempts:
        with pytest.raises(SourceError) as caught:
            attempt()
        error = traceback.TracebackException.from_exception(caught.value)
        assert not [line for line in error.format() if "S3CRET" in line]
    plain = f"zip://a.tif::{far.url}/a.zip"
    with pytest.raises(SourceError) as caught:
        tiffref.scan(plain)
    assert caught.value.__cause__ is not None  # which helps to find the reason
    with pytest.raises(SourceError, match="message='Forbidden'"):
        tiffref.scan(f"zip://a.tif::{url}")  # fsspec itself says that it is not found


def test_messages_of_other_packages_have_no_signature(
    far: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """botocore prints the headers of requests, with tokens of sessions."""
    from tiffref.cli.console import log_to_stderr

    with log_to_stderr(2):
        logging.getLogger("fsspec.http").debug("https://me:S3CRET@h/a.tif?sig=S3CRET")
        logging.getLogger("botocore.auth").debug("x-amz-security-token:S3CRET")
    shown = capsys.readouterr().err
    assert shown == "tiffref: debug: fsspec.http: https://***@h/a.tif?sig=***\n"


def test_findings_have_no_signature(far: Server, capsys: pytest.CaptureFixture[str]) -> None:
    from tiffref.cli import main

    url = f"{far.url}/b.tif?X-Amz-Signature=S3CRET"
    with pytest.warns(MetadataWarning, match="your access"):
        document = tiffref.scan(url).to_kerchunk(keep_signature=True)
    assert "S3CRET" in json.dumps(document)
    gone = json.loads(json.dumps(document).replace(far.url, "http://127.0.0.1:9"))
    for one in (document, gone):
        report = tiffref.validate(one, sources=True, pixels=1)
        assert report.ok == (one is document)
        assert "S3CRET" not in f"{report!r} {report.to_json()} {report.findings}"
    main(["validate", f"{far.url}/none.json?X-Amz-Signature=S3CRET"])
    assert "S3CRET" not in "".join(capsys.readouterr())


def test_messages_have_no_signature(far: Server) -> None:
    with pytest.raises(SourceError) as caught:
        tiffref.scan("http://me:SECRET@127.0.0.1:9/a.tif?sig=SECRET&x=1")
    assert "SECRET" not in str(caught.value) and "127.0.0.1:9/a.tif" in str(caught.value)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_saved_datasets_have_no_signature(far: Server, tmp_path: Path, zarr_format: Any) -> None:
    xr = pytest.importorskip("xarray")
    url = f"{far.url}/a.tif?sig=S3CRET"
    dataset = xr.open_dataset(url, engine="tiffref", chunks={})
    assert dataset.encoding["source"] == url
    shown = (dataset, dataset._repr_html_(), dataset.image.name, dict(dataset.image.data.dask))
    assert "S3CRET" not in str(shown)
    dataset.to_zarr(tmp_path / "a.zarr", zarr_format=zarr_format, consolidated=False)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"S3CRET" in path.read_bytes()]


@pytest.mark.parametrize(
    ("query", "hint"), [("?sig=SECRET", "may be wrong or out of date"), ("", "needs credentials")]
)
def test_a_refused_signature_may_be_out_of_date(far: Server, query: str, hint: str) -> None:
    far.status = 403
    with pytest.raises(SourceError, match="HTTP status 403") as caught:
        tiffref.scan(f"{far.url}/a.tif{query}")
    assert hint in str(caught.value.hint)


def test_ranges_of_unknown_total_are_read(far: Server) -> None:
    far.total = False
    references = tiffref.scan(f"{far.url}/a.tif")
    assert ZarrTiffStore(references)[...].any()
    assert references.sources[0].size


@pytest.mark.parametrize("encoding", [None, "identity", "Identity", "", "aws-chunked", "utf-8"])
@pytest.mark.parametrize("unit", ["bytes", "Bytes"])
def test_answers_in_capital_letters_are_read(far: Server, unit: str, encoding: str | None) -> None:
    """Units of ranges and names of encodings have no case (RFC 9110, sections 8.4.1 and 14.1).

    Object stores repeat whatever an upload named as the encoding.
    """
    far.unit, far.encoding = unit, encoding
    assert ZarrTiffStore(tiffref.scan(f"{far.url}/a.tif"))[...].any()
