"""
The shared cache as those use it who must not wait for it: in threads, within a deadline.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock
from time import monotonic
from typing import Any, Protocol, TypeVar

from .local import Entry
from .objects import S3Object
from .persistence import Persistence
from .pool import Pool
from .resolver import Copy, Item, Resolver

__all__ = ["Shares", "Sharing"]

#: Threads that ask the shared cache on behalf of event loops, and as many that tell it what is new.
_MOST_SHARING = 4

#: New URLs that are kept for a server that could not be told of them. With more, the oldest are dropped.
_MOST_UNTOLD = 1_000

#: Seconds that telling the shared cache of new URLs may take, whoever waits for it and for how long,
#: and how many it is told of in that time: with many more a sound server would look too slow.
_PUBLISH_WITHIN, _PORTION = 1.0, 2_500

T = TypeVar("T")


class Shares(Protocol):
    """The shared cache. It blocks until the deadline at most (``time.monotonic()``), and never raises."""

    def read(self, objects: Sequence[S3Object], deadline: float) -> dict[S3Object, Copy]:
        """Return what there is of *objects*."""

    def publish(self, items: Sequence[Item], deadline: float) -> tuple[list[Entry], list[Item]]:
        """Store new URLs; return for each what all processes are to use from now on, and those not stored."""

    def catch_up(self, deadline: float) -> bool:
        """
        Know the epochs that other processes have raised, and let them know those raised here.

        Return whether all servers have answered, and none is behind.
        """

    def is_down(self) -> bool:
        """Return whether asking would be in vain, because it failed lately. No I/O."""

    def connect(self) -> None:
        """Begin to connect, in the background."""

    def close(self) -> None:
        """Close connections."""


class Sharing:
    """The shared cache as effects use it: asked here or in a thread, told of new URLs in a thread."""

    def __init__(self, shared: Shares, resolver: Resolver) -> None:
        self._shared = shared
        self._resolver = resolver
        # Apart, since a publish may hang for long, and a read tells the breaker that it does.
        self._readers = Pool(_MOST_SHARING, "presign-shared-read")
        self._publishers = Pool(_MOST_SHARING, "presign-shared-publish")
        self._telling = Persistence(self._tell, "presign-shared-retry")
        self._lock = Lock()
        self._untold: dict[S3Object, Item] = {}
        self._catching_up: Future[bool] | None = None
        self.connect = shared.connect

    def read(self, objects: Sequence[S3Object], seconds: float) -> dict[S3Object, Copy]:
        """Return what there is of *objects*, within *seconds*."""
        return self._shared.read(objects, monotonic() + seconds)

    def read_in_thread(self, objects: Sequence[S3Object], seconds: float) -> Future[dict[S3Object, Copy]]:
        """Do what `read` does, without waiting for it."""
        return self._submit(self._readers, self.read, objects, seconds) or _known({})

    def publish(self, items: Sequence[Item]) -> Future[list[Entry]]:
        """Share *items*, and have this process serve what stands; return it, once it is known."""
        own = [item.entry for item in items]
        standing = self._submit(self._publishers, self._publish, items)
        if standing is None:
            self._tell_later(items)
            return _known(own)
        return standing if any(entry.is_contested for entry in own) else _known(own)

    def catch_up(self, seconds: float, *, anew: bool = False) -> Future[bool]:
        """
        Have a thread exchange epochs with the fleet within *seconds*, if none is at it, or *anew*.

        What was raised here is told again and again until it is known, whatever becomes of this.
        """
        seconds = seconds if seconds > 0 else _PUBLISH_WITHIN  # else nobody waits for it
        if anew:
            telling = self._submit(self._publishers, self._catch_up, seconds) or _known(False)
            telling.add_done_callback(lambda told: None if told.result() else self._telling.begin())
            return telling
        with self._lock:
            if self._catching_up is None or self._catching_up.done():
                self._catching_up = self._submit(self._readers, self._catch_up, seconds) or _known(False)
            return self._catching_up

    def close(self) -> None:
        """Let go of threads and connections."""
        self._readers.close()
        self._publishers.close()
        self._telling.close()  # what they have begun last, too
        self._shared.close()

    def _publish(self, items: Sequence[Item]) -> list[Entry]:
        with self._lock:
            for item in items:  # or an older one would be told later, and replace this
                self._untold.pop(item.entry.object, None)
        standing: list[Entry] = []
        for start in range(0, len(items), _PORTION):
            some = items[start : start + _PORTION]
            stand, untold = self._shared.publish(some, monotonic() + _PUBLISH_WITHIN)
            self._tell_later(untold)
            for item, entry in zip(some, stand, strict=True):
                if entry is not item.entry:
                    self._resolver.adopt(item.entry, entry)
            standing += stand
        return standing

    def _tell_later(self, items: Sequence[Item]) -> None:
        """Store *items* when that can be done, but those of which there is a newer URL by then."""
        if not items:
            return
        with self._lock:
            for item in items:
                self._untold[item.entry.object] = item
            for obj in list(self._untold)[:-_MOST_UNTOLD]:
                del self._untold[obj]
        self._telling.begin()

    def _tell(self) -> bool:
        """Tell of epochs and URLs what could not be told; return whether all is told."""
        if self._shared.is_down():
            return False
        with self._lock:
            items = list(self._untold.values())
        if items:
            self._publish(items)
        return self._catch_up(_PUBLISH_WITHIN) and not self._untold

    def _catch_up(self, seconds: float) -> bool:
        return self._shared.catch_up(monotonic() + seconds)

    def _submit(self, pool: Pool, work: Callable[..., T], *args: Any) -> Future[T] | None:
        """Have a thread of *pool* do *work*; None: the shared cache is not to be asked now."""
        if self._shared.is_down():  # here, and not behind what still hangs in the threads
            return None
        try:
            return pool.submit(work, *args)
        except RuntimeError:  # the interpreter is ending, and what runs then may still want URLs
            return None


def _known(answer: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(answer)
    return future
