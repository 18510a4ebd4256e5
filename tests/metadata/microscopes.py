"""Small TIFFs of microscopes, with pixels that no permutation of axes leaves the same."""

import numpy as np
import tifffile


def write_rgb_pyramid(path, compression="zlib"):
    """Write a colour slide of two levels, as Bio-Formats would; return its levels as (y, x, s)."""
    data = np.random.default_rng(11).integers(0, 255, (80, 96, 3)).astype("u1")
    options = {"tile": (32, 32), "photometric": "rgb", "compression": compression}
    metadata = {
        "axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5,
        "PhysicalSizeYUnit": "µm",
    }  # fmt: skip
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(data, subifds=1, metadata=metadata, **options)
        tiff.write(data[::2, ::2], subfiletype=1, **options)
    with tifffile.TiffFile(path) as tiff:
        return [level.asarray() for level in tiff.series[0].levels]


def write_imagej_stack(path):
    """Write a stack of ImageJ, whose order is t, z, c, y, x; return its pixels."""
    data = np.random.default_rng(11).integers(0, 60000, (2, 3, 4, 30, 41)).astype("u2")
    metadata = {"axes": "TZCYX", "spacing": 2.0, "unit": "um", "finterval": 3.0}
    tifffile.imwrite(path, data, imagej=True, metadata=metadata, resolution=(4, 4))
    return data


def write_ome_pyramid(path, compression="zlib", shape=(2, 3, 4, 64, 96)):
    """Write an OME-TIFF of two levels (t, c, z, y, x) with names of channels; return its levels."""
    dtype = "u1" if compression == "jpeg" else "u2"
    data = np.random.default_rng(11).integers(0, 4096, shape).astype(dtype)
    options = {"tile": (32, 32), "photometric": "minisblack", "compression": compression}
    metadata = {
        "axes": "TCZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0,
        "PhysicalSizeXUnit": "µm", "Channel": {"Name": ["DAPI", "GFP", "RFP"][: shape[1]]},
    }  # fmt: skip
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(data, subifds=1, metadata=metadata, **options)
        tiff.write(data[..., ::2, ::2], subfiletype=1, **options)
    with tifffile.TiffFile(path) as tiff:
        return [level.asarray() for level in tiff.series[0].levels]


def write_two_images(path):
    """Write an OME-TIFF of two images, of which the second has other axes and two levels."""
    rng = np.random.default_rng(11)
    first = rng.integers(0, 4096, (3, 40, 56)).astype("u2")
    second = rng.integers(0, 4096, (4, 64, 96)).astype("u2")
    options = {"tile": (32, 32), "photometric": "minisblack", "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        names = {"Name": "one", "Channel": {"Name": ["a", "b", "c"]}}
        tiff.write(first, metadata={"axes": "CYX", "PhysicalSizeX": 0.5, **names}, **options)
        tiff.write(second, subifds=1, metadata={"axes": "ZYX", "PhysicalSizeX": 0.25}, **options)
        tiff.write(second[:, ::2, ::2], subfiletype=1, **options)
    return first, second
