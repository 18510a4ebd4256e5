"""Scan TIFFs into arrays. No other package parses TIFF structure."""
