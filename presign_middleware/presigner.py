"""
`Presigner`: the face of the library.

It turns targets into objects, asks the resolver, and hands out URLs. What it does
not hold is decided in `resolver`, signed in `signing` and waited for in `effects`.
"""

import asyncio
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from threading import Lock
from typing import Any, ClassVar, NoReturn
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit
from weakref import WeakKeyDictionary, WeakSet

from .credentials import effective
from .effects import AsyncioEffects, BlockingEffects, LoopThreadEffects, run_blocking
from .environment import settings
from .errors import ConfigurationError, NotCovered, SigningError
from .local import Entry, Flights, Table
from .metrics import Counts
from .objects import S3Object, SignedURL, wire_parameters
from .origins import METHODS, Coverage, Origin, Place
from .policy import Policy
from .resolver import Clock, Effects, Resolver
from .scope import Scope, current, paused
from .signing import Signing

__all__ = ["Presigner"]

#: Parameters with which whoever wrote a URL says what a browser makes of its bytes.
_OVERRIDES = frozenset({"response-content-type", "response-content-disposition"})


class Presigner:
    """
    Presigned URLs for the objects of some origins.

    ::

        presigner = Presigner(Origin("media", bucket="acme-media", prefix="public/", region="eu-west-1"))
        presigner.url("s3://acme-media/public/cat.jpg")

    An origin may be written short, ``"s3://acme-media/public/?region=eu-west-1"``.
    One presigner serves any number of threads and event loops.

    Raises:
        ConfigurationError: Settings that cannot work; named in the message.
    """

    #: Every presigner of this process, for hooks that meet a covered fetch outside any scope.
    alive: ClassVar["WeakSet[Presigner]"] = WeakSet()

    _from_env: ClassVar[dict[tuple[tuple[str, str], ...], "Presigner"]] = {}
    _from_env_lock: ClassVar[Lock] = Lock()

    def __init__(
        self,
        *origins: Origin | str,
        shared: None = None,
        policy: Policy | None = None,
        local_size: int = 100_000,  # URLs this process holds, about 1 KB each
        clock: Clock = time,
    ) -> None:
        if shared is not None:
            raise ConfigurationError("shared must be None: this version keeps URLs in each process")
        if local_size < 1:
            raise ConfigurationError(f"local_size must be 1 or more URLs, got {local_size!r}")
        if not origins:
            raise ConfigurationError(
                'a presigner needs an origin, such as Origin("media", bucket="acme-media")'
            )
        self.policy = policy or Policy()
        known = [effective(Origin.parse(o) if isinstance(o, str) else o) for o in origins]
        self.origins = {origin.name: origin for origin in known}
        if len(self.origins) < len(known):
            raise ConfigurationError(f"origins need different names, got {', '.join(o.name for o in known)}")
        self._coverage = Coverage(known)
        self._params = {o.name: wire_parameters(o.params) for o in known}
        self._lifetimes = {o.name: (o.policy or self.policy).lifetime for o in known}
        self.counts = Counts()
        self._table = Table(local_size, self.counts)
        self._flights = Flights()
        self._signing = Signing(known, self.policy, self.counts, clock)
        self._resolver = Resolver(self._signing, self._table, self._flights, self.counts, clock)
        self._by_alias = self._table.by_alias
        self._time = clock.time
        self._monotonic = clock.monotonic
        self._blocking = BlockingEffects(self._signing, self._flights)
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncioEffects] = WeakKeyDictionary()
        self._pool: ThreadPoolExecutor | None = None
        self._lock = Lock()
        Presigner.alive.add(self)

    @classmethod
    def from_env(cls) -> "Presigner":
        """
        Return the presigner that the environment describes: one per process.

        ``PRESIGN_ORIGINS`` holds one or more origins in their short form, parted by
        spaces (``media=s3://acme-media/public/?region=eu-west-1``). Each setting of
        `Policy` is a variable too: ``PRESIGN_LIFETIME``, ``PRESIGN_MIN_REMAINING``, ...

        Raises:
            ConfigurationError: ``PRESIGN_ORIGINS`` is absent, or a variable cannot work.
        """
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
        *,
        method: str = "GET",
        params: Mapping[str, Any] | None = None,
        lifetime: int | None = None,
    ) -> str:
        """
        Return a URL that fetches *target* without credentials.

        *target* is ``s3://bucket/key``, the key as it is, or an unsigned https URL of an
        origin, percent-encoded. *params* are boto3's names, such as
        ``{"ResponseContentDisposition": "attachment"}``. *lifetime* is in whole seconds.

        Blocks only while credentials are being fetched. Safe to call from threads; on
        an event loop's thread prefer `aurl`.

        Raises:
            NotCovered: No origin holds *target*, or it must not be signed.
            ConfigurationError: *params*, *method* or *lifetime* cannot work.
            SigningError: No credentials, or the signer refused.
        """
        # The shortest way, and the most walked: a text seen before, FRESH by both clocks.
        entry = self._by_alias(target)
        if (
            entry is not None
            and method == "GET"
            and params is None
            and lifetime is None
            and entry.born <= self._time() < entry.fresh_until
            and self._monotonic() < entry.fresh_until_monotonic
        ):
            scope = current()
            if scope is None or scope.presigner is not self:
                self.counts.from_local += 1
                entry.used = True
                return entry.url
            if scope.seen(entry.object) is entry:
                self.counts.from_scope += 1
                return entry.url
        return self._entry(target, method, params, lifetime).url

    async def aurl(
        self,
        target: str,
        *,
        method: str = "GET",
        params: Mapping[str, Any] | None = None,
        lifetime: int | None = None,
    ) -> str:
        """Return what `url` returns, without ever blocking the event loop."""
        return (await self._aentry(target, method, params, lifetime)).url

    def urls(
        self,
        targets: Iterable[str],
        *,
        method: str = "GET",
        params: Mapping[str, Any] | None = None,
        lifetime: int | None = None,
    ) -> list[str]:
        """Return the URL of each of *targets*, in order. Raises as `url` does, for the first that fails."""
        return [entry.url for entry in self._entries(targets, method, params, lifetime)]

    async def aurls(
        self,
        targets: Iterable[str],
        *,
        method: str = "GET",
        params: Mapping[str, Any] | None = None,
        lifetime: int | None = None,
    ) -> list[str]:
        """Return what `urls` returns, without ever blocking the event loop."""
        return [entry.url for entry in await self._aentries(targets, method, params, lifetime)]

    def resolve(
        self,
        target: str,
        *,
        method: str = "GET",
        params: Mapping[str, Any] | None = None,
        lifetime: int | None = None,
    ) -> SignedURL:
        """Return the URL of *target* and what is known of it. Raises as `url` does."""
        return _signed_url(self._entry(target, method, params, lifetime), target)

    async def aresolve(
        self,
        target: str,
        *,
        method: str = "GET",
        params: Mapping[str, Any] | None = None,
        lifetime: int | None = None,
    ) -> SignedURL:
        """Return what `resolve` returns, without ever blocking the event loop."""
        return _signed_url(await self._aentry(target, method, params, lifetime), target)

    def scope(self) -> Scope:
        """
        Return a context manager in which a script or a job counts as one request.

        Hooks sign inside it, each object is resolved once, and ``@presigned`` finds
        this presigner. For ``with`` and ``async with``.
        """
        return Scope(self, self._monotonic())

    def paused(self) -> AbstractContextManager[None]:
        """
        Return a context manager in which no hook signs anything, in its tasks and threads either.

        Fetch what users name inside it. Explicit calls such as `url` go on working. A bare
        ``threading.Thread`` carries no context: enter it again in the thread's target.
        """
        return paused()

    def stats(self) -> dict[str, int]:
        """Return the counters since start; their names are explained in `metrics`."""
        return self.counts.as_dict()

    def close(self) -> None:
        """Let go of threads. What is under way ends first; a later call opens them again."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    async def aclose(self) -> None:
        """Do what `close` does, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        return f"Presigner({', '.join(self.origins)})"

    # For clients: what a hook needs, once it has a URL in its hands.

    def locate(self, url: str) -> Place:
        """Return where *url*, as an HTTP client has encoded it, points. Raises NotCovered."""
        return self._coverage.locate(url, encoded=True)

    def unsigned(self, url: str) -> str | None:
        """Return the unsigned form of *url* if this presigner made it and still holds it."""
        bare, _, query = url.partition("?")
        pairs = parse_qsl(query, keep_blank_values=True)
        signature = dict(pairs).get("X-Amz-Signature")
        rest = urlencode([(name, value) for name, value in pairs if not name.startswith("X-Amz-")])
        if not signature or not (dict(pairs).get("X-Amz-Expires") or "").isdecimal():
            return None
        unsigned = f"{bare}?{rest}" if rest else bare
        try:
            place = self.locate(unsigned)
        except NotCovered:
            return None
        lifetime = int(dict(pairs)["X-Amz-Expires"])
        for method in place.origin.methods:
            for form in (place.form, ""):
                obj = S3Object(
                    place.origin.name, place.origin.bucket, form, place.key, method, place.params, lifetime
                )
                entry = self._table.get(obj)
                if entry is not None and entry.url.endswith(f"X-Amz-Signature={signature}"):
                    return unsigned
        return None

    def caught_object(self, place: Place, method: str, *, keep_overrides: bool) -> S3Object:
        """Return the object that a caught fetch of *place* is for. Raises NotCovered."""
        if not keep_overrides and not place.origin.response_overrides:
            place = place._replace(params=tuple([p for p in place.params if p[0] not in _OVERRIDES]))
        return self._object_at(place, method, (), None)

    def url_of(self, obj: S3Object, headers: Mapping[str, str]) -> str:
        """Return a URL of *obj*; with *headers*, one that signs them too and is for this request alone."""
        if headers:
            self._refuse_first(self._signing.prepare([obj]))
            return self._sign_once(obj, headers)
        return (self._resolver.quick(obj, None, self._scope()) or self._wait([obj])[0]).url

    async def aurl_of(self, obj: S3Object, headers: Mapping[str, str]) -> str:
        """Return what `url_of` returns, without ever blocking the event loop."""
        if headers:
            self._refuse_first(await self._effects().prepare([obj]))
            return self._sign_once(obj, headers)
        return (self._resolver.quick(obj, None, self._scope()) or (await self._await([obj]))[0]).url

    # From a target to an object.

    def _object(
        self, target: str, method: str, params: Mapping[str, Any] | None, lifetime: int | None
    ) -> S3Object:
        place = self._coverage.locate(str(target))
        return self._object_at(place, method, wire_parameters(params) if params else (), lifetime)

    def _object_at(
        self, place: Place, method: str, params: tuple[tuple[str, str], ...], lifetime: int | None
    ) -> S3Object:
        origin, form, key, asked = place
        name = origin.name
        if method not in origin.methods:
            self._refuse_method(origin, method)
        if lifetime is None:
            lifetime = self._lifetimes[name]
        else:
            self._signing.of(name).policy.rotation(lifetime)  # raises where it is out of bounds
        standing = self._params[name]
        if standing or (asked and params):
            asked = tuple({**dict(standing), **dict(asked), **dict(params)}.items())
        else:
            asked = asked or params
        # In half the time that calling the class takes: every miss comes by here.
        return tuple.__new__(S3Object, (name, origin.bucket, form, key, method, asked, lifetime))

    def _refuse_method(self, origin: Origin, method: str) -> NoReturn:
        if method not in METHODS:
            raise ConfigurationError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        raise NotCovered(
            f"origin {origin.name!r} signs {', '.join(origin.methods)}, not {method}: "
            f'Origin({origin.name!r}, ..., methods=("GET", "HEAD", {method!r})) would'
        )

    # From an object to an entry.

    def _scope(self) -> Scope | None:
        scope = current()
        return scope if scope is not None and scope.presigner is self else None

    def _entry(
        self, target: str, method: str, params: Mapping[str, Any] | None, lifetime: int | None
    ) -> Entry:
        obj, alias = self._asked(target, method, params, lifetime)
        return self._resolver.quick(obj, alias, self._scope()) or self._wait([obj])[0]

    async def _aentry(
        self, target: str, method: str, params: Mapping[str, Any] | None, lifetime: int | None
    ) -> Entry:
        obj, alias = self._asked(target, method, params, lifetime)
        return self._resolver.quick(obj, alias, self._scope()) or (await self._await([obj]))[0]

    def _asked(
        self, target: str, method: str, params: Mapping[str, Any] | None, lifetime: int | None
    ) -> tuple[S3Object, str | None]:
        """Return the object, and the alias if *target* alone names it."""
        if not isinstance(target, str):
            target = str(target)
        if method == "GET" and params is None and lifetime is None:
            return self._named_object(target), target
        return self._object(target, method, params, lifetime), None

    def _entries(
        self,
        targets: Iterable[str],
        method: str,
        params: Mapping[str, Any] | None,
        lifetime: int | None,
    ) -> list[Entry]:
        objects, entries = self._quick(targets, method, params, lifetime)
        missing = [obj for obj, entry in zip(objects, entries, strict=True) if entry is None]
        return _filled(entries, self._wait(missing) if missing else [])

    async def _aentries(
        self,
        targets: Iterable[str],
        method: str,
        params: Mapping[str, Any] | None,
        lifetime: int | None,
    ) -> list[Entry]:
        objects, entries = self._quick(targets, method, params, lifetime)
        missing = [obj for obj, entry in zip(objects, entries, strict=True) if entry is None]
        return _filled(entries, await self._await(missing) if missing else [])

    def _quick(
        self,
        targets: Iterable[str],
        method: str,
        params: Mapping[str, Any] | None,
        lifetime: int | None,
    ) -> tuple[list[S3Object], list[Entry | None]]:
        """Return the objects, and the entry of each that could be resolved without waiting."""
        wanted = [target if isinstance(target, str) else str(target) for target in targets]
        aliases: Sequence[str | None] = wanted
        if method == "GET" and params is None and lifetime is None:
            objects = [self._named_object(target) for target in wanted]
        else:
            objects = [self._object(target, method, params, lifetime) for target in wanted]
            aliases = [None] * len(wanted)
        return objects, self._resolver.quick_all(objects, aliases, self._scope())

    def _named_object(self, target: str) -> S3Object:
        """Return the object that *target* alone names."""
        entry = self._by_alias(target)
        if entry is not None:
            return entry.object
        return self._object_at(self._coverage.locate(target), "GET", (), None)

    def _wait(self, objects: Sequence[S3Object]) -> list[Entry]:
        effects: Effects = self._blocking
        if asyncio._get_running_loop() is not None:
            effects = LoopThreadEffects(self._signing)
        return _each(run_blocking(self._resolver.resolve(objects, self._scope(), effects)))

    async def _await(self, objects: Sequence[S3Object]) -> list[Entry]:
        return _each(await self._resolver.resolve(objects, self._scope(), self._effects()))

    def _effects(self) -> AsyncioEffects:
        loop = asyncio.get_running_loop()
        effects = self._loops.get(loop)
        if effects is None:
            effects = self._loops[loop] = AsyncioEffects(self._signing, self._flights, self._threads)
        return effects

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(8, thread_name_prefix="presign")
            return self._pool

    def _sign_once(self, obj: S3Object, headers: Mapping[str, str]) -> str:
        self.counts.from_signer += 1
        return self._signing.of(obj.origin).sign_once(obj, headers, self._time())

    def _refuse_first(self, refused: Mapping[S3Object, SigningError]) -> None:
        for error in refused.values():
            self.counts.failed += 1
            raise error


def _each(answers: Sequence[Entry | SigningError]) -> list[Entry]:
    """Return *answers*, or raise the first that is an error."""
    entries = []
    for answer in answers:
        if isinstance(answer, SigningError):
            # A copy: those who waited for one flight must not share a traceback.
            raise SigningError(*answer.args) from answer.__cause__
        entries.append(answer)
    return entries


def _filled(entries: list[Entry | None], waited: Sequence[Entry]) -> list[Entry]:
    """Return *entries* with what was *waited* for in its gaps."""
    rest = iter(waited)
    return [next(rest) if entry is None else entry for entry in entries]


def _signed_url(entry: Entry, target: str) -> SignedURL:
    scope = parse_qs(urlsplit(entry.url).query)["X-Amz-Credential"][0]
    *_, region, service, _ = scope.split("/")
    return SignedURL(
        url=entry.url,
        original_url=str(target),
        origin=entry.object.origin,
        method=entry.object.method,
        region=region,
        service=service,
        created_at=entry.date,
        expires_at=entry.end,
        expires_reason=entry.reason,
    )
