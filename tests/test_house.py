"""The shape of the code: names that stand for one thing, functions that fit on a screen."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import tiffref

ROOT = Path(tiffref.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py")

MAX_BODY_LINES = 60
MAX_PARAMETERS = 12
TESTED_ELSEWHERE = {
    "metadata/layout": "metadata/test_describe",
    "metadata/report": "metadata/test_describe",
    "model/tiff_facts": "tiff/test_facts",
    "tiff/descriptions": "tiff/test_series",
    "tiff/plan": "tiff/test_scan",
    "tiff/vendor_metadata": "flavours/test_products",
}
"""Modules without tests of their own, and those that would fail first."""

OF_NO_MODULE = {
    *("cli/test_cli", "tiff/test_companion", "viewers/test_images", "test_corpus"),
    *("test_docstrings", "test_house"),
    *("test_hygiene", "test_layers", "test_provoked_errors", "test_readme"),
}
"""Tests of a whole room, or of the whole package; those of the folders below are all such."""
WHOLE_FOLDERS = ("flavours", "interop", "trust")

PUBLIC = {
    f"{room}.{name}": getattr(import_module(room), name)
    for room in ("tiffref", "tiffref.zarr", "tiffref.catalog")
    for name in import_module(room).__all__
}


def is_plain_class(value: Any) -> bool:
    """Return whether a name stands for data: an error, a warning, a class of fields, a constant."""
    return (
        not callable(value)
        or is_dataclass(value)
        or (isinstance(value, type) and issubclass(value, Exception))
    )


def test_module_names_are_unique() -> None:
    names = Counter(path.stem for path in MODULES if path.stem != "__main__")
    assert [name for name, n in names.items() if n > 1] == []


def test_tests_mirror_modules() -> None:
    tests = Path(__file__).parent
    files = {str(one.relative_to(tests).with_suffix("")) for one in tests.rglob("test_*.py")}
    modules = [path.relative_to(ROOT).with_suffix("") for path in MODULES if path.stem[0] != "_"]
    own = {str(one): str(one.with_name(f"test_{one.name}")) for one in modules}
    untested = [
        module
        for module, name in own.items()
        if not any(one == name or one.startswith(f"{name}_") for one in files)
        and TESTED_ELSEWHERE.get(module) not in files
    ]
    assert untested == []
    lost = [
        one
        for one in files - OF_NO_MODULE
        if not one.startswith(WHOLE_FOLDERS)
        and not any(one == name or one.startswith(f"{name}_") for name in own.values())
    ]
    assert lost == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_fit_on_a_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and node.body[1:] else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
            assert lines <= MAX_BODY_LINES, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_functions_take_few_parameters(name: str) -> None:
    value: Any = PUBLIC[name]
    if is_plain_class(value):
        return
    if getattr(value, "__module__", "").startswith("tifffile"):
        return
    parameters = set(inspect.signature(value).parameters) - {"self"}
    assert len(parameters) <= MAX_PARAMETERS, sorted(parameters)
