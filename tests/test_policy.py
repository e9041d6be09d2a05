"""The life of a URL: when it is dated, how long it is served, what ends it, and which numbers are refused."""

import os
import random
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import boto3
import botocore.session
import pytest
from botocore.credentials import RefreshableCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from presign_middleware import ConfigurationError, Origin, Policy, Presigner
from presign_middleware.policy import FOREVER, Credential, Rotation
from presign_middleware.testing import Clock

NOON = 1_767_268_800  # 2026-01-01 12:00:00 UTC
MIDNIGHT = NOON + 43_200
KEYS = boto3.Session("AKIAPOLICY0000000001", "a-secret-of-test-policy")

instants = st.floats(NOON - 86_400 * 400, NOON + 86_400 * 400)
phases = st.integers(-(2**33), 2**33)


@st.composite
def rotations(draw: st.DrawFn, *, limited: bool = False) -> Rotation:
    """Give any rotation a policy allows; eighths of a second, so that no sum is rounded."""
    lifetime = draw(st.integers(60, 604_800))
    age = draw(st.integers(8, lifetime * 9)) / 8 if limited else None
    span = min(lifetime, age or lifetime)
    if span < 3 or draw(st.booleans()):
        return Policy(lifetime=lifetime, signature_age=None if span < 3 else age).rotation(lifetime)
    least = draw(st.integers(0, int(span * 8) - 16)) / 8
    ageing = draw(st.integers(8, int((span - least - 1) * 8))) / 8
    policy = Policy(lifetime=lifetime, min_remaining=least, ageing=ageing, signature_age=age)
    return policy.rotation(lifetime)


@st.composite
def credentials(draw: st.DrawFn) -> Credential:
    """Give a credential that never ends, or any session of a second to two weeks."""
    if draw(st.booleans()):
        return FOREVER
    obtained, span = draw(instants), draw(st.floats(1, 1_209_600))
    return Credential(obtained, obtained + span, draw(st.sampled_from(["credentials", "assumed"])))


def parameters(url: object) -> dict[str, str]:
    """Return the query of *url*."""
    return dict(parse_qsl(urlsplit(str(url)).query))


def media(**options: Any) -> Origin:
    """Return an origin with a key that never ends."""
    return Origin("media", **{"bucket": "acme-media", "region": "eu-west-1", "session": KEYS, **options})


@pytest.mark.parametrize(
    ("lifetime", "least", "ageing", "period"),
    [(3600, 300, 360, 2940), (60, 10, 6, 44), (600, 100, 60, 440), (604_800, 300, 60_480, 544_020)],
)
def test_defaults(lifetime: int, least: float, ageing: float, period: int) -> None:
    """P1: of a lifetime L, min_remaining is min(300, L/6), ageing L/10, and the period what is left."""
    rotation = Policy(lifetime=lifetime).rotation(lifetime)
    assert (least, ageing, period) == (rotation.min_remaining, rotation.ageing, rotation.period)
    assert Policy().lifetime == 3600


def test_every_lifetime_leaves_time_to_renew() -> None:
    """P1: with default bounds no lifetime from 60 to 604800 has an empty AGEING window or an empty period."""
    for lifetime in [*range(60, 8000), *range(8000, 604_801, 67), 604_800]:
        rotation = Policy().rotation(lifetime)
        life = rotation.life(NOON)
        assert NOON + rotation.period == life.fresh_until < life.ageing_until < life.end


@given(rotations(limited=True), phases, instants, credentials())
def test_the_ageing_window_is_never_empty(
    rotation: Rotation, phase: int, now: float, credential: Credential
) -> None:
    """P1, P3: every URL, whatever it was signed with, is AGEING for a while before it is SPENT."""
    life = rotation.life(rotation.date(phase, now), credential)
    assert life.fresh_until < life.ageing_until <= life.end


@given(rotations(limited=True), phases, instants)
def test_a_date_is_never_in_the_future(rotation: Rotation, phase: int, now: float) -> None:
    """P2: X-Amz-Date is a whole second of the present window, not after now and less than a period before."""
    date = rotation.date(phase, now)
    assert isinstance(date, int)
    assert date <= now < date + rotation.period
    assert (date - phase) % rotation.period == 0


@given(rotations(), phases, instants, st.floats(0, 1, exclude_max=True))
def test_a_window_has_one_date(rotation: Rotation, phase: int, now: float, share: float) -> None:
    """P1, P2: the date stands still for exactly one period, and the next one is a period later."""
    date = rotation.date(phase, now)
    assert date == rotation.date(phase, date)
    assert date == rotation.date(phase, min(date + rotation.period * share, date + rotation.period - 0.001))
    assert date + rotation.period == rotation.date(phase, date + rotation.period)


@given(rotations(limited=True), phases, instants)
def test_renewing_an_ageing_url_makes_another(rotation: Rotation, phase: int, now: float) -> None:
    """P1: with a lasting key a URL is FRESH to the end of its window, so renewal makes other bytes."""
    date = rotation.date(phase, now)
    life = rotation.life(date)
    assert date + rotation.period == life.fresh_until
    assert rotation.date(phase, life.fresh_until) > date


@given(rotations(limited=True), phases, instants, credentials())
def test_min_remaining_is_left_at_the_last_instant(
    rotation: Rotation, phase: int, now: float, credential: Credential
) -> None:
    """P3: just before SPENT a URL has m seconds, a quarter of its session's life, or 600 of its end."""
    life = rotation.life(rotation.date(phase, now), credential)
    wanted = min(rotation.min_remaining, (credential.end - credential.obtained) / 4)
    if life.reason in ("credentials", "assumed"):
        wanted = min(wanted, 600)
    assert life.end - life.ageing_until == pytest.approx(wanted, abs=1e-5)


@given(rotations(limited=True), phases, instants, credentials())
def test_fresh_until_the_window_ends_or_ageing_begins(
    rotation: Rotation, phase: int, now: float, credential: Credential
) -> None:
    """P3: FRESH until min(date + R, end - m' - a'), where a' is at most a tenth of the session's life."""
    date = rotation.date(phase, now)
    life = rotation.life(date, credential)
    ageing = min(rotation.ageing, (credential.end - credential.obtained) / 10)
    end_of_service = min(date + rotation.period, life.ageing_until - ageing)
    assert life.fresh_until == pytest.approx(end_of_service, abs=1e-5)


@given(rotations(limited=True), phases, instants, credentials())
def test_the_first_of_three_ends_counts(
    rotation: Rotation, phase: int, now: float, credential: Credential
) -> None:
    """P4: the end is the earliest of lifetime, credentials and signature age, and the reason names which."""
    date = rotation.date(phase, now)
    life = rotation.life(date, credential)
    ends = {
        "lifetime": date + rotation.lifetime,
        "policy": date + rotation.signature_age,
        credential.reason: credential.end,
    }
    assert min(ends.values()) == life.end == ends[life.reason]


def test_a_session_too_short_for_min_remaining_shrinks_the_bounds() -> None:
    """P3: a session of 600 s under m = 300, a = 360 gives m' = 150, a' = 60."""
    rotation = Policy().rotation(3600)
    life = rotation.life(NOON, Credential(NOON, NOON + 600, "credentials"))
    assert life == (NOON + 600, "credentials", NOON + 390, NOON + 450)


@pytest.mark.parametrize("lifetime", [0, -1, 59, 604_801, 8 * 86_400, 3600.0, 90.5, True, "3600", None])
def test_lifetimes_that_s3_or_the_library_cannot_serve(lifetime: Any) -> None:
    """P1: a lifetime is an int of 60 to 604800; anything else is refused and named, at once and per call."""
    with pytest.raises(ConfigurationError, match=r"60 to 604800, got ") as policy:
        Policy(lifetime=lifetime)
    assert repr(lifetime) in str(policy.value)
    if lifetime is not None:  # per call, None is the policy's own
        with pytest.raises(ConfigurationError, match="60 to 604800"):
            Presigner(media()).url("s3://acme-media/a", lifetime=lifetime)


@pytest.mark.parametrize(
    "options",
    [
        {"min_remaining": 3600},
        {"min_remaining": 3239.5},
        {"ageing": 3300},
        {"ageing": 1800, "min_remaining": 1800},
        {"lifetime": 60, "min_remaining": 58, "ageing": 1.5},
        {"signature_age": 60, "min_remaining": 59},
        {"signature_age": 1},
    ],
)
def test_bounds_that_leave_no_period(options: dict[str, Any]) -> None:
    """P1: m and a that leave less than a whole second to serve in are refused, with the numbers."""
    with pytest.raises(ConfigurationError, match=r"min_remaining=\S+ and ageing=\S+ leave .* 1 or more"):
        Policy(**options)


@pytest.mark.parametrize("name", ["min_remaining", "ageing", "signature_age", "assumed_session", "skew"])
@pytest.mark.parametrize("value", [-90_000, float("nan"), float("inf"), "300"])
def test_settings_that_are_no_span_of_time(name: str, value: Any) -> None:
    """P1: a negative, endless or textual number of seconds is refused and its setting is named."""
    with pytest.raises(ConfigurationError, match=name):
        Policy(**{name: value})


@pytest.mark.parametrize("name", ["assumed_session", "shared_patience", "invalidation_lag", "fallback_ttl"])
def test_settings_that_nothing_stands_for(name: str) -> None:
    """P1: None is refused where no default depends on other settings, and not met in a request."""
    options: dict[str, Any] = {name: None}
    with pytest.raises(ConfigurationError, match=f"^{name} must be a number of seconds .* got None"):
        Policy(**options)


@pytest.mark.parametrize("value", [True, None, 1.5, -1])
def test_a_limit_is_a_number_of_urls(value: Any) -> None:
    """R6: refresh_limit is a whole number, and is named where it is none."""
    with pytest.raises(ConfigurationError, match=r"^refresh_limit must be a whole number"):
        Policy(refresh_limit=value)


@pytest.mark.parametrize("policy", ["auto", {}, {"lifetime": 600}, Policy])
def test_a_policy_is_one(policy: Any) -> None:
    """P1: what is no Policy is refused by its type, of a presigner and of an origin."""
    with pytest.raises(ConfigurationError, match=f"policy must be a Policy, got {type(policy).__name__}"):
        Presigner(media(), policy=policy)
    with pytest.raises(ConfigurationError, match=f"policy must be a Policy, got {type(policy).__name__}"):
        Presigner(media(policy=policy))


def test_a_shorter_lifetime_per_call_needs_room_for_the_bounds() -> None:
    """P1: lifetime= of one call is checked against the policy's own m and a."""
    presigner = Presigner(media(), policy=Policy(min_remaining=200), clock=Clock())
    assert parameters(presigner.url("s3://acme-media/a", lifetime=300))["X-Amz-Expires"] == "300"
    with pytest.raises(ConfigurationError, match="rotation period"):
        presigner.url("s3://acme-media/a", lifetime=200)


@given(st.integers(60, 604_800), st.floats(0.01, 0.99), phases, instants, credentials())
def test_a_share_of_the_lifetime_is_left_unless_the_session_ends_first(
    lifetime: int, share: float, phase: int, now: float, credential: Credential
) -> None:
    """C6: of ExpiresIn L at least share * L is left; only a session that ends the URL can have less left."""
    try:
        rotation = Policy(min_remaining=1, ageing=1).rotation(lifetime, share)
    except ConfigurationError:
        assert lifetime * (1 - share) < 4  # no second between one URL and the next, and one to renew in
        return
    life = rotation.life(rotation.date(phase, now), credential)
    assert life.fresh_until < life.ageing_until
    if life.reason == "lifetime":
        assert life.end - life.ageing_until == pytest.approx(share * lifetime, abs=1e-5)
    else:
        assert life.end - life.ageing_until == pytest.approx(rotation.least(credential), abs=1e-5)


@pytest.mark.parametrize("share", [0, 1, -0.5, 2, float("nan"), "half", True])
def test_a_share_is_between_none_and_all(share: Any) -> None:
    """C6: boto_share has to leave life to the URL and time to serve it."""
    with pytest.raises(ConfigurationError, match="boto_share"):
        Policy(boto_share=share)


@pytest.mark.parametrize("lifetime", [60, 900, 3600, 604_800])
@pytest.mark.parametrize("family", ["{}.jpg", "public/2026/01/{:06}/thumb.webp", "{0:x}/{0}", "ü {}"])
def test_turnovers_are_spread_evenly(family: str, lifetime: int) -> None:
    """P2: of 1,000 keys no tenth of the period sees more than twice its share turn over."""
    clock = Clock(NOON)
    presigner = Presigner(media(), clock=clock)
    period = Policy().rotation(lifetime).period
    turnovers: Counter[int] = Counter()
    for number in range(1000):
        signed = presigner.resolve(f"s3://acme-media/{family.format(number)}", lifetime=lifetime)
        turnovers[int((signed.created_at + period - NOON - 1) * 10 // period)] += 1
    assert set(range(10)) >= turnovers.keys()
    assert max(turnovers.values()) <= 2 * 100


def test_two_processes_agree_without_asking() -> None:
    """P2: processes with other hash seeds and start times, but the same key and clock, make the same URLs."""
    script = """
import boto3, sys
from presign_middleware import Origin, Presigner
from presign_middleware.testing import Clock
session = boto3.Session("AKIAPOLICY0000000001", "a-secret-of-test-policy")
origin = Origin("media", bucket="acme-media", region="eu-west-1", session=session)
presigner = Presigner(origin, clock=Clock(float(sys.argv[1])))
sys.stdout.write("\\n".join(presigner.urls(f"s3://acme-media/{n}" for n in range(100))))
"""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(NOON)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "4242")
    ]
    here = Presigner(media(), clock=Clock(NOON)).urls([f"s3://acme-media/{n}" for n in range(100)])
    said = [process.communicate(timeout=60)[0].split("\n") for process in running]
    assert [here, here] == said


def test_an_older_process_agrees_with_a_younger_one() -> None:
    """P2: while a URL is FRESH, a process that has long held it and one that has just begun give the same."""
    clock = Clock(NOON)
    old = Presigner(media(), clock=clock)
    signed = old.resolve("s3://acme-media/cat.jpg")
    fresh_for = Policy().rotation(3600).period - (NOON - signed.created_at)
    clock.advance(fresh_for - 0.25)
    assert signed == old.resolve("s3://acme-media/cat.jpg")
    assert signed == Presigner(media(), clock=clock).resolve("s3://acme-media/cat.jpg")
    clock.advance(0.25)
    assert str(signed) != Presigner(media(), clock=clock).url("s3://acme-media/cat.jpg")


_by_lifetime: dict[int, tuple[Clock, Presigner]] = {}


@settings(max_examples=300)
@given(st.sampled_from([60, 900, 3600, 604_800]), st.floats(-4000, 4000), st.integers(0, 50))
def test_over_midnight(lifetime: int, offset: float, number: int) -> None:
    """P9: around midnight UTC the scope has the date of X-Amz-Date, and X-Amz-Expires is the lifetime."""
    if lifetime not in _by_lifetime:
        clock = Clock(MIDNIGHT)
        _by_lifetime[lifetime] = clock, Presigner(media(policy=Policy(lifetime=lifetime)), clock=clock)
    clock, presigner = _by_lifetime[lifetime]
    clock.step(MIDNIGHT + offset - clock.time())
    signed = presigner.resolve(f"s3://acme-media/{number}")
    query = parameters(signed)
    assert str(lifetime) == query["X-Amz-Expires"]
    assert query["X-Amz-Date"][:8] == query["X-Amz-Credential"].split("/")[1]
    assert query["X-Amz-Date"] == f"{datetime.fromtimestamp(signed.created_at, UTC):%Y%m%dT%H%M%SZ}"


def test_both_sides_of_midnight_are_met() -> None:
    """P9: at 00:10 UTC some URLs are dated yesterday and some today, each in its own day's scope."""
    presigner = Presigner(media(), clock=Clock(MIDNIGHT + 600))
    urls = presigner.urls([f"s3://acme-media/{number}" for number in range(99)])
    assert {"20260101", "20260102"} == {parameters(url)["X-Amz-Date"][:8] for url in urls}


def test_a_skew_shifts_the_date() -> None:
    """P8: with S3's clock 100 s ahead of this host's, URLs are dated as on a host whose clock is right."""
    ahead = Presigner(media(), policy=Policy(skew=100), clock=Clock(NOON - 100))
    assert Presigner(media(), clock=Clock(NOON)).url("s3://acme-media/a") == ahead.url("s3://acme-media/a")


class Sessions:
    """A credential source whose sessions live for *span* seconds of the test's clock."""

    def __init__(self, clock: Clock, span: float) -> None:
        self.ends: dict[str, float] = {}
        self.asked: Counter[float] = Counter()  # how often, by instant
        self._clock, self._span = clock, span
        credentials: Any = RefreshableCredentials
        core: Any = botocore.session.Session()
        core._credentials = credentials.create_from_metadata(self._begin(), self._begin, "test")
        core._credentials._time_fetcher = lambda: datetime.fromtimestamp(clock.time(), UTC)
        self.boto3 = boto3.Session(botocore_session=core)

    def _begin(self) -> dict[str, str]:
        self.asked[self._clock.time()] += 1
        if self.asked[self._clock.time()] > 20:
            raise RuntimeError("asked again and again")
        key = f"ASIAPOLICY{len(self.ends):010}"
        end = float(int(self._clock.time() + self._span))
        self.ends[key] = end
        expiry = datetime.fromtimestamp(end, UTC).isoformat()
        return {"access_key": key, "secret_key": "secret", "token": f"token-{key}", "expiry_time": expiry}


@pytest.mark.parametrize("span", [120, 899, 900, 901, 3600])
def test_a_source_is_asked_once_for_a_session(span: float) -> None:
    """P5: sessions under 15 minutes, due for botocore as soon as they begin, are not fetched in a loop."""
    clock = Clock(NOON)
    sessions = Sessions(clock, span)
    Presigner(media(session=sessions.boto3), clock=clock).url("s3://acme-media/a")
    # The first one is the source's own, which botocore may replace when it is first read.
    assert sessions.asked[NOON] <= 2


@pytest.mark.parametrize("lifetime", [60, 3600, 86_400])
@pytest.mark.parametrize("span", [None, 120, 900, 3600, 43_200])
def test_no_url_leaves_with_too_little_life(lifetime: int, span: float | None) -> None:
    """P3, P4: over a long walk in time every URL handed out has m (or m') of its true life left."""
    clock = Clock(NOON)
    sessions = Sessions(clock, span) if span else None
    presigner = Presigner(
        media(session=sessions.boto3 if sessions else KEYS), policy=Policy(lifetime=lifetime), clock=clock
    )
    # A second less than the span: its end was cut to a whole second.
    least = min(300, lifetime / 6, ((span or 1e9) - 1) / 4)
    steps = random.Random(lifetime)
    for _ in range(400):
        longest = steps.choice([0.1, 1, lifetime / 50, lifetime / 7, (span or lifetime) / 9])
        clock.advance(longest * steps.random())
        now, signed = clock.time(), presigner.resolve(f"s3://acme-media/{steps.randrange(5)}")
        key = parameters(signed)["X-Amz-Credential"].split("/")[0]
        end = min(signed.created_at + lifetime, sessions.ends[key] if sessions else 1e12)
        assert end == signed.expires_at
        assert signed.created_at <= now <= end - least


def reasons() -> list[tuple[str, Any, float, Policy]]:
    """Return what can end a URL: reason, session, true end at NOON and policy."""
    lasting: dict[str, Any] = {"aws_access_key_id": "AKIA", "aws_secret_access_key": "secret"}
    return [
        ("lifetime", KEYS, 3600, Policy()),
        ("policy", KEYS, 1000, Policy(signature_age=1000)),
        ("credentials", Sessions(Clock(NOON), 1800).boto3, 1800, Policy(lifetime=86_400)),
        ("assumed", boto3.Session(**lasting, aws_session_token="token"), 900, Policy(lifetime=86_400)),
    ]


@pytest.mark.parametrize("reason", ["lifetime", "policy", "credentials", "assumed"])
def test_a_signed_url_says_what_ends_it(reason: str) -> None:
    """P4, P10: expires_at is the true end, and expires_reason is what comes first of the four."""
    session, span, policy = next(row[1:] for row in reasons() if row[0] == reason)
    presigner = Presigner(media(session=session), policy=policy, clock=Clock(NOON))
    signed = presigner.resolve("s3://acme-media/a")
    assert reason == signed.expires_reason
    start = signed.created_at if reason in ("lifetime", "policy") else NOON
    assert start + span == signed.expires_at
