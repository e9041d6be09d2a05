"""What the fleet did while one misfortune lasted and after it, and whether that is as it must be."""

from collections import Counter
from dataclasses import dataclass, field
from math import ceil, log2
from statistics import median, quantiles
from typing import Any, Final

from .misfortunes import Misfortune

__all__ = ["Invalidation", "Promises", "Tally"]

#: A page that waited is one that took longer than the calm median by this share of the patience.
_WAITED: Final = 0.8

#: Pages of one process that may find out that servers are gone, since they are under way at once: two
#: for each of two servers.
_FIND_OUT: Final = 4


@dataclass(frozen=True, slots=True)
class Promises:
    """What is held against what was measured. Seconds."""

    patience: float  #: one page waits so long for the shared cache
    lag: float  #: after which all know of an invalidation
    slack: (
        float  #: by which this machine may be late, and what a page itself takes; over 1: times say nothing
    )


@dataclass(slots=True)
class Invalidation:
    """An object that was taken back."""

    target: str
    at: float  # before the call: an older date is old
    known: float  # after it, from when on the process that called it must not hand out an older one
    last_old: float = 0.0  # when a page began that was given an older date


@dataclass(slots=True)
class Tally:
    """Counts from the begin of a *misfortune* until all processes share again. Instants are Unix seconds."""

    misfortune: Misfortune
    promises: Promises
    processes: int
    began: float = 0.0
    ended: float = 0.0
    times: int = 0  # that it befell them
    urls: int = 0
    wrong: int = 0  # refused by S3 when they were handed out, or another object's
    spent: int = 0  # with less life than promised
    lost: int = (
        0  # taken back, as their process knew, or all should have known since it was before this began
    )
    signed: int = 0
    shared: int = 0
    failures: int = 0  # servers that failed whoever asked them
    errors: Counter[str] = field(default_factory=Counter)
    pages: list[float] = field(default_factory=list)  # seconds each took, while it lasted
    waited: Counter[int] = field(default_factory=Counter)  # pages that waited, by process
    longest: float = 0.0  # seconds that a page took, also after it was over
    stall: float = 0.0  # seconds that a thread overslept which does nothing but sleep: the machine's doing
    again: dict[int, float] = field(default_factory=dict)  # seconds until a process shared again
    invalidations: list[Invalidation] = field(default_factory=list)
    handed: dict[tuple[str, str], float] = field(default_factory=dict)  # target and URL: the last time
    refused: list[str] = field(default_factory=list)
    descriptors: tuple[int, int] = (0, 0)  # of all processes, before and after

    @property
    def shared_again(self) -> float:
        """Seconds after the end until every process had something from the shared cache."""
        return max(self.again.values(), default=0.0) if len(self.again) == self.processes else float("inf")

    @property
    def known_after(self) -> float:
        """Seconds after the end, or after the call if that was later, in which an old URL was handed out."""
        late = [each.last_old - max(each.known, self.ended) for each in self.invalidations]
        return max([0.0, *late])

    @property
    def median(self) -> float:
        """Seconds of a page."""
        return median(self.pages)

    @property
    def p99(self) -> float:
        """Seconds of a page, of 100 the second slowest."""
        return quantiles(self.pages, n=100)[98]

    def broken(self, calm: "Tally") -> list[str]:
        """Return what is not as promised, in words."""
        found = []
        kind, promises = self.misfortune, self.promises
        if self.errors:
            found.append(f"{self.errors.total()} errors, such as {next(iter(self.errors))}")
        if self.refused:
            found.append(f"{self.wrong} wrong and {self.spent} SPENT URLs, such as {self.refused[0]}")
        if self.lost:
            found.append(f"{self.lost} URLs had been taken back")
        if kind.is_felt and not self.failures:
            found.append("no server failed anybody: it was no misfortune")
        if not self.invalidations:
            found.append("nothing was taken back")
        # Pauses between two attempts double, and are shortened by chance to a half at most: one can be as
        # long as twice all before.
        if self.shared_again > 2 * (self.ended - self.began) + 0.5 + promises.slack:
            found.append(f"only {len(self.again)} processes shared again, in {self.shared_again:.1f} s")
        # Who took it back is to tell it first, and then others are to read it.
        if self.known_after > self.shared_again + 2 * promises.lag + promises.slack + self.stall:
            found.append(f"what was taken back was handed out for {self.known_after:.1f} s more")
        if promises.slack < 1:
            found += self._late()
        before, after = calm.descriptors[1], self.descriptors[1]
        if after > before + 2 * self.processes:  # a connection more is kept where two were wanted at once
            found.append(f"there were {before} descriptors in the calm, and now {after}")
        return found

    def _late(self) -> list[str]:
        found = []
        patience = self.promises.patience
        if self.longest > patience + self.promises.slack + self.stall:
            found.append(f"a page took {self.longest:.3f} s")
        may_wait = _FIND_OUT * max(1, self.times)
        if self.misfortune.is_sly:  # each time that it is believed anew, after pauses that double
            may_wait *= 2 + ceil(log2(10 * (self.ended - self.began)))
        most = max(self.waited.values(), default=0)
        # What stands still for as long as one may wait makes everybody seem to have waited.
        if most > may_wait and not self.misfortune.is_slow and self.stall < patience:
            found.append(f"{most} pages of one process waited: the breaker was not open")
        return found

    def row(self, calm: "Tally") -> dict[str, str]:
        """Return what is told, by column."""
        before, after = self.descriptors
        is_calm = self is calm
        return {
            "": self.misfortune.name,
            "URLs": f"{self.urls:,}",
            "errors": f"{self.errors.total()}",
            "wrong": f"{self.wrong}",
            "SPENT": f"{self.spent}",
            "lost": f"{self.lost}",
            "signed": f"{self.signed:,}",
            "shared": f"{self.shared:,}",
            "median": _ms(self.median) if is_calm else _ms(self.median - calm.median, "+"),
            "p99": _ms(self.p99) if is_calm else _ms(self.p99 - calm.p99, "+"),
            "longest": _ms(self.longest),
            "stall": _ms(self.stall),
            "waited": f"{self.waited.total()}",
            "again": "-" if is_calm else f"{self.shared_again:.1f} s",
            "known": f"{self.known_after:.1f} s",
            "fds": f"{before} {after}",
        }

    def as_json(self, calm: "Tally") -> dict[str, Any]:
        """Return every figure, and no URL."""
        return {
            "misfortune": self.misfortune.name,
            "seconds": self.ended - self.began,
            "urls": self.urls,
            "errors": dict(self.errors),
            "wrong": self.wrong,
            "spent": self.spent,
            "lost": self.lost,
            "signed": self.signed,
            "from_shared": self.shared,
            "shared_errors": self.failures,
            "pages": len(self.pages),
            "median": self.median,
            "p99": self.p99,
            "longest": self.longest,
            "stall": self.stall,
            "waited": dict(self.waited),
            "shared_again": self.again,
            "invalidated": len(self.invalidations),
            "known_after": self.known_after,
            "descriptors": self.descriptors,
            "broken": self.broken(calm),
        }

    def note_page(self, number: int, began: float, seconds: float, late: float, calm_median: float) -> None:
        """Count a page of process *number*."""
        self.stall = max(self.stall, late)
        self.longest = max(self.longest, seconds)
        if not self.ended or began < self.ended:
            self.pages.append(seconds)
            self.waited[number] += seconds > calm_median + _WAITED * self.promises.patience


def _ms(seconds: float, sign: str = "") -> str:
    return f"{seconds * 1000:{sign}.1f}"
