"""TIFF compressions: one table, a decoder, and the names of each in Zarr v2 and v3."""
