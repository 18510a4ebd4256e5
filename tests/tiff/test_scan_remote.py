"""Requests and bytes of scans from afar: what is known is fetched together."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
import tifffile
from fsspec.implementations.memory import MemoryFileSystem

import tiffref
from tiffref.errors import TruncationWarning


class Counted(MemoryFileSystem):
    """One file of a file system, that counts rounds of requests and their bytes."""

    protocol = "counted"
    cachable = False
    data = b""
    rounds: ClassVar[list[list[tuple[int, int]]]] = []

    def cat_file(self, path: str, start: Any = None, end: Any = None, **kwargs: Any) -> bytes:
        Counted.rounds.append([(start, end)])
        return Counted.data[start:end]

    def cat_ranges(self, paths: Any, starts: Any, ends: Any, **kwargs: Any) -> list[bytes]:
        Counted.rounds.append(list(zip(starts, ends, strict=True)))
        return [Counted.data[a:b] for a, b in zip(starts, ends, strict=True)]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return {"name": path, "size": len(Counted.data), "type": "file"}


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("counted", Counted, clobber=True)
    monkeypatch.setattr(Counted, "rounds", [])


def scan(data: bytes) -> tuple[tiffref.References, int, int]:
    """Scan a file; return the references, rounds and bytes."""
    Counted.data = data
    references = tiffref.scan("counted://a.tif")
    n_bytes = sum(end - start for one in Counted.rounds for start, end in one)
    return references, len(Counted.rounds), n_bytes


def test_an_ome_pyramid_of_36_pages(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 600, (36, 256, 320)).astype("u2")
    path = tmp_path / "a.ome.tif"
    options = {"tile": (128, 128), "compression": "zlib", "photometric": "minisblack"}
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(data, subifds=2, metadata={"axes": "TYX"}, **options)
        for step in (2, 4):
            tif.write(data[:, ::step, ::step], subfiletype=1, **options)
    references, n_rounds, n_bytes = scan(path.read_bytes())
    assert [array.shape for _, array in references.group.arrays() if array.manifest.sources] == [
        (36, 256, 320), (36, 128, 160), (36, 64, 80)
    ]  # fmt: skip
    assert n_rounds <= 7
    assert n_bytes <= 210_000


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("is_big", [False, True])
def test_long_lists_of_tiles_are_fetched_together(tmp_path: Path, is_big: bool, order: str) -> None:
    """They lie behind their IFDs; one by one, read-ahead fetched more bytes than the file has."""
    data = np.random.default_rng(0).integers(0, 99, (6, 512, 512)).astype("u1")
    path = tmp_path / "a.ome.tif"
    options = {"tile": (16, 16), "photometric": "minisblack"}
    with tifffile.TiffWriter(path, ome=True, bigtiff=is_big, byteorder=order) as tif:
        tif.write(data, subifds=2, metadata={"axes": "CYX"}, **options)
        for step in (2, 4):
            tif.write(data[:, ::step, ::step], subfiletype=1, **options)
    references, n_rounds, n_bytes = scan(path.read_bytes())
    assert len(references.series[0]["levels"]) == 3
    assert n_rounds <= 9
    assert n_bytes <= path.stat().st_size // 4


def spread(gaps: list[int], last: int = 0) -> bytes:
    """Build pages of one strip, each at a distance from the next, and what follows the last one."""
    out = bytearray(8 + sum(gaps))
    out[:8] = struct.pack("<2sHI", b"II", 42, 8)
    for page, gap in enumerate(gaps):
        at = 8 + sum(gaps[:page])
        tags = [(256, 3, 16), (257, 3, 16), (258, 3, 8), (259, 3, 1), (262, 3, 1),
                (273, 4, at + 200), (277, 3, 1), (278, 3, 16), (279, 4, 256)]  # fmt: skip
        out[at : at + 2] = struct.pack("<H", len(tags))
        for k, (code, kind, value) in enumerate(tags):
            struct.pack_into("<HHII", out, at + 2 + 12 * k, code, kind, 1, value)
        following = at + gap if page + 1 < len(gaps) else last
        struct.pack_into("<I", out, at + 2 + 12 * len(tags), following)
    return bytes(out)


@pytest.mark.parametrize("gap", [1 << 13, 1 << 15])
def test_evenly_spread_pages(gap: int) -> None:
    references, n_rounds, n_bytes = scan(spread([gap] * 1000))
    assert references.group["image"].shape == (1000, 16, 16)
    assert n_rounds <= 16
    assert n_bytes <= 1_100_000


@pytest.mark.parametrize(
    ("size", "most_rounds", "most_bytes"),
    [
        (lambda n, noise: 200_000 + 20 * noise, 7, 170_000),
        (lambda n, noise: 200_000 + 1000 * noise, 11, 1_200_000),
        (lambda n, noise: 200_000 + 40_000 * np.sin(n / 20) + 100 * noise, 15, 4_900_000),
        (lambda n, noise: 200_000 * np.exp(-n / 60) + 50 * noise, 14, 4_000_000),
    ],
    ids=["similar", "noisy", "through focus", "bleaching"],
)
def test_pages_of_similar_sizes(size: Any, most_rounds: int, most_bytes: int) -> None:
    """Compressed pages differ by noise, and by what changes slowly in a series."""
    rng = np.random.default_rng(0)
    gaps = [int(size(n, noise)) for n, noise in enumerate(rng.normal(size=60))]
    references, n_rounds, n_bytes = scan(spread(gaps))
    assert references.group["image"].shape == (60, 16, 16)
    assert n_rounds <= most_rounds
    assert n_bytes <= most_bytes


def test_spread_pages_that_lead_out_of_the_file() -> None:
    with pytest.warns(TruncationWarning, match="cannot be read"):
        references, _, _ = scan(spread([1 << 17] * 8, last=0xFFFFFFF0))
    assert references.group["image"].shape == (8, 16, 16)


@pytest.mark.parametrize(
    ("driver", "compress", "most"), [("COG", "none", 1), ("COG", "jpeg", 2), ("GTiff", "none", 2)]
)
def test_overviews_in_front_and_behind(
    tmp_path: Path, driver: str, compress: str, most: int
) -> None:
    """A COG has its directories in front; overviews that were added lie behind the image.

    The starts of JPEG streams of all levels are fetched together.
    """
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    profile = {
        "driver": driver,
        "compress": compress,
        "height": 2048,
        "width": 2048,
        "count": 1,
        "dtype": "uint8",
    }
    size = {"blocksize": 256} if driver == "COG" else {"tiled": True, "blockxsize": 256,
                                                       "blockysize": 256}  # fmt: skip
    image = np.random.default_rng(0).integers(0, 255, (2048, 2048), "u1")
    with rasterio.open(path, "w", **profile, **size, crs="EPSG:32632",
                       transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)) as file:  # fmt: skip
        file.write(image, 1)
    if driver == "GTiff":
        with rasterio.open(path, "r+") as file:
            file.build_overviews([2, 4])
    references, n_rounds, _ = scan(path.read_bytes())
    assert len(references.series[0]["levels"]) >= 3
    assert n_rounds <= most


@pytest.mark.parametrize("order", "<>")
def test_the_lists_of_all_pages_of_a_slide_are_fetched_together(tmp_path: Path, order: str) -> None:
    """tifffile reads the lists of one page after the other; read-ahead fetched most of the file."""
    data = np.random.default_rng(0).integers(0, 99, (4, 768, 768)).astype("u1")
    root = "PerkinElmer-QPI-ImageDescription"
    text = f"<{root}><ImageType>{{}}</ImageType>{'<a/>' * 1000}</{root}>"
    options = {"tile": (16, 16), "photometric": "minisblack", "metadata": None}
    path = tmp_path / "a.qptiff"
    with tifffile.TiffWriter(path, byteorder=order) as tif:
        for step, kind in ((1, "FullResolution"), (2, "ReducedResolution")):
            for plane in data[:, ::step, ::step]:
                described = {"description": text.format(kind), "software": "PerkinElmer-QPI"}
                tif.write(plane, **described, **options)
    references, n_rounds, n_bytes = scan(path.read_bytes())
    assert references.group["image"].shape == (4, 768, 768)
    assert references.series[0]["kind"] == "qpi"
    assert n_rounds <= 11
    assert n_bytes <= path.stat().st_size // 10


def test_descriptions_of_all_pages_are_not_fetched(tmp_path: Path) -> None:
    """ScanImage and MetaMorph write long ones, of which the first counts."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for n in range(60):
            text = f"plane {n} " + "x" * 20_000
            tif.write(np.full((256, 256), n, "u1"), description=text, metadata=None)
    references, _, n_bytes = scan(path.read_bytes())
    assert references.group["image"].shape == (60, 256, 256)
    assert n_bytes <= path.stat().st_size // 8


@pytest.mark.parametrize("compression", ["zlib", "jpeg", "lzw"])
def test_partial_strips_of_images_of_different_sizes(tmp_path: Path, compression: str) -> None:
    """They are tested, and fetched together with the starts of JPEG streams."""
    path = tmp_path / "a.tif"
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (height, 500), "u1") for height in (600, 550, 420, 460)]
    with tifffile.TiffWriter(path) as tif:
        for image in images:
            tif.write(image, compression=compression, rowsperstrip=64, metadata=None)
    references, n_rounds, _ = scan(path.read_bytes())
    assert len(references.series) == 4
    assert n_rounds == 5  # one for each IFD
