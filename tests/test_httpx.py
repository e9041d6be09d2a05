"""
What holds for httpx and httpx2, sync and async, with hooks and with a transport.

What concerns transports, which no other client has: run in ways of `ways`, against the strict oracle behind a
real socket. What every client must keep is in ``test_contract.py``, and what concerns only the hooks in
``test_httpx_hooks.py``.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from ways import (
    SIGNATURE,
    Copying,
    Door,
    Passing,
    Way,
    paired_ways,
    prepared,
    presigner_for,
    signed,
)
from ways import transport_of as transport

from presign_middleware.clients.httpx import PresignTransport


@pytest.fixture(params=paired_ways())
def way(request: pytest.FixtureRequest, door: Door) -> Iterator[Way]:
    with prepared(request.param, door) as way:
        yield way


# --- C1: which fetches are signed ---------------------------------------------------------------------------


def test_a_streamed_response_arrives(way: Way, door: Door) -> None:
    """C1: ``client.stream`` is caught like any other call."""

    async def read_soon(client: Any) -> bytes:
        async with client.stream("GET", door.cat) as response:
            return b"".join([chunk async for chunk in response.aiter_bytes()])

    def read(client: Any) -> bytes:
        with client.stream("GET", door.cat) as response:
            return b"".join(response.iter_bytes())

    assert way.run(read_soon if way.is_async else read) == b"a cat"


def test_a_client_with_a_base_url_is_caught(way: Way, door: Door) -> None:
    """C1: what counts is the URL that is sent, however the client put it together."""
    response = way.run(lambda client: client.get("cat.jpg"), base_url=f"{door.base}/media")
    assert response.content == b"a cat"


def test_a_transport_around_the_sender_is_no_obstacle(way: Way, door: Door) -> None:
    """C1: transports that wrap transports pass the request on, and the innermost signs it."""
    outer = transport(way.library, Passing, transport(way.library, Copying, way.sender()))
    assert way.fetch(door.cat, transport=outer).content == b"a cat"
    assert way.presigner.stats()["caught"] == 1


def test_a_transport_of_ones_own_is_caught(way: Way, door: Door) -> None:
    """C1: a transport that the library does not know sends the signed URL."""
    library = way.library
    urls: list[str] = []

    def answer(request: Any) -> Any:
        urls.append(str(request.url))
        return library.Response(200, content=b"doubled")

    response = way.fetch(door.cat, transport=way.sender(library.MockTransport(answer)))
    assert response.content == b"doubled"
    assert [SIGNATURE in url for url in urls] == [True]
    assert door.cat == str(response.url)


def test_a_presign_transport_brings_a_sender_along(way: Way, door: Door) -> None:
    """C1: without one it sends with the transport of the library whose client it serves, and closes it."""
    response = way.fetch(door.cat, transport=PresignTransport(way.presigner))
    assert (response.status_code, response.content) == (200, b"a cat")


# --- C1: redirects ------------------------------------------------------------------------------------------


def test_a_transport_that_copies_requests_opens_no_way_in(way: Way, door: Door) -> None:
    """C1: the first hop is remembered, even if a transport makes a request of its own in between."""
    door.moved["/attacker"] = "/media/cat.jpg"
    outer = way.sender(transport(way.library, Copying, way.plain()))
    assert way.fetch(f"{door.base}/attacker", transport=outer).status_code == 403
    assert signed(door) == [False, False]


def send(way: Way, request: Any) -> int:
    """Return the status of the answer to *request*, an object that may be sent more than once."""
    status: int = way.run(lambda client: client.send(request)).status_code
    return status


def test_a_request_sent_again_by_another_presigner_is_signed(way: Way, door: Door) -> None:
    """O5: a request object that one presigner signed is no redirect when another meets it."""
    request = way.library.Request("GET", door.cat)
    other = way.using(presigner_for(door, name="other"))
    assert [send(one, request) for one in (way, other, way)] == [200, 200, 200]
    assert other.presigner.stats()["passed_redirect"] == 0


def test_a_request_first_sent_where_nothing_covered_it_is_signed(way: Way, door: Door) -> None:
    """O5: a request object that went out unsigned is signed where a presigner covers it later."""
    request = way.library.Request("GET", door.cat)
    elsewhere = way.using(presigner_for(door, prefix="private/"))
    assert [send(one, request) for one in (elsewhere, way)] == [403, 200]
    assert signed(door) == [False, True]


def test_an_auth_flow_that_asks_elsewhere_first_is_signed(way: Way, door: Door) -> None:
    """O5: the token that an ``Auth`` fetches on the way is no first hop of the request it is for."""
    library, token = way.library, f"{door.base}/token"

    class Asking(library.Auth):  # type: ignore[misc, name-defined]  # the library comes with the way
        def auth_flow(self, request: Any) -> Iterator[Any]:
            yield library.Request("POST", token)
            yield request

    assert way.fetch(door.cat, auth=Asking()).content == b"a cat"
    assert signed(door) == [False, True]


# --- C2: nobody but the socket sees the signature -----------------------------------------------------------


def test_the_request_after_a_redirect_is_unsigned(way: Way, door: Door) -> None:
    """C2: who follows redirects by hand gets an unsigned ``next_request``, signed when it is sent."""
    door.moved["/media/old.jpg"] = "/media/cat.jpg"

    async def follow_soon(client: Any) -> tuple[str, int]:
        request = (await client.get(f"{door.base}/media/old.jpg")).next_request
        return str(request.url), (await client.send(request)).status_code

    def follow(client: Any) -> tuple[str, int]:
        request = client.get(f"{door.base}/media/old.jpg").next_request
        return str(request.url), client.send(request).status_code

    assert (door.cat, 200) == way.run(follow_soon if way.is_async else follow)


def test_outer_transports_and_event_hooks_see_unsigned_urls(way: Way, door: Door) -> None:
    """C2: instrumentation around the sender sees what the application asked for."""
    outer = transport(way.library, Passing, way.sender())
    shown: list[str] = []

    def note(message: Any) -> None:
        shown.append(str(message.url))

    async def note_soon(message: Any) -> None:
        note(message)

    hooks = [note_soon if way.is_async else note]
    way.run(lambda c: c.get(door.cat), outer, event_hooks={"request": hooks, "response": hooks})
    assert [door.cat] == outer.seen
    assert [door.cat, door.cat] == shown
    assert signed(door) == [True]


# --- S6, S10: what is signed, and for where -----------------------------------------------------------------


def test_a_virtual_host_stays_one(way: Way, door: Door) -> None:
    """S10: path style and virtual host of one endpoint are signed as they were asked for."""
    # The door is their proxy here, since such names need not resolve.
    named = way.using(presigner_for(door, endpoint_url="http://s3.localhost:9000"))
    for url in ("http://media.s3.localhost:9000/cat.jpg", "http://s3.localhost:9000/media/cat.jpg"):
        proxied = named.sender(named.plain(proxy=door.base))
        assert named.fetch(url, transport=proxied).content == b"a cat"
    assert [request.host for request in door.arrived] == ["media.s3.localhost:9000", "s3.localhost:9000"]
