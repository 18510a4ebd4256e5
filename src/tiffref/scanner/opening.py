"""From a path, URL or open file to an open TIFF.

Owns opening: the header, long offset arrays that tifffile is spared, long chains of pages that are
read in bulk, and TIFFs that the caller has opened already.
"""

from __future__ import annotations

import contextlib
import gc
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tifffile import TiffFile, TiffFrame, TiffPage, TiffPages

from ..errors import MalformedTiff, TiffrefError
from ..io.address import FIRST_BYTES
from .chain import Chain, check_factors, check_sizes, follow_chain
from .ifd import INTEGER_TYPES, Entry, Header, parse_header, read_array, read_entries
from .pagefacts import decodes_by_stream
from .pages import BulkPages, read_bulk_pages
from .reader import DECODING_TAGS, OpenTiff
from .source import ByteSource, LocalSource, SourceFile, open_source
from .talk import PARSE_ERRORS, quiet

__all__ = ["open_tiff"]

_ARRAY_TAGS = frozenset({273, 279, 324, 325})
_LONG_ARRAY = 4096
"""Segments from which on tifffile is spared the offset arrays: it makes a Python object of each."""
_SHOWN = 3
_CIRCLE_CHECKED = 100
"""Directories among which tifffile finds a circle by itself; it walks longer ones without end."""
_MOST_TIMES_READ, _SPARE_BYTES, _READ_COST_BYTES = 8, 1 << 20, 64
"""How much tifffile may read of a file whose directories go in a circle."""
_MAX_PEEK_IFDS = 64
_GEO_KEYS = 34735
_BYTES, _SHORT, _LONG = (1, 7), 3, 4
_NUMBERS = frozenset(
    {254, 255, 256, 257, 259, 262, 266, 274, 277, 278, 284, 292, 293, 317, 322, 323, 32997}
)
"""Tags of one number that decides how pixels are read."""
_PER_SAMPLE = frozenset({258, 338, 339})
"""Tags of a number for each sample."""
_MOST_SAMPLES = 1 << 16
_FIRST_POINTER = 4
"""Where a classic header has the offset of the first directory."""


def open_tiff(where: Any, storage_options: Mapping[str, Any] | None = None) -> OpenTiff:
    """Open a TIFF for scanning.

    Parameters
    ----------
    where
        Path, URL, fsspec OpenFile, open binary file, or `tifffile.TiffFile`.

    Raises
    ------
    SourceError
        If it cannot be read.
    MalformedTiff
        If it is no TIFF.
    """
    if isinstance(where, TiffFile):
        return _adopt(where)
    source = open_source(where, storage_options)
    try:
        return _open(source)
    except BaseException:
        source.close()
        raise


def _open(source: ByteSource) -> OpenTiff:
    try:
        header = parse_header(source.read(0, FIRST_BYTES), source.source.url)
        arrays = _long_arrays(source, header)
        with quiet():
            tif, chain = _parsed(source, header, arrays)
    except TiffrefError as error:
        error.url = error.url or source.source.url
        raise
    except PARSE_ERRORS as error:
        raise MalformedTiff(
            "cannot be parsed as TIFF",
            url=source.source.url,
            got=f"{type(error).__name__}: {error}",
        ) from error
    bulk = None
    if isinstance(source, LocalSource) and not arrays and _needs_pages(tif):
        bulk = read_bulk_pages(source, header, chain, DECODING_TAGS)
        if bulk is not None:
            _preload_frames(tif, bulk)
    return OpenTiff(tif, source, header, arrays=arrays, bulk=bulk)


def _parsed(
    source: ByteSource, header: Header, arrays: dict[int, dict[int, Entry]]
) -> tuple[TiffFile, Chain]:
    """Open a file with tifffile, once more with patches where its directories go in a circle."""
    entries, _ = read_entries(source.read, header, header.first_ifd)
    check_factors([(entry.code, entry.type, entry.count) for entry in entries])
    odd = _odd_entries(source, header)
    tif = _tiff_file(_handle(source, header, arrays, odd))
    try:
        chain = follow_chain(source, header) if _follows_chain(tif) else Chain()
        if tif.is_shaped:
            check_sizes(source, header, chain)
    except BaseException:
        tif.close()
        raise
    if chain.patches and len(chain.offsets) >= _CIRCLE_CHECKED:
        tif.close()
        tif = TiffFile(_handle(source, header, arrays, {**odd, **chain.patches}))
    elif chain.patches:
        tif.close()
        circle: Any = _CircleFile(source, odd)
        tif = TiffFile(circle)
    elif tif.is_scanimage and not header.is_big and len(chain.offsets) >= len(tif.pages):
        # tifffile has computed where they are, for files of which the chain may be broken
        tif.filehandle.seek(_FIRST_POINTER)
        tif.pages = TiffPages(tif)
    return tif, chain


def _tiff_file(handle: Any) -> TiffFile:
    """Open a file with tifffile, as a plain TIFF where it only claims to be an LSM.

    tifffile looks for the pages of an LSM, which come in pairs, before anything is asked of it.
    """
    try:
        return TiffFile(handle)
    except IndexError:
        if not isinstance(handle, str):
            handle.seek(0)  # tifffile takes the place where it finds an open file for its start
        return TiffFile(handle, is_lsm=False)


def _follows_chain(tif: TiffFile) -> bool:
    """Say whether tifffile will follow the chain: not where one directory describes all planes."""
    try:
        page = tif.pages.first
    except IndexError:
        return True
    return not (page.is_final and (page.is_stk or (page.is_imagej and _has_all_planes(tif, page))))


def _has_all_planes(tif: TiffFile, page: TiffPage) -> bool:
    """Say whether the planes that ImageJ counts are there: else tifffile walks along pages."""
    counts = tif.imagej_metadata
    if not counts:
        return False
    sizes = [counts.get(name, 1) for name in ("images", "frames", "slices", "channels")]
    if not all(isinstance(size, int) and size >= 1 for size in sizes):
        return False
    return page.dataoffsets[0] + math.prod(sizes[1:]) * page.nbytes <= tif.filehandle.size


def _needs_pages(tif: TiffFile) -> bool:
    """Say whether the series of a file depend on more than a few pages."""
    try:
        page = tif.pages.first
    except IndexError:
        return False
    is_run = page.is_final and (page.is_imagej or page.is_shaped or page.is_stk)
    # tifffile corrects the offsets of large LSM files
    is_odd = tif.tiff.is_ndpi or page.is_lsm or decodes_by_stream(page)
    return not is_run and not is_odd


def _preload_frames(tif: TiffFile, bulk: BulkPages) -> None:
    """Hand tifffile the frames that were read in bulk, so that it need not read them one by one.

    This touches attributes that tifffile keeps to itself; where they are not as expected, tifffile
    reads the frames itself.
    """
    pages = tif.pages
    names = ("_loaded", "_offsets", "_indexed", "_cached")
    if not bulk.is_known.all() or not all(hasattr(pages, name) for name in names):
        return
    if not isinstance(pages._loaded, dict) or len(pages._offsets) != 1:
        return
    keyframe = pages.first
    if keyframe.subifds or keyframe.offset != bulk.ifd_offset[0]:
        return
    rows = zip(
        bulk.ifd_offset.tolist(),
        zip(*bulk.offset.T.tolist(), strict=True),  # tuples, and no lists before them
        zip(*bulk.length.T.tolist(), strict=True),
        strict=True,
    )
    with _no_collection():
        frames: dict[int, TiffPage | TiffFrame] = {
            n: TiffFrame(
                tif, n, offset=where, keyframe=keyframe, dataoffsets=offset, databytecounts=length
            )
            for n, (where, offset, length) in enumerate(rows)
        }
    frames[0] = keyframe
    pages._loaded = frames
    pages._offsets = bulk.ifd_offset.tolist()
    pages._indexed = pages._cached = True
    pages.cache = True


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the collector of garbage from looking again and again at objects that are none.

    It was a fifth of the scan of a hundred thousand pages.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _adopt(tif: TiffFile) -> OpenTiff:
    handle = tif.filehandle
    base = getattr(handle, "_offset", 0)
    if handle.is_file and Path(handle.path).is_file():
        source: ByteSource = LocalSource(handle.path)
    else:
        source = open_source(getattr(handle, "_fh", None))
    header = parse_header(source.read(base, 16), ".ndpi" if tif.tiff.is_ndpi else "")
    return OpenTiff(tif, source, header, base, owns=False)


def _handle(
    source: ByteSource,
    header: Header,
    arrays: dict[int, dict[int, Entry]],
    patches: dict[int, bytes],
) -> Any:
    for entries in arrays.values():
        for entry in entries.values():
            count = struct.pack(f"{header.byteorder}{'Q' if header.is_big else 'I'}", _SHOWN)
            patches[entry.position + 4] = count
    if isinstance(source, LocalSource) and not patches:
        return source.source.url
    return _PatchedFile(source, patches)


def _odd_entries(source: ByteSource, header: Header) -> dict[int, bytes]:
    """Show entries that tifffile misreads as other readers take them.

    A file that is odd in its first directory is taken to be odd in all.
    """
    patches: dict[int, bytes] = {}
    for _, entries in _directories(source, header):
        for entry in entries:
            patches.update(_as_expected(entry, source, header))
        if not patches:
            break
    return patches


def _as_expected(entry: Entry, source: ByteSource, header: Header) -> dict[int, bytes]:
    """Give the bytes that an entry should have, by position; none for most.

    A GeoKeyDirectory that is not of SHORT is hidden: it may say that it has billions of keys, and
    tifffile asks for each of them. A number given as BYTE, or once for each sample (TIFF 5.0 and
    before), is shown as SHORT or LONG: libtiff reads both, tifffile takes them for texts or lists.
    """
    if entry.code == _GEO_KEYS:
        return {} if entry.type == _SHORT else {entry.position: b"\xff\xff"}
    is_byte = entry.type in _BYTES and entry.count == 1 and entry.code in _NUMBERS | _PER_SAMPLE
    is_list = entry.count > 1 and entry.code in _NUMBERS and entry.type in INTEGER_TYPES
    is_there = entry.nbytes <= _MOST_SAMPLES and entry.value_offset + entry.nbytes <= source.size
    if header.is_ndpi or not (is_byte or is_list) or not is_there:
        return {}
    plain = replace(entry, type=_BYTES[0]) if entry.type in _BYTES else entry
    values = {int(n) for n in read_array(source.read, header, plain)}
    if len(values) != 1:
        return {}
    value = values.pop()
    kind = _SHORT if value < 1 << 16 else _LONG
    count, room = ("Q", 8) if header.is_big else ("I", 4)
    number = struct.pack(f"{header.byteorder}{'H' if kind == _SHORT else 'I'}", value & 0xFFFFFFFF)
    start = struct.pack(f"{header.byteorder}H{count}", kind, 1)
    return {entry.position + 2: start + number.ljust(room, b"\0")}


def _directories(source: ByteSource, header: Header) -> Iterator[tuple[int, list[Entry]]]:
    """Walk the first directories and those below them, as offsets and entries."""
    queue = [header.first_ifd]
    seen: set[int] = set()
    while queue and len(seen) < _MAX_PEEK_IFDS:
        offset = queue.pop(0)
        if offset in seen or not 0 < offset < source.size:
            continue
        seen.add(offset)
        entries, following = read_entries(source.read, header, offset)
        yield offset, entries
        for entry in entries:
            if (
                entry.code == 330
                and entry.count <= _MAX_PEEK_IFDS
                and entry.type in (4, 13, 16, 18)
            ):
                queue.extend(int(n) for n in read_array(source.read, header, entry))
        queue.append(following)


def _long_arrays(source: ByteSource, header: Header) -> dict[int, dict[int, Entry]]:
    """Find offset arrays too long for tifffile, by IFD offset: in the first IFDs and below them."""
    found: dict[int, dict[int, Entry]] = {}
    if header.is_ndpi:
        return found  # the lists that are long there are no tags of their own: see McuStarts
    for n_seen, (offset, entries) in enumerate(_directories(source, header), 1):
        long = {e.code: e for e in entries if e.code in _ARRAY_TAGS and e.count > _LONG_ARRAY}
        if len(long) == 2 and all(e.value_offset + e.nbytes <= source.size for e in long.values()):
            found[offset] = long
        if not found and n_seen >= 8:
            break  # many pages: long arrays would have shown by now
    return found


class _PatchedFile(SourceFile):
    """A source that shows tifffile the long offset arrays as short ones."""

    def __init__(self, source: ByteSource, patches: Mapping[int, bytes]) -> None:
        super().__init__(source)
        self._patches = patches

    def read(self, size: int = -1) -> bytes:
        position = self.tell()
        return _patch(super().read(size), position, self._patches)


class _CircleFile(_PatchedFile):
    """A source whose directories go in a circle: it ends when tifffile goes round without end.

    tifffile finds such a circle when it counts pages, but not when it walks from page to page.
    """

    def __init__(self, source: ByteSource, patches: Mapping[int, bytes]) -> None:
        super().__init__(source, patches)
        self._n_left = _MOST_TIMES_READ * source.size + _SPARE_BYTES

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        self._n_left -= len(data) + _READ_COST_BYTES
        if self._n_left < 0:
            raise OSError("the directories go in a circle")
        return data


def _patch(data: bytes, position: int, patches: Mapping[int, bytes]) -> bytes:
    inside = [
        at for at in patches if position <= at and at + len(patches[at]) <= position + len(data)
    ]
    if not inside:
        return data
    changed = bytearray(data)
    for at in inside:
        changed[at - position : at - position + len(patches[at])] = patches[at]
    return bytes(changed)
