"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tiffref.errors import SourceError
from tiffref.io.atomic import open_folder_atomic, watch, write_atomic


def test_a_file_is_replaced_after_the_last_piece(tmp_path: Path) -> None:
    path = tmp_path / "refs.json"
    path.write_bytes(b"old")
    path.chmod(0o640)

    def pieces() -> Iterator[bytes]:
        yield b"n"
        assert path.read_bytes() == b"old"
        yield b"ew"

    write_atomic(path, pieces())
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("name", ["a" * 255, "\N{SATELLITE}" * 63])
def test_names_as_long_as_file_systems_take(tmp_path: Path, name: str) -> None:
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("the file system takes no such names")
    (tmp_path / name).unlink()
    write_atomic(tmp_path / name, [b"file"])
    assert (tmp_path / name).read_bytes() == b"file"
    (tmp_path / name).unlink()
    with open_folder_atomic(tmp_path / name, "a") as folder:
        (folder / "a").touch()
    assert [path.name for path in tmp_path.rglob("*")] == [name, "a"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "refs.json"
    path.write_bytes(b"old")

    def pieces(error: type[BaseException]) -> Iterator[bytes]:
        yield b"half"
        raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            write_atomic(path, pieces(error))
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_link_keeps_pointing_to_the_file(tmp_path: Path) -> None:
    path, link = tmp_path / "refs.json", tmp_path / "link.json"
    path.touch()
    link.symlink_to(path)
    write_atomic(link, [b"new"])
    assert link.is_symlink() and path.read_bytes() == b"new"


def test_a_link_to_a_pipe_is_written_and_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/stdout is a link to a pipe that has no name in any folder."""
    reader, writer = os.pipe()
    link = tmp_path / "out"
    link.symlink_to(f"/dev/fd/{writer}")
    with open(reader, "rb") as got:  # noqa: PTH123
        write_atomic(link, [b"new"])
        os.close(writer)
        assert got.read() == b"new" and link.is_symlink()
    link.unlink()
    link.symlink_to(tmp_path)
    with pytest.raises(SourceError, match="Give the name of a file"):
        write_atomic(link, [])
    assert link.is_symlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="Give the name of a file"):
        write_atomic(".", [])
    assert [*tmp_path.iterdir()] == [link]


def test_urls_and_open_files(tmp_path: Path) -> None:
    write_atomic("memory://x/refs.json", [b"new"])
    assert fsspec.filesystem("memory").cat_file("/x/refs.json") == b"new"
    text, data = io.StringIO(), io.BytesIO()
    for target in (text, data):
        write_atomic(target, [b"new"])
    assert (text.getvalue(), data.getvalue()) == ("new", b"new")


def test_a_write_may_end_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when more than 2 GiB are written at once, or the disk is almost full."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    write_atomic(tmp_path / "refs.json", [b"a long text", b"", b"and another"])
    assert (tmp_path / "refs.json").read_bytes() == b"a long textand another"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no/refs.json", "Make the folder first"),
        ("folder", "name of a file in the folder"),
        ("a\0b", "not a valid file name"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceError, match=f"cannot write the references.*{says}"):
        write_atomic(f"{tmp_path}/{name}", [b"new"])
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]


def test_a_folder_is_replaced_only_by_its_kind(tmp_path: Path) -> None:
    target = tmp_path / "refs.parq"
    for text in ("old", "new"):
        with open_folder_atomic(target, ".zmetadata") as folder:
            (folder / ".zmetadata").write_text(text)
    assert (target / ".zmetadata").read_text() == "new"
    with pytest.raises(ValueError), open_folder_atomic(target, ".zmetadata") as folder:
        raise ValueError
    assert [*tmp_path.iterdir()] == [target]
    (target / ".zmetadata").rename(target / "other")
    with (
        pytest.raises(SourceError, match="exists and holds something else"),
        open_folder_atomic(target, ".zmetadata"),
    ):
        pass


def test_the_marker_of_a_remote_folder_is_put_last() -> None:
    with open_folder_atomic("memory://y/refs.parq", ".zmetadata") as folder:
        (folder / ".zmetadata").write_text("{}")
        (folder / "image").mkdir()
        (folder / "image" / "refs.0.parq").write_text("x")
    found = fsspec.filesystem("memory").find("/y/refs.parq")
    assert found == ["/y/refs.parq/.zmetadata", "/y/refs.parq/image/refs.0.parq"]


def test_a_remote_folder_is_replaced_but_for_files_of_others() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe({"/z/refs.parq/a.tif": b"x", "/z/other/a.parq": b"x"})
    for names in (["refs.0.parq", "refs.1.parq"], ["refs.0.parq"]):
        with open_folder_atomic("memory://z/refs.parq", ".zmetadata") as folder:
            (folder / ".zmetadata").write_text("{}")
            (folder / "image").mkdir()
            for name in names:
                (folder / "image" / name).write_text("x")
    own = ["/z/refs.parq/.zmetadata", "/z/refs.parq/a.tif", "/z/refs.parq/image/refs.0.parq"]
    assert fs.find("/z") == ["/z/other/a.parq", *own]
    with open_folder_atomic("memory://z/other", ".zmetadata") as folder:
        (folder / ".zmetadata").write_text("{}")
        (folder / "refs.0.parq").write_text("x")
    assert fs.exists("/z/other/a.parq")  # nothing says that it is of older references


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_another_process_wrote_is_noticed(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "r"

    def write() -> None:
        if is_folder:
            with open_folder_atomic(path, ".zmetadata") as folder:
                (folder / ".zmetadata").write_bytes(b"same")
        else:
            write_atomic(path, [b"same"])

    write()
    check = watch(f"file://{path}")
    check()
    write()
    with pytest.raises(SourceError, match=r"another process .* Run this again"):
        check()
    watch("memory://r")()
