"""
The ways in which a fetch through httpx gets signed, for tests that must hold in each of them.

A `Way` is a library, sync or async, and either hooks inside a scope or a `PresignTransport`.
A `Door` is the strict oracle; it also tells what was on the wire, and can redirect.
"""

import asyncio
import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Final

import boto3
import httpx
import httpx2
import pytest

from presign_middleware import Origin, Presigner, intercept
from presign_middleware.clients.httpx import PresignTransport
from presign_middleware.testing import Oracle, S3Request, S3Response

LIBRARIES: Final = (httpx, httpx2)
ACCESS_KEY, SECRET_KEY = "AKIAPRESIGNWAYS00000", "a-secret-of-the-door"

#: Never found in anything that the application or its logs see.
SIGNATURE = "X-Amz-"

#: What no log and no exception may hold.
SIGNED: Final = re.compile(r"X-Amz-(?:Signature=[0-9a-f]{64}|Credential=)")

_session: Final = boto3.Session(
    aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY, region_name="eu-west-1"
)


class Door(Oracle):
    """A strict S3 with the bucket ``media``, which redirects whoever asks for one of the paths in `moved`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.base = ""  #: where it is served, without a slash at the end
        self.arrived: list[S3Request] = []
        self.moved: dict[str, str] = {}  #: path to Location
        self.add_key(ACCESS_KEY, SECRET_KEY)
        self.create_bucket("media", region="eu-west-1")
        self.put("media", "cat.jpg", b"a cat")

    @property
    def cat(self) -> str:
        """The unsigned URL of an object that is there."""
        return f"{self.base}/media/cat.jpg"

    def answer(self, request: S3Request) -> S3Response:
        self.arrived.append(request)
        if request.path in self.moved:
            headers = (("Location", self.moved[request.path]), ("Content-Length", "0"))
            return S3Response(307, headers)
        return super().answer(request)


@contextlib.contextmanager
def opened(door: Door) -> Iterator[Door]:
    """Serve *door* on a real socket."""
    with door.serve() as door.base:
        yield door


def origin(door: Door, name: str = "media", **options: Any) -> Origin:
    """Return an origin at *door*, with the keys that it knows."""
    given = {"bucket": "media", "region": "eu-west-1", "endpoint_url": door.base, "session": _session}
    return Origin(name, **{**given, **options})


def presigner_for(door: Door, **options: Any) -> Presigner:
    """Return a presigner with one origin, on *door*'s clock; *options* are the origin's."""
    return Presigner(origin(door, **options), clock=door.clock)  # type: ignore[arg-type]  # a door's clock is a whole one


@dataclasses.dataclass(frozen=True)
class Way:
    """One way in which fetches get signed. Each `fetch` and `run` is one request of an application."""

    library: ModuleType
    is_async: bool
    is_explicit: bool  #: a PresignTransport; else hooks, inside a scope
    presigner: Presigner

    def using(self, presigner: Presigner) -> "Way":
        """Return this way with another presigner."""
        return dataclasses.replace(self, presigner=presigner)

    def sender(self, inner: Any = None) -> Any:
        """Return the transport of a client; *inner* is the one that sends, None: the library's own."""
        inner = inner or self.plain()
        return PresignTransport(self.presigner, inner) if self.is_explicit else inner

    def plain(self, **settings: Any) -> Any:
        """Return the library's own transport."""
        # verify=False saves reading the certificate authorities for each test, 50 ms.
        kind = self.library.AsyncHTTPTransport if self.is_async else self.library.HTTPTransport
        return kind(verify=False, **settings)

    def client(self, transport: Any = None, **settings: Any) -> Any:
        """Return a client whose fetches get signed."""
        kind = self.library.AsyncClient if self.is_async else self.library.Client
        return kind(transport=transport or self.sender(), **settings)

    def scope(self) -> AbstractContextManager[object]:
        """Return what an application's request is served in: a hook needs a scope, a transport none."""
        return contextlib.nullcontext() if self.is_explicit else self.presigner.scope()

    def run(self, body: Callable[[Any], Any], transport: Any = None, **settings: Any) -> Any:
        """
        Return what ``body(client)`` returns, awaited if the client is async.

        Where *body* calls the client once, one body does for both colours.
        """

        async def awaited() -> Any:
            async with self.client(transport, **settings) as client:
                return await body(client)

        with self.scope():
            if self.is_async:
                return asyncio.run(awaited())
            with self.client(transport, **settings) as client:
                return body(client)

    def fetch_all(
        self, urls: Sequence[str], *, method: str = "GET", transport: Any = None, **options: Any
    ) -> list[Any]:
        """Return the responses to *urls*, fetched one after another by one client in one scope."""

        async def awaited(client: Any) -> list[Any]:
            return [await client.request(method, url, **options) for url in urls]

        def called(client: Any) -> list[Any]:
            return [client.request(method, url, **options) for url in urls]

        body: Callable[[Any], Any] = awaited if self.is_async else called
        found: list[Any] = self.run(body, transport, follow_redirects=True)
        return found

    def fetch(self, url: str, **options: Any) -> Any:
        """Return the response to one request; redirects are followed."""
        return self.fetch_all([url], **options)[0]


def every_way() -> Iterator[Any]:
    """Yield the parameters of a fixture that makes a `Way`."""
    for library in LIBRARIES:
        for is_async in (False, True):
            for is_explicit in (False, True):
                colour, means = "async" if is_async else "sync", "transport" if is_explicit else "hook"
                yield pytest.param(
                    (library, is_async, is_explicit), id=f"{library.__name__}-{colour}-{means}"
                )


def paired_ways() -> Iterator[Any]:
    """Yield every second way, so that each two of library, colour and means still meet."""
    for way in every_way():
        (library, is_async, is_explicit), *_ = way.values
        if (library is httpx2) == (is_async != is_explicit):
            yield way


@contextlib.contextmanager
def prepared(parameters: tuple[ModuleType, bool, bool], door: Door) -> Iterator[Way]:
    """Give the way of these *parameters*, of `every_way`, with a presigner for *door*."""
    way = Way(*parameters, presigner_for(door))
    with contextlib.nullcontext() if way.is_explicit else intercept(way.library.__name__):
        yield way


def signed(door: Door) -> list[bool]:
    """Return of each request that arrived whether it was signed."""
    return [SIGNATURE in request.query for request in door.arrived]


class Passing:
    """A transport around a transport, which keeps the URL of every request it sees."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.seen: list[str] = []

    def handle_request(self, request: Any) -> Any:
        self.seen.append(str(request.url))
        return self.inner.handle_request(self.passed_on(request))

    async def handle_async_request(self, request: Any) -> Any:
        self.seen.append(str(request.url))
        return await self.inner.handle_async_request(self.passed_on(request))

    def passed_on(self, request: Any) -> Any:
        """Return what the inner transport is to send."""
        return request

    def close(self) -> None:
        self.inner.close()

    async def aclose(self) -> None:
        await self.inner.aclose()


class Copying(Passing):
    """A transport that sends a new request in the place of the one it was given, as retrying ones do."""

    def passed_on(self, request: Any) -> Any:
        return type(request)(
            request.method,
            request.url,
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions,
        )


def transport_of(library: ModuleType, kind: type, *arguments: Any) -> Any:
    """Return a *kind*, as a class that *library* knows for a transport."""
    bases = (kind, library.BaseTransport, library.AsyncBaseTransport)
    return type(kind.__name__, bases, {})(*arguments)
