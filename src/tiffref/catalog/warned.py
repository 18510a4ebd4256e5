"""What scans warn of, noted for the index instead of shown.

Owns the catching of our own warnings while several threads scan: `warnings.catch_warnings` alone
holds for a whole process, and mixes theirs up.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from ..errors import MetadataWarning, TruncationWarning

__all__ = ["noted"]

_LOCK = threading.Lock()
_HERE = threading.local()
_PATCH = contextlib.ExitStack()
_MAX_NOTED = 20
_NOTED = (MetadataWarning, TruncationWarning)
_users = 0


@contextlib.contextmanager
def noted() -> Iterator[list[str]]:
    """Collect what this thread warns of; other threads and other warnings are left alone."""
    found: list[str] = []
    before = getattr(_HERE, "found", None)
    _HERE.found = found
    _enter()
    try:
        yield found
    finally:
        _leave()
        _HERE.found = before


def _enter() -> None:
    global _users
    with _LOCK:
        _users += 1
        if _users == 1:
            _PATCH.enter_context(warnings.catch_warnings())
            for kind in _NOTED:
                warnings.simplefilter("always", kind)
            warnings.showwarning = _note_or_show(warnings.showwarning)


def _leave() -> None:
    global _users
    with _LOCK:
        _users -= 1
        if not _users:
            _PATCH.close()


def _note_or_show(show: Any) -> Any:
    def note(message: Any, category: type[Warning], *place: Any) -> None:
        found = getattr(_HERE, "found", None)
        if found is None or not issubclass(category, _NOTED):
            show(message, category, *place)
        elif len(found) < _MAX_NOTED:
            found.append(str(message))

    return note
