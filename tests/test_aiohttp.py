"""
What concerns aiohttp alone: its request line, sessions, middlewares, traces and retries.

What it has in common with other clients is in ``test_contract.py``. Each test holds for hooks inside a scope
and for a `PresignClientMiddleware`, against the strict oracle behind a real socket.
"""

import asyncio
import dataclasses
import functools
import inspect
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import pytest
import yarl
from aiohttp import web
from aiohttp.test_utils import TestServer
from clients import Aiohttp, Answer, Fetcher, OneShot, piecewise
from ways import SIGNATURE, Door, opened, presigner_for, signed

from presign_middleware import Presigner, intercept
from presign_middleware.clients.aiohttp import PresignClientMiddleware, opt_out

Middleware = Callable[[Any, Any], Awaitable[Any]]


@pytest.fixture
def live_door() -> Iterator[Door]:
    """Give a door on the real clock, for what boto3 signs: it knows no other."""
    with opened(Door()) as door:
        yield door


@pytest.fixture(params=[False, True], ids=["hook", "middleware"])
def fetcher(request: pytest.FixtureRequest, door: Door) -> Iterator[Fetcher]:
    fetcher = Fetcher(Aiohttp(), request.param, presigner_for(door))
    with fetcher.hooked():
        yield fetcher


@pytest.fixture
def hook(door: Door) -> Fetcher:
    """Give a fetcher by hooks that are not in place yet."""
    return Fetcher(Aiohttp(), False, presigner_for(door))


def having(fetcher: Fetcher, **settings: Any) -> Fetcher:
    """Return *fetcher* with sessions of these *settings*."""
    return dataclasses.replace(fetcher, client=Aiohttp(**settings))


def own(fetcher: Fetcher, url: Any, **options: Any) -> Answer:
    """Return the answer to one fetch with these *options*, which aiohttp alone knows."""
    return fetcher.fetch(url, own=options)


def run(fetcher: Fetcher, body: Callable[[aiohttp.ClientSession], Awaitable[Any]]) -> Any:
    """Return what ``await body(session)`` returns, in one scope."""

    async def awaited() -> Any:
        async with fetcher.open() as session:
            return await body(session)

    with fetcher.scope():
        return asyncio.run(awaited())


async def status(call: Any) -> int:
    """Return the status of *call*, a session's ``get`` or the like, read to its end."""
    async with call as response:
        await response.read()
        found: int = response.status
        return found


def asked(door: Door) -> list[str]:
    """Return the URL of each request that arrived, as it was on the wire."""
    return [f"{door.base}{request.path}?{request.query}".removesuffix("?") for request in door.arrived]


# --- C3: the request line -----------------------------------------------------------------------------------


def test_what_is_sent_is_the_signed_url_byte_for_byte(fetcher: Fetcher, door: Door) -> None:
    """C3: yarl, which would make ``/`` of %2F in a query, does not touch it."""
    door.put("media", "a b+~ü.jpg", b"odd")
    odd = f"{door.base}/media/a%20b+%7Eü.jpg"
    assert [answer.content for answer in fetcher.fetch_all([door.cat, odd])] == [b"a cat", b"odd"]
    assert [fetcher.presigner.url(url) for url in (door.cat, odd)] == asked(door)
    assert "%2F" in asked(door)[0]


def test_the_request_line_has_what_the_peer_needs(fetcher: Fetcher, door: Door) -> None:
    """C3: path and query for a server, the whole URL for a proxy, and the version that aiohttp speaks."""
    lines: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append((await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0].decode())
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        plain = fetcher.using(presigner_for(door, endpoint_url=base))
        older = having(plain, version=aiohttp.HttpVersion10)
        url = f"{base}/media/cat.jpg"

        async def body(session: aiohttp.ClientSession) -> None:
            async with await asyncio.start_server(answer, sock=listener), older.open() as another:
                for one in (session, another):
                    await status(one.get(url))
                    await status(one.get(url, proxy=base))

        run(plain, body)
    expected = plain.presigner.url(url)
    assert [
        f"GET {target} HTTP/{version}"
        for version in ("1.1", "1.0")
        for target in (expected.removeprefix(base), expected)
    ] == lines


@pytest.mark.parametrize("is_joined", [True, False])
@pytest.mark.parametrize("size", [9, 500_000])
def test_an_upload_of_bytes_arrives(
    fetcher: Fetcher, door: Door, size: int, is_joined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C3, C5: written together with the headers or after them, in one piece or, as of Python 3.12.9, two."""
    monkeypatch.setattr("aiohttp.http_writer.SKIP_WRITELINES", is_joined)
    writer = fetcher.using(presigner_for(door, methods=("GET", "PUT")))
    body = (b"a cat \r\n" * size)[:size]
    halves = [body[: size // 2], body[size // 2 :]]
    put = functools.partial(writer.fetch, f"{door.base}/media/new.jpg", method="PUT")
    assert put(own={"data": body}).status == 200
    assert put(own={"data": body, "expect100": True}).status == 200
    assert put(body=halves, headers={"Content-Length": str(size)}).status == 200
    assert [body] * 3 == [request.body for request in door.arrived]
    assert signed(door) == [True] * 3


def test_a_connection_is_used_again(fetcher: Fetcher, door: Door) -> None:
    """C3: the pool knows hosts, not signatures: one connection, and each request is signed for itself."""
    door.put("media", "dog.jpg", b"a dog")
    events: list[str] = []

    async def created(*args: Any) -> None:
        events.append("created")

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(created)
    urls = [door.cat, f"{door.base}/media/dog.jpg", door.cat, f"{door.base}/other"]
    answers = having(fetcher, trace_configs=[trace]).fetch_all(urls)
    assert [answer.content for answer in answers[:3]] == [b"a cat", b"a dog", b"a cat"]
    assert (signed(door), events) == ([True, True, True, False], ["created"])
    assert fetcher.presigner.stats()["signed"] == 2


class Held:
    """A presigner's catching side whose callers wait, once it has told that they are there."""

    def __init__(self, presigner: Presigner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: asyncio.Queue[None] = asyncio.Queue()
        self.released = asyncio.Event()
        self._resolve = presigner.healing.abegin
        monkeypatch.setattr(presigner.healing, "abegin", self.abegin)

    async def abegin(self, *args: Any) -> Any:
        self.waiting.put_nowait(None)
        await self.released.wait()
        return await self._resolve(*args)


def test_the_cancellation_of_one_fetch_disturbs_no_other(
    fetcher: Fetcher, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D2: one of five is cancelled while its URL is being resolved; nothing of it leaves."""

    async def cancelled(session: aiohttp.ClientSession) -> list[int]:
        held = Held(fetcher.presigner, monkeypatch)
        first, *others = (asyncio.create_task(status(session.get(door.cat))) for _ in range(5))
        for _ in range(5):
            await held.waiting.get()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        held.released.set()
        return await asyncio.gather(*others)

    assert run(fetcher, cancelled) == [200] * 4
    assert signed(door) == [True] * 4


def test_a_peer_that_hangs_up_while_a_url_is_resolved_is_called_again(
    fetcher: Fetcher, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O5, C5: aiohttp sends again over another connection, signed; nobody has read a one-shot body before."""
    writer = fetcher.using(presigner_for(door, methods=("GET", "PUT")))
    stream = OneShot()

    async def hung_up(session: aiohttp.ClientSession, call: Any) -> int:
        held = Held(writer.presigner, monkeypatch)
        task = asyncio.create_task(status(call))
        await held.waiting.get()
        assert session.connector is not None
        (connection,) = session.connector._acquired
        assert connection.transport is not None
        connection.transport.abort()
        held.released.set()
        return await task

    async def body(session: aiohttp.ClientSession) -> list[int]:
        headers = {"Content-Length": "9"}
        upload = session.put(f"{door.base}/media/new.jpg", data=piecewise(stream), headers=headers)
        return [await hung_up(session, call) for call in (session.get(door.cat), upload)]

    assert run(writer, body) == [200, 200]
    assert (signed(door), door.arrived[1].body, stream.readings) == ([True, True], b"a new cat", 1)


def test_a_websocket_is_not_disturbed(fetcher: Fetcher) -> None:
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

    assert run(fetcher, talk) == "hello"


# --- C1: sessions, calls and their URLs ---------------------------------------------------------------------


def test_a_session_with_a_base_url_is_caught(fetcher: Fetcher, door: Door) -> None:
    """C1: what counts is the URL that is sent, however the session put it together."""
    assert having(fetcher, base_url=f"{door.base}/media/").fetch("cat.jpg").content == b"a cat"


def test_module_functions_are_caught(hook: Fetcher, door: Door) -> None:
    """C1: ``aiohttp.request`` makes a session of its own, which is hooked as well."""

    async def fetch() -> int:
        return await status(aiohttp.request("GET", door.cat))

    with hook.hooked(), hook.scope():
        assert asyncio.run(fetch()) == 200


def test_a_request_class_of_ones_own_is_caught(fetcher: Fetcher, door: Door) -> None:
    """C1: one that calls ``super()`` is caught there, and sees the unsigned URL itself."""
    seen: list[str] = []

    class Mine(aiohttp.ClientRequest):
        async def send(self, conn: Any) -> aiohttp.ClientResponse:
            seen.append(str(self.url))
            return await super().send(conn)

    assert having(fetcher, request_class=Mine).fetch(door.cat).content == b"a cat"
    assert ([door.cat], 1) == (seen, fetcher.presigner.stats()["caught"])


def test_what_is_hooked_can_be_mocked_as_before() -> None:
    """C4: ``mock`` makes an async double of what is a coroutine function."""
    with intercept("aiohttp"):
        assert inspect.iscoroutinefunction(aiohttp.ClientSession._request)
        assert inspect.iscoroutinefunction(aiohttp.ClientRequest.send)


def test_a_location_is_signed_as_the_key_it_names(fetcher: Fetcher, door: Door) -> None:
    """C1, C3: aiohttp requotes it, or with ``requote_redirect_url=False`` does not."""
    door.put("media", "a b~ü+.jpg", b"odd")
    door.moved["/media/old.jpg"] = "/media/a%20b%7E%C3%BC+.jpg"
    for requoted in (True, False):
        session = having(fetcher, requote_redirect_url=requoted)
        assert session.fetch(f"{door.base}/media/old.jpg").content == b"odd"


def test_a_fetch_between_two_hops_changes_nothing(fetcher: Fetcher, door: Door) -> None:
    """C1: an attacker's redirect stays one, whatever the application fetches meanwhile, in whatever task."""
    door.moved["/attacker"] = "/media/cat.jpg"
    between: list[int] = []

    async def redirected(*args: Any) -> None:
        async with fetcher.open() as other:
            between.append(await status(other.get(door.cat)))

    async def in_a_task(request: Any, handler: Any) -> Any:
        return await asyncio.create_task(handler(request))

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(redirected)
    outer = having(fetcher, trace_configs=[trace], middlewares=(in_a_task,))
    assert (outer.fetch(f"{door.base}/attacker").status, between) == (403, [200])
    assert signed(door) == [False, True, False]


def test_the_params_of_a_call_count(fetcher: Fetcher, door: Door) -> None:
    """O7, S5: a versionId is kept, an override dropped, and what was signed here without them is not ours."""
    door.put("media", "dog.jpg", b"first", version_id="v1")
    door.put("media", "dog.jpg", b"second", version_id="v2")
    dog = f"{door.base}/media/dog.jpg"
    params = {"versionId": "v1", "response-content-type": "text/html"}
    answer = own(fetcher, dog, params=params)
    assert (answer.content, answer.headers["Content-Type"]) == (b"first", "binary/octet-stream")
    assert own(fetcher, fetcher.presigner.url(dog), params=params).status == 403


def test_a_url_signed_here_is_recognised_however_it_is_given(fetcher: Fetcher, door: Door) -> None:
    """S5: as a string that yarl requotes, as a `yarl.URL`, with a fragment; and its unsigned form is not."""
    ours = fetcher.presigner.url(door.cat, params={"ResponseContentType": "text/html"})
    unsigned = f"{door.cat}?response-content-type=text%2Fhtml"  # whose override is dropped, also after ours
    given: list[Any] = [ours, yarl.URL(ours, encoded=True), f"{ours}#part", yarl.URL(unsigned, encoded=True)]
    answers = fetcher.fetch_all(given)
    assert [ours, ours, ours, fetcher.presigner.url(door.cat)] == asked(door)
    assert SIGNATURE not in "".join(f"{answer.url}{answer.shown}" for answer in answers)


def test_a_url_that_is_none_is_refused_by_aiohttp(fetcher: Fetcher) -> None:
    """S5: also one that looks signed: the error is the one that its users know."""
    with pytest.raises(aiohttp.InvalidURL):
        fetcher.fetch("http://[/?X-Amz-Signature=a")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # aiohttp's of ``auth=``, which still works
def test_authorization_counts_wherever_it_comes_from(fetcher: Fetcher, door: Door, netrc: str) -> None:
    """S5: the URL, the call, also for a URL signed here, the session, or with ``trust_env`` the netrc."""
    auth, ours = aiohttp.BasicAuth("me", "secret"), fetcher.presigner.url(door.cat)
    fetcher.fetch(door.cat.replace("//", "//me:secret@"))
    own(fetcher, door.cat, auth=auth)
    own(fetcher, yarl.URL(ours, encoded=True), auth=auth)
    having(fetcher, auth=auth).fetch(door.cat)
    having(fetcher, trust_env=True).fetch(door.cat)
    assert [door.cat, door.cat, ours, door.cat, door.cat] == asked(door)
    assert [netrc] * 5 == [request.header("authorization") for request in door.arrived]


def test_a_repeated_amz_header_is_signed_as_s3_reads_it(fetcher: Fetcher, live_door: Door) -> None:
    """S6: aiohttp sends it twice, and S3 joins its values with a comma."""
    live = fetcher.using(presigner_for(live_door))
    headers = [("x-amz-meta-colour", "black"), ("x-amz-meta-colour", "white")]
    assert own(live, live_door.cat, headers=headers).status == 200
    assert live_door.arrived[0].header("x-amz-meta-colour") == "black,white"


# --- C2: traces ---------------------------------------------------------------------------------------------


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


def test_trace_events_show_unsigned_urls(fetcher: Fetcher, door: Door) -> None:
    """C2: every event of a TraceConfig, of redirects, bodies and failures too."""
    door.moved["/media/old.jpg"] = "/media/cat.jpg"
    missing = f"{door.base}/media/missing.jpg"
    tracing = Tracing()
    writer = fetcher.using(presigner_for(door, methods=("GET", "PUT")))
    traced = having(writer, trace_configs=[tracing.config])
    assert traced.fetch(f"{door.base}/media/old.jpg").status == 200
    assert traced.fetch(f"{door.base}/media/new.jpg", method="PUT", own={"data": b"new"}).status == 200
    with pytest.raises(aiohttp.ClientResponseError, match=missing) as caught:
        own(traced, missing, raise_for_status=True)
    assert len(set(tracing.events)) == 7
    assert signed(door) == [True] * 4
    assert SIGNATURE not in f"{tracing.told} {caught.value!r} {caught.value} {caught.value.args}"


def test_a_url_signed_here_shows_unsigned_from_the_hook_on(hook: Fetcher, door: Door) -> None:
    """S5, L1: to traces and middlewares, which a middleware of ours comes too late for."""
    seen, tracing = list[str](), Tracing()
    traced = having(hook, middlewares=(noting(seen),), trace_configs=[tracing.config])
    ours = hook.presigner.url(door.cat)
    with hook.hooked():
        assert [answer.status for answer in traced.fetch_all([ours, f"{ours}#part"])] == [200, 200]
    assert [door.cat] * 4 == seen
    assert "request_end" in tracing.events
    assert SIGNATURE not in f"{tracing.told}"


# --- middlewares --------------------------------------------------------------------------------------------


def noting(seen: list[str]) -> Middleware:
    """Return a middleware that keeps the URL of every request it sees, before and after it was sent."""

    async def middleware(request: Any, handler: Any) -> Any:
        seen.append(str(request.url))
        response = await handler(request)
        seen.append(str(request.url))
        return response

    return middleware


async def twice(request: Any, handler: Any) -> Any:
    """Send a request twice, as a middleware that retries does."""
    (await handler(request)).release()
    return await handler(request)


def of(*presigners: Presigner) -> tuple[PresignClientMiddleware, ...]:
    return tuple(PresignClientMiddleware(presigner) for presigner in presigners)


def test_other_middlewares_see_unsigned_urls(fetcher: Fetcher, door: Door) -> None:
    """C2: those around ours and those inside it, before and after."""
    outer, inner = list[str](), list[str]()
    ours = of(fetcher.presigner) if fetcher.is_explicit else ()
    assert own(fetcher, door.cat, middlewares=(noting(outer), *ours, noting(inner))).content == b"a cat"
    assert [door.cat] * 4 == outer + inner
    assert signed(door) == [True]


def test_a_url_signed_here_shows_unsigned_below_a_middleware(hook: Fetcher, door: Door) -> None:
    """S5, L1: to the middlewares inside it, and in what they raise."""
    inner: list[str] = []
    below = having(hook, middlewares=(*of(hook.presigner), noting(inner)))
    assert below.fetch(hook.presigner.url(door.cat)).content == b"a cat"
    assert [door.cat] * 2 == inner


def test_a_middleware_leaves_nothing_on_a_request(hook: Fetcher, door: Door) -> None:
    """C4: what it had placed there is gone when the request was sent."""
    requests: list[aiohttp.ClientRequest] = []

    async def keep(request: Any, handler: Any) -> Any:
        requests.append(request)
        return await handler(request)

    assert having(hook, middlewares=(keep, *of(hook.presigner))).fetch(door.cat).status == 200
    assert "send" not in vars(requests[0])


def test_middlewares_of_one_call_are_no_obstacle_to_a_hook(hook: Fetcher, door: Door) -> None:
    """C1: ``middlewares=`` of a call replaces the session's, and the hook is below both."""
    with hook.hooked():
        assert own(hook, door.cat, middlewares=()).status == 200
        assert own(hook, door.cat, middlewares=(noting([]),)).status == 200


def test_a_session_can_opt_out(fetcher: Fetcher, door: Door) -> None:
    """O6: ``opt_out`` among the middlewares of a session, around ours, is for all its fetches."""
    assert having(fetcher, middlewares=(opt_out,)).fetch(door.cat).status == 403
    assert signed(door) == [False]


def test_a_request_that_a_middleware_sends_again_is_signed_again(fetcher: Fetcher, door: Door) -> None:
    """C1: a retrying middleware, around ours, has each attempt signed, once."""
    assert having(fetcher, middlewares=(twice,)).fetch(door.cat).content == b"a cat"
    assert signed(door) == [True, True]
    assert fetcher.presigner.stats()["caught"] == 2


def test_headers_that_a_middleware_adds_count(fetcher: Fetcher, live_door: Door) -> None:
    """S5, S6: what is signed, or left alone, is what is sent."""
    live = fetcher.using(presigner_for(live_door))
    ours = of(live.presigner) if fetcher.is_explicit else ()

    def adding(name: str, value: str) -> Middleware:
        async def middleware(request: Any, handler: Any) -> Any:
            request.headers[name] = value
            return await handler(request)

        return middleware

    mode, mine = adding("x-amz-checksum-mode", "ENABLED"), adding("Authorization", "Bearer mine")
    assert own(live, live_door.cat, middlewares=(*ours, mode)).status == 200
    own(live, live_door.cat, middlewares=(*ours, mine))
    assert signed(live_door) == [True, False]


def test_two_middlewares_share_the_work(hook: Fetcher, door: Door) -> None:
    """C1: of two in one session the one that covers signs; where both do, the inner one."""
    narrow, wide = presigner_for(door, prefix="private/"), presigner_for(door)
    for presigners in ((narrow, wide), (wide, narrow), (presigner_for(door), wide)):
        assert own(hook, door.cat, middlewares=of(*presigners)).status == 200
    assert (narrow.stats()["caught"], wide.stats()["caught"]) == (0, 3)


def test_a_request_that_is_sent_again_between_two_middlewares_is_judged_again(
    hook: Fetcher, door: Door
) -> None:
    """C1, O4: by each of them once an attempt."""
    both = [presigner_for(door, prefix="private/") for _ in "ab"]
    outer, inner = of(*both)
    assert own(hook, door.cat, middlewares=(outer, twice, inner)).status == 403
    assert [presigner.stats()["passed_uncovered"] for presigner in both] == [2, 2]
