"""The command line: what it prints where, its exit codes, and that no user error is a traceback."""

from __future__ import annotations

import functools
import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from range_server import serve

import tiffref
from tiffref.__main__ import program
from tiffref.cli import COMMANDS, main

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def assert_plain_error(err: str, *words: str) -> None:
    """Check that standard error holds one message of ours that names what it must."""
    assert "Traceback" not in err
    assert err.startswith("tiffref: error: "), err
    for word in words:
        assert word in err, err


def files() -> set[str]:
    """List the current folder: an error must leave nothing behind."""
    return {path.name for path in Path().iterdir()}


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


def test_names_outside_the_encoding_of_the_terminal_are_escaped(image: Path) -> None:
    image.rename("日.tif")
    done = subprocess.run(
        [sys.executable, "-m", "tiffref", "info", "日.tif"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(rb"\u65e5.tif, ")


@pytest.mark.parametrize("command", ["info", "scan -o /dev/fd/1"])
def test_closed_output_ends_quietly(command: str, image: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tiffref", *command.split(), str(image)],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("redirect", [">&-", ">/dev/full", ">&- 2>&-"])
@pytest.mark.parametrize("command", ["info", "scan -o -"])
def test_output_that_cannot_be_written_is_an_error(
    command: str, redirect: str, unbuffered: str, image: Path
) -> None:
    code, messages = run_redirected(f"{command} {image} {redirect}", unbuffered)
    assert code == 3
    if "2>" not in redirect:
        assert messages.startswith("tiffref: error: standard output: ")
        assert messages.count("\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["--help", "--version", "scan --help"])
def test_help_that_cannot_be_written_is_an_error(command: str, unbuffered: str) -> None:
    assert run_redirected(f"{command} | true", unbuffered) == (0, "")
    code, messages = run_redirected(f"{command} >/dev/full", unbuffered)
    assert code == 3
    assert messages == "tiffref: error: standard output: No space left on device\n"


def test_without_standard_error_all_else_works(image: Path) -> None:
    assert run_redirected(f"scan {image} -o refs.json 2>&-") == (0, "")
    assert run_redirected("info nosuch.tif 2>&-") == (3, "")


def run_redirected(line: str, unbuffered: str = "") -> tuple[int, str]:
    """Run a command line in a shell; return the exit code, and what standard error got."""
    done = subprocess.run(
        ["sh", "-c", f"{shlex.quote(sys.executable)} -m tiffref {line}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    return done.returncode, done.stderr


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


def test_progress_shows_on_a_terminal_only(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run_with_terminal(["scan", str(image), "-o", "refs.json"])
    assert f"scanning {image}" in text
    assert "writing refs.json" in text
    assert main(["scan", str(image), "-o", "refs.json"]) == 0
    assert capsys.readouterr().err == ""


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
def test_a_document_passed_as_a_tiff_is_named(
    name: str, content: bytes | None, words: list[str], folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if content is not None:
        Path(name).write_bytes(content)
    assert main(["info", name]) in (1, 3)
    assert_plain_error(capsys.readouterr().err, name, *words)


@pytest.mark.parametrize("name", ["x" * 300 + ".tif", "x" * 5000, "*" + "x" * 300 + ".tif"])
@pytest.mark.parametrize(
    "command",
    [
        "info {}",
        "scan {}",
        "stack {}",
        "validate {}.json",
        "catalog build {} -o c",
        "catalog open {}",
    ],
)
def test_names_that_are_too_long(
    command: str, name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.format(name).split()) in (1, 3)
    assert name in capsys.readouterr().err


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


def test_coordinates_are_counted_separately(
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


def test_every_help_has_examples_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    commands = dict(COMMANDS)
    for name, command in COMMANDS.items():
        commands |= {f"{name} {action}": one for action, one in command.actions.items()}
    for name, command in commands.items():
        assert main([*name.split(), "--help"]) == 0
        assert f"examples:\n{command.examples}" in capsys.readouterr().out
        assert f"tiffref {name}" in command.examples


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


def test_a_bug_is_no_traceback_unless_asked_for(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        "This is a bug in tiffref: please report it with the output of -v.\n"
    )
    monkeypatch.setattr("tiffref.tiff.scan.scan", lambda *_, **__: [][1])
    monkeypatch.setattr(sys, "argv", ["tiffref", "info", "image.tif", "-v"])
    with pytest.raises(IndexError):
        program()
    assert sys.excepthook is sys.__excepthook__
