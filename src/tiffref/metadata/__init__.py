"""Convert TIFF metadata to dimensions, coordinates, CRS, pixel sizes, channels and times."""
