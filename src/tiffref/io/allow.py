"""Which addresses a document may make us read, and which documents are the user's own.

Owns the allow-list. A reference document is a list of places to read from, and whoever wrote it may
name any file that the reader can reach: private keys, metadata services of a cloud, hosts of an
internal network. Addresses are therefore compared with prefixes, part by part, before anything is
opened.

Documents that the user wrote need no list: they have a seal. This is a code (HMAC-SHA-256) over
what a document says, made with a key that only its user can read. Nobody else can make the user's
seal, and whoever changes a document breaks it. Who owns the file says nothing, since a download
belongs to the one who downloaded it. What a seal covers is said by `formats.provenance`.

The key is a file in the user's state folder, `$XDG_STATE_HOME/tiffref/key` (by default
`~/.local/state`; `%LOCALAPPDATA%` on Windows), made when the first document is written. A key that
others could read or write, or that belongs to somebody else, is not used, as OpenSSH does with its
own. Where there is no key, documents have no seal and none is trusted; errors about documents that
are not trusted then say why there is none.

Reference: RFC 2104.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from ..errors import UntrustedSource
from .urls import local_path

__all__ = [
    "ANYWHERE",
    "AllowList",
    "allowed_by_environment",
    "check_moved",
    "is_local",
    "is_own_seal",
    "key_problem",
    "location_prefix",
    "make_seal",
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
    # a local document may be called "a::b.json"
    is_here = is_local(location) or os.path.exists(location)  # noqa: PTH110 - of any length
    where = location if is_here else location.rpartition("::")[2]
    if is_here or is_local(where):
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


_KEY_BYTES = 32


def make_seal(digest: bytes) -> str | None:
    """Return the user's seal of a digest, 64 hexadecimal digits; None where there is no key."""
    key = _read_key() or _make_key()
    return None if key is None else hmac.digest(key, digest, "sha256").hex()


def is_own_seal(seal: str, digest: bytes) -> bool:
    """Return whether a seal is the one that this user makes of a digest."""
    key = _read_key()
    own = b"" if key is None else hmac.digest(key, digest, "sha256").hex().encode()
    return hmac.compare_digest(own, seal.encode("utf-8", "surrogatepass"))


def _key_path() -> str | None:
    """Return where the key is, None where the user has no home; as text, for each of many files."""
    folder = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_STATE_HOME", "")
    if not os.path.isabs(folder):  # noqa: PTH117 - the specification ignores relative ones
        home = os.path.expanduser("~")  # noqa: PTH111
        # a relative home would be another one in each folder, with keys that others left there
        if not os.path.isabs(home) or os.environ.get("HOME") == "":  # noqa: PTH117
            return None
        folder = f"{home}{_STATE}"
    return f"{folder}{os.sep}tiffref{os.sep}key"


_STATE = r"\AppData\Local" if os.name == "nt" else "/.local/state"


def key_problem() -> str | None:
    """Return why the user has no key though one was or would be made; None where all is well."""
    path = _key_path()
    if path is None:
        return "Your own documents are not recognized: you have no home folder (HOME)."
    if not os.path.lexists(path):
        folder = next(one for one in Path(path).parents if one.exists())
        if folder.is_dir() and os.access(folder, os.W_OK):
            return None
        why = f"no key can be written to {Path(path).parent}; XDG_STATE_HOME sets another folder"
        return f"Your own documents are not recognized: {why}."
    fault = _fault_of_key(path)
    return fault and f"Your own documents are not recognized: the key {path} {fault}."


def _fault_of_key(path: str) -> str | None:
    state = os.lstat(path)
    if not stat.S_ISREG(state.st_mode):
        return "is not a regular file"
    if hasattr(os, "geteuid") and state.st_uid != os.geteuid():
        return "belongs to another user"
    if state.st_mode & 0o077 and os.name != "nt":
        return "can be read or written by others (chmod 600 makes it yours alone)"
    if state.st_nlink != 1:
        return "has a second name somewhere (hard link)"
    return None if state.st_size == _KEY_BYTES else f"has not {_KEY_BYTES} bytes"


def _read_key() -> bytes | None:
    path = _key_path()
    if path is None:
        return None
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_NONBLOCK", 0)  # of a pipe in its place
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return None
    try:
        if os.fstat(descriptor).st_nlink > 1:
            _remove_temporary_names(path, descriptor)
        key = os.read(descriptor, _KEY_BYTES + 1) if _is_private(os.fstat(descriptor)) else b""
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return key if len(key) == _KEY_BYTES else None


def _is_private(state: os.stat_result) -> bool:
    """Return whether a key file is the user's and nobody else can read or write it."""
    if not stat.S_ISREG(state.st_mode):
        return False
    if not hasattr(os, "geteuid"):  # Windows: what is in the user's profile is the user's
        return True
    return state.st_uid == os.geteuid() and not state.st_mode & 0o077 and state.st_nlink == 1


def _remove_temporary_names(path: str, descriptor: int) -> None:
    """Remove the second name that a key has for a moment, or longer where its maker was killed."""
    key = os.fstat(descriptor)
    for other in Path(path).parent.glob("key.????????"):
        with contextlib.suppress(OSError):
            if os.path.samestat(other.lstat(), key):
                other.unlink()


def _make_key() -> bytes | None:
    """Make the key, unless there is a file already; of two processes at once, one makes it."""
    place = _key_path()
    if place is None or os.path.lexists(place):
        return _read_key()  # another process may just have made it
    path = Path(place)
    temporary = path.with_name(f"key.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        _put(temporary, path)
    except OSError:
        pass  # a home that cannot be written
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return _read_key()


def _put(temporary: Path, path: Path) -> None:
    """Move a file to where there is none yet; a link, since renaming would replace one."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            temporary.rename(path)
