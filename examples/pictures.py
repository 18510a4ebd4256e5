"""Draw landscapes as test images for the examples, and pictures of the results."""

from pathlib import Path

import imagecodecs
import numpy as np

SEA_TO_SNOW = ((0.0, 30, 70, 120), (0.35, 130, 180, 200), (0.4, 225, 210, 160),
               (0.55, 90, 140, 70), (0.8, 120, 95, 70), (1.0, 250, 250, 250))  # fmt: skip


def landscape(height: int, width: int, seed: int = 7) -> np.ndarray:
    """Return random terrain of heights from 0 to 1, as a (height, width) array."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    heights = np.zeros((height, width))
    for n in range(2, 40):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        heights += np.sin(2 * np.pi * n * (x * np.cos(angle) + y * np.sin(angle)) + phase) / n
    return (heights - heights.min()) / np.ptp(heights)


def draw(path: Path, values: np.ndarray, smallest_side: int = 240) -> None:
    """Write a (height, width) array as a color PNG; small arrays are enlarged."""
    step = max(1, -(-smallest_side // min(values.shape)))
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / ((high - low) or 1)
    stops = np.array(SEA_TO_SNOW)
    colors = np.stack([np.interp(scaled, stops[:, 0], stops[:, n]) for n in (1, 2, 3)], axis=-1)
    enlarged = colors.astype(np.uint8).repeat(step, axis=0).repeat(step, axis=1)
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(enlarged)))
