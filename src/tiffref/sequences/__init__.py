"""Combine many files into one array, with coordinates from names, and mosaics."""
