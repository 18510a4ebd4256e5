"""The table of clients and cases: every cell is a test, and `docs/clients.md` shows what holds.

A cell is yes where the client gives the right pixels, and for maps the right place, else the reason
why not. A "no" that turns out to be right fails as well: then the table is to be mended. Print the
table anew by `python tests/interop/test_table.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from cases import MAPS, MICROSCOPES, Case, slide
from clients import HERE, install_zarrita
from range_server import serve
from table_clients import GENERAL, OF_MAPS, OF_MICROSCOPES, read_zarrita

import tiffref
import zarr

pytestmark = [
    pytest.mark.skipif(
        zarr.__version__ < "3.2", reason="zarr 3.1 lists nothing in the groups of references"
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

CODEC = "The client does not support the codec."
MAPPING = "From references, the client reads only gzip, zstd and blosc."
CLOSED = "The client cannot open references."
PLATE = "The client does not read plates."
TWICE = "The client ignores all transposes but the first, so pixels are wrong."
NO: Mapping[tuple[str, str], str] = {
    ("COG, deflate", "GDAL, v3"): CODEC,
    **{(f"COG, {what}", client): CODEC
       for what in ("LZW and predictor", "JPEG", "WebP") for client in ("GDAL", "GDAL, v3")},
    ("RGB, bands first", "GDAL"): "Zarr v2 has no transpose codec, so `tiffref_segment` is used.",
    **{(f"OME pyramid, {what}", "ngff-zarr, v3"): MAPPING for what in ("deflate", "JPEG")},
    ("RGB slide, JPEG", "ngff-zarr, v3"): MAPPING,
    ("RGB slide, zstd", "ngff-zarr, v3"): "The client does not support transposes.",
    ("plate", "ngff-zarr"): PLATE,
    ("plate", "ngff-zarr, v3"): PLATE,
    **{(row, "zarrita.js, v3"): CODEC
       for row in ("COG, LZW and predictor", "COG, JPEG", "COG, WebP", "OME pyramid, JPEG",
                   "RGB slide, JPEG")},
    ("RGB, bands first", "zarrita.js, v3"): TWICE,
    **{(row, "tensorstore, v3"): CLOSED for row in (*MAPS, *MICROSCOPES)},
}  # fmt: skip
"""Row and column of each cell that is not yes, and why."""
ROWS = {**MAPS, **MICROSCOPES}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return {}


def make(cases: dict[str, Case], row: str, factory: pytest.TempPathFactory) -> Case:
    if row not in cases:
        cases[row] = ROWS[row](factory.mktemp("case"))
    return cases[row]


def check(case: Case, row: str, column: str, read: object) -> None:
    assert callable(read)
    reason = NO.get((row, column))
    if reason is None:
        found = read(case)
        assert found.dtype.newbyteorder("=") == case.pixels.dtype
        np.testing.assert_array_equal(found, case.pixels)
        return
    try:
        found = read(case)
    except (pytest.skip.Exception, KeyboardInterrupt):
        raise
    except Exception:  # a client may fail in any way
        return
    assert not np.array_equal(found, case.pixels), f"this works now, mend the table: {reason}"


def cells() -> list[tuple[str, str]]:
    found = [(row, column) for row in ROWS for column in GENERAL]
    found += [(row, column) for row in MAPS for column in OF_MAPS]
    return found + [(row, column) for row in MICROSCOPES for column in OF_MICROSCOPES]


@pytest.mark.parametrize(("row", "column"), cells(), ids=[" / ".join(cell) for cell in cells()])
def test_cell(
    row: str, column: str, cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory
) -> None:
    case = make(cases, row, tmp_path_factory)
    check(case, row, column, {**GENERAL, **OF_MAPS, **OF_MICROSCOPES}[column])


@pytest.fixture(scope="module")
def modules(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = getattr(request.config, "cache", None)
    folder = Path(cache.mkdir("zarrita")) if cache else tmp_path_factory.mktemp("zarrita")
    installed = install_zarrita(folder)
    shutil.copyfile(HERE / "read_zarrita.mjs", installed / "read_zarrita.mjs")
    return installed


@pytest.mark.parametrize("row", ROWS)
def test_cell_of_zarrita(
    row: str, modules: Path, cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory
) -> None:
    case = make(cases, row, tmp_path_factory)
    folder = case.documents[3].parent
    with serve(folder) as server:  # Node fetches http, but no file:// URLs
        document = folder / "http.json"
        references = tiffref.References.open(case.documents[3], allow="*")
        references.write_fsspec(document, url=server.url, zarr_format=3)
        check(case, row, "zarrita.js, v3", lambda case: read_zarrita(case, modules, document))


@pytest.mark.parametrize("compression", [None, "zstd", "zlib", "jpeg"])
def test_gdal_refuses_slides_whose_transpose_it_gets_wrong(
    tmp_path: Path, compression: str | None
) -> None:
    rasterio = pytest.importorskip("rasterio")
    case = slide(tmp_path, compression)
    with (
        pytest.raises(rasterio.RasterioIOError),
        rasterio.open(f'ZARR:"{case.documents[3]}":/{case.arrays[3]}') as found,
    ):
        found.read()


# ---- the page


def render() -> str:
    """Return the table as the page has it, its reasons as notes below."""
    notes = list(dict.fromkeys(NO.values()))
    lines = []
    for rows, own in ((MAPS, OF_MAPS), (MICROSCOPES, OF_MICROSCOPES)):
        lines += [f"| Client | {' | '.join(rows)} |", f"|---|{'---|' * len(rows)}"]
        for column in (*GENERAL, *own, "zarrita.js, v3"):
            reasons = [NO.get((row, column)) for row in rows]
            said = [f"no ({notes.index(one) + 1})" if one else "yes" for one in reasons]
            lines.append(f"| {column} | {' | '.join(said)} |")
        lines.append("")
    return "\n".join([*lines, *(f"{n}. {note}" for n, note in enumerate(notes, 1)), ""])


def test_the_page_shows_the_table() -> None:
    page = HERE.parents[1] / "docs" / "clients.md"
    assert render() in page.read_text(encoding="utf-8")


if __name__ == "__main__":
    print(render())
