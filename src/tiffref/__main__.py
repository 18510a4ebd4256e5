"""The program `tiffref`, which `python -m tiffref` is too.

Owns the first and the last moment of the program, when an interrupt meets no command.
"""

from __future__ import annotations

import os
import sys

__all__ = ["program"]

_INTERRUPTED = 130


def program() -> None:
    """Be the program `tiffref`: run and end with the exit code.

    An interrupted one ends at once: the interpreter would wait for threads whose requests hang.
    """
    try:
        from .cli import main

        code = main()
    except KeyboardInterrupt:  # while modules are imported
        print("tiffref: error: interrupted", file=sys.stderr)
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    program()
