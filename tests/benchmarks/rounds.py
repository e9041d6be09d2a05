"""
Who is timed, and how: everybody in turn, round by round.

A machine that slows down slows everybody of that round, so a ratio is taken within
a round and then the median of them all. Whoever comes first in a round finds the
processor's caches cold, so each round begins with another contender. What lies before
the clock (a new table, a plan to learn) is a contender's *prepare*; what it returns is
timed. Durations are seconds for one URL. The garbage collector stays on.
"""

import gc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import median
from time import perf_counter
from typing import TypeVar

__all__ = ["Case", "Contender", "Timings", "aeach", "awhole", "each", "play", "whole"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to come by URLs. Without *prepare* it is one that is missing here."""

    name: str
    prepare: Callable[[], Callable[[], float]] | None
    is_ours: bool = False
    is_floor: bool = False  # not another's way to come by URLs, but what nobody can go below


@dataclass(frozen=True, slots=True)
class Case:
    """Contenders that do the same, and the peers, one or two, that all of them are compared with."""

    title: str
    urls: int  # a call, where the contender can do more than one
    peers: tuple[str, ...]
    contenders: tuple[Contender, ...]
    heading: str = "us a URL"


@dataclass(slots=True)
class Timings:
    """What a contender took for one URL, in every round."""

    case: Case
    contender: Contender
    seconds: list[float] = field(default_factory=list)

    def ratio(self, peer: "Timings") -> float:
        """Return how many times as long as *peer* this took: below 1 is faster."""
        return median([mine / theirs for mine, theirs in zip(self.seconds, peer.seconds, strict=True)])


def play(cases: Sequence[Case], rounds: int, ended: Callable[[], object]) -> list[Timings]:
    """Time *rounds* rounds, and one before them that does not count; call *ended* after each."""
    timings = [Timings(case, contender) for case in cases for contender in case.contenders]
    for number in range(rounds + 1):
        gc.collect()
        for timing in _begun_with(timings, number):
            if timing.contender.prepare is None:
                continue
            run = timing.contender.prepare()
            gc.collect(1)  # what preparing left behind is nobody's cost
            took = run()
            if number:
                timing.seconds.append(took)
        ended()
    return timings


def _begun_with(timings: Sequence[Timings], number: int) -> list[Timings]:
    """Return *timings*, those of each case in their order but begun with another one for each *number*."""
    turned: list[Timings] = []
    for _, some in groupby(timings, key=lambda timing: timing.case):
        alike = list(some)
        first = number % len(alike)
        turned += alike[first:] + alike[:first]
    return turned


def each(call: Callable[[T], object], items: Sequence[T], passes: int = 1) -> float:
    """Return the seconds that *call* takes for one item, called with one at a time."""
    start = perf_counter()
    for _ in range(passes):
        for item in items:
            call(item)
    return (perf_counter() - start) / (passes * len(items))


def whole(call: Callable[[Sequence[T]], object], items: Sequence[T], passes: int = 1) -> float:
    """Return the seconds that *call* takes for one item, called with all of them at once."""
    start = perf_counter()
    for _ in range(passes):
        call(items)
    return (perf_counter() - start) / (passes * len(items))


async def aeach(call: Callable[[T], Awaitable[object]], items: Sequence[T], passes: int = 1) -> float:
    """Return what `each` does, with each call awaited before the next one."""
    start = perf_counter()
    for _ in range(passes):
        for item in items:
            await call(item)
    return (perf_counter() - start) / (passes * len(items))


async def awhole(
    call: Callable[[Sequence[T]], Awaitable[object]], items: Sequence[T], passes: int = 1
) -> float:
    """Return what `whole` does, with each call awaited."""
    start = perf_counter()
    for _ in range(passes):
        await call(items)
    return (perf_counter() - start) / (passes * len(items))
