"""tifffile is kept from talking, and NumPy about what tifffile divides."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import tifffile

import tiffref


def test_fractions_of_zero_in_tags_are_no_warning(tmp_path: Path) -> None:
    # UIC2tag of MetaMorph: a fraction, then four numbers more
    nothing = (33629, 5, 1, (0, 0), True)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.zeros((4, 5), np.uint8), extratags=[nothing], metadata=None)
    with warnings.catch_warnings(record=True) as said:  # as errors, tifffile would catch them
        warnings.simplefilter("always")
        tiffref.scan(path)
    assert said == []
