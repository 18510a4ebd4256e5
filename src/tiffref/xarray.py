"""The xarray backend: `xr.open_dataset("image.tif", engine="tiffref")`.

Turns arrays over byte ranges into lazy xarray variables, without a document or Zarr in between.
xarray itself decodes CF conventions.

Reference: xarray documentation, "How to add a new backend".
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import (
    AbstractDataStore,
    BackendArray,
    BackendEntrypoint,
    StoreBackendEntrypoint,
)
from xarray.core import indexing

from .documents import open_references
from .errors import SelectionError, check_arguments
from .io.allow import is_local
from .metadata.geo import is_geozarr
from .model.array import Array, Group
from .model.manifest import OBJECT_SCHEME
from .read.engine import read_array
from .read.fetch import Fetcher, make_fetcher
from .references import (
    References,
    is_description,
    is_document,
    level_paths,
    select_levels,
    warn_of_parts,
    without_arrays,
)
from .sequences.inputs import is_many

_SUFFIXES = (
    *(".tif", ".tiff", ".btf", ".tf2", ".tf8", ".bigtiff", ".geotiff", ".gtiff", ".gtif"),
    *(".svs", ".ndpi", ".scn", ".qptiff", ".bif", ".lsm", ".stk", ".flex", ".dng"),
)
"""Extensions of files that xarray opens with this backend without `engine=`."""
BAND = "band"
_BAND_NAMES = {"scales": "scale_factor", "offsets": "add_offset"}
"""Attributes of an image whose bands differ, and their names for a single band."""
LOCAL_CHUNK_BYTES = 1 << 20
REMOTE_CHUNK_BYTES = 1 << 23
"""Minimum size of dask chunks. Larger chunks do not read more of a window, as dask passes
selections down; one task for each tile of a remote file took 20 times as long."""


_DECODERS = (
    "mask_and_scale", "decode_times", "concat_characters", "decode_coords", "use_cftime",
    "decode_timedelta",
)  # fmt: skip
"""Options of `xarray.open_dataset` for decoding, which xarray does itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Options of `xarray.open_dataset(..., engine="tiffref")`, besides those of xarray.

    Attributes
    ----------
    series, level, key, strict
        As in `tiffref.scan`, for TIFFs only; `series` and `level` also for tiffref's documents.
    axes
        Order of axes, as in `tiffref.scan`: "bands-first" for rioxarray, "ngff" for microscopes.
    overviews
        Whether to show the overviews of images, `image_1`, `image_2`, ...
    mosaic
        Place several files along y and x by their georeference, as in `tiffref.scan_sequence`.
    sidecars
        Read sidecar files, as in `tiffref.scan`.
    band_first
        Put the dimension `band` first, or keep its position in the file. By default it precedes the
        rows of georeferenced images, as rioxarray expects, unless `axes` is given.
    band_as_variable
        Make a variable of each band, `band_1`, `band_2`, ..., with its own description, scale and
        unit.
    stored_chunks
        Let `chunks={}` mean the tiles or strips of the file. By default it means groups of them: 1
        to 4 MiB for local files, 8 to 16 MiB for remote ones.
    storage_options
        Options of the fsspec file system of a URL.
    verify, allow
        When to check that files have not changed since the scan, and which addresses references may
        read, as in `ZarrTiffStore`.
    """

    series: int | None = None
    level: int | None = None
    key: Any = None
    strict: bool = False
    axes: str | None = None
    overviews: bool = True
    mosaic: bool = False
    sidecars: bool | None = None
    band_first: bool | None = None
    band_as_variable: bool = False
    stored_chunks: bool = False
    storage_options: Mapping[str, Any] | None = None
    verify: str = "first"
    allow: str | Sequence[str] | None = None


class TiffrefBackendEntrypoint(BackendEntrypoint):
    """Opens TIFF files and references as xarray datasets."""

    description = "Open TIFF files, local or remote, and kerchunk references to them"
    open_dataset_parameters = (
        *("filename_or_obj", "drop_variables", "group", *_DECODERS),
        *(option.name for option in fields(EngineOptions)),
    )
    supports_groups = True

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return whether a source looks like a TIFF."""
        if isinstance(filename_or_obj, References):
            return True
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        return os.fspath(filename_or_obj).lower().partition("?")[0].endswith(_SUFFIXES)

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        **options: Any,
    ) -> xr.Dataset:
        """Open the arrays of one group as a lazy dataset.

        Parameters
        ----------
        filename_or_obj
            Path or URL of a TIFF, or an open binary file; a list, glob or pattern of files to
            combine, as in `tiffref.scan_sequence`; or references: `References`, a mapping, or the
            path or URL of a JSON file or parquet folder.
        drop_variables
            As in `xarray.open_dataset`.
        group
            Group of the references, or level of a TIFF ("0", "1", ...), as in
            `xarray.open_datatree`; by default the root.
        options
            `mask_and_scale`, `decode_times`, `concat_characters`, `decode_coords`, `use_cftime` and
            `decode_timedelta` as in `xarray.open_dataset`; and those of `EngineOptions`.
        """
        engine_options, decoding = _split_options(options)
        references, fetch = _open(filename_or_obj, engine_options, as_tree=group is not None)
        first_level = next(iter(level_paths(references.series[:1])), "")
        path = first_level.rpartition("/")[0] if group is None else group
        if group is None:
            warn_of_parts(references)
        store = _Store(_find_group(references.group, path), fetch, engine_options)
        return _decode(store, filename_or_obj, drop_variables, decoding)

    def open_datatree(self, filename_or_obj: Any, **options: Any) -> xr.DataTree:  # type: ignore[override]
        """Open all groups as a tree: for a TIFF, one group for each level."""
        datasets = self.open_groups_as_dict(filename_or_obj, **options)
        tree = xr.DataTree.from_dict(datasets)
        for path, dataset in datasets.items():
            tree[path].set_close(dataset.close)  # which from_dict does not keep
        return tree

    def open_groups_as_dict(  # type: ignore[override]
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        **options: Any,
    ) -> dict[str, xr.Dataset]:
        """Open each group as a dataset, by path; parameters as in `open_dataset`."""
        engine_options, decoding = _split_options(options)
        references, fetch = _open(filename_or_obj, engine_options, as_tree=True)
        root = _find_group(references.group, group)
        groups = {"/": root}
        groups.update((f"/{path}", node) for path, node in root.walk() if isinstance(node, Group))
        return {
            path: _decode(
                _Store(node, fetch, engine_options), filename_or_obj, drop_variables, decoding
            )
            for path, node in groups.items()
        }


def _split_options(options: Mapping[str, Any]) -> tuple[EngineOptions, dict[str, Any]]:
    """Separate the options of the engine from those for decoding by xarray."""
    decoding = {name: value for name, value in options.items() if name in _DECODERS}
    own = {name: value for name, value in options.items() if name not in decoding}
    if own:
        check_arguments(own, xr.open_dataset, EngineOptions)
    return EngineOptions(**own), decoding


def _open(source: Any, options: EngineOptions, as_tree: bool) -> tuple[References, Fetcher]:
    names = ("series", "level", "key", "axes", "sidecars")
    chosen: dict[str, Any] = {name: getattr(options, name) for name in names}
    storage_options = options.storage_options
    if is_document(source):
        if options.key is not None or options.mosaic:
            got = "key" if options.key is not None else "mosaic"
            hint = "Use group= to select."
            raise SelectionError("not an option for references", got=got, hint=hint)
        references = open_references(source, storage_options, allow=options.allow)
        if options.axes is not None:
            references = references.with_axes(options.axes)
        if options.series is not None or options.level is not None:
            references = _select_levels(references, options.series, options.level)
    elif is_many(source):
        if as_tree:
            raise SelectionError("several files are one dataset, without groups", got=source)
        if options.strict:
            raise SelectionError("strict= is not available for several files")
        given = {name: value for name, value in chosen.items() if value is not None}
        references = open_references(source, storage_options, mosaic=options.mosaic, **given)
    else:
        if options.mosaic:
            hint = "Pass a list of files."
            raise SelectionError("a mosaic needs several files", got=source, hint=hint)
        chosen |= {"strict": options.strict, "layout": "tree" if as_tree else "dataset"}
        references = open_references(source, storage_options, **chosen)
    if not options.overviews:
        overviews = ({"levels": row["levels"][1:]} for row in references.series)
        references = without_arrays(references, level_paths(overviews))
    return references, make_fetcher(source, references, storage_options, options.verify)


def _select_levels(references: References, series: int | None, level: int | None) -> References:
    """Select one series of a document, or one level, with the names of a full-size image."""
    chosen = select_levels(references, series, level)
    if not level:
        return chosen
    suffix = f"_{level % len(references.series[series or 0]['levels'])}"
    children: dict[str, Array | Group] = {}
    attributes = {k: v for k, v in chosen.group.attributes.items() if k != "multiscales"}
    names = _full_size_names(chosen.group, suffix)
    for name, child in chosen.group.children.items():
        if name not in names:
            continue
        if isinstance(child, Array):
            own = dict(child.attributes)
            for key in own.keys() & {"grid_mapping", "coordinates"}:
                own[key] = " ".join(names.get(word, word) for word in str(own[key]).split())
            if "spatial:dimensions" in own:
                own["spatial:dimensions"] = [
                    d.removesuffix(suffix) for d in own["spatial:dimensions"]
                ]
                attributes |= {k: v for k, v in own.items() if is_geozarr(k)}
            child = child.as_variable(tuple(d.removesuffix(suffix) for d in child.dims), own)
        children[names[name]] = child
    return replace(chosen, group=Group(children, attributes))


def _full_size_names(group: Group, suffix: str) -> dict[str, str]:
    """Return old and new names of the arrays to keep, without grid mappings of other levels."""
    arrays = [child for child in group.children.values() if isinstance(child, Array)]
    mappings = {str(a.attributes["grid_mapping"]) for a in arrays if "grid_mapping" in a.attributes}
    names = {
        name: name.removesuffix(suffix)
        for name in group.children
        if not name.startswith("spatial_ref")
    }
    return names | {name: name for name in mappings} | dict.fromkeys([*mappings][:1], "spatial_ref")


def _find_group(root: Group, path: str | None) -> Group:
    path = (path or "").strip("/")
    try:
        node = root[path] if path else root
    except KeyError:
        node = None
    if not isinstance(node, Group):
        groups = sorted(name for name, child in root.walk() if isinstance(child, Group))
        raise SelectionError("unknown group", got=path, expected=f"one of {groups}")
    return node


def _decode(
    store: _Store,
    source: Any,
    drop_variables: str | Iterable[str] | None,
    decoding: Mapping[str, Any],
) -> xr.Dataset:
    dataset = StoreBackendEntrypoint().open_dataset(
        store, drop_variables=drop_variables, **decoding
    )
    # keep coordinates as such, even if the image that refers to them was dropped
    described = {name for name, node in store.group.children.items() if is_description(node)}
    dataset = dataset.set_coords(sorted(described & set(dataset.data_vars)))
    dataset.set_close(store.close)
    if isinstance(source, str | os.PathLike):
        dataset.encoding["source"] = os.fspath(source)
    return dataset


class _Store(AbstractDataStore):
    """The arrays of one group, with xarray's data store interface."""

    def __init__(self, group: Group, fetch: Fetcher, engine_options: EngineOptions) -> None:
        self.group = group
        self._fetch = fetch
        self._options = engine_options

    def get_variables(self) -> dict[str, xr.Variable]:
        variables: dict[str, xr.Variable] = {}
        for name, array in self.group.children.items():
            if not isinstance(array, Array):
                continue
            variable = _variable(array, self._fetch, self._options)
            if self._options.band_as_variable and BAND in array.dims:
                # the band coordinate itself is dropped: band numbers are in the names
                variables.update(_split_bands(name, variable) if len(array.dims) > 1 else {})
            else:
                variables[name or "image"] = variable
        return variables

    def get_attrs(self) -> dict[str, Any]:
        return plain_attributes(self.group.attributes)

    def close(self) -> None:
        self._fetch.close()


def _variable(array: Array, fetch: Fetcher, engine_options: EngineOptions) -> xr.Variable:
    attributes = plain_attributes(array.attributes)
    if array.fill_value is not None:
        attributes["_FillValue"] = np.asarray(array.fill_value, array.dtype)[()]
    order = _order(array, engine_options)
    data = indexing.LazilyIndexedArray(_LazyArray(array, fetch, tuple(order)))
    # no codecs in the encoding, so that other stores use their own when writing
    dims = tuple(array.dims[axis] for axis in order)
    stored = dict(zip(array.dims, array.chunks, strict=True))
    preferred = array.chunks if engine_options.stored_chunks else _grow_chunks(array)
    chunks = PreferredChunks(dict(zip(array.dims, preferred, strict=True)), stored)
    return xr.Variable(dims, data, attributes, {"preferred_chunks": chunks})


def _order(array: Array, options: EngineOptions) -> list[int]:
    order = list(range(len(array.dims)))
    is_placed = BAND in array.dims and "grid_mapping" in array.attributes
    if options.band_first:
        order.sort(key=lambda axis: array.dims[axis] != BAND)
    elif options.band_first is None and options.axes is None and is_placed:
        order.remove(band := array.dims.index(BAND))
        rows = next((n for n, axis in enumerate(order) if array.dims[axis].startswith("y")), band)
        order.insert(min(rows, band), band)
    return order


class PreferredChunks(dict[str, int]):
    """Chunk sizes for xarray's `chunks={}`: multiples of those in the file (`stored`).

    xarray calls `get` with a default to choose chunks, and without one to warn if the user's chunks
    split them. The latter returns the stored sizes, so that only splitting a tile gives a warning.
    """

    def __init__(self, chunks: Mapping[str, int], stored: Mapping[str, int]) -> None:
        super().__init__(chunks)
        self.stored = stored

    def get(self, dim: str, default: Any = None) -> Any:  # type: ignore[override]
        return self.stored.get(dim) if default is None else super().get(dim, default)

    def without(self, dim: str) -> PreferredChunks:
        """Return the sizes along all other dimensions."""
        sizes = ({d: n for d, n in chunks.items() if d != dim} for chunks in (self, self.stored))
        return PreferredChunks(*sizes)


def _grow_chunks(array: Array) -> tuple[int, ...]:
    """Double the shortest side of chunks, innermost first, until they have the minimum size.

    Axes with a stored chunk length of 1, such as time in a stack, grow last.
    """
    sources = array.manifest.sources
    is_near = not sources or is_local(sources[0].url) or sources[0].url.startswith(OBJECT_SCHEME)
    target = LOCAL_CHUNK_BYTES if is_near else REMOTE_CHUNK_BYTES
    chunks = list(array.chunks)

    def rank(axis: int) -> tuple[bool, int, int]:
        is_single = array.chunks[axis] == 1
        return is_single, 0 if is_single else chunks[axis], -axis

    growing = [axis for axis, n in enumerate(array.chunks) if n < array.shape[axis]]
    while growing and math.prod(chunks) * array.dtype.itemsize < target:
        axis = min(growing, key=rank)
        chunks[axis] *= 2
        if chunks[axis] >= array.shape[axis]:
            growing.remove(axis)
    return tuple(chunks)


def _split_bands(name: str, variable: xr.Variable) -> dict[str, xr.Variable]:
    """Return each band as a variable; attributes that list all bands are split."""
    n_bands = variable.sizes[BAND]
    suffix = name.removeprefix("image") if name.startswith("image") else f"_{name}"
    bands = {}
    # keep lists for complex numbers, of which xarray would only unpack the real part
    names = {} if variable.dtype.kind == "c" else _BAND_NAMES
    for n in range(n_bands):
        band = variable.isel({BAND: n})
        band.attrs = {
            names.get(key, key): value[n]
            if isinstance(value, list) and len(value) == n_bands
            else value
            for key, value in variable.attrs.items()
        }
        band.encoding = {"preferred_chunks": variable.encoding["preferred_chunks"].without(BAND)}
        bands[f"band_{n + 1}{suffix}"] = band
    return bands


class _LazyArray(BackendArray):
    """An array over byte ranges, read region by region; can be pickled.

    `order` is the order in which the axes are shown.
    """

    def __init__(self, array: Array, fetch: Fetcher, order: tuple[int, ...]) -> None:
        self.array = array
        self.fetch = fetch
        self.order = order
        self.shape = tuple(array.shape[axis] for axis in order)
        self.dtype = array.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._read
        )

    def _read(self, selection: tuple[Any, ...]) -> Any:
        by_axis = dict(zip(self.order, selection, strict=True))
        stored = tuple(by_axis[axis] for axis in range(len(selection)))
        result = read_array(self.array, stored, fetch=self.fetch)
        shown = [axis for axis in range(len(selection)) if isinstance(by_axis[axis], slice)]
        return np.transpose(result, [shown.index(axis) for axis in self.order if axis in shown])


def plain_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes that netCDF can store: nested ones, such as `multiscales`, as JSON text."""
    plain: dict[str, Any] = {}
    for name, value in attributes.items():
        if value is None:
            continue
        if isinstance(value, Mapping) or _is_nested(value):
            plain[name] = json.dumps(value)
        else:
            plain[name] = int(value) if isinstance(value, bool) else value
    return plain


def _is_nested(value: Any) -> bool:
    if not isinstance(value, list | tuple):
        return False
    is_text = all(isinstance(item, str) for item in value)
    is_numeric = all(isinstance(n, int | float) and not isinstance(n, bool) for n in value)
    return not value or not (is_text or is_numeric)
