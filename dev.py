#!/usr/bin/env python3
"""Set up tiffref in a fresh clone and run it: one command for the demo, one for the tests.

    python3 dev.py demo               make a pyramid, scan it, open the references with xarray
    python3 dev.py test [OPTIONS]     run the tests; OPTIONS go to pytest

Needs Python 3.11 or newer and nothing else. Each Python version gets a virtual environment of its
own beside this file (`.venv-3.11`, ...); it is made once and installed into again only when
`pyproject.toml` changes. `TIFFREF_VENV` names another folder for it.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
COMMANDS = {
    # name: (extra that it needs, arguments of Python that run it)
    "demo": ("xarray", [str(ROOT / "examples" / "quickstart.py")]),
    "test": ("test", ["-m", "pytest", "-n", "2"]),
}


def main(arguments):
    """Run one command in the project's own environment and give its exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 (any Python may run this file)
        sys.exit(f"tiffref needs Python 3.11 or newer, this is {sys.version.split()[0]}")
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__.strip())
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    extra, command = COMMANDS[arguments[0]]
    python = install(extra)
    folder = ROOT if arguments[0] == "test" else Path.cwd()
    return subprocess.run([str(python), *command, *arguments[1:]], cwd=folder).returncode


def install(extra):
    """Make the environment where it is missing, install the extra into it, give its Python."""
    default = ROOT / ".venv-{}.{}".format(*sys.version_info)
    folder = Path(os.environ.get("TIFFREF_VENV", default))
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / f"tiffref-{extra}"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    say(f"setting up {folder} (Python {sys.version.split()[0]}); this takes a minute or two")
    run(
        [sys.executable, "-m", "venv", str(folder)],
        "No environment could be made. On Debian and Ubuntu: apt install python3-venv",
    )
    run(
        [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        + ["--editable", f"{ROOT}[{extra}]"],
        "The packages could not be installed; what pip says is above.",
    )
    stamp.write_text(wanted)
    return python


def run(command, hint):
    """Run a step of the set-up; a failure ends the program with a hint."""
    if subprocess.run(command).returncode:
        sys.exit(f"dev.py: {hint}")


def say(text):
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
