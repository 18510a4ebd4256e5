"""Scanning and writing references, local: against tifffile, kerchunk and VirtualiZarr.

All write new files: over old ones, ext4 waits for the disk, 3 ms for whichever side.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import files
import tifffile
from harness import Work

import tiffref
from tiffref import catalog


def _ours(source: object, target: Path) -> None:
    target.unlink(missing_ok=True)
    tiffref.scan(source).write_fsspec(target)


def _tifffile(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    with tifffile.TiffFile(source) as tif, tif.series[0].aszarr() as store:
        store.write_fsspec(target, url=source.parent.as_uri(), version=1)


def _tifffile_parquet(source: Path, target: Path) -> None:
    from kerchunk.df import refs_to_dataframe

    document = target.with_suffix(".json")
    with tifffile.TiffFile(source) as tif, tif.series[0].aszarr(multiscales=True) as store:
        store.write_fsspec(document, url=source.parent.as_uri(), version=1)
    shutil.rmtree(target, ignore_errors=True)
    refs_to_dataframe(json.loads(document.read_text()), str(target), record_size=100_000)


def _virtualizarr(source: Path, target: Path) -> None:
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore
    from virtual_tiff import VirtualTIFF
    from virtualizarr import open_virtual_dataset

    registry = ObjectStoreRegistry({"file://": LocalStore()})
    parser = VirtualTIFF(ifd=0)
    dataset = open_virtual_dataset(source.as_uri(), registry=registry, parser=parser)
    dataset.vz.to_kerchunk(str(target), format="json", zarr_format=3)


def works(folder: Path, is_full: bool) -> Iterator[Work]:
    """Return all comparisons; `is_full` takes the large sizes."""
    out, other = folder / "ours.json", folder / "theirs.json"
    one = files.tiles(folder, 1000 if is_full else 300)
    yield Work(
        f"scan + JSON, {one.stem}",
        lambda: _ours(one, out),
        {"tifffile write_fsspec": lambda: _tifffile(one, other)},
        {"tifffile write_fsspec": 20},
    )
    yield Work(
        f"scan + Parquet, {one.stem}",
        lambda: tiffref.scan(one).to_parquet(folder / "ours.parq"),
        {"write_fsspec + refs_to_df": lambda: _tifffile_parquet(one, folder / "theirs.parq")},
        {"write_fsspec + refs_to_df": 50},
    )
    for n in (10_000, 100_000) if is_full else (10_000,):
        for kind in ("imagej", "ome", "deflate", "irregular"):
            path = files.pages(folder, kind, n)
            yield Work(
                f"scan + JSON, {n} pages, {kind}",
                lambda path=path: _ours(path, out),
                {"tifffile write_fsspec": lambda path=path: _tifffile(path, other)},
                {"tifffile write_fsspec": 5},
            )
    yield from _small_cogs(folder, 500 if is_full else 50)


def _small_cogs(folder: Path, n: int) -> Iterator[Work]:
    """Compare ways to tell many small files; each writes new files into a folder of its own."""
    cogs = [files.cog(folder / "cogs", i) for i in range(n)]

    def each(write: Callable[[Path, Path], None]) -> None:
        targets = _emptied(folder / "documents")
        for path in cogs:
            write(path, targets / f"{path.stem}.json")

    peers = {"tifffile write_fsspec": lambda: each(_tifffile)}
    try:
        import virtual_tiff  # noqa: F401

        peers["VirtualiZarr + virtual-tiff"] = lambda: each(_virtualizarr)
    except ImportError:
        print("virtual-tiff is not installed: its column is left out")
    goal = {"tifffile write_fsspec": 5, "VirtualiZarr + virtual-tiff": 20}
    yield Work(f"scan + JSON, {n} small COGs, one by one", lambda: each(_ours), peers, goal)

    def build(executor: Any = None) -> None:
        target = _emptied(folder / "catalog") / "built"
        catalog.build(cogs, target, executor=executor)

    yield Work(f"catalog, {n} small COGs, one worker", build, peers, goal)
    # starting two processes takes longer than 500 files: these are up already
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        yield Work(f"catalog, {n} small COGs, two workers", lambda: build(pool), peers, goal)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
