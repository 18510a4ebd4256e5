"""What is tracked: nothing at the top level that has no place there, and no path of one machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

TOP_LEVEL = {
    ".ci", ".gitignore", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md",
    "SECURITY.md", "dev.py", "docs", "examples", "mkdocs.yml", "pyproject.toml", "schemas", "src",
    "tests",
}  # fmt: skip

# an absolute path below a folder in which people keep their own things
MACHINE_PATH = re.compile(
    r"(?<![\w.:/}>-])/(?:(?:home|Users)/(?!me\b|you\b)|root/|work/|opt/\w+/)\w"
)

# "decision 12" of a document, "issue 6" of a tracker: whoever reads the code has neither
DANGLING = re.compile(
    r"\bdecisions? \d+|\b(?:issue|case)s? \d{1,2}\b|\bfield notes\b", re.IGNORECASE
)


@pytest.fixture(scope="module")
def tracked(repository: Path) -> list[Path]:
    done = subprocess.run(
        ["git", "-C", str(repository), "ls-files", "-z"], capture_output=True, check=False
    )
    names = [name for name in done.stdout.decode().split("\0") if name]
    if done.returncode or not names:
        pytest.skip("not a git checkout")
    return [repository / name for name in names if (repository / name).is_file()]


def offenders(paths: list[Path], pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        if path != Path(__file__) and pattern.search(line)
    ]


def test_the_top_level_holds_only_known_files(tracked: list[Path], repository: Path) -> None:
    found = {path.relative_to(repository).parts[0] for path in tracked}
    assert found <= TOP_LEVEL


def test_no_tracked_file_names_a_path_of_one_machine(tracked: list[Path]) -> None:
    assert offenders(tracked, MACHINE_PATH) == []


def test_comments_refer_to_nothing_outside_the_repository(tracked: list[Path]) -> None:
    code = [path for path in tracked if path.suffix == ".py"]
    assert offenders(code, DANGLING) == []
