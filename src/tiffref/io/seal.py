"""Seals of documents: how a user's own are told from those of others.

Owns the key of the user and what is made with it. A seal is a code (HMAC-SHA-256) over what a
document says, made with a key that only its user can read. Nobody else can make the user's seal,
and whoever changes a document breaks it. Who owns the file says nothing, since a download belongs
to the one who downloaded it. What a seal covers is said by `formats.sealing`.

The key is a file in the user's state folder, `$XDG_STATE_HOME/tiffref/key` (by default
`~/.local/state`; `%LOCALAPPDATA%` on Windows), made when the first document is written. A key that
others could read or write, or that belongs to somebody else, is not used, as OpenSSH does with its
own. Where there is no key, documents have no seal and none is trusted; errors about documents that
are not trusted then say why there is none (`key_problem`).

Reference: RFC 2104.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import stat
from pathlib import Path

__all__ = ["is_own_seal", "key_problem", "make_seal"]

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
