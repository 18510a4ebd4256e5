"""The program `tiffref`, which `python -m tiffref` is too.

Owns the first and the last moment of the program: an interrupt that meets no command, and an error
that nobody foresaw, which is a bug of ours and not of the file.
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
    if not {"-v", "-vv", "--verbose"} & set(sys.argv):
        sys.excepthook = _report_bug
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


def _report_bug(kind: type[BaseException], error: BaseException, _: object) -> None:
    print(f"tiffref: error: {kind.__name__}: {error}", file=sys.stderr)
    print("This is a bug of tiffref: please report it, with what -v shows.", file=sys.stderr)


if __name__ == "__main__":
    program()
