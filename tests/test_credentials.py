"""
Credentials: when a source is asked, who waits for it, and what becomes of URLs while it is.

A role and botocore's own credentials, doubles that live by the test's clock, are run through
the same tests. At the end of the file a real STS gives sessions of seconds.
"""

import asyncio
import itertools
import json
import logging
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDone
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any, Final

import boto3
import botocore.loaders
import botocore.session
import httpx
import pytest
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import ClientError
from crowds import Crowd, both_ways, in_tasks, in_threads
from sources import (
    A_DAY,
    DEADLINE,
    ROLE,
    Chain,
    Role,
    Sessions,
    end_of,
    held,
    settle,
    signed_by,
    source_of,
)

from presign_middleware import ConfigurationError, Origin, Policy, Presigner, SigningError
from presign_middleware import credentials as room
from presign_middleware.credentials import Keys, Source, SourceError
from presign_middleware.events import EVENTS
from presign_middleware.local import Entry
from presign_middleware.metrics import Counts
from presign_middleware.objects import S3Object
from presign_middleware.plans import DIGEST, Signature
from presign_middleware.testing import Clock, SeaweedFS

CROWD: Final = 100


Kind = type[Role] | type[Chain]
both_sources = pytest.mark.parametrize("kind", [Role, Chain])


def cold() -> Iterator[str]:
    """Give targets that nobody has asked for."""
    return (f"s3://media/cold-{number}" for number in itertools.count())


def told(caplog: pytest.LogCaptureFixture, event: str) -> list[logging.LogRecord]:
    """Return the records of *event*."""
    return [record for record in caplog.records if getattr(record, "presign_event", None) == event]


# --- when a source is asked -------------------------------------------------------------------------------


def test_new_credentials_sign_from_the_next_url_on(clock: Clock) -> None:
    """S8: a session that was renewed before it was due signs nothing more, though it still could."""
    role, targets = Role(clock), cold()
    presigner = Presigner(role.origin(), clock=clock)
    for _ in range(3):
        assert signed_by(presigner.url(next(targets))) == "ASIATEST00000001"
        clock.advance(100)
    assert signed_by(presigner.url(next(targets))) == "ASIATEST00000001"
    source_of(presigner).renew(than=source_of(presigner).renew().credential)
    assert signed_by(presigner.url(next(targets))) == "ASIATEST00000002"


@both_sources
def test_renewed_in_the_background(clock: Clock, kind: Kind) -> None:
    """P5: a role is renewed with a third of its hour left, botocore's 900 s before the end; none waits."""
    sessions = kind(clock)
    presigner = Presigner(sessions.origin(), clock=clock)
    targets = cold()
    presigner.url(next(targets))
    clock.advance(kind.renews_at - 2)
    presigner.url(next(targets))
    settle(presigner)
    assert len(sessions.asks) == 1
    clock.advance(2)
    with held(sessions):
        assert signed_by(presigner.url(next(targets))) == "ASIATEST00000001"
        assert sessions.asked.wait(DEADLINE)
        assert signed_by(presigner.url(next(targets))) == "ASIATEST00000001"
    settle(presigner)
    assert signed_by(presigner.url(next(targets))) == "ASIATEST00000002"
    assert len(sessions.asks) == 2


@both_sources
@pytest.mark.parametrize("span", [30, 300, 1200])
def test_a_short_session_is_renewed_with_a_third_left(clock: Clock, kind: Kind, span: int) -> None:
    """P5: sessions too short for botocore's 900 s are renewed with a third of their life left."""
    sessions = kind(clock, seconds=span)
    presigner = Presigner(sessions.origin(), clock=clock)
    targets = cold()
    presigner.url(next(targets))
    clock.advance(span * 2 / 3 - 0.5)
    presigner.url(next(targets))
    settle(presigner)
    assert len(sessions.asks) == 1
    clock.advance(1)
    assert signed_by(presigner.url(next(targets))) == "ASIATEST00000001"
    settle(presigner)
    assert signed_by(presigner.url(next(targets))) == "ASIATEST00000002"


@both_sources
@both_ways
def test_a_crowd_meets_a_renewal(clock: Clock, kind: Kind, crowd: Crowd) -> None:
    """P5: of a hundred who ask when credentials are due nobody waits, and the source is asked once."""
    sessions = kind(clock)
    presigner = Presigner(sessions.origin(), clock=clock)
    presigner.url("s3://media/a")
    clock.advance(kind.renews_at)
    with held(sessions):
        answers = crowd(presigner, [f"s3://media/{n}" for n in range(CROWD)], lambda: None)
        assert {"ASIATEST00000001"} == {signed_by(answer) for answer in answers}
        assert sessions.asked.wait(DEADLINE)
    settle(presigner)
    assert len(sessions.asks) == 2


@both_sources
@both_ways
def test_a_crowd_in_the_last_quarter(clock: Clock, kind: Kind, crowd: Crowd) -> None:
    """P5: in the last quarter of a session nobody waits either, as long as URLs can be signed with it."""
    sessions = kind(clock)
    presigner = Presigner(sessions.origin(policy=replace(A_DAY, min_remaining=60)), clock=clock)
    presigner.url("s3://media/a")
    clock.advance(3400)
    with held(sessions):
        answers = crowd(presigner, [f"s3://media/{n}" for n in range(CROWD)], lambda: None)
        assert {"ASIATEST00000001"} == {signed_by(answer) for answer in answers}
    settle(presigner)
    assert len(sessions.asks) == 2


@both_sources
@both_ways
def test_a_crowd_when_there_is_nothing_left(clock: Clock, kind: Kind, crowd: Crowd) -> None:
    """P5: when a session can carry no further URL, though it works, all wait for the next, asked for once."""
    sessions = kind(clock)
    presigner = Presigner(sessions.origin(policy=replace(A_DAY, min_remaining=60)), clock=clock)
    presigner.url("s3://media/a")
    clock.advance(3550)
    sessions.shut()

    def meanwhile() -> None:
        assert sessions.asked.wait(DEADLINE)
        sessions.gate.set()

    answers = crowd(presigner, [f"s3://media/{n}" for n in range(CROWD)], meanwhile)
    assert {"ASIATEST00000002"} == {signed_by(answer) for answer in answers}
    assert len(sessions.asks) == 2


@both_sources
@both_ways
@pytest.mark.parametrize("is_cold", [True, False])
def test_a_crowd_without_credentials(clock: Clock, kind: Kind, crowd: Crowd, is_cold: bool) -> None:
    """P5: a hundred who have no credentials, none yet or past ones, cause one fetch."""
    sessions = kind(clock)
    presigner = Presigner(sessions.origin(), clock=clock)
    if not is_cold:
        presigner.url("s3://media/a")
        clock.advance(3601)
    sessions.shut()

    def meanwhile() -> None:
        assert sessions.asked.wait(DEADLINE)
        sessions.gate.set()

    answers = crowd(presigner, [f"s3://media/{n}" for n in range(CROWD)], meanwhile)
    assert {f"ASIATEST0000000{1 if is_cold else 2}"} == {signed_by(answer) for answer in answers}
    assert len(sessions.asks) == (1 if is_cold else 2)


class Waiting:
    """Counts who is about to ask a source, so that a gate is opened when all of them wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._arrived = threading.Semaphore(0)
        renew = Source.renew

        def counted(source: Source, *args: Any) -> Any:
            self._arrived.release()
            return renew(source, *args)

        monkeypatch.setattr(Source, "renew", counted)

    def for_(self, number: int) -> None:
        for _ in range(number):
            assert self._arrived.acquire(timeout=DEADLINE), "not everyone asks"


@both_sources
def test_a_failure_is_shared_by_threads(clock: Clock, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """P5, D2: when a source fails, a hundred threads that waited for it share the failure of one ask."""
    waiting, sessions = Waiting(monkeypatch), kind(clock)
    sessions.failure = RuntimeError("the source is down")
    presigner = Presigner(sessions.origin(), clock=clock)
    sessions.shut()
    # Each counts before it looks whether another asks: so that the last one has looked, all but one wait.
    monkeypatch.setattr(source_of(presigner), "_lock", lock := CountingLock())

    def meanwhile() -> None:
        waiting.for_(CROWD)
        lock.wait_for(CROWD - 1)
        sessions.gate.set()

    answers = in_threads(presigner, [f"s3://media/{n}" for n in range(CROWD)], meanwhile)
    assert {SigningError} == {type(answer) for answer in answers}
    assert len(sessions.asks) == 1


class CountingLock:
    """A lock that knows how many have come to wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = threading.Semaphore(0)
        self.release = self._lock.release
        self.locked = self._lock.locked

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking:
            self._waiting.release()
        return self._lock.acquire(blocking, timeout)

    def wait_for(self, number: int) -> None:
        for _ in range(number):
            assert self._waiting.acquire(timeout=DEADLINE), "not everyone waits"


@both_sources
def test_a_failure_is_shared_by_tasks(clock: Clock, kind: Kind) -> None:
    """P5, D2: when a source fails, a hundred tasks that waited for it share the failure of one ask."""
    sessions = kind(clock)
    sessions.failure = RuntimeError("the source is down")
    presigner = Presigner(sessions.origin(), clock=clock)
    sessions.shut()

    def meanwhile() -> None:
        assert sessions.asked.wait(DEADLINE)
        sessions.gate.set()

    answers = in_tasks(presigner, [f"s3://media/{n}" for n in range(CROWD)], meanwhile)
    assert {SigningError} == {type(answer) for answer in answers}
    assert len(sessions.asks) == 1


@both_ways
def test_a_failure_is_shared_by_origins(clock: Clock, crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    """P5, K7: of twenty origins that share a source and wait for it, one causes the ask that fails."""
    sessions = Role(clock)
    sessions.failure = RuntimeError("the source is down")
    presigner = Presigner(*sessions.origins(20), clock=clock)
    monkeypatch.setattr(source_of(presigner, "media0"), "_lock", lock := CountingLock())
    sessions.shut()

    def meanwhile() -> None:
        assert sessions.asked.wait(DEADLINE)
        if crowd is in_threads:
            lock.wait_for(19)
        sessions.gate.set()

    answers = crowd(presigner, [f"s3://media{n}/a" for n in range(20)], meanwhile)
    assert {SigningError} == {type(answer) for answer in answers}
    assert [f"origin 'media{n}'" in str(answer) for n, answer in enumerate(answers)] == [True] * 20
    assert len(sessions.asks) == 1


@pytest.mark.parametrize("batch", [Presigner.urls, lambda p, targets: asyncio.run(p.aurls(targets))])
def test_a_batch_of_origins_asks_a_failing_source_once(
    clock: Clock, batch: Callable[[Presigner, list[str]], list[str]]
) -> None:
    """P5, K7: one call for objects of twenty origins that share a failing source asks it once."""
    sessions = Role(clock)
    sessions.failure = RuntimeError("the source is down")
    presigner = Presigner(*sessions.origins(20), clock=clock)
    with pytest.raises(SigningError, match="origin 'media0'"):
        batch(presigner, [f"s3://media{n}/a" for n in range(20)])
    assert len(sessions.asks) == 1


@both_sources
def test_the_first_after_a_failure_asks_anew(clock: Clock, kind: Kind) -> None:
    """P5, D2: a failure is told to those who waited and kept for nobody: the next one asks."""
    sessions = kind(clock)
    sessions.failure = RuntimeError("the source is down")
    presigner = Presigner(sessions.origin(), clock=clock)
    with pytest.raises(SigningError):
        presigner.url("s3://media/a")
    sessions.failure = None
    assert signed_by(presigner.url("s3://media/a")) == "ASIATEST00000001"


@both_sources
@pytest.mark.parametrize("span", [10, 900, 3600, 43_200])
def test_never_more_often_than_a_tenth(clock: Clock, kind: Kind, span: int) -> None:
    """P5: a source that gives new sessions is asked no more than once in a tenth of their life."""
    sessions = kind(clock, seconds=span)
    presigner = Presigner(sessions.origin(policy=Policy()), clock=clock)
    for target in itertools.islice(cold(), 200):
        presigner.url(target)
        settle(presigner)
        clock.advance(span / 64)
    assert len(sessions.asks) >= 200 // 64
    assert min(later - sooner for sooner, later in itertools.pairwise(sessions.asks)) >= span / 10


def test_a_session_whose_end_comes_nearer(clock: Clock) -> None:
    """P5, P11: a source that tells an earlier end of a session is asked again after S/10, not at once."""
    start, asks, ends = clock.time(), list[float](), iter([3600, 3000, 3000])

    def fetch() -> Keys:
        asks.append(clock.time() - start)
        return Keys("ASIA", "secret", "token", start + next(ends), "iam-role", "")

    source = Source("a source", fetch, None, inf, 900, 0, clock, Counts())
    for _ in range(271):
        seen(source, clock)
        clock.advance(10)
    assert asks == [0, 2400, 2700]


def test_sessions_that_begin_with_little_left(clock: Clock) -> None:
    """P5: a source whose sessions are past their third when they are first seen is not asked in a loop."""
    ends = iter(range(1, 1000))

    def fetch() -> Keys:
        asks.append(clock.time())
        number = next(ends)
        return Keys(f"ASIA{number}", "secret", f"token-{number}", clock.time() + 60, "test", "")

    asks: list[float] = []
    source = Source("a source", fetch, None, 900, 900, 0, clock, Counts())
    for _ in range(600):
        if source.present(clock.time(), clock.monotonic())[0] is None:
            source.renew()
        assert source._background.acquire(timeout=DEADLINE)
        source._background.release()
        clock.advance(0.5)
    assert min(later - sooner for sooner, later in itertools.pairwise(asks)) >= 6


@pytest.mark.parametrize(("span", "rest"), [(43_200, 60), (3600, 60), (900, 30), (90, 3)])
def test_the_same_again(clock: Clock, span: int, rest: float) -> None:
    """P5: a source that gave the same session is asked again after min(60 s, a tenth of what is left)."""
    sessions = Role(clock, seconds=span)
    presigner = Presigner(sessions.origin(), clock=clock)
    targets = cold()
    presigner.url(next(targets))
    sessions.is_stuck = True
    clock.advance(span * 2 / 3)
    presigner.url(next(targets))
    settle(presigner)
    assert len(sessions.asks) == 2
    clock.advance(rest - 0.25)
    presigner.url(next(targets))
    settle(presigner)
    assert len(sessions.asks) == 2
    clock.advance(0.25)
    presigner.url(next(targets))
    settle(presigner)
    assert len(sessions.asks) == 3


@both_ways
def test_the_same_again_is_asked_for_by_one(clock: Clock, crowd: Crowd) -> None:
    """P5: of a hundred who come when a stuck source is to be asked again one causes it, and nobody waits."""
    sessions = Role(clock)
    presigner = Presigner(sessions.origin(), clock=clock)
    presigner.url("s3://media/a")
    sessions.is_stuck = True
    clock.advance(2400)
    presigner.url("s3://media/b")
    settle(presigner)
    clock.advance(60)
    with held(sessions):
        answers = crowd(presigner, [f"s3://media/{n}" for n in range(CROWD)], lambda: None)
        assert {"ASIATEST00000001"} == {signed_by(answer) for answer in answers}
        assert sessions.asked.wait(DEADLINE)
    settle(presigner)
    assert len(sessions.asks) == 3


@both_sources
def test_a_failing_source_is_not_asked_by_everyone(clock: Clock, kind: Kind) -> None:
    """P5: a source that fails while keys work is asked again after min(60 s, a tenth of what is left)."""
    sessions = kind(clock)
    presigner = Presigner(sessions.origin(), clock=clock)
    targets = cold()
    presigner.url(next(targets))
    clock.advance(kind.renews_at)
    sessions.failure = RuntimeError("the source is down")
    for seconds in (0, 20, 20, 19):
        clock.advance(seconds)
        assert signed_by(presigner.url(next(targets))) == "ASIATEST00000001"
        settle(presigner)
    assert len(sessions.asks) == 2
    clock.advance(1)
    presigner.url(next(targets))
    settle(presigner)
    assert len(sessions.asks) == 3


# --- renewals of URLs ---------------------------------------------------------------------------------------


async def by_runner(presigner: Presigner, entries: Sequence[Entry]) -> None:
    await presigner._runner.arenew(entries)


async def by_renewals(presigner: Presigner, entries: Sequence[Entry]) -> None:
    async def sent() -> bool:
        return True

    presigner.renewals.begin(entries, sent)
    await presigner.renewals.drain(DEADLINE)


Renew = Callable[[Presigner, Sequence[Entry]], Coroutine[Any, Any, None]]
both_renewals = pytest.mark.parametrize("renew", [by_runner, by_renewals])


def entry_of(presigner: Presigner, target: str) -> Entry:
    """Return what *presigner* holds of *target*."""
    entry = presigner._table.get(presigner._targets.named(target))
    assert entry is not None
    return entry


@both_renewals
def test_renewing_asks_for_newer_credentials(clock: Clock, renew: Renew) -> None:
    """P5: renewing a URL that ends with its credentials asks for newer ones, also before they are due."""
    sessions = Role(clock, seconds=600)
    presigner = Presigner(sessions.origin(), clock=clock)
    presigner.url("s3://media/a")
    clock.advance(395)  # AGEING for 5 s; the source is due in 5 s
    entry = entry_of(presigner, "s3://media/a")
    assert not entry.is_fresh(clock.time(), clock.monotonic())
    assert len(sessions.asks) == 1
    asyncio.run(renew(presigner, [entry]))
    assert len(sessions.asks) == 2
    assert signed_by(presigner.url("s3://media/a")) == "ASIATEST00000002"
    assert presigner.stats()["refreshed"] == 1


@both_renewals
def test_renewing_what_ends_by_itself_asks_nobody(clock: Clock, renew: Renew) -> None:
    """P5: renewing a URL that its own lifetime ends asks no source before it is due."""
    sessions = Role(clock, seconds=43_200)
    presigner = Presigner(sessions.origin(policy=Policy()), clock=clock)
    presigner.url("s3://media/a")
    entry = entry_of(presigner, "s3://media/a")
    assert entry.reason == "lifetime"
    clock.advance(entry.fresh_until - clock.time())
    asyncio.run(renew(presigner, [entry]))
    assert len(sessions.asks) == 1
    assert presigner.stats()["refreshed"] == 1


@both_renewals
def test_a_hundred_renewals_ask_once(clock: Clock, renew: Renew) -> None:
    """P5: a hundred URLs that end with one session, renewed by ten requests, ask for one newer session."""
    sessions = Role(clock, seconds=600)
    presigner = Presigner(sessions.origin(), clock=clock)
    targets = [f"s3://media/{number}" for number in range(100)]
    presigner.urls(targets)
    clock.advance(395)
    entries = [entry_of(presigner, target) for target in targets]

    async def all_at_once() -> None:
        await asyncio.gather(*(renew(presigner, entries[start : start + 10]) for start in range(0, 100, 10)))

    asyncio.run(all_at_once())
    assert len(sessions.asks) == 2
    assert {"ASIATEST00000002"} == {signed_by(url) for url in presigner.urls(targets)}


@both_renewals
def test_renewals_that_bring_nothing_newer(clock: Clock, renew: Renew) -> None:
    """P5: renewed again and again, a URL of a stuck source asks it once in a tenth of what is left."""
    sessions = Role(clock, seconds=600)
    presigner = Presigner(sessions.origin(), clock=clock)
    presigner.url("s3://media/a")
    sessions.is_stuck = True
    clock.advance(395)
    for _ in range(20):
        asyncio.run(renew(presigner, [entry_of(presigner, "s3://media/a")]))
        clock.advance(1)
    assert len(sessions.asks) == 2  # the next one is due 20.5 s after the first of these


def foreign(presigner: Presigner, clock: Clock, target: str, seconds: float) -> Entry:
    """Return *target* as signed by another process, whose session has *seconds* left."""
    entry = entry_of(presigner, target)
    theirs = entry.credential._replace(
        access_key="ASIAFOREIGN", token="a-token-of-theirs", end=clock.time() + seconds
    )
    signature = Signature(entry.date, "0" * DIGEST, theirs)
    adopt = presigner._signing.adopter(entry.object, clock.time(), clock.monotonic())
    assert adopt is not None
    adopted = adopt(entry.object, signature)
    assert adopted is not None
    assert adopted.reason == "credentials"
    return adopted


def test_renewing_what_a_newer_session_of_others_signed(clock: Clock) -> None:
    """P5: renewing a URL of another process's session asks where the one at hand is the older of the two."""
    sessions = Role(clock, seconds=600)
    presigner = Presigner(sessions.origin(), clock=clock)
    presigner.url("s3://media/a")
    clock.advance(300)
    theirs = foreign(presigner, clock, "s3://media/a", 301)  # one second longer than ours
    asyncio.run(by_runner(presigner, [theirs]))
    assert len(sessions.asks) == 2


# --- one that hangs -----------------------------------------------------------------------------------------


@both_sources
def test_a_held_source_holds_up_no_request(clock: Clock, kind: Kind) -> None:
    """P5: while a source is held, another request of the same loop begins and ends."""
    sessions, events = kind(clock), list[str]()
    presigner = Presigner(sessions.origin(), sessions.origin("warm"), clock=clock)
    presigner.url("s3://warm/a")
    clock.advance(3601)  # all that is at hand is past

    async def waiting() -> None:
        events.append("first asks")
        await presigner.aurl("s3://media/a")
        events.append("first has it")

    async def other() -> None:
        events.append("other begins")
        for _ in range(5):
            await asyncio.sleep(0)
        events.append("other ends")

    async def serve() -> None:
        first = asyncio.ensure_future(waiting())
        assert await asyncio.to_thread(sessions.asked.wait, DEADLINE)
        await asyncio.wait_for(other(), DEADLINE)
        events.append("gate opens")
        sessions.gate.set()
        await first

    with held(sessions):
        asyncio.run(serve())
    assert events == ["first asks", "other begins", "other ends", "gate opens", "first has it"]


@both_sources
@pytest.mark.parametrize("origins", [1, 8, 20])
def test_a_held_source_holds_up_no_other_origin(clock: Clock, kind: Kind, origins: int) -> None:
    """D2, K7: a source that hangs for all the origins that share it holds up no origin with its own."""
    slow, sound = kind(clock), kind(clock)
    presigner = Presigner(*slow.origins(origins), sound.origin("sound"), clock=clock)

    async def ask() -> str:
        tasks = [asyncio.ensure_future(presigner.aurl(f"s3://media{n}/a")) for n in range(origins)]
        assert await asyncio.to_thread(slow.asked.wait, DEADLINE)
        try:
            answer = await asyncio.wait_for(presigner.aurl("s3://sound/a"), DEADLINE / 5)
            assert [task for task in tasks if task.done()] == []
        finally:
            slow.gate.set()
            await asyncio.gather(*tasks)
        return answer

    with held(slow):
        assert signed_by(asyncio.run(ask())) == "ASIATEST00000001"
    assert len(slow.asks) == 1


def test_a_renewal_that_hangs_holds_up_no_other_request(clock: Clock) -> None:
    """P5: while renewals after responses wait for a source, requests get URLs, also of other origins."""
    sessions, sound = Role(clock, seconds=600), Role(clock)
    presigner = Presigner(sessions.origin(), sound.origin("sound"), clock=clock)
    targets = [f"s3://media/{number}" for number in range(12)]
    presigner.urls(targets)
    clock.advance(395)
    entries = [entry_of(presigner, target) for target in targets]

    async def serve() -> list[str]:
        renewals = [asyncio.ensure_future(by_runner(presigner, [entry])) for entry in entries]
        assert await asyncio.to_thread(sessions.asked.wait, DEADLINE)
        try:
            wanted = presigner.aurls(["s3://media/a", "s3://sound/a"])
            urls = await asyncio.wait_for(wanted, DEADLINE / 2)
        finally:
            sessions.gate.set()
            await asyncio.gather(*renewals)
        return urls

    with held(sessions):
        assert {"ASIATEST00000001"} == {signed_by(url) for url in asyncio.run(serve())}
    assert (len(sessions.asks), len(sound.asks)) == (2, 1)


# --- short credentials --------------------------------------------------------------------------------------


@both_sources
@pytest.mark.parametrize("span", [5, 120, 600, 1100, 3600])
def test_short_credentials_have_their_true_end(clock: Clock, kind: Kind, span: int) -> None:
    """P4, P5: over ten sessions every URL names its true end, and has m' or more of its true life left."""
    sessions = kind(clock, seconds=span)
    presigner = Presigner(sessions.origin(), clock=clock)
    for step in range(400):
        signed = presigner.resolve(f"s3://media/{step % 3}")
        settle(presigner)
        assert signed.expires_reason == "credentials"
        assert signed.expires_at == pytest.approx(sessions.ends[signed_by(signed.url)], abs=1e-3)
        assert signed.expires_at - clock.time() >= min(300, span / 4)
        clock.advance(span / 40)
    assert len(sessions.asks) >= 10


@both_sources
def test_hardly_used_short_credentials(clock: Clock, kind: Kind) -> None:
    """P5: with requests days apart, each of which finds past credentials, no URL is past its end."""
    sessions = kind(clock)
    presigner = Presigner(sessions.origin(), clock=clock)
    for days in (0, 0.5, 1, 3, 8):
        clock.advance(days * 86_400)
        assert end_of(presigner.url("s3://media/a"), sessions) - clock.time() >= 300


@pytest.mark.parametrize("takes", [0, 200, 590])
@both_sources
def test_a_source_that_takes_its_time(clock: Clock, kind: Kind, takes: float) -> None:
    """P5: a source that answers after minutes costs no URL its life: none is handed out past its end."""
    sessions = kind(clock)
    presigner = Presigner(sessions.origin(), clock=clock)
    presigner.url("s3://media/a")
    sessions.takes = takes
    for target in itertools.islice(cold(), 60):
        clock.advance(150)
        url = presigner.url(target)
        settle(presigner)
        assert end_of(url, sessions) > clock.time() - takes
        assert end_of(presigner.url(target), sessions) - clock.time() > 0


@both_sources
def test_short_credentials_are_told_once(clock: Clock, kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """P5: credentials that cannot carry min_remaining are told once each, their URLs are counted."""
    sessions = kind(clock, seconds=600)
    presigner = Presigner(sessions.origin(), clock=clock)
    targets = cold()
    for _ in range(5):
        presigner.url(next(targets))
    presigner.url(next(targets), method="HEAD")
    presigner.url(next(targets), params={"VersionId": "1"})
    assert len(told(caplog, "credentials_short")) == 1
    assert presigner.stats()["short_lived"] == 7
    clock.advance(500)
    for _ in range(3):
        presigner.url(next(targets))
    assert len(told(caplog, "credentials_short")) == 2
    assert presigner.stats()["short_lived"] == 10


def test_short_credentials_of_many_origins_are_told_once(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """P5, K7: too short credentials that twenty origins share are told once, not once an origin."""
    presigner = Presigner(*Role(clock, seconds=600).origins(20), clock=clock)
    presigner.urls([f"s3://media{number}/a" for number in range(20)])
    assert len(told(caplog, "credentials_short")) == 1


def test_credentials_that_are_long_enough(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """P5: credentials that carry min_remaining are neither told nor counted as short."""
    presigner = Presigner(Role(clock, seconds=1200).origin(), clock=clock)
    presigner.url("s3://media/a")
    assert told(caplog, "credentials_short") == []
    assert presigner.stats()["short_lived"] == 0


@both_sources
def test_a_min_remaining_that_no_session_carries(clock: Clock, kind: Kind) -> None:
    """P3, P5: with min_remaining of an hour and sessions of 12 h there is always a URL, with 600 s left."""
    sessions = kind(clock, seconds=43_200)
    policy = Policy(lifetime=86_400, min_remaining=3600)
    presigner = Presigner(sessions.origin(policy=policy), clock=clock)
    for target in itertools.islice(cold(), 600):
        url = presigner.url(target)
        settle(presigner)
        assert end_of(url, sessions) - clock.time() >= 600
        clock.advance(301)
    assert len(sessions.asks) >= 4


@both_sources
def test_no_url_when_its_credentials_have_ended(clock: Clock, kind: Kind) -> None:
    """P5: when the source fails for good, URLs are served until m' of the session is left, then refused."""
    sessions = kind(clock)
    presigner = Presigner(sessions.origin(), clock=clock)
    presigner.url("s3://media/a")
    sessions.failure = RuntimeError("the source is down")
    clock.advance(3299)
    assert end_of(presigner.url("s3://media/a"), sessions) - clock.time() == pytest.approx(301)
    settle(presigner)
    for seconds in (2, 298, 2, 86_400):
        clock.advance(seconds)
        with pytest.raises(SigningError, match="origin 'media'"):
            presigner.url("s3://media/a")


# --- assumed, extended and other ends -----------------------------------------------------------------------


def static(**more: Any) -> boto3.Session:
    """Return a session whose credentials never change."""
    return boto3.Session("ASIASTATIC", "a-static-secret-of-tests", **more)


def guessed() -> Origin:
    """Return an origin with a session token whose end nobody knows."""
    session = static(aws_session_token="a-token-nobody-knows-the-end-of")
    return Origin("media", bucket="media", region="eu-west-1", session=session, policy=A_DAY)


def test_an_assumed_end(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """P10: a session token without an end is taken to live 900 s, and that is told once, with the cure."""
    origin = guessed()
    presigner = Presigner(origin, clock=clock)
    signed = presigner.resolve("s3://media/a")
    assert (signed.expires_reason, signed.expires_at) == ("assumed", clock.time() + 900)
    (record,) = told(caplog, "credentials_assumed")
    assert (record.__dict__["presign_seconds"], record.levelname) == (900, "WARNING")
    assert "is the cure" in record.getMessage()


def test_an_assumed_end_moves_while_the_keys_are_seen(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """P10: keys without an end serve for two days, each URL with 225 s left of 900 s since they were seen."""
    origin = guessed()
    presigner = Presigner(origin, clock=clock)
    for step in range(500):
        signed = presigner.resolve(f"s3://media/{step % 3}")
        settle(presigner)
        assert signed.expires_reason == "assumed"
        assert 225 <= signed.expires_at - clock.time() <= 900
        clock.advance(350)
    assert len(told(caplog, "credentials_assumed")) == 1


def test_assumed_credentials_are_told_to_be_short_once(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """P5, P10: keys without an end, too short for min_remaining, are told so once, not every 10 minutes."""
    origin = guessed()
    presigner = Presigner(origin, clock=clock)
    for target in itertools.islice(cold(), 50):
        presigner.url(target)
        settle(presigner)
        clock.advance(350)
    assert len(told(caplog, "credentials_short")) <= 1


def test_an_assumed_session_of_ones_own(clock: Clock) -> None:
    """P10: Policy(assumed_session=) says how long a session without an end is taken to live."""
    origin = guessed()
    presigner = Presigner(replace(origin, policy=replace(A_DAY, assumed_session=1800)), clock=clock)
    assert presigner.resolve("s3://media/a").expires_at == clock.time() + 1800


def test_assumed_credentials_are_not_shared(clock: Clock) -> None:
    """P10: a URL whose end is a guess has no place in the shared cache."""
    origin = guessed()
    presigner = Presigner(origin, clock=clock)
    presigner.url("s3://media/a")
    assert presigner._signing.shelf(S3Object.of("media", "media", "", "a", "GET", (), 3600)) is None


class Instance:
    """The credentials of an EC2 instance as botocore tells them: near their end they seem to live on."""

    def __init__(self, clock: Clock, left: float, method: str = "iam-role") -> None:
        self.true_end = clock.time() + left
        self.told_end = self.true_end
        self.extension = 1199  # botocore: 720 to 1200, cut to a whole second
        self._clock, self._method = clock, method

    def fetch(self) -> Keys:
        now = self._clock.time()
        # botocore.utils.InstanceMetadataFetcher._evaluate_expiration; and it asks with 900 s left.
        if self.told_end - now < 900:
            extends = now >= self.true_end - self.extension
            self.told_end = now + self.extension if extends else self.true_end
        return Keys("ASIAINSTANCE", "secret", "token", self.told_end, self._method, "")

    def source(self) -> Source:
        return Source("an instance", self.fetch, None, 900, 900, 0, self._clock, Counts())


def seen(source: Source, clock: Clock) -> room.Snapshot:
    """Return what *source* gives now."""
    snapshot = source.present(clock.time(), clock.monotonic())[0] or source.renew()
    assert source._background.acquire(timeout=DEADLINE)
    source._background.release()
    return snapshot


def test_the_earliest_end_stands(clock: Clock) -> None:
    """P11: however often botocore moves the end of an instance's credentials, the earliest end stands."""
    instance = Instance(clock, 6 * 3600)
    source, told_ends = instance.source(), set()
    for _ in range(6 * 60 - 1):
        assert seen(source, clock).credential.end == instance.true_end
        told_ends.add(instance.told_end)
        clock.advance(60)
    assert len(told_ends) > 2  # botocore has moved it


@pytest.mark.parametrize("left", [1199, 900, 600, 301])
def test_an_instance_that_is_seen_late(clock: Clock, left: float) -> None:
    """P11: an instance's credentials that are first seen under 20 min before their end count as 300 s."""
    instance, start = Instance(clock, left), clock.time()
    source = instance.source()
    assert seen(source, clock).credential.end == start + 300
    clock.advance(250)
    assert seen(source, clock).credential.end == start + 300


@pytest.mark.parametrize("left", [1200, 1201, 21_600])
def test_an_instance_that_is_seen_early(clock: Clock, left: float) -> None:
    """P11: an instance's credentials with 20 min or more left have the end that is told."""
    instance = Instance(clock, left)
    assert seen(instance.source(), clock).credential.end == instance.true_end


@pytest.mark.parametrize("left", [120, 299])
def test_an_instance_with_less_than_that(clock: Clock, left: float) -> None:
    """P11: an end told to be nearer than 300 s stands as it is."""

    def fetch() -> Keys:
        return Keys("ASIAINSTANCE", "secret", "token", start + left, "iam-role", "")

    start = clock.time()
    source = Source("an instance", fetch, None, 900, 900, 0, clock, Counts())
    assert seen(source, clock).credential.end == start + left


@pytest.mark.parametrize("method", ["assume-role", "container-role", "sso", "custom-process", "test", ""])
@pytest.mark.parametrize("left", [5, 310, 1199])
def test_other_methods_keep_their_ends(clock: Clock, method: str, left: float) -> None:
    """P11: sessions of other methods have the end that is told, also of five seconds."""
    instance = Instance(clock, 1e6, method)
    instance.told_end = end = clock.time() + left
    instance.extension = 0
    instance.true_end = end
    source = Source(
        "a source",
        lambda: Keys("ASIA", "secret", "token", end, method, ""),
        None,
        900,
        900,
        0,
        clock,
        Counts(),
    )
    assert seen(source, clock).credential.end == end


@both_sources
def test_sessions_of_five_seconds(clock: Clock, kind: Kind) -> None:
    """P5, P11: sessions of 5 s stay ones of 5 s: over a minute there is always a URL with 1.25 s left."""
    sessions = kind(clock, seconds=5)
    presigner = Presigner(sessions.origin(), clock=clock)
    for target in itertools.islice(cold(), 240):
        url = presigner.url(target)
        settle(presigner)
        assert end_of(url, sessions) - clock.time() >= 1.25
        clock.advance(0.25)
    assert 60 / 5 <= len(sessions.asks) <= 60 / 2.5


# --- one snapshot -------------------------------------------------------------------------------------------


def renewing(number: int) -> dict[str, str]:
    """Return what a source gives botocore the *number*th time: key, secret, token and end tell the number."""
    end = datetime.fromtimestamp(4_000_000_000 + number, UTC)
    return {
        "access_key": f"ASIA{number}",
        "secret_key": f"secret-{number}",
        "token": f"token-{number}",
        "expiry_time": end.isoformat(),
    }


def numbers(keys: Keys) -> set[float]:
    """Return the numbers of the sessions that *keys* are of: one, unless they are torn."""
    assert keys.token is not None
    assert keys.end is not None
    texts = (keys.access_key[4:], keys.secret_key[7:], keys.token[6:])
    return {*(float(text) for text in texts), keys.end - 4_000_000_000}


@pytest.mark.usefixtures("switching_often")
def test_one_snapshot_in_a_storm_of_renewals() -> None:
    """S8: while another thread renews botocore's credentials all the time, keys and end agree."""
    count, is_over = itertools.count(1), threading.Event()
    refreshable: Any = RefreshableCredentials
    core: Any = botocore.session.Session()
    core._credentials = credentials = refreshable.create_from_metadata(
        renewing(0), lambda: renewing(next(count)), "test"
    )
    origin = Origin("media", bucket="media", session=boto3.Session(botocore_session=core))
    fetch = room._Boto3(origin).fetch

    def renew() -> None:
        while not is_over.is_set():
            with credentials._refresh_lock:
                credentials._protected_refresh(is_mandatory=True)

    read: list[set[float]] = []
    deadline = time.monotonic() + 2
    with ThreadPoolExecutor(1) as pool:
        storm = pool.submit(renew)
        try:
            while len(set().union(*read[-2_000:])) < 100 and time.monotonic() < deadline:
                read += [numbers(fetch()) for _ in range(200)]
        finally:
            is_over.set()
        storm.result()
    assert [torn for torn in read if len(torn) > 1] == []
    assert len(set().union(*read)) > 10


@pytest.mark.parametrize("pause_before", ["_access_key", "_token", "_frozen_credentials", "_expiry_time"])
def test_one_snapshot_at_any_moment_of_a_renewal(pause_before: str) -> None:
    """S8: a reader that comes between any two steps of botocore's renewal has key and end of one session."""
    half_way, gate = threading.Event(), threading.Event()

    class Paused(RefreshableCredentials):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == pause_before and is_armed.is_set() and threading.current_thread() is not reader:
                half_way.set()
                gate.wait(DEADLINE)
            super().__setattr__(name, value)

    is_armed, reader = threading.Event(), threading.current_thread()
    credentials: Any = Paused.create_from_metadata(renewing(0), lambda: renewing(1), "test")
    core: Any = botocore.session.Session()
    core._credentials = credentials
    fetch = room._Boto3(Origin("media", bucket="media", session=boto3.Session(botocore_session=core))).fetch
    is_armed.set()

    def renew() -> None:
        with credentials._refresh_lock:
            credentials._protected_refresh(is_mandatory=True)

    with ThreadPoolExecutor(2) as pool:
        renewal = pool.submit(renew)
        assert half_way.wait(DEADLINE)
        reading = pool.submit(fetch)
        with suppress(NotDone):  # it may wait until the renewal is over, or have the old session
            reading.result(timeout=0.1)
        gate.set()
        renewal.result()
        assert len(numbers(reading.result())) == 1
    assert numbers(fetch()) == {1.0}


def test_a_renewal_by_others_costs_no_session(clock: Clock) -> None:
    """S8, P5: a session that is read while another thread renews it serves to its own end."""
    old, new = clock.time() + 700, clock.time() + 43_200  # botocore renews, and lets nobody wait yet
    half_way, gate = threading.Event(), threading.Event()

    class Paused(RefreshableCredentials):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "_expiry_time" and is_armed.is_set():
                half_way.set()
                gate.wait(DEADLINE)
            super().__setattr__(name, value)

    def given(number: int, end: float) -> dict[str, str]:
        return {**renewing(number), "expiry_time": datetime.fromtimestamp(end, UTC).isoformat()}

    is_armed = threading.Event()
    credentials: Any = Paused.create_from_metadata(given(0, old), lambda: given(1, new), "test")
    credentials._time_fetcher = lambda: datetime.fromtimestamp(clock.time(), UTC)
    core: Any = botocore.session.Session()
    core._credentials = credentials
    session = boto3.Session(botocore_session=core)
    origin = Origin("media", bucket="media", region="eu-west-1", session=session, policy=A_DAY)
    presigner = Presigner(origin, clock=clock)
    is_armed.set()
    with ThreadPoolExecutor(2) as pool:
        renewal = pool.submit(credentials.get_frozen_credentials)  # as any other client of the session does
        assert half_way.wait(DEADLINE)
        asking = pool.submit(presigner.url, "s3://media/a")
        with suppress(NotDone, SigningError):
            asking.result(timeout=0.1)
        gate.set()
        renewal.result()
        with suppress(SigningError):
            asking.result()
    is_armed.clear()
    clock.advance(800)
    presigner.url("s3://media/a")
    settle(presigner)
    snapshot = presigner._signing._origins["media"].source.held
    assert snapshot is not None
    assert snapshot.credential.end == pytest.approx(new, abs=1e-3)


def test_a_secret_that_changes_under_one_access_key(clock: Clock) -> None:
    """S7: when only the secret of a key changes, the next URL is signed with the new one."""
    secrets, sessions = iter(["first", "second"]), Role(clock)
    begin = sessions._begin

    def same_key() -> dict[str, Any]:
        return {
            **begin(),
            "AccessKeyId": "ASIASAME",
            "SessionToken": "same",
            "SecretAccessKey": next(secrets),
        }

    sessions._begin = same_key  # type: ignore[method-assign]  # the double's own
    presigner = Presigner(sessions.origin(), clock=clock)
    for secret in ("first", "second"):
        static = boto3.Session("ASIASAME", secret, aws_session_token="same")
        origin = Origin("media", bucket="media", region="eu-west-1", session=static, policy=A_DAY)
        expected = Presigner(origin, clock=clock).url(f"s3://media/{secret}")
        assert expected == presigner.url(f"s3://media/{secret}")
        clock.advance(2400)
        presigner.url("s3://media/other")
        settle(presigner)


# --- whose a URL is -----------------------------------------------------------------------------------------


def shelf_of(origin: Origin, clock: Clock) -> tuple[str, str]:
    """Return the credential identity and the cache key of an object of *origin*."""
    presigner = Presigner(origin, clock=clock)
    presigner.url("s3://media/a")
    obj = S3Object.of("media", "media", "", "a", "GET", (), 3600)
    shelf = presigner._signing.shelf(obj)
    assert shelf is not None
    return shelf[0], obj.cache_key("", *shelf)


def test_an_identity_is_no_temporary_key(clock: Clock) -> None:
    """K1, K6: the identity of sessions, by role or by botocore, is the same in two processes, and no key."""
    for kind in (Role, Chain):
        first, second = kind(clock), kind(clock)
        second.keys.append({})  # so that its sessions have other keys
        shelves = {shelf_of(sessions.origin(), clock) for sessions in (first, second)}
        assert first.ends.keys().isdisjoint(second.ends)
        assert len(shelves) == 1
        assert not [identity for identity, _ in shelves if "ASIA" in identity]


def test_identities_of_roles(clock: Clock) -> None:
    """K1: another role, and the same one with another external id, have other cache keys."""
    ways: list[dict[str, str]] = [
        {"role_arn": ROLE},
        {"role_arn": f"{ROLE}2"},
        {"role_arn": ROLE, "external_id": "22"},
        {"role_arn": ROLE, "external_id": "tenant-1"},
        {"role_arn": ROLE, "external_id": "tenant-2"},
    ]
    shelves = [shelf_of(Role(clock).origin(**way), clock) for way in ways]
    assert len({identity for identity, _ in shelves}) == len({key for _, key in shelves}) == len(ways)


def test_the_identity_of_a_static_key(clock: Clock) -> None:
    """K1: a lasting key is its own identity: its rotation is a clean miss."""
    origins = [
        Origin("media", bucket="media", region="eu-west-1", session=boto3.Session(key, "secret"))
        for key in ("AKIA1", "AKIA2")
    ]
    (first, one), (second, two) = [shelf_of(origin, clock) for origin in origins]
    assert ("AKIA1" in first, "AKIA2" in second) == (True, True)
    assert one != two


def test_identities_of_ambient_credentials(clock: Clock) -> None:
    """K1: sessions that boto3 finds are told apart by their method and account."""
    ways = [("iam-role", ""), ("container-role", ""), ("iam-role", "111122223333"), ("sso", "111122223333")]
    shelves = [
        shelf_of(Chain(clock, seconds=43_200, method=method, account=account).origin(), clock)
        for method, account in ways
    ]
    assert len({key for _, key in shelves}) == len(ways)
    for (method, account), (identity, _) in zip(ways, shelves, strict=True):
        assert method in identity
        assert account in identity


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have two profiles with sessions of a credential_process, and one with a key."""
    lines = []
    for number, name in enumerate(["one", "two"]):
        answer = {
            "Version": 1,
            "AccessKeyId": f"ASIAPROFILE{number}",
            "SecretAccessKey": "secret",
            "SessionToken": "token",
            "Expiration": "2099-01-01T00:00:00Z",
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(answer))
        lines += [f"[profile {name}]", f"credential_process = cat {tmp_path / name}.json"]
    lines += ["[profile lasting]", "aws_access_key_id = AKIAPROFILE", "aws_secret_access_key = secret"]
    (tmp_path / "config").write_text("\n".join(lines))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@pytest.mark.usefixtures("profiles")
def test_identities_of_profiles(clock: Clock) -> None:
    """K1: sessions of two profiles are told apart by the profile's name, keys of a profile by the key."""
    shelves = [
        shelf_of(Origin("media", bucket="media", region="eu-west-1", profile=name), clock)
        for name in ("one", "two", "lasting")
    ]
    identities = [identity for identity, _ in shelves]
    assert identities[:2] == ["profile one", "profile two"]
    assert "AKIAPROFILE" in identities[2]
    assert len({key for _, key in shelves}) == 3


# --- many origins -------------------------------------------------------------------------------------------


def calls_of(work: Callable[[], object]) -> Counter[str]:
    """Return how often *work* calls what, in Python and in C."""
    calls: Counter[str] = Counter()

    def note(frame: Any, event: str, arg: Any) -> None:
        if event == "call":
            calls[frame.f_code.co_qualname] += 1
        elif event == "c_call":
            calls[arg.__qualname__] += 1

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def tenants(sessions: Sessions, number: int) -> list[Origin]:
    first = sessions.origin("tenant0", bucket="media", prefix="t00000/", policy=None)
    return [replace(first, name=f"tenant{n}", prefix=f"t{n:05}/") for n in range(number)]


def test_ten_thousand_origins_are_resolved_as_fast_as_ten(clock: Clock) -> None:
    """K7: hits, misses and new tenants take the same calls with 10,000 origins as with 10."""
    found = []
    for number in (10, 10_000):
        sessions = Role(clock, seconds=43_200)
        presigner = Presigner(*tenants(sessions, number), clock=clock)
        for n in (0, 1, 2):
            presigner.url(f"s3://media/t{n:05}/warm")
        url = presigner.url
        found.append(
            [
                calls_of(lambda url=url: url("s3://media/t00002/warm")),  # type: ignore[misc]  # bound at once
                calls_of(lambda url=url: url("s3://media/t00003/cold")),  # type: ignore[misc]
                calls_of(lambda url=url: url("s3://media/t00003/warm")),  # type: ignore[misc]
            ]
        )
        assert len(sessions.asks) == 1
    (hit, tenant, miss), many = found
    assert [hit, miss] == [many[0], many[2]]
    # boto3 builds a client for the first URL of a tenant, which has caches of its own.
    assert tenant.total() == pytest.approx(many[1].total(), rel=0.05)


@pytest.mark.parametrize("kind", [Role, Chain])
def test_tenants_share_a_source(clock: Clock, kind: Kind) -> None:
    """K7: forty tenants of one role, or of one session, fetch credentials once, then once when they end."""
    sessions = kind(clock)
    presigner = Presigner(*tenants(sessions, 40), clock=clock)
    targets = [f"s3://media/t{number:05}/a" for number in range(40)]
    assert {"ASIATEST00000001"} == {signed_by(url) for url in presigner.urls(targets)}
    clock.advance(3601)
    assert {"ASIATEST00000002"} == {signed_by(url) for url in asyncio.run(presigner.aurls(targets))}
    assert len(sessions.asks) == 2


def test_tenants_with_other_roles_do_not(clock: Clock) -> None:
    """K7, K1: another external id is another session: a tenant's URL is never signed with another's."""
    sessions = Role(clock)
    first = sessions.origin("one", external_id="one-1")
    presigner = Presigner(first, replace(first, name="two", bucket="two", external_id="two-2"), clock=clock)
    urls = presigner.urls(["s3://one/a", "s3://two/a"])
    assert [signed_by(url) for url in urls] == ["ASIATEST00000001", "ASIATEST00000002"]
    assert [said["ExternalId"] for said in sessions.said] == ["one-1", "two-2"]


@pytest.mark.usefixtures("profiles")
@pytest.mark.parametrize(
    "options", [{}, {"region": "eu-west-1", "profile": "lasting"}, {"profile": "lasting"}]
)
def test_boto3_is_configured_once_for_many_tenants(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """K7: what origins leave to boto3, a region or a profile, is looked up once and not once an origin."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    made = []
    session = boto3.Session

    def counted(*args: Any, **kwargs: Any) -> boto3.Session:
        made.append(kwargs)
        return session(*args, **kwargs)

    monkeypatch.setattr(boto3, "Session", counted)
    Presigner(*[Origin(f"t{n}", bucket="media", prefix=f"t{n}/", **options) for n in range(20)])  # type: ignore[arg-type]
    assert len(made) <= 2


# --- settings that cannot work ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "role_arn",
    [
        "",
        "media",
        "arn:aws:iam::123:role/media",
        "arn:aws:iam::123456789012:user/media",
        "arn:aws:iam::123456789012:role/",
        "arn:aws:sts::123456789012:assumed-role/media/x",
        f"{ROLE} ",
        f"{ROLE}\n",
        f"{ROLE}ü",
        5,
    ],
)
def test_role_arns_that_cannot_be(role_arn: Any) -> None:
    """P5: what is not the ARN of a role is a ConfigurationError that names role_arn, and a good one."""
    with pytest.raises(ConfigurationError, match=r"role_arn must look like .*role/media"):
        Origin("media", bucket="media", role_arn=role_arn)


@pytest.mark.parametrize("role_arn", [ROLE, "arn:aws-cn:iam::123456789012:role/a/path/x+=,.@-_"])
def test_role_arns_that_can_be(role_arn: str) -> None:
    """P5: roles of every partition and path are taken."""
    assert Origin("media", bucket="media", role_arn=role_arn).role_arn == role_arn


@pytest.mark.parametrize("external_id", ["", " ", "a b", "a\n", "ü", 5, "x" * 1225])
def test_external_ids_that_cannot_be(external_id: Any) -> None:
    """P5: an external id that STS takes from nobody is a ConfigurationError that names external_id."""
    with pytest.raises(ConfigurationError, match="external_id"):
        Origin("media", bucket="media", role_arn=ROLE, external_id=external_id)


@pytest.mark.parametrize("url", ["", "sts", "ftp://host/", "https://", "https://user@host/", 5])
def test_sts_endpoints_that_cannot_be(url: Any) -> None:
    """P5: an STS endpoint that is no URL is a ConfigurationError that names sts_endpoint_url."""
    with pytest.raises(ConfigurationError, match="sts_endpoint_url must look like"):
        Origin("media", bucket="media", role_arn=ROLE, sts_endpoint_url=url)


@pytest.mark.parametrize("name", ["external_id", "sts_endpoint_url"])
def test_what_belongs_to_a_role(name: str) -> None:
    """P5: external_id or sts_endpoint_url without role_arn is a ConfigurationError that names both."""
    options: dict[str, Any] = {name: "https://host/"}
    with pytest.raises(ConfigurationError, match=f"{name} was given without role_arn"):
        Origin("media", bucket="media", **options)


def test_a_role_and_a_client() -> None:
    """P5: a role beside a client, which has credentials, is a ConfigurationError that names both."""
    with pytest.raises(ConfigurationError, match="role_arn and client"):
        Origin("media", bucket="media", role_arn=ROLE, client=object())


@pytest.mark.parametrize(
    "names",
    [("profile", "session"), ("session", "client"), ("profile", "client"), ("profile", "session", "client")],
)
def test_credentials_come_from_one_place(names: tuple[str, ...]) -> None:
    """P5: two places that credentials come from are a ConfigurationError that names them."""
    options: dict[str, Any] = dict.fromkeys(names, "x")
    with pytest.raises(ConfigurationError, match=" and ".join(names)):
        Origin("media", bucket="media", **options)


# --- what is told -------------------------------------------------------------------------------------------


class Refused(Exception):
    """An error whose text nobody may read."""


def test_every_event_is_told(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """P5, L1: each event has bounded fields, and no record at DEBUG has a key, URL, token or signature."""
    caplog.set_level(logging.DEBUG)
    sessions = Role(clock, seconds=600)
    presigner = Presigner(
        sessions.origin(), replace(guessed(), name="guessed", bucket="guessed"), clock=clock
    )
    Presigner(sessions.origin(), shared="memcached://cache.internal:11211", clock=clock)
    urls = presigner.urls(["s3://media/secret-name", "s3://guessed/secret-name"])
    clock.advance(450)
    sessions.failure = Refused(f"refused {urls[0]} a-secret-1-of-test-credentials")
    urls.append(presigner.url("s3://guessed/other-name"))
    with pytest.raises(SigningError):
        presigner.url("s3://media/other-name")
    sessions.failure = None
    clock.step(86_400)
    urls.append(presigner.url("s3://media/other-name"))
    settle(presigner)
    records = [record for record in caplog.records if record.name.startswith("presign_middleware")]
    fields = {
        record.__dict__["presign_event"]: {
            name.removeprefix("presign_"): value
            for name, value in record.__dict__.items()
            if name.startswith("presign_") and name != "presign_event"
        }
        for record in records
        if hasattr(record, "presign_event")
    }
    # The others are told of where they belong: in the tests of healing, writes, rollouts and servers.
    others = {"clock_learned", "region_learned", "healing_stopped", "invalidate_failed"}
    others |= {"rollout_changed", "rollout_unreadable", "shared_failed", "shared_back"}
    assert set(EVENTS) - others == fields.keys() - others
    assert {
        "credentials_renewed": {"source": f"role {ROLE}", "seconds": 600},
        "credentials_short": {"source": f"role {ROLE}", "seconds": 150},
        "credentials_assumed": {"source": "a session", "seconds": 900},
        "credentials_failed": {"source": f"role {ROLE}", "error": "Refused"},
        "clock_stepped": {"seconds": 86_400},
        "shared_in_clear": {"server": "cache.internal"},
    } == fields
    texts = [f"{record.getMessage()} {record.__dict__}" for record in records]
    for secret in ["a-secret", "a-token", "a-static", "ASIA", "AKIA", "secret-name", "other-name", "X-Amz"]:
        assert [text for text in texts if secret in text] == []


@both_sources
def test_the_words_of_a_source_are_not_repeated(clock: Clock, kind: Kind) -> None:
    """P5, L1: SigningError names the exception of a source, whose own text may hold anything."""
    sessions = kind(clock)
    sessions.failure = Refused("a-secret and a-token")
    presigner = Presigner(sessions.origin(), clock=clock)
    with pytest.raises(SigningError) as refused:
        presigner.url("s3://media/a")
    assert str(refused.value) == "origin 'media': its credential source failed: Refused"


def test_the_levels_of_events(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """P5: a renewal as usual is INFO; what shortens URLs or failed is a WARNING."""
    caplog.set_level(logging.DEBUG)
    sessions = Role(clock, seconds=600)
    presigner = Presigner(sessions.origin(), clock=clock)
    presigner.url("s3://media/a")
    sessions.failure = RuntimeError("the source is down")
    clock.advance(410)
    presigner.url("s3://media/b")
    settle(presigner)
    levels = {event: {record.levelname for record in told(caplog, event)} for event in EVENTS}
    assert levels["credentials_renewed"] == {"INFO"}
    assert levels["credentials_short"] == {"WARNING"}
    assert levels["credentials_failed"] == {"WARNING"}
    assert "using those at hand" in told(caplog, "credentials_failed")[0].getMessage()


@both_sources
def test_failures_are_counted(clock: Clock, kind: Kind) -> None:
    """P5: each time a source fails is counted, with credentials at hand and without."""
    sessions = kind(clock)
    sessions.failure = RuntimeError("the source is down")
    presigner = Presigner(sessions.origin(), clock=clock)
    for target in ("s3://media/a", "s3://media/b"):
        with pytest.raises(SigningError):
            presigner.url(target)
    assert (presigner.stats()["credentials_failed"], len(sessions.asks)) == (2, 2)


def test_no_credentials_at_all(clock: Clock) -> None:
    """P5: where boto3 finds nothing the error names the origin and the cures."""
    presigner = Presigner(Origin("media", bucket="media", region="eu-west-1"), clock=clock)
    with pytest.raises(SigningError, match=r"origin 'media': no credentials were found.*role_arn"):
        presigner.url("s3://media/a")


def test_credentials_without_a_key(clock: Clock) -> None:
    """P5: a source that answers without a key is a failure like any other."""
    sessions = Role(clock)
    sessions._begin = lambda: {  # type: ignore[method-assign]  # the double's own
        "AccessKeyId": "",
        "SecretAccessKey": "",
        "SessionToken": "",
        "Expiration": datetime.fromtimestamp(clock.time() + 3600, UTC),
    }
    presigner = Presigner(sessions.origin(), clock=clock)
    with pytest.raises(SigningError, match="origin 'media': its credentials have no key"):
        presigner.url("s3://media/a")


def test_a_waiter_has_a_deadline(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """P5, D2: who waits for another that fetches credentials gives up in the end."""
    monkeypatch.setattr(room, "PATIENCE", 0.01)
    source = Source("a source", pytest.fail, None, 900, 900, 0, clock, Counts())
    with source._lock, pytest.raises(SourceError, match=r"waited 0.01 s"):
        source.renew()


def test_what_has_secrets_has_no_repr_of_them(clock: Clock) -> None:
    """L1: the repr of keys, of a snapshot and of an origin shows neither secret nor token."""
    sessions = Role(clock)
    presigner = Presigner(sessions.origin(), clock=clock)
    presigner.url("s3://media/a")
    snapshot = source_of(presigner).held
    keys = Keys("ASIATEST", "a-secret", "a-token", 5.0, "test", "")
    for value in (snapshot, keys, presigner.origins["media"], presigner):
        assert "a-secret" not in repr(value)
        assert "a-token" not in repr(value)


# --- a real STS ---------------------------------------------------------------------------------------------

SESSION: Final = 4  # seconds


@pytest.fixture(scope="module")
def short_sessions() -> Iterator[SeaweedFS]:
    """Give a server whose STS gives sessions of seconds."""
    with SeaweedFS(session_seconds=SESSION) as server:
        server.client().create_bucket(Bucket="media")
        server.client().put_object(Bucket="media", Key="cat", Body=b"meow")
        yield server


class Assumed:
    """The origins of a real server whose role is assumed, and how often it was."""

    def __init__(self, server: SeaweedFS) -> None:
        core = botocore.session.Session()
        session = boto3.Session(server.access_key, server.secret_key, botocore_session=core)
        session.events.register("before-parameter-build.sts.AssumeRole", self._note)
        session.events.register("needs-retry.sts.AssumeRole", self._answered)
        self.said: list[dict[str, Any]] = []
        self.sessions: list[dict[str, Any]] = []
        self.origin = Origin(
            "media",
            bucket="media",
            region=server.region,
            endpoint_url=server.endpoint_url,
            session=session,
            role_arn=server.role_arn,
            sts_endpoint_url=server.endpoint_url,
        )

    def _note(self, params: dict[str, Any], **_: Any) -> None:
        self.said.append(dict(params))

    def _answered(self, response: Any, **_: Any) -> None:
        if response is not None and "Credentials" in response[1]:
            self.sessions.append(response[1]["Credentials"])


@pytest.fixture
def assumed(short_sessions: SeaweedFS) -> Assumed:
    return Assumed(short_sessions)


def test_sessions_of_seconds_of_a_real_sts(assumed: Assumed) -> None:
    """P5: over two renewals every URL is accepted, and a real STS is asked once a session, not once a URL."""
    presigner = Presigner(assumed.origin)
    keys: list[str] = []
    deadline = time.monotonic() + 20 * SESSION
    with httpx.Client(trust_env=False) as client:
        for number in itertools.count():
            url = presigner.url("s3://media/cat", params={"ResponseCacheControl": f"max-age={number}"})
            assert client.get(url).text == "meow"
            if not keys or keys[-1] != signed_by(url):
                keys.append(signed_by(url))
            if len(keys) > 2:
                break
            assert time.monotonic() < deadline
    settle(presigner)
    assert number > 10
    assert [session["AccessKeyId"] for session in assumed.sessions][: len(keys)] == keys
    assert len(assumed.said) <= len(keys) + 1


def test_a_real_session_is_renewed_with_a_third_left(assumed: Assumed) -> None:
    """P5: a real session of 4 s is not renewed at half of its life, but after two thirds of it."""
    clock = Clock(time.time())  # stands still, and is moved: nothing here depends on how fast this runs
    presigner = Presigner(assumed.origin, clock=clock)
    presigner.url("s3://media/a")
    (first,) = assumed.sessions
    span = first["Expiration"].timestamp() - clock.time()
    clock.advance(span / 2)
    presigner.url("s3://media/b")
    settle(presigner)
    assert len(assumed.said) == 1
    clock.advance(span * 2 / 3 - span / 2 + 0.001)
    assert signed_by(presigner.url("s3://media/c")) == first["AccessKeyId"]
    settle(presigner)
    assert len(assumed.said) == 2


def test_what_sts_is_told(assumed: Assumed) -> None:
    """P5: role and external id are what STS is asked for, and no duration: the role's own stands."""
    origin = replace(assumed.origin, external_id="tenant-1")
    Presigner(origin).url("s3://media/cat")
    (said,) = assumed.said
    assert (SeaweedFS.role_arn, "tenant-1") == (said["RoleArn"], said["ExternalId"])
    assert {"RoleArn", "RoleSessionName", "ExternalId"} == said.keys()


def test_without_an_external_id(assumed: Assumed) -> None:
    """P5: an origin without an external id sends none."""
    Presigner(assumed.origin).url("s3://media/cat")
    assert "ExternalId" not in assumed.said[0]


def test_origins_that_share_a_real_role(assumed: Assumed) -> None:
    """K7, P5: five origins with one role assume it once, and the URLs of all are accepted."""
    origins = [replace(assumed.origin, name=f"media{n}", prefix=f"{n}/") for n in range(4)]
    presigner = Presigner(assumed.origin, *origins)
    presigner.urls(["s3://media/cat", *(f"s3://media/{n}/cat" for n in range(4))])
    assert len(assumed.said) == 1
    with httpx.Client(trust_env=False) as client:
        assert client.get(presigner.url("s3://media/cat")).text == "meow"
        assert client.get(presigner.url("s3://media/3/cat")).status_code == 404


def in_the_end(error: BaseException) -> str:
    """Return all that a traceback of *error* shows."""
    return "".join(traceback.format_exception(error))


def blocking(presigner: Presigner) -> str:
    return presigner.url("s3://media/cat")


def in_a_loop(presigner: Presigner) -> str:
    return asyncio.run(presigner.aurl("s3://media/cat"))


@pytest.mark.parametrize("ask", [blocking, in_a_loop])
def test_a_role_that_nobody_may_assume(assumed: Assumed, ask: Callable[[Presigner], str]) -> None:
    """P5, L1: a wrong role is a SigningError that names origin and exception, and shows no secret."""
    origin = replace(assumed.origin, role_arn="arn:aws:iam::000000000000:role/nobody")
    presigner = Presigner(origin)
    with pytest.raises(SigningError, match=r"origin 'media': .*ClientError") as refused:
        ask(presigner)
    assert isinstance(refused.value.__cause__, ClientError)
    assert assumed.origin.session.get_credentials().secret_key not in in_the_end(refused.value)


def test_keys_that_sts_refuses(short_sessions: SeaweedFS, assumed: Assumed) -> None:
    """P5, L1: base keys that STS refuses are a SigningError that names origin and exception, no secret."""
    core = botocore.session.Session()
    wrong = boto3.Session(short_sessions.access_key, "a-wrong-secret-of-the-base", botocore_session=core)
    presigner = Presigner(replace(assumed.origin, session=wrong))
    with pytest.raises(SigningError, match=r"origin 'media': .*ClientError") as refused:
        presigner.url("s3://media/cat")
    assert "a-wrong-secret" not in in_the_end(refused.value)


def test_an_sts_that_is_not_there(assumed: Assumed, monkeypatch: pytest.MonkeyPatch) -> None:
    """P5: sts_endpoint_url is where STS is asked: with nobody there it is a SigningError that names it so."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    presigner = Presigner(replace(assumed.origin, sts_endpoint_url="http://127.0.0.1:9/"))
    with pytest.raises(SigningError, match=r"origin 'media': .*EndpointConnectionError"):
        presigner.url("s3://media/cat")
    assert len(assumed.said) == 1


def test_a_real_session_is_not_logged(assumed: Assumed, caplog: pytest.LogCaptureFixture) -> None:
    """L1: at DEBUG, botocore's records included, no secret, token or signature of a session is logged."""
    caplog.set_level(logging.DEBUG)
    url = Presigner(assumed.origin).url("s3://media/cat")
    (session,) = assumed.sessions
    texts = [f"{record.name} {record.getMessage()} {record.args}" for record in caplog.records]
    secrets = [session["SecretAccessKey"], session["SessionToken"], url[-DIGEST:]]
    leaks = {text.split()[0] for text in texts for secret in secrets if secret in text}
    assert leaks == set()
