"""
What responses tell of the URLs that their request was given, through ASGI and WSGI.

Each statement is tried with Starlette and with Flask, in process, on a clock of the test's own. The rules
over headers are in `test_freshness`.
"""

import asyncio
import io
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Final
from wsgiref import util as wsgiref_util
from wsgiref.handlers import SimpleHandler
from wsgiref.validate import validator

import boto3
import flask
import httpx
import pytest
from fleet import PATIENT, let_publish
from sources import Role
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket
from ways import ACCESS_KEY, SECRET_KEY, Door, opened, presigner_for

import presign_middleware.asgi
import presign_middleware.wsgi
from presign_middleware import Origin, Policy, Presigner, presigned
from presign_middleware.account import Account
from presign_middleware.local import Flights
from presign_middleware.scope import current
from presign_middleware.testing import Clock, Memcached

DEADLINE: Final = 10.0  # seconds after which a test that has gone wrong stops waiting
SERVED: Final = 3300  # seconds from its date for which a URL is served
A, B, C = "s3://media/a", "s3://media/b", "s3://media/c"

KEYS: Final = boto3.Session(ACCESS_KEY, SECRET_KEY, region_name="eu-west-1")  # reads boto3's model of S3 once
PLACE: Final = Origin(
    "media", bucket="media", region="eu-west-1", session=KEYS, methods=("GET", "HEAD", "PUT")
)

pytestmark = pytest.mark.usefixtures("own_hooks")


@dataclass
class Page:
    """What a view answers."""

    body: str = ""
    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)


View = Callable[[], Page]
Stack = Callable[..., httpx.Response]


def get(app: Any, *, wsgi: bool, method: str = "GET", **headers: str) -> httpx.Response:
    """Return *app*'s answer, in process."""
    if wsgi:
        with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://shop") as client:
            return client.request(method, "/", headers=headers)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            return await client.request(method, "/", headers=headers)

    return asyncio.run(ask())


def starlette_shop(view: View) -> Starlette:
    def endpoint(request: Request) -> Response:
        page = view()
        response = Response(page.body, page.status)
        for name, value in page.headers:
            response.headers.append(name, value)
        return response

    return Starlette(routes=[Route("/", endpoint, methods=["GET", "POST"])])


def flask_shop(view: View) -> Any:
    app = flask.Flask("shop")

    def endpoint() -> flask.Response:
        page = view()
        return flask.Response(page.body, page.status, page.headers)

    app.add_url_rule("/", view_func=endpoint, methods=["GET", "POST"])
    return app.wsgi_app


@pytest.fixture(params=["asgi", "wsgi"])
def colour(request: pytest.FixtureRequest) -> str:
    colour: str = request.param
    return colour


@pytest.fixture
def stacked(colour: str) -> Callable[..., Any]:
    """Give what puts the middleware of the colour around a framework's application of one view."""

    def make(view: View, presigner: Presigner, **options: Any) -> Any:
        if colour == "wsgi":
            return presign_middleware.wsgi.PresignMiddleware(flask_shop(view), presigner, **options)
        return presign_middleware.asgi.PresignMiddleware(starlette_shop(view), presigner, **options)

    return make


@pytest.fixture
def answer(colour: str, stacked: Callable[..., Any], presigner: Presigner) -> Stack:
    """Give what answers a request with a view, with ``freshness=True`` unless told otherwise."""

    def ask(view: View, method: str = "GET", presigner: Presigner = presigner, **options: Any) -> Any:
        app = stacked(view, presigner, **(options or {"freshness": True}))
        return get(app, wsgi=colour == "wsgi", method=method)

    return ask


@pytest.fixture
def presigner(s3_clock: Clock) -> Presigner:
    return Presigner(PLACE, clock=s3_clock)


@pytest.fixture
def left(presigner: Presigner, s3_clock: Clock) -> Callable[..., int]:
    """Give what tells for how many whole seconds the URLs of some objects can be served."""

    def seconds(*targets: str) -> int:
        dates = [presigner.resolve(target).created_at for target in targets]
        return int(min(dates) + SERVED - s3_clock.time())

    return seconds


def page(*headers: tuple[str, str], status: int = 200) -> Page:
    return Page("a page", status, list(headers))


LONG: Final = ("Cache-Control", "private, max-age=86400")


def max_age(response: httpx.Response) -> int:
    """Return for how long *response* may be kept."""
    found = re.fullmatch("private, max-age=([0-9]+)", response.headers["cache-control"])
    assert found is not None
    return int(found[1])


# --- X1: for how long a page may be kept --------------------------------------------------------------------


def test_a_page_is_kept_no_longer_than_its_link(
    answer: Stack, presigner: Presigner, left: Callable[..., int], s3_clock: Clock
) -> None:
    """X1: until the URL is SPENT, in whole seconds, floored."""

    def view() -> Page:
        presigner.url(A)
        return page(LONG, ("Expires", formatdate(s3_clock.time() + 86_400, usegmt=True)))

    expected = left(A)
    s3_clock.advance(0.5)
    response = answer(view)
    assert max_age(response) == expected - 1
    assert response.headers["expires"] == formatdate(s3_clock.time() + expected - 1, usegmt=True)


def test_the_first_of_several_counts(answer: Stack, presigner: Presigner, left: Callable[..., int]) -> None:
    """X1: whatever the order in which they are handed out."""

    def view_of(*targets: str) -> View:
        def view() -> Page:
            presigner.urls(targets)
            return page(LONG)

        return view

    first = min((A, B, C), key=left)
    others = [target for target in (A, B, C) if target != first]
    assert left(first) < left(*others)
    assert max_age(answer(view_of(first, *others))) == max_age(answer(view_of(*others, first))) == left(first)
    assert max_age(answer(view_of(*others))) == left(*others)


@presigned
def decorated(url: str) -> str:
    return url


def linked_by_boto3(presigner: Presigner) -> str:
    client = KEYS.client("s3")
    params = {"Bucket": "media", "Key": "a"}
    caught = presigner.stats()["caught"]
    url: str = client.generate_presigned_url("get_object", Params=params, ExpiresIn=3600)
    assert presigner.stats()["caught"] == caught + 1
    return url


GIVERS: Final[dict[str, Callable[[Presigner], object]]] = {
    "url": lambda presigner: presigner.url(A),
    "url with params": lambda presigner: presigner.url(A, params={"VersionId": "1"}),
    "url to upload": lambda presigner: presigner.url(A, method="PUT"),
    "urls": lambda presigner: presigner.urls([A]),
    "resolve": lambda presigner: presigner.resolve(A),
    "refresh": lambda presigner: presigner.refresh(A),
    "aurl": lambda presigner: asyncio.run(presigner.aurl(A)),
    "aurls": lambda presigner: asyncio.run(presigner.aurls([A])),
    "aresolve": lambda presigner: asyncio.run(presigner.aresolve(A)),
    "arefresh": lambda presigner: asyncio.run(presigner.arefresh(A)),
    "presigned": lambda presigner: decorated(A),
    "generate_presigned_url": linked_by_boto3,
}


@pytest.mark.parametrize("way", GIVERS)
def test_every_way_of_handing_out_counts(answer: Stack, presigner: Presigner, way: str) -> None:
    """X1: whether this process held the URL before, as it does the second time, or not."""

    def view() -> Page:
        GIVERS[way](presigner)
        return page(LONG)

    for _ in range(2):
        assert max_age(answer(view)) <= SERVED


def test_a_link_that_the_request_met_before_counts(answer: Stack, door: Door) -> None:
    """X1: also if the first to meet it in this request was a hook."""
    presigner = presigner_for(door)
    target = f"{door.base}/media/cat.jpg"

    def view() -> Page:
        fetched(target)
        presigner.url(target)
        return page(LONG)

    for _ in range(2):
        assert max_age(answer(view, presigner=presigner)) <= SERVED


def fetched(url: str, **headers: str) -> bytes:
    with httpx.Client(verify=False) as client:
        return client.get(url, headers=headers).content


@pytest.mark.parametrize("headers", [{}, {"x-amz-checksum-mode": "ENABLED"}])
def test_a_caught_fetch_alone_limits_nothing(answer: Stack, door: Door, headers: dict[str, str]) -> None:
    """X1: no client gets its URL."""
    presigner = presigner_for(door)

    def view() -> Page:
        fetched(door.cat, **headers)
        return page(("Cache-Control", "max-age=86400"))

    for number in (1, 2):
        response = answer(view, presigner=presigner)
        assert response.headers["cache-control"] == "max-age=86400"
        assert presigner.stats()["caught"] == number


def test_what_hands_out_nothing_is_left_alone(answer: Stack) -> None:
    """X1: not even private is added."""
    assert "cache-control" not in answer(page).headers


def test_warming_hands_out_nothing(answer: Stack, presigner: Presigner) -> None:
    """X1: what is only put by is in no page."""

    def view() -> Page:
        presigner.warm([A])
        return page(LONG)

    assert max_age(answer(view)) == 86_400


def test_it_has_to_be_asked_for(answer: Stack, presigner: Presigner) -> None:
    """X1, X2: by default no response is touched."""

    def view() -> Page:
        presigner.url(A)
        return page(("Cache-Control", "max-age=86400"))

    headers = answer(view, freshness=False).headers
    assert headers["cache-control"] == "max-age=86400"
    assert not headers.keys() & {"server-timing", "presign-cache", "expires"}


def test_a_link_that_is_spent_by_now(answer: Stack, presigner: Presigner, s3_clock: Clock) -> None:
    """X1: a request may take long; an age is never negative."""

    def view() -> Page:
        presigner.url(A)
        s3_clock.advance(2 * SERVED)
        return page(LONG)

    assert max_age(answer(view)) == 0


def test_a_clock_that_was_set_back(
    answer: Stack, presigner: Presigner, left: Callable[..., int], s3_clock: Clock
) -> None:
    """X1, P7: lengthens nothing."""
    targets = sorted((A, B), key=left)

    def view() -> Page:
        presigner.urls(targets)
        s3_clock.step(-1800)
        return page(LONG)

    expected = left(*targets)
    assert max_age(answer(view)) == expected


def test_a_clock_that_was_set_forward(
    answer: Stack, presigner: Presigner, left: Callable[..., int], s3_clock: Clock
) -> None:
    """X1, P7: shortens, since S3 may have been of that opinion before."""
    targets = sorted((A, B), key=left)

    def view() -> Page:
        presigner.urls(targets)
        s3_clock.step(60)
        return page(LONG)

    expected = left(*targets) - 60
    assert max_age(answer(view)) == expected


def test_a_link_that_was_replaced_in_the_same_request(
    answer: Stack, presigner: Presigner, left: Callable[..., int], s3_clock: Clock
) -> None:
    """X1: the page may hold both."""
    before = left(A)

    def view() -> Page:
        presigner.url(A)
        presigner.invalidate(A)
        s3_clock.advance(1)
        presigner.url(A)
        return page(LONG)

    assert max_age(answer(view)) == before - 1


@pytest.mark.parametrize("status", [200, 206, 404, 500, 503])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_every_answer_is_limited(
    answer: Stack, presigner: Presigner, left: Callable[..., int], status: int, method: str
) -> None:
    """X1: whatever the status and the method."""

    def view() -> Page:
        presigner.url(A)
        return page(LONG, status=status)

    assert max_age(answer(view, method)) == left(A)


def test_a_304_is_limited(answer: Stack, presigner: Presigner, left: Callable[..., int]) -> None:
    """X1: a cache takes its headers over to the page that it has."""

    def view() -> Page:
        presigner.url(A)
        return Page("", 304, [LONG])

    assert max_age(answer(view)) == left(A)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_link_may_be_kept(
    answer: Stack, presigner: Presigner, left: Callable[..., int], status: int
) -> None:
    """X1: as long as the link can be served, if the application says nothing."""

    def view() -> Page:
        return Page("", status, [("Location", presigner.url(A))])

    assert max_age(answer(view)) == left(A)


@pytest.mark.parametrize("key", ["cat 1.jpg", "käse/~x+(1).jpg", "a%2Fb"])
def test_a_redirect_of_a_framework_is_known(colour: str, presigner: Presigner, key: str) -> None:
    """X1: frameworks quote a Location anew."""

    def endpoint(request: Request) -> Response:
        return RedirectResponse(presigner.url(f"s3://media/{key}"))

    app = flask.Flask("shop")
    app.add_url_rule("/", view_func=lambda: flask.redirect(presigner.url(f"s3://media/{key}")))
    if colour == "asgi":
        shop = Starlette(routes=[Route("/", endpoint)])
        stack: Any = presign_middleware.asgi.PresignMiddleware(shop, presigner, freshness=True)
    else:
        stack = presign_middleware.wsgi.PresignMiddleware(app.wsgi_app, presigner, freshness=True)
    assert max_age(get(stack, wsgi=colour == "wsgi")) <= SERVED


@pytest.mark.parametrize(
    ("status", "location", "cache_control", "becomes"),
    [
        (302, "/elsewhere", None, "private"),
        (302, "https://media.example/?X-Amz-Signature=", None, "private"),
        (302, "https://media.example/?X-Amz-Signature=0", None, "private"),
        (201, None, None, "private"),
        (302, None, "no-store", "no-store"),
        (302, None, "private", "private"),
        (302, None, "public, max-age=60", "public, max-age=60"),
    ],
)
def test_other_redirects_are_only_limited(
    answer: Stack,
    presigner: Presigner,
    status: int,
    location: str | None,
    cache_control: str | None,
    becomes: str,
) -> None:
    """X1: elsewhere, or where the application has said how long."""

    def view() -> Page:
        said = [("Location", location or presigner.url(A))]
        presigner.url(A)
        return Page("", status, [*said, *([("Cache-Control", cache_control)] if cache_control else [])])

    assert answer(view).headers["cache-control"] == becomes


def test_requests_at_once_do_not_mix(answer: Stack, presigner: Presigner, left: Callable[..., int]) -> None:
    """X1: each is limited by what it was given itself."""
    both = threading.Barrier(2)

    def view_of(*targets: str) -> View:
        def view() -> Page:
            both.wait(DEADLINE)
            presigner.urls(targets)
            both.wait(DEADLINE)
            return page(LONG)

        return view

    with ThreadPoolExecutor(2) as pool:
        linking, plain = pool.map(answer, [view_of(A), view_of()])
    assert (max_age(linking), max_age(plain)) == (left(A), 86_400)


def test_a_scope_in_a_request_is_a_part_of_it(
    answer: Stack, presigner: Presigner, left: Callable[..., int]
) -> None:
    """X1: what is handed out in ``presigner.scope()`` is handed out to the request."""

    def view() -> Page:
        with presigner.scope():
            presigner.url(A)
        return page(LONG)

    assert max_age(answer(view)) == left(A)


def test_another_presigners_scope_is_none(answer: Stack, presigner: Presigner, s3_clock: Clock) -> None:
    """X1: a middleware speaks for the presigner that it was given."""
    other = Presigner(PLACE, clock=s3_clock)

    def view() -> Page:
        with other.scope():
            other.url(A)
        other.url(A)
        return page(LONG)

    assert max_age(answer(view)) == 86_400


# --- ASGI ---------------------------------------------------------------------------------------------------


async def passed_on(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    return await call_next(request)


@pytest.mark.parametrize("order", ["below", "above", "both"])
def test_base_http_middleware(presigner: Presigner, left: Callable[..., int], order: str) -> None:
    """X1: it makes no difference where one stands, though it runs what is below it in a task of its own."""
    ours = Middleware(presign_middleware.asgi.PresignMiddleware, presigner=presigner, freshness=True)
    base = Middleware(BaseHTTPMiddleware, passed_on)

    async def endpoint(request: Request) -> Response:
        await presigner.aurl(A)
        return Response("a page", headers=dict([LONG]))

    stack = {"below": [ours, base], "above": [base, ours], "both": [base, ours, base]}[order]
    app = Starlette(routes=[Route("/", endpoint)], middleware=stack)
    assert max_age(get(app, wsgi=False)) == left(A)


def test_an_exception_handlers_answer(presigner: Presigner, left: Callable[..., int]) -> None:
    """X1: what the application answers to its own exceptions is an answer like any."""

    async def endpoint(request: Request) -> Response:
        raise HTTPException(404, headers={"Link": f"<{await presigner.aurl(A)}>", **dict([LONG])})

    app = Starlette(routes=[Route("/", endpoint)])
    told = presign_middleware.asgi.PresignMiddleware(app, presigner, freshness=True)
    assert max_age(get(told, wsgi=False)) == left(A)


def test_a_mounted_middleware_tells_too(presigner: Presigner, left: Callable[..., int]) -> None:
    """X1: the outer one limits what the inner one, which was not asked to, has handed out."""

    def view() -> Page:
        presigner.url(A)
        return page(LONG)

    inner = presign_middleware.asgi.PresignMiddleware(starlette_shop(view), presigner)
    app = Starlette(routes=[Mount("/", inner)])
    told = presign_middleware.asgi.PresignMiddleware(app, presigner, freshness=True)
    assert max_age(get(told, wsgi=False)) == left(A)


def test_a_stream_is_limited_by_what_came_before_it(presigner: Presigner, left: Callable[..., int]) -> None:
    """X1: headers are out before the first part of an ASGI body is made."""
    left(B)

    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            for target in (A, B, C):
                yield await presigner.aurl(target)

        await presigner.aurl(B)
        return StreamingResponse(body(), headers=dict([LONG]))

    app = Starlette(routes=[Route("/", endpoint)])
    response = get(presign_middleware.asgi.PresignMiddleware(app, presigner, freshness=True), wsgi=False)
    assert response.text == "".join(presigner.urls([A, B, C]))
    assert max_age(response) == left(B)


def sent_by(presigner: Presigner, message: dict[str, Any]) -> dict[str, Any]:
    """Return what the server gets of this start of a response to a request that was given a URL."""
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        presigner.url(A)
        await send(message)

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    told = presign_middleware.asgi.PresignMiddleware(app, presigner, freshness=True)
    scope = {"type": "http", "method": "GET", "headers": []}
    asyncio.run(told(scope, receive, send))
    return sent[0]


def test_headers_are_rewritten_on_a_copy(presigner: Presigner) -> None:
    """X1: the application's own message stays; so do headers of several lines, and their bytes."""
    cookies = [(b"Set-Cookie", b"a=\xe4"), (b"set-cookie", b"b=2")]
    headers = [cookies[0], (b"CACHE-CONTROL", b"max-age=0"), cookies[1], (b"cache-control", b"x")]
    message = {"type": "http.response.start", "status": 200, "headers": headers, "trailers": False}
    sent = sent_by(presigner, message)
    assert sent == {**message, "headers": [*cookies, (b"cache-control", b"max-age=0, x, private")]}
    assert message["headers"] is headers
    assert len(headers) == 4


def test_headers_of_any_kind(presigner: Presigner) -> None:
    """X1: they may be any iterable of any pairs, and may be left out."""
    start = {"type": "http.response.start", "status": 200}
    private = [(b"cache-control", b"private")]
    pairs = (list(pair) for pair in [(b"x", bytearray(b"1"))])
    assert sent_by(presigner, start)["headers"] == private
    assert sent_by(presigner, {**start, "headers": pairs})["headers"] == [(b"x", b"1"), *private]


def test_a_message_that_stays_is_the_very_one(presigner: Presigner) -> None:
    """X1: what need not change is not copied."""
    headers = [(b"cache-control", b"private"), (b"cache-control", b"max-age=1")]
    message = {"type": "http.response.start", "status": 200, "headers": headers}
    assert sent_by(presigner, message) is message


def test_a_websocket_tells_nothing(presigner: Presigner) -> None:
    """X1: it has no response, and keeps no account."""
    accounts: list[object] = []

    async def talk(websocket: WebSocket) -> None:
        scope = current()
        assert scope is not None
        accounts.append(scope.account)
        await websocket.accept()
        await websocket.send_text(await presigner.aurl(A))

    app = Starlette(routes=[WebSocketRoute("/", talk)])
    told = presign_middleware.asgi.PresignMiddleware(app, presigner, freshness=True, diagnostics=True)
    with TestClient(told) as client, client.websocket_connect("/") as websocket:
        assert websocket.receive_text() == presigner.url(A)
    assert accounts == [None]


# --- WSGI ---------------------------------------------------------------------------------------------------


Environ = dict[str, Any]
Start = Callable[..., Any]


class Server:
    """What a WSGI server does, in the order in which it happens."""

    def __init__(self, app: Any, presigner: Presigner, **environ: Any) -> None:
        self.heard: list[Any] = []
        self._app = presign_middleware.wsgi.PresignMiddleware(app, presigner, freshness=True)
        self._environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", **environ}
        wsgiref_util.setup_testing_defaults(self._environ)

    def start(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
        if self.heard and not exc_info:
            raise AssertionError("headers are set already")
        self.heard.append((status, dict(headers)["Cache-Control"]))
        return self.heard.append

    def serve(self) -> list[Any]:
        body = self._app(self._environ, self.start)
        for part in body:
            self.heard.append(part)
        body.close()  # type: ignore[attr-defined]  # ours has one
        return self.heard


def test_headers_come_with_the_first_part(presigner: Presigner, left: Callable[..., int]) -> None:
    """X1: a generator application hands out URLs after it has called start_response."""
    left(B)

    def app(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [LONG])
        presigner.url(B)
        yield b"first"
        presigner.urls([A, C])
        yield b"second"

    expected = ("200 OK", f"private, max-age={left(B)}")
    assert Server(app, presigner).serve() == [expected, b"first", b"second"]


def test_headers_come_with_what_is_written(presigner: Presigner, left: Callable[..., int]) -> None:
    """X1: start_response returns what sends a part at once."""
    left(B)

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        write = start_response("200 OK", [LONG])
        presigner.url(B)
        write(b"first")
        write(b"second")
        presigner.urls([A, C])
        return [b"third"]

    expected = ("200 OK", f"private, max-age={left(B)}")
    assert Server(app, presigner).serve() == [expected, b"first", b"second", b"third"]


def test_headers_come_without_a_body(presigner: Presigner, left: Callable[..., int]) -> None:
    """X1: an answer to HEAD has no part that they could come with."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        presigner.url(A)
        start_response("200 OK", [LONG])
        return []

    assert Server(app, presigner).serve() == [("200 OK", f"private, max-age={left(A)}")]


def test_an_error_takes_the_place_of_what_was_not_sent(
    presigner: Presigner, left: Callable[..., int]
) -> None:
    """X1: start_response may be called again with an exception; the server hears of the last alone."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        presigner.url(A)
        start_response("200 OK", [])
        error = RuntimeError()
        start_response("500 Oh", [LONG], (RuntimeError, error, None))
        return [b"sorry"]

    assert Server(app, presigner).serve() == [("500 Oh", f"private, max-age={left(A)}"), b"sorry"]


def test_an_error_after_the_first_part_is_the_servers_to_judge(
    presigner: Presigner, left: Callable[..., int]
) -> None:
    """X1: it may still accept new headers; they are limited too."""

    def app(environ: Environ, start_response: Start) -> Iterator[bytes]:
        presigner.url(A)
        start_response("200 OK", [("Cache-Control", "private")])
        yield b""
        start_response("500 Oh", [LONG], exc_info=(RuntimeError, RuntimeError(), None))
        yield b"sorry"

    heard = Server(app, presigner).serve()
    assert heard == [("200 OK", "private"), b"", ("500 Oh", f"private, max-age={left(A)}"), b"sorry"]


def test_a_second_start_is_refused_by_the_server(presigner: Presigner) -> None:
    """X1: in its own words, and to the application, as without the middleware."""
    refused: list[str] = []

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Cache-Control", "private")])
        try:
            start_response("201 Oh", [("Cache-Control", "private")])
        except AssertionError as error:
            refused.append(str(error))
        return [b""]

    Server(app, presigner).serve()
    assert refused == ["headers are set already"]


def test_the_order_of_calls_is_that_of_the_standard(presigner: Presigner) -> None:
    """X1: wsgiref's validator finds nothing on either side of the middleware."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), *([LONG] * 2)])
        return [presigner.url(A).encode()]

    told = presign_middleware.wsgi.PresignMiddleware(validator(app), presigner, freshness=True)
    out, environ = io.BytesIO(), {"REQUEST_METHOD": "GET", "QUERY_STRING": ""}
    wsgiref_util.setup_testing_defaults(environ)
    handler = SimpleHandler(io.BytesIO(), out, io.StringIO(), environ)
    handler.run(validator(told))
    head, _, body = out.getvalue().partition(b"\r\n\r\n")
    assert body.decode() == presigner.url(A)
    assert head.lower().count(b"\r\ncache-control:") == 1


def test_a_file_of_the_server_has_its_headers(presigner: Presigner, left: Callable[..., int]) -> None:
    """X1, R2: the server gets them before it gets the file, and the very object that it made."""
    made: list[object] = []

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [LONG])
        presigner.url(A)
        made.append(environ["wsgi.file_wrapper"](io.BytesIO(b"file")))
        return made[0]  # type: ignore[return-value]  # it is one

    server = Server(app, presigner, **{"wsgi.file_wrapper": wsgiref_util.FileWrapper})
    body = server._app(server._environ, server.start)
    assert body is made[0]
    assert server.heard == [("200 OK", f"private, max-age={left(A)}")]
    body.close()  # type: ignore[attr-defined]  # it has one


# --- X2: diagnostics ----------------------------------------------------------------------------------------


def told(response: httpx.Response) -> str | None:
    found: str | None = response.headers.get("presign-cache")
    return found


def test_a_response_tells_where_its_urls_came_from(answer: Stack, presigner: Presigner) -> None:
    """X2: by this request, this process, the signer; in this order, and none that is 0."""

    def view() -> Page:
        presigner.url(A)
        presigner.url(B)
        presigner.url(A)
        presigner.urls([A, C, C])
        presigner.url(C, params={"VersionId": "1"})
        return page()

    presigner.url(A)  # makes the plan, too
    first, second = (answer(view, diagnostics=True) for _ in range(2))
    assert told(first) == "scope=3, local=1, signed=3"
    assert told(second) == "scope=3, local=4"
    assert [r.headers["server-timing"] for r in (first, second)] == ['presign;dur=0.0;desc="7 URLs"'] * 2
    assert "cache-control" not in first.headers


def test_a_url_that_another_request_has_replaced(
    answer: Stack, presigner: Presigner, s3_clock: Clock
) -> None:
    """X2: this one keeps its own as long as that will do, and counts it once."""
    s3_clock.advance(presigner.resolve(A).created_at + 2930 - s3_clock.time())

    def view() -> Page:
        presigner.url(A)
        s3_clock.advance(20)
        with ThreadPoolExecutor(1) as elsewhere:
            elsewhere.submit(presigner.refresh, A).result(DEADLINE)
            elsewhere.submit(presigner.url, A).result(DEADLINE)
        presigner.url(A)
        return page()

    assert told(answer(view, diagnostics=True)) == "scope=1, local=1"


def test_counts_are_those_of_the_process(answer: Stack, presigner: Presigner) -> None:
    """X2: what responses tell adds up to what ``stats()`` tells."""

    def view() -> Page:
        for way in GIVERS.values():
            way(presigner)
        return page()

    found = [told(answer(view, diagnostics=True)) or "" for _ in range(2)]
    numbers = Counter[str]()
    for name, number in [one.split("=") for text in found for one in text.split(", ")]:
        numbers[name] += int(number)
    stats = presigner.stats()
    names = {"scope": "from_scope", "local": "from_local", "signed": "from_signer"}
    assert numbers == {name: stats[long] for name, long in names.items()}
    assert sum(numbers.values()) == stats["resolved"]


def test_a_caught_fetch_is_counted(answer: Stack) -> None:
    """X2: its URL was found or signed for this request, too. boto3 signs headers by this host's clock."""
    with opened(Door()) as door:

        def view() -> Page:
            fetched(door.cat)
            fetched(door.cat)
            fetched(door.cat, **{"x-amz-checksum-mode": "ENABLED"})
            return page()

        assert told(answer(view, presigner=presigner_for(door), diagnostics=True)) == "scope=1, signed=2"


def test_what_the_fleet_had_is_told(answer: Stack, s3_clock: Clock, memcached: Memcached) -> None:
    """X2: shared, for what another process has signed."""
    place, policy = Role(s3_clock).origin(), Policy(shared_patience=PATIENT)
    members = [Presigner(place, shared=memcached.url, policy=policy, clock=s3_clock) for _ in range(2)]
    members[0].urls([A, B])
    let_publish(members[0])

    def view() -> Page:
        members[1].urls([A, B, C, C])
        return page()

    response = answer(view, presigner=members[1], diagnostics=True)
    assert told(response) == "flight=1, shared=2, signed=1"
    for member in members:
        member.close()


def test_a_flight_of_another_request_is_told(
    answer: Stack, s3_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X2: who waits for what another request has signed tells of that, and the other of its signature."""
    source, board, joined = Role(s3_clock), Flights.board, threading.Event()
    presigner = Presigner(source.origin(), clock=s3_clock)

    def noticed(*args: Any) -> Any:
        opened, others = board(*args)
        if others:
            joined.set()
        return opened, others

    def view() -> Page:
        presigner.url(A)
        return page()

    def ask() -> str | None:
        return told(answer(view, presigner=presigner, diagnostics=True))

    monkeypatch.setattr(Flights, "board", noticed)
    source.shut()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask)
        assert source.asked.wait(DEADLINE)
        second = pool.submit(ask)
        assert joined.wait(DEADLINE)
        source.gate.set()
        assert (first.result(DEADLINE), second.result(DEADLINE)) == ("signed=1", "flight=1")


def test_what_is_to_be_renewed_is_told(answer: Stack, presigner: Presigner, s3_clock: Clock) -> None:
    """X2: refreshing, for what is AGEING and renewed after this response."""

    def view() -> Page:
        presigner.urls([A, B])
        return page()

    until = presigner.resolve(A).created_at + 2940
    s3_clock.advance(until - s3_clock.time())
    presigner.url(B)
    assert told(answer(view, diagnostics=True)) == "local=2, refreshing=1"


def test_the_time_spent_waiting_is_told(answer: Stack, s3_clock: Clock) -> None:
    """X2: in milliseconds, by the presigner's clock; here for a role's session."""
    source = Role(s3_clock)
    source.takes = 0.25
    presigner = Presigner(source.origin(), clock=s3_clock)

    def view() -> Page:
        presigner.url(A)
        return page(("Server-Timing", "db;dur=5"))

    response = answer(view, presigner=presigner, diagnostics=True)
    assert response.headers.get_list("server-timing") == ["db;dur=5", 'presign;dur=250.0;desc="1 URL"']


def test_waits_at_once_are_one() -> None:
    """X2: a page that waits for two URLs at the same time waits no longer for that."""
    account = Account()
    account.wait(10)
    account.wait(11)
    account.go_on(13)
    account.go_on(15)
    account.wait(20)
    account.go_on(21)
    assert account.waited == 6


def test_who_met_no_url_tells_nothing(answer: Stack) -> None:
    """X2: neither header is added."""
    response = answer(lambda: page(("Server-Timing", "db;dur=5")), diagnostics=True)
    assert response.headers["server-timing"] == "db;dur=5"
    assert told(response) is None


def test_both_at_once(answer: Stack, presigner: Presigner, left: Callable[..., int]) -> None:
    """X1, X2: with both a response tells both."""

    def view() -> Page:
        presigner.url(A)
        return page(LONG)

    expected = left(A)
    response = answer(view, freshness=True, diagnostics=True)
    assert (max_age(response), told(response)) == (expected, "local=1")


def test_accounts_of_requests_at_once_do_not_mix(answer: Stack, presigner: Presigner) -> None:
    """X2: each tells what it has met itself."""
    both = threading.Barrier(2)
    presigner.urls([A, B, C])

    def view_of(*targets: str) -> View:
        def view() -> Page:
            for target in targets:
                both.wait(DEADLINE)
                presigner.url(target)
            return page()

        return view

    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda view: told(answer(view, diagnostics=True)), [view_of(A, B), view_of(C, C)])
    assert list(found) == ["local=2", "scope=1, local=1"]
