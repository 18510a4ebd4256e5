"""Work to an executor, and what becomes of it when a worker dies.

Owns how many pieces are in flight, and the search for the one that kills its worker: what was lost
is done again, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..errors import CatalogError
from .executors import Pool

__all__ = ["Handing"]

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 3
"""Pieces in flight for each worker: enough that none waits, and few in memory."""
_STRIKES = 2
"""How often a piece may be at work when its worker dies, before it is taken for the cause."""


@dataclass(slots=True)
class Handing(Generic[T, R]):
    """How pieces of work are handed out.

    Attributes
    ----------
    pool
        Who does them.
    run
        Does one, in a worker.
    take
        Called here with what it gave.
    split
        Gives the smallest pieces that one is made of.
    lost
        Called here with the smallest piece that cannot be done, and what its worker died of.
    """

    pool: Pool
    run: Callable[[T], R]
    take: Callable[[R], None]
    split: Callable[[T], Iterable[T]]
    lost: Callable[[T, BaseException], None]
    _running: dict[Future[R], T] = field(default_factory=dict)

    def work(self, pieces: Iterable[T]) -> None:
        """Hand out all pieces, a few ahead of the workers, and take what comes back.

        Raises
        ------
        CatalogError
            If what a worker does cannot be written, or the executor takes no more work.
        """
        waiting = iter(pieces)
        orphans: list[T] = []
        while True:
            while len(self._running) < _AHEAD * self.pool.n_workers:
                if (piece := next(waiting, None)) is None:
                    break
                if not self._submit(piece):
                    orphans.append(piece)
                    break
            if not self._running:
                if not orphans:
                    return
                self._alone(orphans)
                orphans = []
                continue
            ended, _ = wait(self._running, return_when=FIRST_COMPLETED)
            if any(isinstance(future.exception(), BrokenExecutor) for future in ended):
                wait(self._running)  # a pool that has lost a worker gives up all it was given
                ended = set(self._running)
            orphans += [piece for future in ended if (piece := self._finish(future)) is not None]

    def _submit(self, piece: T) -> bool:
        try:
            self._running[self.pool.executor.submit(self.run, piece)] = piece
        except (BrokenExecutor, RuntimeError):  # RuntimeError: shut down by its owner
            return False
        return True

    def _finish(self, future: Future[R]) -> T | None:
        """Take what a piece gave; give it back if its worker did not live to tell."""
        piece = self._running.pop(future)
        error = future.exception()
        if isinstance(error, CatalogError):
            raise error
        if error is not None:
            return piece
        self.take(future.result())
        return None

    def _alone(self, lost: Iterable[T]) -> None:
        """Do pieces one at a time, and nothing else: which one kills its worker is then known."""
        self.pool.revive()
        for piece in lost:
            for single in self.split(piece):
                self._one(single)

    def _one(self, single: T) -> None:
        error: BaseException | None = None
        for _ in range(_STRIKES):
            if not self._submit(single):
                raise CatalogError(
                    "the executor takes no more work",
                    got=None if error is None else f"{type(error).__name__}: {error}",
                    hint="Start the build again: it goes on where it stopped.",
                )
            (future,) = self._running
            error = future.exception()
            if self._finish(future) is None:
                return
            if not isinstance(error, BrokenExecutor):
                break
            self.pool.revive()
        assert error is not None
        self.lost(single, error)
