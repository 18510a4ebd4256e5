"""Describe how the bytes of one chunk decode to samples, in the terms of TIFF 6.0.

The Zarr metadata of a codec is written by `codecs.zarr_codecs`; decoding is in `codecs.decode`.
"""

from __future__ import annotations

import base64
import math
import operator
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import numpy as np

from ..errors import InvalidReferences


@dataclass(frozen=True, slots=True, eq=False)
class SegmentCodec:
    """How one TIFF segment (strip or tile) decodes to one chunk.

    It holds everything that a decoder uses, so segments with equal codecs decode the same way.
    """

    shape: tuple[int, int, int, int]
    """Samples of a full segment: (depth, rows, columns, samples per pixel in this segment)."""
    dtype: str
    """NumPy dtype of the decoded samples, little-endian or without byte order, such as "<u2"."""
    compression: int = 1
    """Compression (tag 259)."""
    predictor: int = 1
    """Predictor (tag 317)."""
    byteorder: str = "<"
    """Byte order of the stored samples, "<" or ">"."""
    bits: tuple[int, ...] = ()
    """BitsPerSample (tag 258): one number if all samples have the same, else one per sample.
    Empty means the width of `dtype`."""
    sample_format: int = 1
    """SampleFormat (tag 339): 1 unsigned, 2 signed, 3 float, 5 complex integer, 6 complex."""
    fill_order: int = 1
    """FillOrder (tag 266); 2 is least significant bit first."""
    photometric: int = 1
    """PhotometricInterpretation (tag 262), if the decoder's result depends on it."""
    edge: tuple[int, int, int] | None = None
    """(depth, rows, columns) of the part of the last segment that lies inside the image, if it
    may be stored cropped or short; None if every segment is stored whole."""
    fill: float | int | None = None
    """Value that pads a segment stored cropped or short; None is 0."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Other decoder parameters, by name: `jpeg_tables` (bytes), `t4_options` (int), `subsampling`
    (two ints), `ycbcr_coefficients` (three floats), ... Values are JSON or bytes."""
    transposes: tuple[tuple[int, ...], ...] = ()
    """Axis orders of Zarr `transpose` codecs, applied one after the other, that turn the chunk into
    the segment. Each covers the last axes of the chunk. Empty if the axes are the same."""

    @property
    def is_plain(self) -> bool:
        """Whether the stored bytes are the uncompressed samples, in either byte order."""
        # booleans are packed bits
        width = 0 if self.dtype == "|b1" else np.dtype(self.dtype).itemsize * 8
        return (
            self.compression == self.predictor == self.fill_order == 1
            and self.sample_format != 5
            and {*self.bits, width} == {width}
            and width > 0
            and not self.parameters
            and not self.transposes
        )

    @property
    def n_samples(self) -> int:
        """Samples in a full segment."""
        return math.prod(self.shape)

    def to_config(self) -> dict[str, Any]:
        """Return the codec as plain JSON values, without those at their default."""
        config: dict[str, Any] = {"shape": list(self.shape), "dtype": self.dtype}
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if value != default:
                config[name] = _to_json(value)
        if self.parameters:
            config["parameters"] = {
                name: _to_json(value) for name, value in sorted(self.parameters.items())
            }
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SegmentCodec:
        """Build the codec from the result of `to_config`.

        Raises
        ------
        InvalidReferences
            If it is none.
        """
        try:
            values: dict[str, Any] = {
                name: _from_json(value) for name, value in config.items() if name != "parameters"
            }
            if isinstance(values.get("fill"), str):
                values["fill"] = float(values["fill"])
            parameters = {
                name: _from_json(value) for name, value in config.get("parameters", {}).items()
            }
            wrong = next((name for name in _KINDS if not _is_valid(name, values)), None)
            wrong = wrong or next(iter(values.keys() - _KINDS.keys()), None)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidReferences(f"{_INVALID}: {error!r}") from error
        if wrong is not None:
            raise InvalidReferences(f"{_INVALID}: {wrong}", got=repr(config.get(wrong))[:80])
        return cls(**values, parameters=parameters)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, SegmentCodec):
            return NotImplemented
        # as JSON, because NaN must equal NaN
        fill, other_fill = _to_json(self.fill), _to_json(other.fill)
        return _except_fill(self) == _except_fill(other) and bool(fill == other_fill)

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype, self.compression, self.predictor, self.bits))


_except_fill = operator.attrgetter(*(f.name for f in fields(SegmentCodec) if f.name != "fill"))
_DEFAULTS = {f.name: f.default for f in fields(SegmentCodec) if f.default is not MISSING}


@dataclass(frozen=True, slots=True)
class ForeignCodec:
    """A codec chain that another program wrote into a document, unchanged.

    `metadata` holds the codec part of the Zarr metadata: `dtype`, `filters`, `compressor` and
    `order` of a `.zarray` (`zarr_format` 2), or `data_type` and `codecs` of a `zarr.json` (3).
    """

    zarr_format: int
    metadata: Mapping[str, Any]

    def __hash__(self) -> int:
        return hash(self.zarr_format)


_INVALID = "the codec tiffref_segment has an invalid configuration"
_NONE = type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "shape": (tuple,),
    "dtype": (str,),
    **{name: (type(default),) for name, default in _DEFAULTS.items()},
    "edge": (tuple, _NONE),
    "fill": (int, float, _NONE),
}
"""Types of the fields."""


def _is_valid(name: str, values: Mapping[str, Any]) -> bool:
    """Return whether a field is valid, or at its default."""
    value = values.get(name, _DEFAULTS.get(name))
    if type(value) not in _KINDS[name]:
        return False
    if name == "dtype":
        return np.dtype(value).kind in "biufc"
    return name == "fill" or not isinstance(value, int | tuple) or _is_size(value)


def _is_size(value: Any) -> bool:
    """Return whether a value is an integer that is not negative, or a tuple of these."""
    if isinstance(value, tuple):
        return all(map(_is_size, value))
    return type(value) is int and value >= 0


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, float):
        return encode_float(value)
    return [_to_json(item) for item in value] if isinstance(value, tuple) else value


def encode_float(value: float) -> float | str:
    """Return a number, or the string that Zarr uses for one that JSON lacks: NaN, infinity."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _from_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return base64.b64decode(value["base64"])
    return tuple(_from_json(item) for item in value) if isinstance(value, list) else value
