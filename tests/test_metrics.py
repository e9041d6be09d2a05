"""What a process counts, by origin, and what it tells operators of that."""

import logging
import re
from dataclasses import replace
from typing import Any

import boto3
import pytest

import presign_middleware.wsgi
from presign_middleware import Origin, Presigner, SigningError
from presign_middleware.metrics import Counts
from presign_middleware.testing import Clock
from presign_middleware.wsgi import PresignMiddleware

SESSION = boto3.Session(aws_access_key_id="AKIATEST", aws_secret_access_key="secret", region_name="eu-west-1")
MEDIA = Origin("media", bucket="media", session=SESSION)
OTHERS = replace(MEDIA, name="archive", bucket="archive")


@pytest.fixture
def presigner(clock: Clock) -> Presigner:
    return Presigner(MEDIA, OTHERS, clock=clock)


def test_urls_are_counted_by_origin_and_tier(presigner: Presigner) -> None:
    """L2: each URL handed out once, in the tally of its origin; the sum is what ``stats()`` tells."""
    with presigner.scope():
        for _ in range(2):
            presigner.url("s3://media/a")
        presigner.urls(["s3://media/a", "s3://archive/a", "s3://archive/a"])
    presigner.url("s3://archive/a")
    found = {
        name: (tally.from_signer, tally.from_scope, tally.from_local, tally.from_flight)
        for name, tally in presigner.counts.each().items()
    }
    assert found == {"media": (1, 2, 0, 0), "archive": (1, 0, 1, 1)}
    assert presigner.stats()["resolved"] == 6


def test_a_failure_is_counted_for_its_origin(clock: Clock) -> None:
    """L2: an origin without credentials has failures, and no other has."""
    keyless = replace(MEDIA, name="keyless", bucket="keyless", session=boto3.Session(region_name="eu-west-1"))
    presigner = Presigner(MEDIA, keyless, clock=clock)
    presigner.url("s3://media/a")
    with pytest.raises(SigningError):
        presigner.url("s3://keyless/a")
    assert {name: tally.failed for name, tally in presigner.counts.each().items()} == {
        "media": 0,
        "keyless": 1,
    }


def test_many_origins_are_counted_as_one(clock: Clock) -> None:
    """L2: the first hundred are told apart, all others are "other"."""
    origins = [replace(MEDIA, name=f"tenant{n}", bucket=f"tenant{n}") for n in range(103)]
    presigner = Presigner(*origins, clock=clock)
    presigner.urls([f"s3://tenant{n}/a" for n in range(103)])
    counted = presigner.counts.each()
    assert list(counted) == [*(f"tenant{n}" for n in range(100)), "other"]
    assert {tally.signed for name, tally in counted.items() if name != "other"} == {1}
    assert (counted["other"].signed, presigner.stats()["signed"]) == (3, 103)


def test_an_origin_that_is_called_other() -> None:
    """L2: it is counted as the others are, were there any."""
    counts = Counts.by_origin(["media", "other"])
    assert (list(counts.each()), counts.of("other")) == (["media", "other"], counts.others)


def test_what_leaves_unused_is_told_apart(clock: Clock) -> None:
    """A URL that was asked for again is evicted, but not unused, however long ago that was."""
    presigner = Presigner(MEDIA, clock=clock, local_size=2)
    for key in "abb":
        presigner.url(f"s3://media/{key}")
    for key in "cdef":  # b is given a second chance first
        presigner.url(f"s3://media/{key}")
    stats = presigner.stats()
    assert (stats["evicted"], stats["evicted_unused"]) == (4, 3)


def test_the_life_of_new_urls_is_measured(presigner: Presigner) -> None:
    """Of all that were waited for, and of one of 64 that were not."""
    presigner.url("s3://media/waited for")
    presigner.urls([f"s3://media/{n}" for n in range(70)])
    measured = presigner.counts.of("media").measured
    assert sum(measured.lives) == 2
    assert 2 * 600 <= measured.lives_seconds <= 2 * 3600


def test_signatures_are_timed(presigner: Presigner) -> None:
    """One by a plan of 64, the first included."""
    presigner.urls([f"s3://media/{n}" for n in range(70)])
    measured = presigner.counts.of("media").measured
    assert measured.plans_timed == 2
    assert measured.plan_seconds > 0 == measured.boto3_seconds


def test_nothing_is_advised_without_a_reason(presigner: Presigner) -> None:
    """Mostly there is none."""
    presigner.urls([f"s3://media/{n}" for n in range(1_500)])
    assert presigner.advice() == []


def test_a_table_that_is_too_small_is_told(clock: Clock) -> None:
    """With the counters that say so, and what to set."""
    presigner = Presigner(MEDIA, clock=clock, local_size=10)
    presigner.urls([f"s3://media/{n}" for n in range(1_010)])
    (advice,) = presigner.advice()
    assert advice.startswith("1000 of 1000 URLs that left this process for lack of room")
    assert "raise Presigner(local_size=10)" in advice


@pytest.mark.parametrize(
    ("counts", "origin", "said"),
    [
        ({}, {"signed": 2000, "signed_by_boto3": 1500}, r"boto3 signed 1500 of 2000 URLs"),
        ({"shared_rejected": 2000}, {"from_shared": 5}, r"of no use \(shared_rejected 2000, from_shared 5\)"),
        ({}, {"short_lived": 3}, r"too short for min_remaining: 3 URLs"),
        ({"passed_outside_scope": 4}, {}, r"4 fetches of covered objects went out unsigned"),
    ],
)
def test_what_counters_give_reason_to_change_is_told(
    presigner: Presigner, counts: dict[str, int], origin: dict[str, int], said: str
) -> None:
    """One text for each reason, and no key in any."""
    for name, number in counts.items():
        setattr(presigner.counts, name, number)
    for name, number in origin.items():
        setattr(presigner.counts.of("media"), name, number)
    (advice,) = presigner.advice()
    assert re.search(said, advice)
    assert "\n" not in advice


def test_requests_are_not_logged(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At INFO and above nothing is said of a request, be its URLs signed, held or renewed."""
    monkeypatch.setattr(presign_middleware.wsgi, "intercept", lambda: None)
    presigner = Presigner(MEDIA, clock=clock)

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        presigner.urls([f"s3://media/{n}" for n in range(10)])
        presigner.url("s3://media/0")
        return [b""]

    app = PresignMiddleware(application, presigner)
    with caplog.at_level(logging.INFO):
        for _ in range(50):
            app({"REQUEST_METHOD": "GET"}, lambda *_: lambda _: None).close()  # type: ignore[attr-defined]
            clock.advance(300)
    assert presigner.stats()["signed"] > 10
    assert caplog.messages == []
