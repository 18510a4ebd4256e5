"""The addresses of sources, as the model and as documents have them.

Owns the way from `Source.url` (a local path, or an address with a scheme) to the address in a
document (always with a scheme) and back. It opens nothing. Local paths become plain "file://"
addresses, not percent-encoded: fsspec, GDAL and zarrita take what follows "file://" as it stands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import quote

from ..errors import ManifestMismatch

__all__ = [
    "from_document_url",
    "has_scheme",
    "plan_prefix",
    "shared_folder",
    "split_host",
    "to_document_url",
]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""Two characters at least: "C:" is a drive."""


def has_scheme(url: str) -> bool:
    """Tell an address with a scheme ("s3://...", "data:...") from a local path."""
    return _SCHEME.match(url) is not None


def to_document_url(url: str) -> str:
    """Give the address that a document has for a source.

    Examples
    --------
    >>> to_document_url("/data/a b.tif"), to_document_url("s3://bucket/a.tif")
    ('file:///data/a b.tif', 's3://bucket/a.tif')
    """
    if has_scheme(url):
        return url
    return "file://" + os.path.abspath(url).replace(os.sep, "/")  # noqa: PTH100


def from_document_url(url: str) -> str:
    """Give the source that a document's address means; undoes `to_document_url`."""
    return url.removeprefix("file://") if url.startswith("file:///") else url


def plan_prefix(prefix: str, urls: Iterable[str]) -> Callable[[str], str]:
    """Plan new addresses below a prefix for sources that move there together.

    The folder that holds all sources is replaced by the prefix; folders below it stay, so that two
    files of the same name never meet. One file, or files of one folder: prefix and file name.

    Parameters
    ----------
    prefix
        Address of a folder, with or without "/" at its end; empty leaves bare relative names.
    urls
        All sources.

    Returns
    -------
    rename
        Source address to document address.

    Raises
    ------
    ManifestMismatch
        If the sources share no folder (other hosts, other schemes).
    """
    addresses = [to_document_url(url) for url in urls]
    folder = shared_folder(addresses)
    if addresses and not folder:
        raise ManifestMismatch(
            "the sources share no folder, so that one URL prefix cannot stand for it",
            got=", ".join(sorted(addresses)[:3]),
            expected="sources below one folder",
            hint="Give `rename`, or write the references without `url`.",
        )
    prefix = prefix.replace("\\", "/")
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    # a space or "#" in a name would end an address of the web; object stores take names as they are
    encode = quote if prefix.startswith(("http:", "https:")) else str

    def rename(url: str) -> str:
        return prefix + encode(to_document_url(url)[len(folder) :])

    return rename


def split_host(url: str) -> tuple[str, str]:
    """Split an address into scheme and host, and path; that of a chain is not split.

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
    """Give the deepest folder that holds all addresses, "/" included; empty if there is none.

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
