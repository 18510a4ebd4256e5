"""Files and servers of the trust tests."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
import tifffile
from faulty import FaultyServer

IMAGE = np.random.default_rng(5).integers(0, 60000, (96, 128)).astype("u2")


def encode(image: np.ndarray, **options: object) -> bytes:
    """Write an image as a tiled TIFF; the same size for the same shape."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, tile=(32, 32), metadata=None, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.fixture
def image() -> np.ndarray:
    return IMAGE


@pytest.fixture
def data() -> bytes:
    return encode(IMAGE)


@pytest.fixture
def other() -> bytes:
    """Return a file of the same size with other pixels."""
    return encode(IMAGE[::-1].copy())


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    running = FaultyServer()
    yield running
    running.close()
