"""URLs of sources: conversion for documents, Windows paths, and hints for common mistakes.

Converts `Source.url` (a local path, or a URL) to the URL in a document (always with a scheme) and
back, Windows drives and shares included. Recognizes common mistakes by the name and by the first
bytes of a file, with a hint for each; local folders are listed only after an error. Local paths
become plain "file://" URLs, not percent-encoded: fsspec, GDAL and zarrita use what follows
"file://" as it is.

References: GDAL manual, "GDAL Virtual File Systems"; Git LFS specification, "The Pointer".
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ..errors import (
    ManifestMismatch,
    MetadataWarning,
    MissingSource,
    SelectionError,
    SourceError,
    warn,
)
from ..signatures import public_url

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""At least two characters: "C:" is a drive."""
CACHES = frozenset({"simplecache", "filecache", "blockcache", "cached"})
"""Protocols of fsspec's caches."""


def check_address(address: Any) -> str:
    """Return a path or URL as text.

    Raises
    ------
    SelectionError
        If it is neither.
    """
    text = os.fspath(address) if isinstance(address, str | os.PathLike) else address
    if not isinstance(text, str):
        raise SelectionError("not a path or URL", got=type(text).__name__, expected="text")
    return text


def has_scheme(url: str) -> bool:
    """Return whether an address has a scheme ("s3://...", "data:...") and is no local path."""
    return _SCHEME.match(url) is not None


def warn_about_signatures(urls: Iterable[str], *, is_kept: bool = False) -> None:
    """Warn if URLs have signatures or passwords, which the document omits or keeps."""
    signed = [url for url in urls if public_url(url) != url]
    if not signed:
        return
    what = (
        "is written with its signature or password: whoever reads the document has your access"
        if is_kept
        else "is written without its signature or password: readers need their own credentials "
        "(storage_options), or write it with keep_signature=True"
    )
    more = f" (and {len(signed) - 1} more)" if len(signed) > 1 else ""
    warn(MetadataWarning(f"{public_url(signed[0])}{more} {what}"))


_IPV6 = re.compile(r"(?<=[/@]\[)[\da-f:.]*::[\da-f:.]*(?=\])", re.IGNORECASE)


def expand_host(url: str) -> str:
    """Write out an IPv6 host, in which fsspec takes "::" for the start of another URL.

    >>> expand_host("http://[fd00::1]:9000/a.tif")
    'http://[fd00:0000:0000:0000:0000:0000:0000:0001]:9000/a.tif'
    """
    host = _IPV6.search(url) if "::" in url else None
    if host is None:
        return url
    import ipaddress

    try:
        exploded = ipaddress.IPv6Address(host[0]).exploded
    except ValueError:
        return url
    return url.replace(host[0], exploded, 1)


def to_document_url(url: str) -> str:
    """Return the URL of a source in documents.

    Examples
    --------
    >>> to_document_url("/data/a b.tif"), to_document_url("s3://bucket/a.tif")
    ('file:///data/a b.tif', 's3://bucket/a.tif')
    """
    return public_url(_without_caches(to_full_url(expand_host(url))))


def _without_caches(url: str) -> str:
    """Return a URL without fsspec caches in front of it, which are up to the reader."""
    first, mark, rest = url.partition("::")
    if not mark or first not in CACHES:
        return url
    return _without_caches(to_full_url(rest))


def warn_about_chains(urls: Iterable[str]) -> None:
    """Warn if sources are inside archives, which readers of kerchunk documents cannot open."""
    chained = [url for url in map(to_document_url, urls) if split_chain(url)[0]]
    if chained:
        what = "is inside another file: engine='kerchunk' and other readers of kerchunk documents"
        hint = "cannot open it; engine='tiffref' and ZarrTiffStore can"
        warn(MetadataWarning(f"{chained[0]} {what} {hint}", url=chained[0]))


def to_full_url(url: str) -> str:
    """Return the URL of a source with its signature, if any."""
    if has_scheme(url):
        return url
    return file_url(os.path.abspath(url))  # noqa: PTH100


def from_document_url(url: str) -> str:
    """Return the source address of a URL in a document; inverse of `to_document_url`."""
    return local_path(url) if is_file_url(url) else url


def plan_prefix(prefix: str, urls: Iterable[str]) -> Callable[[str], str]:
    """Plan new URLs below a prefix for sources that move there together.

    The deepest folder that contains all sources is replaced by the prefix. Subfolders are kept, so
    that files of the same name stay distinct.

    Parameters
    ----------
    prefix
        URL of a folder, with or without a trailing "/"; empty for relative names.
    urls
        All sources.

    Returns
    -------
    rename
        Function from the address of a source to its URL in the document.

    Raises
    ------
    ManifestMismatch
        If the sources have no common folder (different hosts or schemes).
    SelectionError
        If the prefix is a URL without its scheme, or a GDAL path.
    """
    prefix = check_address(prefix)
    is_plain = "://" not in prefix and prefix[1:2] != ":"
    hint = spelling_hint(f"{prefix.rstrip('/')}/") if is_plain else None
    if hint:
        raise SelectionError("not a URL", url=prefix, hint=hint)
    chains = {split_chain(to_document_url(url)) for url in urls}
    addresses = sorted({inner + _without_query(outer) for inner, outer in chains})
    if len(addresses) < len(chains):
        raise ManifestMismatch(
            "sources differ only in their query (after '?'), and would get the same URL",
            got=", ".join(addresses[:3]),
            hint="Write the references without url=.",
        )
    folder = shared_folder([split_chain(address)[1] for address in addresses])
    if addresses and not folder:
        raise ManifestMismatch(
            "the sources have no common folder that a URL prefix could replace",
            got=", ".join(addresses[:3]),
            expected="sources below one folder",
            hint="Write the references without url=. Then change them with `tiffref rewrite`.",
        )
    prefix = prefix.replace("\\", "/")
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    # a space or "#" would end an http URL; object stores use names as they are
    encode = quote if _is_web(prefix) else str

    def rename(url: str) -> str:
        inner, outer = split_chain(to_document_url(url))
        name = _without_query(outer)[len(folder) :]
        return inner + prefix + encode(unquote(name) if _is_web(outer) else name)

    return rename


def _is_web(url: str) -> bool:
    return url.rpartition("::")[2].startswith(("http:", "https:"))


def _without_query(url: str) -> str:
    """Return an http URL without its query; elsewhere, "?" may be part of the name."""
    return url.partition("?")[0].partition("#")[0] if _is_web(url) else url


def split_chain(url: str) -> tuple[str, str]:
    """Split the URL of a file inside another one: the start, and the URL of the outer file.

    Examples
    --------
    >>> split_chain("zip://a.tif::s3://bucket/b.zip"), split_chain("file:///a::b.tif")
    (('zip://a.tif::', 's3://bucket/b.zip'), ('', 'file:///a::b.tif'))
    """
    # "::" may also be part of the name of a local file
    inner, mark, outer = ("", "", url) if url.startswith("file://") else url.rpartition("::")
    return inner + mark, outer


def split_host(url: str) -> tuple[str, str]:
    """Split a URL into scheme and host, and path; a chain is not split.

    Examples
    --------
    >>> split_host("s3://bucket/a.tif"), split_host("zip://a.tif::a.zip")
    (('s3://bucket', '/a.tif'), ('zip://a.tif::a.zip', ''))
    """
    scheme, mark, rest = url.partition("://")
    if not mark or "::" in url:
        return url, ""
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}", f"{slash}{path}"


def shared_folder(addresses: Sequence[str]) -> str:
    """Return the deepest folder that contains all URLs, with trailing "/"; "" if there is none.

    Examples
    --------
    >>> shared_folder(["s3://b/x/1.tif", "s3://b/x/y/2.tif"])
    's3://b/x/'
    """
    if not addresses:
        return ""
    first, last = min(addresses), max(addresses)
    n_same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return first[: first.rfind("/", 0, n_same) + 1]


# ---- local paths

_IS_WINDOWS = os.name == "nt"
_DRIVE = re.compile(r"/+(?=[A-Za-z]:/)")


def local_path(url: str, is_windows: bool = _IS_WINDOWS) -> str:
    """Return the path of a local source.

    Examples
    --------
    >>> local_path("file:///data/a.tif"), local_path("file:///C:/a.tif", is_windows=True)
    ('/data/a.tif', 'C:/a.tif')
    >>> local_path("file://server/share/a.tif", is_windows=True)
    '//server/share/a.tif'
    """
    if not url.startswith("file://"):
        return url
    path = url[7:]
    if not is_windows:
        return path
    without = _DRIVE.sub("", path, count=1)
    is_share = without == path and not path.startswith("/")
    return f"//{path}" if is_share and not _has_drive(path) else without


def is_file_url(url: str, is_windows: bool = _IS_WINDOWS) -> bool:
    """Return whether a URL is a file URL with a full path, or on Windows with a share."""
    return url.startswith("file://" if is_windows else "file:///")


def file_url(path: str, is_windows: bool = _IS_WINDOWS) -> str:
    """Return the URL of an absolute path; inverse of `local_path`.

    Examples
    --------
    >>> file_url("/data/a.tif"), file_url(r"C:\\data\\a.tif", is_windows=True)
    ('file:///data/a.tif', 'file:///C:/data/a.tif')
    """
    if not is_windows:
        return f"file://{path}"
    path = path.replace("\\", "/")
    if path.startswith("//"):
        return f"file:{path}"
    return f"file:///{path}" if _has_drive(path) else f"file://{path}"


def _has_drive(path: str) -> bool:
    return path[1:3] == ":/" and path[:1].isalpha()


# ---- hints for mistaken names and for files that are not TIFFs

FIRST_BYTES = 512
"""Bytes at the start of a file that identify its format."""

_SERVER_HINT = "Check the URL: servers send such pages for errors and logins."
_KERCHUNK_HINT = "kerchunk can make references to it."
_CONTENT: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer", "Fetch the file itself: git lfs pull."),
    (b"<vrtdataset", "a GDAL VRT",
     "Pass the TIFFs that it refers to: `tiffref stack FILES -o refs.json`, --mosaic for tiles."),
    (b"<!doctype html", "an HTML page", _SERVER_HINT),
    (b"<html", "an HTML page", _SERVER_HINT),
    (b"<error", "an error message of a server", _SERVER_HINT),
    (b"<ome", "OME-XML", "Rename it to NAME.companion.ome to scan the TIFFs that it describes."),
    (b"{", "JSON", "If it holds references: tiffref info NAME.json."),
    (b"pk\x03\x04", "a ZIP archive", "Open a TIFF in it as zip://NAME.tif::ARCHIVE.zip."),
    (b"\x1f\x8b", "a gzip file", "Unpack it first: gunzip."),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "Unpack it first: unzstd."),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it first."),
    (b"rar!", "a RAR archive", "Unpack it first."),
    (b"bzh", "a bzip2 file", "Unpack it first: bunzip2."),
    (b"\x89png", "a PNG image", "Convert it to TIFF first."),
    (b"\xff\xd8\xff", "a JPEG image", "Convert it to TIFF first."),
    (b"\0\0\0\x0cjp", "a JPEG 2000 image", "Convert it to TIFF first."),
    (b"gif8", "a GIF image", "Convert it to TIFF first."),
    (b"riff", "a RIFF file, such as WebP", "Convert it to TIFF first."),
    (b"\x89hdf", "an HDF5 or netCDF 4 file", _KERCHUNK_HINT),
    (b"cdf", "a netCDF 3 file", _KERCHUNK_HINT),
    (b"grib", "a GRIB file", _KERCHUNK_HINT),
    (b"simple  =", "a FITS file", _KERCHUNK_HINT),
    (b"par1", "a Parquet file", "Pass the path or URL of a TIFF."),
    (b"%pdf", "a PDF document", "Pass the path or URL of a TIFF."),
    (b"zisraw", "a Zeiss CZI file", "Convert it first: bioformats2raw, or bfconvert to OME-TIFF."),
    (b"\xda\xce\xbe\x0a", "a Nikon ND2 file", "Convert it first: bfconvert to OME-TIFF."),
)  # fmt: skip
"""First bytes in lower case, description of the file, and hint."""

_OTHER_FORMATS = {
    "zarr": "a Zarr store", "tif": "a TIFF", "tiff": "a TIFF", "nc": "a netCDF file",
    "h5": "an HDF5 file", "gz": "a gzip file", "zst": "a Zstandard file", "zip": "a ZIP archive",
    "json": "a JSON file",
}  # fmt: skip
"""File name extensions by which readers would not recognize references."""

_ERROR_CODE = re.compile(rb"<Error>.*?<Code>(\w+)</Code>", re.DOTALL)
_STACK_HINT = "To read many files as one array, use `tiffref stack` or `tiffref.scan_sequence`"
_VSI = re.compile(r"/vsi(?P<kind>\w+?)(?:_streaming)?/(?P<rest>.*)", re.DOTALL)
_VSI_SCHEMES = {"s3": "s3", "gs": "gs", "az": "az", "adls": "abfs", "hdfs": "hdfs"}
_SINGLE_SLASH = re.compile(r"(?P<scheme>s3|gs|az|abfs|https?|ftp|gcs|memory):?/+(?P<rest>.*)", re.I)
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]")
_HOST = re.compile(r"(?:www\.|[\w-]+\.)(?:[\w-]+\.)*(?:com|org|net|gov|edu|eu|io|int|de|uk|fr)/")
_EXTENSIONS = (".tif", ".tiff", ".btf", ".tf8", ".svs", ".ndpi", ".scn", ".lsm", ".stk", ".qptiff")
_MAX_NAMES = 10_000


def describe_content(data: bytes) -> tuple[str, str | None]:
    """Identify a file that is not a TIFF by its first bytes; return a description and a hint.

    >>> describe_content(b"version https://git-lfs.github.com/spec/v1")
    ('a Git LFS pointer', 'Fetch the file itself: git lfs pull.')
    """
    code = _ERROR_CODE.search(data)
    if code:
        hint = "Check the URL and the credentials; public buckets need anon=true."
        return f"an error message of a server ({code[1].decode('ascii', 'replace')})", hint
    start = data.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, what, hint in _CONTENT:
        if start.startswith(magic):
            return what, hint
    if not data:
        return "an empty file", "Get a complete copy."
    if start.startswith(b"<"):
        return "an XML document", _SERVER_HINT
    if not data.strip(b"\0"):
        return "a file of zeros", "Get a complete copy."
    if data.isascii() and not re.search(rb"[\x00-\x08\x0e-\x1f]", data):
        return "a text file", "Pass the path or URL of a TIFF."
    return f"a file that begins with {data[:4]!r}", "A TIFF begins with II or MM."


def misnamed_references(name: str, is_parquet: bool = False) -> tuple[str, str] | None:
    """Return why a file name does not suit references, and a better name; None if it does.

    >>> misnamed_references("a.zarr/")
    ('references are JSON, not a Zarr store', 'a.json')
    """
    stem, _, ending = name.rstrip("/").rpartition(".")
    form, extension = ("parquet", "parq") if is_parquet else ("JSON", "json")
    kind = _OTHER_FORMATS.get(ending.lower()) if stem else None
    if kind is None or ending.lower() == extension:
        return None
    return f"references are {form}, not {kind}", f"{stem.removesuffix('.json')}.{extension}"


def missing_file_error(name: str) -> SourceError:
    """Build the error for a local file that does not exist, with a suggestion."""
    if not name:
        return MissingSource("the name of the file is empty")
    hint = spelling_hint(name)
    if hint is None and set("*?[{") & set(name) and not name.endswith(".json"):
        hint = f"{_STACK_HINT}: tiffref stack '{name}' -o refs.json."
    if hint is not None:
        return MissingSource("no such file", url=name, hint=hint)
    path = Path(name)
    if path.is_symlink():
        target = os.readlink(name)  # noqa: PTH115
        return MissingSource(f"is a link to {target}, which does not exist", url=name)
    if name.strip() != name:
        hint = "The name begins or ends with a space."
        return MissingSource("no such file", url=repr(name), hint=hint)
    if not path.parent.is_dir():
        return MissingSource("no such file", url=name, hint=f"There is no folder {path.parent}.")
    close = _closest_name(path)
    return MissingSource("no such file", url=name, hint=f"Did you mean {close}?" if close else None)


def spelling_hint(name: str) -> str | None:
    """Return a hint for paths of other programs and for incomplete URLs; None for other names.

    >>> spelling_hint("/vsis3/bucket/*.tif")
    'This is a GDAL path; the URL is s3://bucket/*.tif.'
    """
    if name == "-":
        return "Standard input cannot be read: pass the path or URL of a file."
    vsi = _VSI.fullmatch(name)
    if vsi:
        return f"This is a GDAL path; the URL is {_vsi_to_url(vsi['kind'], vsi['rest'])}."
    slash = _SINGLE_SLASH.fullmatch(name)
    if slash and not Path(f"{slash['scheme']}:").exists():
        return f"The URL is {slash['scheme'].lower()}://{slash['rest']}."
    if _WINDOWS_PATH.match(name) and os.sep == "/":
        return "This is a Windows path; pass the path on this machine."
    if _HOST.match(name):
        return f"URLs need a scheme: https://{name}."
    return None


def _vsi_to_url(kind: str, rest: str) -> str:
    if kind in _VSI_SCHEMES:
        return f"{_VSI_SCHEMES[kind]}://{rest}"
    if kind == "zip":
        archive, dot, inner = rest.partition(".zip")
        return f"zip://{inner.lstrip('/')}::{archive}{dot}"
    return rest if kind == "curl" else f"the one without /vsi{kind}/, if fsspec has a file system"


def _closest_name(path: Path) -> str | None:
    """Return the most similar file name in the same folder, if any is similar."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for _, entry in zip(range(_MAX_NAMES), entries, strict=False)]
    except OSError:
        return None
    ending = path.suffix.lower()
    by_stem = {
        Path(name).stem.lower(): name for name in names if Path(name).suffix.lower() == ending
    }
    close = difflib.get_close_matches(path.stem.lower(), by_stem, 1, 0.75)
    return by_stem[close[0]] if close else None


def directory_error(name: str, wanted: str = "TIFF files") -> SourceError:
    """Build the error for a folder instead of a file, with a hint that depends on its content."""
    if not name:
        return missing_file_error(name)
    shown = name.rstrip("/") or "/"
    quoted = shlex.quote(shown)
    try:
        names = sorted(os.listdir(name))  # noqa: PTH208
    except OSError:
        names = []
    if "catalog.parquet" in names:
        return SourceError("is a catalog", url=name, hint=f"Show it with: tiffref info {quoted}")
    if {".zgroup", ".zarray", "zarr.json"} & set(names):
        return SourceError("is a Zarr store already", url=name, hint="Open it with zarr or xarray.")
    images = [file for file in names if file.lower().endswith(_EXTENSIONS)]
    if not images:
        inner = any(Path(name, other).is_dir() for other in names) and wanted == "TIFF files"
        hint = f"With its subfolders: tiffref catalog build {quoted} -o CATALOG" if inner else None
        return SourceError(f"is a folder without {wanted}", url=name, hint=hint)
    ending = Path(images[0]).suffix
    count = f"{len(images):,} TIFF files, such as" if len(images) > 1 else "the TIFF file"
    return SourceError(
        f"is a folder with {count} {images[0]}",
        url=name,
        hint=f"\n  as one array: tiffref stack {shlex.quote(f'{shown}/*{ending}')} -o refs.json"
        f"\n  as a catalog: tiffref catalog build {quoted} -o CATALOG",
    )
