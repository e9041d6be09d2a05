"""
What every client must keep, by hooks and by its explicit adapter, blocking and with asyncio.

One body per statement, run for each row of ``clients.CLIENTS`` against a real S3 server. What concerns one
client alone is in that client's file. What a client cannot keep is in ``clients.LIMITS``, and fails here.
"""

import asyncio
import contextvars
import dataclasses
import logging
import re
import socket
import ssl
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import boto3
import pytest
from clients import (
    LIMITS,
    Answer,
    Fetcher,
    Front,
    OneShot,
    Send,
    as_found,
    changed,
    fetchers,
    limit_of,
    tunnel,
)
from ways import SIGNATURE, SIGNED, Door, presigner_for, signed

from presign_middleware import Policy, Presigner, SigningError, intercept
from presign_middleware.clients import catching

STRANGER: Final = boto3.Session("AKIAPRESIGNSTRANGER0", "a-secret-of-nobody", region_name="us-east-1")
#: L1 for each of these.
pytestmark = pytest.mark.usefixtures("nothing_leaks")


@pytest.fixture(params=fetchers())
def fetcher(request: pytest.FixtureRequest, front: Front) -> Iterator[Fetcher]:
    client, is_explicit = request.param
    limit = limit_of(request.function.__name__, request.node.callspec.id)
    if limit is not None:
        request.applymarker(pytest.mark.xfail(reason=limit.reason))
    fetcher = Fetcher(client, is_explicit, front.presigner())
    with fetcher.hooked():
        yield fetcher


@pytest.fixture(params=fetchers(hooks_only=True))
def unhooked(request: pytest.FixtureRequest, front: Front) -> Iterator[Fetcher]:
    """Give a fetcher by hooks that are not in place yet."""
    client, is_explicit = request.param
    with as_found(client):
        yield Fetcher(client, is_explicit, front.presigner())


# --- C1: which fetches are signed ---------------------------------------------------------------------------


def test_a_covered_fetch_arrives(fetcher: Fetcher, front: Front) -> None:
    """C1, S3: a real S3 accepts what is sent for an unsigned URL; GET and HEAD are two signatures."""
    whole, head = fetcher.fetch(front.cat), fetcher.fetch(front.cat, method="HEAD")
    assert (whole.status, whole.content) == (200, b"a cat")
    assert (head.status, head.headers["Content-Length"]) == (200, "5")
    assert (fetcher.presigner.stats()["signed"], fetcher.presigner.stats()["caught"]) == (2, 2)


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
    "%7E.jpg": "~.jpg",
}


def test_every_key_arrives_as_the_right_object(fetcher: Fetcher, door: Door) -> None:
    """S1, O3: through the client's own quoting. The strict oracle is asked: the real server folds slashes."""
    for key in KEYS.values():
        door.put("media", key, key.encode())
    answers = fetcher.using(presigner_for(door)).fetch_all([f"{door.base}/media/{key}" for key in KEYS])
    assert [key.encode() for key in KEYS.values()] == [answer.content for answer in answers]


def test_a_client_made_before_the_hook_is_caught(unhooked: Fetcher, front: Front) -> None:
    """C1: also one whose connection is open already."""

    async def fetch_twice(send: Send) -> list[int]:
        statuses = [(await send(front.cat)).status]
        with unhooked.hooked():
            statuses.append((await send(front.cat)).status)
        return statuses

    assert unhooked.run(fetch_twice) == [403, 200]


def test_what_hooks_do_not_sign_for_an_adapter_they_leave_to_it(fetcher: Fetcher, front: Front) -> None:
    """C1, O5: under a hook an adapter's presigner signs, and once; what it does not cover is the hook's."""
    other = front.presigner()
    with intercept(fetcher.client.name), other.scope():
        assert fetcher.outside().fetch(front.cat).status == 200
        elsewhere = fetcher.using(front.presigner(prefix="private/")).outside()
        assert elsewhere.fetch(front.cat).status == 200
    caught = (fetcher.presigner.stats()["caught"], other.stats()["caught"])
    assert caught == ((1, 1) if fetcher.is_explicit else (0, 2))


def test_an_s3_target_takes_the_origins_own_form(fetcher: Fetcher, front: Front) -> None:
    """S10: ``s3://bucket/key`` goes to the endpoint, with its Host, and shows as it was asked for."""
    answer = fetcher.fetch("s3://front/cat.jpg")
    assert (answer.content, answer.url) == (b"a cat", "s3://front/cat.jpg")
    assert front.base == f"http://{front.arrived[0].host}"


def test_a_request_goes_where_it_was_sent(fetcher: Fetcher, front: Front) -> None:
    """S10: a further base URL of the origin is signed for itself: its host, its path, its Host header."""
    base = front.base.replace("127.0.0.1", "localhost")
    alias = fetcher.using(front.presigner(urls=[f"{base}/front/"]))
    answers = alias.fetch_all([f"{asked}/front/cat.jpg" for asked in (base, front.base)])
    assert [answer.content for answer in answers] == [b"a cat"] * 2
    assert [base, front.base] == [f"http://{request.host}" for request in front.arrived]


# --- C1: redirects ------------------------------------------------------------------------------------------


def test_a_redirect_within_an_origin_is_signed(fetcher: Fetcher, front: Front) -> None:
    """C1, C2: a hop is signed when the first was covered by the same origin; each shows its unsigned URL."""
    front.moved["/front/old.jpg"] = "/front/cat.jpg"
    answer = fetcher.fetch(f"{front.base}/front/old.jpg")
    assert (answer.content, signed(front)) == (b"a cat", [True, True])
    assert [f"{front.base}/front/old.jpg", front.cat] == [*answer.history, answer.url]
    assert not SIGNED.search(answer.shown)


def test_an_uncovered_request_cannot_redirect_into_an_origin(fetcher: Fetcher, front: Front) -> None:
    """C1: whoever is asked first cannot have this process sign for them; the hop is counted."""
    front.moved["/attacker"] = "/attacker/again"
    front.moved["/attacker/again"] = "/front/cat.jpg"
    assert fetcher.fetch(f"{front.base}/attacker").status == 403
    assert signed(front) == [False, False, False]
    assert fetcher.presigner.stats()["passed_redirect"] == 1


def test_a_redirect_from_one_origin_to_another_is_not_signed(fetcher: Fetcher, front: Front) -> None:
    """C1: the origin that covered the first hop signs its redirects, and no other does."""
    both = Presigner(front.origin(), front.origin("secrets", bucket="secrets"))
    front.moved["/front/cat.jpg"] = "/secrets/cat.jpg"
    assert fetcher.using(both).fetch(front.cat).status == 403
    assert signed(front) == [True, False]
    assert both.stats()["passed_redirect"] == 1


def test_a_redirect_to_another_host_carries_no_signature(fetcher: Fetcher, front: Front, door: Door) -> None:
    """C1: a cross-host hop has neither the signed query nor the first hop's Host."""
    front.moved["/front/cat.jpg"] = f"{door.base}/elsewhere"
    fetcher.fetch(front.cat)
    assert [(r.path, r.query) for r in door.arrived] == [("/elsewhere", "")]
    assert door.base == f"http://{door.arrived[0].host}"


def test_a_redirect_to_a_url_signed_here_arrives(
    fetcher: Fetcher, front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    """C1, S5: an application's own redirect to ``presigner.url(...)`` works as in a browser, unshown."""
    for name in ("httpcore", "httpcore2"):  # they write down what a server says, Location included
        caplog.set_level(logging.INFO, name)
    front.moved["/photo"] = fetcher.presigner.url(front.cat)
    answer = fetcher.fetch(f"{front.base}/photo")
    assert (answer.content, answer.url) == (b"a cat", front.cat)


def test_a_redirect_from_an_adapters_origin_to_a_hooks_is_not_signed(fetcher: Fetcher, front: Front) -> None:
    """C1: an origin of another presigner is another origin, even if both are called "media"."""
    front.moved["/front/cat.jpg"] = "/secrets/cat.jpg"
    other = front.presigner(bucket="secrets")
    with intercept(fetcher.client.name), other.scope():
        assert fetcher.outside().fetch(front.cat).status == 403
    assert signed(front) == [fetcher.is_explicit, False]
    assert other.stats()["passed_redirect"] == 1


# --- C2: nobody but the socket sees the signature -----------------------------------------------------------


def test_the_answer_and_the_log_show_the_unsigned_url(
    fetcher: Fetcher, front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    """C2: of what is there and of what is missing; the client's own log line is there, with the path."""
    missing = f"{front.base}/front/missing.jpg"
    answers = fetcher.fetch_all([front.cat, missing])
    assert [(200, front.cat), (404, missing)] == [(answer.status, answer.url) for answer in answers]
    assert ("/front/cat.jpg" in caplog.text) is fetcher.client.has_log
    assert not SIGNED.search("".join(answer.shown for answer in answers))


def test_errors_of_the_connection_show_the_unsigned_url(fetcher: Fetcher, front: Front) -> None:
    """C2, S5: nor has an exception, or its causes, a signature, whether one connects or nobody answers."""
    errors: list[BaseException | None] = []
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        away = fetcher.using(front.presigner(endpoint_url=base))
        urls = (f"{base}/front/cat.jpg", away.presigner.url(f"{base}/front/cat.jpg"))
        for url in urls:
            with pytest.raises(Exception, match=r"refused|attempts failed|Connect call failed") as refused:
                away.fetch(url)
            errors.append(refused.value)
        unheard.listen()
        for url in urls:
            with pytest.raises(Exception, match=r"^$|[Tt]imed? ?out") as late:
                away.fetch(url, timeout=0.05)
            errors.append(late.value)
    assert away.presigner.stats()["caught"] >= 2
    while errors:
        error = errors.pop()
        if error is not None:
            assert not SIGNED.search(f"{error!r}{error}{error.args}{getattr(error, 'request', '')!r}")
            errors += [error.__cause__, error.__context__]


# --- C4: install and remove ---------------------------------------------------------------------------------


def test_what_is_removed_leaves_nothing(unhooked: Fetcher, front: Front) -> None:
    """C4: two that want the hooks do not take them from each other; after both, all is the object it was."""
    with as_found(unhooked.client) as before:
        for _ in range(2):
            first, second = unhooked.hooked(), unhooked.hooked()
            assert changed(before) != []
            second.remove()  # type: ignore[attr-defined]  # these are hooks
            assert unhooked.fetch(front.cat).status == 200
            first.remove()  # type: ignore[attr-defined]  # as above
            assert changed(before) == []
            assert unhooked.fetch(front.cat).status == 403


def test_what_was_removed_signs_nothing_where_it_is_kept(
    unhooked: Fetcher, front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    """C4: functions of ours that another tool has in closures are inert once we are gone."""

    def put(functions: dict[tuple[Any, str], Any]) -> None:
        for (owner, name), function in functions.items():
            setattr(owner, name, function)

    def wrapped(ours: Any) -> Any:
        return lambda *args, **kwargs: ours(*args, **kwargs)

    def asked() -> list[int]:
        return [answer.status for answer in unhooked.fetch_all(urls)]

    urls = [front.cat, unhooked.presigner.url(front.cat)]
    with as_found(unhooked.client) as before:
        ours = intercept(unhooked.client.name)
        kept = {(o, name): vars(o)[name] for (o, name), bare in before.items() if vars(o)[name] is not bare}
        theirs = {seam: wrapped(function) for seam, function in kept.items()}
        put(theirs)
        statuses = [asked()]
        ours.remove()
        statuses.append(asked())
        for others in (theirs, kept):
            put(others)
            with unhooked.hooked():
                statuses.append(asked())
            assert changed(others) == []
    assert statuses == [[200, 200], [403, 200], [200, 200], [200, 200]]
    assert unhooked.presigner.stats()["caught"] == 6
    caplog.clear()  # between the two there was nobody to know what was signed here


@pytest.mark.parametrize("fetcher", [one for one in fetchers() if "adapter" in str(one.id)], indirect=True)
def test_an_adapter_patches_nothing(fetcher: Fetcher, front: Front) -> None:
    """C4: it changes the one client that has it."""
    bare = dataclasses.replace(fetcher, is_explicit=False)
    with as_found(fetcher.client) as before:
        assert [fetcher.fetch(front.cat).status, bare.fetch(front.cat).status] == [200, 403]
        assert changed(before) == []


# --- C5: bodies ---------------------------------------------------------------------------------------------


def test_a_one_shot_upload_is_read_once_and_not_replayed(fetcher: Fetcher, front: Front) -> None:
    """C5: it is sent once, whether S3 takes it or refuses it."""
    for session, status in ((front.session, 200), (STRANGER, 403)):
        writer = fetcher.using(front.presigner(methods=("GET", "PUT"), session=session))
        front.forget()
        body = OneShot()
        new = f"{front.base}/front/new.jpg"
        assert writer.fetch(new, method="PUT", body=body, headers={"Content-Length": "9"}).status == status
        assert (body.readings, [request.body for request in front.arrived]) == (1, [b"a new cat"])


def test_a_fetch_made_while_another_sends_is_nobodys_redirect(fetcher: Fetcher, front: Front) -> None:
    """O5: a body that fetches as it is read makes a first hop of its own."""

    def fetch() -> Answer:
        return fetcher.outside().fetch(front.cat)

    class Fetching(OneShot):
        def __iter__(self) -> Iterator[bytes]:
            if fetcher.client.is_async:  # a loop of its own
                with ThreadPoolExecutor(1) as pool:
                    assert pool.submit(contextvars.copy_context().run, fetch).result().status == 200
            else:
                assert fetch().status == 200
            return super().__iter__()

    new = f"{front.base}/other/new.jpg"
    fetcher.fetch(new, method="PUT", body=Fetching(), headers={"Content-Length": "9"})
    assert sorted((r.method, SIGNATURE in r.query) for r in front.arrived) == [("GET", True), ("PUT", False)]


# --- S5: what is signed already -----------------------------------------------------------------------------


def test_what_others_signed_or_authorised_passes_untouched(fetcher: Fetcher, front: Front) -> None:
    """S5: byte for byte, be the lifetime of 5,000 digits; of two mechanisms S3 accepts neither."""
    queries = [
        "AWSAccessKeyId=AKIA1&Signature=x%2By%3D&Expires=1",
        "X-Amz-Signature=0f&X-Amz-Expires=60",
        f"X-Amz-Expires={'9' * 5000}&X-Amz-Signature=a",
    ]
    answers = fetcher.fetch_all([f"{front.cat}?{query}" for query in queries])
    assert [f"{front.cat}?{query}" for query in queries] == [answer.url for answer in answers]
    fetcher.fetch(front.cat, headers={"Authorization": "Bearer mine"})
    assert [*queries, ""] == [request.query for request in front.arrived]
    assert fetcher.presigner.stats()["signed"] == 0


def test_a_url_of_another_presigner_arrives_as_it_is(
    fetcher: Fetcher, front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    """S5: whoever presigned it, it is fetched with the signature it has."""
    assert fetcher.fetch(front.presigner().url(front.cat)).content == b"a cat"
    assert fetcher.presigner.stats()["signed"] == 0
    caplog.clear()  # the client shows what it does not know for ours


def test_a_url_signed_here_is_treated_like_its_unsigned_form(fetcher: Fetcher, front: Front) -> None:
    """S5, L1: it is recognised, one of a bucket's name too: it has its parameters, and shows no signature."""
    params = {"ResponseContentType": "text/html"}
    ours = [fetcher.presigner.url(target, params=params) for target in (front.cat, "s3://front/cat.jpg")]
    shown = f"{front.cat}?response-content-type=text%2Fhtml"
    *answers, unsigned = fetcher.fetch_all([*ours, shown])
    assert [("text/html", shown)] * 2 == [(answer.headers["Content-Type"], answer.url) for answer in answers]
    assert unsigned.headers["Content-Type"] != "text/html"  # nobody has signed that, also after ours
    assert not SIGNED.search("".join(answer.shown for answer in answers))
    assert fetcher.presigner.stats()["signed"] == 3  # of the URL, of the origin's own form, and of the last


def test_of_several_process_wide_presigners_the_one_that_signed_a_url_knows_it(
    unhooked: Fetcher, front: Front
) -> None:
    """S5, D7, L1: libraries of one process may each make theirs active; each signs what it covers."""
    narrow, wide, name = front.presigner(prefix="private/"), front.presigner(), unhooked.client.name
    everywhere = unhooked.outside()
    with intercept(name, presigner=narrow), intercept(name, presigner=wide):
        answers = everywhere.fetch_all([front.cat, wide.url(front.cat)])
    assert [(200, front.cat)] * 2 == [(answer.status, answer.url) for answer in answers]
    assert (narrow.stats()["caught"], wide.stats()["caught"]) == (0, 2)
    assert everywhere.fetch(front.cat).status == 403


# --- S10: proxies -------------------------------------------------------------------------------------------


def test_a_forward_proxy_is_told_the_signed_url(fetcher: Fetcher, door: Door) -> None:
    """S10: over a proxy a request is signed for the host it asks for; path style and virtual host stay."""
    urls = ["http://media.s3.localhost:9000/cat.jpg", "http://s3.localhost:9000/media/cat.jpg"]
    named = fetcher.using(presigner_for(door, endpoint_url="http://s3.localhost:9000"))
    answers = dataclasses.replace(named, proxy=door.base).fetch_all(urls)
    assert [(b"a cat", url) for url in urls] == [(answer.content, answer.url) for answer in answers]
    assert [request.host for request in door.arrived] == ["media.s3.localhost:9000", "s3.localhost:9000"]


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_tunnel_ends_at_the_host_that_is_signed_for(
    fetcher: Fetcher, door: Door, tls: ssl.SSLContext
) -> None:
    """S10: through CONNECT the proxy learns the host alone, and the request inside is signed for it."""
    named = fetcher.using(presigner_for(door, endpoint_url="https://s3.localhost"))
    with tunnel(door, tls) as (proxy, connects):
        answer = dataclasses.replace(named, proxy=proxy).fetch("https://s3.localhost/media/cat.jpg")
    assert answer.content == b"a cat"
    assert [line.split()[:2] for line in connects] == [[b"CONNECT", b"s3.localhost:443"]]
    assert (signed(door), door.arrived[0].host) == ([True], "s3.localhost")
    assert (named.presigner.stats()["caught"], named.presigner.stats()["passed_uncovered"]) == (1, 0)


# --- S6: headers --------------------------------------------------------------------------------------------


def test_range_conditions_and_tracing_headers_share_the_cached_url(fetcher: Fetcher, front: Front) -> None:
    """S6: none of them is signed, and all of them travel: one signature, 206 and 304."""
    tracing = {"traceparent": "00-aa-bb-01", "baggage": "k=v", "sentry-trace": "aa-bb-1"}
    whole = fetcher.fetch(front.cat, headers=tracing)
    part = fetcher.fetch(front.cat, headers={"Range": "bytes=2-4"})
    same = fetcher.fetch(front.cat, headers={"If-None-Match": whole.headers["ETag"]})
    assert (whole.status, part.status, part.content, same.status) == (200, 206, b"cat", 304)
    assert tracing == {name: front.arrived[0].header(name) for name in tracing}
    assert ["X-Amz-SignedHeaders=host&" in request.query for request in front.arrived] == [True] * 3
    assert fetcher.presigner.stats()["signed"] == 1


def test_amz_headers_are_signed_for_their_request_alone(fetcher: Fetcher, front: Front) -> None:
    """S6: a header such as an SSE-C key is signed, each time anew, and never meets another request."""
    own = {"X-Amz-Checksum-Mode": "ENABLED"}
    assert [fetcher.fetch(front.cat, headers=given).status for given in (own, own, {}, {})] == [200] * 4
    names = "SignedHeaders=host%3Bx-amz-checksum-mode&"
    assert [names in request.query for request in front.arrived] == [True, True, False, False]
    assert fetcher.presigner.stats()["signed"] == 3


# --- D1, D3, D7: one request --------------------------------------------------------------------------------


def test_many_fetches_of_one_object_cost_one_signature(fetcher: Fetcher, front: Front) -> None:
    """D1: however many tasks or threads of one request ask, an object is signed once."""
    assert [answer.status for answer in fetcher.fetch_at_once([front.cat] * 30)] == [200] * 30
    assert (fetcher.presigner.stats()["signed"], fetcher.presigner.stats()["resolved"]) == (1, 30)


def test_the_scope_reaches_tasks_and_threads_and_what_outlives_it(unhooked: Fetcher, front: Front) -> None:
    """D3: child tasks, `gather` and `to_thread` are the request's, and signed for even after its end."""

    async def one(send: Send) -> int:
        answer: Answer = await send(front.cat)
        return answer.status

    def fetch() -> Coroutine[Any, Any, Any]:
        return unhooked.opened(one)

    async def late(ended: asyncio.Event) -> Any:
        await ended.wait()
        return await fetch()

    async def serve() -> list[int]:
        ended = asyncio.Event()
        with unhooked.presigner.scope():
            outliving = asyncio.create_task(late(ended))
            task = asyncio.create_task(fetch())
            found = await asyncio.gather(task, fetch(), asyncio.to_thread(unhooked.client.run, fetch()))
        ended.set()
        return [*found, await outliving]

    with unhooked.hooked():
        assert asyncio.run(serve()) == [200] * 4
    assert unhooked.presigner.stats()["signed"] == 1


def test_outside_a_scope_nothing_is_signed_and_the_call_site_is_told(
    unhooked: Fetcher, door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D7: once for a line of the caller's own code, with both cures and no query; all are counted."""
    monkeypatch.setattr(catching, "_told", set())
    presigner = presigner_for(door)  # of all that are alive, the one that covers this place
    with unhooked.hooked():
        unhooked.outside().fetch_all([f"{door.cat}?response-expires=never", door.cat, door.cat])
    (told,) = [r.getMessage() for r in caplog.records if r.name == "presign_middleware.clients"]
    assert signed(door) == [False, False, False]
    assert f"{door.cat} " in told
    assert re.search(r"\(\S+clients\.py:\d+\)", told)
    assert "presigner.scope()" in told
    assert "intercept(presigner=presigner)" in told
    assert "?" not in told
    assert presigner.stats()["passed_outside_scope"] == 3


# --- O1, O4 to O7: what is left alone, and what must not leave unsigned -------------------------------------


UNCOVERED = {
    "another bucket": "/other/a%20b/ü'()*+~?b=2&a=1&c",
    "outside the prefix": "/front/private/cat.jpg?response-content-type=text%2Fhtml",
    "a subresource": "/front/public/cat.jpg?acl",
    "dot segments": "/front/public/%2e%2e/cat.jpg",
}


def test_what_is_not_covered_goes_out_untouched(fetcher: Fetcher, front: Front) -> None:
    """O4: path, query and headers are byte for byte those of the bare library."""
    narrow = fetcher.using(front.presigner(prefix="public/"))
    headers = {"User-Agent": "me", "X-Amz-Meta-Thing": "kept"}
    urls = [f"{front.base}{path}" for path in UNCOVERED.values()]
    with narrow.presigner.paused():
        Fetcher(fetcher.client, False, narrow.presigner).fetch_all(urls, headers=headers)
    narrow.fetch_all(urls, headers=headers)
    wire = [(request.path, request.query, request.headers) for request in front.arrived]
    assert wire[: len(urls)] == wire[len(urls) :]
    assert (narrow.presigner.stats()["passed_uncovered"], narrow.presigner.stats()["signed"]) == (4, 0)


def test_a_method_or_a_host_that_is_not_the_origins_passes(fetcher: Fetcher, front: Front) -> None:
    """S3, O1, S10: only GET and HEAD unless the origin says so, and no Host but the URL's."""
    assert fetcher.fetch(front.cat, method="DELETE").status == 403
    fetcher.fetch(front.cat, headers={"Host": "front.s3.eu-west-1.amazonaws.com"})
    assert signed(front) == [False, False]
    assert fetcher.presigner.stats()["passed_uncovered"] == 2


#: Without headers to sign, and with one: two paths through the signer.
SIGNED_HEADERS: tuple[dict[str, str], ...] = ({}, {"x-amz-checksum-mode": "ENABLED"})


def test_a_fetch_that_cannot_be_signed_does_not_leave(fetcher: Fetcher, front: Front) -> None:
    """O5: without credentials the caller gets SigningError, counted, and nothing unsigned leaves."""
    helpless = fetcher.using(front.presigner(session=None, region="us-east-1"))
    for headers in SIGNED_HEADERS:
        with pytest.raises(SigningError, match="no credentials"):
            helpless.fetch(front.cat, headers=headers)
    assert front.arrived == []
    assert (helpless.presigner.stats()["failed"], helpless.presigner.stats()["caught"]) == (2, 0)


def test_a_fetch_that_cannot_be_signed_leaves_where_the_policy_says_so(
    fetcher: Fetcher, front: Front
) -> None:
    """O5: with on_error="pass" it goes out unsigned, and is counted."""
    policy = Policy(on_error="pass")
    lenient = fetcher.using(front.presigner(session=None, region="us-east-1", policy=policy))
    for headers in SIGNED_HEADERS:
        assert lenient.fetch(front.cat, headers=headers).status == 403
    assert signed(front) == [False, False]
    assert (lenient.presigner.stats()["failed"], lenient.presigner.stats()["passed_on_error"]) == (2, 2)


def test_an_origin_for_links_only_is_not_caught(fetcher: Fetcher, front: Front) -> None:
    """O6: Origin(catch=False) makes links, and its fetches are left alone."""
    links = fetcher.using(front.presigner(catch=False))
    assert links.fetch(front.cat).status == 403
    assert SIGNATURE in links.presigner.url(front.cat)


def test_one_fetch_can_opt_out(fetcher: Fetcher, front: Front) -> None:
    """O6: it goes out as it is, and its redirects do too."""
    front.moved["/front/old.jpg"] = "/front/cat.jpg"
    assert fetcher.fetch(f"{front.base}/front/old.jpg", opt_out=True).status == 403
    assert signed(front) == [False, False]


def test_nothing_is_caught_while_paused(fetcher: Fetcher, front: Front) -> None:
    """O6: inside paused() nothing is signed, in its tasks and threads neither; after it, it is."""

    async def fan_out() -> list[Answer]:
        inside = asyncio.create_task(asyncio.to_thread(fetcher.fetch, front.cat))
        return list(await asyncio.gather(inside, asyncio.to_thread(fetcher.fetch, front.cat)))

    with fetcher.presigner.paused():
        answers = [fetcher.fetch(front.cat), *fetcher.fetch_at_once([front.cat] * 2), *asyncio.run(fan_out())]
    assert [answer.status for answer in answers] == [403] * 5
    assert fetcher.fetch(front.cat).status == 200
    assert signed(front) == [*[False] * 5, True]


def test_overrides_of_whoever_wrote_the_url_are_dropped(fetcher: Fetcher, front: Front) -> None:
    """O7: response-content-type and -disposition are signed only with Origin(response_overrides=True)."""
    asked = f"{front.cat}?response-content-type=text%2Fhtml&response-cache-control=no-cache"
    lenient = fetcher.using(front.presigner(response_overrides=True))
    answers = [fetcher.fetch(asked), lenient.fetch(asked)]
    assert [answer.headers["Cache-Control"] for answer in answers] == ["no-cache"] * 2
    assert [answer.headers["Content-Type"] == "text/html" for answer in answers] == [False, True]


# --- what cannot be kept ------------------------------------------------------------------------------------


def test_the_page_has_the_limits() -> None:
    """The table of ``docs/how-to/clients.md`` is `LIMITS`, line by line."""
    page = (Path(__file__).parent.parent / "docs/how-to/clients.md").read_text()
    clients = [", ".join(limit.fetchers).replace("-", " with its ") for limit in LIMITS]
    rows = [f"| {one.line} | {who} | {one.reason} |" for one, who in zip(LIMITS, clients, strict=True)]
    assert rows == [line for line in page.splitlines() if line.startswith("| ")][1:]
