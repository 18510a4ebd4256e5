"""The order of the rooms, and what each of them may import.

The law is in `docs/architecture.md`. Directions hold for every import inside the package, those in
functions included; the third-party lists hold at module level, since packages that a user may not
have are imported inside the function that needs them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

import tiffref

ROOT = Path(tiffref.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

RANKS = (
    {"signatures"},
    {"errors"},
    {"model"},
    {"io"},
    {"codecs", "metadata"},
    {"formats"},
    {"references"},
    {"read", "tiff"},
    {"sequences"},
    {"documents"},
    {"zarr", "validation", "catalog"},
    {"xarray", "compat"},
    {"viewers"},
    {"cli"},
    {"__init__", "__main__"},
)
"""Rooms from the bottom up: each may import from itself and the rows before its own."""

THIRD_PARTY = {
    "signatures": set(),
    "errors": set(),
    "model": {"numpy"},
    "io": {"fsspec"},
    "metadata": {"numpy"},
    "codecs": {"numpy", "numcodecs", "imagecodecs"},
    "codecs.plugins": {"numpy", "numcodecs", "imagecodecs", "zarr"},
    "tiff": {"numpy", "numcodecs"},
    "sequences": {"numpy"},
    "documents": {"numpy"},
    "formats": {"numpy", "ujson"},
    "references": {"numpy"},
    "read": {"numpy", "fsspec"},
    "zarr": {"numpy", "fsspec", "zarr"},
    "validation": {"numpy"},
    "catalog": {"numpy"},
    "xarray": {"numpy", "xarray"},
    "compat": {"numpy", "tifffile"},
    "viewers": set(),
    "viewers.bioio": {"bioio_base", "xarray"},
    "cli": set(),
    "__init__": set(),
    "__main__": set(),
}
"""Packages that a room, or one module of it, may import at module level."""


def dotted_name(path: Path) -> str:
    """Name a module inside the package, as `tiff.ifd`; an `__init__` has its room's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def room_of(name: str) -> str:
    return name.split(".")[0]


def rank_of(room: str) -> int:
    ranks = [rank for rank, rooms in enumerate(RANKS) if room in rooms]
    assert ranks, f"{room} has no place in RANKS"
    return ranks[0]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def walk_module_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Walk what runs when the module is imported."""
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        yield node
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if not is_function and not is_type_checking(node):
            nodes.extend(ast.iter_child_nodes(node))


def absolute_names(node: ast.AST, path: Path) -> list[str]:
    """Return the full dotted names that an import statement asks for, without the dots in front."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    if not node.level:
        return [node.module or ""]
    package = ("tiffref", *path.relative_to(ROOT).parts[:-1])
    base = package[: len(package) - node.level + 1]
    module = (*base, node.module) if node.module else base
    return [".".join((*module, alias.name)) for alias in node.names]


@pytest.mark.parametrize("path", MODULES, ids=dotted_name)
def test_imports_point_down(path: Path) -> None:
    room = room_of(dotted_name(path))
    rank = rank_of(room)
    for node in ast.walk(ast.parse(path.read_text())):
        for name in absolute_names(node, path):
            package, _, inner = name.partition(".")
            # importing the package itself reaches lazily loaded names of any room: only above
            target = inner.split(".")[0] or "__init__"
            if package != "tiffref" or target == room:
                continue
            if not any(target in rooms for rooms in RANKS):
                target = "__init__"
            assert rank_of(target) < rank, f"{path}:{node.lineno}: {room} imports {name}"


def test_no_modules_import_one_another() -> None:
    """Nor inside a room or a function: what has no circle can be read from the bottom up."""
    names = {dotted_name(path) for path in MODULES}
    imports: dict[str, set[str]] = {}
    for path in MODULES:
        found = {
            name.removeprefix("tiffref.")
            for node in ast.walk(ast.parse(path.read_text()))
            for name in absolute_names(node, path)
            if name.startswith("tiffref.")
        }
        modules = {name if name in names else name.rpartition(".")[0] for name in found}
        imports[dotted_name(path)] = modules & names - {dotted_name(path)}
    while ends := {name for name, others in imports.items() if not others & imports.keys()}:
        imports = {name: others for name, others in imports.items() if name not in ends}
    assert not imports, f"these import one another: {sorted(imports)}"


@pytest.mark.parametrize("path", MODULES, ids=dotted_name)
def test_third_party_imports_of_each_room(path: Path) -> None:
    name = dotted_name(path)
    allowed = THIRD_PARTY.get(name, THIRD_PARTY.get(room_of(name)))
    assert allowed is not None, f"{name} has no row in THIRD_PARTY"
    for node in walk_module_level(ast.parse(path.read_text())):
        for full in absolute_names(node, path):
            package = full.split(".")[0]
            if package != "tiffref" and package not in sys.stdlib_module_names:
                assert package in allowed, f"{path}:{node.lineno}: {name} imports {package}"


def test_importing_the_package_loads_numpy_and_the_standard_library_only() -> None:
    script = (
        "import sys; before = set(sys.modules); import tiffref; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "tiffref" in loaded
    assert loaded - sys.stdlib_module_names <= {"tiffref", "numpy"}


@pytest.mark.parametrize(
    "opened",
    ["tiffref.References.open(path)", "xarray.open_dataset(path, engine='tiffref')"],
)
def test_opening_a_document_does_not_load_the_scanner(tmp_path: Path, opened: str) -> None:
    import numpy as np
    import tifffile

    document = tmp_path / "a.json"
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4), "u1"), metadata=None)
    tiffref.scan(tmp_path / "a.tif").write_fsspec(document)
    script = (
        f"import sys, tiffref, xarray; path = {str(document)!r}; {opened}; "
        "print(*(name for name in sys.modules if name.startswith('tiffref.tiff')))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_scanning_and_writing_json_loads_only_what_the_file_needs(tmp_path: Path) -> None:
    import numpy as np
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4), "u1"), compression="zlib")
    script = (
        f"import sys, tiffref; tiffref.scan({str(tmp_path / 'a.tif')!r}).write_fsspec("
        f"{str(tmp_path / 'a.json')!r}); print(*{{name.split('.')[0] for name in sys.modules}})"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    slow = {"numcodecs", "pyproj", "tifffile", "fsspec", "zarr", "xarray", "pyarrow", "pandas"}
    assert not slow & set(done.stdout.split())


def test_public_names_exist_and_are_listed() -> None:
    import tiffref.catalog  # submodules and what is loaded later are not listed

    assert dir(tiffref) == sorted([*tiffref.__all__, "catalog", "zarr"])
    literal = re.search(r"^__all__ = (\[.*?\])", Path(tiffref.__file__).read_text(), re.S | re.M)
    assert literal and ast.literal_eval(literal[1]) == tiffref.__all__  # as mypy --strict needs it
    for name in tiffref.__all__:
        assert getattr(tiffref, name) is not None
    kinds = vars(tiffref.errors).values()
    found = {one.__name__ for one in kinds if isinstance(one, type) and issubclass(one, Exception)}
    assert found <= set(tiffref.__all__)


def test_the_architecture_lists_the_rooms_from_the_ground_up(repository: Path) -> None:
    page = (repository / "docs" / "architecture.md").read_text()
    listed = re.findall(r"(?m)^ {6}(\w+)(?:/|\.py) ", page)
    found = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(listed) == found - {"__init__", "__main__", "__pycache__"}
    ranks = [rank_of(room) for room in listed]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize("path", MODULES, ids=dotted_name)
def test_no_process_wide_state_is_changed(path: Path) -> None:
    """Warnings go through `errors.warn`, so that catalogs collect them thread by thread."""
    room = room_of(dotted_name(path))
    text = path.read_text()
    assert not re.search(r"\bgc\.(disable|freeze)\(", text)
    if room not in ("errors", "cli"):
        assert not re.search(r"\bwarnings\.(warn|showwarning)\b", text)


@pytest.mark.parametrize("opener", ["References", "store", "engine"])
def test_few_rooms_open_a_document(tmp_path: Path, opener: str) -> None:
    import numpy as np
    import tifffile
    import xarray as xr

    from tiffref.zarr import ZarrTiffStore

    tifffile.imwrite(tmp_path / "a.tif", np.zeros((32, 32), "u2"), tile=(16, 16), metadata=None)
    document = tmp_path / "a.json"
    tiffref.scan(tmp_path / "a.tif").write_fsspec(document)
    open_it: dict[str, Callable[[Path], object]] = {
        "References": tiffref.References.open,
        "store": ZarrTiffStore,
        "engine": lambda path: xr.open_dataset(path, engine="tiffref"),
    }
    open_it[opener](document)  # what is imported for it is no part of it
    entered: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and ROOT in path.parents:
            entered.add(path.relative_to(ROOT).parts[0].removesuffix(".py"))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        open_it[opener](document)
    finally:
        sys.setprofile(before)
    assert "references" in entered and len(entered) <= 8, entered
