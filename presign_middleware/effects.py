"""
How to wait: the three ways the resolver's coroutine is run.

* `BlockingEffects`: in a thread without an event loop. Nothing suspends, so
  `run_blocking` needs one ``send``.
* `LoopThreadEffects`: a blocking call on the thread of a running loop. It waits for no
  flight of others, since this very loop may have to land it.
* `AsyncioEffects`: one task for what a loop turn asks of an origin, which no waiter can cancel.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from functools import partial
from threading import Lock
from time import monotonic
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from .errors import SigningError
from .local import Entry, Flight, Flights
from .metrics import Counts
from .objects import S3Object
from .resolver import Effects, Fly, Resolver, Signs
from .scope import Scope

__all__ = ["AsyncioEffects", "BlockingEffects", "LoopThreadEffects", "Runner", "run_blocking"]

logger = logging.getLogger("presign_middleware.effects")

#: Seconds anyone waits for a resolution that another has begun.
PATIENCE = 30

#: Threads in which event loops have credentials fetched: origins that hang at once without harm.
_MOST_THREADS = 8

T = TypeVar("T")


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what *coroutine* returns. Its effects must block and never suspend."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        answer: T = stop.value
        return answer
    coroutine.close()
    raise RuntimeError("a blocking effect suspended")  # a defect: an asyncio effect was handed in


def _waited(flight: Flight) -> SigningError:
    return SigningError(f"origin {flight.object.origin!r}: waited {PATIENCE} s for a signature under way")


class BlockingEffects:
    """Does everything in the calling thread."""

    def __init__(self, signing: Signs, flights: Flights) -> None:
        self.flights = flights
        self._signing = signing

    def portions(self, objects: list[S3Object]) -> list[list[S3Object]]:
        """Return *objects* by origin: while one hangs, nobody has to wait for this thread's others."""
        portions: dict[str, list[S3Object]] = {}
        for obj in objects:
            portions.setdefault(obj.origin, []).append(obj)
        return list(portions.values())

    async def launch(self, opened: Sequence[Flight], fly: Fly) -> None:
        """Land *opened* here and now."""
        if opened:
            await fly(opened, self)

    def deadline(self) -> float:
        """Return the monotonic instant until which a call that begins now may wait."""
        return monotonic() + PATIENCE

    async def join(self, flight: Flight, deadline: float) -> Entry | SigningError | None:
        """Block until *flight* lands."""
        try:
            return flight.future.result(timeout=max(0, deadline - monotonic()))
        except TimeoutError:
            # Whoever leads it hangs: let the next one who wants the object lead.
            self.flights.abandon([flight])
            return _waited(flight)

    async def prepare(self, objects: Sequence[S3Object]) -> dict[S3Object, SigningError]:
        """Prepare in this thread."""
        return self._signing.prepare(objects)


class LoopThreadEffects(BlockingEffects):
    """Does everything at once, and joins nobody: the loop cannot turn while this call blocks it."""

    _said = False

    def __init__(self, signing: Signs) -> None:
        super().__init__(signing, Flights())

    async def prepare(self, objects: Sequence[S3Object]) -> dict[S3Object, SigningError]:
        """Prepare on the loop's thread, and say so once."""
        if not LoopThreadEffects._said:
            LoopThreadEffects._said = True
            logger.warning(
                "a blocking call fetches credentials or builds a boto3 client on an event loop's thread, "
                "which stalls every request there; await aurl() or aurls() instead, or call "
                "presigner.url() once at start-up"
            )
        return await super().prepare(objects)


class AsyncioEffects:
    """Gathers what one turn of a loop asks for, and resolves it in one task an origin."""

    def __init__(self, signing: Signs, flights: Flights, pool: Callable[[], ThreadPoolExecutor]) -> None:
        self.flights = flights
        self._signing = signing
        self._pool = pool
        self._boarding: dict[str, list[Flight]] = {}  # by origin: one that hangs must not hold up the others
        self._turns: dict[str, asyncio.Lock] = {}  # by origin; a batch has one
        self._tasks: set[asyncio.Task[None]] = set()  # a loop keeps only weak references to its tasks

    def portions(self, objects: list[S3Object]) -> list[list[S3Object]]:
        """Return all of *objects* at once: each origin has a task of its own."""
        return [objects]

    async def launch(self, opened: Sequence[Flight], fly: Fly) -> None:
        """Add *opened* to what takes off in the next turn of the loop."""
        for flight in opened:
            origin = flight.object.origin
            if origin in self._boarding:
                self._boarding[origin].append(flight)
                continue
            batch = self._boarding[origin] = [flight]
            # An empty context: the batch belongs to no one request.
            task = asyncio.get_running_loop().create_task(self._take_off(origin, fly), context=Context())
            self._tasks.add(task)
            task.add_done_callback(partial(self._clear, origin, batch))

    async def _take_off(self, origin: str, fly: Fly) -> None:
        await fly(self._boarding.pop(origin), self)

    def _clear(self, origin: str, batch: list[Flight], task: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step never reaches a `finally` of its own.
        if self._boarding.get(origin) is batch:
            del self._boarding[origin]
        self.flights.abandon(batch)
        self._tasks.discard(task)

    def deadline(self) -> float:
        """Return the loop's instant until which a call that begins now may wait."""
        return asyncio.get_running_loop().time() + PATIENCE

    async def join(self, flight: Flight, deadline: float) -> Entry | SigningError | None:
        """Await *flight*; being cancelled here disturbs nobody else."""
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.wrap_future(flight.future)
        except TimeoutError:
            self.flights.abandon([flight])
            return _waited(flight)

    async def prepare(self, objects: Sequence[S3Object]) -> dict[S3Object, SigningError]:
        """Prepare in a thread of the library's own: the loop's may all be waiting for this very flight."""
        loop = asyncio.get_running_loop()
        # One thread an origin, so that one that hangs does not take them all.
        turn = self._turns.setdefault(objects[0].origin, asyncio.Lock())
        if turn.locked() and all(self._signing.could_sign(obj) for obj in objects):
            return {}  # with the credentials at hand, while another renews them
        async with turn:
            return await loop.run_in_executor(self._pool(), self._signing.prepare, objects)


class Runner:
    """Finds URLs for whoever asks: at once where that is possible, else by waiting as one may there."""

    def __init__(self, resolver: Resolver, signing: Signs, flights: Flights, counts: Counts) -> None:
        self._resolver = resolver
        self._signing = signing
        self._flights = flights
        self._counts = counts
        self._blocking = BlockingEffects(signing, flights)
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncioEffects] = WeakKeyDictionary()
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None

    def find(self, obj: S3Object, alias: str | None, scope: Scope | None) -> Entry:
        """Return the URL of *obj*; see `Resolver.quick`. May block; raises SigningError."""
        return self._resolver.quick(obj, alias, scope) or self._wait([obj], scope)[0]

    async def afind(self, obj: S3Object, alias: str | None, scope: Scope | None) -> Entry:
        """Return what `find` returns, without ever blocking the event loop."""
        return self._resolver.quick(obj, alias, scope) or (await self._await([obj], scope))[0]

    def find_all(
        self, objects: Sequence[S3Object], aliases: Sequence[str | None], scope: Scope | None
    ) -> list[Entry]:
        """Return the URL of each of *objects*. May block; raises the first SigningError."""
        entries = self._resolver.quick_all(objects, aliases, scope)
        missing = _missing(objects, entries)
        return _filled(entries, self._wait(missing, scope) if missing else [])

    async def afind_all(
        self, objects: Sequence[S3Object], aliases: Sequence[str | None], scope: Scope | None
    ) -> list[Entry]:
        """Return what `find_all` returns, without ever blocking the event loop."""
        entries = self._resolver.quick_all(objects, aliases, scope)
        missing = _missing(objects, entries)
        return _filled(entries, await self._await(missing, scope) if missing else [])

    def sign_once(self, obj: S3Object, headers: Mapping[str, str]) -> str:
        """Return a URL that signs *headers* too, for one request alone. May block; raises SigningError."""
        try:
            url = self._signing.sign_once(obj, headers)
        except SigningError:
            self._counts.failed += 1
            raise
        self._counts.from_signer += 1
        return url

    async def asign_once(self, obj: S3Object, headers: Mapping[str, str]) -> str:
        """Return what `sign_once` returns, without ever blocking the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads(), self.sign_once, obj, headers)

    def close(self) -> None:
        """Let go of threads, once what they do has ended."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    async def aclose(self) -> None:
        """Do what `close` does, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def _wait(self, objects: Sequence[S3Object], scope: Scope | None) -> list[Entry]:
        effects: Effects = self._blocking
        if asyncio._get_running_loop() is not None:  # the public one raises, which costs 1 us
            effects = LoopThreadEffects(self._signing)
        return _each(run_blocking(self._resolver.resolve(objects, scope, effects)))

    async def _await(self, objects: Sequence[S3Object], scope: Scope | None) -> list[Entry]:
        loop = asyncio.get_running_loop()
        effects = self._loops.get(loop)
        if effects is None:
            effects = self._loops[loop] = AsyncioEffects(self._signing, self._flights, self._threads)
        return _each(await self._resolver.resolve(objects, scope, effects))

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="presign")
            return self._pool


def _each(answers: Sequence[Entry | SigningError]) -> list[Entry]:
    """Return *answers*, or raise the first that is an error."""
    entries = []
    for answer in answers:
        if isinstance(answer, SigningError):
            # A copy: those who waited for one flight must not share a traceback.
            raise SigningError(*answer.args) from answer.__cause__
        entries.append(answer)
    return entries


def _missing(objects: Sequence[S3Object], entries: Sequence[Entry | None]) -> list[S3Object]:
    """Return those of *objects* that have no entry."""
    return [obj for obj, entry in zip(objects, entries, strict=True) if entry is None]


def _filled(entries: list[Entry | None], waited: Sequence[Entry]) -> list[Entry]:
    """Return *entries* with what was *waited* for in its gaps."""
    rest = iter(waited)
    return [next(rest) if entry is None else entry for entry in entries]
