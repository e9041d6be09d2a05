"""
Django: one line in wsgi.py and one in asgi.py, on a real S3 server, and when renewal follows.

Every view here fetches a private object with a bare client: the middleware is what makes that 200.
Django can be set up once a process, so the settings are those of the example, and the views find
what belongs to one test in `shop`.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final

import boto3
import httpx
import pytest
from asgiref.sync import sync_to_async
from django.core.asgi import get_asgi_application
from django.core.signals import request_finished
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import Client, override_settings
from django.urls import path
from faults import eventually
from stacks import GOOD, REFUSED, Pets, fetch, fetch_sync

from presign_middleware import Origin, Policy, Presigner, asgi, intercept, wsgi
from presign_middleware.scope import Scope, current
from presign_middleware.testing import Clock

DEADLINE: Final = 10.0  # seconds after which a test that has gone wrong stops waiting
HALF: Final = 1650  # seconds after which what was FRESH is AGEING
A: Final = "s3://media/a"
PLACE: Final = Origin(  # one for all, since a session reads boto3's model of S3
    "media", bucket="media", region="eu-west-1", session=boto3.Session("AKIADJANGO", "secret")
)

pytestmark = pytest.mark.usefixtures("own_hooks")


@pytest.fixture(scope="module", autouse=True)
def own_urls(django_project: None) -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"]):
        yield


#: What the views have to do with, from test to test.
shop = SimpleNamespace(cat="", note=lambda: None)

View = Callable[[HttpRequest], Any]


class Remote(io.RawIOBase):
    """A file that fetches what it holds when it is read."""

    _is_read = False

    def read(self, size: int = -1) -> bytes:
        if self._is_read:
            return b""
        self._is_read = True
        shop.note()
        return fetch_sync(shop.cat).encode()

    def readable(self) -> bool:
        return True


def sync(request: HttpRequest) -> HttpResponse:
    shop.note()
    return HttpResponse(fetch_sync(shop.cat))


async def coroutine(request: HttpRequest) -> HttpResponse:
    shop.note()
    return HttpResponse(await fetch(shop.cat))


async def sync_in_async(request: HttpRequest) -> HttpResponse:
    def fetched() -> str:
        shop.note()
        return fetch_sync(shop.cat)

    first, second = await asyncio.gather(
        sync_to_async(fetched)(), sync_to_async(fetched, thread_sensitive=False)()
    )
    assert first == second
    return HttpResponse(first)


def streamed(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        shop.note()
        yield fetch_sync(shop.cat)
        shop.note()

    return StreamingHttpResponse(parts())


async def streamed_async(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        shop.note()
        yield await fetch(shop.cat)
        shop.note()

    return StreamingHttpResponse(parts())


def file(request: HttpRequest) -> FileResponse:
    return FileResponse(Remote())


def failing(request: HttpRequest) -> HttpResponse:
    shop.note()
    raise ZeroDivisionError


def handler500(request: HttpRequest) -> HttpResponse:
    return HttpResponse(fetch_sync(shop.cat), status=500)


VIEWS: Final[list[View]] = [sync, coroutine, sync_in_async, streamed, streamed_async, file, failing]
PATHS: Final = [view.__name__ for view in VIEWS]

urlpatterns = [path(view.__name__, view) for view in VIEWS]


def call_wsgi(presigner: Presigner, view: str) -> str:
    """Return the body that wsgi.py gives to its server."""
    application = wsgi.PresignMiddleware(get_wsgi_application(), presigner=presigner)
    with httpx.Client(transport=httpx.WSGITransport(application), base_url="http://shop") as client:
        return client.get(f"/{view}").text


def call_asgi(presigner: Presigner, view: str) -> str:
    """Return the body that asgi.py gives to its server, and wait for what follows."""
    application = asgi.PresignMiddleware(get_asgi_application(), presigner=presigner)

    async def asked() -> str:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            response = await asyncio.create_task(client.get(f"/{view}"))
        await presigner.renewals.drain(DEADLINE)
        return response.text

    return asyncio.run(asked())


Call = Callable[[Presigner, str], str]

CALLS: Final = [call_wsgi, call_asgi]


# --- D1, D3: one scope reaches all of a request -------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")
@pytest.mark.parametrize("view", PATHS)
def test_a_fetch_arrives(pets: Pets, call: Call, view: str) -> None:
    """D1, D3: from sync and async views, `sync_to_async`, streams, files and the answer to an error."""
    shop.cat = pets.cat
    presigner = pets.presigner()
    assert call(presigner, view) == GOOD
    assert presigner.stats()["signed"] == 1


def test_fetches_without_the_middleware_are_refused(pets: Pets) -> None:
    """D3: the bucket is private, so the other tests can fail."""
    shop.cat = pets.cat
    with httpx.Client(
        transport=httpx.WSGITransport(get_wsgi_application()), base_url="http://shop"
    ) as client:
        assert client.get("/sync").text == REFUSED


# --- R1: renewal after the response -------------------------------------------------------------------------


@pytest.fixture
def ageing(s3_clock: Clock) -> Presigner:
    """Give a presigner whose URL of `A` is AGEING."""
    presigner = Presigner(PLACE, policy=Policy(ageing=HALF), clock=s3_clock)
    presigner.url(A)
    s3_clock.advance(HALF)
    return presigner


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")
@pytest.mark.parametrize("view", PATHS)
def test_a_renewal_follows_the_response(
    pets: Pets, ageing: Presigner, call: Call, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R1, R2: and every part of a stream or a file, and `request_finished`; D3: in one scope."""
    renewed, scopes = list[int](), set[Scope | None]()

    def note(**kwargs: Any) -> None:
        ageing.url(A)
        renewed.append(ageing.stats()["refreshed"])
        scopes.add(current())

    shop.cat = pets.cat
    monkeypatch.setattr(shop, "note", note)
    request_finished.connect(note)
    try:
        call(ageing, view)
    finally:
        request_finished.disconnect(note)
    eventually(lambda: ageing.stats()["refreshed"] == 1)
    assert len(renewed) >= 2
    assert set(renewed) == {0}
    (scope,) = scopes
    assert scope is not None
    assert scope.ended


# --- Django's test client -----------------------------------------------------------------------------------


def test_the_test_client_needs_a_scope_of_the_tests_own(pets: Pets) -> None:
    """D3: it calls the handler and neither wsgi.py nor asgi.py, so without one nothing is signed."""
    shop.cat = pets.cat
    assert Client().get("/sync").content == REFUSED.encode()
    with intercept(), pets.presigner().scope():
        assert Client().get("/sync").content == GOOD.encode()
        assert b"".join(Client().get("/streamed")) == GOOD.encode()
