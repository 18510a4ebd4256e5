"""`ngff`: multiscales, levels, channels; groups that readers of OME-NGFF 0.4 and 0.5 take."""

import json
from pathlib import Path

import numpy as np
import pytest
from microscopes import (
    write_imagej_stack,
    write_ome_pyramid,
    write_rgb_pyramid,
    write_two_images,
)

import tiffref
import zarr
from tiffref import References
from tiffref.errors import SelectionError, UnsupportedTiff
from tiffref.metadata.calibration import Calibration, Channel
from tiffref.metadata.layout import split_positions
from tiffref.metadata.ngff import (
    image_channels,
    level_factor,
    level_grid,
    multiscale,
    ngff_order,
    omero,
)
from tiffref.model.array import Array, Group, plain_codec
from tiffref.model.manifest import Manifest, Source
from tiffref.zarr import ZarrTiffStore

SIZES = Calibration({"Z": 2.0, "Y": 0.5, "X": 0.25, "T": 3.0}, {"Z": "micrometer", "T": "second"})


@pytest.mark.parametrize(
    ("full", "size", "factor"),
    [(1024, 512, 2), (1025, 512, 2), (1025, 513, 2), (1000, 250, 4), (7, 7, 1), (100, 30, 10 / 3)],
)
def test_factors_are_whole_where_sizes_were_rounded(full, size, factor):
    assert level_factor(full, size) == pytest.approx(factor)


def test_an_overview_starts_half_of_what_it_covers_minus_half_a_pixel_later():
    scale, translation = level_grid("CYX", (2, 64, 32), (2, 128, 128), SIZES)
    assert scale == [1.0, 1.0, 1.0]
    assert translation == [0.0, 0.25, 0.375]


def test_multiscale():
    levels = [("image", (2, 3, 8, 8)), ("image_1", (2, 3, 4, 4))]
    found = multiscale("n", "TZYX", ("t", "z", "y", "x"), levels, SIZES)
    assert found["version"] == "0.4"
    assert found["axes"] == [
        {"name": "t", "type": "time", "unit": "second"},
        {"name": "z", "type": "space", "unit": "micrometer"},
        {"name": "y", "type": "space"},
        {"name": "x", "type": "space"},
    ]
    assert [one["path"] for one in found["datasets"]] == ["image", "image_1"]
    first, second = found["datasets"][1]["coordinateTransformations"]
    assert first == {"type": "scale", "scale": [3.0, 2.0, 1.0, 0.5]}
    assert second == {"type": "translation", "translation": [0.0, 0.0, 0.25, 0.125]}


@pytest.mark.parametrize(
    ("axes", "is_valid"),
    [("YX", 1), ("CYX", 1), ("IYX", 1), ("TCZYX", 1), ("YXS", 0), ("TZCYX", 0), ("ZXY", 0),
     ("ICYX", 0), ("X", 0), ("XYZ", 0), ("CTYX", 0), ("HCYX", 1), ("THYX", 1), ("THCYX", 0)],
)  # fmt: skip
def test_only_axes_that_the_specification_admits(axes, is_valid):
    assert (ngff_order(axes) == tuple(range(len(axes)))) == is_valid


def test_omero():
    channels = (Channel("DAPI", "0000FF", (10.0, 20.0)), Channel())
    first, second = omero("n", channels, np.dtype("u2"))["channels"]
    assert first["window"] == {"min": 0.0, "max": 65535.0, "start": 10.0, "end": 20.0}
    assert (first["label"], first["color"]) == ("DAPI", "0000FF")
    assert (second["label"], second["window"]["end"]) == ("Channel 1", 65535.0)


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:zarr")


def rgb(path):
    return [level.transpose(2, 0, 1) for level in write_rgb_pyramid(path)]


def imagej(path):
    return [write_imagej_stack(path).transpose(0, 2, 1, 3, 4)]


EXAMPLES = {
    "rgb": (rgb, ["c", "y", "x"]),
    "imagej": (imagej, ["t", "c", "z", "y", "x"]),
    "ome": (write_ome_pyramid, ["t", "c", "z", "y", "x"]),
}


@pytest.fixture(params=EXAMPLES)
def example(request, tmp_path):
    """A TIFF, its levels in the order of OME-NGFF, and the names of its axes."""
    write, axes = EXAMPLES[request.param]
    path = tmp_path / "a.ome.tif" if request.param != "imagej" else tmp_path / "a.tif"
    return path, write(path), axes


def open_group(document, path):
    path.write_text(json.dumps(document))
    return zarr.open_group(f"reference::{path}", mode="r")


def assert_valid(attributes, version, schema="image"):
    """Validate by the JSON schema of OME-NGFF that ngff-zarr brings."""
    jsonschema = pytest.importorskip("jsonschema")
    ngff_zarr = pytest.importorskip("ngff_zarr")
    folder = Path(ngff_zarr.__file__).parent / "spec" / version / "schemas"
    documents = [json.loads(file.read_text()) for file in folder.glob("*.schema")]
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    resources = [(one["$id"], DRAFT202012.create_resource(one)) for one in documents
                 if "$id" in one]  # fmt: skip
    registry = Registry().with_resources(resources)
    wanted = json.loads((folder / f"{schema}.schema").read_text())
    jsonschema.Draft202012Validator(wanted, registry=registry).validate(attributes)


def test_zarr_v3_documents_are_ome_ngff_05(example, tmp_path):
    models = pytest.importorskip("ome_zarr_models.v05")
    path, levels, axes = example
    group = open_group(tiffref.scan(path).to_kerchunk(3), tmp_path / "refs.json")
    (entry,) = models.Image.from_zarr(group).attributes.ome.multiscales
    assert [axis.name for axis in entry.axes] == axes
    assert_valid(dict(group.attrs), "0.5")
    assert not {"multiscales", "omero", "ngff"} & set(group.attrs)
    for dataset, expected in zip(entry.datasets, levels, strict=True):
        array = group[dataset.path]
        assert list(array.metadata.dimension_names) == axes
        np.testing.assert_array_equal(array[...], expected)


def test_the_axes_of_zarr_v2_documents_stay_unless_asked(example):
    path, levels, axes = example
    stored = tiffref.scan(path)
    is_ordered = levels[0].shape == stored.group["image"].shape
    assert is_ordered == ("multiscales" in stored.group.attributes)
    ordered = tiffref.scan(path, axes="ngff").to_kerchunk()
    attributes = json.loads(ordered["refs"][".zattrs"])
    assert_valid({name: attributes[name] for name in ("multiscales",)}, "0.4")
    assert [axis["name"] for axis in attributes["multiscales"][0]["axes"]] == axes
    group = References.from_kerchunk(ordered, allow="*").group
    assert group["image"].dims == tuple(axes)
    assert group["image"].shape == levels[0].shape


def test_zarr_v2_documents_become_the_same_v3_documents(example):
    path, _, _ = example
    references = tiffref.scan(path)
    again = References.from_kerchunk(references.to_kerchunk(), allow="*")
    # predictors and the like are said in other words after a trip through v2
    assert again.to_kerchunk(3)["refs"].keys() == references.to_kerchunk(3)["refs"].keys()
    root = [json.loads(one.to_kerchunk(3)["refs"]["zarr.json"]) for one in (again, references)]
    assert root[0]["attributes"]["ome"] == root[1]["attributes"]["ome"]


def test_zarr_v3_documents_become_v2_with_ome_ngff_04(example, tmp_path):
    path, levels, _ = example
    three = tiffref.scan(path).to_kerchunk(3)
    two = References.from_kerchunk(three, allow="*").to_kerchunk(2)
    group = open_group(two, tmp_path / "refs.json")
    assert "ome" not in group.attrs
    (entry,) = group.attrs["multiscales"]
    assert entry["version"] == "0.4"
    for dataset, expected in zip(entry["datasets"], levels, strict=True):
        np.testing.assert_array_equal(group[dataset["path"]][...], expected)


def test_the_provenance_records_the_new_paths_of_levels(example):
    path, levels, _ = example
    document = tiffref.scan(path).to_kerchunk(3)
    root = json.loads(document["refs"]["zarr.json"])["attributes"]
    (row,) = json.loads(root["tiffref"])["series"]
    group = References.from_kerchunk(document, allow="*").group
    for level, expected in zip(row["levels"], levels, strict=True):
        assert group[level["path"]].shape == expected.shape


@pytest.mark.skipif(
    zarr.__version__ < "3.2", reason="zarr 3.1 lists nothing in the groups of references"
)
def test_each_level_has_the_coordinates_of_its_dimensions(tmp_path):
    xr = pytest.importorskip("xarray")
    levels = write_ome_pyramid(tmp_path / "a.ome.tif")
    tiffref.scan(tmp_path / "a.ome.tif").write_fsspec(tmp_path / "refs.json", zarr_format=3)
    storage = {"fo": str(tmp_path / "refs.json")}
    for n, expected in enumerate(levels):
        with xr.open_dataset(
            "reference://", engine="zarr", group=str(n), consolidated=False, zarr_format=3,
            storage_options=storage, chunks=None,
        ) as level:  # fmt: skip
            assert level.image.dims == ("t", "c", "z", "y", "x")
            assert list(level.c.values) == ["DAPI", "GFP", "RFP"]
            assert float(level.x[1] - level.x[0]) == 0.25 * 2**n
            assert float(level.x[0]) == (0.125 if n else 0.0)
            np.testing.assert_array_equal(level.image, expected)


def test_as_stored_keeps_the_order_in_zarr_v3_too(tmp_path):
    data = write_imagej_stack(tmp_path / "a.tif")
    references = tiffref.scan(tmp_path / "a.tif", axes="as-stored")
    group = open_group(references.to_kerchunk(3), tmp_path / "refs.json")
    assert group["image"].metadata.dimension_names == ("t", "z", "c", "y", "x")
    assert "ome" not in group.attrs
    np.testing.assert_array_equal(group["image"][...], data)


def test_several_images_are_groups_as_bioformats2raw_has_them(tmp_path):
    models = pytest.importorskip("ome_zarr_models.v05")
    first, second = write_two_images(tmp_path / "a.ome.tif")
    document = tiffref.scan(tmp_path / "a.ome.tif").to_kerchunk(3)
    group = open_group(document, tmp_path / "refs.json")
    assert group.attrs["ome"] == {"version": "0.5", "bioformats2raw.layout": 3}
    assert group["OME"].attrs["ome"] == {"version": "0.5", "series": ["0", "1"]}
    assert_valid(dict(group.attrs), "0.5", "bf2raw")
    assert_valid(dict(group["OME"].attrs), "0.5", "ome")
    for n, expected in enumerate((first, second)):
        image = models.Image.from_zarr(group[str(n)])
        path = image.attributes.ome.multiscales[0].datasets[0].path
        np.testing.assert_array_equal(group[str(n)][path][...], expected)
        assert_valid(dict(group[str(n)].attrs), "0.5")
    names = [one["label"] for one in group["0"].attrs["ome"]["omero"]["channels"]]
    assert names == ["a", "b", "c"]


@pytest.mark.parametrize("write", [write_ome_pyramid, write_rgb_pyramid])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_selected_overview_has_its_own_pixel_size(tmp_path, write, zarr_format):
    write(tmp_path / "a.ome.tif")
    references = tiffref.scan(tmp_path / "a.ome.tif", level=1, axes="ngff")
    references.write_fsspec(tmp_path / "refs.json", zarr_format=zarr_format)
    group = zarr.open_group(f"reference::{tmp_path / 'refs.json'}", mode="r")
    (entry,) = (group.attrs if zarr_format == 2 else group.attrs["ome"])["multiscales"]
    scale, translation = entry["datasets"][0]["coordinateTransformations"]
    for n, dim in ((-2, "y"), (-1, "x")):
        start, step = group[dim][0], group[dim][1] - group[dim][0]
        assert (translation["translation"][n], scale["scale"][n]) == (start, step)
        assert step == {"x": 0.5, "y": 1.0}[dim]


def test_bioio_opens_each_of_several_images(tmp_path):
    bioio = pytest.importorskip("bioio_ome_zarr")
    images = write_two_images(tmp_path / "a.ome.tif")
    tiffref.scan(tmp_path / "a.ome.tif").write_fsspec(tmp_path / "refs.json", zarr_format=3)
    options = {"fo": str(tmp_path / "refs.json"), "remote_protocol": "file"}
    for n, (expected, size) in enumerate(zip(images, (0.5, 0.25), strict=True)):
        found = bioio.Reader(f"reference://{n}", fs_kwargs=options)
        np.testing.assert_array_equal(np.asarray(found.data), expected)
        assert size == found.physical_pixel_sizes.X


@pytest.mark.parametrize("n_images", [2, 40])
def test_many_images_are_laid_out_in_linear_time(tmp_path, monkeypatch, n_images):
    import tifffile

    from tiffref.metadata import ngff

    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tif:
        for n in range(n_images):
            metadata = {"axes": "CYX", "PhysicalSizeX": n + 1, "PhysicalSizeY": 1}
            tif.write(np.full((2, 8, 9), n, "u1"), metadata=metadata, photometric="minisblack")
    references = tiffref.scan(tmp_path / "a.ome.tif")
    calls, is_coordinate = [], ngff._is_inlined_coordinate
    monkeypatch.setattr(
        ngff, "_is_inlined_coordinate", lambda array: calls.append(0) or is_coordinate(array)
    )
    group = open_group(references.to_kerchunk(3), tmp_path / "refs.json")
    assert len(calls) <= 3 * len([*references.group.arrays()])
    for n in range(n_images):
        assert group[f"{n}/x"][1] == n + 1
        assert (group[f"{n}/image"][...] == n).all()


OME_XML = "OME/METADATA.ome.xml"


def test_several_images_are_listed_in_ome_xml(tmp_path):
    """napari-ome-zarr finds the images there, and not by the attributes."""
    ome_types = pytest.importorskip("ome_types")
    write_two_images(tmp_path / "a.ome.tif")
    references = tiffref.scan(tmp_path / "a.ome.tif")
    references.write_fsspec(tmp_path / "refs.json", zarr_format=3)
    text = json.loads((tmp_path / "refs.json").read_text())["refs"][OME_XML]
    images = ome_types.from_xml(text).images
    assert [image.id for image in images] == ["Image:0", "Image:1"]
    assert images[0].name == "one"
    sizes = [[getattr(image.pixels, f"size_{axis}") for axis in "tczyx"] for image in images]
    assert sizes == [[1, 3, 1, 40, 56], [1, 1, 4, 64, 96]]
    again = References.open(tmp_path / "refs.json")
    assert again.allow is None  # our own document
    assert again.to_kerchunk(3)["refs"][OME_XML] == text
    assert tiffref.validate(tmp_path / "refs.json", pixels="all").summary == "valid"
    store = ZarrTiffStore(tmp_path / "refs.json", zarr_format=3, series=1)
    (image,) = ome_types.from_xml(store[OME_XML].decode()).images
    assert (image.id, OME_XML in store) == ("Image:1", True)
    assert OME_XML not in references.to_kerchunk(2)["refs"]


GOOD = {"name": "a", "axes": [{"name": "c"}], "datasets": [{"path": "a"}], "positions": "r"}


@pytest.mark.parametrize(
    "change",
    [{"name": 3}, {"axes": None}, {"axes": [{"name": "r"}]}, {"axes": [3]}, {"datasets": "a"},
     {"datasets": [{"path": "b"}]}, {"datasets": [{"path": "a"}, {"path": "short"}]},
     {"positions": "c"}, {"positions": ["r"]}, {"positions": "q"}],
    ids=str,
)  # fmt: skip
def test_invalid_positions_of_other_programs_are_ignored(change):
    manifest = Manifest.from_columns((2, 1), (Source("/a.tif"),), [0, 3], [3, 3])
    codec = plain_codec(3, "|u1")
    array = Array((2, 3), (1, 3), np.dtype("u1"), ("r", "c"), (codec,), manifest)
    one = Manifest.from_columns((1, 1), (Source("/a.tif"),), [0], [3])
    short = Array((1, 3), (1, 3), np.dtype("u1"), ("r", "c"), (codec,), one)

    def group(entry):
        arrays = {"a": array, "short": short}
        return Group(arrays, {"ngff": json.dumps({"multiscales": [entry]})})

    assert [*split_positions(group(GOOD), ())[0].children] == ["short", "a_r0", "a_r1"]
    root = group({**GOOD, **change})
    assert split_positions(root, ()) == (root, ())
    assert References(root).to_kerchunk(3)["refs"]["a/zarr.json"]


@pytest.mark.parametrize("value", ["<OME", ["https://example.org/a.xml"], ["a.xml", 0, 9]])
@pytest.mark.parametrize("series", [["0", "9", 3, None], "0", {}, None])
def test_ome_xml_of_other_programs_is_not_read(tmp_path, value, series):
    write_two_images(tmp_path / "a.ome.tif")
    document = tiffref.scan(tmp_path / "a.ome.tif").to_kerchunk(3)
    group = json.loads(document["refs"]["OME/zarr.json"])
    group["attributes"]["ome"]["series"] = series
    document["refs"] |= {"OME/zarr.json": json.dumps(group), OME_XML: value}
    text = References.from_kerchunk(document).to_kerchunk(3)["refs"].get(OME_XML, "")
    assert text.count("<Image ") == isinstance(series, list)


def test_an_image_without_sizes_is_ordered_where_it_is_asked_for(tmp_path):
    import tifffile

    data = np.random.default_rng(1).integers(0, 255, (20, 31, 3)).astype("u1")
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", compression="zlib")
    assert tiffref.scan(tmp_path / "a.tif").group["image"].dims == ("y", "x", "s")
    group = open_group(
        tiffref.scan(tmp_path / "a.tif", axes="ngff").to_kerchunk(3), tmp_path / "refs.json"
    )
    assert_valid(dict(group.attrs), "0.5")
    np.testing.assert_array_equal(group["image"][...], data.transpose(2, 0, 1))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_bands_first_is_what_rasterio_reads(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    import tifffile

    data = np.random.default_rng(1).integers(0, 255, (40, 31, 3)).astype("u1")
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", compression="zlib")
    references = tiffref.scan(tmp_path / "a.tif", axes="bands-first")
    assert references.group["image"].dims == ("s", "y", "x")
    with rasterio.open(tmp_path / "a.tif") as expected:
        for zarr_format in (2, 3):
            document = references.to_kerchunk(zarr_format)
            group = open_group(document, tmp_path / f"refs{zarr_format}.json")
            np.testing.assert_array_equal(group["image"][...], expected.read())


@pytest.mark.parametrize("layout", ["dataset", "tree"])
def test_bands_first_stays_so_in_zarr_v3(tmp_path, layout):
    data = write_imagej_stack(tmp_path / "a.tif")
    references = tiffref.scan(tmp_path / "a.tif", axes="bands-first", layout=layout)
    group = open_group(references.to_kerchunk(3), tmp_path / "refs.json")
    path = "0/image" if layout == "tree" else "image"
    assert group[path].metadata.dimension_names == ("t", "z", "c", "y", "x")
    assert "ome" not in group.attrs
    np.testing.assert_array_equal(group[path][...], data)


def test_bands_first_has_the_order_of_ome_ngff_where_both_are_the_same(tmp_path):
    levels = write_rgb_pyramid(tmp_path / "a.ome.tif", compression="zlib")
    document = tiffref.scan(tmp_path / "a.ome.tif", axes="bands-first").to_kerchunk(3)
    group = open_group(document, tmp_path / "refs.json")
    assert_valid(dict(group.attrs), "0.5")
    for n, expected in enumerate(levels):
        np.testing.assert_array_equal(group[f"{n}/image"][...], expected.transpose(2, 0, 1))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_tree_of_one_level_has_its_group(tmp_path, zarr_format):
    data = write_imagej_stack(tmp_path / "a.tif")
    references = tiffref.scan(tmp_path / "a.tif", layout="tree", axes="ngff")
    group = open_group(references.to_kerchunk(zarr_format), tmp_path / "refs.json")
    np.testing.assert_array_equal(group["0/image"][...], np.moveaxis(data, 2, 1))


# ---- bad input


def test_unknown_axis_orders_are_refused(tmp_path):
    write_imagej_stack(tmp_path / "a.tif")
    with pytest.raises(SelectionError, match="as-stored, ngff, bands-first"):
        tiffref.scan(tmp_path / "a.tif", axes="zyx")


def test_axes_that_ome_ngff_does_not_admit(tmp_path):
    import tifffile

    data = np.zeros((2, 2, 2, 3, 20, 31), "u1")
    tifffile.imwrite(tmp_path / "a.ome.tif", data, photometric="minisblack",
                     metadata={"axes": "TQCPYX"})  # fmt: skip
    with pytest.raises(SelectionError, match="as-stored"):
        tiffref.scan(tmp_path / "a.ome.tif", axes="ngff")
    # the default leaves such an image as it is
    document = tiffref.scan(tmp_path / "a.ome.tif").to_kerchunk(3)
    assert "image/zarr.json" in document["refs"]


def write_lifetimes(path, along, sizes, order="XYCZT"):
    """Write planes whose `along` has lifetimes of 0.5 ns, 0.7 ns, ... stored in it."""
    import tifffile

    data = np.arange(np.prod([*sizes.values(), 8, 9]), dtype="u2").reshape(-1, 8, 9)
    counts = " ".join(f'Size{axis}="{n}"' for axis, n in sizes.items())
    text = (
        f'<OME><Image ID="Image:0"><Pixels DimensionOrder="{order}" Type="uint16" SizeX="9" '
        f'SizeY="8" {counts} PhysicalSizeX="0.5"><TiffData/></Pixels><AnnotationRef ID="a"/>'
        '<AnnotationRef ID="b"/></Image><StructuredAnnotations><XMLAnnotation ID="a"/>'
        '<XMLAnnotation ID="b" Namespace="openmicroscopy.org/omero/dimension/modulo"><Value>'
        f'<Modulo><ModuloAlong{along} Type="lifetime" Unit="ps" Start="500" Step="200" '
        'End="1100"/></Modulo></Value></XMLAnnotation></StructuredAnnotations></OME>'
    )
    tifffile.imwrite(path, data, description=text, metadata=None, photometric="minisblack",
                     compression="zlib")  # fmt: skip
    return data


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("along", "sizes"), [("T", {"T": 4, "Z": 3, "C": 2}), ("C", {"T": 1, "Z": 3, "C": 8})]
)
def test_lifetimes_beside_channels_are_the_time_axis(tmp_path, along, sizes, zarr_format):
    data = write_lifetimes(tmp_path / "a.ome.tif", along, sizes)
    stored = data.reshape(4, 3, 2, 8, 9) if along == "T" else data.reshape(3, 2, 4, 8, 9)
    expected = stored.transpose((0, 2, 1, 3, 4) if along == "T" else (2, 1, 0, 3, 4))
    references = tiffref.scan(tmp_path / "a.ome.tif", axes="ngff", strict=True)
    group = open_group(references.to_kerchunk(zarr_format), tmp_path / "refs.json")
    version = "0.4" if zarr_format == 2 else "0.5"
    assert_valid(dict(group.attrs), version)
    (entry,) = (group.attrs if zarr_format == 2 else group.attrs["ome"])["multiscales"]
    assert [axis["name"] for axis in entry["axes"]] == ["h", "c", "z", "y", "x"]
    assert entry["axes"][0] == {"name": "h", "type": "time", "unit": "picosecond"}
    scale, translation = entry["datasets"][0]["coordinateTransformations"]
    assert (scale["scale"][0], translation["translation"][0]) == (200.0, 500.0)
    np.testing.assert_array_equal(group["image"][...], expected)
    assert group["h"][...].tolist() == [500.0, 700.0, 900.0, 1100.0]
    assert group["h"].attrs["units"] == "picosecond"


CHANNELS_APART = [("TECYX", (2, 4, 3)), ("CEYX", (3, 4)), ("THCYX", (2, 4, 3)), ("CYXS", (3,)),
                  ("TCYXS", (2, 3)), ("CSYX", (3,)), ("TCZQYX", (2, 3, 2, 4))]  # fmt: skip


@pytest.mark.parametrize(("axes", "sizes"), CHANNELS_APART)
def test_channels_beside_another_axis_are_images(tmp_path, axes, sizes):
    """OME-NGFF allows one axis besides t, z, y and x: colors, spectra or lifetimes."""
    import tifffile

    size = (32, 48) if axes.endswith("YX") else (32, 48, 3)
    size = (3, *size) if "SYX" in axes else size
    n_levels, byteorder = (1, ">") if "E" in axes or axes == "CYXS" else (2, "<")
    data = np.random.default_rng(0).integers(0, 99, (*sizes, *size)).astype("u2")
    names = ["DAPI", "FITC", "Cy5"]
    options = {"photometric": "rgb" if "S" in axes else "minisblack"}
    options["tile"] = (16, 16) if n_levels > 1 else None  # without, a chunk has several planes
    options["planarconfig"] = "separate" if "SYX" in axes else None
    path, document = tmp_path / "a.ome.tif", tmp_path / "refs.json"
    with tifffile.TiffWriter(path, ome=True, byteorder=byteorder) as tif:
        metadata = {"axes": axes, "Name": "cell", "Channel": {"Name": names}, "PhysicalSizeX": 0.5}
        tif.write(data, metadata=metadata, subifds=n_levels - 1, **options)
        for _ in range(n_levels - 1):
            step = tuple(slice(None, None, 2 if axis in "YX" else 1) for axis in axes)
            tif.write(data[step], subfiletype=1, **options)
    references = tiffref.scan(path)
    assert references.group["image"].shape == tifffile.imread(path).shape
    stored = [*references.group["image"].dims]
    references.write_fsspec(document, zarr_format=3)
    tiffref.scan(path, axes="ngff").write_fsspec(tmp_path / "v2.json")
    for source in (document, tmp_path / "v2.json"):
        assert tiffref.validate(source, pixels="all").findings == []
    group = open_group(tiffref.References.open(document).to_kerchunk(3), tmp_path / "again.json")
    assert sorted(group) == ["0", "1", "2", "OME"]
    for n, name in enumerate(names):
        ome = group[str(n)].attrs["ome"]
        assert_valid(dict(group[str(n)].attrs), "0.5")
        (entry,) = ome["multiscales"]
        assert entry["name"] == f"cell {name}"
        colors = ome.get("omero", {}).get("channels", [])
        shown = [("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF")] if "S" in axes else []
        assert [(one["label"], one["color"]) for one in colors] == shown
        assert len(entry["datasets"]) == n_levels
        own = tifffile.imread(path).take(n, stored.index("c"))
        kept = [letter for letter in stored if letter != "c"]
        order = [kept.index({"c": "s"}.get(axis["name"], axis["name"])) for axis in entry["axes"]]
        pixels = group[f"{n}/{entry['datasets'][0]['path']}"][...]
        np.testing.assert_array_equal(pixels, own.transpose(order))


def test_an_image_beside_one_that_ome_ngff_does_not_admit(tmp_path):
    import tifffile

    other, grey = np.ones((2, 2, 2, 3, 20, 31), "u1"), np.full((3, 8, 9), 2, "u1")
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        sizes = {"axes": "TQCPYX", "PhysicalSizeX": 0.5}
        writer.write(other, photometric="minisblack", metadata=sizes)
        writer.write(grey, photometric="minisblack", metadata={"axes": "ZYX", "PhysicalSizeX": 2.0})
    references = tiffref.scan(tmp_path / "a.ome.tif")
    group = open_group(references.to_kerchunk(3), tmp_path / "refs.json")
    np.testing.assert_array_equal(group["image"][...], other)
    np.testing.assert_array_equal(group["0/image"][...], grey)
    assert_valid(dict(group["0"].attrs), "0.5")
    assert group["OME"].attrs["ome"]["series"] == ["0"]
    again = References.from_kerchunk(references.to_kerchunk(2), allow="*").to_kerchunk(3)
    assert again["refs"].keys() == references.to_kerchunk(3)["refs"].keys()


def test_maps_get_the_hint_to_use_bands_first(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("pyproj")
    transform = rasterio.Affine(10, 0, 5e5, 0, -10, 5.2e6)
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", width=8, height=8, count=1,
                       dtype="uint8", crs="EPSG:32633", transform=transform) as target:  # fmt: skip
        target.write(np.zeros((1, 8, 8), "u1"))
    with pytest.raises(SelectionError, match="bands-first"):
        tiffref.scan(tmp_path / "a.tif", axes="ngff")


def test_documents_of_others_with_metadata_that_does_not_fit_stay_as_they_are(tmp_path):
    write_ome_pyramid(tmp_path / "a.ome.tif")
    document = tiffref.scan(tmp_path / "a.ome.tif").to_kerchunk()
    for wrong in ([{"axes": ["y", "x"], "datasets": [{"path": "0"}]}], [7], [{}]):
        root = json.loads(document["refs"][".zattrs"])
        changed = {**document["refs"], ".zattrs": json.dumps({**root, "multiscales": wrong})}
        references = References.from_kerchunk({"version": 1, "refs": changed}, allow="*")
        attributes = json.loads(references.to_kerchunk(3)["refs"]["zarr.json"])["attributes"]
        assert attributes["multiscales"] == wrong


@pytest.mark.parametrize("wrong", [3, None, [3], [{"axes": 3}], {"a": 1}, "x"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_documents_of_others_whose_metadata_has_other_types(tmp_path, zarr_format, wrong):
    write_imagej_stack(tmp_path / "a.tif")
    document = tiffref.scan(tmp_path / "a.tif").to_kerchunk(zarr_format)
    node = json.loads(document["refs"].get("zarr.json") or document["refs"][".zattrs"])
    attributes = node["attributes"] if zarr_format == 3 else node
    for name in ("multiscales", "omero"):
        images = {"multiscales": [], name: wrong}
        changed = {**attributes, "ome": images, "ngff": json.dumps(images), "omero": wrong}
        node = {**node, "attributes": changed} if zarr_format == 3 else changed
        key = "zarr.json" if zarr_format == 3 else ".zattrs"
        refs = {**document["refs"], key: json.dumps(node)}
        references = References.from_kerchunk({"version": 1, "refs": refs}, allow="*")
        assert image_channels(references.group) == {}
        assert references.to_kerchunk(2)["refs"] and references.to_kerchunk(3)["refs"]


def test_names_that_clash(tmp_path):
    write_ome_pyramid(tmp_path / "a.ome.tif")
    references = tiffref.scan(tmp_path / "a.ome.tif")
    other = Group({"image": Array.from_values(np.zeros(3), ("y",), {"role": "mask"})})
    group = references.group.with_children({**references.group.children, "0": other})
    with pytest.raises(tiffref.InvalidReferences, match=r"series=.*zarr_format=2"):
        References(group, references.series).to_kerchunk(3)


def test_a_transpose_that_zarr_v2_cannot_express(tmp_path):
    write_rgb_pyramid(tmp_path / "a.ome.tif")
    document = tiffref.scan(tmp_path / "a.ome.tif").to_kerchunk()
    key = "image/.zarray"
    zarray = {**json.loads(document["refs"][key]), "filters": [{"id": "crc32"}]}
    document["refs"][key] = json.dumps(zarray)
    with pytest.raises(UnsupportedTiff, match="as-stored"):
        References.from_kerchunk(document, allow="*").with_axes("ngff")
