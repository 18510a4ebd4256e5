"""Catalogs: build references to many files, search them, and open the result.

`build` scans an archive in parallel and can be resumed; `open` opens a catalog for queries.
`convert` and `rewrite` change existing reference documents.

    import tiffref.catalog

    tiffref.catalog.build("archive/", "catalog/", workers=4)
    found = tiffref.catalog.open("catalog/").query(bounds=(14, 47, 15, 48), time="2022-05")
    dataset = found.open()
"""

from ..documents import convert, rewrite
from ..errors import CatalogError
from .builder import BuildOptions, Summary, build
from .query import Catalog
from .query import open_catalog as open

__all__ = [
    "BuildOptions",
    "Catalog",
    "CatalogError",
    "Summary",
    "build",
    "convert",
    "open",
    "rewrite",
]
