"""`tiffref stack` and `tiffref append`."""

import json

import pytest

from sequences import geo_tags, pixels, write
from tiffref import References
from tiffref.cli import main


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
