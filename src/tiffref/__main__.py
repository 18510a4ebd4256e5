"""The program `tiffref`, which `python -m tiffref` is too.

Owns the first and the last moment of the program: standard streams that are closed or full, an
interrupt that meets no command, and an error that nobody foresaw, which is a bug of ours and not of
the file.
"""

from __future__ import annotations

import os
import sys

__all__ = ["program"]

_INVALID, _ACCESS, _INTERRUPTED = 1, 3, 130


def program() -> None:
    """Be the program `tiffref`: run and end with the exit code.

    An interrupted one ends at once: the interpreter would wait for threads whose requests hang.
    """
    if not {"-v", "-vv", "--verbose"} & set(sys.argv):
        sys.excepthook = _report_bug
    _reopen_closed_streams()
    try:
        from .cli import main

        code = main()
    except KeyboardInterrupt:  # while modules are imported
        print("tiffref: error: interrupted", file=sys.stderr)
        code = _INTERRUPTED
    except OSError as error:  # of --help and --version, which no command prints
        code = _report_output(error)
    if code == _INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(_flush_output(code))


def _reopen_closed_streams() -> None:
    """Open standard streams that are closed (`>&-`): the next file would get their number.

    Messages may be lost, but results may not: writing to standard output then is an error.
    """
    for name, flags in (("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, flags)
            setattr(sys, name, open(null, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


def _flush_output(code: int) -> int:
    """Flush standard output, and return the exit code; the interpreter would exit with 120."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or _report_output(error)
    return code


def _report_output(error: OSError) -> int:
    """Say that standard output cannot be written, and return the exit code."""
    if isinstance(error, BrokenPipeError):  # its reader has gone, and knows
        return _INVALID
    print(f"tiffref: error: standard output: {error.strerror}", file=sys.stderr)
    return _ACCESS


def _report_bug(kind: type[BaseException], error: BaseException, _: object) -> None:
    print(f"tiffref: error: {kind.__name__}: {error}", file=sys.stderr)
    print("This is a bug of tiffref: please report it, with what -v shows.", file=sys.stderr)


if __name__ == "__main__":
    program()
