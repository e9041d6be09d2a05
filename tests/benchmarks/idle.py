"""
What the middleware and the hooks cost where there is nothing to sign: the same with them and without.

A request is answered in process, without a server, and fetches nothing. A fetch is of a server on loopback, a
process of its own, over a connection that stays open; it is in a scope, and of a host that no origin covers.
"""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from contextvars import ContextVar
from time import perf_counter
from typing import Any
from wsgiref.util import setup_testing_defaults

import flask
import httpx
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import presign_middleware.asgi
import presign_middleware.wsgi
from presign_middleware import Origin, Presigner, intercept

from .rounds import Contender
from .workload import BUCKET, REGION, session

__all__ = ["Asgi", "Fetches", "Wsgi"]

#: Requests of a round, and fetches.
_REQUESTS, _FETCHES = 400, 40

#: A server that knows nothing of HTTP but where a request ends: what it takes is everybody's.
_SERVER = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while connection.recv(65536):
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello")
"""


def _presigner() -> Presigner:
    return Presigner(Origin("media", bucket=BUCKET, region=REGION, session=session()))


class Asgi:
    """A request of an ASGI application."""

    NAME = "bare Starlette"
    NAME_OF_NOTHING = "middleware of nothing"
    NAME_OF_ONE = "middleware of one variable"

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner

    def requests(self) -> tuple[Contender, ...]:
        """Answer with the middleware, with others that do next to nothing, and without any."""
        bare, ours, nothing, one = [_starlette() for _ in range(4)]
        ours.add_middleware(presign_middleware.asgi.PresignMiddleware, presigner=_presigner())
        nothing.add_middleware(_Nothing)
        one.add_middleware(_OneVariable)
        return (
            self._contender("PresignMiddleware()", ours, is_ours=True),
            self._contender(self.NAME, bare),
            self._contender(self.NAME_OF_NOTHING, nothing),
            self._contender(self.NAME_OF_ONE, one),
        )

    def _contender(self, name: str, app: Any, *, is_ours: bool = False) -> Contender:
        def timed() -> float:
            return self._runner.run(_answer(app))

        return Contender(name, lambda: timed, is_ours=is_ours, is_floor=not is_ours)


class _Nothing:
    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)


class _OneVariable(_Nothing):
    """Has what any middleware needs whose requests are to be known wherever their code runs."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            before = _current.get()
            _current.set(self)
            try:
                await self._app(scope, receive, send)
            finally:
                _current.set(before)
        else:
            await self._app(scope, receive, send)


_current: ContextVar[_OneVariable | None] = ContextVar("current", default=None)


def _starlette() -> Starlette:
    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    return Starlette(routes=[Route("/", hello)])


async def _answer(app: Any) -> float:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    connection = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"shop"), (b"user-agent", b"browser"), (b"accept", b"*/*")],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8_000),
    }
    start = perf_counter()
    for _ in range(_REQUESTS):
        await app(dict(connection), receive, send)
    return (perf_counter() - start) / _REQUESTS


class Wsgi:
    """A request of a WSGI application: of a function that is one, and of Flask."""

    NAME = "bare function"
    NAME_OF_FLASK = "bare Flask"

    def requests(self) -> tuple[Contender, ...]:
        """Answer with the middleware, and without any."""

        def hello(environ: Any, start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"hello"]

        shop = flask.Flask("shop")
        shop.add_url_rule("/", view_func=lambda: "hello")
        presigner = _presigner()

        def ours(name: str, app: Any) -> Contender:
            app = presign_middleware.wsgi.PresignMiddleware(app, presigner=presigner)
            return Contender(name, lambda: lambda: _call(app), is_ours=True)

        return (
            ours("PresignMiddleware(Flask)", shop.wsgi_app),
            ours("PresignMiddleware(app)", hello),
            Contender(self.NAME_OF_FLASK, lambda: lambda: _call(shop.wsgi_app), is_floor=True),
            Contender(self.NAME, lambda: lambda: _call(hello), is_floor=True),
        )


def _call(app: Any) -> float:
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)

    def start_response(*arguments: Any) -> None:
        pass

    start = perf_counter()
    for _ in range(_REQUESTS):
        body = app(dict(environ), start_response)
        for _ in body:
            pass
        if hasattr(body, "close"):
            body.close()
    return (perf_counter() - start) / _REQUESTS


class Fetches:
    """A fetch of what no origin covers. What they leave open is closed with *ending*."""

    HTTPX, REQUESTS = "httpx", "requests"

    def __init__(self, ending: ExitStack) -> None:
        server = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)
        ending.callback(server.wait)
        ending.callback(server.kill)
        assert server.stdout is not None
        port = int(server.stdout.readline())
        server.stdout.close()
        self._url = f"http://127.0.0.1:{port}/hello"
        self._presigner = _presigner()
        # One server for all of them, and it serves one connection at a time.
        self._httpx = lambda: httpx.Client(trust_env=False)
        self._requests = _session

    def with_httpx(self) -> tuple[Contender, ...]:
        """Fetch with the hook, and without."""
        return self._contenders(self.HTTPX, "intercept(httpx)", self._httpx)

    def with_requests(self) -> tuple[Contender, ...]:
        """Fetch with the hook, and without."""
        return self._contenders(self.REQUESTS, "intercept(requests)", self._requests)

    def _contenders(self, name: str, hooked: str, client: Callable[[], Any]) -> tuple[Contender, ...]:
        def timed(is_hooked: bool) -> float:
            hooks = intercept(name) if is_hooked else nullcontext()
            with client() as browser, hooks, self._presigner.scope():
                browser.get(self._url)  # connects
                start = perf_counter()
                for _ in range(_FETCHES):
                    browser.get(self._url)
                return (perf_counter() - start) / _FETCHES

        return (
            Contender(hooked, lambda: lambda: timed(True), is_ours=True),
            Contender(name, lambda: lambda: timed(False), is_floor=True),
        )


def _session() -> requests.Session:
    found = requests.Session()
    found.trust_env = False
    return found
