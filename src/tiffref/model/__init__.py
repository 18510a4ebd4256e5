"""The data model: every scanner produces it, every export reads it."""
