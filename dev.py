#!/usr/bin/env python3
"""Set up tiffref in a fresh clone and run it: one command for the demo, one for the tests.

    python3 dev.py demo               make a pyramid, scan it, open the references with xarray
    python3 dev.py test [OPTIONS]     run the tests; OPTIONS are passed to pytest
    python3 dev.py check              check style and types with ruff and mypy
    python3 dev.py docs               build the documentation site in `site/`
    python3 dev.py lowest             test with the lowest versions that pyproject.toml allows
    python3 dev.py package            build wheel and sdist in `dist/`, check and import them

Needs Python 3.11 or newer and nothing else. Each Python version gets a virtual environment of its
own beside this file (`.venv-dev-3.11`, ...); it is made once and installed into again only when
`pyproject.toml` changes. Delete the folder to start afresh.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
COMMANDS = {
    # name: (required extra, arguments of Python for each step)
    "demo": ("xarray", [[str(ROOT / "examples" / "quickstart.py")]]),
    "test": ("test", [["-m", "pytest", "-n", "2"]]),
    "package": ("package", [[str(ROOT / "tests" / "check_package.py")]]),
    "lowest": ("package", [[str(ROOT / "tests" / "check_lowest.py"), sys.executable]]),
    "docs": ("docs", [["-m", "mkdocs", "build", "--strict"]]),
    "check": (
        "check",
        [["-m", "ruff", "check"], ["-m", "ruff", "format", "--check"], ["-m", "mypy"]],
    ),
}


def main(arguments):
    """Run a command in the project's environment; return its exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 (any Python may run this file)
        sys.exit(f"tiffref needs Python 3.11 or newer, this is {sys.version.split()[0]}")
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__.strip())
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    extra, steps = COMMANDS[arguments[0]]
    python = install(extra)
    folder = Path.cwd() if arguments[0] == "demo" else ROOT
    codes = [
        subprocess.run([str(python), *step, *arguments[1:]], cwd=folder).returncode
        for step in steps
    ]
    return max(codes, key=abs)


def install(extra):
    """Create the environment if needed and install the extra; return its Python."""
    folder = ROOT / ".venv-dev-{}.{}".format(*sys.version_info)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "tiffref-installed"
    project = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    done = stamp.read_text().split() if stamp.exists() else []
    if project in done and extra in done:
        return python
    say(f"setting up {folder} (Python {sys.version.split()[0]}); this takes a minute or two")
    # without the stamp, an earlier set-up was interrupted and may be incomplete
    create = [sys.executable, "-m", "venv", *(["--clear"] if not done else []), str(folder)]
    run(create, "cannot create an environment. On Debian and Ubuntu: apt install python3-venv")
    stamp.unlink(missing_ok=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # pip before 24 tries many versions of packages until it finds compatible ones
    run([*pip, "--upgrade", "pip"], "cannot upgrade pip")
    run(
        [*pip, "--editable", f"{ROOT}[{extra}]"],
        "cannot install the packages; see the messages of pip above",
    )
    stamp.write_text(" ".join([*(done if project in done else [project]), extra]))
    return python


def run(command, hint):
    """Run a step of the set-up; if it fails, exit with a hint."""
    if subprocess.run(command).returncode:
        sys.exit(f"dev.py: {hint}")


def say(text):
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
