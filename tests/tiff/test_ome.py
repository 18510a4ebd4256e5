"""OME-TIFF read by our own reader: equal to tifffile's series where it is right, told where not."""

from __future__ import annotations

import itertools
import re
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from ifds import image, write_tiff
from samples import rng

import tiffref
from tiffref import References
from tiffref.errors import MalformedTiff, ManifestMismatch, MetadataWarning, TruncationWarning
from tiffref.io.remote import RemoteSource
from tiffref.io.source import LocalSource
from tiffref.tiff.ifd import TiffReader
from tiffref.tiff.ome import OmeFile, ome_text
from tiffref.tiff.vendor import open_vendor
from tiffref.tiff.vendor_metadata import is_vendor_file
from tiffref.zarr import ZarrTiffStore


def pixels(*shape, dtype="u2"):
    return rng.integers(1, 250, shape).astype(dtype)


def columns(listing):
    """Return what a listing says of each level, as plain values."""
    return [
        (one.name, [_level(level.to_facts()) for level in one.levels]) for one in listing.series
    ]


def _level(one):
    offset, missing = np.where(one.ifd[:, None] < 0, 0, one.offset), (one.ifd < 0).tolist()
    urls = [one.sources[n].url if k >= 0 else "" for n, k in zip(one.source, one.ifd, strict=True)]
    first = [] if offset.shape[1] == 1 else offset.tolist()
    return one.shape, one.axes, one.dtype, missing, offset[:, 0].tolist(), first, urls


def assert_as_tifffile(path: Path) -> OmeFile:
    """Our series are tifffile's; and the file takes our way."""
    reader = TiffReader(LocalSource(path))
    assert ome_text(reader) is not None
    assert not is_vendor_file(reader)
    ours = OmeFile(reader)
    vendor = open_vendor(TiffReader(LocalSource(path)))
    assert columns(ours.list()) == columns(vendor.list())
    vendor.close()
    return ours


def with_xml(path: Path, change) -> Path:
    """Change the OME-XML of a file, which must not grow."""
    data = path.read_bytes()
    start = data.index(b"<?xml") if b"<?xml" in data else data.index(b"<OME")
    end = data.index(b"OME>", start) + 4
    text = change(data[start:end].decode())
    assert len(text.encode()) <= end - start
    path.write_bytes(data[:start] + text.encode().ljust(end - start) + data[end:])
    return path


AXES = ["YX", "ZYX", "TCYX", "TZCYX", "CZYX", "ZTYX", "YXS", "ZYXS", "CYXS"]


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("how", [{}, {"compression": "zlib", "tile": (16, 16)}, {"bigtiff": True}])
def test_axes_equal_those_of_tifffile(tmp_path, axes, byteorder, how):
    sizes = {"T": 3, "C": 2, "Z": 4, "Y": 24, "X": 20, "S": 3}
    data = pixels(*(sizes[axis] for axis in axes), dtype="u1" if "S" in axes else "u2")
    path = tmp_path / "a.ome.tif"
    photometric = "rgb" if "S" in axes else "minisblack"
    tifffile.imwrite(
        path, data, metadata={"axes": axes}, byteorder=byteorder, photometric=photometric, **how
    )
    assert_as_tifffile(path)
    with ZarrTiffStore(path) as store:
        np.testing.assert_array_equal(store[...], tifffile.imread(path))


@pytest.mark.parametrize("order", ["".join(("XY", *o)) for o in itertools.permutations("ZCT")])
@pytest.mark.parametrize("data", ["IFD count", "IFD", "none", "split", "reversed"])
def test_tiff_data_and_dimension_orders(tmp_path, order, data):
    n = 24
    planes = pixels(n, 16, 20, dtype="u1")
    element = {
        "IFD count": f'<TiffData IFD="0" PlaneCount="{n}"/>',
        "IFD": '<TiffData IFD="0" FirstC="1"/><TiffData IFD="3" FirstZ="2" FirstT="1"/>',
        "none": "<TiffData/>",
        "split": f'<TiffData IFD="4" PlaneCount="{n - 4}"/>'
        '<TiffData IFD="0" PlaneCount="4" FirstT="1" FirstC="1"/>',
        "reversed": "".join(
            f'<TiffData IFD="{n - 1 - k}" PlaneCount="1" FirstZ="{k % 4}" FirstC="{k // 4 % 2}" '
            f'FirstT="{k // 8}"/>'
            for k in range(n)
        ),
    }[data]
    path = tmp_path / "a.ome.tif"
    text = (
        f'<OME><Image ID="Image:0" Name="one"><Pixels ID="Pixels:0" DimensionOrder="{order}" '
        f'Type="uint8" SizeX="20" SizeY="16" SizeZ="4" SizeC="2" SizeT="3">{element}</Pixels>'
        "</Image></OME>"
    )
    tifffile.imwrite(path, planes, description=text, metadata=None, photometric="minisblack",
                     compression="zlib")  # fmt: skip
    assert_as_tifffile(path)


def test_several_images_with_pyramids(tmp_path):
    path = tmp_path / "a.ome.tif"
    data = pixels(3, 64, 80), pixels(32, 32, 3, dtype="u1")
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for one, axes in zip(data, ("CYX", "YXS"), strict=True):
            how = {"photometric": "rgb" if axes == "YXS" else "minisblack", "tile": (16, 16)}
            writer.write(one, subifds=2, metadata={"axes": axes, "Name": axes}, **how)
            for step in (2, 4):
                small = one[..., ::step, ::step] if axes == "CYX" else one[::step, ::step]
                writer.write(np.ascontiguousarray(small), subfiletype=1, **how)
    assert_as_tifffile(path)
    group = tiffref.scan(path).group
    assert [dict(group.arrays())[name].shape for name in ("image", "image_1", "image_2")] == [
        (3, 64, 80), (3, 32, 40), (3, 16, 20),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "along",
    [
        '<ModuloAlongT Type="lifetime" Start="0" Step="1" End="2"/>',
        '<ModuloAlongZ Type="angle"><Label>a</Label><Label>b</Label></ModuloAlongZ>',
        '<ModuloAlongC Type="lambda" Start="500" Step="10" End="510"/>',
        '<ModuloAlongZ Type="phase" Start="0" Step="1" End="4"/>',
        '<ModuloAlongC Type="lifetime" Start="3" Step="1" End="3"/>',
    ],
)
def test_modulo_annotations(tmp_path, along):
    if "phase" in along and tuple(map(int, tifffile.__version__.split(".")[:2])) < (2026, 4):
        pytest.skip("this tifffile counts the steps of a phase otherwise")
    planes = pixels(6 * 4 * 2, 16, 20, dtype="u1")
    space = "openmicroscopy.org/omero/dimension/modulo"
    text = (
        '<OME><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" '
        'SizeX="20" SizeY="16" SizeZ="4" SizeC="2" SizeT="6"><TiffData IFD="0" PlaneCount="48"/>'
        '</Pixels><AnnotationRef ID="Annotation:0"/></Image><StructuredAnnotations>'
        f'<XMLAnnotation ID="Annotation:0" Namespace="{space}"><Value><Modulo>{along}</Modulo>'
        "</Value></XMLAnnotation></StructuredAnnotations></OME>"
    )
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, planes, description=text, metadata=None, photometric="minisblack",
                     compression="zlib")  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_as_tifffile(path)


def write_members(folder: Path, names, *, missing=(), ids=True, n=3):
    """Write a set whose channels are files, with all of the OME-XML in each."""
    data = pixels(len(names), n, 16, 20)
    uuids = {name: f"urn:uuid:{k:08d}-0000-0000-0000-000000000000" for k, name in enumerate(names)}
    blocks = "".join(
        f'<TiffData IFD="0" PlaneCount="{n}" FirstC="{c}">'
        f'<UUID FileName="{name}">{uuids[name]}</UUID></TiffData>'
        for c, name in enumerate(names)
    )
    for c, name in enumerate(names):
        if name in missing:
            continue
        root = f'UUID="{uuids[name]}"' if ids else ""
        text = (
            f'<OME {root}><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZTC" '
            f'Type="uint16" SizeX="20" SizeY="16" SizeZ="{n}" SizeC="{len(names)}" SizeT="1">'
            f"{blocks}</Pixels></Image></OME>"
        )
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, data[c], description=text, metadata=None, photometric="minisblack",
                         byteorder="<>"[c % 2])  # fmt: skip
    return data


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("missing", [(), ("b/two.ome.tif",)])
def test_files_of_a_set(tmp_path, ids, missing):
    names = ["one.ome.tif", "b/two.ome.tif", "c/two.ome.tif"]
    write_members(tmp_path, names, missing=missing, ids=ids)
    assert_as_tifffile(tmp_path / names[0])
    if missing:
        with pytest.raises(MalformedTiff, match=r"3 of 9 pages are missing.*b/two"):
            tiffref.scan(tmp_path / names[0])


def test_a_file_outside_the_folder_must_have_its_uuid(tmp_path):
    names = ["set/one.ome.tif", "set/../else.ome.tif"]
    write_members(tmp_path, names)
    (tmp_path / "set" / "one.ome.tif").unlink()
    (tmp_path / "else.ome.tif").unlink()
    inside = tmp_path / "set"
    data = write_members(inside, ["one.ome.tif", "../else.ome.tif"])
    assert_as_tifffile(inside / "one.ome.tif")
    with ZarrTiffStore(inside / "one.ome.tif") as store:
        np.testing.assert_array_equal(store[...], data)
    with_xml(tmp_path / "else.ome.tif", lambda text: text.replace('OME UUID="urn:uuid:0', 'OME UUID="urn:uuid:9'))  # fmt: skip  # noqa: E501
    with pytest.raises(MalformedTiff, match="3 of 6 pages are missing"):
        tiffref.scan(inside / "one.ome.tif")


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('FirstT="4" IFD="1"', 'FirstT="4" IFD="0"'),  # a page twice, another never
        ('FirstT="5" IFD="2"', 'FirstT="0" IFD="2"'),
        ('SizeT="6"', 'SizeT="3"'),  # all of the other file is beyond the image
    ],
)
def test_pages_of_other_files_of_a_set_are_not_left_out_in_silence(tmp_path, byteorder, old, new):
    texts = [set_xml(own).replace(old, new) for own in (0, 1)]
    write_set(tmp_path, byteorder, texts)
    what = "[13] pages are not in the OME-XML"
    with pytest.warns(MetadataWarning, match=what):
        tiffref.scan(tmp_path / "a.ome.tif", allow_holes=True)
    with pytest.raises(MalformedTiff, match=what):
        tiffref.scan(tmp_path / "a.ome.tif", allow_holes=True, strict=True)


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("is_remote", [False, True])
def test_files_of_a_set_whose_names_were_exchanged_are_reported(
    tmp_path, server, is_remote, byteorder
):
    """UUIDs say which file is which; readers go by names."""
    write_set(tmp_path, byteorder, [set_xml(1), set_xml(0)])
    folder = serve(server, tmp_path) if is_remote else tmp_path
    for name in ("a.ome.tif", "b.ome.tif"):
        with pytest.warns(MetadataWarning, match="UUID of another file"):
            tiffref.scan(f"{folder}/{name}")
        with pytest.raises(MalformedTiff, match="UUID of another file"):
            tiffref.scan(f"{folder}/{name}", strict=True)


@pytest.mark.parametrize("kind", ["", "<MetadataOnly/>", "<BinData/>"])
def test_an_image_without_planes_is_reported(tmp_path, kind):
    """A Pixels element may say that it is of metadata only."""
    one = (
        '<Image ID="Image:{}"><Pixels DimensionOrder="XYCZT" Type="uint16" SizeX="20" SizeY="16" '
        'SizeC="1" SizeZ="3" SizeT="1">{}</Pixels></Image>'
    )
    text = f"<OME>{one.format(0, '<TiffData/>')}{one.format(1, kind)}</OME>"
    data = pixels(3, 16, 20)
    path = tmp_path / "a.ome.tif"
    write_tiff(path, [image(plane, {270: text} if n == 0 else {}) for n, plane in enumerate(data)])
    if kind == "<MetadataOnly/>":
        references = tiffref.scan(path, strict=True)
    else:
        with pytest.warns(MetadataWarning, match="all planes of image 'Image:1' are missing"):
            references = tiffref.scan(path)
    np.testing.assert_array_equal(ZarrTiffStore(references)[...], data)


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("n_left", [0, 1])
@pytest.mark.parametrize("plane", [0, 2])
def test_overviews_that_some_planes_lack_are_not_left_out_in_silence(
    tmp_path, plane, n_left, byteorder
):
    full, half, small = pixels(3, 16, 20), pixels(3, 8, 10), pixels(3, 4, 5)
    text = (
        '<OME><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
        'SizeX="20" SizeY="16" SizeC="1" SizeZ="3" SizeT="1"><TiffData/></Pixels></Image></OME>'
    )
    pages = []
    for n in range(3):
        pages.append(image(full[n], {270: text} if n == 0 else {}, order=byteorder))
        pages[n].subifds = [image(one[n], {254: 1}, order=byteorder) for one in (half, small)]
    pages[plane].subifds = pages[plane].subifds[:n_left]
    path = tmp_path / "a.ome.tif"
    write_tiff(path, pages, order=byteorder)
    with pytest.warns(TruncationWarning, match="1 of 3 pages are missing"):
        references = tiffref.scan(path)
    found = [level.get("path") for level in references.series[0]["levels"]]
    assert found == ["image", "image_1" if n_left else None, None]
    references = tiffref.scan(path, allow_holes=True)
    small[plane] = 0
    store = ZarrTiffStore(references, level=2)
    np.testing.assert_array_equal(store[...], small)


# ---- XML that does not fit


def write_stack(path, n=10):
    data = pixels(n, 16, 20, dtype="u1")
    tifffile.imwrite(path, data, metadata={"axes": "ZYX"}, photometric="minisblack",
                     compression="zlib")  # fmt: skip
    return data


def test_a_file_whose_xml_fits_is_silent(tmp_path):
    data = write_stack(tmp_path / "a.ome.tif")
    assert tiffref.scan(tmp_path / "a.ome.tif", strict=True).group["image"].shape == data.shape


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('SizeZ="10"', 'SizeZ="7"', "pages are not in the OME-XML|does not match"),
        ('DimensionOrder="XY', 'DimensionOrder="QY', "does not match"),
        ('SizeX="20"', 'SizeX="19"', "does not match"),
        ('SizeC="1"', 'SizeC="x"', "does not match"),
        ("<Pixels", "<Pixel ", "OME-XML"),
        ('Type="uint8"', 'Type="int8"', "of Type 'int8' is stored in pages of uint8"),
        ('Type="uint8"', 'Type="bytes"', "of Type 'bytes' is stored in pages of uint8"),
        ("</OME>", "</OM", "OME-XML"),
        ("</Pixels></Image></OME>", "", "OME-XML"),
    ],
)
def test_xml_that_does_not_fit_is_reported(tmp_path, old, new, what):
    path = tmp_path / "a.ome.tif"
    write_stack(path)
    changed = with_xml(path, lambda text: text.replace(old, new, 1))
    with pytest.warns(MetadataWarning, match=what):
        references = tiffref.scan(changed, allow_holes=True)
    assert references.group["image"].shape[-2:] == (16, 20)
    with pytest.raises(MalformedTiff):
        tiffref.scan(changed, strict=True)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("\ufeff\n<OME>{}</OME>" + " " * 40, "ome"),
        ("<!-- by me --><OME>{}</OME><!-- end -->", "ome"),
        ("what is <OME >?", "generic"),
    ],
)
def test_xml_is_known_by_its_first_element(tmp_path, text, kind):
    image_xml = (
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
        'SizeX="20" SizeY="16" SizeZ="2" SizeC="1" SizeT="1"><TiffData/></Pixels></Image>'
    )
    pages = [image(pixels(16, 20), {270: text.format(image_xml)}), image(pixels(16, 20))]
    write_tiff(tmp_path / "a.tif", pages)
    references = tiffref.scan(tmp_path / "a.tif", strict=True)
    assert references.series[0]["kind"] == kind
    assert references.group["image"].shape == (2, 16, 20)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("elements", "n_pages"),
    [
        (["", ""], 3), (["", ""], 6), (['IFD="0" PlaneCount="3"', 'IFD="2" PlaneCount="3"'], 5),
        (['IFD="1" PlaneCount="3"'] * 2, 6),
        (['IFD="0" PlaneCount="3"', 'IFD="3" PlaneCount="3"'], 6),
    ],
)  # fmt: skip
def test_images_that_share_pages_are_told(tmp_path, elements, n_pages, order):
    """If other pages are in no image, one of the images has the wrong planes."""
    pixels_xml = 'DimensionOrder="XYZCT" Type="uint16" SizeX="20" SizeY="16" SizeZ="3"'
    images = "".join(
        f'<Image ID="Image:{n}"><Pixels {pixels_xml} SizeC="1" SizeT="1"><TiffData {one}/></Pixels>'
        "</Image>" for n, one in enumerate(elements)
    )  # fmt: skip
    data = pixels(n_pages, 16, 20)
    tags = {270: f"<OME>{images}</OME>"}
    path = tmp_path / "a.ome.tif"
    pages = [image(p, tags if n == 0 else {}, order=order) for n, p in enumerate(data)]
    write_tiff(path, pages, order=order)
    if elements[1].startswith('IFD="3"'):
        assert tiffref.scan(path, strict=True).group["image_s1"].shape == (3, 16, 20)
        return
    if n_pages == 6:
        with pytest.raises(MalformedTiff, match="3 shared and 3 unused of 6 pages"):
            tiffref.scan(path)
    with pytest.warns(MetadataWarning, match="in the OME-XML more than once"):
        references = tiffref.scan(path, allow_holes=n_pages == 6)
    assert references.group["image_s1"].shape == (3, 16, 20)
    with pytest.raises(MalformedTiff):
        tiffref.scan(path, strict=True)


def test_fewer_pages_than_planes_are_missing(tmp_path):
    path = tmp_path / "a.ome.tif"
    write_stack(path)
    changed = with_xml(path, lambda text: text.replace('SizeZ="10"', 'SizeZ="12"', 1))
    with pytest.raises(MalformedTiff, match="2 of 12 pages are missing"):
        tiffref.scan(changed)
    references = tiffref.scan(changed, allow_holes=True)
    assert references.group["image"].shape == (12, 16, 20)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("odd", ["shape", "dtype", "segments", None])
@pytest.mark.parametrize("which", [0, 1])
def test_an_image_whose_pages_differ_is_not_left_out_in_silence(tmp_path, order, odd, which):
    """The other image of the file is read, and a warning says which page does not fit."""
    data = [pixels(16, 20) for _ in range(4)]
    n = 2 * which + 1
    if odd in ("shape", "dtype"):
        data[n] = pixels(16, 18) if odd == "shape" else pixels(16, 20, dtype="f4")
    rows = {n: 4} if odd == "segments" else {}
    images = "".join(
        f'<Image ID="Image:{k}"><Pixels ID="Pixels:{k}" DimensionOrder="XYZCT" Type="uint16" '
        f'SizeX="20" SizeY="16" SizeZ="2" SizeC="1" SizeT="1"><TiffData IFD="{2 * k}" '
        'PlaneCount="2"/></Pixels></Image>'
        for k in (0, 1)
    )
    path = tmp_path / "a.ome.tif"
    tags = {270: f"<OME>{images}</OME>"}
    pages = [
        image(one, tags if k == 0 else {}, order=order, rows=rows.get(k, 16))
        for k, one in enumerate(data)
    ]
    write_tiff(path, pages, order=order)
    if odd is None:
        assert len(tiffref.scan(path, strict=True).series) == 2
        return
    with pytest.warns(TruncationWarning, match="A level is left out"):
        references = tiffref.scan(path)
    assert "refused" in references.series[which]["levels"][0]
    with ZarrTiffStore(path, series=1 - which) as store:
        np.testing.assert_array_equal(store[...], data[2 - 2 * which : 4 - 2 * which])
    with pytest.raises(ManifestMismatch):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize("number", ["999999999999", "99999999999999999999999", "-1", ""])
@pytest.mark.parametrize("name", ["PlaneCount", "SizeZ", "IFD"])
def test_implausible_numbers_are_reported(tmp_path, name, number):
    path = tmp_path / "a.ome.tif"
    text = (
        '<OME><Image><Pixels DimensionOrder="XYZCT" SizeX="20" SizeY="16" SizeZ="2" SizeC="1" '
        'SizeT="1"><TiffData IFD="0" PlaneCount="2"/></Pixels></Image></OME>'
    )
    text = re.sub(f'{name}="[0-9]+"', f'{name}="{number}"', text, count=1)
    tifffile.imwrite(path, pixels(2, 16, 20), description=text, metadata=None,
                     photometric="minisblack", compression="zlib")  # fmt: skip
    with pytest.warns(MetadataWarning, match="OME-XML"):
        assert tiffref.scan(path).group["image"].shape == (2, 16, 20)


@pytest.mark.parametrize("holes", [False, True])
def test_an_image_whose_files_are_all_absent_is_reported(tmp_path, holes):
    image = (
        '<Image Name="{0}"><Pixels DimensionOrder="XYZCT" SizeX="20" SizeY="16" SizeZ="1" '
        'SizeC="1" SizeT="1"><TiffData IFD="0" PlaneCount="1">{1}</TiffData></Pixels></Image>'
    )
    absent = image.format("gone", '<UUID FileName="gone.ome.tif">urn:uuid:1</UUID>')
    text = f'<OME UUID="urn:uuid:0">{image.format("here", "")}{absent}</OME>'
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, pixels(16, 20), description=text, metadata=None)
    with pytest.warns(MetadataWarning, match="all planes of image 'gone' are missing"):
        assert tiffref.scan(path, allow_holes=holes).group["image"].shape == (16, 20)
    with pytest.raises(MalformedTiff, match="'gone'"):
        tiffref.scan(path, strict=True, allow_holes=holes)


@pytest.mark.parametrize("order", "<>")
def test_volumes_beyond_the_declared_size_are_reported(tmp_path, order):
    """Planes are counted, where each page is a volume of four of them."""
    image = (
        '<Image Name="{0}"><Pixels DimensionOrder="XYZCT" SizeX="32" SizeY="16" SizeZ="4" '
        'SizeC="1" SizeT="3"><TiffData IFD="{1}" FirstT="{2}" PlaneCount="3"/></Pixels></Image>'
    )
    text = f"<OME>{image.format('right', 0, 0)}{image.format('beyond', 3, 1)}</OME>"
    path = tmp_path / "a.ome.tif"
    volumes = pixels(6, 4, 16, 32)
    with tifffile.TiffWriter(path, byteorder=order) as tif:
        for n, volume in enumerate(volumes):
            tif.write(volume, tile=(4, 16, 16), photometric="minisblack", metadata=None,
                      description=text if n == 0 else None)  # fmt: skip
    with pytest.warns(MetadataWarning, match="all 3 pages of image 'beyond' are missing"):
        references = tiffref.scan(path)
    with ZarrTiffStore(references) as store:
        np.testing.assert_array_equal(store[...], volumes[:3])
    with pytest.raises(MalformedTiff, match="'beyond'"):
        tiffref.scan(path, strict=True)


def test_many_images_read_each_element_once(tmp_path, monkeypatch):
    """The work is in proportion to the elements, whatever the number of images."""
    from tiffref.tiff import ome

    n_calls = []
    number = ome._number
    monkeypatch.setattr(ome, "_number", lambda *a: n_calls.append(1) or number(*a))
    counts = {}
    for n in (50, 200):
        path = tmp_path / f"{n}.ome.tif"
        with tifffile.TiffWriter(path) as writer:
            for k in range(n):
                writer.write(pixels(8, 8, dtype="u1"), metadata={"axes": "YX", "Name": f"{k}"})
        reader = TiffReader(LocalSource(path))
        n_calls.clear()
        listing = OmeFile(reader).list()
        assert len(listing.series) == n
        counts[n] = len(n_calls), reader.n_reads
    assert counts[200][0] == 4 * counts[50][0]
    assert counts[200][1] <= 4 * counts[50][1] + 8


@pytest.mark.parametrize("kind", ["companion", "tiff", "missing"])
def test_a_binary_only_member_has_the_metadata_of_its_set(tmp_path, kind):
    name = {"companion": "set.companion.ome", "tiff": "main.ome.tif", "missing": "no.ome"}[kind]
    whole = (
        '<OME><Image><Pixels DimensionOrder="XYZCT" SizeX="20" SizeY="16" SizeZ="1" SizeC="1" '
        'SizeT="1" Type="uint8" PhysicalSizeX="0.25" PhysicalSizeY="0.25"><TiffData IFD="0">'
        '<UUID FileName="member.ome.tif">urn:uuid:1</UUID></TiffData></Pixels></Image></OME>'
    )
    only = f'<OME UUID="urn:uuid:1"><BinaryOnly MetadataFile="{name}" UUID="urn:uuid:0"/></OME>'
    data = pixels(16, 20, dtype="u1")
    tifffile.imwrite(tmp_path / "member.ome.tif", data, description=only, metadata=None)
    if kind == "companion":
        (tmp_path / name).write_text(whole)
    elif kind == "tiff":
        tifffile.imwrite(tmp_path / name, data, description=whole, metadata=None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        group = tiffref.scan(tmp_path / "member.ome.tif").group
    assert any("could not be read" in str(one.message) for one in caught) == (kind == "missing")
    if kind != "missing":
        steps = group.attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"]
        assert steps[0]["scale"] == [0.25, 0.25]


# ---- sets whose files are beside each other, here or afar


UUIDS = [
    "urn:uuid:8c0a2f0e-0000-4000-8000-00000000000a",
    "urn:uuid:8c0a2f0e-0000-4000-8000-00000000000b",
]


def set_xml(own, names=("a.ome.tif", "b.ome.tif")):
    planes = "".join(
        f'<TiffData FirstT="{t}" IFD="{t % 3}" PlaneCount="1">'
        f'<UUID FileName="{names[t // 3]}">{UUIDS[t // 3]}</UUID></TiffData>'
        for t in range(6)
    )
    return (
        f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{UUIDS[own]}">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="8"'
        ' SizeY="6" SizeC="1" SizeZ="1" SizeT="6" PhysicalSizeX="0.3" PhysicalSizeXUnit="µm">'
        f"{planes}</Pixels></Image></OME>"
    )


def write_set(folder, byteorder, descriptions):
    planes = pixels(6, 6, 8)
    for n, (name, text) in enumerate(zip("ab", descriptions, strict=True)):
        with tifffile.TiffWriter(folder / f"{name}.ome.tif", byteorder=byteorder) as tif:
            for k, plane in enumerate(planes[3 * n : 3 * n + 3]):
                tif.write(plane, description=text.encode() if k == 0 else None, metadata=None)
    return planes


@pytest.mark.parametrize("byteorder", "<>")
def test_files_of_a_set_that_have_ids_and_no_names(tmp_path, byteorder):
    """A member finds its metadata by its ID; files without names cannot be found."""
    whole = re.sub(' FileName="[^"]*"', "", set_xml(0))
    head, _, _ = set_xml(1).partition("<Image")
    member = f'{head}<BinaryOnly MetadataFile="a.ome.tif" UUID="{UUIDS[0]}"/></OME>'
    data = write_set(tmp_path, byteorder, [whole, member])
    with pytest.raises(MalformedTiff, match="3 of 6 pages are missing"):
        tiffref.scan(tmp_path / "a.ome.tif")
    references = tiffref.scan(tmp_path / "b.ome.tif", strict=True)
    np.testing.assert_array_equal(ZarrTiffStore(references)[...], data[3:])
    write_set(tmp_path, byteorder, [whole.replace(UUIDS[1], UUIDS[0]), member])
    with pytest.warns(MetadataWarning, match="which does not name this file"):
        tiffref.scan(tmp_path / "b.ome.tif")


def serve(server, folder):
    server.files = {f"/{path.name}": path.read_bytes() for path in folder.iterdir()}
    return server.url


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("where", ["here", "http", "memory"])
def test_a_set_is_read_where_its_files_are(tmp_path, server, byteorder, where):
    fsspec = pytest.importorskip("fsspec")
    planes = write_set(tmp_path, byteorder, [set_xml(0), set_xml(1)])
    folder = {"here": str(tmp_path), "http": serve(server, tmp_path), "memory": "memory://ome-set"}[
        where
    ]
    for path in tmp_path.iterdir():
        fsspec.filesystem("memory").pipe(f"/ome-set/{path.name}", path.read_bytes())
    for name in ("a.ome.tif", "b.ome.tif"):
        references = tiffref.scan(f"{folder}/{name}", strict=True)
        assert {source.url for source in references.group["image"].manifest.sources} == {
            f"{folder}/a.ome.tif", f"{folder}/b.ome.tif"
        }  # fmt: skip
        with ZarrTiffStore(references) as store:
            np.testing.assert_array_equal(store[...], planes)


@pytest.mark.parametrize("is_cut", [False, True])
def test_an_incomplete_remote_set_is_refused(tmp_path, server, is_cut):
    write_set(tmp_path, "<", [set_xml(0), set_xml(1)])
    url = serve(server, tmp_path)
    whole = server.files.pop("/b.ome.tif")
    if is_cut:
        server.files["/b.ome.tif"] = whole[: len(whole) // 2]
    with pytest.raises(MalformedTiff, match=r"pages are missing|planes"):
        tiffref.scan(f"{url}/a.ome.tif")


@pytest.mark.parametrize(
    "name", ["../b.ome.tif", "x/b.ome.tif", "b.ome.tif?x=1", "%2e%2e/b.tif", "http://other/b.tif"]
)
def test_a_remote_set_opens_no_other_address(tmp_path, server, name):
    write_set(tmp_path, "<", [set_xml(0, ("a.ome.tif", name)), set_xml(1)])
    url = serve(server, tmp_path)
    with pytest.raises(MalformedTiff, match="pages are missing"):
        tiffref.scan(f"{url}/a.ome.tif")
    assert {path for _, path, _ in server.requests} == {"/a.ome.tif"}


def test_a_remote_set_without_its_files_costs_few_requests(tmp_path, server):
    names = "".join(
        f'<TiffData IFD="0" FirstT="{t}"><UUID FileName="{t}.tif">urn:uuid:{t}</UUID></TiffData>'
        for t in range(1, 200)
    )
    text = set_xml(0).replace('SizeT="6"', 'SizeT="200"')
    text = re.sub("<TiffData.*</TiffData>", '<TiffData IFD="0" PlaneCount="1"/>' + names, text)
    write_set(tmp_path, "<", [text, text])
    url = serve(server, tmp_path)
    with pytest.raises(MalformedTiff, match="199 of 200 pages are missing"):
        tiffref.scan(f"{url}/a.ome.tif")
    assert len(server.requests) < 40


def test_the_files_of_a_remote_set_are_opened_together(tmp_path, server, monkeypatch):
    names = [f"{n}.tif" for n in range(4)]
    planes = pixels(4, 6, 8)
    text = re.sub(
        "<TiffData.*</TiffData>",
        "".join(
            f'<TiffData IFD="0" FirstT="{t}"><UUID FileName="{name}">urn:uuid:{t}</UUID></TiffData>'
            for t, name in enumerate(names)
        ),
        set_xml(0).replace('SizeT="6"', 'SizeT="4"'),
    )
    for t, name in enumerate(names):
        own = text.replace(UUIDS[0], f"urn:uuid:{t}").encode()
        tifffile.imwrite(tmp_path / name, planes[t], description=own, metadata=None)
    others, open_sibling = threading.Barrier(3), RemoteSource.open_sibling

    def open_together(*arguments):
        others.wait(60)  # fails if they are opened one after the other
        return open_sibling(*arguments)

    monkeypatch.setattr(RemoteSource, "open_sibling", open_together)
    url = serve(server, tmp_path)
    references = tiffref.scan(f"{url}/0.tif", strict=True)
    with ZarrTiffStore(references) as store:
        np.testing.assert_array_equal(store[...], planes)
    opened = [path for method, path, _ in server.requests if method == "GET"]
    assert sorted(opened[:4]) == [f"/{name}" for name in names]


@pytest.mark.parametrize("where", ["here", "http"])
def test_a_member_takes_its_sizes_from_the_file_that_it_names(tmp_path, server, where):
    only = (
        f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{UUIDS[1]}">'
        f'<BinaryOnly MetadataFile="a.ome.tif" UUID="{UUIDS[0]}"/></OME>'
    )
    write_set(tmp_path, "<", [set_xml(0), only])
    folder = serve(server, tmp_path) if where == "http" else tmp_path
    x = tiffref.scan(f"{folder}/b.ome.tif", strict=True).group["x"]
    assert x.attributes["units"] == "micrometer"


def test_sub_ifds_are_read_in_bulk(tmp_path, monkeypatch):
    """Of the planes of a pyramid, few directories are taken apart one by one."""
    path = tmp_path / "a.ome.tif"
    data = np.arange(40 * 64 * 64, dtype="u2").reshape(40, 64, 64)
    options = {"tile": (16, 16), "compression": "zlib", "photometric": "minisblack"}
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(data, subifds=2, metadata={"axes": "ZYX"}, **options)
        for step in (2, 4):
            tif.write(data[:, ::step, ::step], subfiletype=1, **options)
    parsed, parse = [], TiffReader._parse
    monkeypatch.setattr(TiffReader, "_parse", lambda *args: parsed.append(1) or parse(*args))
    references = tiffref.scan(path)
    assert [len(one["levels"]) for one in references.series] == [3]
    assert len(parsed) < 20


def write_images(path, n, byteorder="<"):
    """Write images with the same name and a pixel size of 1, 2, ... micrometres."""
    with tifffile.TiffWriter(path, byteorder=byteorder) as tif:
        for k in range(n):
            size = {f"PhysicalSize{axis}": k + 1 for axis in "XY"}
            names = [f"a{k}", f"b{k}"]
            metadata = {"axes": "CYX", "Name": "one", "Channel": {"Name": names}, **size}
            tif.write(pixels(2, 16, 20), metadata=metadata, photometric="minisblack")


def described(references, path="image"):
    """Return the pixel size and channel names of an image."""
    (dim,) = {dim for dim in references.group[path].dims if dim.startswith("x")}
    store = ZarrTiffStore(References(references.group.with_children({dim: references.group[dim]})))
    return store[1] - store[0], references.group[path].attributes["channel_names"]


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("series", [0, 1, 2, -1])
def test_a_selected_image_has_its_own_metadata(tmp_path, byteorder, series):
    path, refs = tmp_path / "a.ome.tif", tmp_path / "refs.json"
    write_images(path, 3, byteorder)
    n = range(3)[series]
    expected = n + 1, [f"a{n}", f"b{n}"]
    for key in (None, slice(0, 2)):
        references = tiffref.scan(path, series=series, key=key)
        assert described(references) == expected
        assert references.series[0]["index"] == n
    tiffref.scan(path, series=series).write_fsspec(refs)
    report = tiffref.validate(refs, pixels="all")
    assert report.summary == "valid"
    assert report.n_chunks_compared > 0


def test_an_image_after_a_missing_one_has_its_own_metadata(tmp_path):
    write_images(tmp_path / "a.ome.tif", 3)
    path = with_xml(tmp_path / "a.ome.tif", lambda text: text.replace('IFD="0"', 'IFD="9"'))
    with pytest.warns(MetadataWarning, match="all planes of image 'one' are missing"):
        references = tiffref.scan(path)
    assert described(references) == (2, ["a1", "b1"])
    assert described(references, "image_s1") == (3, ["a2", "b2"])


def test_pages_of_several_images_have_the_metadata_that_these_share(tmp_path):
    write_images(tmp_path / "a.ome.tif", 2)
    assert "x" not in tiffref.scan(tmp_path / "a.ome.tif", key=0).group.children
    write_images(tmp_path / "b.ome.tif", 1)
    references = tiffref.scan(tmp_path / "b.ome.tif", key=[0, 1])
    assert described(references) == (1, ["a0", "b0"])
    tiffref.scan(tmp_path / "a.ome.tif", key=2).write_fsspec(tmp_path / "refs.json")
    report = tiffref.validate(tmp_path / "refs.json", pixels="all")
    assert report.summary == "valid"
    assert report.n_chunks_compared > 0


def write_planes(path, planes, size, body, root="", byteorder="<"):
    """Write planes with OME-XML of one image; `body` is what its Pixels element holds."""
    text = (
        f'<OME{root}><Image ID="Image:0" Name="one"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
        f'SizeX="20" SizeY="16" SizeT="1" {size}>{body}</Pixels></Image></OME>'
    )
    photometric = "rgb" if planes.shape[-1] == 3 else "minisblack"
    with tifffile.TiffWriter(path, byteorder=byteorder) as tif:
        for n, plane in enumerate(planes):
            first = text if n == 0 else None
            tif.write(plane, description=first, metadata=None, contiguous=False,
                      photometric=photometric)  # fmt: skip
    return path


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("root", ["", ' UUID="urn:uuid:2"'])
@pytest.mark.parametrize("name", [' FileName="old.ome.tif"', ""])
def test_a_single_file_that_was_renamed_keeps_its_axes(tmp_path, root, name, byteorder):
    data = "".join(
        f'<TiffData IFD="{5 - n}" FirstC="{n // 3}" FirstZ="{n % 3}" PlaneCount="1">'
        f"<UUID{name}>urn:uuid:1</UUID></TiffData>"
        for n in range(6)
    )
    planes = pixels(6, 16, 20)
    size = 'SizeC="2" SizeZ="3"'
    path = write_planes(tmp_path / "new.ome.tif", planes, size, data, root, byteorder)
    with pytest.warns(MetadataWarning, match="only file of the set, .*does not exist"):
        references = tiffref.scan(path)
    assert references.group["image"].dims == ("c", "z", "y", "x")
    expected = planes[::-1].reshape(2, 3, 16, 20)
    np.testing.assert_array_equal(ZarrTiffStore(references)[...], expected)
    with pytest.raises(MalformedTiff, match="does not exist"):
        tiffref.scan(path, strict=True)


def test_uuids_match_whatever_their_case(tmp_path):
    data = '<TiffData IFD="0" PlaneCount="6"><UUID FileName="old.tif">urn:uuid:AB</UUID></TiffData>'
    size = 'SizeC="2" SizeZ="3"'
    path = write_planes(
        tmp_path / "a.ome.tif", pixels(6, 16, 20), size, data, ' UUID="urn:uuid:ab"'
    )
    assert tiffref.scan(path, strict=True).group["image"].shape == (2, 3, 16, 20)


@pytest.mark.parametrize("channels", ["", "<Channel/>", "<Channel/><Channel/><Channel/>"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_samples_of_pages_that_the_xml_counts_as_channels(tmp_path, channels, byteorder):
    planes, size = pixels(4, 16, 20, 3, dtype="u1"), 'SizeC="3" SizeZ="4"'
    body = f"{channels}<TiffData/>"
    path = write_planes(tmp_path / "a.ome.tif", planes, size, body, byteorder=byteorder)
    with pytest.warns(MetadataWarning, match="one sample are stored in pages of 3 samples"):
        references = tiffref.scan(path)
    assert references.group["image"].dims == ("z", "y", "x", "s")
    np.testing.assert_array_equal(ZarrTiffStore(references)[...], planes)
    with pytest.raises(MalformedTiff, match="3 samples"):
        tiffref.scan(path, strict=True)


def test_a_page_of_samples_for_each_channel_is_not_left_out(tmp_path):
    planes = pixels(3, 16, 20, 3, dtype="u1")
    path = write_planes(tmp_path / "a.ome.tif", planes, 'SizeC="3" SizeZ="1"', "<TiffData/>")
    with pytest.warns(MetadataWarning, match="does not match the pages"):
        np.testing.assert_array_equal(ZarrTiffStore(path)[...], planes)
