"""Docstrings: each public name explains itself and its parameters, and examples are true."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

import tiffref

SOURCE = Path(tiffref.__file__).parent
ROOMS = ("tiffref", "tiffref.zarr", "tiffref.catalog")
THEIRS = frozenset({"TiffWriter", "imwrite", "memmap"})
"""Names that are another project's."""
WITH_EXAMPLES = [path for path in sorted(SOURCE.rglob("*.py")) if ">>> " in path.read_text()]


def public_names() -> Iterator[tuple[str, Any]]:
    for room in ROOMS:
        module = import_module(room)
        for name in module.__all__:
            yield f"{room}.{name}", getattr(module, name)


NAMES = {path: value for path, value in public_names() if path.rpartition(".")[2] not in THEIRS}


def functions_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Return a function, or those of a class that are its own: public methods, and `__init__`."""
    if not inspect.isclass(value):
        yield "", value
        return
    for name, member in vars(value).items():
        function = getattr(member, "__func__", member)
        if inspect.isfunction(function) and (name == "__init__" or not name.startswith("_")):
            yield name, function


def described(docstring: str) -> set[str]:
    """Return the names that stand alone or together at the margin of a docstring."""
    lines = inspect.cleandoc(docstring).replace("\\\n", " ").splitlines()
    listed = (line for line in lines if re.fullmatch(r"[\w*]+(, *[\w*]+)*", line))
    return {name.strip("* ") for line in listed for name in line.split(",")}


@pytest.mark.parametrize("name", NAMES)
def test_public_names_have_docstrings(name: str) -> None:
    assert inspect.getdoc(NAMES[name])
    for method, function in functions_of(NAMES[name]):
        assert method == "__init__" or inspect.getdoc(function) or is_known(NAMES[name], method), (
            f"{name}.{method} says nothing"
        )


def is_known(kind: type, method: str) -> bool:
    """Tell a method that a class above has: what it does is said there."""
    return any(hasattr(base, method) for base in kind.__mro__[1:])


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_described(name: str) -> None:
    for method, function in functions_of(NAMES[name]):
        if method and method != "__init__" and is_known(NAMES[name], method):
            continue
        text = (
            inspect.getdoc(NAMES[name]) if method == "__init__" else inspect.getdoc(function)
        ) or ""
        asked = set(inspect.signature(function).parameters) - {"self", "cls"}
        # one sentence may say it all where there is little to say
        if "Parameters\n---" not in text and len(asked) < 3:
            continue
        missing = asked - described(text)
        assert "as in `" in text or not missing, f"{name}.{method}: {missing}"


class Finder(doctest.DocTestFinder):
    """Finds functions under decorators of other modules too, which doctest leaves out."""

    def _from_module(self, module: Any, item: Any) -> bool:
        return super()._from_module(module, inspect.unwrap(item))  # type: ignore[misc]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_examples_run(path: Path, examples_folder: Path) -> None:
    for name in ("S2_20240101_B02.tif", "S2_20240101_B03.tif"):
        (examples_folder / name).symlink_to("image.tif")
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    module = import_module(".".join(part for part in parts if part != "__init__"))
    found = [one for one in Finder().find(module) if one.examples]
    runner = doctest.DocTestRunner()
    for one in found:
        runner.run(one)
    assert runner.summarize().failed == 0
    assert sum(len(one.examples) for one in found) == path.read_text().count(">>> ")


@pytest.mark.parametrize(
    "function", ["scan", "scan_sequence", "imread", "validate", "References.write_fsspec"]
)
def test_public_functions_have_examples(function: str) -> None:
    assert "\nExamples\n---" in inspect.getdoc(attrgetter(function)(tiffref))


def test_modules_have_docstrings() -> None:
    for path in SOURCE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path
