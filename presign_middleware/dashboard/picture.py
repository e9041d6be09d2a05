"""
What the processes of a fleet tell, taken together: sums, and what is wrong since when.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from ..origins import Origin
from ..policy import Policy
from ..recent import Happening
from ..worker import SLOT, SLOTS, Held, Row, Worker

__all__ = ["Finding", "Picture", "is_near", "spoken"]

#: Seconds in which what was counted is told as if it were now.
_LATELY = 300

Weight = Literal["failing", "attention"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that somebody should do something about."""

    weight: Weight
    what: str
    since: str
    cure: str
    page: str  #: of the documentation


class Picture:
    """A fleet at one instant. *workers*: the one that answers first."""

    def __init__(
        self,
        workers: Sequence[Worker],
        *,
        is_whole: bool,  # whether the others could be asked
        is_shared: bool,
        origins: Sequence[Origin],
        policy: Policy,
    ) -> None:
        self.workers = tuple(workers)
        self.is_whole = is_whole
        self.is_shared = is_shared
        self.origins = tuple(origins)
        self.policy = policy
        self.now = workers[0].at

    @cached_property
    def counts(self) -> dict[str, int]:
        """The counters of all."""
        counts: Counter[str] = Counter()
        for worker in self.workers:
            counts.update(worker.counts)
        return dict(counts)

    @property
    def hit_rate(self) -> float | None:
        """The share of URLs that were not signed for whoever asked; None: there were none."""
        resolved = self.counts["resolved"]
        return 1 - self.counts["from_signer"] / resolved if resolved else None

    @property
    def made(self) -> int:
        """Calls of boto3 that signed a URL, or showed how to sign those of its shape."""
        return sum([self.counts[name] for name in ("signed_by_boto3", "plans_proven", "plans_refused")])

    @property
    def saved(self) -> int:
        """Calls of boto3 that an application would have made besides, which signs each URL by it."""
        return max(0, self.counts["resolved"] - self.made)

    @cached_property
    def rows(self) -> list[Row]:
        """What all have counted in each slot of the last ten minutes, the oldest first."""
        last = int(self.now) // SLOT
        rows = []
        for slot in range(last - SLOTS + 1, last + 1):
            row = Row()
            for worker in self.workers:
                row = row.plus(worker.history.get(slot, Row()))
            rows.append(row)
        return rows

    @property
    def rate(self) -> float:
        """URLs handed out a second, in the last slots that are whole in every process."""
        rows = self.rows[-5:-1]
        return sum([row.here + row.shared + row.signed for row in rows]) / (len(rows) * SLOT)

    @property
    def lately(self) -> Row:
        """What was counted in the last minutes."""
        total = Row()
        for row in self.rows[-_LATELY // SLOT :]:
            total = total.plus(row)
        return total

    @cached_property
    def ages(self) -> list[int]:
        """How many URLs all hold, by what is left of their lives."""
        return [sum(each) for each in zip(*[worker.ages for worker in self.workers], strict=True)]

    @cached_property
    def servers(self) -> dict[str, list[tuple[Worker, float | None]]]:
        """What each process knows of each memcached."""
        found: dict[str, list[tuple[Worker, float | None]]] = {}
        for worker in self.workers:
            for name, down in worker.servers.items():
                found.setdefault(name, []).append((worker, down))
        return found

    def held(self, origin: str) -> list[tuple[Worker, Held]]:
        """Return the credentials of *origin* in each process."""
        return [(worker, worker.origins[origin]) for worker in self.workers if origin in worker.origins]

    def first_end(self, origin: str) -> tuple[float, Held] | None:
        """Return in how many seconds the first credentials of *origin* end, and which; None: none do."""
        ends = [
            (held.end - worker.at - held.ahead, held)
            for worker, held in self.held(origin)
            if held.end is not None
        ]
        return min(ends, key=lambda each: each[0], default=None)

    @property
    def happenings(self) -> list[tuple[Worker, Happening]]:
        """The last events of all, the newest first."""
        told = [(worker, one) for worker in self.workers for one in worker.happenings]
        return sorted(told, key=lambda each: each[1].at, reverse=True)[:30]

    @property
    def health(self) -> Literal["healthy", "attention", "failing"]:
        """How it is, all in all."""
        weights = {finding.weight for finding in self.findings}
        return "failing" if "failing" in weights else "attention" if weights else "healthy"

    @cached_property
    def findings(self) -> list[Finding]:
        """What is wrong, the worst first."""
        found = [*self._of_credentials(), *self._of_counts(), *self._of_servers()]
        return sorted(found, key=lambda finding: finding.weight != "failing")

    def _of_credentials(self) -> Iterator[Finding]:
        for name in dict.fromkeys(name for worker in self.workers for name in worker.origins):
            failed = [(worker, held.failure) for worker, held in self.held(name) if held.failure]
            if failed:
                yield Finding(
                    "failing",
                    f"Origin {name} has no credentials in {_some(len(failed), self.workers)}: {failed[0][1]}",
                    "",
                    "Nothing can be signed for it there. See whether the role, the metadata service or the "
                    "profile answers from that host.",
                    "credentials",
                )
            first = self.first_end(name)
            if first is not None and not failed and is_near(*first):
                left = first[0]
                yield Finding(
                    "failing" if left <= 0 else "attention",
                    f"Credentials of origin {name} {'have ended' if left <= 0 else 'end soon'}",
                    f"{spoken(-left)} ago" if left <= 0 else f"in {spoken(left)}",
                    "They should have been renewed long before. See the events below, and whether their "
                    "source answers.",
                    "credentials",
                )
            for worker, held in self.held(name):
                if "healing" in held.learned:
                    yield Finding(
                        "attention",
                        f"New signatures for origin {name} are refused too, in {worker.name}: {held.learned}",
                        "",
                        "Something changes the URL on its way, such as a proxy, or the secret key is wrong.",
                        "when S3 refuses",
                    )
                    break

    def _of_counts(self) -> Iterator[Finding]:
        lately = self.lately
        if lately.failed:
            yield Finding(
                "failing",
                f"{lately.failed:,} URLs could not be signed in the last 5 minutes",
                self._since("failed"),
                "Callers got SigningError, which names the origin and the cause: see the application's log.",
                "signing errors",
            )
        if lately.unhealed:
            yield Finding(
                "attention",
                f"{lately.unhealed:,} fetches were refused by S3 twice in the last 5 minutes",
                self._since("unhealed"),
                "They were signed anew and refused again: look at the bucket policy, the key and the clock.",
                "when S3 refuses",
            )
        if lately.rejected > max(10, lately.shared):
            yield Finding(
                "attention",
                f"{lately.rejected:,} entries of memcached were of no use in the last 5 minutes",
                self._since("rejected"),
                "If this goes on, processes have different secrets, or another application writes there.",
                "memcached",
            )

    def _of_servers(self) -> Iterator[Finding]:
        for name, states in self.servers.items():
            down = [seconds for _, seconds in states if seconds is not None]
            to = f" {len(down)} of {len(states)} processes" if len(states) > 1 else ""
            if down:
                yield Finding(
                    "attention",
                    f"memcached {name} does not answer{to}",
                    f"for {spoken(max(down))}",
                    "Each process signs for itself meanwhile; nothing is lost. It is tried again by itself.",
                    "memcached",
                )
        if (
            self.is_shared
            and not self.is_whole
            and not any(seconds is not None for states in self.servers.values() for _, seconds in states)
        ):
            yield Finding(
                "attention",
                "The list of processes could not be read: only this one is shown",
                "",
                "It is on one of the memcached servers, and is asked for again by itself.",
                "memcached",
            )

    def _since(self, name: str) -> str:
        """Return when the last minutes' trouble began and was seen last."""
        slots = [place for place, row in enumerate(self.rows) if getattr(row, name)]
        oldest = int(self.now) // SLOT - SLOTS + 1
        began, last = (oldest + slots[0]) * SLOT, (oldest + slots[-1]) * SLOT
        least = "or earlier, " if slots[0] == 0 else ""
        return f"since {_clock(began)} {least}last at {_clock(last)}"


def is_near(left: float, held: Held) -> bool:
    """Return whether credentials should have been renewed by now: that is done at a third of their lives."""
    return left < min(300, (held.life or 1800) / 6)


def spoken(seconds: float) -> str:
    """Return a duration for people."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    left = whole % 60
    return f"{whole} s" if not minutes else f"{minutes} min {left} s" if left else f"{minutes} min"


def _clock(instant: float) -> str:
    return time.strftime("%H:%M UTC", time.gmtime(instant))


def _some(number: int, of: Sequence[Worker]) -> str:
    return "the one process there is" if len(of) == 1 else f"{number} of {len(of)} processes"
