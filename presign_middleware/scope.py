"""
One incoming request: what it has resolved, and with which presigner.

A scope is an object in a context variable, so it reaches everything that runs on
the request's behalf: sync endpoints in a thread pool, child tasks, ``gather``,
``to_thread``. It holds mutable state that all of them share.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .account import Account
from .local import Patience

if TYPE_CHECKING:
    from .local import Entry
    from .objects import S3Object

__all__ = [
    "Holding",
    "Scope",
    "Setting",
    "ambient",
    "catching",
    "current",
    "given",
    "make_current",
    "paused",
]

T = TypeVar("T")

#: A scope that serves a websocket or a job for hours must not grow without bound.
MOST_OBJECTS = 10_000

#: Seconds for which no page is open, but a websocket or a job is.
_LONG = 10.0

#: Such a scope waits for the shared cache for this part of its time at most.
_WAITING = 1 / 20

_current: ContextVar[Scope | None] = ContextVar("presign_scope", default=None)
_paused: ContextVar[bool] = ContextVar("presign_paused", default=False)


#: Presigners that hooks use where there is no scope; put there by ``intercept(presigner=...)``.
ambient: list[Any] = []  # Presigner is a room above this one

#: What a scope has met that has met nothing yet.
_NOTHING: OrderedDict[S3Object, Entry] = OrderedDict()

#: Return the scope of the request being served here, or None; and make one that. The context
#: variable's own methods, because the one is asked for on every URL, the other on every request.
current, make_current = _current.get, _current.set


class Scope(Patience):
    """
    One request and the URLs it has met. A context manager, sync and async.

    After it has ended it keeps naming its presigner, for tasks that outlive the
    request, but remembers nothing any more. It is the request's patience itself, since
    every request opens one, and few of them wait for anything.
    """

    # Slots for what every request has; the rest are class attributes, since few scopes ever differ in these.
    __slots__ = ("__dict__", "_outer", "met", "opened", "presigner")

    presigner: Any  #: a Presigner, which is a room above this one
    opened: float  #: monotonic seconds
    met: OrderedDict[S3Object, Entry] | None  #: what was resolved; None: it is not open
    is_by_boto3: bool | None = None  #: whether boto3 signs for it; None: nobody had to know so far
    _outer: Scope | None
    _at_rest: dict[S3Object, float] | None = None
    _patient_from: float | None = None  # monotonic; None: once it has been open for long

    # Whoever makes one fills it: a function of Python would be one call more for each request.
    if TYPE_CHECKING:

        def __init__(self) -> None: ...

    else:
        __init__ = object.__init__

    @staticmethod
    def new(presigner: Any, opened: float, patience: float) -> Scope:
        """Return one that is still to begin. It has *patience*, in seconds, with the shared cache."""
        scope = Scope()
        scope.presigner, scope.opened = presigner, opened
        scope.left = scope._whole = patience
        scope.account = scope.met = scope._outer = None
        return scope

    @staticmethod
    def opener(presigner: Any, monotonic: Callable[[], float], patience: float) -> Callable[[], Scope]:
        """
        Return what opens a scope as `new` makes, for each request: it is not the current one yet.

        The same as `begin` after `new`, at once.
        """

        def opened() -> Scope:
            scope = Scope()
            scope.presigner, scope.opened = presigner, monotonic()
            scope.left = scope._whole = patience
            scope.account = None
            scope.met = _NOTHING
            scope._outer = outer = current()
            if outer is not None:
                scope._be_part_of(outer)
            return scope

        return opened

    @property
    def ended(self) -> bool:
        """Whether the request is over; also before it has begun."""
        return self.met is None

    def regain(self, patience: float, monotonic: float) -> None:
        """Be as patient as at first if this has been open for long, and has not just been so."""
        patient_from = self.opened + _LONG if self._patient_from is None else self._patient_from
        if monotonic >= patient_from:
            self.left = patience
            self._patient_from = monotonic + patience / _WAITING

    def seen(self, obj: S3Object) -> Entry | None:
        """Return what this request has resolved *obj* to."""
        met = self.met
        entry = met.get(obj) if met is not None else None
        if met is None or entry is None:
            return None
        try:
            met.move_to_end(obj)
        except KeyError:  # another thread of this request dropped it just now
            return None
        return entry

    def remember(self, entry: Entry) -> None:
        """Keep *entry* for the rest of this request; the least recently used of 10,000 leaves."""
        met = self.met  # another thread may end this request just now
        if met is None:
            return
        if met is _NOTHING:
            met = self.met = OrderedDict()
        met[entry.object] = entry
        if len(met) > MOST_OBJECTS:
            met.popitem(last=False)

    #: The same, where `Presigner.url` hands out what is held: `_Telling` takes note of it.
    hold, give = seen, remember

    def tell(self, account: Account) -> None:
        """Keep *account* of what this request is given."""
        self.account = account
        # A class of its own: those that tell nothing are to pay nothing, not for one URL.
        self.__class__ = _Telling

    def rest(self, obj: S3Object, until: float) -> None:
        """Be content with an AGEING URL of *obj* until then (monotonic): renewing it brought none better."""
        if self._at_rest is None or len(self._at_rest) >= MOST_OBJECTS:
            self._at_rest = {}
        self._at_rest[obj] = until

    def is_at_rest(self, obj: S3Object, monotonic: float) -> bool:
        """Return whether an AGEING URL of *obj* has to do for now."""
        return self._at_rest is not None and monotonic < self._at_rest.get(obj, 0)

    def arm(self, draw: Callable[[], bool]) -> bool:
        """Return whether boto3 signs for this request: as *draw* says, once for all that asks in it."""
        is_by_boto3 = self.is_by_boto3
        if is_by_boto3 is None:
            outer = self._outer
            is_part = outer is not None and outer.presigner is self.presigner
            drawn = outer.arm(draw) if is_part and outer is not None else draw()
            # At once, or two threads of one request would be in different arms.
            is_by_boto3 = vars(self).setdefault("is_by_boto3", drawn)
        return is_by_boto3

    def begin(self) -> Scope:
        """Be the current scope from now on, until `end`."""
        if self.met is not None:
            raise RuntimeError("this scope is open already: each request or job has one of its own")
        self._outer = outer = current()
        if outer is not None:
            self._be_part_of(outer)
        make_current(self)
        self.met = _NOTHING
        return self

    def end(self) -> None:
        """Have the scope that was current before be so again, and remember nothing any more."""
        # Not by a token: a WSGI iterable may be closed in another context.
        make_current(self._outer)
        # As `forget` does, but each request ends here: without a further call.
        self._outer = self.met = None

    def forget(self) -> None:
        """Remember nothing any more, and leave it to others what scope is current."""
        self._outer = None  # or a job that starts its successor would keep every scope alive
        self.met = None

    def _be_part_of(self, outer: Scope) -> None:
        if outer.account is not None and outer.presigner is self.presigner:
            self.tell(outer.account)

    def __enter__(self) -> Scope:
        return self.begin()

    def __exit__(self, *exc: object) -> None:
        self.end()

    async def __aenter__(self) -> Scope:
        return self.begin()

    async def __aexit__(self, *exc: object) -> None:
        self.end()


class _Telling(Scope):
    """A scope that keeps an account. The rest of what it is given is noted where that is decided."""

    __slots__ = ()

    def hold(self, obj: S3Object) -> Entry | None:
        entry = self.seen(obj)
        # One without an alias is not held any more: the resolver is asked next.
        if entry is not None and entry.alias is not None and self.account is not None:
            self.account.from_scope += 1
            self.account.hand_out(entry)
        return entry

    def give(self, entry: Entry) -> None:
        self.remember(entry)
        if self.account is not None:
            self.account.from_local += 1
            self.account.hand_out(entry)


def given(scope: Scope | None, entries: Sequence[Entry]) -> Sequence[Entry]:
    """Return *entries*, noted as handed out to the request of *scope*."""
    if scope is not None and scope.account is not None:
        for entry in entries:
            scope.account.hand_out(entry)
    return entries


class Setting:
    """What holds for some code, wherever it runs: the *scope* it is in, and whether that is paused."""

    __slots__ = ("_is_paused", "scope")

    def __init__(self) -> None:
        """Begin with what holds here."""
        self.scope, self._is_paused = _current.get(), _paused.get()

    def enter(self) -> None:
        """Have it hold for what runs here from now on."""
        # To look is cheap, to set is not.
        if self.scope is not _current.get():
            _current.set(self.scope)
        if self._is_paused is not _paused.get():
            _paused.set(self._is_paused)

    def run(self, work: Callable[..., T], *args: Any) -> T:
        """
        Run *work* in it, whatever context this is, and leave that context as it was.

        What holds in the end is what the next one is run in: *work* may open a scope, or pause, and be
        a step of something longer.
        """
        # All in one function, since a WSGI request comes here for each part of its body.
        scope, is_paused = _current.get(), _paused.get()
        if self.scope is not scope:
            _current.set(self.scope)
        if self._is_paused is not is_paused:
            _paused.set(self._is_paused)
        try:
            return work(*args)
        finally:
            self.scope, self._is_paused = _current.get(), _paused.get()
            if self.scope is not scope:
                _current.set(scope)
            if self._is_paused is not is_paused:
                _paused.set(is_paused)


def catching() -> bool:
    """Return whether hooks may sign here: false inside `paused`."""
    return not _paused.get()


class Holding(Generic[T]):
    """A context manager in which *variable* is *value*; to be entered once."""

    # A class, since each fetch enters a few: a generator takes more than twice as long.
    __slots__ = ("_before", "_value", "_variable")

    def __init__(self, variable: ContextVar[T], value: T) -> None:
        self._variable = variable
        self._value = value

    def __enter__(self) -> None:
        self._before = self._variable.get()
        self._variable.set(self._value)

    def __exit__(self, *exc: object) -> None:
        self._variable.set(self._before)  # not reset(): a generator may be closed in another context


@contextmanager
def paused() -> Iterator[None]:
    """
    Catch nothing inside, nor in tasks and threads that carry its context.

    ``asyncio.to_thread`` and frameworks' thread pools carry it; a bare ``threading.Thread``
    does not before Python 3.14: enter ``paused()`` in its target. In a sync generator each part
    of which is taken in a thread, as Starlette and FastAPI do, it ends at the next ``yield``.
    """
    with Holding(_paused, True):
        yield
