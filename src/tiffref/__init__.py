"""Make TIFF files, and sequences of them, readable as Zarr without copying a byte."""

__version__ = "0.1.0"
