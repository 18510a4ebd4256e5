"""Catalogs: batch builds over many files, and the way back into them.

`build` makes a catalog of an archive, resumably and in parallel; `open` opens one, to search it and
to open what was found. `convert` and `rewrite` change reference documents that are there already.

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
