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
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import Context
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from .errors import SigningError
from .local import Entry, Flight, Flights, Order, Patience
from .metrics import Counts
from .objects import S3Object
from .resolver import Copy, Effects, Fly, Item, Resolver, Signs
from .scope import Scope

__all__ = ["AsyncioEffects", "BlockingEffects", "LoopThreadEffects", "Runner", "run_blocking"]

logger = logging.getLogger("presign_middleware.effects")

#: Seconds anyone waits for a resolution that another has begun.
PATIENCE = 30

#: Threads in which event loops have credentials fetched: origins that hang at once without harm.
_MOST_THREADS = 8

#: Seconds that start-up waits for credentials.
_READY_WITHIN = 5.0

#: Threads that ask the shared cache on behalf of event loops, and tell it what is new.
_MOST_SHARING = 4

#: Seconds that `close` waits for what threads are doing. They may hang, and are daemons.
_CLOSE_WITHIN = 2.0

#: Seconds that telling the shared cache of new URLs may take, whoever waits for it and for how long.
_PUBLISH_WITHIN = 1.0

#: While some URLs of a call are waited for, others may become SPENT: times that it is looked for them.
_MOST_LOOKS = 3

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


def _threadless(obj: S3Object, error: RuntimeError) -> SigningError:
    failure = SigningError(f"origin {obj.origin!r}: no thread could be started to sign in")
    failure.__cause__ = error
    return failure


class Shares(Protocol):
    """The shared cache. It blocks until the deadline at most (``time.monotonic()``), and never raises."""

    def read(self, objects: Sequence[S3Object], deadline: float) -> dict[S3Object, Copy]:
        """Return what there is of *objects*."""

    def publish(self, items: Sequence[Item], deadline: float) -> list[Entry]:
        """Store new URLs, and return for each what all processes are to use from now on."""

    def is_down(self) -> bool:
        """Return whether asking would be in vain, because it failed lately. No I/O."""

    def connect(self) -> None:
        """Begin to connect, in the background."""

    def close(self) -> None:
        """Close connections."""


class Pool:
    """
    A few threads, started when they are needed.

    Daemons, other than those of ``ThreadPoolExecutor``: a process can end while one of them
    waits for a server that hangs.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._lock = Lock()
        self._idle = 0
        self._threads: list[Thread] = []
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def submit(self, work: Callable[..., T], *args: Any) -> Future[T]:
        """Have a thread do *work*. Raises RuntimeError when there can be no more threads."""
        future: Future[T] = Future()

        def job() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work(*args))
                except BaseException as error:
                    future.set_exception(error)

        with self._lock:
            if self._idle:
                self._idle -= 1
            elif len(self._threads) < self._most:
                thread = Thread(target=self._run, args=(self._jobs,), name=self._name, daemon=True)
                thread.start()
                self._threads.append(thread)
            self._jobs.put(job)
        return future

    def close(self) -> None:
        """Wait a little for what is under way, and let go of the threads. A later job starts others."""
        with self._lock:
            threads, self._threads = self._threads, []
            jobs, self._jobs = self._jobs, SimpleQueue()
            self._idle = 0
        for _ in threads:
            jobs.put(None)
        deadline = monotonic() + _CLOSE_WITHIN
        for thread in threads:
            thread.join(max(0, deadline - monotonic()))

    def _run(self, jobs: "SimpleQueue[Callable[[], None] | None]") -> None:
        while (job := jobs.get()) is not None:
            job()
            del job  # or what it has returned would live until the next one
            with self._lock:
                self._idle += jobs is self._jobs


class Sharing:
    """The shared cache as effects use it: asked here or in a thread, told of new URLs in a thread."""

    def __init__(self, shared: Shares, resolver: Resolver) -> None:
        self._shared = shared
        self._resolver = resolver
        # Apart, since a publish may hang for long, and a read tells the breaker that it does.
        self._readers = Pool(_MOST_SHARING, "presign-shared-read")
        self._publishers = Pool(_MOST_SHARING, "presign-shared-publish")
        self.connect = shared.connect

    def read(self, objects: Sequence[S3Object], seconds: float) -> dict[S3Object, Copy]:
        """Return what there is of *objects*, within *seconds*."""
        return self._shared.read(objects, monotonic() + seconds)

    def read_in_thread(self, objects: Sequence[S3Object], seconds: float) -> Future[dict[S3Object, Copy]]:
        """Do what `read` does, without waiting for it."""
        return self._submit(self._readers, {}, self.read, objects, seconds)

    def publish(self, items: Sequence[Item]) -> Future[list[Entry]]:
        """Share *items*, and have this process serve what stands; return it, once it is known."""
        own = [item.entry for item in items]
        standing = self._submit(self._publishers, own, self._publish, items)
        return standing if any(entry.is_contested for entry in own) else _known(own)

    def close(self) -> None:
        """Let go of threads and connections."""
        self._readers.close()
        self._publishers.close()
        self._shared.close()

    def _publish(self, items: Sequence[Item]) -> list[Entry]:
        standing = self._shared.publish(items, monotonic() + _PUBLISH_WITHIN)
        for item, entry in zip(items, standing, strict=True):
            if entry is not item.entry:
                self._resolver.adopt(item.entry, entry)
        return standing

    def _submit(self, pool: Pool, otherwise: T, work: Callable[..., T], *args: Any) -> Future[T]:
        if self._shared.is_down():  # here, and not behind what still hangs in the threads
            return _known(otherwise)
        try:
            return pool.submit(work, *args)
        except RuntimeError:  # the interpreter is ending, and what runs then may still want URLs
            return _known(otherwise)


def _known(answer: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(answer)
    return future


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
        if self._sharing is None or patience.left <= 0:
            return {}
        with _spent(patience):
            return self._sharing.read([flight.object for flight in flights], patience.left)

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
        self._boarding: dict[Hashable, list[Flight]] = {}
        # Weak: a lock that was waited for knows its loop, which would then never be let go of.
        self._turns: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()
        self._reading: list[Flight] = []  # what the next read is to ask for
        self._read: asyncio.Task[Mapping[S3Object, Copy]] | None = None  # the next one
        self._tasks: set[asyncio.Task[Any]] = set()  # a loop keeps only weak references to its tasks

    def portions(self, objects: list[S3Object]) -> list[list[S3Object]]:
        """Return all of *objects* at once: each source has a task of its own."""
        return [objects]

    async def launch(self, opened: Sequence[Flight], fly: Fly) -> None:
        """Add *opened* to what takes off in the next turn of the loop."""
        for flight in opened:
            # Whoever has no patience left must not wait for the reads of those who have.
            queue = (self._signing.queue(flight.object), flight.order.patience.left > 0)
            if queue in self._boarding:
                self._boarding[queue].append(flight)
                continue
            batch = self._boarding[queue] = [flight]
            task = self._begin(self._take_off(queue, fly))
            task.add_done_callback(partial(self._clear, queue, batch))

    async def _take_off(self, queue: Hashable, fly: Fly) -> None:
        await fly(self._boarding.pop(queue), self)

    def _clear(self, queue: Hashable, batch: list[Flight], task: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step never reaches a `finally` of its own.
        if self._boarding.get(queue) is batch:
            del self._boarding[queue]
        self.flights.abandon(batch)

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
            return {obj: _threadless(obj, error) for obj in objects}

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
        flights = [flight for flight in flights if flight.order.patience.left > 0]
        if self._sharing is None or not flights:
            return {}
        self._reading += flights
        if self._read is None:
            self._read = self._begin(self._read_all(self._sharing))
            self._read.add_done_callback(self._end_reading)
        return await asyncio.shield(self._read)

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


class Runner:
    """Finds URLs for whoever asks: at once where that is possible, else by waiting as one may there."""

    def __init__(
        self,
        resolver: Resolver,
        signing: Signs,
        flights: Flights,
        counts: Counts,
        shared: Shares | None,
        patience: float,  # seconds for the shared cache
    ) -> None:
        self._resolver = resolver
        self._signing = signing
        self._flights = flights
        self._counts = counts
        self._patience = patience
        self._sharing = None if shared is None else Sharing(shared, resolver)
        self._blocking = BlockingEffects(signing, flights, self._sharing)
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncioEffects] = WeakKeyDictionary()
        self._pool = Pool(_MOST_THREADS, "presign")

    def find(self, obj: S3Object, alias: str | None, scope: Scope | None) -> Entry:
        """Return the URL of *obj*; see `Resolver.quick`. May block; raises SigningError."""
        entry = self._resolver.quick(obj, alias, scope)
        return entry or _each(self._wait([obj], self._lookup(scope), scope))[0]

    async def afind(self, obj: S3Object, alias: str | None, scope: Scope | None) -> Entry:
        """Return what `find` returns, without ever blocking the event loop."""
        entry = self._resolver.quick(obj, alias, scope)
        return entry or _each(await self._await([obj], self._lookup(scope), scope))[0]

    def find_all(
        self, objects: Sequence[S3Object], aliases: Sequence[str | None], scope: Scope | None
    ) -> list[Entry]:
        """Return the URL of each of *objects*. May block; raises the first SigningError."""
        entries = self._resolver.quick_all(objects, aliases, scope)
        for _ in range(_MOST_LOOKS):
            missing = _missing(objects, entries)
            if not missing:
                break
            found = _filled(entries, _each(self._wait(missing, self._lookup(scope), scope)))
            entries = self._resolver.unspent(found)
        else:
            return found
        return _filled(entries, [])

    async def afind_all(
        self, objects: Sequence[S3Object], aliases: Sequence[str | None], scope: Scope | None
    ) -> list[Entry]:
        """Return what `find_all` returns, without ever blocking the event loop."""
        entries = self._resolver.quick_all(objects, aliases, scope)
        for _ in range(_MOST_LOOKS):
            missing = _missing(objects, entries)
            if not missing:
                break
            found = _filled(entries, _each(await self._await(missing, self._lookup(scope), scope)))
            entries = self._resolver.unspent(found)
        else:
            return found
        return _filled(entries, [])

    def renew(self, entries: Sequence[Entry]) -> list[Entry | SigningError]:
        """Return URLs in the place of *entries*, FRESH if they can be. May block."""
        self._signing.freshen(_bound(entries))
        order = self._resolver.renewal(self._new_patience())
        return self._wait([entry.object for entry in entries], order, None)

    async def arenew(self, entries: Sequence[Entry]) -> list[Entry | SigningError]:
        """Return what `renew` returns, without ever blocking the event loop."""
        await self._effects().freshen(_bound(entries))
        order = self._resolver.renewal(self._new_patience())
        return await self._await([entry.object for entry in entries], order, None)

    def replace(self, obj: S3Object) -> Entry:
        """Return a newer URL of *obj* than this process holds. May block; raises SigningError."""
        return _each(self._wait([obj], self._resolver.replacement(self._new_patience()), None))[0]

    async def areplace(self, obj: S3Object) -> Entry:
        """Return what `replace` returns, without ever blocking the event loop."""
        return _each(await self._await([obj], self._resolver.replacement(self._new_patience()), None))[0]

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
        try:
            signing = self._pool.submit(self.sign_once, obj, headers)
        except RuntimeError as error:
            self._counts.failed += 1
            raise _threadless(obj, error) from error
        return await asyncio.wrap_future(signing)

    async def amake_ready(self, objects: Sequence[S3Object]) -> None:
        """Connect to the shared cache, and prepare *objects*, within a few seconds; log what fails."""
        if self._sharing is not None:
            self._sharing.connect()
        effects = self._effects()
        prepared = [effects.prepare([obj]) for obj in objects]
        try:
            async with asyncio.timeout(_READY_WITHIN):
                refused = await asyncio.gather(*prepared)  # none of them raises
        except TimeoutError:
            logger.warning(
                "not all origins could be made ready within %g s; requests will wait", _READY_WITHIN
            )
            return
        for error in [error for each in refused for error in each.values()]:
            logger.warning("not ready: %s", error)

    def close(self) -> None:
        """Let go of threads, once what they do has ended, and of connections."""
        self._pool.close()
        if self._sharing is not None:
            self._sharing.close()

    async def aclose(self) -> None:
        """Do what `close` does, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def _wait(
        self, objects: Sequence[S3Object], order: Order, scope: Scope | None
    ) -> list[Entry | SigningError]:
        effects: Effects = self._blocking
        if asyncio._get_running_loop() is not None:  # the public one raises, which costs 1 us
            effects = LoopThreadEffects(self._signing, self._sharing)
        return run_blocking(self._resolver.resolve(objects, order, scope, effects))

    async def _await(
        self, objects: Sequence[S3Object], order: Order, scope: Scope | None
    ) -> list[Entry | SigningError]:
        return await self._resolver.resolve(objects, order, scope, self._effects())

    def _effects(self) -> AsyncioEffects:
        loop = asyncio.get_running_loop()
        effects = self._loops.get(loop)
        if effects is None:
            effects = AsyncioEffects(self._signing, self._flights, self._sharing, self._pool)
            self._loops[loop] = effects
        return effects

    def _lookup(self, scope: Scope | None) -> Order:
        return self._resolver.lookup(scope, self._new_patience() if scope is None else scope.patience)

    def _new_patience(self) -> Patience:
        return Patience(self._patience)


@contextmanager
def _spent(*patiences: Patience) -> Iterator[None]:
    """Take the time that passes inside off the *patiences*."""
    start = monotonic()
    try:
        yield
    finally:
        for patience in patiences:
            patience.left -= monotonic() - start


def _bound(entries: Sequence[Entry]) -> list[Entry]:
    """Return those of *entries* that only newer credentials make live longer."""
    return [entry for entry in entries if entry.reason in ("credentials", "assumed")]


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


def _filled(entries: Sequence[Entry | None], waited: Sequence[Entry]) -> list[Entry]:
    """Return *entries* with what was *waited* for in its gaps."""
    rest = iter(waited)
    return [next(rest) if entry is None else entry for entry in entries]
