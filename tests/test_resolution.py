"""
From an object to a URL: who signs, who waits for whom, and what stays in this process.

The credentials are doubles that stand at a gate until the test opens it, so that every
interleaving is made by events and none by luck.
"""

import asyncio
import gc
import itertools
import os
import random
import re
import signal
import sys
import threading
import warnings
from calendar import timegm
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from time import strptime
from typing import Any
from unittest.mock import Mock

import boto3
import botocore.session
import pytest
from botocore.credentials import DeferredRefreshableCredentials
from crowds import Crowd, Outcome, both_ways, in_threads

from presign_middleware import (
    Origin,
    Policy,
    Presigner,
    SigningError,
    effects,
    local,
    loops,
    resolver,
    signing,
)
from presign_middleware.local import Entry, Flight, Flights, Order, Patience
from presign_middleware.objects import S3Object
from presign_middleware.testing import Clock, Memcached

DEADLINE = 10  # seconds after which a test that has gone wrong stops waiting
ORDER = Order(Entry.is_fresh, Patience(0))


class Keys:
    """Temporary credentials whose source counts who asks it and answers once its gate is open."""

    def __init__(self, clock: Clock, *, is_open: bool = True, seconds: float = 43_200) -> None:
        self.fetches = 0
        self.failure: Exception | None = None
        self.takes = 0.0  # seconds by which the clock advances before the source answers
        self.ends: dict[str, float] = {}  # of each access key
        self.asked = threading.Event()
        self.gate = threading.Event()
        if is_open:
            self.gate.set()
        self._clock = clock
        self._seconds = seconds

    def origin(self, name: str) -> Origin:
        session: Any = botocore.session.Session()
        session._credentials = DeferredRefreshableCredentials(
            self._fetch, "test", time_fetcher=lambda: datetime.fromtimestamp(self._clock.time(), UTC)
        )
        return Origin(name, bucket=name, region="eu-west-1", session=boto3.Session(botocore_session=session))

    def _fetch(self) -> dict[str, str]:
        self.fetches += 1
        number = self.fetches
        self.asked.set()
        if not self.gate.wait(DEADLINE):
            raise RuntimeError("the test did not open the gate")
        self._clock.advance(self.takes)
        if self.failure is not None:
            raise self.failure
        access_key, end = f"ASIATEST{number:08}", int(self._clock.time() + self._seconds)
        self.ends[access_key] = end
        return {
            "access_key": access_key,
            "secret_key": "secret",
            "token": f"token-{number}",
            "expiry_time": datetime.fromtimestamp(end, UTC).isoformat(),
        }


class Arrivals:
    """Those who have boarded a flight, as its leader or to wait for it."""

    def __init__(self) -> None:
        self._boarded = threading.Semaphore(0)
        self.one_more = self._boarded.release

    def wait_for(self, number: int) -> None:
        for _ in range(number):
            assert self._boarded.acquire(timeout=DEADLINE), "not everyone has boarded"


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> Arrivals:
    found = Arrivals()
    board, resolve = Flights.board, resolver.Resolver.resolve
    here = threading.local()

    async def noted(self: resolver.Resolver, objects: Sequence[S3Object], *rest: Any) -> Any:
        here.together = len(objects)  # tasks of one loop ask together
        return await resolve(self, objects, *rest)

    def counted(
        flights: Flights, objects: Sequence[S3Object], order: Order
    ) -> tuple[list[Flight], list[Flight]]:
        answer = board(flights, objects, order)
        for _ in range(getattr(here, "together", 1)):
            found.one_more()
        return answer

    monkeypatch.setattr(resolver.Resolver, "resolve", noted)
    monkeypatch.setattr(Flights, "board", counted)
    return found


def many(crowd: Crowd) -> int:
    return 20 if crowd is in_threads else 50


# Flights.


@both_ways
def test_one_flight_serves_all(clock: Clock, arrivals: Arrivals, crowd: Crowd) -> None:
    """D1: all who ask for an object at once cause one fetch of credentials and one signature: one URL."""
    keys = Keys(clock, is_open=False)
    presigner = Presigner(keys.origin("media"), clock=clock)

    def meanwhile() -> None:
        arrivals.wait_for(many(crowd))
        keys.gate.set()

    answers = crowd(presigner, ["s3://media/a"] * many(crowd), meanwhile)
    assert [presigner.url("s3://media/a")] * many(crowd) == answers
    assert (keys.fetches, presigner.stats()["signed"]) == (1, 1)
    assert presigner.stats()["from_flight"] == many(crowd) - 1


def test_the_first_is_cancelled(clock: Clock, arrivals: Arrivals) -> None:
    """D2: when the first of 50 who wait is cancelled, the others get the one URL of the one signature."""
    keys = Keys(clock, is_open=False)
    presigner = Presigner(keys.origin("media"), clock=clock)

    async def ask() -> list[Outcome]:
        tasks = [asyncio.ensure_future(presigner.aurl("s3://media/a")) for _ in range(50)]
        await asyncio.to_thread(arrivals.wait_for, 50)
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
        keys.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, *others = asyncio.run(ask())
    assert isinstance(first, asyncio.CancelledError)
    assert [presigner.url("s3://media/a")] * 49 == others
    assert (keys.fetches, presigner.stats()["signed"]) == (1, 1)


@pytest.mark.parametrize("turns", range(1, 7))
def test_tasks_of_the_library_are_cancelled(clock: Clock, turns: int) -> None:
    """D2: who cancels every task but its own, at any step of them, gets its URLs nevertheless."""
    keys = Keys(clock, is_open=False)
    presigner = Presigner(keys.origin("media"), clock=clock)
    targets = ["s3://media/a", "s3://media/b", "s3://media/a"]

    async def ask() -> list[str]:
        mine = [asyncio.ensure_future(presigner.aurl(target)) for target in targets]
        for _ in range(turns):
            await asyncio.sleep(0)
        others = asyncio.all_tasks() - {*mine, asyncio.current_task()}
        for task in others:
            task.cancel()
        keys.gate.set()
        assert others
        return await asyncio.wait_for(asyncio.gather(*mine), DEADLINE)

    assert asyncio.run(ask()) == [presigner.url(target) for target in targets]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are never eager here")
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_loop_of_eager_tasks(clock: Clock, is_shared: bool, memcached: Memcached) -> None:
    """D2: where tasks take their first step as they are made, nobody waits any longer."""
    presigner = Presigner(
        Keys(clock).origin("media"), clock=clock, shared=memcached.url if is_shared else None
    )
    targets = [f"s3://media/{number}" for number in range(3)]

    async def ask() -> list[str]:
        asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  # not known to 3.11
        first = await asyncio.gather(*map(presigner.aurl, targets))
        presigner._table._entries.clear()
        presigner._table._queue.clear()
        presigner._table._aliases.clear()
        assert await asyncio.wait_for(asyncio.gather(*map(presigner.aurl, targets)), DEADLINE) == first
        return first

    assert asyncio.run(ask()) == presigner.urls(targets)
    presigner.close()


def test_a_defect_strands_nobody(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """D2: whatever goes wrong in what tasks of one loop have in common is told to each of them."""

    async def defect(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(resolver.Resolver, "resolve", defect)
    presigner = Presigner(Keys(clock).origin("media"), clock=clock)

    async def ask() -> list[Any]:
        asked = [presigner.aurl(f"s3://media/{number}") for number in range(3)]
        return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), DEADLINE)

    assert [type(failure) for failure in asyncio.run(ask())] == [ZeroDivisionError] * 3


@both_ways
def test_the_leaders_loop_ends(clock: Clock, arrivals: Arrivals, crowd: Crowd) -> None:
    """D2: when the event loop that leads a flight ends, one of those who wait begins it anew."""
    keys = Keys(clock, is_open=False)
    presigner = Presigner(keys.origin("media"), clock=clock)
    all_wait = threading.Event()

    async def lead() -> None:
        task = asyncio.ensure_future(presigner.aurl("s3://media/a"))
        await asyncio.to_thread(all_wait.wait, DEADLINE)
        assert not task.done()  # asyncio.run() cancels it, and the flight, on the way out

    leader = threading.Thread(target=asyncio.run, args=(lead(),))

    def meanwhile() -> None:
        arrivals.wait_for(many(crowd))
        all_wait.set()
        leader.join()
        keys.gate.set()

    leader.start()
    assert keys.asked.wait(DEADLINE)
    arrivals.wait_for(1)
    answers = crowd(presigner, ["s3://media/a"] * many(crowd), meanwhile)
    assert [presigner.url("s3://media/a")] * many(crowd) == answers
    assert (keys.fetches, presigner.stats()["signed"]) == (1, 1)


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("is_swept", [False, True])
def test_a_loop_ends_at_once(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, turns: int, is_swept: bool
) -> None:
    """D2: a loop that ends within a few turns of asking leaves no flight to wait for in vain."""
    for room in (effects, loops):
        monkeypatch.setattr(room, "PATIENCE", 1)
    presigner = Presigner(Keys(clock).origin("media"), clock=clock)

    async def lead() -> None:
        task = asyncio.ensure_future(presigner.aurl("s3://media/a"))
        for _ in range(turns):
            await asyncio.sleep(0)
        assert not task.done()
        if is_swept:  # as servers do that stop: also a task that has not made its first step
            for one in asyncio.all_tasks() - {asyncio.current_task()}:
                one.cancel()

    asyncio.run(lead())
    assert presigner.url("s3://media/a").startswith("https://media.s3.")


@both_ways
def test_a_failure_is_shared(clock: Clock, arrivals: Arrivals, crowd: Crowd) -> None:
    """D2: a failing source is asked once, each who waits is told once, and strangers get their URLs."""
    broken, sound = Keys(clock, is_open=False), Keys(clock, is_open=False)
    broken.failure = RuntimeError("the source is down")
    presigner = Presigner(broken.origin("broken"), sound.origin("media"), clock=clock)
    number = many(crowd)

    def meanwhile() -> None:
        arrivals.wait_for(number)
        broken.gate.set()
        sound.gate.set()

    answers = crowd(presigner, ["s3://broken/a", "s3://media/a"] * (number // 2), meanwhile)
    failures, found = answers[::2], answers[1::2]
    assert {SigningError} == {type(failure) for failure in failures}
    assert number // 2 == len({id(failure) for failure in failures})
    assert "origin 'broken'" in str(failures[0])
    assert {presigner.url("s3://media/a")} == set(found)
    assert (broken.fetches, presigner.stats()["failed"]) == (1, number // 2)


@both_ways
def test_a_failure_is_not_kept(clock: Clock, crowd: Crowd) -> None:
    """D2: whoever asks after a flight has failed begins a new one, which can succeed."""
    keys = Keys(clock)
    keys.failure = RuntimeError("the source is down")
    presigner = Presigner(keys.origin("media"), clock=clock)
    (failure,) = crowd(presigner, ["s3://media/a"], lambda: None)
    assert isinstance(failure, SigningError)
    keys.failure = None
    assert crowd(presigner, ["s3://media/a"], lambda: None) == [presigner.url("s3://media/a")]


@pytest.mark.parametrize("batch", [Presigner.urls, lambda p, targets: asyncio.run(p.aurls(targets))])
def test_one_origin_of_a_batch_fails(clock: Clock, batch: Callable[..., list[str]]) -> None:
    """D2: a batch raises what its failing origin raised, and what was signed for the others is kept."""
    keys = Keys(clock)
    keys.failure = RuntimeError("the source is down")
    presigner = Presigner(
        Keys(clock).origin("media"), keys.origin("broken"), Keys(clock).origin("films"), clock=clock
    )
    with pytest.raises(SigningError, match="origin 'broken'"):
        batch(presigner, ["s3://media/a", "s3://broken/a", "s3://broken/b", "s3://films/a"])
    assert keys.fetches == 1
    presigner.urls(["s3://media/a", "s3://films/a"])
    assert (presigner.stats()["signed"], presigner.stats()["from_local"]) == (2, 2)


def test_the_first_of_a_batch_that_cannot_be_signed_is_named(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D4: it is the first in the caller's order; what was signed before it is held, and counted."""
    presigner = Presigner(*[Keys(clock).origin(name) for name in ("good", "bad", "worse")], clock=clock)
    for name in ("good", "bad", "worse"):
        presigner.url(f"s3://{name}/learn")
    signs = signing.Signing.sign_all

    def sign_all(self: Any, objects: Sequence[S3Object], *now: Any) -> Any:
        if objects[0].origin == "good":
            return signs(self, objects, *now)
        return [], SigningError(f"{objects[0].origin} is refused")

    monkeypatch.setattr(signing.Signing, "sign_all", sign_all)
    with pytest.raises(SigningError, match="bad is refused"):
        presigner.urls(["s3://good/a", "s3://bad/a", "s3://worse/a", "s3://good/b"])
    stats = presigner.stats()
    assert (stats["failed"], stats["from_signer"]) == (1, 4)
    presigner.url("s3://good/a")
    assert presigner.stats()["from_local"] == stats["from_local"] + 1


def test_one_of_a_batch_that_boto3_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """D4: in the middle of what is signed one by one, too."""
    monkeypatch.setattr(signing, "Plan", Mock(side_effect=ValueError))  # no plan can make these URLs
    session = boto3.Session("AKIATEST", "secret")
    presigner = Presigner(Origin("media", bucket="media", region="eu-west-1", session=session))
    presigner.url("s3://media/learn")
    url = signing._Boto.url

    def refusing(self: Any, obj: S3Object, headers: Any) -> str:
        if obj.key == "bad":
            raise SigningError("boto3 refuses it")
        return url(self, obj, headers)

    monkeypatch.setattr(signing._Boto, "url", refusing)
    with pytest.raises(SigningError, match="boto3 refuses it"):
        presigner.urls(["s3://media/a", "s3://media/bad", "s3://media/b"])
    stats = presigner.stats()
    assert (stats["failed"], stats["from_signer"]) == (1, 2)
    presigner.url("s3://media/a")
    assert presigner.stats()["from_local"] == 1


def test_one_shape_of_a_batch_fails(clock: Clock) -> None:
    """D2: a URL that boto3 refuses to sign fails alone, not with what else its batch asks of the origin."""
    origin = replace(Keys(clock).origin("media"), methods=("GET", "DELETE"))
    presigner = Presigner(origin, clock=clock)

    async def ask() -> tuple[Outcome, Outcome]:
        impossible = presigner.aurl("s3://media/a", method="DELETE", params={"ResponseContentType": "a/b"})
        return await asyncio.gather(impossible, presigner.aurl("s3://media/a"), return_exceptions=True)

    refused, answer = asyncio.run(ask())
    assert isinstance(refused, SigningError)
    assert presigner.url("s3://media/a") == answer


def test_a_hanging_origin_in_a_loop(clock: Clock) -> None:
    """D2: an origin whose credentials hang does not hold up another's objects of the same loop turn."""
    keys = Keys(clock, is_open=False)
    presigner = Presigner(keys.origin("slow"), Keys(clock).origin("media"), clock=clock)

    async def ask() -> str:
        slow = asyncio.ensure_future(presigner.aurl("s3://slow/a"))
        answer = await asyncio.wait_for(presigner.aurl("s3://media/a"), DEADLINE)
        assert not slow.done()
        keys.gate.set()
        await slow
        return answer

    assert asyncio.run(ask()) == presigner.url("s3://media/a")


def test_what_another_thread_leads_in_a_loop(clock: Clock) -> None:
    """D2: who joins a flight that another thread leads holds up nobody of the same loop turn."""
    presigner = Presigner(Keys(clock).origin("media"), clock=clock)
    opened, _ = presigner._flights.board([S3Object.of("media", "media", "", "a", "GET", (), 3600)], ORDER)

    async def ask() -> str:
        joined = asyncio.ensure_future(presigner.aurl("s3://media/a"))
        answer = await asyncio.wait_for(presigner.aurl("s3://media/b"), DEADLINE)
        assert not joined.done()
        presigner._flights.abandon(opened)
        assert await asyncio.wait_for(joined, DEADLINE) == presigner.url("s3://media/a")
        return answer

    assert asyncio.run(ask()) == presigner.url("s3://media/b")


def test_a_kind_that_takes_its_time_in_a_loop(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, memcached: Memcached
) -> None:
    """D2: what has to be made ready first holds up nothing that is, of the same source."""
    presigner = Presigner(Keys(clock).origin("media"), clock=clock, shared=memcached.url)
    presigner.url("s3://media/learn")
    prepare, gate = signing.Signing.prepare, threading.Event()

    def slow(self: Any, objects: Sequence[S3Object]) -> Any:
        assert gate.wait(DEADLINE)
        return prepare(self, objects)

    monkeypatch.setattr(signing.Signing, "prepare", slow)

    async def ask() -> str:
        head = asyncio.ensure_future(presigner.aurl("s3://media/a", method="HEAD"))
        answer = await asyncio.wait_for(presigner.aurl("s3://media/b"), DEADLINE)
        assert not head.done()
        gate.set()
        await head
        return answer

    assert asyncio.run(ask()) == presigner.url("s3://media/b")
    presigner.close()


def test_loops_that_have_ended_are_let_go_of(clock: Clock, memcached: Memcached) -> None:
    """One loop a call, as ``async_to_sync`` has it, and what it has left unfinished."""
    presigner = Presigner(Keys(clock).origin("media"), clock=clock, shared=memcached.url)
    for number in range(5):
        clock.advance(presigner.policy.invalidation_lag)  # the epochs are read anew
        asyncio.run(presigner.aurl(f"s3://media/{number}"))
    gc.collect()
    assert len(presigner._runner._loops) == 1
    presigner.close()


def test_tasks_that_are_refused_together(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, memcached: Memcached
) -> None:
    """L2: each of those who are told is counted once, also where the epochs are read first."""
    keys = boto3.Session("AKIATEST", "secret")  # lasting ones, whose URLs need not be waited for
    origin = Origin("media", bucket="media", region="eu-west-1", session=keys)
    policy = Policy(shared_reads="auto")
    presigner = Presigner(origin, policy=policy, clock=clock, shared=memcached.url)
    presigner.url("s3://media/learn")
    clock.advance(presigner.policy.invalidation_lag)
    monkeypatch.setattr(signing.Signing, "sign", lambda *_: SigningError("refused"))

    async def ask() -> list[Any]:
        asked = [presigner.aurl("s3://media/a") for _ in range(3)]
        return await asyncio.gather(*asked, return_exceptions=True)

    assert [str(failure)[:7] for failure in asyncio.run(ask())] == ["refused"] * 3
    assert presigner.stats()["failed"] == 3
    presigner.close()


def test_an_origin_that_hangs_in_many_turns(clock: Clock) -> None:
    """D2: an origin that hangs, asked in twelve turns of a loop, leaves a thread for a cold one there."""
    keys = Keys(clock, is_open=False)
    presigner = Presigner(keys.origin("slow"), Keys(clock).origin("media"), clock=clock)

    async def ask() -> str:
        slow = []
        for number in range(12):
            slow.append(asyncio.ensure_future(presigner.aurl(f"s3://slow/{number}")))
            for _ in range(3):  # turns, in which it boards its flight and takes off
                await asyncio.sleep(0)
        try:
            answer = await asyncio.wait_for(presigner.aurl("s3://media/a"), DEADLINE / 2)
            assert [task for task in slow if task.done()] == []
        finally:
            keys.gate.set()
        await asyncio.gather(*slow)
        return answer

    assert asyncio.run(ask()) == presigner.url("s3://media/a")
    assert keys.fetches == 1


def test_a_hanging_origin_in_a_thread(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """D2: a thread whose batch hangs on one origin does not hold up those who want its other objects."""
    for room in (effects, loops):
        monkeypatch.setattr(room, "PATIENCE", 1)
    keys = Keys(clock, is_open=False)
    presigner = Presigner(keys.origin("slow"), Keys(clock).origin("media"), clock=clock)
    with ThreadPoolExecutor(1) as pool:
        batch = pool.submit(presigner.urls, ["s3://slow/a", "s3://media/a"])
        assert keys.asked.wait(DEADLINE)
        try:
            answer = presigner.url("s3://media/a")
            assert not batch.done()
        finally:
            keys.gate.set()
        assert batch.result()[1] == answer


@both_ways
def test_waiting_has_a_deadline(clock: Clock, monkeypatch: pytest.MonkeyPatch, crowd: Crowd) -> None:
    """D2: who waits for a flight that nobody lands gets SigningError in the end, and the next one signs."""
    presigner = Presigner(Keys(clock).origin("media"), clock=clock)
    presigner._flights.board([S3Object.of("media", "media", "", "a", "GET", (), 3600)], ORDER)
    with monkeypatch.context() as patch:
        for room in (effects, loops, resolver):
            patch.setattr(room, "PATIENCE", 0.01)
        (failure,) = crowd(presigner, ["s3://media/a"], lambda: None)
    assert isinstance(failure, SigningError)
    assert "waited 0.01 s" in str(failure)
    assert crowd(presigner, ["s3://media/a"], lambda: None) == [presigner.url("s3://media/a")]


@both_ways
def test_an_abandoned_flight(clock: Clock, arrivals: Arrivals, crowd: Crowd) -> None:
    """D2: a flight whose leader gives it up is begun anew once, by one of those who waited."""
    keys = Keys(clock)
    presigner = Presigner(keys.origin("media"), clock=clock)
    flights, _ = presigner._flights.board([S3Object.of("media", "media", "", "a", "GET", (), 3600)], ORDER)
    arrivals.wait_for(1)

    def meanwhile() -> None:
        arrivals.wait_for(many(crowd))
        assert keys.fetches == 0
        presigner._flights.abandon(flights)

    answers = crowd(presigner, ["s3://media/a"] * many(crowd), meanwhile)
    assert [presigner.url("s3://media/a")] * many(crowd) == answers
    assert (keys.fetches, presigner.stats()["signed"]) == (1, 1)


@pytest.mark.parametrize("is_warm", [False, True])
def test_a_blocking_call_on_a_loops_thread(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_warm: bool
) -> None:
    """D5: a blocking call on a loop's thread waits for no flight, and says so if it fetches credentials."""
    for room in (effects, loops):
        monkeypatch.setattr(room, "PATIENCE", DEADLINE)
    monkeypatch.setattr(effects.LoopThreadEffects, "_said", False)
    presigner = Presigner(Keys(clock).origin("media"), clock=clock)
    if is_warm:
        presigner.url("s3://media/other")
        presigner._flights.board([S3Object.of("media", "media", "", "a", "GET", (), 3600)], ORDER)

    async def ask() -> list[str]:
        task = asyncio.ensure_future(presigner.aurl("s3://media/a"))
        await asyncio.sleep(0)  # it has boarded its flight, which takes off in the loop's next turn
        assert not task.done()
        url = presigner.url("s3://media/a")
        if is_warm:  # the flight is the test's own: nobody lands it
            task.cancel()
            return [url]
        return [url, await task]

    urls = asyncio.run(ask())
    assert {presigner.url("s3://media/a")} == set(urls)
    assert presigner.stats()["signed"] == 1 + is_warm
    assert ("on an event loop's thread" in caplog.text) is not is_warm


# Credentials at hand.

LEFT = 590  # seconds before the end at which botocore insists on new credentials, and raises without


def due_for_renewal(clock: Clock) -> tuple[Keys, Presigner]:
    """Return a source that is to be asked again, and a presigner that holds its first credentials."""
    keys = Keys(clock, seconds=3600)
    presigner = Presigner(keys.origin("media"), clock=clock)
    presigner.url("s3://media/a")
    clock.advance(3600 - LEFT)
    return keys, presigner


def access_keys(urls: Sequence[Outcome]) -> set[str]:
    """Return the access keys that signed *urls*."""
    return {found for url in urls for found in re.findall(r"X-Amz-Credential=(\w+)", str(url)) or [str(url)]}


@both_ways
def test_a_source_that_takes_its_time_to_fail(clock: Clock, crowd: Crowd) -> None:
    """P5, D2: a minute in which the source fails costs no URL while the credentials at hand work."""
    keys, presigner = due_for_renewal(clock)
    keys.failure, keys.takes = RuntimeError("the source is down"), 60
    answers = crowd(presigner, ["s3://media/b"], lambda: None)
    assert access_keys(answers) == {"ASIATEST00000001"}
    assert keys.fetches == 2


def test_a_source_that_failed_slowly_is_left_alone(clock: Clock) -> None:
    """P5: a source that failed is asked again a tenth of what was left after it failed, not at once."""
    keys, presigner = due_for_renewal(clock)
    keys.failure, keys.takes = RuntimeError("the source is down"), 60
    presigner.url("s3://media/b")
    asked_in_background(presigner)
    clock.advance((LEFT - 60) / 10 - 1)
    presigner.url("s3://media/c")
    asked_in_background(presigner)
    assert keys.fetches == 2
    clock.advance(1)
    keys.failure, keys.takes = None, 0
    assert access_keys([presigner.url("s3://media/d")]) == {"ASIATEST00000001"}
    asked_in_background(presigner)
    assert access_keys([presigner.url("s3://media/e")]) == {"ASIATEST00000003"}


def asked_in_background(presigner: Presigner) -> None:
    """Wait until nobody asks the source of the origin "media" in the background."""
    source = presigner._signing._origins["media"].source
    assert source._background.acquire(timeout=DEADLINE)
    source._background.release()


@both_ways
def test_nobody_waits_for_a_renewal(clock: Clock, crowd: Crowd) -> None:
    """P5, D2: while credentials are renewed, all sign with those at hand that still work."""
    keys, presigner = due_for_renewal(clock)
    keys.asked.clear()
    keys.gate.clear()
    try:
        answers = crowd(presigner, [f"s3://media/{n}" for n in range(many(crowd))], lambda: None)
        assert keys.asked.wait(DEADLINE)
    finally:
        keys.gate.set()
    asked_in_background(presigner)
    assert access_keys(answers) == {"ASIATEST00000001"}
    assert access_keys([presigner.url("s3://media/new")]) == {"ASIATEST00000002"}
    assert keys.fetches == 2


# What this process keeps.


def test_the_table_is_bounded(clock: Clock) -> None:
    """M8: at most local_size URLs are held, and every one that had to leave is counted."""
    presigner = Presigner(Keys(clock).origin("media"), clock=clock, local_size=100)
    presigner.urls([f"s3://media/{number}" for number in range(250)])
    assert presigner.stats()["evicted"] == 150
    presigner.urls([f"s3://media/{number}" for number in range(150, 250)])
    assert (presigner.stats()["signed"], presigner.stats()["from_local"]) == (250, 100)


def test_a_second_chance(clock: Clock) -> None:
    """M8: of a full table the oldest URL leaves that nobody has asked for since."""
    presigner = Presigner(Keys(clock).origin("media"), clock=clock, local_size=3)
    for key in "abcad":
        presigner.url(f"s3://media/{key}")
    assert presigner.stats()["evicted"] == 1
    for key in "acd":
        presigner.url(f"s3://media/{key}")
    assert presigner.stats()["signed"] == 4
    presigner.url("s3://media/b")
    assert presigner.stats()["signed"] == 5


def test_a_full_table_in_use(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """M8: a full table of URLs in use passes over a few of them, then drops one, and stays at its size."""
    monkeypatch.setattr(local, "_MOST_CHANCES", 4)
    presigner = Presigner(Keys(clock).origin("media"), clock=clock, local_size=20)
    for number in [*range(20), *range(20)]:
        presigner.url(f"s3://media/{number}")
    presigner.url("s3://media/20")
    table = presigner._table
    assert sum([entry.used is True for entry in table._entries.values()]) == 20 - 4 - 1
    for number in range(21, 60):
        presigner.urls([f"s3://media/{number}"] * 2)
        presigner.url(f"s3://media/{number}")
    assert (len(table), len(table._aliases), presigner.stats()["evicted"]) == (20, 20, 40)


@pytest.mark.usefixtures("switching_often")
def test_counters_are_exact(clock: Clock) -> None:
    """M8: eight threads that ask 20,000 times each are counted 160,000 times."""
    presigner = Presigner(Keys(clock).origin("media"), clock=clock)
    targets = [f"s3://media/{number}" for number in range(10)]
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait(DEADLINE)
        for _ in range(2_000):
            for target in targets:
                presigner.url(target)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(ask) for _ in range(8)]:
            future.result()
    stats = presigner.stats()
    assert (stats["resolved"], stats["signed"]) == (160_000, 10)


@pytest.mark.usefixtures("switching_often")
def test_cold_objects_are_signed_once(clock: Clock) -> None:
    """D1: eight threads that ask for 1,000 cold objects in orders of their own cause 1,000 signatures."""
    keys = Keys(clock)
    presigner = Presigner(keys.origin("media"), clock=clock)
    targets = [f"s3://media/{number}" for number in range(1_000)]
    start = threading.Barrier(8)

    def ask(seed: int) -> dict[str, str]:
        mine = random.Random(seed).sample(targets, len(targets))
        start.wait(DEADLINE)
        return {target: presigner.url(target) for target in mine}

    with ThreadPoolExecutor(8) as pool:
        first, *others = pool.map(ask, range(8))
    assert [first] * 7 == others
    assert (keys.fetches, presigner.stats()["signed"]) == (1, 1_000)


# Time.


def dated(url: str) -> int:
    """Return X-Amz-Date of *url* in Unix seconds."""
    found = re.search(r"X-Amz-Date=(\w+)", url)
    assert found
    return timegm(strptime(found[1], "%Y%m%dT%H%M%SZ"))


def end_of(url: str, keys: Keys) -> float:
    """Return when S3 begins to refuse *url*."""
    lifetime = re.search(r"X-Amz-Expires=(\d+)", url)
    access_key = re.search(r"X-Amz-Credential=(\w+)", url)
    assert lifetime
    assert access_key
    return min(dated(url) + int(lifetime[1]), keys.ends[access_key[1]])


def test_one_url_a_window(clock: Clock) -> None:
    """M8, P2, P3: for 8 h a URL stays until it would be SPENT, its successor is one period younger."""
    keys = Keys(clock, seconds=604_800)
    presigner = Presigner(keys.origin("media"), clock=clock)
    served: Counter[str] = Counter()
    for _ in range(480):
        url = presigner.url("s3://media/a")
        served[url] += 1
        assert dated(url) <= clock.time()
        assert end_of(url, keys) - clock.time() >= 300
        clock.advance(60)
    dates = [dated(url) for url in served]  # in the order in which they were first served
    assert {2940} == {later - earlier for earlier, later in itertools.pairwise(dates)}
    assert presigner.stats()["signed"] == len(served)


def test_presigners_agree(clock: Clock) -> None:
    """P2: a presigner that starts later in an object's window makes the URL that an older one serves."""
    origin = Keys(clock).origin("media")
    old = Presigner(origin, clock=clock)
    url = old.url("s3://media/a")
    clock.advance(dated(url) + 2939 - clock.time())
    assert Presigner(origin, clock=clock).url("s3://media/a") == url
    clock.advance(1)
    assert Presigner(origin, clock=clock).url("s3://media/a") != url
    assert old.url("s3://media/a") == url  # AGEING is served


@pytest.mark.parametrize(
    ("seconds", "is_served"), [(0, True), (2939, True), (2940, True), (3299, True), (3300, False)]
)
def test_ageing_and_spent(clock: Clock, seconds: int, is_served: bool) -> None:
    """P3: an AGEING URL is served, a SPENT one is not."""
    presigner = Presigner(Keys(clock).origin("media"), clock=clock)
    url = presigner.url("s3://media/a")
    clock.advance(dated(url) + seconds - clock.time() if seconds else 0)
    assert (presigner.url("s3://media/a") == url) is is_served


@pytest.mark.parametrize("session", [3600, 7200, 43_200])
def test_sessions_end(clock: Clock, session: int) -> None:
    """P3, P4: over two days of short sessions every URL has min_remaining left of its true life."""
    keys = Keys(clock, seconds=session)
    presigner = Presigner(keys.origin("media"), clock=clock)
    for _ in range(960):
        url = presigner.url("s3://media/a")
        assert end_of(url, keys) - clock.time() >= 300
        clock.advance(180)
    assert keys.fetches >= 172_800 // session


def test_the_wall_clock_is_stepped(clock: Clock) -> None:
    """P7: however the wall clock is stepped by hours, no URL is SPENT and none is dated in the future."""
    keys = Keys(clock, seconds=604_800 * 52)
    presigner = Presigner(keys.origin("media"), clock=clock)
    chance = random.Random(7)
    targets = [f"s3://media/{number}" for number in range(5)]
    for _ in range(400):
        if chance.random() < 0.5:
            clock.advance(chance.choice([1, 60, 600, 3000]))
        else:
            clock.step(chance.choice([-1, 1]) * 3600 * chance.randint(1, 30))
        for url in presigner.urls(chance.sample(targets, 3)):
            assert dated(url) <= clock.time()
            assert end_of(url, keys) - clock.time() >= 300


def test_the_wall_clock_stands_still(clock: Clock) -> None:
    """P7: a wall clock that is set back again and again does not lengthen a URL's stay here."""
    presigner = Presigner(Keys(clock).origin("media"), clock=clock)
    url = presigner.url("s3://media/a")
    left = dated(url) + 3300 - clock.time()
    clock.advance(left - 1)
    clock.step(1 - left)
    assert presigner.url("s3://media/a") == url
    assert presigner.stats()["signed"] == 1
    clock.advance(1)
    clock.step(-1)
    presigner.url("s3://media/a")
    assert presigner.stats()["signed"] == 2


@pytest.mark.parametrize("batch", [Presigner.urls, lambda p, targets: asyncio.run(p.aurls(targets))])
def test_a_batch_of_more_shapes_than_plans_are_kept(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, batch: Callable[..., list[str]]
) -> None:
    """M8: a plan that gives way to another of the same batch is learned again, and every URL is made."""
    monkeypatch.setattr(signing, "_MOST_PLANS", 2)
    host = "https://media.s3.eu-west-1.amazonaws.com"
    queries = ("versionId=1", "partNumber=1", "partNumber=1&versionId=1", "response-expires=1")
    targets = [f"{host}/a?{query}" for query in queries]
    presigner = Presigner(Keys(clock).origin("media"), clock=clock)
    urls = batch(presigner, targets)
    assert [url.partition("&X-Amz")[0] for url in urls] == targets


def test_parameters_without_end(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """M8: of what was found to be so of a kind, no more is kept than of the kinds that an origin keeps."""
    monkeypatch.setattr(signing, "_MOST_RECIPES", 3)
    presigner = Presigner(Keys(clock).origin("media"), clock=clock)
    for number in range(10):
        presigner.url("s3://media/a", params={"ResponseContentDisposition": f"attachment; filename={number}"})
    presigner.url("s3://media/a")
    assert [bool(kind.params) for kind in presigner._signing._leases] == [True] * 3 + [False]


@pytest.mark.parametrize("part", ["lease", "_new_recipe"])
def test_a_region_that_is_learned_while_another_thread_signs(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """H2: what that thread has found to be so of the former region is used by nobody else."""
    presigner = Presigner(Keys(clock).origin("media"), clock=clock)
    presigner.url("s3://media/learn", params={"ResponseContentType": "image/gif"})
    asked, params = "s3://media/a", {"ResponseContentType": "image/png"}  # a new kind, by a plan at hand
    moved = replace(presigner.origins["media"], region="us-west-2")
    find = getattr(signing.OriginSigning, part)

    def finding(self: signing.OriginSigning, *given: Any) -> Any:
        found = find(self, *given)
        if self.origin is not moved:
            presigner._signing.move(moved)
        return found

    monkeypatch.setattr(signing.OriginSigning, part, finding)
    assert "eu-west-1" in presigner.url(asked, params=params)
    presigner._runner.drop("media")
    assert "us-west-2" in presigner.url(asked, params=params)


def test_what_is_asked_for_twice_in_one_call(clock: Clock) -> None:
    """D1: each URL handed out is counted once, and one that could not be made is counted for no answer."""
    keys = Keys(clock)
    keys.failure = RuntimeError("the source is down")
    presigner = Presigner(keys.origin("media"), clock=clock)
    with pytest.raises(SigningError):
        presigner.urls(["s3://media/a"] * 3)
    assert (presigner.stats()["resolved"], presigner.stats()["failed"]) == (0, 1)
    keys.failure = None
    assert len(set(presigner.urls(["s3://media/a"] * 3))) == 1
    assert (presigner.stats()["resolved"], presigner.stats()["signed"]) == (3, 1)


def test_a_fork_finds_a_side_half_made(clock: Clock) -> None:
    """D2: a child begins anew also where the parent was about to keep what counts its URLs."""
    presigner = Presigner(Keys(clock).origin("media"), clock=clock)
    presigner.measuring.advice()
    del presigner.measuring  # not set yet, as between two steps of another thread
    presigner._open()
    presigner.url("s3://media/a")
    assert presigner.stats()["from_signer"] == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_begins_anew(clock: Clock) -> None:
    """D2: a child waits for no lock, flight or thread of its parent's, and makes the same URL."""
    keys = Keys(clock)
    presigner = Presigner(keys.origin("media"), clock=clock)
    url = asyncio.run(presigner.aurl("s3://media/a"))  # has threads by now
    presigner._flights.board([S3Object.of("media", "media", "", "b", "GET", (), 3600)], ORDER)
    locks = [presigner._runner._resolver._lock, presigner._flights._lock, presigner._runner._pool._lock]
    for lock in locks:
        lock.acquire()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # since 3.12: a process that has threads forks
        child = os.fork()
    if not child:
        signal.alarm(20)
        told = [presigner.url("s3://media/b"), asyncio.run(presigner.aurl("s3://media/a"))]
        os.write(writing, told[1].encode())
        os._exit(0)
    for lock in locks:
        lock.release()
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == url
    assert os.waitpid(child, 0)[1] == 0
