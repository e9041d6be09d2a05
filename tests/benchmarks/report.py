"""What is told of a run: tables that fit 80 columns, and JSON with every row."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .goals import GOALS, Results
from .rounds import Case, Timings
from .sheets import Row, Sheet

__all__ = ["Run", "as_json", "show"]

_PACKAGES = (
    "presign-middleware",
    "boto3",
    "obstore",
    "libpresign",
    "fast-s3-url",
    "minio",
    "signurlarity",
    "django-storages",
    "cachetools",
    "dogpile.cache",
    "cashews",
    "aiocache",
    "pymemcache",
    "emcache",
    "aiomcache",
    "starlette",
    "uvicorn",
    "flask",
    "gunicorn",
)

_GAP = (0, 0, 0, 1)  # one column left of each cell, so that a table fits 80

_WORDS = {True: ("met", "green"), False: ("missed", "red"), None: ("not run", "dim")}


@dataclass(frozen=True, slots=True)
class Run:
    """How it was measured."""

    rounds: int
    parts: Sequence[str]
    is_quick: bool
    load_before: float  # processes that wanted a core in the minute before
    load_after: float  # the same of its last minute, of which one or two were its own
    aiobotocore: str | None  # its version
    left_out: Sequence[str] = ()  # what could not be measured here, and why


def as_json(run: Run, results: Results) -> dict[str, Any]:
    """Return all that was measured, times in microseconds for one URL, request or fetch, and the goals."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_before": run.load_before,
        "load_after": run.load_after,
        "quick": run.is_quick,
        "versions": _versions(run),
        "parts": list(run.parts),
        "left_out": list(run.left_out),
        "rounds": run.rounds,
        "rows": [_row(timing, results.timings) for timing in results.timings],
        "sheets": [_sheet(sheet) for sheet in results.sheets],
        "goals": [goal.judged(results) for goal in GOALS],
    }


def show(console: Console, run: Run, results: Results) -> None:
    """Print a table for each case and sheet, who was faster than this library, and the goals."""
    versions = ", ".join(f"{name} {number or 'missing'}" for name, number in _versions(run).items())
    console.print(f"Python {platform.python_version()}, {os.cpu_count()} cores of {_processor()}\n{versions}")
    console.print(
        f"{run.load_before:.1f} processes wanted a core in the minute before, "
        f"{run.load_after:.1f} in the last.\n"
        f"Medians of {run.rounds} rounds, everybody in turn. Ratios are taken within a round.\n"
        "Names with () are this library's. ! is faster than its url(), urls() or aurls()."
    )
    for case in dict.fromkeys(timing.case for timing in results.timings):
        console.print()
        console.print(_table(case, [timing for timing in results.timings if timing.case is case]))
    for sheet in results.sheets:
        console.print()
        console.print(Text(sheet.title, style="bold"))  # not the table's, which may be narrower
        console.print(_sheet_table(sheet))
        console.print(Text(sheet.note, style="dim"))
    console.print()
    console.print(_goals(results))
    console.print(Text("floor: the least that Python takes, one function and no more, misses it", "dim"))
    for reason in run.left_out:
        console.print(reason)


def _table(case: Case, timings: Sequence[Timings]) -> Table:
    table = _bare_table(case.title)
    table.add_column("", width=27, no_wrap=True)
    table.add_column(case.heading, justify="right", width=8, no_wrap=True)
    table.add_column("min .. max", justify="right", width=15, no_wrap=True)
    for peer in case.peers:
        table.add_column(f"vs {peer}", justify="right", width=12)
    for timing in sorted(timings, key=lambda t: median(t.seconds) if t.seconds else float("inf")):
        contender = timing.contender
        if not timing.seconds:
            table.add_row(f"  {contender.name}", "missing", "not installed")
            continue
        low, middle, high = (_us(f(timing.seconds)) for f in (min, median, max))
        table.add_row(
            f"{'!' if _is_loss(timing, timings) else ' '} {contender.name}",
            middle,
            f"{low} .. {high}",
            *(_against(timing, name, timings) for name in case.peers),
            style="bold" if contender.is_ours else None,
        )
    return table


def _sheet_table(sheet: Sheet) -> Table:
    table = _bare_table()
    table.add_column("", width=27, no_wrap=True)
    for heading in sheet.headings:
        table.add_column(heading, justify="right", width=13 if len(sheet.headings) < 5 else 9)
    for row in sheet.rows:
        mark = "!" if _is_better(row, sheet) else " "
        cells = [_cell(row, heading, sheet.digits) for heading in sheet.headings]
        table.add_row(
            f"{mark} {row.name}",
            *(cells if row.figures else ["missing"]),
            style="bold" if row.is_ours else None,
        )
    return table


def _bare_table(title: str | None = None) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=_GAP, pad_edge=False
    )


def _cell(row: Row, heading: str, digits: int | None) -> Text:
    rounds = row.figures.get(heading)
    if not rounds:
        return Text("-")
    cell = Text(_three(median(rounds), digits))
    if len(rounds) > 1:
        low, high = (_three(f(rounds), digits).replace(".00", "") for f in (min, max))
        cell.append(f"\n{low}-{high}", style="dim not bold")
    return cell


def _goals(results: Results) -> Table:
    table = _bare_table("Goals")
    table.add_column("", width=59, no_wrap=True)
    table.add_column("measured", justify="right", width=11, no_wrap=True)
    table.add_column("", justify="right", width=7)
    for goal in GOALS:
        judged = goal.judged(results)
        word, style = _WORDS[judged["met"]]
        if judged["met"] is False and judged["is_in_reach"] is False:
            word = "floor"
        table.add_row(goal.text, judged["said"], word, style=style)
    return table


def _row(timing: Timings, timings: Sequence[Timings]) -> dict[str, Any]:
    us = [seconds * 1e6 for seconds in timing.seconds]
    own = [t for t in timings if t.case is timing.case]
    peers = [t for t in own if t.seconds] if us else []
    return {
        "case": timing.case.title,
        "urls_a_call": timing.case.urls,
        "name": timing.contender.name,
        "ours": timing.contender.is_ours,
        "floor": timing.contender.is_floor,
        "loss": _is_loss(timing, own),
        "missing": not us,
        "median_us": median(us) if us else None,
        "min_us": min(us, default=None),
        "max_us": max(us, default=None),
        "times_as_long_as": {peer.contender.name: timing.ratio(peer) for peer in peers},
    }


def _sheet(sheet: Sheet) -> dict[str, Any]:
    return {
        "title": sheet.title,
        "note": sheet.note,
        "headings": list(sheet.headings),
        "digits": sheet.digits,
        "rows": [
            {
                "name": row.name,
                "ours": row.is_ours,
                "floor": row.is_floor,
                "loss": _is_better(row, sheet),
                "missing": not row.figures,
                "figures": {
                    heading: {"median": median(rounds), "min": min(rounds), "max": max(rounds)}
                    for heading, rounds in row.figures.items()
                },
            }
            for row in sheet.rows
        ],
    }


def _is_loss(timing: Timings, timings: Sequence[Timings]) -> bool:
    """Return whether it is another's and faster than what this library is compared with: its first."""
    if timing.contender.is_ours or not timing.seconds:
        return False
    return timing.ratio(next(t for t in timings if t.contender.is_ours)) < 1


def _is_better(row: Row, sheet: Sheet) -> bool:
    """Return whether it is another's and better than this library's, by the first heading."""
    heading = sheet.headings[0]
    ours = next(row for row in sheet.rows if row.is_ours)
    if row.is_ours or not (row.figures.get(heading) and ours.figures.get(heading)):
        return False
    more = row.median(heading) - ours.median(heading)
    return more > 0 if sheet.more_is_better else more < 0


def _against(timing: Timings, name: str, timings: Sequence[Timings]) -> str:
    peer = next(t for t in timings if t.contender.name == name)
    return _said(timing.ratio(peer)) if peer.seconds and peer is not timing else "-"


def _said(ratio: float) -> str:
    times, word = (ratio, "slower") if ratio >= 1 else (1 / ratio, "faster")
    return f"{times:.{0 if times >= 100 else 1}f}x {word}"


def _us(seconds: float) -> str:
    return _three(seconds * 1e6)


def _three(figure: float, digits: int | None = None) -> str:
    """Return *figure* with three figures, or with *digits* after the point."""
    if digits is None:
        digits = 2 if abs(figure) < 10 else 1 if abs(figure) < 100 else 0
    return f"{figure:,.{digits}f}"


def _versions(run: Run) -> Mapping[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return {**found, "aiobotocore": run.aiobotocore}


def _processor() -> str:
    """Return the processor's name as Linux tells it, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
