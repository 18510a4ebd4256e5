"""MkDocs hooks: run the examples for the gallery, fix links, and add return types.

`on_files` adds a page per example, with its output and pictures. `on_page_markdown` points links to
files outside of `docs/` to the repository. `TypesOfReturns` adds the return type of the signature
to docstrings, as numpydoc would take a description without a type for the type.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from griffe import Extension
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
SOURCES = "https://github.com/tiffref/tiffref/blob/main/"
EXAMPLES = (
    "quickstart",
    "remote",
    "time_series",
    "mosaic",
    "plate",
    "catalog",
    "dask_processes",
)
_RETURNS = re.compile(r"^Returns\n-{7}\n(?P<text>(?:(?! ).+(?:\n|\Z))+)(?! )", re.MULTILINE)
_OUTSIDE = re.compile(r"\]\((?:\.\./)+(?P<target>[A-Za-z][^)#\s]*)\)")


class TypesOfReturns(Extension):
    """Add the return type of the signature to the "Returns" section of docstrings."""

    def on_function_instance(self, *, func, **_):
        if func.docstring and func.returns:
            func.docstring.value = _RETURNS.sub(
                lambda match: (
                    f"Returns\n-------\n{func.returns}\n" + textwrap.indent(match["text"], "    ")
                ),
                func.docstring.value,
            )


def on_files(files, config):
    """Add a page and the pictures of each example."""
    if os.environ.get("TIFFREF_DOCS_GALLERY") == "0":  # quick builds while writing
        return files
    for name in EXAMPLES:
        for file in _run_example(name, config):
            files.append(file)
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links to files outside of docs/ to the repository, and list the gallery."""
    if page.file.src_uri == "gallery.md":
        markdown += "\n" + "\n".join(
            f"- [{_title(name)}](gallery/{name}.md)"
            for name in EXAMPLES
            if files.get_file_from_path(f"gallery/{name}.md")
        )
    here = Path(page.file.src_uri).parent

    def replace(match):
        target = os.path.normpath(Path("docs") / here / match[0][2:-1])
        is_page = target.startswith("docs")
        return match[0] if is_page else f"]({SOURCES}{target})"

    return _OUTSIDE.sub(replace, markdown)


def _title(name):
    return ast.get_docstring(ast.parse(_code(name))).splitlines()[0].rstrip(".")


def _code(name):
    return (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")


def _run_example(name, config):
    """Run one example in an empty folder; return its page and pictures as MkDocs files."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples" / f"{name}.py")],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "TMPDIR": folder},
        )
        if done.returncode:
            raise PluginError(f"examples/{name}.py failed:\n{done.stderr}")
        pictures = sorted(Path(folder).rglob("*.png"))
        output = done.stdout.replace(folder + os.sep, "")
        shown = "\n".join(f"![What {name} draws]({name}-{picture.name})" for picture in pictures)
        text = (
            f"# {_title(name)}\n\n{shown}\n\n```python\n{_code(name)}```\n\n"
            f"It prints:\n\n```text\n{output}```\n"
        )
        yield File.generated(config, f"gallery/{name}.md", content=text)
        for picture in pictures:
            yield File.generated(
                config, f"gallery/{name}-{picture.name}", content=picture.read_bytes()
            )
