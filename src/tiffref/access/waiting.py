"""Waiting for asynchronous file systems.

Owns the step from a coroutine of fsspec's file systems to its result. fsspec's loop and asyncio,
which local files do not need, are loaded when it is taken: they are a sixth of the time that the
program needs to start.
"""

from __future__ import annotations

from typing import Any

__all__ = ["wait_for"]


def wait_for(fs: Any, function: Any, *arguments: Any) -> Any:
    """Call a coroutine function in the loop of a file system, and give what comes of it."""
    from fsspec.asyn import sync

    return sync(fs.loop, function, *arguments)
