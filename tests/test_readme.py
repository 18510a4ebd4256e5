"""The README, the manual and the examples do what they say.

Blocks marked `python` run, those of one page in order in one namespace; a block marked `text` right
after one is what it prints. Blocks marked `console` run line by line: what follows `$ ` is a
command, what follows it is its output (`...` stands for any text). All run in a folder that holds
`image.tif`, a pyramid.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiffref.codecs.table import COMPRESSIONS, Compression

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
HELPERS = {"pictures", "range_server"}
EXAMPLES = sorted(p for p in (ROOT / "examples").glob("*.py") if p.stem not in HELPERS)
BLOCK = re.compile(
    r"^```(?P<kind>python|console)\n(?P<text>.*?)^```$(?:\n\n```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
LINK = re.compile(r"\]\((?!https?://|mailto:)(?P<target>[^)#\s]+)")

pytestmark = pytest.mark.filterwarnings(
    *(f"ignore::{name}Warning" for name in ("Deprecation", "PendingDeprecation", "Future"))
)


def blocks(page: Path, kind: str) -> Iterator[tuple[int, str, str | None]]:
    """Return the blocks of one kind as (line number of the first line, text, output)."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        if match["kind"] == kind:
            yield text.count("\n", 0, match.start("text")) + 1, match["text"], match["output"]


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("command", ["dev.py demo", "dev.py test"])
def test_the_readme_has_the_commands_that_ci_runs(command: str) -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert any(line.startswith(f"    python3 {command}") for line in lines)
    assert command in (ROOT / ".ci" / "run").read_text()


@pytest.mark.usefixtures("examples_folder")
@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_python_blocks_print_what_they_show(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, text, expected in blocks(page, "python"):
        # the newlines in front give tracebacks the line numbers of the page
        exec(compile("\n" * (line - 1) + text, str(page), "exec"), namespace)
        printed = capsys.readouterr().out
        if expected is not None:
            assert doctest.OutputChecker().check_output(expected, printed, FLAGS), printed


@pytest.mark.usefixtures("examples_folder")
@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_console_blocks_print_what_they_show(page: Path) -> None:
    checker = doctest.OutputChecker()
    for line, text, _ in blocks(page, "console"):
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            program, *arguments = shlex.split(command)
            assert program == "tiffref", f"{page}:{line}: {command}"
            done = subprocess.run(
                [sys.executable, "-m", "tiffref", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert checker.check_output(expected, done.stdout, FLAGS), (
                f"{page}:{line}: {command} printed\n{done.stdout}"
            )


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=page_name)
def test_links_have_targets(page: Path) -> None:
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        assert (page.parent / match["target"]).exists(), match["target"]


def test_the_index_has_every_page() -> None:
    docs = ROOT / "docs"
    linked = {match["target"] for match in LINK.finditer((docs / "index.md").read_text())}
    assert linked >= {page.relative_to(docs).as_posix() for page in PAGES[1:]} - {"index.md"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(example)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_page_on_codecs_lists_every_compression() -> None:
    text = (ROOT / "docs" / "codecs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", text, re.MULTILINE)
    assert {int(code): last.strip("`") for code, last in rows} == {
        code: _documented(row) for code, row in COMPRESSIONS.items()
    }
    assert len(rows) == len(COMPRESSIONS)


def _documented(row: Compression) -> str:
    if not row.kind:
        return row.reason
    return "tiffref_segment" if row.zarr2 is None else row.zarr2.get("id", "none")
