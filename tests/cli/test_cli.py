"""The command line: what it prints where, its exit codes, and that no user error is a traceback."""

from __future__ import annotations

import doctest
import functools
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from range_server import serve

import tiffref
import zarr
from tiffref.cli import console, main

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def image(folder: Path) -> Path:
    """Write a pyramid of two levels: 3 x 2 tiles, and 2 x 1."""
    pixels = np.arange(96 * 64, dtype=np.uint16).reshape(96, 64)
    options = {"tile": (32, 32), "compression": "zlib", "photometric": "minisblack"}
    path = folder / "image.tif"
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(pixels, subifds=1, **options)
        tif.write(pixels[::2, ::2], subfiletype=1, **options)
    return path


@pytest.fixture
def unsupported(folder: Path) -> Path:
    """Write a file with a compression that nobody here decodes (JBIG, 34661)."""
    path = folder / "jbig.tif"
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags["Compression"].overwrite(34661)
    return path


def assert_plain_error(err: str, *words: str) -> None:
    """Check that standard error holds one message of ours that names what it must."""
    assert "Traceback" not in err
    assert err.startswith("tiffref: error: "), err
    for word in words:
        assert word in err, err


def files() -> set[str]:
    """List the current folder: an error must leave nothing behind."""
    return {path.name for path in Path().iterdir()}


# ---------------------------------------------------------------- the frame


def test_help_and_version_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "scan" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tiffref {tiffref.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["scan"],
        ["scan", "image.tif", "image.tif"],
        ["scan", "image.tif", "-o", "image.zarr"],
        ["scan", "image.tif", "-o", "image.json", "--format", "parquet"],
        ["scan", "image.tif", "--key", "a"],
        ["scan", "image.tif", "--fillvalue", "none"],
        ["scan", "image.tif", "-o", "x.json", "--zarr-format", "4"],
        ["scan", "image.tif", "-o", "-", "--json"],
        ["scan", "image.tif", "-o", "image.tif"],
        ["scan", "image.tif", "-o", "x.json", "--series", "7"],
        ["scan", "image.tif", "-o", "x.json", "--level", "7"],
        ["info", "image.tif", "--storage-option", "anon"],
        ["validate", "refs.json", "--pixels", "some"],
    ],
    ids=" ".join,
)
def test_wrong_use_gives_2(
    arguments: list[str], image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = image.read_bytes()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error: " in captured.err or not arguments  # which shows the help instead
    assert "Traceback" not in captured.err
    assert files() == {"image.tif"}
    assert image.read_bytes() == before


def test_interrupt_gives_130(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tiffref.tiff.scan.scan", interrupt)
    assert main(["info", str(image)]) == 130
    assert_plain_error(capsys.readouterr().err, "interrupted")


@pytest.mark.parametrize("module", ["tiffref.cli", "tiffref.tiff.scan"])
def test_interrupt_while_modules_load_is_no_traceback(module: str, image: Path) -> None:
    code = (
        "import runpy, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv[1:] = ['info', 'image.tif']\n"
        "runpy.run_module('tiffref', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "tiffref: error: interrupted\n"


def test_help_loads_no_arrays(folder: Path) -> None:
    code = (
        "import sys; from tiffref.cli import main; main(['--help']); "
        "sys.exit(str({'numpy', 'tifffile', 'zarr', 'importlib.metadata'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "set()"


@pytest.mark.parametrize("command", ["info image.tif", "scan image.tif -o refs.json"])
def test_local_files_load_no_file_systems(command: str, image: Path) -> None:
    code = (
        f"import sys; from tiffref.cli import main; main({command.split()!r}); "
        "sys.exit(str({'asyncio', 'fsspec', 'zarr', 'xarray', 'ssl'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "set()"


def test_closed_output_ends_quietly(image: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tiffref", "info", str(image)],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""


def run_with_terminal(arguments: list[str]) -> str:
    """Run the command line with a terminal as standard error, and return what the terminal got."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tiffref", *arguments], stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    text = b""
    try:
        while data := os.read(ours, 1024):
            text += data
    except OSError:
        pass  # Linux says EIO where the other side has closed
    os.close(ours)
    assert process.wait() == 0, text
    return text.decode()


def test_progress_shows_on_a_terminal_only(image: Path) -> None:
    text = run_with_terminal(["scan", str(image), "-o", "refs.json"])
    assert f"scanning {image}" in text
    assert "writing refs.json" in text
    done = subprocess.run(
        [sys.executable, "-m", "tiffref", "scan", str(image), "-o", "refs.json"],
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


def test_console_examples() -> None:
    assert doctest.testmod(console).failed == 0


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("command", ["info", "scan"])
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, 3),
        (b"", 1),
        (b"not a TIFF at all", 1),
        (b"II*\0\xff\xff\0\0", 1),
    ],
    ids=["missing", "empty", "text", "offset past the end"],
)
def test_bad_files(
    command: str,
    content: bytes | None,
    code: int,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        Path("bad.tif").write_bytes(content)
    output = ["-o", "refs.json"] if command == "scan" else []
    assert main([command, "bad.tif", *output]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert_plain_error(captured.err, "bad.tif")
    assert files() <= {"bad.tif"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("i*.tif", None, ["tiffref stack"]),
        ("refs.tif", b'{"version": 1, "refs": {}}', ["JSON", "tiffref info"]),
        ("a.tif", b"\x89HDF\r\n\x1a\n", ["HDF5"]),
        ("a.tif", b"<html></html>", ["HTML"]),
    ],
)
def test_what_is_taken_for_a_tiff_is_named(
    name: str, content: bytes | None, words: list[str], folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if content is not None:
        Path(name).write_bytes(content)
    assert main(["info", name]) in (1, 3)
    assert_plain_error(capsys.readouterr().err, name, *words)


def test_directory_gives_3(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(folder)]) == 3
    assert_plain_error(capsys.readouterr().err, str(folder))


def test_url_that_answers_404_gives_3(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(folder) as server:
        assert main(["info", f"{server.url}gone.tif"]) == 3
    assert_plain_error(capsys.readouterr().err, "gone.tif")


def test_output_that_cannot_be_written_gives_3(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scan", str(image), "-o", "no/such/folder/refs.json"]) == 3
    err = capsys.readouterr().err
    assert_plain_error(err, "no/such/folder")
    assert ".tmp" not in err  # of the file that is renamed in the end
    assert files() == {"image.tif"}


# ---------------------------------------------------------------- scan


def test_scan_writes_a_document_that_opens(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "image.tif", "-o", "refs.json"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "refs.json: 2 arrays, 8 chunks\n"
    assert captured.err == ""
    array = zarr.open_group("reference::refs.json", mode="r")["image"][...]
    np.testing.assert_array_equal(array, tifffile.imread(image))


def test_scan_writes_parquet_where_the_name_says_so(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    assert main(["scan", "image.tif", "-o", "refs.parq"]) == 0
    assert capsys.readouterr().out == "refs.parq: 2 arrays, 8 chunks\n"
    assert (Path("refs.parq") / ".zmetadata").is_file()
    array = tiffref.References.open("refs.parq").group["image"]
    assert array.shape == tifffile.imread(image).shape
    assert main(["scan", "image.tif", "-o", "v3.parq", "--zarr-format", "3"]) == 2
    assert "parquet references hold Zarr 2 only" in capsys.readouterr().err
    assert not Path("v3.parq").exists()


def test_scan_to_standard_output_prints_the_document_only(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scan", "image.tif", "-o", "refs.json"]) == 0
    capsys.readouterr()
    assert main(["scan", "image.tif", "-o", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(Path("refs.json").read_text())


def test_scan_summary_as_json(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "image.tif", "-o", "refs.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "output": "refs.json",
        "arrays": 2,
        "chunks": 8,
        "coordinates": 0,
        "missing_chunks": 0,
        "refused": [],
    }


def test_coordinates_are_counted_by_themselves(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = {
        "axes": "CYX",
        "PhysicalSizeX": 1,
        "PhysicalSizeY": 1,
        "Channel": {"Name": ["a", "b"]},
    }
    tifffile.imwrite("a.ome.tif", np.zeros((2, 64, 32), "u1"), ome=True, metadata=metadata,
                     photometric="minisblack", rowsperstrip=32, compression="zlib")  # fmt: skip
    for command in (["scan", "a.ome.tif", "-o", "refs.json"], ["convert", "refs.json", "2.json"]):
        assert main(command) == 0
        assert capsys.readouterr().out.endswith(": 1 array, 4 chunks, 3 coordinates\n")


def test_scan_options_reach_the_document(image: Path) -> None:
    command = ["scan", "image.tif", "-o", "refs.json", "--level", "1", "--zarr-format", "3"]
    assert main([*command, "--url-prefix", "s3://bucket/folder/"]) == 0
    document = json.loads(Path("refs.json").read_text())
    chunks = [value for value in document["refs"].values() if isinstance(value, list)]
    assert {url for url, _, _ in chunks} == {"s3://bucket/folder/image.tif"}
    assert len(chunks) == 2
    assert "zarr.json" in document["refs"]
    assert not any(key.endswith(".zarray") for key in document["refs"])


def test_scan_axes(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["scan", "image.tif", "-o", "refs.json", "--axes"]
    assert main([*options, "bands-first"]) == 0
    assert main([*options, "zyx"]) == 2
    assert "as-stored" in capsys.readouterr().err


def test_scan_layout_tree_gives_a_group_per_level(image: Path) -> None:
    assert main(["scan", "image.tif", "-o", "refs.json", "--layout", "tree"]) == 0
    refs = json.loads(Path("refs.json").read_text())["refs"]
    groups = [key for key in refs if key.endswith("/.zgroup")]
    assert len(groups) == 2


def test_scan_of_an_unsupported_file_gives_1(
    unsupported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scan", "jbig.tif", "-o", "refs.json"]) == 1
    captured = capsys.readouterr()
    assert "JBIG" in captured.err
    assert "Traceback" not in captured.err


def test_convert_and_rewrite_tell_in_words_or_as_json(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scan", "image.tif", "-o", "refs.json"]) == 0
    moved = ["rewrite", "refs.json", "--from", f"file://{image.parent}/", "--to", "s3://a/"]
    for command, words, facts in (
        (
            ["convert", "refs.json", "2.json"],
            "2 arrays, 8 chunks",
            {"arrays": 2, "chunks": 8, "coordinates": 0},
        ),
        ([*moved, "-o", "2.json"], "1 file with another address", {"moved": 1}),
    ):
        capsys.readouterr()
        assert main(command) == 0
        assert capsys.readouterr().out == f"2.json: {words}\n"
        assert main([*command, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"output": "2.json", **facts}


# ---------------------------------------------------------------- info


def test_info_tells_levels_codecs_and_readers(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "image.tif"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for words in (
        "image.tif",
        "y 96, x 64",
        "y_1 48, x_1 32",
        "uint16",
        "32 x 32",
        "zlib",
        "xarray",
    ):
        assert words in captured.out


def test_info_as_json(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "image.tif", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    (series,) = facts["series"]
    full, half = series["levels"]
    assert (full["path"], full["shape"], full["chunks"]) == ("image", [96, 64], [32, 32])
    assert (half["shape"], half["n_chunks"]) == ([48, 32], 2)
    assert full["codecs"][0]["ids"] == ["zlib"]
    assert facts["sources"][0]["size"] == image.stat().st_size


def test_info_wraps_sentences_and_spells_numbers(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.zeros((64, 64), np.float32)
    nodata = (42113, "s", 0, "nan", True)
    tifffile.imwrite(
        "sparse.tif", image, tile=(32, 32), compression="zlib", predictor=3, extratags=[nodata],
        metadata=None,
    )  # fmt: skip
    with tifffile.TiffFile("sparse.tif", mode="r+b") as tif:
        tif.pages[0].tags["TileByteCounts"].overwrite((0, 0, 0, 0))
        tif.pages[0].tags["TileOffsets"].overwrite((0, 0, 0, 0))
    assert main(["info", "sparse.tif"]) == 0
    out = capsys.readouterr().out
    assert "level 0: 4 of 4 chunks not stored" in out
    _, sentences = out.split("imagecodecs_floatpred + zlib: ")
    assert "\n    VirtualiZarr" in sentences
    assert max(map(len, sentences.splitlines())) <= 80
    assert main(["info", "sparse.tif", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert facts["meaning"]["nodata"] == "NaN"


def test_info_of_an_unsupported_file_gives_1(
    unsupported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "jbig.tif"]) == 1
    captured = capsys.readouterr()
    assert "JBIG" in captured.out + captured.err
    assert "Traceback" not in captured.err


# ---------------------------------------------------------------- stack and append


@pytest.fixture
def scenes(folder: Path) -> Path:
    """Write four files of two days and two bands."""
    (folder / "scenes").mkdir()
    for day in ("20240101", "20240111"):
        for band in ("B02", "B03"):
            pixels = np.full((32, 32), int(band[1:]), np.uint16)
            tifffile.imwrite(folder / "scenes" / f"{day}_{band}.tif", pixels, metadata=None)
    return folder / "scenes"


def test_stack_and_append(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pattern = "{time:%Y%m%d}_{band}.tif"
    first = ["scenes/20240101_B02.tif", "scenes/20240101_B03.tif"]
    assert main(["stack", *first, "--pattern", pattern, "-o", "cube.json"]) == 0
    assert "time 1, band 2, y 32, x 32" in capsys.readouterr().out
    assert main(["append", "cube.json", "scenes/*.tif", "--pattern", pattern]) == 0
    assert "time 2, band 2, y 32, x 32" in capsys.readouterr().out
    cube = zarr.open_group("reference::cube.json", mode="r")["image"][...]
    assert cube[:, :, 0, 0].tolist() == [[2, 3], [2, 3]]


def test_stack_with_a_hole_that_nobody_allowed_gives_1(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scenes / "20240111_B03.tif").unlink()
    command = ["stack", "scenes/{time:%Y%m%d}_{band}.tif", "-o", "cube.json"]
    assert main(command) == 1
    assert_plain_error(capsys.readouterr().err)
    assert not Path("cube.json").exists()
    assert main([*command, "--allow-holes"]) == 0
    assert "1 place" in capsys.readouterr().err
    assert Path("cube.json").exists()


def test_stack_of_nothing_gives_3(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stack", "no_*.tif", "-o", "cube.json"]) == 3
    assert_plain_error(capsys.readouterr().err, "no_*.tif")


# ---------------------------------------------------------------- validate


def test_validate_accepts_what_scan_writes(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["scan", "image.tif", "-o", "refs.json"])
    capsys.readouterr()
    assert main(["validate", "refs.json"]) == 0
    assert capsys.readouterr().out == "refs.json: valid\n"
    assert main(["validate", "refs.json", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert report["findings"] == []
    assert set(report["arrays"]) == {"image", "image_1"}


def test_validate_compares_pixels(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["scan", "image.tif", "-o", "refs.json"])
    capsys.readouterr()
    assert main(["validate", "refs.json", "--sources", "--pixels", "all"]) == 0
    assert capsys.readouterr().out == "refs.json: valid, 8 chunks compared\n"


def test_validate_finds_sources_that_are_gone_or_not_allowed(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["scan", "image.tif", "-o", "refs.json"])
    capsys.readouterr()
    assert main(["validate", "refs.json", "--allow", "s3://bucket/"]) == 1
    assert "image.tif" in capsys.readouterr().out
    image.unlink()
    assert main(["validate", "refs.json"]) == 0
    assert main(["validate", "refs.json", "--sources"]) == 1
    assert "image.tif" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["validate", "convert", "append"])
def test_a_tiff_is_no_document(
    command: str, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"validate": [], "convert": ["refs.json"], "append": ["image.tif"]}
    assert main([command, "image.tif", *more[command]]) == 1
    captured = capsys.readouterr()
    assert "tiffref scan" in captured.out + captured.err


def test_validate_names_what_is_wrong(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["scan", "image.tif", "-o", "refs.json"])
    document = json.loads(Path("refs.json").read_text())
    document["refs"]["image/0.0"] = ["file:///image.tif", -5, 10]
    Path("refs.json").write_text(json.dumps(document))
    capsys.readouterr()
    assert main(["validate", "refs.json"]) == 1
    assert "image/0.0" in capsys.readouterr().out
    assert main(["validate", "refs.json", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert any("image/0.0" in str(finding) for finding in report["findings"])


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, 3), (b"", 1), (b"{", 1), (b"[1, 2]", 1), (b'{"a": 7}', 1), (b"\xff\xfe", 1)],
    ids=["missing", "empty", "cut", "list", "other", "binary"],
)
def test_validate_bad_documents(
    content: bytes | None, code: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("refs.json").write_bytes(content)
    assert main(["validate", "refs.json"]) == code
    captured = capsys.readouterr()
    assert "refs.json" in captured.out + captured.err
    assert "Traceback" not in captured.err


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of older rasterio's own
def test_info_tells_where_and_when(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("pyproj")
    path = tmp_path / "LC08_L1TP_193024_20220505_20220511_02_T1_B4.TIF"
    transform = rasterio.transform.from_origin(500_000, 6_000_000, 30, 30)
    profile = {"driver": "GTiff", "width": 40, "height": 50, "count": 1, "dtype": "int16"}
    with rasterio.open(path, "w", **profile, crs=32633, transform=transform, nodata=-9999) as image:
        image.write(np.zeros((1, 50, 40), "int16"))
    assert main(["info", str(path)]) == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines() if line)
    assert lines["crs"] == "EPSG:32633 (WGS 84 / UTM zone 33N)"
    assert lines["bounds"] == "x 500000 to 501200, y 5998500 to 6000000"
    assert lines["nodata"] == "-9999"
    assert lines["time"].startswith("2022-05-05")


def test_info_tells_axes_and_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.ome.tif"
    metadata = {
        "axes": "CYX",
        "PhysicalSizeX": 0.25,
        "PhysicalSizeXUnit": "µm",
        "Channel": {"Name": ["DAPI", "GFP"]},
    }
    data = np.zeros((2, 40, 50), "u2")
    tifffile.imwrite(path, data, ome=True, metadata=metadata, photometric="minisblack")
    assert main(["info", "--json", str(path)]) == 0
    meaning = json.loads(capsys.readouterr().out)["meaning"]
    assert meaning["axes"]["x"]["step"] == 0.25
    assert meaning["axes"]["x"]["units"] == "micrometer"
    assert meaning["channels"] == ["DAPI", "GFP"]


def test_interrupting_a_request_that_hangs_ends_at_once(tmp_path: Path) -> None:
    import http.server
    import signal
    import threading

    asked, released = threading.Event(), threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            released.wait(60)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        urls = [f"http://127.0.0.1:{server.server_port}/{name}.tif" for name in "ab"]
        command = [sys.executable, "-m", "tiffref", "stack", *urls, "-o", "c.json"]
        # what a shell runs in the background ignores SIGINT, and hands that on
        heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, preexec_fn=heed)
        assert asked.wait(60)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=30)
    finally:
        process.kill()
        released.set()
        server.shutdown()
        server.server_close()
    assert process.returncode == 130
    assert message.decode().splitlines()[-1].endswith("interrupted")
    assert list(tmp_path.iterdir()) == []
