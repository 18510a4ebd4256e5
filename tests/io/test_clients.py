"""Requests in the loop of a file system end with the program."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import fsspec.asyn
import pytest

from tiffref.errors import SourceError
from tiffref.io import clients


def test_a_request_that_begins_while_the_program_is_interrupted_is_given_up(monkeypatch):
    interrupted, begin = threading.Event(), asyncio.run_coroutine_threadsafe

    def interrupt_meanwhile(*arguments: Any) -> Any:
        interrupted.set()
        return begin(*arguments)

    monkeypatch.setattr(clients, "_interrupted", interrupted)
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupt_meanwhile)
    fs = SimpleNamespace(loop=fsspec.asyn.get_loop())
    with pytest.raises(SourceError, match="interrupted"):
        clients.wait_for(fs, asyncio.sleep, 30)
    assert not clients._requests
