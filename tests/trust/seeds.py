"""Small TIFFs of many kinds, made here, that hostile ones are mutated from."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import tifffile

__all__ = ["SEEDS"]


def noise(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(8).integers(0, n, shape).astype("u2")


GRAY = (noise(40, 48, 64) + np.arange(64)).astype("u1")
WIDE = (GRAY.astype("u2") * 257)[:40]
COLOR = np.stack([GRAY, GRAY[::-1], GRAY[:, ::-1]], axis=-1)
FLOATS = WIDE.astype("f4") / 3


def write(*images: Any, **options: Any) -> bytes:
    """Write images as one TIFF; `parts` of options are written one after the other."""
    buffer = io.BytesIO()
    opening = {k: options.pop(k) for k in ("bigtiff", "byteorder", "imagej", "ome") if k in options}
    with tifffile.TiffWriter(buffer, **opening) as writer:
        for image in images:
            writer.write(image, **options)
    return buffer.getvalue()


def pyramid() -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(COLOR, tile=(16, 16), subifds=1, compression="jpeg", photometric="rgb")
        writer.write(
            COLOR[::2, ::2], tile=(16, 16), subfiletype=1, compression="jpeg", photometric="rgb"
        )
    return buffer.getvalue()


def geo() -> bytes:
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)
    tags = [
        (33550, 12, 3, (10.0, 10.0, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 5e5, 5e6, 0.0), True),
        (34735, 3, len(keys), keys, True),
        (42112, 2, 0, "<GDALMetadata><Item name='a'>b</Item></GDALMetadata>", True),
        (42113, 2, 0, "-9999", True),
    ]
    return write(FLOATS, tile=(16, 16), compression="zlib", predictor=3, extratags=tags)


def geo_pyramid() -> bytes:
    """Return an image with overviews in a system of its own: names, and numbers for all of it."""
    texts = "Somewhere|GCS Name = WGS 84|Datum = unknown|Ellipsoid = WGS84|Primem = Greenwich|"
    numbers = (6378137.0, 298.257223563, 15.0, 0.9996, 500000.0, 0.0, 0.0)
    keys = {
        1024: (0, 1, 1), 1025: (0, 1, 1), 1026: (34737, 10, 0), 2048: (0, 1, 32767),
        2049: (34737, 69, 10), 2050: (0, 1, 32767), 2054: (0, 1, 9102), 2056: (0, 1, 32767),
        2057: (34736, 1, 0), 2059: (34736, 1, 1), 3072: (0, 1, 32767), 3073: (34737, 10, 0),
        3074: (0, 1, 32767), 3075: (0, 1, 1), 3076: (0, 1, 9001), 3080: (34736, 1, 2),
        3081: (34736, 1, 5), 3082: (34736, 1, 4), 3083: (34736, 1, 5), 3092: (34736, 1, 3),
    }  # fmt: skip
    directory = (1, 1, 0, len(keys), *(n for key, rest in keys.items() for n in (key, *rest)))
    tags = [
        (33550, 12, 3, (10.0, 10.0, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 5e5, 5e6, 0.0), True),
        (34735, 3, len(directory), directory, True),
        (34736, 12, len(numbers), numbers, True),
        (34737, 2, 0, texts, True),
    ]
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for n in (1, 2, 4):
            writer.write(
                WIDE[::n, ::n], tile=(16, 16), compression="zlib", subfiletype=int(n > 1),
                metadata=None, extratags=tags if n == 1 else (),
            )  # fmt: skip
    return buffer.getvalue()


def pages(n: int, **options: Any) -> bytes:
    return write(*np.arange(n * 64, dtype="u1").reshape(n, 8, 8), metadata=None, **options)


SEEDS: dict[str, Callable[[], bytes]] = {
    "plain": lambda: write(GRAY, metadata=None),
    "strips": lambda: write(WIDE, rowsperstrip=7, metadata=None),
    "big-endian": lambda: write(WIDE, byteorder=">", rowsperstrip=7),
    "bigtiff": lambda: write(WIDE, bigtiff=True, tile=(16, 16)),
    "lzw": lambda: write(WIDE, compression="lzw", predictor=2, rowsperstrip=9),
    "zlib": lambda: write(COLOR, compression="zlib", predictor=2, tile=(16, 32)),
    "zstd": lambda: write(WIDE, compression="zstd", tile=(32, 32)),
    "lzma": lambda: write(WIDE, compression="lzma", rowsperstrip=11),
    "packbits": lambda: write(GRAY, compression="packbits", rowsperstrip=16),
    "jpeg": lambda: write(COLOR, compression="jpeg", photometric="rgb", tile=(16, 16)),
    "ycbcr": lambda: write(COLOR, compression="jpeg", tile=(16, 16), subsampling=(2, 2)),
    "planar": lambda: write(
        np.moveaxis(COLOR, -1, 0), planarconfig="separate", photometric="rgb", rowsperstrip=8
    ),
    "bilevel": lambda: write(GRAY > 50, compression=8),
    "ccitt3": lambda: ccitt(3, 292),
    "ccitt4": lambda: ccitt(4, 293),
    "float": lambda: write(FLOATS, compression="zlib", predictor=3, rowsperstrip=10),
    "complex": lambda: write(FLOATS.astype("c8"), compression="zlib"),
    "webp": lambda: write(COLOR, compression="webp", tile=(16, 16)),
    "png": lambda: write(WIDE, compression="png", tile=(16, 16)),
    "jpeg2000": lambda: write(WIDE, compression="jpeg2000", tile=(32, 32)),
    "jpegxl": lambda: write(COLOR, compression="jpegxl", tile=(16, 16)),
    "lerc": lambda: write(FLOATS, compression="lerc", tile=(16, 16)),
    "palette": lambda: write(
        GRAY, photometric="palette", colormap=np.zeros((3, 256), "u2"), metadata=None
    ),
    "shaped": lambda: write(noise(9, 3, 5, 16, 16)),
    "imagej": lambda: write(noise(9, 3, 2, 16, 16), imagej=True, metadata={"axes": "ZCYX"}),
    "ome": lambda: write(noise(9, 3, 2, 16, 16), ome=True, metadata={"axes": "TCYX"}),
    "pyramid": pyramid,
    "geo": geo,
    "geo-pyramid": geo_pyramid,
    "pages": lambda: pages(5),
    "many-pages": lambda: pages(70),
    "many-compressed": lambda: pages(70, compression="zlib"),
    "volume": lambda: write(noise(9, 32, 32, 32).astype("u1"), tile=(16, 16, 16), volumetric=True),
}
"""Name to a function that gives the bytes."""


def ccitt(compression: int, option: int) -> bytes:
    """Return a bilevel file that says a fax compression; its bits are noise to the decoder."""
    data = bytearray(write(GRAY > 50, metadata=None, extratags=[(option, 4, 1, 0, True)]))
    return bytes(_retag(data, 259, compression))


def _retag(data: bytearray, code: int, value: int) -> bytearray:
    ifd = int.from_bytes(data[4:8], "little")
    for n in range(int.from_bytes(data[ifd : ifd + 2], "little")):
        at = ifd + 2 + 12 * n
        if int.from_bytes(data[at : at + 2], "little") == code:
            data[at + 8 : at + 10] = value.to_bytes(2, "little")
    return data
