"""`calibration`: OME-XML to calibrations."""

import datetime

import pytest

from tiffref.errors import MalformedTiff, MetadataWarning
from tiffref.metadata.calibration import Channel, parse_ome
from tiffref.metadata.report import Report

HEAD = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
STRICT = Report("a.tif", is_strict=True)


def parse(body, report=STRICT):
    return parse_ome(f'<?xml version="1.0" encoding="UTF-8"?>{HEAD}{body}</OME>', report)


def test_sizes_default_to_the_units_of_the_schema():
    (image,) = parse(
        '<Image Name="n"><Pixels PhysicalSizeX="0.5" PhysicalSizeY="500" PhysicalSizeYUnit="nm" '
        'PhysicalSizeZ="2" TimeIncrement="3" TimeIncrementUnit="min"/></Image>'
    )
    assert image.scales == {"X": 0.5, "Y": 500.0, "Z": 2.0, "T": 3.0}
    assert image.units == {
        "X": "micrometer", "Y": "nanometer", "Z": "micrometer", "T": "minute"
    }  # fmt: skip
    assert image.name == "n"


def test_channels_have_names_and_colours():
    (image,) = parse(
        '<Image><Pixels><Channel Name="DAPI" Color="65535"/><Channel Fluor="GFP" Color="-1"/>'
        "<Channel/></Pixels></Image>"
    )
    assert image.channels == (Channel("DAPI", "0000FF"), Channel("GFP", "FFFFFF"), Channel())


def planes(*deltas):
    body = "".join(f'<Plane TheT="{n}" DeltaT="{d}"/>' for n, d in enumerate(deltas))
    (image,) = parse(f'<Image><Pixels SizeT="3">{body}</Pixels></Image>')
    return image


def test_times_of_planes():
    assert planes(0, 1.5, 4).times == (0.0, 1.5, 4.0)
    assert planes(0, 1.5, 4).units == {"T": "second"}
    assert planes(0, 1.5).times == ()
    assert planes(0, 5, 4).times == ()


def test_objective_date_and_stage():
    (image,) = parse(
        '<Instrument><Objective ID="O:1" NominalMagnification="20" LensNA="0.8"/></Instrument>'
        "<Image><AcquisitionDate>2020-01-02T03:04:05</AcquisitionDate>"
        '<ObjectiveSettings ID="O:1"/><Pixels><Plane PositionX="1.5" PositionXUnit="mm"/></Pixels>'
        "</Image>"
    )
    assert image.acquired == datetime.datetime(2020, 1, 2, 3, 4, 5)
    assert image.attributes == {
        "magnification": 20.0,
        "numerical_aperture": 0.8,
        "stage_position_x": 1.5,
        "stage_position_x_unit": "millimeter",
    }


def test_wells():
    (image,) = parse(
        '<Plate ID="P" Name="plate"><Well Row="1" Column="2"><WellSample Index="4">'
        '<ImageRef ID="Image:0"/></WellSample></Well></Plate><Image ID="Image:0"><Pixels/></Image>'
    )
    assert image.attributes == {"plate": "plate", "well": "B03", "field": 4}


@pytest.mark.parametrize("size", ["0", "-1", "nan", "x", "inf"])
def test_invalid_sizes_are_reported(size):
    body = f'<Image><Pixels PhysicalSizeX="{size}" PhysicalSizeY="2"/></Image>'
    with pytest.warns(MetadataWarning, match="PhysicalSizeX") as caught:
        (image,) = parse(body, Report("a.tif"))
    assert image.scales == {"Y": 2.0}
    assert len(caught) == 1
    with pytest.raises(MalformedTiff, match=r"a\.tif.*PhysicalSizeX"):
        parse(body)


def test_broken_xml_is_reported():
    with pytest.warns(MetadataWarning, match="not valid XML"):
        assert parse_ome("<OME><Image>", Report()) == []


@pytest.mark.parametrize(
    ("increment", "unit", "delta", "delta_unit", "times", "named"),
    [
        ("", "", 250, ' DeltaTUnit="ms"', (0, 250, 500), "millisecond"),
        ('TimeIncrement="1"', "s", 250, ' DeltaTUnit="ms"', (0, 0.25, 0.5), "second"),
        ('TimeIncrement="1"', "min", 90, "", (0, 1.5, 3), "minute"),
        ('TimeIncrement="1"', "s", 1, ' DeltaTUnit="aeon"', (), "second"),
        ('TimeIncrement="5"', "ns", 5, ' DeltaTUnit="ps"', (0, 0.005, 0.01), "nanosecond"),
        ('TimeIncrement="1"', "cs", 2, "", (0, 200, 400), "centisecond"),
        ('TimeIncrement="1"', "das", 2, "", (0, 2, 4), "second"),
        ('TimeIncrement="1"', "s", 2, ' DeltaTUnit="das"', (0, 20, 40), "second"),
        ("", "", 2, ' DeltaTUnit="das"', (0, 20, 40), "second"),
    ],
)
def test_times_have_the_unit_of_their_axis(increment, unit, delta, delta_unit, times, named):
    body = "".join(f'<Plane TheT="{n}" DeltaT="{n * delta}"{delta_unit}/>' for n in range(3))
    own = f'{increment} TimeIncrementUnit="{unit}"' if increment else ""
    (image,) = parse(f'<Image><Pixels SizeT="3" {own}>{body}</Pixels></Image>')
    assert image.times == pytest.approx(times)
    assert image.units == {"T": named}


def size_in(unit, report=STRICT):
    (image,) = parse(
        f'<Image><Pixels PhysicalSizeX="2" PhysicalSizeXUnit="{unit}"/></Image>', report
    )
    assert image.scales == {"X": 2.0}
    return image.units.get("X")


@pytest.mark.parametrize(
    ("unit", "named"),
    [("mm", "millimeter"), ("Mm", "megameter"), ("pm", "picometer"), ("Pm", "petameter"),
     ("dm", "decimeter"), ("µm", "micrometer"), ("um", "micrometer"),
     ("Å", "angstrom"), ("mi", "mile"),
     ("pixel", None), ("reference frame", None)],
)  # fmt: skip
def test_the_case_of_units_matters(unit, named):
    assert size_in(unit) == named


@pytest.mark.parametrize(
    ("unit", "size", "named"),
    [("dam", 20, "meter"), ("thou", 50.8, "micrometer"), ("li", 1 / 6, "inch"),
     ("pt", 1 / 36, "inch"), ("ua", 299195741400, "meter"), ("ly", 18921460945161600, "meter")],
)  # fmt: skip
def test_units_that_ngff_does_not_have_are_converted(unit, size, named):
    plane = f'<Plane PositionZ="2" PositionZUnit="{unit}"/>'
    own = f'PhysicalSizeX="2" PhysicalSizeXUnit="{unit}"'
    (image,) = parse(f"<Image><Pixels {own}>{plane}</Pixels></Image>")
    assert image.scales == {"X": size}
    assert image.units == {"X": named}
    assert image.attributes == {"stage_position_z": size, "stage_position_z_unit": named}


def test_the_case_of_the_units_of_positions_matters():
    plane = '<Plane PositionX="2" PositionXUnit="Mm"/>'
    (image,) = parse(f"<Image><Pixels>{plane}</Pixels></Image>")
    assert image.attributes["stage_position_x_unit"] == "megameter"


def test_a_size_in_an_unknown_unit_is_reported():
    with pytest.warns(MetadataWarning, match=r"PhysicalSizeXUnit: not a known unit.*got furlong"):
        assert size_in("furlong", Report("a.tif")) is None
    with pytest.raises(MalformedTiff, match="furlong"):
        size_in("furlong")
