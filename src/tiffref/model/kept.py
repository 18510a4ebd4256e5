"""What a function gave for an object, kept as long as the same object keeps coming.

Owns a memory by identity: for objects whose hash or comparison takes longer than what is asked of
them, and which are made once and shared.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["once_for_each"]

_MAX_KEPT = 256
_Result = TypeVar("_Result")


def once_for_each(function: Callable[[Any], _Result]) -> Callable[[Any], _Result]:
    """Keep what a function gives for the last objects that it was asked about.

    Parameters
    ----------
    function
        Of one argument, which is never changed. Two equal objects count as two.
    """
    kept: dict[int, tuple[Any, _Result]] = {}

    @functools.wraps(function)
    def find(asked: Any) -> _Result:
        found = kept.get(id(asked))
        # the object is kept as well, so that no other one can have its identity
        if found is None or found[0] is not asked:
            if len(kept) >= _MAX_KEPT:
                kept.clear()
            found = kept[id(asked)] = (asked, function(asked))
        return found[1]

    return find
