"""
Fallback origins: how they are configured, and what ``@presigned`` does with them.

What every client does with them is in ``test_healing.py``.
"""

import asyncio
import io
import urllib.error
from collections.abc import Callable, Iterator
from typing import Any, Final

import aiohttp
import botocore.exceptions
import httpx
import pytest
import requests
from ways import Door, opened, origin

from presign_middleware import ConfigurationError, Origin, Policy, Presigner, SignedURL, presigned
from presign_middleware.testing import Clock

OLD: Final = "s3://media/old.jpg"


@pytest.fixture
def archive(s3_clock: Clock) -> Iterator[Door]:
    with opened(Door(clock=s3_clock)) as door:
        door.create_bucket("archive", region="eu-west-1")
        door.put("archive", "old.jpg", b"an old cat")
        yield door


@pytest.fixture
def presigner(door: Door, archive: Door) -> Presigner:
    first, second = origin(door), origin(archive, "archive", bucket="archive")
    return Presigner(first, second, clock=door.clock)  # type: ignore[arg-type]  # a door's clock is a whole one


def by_response(url: str) -> Any:
    return httpx.get(url)


def by_httpx(url: str) -> Any:
    return httpx.get(url).raise_for_status().content


def by_requests(url: str) -> Any:
    response = requests.get(url, timeout=5)
    response.raise_for_status()
    return response.content


def by_urllib(url: str) -> Any:
    status = httpx.get(url).status_code
    if status == 404:
        raise urllib.error.HTTPError("", 404, "Not Found", None, io.BytesIO())  # type: ignore[arg-type]
    return b"an old cat"


def by_boto3(url: str) -> Any:
    if httpx.get(url).status_code == 404:
        raise botocore.exceptions.ClientError({"ResponseMetadata": {"HTTPStatusCode": 404}}, "GetObject")  # type: ignore[typeddict-item]
    return b"an old cat"


async def by_async_httpx(url: str) -> Any:
    async with httpx.AsyncClient() as client:
        return await client.get(url)


async def by_aiohttp(url: str) -> Any:
    async with aiohttp.ClientSession(raise_for_status=True) as session, session.get(url) as response:
        return await response.read()


def called(function: Callable[..., Any], *args: Any) -> Any:
    answer = function(*args)
    return asyncio.run(answer) if asyncio.iscoroutine(answer) else answer


@pytest.mark.parametrize(
    "fetch", [by_response, by_httpx, by_requests, by_urllib, by_boto3, by_async_httpx, by_aiohttp]
)
def test_a_function_runs_again_with_the_fallback(
    presigner: Presigner, door: Door, archive: Door, fetch: Callable[[str], Any]
) -> None:
    """H4: when its response or exception has status 404; the next time it runs there at once."""
    decorated = presigned(presigner, fallback="archive")(fetch)
    for _ in range(3):
        found = called(decorated, OLD)
        assert getattr(found, "content", found) == b"an old cat"
    assert (len(door.arrived), len(archive.arrived)) == (1, 3)


def test_what_no_origin_has_is_the_functions_own_answer(presigner: Presigner, archive: Door) -> None:
    """H4: the last one that it gave."""
    decorated = presigned(presigner, fallback="archive")(by_httpx)
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        decorated("s3://media/no.jpg")
    assert presigned(presigner, fallback="archive")(by_response)("s3://media/no.jpg").status_code == 404
    assert len(archive.arrived) == 2


def test_other_failures_are_the_callers(presigner: Presigner, archive: Door) -> None:
    """H4: a function runs once, whatever else it raises or returns."""

    @presigned(presigner, fallback="archive")
    def fail(url: str) -> None:
        raise OSError(404, "no such file")

    with pytest.raises(OSError, match="no such file"):
        fail(OLD)
    assert archive.arrived == []


def test_the_origins_own_fallback_counts_too(door: Door, archive: Door) -> None:
    """H4: ``@presigned`` alone goes where the origin falls back to, and links lead there for a while."""
    first, second = origin(door, fallback="archive"), origin(archive, "archive", bucket="archive")
    own = Presigner(first, second, clock=door.clock, policy=Policy(fallback_ttl=5))  # type: ignore[arg-type]
    assert own.url(OLD).startswith(door.base)
    assert presigned(own)(by_response)(OLD).content == b"an old cat"
    assert own.url(OLD).startswith(archive.base)
    assert [url.startswith(archive.base) for url in own.urls([OLD, "s3://media/cat.jpg"])] == [True, False]
    found = own.resolve(OLD)
    assert isinstance(found, SignedURL)
    assert (found.origin, found.original_url) == ("archive", OLD)
    door.clock.advance(6)  # type: ignore[attr-defined]
    assert own.url(OLD).startswith(door.base)


def test_a_name_that_is_no_origin(presigner: Presigner) -> None:
    with pytest.raises(ConfigurationError, match="known are media, archive"):
        presigned(presigner, fallback="backup")(by_httpx)(OLD)


def test_a_generator_cannot_begin_anew(presigner: Presigner) -> None:
    def parts(url: str) -> Iterator[str]:
        yield url

    with pytest.raises(ConfigurationError, match="is a generator"):
        presigned(presigner, fallback="archive")(parts)


@pytest.mark.parametrize(
    ("origins", "message"),
    [
        ([Origin("a", bucket="aaa", fallback="b")], "no origin is called that; known are a"),
        ([Origin("a", bucket="aaa", fallback="a")], "leads back to itself"),
        (
            [Origin("a", bucket="aaa", fallback="b"), Origin("b", bucket="bbb", fallback="a")],
            "leads back to itself",
        ),
        (
            [Origin("a", bucket="aaa", prefix="x/", fallback="b"), Origin("b", bucket="bbb", prefix="x/y/")],
            "its keys begin with 'x/', those of b with 'x/y/'",
        ),
    ],
)
def test_a_fallback_that_cannot_work(origins: list[Origin], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Presigner(*origins)


def test_the_short_form_has_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    both = "media=s3://acme-media/?region=eu-west-1&fallback=old old=s3://acme-old/?region=eu-west-1"
    monkeypatch.setenv("PRESIGN_ORIGINS", both)
    monkeypatch.setenv("PRESIGN_FALLBACK_TTL", "5")
    presigner = Presigner.from_env()
    assert presigner.origins["media"].fallback == "old"
    assert presigner.policy.fallback_ttl == 5


def test_a_chain_is_followed_to_its_end(door: Door, archive: Door) -> None:
    """H4: an origin that falls back to one that falls back."""
    door.create_bucket("middle", region="eu-west-1")
    chain = Presigner(
        origin(door, fallback="middle"),
        origin(door, "middle", bucket="middle", fallback="archive"),
        origin(archive, "archive", bucket="archive"),
        clock=door.clock,  # type: ignore[arg-type]
    )
    assert presigned(chain)(by_response)(OLD).content == b"an old cat"
    assert (len(door.arrived), len(archive.arrived)) == (2, 1)
