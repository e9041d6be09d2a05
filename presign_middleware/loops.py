"""
How an event loop waits for URLs: the third way in which the resolver's coroutine is run (see `effects`).

A room of its own, since it is the one that needs asyncio, which takes a blocking program longer to
import than all the rest.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from .effects import spent, threadless
from .errors import SigningError
from .local import PATIENCE, Entry, Flight, Flights, Patience
from .objects import Kind, S3Object
from .pool import Pool
from .resolver import Copy, Fly, Item, Signs
from .scope import Scope
from .sharing import Sharing

__all__ = ["AsyncioEffects"]

#: Seconds, or the share, by which the patience of requests that wait together may differ.
_ALIKE_SECONDS, _ALIKE_SHARE = 0.01, 0.1

T = TypeVar("T")

#: Those who wait together: of one scope, for objects of one kind.
_Askers = tuple[Scope | None, Kind]

#: What takes off together: of one source of credentials, all that is ready, or all that is to be made so.
_Queue = tuple[Hashable, bool]

#: What one of them wants, by which text it is to be found, and who waits.
_Asked = tuple[S3Object, str | None, "asyncio.Future[Entry | SigningError | None]"]

#: `Runner`'s way to answer for some objects of one scope.
_Answers = Callable[
    [Sequence[S3Object], Sequence[str | None], Scope | None, "AsyncioEffects"],
    Coroutine[Any, Any, Sequence[Entry | SigningError]],
]


class AsyncioEffects:
    """Gathers what a loop's turn asks for, and resolves it in one task a source, with one read for all."""

    def __init__(self, signing: Signs, flights: Flights, sharing: Sharing | None, pool: Pool) -> None:
        self.flights = flights
        self._signing = signing
        self._sharing = sharing
        self._pool = pool
        # A source that hangs must not hold up the others, nor what needs it no more.
        self._boarding: dict[_Queue, list[list[Flight]]] = {}
        # Weak: a lock that was waited for knows its loop, which would then never be let go of.
        self._turns: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()
        self._asked: dict[_Askers, list[_Asked]] = {}  # in this turn, one object at a time
        self._reading: list[Flight] = []  # what the next read is to ask for
        self._read: asyncio.Task[Mapping[S3Object, Copy]] | None = None  # the next one
        self._catching_up: asyncio.Future[bool] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()  # a loop keeps only weak references to its tasks

    def ask(
        self, obj: S3Object, alias: str | None, scope: Scope | None, answer: _Answers
    ) -> "asyncio.Future[Entry | SigningError | None]":
        """
        Return what *answer* will have of *obj*, asked for with all of one scope in this turn of the loop.

        Of one kind, too: what one of them has to wait for, all of them have. None: it was cancelled.
        What waits for it may be cancelled and disturbs nobody.
        """
        asked = self._asked.get(key := (scope, obj.kind))
        if asked is None:
            asked = self._asked[key] = []
            self._begin(self._answer(key, asked, answer)).add_done_callback(
                partial(self._give_up, key, asked)
            )
        future: asyncio.Future[Entry | SigningError | None] = asyncio.get_running_loop().create_future()
        asked.append((obj, alias, future))
        return future

    async def _answer(self, key: _Askers, asked: list[_Asked], answer: _Answers) -> None:
        del self._asked[key]
        objects, aliases, futures = zip(*asked, strict=True)
        answers = await answer(objects, aliases, key[0], self)
        for future, found in zip(futures, answers, strict=True):
            _end(future, found)

    def _give_up(self, key: _Askers, asked: list[_Asked], task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None and not task.cancelled():
            return
        if self._asked.get(key) is asked:  # before its first step
            del self._asked[key]
        for *_, future in asked:
            if error is not None and not future.done():
                future.set_exception(error)
            _end(future, None)

    def portions(self, objects: list[S3Object]) -> list[list[S3Object]]:
        """Return all of *objects* at once: each source has a task of its own."""
        return [objects]

    async def launch(self, opened: Sequence[Flight], fly: Fly) -> None:
        """Add *opened*, which are of one order, to what takes off in the next turn of the loop."""
        kinds: dict[Kind, list[Flight]] = {}
        for flight in opened:
            kinds.setdefault(flight.object.kind, []).append(flight)
        for flights in kinds.values():
            obj, patience = flights[0].object, flights[0].order.patience
            queue = self._signing.queue(obj), self._signing.is_ready(obj)
            batches = self._boarding.setdefault(queue, [])
            batch = next((each for each in batches if _are_alike(each[0].order.patience, patience)), None)
            if batch is not None:
                batch += flights
                continue
            batches.append(flights)
            task = self._begin(self._take_off(queue, flights, fly))
            task.add_done_callback(partial(self._clear, queue, flights))

    async def _take_off(self, queue: _Queue, batch: list[Flight], fly: Fly) -> None:
        self._close(queue, batch)
        await fly(batch, self)

    def _clear(self, queue: _Queue, batch: list[Flight], task: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step never reaches a `finally` of its own.
        self._close(queue, batch)
        self.flights.abandon(batch)

    def _close(self, queue: _Queue, batch: list[Flight]) -> None:
        others = [each for each in self._boarding.pop(queue, []) if each is not batch]
        if others:
            self._boarding[queue] = others

    def deadline(self) -> float:
        """Return the loop's instant until which a call that begins now may wait."""
        return asyncio.get_running_loop().time() + PATIENCE

    async def join(self, flights: Sequence[Flight], deadline: float) -> None:
        """Await the end of *flights*; being cancelled here disturbs nobody else."""
        loop = asyncio.get_running_loop()
        are_over = loop.create_future()

        def wake() -> None:
            if asyncio._get_running_loop() is loop:  # as where this loop has landed them
                _end(are_over)
                return
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_end, are_over)

        if not self.flights.await_all(flights, wake):
            return
        alarm = loop.call_at(deadline, _end, are_over)  # a third of what asyncio.timeout_at() takes
        try:
            await are_over
        finally:
            alarm.cancel()

    async def prepare(self, objects: Sequence[S3Object]) -> dict[S3Object, SigningError]:
        """Prepare in a thread of the library's own: the loop's may all be waiting for this very flight."""
        try:
            return await self._in_turn(self._signing.queue(objects[0]), self._signing.prepare, objects)
        except RuntimeError as error:
            return {obj: threadless(obj, error) for obj in objects}

    async def freshen(self, entries: Sequence[Entry]) -> None:
        """`Signs.freshen`, source by source; for so long as anyone waits."""
        queues: dict[Hashable, list[Entry]] = {}
        for entry in entries:
            queues.setdefault(self._signing.queue(entry.object), []).append(entry)
        with suppress(TimeoutError, RuntimeError):  # a source hangs, or no thread: what is at hand must do
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(
                    *(self._in_turn(queue, self._signing.freshen, some) for queue, some in queues.items())
                )

    async def _in_turn(self, queue: Hashable, work: Callable[[Sequence[Any]], T], some: Sequence[Any]) -> T:
        """Do *work* in a thread: one a source, so that one that hangs does not take them all."""
        async with self._turns.setdefault(queue, asyncio.Lock()):
            return await asyncio.wrap_future(self._pool.submit(work, some))

    async def read(self, flights: Sequence[Flight]) -> Mapping[S3Object, Copy]:
        """Read, in another thread, with all who ask in this turn of the loop."""
        flights = [flight for flight in flights if not flight.order.patience.is_over]
        if self._sharing is None or not flights:
            return {}
        self._reading += flights
        if self._read is None:
            self._read = self._begin(self._read_all(self._sharing))
            self._read.add_done_callback(self._end_reading)
        patiences = {flight.order.patience for flight in flights}
        try:
            async with asyncio.timeout(max([patience.left for patience in patiences])):
                return await asyncio.shield(self._read)
        except TimeoutError:
            for patience in patiences:
                patience.left = min(patience.left, 0)  # at once: what they wait for goes on, for others
            return {}

    async def _read_all(self, sharing: Sharing) -> Mapping[S3Object, Copy]:
        flights, self._reading, self._read = self._reading, [], None
        objects = [flight.object for flight in flights]
        patiences = {flight.order.patience for flight in flights}
        seconds = max([patience.left for patience in patiences])
        with spent(*patiences), suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # all threads may be in use
                return await asyncio.wrap_future(sharing.read_in_thread(objects, seconds))
        return {}

    def _end_reading(self, task: asyncio.Task[Any]) -> None:
        if self._read is task:  # cancelled before its first step
            self._reading, self._read = [], None

    async def catch_up(self, patience: Patience, *, anew: bool = False) -> None:
        """Have another thread exchange epochs, and await it."""
        if self._sharing is not None:
            reading = self._catching_up
            if anew or reading is None or reading.done():
                reading = asyncio.wrap_future(self._sharing.catch_up(patience.left, anew=anew))
                self._catching_up = reading  # one for all, so that they go on in one turn of the loop
            with spent(patience), suppress(TimeoutError):
                async with asyncio.timeout(max(0, patience.left)):
                    await asyncio.shield(reading)

    async def publish(self, flights: Sequence[Flight], items: Sequence[Item]) -> list[Entry]:
        """Publish in another thread, which goes on when patience is at its end."""
        assert self._sharing is not None  # the resolver publishes what it has read about
        standing = self._sharing.publish(items)
        patiences = {flight.order.patience for flight in flights}
        with spent(*patiences), suppress(TimeoutError):
            async with asyncio.timeout(max([patience.left for patience in patiences])):
                return await asyncio.shield(asyncio.wrap_future(standing))
        return [item.entry for item in items]

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        # An empty context: a batch belongs to no one request. And not by the loop's own factory, which may
        # have tasks take their first step at once: this one's is to find all that this turn asks for.
        task = asyncio.Task(work, loop=asyncio.get_running_loop(), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _end(future: asyncio.Future[Any], result: object = None) -> None:
    if not future.done():  # cancelled, or late
        future.set_result(result)


def _are_alike(one: Patience, other: Patience) -> bool:
    """Return whether those who have so much patience left may wait together."""
    if one.is_over or other.is_over:
        return one.is_over and other.is_over
    return abs(one.left - other.left) <= max(_ALIKE_SECONDS, _ALIKE_SHARE * one.left)
