"""
boto3 behind a cache that one would take for it, each used as its own documentation says.

All of them keep a URL for as long as its lifetime less the five minutes that this library keeps
in hand. None knows when the credentials end that signed it, and none renews.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from threading import Lock
from typing import Any

from .installed import found
from .peers import Boto3
from .rounds import Contender, aeach, each
from .workload import KEYS, LIFETIME, SHARED_PASSES

__all__ = ["Aiocache", "Cachetools", "Cashews", "Dogpile"]

_KEPT = LIFETIME - 300  # seconds

#: How often the held URLs are gone through in one round: some of these take fifty times as long as a dict.
_PASSES = 5

Url = Callable[[str], str]
AsyncUrl = Callable[[str], Awaitable[str]]


class Cachetools:
    """A TTLCache with a lock, as its documentation wants for threads."""

    NAME = "boto3 in a TTLCache"

    def __init__(self, boto3: Boto3) -> None:
        self._boto3 = boto3
        self._cachetools = found("cachetools")

    def signs(self, keys: Sequence[str] = KEYS) -> Contender:
        """Find nothing in the cache, sign and keep."""

        def prepare() -> Callable[[], float]:
            url = self._cached()
            return lambda: each(url, keys)

        return Contender(self.NAME, prepare if self._cachetools else None)

    def finds(self, keys: Sequence[str] = KEYS) -> Contender:
        """Find every one of *keys* in the cache."""
        if not self._cachetools:
            return Contender(self.NAME, None)
        url = self._cached()
        each(url, keys)
        return Contender(self.NAME, lambda: lambda: each(url, keys, _PASSES))

    def _cached(self) -> Url:
        cache = self._cachetools.TTLCache(maxsize=100_000, ttl=_KEPT)
        made: Url = self._cachetools.cached(cache, lock=Lock())(self._boto3.url)
        return made


class Dogpile:
    """dogpile.cache: a region in memory, or in memcached through pymemcache."""

    NAME = "boto3 in dogpile"
    NAME_OF_MEMCACHED = "dogpile, pymemcache"

    def __init__(self, boto3: Boto3) -> None:
        self._boto3 = boto3
        self._dogpile = found("dogpile.cache")

    def finds(self) -> Contender:
        """Find every key in memory."""
        return self._contender(self.NAME, "dogpile.cache.memory", {}, _PASSES)

    def gets(self, host: str, port: int) -> Contender:
        """Find every key in memcached."""
        arguments = {"url": f"{host}:{port}"}
        return self._contender(self.NAME_OF_MEMCACHED, "dogpile.cache.pymemcache", arguments, SHARED_PASSES)

    def _contender(self, name: str, backend: str, arguments: dict[str, str], passes: int) -> Contender:
        if not self._dogpile:
            return Contender(name, None)
        region = self._dogpile.make_region().configure(backend, expiration_time=_KEPT, arguments=arguments)
        boto3 = self._boto3

        @region.cache_on_arguments()  # type: ignore[untyped-decorator]
        def url(key: str) -> str:
            return boto3.url(key)

        each(url, KEYS)
        return Contender(name, lambda: lambda: each(url, KEYS, passes))


class Cashews:
    """cashews in memory: its decorator, and its ``get``."""

    NAME = "boto3 in cashews"
    NAME_OF_GET = "cashews, get"

    def __init__(self, boto3: Boto3, runner: asyncio.Runner, ending: ExitStack) -> None:
        self._boto3 = boto3
        self._runner = runner
        self._cache: Any = None
        if module := found("cashews"):
            self._cache = module.Cache()
            self._cache.setup("mem://?size=100000")
            ending.callback(lambda: runner.run(self._cache.close()))

    def finds(self) -> tuple[Contender, ...]:
        """Find every key in the cache."""
        if not self._cache:
            return Contender(self.NAME, None), Contender(self.NAME_OF_GET, None)
        boto3 = self._boto3

        @self._cache(ttl=_KEPT, key="url:{key}")  # type: ignore[untyped-decorator]
        async def url(key: str) -> str:
            return boto3.url(key)

        async def fill() -> None:
            for key in KEYS:
                await self._cache.set(key, await url(key), expire=_KEPT)

        self._runner.run(fill())
        return (
            _awaited(self.NAME, self._runner, url, _PASSES),
            _awaited(self.NAME_OF_GET, self._runner, self._cache.get, _PASSES),
        )


class Aiocache:
    """aiocache: its decorator, in memory or in memcached."""

    NAME = "boto3 in aiocache"
    NAME_OF_MEMCACHED = "aiocache, memcached"

    def __init__(self, boto3: Boto3, runner: asyncio.Runner, ending: ExitStack) -> None:
        self._boto3 = boto3
        self._runner = runner
        self._ending = ending
        self._aiocache = found("aiocache")

    def finds(self) -> Contender:
        """Find every key in memory."""
        return self._contender(self.NAME, _PASSES)

    def gets(self, host: str, port: int) -> Contender:
        """Find every key in memcached."""
        if not found("aiomcache"):
            return Contender(self.NAME_OF_MEMCACHED, None)
        return self._contender(self.NAME_OF_MEMCACHED, SHARED_PASSES, endpoint=host, port=port)

    def _contender(self, name: str, passes: int, **server: Any) -> Contender:
        if not self._aiocache:
            return Contender(name, None)
        kind = self._aiocache.Cache.MEMCACHED if server else self._aiocache.Cache.MEMORY
        boto3 = self._boto3

        @self._aiocache.cached(ttl=_KEPT, cache=kind, key_builder=_key, **server)  # type: ignore[untyped-decorator]
        async def url(key: str) -> str:
            return boto3.url(key)

        self._runner.run(aeach(url, KEYS))
        self._ending.callback(lambda: self._runner.run(url.cache.close()))
        return _awaited(name, self._runner, url, passes)


def _key(function: object, key: str) -> str:
    return key


def _awaited(name: str, runner: asyncio.Runner, url: AsyncUrl, passes: int) -> Contender:
    return Contender(name, lambda: lambda: runner.run(aeach(url, KEYS, passes)))
