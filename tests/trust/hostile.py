"""TIFFs built to do harm: what mutations of well-formed ones do not come to.

Each function takes a random generator and gives a name for the file and its bytes. `build` writes
directories of any entries whatever they say.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence

import imagecodecs
import numpy as np
from mutate import mutate
from seeds import COLOR, FLOATS, WIDE

__all__ = ["KINDS", "build", "make"]

Entry = tuple[int, int, int, bytes]
"""Tag, type, count, and the bytes of the values."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
          16: 8, 17: 8, 18: 8}  # fmt: skip
_NUMBERS = (0, 1, 2, 7, 8, 255, 256, 4095, 4096, 4097, 65535, 65536, (1 << 31) - 1, 1 << 31,
            (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-320, 1e-30, 1e30, 1e308, -1e308, *map(float, ("nan", "inf")))
_CODECS = (1, 5, 6, 7, 8, 34712, 34887, 34925, 34926, 50000, 50001, 50002, 52546)


def build(
    ifds: Sequence[Sequence[Entry]],
    order: str = "<",
    *,
    big: bool = False,
    data: bytes = b"",
    follow: Callable[[list[int], int], int] | None = None,
    below: Callable[[list[int], int], list[int]] | None = None,
) -> bytes:
    """Write a TIFF of directories that say whatever their entries say.

    Parameters
    ----------
    data
        Lies at byte 16.
    follow
        Gives the offset of the directory behind one, out of all offsets and its index; the next
        one by default.
    below
        Gives the SubIFDs (tag 330) of a directory in the same way.
    """
    pointer, count, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    head = (b"II" if order == "<" else b"MM") + struct.pack(
        f"{order}HHH" if big else f"{order}H", *((43, 8, 0) if big else (42,))
    )
    n_pointer = struct.calcsize(pointer)
    sizes = [
        struct.calcsize(order + count) + n_pointer
        + sum(struct.calcsize(order + entry) + n_pointer + _room(one, n_pointer) for one in ifd)
        + (256 if below else 0)
        for ifd in ifds
    ]  # fmt: skip
    start = 16 + len(data)
    offsets = [start + sum(sizes[:n]) for n in range(len(ifds))]
    body = bytearray(head + struct.pack(order + pointer, offsets[0])).ljust(16, b"\0") + data
    for n, ifd in enumerate(ifds):
        entries = list(ifd)
        if below is not None:
            places = below(offsets, n)[:30]
            packed = struct.pack(f"{order}{len(places)}{pointer}", *places)
            entries.append((330, 16 if big else 4, len(places), packed))
        where = offsets[n] + struct.calcsize(order + count) + n_pointer
        where += len(entries) * (struct.calcsize(order + entry) + n_pointer)
        text, far = struct.pack(order + count, len(entries)), b""
        for code, kind, many, values in sorted(entries):
            text += struct.pack(order + entry, code, kind, many)
            if len(values) <= n_pointer:
                text += values.ljust(n_pointer, b"\0")
            else:
                text += struct.pack(order + pointer, where + len(far))
                far += values
        following = offsets[n + 1] if n + 1 < len(ifds) else 0
        if follow is not None:
            following = follow(offsets, n)
        body += (text + struct.pack(order + pointer, following) + far).ljust(sizes[n], b"\0")
    return bytes(body)


def _room(entry: Entry, n_inline: int) -> int:
    return len(entry[3]) if len(entry[3]) > n_inline else 0


def _tag(code: int, *values: int, kind: int = 4, order: str = "<") -> Entry:
    form = {1: "B", 3: "H", 4: "I", 12: "d", 16: "Q"}[kind]
    most = 1 << (8 * _SIZES[kind])
    numbers = values if kind == 12 else [value % most for value in values]
    return code, kind, len(values), struct.pack(f"{order}{len(values)}{form}", *numbers)


def _text(code: int, text: str | bytes, kind: int = 2) -> Entry:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape") + b"\0"
    return code, kind, len(data), data


def _image(width: int = 16, length: int = 16, *more: Entry, **changed: int) -> list[Entry]:
    """Return the entries of a plain image whose strip lies at byte 16."""
    values = {"bits": 8, "compression": 1, "photometric": 1, "samples": 1, "rows": length,
              "n_bytes": 256, **changed}  # fmt: skip
    entries = [
        _tag(256, width), _tag(257, length), _tag(258, values["bits"], kind=3),
        _tag(259, values["compression"], kind=3), _tag(262, values["photometric"], kind=3),
        _tag(273, 16), _tag(277, values["samples"], kind=3), _tag(278, values["rows"]),
        _tag(279, values["n_bytes"]),
    ]  # fmt: skip
    codes = {code for code, *_ in more}
    return [entry for entry in entries if entry[0] not in codes] + list(more)


def _number(rng: random.Random) -> int:
    return rng.choice(_NUMBERS) if rng.random() < 0.8 else rng.getrandbits(rng.choice((8, 32, 64)))


PIXELS = bytes(range(256))


def segments(rng: random.Random) -> tuple[str, bytes]:
    """Offsets and lengths that overflow, overlap, or are far too many or too few."""
    big = rng.random() < 0.5
    kind = 16 if big else 4
    n = rng.choice((1, 2, 16, 16, 300, 5000))
    offsets = [rng.choice((16, 17, _number(rng))) for _ in range(n)]
    lengths = [rng.choice((16, 256, _number(rng))) for _ in range(rng.choice((n, n, n - 1, 1)))]
    codes = rng.choice(((273, 279), (324, 325)))
    more = [_tag(codes[0], *offsets, kind=kind), _tag(codes[1], *lengths, kind=kind)]
    if codes[0] == 324:
        more += [_tag(322, rng.choice((16, 17, 4096, _number(rng)))), _tag(323, 16)]
    width, length = (rng.choice((16, 64, 65536, _number(rng) % (1 << 32))) for _ in range(2))
    sizes = {"rows": rng.choice((1, 16, _number(rng) % (1 << 32)))}
    return "case.tif", build([_image(width, length, *more, **sizes)], big=big, data=PIXELS)


def sub_ifds(rng: random.Random) -> tuple[str, bytes]:
    """Directories below directories: deep, in circles, into the middle of things."""
    n = rng.choice((1, 2, 3, 40, 400))
    shape = rng.choice(("self", "deep", "circle", "all", "any"))
    ways: dict[str, Callable[[list[int], int], list[int]]] = {
        "self": lambda where, k: [where[k]] * rng.choice((1, 30)),
        "deep": lambda where, k: [where[min(k + 1, n - 1)]],
        "circle": lambda where, k: [where[(k + 1) % n]] * 2,
        "all": lambda where, k: where[:30],
        "any": lambda where, k: [rng.choice(where) + rng.choice((0, 0, 2, 14)) for _ in range(5)],
    }
    follow = rng.choice((None, lambda where, k: 0, lambda where, k: where[k - 1]))
    described = rng.choice(((), (_text(270, '{"shape": [16, 16]}'),)))
    image = _image(16, 16, *described, _text(305, "tifffile.py"))
    big = rng.random() < 0.3
    return "case.tif", build([image] * n, big=big, data=PIXELS, below=ways[shape], follow=follow)


def counts(rng: random.Random) -> tuple[str, bytes]:
    """Any tag of any type that says to have any number of values."""
    big = rng.random() < 0.4
    more = []
    for _ in range(rng.choice((1, 2, 6))):
        kind = rng.choice(tuple(_SIZES))
        many = _number(rng) % (1 << (64 if big else 32))
        more.append((rng.choice(_ANY_TAGS), kind, many, struct.pack("<Q", 16)[: 8 if big else 4]))
    return "case.tif", build([_image(16, 16, *more)], big=big, data=PIXELS * 20)


_ANY_TAGS = (254, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 282, 284, 292, 305,
             306, 317, 320, 322, 324, 325, 330, 338, 339, 347, 512, 513, 519, 529, 530, 32997,
             33421, 33550, 33628, 33629, 33630, 33631, 33922, 34264, 34361, 34362, 34377, 34412,
             34665, 34675, 34735, 34736, 34737, 42112, 42113, 43314, 50838, 50839, 50844, 51123,
             65000, 65420, 65426, 65439)  # fmt: skip


def described(rng: random.Random) -> tuple[str, bytes]:
    """Descriptions that ask for more than there is: XML, JSON and the texts of microscopes."""
    text = rng.choice(_TEXTS)(rng)
    more = [_text(270, text), _text(305, rng.choice(("tifffile.py", "Leica", "SCAN", "x")))]
    if rng.random() < 0.3:
        more.append(_text(42112, rng.choice(_TEXTS)(rng)))
    n = rng.choice((1, 1, 3))
    image = _image(16, 16, *more)
    name = rng.choice(("case.tif", "case.ome.tif", "case.svs", "case.ndpi", "case.scn"))
    return name, build([image, *[_image()] * (n - 1)], data=PIXELS)


def _laughs(rng: random.Random) -> str:
    levels = "".join(
        f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "ha" * 50}">' for n in range(10)
    )
    return f"<?xml version='1.0'?><!DOCTYPE x [{levels}]><OME><Image Name='&l9;'/></OME>"


def _external(rng: random.Random) -> str:
    place = rng.choice(("file:///etc/passwd", "http://127.0.0.1:1/x"))
    return f'<!DOCTYPE x [<!ENTITY e SYSTEM "{place}">]><OME><Image Name="a">&e;</Image></OME>'


def _nested(rng: random.Random) -> str:
    n = rng.choice((50, 2000, 100_000))
    name = rng.choice(("OME", "GDALMetadata", "MetaData", "a"))
    return f"<{name}>" * n + f"</{name}>" * n


def _ome(rng: random.Random) -> str:
    sizes = " ".join(
        f'Size{axis}="{rng.choice((1, 1, 3, 16, -1, 10**6, 10**12, "1e3", "x", "9" * 5000))}"'
        for axis in "CZT"
    )
    number = lambda: rng.choice((0, 0, 1, -1, 10**9, "9" * 20, "x"))  # noqa: E731
    file = rng.choice(("case.ome.tif", "case.tif", "/etc/passwd", "../x.tif", "", "a\n"))
    data = "".join(
        f'<TiffData IFD="{number()}" FirstC="{number()}" FirstZ="{number()}" FirstT="{number()}" '
        f'PlaneCount="{number()}"><UUID FileName="{file}">urn:uuid:1</UUID></TiffData>'
        for _ in range(rng.choice((0, 1, 3)))
    )
    channel = f'<Channel ID="c" Color="{number()}" SamplesPerPixel="{number()}"/>'
    order = rng.choice(("XYCZT", "XYTZC", "XY", "CZTXY", "XXXXX", ""))
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f'UUID="urn:uuid:1"><Image ID="i" Name="n"><Pixels ID="p" DimensionOrder="{order}" '
        f'Type="uint8" SizeX="16" SizeY="16" {sizes} PhysicalSizeX="{number()}">'
        f'{channel * rng.choice((0, 1, 4))}{data}</Pixels></Image></OME>'
    )  # fmt: skip


def _imagej(rng: random.Random) -> str:
    names = ("images", "channels", "slices", "frames", "spacing", "finterval", "xorigin", "min",
             "max", "unit", "hyperstack", "mode", "loop", "vunit")  # fmt: skip
    lines = [
        f"{name}={rng.choice((0, 1, 3, -1, 10**6, 10**12, 'nan', 'inf', 'x', 'true', '9' * 400))}"
        for name in names
        if rng.random() < 0.7
    ]
    return "ImageJ=1.11a\n" + "\n".join(lines) + "\n"


def _shaped(rng: random.Random) -> str:
    shape = rng.choice(
        ([16, 16], [-1, 16, 16], [0], [], [1] * 200, [10**12, 16, 16], [1.5, 16], [[16], 16],
         "16", None, [2**63], [True, 256], ["16", "16"])
    )  # fmt: skip
    axes = rng.choice(("YX", "", "QQYX", 5, "Y" * 1000))
    text = json.dumps({"shape": shape, "axes": axes, "truncated": rng.choice((True, False, 1))})
    return text if rng.random() < 0.8 else "[" * 100_000


def _lines(rng: random.Random) -> str:
    """Texts by which tifffile tells writers, followed by what they might say."""
    beginning = rng.choice((
        "Aperio Image Library v1\n16x16 [0,0 16x16] (16x16) JPEG|AppMag = ",
        "SI.VERSION_MAJOR = ", "state.configName = ", "<MetaData><PlaneInfo>",
        "<?xml version='1.0'?><DataObject ObjectType='DPUfsImport'>", "[User]\nDate=", "Avs ",
        "<scn xmlns='http://www.leica-microsystems.com/scn/2010/10/01'><collection>",
        "PerkinElmer-QPI", "Andor iQ", "<BIFMetadata>", "Iris ", "SCANIMAGE.", "OLYMPUS",
    ))  # fmt: skip
    return beginning + "".join(chr(rng.choice((10, 34, 44, 61, 91, 123, *range(48, 127))))
                               for _ in range(rng.choice((0, 30, 3000))))  # fmt: skip


_TEXTS: tuple[Callable[[random.Random], str], ...] = (
    _laughs, _external, _nested, _ome, _ome, _ome, _imagej, _imagej, _shaped, _shaped, _lines,
)  # fmt: skip


def private(rng: random.Random) -> tuple[str, bytes]:
    """Structures of microscopes, full of noise and of large numbers."""
    names = {34412: "lsm", 33628: "stk", 33629: "stk", 33630: "stk", 33631: "stk", 65420: "ndpi",
             65426: "ndpi", 65439: "ndpi", 51123: "tif", 34361: "tif", 34362: "tif", 33471: "tif",
             33560: "tif", 43314: "tif", 50838: "tif", 50839: "tif", 34680: "tif", 34682: "tif",
             65001: "tif", 34377: "tif", 34118: "tif", 50288: "tif", 51022: "tif"}  # fmt: skip
    chosen = rng.sample(tuple(names), rng.choice((1, 2, 4)))
    if rng.random() < 0.3:
        chosen = [33628, 33629, 33630, 33631]
    more = [_structure(rng, code) for code in chosen]
    image = _image(16, 16, *more)
    return f"case.{names[chosen[0]]}", build([image] * rng.choice((1, 2)), data=PIXELS)


def _structure(rng: random.Random, code: int) -> Entry:
    head = {34412: struct.pack("<II", 0x0400494C, 500), 50838: struct.pack("<I", 12),
            50839: b"IJIJ", 43314: struct.pack("<8s", b"SCIONIMG")}.get(code, b"")  # fmt: skip
    n = rng.choice((4, 64, 500, 2000))
    words = [rng.choice((0, 0, 1, 16, 64, 300, _number(rng))) & 0xFFFFFFFF for _ in range(n // 4)]
    data = (head + struct.pack(f"<{len(words)}I", *words))[: max(n, 8)]
    kind = rng.choice((1, 2, 4, 5, 7))
    return code, kind, rng.choice((len(data) // _SIZES[kind], 1, 7, 1000)), data


def geo(rng: random.Random) -> tuple[str, bytes]:
    """Georeferences that are not numbers, over images of any size with few bytes."""
    value = lambda: rng.choice((*_FLOATS, rng.uniform(-180, 180)))  # noqa: E731
    keys = [1, 1, rng.choice((0, 1)), rng.choice((0, 1, 3, 65535))]
    for _ in range(rng.choice((0, 1, 3))):
        code = rng.choice((1024, 1025, 1026, 2048, 2049, 2052, 2054, 2057, 3072, 3075, 3076, 3082))
        place = rng.choice((0, 0, 34736, 34737, 34735, 1))
        keys += [code, place, rng.choice((0, 1, 65535)), rng.choice((0, 1, 4326, 32633, 65535))]
    more = [
        _tag(34735, *keys, kind=3), _tag(34736, *(value() for _ in range(3)), kind=12),
        _text(34737, rng.choice(("", "a|b|", "|" * 500, "ESRI PE String = " + "[" * 5000))),
        _tag(33550, *(value() for _ in range(rng.choice((0, 2, 3, 30)))), kind=12),
        _tag(33922, *(value() for _ in range(rng.choice((0, 5, 6, 6, 600)))), kind=12),
        _text(42113, rng.choice(("nan", "-9999", "1e999", "9" * 5000, "0x10", ""))),
    ]  # fmt: skip
    if rng.random() < 0.4:
        more.append(_tag(34264, *(value() for _ in range(rng.choice((4, 16)))), kind=12))
    width, length = (rng.choice((16, 1000, 10**6, 10**8, 2**31, 2**32 - 1)) for _ in range(2))
    if rng.random() < 0.5:  # sparse: few huge tiles without bytes
        side = rng.choice((16, 2**16, 2**20))
        n = min(64, -(-width // side) * -(-length // side))
        more += [_tag(322, side), _tag(323, side), _tag(324, *[0] * n), _tag(325, *[0] * n)]
    return "case.tif", build([_image(width, length, *more)], data=PIXELS)


def streams(rng: random.Random) -> tuple[str, bytes]:
    """Streams of each compression that say more than they hold, cut, spliced and turned over."""
    code = rng.choice(_CODECS)
    stream = bytearray(_stream(rng, code))
    for _ in range(rng.choice((0, 1, 1, 4))):
        if len(stream) > 4:
            at = rng.randrange(min(len(stream), rng.choice((16, 64, 1 << 20))))
            new = _number(rng).to_bytes(8, rng.choice(("big", "little")))
            stream[at : at + 4] = new[-4:] if rng.random() < 0.5 else new[:4]
    if rng.random() < 0.2:
        del stream[rng.randrange(len(stream) + 1) :]
    width, length = rng.choice(((32, 32), (32, 32), (16, 16), (4096, 4096), (65535, 65535)))
    samples = rng.choice((1, 3, 4)) if code in (6, 7, 34887, 50001, 50002) else 1
    image = _image(
        width, length, _tag(258, *[rng.choice((8, 8, 16, 32))] * samples, kind=3),
        compression=code, samples=samples, n_bytes=len(stream), photometric=rng.choice((1, 2, 6)),
    )  # fmt: skip
    return "case.tif", build([image], data=bytes(stream))


def _stream(rng: random.Random, code: int) -> bytes:
    gray, color = WIDE[:32, :32], np.ascontiguousarray(COLOR[:32, :32])
    rows = np.ascontiguousarray(gray).tobytes()
    makers: dict[int, Callable[[], bytes]] = {
        1: lambda: rows,
        5: lambda: imagecodecs.lzw_encode(rows),
        6: lambda: imagecodecs.jpeg8_encode(color),
        7: lambda: imagecodecs.jpeg8_encode(color, level=rng.choice((1, 50, 100))),
        8: lambda: imagecodecs.zlib_encode(bytes(rng.choice((100, 1 << 20)))),
        34712: lambda: imagecodecs.jpeg2k_encode(gray),
        34887: lambda: imagecodecs.lerc_encode(np.ascontiguousarray(FLOATS[:32, :32])),
        34925: lambda: imagecodecs.lzma_encode(rows),
        34926: lambda: imagecodecs.zstd_encode(bytes(rng.choice((100, 1 << 20)))),
        50000: lambda: imagecodecs.zstd_encode(rows),
        50001: lambda: imagecodecs.webp_encode(color),
        50002: lambda: imagecodecs.jpegxl_encode(color),
        52546: lambda: imagecodecs.jpegxl_encode(gray),
    }
    return makers[code]()


def companion(rng: random.Random) -> tuple[str, bytes]:
    """An OME-XML file of its own, whose members are not there or are itself."""
    text = rng.choice((_ome, _ome, _ome, _laughs, _nested, _external))(rng)
    return "case.companion.ome", text.encode("utf-8", "replace")


KINDS: tuple[Callable[[random.Random], tuple[str, bytes]], ...] = (
    segments, sub_ifds, counts, counts, described, described, private, private, geo, streams,
    streams, companion,
)  # fmt: skip


def make(seed: int) -> tuple[str, str, bytes]:
    """Return the kind, name and bytes of a hostile file: the same ones for the same seed."""
    rng = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    name, data = kind(rng)
    if rng.random() < 0.25:
        data = mutate(data, seed)
    return kind.__name__, name, data
