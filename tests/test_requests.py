"""
What holds for requests, with hooks inside a scope and with a `PresignAdapter`.

One suite, run in both ways, against the strict oracle behind a real socket. What concerns
urllib3 itself, below, is in ``test_urllib3.py``.
"""

import asyncio
import contextlib
import contextvars
import copy
import dataclasses
import hashlib
import logging
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from test_httpx import KEYS, OneShot, everything
from test_httpx_boundaries import OVERRIDES, UNCOVERED, other_names
from ways import ACCESS_KEY, SIGNATURE, Door, opened, origin, presigner_for, signed

from presign_middleware import ConfigurationError, Origin, Policy, Presigner, SigningError, intercept
from presign_middleware.clients.requests import PresignAdapter
from presign_middleware.testing import Clock, SeaweedFS


@dataclasses.dataclass(frozen=True)
class Way:
    """Hooks or an adapter. Each `fetch` is one request of an application."""

    is_explicit: bool  #: a PresignAdapter; else hooks, inside a scope
    presigner: Presigner

    def using(self, presigner: Presigner) -> "Way":
        """Return this way with another presigner."""
        return dataclasses.replace(self, presigner=presigner)

    def scope(self) -> AbstractContextManager[object]:
        """Return what an application's request is served in: a hook needs a scope, an adapter none."""
        return contextlib.nullcontext() if self.is_explicit else self.presigner.scope()

    def session(self, inner: HTTPAdapter | None = None) -> requests.Session:
        """Return a session whose fetches get signed; *inner* sends."""
        session = requests.Session()
        adapter = PresignAdapter(self.presigner, inner) if self.is_explicit else inner
        if adapter is not None:
            for scheme in ("http://", "https://", "s3://"):
                session.mount(scheme, adapter)
        return session

    def run(self, body: Callable[[requests.Session], Any], inner: HTTPAdapter | None = None) -> Any:
        """Return what ``body(session)`` returns, in one scope."""
        with self.scope(), self.session(inner) as session:
            return body(session)

    def fetch_all(self, urls: Sequence[str], method: str = "GET", **options: Any) -> list[requests.Response]:
        """Return the responses to *urls*, fetched one after another by one session."""
        found: list[requests.Response] = self.run(
            lambda session: [session.request(method, url, **options) for url in urls]
        )
        return found

    def fetch(self, url: str, **options: Any) -> requests.Response:
        """Return the response to one request; redirects are followed."""
        return self.fetch_all([url], **options)[0]


@pytest.fixture
def door(s3_clock: Clock) -> Iterator[Door]:
    with opened(Door(clock=s3_clock)) as door:
        yield door


@pytest.fixture
def live_door() -> Iterator[Door]:
    """Give a door on the real clock, for what boto3 signs: it knows no other."""
    with opened(Door()) as door:
        yield door


@pytest.fixture(params=[False, True], ids=["hook", "adapter"])
def way(request: pytest.FixtureRequest, door: Door) -> Iterator[Way]:
    way = Way(request.param, presigner_for(door))
    with contextlib.nullcontext() if way.is_explicit else intercept("requests"):
        yield way


@pytest.fixture
def hook(door: Door) -> Way:
    """Give the way of hooks, with nothing hooked yet."""
    return Way(False, presigner_for(door))


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide proxies and netrc of whoever runs the tests."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("NETRC", "/dev/null")


# --- C1: which fetches are signed ---------------------------------------------------------------------------


def test_a_covered_fetch_arrives(way: Way, door: Door) -> None:
    """C1: a fetch of an unsigned URL of an origin is signed, and the strict S3 accepts it."""
    response = way.fetch(door.cat)
    assert (response.status_code, response.content) == (200, b"a cat")
    assert (way.presigner.stats()["signed"], way.presigner.stats()["caught"]) == (1, 1)


def test_a_real_server_answers(way: Way, seaweedfs: SeaweedFS) -> None:
    """C1, S3: what is sent is what a real S3 accepts, for GET and HEAD and a key to be quoted."""
    client = seaweedfs.client()
    bucket = f"requests-{'adapter' if way.is_explicit else 'hook'}"
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="a b~ü.jpg", Body=b"a cat")
    real = way.using(Presigner(seaweedfs_origin(seaweedfs, bucket)))
    url = f"{seaweedfs.endpoint_url}/{bucket}/a b%7Eü.jpg"
    assert real.fetch(url).content == b"a cat"
    assert real.fetch(url, method="HEAD").status_code == 200
    assert requests.get(url, timeout=5).status_code == 403


def seaweedfs_origin(server: SeaweedFS, bucket: str) -> Origin:
    session = boto3.Session(server.access_key, server.secret_key, region_name=server.region)
    return Origin("real", bucket=bucket, endpoint_url=server.endpoint_url, session=session)


def test_a_streamed_response_arrives(way: Way, door: Door) -> None:
    """C1: ``stream=True`` is caught like any other call."""
    assert b"".join(way.fetch(door.cat, stream=True).iter_content(2)) == b"a cat"


def test_a_session_that_is_kept_is_caught_each_time(way: Way, door: Door) -> None:
    """C1: connections of a pool are used again, and each request on one is signed for itself."""
    door.put("media", "dog.jpg", b"a dog")
    dog = f"{door.base}/media/dog.jpg"
    assert [r.content for r in way.fetch_all([door.cat, dog, door.cat])] == [b"a cat", b"a dog", b"a cat"]
    assert way.presigner.stats()["signed"] == 2


def test_an_adapter_of_ones_own_is_caught(way: Way, door: Door) -> None:
    """C1: a subclass of HTTPAdapter sends the signed URL, and sees the unsigned one itself."""
    seen: list[str | None] = []

    class Mine(HTTPAdapter):
        def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
            seen.append(request.url)
            return super().send(request, *args, **kwargs)

    assert way.run(lambda session: session.get(door.cat), Mine(max_retries=1)).content == b"a cat"
    assert [door.cat] == seen
    assert way.presigner.stats()["caught"] == 1


def test_module_functions_are_caught(hook: Way, door: Door) -> None:
    """C1: ``requests.get`` makes a session of its own, which is hooked as well."""
    with intercept("requests"), hook.scope():
        assert requests.get(door.cat, timeout=5).content == b"a cat"


def test_a_session_made_before_the_hook_is_caught(hook: Way, door: Door) -> None:
    """C1: also one whose connection is open already, and of a class of the application's own."""

    class Mine(requests.Session):
        pass

    with Mine() as session:
        statuses = [session.get(door.cat).status_code]
        with intercept("requests"), hook.scope():
            statuses.append(session.get(door.cat).status_code)
    assert statuses == [403, 200]


def test_an_adapter_has_its_own_presigner(door: Door, hook: Way) -> None:
    """C1: under a hook the adapter's presigner signs, whatever the scope's is, and once."""
    other = Way(True, presigner_for(door))
    with intercept("requests"), hook.presigner.scope():
        assert other.fetch(door.cat).content == b"a cat"
    assert (hook.presigner.stats()["caught"], other.presigner.stats()["caught"]) == (0, 1)


def test_an_adapter_that_does_not_cover_leaves_it_to_the_hook(door: Door, hook: Way) -> None:
    """O5: what the adapter's presigner does not cover is signed if the scope's covers it."""
    elsewhere = Way(True, presigner_for(door, prefix="private/"))
    with intercept("requests"), hook.presigner.scope():
        assert elsewhere.fetch(door.cat).content == b"a cat"
    assert (hook.presigner.stats()["caught"], elsewhere.presigner.stats()["caught"]) == (1, 0)


def test_two_adapters_can_share_what_sends(door: Door) -> None:
    """C1: the presigner belongs to the adapter, not to the connections that it sends with."""
    inner = HTTPAdapter()
    ways = [Way(True, presigner_for(door)), Way(True, presigner_for(door, name="other"))]
    assert [way.run(lambda s: s.get(door.cat), inner).status_code for way in (*ways, *ways)] == [200] * 4
    assert [way.presigner.stats()["caught"] for way in ways] == [2, 2]


def test_an_adapter_can_be_given_one_that_has_sent_before(hook: Way, door: Door) -> None:
    """C1: connections that were open before it came are not used any more."""
    inner = HTTPAdapter()
    with requests.Session() as session:
        session.mount("http://", inner)
        statuses = [session.get(door.cat).status_code]
        session.mount("http://", PresignAdapter(hook.presigner, inner))
        statuses.append(session.get(door.cat).status_code)
    assert statuses == [403, 200]


def test_an_adapter_needs_one_that_has_pools(hook: Way) -> None:
    """C1: what cannot be made to sign is refused, and not passed by in silence."""
    with pytest.raises(ConfigurationError, match=r"requests\.adapters\.HTTPAdapter, got object"):
        PresignAdapter(hook.presigner, object())


# --- C1: redirects ------------------------------------------------------------------------------------------


def test_a_redirect_within_an_origin_is_signed(way: Way, door: Door) -> None:
    """C1: a hop is signed when the first hop was covered by the same origin."""
    door.moved["/media/old.jpg"] = "/media/cat.jpg"
    assert way.fetch(f"{door.base}/media/old.jpg").content == b"a cat"
    assert signed(door) == [True, True]


def test_an_uncovered_request_cannot_redirect_into_an_origin(way: Way, door: Door) -> None:
    """C1: whoever is asked first cannot have this process sign for them; the hop is counted."""
    door.moved["/attacker"] = "/attacker/again"
    door.moved["/attacker/again"] = "/media/cat.jpg"
    assert way.fetch(f"{door.base}/attacker").status_code == 403
    assert signed(door) == [False, False, False]
    assert way.presigner.stats()["passed_redirect"] == 1


def test_the_request_after_a_redirect_is_known_as_one(way: Way, door: Door) -> None:
    """C1: who follows redirects by hand opens no way in, and does not lose a signature."""
    door.moved["/attacker"] = door.moved["/media/old.jpg"] = "/media/cat.jpg"

    def follow(session: requests.Session, url: str) -> int:
        request = session.get(url, allow_redirects=False).next
        assert request is not None
        assert door.cat == request.url
        return session.send(request).status_code

    assert way.run(lambda session: follow(session, f"{door.base}/attacker")) == 403
    assert way.run(lambda session: follow(session, f"{door.base}/media/old.jpg")) == 200


def test_an_answer_that_is_asked_for_again_opens_no_way_in(way: Way, door: Door) -> None:
    """C1: a response hook that sends a copy of a redirect's request, as digest does, sends it unsigned."""
    door.moved["/attacker"] = "/media/cat.jpg"

    def again(response: requests.Response, **kwargs: Any) -> requests.Response:
        if response.status_code != 403:
            return response
        adapter = response.connection
        answer: requests.Response = adapter.send(response.request.copy(), **kwargs)
        return answer

    assert way.fetch(f"{door.base}/attacker", hooks={"response": again}).status_code == 403
    assert signed(door) == [False, False, False]


def test_an_answer_that_is_asked_for_again_is_signed(way: Way, door: Door) -> None:
    """C1: a response hook that sends a copy of a covered request, as digest does, sends it signed."""

    def again(response: requests.Response, **kwargs: Any) -> requests.Response:
        door.put("media", "late.jpg", b"late")
        answer: requests.Response = response.connection.send(response.request.copy(), **kwargs)
        return answer

    assert way.fetch(f"{door.base}/media/late.jpg", hooks={"response": again}).content == b"late"
    assert signed(door) == [True, True]


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
    response = way.fetch(f"{door.base}/photo")
    assert (response.content, response.url) == (b"a cat", door.cat)


def test_the_request_after_a_redirect_to_a_url_signed_here_shows_the_unsigned_one(
    hook: Way, door: Door
) -> None:
    """C2, S5: to who follows by hand, and to a tool around ``Session.send``; it arrives all the same."""
    door.moved["/photo"] = hook.presigner.url(door.cat)

    def follow(session: requests.Session) -> tuple[str | None, int]:
        request = session.get(f"{door.base}/photo", allow_redirects=False).next
        assert request is not None
        return request.url, session.send(request).status_code

    with intercept("requests"):
        assert (door.cat, 200) == hook.run(follow)


def test_a_request_sent_again_by_another_presigner_is_signed(way: Way, door: Door) -> None:
    """O5: a request object that one presigner signed, or passed, is no redirect when another meets it."""
    request = requests.Request("GET", door.cat).prepare()
    elsewhere = way.using(presigner_for(door, prefix="private/"))
    other = way.using(presigner_for(door, name="other"))
    statuses = [one.run(lambda s: s.send(request)).status_code for one in (elsewhere, way, other, way)]
    assert statuses == [403, 200, 200, 200]


def test_a_fetch_made_while_another_sends_is_nobodys_redirect(way: Way, door: Door) -> None:
    """O5: a body that fetches as it is read makes a first hop of its own."""

    def body() -> Iterator[bytes]:
        with way.session() as inner:
            yield inner.get(door.cat).content

    way.fetch(f"{door.base}/other/new.jpg", method="PUT", data=body())
    assert sorted((r.method, SIGNATURE in r.query) for r in door.arrived) == [("GET", True), ("PUT", False)]


# --- C2: nobody but the socket sees the signature -----------------------------------------------------------


def test_a_response_and_its_history_show_unsigned_urls(way: Way, door: Door) -> None:
    """C2: ``response.url``, its request's, and those of each hop are what was asked for."""
    door.moved["/media/old.jpg"] = "/media/cat.jpg"
    old = f"{door.base}/media/old.jpg"
    response = way.fetch(old)
    assert [(old, old)] == [(hop.url, hop.request.url) for hop in response.history]
    assert (door.cat, door.cat) == (response.url, response.request.url)
    assert SIGNATURE not in repr(vars(response)) + repr(vars(response.request)) + repr(vars(response.raw))


def test_logs_show_unsigned_urls(way: Way, door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """C2, L1: urllib3's DEBUG line has the unsigned path, and no record has a signature."""
    door.moved["/media/old.jpg"] = "/media/cat.jpg"
    with caplog.at_level(logging.DEBUG):
        way.fetch(f"{door.base}/media/old.jpg")
    assert '"GET /media/cat.jpg HTTP/1.1" 200' in caplog.text
    assert [text for text in map(everything, caplog.records) if SIGNATURE in text] == []


def test_a_status_error_shows_the_unsigned_url(way: Way, door: Door) -> None:
    """C2: the text of ``raise_for_status()`` has the URL the application asked for."""
    missing = f"{door.base}/media/missing.jpg"
    with pytest.raises(requests.HTTPError, match=f"404 .*{missing}$") as caught:
        way.fetch(missing).raise_for_status()
    assert SIGNATURE not in str(caught.value)


def test_a_connection_error_shows_the_unsigned_url(way: Way, door: Door) -> None:
    """C2: MaxRetryError's text, its request and its causes have no signature, though one was made."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        base = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        away = way.using(presigner_for(door, endpoint_url=base))
        with pytest.raises(requests.ReadTimeout) as caught:
            away.fetch(f"{base}/media/cat.jpg", timeout=0.05)
        with pytest.raises(requests.ConnectionError, match="Max retries exceeded") as retried:
            away.run(lambda s: s.get(f"{base}/media/cat.jpg", timeout=0.05), HTTPAdapter(max_retries=1))
    assert away.presigner.stats()["signed"] == 1
    for error in (caught.value, retried.value):
        assert f"{base}/media/cat.jpg" == getattr(error.request, "url", None)
        told: BaseException | None = error
        while told is not None:
            assert SIGNATURE not in f"{told!r}{told}{told.args}"
            told = told.__cause__ or told.__context__


def test_a_response_can_be_pickled_and_copied(way: Way, door: Door) -> None:
    """C2: what a request carries for its redirects goes into no cache, and is no obstacle there."""
    response = way.fetch(door.cat)
    for kept in (pickle.loads(pickle.dumps(response)), copy.deepcopy(response)):
        assert (kept.content, kept.url) == (b"a cat", door.cat)
        assert type(kept.request.hooks) is dict


# --- C4: install and remove, alone and with others ----------------------------------------------------------


def seams() -> dict[str, Any]:
    """Return whatever the hooks may replace, as it is now."""
    import urllib3

    where = [
        (HTTPAdapter, "send"),
        (requests.Session, "send"),
        (urllib3.PoolManager, "urlopen"),
        (urllib3.HTTPConnectionPool, "urlopen"),
        (urllib3.BaseHTTPResponse, "get_redirect_location"),
        (urllib3.connection.HTTPConnection, "request"),
    ]
    return {f"{owner.__name__}.{name}": vars(owner)[name] for owner, name in where}


def changed(before: dict[str, Any]) -> list[str]:
    """Return the names of what is not the object it was."""
    return [name for name, value in seams().items() if value is not before[name]]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)])
def test_what_is_removed_leaves_nothing(hook: Way, door: Door, order: tuple[int, ...]) -> None:
    """C4: in whatever order those that share a hook leave, it works to the end, and nothing is left."""
    before = seams()
    placed = [intercept(name) for name in ("requests", "urllib3", "requests", "urllib3")]
    assert "HTTPConnection.request" in changed(before)
    for number in order:
        assert hook.fetch(door.cat).status_code == 200
        placed[number].remove()
    assert changed(before) == []
    assert hook.fetch(door.cat).status_code == 403


def test_an_adapter_patches_nothing(door: Door, hook: Way) -> None:
    """C4: it changes the one session that it is mounted on."""
    before = seams()
    adapter = Way(True, hook.presigner)
    assert adapter.fetch(door.cat).status_code == 200
    assert changed(before) == []
    with hook.presigner.scope():
        assert requests.get(door.cat, timeout=5).status_code == 403


# --- C5: bodies ---------------------------------------------------------------------------------------------


class Sized(OneShot):
    """A body that says how long it is: S3 takes no chunked uploads."""

    def __len__(self) -> int:
        return 9


def test_a_streamed_upload_is_read_once(way: Way, door: Door) -> None:
    """C5: a signed PUT sends the caller's stream, which is read exactly once."""
    writer = way.using(presigner_for(door, methods=("GET", "PUT")))
    body = Sized()
    new = f"{door.base}/media/new.jpg"
    assert writer.fetch(new, method="PUT", data=body).status_code == 200
    assert body.readings == 1
    assert [request.body for request in door.arrived] == [b"a new cat"]


def test_a_refused_upload_is_not_replayed(way: Way, door: Door) -> None:
    """C5: a one-shot body that S3 refused is not sent again."""
    writer = way.using(presigner_for(door, methods=("GET", "PUT")))
    door.remove_key(ACCESS_KEY)
    body = Sized()
    new = f"{door.base}/media/new.jpg"
    assert writer.fetch(new, method="PUT", data=body).status_code == 403
    assert (body.readings, len(door.arrived)) == (1, 1)


# --- S5: what is signed already -----------------------------------------------------------------------------


def test_a_url_signed_by_others_passes_untouched(way: Way, door: Door) -> None:
    """S5: a URL that already has a signature, of either version, goes out as it is."""
    queries = ["AWSAccessKeyId=AKIA1&Signature=x%2By%3D&Expires=1", "X-Amz-Signature=0f&X-Amz-Expires=60"]
    responses = way.fetch_all([f"{door.cat}?{query}" for query in queries])
    assert queries == [request.query for request in door.arrived]
    assert [f"{door.cat}?{query}" for query in queries] == [response.url for response in responses]


@pytest.mark.parametrize("params", [{}, {"ResponseContentType": "text/html"}], ids=["plain", "override"])
def test_a_url_signed_here_is_treated_like_its_unsigned_form(
    way: Way, door: Door, caplog: pytest.LogCaptureFixture, params: dict[str, str]
) -> None:
    """S5, L1: it is recognised: it arrives with its parameters, and nothing shows its signature."""
    request = requests.Request("GET", way.presigner.url(door.cat, params=params)).prepare()
    with caplog.at_level(logging.DEBUG):
        responses = way.run(lambda session: [session.send(request), session.send(request)])
    expected = params.get("ResponseContentType", "binary/octet-stream")
    assert [expected, expected] == [response.headers["Content-Type"] for response in responses]
    assert SIGNATURE not in f"{responses[0].url} {request.url} {caplog.text}"
    assert way.presigner.stats()["signed"] == 1


def test_a_request_with_authorization_passes_untouched(way: Way, door: Door) -> None:
    """S5: S3 accepts one mechanism only, and the caller has chosen."""

    class Token(AuthBase):
        def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["Authorization"] = "Bearer mine"
            return request

    ours = way.presigner.url(door.cat)
    way.fetch(door.cat, auth=Token())
    way.fetch(ours, auth=("me", "secret"))
    assert ["", ours.partition("?")[2]] == [request.query for request in door.arrived]


BASIC = "Basic bWU6c2VjcmV0"  # me:secret


def test_what_netrc_adds_counts(
    way: Way, door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S5: a host that ``.netrc`` names gets an Authorization header from requests, and no signature."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    way.fetch(door.cat)
    assert [(SIGNATURE in r.query, r.header("authorization")) for r in door.arrived] == [(False, BASIC)]


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
    headers = {"X-Amz-Server-Side-Encryption-Customer-Algorithm": "AES256"}
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


def test_every_key_arrives_as_the_right_object(way: Way, door: Door) -> None:
    """S1, O3: through requests' own quoting, which turns %7E into ~."""
    keys = {**KEYS, "%7E.jpg": "~.jpg"}
    for key in keys.values():
        door.put("media", key, key.encode())
    responses = way.fetch_all([f"{door.base}/media/{written}" for written in keys])
    assert [key.encode() for key in keys.values()] == [response.content for response in responses]


def test_a_forward_proxy_is_told_the_signed_url(way: Way, door: Door) -> None:
    """S10: over a proxy the whole URL is in the request line; path style and virtual host stay."""
    named = way.using(presigner_for(door, endpoint_url="http://s3.localhost:9000"))
    for url in ("http://media.s3.localhost:9000/cat.jpg", "http://s3.localhost:9000/media/cat.jpg"):
        response = named.fetch(url, proxies={"http": door.base})
        assert (response.content, response.url) == (b"a cat", url)
    assert [request.host for request in door.arrived] == ["media.s3.localhost:9000", "s3.localhost:9000"]


# --- s3:// targets, with an adapter -------------------------------------------------------------------------


@pytest.fixture
def adapter(door: Door) -> Way:
    return Way(True, presigner_for(door))


def test_an_s3_target_takes_the_origins_own_form(
    adapter: Way, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """S10: ``s3://bucket/key`` goes to the endpoint, with its Host, and shows as it was asked for."""
    with caplog.at_level(logging.DEBUG):
        response = adapter.fetch("s3://media/cat.jpg")
    assert (response.content, response.url) == (b"a cat", "s3://media/cat.jpg")
    assert response.request.url == "s3://media/cat.jpg"
    assert door.base == f"http://{door.arrived[0].host}"
    assert SIGNATURE not in caplog.text
    assert adapter.presigner.stats()["caught"] == 1


def test_the_key_of_an_s3_target_is_literal(adapter: Way, door: Door) -> None:
    """O3: requests encodes nothing in such a target, so nothing is decoded, as on the aws command line."""
    keys = ["a b.jpg", "a%20b.jpg", "ü+~.jpg", "what?x=1#y", "a//b"]
    for key in keys:
        door.put("media", key, key.encode())
    responses = adapter.fetch_all([f"s3://media/{key}" for key in keys])
    assert [key.encode() for key in keys] == [response.content for response in responses]


def test_an_s3_target_that_redirects_stays_signed(adapter: Way, door: Door) -> None:
    """C1: its redirect to a URL of the same origin is one within it."""
    door.moved["/media/old.jpg"] = door.cat
    assert adapter.fetch("s3://media/old.jpg").content == b"a cat"


def test_an_s3_target_that_nobody_signs_goes_nowhere(adapter: Way, door: Door) -> None:
    """O4: it has no URL to go out with: the error is that of requests, and says why."""
    with pytest.raises(requests.exceptions.InvalidSchema, match=r"s3://other/cat\.jpg .* no origin"):
        adapter.fetch("s3://other/cat.jpg")
    with adapter.presigner.paused(), pytest.raises(requests.exceptions.InvalidSchema, match="nothing is"):
        adapter.fetch("s3://media/cat.jpg")
    assert door.arrived == []


# --- O4, O5, O6: what is left alone, and what must not leave unsigned ---------------------------------------


def test_what_is_not_covered_goes_out_untouched(way: Way, door: Door) -> None:
    """O4: path, query and headers are byte for byte those of the bare library."""
    narrow = way.using(presigner_for(door, prefix="public/"))
    headers = {"User-Agent": "me", "X-Amz-Meta-Thing": "kept"}
    urls = [f"{door.base}{path}" for path in UNCOVERED.values()]
    with narrow.presigner.paused(), requests.Session() as bare:
        for url in urls:
            bare.get(url, headers=headers)
    narrow.fetch_all(urls, headers=headers)
    wire = [(request.path, request.query, request.headers) for request in door.arrived]
    assert wire[: len(urls)] == wire[len(urls) :]
    assert (narrow.presigner.stats()["passed_uncovered"], narrow.presigner.stats()["signed"]) == (4, 0)


def test_a_fetch_that_cannot_be_signed_does_not_leave(way: Way, door: Door) -> None:
    """O5: without credentials the caller gets SigningError, counted, and nothing unsigned leaves."""
    helpless = way.using(presigner_for(door, session=None))
    for headers in ({}, {"x-amz-checksum-mode": "ENABLED"}):
        with pytest.raises(SigningError, match="no credentials"):
            helpless.fetch(door.cat, headers=headers)
    assert door.arrived == []
    assert (helpless.presigner.stats()["failed"], helpless.presigner.stats()["caught"]) == (2, 0)


def test_a_fetch_that_cannot_be_signed_leaves_where_the_policy_says_so(way: Way, door: Door) -> None:
    """O5: with on_error="pass" it goes out unsigned, and is counted."""
    lenient = way.using(presigner_for(door, session=None, policy=Policy(on_error="pass")))
    assert lenient.fetch(door.cat).status_code == 403
    assert signed(door) == [False]
    assert lenient.presigner.stats()["passed_on_error"] == 1


def test_a_request_with_a_host_of_its_own_is_not_caught(way: Way, door: Door) -> None:
    """O1, S10: a Host header that is not the URL's goes out as it is: no signature could be for both."""
    way.fetch(door.cat, headers={"Host": "media.s3.eu-west-1.amazonaws.com"})
    assert signed(door) == [False]


def test_an_origin_for_links_only_is_not_caught(way: Way, door: Door) -> None:
    """O6: Origin(catch=False) makes links, and hooks leave its fetches alone."""
    links = way.using(presigner_for(door, catch=False))
    assert links.fetch(door.cat).status_code == 403
    assert SIGNATURE in links.presigner.url(door.cat)


def test_nothing_is_caught_while_paused(way: Way, door: Door) -> None:
    """O6: inside paused() nothing is signed, in threads that carry its context neither; after it, it is."""

    def fetch() -> int:
        return way.fetch(door.cat).status_code

    async def in_a_thread() -> int:
        return await asyncio.to_thread(fetch)

    with way.presigner.paused():
        assert [fetch(), asyncio.run(in_a_thread())] == [403, 403]
    assert fetch() == 200
    assert signed(door) == [False, False, True]


def test_overrides_of_whoever_wrote_the_url_are_dropped(way: Way, door: Door) -> None:
    """O7: response-content-type and -disposition on a caught URL are not signed, hence not sent."""
    response = way.fetch(f"{door.cat}?{OVERRIDES}&response-cache-control=no-cache")
    assert response.headers["Content-Type"] == "binary/octet-stream"
    assert {"response-cache-control"} == other_names(door)


# --- D1, D3, D7 ---------------------------------------------------------------------------------------------


def test_a_hundred_fetches_of_one_object_cost_one_signature(way: Way, door: Door) -> None:
    """D1, D3: however many threads of one request ask, an object is signed once."""

    def threaded(session: requests.Session) -> list[int]:
        with ThreadPoolExecutor(5) as pool:
            contexts = [contextvars.copy_context() for _ in range(100)]
            return list(pool.map(lambda c: c.run(session.get, door.cat).status_code, contexts))

    assert way.run(threaded) == [200] * 100
    assert (way.presigner.stats()["signed"], way.presigner.stats()["resolved"]) == (1, 100)


def test_the_scope_reaches_to_thread(hook: Way, door: Door) -> None:
    """D3: requests in an async application run in a thread, which is the request's."""

    async def serve() -> int:
        with hook.presigner.scope():
            return (await asyncio.to_thread(requests.get, door.cat, timeout=5)).status_code

    with intercept("requests"):
        assert asyncio.run(serve()) == 200


#: An application's own code, in a file of its own.
APPLICATION = """

def fetch(session, url):
    return [session.get(url) for _ in range(3)]
"""


def test_outside_a_scope_nothing_is_signed_and_the_call_site_is_told(
    hook: Way, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """D7: once, with the line of the caller's own code, and nothing of a query."""
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(APPLICATION, "a-shop-with-requests.py", "exec"), names)
    with intercept("requests"), requests.Session() as session:
        names["fetch"](session, f"{door.cat}?response-expires=never")
    (told,) = [r.getMessage() for r in caplog.records if r.name == "presign_middleware.clients"]
    assert signed(door) == [False, False, False]
    assert f"{door.cat} " in told
    assert "(a-shop-with-requests.py:4)" in told
    assert "?" not in told
    assert hook.presigner.stats()["passed_outside_scope"] == 3


def test_of_several_process_wide_presigners_any_may_have_signed(hook: Way, door: Door) -> None:
    """S5, L1: a URL that the second one signed arrives, and shows without its signature."""
    elsewhere = presigner_for(door, prefix="private/")
    ours = hook.presigner.url(door.cat)
    with intercept("requests", presigner=elsewhere), intercept("requests", presigner=hook.presigner):
        response = requests.get(ours, timeout=5)
    assert (response.content, response.url) == (b"a cat", door.cat)


def test_a_presigner_can_be_made_active_process_wide(hook: Way, door: Door) -> None:
    """D7: intercept(..., presigner=p) signs outside of scopes, until it is removed."""
    with intercept("requests", presigner=hook.presigner):
        assert requests.get(door.cat, timeout=5).status_code == 200
    assert requests.get(door.cat, timeout=5).status_code == 403
