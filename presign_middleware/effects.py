"""
How to wait: the three ways the resolver's coroutine is run, of which two are here.

* `BlockingEffects`: in a thread without an event loop. Nothing suspends, so
  `run_blocking` needs one ``send``.
* `LoopThreadEffects`: a blocking call on the thread of a running loop. It waits for no
  flight of others, since this very loop may have to land it.
* `AsyncioEffects`, in `loops`: one task for what a loop turn asks of an origin, which no waiter can cancel.
"""

import logging
from collections.abc import Coroutine, Hashable, Mapping, Sequence
from contextlib import suppress
from threading import Event
from time import monotonic
from typing import Any, TypeVar

from .errors import SigningError
from .local import PATIENCE, Entry, Flight, Flights, Patience
from .objects import S3Object
from .resolver import Copy, Fly, Item, Signs
from .sharing import Sharing

__all__ = [
    "BlockingEffects",
    "LoopThreadEffects",
    "run_blocking",
    "spent",
    "threadless",
]

logger = logging.getLogger("presign_middleware.effects")

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
        kinds = {obj.kind: obj for obj in objects}
        if len(kinds) == 1:
            return [objects]
        ready: list[S3Object] = []
        others: dict[Hashable, list[S3Object]] = {}
        places = {
            kind: ready if self._signing.is_ready(obj) else others.setdefault(self._signing.queue(obj), [])
            for kind, obj in kinds.items()
        }
        for obj in objects:
            places[obj.kind].append(obj)
        return [ready, *others.values()] if ready else list(others.values())

    async def launch(self, opened: Sequence[Flight], fly: Fly) -> None:
        """Land *opened* here and now."""
        if opened:
            await fly(opened, self)

    def deadline(self) -> float:
        """Return the monotonic instant until which a call that begins now may wait."""
        return monotonic() + PATIENCE

    async def join(self, flights: Sequence[Flight], deadline: float) -> None:
        """Block until *flights* are over."""
        are_over = Event()
        if self.flights.await_all(flights, are_over.set):
            are_over.wait(max(0, deadline - monotonic()))

    async def prepare(self, objects: Sequence[S3Object]) -> dict[S3Object, SigningError]:
        """Prepare in this thread."""
        return self._signing.prepare(objects)

    async def read(self, flights: Sequence[Flight]) -> Mapping[S3Object, Copy]:
        """Read in this thread."""
        patience = flights[0].order.patience  # a blocking call opens flights for itself alone
        if self._sharing is None or patience.is_over:
            return {}
        with spent(patience):
            return self._sharing.read([flight.object for flight in flights], patience.left)

    async def catch_up(self, patience: Patience, *, anew: bool = False) -> None:
        """Have another thread exchange epochs, and wait for it."""
        if self._sharing is not None:
            with spent(patience), suppress(TimeoutError):
                self._sharing.catch_up(patience.left, anew=anew).result(timeout=max(0, patience.left))

    async def publish(self, flights: Sequence[Flight], items: Sequence[Item]) -> list[Entry]:
        """Publish in another thread, which goes on when patience is at its end."""
        assert self._sharing is not None  # the resolver publishes what it has read about
        patience, standing = flights[0].order.patience, self._sharing.publish(items)
        with spent(patience), suppress(TimeoutError):
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


class spent:  # noqa: N801  # a context manager, named as functions that make one are
    """Take the time that passes inside off the *patiences*, once where a request waits in several tasks."""

    # Not a generator: every read of the shared cache goes through one.
    def __init__(self, *patiences: Patience) -> None:
        self._patiences = patiences

    def __enter__(self) -> None:
        self._left = [patience.left for patience in self._patiences]
        self._start = monotonic()

    def __exit__(self, *exc: object) -> None:
        seconds = monotonic() - self._start
        for patience, left in zip(self._patiences, self._left, strict=True):
            patience.left = min(patience.left, left - seconds)
