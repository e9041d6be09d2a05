"""
Every client this library signs for, one row each, for tests that must hold through all of them.

A `Client` is one row: a library in one colour. A `Fetcher` is a client and a means, hooks inside a scope or
the explicit adapter, with a presigner. A `Front` is a real S3 server behind a socket that writes down what
was on the wire, and can redirect.

To add a client, write a subclass of `Client` with `open`, `send` and `seams`, and put it into `CLIENTS`:
it then runs the whole of ``test_contract.py``. Give it a line in ``TOOLS`` of ``test_instrumentation.py``,
and put what it cannot do into `LIMITS`, which ``docs/how-to/clients.md`` repeats. A limit that turns out
not to be one fails, so that the table does not grow stale.
"""

import asyncio
import contextlib
import contextvars
import dataclasses
import http.client
import re
import shutil
import socket
import socketserver
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import aiohttp
import aiohttp.web
import boto3
import httpx
import httpx2
import pytest
import requests
import urllib3
from ways import Door

from presign_middleware import Origin, Presigner, intercept
from presign_middleware.clients.aiohttp import PresignClientMiddleware, opt_out
from presign_middleware.clients.httpx import PresignTransport
from presign_middleware.clients.requests import PresignAdapter
from presign_middleware.effects import run_blocking
from presign_middleware.testing import S3Request, S3Response, SeaweedFS


class Answer(NamedTuple):
    """What a client says of one fetch."""

    status: int
    content: bytes
    headers: Mapping[str, str]
    url: str  #: as the client shows it
    history: list[str]  #: the URLs of the hops before
    shown: str  #: all that it shows, for a search


class Asked(NamedTuple):
    """What is asked of a client; redirects are followed."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = {}
    body: Iterable[bytes] | None = None
    opt_out: bool = False  #: this one is to be left alone, where a client can be told so
    timeout: float = 5.0  #: seconds to wait for an answer
    own: Mapping[str, Any] = {}  #: arguments that only this library knows, where its own tests have any


class OneShot:
    """A body of nine bytes that can be read once, and counts."""

    def __init__(self) -> None:
        self.readings = 0

    def __len__(self) -> int:
        return 9  # S3 takes no chunked uploads

    def __iter__(self) -> Iterator[bytes]:
        self.readings += 1
        yield from (b"a new ", b"cat")


async def piecewise(body: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Give *body* as asyncio takes one."""
    for chunk in body:
        yield chunk


class Client:
    """
    One library, in one colour.

    Every client is written as if it were async. The coroutines of a blocking one never suspend.
    """

    is_async = False
    has_adapter = True  #: whether it can sign for one client of its own, without a hook
    has_log = True  #: whether it writes down what it fetches, at DEBUG

    def __init__(self, library: ModuleType) -> None:
        self.library = library
        self.name = library.__name__  #: what `intercept` calls it

    def open(self, presigner: Presigner | None, proxy: str | None = None) -> AbstractAsyncContextManager[Any]:
        """
        Give a client of the library's own, with the explicit adapter of *presigner* if there is one.

        Through a *proxy* it trusts whatever certificate it is shown.
        """
        raise NotImplementedError

    async def send(self, client: Any, asked: Asked) -> Answer:
        """Fetch what is *asked* with *client*, of `open`."""
        raise NotImplementedError

    def seams(self) -> list[tuple[Any, str]]:
        """Return whatever its hooks, and the tools that wrap it, may replace."""
        raise NotImplementedError

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return what *coroutine* returns, a body made of `open` and `send`."""
        return asyncio.run(coroutine) if self.is_async else run_blocking(coroutine)

    def __str__(self) -> str:
        return self.name


class Httpx(Client):
    """httpx and httpx2, blocking."""

    @contextlib.asynccontextmanager
    async def open(self, presigner: Presigner | None, proxy: str | None = None) -> AsyncIterator[Any]:
        # verify=False saves reading the certificate authorities for each test, 50 ms.
        sender = self.library.HTTPTransport(verify=False, proxy=proxy)
        transport = PresignTransport(presigner, sender) if presigner else sender
        with self.library.Client(transport=transport, follow_redirects=True) as client:
            yield client

    async def send(self, client: Any, asked: Asked) -> Answer:
        return self.told(client.request(content=asked.body, **self.options(asked)))

    def options(self, asked: Asked) -> dict[str, Any]:
        extensions = {"presign": False} if asked.opt_out else {}
        return {
            "method": asked.method,
            "url": asked.url,
            "headers": dict(asked.headers),
            "timeout": asked.timeout,
            "extensions": extensions,
        }

    def told(self, response: Any) -> Answer:
        hops = [*response.history, response]
        return Answer(
            response.status_code,
            response.content,
            response.headers,
            str(response.url),
            [str(hop.url) for hop in response.history],
            f"{[(vars(hop), hop.url, hop.request.url, hop.request.headers.raw) for hop in hops]}",
        )

    def seams(self) -> list[tuple[Any, str]]:
        names = (
            *("handle_request", "handle_async_request", "_transport_for_url", "send"),
            *("build_request", "_build_redirect_request"),
        )
        library = self.library
        owners = (
            *(library.HTTPTransport, library.AsyncHTTPTransport, library.MockTransport),
            *(library.ASGITransport, library.WSGITransport),
            *(library.Client, library.AsyncClient, library.Client.__bases__[0]),
        )
        return [(owner, name) for owner in owners for name in names if name in vars(owner)]


class AsyncHttpx(Httpx):
    """httpx and httpx2, with asyncio."""

    is_async = True

    def __str__(self) -> str:
        return f"{self.name}-async"

    @contextlib.asynccontextmanager
    async def open(self, presigner: Presigner | None, proxy: str | None = None) -> AsyncIterator[Any]:
        sender = self.library.AsyncHTTPTransport(verify=False, proxy=proxy)
        transport = PresignTransport(presigner, sender) if presigner else sender
        async with self.library.AsyncClient(transport=transport, follow_redirects=True) as client:
            yield client

    async def send(self, client: Any, asked: Asked) -> Answer:
        content = None if asked.body is None else piecewise(asked.body)
        return self.told(await client.request(content=content, **self.options(asked)))


class Requests(Client):
    """requests."""

    @contextlib.asynccontextmanager
    async def open(self, presigner: Presigner | None, proxy: str | None = None) -> AsyncIterator[Any]:
        with requests.Session() as session:
            if proxy is not None:
                session.proxies, session.verify = {"http": proxy, "https": proxy}, False
                session.trust_env = False  # or it asks the authority that the environment names
            if presigner is not None:
                for scheme in ("http://", "https://", "s3://"):
                    session.mount(scheme, PresignAdapter(presigner))
            yield session

    async def send(self, client: Any, asked: Asked) -> Answer:
        headers = dict(asked.headers)
        response = client.request(
            asked.method, asked.url, headers=headers, data=asked.body, timeout=asked.timeout
        )
        hops = [*response.history, response]
        return Answer(
            response.status_code,
            response.content,
            response.headers,
            response.url,
            [hop.url for hop in response.history],
            f"{[(vars(hop), vars(hop.request), vars(hop.raw)) for hop in hops]}",
        )

    def seams(self) -> list[tuple[Any, str]]:
        return [
            (requests.Session, "send"),
            (requests.sessions.SessionRedirectMixin, "get_redirect_target"),
            (requests.PreparedRequest, "prepare_url"),
            (requests.adapters.HTTPAdapter, "send"),
            *Urllib3(urllib3).seams(),
        ]


class Urllib3(Client):
    """urllib3."""

    has_adapter = False

    @contextlib.asynccontextmanager
    async def open(self, presigner: Presigner | None, proxy: str | None = None) -> AsyncIterator[Any]:
        manager = urllib3.ProxyManager(proxy, cert_reqs="CERT_NONE") if proxy else urllib3.PoolManager()
        with manager:
            yield manager

    async def send(self, client: Any, asked: Asked) -> Answer:
        url = asked.url
        response = client.request(
            asked.method,
            url,
            headers=dict(asked.headers),
            body=asked.body,
            retries=urllib3.Retry(3),
            timeout=asked.timeout,
        )
        history = response.retries.history
        return Answer(
            response.status,
            response.data,
            response.headers,
            urljoin(urljoin(url, history[-1].redirect_location if history else None), response.geturl()),
            [urljoin(url, hop.url) for hop in history],
            f"{vars(response)} {history}",
        )

    def seams(self) -> list[tuple[Any, str]]:
        return [
            (urllib3.PoolManager, "urlopen"),
            (urllib3.HTTPConnectionPool, "urlopen"),
            (urllib3.BaseHTTPResponse, "get_redirect_location"),
            (urllib3.connection.HTTPConnection, "request"),
            (http.client.HTTPConnection, "putrequest"),
            (http.client.HTTPConnection, "getresponse"),
        ]


class Aiohttp(Client):
    """aiohttp; *settings* are those of its sessions, which its own tests have."""

    is_async = True
    has_log = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(aiohttp)
        self.settings = settings

    @contextlib.asynccontextmanager
    async def open(self, presigner: Presigner | None, proxy: str | None = None) -> AsyncIterator[Any]:
        settings = {"middlewares": (), **self.settings}
        if presigner is not None:
            settings["middlewares"] = (*settings["middlewares"], PresignClientMiddleware(presigner))
        if proxy is not None:
            settings |= {"proxy": proxy, "connector": aiohttp.TCPConnector(ssl=False)}
        async with aiohttp.ClientSession(**settings) as session:
            yield session

    async def send(self, client: Any, asked: Asked) -> Answer:
        timeout = aiohttp.ClientTimeout(sock_read=asked.timeout)
        options = {"headers": asked.headers, "timeout": timeout, **asked.own}
        if asked.opt_out:
            options["middlewares"] = (opt_out,)
        if asked.body is not None:
            options["data"] = piecewise(asked.body)
        async with client.request(asked.method, asked.url, **options) as response:
            hops = [*response.history, response]
            return Answer(
                response.status,
                await response.read(),
                response.headers,
                str(response.url),
                [str(hop.url) for hop in response.history],
                f"{[(vars(hop), hop.real_url, hop.request_info) for hop in hops]}",
            )

    def seams(self) -> list[tuple[Any, str]]:
        return [
            *((aiohttp.ClientSession, name) for name in ("__init__", "_request")),
            *((aiohttp.ClientRequest, name) for name in ("__init__", "send")),
            *((aiohttp.ClientResponse, name) for name in ("__init__", "start")),
            (aiohttp.BaseConnector, "connect"),
            (aiohttp.http.StreamWriter, "write_headers"),
            # What Sentry takes at a server comes with what it takes here.
            (aiohttp.web.Application, "_handle"),
            (aiohttp.web.UrlDispatcher, "resolve"),
        ]


CLIENTS: tuple[Client, ...] = (
    Httpx(httpx),
    AsyncHttpx(httpx),
    Httpx(httpx2),
    AsyncHttpx(httpx2),
    Requests(requests),
    Urllib3(urllib3),
    Aiohttp(),
)


class Limit(NamedTuple):
    """A line of the contract that some client cannot keep, and why."""

    line: str  #: what an application may miss
    tests: tuple[str, ...]  #: that fail for it; none: the client is not there to be asked
    fetchers: tuple[str, ...]  #: the beginnings of their names
    reason: str


LIMITS: tuple[Limit, ...] = (
    Limit(
        "asyncio",
        (),
        ("requests", "urllib3"),
        "they block: call them with `asyncio.to_thread`, which takes the scope along",
    ),
    Limit(
        "one client, no hook",
        (),
        ("urllib3",),
        "it has no place for one: `intercept('urllib3')`, or requests with a `PresignAdapter`",
    ),
    Limit(
        "opting out of one fetch",
        ("test_one_fetch_can_opt_out",),
        ("requests", "urllib3"),
        "a call has nothing to say it with: put it into `with presigner.paused():`",
    ),
    Limit(
        "keeping the Location of an answer out of its DEBUG log",
        (),
        ("httpx", "httpx2"),
        "httpcore writes down what a server says: `RedactSignatures` on the handler",
    ),
    Limit(
        "hiding a URL that you signed yourself from tools around it",
        (),
        ("httpx-adapter", "requests-adapter", "aiohttp-adapter"),
        "an adapter sits below them; the hooks do hide it",
    ),
    Limit(
        "fetching from another host: a fallback origin's, or that of a region learned from S3",
        (),
        ("urllib3",),
        "a pool by itself leads to one host: ask a `PoolManager`",
    ),
    Limit(
        "`s3://bucket/key` targets",
        ("test_an_s3_target_takes_the_origins_own_form",),
        ("requests-hook", "urllib3"),
        "the scheme is refused before a hook sees it; mount a `PresignAdapter` for `s3://`",
    ),
    Limit(
        "`s3://bucket/key` targets",
        ("test_an_s3_target_takes_the_origins_own_form",),
        ("aiohttp",),
        "the scheme is refused before anyone sees it: fetch `await presigner.aurl('s3://bucket/key')`",
    ),
)


@dataclasses.dataclass(frozen=True)
class Fetcher:
    """A client and a means. Each `fetch`, `fetch_all` and `run` is one request of an application."""

    client: Client
    is_explicit: bool  #: the client's own adapter; else hooks, inside a scope
    presigner: Presigner
    is_inside: bool = True  #: its fetches are made in a scope, where it is one of hooks
    proxy: str | None = None  #: that its fetches go through

    def using(self, presigner: Presigner) -> "Fetcher":
        """Return this fetcher with another presigner."""
        return dataclasses.replace(self, presigner=presigner)

    def through(self, proxy: str) -> "Fetcher":
        """Return this fetcher behind *proxy*."""
        return dataclasses.replace(self, proxy=proxy)

    def outside(self) -> "Fetcher":
        """Return this fetcher with no scope of its own."""
        return dataclasses.replace(self, is_inside=False)

    def hooked(self) -> AbstractContextManager[object]:
        """Place what it needs in the process: a hook, or nothing."""
        return contextlib.nullcontext() if self.is_explicit else intercept(self.client.name)

    def scope(self) -> AbstractContextManager[object]:
        """Return what an application's request is served in: a hook needs a scope, an adapter none."""
        is_needed = self.is_inside and not self.is_explicit
        return self.presigner.scope() if is_needed else contextlib.nullcontext()

    def open(self) -> AbstractAsyncContextManager[Any]:
        """Give a client of the library's own whose fetches get signed."""
        return self.client.open(self.presigner if self.is_explicit else None, self.proxy)

    async def opened(self, body: Callable[["Send"], Coroutine[Any, Any, Any]]) -> Any:
        """Return what ``await body(send)`` returns, where *send* fetches with one client."""
        async with self.open() as client:

            async def send(url: str, **options: Any) -> Answer:
                return await self.client.send(client, Asked(url, **options))

            return await body(send)

    def run(self, body: Callable[["Send"], Coroutine[Any, Any, Any]]) -> Any:
        """Return what `opened` comes to, in one scope."""
        with self.scope():
            return self.client.run(self.opened(body))

    def fetch_all(self, urls: Sequence[str], **options: Any) -> list[Answer]:
        """Return the answers to *urls*, fetched one after another by one client in one scope."""

        async def in_a_row(send: Send) -> list[Answer]:
            return [await send(url, **options) for url in urls]

        found: list[Answer] = self.run(in_a_row)
        return found

    def fetch(self, url: str, **options: Any) -> Answer:
        """Return the answer to one fetch."""
        return self.fetch_all([url], **options)[0]

    def fetch_at_once(self, urls: Sequence[str]) -> list[Answer]:
        """Return the answers to *urls*, fetched by one client in one scope, in a task or a thread each."""

        async def at_once(send: Send) -> list[Answer]:
            if self.client.is_async:
                return await asyncio.gather(*(send(url) for url in urls))
            with ThreadPoolExecutor(len(urls)) as pool:
                found = [
                    pool.submit(contextvars.copy_context().run, self.client.run, send(url)) for url in urls
                ]
                return [one.result() for one in found]

        found: list[Answer] = self.run(at_once)
        return found


Send = Callable[..., Coroutine[Any, Any, Answer]]


def fetchers(*, hooks_only: bool = False) -> list[Any]:
    """Return the parameters of a fixture that makes a `Fetcher`."""
    return [
        pytest.param((client, is_explicit), id=f"{client}-{'adapter' if is_explicit else 'hook'}")
        for client in CLIENTS
        for is_explicit in (False, True)
        if not is_explicit or (client.has_adapter and not hooks_only)
    ]


def limit_of(test: str, fetcher: str) -> Limit | None:
    """Return why *fetcher*, of `fetchers`, cannot keep what *test* states."""
    return next((one for one in LIMITS if test in one.tests and fetcher.startswith(one.fetchers)), None)


class Front(Door):
    """A real S3 server behind a socket that writes down what was on the wire, and redirects like a `Door`."""

    def __init__(self, server: SeaweedFS) -> None:
        super().__init__()
        self._server = urlsplit(server.endpoint_url)
        self.session = boto3.Session(server.access_key, server.secret_key, region_name=server.region)
        self._s3 = server.client()
        for bucket in ("front", "secrets"):
            self._s3.create_bucket(Bucket=bucket)
            self._s3.put_object(Bucket=bucket, Key="cat.jpg", Body=b"a cat")

    @property
    def cat(self) -> str:
        """The unsigned URL of an object that is there."""
        return f"{self.base}/front/cat.jpg"

    def origin(self, name: str = "media", **options: Any) -> Origin:
        """Return an origin here, with keys that may do everything."""
        given = {"bucket": "front", "endpoint_url": self.base, "session": self.session}
        return Origin(name, **{**given, **options})

    def presigner(self, **options: Any) -> Presigner:
        """Return a presigner with one origin here; *options* are the origin's."""
        return Presigner(self.origin(**options))

    def forget(self) -> None:
        """Begin anew, for the next test."""
        self.arrived.clear()
        self.moved.clear()

    def answer(self, request: S3Request) -> S3Response:
        self.arrived.append(request)
        if request.path in self.moved:
            headers = (("Location", self.moved[request.path]), ("Content-Length", "0"))
            return S3Response(307, headers)
        return self._passed_on(request)

    def _passed_on(self, request: S3Request) -> S3Response:
        """Ask the real server, byte for byte: over a bare socket, since tools wrap everything else."""
        target = f"{request.path}?{request.query}" if request.query else request.path
        kept = [(name, value) for name, value in request.headers if name not in ("connection", "expect")]
        lines = [
            f"{request.method} {target} HTTP/1.1",
            *(f"{n}: {v}" for n, v in kept),
            "connection: close",
            "",
            "",
        ]
        with socket.create_connection((self._server.hostname, self._server.port or 80)) as connection:
            connection.sendall("\r\n".join(lines).encode("latin-1") + request.body)
            with http.client.HTTPResponse(connection, method=request.method) as response:
                response.begin()
                body = response.read()
                found = [(n, v) for n, v in response.getheaders() if n not in _OF_ONE_HOP]
                if request.method != "HEAD":
                    found = [(n, v) for n, v in found if n != "Content-Length"]
                    found.append(("Content-Length", str(len(body))))
                return S3Response(response.status, tuple(found), body)


_OF_ONE_HOP = ("Connection", "Transfer-Encoding", "Date", "Server")


@contextlib.contextmanager
def tunnel(door: Door, tls: ssl.SSLContext) -> Iterator[tuple[str, list[bytes]]]:
    """Give the URL of a proxy that takes one CONNECT, and what it was asked; *door* is at the other end."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_tunnel_once, args=(listener, tls, door, asked))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        thread.join()


def _tunnel_once(listener: socket.socket, tls: ssl.SSLContext, door: Door, asked: list[bytes]) -> None:
    """Be a proxy for one CONNECT, and behind it the server: pass one request on to *door*."""
    client, _ = listener.accept()
    with client:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        asked.append(head.split(b"\r\n")[0])
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with tls.wrap_socket(client, server_side=True) as plain:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += plain.recv(1024)
            parts = urlsplit(door.base)
            with socket.create_connection((str(parts.hostname), parts.port or 0)) as server:
                line, _, rest = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", request).partition(b"\r\n")
                server.sendall(line + b"\r\nConnection: close\r\n" + rest)
                with server.makefile("rb") as answer, plain.makefile("wb") as out:
                    shutil.copyfileobj(answer, out)


@contextlib.contextmanager
def tunnels(door: Door, tls: ssl.SSLContext) -> Iterator[tuple[str, list[str]]]:
    """Give the URL of a proxy, and the hosts it was asked for: *door* is at each of them, behind TLS."""
    asked: list[str] = []
    where = urlsplit(door.base)

    class Tunnel(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += self.request.recv(1)
            asked.append(head.split()[1].decode().removesuffix(":443"))
            self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with (
                contextlib.suppress(OSError),
                tls.wrap_socket(self.request, server_side=True) as plain,
                socket.create_connection((str(where.hostname), where.port or 0)) as server,
            ):
                back = threading.Thread(target=pump, args=(server, plain), daemon=True)
                back.start()
                pump(plain, server)
                back.join()

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as proxy:
        proxy.daemon_threads = True
        thread = threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}", asked
        finally:
            proxy.shutdown()
            thread.join()


@contextlib.contextmanager
def as_found(client: Client) -> Iterator[dict[tuple[Any, str], Any]]:
    """Give what stands at the seams, and put it back at the end, so that one failure is not many."""
    before = {(owner, name): vars(owner)[name] for owner, name in client.seams()}
    try:
        yield before
    finally:
        for (owner, name), value in before.items():
            setattr(owner, name, value)


def changed(before: dict[tuple[Any, str], Any]) -> list[str]:
    """Return the names of what is not the object it was."""
    return [f"{o.__name__}.{name}" for (o, name), value in before.items() if vars(o)[name] is not value]
