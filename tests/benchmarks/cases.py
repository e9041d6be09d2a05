"""Who meets whom, and what this library wants to reach."""

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

from .ours import Ours
from .peers import Boto3, Cachetools, Dict, Hashes, Obstore
from .rounds import Case
from .workload import KEYS, TARGETS

__all__ = ["GOALS", "Goal", "cases"]

_HELD = "Held: one URL a call"
_HELD_PAGE = "Held: a page of 200"
_COLD = "Cold: one URL a call"
_COLD_PAGE = "Cold: a page of 200"


@dataclass(frozen=True, slots=True)
class Goal:
    """What *ours* shall take at most, as a multiple of what *peer* takes in the same case."""

    text: str
    case: str
    ours: str
    peer: str
    at_most: float


GOALS = (
    Goal("local hit within 3x of a bare dict look-up with expiry check", _HELD, "url()", Dict.NAME, 3),
    Goal("plan-signed URL at least 20x faster than boto3 through url()", _COLD, "url()", Boto3.NAME, 1 / 20),
    Goal("at least 40x in urls() of 200", _COLD_PAGE, "urls()", Boto3.NAME, 1 / 40),
)


def cases(runner: asyncio.Runner) -> tuple[Case, ...]:
    """Return the cases, everybody ready; raise AssertionError if they do not make the same URLs."""
    ours, boto3, obstore = Ours(runner), Boto3(), Obstore()
    cachetools = Cachetools(boto3)
    known = boto3.url(KEYS[0])
    _same_url(known, ours.url(TARGETS[0]))
    _same_url(known, obstore.url(KEYS[0]) or known)
    held, hashes = Dict(known), Hashes(boto3.url)
    size = len(TARGETS)
    return (
        Case(
            _HELD,
            1,
            (held.NAME, cachetools.NAME),
            (*ours.finds_each(), held.finds(), held.finds_by_function(), cachetools.finds()),
        ),
        Case(
            _HELD_PAGE,
            size,
            (held.NAME, cachetools.NAME),
            (*ours.finds_pages(), held.finds(), cachetools.finds(), obstore.signs_all(), boto3.signs()),
        ),
        Case(
            _COLD,
            1,
            (boto3.NAME, obstore.NAME),
            (*ours.signs_each(), hashes.hashes(), obstore.signs_each(), boto3.signs(), cachetools.signs()),
        ),
        Case(
            _COLD_PAGE,
            size,
            (boto3.NAME, obstore.NAME_OF_LIST),
            (
                *ours.signs_pages(),
                hashes.hashes(),
                obstore.signs_all(),
                obstore.signs_each(),
                boto3.signs(),
                cachetools.signs(),
            ),
        ),
    )


def _same_url(one: str, other: str) -> None:
    """Raise AssertionError unless both are URLs of the same object with the same kind of signature."""
    first, second = urlsplit(one), urlsplit(other)
    if first[:3] != second[:3] or len(first.query) != len(second.query):
        raise AssertionError(f"contenders sign different things: {first[:3]} and {second[:3]}")
