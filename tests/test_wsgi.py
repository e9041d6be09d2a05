"""
The WSGI middleware: in process and under the standard library's server.

Applications here fetch a private object with a bare client from the strict oracle behind a real
socket, and answer with what they got: the middleware is what makes that a cat. Clocks are the
test's own. What other servers do is in `test_wsgi_servers`.
"""

import asyncio
import contextvars
import copy
import io
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, cast
from wsgiref import util as wsgiref_util
from wsgiref.handlers import SimpleHandler
from wsgiref.validate import validator

import a2wsgi
import boto3
import flask
import flask.testing
import httpx
import pytest
from faults import eventually
from gunicorn.http.wsgi import FileWrapper as GunicornFileWrapper  # type: ignore[import-untyped]  # has none
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from ways import ACCESS_KEY, SECRET_KEY, Door, origin, signed

import presign_middleware.asgi
import presign_middleware.wsgi
from presign_middleware import ConfigurationError, Origin, Policy, Presigner
from presign_middleware.local import Entry
from presign_middleware.renewal import Renewals
from presign_middleware.scope import Scope, catching, current
from presign_middleware.testing import Clock
from presign_middleware.wsgi import PresignMiddleware

DEADLINE: Final = 10.0  # seconds after which a test that has gone wrong stops waiting
HALF: Final = 1650  # seconds after which what was FRESH is AGEING
POLICY: Final = Policy(ageing=HALF, refresh_limit=3)
CAT: Final = b"a cat"
pytestmark = pytest.mark.usefixtures("own_hooks")

A: Final = "s3://media/a"
PLACE: Final = Origin(  # one for all, since a session reads boto3's model of S3
    "media", bucket="media", region="eu-west-1", session=boto3.Session(ACCESS_KEY, SECRET_KEY)
)

Environ = dict[str, Any]
Start = Callable[..., Any]
App = Callable[[Environ, Start], Iterable[bytes]]


@pytest.fixture
def presigner(door: Door) -> Presigner:
    return Presigner(origin(door), policy=POLICY, clock=door.clock)  # type: ignore[arg-type]  # as in ways


@pytest.fixture
def quiet(s3_clock: Clock) -> Presigner:
    """Give a presigner of which nobody fetches anything."""
    return Presigner(PLACE, policy=POLICY, clock=s3_clock)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give a list in which the "end" of each scope is recorded, and each "renewal" as it is begun."""
    found: list[str] = []
    forget, begin = Scope.forget, Renewals.begin_in_thread

    def forgot(scope: Scope) -> None:
        if not scope.ended:
            found.append("end")
        forget(scope)

    def begun(renewals: Renewals, entries: list[Entry]) -> None:
        found.append("renewal")
        begin(renewals, entries)

    monkeypatch.setattr(Scope, "forget", forgot)
    monkeypatch.setattr(Renewals, "begin_in_thread", begun)
    return found


@pytest.fixture
def ageing(quiet: Presigner, s3_clock: Clock, events: list[str]) -> Presigner:
    """Give a presigner whose URL of `A` is AGEING."""
    quiet.url(A)
    s3_clock.advance(HALF)
    return quiet


def fetch(url: str) -> bytes:
    with httpx.Client(verify=False) as client:
        response = client.get(url)
        return response.content if response.is_success else b"%d" % response.status_code


def environ_of(method: str = "GET", path: str = "/", **more: Any) -> Environ:
    environ: Environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "SCRIPT_NAME": "", **more}
    wsgiref_util.setup_testing_defaults(environ)
    return environ


def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
    """Begin a response, as a server lets the application do."""
    return lambda data: None


def close(body: Any) -> None:
    """Close *body* as servers do."""
    if hasattr(body, "close"):
        body.close()


def serve(app: App, **environ: Any) -> bytes:
    """Return *app*'s body, called as a server calls it."""
    body = app(environ_of(**environ), start)
    try:
        return b"".join(body)
    finally:
        close(body)


def serve_with_wsgiref(app: App, **environ: Any) -> bytes:
    """Return *app*'s whole response, head and body, from the server of the standard library."""
    out = io.BytesIO()
    handler = SimpleHandler(io.BytesIO(), out, io.StringIO(), environ_of(**environ))
    handler.run(app)
    return out.getvalue()


def answering(body: Callable[[], Iterable[bytes]]) -> App:
    """Return an application that answers with what *body* returns."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body()

    return app


class Body:
    """A body that does *work* in each of its parts and in its close."""

    def __init__(self, work: Callable[[str], object], parts: int = 2) -> None:
        self._work = work
        self._parts = iter(range(parts))

    def __iter__(self) -> "Body":
        self._work("iter")
        return self

    def __next__(self) -> bytes:
        number = next(self._parts)
        self._work(f"part {number}")
        return b"part"

    def close(self) -> None:
        self._work("close")


# --- D3: the scope is that of all the application's code, and of nothing else -------------------------------


def flask_shop(cat: str) -> flask.Flask:
    """Make an application of each way in which a Flask request comes to fetch an object."""
    app = flask.Flask("shop")
    app.testing = True

    def view() -> Any:
        return fetch(cat)

    async def coroutine() -> Any:
        async with httpx.AsyncClient(verify=False) as client:
            response = await client.get(cat)
            return response.content if response.is_success else b"%d" % response.status_code

    def streamed() -> Any:
        return flask.Response(fetch(cat) for _ in range(2))

    def streamed_with_context() -> Any:
        return flask.Response(flask.stream_with_context(fetch(cat) for _ in range(2)))

    def afterwards() -> Any:
        @flask.after_this_request
        def add(response: flask.Response) -> flask.Response:
            response.set_data(fetch(cat))
            return response

        return ""

    def file() -> Any:
        return flask.send_file(cast(Any, Remote(cat)), mimetype="image/jpeg")

    for endpoint in (view, coroutine, streamed, streamed_with_context, afterwards, file):
        app.add_url_rule(f"/{endpoint.__name__}", view_func=endpoint)
    return app


class Remote(io.RawIOBase):
    """A file that fetches what it holds when it is read."""

    def __init__(self, url: str) -> None:
        self._url: str | None = url

    def read(self, size: int = -1) -> bytes:
        if self._url is None:
            return b""
        url, self._url = self._url, None
        return fetch(url)

    def readable(self) -> bool:
        return True


WAYS: Final = {
    "view": CAT,
    "coroutine": CAT,
    "streamed": CAT * 2,
    "streamed_with_context": CAT * 2,
    "afterwards": CAT,
    "file": CAT,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wrapper", [None, wsgiref_util.FileWrapper, GunicornFileWrapper])
def test_a_fetch_of_flask_arrives(presigner: Presigner, door: Door, way: str, wrapper: Any) -> None:
    """D3: wherever in the request Flask's code fetches; also in a file that the server reads."""
    app = PresignMiddleware(flask_shop(door.cat), presigner=presigner)
    files = {} if wrapper is None else {"wsgi.file_wrapper": wrapper}
    assert serve(app, path=f"/{way}", **files) == WAYS[way]
    assert presigner.stats()["signed"] == 1


def test_fetches_without_the_middleware_are_refused(door: Door) -> None:
    """D3: the bucket is private, so the other tests can fail."""
    shop = flask_shop(door.cat)
    assert {serve(shop, path=f"/{way}") for way in WAYS} == {b"403", b"403403"}


def test_a_fetch_outside_a_request_is_not_signed(presigner: Presigner, door: Door) -> None:
    """D3, D7: not before the first, and not after one."""
    app = PresignMiddleware(answering(lambda: [fetch(door.cat)]), presigner=presigner)
    assert [fetch(door.cat), serve(app), fetch(door.cat)] == [b"403", CAT, b"403"]
    assert signed(door) == [False, True, False]


def test_all_of_the_application_runs_in_one_scope(quiet: Presigner) -> None:
    """D3: the call, each step of the body and its close."""
    found: dict[str, Scope | None] = {}

    def note(when: str) -> None:
        found[when] = current()

    def body() -> Body:
        note("call")
        return Body(note)

    serve(PresignMiddleware(answering(body), presigner=quiet))
    assert list(found) == ["call", "iter", "part 0", "part 1", "close"]
    (scope,) = set(found.values())
    assert scope is not None
    assert scope.presigner is quiet


def test_between_its_steps_the_server_has_its_own_scope(quiet: Presigner) -> None:
    """D3: what the server does for a request is not the application's."""
    app = PresignMiddleware(answering(lambda: Body(lambda when: None)), presigner=quiet)
    with quiet.scope() as own:
        body = app(environ_of(), start)
        found = [current(), *(current() for _ in body)]
        close(body)
        assert [*found, current()] == [own] * 4


def test_a_body_may_be_iterated_and_closed_in_other_threads(presigner: Presigner, door: Door) -> None:
    """D3: it has its scope in each of them, and none of them keeps it."""
    found: list[bytes] = []
    app = PresignMiddleware(
        answering(lambda: Body(lambda when: found.append(fetch(door.cat)))), presigner=presigner
    )
    with ThreadPoolExecutor(1) as calls, ThreadPoolExecutor(1) as reads, ThreadPoolExecutor(1) as closes:
        body = calls.submit(app, environ_of(), start).result()
        reads.submit(list, body).result()
        closes.submit(close, body).result()
        assert [pool.submit(current).result() for pool in (calls, reads, closes)] == [None] * 3
    assert found == [CAT] * 4


def test_a_body_may_be_closed_in_another_context(ageing: Presigner, events: list[str]) -> None:
    """R2: the scope is left with set(), since reset() fails there."""
    app = PresignMiddleware(answering(lambda: [ageing.url(A).encode()]), presigner=ageing)
    body = app(environ_of(), start)
    contextvars.copy_context().run(close, body)
    assert events == ["end", "renewal"]
    assert current() is None


def test_closing_leaves_the_scope_of_who_closes(quiet: Presigner) -> None:
    """D3: a server that closes one request's body amid another takes nothing from that one."""
    app = PresignMiddleware(answering(lambda: [b""]), presigner=quiet)
    body = app(environ_of(), start)
    with quiet.scope() as other:
        close(body)
        assert current() is other


def test_a_body_that_is_never_closed_stays_out_of_the_next_request(quiet: Presigner) -> None:
    """D3: as Flask's test client leaves them; the next request is in no other, and no scope stays behind."""
    scopes: list[Scope] = []
    shop = flask.Flask("shop")

    @shop.get("/")
    def view() -> str:
        scope = current()
        assert scope is not None
        scopes.append(scope)
        return ""

    shop.wsgi_app = PresignMiddleware(shop.wsgi_app, presigner=quiet)  # type: ignore[method-assign]  # Flask's own way
    with shop.test_client() as client:
        responses = [client.get("/") for _ in range(2)]
        assert [(scope.ended, scope._outer) for scope in scopes] == [(False, None)] * 2
        assert current() is None
    for response in responses:
        response.close()
    assert [scope.ended for scope in scopes] == [True] * 2


def test_bodies_that_take_turns_have_a_scope_each(quiet: Presigner) -> None:
    """D3: one thread may serve several at once, and end them in any order."""
    found: list[Scope | None] = []

    def parts() -> Iterator[bytes]:
        for _ in range(2):
            found.append(current())
            yield b""

    app = PresignMiddleware(answering(parts), presigner=quiet)
    first, second = app(environ_of(), start), app(environ_of(), start)
    for turns in zip(first, second, strict=True):
        assert turns == (b"", b"")
    close(first)
    close(second)
    assert found[:2] == found[2:]
    assert found[0] is not found[1]
    assert current() is None


def test_a_scope_that_a_body_opens_lasts_over_its_parts(quiet: Presigner) -> None:
    """D3: a generator that yields inside a scope of its own finds it again."""
    found: list[bool] = []

    def parts() -> Iterator[bytes]:
        with quiet.scope() as own:
            for _ in range(2):
                found.append(current() is own)
                yield b""
        found.append(current() is not own)

    serve(PresignMiddleware(answering(parts), presigner=quiet))
    assert found == [True] * 3
    assert current() is None


def test_a_pause_of_a_body_lasts_over_its_parts(quiet: Presigner) -> None:
    """O6: whichever thread takes the next part, and none of them is paused in between."""
    found: list[bool] = []

    def parts() -> Iterator[bytes]:
        with quiet.paused():
            for _ in range(3):
                found.append(catching())
                yield b""
        found.append(catching())

    body = iter(PresignMiddleware(answering(parts), presigner=quiet)(environ_of(), start))
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for pool in (one, other, one):
            pool.submit(next, body).result()
            assert pool.submit(catching).result()
        other.submit(list, body).result()
        assert other.submit(catching).result()
    assert found == [False] * 3 + [True]


def test_requests_in_threads_do_not_mix(presigner: Presigner, door: Door) -> None:
    """D1, D3: eight at once, streaming in step, have a scope each; one signature serves them all."""
    step = threading.Barrier(8, timeout=DEADLINE)
    scopes: dict[str, set[Scope | None]] = {}

    def app(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(3):
            step.wait()
            scopes.setdefault(environ["PATH_INFO"], set()).add(current())
            yield fetch(door.cat)

    ours = PresignMiddleware(app, presigner=presigner)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: serve(ours, path=f"/{number}"), range(8)))
    assert answers == [CAT * 3] * 8
    assert [len(of_one) for of_one in scopes.values()] == [1] * 8
    assert len(set[Scope | None]().union(*scopes.values())) == 8
    assert presigner.stats()["signed"] == 1


def test_one_request_resolves_an_object_once_and_the_next_anew(presigner: Presigner, door: Door) -> None:
    """D1: within a request the scope answers, from the call to the last part; then this process does."""
    app = PresignMiddleware(answering(lambda: (fetch(door.cat) for _ in range(2))), presigner=presigner)
    for _ in range(2):
        assert serve(app) == CAT * 2
    stats = presigner.stats()
    assert (stats["signed"], stats["from_local"], stats["from_scope"]) == (1, 1, 2)


def test_the_middleware_never_changes(presigner: Presigner, door: Door) -> None:
    """D3: all that a request needs is in an object of its own; the one middleware serves them all."""
    ours = PresignMiddleware(flask_shop(door.cat), presigner=presigner)
    before = copy.copy(vars(ours))
    for way in WAYS:
        serve(ours, path=f"/{way}")
    assert vars(ours) == before


# --- nested, in itself and in ASGI --------------------------------------------------------------------------


def test_the_innermost_middleware_decides(presigner: Presigner, door: Door) -> None:
    """D3: and after it the outer one does again, part by part."""
    door.put("media", "dogs/dog.jpg", b"a dog")
    dog = door.cat.replace("cat.jpg", "dogs/dog.jpg")
    dogs = Presigner(origin(door, prefix="dogs/"), clock=door.clock)  # type: ignore[arg-type]  # as in ways
    both = answering(lambda: (fetch(url) for url in (door.cat, dog)))
    kennel = PresignMiddleware(both, presigner=dogs)

    def around(environ: Environ, start_response: Start) -> Iterator[bytes]:
        body = kennel(environ, start_response)
        for part in body:
            yield part + b" " + fetch(door.cat) + b";"
        close(body)
        yield fetch(door.cat)

    assert serve(PresignMiddleware(around, presigner=presigner)) == b"403 a cat;a dog a cat;a cat"
    assert current() is None


def test_wsgi_inside_asgi(presigner: Presigner, door: Door) -> None:
    """D3: an application mounted in an ASGI one fetches, with the middleware on either or both."""
    bare = flask_shop(door.cat)
    both = PresignMiddleware(bare, presigner=presigner)
    for app in (bare, both):
        adapted: Any = a2wsgi.WSGIMiddleware(cast(Any, app))
        starlette = Starlette(routes=[Mount("/shop", adapted)])
        with TestClient(presign_middleware.asgi.PresignMiddleware(starlette, presigner=presigner)) as client:
            found = [client.get(f"/shop/{way}").content for way in WAYS]
        assert found == list(WAYS.values())


def test_asgi_inside_wsgi(presigner: Presigner, door: Door) -> None:
    """D3: an ASGI application that a2wsgi runs in a loop of its own has the scope of the request."""

    async def endpoint(request: Request) -> Response:
        async with httpx.AsyncClient(verify=False) as client:
            return Response((await client.get(door.cat)).content)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        app: Any = Starlette(routes=[Route("/", endpoint)])
        adapted: Any = a2wsgi.ASGIMiddleware(app, loop=loop)
        assert serve(PresignMiddleware(adapted, presigner=presigner)) == CAT
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


# --- R2: one end, at close() --------------------------------------------------------------------------------


def closed_once(app: App) -> None:
    serve(app)


def closed_twice(app: App) -> None:
    body = app(environ_of(), start)
    list(body)
    close(body)
    close(body)


def closed_without_being_iterated(app: App) -> None:
    close(app(environ_of("HEAD"), start))


def closed_half_way(app: App) -> None:
    body = app(environ_of(), start)
    next(iter(body))
    close(body)


def closed_in_a_thread(app: App) -> None:
    body = app(environ_of(), start)
    list(body)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(close, body).result()


def served_by_wsgiref(app: App) -> None:
    assert serve_with_wsgiref(app).endswith(b"partpart")


def head_by_wsgiref(app: App) -> None:
    serve_with_wsgiref(app, method="HEAD")


ENDINGS: Final = (
    closed_once,
    closed_twice,
    closed_without_being_iterated,
    closed_half_way,
    closed_in_a_thread,
    served_by_wsgiref,
    head_by_wsgiref,
)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_request_ends_once(ageing: Presigner, events: list[str], ending: Callable[[App], None]) -> None:
    """R1, R2: after the body's own close, whatever else the server does, and one renewal begins then."""

    def body() -> Body:
        ageing.url(A)
        return Body(lambda when: events.append(when))

    ending(PresignMiddleware(answering(body), presigner=ageing))
    own = events.index("close")
    assert [event for event in events[own:] if event != "close"] == ["end", "renewal"]
    assert not {"end", "renewal"} & set(events[:own])
    assert current() is None


@pytest.mark.parametrize("failing", ["part 0", "part 1", "close"])
def test_a_body_that_raises_ends_its_request_at_close(
    ageing: Presigner, events: list[str], failing: str
) -> None:
    """R2: once, its exception is the one that arrives, and what was AGEING is renewed."""
    failure = ZeroDivisionError()

    def work(when: str) -> None:
        ageing.url(A)
        events.append(when)
        if when == failing:
            raise failure

    with pytest.raises(ZeroDivisionError) as caught:
        serve(PresignMiddleware(answering(lambda: Body(work)), presigner=ageing))
    assert caught.value is failure
    assert events[-3:] == ["close", "end", "renewal"]
    assert events.count("end") == 1
    assert current() is None


def test_an_application_that_raises_ends_its_request(ageing: Presigner, events: list[str]) -> None:
    """R1, R2: there is no body to close and the server is still to answer, so nothing is renewed."""
    failure = ZeroDivisionError()

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        ageing.url(A)
        raise failure

    with pytest.raises(ZeroDivisionError) as caught:
        serve(PresignMiddleware(app, presigner=ageing))
    assert caught.value is failure
    assert events == ["end"]
    assert current() is None


def test_the_body_is_closed_as_often_as_the_server_says(quiet: Presigner) -> None:
    """R2: the application's close is called each time, which is its own affair; a list has none."""
    calls: list[str] = []
    closed_twice(PresignMiddleware(answering(lambda: Body(calls.append)), presigner=quiet))
    assert calls.count("close") == 2
    closed_twice(PresignMiddleware(answering(lambda: [b""]), presigner=quiet))


def test_the_body_of_a_generator_is_finished(quiet: Presigner) -> None:
    """R2: its finally runs at close, in the scope, though the client left half way."""
    found: list[Scope | None] = []

    def parts() -> Iterator[bytes]:
        try:
            yield b""
            yield b""
        finally:
            found.append(current())

    closed_half_way(PresignMiddleware(answering(parts), presigner=quiet))
    (scope,) = found
    assert scope is not None
    assert scope.ended


# --- what servers ask of a body -----------------------------------------------------------------------------


def test_a_list_keeps_its_length(quiet: Presigner) -> None:
    """R2: servers make a Content-Length of a list of one."""
    app = PresignMiddleware(answering(lambda: [b"four"]), presigner=quiet)
    assert b"\r\nContent-Length: 4\r\n" in serve_with_wsgiref(app)


def test_a_generator_gets_no_length(quiet: Presigner) -> None:
    """R2: a server must not take it for a body of known length."""
    body = PresignMiddleware(answering(lambda: iter([b"four"])), presigner=quiet)(environ_of(), start)
    assert not hasattr(body, "__len__")
    close(body)


def test_a_list_may_be_iterated_twice(quiet: Presigner) -> None:
    """R2: as the application's own may."""
    body = PresignMiddleware(answering(lambda: [b"a", b"b"]), presigner=quiet)(environ_of(), start)
    assert [list(body), list(body)] == [[b"a", b"b"]] * 2
    close(body)


@pytest.mark.parametrize("wrapper", [wsgiref_util.FileWrapper, None])
def test_environ_and_start_response_are_passed_on(quiet: Presigner, wrapper: Any) -> None:
    """D3: the server's very own, with nothing added; so is what start_response returns."""
    seen: list[Any] = []

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        seen.extend((environ, start_response))
        return [b""]

    environ = environ_of()
    environ["wsgi.file_wrapper"] = wrapper
    before = dict(environ)
    close(PresignMiddleware(app, presigner=quiet)(environ, start))
    assert [id(thing) for thing in seen] == [id(environ), id(start)]
    assert environ == before


def test_the_validator_finds_no_fault(quiet: Presigner) -> None:
    """D3: neither with what the middleware does to the application nor with what it does to the server."""
    inner = validator(answering(lambda: [b"part"]))
    outer = validator(PresignMiddleware(inner, presigner=quiet))
    assert serve_with_wsgiref(outer, QUERY_STRING="").endswith(b"\r\n\r\npart")


# --- R2: files for the server to send -----------------------------------------------------------------------


class Tracked(io.BytesIO):
    """A file that records what becomes of it in *events*."""

    def __init__(self, content: bytes, events: list[str]) -> None:
        super().__init__(content)
        self._events = events

    def close(self) -> None:
        if not self.closed:
            self._events.append("close")
        super().close()


def itself(file: Any, size: int = 8192) -> Any:
    """Return *file*, as the wrapper of uWSGI does, which is a function."""
    return file


WRAPPERS: Final = [wsgiref_util.FileWrapper, GunicornFileWrapper, itself]


@dataclass
class Sent:
    """A file that an application behind the middleware has returned."""

    made: Any
    body: Any
    file: Tracked


def send_file(presigner: Presigner, wrapper: Any, events: list[str], layers: int = 1) -> Sent:
    """Return what becomes of a request that asks for `A` and returns a file in *wrapper*."""
    file, made = Tracked(b"content", events), list[Any]()

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        presigner.url(A)
        made.append(environ["wsgi.file_wrapper"](file, 4))
        body: Iterable[bytes] = made[0]
        return body

    for _ in range(layers):
        app = PresignMiddleware(app, presigner=presigner)
    body = app(environ_of(**{"wsgi.file_wrapper": wrapper}), start)
    return Sent(made[0], body, file)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_file_is_returned_by_identity(
    ageing: Presigner, events: list[str], wrapper: Any, layers: int
) -> None:
    """R2: it closes its file as ever, then the request ends, and its renewal begins."""
    sent = send_file(ageing, wrapper, events, layers)
    assert sent.body is sent.made
    assert b"".join(sent.body) == b"content"
    assert events == []
    sent.body.close()
    sent.body.close()
    assert events == ["close", "end", "renewal"] + ["end"] * (layers - 1)
    assert sent.file.closed
    assert current() is None


def test_a_file_is_still_what_its_server_knows(quiet: Presigner) -> None:
    """R2: the server's class stays in environ, and the object is one of it, so that it sends the file."""
    sent: list[Any] = []

    class Handler(SimpleHandler):
        def sendfile(self) -> bool:
            sent.append(vars(self)["result"])
            return False

    class Bare:  # has no close of its own
        def __init__(self) -> None:
            self._file = io.BytesIO(b"content")
            self.read = self._file.read

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "7")])
        body: Iterable[bytes] = environ["wsgi.file_wrapper"](Bare())
        return body

    out = io.BytesIO()
    handler = Handler(io.BytesIO(), out, io.StringIO(), environ_of())
    handler.run(PresignMiddleware(app, presigner=quiet))
    assert [type(body) for body in sent] == [wsgiref_util.FileWrapper]
    assert out.getvalue().endswith(b"\r\n\r\ncontent")
    assert current() is None


def test_a_file_that_cannot_be_touched(ageing: Presigner, events: list[str]) -> None:
    """R2: where its close cannot be replaced the request ends at once; the next one that asks renews."""

    class Sealed:
        __slots__ = ("file",)

        def __init__(self, file: Any, size: int) -> None:
            self.file = file

        def close(self) -> None:
            self.file.close()

    sent = send_file(ageing, Sealed, events)
    assert sent.body is sent.made
    assert events == ["end"]
    sent.body.close()
    assert events == ["end", "close"]
    serve(PresignMiddleware(answering(lambda: [ageing.url(A).encode()]), presigner=ageing))
    assert events[2:] == ["end", "renewal"]


def test_a_file_that_is_not_the_body(quiet: Presigner) -> None:
    """R2: an application may read it by itself; its body is then like any other."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        return [b"".join(environ["wsgi.file_wrapper"](io.BytesIO(b"content"), 4))]

    assert serve(PresignMiddleware(app, presigner=quiet), **{"wsgi.file_wrapper": itself}) == b"content"


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("is_closed", [True, False])
def test_a_file_that_this_thread_never_closes(
    quiet: Presigner, events: list[str], wrapper: Any, is_closed: bool
) -> None:
    """D3: its scope is not that of the thread's next request, nor left behind by it."""
    sent = send_file(quiet, wrapper, events)
    if is_closed:
        with ThreadPoolExecutor(1) as pool:  # as waitress does, when the client has it all
            pool.submit(sent.body.close).result()
            assert pool.submit(current).result() is None
    outer: list[Scope | None] = []

    def body() -> list[bytes]:
        scope = current()
        assert scope is not None
        outer.append(scope._outer)
        return [b""]

    serve(PresignMiddleware(answering(body), presigner=quiet))
    assert outer == [None]
    assert current() is None
    sent.body.close()  # late, which takes nothing from anyone
    assert current() is None


def test_a_file_leaves_alone_what_came_after_it(quiet: Presigner, events: list[str]) -> None:
    """D3: where one was never closed, a scope that the thread has opened since is there after a request."""
    sent = send_file(quiet, itself, events)
    with quiet.scope() as own:
        serve(PresignMiddleware(answering(lambda: [b""]), presigner=quiet))
        assert current() is own
    sent.body.close()
    assert current() is None


def test_a_file_of_another_thread_takes_nothing_from_the_one_of_this(
    quiet: Presigner, events: list[str]
) -> None:
    """D3: a server may close one while it reads the other, which keeps its scope until its own close."""
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(send_file, quiet, itself, events).result()
    sent = send_file(quiet, itself, events)
    reading = current()
    assert reading is not None
    other.body.close()
    assert current() is reading
    sent.body.close()
    assert current() is None


# --- R1, R6: what is renewed, and when ----------------------------------------------------------------------


def test_a_renewal_begins_after_the_last_byte(ageing: Presigner, events: list[str]) -> None:
    """R1: not while parts are sent, though the URL was met before the first; and it renews."""

    def parts() -> Iterator[bytes]:
        ageing.url(A)
        for _ in range(2):
            yield b""

    body = PresignMiddleware(answering(parts), presigner=ageing)(environ_of(), start)
    for _ in body:
        assert ageing.stats()["refreshed"] == 0
        events.append("part")
    close(body)
    assert events == ["part", "part", "end", "renewal"]
    eventually(lambda: ageing.stats()["refreshed"] == 1)


def test_nothing_is_renewed_that_was_not_met_or_is_fresh(
    ageing: Presigner, events: list[str], s3_clock: Clock
) -> None:
    """R6: no thread is begun for a request that met none AGEING."""
    serve(PresignMiddleware(answering(lambda: [ageing.url(f"{A}-fresh").encode()]), presigner=ageing))
    assert events == ["end"]


def test_a_request_renews_no_more_than_its_limit(quiet: Presigner, s3_clock: Clock) -> None:
    """R6: three of ten here, by Policy(refresh_limit); the others wait for a next request."""
    targets = [f"s3://media/{number}" for number in range(10)]
    app = PresignMiddleware(answering(lambda: [url.encode() for url in quiet.urls(targets)]), presigner=quiet)
    serve(app)
    s3_clock.advance(HALF + 1700)  # past every phase's turn
    quiet.urls(targets)
    s3_clock.advance(HALF)
    serve(app)
    eventually(lambda: quiet.stats()["refreshed"] == 3)
    eventually(lambda: not quiet.renewals._under_way)
    assert quiet.stats()["refreshed"] == 3


def test_nobody_waits_for_a_renewal(ageing: Presigner, gate: threading.Event) -> None:
    """R1, R7: close returns while it hangs, requests go on being answered, and no process waits for it."""
    app = PresignMiddleware(answering(lambda: [ageing.url(A).encode()]), presigner=ageing)
    first = serve(app)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "presign-renewal"]
    assert thread.daemon
    assert serve(app) == first
    gate.set()
    eventually(lambda: ageing.stats()["refreshed"] == 1)
    eventually(lambda: serve(app) != first)


def test_requests_at_once_renew_an_object_once(ageing: Presigner, gate: threading.Event) -> None:
    """R5: what one renews the others leave alone."""
    app = PresignMiddleware(answering(lambda: [ageing.url(A).encode()]), presigner=ageing)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: serve(app), range(8)))
    gate.set()
    eventually(lambda: not ageing.renewals._under_way)
    assert ageing.stats()["refreshed"] == 1


# --- without a presigner ------------------------------------------------------------------------------------


def test_without_a_presigner_the_environment_describes_it(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D3: PRESIGN_ORIGINS and boto3's own variables are all that is needed."""
    monkeypatch.setenv("PRESIGN_ORIGINS", f"media=s3://media/?region=eu-west-1&endpoint_url={door.base}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    app = PresignMiddleware(answering(lambda: [b"served"]))
    assert serve(app) == b"served"
    assert list(app.presigner.origins) == ["media"]


def test_without_either_the_error_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """D3: it fails when the application is built, and names the argument and the variable."""
    monkeypatch.delenv("PRESIGN_ORIGINS", raising=False)
    with pytest.raises(ConfigurationError, match=r"presigner=Presigner\(\.\.\.\).*PRESIGN_ORIGINS") as caught:
        PresignMiddleware(answering(lambda: [b""]))
    assert "name=s3://bucket/prefix/?region=eu-west-1" in str(caught.value)
