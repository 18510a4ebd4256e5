"""What is asked of tifffile, by which names, and that ordinary files ask for none of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import tifffile
from ifds import image, write_tiff

import tiffref
from tiffref.errors import MalformedTiff
from tiffref.zarr import ZarrTiffStore

ROOM = Path(tiffref.__file__).parent / "tiff"

USED = {
    "TiffFile": "series pages filehandle tiff close is_ome is_qpi is_scanimage mdgel_metadata"
    " ome_metadata stk_metadata micromanager_metadata",
    "TiffPage": "parent index offset keyframe dataoffsets databytecounts tags aspage description"
    " size shape dtype axes planarconfig samplesperpixel",
    "TiffPageSeries": "kind name levels shape axes keyframe is_multifile dataoffset size parent",
    "FileHandle": "path dirname is_file closed open close read seek size",
    "TiffTags": "valueof",
}
"""Attributes by class; all are documented."""


def test_only_public_names_of_tifffile_are_used(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((5, 8, 8), "u1"), photometric="minisblack")
    with tifffile.TiffFile(path) as tif:
        series = tif.series[0]
        page = tif.pages.first
        objects = (tif, page, series, tif.filehandle, page.tags)
        for one, names in zip(objects, USED.values(), strict=True):
            assert type(one).__name__ in USED
            for name in names.split():
                assert hasattr(one, name), (type(one).__name__, name)


def test_flavours_are_known_to_tifffile(tmp_path: Path) -> None:
    from tiffref.metadata.microscopy import READERS

    # newer versions of tifffile know more
    of_newer = {"mikroscan", "motic", "huron", "trestle", "flimage"}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 8), "u1"))
    with tifffile.TiffFile(path) as tif:
        for name in set(READERS) - of_newer:
            assert getattr(tif, f"is_{name}") in (True, False)


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.stem)
def test_private_names_of_tifffile_are_not_used(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\b(tif|page|handle|keyframe|filehandle|level|pages)\._\w", text)
    assert not re.search(r"^(from tifffile import|import tifffile)", text, re.MULTILINE)


WRITERS = {
    "plain": {"metadata": None, "photometric": "minisblack"},
    "shaped": {"photometric": "minisblack"},
    "imagej": {"imagej": True},
}


@pytest.mark.parametrize("kind", WRITERS)
def test_ordinary_files_do_not_need_tifffile(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((5, 8, 8), "u1"), **WRITERS[kind])
    code = (
        "import sys, tiffref; tiffref.scan(sys.argv[1]).to_kerchunk();"
        "assert 'tifffile' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_a_vendor_file_keeps_its_series(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    text = "Aperio Image Library v1\r\n96x80 (16x16)|AppMag = 20|MPP = 0.5"
    image = np.random.default_rng(0).integers(0, 255, (80, 96, 3), "u1")
    with tifffile.TiffWriter(path) as tif:
        tif.write(image, tile=(16, 16), description=text, metadata=None)
        tif.write(image[::4, ::4], description=text, metadata=None)
        tif.write(image[::2, ::2], tile=(16, 16), description=text, metadata=None)
    references = tiffref.scan(path)
    assert [one["kind"] for one in references.series] == ["svs", "svs"]
    assert [len(one["levels"]) for one in references.series] == [2, 1]


def test_pages_that_tifffile_cannot_group_are_separate(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    text = '<OME><Image><Pixels SizeT="999999" SizeZ="999999"/></Image></OME>'
    with tifffile.TiffWriter(path) as tif:
        tif.write(np.zeros((8, 8), "u1"), description=text, metadata=None)
    with pytest.warns(tiffref.MetadataWarning, match="series"):
        references = tiffref.scan(path)
    assert references.group["image"].shape == (8, 8)
    with pytest.raises(tiffref.MalformedTiff):
        tiffref.scan(path, strict=True)


def write_vendor_set(
    folder: Path, order: str, *, is_reversed: bool, n_files: int = 2
) -> np.ndarray:
    """Write OME-TIFFs of a channel each, with overviews and the tag of Micro-Manager."""
    data = np.arange(2 * 3 * 6 * 8, dtype="u2").reshape(2, 3, 6, 8)
    planes = "".join(
        f'<TiffData FirstC="{c}" FirstZ="{z}" IFD="{2 - z if is_reversed else z}">'
        f'<UUID FileName="{c}.ome.tif">urn:uuid:{c}</UUID></TiffData>'
        for c in range(2)
        for z in range(3)
    )
    pixels = (
        '<Image ID="Image:0"><Pixels DimensionOrder="XYZCT" Type="uint16" SizeX="8" SizeY="6" '
        f'SizeZ="3" SizeC="2" SizeT="1">{planes}</Pixels></Image></OME>'
    )
    for c, channel in enumerate(data[:n_files]):
        tags = {270: f'<OME UUID="urn:uuid:{c}">{pixels}', 51123: "{}"}
        stored = channel[::-1] if is_reversed else channel
        pages = [image(p, {} if n else tags, order=order) for n, p in enumerate(stored)]
        for page, plane in zip(pages, stored, strict=True):
            page.subifds = [image(plane[::2, ::2], {254: 1}, order=order)]
        write_tiff(folder / f"{c}.ome.tif", pages, order=order)
    return data


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_reversed", [True, False])
@pytest.mark.parametrize("is_remote", [True, False])
def test_ome_xml_of_a_vendor_is_read_if_tifffile_does_not(
    tmp_path: Path, is_remote: bool, is_reversed: bool, order: str
) -> None:
    """tifffile opens no other remote files, and refuses overviews of planes in another order."""
    data = write_vendor_set(tmp_path, order, is_reversed=is_reversed)
    url = str(tmp_path / "0.ome.tif")
    if is_remote:
        url = f"memory://{tmp_path.name}/0.ome.tif"
        for path in tmp_path.iterdir():
            fsspec.filesystem("memory").pipe(f"/{tmp_path.name}/{path.name}", path.read_bytes())
    for level, step in ((0, 1), (1, 2)):
        with ZarrTiffStore(url, level=level, strict=True) as store:
            np.testing.assert_array_equal(store[...], data[..., ::step, ::step])


@pytest.mark.parametrize("is_reversed", [True, False])
def test_a_missing_file_of_a_vendors_ome_tiff_is_named(tmp_path: Path, is_reversed: bool) -> None:
    write_vendor_set(tmp_path, "<", is_reversed=is_reversed, n_files=1)
    with pytest.raises(MalformedTiff, match=r"3 of 6 pages are missing.*1\.ome\.tif"):
        tiffref.scan(tmp_path / "0.ome.tif")


@pytest.mark.parametrize("part", ["file", "series", "page"])
def test_a_file_that_fsspec_opened_keeps_its_address(tmp_path: Path, part: str) -> None:
    data = np.arange(600, dtype="u2").reshape(20, 30)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, data)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/vendor/a.tif", path.read_bytes())
    with memory.open("/vendor/a.tif") as file, tifffile.TiffFile(file) as tif:
        # the only name there is for what tifffile was given
        assert tif.filehandle._fh is file
        what = {"file": tif, "series": tif.series[0], "page": tif.pages[0]}[part]
        references = tiffref.scan(what)
    assert [source.url for source in references.sources] == ["memory:///vendor/a.tif"]
    np.testing.assert_array_equal(ZarrTiffStore(references)[...], data)
