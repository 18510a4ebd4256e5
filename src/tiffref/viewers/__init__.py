"""Plugins for image viewers: napari and bioio."""
