"""Who builds a catalog that lies where there are no locks.

Owns the claim: a small object that the builder makes, beats while it builds, and removes. Whoever
finds one of a process that is gone, or that does not beat, takes it over. It is made by a put that
fails if there is one, where the store knows that (S3, GCS, Azure); elsewhere two builds that start
in the same moment may both believe that it is theirs. The one whose claim was overwritten finds out
at its next beat, and stops; what both have written is whole, and the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from ..access.clients import client_errors
from ..errors import CatalogError
from .folder import running_error, who_am_i

__all__ = ["Claim"]

_BEAT_S = 10.0
_MISSED = 3
"""Beats that a claim may miss before it is taken over."""


class Claim:
    """A claim on the catalog of an address, at a path of its file system."""

    def __init__(self, fs: Any, path: str, address: str) -> None:
        self._fs, self._path, self._address = fs, path, address
        self.token = secrets.token_hex(4)
        self._n_beats = 0
        self._ended = threading.Event()
        self._lost: str | None = None
        self._beats = threading.Thread(target=self._beat, daemon=True, name="tiffref-claim")

    def take(self, wait: bool) -> None:
        """Take the claim, and beat from now on.

        Raises
        ------
        CatalogError
            If somebody else holds it, unless `wait`.
        """
        while not self._make():
            other = self._read()
            if other is None:
                continue
            if self._is_dead(other):
                self._write()
                if self._is_mine():
                    break
            elif not wait:
                raise running_error(self._address, str(other.get("who")))
            time.sleep(_BEAT_S / 10)
        self._beats.start()

    def release(self) -> None:
        """Give the claim up, if it is still held."""
        self._ended.set()
        self._beats.join()
        with contextlib.suppress(*client_errors()):
            if self._is_mine():
                self._fs.rm_file(self._path)

    def check(self) -> None:
        """Raise `CatalogError` if somebody else has taken the claim."""
        if self._lost is not None:
            raise CatalogError(
                "another build has taken over this catalog",
                url=self._address,
                got=self._lost,
                hint="Wait for its end, and start this one again if files are missing.",
            )

    def _make(self) -> bool:
        """Make the claim where there is none."""
        if self._read() is not None:
            return False
        try:
            self._fs.pipe_file(self._path, self._text(), mode="create")
        except (NotImplementedError, TypeError, ValueError):
            self._write()  # a file system that does not know this
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            if self._read() is None:
                raise
        return self._is_mine()

    def _is_dead(self, other: Mapping[str, Any]) -> bool:
        """Say whether the process of a claim is gone."""
        if other.get("host") == socket.gethostname() and not _is_running(other.get("pid")):
            return True
        # clocks of two machines may differ: watch for a beat instead of comparing times
        for _ in range(_MISSED):
            time.sleep(_BEAT_S)
            if self._read() != other:
                return False
        return True

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_S):
            with contextlib.suppress(*client_errors()):  # a network that fails may be back soon
                now = self._read()
                if now is None or now.get("token") != self.token:
                    self._lost = "nobody" if now is None else str(now.get("who"))
                    return
                self._n_beats += 1
                self._write()

    def _is_mine(self) -> bool:
        found = self._read()
        return found is not None and found.get("token") == self.token

    def _read(self) -> dict[str, Any] | None:
        try:
            return json.loads(self._fs.cat_file(self._path))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}

    def _write(self) -> None:
        self._fs.pipe_file(self._path, self._text())

    def _text(self) -> bytes:
        found = {"token": self.token, "beat": self._n_beats, "who": who_am_i(),
                 "host": socket.gethostname(), "pid": os.getpid()}  # fmt: skip
        return json.dumps(found).encode()


def _is_running(pid: Any) -> bool:
    if os.name != "posix" or not isinstance(pid, int):
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
