"""
What holds for aiohttp, with hooks inside a scope and with a `PresignClientMiddleware`.

One suite, run in both ways, against the strict oracle behind a real socket.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import inspect
import logging
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import boto3
import pytest
import yarl
from aiohttp import web
from aiohttp.test_utils import TestServer
from clients import OneShot
from test_contract import KEYS, UNCOVERED, everything
from test_interception import in_a_new_interpreter
from test_requests import BASIC
from test_urllib3 import tls, tunnel_once
from ways import ACCESS_KEY, SIGNATURE, Door, opened, origin, presigner_for, signed

from presign_middleware import Origin, Policy, Presigner, SigningError, intercept
from presign_middleware.clients.aiohttp import PresignClientMiddleware, opt_out
from presign_middleware.testing import Clock, SeaweedFS

__all__ = ["tls"]  # a fixture of test_urllib3

Middleware = Callable[[aiohttp.ClientRequest, aiohttp.ClientHandlerType], Awaitable[aiohttp.ClientResponse]]


class Answer(NamedTuple):
    """A response that was read to its end."""

    status: int
    body: bytes
    response: aiohttp.ClientResponse


async def read(call: Any) -> Answer:
    """Return the answer to *call*, a session's ``get`` or the like."""
    async with call as response:
        return Answer(response.status, await response.read(), response)


@dataclasses.dataclass(frozen=True)
class Way:
    """Hooks or a middleware. Each `fetch` is one request of an application."""

    is_explicit: bool  #: a PresignClientMiddleware; else hooks, inside a scope
    presigner: Presigner

    def using(self, presigner: Presigner) -> "Way":
        """Return this way with another presigner."""
        return dataclasses.replace(self, presigner=presigner)

    def scope(self) -> AbstractContextManager[object]:
        """Return what an application's request is served in: a hook needs a scope, a middleware none."""
        return contextlib.nullcontext() if self.is_explicit else self.presigner.scope()

    def session(self, *, middlewares: Sequence[Middleware] = (), **settings: Any) -> aiohttp.ClientSession:
        """Return a session whose fetches get signed; *middlewares* stand around what signs."""
        ours = (PresignClientMiddleware(self.presigner),) if self.is_explicit else ()
        return aiohttp.ClientSession(middlewares=(*middlewares, *ours), **settings)

    def run(self, body: Callable[[aiohttp.ClientSession], Awaitable[Any]], **settings: Any) -> Any:
        """Return what ``await body(session)`` returns, in one scope."""

        async def awaited() -> Any:
            async with self.session(**settings) as session:
                return await body(session)

        with self.scope():
            return asyncio.run(awaited())

    def fetch_all(
        self,
        urls: Sequence[str | yarl.URL],
        method: str = "GET",
        *,
        session: dict[str, Any] | None = None,
        **options: Any,
    ) -> list[Answer]:
        """Return the answers to *urls*, fetched one after another by one session of these settings."""

        async def body(client: aiohttp.ClientSession) -> list[Answer]:
            return [await read(client.request(method, url, **options)) for url in urls]

        found: list[Answer] = self.run(body, **(session or {}))
        return found

    def fetch(self, url: str | yarl.URL, method: str = "GET", **options: Any) -> Answer:
        """Return the answer to one request; redirects are followed."""
        return self.fetch_all([url], method, **options)[0]


@pytest.fixture
def door(s3_clock: Clock) -> Iterator[Door]:
    with opened(Door(clock=s3_clock)) as door:
        yield door


@pytest.fixture
def live_door() -> Iterator[Door]:
    """Give a door on the real clock, for what boto3 signs: it knows no other."""
    with opened(Door()) as door:
        yield door


@pytest.fixture(params=[False, True], ids=["hook", "middleware"])
def way(request: pytest.FixtureRequest, door: Door) -> Iterator[Way]:
    way = Way(request.param, presigner_for(door))
    with contextlib.nullcontext() if way.is_explicit else intercept("aiohttp"):
        yield way


@pytest.fixture
def hook(door: Door) -> Way:
    """Give the way of hooks, with nothing hooked yet."""
    return Way(False, presigner_for(door))


def asked(door: Door) -> list[str]:
    """Return the URL of each request that arrived, as it was on the wire."""
    return [f"{door.base}{request.path}?{request.query}".removesuffix("?") for request in door.arrived]


# --- C1: which fetches are signed ---------------------------------------------------------------------------


def test_a_covered_fetch_arrives(way: Way, door: Door) -> None:
    """C1: a fetch of an unsigned URL of an origin is signed, and the strict S3 accepts it."""
    answer = way.fetch(door.cat)
    assert (answer.status, answer.body) == (200, b"a cat")
    assert (way.presigner.stats()["signed"], way.presigner.stats()["caught"]) == (1, 1)


def test_a_real_server_answers(way: Way, seaweedfs: SeaweedFS) -> None:
    """C1, S3: what is sent is what a real S3 accepts, for GET and HEAD and a key to be quoted."""
    client = seaweedfs.client()
    session = boto3.Session(seaweedfs.access_key, seaweedfs.secret_key, region_name=seaweedfs.region)
    bucket = f"aiohttp-{'middleware' if way.is_explicit else 'hook'}"
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="a b~ü.jpg", Body=b"a cat")
    media = Origin("media", bucket=bucket, endpoint_url=seaweedfs.endpoint_url, session=session)
    real = way.using(Presigner(media))
    url = f"{seaweedfs.endpoint_url}/{bucket}/a b%7Eü.jpg"
    assert real.fetch(url).body == b"a cat"
    assert real.fetch(url, method="HEAD").status == 200
    with real.presigner.paused():
        assert real.fetch(url).status == 403


def test_what_is_sent_is_the_signed_url_byte_for_byte(way: Way, door: Door) -> None:
    """C3: yarl, which would make ``/`` of %2F in a query, does not touch it."""
    door.put("media", "a b+~ü.jpg", b"odd")
    odd = f"{door.base}/media/a%20b+%7Eü.jpg"
    assert [answer.body for answer in way.fetch_all([door.cat, odd])] == [b"a cat", b"odd"]
    assert [way.presigner.url(url) for url in (door.cat, odd)] == asked(door)
    assert "%2F" in asked(door)[0]


def test_the_request_line_has_what_the_peer_needs(way: Way, door: Door) -> None:
    """C3: path and query for a server, the whole URL for a proxy, and the version that aiohttp speaks."""
    lines: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append((await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0].decode())
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        plain = way.using(presigner_for(door, endpoint_url=base))
        url = f"{base}/media/cat.jpg"

        async def body(session: aiohttp.ClientSession) -> None:
            async with (
                await asyncio.start_server(answer, sock=listener),
                plain.session(version=aiohttp.HttpVersion10) as older,
            ):
                for one in (session, older):
                    await read(one.get(url))
                    await read(one.get(url, proxy=base))

        plain.run(body)
    expected = plain.presigner.url(url)
    assert [
        f"GET {target} HTTP/{version}"
        for version in ("1.1", "1.0")
        for target in (expected.removeprefix(base), expected)
    ] == lines


def test_a_connection_is_used_again(way: Way, door: Door) -> None:
    """C3: the pool knows hosts, not signatures: one connection, and each request is signed for itself."""
    door.put("media", "dog.jpg", b"a dog")
    dog = f"{door.base}/media/dog.jpg"
    events: list[str] = []

    async def created(*args: Any) -> None:
        events.append("created")

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(created)
    answers = way.fetch_all(
        [door.cat, dog, door.cat, f"{door.base}/other"], session={"trace_configs": [trace]}
    )
    assert [answer.body for answer in answers[:3]] == [b"a cat", b"a dog", b"a cat"]
    assert (signed(door), events) == ([True, True, True, False], ["created"])
    assert way.presigner.stats()["signed"] == 2


def test_a_session_with_a_base_url_is_caught(way: Way, door: Door) -> None:
    """C1: what counts is the URL that is sent, however the session put it together."""
    answer = way.fetch("cat.jpg", session={"base_url": f"{door.base}/media/"})
    assert answer.body == b"a cat"


def test_a_streamed_response_arrives(way: Way, door: Door) -> None:
    """C1: a response that is read in pieces is like any other."""

    async def streamed(session: aiohttp.ClientSession) -> bytes:
        async with session.get(door.cat) as response:
            return b"".join([chunk async for chunk in response.content.iter_chunked(2)])

    assert way.run(streamed) == b"a cat"


def test_module_functions_are_caught(hook: Way, door: Door) -> None:
    """C1: ``aiohttp.request`` makes a session of its own, which is hooked as well."""

    async def fetch() -> Answer:
        return await read(aiohttp.request("GET", door.cat))

    with intercept("aiohttp"), hook.scope():
        assert asyncio.run(fetch()).body == b"a cat"


def test_a_session_made_before_the_hook_is_caught(hook: Way, door: Door) -> None:
    """C1: also one whose connection is open already."""

    async def fetch(session: aiohttp.ClientSession) -> list[int]:
        before = await read(session.get(door.cat))
        with intercept("aiohttp"):
            return [before.status, (await read(session.get(door.cat))).status]

    assert hook.run(fetch) == [403, 200]


def test_middlewares_of_one_call_are_no_obstacle_to_a_hook(hook: Way, door: Door) -> None:
    """C1: ``middlewares=`` of a call replaces the session's, and the hook is below both."""
    with intercept("aiohttp"):
        assert hook.fetch(door.cat, middlewares=()).status == 200
        assert hook.fetch(door.cat, middlewares=(noting([]),)).status == 200


def noting(seen: list[str]) -> Middleware:
    """Return a middleware that keeps the URL of every request it sees, before and after it was sent."""

    async def middleware(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        seen.append(str(request.url))
        response = await handler(request)
        seen.append(str(request.url))
        return response

    return middleware


def test_a_request_class_of_ones_own_is_caught(way: Way, door: Door) -> None:
    """C1: one that calls ``super()`` is caught there, and sees the unsigned URL itself."""
    seen: list[str] = []

    class Mine(aiohttp.ClientRequest):
        async def send(self, conn: Any) -> aiohttp.ClientResponse:
            seen.append(str(self.url))
            return await super().send(conn)

    assert way.fetch(door.cat, session={"request_class": Mine}).body == b"a cat"
    assert ([door.cat], 1) == (seen, way.presigner.stats()["caught"])


async def twice(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request twice, as a middleware that retries does."""
    (await handler(request)).release()
    return await handler(request)


def test_a_request_that_a_middleware_sends_again_is_signed_again(way: Way, door: Door) -> None:
    """C1: a retrying middleware, around ours, has each attempt signed, once."""
    assert way.fetch(door.cat, session={"middlewares": (twice,)}).body == b"a cat"
    assert signed(door) == [True, True]
    assert way.presigner.stats()["caught"] == 2


def test_a_middleware_has_its_own_presigner(hook: Way, door: Door) -> None:
    """C1: under a hook the middleware's presigner signs, whatever the scope's is, and once."""
    other = Way(True, presigner_for(door))
    with intercept("aiohttp"), hook.presigner.scope():
        assert other.fetch(door.cat).body == b"a cat"
    assert (hook.presigner.stats()["caught"], other.presigner.stats()["caught"]) == (0, 1)


def test_a_middleware_that_does_not_cover_leaves_it_to_the_hook(hook: Way, door: Door) -> None:
    """O5: what the middleware's presigner does not cover is signed if the scope's covers it."""
    elsewhere = Way(True, presigner_for(door, prefix="private/"))
    with intercept("aiohttp"), hook.presigner.scope():
        assert elsewhere.fetch(door.cat).body == b"a cat"
    assert (hook.presigner.stats()["caught"], elsewhere.presigner.stats()["caught"]) == (1, 0)


def test_two_middlewares_share_the_work(hook: Way, door: Door) -> None:
    """C1: of two in one session the one that covers signs; where both do, the inner one."""
    narrow, wide = presigner_for(door, prefix="private/"), presigner_for(door)
    for presigners in ((narrow, wide), (wide, narrow), (presigner_for(door), wide)):
        ours = tuple(PresignClientMiddleware(presigner) for presigner in presigners)
        assert hook.fetch(door.cat, middlewares=ours).status == 200
    assert (narrow.stats()["caught"], wide.stats()["caught"]) == (0, 3)


def test_a_request_that_is_sent_again_between_two_middlewares_is_judged_again(hook: Way, door: Door) -> None:
    """C1, O4: by each of them once an attempt."""
    both = [presigner_for(door, prefix="private/") for _ in "ab"]
    outer, inner = (PresignClientMiddleware(presigner) for presigner in both)
    assert hook.fetch(door.cat, middlewares=(outer, twice, inner)).status == 403
    assert [presigner.stats()["passed_uncovered"] for presigner in both] == [2, 2]


LATER = """
import sys
from presign_middleware import intercept
ours = intercept()
assert "aiohttp" not in sys.modules, "intercept imported it"
{between}
from aiohttp.client_reqrep import ClientRequest
print("presign_middleware" in ClientRequest.send.__code__.co_filename)
"""


@pytest.mark.parametrize(("between", "expected"), [("", "True"), ("ours.remove()", "False")])
def test_it_is_hooked_when_it_is_imported(between: str, expected: str) -> None:
    """C1, C4: intercept does not import aiohttp; it is hooked as it comes, if that is still wanted."""
    assert expected == in_a_new_interpreter(LATER.format(between=between))


# --- C1: redirects ------------------------------------------------------------------------------------------


def test_a_redirect_within_an_origin_is_signed(way: Way, door: Door) -> None:
    """C1: a hop is signed when the first hop was covered by the same origin."""
    door.moved["/media/old.jpg"] = "/media/cat.jpg"
    assert way.fetch(f"{door.base}/media/old.jpg").body == b"a cat"
    assert signed(door) == [True, True]


def test_a_location_is_signed_as_the_key_it_names(way: Way, door: Door) -> None:
    """C1, C3: aiohttp requotes it, or with ``requote_redirect_url=False`` does not."""
    door.put("media", "a b~ü+.jpg", b"odd")
    door.moved["/media/old.jpg"] = "/media/a%20b%7E%C3%BC+.jpg"
    for requoted in (True, False):
        answer = way.fetch(f"{door.base}/media/old.jpg", session={"requote_redirect_url": requoted})
        assert answer.body == b"odd"


def test_an_uncovered_request_cannot_redirect_into_an_origin(way: Way, door: Door) -> None:
    """C1: whoever is asked first cannot have this process sign for them; the hop is counted."""
    door.moved["/attacker"] = "/attacker/again"
    door.moved["/attacker/again"] = "/media/cat.jpg"
    assert way.fetch(f"{door.base}/attacker").status == 403
    assert signed(door) == [False, False, False]
    assert way.presigner.stats()["passed_redirect"] == 1


def test_a_fetch_between_two_hops_changes_nothing(way: Way, door: Door) -> None:
    """C1: an attacker's redirect stays one, whatever the application fetches meanwhile, in whatever task."""
    door.moved["/attacker"] = "/media/cat.jpg"
    between: list[int] = []

    async def body(session: aiohttp.ClientSession) -> int:
        async def redirected(*args: Any) -> None:
            between.append((await read(other.get(door.cat))).status)

        async def in_a_task(
            request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
        ) -> aiohttp.ClientResponse:
            return await asyncio.create_task(handler(request))  # type: ignore[arg-type]  # it is a coroutine

        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(redirected)
        async with (
            way.session() as other,
            way.session(trace_configs=[trace], middlewares=(in_a_task,)) as outer,
        ):
            return (await read(outer.get(f"{door.base}/attacker"))).status

    assert (way.run(body), between) == (403, [200])
    assert signed(door) == [False, True, False]


def test_a_redirect_from_one_origin_to_another_is_not_signed(way: Way, door: Door, s3_clock: Clock) -> None:
    """C1: the origin that covered the first hop signs its redirects, and no other does."""
    door.create_bucket("secrets", region="eu-west-1")
    door.put("secrets", "plan.pdf", b"a plan")
    both = Presigner(origin(door), origin(door, "secrets", bucket="secrets"), clock=s3_clock)
    door.moved["/media/cat.jpg"] = "/secrets/plan.pdf"
    assert way.using(both).fetch(door.cat).status == 403
    assert signed(door) == [True, False]
    assert both.stats()["passed_redirect"] == 1


def test_a_redirect_from_a_middlewares_origin_to_a_hooks_is_not_signed(hook: Way, door: Door) -> None:
    """C1: an origin of another presigner is another origin, even if both are called "media"."""
    door.create_bucket("secrets", region="eu-west-1")
    door.put("secrets", "plan.pdf", b"a plan")
    door.moved["/media/cat.jpg"] = "/secrets/plan.pdf"
    private = presigner_for(door, bucket="secrets")
    with intercept("aiohttp"), private.scope():
        assert Way(True, hook.presigner).fetch(door.cat).status == 403
    assert signed(door) == [True, False]
    assert private.stats()["passed_redirect"] == 1


def test_a_redirect_to_another_host_carries_no_signature(way: Way, door: Door, s3_clock: Clock) -> None:
    """C1: a cross-host hop has neither the signed query nor the first hop's Host."""
    with opened(Door(clock=s3_clock)) as other:
        door.moved["/media/cat.jpg"] = f"{other.base}/elsewhere"
        way.fetch(door.cat)
        assert [(r.path, r.query) for r in other.arrived] == [("/elsewhere", "")]
        assert other.base == f"http://{other.arrived[0].host}"


def test_a_redirect_to_a_url_signed_here_arrives(way: Way, door: Door) -> None:
    """C1, S5: an application's own redirect to ``presigner.url(...)`` works as in a browser."""
    door.moved["/photo"] = way.presigner.url(door.cat)
    answer = way.fetch(f"{door.base}/photo")
    assert (answer.body, str(answer.response.url)) == (b"a cat", door.cat)


# --- C2: nobody but the socket sees the signature -----------------------------------------------------------


def shown(response: aiohttp.ClientResponse) -> set[str]:
    """Return every URL that a response has of its request."""
    info = response.request_info
    return {str(url) for url in (response.url, response.real_url, info.url, info.real_url)}


def test_a_response_and_its_history_show_unsigned_urls(way: Way, door: Door) -> None:
    """C2: ``url``, ``real_url`` and ``request_info``, of each hop, are what was asked for."""
    door.moved["/media/old.jpg"] = "/media/cat.jpg"
    old = f"{door.base}/media/old.jpg"
    response = way.fetch(old).response
    assert [{old}] == [shown(hop) for hop in response.history]
    assert {door.cat} == shown(response)
    for one in (response, *response.history):
        assert SIGNATURE not in f"{one!r}{vars(one)!r}"


def test_logs_show_unsigned_urls(way: Way, door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """C2, L1: no record at DEBUG has a signature."""
    door.moved["/media/old.jpg"] = "/media/cat.jpg"
    with caplog.at_level(logging.DEBUG):
        assert way.fetch(f"{door.base}/media/old.jpg").status == 200
    assert [text for text in map(everything, caplog.records) if SIGNATURE in text] == []


def test_a_status_error_shows_the_unsigned_url(way: Way, door: Door) -> None:
    """C2: the text of ``raise_for_status()`` has the URL the application asked for."""
    missing = f"{door.base}/media/missing.jpg"
    with pytest.raises(aiohttp.ClientResponseError, match=missing) as caught:
        way.fetch(missing, raise_for_status=True)
    assert SIGNATURE not in f"{caught.value!r}{caught.value}{caught.value.args!r}"


def test_errors_of_the_connection_show_the_unsigned_url(way: Way, door: Door) -> None:
    """C2: an exception, and its causes, have no signature, whether one connects or nobody answers."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        away = way.using(presigner_for(door, endpoint_url=base))
        urls = f"{base}/media/cat.jpg", away.presigner.url(f"{base}/media/cat.jpg")
        errors: list[BaseException | None] = []
        for url in urls:
            with pytest.raises(aiohttp.ClientConnectorError) as refused:
                away.fetch(url)
            errors.append(refused.value)
        deaf.listen()
        for url in urls:
            with pytest.raises(TimeoutError) as late:
                away.fetch(url, timeout=aiohttp.ClientTimeout(sock_read=0.05))
            errors.append(late.value)
    assert away.presigner.stats()["caught"] == 2
    while errors:
        error = errors.pop()
        if error is not None:
            assert SIGNATURE not in f"{error!r}{error}{error.args!r}"
            errors += [error.__cause__, error.__context__]


class Tracing:
    """A TraceConfig that keeps whatever any event tells."""

    def __init__(self) -> None:
        self.config = aiohttp.TraceConfig()
        self.told: list[str] = []
        names = (
            *("request_start", "request_headers_sent", "request_chunk_sent", "request_redirect"),
            *("response_chunk_received", "request_end", "request_exception"),
        )
        for name in names:
            getattr(self.config, f"on_{name}").append(self.noting(name))

    def noting(self, name: str) -> Callable[..., Awaitable[None]]:
        async def note(session: Any, context: Any, params: Any) -> None:
            self.told.append(f"{name} {params.url} {params!r}")

        return note

    @property
    def events(self) -> list[str]:
        return [one.partition(" ")[0] for one in self.told]


def test_trace_events_show_unsigned_urls(way: Way, door: Door) -> None:
    """C2: every event of a TraceConfig, of redirects, bodies and failures too."""
    writer = way.using(presigner_for(door, methods=("GET", "PUT")))
    door.moved["/media/old.jpg"] = "/media/cat.jpg"
    tracing = Tracing()
    session = {"trace_configs": [tracing.config]}
    assert writer.fetch(f"{door.base}/media/old.jpg", session=session).status == 200
    assert writer.fetch(f"{door.base}/media/new.jpg", "PUT", data=b"new", session=session).status == 200
    with pytest.raises(aiohttp.ClientResponseError):
        writer.fetch(f"{door.base}/media/missing.jpg", raise_for_status=True, session=session)
    assert len(set(tracing.events)) == 7
    assert signed(door) == [True] * 4
    assert [told for told in tracing.told if SIGNATURE in told] == []


def test_other_middlewares_see_unsigned_urls(way: Way, door: Door) -> None:
    """C2: those around ours and those inside it, before and after."""
    outer, inner = list[str](), list[str]()
    ours = (PresignClientMiddleware(way.presigner),) if way.is_explicit else ()
    assert way.fetch(door.cat, middlewares=(noting(outer), *ours, noting(inner))).body == b"a cat"
    assert [door.cat] * 4 == outer + inner
    assert signed(door) == [True]


# --- C4: install and remove, alone and with others ----------------------------------------------------------


def seams() -> dict[str, Any]:
    """Return whatever the hooks may replace, as it is now."""
    where = [
        *((aiohttp.ClientRequest, name) for name in ("__init__", "send")),
        *((aiohttp.ClientSession, name) for name in ("__init__", "_request")),
        *((aiohttp.ClientResponse, name) for name in ("__init__", "start")),
        (aiohttp.BaseConnector, "connect"),
        (aiohttp.http.StreamWriter, "write_headers"),
    ]
    return {f"{owner.__name__}.{name}": vars(owner)[name] for owner, name in where}


def changed(before: dict[str, Any]) -> list[str]:
    """Return the names of what is not the object it was."""
    return [name for name, value in seams().items() if value is not before[name]]


def test_what_is_removed_leaves_nothing(hook: Way, door: Door) -> None:
    """C4: install, install, remove, remove leaves every attribute the object it was, `is`."""
    before = seams()
    first, second = intercept("aiohttp"), intercept("aiohttp")
    assert changed(before) == ["ClientRequest.send", "ClientSession._request"]
    second.remove()
    assert hook.fetch(door.cat).status == 200
    first.remove()
    assert changed(before) == []
    assert hook.fetch(door.cat).status == 403


def test_what_is_hooked_can_be_mocked_as_before() -> None:
    """C4: ``mock`` makes an async double of what is a coroutine function."""
    with intercept("aiohttp"):
        assert inspect.iscoroutinefunction(aiohttp.ClientSession._request)
        assert inspect.iscoroutinefunction(aiohttp.ClientRequest.send)


def test_a_middleware_patches_nothing(hook: Way, door: Door) -> None:
    """C4: it signs for the one session that has it, and leaves nothing on a request."""
    before, requests = seams(), list[aiohttp.ClientRequest]()

    async def keep(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        requests.append(request)
        return await handler(request)

    assert Way(True, hook.presigner).fetch(door.cat, session={"middlewares": (keep,)}).status == 200
    assert changed(before) == []
    assert "send" not in vars(requests[0])
    assert hook.fetch(door.cat).status == 403


def test_what_was_removed_signs_nothing_where_it_is_kept(
    hook: Way, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C4: functions of ours that another tool has in closures are inert once we are gone."""
    seen: list[str] = []
    ours = intercept("aiohttp")
    send, request = aiohttp.ClientRequest.send, aiohttp.ClientSession._request
    url = hook.presigner.url(door.cat)

    async def their_send(self: Any, connection: Any) -> Any:
        seen.append(str(self.url))
        return await send(self, connection)

    with monkeypatch.context() as patch:
        patch.setattr(aiohttp.ClientRequest, "send", their_send)
        patch.setattr(aiohttp.ClientSession, "_request", lambda *a, **k: request(*a, **k))
        statuses = [hook.fetch(door.cat).status]
        ours.remove()
        statuses += [hook.fetch(door.cat).status, hook.fetch(url).status]
        assert [SIGNATURE in one for one in seen] == [False, False, True]
        with intercept("aiohttp"):
            statuses.append(hook.fetch(door.cat).status)
    assert statuses == [200, 403, 200, 200]
    assert (signed(door), hook.presigner.stats()["caught"]) == ([True, False, True, True], 2)
    aiohttp.ClientRequest.send = send.__wrapped__  # type: ignore[attr-defined, method-assign]  # it is a hook
    aiohttp.ClientSession._request = request.__wrapped__  # type: ignore[attr-defined, method-assign]  # as above


@pytest.mark.parametrize("order", ["us it -us -it", "us it -it -us", "it us -us -it", "it us -it -us"])
def test_opentelemetry_and_this_one_leave_each_other_be(hook: Way, door: Door, order: str) -> None:
    """C2, C4: in every order of install and remove both work, and its spans have unsigned URLs."""
    from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before, theirs, ours = seams(), AioHttpClientInstrumentor(), list[Any]()
    recognised = hook.presigner.url(door.cat)
    present: set[str] = set()
    for step in order.split():
        match step:
            case "us":
                ours.append(intercept("aiohttp"))
            case "it":
                theirs.instrument(tracer_provider=provider)
            case "-us":
                ours.pop().remove()
            case "-it":
                theirs.uninstrument()
        present ^= {step.removeprefix("-")}
        door.arrived.clear()
        exporter.clear()
        hook.fetch_all([door.cat, recognised] if "us" in present else [door.cat])
        assert signed(door) == [True, True][: len(door.arrived)] if "us" in present else [False]
        spans = exporter.get_finished_spans()
        assert len(spans) == len(door.arrived) * ("it" in present), f"after {step}"
        for span in spans:
            assert door.cat == (span.attributes or {})["http.url"]
            assert SIGNATURE not in span.to_json()
    provider.shutdown()
    assert changed(before) == []


# --- C5: bodies ---------------------------------------------------------------------------------------------


class Async:
    """Only the async side of a body."""

    def __init__(self, body: OneShot) -> None:
        self.body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.body:
            yield chunk


def put(way: Way, door: Door, body: OneShot) -> Answer:
    return way.fetch(f"{door.base}/media/new.jpg", "PUT", data=Async(body), headers={"Content-Length": "9"})


def test_an_upload_is_read_once(way: Way, door: Door) -> None:
    """C5: a signed PUT sends the caller's body, which is read exactly once."""
    writer = way.using(presigner_for(door, methods=("GET", "PUT")))
    body = OneShot()
    assert put(writer, door, body).status == 200
    assert body.readings == 1
    assert [request.body for request in door.arrived] == [b"a new cat"]


@pytest.mark.parametrize("is_joined", [True, False])
@pytest.mark.parametrize("size", [9, 500_000])
def test_an_upload_of_bytes_arrives(
    way: Way, door: Door, size: int, is_joined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C5: written together with the headers or after them, in one piece or, as of Python 3.12.9, two."""
    monkeypatch.setattr("aiohttp.http_writer.SKIP_WRITELINES", is_joined)
    writer = way.using(presigner_for(door, methods=("GET", "PUT")))
    url, body = f"{door.base}/media/new.jpg", (b"a cat \r\n" * size)[:size]

    async def halves() -> AsyncIterator[bytes]:
        yield body[: size // 2]
        yield body[size // 2 :]

    assert writer.fetch(url, "PUT", data=body).status == 200
    assert writer.fetch(url, "PUT", data=body, expect100=True).status == 200
    assert writer.fetch(url, "PUT", data=halves(), headers={"Content-Length": str(size)}).status == 200
    assert [body] * 3 == [request.body for request in door.arrived]
    assert signed(door) == [True] * 3


def test_a_refused_upload_is_not_replayed(way: Way, door: Door) -> None:
    """C5: a one-shot body that S3 refused is not sent again."""
    writer = way.using(presigner_for(door, methods=("GET", "PUT")))
    door.remove_key(ACCESS_KEY)
    body = OneShot()
    assert put(writer, door, body).status == 403
    assert (body.readings, len(door.arrived)) == (1, 1)


def test_a_fetch_made_while_another_sends_is_nobodys_redirect(way: Way, door: Door) -> None:
    """O5: a body that fetches as it is read makes a first hop of its own."""

    async def upload(session: aiohttp.ClientSession) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield (await read(session.get(door.cat))).body

        await read(session.put(f"{door.base}/other/new.jpg", data=body()))

    way.run(upload)
    assert sorted((r.method, SIGNATURE in r.query) for r in door.arrived) == [("GET", True), ("PUT", False)]


# --- S3, S5: what is left alone -----------------------------------------------------------------------------


def test_head_is_signed_as_head(way: Way, door: Door) -> None:
    """S3: GET and HEAD of one object are two signatures, both accepted; DELETE is not signed unasked."""
    assert way.fetch(door.cat, method="HEAD").response.headers["Content-Length"] == "5"
    assert way.fetch(door.cat).body == b"a cat"
    assert way.presigner.stats()["signed"] == 2
    assert way.fetch(door.cat, method="DELETE").status == 403


def test_a_url_signed_by_others_passes_untouched(way: Way, door: Door) -> None:
    """S5: a URL that already has a signature, of either version, goes out as it is."""
    queries = ["AWSAccessKeyId=AKIA1&Signature=x%2By%3D&Expires=1", "X-Amz-Signature=0f&X-Amz-Expires=60"]
    theirs = presigner_for(door).url(door.cat)
    urls = [*(f"{door.cat}?{query}" for query in queries), theirs]
    answers = way.fetch_all([yarl.URL(url, encoded=True) for url in urls])
    assert urls == asked(door) == [str(answer.response.url) for answer in answers]
    assert (answers[-1].body, way.presigner.stats()["signed"]) == (b"a cat", 0)


@pytest.mark.parametrize("params", [{}, {"ResponseContentType": "text/html"}], ids=["plain", "override"])
def test_a_url_signed_here_is_treated_like_its_unsigned_form(
    way: Way, door: Door, caplog: pytest.LogCaptureFixture, params: dict[str, str]
) -> None:
    """S5, L1: it is recognised: it arrives with its parameters, and nothing shows its signature."""
    ours = way.presigner.url(door.cat, params=params)
    unsigned = f"{door.cat}?response-content-type=text%2Fhtml"  # whose override is dropped, also after ours
    seen, tracing = list[str](), Tracing()
    with caplog.at_level(logging.DEBUG):
        answers = way.fetch_all(
            [ours, yarl.URL(ours, encoded=True), f"{ours}#part", yarl.URL(unsigned, encoded=True)],
            session={"middlewares": (noting(seen),), "trace_configs": [tracing.config]},
        )
    expected = params.get("ResponseContentType", "binary/octet-stream")
    types = [answer.response.headers["Content-Type"] for answer in answers]
    assert [*[expected] * 3, "binary/octet-stream"] == types
    assert [*[ours] * 3, way.presigner.url(door.cat)] == asked(door)
    assert SIGNATURE not in f"{[shown(answer.response) for answer in answers]} {caplog.text}"
    if not way.is_explicit:  # a middleware comes too late for those around it
        assert SIGNATURE not in f"{seen} {tracing.told}"
    assert way.presigner.stats()["signed"] == (2 if params else 1)


def test_a_url_signed_here_shows_unsigned_below_a_middleware(hook: Way, door: Door) -> None:
    """S5, L1: to the middlewares inside it, and in what they raise."""
    inner: list[str] = []
    ours = (PresignClientMiddleware(hook.presigner), noting(inner))
    assert hook.fetch(hook.presigner.url(door.cat), session={"middlewares": ours}).body == b"a cat"
    assert [door.cat] * 2 == inner


def test_a_url_signed_here_with_further_parameters_is_none_of_ours(way: Way, door: Door) -> None:
    """S5: nobody here has signed that, so it goes out as it is, and S3 says no."""
    ours = way.presigner.url(door.cat, params={"ResponseContentType": "text/html"})
    assert way.fetch(ours, params={"response-cache-control": "no-cache"}).status == 403
    assert way.presigner.stats()["signed"] == 1


def test_a_url_signed_here_from_a_bucket_name_is_recognised_too(way: Way, door: Door) -> None:
    """S5: an ``s3://`` target has a URL of the origin's own form, which is this presigner's as well."""
    answer = way.fetch(way.presigner.url("s3://media/cat.jpg"))
    assert (answer.body, {door.cat}) == (b"a cat", shown(answer.response))


def test_of_several_process_wide_presigners_any_may_have_signed(hook: Way, door: Door) -> None:
    """S5, L1: a URL that the second one signed arrives, and shows without its signature."""
    elsewhere = presigner_for(door, prefix="private/")
    ours = hook.presigner.url(door.cat)
    outside = Way(True, elsewhere)
    with intercept("aiohttp", presigner=elsewhere), intercept("aiohttp", presigner=hook.presigner):
        answer = outside.fetch(ours)
    assert (answer.body, {door.cat}) == (b"a cat", shown(answer.response))


def test_a_url_that_is_none_is_refused_by_aiohttp(way: Way) -> None:
    """S5: also one that looks signed: the error is the one that its users know."""
    with pytest.raises(aiohttp.InvalidURL):
        way.fetch("http://[/?X-Amz-Signature=a")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # aiohttp's of ``auth=``, which still works
def test_a_request_with_authorization_passes_untouched(way: Way, door: Door) -> None:
    """S5: S3 accepts one mechanism only, and the caller has chosen: in a header, the URL or the session."""
    ours = yarl.URL(way.presigner.url(door.cat), encoded=True)
    auth = aiohttp.BasicAuth("me", "secret")
    way.fetch(door.cat, headers={"authorization": BASIC})
    way.fetch(ours, headers={"Authorization": BASIC})
    way.fetch(door.cat.replace("//", "//me:secret@"))
    way.fetch(door.cat, session={"auth": auth})
    way.fetch(door.cat, auth=auth)
    assert [door.cat, str(ours), *[door.cat] * 3] == asked(door)
    assert [request.header("authorization") for request in door.arrived] == [BASIC] * 5


def test_what_netrc_adds_counts(
    way: Way, door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S5: with ``trust_env`` a host that ``.netrc`` names gets Authorization, and no signature."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    way.fetch(door.cat, session={"trust_env": True})
    assert [(SIGNATURE in r.query, r.header("authorization")) for r in door.arrived] == [(False, BASIC)]


# --- S6, S10: what is signed, and for where -----------------------------------------------------------------


def test_range_and_conditions_share_the_cached_url(way: Way, door: Door) -> None:
    """S6: Range and If-None-Match are not signed: one signature, 206 and 304."""
    etag = f'"{hashlib.md5(b"a cat").hexdigest()}"'
    part, same, whole = (
        way.fetch(door.cat, headers=headers)
        for headers in ({"Range": "bytes=2-4"}, {"If-None-Match": etag}, {})
    )
    assert (part.status, part.body) == (206, b"cat")
    assert (same.status, whole.status) == (304, 200)
    assert way.presigner.stats()["signed"] == 1


def test_amz_headers_are_signed_for_their_request_alone(way: Way, live_door: Door) -> None:
    """S6: a header such as an SSE-C key is signed, each time anew, and never meets another request."""
    live = way.using(presigner_for(live_door))
    headers = {"X-Amz-Server-Side-Encryption-Customer-Algorithm": "AES256"}
    answers = [live.fetch(live_door.cat, headers=given) for given in (headers, headers, {}, {})]
    assert [answer.status for answer in answers] == [200, 200, 200, 200]
    names = "SignedHeaders=host%3Bx-amz-server-side-encryption-customer-algorithm&"
    assert [names in request.query for request in live_door.arrived] == [True, True, False, False]
    assert live.presigner.stats()["signed"] == 3


def test_a_repeated_amz_header_is_signed_as_s3_reads_it(way: Way, live_door: Door) -> None:
    """S6: aiohttp sends it twice, and S3 joins its values with a comma."""
    live = way.using(presigner_for(live_door))
    headers = [("x-amz-meta-colour", "black"), ("x-amz-meta-colour", "white")]
    assert live.fetch(live_door.cat, headers=headers).status == 200
    assert live_door.arrived[0].header("x-amz-meta-colour") == "black,white"


def test_headers_that_a_middleware_adds_count(way: Way, live_door: Door) -> None:
    """S5, S6: what is signed, or left alone, is what is sent."""
    ours = (PresignClientMiddleware(presigner_for(live_door)),) if way.is_explicit else ()
    live = way.using(presigner_for(live_door))

    def adding(name: str, value: str) -> Middleware:
        async def middleware(
            request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
        ) -> aiohttp.ClientResponse:
            request.headers[name] = value
            return await handler(request)

        return middleware

    mode, basic = adding("x-amz-checksum-mode", "ENABLED"), adding("Authorization", BASIC)
    assert live.fetch(live_door.cat, middlewares=(*ours, mode)).status == 200
    live.fetch(live_door.cat, middlewares=(*ours, basic))
    assert signed(live_door) == [True, False]


def test_tracing_headers_are_never_signed(way: Way, door: Door) -> None:
    """S6: traceparent, baggage and sentry-trace travel, and the signature does not depend on them."""
    tracing = {"traceparent": "00-aa-bb-01", "baggage": "k=v", "sentry-trace": "aa-bb-1"}
    assert way.fetch(door.cat, headers=tracing).status == 200
    (request,) = door.arrived
    assert "X-Amz-SignedHeaders=host&" in request.query
    assert tracing == {name: request.header(name) for name in tracing}


def test_every_key_arrives_as_the_right_object(way: Way, door: Door) -> None:
    """S1, O3: through yarl's own quoting."""
    keys = {**KEYS, "%7E.jpg": "~.jpg"}
    for key in keys.values():
        door.put("media", key, key.encode())
    answers = way.fetch_all([f"{door.base}/media/{written}" for written in keys])
    assert [key.encode() for key in keys.values()] == [answer.body for answer in answers]


def test_a_request_goes_where_it_was_sent(way: Way, door: Door) -> None:
    """S10: a further base URL of the origin is signed for itself: its host, its path, its Host header."""
    base = door.base.replace("127.0.0.1", "localhost")
    alias = way.using(presigner_for(door, urls=[f"{base}/media/"]))
    for asked_for in (base, door.base):
        assert alias.fetch(f"{asked_for}/media/cat.jpg").body == b"a cat"
    assert [base, door.base] == [f"http://{request.host}" for request in door.arrived]


def test_a_forward_proxy_is_told_the_signed_url(way: Way, door: Door) -> None:
    """S10: over a proxy the whole URL is in the request line; path style and virtual host stay."""
    named = way.using(presigner_for(door, endpoint_url="http://s3.localhost:9000"))
    for url in ("http://media.s3.localhost:9000/cat.jpg", "http://s3.localhost:9000/media/cat.jpg"):
        answer = named.fetch(url, proxy=door.base)
        assert (answer.body, {url}) == (b"a cat", shown(answer.response))
    assert [request.host for request in door.arrived] == ["media.s3.localhost:9000", "s3.localhost:9000"]


def test_a_tunnel_ends_at_the_host_that_is_signed_for(way: Way, door: Door, tls: Any) -> None:
    """S10: through CONNECT the proxy learns the host alone, and the request inside is signed for it."""
    named = way.using(presigner_for(door, endpoint_url="https://s3.localhost"))
    connects: list[bytes] = []
    trace, closed = aiohttp.TraceConfig(), list[Any]()

    async def opened(session: aiohttp.ClientSession, *args: Any) -> None:
        assert session.connector is not None
        closed.extend(protocol.closed for protocol in session.connector._acquired)

    trace.on_request_headers_sent.append(opened)

    async def fetch(session: aiohttp.ClientSession) -> Answer:
        answer = await read(session.get("https://s3.localhost/media/cat.jpg", proxy=proxy, ssl=False))
        await asyncio.gather(*closed, return_exceptions=True)  # the loop is not to end before TLS has
        return answer

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=tunnel_once, args=(listener, tls, door, connects))
        thread.start()
        proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
        answer = named.run(fetch, trace_configs=[trace])
        thread.join()
    assert answer.body == b"a cat"
    assert [line.split()[:2] for line in connects] == [[b"CONNECT", b"s3.localhost:443"]]
    assert (signed(door), door.arrived[0].host) == ([True], "s3.localhost")
    assert (named.presigner.stats()["caught"], named.presigner.stats()["passed_uncovered"]) == (1, 0)


def test_a_websocket_is_not_disturbed(way: Way, door: Door) -> None:
    """O4: ``ws_connect`` opens, and talks, as without us."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(f"{request.query_string}{await socket.receive_str()}")
        await socket.close()
        return socket

    async def talk(session: aiohttp.ClientSession) -> str:
        app = web.Application()
        app.router.add_get("/media/talk", echo)
        async with (
            TestServer(app) as server,
            session.ws_connect(server.make_url("/media/talk").with_scheme("ws")) as socket,
        ):
            await socket.send_str("hello")
            return await socket.receive_str()

    assert way.run(talk) == "hello"


def test_an_s3_target_is_refused_by_aiohttp(way: Way, door: Door) -> None:
    """O4: aiohttp knows no such scheme, and says so before anyone is asked."""
    with pytest.raises(aiohttp.NonHttpUrlClientError):
        way.fetch("s3://media/cat.jpg")
    assert door.arrived == []


# --- O4, O5, O6, O7: what is left alone, and what must not leave unsigned -----------------------------------


def test_what_is_not_covered_goes_out_untouched(way: Way, door: Door) -> None:
    """O4: path, query and headers are byte for byte those of the bare library."""
    narrow = way.using(presigner_for(door, prefix="public/"))
    headers = {"User-Agent": "me", "X-Amz-Meta-Thing": "kept"}
    urls = [f"{door.base}{path}" for path in UNCOVERED.values()]
    with narrow.presigner.paused():
        narrow.fetch_all(urls, headers=headers)
    narrow.fetch_all(urls, headers=headers)
    wire = [(request.path, request.query, request.headers) for request in door.arrived]
    assert wire[: len(urls)] == wire[len(urls) :]
    assert (narrow.presigner.stats()["passed_uncovered"], narrow.presigner.stats()["signed"]) == (4, 0)


def test_a_fetch_that_cannot_be_signed_does_not_leave(way: Way, door: Door) -> None:
    """O5: without credentials the caller gets SigningError, counted, and nothing unsigned leaves."""
    helpless = way.using(presigner_for(door, session=None))
    for headers in ({}, {"x-amz-checksum-mode": "ENABLED"}):
        with pytest.raises(SigningError, match="no credentials"):
            helpless.fetch(door.cat, headers=headers)
    assert door.arrived == []
    assert (helpless.presigner.stats()["failed"], helpless.presigner.stats()["caught"]) == (2, 0)


def test_a_fetch_that_cannot_be_signed_leaves_where_the_policy_says_so(way: Way, door: Door) -> None:
    """O5: with on_error="pass" it goes out unsigned, and is counted."""
    lenient = way.using(presigner_for(door, session=None, policy=Policy(on_error="pass")))
    assert lenient.fetch(door.cat).status == 403
    assert signed(door) == [False]
    assert lenient.presigner.stats()["passed_on_error"] == 1


def test_a_request_with_a_host_of_its_own_is_not_caught(way: Way, door: Door) -> None:
    """O1, S10: a Host header that is not the URL's goes out as it is: no signature could be for both."""
    way.fetch(door.cat, headers={"Host": "media.s3.eu-west-1.amazonaws.com"})
    assert signed(door) == [False]
    assert way.presigner.stats()["passed_uncovered"] == 1


def test_an_origin_for_links_only_is_not_caught(way: Way, door: Door) -> None:
    """O6: Origin(catch=False) makes links, and neither hooks nor middlewares sign for it."""
    links = way.using(presigner_for(door, catch=False))
    assert links.fetch(door.cat).status == 403
    assert SIGNATURE in links.presigner.url(door.cat)


def test_one_request_can_opt_out(way: Way, door: Door) -> None:
    """O6: ``middlewares=(opt_out,)`` sends a request as it is, and its redirects too; around ours as well."""
    door.moved["/media/old.jpg"] = "/media/cat.jpg"
    old = f"{door.base}/media/old.jpg"
    assert way.fetch(old, middlewares=(opt_out,)).status == 403
    assert way.fetch(old, session={"middlewares": (opt_out,)}).status == 403
    assert way.fetch(old).status == 200
    assert signed(door) == [False] * 4 + [True] * 2


def test_nothing_is_caught_while_paused(way: Way, door: Door) -> None:
    """O6: inside paused() nothing is signed, in tasks that it starts neither; after it, it is."""

    async def fetch(session: aiohttp.ClientSession) -> list[int]:
        def get() -> Awaitable[Answer]:
            return asyncio.create_task(read(session.get(door.cat)))

        with way.presigner.paused():
            task = get()
        return [(await task).status, (await get()).status]

    assert way.run(fetch) == [403, 200]
    assert signed(door) == [False, True]


def test_overrides_of_whoever_wrote_the_url_are_dropped(way: Way, door: Door) -> None:
    """O7: response-content-type and -disposition on a caught URL are not signed, hence not sent."""
    overrides = {"response-content-type": "text/html", "response-cache-control": "no-cache"}
    answer = way.fetch(door.cat, params=overrides)
    assert answer.response.headers["Content-Type"] == "binary/octet-stream"
    assert answer.response.headers["Cache-Control"] == "no-cache"


def test_overrides_are_kept_where_the_origin_says_so(way: Way, door: Door) -> None:
    """O7: Origin(response_overrides=True) signs what the URL asks for."""
    lenient = way.using(presigner_for(door, response_overrides=True))
    answer = lenient.fetch(door.cat, params={"response-content-type": "text/html"})
    assert answer.response.headers["Content-Type"] == "text/html"


def test_a_version_is_kept(way: Way, door: Door) -> None:
    """O7: versionId is part of what is asked for, and signed."""
    door.put("media", "dog.jpg", b"first", version_id="v1")
    door.put("media", "dog.jpg", b"second", version_id="v2")
    assert way.fetch(f"{door.base}/media/dog.jpg", params={"versionId": "v1"}).body == b"first"


# --- D1, D3, D7: one request, and none ----------------------------------------------------------------------


def test_a_hundred_fetches_of_one_object_cost_one_signature(way: Way, door: Door) -> None:
    """D1, D3: however many tasks of one request ask, an object is signed once."""

    async def gathered(session: aiohttp.ClientSession) -> list[int]:
        answers = await asyncio.gather(*(read(session.get(door.cat)) for _ in range(100)))
        return [answer.status for answer in answers]

    assert way.run(gathered) == [200] * 100
    assert (way.presigner.stats()["signed"], way.presigner.stats()["resolved"]) == (1, 100)


class Held:
    """A presigner's catching side whose callers wait, once it has told that they are there."""

    def __init__(self, presigner: Presigner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: asyncio.Queue[None] = asyncio.Queue()
        self.released = asyncio.Event()
        self._resolve = presigner.catching.aurl
        monkeypatch.setattr(presigner.catching, "aurl", self.aurl)

    async def aurl(self, *args: Any) -> str:
        self.waiting.put_nowait(None)
        await self.released.wait()
        return await self._resolve(*args)


def test_the_cancellation_of_one_fetch_disturbs_no_other(
    way: Way, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D2: one of five is cancelled while its URL is being resolved; nothing of it leaves."""

    async def cancelled(session: aiohttp.ClientSession) -> list[int]:
        held = Held(way.presigner, monkeypatch)
        first, *others = (asyncio.create_task(read(session.get(door.cat))) for _ in range(5))
        for _ in range(5):
            await held.waiting.get()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        held.released.set()
        return [answer.status for answer in await asyncio.gather(*others)]

    assert way.run(cancelled) == [200] * 4
    assert signed(door) == [True] * 4


def test_a_peer_that_hangs_up_while_a_url_is_resolved_is_called_again(
    way: Way, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O5, C5: aiohttp sends again over another connection, signed; nobody has read a one-shot body before."""
    writer = way.using(presigner_for(door, methods=("GET", "PUT")))
    stream = OneShot()

    async def hung_up(session: aiohttp.ClientSession, call: Any) -> Answer:
        held = Held(writer.presigner, monkeypatch)
        task = asyncio.create_task(read(call))
        await held.waiting.get()
        assert session.connector is not None
        (connection,) = session.connector._acquired
        assert connection.transport is not None
        connection.transport.abort()
        held.released.set()
        return await task

    async def body(session: aiohttp.ClientSession) -> list[int]:
        headers = {"Content-Length": "9"}
        upload = session.put(f"{door.base}/media/new.jpg", data=Async(stream), headers=headers)
        return [(await hung_up(session, call)).status for call in (session.get(door.cat), upload)]

    assert writer.run(body) == [200, 200]
    assert (signed(door), door.arrived[1].body, stream.readings) == ([True, True], b"a new cat", 1)


#: An application's own code, in a file of its own.
APPLICATION = """

async def fetch(session, url):
    for _ in range(3):
        async with session.get(url) as response:
            await response.read()
"""


def test_outside_a_scope_nothing_is_signed_and_the_call_site_is_told(
    hook: Way, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """D7: once, with the line of the caller's own code, and nothing of a query."""
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(APPLICATION, "a-shop-with-aiohttp.py", "exec"), names)

    async def shop() -> None:
        async with aiohttp.ClientSession() as session:
            await names["fetch"](session, f"{door.cat}?response-expires=never")

    with intercept("aiohttp"):
        asyncio.run(shop())
    (told,) = [r.getMessage() for r in caplog.records if r.name == "presign_middleware.clients"]
    assert signed(door) == [False, False, False]
    assert f"{door.cat} " in told
    assert "(a-shop-with-aiohttp.py:5)" in told
    assert "?" not in told
    assert hook.presigner.stats()["passed_outside_scope"] == 3


def test_a_presigner_can_be_made_active_process_wide(hook: Way, door: Door) -> None:
    """D7: intercept(..., presigner=p) signs outside of scopes, until it is removed."""

    async def fetch() -> int:
        async with aiohttp.ClientSession() as session:
            return (await read(session.get(door.cat))).status

    with intercept("aiohttp", presigner=hook.presigner):
        assert asyncio.run(fetch()) == 200
    assert asyncio.run(fetch()) == 403
