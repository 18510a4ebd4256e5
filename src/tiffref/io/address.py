"""What an address, or the file behind it, is where it is not a TIFF that can be read.

Owns the recognition of common mistakes, by name and by the first bytes of a file, and the next step
for each. It opens no image, and asks a local folder only after something has failed.

References: GDAL manual, "GDAL Virtual File Systems"; Git LFS specification, "The Pointer".
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from ..errors import MissingSource, SourceError

__all__ = [
    "FIRST_BYTES",
    "describe_content",
    "misnamed_references",
    "missing_file",
    "not_a_file",
    "spelling_hint",
]

FIRST_BYTES = 512
"""Bytes of a file by which it can be recognized."""

_SERVER = "Check the address: servers send one for errors and for logins."
_KERCHUNK = "kerchunk can make references to it."
_CONTENT: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer", "Fetch the file itself: git lfs pull."),
    (b"<vrtdataset", "a GDAL VRT",
     "Give the TIFFs that it names: `tiffref stack FILES -o refs.json`, with --mosaic for tiles."),
    (b"<!doctype html", "an HTML page", _SERVER),
    (b"<html", "an HTML page", _SERVER),
    (b"<error", "an error message of a server", _SERVER),
    (b"<ome", "OME-XML", "Name it NAME.companion.ome to scan the TIFFs that it describes."),
    (b"{", "JSON", "If it holds references: tiffref info NAME.json."),
    (b"pk\x03\x04", "a ZIP archive", "A TIFF in it is zip://NAME.tif::ARCHIVE.zip."),
    (b"\x1f\x8b", "a gzip file", "Unpack it first: gunzip."),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "Unpack it first: unzstd."),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it first."),
    (b"rar!", "a RAR archive", "Unpack it first."),
    (b"bzh", "a bzip2 file", "Unpack it first: bunzip2."),
    (b"\x89png", "a PNG image", "Convert it to TIFF first."),
    (b"\xff\xd8\xff", "a JPEG image", "Convert it to TIFF first."),
    (b"\0\0\0\x0cjp", "a JPEG 2000 image", "Convert it to TIFF first."),
    (b"gif8", "a GIF image", "Convert it to TIFF first."),
    (b"riff", "a RIFF file, such as WebP", "Convert it to TIFF first."),
    (b"\x89hdf", "an HDF5 or netCDF 4 file", _KERCHUNK),
    (b"cdf", "a netCDF 3 file", _KERCHUNK),
    (b"grib", "a GRIB file", _KERCHUNK),
    (b"simple  =", "a FITS file", _KERCHUNK),
    (b"par1", "a Parquet file", "Give the address of a TIFF."),
    (b"%pdf", "a PDF document", "Give the address of a TIFF."),
    (b"zisraw", "a Zeiss CZI file", "Convert it first: bioformats2raw, or bfconvert to OME-TIFF."),
    (b"\xda\xce\xbe\x0a", "a Nikon ND2 file", "Convert it first: bfconvert to OME-TIFF."),
)  # fmt: skip
"""First bytes in lower case, what the file is, and what to do."""

_OTHER_KINDS = {
    "zarr": "a Zarr store", "tif": "a TIFF", "tiff": "a TIFF", "nc": "a netCDF file",
    "h5": "an HDF5 file",
}  # fmt: skip
"""Endings of names that readers would take for something else than references."""

_ERROR_CODE = re.compile(rb"<Error>.*?<Code>(\w+)</Code>", re.DOTALL)
_MANY = "Many files become one array with `tiffref stack` or `tiffref.scan_sequence`"
_VSI = re.compile(r"/vsi(?P<kind>\w+?)(?:_streaming)?/(?P<rest>.*)", re.DOTALL)
_VSI_SCHEMES = {"s3": "s3", "gs": "gs", "az": "az", "adls": "abfs", "hdfs": "hdfs"}
_ONE_SLASH = re.compile(r"(?P<scheme>s3|gs|az|abfs|https?|ftp|gcs|memory):?/+(?P<rest>.*)", re.I)
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]")
_HOST = re.compile(r"(?:www\.|[\w-]+\.)(?:[\w-]+\.)*(?:com|org|net|gov|edu|eu|io|int|de|uk|fr)/")
_TIFFS = (".tif", ".tiff", ".btf", ".tf8", ".svs", ".ndpi", ".scn", ".lsm", ".stk", ".qptiff")
_MAX_NAMES = 10_000


def describe_content(data: bytes) -> tuple[str, str | None]:
    """Describe what a file is that is not a TIFF, by its first bytes, and what to do about it.

    >>> describe_content(b"version https://git-lfs.github.com/spec/v1")
    ('a Git LFS pointer', 'Fetch the file itself: git lfs pull.')
    """
    code = _ERROR_CODE.search(data)
    if code:
        hint = "Check the address and the credentials; public buckets need anon=true."
        return f"an error message of a server ({code[1].decode('ascii', 'replace')})", hint
    start = data.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, what, hint in _CONTENT:
        if start.startswith(magic):
            return what, hint
    if not data:
        return "an empty file", "Get a complete copy."
    if start.startswith(b"<"):
        return "an XML document", _SERVER
    if not data.strip(b"\0"):
        return "a file of zeros", "Get a complete copy."
    if data.isascii() and not re.search(rb"[\x00-\x08\x0e-\x1f]", data):
        return "a text file", "Give the address of a TIFF."
    return f"a file that begins with {data[:4]!r}", "A TIFF begins with II or MM."


def misnamed_references(name: str) -> tuple[str, str] | None:
    """Return what a name for references says instead, and a better name; None if it is good.

    >>> misnamed_references("a.zarr/")
    ('references are JSON, not a Zarr store', 'a.json')
    """
    stem, _, ending = name.rstrip("/").rpartition(".")
    kind = _OTHER_KINDS.get(ending.lower()) if stem else None
    return (f"references are JSON, not {kind}", f"{stem}.json") if kind else None


def missing_file(name: str) -> SourceError:
    """Make the error for a local name at which there is no file, with what may have been meant."""
    if not name:
        return MissingSource("the name of the file is empty")
    hint = spelling_hint(name)
    if hint is None and set("*?[{") & set(name):
        hint = f"{_MANY}: tiffref stack '{name}' -o refs.json."
    if hint is not None:
        return MissingSource("no such file", url=name, hint=hint)
    path = Path(name)
    if path.is_symlink():
        target = os.readlink(name)  # noqa: PTH115
        return MissingSource(f"is a link to {target}, which does not exist", url=name)
    if name.strip() != name:
        hint = "The name begins or ends with a space."
        return MissingSource("no such file", url=repr(name), hint=hint)
    if not path.parent.is_dir():
        return MissingSource("no such file", url=name, hint=f"There is no folder {path.parent}.")
    near = _near_names(path)
    return MissingSource("no such file", url=name, hint=f"Did you mean {near}?" if near else None)


def spelling_hint(name: str) -> str | None:
    """Recognize spellings of other programs, and addresses that lack something.

    >>> spelling_hint("/vsis3/bucket/*.tif")
    'This is a path of GDAL; the address is s3://bucket/*.tif.'
    """
    vsi = _VSI.fullmatch(name)
    if vsi:
        return f"This is a path of GDAL; the address is {_url_of_vsi(vsi['kind'], vsi['rest'])}."
    slash = _ONE_SLASH.fullmatch(name)
    if slash and not Path(f"{slash['scheme']}:").exists():
        return f"The address is {slash['scheme'].lower()}://{slash['rest']}."
    if _WINDOWS.match(name) and os.sep == "/":
        return "This is a path of Windows; give the path on this machine."
    if _HOST.match(name):
        return f"Addresses need a scheme: https://{name}."
    return None


def _url_of_vsi(kind: str, rest: str) -> str:
    if kind in _VSI_SCHEMES:
        return f"{_VSI_SCHEMES[kind]}://{rest}"
    if kind == "zip":
        archive, dot, inner = rest.partition(".zip")
        return f"zip://{inner.lstrip('/')}::{archive}{dot}"
    return rest if kind == "curl" else f"that without /vsi{kind}/, if fsspec has a file system"


def _near_names(path: Path) -> str | None:
    """Find a name in the same folder that is nearly this one."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for _, entry in zip(range(_MAX_NAMES), entries, strict=False)]
    except OSError:
        return None
    ending = path.suffix.lower()
    by_stem = {
        Path(name).stem.lower(): name for name in names if Path(name).suffix.lower() == ending
    }
    near = difflib.get_close_matches(path.stem.lower(), by_stem, 1, 0.75)
    return by_stem[near[0]] if near else None


def not_a_file(name: str) -> SourceError:
    """Make the error for a folder where a file is wanted, by what the folder holds."""
    if not name:
        return missing_file(name)
    shown = name.rstrip("/") or "/"
    try:
        names = sorted(os.listdir(name))[:_MAX_NAMES]  # noqa: PTH208
    except OSError:
        names = []
    if "catalog.parquet" in names:
        return SourceError("is a catalog", url=name, hint=f"See it with: tiffref info {shown}")
    if {".zgroup", ".zarray", "zarr.json"} & set(names):
        return SourceError("is a Zarr store already", url=name, hint="Open it with zarr or xarray.")
    images = [one for one in names if one.lower().endswith(_TIFFS)]
    if not images:
        return SourceError("is a folder without TIFF files", url=name)
    ending = Path(images[0]).suffix
    many = f"{len(images)} TIFF files, such as" if len(images) > 1 else "the TIFF file"
    return SourceError(
        f"is a folder with {many} {images[0]}",
        url=name,
        hint=f"\n  as one array: tiffref stack '{shown}/*{ending}' -o refs.json"
        f"\n  as a catalog: tiffref catalog build {shown} -o CATALOG",
    )
