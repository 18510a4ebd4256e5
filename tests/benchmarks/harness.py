"""Measure two or more ways to do the same work, in turns, and print ratios.

Timings of a shared machine move by a factor of two within minutes; the sides of one comparison are
run in turns, so that they see the same machine, and the median of their ratios is what counts.
Where other jobs take the machine's cores, the processor time of this process says more.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass
class Work:
    """One row of the table: what is done, by us, by peers, and what ratio is wished for."""

    name: str
    ours: Callable[[], object]
    peers: Mapping[str, Callable[[], object]]
    goal: Mapping[str, float] = field(default_factory=dict)
    """Peer -> how many times slower it should be."""
    check: Callable[[], None] | None = None
    """Raises if the sides do not give the same."""


Seconds = tuple[float, float]
"""On the clock, and of all cores for this process."""


def seconds(function: Callable[[], object]) -> Seconds:
    """Time one call, with the garbage collector at rest."""
    gc.collect()
    gc.disable()
    try:
        used, before = time.process_time(), time.perf_counter()
        function()
        return time.perf_counter() - before, time.process_time() - used
    finally:
        gc.enable()


def compare(work: Work, repeat: int, budget_s: float = 120.0) -> dict[str, list[Seconds]]:
    """Run all sides in turns; stop early, after three rounds, when the budget is used up."""
    sides = {"tiffref": work.ours, **work.peers}
    if work.check is not None:
        work.check()
    for function in sides.values():
        function()  # imports and caches
    times: dict[str, list[Seconds]] = {name: [] for name in sides}
    started = time.monotonic()
    for turn in range(repeat):
        order = list(sides) if turn % 2 == 0 else list(sides)[::-1]
        for name in order:
            times[name].append(seconds(sides[name]))
        if turn >= 2 and time.monotonic() - started > budget_s:
            break
    return times


def report(work: Work, times: Mapping[str, list[Seconds]]) -> None:
    """Print one line for each peer: our median, theirs, the median of the ratios, the goal."""
    own, own_used = zip(*times["tiffref"], strict=True)
    for peer in work.peers:
        theirs, theirs_used = zip(*times[peer], strict=True)
        ratios = [its / ours for ours, its in zip(own, theirs, strict=True)]
        ratio = statistics.median(ratios)
        used = statistics.median(a / b for a, b in zip(theirs_used, own_used, strict=True))
        goal = work.goal.get(peer)
        verdict = "" if goal is None else ("reached" if ratio >= goal else "NOT reached")
        print(
            f"{work.name:44} {peer:28} {statistics.median(own) * 1e3:9.1f} ms "
            f"{statistics.median(theirs) * 1e3:9.1f} ms  x{ratio:<7.2f}"
            f" [{min(ratios):.2f}-{max(ratios):.2f}, n={len(ratios)}] processor x{used:.2f}"
            f" {'' if goal is None else f'goal x{goal:g}: {verdict}'}",
            flush=True,
        )
