"""Where a catalog is written, on any file system of fsspec that can write.

Owns what stands for renaming and locks, which object stores have not. Each file is one put, which
object stores do whole or not at all; a folder of several is put with the file that opens it last. A
claim tells others that a build is running. The journal is a row of objects, one for each batch, so
that a build goes on from any machine.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..access.clients import client_errors
from ..errors import CatalogError, unreadable
from .claim import Claim
from .folder import STATE, Held, Holds, explain_output

__all__ = ["RemoteFolder"]

_MAX_PARTS_AT_ONCE = 256
_FLAT = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"})
"""File systems whose folders are but names: to make one would make a bucket."""


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """A folder behind an fsspec URL; `options` are for its file system."""

    address: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def _open(self) -> tuple[Any, str]:
        """Give the file system, which fsspec keeps, and the path of the folder in it."""
        import fsspec

        try:
            fs, root = fsspec.url_to_fs(self.address, **self.options)
        except client_errors() as error:
            raise unreadable(self.address, error, "cannot be opened") from error
        return fs, root.rstrip("/")

    def _explained(self, name: str = "") -> contextlib.AbstractContextManager[None]:
        return explain_output(f"{self.address}/{name}".rstrip("/"), client_errors())

    @contextlib.contextmanager
    def held(self, wait: bool) -> Iterator[Held]:
        fs, root = self._open()
        claim = Claim(fs, f"{root}/{STATE}/claim.json", self.address)
        with self._explained():
            fs.invalidate_cache()
            names = _list(fs, root)
            if names and f"{root}/{STATE}" not in names:
                raise CatalogError(
                    "the folder holds something that is no catalog",
                    url=self.address,
                    got=names[0],
                    hint="Give an empty or new folder.",
                )
            claim.take(wait)
        try:
            with tempfile.TemporaryDirectory(prefix="tiffref-") as temporary:
                journal = Path(temporary, "journal.jsonl")
                with self._explained():
                    parts = sorted(_list(fs, f"{root}/{STATE}/journal"))
                    _gather(fs, parts, journal)
                yield Held(self, journal, lambda data: self._keep(parts, claim, data))
                with self._explained():
                    self._join(parts, claim, journal)
        finally:
            claim.release()

    def _next(self, parts: list[str], claim: Claim) -> str:
        """Name the next part of the journal; not as another build would, that took the claim."""
        claim.check()
        n = int(parts[-1].rpartition("/")[2][:8]) + 1 if parts else 0
        parts.append(f"{self._open()[1]}/{STATE}/journal/{n:08d}-{claim.token}.jsonl")
        return parts[-1]

    def _keep(self, parts: list[str], claim: Claim, data: bytes) -> None:
        fs, _ = self._open()
        with self._explained(STATE):
            _put(fs, {self._next(parts, claim): data})

    def _join(self, parts: list[str], claim: Claim, journal: Path) -> None:
        """Make one part of all: the last counts, so that a kill in between loses nothing."""
        fs, _ = self._open()
        old = list(parts)
        if len(old) > 1:
            _put(fs, {self._next(parts, claim): journal})
            fs.rm(old)

    def read(self, name: str) -> bytes | None:
        fs, root = self._open()
        with self._explained(name):
            try:
                return fs.cat_file(f"{root}/{name}")
            except FileNotFoundError:
                return None

    def put(self, name: str, data: bytes) -> None:
        fs, root = self._open()
        with self._explained(name):
            _put(fs, {f"{root}/{name}": data})

    @contextlib.contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """Give a local path; of a folder, the files at its top are put last."""
        fs, root = self._open()
        with tempfile.TemporaryDirectory(prefix="tiffref-") as folder:
            made = Path(folder, Path(name).name)
            with explain_output(folder):
                yield made
            target = f"{root}/{name}"
            with self._explained(name):
                if not made.is_dir():
                    _put(fs, {target: made})
                    return
                before = set(fs.find(target))
                files = {f"{target}/{file.relative_to(made).as_posix()}": file
                         for file in sorted(made.rglob("*")) if file.is_file()}  # fmt: skip
                for is_last in (False, True):
                    some = {at: f for at, f in files.items() if is_last == (f.parent == made)}
                    _put(fs, some)
                if old := before - set(files):
                    fs.rm(sorted(old))

    def remove(self, name: str) -> None:
        fs, root = self._open()
        with self._explained(name), contextlib.suppress(FileNotFoundError):
            fs.rm(f"{root}/{name}", recursive=name.endswith(".parq"))

    def survey(self) -> Holds:
        """List what is in place once; sizes tell whether it is whole, contents are not read."""
        fs, root = self._open()
        sizes: Counter[str] = Counter()
        with self._explained():
            fs.invalidate_cache()
            for folder in ("references", "combined"):
                for path, info in fs.find(f"{root}/{folder}", detail=True).items():
                    name = path[len(root) + 1 :]
                    whole, parquet, _ = name.rpartition(".parq/")
                    sizes[name if name.endswith(".json") else f"{whole}{parquet[:-1]}"] += info[
                        "size"
                    ]
        return lambda name, size, crc: name in sizes and sizes[name] == size

    def has(self, name: str) -> bool:
        fs, root = self._open()
        with self._explained(name):
            fs.invalidate_cache()
            return fs.exists(f"{root}/{name}")

    def flush(self) -> None:
        """Do nothing: what a store has taken, it keeps."""


def _list(fs: Any, path: str) -> list[str]:
    try:
        names = fs.ls(path, detail=False)
    except FileNotFoundError:
        return []
    return [name.rstrip("/") for name in names if name.rstrip("/") != path]


def _gather(fs: Any, parts: list[str], target: Path) -> None:
    """Put the parts of a journal together, some at a time."""
    with target.open("wb") as file:
        for start in range(0, len(parts), _MAX_PARTS_AT_ONCE):
            some = parts[start : start + _MAX_PARTS_AT_ONCE]
            texts = fs.cat(some, on_error="raise")
            file.writelines(texts[part] for part in some)


def _put(fs: Any, files: Mapping[str, bytes | Path]) -> None:
    """Put files, each in one go."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if not protocols & _FLAT:
        for folder in {path.rpartition("/")[0] for path in files}:
            fs.makedirs(folder, exist_ok=True)
    whole = {path: data for path, data in files.items() if isinstance(data, bytes)}
    if whole:
        fs.pipe(whole)
    if len(whole) < len(files):
        paths = [path for path in files if path not in whole]
        fs.put([str(files[path]) for path in paths], paths)
