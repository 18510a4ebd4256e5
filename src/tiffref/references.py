"""References: the result of a scan, and the content of a document.

The class holds a group of arrays over byte ranges, with a record of their series. Documents are
written and read by `formats`. No TIFF is opened here.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import (
    InvalidReferences,
    ManifestMismatch,
    MetadataWarning,
    SelectionError,
    TiffrefError,
    checked,
    no_such_index,
    warn,
)
from .formats import kerchunk, parquet, summary
from .formats.kerchunk_read import Parsed, is_bad_key, read_document
from .formats.load import check_kind
from .formats.parquet import is_parquet, parse_parquet
from .io import urls
from .io.allow import allowed_by_environment, check_new_location, is_local, location_prefix
from .metadata.layout import split_positions
from .metadata.ngff import from_ngff, order_axes, to_ngff, without_pending
from .model.array import Array, Group
from .model.manifest import OBJECT_SCHEME, Source
from .signatures import redact

_DOCUMENT_SUFFIXES = (".json", ".json.gz", ".json.zst")
_TIFF_SIGNATURES = frozenset({b"II*", b"II+", b"MM\0"})


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """Arrays whose chunks are byte ranges of files, ready to be written as a document.

    Parameters
    ----------
    group
        The root group with its arrays, groups and attributes.
    series
        One mapping for each series of the source: `index`, `kind`, `name`, `axes` and `levels`. A
        level has the `path` of its array, or the reason why it was `refused`.
    allow
        Prefixes of the addresses that may be read. None allows all, which is right for references
        that were scanned in this process.
    axes
        Order of axes that was requested. None depends on the Zarr format (see `laid_out`).
    """

    group: Group
    series: Sequence[Mapping[str, Any]] = ()
    allow: Sequence[str] | None = None
    axes: str | None = None

    def __dask_tokenize__(self) -> bytes:
        return pickle.dumps(self)  # dask takes ten times as long to walk through all fields

    def __repr__(self) -> str:
        title, rows = summary.outline(self.group, self.series, self.sources)
        return "\n".join(
            (f"<tiffref.References: {title}>", *([summary.format_table(rows)] if rows else []))
        )

    def _repr_html_(self) -> str:
        title, rows = summary.outline(self.group, self.series, self.sources)
        return summary.html_table(f"tiffref.References: {title}", rows, summary.ARRAY_HEADING)

    def info(self) -> str:
        """Return a summary of the arrays, and which readers can open them, as `tiffref info`."""
        facts = summary.describe_arrays(self.group, self.series, self.sources)
        is_one = len(self.sources) == 1
        name = redact(self.sources[0].url).rpartition("/")[2] if is_one else "references"
        return "\n".join((*summary.format_arrays(name, facts), *summary.format_readers(facts)))

    def with_attributes(self, **attributes: Any) -> References:
        """Return the references with more attributes at the root."""
        return replace(self, group=self.group.with_attributes(**attributes))

    @checked()
    def with_axes(self, axes: str | None) -> References:
        """Return the references with the axes of images in another order.

        Parameters
        ----------
        axes
            "ngff" (t, c, z, y, x), "bands-first" (band, y, x) or "as-stored". None is the default:
            as stored, except for microscope images in Zarr v3 documents.

        Raises
        ------
        SelectionError
            If there is no such order, or the images do not have the axes for it.
        UnsupportedTiff
            If the chunks of an image cannot be transposed.
        """
        group, series = self.group, self.series
        if axes == "ngff":
            group, series = split_positions(group, series)
        group = order_axes(group, series, axes)
        return replace(self, group=group, series=series, axes=axes or self.axes)

    def laid_out(self, zarr_format: int) -> References:
        """Return the references with the metadata and groups of a Zarr format.

        In Zarr v3, microscope images follow OME-NGFF 0.5: a group for each level, and axes in its
        order unless `axes` is "as-stored" or "bands-first". In Zarr v2 they follow OME-NGFF 0.4 if
        that has their axes.
        """
        if zarr_format != 3:
            is_ome = any("ome" in group.attributes for group in self.group.groups())
            return replace(self, group=from_ngff(self.group)) if is_ome else self
        group = self.group if self.axes in (None, "ngff") else without_pending(self.group)
        group, series = to_ngff(*split_positions(group, self.series))
        return replace(self, group=group, series=series)

    @property
    def main_path(self) -> str:
        """Path of the main array: the first level of the first series."""
        first = next((path for path, _ in self.group.arrays()), "")
        return next(iter(level_paths(self.series)), first)

    @property
    def sources(self) -> tuple[Source, ...]:
        """All files that contain chunks, with their state when they were scanned."""
        return tuple(self.group.sources().values())

    @checked()
    def to_kerchunk(
        self,
        zarr_format: int = 2,
        version: int = 1,
        url: str | None = None,
        *,
        groupname: str | None = None,
        templatename: str | None = None,
        keep_signature: bool = False,
    ) -> dict[str, Any]:
        """Return the kerchunk reference document as a dictionary.

        Parameters
        ----------
        zarr_format
            Zarr format of the metadata, 2 or 3. xarray's kerchunk engine opens only 2.
        version
            Version of the kerchunk format, 1 or 0.
        url
            Address of the folder where readers find the files. It replaces the folder that holds
            all files here; subfolders are kept. By default the files' own addresses are written.
        groupname
            Group for everything. The default is the root.
        templatename
            Name of a template for the folder's address. Version 0 has no templates, and several
            readers do not support them.
        keep_signature
            Keep signatures and passwords in addresses: whoever has the document then has access. By
            default they are removed, with a warning.

        Raises
        ------
        ManifestMismatch
            If an array has more than one codec, the files have no common folder that `url` could
            replace, or the image was read from an open file without a name.
        InvalidReferences
            If an attribute or address cannot be written in the document.
        """
        options = self._options(zarr_format, url, groupname, templatename, keep_signature)
        return kerchunk.to_kerchunk(version=version, **options)

    @checked()
    def write_fsspec(
        self,
        path: str | os.PathLike[str] | Any,
        url: str | None = None,
        *,
        groupname: str | None = None,
        templatename: str | None = None,
        zarr_format: int | None = 2,
        version: int | None = 1,
        keep_signature: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the references as a kerchunk JSON document, or parquet by the name.

        The file is replaced only when the new one is complete.

        Parameters
        ----------
        path
            Path or URL of the JSON file, or a file open for writing (text or binary). If it ends in
            ".parq" or ".parquet", it is a folder, which `to_parquet` writes, without templates.
        url, groupname, templatename, zarr_format, version, keep_signature
            As in `to_kerchunk`; the names are those of tifffile's `write_fsspec`.
        storage_options
            Options of the fsspec file system of `path`.

        Raises
        ------
        ManifestMismatch, InvalidReferences
            As in `to_kerchunk`.
        SourceError
            If the file cannot be written.
        UntrustedSource
            If the references come from a document that may not read the folder of `path`.

        Examples
        --------
        >>> import tiffref
        >>> references = tiffref.scan("image.tif")
        >>> references.write_fsspec("public.json", url="https://host/data/")
        >>> tiffref.References.open("public.json").sources[0].url
        'https://host/data/image.tif'
        """
        _check_name(path, is_parquet=False)
        zarr_format, version = zarr_format or 2, 1 if version is None else version
        if parquet.is_written_as_parquet(path, zarr_format):
            self.to_parquet(
                path,
                url,
                groupname=groupname,
                keep_signature=keep_signature,
                storage_options=storage_options,
            )
            return
        options = self._options(zarr_format, url, groupname, templatename, keep_signature, path)
        kerchunk.write_json(path=path, version=version, storage_options=storage_options, **options)

    @classmethod
    @checked()
    def open(
        cls,
        document: Mapping[str, Any] | str | os.PathLike[str],
        storage_options: Mapping[str, Any] | None = None,
        *,
        allow: str | Sequence[str] | None = None,
    ) -> References:
        """Read a reference document, JSON or a folder of parquet references.

        Parameters
        ----------
        document
            Path or URL, or the document itself.
        storage_options, allow
            As in `from_kerchunk`.

        Raises
        ------
        InvalidReferences, SourceError, MissingExtra
            As in `from_kerchunk` and `from_parquet`.
        """
        return read_references(document, storage_options, allow)[0]

    @classmethod
    @checked()
    def from_kerchunk(
        cls,
        document: Mapping[str, Any] | str | os.PathLike[str],
        storage_options: Mapping[str, Any] | None = None,
        *,
        allow: str | Sequence[str] | None = None,
    ) -> References:
        """Read a kerchunk reference document, version 0 or 1, written by any program.

        Parameters
        ----------
        document
            Path or URL of a JSON file, or the document itself.
        storage_options
            Options of the fsspec file system of a URL.
        allow
            Prefixes of the addresses that may be read through the references; "*" for all. By
            default, a document that you wrote on this machine may read all addresses in it. Others
            may read their own folder, and the comma-separated prefixes in the environment variable
            `TIFFREF_ALLOW`.

        Raises
        ------
        InvalidReferences
            If it is not a valid reference document.
        SourceError
            If the file cannot be read.
        """
        return _read(read_document, document, storage_options, allow)[0]

    @checked()
    def to_parquet(
        self,
        path: str | os.PathLike[str],
        url: str | None = None,
        *,
        groupname: str | None = None,
        record_size: int = 100_000,
        keep_signature: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the references in kerchunk's parquet layout.

        It is smaller than JSON, and readers load only the parts that they need. It supports only
        Zarr v2, and fewer readers support it. A folder is replaced when the new one is complete.

        Parameters
        ----------
        path
            Path or URL of the folder. Existing references in it are replaced.
        url, groupname, keep_signature
            As in `to_kerchunk`.
        record_size
            Chunks in one file.
        storage_options
            Options of the fsspec file system of `path`.

        Raises
        ------
        MissingExtra
            If pyarrow is not installed.
        ManifestMismatch, InvalidReferences
            As in `to_kerchunk`; also for missing chunks whose codec cannot store the fill value.
        SourceError
            If the folder cannot be written.
        UntrustedSource
            As in `write_fsspec`.
        """
        _check_name(path, is_parquet=True)
        options = self._options(2, url, groupname, None, keep_signature, path)
        parquet.write_parquet(
            path=path, record_size=record_size, storage_options=storage_options, **options
        )

    @classmethod
    @checked()
    def from_parquet(
        cls,
        path: str | os.PathLike[str],
        storage_options: Mapping[str, Any] | None = None,
        *,
        allow: str | Sequence[str] | None = None,
    ) -> References:
        """Read references in kerchunk's parquet layout, written by any program.

        Parameters
        ----------
        path
            Folder, or its URL.
        storage_options, allow
            As in `from_kerchunk`.

        Raises
        ------
        MissingExtra
            If pyarrow is not installed.
        InvalidReferences
            If the folder does not contain valid references.
        SourceError
            If it cannot be read.
        """
        if isinstance(path, Mapping):
            raise InvalidReferences("parquet references are a folder", got=type(path).__name__)
        return _read(parse_parquet, path, storage_options, allow)[0]

    def _options(
        self,
        zarr_format: int,
        url: str | None,
        groupname: str | None,
        templatename: str | None,
        keep_signature: bool,
        target: Any = None,
    ) -> dict[str, Any]:
        """Return the group to write, and the options of `plan_document`; templates if wanted."""
        shown, path = self.laid_out(zarr_format), (groupname or "").strip("/")
        if path and is_bad_key(path):
            raise SelectionError(
                "not a groupname", got=repr(groupname), expected="names joined by '/'"
            )
        addresses = list(shown.group.sources())
        if [address for address in addresses if address.startswith(OBJECT_SCHEME)]:
            raise ManifestMismatch(
                "the image was read from an open file without a name, so references have no "
                "address for it",
                hint="Scan its path or URL, or read it through ZarrTiffStore, which needs none.",
            )
        urls.warn_about_chains(addresses)
        rename = None if url is None else urls.plan_prefix(url, addresses)
        if url is None:
            urls.warn_about_signatures(addresses, is_kept=keep_signature)
            rename = urls.to_full_url if keep_signature else None
            if isinstance(target, str | os.PathLike):
                check_new_location(addresses, self.allow, os.fspath(target))
        group = shown.group
        for part in reversed(path.split("/") if path else ()):
            group = Group({part: group})
        options = {
            "group": group, "zarr_format": zarr_format, "rename": rename,
            "series": move_series(shown.series, path), "is_sealed": self.allow is None,
        }  # fmt: skip
        if templatename:
            folder = urls.shared_folder([*map(rename or urls.to_document_url, addresses)])
            options["templates"] = {templatename: folder}
        return options


def _check_name(path: Any, is_parquet: bool) -> None:
    """Refuse the name of a file of another format."""
    is_name = isinstance(path, str | os.PathLike)
    misnamed = urls.misnamed_references(os.fspath(path), is_parquet) if is_name else None
    if misnamed:
        what, better = misnamed
        raise InvalidReferences(what, url=os.fspath(path), hint=f"Name them {better}.")


def write_document(
    references: References,
    target: Any,
    *,
    zarr_format: int = 2,
    version: int = 1,
    record_size: int = 100_000,
    **options: Any,
) -> None:
    """Write references as they are, as parquet or JSON by the name of the target.

    Parameters
    ----------
    options
        Further ones of `write_parquet` and `write_json`.
    """
    options |= {"series": references.series, "is_sealed": references.allow is None}
    if parquet.is_written_as_parquet(target, zarr_format):
        parquet.write_parquet(references.group, target, record_size=record_size, **options)
        return
    options |= {"zarr_format": zarr_format, "version": version}
    kerchunk.write_json(references.group, target, **options)


def read_references(
    document: Mapping[str, Any] | str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    allow: str | Sequence[str] | None = None,
) -> tuple[References, Parsed]:
    """Read a document as `References.open` does; also return the parsed document."""
    read = parse_parquet if is_parquet(document) else read_document
    return _read(read, document, storage_options, allow)


def open_document(
    document: Any,
    storage_options: Mapping[str, Any] | None = None,
    allow: str | Sequence[str] | None = None,
) -> References:
    """Return references to a document, or with another allow-list if they are `References`."""
    if isinstance(document, References):
        given = (allow,) if isinstance(allow, str) else allow
        return document if given is None else replace(document, allow=tuple(given))
    return read_references(document, storage_options, allow)[0]


def _read(
    read: Callable[..., Parsed], document: Any, storage_options: Any, allow: Any
) -> tuple[References, Parsed]:
    check_kind(document)
    location = None if isinstance(document, Mapping) else os.fspath(document)
    try:
        parsed = read(document, storage_options)
    except TiffrefError as error:
        error.url = location if error.url is None else error.url
        raise
    references = References(parsed.group, parsed.series)
    if allow is None and not parsed.is_own():
        folder = [] if location is None else [location_prefix(location)]
        allow = [*folder, *allowed_by_environment()]
    return open_document(references, allow=allow), parsed


def move_series(series: Sequence[Mapping[str, Any]], prefix: str) -> list[Mapping[str, Any]]:
    """Return the series with the paths of their arrays moved into a group; "" is the root."""
    if not prefix:
        return list(series)

    def move(level: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**level, "path": f"{prefix}/{level['path']}"} if "path" in level else level

    return [{**row, "levels": [move(level) for level in row.get("levels", [])]} for row in series]


def warn_of_parts(references: References) -> None:
    """Warn that only the first of the arrays is shown into which the files were split."""
    parts = [name for name in references.group.children if name.startswith("part_")]
    if len(parts) > 1 and any("sequence" in row for row in references.series):
        what = f"This is {parts[0]} of {len(parts)} arrays, into which the files were split."
        hint = f"xarray shows another by group='{parts[1]}', a store of the references by series=1."
        warn(MetadataWarning(f"{what} {hint}"))


def select_levels(references: References, series: int | None, level: int | None) -> References:
    """Return references with only one series, or one level of it.

    Parameters
    ----------
    references
        References to select from. Groups and attributes are kept.
    series
        Index of a series; None keeps all.
    level
        Index of a pyramid level, 0 being the full size; None keeps all.

    Raises
    ------
    SelectionError
        If there is no such series or level.
    InvalidReferences
        If the references do not record which arrays are series and levels.
    """
    rows = references.series
    if not rows:
        raise InvalidReferences(
            "the document does not record which arrays are series and levels",
            got=f"series={series}, level={level}",
            hint="Only documents that tiffref wrote record it.",
        )
    if series is not None:
        rows = (rows[find_index(series, len(rows), "series")],)
    if level is not None:
        n = find_index(level, len(rows[0]["levels"]), "level")
        rows = tuple({**row, "levels": row["levels"][n : n + 1]} for row in rows)
    others = {*level_paths(references.series)} - {*level_paths(rows)}
    return replace(without_arrays(references, others), series=rows)


def find_index(index: int, n: int, what: str, url: str | None = None) -> int:
    """Return an index, which may be negative, as one from 0 to `n - 1`.

    Raises
    ------
    SelectionError
        If it is out of range.
    """
    try:
        return range(n)[index]
    except (IndexError, TypeError):
        raise no_such_index(what, index, n, url) from None


def level_paths(series: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the paths of the levels of series, without those that were refused."""
    return [level["path"] for row in series for level in row["levels"] if "path" in level]


def damage_of(several: Iterable[References]) -> dict[str, str]:
    """Return the first damage that scans found, as a member of the rows of series; {} if none."""
    rows = (row for one in several for row in one.series)
    return next(({"damaged": row["damaged"]} for row in rows if "damaged" in row), {})


def without_arrays(references: References, paths: Collection[str]) -> References:
    """Return references without some arrays, and without coordinates that only these use."""
    arrays = {path: array for path, array in references.group.arrays() if path not in paths}
    levels = {*level_paths(references.series)}
    described = {path for path, one in arrays.items() if path not in levels and is_description(one)}
    used = {dim for path in arrays.keys() - described for dim in arrays[path].dims}
    unused = {path for path in described if not used.issuperset(arrays[path].dims)}
    kept = arrays.keys() - unused
    group = references.group.map_arrays(lambda path, one: one if path in kept else None)
    return replace(references, group=group)


def is_description(node: Array | Group) -> bool:
    """Return whether a node is an inlined array, such as a coordinate."""
    if not isinstance(node, Array) or node.manifest.sources:
        return False
    # an image without any tiles has no source either
    return node.manifest.n_chunks > 0 and not node.manifest.is_missing.all()


def is_document(source: Any) -> bool:
    """Return whether a source is a reference document rather than a TIFF."""
    if isinstance(source, References | Mapping):
        return True
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        # the first link of a chain names the file: "zip://a.json::archive.zip"
        first = name.partition("::")[0]
        names = (name, first if "://" in first else name)
        if any(one.lower().endswith(_DOCUMENT_SUFFIXES) for one in names):
            return not _is_tiff(name)
    return is_parquet(source)


def _is_tiff(name: str) -> bool:
    """Return whether a local file with the name of a document is a TIFF."""
    if not is_local(name):
        return False
    try:
        with Path(urls.local_path(name)).open("rb") as file:
            return file.read(4)[:3] in _TIFF_SIGNATURES
    except (OSError, ValueError):
        return False  # opening it raises the error
