"""What this library wants to reach, and how near it came in a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from . import cases, imports, load, memory, threads, zipf
from .answers import Answers
from .caches import Cachetools, Cashews, Dogpile
from .clients import Emcache, Pymemcache
from .floors import Floors, SharedFloors
from .idle import Asgi, Fetches
from .peers import Boto3, Dict, Hashes, Signers
from .rounds import Timings
from .sheets import Sheet

__all__ = ["GOALS", "Goal", "Results"]

#: In the load's goal of milliseconds: boto3 has to be no faster than this, as on the machines it was set for.
_SLOW_BOTO3 = 0.25  # ms a URL

_LINKS = 200


@dataclass(frozen=True, slots=True)
class Results:
    """All that a run has measured."""

    timings: Sequence[Timings]
    sheets: Sequence[Sheet]

    def timing(self, case: str, name: str) -> Timings | None:
        """Return what *name* took in *case*; None: that was not timed here."""
        found = (t for t in self.timings if (t.case.title, t.contender.name) == (case, name) and t.seconds)
        return next(found, None)

    def figures(self, title: str, name: str, heading: str) -> Sequence[float] | None:
        """Return the rounds of a figure of the sheet *title*; None: that was not measured here."""
        for sheet in self.sheets:
            if sheet.title == title and (row := sheet.row(name)):
                return row.figures.get(heading)
        return None


Measure = Callable[[Results], float | None]


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure, and what it shall be at most, or at least."""

    text: str  # of 60 characters at most, so that the table fits 80 columns
    measure: Measure  # None: not in this run
    bound: float
    is_least: bool = False
    unit: str = "x"
    floor: Measure | None = None  # the same of the least that Python takes for it; None: nobody has tried

    def judged(self, results: Results) -> dict[str, Any]:
        """Return what was measured and whether that is enough; None where it was not measured."""
        figure = self.measure(results)
        floor = None if self.floor is None else self.floor(results)
        return {
            "goal": self.text,
            "bound": self.bound,
            "is_least": self.is_least,
            "measured": figure,
            "said": self._said(figure),
            "met": self._is_met(figure),
            "floor": floor,
            "floor_said": self._said(floor),
            "is_in_reach": self._is_met(floor),
        }

    def _is_met(self, figure: float | None) -> bool | None:
        return None if figure is None else figure >= self.bound if self.is_least else figure <= self.bound

    def _said(self, figure: float | None) -> str:
        if figure is None:
            return "-"
        digits = 4 if self.unit == "%" else 0 if abs(figure) >= 100 else 2 if abs(figure) < 10 else 1
        return f"{figure:,.{digits}f}{'' if self.unit == 'x' else ' '}{self.unit}"


def _times(case: str, ours: str, peer: str) -> Measure:
    """Return how to tell how many times as long as *peer* this library takes."""

    def measure(results: Results) -> float | None:
        mine, theirs = results.timing(case, ours), results.timing(case, peer)
        return mine.ratio(theirs) if mine and theirs else None

    return measure


def _faster(case: str, ours: str, peer: str) -> Measure:
    """Return how to tell how many times as fast as *peer* this library is."""
    times = _times(case, ours, peer)

    def measure(results: Results) -> float | None:
        ratio = times(results)
        return ratio and 1 / ratio

    return measure


def _figure(title: str, name: str, *headings: str) -> Measure:
    """Return how to tell the median of a figure; of several, the highest."""

    def measure(results: Results) -> float | None:
        found = [results.figures(title, name, heading) for heading in headings]
        return max((median(rounds) for rounds in found if rounds), default=None)

    return measure


def _of_load(title: str, heading: str, compare: Callable[[float, float], float]) -> Measure:
    """Return how to *compare* this library's figure with boto3's, in each round."""

    def measure(results: Results) -> float | None:
        ours, boto3 = (results.figures(title, name, heading) for name in (load.OURS, load.BOTO3))
        if not (ours and boto3):
            return None
        return median([compare(mine, theirs) for mine, theirs in zip(ours, boto3, strict=True)])

    return measure


def _saved(results: Results) -> float | None:
    each = _figure(load.STARLETTE_ALONE, load.BOTO3, load.MAKING)(results)
    if each is None or each / _LINKS < _SLOW_BOTO3:
        return None  # this machine is too fast for the goal to mean anything
    return _of_load(load.STARLETTE_ALONE, load.P50, lambda ours, boto3: boto3 - ours)(results)


_HELD, _COLD, _COLD_PAGE = cases.HELD, cases.COLD, cases.COLD_PAGE
_SHARED, _PAGE = cases.SHARED, cases.SHARED_PAGE
_TIMES = (
    ("in urls() of 200", _COLD_PAGE, "urls()", Signers.OBSTORE_LIST),
    ("through url()", _COLD, "url()", Signers.OBSTORE),
)


def _signed(words: str, case: str, ours: str, peer: str, name: str, bound: float) -> Goal:
    text = f"miss {words}: {bound:g}x faster than {name}"
    return Goal(text, _faster(case, ours, peer), bound, True, floor=_faster(case, Floors.NAME, peer))


GOALS = (
    Goal("local hit: at most 3x a dict look-up with its end compared", _times(_HELD, "url()", Dict.NAME), 3),
    Goal("local hit: 2x faster than cachetools.TTLCache", _faster(_HELD, "url()", Cachetools.NAME), 2, True),
    Goal("local hit: 20x faster than dogpile.cache", _faster(_HELD, "url()", Dogpile.NAME), 20, True),
    Goal("local hit: 50x faster than cashews", _faster(_HELD, "url()", Cashews.NAME), 50, True),
    Goal("local hit: 300x faster than boto3", _faster(_HELD, "url()", Boto3.NAME), 300, True),
    Goal(
        "miss in urls() of 200: at most 2x two bare hashes",
        _times(_COLD_PAGE, "urls()", Hashes.NAME),
        2,
        floor=_times(_COLD_PAGE, Floors.NAME, Hashes.NAME),
    ),
    Goal(
        "miss through url(): at most 2.5x two bare hashes",
        _times(_COLD, "url()", Hashes.NAME),
        2.5,
        floor=_times(_COLD, Floors.NAME, Hashes.NAME),
    ),
    *(
        goal
        for words, case, ours, obstore in _TIMES
        for goal in (
            _signed(words, case, ours, obstore, "obstore", 1.5),
            _signed(words, case, ours, Signers.LIBPRESIGN, "libpresign", 2),
            _signed(words, case, ours, Boto3.NAME, "boto3", 40),
        )
    ),
    Goal(
        "Pydantic response of 1,000 links: 40x faster than boto3",
        _faster(cases.ANSWER, "link()", Answers.BOTO3),
        40,
        True,
    ),
    Goal(
        "shared hit: at most 1.4x a bare pymemcache get",
        _times(_SHARED, "url()", Pymemcache.NAME),
        1.4,
        floor=_times(_SHARED, SharedFloors.NAME, Pymemcache.NAME),
    ),
    Goal(
        "gather of 100 aurl: 3x faster than of 100 emcache gets",
        _faster(_PAGE, "gather, in a scope", Emcache.NAME),
        3,
        True,
        floor=_faster(_PAGE, SharedFloors.NAME_OF_GATHER, Emcache.NAME),
    ),
    Goal(
        "aurls of 100: at most 3x one emcache get_many",
        _times(_PAGE, "aurls(), in a scope", Emcache.NAME_OF_MANY),
        3,
        floor=_times(_PAGE, SharedFloors.NAME, Emcache.NAME_OF_MANY),
    ),
    Goal("page of 200 through Starlette: 50 ms less than with boto3", _saved, 50, True, "ms"),
    Goal(
        "page of 200 through Starlette: 100x less time for links",
        _of_load(load.STARLETTE_ALONE, load.MAKING, lambda ours, boto3: boto3 / ours),
        100,
        True,
    ),
    Goal(
        "page of 200 through Starlette: 20x the pages a second",
        _of_load(load.STARLETTE_BUSY, load.RATE, lambda ours, boto3: ours / boto3),
        20,
        True,
    ),
    Goal(
        "request that fetches nothing: at most 1.15x Starlette's",
        _times(cases.IDLE_ASGI, "PresignMiddleware()", Asgi.NAME),
        1.15,
        floor=_times(cases.IDLE_ASGI, Asgi.NAME_OF_ONE, Asgi.NAME),
    ),
    Goal(
        "fetch not covered: at most 1.15x httpx without a hook",
        _times(cases.UNCOVERED_HTTPX, "intercept(httpx)", Fetches.HTTPX),
        1.15,
    ),
    Goal(
        "fetch not covered: at most 1.15x requests without a hook",
        _times(cases.UNCOVERED_REQUESTS, "intercept(requests)", Fetches.REQUESTS),
        1.15,
    ),
    Goal("Zipf: boto3 calls saved", _figure(zipf.TITLE, zipf.OURS, zipf.SAVED), 99.9, True, "%"),
    Goal(
        "Zipf: unsigned answers, of the bound", _figure(zipf.TITLE, zipf.OURS, zipf.OF_BOUND), 99, True, "%"
    ),
    Goal(
        "memory: at most 1,500 bytes for each held URL",
        _figure(memory.TITLE, memory.OURS, *map(memory.heading, memory.SIZES)),
        1_500,
        unit="B",
    ),
    Goal(
        "import: at most 30 ms over bare Python",
        _figure(imports.TITLE, imports.OURS, imports.OVER),
        30,
        unit="ms",
    ),
    Goal(
        "16 threads on one table: 0.85 of one thread's throughput",
        _figure(threads.TITLE, threads.OURS, threads.MANY),
        0.85,
        True,
    ),
)
