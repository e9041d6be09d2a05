"""One incoming request: what it remembers, whom it reaches, and what is left of it afterwards."""

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import boto3
import pytest

from presign_middleware import Origin, Presigner
from presign_middleware.scope import Scope, catching, current
from presign_middleware.testing import Clock

SESSION = boto3.Session(aws_access_key_id="AKIATEST", aws_secret_access_key="secret", region_name="eu-west-1")

AGEING = 2940  # seconds after its date from which a URL of the default policy is AGEING
SPENT = 3300  # seconds after its date from which it is SPENT


@pytest.fixture
def presigner(clock: Clock) -> Presigner:
    return Presigner(Origin("media", bucket="media", session=SESSION), clock=clock)


def counted(presigner: Presigner) -> tuple[int, int, int]:
    """Return how many URLs came from the scope, from the process and from the signer."""
    stats = presigner.stats()
    return stats["from_scope"], stats["from_local"], stats["signed"]


@contextmanager
def blocking(presigner: Presigner) -> Iterator[Callable[[str], str]]:
    with presigner.scope():
        yield presigner.url


@contextmanager
def awaited(presigner: Presigner) -> Iterator[Callable[[str], str]]:
    with asyncio.Runner() as runner:
        scope = presigner.scope()
        runner.run(scope.__aenter__())
        # The runner's tasks share one context, so the scope stays open from one run to the next.
        yield lambda target: runner.run(presigner.aurl(target))
        runner.run(scope.__aexit__())


both_ways = pytest.mark.parametrize("request_of", [blocking, awaited])
Request = Callable[[Presigner], AbstractContextManager[Callable[[str], str]]]


# What a request remembers.


@both_ways
def test_a_request_resolves_once(presigner: Presigner, request_of: Request) -> None:
    """D1: in one request an object is resolved once; in the next the process has it."""
    with request_of(presigner) as url:
        first = [url("s3://media/a") for _ in range(3)]
    assert counted(presigner) == (2, 0, 1)
    with request_of(presigner) as url:
        second = [url("s3://media/a") for _ in range(3)]
    assert counted(presigner) == (4, 1, 1)
    assert [first[0]] * 6 == first + second


def test_a_request_of_many_tasks_and_threads(presigner: Presigner) -> None:
    """D1: fifty tasks and twenty threads of one request cause one signature and share its URL."""
    pool = ThreadPoolExecutor(20)
    start = threading.Barrier(20)

    def in_thread() -> str:
        start.wait(10)
        return presigner.url("s3://media/a")

    async def serve() -> list[str]:
        asyncio.get_running_loop().set_default_executor(pool)  # a thread for each of the twenty
        async with presigner.scope():
            tasks = [presigner.aurl("s3://media/a") for _ in range(50)]
            return await asyncio.gather(*tasks, *(asyncio.to_thread(in_thread) for _ in range(20)))

    urls = asyncio.run(serve())
    assert [presigner.url("s3://media/a")] * 70 == urls
    assert presigner.stats()["signed"] == 1
    assert presigner.stats()["resolved"] == 71


def test_the_least_recently_used_leaves(presigner: Presigner) -> None:
    """D6: a request remembers the 10,000 objects it used last."""
    with blocking(presigner) as url:
        for number in range(10_000):
            url(f"s3://media/{number}")
        url("s3://media/0")
        url("s3://media/10000")
        assert counted(presigner) == (1, 0, 10_001)
        url("s3://media/0")
        assert counted(presigner) == (2, 0, 10_001)
        url("s3://media/1")
        assert counted(presigner) == (2, 1, 10_001)


@both_ways
def test_a_spent_url_is_not_served(clock: Clock, presigner: Presigner, request_of: Request) -> None:
    """D6: a request that outlives a URL does not serve it SPENT."""
    with request_of(presigner) as url:
        first = url("s3://media/a")
        clock.advance(SPENT)
        second = url("s3://media/a")
    assert first != second
    assert counted(presigner) == (0, 0, 2)


@both_ways
def test_a_stepped_wall_clock(clock: Clock, presigner: Presigner, request_of: Request) -> None:
    """D6, P7: a request does not serve a URL that is dated in the future once the wall clock is set back."""
    with request_of(presigner) as url:
        url("s3://media/a")
        clock.step(-7200)
        url("s3://media/a")
    assert counted(presigner) == (0, 0, 2)


@both_ways
@pytest.mark.parametrize("is_met_late", [False, True])
def test_an_old_request_does_not_serve_ageing(
    clock: Clock, presigner: Presigner, request_of: Request, is_met_late: bool
) -> None:
    """D6: a request older than half the AGEING window gets a new URL, a young one the AGEING one."""
    first = presigner.resolve("s3://media/a")
    clock.advance(first.created_at + SPENT - clock.time())
    ageing = presigner.resolve("s3://media/a")
    clock.advance(ageing.created_at + AGEING - 179 - clock.time())
    with request_of(presigner) as url:
        if not is_met_late:
            assert url("s3://media/a") == ageing.url
        clock.advance(179)
        assert url("s3://media/a") == ageing.url  # 179 s old: half the AGEING window is 180 s
        clock.advance(1)
        with request_of(presigner) as young:
            assert young("s3://media/a") == ageing.url
        assert url("s3://media/a") != ageing.url


# Whom it reaches.


def test_a_scope_reaches(presigner: Presigner) -> None:
    """D3: tasks, gather and threads of a request are in its scope, and what they resolve it remembers."""

    async def ask(number: int) -> Scope | None:
        await presigner.aurl(f"s3://media/{number}")
        return current()

    def ask_in_thread(number: int) -> Scope | None:
        presigner.url(f"s3://media/{number}")
        return current()

    async def serve() -> tuple[Scope, list[Scope | None]]:
        async with presigner.scope() as scope:
            found = [
                await asyncio.create_task(ask(0)),
                *await asyncio.gather(ask(1), ask(2)),
                await asyncio.to_thread(ask_in_thread, 3),
            ]
            await presigner.aurls([f"s3://media/{number}" for number in range(4)])
        return scope, found

    scope, found = asyncio.run(serve())
    assert [scope] * 4 == found
    assert counted(presigner) == (4, 0, 4)


def test_a_scope_that_has_ended(presigner: Presigner) -> None:
    """D3: for a task that outlives its request the scope names its presigner and remembers nothing."""

    async def outlive(ended: asyncio.Event) -> Scope | None:
        await presigner.aurl("s3://media/a")
        await ended.wait()
        for _ in range(3):
            await presigner.aurl("s3://media/a")
            await asyncio.to_thread(presigner.url, "s3://media/b")
        return current()

    async def serve() -> tuple[Scope, Scope | None]:
        ended = asyncio.Event()
        async with presigner.scope() as scope:
            task = asyncio.create_task(outlive(ended))
            await asyncio.sleep(0)
        ended.set()
        return scope, await task

    scope, found = asyncio.run(serve())
    assert scope is found
    assert presigner is scope.presigner
    assert scope.ended
    assert counted(presigner) == (0, 5, 2)


def test_a_scope_ends_in_another_context(presigner: Presigner) -> None:
    """D3: a scope that was entered in one context can be left in another."""
    scope = presigner.scope()
    there = contextvars.copy_context()
    assert scope is there.run(scope.__enter__)
    scope.__exit__(None, None, None)
    assert scope.ended
    assert current() is None


def test_an_error_ends_a_scope(presigner: Presigner) -> None:
    """D3: a request that ends in an error has ended, and its error comes through."""
    scope = presigner.scope()
    with pytest.raises(ZeroDivisionError), scope:
        _ = 1 / 0
    assert scope.ended
    assert current() is None


def test_nested_scopes(clock: Clock) -> None:
    """D3: scopes of two presigners do not mix, even where their origins have one name."""
    other = boto3.Session(aws_access_key_id="AKIAOTHER", aws_secret_access_key="secret")
    outer, inner = (
        Presigner(Origin("media", bucket="media", region="eu-west-1", session=session), clock=clock)
        for session in (SESSION, other)
    )
    with outer.scope() as outside:
        theirs = [outer.url("s3://media/a")]
        with inner.scope() as inside:
            assert current() is inside
            for key in "abab":
                assert "AKIAOTHER" in inner.url(f"s3://media/{key}")
                theirs.append(outer.url(f"s3://media/{key}"))
        assert current() is outside
        theirs.append(outer.url("s3://media/a"))
    assert current() is None
    assert [url for url in theirs if "AKIATEST" not in url] == []
    assert counted(outer) == (1, 3, 2)
    assert counted(inner) == (2, 0, 2)


def test_both_kinds_of_with(presigner: Presigner) -> None:
    """D3: a scope is entered by with and by async with, and is current until its block ends."""

    async def serve() -> None:
        async with presigner.scope() as scope:
            assert current() is scope
            with presigner.scope() as inner:
                assert current() is inner
            assert current() is scope
        assert current() is None

    asyncio.run(serve())


def test_an_open_scope_is_not_entered(presigner: Presigner) -> None:
    """D3: a scope that is open cannot be entered a second time, and stays open and current."""

    async def enter_soon(scope: Scope) -> None:
        async with scope:
            pass

    with presigner.scope() as scope:
        with pytest.raises(RuntimeError, match="open already"), scope:
            pass
        with pytest.raises(RuntimeError, match="open already"):
            asyncio.run(enter_soon(scope))
        assert current() is scope
        assert not scope.ended
    assert current() is None


def test_a_scope_is_entered_again(presigner: Presigner) -> None:
    """D1: a scope that has ended can be entered again, and then remembers like a new one."""
    scope = presigner.scope()
    for _ in range(2):
        with scope:
            assert current() is scope
            assert not scope.ended
            for _ in range(3):
                presigner.url("s3://media/a")
        assert scope.ended
        assert current() is None
    assert counted(presigner) == (4, 1, 1)


def test_a_scope_that_has_ended_lets_go_of_its_outer_one(clock: Clock, presigner: Presigner) -> None:
    """D3: a job that starts its successor inside its scope does not keep the scopes before it alive."""
    outer = Presigner(Origin("media", bucket="media", session=SESSION), clock=clock)
    alive = weakref.ref(outer)  # which only its scope holds from here on
    inner = presigner.scope()
    with outer.scope(), inner:
        del outer
    gc.collect()
    assert inner.ended
    assert alive() is None


def test_requests_do_not_share(presigner: Presigner) -> None:
    """D3: requests served at once on one loop have a scope each."""

    async def serve(barrier: asyncio.Barrier) -> Scope:
        async with presigner.scope() as scope:
            await barrier.wait()
            assert current() is scope
            await presigner.aurl("s3://media/a")
            return scope

    async def both() -> tuple[Scope, Scope]:
        barrier = asyncio.Barrier(2)
        return await asyncio.gather(serve(barrier), serve(barrier))

    one, other = asyncio.run(both())
    assert one is not other
    assert presigner.stats()["from_scope"] == 0


# Where nothing is caught.


def test_paused_reaches(presigner: Presigner) -> None:
    """O6: nothing is caught inside paused(), in its tasks and threads either, and everything is after it."""

    async def ask() -> bool:
        return catching()

    async def serve() -> list[bool]:
        async with presigner.scope():
            with presigner.paused():
                started_inside = asyncio.create_task(ask())
                inside = [catching(), await asyncio.to_thread(catching), *await asyncio.gather(ask(), ask())]
            return [*inside, await started_inside, catching(), await asyncio.to_thread(catching)]

    assert asyncio.run(serve()) == [False] * 5 + [True] * 2


def test_paused_does_not_leak(presigner: Presigner) -> None:
    """O6: paused() in one task leaves others alone, and ends with an error as it does without."""

    async def pause(barrier: asyncio.Barrier) -> None:
        with presigner.paused():
            await barrier.wait()
            await barrier.wait()

    async def serve() -> bool:
        barrier = asyncio.Barrier(2)
        task = asyncio.create_task(pause(barrier))
        await barrier.wait()
        found = catching()
        await barrier.wait()
        await task
        return found

    assert asyncio.run(serve())
    with pytest.raises(ZeroDivisionError), presigner.paused():
        _ = 1 / 0
    assert catching()


def test_paused_twice(presigner: Presigner) -> None:
    """O6: the inner of two paused() blocks does not end the outer one."""
    with presigner.paused():
        with presigner.paused():
            pass
        assert not catching()
    assert catching()


def test_explicit_calls_are_not_paused(presigner: Presigner) -> None:
    """O6: inside paused() whoever asks for a URL gets it."""
    with presigner.paused():
        assert "X-Amz-Signature=" in presigner.url("s3://media/a")
