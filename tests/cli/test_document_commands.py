"""`tiffref convert`, `rewrite` and `validate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tiffref.cli import main

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def test_convert_and_rewrite_print_text_or_json(
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
        ([*moved, "-o", "2.json"], "1 file with a new address", {"moved": 1}),
    ):
        capsys.readouterr()
        assert main(command) == 0
        assert capsys.readouterr().out == f"2.json: {words}\n"
        assert main([*command, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"output": "2.json", **facts}


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
def test_a_tiff_is_not_a_document(
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


def test_dry_runs_of_documents_check_and_write_nothing(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["scan", "image.tif", "-o", "refs.json", "-q"])
    state = {path: path.stat().st_mtime_ns for path in workspace.rglob("*")}
    moves = ["--from", f"file://{workspace.resolve()}/", "--to", "s3://bucket/"]
    assert main(["convert", "refs.json", "refs.parq", "--dry-run"]) == 0
    assert main(["rewrite", "refs.json", *moves, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "would write refs.parq: 1 array" in out
    assert "would write refs.json: 1 file with a new address" in out
    # what would fail fails
    assert main(["convert", "refs.json", "refs.parq", "--dry-run", "--zarr-format", "3"]) == 1
    assert main(["rewrite", "refs.json", "--from", "s3://a", "--to", "x", "--dry-run"]) == 2
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*")} == state
