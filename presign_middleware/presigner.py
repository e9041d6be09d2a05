"""
`Presigner`: the face of the library.

It turns targets into objects, asks the resolver, and hands out URLs. What it does
not hold is decided in `resolver`, signed in `signing` and waited for in `effects`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, overload
from weakref import WeakSet

from .errors import ConfigurationError
from .scope import Scope, current, given, paused

if TYPE_CHECKING:
    from .addresses import Addresses
    from .answering import Answering
    from .epochs import Epochs
    from .errors import SigningError
    from .explaining import Explaining, Explanation
    from .healing import Attempt
    from .local import Entry
    from .measuring import Measuring
    from .objects import S3Object, SignedURL
    from .origins import Origin
    from .policy import Policy
    from .presence import Presence
    from .resolver import Clock
    from .seal import Seal, Secrets

__all__ = ["Presigner", "notice_fork"]

#: Origins that are made ready at start-up; tenants may be many.
_MOST_READY = 32

#: Targets that are warmed with one round trip.
_CHUNK = 500

#: Parameters of a URL under boto3's names.
Params = Mapping[str, Any] | None

T = TypeVar("T")


class _Late(Generic[T]):
    """A side of a presigner that is imported and made when it is first asked for: most never are."""

    def __init__(self, make: Callable[[Presigner], T]) -> None:
        self._make = make
        self._name = make.__name__

    @overload
    def __get__(self, presigner: None, owner: type) -> _Late[T]: ...
    @overload
    def __get__(self, presigner: Presigner, owner: type) -> T: ...
    def __get__(self, presigner: Presigner | None, owner: type) -> T | _Late[T]:
        if presigner is None:
            return self
        # Not functools.cached_property, whose lock is everybody's before Python 3.12: a fork may find it
        # held by a thread that it has not.
        sides: dict[str, T] = presigner._sides
        with presigner._making:
            if self._name not in sides:
                sides[self._name] = self._make(presigner)
            side = sides[self._name]
            setattr(presigner, self._name, side)  # which is found before this is asked again
        return side


class Presigner:
    """
    Presigned URLs for the objects of some origins.

    ::

        presigner = Presigner(Origin("media", bucket="acme-media", prefix="public/", region="eu-west-1"))
        presigner.url("s3://acme-media/public/cat.jpg")

    An origin may be written short, ``"s3://acme-media/public/?region=eu-west-1"``.
    One presigner serves any number of threads and event loops. What *shared* can be is
    told in `addresses`.

    Raises:
        ConfigurationError: Settings that cannot work; named in the message.
    """

    # Slots, since a URL that is held is handed out in the time that five look-ups of attributes take;
    # and a dict for what is made when it is asked for.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_arms",
        "_began",
        "_by_alias",
        "_clock",
        "_configured",
        "_epochs",
        "_flights",
        "_is_shown",
        "_local_size",
        "_making",
        "_monotonic",
        "_namespace",
        "_resolver",
        "_rollout",
        "_runner",
        "_seal",
        "_shared",
        "_sides",
        "_signed_url",
        "_signing",
        "_table",
        "_targets",
        "_time",
        "catching",
        "counts",
        "falls_back",
        "healing",
        "linking",
        "opened_anew",
        "origins",
        "policy",
        "renewals",
        "shared",
        "writing",
    )

    #: Every presigner of this process, for hooks that meet a covered fetch outside any scope.
    alive: ClassVar[WeakSet[Presigner]] = WeakSet()

    _from_env: ClassVar[dict[tuple[tuple[str, str], ...], Presigner]] = {}
    _from_env_lock: ClassVar[Lock] = Lock()

    def __init__(
        self,
        *origins: Origin | str,
        shared: str | None = None,  # "memcached://host:port,host:port", ...; None: each process by itself
        policy: Policy | None = None,
        namespace: str = "",  # applications with different ones share nothing
        secret: Secrets | None = None,  # 32 bytes or more, seals what is shared; of several the first seals
        local_size: int = 100_000,  # URLs this process holds, about 1 KB each
        rollout: float | os.PathLike[str] = 1.0,  # share of requests that use it; or a file that says so
        clock: Clock = time,
    ) -> None:
        from dataclasses import replace

        from .credentials import effective
        from .origins import Origin, check_fallbacks
        from .policy import Policy
        from .rollout import Rollout

        if not isinstance(namespace, str):
            raise ConfigurationError(f"namespace must be text, got {type(namespace).__name__}")
        if not namespace.isprintable():
            raise ConfigurationError(f"namespace must be text that can be printed, got {namespace!r}")
        if local_size < 1:
            raise ConfigurationError(f"local_size must be 1 or more URLs, got {local_size!r}")
        if not origins:
            raise ConfigurationError(
                'a presigner needs an origin, such as Origin("media", bucket="acme-media")'
            )
        given = [Origin.parse(origin) if isinstance(origin, str) else origin for origin in origins]
        for each in (policy, *[origin.policy for origin in given]):
            if not isinstance(each, Policy | None):
                raise ConfigurationError(f"policy must be a Policy, got {type(each).__name__}")
        self.policy = policy or Policy()
        check_fallbacks(given)
        known = effective([replace(o, policy=o.policy or self.policy) for o in given])
        if len({origin.name for origin in known}) < len(known):
            raise ConfigurationError(f"origins need different names, got {', '.join(o.name for o in known)}")
        self._configured = known
        self._sides: dict[str, Any] = {}  # those that are made when they are asked for
        self._shared = None if shared is None else _addresses(shared)
        self._namespace = namespace
        self._local_size = local_size
        self._clock = clock
        #: What a forked child calls when all of this is its own.
        self.opened_anew: list[Callable[[], None]] = []
        self._seal = None if secret is None else _seal(secret, clock)
        self._rollout = Rollout(rollout)
        self._is_shown = os.environ.get("PRESIGN_DASHBOARD", "") not in ("", "0")
        self._open()
        if self._shared is not None and secret is None:  # not in _open(): once, not in each child
            from .seal import tell_if_in_clear

            for host, port in self._shared.servers:
                tell_if_in_clear(host, is_private=port is None or self._shared.tls is not None)
        Presigner.alive.add(self)

    def _open(self, parent: Epochs | None = None) -> None:
        """Make what belongs to one process: counters, URLs, locks, threads, flights."""
        # Imported with the first presigner and not with its class, as are the rooms of `__init__`: whoever
        # imports a program's modules, to look into them or to run one of its commands, may make none.
        from .catching import Catching
        from .epochs import Epochs
        from .healing import Healing
        from .linking import Linking
        from .local import Flights, Table
        from .metrics import Counts
        from .renewal import Renewals
        from .resolver import Resolver
        from .rollout import Arms
        from .runner import Runner
        from .signed import signed_url
        from .signing import Signing
        from .targets import Targets
        from .writing import Writing

        for name in self._sides:  # the parent's: this is a fork, which may have come before it was set
            vars(self).pop(name, None)
        self._sides = {}
        self._began, self._making = self._clock.time(), Lock()
        # As they are configured: what S3 tells of them is learned anew in each process.
        origins, policy, namespace, clock = self._configured, self.policy, self._namespace, self._clock
        self.origins = {origin.name: origin for origin in origins}
        #: Whether links may lead elsewhere for a while, so that a text alone names no URL.
        self.falls_back = any(origin.fallback for origin in origins)
        self._time, self._monotonic = clock.time, clock.monotonic
        self.counts = counts = Counts.by_origin(self.origins)
        self._targets = targets = Targets(origins)
        self._table = table = Table(self._local_size, counts)
        self._flights = flights = Flights()
        skews = {origin.name: origin.policy.skew for origin in origins if origin.policy}
        lag, is_shared = policy.invalidation_lag, self._shared is not None
        self._epochs = epochs = Epochs(skews, lag, counts, is_shared=is_shared, parent=parent)
        self._signing = signing = Signing(origins, counts, clock, epochs)
        self._resolver = resolver = Resolver(
            signing, table, flights, counts, clock, epochs=epochs, is_shared=is_shared, note=self._note
        )
        shared = None
        if self._shared is not None:
            from .shared import Shared  # which imports pymemcache

            shared = Shared(
                self._shared, namespace, signing, epochs, resolver.forget, self._seal, counts, clock
            )
        #: The memcached servers and what lies in them; None: there are none.
        self.shared = shared
        patience = policy.shared_patience
        self._runner = runner = Runner(
            resolver, signing, flights, counts, clock, epochs, shared, patience, self._note
        )
        held = self._relied if is_shared else table.by_alias
        self._arms = arms = Arms(self._rollout, runner, signing, counts, clock, self._note, held, self._rely)
        self.healing = healing = Healing(
            self.origins, targets, signing, runner, arms, epochs, counts, clock, self._scope, self._short
        )
        self.renewals = Renewals(runner, table.get, clock, policy.refresh_limit)
        self.catching = Catching(targets, table, healing, counts)
        self.linking = Linking(targets, healing, arms, self._scope)
        self.writing = Writing(origins, targets, runner, self._invalidation, counts)
        self._signed_url = signed_url  # an import at each call would take a fifth of its time
        if self._is_shown:
            self.presence.begin()

    @_Late
    def answering(self) -> Answering:
        from .answering import Answering

        return Answering(self._targets, self._signing, self._runner, self._arms, self.counts, self._scope)

    @_Late
    def explaining(self) -> Explaining:
        from .explaining import Explaining

        return Explaining(
            self._targets,
            self._table,
            self._signing,
            self.healing,
            self._resolver,
            self._epochs,
            self._arms,
            self.shared,
            self._namespace,
            self._clock,
            self._scope,
        )

    @_Late
    def measuring(self) -> Measuring:
        from .measuring import Measuring

        return Measuring(self.counts, self._table, self._local_size, self._signing.sources, self.shared)

    @_Late
    def presence(self) -> Presence:
        from .presence import Presence

        return Presence(
            self.counts,
            self._table,
            self._signing,
            self.healing,
            lambda: list(self.origins),
            self.shared,
            self._namespace,
            self._clock,
            self._began,
        )

    @classmethod
    def from_env(cls) -> Presigner:
        """
        Return the presigner that the environment describes: one per process and environment.

        ``PRESIGN_ORIGINS`` holds one or more origins in their short form, parted by
        spaces (``media=s3://acme-media/public/?region=eu-west-1``). Each setting of
        `Policy` is a variable too, ``PRESIGN_LIFETIME``, ``PRESIGN_MIN_REMAINING``, ...,
        and so are ``PRESIGN_SHARED``, ``PRESIGN_NAMESPACE``, ``PRESIGN_SECRET`` (several are
        parted by spaces), ``PRESIGN_LOCAL_SIZE`` and ``PRESIGN_ROLLOUT``, or ``PRESIGN_ROLLOUT_FILE``.

        Raises:
            ConfigurationError: ``PRESIGN_ORIGINS`` is absent, or a variable cannot work.
        """
        from .environment import settings

        with cls._from_env_lock:
            said = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("PRESIGN_")))
            presigner = cls._from_env.get(said)
            if presigner is None:
                origins, policy, options = settings(dict(said))
                presigner = cls._from_env[said] = cls(*origins, policy=policy, **options)
            return presigner

    def url(
        self,
        target: str,
        method: str = "GET",
        params: Params = None,
        lifetime: int | None = None,
    ) -> str:
        """
        Return a URL that fetches *target* without credentials.

        *target* is ``s3://bucket/key``, the key as it is, or an unsigned https URL of an
        origin, percent-encoded. *params* are boto3's names, such as
        ``{"ResponseContentDisposition": "attachment"}``. *lifetime* is in whole seconds.

        Blocks while credentials are being fetched or a plan is learned, and for at most
        ``policy.shared_patience`` where the shared cache is asked. Safe to call from threads;
        on an event loop's thread prefer `aurl`.

        Raises:
            NotCovered: No origin holds *target*, or it must not be signed.
            ConfigurationError: *params*, *method* or *lifetime* cannot work.
            SigningError: No credentials, or the signer refused.
        """
        # The shortest way, and the most walked: a text seen before, FRESH by both clocks.
        # Called by local names: as methods of self they would be sought on the class first.
        find, time, monotonic = self._by_alias, self._time, self._monotonic
        entry = find(target)
        if (
            entry is not None
            and method == "GET"
            and params is None
            and lifetime is None
            and entry.born <= time() < entry.fresh_until
            and monotonic() < entry.fresh_until_monotonic
        ):
            scope = current()
            if scope is None or scope.presigner is not self:
                entry.tally.from_local += 1
                entry.used = True
                return entry.url
            seen = scope.hold(entry.object)
            if seen is entry:
                entry.tally.from_scope += 1
                return entry.url
            if seen is None:
                scope.give(entry)
                entry.tally.from_local += 1
                entry.used = True
                return entry.url
        return self._entry(target, method, params, lifetime).url

    async def aurl(
        self,
        target: str,
        method: str = "GET",
        params: Params = None,
        lifetime: int | None = None,
    ) -> str:
        """Return what `url` returns, without ever blocking the event loop."""
        return (await self._aentry(target, method, params, lifetime)).url

    def urls(
        self,
        targets: Iterable[str],
        method: str = "GET",
        params: Params = None,
        lifetime: int | None = None,
    ) -> list[str]:
        """Return the URL of each of *targets*, in order. Raises as `url` does, for the first that fails."""
        objects, aliases = self._objects(targets, method, params, lifetime)
        scope = self._scope()
        return [entry.url for entry in given(scope, self._arms.find_all(objects, aliases, scope))]

    async def aurls(
        self,
        targets: Iterable[str],
        method: str = "GET",
        params: Params = None,
        lifetime: int | None = None,
    ) -> list[str]:
        """Return what `urls` returns, without ever blocking the event loop."""
        objects, aliases = self._objects(targets, method, params, lifetime)
        scope = self._scope()
        return [entry.url for entry in given(scope, await self._arms.afind_all(objects, aliases, scope))]

    def resolve(
        self,
        target: str,
        method: str = "GET",
        params: Params = None,
        lifetime: int | None = None,
    ) -> SignedURL:
        """Return the URL of *target* and what is known of it. Raises as `url` does."""
        return self._signed_url(self._entry(target, method, params, lifetime), target)

    async def aresolve(
        self,
        target: str,
        method: str = "GET",
        params: Params = None,
        lifetime: int | None = None,
    ) -> SignedURL:
        """Return what `resolve` returns, without ever blocking the event loop."""
        return self._signed_url(await self._aentry(target, method, params, lifetime), target)

    def explain(
        self,
        target: str,
        method: str = "GET",
        params: Params = None,
        lifetime: int | None = None,
    ) -> Explanation:
        """
        Tell what `url` would do with the same arguments, here and now, and why.

        Looks and touches nothing: no I/O, nothing is signed, counted or renewed. Raises for no
        target; what `url` would refuse is explained in the words of its error.
        """
        return self.explaining.explain(target, method, params, lifetime)

    def refresh(self, target: str) -> SignedURL:
        """
        Sign *target* anew, now, and return its URL and what is known of it.

        The new URL takes the place of the old one in this process and in the shared cache,
        unless another process has put a newer one there. Within one rotation period, and
        with one credential, it has the same bytes. Raises as `url` does.
        """
        entry = self._runner.replace(self._targets.named(str(target)))
        return self._signed_url(given(self._scope(), [entry])[0], target)

    async def arefresh(self, target: str) -> SignedURL:
        """Do what `refresh` does, without ever blocking the event loop."""
        entry = await self._runner.areplace(self._targets.named(str(target)))
        return self._signed_url(given(self._scope(), [entry])[0], target)

    def invalidate(self, target: str) -> None:
        """
        Take back the URLs of one object, since it was overwritten: its next URL differs, fleet-wide.

        Takes effect here at once, and within ``policy.invalidation_lag`` in every other process
        that shares the cache and the namespace. It does so for every method, parameter and
        lifetime. URLs that are out already go on working to their end: S3 knows nothing of this.

        Blocks for at most a second; what the shared cache could not be told is told when it answers.

        Raises:
            NotCovered: No origin holds *target*.
        """
        self._runner.take_back(self._invalidation([self._targets.named(str(target))]))

    async def ainvalidate(self, target: str) -> None:
        """Do what `invalidate` does, without ever blocking the event loop."""
        await self._runner.atake_back(self._invalidation([self._targets.named(str(target))]))

    def revoke(self, origin: str) -> None:
        """
        Take back all URLs of *origin*, an origin's name, as `invalidate` does those of one object.

        Costs the same whatever their number. To end URLs that are out already, disable the key,
        revoke the role's sessions, or have a bucket policy limit ``s3:signatureAge``.

        Raises:
            ConfigurationError: There is no such origin.
        """
        self._runner.take_back(self._revocation(origin))

    async def arevoke(self, origin: str) -> None:
        """Do what `revoke` does, without ever blocking the event loop."""
        await self._runner.atake_back(self._revocation(origin))

    def warm(self, targets: Iterable[str]) -> None:
        """Have the URLs of *targets* at hand, here and in the shared cache. Raises as `url` does."""
        for some in _chunks(targets):
            self._runner.find_all(*self._objects(some, "GET", None, None), None)

    async def awarm(self, targets: Iterable[str]) -> None:
        """Do what `warm` does, without ever blocking the event loop."""
        for some in _chunks(targets):
            await self._runner.afind_all(*self._objects(some, "GET", None, None), None)

    async def make_ready(self) -> None:
        """
        Fetch credentials, learn the usual plans and begin to connect, so that no request waits for it.

        The ASGI middleware does so at start-up. What cannot be had within a few seconds is
        logged, and left to the first request that needs it.
        """
        samples = [self._targets.sample(origin) for origin in list(self.origins.values())[:_MOST_READY]]
        await self._runner.amake_ready(samples)
        shelves = [(sample, self._signing.shelf(sample)) for sample in samples]
        # Caught fetches name the object by its https URL.
        await self._runner.amake_ready([sample.but(form=shelf.base) for sample, shelf in shelves if shelf])

    def alone(self) -> Presigner:
        """
        Return a presigner of the same origins that shares nothing: for looking into things.

        What it signs, and what it learns from S3's answers, goes no further. Its credentials are
        its own, from the same sources.
        """
        return Presigner(*self._configured, policy=self.policy, clock=self._clock)

    @property
    def clock(self) -> Clock:
        """The clock by which this presigner's URLs are served."""
        return self._clock

    @property
    def rollout(self) -> float:
        """
        The share of requests that use the cache, 0 to 1; boto3 signs for the others, each time.

        A request is wholly in one arm, and so is a call outside of requests. To be set at any time,
        for this process: 0 takes the cache out of use at once, also for requests under way. Where a
        file says it, that holds until the file says something else.

        Raises:
            ConfigurationError: It is set to what is no share.
        """
        return self._rollout.share

    @rollout.setter
    def rollout(self, share: float) -> None:
        self._rollout.set(share)
        self._arms.choose()

    @property
    def arm(self) -> Literal["cache", "boto3"]:
        """Who answers the request that is being served here: to mark its traces and times with."""
        return "boto3" if self._arms.is_by_boto3(self._scope()) else "cache"

    def scope(self) -> Scope:
        """
        Return a context manager in which a script or a job counts as one request.

        Hooks sign inside it, each object is resolved once, and ``@presigned`` finds
        this presigner. For ``with`` and ``async with``.
        """
        return Scope.new(self, self._monotonic(), self.policy.shared_patience)

    def paused(self) -> AbstractContextManager[None]:
        """
        Return a context manager in which no hook signs anything, in its tasks and threads either.

        Fetch what users name inside it. Explicit calls such as `url` go on working. A bare
        ``threading.Thread`` carries no context: enter it again in the thread's target.
        """
        return paused()

    def attempt(self, target: str, fallback: str | None = None) -> Attempt:
        """
        Return a fetch of *target* that is still to be made, which may go on in the origin *fallback*.

        Raises as `url` does.
        """
        return self.healing.begin(self._targets.named(str(target)), {}, "a function", fallback)

    async def aattempt(self, target: str, fallback: str | None = None) -> Attempt:
        """Return what `attempt` returns, without ever blocking the event loop."""
        return await self.healing.abegin(self._targets.named(str(target)), {}, "a function", fallback)

    def show(self) -> None:
        """Have the dashboard of any process that shares the cache show this one too; also its forks."""
        self._is_shown = True
        self.presence.begin()

    def stats(self) -> dict[str, int]:
        """Return the counters since start; their names are explained in `metrics`."""
        return self.counts.as_dict()

    def advice(self) -> list[str]:
        """Return what the counters give reason to change, a sentence or two each; mostly nothing."""
        return self.measuring.advice()

    def close(self) -> None:
        """Let go of threads and connections, after a few seconds at most. A later call opens them again."""
        if "presence" in self._sides:
            self.presence.close()
        self._runner.close()

    async def aclose(self) -> None:
        """Do what `close` does, without blocking the event loop."""
        import asyncio  # which a blocking program is spared

        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        return f"Presigner({', '.join(self.origins)})"

    def _relied(self, alias: str) -> Entry | None:
        """Return what is held under *alias*, unless what other processes may have taken back is unknown."""
        return self._table.by_alias(alias) if self._monotonic() < self._epochs.good_until else None

    def _rely(self, held: Callable[[str], Entry | None]) -> None:
        self._by_alias = held

    def _short(self, obj: S3Object) -> str:
        return self.explaining.short(obj)

    def _note(self, error: SigningError, obj: S3Object) -> None:
        self.explaining.note(error, obj)

    def _scope(self) -> Scope | None:
        scope = current()
        return scope if scope is not None and scope.presigner is self else None

    def _entry(self, target: str, method: str, params: Params, lifetime: int | None) -> Entry:
        scope = current()
        if scope is not None and scope.presigner is not self:
            scope = None
        obj: S3Object
        alias: str | None
        if method == "GET" and params is None and lifetime is None and not self.falls_back:
            alias = target if isinstance(target, str) else str(target)
            named = self._targets.named
            obj = named(alias)
        else:
            obj, alias = self._object(target, method, params, lifetime)
        arms = self._arms
        quick = arms.quick
        entry = quick(obj, alias, scope)
        if entry is None:
            entry = arms.wait_for(obj, alias, scope)
        if scope is not None and scope.account is not None:
            scope.account.hand_out(entry)
        return entry

    async def _aentry(self, target: str, method: str, params: Params, lifetime: int | None) -> Entry:
        scope = self._scope()
        obj, alias = self._object(target, method, params, lifetime)
        entry = self._arms.quick(obj, alias, scope) or await self._arms.await_for(obj, alias, scope)
        if scope is not None and scope.account is not None:
            scope.account.hand_out(entry)
        return entry

    def _object(
        self, target: str, method: str, params: Params, lifetime: int | None
    ) -> tuple[S3Object, str | None]:
        """Return the object, and the alias if *target* alone names it."""
        if not isinstance(target, str):
            target = str(target)
        if method == "GET" and params is None and lifetime is None and not self.falls_back:
            entry = self._table.by_alias(target)  # be it taken back: the object is the same
            return self._targets.named(target) if entry is None else entry.object, target
        return self.healing.where(self._targets.asked(target, method, params, lifetime)), None

    def _invalidation(self, objects: Sequence[S3Object]) -> Callable[[], None]:
        def invalidate() -> None:
            wall = self._time()
            for obj in objects:
                self._epochs.invalidate(obj, self._signing.dated(obj, wall), wall)
                self.counts.of(obj.origin).invalidated += 1

        return invalidate

    def _revocation(self, origin: str) -> Callable[[], None]:
        if origin not in self.origins:
            raise ConfigurationError(f"no origin is called {origin!r}; known are {', '.join(self.origins)}")

        def revoke() -> None:
            self._epochs.revoke(origin, self._time())
            self.counts.of(origin).revoked += 1

        return revoke

    def _objects(
        self, targets: Iterable[str], method: str, params: Params, lifetime: int | None
    ) -> tuple[Sequence[S3Object], Sequence[str | None]]:
        """Return the object of each of *targets*, and the alias of each."""
        wanted = [target if isinstance(target, str) else str(target) for target in targets]
        if method == "GET" and params is None and lifetime is None and not self.falls_back:
            held, find = self._table.by_alias, self._targets.finder(None, "GET", (), None)
            return [entry.object if (entry := held(text)) else find(text) for text in wanted], wanted
        objects = [self._targets.asked(target, method, params, lifetime) for target in wanted]
        return self.healing.where_all(objects), [None] * len(wanted)


def _addresses(shared: str) -> Addresses:
    from .addresses import Addresses

    return Addresses.parse(shared)


def _seal(secret: Secrets, clock: Clock) -> Seal:
    from .seal import Seal

    return Seal(secret, clock)


def _chunks(targets: Iterable[str]) -> Iterator[list[str]]:
    """Yield *targets* in portions that the shared cache answers within its patience."""
    rest = iter(targets)
    while some := list(islice(rest, _CHUNK)):
        yield some


def notice_fork() -> None:
    """
    Begin anew if this process is a fork of which Python was not told.

    uWSGI forks its workers so, after it has loaded the application.
    """
    if os.getpid() != _pid:
        with _noticing:
            if os.getpid() != _pid:  # no other thread has been here meanwhile
                _open_anew()


def _open_anew() -> None:
    """
    Begin anew in a forked child: a lock or a flight of the parent's would be waited for in vain.

    What was signed before is lost, plans too: a child is cold for one signature a shape.
    """
    global _noticing, _pid
    _noticing = Lock()
    Presigner._from_env_lock = Lock()
    for presigner in list(Presigner.alive):
        presigner._open(presigner._epochs)
        for told in presigner.opened_anew:
            told()
    _pid = os.getpid()  # last: other threads go on with what belongs to this process


#: The process that all this belongs to.
_pid = os.getpid()
_noticing = Lock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_anew)
