from __future__ import annotations

import numpy as np
import pytest

from tiffref.formats.keys import format_numbers, join_columns, pick_texts

EDGES = [
    0,
    1,
    9,
    10,
    99,
    100,
    999,
    1000,
    9999,
    10_000,
    10_001,
    99_999,
    100_000_000,
    123_400_000_000,
]


@pytest.mark.parametrize("values", [EDGES, EDGES[:4], [0, 0], [2**64 - 1, 0, 2**63], [7]])
def test_numbers_are_written_as_python_writes_them(values: list[int]) -> None:
    text = join_columns(len(values), [format_numbers(values), b","])
    assert text.decode() == "".join(f"{value}," for value in values)


def test_random_numbers_of_all_sizes() -> None:
    generator = np.random.default_rng(1)
    values = (10 ** generator.uniform(0, 19, 5000)).astype(np.uint64)
    text = join_columns(len(values), [b"<", format_numbers(values), b">"])
    assert text.decode() == "".join(f"<{value}>" for value in values.tolist())


def test_columns_of_no_rows() -> None:
    assert join_columns(0, [b"a", format_numbers([])]) == b""


def test_texts_of_rows() -> None:
    texts = [b"a", b"bcd", b"", b"ef"]
    rows = np.array([3, 0, 1, 1, 2])
    assert join_columns(5, [pick_texts(texts, rows), b"|"]) == b"ef|a|bcd|bcd||"
    assert pick_texts(texts, np.array([1, 1])) == b"bcd"
