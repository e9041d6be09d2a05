"""
A client that loads the pages of both sides in turn, and checks every link they gave.

Durations are seconds.
"""

import re
import statistics
from calendar import timegm
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import unescape
from math import ceil
from time import perf_counter, strptime
from urllib.parse import parse_qs, urlsplit
from zlib import crc32

import httpx

__all__ = [
    "WARM_UP",
    "Check",
    "Figures",
    "SecondWorker",
    "Side",
    "Workers",
    "check",
    "check_private",
    "drive",
    "learned_of_boto3",
    "steps_of_check",
]

#: Pages of each side whose time is not counted: imports, connections, the first signatures.
WARM_UP = 8

#: Links fetched of every page but the last, of which all are.
_SAMPLE = 3

_LINK = re.compile(r'<a href="([^"]*)"').findall

Advance = Callable[[], object]


@dataclass(slots=True)
class Side:
    """One of the two applications, and what was seen of it."""

    address: str
    http: httpx.Client
    seconds: list[float] = field(default_factory=list)  #: of each page, warm-up included
    pages: list[list[str]] = field(default_factory=list)  #: the links of each page

    def load(self) -> None:
        """Load the page once more."""
        start = perf_counter()
        response = self.http.get(self.address)
        self.seconds.append(perf_counter() - start)
        self.pages.append([unescape(link) for link in _LINK(response.text)])


@dataclass(frozen=True, slots=True)
class Check:
    """How many URLs were tried, and how many of them S3 refused."""

    asked: int
    refused: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one side."""

    page_median: float  # seconds
    page_p95: float  # seconds
    resolutions: int  # URLs that were asked for
    signatures: int  # of them, those for which a signature was made
    signed_by_boto3: int  # of them, those that boto3 made
    boto3_signing_calls: int  # these, and those with which a plan was learned
    urls_per_object: int  # at most, within one window
    urls_checked: int
    urls_refused: int

    @classmethod
    def of(
        cls,
        side: Side,
        checked: Check,
        *,
        rotation: int,
        resolutions: int,
        signatures: int,
        signed_by_boto3: int,
        boto3_signing_calls: int,
    ) -> "Figures":
        """Sum up *side*. *rotation*: seconds from one URL of an object to the next."""
        counted = sorted(side.seconds[WARM_UP:])
        return cls(
            page_median=statistics.median(counted),
            page_p95=counted[ceil(0.95 * len(counted)) - 1],
            resolutions=resolutions,
            signatures=signatures,
            signed_by_boto3=signed_by_boto3,
            boto3_signing_calls=boto3_signing_calls,
            urls_per_object=urls_per_object(side.pages, rotation),
            urls_checked=checked.asked,
            urls_refused=checked.refused,
        )

    @property
    def hit_rate(self) -> float:
        """Which part of the URLs needed no signature, from 0 to 1."""
        return 1 - self.signatures / self.resolutions if self.resolutions else 0.0


@dataclass(frozen=True, slots=True)
class SecondWorker:
    """What was measured of a worker whose first page was loaded after all those of another one."""

    resolutions: int  # URLs that were asked for
    signatures: int  # of them, those for which it made a signature
    from_shared: int  # of them, those that the first worker had signed and shared
    boto3_signing_calls: int  # with which plans were learned
    urls_per_object: int  # at most, over both workers and within one window
    urls_checked: int
    urls_refused: int

    @classmethod
    def of(
        cls, first: Side, second: Side, checked: Check, counts: Mapping[str, int], *, rotation: int
    ) -> "SecondWorker":
        """Sum up *second* and its *counts*. *rotation* is as for `Figures.of`."""
        return cls(
            resolutions=counts["resolved"],
            signatures=counts["from_signer"],
            from_shared=counts["from_shared"],
            boto3_signing_calls=counts["signed_by_boto3"] + learned_of_boto3(counts),
            urls_per_object=urls_per_object([*first.pages, *second.pages], rotation),
            urls_checked=checked.asked,
            urls_refused=checked.refused,
        )


@dataclass(frozen=True, slots=True)
class Workers:
    """A second worker without memcached, and one that shares with the first through it."""

    alone: SecondWorker
    sharing: SecondWorker


def learned_of_boto3(counts: Mapping[str, int]) -> int:
    """Return how often boto3 was asked only to learn what its URLs look like."""
    return counts["plans_proven"] + counts["plans_refused"]


def drive(sides: Sequence[Side], pages: int, advance: Advance) -> None:
    """Load *pages* pages of each side after the warm-up, in turn, so that noise meets both alike."""
    for number in range(WARM_UP + pages):
        for side in sides if number % 2 else reversed(sides):
            side.load()
            advance()


def steps_of_check(side: Side) -> int:
    """Return how often `check` will advance."""
    return len(_to_check(side))


def check(side: Side, stored: Sequence[bytes], advance: Advance) -> Check:
    """
    Fetch every link of the last page of *side*, and some of each other page.

    A link whose answer is not 200 with the very bytes that were *stored* in its place
    counts as refused; so does a page that lacks a link, since a fetch of its own failed.
    """
    links = _to_check(side)
    refused = sum(len(page) != len(stored) for page in side.pages)
    for place, link in links:
        response = side.http.get(link)
        refused += response.status_code != 200 or response.content != stored[place]
        advance()
    return Check(len(links), refused)


def check_private(side: Side, advance: Advance) -> Check:
    """Fetch every link of the last page without its signature: S3 should refuse each with 403."""
    refused = 0
    for link in side.pages[-1]:
        refused += side.http.get(link.partition("?")[0]).status_code == 403
        advance()
    return Check(len(side.pages[-1]), refused)


def urls_per_object(pages: Sequence[Sequence[str]], rotation: int) -> int:
    """
    Return how many distinct URLs the object with the most of them had at a time.

    That is within one window, which begins every *rotation* seconds, for each object at instants of
    its own (`Rotation.date`): a URL of the next one follows in its turn, however late the other was dated.
    The bucket is the first segment of the path of each link, and not a part of its host.
    """
    links = dict.fromkeys(link for page in pages for link in page)
    return max(Counter(_window(link, rotation) for link in links).values(), default=0)


def _window(link: str, rotation: int) -> tuple[str, int]:
    """Return the quoted key of *link*, and the number of the window in which it is dated."""
    _, _, key = urlsplit(link).path.removeprefix("/").partition("/")
    return key, (_date(link) - crc32(key.encode())) // rotation


def _to_check(side: Side) -> list[tuple[int, str]]:
    """Return links and their places on their pages, of each page others."""
    *earlier, last = side.pages
    wanted = [(number * _SAMPLE + n, page) for number, page in enumerate(earlier) for n in range(_SAMPLE)]
    some = [(place % len(page), page[place % len(page)]) for place, page in wanted if page]
    return [*enumerate(last), *some]


def _date(link: str) -> int:
    """Return X-Amz-Date of *link* in Unix seconds."""
    return timegm(strptime(parse_qs(urlsplit(link).query)["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ"))
