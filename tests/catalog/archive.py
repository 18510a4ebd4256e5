"""Small archives for the tests of catalogs, and how two catalogs are compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

EPSG_32633 = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)


def write_image(
    path: Path, x: float = 300000.0, y: float = 5000000.0, value: int = 1, **options: object
) -> None:
    """Write a georeferenced TIFF of two levels, unlike others in its pixels and their lengths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(value).integers(0, 1 + value % 7, (96, 96), np.uint16)
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, x, y, 0.0), True),
        (34735, "H", len(EPSG_32633), EPSG_32633, True),
    ]
    with tifffile.TiffWriter(path) as writer:
        keep = {"tile": (48, 48), "compression": "zlib", "metadata": None, **options}
        writer.write(data, extratags=tags, subifds=1, **keep)
        writer.write(data[::2, ::2], subfiletype=1, **keep)


def write_archive(folder: Path, n: int, apart: bool = True) -> list[Path]:
    """Write files that lie side by side, or at one place."""
    paths = []
    for i in range(n):
        x = 300000.0 + 960 * (i % 5) * apart
        y = 5000000.0 - 960 * (i // 5) * apart
        path = folder / f"tile_{i:03d}.tif"
        write_image(path, x, y, i)
        paths.append(path)
    return paths


def contents(folder: Path) -> dict[str, bytes]:
    """Return what a catalog is made of, its state left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".tiffref" not in path.parts
    }


def strays(folder: Path) -> list[str]:
    """Return files that a finished build must not leave."""
    known = {"journal.jsonl", "plan.json", "products.json", "lock", "seal"}
    return [
        str(path)
        for path in folder.rglob("*")
        if (".tiffref" in path.relative_to(folder).parts[:-1] and path.name not in known)
        or path.name.endswith(".tmp")
    ]


def pixels(folder: Path, tile: str, day: int) -> np.ndarray:
    """Return the image of a tile and day of the fixture `built`."""
    return tifffile.imread(folder / "in" / f"S_{tile}_2022050{day}.tif")


def write_set(folder: Path, shape: tuple[int, int], value: int = 1) -> np.ndarray:
    """Write an OME-TIFF of two files, one plane each."""
    data = np.random.default_rng(value).integers(0, 999, (2, *shape)).astype("u2")
    planes = "".join(
        f'<TiffData FirstZ="{n}" IFD="0" PlaneCount="1">'
        f'<UUID FileName="{n}.ome.tif">urn:uuid:{n}</UUID></TiffData>'
        for n in range(2)
    )
    for n in range(2):
        text = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{n}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
            f'SizeX="{shape[1]}" SizeY="{shape[0]}" SizeZ="2" SizeC="1" SizeT="1">'
            f"{planes}</Pixels></Image></OME>"
        )
        path = folder / f"{n}.ome.tif"
        tifffile.imwrite(path, data[n], description=text, metadata=None, compression="zlib")
    return data
