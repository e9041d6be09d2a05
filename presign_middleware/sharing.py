"""
The shared cache as those use it who must not wait for it: in threads, within a deadline.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from time import monotonic
from typing import Any, Protocol, TypeVar

from .local import Entry
from .objects import S3Object
from .pool import Pool
from .resolver import Copy, Item, Resolver

__all__ = ["Shares", "Sharing"]

#: Threads that ask the shared cache on behalf of event loops, and as many that tell it what is new.
_MOST_SHARING = 4

#: Seconds that telling the shared cache of new URLs may take, whoever waits for it and for how long.
_PUBLISH_WITHIN = 1.0

T = TypeVar("T")


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
