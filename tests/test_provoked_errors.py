# ruff: noqa: E501
"""What the program says about the mistakes that people make: kept with its texts.

Each is one to three lines that name what is wrong, and the next step where there is one.
"""

from __future__ import annotations

import gzip
import inspect
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
import xarray as xr

import tiffref
from tiffref.cli import main
from tiffref.errors import checked

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

FILES = {
    "vrt.tif": b'<VRTDataset rasterXSize="9" rasterYSize="9"></VRTDataset>',
    "lfs.tif": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "page.tif": b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>",
    "denied.tif": b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
    "png.tif": b"\x89PNG\r\n\x1a\n",
    "hdf.tif": b"\x89HDF\r\n\x1a\n",
    "zero.tif": b"",
    "text.tif": b"hello\n",
    "json.tif": b'{"version": 1}',
    "czi.tif": b"ZISRAWFILE",
    "rar.tif": b"Rar!\x1a\x07\x00",
    "bz2.tif": b"BZh91AY",
    "pdf.tif": b"%PDF-1.7\n",
    "jp2.tif": b"\0\0\0\x0cjP  \r\n",
    "zeros.tif": bytes(512),
    "slide.ndpis": b"[NanoZoomer Digital Pathology Image Set]\nNoImages=3\n",
    "II.tif": b"II*\0",
    "empty.json": b"",
    "other.json": b'{"a": 1}',
    "list.json": b"[1]",
    "bad.json": b"{",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an image, scenes, and what is often taken for a TIFF."""
    folder = tmp_path_factory.mktemp("mistakes")
    pixels = np.arange(32 * 32, dtype="u2").reshape(32, 32)
    for name in ("image.tif", "scenes/S_20200101.tif", "scenes/S_20200102.tif"):
        (folder / name).parent.mkdir(exist_ok=True)
        tifffile.imwrite(folder / name, pixels, tile=(16, 16), metadata=None)
    (folder / "empty").mkdir()
    (folder / "years/2024").mkdir(parents=True)
    (folder / "link.tif").symlink_to("gone.tif")
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    (folder / "gz.tif").write_bytes(gzip.compress((folder / "image.tif").read_bytes()))
    with zipfile.ZipFile(folder / "pack.tif", "w") as archive:
        archive.write(folder / "image.tif", "image.tif")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["scan", "image.tif", "-q"]) == 0
    finally:
        os.chdir(before)
    return folder


MISTAKES = """
$ info nope.tif  # 3
  tiffref: error: nope.tif: no such file
$ info imag.tif  # 3
  tiffref: error: imag.tif: no such file. Did you mean image.tif?
$ info IMAGE.TIF  # 3
  tiffref: error: IMAGE.TIF: no such file. Did you mean image.tif?
$ info nofolder/image.tif  # 3
  tiffref: error: nofolder/image.tif: no such file. There is no folder nofolder.
$ info link.tif  # 3
  tiffref: error: link.tif: is a link to gone.tif, which does not exist
$ info ' image.tif'  # 3
  tiffref: error: ' image.tif': no such file. The name begins or ends with a space.
$ info ''  # 3
  tiffref: error: the name of the file is empty
$ info scenes  # 3
  tiffref: error: scenes: is a folder with 2 TIFF files, such as S_20200101.tif
    as one array: tiffref stack 'scenes/*.tif' -o refs.json
    as a catalog: tiffref catalog build scenes -o CATALOG
$ info empty  # 3
  tiffref: error: empty: is a folder without TIFF files
$ info years  # 3
  tiffref: error: years: is a folder without TIFF files. With its subfolders: tiffref catalog build years -o CATALOG
$ info scenes/*.tif  # 3
  tiffref: error: scenes/*.tif: no such file. To read many files as one array, use `tiffref stack` or `tiffref.scan_sequence`: tiffref stack 'scenes/*.tif' -o refs.json.
$ info image.tif image.tif  # 2
  tiffref: error: tiffref info takes one image, got 2
    as one array: tiffref stack image.tif image.tif -o refs.json
    as a catalog: tiffref catalog build image.tif image.tif -o CATALOG
$ info /vsicurl/https://host/a.tif  # 3
  tiffref: error: /vsicurl/https://host/a.tif: no such file. This is a GDAL path; the URL is https://host/a.tif.
$ info /vsis3/bucket/a.tif  # 3
  tiffref: error: /vsis3/bucket/a.tif: no such file. This is a GDAL path; the URL is s3://bucket/a.tif.
$ info /vsizip/pack.zip/image.tif  # 3
  tiffref: error: /vsizip/pack.zip/image.tif: no such file. This is a GDAL path; the URL is zip://image.tif::pack.zip.
$ info s3:/bucket/a.tif  # 3
  tiffref: error: s3:/bucket/a.tif: no such file. The URL is s3://bucket/a.tif.
$ info https//host/a.tif  # 3
  tiffref: error: https//host/a.tif: no such file. The URL is https://host/a.tif.
$ info www.host.com/a.tif  # 3
  tiffref: error: www.host.com/a.tif: no such file. URLs need a scheme: https://www.host.com/a.tif.
$ info 'C:\\data\\a.tif'  # 3
  tiffref: error: C:\\data\\a.tif: no such file. This is a Windows path; pass the path on this machine.
$ info -  # 3
  tiffref: error: -: no such file. Standard input cannot be read: pass the path or URL of a file.
$ info s4://bucket/a.tif  # 3
  tiffref: error: s4://bucket/a.tif: no file system is known for s4://. Did you mean s3://?
$ info http://127.0.0.1:1/a.tif --storage-option nonsense=1  # 3
  tiffref: error: http://127.0.0.1:1/a.tif: the file system has no option 'nonsense'. Check storage_options, or --storage-option.
$ info vrt.tif  # 1
  tiffref: error: vrt.tif: not a TIFF file but a GDAL VRT. Pass the TIFFs that it refers to: `tiffref stack FILES -o refs.json`, --mosaic for tiles.
$ info lfs.tif  # 1
  tiffref: error: lfs.tif: not a TIFF file but a Git LFS pointer. Fetch the file itself: git lfs pull.
$ info page.tif  # 1
  tiffref: error: page.tif: not a TIFF file but an HTML page. Check the URL: servers send such pages for errors and logins.
$ info denied.tif  # 1
  tiffref: error: denied.tif: not a TIFF file but an error message of a server (AccessDenied). Check the URL and the credentials; public buckets need anon=true.
$ info pack.tif  # 1
  tiffref: error: pack.tif: not a TIFF file but a ZIP archive. Open a TIFF in it as zip://NAME.tif::ARCHIVE.zip.
$ info gz.tif  # 1
  tiffref: error: gz.tif: not a TIFF file but a gzip file. Unpack it first: gunzip.
$ info png.tif  # 1
  tiffref: error: png.tif: not a TIFF file but a PNG image. Convert it to TIFF first.
$ info hdf.tif  # 1
  tiffref: error: hdf.tif: not a TIFF file but an HDF5 or netCDF 4 file. kerchunk can make references to it.
$ info zero.tif  # 1
  tiffref: error: zero.tif: not a TIFF file but an empty file. Get a complete copy.
$ info text.tif  # 1
  tiffref: error: text.tif: not a TIFF file but a text file. Pass the path or URL of a TIFF.
$ info json.tif  # 1
  tiffref: error: json.tif: not a TIFF file but JSON. If it holds references: tiffref info NAME.json.
$ info czi.tif  # 1
  tiffref: error: czi.tif: not a TIFF file but a Zeiss CZI file. Convert it first: bioformats2raw, or bfconvert to OME-TIFF.
$ info bad.json  # 1
  tiffref: error: bad.json: not a JSON document: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)
$ info other.json  # 1
  tiffref: error: other.json, a: not a reference, got 1, expected text, [url] or [url, offset, length]
$ info list.json  # 1
  tiffref: error: list.json: not a reference document, got [1], expected an object
$ scan image.tif  # 2
  tiffref: error: image.json already exists; to replace it, use -o image.json
$ scan nope/image.tif  # 3
  tiffref: error: nope/image.tif: no such file. There is no folder nope.
$ scan image.tif -o a.zarr  # 2
  tiffref: error: a.zarr: references are JSON, not a Zarr store; name them a.json
$ scan image.tif -o a.json --format parquet  # 2
  tiffref: error: a.json: the extension does not match --format parquet
$ scan image.tif -o image.tif  # 2
  tiffref: error: image.tif: references are JSON, not a TIFF; name them image.json
$ scan image.tif -o - --json  # 2
  tiffref: error: -o - and --json both write to standard output; choose one
$ scan image.tif -o nofolder/a.json  # 3
  tiffref: error: nofolder/a.json: cannot write the references: No such file or directory. Make the folder first.
$ scan image.tif -o a.json --series 7  # 2
  tiffref: error: image.tif: series 7 does not exist: the file has series 0 only
$ scan image.tif -o a.json --level 7  # 2
  tiffref: error: image.tif: level 7 does not exist: the file has level 0 only
$ scan image.tif -o a.json --key 9  # 2
  tiffref: error: image.tif: page 9 does not exist: the file has page 0 only
$ scan image.tif -o a.json --key x  # 2
  tiffref: error: argument --key: 'x' is not a page (3), pages (0,2) or a range (0:10)
  See tiffref scan --help.
$ scan image.tif -o a.json --lvl 1  # 2
  tiffref: error: unknown option --lvl; did you mean --level?
  See tiffref scan --help.
$ scan image.tif -o a.json --storage-option anon  # 2
  tiffref: error: argument --storage-option: 'anon' is not NAME=VALUE
  See tiffref scan --help.
$ scan image.tif -o a.parq --zarr-format 3  # 2
  tiffref: error: a.parq: parquet references support Zarr 2 only; omit --zarr-format, or write JSON
$ fly  # 2
  tiffref: error: unknown command fly; choose from info, scan, stack, append, catalog, convert, rewrite, refresh, validate, completion
  See tiffref --help.
$ catalog bild  # 2
  tiffref: error: unknown action bild; did you mean build?
  See tiffref catalog --help.
$ stack 'no*.tif' -o a.json  # 3
  tiffref: error: no*.tif: no files. Check the pattern.
$ stack '/vsis3/bucket/*.tif' -o a.json  # 3
  tiffref: error: /vsis3/bucket/*.tif: no files. This is a GDAL path; the URL is s3://bucket/*.tif.
$ stack scenes -o a.json  # 3
  tiffref: error: scenes: is a folder with 2 TIFF files, such as S_20200101.tif
    as one array: tiffref stack 'scenes/*.tif' -o refs.json
    as a catalog: tiffref catalog build scenes -o CATALOG
$ stack empty -o a.json  # 3
  tiffref: error: empty: is a folder without TIFF files
$ stack scenes/*.tif --pattern sentinel2 -o a.json  # 2
  tiffref: error: unknown preset 'sentinel2', expected a pattern with {fields}, or one of axes, cellvoyager, incell, landsat, micromanager, modis, opera, sentinel-2. Did you mean sentinel-2?
$ stack 'scenes/S_{time:%Y%m%d.tif' -o a.json  # 2
  tiffref: error: unmatched { in the pattern, got 'scenes/S_{time:%Y%m%d.tif', expected fields such as {time:%Y%m%d}
$ stack 'scenes/S_{time:%Y%m%Q}.tif' -o a.json  # 2
  tiffref: error: %Q is not a date code, got '%Y%m%Q', expected %Y %m %d %H %M %S %f %j %y %b %B %p %z %%
$ stack scenes/*.tif --pattern '{b c}_{time}.tif' -o a.json  # 2
  tiffref: error: {b c} is not a field, got '{b c}_{time}.tif', expected a name of letters, digits and _, such as {band} or {time:%Y%m%d}
$ stack scenes/*.tif --pattern 'X_{n}.tif' -o a.json  # 1
  tiffref: error: 2 of 2 names do not match the pattern, got S_20200101.tif, S_20200102.tif, expected 'X_{n}.tif'. Use a pattern that matches all names, or pass only files that match.
$ stack image.tif png.tif -o a.json  # 1
  tiffref: error: png.tif: not a TIFF file but a PNG image. Convert it to TIFF first.
$ validate nope.json  # 3
  tiffref: error: nope.json: no such file
$ convert nope.json b.json  # 3
  tiffref: error: nope.json: no such file
$ rewrite other.json --from a --to b --to c  # 2
  tiffref: error: each --from needs a --to
$ refresh nope.json  # 3
  tiffref: error: nope.json: no such file
$ catalog query nowhere  # 3
  tiffref: error: nowhere: no catalog found, expected a folder with catalog.parquet. Build one: tiffref catalog build FILES -o FOLDER.
$ catalog build empty -o cat  # 3
  tiffref: error: empty: no files. Check the folder, pattern or list.
$ append image.json image.tif  # 1
  tiffref: error: the references contain no sequence of files. Create it with `tiffref stack` or scan_sequence, without splitting it.
$ info rar.tif  # 1
  tiffref: error: rar.tif: not a TIFF file but a RAR archive. Unpack it first.
$ info bz2.tif  # 1
  tiffref: error: bz2.tif: not a TIFF file but a bzip2 file. Unpack it first: bunzip2.
$ info pdf.tif  # 1
  tiffref: error: pdf.tif: not a TIFF file but a PDF document. Pass the path or URL of a TIFF.
$ info jp2.tif  # 1
  tiffref: error: jp2.tif: not a TIFF file but a JPEG 2000 image. Convert it to TIFF first.
$ info zeros.tif  # 1
  tiffref: error: zeros.tif: not a TIFF file but a file of zeros. Get a complete copy.
$ info slide.ndpis  # 1
  tiffref: error: slide.ndpis: not a TIFF file but a text file. Pass the path or URL of a TIFF.
$ info II.tif  # 1
  tiffref: error: II.tif: the header is cut off, got 4 bytes, expected at least 8. The file is truncated; get a whole copy.
$ info empty.json  # 1
  tiffref: error: empty.json: not a JSON document: it is empty
$ info scenes/  # 3
  tiffref: error: scenes/: is a folder with 2 TIFF files, such as S_20200101.tif
    as one array: tiffref stack 'scenes/*.tif' -o refs.json
    as a catalog: tiffref catalog build scenes -o CATALOG
$ info ~nobody/image.tif  # 3
  tiffref: error: ~nobody/image.tif: no such file. There is no folder ~nobody.
$ info zip://nope.tif::pack.tif  # 3
  tiffref: error: zip://nope.tif::pack.tif: no such file
$ info S3://bucket/a.tif  # 3
  tiffref: error: S3://bucket/a.tif: no file system is known for S3://. Did you mean s3://?
$ info HTTP://host/a.tif  # 3
  tiffref: error: HTTP://host/a.tif: no file system is known for HTTP://. Did you mean http://?
$ info htp://host/a.tif  # 3
  tiffref: error: htp://host/a.tif: no file system is known for htp://. Did you mean http://?
$ info http:/host/a.tif  # 3
  tiffref: error: http:/host/a.tif: no such file. The URL is http://host/a.tif.
$ info https://  # 3
  tiffref: error: https://: no catalog found, expected a folder with catalog.parquet. Build one: tiffref catalog build FILES -o FOLDER.
$ info /dev/null  # 3
  tiffref: error: /dev/null: cannot be read: not a regular file
$ info image.tif --colour  # 2
  tiffref: error: unknown option --colour
  See tiffref info --help.
$ info image.json image.tif  # 2
  tiffref: error: tiffref info takes one image, got 2
    as one array: tiffref stack image.json image.tif -o refs.json
    as a catalog: tiffref catalog build image.json image.tif -o CATALOG
$ scan  # 2
  tiffref: error: the following arguments are required: IMG
  See tiffref scan --help.
$ scan scenes/S_20200101.tif scenes/S_20200102.tif -o a.json  # 2
  tiffref: error: tiffref scan takes one image, got 2
    as one array: tiffref stack scenes/S_20200101.tif scenes/S_20200102.tif -o refs.json
    as a catalog: tiffref catalog build scenes/S_20200101.tif scenes/S_20200102.tif -o CATALOG
$ scan image.json -o a.json  # 1
  tiffref: error: image.json: not a TIFF file but JSON. If it holds references: tiffref info NAME.json.
$ scan image.tif -o a.tif  # 2
  tiffref: error: a.tif: references are JSON, not a TIFF; name them a.json
$ scan image.tif -o a.nc  # 2
  tiffref: error: a.nc: references are JSON, not a netCDF file; name them a.json
$ scan image.tif -o a.json.gz  # 2
  tiffref: error: a.json.gz: references are JSON, not a gzip file; name them a.json
$ scan image.tif -o scenes  # 3
  tiffref: error: scenes: cannot write the references: Is a directory. Give the name of a file in the folder.
$ scan image.tif -o a.json --url-prefix www.host.org/data  # 2
  tiffref: error: www.host.org/data: not a URL. URLs need a scheme: https://www.host.org/data/.
$ scan image.tif -o a.json --url-prefix s3:/bucket/data  # 2
  tiffref: error: s3:/bucket/data: not a URL. The URL is s3://bucket/data/.
$ scan image.tif -o a.json --fillvalue abc  # 2
  tiffref: error: argument --fillvalue: 'abc' is not a number
  See tiffref scan --help.
$ scan image.tif -o a.json --fillvalue 70000  # 2
  tiffref: error: image.tif: no sample can have this fill value, got 70000, expected a value of type uint16. Series may differ in dtype: choose one with --series.
$ scan image.tif -o a.json --zattrs a  # 2
  tiffref: error: argument --zattrs: 'a' is not NAME=VALUE
  See tiffref scan --help.
$ image.tif  # 2
  tiffref: error: unknown command image.tif; for a file: tiffref info image.tif
  See tiffref --help.
$ inf image.tif  # 2
  tiffref: error: unknown command inf; did you mean info?
  See tiffref --help.
$ completion tcsh  # 2
  tiffref: error: unknown shell tcsh; choose from bash, zsh, fish
  See tiffref completion --help.
$ stack scenes/*.tif -o a.tif --pattern sentinel-2  # 2
  tiffref: error: a.tif: references are JSON, not a TIFF; name them a.json
$ stack 'scenes/S_{time}.tif' --concat time -o a.json  # 2
  tiffref: error: concat is not a dimension of the files, got time, expected y, x
$ stack 'scenes/S_{time:%Y%m%d}.tif' --axes foo -o a.json  # 2
  tiffref: error: the order of axes must name each axis once, got foo, expected time
$ stack 'scenes/S_{}.tif' -o a.json  # 2
  tiffref: error: the pattern has no field, got 'S_{}.tif', expected fields such as {time:%Y%m%d}, named groups (?P<time>...), or wildcards
$ stack 'scenes/S_{time:%Y}.tif' -o a.json  # 1
  tiffref: error: 2 of 2 names do not match the pattern, got S_20200101.tif, S_20200102.tif, expected 'S_{time:%Y}.tif'. Use a pattern that matches all names, or pass only files that match.
$ stack scenes/*.tif --layout hcs -o a.json --pattern 'S_{time:%Y%m%d}.tif'  # 2
  tiffref: error: the file names have no wells, got axes time, expected row and column, or well. Add them to the pattern, such as '{row}{column:d}_{field:d}.tif'.
$ validate scenes  # 3
  tiffref: error: scenes: is a folder with 2 TIFF files, such as S_20200101.tif
    as one array: tiffref stack 'scenes/*.tif' -o refs.json
    as a catalog: tiffref catalog build scenes -o CATALOG
$ scan .  # 3
  tiffref: error: .: is a folder with 20 TIFF files, such as II.tif
    as one array: tiffref stack './*.tif' -o refs.json
    as a catalog: tiffref catalog build . -o CATALOG
$ scan image.tif -o - --format parquet  # 2
  tiffref: error: /dev/stdout: the extension does not match --format parquet
$ stack scenes/*.tif -o -  # 2
  tiffref: error: only tiffref scan writes to standard output; give the name of a file
$ convert image.json -  # 2
  tiffref: error: only tiffref scan writes to standard output; give the name of a file
$ validate empty  # 3
  tiffref: error: empty: is a folder without references
$ convert empty a.json  # 3
  tiffref: error: empty: is a folder without references
$ refresh empty  # 3
  tiffref: error: empty: is a folder without references
$ stack image.json  # 3
  tiffref: error: image.json: contains references, not files. Pass TIFF files; `tiffref append` adds files to the references of a stack.
$ stack other.json  # 3
  tiffref: error: other.json: contains no STAC items, expected an Item, an ItemCollection, or a table
$ scan image.tif -o ''  # 3
  tiffref: error: cannot write the references: '' is not a valid file name
$ convert image.json a.parq --zarr-format 3  # 1
  tiffref: error: a.parq: parquet references support only Zarr v2. Omit --zarr-format 3, or write JSON.
$ validate image.tif --pixels few  # 2
  tiffref: error: argument --pixels: 'few' is neither a number of chunks nor 'all'
  See tiffref validate --help.
$ convert list.json a.json  # 1
  tiffref: error: list.json: not a reference document, got [1], expected an object
$ convert other.json a.json  # 1
  tiffref: error: other.json, a: not a reference, got 1, expected text, [url] or [url, offset, length]
$ convert image.json  # 2
  tiffref: error: the following arguments are required: TARGET
  See tiffref convert --help.
$ convert image.tif a.json  # 1
  tiffref: error: image.tif: is a TIFF, not a reference document. `tiffref info` shows its content, `tiffref scan` writes references to it.
$ convert image.json a.nc  # 2
  tiffref: error: a.nc: references are JSON, not a netCDF file; name them a.json
$ rewrite image.json  # 2
  tiffref: error: the following arguments are required: --from, --to
  See tiffref rewrite --help.
$ rewrite image.json --from s3://nope/ --to s3://other/  # 2
  tiffref: error: image.json: no address begins with s3://nope/. The first is file://image.tif.
$ refresh image.tif  # 1
  tiffref: error: image.tif: is a TIFF, not a reference document. `tiffref info` shows its content, `tiffref scan` writes references to it.
$ append image.json  # 2
  tiffref: error: the following arguments are required: FILES
  See tiffref append --help.
$ catalog build scenes -o scenes  # 3
  tiffref: error: scenes: the folder contains files but no catalog. Use an empty or new folder.
$ catalog build scenes -o image.tif  # 3
  tiffref: error: image.tif: the catalog cannot be written, got Not a directory. A file is in the way; use another folder.
$ catalog query image.tif  # 3
  tiffref: error: image.tif: no catalog found, expected a folder with catalog.parquet. Build one: tiffref catalog build FILES -o FOLDER.
$ catalog query cat --bounds 1,2,3  # 2
  tiffref: error: argument --bounds: '1,2,3' is not W,S,E,N
  See tiffref catalog query --help.
"""
"""Commands, and below each what standard error gets, indented, with its exit code."""


def mistakes() -> list[tuple[str, int, str]]:
    """Split the table into commands, exit codes and texts."""
    rows = []
    for block in re.split(r"(?m)^\$ ", MISTAKES.strip())[1:]:
        command, _, text = block.partition("\n")
        command, _, code = command.rpartition("  # ")
        rows.append((command, int(code), "".join(f"{line[2:]}\n" for line in text.splitlines())))
    return rows


@pytest.mark.parametrize(("command", "code", "text"), mistakes(), ids=lambda value: str(value)[:60])
def test_mistakes_at_the_command_line(
    command: str, code: int, text: str, folder: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert main(shlex.split(command)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.replace(f"{folder}/", "") == text
    assert 1 <= len(text.splitlines()) <= 3
    assert sorted(folder.rglob("*")) == before


PYTHON = [
    ("scan(['a.tif', 'b.tif'])", "SourceError",
     "cannot open list, expected a path, URL, fsspec OpenFile or open binary file. To read "
     "many files as one array, use `tiffref.scan_sequence`."),
    ("scan(None)", "SourceError",
     "cannot open NoneType, expected a path, URL, fsspec OpenFile or open binary file"),
    ("scan('image.tif', layout='x')", "SelectionError",
     "unknown layout 'x', expected dataset or tree"),
    ("scan('image.tif', axes='x')", "SelectionError",
     "unknown order of axes, got 'x', expected one of as-stored, ngff, bands-first"),
    ("scan('image.tif', chunkmode='x')", "SelectionError",
     "unknown chunkmode, got 'x', expected tile"),
    ("scan('image.tif', zattrs=5)", "SelectionError",
     "wrong type of the argument 'zattrs' of tiffref.scan(), got int 5, "
     "expected Mapping[str, Any] or None"),
    ("scan_sequence('*.tif', pattern=3)", "SelectionError",
     "wrong type of the argument 'pattern' of tiffref.scan_sequence(), got int 3, "
     "expected str or None"),
    ("scan('image.tif', allow_holes='no')", "SelectionError",
     "wrong type of the argument 'allow_holes' of tiffref.scan(), got str 'no', expected bool"),
    ("scan('image.tif', key='12')", "SelectionError",
     "wrong type of the argument 'key' of tiffref.scan(), got str '12', "
     "expected int or slice or Sequence[int] or None"),
    ("scan('image.tif', level='0')", "SelectionError",
     "wrong type of the argument 'level' of tiffref.scan(), got str '0', expected int or None"),
    ("scan('image.tif').write_fsspec('a.json', url=5)", "SelectionError",
     "wrong type of the argument 'url' of tiffref.References.write_fsspec(), got int 5, "
     "expected str or None"),
    ("validate('image.json', pixels=-1)", "SelectionError",
     "not a number of chunks, got -1, expected 0 or more, or 'all'"),
    ("validate('image.json', pixels='some')", "SelectionError",
     "not a number of chunks, got 'some', expected 0 or more, or 'all'"),
    ("scan('image.tif', level=9)", "SelectionError",
     "image.tif: level 9 does not exist: the file has level 0 only"),
    ("scan('image.tif').write_fsspec('a.json', ulr='x')", "UnknownArgument",
     "write_fsspec() has no argument 'ulr'. Did you mean url? All are listed by "
     "help(tiffref.References.write_fsspec)."),
    ("References.open('a.json', alow='*')", "UnknownArgument",
     "open() has no argument 'alow'. Did you mean allow? All are listed by "
     "help(tiffref.References.open)."),
    ("validate('a.json', pixel=1)", "UnknownArgument",
     "validate() has no argument 'pixel'. Did you mean pixels? All are listed by "
     "help(tiffref.validate)."),
    ("refresh('a.json', dryrun=True)", "UnknownArgument",
     "refresh() has no argument 'dryrun'. Did you mean dry_run? All are listed by "
     "help(tiffref.refresh)."),
    ("set_cache_size(max_byte=1)", "UnknownArgument",
     "set_cache_size() has no argument 'max_byte'. Did you mean max_bytes? All are listed by "
     "help(tiffref.set_cache_size)."),
    ("scan('image.tif').write_fsspec('a.zarr')", "InvalidReferences",
     "a.zarr: references are JSON, not a Zarr store. Name them a.json."),
    ("References.open(5)", "InvalidReferences",
     "cannot open int as references, expected a path, URL, or mapping"),
    ("References.from_parquet({})", "InvalidReferences",
     "parquet references are a folder, got dict"),
    ("References.open('nope.json')", "MissingSource", "nope.json: no such file"),
    ("References.open('imag.json')", "MissingSource",
     "imag.json: no such file. Did you mean image.json?"),
    ("validate('-')", "MissingSource",
     "-: no such file. Standard input cannot be read: pass the path or URL of a file."),
    ("validate(5)", "InvalidReferences",
     "cannot open int as references, expected a path, URL, or mapping"),
    ("scan_sequence([])", "SourceError", "no files"),
    ("scan_sequence(None)", "SourceError",
     "cannot list files of NoneType, expected paths, a glob, a pattern, a table or STAC items"),
]  # fmt: skip
"""Calls, and the error that each raises."""


@pytest.mark.parametrize(("call", "kind", "text"), PYTHON, ids=[call for call, _, _ in PYTHON])
def test_mistakes_in_python(
    call: str, kind: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(tiffref.TiffrefError) as caught:
        eval(call, {name: getattr(tiffref, name) for name in tiffref.__all__})
    assert type(caught.value).__name__ == kind
    assert str(caught.value).replace(f"{folder}/", "") == text


def test_packages_need_no_import_of_their_own() -> None:
    code = (
        "import tiffref; print(tiffref.catalog.build.__name__, tiffref.zarr.ZarrTiffStore.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("build ZarrTiffStore\n", "")


def test_a_misspelled_name_of_the_package_suggests_another() -> None:
    with pytest.raises(AttributeError, match="no attribute 'scna'") as caught:
        _ = tiffref.scna
    assert (caught.value.name, caught.value.obj) == ("scna", tiffref)


def test_at_least_100_mistakes_are_tested() -> None:
    assert len(mistakes()) >= 100


def test_all_functions_suggest_the_names_of_options() -> None:
    functions = {name: getattr(tiffref, name) for name in tiffref.__all__ if name.islower()}
    del functions["imwrite"], functions["memmap"]  # are tifffile's
    functions |= {
        name: getattr(tiffref.References, name)
        for name, one in vars(tiffref.References).items()
        if not name.startswith("_") and name not in tiffref.References.__slots__
    }
    del functions["with_attributes"]  # takes any
    chosen = [one for one in functions.values()
              if callable(one) and len(inspect.signature(one).parameters) > 2]  # fmt: skip
    assert len(chosen) > 10
    for function in chosen:
        parameters = inspect.signature(function).parameters.values()
        needed = [None for one in parameters if one.default is one.empty and one.kind < 2]
        with pytest.raises(tiffref.UnknownArgument, match="has no argument 'nosuch'"):
            function(*needed, nosuch=1)


TYPED = {
    "scan('image.tif', ": "series level key chunkmode zattrs layout axes strict allow_holes sidecars "
    "storage_options progress",
    "scan_sequence(['image.tif'], ": "pattern concat mosaic on_mismatch ignore allow_holes zattrs axes "
    "layout storage_options formats axesorder categories assets time_from series key workers progress",
    "append_sequence('image.json', 'image.tif', ": "pattern allow_holes allow workers",
    "imread(['image.tif', 'image.tif'], aszarr=True, ": "key imread imreadargs container pattern "
    "axesorder categories chunkmode zattrs offset",
    "refresh('image.json', ": "storage_options source_options allow dry_run",
    "validate('image.json', ": "sources pixels storage_options source_options allow",
    "set_cache_size(": "max_bytes",
    "References.open('image.json', ": "storage_options allow",
    "scan('image.tif').write_fsspec('a.json', ": "url groupname templatename zarr_format version "
    "keep_signature storage_options",
    "scan('image.tif').to_parquet('a.parq', ": "record_size",
    "catalog.build('image.tif', 'c', ": "format url_prefix pattern stack group_by stac workers update "
    "storage_options scheduler stack_options stack_format retries assets scan_options progress",
    "catalog.open('c', ": "allow storage_options",
    "imread('image.tif', ": "aszarr",
    "zarr.ZarrTiffStore('image.tif', ": "key level chunkmode zattrs zarr_format verify allow strict axes",
    "zarr.ZarrFileSequenceStore(['image.tif'], ": "imread chunkmode zattrs pattern categories workers",
    "zarr.ZarrTiffStore('image.tif').read(": "out progress",
    "open_dataset('image.tif', engine='tiffref', ": "series strict overviews storage_options allow",
}
"""Calls, and the arguments that are refused if they are of a wrong type."""


@pytest.mark.parametrize("call", TYPED)
def test_arguments_of_a_wrong_type(
    call: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    names = {name: getattr(tiffref, name) for name in dir(tiffref)}
    names |= {"catalog": tiffref.catalog, "zarr": tiffref.zarr}
    names |= {"open_dataset": xr.open_dataset, "value": object()}
    for name in TYPED[call].split():
        with pytest.raises(tiffref.SelectionError):
            eval(f"{call}{name}=value)", names)


def test_arguments_of_the_right_types() -> None:
    @checked()
    def f(a: str, b: Sequence[int] | None = None, *, c: int | float = 0, d: bool = False) -> str:
        return a

    for b in (None, [1], (1,), range(2), np.arange(2)):
        assert (
            f("a", b, c=np.int16(1), d=np.bool_(True)) == f("a", b=b, c=np.float32(1), d=1) == "a"
        )
    with pytest.raises(TypeError, match="positional"):
        f("a", None, 3)  # type: ignore[misc]
    for given in ({"b": 3}, {"b": "12"}, {"c": "1"}, {"d": "no"}, {"d": None}):
        with pytest.raises(
            tiffref.SelectionError, match=f"argument '{next(iter(given))}' of .*f()"
        ):
            f("a", **given)
