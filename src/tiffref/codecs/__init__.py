"""TIFF compressions: their table, decoders, and codecs in Zarr v2 and v3."""
