"""Sequences that several tests share."""

import pytest

from sequences import pixels, write


@pytest.fixture
def bands(tmp_path):
    """Two bands of three dates."""
    return {
        (day, band): write(tmp_path / f"S2_{day}_{band}.tif", pixels(n))
        for n, (day, band) in enumerate(
            (day, band) for day in ("20220601", "20220505", "20220510") for band in ("B08", "B04")
        )
    }
