"""
What holds for the hooks alone: which clients they reach, where they are active, and that they can be undone.

Each test begins with nothing hooked.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from unittest import mock

import pytest
from clients import Httpx, as_found, changed
from ways import (
    LIBRARIES,
    SIGNATURE,
    Copying,
    Door,
    Passing,
    Way,
    presigner_for,
    signed,
    transport_of,
)

from presign_middleware import Presigner, intercept
from presign_middleware.clients.httpx import PresignTransport


@pytest.fixture
def presigner(door: Door) -> Presigner:
    return presigner_for(door)


@pytest.fixture(params=LIBRARIES, ids=[library.__name__ for library in LIBRARIES])
def library(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    with as_found(Httpx(request.param)) as before:
        # What the file name says cannot be copied from one function to another.
        left = [f for f in before.values() if "presign_middleware" in Path(f.__code__.co_filename).parts]
        assert not left, "a test left its hooks"
        yield request.param


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def way(request: pytest.FixtureRequest, library: ModuleType, presigner: Presigner) -> Way:
    return Way(library, request.param, is_explicit=False, presigner=presigner)


# --- C1: which clients are reached --------------------------------------------------------------------------


def test_module_functions_are_caught(library: ModuleType, presigner: Presigner, door: Door) -> None:
    """C1: ``httpx.get`` and its like make a client of their own, which is hooked as well."""
    with intercept(library.__name__), presigner.scope():
        assert library.get(door.cat, verify=False).content == b"a cat"
        with library.stream("GET", door.cat, verify=False) as response:
            assert response.read() == b"a cat"


def finished(way: Way, client: Any, url: str) -> Any:
    """Return the response to *url* from a *client* that was made elsewhere, and close it."""

    async def awaited() -> Any:
        async with client:
            return await client.get(url)

    if way.is_async:
        return asyncio.run(awaited())
    with client:
        return client.get(url)


def test_a_subclass_of_a_client_is_caught(way: Way, door: Door) -> None:
    """C1: a client class of the application's own is one of the library's."""

    class Sending:
        sent = 0

        def send(self, *args: Any, **kwargs: Any) -> Any:
            self.sent += 1
            return super().send(*args, **kwargs)  # type: ignore[misc]  # its base comes with the library

    kind = way.library.AsyncClient if way.is_async else way.library.Client
    client = type("Mine", (Sending, kind), {})(transport=way.plain())
    with intercept(way.library.__name__), way.scope():
        assert finished(way, client, door.cat).content == b"a cat"
    assert client.sent == 1


def test_a_mounted_transport_is_caught(way: Way, door: Door) -> None:
    """C1: what counts is the transport that the client chose for the URL."""
    with intercept(way.library.__name__):
        response = way.run(lambda c: c.get(door.cat), mounts={"http://127.0.0.1": way.plain()})
    assert response.content == b"a cat"
    assert way.presigner.stats()["caught"] == 1


def test_an_application_called_in_process_is_caught(way: Way, door: Door) -> None:
    """C1: ASGITransport and WSGITransport are transports like any other."""
    library = way.library
    inner = library.ASGITransport(door.asgi) if way.is_async else library.WSGITransport(door.wsgi)
    with intercept(library.__name__):
        assert way.fetch(door.cat, transport=inner).content == b"a cat"
    assert signed(door) == [True]


def test_a_subclass_of_a_transport_signs_once(way: Way, door: Door) -> None:
    """C1: a transport that calls ``super()`` is caught there, and sees the unsigned URL itself."""
    kind = way.library.AsyncHTTPTransport if way.is_async else way.library.HTTPTransport
    seen: list[str] = []

    class Noting:
        def handle_request(self, request: Any) -> Any:
            seen.append(str(request.url))
            return super().handle_request(request)  # type: ignore[misc]  # its base comes with the library

        async def handle_async_request(self, request: Any) -> Any:
            seen.append(str(request.url))
            return await super().handle_async_request(request)  # type: ignore[misc]  # as above

    with intercept(way.library.__name__):
        mine = type("Mine", (Noting, kind), {})(verify=False)
        assert way.fetch(door.cat, transport=mine).content == b"a cat"
    assert ([door.cat], 1) == (seen, way.presigner.stats()["caught"])


class Several(Passing):
    """A transport that has several to choose from, in a list."""

    def __init__(self, *inner: Any) -> None:
        super().__init__(inner[0])
        self.inner = None
        self.several = list(inner)

    def handle_request(self, request: Any) -> Any:
        self.seen.append(str(request.url))
        return self.several[-1].handle_request(request)

    async def handle_async_request(self, request: Any) -> Any:
        self.seen.append(str(request.url))
        return await self.several[-1].handle_async_request(request)

    def close(self) -> None:
        for inner in self.several:
            inner.close()

    async def aclose(self) -> None:
        for inner in self.several:
            await inner.aclose()


def test_an_outer_transport_sees_unsigned_urls_however_it_holds_the_inner(way: Way, door: Door) -> None:
    """C2: a transport that keeps its inner ones in a list is an outer one all the same."""
    outer = transport_of(way.library, Several, way.plain(), way.plain())
    with intercept(way.library.__name__):
        assert way.fetch(door.cat, transport=outer).content == b"a cat"
    assert [door.cat] == outer.seen


def test_a_presign_transport_under_a_hook_signs_once(way: Way, door: Door) -> None:
    """C1: a client that has a transport of ours is signed for by that, and by no hook a second time."""
    with intercept(way.library.__name__):
        outer = PresignTransport(way.presigner, transport_of(way.library, Copying, way.plain()))
        assert way.fetch(door.cat, transport=outer).content == b"a cat"
    assert way.presigner.stats()["caught"] == 1


class Counted(dict[int, int]):
    """A dict that counts how often someone goes through its values."""

    listings = 0

    def values(self) -> Any:
        self.listings += 1
        return super().values()


class Storing(Passing):
    """A transport that has a dict of *number* responses, say."""

    def __init__(self, inner: Any, number: int) -> None:
        super().__init__(inner)
        self.stored = Counted(zip(range(number), range(number), strict=True))


@pytest.mark.parametrize(("number", "listings"), [(10, 1), (100_000, 0)])
def test_a_transport_is_looked_through_once(way: Way, door: Door, number: int, listings: int) -> None:
    """C1: a hook looks for the innermost transport once, not at each request, and not among data."""
    outer = transport_of(way.library, Storing, way.plain(), number)
    with intercept(way.library.__name__):
        responses = way.fetch_all([door.cat] * 3, transport=outer)
    assert [response.content for response in responses] == [b"a cat"] * 3
    assert [door.cat] * 3 == outer.seen
    assert outer.stored.listings == listings


class Slotted:
    """A transport without a base class, which has neither attributes of its own nor weak references."""

    __slots__ = ()
    urls: Final[list[str]] = []

    def handle_request(self, request: Any) -> Any:
        self.urls.append(str(request.url))
        return type_of_response(request)(200)

    async def handle_async_request(self, request: Any) -> Any:
        return self.handle_request(request)

    def __enter__(self) -> None:
        self.urls.clear()

    def __exit__(self, *exc: object) -> None:
        pass

    async def __aenter__(self) -> None:
        self.urls.clear()

    async def __aexit__(self, *exc: object) -> None:
        pass


def type_of_response(request: Any) -> Any:
    return next(one for one in LIBRARIES if isinstance(request, one.Request)).Response


def test_a_transport_with_slots_is_caught(way: Way, door: Door) -> None:
    """C1: a transport that has no ``__dict__`` to look through sends the signed URL."""
    with intercept(way.library.__name__):
        assert way.fetch(door.cat, transport=Slotted()).status_code == 200
    assert [SIGNATURE in url for url in Slotted.urls] == [True]


def test_what_travels_with_a_request_shows_no_signature(way: Way, door: Door) -> None:
    """L1: tools write down what a request's extensions are, also of a URL that the application signed."""
    with intercept(way.library.__name__):
        request = way.fetch(way.presigner.url(door.cat)).request
    assert "presign.marks" in request.extensions
    assert SIGNATURE not in f"{request.extensions} {vars(request)}"


# --- C4: install and remove, alone and with others ----------------------------------------------------------


def test_what_is_removed_leaves_nothing(way: Way, door: Door) -> None:
    """C4: install, install, remove, remove leaves every attribute the object it was, `is`."""
    name = way.library.__name__
    with as_found(Httpx(way.library)) as before:
        first, second = intercept(name), intercept(name)
        mock = way.library.MockTransport(lambda request: way.library.Response(200))
        way.fetch(door.cat, transport=mock)
        second.remove()
        assert way.fetch(door.cat).content == b"a cat"
        assert "MockTransport.handle_request" in changed(before)
        first.remove()
        assert changed(before) == []


def transport_seam(way: Way) -> tuple[Any, str]:
    if way.is_async:
        return way.library.AsyncHTTPTransport, "handle_async_request"
    return way.library.HTTPTransport, "handle_request"


def patched(owner: Any, name: str, seen: list[str]) -> Callable[[], None]:
    real = vars(owner)[name]

    def patch(self: Any, request: Any, **kwargs: Any) -> Any:
        seen.append(str(request.url))
        return real(self, request, **kwargs)

    setattr(owner, name, patch)
    return lambda: setattr(owner, name, real)


def test_a_patch_made_before_ours_works_on(way: Way, door: Door) -> None:
    """C4: over a closure on the transport itself ours still signs, and leaves it in place."""
    seen: list[str] = []
    owner, name = transport_seam(way)
    undo = patched(owner, name, seen)
    theirs = vars(owner)[name]
    with intercept(way.library.__name__):
        assert way.fetch(door.cat).status_code == 200
    assert theirs is vars(owner)[name]
    assert way.fetch(door.cat).status_code == 403
    assert len(seen) == 2
    undo()


def test_a_transport_that_was_patched_for_a_while_is_signed_for_before_and_after(
    way: Way, door: Door
) -> None:
    """C4, O5: what a test double takes off again, with the hook in it, leaves another, and can be undone."""
    seen: list[str] = []

    def respond(request: Any) -> Any:
        seen.append(str(request.url))
        return way.library.Response(200)

    transport, name = way.library.MockTransport(respond), transport_seam(way)[1]
    with as_found(Httpx(way.library)) as before:
        with intercept(way.library.__name__):
            for _ in range(2):
                real = getattr(transport, name)
                with mock.patch.object(transport, name, lambda request, real=real: real(request)):
                    way.fetch(door.cat, transport=transport)
                way.fetch(door.cat, transport=transport)
        assert [SIGNATURE in url for url in seen] == [True] * 4
        assert changed(before) == []


# --- D7: outside any scope ----------------------------------------------------------------------------------

#: An application's own code, in a file of its own, so that each test has call sites that are new.
APPLICATION = """

def in_a_row(client, url):
    return [
        client.get(url),
        client.get(url),
        client.get(url)]

async def in_a_row_soon(client, url):
    return [
        await client.get(url),
        await client.get(url),
        await client.get(url)]

def in_a_loop(client, url):
    return [client.get(url) for _ in range(3)]

async def in_a_loop_soon(client, url):
    return [await client.get(url) for _ in range(3)]
"""


def application(way: Way, function: str, test: str) -> tuple[str, Callable[..., Any]]:
    """Return the name of a new file, and a function of `APPLICATION` in it."""
    file = f"{way.library.__name__}-{way.is_async}-{test}.py"
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(APPLICATION, file, "exec"), names)
    return file, names[f"{function}_soon" if way.is_async else function]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "presign_middleware.clients"]


def outside(way: Way, body: Callable[[Any], Any]) -> Any:
    """Run *body* with a client, outside of any scope."""
    client = way.client()

    async def awaited() -> Any:
        async with client:
            return await body(client)

    if way.is_async:
        return asyncio.run(awaited())
    with client:
        return body(client)


def test_outside_a_scope_nothing_is_signed_and_each_call_site_is_told(
    way: Way, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """D7: the log has the URL, the line of the caller's own code, and both cures."""
    file, in_a_row = application(way, "in_a_row", "sites")
    with intercept(way.library.__name__):
        outside(way, lambda client: in_a_row(client, f"{door.cat}?response-expires=never"))
    assert signed(door) == [False, False, False]
    first = 11 if way.is_async else 5
    assert [f"({file}:{first + line})" in text for line, text in enumerate(told(caplog))] == [True] * 3
    for text in told(caplog):
        assert door.cat in text
        assert "?" not in text
        assert "presigner.scope()" in text
        assert "intercept(presigner=presigner)" in text
    assert way.presigner.stats()["passed_outside_scope"] == 3


def test_an_uncovered_fetch_outside_a_scope_is_nobodys_business(
    way: Way, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """D7: only what a scope would have signed is logged and counted."""
    with intercept(way.library.__name__):
        outside(way, lambda client: client.get(f"{door.base}/other/cat.jpg"))
    assert told(caplog) == []
    assert way.presigner.stats()["passed_outside_scope"] == 0


def test_a_presigner_can_be_made_active_process_wide(way: Way, door: Door) -> None:
    """D7: intercept(..., presigner=p) signs outside of scopes and in plain threads, until it is removed."""
    fetches: list[int] = []

    def fetch() -> None:
        fetches.append(outside(way, lambda client: client.get(door.cat)).status_code)

    with intercept(way.library.__name__, presigner=way.presigner):
        fetch()
        thread = threading.Thread(target=fetch)
        thread.start()
        thread.join()
    fetch()
    assert fetches == [200, 200, 403]


def test_the_presigner_of_the_scope_comes_first(way: Way, door: Door) -> None:
    """D7: one that is active process-wide signs only where there is no scope."""
    wide = presigner_for(door)
    with intercept(way.library.__name__, presigner=wide):
        way.fetch(door.cat)
    assert (wide.stats()["caught"], way.presigner.stats()["caught"]) == (0, 1)


def test_a_redirect_between_process_wide_presigners_is_not_signed(way: Way, door: Door) -> None:
    """C1: an origin of another presigner is another origin, even if both are called "media"."""
    door.create_bucket("secrets", region="eu-west-1")
    door.put("secrets", "plan.pdf", b"a plan")
    door.moved["/media/cat.jpg"] = "/secrets/plan.pdf"
    private = presigner_for(door, bucket="secrets")
    name = way.library.__name__
    with intercept(name, presigner=way.presigner), intercept(name, presigner=private):
        response = outside(way, lambda client: client.get(door.cat, follow_redirects=True))
    assert response.status_code == 403
    assert signed(door) == [True, False]
    assert private.stats()["passed_redirect"] == 1


def test_nothing_is_logged_while_paused(way: Way, door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """O6, D7: who paused the hooks needs no cure."""
    with intercept(way.library.__name__), way.presigner.paused(), caplog.at_level(logging.DEBUG):
        outside(way, lambda client: client.get(door.cat))
    assert (told(caplog), signed(door)) == ([], [False])
    assert SIGNATURE not in caplog.text
