"""Who meets whom, part by part."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain
from urllib.parse import urlsplit

from presign_middleware.testing import Memcached

from .answers import LINKS, Answers
from .caches import Aiocache, Cachetools, Cashews, Dogpile
from .clients import Aiomcache, Emcache, Pymemcache, PymemcacheHash
from .floors import Floors, SharedFloors
from .idle import Asgi, Fetches, Wsgi
from .layers import URL, cold_layers, shared_layers
from .ours import Fleet, Ours, gets_many
from .peers import Aiobotocore, Boto3, Dict, Hashes, Signers
from .rounds import Case
from .workload import KEYS, MANY_KEYS, MANY_TARGETS, PAGE, TARGETS, pages

__all__ = [
    "ANSWER",
    "COLD",
    "COLD_LAYERS",
    "COLD_PAGE",
    "HELD",
    "HELD_PAGE",
    "IDLE_ASGI",
    "IDLE_WSGI",
    "SHARED",
    "SHARED_LAYERS",
    "SHARED_PAGE",
    "SHARED_SERVERS",
    "UNCOVERED_HTTPX",
    "UNCOVERED_REQUESTS",
    "idle_cases",
    "page_cases",
    "shared_cases",
    "url_cases",
]

ANSWER = "A Pydantic response of 1,000 links, cold"
HELD = "Held: one URL a call"
HELD_PAGE = "Held: a page of 200"
COLD = "Cold: one URL a call"
COLD_PAGE = "Cold: a page of 200"
COLD_LAYERS = "Inside a url(), cold"
IDLE_ASGI = "Idle: an ASGI request that fetches nothing"
IDLE_WSGI = "Idle: a WSGI request that fetches nothing"
UNCOVERED_HTTPX = "Not covered: a fetch of httpx"
UNCOVERED_REQUESTS = "Not covered: a fetch of requests"
SHARED = "Shared: one URL a call"
SHARED_PAGE = "Shared: a page of 100 from asyncio"
SHARED_LAYERS = "Inside a url(), shared"
SHARED_SERVERS = "Shared: 100 entries of three servers"

#: Links of the other pages.
_SIZES = (1, 50, 1_000)


def url_cases(runner: asyncio.Runner, aiobotocore: Aiobotocore, ending: ExitStack) -> tuple[Case, ...]:
    """
    Return the cases of one URL and of a page of 200, everybody ready.

    What they leave open is closed with *ending*. Raises AssertionError if this library, boto3 and
    obstore do not make the same URLs.
    """
    ours, boto3, signers = Ours(runner), Boto3(), Signers()
    cachetools = Cachetools(boto3)
    known = boto3.url(KEYS[0])
    _same_url(known, ours.url(TARGETS[0]))
    for name, url in signers.urls(KEYS[0]).items():
        _same_signature(name, known, url)
    held, hashes, floors = Dict(known), Hashes(boto3.url), Floors(boto3.url)
    size = len(TARGETS)
    return (
        Case(
            HELD,
            1,
            (held.NAME, boto3.NAME),
            (
                *ours.finds_each(),
                held.finds(),
                held.finds_by_function(),
                cachetools.finds(),
                Dogpile(boto3).finds(),
                *Cashews(boto3, runner, ending).finds(),
                Aiocache(boto3, runner, ending).finds(),
                boto3.signs(),
            ),
        ),
        Case(
            HELD_PAGE,
            size,
            (held.NAME, boto3.NAME),
            (*ours.finds_pages(), held.finds(), cachetools.finds(), *signers.signs_all(), boto3.signs()),
        ),
        Case(
            COLD,
            1,
            (hashes.NAME, boto3.NAME),
            (
                *ours.signs_each(),
                hashes.hashes(),
                floors.signs_each(),
                *signers.signs_each(),
                boto3.signs(),
                aiobotocore.signs(),
                cachetools.signs(),
            ),
        ),
        Case(
            COLD_PAGE,
            size,
            (hashes.NAME, boto3.NAME),
            (
                *ours.signs_pages(),
                hashes.hashes(),
                floors.signs_pages(),
                *signers.signs_all(),
                *signers.signs_each(),
                boto3.signs(),
                aiobotocore.signs(),
                cachetools.signs(),
            ),
        ),
        Case(COLD_LAYERS, 1, (URL,), cold_layers(ours)),
    )


def page_cases(runner: asyncio.Runner) -> tuple[Case, ...]:
    """Return the cases of the other pages, held and cold, each in a scope as a request has it."""
    ours, boto3, signers = Ours(runner), Boto3(), Signers()
    cachetools = Cachetools(boto3)
    found = []
    for size in _SIZES:
        key_pages, target_pages = pages(MANY_KEYS, size), pages(MANY_TARGETS, size)
        keys, targets = [*chain(*key_pages)], [*chain(*target_pages)]
        held = Dict(boto3.url(KEYS[0]), targets)
        found += [
            Case(
                f"Held: a page of {size:,}",
                size,
                (held.NAME, boto3.NAME),
                (*ours.finds_these(target_pages), held.finds(), cachetools.finds(keys), boto3.signs(keys)),
            ),
            Case(
                f"Cold: a page of {size:,}",
                size,
                (signers.OBSTORE_LIST, boto3.NAME),
                (*ours.signs_these(target_pages), *signers.signs_these(key_pages), boto3.signs(keys)),
            ),
        ]
    return (
        *found,
        Case(ANSWER, LINKS, (Answers.BOTO3, Answers.TARGETS), Answers(runner, boto3).links()),
    )


def idle_cases(runner: asyncio.Runner, ending: ExitStack) -> tuple[Case, ...]:
    """Return the cases in which there is nothing to sign. What they leave open is closed with *ending*."""
    asgi, wsgi, fetches = Asgi(runner), Wsgi(), Fetches(ending)
    return (
        Case(IDLE_ASGI, 1, (asgi.NAME, asgi.NAME_OF_NOTHING), asgi.requests(), "us each"),
        Case(IDLE_WSGI, 1, (wsgi.NAME_OF_FLASK, wsgi.NAME), wsgi.requests(), "us each"),
        Case(UNCOVERED_HTTPX, 1, (fetches.HTTPX,), fetches.with_httpx(), "us each"),
        Case(UNCOVERED_REQUESTS, 1, (fetches.REQUESTS,), fetches.with_requests(), "us each"),
    )


def shared_cases(
    runner: asyncio.Runner, server: Memcached, others: Sequence[Memcached], ending: ExitStack
) -> tuple[Case, ...]:
    """
    Return the cases in which *server* has every URL and the process none, everybody ready.

    In the last one *others* have a page of entries. What they leave open is closed with
    *ending*. Raises AssertionError if this library and boto3 do not make the same URLs.
    """
    fleet, boto3 = Fleet(runner, server.url, ending), Boto3()
    _same_url(boto3.url(KEYS[0]), fleet.url(TARGETS[0]))
    host, port = server.host, server.port
    pymemcache = Pymemcache(host, port, ending)
    page = fleet.keys[: len(PAGE)]
    emcache = Emcache(runner, host, port, page, ending)
    aiomcache = Aiomcache(runner, host, port, page, ending)
    floors = SharedFloors(runner, host, port, boto3.url, ending)
    return (
        Case(
            SHARED,
            1,
            (pymemcache.NAME, pymemcache.NAME_OF_SESSIONS),
            (
                *fleet.finds_each(),
                floors.gets_each(),
                pymemcache.gets(pymemcache.NAME, fleet.keys),
                pymemcache.gets(pymemcache.NAME_OF_SESSIONS, fleet.temporary_keys),
                emcache.gets_each(),
                aiomcache.gets_each(),
                Dogpile(boto3).gets(host, port),
                Aiocache(boto3, runner, ending).gets(host, port),
            ),
        ),
        Case(
            SHARED_PAGE,
            len(PAGE),
            (emcache.NAME, emcache.NAME_OF_MANY),
            (
                *fleet.finds_pages(),
                *floors.gets_pages(),
                *emcache.gets(),
                emcache.gets_many(),
                aiomcache.gets(),
                aiomcache.gets_many(),
                pymemcache.gets_many(page),
            ),
        ),
        Case(SHARED_LAYERS, 1, (URL,), shared_layers(fleet, host, port, ending)),
        Case(
            SHARED_SERVERS,
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


def _same_signature(name: str, one: str, other: str) -> None:
    """Raise AssertionError unless both queries are of the same kind: some sign for another host of S3's."""
    if len(urlsplit(one).query) != len(urlsplit(other).query):
        raise AssertionError(f"{name} signs something else than boto3")
