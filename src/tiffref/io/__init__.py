"""Byte sources: opening and reading files and URLs, allow-lists, HTTP, and changed sources."""
