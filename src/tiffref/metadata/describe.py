"""Add coordinates and attributes to the planned arrays of a file, and put them into a group.

Combines the other modules of this package, each of which knows one convention; it reads no file.
All remaining tags go into one attribute of the full-size array, `tiff_tags`. It is a JSON text, so
that netCDF can hold it too.
"""

from __future__ import annotations

import base64
import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..model.array import Array, Group
from ..model.tiff_facts import TAG_NAMES, FileFacts, IfdFacts, LevelFacts, SeriesFacts
from .calibration import Calibration, Channel, calibrate_minor
from .cf import (
    acquired_from_items,
    acquired_from_name,
    created_from_tag,
    iso_text,
    time_coordinate,
)
from .gdal import PLAIN_YCBCR, GdalMetadata, color_attributes, parse_gdal_metadata, parse_nodata
from .geo import (
    GeoLevel,
    GeoReference,
    describe_level,
    grid_mappings,
    is_geozarr,
    locate_level,
    multiscales,
    read_georeference,
    unify_locations,
)
from .geokeys import MAX_COORDINATE, height_packing, is_georeferenced
from .layout import LevelName, find_role, is_georeferenced_series
from .microscopy import calibrate
from .ngff import close_images, describe_image, level_grid
from .report import Recorder, Report

MAX_BYTES = 1 << 20
"""Longer binary values are replaced by their length, to keep documents small."""
_MAX_TEXT = 1 << 12
_MAX_NUMBERS = 1 << 14
_JSON_TYPES = frozenset({str, int, bool, type(None)})
"""Types that need no conversion to JSON."""

COLOR_TABLE, CATEGORY_NAMES = 0x10000, 0x10001
"""Codes for parts of an .aux.xml for which TIFF has no tag: colors as "#rrggbb", and names."""

_GDAL_NAMES = {
    269: "TIFFTAG_DOCUMENTNAME", 270: "TIFFTAG_IMAGEDESCRIPTION", 305: "TIFFTAG_SOFTWARE",
    306: "TIFFTAG_DATETIME", 315: "TIFFTAG_ARTIST", 316: "TIFFTAG_HOSTCOMPUTER",
    33432: "TIFFTAG_COPYRIGHT",
}  # fmt: skip
"""Names of descriptive tags in GDAL and `rioxarray`."""


def dump_tags(tags: Mapping[int, Any]) -> str:
    """Return tags by name as one JSON object.

    Bytes become {"base64": ...}; too long values become {"omitted": ..., "length": n}. NaN and
    infinity become strings.
    """
    named = {
        TAG_NAMES.get(code) or str(code): value if type(value) in _JSON_TYPES else _to_json(value)
        for code, value in tags.items()
    }
    return _encode_tags(named)


_encode_tags = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def _to_json(value: Any) -> Any:
    if type(value) in _JSON_TYPES:
        return value
    if isinstance(value, bytes | bytearray):
        if len(value) > MAX_BYTES:
            return {"omitted": "bytes", "length": len(value)}
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, tuple | list):
        if len(value) > _MAX_NUMBERS:
            return {"omitted": "values", "length": len(value)}
        kinds = set(map(type, value))
        if kinds <= _JSON_TYPES or (kinds == {float} and all(map(math.isfinite, value))):
            return list(value)
        return [*map(_to_json, value)]
    if isinstance(value, Mapping):
        return {str(name): _to_json(item) for name, item in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, int | str) else str(value)


GDAL_METADATA, DATE_TIME, COLOR_MAP, _RASTER_TYPE = 42112, 306, 320, 1025


@dataclass(frozen=True, slots=True)
class _Image:
    """Metadata of one image of the file, shared by its levels.

    `extent` is the image that the georeference refers to: this one, or the one it is a copy of.
    """

    series: SeriesFacts
    full: LevelFacts
    ifd: IfdFacts
    extent: LevelFacts
    reference: GeoReference | None
    items: GdalMetadata
    calibration: Calibration
    acquired: datetime.datetime | None


@dataclass(frozen=True, slots=True)
class _Level:
    """One level of an image: its name, its array, and the axis code of each dimension."""

    image: _Image
    name: LevelName
    array: Array
    axes: str
    is_full: bool

    def find(self, axis: str) -> tuple[str, int] | None:
        """Return name and length of the first dimension with an axis code."""
        codes = zip(self.axes, self.array.dims, self.array.shape, strict=True)
        return next(((dim, n) for code, dim, n in codes if code == axis), None)


@dataclass(slots=True)
class _Tree:
    """The group under construction, by path: images, their attributes, and their coordinates.

    `places` are the georeferences of the images, by group and path.
    """

    images: dict[str, Array] = field(default_factory=dict)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    variables: dict[str, Array] = field(default_factory=dict)
    places: dict[str, dict[str, GeoLevel]] = field(default_factory=dict)

    def add(self, group: str, name: str, array: Array) -> None:
        """Add a variable unless its name exists."""
        self.variables.setdefault(f"{group}/{name}" if group else name, array)

    def to_group(self, attributes: dict[str, Any]) -> Group:
        """Build the nested groups.

        Sets the grid mapping of each image. If there are several of one CRS, also sets that of the
        root, since rioxarray would ignore them otherwise.
        """
        of_groups = {}
        for group, levels in self.places.items():
            variables, names = grid_mappings(levels)
            systems = {variable.attributes.get("crs_wkt") for variable in variables.values()}
            if not group and len(variables) > len(systems) == 1:
                attributes["grid_mapping"] = next(iter(variables))
            for key, variable in variables.items():
                self.add(group, key, variable)
            for path, mapping in names.items():
                own = self.attributes[path]
                own["grid_mapping"] = mapping
                own["coordinates"] = f"{mapping} {own.get('coordinates', '')}".rstrip()
            first = next(iter(levels.values())).attributes
            of_groups[group] = {name: first[name] for name in first if is_geozarr(name)}
        arrays = {
            path: array.as_variable(array.dims, self.attributes[path])
            for path, array in self.images.items()
        }
        root = close_images(attributes)
        return Group.from_paths({**arrays, **self.variables}, {**of_groups, "": root})


def describe(
    facts: FileFacts,
    names: Mapping[tuple[int, int], LevelName],
    arrays: Mapping[tuple[int, int], Array],
    report: Report,
) -> Group:
    """Return the group of a file's arrays with their metadata.

    Parameters
    ----------
    facts
        Facts of the file.
    names
        From `layout.name_levels`.
    arrays
        Planned arrays, by position of the series and index of the level.
    report
        Receives defects of the metadata, which is left out then.
    """
    if facts.defect:
        report.add("series", "the description does not match the pages", got=facts.defect)
    tree = _Tree()
    attributes: dict[str, Any] = {}
    main: _Image | None = None
    if facts.main is not None and isinstance(facts.main.levels[0], LevelFacts):
        hidden = Recorder(report.url)
        main = _image(facts, facts.main, facts.main.levels[0], None, "image", hidden)
    for position, series in enumerate(facts.series):
        indices = [n for n in range(len(series.levels)) if (position, n) in arrays]
        if not indices:
            continue
        role = names[position, indices[0]].role
        image = _image(facts, series, series.levels[indices[0]], main, role, report)
        main = main or image
        pyramid = []
        for n in indices:
            own, array = series.levels[n], arrays[position, n]
            assert isinstance(own, LevelFacts)
            level = _Level(image, names[position, n], array, own.axes, n == indices[0])
            pyramid.append((level, _describe_array(level, tree, report)))
        if role == "image":
            _describe_group(image, pyramid, attributes)
    return tree.to_group(attributes)


_UNIFORM_KINDS = frozenset({"shaped", "imagej", "ome"})
"""Series declared as one array by their writer: only the first page needs the tags."""
_GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 50844)
_MAX_PLACES = 32
"""Compare at most this many georeferences of one image by meaning, which takes 1 ms each."""


def _report_differing_pages(series: SeriesFacts, full: LevelFacts, report: Report) -> None:
    """Report pages of one array that differ in georeference, or in what their values mean."""
    if len(full.ifds) < 2:
        return
    dtype = np.dtype(full.dtype)

    def pages(*tags: int) -> list[IfdFacts]:
        """Return the pages to compare: in a declared array the first, and those with the tags."""
        is_uniform = series.kind in _UNIFORM_KINDS
        more = [ifd for ifd in full.ifds[1:] if not is_uniform or any(t in ifd.tags for t in tags)]
        return [full.ifds[0], *more]

    values_of_pages = {
        "georeference (33550, 33922, 34264, 34735, 50844)": _locations(pages(*_GEO_TAGS), report),
        "GDAL_NODATA (42113)": [
            str(parse_nodata(ifd.tags.get(42113), dtype, report)[0]) for ifd in pages(42113)
        ],
        "GDAL_METADATA (42112)": [_value_texts(ifd, dtype) for ifd in pages(GDAL_METADATA)],
        "ColorMap (320)": [", ".join(_color_table(ifd)) for ifd in pages(COLOR_MAP)],
    }
    for key, values in values_of_pages.items():
        others = [str(value)[:200] for value in dict.fromkeys(values)]
        if len(others) > 1:
            report.add(
                key,
                "pages of one image differ: those of the first page are used for all",
                got=f"{len(others)} in {len(full.ifd)} pages: {'; '.join(others[:2])}",
                hint="Scan the pages one by one with key=.",
            )


def _locations(ifds: Sequence[IfdFacts], report: Report) -> list[Any]:
    """Return a value per page that is equal for pages at the same location."""
    texts = [repr([ifd.tags.get(code) for code in _GEO_TAGS]) for ifd in ifds]
    of_text = dict(zip(reversed(texts), reversed(ifds), strict=True))
    if not 1 < len(of_text) <= _MAX_PLACES:
        return texts
    levels = []
    for ifd in of_text.values():
        _, _, length, width, _ = ifd.shape
        reference, plane = read_georeference(ifd.tags, report), {"y": length, "x": width}
        levels.append(describe_level(reference, plane, (length, width), report))
    places = unify_locations([locate_level(level) for level in levels])
    named = dict(zip(of_text, places, strict=True))
    return [named[text] for text in texts]


def _value_texts(ifd: IfdFacts, dtype: np.dtype) -> str:
    """Return scale, offset, unit and name of the values of a page, without reporting defects."""
    items = parse_gdal_metadata(ifd.tags.get(GDAL_METADATA), Recorder())
    attributes = items.attributes(ifd.shape[0] * ifd.shape[4], dtype, Recorder())
    return str({name: value for name, value in attributes.items() if name in _OVERVIEW_ATTRIBUTES})


def _image(
    facts: FileFacts,
    series: SeriesFacts,
    level: LevelFacts | Exception,
    main: _Image | None,
    role: str,
    report: Report,
) -> _Image:
    """Parse the metadata of one series, from its first IFD and the file."""
    first = series.levels[0]
    full = first if isinstance(first, LevelFacts) else level
    assert isinstance(full, LevelFacts)
    ifd = full.ifds[0]
    is_page = series.kind == "page"  # of any level, which has the same extent, or of another image
    if facts.main is not None:  # a secondary image was selected, which is shown as the image
        role = "thumbnail" if is_page else find_role(series.name, ifd.subfile_type)
    _report_differing_pages(series, full, report)
    table, expected = ifd.tags.get(COLOR_MAP), _color_map_length(ifd)
    if ifd.photometric == _PALETTE and table is not None and np.size(table) != expected:
        lengths = f"{np.size(table)} numbers, expected {expected}"
        report.add("ColorMap (320)", "ignored, since it does not match the samples", got=lengths)
    reference, extent = None, full
    if is_georeferenced(ifd.tags):
        reference = read_georeference(ifd.tags, report)
    elif main is not None and is_georeferenced_series(facts, series):
        reference, extent = main.reference, main.extent
    items = parse_gdal_metadata(ifd.tags.get(GDAL_METADATA), report)
    if reference is not None and ifd.shape[0] * ifd.shape[4] == 1:
        heights = height_packing(ifd.tags, reference.keys)
        roles = {role: {0: repr(number)} for role, number in heights.items()}
        items = replace(items, roles={**items.roles, **roles})
    calibration = Calibration()
    if reference is None and role != "mask":
        calibration = calibrate(facts, series, ifd.tags, report)
        has_size = bool(calibration.scales) or not is_page
        if role != "image" and main is not None and has_size:
            calibration = calibrate_minor(calibration, full, main.calibration, main.full, role)
    acquired = (
        calibration.acquired
        or acquired_from_items(items.items)
        or acquired_from_name(facts.source.url)
    )
    return _Image(series, full, ifd, extent, reference, items, calibration, acquired)


# ---- arrays


def _describe_array(level: _Level, tree: _Tree, report: Report) -> GeoLevel:
    """Add one level to the tree, with its coordinates."""
    image, name, array = level.image, level.name, level.array
    geo = _georeference(level, report)
    for variables in (geo.variables, _coordinates(level)):
        for key, variable in variables.items():
            tree.add(name.group, key, variable)
    tree.places.setdefault(name.group, {})[name.path] = geo
    attributes = {**array.attributes, **geo.attributes}
    if image.acquired is not None and name.role == "image":
        tree.add(name.group, "time", time_coordinate(image.acquired))
        attributes["coordinates"] = "time"
    attributes.update(_value_attributes(level, report))
    if name.role != "image":
        attributes["role"] = name.role
    if level.is_full:
        attributes.update(_image_attributes(image))
    tree.images[name.path], tree.attributes[name.path] = array, attributes
    return geo


def _georeference(level: _Level, report: Report) -> GeoLevel:
    reference, extent = level.image.reference, level.image.extent
    rows, columns = level.find("Y"), level.find("X")
    if reference is None or rows is None or columns is None:
        return GeoLevel()
    full = extent.sizes.get("Y", 0), extent.sizes.get("X", 0)
    if not rows[1] * columns[1] * full[0] * full[1]:
        return GeoLevel()  # no pixels
    return describe_level(reference, dict((rows, columns)), full, report)


def _coordinates(level: _Level) -> dict[str, Array]:
    """Return the coordinates that do not come from a georeference: bands, channels, z, t, y, x."""
    image, array, axes = level.image, level.array, level.axes
    if image.reference is not None:
        dim, n_bands = level.find("S") or ("", MAX_COORDINATE + 1)
        is_short = n_bands <= MAX_COORDINATE
        return {dim: Array.from_values(np.arange(1, n_bands + 1), (dim,))} if is_short else {}
    if len(set(axes)) < len(axes) or len(axes) != len(image.full.shape):
        return {}  # some vendor formats have levels with fewer channels
    dims = dict(zip(axes, array.dims, strict=True))
    physical = physical_coordinates(axes, array.shape, image.full.shape, image.calibration)
    variables = {
        dims[axis]: Array.from_values(values, (dims[axis],), attributes)
        for axis, (values, attributes) in physical.items()
    }
    dim, n_channels = level.find("C") or ("", 0)
    names = channel_names(image.calibration.channels, n_channels) if n_channels else None
    if names is not None:
        variables[dim] = Array.from_values(np.asarray(names, np.str_), (dim,))
    return variables


def physical_coordinates(
    axes: str, shape: Sequence[int], full_shape: Sequence[int], calibration: Calibration
) -> Mapping[str, tuple[np.ndarray, dict[str, Any]]]:
    """Return values and attributes of the coordinates with a known scale, by axis letter."""
    coordinates = {}
    scales, translations = level_grid(axes, shape, full_shape, calibration)
    for axis, size, scale, start in zip(axes, shape, scales, translations, strict=True):
        has_times = axis == "T" and len(calibration.times) == size
        is_known = has_times or axis in calibration.scales
        if size > MAX_COORDINATE or not is_known:
            continue
        values = np.asarray(calibration.times) if has_times else np.arange(size) * scale + start
        attributes = {"axis": axis} if axis in "TZYX" else {}
        if axis in calibration.units:
            attributes["units"] = calibration.units[axis]
        coordinates[axis] = (values, attributes)
    return coordinates


def channel_names(channels: Sequence[Channel], n_channels: int) -> list[str] | None:
    """Return the channel names as a coordinate; None unless all are present and unique."""
    names = [channel.name for channel in channels]
    is_usable = len(names) == n_channels and all(names) and len(set(names)) == n_channels
    return names if is_usable else None


def _value_attributes(level: _Level, report: Report) -> dict[str, Any]:
    """Return the attributes that describe the values; overviews get some of them too."""
    image, ifd = level.image, level.image.ifd
    _, n_bands = level.find("S") or ("", 1)
    attributes = image.items.attributes(n_bands, level.array.dtype, report)
    system = image.reference.system if image.reference is not None else None
    if system is not None and system.height_unit:
        units = attributes.get("units", "")
        listed = [unit or system.height_unit for unit in units] if isinstance(units, list) else []
        attributes["units"] = listed or units or system.height_unit
    if not level.is_full:
        return {name: value for name, value in attributes.items() if name in _OVERVIEW_ATTRIBUTES}
    if n_bands == ifd.shape[0] * ifd.shape[4]:
        # otherwise the samples are channels or planes, not colors
        roles = image.items.roles.get("colorinterp", {})
        photometric = _photometric_of_samples(ifd)
        attributes.update(color_attributes(photometric, ifd.extra_samples, n_bands, roles))
    return attributes


_OVERVIEW_ATTRIBUTES = frozenset(
    {"scale_factor", "add_offset", "scales", "offsets", "units", "long_name"}
)


def _image_attributes(image: _Image) -> dict[str, Any]:
    """Return the attributes of the image as a whole, for its full-size array only."""
    tags, calibration = image.ifd.tags, image.calibration
    attributes: dict[str, Any] = {}
    if image.reference is not None:
        own = "Point" if image.reference.placement.is_point else "Area"
        is_own = _RASTER_TYPE in image.reference.keys.values  # over the item, as in GDAL
        item = own if is_own else image.items.items.get("AREA_OR_POINT", own)
        attributes["AREA_OR_POINT"] = item
        for code, gdal_name in _GDAL_NAMES.items():
            text = tags.get(code)
            if isinstance(text, str) and 0 < len(text) <= _MAX_TEXT:
                attributes[gdal_name] = text
    names = [channel.name for channel in calibration.channels]
    optional = {
        "color_table": _color_table(image.ifd),
        "category_names": tags.get(CATEGORY_NAMES),
        "date_created": created_from_tag(tags.get(DATE_TIME)),
        "time_coverage_start": calibration.acquired and iso_text(calibration.acquired),
        "channel_names": names if any(names) else None,
        "title": calibration.name if image.series.kind != "generic" else None,
    }
    attributes.update({name: value for name, value in optional.items() if value})
    return {**attributes, **calibration.attributes, "tiff_tags": dump_tags(tags)}


_WITH_COLORS = frozenset({0, 1, 3})
"""PhotometricInterpretation with a color table; GDAL writes 1 if pixels were written first."""


def _color_table(ifd: IfdFacts) -> list[str]:
    """Return the colors of a palette as "#rrggbb"."""
    numbers = np.asarray(ifd.tags.get(COLOR_MAP))
    is_fitting = numbers.size == _color_map_length(ifd) > 3
    if ifd.photometric not in _WITH_COLORS or not is_fitting:
        return ifd.tags.get(COLOR_TABLE, [])
    if numbers.dtype.kind not in "iu":
        return []
    # as in GDAL: writers multiply 0 to 255 by 257 or 256, or not at all
    factor = 256 if not (numbers % 256).any() and (numbers % 257).any() else 257
    colors = (numbers.reshape(3, -1).T // (factor if numbers.max() >= 256 else 1)).tolist()
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colors]


def _color_map_length(ifd: IfdFacts) -> int:
    """Return how many numbers a ColorMap needs; 0 if the samples cannot be indices."""
    return 3 << ifd.bits[0] if 0 <= ifd.bits[0] <= 16 else 0


def _photometric_of_samples(ifd: IfdFacts) -> int:
    """Return the photometric interpretation of decoded samples.

    Some YCbCr images become RGB; a palette without colors is gray, as in GDAL.
    """
    is_converted = ifd.compression in _DECODED_TO_RGB or ifd.subsampling != (1, 1)
    if ifd.photometric == _YCBCR and (ifd.is_separate or not is_converted):
        return PLAIN_YCBCR
    if _color_table(ifd):
        return _PALETTE
    return ifd.photometric if ifd.photometric != _PALETTE else _GRAY


_GRAY, _PALETTE, _YCBCR = 1, 3, 6
_DECODED_TO_RGB = frozenset({6, 7, 33007, 34892, 34927, 50001})
"""JPEG and WebP, whose decoders convert YCbCr to RGB."""


# ---- groups


def _describe_group(
    image: _Image, pyramid: Sequence[tuple[_Level, GeoLevel]], attributes: dict[str, Any]
) -> None:
    """Add the root attributes that list the levels of an image."""
    # broken files may have levels with other dimensions, or without pixels
    usable = [
        (level, geo)
        for level, geo in pyramid
        if level.array.nbytes and len(level.array.shape) == len(image.full.axes)
    ]
    if not usable or usable[0][0] is not pyramid[0][0]:
        return
    if image.reference is not None:
        if "multiscales" not in attributes and "zarr_conventions" not in attributes:
            levels = [
                (level.name.group or level.name.path, level.array, geo) for level, geo in usable
            ]
            attributes.update(multiscales(levels))
        return
    first, calibration = usable[0][0], image.calibration
    # OME-NGFF requires the same order of axes in all levels
    same = [level for level, _ in usable if _axis_names(level) == _axis_names(first)]
    if len(same) > 1 or calibration != Calibration():
        describe_image(
            attributes,
            calibration.name or image.series.name or first.name.name,
            image.full.axes,
            [(level.name.path, level.array) for level in same],
            calibration,
            calibration.channels,
            _colors(first),
            image.full.shape,
        )


def _axis_names(level: _Level) -> list[str]:
    return [dim.partition("_")[0] for dim in level.name.dims]


def _colors(level: _Level) -> Sequence[Channel]:
    """Return the samples of a color image as channels."""
    size = level.image.full.sizes.get("S", 0)
    is_color = level.image.ifd.photometric in _COLORED and size in (3, 4)
    return (*_COLORS, Channel())[:size] if is_color else ()


_COLORED = frozenset({2, 6})
_COLORS = Channel("red", "FF0000"), Channel("green", "00FF00"), Channel("blue", "0000FF")
