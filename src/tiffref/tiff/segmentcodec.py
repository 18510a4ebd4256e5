"""What an IFD says to the codec of its segments.

Owns which facts matter to which decoder. Everything that a decoder uses goes into the codec, and
nothing else, so that pages decode alike exactly when their codecs are equal.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..codecs.table import COMPRESSIONS, JPEG, OLD_JPEG, jpeg_colorspaces
from ..errors import MalformedTiff, UnsupportedTiff
from ..model.codec import SegmentCodec
from ..model.grid import Shape5, segment_shape
from ..model.tiff_facts import IfdFacts

__all__ = ["is_plain", "segment_codec"]

_ANY_JPEG = JPEG | {OLD_JPEG}
_YCBCR = 6
_PHOTOMETRIC = frozenset({6, 34676, 34677})
_BITS = frozenset({32766, 32809})
"""Compressions whose image decoder depends on PhotometricInterpretation, on BitsPerSample."""

_NONE = 1
"""Without compression libtiff ignores a predictor, and no writer at hand applies one."""
_LERC = 34887
_UNASSOCIATED_ALPHA = 2

_PARAMETER_TAGS: dict[int, dict[str, int]] = {
    2: {},
    3: {"t4_options": 292},
    4: {"t6_options": 293},
    _LERC: {"lerc_parameters": 50674},
    65002: {"skip_bits": 65007, "horizontal_bits": 65008, "vertical_bits": 65009},
}
"""What decoders need from tags beyond those of `SegmentCodec`, by compression."""
_JPEG_SIGNS = ("is_jfif", "is_unmarked")
_WITH_PARAMETERS = _ANY_JPEG | _PARAMETER_TAGS.keys()


def segment_codec(ifd: IfdFacts, *, is_short: bool = False) -> SegmentCodec:
    """Describe how the segments of an IFD decode.

    Parameters
    ----------
    is_short
        Some segments are stored cropped or short: the codec is told the part inside the image.

    Raises
    ------
    UnsupportedTiff
        If there is no data type for the samples.
    """
    if ifd.dtype is None:
        raise UnsupportedTiff(
            "no data type holds these samples",
            ifd=ifd.name,
            tag="BitsPerSample (258), SampleFormat (339)",
            got=f"{ifd.bits} bits, format {ifd.sample_format}",
        )
    if not isinstance(ifd.sample_format, int):
        raise UnsupportedTiff(
            "samples of different formats",
            ifd=ifd.name,
            tag="SampleFormat (339)",
            got=ifd.sample_format,
            expected="one format",
        )
    shape = segment_shape(ifd.shape, ifd.tile, ifd.rows_per_strip)
    if 0 in shape:
        raise MalformedTiff(
            "tiles or strips have no samples",
            ifd=ifd.name,
            tag="TileWidth (322), TileLength (323), RowsPerStrip (278)",
            got=shape[1:],
        )
    parameters: dict[str, Any] = {}
    if ifd.compression in _WITH_PARAMETERS or ifd.tables or ifd.photometric == _YCBCR:
        parameters = _parameters(ifd)
    codec = _bare_codec(
        shape[1:],
        "<f4" if "calibration" in parameters else None,
        ifd.dtype,
        ifd.compression,
        ifd.predictor,
        ifd.byteorder,
        ifd.bits,
        ifd.sample_format,
        ifd.fill_order,
        ifd.photometric,
        ifd.photometric == _YCBCR and _is_subsampled(ifd),
        _edge(ifd.shape, shape) if is_short else None,
        ifd.nodata if is_short and ifd.nodata else None,
    )
    return replace(codec, parameters=parameters) if parameters else codec


@functools.lru_cache(1024)
def _bare_codec(
    shape: tuple[int, int, int, int],
    decoded_dtype: str | None,
    stored_dtype: str,
    compression: int,
    predictor: int,
    byteorder: str,
    bits: tuple[int, ...],
    sample_format: int,
    fill_order: int,
    photometric: int,
    is_subsampled: bool,
    edge: tuple[int, int, int] | None,
    fill: float | int | None,
) -> SegmentCodec:
    """Describe a codec without parameters: segments of many files have the same."""
    dtype = np.dtype(stored_dtype)
    row = COMPRESSIONS.get(compression)
    is_image = row is not None and row.kind == "image"
    if is_image:
        has_byteorder, needs_bits = (
            compression == _LERC and dtype.itemsize > 1,
            compression in _BITS,
        )
    else:
        has_byteorder = dtype.itemsize > 1 or max(bits) > 8
        needs_bits = bits != (8 * dtype.itemsize,)
    has_fill_order = row is None or not is_image or bool(row.fill_order)
    return SegmentCodec(
        shape=shape,
        dtype=decoded_dtype or dtype.newbyteorder("<").str,
        compression=compression,
        predictor=1 if is_image or compression == _NONE else predictor,
        byteorder=byteorder if has_byteorder else "<",
        bits=bits if needs_bits else (),
        sample_format=1 if is_image else sample_format,
        fill_order=fill_order if has_fill_order else 1,
        photometric=photometric if is_subsampled or compression in _PHOTOMETRIC else 1,
        edge=edge,
        fill=fill,
    )


def _edge(page: Shape5, segment: Shape5) -> tuple[int, int, int]:
    """Return the part of the last segment that lies inside the image."""
    _, *edge = (n % s or s for n, s in zip(page[:4], segment[:4], strict=True))
    return tuple(edge)  # type: ignore[return-value]


def _is_subsampled(ifd: IfdFacts) -> bool:
    is_jpeg = ifd.compression in _ANY_JPEG
    return ifd.photometric == _YCBCR and not is_jpeg and ifd.subsampling != (1, 1)


def _parameters(ifd: IfdFacts) -> dict[str, Any]:
    tags: Mapping[int, Any] = ifd.tags
    found: dict[str, Any] = {
        name: tags[code]
        for name, code in _PARAMETER_TAGS.get(ifd.compression, {}).items()
        if tags.get(code)
    }
    found.update({name: value for name, value in ifd.tables.items() if name not in _JPEG_SIGNS})
    if ifd.compression in _ANY_JPEG:
        found.update(
            jpeg_colorspaces(
                ifd.photometric,
                ifd.is_separate,
                ifd.extra_samples,
                *(bool(ifd.tables.get(name)) for name in _JPEG_SIGNS),
            )
        )
    if ifd.compression == _LERC:
        found.update(_lerc_mask(ifd))
    if _is_subsampled(ifd) or ifd.compression == OLD_JPEG:
        if 0 in ifd.subsampling:
            raise MalformedTiff(
                "chroma has no samples", ifd=ifd.name, tag="YCbCrSubSampling (530)",
                got=ifd.subsampling, expected="1, 2 or 4 along each axis",
            )  # fmt: skip
        found["subsampling"] = ifd.subsampling
        for name, code, n in (("ycbcr_coefficients", 529, 3), ("reference_black_white", 532, 6)):
            if code in tags:
                found[name] = _numbers(tags[code], n)
    return found


def _lerc_mask(ifd: IfdFacts) -> dict[str, str]:
    """Describe what a mask beside the samples means, if libtiff writes one for such images."""
    dtype = np.dtype(ifd.dtype)
    if dtype.kind == "f":
        return {"lerc_mask": "nan"}
    has_alpha = ifd.extra_samples[-1:] == (_UNASSOCIATED_ALPHA,) and not ifd.is_separate
    return {"lerc_mask": "alpha"} if has_alpha and dtype == np.uint8 else {}


def _numbers(values: Sequence[Any], n: int) -> tuple[float, ...]:
    """Return `n` numbers of a tag, which may list numerators and denominators, or the numbers."""
    is_list = isinstance(values, tuple) and all(isinstance(n, int | float) for n in values)
    if not is_list or len(values) not in (n, 2 * n):
        raise MalformedTiff("a tag has no such numbers", got=repr(values)[:60], expected=f"{n}")
    flat = [float(value) for value in values]
    if len(flat) == n:
        return tuple(flat)
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return tuple(n / d if d else n for n, d in pairs)


def is_plain(codec: SegmentCodec) -> bool:
    """Return whether stored bytes are the samples, save for their byte order."""
    return (
        codec.compression == 1
        and codec.predictor == 1
        and codec.fill_order == 1
        and not codec.bits
        and not codec.parameters
        and codec.sample_format != 5
    )
