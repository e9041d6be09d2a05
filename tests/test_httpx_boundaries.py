"""
What is left alone, and what must not leave unsigned, through httpx and httpx2.

The decision is the same code in every way of `ways`, so every second one will do.
"""

import asyncio
import contextvars
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from ways import SIGNATURE, Door, Way, opened, paired_ways, prepared, presigner_for, signed

from presign_middleware import Policy, SigningError
from presign_middleware.testing import Clock


@pytest.fixture
def door(s3_clock: Clock) -> Iterator[Door]:
    with opened(Door(clock=s3_clock)) as door:
        yield door


@pytest.fixture(params=paired_ways())
def way(request: pytest.FixtureRequest, door: Door) -> Iterator[Way]:
    with prepared(request.param, door) as way:
        yield way


UNCOVERED = {
    "another bucket": "/other/a%20b/ü'()*+~?b=2&a=1&c",
    "outside the prefix": "/media/private/cat.jpg?response-content-type=text%2Fhtml",
    "a subresource": "/media/public/cat.jpg?acl",
    "dot segments": "/media/public/%2e%2e/cat.jpg",
}


def test_what_is_not_covered_goes_out_untouched(way: Way, door: Door) -> None:
    """O4: path, query and headers are byte for byte those of the bare library."""
    narrow = way.using(presigner_for(door, prefix="public/"))
    headers = {"User-Agent": "me", "X-Amz-Meta-Thing": "kept"}
    urls = [f"{door.base}{path}" for path in UNCOVERED.values()]
    with way.library.Client(verify=False) as bare:
        for url in urls:
            bare.get(url, headers=headers, extensions={"presign": False})
    narrow.fetch_all(urls, headers=headers)
    wire = [(request.path, request.query, request.headers) for request in door.arrived]
    assert wire[: len(urls)] == wire[len(urls) :]
    assert (narrow.presigner.stats()["passed_uncovered"], narrow.presigner.stats()["signed"]) == (4, 0)


#: Without headers to sign, and with one: two paths through the signer.
SIGNED_HEADERS: tuple[dict[str, str], ...] = ({}, {"x-amz-checksum-mode": "ENABLED"})


def test_a_fetch_that_cannot_be_signed_does_not_leave(way: Way, door: Door) -> None:
    """O5: without credentials the caller gets SigningError, counted, and nothing unsigned leaves."""
    helpless = way.using(presigner_for(door, session=None))
    for headers in SIGNED_HEADERS:
        with pytest.raises(SigningError, match="no credentials"):
            helpless.fetch(door.cat, headers=headers)
    assert door.arrived == []
    assert (helpless.presigner.stats()["failed"], helpless.presigner.stats()["caught"]) == (2, 0)


def test_a_fetch_that_cannot_be_signed_leaves_where_the_policy_says_so(way: Way, door: Door) -> None:
    """O5: with on_error="pass" it goes out unsigned, and is counted."""
    lenient = way.using(presigner_for(door, session=None, policy=Policy(on_error="pass")))
    for headers in SIGNED_HEADERS:
        assert lenient.fetch(door.cat, headers=headers).status_code == 403
    assert signed(door) == [False, False]
    assert (lenient.presigner.stats()["failed"], lenient.presigner.stats()["passed_on_error"]) == (2, 2)


def test_a_request_with_a_host_of_its_own_is_not_caught(way: Way, door: Door) -> None:
    """O1, S10: a Host header that is not the URL's goes out as it is: no signature could be for both."""
    way.fetch(door.cat, headers={"Host": "media.s3.eu-west-1.amazonaws.com"})
    assert signed(door) == [False]
    assert way.presigner.stats()["passed_uncovered"] == 1


def test_an_origin_for_links_only_is_not_caught(way: Way, door: Door) -> None:
    """O6: Origin(catch=False) makes links, and hooks leave its fetches alone."""
    links = way.using(presigner_for(door, catch=False))
    assert links.fetch(door.cat).status_code == 403
    assert SIGNATURE in links.presigner.url(door.cat)


def test_one_request_can_opt_out(way: Way, door: Door) -> None:
    """O6: extensions={"presign": False} sends a request as it is, and its redirects too."""
    door.moved["/media/old.jpg"] = "/media/cat.jpg"
    assert way.fetch(f"{door.base}/media/old.jpg", extensions={"presign": False}).status_code == 403
    assert signed(door) == [False, False]


def test_nothing_is_caught_while_paused(way: Way, door: Door) -> None:
    """O6: inside paused() nothing is signed; after it, it is."""
    with way.presigner.paused():
        assert way.fetch(door.cat).status_code == 403
    assert way.fetch(door.cat).status_code == 200
    assert signed(door) == [False, True]


def test_tasks_and_threads_that_carry_the_context_are_paused_too(way: Way, door: Door) -> None:
    """O6: what starts inside paused() is paused: tasks, ``to_thread``, threads with a copied context."""

    def fetch() -> int:
        return int(way.fetch(door.cat).status_code)

    async def fan_out() -> list[int]:
        task = asyncio.create_task(asyncio.to_thread(fetch))
        return list(await asyncio.gather(task, asyncio.to_thread(fetch)))

    with way.presigner.paused(), ThreadPoolExecutor(1) as pool:
        assert asyncio.run(fan_out()) == [403, 403]
        assert pool.submit(contextvars.copy_context().run, fetch).result() == 403
    assert signed(door) == [False, False, False]


OVERRIDES = "response-content-type=text%2Fhtml&response-content-disposition=inline"


def test_overrides_of_whoever_wrote_the_url_are_dropped(way: Way, door: Door) -> None:
    """O7: response-content-type and -disposition on a caught URL are not signed, hence not sent."""
    response = way.fetch(f"{door.cat}?{OVERRIDES}&response-cache-control=no-cache")
    assert response.headers["Content-Type"] == "binary/octet-stream"
    assert response.headers["Cache-Control"] == "no-cache"
    assert {"response-cache-control"} == other_names(door)


def test_overrides_are_kept_where_the_origin_says_so(way: Way, door: Door) -> None:
    """O7: Origin(response_overrides=True) signs what the URL asks for."""
    lenient = way.using(presigner_for(door, response_overrides=True))
    response = lenient.fetch(f"{door.cat}?{OVERRIDES}")
    assert response.headers["Content-Type"] == "text/html"
    assert response.headers["Content-Disposition"] == "inline"


def test_a_version_is_kept(way: Way, door: Door) -> None:
    """O7: versionId is part of what is asked for, and signed."""
    door.put("media", "dog.jpg", b"first", version_id="v1")
    door.put("media", "dog.jpg", b"second", version_id="v2")
    assert way.fetch(f"{door.base}/media/dog.jpg", params={"versionId": "v1"}).content == b"first"


def other_names(door: Door) -> set[str]:
    """Return the names in the queries that arrived, but those of signatures."""
    names = {pair.partition("=")[0] for request in door.arrived for pair in request.query.split("&")}
    return {name for name in names if not name.startswith(SIGNATURE)}


def test_a_url_signed_by_others_passes_untouched(way: Way, door: Door) -> None:
    """S5: a URL that already has a signature, of either version, goes out as it is."""
    queries = ["AWSAccessKeyId=AKIA1&Signature=x%2By%3D&Expires=1", "X-Amz-Signature=0f&X-Amz-Expires=60"]
    responses = way.fetch_all([f"{door.cat}?{query}" for query in queries])
    assert queries == [request.query for request in door.arrived]
    assert queries == [response.url.query.decode() for response in responses]


def test_a_url_signed_by_another_presigner_arrives(way: Way, door: Door) -> None:
    """S5: whoever presigned it, it is fetched with the signature it has."""
    theirs = presigner_for(door).url(door.cat)
    assert way.fetch(theirs).content == b"a cat"
    assert way.presigner.stats()["signed"] == 0


@pytest.mark.parametrize("params", [{}, {"ResponseContentType": "text/html"}], ids=["plain", "override"])
def test_a_url_signed_here_is_treated_like_its_unsigned_form(
    way: Way, door: Door, caplog: pytest.LogCaptureFixture, params: dict[str, str]
) -> None:
    """S5, L1: it is recognised: it arrives with its parameters, and nothing shows its signature."""
    ours = way.presigner.url(door.cat, params=params)
    with caplog.at_level(logging.DEBUG):
        response = way.fetch(ours)
    assert params.get("ResponseContentType", "binary/octet-stream") == response.headers["Content-Type"]
    assert SIGNATURE not in f"{response.url} {response.request.url} {caplog.text}"
    assert way.presigner.stats()["signed"] == 1


def test_a_url_signed_here_from_a_bucket_name_is_recognised_too(way: Way, door: Door) -> None:
    """S5: an ``s3://`` target has a URL of the origin's own form, which is this presigner's as well."""
    response = way.fetch(way.presigner.url("s3://media/cat.jpg"))
    assert response.content == b"a cat"
    assert door.cat == str(response.url)


def test_a_request_with_authorization_passes_untouched(way: Way, door: Door) -> None:
    """S5: S3 accepts one mechanism only, and the caller has chosen."""
    way.fetch(door.cat, headers={"Authorization": "AWS4-HMAC-SHA256 mine"})
    way.fetch(door.cat, auth=("me", "secret"))
    assert signed(door) == [False, False]
