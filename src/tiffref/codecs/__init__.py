"""TIFF compressions: one table, a decoder, and how each is said in Zarr v2 and v3."""
