"""Any combination that our writer makes, read back with and without merged chunks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from ifds import image, write_tiff
from products import Product, products, write
from ways import assert_pixels, pixels

import tiffref
from tiffref.errors import UnsupportedTiff
from tiffref.zarr import ZarrTiffStore

PLAIN = Product(
    shape=(1, 35, 35, 1), dtype="u2", bits=None, compression=8, predictor=1, order="<",
    tile=(16, 16), rows=16, is_planar=False, edges="cropped", fill_order=1, is_big=False, seed=1,
)  # fmt: skip


@settings(max_examples=40)
@given(product=products())
def test_random_products(tmp_path, product):
    path = tmp_path / "a.tif"
    expected = write(path, product)
    for mode in (None, "strile", "plane", "page", "file"):
        got = ZarrTiffStore(path, chunkmode=mode)[...]
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize(
    "shape", [(1, 35, 35, 1), (2, 35, 35, 3), (1, 35, 15, 1), (1, 48, 35, 1), (1, 4, 42, 1)]
)
@pytest.mark.parametrize("bits", [None, 12, 1])
def test_cropped_tiles_of_the_right_and_the_lower_edge(tmp_path, shape, compression, bits):
    """Of 16 x 3 and of 3 x 16 samples: their bytes are as many."""
    path = tmp_path / "a.tif"
    product = replace(PLAIN, shape=shape, compression=compression, bits=bits)
    expected = write(path, product)
    assert_pixels(tiffref.scan(path), {"image": expected})


def test_files_with_cropped_tiles_put_together(tmp_path):
    """Tiles of one file's right edge are as large as those of another's lower edge."""
    blocks = [
        [
            write(
                tmp_path / f"{row}_{column}.tif",
                replace(PLAIN, shape=(1, n_rows, n_columns, 1), seed=2 * row + column),
            )
            for column, n_columns in enumerate((32, 19))
        ]
        for row, n_rows in enumerate((32, 19))
    ]
    joined = {"row": "y", "column": "x"}
    references = tiffref.scan_sequence(tmp_path / "{row}_{column}.tif", concat=joined)
    np.testing.assert_array_equal(ZarrTiffStore(references)[...], np.block(blocks))


@pytest.mark.parametrize(("compression", "encoder"), [(34933, "png"), (34712, "jpeg2k")])
@pytest.mark.parametrize("size", [35, 48])
def test_cropped_images_say_their_size(tmp_path, compression, encoder, size):
    imagecodecs = pytest.importorskip("imagecodecs")
    encode = getattr(imagecodecs, f"{encoder}_encode")
    data = pixels(size, 35, 3, dtype="u1")
    one = image(data, {259: compression, 262: 2}, tile=(16, 16))
    one.segments = [
        encode(np.ascontiguousarray(data[y : y + 16, x : x + 16]))
        for y in range(0, size, 16)
        for x in range(0, 35, 16)
    ]
    path = tmp_path / "a.tif"
    write_tiff(path, [one])
    assert_pixels(tiffref.scan(path), {"image": data})


def test_ambiguous_cropped_tiles_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    write(
        path, replace(PLAIN, shape=(1, 2500, 2500, 1), dtype="u8", tile=(512, 512), compression=1)
    )
    with pytest.raises(UnsupportedTiff, match="right edge"):
        tiffref.scan(path)
