from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiffref.formats.keys import (
    KeyRule,
    format_numbers,
    join_columns,
    parse_key,
    parse_keys,
    pick_texts,
)

V2 = KeyRule("", ".", "0")
NESTED = KeyRule("", "/", "0")
V3 = KeyRule("c/", "/", "c")


@pytest.mark.parametrize("rule", [V2, NESTED, V3, KeyRule("c.", ".", "c")])
@pytest.mark.parametrize("path", ["", "image", "a/b", "0", "é/c"])
def test_all_chunks_are_found(path: str, rule: KeyRule) -> None:
    grid = (11, 1, 3)
    names = [rule.separator.join(map(str, index)) for index in np.ndindex(grid)]
    keys = [f"{path}/{rule.lead}{name}" if path else rule.lead + name for name in names]
    chunks, strays = parse_keys(keys[::-1], {path: grid}, {path: rule})
    assert strays.size == 0
    assert chunks[path].flat.tolist() == list(range(33))[::-1]
    assert chunks[path].rows.tolist() == list(range(33))


def test_arrays_side_by_side_and_interleaved() -> None:
    grids = {"a": (2, 2), "ab": (2, 2), "0": (2, 2), "g/a": (2, 2), "s": ()}
    rules = dict.fromkeys(grids, V2)
    keys = [f"{path}/{i}.{j}" for i, j in itertools.product((0, 1), (0, 1)) for path in grids
            if path != "s"] + ["s/0"]  # fmt: skip
    chunks, strays = parse_keys(keys, grids, rules)
    assert strays.size == 0
    for path, grid in grids.items():
        found = [keys[row] for row in chunks[path].rows]
        expected = [f"{path}/{i}.{j}" for i, j in np.ndindex(grid)] if grid else ["s/0"]
        assert found == expected
        assert chunks[path].flat.tolist() == list(range(max(1, 4 if grid else 1)))


@pytest.mark.parametrize(
    "key",
    ["a/2.0", "a/0.2", "a/0", "a/0.0.0", "a/00.0", "a/0.01", "a/-1.0", "a/0.", "a/.0", "a/0..0",
     "a/0/0", "a/x.0", "a", "b/0.0", "ab/0.0", "a/0.99999999999999999999999999", "a/+0.0", "a/0.0 ",
     "a/b/0.0", "0.0", "a/c/0/0", "a/1e0.0", "a/\u0660.0"],
)  # fmt: skip
def test_keys_of_no_chunk_are_returned(key: str) -> None:
    keys = ["a/0.0", key, "a/1.1"]
    chunks, strays = parse_keys(keys, {"a": (2, 2)}, {"a": V2})
    assert strays.tolist() == [1]
    assert chunks["a"].flat.tolist() == [0, 3]
    assert parse_key(key, {"a": (2, 2)}, 2) is None


def test_scalar_and_empty_arrays() -> None:
    chunks, strays = parse_keys(["s/c", "e/c/0", "s/c/0"], {"s": (), "e": (0,)}, {"s": V3, "e": V3})
    assert chunks["s"].flat.tolist() == [0]
    assert chunks["e"].flat.size == 0
    assert strays.tolist() == [1, 2]


def test_no_keys_and_no_arrays() -> None:
    chunks, strays = parse_keys([], {"a": (1,)}, {"a": V2})
    assert chunks["a"].flat.size == strays.size == 0
    assert parse_keys(["a/0"], {}, {})[1].tolist() == [0]


@settings(max_examples=50)
@given(
    grid=st.lists(st.integers(1, 1200), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    zarr_format=st.sampled_from([2, 3]),
)
def test_formatting_and_parsing_agree(grid: list[int], seed: int, zarr_format: int) -> None:
    n_chunks = int(np.prod(grid))
    flat = np.random.default_rng(seed).choice(n_chunks, min(n_chunks, 200), replace=False)
    keys = KeyRule.written("some/where", zarr_format).keys(tuple(grid), flat)
    separator = "." if zarr_format == 2 else "/"
    index = np.unravel_index(flat[0], grid)
    assert keys[0].endswith(separator.join(str(int(n)) for n in index))
    rule = V2 if zarr_format == 2 else V3
    chunks, strays = parse_keys(keys, {"some/where": tuple(grid)}, {"some/where": rule})
    assert strays.size == 0
    assert chunks["some/where"].flat.tolist() == flat.tolist()
    one_by_one = [parse_key(key, {"some/where": tuple(grid)}, zarr_format) for key in keys]
    assert one_by_one == [("some/where", number) for number in flat.tolist()]


@pytest.mark.parametrize(
    ("key", "zarr_format", "found"),
    [
        ("0", 2, ("", 0)), ("s/0", 2, ("s", 0)), ("s", 2, None), ("s/0.0", 2, None),
        ("c/1/0", 2, None), ("c/1", 2, ("c", 1)), ("c/c/1", 3, ("c", 1)), ("s/c", 3, ("s", 0)),
        ("s/c/0", 3, None), ("c", 3, ("", 0)), ("c/cc/1", 3, None), ("c/1", 3, None),
    ],
)  # fmt: skip
def test_one_key(key: str, zarr_format: int, found: tuple[str, int] | None) -> None:
    assert parse_key(key, {"": (), "s": (), "c": (2,)}, zarr_format) == found


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


def test_empty_columns() -> None:
    assert join_columns(0, [b"a", format_numbers([])]) == b""


def test_texts_of_rows() -> None:
    texts = [b"a", b"bcd", b"", b"ef"]
    rows = np.array([3, 0, 1, 1, 2])
    assert join_columns(5, [pick_texts(texts, rows), b"|"]) == b"ef|a|bcd|bcd||"
    assert pick_texts(texts, np.array([1, 1])) == b"bcd"
