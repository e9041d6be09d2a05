"""Who meets whom, and what this library wants to reach."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

from presign_middleware.testing import Memcached

from .answers import LINKS, Answers
from .idle import Asgi, Fetches, Wsgi
from .ours import Fleet, Ours, gets_many
from .peers import Boto3, Cachetools, Dict, Emcache, Hashes, Obstore, Pymemcache, PymemcacheHash
from .rounds import Case
from .workload import KEYS, PAGE, TARGETS

__all__ = ["GOALS", "Goal", "cases", "idle_cases", "shared_cases"]

_HELD = "Held: one URL a call"
_HELD_PAGE = "Held: a page of 200"
_COLD = "Cold: one URL a call"
_COLD_PAGE = "Cold: a page of 200"
_ANSWER = "A Pydantic response of 1,000 links, cold"
_IDLE_ASGI = "Idle: an ASGI request that fetches nothing"
_IDLE_WSGI = "Idle: a WSGI request that fetches nothing"
_UNCOVERED_HTTPX = "Not covered: a fetch of httpx"
_UNCOVERED_REQUESTS = "Not covered: a fetch of requests"
_SHARED = "Shared: one URL a call"
_SHARED_PAGE = "Shared: a page of 100 from asyncio"
_SHARED_SERVERS = "Shared: 100 entries of three servers"


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
    Goal("at least 40x in a response of 1,000 links", _ANSWER, "link()", Answers.BOTO3, 1 / 40),
    Goal(
        "a request that fetches nothing within 1.15x of Starlette's",
        _IDLE_ASGI,
        "PresignMiddleware()",
        Asgi.NAME,
        1.15,
    ),
    Goal(
        "an uncovered fetch within 1.15x of httpx without a hook",
        _UNCOVERED_HTTPX,
        "intercept(httpx)",
        Fetches.HTTPX,
        1.15,
    ),
    Goal(
        "an uncovered fetch within 1.15x of requests without a hook",
        _UNCOVERED_REQUESTS,
        "intercept(requests)",
        Fetches.REQUESTS,
        1.15,
    ),
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
        Case(_ANSWER, LINKS, (Answers.BOTO3, Answers.TARGETS), Answers(runner, boto3).links()),
    )


def idle_cases(runner: asyncio.Runner, ending: ExitStack) -> tuple[Case, ...]:
    """Return the cases in which there is nothing to sign. What they leave open is closed with *ending*."""
    asgi, wsgi, fetches = Asgi(runner), Wsgi(), Fetches(ending)
    return (
        Case(_IDLE_ASGI, 1, (asgi.NAME, asgi.NAME_OF_NOTHING), asgi.requests(), "us each"),
        Case(_IDLE_WSGI, 1, (wsgi.NAME_OF_FLASK, wsgi.NAME), wsgi.requests(), "us each"),
        Case(_UNCOVERED_HTTPX, 1, (fetches.HTTPX,), fetches.with_httpx(), "us each"),
        Case(_UNCOVERED_REQUESTS, 1, (fetches.REQUESTS,), fetches.with_requests(), "us each"),
    )


def shared_cases(
    runner: asyncio.Runner, server: Memcached, others: Sequence[Memcached], ending: ExitStack
) -> tuple[Case, ...]:
    """
    Return the cases in which *server* has every URL and the process none, everybody ready.

    In the last one *others* have a page of entries. What they leave open is closed with
    *ending*. Raises AssertionError as `cases` does.
    """
    fleet = Fleet(runner, server.url, ending)
    _same_url(Boto3().url(KEYS[0]), fleet.url(TARGETS[0]))
    pymemcache = Pymemcache(server.host, server.port, ending)
    page = fleet.keys[: len(PAGE)]
    emcache = Emcache(runner, server.host, server.port, page, ending)
    return (
        Case(
            _SHARED,
            1,
            (pymemcache.NAME, pymemcache.NAME_OF_SESSIONS),
            (
                *fleet.finds_each(),
                pymemcache.gets(pymemcache.NAME, fleet.keys),
                pymemcache.gets(pymemcache.NAME_OF_SESSIONS, fleet.temporary_keys),
            ),
        ),
        Case(
            _SHARED_PAGE,
            len(PAGE),
            (emcache.NAME, emcache.NAME_OF_MANY),
            (*fleet.finds_pages(), *emcache.gets(), emcache.gets_many(), pymemcache.gets_many(page)),
        ),
        Case(
            _SHARED_SERVERS,
            len(PAGE),
            (PymemcacheHash.NAME, pymemcache.NAME_OF_ONE),
            (
                gets_many(others, page, ending),
                PymemcacheHash(others, page, ending).gets_many(),
                pymemcache.gets_many(page, pymemcache.NAME_OF_ONE),
            ),
        ),
    )


def _same_url(one: str, other: str) -> None:
    """Raise AssertionError unless both are URLs of the same object with the same kind of signature."""
    first, second = urlsplit(one), urlsplit(other)
    if first[:3] != second[:3] or len(first.query) != len(second.query):
        raise AssertionError(f"contenders sign different things: {first[:3]} and {second[:3]}")
