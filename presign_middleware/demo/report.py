"""
The project's bars, and how they are shown.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .drive import Check, Figures, SecondWorker, Workers

__all__ = ["Bar", "bars", "sharing_bars", "step", "table", "write_json"]

_LEAST_SAVED = 0.050  # seconds a page
_LEAST_CALLS_SAVED = 0.80
_LEAST_HIT_RATE = 0.90


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing the library is measured by."""

    name: str
    wanted: str
    before: str
    after: str
    reached: str
    is_met: bool
    counts: bool = True  #: whether missing it fails the demo

    @property
    def verdict(self) -> str:
        """``met`` or ``MISSED``, and the figure that decides."""
        return f"{'met' if self.is_met else 'MISSED'} {self.reached}"


def bars(before: Figures, after: Figures) -> list[Bar]:
    """Hold the figures of both sides against the project's bars."""
    saved = before.page_median - after.page_median
    calls = before.boto3_signing_calls
    calls_saved = 1 - after.boto3_signing_calls / calls if calls else 0.0
    return [
        Bar(
            "Page time saved, median",
            f"> {_milliseconds(_LEAST_SAVED)}",
            _page_time(before),
            _page_time(after),
            _milliseconds(saved),
            saved > _LEAST_SAVED,
            counts=False,
        ),
        Bar(
            "boto3 signing calls saved",
            f"> {_percent(_LEAST_CALLS_SAVED, 0)}",
            f"{calls:,}",
            f"{after.boto3_signing_calls:,}",
            _percent(calls_saved, 2),
            calls_saved > _LEAST_CALLS_SAVED,
        ),
        Bar(
            "Hit rate",
            f"> {_percent(_LEAST_HIT_RATE, 0)}",
            _percent(before.hit_rate, 1),
            _percent(after.hit_rate, 1),
            _percent(after.hit_rate, 1),
            after.hit_rate > _LEAST_HIT_RATE,
        ),
        Bar(
            "Distinct URLs per object",
            "1",
            str(before.urls_per_object),
            str(after.urls_per_object),
            str(after.urls_per_object),
            after.urls_per_object == 1,
        ),
        _refused("URLs refused by S3", before, after),
    ]


def sharing_bars(workers: Workers) -> list[Bar]:
    """Hold the figures of the second worker against the project's bars; before is without memcached."""
    alone, sharing = workers.alone, workers.sharing
    return [
        Bar(
            "URLs that the second signed",
            "0",
            f"{alone.signatures:,}",
            f"{sharing.signatures:,}",
            f"{sharing.signatures:,}",
            sharing.signatures == 0,
        ),
        Bar(
            "Distinct URLs per object, both",
            "1",
            str(alone.urls_per_object),
            str(sharing.urls_per_object),
            str(sharing.urls_per_object),
            sharing.urls_per_object == 1,
        ),
        _refused("URLs of the second refused by S3", alone, sharing),
    ]


def table(rows: Sequence[Bar], name: str = "Bar", before: str = "Before", after: str = "After") -> Table:
    """Return *rows* for people: 80 columns are enough, and nothing is said by colour alone."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column(name)
    shown.add_column("Wanted", justify="right", no_wrap=True)
    shown.add_column(before, justify="right", no_wrap=True)
    shown.add_column(after, justify="right", no_wrap=True)
    shown.add_column("Verdict", no_wrap=True)
    for row in rows:
        style = "green" if row.is_met else "bold red"
        shown.add_row(row.name, row.wanted, row.before, row.after, f"[{style}]{row.verdict}[/]")
    return shown


def write_json(
    path: Path,
    rows: Sequence[Bar],
    before: Figures,
    after: Figures,
    unsigned: Check,
    workers: Workers | None,
    **settings: int,
) -> None:
    """Write everything that was measured; it holds no URL."""
    measured = {
        "settings": settings,
        "before": {**asdict(before), "hit_rate": before.hit_rate},
        "after": {**asdict(after), "hit_rate": after.hit_rate},
        "unsigned": asdict(unsigned),
        "second_worker": None if workers is None else asdict(workers),
        "refused": before.urls_refused + after.urls_refused,
        "bars": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(measured, indent=2) + "\n")


@contextmanager
def step(console: Console, text: str, total: int) -> Iterator[Callable[[], None]]:
    """Show that *text* is under way and give what moves its bar on; no bar where there is no terminal."""
    if not console.is_terminal:
        console.print(f"{text} ...")
        yield lambda: None
        return
    columns = (TextColumn("{task.description:36}"), BarColumn(28), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(text, total=total)

        def advance() -> None:
            progress.advance(task)

        yield advance


def _refused(name: str, before: Figures | SecondWorker, after: Figures | SecondWorker) -> Bar:
    return Bar(
        name,
        "0",
        f"{before.urls_refused} of {before.urls_checked:,}",
        f"{after.urls_refused} of {after.urls_checked:,}",
        str(after.urls_refused),
        after.urls_refused == 0,
    )


def _page_time(figures: Figures) -> str:
    return f"{_milliseconds(figures.page_median)}, p95 {figures.page_p95 * 1000:.0f}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _percent(part: float, digits: int) -> str:
    return f"{part * 100:.{digits}f} %"
