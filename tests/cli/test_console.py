"""What the command line says of wrong arguments, and how it spells those of Python."""

from __future__ import annotations

import pytest

from tiffref.cli import build_parser, main
from tiffref.cli.console import name_options


@pytest.mark.parametrize(
    ("arguments", "program", "text"),
    [
        ("scan a.tif -o a.json --sries 1", "scan", "unknown option --sries; did you mean --series"),
        ("scan a.tif -o a.json --lvl=1", "scan", "unknown option --lvl; did you mean --level?"),
        ("scan a.tif --outptu a.json", "scan", "unknown option --outptu; did you mean --output?"),
        ("scan a.tif --quite", "scan", "unknown option --quite; did you mean --quiet?"),
        ("scan a.tif -o a.json -w", "scan", "unknown option -w\n"),
        ("info a.tif --level 1", "info", "unknown option --level\n"),
        ("open a.json", "", "unknown command open; choose from info, scan,"),
        ("convert a.json b.json c.json", "convert", "unexpected argument: c.json"),
        ("catalog query images --wher=a=b --xyz", "catalog query", "unknown option --xyz\n"),
        ("--xyz scan a.tif", "", "unknown option --xyz; options of a command come after it\n"),
        ("-q scan a.tif", "", "unknown option -q; options of a command come after it\n"),
        ("catalog --jsn query a", "catalog", "unknown option --jsn; options of a command come"),
        ("scan a.tif --level x", "scan", "argument --level: 'x' is not a whole number\n"),
    ],
)
def test_unknown_options_are_named(
    arguments: str, program: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    told = capsys.readouterr().err
    assert told.startswith("tiffref: error: ")
    assert told.endswith(f"See {f'tiffref {program}'.strip()} --help.\n")
    assert f"tiffref: error: {text}" in told


def test_bounds_may_begin_with_a_minus() -> None:
    for bounds in (["--bounds", "-10.5,40,5,50"], ["--bounds=-10.5,40,5,50"]):
        parsed = build_parser().parse_args(["catalog", "query", *bounds, "images"])
        assert parsed.bounds == (-10.5, 40.0, 5.0, 50.0)
    parsed = build_parser().parse_args(["scan", "a.tif", "-o", "-", "--series", "-1"])
    assert (parsed.series, parsed.output) == (-1, "-")


@pytest.mark.parametrize("arguments", [[], ["catalog"]])
def test_without_a_command_help_is_shown(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    for line in ("usage: tiffref", "show this help message and exit"):
        assert line in captured.err


def test_arguments_of_python_are_spelled_as_options() -> None:
    command = build_parser().parse_args(["catalog", "open", "images"]).parser
    assert "--allow" in command.options()
    text = "If you trust this location: allow=['/my data/']."
    assert name_options(text, command.options()) == (
        "If you trust this location: --allow '/my data/'."
    )
    assert name_options(text, []) == text
    text = "Or use fields: concat={'row': 'y', 'column': 'x'}."
    assert name_options(text, ["--concat"]) == ("Or use fields: --concat row=y --concat column=x.")
    text = "level=2 is not series=0: choose with level=."
    assert name_options(text, ["--level"]) == "--level 2 is not series=0: choose with --level."
    assert name_options("Pass a=True, not b=True.", ["--b"]) == "Pass a=True (in Python), not --b."
