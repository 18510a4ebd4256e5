"""Numbers to decimal digits and back, a whole column at a time.

Owns the text side of chunk keys and byte ranges: what a loop would do with one `f"{offset}"` per
chunk is done here on `(n, width)` matrices of ASCII codes, where NUL stands for "nothing here". It
knows neither keys nor documents. NUL is free for that use because JSON text never contains it
(RFC 8259, section 7: control characters are escaped).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["format_numbers", "join_columns", "pick_texts"]

_GROUP = 10_000
"""Numbers are written four digits at a time: one lookup gives four bytes."""


def _digit_table() -> NDArray[np.uint32]:
    numbers = np.arange(_GROUP)[:, None]
    powers = np.array([1000, 100, 10, 1])
    digits = (numbers // powers % 10 + ord("0")).astype(np.uint8)
    without_zeros = np.where(numbers >= powers, digits, 0).astype(np.uint8)
    return np.concatenate([digits, without_zeros]).view(np.uint32).ravel()


_DIGITS = _digit_table()
"""Row `i`: the four digits of `i`; row `10000 + i`: the same, leading zeros as NUL."""


def format_numbers(values: ArrayLike) -> NDArray[np.uint8]:
    """Write a column of numbers in decimal.

    Parameters
    ----------
    values
        `(n,)` integers, 0 or more.

    Returns
    -------
    text
        `(n, width)` uint8, ASCII digits to the right, NUL to their left.

    Examples
    --------
    >>> join_columns(2, [format_numbers([0, 1203]), b";"])
    b'0;1203;'
    """
    numbers = np.asarray(values, np.uint64)
    n_groups = -(-len(str(int(numbers.max(initial=0)))) // 4)
    text = np.empty((len(numbers), n_groups), np.uint32)
    rest = numbers
    for column in reversed(range(n_groups)):
        higher = rest // np.uint64(_GROUP)
        group = (rest - higher * np.uint64(_GROUP)).astype(np.intp)
        group[higher == 0] += _GROUP
        text[:, column] = _DIGITS.take(group)
        rest = higher
    matrix = text.view(np.uint8)
    matrix[numbers == 0, -1] = ord("0")
    return matrix


def pick_texts(texts: Sequence[bytes], rows: NDArray[np.integer]) -> bytes | NDArray[np.uint8]:
    """Give the text of every row of a column that repeats few texts.

    Parameters
    ----------
    texts
        The table, without NUL.
    rows
        `(n,)` integers: the text of each row, at least one.

    Returns
    -------
    text
        The one text where all rows agree, else `(n, width)` uint8 with NUL to its right.
    """
    if (rows == rows[0]).all():
        return texts[int(rows[0])]
    used, inverse = np.unique(rows, return_inverse=True)
    table = np.array([texts[row] for row in used.tolist()], np.bytes_)
    return table.view(np.uint8).reshape(len(used), -1)[inverse]


def join_columns(n_rows: int, columns: Sequence[bytes | NDArray[np.uint8]]) -> bytes:
    """Join columns of text row by row, leaving out every NUL.

    Parameters
    ----------
    n_rows
        Rows of the result.
    columns
        For each column the text that all rows share, or `(n_rows, width)` uint8.
    """
    widths = [len(column) if isinstance(column, bytes) else column.shape[1] for column in columns]
    matrix = np.empty((n_rows, sum(widths)), np.uint8)
    start = 0
    for column, width in zip(columns, widths, strict=True):
        constant = isinstance(column, bytes)
        matrix[:, start : start + width] = np.frombuffer(column, np.uint8) if constant else column
        start += width
    return matrix.tobytes().translate(None, b"\0")
