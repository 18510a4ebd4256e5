"""Which addresses a document may make us read.

Owns the allow-list. A reference document is a list of places to read from, and whoever wrote it may
name any file that the reader can reach: private keys, metadata services of a cloud, hosts of an
internal network. Addresses are therefore compared with prefixes, part by part, before anything is
opened. Documents that the user wrote need no list (see `seal`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from ..errors import UntrustedSource
from .seal import key_problem
from .urls import local_path

__all__ = [
    "ANYWHERE",
    "AllowList",
    "allowed_by_environment",
    "check_moved",
    "is_local",
    "location_prefix",
]

ANYWHERE = "*"
"""The prefix that allows every address."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
"""Characters that programs read differently in an address."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_VARIABLE = "TIFFREF_ALLOW"


def allowed_by_environment() -> tuple[str, ...]:
    """Return the prefixes that `TIFFREF_ALLOW` lists, separated by commas."""
    parts = os.environ.get(_VARIABLE, "").split(",")
    return tuple(part.strip() for part in parts if part.strip())


def location_prefix(location: str) -> str:
    """Return the folder that a document lies in, as a prefix.

    Examples
    --------
    >>> location_prefix("simplecache::https://host/data/refs.json")
    'https://host/data/'
    """
    where = location if is_local(location) else location.rpartition("::")[2]
    if is_local(where):
        folder = os.path.dirname(os.path.abspath(local_path(where)))  # noqa: PTH100, PTH120
        return folder.rstrip("/") + "/"
    where = where.partition("?")[0].partition("#")[0]
    scheme = _SCHEME.match(where)
    start = scheme.end() if scheme else 0
    return where[: where.rindex("/", start) + 1] if "/" in where[start:] else where + "/"


def is_local(url: str) -> bool:
    """Return whether an address is a local path, plain or as a file:// URL."""
    return url.startswith(("file://", "/")) or not ("://" in url or "::" in url)


def check_moved(urls: Iterable[str], allow: Iterable[str] | None, target: str) -> None:
    """Refuse to write a document where its addresses would be allowed that were not before.

    Parameters
    ----------
    urls
        Addresses that are written as they were read.
    allow
        What the document that they came from may read; None: this process itself found them.
    target
        Where they are to be written.

    Raises
    ------
    UntrustedSource
        If the folder of `target` holds sources that `allow` does not permit: whoever opens the new
        document would read them without being asked.
    """
    if allow is None:
        return
    before, after = AllowList(allow), AllowList([location_prefix(target)])
    for url in urls:
        if after.permits(url) and not before.permits(url):
            raise UntrustedSource(
                f"references may not move to where this source lies, {target}",
                url=url,
                expected=before.listed,
                hint=_advise(url),
            )


def _advise(url: str) -> str:
    """Describe how an address is allowed, by the folder that it is in."""
    prefix = location_prefix(url)
    advice = f"If you trust what lies there: allow=[{prefix!r}] (or {_VARIABLE})."
    if not AllowList([prefix]).permits(url):
        advice = "If you trust it, name the beginning of its address in allow=[...] (--allow)."
    problem = key_problem()
    return advice if problem is None else f"{advice} {problem}"


class AllowList:
    """Prefixes of addresses that may be read.

    Parameters
    ----------
    prefixes
        Each an address or the beginning of one, up to a "/": "https://host/data" allows
        "https://host/data" and "https://host/data/a.tif", not "https://host/database". Local
        files as paths or file:// URLs; `ANYWHERE` for all.
    """

    def __init__(self, prefixes: str | Iterable[str]) -> None:
        given = (prefixes,) if isinstance(prefixes, str) else tuple(map(os.fspath, prefixes))
        self.prefixes = given
        self._exact = frozenset(given)
        self._permitted: set[str] = set()

    def __reduce__(self) -> tuple:
        return AllowList, (self.prefixes,)

    @property
    def listed(self) -> str:
        """The first prefixes, as messages say them."""
        return " or ".join(self.prefixes[:5]) or "no address at all"

    @cached_property
    def _folders(self) -> frozenset[str]:
        """Local prefixes with their links followed: sequences have one for each of many files."""
        return frozenset(map(_real_path, filter(is_local, self._exact - {ANYWHERE})))

    def check(self, url: str) -> None:
        """Let an address pass.

        Raises
        ------
        UntrustedSource
            If it is outside of all prefixes.
        """
        if not self.permits(url):
            raise UntrustedSource(
                "the references name a source outside the allowed addresses",
                url=url,
                expected=self.listed,
                hint=_advise(url),
            )

    def check_opened(self, url: str, descriptor: int) -> None:
        """Let a local file pass that is open already: a link may have been swapped since `check`.

        Raises
        ------
        UntrustedSource
            If the file that was opened is outside of all prefixes.
        """
        if ANYWHERE in self._exact:
            return
        real = _opened_path(local_path(url), descriptor)
        if real is None or not self._is_in_folders(real):
            raise UntrustedSource(
                "the path leads to a file outside the allowed addresses",
                url=url,
                got=real,
                expected=self.listed,
            )

    def _is_in_folders(self, real: str) -> bool:
        path = Path(real)
        return any(str(folder) in self._folders for folder in (path, *path.parents))

    def permits(self, url: str) -> bool:
        """Return whether an address may be read."""
        if url in self._permitted:
            return True
        is_permitted = self._covers(url)
        if is_permitted:
            self._permitted.add(url)
        return is_permitted

    def _covers(self, url: str) -> bool:
        if ANYWHERE in self._exact:
            return True
        if _CONTROL.search(url.replace("\\", "/") if is_local(url) and os.sep == "\\" else url):
            return False
        if is_local(url):
            return self._is_in_folders(_real_path(url))
        if url in self._exact and not _climbs(url):
            return True
        return any(_is_chain_below(url, prefix) for prefix in self.prefixes)


def _is_chain_below(url: str, prefix: str) -> bool:
    # a chain such as "zip://a.tif::file:///x.zip" opens its last link; a prefix must say them all
    if is_local(prefix) or url.count("::") != prefix.count("::"):
        return False
    links = zip(_split(prefix), _split(url), strict=True)
    return all(_is_link_below(there, here) for here, there in links)


def _split(url: str) -> list[str]:
    return url.split("::")


def _is_link_below(url: str, prefix: str) -> bool:
    if is_local(url) or is_local(prefix):
        return url == prefix
    scheme, _, rest = url.partition("://")
    wanted_scheme, _, wanted = prefix.partition("://")
    host, _, path = rest.partition("/")
    wanted_host, _, wanted_path = wanted.partition("/")
    if scheme.lower() != wanted_scheme.lower() or host.lower() != wanted_host.lower():
        return False
    if not host and not wanted_host and not wanted_path:
        return True
    return not _climbs(path) and _is_below(path, wanted_path)


def _climbs(path: str) -> bool:
    """Return whether a path has steps up, spelled in any way that some server undoes."""
    plain = unquote(unquote(path.partition("?")[0])).replace("\\", "/")
    return any(part in (".", "..") for part in plain.split("/"))


def _is_below(path: str, prefix: str) -> bool:
    folder = prefix.rstrip("/")
    return path in (folder, prefix) or not folder or path.startswith(folder + "/")


def _real_path(url: str) -> str:
    """Return the path of a local file with all links followed, so that none leads elsewhere."""
    return os.path.realpath(local_path(url))


def _opened_path(path: str, descriptor: int) -> str | None:
    """Return the real path of a file that was opened by `path`; None if it lies elsewhere now.

    The path may lead to another file than it did when it was opened, by a link that was swapped;
    Linux says where the open file itself lies.
    """
    state = os.fstat(descriptor)
    try:
        real = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
    except OSError:
        real = os.path.realpath(path)
        try:
            is_same = os.path.samestat(os.lstat(real), state)
        except OSError:
            return None
        return real if is_same else None
    return real.removesuffix(" (deleted)") if not state.st_nlink else real
