"""What is told of the timings: tables that fit 80 columns, and JSON with every row."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from .cases import GOALS, Goal
from .rounds import Case, Timings

__all__ = ["as_json", "show"]

_PACKAGES = ("presign-middleware", "boto3", "cachetools", "obstore", "pymemcache", "emcache")

_GAP = (0, 0, 0, 1)  # one column left of each cell, so that a table fits 80


def as_json(timings: Sequence[Timings], rounds: int) -> dict[str, Any]:
    """Return everything that was timed, in microseconds for one URL, request or fetch, and the goals."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "versions": _versions(),
        "rounds": rounds,
        "rows": [_row(timing, timings) for timing in timings],
        "goals": [_goal(goal, timings) for goal in GOALS],
    }


def show(console: Console, timings: Sequence[Timings], rounds: int) -> None:
    """Print a table for each case, who was faster than this library, and the goals."""
    versions = ", ".join(f"{name} {number or 'missing'}" for name, number in _versions().items())
    console.print(f"Python {platform.python_version()}, {os.cpu_count()} cores\n{versions}")
    console.print(
        f"Medians of {rounds} rounds, everybody in turn. Ratios are taken within a round.\n"
        "Names with () are this library's. ! is faster than its url(), urls() or aurls()."
    )
    for case in dict.fromkeys(timing.case for timing in timings):
        console.print()
        console.print(_table(case, [timing for timing in timings if timing.case is case]))
    console.print()
    console.print(_goals(timings))


def _table(case: Case, timings: Sequence[Timings]) -> Table:
    table = Table(title=case.title, title_justify="left", title_style="bold", box=None, padding=_GAP)
    table.add_column("", width=27, no_wrap=True)
    table.add_column(case.heading, justify="right", width=8, no_wrap=True)
    table.add_column("min .. max", justify="right", width=15, no_wrap=True)
    for peer in case.peers:
        table.add_column(f"vs {peer}", justify="right", width=12)
    first = timings[0]
    for timing in sorted(timings, key=lambda t: median(t.seconds) if t.seconds else float("inf")):
        contender = timing.contender
        if not timing.seconds:
            table.add_row(f"  {contender.name}", "missing", "not installed")
            continue
        is_loss = not contender.is_ours and timing.ratio(first) < 1
        low, middle, high = (_us(f(timing.seconds)) for f in (min, median, max))
        table.add_row(
            f"{'!' if is_loss else ' '} {contender.name}",
            middle,
            f"{low} .. {high}",
            *(_against(timing, name, timings) for name in case.peers),
            style="bold" if contender.is_ours else None,
        )
    return table


def _goals(timings: Sequence[Timings]) -> Table:
    table = Table(
        title="Goals", title_justify="left", title_style="bold", box=None, padding=_GAP, pad_edge=False
    )
    table.add_column("", width=60)
    table.add_column("measured", justify="right", width=12)
    table.add_column("", justify="right", width=6)
    for goal in GOALS:
        found = _goal(goal, timings)
        word, style = ("met", "green") if found["met"] else ("missed", "red")
        table.add_row(goal.text, found["measured"], word, style=style)
    return table


def _goal(goal: Goal, timings: Sequence[Timings]) -> dict[str, Any]:
    ratio = _find(goal.case, goal.ours, timings).ratio(_find(goal.case, goal.peer, timings))
    return {
        "goal": goal.text,
        "case": goal.case,
        "ours": goal.ours,
        "peer": goal.peer,
        "ratio": ratio,
        "at_most": goal.at_most,
        "measured": _said(ratio),
        "met": ratio <= goal.at_most,
    }


def _row(timing: Timings, timings: Sequence[Timings]) -> dict[str, Any]:
    us = [seconds * 1e6 for seconds in timing.seconds]
    peers = [t for t in timings if t.case is timing.case and t.seconds] if us else []
    return {
        "case": timing.case.title,
        "urls_a_call": timing.case.urls,
        "name": timing.contender.name,
        "ours": timing.contender.is_ours,
        "missing": not us,
        "median_us": median(us) if us else None,
        "min_us": min(us, default=None),
        "max_us": max(us, default=None),
        "times_as_long_as": {peer.contender.name: timing.ratio(peer) for peer in peers},
    }


def _against(timing: Timings, name: str, timings: Sequence[Timings]) -> str:
    peer = _find(timing.case.title, name, timings)
    return _said(timing.ratio(peer)) if peer.seconds and peer is not timing else "-"


def _find(case: str, name: str, timings: Sequence[Timings]) -> Timings:
    return next(t for t in timings if (t.case.title, t.contender.name) == (case, name))


def _said(ratio: float) -> str:
    times, word = (ratio, "slower") if ratio >= 1 else (1 / ratio, "faster")
    return f"{times:.{0 if times >= 100 else 1}f}x {word}"


def _us(seconds: float) -> str:
    us = seconds * 1e6
    return f"{us:.{2 if us < 10 else 1 if us < 100 else 0}f}"


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
