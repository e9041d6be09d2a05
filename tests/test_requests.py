"""
What holds for requests, with hooks inside a scope and with a `PresignAdapter`.

What every client must keep is in ``test_contract.py``, and what concerns urllib3 itself, below, in
``test_urllib3.py``.
"""

import contextlib
import copy
import dataclasses
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
import requests
from clients import Requests, as_found, changed
from requests.adapters import HTTPAdapter
from ways import SIGNATURE, Door, presigner_for, signed

from presign_middleware import ConfigurationError, Presigner, intercept
from presign_middleware.clients.requests import PresignAdapter


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


@pytest.fixture(params=[False, True], ids=["hook", "adapter"])
def way(request: pytest.FixtureRequest, door: Door) -> Iterator[Way]:
    way = Way(request.param, presigner_for(door))
    with contextlib.nullcontext() if way.is_explicit else intercept("requests"):
        yield way


@pytest.fixture
def hook(door: Door) -> Way:
    """Give the way of hooks, with nothing hooked yet."""
    return Way(False, presigner_for(door))


# --- C1: which fetches are signed ---------------------------------------------------------------------------


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


# --- C2: nobody but the socket sees the signature -----------------------------------------------------------


def test_a_response_can_be_pickled_and_copied(way: Way, door: Door) -> None:
    """C2: what a request carries for its redirects goes into no cache, and is no obstacle there."""
    response = way.fetch(door.cat)
    for kept in (pickle.loads(pickle.dumps(response)), copy.deepcopy(response)):
        assert (kept.content, kept.url) == (b"a cat", door.cat)
        assert type(kept.request.hooks) is dict


# --- C4: install and remove, alone and with others ----------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)])
def test_what_is_removed_leaves_nothing(hook: Way, door: Door, order: tuple[int, ...]) -> None:
    """C4: in whatever order those that share a hook leave, it works to the end, and nothing is left."""
    with as_found(Requests(requests)) as before:
        placed = [intercept(name) for name in ("requests", "urllib3", "requests", "urllib3")]
        assert "HTTPConnection.request" in changed(before)
        for number in order:
            assert hook.fetch(door.cat).status_code == 200
            placed[number].remove()
        assert changed(before) == []
    assert hook.fetch(door.cat).status_code == 403


# --- S5: what is signed already -----------------------------------------------------------------------------


def test_what_netrc_adds_counts(way: Way, door: Door, netrc: str) -> None:
    """S5: a host that ``.netrc`` names gets an Authorization header from requests, and no signature."""
    way.fetch(door.cat)
    assert [(SIGNATURE in r.query, r.header("authorization")) for r in door.arrived] == [(False, netrc)]


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
