"""List the files of a sequence or catalog, from paths, globs, folders, tables and STAC items.

All inputs give a `FileList`: URLs, and columns of known values. Opens tables, never images.
"""

from __future__ import annotations

import csv
import glob
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from ..errors import (
    MetadataWarning,
    MissingSource,
    SelectionError,
    SourceError,
    unreadable,
    warn,
)
from ..formats.load import fetch_text
from ..formats.parquet import import_pyarrow, read_table
from ..io.allow import AllowList
from ..io.clients import find_file_system, typed_errors
from ..io.urls import directory_error, from_document_url, has_scheme, spelling_hint
from .coordinates import read_values
from .names import has_fields, is_pattern, parse_pattern, read_names, to_glob

_STAC_TYPES = ("Feature", "FeatureCollection")
_NUMBER = re.compile("0*([0-9]+)")
_URL_COLUMNS = ("url", "href", "path", "file", "filename", "name", "location")


@dataclass(frozen=True, slots=True)
class FileList:
    """Files, and known values for each.

    Attributes
    ----------
    urls
        Paths or URLs.
    columns
        Field -> a value for each file: text, numbers or dates.
    pattern
        The pattern that was used to find the files, if it has fields.
    bands
        `scale`, `offset` and `nodata` of each band of each file, from STAC.
    allow
        Allowed targets of redirects; None allows all.
    """

    urls: list[str]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    pattern: str | None = None
    bands: Sequence[Sequence[Mapping[str, Any]]] = ()
    allow: AllowList | None = None


def natural_key(name: str) -> tuple[str, str]:
    """Return a sort key that orders numbers in names by value; strings, to save memory.

    >>> sorted(["t10.tif", "t9.tif"], key=natural_key)
    ['t9.tif', 't10.tif']
    """
    # numbers sort first, those with fewer digits before others
    return _NUMBER.sub(lambda number: f"\0{chr(len(number[1]))}{number[1]}", name), name


def is_many(source: Any) -> bool:
    """Return whether a source means several files: a list, a glob, a pattern with fields."""
    if isinstance(source, str | os.PathLike):
        return is_pattern(os.fspath(source))
    return isinstance(source, list | tuple) or hasattr(source, "indices")


def list_files(
    files: Any,
    *,
    assets: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> FileList:
    """Return the files of a sequence.

    Parameters
    ----------
    files
        Paths or URLs; a glob (local, or of an fsspec URL), sorted naturally; a readable pattern
        (`"S2_{time:%Y%m%d}.tif"`), also used as a glob; a text file (".txt") with one path or URL
        per line; a CSV or Parquet file or DataFrame with a column of paths or URLs and columns of
        coordinates; STAC items as objects, dictionaries or a JSON file; or tifffile's
        `FileSequence`.
    assets
        Keys of the assets of STAC items; by default all whose media type is TIFF.
    storage_options
        Options of the fsspec file system, if a glob is a URL.

    Raises
    ------
    SourceError
        If no file is found, or a table cannot be read.
    SelectionError
        If a table has no column of paths or URLs.
    """
    listed = files if isinstance(files, FileList) else _list(files, assets, storage_options)
    if not listed.urls:
        raise _no_files(files) if isinstance(files, str) else SourceError("no files")
    return listed


def _no_files(pattern: str) -> MissingSource:
    hint = spelling_hint(pattern) or "Check the pattern."
    return MissingSource("no files", url=pattern, hint=hint)


def _list(
    files: Any, assets: Sequence[str] | None, storage_options: Mapping[str, Any] | None
) -> FileList:
    if isinstance(files, str | os.PathLike):
        return _list_name(os.fspath(files), assets, storage_options)
    if hasattr(files, "columns") and hasattr(files, "to_dict"):
        return _from_table(files.to_dict("list"), "")
    if isinstance(files, Mapping):
        if files.get("type") in _STAC_TYPES:
            return _from_stac(_features(files), assets)
        return _from_table(files, "")
    if hasattr(files, "indices") and hasattr(files, "dims"):
        return _from_file_sequence(files)
    items = files.items if hasattr(files, "items") and not callable(files.items) else files
    if not isinstance(items, Iterable):
        raise SourceError(
            f"cannot list files of {type(files).__name__}",
            expected="paths, a glob, a pattern, a table or STAC items",
        )
    items = list(items)
    if items and all(
        hasattr(i, "assets") or (isinstance(i, Mapping) and "assets" in i) for i in items
    ):
        return _from_stac([(item, "") for item in items], assets)
    names = [_address(item) for item in items]
    urls = [url for name in names for url in _list_member(name, storage_options)]
    if urls and all(_ending(url) in _ITEMS for url in urls):
        features = [_load_items(url, storage_options) for url in urls]
        return _from_stac([feature for some in features for feature in some], assets)
    return FileList(urls)


def _list_member(name: str, storage_options: Mapping[str, Any] | None) -> list[str]:
    """Return the files of one item of a list: itself, or the matches of a glob."""
    if not is_pattern(name):
        return [name]
    if has_fields(name):
        raise SelectionError(
            "a pattern with fields cannot be combined with other files",
            got=name,
            hint="Pass only the pattern, or list all files and pass pattern='...'.",
        )
    urls = _expand(name, storage_options)
    if not urls:
        raise _no_files(name)
    return urls


def in_archive(names: Iterable[str | os.PathLike[str]], archive: str) -> list[str]:
    """Return the URLs of files or globs inside a ZIP file."""
    return [f"zip://{os.fspath(name)}::{archive}" for name in names]


def _address(item: Any) -> str:
    if isinstance(item, str | os.PathLike):
        return os.fspath(item)
    if hasattr(item, "fs") and hasattr(item, "path"):
        return item.fs.unstrip_protocol(item.path)
    raise SourceError(f"cannot open a {type(item).__name__}", expected="a path or URL")


def _list_name(
    name: str, assets: Sequence[str] | None, storage_options: Mapping[str, Any] | None
) -> FileList:
    if not is_pattern(name):
        if _ending(name) in _READERS:
            return _READERS[_ending(name)](name, storage_options)
        if os.path.isdir(name):  # noqa: PTH112 - false also for names that no file can have
            raise directory_error(name)
        if _ending(name) not in _ITEMS:
            if "{" in name and not os.path.lexists(name):
                parse_pattern(name)  # raises for unmatched braces
            return FileList([name])
    elif has_fields(name):
        # without the folders before the first field, so that files may be moved
        start = name.rfind("/", 0, name.index("{")) + 1
        return FileList(_expand(to_glob(name), storage_options), pattern=name[start:])
    return _list([name], assets, storage_options)


def _read_list(name: str, storage_options: Any) -> FileList:
    """Read a path or URL from each line; relative ones are relative to the list."""
    lines = [line.strip() for line in _read_text(name, storage_options).splitlines()]
    return FileList([_resolve(line, _folder(name)) for line in lines if line[:1] not in ("", "#")])


def _read_csv(name: str, storage_options: Any) -> FileList:
    delimiter = "\t" if name.lower().endswith(".tsv") else ","
    lines = _read_text(name, storage_options).splitlines()
    rows = list(csv.DictReader(lines, delimiter=delimiter))
    longer = next((n for n, row in enumerate(rows, 1) if None in row), None)
    if longer is not None:
        raise SelectionError(
            f"row {longer} of the table has more cells than the header", url=name,
            hint="Quote values that contain a comma.",
        )  # fmt: skip
    columns = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
    return _from_table(columns, _folder(name))


def _read_parquet(name: str, storage_options: Any) -> FileList:
    import_pyarrow(what="a Parquet table needs pyarrow", url=name)
    data = fetch_text(name, storage_options, "cannot be read")
    with typed_errors(name):  # ArrowInvalid is a ValueError
        table = read_table(data)
    return _from_table(table.to_pydict(), _folder(name))


def _load_items(name: str, storage_options: Any) -> list[tuple[Any, str]]:
    text = _read_text(name, storage_options)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise unreadable(name, error) from error
    if not isinstance(document, dict) or document.get("type") not in _STAC_TYPES:
        if isinstance(document, dict) and {"refs", ".zgroup"} & document.keys():
            hint = "Pass TIFF files; `tiffref append` adds files to the references of a stack."
            raise SourceError("contains references, not files", url=name, hint=hint)
        wanted = "an Item, an ItemCollection, or a table"
        raise SourceError("contains no STAC items", url=name, expected=wanted)
    return _features(document, _folder(name))


def _features(document: Mapping[str, Any], folder: str = "") -> list[tuple[Any, str]]:
    """Return the items of a STAC document, each with the folder of its relative addresses."""
    return [(item, folder) for item in document.get("features", [document])]


_READERS: Mapping[str, Callable[[str, Any], FileList]] = {
    ".csv": _read_csv, ".tsv": _read_csv,
    ".txt": _read_list, ".lst": _read_list, ".list": _read_list,
    ".parquet": _read_parquet, ".pq": _read_parquet, ".geoparquet": _read_parquet,
}  # fmt: skip
"""Extension of a table -> its reader."""
_ITEMS = (".json", ".geojson")
"""Extensions of files with STAC items."""


def _read_text(name: str, storage_options: Mapping[str, Any] | None) -> str:
    with typed_errors(name):
        return fetch_text(name, storage_options, "cannot be read").decode("utf-8-sig")


def _expand(pattern: str, storage_options: Mapping[str, Any] | None) -> list[str]:
    if "://" not in pattern:
        # Path.glob does not accept absolute patterns
        return sorted(glob.glob(pattern, recursive=True), key=natural_key)  # noqa: PTH207
    # in chained URLs the first link with a path has it: "simplecache::zip://*.tif::a.zip"
    links = pattern.split("::")
    at = next(n for n, link in enumerate(links) if "://" in link)
    scheme = links[at].partition("://")[0]
    fs, path = find_file_system(pattern, storage_options, "cannot be listed")
    with typed_errors(pattern, "cannot be listed"):
        paths = fs.glob(path)
    is_whole = not at or scheme in ("http", "https")  # their file system keeps the scheme
    names = [fs.unstrip_protocol(name) if is_whole else f"{scheme}://{name}" for name in paths]
    urls = ("::".join((*links[:at], name, *links[at + 1 :])) for name in names)
    return sorted(urls, key=natural_key)


def _from_table(columns: Mapping[str, Sequence[Any]], folder: str) -> FileList:
    by_name = {str(name).lower(): name for name in columns}
    key = next((by_name[name] for name in _URL_COLUMNS if name in by_name), None)
    if key is None:
        raise SelectionError(
            "the table has no column of paths or URLs",
            got=list(columns),
            expected=f"one of {', '.join(_URL_COLUMNS)}",
        )
    lengths = {str(name): len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise SelectionError("columns of a table differ in length", got=lengths)
    urls = [_resolve(os.fspath(url), folder) for url in columns[key]]
    return FileList(urls, {str(k): list(v) for k, v in columns.items() if k != key})


def _path(url: str) -> str:
    return re.split("[?;#]", url, maxsplit=1)[0] if url.startswith("http") else url


def _folder(url: str) -> str:
    return _path(url).rpartition("/")[0]


def _ending(url: str) -> str:
    return Path(_path(url)).suffix.lower()


def _resolve(url: str, folder: str) -> str:
    """Return an address that may be relative to the folder of the list or item that has it."""
    scheme, is_remote, place = folder.partition("://")
    if "://" in url or not folder or (Path(url).is_absolute() and not is_remote):
        return url
    if is_remote:  # "./" as a colon could otherwise end a scheme
        relative = url if url.startswith("/") else f"./{url}"
        return scheme + urljoin(f"http://{place}/", relative).removeprefix("http")
    return f"{folder}/{url.removeprefix('./')}"


def _from_stac(items: Iterable[tuple[Any, str]], assets: Sequence[str] | None) -> FileList:
    """Return a row per asset: its URL, the time of its item, and its key as band."""
    rows: list[tuple[str, Any, str, list[dict[str, Any]]]] = []
    for item, folder in items:
        try:
            document = item if isinstance(item, Mapping) else item.to_dict()
            properties = document.get("properties") or {}
            moment = properties.get("datetime") or properties.get("start_datetime")
            rows += [
                (url, moment, key, _read_bands(properties, asset))
                for key, asset in document.get("assets", {}).items()
                for url in [_resolve(asset["href"], folder)]
                if (key in assets if assets is not None else _is_tiff_asset(asset, url))
            ]
        except (AttributeError, LookupError, TypeError) as error:
            raise SourceError(
                "not a STAC item",
                got=f"{type(error).__name__}: {error} in {repr(item)[:80]}",
                expected="properties, and assets with an href each",
            ) from error
    urls, times, keys, bands = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [])
    columns = {"time": times} if len(set(keys)) < 2 else {"time": times, "band": keys}
    return FileList(urls, columns, bands=bands if any(bands) else ())


def _read_bands(properties: Mapping[str, Any], asset: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return scale, offset, nodata and unit of the bands of an asset.

    STAC 1.0 has them in `raster:bands`, 1.1 in `bands` or, for all bands, in the asset or the item.
    """
    given = {**properties, **asset}
    # items of Sentinel-2 in Earth Search repeat an offset that is in their pixels already
    is_shifted = any(given[name] is True for name in given if name.endswith("boa_offset_applied"))
    lists = [given.get(name) or [{}] for name in ("bands", "raster:bands")]
    n_bands, bands = max(map(len, lists)), []
    for parts in zip(*(some * n_bands if len(some) == 1 else some for some in lists), strict=False):
        band = parts[0] | parts[1]
        both = given | band
        values = {name: both.get(f"raster:{name}", band.get(name)) for name in ("scale", "offset")}
        values |= {name: both.get(name) for name in ("nodata", "unit")}
        values |= {"offset": None} if is_shifted else {}
        bands.append({name: value for name, value in values.items() if value is not None})
    return bands if any(bands) else []


def _is_tiff_asset(asset: Mapping[str, Any], url: str) -> bool:
    kind = str(asset.get("type") or "").lower()
    is_tiff = "tiff" in kind or (not kind and _ending(url) in _ENDINGS)
    return is_tiff and not {"thumbnail", "overview"} & set(asset.get("roles") or ())


def _from_file_sequence(sequence: Any) -> FileList:
    """Return the files and indices of tifffile's `FileSequence`."""
    urls = [os.fspath(name) for name in sequence]
    archive = getattr(sequence, "_container", None)  # tifffile has no public attribute for it
    if archive is not None:
        urls = in_archive(urls, archive.filename)
    names = [str(dim) for dim in sequence.dims]
    if names in (["I"], ["sequence"]):  # of files that are only numbered, by version of tifffile
        return FileList(urls)
    rows = list(sequence.indices)
    return FileList(urls, {name: [int(row[n]) for row in rows] for n, name in enumerate(names)})


def reader_of(files: Any) -> Callable[..., Any] | None:
    """Return the function by which tifffile's `FileSequence` reads a file; None for `imread`."""
    reader = getattr(files, "imread", None)
    is_archive = getattr(files, "_container", None) is not None
    if is_archive:  # tifffile wraps the function, whose argument is then an open file
        reader = next(iter(getattr(reader, "__defaults__", None) or ()), reader)
    module = getattr(reader, "__module__", None) or ""
    if reader is None or module.partition(".")[0] in ("tifffile", "tiffref"):
        return None
    if is_archive:
        hint = "Extract the files, or read TIFFs without a function."
        raise SelectionError("a store cannot read an archive by a function", hint=hint)
    return reader


def list_tiffs(
    files: Any, assets: Sequence[str] | None, storage_options: Mapping[str, Any] | None
) -> FileList:
    """As `list_files`, but refuse files that a function reads: they have no byte ranges."""
    reader = reader_of(files)
    if reader is not None:
        raise SelectionError(
            "files read by a function have no byte ranges to refer to",
            got=getattr(reader, "__name__", type(reader).__name__),
            hint="Read them through tiffref.zarr.ZarrFileSequenceStore, which calls it.",
        )
    return list_files(files, assets=assets, storage_options=storage_options)


_ENDINGS = (".tif", ".tiff")
_MAGIC = re.compile(r"[*?\[{]")


def find_files(
    files: Any,
    *,
    assets: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> FileList:
    """Return the files of a catalog, as absolute paths or URLs.

    Accepts the inputs of `list_files`, folders (all TIFFs below them), and lists of these.

    Raises
    ------
    SourceError
        If there are no files, or a list cannot be read.
    """
    is_list = isinstance(files, list | tuple) and all(
        isinstance(file, str | os.PathLike) for file in files
    )
    lists = [_list_input(item, assets, storage_options) for item in (files if is_list else [files])]
    plain = [from_document_url(url) for part in lists for url in part.urls]
    urls = [url if has_scheme(url) else os.path.abspath(url) for url in plain]  # noqa: PTH100
    if not urls:
        named = str(files) if isinstance(files, str | os.PathLike) else None
        raise SourceError("no files", url=named, hint="Check the folder, pattern or list.")
    names = dict.fromkeys(name for part in lists for name in part.columns)
    columns = {
        name: [v for part in lists for v in part.columns.get(name, [None] * len(part.urls))]
        for name in names
    }
    patterns = {part.pattern for part in lists}
    bands = [band for part in lists for band in part.bands or [[]] * len(part.urls)]
    pattern = patterns.pop() if len(patterns) == 1 else None
    return FileList(urls, columns, pattern, bands if any(bands) else ())


def _list_input(files: Any, assets: Any, storage_options: Any) -> FileList:
    if not isinstance(files, str | os.PathLike):
        return list_files(files, assets=assets, storage_options=storage_options)
    name = from_document_url(os.fspath(files))
    if has_scheme(name):
        if name.endswith("/"):
            return FileList(_walk_remote(name, storage_options))
    elif os.path.isdir(name):  # noqa: PTH112 - takes names of any length
        return FileList(_walk(name))
    elif name.endswith("/") or not (
        Path(name).suffix or _MAGIC.search(name) or os.path.exists(name)  # noqa: PTH110
    ):
        raise MissingSource("no such folder", url=name)
    return list_files(name, assets=assets, storage_options=storage_options)


def _walk(folder: str) -> list[str]:
    """Return the TIFFs below a folder, sorted naturally."""
    files: list[str] = []
    links: list[str] = []
    join = os.path.join  # a Path for each of many files is slow
    for parent, folders, names in os.walk(folder, onerror=_cannot_list):
        files += [join(parent, name) for name in names if name.lower().endswith(_ENDINGS)]
        links += filter(os.path.islink, [join(parent, name) for name in folders])
    if links:
        more = f" (and {len(links) - 1} more)" if len(links) > 1 else ""
        what = f"{links[0]}{more}: links to folders are not followed; name the folder itself"
        warn(MetadataWarning(what, url=links[0]))
    return sorted(files, key=natural_key)


def _cannot_list(error: OSError) -> None:
    raise SourceError("cannot be listed", url=error.filename, got=error.strerror) from error


def _walk_remote(url: str, storage_options: Mapping[str, Any] | None) -> list[str]:
    fs, path = find_file_system(url, storage_options, "cannot be listed")
    with typed_errors(url, "cannot be listed"):
        paths = fs.find(path)
    names = [fs.unstrip_protocol(name) for name in paths if name.lower().endswith(_ENDINGS)]
    return sorted(names, key=natural_key)


def read_fields(
    files: FileList,
    pattern: str | None,
    formats: Mapping[str, str] | None = None,
    read: Callable[[str, Sequence[Any], str | None], Any] = read_values,
) -> dict[str, Any]:
    """Return the fields of each file, from its name and tables.

    Parameters
    ----------
    pattern
        Pattern of the names; by default the one that was used to find the files.
    formats
        Formats of fields, as in `parse_pattern`.
    read
        Converts a column of texts to values, given the name and format of its field.

    Raises
    ------
    ManifestMismatch
        If names do not match the pattern.
    """
    texts: dict[str, Sequence[Any]] = dict(files.columns)
    kinds = dict(formats or {})
    text = pattern or files.pattern
    if text is not None:
        parsed = parse_pattern(text, formats)
        texts |= read_names(files.urls, parsed)
        kinds = dict(parsed.formats)
    return {name: read(name, column, kinds.get(name)) for name, column in texts.items()}


def read_plain(name: str, column: Sequence[Any], kind: str | None) -> list[Any]:
    """Return values as JSON types: integers, floats, texts, ISO dates, or None."""
    given = [n for n, value in enumerate(column) if value is not None and value != ""]
    try:
        values = read_values(name, [column[n] for n in given], kind)
    except SelectionError:
        return [None if value is None else str(value) for value in column]
    if values.dtype.kind == "M":
        values = values.astype("M8[us]").astype(str)
    plain: list[Any] = [None] * len(column)
    for n, value in zip(given, values.tolist(), strict=True):
        plain[n] = value
    return plain
