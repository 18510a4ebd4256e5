"""Documents of strangers that are appended to, converted or moved gain no access by it.

Each has a secret TIFF in it, outside the folder that it lies in.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from faulty import FaultyServer

import tiffref
from tiffref import catalog
from tiffref.cli import main
from tiffref.errors import UntrustedSource
from tiffref.references import References
from tiffref.zarr import ZarrTiffStore


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make `evil/refs.json`, a sequence of one file in `evil` and one in `home`."""
    for folder in ("evil", "home"):
        (tmp_path / folder).mkdir()
    names = [("evil", "t1"), ("home", "t2"), ("home", "t3")]
    for n, (folder, name) in enumerate(names):
        tifffile.imwrite(tmp_path / folder / f"{name}.tif", np.full((16, 16), n, "u1"))
    files = [str(tmp_path / folder / f"{name}.tif") for folder, name in names[:2]]
    references = tiffref.scan_sequence(files, pattern="t{time}.tif")
    references.write_fsspec(tmp_path / "evil" / "refs.json")
    become_another_user(monkeypatch, tmp_path)
    return tmp_path


def become_another_user(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / f"state-{secrets.token_hex(4)}"))


def test_appending_gives_no_access(place: Path) -> None:
    mine = str(place / "home" / "t3.tif")
    after = tiffref.append_sequence(place / "evil" / "refs.json", [mine])
    assert after.allow is not None and mine in after.allow
    with pytest.raises(UntrustedSource, match="t2"):
        ZarrTiffStore(after)[:]
    np.testing.assert_array_equal(ZarrTiffStore(after)[2], np.full((16, 16), 2))
    after.write_fsspec(place / "evil" / "more.json")
    with pytest.raises(UntrustedSource, match="t2"):
        ZarrTiffStore(place / "evil" / "more.json")[:]
    with pytest.raises(UntrustedSource, match="may not be written to its folder"):
        after.write_fsspec(place / "home" / "refs.json")
    trusted = tiffref.append_sequence(place / "evil" / "refs.json", [mine], allow=str(place))
    assert ZarrTiffStore(trusted)[1].any()


@pytest.mark.parametrize("target", ["refs.json", "refs.parq"])
def test_converting_gives_no_access(place: Path, target: str) -> None:
    if target.endswith(".parq"):
        pytest.importorskip("pyarrow")
    source, beside, home = place / "evil" / "refs.json", place / "evil", place / "home"
    with pytest.raises(UntrustedSource, match="t2"):
        catalog.convert(source, home / target)
    assert not (home / target).exists()
    assert catalog.convert(source, beside / f"2{target}").allow == (f"{beside}/",)
    with pytest.raises(UntrustedSource, match="t2"):
        ZarrTiffStore(beside / f"2{target}")[:]
    with pytest.raises(UntrustedSource, match="may not be written to its folder"):
        catalog.convert(beside / f"2{target}", home / "3.json")
    catalog.convert(source, home / target, allow=str(place))
    assert ZarrTiffStore(home / target, allow=str(place))[:].any()


def test_moving_some_files_moves_no_others(place: Path) -> None:
    source, home = place / "evil" / "refs.json", place / "home"
    with pytest.raises(UntrustedSource, match="t2"):
        catalog.rewrite(source, home / "r.json", {f"{place}/evil": "s3://b"})
    assert catalog.rewrite(source, home / "r.json", {f"{place}/": "s3://b/"}) == 2


def test_references_of_a_document_are_written_where_they_may(place: Path) -> None:
    references = References.from_kerchunk(place / "evil" / "refs.json")
    with pytest.raises(UntrustedSource, match="t2"):
        references.write_fsspec(place / "home" / "refs.json")
    # what the caller calls the files is the caller's own word
    references.write_fsspec(place / "home" / "refs.json", url=str(place))


@pytest.mark.parametrize(
    "command",
    [
        ["convert", "{evil}/refs.json", "{home}/new.json"],
        ["rewrite", "{evil}/refs.json", "--from={evil}", "--to=s3://b", "-o{home}/n.json"],
        ["append", "{evil}/refs.json", "{home}/t3.tif", "-o", "{home}/new.json"],
    ],
)
def test_commands_need_allowed_addresses(
    place: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"evil": place / "evil", "home": place / "home"}
    arguments = [part.format(**names) for part in command]
    assert main(arguments) == 3
    assert "--allow" in capsys.readouterr().err
    assert not (place / "home" / "new.json").exists()
    assert main([*arguments, "--allow", str(place)]) == 0
    written = json.loads(next((place / "home").glob("n*.json")).read_text())
    assert any("t2.tif" in str(ref) for ref in written["refs"].values())


def test_catalogs_give_no_access(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    folder = place / "evil" / "catalog"
    catalog.build([str(place / "evil"), str(place / "home")], folder)
    mine = catalog.open(folder)
    assert mine.allow is None and mine.query(where={"url": mine.urls[0]}).references().allow is None
    become_another_user(monkeypatch, place)
    monkeypatch.chdir(folder)
    for name in (folder, f"{folder}/catalog.parquet", "."):
        found = catalog.open(name)
        with pytest.raises(UntrustedSource, match="evil/t1"):
            found.stack()
        one = found.query(where={"url": str(place / "home" / "t2.tif")})
        assert len(one) == 1
        with pytest.raises(UntrustedSource, match="home/t2"):
            one.open().image.load()
        with pytest.raises(UntrustedSource, match="home/t2"):
            ZarrTiffStore(one.references())[:]
    trusted = catalog.open(folder, allow=str(place / "home")).query(
        where={"url": [str(place / "home" / f"t{n}.tif") for n in (2, 3)]}
    )
    assert trusted.stack().allow == (str(place / "home"),)
    monkeypatch.chdir(place)
    arguments = ["catalog", "open", str(folder), "--where", f"url={place}/home/t2.tif"]
    assert main([*arguments, "-o", str(place / "home" / "r.json")]) == 3
    assert main([*arguments, "-o", str(place / "home" / "r.json"), "--allow", str(place)]) == 0
    assert main(arguments) == 0  # what there is can be told without reading it


def test_an_index_names_no_documents_elsewhere(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow")
    folder = place / "evil" / "catalog"
    catalog.build(str(place / "evil"), folder)
    become_another_user(monkeypatch, place)
    tiffref.scan(place / "home" / "t2.tif").write_fsspec(place / "home" / "refs.json")
    for where in ("../../home/refs.json", "x/../../../home/refs.json"):
        found = catalog.open(folder)
        index = found.table.column_names.index("references")
        forged = found.table.set_column(index, "references", pa.array([where]))
        with pytest.raises(UntrustedSource, match="home/refs"):
            catalog.Catalog(found.folder, forged, None, found.allow).references()


def test_references_are_opened_with_another_list(place: Path) -> None:
    xarray = pytest.importorskip("xarray")
    references = References.from_kerchunk(place / "evil" / "refs.json")
    with pytest.raises(UntrustedSource, match="t2"):
        xarray.open_dataset(references, engine="tiffref").image.load()
    with xarray.open_dataset(references, engine="tiffref", allow=str(place)) as dataset:
        assert dataset.image.values[1].all()
    owned = tiffref.scan(place / "home" / "t2.tif")
    with pytest.raises(UntrustedSource, match="t2"):
        xarray.open_dataset(owned, engine="tiffref", allow="/nowhere").image.load()


class Redirected:
    """A server with a document's file at /data/t1.tif, which later leads to a secret elsewhere."""

    def __init__(self, folder: Path, data: bytes, other: bytes) -> None:
        self.server, self.secret = FaultyServer(), FaultyServer()
        self.allowed = f"{self.server.url}/data"
        self.server.files["/data/t1.tif"] = data
        self.server.files["/data/t2.tif"] = self.server.files["/other/a.tif"] = other
        self.secret.files["/secret"] = other
        self.server.etags = {"/data/t1.tif": "1", "/data/t2.tif": "2", "/other/a.tif": "3"}
        references = tiffref.scan_sequence([f"{self.allowed}/t1.tif"], pattern="t{time}.tif")
        references.write_fsspec(folder / "refs.json")
        self.document = folder / "refs.json"

    def lead(self, name: str, target: str) -> None:
        self.server.redirects[name] = target

    def close(self) -> None:
        self.server.close()
        self.secret.close()


@pytest.fixture
def redirected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, other: bytes
) -> Iterator[Redirected]:
    made = Redirected(tmp_path, data, other)
    become_another_user(monkeypatch, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("place", ["another server", "outside the prefix"])
def test_refreshing_follows_no_redirect_out(redirected: Redirected, place: str) -> None:
    document, before = redirected.document, redirected.document.read_bytes()
    target = f"{redirected.secret.url}/secret" if place == "another server" else "/other/a.tif"
    redirected.lead("/data/t1.tif", target)
    with pytest.raises(UntrustedSource, match="redirected"):
        tiffref.refresh(document, allow=redirected.allowed)
    assert document.read_bytes() == before
    assert redirected.secret.requests == []
    assert "/other/a.tif" not in [path for _, path in redirected.server.requests]
    everywhere = [redirected.server.url, redirected.secret.url]
    tiffref.refresh(document, allow=everywhere)
    assert redirected.secret.requests or place != "another server"


def test_refreshing_follows_redirects_inside(redirected: Redirected) -> None:
    redirected.lead("/data/t1.tif", "/data/t2.tif")
    assert tiffref.refresh(redirected.document, allow=redirected.allowed).accepted


@pytest.mark.parametrize("name", ["t1", "t2"])
def test_appending_follows_no_redirect_out(redirected: Redirected, name: str) -> None:
    """t1 is in the sequence, and is asked whether it has changed; t2 is new."""
    redirected.lead(f"/data/{name}.tif", f"{redirected.secret.url}/secret")
    files = [f"{redirected.allowed}/{name}.tif"]
    with pytest.raises(UntrustedSource, match="redirected"):
        tiffref.append_sequence(redirected.document, files, allow=redirected.allowed)
    assert redirected.secret.requests == []
    if name == "t2":
        everywhere = [redirected.allowed, redirected.secret.url]
        tiffref.append_sequence(redirected.document, files, allow=everywhere)


@pytest.mark.filterwarnings("ignore:.*not in the OME-XML")
def test_refreshing_opens_no_file_that_a_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An OME-TIFF that was honest when it was scanned names a secret one later."""
    (tmp_path / "evil").mkdir()
    path, secret = tmp_path / "evil" / "a.ome.tif", tmp_path / "secret.ome.tif"
    for one in (path, secret):
        tifffile.imwrite(one, np.zeros((16, 16), "u1"), ome=True, metadata={"axes": "YX"})
    tiffref.scan(path).write_fsspec(tmp_path / "evil" / "refs.json")
    become_another_user(monkeypatch, tmp_path)
    with tifffile.TiffFile(secret) as tif:
        xml = tif.ome_metadata
    uuid = re.search(r'UUID="(urn:uuid:[^"]+)"', xml).group(1)
    data = f'<TiffData IFD="0"><UUID FileName="../{secret.name}">{uuid}</UUID></TiffData>'
    xml = xml.replace(uuid, f"{uuid}0").replace('<TiffData IFD="0" PlaneCount="1"/>', data)
    tifffile.imwrite(path, np.ones((16, 16), "u1"), description=xml, metadata=None)
    assert secret.name in str(tiffref.scan(path).sources)
    with pytest.raises(UntrustedSource, match="not allowed"):
        tiffref.refresh(tmp_path / "evil" / "refs.json")
