"""
Writes that hooks and adapters see, and that take the URLs of what was written back.

The rules:

* A write replaces or removes the bytes of an object: PUT, DELETE, or the POST that completes a
  multipart upload, whoever has signed it. One part of an upload is none, nor are an ACL or tags.
* S3's answer decides. It may begin with a 200 long before a copy or a completed upload is there,
  and end with an error: so its body is waited for.
* What is doubtful counts. A URL that changes once too often costs a download.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qsl
from weakref import WeakSet

from .errors import NotCovered
from .events import tell
from .metrics import Counts
from .objects import S3Object
from .origins import Origin
from .runner import Runner
from .targets import Targets

if TYPE_CHECKING:
    import asyncio

__all__ = ["METHODS", "Write", "Writing", "when_wanted", "written_to"]

logger = logging.getLogger("presign_middleware.writing")

#: Methods of requests that may write.
METHODS = frozenset({"PUT", "DELETE", "POST"})

#: Names in a query that make a PUT or a DELETE one of something else than the object's bytes.
_OF_SOMETHING_ELSE = frozenset({"acl", "encryption", "legal-hold", "retention", "tagging", "uploadId"})

#: What S3 writes into the body of an answer whose status came before the error.
_ERROR = b"<Error>"


def written_to(method: str, url: str) -> str | None:
    """Return the URL of the object that a request for *url* writes, without its query; None: none."""
    bare, _, query = url.partition("#")[0].partition("?")
    names = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
    is_write = "uploadId" in names if method == "POST" else names.isdisjoint(_OF_SOMETHING_ELSE)
    return bare if is_write and method in METHODS else None


class Write:
    """A write under way, and who is to hear of it. It never raises what goes wrong here."""

    def __init__(self, parts: "Sequence[tuple[Writing, Sequence[S3Object]]]") -> None:
        self._parts = parts

    def heard(self, status: int, read: Callable[[], bytes]) -> None:
        """
        Take note of an answer, of which *read* returns the beginning of the body.

        May block for a second, but not on an event loop's thread.
        """
        if _is_good(status):
            body = b""
            with suppress(Exception):  # whoever reads the rest of it is told
                body = read()
            if _ERROR not in body:
                self.done()

    async def aheard(self, status: int, read: Callable[[], Awaitable[bytes]]) -> None:
        """Do what `heard` does, without ever blocking the event loop."""
        if _is_good(status):
            body = b""
            with suppress(Exception):
                body = await read()
            if _ERROR not in body:
                await self.adone()

    def done(self) -> None:
        """Take back what S3 has written; may block as `heard` does."""
        for writing, objects in self._parts:
            writing.take_back(objects)

    async def adone(self) -> None:
        """Do what `done` does, without ever blocking the event loop."""
        for writing, objects in self._parts:
            await writing.atake_back(objects)


class Writing:
    """The side of a presigner that hears of writes."""

    def __init__(
        self,
        origins: Sequence[Origin],
        targets: Targets,
        runner: Runner,
        invalidation: Callable[[Sequence[S3Object]], Callable[[], None]],  # what raises their epochs
        counts: Counts,
    ) -> None:
        self._targets = targets
        self._runner = runner
        self._invalidation = invalidation
        self._counts = counts
        self._tasks: set[asyncio.Task[None]] = set()  # a loop keeps only weak references to its tasks
        #: Whether any origin is to hear.
        self.is_wanted = any(origin.invalidate_on_write for origin in origins)
        if self.is_wanted:
            _wanting.add(self)
            for hooks in list(_waiting):
                hooks.watch()

    def objects(self, urls: Iterable[str]) -> list[S3Object]:
        """Return which of *urls*, of `written_to`, are objects of origins that are to hear."""
        found = []
        for url in urls if self.is_wanted else ():
            with suppress(NotCovered):
                place = self._targets.located(url)
                if place.origin.invalidate_on_write:
                    found.append(self._targets.at(place, place.origin.methods[0]))
        return found

    def take_back(self, objects: Sequence[S3Object]) -> None:
        """Take back the URLs of *objects*. Raises nothing: they are written, whatever becomes of this."""
        try:
            self._runner.take_back(self._invalidation(objects))
        except Exception as error:
            self._failed(objects, error)

    async def atake_back(self, objects: Sequence[S3Object]) -> None:
        """Do what `take_back` does, to its end even if whoever awaits it is cancelled."""
        import asyncio  # which a blocking program is spared

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError as error:  # another kind of loop
            self._failed(objects, error)
            return
        task = loop.create_task(self._atake_back(objects))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _atake_back(self, objects: Sequence[S3Object]) -> None:
        try:
            await self._runner.atake_back(self._invalidation(objects))
        except Exception as error:
            self._failed(objects, error)

    def _failed(self, objects: Sequence[S3Object], error: Exception) -> None:
        self._counts.invalidate_failed += len(objects)
        origin, name = objects[0].origin, type(error).__name__
        tell(
            logger,
            logging.ERROR,
            "invalidate_failed",
            "objects of origin %s were written, and their URLs could not be taken back (%s): they go on "
            "being handed out until they end",
            origin,
            name,
            origin=origin,
            error=name,
        )


class _Waiting(Protocol):
    def watch(self) -> None: ...


#: Sides of presigners that want to hear of writes, and hooks that are for nothing else.
_wanting: WeakSet[Writing] = WeakSet()
_waiting: WeakSet[_Waiting] = WeakSet()


def when_wanted(hooks: _Waiting) -> None:
    """Have *hooks* watch for writes once a presigner wants to hear of any; which may be now."""
    _waiting.add(hooks)  # before it is asked for: a presigner may be made in another thread
    if len(_wanting):
        hooks.watch()


def _is_good(status: int) -> bool:
    return 200 <= status < 300
