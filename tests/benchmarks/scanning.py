"""Scanning and writing references, local: against tifffile, kerchunk and VirtualiZarr.

All write new files: over old ones, ext4 waits for the disk, 3 ms for whichever side.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import files
import tifffile
from harness import Work

import tiffref


def _ours(source: object, target: Path) -> None:
    target.unlink(missing_ok=True)
    tiffref.scan(source).write_fsspec(target)


def _tifffile(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    with tifffile.TiffFile(source) as tif, tif.series[0].aszarr() as store:
        store.write_fsspec(target, url=source.parent.as_uri(), version=1)


def _tifffile_parquet(source: Path, target: Path) -> None:
    import shutil

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
    """Give all comparisons; `is_full` takes the large sizes."""
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
    cogs = [files.cog(folder, i) for i in range(500 if is_full else 50)]
    peers = {"tifffile write_fsspec": lambda: [_tifffile(path, other) for path in cogs]}
    try:
        import virtual_tiff  # noqa: F401

        peers["VirtualiZarr + virtual-tiff"] = lambda: [_virtualizarr(p, other) for p in cogs]
    except ImportError:
        print("virtual-tiff is not installed: its column is left out")
    yield Work(
        f"scan + JSON, {len(cogs)} small COGs, one by one",
        lambda: [_ours(path, out) for path in cogs],
        peers,
        {"tifffile write_fsspec": 5, "VirtualiZarr + virtual-tiff": 20},
    )
