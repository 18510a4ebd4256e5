"""Names and texts of others that would tell a terminal what to do are spelled in what is said."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tiffref.cli import main
from tiffref.errors import TiffrefError
from tiffref.references import References
from tiffref.zarr import ZarrTiffStore

ORDERS = "\x1b]0;mine\x07\x1b[2J\r\n\u202e\x9b31m"
"""Another title, an empty screen, another line, text from right to left, red."""
BAD = frozenset("\x1b\x07\r\u202e\x9b")
ARRAY = {"zarr_format": 2, "shape": [2], "chunks": [2], "dtype": "<f8", "order": "C",
         "fill_value": None, "filters": None, "compressor": None}  # fmt: skip


def document(url: str = "/etc/x", name: str = "a", **array: Any) -> dict[str, Any]:
    refs = {".zgroup": '{"zarr_format":2}', f"{name}/.zarray": json.dumps({**ARRAY, **array}),
            f"{name}/0": [url, 0, 16]}  # fmt: skip
    return {"version": 1, "refs": refs}


DOCUMENTS = {
    "address": document(f"https://host/{ORDERS}"),
    "path": document(f"/tmp/{ORDERS}"),
    "array": document(name=f"b{ORDERS}"),
    "codec": document(compressor={"id": f"x{ORDERS}"}),
    "type": document(dtype=f"<f8{ORDERS}"),
}
COMMANDS = (["info"], ["info", "--json"], ["validate"], ["validate", "--untrusted"],
            ["validate", "--json"], ["refresh"])  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_terminal_escapes_in_documents(
    tmp_path: Path, name: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "refs.json").write_text(json.dumps(DOCUMENTS[name]))
    main([*command, str(tmp_path / "refs.json")])
    said = "".join(capsys.readouterr())
    assert said and not BAD & set(said)
    assert not any(line.startswith("\u202e") for line in said.splitlines())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_terminal_escapes_in_errors(name: str) -> None:
    try:
        references = References.from_kerchunk(DOCUMENTS[name], allow=[])
        references.to_kerchunk()
        ZarrTiffStore(references)[...]
    except TiffrefError as error:
        assert not BAD & set(str(error)) and "\n" not in str(error)
    else:
        assert name == "array"


@pytest.mark.parametrize(
    "arguments",
    [["validate", "a.json", ORDERS], [ORDERS], ["catalog", ORDERS], ["info", f"--{ORDERS}"],
     ["scan", "a.tif", "--level", ORDERS], ["scan", "a.tif", "--axes", ORDERS]],
)  # fmt: skip
def test_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The shell makes arguments of the names of files: `tiffref validate *.json`."""
    assert main(arguments) == 2
    assert not BAD & set(capsys.readouterr().err)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("command", [["info"], ["info", "--json"], ["scan", "-v", "--dry-run"]])
def test_files(tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"a{ORDERS}.tif"
    tifffile.imwrite(path, np.zeros((8, 8), "u1"), metadata=None, software="\x1b]0;mine\x07")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main([*command, str(path)])
    assert not BAD & set("".join(capsys.readouterr()))
