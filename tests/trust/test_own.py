"""Documents of one's own open wherever their files lie; those of others and changed ones do not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import tiffref
from tiffref import catalog
from tiffref.errors import UntrustedSource
from tiffref.formats.provenance import NO_SEAL
from tiffref.io import allow
from tiffref.references import References
from tiffref.zarr import ZarrTiffStore

PIXELS = np.arange(320, dtype="u2").reshape(16, 20)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Make TIFFs in `data` and `secret`, and an empty `refs` for documents."""
    for folder in ("data", "secret", "refs"):
        (tmp_path / folder).mkdir()
    for name in ("data/a.tif", "data/b.tif", "secret/a.tif"):
        tifffile.imwrite(tmp_path / name, PIXELS, tile=(16, 16), metadata=None)
        os.utime(tmp_path / name, (1e9, 1e9))
    return tmp_path


def as_json(references: References, place: Path) -> Any:
    references.write_fsspec(place / "refs" / "r.json")
    return place / "refs" / "r.json"


def as_json_v3(references: References, place: Path) -> Any:
    references.write_fsspec(place / "refs" / "r.json", zarr_format=3)
    return place / "refs" / "r.json"


def as_version_0(references: References, place: Path) -> Any:
    references.write_fsspec(place / "refs" / "r.json", version=0)
    return place / "refs" / "r.json"


def as_template(references: References, place: Path) -> Any:
    references.write_fsspec(place / "refs" / "r.json", templatename="u", groupname="g")
    return place / "refs" / "r.json"


def as_dictionary(references: References, place: Path) -> Any:
    return references.to_kerchunk()


def as_json_by_others(references: References, place: Path) -> Any:
    """Write the dictionary as everybody does: other spaces, the same text."""
    (place / "refs" / "r.json").write_text(json.dumps(references.to_kerchunk(), indent=1))
    return place / "refs" / "r.json"


def as_parquet(references: References, place: Path) -> Any:
    pytest.importorskip("pyarrow")
    references.to_parquet(place / "refs" / "r.parq", record_size=2)
    return place / "refs" / "r.parq"


WRITERS: list[Callable[[References, Path], Any]] = [
    as_json, as_json_v3, as_version_0, as_template, as_dictionary, as_json_by_others, as_parquet
]  # fmt: skip


def refuses(document: Any, **options: Any) -> None:
    with pytest.raises(UntrustedSource, match="allow="):
        ZarrTiffStore(document, **options)[...]


@pytest.mark.parametrize("write", WRITERS)
def test_own_documents_open(place: Path, write: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [str(place / "data" / f"{name}.tif") for name in "ab"]
    for references in (tiffref.scan(files[0]), tiffref.scan_sequence(files)):
        document = write(references, place)
        assert References.open(document).allow is None
        pixels = ZarrTiffStore(document)[...]
        assert (pixels == PIXELS).all()
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "other"))
    refuses(document)


def test_own_documents_open_in_another_process(place: Path) -> None:
    document = as_json(tiffref.scan(place / "data" / "a.tif"), place)
    code = "import sys, tiffref.zarr; print(tiffref.zarr.ZarrTiffStore(sys.argv[1])[...].sum())"
    command = [sys.executable, "-c", code, str(document)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == PIXELS.sum()


def test_an_archive_of_many_files(place: Path) -> None:
    """Large documents are read by columns, and the digest is the same by either way."""
    names = []
    for n in range(30):
        names.append(str(place / "data" / f"t{n:03}.tif"))
        tifffile.imwrite(names[-1], np.full((512, 512), n, "u1"), tile=(16, 16), metadata=None)
    references = tiffref.scan_sequence(names)
    document = as_json(references, place)
    assert document.stat().st_size > 1 << 20
    assert References.open(document).allow is None
    assert References.open(json.loads(document.read_text())).allow is None


def change_address(text: str) -> str:
    return text.replace("/data/a.tif", "/secret/a.tif")


def change_offset(text: str) -> str:
    document = json.loads(text)
    document["refs"]["image/0.0"][1] += 2
    return json.dumps(document)


def add_a_chunk(text: str) -> str:
    document = json.loads(text)
    document["refs"]["image/0.1"] = document["refs"]["image/0.0"]
    return json.dumps(document)


def inline_a_chunk(text: str) -> str:
    document = json.loads(text)
    document["refs"]["image/0.1"] = "base64:" + "AAAA" * 170 + "AAA="
    return json.dumps(document)


def change_attribute(text: str) -> str:
    return text.replace("_ARRAY_DIMENSIONS", "_ARRAY_DIMENSION")


def forge_seal(text: str) -> str:
    return re.sub("[0-9a-f]{64}", "ab" * 32, text)


def erase_seal(text: str) -> str:
    return re.sub("[0-9a-f]{64}", NO_SEAL, text)


@pytest.mark.parametrize(
    "change",
    [change_address, change_offset, add_a_chunk, inline_a_chunk, change_attribute, forge_seal,
     erase_seal],
)  # fmt: skip
def test_changed_documents_lose_their_seal(place: Path, change: Callable[[str], str]) -> None:
    document = as_json(tiffref.scan(place / "data" / "a.tif"), place)
    text = document.read_text()
    assert References.open(document).allow is None
    document.write_text(change(text))
    assert References.open(document).allow == (f"{place}/refs/",)
    refuses(document)
    document.write_text(text)
    assert References.open(document).allow is None


def test_a_seal_is_good_for_one_document(place: Path) -> None:
    ours = as_dictionary(tiffref.scan(place / "data" / "a.tif"), place)
    theirs = json.loads(change_address(json.dumps(ours)))
    refuses(theirs)
    theirs["refs"][".zattrs"] = ours["refs"][".zattrs"]
    refuses(theirs)
    ours["refs"]["more/.zarray"] = ours["refs"]["image/.zarray"]
    ours["refs"]["more/0.0"] = [f"file://{place}/secret/a.tif", 8, 512]
    refuses(ours, series=0)


@pytest.mark.parametrize("change", ["zmetadata", "record", "swapped"])
def test_changed_parquet_loses_its_seal(place: Path, change: str) -> None:
    folder = as_parquet(tiffref.scan(place / "data" / "a.tif"), place)
    assert References.open(folder).allow is None
    if change == "zmetadata":
        text = (folder / ".zmetadata").read_text()
        (folder / ".zmetadata").write_text(text.replace('"record_size": 2', '"record_size": 3'))
    else:
        tiffref.scan(place / "secret" / "a.tif").to_parquet(place / "theirs.parq", record_size=2)
        record = place / "theirs.parq" / "image" / "refs.0.parq"
        shutil.copy(record, folder / "image" / "refs.0.parq")
    refuses(folder)


def test_links_lead_where_they_led(place: Path) -> None:
    link, folder = place / "link.tif", place / "folder"
    link.symlink_to(place / "data" / "a.tif")
    folder.symlink_to(place / "data")
    for name in (link, folder / "b.tif", place / "data" / "a.tif"):
        document = as_json(tiffref.scan(name), place)
        assert References.open(document).allow is None, name
    through = as_json(tiffref.scan(link), place)
    link.unlink()
    link.symlink_to(place / "secret" / "a.tif")
    refuses(through)
    through = as_json(tiffref.scan(folder / "b.tif"), place)
    folder.unlink()
    folder.symlink_to(place / "secret")
    assert References.open(through).allow is not None
    plain = as_json(tiffref.scan(place / "data" / "a.tif"), place)
    (place / "data" / "a.tif").unlink()
    (place / "data" / "a.tif").symlink_to(place / "secret" / "a.tif")
    refuses(plain)


def test_relative_addresses_are_those_of_any_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place / "data")
    tiffref.scan("a.tif").write_fsspec(place / "refs" / "r.json", url="")
    assert References.open(place / "refs" / "r.json").allow is not None
    refuses(place / "refs" / "r.json")
    tiffref.scan("a.tif").write_fsspec(place / "data" / "r.json", url="")
    assert (ZarrTiffStore(place / "data" / "r.json")[...] == PIXELS).all()
    tiffref.scan("a.tif").write_fsspec(place / "refs" / "r.json")
    assert References.open(place / "refs" / "r.json").allow is None


def test_documents_of_other_places_are_ours_too(place: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/own/a.tif", (place / "data" / "a.tif").read_bytes())
    document = as_json(tiffref.scan("memory://own/a.tif"), place)
    assert (ZarrTiffStore(document)[...] == PIXELS).all()
    document.write_text(document.read_text().replace("own/a.tif", "two/a.tif"))
    refuses(document)
    fs.rm("/own", recursive=True)


def test_documents_derived_from_ours_are_sealed(place: Path) -> None:
    pytest.importorskip("pyarrow")
    document = as_json(tiffref.scan_sequence([str(place / "data" / "a.tif")]), place)
    for target in ("c.parq", "c.json"):
        assert catalog.convert(document, place / "refs" / target).allow is None
        assert References.open(place / "refs" / target).allow is None
    moved = place / "refs" / "m.json"
    catalog.rewrite(document, moved, {str(place / "data"): str(place / "secret")})
    assert References.open(moved).allow is None
    theirs = json.loads(change_address(document.read_text()))
    references = References.open(theirs, allow=str(place))
    references.write_fsspec(place / "refs" / "t.json")
    refuses(place / "refs" / "t.json")


def test_catalogs_of_ones_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    folder = place / "refs" / "catalog"
    files = [str(place / "data" / f"{name}.tif") for name in "ab"]
    catalog.build(files, folder, stack=True, format="parquet")
    found = catalog.open(folder)
    assert found.allow is None and found.stack().allow is None
    assert found.query(where={"url": files[0]}).references().allow is None
    assert References.open(folder / found.combined()[0]["path"]).allow is None
    index = folder / "catalog.parquet"
    kept = index.read_bytes()
    shutil.copy(index, folder / "copy")
    catalog.build([str(place / "secret" / "a.tif")], place / "refs" / "theirs")
    shutil.copy(place / "refs" / "theirs" / "catalog.parquet", index)
    assert catalog.open(folder).allow == (f"{folder}/",)
    index.write_bytes(kept)
    assert catalog.open(folder).allow is None
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "other"))
    assert catalog.open(folder).allow == (f"{folder}/",)
    monkeypatch.setenv("TIFFREF_ALLOW", f"{place}/data/")
    assert (catalog.open(folder).stack().allow or ())[1:] == (f"{place}/data/",)


def test_the_environment_allows(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = as_json(tiffref.scan(place / "data" / "a.tif"), place)
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "other"))
    refuses(document)
    monkeypatch.setenv("TIFFREF_ALLOW", f"s3://bucket/ , {place}/data/")
    assert (ZarrTiffStore(document)[...] == PIXELS).all()
    refuses(document, allow=[str(place / "refs")])


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no modes of files")
def test_keys_that_others_could_have_are_not_used(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    document = as_json(tiffref.scan(place / "data" / "a.tif"), place)
    key = place / "state" / "tiffref" / "key"
    assert key.stat().st_mode & 0o777 == 0o600 and key.parent.stat().st_mode & 0o777 == 0o700
    assert References.open(document).allow is None
    key.chmod(0o644)
    assert References.open(document).allow is not None
    with pytest.raises(UntrustedSource, match=r"can be read or written by others \(chmod 600"):
        ZarrTiffStore(document)[...]
    key.chmod(0o600)
    os.link(key, place / "second")
    assert References.open(document).allow is not None
    (place / "second").unlink()
    assert References.open(document).allow is None
    key.rename(place / "moved")
    key.symlink_to(place / "moved")
    assert References.open(document).allow is not None
    key.unlink()
    key.write_bytes(b"short")
    key.chmod(0o600)
    assert References.open(document).allow is not None
    if os.geteuid() == 0:
        (place / "moved").rename(key)
        os.chown(key, 65534, 65534)
        assert References.open(document).allow is not None


def test_without_a_home_nothing_is_sealed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "file").write_text("no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "file"))
    document = as_json(tiffref.scan(place / "data" / "a.tif"), place)
    assert NO_SEAL in document.read_text()
    refuses(document)
    assert allow.make_seal(bytes(32)) is None and not allow.is_own_seal(NO_SEAL, bytes(32))


@pytest.mark.parametrize("kind", ["relative", "empty", "nobody's", "no folder", "unset"])
def test_home_directories_of_all_kinds(
    place: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Where no key can be, documents are written all the same, and the error says why."""
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.chdir(place)
    (place / "file").write_text("no folder")
    if kind == "unset":
        pwd = pytest.importorskip("pwd")
        monkeypatch.delenv("HOME", raising=False)
        home = pwd.struct_passwd(("me", "", os.geteuid(), 0, "", str(place / "home"), ""))
        monkeypatch.setattr(pwd, "getpwuid", lambda number: home)
    else:
        homes = {"relative": "home", "empty": "", "nobody's": "/proc/none", "no folder": "file"}
        home = homes[kind] if kind != "no folder" else str(place / "file")
        monkeypatch.setenv("HOME", home)
    document = as_json(tiffref.scan(place / "data" / "a.tif"), place)
    if kind == "unset":
        assert (ZarrTiffStore(document)[...] == PIXELS).all()
        return
    assert NO_SEAL in document.read_text()
    # what root cannot write to is not told by its access rights
    why = "" if kind == "nobody's" else "Your own documents are not recognized"
    with pytest.raises(UntrustedSource, match=rf"allow=.*{why}"):
        ZarrTiffStore(document)[...]
    assert not (place / "home").exists() and not list(place.glob("**/key"))


def test_moved_and_copied_documents_are_ours(place: Path) -> None:
    document = as_json(tiffref.scan(place / "data" / "a.tif"), place)
    (place / "elsewhere").mkdir()
    for move in (shutil.copy, shutil.move):
        after = move(document, place / "elsewhere" / f"{move.__name__}.json")
        assert (ZarrTiffStore(after)[...] == PIXELS).all()


def test_documents_of_another_user_reveal_no_keys(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = as_json(tiffref.scan(place / "data" / "a.tif"), place)
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "other"))
    for _ in range(2):  # without a key, and with one
        with pytest.raises(UntrustedSource) as caught:
            ZarrTiffStore(document)[...]
        assert "allow=" in str(caught.value) and "recognized" not in str(caught.value)
        assert allow.make_seal(bytes(32))


_MAKE = """
import os, sys, time
from tiffref.io.allow import make_seal
open(sys.argv[1], "w").close()
while not os.path.exists(sys.argv[2]):
    time.sleep(0.001)
print(make_seal(bytes(32)))
"""


def test_many_processes_make_one_key(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    names = [place / f"ready{n}" for n in range(6)]
    command = [sys.executable, "-c", _MAKE]
    makers = [subprocess.Popen([*command, str(name), str(place / "go")], stdout=subprocess.PIPE,
                               text=True) for name in names]  # fmt: skip
    while not all(name.exists() for name in names):
        assert all(maker.poll() is None for maker in makers)
        time.sleep(0.01)
    (place / "go").touch()
    seals = {maker.communicate()[0].strip() for maker in makers}
    assert seals == {allow.make_seal(bytes(32))}
    assert [one.name for one in (place / "state" / "tiffref").iterdir()] == ["key"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no modes of files")
def test_a_key_whose_maker_was_killed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its temporary name still; a second name elsewhere is another matter."""
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    made = allow.make_seal(bytes(32))
    key = place / "state" / "tiffref" / "key"
    os.link(key, key.with_name("key.0123abcd"))
    assert allow.make_seal(bytes(32)) == made
    assert list(key.parent.iterdir()) == [key]
    os.link(key, place / "second")
    assert allow.make_seal(bytes(32)) is None
    assert "hard link" in (allow.key_problem() or "")
