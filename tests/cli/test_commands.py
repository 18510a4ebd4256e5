"""`tiffref scan`, `stack` and `append`, and the options that commands share."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import tifffile

import tiffref
import zarr
from sequences import geo_tags, pixels, write
from tiffref import References
from tiffref.cli import COMMANDS, build_parser, main
from tiffref.sequences import stack
from tiffref.tiff.scan import ScanOptions


@pytest.mark.parametrize("name", ["doc.json", "doc.parq"])
def test_stack_then_append(series, tmp_path, capsys, name):
    if name.endswith(".parq"):
        pytest.importorskip("pyarrow")
    document = str(tmp_path / name)
    written = tmp_path / name / ".zmetadata" if name.endswith(".parq") else tmp_path / name
    assert main(["stack", series, "-o", document]) == 0
    assert "image (time 2, y 40, x 48), 2 files" in capsys.readouterr().out
    before = written.read_bytes()
    assert main(["append", document, series]) == 0
    assert "no new files" in capsys.readouterr().out
    assert written.read_bytes() == before
    write(tmp_path / "S_20220601.tif", pixels(5), extratags=geo_tags(0.0, 0.0))
    assert main(["append", document, series, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["files"] == 3
    shape = {"time": 3, "y": 40, "x": 48}
    assert summary["arrays"] == [{"path": "image", "shape": shape, "files": 3}]
    assert References.open(document).group["image"].shape == (3, 40, 48)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_append_keeps_the_zarr_format(series, tmp_path, zarr_format):
    document = str(tmp_path / "doc.json")
    assert main(["stack", series, "-o", document, "--zarr-format", str(zarr_format)]) == 0
    write(tmp_path / "S_20220601.tif", pixels(5), extratags=geo_tags(0.0, 0.0))
    assert main(["append", document, series]) == 0
    root = "zarr.json" if zarr_format == 3 else ".zgroup"
    assert root in json.loads(Path(document).read_text())["refs"]


@pytest.mark.parametrize("name", ["doc.json", "doc.parq"])
def test_append_loses_nothing_of_another_process(series, tmp_path, capsys, monkeypatch, name):
    if name.endswith(".parq"):
        pytest.importorskip("pyarrow")
    document = str(tmp_path / name)
    assert main(["stack", series, "-o", document]) == 0
    for day in ("20220601", "20220602"):
        write(tmp_path / f"S_{day}.tif", pixels(5), extratags=geo_tags(0.0, 0.0))
    append = stack.append_sequence

    def append_while_another_does(*args, **options):
        monkeypatch.setattr(stack, "append_sequence", append)
        assert main(["append", document, str(tmp_path / "S_20220601.tif")]) == 0
        return append(*args, **options)

    monkeypatch.setattr(stack, "append_sequence", append_while_another_does)
    assert main(["append", document, series]) == 3
    assert "another process has changed the references" in capsys.readouterr().err
    assert main(["append", document, series]) == 0
    assert References.open(document).group["image"].shape == (4, 40, 48)


def test_a_refused_stack_writes_nothing(series, tmp_path, capsys):
    write(tmp_path / "S_20220601.tif", pixels(5), compression="lzw", extratags=geo_tags(0.0, 0.0))
    document = tmp_path / "doc.json"
    assert main(["stack", series, "-o", str(document)]) == 1
    assert "differ in compression" in capsys.readouterr().err
    assert not document.exists()
    assert main(["stack", series, "-o", str(document), "--on-mismatch", "split"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(", ")[2] for line in lines] == ["2 files", "1 file"]
    assert "part_1/image" in lines[1]


def test_holes_are_reported(series, tmp_path, capsys):
    (tmp_path / "S_20220510.tif").write_bytes(b"no TIFF")
    document = str(tmp_path / "doc.json")
    assert main(["stack", series, "-o", document]) == 1
    assert main(["stack", series, "-o", document, "--allow-holes"]) == 0
    captured = capsys.readouterr()
    told = captured.err
    assert "S_20220510.tif: not a TIFF file" in told
    assert "1 position without a file: time=2022-05-10" in told
    assert "image (time 2, y 40, x 48), 1 file\n" in captured.out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["none_*.tif"], 3),
        (["{}", "--pattern", "img"], 2),
        (["{}", "--concat", "a", "--concat", "b=y"], 2),
        (["{}", "--concat", "q"], 2),
        (["{}", "--axes", "a,b"], 2),
    ],
)
def test_exit_codes(series, tmp_path, arguments, code):
    filled = [series if one == "{}" else one for one in arguments]
    assert main(["stack", *filled, "-o", str(tmp_path / "doc.json")]) == code


def test_options_reach_the_scan(series, tmp_path, capsys):
    document = str(tmp_path / "doc.json")
    arguments = ["--mosaic", "--level", "0", "--chunkmode", "tile", "--workers", "2",
                 "--url-prefix", "s3://bucket/"]  # fmt: skip
    assert main(["stack", series, "-o", document, *arguments]) == 0
    sources = References.from_kerchunk(document).sources
    assert {source.url for source in sources} == {
        f"s3://bucket/S_{day}.tif" for day in ("20220505", "20220510")
    }


pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def refs(name: str) -> dict:
    return json.loads(Path(name).read_text())["refs"]


def test_scan_takes_what_the_function_takes() -> None:
    options = build_parser()._subparsers._group_actions[0].choices["scan"].options()  # type: ignore[union-attr]
    of_function = inspect.signature(tiffref.scan).parameters.keys() - {"source", "options"}
    names = of_function | {field.name for field in fields(ScanOptions)}
    spelled = {f"--{name.replace('_', '-')}" for name in names}
    spelled -= {"--storage-options", "--progress"}  # progress is shown on every terminal
    assert spelled <= set(options)


@pytest.mark.parametrize("key", ["1", "0,2", "1:3", ":2"])
def test_scan_of_some_pages(workspace: Path, key: str) -> None:
    assert main(["scan", "image.tif", "--key", key, "-o", "refs.json"]) == 0
    chosen = {"1": 1, "0,2": [0, 2], "1:3": slice(1, 3), ":2": slice(2)}[key]
    expected = tiffref.scan("image.tif", key=chosen).to_kerchunk()["refs"]
    found = refs("refs.json")
    same = {name for name in expected if name != ".zattrs"}
    assert {name: found[name] for name in same} == {name: expected[name] for name in same}


def test_scan_with_values_and_attributes(workspace: Path) -> None:
    command = ["scan", "image.tif", "-o", "refs.json", "--fillvalue", "7", "--chunkmode", "tile"]
    attributes = ["--zattrs", "title=cells", "--zattrs", '{"n": [1, 2]}']
    assert main([*command, *attributes]) == 0
    found = refs("refs.json")
    assert json.loads(found["image/.zarray"])["fill_value"] == 7
    root = json.loads(found[".zattrs"])
    assert (root["title"], root["n"]) == ("cells", [1, 2])


def test_strict_refuses_invalid_metadata(workspace: Path) -> None:
    tifffile.imwrite("odd.tif", np.zeros((4, 4), "u1"), extratags=[(42112, 2, 0, "<GDAL", True)])
    assert main(["scan", "odd.tif", "-o", "refs.json", "--strict"]) == 1
    assert not Path("refs.json").exists()
    assert main(["scan", "odd.tif", "-o", "refs.json"]) == 0


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["scan", "image.tif"], "image.json"),
        (["scan", "image.tif", "--format", "parquet"], "image.parq"),
        (["stack", "scenes/*.tif"], "stack.json"),
    ],
)
def test_outputs_have_default_names_and_replace_nothing(
    workspace: Path, command: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    assert tiffref.References.open(name).group.children
    capsys.readouterr()
    assert main(command) == 2
    assert capsys.readouterr().err == (
        f"tiffref: error: {name} already exists; to replace it, use -o {name}\n"
    )


@pytest.mark.parametrize("command", ["scan", "info"])
def test_several_images_suggest_a_stack_or_a_catalog(
    workspace: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "a.tif", "b c.tif", "d.tif"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"tiffref: error: tiffref {command} takes one image, got 3",
        "  as one array: tiffref stack a.tif 'b c.tif' ... -o refs.json",
        "  as a catalog: tiffref catalog build a.tif 'b c.tif' ... -o CATALOG",
    ]


def test_dry_runs_write_nothing(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(workspace.rglob("*"))
    assert main(["scan", "image.tif", "--dry-run"]) == 0
    assert main(["stack", "scenes/S_{time:%Y%m%d}.tif", "--dry-run"]) == 0
    assert main(["catalog", "build", "scenes", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "would write image.json: " in out
    assert "would write stack.json: image (time 2, y 32, x 32), 2 files" in out
    assert "would build catalog: 2 files" in out
    assert sorted(workspace.rglob("*")) == before


def test_quiet_and_verbose(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "image.tif", "-o", "refs.json", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["scan", "image.tif", "-o", "refs.json", "-v"]) == 0
    assert "tiffref: info: scanning image.tif (" in capsys.readouterr().err
    assert main(["stack", "scenes/*.tif", "-o", "refs.json", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_pattern_is_offered_where_names_have_dates(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stack", "scenes/*.tif", "-o", "refs.json"]) == 0
    assert "note: file names seem to have fields: try --pattern 'S_{time:%Y%m%d}.tif'" in (
        capsys.readouterr().err
    )
    assert main(["stack", "scenes/*.tif", "-o", "r.json", "--pattern", "S_{time:%Y%m%d}.tif"]) == 0
    assert capsys.readouterr().err == ""


def test_help_lists_all_presets() -> None:
    from tiffref.sequences.names import PRESETS

    assert f"presets of --pattern: {', '.join(sorted(PRESETS))}" in COMMANDS["stack"].examples


def assert_plain_error(err: str, *words: str) -> None:
    """Check that standard error holds one message of ours that names what it must."""
    assert "Traceback" not in err
    assert err.startswith("tiffref: error: "), err
    for word in words:
        assert word in err, err


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
    assert "parquet references support Zarr 2 only" in capsys.readouterr().err
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
    assert "1 position" in capsys.readouterr().err
    assert Path("cube.json").exists()


def test_stack_of_nothing_gives_3(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stack", "no_*.tif", "-o", "cube.json"]) == 3
    assert_plain_error(capsys.readouterr().err, "no_*.tif")
