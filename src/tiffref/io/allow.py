"""Allow-lists of the URLs that a document may refer to, and seals of the user's own documents.

A reference document is a list of byte ranges to read, and its author may name any file that the
reader can reach: private keys, cloud metadata services, hosts of an internal network. URLs are
therefore compared with the prefixes of an allow-list, part by part, before anything is opened.

Documents that the user wrote need no allow-list, because they have a seal: an HMAC-SHA-256 over the
content of the document, made with a key that only this user can read. Nobody else can make such a
seal, and any change to the document invalidates it. File ownership would prove nothing, since
downloads belong to the user too. `formats.provenance` defines what a seal covers.

The key is a file in the user's state folder, `$XDG_STATE_HOME/tiffref/key` (by default
`~/.local/state`; `%LOCALAPPDATA%` on Windows), created when the first document is written. Like
keys of OpenSSH, it is not used if others can read or write it, or if another user owns it. Without
a key, documents get no seal and none is trusted; errors about untrusted documents then explain why
there is no key.

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

from ..errors import SelectionError, UntrustedSource
from .urls import expand_host, local_path

ANYWHERE = "*"
"""The prefix that allows every URL."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
"""Characters that programs interpret differently in a URL."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_VARIABLE = "TIFFREF_ALLOW"


def allowed_by_environment() -> tuple[str, ...]:
    """Return the prefixes that `TIFFREF_ALLOW` lists, separated by commas."""
    parts = os.environ.get(_VARIABLE, "").split(",")
    return tuple(part.strip() for part in parts if part.strip())


def location_prefix(location: str) -> str:
    """Return the folder of a document, as a prefix.

    Examples
    --------
    >>> location_prefix("simplecache::https://host/data/refs.json")
    'https://host/data/'
    """
    # a local document may be called "a::b.json"
    is_here = is_local(location) or os.path.exists(location)  # noqa: PTH110 - of any length
    link = location if is_here else expand_host(location).rpartition("::")[2]
    if is_here or is_local(link):
        folder = os.path.dirname(os.path.abspath(local_path(link)))  # noqa: PTH100, PTH120
        return folder.rstrip("/") + "/"
    link = link.partition("?")[0].partition("#")[0]
    scheme = _SCHEME.match(link)
    start = scheme.end() if scheme else 0
    return link[: link.rindex("/", start) + 1] if "/" in link[start:] else link + "/"


def is_local(url: str) -> bool:
    """Return whether a URL is a local path, plain or as a file:// URL."""
    return url.startswith(("file://", "/")) or not ("://" in url or "::" in url)


def check_new_location(urls: Iterable[str], allow: Iterable[str] | None, target: str) -> None:
    """Refuse to write a document to a folder that would allow more of its sources than before.

    Parameters
    ----------
    urls
        Sources that are written unchanged.
    allow
        Allow-list of the document that they come from; None if this process scanned them.
    target
        Path or URL of the new document.

    Raises
    ------
    UntrustedSource
        If the folder of `target` contains sources that `allow` does not permit: opening the new
        document would read them without asking.
    """
    if allow is None:
        return
    before, after = AllowList(allow), AllowList([location_prefix(target)])
    for url in urls:
        if after.permits(url) and not before.permits(url):
            raise UntrustedSource(
                f"references to this source may not be written to its folder, as {target}",
                url=url,
                expected=before.listed,
                hint=_allow_hint(url),
            )


def _allow_hint(url: str) -> str:
    prefix = location_prefix(url)
    hint = f"If you trust this location: allow=[{prefix!r}] (or {_VARIABLE})."
    if not AllowList([prefix]).permits(url):
        hint = "If you trust it, add the beginning of its URL to allow=[...] (--allow)."
    problem = key_problem()
    return hint if problem is None else f"{hint} {problem}"


class AllowList:
    """URL prefixes of the sources that may be read.

    Parameters
    ----------
    prefixes
        Each is a URL or the beginning of one, up to a "/": "https://host/data" allows
        "https://host/data" and "https://host/data/a.tif", not "https://host/database". Local
        files are paths or file:// URLs. `ANYWHERE` allows all.
    """

    def __init__(self, prefixes: str | Iterable[str]) -> None:
        listed = [prefixes] if isinstance(prefixes, str) else [*prefixes]
        if other := [item for item in listed if not isinstance(item, str | os.PathLike)]:
            raise SelectionError("not an address to allow", got=repr(other[0]))
        self.prefixes = given = tuple(expand_host(os.fspath(item)) for item in listed)
        self._exact = frozenset(given)
        self._permitted: set[str] = set()

    def __reduce__(self) -> tuple:
        return AllowList, (self.prefixes,)

    @property
    def listed(self) -> str:
        """The first prefixes, for messages."""
        return " or ".join(self.prefixes[:5]) or "no URL at all"

    @cached_property
    def _folders(self) -> frozenset[str]:
        """Local prefixes with links resolved, as a set: sequences have one for each file."""
        return frozenset(map(_real_path, filter(is_local, self._exact - {ANYWHERE})))

    def check(self, url: str) -> None:
        """Raise an error if a URL is not allowed.

        Raises
        ------
        UntrustedSource
            If no prefix matches.
        """
        if not self.permits(url):
            raise UntrustedSource(
                "the references point to a source that is not allowed",
                url=url,
                expected=self.listed,
                hint=_allow_hint(url),
            )

    def check_opened(self, url: str, descriptor: int) -> None:
        """Check a local file after it was opened: a link may have changed since `check`.

        Raises
        ------
        UntrustedSource
            If no prefix matches the file that was opened.
        """
        if ANYWHERE in self._exact:
            return
        real = _opened_path(local_path(url), descriptor)
        if real is None or not self._is_in_folders(real):
            raise UntrustedSource(
                "the path leads to a file that is not allowed",
                url=url,
                got=real,
                expected=self.listed,
            )

    def _is_in_folders(self, real: str) -> bool:
        path = Path(real)
        return any(str(folder) in self._folders for folder in (path, *path.parents))

    def permits(self, url: str) -> bool:
        """Return whether a URL may be read."""
        if url in self._permitted:
            return True
        is_permitted = self._matches(url)
        if is_permitted:
            self._permitted.add(url)
        return is_permitted

    def _matches(self, url: str) -> bool:
        if ANYWHERE in self._exact:
            return True
        if _CONTROL.search(url.replace("\\", "/") if is_local(url) and os.sep == "\\" else url):
            return False
        if is_local(url):
            return self._is_in_folders(_real_path(url))
        url = expand_host(url)
        if url in self._exact and not _has_dot_segments(url):
            return True
        return any(_chain_matches(url, prefix) for prefix in self.prefixes)


def _chain_matches(url: str, prefix: str) -> bool:
    # a chain such as "zip://a.tif::file:///x.zip" opens its last link; all links must match
    if is_local(prefix) or url.count("::") != prefix.count("::"):
        return False
    return all(map(_link_matches, url.split("::"), prefix.split("::")))


def _link_matches(url: str, prefix: str) -> bool:
    if is_local(url) or is_local(prefix):
        return url == prefix
    scheme, _, rest = url.partition("://")
    prefix_scheme, _, prefix_rest = prefix.partition("://")
    host, _, path = rest.partition("/")
    prefix_host, _, prefix_path = prefix_rest.partition("/")
    if scheme.lower() != prefix_scheme.lower() or host.lower() != prefix_host.lower():
        return False
    if not host and not prefix_host and not prefix_path:
        return True
    folder = prefix_path.rstrip("/")
    is_below = path in (folder, prefix_path) or not folder or path.startswith(folder + "/")
    return is_below and not _has_dot_segments(path)


def _has_dot_segments(path: str) -> bool:
    """Return whether a path has "." or ".." segments, in any encoding that a server may decode."""
    plain = unquote(unquote(path.partition("?")[0])).replace("\\", "/")
    return any(part in (".", "..") for part in plain.split("/"))


def _real_path(url: str) -> str:
    return os.path.realpath(local_path(url))


def _opened_path(path: str, descriptor: int) -> str | None:
    """Return the real path of the file that was opened by `path`; None if it has moved.

    A link may have changed since the file was opened, so Linux is asked for the path of the
    descriptor itself.
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
    """Return the user's seal of a digest, 64 hexadecimal digits; None if there is no key."""
    key = _read_key() or _create_key()
    return None if key is None else hmac.digest(key, digest, "sha256").hex()


def is_own_seal(seal: str, digest: bytes) -> bool:
    """Return whether this user made the seal of a digest."""
    key = _read_key()
    own = b"" if key is None else hmac.digest(key, digest, "sha256").hex().encode()
    return hmac.compare_digest(own, seal.encode("utf-8", "surrogatepass"))


def _key_path() -> str | None:
    """Return the path of the key; None if the user has no home folder."""
    folder = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_STATE_HOME", "")
    if not os.path.isabs(folder):  # noqa: PTH117 - the XDG specification ignores relative paths
        home = os.environ.get("HOME") if os.name != "nt" else None
        if home is None:
            home = os.path.expanduser("~")  # noqa: PTH111
        # a relative home folder depends on the current one, where others could leave a key
        if not os.path.isabs(home):  # noqa: PTH117
            return None
        folder = f"{home.rstrip(os.sep)}{_STATE_FOLDER}"
    return f"{folder}{os.sep}tiffref{os.sep}key"


_STATE_FOLDER = r"\AppData\Local" if os.name == "nt" else "/.local/state"


def key_problem() -> str | None:
    """Return why the key cannot be used or created; None if it can."""
    path = _key_path()
    if path is None:
        return "Your own documents are not recognized: you have no home folder (HOME)."
    if not os.path.lexists(path):
        folder = next(parent for parent in Path(path).parents if parent.exists())
        if folder.is_dir() and os.access(folder, os.W_OK):
            return None
        why = f"no key can be written to {Path(path).parent}; XDG_STATE_HOME sets another folder"
        return f"Your own documents are not recognized: {why}."
    fault = _key_fault(os.lstat(path))
    return fault and f"Your own documents are not recognized: the key {path} {fault}."


def _key_fault(state: os.stat_result) -> str | None:
    """Return why a key file is not one that only this user can read and write; None if it is."""
    if not stat.S_ISREG(state.st_mode):
        return "is not a regular file"
    if hasattr(os, "geteuid") and state.st_uid != os.geteuid():
        return "belongs to another user"
    if state.st_mode & 0o077 and os.name != "nt":  # a profile of Windows is private
        return "can be read or written by others (chmod 600 makes it private)"
    if state.st_nlink != 1:
        return "has another hard link"
    return None if state.st_size == _KEY_BYTES else f"does not have {_KEY_BYTES} bytes"


def _read_key() -> bytes | None:
    path = _key_path()
    if path is None:
        return None
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_NONBLOCK", 0)  # it may be a pipe
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return None
    try:
        state = os.fstat(descriptor)
        if state.st_nlink > 1:
            _remove_temporary_names(path, state)
            state = os.fstat(descriptor)
        return None if _key_fault(state) else os.read(descriptor, _KEY_BYTES)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _remove_temporary_names(path: str, key: os.stat_result) -> None:
    """Remove the hard link from creating the key, which stays if that process was killed."""
    for other in Path(path).parent.glob("key.????????"):
        with contextlib.suppress(OSError):
            if os.path.samestat(other.lstat(), key):
                other.unlink()


def _create_key() -> bytes | None:
    """Create the key unless it exists; if two processes try at once, one of them succeeds."""
    name = _key_path()
    if name is None or os.path.lexists(name):
        return _read_key()  # another process may just have created it
    path = Path(name)
    temporary = path.with_name(f"key.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        _link_if_new(temporary, path)
    except OSError:
        pass  # the home folder is not writable
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return _read_key()


def _link_if_new(temporary: Path, path: Path) -> None:
    """Hard-link a file to a new name; renaming would replace an existing file."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            temporary.rename(path)
