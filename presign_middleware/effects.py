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
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from functools import partial
from threading import Lock
from time import monotonic
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from .errors import SigningError
from .local import Entry, Flight, Flights
from .objects import S3Object
from .resolver import Effects, Fly, Resolver, Signing
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


def _by_origin(objects: Sequence[S3Object]) -> dict[str, list[S3Object]]:
    groups: dict[str, list[S3Object]] = {}
    for obj in objects:
        groups.setdefault(obj.origin, []).append(obj)
    return groups


def _waited(flight: Flight) -> SigningError:
    return SigningError(f"origin {flight.object.origin!r}: waited {PATIENCE} s for a signature under way")


class BlockingEffects:
    """Does everything in the calling thread."""

    def __init__(self, signing: Signing, flights: Flights) -> None:
        self.flights = flights
        self._signing = signing

    def portions(self, objects: list[S3Object]) -> list[list[S3Object]]:
        """Return *objects* by origin: while one hangs, nobody has to wait for this thread's others."""
        return list(_by_origin(objects).values())

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

    def __init__(self, signing: Signing) -> None:
        super().__init__(signing, Flights())

    async def prepare(self, objects: Sequence[S3Object]) -> dict[S3Object, SigningError]:
        """Prepare on the loop's thread, and say so once."""
        if not LoopThreadEffects._said:
            LoopThreadEffects._said = True
            logger.warning(
                "a blocking call fetches credentials on an event loop's thread, which stalls every request "
                "there; await aurl() or aurls() instead, or call presigner.url() once at start-up"
            )
        return await super().prepare(objects)


class AsyncioEffects:
    """Gathers what one turn of a loop asks for, and resolves it in one task an origin."""

    def __init__(self, signing: Signing, flights: Flights, pool: Callable[[], ThreadPoolExecutor]) -> None:
        self.flights = flights
        self._signing = signing
        self._pool = pool
        self._boarding: dict[str, list[Flight]] = {}  # by origin: one that hangs must not hold up the others
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
        return await asyncio.get_running_loop().run_in_executor(self._pool(), self._signing.prepare, objects)


class Runner:
    """Runs a resolver's coroutine wherever it is asked from: in a thread, on a loop's thread, in a loop."""

    def __init__(self, resolver: Resolver, signing: Signing, flights: Flights) -> None:
        self._resolver = resolver
        self._signing = signing
        self._flights = flights
        self._blocking = BlockingEffects(signing, flights)
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncioEffects] = WeakKeyDictionary()
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None

    def run(self, objects: Sequence[S3Object], scope: Scope | None) -> list[Entry]:
        """Return the URL of each of *objects*. Raises the first SigningError."""
        effects = self._here()
        return _each(run_blocking(self._resolver.resolve(objects, scope, effects)))

    async def arun(self, objects: Sequence[S3Object], scope: Scope | None) -> list[Entry]:
        """Return what `run` returns, without ever blocking the event loop."""
        return _each(await self._resolver.resolve(objects, scope, self._in_loop()))

    def prepare(self, obj: S3Object) -> None:
        """Fetch and learn whatever signing *obj* needs. Raises SigningError."""
        self._resolver.raise_refused(run_blocking(self._here().prepare([obj])))

    async def aprepare(self, obj: S3Object) -> None:
        """Do what `prepare` does, without ever blocking the event loop."""
        self._resolver.raise_refused(await self._in_loop().prepare([obj]))

    def close(self) -> None:
        """Let go of threads, once what they do has ended."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    async def aclose(self) -> None:
        """Do what `close` does, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def _here(self) -> Effects:
        if asyncio._get_running_loop() is None:
            return self._blocking
        return LoopThreadEffects(self._signing)

    def _in_loop(self) -> Effects:
        loop = asyncio.get_running_loop()
        effects = self._loops.get(loop)
        if effects is None:
            effects = self._loops[loop] = AsyncioEffects(self._signing, self._flights, self._threads)
        return effects

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
