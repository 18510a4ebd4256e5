"""Files for the tests of sequences."""

import numpy as np
import tifffile

TILED = {"tile": (16, 16), "compression": "zlib"}


def pixels(seed, shape=(40, 48), dtype="u2"):
    return (np.random.default_rng(seed).random(shape) * 200).astype(dtype)


def write(path, data, **how):
    """Write one file as programs write series of them: no description of their own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, data, metadata=None, **{**TILED, **how})
    return data


def band_tags(*names):
    """Tags of a file whose bands have names."""
    items = "".join(
        f'<Item name="DESCRIPTION" sample="{n}" role="description">{name}</Item>'
        for n, name in enumerate(names)
    )
    return [(42112, 2, 0, f"<GDALMetadata>{items}</GDALMetadata>", True)]


def read(references, path="image"):
    """Read an array of references."""
    from tiffref.read import Fetcher, read_array

    return read_array(references.group[path], ..., fetch=Fetcher())


def geo_tags(x, y, size=10.0, epsg=32633):
    """Tags of a file whose upper left corner is at (x, y)."""
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, epsg)
    return [
        (33550, 12, 3, (size, size, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, x, y, 0.0), True),
        (34735, 3, len(keys), keys, True),
    ]
