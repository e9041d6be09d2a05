"""
Renewal of what requests found AGEING, when nobody waits for it.

An object whose renewal failed, or brought nothing better, is left alone for a while,
for twice as long each time: "ageing" for ever is no reason to sign for ever.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from typing import Any

from .effects import PATIENCE, Runner
from .errors import SigningError
from .local import Entry
from .objects import S3Object
from .resolver import Clock
from .scope import Scope

__all__ = ["Renewals"]

logger = logging.getLogger("presign_middleware.renewal")

#: Seconds for which an object is left alone: at first, and at most.
_SHORTEST_REST, _LONGEST_REST = 1.0, 60.0

#: Objects left alone that are remembered. With more, all may be tried again.
_MOST_AT_REST = 10_000

Wait = Callable[[], Coroutine[Any, Any, object]]


class Renewals:
    """Renews the URLs that requests have met."""

    def __init__(self, runner: Runner, clock: Clock, limit: int) -> None:
        self._runner = runner
        self._clock = clock
        self._limit = limit  # URLs a request
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_rest: dict[S3Object, tuple[float, float]] = {}  # until when (monotonic), and for how long

    def due(self, scope: Scope) -> list[Entry]:
        """Return what *scope* has met and is to be renewed, as long as the scope is open."""
        wall, monotonic = self._clock.time(), self._clock.monotonic()
        found = scope.ageing(wall, monotonic)
        return [e for e in found if monotonic >= self._at_rest.get(e.object, (0, 0))[0]][: self._limit]

    def begin(self, entries: Sequence[Entry], response_sent: Wait) -> None:
        """Renew *entries* in a task of the running loop, once *response_sent* returns."""
        task = asyncio.get_running_loop().create_task(
            self._renew_after(entries, response_sent),
            context=Context(),  # it belongs to no request
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self, seconds: float) -> None:
        """Wait for what was begun in this loop; drop what has not ended after *seconds*."""
        loop = asyncio.get_running_loop()
        tasks = [task for task in self._tasks if task.get_loop() is loop]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _renew_after(self, entries: Sequence[Entry], response_sent: Wait) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await response_sent()
        except TimeoutError:
            return  # the next request that meets them will see to it
        self._note([entry.object for entry in entries], await self._runner.arenew(entries))

    def _note(self, objects: Sequence[S3Object], answers: Sequence[Entry | SigningError]) -> None:
        wall, monotonic = self._clock.time(), self._clock.monotonic()
        for obj, answer in zip(objects, answers, strict=True):
            if isinstance(answer, Entry) and answer.is_fresh(wall, monotonic):
                self._at_rest.pop(obj, None)
                continue
            if isinstance(answer, SigningError):
                logger.warning("a URL of origin %s could not be renewed: %s", obj.origin, answer)
            if len(self._at_rest) >= _MOST_AT_REST:
                self._at_rest.clear()
            rest = min(_LONGEST_REST, 2 * self._at_rest.get(obj, (0, _SHORTEST_REST / 2))[1])
            self._at_rest[obj] = (monotonic + rest, rest)
