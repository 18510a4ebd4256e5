"""The addresses of sources, as the model and as documents have them.

Owns the way from `Source.url` (a local path, or an address with a scheme) to the address in a
document (always with a scheme) and back. It opens nothing. Local paths become plain "file://"
addresses, not percent-encoded: fsspec, GDAL and zarrita take what follows "file://" as it stands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import quote, unquote

from ..errors import ManifestMismatch, MetadataWarning, SelectionError, warn
from .address import spelling_hint
from .local import file_url, is_file_url, local_path

__all__ = [
    "from_document_url",
    "has_scheme",
    "plan_prefix",
    "public_url",
    "shared_folder",
    "split_host",
    "to_document_url",
    "to_full_url",
    "warn_about_chains",
    "warn_of_signatures",
]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""Two characters at least: "C:" is a drive."""
_SECRET = re.compile(
    r"x-(?:amz|goog|oss|cos|ms)-(?:signature|credential|security-token)|sig|signature|hdnea|hdnts"
    r"|hmac|jwt|awsaccesskeyid|googleaccessid|ossaccesskeyid"
    r"|.*(?:token|secret|password|passwd|api-?_?key|auth)",
    re.IGNORECASE,
)
"""Parameters that give access: of S3, Google, Azure (SAS), CloudFront, Akamai, and tokens."""
_BESIDE = re.compile(
    r"x-(?:amz|goog|oss|cos|ms)-.*|key-pair-id|policy|expires|s[vtepr]|sip|spr|ss|srt|sk\w+",
    re.IGNORECASE,
)
"""What is signed along, and of no use without the signature."""
_AT_SIGN = frozenset({"abfs", "abfss", "wasb", "wasbs", "az", "adl"})
"""Schemes whose addresses name a container before an "@"."""


def has_scheme(url: str) -> bool:
    """Distinguish an address with a scheme ("s3://...", "data:...") from a local path."""
    return _SCHEME.match(url) is not None


def public_url(url: str) -> str:
    """Return an address without what gives access: signatures, tokens, and user information.

    Examples
    --------
    >>> public_url("https://me:pw@host/a.tif?sig=S&se=2026&versionId=3")
    'https://host/a.tif?versionId=3'
    """
    if "://" not in url or not ("?" in url or "@" in url):
        return url
    return "::".join(map(_public_link, url.split("::")))


def _public_link(link: str) -> str:
    scheme, mark, rest = link.partition("://")
    if not mark or scheme == "file":
        return link
    host, slash, path = rest.partition("/")
    if scheme.lower() not in _AT_SIGN:
        host = host.rpartition("@")[2]
    path, question, query = path.partition("?")
    query, hash_mark, fragment = query.partition("#")
    parts = {part: unquote(part.partition("=")[0]) for part in query.split("&")}
    if any(map(_SECRET.fullmatch, parts.values())):
        parts = {part: name for part, name in parts.items()
                 if not (_SECRET.fullmatch(name) or _BESIDE.fullmatch(name))}  # fmt: skip
    kept = "&".join(parts)
    after = f"{question}{kept}" if kept or not query else ""
    return f"{scheme}://{host}{slash}{path}{after}{hash_mark}{fragment}"


def warn_of_signatures(urls: Iterable[str], *, is_kept: bool = False) -> None:
    """Warn where addresses have signatures or passwords, which documents leave out or keep."""
    signed = [url for url in urls if public_url(url) != url]
    if not signed:
        return
    what = (
        "is written with its signature or password: whoever reads it has access as you have"
        if is_kept
        else "is written without its signature or password; readers need access of their own "
        "(storage_options), or keep_signature=True"
    )
    more = f" (and {len(signed) - 1} more)" if len(signed) > 1 else ""
    warn(MetadataWarning(f"{public_url(signed[0])}{more} {what}"), stacklevel=3)


def to_document_url(url: str) -> str:
    """Return the address that a document has for a source.

    Examples
    --------
    >>> to_document_url("/data/a b.tif"), to_document_url("s3://bucket/a.tif")
    ('file:///data/a b.tif', 's3://bucket/a.tif')
    """
    return public_url(_without_caches(to_full_url(url)))


def _without_caches(url: str) -> str:
    """Return an address without the caches in front of it, which are its reader's choice."""
    first, mark, rest = url.partition("::")
    if not mark or first not in _CACHES:
        return url
    return _without_caches(to_full_url(rest))


_CACHES = frozenset({"simplecache", "filecache", "blockcache", "cached"})


def warn_about_chains(urls: Iterable[str]) -> None:
    """Warn where sources lie within archives, which kerchunk's readers cannot open."""
    addresses = [to_document_url(url) for url in urls if "::" in url]
    # "::" may also stand in the name of a local file
    chained = [url for url in addresses if "::" in url and not url.startswith("file://")]
    if chained:
        what = "lies within another file, so that engine='kerchunk' and other readers of kerchunk's"
        hint = "documents cannot open it; engine='tiffref' and ZarrTiffStore can"
        warn(MetadataWarning(f"{chained[0]} {what} {hint}", url=chained[0]), stacklevel=3)


def to_full_url(url: str) -> str:
    """Return the address of a source with all that it has, signatures too."""
    if has_scheme(url):
        return url
    return file_url(os.path.abspath(url))  # noqa: PTH100


def from_document_url(url: str) -> str:
    """Return the source that a document's address means; undoes `to_document_url`."""
    return local_path(url) if is_file_url(url) else url


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
    SelectionError
        If the prefix is an address without its scheme, or a path of GDAL.
    """
    is_plain = "://" not in prefix and prefix[1:2] != ":"
    hint = spelling_hint(f"{prefix.rstrip('/')}/") if is_plain else None
    if hint:
        raise SelectionError("not an address", url=prefix, hint=hint)
    sources = list(urls)
    addresses = [_without_query(to_document_url(url)) for url in sources]
    if len(set(addresses)) < len({to_document_url(url) for url in sources}):
        raise ManifestMismatch(
            "the sources differ in nothing but what follows '?', so that one URL prefix would give "
            "them one name",
            got=", ".join(sorted(set(addresses))[:3]),
            hint="Write the references without `url`.",
        )
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
        return prefix + encode(_without_query(to_document_url(url))[len(folder) :])

    return rename


def _without_query(url: str) -> str:
    """Return an address of the web without its query; names elsewhere may have a "?"."""
    is_web = url.rpartition("::")[2].startswith(("http:", "https:"))
    return url.partition("?")[0].partition("#")[0] if is_web else url


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
    """Return the deepest folder that holds all addresses, "/" included; empty if there is none.

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
