"""
AWS Lambda: what runs after a response does so when the next one is asked for, or never.

The adapters are mangum (ASGI) and apig-wsgi (WSGI). Between two events no turn of the event loop is taken,
and no thread moves; a clock that goes on meanwhile is the test's own.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import boto3
import mangum
import pytest
from apig_wsgi import make_lambda_handler
from faults import eventually
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import presign_middleware.asgi
import presign_middleware.wsgi
from presign_middleware import Origin, Policy, Presigner
from presign_middleware.scope import current
from presign_middleware.testing import Clock

DEADLINE: Final = 10.0  # seconds after which a test that has gone wrong stops waiting
HALF: Final = 1650  # seconds after which what was FRESH is AGEING
pytestmark = pytest.mark.usefixtures("own_hooks")

A: Final = "s3://media/a"
PLACE: Final = Origin(  # one for all, since a session reads boto3's model of S3
    "media",
    bucket="media",
    region="eu-west-1",
    session=boto3.Session("AKIAPRESIGNLAMBDA000", "a-secret-of-the-function"),
)

Handler = Callable[[], str]

EVENT: Final[dict[str, Any]] = {
    "version": "2.0",
    "rawPath": "/",
    "rawQueryString": "",
    "headers": {"host": "shop"},
    "requestContext": {
        "http": {"method": "GET", "path": "/", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"},
    },
    "isBase64Encoded": False,
}


class FrozenLoop(asyncio.SelectorEventLoop):
    """A loop that can be frozen for some seconds."""

    slept = 0.0

    def time(self) -> float:
        return time.monotonic() + self.slept


@pytest.fixture
def presigner(s3_clock: Clock) -> Presigner:
    """Give a presigner whose URL of `A` is AGEING."""
    presigner = Presigner(PLACE, policy=Policy(ageing=HALF), clock=s3_clock)
    presigner.url(A)
    s3_clock.advance(HALF)
    return presigner


@pytest.fixture
def loop() -> Iterator[FrozenLoop]:
    loop = FrozenLoop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop), return_exceptions=True))
    asyncio.set_event_loop(None)
    loop.close()


def asgi(presigner: Presigner) -> Any:
    async def endpoint(request: Request) -> Response:
        for _ in range(20):  # turns of the loop, as any I/O takes them
            await asyncio.sleep(0)
        return PlainTextResponse(await presigner.aurl(A))

    return presign_middleware.asgi.PresignMiddleware(
        Starlette(routes=[Route("/", endpoint, methods=["GET", "POST"])]), presigner=presigner
    )


def of_mangum(presigner: Presigner, lifespan: Any) -> Handler:
    """Return what handles an event and gives the URL of `A` that its response has."""
    adapted = mangum.Mangum(asgi(presigner), lifespan=lifespan)
    context: Any = None
    return lambda: str(adapted(EVENT, context)["body"])


def of_apig_wsgi(presigner: Presigner) -> Handler:
    """Return what `of_mangum` returns, of a WSGI application."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [presigner.url(A).encode()]

    adapted = make_lambda_handler(presign_middleware.wsgi.PresignMiddleware(app, presigner=presigner))
    return lambda: str(adapted(EVENT, None)["body"])


# --- ASGI: the loop turns while an event is handled, and not in between -------------------------------------


def test_mangum_with_lifespans_renews_before_it_answers(presigner: Presigner, loop: FrozenLoop) -> None:
    """R1, R7: it has a lifespan for each event, whose shutdown waits for the renewal."""
    handle = of_mangum(presigner, "auto")
    first = handle()
    assert presigner.stats()["refreshed"] == 1
    assert handle() != first


@pytest.mark.parametrize("frozen", [0, 1, 600])
def test_mangum_without_lifespans_renews_with_the_next_event(
    presigner: Presigner, loop: FrozenLoop, frozen: float
) -> None:
    """R1, R5: in the turns that the loop takes for that, however long it has taken none."""
    handle = of_mangum(presigner, "off")
    first = handle()
    assert presigner.stats()["refreshed"] == 0

    loop.slept += frozen
    handle()
    assert presigner.stats()["refreshed"] == 1
    assert handle() != first


def test_a_loop_that_is_never_run_again_claims_nothing_for_ever(
    presigner: Presigner, s3_clock: Clock
) -> None:
    """R5: an adapter with a loop for each event leaves its tasks undone; a later event's renewal is done."""
    app = asgi(presigner)
    left = asyncio.new_event_loop()
    left.run_until_complete(app(connection(), no_message, ignored))
    s3_clock.advance(100)

    async def served() -> None:
        await asyncio.create_task(app(connection(), no_message, ignored))
        await presigner.renewals.drain(DEADLINE)

    asyncio.run(served())
    assert presigner.stats()["refreshed"] == 1
    left.run_until_complete(asyncio.gather(*asyncio.all_tasks(left)))
    left.close()


def test_a_loop_for_each_event_keeps_no_claim(presigner: Presigner) -> None:
    """R5: `asyncio.run` cancels what is not done with the response; the renewal is left to who comes next."""
    app = asgi(presigner)
    asyncio.run(app(connection(), no_message, ignored))
    stats = presigner.stats()
    assert (stats["from_local"], stats["refreshed"]) == (1, 0)
    assert not presigner.renewals._under_way


async def no_message() -> dict[str, Any]:
    raise AssertionError("nobody asked for a message")


async def ignored(message: Any) -> None:
    pass


def connection() -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": "/", "headers": []}


# --- WSGI: a thread moves while an event is handled, and not in between -------------------------------------


def test_apig_wsgi_renews_with_the_next_event(presigner: Presigner, gate: threading.Event) -> None:
    """R1, R5: the thread that was begun after the first response goes on during the second."""
    handle = of_apig_wsgi(presigner)
    first = handle()
    assert presigner.stats()["refreshed"] == 0
    gate.set()
    eventually(lambda: handle() != first)
    assert presigner.stats()["refreshed"] == 1


def test_a_thread_that_never_moves_again_claims_nothing_for_ever(
    presigner: Presigner, gate: threading.Event, s3_clock: Clock
) -> None:
    """R5: after a while a later event begins another."""
    handle = of_apig_wsgi(presigner)
    handle()
    s3_clock.advance(100)
    handle()
    assert len([thread for thread in threading.enumerate() if thread.name == "presign-renewal"]) == 2


# --- both ---------------------------------------------------------------------------------------------------


def test_what_could_not_be_renewed_is_never_served_when_it_is_spent(
    presigner: Presigner, gate: threading.Event, s3_clock: Clock
) -> None:
    """P3, R5: the event itself signs anew, though a renewal of the object has not moved since."""
    handle = of_apig_wsgi(presigner)
    first = handle()
    s3_clock.advance(HALF)
    assert handle() != first
    assert presigner.stats()["refreshed"] == 0
    assert current() is None
