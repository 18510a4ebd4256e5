"""Reading local files: against tifffile, rasterio, the codec alone, and ReferenceFileSystem."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import files
import fsspec
import imagecodecs
import numpy as np
import tifffile
from harness import Work

import tiffref
import zarr
from tiffref.read.chunks import CACHE
from tiffref.zarr import ZarrTiffStore


def _rasterio(path: Path, windows: list | None = None, n_threads: int = 2) -> Any:
    import rasterio

    threads = {"num_threads": n_threads} if n_threads > 1 else {}
    with (
        rasterio.Env(GDAL_NUM_THREADS=str(n_threads)),
        rasterio.open(path, **threads) as image,
    ):
        if windows is None:
            return image.read(1)
        return [image.read(1, window=window) for window in windows]


def _codec_floor(path: Path) -> Callable[[], None]:
    """Inflate all tiles from memory with two threads: what no reader can beat."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        raw = path.read_bytes()
        stored = [
            raw[offset : offset + length]
            for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
    out = np.empty((len(stored), 256 * 256), "u1")

    def inflate(n: int) -> None:
        imagecodecs.deflate_decode(stored[n], out=out[n])

    def run() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(inflate, range(len(stored))))

    return run


def works(folder: Path, is_full: bool) -> Iterator[Work]:
    """Return all comparisons; `is_full` takes the large sizes."""
    size = 8192 if is_full else 4096
    for compression in ("zlib", "zstd", None, "jpeg", "lzw"):
        path = files.tiled_image(folder, compression, size)
        store = ZarrTiffStore(path)
        peers = {
            "imread": lambda path=path: tifffile.imread(path, maxworkers=2),
            "rasterio": lambda path=path: _rasterio(path, n_threads=1),
            "rasterio, 2 threads": lambda path=path: _rasterio(path),
        }
        goal = dict.fromkeys(peers, 1.0)
        if compression == "zlib":
            peers["codec floor, two threads"] = _codec_floor(path)
            goal["codec floor, two threads"] = 1 / 1.1

        def check(store: Any = store, path: Path = path) -> None:
            np.testing.assert_array_equal(store[:], tifffile.imread(path))

        yield Work(f"read all, {compression}", lambda store=store: store[:], peers, goal, check)
    path = files.tiled_image(folder, "zlib", size)
    yield from _windows(path, size)
    yield from _through_zarr(folder)
    yield from _opening(folder, 1000 if is_full else 300)


def _windows(path: Path, size: int) -> Iterator[Work]:
    import rasterio

    store = ZarrTiffStore(path)
    corners = np.random.default_rng(3).integers(0, size - 512, (20, 2)).tolist()
    windows = [rasterio.windows.Window(x, y, 512, 512) for y, x in corners]
    rows = [rasterio.windows.Window(0, y, size, 1) for y in range(1000, 1300)]

    def cold(read: Callable[[], object]) -> Callable[[], object]:
        """Begin without decoded tiles, as rasterio does when it opens the file."""

        def run() -> object:
            CACHE.clear()
            return read()

        return run

    yield Work(
        "20 random windows of 512 x 512, deflate",
        cold(lambda: [store[y : y + 512, x : x + 512] for y, x in corners]),
        {"rasterio": lambda: _rasterio(path, windows)},
        {"rasterio": 1},
    )
    yield Work(
        "300 rows one by one, deflate",
        cold(lambda: [store[y] for y in range(1000, 1300)]),
        {"rasterio": lambda: _rasterio(path, rows)},
    )


def _reference_array(document: Any) -> Any:
    fs = fsspec.filesystem(
        "reference", fo=document, remote_protocol="file", asynchronous=True,
        remote_options={"asynchronous": True}, skip_instance_cache=True,
    )  # fmt: skip
    store = zarr.storage.FsspecStore(fs, read_only=True)
    return zarr.open_array(store, path="image", mode="r", zarr_format=2)


def _through_zarr(folder: Path) -> Iterator[Work]:
    def make(path: Path) -> None:
        data = np.arange(1024 * 1024, dtype="u1").reshape(1024, 1024)
        tifffile.imwrite(path, data, tile=(16, 16), metadata=None, photometric="minisblack")

    path = files.made(folder, "small-chunks.tif", make)
    is_new = tuple(int(n) for n in zarr.__version__.split(".")[:2]) >= (3, 3)
    pipeline = zarr.config.get("codec_pipeline.path")
    if is_new:  # it asks stores that can answer without an event loop to do so
        pipeline = "zarr.core.codec_pipeline.FusedCodecPipeline"
    with zarr.config.set({"codec_pipeline.path": pipeline}):
        ours = zarr.open_array(ZarrTiffStore(path, chunkmode="tile"), mode="r")
    theirs = _reference_array(tiffref.scan(path, chunkmode="tile").to_kerchunk())
    yield Work(
        "4,096 chunks of 256 bytes through zarr",
        lambda: ours[:],
        {"zarr + ReferenceFileSystem": lambda: theirs[:]},
        {"zarr + ReferenceFileSystem": 3 if is_new else 2},
        lambda: np.testing.assert_array_equal(ours[:], theirs[:]),
    )


def _opening(folder: Path, n: int) -> Iterator[Work]:
    references = tiffref.scan(files.tiles(folder, n))
    document, table = folder / "open.json", folder / "open.parq"
    dumped = folder / "open-dumped.json"
    references.write_fsspec(document)
    references.to_parquet(table)
    dumped.write_text(json.dumps(references.to_kerchunk()))
    for target, goal in ((document, 5.0), (dumped, 1.0), (table, 1.0)):
        yield Work(
            f"open {n * n} references, read one chunk, {target.name[5:]}",
            lambda target=target: ZarrTiffStore(str(target))[:16, :16],
            {"ReferenceFileSystem": lambda target=target: _reference_array(str(target))[:16, :16]},
            {"ReferenceFileSystem": goal},
        )
