"""
What this process holds: signed URLs, and the resolutions under way.

Both belong to one process. Neither reads a clock nor signs anything.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # which `Presigner` needs with its first object, and not when it is imported
    from .errors import SigningError
    from .metrics import Counts, Tally
    from .objects import S3Object
    from .policy import Credential, Life

__all__ = ["PATIENCE", "Entry", "Flight", "Flights", "Order", "Passing", "Patience", "Table"]

#: Seconds anyone waits for a resolution that another has begun.
PATIENCE = 30

#: Seconds by which a date may lie ahead of the wall clock.
_AHEAD = 5.0


class Service:
    """When a URL is served: seconds from its date, by this host's clock. Floats, as clocks tell."""

    __slots__ = ("ageing_until", "born", "credential", "end", "fresh_until", "reason")

    def __init__(
        self,
        born: float,  # a little before the date, for hosts that were corrected by a second or two
        fresh_until: float,
        ageing_until: float,
        end: float,  # S3 refuses it after this, by S3's clock
        reason: str,  # what ends it: "lifetime", "credentials", "assumed" or "policy"
        credential: "Credential",  # that signed it
    ) -> None:
        self.born = born
        self.fresh_until = fresh_until
        self.ageing_until = ageing_until
        self.end = end
        self.reason = reason
        self.credential = credential

    @classmethod
    def of(cls, life: "Life", date: int, skew: float, credential: "Credential") -> "Service":
        """Return the service of a URL of *date* whose *life* is told by S3's clock, *skew* seconds ahead."""
        host = date + skew
        # An int beside a clock's float takes as long to compare as the clock takes to read.
        return cls(
            -_AHEAD - max(skew, 0.0),
            float(life.fresh_until - host),
            float(life.ageing_until - host),
            life.end - date,
            life.reason,
            credential,
        )

    def entry(
        self,
        obj: "S3Object",
        url: str,
        date: int,
        offset: float,  # monotonic time less wall time, at present
        tally: "Tally",  # of its origin
    ) -> "Entry":
        """Return the entry of a URL that is served so."""
        entry = Entry()  # and filled here: an __init__ of its own would be a call by way of C
        entry.object = obj
        entry.url = url
        entry.date = date
        entry.service = self
        entry.born = date + self.born
        entry.fresh_until = fresh_until = date + self.fresh_until
        entry.fresh_until_monotonic = fresh_until + offset
        entry.tally = tally
        entry.alias = None
        entry.used = False
        return entry

    def fresh_for(self, seconds: float) -> "Service":
        """Return the same, but FRESH for so many seconds at most."""
        fresh_until = min(self.fresh_until, float(seconds))
        return Service(self.born, fresh_until, self.ageing_until, self.end, self.reason, self.credential)


class Entry:
    """
    A signed URL in this process; see `Service.entry`.

    Served while the wall clock is in ``[born, fresh_until)`` (FRESH) or
    ``[born, ageing_until)`` (AGEING), and the monotonic clock before the matching
    bound: whichever ends first, so that a step of the wall clock cannot lengthen
    a URL's life.
    """

    __slots__ = (
        "alias",
        "born",
        "date",
        "fresh_until",
        "fresh_until_monotonic",
        "object",
        "service",
        "tally",
        "url",
        "used",
    )

    object: "S3Object"
    url: str
    date: int  #: X-Amz-Date, by S3's clock
    service: Service
    born: float
    fresh_until: float
    fresh_until_monotonic: float
    tally: "Tally"  #: of its origin
    alias: str | None
    #: Whether it was asked for again: since `Table` has looked at it last; None: not since, but before.
    used: bool | None

    @property
    def ageing_until(self) -> float:
        """The wall clock's instant from which this URL is SPENT."""
        return self.date + self.service.ageing_until

    @property
    def ageing(self) -> float:
        """For how many seconds this URL is AGEING."""
        return self.service.ageing_until - self.service.fresh_until

    @property
    def ageing_until_monotonic(self) -> float:
        """The monotonic clock's instant from which it is, if that comes first."""
        return self.fresh_until_monotonic + self.ageing

    @property
    def end(self) -> float:
        """The instant of S3's clock after which it refuses this URL."""
        return self.date + self.service.end

    @property
    def reason(self) -> str:
        """What ends this URL: "lifetime", "credentials", "assumed" or "policy"."""
        return self.service.reason

    @property
    def credential(self) -> "Credential":
        """What signed this URL."""
        return self.service.credential

    @property
    def is_contested(self) -> bool:
        """Whether another process may sign the same object otherwise: with a session of its own."""
        return self.credential.end != inf

    def is_fresh(self, wall: float, monotonic: float) -> bool:
        """Return whether this URL can be served without a further thought."""
        return self.born <= wall < self.fresh_until and monotonic < self.fresh_until_monotonic

    def is_spent(self, wall: float, monotonic: float) -> bool:
        """Return whether this URL must not be served any more."""
        service = self.service
        return not (
            self.born <= wall < self.date + service.ageing_until
            and monotonic < self.fresh_until_monotonic + (service.ageing_until - service.fresh_until)
        )


class Passing(Entry):
    """A signed URL for one call: nobody keeps it, and none takes its place."""

    __slots__ = ()


#: Entries that are passed over for one that leaves: where all are in use, nobody waits for a full turn.
_MOST_CHANCES = 16


class Table:
    """
    The URLs of this process: at most *size*, and those that nobody asks for leave first.

    Reading needs no lock; whoever writes holds one. When the table is full, the oldest
    entry leaves unless it was asked for since it was last looked at (second chance), so
    a read has no list to reorder.

    An entry can also be found by one *alias*: the text of a target that led to it,
    which saves parsing the text again.
    """

    def __init__(self, size: int, counts: "Counts") -> None:
        self._size = size
        self._counts = counts
        self._entries: dict[S3Object, Entry] = {}
        self._queue: deque[S3Object] = deque()  # of the same objects: the first leaves next
        self._aliases: dict[str, Entry] = {}
        self.get = self._entries.get
        self.by_alias = self._aliases.get

    def __len__(self) -> int:
        return len(self._entries)

    def sample(self, most: int) -> list[Entry]:
        """Return at most so many entries, at random. Takes no lock: what leaves meanwhile is absent."""
        import random  # for those alone who look into a process

        queue, get = self._queue, self.get
        places = range(len(queue))
        found = []
        with suppress(IndexError):  # the queue has become shorter
            for place in places if len(places) <= most else random.sample(places, most):
                entry = get(queue[place])
                if entry is not None:
                    found.append(entry)
        return found

    def put(self, entry: Entry, alias: str | None = None) -> None:
        """Hold *entry* in the place of whatever its object had."""
        obj, entries = entry.object, self._entries
        if obj in entries:
            self._forget_alias(entries[obj])
        else:
            if len(entries) >= self._size:
                self._evict()
            self._queue.append(obj)
        entries[obj] = entry
        if alias is not None:
            self._aliases[alias] = entry
            entry.alias = alias

    def put_all(self, entries: Sequence[Entry], aliases: Sequence[str | None]) -> None:
        """Do what `put` does for each of *entries*, which are of different objects."""
        objects, held = [entry.object for entry in entries], self._entries
        if len(held) + len(objects) > self._size or not held.keys().isdisjoint(objects):
            for entry, alias in zip(entries, aliases, strict=True):
                self.put(entry, alias)
            return
        held.update(zip(objects, entries, strict=True))
        self._queue.extend(objects)
        named = [(alias, entry) for alias, entry in zip(aliases, entries, strict=True) if alias is not None]
        self._aliases.update(named)
        for alias, entry in named:
            entry.alias = alias

    def name(self, entry: Entry, alias: str) -> None:
        """Let *entry* be found by *alias* if it has no alias yet and is still held."""
        if entry.alias is None and self._entries.get(entry.object) is entry:
            self._aliases[alias] = entry
            entry.alias = alias

    def forget_aliases(self) -> None:
        """Have every text parsed again, after which its entry is looked at more closely."""
        for entry in self._aliases.values():
            entry.alias = None
        self._aliases.clear()

    def drop(self, origin: str) -> None:
        """Hold nothing of *origin* any more. Takes as long as the table is."""
        kept = [obj for obj in self._queue if obj.origin != origin]
        for obj in [obj for obj in self._queue if obj.origin == origin]:
            self._forget_alias(self._entries.pop(obj))
        self._queue = deque(kept)

    def _evict(self) -> None:
        for _ in range(_MOST_CHANCES):
            obj = self._queue.popleft()
            entry = self._entries[obj]
            if not entry.used:
                break
            entry.used = None
            self._queue.append(obj)
        else:
            obj = self._queue.popleft()
        entry = self._entries.pop(obj)
        self._forget_alias(entry)
        self._counts.evicted += 1
        self._counts.evicted_unused += entry.used is False

    def _forget_alias(self, entry: Entry) -> None:
        if entry.alias is not None:
            self._aliases.pop(entry.alias, None)
            entry.alias = None  # a request may still hold it


class Patience:
    """For how many seconds one request may still wait for the shared cache."""

    # Slots, since whether there is an account is asked for every URL.
    __slots__ = ("_whole", "account", "left")

    def __init__(self, seconds: float) -> None:
        self.account: Any = None  #: of what the request was given, for its response to tell
        self.left = self._whole = seconds

    @property
    def is_over(self) -> bool:
        """Whether too little is left to ask: a sound server would be blamed for being too slow."""
        return self.left <= self._whole / 10


class Order(NamedTuple):
    """What whoever opens a flight wants of it."""

    accepts: Callable[[Entry, float, float], bool]  #: whether a URL that is there already will do
    patience: Patience
    is_renewal: bool = False  #: nobody asked for the URL: it is not counted as handed out
    since: int = 0  #: the earliest date, by S3's clock, of a URL that is signed for it


class Flight:
    """
    A resolution under way. Whoever opened it lands it; any number may wait.

    A flight that is `abandoned` (its leader was cancelled, or died with its event
    loop) tells those who wait to begin again: one of them becomes the leader.
    """

    __slots__ = ("answer", "is_over", "object", "order", "waits")

    def __init__(self, obj: "S3Object", order: Order) -> None:
        self.object = obj
        self.order = order
        self.is_over = False  #: whether it has landed, or was abandoned
        self.answer: Entry | SigningError | None = None  #: when it is over; None: it was abandoned
        self.waits: tuple[_Wait, ...] = ()


class _Wait:
    """Somebody who waits for some flights."""

    __slots__ = ("missing", "wake")

    def __init__(self, missing: int, wake: Callable[[], object]) -> None:
        self.missing = missing  # flights that are not over
        self.wake = wake


class Flights:
    """The resolutions in the air, at most one an object."""

    def __init__(self) -> None:
        self._lock = Lock()  # of all of them: most end with nobody waiting, and need none of their own
        self.aloft: dict[S3Object, Flight] = {}  #: by object; for others to look at

    def board(self, objects: "Iterable[S3Object]", order: Order) -> tuple[list[Flight], list[Flight]]:
        """Return the flights opened here, which the caller must land, and those of others to wait for."""
        opened, joined = [], []
        with self._lock:
            for obj in objects:
                flight = self.aloft.get(obj)
                if flight is None:
                    flight = self.aloft[obj] = Flight(obj, order)
                    opened.append(flight)
                else:
                    joined.append(flight)
        return opened, joined

    def await_all(self, flights: Sequence[Flight], wake: Callable[[], object]) -> bool:
        """
        Have *wake* called, in any thread, when all of *flights* are over; return False if they are.

        It must do no harm when whoever waits has given up.
        """
        with self._lock:
            aloft = [flight for flight in flights if not flight.is_over]
            wait = _Wait(len(aloft), wake)
            for flight in aloft:
                flight.waits += (wait,)
        return bool(aloft)

    def land(self, answers: "Iterable[tuple[Flight, Entry | SigningError | None]]") -> None:
        """Give everyone who waits for these flights their answer, unless they were given up meanwhile."""
        wakes = []
        with self._lock:
            for flight, answer in answers:
                if flight.is_over:
                    continue
                flight.answer = answer
                flight.is_over = True
                self.aloft.pop(flight.object, None)
                for wait in flight.waits:
                    wait.missing -= 1
                    if not wait.missing:
                        wakes.append(wait.wake)
                flight.waits = ()
        for wake in wakes:
            wake()

    def abandon(self, flights: Iterable[Flight]) -> None:
        """Let those who wait for any of *flights* that has not landed begin again."""
        left = [(flight, None) for flight in flights if not flight.is_over]
        if left:  # rarely: who has landed its flights abandons them, too
            self.land(left)
