"""Open a catalog, query its index by place, time and column, and open the files found."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import math
import operator
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import (
    InvalidReferences,
    ManifestMismatch,
    MissingSource,
    SelectionError,
    SourceError,
    checked,
    did_you_mean,
    requires_extra,
    safe_cause,
    unreadable,
)
from ..formats.parquet import read_table
from ..formats.summary import count, html_table
from ..io.allow import AllowList, allowed_by_environment
from ..io.clients import client_errors, typed_errors
from ..io.urls import check_address
from ..metadata.cf import parse_date
from ..references import References
from ..sequences.stack import scan_sequence
from ..signatures import redact
from .index import INDEX, TIME_FIELDS, import_pyarrow, is_own_index, read_catalog_file

if TYPE_CHECKING:
    import pyarrow
    import xarray

_DATE_UNITS = frozenset({"Y", "M", "D", "h", "m", "s", "ms", "us", "ns"})
"""Units that the last part of a date may have, in NumPy's notation."""
_SHOWN_COLUMNS, _SHOWN_ROWS = ("url", "status", "shape", "dtype", "time"), 10
"""Columns and number of rows that a notebook shows."""
_REQUIRED_COLUMNS = frozenset({"url", "status", "references", "time", "bounds", "bbox", "geometry"})


@checked()
def open_catalog(
    path: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    *,
    allow: str | Sequence[str] | None = None,
) -> Catalog:
    """Open a catalog that `build` wrote.

    Parameters
    ----------
    path
        Path or URL of its folder, or of its `catalog.parquet`.
    storage_options
        Options of the fsspec file system of a URL.
    allow
        Prefixes of the addresses that the catalog may read; "*" for all. By default, a catalog that
        you built may read all its files; any other only its own folder and the addresses in
        `TIFFREF_ALLOW`.

    Raises
    ------
    SourceError
        If the catalog does not exist or cannot be read.
    MissingExtra
        If pyarrow is not installed.
    """
    text = check_address(path).rstrip("/")
    folder = "." if text == INDEX else text.removesuffix(f"/{INDEX}")
    pa = import_pyarrow()
    try:
        data = read_catalog_file(folder, INDEX, storage_options)
        table = read_table(data)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingSource(
            "no catalog found", url=os.fspath(path), expected=f"a folder with {INDEX}",
            hint="Build one: tiffref catalog build FILES -o FOLDER.",
        ) from error  # fmt: skip
    except pa.ArrowInvalid as error:
        raise InvalidReferences(
            "the index of the catalog cannot be read", url=folder, got=str(error)
        ) from error
    except SourceError:
        raise
    except client_errors() as error:
        raise unreadable(folder, error) from safe_cause(error)
    missing = sorted(_REQUIRED_COLUMNS - set(table.column_names))
    if missing:
        raise InvalidReferences(
            "not a catalog: its index lacks columns", url=folder, got=f"no {', '.join(missing)}"
        )
    if allow is None and not is_own_index(folder, data, storage_options):
        allow = [f"{folder}/", *allowed_by_environment()]
    trusted = (allow,) if isinstance(allow, str) else allow
    return Catalog(folder, table, storage_options, None if trusted is None else tuple(trusted))


@dataclass(frozen=True, slots=True, eq=False)
class Catalog:
    """A catalog, or the result of a query.

    Attributes
    ----------
    folder
        Path or URL of the catalog.
    table
        Rows of the index, as a pyarrow table. `docs/catalogs.md` describes the columns.
    storage_options
        Options of the fsspec file system of `folder` and of the files.
    allow
        Prefixes of the addresses that may be read, as in `References`; None for all.
    """

    folder: str
    table: pyarrow.Table
    storage_options: Mapping[str, Any] | None = None
    allow: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        return f"<tiffref.catalog.Catalog {redact(self.folder)!r}: {self.summary}>"

    def _repr_html_(self) -> str:
        columns = [c for c in _SHOWN_COLUMNS if c in self.table.column_names]
        rows = self.table.slice(0, _SHOWN_ROWS).select(columns).to_pylist()
        cells = [["" if row[c] is None else redact(str(row[c])) for c in columns] for row in rows]
        return html_table(f"Catalog {redact(self.folder)}: {self.summary}", cells, columns)

    @property
    def summary(self) -> str:
        """The number of files by status, such as "3 files, 1 failed, 2 ok"."""
        status = Counter(self.table["status"].to_pylist())
        counted = [f"{n:,} {name}" for name, n in sorted(status.items())]
        return ", ".join((count(len(self), "file"), *counted))

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def urls(self) -> list[str]:
        """Addresses of the files."""
        return self.table["url"].to_pylist()

    @checked()
    def query(
        self,
        *,
        bounds: Sequence[float] | None = None,
        time: Any = None,
        status: str | None = "ok",
        where: Mapping[str, Any] | None = None,
    ) -> Catalog:
        """Find files by place, time, status and column.

        Parameters
        ----------
        bounds
            (west, south, east, north) in degrees. A box that crosses the antimeridian is
            (170, s, -170, n) or (170, s, 190, n). Matches files whose bounding box intersects it.
        time
            A year, month, day or instant ("2022-05"), as text or date; or the first and the last,
            as a pair or text ("2022-05/2022-07"). Both are included; either may be None or "..".
        status
            "ok", "failed" or "deleted"; None for all.
        where
            Values, or lists of values, by column.

        Raises
        ------
        SelectionError
            If a column does not exist, or the bounds or times are invalid.
        """
        import pyarrow.compute as pc

        conditions = [pc.field("status") == status] if status is not None else []
        conditions += [_matches(self.table, *item) for item in (where or {}).items()]
        if bounds is not None:
            conditions.append(_intersects(bounds))
        if time is not None:
            first, last = _parse_period(time)
            names = [name for name in ("time", "created") if name in self.table.column_names]
            moment = pc.coalesce(*map(pc.field, names))
            conditions.append(moment.is_valid())
            conditions += [moment >= first] if first is not None else []
            conditions += [moment < last] if last is not None else []
        if not conditions:
            return self
        return replace(self, table=self.table.filter(functools.reduce(operator.and_, conditions)))

    def references(self, url: str | None = None) -> References:
        """Return the references of the file with this address; without one, of the only file."""
        rows = self.table.select(["url", "references"]).to_pylist()
        chosen = [row for row in rows if url is None or row["url"] == url]
        if len(chosen) != 1 or chosen[0]["references"] is None:
            raise SelectionError(
                "not a single file" if len(chosen) != 1 else "the file has no references",
                url=self.folder, got=url or f"{len(chosen)} files", expected="one file",
            )  # fmt: skip
        path = f"{self.folder}/{chosen[0]['references']}"
        if self.allow is not None:
            AllowList([*self.allow, f"{self.folder}/"]).check(path)
        references = References.open(path, self.storage_options)
        if self.allow is None and references.allow is not None:
            # sealed by a worker with another key: the user's own index vouches for the file
            return replace(references, allow=(*references.allow, chosen[0]["url"]))
        return references if self.allow is None else replace(references, allow=self.allow)

    def stack(self, **options: Any) -> References:
        """Combine the files found into one array.

        Files are stacked along time and the fields in which they differ. Adjacent files are joined
        to a mosaic by their georeference.

        Parameters
        ----------
        options
            Further arguments of `scan_sequence`.

        Raises
        ------
        ManifestMismatch
            If the files do not combine.
        UntrustedSource
            If the catalog may not read the address of a file.
        """
        if not len(self):
            raise SelectionError(
                "the query found no files", url=self.folder, hint="Use less strict conditions."
            )
        if self.allow is not None:
            allowed = AllowList(self.allow)
            for url in self.urls:
                allowed.check(url)
        places = {str(bounds) for bounds in self.table["bounds"].to_pylist()}
        options.setdefault("mosaic", len(places) > 1 and "None" not in places)
        columns = _stack_columns(self.table, options["mosaic"])
        table = {"url": self.urls, **columns}
        try:
            references = scan_sequence(
                table if columns else self.urls, storage_options=self.storage_options, **options
            )
            return replace(references, allow=self.allow)
        except ManifestMismatch as error:
            error.hint = error.hint or "Narrow the query by time, bounds or a column."
            raise

    def open(self, **options: Any) -> xarray.Dataset:
        """Open the files found as one xarray dataset.

        Parameters
        ----------
        options
            As for `stack`.

        Raises
        ------
        ManifestMismatch, UntrustedSource
            As in `stack`.
        MissingExtra
            If xarray is not installed.
        """
        with requires_extra("xarray", "opening needs xarray"):
            import xarray
        is_one = len(self) == 1 and not options
        if is_one and self.table["references"][0].is_valid:
            references = self.references()
        else:
            references = self.stack(**options)
        options = {} if self.storage_options is None else {"storage_options": self.storage_options}
        # tiffref's engine checks addresses against the allow-list
        return xarray.open_dataset(references, engine="tiffref", **options)  # type: ignore[arg-type]

    def combined(self) -> list[dict[str, Any]]:
        """Return a row for each combined set: `name`, `keys`, `path`, `shape`, ..."""
        name = "combined.json"
        try:
            with typed_errors(f"{self.folder}/{name}"):
                return json.loads(read_catalog_file(self.folder, name, self.storage_options))
        except FileNotFoundError:
            return []


def _matches(table: pyarrow.Table, name: str, value: Any) -> Any:
    """Return the expression for rows that have one of the values in a column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if name not in table.column_names:
        raise SelectionError(
            "no such column",
            got=name,
            expected=", ".join(table.column_names),
            hint=did_you_mean(name, table.column_names),
        )
    kind = table.schema.field(name).type
    if pa.types.is_nested(kind):
        raise SelectionError("cannot search a column of lists", got=name)
    values = list(value) if isinstance(value, list | tuple | set) else [value]
    if pa.types.is_string(kind):
        values = list(map(str, values))  # as in the index
    try:
        return pc.field(name).isin(pa.array(values).cast(kind))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise SelectionError(
            f"a value for column '{name}' has the wrong type", got=value, expected=str(kind)
        ) from error


def _intersects(bounds: Sequence[float]) -> Any:
    """Return the expression for rows whose bounding box intersects this one."""
    import pyarrow.compute as pc

    if len(bounds) != 4 or bounds[1] > bounds[3] or not all(map(math.isfinite, bounds)):
        raise SelectionError("invalid bounds", got=bounds, expected="west, south, east, north")
    west, south, east, north = (float(number) for number in bounds)
    if east - west >= 360:
        west, east = -180.0, 180.0
    # as in the index, also for those who count to 360
    west, east = (x if abs(x) <= 180 else (x + 180) % 360 - 180 for x in (west, east))
    xmin, ymin, xmax, ymax = (pc.field("bbox", side) for side in ("xmin", "ymin", "xmax", "ymax"))
    starts, ends, crosses = xmin <= east, xmax >= west, xmin > xmax
    is_either = starts | ends
    is_inside = crosses | is_either if west > east else (crosses & is_either) | (starts & ends)
    return is_inside & (ymin <= north) & (ymax >= south)


def _parse_period(time: Any) -> tuple[datetime.datetime | None, datetime.datetime | None]:
    """Return the start of the first date and the end of the last."""
    if isinstance(time, str) and "/" in time:
        time = [text or ".." for text in time.split("/")]
    pair = time if isinstance(time, list | tuple) else (time, time)
    if len(pair) != 2:
        raise SelectionError("invalid time", got=time, expected="a date, or (first, last)")
    first, last = (None if date in (None, "..") else _parse_date(date) for date in pair)
    return first and first[0], last and last[1]


def _parse_date(date: Any) -> tuple[datetime.datetime, datetime.datetime]:
    """Return the start and end of a year, month, day or instant."""
    if isinstance(date, datetime.datetime) and date.tzinfo is not None:
        date = date.astimezone(datetime.UTC).replace(tzinfo=None)
    start, text = None, str(date)
    with contextlib.suppress(ValueError):
        # NumPy also accepts words such as "today", which have no unit
        moment = np.datetime64(text.removesuffix("Z") if text[:1].isdigit() else "no date")
        unit: Any = np.datetime_data(moment.dtype)[0]
        start = moment.astype("M8[us]").item() if unit in _DATE_UNITS else None
    if not isinstance(start, datetime.datetime):
        raise SelectionError("invalid date", got=text, expected="2022-05-01 or 2022-05")
    end = (moment + np.timedelta64(1, unit)).astype("M8[us]").item()
    if not isinstance(end, datetime.datetime):
        end = datetime.datetime.max  # the year 9999, which means no end
    return start.replace(tzinfo=datetime.UTC), end.replace(tzinfo=datetime.UTC)


def _stack_columns(table: Any, is_mosaic: bool) -> dict[str, list[Any]]:
    """Return the columns to stack files along: time and fields, if their values differ.

    In a mosaic, a field that depends on the place only, such as the name of a tile, is left out.
    Time is kept even if it depends on the place only.
    """
    columns: dict[str, list[Any]] = {}
    names = table.column_names
    fields = names[names.index("geometry") + 1 :]
    places = [str(bounds) for bounds in table["bounds"].to_pylist()] if is_mosaic else []
    times = [time and time.replace(tzinfo=None) for time in table["time"].to_pylist()]
    for name in ["time", *fields]:
        column = table[name].to_pylist()
        if None in column or len(set(column)) < 2:
            continue
        if name in TIME_FIELDS[1:] and list(map(parse_date, map(str, column))) == times:
            continue  # the source of the time
        if name != "time" and is_mosaic:
            pairs = set(zip(places, column, strict=True))
            if len(pairs) == len(set(places)):
                continue
        columns[name] = [
            value.replace(tzinfo=None).isoformat() if name == "time" else value for value in column
        ]
    return columns
