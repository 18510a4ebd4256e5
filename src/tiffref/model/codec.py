"""How the bytes of one chunk become samples, said in TIFF terms.

Owns the neutral description of a codec. It knows no Zarr metadata (see `codecs.zarr_codecs`) and
decodes nothing (see `codecs.decode`). Terms are those of TIFF 6.0.
"""

from __future__ import annotations

import base64
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

__all__ = ["ForeignCodec", "SegmentCodec"]


@dataclass(frozen=True, slots=True, eq=False)
class SegmentCodec:
    """How one TIFF segment (strip or tile) decodes to one chunk.

    Two segments with equal `SegmentCodec` decode alike: everything that a decoder uses is here.
    """

    shape: tuple[int, int, int, int]
    """Samples of a full segment: (depth, rows, columns, samples per pixel in this segment)."""
    dtype: str
    """NumPy dtype of the decoded samples, little-endian or without byte order, as "<u2"."""
    compression: int = 1
    """Compression (tag 259)."""
    predictor: int = 1
    """Predictor (tag 317)."""
    byteorder: str = "<"
    """Byte order of the stored samples, "<" or ">"."""
    bits: tuple[int, ...] = ()
    """BitsPerSample (tag 258), one number where all samples agree, else one per sample.
    Empty means the width of `dtype`."""
    sample_format: int = 1
    """SampleFormat (tag 339): 1 unsigned, 2 signed, 3 float, 5 complex integer, 6 complex."""
    fill_order: int = 1
    """FillOrder (tag 266); 2 is least significant bit first."""
    photometric: int = 1
    """PhotometricInterpretation (tag 262), where the decoder's result depends on it."""
    edge: tuple[int, int, int] | None = None
    """(depth, rows, columns) of the part of the last segment that lies inside the image, where it
    may be stored cropped or short; None where every segment is stored whole."""
    fill: float | int | None = None
    """Value that pads a segment stored cropped or short; None is 0."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What else the decoder needs, by name: `jpeg_tables` (bytes), `t4_options` (int),
    `subsampling` (two ints), `ycbcr_coefficients` (three floats), ... JSON
    values and bytes only."""
    transposes: tuple[tuple[int, ...], ...] = ()
    """Orders of axes, each as Zarr's `transpose` codec has them and counted on the last axes of the
    chunk, that lead from the chunk to the segment, one after the other. Empty: the same axes."""

    @property
    def is_plain(self) -> bool:
        """Whether the stored bytes are the samples as they stand, in either byte order."""
        width = 0 if self.dtype == "|b1" else _width(self.dtype)  # bits are packed
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
        """Return the codec as plain JSON values, leaving out what is at its default."""
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
        """Build the codec from what `to_config` gave."""
        fields: dict[str, Any] = {
            name: _from_json(value) for name, value in config.items() if name != "parameters"
        }
        if isinstance(fields.get("fill"), str):
            fields["fill"] = float(fields["fill"])
        parameters = {
            name: _from_json(value) for name, value in config.get("parameters", {}).items()
        }
        return cls(**fields, parameters=parameters)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SegmentCodec):
            return NotImplemented
        # NaN equals NaN here
        return _exact(self) == _exact(other) and _to_json(self.fill) == _to_json(other.fill)

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype, self.compression, self.predictor, self.bits))

    def with_shape(self, shape: tuple[int, int, int, int]) -> SegmentCodec:
        """Return the same codec for segments of another shape."""
        return replace(self, shape=shape)


_exact = operator.attrgetter(*(one.name for one in fields(SegmentCodec) if one.name != "fill"))


@dataclass(frozen=True, slots=True)
class ForeignCodec:
    """A codec chain read from somebody else's document, kept as it stands.

    `metadata` holds the codec part of the Zarr metadata: `dtype`, `filters`, `compressor` and
    `order` of a `.zarray` (`zarr_format` 2), or `data_type` and `codecs` of a `zarr.json` (3).
    """

    zarr_format: int
    metadata: Mapping[str, Any]

    def __hash__(self) -> int:
        return hash(self.zarr_format)


_DEFAULTS: dict[str, Any] = {
    "compression": 1,
    "predictor": 1,
    "byteorder": "<",
    "bits": (),
    "sample_format": 1,
    "fill_order": 1,
    "photometric": 1,
    "edge": None,
    "fill": None,
    "transposes": (),
}


def _width(dtype: str) -> int:
    """Return the bits of one sample."""
    return np.dtype(dtype).itemsize * 8


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, float) and not math.isfinite(value):
        # JSON has no such numbers; Zarr spells them so in fill values
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return [_to_json(item) for item in value] if isinstance(value, tuple) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return base64.b64decode(value["base64"])
    return tuple(_from_json(item) for item in value) if isinstance(value, list) else value
