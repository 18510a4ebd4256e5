"""The image of which the tests of stores make files."""

import numpy as np

STACK = np.random.default_rng(1).integers(0, 60000, (5, 100, 120)).astype("u2")
TILES = {"tile": (32, 48), "compression": "zlib", "photometric": "minisblack"}
