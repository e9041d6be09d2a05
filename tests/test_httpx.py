"""
What holds for httpx and httpx2, sync and async, with hooks and with a transport.

One suite, run in every way of `ways`, against the strict oracle behind a real socket.
What concerns only the hooks is in ``test_httpx_hooks.py``.
"""

import asyncio
import contextvars
import hashlib
import logging
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ways import (
    ACCESS_KEY,
    SIGNATURE,
    Copying,
    Door,
    Passing,
    Way,
    every_way,
    opened,
    origin,
    prepared,
    presigner_for,
    signed,
)
from ways import transport_of as transport

from presign_middleware import Presigner
from presign_middleware.clients.httpx import PresignTransport
from presign_middleware.testing import Clock


@pytest.fixture
def door(s3_clock: Clock) -> Iterator[Door]:
    with opened(Door(clock=s3_clock)) as door:
        yield door


@pytest.fixture
def live_door() -> Iterator[Door]:
    """Give a door on the real clock, for what boto3 signs: it knows no other."""
    with opened(Door()) as door:
        yield door


@pytest.fixture(params=every_way())
def way(request: pytest.FixtureRequest, door: Door) -> Iterator[Way]:
    with prepared(request.param, door) as way:
        yield way


# --- C1: which fetches are signed ---------------------------------------------------------------------------


def test_a_covered_fetch_arrives(way: Way, door: Door) -> None:
    """C1: a fetch of an unsigned URL of an origin is signed, and the strict S3 accepts it."""
    response = way.fetch(door.cat)
    assert (response.status_code, response.content) == (200, b"a cat")
    assert (way.presigner.stats()["signed"], way.presigner.stats()["caught"]) == (1, 1)


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


def test_a_redirect_within_an_origin_is_signed(way: Way, door: Door) -> None:
    """C1: a hop is signed when the first hop was covered by the same origin."""
    door.moved["/media/old.jpg"] = "/media/cat.jpg"
    response = way.fetch(f"{door.base}/media/old.jpg")
    assert response.content == b"a cat"
    assert signed(door) == [True, True]


def test_an_uncovered_request_cannot_redirect_into_an_origin(way: Way, door: Door) -> None:
    """C1: whoever is asked first cannot have this process sign for them; the hop is counted."""
    door.moved["/attacker"] = "/media/cat.jpg"
    assert way.fetch(f"{door.base}/attacker").status_code == 403
    assert signed(door) == [False, False]
    assert way.presigner.stats()["passed_redirect"] == 1


def test_a_transport_that_copies_requests_opens_no_way_in(way: Way, door: Door) -> None:
    """C1: the first hop is remembered, even if a transport makes a request of its own in between."""
    door.moved["/attacker"] = "/media/cat.jpg"
    outer = way.sender(transport(way.library, Copying, way.plain()))
    assert way.fetch(f"{door.base}/attacker", transport=outer).status_code == 403
    assert signed(door) == [False, False]


def test_a_redirect_from_one_origin_to_another_is_not_signed(way: Way, door: Door, s3_clock: Clock) -> None:
    """C1: the origin that covered the first hop signs its redirects, and no other does."""
    door.create_bucket("secrets", region="eu-west-1")
    door.put("secrets", "plan.pdf", b"a plan")
    both = Presigner(origin(door), origin(door, "secrets", bucket="secrets"), clock=s3_clock)
    door.moved["/media/cat.jpg"] = "/secrets/plan.pdf"
    assert way.using(both).fetch(door.cat).status_code == 403
    assert signed(door) == [True, False]
    assert both.stats()["passed_redirect"] == 1


def test_a_redirect_to_another_host_carries_no_signature(way: Way, door: Door, s3_clock: Clock) -> None:
    """C1: a cross-host hop has neither the signed query nor the first hop's Host."""
    with opened(Door(clock=s3_clock)) as other:
        door.moved["/media/cat.jpg"] = f"{other.base}/elsewhere"
        way.fetch(door.cat)
        assert [(r.path, r.query) for r in other.arrived] == [("/elsewhere", "")]
        assert other.base == f"http://{other.arrived[0].host}"


def test_a_redirect_to_a_url_signed_here_arrives(way: Way, door: Door) -> None:
    """C1, S5: an application's own redirect to ``presigner.url(...)`` works as in a browser."""
    door.moved["/photo"] = way.presigner.url(door.cat)
    assert way.fetch(f"{door.base}/photo").content == b"a cat"


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


def test_a_response_shows_the_unsigned_url(way: Way, door: Door) -> None:
    """C2: ``response.url`` and ``response.request.url`` are what the application asked for."""
    response = way.fetch(door.cat)
    assert (door.cat, door.cat) == (str(response.url), str(response.request.url))
    assert SIGNATURE not in repr(response.request.headers)


def test_the_history_shows_unsigned_urls(way: Way, door: Door) -> None:
    """C2: each response of ``history`` has the URL of its hop, without a signature."""
    door.moved["/media/old.jpg"] = "/media/cat.jpg"
    old = f"{door.base}/media/old.jpg"
    response = way.fetch(old)
    assert [(old, old)] == [(str(hop.url), str(hop.request.url)) for hop in response.history]
    assert door.cat == str(response.url)


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


def test_logs_show_unsigned_urls(way: Way, door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """C2, L1: httpx's INFO line has the unsigned URL, and no record at DEBUG has a signature."""
    door.moved["/media/old.jpg"] = "/media/cat.jpg"
    with caplog.at_level(logging.DEBUG):
        way.fetch(f"{door.base}/media/old.jpg")
    old, new = (r.getMessage() for r in caplog.records if r.name == way.library.__name__)
    assert f"{door.base}/media/old.jpg " in old
    assert f"{door.cat} " in new
    assert [text for text in map(everything, caplog.records) if SIGNATURE in text] == []


def everything(record: logging.LogRecord) -> str:
    """Return all that a handler could write of *record*."""
    return f"{record.getMessage()} {record.args!r} {vars(record)!r}"


def test_a_status_error_shows_the_unsigned_url(way: Way, door: Door) -> None:
    """C2: the text of ``raise_for_status()`` has the URL the application asked for."""
    missing = f"{door.base}/media/missing.jpg"
    with pytest.raises(way.library.HTTPStatusError) as caught:
        way.fetch(missing).raise_for_status()
    assert missing in str(caught.value)
    assert SIGNATURE not in str(caught.value)


def test_a_connection_error_shows_the_unsigned_url(way: Way, door: Door) -> None:
    """C2: an exception's text and its request have no signature, nor have its causes."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        away = way.using(presigner_for(door, endpoint_url=base))
        with pytest.raises(way.library.ConnectError) as caught:
            away.fetch(f"{base}/media/cat.jpg")
    assert f"{base}/media/cat.jpg" == str(caught.value.request.url)
    assert away.presigner.stats()["signed"] == 1
    error: BaseException | None = caught.value
    while error is not None:
        assert SIGNATURE not in f"{error!r}{error}"
        error = error.__cause__ or error.__context__


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


# --- C5: bodies ---------------------------------------------------------------------------------------------


class OneShot:
    """A body that can be read once, sync or async, and counts."""

    def __init__(self) -> None:
        self.readings = 0

    def chunks(self) -> Iterator[bytes]:
        self.readings += 1
        yield from (b"a new ", b"cat")

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks()

    async def __aiter__(self) -> Any:
        for chunk in self.chunks():
            yield chunk


class Async:
    """Only the async side of a body: httpx takes one that has both for a sync one."""

    def __init__(self, body: OneShot) -> None:
        self.body = body

    def __aiter__(self) -> Any:
        return self.body.__aiter__()


def put(way: Way, url: str, body: OneShot) -> Any:
    return way.fetch(
        url,
        method="PUT",
        content=Async(body) if way.is_async else iter_of(body),
        headers={"Content-Length": "9"},
    )


def iter_of(body: OneShot) -> Iterator[bytes]:
    return iter(body)


def test_a_streamed_upload_is_read_once(way: Way, door: Door) -> None:
    """C5: the signed copy of a PUT sends the caller's stream, which is read exactly once."""
    writer = way.using(presigner_for(door, methods=("GET", "PUT")))
    body = OneShot()
    assert put(writer, f"{door.base}/media/new.jpg", body).status_code == 200
    assert body.readings == 1
    assert [request.body for request in door.arrived] == [b"a new cat"]


def test_a_refused_upload_is_not_replayed(way: Way, door: Door) -> None:
    """C5: a one-shot body that S3 refused is not sent again."""
    writer = way.using(presigner_for(door, methods=("GET", "PUT")))
    door.remove_key(ACCESS_KEY)
    body = OneShot()
    assert put(writer, f"{door.base}/media/new.jpg", body).status_code == 403
    assert (body.readings, len(door.arrived)) == (1, 1)


def test_a_signed_url_with_an_endless_lifetime_passes(way: Way, door: Door) -> None:
    """S5: a covered URL that another signed passes untouched, and be its lifetime of 5,000 digits."""
    library = way.library
    url = f"{door.cat}?X-Amz-Expires={'9' * 5000}&X-Amz-Signature=a"
    urls: list[str] = []

    def answer(request: Any) -> Any:
        urls.append(str(request.url))
        return library.Response(200)

    assert way.fetch(url, transport=way.sender(library.MockTransport(answer))).status_code == 200
    assert [url] == urls
    assert way.presigner.stats()["signed"] == 0


def test_a_method_that_the_origin_does_not_sign_passes(way: Way, door: Door) -> None:
    """S3: only GET and HEAD are signed unless the origin says otherwise."""
    assert way.fetch(door.cat, method="DELETE").status_code == 403
    assert signed(door) == [False]


# --- S6, S10: what is signed, and for where -----------------------------------------------------------------


def test_range_and_conditions_share_the_cached_url(way: Way, door: Door) -> None:
    """S6: Range and If-None-Match are not signed: one signature, 206 and 304."""
    etag = f'"{hashlib.md5(b"a cat").hexdigest()}"'
    part, same, whole = (
        way.fetch(door.cat, headers=headers)
        for headers in ({"Range": "bytes=2-4"}, {"If-None-Match": etag}, {})
    )
    assert (part.status_code, part.content) == (206, b"cat")
    assert (same.status_code, whole.status_code) == (304, 200)
    assert way.presigner.stats()["signed"] == 1


def test_amz_headers_are_signed_for_their_request_alone(way: Way, live_door: Door) -> None:
    """S6: a header such as an SSE-C key is signed, each time anew, and never meets another request."""
    live = way.using(presigner_for(live_door))
    headers = {"x-amz-server-side-encryption-customer-algorithm": "AES256"}
    responses = [live.fetch(live_door.cat, headers=given) for given in (headers, headers, {}, {})]
    assert [response.status_code for response in responses] == [200, 200, 200, 200]
    names = "SignedHeaders=host%3Bx-amz-server-side-encryption-customer-algorithm&"
    assert [names in request.query for request in live_door.arrived] == [True, True, False, False]
    assert live.presigner.stats()["signed"] == 3


def test_tracing_headers_are_never_signed(way: Way, door: Door) -> None:
    """S6: traceparent, baggage and sentry-trace travel, and the signature does not depend on them."""
    tracing = {"traceparent": "00-aa-bb-01", "baggage": "k=v", "sentry-trace": "aa-bb-1"}
    assert way.fetch(door.cat, headers=tracing).status_code == 200
    (request,) = door.arrived
    assert "X-Amz-SignedHeaders=host&" in request.query
    assert tracing == {name: request.header(name) for name in tracing}


def test_a_request_goes_where_it_was_sent(way: Way, door: Door) -> None:
    """S10: a further base URL of the origin is signed for itself: its host, its path, its Host header."""
    base = door.base.replace("127.0.0.1", "localhost")
    alias = way.using(presigner_for(door, urls=[f"{base}/media/"]))
    for asked in (base, door.base):
        assert alias.fetch(f"{asked}/media/cat.jpg").content == b"a cat"
    assert [base, door.base] == [f"http://{request.host}" for request in door.arrived]


def test_a_virtual_host_stays_one(way: Way, door: Door) -> None:
    """S10: path style and virtual host of one endpoint are signed as they were asked for."""
    # The door is their proxy here, since such names need not resolve.
    named = way.using(presigner_for(door, endpoint_url="http://s3.localhost:9000"))
    for url in ("http://media.s3.localhost:9000/cat.jpg", "http://s3.localhost:9000/media/cat.jpg"):
        proxied = named.sender(named.plain(proxy=door.base))
        assert named.fetch(url, transport=proxied).content == b"a cat"
    assert [request.host for request in door.arrived] == ["media.s3.localhost:9000", "s3.localhost:9000"]


def test_an_s3_target_takes_the_origins_own_form(way: Way, door: Door) -> None:
    """S10: ``s3://bucket/key`` goes to the endpoint, with its Host, and shows as it was asked for."""
    response = way.fetch("s3://media/cat.jpg")
    assert (response.content, str(response.url)) == (b"a cat", "s3://media/cat.jpg")
    assert door.base == f"http://{door.arrived[0].host}"


def test_head_is_signed_as_head(way: Way, door: Door) -> None:
    """S3: GET and HEAD of one object are two signatures, and both are accepted."""
    assert way.fetch(door.cat, method="HEAD").headers["Content-Length"] == "5"
    assert way.fetch(door.cat).content == b"a cat"
    assert way.presigner.stats()["signed"] == 2


#: What an application writes in a path, and the key it means.
KEYS = {
    "plain.jpg": "plain.jpg",
    "a b.jpg": "a b.jpg",
    "a%20c.jpg": "a c.jpg",
    "a+b.jpg": "a+b.jpg",
    "ü/€😀.jpg": "ü/€😀.jpg",
    "%C3%A4.jpg": "ä.jpg",
    "100%25.jpg": "100%.jpg",
    "%252F.jpg": "%2F.jpg",
    "what%3F%23.jpg": "what?#.jpg",
    "~-_.!*'()": "~-_.!*'()",
    "@:$&,;=": "@:$&,;=",
    '"<>[]{}|^`': '"<>[]{}|^`',
    "a//b": "a//b",
    "/leading": "/leading",
    "trailing/": "trailing/",
    "...": "...",
}


def test_every_key_arrives_as_the_right_object(way: Way, door: Door) -> None:
    """S1, O3: through the client's own quoting, in a URL and in an ``s3://`` target."""
    for key in KEYS.values():
        door.put("media", key, key.encode())
    expected = [key.encode() for key in KEYS.values()]
    for prefix in (f"{door.base}/media/", "s3://media/"):
        responses = way.fetch_all([prefix + written for written in KEYS])
        assert expected == [response.content for response in responses]


# --- D1: one request ----------------------------------------------------------------------------------------


def test_a_hundred_fetches_of_one_object_cost_one_signature(way: Way, door: Door) -> None:
    """D1: however many tasks or threads of one request ask, an object is signed once."""

    async def gathered(client: Any) -> list[Any]:
        return await asyncio.gather(*(client.get(door.cat) for _ in range(100)))

    def threaded(client: Any) -> list[Any]:
        with ThreadPoolExecutor(5) as pool:
            contexts = [contextvars.copy_context() for _ in range(100)]
            return list(pool.map(lambda context: context.run(client.get, door.cat), contexts))

    body: Callable[[Any], Any] = gathered if way.is_async else threaded
    few = way.plain(limits=way.library.Limits(max_connections=5))  # as many as the door lets wait
    assert [response.status_code for response in way.run(body, way.sender(few))] == [200] * 100
    assert (way.presigner.stats()["signed"], way.presigner.stats()["resolved"]) == (1, 100)
