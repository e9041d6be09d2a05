"""
Who asks for URLs and how: for one or many, in a thread or on an event loop.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from .effects import BlockingEffects, LoopThreadEffects, run_blocking, threadless
from .epochs import Epochs
from .errors import SigningError
from .local import Entry, Flights, Order, Patience
from .metrics import Counts
from .objects import S3Object
from .pool import Pool
from .resolver import Clock, Effects, Note, Resolver, Signs
from .scope import Scope
from .sharing import Shares, Sharing

if TYPE_CHECKING:
    import asyncio

    from .loops import AsyncioEffects

__all__ = ["Runner"]

T = TypeVar("T")

logger = logging.getLogger("presign_middleware.runner")

#: Threads in which event loops have credentials fetched: origins that hang at once without harm.
_MOST_THREADS = 8

#: Seconds that start-up waits for credentials.
_READY_WITHIN = 5.0

#: Seconds that whoever takes URLs back waits until the shared cache knows of it.
_TELL_WITHIN = 1.0

#: While some URLs of a call are waited for, others may become SPENT: times that it is looked for them.
_MOST_LOOKS = 3


class Runner:
    """Finds URLs for whoever asks: at once where that is possible, else by waiting as one may there."""

    def __init__(
        self,
        resolver: Resolver,
        signing: Signs,
        flights: Flights,
        counts: Counts,
        clock: Clock,
        epochs: Epochs,
        shared: Shares | None,
        patience: float,  # seconds for the shared cache
        note: Note,
    ) -> None:
        self._resolver = resolver
        #: Returns the URL of an object if nothing has to be waited for; see `Resolver.quick`.
        self.quick = resolver.quick
        self._signing = signing
        self._flights = flights
        self._counts = counts
        self._clock = clock
        self._epochs = epochs
        self._patience = patience
        self._note = note
        self._sharing = None if shared is None else Sharing(shared, resolver)
        self._blocking = BlockingEffects(signing, flights, self._sharing)
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncioEffects] = WeakKeyDictionary()
        self._pool = Pool(_MOST_THREADS, "presign")

    def wait_for(self, obj: S3Object, alias: str | None, scope: Scope | None) -> Entry:
        """Return the URL of *obj*, where `quick` has none. May block; raises SigningError."""
        return run_blocking(self._fill([obj], [None], [alias], scope, self._here()))[0]

    async def await_for(self, obj: S3Object, alias: str | None, scope: Scope | None) -> Entry:
        """Return what `wait_for` returns, without ever blocking the event loop."""
        effects = self._effects()
        if obj in self._flights.aloft:  # nobody else is to wait for what has begun already
            return (await self._fill([obj], [None], [alias], scope, effects))[0]
        answer = None
        while answer is None:  # what was to answer has been cancelled
            answer = await effects.ask(obj, alias, scope, self._answer_several)
        return self._each([obj], [answer])[0]

    def find_promptly(self, obj: S3Object, scope: Scope | None) -> Entry | None:
        """
        Return the URL of *obj*; None on an event loop's thread, where that takes preparation.

        That is begun in another thread. Raises SigningError.
        """
        entry = self.quick(obj, None, scope)
        if entry is not None:
            return entry
        if not _is_on_a_loop() or self._signing.is_ready(obj):
            return self.wait_for(obj, None, scope)
        with suppress(RuntimeError):  # no more threads, or the interpreter is ending
            self._pool.submit(self._signing.prepare, [obj])
        return None

    def find_all(
        self, objects: Sequence[S3Object], aliases: Sequence[str | None], scope: Scope | None
    ) -> list[Entry]:
        """Return the URL of each of *objects*. May block; raises the first SigningError."""
        entries = self._resolver.quick_all(objects, aliases, scope)
        if None not in entries:
            return entries  # type: ignore[return-value]  # as the line before says
        return run_blocking(self._fill(objects, entries, aliases, scope, self._here()))

    async def afind_all(
        self, objects: Sequence[S3Object], aliases: Sequence[str | None], scope: Scope | None
    ) -> list[Entry]:
        """Return what `find_all` returns, without ever blocking the event loop."""
        entries = self._resolver.quick_all(objects, aliases, scope)
        if None not in entries:
            return entries  # type: ignore[return-value]  # as the line before says
        return await self._fill(objects, entries, aliases, scope, self._effects())

    def renew(self, entries: Sequence[Entry]) -> list[Entry | SigningError]:
        """Return URLs in the place of *entries*, FRESH if they can be. May block."""
        self._signing.freshen(_bound(entries))
        order = self._resolver.renewal(self._new_patience())
        return run_blocking(self._resolve([entry.object for entry in entries], order, self._here()))

    async def arenew(self, entries: Sequence[Entry]) -> list[Entry | SigningError]:
        """Return what `renew` returns, without ever blocking the event loop."""
        effects = self._effects()
        await effects.freshen(_bound(entries))
        order = self._resolver.renewal(self._new_patience())
        return await self._resolve([entry.object for entry in entries], order, effects)

    def replace(self, obj: S3Object) -> Entry:
        """Return a newer URL of *obj* than this process holds. May block; raises SigningError."""
        order = self._resolver.replacement(self._new_patience())
        return self._each([obj], run_blocking(self._resolve([obj], order, self._here())))[0]

    async def areplace(self, obj: S3Object) -> Entry:
        """Return what `replace` returns, without ever blocking the event loop."""
        order = self._resolver.replacement(self._new_patience())
        return self._each([obj], await self._resolve([obj], order, self._effects()))[0]

    def remedy(self, obj: S3Object, failed: Entry, since: int, scope: Scope | None, *, renews: bool) -> Entry:
        """
        Return a URL of *obj* in the place of one that S3 has refused. May block; raises SigningError.

        *since*: the earliest date, by S3's clock, of one that is signed for it. *renews*: newer
        credentials are asked for.
        """
        if renews:
            self._signing.freshen([failed])
        order = self._resolver.remedy(failed, since, scope or self._new_patience())
        return self._each([obj], run_blocking(self._resolve([obj], order, self._here(), scope)))[0]

    async def aremedy(
        self, obj: S3Object, failed: Entry, since: int, scope: Scope | None, *, renews: bool
    ) -> Entry:
        """Return what `remedy` returns, without ever blocking the event loop."""
        effects = self._effects()
        if renews:
            await effects.freshen([failed])
        order = self._resolver.remedy(failed, since, scope or self._new_patience())
        return self._each([obj], await self._resolve([obj], order, effects, scope))[0]

    def drop(self, origin: str) -> None:
        """Hold no URL of *origin* any more."""
        self._resolver.drop(origin)

    def take_back(self, raise_epoch: Callable[[], None]) -> None:
        """Have *raise_epoch* raise one, here and in the fleet. May block for a second."""
        run_blocking(self._take_back(raise_epoch, self._here()))

    async def atake_back(self, raise_epoch: Callable[[], None]) -> None:
        """Do what `take_back` does, without ever blocking the event loop."""
        await self._take_back(raise_epoch, self._effects())

    def sign_once(self, obj: S3Object, headers: Mapping[str, str]) -> str:
        """Return a URL that signs *headers* too, for one request alone. May block; raises SigningError."""
        try:
            url = self._signing.sign_once(obj, headers)
        except SigningError as error:
            self._counts.of(obj.origin).failed += 1
            self._note(error, obj)
            raise
        self._counts.of(obj.origin).from_signer += 1
        return url

    async def asign_once(self, obj: S3Object, headers: Mapping[str, str]) -> str:
        """Return what `sign_once` returns, without ever blocking the event loop."""
        return await self.in_thread(obj, self.sign_once, obj, headers)

    async def in_thread(self, obj: S3Object, work: Callable[..., T], *args: Any) -> T:
        """Do *work*, which is for *obj*, in a thread, and return what it does. Raises SigningError."""
        try:
            doing = self._pool.submit(work, *args)
        except RuntimeError as error:
            self._counts.of(obj.origin).failed += 1
            failure = threadless(obj, error)
            self._note(failure, obj)
            raise failure from error
        import asyncio

        return await asyncio.wrap_future(doing)

    async def amake_ready(self, objects: Sequence[S3Object]) -> None:
        """Connect to the shared cache, and prepare *objects*, within a few seconds; log what fails."""
        if self._sharing is not None:
            self._sharing.connect()
        effects = self._effects()
        await self._catch_up(effects, Patience(_TELL_WITHIN))
        import asyncio

        prepared = [effects.prepare([obj]) for obj in objects]
        try:
            async with asyncio.timeout(_READY_WITHIN):
                refused = await asyncio.gather(*prepared)  # none of them raises
        except TimeoutError:
            logger.warning(
                "not all origins could be made ready within %g s; requests will wait", _READY_WITHIN
            )
            return
        for error in [error for each in refused for error in each.values()]:
            logger.warning("not ready: %s", error)

    def close(self) -> None:
        """Let go of threads, once what they do has ended, and of connections."""
        self._pool.close()
        if self._sharing is not None:
            self._sharing.close()

    async def _fill(
        self,
        objects: Sequence[S3Object],
        entries: Sequence[Entry | None],
        aliases: Sequence[str | None],
        scope: Scope | None,
        effects: Effects,
    ) -> list[Entry]:
        """Return *entries*, and in their gaps what is waited for. Raises the first SigningError."""
        return self._each(objects, await self._answers(objects, entries, aliases, scope, effects))

    async def _answer_several(
        self,
        objects: Sequence[S3Object],
        aliases: Sequence[str | None],
        scope: Scope | None,
        effects: Effects,
    ) -> Sequence[Entry | SigningError]:
        """Return the URL of each of *objects*, or why there is none: several callers' of one scope."""
        answers = await self._answers(objects, [None] * len(objects), aliases, scope, effects)
        known: dict[S3Object, Entry | SigningError] = {}
        for obj, answer in zip(objects, answers, strict=True):
            if isinstance(answer, SigningError) and known.get(obj) is answer:  # each caller is counted
                self._counts.of(obj.origin).failed += 1
            known[obj] = answer
        return answers

    async def _answers(
        self,
        objects: Sequence[S3Object],
        entries: Sequence[Entry | SigningError | None],
        aliases: Sequence[str | None],
        scope: Scope | None,
        effects: Effects,
    ) -> Sequence[Entry | SigningError]:
        """Return *entries*, and in their gaps what is waited for, or why there is none."""
        if scope is not None:
            scope.regain(self._patience, self._clock.monotonic())
        order = self._resolver.lookup(scope, self._new_patience() if scope is None else scope)
        account = order.patience.account
        if account is not None:
            account.wait(self._clock.monotonic())
        try:
            if self._resolver.is_behind():
                await self._catch_up(effects, order.patience)
                entries = [self._at_once(*asked, scope) for asked in zip(objects, aliases, strict=True)]
            answers: Sequence[Entry | SigningError] = ()
            for _ in range(_MOST_LOOKS):
                missing = [obj for obj, entry in zip(objects, entries, strict=True) if entry is None]
                waited = iter(await self._resolver.resolve(missing, order, scope, effects))
                answers = [next(waited) if entry is None else entry for entry in entries]
                entries = self._resolver.unspent(answers)
                if None not in entries:
                    break
            return answers
        finally:
            if account is not None:
                account.go_on(self._clock.monotonic())

    def _at_once(self, obj: S3Object, alias: str | None, scope: Scope | None) -> Entry | SigningError | None:
        try:
            return self.quick(obj, alias, scope)
        except SigningError as error:
            return error

    def _each(self, objects: Sequence[S3Object], answers: Sequence[Entry | SigningError]) -> list[Entry]:
        """Return *answers*, those of *objects*, or raise the first that is an error."""
        entries = []
        for obj, answer in zip(objects, answers, strict=True):
            if isinstance(answer, SigningError):
                # A copy: those who waited for one flight must not share a traceback, nor notes.
                error = SigningError(*answer.args)
                self._note(error, obj)
                raise error from answer.__cause__
            entries.append(answer)
        return entries

    async def _resolve(
        self, objects: Sequence[S3Object], order: Order, effects: Effects, scope: Scope | None = None
    ) -> list[Entry | SigningError]:
        if self._resolver.is_behind():
            await self._catch_up(effects, order.patience)
        return await self._resolver.resolve(objects, order, scope, effects)

    async def _take_back(self, raise_epoch: Callable[[], None], effects: Effects) -> None:
        patience = Patience(_TELL_WITHIN)
        # The new epoch must be later than what others have raised, be it in this very second.
        await self._catch_up(effects, patience, anew=True)
        raise_epoch()
        self._resolver.forget()
        await effects.catch_up(patience, anew=True)

    async def _catch_up(self, effects: Effects, patience: Patience, *, anew: bool = False) -> None:
        """Know what other processes have taken back, as far as *patience* goes."""
        before = patience.left
        # Not all of it, or one bad server of several would leave none for the URLs.
        seconds = 0 if patience.is_over else before / 2
        allowed = Patience(seconds)
        await effects.catch_up(allowed, anew=anew)
        patience.left = min(patience.left, before - seconds + allowed.left)
        if self._resolver.is_behind():  # the shared cache is down or slow, and may only help
            self._counts.epochs_unread += 1
            self._epochs.rely(self._clock.monotonic(), was_read=False)

    def _here(self) -> BlockingEffects:
        """Return how a blocking call waits in this thread."""
        if not _is_on_a_loop():
            return self._blocking
        return LoopThreadEffects(self._signing, self._sharing)

    def _effects(self) -> "AsyncioEffects":
        import asyncio  # which a blocking program is spared, like what needs it

        loop = asyncio.get_running_loop()
        effects = self._loops.get(loop)
        if effects is None:
            from .loops import AsyncioEffects

            for ended in self._loops.keyrefs():  # what a loop left unfinished when it was closed keeps it
                if (other := ended()) is not None and other.is_closed():
                    self._loops.pop(other, None)
            effects = AsyncioEffects(self._signing, self._flights, self._sharing, self._pool)
            self._loops[loop] = effects
        return effects

    def _new_patience(self) -> Patience:
        return Patience(self._patience)


def _bound(entries: Sequence[Entry]) -> list[Entry]:
    """Return those of *entries* that only newer credentials make live longer."""
    return [entry for entry in entries if entry.reason in ("credentials", "assumed")]


def _is_on_a_loop() -> bool:
    """Return whether this is the thread of a running event loop."""
    asyncio = sys.modules.get("asyncio")  # nobody has a loop before it is imported
    # The public function raises, which costs 1 us.
    return asyncio is not None and asyncio._get_running_loop() is not None
