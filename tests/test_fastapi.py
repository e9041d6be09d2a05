"""
FastAPI: wherever in a request an application comes to fetch, on a real S3 server, and when renewal follows.

Every application here fetches a private object with a bare client: the middleware is what makes that 200.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any, Final

import boto3
import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request, Response, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.testclient import TestClient
from stacks import GOOD, REFUSED, Pets, fetch, fetch_sync
from starlette.middleware.base import BaseHTTPMiddleware

from presign_middleware import Origin, Policy, Presigner
from presign_middleware.asgi import PresignMiddleware
from presign_middleware.scope import Scope, current
from presign_middleware.testing import Clock

DEADLINE: Final = 10.0  # seconds after which a test that has gone wrong stops waiting
HALF: Final = 1650  # seconds after which what was FRESH is AGEING
A: Final = "s3://media/a"
PLACE: Final = Origin(  # one for all, since a session reads boto3's model of S3
    "media", bucket="media", region="eu-west-1", session=boto3.Session("AKIAFASTAPI", "secret")
)

pytestmark = pytest.mark.usefixtures("own_hooks")

CallNext = Callable[[Request], Awaitable[Response]]


class Refused(Exception):
    """What a handler of an application's own answers."""


def shop(cat: str) -> FastAPI:
    """
    Make an application of the ways in which a request comes to fetch *cat*; each answers what it got.

    What it fetches when the response is on its way is kept in ``app.state.later``.
    """
    app = FastAPI()
    app.state.later = []
    add_dependencies(app, cat)
    add_endpoints(app, cat)
    add_streams(app, cat)
    return app


def add_dependencies(app: FastAPI, cat: str) -> None:
    def sync() -> str:
        return fetch_sync(cat)

    async def coroutine() -> str:
        return await fetch(cat)

    def sync_yield() -> Iterator[str]:
        yield fetch_sync(cat)
        app.state.later.append(fetch_sync(cat))

    async def async_yield() -> AsyncIterator[str]:
        yield await fetch(cat)
        app.state.later.append(await fetch(cat))

    def nested(found: Annotated[str, Depends(sync)], other: Annotated[str, Depends(coroutine)]) -> str:
        assert found == other
        return found

    def depending(dependency: Callable[..., Any]) -> Callable[..., Any]:
        async def endpoint(found: str = Depends(dependency)) -> PlainTextResponse:
            return PlainTextResponse(found)

        return endpoint

    for dependency in (sync, coroutine, sync_yield, async_yield, nested):
        app.get(f"/dependency/{dependency.__name__}")(depending(dependency))

    @app.websocket("/talk")
    async def talk(websocket: WebSocket, found: Annotated[str, Depends(coroutine)]) -> None:
        await websocket.accept()
        async for _ in websocket.iter_text():
            await websocket.send_text(f"{found}, {await fetch(cat)}")


def add_endpoints(app: FastAPI, cat: str) -> None:
    @app.get("/endpoint/sync")
    def endpoint_sync() -> PlainTextResponse:
        return PlainTextResponse(fetch_sync(cat))

    @app.get("/endpoint/async")
    async def endpoint_async() -> PlainTextResponse:
        return PlainTextResponse(await fetch(cat))

    @app.get("/refused")
    def refused() -> None:
        raise Refused

    @app.exception_handler(Refused)
    async def handle(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(await fetch(cat))


def add_streams(app: FastAPI, cat: str) -> None:
    later = app.state.later

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> PlainTextResponse:
        tasks.add_task(lambda: later.append(fetch_sync(cat)))

        async def more() -> None:
            later.append(await fetch(cat))

        tasks.add_task(more)
        return PlainTextResponse(await fetch(cat))

    @app.get("/stream/sync")
    def stream_sync() -> StreamingResponse:
        return StreamingResponse(fetch_sync(cat) for _ in range(1))

    @app.get("/stream/async")
    async def stream_async() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            yield await fetch(cat)

        return StreamingResponse(parts())


#: Each path, and how many more fetches come when its answer is there.
PATHS: Final = {
    "/dependency/sync": 0,
    "/dependency/coroutine": 0,
    "/dependency/sync_yield": 1,
    "/dependency/async_yield": 1,
    "/dependency/nested": 0,
    "/endpoint/sync": 0,
    "/endpoint/async": 0,
    "/background": 2,
    "/stream/sync": 0,
    "/stream/async": 0,
    "/refused": 0,
}


async def passed_on(request: Request, call_next: CallNext) -> Response:
    return await call_next(request)


#: Of middlewares, as they are added: the last is outermost.
ORDERS: Final = {
    "ours alone": "p",
    "BaseHTTPMiddleware below": "bp",
    "BaseHTTPMiddleware above": "pb",
    "on both sides": "bpb",
}


def add_middlewares(app: FastAPI, presigner: Presigner, order: str) -> None:
    for letter in ORDERS[order]:
        if letter == "p":
            app.add_middleware(PresignMiddleware, presigner=presigner)
        else:
            app.add_middleware(BaseHTTPMiddleware, dispatch=passed_on)


# --- D1, D3: one scope reaches all of a request -------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_a_fetch_arrives(pets: Pets, order: str) -> None:
    """D1, D3: from dependencies and their ends, endpoints, background tasks, streams, exception handlers."""
    presigner, app = pets.presigner(), shop(pets.cat)
    add_middlewares(app, presigner, order)
    with TestClient(app) as client:
        for path, more in PATHS.items():
            app.state.later.clear()
            assert (path, client.get(path).text) == (path, GOOD)
            assert (path, app.state.later) == (path, [GOOD] * more)
    assert presigner.stats()["signed"] == 1


def test_fetches_without_the_middleware_are_refused(pets: Pets) -> None:
    """D3: the bucket is private, so the other tests can fail."""
    with TestClient(shop(pets.cat)) as client:
        assert {path: client.get(path).text for path in PATHS} == dict.fromkeys(PATHS, REFUSED)


def test_a_request_resolves_an_object_once(pets: Pets) -> None:
    """D1: its dependencies, its endpoint and its background tasks have one scope between them."""
    presigner, app = pets.presigner(), shop(pets.cat)
    add_middlewares(app, presigner, "ours alone")
    with TestClient(app) as client:
        client.get("/background")
        client.get("/dependency/async_yield")
    stats = presigner.stats()
    assert (stats["signed"], stats["from_local"], stats["from_scope"]) == (1, 1, 3)


def test_a_websocket_and_its_dependencies_have_a_scope(pets: Pets) -> None:
    """D3: from before it is accepted to its end."""
    presigner, app = pets.presigner(), shop(pets.cat)
    add_middlewares(app, presigner, "ours alone")
    with TestClient(app) as client, client.websocket_connect("/talk") as websocket:
        for _ in range(2):
            websocket.send_text("more")
            assert websocket.receive_text() == f"{GOOD}, {GOOD}"
    stats = presigner.stats()
    assert (stats["signed"], stats["from_scope"]) == (1, 2)


def test_the_handler_of_every_exception_is_outside_of_all_middleware(pets: Pets) -> None:
    """D3: Starlette puts it above those that are added; what it fetches goes out unsigned."""
    app = FastAPI()

    @app.get("/")
    def failed() -> None:
        raise ZeroDivisionError

    @app.exception_handler(Exception)
    async def handle(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(await fetch(pets.cat))

    app.add_middleware(PresignMiddleware, presigner=pets.presigner())
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/").text == REFUSED


# --- mounted applications -----------------------------------------------------------------------------------


def test_a_mounted_application_is_in_the_scope_of_the_outer_one(pets: Pets) -> None:
    """D1, D3: it needs no middleware of its own."""
    presigner, app = pets.presigner(), FastAPI()
    app.mount("/inner", shop(pets.cat))
    app.add_middleware(PresignMiddleware, presigner=presigner)
    with TestClient(app) as client:
        found = {path: client.get(f"/inner{path}").text for path in PATHS}
    assert found == dict.fromkeys(PATHS, GOOD)
    assert presigner.stats()["signed"] == 1


@pytest.mark.parametrize("is_same", [True, False], ids=["same presigner", "own presigner"])
def test_a_mounted_application_may_have_a_middleware_too(pets: Pets, is_same: bool) -> None:
    """D1, D3: then its own presigner decides there, and the outer one again after it."""
    outer = pets.presigner("cats/")
    inner = outer if is_same else pets.presigner("dogs/")
    app, mounted = FastAPI(), FastAPI()

    @mounted.get("/")
    async def both() -> list[str]:
        return [await fetch(pets.cat), await fetch(pets.dog)]

    async def around(request: Request, call_next: CallNext) -> Response:
        response = await call_next(request)
        response.headers["after"] = await fetch(pets.cat)
        return response

    mounted.add_middleware(PresignMiddleware, presigner=inner)
    app.mount("/inner", mounted)
    app.add_middleware(BaseHTTPMiddleware, dispatch=around)
    app.add_middleware(PresignMiddleware, presigner=outer)
    with TestClient(app) as client:
        answer = client.get("/inner/")
    assert answer.json() == ([GOOD, REFUSED] if is_same else [REFUSED, "200 a private dog"])
    assert answer.headers["after"] == GOOD


# --- R1: renewal after the response -------------------------------------------------------------------------


@pytest.fixture
def ageing(s3_clock: Clock) -> Presigner:
    """Give a presigner whose URL of `A` is AGEING."""
    presigner = Presigner(PLACE, policy=Policy(ageing=HALF), clock=s3_clock)
    presigner.url(A)
    s3_clock.advance(HALF)
    return presigner


def ageing_shop(presigner: Presigner) -> tuple[FastAPI, list[int], list[Scope | None]]:
    """Make an application that meets `A`; each step notes how much was renewed by then, and its scope."""
    app, renewed, scopes = FastAPI(), list[int](), list[Scope | None]()

    def note() -> None:
        renewed.append(presigner.stats()["refreshed"])
        scopes.append(current())

    async def met() -> AsyncIterator[None]:
        await presigner.aurl(A)
        note()
        yield
        note()

    @app.get("/background", dependencies=[Depends(met)])
    async def background(tasks: BackgroundTasks) -> str:
        tasks.add_task(note)
        return ""

    @app.get("/streamed", dependencies=[Depends(met)])
    def streamed() -> StreamingResponse:
        def parts() -> Iterator[str]:
            for _ in range(3):
                note()
                yield "part"

        return StreamingResponse(parts())

    @app.get("/failed", dependencies=[Depends(met)])
    def failed() -> None:
        raise ZeroDivisionError

    return app, renewed, scopes


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("path", "steps"), [("/background", 3), ("/streamed", 5), ("/failed", 1)])
def test_a_renewal_follows_the_response(ageing: Presigner, order: str, path: str, steps: int) -> None:
    """R1: and the ends of dependencies, background tasks, the stream, an error's answer; D3: in one scope."""
    app, renewed, scopes = ageing_shop(ageing)
    add_middlewares(app, ageing, order)

    async def asked() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            await asyncio.create_task(client.get(path))
            await ageing.renewals.drain(DEADLINE)

    asyncio.run(asked())
    assert ageing.stats()["refreshed"] == 1
    assert renewed == [0] * steps
    (scope,) = set(scopes)
    assert scope is not None
    assert scope.ended
