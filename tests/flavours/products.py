"""Files of any combination of compression, predictor, bits, byte order, layout and edges.

Written by our own writer, which does what libraries that write TIFF do not: cropped tiles, padded
strips, bytes behind the end of a segment, bits stored backwards, packed samples in any of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from hypothesis import strategies as st
from ifds import BIG, CLASSIC, image, write_tiff

ENCODERS = {
    1: bytes,
    5: imagecodecs.lzw_encode,
    8: imagecodecs.zlib_encode,
    32773: imagecodecs.packbits_encode,
    32946: imagecodecs.zlib_encode,
    34925: imagecodecs.lzma_encode,
    50000: imagecodecs.zstd_encode,
}
TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8")
PACKED = (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 17, 20, 23, 27, 31)
EDGES = ("whole", "cropped", "long")


@dataclass(frozen=True)
class Product:
    """One combination; `bits` is None where samples have their type's width."""

    shape: tuple[int, int, int, int]  # pages, rows, columns, samples
    dtype: str
    bits: int | None
    compression: int
    predictor: int
    order: str
    tile: tuple[int, int] | None
    rows: int
    is_planar: bool
    edges: str
    fill_order: int
    is_big: bool
    seed: int


@st.composite
def products(draw: st.DrawFn) -> Product:
    """Draw a combination that TIFF allows."""
    bits = draw(st.none() | st.none() | st.sampled_from(PACKED))
    dtype = draw(st.sampled_from(TYPES)) if bits is None else f"u{1 << max(0, (bits - 1) // 8)}"
    dtype = {"u4": "u4", "u8": "u4"}.get(dtype, dtype) if bits else dtype
    compression = draw(st.sampled_from(sorted(ENCODERS)))
    predictors = {"f": (1, 2, 3), "c": (1,)}.get(dtype[0], (1, 2))
    return Product(
        shape=(
            draw(st.integers(1, 3)), draw(st.integers(1, 70)), draw(st.integers(1, 70)),
            draw(st.integers(1, 4)),
        ),
        dtype=dtype,
        bits=bits,
        compression=compression,
        # decoders disagree about a predictor with PackBits (32773)
        predictor=1 if bits or compression in (1, 32773) else draw(st.sampled_from(predictors)),
        order=draw(st.sampled_from("<>")),
        tile=draw(st.none() | st.tuples(st.sampled_from([16, 32]), st.sampled_from([16, 48]))),
        rows=draw(st.integers(1, 80)),
        is_planar=draw(st.booleans()),
        edges=draw(st.sampled_from(EDGES)),
        # what is compressed and stored backwards is rare, and decoders disagree
        fill_order=2 if compression == 1 and draw(st.integers(0, 3)) == 3 else 1,
        is_big=draw(st.booleans()),
        seed=draw(st.integers(0, 1 << 16)),
    )  # fmt: skip


def values(product: Product) -> np.ndarray:
    """Return the samples of a product, (pages, rows, columns, samples)."""
    rng = np.random.default_rng(product.seed)
    if product.bits:
        return rng.integers(0, 1 << product.bits, product.shape).astype(product.dtype)
    if product.dtype[0] in "fc":
        return (rng.normal(size=product.shape) * 100).astype(product.dtype)
    limits = np.iinfo(product.dtype)
    return rng.integers(limits.min, limits.max, product.shape, product.dtype, endpoint=True)


def write(path: Path, product: Product) -> np.ndarray:
    """Write a product; return the array that reading it gives."""
    data = values(product)
    pages = [_page(page, product) for page in data]
    write_tiff(path, pages, form=BIG if product.is_big else CLASSIC, order=product.order)
    if product.bits == 1:
        data = data.astype(bool)
    if product.is_planar and product.shape[3] > 1:
        data = np.moveaxis(data, 3, 1)
    n_pages, *_, samples = product.shape
    data = data.reshape(data.shape[:-1]) if samples == 1 else data
    return data[0] if n_pages == 1 else data


def _page(page: np.ndarray, product: Product):
    n_rows, n_columns, samples = page.shape
    is_planar = product.is_planar and samples > 1
    pixels = np.moveaxis(page, 2, 0) if is_planar else page if samples > 1 else page[..., 0]
    plain = np.zeros(pixels.shape, "u1")
    one = image(plain, tile=product.tile, rows=product.rows, is_planar=is_planar)
    width = product.bits or 8 * page.dtype.itemsize
    kind = {"u": 1, "i": 2, "f": 3, "c": 6}[page.dtype.kind]
    one.tags |= {
        258: [width] * samples, 259: product.compression, 262: 1, 266: product.fill_order,
        317: product.predictor, 338: [0] * (samples - 1), 339: [kind] * samples,
    }  # fmt: skip
    if samples == 1:
        del one.tags[338]
    planes = np.moveaxis(page, 2, 0)[..., None] if is_planar else page[None]
    step = product.tile or (min(product.rows, n_rows), n_columns)
    one.segments = [
        _segment(plane[y : y + step[0], x : x + step[1]], step, product)
        for plane in planes
        for y in range(0, n_rows, step[0])
        for x in range(0, n_columns, step[1])
    ]
    return one


def _segment(part: np.ndarray, step: tuple[int, int], product: Product) -> bytes:
    """Encode one segment: padded to its full size or not, and with bytes too many."""
    lack = [step[0] - part.shape[0], step[1] - part.shape[1]]
    if product.tile is None and product.edges == "whole":
        lack = [0, 0]  # the last strip of most writers
    if product.edges != "cropped" or product.tile is None:
        part = np.pad(part, [(0, lack[0]), (0, lack[1]), (0, 0)], mode="edge")
    raw = _packed(_predicted(part, product), product)
    stored = ENCODERS[product.compression](raw + bytes(5) * (product.edges == "long"))
    return imagecodecs.bitorder_encode(stored) if product.fill_order == 2 else stored


def _predicted(part: np.ndarray, product: Product) -> np.ndarray:
    if product.predictor == 3:
        return imagecodecs.floatpred_encode(np.ascontiguousarray(part), axis=-2)
    if product.predictor == 2:
        whole = np.ascontiguousarray(part).view(f"u{part.dtype.itemsize}")
        return np.diff(whole, axis=1, prepend=np.zeros_like(whole[:, :1]))
    return part


def _packed(part: np.ndarray, product: Product) -> bytes:
    if product.bits is None:
        if product.predictor == 3:
            return part.tobytes()
        return part.astype(part.dtype.newbyteorder(product.order)).tobytes()
    flat = part.reshape(len(part), -1).astype(">u4")
    bits = np.unpackbits(flat.view("u1").reshape(len(part), -1, 4), axis=2)[..., -product.bits :]
    return np.packbits(bits.reshape(len(part), -1), axis=1).tobytes()
