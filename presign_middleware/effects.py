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
from collections.abc import Callable, Coroutine, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context
from functools import partial
from time import monotonic
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from .errors import SigningError
from .local import Entry, Flight, Flights, Patience
from .objects import S3Object
from .pool import Pool
from .resolver import Copy, Fly, Item, Signs
from .sharing import Sharing

__all__ = ["PATIENCE", "AsyncioEffects", "BlockingEffects", "LoopThreadEffects", "run_blocking", "threadless"]

logger = logging.getLogger("presign_middleware.effects")

#: Seconds anyone waits for a resolution that another has begun.
PATIENCE = 30

#: Seconds, or the share, by which the patience of requests that wait together may differ.
_ALIKE_SECONDS, _ALIKE_SHARE = 0.01, 0.1

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


def threadless(obj: S3Object, error: RuntimeError) -> SigningError:
    """Return what whoever wants *obj* is told when there can be no more threads."""
    failure = SigningError(f"origin {obj.origin!r}: no thread could be started to sign in")
    failure.__cause__ = error
    return failure


class BlockingEffects:
    """Does everything in the calling thread."""

    def __init__(self, signing: Signs, flights: Flights, sharing: Sharing | None) -> None:
        self.flights = flights
        self._signing = signing
        self._sharing = sharing

    def portions(self, objects: list[S3Object]) -> list[list[S3Object]]:
        """
        Return *objects* in portions: first all that need no preparation, then the others by source.

        The first have one round trip in common. While a source of the others hangs, nobody has
        to wait for this thread's objects of the next.
        """
        ready: list[S3Object] = []
        others: dict[Hashable, list[S3Object]] = {}
        for obj in objects:
            is_ready = self._signing.is_ready(obj)
            (ready if is_ready else others.setdefault(self._signing.queue(obj), [])).append(obj)
        return [ready, *others.values()] if ready else list(others.values())

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

    async def read(self, flights: Sequence[Flight]) -> Mapping[S3Object, Copy]:
        """Read in this thread."""
        patience = flights[0].order.patience  # a blocking call opens flights for itself alone
        if self._sharing is None or patience.is_over:
            return {}
        with _spent(patience):
            return self._sharing.read([flight.object for flight in flights], patience.left)

    async def catch_up(self, patience: Patience, *, anew: bool = False) -> None:
        """Have another thread exchange epochs, and wait for it."""
        if self._sharing is not None:
            with _spent(patience), suppress(TimeoutError):
                self._sharing.catch_up(patience.left, anew=anew).result(timeout=max(0, patience.left))

    async def publish(self, flights: Sequence[Flight], items: Sequence[Item]) -> list[Entry]:
        """Publish in another thread, which goes on when patience is at its end."""
        assert self._sharing is not None  # the resolver publishes what it has read about
        patience, standing = flights[0].order.patience, self._sharing.publish(items)
        with _spent(patience), suppress(TimeoutError):
            return standing.result(timeout=max(0, patience.left))
        return [item.entry for item in items]


class LoopThreadEffects(BlockingEffects):
    """
    Does everything at once, and neither joins anybody nor touches the network.

    The loop cannot turn while this call blocks it.
    """

    _said = False

    def __init__(self, signing: Signs, sharing: Sharing | None) -> None:
        super().__init__(signing, Flights(), sharing)

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

    async def read(self, flights: Sequence[Flight]) -> Mapping[S3Object, Copy]:
        """Read nothing."""
        return {}

    async def catch_up(self, patience: Patience, *, anew: bool = False) -> None:
        """Have another thread exchange epochs, and do not wait."""
        if self._sharing is not None:
            self._sharing.catch_up(patience.left, anew=anew)

    async def publish(self, flights: Sequence[Flight], items: Sequence[Item]) -> list[Entry]:
        """Publish in another thread and do not wait; what turns out to stand is served from then on."""
        assert self._sharing is not None
        self._sharing.publish(items)
        return [item.entry for item in items]


class AsyncioEffects:
    """Gathers what a loop's turn asks for, and resolves it in one task a source, with one read for all."""

    def __init__(self, signing: Signs, flights: Flights, sharing: Sharing | None, pool: Pool) -> None:
        self.flights = flights
        self._signing = signing
        self._sharing = sharing
        self._pool = pool
        # By source of credentials: one that hangs must not hold up the others.
        self._boarding: dict[Hashable, list[list[Flight]]] = {}
        # Weak: a lock that was waited for knows its loop, which would then never be let go of.
        self._turns: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()
        self._reading: list[Flight] = []  # what the next read is to ask for
        self._read: asyncio.Task[Mapping[S3Object, Copy]] | None = None  # the next one
        self._catching_up: asyncio.Future[bool] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()  # a loop keeps only weak references to its tasks

    def portions(self, objects: list[S3Object]) -> list[list[S3Object]]:
        """Return all of *objects* at once: each source has a task of its own."""
        return [objects]

    async def launch(self, opened: Sequence[Flight], fly: Fly) -> None:
        """Add *opened* to what takes off in the next turn of the loop."""
        for flight in opened:
            queue, patience = self._signing.queue(flight.object), flight.order.patience
            batches = self._boarding.setdefault(queue, [])
            batch = next((each for each in batches if _are_alike(each[0].order.patience, patience)), None)
            if batch is not None:
                batch.append(flight)
                continue
            batch = [flight]
            batches.append(batch)
            task = self._begin(self._take_off(queue, batch, fly))
            task.add_done_callback(partial(self._clear, queue, batch))

    async def _take_off(self, queue: Hashable, batch: list[Flight], fly: Fly) -> None:
        self._close(queue, batch)
        await fly(batch, self)

    def _clear(self, queue: Hashable, batch: list[Flight], task: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step never reaches a `finally` of its own.
        self._close(queue, batch)
        self.flights.abandon(batch)

    def _close(self, queue: Hashable, batch: list[Flight]) -> None:
        others = [each for each in self._boarding.pop(queue, []) if each is not batch]
        if others:
            self._boarding[queue] = others

    def deadline(self) -> float:
        """Return the loop's instant until which a call that begins now may wait."""
        return asyncio.get_running_loop().time() + PATIENCE

    async def join(self, flight: Flight, deadline: float) -> Entry | SigningError | None:
        """Await *flight*; being cancelled here disturbs nobody else."""
        if flight.future.done():  # as all of a batch are when its first one wakes up its waiter
            return flight.future.result()
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.wrap_future(flight.future)
        except TimeoutError:
            self.flights.abandon([flight])
            return _waited(flight)

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
        with _spent(*patiences), suppress(TimeoutError):
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
            with _spent(patience), suppress(TimeoutError):
                async with asyncio.timeout(max(0, patience.left)):
                    await asyncio.shield(reading)

    async def publish(self, flights: Sequence[Flight], items: Sequence[Item]) -> list[Entry]:
        """Publish in another thread, which goes on when patience is at its end."""
        assert self._sharing is not None  # the resolver publishes what it has read about
        standing = self._sharing.publish(items)
        patiences = {flight.order.patience for flight in flights}
        with _spent(*patiences), suppress(TimeoutError):
            async with asyncio.timeout(max([patience.left for patience in patiences])):
                return await asyncio.shield(asyncio.wrap_future(standing))
        return [item.entry for item in items]

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        # An empty context: a batch belongs to no one request.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _are_alike(one: Patience, other: Patience) -> bool:
    """Return whether those who have so much patience left may wait together."""
    if one.is_over or other.is_over:
        return one.is_over and other.is_over
    return abs(one.left - other.left) <= max(_ALIKE_SECONDS, _ALIKE_SHARE * one.left)


@contextmanager
def _spent(*patiences: Patience) -> Iterator[None]:
    """Take the time that passes inside off the *patiences*, once where a request waits in several tasks."""
    start, before = monotonic(), [patience.left for patience in patiences]
    try:
        yield
    finally:
        seconds = monotonic() - start
        for patience, left in zip(patiences, before, strict=True):
            patience.left = min(patience.left, left - seconds)
