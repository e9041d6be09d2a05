"""What one phase of the run has found, and whether that is as it must be."""

from collections import Counter
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final, Literal
from urllib.parse import parse_qs, urlsplit

__all__ = ["Link", "Phase", "Tally"]

#: Share of checks that may come too late to say anything, on a machine that is busy.
_MOST_TOO_LATE: Final = 0.05

#: Seconds that a busy machine may take between a URL being chosen and its page telling the time.
_SLACK: Final = 0.25


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the run."""

    name: str
    seconds: float
    is_shared: bool = True
    outage: Literal["refusing", "silent"] | None = None  #: of STS, after an eighth of the phase
    outage_seconds: float = 4.0
    ends_early: bool = False  #: as soon as every process has recovered from the outage


@dataclass(frozen=True, slots=True)
class Link:
    """A URL that was handed out."""

    key: str
    url: str
    handed_at: float
    expires_at: float
    reason: str

    @property
    def access_key(self) -> str:
        """The session that signed it."""
        return parse_qs(urlsplit(self.url).query)["X-Amz-Credential"][0].partition("/")[0]


@dataclass(slots=True)
class Tally:
    """Counts of one phase."""

    phase: Phase
    least_promised: float  # seconds that every URL handed out must have left
    pages: int = 0
    handed_out: int = 0
    checked: int = 0  # fetches when handed out
    checked_late: int = 0  # fetches before the end
    too_late: int = 0  # fetches that came too late to say anything
    refused: list[str] = field(default_factory=list)
    unsigned: int = 0
    fetched: Counter[str] = field(default_factory=Counter)  # what S3 said to what pages fetched themselves
    failures: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    urls: dict[str, list[str]] = field(default_factory=dict)  # of each object, in the order of hand-outs
    sessions: set[str] = field(default_factory=set)  # that signed what was handed out
    least_left: float = float("inf")  # seconds of any URL when it was handed out
    longest_page: float = 0.0  # seconds
    asked: int = 0  # AssumeRole calls that STS has answered
    in_vain: int = 0  # ... that met the outage
    recovered: dict[int, float] = field(default_factory=dict)  # seconds, by process
    processes: int = 0

    def note(self, link: Link) -> bool:
        """Count *link*; return whether its URL is new here."""
        self.handed_out += 1
        self.reasons[link.reason] += 1
        self.sessions.add(link.access_key)
        self.least_left = min(self.least_left, link.expires_at - link.handed_at)
        if "X-Amz-Signature=" not in link.url:
            self.unsigned += 1
        known = self.urls.setdefault(link.key, [])
        is_new = link.url not in known
        if is_new:
            known.append(link.url)
        return is_new

    @property
    def urls_per_object(self) -> float:
        """Distinct URLs of an object, on average."""
        return fmean(len(urls) for urls in self.urls.values()) if self.urls else 0.0

    @property
    def per_minute(self) -> float:
        """The same in a minute, to compare phases of different lengths."""
        return self.urls_per_object * 60 / self.phase.seconds

    @property
    def signing_errors(self) -> int:
        """How often somebody got a SigningError."""
        return sum(n for said, n in self.failures.items() if said.startswith("SigningError"))

    @property
    def faults(self) -> list[str]:
        """What is not as it must be, in words."""
        found = []
        if self.refused:
            found.append(f"{len(self.refused)} URLs refused, such as {self.refused[0]}")
        if self.unsigned:
            found.append(f"{self.unsigned} URLs were handed out without a signature")
        if self.fetched.keys() - {"200"}:
            # AccessDenied is what S3 says to a fetch that went out unsigned.
            found.append(f"what pages fetched themselves was refused: {dict(self.fetched)}")
        if self.least_left < self.least_promised - _SLACK:
            found.append(f"a URL was handed out with {self.least_left:.2f} s left")
        if self.too_late > _MOST_TOO_LATE * (self.checked + self.checked_late + self.too_late):
            found.append(f"{self.too_late} checks came too late to say anything: the machine is too busy")
        others = {said: n for said, n in self.failures.items() if not said.startswith("SigningError")}
        if others:
            found.append(f"errors other than SigningError: {others}")
        if self.phase.outage is None and self.signing_errors:
            found.append(f"SigningErrors without an outage: {dict(self.failures)}")
        if self.phase.outage is not None and not self.in_vain:
            found.append("nobody asked for credentials in the outage: it was none")
        if self.phase.outage is not None and len(self.recovered) < self.processes:
            found.append(f"only {len(self.recovered)} of {self.processes} processes recovered")
        # The last fetches may be cut off by the end.
        if self.checked + self.too_late + len(self.refused) < 0.99 * self.handed_out:
            found.append(f"only {self.checked} of {self.handed_out} hand-outs were fetched")
        if not self.handed_out:
            found.append("no URL was handed out")
        return found

    def rows(self) -> dict[str, str]:
        """Return what is told of this phase, by name."""
        is_out = self.phase.outage is not None
        recovered = f"{max(self.recovered.values(), default=0):.1f} s" if is_out else "-"
        return {
            "Seconds": f"{self.phase.seconds:g}",
            "Pages": f"{self.pages:,}",
            "URLs handed out": f"{self.handed_out:,}",
            "... and fetched": f"{self.checked:,}",
            "... again before the end": f"{self.checked_late:,}",
            "... too late to tell": f"{self.too_late}",
            "URLs refused": f"{len(self.refused)}",
            "Fetched by pages": f"{self.fetched.total():,}",
            "... refused": f"{self.fetched.total() - self.fetched['200']}",
            "SigningErrors": f"{self.signing_errors:,}",
            "Least life handed out": f"{self.least_left:.2f} s",
            "Longest page": f"{self.longest_page:.2f} s",
            "AssumeRole calls": f"{self.asked}",
            "... in vain": f"{self.in_vain}",
            "Sessions that signed": f"{len(self.sessions)}",
            "Distinct URLs an object": f"{self.urls_per_object:.1f}",
            "... at most": f"{max((len(urls) for urls in self.urls.values()), default=0)}",
            "... in a minute": f"{self.per_minute:.0f}",
            "Recovered in": recovered,
        }

    def as_json(self) -> dict[str, Any]:
        """Return everything but the URLs."""
        return {
            "phase": self.phase.name,
            **self.rows(),
            "reasons": dict(self.reasons),
            "failures": dict(self.failures),
            "faults": self.faults,
        }
