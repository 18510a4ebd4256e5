"""OME-TIFF sets: sub-folders, companion files, mixed byte orders, missing members."""

import uuid
from pathlib import Path

import numpy as np
import pytest
import tifffile
from samples import rng

import tiffref
from tiffref.errors import (
    MalformedTiff,
    ManifestMismatch,
    MetadataWarning,
    MissingSource,
    SourceError,
)
from tiffref.zarr import ZarrTiffStore

SHAPE = (40, 48)


def ome_xml(names, n_planes, dtype="uint16", order="XYZTC", root="", physical=""):
    """OME-XML of one image whose channels are the files and whose z planes are their pages."""
    blocks = "".join(
        f'<TiffData IFD="0" PlaneCount="{n_planes}" FirstZ="0" FirstC="{c}" FirstT="0">'
        f'<UUID FileName="{name}">urn:uuid:{one}</UUID></TiffData>'
        for c, (name, one) in enumerate(names.items())
    )
    channels = "".join(f'<Channel ID="Channel:0:{c}" Name="ch{c}"/>' for c in range(len(names)))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" {root}>'
        '<Image ID="Image:0" Name="set"><Pixels ID="Pixels:0" '
        f'DimensionOrder="{order}" Type="{dtype}" SizeX="{SHAPE[1]}" SizeY="{SHAPE[0]}" '
        f'SizeZ="{n_planes}" SizeC="{len(names)}" SizeT="1" {physical}>{channels}{blocks}'
        "</Pixels></Image></OME>"
    )


def write_set(
    folder: Path, names, *, dtype="u2", byteorders=None, companion=None, n_planes=3, **how
):
    """Write a set; the OME-XML is in each member, or in a companion file."""
    ids = {name: uuid.uuid5(uuid.NAMESPACE_URL, name) for name in names}
    data = (rng.random((len(names), n_planes, *SHAPE)) * 200).astype(dtype)
    kind = np.dtype(dtype).name
    for c, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if companion:
            text = (
                '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
                f'UUID="urn:uuid:{ids[name]}">'
                f'<BinaryOnly MetadataFile="{companion}" UUID="urn:uuid:0"/></OME>'
            )
        else:
            text = ome_xml(ids, n_planes, kind, root=f'UUID="urn:uuid:{ids[name]}"')
        tifffile.imwrite(
            path, data[c], photometric="minisblack", metadata=None, description=text,
            byteorder=(byteorders or ["<"] * len(names))[c], **how,
        )  # fmt: skip
    if companion:
        text = ome_xml(ids, n_planes, kind, physical='PhysicalSizeX="0.5" PhysicalSizeY="0.5"')
        (folder / companion).write_text(text)
    return data


def assert_pixels(references, data):
    np.testing.assert_array_equal(ZarrTiffStore(references)[...], data)


@pytest.mark.parametrize("how", [{}, {"compression": "zlib", "tile": (16, 16)}])
def test_members_in_sub_folders(tmp_path, how):
    names = ["first.ome.tif", "a/same.ome.tif", "b/same.ome.tif"]
    data = write_set(tmp_path, names, **how)
    references = tiffref.scan(tmp_path / names[0])
    assert_pixels(references, data)
    assert {source.url for source in references.sources} == {str(tmp_path / n) for n in names}
    document = references.to_kerchunk()["refs"]
    assert document["image/1.0.0.0"][0] == f"file://{tmp_path}/a/same.ome.tif"


@pytest.mark.parametrize("how", [{}, {"compression": "zlib"}])
def test_a_companion_file_describes_members_below_it(tmp_path, how):
    names = ["x/one.ome.tif", "y/one.ome.tif", "two.ome.tif"]
    data = write_set(tmp_path, names, companion="set.companion.ome", **how)
    references = tiffref.scan(tmp_path / "set.companion.ome")
    assert_pixels(references, data)
    assert references.group["image"].dims == ("c", "z", "y", "x")
    # the companion file's metadata, not that of a member
    assert references.group["x"].attributes["units"] == "micrometer"


@pytest.mark.parametrize("where", ["here", "memory"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
def test_a_companion_file_may_be_remote_and_in_any_encoding(tmp_path, encoding, where):
    name = "set.companion.ome"
    data = write_set(tmp_path, ["é.ome.tif", "b.ome.tif"], companion=name)
    text = (tmp_path / name).read_text().replace('"UTF-8"', f'"{encoding.removesuffix("-sig")}"')
    (tmp_path / name).write_bytes(text.replace("ch1", "µ").encode(encoding))
    url = str(tmp_path / name)
    if where == "memory":
        folder = pytest.importorskip("fsspec").filesystem("memory")
        for path in tmp_path.iterdir():
            folder.pipe(f"/{tmp_path.name}/{path.name}", path.read_bytes())
        url = f"memory://{tmp_path.name}/{name}"
    references = tiffref.scan(url, strict=True)
    assert_pixels(references, data)
    assert references.group["image"].attributes["channel_names"] == ["ch0", "µ"]
    member = tiffref.scan(url.replace(name, "b.ome.tif"), strict=True)
    assert member.group["image"].attributes["channel_names"] == ["µ"]


def test_planes_of_a_companion_file_follow_its_dimension_order(tmp_path):
    data = (rng.random((2, 3, *SHAPE)) * 200).astype("u1")  # t, z
    tifffile.imwrite(tmp_path / "m.ome.tif", data, photometric="minisblack", metadata=None)
    text = ome_xml({"m.ome.tif": 1}, 6, "uint8").replace('SizeZ="6"', 'SizeZ="3"')
    text = text.replace('SizeT="1"', 'SizeT="2"')
    (tmp_path / "m.companion.ome").write_text(text)
    assert_pixels(tiffref.scan(tmp_path / "m.companion.ome"), data)
    text = text.replace('PlaneCount="6"', 'PlaneCount="7"')
    (tmp_path / "m.companion.ome").write_text(text)
    with pytest.raises(MalformedTiff, match="does not exist"):
        tiffref.scan(tmp_path / "m.companion.ome")


@pytest.mark.parametrize("place", ['FirstC="1"', 'FirstT="1"'])
def test_planes_of_a_companion_file_stay_on_their_axes(tmp_path, place):
    tifffile.imwrite(tmp_path / "m.ome.tif", np.zeros((3, *SHAPE), "u1"), metadata=None)
    text = ome_xml({"m.ome.tif": 1}, 3, "uint8", order="XYTCZ")
    # plane 1 along an axis of one would be the next plane along z
    text = text.replace('PlaneCount="3"', 'PlaneCount="1"').replace(place[:7] + '"0"', place)
    assert place in text
    (tmp_path / "m.companion.ome").write_text(text)
    with pytest.raises(MalformedTiff, match=r"plane that does not exist.*less than 1"):
        tiffref.scan(tmp_path / "m.companion.ome", allow_holes=True)


def test_a_missing_member_is_named_or_left_as_a_hole(tmp_path):
    names = ["first.ome.tif", "a/second.ome.tif", "b/third.ome.tif"]
    data = write_set(tmp_path, names)
    (tmp_path / names[1]).unlink()
    with pytest.raises(MalformedTiff, match=r"3 of 9 pages are missing.*a/second"):
        tiffref.scan(tmp_path / names[0])
    references = tiffref.scan(tmp_path / names[0], allow_holes=True)
    data[1] = 0
    assert_pixels(references, data)
    (level,) = references.series[0]["levels"]
    assert level["missing_pages"] == 3
    assert level["missing_files"] == ["a/second.ome.tif"]


def test_a_companion_file_with_missing_members(tmp_path):
    names = ["x/one.ome.tif", "y/two.ome.tif"]
    data = write_set(tmp_path, names, companion="set.companion.ome")
    (tmp_path / names[0]).unlink()
    with pytest.raises(MalformedTiff, match=r"x/one\.ome\.tif"):
        tiffref.scan(tmp_path / "set.companion.ome")
    data[0] = 0
    assert_pixels(tiffref.scan(tmp_path / "set.companion.ome", allow_holes=True), data)
    (tmp_path / names[1]).unlink()
    with pytest.raises(SourceError, match=r"no file of the set.*x/one\.ome\.tif"):
        tiffref.scan(tmp_path / "set.companion.ome", allow_holes=True)


def test_members_of_a_companion_file_whose_names_were_exchanged(tmp_path):
    names = ["one.ome.tif", "two.ome.tif"]
    write_set(tmp_path, names, companion="set.companion.ome")
    one, two = (tmp_path / name for name in names)
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    with pytest.warns(MetadataWarning, match="UUID of another file"):
        tiffref.scan(tmp_path / "set.companion.ome")
    with pytest.raises(MalformedTiff, match="UUID of another file"):
        tiffref.scan(tmp_path / "set.companion.ome", strict=True)


def test_an_invalid_companion_file_is_refused(tmp_path):
    (tmp_path / "a.companion.ome").write_text("<OME>")
    with pytest.raises(MalformedTiff, match="not OME-XML"):
        tiffref.scan(tmp_path / "a.companion.ome")
    (tmp_path / "b.companion.ome").write_text("<OME/>")
    with pytest.raises(SourceError, match="has no image"):
        tiffref.scan(tmp_path / "b.companion.ome")
    with pytest.raises(MissingSource) as caught:
        tiffref.scan(tmp_path / "c.companion.ome")
    assert caught.value.errno == 2
    (tmp_path / "d.companion.ome").mkdir()
    with pytest.raises(SourceError, match="is a folder") as caught:
        tiffref.scan(tmp_path / "d.companion.ome")
    assert not isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_members_of_mixed_byte_order_read_right(tmp_path, dtype):
    data = write_set(tmp_path, ["a.ome.tif", "b.ome.tif"], dtype=dtype, byteorders="<>")
    references = tiffref.scan(tmp_path / "a.ome.tif")
    assert_pixels(references, data)
    if dtype == "u1":  # nothing to turn around
        assert not references.group["image"].manifest.inlined


def test_large_members_of_mixed_byte_order_are_decoded_and_not_exported(tmp_path):
    n_planes = 1 + (1 << 20) // (2 * SHAPE[0] * SHAPE[1])
    write_set(tmp_path, ["a.ome.tif", "b.ome.tif"], byteorders="<>", n_planes=n_planes)
    references = tiffref.scan(tmp_path / "a.ome.tif")
    with ZarrTiffStore(references) as store:
        np.testing.assert_array_equal(store[...], tifffile.imread(tmp_path / "a.ome.tif"))
    with pytest.raises(ManifestMismatch):
        references.to_kerchunk()
