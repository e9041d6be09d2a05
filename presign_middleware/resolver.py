"""
From an object to a URL: the decisions.

There are two paths. The *quick* one is a plain function without any I/O: what this
request or this process holds, else a signature that needs nothing but a hash. The
other is a coroutine, written once for threads and event loops: it decides, and its
`Effects` do whatever may wait.

An object is resolved by one *flight* at a time. Whoever opens it must land it;
whoever else wants the object waits for it. A flight's failure is shared by those
who wait for that object and by nobody else; a flight whose leader is gone is begun
anew by one of those who waited.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from threading import Lock
from typing import Any, Protocol

from .errors import SigningError
from .local import Entry, Flight, Flights, Table
from .metrics import Counts
from .objects import S3Object
from .scope import Scope

__all__ = ["Clock", "Effects", "Resolver", "Signs"]

#: Uploads and deletions are signed each time: their URLs are not kept.
_KEPT_METHODS = frozenset({"GET", "HEAD"})

Fly = Callable[[Sequence[Flight], "Effects"], Coroutine[Any, Any, None]]


class Clock(Protocol):
    """Wall and monotonic time. The ``time`` module is one; a test can hand in another."""

    def time(self) -> float:
        """Return Unix seconds."""

    def monotonic(self) -> float:
        """Return seconds from some fixed instant."""


class Signs(Protocol):
    """Whoever can sign."""

    def sign(
        self, obj: S3Object, wall: float, monotonic: float, *, is_prepared: bool = False
    ) -> Entry | SigningError | None:
        """
        Return a new URL, why there is none, or None: `prepare` must come first. No I/O.

        *is_prepared*: it has, and credentials that are due for renewal must do.
        """

    def could_sign(self, obj: S3Object) -> bool:
        """Return whether `sign` could, with credentials that work but may be due for renewal."""

    def sign_once(self, obj: S3Object, headers: Mapping[str, str]) -> str:
        """Return a URL whose signature covers *headers*, for one request alone. May block."""

    def prepare(self, objects: Sequence[S3Object]) -> dict[S3Object, SigningError]:
        """Do what *objects* need before they can be signed; return those that failed. May block."""


class Effects(Protocol):
    """What the coroutine core cannot decide: how to wait, and where."""

    flights: Flights

    def portions(self, objects: list[S3Object]) -> list[list[S3Object]]:
        """Return *objects* in the portions that are boarded and waited for one after another."""

    async def launch(self, opened: Sequence[Flight], fly: Fly) -> None:
        """See to it that `fly` lands *opened*, whatever becomes of the caller."""

    def deadline(self) -> float:
        """Return the instant, on a clock of its own, until which a call that begins now may wait."""

    async def join(self, flight: Flight, deadline: float) -> Entry | SigningError | None:
        """Wait for *flight* until *deadline*; None: it was abandoned."""

    async def prepare(self, objects: Sequence[S3Object]) -> dict[S3Object, SigningError]:
        """`Signs.prepare`, where it may block."""


class Resolver:
    """Finds or makes the URL of an object. Reads the clock, does no I/O of its own."""

    def __init__(self, signing: Signs, table: Table, flights: Flights, counts: Counts, clock: Clock) -> None:
        self._signing = signing
        self._table = table
        self._flights = flights
        self._counts = counts
        self._time = clock.time
        self._monotonic = clock.monotonic
        self._lock = Lock()

    def quick(self, obj: S3Object, alias: str | None, scope: Scope | None) -> Entry | None:
        """
        Return the URL of *obj* if nothing has to be waited for, else None.

        *alias* is the text that named the object, if that text alone names it.

        Raises:
            SigningError: The object cannot be signed.
        """
        with self._lock:  # one signature an object, however many threads ask at once
            return self._quick(obj, alias, scope, self._time(), self._monotonic())

    def quick_all(
        self, objects: Sequence[S3Object], aliases: Sequence[str | None], scope: Scope | None
    ) -> list[Entry | None]:
        """Return what `quick` returns for each of *objects*."""
        wall, monotonic = self._time(), self._monotonic()
        with self._lock:
            return [
                self._quick(obj, alias, scope, wall, monotonic)
                for obj, alias in zip(objects, aliases, strict=True)
            ]

    async def resolve(
        self, objects: Sequence[S3Object], scope: Scope | None, effects: Effects
    ) -> list[Entry | SigningError]:
        """Return the URL of each of *objects*, or why there is none, in their order."""
        answers: dict[S3Object, Entry | SigningError] = {}
        wanted = list(dict.fromkeys(objects))
        deadline = effects.deadline()
        while wanted:
            abandoned = []
            for portion in effects.portions(wanted):
                opened, joined = effects.flights.board(portion)
                await effects.launch(opened, self._fly)
                for flight, is_mine in [*((f, True) for f in opened), *((f, False) for f in joined)]:
                    answer = await effects.join(flight, deadline)
                    if answer is None:
                        abandoned.append(flight.object)
                        continue
                    answers[flight.object] = answer
                    self._take_note(answer, scope, is_mine=is_mine)
            wanted = abandoned
        again = sum([isinstance(answers[obj], Entry) for obj in objects]) - sum(
            [isinstance(answer, Entry) for answer in answers.values()]
        )
        self._counts.from_flight += again  # asked for twice in one call
        return [answers[obj] for obj in objects]

    def _take_note(self, answer: Entry | SigningError, scope: Scope | None, *, is_mine: bool) -> None:
        if isinstance(answer, SigningError):
            self._counts.failed += 1
            return
        if not is_mine:
            self._counts.from_flight += 1
        if scope is not None and answer.object.method in _KEPT_METHODS:
            scope.remember(answer)

    async def _fly(self, flights: Sequence[Flight], effects: Effects) -> None:
        """Land every one of *flights*."""
        try:
            wanting = [flight for flight in flights if not self._land(flight, effects)]
            while wanting:
                refused = await effects.prepare([flight.object for flight in wanting])
                left = [f for f in wanting if not self._land(f, effects, refused)]
                if len(left) == len(wanting):
                    for flight in left:
                        effects.flights.land(flight, _unready(flight.object))
                    break
                wanting = left  # a batch may have more shapes of URL than plans are kept
        except Exception as error:  # a defect of ours must not strand those who wait
            for flight in flights:
                failure = SigningError(f"resolving failed: {type(error).__name__}")
                failure.__cause__ = error
                effects.flights.land(flight, failure)
        finally:
            effects.flights.abandon(flights)

    def _land(
        self, flight: Flight, effects: Effects, refused: Mapping[S3Object, SigningError] | None = None
    ) -> bool:
        """
        Land *flight* if its object was refused, is known by now, or can be signed without I/O.

        *refused* is what a preparation returned; None: none was made yet.
        """
        answer: Entry | SigningError | None = refused.get(flight.object) if refused else None
        if answer is None:
            obj, wall, monotonic = flight.object, self._time(), self._monotonic()
            with self._lock:
                answer = self._known(obj, None, wall, monotonic)
                answer = answer or self._sign(obj, None, wall, monotonic, is_prepared=refused is not None)
        if answer is None:
            return False
        effects.flights.land(flight, answer)
        return True

    # The rest is called with the lock held.

    def _quick(
        self, obj: S3Object, alias: str | None, scope: Scope | None, wall: float, monotonic: float
    ) -> Entry | None:
        entry = self._known(obj, scope, wall, monotonic)
        if entry is not None:
            if entry.alias is None and alias is not None:
                self._table.name(entry, alias)
        elif not self._flights.has(obj):
            answer = self._sign(obj, alias, wall, monotonic)
            if isinstance(answer, SigningError):
                self._counts.failed += 1
                raise answer
            entry = answer
        if scope is not None and entry is not None and obj.method in _KEPT_METHODS:
            scope.remember(entry)
        return entry

    def _sign(
        self, obj: S3Object, alias: str | None, wall: float, monotonic: float, *, is_prepared: bool = False
    ) -> Entry | SigningError | None:
        answer = self._signing.sign(obj, wall, monotonic, is_prepared=is_prepared)
        if isinstance(answer, Entry):
            self._counts.from_signer += 1
            if obj.method in _KEPT_METHODS:
                self._table.put(answer, alias)
        return answer

    def _known(self, obj: S3Object, scope: Scope | None, wall: float, monotonic: float) -> Entry | None:
        """Return what this request or this process holds of *obj* and may serve."""
        if scope is not None:
            entry = scope.seen(obj)
            if entry is not None and _servable(entry, scope, wall, monotonic):
                self._counts.from_scope += 1
                return entry
        entry = self._table.get(obj)
        if entry is None:
            return None
        if not (entry.is_fresh(wall, monotonic) or _servable(entry, scope, wall, monotonic)):
            return None
        entry.used = True
        self._counts.from_local += 1
        return entry


def _servable(entry: Entry, scope: Scope | None, wall: float, monotonic: float) -> bool:
    """
    Return whether *entry* may be served to *scope*.

    An AGEING entry is, except to a scope that is older than half the AGEING window:
    a websocket or a job has no response after which it could be renewed.
    """
    if entry.is_spent(wall, monotonic):
        return False
    return scope is None or monotonic - scope.opened < (entry.ageing_until - entry.fresh_until) / 2


def _unready(obj: S3Object) -> SigningError:
    return SigningError(f"origin {obj.origin!r}: its credentials ended before a URL could be signed")
