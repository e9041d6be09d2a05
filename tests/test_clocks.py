"""
Clocks: a URL's life as instants go by, midnights, windows, skew, and clocks that are set or stand still.

Of `policy` what `test_policy` leaves out: how a life is served from its first instant to its last,
on both clocks of a process.
"""

import itertools
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from math import inf
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import boto3
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sources import A_DAY, Chain, Role, end_of, settle, signed_by, source_of

from presign_middleware import Origin, Policy, Presigner, SigningError
from presign_middleware.credentials import Keys, Source
from presign_middleware.local import Service
from presign_middleware.metrics import Counts, Tally
from presign_middleware.objects import S3Object
from presign_middleware.policy import FOREVER, Credential, Rotation
from presign_middleware.testing import Clock, KeyPair, Oracle, S3Request

NOON = 1_767_268_800  # 2026-01-01 12:00:00 UTC
MIDNIGHT = NOON + 43_200
SECRET = "a-secret-of-test-clocks"
KEYS = boto3.Session("AKIACLOCKS", SECRET)
OBJECT = S3Object.of("media", "media", "", "a", "GET", (), 3600)

instants = st.integers((NOON - 86_400) * 8, (NOON + 86_400) * 8).map(lambda eighths: eighths / 8)
phases = st.integers(0, 2**32 - 1)
skews = st.one_of(st.just(0.0), st.integers(-86_400, 86_400).map(float))

quick = settings(max_examples=150, suppress_health_check=[HealthCheck.filter_too_much])
slow = settings(max_examples=40)


@st.composite
def rotations(draw: st.DrawFn) -> Rotation:
    """Give any rotation that a policy allows; eighths of a second, so that no sum is rounded."""
    lifetime = draw(st.integers(60, 604_800))
    if draw(st.booleans()):
        return Policy(lifetime=lifetime).rotation(lifetime)
    least = draw(st.integers(0, lifetime * 8 - 16)) / 8
    ageing = draw(st.integers(8, int((lifetime - least - 1) * 8))) / 8
    return Policy(lifetime=lifetime, min_remaining=least, ageing=ageing).rotation(lifetime)


@st.composite
def lives(draw: st.DrawFn) -> tuple[Rotation, int, Credential, float]:
    """Give a rotation, the date of a URL, the credential that signed it and the instant when it did."""
    rotation, now = draw(rotations()), draw(instants)
    date = rotation.date(draw(phases), now)
    if draw(st.booleans()):
        return rotation, date, FOREVER, now
    span = draw(st.integers(40, 1_209_600 * 8)) / 8  # 5 s to two weeks
    obtained = now - draw(st.integers(0, 7)) * span / 8
    return rotation, date, Credential(obtained, obtained + span, "credentials", "ASIA", "token"), now


def bound_of(rotation: Rotation, credential: Credential, reason: str) -> float:
    """Return m': what a URL that ends for *reason* has left at least when it is served."""
    bound = min(rotation.min_remaining, (credential.end - credential.obtained) / 4)
    return min(bound, 600) if reason in ("credentials", "assumed") else bound


def media(**options: Any) -> Origin:
    """Return an origin with a key that never ends."""
    return Origin("media", **{"bucket": "media", "region": "eu-west-1", "session": KEYS, **options})


def parameters(url: object) -> dict[str, str]:
    """Return the query of *url*."""
    return dict(parse_qsl(urlsplit(str(url)).query))


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


# --- a life as instants go by -------------------------------------------------------------------------------


@quick
@given(lives(), skews, st.floats(-1e6, 1e6))
def test_a_life_has_three_parts(
    life: tuple[Rotation, int, Credential, float], skew: float, offset: float
) -> None:
    """P3, P7, P8: FRESH, then AGEING, then SPENT, none left out: by whichever clock is there first."""
    rotation, date, credential, _ = life
    fresh_until, ageing_until = rotation.life(date, credential)[2:]
    assume(fresh_until > date + 0.1)
    service = Service.of(rotation.life(date, credential), date, skew, credential)
    entry = service.entry(OBJECT, "", date, offset, Tally())
    apart = 1e-3  # sums with an offset are rounded
    for instant, is_fresh, is_spent in [
        (date, True, False),
        (fresh_until - apart, True, False),
        (fresh_until + apart, False, False),
        (ageing_until - apart, False, False),
        (ageing_until + apart, False, True),
        (inf, False, True),
    ]:
        wall = instant - skew
        early = date - skew
        for clocks in [(wall, wall + offset), (wall, early + offset), (early, wall + offset)]:
            assert (is_fresh, is_spent) == (entry.is_fresh(*clocks), entry.is_spent(*clocks))


@quick
@given(lives(), st.floats(0, 1))
def test_a_url_that_is_served_has_what_it_must(
    life: tuple[Rotation, int, Credential, float], share: float
) -> None:
    """P3, P4: at any instant of service, the last one too, m' or more of the true life is left."""
    rotation, date, credential, _ = life
    planned = rotation.life(date, credential)
    assert planned.end == min(date + rotation.lifetime, credential.end)
    last = planned.ageing_until - (1 - share) * (planned.ageing_until - planned.fresh_until)
    assert planned.end - last >= bound_of(rotation, credential, planned.reason) - 1e-3


@quick
@given(rotations(), phases, instants)
def test_rotation_covers_all_of_time(rotation: Rotation, phase: int, now: float) -> None:
    """P1, P2, P9: at any instant a lasting key makes a FRESH URL, dated not after now, of one window."""
    date = rotation.date(phase, now)
    life = rotation.life(date)
    assert date <= now < life.fresh_until
    assert rotation.date(phase, life.fresh_until - 0.125) == date
    assert rotation.date(phase, life.fresh_until) == date + rotation.period
    assert rotation.date(phase, date - 0.125) == date - rotation.period


@quick
@given(rotations(), phases, instants)
def test_ageing_lasts_into_the_next_window(rotation: Rotation, phase: int, now: float) -> None:
    """P1, P3: while a URL is AGEING its successor is there, FRESH and of other bytes, for a second."""
    life = rotation.life(rotation.date(phase, now))
    assert life.ageing_until - life.fresh_until >= 1
    successor = rotation.life(rotation.date(phase, life.fresh_until))
    assert successor.fresh_until > life.fresh_until
    assert successor.end > life.end


@quick
@given(lives())
def test_a_new_session_has_time_to_serve(life: tuple[Rotation, int, Credential, float]) -> None:
    """P3, P5: what a session signs in its first half can be served then, whatever m and a were asked for."""
    rotation, _, credential, _ = life
    assume(credential.end != inf)
    half = (credential.obtained + credential.end) / 2
    date = rotation.date(0, half)
    planned = rotation.life(date, credential)
    assert half < planned.ageing_until or planned.reason == "lifetime"
    assert planned.end - planned.ageing_until == pytest.approx(
        bound_of(rotation, credential, planned.reason), abs=1e-3
    )


@quick
@given(
    st.integers(5, 172_800),
    st.integers(60, 604_800),
    st.floats(0, 0.95),
    st.sampled_from([inf, 900]),
)
def test_a_source_is_asked_before_its_urls_are_spent(
    span: int, lifetime: int, share: float, lead: float
) -> None:
    """P5: whatever min_remaining, a source is due while URLs of its session still have m' and more left."""
    least = share * (lifetime - 8)
    rotation = Policy(lifetime=lifetime, min_remaining=least, ageing=1).rotation(lifetime)
    clock = Clock(NOON)
    source = Source("", lambda: Keys("A", "s", "t", NOON + span, "", ""), None, lead, 900, 0, clock, Counts())
    credential = source.renew().credential
    assert source.answer.due < credential.end - rotation.least(credential)


# --- midnights and windows ----------------------------------------------------------------------------------


def dated(instant: int, lifetime: int) -> str:
    """Return a target whose window begins at *instant*."""
    presigner = Presigner(media(policy=Policy(lifetime=lifetime)), clock=Clock(instant))
    targets = (f"s3://media/{number}" for number in range(100_000))
    return next(target for target in targets if presigner.resolve(target).created_at == instant)


@pytest.mark.parametrize("date", [MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 1])
def test_a_url_of_the_seconds_around_midnight(date: int, s3_oracle: Oracle, s3_clock: Clock) -> None:
    """P9: a URL dated a second before midnight, at it or after is of its own day, and S3 takes it."""
    s3_oracle.add_key("AKIACLOCKS", SECRET)
    target = dated(date, 60)
    clock = Clock(date)
    presigner = Presigner(media(policy=Policy(lifetime=60)), clock=clock)
    signed = presigner.resolve(target)
    query = parameters(signed)
    day = f"{datetime.fromtimestamp(date, UTC):%Y%m%d}"
    assert (day, day) == (query["X-Amz-Date"][:8], query["X-Amz-Credential"].split("/")[1])
    s3_oracle.put("media", target.rpartition("/")[2], b"meow")
    for _ in range(49):  # R + a = 44 + 6: still the same URL in its last second of service
        s3_clock.step(clock.time() - s3_clock.time())
        assert presigner.url(target) == signed.url
        assert s3_oracle.answer(request_of(signed.url)).status == 200
        clock.advance(1)


def request_of(url: str) -> S3Request:
    """Return the request that fetches *url*."""
    parts = urlsplit(url)
    return S3Request("GET", parts.path, parts.query, (("host", parts.netloc),))


def test_each_window_is_signed_once(clock: Clock) -> None:
    """P2, M8: over three days, asked every minute, an object has one URL a window, each of its own day."""
    presigner = Presigner(media(), clock=clock)
    urls: dict[str, float] = {}
    for _ in range(3 * 24 * 60):
        signed = presigner.resolve("s3://media/a")
        urls[signed.url] = signed.created_at
        query = parameters(signed)
        assert query["X-Amz-Date"][:8] == query["X-Amz-Credential"].split("/")[1]
        clock.advance(60)
    dates = list(urls.values())
    assert {2940} == {later - sooner for sooner, later in itertools.pairwise(dates)}
    assert presigner.stats()["signed"] == len(urls)


# --- skew ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew", [-86_400, -900, -1.5, 0.25, 100, 3600, 86_400])
def test_a_skew_shifts_every_instant(skew: float) -> None:
    """P8: a host whose clock is wrong by the skew signs, serves and ends URLs as one whose clock is right."""
    right, wrong = Clock(NOON), Clock(NOON - skew)
    one = Presigner(media(), clock=right)
    other = Presigner(media(), policy=Policy(skew=skew), clock=wrong)
    for _ in range(300):
        assert one.resolve("s3://media/a") == other.resolve("s3://media/a")
        right.advance(37)
        wrong.advance(37)
    assert one.stats()["signed"] == other.stats()["signed"]


@pytest.mark.parametrize("skew", [-300, -30, 0, 30, 120, 300])
@pytest.mark.parametrize("span", [900, 3600])
def test_sessions_under_a_skew(skew: int, span: int) -> None:
    """P5, P8: with a clock that is wrong by minutes there is always a URL, with m' of its true life left."""
    true = Clock(NOON)  # of S3 and of STS
    host = Clock(NOON - skew)
    sessions = Role(true, seconds=span)
    origin = sessions.origin(policy=Policy(lifetime=86_400, skew=skew))
    presigner = Presigner(origin, clock=host)
    refused = []
    for step in range(120):
        try:
            url = presigner.url(f"s3://media/{step}")
        except SigningError:
            refused.append(step)
        else:
            assert end_of(url, sessions) - true.time() >= min(300, (span - abs(skew)) / 4)
        settle(presigner)
        for each in (true, host):
            each.advance(span / 40)
    assert refused == []


# --- clocks that are set ------------------------------------------------------------------------------------

moves = st.lists(
    st.one_of(
        st.tuples(st.just("goes by"), st.sampled_from([0.5, 1, 30, 300, 1500, 2940, 7200, 86_400])),
        st.tuples(st.just("is set"), st.integers(1, 86_400)),
        st.tuples(st.just("is set"), st.integers(-86_400, -1)),
        st.tuples(st.just("is suspended"), st.integers(1, 86_400)),
    ),
    min_size=1,
    max_size=30,
)


def moved(clock: Clock, move: tuple[str, float]) -> None:
    """Have *clock* make one of `moves`."""
    if move[0] == "goes by":
        clock.advance(move[1])
    else:  # monotonic time stands still, be it that the wall clock is set or that the host sleeps
        clock.step(move[1])


class Walk:
    """A presigner that is asked after each move of its clock, and what must be true of what it answers."""

    def __init__(self, presigner: Presigner, clock: Clock) -> None:
        self._presigner, self._clock = presigner, clock
        self._served: dict[str, tuple[float, int]] = {}  # monotonic instant of its date, and signatures then

    def ask(self, target: str) -> str:
        signed = self._presigner.resolve(target)
        settle(self._presigner)
        wall, monotonic = self._clock.time(), self._clock.monotonic()
        assert signed.created_at <= wall + 5
        count = self._presigner.stats()["signed"]
        since, before = self._served.get(target + signed.url, (0.0, -1))
        if count == before:  # the very one that was handed out before: it has aged by both clocks
            assert monotonic - since <= 3600 - 300
        else:
            since = monotonic - (wall - signed.created_at)
        self._served = {target + signed.url: (since, count)}
        assert signed.expires_at - wall >= min(300, 3600 / 4)
        return signed.url


@slow
@given(moves)
def test_steps_at_any_moment(steps: list[tuple[str, float]]) -> None:
    """P7: however a clock is set or its host suspended, no URL is SPENT by either clock, and there is one."""
    clock = Clock(NOON)
    walk = Walk(Presigner(media(), clock=clock), clock)
    for step in steps:
        walk.ask("s3://media/a")
        moved(clock, step)
    walk.ask("s3://media/a")


@slow
@given(moves, st.sampled_from([Role, Chain]))
def test_steps_while_sessions_come_and_go(
    steps: list[tuple[str, float]], kind: type[Role] | type[Chain]
) -> None:
    """P7, P5: the same with sessions of an hour: after each move there is a URL of one that works."""
    clock = Clock(NOON)
    sessions = kind(clock)
    presigner = Presigner(sessions.origin(policy=Policy()), clock=clock)
    walk = Walk(presigner, clock)
    for step in steps:
        url = walk.ask("s3://media/a")
        assert end_of(url, sessions) - clock.time() >= 300
        moved(clock, step)
    walk.ask("s3://media/a")


@pytest.mark.parametrize("back", [1, 600, 1800, 86_400])
@pytest.mark.parametrize("after", [1000, 2500, 3400])
def test_a_session_is_not_revived(clock: Clock, back: float, after: float) -> None:
    """P7, P5: a session whose hour has passed signs nothing more, though the clock was set back in it."""
    sessions = Role(clock)
    presigner = Presigner(sessions.origin(), clock=clock)
    start = clock.monotonic()
    presigner.url("s3://media/a")
    sessions.failure = RuntimeError("the source is down")
    clock.advance(after)
    clock.step(-back)
    number = 0
    while clock.monotonic() - start <= 2 * 3600:
        number += 1
        try:
            presigner.url(f"s3://media/{number}")
        except SigningError:
            break
        settle(presigner)
        assert clock.monotonic() - start <= 3600
        clock.advance(100)


def test_a_source_recovers_after_a_step(clock: Clock) -> None:
    """P7, P5: set ahead by a day and back again, a source is asked anew and the clock's session serves."""
    sessions = Role(clock)
    presigner = Presigner(sessions.origin(), clock=clock)
    presigner.url("s3://media/a")
    for step, asks in ((86_400, 2), (-86_400, 3)):
        clock.step(step)
        assert end_of(presigner.url("s3://media/b"), sessions) - clock.time() >= 300
        settle(presigner)
        assert len(sessions.asks) <= asks
    clock.advance(2500)
    presigner.url("s3://media/c")
    settle(presigner)
    assert signed_by(presigner.url("s3://media/d")) == list(sessions.ends)[-1]


def test_a_suspended_host(clock: Clock) -> None:
    """P7: a host that slept for eight hours, its monotonic clock standing still, has new URLs at once."""
    sessions = Role(clock)
    presigner = Presigner(sessions.origin(), clock=clock)
    url = presigner.url("s3://media/a")
    clock.step(8 * 3600)
    signed = presigner.resolve("s3://media/a")
    assert signed.url != url
    assert signed.expires_at - clock.time() == 3600
    assert len(sessions.asks) == 2


def test_a_short_nap(clock: Clock) -> None:
    """P7: a host that slept for a minute serves what it held, no longer than the wall clock allows."""
    presigner = Presigner(media(), clock=clock)
    signed = presigner.resolve("s3://media/a")
    left = signed.created_at + 3300 - clock.time()
    clock.step(60)
    assert presigner.url("s3://media/a") == signed.url
    clock.advance(left - 60 - 0.5)
    assert presigner.url("s3://media/a") == signed.url
    clock.advance(0.5)
    assert presigner.url("s3://media/a") != signed.url


def told(caplog: pytest.LogCaptureFixture) -> list[float]:
    """Return by how many seconds the clock was told to have been set, each time."""
    records = [r for r in caplog.records if getattr(r, "presign_event", None) == "clock_stepped"]
    return [record.__dict__["presign_seconds"] for record in records]


def targets() -> Iterator[str]:
    """Give targets that nobody has asked for: what is held is served without a look at the clock's past."""
    number = 0
    while True:
        yield f"s3://media/cold-{number}"
        number += 1


@pytest.mark.parametrize("seconds", [3, 60, 86_400, -3, -60, -86_400])
def test_a_step_is_told_once(clock: Clock, caplog: pytest.LogCaptureFixture, seconds: float) -> None:
    """P7: a wall clock that was set is told once, with direction and size, and counted."""
    presigner, cold = Presigner(media(), clock=clock), targets()
    presigner.url(next(cold))
    clock.advance(10)
    clock.step(seconds)
    for _ in range(5):
        presigner.url(next(cold))
        clock.advance(100)
    assert told(caplog) == [seconds]
    assert presigner.stats()["clock_steps"] == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert ("forward" if seconds > 0 else "back") in record.getMessage()


@pytest.mark.parametrize("seconds", [0.5, 1.9, -0.5, -1.9])
def test_a_correction_is_not_told(clock: Clock, caplog: pytest.LogCaptureFixture, seconds: float) -> None:
    """P7: what any host's clock is corrected by, under two seconds, is told to nobody."""
    presigner, cold = Presigner(media(), clock=clock), targets()
    for _ in range(5):
        presigner.url(next(cold))
        clock.advance(100)
        clock.step(seconds)
    assert told(caplog) == []
    assert presigner.stats()["clock_steps"] == 0


@pytest.mark.parametrize("seconds", [0, 300, -300])
def test_a_source_is_asked_when_either_clock_says_that_it_is_due(clock: Clock, seconds: float) -> None:
    """P5, P7: the wall clock where it was set forward, the other one where it was set back."""
    role, cold = Role(clock), targets()
    presigner = Presigner(role.origin(), clock=clock)
    presigner.url(next(cold))
    clock.step(seconds)
    clock.advance(Role.renews_at - max(0, seconds) - 4)
    for asked in (1, 2):
        presigner.url(next(cold))
        settle(presigner)
        assert len(role.asks) == asked
        clock.advance(6)


def test_a_clock_set_back_a_little_lengthens_no_session(clock: Clock) -> None:
    """P7: URLs of one session end in one instant, before and after a correction that nobody is told of."""
    presigner, cold = Presigner(Role(clock).origin(), clock=clock), targets()
    for _ in range(2):
        presigner.url(next(cold))
    clock.step(-1.9)
    presigner.url(next(cold))
    held = [presigner._table.get(obj) for obj in presigner._table._queue]
    assert len({entry.fresh_until_monotonic for entry in held if entry is not None}) == 1


def test_two_steps_are_told_twice(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """P7: set back and right again, a clock is told twice, each time with what it was set by."""
    presigner, cold = Presigner(media(), clock=clock), targets()
    for seconds in (0, -3600, 3600):
        clock.step(seconds)
        presigner.url(next(cold))
    assert told(caplog) == [-3600, 3600]


def test_a_step_is_told_once_by_threads(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """P7: when eight threads meet a clock that was set, it is told once."""
    presigner, start = Presigner(media(), clock=clock), threading.Barrier(8)
    presigner.url("s3://media/a")
    clock.step(60)

    def ask(number: int) -> None:
        start.wait(10)
        for each in range(50):
            presigner.url(f"s3://media/{number}-{each}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told(caplog) == [60]


@pytest.mark.parametrize("ahead", [1, 5])
def test_a_clock_that_was_a_little_ahead(clock: Clock, ahead: int) -> None:
    """P7, P2: set back by up to 5 s, a URL that was just dated is served on: S3 takes what is that near."""
    date = Presigner(media(), clock=clock).resolve("s3://media/a").created_at
    clock.step(date - clock.time())  # the first second of the window
    presigner = Presigner(media(), clock=clock)
    url = presigner.url("s3://media/a")
    clock.step(-ahead)
    assert presigner.url("s3://media/a") == url
    clock.step(ahead - 6)
    assert presigner.url("s3://media/a") != url


def test_jitter_only_shortens(clock: Clock) -> None:
    """P7: of a wall clock that trembles by a second the later reading counts for a URL's end."""
    presigner = Presigner(media(), clock=clock)
    signed = presigner.resolve("s3://media/a")
    clock.advance(signed.created_at + 3300 - clock.time() - 1)
    clock.step(1)
    assert presigner.url("s3://media/a") != signed.url


def test_a_source_is_due_by_the_later_clock(clock: Clock) -> None:
    """P7, P5: a role's session is renewed with a third left by either clock, set back or ahead."""
    for step in (-600, 600):
        sessions = Role(clock)
        presigner = Presigner(sessions.origin(), clock=clock)
        presigner.url("s3://media/a")
        clock.advance(1000)
        clock.step(step)
        clock.advance(1400 - max(step, 0))
        presigner.url("s3://media/b")
        settle(presigner)
        assert len(sessions.asks) == 2
        assert source_of(presigner).held is not None


def test_keys_that_never_end_outlive_any_step(clock: Clock) -> None:
    """P7: a lasting key is asked for once, whatever the clock does."""
    presigner = Presigner(media(policy=A_DAY), clock=clock)
    source = source_of(presigner)
    for seconds in (0, 86_400 * 365, -86_400 * 700, 5):
        clock.step(seconds)
        presigner.url("s3://media/a")
    assert source._asks == 1


def test_the_oracle_agrees_on_stepped_clocks(s3_oracle: Oracle, s3_clock: Clock, s3_key: KeyPair) -> None:
    """P7: what a stepped process hands out once its clock is right again is taken by a strict S3."""
    session = boto3.Session(s3_key.access_key, s3_key.secret_key)
    clock = Clock(s3_clock.time())
    presigner = Presigner(media(session=session), clock=clock)
    s3_oracle.put("media", "a", b"meow")
    for wrong in (86_400, -86_400, 3600, -3600):
        clock.step(wrong)
        presigner.url("s3://media/a")
        clock.step(-wrong)
        assert s3_oracle.answer(request_of(presigner.url("s3://media/a"))).status == 200
        clock.advance(700)
        s3_clock.advance(700)
