"""Axis codes to dimension names.

Owns the names of dimensions. tifffile's axis codes are one letter each; readers of Zarr want the
lower-case names of OME-NGFF (t, c, z, y, x) and of CF.
"""

from __future__ import annotations

__all__ = ["dimension_names"]

_NAMES = {"B": "band"}


def dimension_names(axes: str, suffix: str = "") -> tuple[str, ...]:
    """Name the dimensions of an array.

    Parameters
    ----------
    axes
        One letter for each dimension, outermost first, such as "TCYX".
    suffix
        Added to each name, so that arrays of other sizes can share a group.

    Examples
    --------
    >>> dimension_names("ZYX", "_1")
    ('z_1', 'y_1', 'x_1')
    >>> dimension_names("QQYX")
    ('q', 'q2', 'y', 'x')
    """
    names: list[str] = []
    for letter in axes:
        name = _NAMES.get(letter, letter.lower())
        n_before = sum(1 for other in axes[: len(names)] if other == letter)
        names.append(f"{name}{n_before + 1 if n_before else ''}{suffix}")
    return tuple(names)
