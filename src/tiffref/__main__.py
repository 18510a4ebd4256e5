"""Entry point of the program `tiffref` and of `python -m tiffref`.

Handles what can go wrong outside of commands: closed or full standard streams, an interrupt during
imports, and unexpected errors, which are bugs of tiffref.
"""

from __future__ import annotations

import os
import sys

_INVALID, _ACCESS, _INTERRUPTED = 1, 3, 130


def program() -> None:
    """Run `tiffref` and exit with its exit code.

    After an interrupt, exit at once: the interpreter would wait for threads with hanging requests.
    """
    if not {"-v", "-vv", "--verbose"} & set(sys.argv):
        sys.excepthook = _report_bug
    _reopen_closed_streams()
    if sys.stdout.errors == "strict":  # names may not exist in the encoding of the terminal
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        from .cli import main

        code = main()
    except KeyboardInterrupt:  # while modules are imported
        print("tiffref: error: interrupted", file=sys.stderr)
        code = _INTERRUPTED
    except OSError as error:  # from --help and --version, which argparse prints
        code = _report_output(error)
    if code == _INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(_flush_output(code))


def _reopen_closed_streams() -> None:
    """Open standard streams that are closed (`>&-`), or the next file would get their descriptor.

    Messages may be lost, but results may not: writing to a closed standard output is an error.
    """
    for name, flags in (("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, flags)
            setattr(sys, name, open(null, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


def _flush_output(code: int) -> int:
    """Flush standard output and return the exit code; the interpreter would exit with 120."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or _report_output(error)
    return code


def _report_output(error: OSError) -> int:
    """Report that standard output cannot be written; return the exit code."""
    if isinstance(error, BrokenPipeError):  # the reader closed the pipe
        return _INVALID
    print(f"tiffref: error: standard output: {error.strerror}", file=sys.stderr)
    return _ACCESS


def _report_bug(kind: type[BaseException], error: BaseException, _: object) -> None:
    print(f"tiffref: error: {kind.__name__}: {error}", file=sys.stderr)
    print("This is a bug in tiffref: please report it with the output of -v.", file=sys.stderr)


if __name__ == "__main__":
    program()
