"""`microscopy`: each flavour's metadata to a calibration."""

import datetime

import numpy as np
import pytest
import tifffile

import tiffref
from tiffref.errors import MalformedTiff, MetadataWarning
from tiffref.metadata.calibration import Calibration, Channel, calibrate_minor, parse_ome, to_unit
from tiffref.metadata.microscopy import calibrate
from tiffref.metadata.report import Report
from tiffref.model.manifest import Source
from tiffref.model.tiff_facts import FileFacts, LevelFacts, SeriesFacts


def read(flavour, metadata=None, tags=None, name="", index=0):
    series = SeriesFacts(index, flavour, name, "YX", ())
    facts = FileFacts(Source("a.tif"), (series,), {flavour: metadata})
    return calibrate(facts, series, tags or {}, Report("a.tif", is_strict=True))


MICRONS = {"X": "micrometer", "Y": "micrometer"}


def test_imagej():
    metadata = {
        "unit": "\\u00B5m", "spacing": 2.0, "finterval": 0.5, "channels": 2, "slices": 2,
        "Labels": ["a", "b", "a", "b"], "Ranges": (0.0, 9.0, 1.0, 8.0),
        "LUTs": [np.stack([np.zeros(256), np.zeros(256), np.arange(256)]).astype("u1")],
    }  # fmt: skip
    found = read("imagej", metadata, {282: (4, 1), 283: (2, 1)})
    assert found.scales == {"Z": 2.0, "T": 0.5, "X": 0.25, "Y": 0.5}
    assert found.units == {**MICRONS, "Z": "micrometer", "T": "second"}
    assert found.channels == (Channel("a", "0000FF", (0.0, 9.0)), Channel("b", None, (1.0, 8.0)))


@pytest.mark.parametrize(
    ("own", "units"),
    [
        ({}, ("micrometer", "micrometer", "micrometer")),
        ({"yunit": "nm", "zunit": "mm"}, ("micrometer", "nanometer", "millimeter")),
        ({"yunit": "", "zunit": "\\u00C5"}, ("micrometer", "micrometer", "angstrom")),
        ({"zunit": "pixel"}, ("micrometer", "micrometer", None)),
    ],
)
def test_imagej_axes_may_have_units_of_their_own(own, units):
    found = read("imagej", {"unit": "micron", "spacing": 0.3, **own}, {282: (10, 1), 283: (10, 1)})
    assert found.scales == {"X": 0.1, "Y": 0.1, "Z": 0.3}
    assert tuple(found.units.get(axis) for axis in "XYZ") == units


@pytest.mark.parametrize("unit", ["µm", "\u03bcm", "\\u00B5m", "\u00c2\u00b5m", "Micron", "um "])
def test_imagej_spells_micrometres_in_many_ways(unit):
    found = read("imagej", {"unit": unit}, {282: (10, 1), 283: (10, 1)})
    assert (found.scales, found.units) == ({"X": 0.1, "Y": 0.1}, MICRONS)


@pytest.mark.parametrize("unit", ["", "pixel", "Pixels", " "])
def test_imagej_without_a_unit_is_silent(unit):
    assert read("imagej", {"unit": unit}, {282: (10, 1), 283: (10, 1)}).scales == {}


@pytest.mark.parametrize("unit", ["furlong", "\ufffdm", 3])
@pytest.mark.parametrize("key", ["unit", "yunit", "zunit", "tunit"])
def test_a_unit_of_imagej_that_is_unknown_is_reported(key, unit):
    with pytest.raises(MalformedTiff, match=f"unit: not a known unit.*got {unit}"):
        read("imagej", {"unit": "um", key: unit}, {282: (10, 1), 283: (10, 1)})


@pytest.mark.parametrize(
    ("own", "unit"),
    [({}, "second"), ({"tunit": "ms"}, "millisecond"), ({"tunit": "hr"}, "hour"),
     ({"tunit": "frame"}, None)],
)  # fmt: skip
def test_imagej_intervals_have_a_unit_of_their_own(own, unit):
    found = read("imagej", {"unit": "um", "finterval": 2, **own})
    assert (found.scales, found.units.get("T")) == ({"T": 2.0}, unit)


def test_imagej_spacing_has_no_sign():
    assert read("imagej", {"unit": "um", "spacing": -2.0}).scales == {"Z": 2.0}


@pytest.mark.parametrize("key", ["scales", "units"])
def test_scifio_without_a_scale_or_unit_of_each_axis(key):
    comment = {"SCIFIO": 0.43, "axes": "X,Y,Z", "scales": "0.1,0.2,0.3", "units": "um,um,um"}
    comment[key] = comment[key].rpartition(",")[0]
    with pytest.raises(MalformedTiff, match="not one scale and unit for each axis"):
        read("imagej", comment)


def test_scifio_gives_scales_and_units_by_axis():
    comment = {"SCIFIO": 0.43, "axes": "X,Y,Z,Channel,Time", "scales": "0.1,0.2,0.3,1.0,5",
               "units": "um,um,nm,null,sec", "unit": "um"}  # fmt: skip
    found = read("imagej", comment, {282: (10, 1), 283: (10, 1)})
    assert found.scales == {"X": 0.1, "Y": 0.2, "Z": 0.3, "T": 5.0}
    assert found.units == {**MICRONS, "Z": "nanometer", "T": "second"}
    assert read("imagej", {**comment, "units": "null,null,null,null,null"}, {}).scales == {}


@pytest.mark.parametrize(
    ("flavour", "metadata", "key"),
    [
        ("imagej", {"unit": "um", "spacing": "wide"}, "spacing"),
        ("lsm", {"VoxelSizeX": -1e-7}, "VoxelSizeX"),
        ("micromanager", {"Summary": {"PixelSize_um": float("nan")}}, "PixelSize_um"),
        ("scanimage", {"FrameData": {"SI.hRoiManager.scanFrameRate": float("inf")}}, "FrameRate"),
    ],
)
def test_implausible_sizes_are_reported(flavour, metadata, key):
    with pytest.raises(MalformedTiff, match=key):
        read(flavour, metadata)


@pytest.mark.parametrize(
    ("flavour", "metadata"),
    [
        ("lsm", {"VoxelSizeX": 0.0, "VoxelSizeZ": 0.0, "TimeIntervall": 0.0}),
        ("micromanager", {"Summary": {"PixelSize_um": 0, "z-step_um": 0, "Interval_ms": 0.0}}),
        ("scanimage", {"FrameData": {"SI.hStackManager.stackZStepSize": []}}),
        ("imagej", {"spacing": 0.0, "finterval": 0}),
    ],
)
def test_a_size_of_zero_means_unknown(flavour, metadata):
    assert read(flavour, metadata).scales == {}


def test_a_placeholder_of_metamorph_tags_is_not_read():
    stub = {"SpatialCalibration": 1, "XCalibration": 99.0, "YCalibration": 99.0,
            "CalibrationUnits": "microns", "NumberPlanes": 1}  # fmt: skip
    assert read("stk", stub).scales == {}
    assert read("stk", stub, {33629: {}}).scales == {"X": 99.0, "Y": 99.0}


@pytest.mark.parametrize("byteorder", "<>")
def test_imagej_tables_and_labels_of_a_single_channel_are_no_list(tmp_path, byteorder):
    table = np.stack([np.zeros(256), np.arange(256), np.zeros(256)]).astype("u1")
    metadata = {"LUTs": [table], "Labels": ["aa"], "unit": "um"}
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 9), "u1"), imagej=True, byteorder=byteorder,
                     metadata=metadata, resolution=(2, 2))  # fmt: skip
    attributes = tiffref.scan(tmp_path / "a.tif", strict=True).group.attributes
    assert [one["color"] for one in attributes["omero"]["channels"]] == ["00FF00"]
    assert [one["label"] for one in attributes["omero"]["channels"]] == ["Channel 0"]


def test_imagej_labels_of_planes_are_no_channel_names():
    assert read("imagej", {"channels": 2, "Labels": ["a", "b", "c", "d"]}).channels == ()


def test_imagej_resolution_without_a_unit_means_nothing():
    assert read("imagej", {}, {282: (4, 1), 283: (2, 1), 296: 1}).scales == {}


def test_lsm():
    colors = {"ColorNames": ["Ch1", "Ch2"], "Colors": [[255, 0, 0, 0], [0, 255, 0, 0]]}
    found = read(
        "lsm",
        {"VoxelSizeX": 1e-7, "VoxelSizeY": 1e-7, "VoxelSizeZ": 0.0, "ChannelColors": colors,
         "TimeStamps": np.array([5.0, 6.0, 8.0])},
    )  # fmt: skip
    assert found.scales == pytest.approx({"X": 0.1, "Y": 0.1})
    assert found.times == (0.0, 1.0, 3.0)
    assert found.channels == (Channel("Ch1", "FF0000"), Channel("Ch2", "00FF00"))


def test_stk():
    metadata = {"SpatialCalibration": 1, "XCalibration": 0.1, "YCalibration": 0.2,
                "CalibrationUnits": "um", "ZDistance": np.array([0.0, 3.0])}  # fmt: skip
    assert read("stk", metadata).scales == {"X": 0.1, "Y": 0.2, "Z": 3.0}
    assert read("stk", {**metadata, "SpatialCalibration": 0}) == Calibration()


def test_micromanager():
    summary = {"PixelSize_um": 0.16, "z-step_um": 0.5, "Interval_ms": 2000, "ChNames": ["a", "b"],
               "ChColors": [-16776961, 255]}  # fmt: skip
    found = read("micromanager", {"Summary": summary})
    assert found.scales == {"X": 0.16, "Y": 0.16, "Z": 0.5, "T": 2.0}
    assert found.channels == (Channel("a", "0000FF"), Channel("b", "0000FF"))


def test_scanimage():
    frame = {
        "SI.hRoiManager.scanFrameRate": 30.0,
        "SI.hStackManager.stackZStepSize": 5,
        "SI.hRoiManager.imagingFovUm": [[-100, -50], [100, -50], [100, 50], [-100, 50]],
        "SI.hRoiManager.pixelsPerLine": 400,
        "SI.hRoiManager.linesPerFrame": 100,
        "SI.hChannels.channelSave": [1, 3],
        "SI.hChannels.channelName": ["green", "red", "far red"],
    }
    found = read("scanimage", {"FrameData": frame})
    assert found.scales == {"Z": 5.0, "T": 1 / 30, "X": 0.5, "Y": 1.0}
    assert [channel.name for channel in found.channels] == ["green", "far red"]


def level(rows, columns):
    column = np.zeros((1, 1), np.uint64)
    kind = np.zeros(1, np.int32)
    return LevelFacts((rows, columns), "YX", "<u1", (), (), kind, kind, column, column)


@pytest.mark.parametrize(
    ("own", "role", "shape", "expected"),
    [
        ({}, "thumbnail", (100, 200), {"X": 5.0, "Y": 5.0}),
        ({"X": 0.5, "Y": 0.5}, "thumbnail", (100, 201), {"X": 1000 / 201, "Y": 5.0}),
        ({"X": 4.9, "Y": 4.9}, "thumbnail", (100, 200), {"X": 4.9, "Y": 4.9}),
        ({"X": 0.5, "Y": 0.5}, "thumbnail", (200, 200), {}),  # not all of the slide
        ({"X": 0.5, "Y": 0.5}, "label", (100, 200), {}),
        ({"X": 30.0, "Y": 30.0}, "macro", (100, 200), {"X": 30.0, "Y": 30.0}),
        ({"X": 0.5, "Y": 0.5}, "thumbnail", (1000, 2000), {"X": 0.5, "Y": 0.5}),
    ],
)
def test_sizes_of_minor_images(own, role, shape, expected):
    main = Calibration({"X": 0.5, "Y": 0.5}, MICRONS)
    found = calibrate_minor(
        Calibration(own, dict.fromkeys(own, "micrometer")), level(*shape), main, level(1000, 2000),
        role,
    )  # fmt: skip
    assert found.scales == pytest.approx(expected)
    assert set(found.units) == set(found.scales)
    assert calibrate_minor(Calibration(own), level(1, 1), Calibration(), level(9, 9), role) == (
        Calibration(own)
    )


def test_slides():
    found = read("svs", tags={270: "Aperio\r\n10x10|AppMag = 20|MPP = 0.4990|Date = x"})
    assert found.scales == {"X": 0.499, "Y": 0.499}
    assert found.attributes == {"magnification": 20.0}
    ndpi = read("ndpi", tags={282: (40000, 1), 283: (20000, 1), 296: 3, 65421: 40.0})
    assert ndpi.scales == {"X": 0.25, "Y": 0.5}
    assert ndpi.attributes == {"magnification": 40.0}
    xml = "<scn><collection><image><objective>5</objective></image></collection></scn>"
    scn = read("scn", xml, {282: (10000, 1), 283: (10000, 1), 296: 3})
    assert (scn.scales["X"], scn.attributes) == (1.0, {"magnification": 5.0})


def test_electron_microscopes():
    assert read("fei", {"Scan": {"PixelWidth": 2e-9, "PixelHeight": 2e-9}}).scales == pytest.approx(
        {"X": 2.0, "Y": 2.0}
    )
    found = read("sem", {"ap_image_pixel_size": ("Image Pixel Size", 1.5, "µm")})
    assert (found.scales, found.units) == ({"X": 1.5, "Y": 1.5}, MICRONS)


def test_metaseries():
    plane = {"spatial-calibration-state": True, "spatial-calibration-x": 1.3,
             "spatial-calibration-y": 1.3, "spatial-calibration-units": "um", "z-position": 7.5,
             "acquisition-time-local": "20230401 12:34:56.789", "image-name": "w1"}  # fmt: skip
    found = read("metaseries", {"PlaneInfo": plane})
    assert found.scales == {"X": 1.3, "Y": 1.3}
    assert found.acquired == datetime.datetime(2023, 4, 1, 12, 34, 56, 789000)
    assert found.attributes == {"stage_position_z": 7.5}


@pytest.mark.parametrize(
    ("per_unit", "unit", "size"),
    [((4000, 1), 2, 6.35), ((40000, 1), 3, 0.25), ((300, 1), 2, None), ((0, 1), 3, None),
     ((1, 0), 3, None), ((1000000, 1), 1, None)],
)  # fmt: skip
def test_plain_resolution_counts_if_it_is_finer_than_a_printer(per_unit, unit, size):
    found = read("generic", tags={282: per_unit, 283: per_unit, 296: unit})
    assert found.scales == ({} if size is None else {"X": size, "Y": size})


def test_ome_images_are_matched_by_index_and_name():
    xml = "<OME>" + "".join(
        f'<Image Name="{n}"><Pixels PhysicalSizeX="{x}"/></Image>' for n, x in (("a", 1), ("b", 2))
    )
    assert read("ome", xml + "</OME>", name="b", index=1).scales == {"X": 2.0}
    assert read("ome", xml + "</OME>", name="b", index=0).scales == {"X": 2.0}
    assert read("ome", xml + "</OME>", name="?", index=0).scales == {"X": 1.0}


def test_units():
    assert to_unit("µm") == to_unit("μm") == to_unit("micron") == to_unit(" UM\0") == "micrometer"
    assert to_unit("pixel") is None
    assert to_unit(None) is None


def test_metadata_of_another_kind_costs_the_metadata_only():
    series = SeriesFacts(0, "imagej", "", "YX", ())
    metadata = {"imagej": {"channels": 2, "Ranges": 3.0}}
    facts = FileFacts(Source("a.tif"), (series,), metadata)
    with pytest.warns(MetadataWarning, match=r"a\.tif, imagej metadata"):
        assert calibrate(facts, series, {}, Report("a.tif")) == Calibration()


def test_implausible_numbers_of_channels_and_times() -> None:
    """A text of some bytes may say any number; nothing is made for each."""
    assert read("imagej", {"channels": 10**12, "spacing": 2.0}).channels == ()
    ome = (
        '<OME><Image><Pixels DimensionOrder="XYCZT" SizeT="1000000000000" SizeX="1" SizeY="1">'
        '<Plane TheT="0" DeltaT="1"/></Pixels></Image></OME>'
    )
    assert parse_ome(ome, Report())[0].times == ()
