"""Decode SGILog: logarithmic luminance, alone (LogL) or with chromaticity (LogLuv).

Owns the value space in which such samples are given, which is libtiff's 16-bit one and thereby
GDAL's: int16 L with log2 of the luminance as (L + 0.5) / 256 - 64 (negative L is a negative
luminance), and int16 u', v' (CIE 1976) scaled by 32768. Samples that the tags call float32 are
libtiff's XYZ instead.

References: G. Ward Larson, "LogLuv encoding for full-gamut, high-dynamic range images", Journal of
Graphics Tools 3(1), 1998; TIFF tags 34676 and 34677 as SGI registered them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.codec import SegmentCodec
from . import wrapped

__all__ = ["sgilog"]

PHOTOMETRIC_LOGLUV = 32845
SGILOG24 = 34677

# the paper: 8-bit u', v' are steps of 1/410; 14-bit codes index squares of 0.0035 a side
_UV_SCALE = 410.0
_UV_SIDE = 0.0035
_V_START = 0.016940
_U_WHITE, _V_WHITE = 0.210526316, 0.473684211
_N_CODES = 1 << 14
_SCALE = 1 << 15


def sgilog(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode SGILog of 16 bits (LogL), 24 bits or 32 bits (LogLuv)."""
    is_luv = codec.photometric == PHOTOMETRIC_LOGLUV and codec.shape[3] == 3
    if not is_luv or np.dtype(codec.dtype).kind == "f":
        return wrapped.libtiff(codec, data, out)
    n_rows, n_columns = codec.shape[0] * codec.shape[1], codec.shape[2]
    if codec.compression == SGILOG24:
        return _from_24_bits(_triples(data, n_rows * n_columns)).reshape(-1, n_columns, 3)
    planes = _expand_rows(bytes(data), n_rows, n_columns)
    return _from_32_bits(planes).reshape(-1, n_columns, 3)


def _triples(data: Any, n_pixels: int) -> NDArray[np.uint32]:
    stored = np.frombuffer(data, np.uint8)[: n_pixels * 3]
    first, second, third = stored[: stored.size // 3 * 3].reshape(-1, 3).astype(np.uint32).T
    return first << np.uint32(16) | second << np.uint32(8) | third


def _from_24_bits(words: NDArray[np.uint32]) -> NDArray[np.int16]:
    luv = np.empty((words.size, 3), np.int16)
    # the 10-bit logarithm (steps of 1/64, from 2**-12) in terms of the 16-bit one; that a bit of
    # the chromaticity gets into its lowest bit is libtiff's doing, and so GDAL's
    luv[:, 0] = (words >> 12 & 0xFFD) + 13314
    luv[:, 1:] = _chromaticities()[words & (_N_CODES - 1)]
    return luv


def _from_32_bits(planes: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Convert `(rows, 4, columns)` bytes, most significant first."""
    high, low, u, v = planes.transpose(1, 0, 2)
    luv = np.empty((*high.shape, 3), np.int16)
    luv[..., 0] = (high.astype(np.uint16) << 8 | low).view(np.int16)
    for index, codes in ((1, u), (2, v)):
        luv[..., index] = ((codes + 0.5) * (1.0 / _UV_SCALE) * _SCALE).astype(np.int16)
    return luv


def _expand_rows(data: bytes, n_rows: int, n_columns: int) -> NDArray[np.uint8]:
    """Undo the run lengths; each row stores its four byte planes one after the other.

    A stream that ends early leaves whole rows out.
    """
    planes = np.zeros((n_rows * 4, n_columns), np.uint8)
    position = 0
    for number, plane in enumerate(planes):
        column = 0
        while column < n_columns:
            if position + 1 >= len(data):
                return planes[: number // 4 * 4].reshape(-1, 4, n_columns)
            length = data[position]
            if length >= 128:
                length -= 126
                plane[column : column + length] = data[position + 1]
                position += 2
            else:
                literal = data[position + 1 : position + 1 + min(length, n_columns - column)]
                plane[column : column + len(literal)] = np.frombuffer(literal, np.uint8)
                position += 1 + length
            column += length
    return planes.reshape(-1, 4, n_columns)


@cache
def _chromaticities() -> NDArray[np.int16]:
    """Give u', v' of each 14-bit code, `(16384, 2)` int16 scaled by 32768.

    The squares that the codes index have no formula (row by row they cover the visible gamut), so
    they are asked of libtiff: XYZ of each code gives u', v' up to rounding, and a row of squares
    starts at a multiple of 1e-6, which removes the rounding. libtiff keeps starts as float32.
    """
    # any luminance but zero, for which XYZ is zero
    words = (np.arange(_N_CODES, dtype=np.uint32) | 0x200 << 14).astype(">u4")
    stored = words.view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    codec = SegmentCodec(
        (1, 1, _N_CODES, 3),
        "<f4",
        SGILOG24,
        bits=(16,),
        sample_format=2,
        photometric=PHOTOMETRIC_LOGLUV,
    )
    x, y, z = wrapped.libtiff(codec, stored, None).reshape(-1, 3).astype(np.float64).T
    weight = x + 15 * y + 3 * z
    u, v = 4 * x / weight, 9 * y / weight
    is_white = (abs(u - _U_WHITE) < 1e-6) & (abs(v - _V_WHITE) < 1e-6)
    side = np.float64(np.float32(_UV_SIDE))
    row = np.where(is_white, np.inf, np.round((v - _V_START) / _UV_SIDE - 0.5))
    first = np.searchsorted(row, row)
    start = np.round(u[first] - _UV_SIDE / 2, 6).astype(np.float32)
    exact = np.empty((_N_CODES, 2))
    exact[:, 0] = start + (np.arange(_N_CODES) - first + 0.5) * side
    exact[:, 1] = np.float64(np.float32(_V_START)) + (row + 0.5) * side
    # codes beyond the last square
    exact[is_white] = _U_WHITE, _V_WHITE
    return (exact * _SCALE).astype(np.int16)
