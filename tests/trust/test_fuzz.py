"""Mutated TIFFs: only typed errors, no crash, no hang, no memory out of proportion.

The long run is `TIFFREF_FUZZ_COUNT=200000 pytest -m slow tests/trust/test_fuzz.py`, or
`python tests/trust/fuzzing.py FIRST COUNT`.
"""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import hostile
import numpy as np
import pytest
import tifffile
from fuzzing import FIRST_HOSTILE, make_case, run, try_file
from mutate import find_entries, mutate
from seeds import GRAY, SEEDS, pages

import tiffref
from tiffref.codecs.decode import decode_segment
from tiffref.codecs.guard import HARMLESS_BYTES
from tiffref.errors import MalformedTiff, MetadataWarning, TiffrefError
from tiffref.model.codec import SegmentCodec
from tiffref.zarr import ZarrTiffStore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory and time of a child")

N_MUTATIONS = 600
N_HOSTILE = 240


def test_mutated_files() -> None:
    report = run(0, N_MUTATIONS)
    assert report["problems"] == []
    assert report["outcomes"]["read"] > N_MUTATIONS // 5
    assert report["outcomes"]["refused"] > N_MUTATIONS // 5


def test_files_built_to_do_harm() -> None:
    report = run(FIRST_HOSTILE, N_HOSTILE)
    assert report["problems"] == []
    assert report["outcomes"]["read"] > N_HOSTILE // 5


@pytest.mark.slow
@pytest.mark.skipif("TIFFREF_FUZZ_COUNT" not in os.environ, reason="runs for minutes to hours")
def test_many_mutated_files() -> None:
    count = int(os.environ["TIFFREF_FUZZ_COUNT"])
    assert run(N_MUTATIONS, count)["problems"] == []


# the bits of the fax seeds are noise, which not every version of the decoder takes
@pytest.mark.parametrize("name", [name for name in SEEDS if not name.startswith("ccitt")])
def test_seeds_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "seed.tif"
    path.write_bytes(SEEDS[name]())
    assert tiffref.scan(path).sources[0].size == path.stat().st_size


def test_mutations_are_the_same_for_the_same_seed() -> None:
    data = SEEDS["plain"]()
    assert [mutate(data, n) for n in range(50)] == [mutate(data, n) for n in range(50)]
    assert len({mutate(data, n) for n in range(50)}) > 40


def set_tag(data: bytes, code: int, value: int, kind: int = 4, page: int | None = None) -> bytes:
    """Let all pages, or one, say another value for a tag."""
    result = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    places = [at for at, _, _ in find_entries(data) if get(data, f"{order}H", at) == code]
    for at in places if page is None else [places[page]]:
        struct.pack_into(f"{order}HII", result, at + 2, kind, 1, value)
    return bytes(result)


def get(data: bytes | bytearray, form: str, at: int) -> int:
    return struct.unpack_from(form, data, at)[0]


@pytest.mark.parametrize("name", ["plain", "zlib", "jpeg", "packbits", "ccitt4"])
@pytest.mark.parametrize(
    "sizes", [{256: 2_147_000_000, 257: 65_535}, {257: 4_294_967_295, 278: 4_294_967_295}]
)
def test_absurd_sizes_allocate_nothing(name: str, sizes: dict[int, int], tmp_path: Path) -> None:
    """A file of some KiB that says billions of pixels is refused, or none of its chunks decodes."""
    data = SEEDS[name]()
    for code, value in sizes.items():
        data = set_tag(data, code, value)
    path = tmp_path / "absurd.tif"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        store = ZarrTiffStore(path)
        with pytest.raises(TiffrefError):
            store[0, 0]
    except TiffrefError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < HARMLESS_BYTES * 2


def test_directories_in_a_circle_end(tmp_path: Path) -> None:
    data = bytearray(pages(120))
    offsets = []
    (offset,) = struct.unpack_from("<I", data, 4)
    while offset:
        (n,) = struct.unpack_from("<H", data, offset)
        offsets.append(offset)
        end = offset + 2 + 12 * n
        (offset,) = struct.unpack_from("<I", data, end)
    struct.pack_into("<I", data, end, offsets[1])
    path = tmp_path / "circle.tif"
    path.write_bytes(data)
    whole = tmp_path / "whole.tif"
    whole.write_bytes(pages(120))
    with pytest.warns(MetadataWarning, match="returns to an earlier one"):
        found = ZarrTiffStore(path)
    assert (found[:] == ZarrTiffStore(whole)[:]).all()


@pytest.mark.parametrize(
    ("seed", "name"),
    [(4072, "imagej"), (4184936, "imagej"), (4784, "many-pages"), (1071249, "ome")],
)
def test_circles_that_are_walked_page_by_page(seed: int, name: str, tmp_path: Path) -> None:
    """tifffile finds circles when it counts pages, not when it walks them: these once hung."""
    path = tmp_path / "circle.tif"
    path.write_bytes(mutate(SEEDS[name](), seed))
    command = [sys.executable, "-c", "import sys, tiffref; tiffref.scan(sys.argv[1])", str(path)]
    subprocess.run(command, timeout=60, check=False, capture_output=True)


def test_directories_that_overlap_are_refused(tmp_path: Path) -> None:
    """Each directory of 4000 entries begins 6 bytes behind the last."""
    n = 20_000
    data = bytearray(b"II*\0\x08\0\0\0") + bytes(8 + 12 * n)
    rng = random.Random(1)
    for k in range(1, 3000):
        at = 8 + 6 * k
        struct.pack_into("<H", data, at, 4000)
        struct.pack_into("<I", data, at + 2 + 12 * 4000, at + 6)
    struct.pack_into("<I", data, 4, 14)
    path = tmp_path / "overlap.tif"
    path.write_bytes(bytes(data) + rng.randbytes(10))
    with pytest.raises(MalformedTiff, match="overlap"):
        tiffref.scan(path)


@pytest.mark.parametrize("code", [256, 257])
@pytest.mark.parametrize("where", [0, 1, "below"])
def test_negative_sizes_are_refused(where: int | str, code: int, tmp_path: Path) -> None:
    """tifffile steps back over the pages of such series and never comes to their end."""
    data = SEEDS["pyramid" if where == "below" else "shaped"]()
    if where == 1:
        data = write_two()
    if where == "below":
        entry = next(at for at, _, _ in find_entries(data) if get(data, "<H", at) == 330)
        hidden = bytearray(data)
        below = get(data, "<I", entry + 8)
        struct.pack_into("<I", hidden, 4, below)  # as if it were the first directory
        changed = set_tag(bytes(hidden), code, 0xFFFF, kind=8, page=0)
        data = changed[:4] + data[4:8] + changed[8:]
    else:
        data = set_tag(data, code, 0xFFFF, kind=8, page=int(where))
    path = tmp_path / "negative.tif"
    path.write_bytes(data)
    with pytest.raises(MalformedTiff, match="negative"):
        tiffref.scan(path)


def write_two() -> bytes:
    """Return a file of two series that tifffile describes."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(GRAY)
        writer.write(GRAY[:20])
    return buffer.getvalue()


def test_sizes_beyond_64_bits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.tif"
    data = SEEDS["plain"]()
    for code, value in ((256, 0xFFFFFFFF), (257, 0xFFFFFFFF), (278, 0xFFFFFFFF), (277, 32767)):
        data = set_tag(data, code, value)
    path.write_bytes(data)
    with pytest.raises(MalformedTiff, match="exceeds 63 bits"):
        tiffref.scan(path)


def test_widths_beyond_64_bits_are_refused_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "empty.tif"
    image = [(256, 16, 1, (1 << 63).to_bytes(8, "little")), (257, 4, 1, bytes(4))]
    path.write_bytes(hostile.build([image], big=True))
    with pytest.raises(MalformedTiff, match="exceeds 63 bits"):
        tiffref.scan(path)


def test_tables_that_are_numbers_are_ignored(tmp_path: Path) -> None:
    """A number of 4 billion once became 4 billion bytes of tables."""
    path = tmp_path / "tables.tif"
    data = SEEDS["plain"]()
    entry = next(at for at, _, _ in find_entries(data) if get(data, "<H", at) == 282)
    path.write_bytes(
        data[:entry] + struct.pack("<HHII", 347, 4, 1, 0xFFFFFF00) + data[entry + 12 :]
    )
    codec = tiffref.scan(path).group.arrays()[0][1].codecs[0]
    assert "jpeg_tables" not in codec.parameters


@pytest.mark.parametrize(("page", "code"), [(0, 277), (0, 32997), (1, 32997)])
def test_factors_that_are_not_numbers_are_refused(page: int, code: int, tmp_path: Path) -> None:
    """tifffile made billions of copies of a pair, one for each strip."""
    data = bytearray(write_two())
    old = 277 if code == 277 else 282  # of a tag that is there twice the first counts
    at = [at for at, _, _ in find_entries(bytes(data)) if get(data, "<H", at) == old][page]
    if code == 277:
        struct.pack_into("<I", data, at + 8, 8)
    struct.pack_into("<HHI", data, at, code, 5, 1)
    path = tmp_path / "factor.tif"
    path.write_bytes(data)
    with pytest.raises(MalformedTiff, match="not a single integer"):
        tiffref.scan(path)


@pytest.mark.parametrize(
    "attributes",
    [
        'DimensionOrder="XYCZT" SizeC="999999" SizeT="999999999"',
        f'DimensionOrder="XYCZT" SizeT="{"9" * 5000}"',
        'DimensionOrder="CZTXY"',
    ],
)
def test_companions_that_ask_for_too_much_are_refused(attributes: str, tmp_path: Path) -> None:
    path = tmp_path / "set.companion.ome"
    path.write_text(f"<OME><Image><Pixels {attributes}/></Image></OME>")
    with pytest.raises(MalformedTiff):
        tiffref.scan(path)


@pytest.mark.parametrize(
    "text",
    [
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="i"><Pixels '
        'ID="p" DimensionOrder="XYCZT" Type="uint8" SizeX="64" SizeY="48" SizeC="1" SizeZ="1" '
        'SizeT="500000000">{}</Pixels></Image></OME>',
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="i"><Pixels '
        'ID="p" DimensionOrder="XYCZT" Type="uint8" SizeX="64" SizeY="48" SizeC="1" SizeZ="1" '
        'SizeT="1"><TiffData IFD="500000000" PlaneCount="1"/>{}</Pixels></Image></OME>',
    ],
)
def test_descriptions_of_too_many_planes(text: str, tmp_path: Path) -> None:
    """The pixels are there all the same, and no list is made of half a billion places."""
    path = tmp_path / "many.ome.tif"
    tifffile.imwrite(path, GRAY, description=text.format("<TiffData/>"), metadata=None)
    tracemalloc.start()
    try:
        with pytest.warns(MetadataWarning):
            store = ZarrTiffStore(path)
        np.testing.assert_array_equal(store[:], GRAY)
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


def test_blocks_of_colours_are_in_proportion() -> None:
    codec = SegmentCodec(
        (1, 16, 16, 3), "|u1", compression=8, photometric=6,
        parameters={"subsampling": (65535, 65535)},
    )  # fmt: skip
    with pytest.raises(MalformedTiff, match="proportion"):
        decode_segment(codec, bytes(100))


def test_decoders_refuse_bombs() -> None:
    codec = SegmentCodec((1, 1 << 15, 1 << 15, 1), "|u1", compression=8)
    with pytest.raises(MalformedTiff, match="proportion"):
        decode_segment(codec, bytes(100))


@pytest.mark.filterwarnings("ignore::tiffref.MetadataWarning")
@pytest.mark.filterwarnings("ignore::tiffref.TruncationWarning")
@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(7_001_311, id="tiles without samples and byte counts"),
        pytest.param(7_003_532, id="a directory of GeoKeys that is NaN"),
        pytest.param(8_014_403, id="an image of negative size without byte counts"),
        pytest.param(8_015_609, id="overviews of an image without columns"),
    ],
)
def test_seeds_that_once_gave_untyped_errors(seed: int, tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(make_case(seed)[2])
    assert try_file(tmp_path / "a.tif") in ("read", "refused")
