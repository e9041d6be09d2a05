"""
What this process tells of itself, and what the others of the fleet tell.

A thread looks at the counters every other second, so that there is a history when somebody
asks for it, and now and then leaves what it sees in the shared cache. It is begun by
whoever wants the process to be seen, and never by a request.

In the shared cache each process has a value of its own, which expires soon after the
process has ended, and its name is in one list. Who finds itself missing there writes the
list anew, without those that are gone. So whatever is lost of it comes back by itself.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from math import inf
from threading import Event, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

from .healing import Healing
from .local import Table
from .metrics import Counts
from .objects import workers_key
from .recent import happenings, listen
from .resolver import Clock
from .signing import Signing
from .worker import BUCKETS, SLOT, SLOTS, Held, Row, Worker, bucket

if TYPE_CHECKING:
    from .memcached import Server
    from .shared import Notes, Post

__all__ = ["Presence"]

#: Seconds between two looks at the counters, and looks between two notes to the others.
_LOOK_EVERY, _LOOKS = 2.0, 2

#: Seconds after which a note expires that is not renewed.
_EXPIRE = 15

#: Seconds after which the list does, which is written when a process comes.
_LIST_EXPIRES = 7 * 86_400

#: Seconds that leaving and reading notes may take.
_WITHIN = 1.0

#: Seconds for which what was read of the others is told again: many may be looking.
_READ_EVERY = 1.0

#: Processes that are listed; attempts to be listed, when others want the same.
_MOST_WORKERS, _ATTEMPTS = 500, 20

#: Entries of the table that are looked at, origins and events that are told.
_SAMPLE, _MOST_ORIGINS, _MOST_HAPPENINGS = 200, 50, 10


class Notices(Protocol):
    """The shared cache, for notes that are no entries. See `Shared`."""

    def notes(self, keys: list[str], deadline: float, post: "Post | None" = None) -> "Notes | None": ...

    def servers(self) -> "tuple[Server, ...]": ...


class Presence:
    """One process of a fleet, as one presigner has it. For any number of threads."""

    def __init__(
        self,
        counts: Counts,
        table: Table,
        signing: Signing,
        healing: Healing,
        origins: Callable[[], list[str]],
        shared: Notices | None,
        namespace: str,
        clock: Clock,
        started: float,  # Unix seconds
    ) -> None:
        self._counts = counts
        self._table = table
        self._signing = signing
        self._healing = healing
        self._origins = origins
        self._shared = shared
        self._namespace = namespace
        self._clock = clock
        self._started = started
        self._host, self._pid, self._id = os.uname().nodename[:64], os.getpid(), os.urandom(8).hex()
        self._key, self._list = workers_key(namespace, self._id), workers_key(namespace)
        self._lock = Lock()
        self._closing: Event | None = None  # of the thread that looks
        self._looking = Lock()
        self._looks = 0
        self._history: dict[int, Row] = {}
        self._seen = Row()
        self._round_trip: float | None = None
        self._telling = Lock()
        self._reading = Lock()
        self._others: tuple[Worker, ...] | None = ()
        self._read_at = -inf  # monotonic
        #: Whether somebody has asked this process; a master that only forks tells of nothing.
        self.is_asked = False

    @property
    def is_shared(self) -> bool:
        """Whether there is a shared cache, so that there may be others."""
        return self._shared is not None

    def begin(self) -> None:
        """Have the process seen from now on. Does nothing if it is."""
        if self._closing is not None:
            return
        with self._lock:
            if self._closing is None:
                listen()
                closing = Event()
                with suppress(RuntimeError):  # no more threads, or the interpreter is ending
                    Thread(
                        target=_run, args=(ref(self), closing), name="presign-presence", daemon=True
                    ).start()
                    self._closing = closing

    def close(self) -> None:
        """Have the process seen no more: others are told now, and not when its note expires."""
        with self._lock:
            closing, self._closing = self._closing, None
        if closing is None:
            return
        closing.set()
        if self._shared is not None and self._round_trip is not None:
            from .shared import Post

            with self._telling:  # or a note that is being left would come after this
                self._shared.notes([], monotonic() + _WITHIN, Post(self._key, b"", 0))

    def own(self) -> Worker:
        """Return what this process tells. No I/O, and as quick whatever is held."""
        self._look()
        return Worker(
            host=self._host,
            pid=self._pid,
            started=self._started,
            at=self._clock.time(),
            counts=self._counts.as_dict(),
            held=len(self._table),
            ages=self._ages(),
            history=self._history.copy(),
            origins={name: self._held(name) for name in self._origins()[:_MOST_ORIGINS]},
            servers={one.name: one.down_for for one in self._shared.servers()} if self._shared else {},
            round_trip=self._round_trip,
            happenings=happenings(_MOST_HAPPENINGS),
        )

    def all(self) -> tuple[tuple[Worker, ...], bool]:
        """
        Return what every process tells, this one first, and whether the others could be asked.

        Blocks for a second at most, and reads once a second, whoever asks.
        """
        own = self.own()
        if self._shared is None:
            return (own,), True
        with self._reading:
            if monotonic() - self._read_at > _READ_EVERY:
                self._others = self._read(self._shared)
                self._read_at = monotonic()
            others = self._others
        return (own, *(others or ())), others is not None

    def _read(self, shared: Notices) -> tuple[Worker, ...] | None:
        deadline = monotonic() + _WITHIN
        found = shared.notes([self._list], deadline)
        if found is None:
            return None
        ids = [one for one in _ids(found.get(self._list, (b"", b""))[0]) if one != self._id]
        notes = shared.notes([workers_key(self._namespace, one) for one in ids], deadline) if ids else {}
        if notes is None:
            return None
        workers = [Worker.decode(data) for data, _ in notes.values()]
        return tuple(sorted([one for one in workers if one is not None], key=lambda one: (one.host, one.pid)))

    def _turn(self, closing: Event) -> None:
        """Look, and tell the others now and then."""
        self._look()
        self._looks += 1
        if self._shared is None or self._looks % _LOOKS or not (self.is_asked or any(self._seen)):
            return
        with self._telling:
            if not closing.is_set():
                self._tell(self._shared)

    def _look(self) -> None:
        """Note what was counted since the last look."""
        with self._looking:
            now, seen = int(self._clock.time()) // SLOT, Row.of(self._counts)
            self._history[now] = self._history.get(now, Row()).plus(seen.plus(self._seen, -1))
            self._seen = seen
            for slot in [slot for slot in self._history if not now - SLOTS < slot <= now]:
                del self._history[slot]

    def _tell(self, shared: Notices) -> None:
        from .shared import Post

        own, began = self.own().encode(), monotonic()
        found = shared.notes([self._list], began + _WITHIN, Post(self._key, own, _EXPIRE))
        if found is None:
            return
        self._round_trip = monotonic() - began
        for _ in range(_ATTEMPTS):
            data, version = found.get(self._list, (b"", None))
            ids = _ids(data)
            if self._id in ids or len(ids) >= _MOST_WORKERS:
                return
            keys = {workers_key(self._namespace, one): one for one in ids}
            there = shared.notes(list(keys), monotonic() + _WITHIN) if keys else {}
            if there is None:
                return
            listed = ",".join([*(one for key, one in keys.items() if key in there), self._id])
            post = Post(self._list, listed.encode(), _LIST_EXPIRES, is_contested=True, version=version)
            found = shared.notes([self._list], monotonic() + _WITHIN, post)
            if found is None:
                return

    def _ages(self) -> tuple[int, ...]:
        held, ages = len(self._table), [0] * BUCKETS
        wall, monotonic = self._clock.time(), self._clock.monotonic()
        sample = self._table.sample(_SAMPLE)
        for entry in sample:
            left = entry.end - wall - self._signing.skew(entry.object.origin)
            ages[bucket(left, not entry.is_spent(wall, monotonic))] += 1
        return tuple([round(number * held / len(sample)) for number in ages]) if sample else tuple(ages)

    def _held(self, name: str) -> Held:
        signs = self._signing.of(name)
        source, learned = signs.source, self._healing.learned(name)
        said: dict[str, Any] = {
            "ahead": signs.skew,
            "failure": source.failure,
            "learned": "; ".join([f"{what}: {text}" for what, text in learned.items()]),
        }
        snapshot = source.held
        if snapshot is None or snapshot.credential.end == inf:
            return Held(**said)
        credential = snapshot.credential
        life = credential.end - credential.obtained
        return Held(credential.end, life, is_assumed=credential.reason == "assumed", **said)


def _run(whose: "ref[Presence]", closing: Event) -> None:
    # Not at once: what is configured now may be about to fork. Whoever forgets a presigner forgets this too.
    while not closing.wait(_LOOK_EVERY) and (presence := whose()) is not None:
        presence._turn(closing)
        del presence


def _ids(data: bytes) -> list[str]:
    """Return the processes of a list; of one that is damaged, none."""
    ids = data.decode("latin-1").split(",")
    is_sound = all(len(one) == 16 and one.isascii() and one.isalnum() for one in ids)
    return ids[:_MOST_WORKERS] if is_sound else []
