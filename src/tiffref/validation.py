"""Validate reference documents: their structure, their sources, and their pixels.

`formats.kerchunk_read` and `formats.zarr_metadata` check the structure and report all faults. This
module adds checks of the whole: unknown codecs, impossible chunk sizes, missing or changed sources,
and pixels that differ from those of the TIFF. The expected pixels are decoded by tifffile and
located by the position of the chunk in the image, independently of its reference.

The JSON Schemas in `schemas/` describe the same structure for other programs; tests compare both on
one table of documents.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .codecs.foreign import codec_names
from .codecs.zarr_codecs import to_zarr2
from .errors import (
    Finding,
    InvalidReferences,
    SelectionError,
    SourceError,
    StaleSource,
    TiffrefError,
    checked,
)
from .formats.kerchunk_read import parse_document
from .formats.load import check_kind, fetch_text, parse_json
from .formats.parquet import is_parquet, parse_parquet
from .formats.summary import count, html_table
from .io.allow import AllowList
from .io.clients import client_errors
from .io.remote import open_source
from .io.source import SourceFile, check_unchanged
from .io.urls import split_host, to_document_url
from .model.array import Array
from .model.codec import ForeignCodec, SegmentCodec
from .model.manifest import MISSING, Source
from .read import Fetcher, read_array
from .read.fetch import check_pool
from .references import References, damage_of
from .signatures import redact

_MAX_DECODED_BYTES = 1 << 30
"""Larger images are decoded region by region; smaller ones are cached up to this size."""

_FAILURES = (OSError, ValueError, IndexError, KeyError, RuntimeError, ImportError)
"""Errors of tifffile and the decoders for files that they cannot read."""


def _find_decoder(
    references: References, path: str, array: Array, options: Mapping[str, Any]
) -> ReferenceDecoder:
    """Return the decoder of the expected pixels of an array; `options` open its files."""
    rows = (
        (series, level)
        for series in references.series
        for level, row in enumerate(series.get("levels", ()))
        if row.get("path") == path and array.manifest.sources
    )
    series, level = next(rows, (None, 0))
    if series is None:
        is_stored = bool((array.manifest.source >= 0).any())
        unknown = "the document does not say which image of the TIFF it is" if is_stored else None
        return ReferenceDecoder(array, unknown, None, options)
    images = [one for one in references.series if one["index"] == series["index"]]
    axes, dims = str(series.get("axes", "")), list(array.dims)
    pages = series.get("pages", series.get("planes"))
    index = None if series.keys() & {"pages", "well"} else int(series["index"])
    image: Any = index, series.get("level", level), pages
    n_new = order = position = None
    if series.get("kind") == "page" and (pages is None or {"planes", "well"} <= series.keys()):
        image = "pages selected with key="
    elif "well" in series:
        n_new = len(dims) - len(axes)
        if "".join(dims[n_new:]).upper() != axes or not set(array.chunks[:n_new]) <= {1}:
            image = "the axes of the files are in another order"
    elif "sequence" in series:
        n_new = len(series["sequence"]["dims"])
        if dims[:n_new] != [*series["sequence"]["dims"]]:
            image = "the axes of the sequence are in another order"
    else:
        order = _transpose_order(array, axes)
        position = images.index(series) if len(images) > 1 else None
    return ReferenceDecoder(array, image, n_new, options, order, position)


def _transpose_order(array: Array, axes: str) -> tuple[int, ...] | None:
    """Return the permutation from the axes of an image to those of an array; None if equal."""
    names = [dim.split("_")[0].upper() for dim in array.dims]
    letters = [
        "S" if name == "BAND" or (name == "C" and "C" not in axes) else name for name in names
    ]
    if sorted(letters) != sorted(axes) or letters == list(axes):
        return None
    return tuple(axes.index(letter) for letter in letters)


@dataclass(slots=True)
class ReferenceDecoder:
    """Decodes the files of one array with tifffile.

    Attributes
    ----------
    array
        The array to compare with.
    image
        Series of the image in each file, None for the only one, its level, and the text of the key
        of its pages or None; a text that says why they are unknown; None for arrays that are not
        images, such as coordinates.
    n_new
        Number of new axes of a sequence of files; None if tifffile reads the whole array from the
        first file: one TIFF, or an OME-TIFF set.
    options
        Options of the fsspec file systems of the files.
    order
        Permutation from the axes of the image to those of the array; None if equal.
    position
        Index of the image along the axis R (positions of the stage), or else C; None for all.
    """

    array: Array
    image: tuple[int | None, int, str | None] | str | None
    n_new: int | None
    options: Mapping[str, Any]
    order: tuple[int, ...] | None = None
    position: int | None = None
    _images: dict[int, Any] = field(default_factory=dict)
    _open_files: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def close(self) -> None:
        """Discard the decoded images, and close the files of large ones."""
        self._images.clear()
        self._open_files.close()

    def chunk(self, index: tuple[int, ...]) -> NDArray | str | None:
        """Return the expected samples of a chunk, cropped to the array.

        Parameters
        ----------
        index
            Index of the chunk along each dimension of the grid.

        Returns
        -------
        values
            Samples; a text that says why they are unknown; None for a chunk without a file.
        """
        array, n_new = self.array, self.n_new or 0
        if not isinstance(self.image, tuple):
            return self.image
        source = 0 if self.n_new is None else self._find_source(index)
        if source is None:
            return None
        image = self._decode(source, *self.image)
        if isinstance(image, str):
            return image
        begin = self._find_begin(source, index[:n_new], image.shape)
        if begin is None:
            return f"tifffile returns a different shape, {image.shape}"
        start = np.multiply(index, array.chunks)[n_new:]
        stop = np.minimum(start + array.chunks[n_new:], array.shape[n_new:])
        inside = tuple(slice(*pair) for pair in zip(start - begin, stop - begin, strict=True))
        try:
            return np.asarray(image[inside])[(np.newaxis,) * n_new]
        except _FAILURES as error:
            return _describe_failure(error)

    def _find_source(self, index: tuple[int, ...]) -> int | None:
        """Return the file of a chunk; if the chunk is missing or inlined, the only candidate."""
        sources = self.array.manifest.source.reshape(self.array.grid)
        if sources[index] >= 0:
            return int(sources[index])
        near = np.unique(sources[index[: self.n_new]])
        near = near[near >= 0]
        return int(near[0]) if near.size == 1 else None

    def _find_begin(
        self, source: int, position: tuple[int, ...], shape: tuple[int, ...]
    ) -> NDArray[np.int64] | None:
        """Return the origin of an image in the array; None if unknown.

        `position` is its index along the new axes, `shape` its shape.

        Images smaller than the array begin at their first chunk. If their chunks do not cover the
        image, the first chunk may be missing, so the origin is unknown.
        """
        array, n_new = self.array, len(position)
        begin = np.zeros(len(array.shape) - n_new, np.int64)
        if shape == array.shape[n_new:]:
            return begin
        if self.n_new is None or len(shape) != len(begin):
            return None
        own = np.argwhere(array.manifest.source.reshape(array.grid)[position] == source)
        chunks = np.array(array.chunks[n_new:])
        partial = np.array(shape) < array.shape[n_new:]
        begin[partial] = (own.min(axis=0) * chunks)[partial]
        last = (begin + shape - 1) // chunks
        return begin if np.array_equal(last[partial], own.max(axis=0)[partial]) else None

    def _decode(self, source: int, *image: Any) -> Any:
        """Return the image of a file, decoded once, or a text that says why it cannot be."""
        if source not in self._images:
            sizes = [getattr(pixels, "nbytes", 0) for pixels in self._images.values()]
            if sum(sizes) > _MAX_DECODED_BYTES:
                self.close()
            self._images[source] = self._read(self.array.manifest.sources[source].url, *image)
        return self._images[source]

    def _read(self, url: str, series: int | None, level: int, pages: str | None) -> Any:
        """Return the image of a file as an array; a lazy Zarr array if it is large."""
        import tifffile

        import zarr

        from .tiff.scan import parse_pages

        try:
            with contextlib.ExitStack() as stack:
                # with the limits and retries of a scan
                source = stack.enter_context(closing(open_source(url, self.options)))
                file: Any = SourceFile(source)
                tif = stack.enter_context(tifffile.TiffFile(file, name=url))
                shape = self.array.shape[self.n_new or 0 :]
                if pages is not None:
                    if math.prod(shape) * self.array.dtype.itemsize > _MAX_DECODED_BYTES:
                        return "a large selection of pages"
                    key = parse_pages(pages)
                    return self._arrange(tif.asarray(key=key, series=series, level=level), "")
                if series is None and len(tif.series) > 1:
                    return "the files have several images"
                levels = tif.series[series or 0].levels
                empty = [self._arrange(np.broadcast_to(b"", x.shape), x.axes) for x in levels]
                shapes = [pixels.shape for pixels in empty]
                # older documents do not say which level was selected with level=
                image = levels[shapes.index(shape) if shape in shapes else level]
                if image.nbytes <= _MAX_DECODED_BYTES:
                    return self._arrange(image.asarray(), image.axes)
                if self.order is not None or self.position is not None:
                    return "a large image with a different order of axes"
                array = zarr.open_array(stack.enter_context(image.aszarr()), mode="r")
                self._open_files.push(stack.pop_all())
                return array
        except SourceError as error:
            return str(error)
        except (*_FAILURES, *client_errors()) as error:  # type: ignore[misc]
            return _describe_failure(error)

    def _arrange(self, pixels: NDArray, axes: str) -> NDArray:
        """Return the pixels of an image with the axes of the array."""
        apart = next((axes.index(axis) for axis in "RC" if axis in axes), None)
        if self.position is not None and apart is not None:
            pixels = pixels[(slice(None),) * apart + (self.position,)]
        return pixels if self.order is None else pixels.transpose(self.order)


def _describe_failure(error: Exception) -> str:
    return f"tifffile cannot decode it: {type(error).__name__}: {error}"


@dataclass(slots=True)
class Report:
    """Result of a validation.

    `findings` are in the order of the checks; `arrays` has shape, chunk shape and numbers of
    missing, inlined and stored chunks of each array; `touches` lists, by scheme and host, the paths
    that a reader of the document would open.
    """

    url: str | None = None
    findings: list[Finding] = field(default_factory=list)
    arrays: dict[str, dict[str, Any]] = field(default_factory=dict)
    touches: dict[str, list[str]] = field(default_factory=dict)
    n_sources: int = 0
    n_chunks_compared: int = 0

    def add(self, code: str, what: str, **fields: Any) -> None:
        """Add a finding with these fields."""
        self.findings.append(Finding(code, what, **fields))

    @property
    def summary(self) -> str:
        """The verdict and the number of findings, such as "valid, 1 warning"."""
        severities = [finding.severity for finding in self.findings]
        kinds = [kind for kind in ("error", "warning") if kind in severities]
        counts = [count(severities.count(kind), kind) for kind in kinds]
        return ", ".join((["valid"] if self.ok else []) + counts)

    def __repr__(self) -> str:
        n = self.n_chunks_compared
        compared = f", {count(n, 'chunk')} compared" if n else ""
        url = f" {self.url!r}" if self.url else ""
        return f"<tiffref.validation.Report{url}: {self.summary}{compared}>"

    def _repr_html_(self) -> str:
        rows = [[finding.severity, str(finding.to_error())] for finding in self.findings]
        return html_table(repr(self).strip("<>"), rows)

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        findings = [finding.to_json() for finding in self.findings]
        return {"url": self.url, "ok": self.ok, **asdict(self), "findings": findings}

    def raise_first(self) -> None:
        """Raise the first error, if there is one.

        Raises
        ------
        InvalidReferences
        """
        for finding in self.findings:
            if finding.severity == "error":
                raise finding.to_error(self.url)


@checked()
def validate(
    document: References | Mapping[str, Any] | str | os.PathLike[str],
    *,
    sources: bool = False,
    pixels: int | Literal["all"] = 0,
    storage_options: Mapping[str, Any] | None = None,
    source_options: Mapping[str, Any] | None = None,
    allow: str | Sequence[str] | None = None,
) -> Report:
    """Check a reference document.

    Parameters
    ----------
    document
        Path or URL of a JSON file or of a folder of parquet references, the document itself, or
        references such as those of `tiffref.scan`.
    sources
        Check that each source exists, is unchanged since it was scanned, and is long enough.
    pixels
        How many chunks of each array to decode and compare with the TIFF, or "all".
    storage_options
        Options of the fsspec file system of `document`.
    source_options
        Options of the fsspec file systems of the sources.
    allow
        Prefixes of the addresses that may be opened; others are reported and not opened. By default
        all are allowed. A document from someone else can name any file that you can read.

    Returns
    -------
    The report, with all problems found.

    Raises
    ------
    SelectionError
        If `pixels` is neither a number of chunks nor "all".
    SourceError
        If the document itself cannot be read.
    InvalidReferences
        If `document` is not a path, URL, mapping or `References`.

    Examples
    --------
    >>> import tiffref
    >>> tiffref.scan("image.tif").write_fsspec("image.json")
    >>> tiffref.validate("image.json", sources=True, pixels=2).ok
    True
    """
    check_kind({} if isinstance(document, References) else document)
    has_url = not isinstance(document, References | Mapping)
    report = Report(redact(os.fspath(document)) if has_url else None)  # type: ignore[arg-type]
    if pixels != "all" and not (isinstance(pixels, Integral) and pixels >= 0):
        expected = "0 or more, or 'all'"
        raise SelectionError("not a number of chunks", got=repr(pixels), expected=expected)
    references = _parse(document, storage_options, report)
    if references is None:
        return report
    _check_arrays(references, report)
    if allow is not None:
        allowed = AllowList(allow)
        outside = [source.url for source in references.sources if not allowed.permits(source.url)]
        if outside:
            fields = {"got": outside[0], "expected": allowed.listed, "n_more": len(outside) - 1}
            what = "a source is outside the allowed addresses; none was opened"
            report.add("not-allowed", what, **fields)
            return report
    with contextlib.closing(Fetcher(source_options, verify="never")) as fetch:
        if sources:
            _check_sources(references, fetch, report)
        if pixels:
            is_stale = any(finding.code == "stale" for finding in report.findings)
            # a file may change after its check; if it has changed, its pixels may still be right
            fetch.verify = "first" if sources and not is_stale else "never"
            _check_pixels(references, fetch, pixels, report)
    return report


def _parse(
    document: References | Mapping[str, Any] | str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None,
    report: Report,
) -> References | None:
    try:
        if isinstance(document, References):
            parsed: Any = document
        elif is_parquet(document):
            parsed = parse_parquet(document, storage_options)  # type: ignore[arg-type]
        else:
            loaded = document
            if not isinstance(document, Mapping):
                loaded = parse_json(fetch_text(document, storage_options), document)
            parsed = parse_document(loaded, report.findings.append)
        for _, array in parsed.group.arrays():
            array.manifest.load()
    except InvalidReferences as error:
        report.findings.append(_from_error("document", None, error))
        return None
    return References(parsed.group, parsed.series)


def _from_error(code: str, key: str | None, error: TiffrefError) -> Finding:
    got = None if error.got is None else str(error.got)
    expected = None if error.expected is None else str(error.expected)
    what = error.what if error.url is None else f"{error.url}: {error.what}"
    return Finding(code, what, key, got, expected, hint=error.hint)


# ---- arrays


def _check_arrays(references: References, report: Report) -> None:
    # the document is valid, but incomplete
    for damage in damage_of([references]).values():
        report.add("damaged", f"the TIFF is damaged: {damage}", severity="warning")
    for series in references.series:
        reasons = [level["refused"] for level in series["levels"] if "refused" in level]
        if reasons:
            what = f"a level of series {series['index']} is left out: {reasons[0]}"
            report.add("left-out", what, severity="warning", n_more=len(reasons) - 1)
    group = references.group
    if "" in group.children:
        what = "an array at the root, which xarray's kerchunk engine cannot open"
        report.add("root-array", what, expected="a group at the root", severity="warning")
    for path, array in group.arrays():
        source = array.manifest.source
        report.arrays[path] = {
            "shape": list(array.shape),
            "chunks": list(array.chunks),
            "dtype": array.dtype.str,
            "n_chunks": array.manifest.n_chunks,
            "n_missing": int(np.count_nonzero(source == MISSING)),
            "n_inlined": len(array.manifest.inlined),
            "n_stored": int(np.count_nonzero(source >= 0)),
        }
        report.findings += _check_codecs(path, array)
    report.n_sources = len(references.sources)
    for url in (source.url for source in references.sources):
        host, path = split_host(to_document_url(url))
        report.touches.setdefault(host, []).append(path)


def _check_codecs(path: str, array: Array) -> Iterator[Finding]:
    """Find codecs that are not installed, and uncompressed chunks of a wrong length."""
    for codec in array.codecs:
        if not isinstance(codec, ForeignCodec) or codec.zarr_format != 3:
            continue  # those of v2 that loading allows are all in packages that tiffref depends on
        from zarr.registry import get_codec_class

        for name in codec_names(codec):
            try:
                get_codec_class(name)
            except (KeyError, ValueError):  # zarr 3.1 and 3.4
                what, expected = "the codec is not installed", "a codec of an installed package"
                yield Finding("unknown-codec", what, path, name, expected)
    yield from _check_lengths(path, array)


def _name_chunk(path: str, array: Array, flat: int) -> str:
    """Return the name of a chunk for messages: its array and index."""
    return f"{path} chunk {tuple(int(n) for n in np.unravel_index(flat, array.grid))}"


def _check_lengths(path: str, array: Array) -> Iterator[Finding]:
    """Find uncompressed chunks whose number of bytes does not match their samples."""
    if len(array.codecs) > 1 or not _is_plain(array):
        return
    n_bytes = math.prod(array.chunks) * array.dtype.itemsize
    manifest = array.manifest
    has_range = (manifest.source >= 0) & (manifest.length > 0)
    bad = np.flatnonzero(has_range & (manifest.length != n_bytes)).tolist()
    bad += [flat for flat, data in manifest.inlined.items() if len(data) != n_bytes]
    if bad:
        data = manifest.inlined.get(bad[0])
        length = int(manifest.length[bad[0]]) if data is None else len(data)
        what = "the number of bytes of an uncompressed chunk does not match its samples"
        key, got, expected = _name_chunk(path, array, bad[0]), f"{length} bytes", f"{n_bytes} bytes"
        yield Finding("length", what, key, got, expected, n_more=len(bad) - 1)


def _is_plain(array: Array) -> bool:
    codec = array.codec
    if isinstance(codec, SegmentCodec) or codec.zarr_format == 2:
        encoding = to_zarr2(codec)
        return not encoding["filters"] and not encoding["compressor"]
    codecs = [*(codec.metadata.get("codecs") or ())]
    return len(codecs) == 1 and isinstance(codecs[0], Mapping) and codecs[0].get("name") == "bytes"


# ---- sources


def _check_sources(references: References, fetch: Fetcher, report: Report) -> None:
    ends = _find_ends(references)
    sources = references.sources
    states = list(check_pool().map(partial(_get_state, fetch), sources))
    for source, now in zip(sources, states, strict=True):
        if isinstance(now, SourceError):
            report.findings.append(_from_error("unreachable", None, now))
            continue
        try:
            check_unchanged(source, now)
        except StaleSource as error:
            report.findings.append(_from_error("stale", None, error))
        end, key = ends.get(source.url, (0, None))
        if now.size is not None and end > now.size:
            what = f"{source.url}: a byte range reaches past the end of the file"
            expected = f"at most {now.size} bytes"
            report.add("range", what, key=key, got=f"end at {end}", expected=expected)


def _get_state(fetch: Fetcher, source: Source) -> Source | SourceError:
    """Return the current state of a source, or the error. Without any state, try to read it."""
    try:
        now = fetch.state(source)
        if now.size is None and now.mtime is None and now.etag is None:
            fetch.read(now, 0, 1)
        return now
    except SourceError as error:
        return error


def _find_ends(references: References) -> dict[str, tuple[int, str]]:
    """Return for each source the largest end of a byte range, and the name of its chunk."""
    ends: dict[str, tuple[int, str]] = {}
    for path, array in references.group.arrays():
        manifest = array.manifest
        stored = np.flatnonzero(manifest.source >= 0)
        end = manifest.offset[stored] + manifest.length[stored]
        order = np.lexsort((end, manifest.source[stored]))
        source = manifest.source[stored][order]
        last = np.flatnonzero(np.diff(source, append=-1))
        for row in order[last].tolist():
            url = manifest.sources[manifest.source[stored[row]]].url
            end_and_name = int(end[row]), _name_chunk(path, array, int(stored[row]))
            ends[url] = max(ends.get(url, end_and_name), end_and_name)
    return ends


# ---- pixels


def _check_pixels(
    references: References, fetch: Fetcher, pixels: int | Literal["all"], report: Report
) -> None:
    for path, array in references.group.arrays():
        n_chunks = array.manifest.n_chunks
        n_wanted = n_chunks if pixels == "all" else min(pixels, n_chunks)
        wanted = np.unique(np.linspace(0, n_chunks - 1, n_wanted).astype(np.int64)).tolist()
        unknown: list[str] = []
        with contextlib.closing(
            _find_decoder(references, path, array, fetch.storage_options)
        ) as decoder:
            for flat in wanted:
                expected = decoder.chunk(tuple(int(n) for n in np.unravel_index(flat, array.grid)))
                if isinstance(expected, str):
                    unknown.append(expected)
                    expected = None
                if finding := _check_chunk(path, array, flat, expected, fetch):
                    finding = _explain(finding, array, flat, fetch)
                    report.findings += [finding] if finding not in report.findings else []
                    break
                report.n_chunks_compared += expected is not None
            else:
                if unknown:
                    what, n_more = f"not compared, only decoded: {unknown[0]}", len(unknown) - 1
                    report.add("not-compared", what, key=path, severity="warning", n_more=n_more)


def _check_chunk(
    path: str, array: Array, flat: int, expected: NDArray | None, fetch: Fetcher
) -> Finding | None:
    region = tuple(
        slice(int(i) * size, (int(i) + 1) * size)
        for i, size in zip(np.unravel_index(flat, array.grid), array.chunks, strict=True)
    )
    name = _name_chunk(path, array, flat)
    try:
        values = read_array(array, region, fetch=fetch)
    except TiffrefError as error:
        return _from_error("undecodable", name, error)
    if expected is None:
        return None
    differs = values != expected
    if array.dtype.kind in "fc":
        differs &= ~(np.isnan(values) & np.isnan(expected))
    if not differs.any():
        return None
    first = tuple(int(n) for n in np.argwhere(differs)[0])
    what = "a chunk decodes to different pixels than the TIFF"
    got = f"{values[first]} at {first}; {int(differs.sum())} differ"
    return Finding("pixels", what, name, got, str(expected[first]))


def _explain(finding: Finding, array: Array, flat: int, fetch: Fetcher) -> Finding:
    """Replace the finding of a bad chunk by "stale" if its file has changed."""
    row = int(array.manifest.source[flat])
    if row < 0:
        return finding
    source = array.manifest.sources[row]
    try:
        check_unchanged(source, fetch.state(source))
    except SourceError as error:
        return _from_error("stale", None, error) if isinstance(error, StaleSource) else finding
    return finding
