"""
Renewal of what requests found AGEING, when nobody waits for it.

An object whose renewal failed, or brought nothing better, is left alone for a while,
for twice as long each time: "ageing" for ever is no reason to sign for ever.

A renewal claims its objects, so that no other request begins one, and releases them when
it is done. A process may be frozen before that (AWS Lambda between two events), or an
event loop may end: what was claimed for too long is anyone's again.
"""

import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import Context
from threading import Lock, Semaphore, Thread
from typing import TYPE_CHECKING, Any

from .errors import SigningError
from .local import PATIENCE, Entry
from .objects import S3Object
from .resolver import Clock
from .runner import Runner
from .scope import Scope

if TYPE_CHECKING:
    import asyncio

__all__ = ["Renewals"]

logger = logging.getLogger("presign_middleware.renewal")

#: Seconds for which an object is left alone: at first, and at most.
_SHORTEST_REST, _LONGEST_REST = 1.0, 60.0

#: Seconds after which a renewal is not waited for: it waits for the response, for credentials and for a
#: signature, each of them for `PATIENCE` at most.
_LONGEST_CLAIM = 3.0 * PATIENCE

#: Objects left alone that are remembered. With more, all may be tried again.
_MOST_AT_REST = 10_000

#: Threads that renew at once, where there is no event loop.
_MOST_THREADS = 2

#: Returns once the response has been sent; False: it cannot tell, or it took longer than `PATIENCE`.
Wait = Callable[[], Coroutine[Any, Any, bool]]


class Renewals:
    """Renews the URLs that requests have met."""

    def __init__(
        self,
        runner: Runner,
        held: Callable[[S3Object], Entry | None],  # what this process has of an object
        clock: Clock,
        limit: int,  # URLs a request
    ) -> None:
        self._runner = runner
        self._held = held
        self._clock = clock
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = Semaphore(_MOST_THREADS)
        self._lock = Lock()
        self._under_way: dict[S3Object, float] = {}  # until when they are claimed, monotonic
        self._at_rest: dict[S3Object, tuple[float, float]] = {}  # until when (monotonic), and for how long

    def due(self, scope: Scope) -> list[Entry]:
        """Return what *scope* has met and is to be renewed, as long as the scope is open."""
        wall, monotonic = self._clock.time(), self._clock.monotonic()
        met = list(scope.met.values()) if scope.met else []
        ageing = [entry for entry in met if not entry.is_fresh(wall, monotonic)]
        return [entry for entry in ageing if self._is_due(entry.object, wall, monotonic)][: self._limit]

    def begin(self, entries: Sequence[Entry], response_sent: Wait) -> None:
        """Renew *entries* in a task of the running loop, once *response_sent* returns."""
        import asyncio  # which a program without event loops is spared

        with suppress(RuntimeError):  # none is running here: the next request will see to it
            loop = asyncio.get_running_loop()
            claimed = self._claimed(entries)
            work = self._renew_after(claimed, response_sent)
            task = loop.create_task(work, context=Context())  # an empty one: it belongs to no request
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            # Not in a `finally`: a task that is cancelled before its first step never reaches it.
            task.add_done_callback(lambda _: self._release(claimed))

    def begin_in_thread(self, entries: Sequence[Entry]) -> None:
        """Renew *entries* in a thread; leave it to the next request where several are at it already."""
        if not self._threads.acquire(blocking=False):
            return
        claimed = self._claimed(entries)

        def renew() -> None:
            try:
                self._note(claimed, self._runner.renew(claimed))
            finally:
                self._release(claimed)
                self._threads.release()

        try:
            # A daemon: who ends the process does not wait for it.
            Thread(target=renew, name="presign-renewal", daemon=True).start()
        except RuntimeError:  # no more threads, or the interpreter is ending
            self._release(claimed)
            self._threads.release()

    async def drain(self, seconds: float) -> None:
        """Wait for what was begun in this loop; drop what has not ended after *seconds*."""
        import asyncio

        loop = asyncio.get_running_loop()
        tasks = [task for task in list(self._tasks) if task.get_loop() is loop]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _renew_after(self, entries: Sequence[Entry], response_sent: Wait) -> None:
        if await response_sent():  # else the next request that meets them will see to it
            self._note(entries, await self._runner.arenew(entries))

    def _is_due(self, obj: S3Object, wall: float, monotonic: float) -> bool:
        if monotonic < max(self._under_way.get(obj, 0), self._at_rest.get(obj, (0, 0))[0]):
            return False
        held = self._held(obj)
        return held is None or not held.is_fresh(wall, monotonic)  # FRESH: another request has renewed it

    def _claimed(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return those of *entries* that nobody renews, and note that they are being renewed."""
        monotonic = self._clock.monotonic()
        with self._lock:
            claimed = [entry for entry in entries if monotonic >= self._under_way.get(entry.object, 0)]
            self._under_way.update((entry.object, monotonic + _LONGEST_CLAIM) for entry in claimed)
        return claimed

    def _release(self, entries: Sequence[Entry]) -> None:
        with self._lock:
            for entry in entries:
                self._under_way.pop(entry.object, None)

    def _note(self, entries: Sequence[Entry], answers: Sequence[Entry | SigningError]) -> None:
        wall, monotonic = self._clock.time(), self._clock.monotonic()
        for entry, answer in zip(entries, answers, strict=True):
            obj = entry.object
            if isinstance(answer, Entry) and answer.is_fresh(wall, monotonic):
                self._at_rest.pop(obj, None)
                continue
            if isinstance(answer, SigningError):
                logger.warning("a URL of origin %s could not be renewed: %s", obj.origin, answer)
            if len(self._at_rest) >= _MOST_AT_REST:
                self._at_rest.clear()
            rest = min(_LONGEST_REST, 2 * self._at_rest.get(obj, (0, _SHORTEST_REST / 2))[1])
            self._at_rest[obj] = (monotonic + rest, rest)
