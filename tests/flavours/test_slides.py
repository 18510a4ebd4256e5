"""Slide scanners' files, made by hand as their formats are described.

Pixels by four ways, pyramids, sizes, names of channels, and the roles of labels and macros.
"""

from __future__ import annotations

import struct
import warnings
from fractions import Fraction

import numpy as np
import pytest
import tifffile
from ifds import BIG, CLASSIC, As, image, write_tiff
from ways import (
    UM,
    assert_like_tifffile,
    assert_pixels,
    channel_names,
    kinds,
    pixels,
    scales_of,
    scan,
)

import tiffref

TILE = (16, 16)
BASE, HALF, SMALL, LABEL, MACRO = (
    pixels(*shape, 3, dtype="u1") for shape in ((80, 96), (40, 48), (20, 24), (18, 22), (20, 30))
)
PER_CM = {282: Fraction(20000), 283: Fraction(20000), 296: 3}
"""Resolution of 0.5 µm."""


def attributes(references, path="image"):
    return references.group[path].attributes


def roles(references):
    found = {path: array.attributes.get("role") for path, array in references.group.arrays()}
    return {path: role for path, role in found.items() if role}


def levels(references, series=0):
    return [level.get("path") for level in references.series[series]["levels"]]


# ---- Aperio and its kin


def write_aperio(path, text, make=""):
    more = {271: make} if make else {}
    ifds = [
        image(BASE, {270: text + "|AppMag = 20|MPP = 0.5000", **more}, tile=TILE),
        image(SMALL, {270: text}, rows=8),
        image(HALF, {270: text, **more}, tile=TILE),
        image(SMALL, {270: text, **more}, tile=TILE),
        image(LABEL, {254: 1, 270: text + "\r\nlabel"}, rows=9),
        image(MACRO, {254: 9, 270: text + "\r\nmacro"}, rows=10),
    ]
    write_tiff(path, ifds, form=BIG)


APERIO = {
    "image": BASE, "image_1": HALF, "image_2": SMALL, "thumbnail": SMALL, "label": LABEL,
    "macro": MACRO,
}  # fmt: skip


KNOWS_MIKROSCAN = hasattr(tifffile.TiffFile, "is_mikroscan")
APERIO_AND_MIKROSCAN = [
    "Aperio Image Library v1",
    pytest.param(
        "Mikroscan Image Structure v1",
        marks=pytest.mark.skipif(not KNOWS_MIKROSCAN, reason="an old tifffile"),
    ),
]


@pytest.mark.parametrize(
    ("kind", "text", "make"),
    [
        ("svs", "Aperio Image Library v1\r\n96x80 (16x16)", ""),
        ("mikroscan", "Mikroscan Image Structure v1\r\n96x80 (16x16)", ""),
        ("motic", "Motic Image Library v1\r\n96x80", ""),
        ("huron", "Huron Digital Pathology", "Huron LE"),
    ],
)
def test_aperio_and_scanners_that_imitate_it(tmp_path, kind, text, make):
    path = tmp_path / "a.svs"
    write_aperio(path, text, make)
    references = scan(path)
    assert_like_tifffile(path, references)
    if not hasattr(tifffile.TiffFile, f"is_{kind}") and kind != "svs":
        return  # this version of tifffile does not know the kind
    assert kinds(references) == [kind] * 4
    assert levels(references) == ["image", "image_1", "image_2"]
    assert_pixels(references, APERIO)
    assert roles(references) == {name: name for name in ("thumbnail", "label", "macro")}
    if kind != "huron":
        assert scales_of(references) == {"y": UM(0.5), "x": UM(0.5)}
        assert scales_of(references, "image_1") == {"y_1": UM(1), "x_1": UM(1)}
        assert attributes(references)["magnification"] == 20


@pytest.mark.parametrize("kind", APERIO_AND_MIKROSCAN)
@pytest.mark.parametrize("name", ["thumbnail", "label", "macro"])
def test_a_secondary_image_has_the_same_metadata_if_it_is_selected(tmp_path, kind, name):
    path = tmp_path / "a.svs"
    write_aperio(path, f"{kind}\r\n96x80 (16x16)|AppMag = 20|MPP = 0.5|")
    series = ["image", "thumbnail", "label", "macro"].index(name)
    of_file, own = scan(path), tiffref.scan(path, series=series)
    scales = {dim[0]: scale for dim, scale in scales_of(of_file, name).items()}
    assert scales_of(own) == scales
    assert scales == ({"y": UM(2), "x": UM(2)} if name == "thumbnail" else {})
    assert attributes(own).get("magnification") == attributes(of_file, name).get("magnification")


@pytest.mark.parametrize("kind", APERIO_AND_MIKROSCAN)
def test_a_selected_page_does_not_have_the_pixel_size_of_the_slide(tmp_path, kind):
    path = tmp_path / "a.svs"
    write_aperio(path, f"{kind}\r\n96x80 (16x16)|AppMag = 20|MPP = 0.5|")
    sizes = [scales_of(tiffref.scan(path, key=key)) for key in (0, 1, 2, 3, 5)]
    levels = [{"y": UM(size), "x": UM(size)} for size in (0.5, 2, 1, 2)]
    assert sizes == [*levels, {}]  # the macro has another extent
    assert attributes(tiffref.scan(path, key=0))["magnification"] == 20


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["svs", "bif"])
def test_a_slide_whose_first_page_is_skipped(tmp_path, kind, order):
    texts = {"svs": ["Aperio Image Library v1\r\n96x80"] * 3,
             "bif": ["Label_Image", "level=1 mag=20", "level=2 mag=10"]}  # fmt: skip
    first = {270: texts[kind][0]}
    if kind == "bif":
        first |= {305: "ScanOutputManager 1.1", 700: As(1, b"<Metadata><iScan/></Metadata>\0")}
    pages = [image(SMALL if kind == "svs" else LABEL, first, order=order)]
    for one, text in zip((HALF, SMALL), texts[kind][1:], strict=True):
        pages.append(image(one, {270: text}, tile=TILE, order=order))
    path = tmp_path / "a.tif"
    write_tiff(path, pages, order=order)
    if kind == "bif":
        with pytest.raises(tiffref.errors.MalformedTiff, match="full-size image of the slide"):
            tiffref.scan(path)
    with pytest.warns(tiffref.errors.MetadataWarning, match=r"has the levels 1, 2|vendor .svs"):
        references = tiffref.scan(path, allow_holes=True)
    assert HALF.shape in {array.shape for _, array in references.group.arrays()}
    with pytest.raises(tiffref.errors.MalformedTiff):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("repeats", ["", "|AppMag = 20|MPP = 0.5000"])
def test_minor_images_do_not_take_the_size_of_the_slide(tmp_path, repeats, order):
    """A thumbnail shows the slide with fewer pixels; of a label or macro no size is known."""
    text = "Aperio Image Library v1\r\n96x80"
    ifds = [
        image(BASE, {270: text + "|AppMag = 20|MPP = 0.5000"}, tile=TILE, order=order),
        image(SMALL, {270: text + repeats}, rows=8, order=order),
        image(LABEL, {254: 1, 270: f"{text}\r\nlabel{repeats}"}, rows=9, order=order),
        image(MACRO, {254: 9, 270: f"{text}\r\nmacro{repeats}"}, rows=10, order=order),
    ]
    path = tmp_path / "a.svs"
    write_tiff(path, ifds, order=order)
    references = scan(path)
    assert scales_of(references) == {"y": UM(0.5), "x": UM(0.5)}
    assert list(scales_of(references, "thumbnail").values()) == [UM(2)] * 2
    assert scales_of(references, "label") == scales_of(references, "macro") == {}
    assert "magnification" not in attributes(references, "thumbnail")


def test_an_invalid_pixel_size_is_reported(tmp_path):
    path = tmp_path / "a.svs"
    write_tiff(path, [image(BASE, {270: "Aperio Image Library v1|MPP = -0.5"}, tile=TILE)])
    with pytest.warns(tiffref.errors.MetadataWarning, match=r"MPP.*not a valid size.*-0\.5"):
        references = tiffref.scan(path)
    assert scales_of(references) == {}


@pytest.mark.parametrize("page", [0, 2])
@pytest.mark.parametrize("tags", [{277: 1}, {258: [0] * 3}, {339: [0] * 3}, {257: 0}], ids=str)
def test_a_level_of_other_dimensions_than_the_image(tmp_path, tags, page):
    """A damaged directory makes no level of the slide; the others are read."""
    text = "Aperio Image Library v1\r\n96x80|AppMag = 20|MPP = 0.5000"
    ifds = [image(one, {270: text}, tile=TILE) for one in (BASE, SMALL, HALF)]
    ifds[page].tags |= tags
    path = tmp_path / "a.svs"
    write_tiff(path, ifds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # arrays without samples, or levels left out
        if page == 0 and 257 in tags:
            with pytest.raises(tiffref.MalformedTiff, match="fewer segments"):
                tiffref.scan(path)
        references = tiffref.scan(path, allow_holes=page == 0)
    found = dict(references.group.arrays())
    assert any(array.shape == (HALF if page == 0 else BASE).shape for array in found.values())


def test_aperio_focal_planes(tmp_path):
    data = pixels(3, 80, 96, dtype="u1")
    low = pixels(3, 40, 48, dtype="u1")
    text = "Aperio Image Library v1\r\n96x80"
    ifds = [image(data[0], {270: text}, tile=TILE), image(pixels(20, 24, dtype="u1"), {270: text})]
    ifds += [image(plane, {270: text}, tile=TILE) for plane in (data[1], data[2], *low)]
    path = tmp_path / "a.svs"
    write_tiff(path, ifds)
    references = scan(path)
    assert references.group["image"].dims == ("z", "y", "x")
    assert_pixels(references, {"image": data, "image_1": low})
    datasets = references.group.attributes["multiscales"][0]["datasets"]
    assert [one["path"] for one in datasets] == ["image", "image_1"]


# ---- Leica SCN


def scn_xml(images):
    """Describe images: [(name, magnification, [(ifd, r, c, z)])]."""
    parts = ""
    for name, magnification, dimensions in images:
        cells = "".join(
            f'<dimension ifd="{ifd}" r="{r}" c="{c}" z="{z}" sizeX="9" sizeY="9"/>'
            for ifd, r, c, z in dimensions
        )
        size_z = 1 + max(z for *_, z in dimensions)
        parts += (
            f'<image name="{name}" sizeZ="{size_z}"><pixels>{cells}</pixels><scanSettings>'
            f"<objectiveSettings><objective>{magnification}</objective></objectiveSettings>"
            "</scanSettings></image>"
        )
    return f'<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection>{parts}</collection></scn>'


def test_leica_scn_with_channels_and_several_images(tmp_path):
    macro, macro_low = pixels(40, 32, dtype="u1"), pixels(20, 16, dtype="u1")
    full, low = pixels(2, 80, 96, dtype="u1"), pixels(2, 40, 48, dtype="u1")
    text = scn_xml(
        [
            ("macro", 1, [(0, 0, 0, 0), (1, 1, 0, 0)]),
            ("scan", 20, [(2 + 2 * r + c, r, c, 0) for r in range(2) for c in range(2)]),
        ]
    )
    planes = [macro, macro_low, *full, *low]
    ifds = [
        image(plane, {**PER_CM, **({270: text} if n == 0 else {})}, tile=TILE)
        for n, plane in enumerate(planes)
    ]
    path = tmp_path / "a.scn"
    write_tiff(path, ifds, form=BIG)
    references = scan(path)
    assert kinds(references) == ["scn", "scn"]
    (first, first_low), (second, second_low) = levels(references, 0), levels(references, 1)
    expected = {first: macro, first_low: macro_low, second: full, second_low: low}
    assert_pixels(references, expected)
    assert references.group[second].dims[0].startswith("c")
    assert attributes(references, first)["magnification"] == 1
    assert attributes(references, second)["magnification"] == 20


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("dimensions", "what"),
    [
        ([(0, 1, 0, 0), (1, 0, 0, 0)], "overview 1 of 80 rows and 96 columns is larger"),
        ([(0, 0, 0, 0), (1, -1, 0, 0)], "the XML has the index -1"),
        ([(0, 0, 0, 0), (2, 0, 1, 0), (1, 1, 0, 0)], "overview 1 has 1 of 2 planes"),
    ],
)
def test_leica_scn_whose_levels_are_not_those_of_its_pages(tmp_path, dimensions, what, order):
    text = scn_xml([("scan", 20, dimensions)])
    full, half = pixels(2, 80, 96, dtype="u1"), pixels(40, 48, dtype="u1")
    planes = [full[0], half, full[1]][: len(dimensions)]
    ifds = [image(p, {270: "" if n else text}, tile=TILE, order=order)
            for n, p in enumerate(planes)]  # fmt: skip
    path = tmp_path / "a.scn"
    write_tiff(path, ifds, order=order)
    with pytest.warns(tiffref.errors.MetadataWarning, match=what):
        tiffref.scan(path, allow_holes=True)
    with pytest.raises(tiffref.errors.MalformedTiff):
        tiffref.scan(path, strict=True)


def test_leica_scn_of_focal_planes_is_read_page_by_page(tmp_path):
    """tifffile refuses these; what the XML says is lost then, not the pixels."""
    data = pixels(3, 80, 96, dtype="u1")
    text = scn_xml([("scan", 20, [(n, 0, 0, n) for n in range(3)])])
    ifds = [image(plane, {270: text} if n == 0 else {}, tile=TILE) for n, plane in enumerate(data)]
    path = tmp_path / "a.scn"
    write_tiff(path, ifds)
    with pytest.warns(tiffref.errors.MetadataWarning, match="Z-Stacks not supported"):
        references = scan(path)
    assert_pixels(references, {"image": data})


# ---- PerkinElmer QPTIFF


def qpi_xml(kind, name=""):
    name = f"<Name>{name}</Name><Color>0,0,255</Color>" if name else ""
    return (
        '<?xml version="1.0" encoding="utf-16"?>\n<PerkinElmer-QPI-ImageDescription>'
        f"<ImageType>{kind}</ImageType>{name}<Objective>20x</Objective>"
        "</PerkinElmer-QPI-ImageDescription>"
    )


def test_qptiff(tmp_path):
    names = ["DAPI", "FITC", "Cy5"]
    full, half = pixels(3, 80, 96), pixels(3, 40, 48)

    def page(plane, kind, name="", **how):
        return image(plane, {270: qpi_xml(kind, name), 305: "PerkinElmer-QPI", **PER_CM}, **how)

    ifds = [page(p, "FullResolution", n, tile=TILE) for p, n in zip(full, names, strict=True)]
    ifds += [page(SMALL, "Thumbnail")]
    ifds += [page(p, "ReducedResolution", n, tile=TILE) for p, n in zip(half, names, strict=True)]
    ifds += [page(MACRO, "Overview"), page(LABEL, "Label")]
    path = tmp_path / "a.qptiff"
    write_tiff(path, ifds, form=BIG)
    references = scan(path)
    assert kinds(references) == ["qpi"] * 4
    assert references.group["image"].dims == ("c", "y", "x")
    others = {"thumbnail": SMALL, "macro": MACRO, "label": LABEL}
    assert_pixels(references, {"image": full, "image_1": half, **others})
    assert roles(references) == {name: name for name in others}
    assert channel_names(references) == names
    assert scales_of(references) == {"y": UM(0.5), "x": UM(0.5)}
    assert references.group.attributes["omero"]["channels"][0]["color"] == "0000FF"


def assert_refused_without_page(path, full, left_out):
    """Check the errors of a slide of three planes without a page; return the planes that it has."""
    if left_out < 3:
        with pytest.raises(tiffref.errors.MalformedTiff, match="fewer channels or focal planes"):
            tiffref.scan(path)
        full = np.delete(full, left_out, 0)
    with pytest.raises(tiffref.errors.MalformedTiff):
        tiffref.scan(path, strict=True)
    return full


@pytest.mark.parametrize("left_out", [0, 2, 4, 6])
def test_a_page_that_the_chain_of_a_qptiff_skips(tmp_path, left_out):
    full, half = pixels(3, 80, 96), pixels(3, 40, 48)
    kinds = ["FullResolution"] * 3 + ["Thumbnail"] + ["ReducedResolution"] * 3
    tags = [{270: qpi_xml(kind), 305: "PerkinElmer-QPI", **PER_CM} for kind in kinds]
    ifds = [image(p, t, tile=TILE) for p, t in zip([*full, SMALL, *half], tags, strict=True)]
    del ifds[left_out]
    path = tmp_path / "a.qptiff"
    write_tiff(path, ifds, form=BIG)
    full = assert_refused_without_page(path, full, left_out)
    with pytest.warns(tiffref.errors.MetadataWarning, match="pages of the pyramid"):
        references = tiffref.scan(path, allow_holes=True)
    assert_pixels(references, {"image": full, "thumbnail": SMALL})


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [None, TILE])
def test_qptiff_without_a_pyramid(tmp_path, tile, order):
    """Each page says what it is; each image has the size that its own tags give."""
    size = dict.fromkeys((282, 283), Fraction(20000)) | {296: 3}
    thumb = dict.fromkeys((282, 283), Fraction(10_000_000, 1986)) | {296: 3}
    names = ["DAPI", "FITC"]
    full = pixels(2, 80, 96)

    def page(plane, kind, tags, name="", **how):
        tags = {270: qpi_xml(kind, name), 305: "PerkinElmer-QPI", **tags}
        return image(plane, tags, order=order, **how)

    ifds = [page(p, "FullResolution", size, n, tile=tile) for p, n in zip(full, names, strict=True)]
    ifds += [page(SMALL, "Thumbnail", thumb), page(MACRO, "Overview", {}), page(LABEL, "Label", {})]
    path = tmp_path / "a.qptiff"
    write_tiff(path, ifds, order=order)
    references = scan(path)
    assert kinds(references) == ["qpi"] * 4
    assert_pixels(references, {"image": full, "thumbnail": SMALL, "macro": MACRO, "label": LABEL})
    assert roles(references) == {name: name for name in ("thumbnail", "macro", "label")}
    assert channel_names(references) == names
    assert scales_of(references) == {"y": UM(0.5), "x": UM(0.5)}
    assert list(scales_of(references, "thumbnail").values()) == [UM(1.986)] * 2
    assert scales_of(references, "macro") == scales_of(references, "label") == {}


def test_qptiff_whose_overview_comes_first_and_whose_pages_say_nothing(tmp_path):
    def page(plane, text):
        return image(plane, {270: text, 305: "PerkinElmer-QPI"})

    path = tmp_path / "a.qptiff"
    ifds = [page(BASE, qpi_xml("FullResolution")), page(MACRO, qpi_xml("Overview"))]
    write_tiff(path, ifds)
    references = scan(path)
    assert_pixels(references, {"image": BASE, "macro": MACRO})
    write_tiff(path, [page(BASE, ""), page(SMALL, "")])
    assert_pixels(scan(path), {"image": BASE, "thumbnail": SMALL})


# ---- Philips


def philips_xml(spacings):
    cells = "".join(
        '<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING" '
        f'Group="0x0028">"{size}" "{size}"</Attribute></DataObject>'
        for size in spacings
    )
    return (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport"><Attribute '
        'Name="PIM_DP_SCANNED_IMAGES"><Array><DataObject ObjectType="DPScannedImage"><Attribute '
        f'Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>{cells}</Array></Attribute>'
        "</DataObject></Array></Attribute></DataObject>"
    )


def test_philips_levels_padded_to_whole_tiles(tmp_path):
    """The tags give the size of a level with its padding; the XML says what is image."""
    full = pixels(80, 90, 3, dtype="u1")
    half = np.pad(pixels(40, 45, 3, dtype="u1"), [(0, 8), (0, 3), (0, 0)])
    text = philips_xml([0.00025, 0.0005])
    ifds = [
        image(full, {270: text, 305: "Philips DP v1.0"}, tile=TILE),
        image(half, {270: "level=1 mag=20"}, tile=TILE),
        image(MACRO, {270: "Macro image"}),
        image(LABEL, {270: "Label"}),
    ]
    path = tmp_path / "a.tiff"
    write_tiff(path, ifds)
    references = scan(path)
    assert set(kinds(references)) == {"philips"}
    expected = {"image": full, "image_1": half[:40, :45], "macro": MACRO, "label": LABEL}
    assert_pixels(references, expected)
    assert_like_tifffile(path, references)
    assert roles(references) == {"macro": "macro", "label": "label"}
    assert scales_of(references) == {"y": UM(0.25), "x": UM(0.25)}
    assert scales_of(references, "image_1") == {"y_1": UM(0.5), "x_1": UM(0.5)}


def test_philips_levels_that_would_be_larger_than_they_are(tmp_path):
    """Rows and columns that are not there would be 0; the size in the tags counts."""
    half = np.pad(pixels(40, 45, 3, dtype="u1"), [(0, 8), (0, 3), (0, 0)])
    text = philips_xml([0.0004, 0.0004])
    tags = {270: text, 305: "Philips DP v1.0"}
    path = tmp_path / "a.tiff"
    write_tiff(path, [image(BASE, tags, tile=TILE), image(half, tile=TILE)])
    with pytest.warns(tiffref.errors.MetadataWarning, match=r"Y=80.* pages of \(48, 48, 3\)"):
        references = tiffref.scan(path)
    assert_pixels(references, {"image": BASE, "image_1": half})


@pytest.mark.parametrize("size", ["0.001", "-0.0005"])
def test_philips_levels_that_would_be_cropped_too_far(tmp_path, size):
    """No whole factor leads from the image to the size in the XML."""
    full = pixels(80, 90, 3, dtype="u1")
    half = np.pad(pixels(40, 45, 3, dtype="u1"), [(0, 8), (0, 3), (0, 0)])
    tags = {270: philips_xml([0.00025, size]), 305: "Philips DP v1.0"}
    path = tmp_path / "a.tiff"
    write_tiff(path, [image(full, tags, tile=TILE), image(half, tile=TILE)])
    with pytest.warns(tiffref.errors.MetadataWarning, match=r"Y=33.* pages of \(48, 48, 3\)"):
        references = tiffref.scan(path)
    assert_pixels(references, {"image": full, "image_1": half})


@pytest.mark.parametrize("sizes", [[0.00025], [0.00025] * 3, [-0.00025, -0.0005]], ids=str)
def test_philips_sizes_that_make_no_sense_are_reported(tmp_path, sizes):
    tags = {270: philips_xml(sizes), 305: "Philips DP v1.0"}
    path = tmp_path / "a.tiff"
    write_tiff(path, [image(BASE, tags, tile=TILE), image(HALF, tile=TILE)])
    with pytest.warns(tiffref.errors.MetadataWarning, match=r"vendor .philips|not a valid size"):
        references = tiffref.scan(path)
    assert_pixels(references, {"image": BASE})
    with pytest.raises(tiffref.errors.MalformedTiff):
        tiffref.scan(path, strict=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("by", [2, 4, 12])
@pytest.mark.parametrize(("form", "size"), [(CLASSIC, "<I"), (BIG, "<Q")])
def test_a_damaged_page_hides_no_others(tmp_path, form, size, by):
    text = {270: "Aperio Image Library v1"}
    pages = [image(BASE, text, tile=TILE), image(SMALL, {254: 1}), image(MACRO)]
    path = tmp_path / "a.svs"
    places = write_tiff(path, pages, form=form)
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack(size, places[1]), places[0])
    struct.pack_into(size, content, at, places[1] + by)
    path.write_bytes(content)
    assert tiffref.scan(path).group["image"].shape == BASE.shape


@pytest.mark.parametrize("kind", ["philips", "scn"])
def test_xml_that_is_cut_off_is_reported(tmp_path, kind):
    """tifffile takes such files for plain ones; of Philips, levels keep their padding."""
    text = {
        "philips": philips_xml([0.00025, 0.0005]),
        "scn": scn_xml([("scan", 20, [(n, n, 0, 0) for n in range(2)])]),
    }[kind]
    software = {"philips": "Philips DP v1.0", "scn": "a"}[kind]
    path = tmp_path / "a.tiff"
    pages = [image(BASE, {270: text, 305: software}, tile=TILE), image(HALF, tile=TILE)]
    write_tiff(path, pages)
    assert kinds(scan(path)) == [kind]
    pages[0].tags[270] = text[:-9]
    write_tiff(path, pages)
    with pytest.warns(tiffref.errors.MetadataWarning, match=f"the vendor .{kind}"):
        references = tiffref.scan(path)
    assert_pixels(references, {"image": BASE, "image_1": HALF})


# ---- Ventana BIF


def test_ventana_bif(tmp_path):
    marks = '<iScan Magnification="40" ScanRes="0.25" Z-layers="1" Z-spacing="1"/>'
    xmp = As(1, f"<Metadata>{marks}</Metadata>".encode() + b"\0")
    ifds = [
        image(LABEL, {270: "Label_Image", 305: "ScanOutputManager 1.1", 700: xmp}),
        image(SMALL, {270: "Probability_Image"}),
        image(BASE, {270: "level=0 mag=40 quality=90"}, tile=TILE),
        image(HALF, {270: "level=1 mag=20 quality=90"}, tile=TILE),
    ]
    path = tmp_path / "a.bif"
    write_tiff(path, ifds, form=BIG)
    references = scan(path)
    assert set(kinds(references)) == {"bif"}
    (label,), (small,) = levels(references, 1), levels(references, 2)
    assert_pixels(references, {"image": BASE, "image_1": HALF, label: LABEL, small: SMALL})
    # what tifffile calls them depends on its version
    assert set(roles(references)) in ({"overview", "probability"}, {"label", "thumbnail"})
    assert scales_of(references) == {"y": UM(0.25), "x": UM(0.25)}
    assert attributes(references)["magnification"] == 40


# ---- Indica, Trestle, Argos


def test_indica_labs(tmp_path):
    full, half = pixels(2, 80, 96), pixels(2, 40, 48)
    cells = "".join(
        f'<dimension level="{level}" channel="{c}" ifd="{2 * level + c}"/>'
        for level in range(2) for c in range(2)
    )  # fmt: skip
    text = (
        f"<indica><image><objective>20</objective><pixels>{cells}</pixels><channels>"
        '<channel id="0" name="DAPI" rgb="255"/><channel id="1" name="CD8" rgb="65280"/>'
        "</channels></image></indica>"
    )
    software = "IndicaLabsImageWriter v1.2.1"
    ifds = [
        image(plane, {254: n // 2, 305: software, **PER_CM, 270: "" if n else text}, tile=TILE)
        for n, plane in enumerate([*full, *half])
    ]
    path = tmp_path / "a.tif"
    write_tiff(path, ifds, form=BIG)
    references = scan(path)
    assert_like_tifffile(path, references)
    if kinds(references) == ["generic"]:
        return  # older versions of tifffile do not read the XML
    assert kinds(references) == ["indica"]
    assert references.group["image"].dims == ("c", "y", "x")
    assert_pixels(references, {"image": full, "image_1": half})
    assert channel_names(references) == ["DAPI", "CD8"]
    assert scales_of(references) == {"y": UM(0.5), "x": UM(0.5)}
    assert attributes(references)["magnification"] == 20


def test_an_image_is_in_the_order_of_its_own_tags(tmp_path):
    """tifffile takes samples for planes where PlanarConfiguration has no value."""
    ifds = [
        image(BASE, {270: "Aperio Image Library v1"}, tile=TILE),
        image(SMALL, {284: As(3, 1, 0)}),
    ]
    path = tmp_path / "a.svs"
    write_tiff(path, ifds)
    with (
        pytest.warns(tiffref.TruncationWarning, match=r"\(284\): the tag has no values"),
        pytest.warns(tiffref.errors.MetadataWarning, match="S=3, Y=20, X=24 in 1 pages"),
    ):
        references = tiffref.scan(path)
    assert_pixels(references, {"image": BASE, "thumbnail": SMALL})


def test_trestle(tmp_path):
    """Resolution is in micrometres for a pixel; tiles overlap, and are given as they are stored."""
    tags = {270: "OverlapsXY=0 0 0 0;Objective Name=20x", 305: "MedScan", 296: 3}
    tags |= {282: Fraction(1, 2), 283: Fraction(1, 2)}
    path = tmp_path / "a.tif"
    write_tiff(path, [image(BASE, tags, tile=TILE), image(HALF, {254: 1}, tile=TILE)])
    references = scan(path)
    assert_pixels(references, {"image": BASE, "image_1": HALF})
    if hasattr(tifffile.TiffFile, "is_trestle"):
        assert kinds(references) == ["trestle"]
        assert scales_of(references) == {"y": UM(0.5), "x": UM(0.5)}


@pytest.mark.skipif(not hasattr(tifffile.TiffFile, "is_trestle"), reason="an old tifffile")
@pytest.mark.parametrize("overlaps", ["0 0", "64 64 32 32 16 16"])
def test_overlaps_of_trestle_that_are_not_those_of_its_levels(tmp_path, overlaps):
    tags = {270: f"OverlapsXY={overlaps};Objective Name=20x", 305: "MedScan"}
    path = tmp_path / "a.tif"
    write_tiff(path, [image(BASE, tags, tile=TILE), image(HALF, {254: 1}, tile=TILE)])
    with pytest.warns(tiffref.errors.MetadataWarning, match="for each of 2 levels"):
        assert_pixels(tiffref.scan(path), {"image": BASE, "image_1": HALF})
    with pytest.raises(tiffref.errors.MalformedTiff, match="OverlapsXY"):
        tiffref.scan(path, strict=True)


ARGOS = (
    "<Argos.Scan.Metadata><ObjectiveMagnification>40</ObjectiveMagnification>"
    "<ZRange>4.0</ZRange></Argos.Scan.Metadata>"
)


@pytest.mark.parametrize("left_out", [0, 2, 4, 6])
def test_a_page_that_the_chain_of_an_argos_slide_skips(tmp_path, left_out):
    full, half = pixels(3, 80, 96, dtype="u1"), pixels(3, 40, 48, dtype="u1")
    ifds = [image(p, {254: int(n > 2)}, tile=TILE) for n, p in enumerate([*full, *half])]
    ifds += [image(SMALL), image(MACRO)]
    del ifds[left_out]
    ifds[0].tags[65000] = ARGOS
    path = tmp_path / "a.avs"
    write_tiff(path, ifds, form=BIG)
    full = assert_refused_without_page(path, full, left_out)
    with pytest.warns(tiffref.errors.MetadataWarning, match="expected the slide, its map"):
        assert_pixels(tiffref.scan(path, allow_holes=True), {"image": full})


def test_argos_focal_planes(tmp_path):
    full, half = pixels(3, 80, 96, dtype="u1"), pixels(3, 40, 48, dtype="u1")
    ifds = [
        image(plane, {**PER_CM, 65000: ARGOS} if n == 0 else {**PER_CM, 254: int(n > 2)}, tile=TILE)
        for n, plane in enumerate([*full, *half])
    ]
    ifds += [image(SMALL), image(MACRO)]
    path = tmp_path / "a.avs"
    write_tiff(path, ifds, form=BIG)
    references = scan(path)
    assert set(kinds(references)) == {"avs"}
    assert references.group["image"].dims == ("z", "y", "x")
    assert_pixels(references, {"image": full, "image_1": half, "map": SMALL, "macro": MACRO})
    assert references.group["image_1"].dims == ("z", "y_1", "x_1")
    assert scales_of(references) == {"z": UM(2), "y": UM(0.5), "x": UM(0.5)}
    assert attributes(references)["magnification"] == 40
