"""
The ASGI middleware: in process and behind uvicorn, with and without Starlette, against a real S3 server.

Every application here fetches a private object with a bare client, and answers with the status and the
bytes it got: the middleware is what makes that 200.
"""

import asyncio
import contextlib
import copy
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

import boto3
import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from presign_middleware import ConfigurationError, Origin, Presigner
from presign_middleware.asgi import PresignMiddleware
from presign_middleware.scope import Scope, current
from presign_middleware.testing import SeaweedFS

BUCKET: Final = "asgi"
pytestmark = pytest.mark.usefixtures("own_hooks")

CAT: Final = b"a private cat"


@pytest.fixture(scope="module")
def cat(seaweedfs: SeaweedFS) -> str:
    """Give the unsigned URL of an object in a private bucket."""
    client = seaweedfs.client()
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="cats/cat 1.jpg", Body=CAT)
    client.put_object(Bucket=BUCKET, Key="dogs/dog.jpg", Body=b"a private dog")
    client.close()
    return f"{seaweedfs.endpoint_url}/{BUCKET}/cats/cat 1.jpg"


@pytest.fixture
def make_presigner(seaweedfs: SeaweedFS, cat: str) -> Callable[[str], Presigner]:
    """Give what makes a presigner for a prefix of the bucket."""

    def make(prefix: str) -> Presigner:
        session = boto3.Session(seaweedfs.access_key, seaweedfs.secret_key, region_name=seaweedfs.region)
        place = Origin(
            "media", bucket=BUCKET, prefix=prefix, endpoint_url=seaweedfs.endpoint_url, session=session
        )
        return Presigner(place)

    return make


@pytest.fixture
def presigner(make_presigner: Callable[[str], Presigner]) -> Presigner:
    return make_presigner("cats/")


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve *app* with uvicorn at a free port of loopback; give the base URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # from here on a client may connect: it waits until the server has started
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def fetch_sync(url: str) -> bytes:
    with httpx.Client(verify=False) as client:
        response = client.get(url)
        return b"%d %s" % (response.status_code, response.content if response.is_success else b"")


async def fetch(url: str) -> bytes:
    async with httpx.AsyncClient(verify=False) as client:
        response = await client.get(url)
        return b"%d %s" % (response.status_code, response.content if response.is_success else b"")


Endpoint = Callable[[Request], Any]
GOOD: Final = b"200 " + CAT


def endpoints(cat: str) -> dict[str, Endpoint]:
    """Return the ways in which an application comes to fetch an object."""

    def in_thread_pool(request: Request) -> Response:
        return Response(fetch_sync(cat))

    async def in_coroutine(request: Request) -> Response:
        return Response(await fetch(cat))

    async def gathered(request: Request) -> Response:
        first, second = await asyncio.gather(fetch(cat), fetch(cat))
        assert first == second
        return Response(first)

    async def in_task(request: Request) -> Response:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(fetch(cat))
        return Response(task.result())

    async def in_other_thread(request: Request) -> Response:
        return Response(await asyncio.to_thread(fetch_sync, cat))

    async def blocking(request: Request) -> Response:
        return Response(fetch_sync(cat))

    async def streamed(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield await fetch(cat)

        return StreamingResponse(body())

    def streamed_sync(request: Request) -> Response:
        return StreamingResponse(fetch_sync(cat) for _ in range(1))

    found = [in_thread_pool, in_coroutine, gathered, in_task, in_other_thread, blocking]
    return {endpoint.__name__: endpoint for endpoint in (*found, streamed, streamed_sync)}


NAMES: Final = list(endpoints(""))


async def passed_on(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    return await call_next(request)


@pytest.fixture
def routes(cat: str) -> list[Route]:
    return [Route(f"/{name}", endpoint) for name, endpoint in endpoints(cat).items()]


def get(app: Any, path: str = "/") -> httpx.Response:
    """Return *app*'s answer, in process."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            return await client.get(path)

    return asyncio.run(ask())


# --- D3: the scope reaches whatever runs for a request ------------------------------------------------------


def test_fetches_arrive_behind_a_real_server(presigner: Presigner, routes: list[Route]) -> None:
    """D3: under uvicorn, from wherever in the request an endpoint fetches; all share one signature."""
    app = Starlette(routes=routes, middleware=[Middleware(PresignMiddleware, presigner=presigner)])
    with serving(app) as base, httpx.Client(base_url=base, verify=False) as browser:
        found = {name: browser.get(f"/{name}").content for name in NAMES}
    assert found == dict.fromkeys(NAMES, GOOD)
    assert presigner.stats()["signed"] == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_fetch_arrives_in_process(presigner: Presigner, routes: list[Route], name: str) -> None:
    """D3: each of these is signed for as the first fetch of its process, too."""
    assert get(PresignMiddleware(Starlette(routes=routes), presigner=presigner), f"/{name}").content == GOOD


def test_fetches_without_the_middleware_are_refused(routes: list[Route]) -> None:
    """D3: the bucket is private, so the other tests can fail."""
    bare = Starlette(routes=routes)
    assert {name: get(bare, f"/{name}").content for name in NAMES} == dict.fromkeys(NAMES, b"403 ")


@pytest.mark.parametrize("order", ["below", "above", "both"])
def test_a_base_http_middleware_does_not_cut_the_scope_off(
    presigner: Presigner, routes: list[Route], order: str
) -> None:
    """D3: BaseHTTPMiddleware runs what is below it in a task of its own, which has the scope."""
    ours, base = Middleware(PresignMiddleware, presigner=presigner), Middleware(BaseHTTPMiddleware, passed_on)
    stack = {"below": [ours, base], "above": [base, ours], "both": [base, ours, base]}[order]
    app = Starlette(routes=routes, middleware=stack)
    assert {name: get(app, f"/{name}").content for name in NAMES} == dict.fromkeys(NAMES, GOOD)


def test_a_background_task_is_part_of_the_request(presigner: Presigner, cat: str) -> None:
    """D3: what Starlette runs after the response still has the scope."""
    found: list[bytes] = []

    async def later() -> None:
        found.append(await fetch(cat))

    async def endpoint(request: Request) -> Response:
        return Response(b"", background=BackgroundTask(later))

    app = Starlette(routes=[Route("/", endpoint)])
    get(PresignMiddleware(app, presigner=presigner))
    assert found == [GOOD]


def test_a_task_that_outlives_its_request_is_signed_for(presigner: Presigner, cat: str) -> None:
    """D3: a scope that has ended keeps naming its presigner."""

    async def body() -> tuple[int, bytes]:
        tasks: list[asyncio.Task[bytes]] = []
        gone = asyncio.Event()

        async def later() -> bytes:
            await gone.wait()
            return await fetch(cat)

        async def endpoint(request: Request) -> Response:
            tasks.append(asyncio.create_task(later()))
            return PlainTextResponse("")

        app = PresignMiddleware(Starlette(routes=[Route("/", endpoint)]), presigner=presigner)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
            response = await client.get("/")
        gone.set()
        return response.status_code, await tasks[0]

    assert asyncio.run(body()) == (200, GOOD)


def test_a_websocket_has_a_scope(presigner: Presigner, cat: str) -> None:
    """D3: from accept to close, over any number of messages."""

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        async for _ in websocket.iter_text():
            await websocket.send_bytes(await fetch(cat))

    app = Starlette(
        routes=[WebSocketRoute("/", talk)], middleware=[Middleware(PresignMiddleware, presigner=presigner)]
    )
    with TestClient(app) as client, client.websocket_connect("/") as websocket:
        for _ in range(2):
            websocket.send_text("more")
            assert websocket.receive_bytes() == GOOD
    assert presigner.stats()["signed"] == 1


# --- one request, one scope ---------------------------------------------------------------------------------


def test_one_request_resolves_an_object_once_and_the_next_anew(presigner: Presigner, cat: str) -> None:
    """D1: within a request the scope answers, in the next this process does."""

    async def endpoint(request: Request) -> Response:
        return Response(b",".join([await fetch(cat), await fetch(cat)]))

    app = PresignMiddleware(Starlette(routes=[Route("/", endpoint)]), presigner=presigner)
    for _ in range(2):
        assert get(app).content == GOOD + b"," + GOOD
    stats = presigner.stats()
    assert (stats["signed"], stats["from_local"], stats["from_scope"]) == (1, 1, 2)


def test_two_requests_at_once_have_a_scope_each(presigner: Presigner) -> None:
    """D1: neither sees what the other has resolved."""

    async def body() -> list[Scope | None]:
        both, scopes = asyncio.Barrier(2), list[Scope | None]()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await both.wait()
            scopes.append(current())
            await both.wait()

        ours = PresignMiddleware(app, presigner=presigner)
        await asyncio.gather(*(ours({"type": "http"}, no_message, ignored) for _ in range(2)))
        return scopes

    first, second = asyncio.run(body())
    assert first is not None
    assert second is not None
    assert first is not second


def test_a_mounted_application_signs_with_its_own_presigner(
    make_presigner: Callable[[str], Presigner], cat: str
) -> None:
    """D3: the innermost middleware decides, and after it the outer one does again."""
    cats, dogs = make_presigner("cats/"), make_presigner("dogs/")
    dog = cat.replace("cats/cat 1.jpg", "dogs/dog.jpg")

    async def both(request: Request) -> Response:
        return Response(b"|".join([await fetch(cat), await fetch(dog)]))

    async def around(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers["after"] = (await fetch(cat)).decode()
        return response

    kennel = Starlette(routes=[Route("/", both)], middleware=[Middleware(PresignMiddleware, presigner=dogs)])
    shop = Starlette(
        routes=[Route("/", both), Mount("/kennel", kennel)],
        middleware=[
            Middleware(PresignMiddleware, presigner=cats),
            Middleware(BaseHTTPMiddleware, around),
        ],
    )
    assert get(shop).content == GOOD + b"|403 "
    inner = get(shop, "/kennel/")
    assert inner.content == b"403 |200 a private dog"
    assert inner.headers["after"] == GOOD.decode()


# --- what the middleware leaves as it is --------------------------------------------------------------------


async def no_message() -> dict[str, Any]:
    raise AssertionError("nobody asked for a message")


async def ignored(message: Any) -> None:
    pass


def test_a_lifespan_has_no_scope(presigner: Presigner) -> None:
    """D3: start-up and shutdown are no request."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current())

    asyncio.run(PresignMiddleware(app, presigner=presigner)({"type": "lifespan"}, no_message, ignored))
    assert seen == [None]


def test_other_events_pass_through_untouched(presigner: Presigner) -> None:
    """D3: the very objects of some later event are passed on, and no scope opens."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend((scope, receive, send, current()))

    scope = {"type": "telemetry"}
    asyncio.run(PresignMiddleware(app, presigner=presigner)(scope, no_message, ignored))
    assert [id(thing) for thing in seen] == [id(thing) for thing in (scope, no_message, ignored, None)]
    assert scope == {"type": "telemetry"}


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_connection_is_passed_on_as_it_is(presigner: Presigner, kind: str) -> None:
    """D3: scope, receive and send of a connection are the server's own too."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend((scope, receive, send))

    scope = {"type": "telemetry"}
    asyncio.run(PresignMiddleware(app, presigner=presigner)(scope, no_message, ignored))
    assert [id(thing) for thing in seen] == [id(thing) for thing in (scope, no_message, ignored)]


def test_a_lifespan_runs_to_its_end(presigner: Presigner, cat: str) -> None:
    """D3: start-up and shutdown of the application happen, and a scope of its own may be opened there."""
    events: list[bytes] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with presigner.scope():
            events.append(await fetch(cat))
        yield
        events.append(await fetch(cat))

    app = Starlette(lifespan=lifespan, middleware=[Middleware(PresignMiddleware, presigner=presigner)])
    with serving(app):
        pass
    assert events == [GOOD, b"403 "]


def test_an_exception_passes_through_and_the_scope_is_left(presigner: Presigner) -> None:
    """D3: the application's exception is the one that arrives, and nothing of the request stays behind."""
    failure = ZeroDivisionError()
    scopes: list[Scope | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(current())
        raise failure

    async def body() -> None:
        try:
            await PresignMiddleware(app, presigner=presigner)({"type": "http"}, no_message, ignored)
        finally:
            scopes.append(current())

    with pytest.raises(ZeroDivisionError) as caught:
        asyncio.run(body())
    assert caught.value is failure
    inside, after = scopes
    assert inside is not None
    assert inside.ended
    assert after is None


def test_the_middleware_never_changes(presigner: Presigner, routes: list[Route]) -> None:
    """D3: all that a request needs is in its scope; the one object serves them all."""
    ours = PresignMiddleware(Starlette(routes=routes), presigner=presigner)
    before = copy.copy(vars(ours))
    for name in NAMES:
        get(ours, f"/{name}")
    assert vars(ours) == before


def test_a_bare_application_needs_no_framework(presigner: Presigner, cat: str) -> None:
    """D3: any ASGI application will do, under a real server."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{event}"
                await send({"type": f"lifespan.{event}.complete"})
            return
        body = await fetch(cat)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    with serving(PresignMiddleware(app, presigner=presigner)) as base:
        assert fetch_sync(base) == b"200 " + GOOD


# --- without a presigner ------------------------------------------------------------------------------------


def test_without_a_presigner_the_environment_describes_it(
    seaweedfs: SeaweedFS, cat: str, routes: list[Route], monkeypatch: pytest.MonkeyPatch
) -> None:
    """D3: PRESIGN_ORIGINS and boto3's own variables are all that is needed."""
    place = f"media=s3://{BUCKET}/cats/?region={seaweedfs.region}&endpoint_url={seaweedfs.endpoint_url}"
    monkeypatch.setenv("PRESIGN_ORIGINS", place)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.secret_key)
    app = Starlette(routes=routes, middleware=[Middleware(PresignMiddleware)])
    assert get(app, "/in_coroutine").content == GOOD


def test_without_either_the_error_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """D3: it fails when the application is built, and names the argument and the variable."""
    monkeypatch.delenv("PRESIGN_ORIGINS", raising=False)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("never called")

    with pytest.raises(ConfigurationError, match=r"presigner=Presigner\(\.\.\.\).*PRESIGN_ORIGINS") as caught:
        PresignMiddleware(app)
    assert "name=s3://bucket/prefix/?region=eu-west-1" in str(caught.value)
