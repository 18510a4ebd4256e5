"""Sidecar files next to a TIFF: world file, RPC sensor model, .aux.xml, .ovr, .msk.

Precedence is that of GDAL: .aux.xml over tags over world file; an RPC file over all other sensor
models; overviews and masks are used only if the TIFF has none of its own. The contents are
converted to tags, so the rest of the code does not need to know about sidecars.

References: GDAL documentation of the GTiff driver ("Georeferencing", "Overviews", "Nodata value")
and of the persistent auxiliary metadata (PAM); the world file format of ESRI.
"""

from __future__ import annotations

import html
import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from xml.etree.ElementTree import Element

from ..errors import MissingSource, TiffrefError, UntrustedSource
from ..io.allow import is_local
from ..io.remote import open_source
from ..io.source import ByteSource
from ..metadata.describe import CATEGORY_NAMES, COLOR_TABLE
from ..metadata.geokeys import (
    MATRIX,
    RPC_NUMBERS,
    RPC_SERIES,
    RPCS,
    SCALE,
    TIEPOINTS,
    numbers,
    parse_geokeys,
)
from ..metadata.layout import MASK_BIT, REDUCED_BIT
from ..metadata.report import Report, XmlError, parse_xml
from ..model.manifest import OBJECT_SCHEME
from ..model.tiff_facts import FileFacts, LevelFacts, SeriesFacts

GEO_KEYS, GEO_DOUBLES, GEO_TEXTS, GDAL_METADATA, GDAL_NODATA = 34735, 34736, 34737, 42112, 42113
_USER_DEFINED, _SAMPLES_PER_PIXEL, _MAX_CLASSES = 32767, 277, 1 << 16

_Content = TypeVar("_Content")
_LABEL = "files beside the TIFF"
_MAX_BYTES = 1 << 24
"""Largest sidecar text file."""


def has_sidecars(sidecars: bool | None, url: str) -> bool:
    """Return whether to read sidecar files: by default only those of local files."""
    return OBJECT_SCHEME not in url and (is_local(url) if sidecars is None else sidecars)


@dataclass(slots=True)
class Sidecars:
    """Sidecar files of a TIFF, read on demand.

    `facts_of` opens a TIFF and returns its facts; `base` is the URL of the TIFF without its query,
    which may be a signature.
    """

    source: ByteSource
    storage_options: Mapping[str, Any] | None
    facts_of: Callable[[str], FileFacts]
    report: Report
    base: str = field(init=False)
    _query: str = field(init=False)

    def __post_init__(self) -> None:
        url = self.source.source.url
        self.base = url.partition("?")[0] if url.startswith("http") else url
        self._query = url.removeprefix(self.base)

    def read(self, url: str) -> bytes | None:
        """Return the content of a file; None if it does not exist."""
        return self._read_if_there(url, self._content)

    def _content(self, url: str) -> bytes:
        with closing(open_source(url, self.storage_options, self.source.allow)) as source:
            return source.read(0, min(source.size, _MAX_BYTES))

    def facts(self, ending: str) -> FileFacts | None:
        """Return the facts of the TIFF with this extension; None if it does not exist."""
        return self._read_if_there(f"{self.base}{ending}", self.facts_of)

    def _read_if_there(self, url: str, read: Callable[[str], _Content]) -> _Content | None:
        url += self._query
        try:
            return None if self.is_missing(url) else read(url)
        except MissingSource:
            return None
        except UntrustedSource:
            raise
        except TiffrefError as error:
            self.report.add(_LABEL, "cannot be read", got=error)
            return None

    def is_missing(self, url: str) -> bool:
        """Return whether a local file does not exist."""
        # most do not exist, and `access` is twice as fast at that
        return is_local(url) and not (os.access(url, os.F_OK) and Path(url).is_file())


def sidecar_state(url: str) -> list[list[Any]]:
    """Return extension, size and modification time of the sidecar files next to a local TIFF."""
    base, _ = _split_extension(url)
    names = [f"{url}{ending}" for ending in (".aux.xml", ".ovr", ".msk", ".msk.ovr")]
    names += [f"{base}{ending}" for ending, _ in _SENSOR_MODELS]
    found = file_states((*names, *_world_files(url)))
    return [[name.removeprefix(base), *state] for name, *state in found]


def file_states(names: Iterable[str]) -> list[list[Any]]:
    """Return path, size and modification time of the local files that exist."""
    states = []
    for name in names:
        if os.access(name, os.F_OK):  # most do not exist, and errors take longer
            with suppress(OSError):
                status = Path(name).stat()
                states.append([name, status.st_size, status.st_mtime])
    return states


def add_sidecars(facts: FileFacts, sidecars: Sidecars) -> FileFacts:
    """Add the information of sidecar files to the facts of a TIFF, if it is of its first image.

    Parameters
    ----------
    facts
        Facts of all series, or of the first one.
    sidecars
        Sidecar files; their defects go to its report.
    """
    main = facts.series[0]
    first = main.levels[0]
    if not isinstance(first, LevelFacts) or first.ifds[0].name != "0":
        return facts
    own = tags = dict(first.ifds[0].tags)
    text = sidecars.read(f"{sidecars.base}.aux.xml")
    if text is not None:
        tags = _with_pam(tags, text, sidecars.report)
    tags = _with_sensor_model(tags, sidecars)
    has_points = tags.get(TIEPOINTS) is not own.get(TIEPOINTS)  # of the .aux.xml
    if not _is_placed(tags) and not has_points:
        tags = _with_world_file(tags, sidecars)
    if tags is not own:
        first = replace(first, ifds=(replace(first.ifds[0], tags=tags), *first.ifds[1:]))
    levels = [first, *main.levels[1:]]
    kinds = [series.subfile_type & (MASK_BIT | REDUCED_BIT) for series in facts.series]
    is_image = main.kind != "page"  # pages by key have neither overviews nor masks
    is_alone = is_image and len(levels) == 1 and REDUCED_BIT not in kinds[1:]
    if is_alone and (found := sidecars.facts(".ovr")) is not None:
        levels += _overviews(first, found, sidecars.report)
    if first is not main.levels[0] or len(levels) > len(main.levels):
        main = replace(main, levels=tuple(levels))
    series = [main, *facts.series[1:]]
    has_mask = not is_image or any(kind & MASK_BIT for kind in kinds)
    if not has_mask and (found := sidecars.facts(".msk")) is not None:
        series += _masks(first, [found, sidecars.facts(".msk.ovr")], len(series), sidecars.report)
    if main is facts.series[0] and len(series) == len(facts.series):
        return facts
    return replace(facts, series=tuple(series))


def _is_placed(tags: Mapping[int, Any]) -> bool:
    """Return whether tags have a transform; pixels of size 0 are none, as in GDAL."""
    return MATRIX in tags or (SCALE in tags and 0 not in numbers(tags[SCALE])[:2])


# ---- overviews and masks


def _levels(facts: FileFacts) -> Iterator[LevelFacts]:
    for series in facts.series:
        yield from (level for level in series.levels if isinstance(level, LevelFacts))


def _overviews(full: LevelFacts, facts: FileFacts, report: Report) -> list[LevelFacts]:
    """Return the overviews of an image, largest first."""
    size = full.sizes
    # GDAL writes float32 overviews of float16 images
    dtypes = ("<f2", "<f4") if full.dtype == "<f2" else (full.dtype,)
    overviews = []
    for level in _levels(facts):
        own = level.sizes
        # GDAL writes overviews with separate planes, even if the image is interleaved
        is_alike = sorted(level.axes) == sorted(full.axes) and level.dtype in dtypes
        if not is_alike or level.ifds[0].subfile_type & MASK_BIT:
            continue
        others = (axis for axis in own if axis not in "YX")
        if own["Y"] < size["Y"] or own["X"] < size["X"]:
            overviews += [level] if all(own[axis] == size[axis] for axis in others) else []
    if not overviews:
        report.add(".ovr", "has no overview of the image's data type and bands")
    return sorted(overviews, key=lambda level: -level.sizes["Y"])


def _masks(
    full: LevelFacts, files: Sequence[FileFacts | None], index: int, report: Report
) -> list[SeriesFacts]:
    """Return the mask of an image, with its overviews."""
    size = full.sizes
    levels = [
        replace(level, ifds=tuple(
            replace(ifd, subfile_type=ifd.subfile_type | MASK_BIT | (REDUCED_BIT if n else 0))
            for ifd in level.ifds
        ))
        for n, level in enumerate(level for mask in files if mask for level in _levels(mask))
    ]  # fmt: skip
    if not levels or any(levels[0].sizes.get(axis) != size[axis] for axis in "YX"):
        report.add(".msk", "has no mask of the image's size")
        return []
    return [SeriesFacts(index, "mask", "", levels[0].axes, tuple(levels))]


# ---- world files


def _with_world_file(tags: dict[int, Any], sidecars: Sidecars) -> dict[int, Any]:
    for name in _world_files(sidecars.base):
        text = sidecars.read(name)
        if text is None:
            continue
        numbers = [_number(word) for word in text.decode("latin-1").split()[:6]]
        if len(numbers) < 6 or not all(map(math.isfinite, numbers)):
            sidecars.report.add("world file", "does not hold six numbers", got=name)
            return tags
        a, d, b, e, x, y = numbers
        if a * e == b * d:
            sidecars.report.add("world file", "the pixel size is 0", got=name)
            return tags
        # world files give the centre of the first pixel
        return _with_matrix(tags, (a, b, x - a / 2 - b / 2, d, e, y - d / 2 - e / 2))
    table = f"{_split_extension(sidecars.base)[0]}.tab"
    if TIEPOINTS not in tags and is_local(table) and not sidecars.is_missing(table):
        sidecars.report.add(_LABEL, "the georeference of MapInfo is not read", got=table)
    return tags


def _world_files(url: str) -> Iterator[str]:
    """Yield the possible names of a world file, in GDAL's order."""
    base, ending = _split_extension(url)
    for suffix in (f"{ending[0]}{ending[-1]}w", f"{ending}w", "wld"):
        yield f"{base}.{suffix.lower()}"
        yield f"{base}.{suffix.upper()}"


def _split_extension(url: str) -> tuple[str, str]:
    """Return a URL without its extension, and the extension."""
    base, dot, ending = url.rpartition(".")
    return (base, ending) if dot and ending and "/" not in ending else (url, "tif")


def _number(text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return math.nan


def _with_matrix(tags: Mapping[int, Any], transform: Sequence[float]) -> dict[int, Any]:
    """Set ModelTransformation from a transform of corners; shift it for PixelIsPoint rasters."""
    a, b, c, d, e, f = transform
    if parse_geokeys(tags).values.get(1025) == 2:
        c, f = c + a / 2 + b / 2, f + d / 2 + e / 2
    kept = {code: value for code, value in tags.items() if code not in (SCALE, TIEPOINTS)}
    return {**kept, MATRIX: (a, b, 0.0, c, d, e, 0.0, f, *[0.0] * 7, 1.0)}


# ---- sensor models (RPC)


def _with_sensor_model(tags: dict[int, Any], sidecars: Sidecars) -> dict[int, Any]:
    base, _ = _split_extension(sidecars.base)
    for ending, parse in _SENSOR_MODELS:
        data = sidecars.read(f"{base}{ending}")
        model = data and _sensor_model(parse(data.decode("latin-1")), ending, sidecars.report)
        if model:
            return {**tags, RPCS: model}
    return tags


def _parse_rpb(text: str) -> dict[str, list[str]]:
    """Parse the file of DigitalGlobe: `lineOffset = 7;`, `lineNumCoef = (1, 2);`."""
    items = {}
    for name, value in _RPB_ITEM.findall(text):
        key = re.sub("([A-Z])", r"_\1", name).lower()
        key = key.replace("offset", "off").replace("coef", "coeff")
        items[key] = value.strip("()").replace(",", " ").split()
    return items


_RPB_ITEM = re.compile(r"(\w+)\s*=\s*(\([^()]*\)|[^;\s]*)")


def _parse_rpc_text(text: str) -> dict[str, list[str]]:
    """Parse the file of GeoEye and Space Imaging: `LINE_OFF: 7 pixels`, `LINE_NUM_COEFF_1: 1`."""
    lines = (re.split("[:=]", line, maxsplit=1) for line in text.splitlines())
    items = {line[0].strip().lower(): line[-1].split() for line in lines}
    for name in RPC_SERIES:
        items[name] = [word for n in range(1, 21) for word in items.get(f"{name}_{n}", [])[:1]]
    return items


_SENSOR_MODELS = (
    (".RPB", _parse_rpb), (".rpb", _parse_rpb),
    ("_RPC.TXT", _parse_rpc_text), ("_rpc.txt", _parse_rpc_text),
)  # fmt: skip
"""Ending of a file with a sensor model, and its parser."""


def _sensor_model(items: Mapping[str, list[str]], label: str, report: Report) -> tuple[float, ...]:
    """Return the value of tag 50844 from an RPC model by GDAL's names; empty if incomplete."""
    # GDAL omits unknown errors, and some numbers are followed by a unit
    words = [(items.get(name) or ["-1" if name[:3] == "err" else ""])[:1] for name in RPC_NUMBERS]
    words += [items.get(name, [])[:20] for name in RPC_SERIES]
    model = tuple(_number(word) for some in words for word in some)
    if len(model) == len(RPC_NUMBERS) + 20 * len(RPC_SERIES) and all(map(math.isfinite, model)):
        return model
    report.add(label, "the RPC model is incomplete")
    return ()


# ---- .aux.xml


def _with_pam(tags: dict[int, Any], data: bytes, report: Report) -> dict[int, Any]:
    try:
        root = parse_xml(data.decode("utf-8", "replace"))
    except XmlError as error:
        report.add(".aux.xml", "is not valid XML", got=error)
        return tags
    placed = _with_pam_place(dict(tags), root, report)
    sensor = root.find("Metadata[@domain='RPC']")
    if sensor is not None and RPCS not in tags:  # as in GDAL, the tag takes precedence here
        words = {(item.get("key") or "").lower(): (item.text or "").split() for item in sensor}
        model = _sensor_model(words, ".aux.xml", report)
        placed |= {RPCS: model} if model else {}
    bands = root.findall("PAMRasterBand")
    texts = {band.get("band"): _nodata_text(band) for band in bands}
    n_bands = tags.get(_SAMPLES_PER_PIXEL, 1)
    last = max(1, n_bands) if isinstance(n_bands, int) else 1
    nodata = [texts.get(str(n), "") for n in range(1, last + 1)]
    if len(set(nodata)) > 1:
        report.add(".aux.xml", "bands have different nodata; that of the first is used", got=nodata)
    if nodata[0]:
        placed[GDAL_NODATA] = nodata[0]
    first = root.find("PAMRasterBand[@band='1']")
    if first is not None:
        placed |= _classes(first, report)
    items = "".join([*_items(root), *(item for band in bands for item in _items(band))])
    if items:  # of equal names, the last one counts
        own = placed.get(GDAL_METADATA)
        text = own.decode("utf-8", "replace") if isinstance(own, bytes) else str(own or "")
        head, end, _ = text.rpartition("</GDALMetadata>")
        placed[GDAL_METADATA] = f"{head or '<GDALMetadata>'}{items}{end or '</GDALMetadata>'}"
    return placed


def _with_pam_place(tags: dict[int, Any], root: Element, report: Report) -> dict[int, Any]:
    """Set CRS, and transform or control points; GDAL writes a CRS of both."""
    text, points = root.findtext("GeoTransform"), root.find("GCPList")
    is_placed = _is_placed(tags)
    has_points = points is not None or (TIEPOINTS in tags and not is_placed)
    if has_points and text is not None:
        report.add(".aux.xml", "control points are ignored, as it has a transformation")
        points = None
    elif points is not None and is_placed:
        report.add(".aux.xml", "control points are ignored, as the TIFF has a transformation")
        points = None
    of_points = (points.get("Projection") or "").strip() if points is not None else ""
    system = of_points or (root.findtext("SRS") or "").strip()
    placed = tags
    if system:
        placed = tags | _geokeys(system, parse_geokeys(tags).values.get(1025), report)
    if points is not None:
        shift = 0.5 if parse_geokeys(placed).values.get(1025) == 2 else 0.0
        placed[TIEPOINTS] = tuple(number for point in points for number in _tiepoint(point, shift))
    if text is None:
        return placed
    numbers = [_number(word) for word in text.split(",")]
    if len(numbers) == 6 and all(map(math.isfinite, numbers)):
        c, a, b, f, d, e = numbers
        return _with_matrix(placed, (a, b, c, d, e, f))
    report.add(".aux.xml", "the GeoTransform does not have six numbers", got=text.strip())
    return placed


def _classes(band: Element, report: Report) -> dict[int, Any]:
    """Return color table and category names of a band."""
    colors = [
        [_number(entry.get(f"c{n}") or "0") for n in (1, 2, 3)]
        for entry in band.findall("ColorTable/Entry")[:_MAX_CLASSES]
    ]
    names = [name.text or "" for name in band.findall("CategoryNames/Category")[:_MAX_CLASSES]]
    if not all(0 <= number <= 255 for color in colors for number in color):
        report.add(".aux.xml", "the color table has numbers outside 0 to 255")
        colors = []
    tables = {COLOR_TABLE: ["#{:02x}{:02x}{:02x}".format(*map(int, color)) for color in colors],
             CATEGORY_NAMES: names}  # fmt: skip
    return {code: values for code, values in tables.items() if values}


def _nodata_text(band: Element) -> str:
    """Return the nodata of a band: GDAL adds the bytes of a number that it rounds to 15 digits."""
    node = band.find("NoDataValue")
    stored = "" if node is None else node.get("le_hex_equiv", "")
    with suppress(ValueError, struct.error):
        return repr(struct.unpack("<d", bytes.fromhex(stored))[0])
    return (band.findtext("NoDataValue") or "").strip()


def _tiepoint(point: Element, shift: float) -> list[float]:
    """Return one point of ModelTiepoint; `shift` is the centre of the first pixel."""
    column, row, *others = (
        _number(point.get(name) or "0") for name in ("Pixel", "Line", "", "X", "Y", "Z")
    )
    return [column - shift, row - shift, *others]


_ROLES = {
    "Description": "description", "UnitType": "unittype", "Scale": "scale", "Offset": "offset",
    "ColorInterp": "colorinterp",
}  # fmt: skip


_PACKING = {"Scale": "1", "Offset": "0"}


def _items(node: Element) -> Iterator[str]:
    """Yield the metadata items of a dataset or band in the form of tag 42112."""
    band = node.get("band")
    sample = f' sample="{int(band) - 1}"' if band is not None and band.isdecimal() else ""
    is_packed = any((node.findtext(name) or "").strip() for name in _PACKING)
    defaults = _PACKING if is_packed else {}  # GDAL replaces both
    for name, role in _ROLES.items() if sample else ():
        text = (node.findtext(name) or "").strip() or defaults.get(name, "")
        if text:
            yield f'<Item name="{role.upper()}"{sample} role="{role}">{_escape(text)}</Item>'
    for metadata in node.findall("Metadata"):
        for item in metadata.findall("MDI") if not metadata.get("domain") else ():
            name = html.escape(item.get("key") or "")
            yield f'<Item name="{name}"{sample}>{_escape(item.text or "")}</Item>'


def _escape(text: str) -> str:
    return html.escape(html.escape(text, quote=False), quote=False)  # GDAL escapes twice


def _geokeys(system: str, raster_type: Any, report: Report) -> dict[int, Any]:
    """Return the GeoKey tags of a CRS: its EPSG code, or its WKT as ArcGIS writes it."""
    keys: dict[int, Any] = {1024: _USER_DEFINED}
    text = ""
    try:
        from pyproj import CRS
    except ImportError:
        code = re.fullmatch(r"EPSG:(\d+)", system)
        keys |= {3072: int(code[1])} if code else {}
    else:
        try:
            crs = CRS.from_user_input(system)
        except RuntimeError as error:  # pyproj's errors are RuntimeErrors
            report.add(".aux.xml", "the coordinate system is not valid", got=error)
            return {}
        authority = crs.to_authority(min_confidence=100)
        # GeoTIFF 1.0, whose keys these are, knows no codes of systems with heights
        is_flat = len(crs.axis_info) == 2 and (crs.is_projected or crs.is_geographic)
        if authority and authority[0] == "EPSG" and is_flat:
            keys = {1024: 1, 3072: int(authority[1])} if crs.is_projected else {
                1024: 2, 2048: int(authority[1])
            }  # fmt: skip
        else:
            text = f"ESRI PE String = {crs.to_wkt()}|"
    if raster_type is not None:
        keys[1025] = raster_type
    directory = [1, 1, 0, len(keys) + bool(text)]
    for key, value in sorted(keys.items()):
        directory += [key, 0, 1, value]
    if text:
        directory += [3073, GEO_TEXTS, len(text), 0]
    return {GEO_KEYS: tuple(directory), GEO_DOUBLES: (), GEO_TEXTS: text}
