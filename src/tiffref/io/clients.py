"""Clients of object stores: the errors that they raise, and how to call them.

Owns the list of error classes that are not `OSError` (without credentials, say, botocore raises
one of its own; a client that was never loaded has raised nothing) and the step from a coroutine of
fsspec's file systems to its result. fsspec's loop and asyncio, which local files do not need, are
loaded when it is taken: they are a sixth of the time that the program needs to start.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["client_errors", "wait_for"]

_CLIENTS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
    ("ftplib", "Error"),
    ("paramiko.ssh_exception", "SSHException"),
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


def wait_for(fs: Any, function: Any, *arguments: Any) -> Any:
    """Call a coroutine function in the loop of a file system, and return what comes of it."""
    from fsspec.asyn import sync

    return sync(fs.loop, function, *arguments)
