"""Confocal and electron microscopes, gels and detectors, made by hand as formats are known."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import tifffile
from ifds import BIG, As, image, write_tiff
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


def attributes(references):
    return references.group["image"].attributes


# ---- Olympus FluoView and SIS


def mm_header(name, dimensions, order="<"):
    """MM_Head of FluoView: its dimensions are (name, size, origin, step, unit), x first."""
    head = struct.pack(f"{order}hB257sIiIIiI", 0, 0, name, 0, 0, 0, 0, 0, 0)
    for one in [*dimensions, *[(b"", 1, 0.0, 0.0, b"")] * (10 - len(dimensions))]:
        head += struct.pack(f"{order}16sidd64s", *one)
    return As(1, head.ljust(2000, b"\0"))


def test_fluoview(tmp_path):
    data = pixels(3, 2, 20, 24)  # t, z
    header = mm_header(
        b"cells",
        [(b"X", 24, 0.0, 0.5, b"um"), (b"Y", 20, 0.0, 0.25, b"um"), (b"Z", 2, 0.0, 3.0, b"um"),
         (b"Time", 3, 0.0, 1.5, b"s")],
    )  # fmt: skip
    stamp = As(12, [0.0] * 8)
    pages = [
        image(plane, {34361: header, 34362: stamp} if n == 0 else {})
        for n, plane in enumerate(data.reshape(6, 20, 24))
    ]
    path = tmp_path / "a.tif"
    write_tiff(path, pages)
    references = scan(path)
    assert kinds(references) == ["fluoview"]
    assert references.group["image"].dims == ("t", "z", "y", "x")
    assert_pixels(references, {"image": data})
    assert scales_of(references) == {
        "t": (1.5, "second"), "z": UM(3), "y": UM(0.25), "x": UM(0.5)
    }  # fmt: skip
    assert attributes(references)["title"] == "cells"


SIS_INI = """[Dimension]\r
Z=2\r
Band=2\r
Time=1\r
[Info]\r
StepZ=1.5\r
UnitZ=\u00b5m\r
[Z]\r
ZPos1=0\r
ZPos2=1.5\r
[Time]\r
TimePos1=0\r
[Band]\r
BandName1=DAPI\r
BandName2=FITC"""


def test_olympus_sis(tmp_path):
    data = pixels(2, 2, 20, 24)  # z, c
    # the record that the tag points to, with one block of general data right behind it
    block = struct.pack("<10xhdd8xd2x34s32s", -6, 0.5, 0.25, 20.0, b"camera", b"")
    sis = struct.pack("<4s6x5h6x32sH", b"SIS0", 5, 4, 3, 2, 121, b"cells", 1)
    sis += struct.pack("<hhI", 1, 1, 8) + b"\0" * 64
    tags = {33560: As(4, sis, 32), 33471: As(2, SIS_INI.encode("latin-1") + b"\0")}
    pages = [
        image(plane, tags if n == 0 else {}) for n, plane in enumerate(data.reshape(4, 20, 24))
    ]
    path = tmp_path / "a.tif"
    write_tiff(path, pages, prefix=block)
    references = scan(path)
    assert kinds(references) == ["sis"]
    assert references.group["image"].dims == ("z", "c", "y", "x")
    assert_pixels(references, {"image": data})
    assert scales_of(references) == {"z": UM(1.5), "y": UM(0.25), "x": UM(0.5)}
    assert channel_names(references) == ["DAPI", "FITC"]
    assert attributes(references)["magnification"] == 20


DIMENSIONS = [(b"X", 24, 0.0, 0.5, b"um"), (b"Y", 20, 0.0, 0.25, b"um"), (b"Z", 2, 0.0, 3.0, b"um"),
              (b"Time", 3, 0.0, 1.5, b"s")]  # fmt: skip


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("n", "name", "dims"),
    [(3, b"Tme", "qzyx"), (2, b"", "tqyx"), (3, b"Z", ("z", "z2", "y", "x")), (2, b"Ch", None)],
)
def test_names_of_fluoview_dimensions(tmp_path, n, name, dims, order):
    found = [*DIMENSIONS]
    found[n] = (name, *found[n][1:])
    data = pixels(6, 20, 24)
    head = mm_header(b"cells", found, order)
    tags = {34361: head, 34362: As(12, [0.0] * 8)}
    path = tmp_path / "a.tif"
    pages = [image(p, tags if k == 0 else {}, order=order) for k, p in enumerate(data)]
    write_tiff(path, pages, order=order)
    if dims is None:
        references = tiffref.scan(path, strict=True)
        assert references.group["image"].dims == ("t", "c", "y", "x")
    else:
        with pytest.warns(tiffref.errors.MetadataWarning, match="unknown or repeated name"):
            references = tiffref.scan(path)
        assert references.group["image"].dims == tuple(dims)
        with pytest.raises(tiffref.errors.MalformedTiff, match="unknown or repeated name"):
            tiffref.scan(path, strict=True)
    assert_pixels(references, {"image": data.reshape(3, 2, 20, 24)})


@pytest.mark.parametrize("sizes", [(20, 24), (12, 40)])
def test_rows_and_columns_of_fluoview_that_are_not_those_of_pages(tmp_path, sizes):
    """The pixels would be in other rows."""
    found = [(b"X", sizes[0], *DIMENSIONS[0][2:]), (b"Y", sizes[1], *DIMENSIONS[1][2:])]
    data = pixels(6, 20, 24)
    tags = {34361: mm_header(b"cells", found + DIMENSIONS[2:]), 34362: As(12, [0.0] * 8)}
    path = tmp_path / "a.tif"
    write_tiff(path, [image(p, tags if k == 0 else {}) for k, p in enumerate(data)])
    with pytest.warns(tiffref.errors.MetadataWarning, match=r"in 6 pages of \(20, 24\)"):
        references = tiffref.scan(path)
    assert_pixels(references, {"image": data})


@pytest.mark.parametrize("n_pages", [3, 5])
@pytest.mark.parametrize("kind", ["sis", "fluoview"])
def test_counts_that_contradict_the_pages(tmp_path, kind, n_pages):
    """Too few pages are an error; all pages are given one after the other."""
    head = mm_header(b"", [(b"X", 24, 0.0, 1.0, b""), (b"Y", 20, 0.0, 1.0, b""),
                           (b"Z", 2, 0.0, 1.0, b""), (b"Time", 2, 0.0, 1.0, b"")])  # fmt: skip
    block = struct.pack("<10xhdd8xd2x34s32s", -6, 0.5, 0.25, 20.0, b"camera", b"")
    sis = struct.pack("<4s6x5h6x32sH", b"SIS0", 5, 4, 3, 2, 121, b"cells", 1)
    sis += struct.pack("<hhI", 1, 1, 8) + b"\0" * 64
    tags = {
        "sis": {33560: As(4, sis, 32), 33471: As(2, SIS_INI.encode("latin-1") + b"\0")},
        "fluoview": {34361: head, 34362: As(12, [0.0] * 8)},
    }[kind]
    data = pixels(n_pages, 20, 24)
    path = tmp_path / "a.tif"
    pages = [image(plane, tags if n == 0 else {}) for n, plane in enumerate(data)]
    write_tiff(path, pages, prefix=block)
    if n_pages < 4:
        with pytest.raises(tiffref.errors.MalformedTiff, match="fewer planes"):
            tiffref.scan(path)
    with pytest.warns(tiffref.errors.MetadataWarning, match=f"in {n_pages} pages"):
        references = tiffref.scan(path, allow_holes=True)
    assert kinds(references) == [kind]
    assert_pixels(references, {"image": data})
    with pytest.raises(tiffref.errors.MalformedTiff):
        tiffref.scan(path, strict=True, allow_holes=True)


@pytest.mark.parametrize("line", ["Z=2", "Band=2", "Time=1"])
@pytest.mark.parametrize("count", [10**9, 10**12])
def test_implausible_sis_counts_take_no_memory(tmp_path, line, count):
    """tifffile makes a list of as many bands, and an array of as many planes."""
    text = SIS_INI.replace(line, f"{line[:-1]}{count}", 1)
    sis = struct.pack("<4s6x5h6x32sH", b"SIS0", 5, 4, 3, 2, 121, b"cells", 0) + b"\0" * 64
    tags = {33560: As(4, sis, 30), 33471: As(2, text.encode("latin-1") + b"\0")}
    data = pixels(4, 20, 24)
    path = tmp_path / "a.tif"
    write_tiff(path, [image(plane, tags if n == 0 else {}) for n, plane in enumerate(data)])
    with pytest.warns(tiffref.errors.MetadataWarning, match=f"counts {count} planes"):
        references = tiffref.scan(path)
    assert_pixels(references, {"image": data})


# ---- NIH Image


def test_nih_image(tmp_path):
    data = pixels(3, 20, 24, dtype="u1")
    fields = dict.fromkeys(("XScale", "UnitsID", "SliceSpacing", "FrameInterval"), 0)
    fields |= {"FileID": b"IPICIMAG", "XScale": 4.0, "UnitsID": 1, "SliceSpacing": 8.0,
               "PixelAspectRatio": 1.0, "nSlices": 3}  # fmt: skip
    kind = np.dtype(tifffile.TIFF.NIH_IMAGE_HEADER).newbyteorder(">")
    record = np.zeros((), kind)
    for name, value in fields.items():
        record[name] = value
    pages = [
        image(plane, {43314: As(7, record.tobytes())} if n == 0 else {}, order=">")
        for n, plane in enumerate(data)
    ]
    path = tmp_path / "a.tif"
    write_tiff(path, pages, order=">")
    references = scan(path)
    assert kinds(references) == ["nih"]
    assert_pixels(references, {"image": data})
    assert scales_of(references) == {"y": UM(0.25), "x": UM(0.25)}


# ---- electrons and X-rays


def test_tvips(tmp_path):
    data = pixels(20, 24)
    first = np.zeros((), np.dtype(tifffile.TIFF.TVIPS_HEADER_V1))
    second = np.zeros((), np.dtype(tifffile.TIFF.TVIPS_HEADER_V2))
    first["Version"] = 2
    second["Magic"], second["TemMagnification"] = 0xAAAAAAAA, 50000
    second["PixelSizeX"] = second["PixelSizeY"] = 0.25
    path = tmp_path / "a.tif"
    write_tiff(path, [image(data, {37706: As(1, first.tobytes() + second.tobytes())})])
    references = scan(path)
    assert_pixels(references, {"image": data})
    assert scales_of(references) == {"y": (0.25, "nanometer"), "x": (0.25, "nanometer")}
    assert attributes(references)["magnification"] == 50000


def eer_frame(events, skip_bits=7, rows=16):
    """Encode electrons at (y, x, sub_y, sub_x): runs of empty pixels, then the place inside."""
    bits, at, limit = "", 0, (1 << skip_bits) - 1
    for y, x, sub_y, sub_x in sorted(events):
        run = y * rows + x - at
        while run >= limit:
            bits += f"{limit:0{skip_bits}b}"[::-1]
            run -= limit
        bits += f"{run:0{skip_bits}b}"[::-1] + f"{sub_x | sub_y << 2:04b}"[::-1]
        at = y * rows + x + 1
    for run in [limit] * ((rows * rows - at) // limit) + [(rows * rows - at) % limit]:
        bits += f"{run:0{skip_bits}b}"[::-1]
    bits = bits.ljust(-(-len(bits) // 64) * 64 + 64, "1")
    return bytes(int(bits[n : n + 8][::-1], 2) for n in range(0, len(bits), 8))


def test_eer_frames(tmp_path):
    xml = (
        '<metadata><item name="exposureTime" unit="s">2.5</item>'
        '<item name="totalDose" unit="e/A2">40.0</item></metadata>'
    )
    events = [[(0, 3, 1, 2), (7, 7, 0, 0)], [(15, 14, 3, 3)], [(2, 2, 2, 1), (9, 1, 0, 3)]]
    data = np.zeros((3, 16, 16), "u1")
    for frame, found in zip(data, events, strict=True):
        for y, x, _, _ in found:
            frame[y, x] += 1
    pages = [
        image(
            frame, {259: 65001, 65001: As(7, xml.encode())}, encode=lambda _, f=found: eer_frame(f)
        )
        for frame, found in zip(data, events, strict=True)
    ]
    path = tmp_path / "a.eer"
    write_tiff(path, pages, form=BIG)
    references = scan(path)
    assert kinds(references) == ["eer"]
    assert_like_tifffile(path, references)
    with tifffile.TiffFile(path) as tif:
        expected = tif.asarray()
    assert_pixels(references, {"image": expected})
    np.testing.assert_array_equal(expected != 0, data != 0)
    assert attributes(references)["exposure_time"] == 2.5


def test_pilatus(tmp_path):
    data = pixels(20, 24, dtype="i4") - 100
    text = "# Pixel_size 172e-6 m x 172e-6 m\r\n# Exposure_time 0.5 s\r\n"
    path = tmp_path / "a.tif"
    write_tiff(path, [image(data, {270: text, 305: "TVX TIFF v 1.3"})])
    references = scan(path)
    assert_pixels(references, {"image": data})
    assert scales_of(references) == {"y": UM(172), "x": UM(172)}
    assert attributes(references)["exposure_time"] == 0.5


# ---- Molecular Dynamics gels


@pytest.mark.parametrize("page", [0, 1])
@pytest.mark.parametrize("kind", [2, 128])
def test_md_gel(tmp_path, page, kind):
    """Samples are linear, or square roots; the tags may be on the page behind."""
    data = pixels(2, 20, 24)
    scale = As(5, [1 / 4])
    tags = {33445: As(4, kind), 33446: scale, 33452: "Counts"}
    pages = [image(plane, tags if n == page else {}) for n, plane in enumerate(data)]
    path = tmp_path / "a.gel"
    write_tiff(path, pages)
    references = scan(path)
    assert kinds(references)[0] == "mdgel"
    first = data[0].astype("f4")
    expected = first**2 * np.float32(0.25) if kind == 2 else first * np.float32(0.25)
    assert_pixels(references, {"image": expected})
    assert attributes(references)["units"] == "Counts"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "tags", [{33445: As(4, 3)}, {33446: As(5, [0])}, {33446: As(3, 1)}, {33445: None}], ids=str
)
def test_a_gel_without_calibration_has_the_stored_samples(tmp_path, tags, order):
    data = pixels(20, 24)
    tags = {33445: As(4, 2), 33446: As(5, [1 / 4]), 33452: "Counts"} | tags
    tags = {code: value for code, value in tags.items() if value is not None}
    path = tmp_path / "a.gel"
    write_tiff(path, [image(data, tags, order=order)], order=order)
    with pytest.warns(tiffref.errors.MetadataWarning):
        references = tiffref.scan(path)
    assert_pixels(references, {"image": data})
    with pytest.raises(tiffref.errors.MalformedTiff):
        tiffref.scan(path, strict=True)


# ---- FLIMage


@pytest.mark.skipif(not hasattr(tifffile.TiffFile, "flimage_metadata"), reason="an old tifffile")
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize(
    ("layout", "axes", "shape"),
    [("Linear", "cyxh", (2, 20, 24, 4)), ("ChTime_YX", "yxch", (20, 24, 2, 4)),
     ("ChYX_Time", "hcyx", (4, 2, 20, 24))],
)  # fmt: skip
def test_flimage_pages_are_arrays_of_more_axes(tmp_path, layout, axes, shape, compression):
    data = pixels(3, *shape)
    text = (
        "FLIMimage parameters\r\nState.Acq.pixelsPerLine = 24\r\nState.Acq.linesPerFrame = 20\r\n"
        "State.Acq.nChannels = 2\r\nState.Spc.spcData.n_dataPoint = 4\r\n"
        "State.Acq.acquisition = [True, True]\r\nState.Acq.acqFLIMA = [True, True]\r\n"
        f"State.Acq.field_of_view = [12.0, 5.0]\r\nFormat = {layout}\r\n"
    )
    encode = {1: None, 8: lambda part: zlib.compress(part.tobytes())}[compression]
    tags = {270: text, 259: compression}
    pages = [image(part.reshape(20, -1), tags, encode=encode) for part in data]
    path = tmp_path / "a.tif"
    write_tiff(path, pages)
    references = scan(path)
    assert references.group["image"].dims == ("i", *axes)
    assert_pixels(references, {"image": data})
    assert scales_of(references) == {"y": UM(0.25), "x": UM(0.5)}


@pytest.mark.skipif(not hasattr(tifffile.TiffFile, "flimage_metadata"), reason="an old tifffile")
@pytest.mark.parametrize("wrong", ["linesPerFrame = 21", "nChannels = 2", "pixelsPerLine = x"])
def test_counts_of_flimage_that_are_not_those_of_pages(tmp_path, wrong):
    data = pixels(3, 20, 24 * 4)
    text = (
        "FLIMimage parameters\r\nState.Acq.pixelsPerLine = 24\r\nState.Acq.linesPerFrame = 20\r\n"
        "State.Acq.nChannels = 1\r\nState.Spc.spcData.n_dataPoint = 4\r\n"
        "State.Acq.field_of_view = [48.0, 40.0]\r\n"
    )
    path = tmp_path / "a.tif"
    write_tiff(path, [image(one, {270: f"{text}State.Acq.{wrong}\r\n"}) for one in data])
    with pytest.warns(tiffref.errors.MetadataWarning, match="counts of FLIMage do not match"):
        references = tiffref.scan(path)
    assert_pixels(references, {"image": data})
    assert scales_of(references) == {}
    with pytest.raises(tiffref.errors.MalformedTiff, match="counts of FLIMage"):
        tiffref.scan(path, strict=True)


@pytest.mark.skipif(not hasattr(tifffile.TiffFile, "flimage_metadata"), reason="an old tifffile")
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("zoom", "size"), [("1", 2), ("2", 1), ("0.5", 4), ("-1", None)])
def test_the_pixel_size_of_flimage_depends_on_its_zoom(tmp_path, zoom, size, order):
    data = pixels(20, 24, 4)
    text = (
        "FLIMimage parameters\r\nState.Acq.pixelsPerLine = 24\r\nState.Acq.linesPerFrame = 20\r\n"
        "State.Acq.nChannels = 1\r\nState.Spc.spcData.n_dataPoint = 4\r\n"
        "State.Acq.acquisition = [True]\r\nState.Acq.acqFLIMA = [True]\r\n"
        f"State.Acq.field_of_view = [48.0, 40.0]\r\nState.Acq.zoom = {zoom}\r\n"
        "Format = Linear\r\n"
    )
    path = tmp_path / "a.tif"
    write_tiff(path, [image(data.reshape(20, -1), {270: text}, order=order)], order=order)
    if size is None:
        with pytest.warns(tiffref.errors.MetadataWarning, match=r"zoom.*not a valid size"):
            assert scales_of(tiffref.scan(path)) == {}
        return
    references = scan(path)
    assert scales_of(references) == {"y": UM(size), "x": UM(size)}
    assert attributes(references)["zoom"] == float(zoom)


# ---- MetaMorph MetaSeries


def metaseries_xml(plane, root=None):
    """Properties {name: (type, value)} of the plane, and of the document."""

    def rows(found, element):
        return "".join(f'<{element} id="{n}" type="{t}" value="{v}"/>' for n, (t, v) in found)

    body = rows((root or {}).items(), "custom-prop")
    return f"<MetaData>{body}<PlaneInfo>{rows(plane.items(), 'prop')}</PlaneInfo></MetaData>"


@pytest.mark.parametrize("order", ["<", ">"])
def test_imagexpress(tmp_path, order):
    plane = {
        "spatial-calibration-state": ("bool", "on"), "spatial-calibration-x": ("float", 0.5),
        "spatial-calibration-y": ("float", 0.5), "spatial-calibration-units": ("string", "um"),
        "image-name": ("string", "DAPI"), "stage-label": ("string", "G08 : Site 5"),
        "acquisition-time-local": ("time", "20121015 15:22:02.453"),
        "wavelength": ("float", 447), "stage-position-x": ("float", -12.5),
    }  # fmt: skip
    root = {"_MagNA_": ("float", 0.75), "_MagSetting_": ("string", "20X"),
            "Plate Name": ("string", "assay 7")}  # fmt: skip
    tags = {270: metaseries_xml(plane, root), 305: "MetaSeries"}
    path = tmp_path / "a.tif"
    write_tiff(path, [image(pixels(20, 24), tags, order=order)], order=order)
    references = scan(path)
    found = attributes(references)
    expected = {
        "numerical_aperture": 0.75, "wavelength": 447.0, "wavelength_unit": "nanometer",
        "plate": "assay 7", "well": "G08", "site": 5, "magnification_setting": "20X",
        "stage_position_x": -12.5, "time_coverage_start": "2012-10-15T15:22:02.453",
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected
    time = references.group["time"]
    assert time.attributes["units"] == "milliseconds since 1970-01-01"
    moment = np.datetime64("2012-10-15T15:22:02.453", "ms").astype("i8")
    assert int.from_bytes(time.manifest.inlined[0], "little") == moment
    assert "no time zone" in time.attributes["comment"]
    assert scales_of(references) == {"y": UM(0.5), "x": UM(0.5)}


@pytest.mark.parametrize(
    ("plane", "key"),
    [
        ({"acquisition-time-local": ("time", "20129915 15:22:02.453")}, "acquisition-time-local"),
        ({"wavelength": ("string", "green")}, "wavelength"),
        ({"spatial-calibration-units": ("string", "um"), "spatial-calibration-x": ("float", "nan")},
         "spatial-calibration-x"),
    ],
)  # fmt: skip
def test_invalid_metaseries_properties_are_reported(tmp_path, plane, key):
    path = tmp_path / "a.tif"
    write_tiff(path, [image(pixels(20, 24), {270: metaseries_xml(plane), 305: "MetaSeries"})])
    with pytest.warns(tiffref.errors.MetadataWarning, match=key):
        references = tiffref.scan(path)
    assert "time" not in references.group.children
    assert scales_of(references) == {}


def test_metaseries(tmp_path):
    data = pixels(20, 24)
    props = {
        "spatial-calibration-state": ("bool", "on"), "spatial-calibration-x": ("float", 0.5),
        "spatial-calibration-y": ("float", 0.25), "spatial-calibration-units": ("string", "um"),
        "image-name": ("string", "DAPI"),
    }  # fmt: skip
    xml = "".join(f'<prop id="{n}" type="{t}" value="{v}"/>' for n, (t, v) in props.items())
    text = f"<MetaData><PlaneInfo>{xml}</PlaneInfo></MetaData>"
    path = tmp_path / "a.tif"
    write_tiff(path, [image(data, {270: text, 305: "MetaSeries"})])
    references = scan(path)
    assert_pixels(references, {"image": data})
    assert scales_of(references) == {"y": UM(0.25), "x": UM(0.5)}
    assert channel_names(references) == ["DAPI"]


# ---- sparse files of GDAL


@pytest.mark.parametrize("nodata", [None, "7"])
def test_sparse_tiles_are_nodata(tmp_path, nodata):
    data = pixels(64, 64)
    one = image(data, {42113: nodata} if nodata else {}, tile=(16, 16))
    stored = list(one.segments)
    for n in (0, 5, 15):
        stored[n] = b""
        y, x = 16 * (n // 4), 16 * (n % 4)
        data[y : y + 16, x : x + 16] = int(nodata or 0)
    one.segments = stored
    path = tmp_path / "a.tif"
    write_tiff(path, [one])
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tag = tif.pages.first.tags[324]
        tag.overwrite([0 if n in (0, 5, 15) else value for n, value in enumerate(tag.value)])
    references = scan(path)
    assert_pixels(references, {"image": data})
    assert_like_tifffile(path, references)
    manifest = references.group["image"].manifest
    assert np.flatnonzero(manifest.is_missing).tolist() == [0, 5, 15]
    assert references.group["image"].fill_value == (int(nodata) if nodata else None)


def test_a_jbig_image_is_refused_by_name(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, [image(pixels(20, 24, dtype="u1"), {259: 34661})])
    with pytest.raises(tiffref.errors.UnsupportedTiff, match="JBIG cannot be decoded"):
        tiffref.scan(path)
