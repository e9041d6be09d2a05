"""
Renewal after the response: when it begins, what it renews, and what it leaves behind when it fails.

That a renewal begins is recorded where it takes its first step: it boards a flight, which an AGEING
URL that is served never does. Nothing here waits for time to pass: clocks are the test's own.
"""

import asyncio
import contextlib
import gc
import logging
import re
import socket
import subprocess
import sys
import threading
from calendar import timegm
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from time import strptime
from typing import Any, Final

import boto3
import botocore.session
import pytest
import uvicorn
from botocore.credentials import DeferredRefreshableCredentials
from faults import eventually
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from uvicorn.protocols.http import flow_control, h11_impl

import presign_middleware.asgi
from presign_middleware import (
    NotCovered,
    Origin,
    Policy,
    Presigner,
    SignedURL,
    SigningError,
    effects,
    loops,
    runner,
)
from presign_middleware.asgi import PresignMiddleware
from presign_middleware.local import Flight, Flights, Order
from presign_middleware.objects import S3Object
from presign_middleware.signing import Signing
from presign_middleware.testing import Clock, Memcached

DEADLINE: Final = 10.0  # seconds after which a test that has gone wrong stops waiting

#: A URL is FRESH for half of what it is served, AGEING for the other half: after HALF seconds all are AGEING.
HALF: Final = 1650
POLICY: Final = Policy(ageing=HALF, shared_patience=5)
A: Final = "s3://media/a"

App = Callable[[Any, Any, Any], Awaitable[None]]
Endpoint = Callable[[Request], Any]


# --- doubles ------------------------------------------------------------------------------------------------


class Keys:
    """Temporary credentials whose source counts who asks it and answers once its gate is open."""

    def __init__(self, clock: Clock, *, seconds: float = 43_200) -> None:
        self.fetches = 0
        self.fails = False
        self.ends: dict[str, float] = {}  # of each access key
        self.asked = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self._clock = clock
        self._seconds = seconds

    def origin(self, name: str = "media") -> Origin:
        session: Any = botocore.session.Session()
        session._credentials = DeferredRefreshableCredentials(
            self._fetch, "test", time_fetcher=lambda: datetime.fromtimestamp(self._clock.time(), UTC)
        )
        return Origin(name, bucket=name, region="eu-west-1", session=boto3.Session(botocore_session=session))

    def shut(self) -> None:
        """Let nobody have an answer until the gate is set."""
        self.asked.clear()
        self.gate.clear()

    def _fetch(self) -> dict[str, str]:
        self.fetches += 1
        access_key = f"ASIA{id(self):012}{self.fetches:04}"
        self.asked.set()
        if not self.gate.wait(DEADLINE):
            raise RuntimeError("the test did not open the gate")
        if self.fails:
            raise RuntimeError("the source is down")
        end = self.ends[access_key] = int(self._clock.time() + self._seconds)
        return {
            "access_key": access_key,
            "secret_key": "secret",
            "token": f"token-{access_key}",
            "expiry_time": datetime.fromtimestamp(end, UTC).isoformat(),
        }


@cache
def lasting(name: str = "media") -> Origin:
    """Return an origin with a key that never ends."""
    session: Any = botocore.session.Session()
    session.set_credentials("AKIAEXAMPLE", "secret")
    return Origin(name, bucket=name, region="eu-west-1", session=boto3.Session(botocore_session=session))


class Server:
    """
    Serves one request as uvicorn does, and records in *events* what it was given, and when.

    "part" is a piece of the body, "end" the last one, "gone" that the connection has ended without it.
    Each message takes the event loop many turns to hand over, as to a slow client.
    """

    def __init__(
        self,
        app: App,
        events: list[str],
        path: str = "/",
        *,
        method: str = "GET",
        body: Sequence[bytes] = (b"",),
        gone_after: int | None = None,  # parts of the response
        spec: str = "2.3",
    ) -> None:
        self.events = events
        self.status = 0
        self.received = b""
        self.failure: Exception | None = None
        self._app = app
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": spec},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"shop")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        self._incoming = list(body)
        self._gone_after = gone_after
        self._raises_when_gone = spec >= "2.4"
        self._over = asyncio.Event()

    async def serve(self) -> None:
        """Serve in a task of its own, as servers do."""
        await asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        try:
            await self._app(self._scope, self.receive, self.send)
        except Exception as error:
            self.failure = error
            if not self.status:
                await self.send({"type": "http.response.start", "status": 500, "headers": []})
                await self.send({"type": "http.response.body", "body": b"Internal Server Error"})
        if not self._over.is_set():
            self._hang_up()

    async def receive(self) -> dict[str, Any]:
        if not self._over.is_set() and self._incoming:
            part = self._incoming.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._incoming)}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await turns(20)
        if self._over.is_set():
            if self._raises_when_gone:
                raise OSError("the client has gone")
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.received += message.get("body", b"")
            if not message.get("more_body"):
                self.events.append("end")
                self._over.set()
                return
            self.events.append("part")
            if self._gone_after == self.events.count("part"):
                self._hang_up()

    def _hang_up(self) -> None:
        self.events.append("gone")
        self._over.set()


async def turns(number: int) -> None:
    """Let the event loop turn *number* times."""
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a loop that turns once more after a cancellation for one that is not ending."""
    monkeypatch.setattr(presign_middleware.asgi, "_MOMENT", 0)


async def all_ended() -> None:
    """Wait until this task is the only one of its loop."""
    await turns(2)  # for what is to be begun in a moment
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        _, late = await asyncio.wait(others, timeout=DEADLINE)
        assert not late, f"still under way: {late}"
    await turns(2)  # for what is called back when they have


async def nothing(*_: Any) -> None:
    pass


def requesting(presigner: Presigner, work: Callable[[], Awaitable[object]]) -> App:
    """Return an application that does *work* and answers, behind the middleware."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await work()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    return PresignMiddleware(app, presigner=presigner)


async def request(presigner: Presigner, *targets: str) -> list[str]:
    """Have one request ask for *targets*; return their URLs once the response is complete."""
    found: list[str] = []

    async def work() -> None:
        found.extend(await presigner.aurls(targets))

    await Server(requesting(presigner, work), []).serve()
    return found


async def request_to_its_end(presigner: Presigner, *targets: str) -> list[str]:
    """Do what `request` does, and wait for what it began."""
    found = await request(presigner, *targets)
    await all_ended()
    return found


def dated(url: str) -> int:
    """Return X-Amz-Date of *url* in Unix seconds."""
    found = re.search(r"X-Amz-Date=(\w+)", url)
    assert found
    return timegm(strptime(found[1], "%Y%m%dT%H%M%SZ"))


def left_over(presigner: Presigner) -> list[str]:
    """Return what *presigner* still holds: flights, renewals, locks."""
    source = presigner._signing._origins["media"].source
    locks = {
        "resolver": presigner._runner._resolver._lock,
        "flights": presigner._flights._lock,
        "source": source._lock,
        "plans": presigner._signing._origins["media"]._learning,
    }
    held = [name for name, lock in locks.items() if lock.locked()]
    held += [f"flight of {obj.key}" for obj in presigner._flights.aloft]
    held += [f"renewal {task}" for task in presigner.renewals._tasks]
    for made in presigner._runner._loops.values():
        held += [f"task {task}" for task in made._tasks] + [f"boarding {name}" for name in made._boarding]
        held += [f"turn of {name}" for name, turn in made._turns.items() if turn.locked()]
    return held


@pytest.fixture(autouse=True)
def no_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep middlewares from hooking HTTP clients, which they do for good."""
    monkeypatch.setattr(presign_middleware.asgi, "intercept", lambda: None)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give a list in which each resolution that begins is recorded as a "renewal"."""
    found: list[str] = []
    board = Flights.board

    def recorded(
        flights: Flights, objects: Iterable[S3Object], order: Order
    ) -> tuple[list[Flight], list[Flight]]:
        found.append("renewal")
        return board(flights, objects, order)

    monkeypatch.setattr(Flights, "board", recorded)
    return found


@pytest.fixture
def presigner(clock: Clock) -> Presigner:
    """Give a presigner with a lasting key."""
    return Presigner(lasting(), policy=POLICY, clock=clock)


@pytest.fixture
def ageing(presigner: Presigner, clock: Clock, events: list[str]) -> Presigner:
    """Give a presigner whose URL of `A` is AGEING; its renewals are recorded in `events`."""
    presigner.url(A)
    clock.advance(HALF)
    events.clear()
    return presigner


# --- R1: after the last byte --------------------------------------------------------------------------------


async def passed_on(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    return await call_next(request)


class Holding:
    """A middleware that hands the response over only when the application has returned."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        held: list[Any] = []

        async def hold(message: Any) -> None:
            held.append(message)

        try:
            await self.app(scope, receive, hold)
        finally:
            await turns(20)
            for message in held:
                await send(message)
        return None


class Shop:
    """The ways to answer, each of which meets one AGEING URL."""

    def __init__(self, presigner: Presigner, events: list[str], directory: Path) -> None:
        self._presigner = presigner
        self._events = events
        self._file = directory / "file"
        self._file.write_bytes(bytes(200_000))

    def _routes(self) -> list[BaseRoute]:
        return [Route(f"/{name}", getattr(self, name), methods=["GET", "POST"]) for name in NAMES]

    async def plain(self, request: Request) -> Response:
        return PlainTextResponse(await self._presigner.aurl(A))

    def in_thread(self, request: Request) -> Response:
        return PlainTextResponse(self._presigner.url(A))

    async def streamed(self, request: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            yield await self._presigner.aurl(A)
            yield "more"
            await turns(20)
            yield "last"

        return StreamingResponse(body())

    async def met_at_the_end_of_a_stream(self, request: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            yield "first"
            yield "more"
            yield await self._presigner.aurl(A)

        return StreamingResponse(body())

    async def from_file(self, request: Request) -> Response:
        await self._presigner.aurl(A)
        return FileResponse(self._file)

    async def error(self, request: Request) -> Response:
        await self._presigner.aurl(A)
        raise ZeroDivisionError

    async def error_in_stream(self, request: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            yield await self._presigner.aurl(A)
            raise ZeroDivisionError

        return StreamingResponse(body())

    async def background(self, request: Request) -> Response:
        async def later() -> None:
            await turns(20)
            self._events.append("background")

        return PlainTextResponse(await self._presigner.aurl(A), background=BackgroundTask(later))

    async def met_in_background(self, request: Request) -> Response:
        async def later() -> None:
            await self._presigner.aurl(A)
            await turns(20)
            self._events.append("background")

        return PlainTextResponse("", background=BackgroundTask(later))

    async def body_read(self, request: Request) -> Response:
        size = len(await request.body())
        return PlainTextResponse(f"{size} {await self._presigner.aurl(A)}")

    async def body_half_read(self, request: Request) -> Response:
        async for _ in request.stream():
            break
        return PlainTextResponse(await self._presigner.aurl(A))


NAMES: Final = [name for name in vars(Shop) if not name.startswith("_")]


def stacked(stack: str, presigner: Presigner, routes: list[BaseRoute]) -> tuple[App, str]:
    """Return an application with the middleware where *stack* says, and the path that leads to *routes*."""
    ours, base = Middleware(PresignMiddleware, presigner=presigner), Middleware(BaseHTTPMiddleware, passed_on)
    inner = {
        "inside": [ours],
        "around": [],
        "base above": [base, ours],
        "base below": [ours, base],
        "base on both sides": [base, ours, base],
        "twice": [ours, base, ours],
        "mounted": [ours],
        "mounted under another": [ours],
        "held back above": [Middleware(Holding), ours],
    }[stack]
    app = Starlette(routes=routes, middleware=inner)
    if stack == "around":
        return PresignMiddleware(app, presigner=presigner), ""
    if stack == "mounted":
        return Starlette(routes=[Mount("/sub", app)], middleware=[base]), "/sub"
    if stack == "mounted under another":
        return Starlette(routes=[Mount("/sub", app)], middleware=[ours]), "/sub"
    return app, ""


STACKS: Final = [
    "inside",
    "around",
    "base above",
    "base below",
    "base on both sides",
    "twice",
    "mounted",
    "mounted under another",
    "held back above",
]


USUAL_STACKS: Final = ["inside", "around", "base above", "base on both sides", "held back above"]


def served(app: App, path: str, events: list[str], **how: Any) -> Server:
    """Serve one request in process, to the end of what it has begun."""

    async def serve() -> Server:
        server = Server(app, events, path, **how)
        await server.serve()
        await all_ended()
        return server

    return asyncio.run(serve())


def one_by_one(
    ageing: Presigner,
    clock: Clock,
    events: list[str],
    directory: Path,
    stack: str,
    names: list[str],
    **how: Any,
) -> Iterator[tuple[str, Server, list[str]]]:
    """Answer in each of the ways of *names*, each time renewing one AGEING URL; give what happened."""
    app, prefix = stacked(stack, ageing, Shop(ageing, events, directory)._routes())
    for number, name in enumerate(names, 1):
        events.clear()
        server = served(app, f"{prefix}/{name}", events, **how)
        assert (name, ageing.stats()["refreshed"]) == (name, number)
        yield name, server, list(events)
        clock.advance(HALF)


@pytest.mark.parametrize("stack", STACKS)
def test_the_last_byte_comes_first(
    ageing: Presigner, clock: Clock, events: list[str], tmp_path: Path, stack: str
) -> None:
    """R1: the renewal begins when the server has the last byte, and is made, once."""
    parts = (b"x" * 10,) * 3
    for name, server, seen in one_by_one(
        ageing, clock, events, tmp_path, stack, NAMES, method="POST", body=parts
    ):
        *before, last = seen
        assert (name, last, before.count("renewal")) == (name, "renewal", 0)
        assert {"end", "gone"} & set(before)
        assert (server.failure is not None) is name.startswith("error")
        assert server.status == (500 if name == "error" else 200)
        assert server.received.startswith(b"30 https://") is (name == "body_read")


@pytest.mark.parametrize("stack", STACKS)
def test_the_answer_to_head_comes_first(
    ageing: Presigner, clock: Clock, events: list[str], tmp_path: Path, stack: str
) -> None:
    """R1: a HEAD is answered before the renewal begins, which is made."""
    for name, _, seen in one_by_one(ageing, clock, events, tmp_path, stack, NAMES, method="HEAD"):
        assert (name, seen[-1], seen.count("renewal")) == (name, "renewal", 1)


@pytest.mark.parametrize("spec", ["2.3", "2.4"])
@pytest.mark.parametrize("stack", STACKS)
def test_a_client_that_leaves(
    ageing: Presigner, clock: Clock, events: list[str], tmp_path: Path, stack: str, spec: str
) -> None:
    """R1: the client is gone in mid-stream before the renewal begins, which is made all the same."""
    names = ["streamed", "from_file", "error_in_stream"]
    for name, _, seen in one_by_one(ageing, clock, events, tmp_path, stack, names, gone_after=1, spec=spec):
        assert (name, seen) == (name, ["part", "gone", "renewal"])


@pytest.mark.parametrize("stack", STACKS)
def test_a_stream_that_pauses(ageing: Presigner, events: list[str], stack: str) -> None:
    """R1: while a body pauses, however long, its last part outstanding, no renewal begins."""

    async def body() -> None:
        last = asyncio.Event()

        async def endpoint(request: Request) -> Response:
            async def parts() -> AsyncIterator[str]:
                yield await ageing.aurl(A)
                await last.wait()
                yield "last"

            return StreamingResponse(parts())

        app, prefix = stacked(stack, ageing, [Route("/", endpoint)])
        serving = asyncio.ensure_future(Server(app, events, f"{prefix}/").serve())
        await turns(300)
        assert events == ([] if stack == "held back above" else ["part"])
        last.set()
        await serving
        await all_ended()

    asyncio.run(body())
    assert events[-2:] == ["end", "renewal"]
    assert ageing.stats()["refreshed"] == 1


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("how", ["returns", "raises"])
def test_the_last_message_of_a_websocket_comes_first(
    ageing: Presigner, events: list[str], stack: str, how: str
) -> None:
    """R1: what a websocket has met is renewed when its endpoint has returned or failed."""

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        async for _ in websocket.iter_text():
            await websocket.send_text(await ageing.aurl(A))
        await turns(20)
        events.append("left")
        if how == "raises":
            raise ZeroDivisionError

    async def body() -> None:
        app, prefix = stacked(stack, ageing, [WebSocketRoute("/", talk)])
        incoming = [
            {"type": "websocket.connect"},
            {"type": "websocket.receive", "text": "more"},
            {"type": "websocket.receive", "text": "more"},
            {"type": "websocket.disconnect", "code": 1000},
        ]

        async def receive() -> Any:
            await turns(20)
            return incoming.pop(0)

        async def send(message: Any) -> None:
            await turns(20)
            events.append(message["type"])

        async def serve() -> None:
            scope = {"type": "websocket", "path": f"{prefix}/", "headers": [], "query_string": b""}
            await app(scope, receive, send)

        with contextlib.suppress(ZeroDivisionError):
            await asyncio.create_task(serve())  # as servers do
        await all_ended()

    asyncio.run(body())
    assert events == ["websocket.accept", "websocket.send", "websocket.send", "left", "renewal"]
    assert ageing.stats()["refreshed"] == 1


class ReadingAfterAnError:
    """A middleware that looks at the request's body when the application has failed, to log it."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.read = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.app(scope, receive, send)
        except ZeroDivisionError:
            await turns(20)  # it may have something else to do first
            more = True
            while more:
                message = await receive()
                assert message["type"] == "http.request", "the server has no more for us: others had it"
                self.read += message["body"]
                more = message["more_body"]
            await PlainTextResponse("sorry", status_code=500)(scope, receive, send)


def test_a_body_is_left_to_whoever_reads_it(ageing: Presigner, events: list[str]) -> None:
    """R1: waiting for the end of the response takes no part of the request from a middleware further out."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await ageing.aurl(A)
        raise ZeroDivisionError

    outer = ReadingAfterAnError(PresignMiddleware(app, presigner=ageing))

    async def body() -> None:
        server = Server(outer, events, method="POST", body=[b"one", b"two", b"three"])
        serving = asyncio.ensure_future(server.serve())
        _, late = await asyncio.wait([serving], timeout=1)
        assert not late, "the middleware waits for a body that it will never get"
        assert (outer.read, server.received) == (b"onetwothree", b"sorry")

    asyncio.run(body())


def test_a_body_is_left_to_base_http_middleware(ageing: Presigner, events: list[str]) -> None:
    """R1: a BaseHTTPMiddleware can read the body of a request that has failed."""

    async def endpoint(request: Request) -> Response:
        await ageing.aurl(A)
        raise ZeroDivisionError

    async def logged(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            return await call_next(request)
        except ZeroDivisionError:
            await turns(20)
            return PlainTextResponse(await request.body(), status_code=500)

    stack = [Middleware(BaseHTTPMiddleware, logged), Middleware(PresignMiddleware, presigner=ageing)]
    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])], middleware=stack)

    async def body() -> None:
        server = Server(app, events, method="POST", body=[b"one", b"two", b"three"])
        serving = asyncio.ensure_future(server.serve())
        _, late = await asyncio.wait([serving], timeout=1)
        assert not late, "the middleware waits for a body that it will never get"
        assert (server.failure, server.received) == (None, b"onetwothree")

    asyncio.run(body())


def test_a_receive_that_repeats_itself(ageing: Presigner, events: list[str]) -> None:
    """R1: a middleware that gives the body again whenever it is asked does not keep the event loop busy."""

    class Stuck(BaseException):
        """The loop would never turn again."""

    asked = 0

    async def again(receive: Any, send: Any) -> None:
        body = (await receive())["body"]

        async def repeated() -> Any:
            nonlocal asked
            asked += 1
            if asked > 1_000:
                raise Stuck
            return {"type": "http.request", "body": body, "more_body": False}

        await ours({"type": "http"}, repeated, send)

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await again(receive, send)

    ours = requesting(ageing, lambda: ageing.aurl(A))
    with contextlib.suppress(Stuck):
        served(outer, "/", events)
    assert asked < 1_000


# --- R1: behind a real server -------------------------------------------------------------------------------


@pytest.fixture(params=["h11", "httptools"])
def http(request: pytest.FixtureRequest, events: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Name a protocol of uvicorn, which records in `events` what it has been given."""
    name: str = request.param
    protocol: Any = h11_impl
    if name == "httptools":
        pytest.importorskip("httptools")
        from uvicorn.protocols.http import httptools_impl as protocol

    send = protocol.RequestResponseCycle.send

    async def recorded(cycle: Any, message: Any) -> None:
        was_complete = cycle.response_complete or cycle.disconnected
        await send(cycle, message)
        if message["type"] == "http.response.body" and not was_complete:
            events.append("gone" if cycle.disconnected else "part" if message.get("more_body") else "end")

    monkeypatch.setattr(protocol.RequestResponseCycle, "send", recorded)
    return name


@pytest.fixture
def is_full(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Give an event that is set when a client reads so slowly that uvicorn has to wait for it."""
    found = threading.Event()
    pause = flow_control.FlowControl.pause_writing

    def noted(flow: flow_control.FlowControl) -> None:
        pause(flow)
        found.set()

    monkeypatch.setattr(flow_control.FlowControl, "pause_writing", noted)
    return found


@contextlib.contextmanager
def listening(app: App, http: str) -> Iterator[tuple[str, int]]:
    """Serve *app* with uvicorn at a free port of loopback until the end, which waits for renewals."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(app, log_config=None, lifespan="on", http=http)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def asking(address: tuple[str, int], method: str, path: str, body: bytes = b"") -> Iterator[socket.socket]:
    """Send a request over a connection with little room, which the server is to close; read nothing."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(DEADLINE)
        client.connect(address)
        head = f"{method} {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        yield client


def everything(client: socket.socket) -> bytes:
    """Read to the end."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    found = bytearray()
    while more := client.recv(1 << 20):
        found += more
    return bytes(found)


@pytest.mark.parametrize("stack", USUAL_STACKS)
def test_uvicorn_has_the_last_byte_first(
    ageing: Presigner, events: list[str], tmp_path: Path, http: str, stack: str
) -> None:
    """R1: under uvicorn, however the application answers, and over the wire all is as it was."""
    shop = Shop(ageing, events, tmp_path)
    app, _ = stacked(stack, ageing, shop._routes())
    told, found = {}, {}
    with listening(app, http) as address:
        for method in ("GET", "HEAD", "POST"):
            for name in NAMES:
                before = ageing.stats()["refreshed"]
                events.clear()
                with asking(address, method, f"/{name}", b"x" * 30) as client:
                    told[method, name] = int(everything(client).split()[1])
                eventually(lambda before=before: ageing.stats()["refreshed"] > before)  # type: ignore[misc]  # a lambda
                found[method, name] = list(events)
                eventually(lambda: not ageing.renewals._tasks)
                ageing._clock.advance(HALF)  # type: ignore[attr-defined]  # a Clock
    assert told == {asked: 500 if asked[1] == "error" else 200 for asked in told}
    wrong = {
        asked: seen
        for asked, seen in found.items()
        if seen.count("renewal") != 1
        or seen[-1] != "renewal"
        or ("end" not in seen and asked[1] != "error_in_stream")  # which uvicorn may answer by closing
    }
    assert wrong == {}


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("stack", ["inside", "base on both sides"])
def test_a_client_that_reads_slowly(
    ageing: Presigner, events: list[str], is_full: threading.Event, http: str, stack: str, leaves: bool
) -> None:
    """R1: uvicorn cannot take more, so nothing is renewed; it is when the client has read on, or has left."""
    size = 8 << 20

    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            await ageing.aurl(A)
            for _ in range(size >> 16):
                yield bytes(1 << 16)

        return StreamingResponse(body())

    app, _ = stacked(stack, ageing, [Route("/", endpoint)])
    with listening(app, http) as address, asking(address, "GET", "/") as client:
        assert is_full.wait(DEADLINE)
        assert "renewal" not in events
        assert ageing.stats()["refreshed"] == 0
        if not leaves:
            assert len(everything(client)) > size
    assert events[-2:] == (["gone", "renewal"] if leaves else ["end", "renewal"])
    assert ageing.stats()["refreshed"] == 1


def test_a_connection_that_is_kept(ageing: Presigner, events: list[str], http: str) -> None:
    """R1: requests that follow each other on one connection are answered, and one signature is made."""
    app, _ = stacked("inside", ageing, Shop(ageing, events, Path("/tmp"))._routes()[:1])
    line = b"GET /plain HTTP/1.1\r\nHost: shop\r\n"
    with (
        listening(app, http) as address,
        socket.create_connection(address, timeout=DEADLINE) as client,
    ):
        client.sendall((line + b"\r\n") * 2 + line + b"Connection: close\r\n\r\n")
        assert everything(client).count(b"HTTP/1.1 200") == 3
    assert "renewal" in events
    assert ageing.stats()["signed"] == 2


def test_a_client_that_waits_to_be_asked_for_its_body(ageing: Presigner, http: str) -> None:
    """R1: a body that the application has refused to read is not asked for by the renewal."""

    async def endpoint(request: Request) -> Response:
        await ageing.aurl(A)
        raise ZeroDivisionError

    app, _ = stacked("held back above", ageing, [Route("/", endpoint, methods=["POST"])])
    with (
        listening(app, http) as address,
        socket.create_connection(address, timeout=DEADLINE) as client,
    ):
        client.sendall(
            b"POST / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n"
            b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n"
        )
        assert client.recv(1000)[:12] == b"HTTP/1.1 500"


# --- R3: what is replaced is not read back ------------------------------------------------------------------


@pytest.fixture
def fleet(memcached: Memcached, clock: Clock) -> Iterator[Callable[..., Presigner]]:
    """Give what makes a presigner on one memcached; without an origin it has a session of its own."""
    made: list[Presigner] = []

    def make(origin: Origin | None = None, policy: Policy = POLICY) -> Presigner:
        found = Presigner(origin or Keys(clock).origin(), shared=memcached.url, policy=policy, clock=clock)
        made.append(found)
        return found

    yield make
    for presigner in made:
        presigner.close()


def renewed_by_request(presigner: Presigner) -> None:
    asyncio.run(request_to_its_end(presigner, A))


def renewed_by_call(presigner: Presigner) -> None:
    presigner.refresh(A)


def renewed_by_awaited_call(presigner: Presigner) -> None:
    asyncio.run(arefresh(presigner))


async def arefresh(presigner: Presigner) -> None:
    await presigner.arefresh(A)


def renewed_on_a_loops_thread(presigner: Presigner) -> None:
    async def body() -> None:
        presigner.refresh(A)

    asyncio.run(body())


ways_to_renew = pytest.mark.parametrize(
    "renew", [renewed_by_request, renewed_by_call, renewed_by_awaited_call, renewed_on_a_loops_thread]
)
Renew = Callable[[Presigner], None]


@ways_to_renew
@pytest.mark.parametrize("patience", [5, 0])
def test_a_renewal_does_not_read_back(
    clock: Clock, fleet: Callable[..., Presigner], renew: Renew, patience: float
) -> None:
    """R3: the AGEING entry of the shared cache never takes the place of the URL that was signed for it."""
    presigner = fleet(policy=Policy(ageing=HALF, shared_patience=patience))
    old = presigner.url(A)
    presigner.close()  # by then all is shared
    clock.advance(HALF)
    renew(presigner)
    presigner.close()
    assert dated(presigner.url(A)) > dated(old)
    assert presigner.stats()["signed"] == 2


@ways_to_renew
def test_what_was_renewed_is_shared(clock: Clock, fleet: Callable[..., Presigner], renew: Renew) -> None:
    """R3: the new URL takes the place of the AGEING one in memcached, where a cold process finds it."""
    presigner, cold = fleet(), fleet()
    old = presigner.url(A)
    presigner.close()
    clock.advance(HALF)
    renew(presigner)
    presigner.close()
    cold.url("s3://media/other")  # it has credentials now
    found = cold.url(A)
    assert (found, dated(found) > dated(old)) == (presigner.url(A), True)


@pytest.mark.parametrize("renew", [renewed_by_request, renewed_by_call, renewed_by_awaited_call])
@pytest.mark.parametrize("is_lasting", [False, True])
def test_a_newer_shared_entry_is_adopted(
    clock: Clock, fleet: Callable[..., Presigner], renew: Renew, is_lasting: bool
) -> None:
    """R3: the second process to renew takes what the first has shared, and signs nothing."""
    first, second = [fleet(lasting() if is_lasting else None) for _ in range(2)]
    assert first.url(A) == second.url(A)
    clock.advance(HALF)
    renew(first)
    first.close()  # by then it is shared
    signed = second.stats()["signed"]
    renew(second)
    assert second.url(A) == first.url(A)
    assert second.stats()["signed"] == signed


@pytest.mark.parametrize("renew", [renewed_by_call, renewed_by_awaited_call, renewed_on_a_loops_thread])
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_refresh_signs_anew(
    clock: Clock, presigner: Presigner, fleet: Callable[..., Presigner], renew: Renew, is_shared: bool
) -> None:
    """R3: `refresh` signs even a FRESH URL, which stays the same within its window, by the same key."""
    presigner = fleet() if is_shared else presigner
    url = presigner.url(A)
    renew(presigner)
    assert presigner.stats()["signed"] == 2
    assert presigner.url(A) == url


@pytest.mark.parametrize("way", ["refresh", "arefresh"])
def test_a_refresh_gives_a_signed_url(ageing: Presigner, way: str) -> None:
    """R3: the new URL and what is known of it are returned, and every later call gives it."""
    old = ageing.url(A)
    found = ageing.refresh(A) if way == "refresh" else asyncio.run(ageing.arefresh(A))
    assert isinstance(found, SignedURL)
    assert old != str(found) == found.url == ageing.url(A) == ageing.resolve(A).url
    assert (found.original_url, found.origin, found.method) == (A, "media", "GET")
    assert (found.created_at, found.expires_at) == (dated(found.url), dated(found.url) + 3600)


@pytest.mark.parametrize("renew", [renewed_by_call, renewed_by_awaited_call, renewed_on_a_loops_thread])
def test_a_refresh_that_fails(clock: Clock, renew: Renew) -> None:
    """R5: a `refresh` that cannot be signed says why, holds nothing, and the next one succeeds."""
    keys, presigner = renewing(clock)
    old = presigner.url(A)
    clock.advance(3600)
    failing(keys)
    with pytest.raises(SigningError, match="RuntimeError"):
        renew(presigner)
    assert left_over(presigner) == []
    keys.fails = False
    renew(presigner)
    assert presigner.url(A) != old


def test_a_refresh_of_what_is_not_covered(presigner: Presigner) -> None:
    """O4: `refresh` and `warm` say so, as `url` does."""
    with pytest.raises(NotCovered):
        presigner.refresh("s3://other/a")
    with pytest.raises(NotCovered):
        presigner.warm(["s3://other/a"])


# --- warm ---------------------------------------------------------------------------------------------------


def warmed(presigner: Presigner, targets: Iterable[str], way: str) -> None:
    if way == "warm":
        presigner.warm(targets)
    else:
        asyncio.run(presigner.awarm(targets))


@pytest.mark.parametrize("kind", [list, tuple, iter, set, dict.fromkeys, lambda keys: (key for key in keys)])
@pytest.mark.parametrize("way", ["warm", "awarm"])
def test_warm(presigner: Presigner, way: str, kind: Callable[[list[str]], Iterable[str]]) -> None:
    """D5: any iterable of targets is signed for, once each, and their URLs are at hand."""
    targets = [f"s3://media/{number}" for number in range(1_100)]
    warmed(presigner, kind(targets), way)
    assert presigner.stats()["signed"] == 1_100
    presigner.urls(targets)
    assert (presigner.stats()["signed"], presigner.stats()["from_local"]) == (1_100, 1_100)


@pytest.mark.parametrize("way", ["warm", "awarm"])
def test_warm_for_the_fleet(fleet: Callable[..., Presigner], way: str) -> None:
    """D4: what one process has warmed, another need not sign."""
    targets = [f"s3://media/{number}" for number in range(600)]
    first, second = fleet(), fleet()
    warmed(first, (target for target in targets), way)
    first.close()
    second.url("s3://media/other")  # it has credentials now
    warmed(second, targets, way)
    assert second.urls(targets) == first.urls(targets)
    assert second.stats()["signed"] == 1


# --- R4 -----------------------------------------------------------------------------------------------------


def test_url_and_end_change_together(clock: Clock) -> None:
    """R4: eight threads that read during fifty renewals see each URL with its own date and end."""
    keys = Keys(clock, seconds=7200)
    presigner = Presigner(keys.origin(), policy=POLICY, clock=clock)
    presigner.url(A)
    over, torn, seen = threading.Event(), list[SignedURL](), set[str]()

    def read() -> None:
        while not over.is_set():
            found = presigner.resolve(A)
            access_key = re.findall(r"X-Amz-Credential=(\w+)", found.url)[0]
            end = min(dated(found.url) + 3600, keys.ends[access_key])
            if (found.created_at, found.expires_at) != (dated(found.url), end):
                torn.append(found)
            seen.add(found.url)

    async def renew() -> None:
        for _ in range(50):
            clock.advance(HALF)
            await request_to_its_end(presigner, A)

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            reading = [pool.submit(read) for _ in range(8)]
            try:
                asyncio.run(renew())
            finally:
                over.set()
            for one in reading:
                one.result()
    finally:
        sys.setswitchinterval(usual)
    assert torn == []
    assert len(seen) > 10
    assert presigner.stats()["refreshed"] >= 40


# --- AGEING is served, and renewed once ---------------------------------------------------------------------


def test_fresh_urls_start_no_task(presigner: Presigner) -> None:
    """R6: a request that met FRESH URLs alone, or none, leaves nothing to do."""

    async def body() -> set[Any]:
        await presigner.awarm([A])
        await request(presigner, A)
        await request(presigner)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(body()) == set()


def renewing(clock: Clock) -> tuple[Keys, Presigner]:
    """Return a source that is about to be asked for new credentials, and a presigner with an AGEING URL."""
    keys = Keys(clock, seconds=3600)
    presigner = Presigner(keys.origin(), policy=Policy(lifetime=604_800), clock=clock)
    presigner.url(A)
    clock.advance(3600 - 590)  # less than 600, where botocore insists on new ones
    keys.shut()
    return keys, presigner


def test_nobody_waits_for_a_renewal(clock: Clock) -> None:
    """R1, P3: while a renewal waits for credentials, requests, threads and tasks get the AGEING URL."""
    keys, presigner = renewing(clock)
    old = presigner.url(A)

    async def body() -> list[str]:
        found = await request(presigner, A)
        assert await asyncio.to_thread(keys.asked.wait, DEADLINE)
        found += [url for _ in range(10) for url in await request(presigner, A)]
        found += [await asyncio.to_thread(presigner.url, A), presigner.url(A), await presigner.aurl(A)]
        assert presigner.stats()["refreshed"] == 0
        keys.gate.set()
        await all_ended()
        return found

    assert asyncio.run(body()) == [old] * 14
    assert presigner.url(A) != old
    assert (keys.fetches, presigner.stats()["refreshed"]) == (2, 1)


def test_one_renewal_for_all_who_meet_it_meanwhile(clock: Clock) -> None:
    """D1, R6: what others meet while a renewal waits for credentials is not signed with those that end."""
    keys, presigner = renewing(clock)

    async def body() -> None:
        await request(presigner, A)
        assert await asyncio.to_thread(keys.asked.wait, DEADLINE)
        for _ in range(10):
            await request(presigner, A)
        await turns(100)
        keys.gate.set()
        await all_ended()

    asyncio.run(body())
    stats = presigner.stats()
    assert (stats["signed"], stats["refreshed"], stats["refresh_failed"]) == (2, 1, 0)


def test_one_renewal_for_all(ageing: Presigner, clock: Clock) -> None:
    """D1, R6: fifty requests at once that meet one AGEING URL cause one signature, counted as one renewal."""

    async def body() -> None:
        await asyncio.gather(*(request(ageing, A) for _ in range(50)))
        await all_ended()

    asyncio.run(body())
    assert (ageing.stats()["signed"], ageing.stats()["refreshed"]) == (2, 1)


def test_what_another_request_has_renewed(ageing: Presigner, events: list[str]) -> None:
    """R6: a request that ends when another has renewed what both met neither signs nor counts a renewal."""

    async def body() -> None:
        met, other_done = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            await ageing.aurl(A)
            met.set()
            await other_done.wait()

        slow = asyncio.ensure_future(Server(requesting(ageing, work), []).serve())
        await met.wait()
        await request(ageing, A)
        await asyncio.wait(list(ageing.renewals._tasks), timeout=DEADLINE)
        assert ageing.stats()["refreshed"] == 1
        other_done.set()
        await slow
        await all_ended()

    asyncio.run(body())
    assert (ageing.stats()["signed"], ageing.stats()["refreshed"]) == (2, 1)


# --- R5: failures -------------------------------------------------------------------------------------------


def failing(keys: Keys) -> None:
    keys.fails = True
    keys.gate.set()


def test_a_renewal_that_fails_leaves_nothing(clock: Clock) -> None:
    """R5: no flight, task or lock is held, the next request is served, and the next renewal succeeds."""
    keys, presigner = renewing(clock)
    old = presigner.url(A)
    failing(keys)
    assert asyncio.run(request_to_its_end(presigner, A)) == [old]
    assert left_over(presigner) == []
    assert (presigner.stats()["refreshed"], presigner.stats()["refresh_failed"]) == (0, 1)
    keys.fails = False
    clock.advance(65)  # until the source is asked again
    assert asyncio.run(request_to_its_end(presigner, A)) == [old]
    assert presigner.url(A) != old
    assert presigner.stats()["refreshed"] == 1


def test_a_renewal_that_hangs_leaves_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """R5: a source that hangs holds up its renewal for a while, and nobody else; its answer is used."""
    for room in (effects, loops):
        monkeypatch.setattr(room, "PATIENCE", 0.05)
    keys, presigner = renewing(clock)
    old = presigner.url(A)

    async def body() -> None:
        assert await request(presigner, A) == [old]
        renewals = list(presigner.renewals._tasks)
        try:
            await asyncio.wait(renewals, timeout=1)
            assert [task.done() for task in renewals] == [True]
            assert presigner._flights.aloft == {}
            assert await request(presigner, A) == [old]
        finally:
            keys.gate.set()
        await all_ended()

    asyncio.run(body())
    presigner.close()  # which waits for the source
    assert left_over(presigner) == []
    assert presigner.stats()["refresh_failed"] == 1
    clock.advance(1)  # for which the object is left alone
    asyncio.run(request_to_its_end(presigner, A))
    assert presigner.url(A) != old


@pytest.mark.parametrize("who", ["renewal", "all", "all but the renewal"])
@pytest.mark.parametrize("kind", ["at once", "with a fetch", "shared"])
def test_a_renewal_that_is_cancelled_leaves_nothing(
    clock: Clock, fleet: Callable[..., Presigner], who: str, kind: str
) -> None:
    """R5: in whatever turn of the loop it is cancelled, nothing is held, and the next request renews."""
    for number in range(0, 40, 1 if kind == "at once" else 3):
        if kind == "with a fetch":
            keys, presigner = renewing(clock)
            keys.gate.set()
        else:
            presigner = fleet() if kind == "shared" else Presigner(lasting(), policy=POLICY, clock=clock)
            presigner.url(f"{A}{number}")
            presigner.close()
            clock.advance(HALF)
        target = A if kind == "with a fetch" else f"{A}{number}"
        old = presigner.url(target)

        async def body(number: int = number, presigner: Presigner = presigner, target: str = target) -> None:
            await request(presigner, target)
            await turns(number)
            mine = set(presigner.renewals._tasks)
            others = asyncio.all_tasks() - mine - {asyncio.current_task()}
            for task in {"renewal": mine, "all": mine | others, "all but the renewal": others}[who]:
                task.cancel()
            await all_ended()
            assert left_over(presigner) == []
            await request_to_its_end(presigner, target)

        asyncio.run(body())
        assert left_over(presigner) == []
        assert presigner.url(target) != old, f"after {number} turns"


def test_a_request_that_is_cancelled(ageing: Presigner, events: list[str]) -> None:
    """R1, R5: a request that its server cancels is renewed for once it has ended."""

    async def body() -> None:
        met = asyncio.Event()

        async def work() -> None:
            await ageing.aurl(A)
            met.set()
            await asyncio.Event().wait()

        server = Server(requesting(ageing, work), events)
        serving = asyncio.ensure_future(server.serve())
        await met.wait()
        serving.cancel()
        await asyncio.wait([serving])
        events.append("ended")
        server._hang_up()
        await all_ended()

    asyncio.run(body())
    assert events == ["ended", "gone", "renewal"]
    assert ageing.stats()["refreshed"] == 1


def test_a_loop_that_ends_with_a_request(
    ageing: Presigner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R5: a loop that ends in the middle of a request finds no renewal that nobody waits for."""
    monkeypatch.setattr(presign_middleware.asgi, "_MOMENT", 10)

    async def body() -> None:
        async def work() -> None:
            await ageing.aurl(A)
            await asyncio.Event().wait()

        serving = asyncio.ensure_future(Server(requesting(ageing, work), []).serve())
        await turns(20)
        assert not serving.done()

    asyncio.run(body())
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert left_over(ageing) == []


def ending(clock: Clock, shared: str | None = None) -> tuple[Keys, Presigner]:
    """Return a source that always fails from now on, and a presigner whose URLs are AGEING for 360 s."""
    keys = Keys(clock, seconds=3600)
    presigner = Presigner(keys.origin(), shared=shared, policy=Policy(lifetime=604_800), clock=clock)
    presigner.url(A)
    clock.advance(3600 - 660)
    keys.fails = True
    return keys, presigner


def test_failures_back_off(clock: Clock) -> None:
    """R5: an object that stays AGEING is tried again after 1, 2, 4, ... s, and at most a minute."""
    _, presigner = ending(clock)
    tried = []

    async def body() -> None:
        for second in range(250):
            before = presigner.stats()["refresh_failed"]
            await request_to_its_end(presigner, A)
            if presigner.stats()["refresh_failed"] > before:
                tried.append(second)
            clock.advance(1)

    asyncio.run(body())
    assert tried == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]


def test_errors_back_off(
    ageing: Presigner, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """R5: so is one that cannot be signed; each failure is logged, and no request is told."""
    monkeypatch.setattr(Signing, "sign", lambda *_: SigningError("the signer has refused"))

    async def body() -> None:
        for _ in range(100):
            await request_to_its_end(ageing, A)
            clock.advance(1)

    asyncio.run(body())
    assert (ageing.stats()["refresh_failed"], ageing.stats()["failed"]) == (7, 0)
    assert caplog.text.count("the signer has refused") == 7
    assert left_over(ageing) == []


def test_backing_off_ends(clock: Clock) -> None:
    """R5: after a renewal that succeeded, the next failure is followed by the shortest rest again."""
    keys, presigner = ending(clock)

    async def tries(seconds: int) -> list[int]:
        tried = []
        for second in range(seconds):
            before = presigner.stats()["refresh_failed"]
            await request_to_its_end(presigner, A)
            if presigner.stats()["refresh_failed"] > before:
                tried.append(second)
            clock.advance(1)
        return tried

    assert asyncio.run(tries(16)) == [0, 1, 3, 7, 15]
    keys.fails = False
    clock.advance(70)
    asyncio.run(request_to_its_end(presigner, A))
    assert presigner.stats()["refreshed"] == 1
    clock.advance(3600 - 660)
    keys.fails = True
    assert asyncio.run(tries(8)) == [0, 1, 3, 7]


def test_one_failure_counts_once(ageing: Presigner, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """R5: fifty requests that share one failed renewal lengthen the rest no more than one does."""
    monkeypatch.setattr(Signing, "sign", lambda *_: SigningError("the signer has refused"))

    async def body() -> None:
        await asyncio.gather(*(request(ageing, A) for _ in range(50)))
        await all_ended()
        assert ageing.stats()["refresh_failed"] == 1
        clock.advance(1)
        await request_to_its_end(ageing, A)

    asyncio.run(body())
    assert ageing.stats()["refresh_failed"] == 2


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("seconds", [0, 0.3])
def test_ageing_for_ever(clock: Clock, memcached: Memcached, seconds: float, is_shared: bool) -> None:
    """R5: over a thousand requests, credentials that are about to end cause a few signatures, not a loop."""
    _, presigner = ending(clock, memcached.url if is_shared else None)

    async def body() -> None:
        for _ in range(1_000):
            await request_to_its_end(presigner, A)
            clock.advance(seconds)

    asyncio.run(body())
    presigner.close()
    assert presigner.stats()["signed"] <= (12 if seconds else 4)


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("way", ["url", "aurl"])
def test_ageing_for_ever_in_a_job(clock: Clock, memcached: Memcached, way: str, is_shared: bool) -> None:
    """R5, D6: nor do they in a scope that renews as it goes."""
    _, presigner = ending(clock, memcached.url if is_shared else None)

    def in_thread() -> None:
        for _ in range(1_000):
            presigner.url(A)

    async def in_task() -> None:
        for _ in range(1_000):
            await presigner.aurl(A)

    with presigner.scope():
        clock.advance(200)
        if way == "url":
            in_thread()
        else:
            asyncio.run(in_task())
    presigner.close()
    assert presigner.stats()["signed"] <= 20


# --- R6 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "renewed"), [(0, 0), (1, 1), (3, 3), (5, 5), (100, 5)])
def test_a_request_renews_what_it_met(clock: Clock, limit: int, renewed: int) -> None:
    """R6: of ten AGEING URLs those five that a request met are renewed, at most `refresh_limit` of them."""
    policy = Policy(ageing=HALF, refresh_limit=limit)
    presigner = Presigner(lasting(), policy=policy, clock=clock)
    targets = [f"s3://media/{number}" for number in range(10)]
    presigner.warm(targets)
    clock.advance(HALF)
    old = presigner.urls(targets)

    async def body() -> bool:
        await request(presigner, *targets[:5])
        began = bool(asyncio.all_tasks() - {asyncio.current_task()})
        await all_ended()
        return began

    assert asyncio.run(body()) is bool(renewed)
    changed = [before != after for before, after in zip(old, presigner.urls(targets), strict=True)]
    assert (sum(changed[:5]), sum(changed[5:])) == (renewed, 0)
    assert (presigner.stats()["signed"], presigner.stats()["refreshed"]) == (10 + renewed, renewed)


def test_the_limit_is_a_requests(clock: Clock) -> None:
    """R6: what one request had to leave, the next one renews."""
    presigner = Presigner(lasting(), policy=Policy(ageing=HALF, refresh_limit=3), clock=clock)
    targets = [f"s3://media/{number}" for number in range(10)]
    presigner.warm(targets)
    clock.advance(HALF)

    async def body() -> list[int]:
        found = []
        for _ in range(5):
            await request_to_its_end(presigner, *targets)
            found.append(presigner.stats()["refreshed"])
        return found

    assert asyncio.run(body()) == [3, 6, 9, 10, 10]


def test_what_became_old_during_the_request(presigner: Presigner, clock: Clock) -> None:
    """R6: a URL that was FRESH when a request met it, and is not when it ends, is renewed."""

    async def body() -> None:
        async def work() -> None:
            await presigner.aurl(A)
            clock.advance(HALF)

        await Server(requesting(presigner, work), []).serve()
        await all_ended()

    asyncio.run(body())
    assert presigner.stats()["refreshed"] == 1


def test_renewals_are_not_handed_out(ageing: Presigner) -> None:
    """R6: only what somebody asked for counts as resolved."""
    before = ageing.stats()["resolved"]
    asyncio.run(request_to_its_end(ageing, A))
    assert ageing.stats()["resolved"] == before + 1


# --- R7: start-up and shutdown ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def living(app: App, events: list[str]) -> AsyncIterator[None]:
    """Take *app* through its start-up, and through its shutdown; record in *events* what it said."""
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    said = asyncio.Event()

    async def send(message: Any) -> None:
        events.append(message["type"])
        said.set()

    task = asyncio.ensure_future(app({"type": "lifespan", "state": {}}, incoming.get, send))
    for event in ("startup", "shutdown"):
        said.clear()
        incoming.put_nowait({"type": f"lifespan.{event}"})
        waiting = asyncio.ensure_future(said.wait())
        await asyncio.wait([waiting, task], timeout=DEADLINE / 4, return_when=asyncio.FIRST_COMPLETED)
        assert said.is_set() or task.done(), f"{event} takes too long"
        waiting.cancel()
        if event == "startup":
            yield
    await task


STARTED, STOPPED = "lifespan.startup.complete", "lifespan.shutdown.complete"


def test_shutdown_waits_for_renewals(clock: Clock) -> None:
    """R7: a renewal that is under way ends, and then the application has shut down."""
    keys, presigner = renewing(clock)
    keys.gate.set()
    events: list[str] = []

    async def open_later() -> None:
        await turns(100)
        events.append("opened")
        keys.gate.set()

    async def body() -> None:
        async with living(PresignMiddleware(Starlette(), presigner=presigner), events):
            await presigner.arefresh(A)
            clock.advance(3600 - 590)
            keys.shut()
            await request(presigner, A)
            assert await asyncio.to_thread(keys.asked.wait, DEADLINE)
            opening = asyncio.ensure_future(open_later())
        await opening

    asyncio.run(body())
    assert events == [STARTED, "opened", STOPPED]
    assert presigner.stats()["refreshed"] == 2
    assert left_over(presigner) == []


def test_shutdown_drops_what_takes_too_long(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """R7: a renewal that hangs is cancelled at the deadline, and the application shuts down."""
    monkeypatch.setattr(presign_middleware.asgi, "DRAIN_WITHIN", 0.05)
    keys, presigner = renewing(clock)
    keys.gate.set()
    events: list[str] = []

    async def body() -> None:
        async with living(PresignMiddleware(Starlette(), presigner=presigner), events):
            await presigner.arefresh(A)
            clock.advance(3600 - 590)
            keys.shut()
            await request(presigner, A)
            assert await asyncio.to_thread(keys.asked.wait, DEADLINE)
        assert not keys.gate.is_set()
        assert not presigner.renewals._tasks
        keys.gate.set()

    asyncio.run(body())
    assert events == [STARTED, STOPPED]


def test_a_process_can_end_while_a_source_hangs() -> None:
    """R7: what was dropped at shutdown does not keep the interpreter from ending."""
    program = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[1])
from test_renewal import *
presign_middleware.asgi.intercept = lambda: None
presign_middleware.asgi.DRAIN_WITHIN = 0.01
clock = Clock()
keys, presigner = renewing(clock)

async def body():
    async with living(PresignMiddleware(nothing_more, presigner=presigner), []):
        await request(presigner, A)
        await asyncio.to_thread(keys.asked.wait, DEADLINE)

async def nothing_more(scope, receive, send):
    for event in ("startup", "shutdown"):
        if event == "startup":
            await asyncio.sleep(0)
        message = await receive()
        await send({"type": message["type"] + ".complete"})

presign_middleware.asgi.Presigner.make_ready = nothing
asyncio.run(body())
print("ended", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ended\n"
            process.wait(DEADLINE / 4)  # the source hangs for DEADLINE
        except subprocess.TimeoutExpired:
            pytest.fail("the interpreter waits for the source")
        finally:
            process.kill()


def test_start_up_makes_ready(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """D5: after start-up a blocking call on the loop's thread signs without asking anyone."""
    keys = Keys(clock)
    presigner = Presigner(keys.origin(), policy=POLICY, clock=clock)
    events: list[str] = []

    async def body() -> None:
        async with living(PresignMiddleware(Starlette(), presigner=presigner), events):
            assert (keys.fetches, presigner.stats()["signed"]) == (1, 0)
            keys.shut()
            for target in (A, "https://media.s3.eu-west-1.amazonaws.com/b"):
                assert presigner.url(target).startswith("https://media.s3.eu-west-1.amazonaws.com/")

    asyncio.run(body())
    assert events == [STARTED, STOPPED]
    assert keys.fetches == 1
    assert "on an event loop's thread" not in caplog.text


@pytest.mark.parametrize("trouble", ["fails", "hangs", "boto3 fails"])
def test_start_up_never_fails(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    """D5: whatever becomes of one origin, the application starts, the other origin is ready, it is logged."""
    monkeypatch.setattr(runner, "_READY_WITHIN", 0.5)
    bad, good = Keys(clock), Keys(clock)
    origin = bad.origin("bad")
    if trouble == "fails":
        bad.fails = True
    elif trouble == "hangs":
        bad.shut()
    else:
        session: Any = origin.session

        def refused(*_: Any, **__: Any) -> Any:
            raise ValueError("a setting of boto3 is wrong")

        monkeypatch.setattr(session, "client", refused)
    presigner = Presigner(origin, good.origin("media"), policy=POLICY, clock=clock)
    events: list[str] = []

    async def body() -> None:
        async with living(PresignMiddleware(Starlette(), presigner=presigner), events):
            assert events == [STARTED]
            assert good.fetches == 1
            assert presigner.url(A).startswith("https://")
        bad.gate.set()

    asyncio.run(body())
    assert events == [STARTED, STOPPED]
    assert "ready" in caplog.text


# --- D6: a scope that grows old -----------------------------------------------------------------------------


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("is_lasting", [False, True])
@pytest.mark.parametrize("way", ["thread", "loop", "loop's thread"])
def test_an_old_scope_renews_as_it_goes(
    clock: Clock, fleet: Callable[..., Presigner], way: str, is_lasting: bool, is_shared: bool
) -> None:
    """D6: a job that is older than half the AGEING window gets a new URL, once, which all others get too."""
    origin = lasting() if is_lasting else Keys(clock).origin()
    presigner = fleet(origin) if is_shared else Presigner(origin, policy=POLICY, clock=clock)
    old = presigner.url(A)
    presigner.close()
    clock.advance(HALF)

    async def awaited() -> list[str]:
        return [await presigner.aurl(A), await presigner.aurl(A)]

    async def blocking() -> list[str]:
        return [presigner.url(A), presigner.url(A)]

    def ask() -> list[str]:
        if way == "thread":
            return [presigner.url(A), presigner.url(A)]
        return asyncio.run(awaited() if way == "loop" else blocking())

    with presigner.scope() as job:
        assert ask() == [old, old]
        job.opened -= HALF  # as if it had been open for so long
        new, again = ask()
    presigner.close()
    assert (new == again == presigner.url(A), dated(new) > dated(old)) == (True, True)
    assert presigner.stats()["signed"] == 2


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_websocket_renews_as_it_goes(
    clock: Clock, fleet: Callable[..., Presigner], events: list[str], is_shared: bool
) -> None:
    """D6: of a connection that stays for hours no message has a URL that is not served any more."""
    origin = lasting()
    presigner = fleet(origin) if is_shared else Presigner(origin, policy=POLICY, clock=clock)
    urls: list[str] = []

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        async for _ in websocket.iter_text():
            urls.append(await presigner.aurl(A))
            assert dated(urls[-1]) + 3600 - clock.time() >= 300
            clock.advance(600)

    async def body() -> None:
        message = {"type": "websocket.receive", "text": "more"}
        incoming = [
            {"type": "websocket.connect"},
            *[message] * 60,
            {"type": "websocket.disconnect", "code": 1000},
        ]

        async def receive() -> Any:
            return incoming.pop(0)

        app = Starlette(
            routes=[WebSocketRoute("/", talk)],
            middleware=[Middleware(PresignMiddleware, presigner=presigner)],
        )
        await app({"type": "websocket", "path": "/", "headers": [], "query_string": b""}, receive, nothing)
        await all_ended()

    asyncio.run(body())
    assert len(urls) == 60
    assert 20 < len(set(urls)) < 26  # 600 minutes of 27.5 each
    assert presigner.stats()["signed"] <= 26
