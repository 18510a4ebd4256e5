"""Stacks of microscopes, made by hand as their formats are described.

Pixels by four ways, axes, sizes and names.
"""

from __future__ import annotations

import contextlib
import json
import struct
import warnings

import numpy as np
import pytest
import tifffile
from ifds import BIG, As, Ifd, image, write_tiff
from ways import UM, assert_pixels, channel_names, kinds, pixels, scales_of, scan

import tiffref
import zarr
from tiffref.errors import MetadataWarning, TruncationWarning
from tiffref.zarr import ZarrTiffStore

# ---- Zeiss LSM


def lsm_info(shape, scan_type, *, colors=0, stamps=0):
    """The structure CZ_LSMINFO, as LSM 2.0 has it."""
    sizes = [shape.get(axis, 1) for axis in "XYZCT"]
    info = struct.pack("<I9i", 50350412, 152, *sizes, 1, 8, 8)
    info += struct.pack("<6dHHI", 1e-7, 1e-7, 2e-6, 0, 0, 0, scan_type, 0, 0)
    info += struct.pack("<4Id8I", 0, 0, 0, colors, 0.0, 0, 0, 0, stamps, 0, 0, 0, 0)
    return As(1, info)


def lsm_blocks(names, stamps):
    """ChannelColors and TimeStamps, to stand at bytes 8 and 8 + 256."""
    spelled = b"".join(struct.pack("<I", len(n) + 1) + n.encode() + b"\0" for n in names)
    colors = bytes(4 * len(names))
    at = 24 + len(colors)
    block = (
        struct.pack("<6I", at + len(spelled), len(names), len(names), 24, at, 0) + colors + spelled
    )
    n = len(stamps)
    return block.ljust(256, b"\0") + struct.pack(f"<ii{n}d", 8 + 8 * n, n, *stamps)


@pytest.mark.parametrize("compression", [1, 5])
def test_lsm_with_thumbnails_between_its_pages(tmp_path, compression):
    imagecodecs = pytest.importorskip("imagecodecs")
    data = pixels(3, 2, 3, 20, 24, dtype="u1")  # t, z, c, y, x
    small = pixels(6, 3, 8, 8, dtype="u1")
    info = lsm_info({"X": 24, "Y": 20, "Z": 2, "C": 3, "T": 3}, 6, colors=8, stamps=264)
    encode = {1: None, 5: lambda part: imagecodecs.lzw_encode(part.tobytes())}[compression]
    pages = []
    for n, plane in enumerate(data.reshape(6, 3, 20, 24)):
        tags = {259: compression, **({34412: info} if n == 0 else {})}
        pages.append(image(plane, tags, encode=encode, is_planar=True))
        pages.append(image(small[n], {254: 1, 262: 2}, is_planar=True))
    path = tmp_path / "a.lsm"
    write_tiff(path, pages, prefix=lsm_blocks(["Ch1", "Ch2", "Ch3"], [5.0, 6.0, 8.0]))
    references = scan(path)
    assert kinds(references) == ["lsm", "lsm"]
    assert references.group["image"].dims == ("t", "z", "c", "y", "x")
    assert_pixels(references, {"image": data, "thumbnail": small.reshape(3, 2, 3, 8, 8)})
    assert references.group["thumbnail"].attributes["role"] == "thumbnail"
    assert channel_names(references) == ["Ch1", "Ch2", "Ch3"]
    assert scales_of(references) == {"t": (1, "second"), "z": UM(2), "y": UM(0.1), "x": UM(0.1)}


def test_lsm_samples_side_by_side(tmp_path):
    data = pixels(3, 20, 24, 3, dtype="u1")  # t, y, x, c
    info = lsm_info({"X": 24, "Y": 20, "C": 3, "T": 3}, 3)
    pages = []
    for n, plane in enumerate(data):
        pages.append(image(plane, {34412: info} if n == 0 else {}))
        pages.append(image(pixels(8, 8, dtype="u1"), {254: 1}))
    path = tmp_path / "a.lsm"
    write_tiff(path, pages)
    references = scan(path)
    assert references.group["image"].dims == ("t", "y", "x", "c")
    assert_pixels(references, {"image": data})


@pytest.mark.filterwarnings("ignore::tiffref.errors.MetadataWarning")
@pytest.mark.parametrize("page", [0, 2, 4])
@pytest.mark.parametrize(
    "tags", [{278: 6}, {259: 9999}, {257: 19}, {257: 4_000_000_000}, {284: 2, 277: 2}], ids=str
)
def test_lsm_pages_that_differ_are_not_read_as_the_first(tmp_path, tags, page):
    """tifffile takes all pages to be like the first one."""
    info = lsm_info({"X": 24, "Y": 20, "Z": 3}, 0)
    small = pixels(3, 8, 8, dtype="u1")
    pages = []
    for n, plane in enumerate(pixels(3, 20, 24)):
        pages.append(image(plane, {34412: info} if n == 0 else {}, rows=7))
        pages.append(image(small[n], {254: 1}))
    pages[page].tags |= tags
    path = tmp_path / "a.lsm"
    write_tiff(path, pages)
    with pytest.warns(TruncationWarning, match="left out"):
        references = tiffref.scan(path)
    assert_pixels(references, {"thumbnail": small})
    with pytest.raises(tiffref.errors.TiffrefError):
        tiffref.scan(path, strict=True)


def test_lsm_without_rows(tmp_path):
    info = lsm_info({"X": 24, "Y": 0, "Z": 2}, 0)
    full, small = pixels(20, 24), pixels(8, 8, dtype="u1")
    path = tmp_path / "a.lsm"
    write_tiff(path, [image(full, {34412: info}), image(small, {254: 1})] * 2)
    with pytest.warns(tiffref.errors.MetadataWarning, match="Y=0.* in 2 pages"):
        references = tiffref.scan(path)
    assert_pixels(references, {"image": np.stack([full] * 2), "thumbnail": np.stack([small] * 2)})


@pytest.mark.parametrize("n_pages", [1, 2, 5])
def test_lsm_whose_pages_end_early(tmp_path, n_pages):
    info = lsm_info({"X": 24, "Y": 20, "Z": 3}, 0)
    full, small = pixels(3, 20, 24), pixels(3, 8, 8, dtype="u1")
    pages = [image(full[0], {34412: info}), image(small[0], {254: 1})]
    pages += [image(full[1]), image(small[1], {254: 1}), image(full[2])]
    path = tmp_path / "a.lsm"
    write_tiff(path, pages[:n_pages])
    with pytest.raises(tiffref.errors.TiffrefError):
        tiffref.scan(path, strict=True)
    with pytest.warns(tiffref.errors.MetadataWarning, match="does not match"):
        references = tiffref.scan(path, allow_holes=True)
    found = ZarrTiffStore(references)[...].reshape(-1, 20, 24)
    np.testing.assert_array_equal(found, full[: (n_pages + 1) // 2])


# ---- MetaMorph STK


def uic_tags(n_planes, distance, created):
    """UIC1Tag, whose values are at byte 8 of the file, and UIC2Tag; and those values."""
    uic1 = struct.pack("<10I", 3, 1, 4, 8, 5, 16, 6, 24, 7, 31)  # calibrated; sizes; unit; name
    values = struct.pack("<4II3sI5s", 13, 100, 26, 100, 3, b"um\0", 5, b"neat\0")
    rows = [(*distance, 2451545, created[n], 2451545, created[n]) for n in range(n_planes)]
    uic2 = struct.pack(f"<{6 * n_planes}I", *np.ravel(rows).tolist())
    return {33628: As(4, uic1, 5), 33629: As(5, uic2, n_planes)}, values


@pytest.mark.parametrize("axis", ["z", "t", "i"])
def test_stk_planes_behind_one_directory(tmp_path, axis):
    data = pixels(5, 20, 24)
    created = [1000 * n * (axis == "t") for n in range(5)]
    tags, values = uic_tags(5, (3, 2) if axis == "z" else (0, 1), created)
    one = image(data[0], tags, rows=7)
    one.lengths = [len(strip) for strip in one.segments]
    one.segments = [*one.segments[:-1], one.segments[-1] + data[1:].tobytes()]
    path = tmp_path / "a.stk"
    write_tiff(path, [one], prefix=values)
    references = scan(path)
    assert kinds(references) == ["stk"]
    assert references.group["image"].dims == (axis, "y", "x")
    assert_pixels(references, {"image": data})
    expected = {"y": UM(0.26), "x": UM(0.13)}
    expected |= {"z": {"z": UM(1.5)}, "t": {"t": (1, "second")}, "i": {}}[axis]
    assert scales_of(references) == expected
    assert references.group["image"].attributes["title"] == "neat"


def uic4(stage, labels):
    """UIC4Tag: an odd record, positions of the stage (signed, in thousandths), and labels."""
    rows = [round(1000 * n) if k % 2 == 0 else 1000 for xy in stage for k, n in
            enumerate((xy[0], 1, xy[1], 1))]  # fmt: skip
    spelled = b"".join(struct.pack("<I", len(n) + 1) + n.encode() + b"\0" for n in labels)
    data = struct.pack("<HI", 18, 7) + struct.pack(f"<H{len(rows)}i", 28, *rows)
    return As(4, data + struct.pack("<H", 37) + spelled + bytes(2), len(stage))


def test_stk_times_stage_wavelength_and_aperture(tmp_path):
    data = pixels(3, 20, 24)
    tags, _ = uic_tags(3, (0, 1), [1000, 2500, 4750])
    name, value = b"_MagNA_", struct.pack("<II", 75, 100)
    optics = bytes([len(name)]) + name + struct.pack("<IB", 0, 1) + value
    # CreateTime (16): julian day and milliseconds; PlaneProperty (49): 4 bytes, then the property
    values = struct.pack("<4II3sI5s", 13, 100, 26, 100, 3, b"um\0", 5, b"neat\0").ljust(40, b"\0")
    values += struct.pack("<2I", 2451545, 45_296_789) + bytes(4) + optics
    pairs = (3, 1, 4, 8, 5, 16, 6, 24, 7, 31, 16, 48, 49, 56)
    tags[33628] = As(4, struct.pack("<14I", *pairs), 7)
    tags[33630] = As(5, struct.pack("<6I", *(525, 1) * 3), 3)
    tags[33631] = uic4([(-12.5, 3.25)] * 3, ["B02 : Site 1"] * 3)
    one = image(data[0], tags, rows=20)
    one.lengths = [len(one.segments[0])]
    one.segments = [one.segments[0] + data[1:].tobytes()]
    path = tmp_path / "a.stk"
    write_tiff(path, [one], prefix=values)
    references = scan(path)
    assert_pixels(references, {"image": data})
    expected = {
        "numerical_aperture": 0.75, "wavelength": 525.0, "wavelength_unit": "nanometer",
        "stage_position_x": -12.5, "stage_position_y": 3.25, "stage_label": "B02 : Site 1",
        "well": "B02", "site": 1, "time_coverage_start": "2000-01-02T12:34:56.789",
    }  # fmt: skip
    found = references.group["image"].attributes
    assert {key: found.get(key) for key in expected} == expected
    times = tiffref.zarr.ZarrTiffStore(
        tiffref.References(references.group.with_children({"t": references.group["t"]}))
    )
    np.testing.assert_array_equal(times[...], [0, 1.5, 3.75])


def write_stk(path, data, tags, *, is_first=True):
    """Write planes behind one directory, or before it."""
    one = image(data[0], tags, rows=7, is_pixels_first=is_first)
    one.lengths = [len(strip) for strip in one.segments]
    one.segments = [*one.segments[:-1], one.segments[-1] + data[1:].tobytes()]
    write_tiff(path, [one])


@pytest.mark.parametrize("n_lost", [1, 960, 961])
def test_stk_planes_that_are_cut_off(tmp_path, n_lost):
    data = pixels(4, 20, 24)
    path = tmp_path / "a.stk"
    tags = {33628: As(4, bytes(8), 1), 33629: As(5, bytes(24 * 4), 4)}
    write_stk(path, data, tags, is_first=False)
    path.write_bytes(path.read_bytes()[:-n_lost])
    with pytest.raises(tiffref.errors.MalformedTiff, match="fewer planes than it declares"):
        tiffref.scan(path)
    references = tiffref.scan(path, allow_holes=True)
    n_missing = -(-n_lost // 960)
    data[4 - n_missing :] = 0
    assert_pixels(references, {"image": data})
    assert references.series[0]["levels"][0]["missing_pages"] == n_missing


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("left", [{33629}, {33630}, {33628, 33631}, {33628}])
def test_stk_planes_whose_tags_are_lost(tmp_path, left, is_first):
    """tifffile goes by UIC1 and UIC2."""
    data = pixels(4, 20, 24)
    tags = {33628: As(4, bytes(8), 1), 33629: As(5, bytes(24 * 4), 4),
            33630: As(5, bytes(8 * 4), 4), 33631: As(4, bytes(16), 4)}  # fmt: skip
    path = tmp_path / "a.stk"
    write_stk(path, data, {code: tags[code] for code in left}, is_first=is_first)
    what = "room for 4 planes" if left == {33628} else "1 of 4 MetaMorph planes"
    with pytest.warns(tiffref.errors.MetadataWarning, match=what):
        references = tiffref.scan(path, allow_holes=True)
    assert_pixels(references, {"image": data[0]})
    with pytest.raises(tiffref.errors.MalformedTiff):
        tiffref.scan(path, strict=left == {33628})


@pytest.mark.parametrize("tags", [{256: 23}, {257: 19}, {257: 14}], ids=str)
def test_stk_planes_of_another_size_than_their_strips(tmp_path, tags):
    """The second plane would be read from the end of the first."""
    uic = {33628: As(4, bytes(8), 1), 33629: As(5, bytes(24 * 4), 4)}
    path = tmp_path / "a.stk"
    write_stk(path, pixels(4, 20, 24), uic | tags)
    with pytest.raises(tiffref.errors.MalformedTiff, match="does not match their size"):
        tiffref.scan(path)


# ---- Bruker PrairieView


STUB = struct.pack("<8I", 3, 1, 4, 8, 5, 8, 6, 16)
"""UIC1 of PrairieView: one calibrated plane, 99/1 "microns" (values at byte 8)."""
PLACEHOLDER = struct.pack("<2II8s", 99, 1, 8, b"microns\0")


def write_prairieview(folder, companion="run.companion.ome"):
    """Write two members that name the file with their metadata, and that file."""
    names = ["run_c0.ome.tif", "run_c1.ome.tif"]
    data = pixels(2, 3, 20, 24)
    blocks = "".join(
        f'<TiffData FirstC="{c}" PlaneCount="3"><UUID FileName="{name}">urn:uuid:{c}</UUID>'
        "</TiffData>"
        for c, name in enumerate(names)
    )
    text = (
        '<OME><Image ID="Image:0"><Pixels DimensionOrder="XYZCT" SizeX="24" SizeY="20" SizeZ="3" '
        'SizeC="2" SizeT="1" Type="uint16" PhysicalSizeX="0.294118" PhysicalSizeY="0.294118">'
        f'<Channel Name="Ch1"/><Channel Name="Ch2"/>{blocks}</Pixels></Image></OME>'
    )
    member = f'<OME><BinaryOnly MetadataFile="{companion}" UUID="urn:uuid:9"/></OME>'
    for name, planes in zip(names, data, strict=True):
        tags = {270: member, 33628: As(4, STUB, 4)}
        pages = [image(plane, tags if n == 0 else {}) for n, plane in enumerate(planes)]
        write_tiff(folder / name, pages, prefix=PLACEHOLDER)
    return names, data, text


def test_a_member_takes_its_metadata_from_the_file_that_it_names(tmp_path):
    names, data, text = write_prairieview(tmp_path)
    (tmp_path / "run.companion.ome").write_text(text)
    for name, planes, channel in zip(names, data, ("Ch1", "Ch2"), strict=True):
        references = tiffref.scan(tmp_path / name)
        assert_pixels(references, {"image": planes})
        assert scales_of(references) == {"y": UM(0.294118), "x": UM(0.294118)}
        assert channel_names(references) == [channel]
        page = tiffref.scan(tmp_path / name, key=1, strict=True)
        assert_pixels(page, {"image": planes[1]})
        assert scales_of(page) == {"y": UM(0.294118), "x": UM(0.294118)}


@pytest.mark.parametrize("companion", ["run.companion.ome", "../secret.ome", "/etc/passwd"])
def test_a_member_without_that_file_has_no_metadata_rather_than_wrong_one(tmp_path, companion):
    folder = tmp_path / "set"
    folder.mkdir()
    names, data, text = write_prairieview(folder, companion)
    (tmp_path / "secret.ome").write_text(text)
    for key, planes in ((None, data[0]), (1, data[0][1])):
        with pytest.warns(tiffref.errors.MetadataWarning, match="could not be read") as caught:
            references = tiffref.scan(folder / names[0], key=key)
        assert len(caught) == 1
        assert_pixels(references, {"image": planes})
        assert scales_of(references) == {}


def test_members_with_resolution_0_over_0_are_read_silently(tmp_path):
    """PrairieView gives no distance of planes."""
    names = [f"{n}.ome.tif" for n in range(3)]
    blocks = "".join(
        f'<TiffData FirstT="{n}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{n}</UUID>'
        "</TiffData>" for n, name in enumerate(names)
    )  # fmt: skip
    text = (
        '<Image><Pixels DimensionOrder="XYCZT" SizeX="24" SizeY="20" SizeZ="1" SizeC="1" '
        f'SizeT="3" Type="uint16">{blocks}</Pixels></Image></OME>'
    )
    data = pixels(3, 20, 24)
    for n, name in enumerate(names):
        tags = {33628: As(4, bytes(8), 1), 33629: As(5, bytes(24), 1)}
        tags[270] = f'<OME UUID="urn:uuid:{n}">{text}'
        write_tiff(tmp_path / name, [image(data[n], tags)])
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")  # as errors, tifffile would catch them
        references = tiffref.scan(tmp_path / names[0])
    assert found == []
    assert_pixels(references, {"image": data})


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_member_may_name_a_tiff(tmp_path, order):
    names, data, text = write_prairieview(tmp_path, "first.ome.tif")
    first = image(pixels(20, 24), {270: text}, order=order)
    write_tiff(tmp_path / "first.ome.tif", [first], order=order)
    references = tiffref.scan(tmp_path / names[1])
    assert scales_of(references) == {"y": UM(0.294118), "x": UM(0.294118)}
    assert_pixels(references, {"image": data[1]})


# ---- ScanImage


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("end", ["\r", "\n"])
def test_scanimage_3(tmp_path, order, end):
    state = ["configName='a'", "acq.frameRate=15.625", "acq.zoomFactor=2.5",
             "acq.numberOfChannelsSave=2", "acq.savingChannel1=1", "acq.savingChannel2=0",
             "acq.savingChannel3=1",
             "internal.triggerTimeString='6/20/2014 13:26:02.234'"]  # fmt: skip
    text = "".join(f"state.{line}{end}" for line in state)
    data = pixels(4, 20, 24)
    path = tmp_path / "a.tif"
    write_tiff(path, [image(plane, {270: text}, order=order) for plane in data], order=order)
    references = scan(path)
    assert_pixels(references, {"image": data})
    found = references.group["image"].attributes
    assert (found["frame_rate"], found["zoom"]) == (15.625, 2.5)
    assert found["channel_names"] == ["Channel 1", "Channel 3"]
    assert found["time_coverage_start"] == "2014-06-20T13:26:02.234"


FRAME_DATA = """SI.hChannels.channelSave = [1;2]
SI.hChannels.channelName = {'green' 'red'}
SI.hStackManager.framesPerSlice = 2
SI.hStackManager.stackZStepSize = 5
SI.hRoiManager.scanFrameRate = 20
SI.hRoiManager.pixelsPerLine = 24
SI.hRoiManager.linesPerFrame = 20
SI.hRoiManager.imagingFovUm = [-12 -20;12 -20;12 20;-12 20]"""
"""Of ScanImage 2016 and later; it stands between the header and the first directory, and in the
tag Software of each directory."""


def test_scanimage_bigtiff(tmp_path):
    data = pixels(3, 2, 2, 20, 24, dtype="i2")  # z, t, c
    parts = FRAME_DATA.encode() + b"\0", json.dumps({"RoiGroups": {}}).encode() + b"\0"
    prefix = struct.pack("<4I", 0x07030301, 3, *map(len, parts)) + b"".join(parts)
    pages = [
        image(plane, {270: f"frameNumbers = {n}\n", 305: FRAME_DATA})
        for n, plane in enumerate(data.reshape(-1, 20, 24))
    ]
    path = tmp_path / "a.tif"
    write_tiff(path, pages, form=BIG, prefix=prefix)
    references = scan(path)
    assert kinds(references) == ["scanimage"]
    assert references.group["image"].dims == ("z", "t", "c", "y", "x")
    assert_pixels(references, {"image": data})
    assert channel_names(references) == ["green", "red"]
    assert scales_of(references) == {
        "z": UM(5), "t": (pytest.approx(0.05), "second"), "y": UM(2), "x": UM(1)
    }  # fmt: skip


@pytest.mark.parametrize("gap", [0, 6])
def test_old_scanimage_with_unevenly_spaced_directories(tmp_path, gap):
    """tifffile computes where the pages of such files are, from the first ones."""
    data = pixels(9, 20, 24)
    text = "state.configPath = 'x'"
    pages = [image(plane, {270: text + (n > 6) * gap * " "}) for n, plane in enumerate(data)]
    path = tmp_path / "a.tif"
    write_tiff(path, pages)
    references = scan(path)
    assert references.group["image"].dims == ("i", "y", "x")
    assert_pixels(references, {"image": data})


# ---- Micro-Manager


def write_mmstack(path, planes, summary, *, order="<", text=None):
    """Write planes {(c, z, t, p): pixels}: 13 tags, then the pixels, as Micro-Manager does."""
    head = json.dumps(summary).encode()
    pages = []
    for plane in planes.values():
        one = image(plane, {51123: As(2, b"{}\0\0\0\0\0\0")}, order=order, is_pixels_first=True)
        one.tags |= {270: text} if text else {282: 1}
        pages.append(one)
    assert 2 + 12 * (len(pages[0].tags) + 2) + 4 == 162
    offsets = write_tiff(path, pages, order=order, prefix=bytes(32) + head)
    index_at = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8)
        file.write(struct.pack(f"{order}8I", 54773648, index_at, 0, 0, 0, 0, 2355492, len(head)))
        file.seek(index_at)
        file.write(struct.pack(f"{order}II", 3453623, len(planes)))
        for where, at in zip(planes, offsets, strict=True):
            file.write(struct.pack(f"{order}5I", *where, at))
        file.write(bytes(162))


SUMMARY = {
    "MicroManagerVersion": "1.4", "Frames": 2, "Slices": 2, "Channels": 2, "Positions": 1,
    "TimeFirst": True, "SlicesFirst": False, "PixelSize_um": 0.5, "z-step_um": 2.0,
    "Interval_ms": 3000.0, "ChNames": ["DAPI", "FITC"], "ChColors": [255, -16711936],
    "Prefix": "run",
}  # fmt: skip


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("n_lost", [0, 1])
def test_micromanager_stack(tmp_path, order, n_lost):
    data = pixels(2, 2, 2, 20, 24)  # t, c, z
    # the order of the pages in the file is that of acquisition, not of the array
    places = [(c, z, t, 0) for t in (1, 0) for c in range(2) for z in range(2)]
    for c, z, t, _ in places[:n_lost]:
        data[t, c, z] = 0
    planes = {place: data[place[2], place[0], place[1]] for place in places[n_lost:]}
    path = tmp_path / "run_MMStack.ome.tif"
    write_mmstack(path, planes, SUMMARY, order=order)
    with pytest.warns(TruncationWarning, match="1 of 8") if n_lost else contextlib.nullcontext():
        references = scan(path)
    assert kinds(references) == ["mmstack"]
    assert references.group["image"].dims == ("t", "c", "z", "y", "x")
    assert_pixels(references, {"image": data})
    assert channel_names(references) == ["DAPI", "FITC"]
    assert scales_of(references) == {"t": (3, "second"), "z": UM(2), "y": UM(0.5), "x": UM(0.5)}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("n_left", [0, 20, 167])
def test_micromanager_stack_without_its_index(tmp_path, order, n_left):
    """It is at the end of the file, which was cut off, or never written."""
    data = pixels(8, 20, 24)
    places = [(c, z, t, 0) for t in (0, 1) for c in (0, 1) for z in (0, 1)]
    path = tmp_path / "run_MMStack.tif"
    write_mmstack(path, dict(zip(places, data, strict=True)), SUMMARY, order=order)
    with path.open("r+b") as file:
        file.seek(12)
        (index_at,) = struct.unpack(f"{order}I", file.read(4))
        file.truncate(index_at + n_left)
    with pytest.warns(MetadataWarning, match="the index of Micro-Manager's planes"):
        assert_pixels(tiffref.scan(path), {"image": data})
    with pytest.raises(tiffref.errors.MalformedTiff, match="the index of Micro-Manager's planes"):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("at", [8, 32, 36, 45])
def test_micromanager_stack_whose_summary_is_damaged(tmp_path, order, at):
    """Mark of the index, mark and length of the summary, and its text."""
    data = pixels(8, 20, 24)
    places = [(c, z, t, 0) for t in (0, 1) for c in (0, 1) for z in (0, 1)]
    path = tmp_path / "run_MMStack.tif"
    write_mmstack(path, dict(zip(places, data, strict=True)), SUMMARY, order=order)
    content = bytearray(path.read_bytes())
    content[at : at + 4] = b"####"
    path.write_bytes(content)
    with pytest.warns(MetadataWarning, match="summary or the index of Micro-Manager's planes"):
        assert_pixels(tiffref.scan(path), {"image": data})
    with pytest.raises(tiffref.errors.MalformedTiff, match="summary or the index"):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize(
    ("left_out", "match"),
    [
        ([(0, 0, 0, 0)], "1 of 24 planes were never written"),
        ([(1, 1, 1, 1)], "1 of 24 planes were never written"),
        ([(1, z, t, 2) for t in (0, 1) for z in (0, 1)], "4 of 24 planes were never written"),
        ([(c, z, t, 2) for c in (0, 1) for t in (0, 1) for z in (0, 1)], "2 of 3 positions"),
        ([(c, z, 1, p) for c in (0, 1) for p in range(3) for z in (0, 1)], "1 of 2 frames"),
        ([(1, z, t, p) for t in (0, 1) for p in range(3) for z in (0, 1)], "1 of 2 channels"),
    ],
)
def test_planes_that_micromanager_did_not_write(tmp_path, left_out, match):
    data = pixels(3, 2, 2, 2, 20, 24)  # position, t, c, z
    places = [(c, z, t, p) for p in range(3) for t in (0, 1) for c in (0, 1) for z in (0, 1)]
    planes = {
        (c, z, t, p): data[p, t, c, z] for c, z, t, p in places if (c, z, t, p) not in left_out
    }
    path = tmp_path / "run_MMStack.ome.tif"
    write_mmstack(path, planes, SUMMARY | {"Positions": 3})
    with pytest.warns(TruncationWarning, match=match):
        references = tiffref.scan(path)
    with pytest.raises(tiffref.errors.MalformedTiff, match=match):
        tiffref.scan(path, strict=True)
    found = ZarrTiffStore(references)[...].reshape(-1, 20, 24)
    assert sorted(plane[0, 0] for plane in found if plane.any()) == sorted(
        plane[0, 0] for plane in planes.values()
    )
    n_missing = references.series[0]["levels"][0].get("missing_pages", 0)
    assert n_missing == len(found) - len(planes)
    tiffref.scan(path, allow_holes=True)


@pytest.mark.filterwarnings("ignore::tiffref.errors.MetadataWarning")
@pytest.mark.parametrize("n", [0, 3])
def test_micromanager_pages_that_its_index_does_not_lead_to(tmp_path, n):
    data = pixels(2, 2, 2, 20, 24)  # t, c, z
    places = [(c, z, t, 0) for t in (0, 1) for c in range(2) for z in range(2)]
    path = tmp_path / "run_MMStack.ome.tif"
    write_mmstack(path, {(c, z, t, p): data[t, c, z] for c, z, t, p in places}, SUMMARY)
    content = bytearray(path.read_bytes())
    (index_at,) = struct.unpack_from("<I", content, 12)
    struct.pack_into("<I", content, index_at + 8 + 20 * n + 16, 1 << 31)
    path.write_bytes(content)
    with pytest.raises(tiffref.errors.MalformedTiff, match="1 of 8 planes"):
        tiffref.scan(path, strict=True)
    with pytest.warns(TruncationWarning, match="1 of 8 planes"):
        references = tiffref.scan(path)
    data[0, n // 2, n % 2] = 0
    assert_pixels(references, {"image": data})


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("where", ["index", "summary"])
def test_a_micromanager_index_that_spans_more_planes_than_any_file_has(tmp_path, order, where):
    """tifffile would allocate a list of all of them."""
    data = pixels(4, 20, 24)
    path = tmp_path / "run_MMStack.ome.tif"
    planes = {(c, z, 0, 0): data[2 * c + z] for c in (0, 1) for z in (0, 1)}
    more = {"Frames": 1 << 30} if where == "summary" else {"Frames": 1}
    write_mmstack(path, planes, SUMMARY | more, order=order)
    if where == "summary":
        with pytest.warns(TruncationWarning, match="1 of 1073741824 frames"):  # stopped early
            assert tiffref.scan(path).group["image"].shape == (2, 2, 20, 24)
        write_mmstack(tmp_path / "run_MMStack_1.ome.tif", planes, SUMMARY | more, order=order)
    if where == "index":
        content = bytearray(path.read_bytes())
        (index_at,) = struct.unpack_from(f"{order}I", content, 12)
        struct.pack_into(f"{order}I", content, index_at + 8 + 20 * 3 + 8, 1 << 30)
        path.write_bytes(content)
    with pytest.warns(MetadataWarning, match="the index of Micro-Manager spans"):
        assert_pixels(tiffref.scan(path), {"image": data})
    with pytest.raises(tiffref.errors.MalformedTiff, match="the index of Micro-Manager spans"):
        tiffref.scan(path, strict=True)


def test_micromanager_positions_in_several_files(tmp_path):
    data = pixels(2, 2, 20, 24)  # position, channel
    summary = SUMMARY | {"Frames": 1, "Slices": 1, "Positions": 2}
    for p in range(2):
        planes = {(c, 0, 0, p): data[p, c] for c in range(2)}
        write_mmstack(tmp_path / f"run_MMStack_Pos{p}.ome.tif", planes, summary)
    references = tiffref.scan(tmp_path / "run_MMStack_Pos0.ome.tif")
    assert references.group["image"].dims == ("r", "c", "y", "x")
    assert_pixels(references, {"image": data})
    assert len(references.sources) == 2


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("n_sites", [0, 2, 3])
def test_positions_are_images_in_ome_ngff(tmp_path, order, n_sites):
    data = pixels(2, 3, 2, 20, 24)  # t, position, c
    places = [(c, 0, t, p) for t in range(2) for p in range(3) for c in range(2)]
    planes = {(c, z, t, p): data[t, p, c] for c, z, t, p in places}
    sites = [{"Label": f"Site {n}"} for n in range(n_sites)]
    more = {"Slices": 1, "Positions": 3, "StagePositions": sites}
    path, document = tmp_path / "run_MMStack.ome.tif", tmp_path / "refs.json"
    write_mmstack(path, planes, SUMMARY | more, order=order)
    references = tiffref.scan(path)
    assert references.group["image"].dims == ("t", "r", "c", "y", "x")
    assert_pixels(references, {"image": data})
    names = [f"run Site {n}" if n_sites == 3 else f"run {n}" for n in range(3)]
    references.write_fsspec(document, zarr_format=3)
    group = zarr.open_group(f"reference::{document}", mode="r")
    assert group["OME"].attrs["ome"]["series"] == ["0", "1", "2"]
    for n, name in enumerate(names):
        ome = group[str(n)].attrs["ome"]
        assert ome["multiscales"][0]["name"] == name
        assert [axis["name"] for axis in ome["multiscales"][0]["axes"]] == ["t", "c", "y", "x"]
        assert [one["label"] for one in ome["omero"]["channels"]] == ["DAPI", "FITC"]
        np.testing.assert_array_equal(group[f"{n}/image"][...], data[:, n])
    ordered = tiffref.scan(path, axes="ngff")
    ordered.write_fsspec(tmp_path / "v2.json")
    for source in (ordered, tmp_path / "v2.json", document):
        report = tiffref.validate(source, pixels="all")
        assert (report.findings, report.n_chunks_compared) == ([], 12)
    for source in (ordered, tmp_path / "v2.json", document):
        for n in range(3):
            store = ZarrTiffStore(source, series=n)
            np.testing.assert_array_equal(store[...], data[:, n])
    assert [series["name"] for series in tiffref.References.open(document).series] == names
    kept = tiffref.scan(path, axes="as-stored").to_kerchunk(3)["refs"]
    assert json.loads(kept["image/zarr.json"])["shape"] == [2, 3, 2, 20, 24]


def test_planes_missing_at_a_position(tmp_path):
    data = pixels(3, 2, 20, 24)  # position, c
    planes = {(c, 0, 0, p): data[p, c] for p in range(3) for c in range(2) if (p, c) != (1, 0)}
    path = tmp_path / "run_MMStack.ome.tif"
    write_mmstack(path, planes, SUMMARY | {"Frames": 1, "Slices": 1, "Positions": 3})
    with pytest.warns(TruncationWarning, match="1 of 6"):
        references = tiffref.scan(path, axes="ngff")
    data[1, 0] = 0
    for n in range(3):
        np.testing.assert_array_equal(ZarrTiffStore(references, series=n)[...], data[n])
    counts = [series["levels"][0].get("missing_pages", 0) for series in references.series]
    assert sum(counts) == 1


def test_a_missing_file_of_a_micromanager_set_is_named(tmp_path):
    data = pixels(3, 2, 20, 24)  # position, channel
    summary = SUMMARY | {"Frames": 1, "Slices": 1, "Positions": 3}
    names = [f"run_MMStack_Pos{p}.ome.tif" for p in range(3)]
    text = f"<OME>{''.join(f'<UUID FileName={n!r}/>' for n in names)}</OME>".replace("'", '"')
    for p, name in enumerate(names):
        planes = {(c, 0, 0, p): data[p, c] for c in range(2)}
        write_mmstack(tmp_path / name, planes, summary, text=text)
    assert_pixels(tiffref.scan(tmp_path / names[0]), {"image": data})
    (tmp_path / names[1]).unlink()
    with pytest.raises(tiffref.errors.MalformedTiff, match=r"2 of 6 pages .*Pos1\.ome\.tif"):
        tiffref.scan(tmp_path / names[0])
    data[1] = 0
    references = tiffref.scan(tmp_path / names[0], allow_holes=True)
    assert_pixels(references, {"image": data})
    assert references.series[0]["levels"][0]["missing_files"] == [names[1]]


# ---- NDTiff


def write_ndtiff(folder, files, summary):
    """Write files of planes {name: [(axes, pixels)]} and their NDTiff.index."""
    text = json.dumps(summary).encode()
    prefix = struct.pack("<5I", 483729, 3, 3, 2355492, len(text)) + text
    index = b""
    for name, planes in files.items():
        pages = [image(plane, {51123: As(2, b"{}\0\0\0\0\0\0")}) for _, plane in planes]
        write_tiff(folder / name, pages, prefix=prefix)
        with tifffile.TiffFile(folder / name) as tif:
            at = [page.dataoffsets[0] for page in tif.pages]
        for (axes, _), where in zip(planes, at, strict=True):
            key = json.dumps(axes).encode()
            index += struct.pack("<I", len(key)) + key
            index += struct.pack("<I", len(name)) + name.encode()
            index += struct.pack("<IiiiiIii", where, 24, 20, 1, 0, 8, 2, 0)
    (folder / "NDTiff.index").write_bytes(index)


@pytest.mark.parametrize("is_whole", [True, False])
def test_ndtiff_folder(tmp_path, is_whole):
    data = pixels(3, 2, 20, 24)
    names = ["DAPI", "FITC"]
    planes = [({"time": t, "channel": names[c]}, data[t, c]) for t in range(3) for c in range(2)]
    if not is_whole:
        planes.pop(3)
        data[1, 1] = 0
    summary = {"PixelSize_um": 0.5, "Interval_ms": 100}
    files = {"a_NDTiffStack.tif": planes[:3], "a_NDTiffStack_1.tif": planes[3:]}
    write_ndtiff(tmp_path, files, summary)
    with contextlib.nullcontext() if is_whole else pytest.warns(TruncationWarning, match="1 of 6"):
        references = tiffref.scan(tmp_path / "a_NDTiffStack.tif")
    assert kinds(references) == ["ndtiff"]
    assert references.group["image"].dims == ("t", "c", "y", "x")
    assert_pixels(references, {"image": data})
    assert channel_names(references) == names
    assert scales_of(references)["x"] == UM(0.5)


def test_ndtiff_positions_have_their_labels(tmp_path):
    data, labels = pixels(2, 2, 20, 24), ["left", "right"]
    planes = [
        ({"position": labels[p], "channel": "ab"[c]}, data[p, c]) for p in (0, 1) for c in (0, 1)
    ]
    write_ndtiff(tmp_path, {"a_NDTiffStack.tif": planes}, {"Prefix": "run"})
    references = tiffref.scan(tmp_path / "a_NDTiffStack.tif", axes="ngff")
    assert [series["name"] for series in references.series] == ["run left", "run right"]
    for n in range(2):
        np.testing.assert_array_equal(ZarrTiffStore(references, series=n)[...], data[n])


def test_ndtiff_without_its_index(tmp_path):
    planes = [({"channel": c, "z": z}, pixels(20, 24)) for c in ("a", "b") for z in (0, 1)]
    write_ndtiff(tmp_path, {"a_NDTiffStack.tif": planes}, {})
    (tmp_path / "NDTiff.index").unlink()
    with pytest.warns(MetadataWarning, match="the index of Micro-Manager's planes"):
        references = tiffref.scan(tmp_path / "a_NDTiffStack.tif")
    assert_pixels(references, {"image": np.stack([plane for _, plane in planes])})


def test_an_ndtiff_whose_mark_is_damaged(tmp_path):
    """Without it, the other files of the set are unknown."""
    planes = [({"time": t}, plane) for t, plane in enumerate(pixels(4, 20, 24))]
    files = {"a_NDTiffStack.tif": planes[:2], "a_NDTiffStack_1.tif": planes[2:]}
    write_ndtiff(tmp_path, files, {})
    with (tmp_path / "a_NDTiffStack.tif").open("r+b") as file:
        file.seek(8)
        file.write(b"####")
    with pytest.warns(MetadataWarning, match="the index of Micro-Manager's planes"):
        references = tiffref.scan(tmp_path / "a_NDTiffStack.tif")
    assert_pixels(references, {"image": np.stack([plane for _, plane in planes[:2]])})


def test_a_missing_file_of_an_ndtiff_set_is_named(tmp_path):
    planes = [({"time": t}, plane) for t, plane in enumerate(pixels(4, 20, 24))]
    write_ndtiff(tmp_path, {"a_NDTiffStack.tif": planes[:2], "a_NDTiffStack_1.tif": planes[2:]}, {})
    (tmp_path / "a_NDTiffStack_1.tif").unlink()
    with pytest.raises(tiffref.errors.TiffrefError, match=r"a_NDTiffStack_1\.tif"):
        tiffref.scan(tmp_path / "a_NDTiffStack.tif")


def ndtiff_set(folder):
    """Write two files of three planes each; return the planes and the records of the index."""
    data = pixels(6, 20, 24)
    planes = [({"time": t}, plane) for t, plane in enumerate(data)]
    files = {"a_NDTiffStack.tif": planes[:3], "a_NDTiffStack_1.tif": planes[3:]}
    write_ndtiff(folder, files, {})
    index, records = (folder / "NDTiff.index").read_bytes(), []
    while index:
        (n_axes,) = struct.unpack_from("<I", index)
        (n_name,) = struct.unpack_from("<I", index, 4 + n_axes)
        size = 8 + n_axes + n_name + 32
        records.append(bytearray(index[:size]))
        index = index[size:]
    return data, records


@pytest.mark.filterwarnings("ignore::tiffref.errors.TruncationWarning")
@pytest.mark.parametrize("n_left", [4, 5])
@pytest.mark.parametrize("n_more", [0, 3, 40])
def test_an_ndtiff_index_that_is_cut_off(tmp_path, n_left, n_more):
    """Planes of another file that it does not list are reported, too."""
    data, index = ndtiff_set(tmp_path)
    whole = b"".join(index)
    (tmp_path / "NDTiff.index").write_bytes(whole[: -sum(map(len, index[n_left:])) + n_more])
    with pytest.warns(tiffref.errors.MetadataWarning, match="not part of|cut off"):
        references = tiffref.scan(tmp_path / "a_NDTiffStack.tif")
    assert_pixels(references, {"image": data[:n_left]})
    with pytest.raises(tiffref.errors.MalformedTiff):
        tiffref.scan(tmp_path / "a_NDTiffStack.tif", strict=True)


@pytest.mark.parametrize("place", [0, 1])
def test_ndtiff_planes_at_the_same_place(tmp_path, place):
    """A record that is repeated as a whole is no fault."""
    data = pixels(2, 20, 24)
    path = tmp_path / "a_NDTiffStack.tif"
    planes = [({"channel": "a"}, data[0]), ({"channel": "ab"[place]}, data[1])]
    write_ndtiff(tmp_path, {path.name: planes}, {})
    index = (tmp_path / "NDTiff.index").read_bytes()
    (tmp_path / "NDTiff.index").write_bytes(index + index[: len(index) // 2])
    if place:
        assert_pixels(tiffref.scan(path, strict=True), {"image": data})
        return
    with pytest.warns(tiffref.errors.MetadataWarning, match="1 planes of NDTiff"):
        tiffref.scan(path)
    with pytest.raises(tiffref.errors.MalformedTiff, match="place of others"):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize("n", [1, 2, 4, 5])
@pytest.mark.parametrize("by", [-2, 2, 100])
def test_an_ndtiff_index_whose_offsets_are_not_those_of_pages(tmp_path, n, by):
    _, index = ndtiff_set(tmp_path)
    (offset,) = struct.unpack_from("<I", index[n], len(index[n]) - 32)
    struct.pack_into("<I", index[n], len(index[n]) - 32, offset + by)
    (tmp_path / "NDTiff.index").write_bytes(b"".join(index))
    with pytest.raises(tiffref.errors.MalformedTiff, match="offsets without pages"):
        tiffref.scan(tmp_path / "a_NDTiffStack.tif")


def test_an_ndtiff_index_that_does_not_begin_with_the_first_page(tmp_path):
    """tifffile takes the first record of a file for its first page."""
    data, index = ndtiff_set(tmp_path)
    index[:2] = index[1::-1]
    (tmp_path / "NDTiff.index").write_bytes(b"".join(index))
    with pytest.warns(tiffref.errors.MetadataWarning, match="not its first page"):
        references = tiffref.scan(tmp_path / "a_NDTiffStack.tif")
    assert_pixels(references, {"image": data[:3]})


def test_an_ndtiff_index_that_spans_more_planes_than_any_file_has(tmp_path):
    data, index = ndtiff_set(tmp_path)
    key = json.dumps({"time": 5}).encode(), json.dumps({"time": 500_000_000}).encode()
    changed = b"".join(index).replace(
        struct.pack("<I", len(key[0])) + key[0], struct.pack("<I", len(key[1])) + key[1]
    )
    (tmp_path / "NDTiff.index").write_bytes(changed)
    with pytest.warns(tiffref.errors.MetadataWarning, match="spans 500000001 planes"):
        references = tiffref.scan(tmp_path / "a_NDTiffStack.tif")
    assert_pixels(references, {"image": data[:3]})


# ---- ImageJ


def test_imagej_stack_of_more_than_4_gib(tmp_path):
    """One directory describes all planes; the file is a hole but for two of them."""
    n, length, width = 1100, 2048, 2048
    first, late = pixels(2, length, width, dtype="u1")
    text = f"ImageJ=1.53t\nimages={n}\nslices={n}\nunit=micron\nspacing=1.5\nloop=false\n"
    path = tmp_path / "a.tif"
    write_tiff(path, [image(first, {270: text})])
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size + 1049 * length * width)
        file.write(late)
        file.truncate(size + (n - 1) * length * width)
    assert path.stat().st_blocks * 512 < 64 << 20
    references = tiffref.scan(path)
    array = references.group["image"]
    assert (array.dims, array.shape) == (("z", "y", "x"), (n, length, width))
    for at, plane in ((0, first), (1050, late), (n - 1, 0 * late)):
        assert_pixels(references, {"image": plane[:70]}, (at, slice(70)))
    assert scales_of(references) == {"z": UM(1.5)}


def test_lsm_of_more_than_4_gib(tmp_path):
    """Offsets of strips wrap around; the order of pages says how often."""
    n, length, width = 80, 8192, 8192
    info = lsm_info({"X": width, "Y": length, "T": n}, 3)
    size = length * width
    start = 1 << 20
    plane = {256: width, 257: length, 258: 8, 259: 1, 262: 1, 277: 1, 278: length, 284: 1}
    small = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1, 278: 8, 284: 1, 254: 1}
    pages = []
    for t in range(n):
        at = start + t * (size + 64)
        places = ((plane, at, size), (small, at + size, 64))
        for tags, where, n_bytes in places:
            stored = {273: As(4, where % (1 << 32)), 279: n_bytes}
            pages.append(Ifd({**tags, **stored, **({34412: info} if not pages else {})}))
    path = tmp_path / "a.lsm"
    write_tiff(path, pages)
    assert path.stat().st_size < start
    expected = pixels(2, 100, width, dtype="u1")
    with path.open("r+b") as file:
        for rows, t in zip(expected, (1, 75), strict=True):
            file.seek(start + t * (size + 64))
            file.write(rows)
        file.truncate(start + n * (size + 64))
    references = tiffref.scan(path)
    assert references.group["image"].dims == ("t", "y", "x")
    for rows, t in zip(expected, (1, 75), strict=True):
        assert_pixels(references, {"image": rows}, (t, slice(100)))
