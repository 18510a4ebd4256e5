"""`tiffref scan`, `stack` and `append`, and the options that commands share."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

import tiffref
from sequences import geo_tags, pixels, write
from tiffref import References
from tiffref.cli import COMMANDS, build_parser, main


@pytest.fixture
def series(tmp_path):
    for n, day in enumerate(("20220505", "20220510")):
        write(tmp_path / f"S_{day}.tif", pixels(n), extratags=geo_tags(0.0, 0.0))
    return str(tmp_path / "S_{time:%Y%m%d}.tif")


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
    assert "nothing new" in capsys.readouterr().out
    assert written.read_bytes() == before
    write(tmp_path / "S_20220601.tif", pixels(5), extratags=geo_tags(0.0, 0.0))
    assert main(["append", document, series, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["files"] == 3
    assert summary["arrays"] == [{"path": "image", "shape": {"time": 3, "y": 40, "x": 48}}]
    assert References.open(document).group["image"].shape == (3, 40, 48)


def test_a_refusal_leaves_nothing(series, tmp_path, capsys):
    write(tmp_path / "S_20220601.tif", pixels(5), compression="lzw", extratags=geo_tags(0.0, 0.0))
    document = tmp_path / "doc.json"
    assert main(["stack", series, "-o", str(document)]) == 1
    assert "differ in compression" in capsys.readouterr().err
    assert not document.exists()
    assert main(["stack", series, "-o", str(document), "--on-mismatch", "split"]) == 0
    assert "part_1/image" in capsys.readouterr().out


def test_holes_are_told(series, tmp_path, capsys):
    (tmp_path / "S_20220510.tif").write_bytes(b"no TIFF")
    document = str(tmp_path / "doc.json")
    assert main(["stack", series, "-o", document]) == 1
    assert main(["stack", series, "-o", document, "--allow-holes"]) == 0
    captured = capsys.readouterr()
    told = captured.err
    assert "S_20220510.tif: not a TIFF file" in told
    assert "1 place without a file: time=2022-05-10" in told
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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an image of three pages, and two scenes whose names have dates."""
    monkeypatch.chdir(tmp_path)
    pages = np.arange(3 * 32 * 32, dtype=np.uint16).reshape(3, 32, 32)
    options = {"tile": (16, 16), "photometric": "minisblack", "metadata": None}
    tifffile.imwrite(tmp_path / "image.tif", pages, **options)
    (tmp_path / "scenes").mkdir()
    for day in ("20200101", "20200102"):
        tifffile.imwrite(tmp_path / "scenes" / f"S_{day}.tif", pages[0], **options)
    return tmp_path


def refs(name: str) -> dict:
    return json.loads(Path(name).read_text())["refs"]


def test_scan_takes_what_the_function_takes() -> None:
    options = build_parser()._subparsers._group_actions[0].choices["scan"].options()  # type: ignore[union-attr]
    names = {name for name in inspect.signature(tiffref.scan).parameters if name != "source"}
    spelled = {f"--{name.replace('_', '-')}" for name in names} - {"--storage-options"}
    assert spelled <= set(options)


@pytest.mark.parametrize("key", ["1", "0,2", "1:3", ":2"])
def test_scan_of_some_pages(folder: Path, key: str) -> None:
    assert main(["scan", "image.tif", "--key", key, "-o", "refs.json"]) == 0
    chosen = {"1": 1, "0,2": [0, 2], "1:3": slice(1, 3), ":2": slice(2)}[key]
    expected = tiffref.scan("image.tif", key=chosen).to_kerchunk()["refs"]
    found = refs("refs.json")
    same = {name for name in expected if name != ".zattrs"}
    assert {name: found[name] for name in same} == {name: expected[name] for name in same}


def test_scan_with_values_and_attributes(folder: Path) -> None:
    command = ["scan", "image.tif", "-o", "refs.json", "--fillvalue", "7", "--chunkmode", "tile"]
    attributes = ["--zattrs", "title=cells", "--zattrs", '{"n": [1, 2]}']
    assert main([*command, *attributes]) == 0
    found = refs("refs.json")
    assert json.loads(found["image/.zarray"])["fill_value"] == 7
    root = json.loads(found[".zattrs"])
    assert (root["title"], root["n"]) == ("cells", [1, 2])


def test_strict_refuses_metadata_without_sense(folder: Path) -> None:
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
    folder: Path, command: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    assert tiffref.References.open(name).group.children
    capsys.readouterr()
    assert main(command) == 2
    assert capsys.readouterr().err == (
        f"tiffref: error: {name} exists already; to replace it, use -o {name}\n"
    )


@pytest.mark.parametrize("command", ["scan", "info"])
def test_several_images_suggest_a_stack_or_a_catalog(
    folder: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "a.tif", "b c.tif", "d.tif"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"tiffref: error: tiffref {command} takes one image, got 3",
        "  as one array: tiffref stack a.tif 'b c.tif' ... -o refs.json",
        "  as a catalog: tiffref catalog build a.tif 'b c.tif' ... -o CATALOG",
    ]


def test_dry_runs_write_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    assert main(["scan", "image.tif", "--dry-run"]) == 0
    assert main(["stack", "scenes/S_{time:%Y%m%d}.tif", "--dry-run"]) == 0
    assert main(["catalog", "build", "scenes", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "would write image.json: " in out
    assert "would write stack.json: image (time 2, y 32, x 32), 2 files" in out
    assert "would build catalog: 2 files" in out
    assert sorted(folder.rglob("*")) == before


def test_dry_runs_of_documents_check_and_write_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["scan", "image.tif", "-o", "refs.json", "-q"])
    state = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    moves = ["--from", f"file://{folder.resolve()}/", "--to", "s3://bucket/"]
    assert main(["convert", "refs.json", "refs.parq", "--dry-run"]) == 0
    assert main(["rewrite", "refs.json", *moves, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "would write refs.parq: 1 array" in out
    assert "would write refs.json: 1 file with another address" in out
    # what would fail fails
    assert main(["convert", "refs.json", "refs.parq", "--dry-run", "--zarr-format", "3"]) == 1
    assert main(["rewrite", "refs.json", "--from", "s3://a", "--to", "x", "--dry-run"]) == 2
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == state


def test_info_of_a_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["scan", "image.tif", "-o", "refs.json"])
    main(["stack", "scenes/S_{time:%Y%m%d}.tif", "-o", "cube.json"])
    capsys.readouterr()
    assert main(["info", "refs.json"]) == 0
    of_document = capsys.readouterr().out
    assert main(["info", "image.tif"]) == 0
    of_image = capsys.readouterr().out
    assert of_document.splitlines()[1:] == of_image.splitlines()[1:]
    assert main(["info", "cube.json"]) == 0
    assert "2 files" in capsys.readouterr().out
    assert main(["info", "cube.json", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["sources"]) == 2


def test_info_of_a_document_of_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = tiffref.scan("image.tif").to_kerchunk()
    document["refs"][".zattrs"] = "{}"
    Path("theirs.json").write_text(json.dumps(document))
    assert main(["info", "theirs.json"]) == 0
    out = capsys.readouterr().out
    assert "series 0, references" in out
    assert "uint16" in out


def test_info_of_a_catalog(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    assert main(["catalog", "build", "scenes", "-o", "archive", "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["info", "archive/"]) == 0
    assert "archive/: 2 files, 2 ok" in capsys.readouterr().out


def test_quiet_and_verbose(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "image.tif", "-o", "refs.json", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["scan", "image.tif", "-o", "refs.json", "-v"]) == 0
    assert "tiffref: info: scanning image.tif (" in capsys.readouterr().err
    assert main(["stack", "scenes/*.tif", "-o", "refs.json", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_pattern_is_offered_where_names_have_dates(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stack", "scenes/*.tif", "-o", "refs.json"]) == 0
    assert "note: names look like coordinates; to have axes: --pattern 'S_{time:%Y%m%d}.tif'" in (
        capsys.readouterr().err
    )
    assert main(["stack", "scenes/*.tif", "-o", "r.json", "--pattern", "S_{time:%Y%m%d}.tif"]) == 0
    assert capsys.readouterr().err == ""


def test_every_help_has_examples_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    commands = dict(COMMANDS)
    for name, command in COMMANDS.items():
        commands |= {f"{name} {action}": one for action, one in command.actions.items()}
    for name, command in commands.items():
        assert main([*name.split(), "--help"]) == 0
        assert f"examples:\n{command.examples}" in capsys.readouterr().out
        assert f"tiffref {name}" in command.examples


def test_help_lists_all_presets() -> None:
    from tiffref.sequences.names import PRESETS

    assert f"presets of --pattern: {', '.join(sorted(PRESETS))}" in COMMANDS["stack"].examples


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "chunkmode" in script
    assert "build" in script


def test_completion_of_bash_completes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    asked = f"{script}\nCOMP_WORDS=(tiffref scan --lev); COMP_CWORD=2; _tiffref\n"
    done = subprocess.run(
        ["bash", "-c", asked + 'echo "${COMPREPLY[@]}"'], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("--level\n", "")


def test_a_bug_is_no_traceback_unless_asked_for(folder: Path) -> None:
    code = (
        "import runpy, sys, tiffref.tiff.scan as tiff\n"
        "def scan(*arguments, **options): raise RuntimeError('oh')\n"
        "tiff.scan = scan\n"
        "sys.argv[1:] = ['info', 'image.tif', *sys.argv[1:]]\n"
        "runpy.run_module('tiffref', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "tiffref: error: RuntimeError: oh\n"
        "This is a bug of tiffref: please report it, with what -v shows.\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "-v"], capture_output=True, text=True)
    assert "Traceback" in done.stderr
