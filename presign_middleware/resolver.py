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

from collections import Counter
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby, islice
from operator import attrgetter
from threading import Lock
from typing import Any, NamedTuple, NoReturn, Protocol

from .epochs import Epochs
from .errors import SigningError
from .local import PATIENCE, Entry, Flight, Flights, Order, Patience, Table
from .metrics import SAMPLED, Counts
from .objects import Kind, S3Object
from .scope import Scope

__all__ = ["Clock", "Copy", "Effects", "Item", "Note", "Resolver", "Signs"]

#: Seconds for which a long scope is content with an AGEING URL that was the best there is, at most.
_LONGEST_REST = 60

#: Times that what was made ready may be out of date again by the time it is used.
_MOST_ATTEMPTS = 3

#: Adoptions that wait for a landing; one whose flight was given up would wait for ever.
_MOST_EARLY = 1_000

_kind = attrgetter("kind")

Fly = Callable[[Sequence[Flight], "Effects"], Coroutine[Any, Any, None]]

#: Adds to an error what is known of the object that it is about. It takes no lock and does no I/O.
Note = Callable[[SigningError, S3Object], None]


class Clock(Protocol):
    """Wall and monotonic time. The ``time`` module is one; a test can hand in another."""

    def time(self) -> float:
        """Return Unix seconds."""

    def monotonic(self) -> float:
        """Return seconds from some fixed instant."""


class Signs(Protocol):
    """Whoever can sign."""

    def sign(
        self, obj: S3Object, wall: float, monotonic: float, since: int = 0
    ) -> Entry | SigningError | None:
        """
        Return a new URL of *obj*, why there is none, or None: `prepare` must come first. No I/O.

        *since*: the earliest date, by S3's clock, that it may have.
        """

    def sign_all(
        self, objects: Sequence[S3Object], wall: float, monotonic: float, since: int = 0
    ) -> tuple[Sequence[Entry], SigningError | None] | None:
        """
        Return what `sign` does for *objects*, which are of one kind, in half the time.

        That is the URLs up to the first that there is none of, and why there is none of that.
        """

    def freshen(self, entries: Sequence[Entry]) -> None:
        """Ask for newer credentials than those that bound the life of *entries*. May block."""

    def queue(self, obj: S3Object) -> Hashable:
        """Return what tells those who might wait for the same source of credentials from others."""

    def is_ready(self, obj: S3Object) -> bool:
        """Return whether `sign` could now. No I/O."""

    def is_common(self, obj: S3Object) -> bool:
        """Return whether it is of use to ask the shared cache for *obj*. No I/O."""

    def sign_once(self, obj: S3Object, headers: Mapping[str, str]) -> str:
        """Return a URL whose signature covers *headers*, for one request alone. May block."""

    def prepare(self, objects: Sequence[S3Object]) -> dict[S3Object, SigningError]:
        """Do what *objects* need before they can be signed; return those that failed. May block."""


class Copy(NamedTuple):
    """What the shared cache has of an object."""

    entry: Entry | None  #: None: nothing that can be served
    version: bytes | None  #: its own name for what it has; None: it has nothing


class Item(NamedTuple):
    """A new URL that is to be shared."""

    entry: Entry
    version: bytes | None  #: of what it is to replace; None: there was nothing, or nobody looked
    accepts: Callable[[Entry, float, float], bool]  #: whether what another process has shared will do


class Effects(Protocol):
    """What the coroutine core cannot decide: how to wait, and where."""

    flights: Flights

    def portions(self, objects: list[S3Object]) -> list[list[S3Object]]:
        """Return *objects* in the portions that are boarded and waited for one after another."""

    async def launch(self, opened: Sequence[Flight], fly: Fly) -> None:
        """See to it that `fly` lands *opened*, whatever becomes of the caller."""

    def deadline(self) -> float:
        """Return the instant, on a clock of its own, until which a call that begins now may wait."""

    async def join(self, flights: Sequence[Flight], deadline: float) -> None:
        """Wait until *flights* are over, or *deadline* is."""

    async def prepare(self, objects: Sequence[S3Object]) -> dict[S3Object, SigningError]:
        """`Signs.prepare`, where it may block."""

    async def read(self, flights: Sequence[Flight]) -> Mapping[S3Object, Copy]:
        """Return what the shared cache has of the objects of *flights*, while their patience lasts."""

    async def publish(self, flights: Sequence[Flight], items: Sequence[Item]) -> list[Entry]:
        """Share the *items* of *flights*, and return for each what stands: another may have been first."""

    async def catch_up(self, patience: Patience, *, anew: bool = False) -> None:
        """
        Exchange epochs with the fleet, if it has a shared cache, as far as *patience* goes.

        *anew*: not with whoever is at it, who may not know yet what was raised here, or just now elsewhere.
        """


class Resolver:
    """Finds or makes the URL of an object. Reads the clock, does no I/O of its own."""

    def __init__(
        self,
        signing: Signs,
        table: Table,
        flights: Flights,
        counts: Counts,
        clock: Clock,
        *,
        epochs: Epochs,
        is_shared: bool,  # whether another process may have what this one has not
        note: Note,
    ) -> None:
        self._signing = signing
        self._table = table
        self._flights = flights
        self._counts = counts
        self._time = clock.time
        self._monotonic = clock.monotonic
        self._epochs = epochs
        self._is_shared = is_shared
        self._note = note
        self._early: dict[S3Object, tuple[Entry, Entry]] = {}  # adoptions that came before the landing
        self._lock = Lock()

    def quick(self, obj: S3Object, alias: str | None, scope: Scope | None) -> Entry | None:
        """
        Return the URL of *obj* if nothing has to be waited for, else None.

        *alias* is the text that named the object, if that text alone names it.

        Raises:
            SigningError: The object cannot be signed.
        """
        # Called by local names: as methods they would be sought on the classes first.
        clock, other_clock, get = self._time, self._monotonic, self._table.get
        wall, monotonic = clock(), other_clock()
        if self._epochs.good_until <= monotonic:
            return None
        with self._lock:  # one signature an object, however many threads ask at once
            held = get(obj)
            if held is not None or (scope is not None and scope.met):
                entry = self._known(held, obj, alias, scope, wall, monotonic)
                if entry is not None:
                    return entry
            aloft = self._flights.aloft
            if (self._is_shared and self._is_common(obj)) or (aloft and obj in aloft):
                return None
            answer = self._signing.sign(obj, wall, monotonic)
            if isinstance(answer, Entry):
                tally = answer.tally
                if not tally.from_signer % SAMPLED:
                    tally.measured.note_life(answer.end - wall)
                tally.from_signer += 1
                if obj[0].is_kept:
                    self._table.put(answer, alias)
                if scope is not None:
                    self._keep_in(scope, answer, wall, monotonic)
                return answer
            if answer is not None:
                self._refuse(obj, answer)
            return None

    def quick_all(
        self, objects: Sequence[S3Object], aliases: Sequence[str | None], scope: Scope | None
    ) -> list[Entry | None]:
        """Return what `quick` returns for each of *objects*."""
        wall, monotonic = self._time(), self._monotonic()
        if self._epochs.good_until <= monotonic:
            return [None] * len(objects)
        with self._lock:
            get, known = self._table.get, self._known
            has_met = scope is not None and bool(scope.met)  # most requests ask but once, for a page
            found = [
                None
                if (held := get(obj)) is None and not has_met
                else known(held, obj, alias, scope, wall, monotonic)
                for obj, alias in zip(objects, aliases, strict=True)
            ]
            missing = [place for place, entry in enumerate(found) if entry is None]
            cold = {objects[place]: place for place in missing}
            if self._is_shared:
                common = self._common_kinds(cold)
                cold = {obj: place for obj, place in cold.items() if obj.kind not in common}
            if self._flights.aloft:
                cold = {obj: place for obj, place in cold.items() if obj not in self._flights.aloft}
            places = iter(cold.values())
            for _, some in groupby(cold, _kind):  # of a page, all are of one kind mostly
                alike = list(some)
                there = list(islice(places, len(alike)))
                answers = self._signing.sign_all(alike, wall, monotonic)
                if answers is None:
                    continue
                entries, error = answers
                there = there[: len(entries)]
                self._keep_all(entries, [aliases[place] for place in there], scope, wall, monotonic)
                if error is not None:
                    self._refuse(alike[len(entries)], error)
                for place, entry in zip(there, entries, strict=True):
                    found[place] = entry
        for place in missing if len(cold) < len(missing) else ():
            if found[place] is None and objects[place] in cold:  # one call has asked for it twice
                found[place] = self.quick(objects[place], aliases[place], scope)
        return found

    def unspent(self, answers: Sequence[Entry | SigningError]) -> list[Entry | SigningError | None]:
        """Return *answers*, None for those that became SPENT while others of one call were waited for."""
        wall, monotonic = self._time(), self._monotonic()
        return [
            None if isinstance(answer, Entry) and answer.is_spent(wall, monotonic) else answer
            for answer in answers
        ]

    def is_servable(self, scope: Scope | None, entry: Entry, wall: float, monotonic: float) -> bool:
        """
        Return whether *entry* may be served to *scope*.

        An AGEING entry is, except to a scope that is older than half the AGEING window:
        a websocket or a job has no response after which it could be renewed. It gets a new
        one, unless it has had one lately that was no better.
        """
        # One with an alias was looked at since an epoch was raised, see `forget`: a page is all such.
        if entry.alias is None and not self._is_in_force(entry):
            return False
        if entry.is_fresh(wall, monotonic):
            return True
        if entry.is_spent(wall, monotonic):
            return False
        if scope is None or monotonic - scope.opened < entry.ageing / 2:
            return True
        return scope.is_at_rest(entry.object, monotonic)

    def is_behind(self) -> bool:
        """Return whether the epochs have to be read before anything is handed out."""
        return self._epochs.good_until <= self._monotonic()

    def forget(self) -> None:
        """Look closely at every URL from now on: an epoch was raised."""
        with self._lock:
            self._table.forget_aliases()

    def adopt(self, own: Entry, standing: Entry) -> None:
        """Serve *standing* from now on, which another process has shared, where *own* is served."""
        with self._lock:
            if self._table.get(own.object) is own:
                self._table.put(standing)
            else:  # it has not landed yet
                if len(self._early) >= _MOST_EARLY:
                    self._early.clear()
                self._early[own.object] = (own, standing)

    def lookup(self, scope: Scope | None, patience: Patience) -> Order:
        """Return the order for a URL that can be served to *scope*."""
        return Order(partial(self.is_servable, scope), patience)

    def renewal(self, patience: Patience) -> Order:
        """Return the order for a URL that is FRESH, whoever made it."""
        return Order(self._is_fresh, patience, is_renewal=True)

    def replacement(self, patience: Patience) -> Order:
        """Return the order for a URL that is newer than what this process holds."""

        def is_newer(entry: Entry, wall: float, monotonic: float) -> bool:
            held = self._table.get(entry.object)
            return held is not None and entry.end > held.end and self._is_fresh(entry, wall, monotonic)

        return Order(is_newer, patience, is_renewal=True)

    def remedy(self, failed: Entry, since: int, patience: Patience) -> Order:
        """Return the order for another URL than the one that has *failed*, signed *since* then if need be."""

        def is_other(entry: Entry, wall: float, monotonic: float) -> bool:
            return (
                entry.url != failed.url and not entry.is_spent(wall, monotonic) and self._is_in_force(entry)
            )

        return Order(is_other, patience, since=since)

    def drop(self, origin: str) -> None:
        """Hold no URL of *origin* any more."""
        with self._lock:
            self._table.drop(origin)

    async def resolve(
        self, objects: Sequence[S3Object], order: Order, scope: Scope | None, effects: Effects
    ) -> list[Entry | SigningError]:
        """Return the URL of each of *objects*, or why there is none, in their order."""
        answers: dict[S3Object, Entry | SigningError] = {}
        wanted = list(dict.fromkeys(objects))
        deadline = effects.deadline()
        while wanted:
            abandoned = []
            for portion in effects.portions(wanted):
                opened, joined = effects.flights.board(portion, order)
                await effects.launch(opened, self._fly)
                aloft = [flight for flight in (*opened, *joined) if not flight.is_over]
                if aloft:
                    await effects.join(aloft, deadline)
                abandoned += self._collect(opened, answers, order, scope, effects, are_mine=True)
                if joined:
                    abandoned += self._collect(joined, answers, order, scope, effects, are_mine=False)
            wanted = abandoned
        if len(answers) < len(objects):
            for obj, times in Counter(objects).items():
                _count_joined(answers[obj], scope, times - 1)  # asked for twice in one call
        return [answers[obj] for obj in objects]

    def _collect(
        self,
        flights: Sequence[Flight],
        answers: dict[S3Object, Entry | SigningError],
        order: Order,
        scope: Scope | None,
        effects: Effects,
        *,
        are_mine: bool,
    ) -> list[S3Object]:
        """Add what *flights* have brought to *answers*; return the objects for which it is of no use."""
        wall, monotonic = self._time(), self._monotonic()
        abandoned = []
        for flight in flights:
            obj, answer = flight.object, flight.answer
            if not flight.is_over:
                # Whoever leads it hangs: let the next one who wants the object lead.
                effects.flights.abandon([flight])
                answer = _waited(obj)
            if answer is None or not (are_mine or self._is_in_force(answer)):
                abandoned.append(obj)
                continue
            answers[obj] = answer
            if order.is_renewal:
                if are_mine:
                    self._count_renewal(obj, answer, wall, monotonic)
            elif isinstance(answer, SigningError):
                self._counts.of(obj.origin).failed += 1
            else:
                if not are_mine:
                    _count_joined(answer, scope, 1)
                if scope is not None:
                    _note_age(scope, answer, wall, monotonic)
                    if obj.kind.is_kept:
                        scope.remember(answer)
        return abandoned

    def _count_renewal(
        self, obj: S3Object, answer: Entry | SigningError, wall: float, monotonic: float
    ) -> None:
        if isinstance(answer, Entry) and answer.is_fresh(wall, monotonic):
            answer.tally.refreshed += 1
        else:
            self._counts.of(obj.origin).refresh_failed += 1

    async def _fly(self, flights: Sequence[Flight], effects: Effects) -> None:
        """Land every one of *flights*."""
        try:
            wanting = self._land_held(flights, effects)
            in_vain = 0
            while wanting and in_vain < _MOST_ATTEMPTS:
                left = await self._land_some(wanting, effects)
                in_vain = in_vain + 1 if len(left) == len(wanting) else 0
                wanting = left  # a batch may have more shapes of URL than plans are kept
            if wanting:
                effects.flights.land([(flight, _unready(flight.object)) for flight in wanting])
        except Exception as error:  # a defect of ours must not strand those who wait
            failure = SigningError(f"resolving failed: {type(error).__name__}")
            failure.__cause__ = error
            effects.flights.land([(flight, failure) for flight in flights])
        finally:
            effects.flights.abandon(flights)

    async def _land_some(self, flights: Sequence[Flight], effects: Effects) -> list[Flight]:
        """Land those of *flights* that can be: by what is shared, else by signing. Return the others."""
        kinds = {flight.object.kind: flight.object for flight in flights}  # what is true of one, is of all
        unready = [kind for kind, obj in kinds.items() if not self._signing.is_ready(obj)]
        if unready:
            refused = await effects.prepare([f.object for f in flights if f.object.kind in unready])
            effects.flights.land([(f, refused[f.object]) for f in flights if f.object in refused])
            flights = [flight for flight in flights if flight.object not in refused]
        common = self._common(flights)
        copies = await effects.read(common) if common else {}
        left, signed, shared, failed = [], {}, [], []
        wall, monotonic = self._time(), self._monotonic()
        for flight in flights:
            entry, version = copies.get(flight.object, (None, None))
            if entry is not None and flight.order.accepts(entry, wall, monotonic):
                shared.append((flight, entry))
                continue
            answer = self._signing.sign(flight.object, wall, monotonic, flight.order.since)
            if isinstance(answer, Entry):
                signed[flight] = Item(answer, version, flight.order.accepts)
            elif answer is not None:
                failed.append((flight, answer))
            else:
                left.append(flight)
        if shared:
            self._land(shared, effects, are_shared=True)
        if failed:
            effects.flights.land(failed)
        if signed:
            await self._land_signed(signed, effects)
        return left

    async def _land_signed(self, signed: Mapping[Flight, Item], effects: Effects) -> None:
        common = self._common(signed)
        standing: dict[Flight, Entry] = {}
        if common:
            found = await effects.publish(common, [signed[flight] for flight in common])
            standing = {
                flight: entry
                for flight, entry in zip(common, found, strict=True)
                if entry is not signed[flight].entry
            }
        self._land(list(standing.items()), effects, are_shared=True)
        own = [(flight, item.entry) for flight, item in signed.items() if flight not in standing]
        self._land(own, effects, are_shared=False)

    def _common(self, flights: Iterable[Flight]) -> list[Flight]:
        """Return those of *flights* whose URLs are read from the shared cache, and written to it."""
        kinds = self._common_kinds([flight.object for flight in flights])
        return [flight for flight in flights if flight.object.kind in kinds] if kinds else []

    def _common_kinds(self, objects: Iterable[S3Object]) -> set[Kind]:
        """Return the kinds of those of *objects* that are shared: which all of a kind are, or none."""
        kinds = {obj.kind: obj for obj in objects}
        return {kind for kind, obj in kinds.items() if self._is_common(obj)}

    def _is_common(self, obj: S3Object) -> bool:
        """Return whether the URL of *obj* is read from the shared cache, and written to it."""
        return self._is_shared and obj.kind.is_kept and self._signing.is_common(obj)

    def _land_held(self, flights: Sequence[Flight], effects: Effects) -> list[Flight]:
        """Land those of *flights* for which by now this process holds what will do; return the others."""
        wall, monotonic = self._time(), self._monotonic()
        held, left = [], []
        with self._lock:
            for flight in flights:
                entry, order = self._table.get(flight.object), flight.order
                if entry is None or not order.accepts(entry, wall, monotonic):
                    left.append(flight)
                    continue
                held.append((flight, entry))
                if not order.is_renewal:
                    entry.used = True
                    entry.tally.from_local += 1
                    if (account := order.patience.account) is not None:
                        account.from_local += 1
        if held:
            effects.flights.land(held)
        return left

    def _land(self, found: Sequence[tuple[Flight, Entry]], effects: Effects, *, are_shared: bool) -> None:
        """Land each flight with an entry that is new to this process."""
        wall = self._time()
        landed = []
        with self._lock:
            for flight, entry in found:
                if self._early:
                    own, standing = self._early.pop(entry.object, (None, entry))
                    if own is entry:
                        entry = standing
                landed.append((flight, entry))
                tally, order = entry.tally, flight.order
                if entry.object.kind.is_kept:
                    self._table.put(entry)
                tally.measured.note_life(entry.end - wall)
                if order.is_renewal:
                    continue
                account = order.patience.account
                if are_shared:
                    tally.from_shared += 1
                    if account is not None:
                        account.from_shared += 1
                else:
                    tally.from_signer += 1
                    if account is not None:
                        account.from_signer += 1
        effects.flights.land(landed)

    # The rest is called with the lock held.

    def _refuse(self, obj: S3Object, error: SigningError) -> NoReturn:
        self._counts.of(obj.origin).failed += 1
        self._note(error, obj)
        raise error

    def _keep_all(
        self,
        entries: Sequence[Entry],
        aliases: Sequence[str | None],
        scope: Scope | None,
        wall: float,
        monotonic: float,
    ) -> None:
        """Count *entries*, which were just signed and are of one kind, and hold them if they are to be."""
        if not entries:
            return
        tally = entries[0].tally
        for entry in entries[-tally.from_signer % SAMPLED :: SAMPLED]:
            tally.measured.note_life(entry.end - wall)
        tally.from_signer += len(entries)
        if entries[0].object.kind.is_kept:
            self._table.put_all(entries, aliases)
        if scope is not None:
            for entry in entries:
                self._keep_in(scope, entry, wall, monotonic)

    def _keep_in(self, scope: Scope, entry: Entry, wall: float, monotonic: float) -> None:
        _note_age(scope, entry, wall, monotonic)
        if scope.account is not None:
            scope.account.from_signer += 1
        if entry.object[0].is_kept:
            scope.remember(entry)

    def _known(
        self,
        held: Entry | None,
        obj: S3Object,
        alias: str | None,
        scope: Scope | None,
        wall: float,
        monotonic: float,
    ) -> Entry | None:
        """Return what this request has of *obj*, or this process as *held*, if it may be served."""
        entry, account = None, None
        if scope is not None:
            entry, account = scope.seen(obj), scope.account
        if entry is not None and self.is_servable(scope, entry, wall, monotonic):
            entry.tally.from_scope += 1
            if account is not None:
                account.from_scope += 1
        elif held is not None and self.is_servable(scope, held, wall, monotonic):
            entry = held
            entry.used = True
            entry.tally.from_local += 1
            if account is not None:
                account.from_local += 1
            if scope is not None and obj.kind.is_kept:
                scope.remember(entry)
        else:
            return None
        if entry.alias is None and alias is not None:
            self._table.name(entry, alias)
        return entry

    def _is_fresh(self, entry: Entry, wall: float, monotonic: float) -> bool:
        return entry.is_fresh(wall, monotonic) and self._is_in_force(entry)

    def _is_in_force(self, answer: Entry | SigningError) -> bool:
        """Return whether no epoch was raised since *answer* was signed."""
        if isinstance(answer, SigningError) or not self._epochs.any:
            return True
        return answer.date >= self._epochs.of(answer.object)


def _count_joined(answer: Entry | SigningError, scope: Scope | None, times: int) -> None:
    if isinstance(answer, Entry):
        answer.tally.from_flight += times
        if scope is not None and scope.account is not None:
            scope.account.from_flight += times


def _note_age(scope: Scope | None, new: Entry, wall: float, monotonic: float) -> None:
    """Note in *scope* that a *new* URL is no better than AGEING: asking again would not help."""
    if scope is not None and not new.is_fresh(wall, monotonic):
        scope.rest(new.object, monotonic + min(_LONGEST_REST, (new.ageing_until - wall) / 10))


def _waited(obj: S3Object) -> SigningError:
    return SigningError(f"origin {obj.origin!r}: waited {PATIENCE} s for a signature under way")


def _unready(obj: S3Object) -> SigningError:
    return SigningError(f"origin {obj.origin!r}: its credentials ended before a URL could be signed")
