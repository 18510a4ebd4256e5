"""Clients of object stores and servers: the errors that they raise, and how to ask them.

Owns the list of error classes that are not `OSError` (without credentials, say, botocore raises
one of its own; a client that was never loaded has raised nothing), what each calls size, time and
ETag, and the step from a coroutine of fsspec's file systems to its result. fsspec's loop and
asyncio, which local files do not need, are loaded when it is taken: they are a sixth of the time
that the program needs to start.
"""

from __future__ import annotations

import contextlib
import datetime
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, Future, thread  # noqa: F401 - see `_give_up`
from typing import Any

from ..errors import SourceError, unreadable
from ..model.manifest import Source

__all__ = [
    "ask_state",
    "client_errors",
    "find_file_system",
    "source_of_info",
    "typed_errors",
    "wait_for",
]

_CLIENTS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
    ("ftplib", "Error"),
    ("paramiko.ssh_exception", "SSHException"),
    ("asyncssh", "Error"),
    ("zipfile", "BadZipFile"),
)


def client_errors() -> tuple[type[BaseException], ...]:
    """Return the classes of errors by which a file system says that something cannot be done.

    Among them are `OSError`, `ValueError`, `NotImplementedError`, `TypeError` for an option that a
    client does not know, and `ImportError`, which is how fsspec says that the package of a client
    is missing.
    """
    found = [getattr(sys.modules.get(module), name, None) for module, name in _CLIENTS]
    own = [kind for kind in found if isinstance(kind, type) and issubclass(kind, BaseException)]
    return (OSError, EOFError, TypeError, ValueError, NotImplementedError, ImportError, *own)


@contextlib.contextmanager
def typed_errors(
    url: str, what: str = "cannot be read", passing: type[BaseException] = SourceError
) -> Iterator[None]:
    """Translate what a client raises; errors that are `passing` stay as they are."""
    try:
        yield
    except passing:
        raise
    except client_errors() as error:
        raise unreadable(url, error, what) from error


def find_file_system(url: str, storage_options: Any, what: str = "cannot be opened") -> Any:
    """Return fsspec's file system of a URL, and the path in there.

    Raises
    ------
    SourceError
        If there is none, or it does not take the options.
    """
    import fsspec  # local files do not need it

    with typed_errors(url, what):
        return fsspec.url_to_fs(url, **(storage_options or {}))


def wait_for(fs: Any, function: Any, *arguments: Any) -> Any:
    """Call a coroutine function in the loop of a file system, and return what comes of it.

    Raises
    ------
    SourceError
        If Ctrl-C has ended the program: the threads of other libraries, which Python waits for at
        its end, would ask a server that hangs, one request after the other.
    """
    import asyncio

    request = asyncio.run_coroutine_threadsafe(function(*arguments), fs.loop)
    _requests.add(request)
    try:
        if _interrupted.is_set():  # only now: `_give_up` sees a request, or the request sees this
            request.cancel()
        return request.result()
    except CancelledError as error:
        raise SourceError(_ENDING) from error
    finally:
        request.cancel()
        _requests.discard(request)


_ENDING = "is not read any more: the program was interrupted"
_requests: set[Future[Any]] = set()
_interrupted = threading.Event()


def _give_up() -> None:
    """Cancel all requests if an interruption is what ends the program."""
    if getattr(sys, "last_type", None) is KeyboardInterrupt:
        _interrupted.set()
        for request in list(_requests):
            request.cancel()


# the last one is called first, and so before `concurrent.futures.thread` waits for its threads
getattr(threading, "_register_atexit", id)(_give_up)


def ask_state(fs: Any, path: str, *, is_listed: bool = False) -> Mapping[str, Any]:
    """Return what a file system says of a file now.

    Parameters
    ----------
    is_listed
        Whether its listing of the folder, which may be as old as the process, will do.
    """
    if not is_listed:
        fs.invalidate_cache(path.rpartition("/")[0] or "/")
    return fs.info(path)


def source_of_info(url: str, info: Mapping[str, Any]) -> Source:
    """Return size, time and ETag as file systems have them in their `info`."""
    known = next((info[name] for name in _TIMES if info.get(name)), None)
    moment: Any = _parse_time(known) if isinstance(known, str) else known
    seconds = moment.timestamp() if hasattr(moment, "timestamp") else moment
    etag = info.get("ETag") or info.get("etag")
    return Source(
        url,
        info.get("size"),
        seconds if isinstance(seconds, int | float) else None,
        etag.strip('"') if isinstance(etag, str) else None,
    )


_TIMES = ("mtime", "LastModified", "last_modified", "modified", "modify", "created")


def _parse_time(text: str) -> datetime.datetime | None:
    """Read the time of a file as FTP says it, 20260131235959 (RFC 3659, section 2.3)."""
    try:
        moment = datetime.datetime.strptime(text[:14], "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return moment.replace(tzinfo=datetime.UTC)
