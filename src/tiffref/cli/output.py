"""Where a command writes references: JSON or parquet, told by the name.

Owns that choice, and how what was written is counted, so that every command that writes references
does the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import console

if TYPE_CHECKING:
    from ..references import References

__all__ = ["HELP", "count_arrays", "tell_counts", "write_references"]

HELP = "JSON file to write, or parquet if it ends in .parq or .parquet"


def write_references(
    references: References, output: str, url_prefix: str | None = None, zarr_format: int = 2
) -> None:
    """Write references, and say so while it takes.

    Parameters
    ----------
    references
        What to write.
    output
        File or URL; a folder of parquet references where the name ends in .parq or .parquet.
    url_prefix
        Where readers find the TIFFs.
    zarr_format
        2 or 3; parquet references hold 2 only.

    Raises
    ------
    UsageError
        If parquet is to hold Zarr 3.
    """
    from ..formats.parquet_read import is_parquet

    with console.progress(f"writing {output}"):
        if not is_parquet(output):
            references.write_fsspec(output, url_prefix, zarr_format=zarr_format)
        elif zarr_format == 2:
            references.to_parquet(output, url_prefix)
        else:
            raise console.UsageError(
                f"{output}: parquet references hold Zarr 2 only; leave out --zarr-format, or "
                "write JSON"
            )


def count_arrays(references: References) -> dict[str, int]:
    """Count images and their chunks; coordinates, which nobody asked for, by themselves."""
    levels = (level for row in references.series for level in row["levels"])
    arrays = dict(references.group.arrays())
    images = {level.get("path") for level in levels} & set(arrays)
    counted = [array for path, array in arrays.items() if path in images or not images]
    return {
        "arrays": len(counted),
        "chunks": sum(array.manifest.n_chunks for array in counted),
        "coordinates": len(arrays) - len(counted),
    }


def tell_counts(counts: Mapping[str, int]) -> str:
    """Say the counts in one line.

    >>> tell_counts({"arrays": 2, "chunks": 8, "coordinates": 1})
    '2 arrays, 8 chunks, 1 coordinate'
    """
    told = [console.count(counts["arrays"], "array"), console.count(counts["chunks"], "chunk")]
    if counts["coordinates"]:
        told.append(console.count(counts["coordinates"], "coordinate"))
    return ", ".join(told)
