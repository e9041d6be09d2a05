"""
Clients of memcached. They get the bytes that are shared, of which nothing is made.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence, Sized
from contextlib import ExitStack
from time import perf_counter
from typing import Any

from pymemcache.client.base import Client  # type: ignore[import-untyped]
from pymemcache.client.hash import HashClient  # type: ignore[import-untyped]

from presign_middleware.testing import Memcached

from .installed import found
from .rounds import Contender, aeach, each, whole
from .workload import SHARED_PASSES, VALUE

__all__ = ["Aiomcache", "Emcache", "Pymemcache", "PymemcacheHash"]


class Pymemcache:
    """pymemcache's plain client, which this library uses too. It blocks."""

    NAME = "pymemcache"
    NAME_OF_SESSIONS = "pymemcache, sessions"
    NAME_OF_MANY = "pymemcache, get_many"
    NAME_OF_ONE = "pymemcache, one server"

    def __init__(self, host: str, port: int, ending: ExitStack) -> None:
        self._client = Client((host, port), no_delay=True)
        ending.callback(self._client.close)

    def gets(self, name: str, keys: Sequence[str]) -> Contender:
        """Get the value of each of *keys* with a call of its own."""
        self._check(keys)
        return Contender(name, lambda: lambda: each(self._client.get, keys, SHARED_PASSES))

    def gets_many(self, keys: Sequence[str], name: str = NAME_OF_MANY) -> Contender:
        """Get the values of *keys* with one call, which an event loop would have to wait for."""
        self._check(keys)
        return Contender(name, lambda: lambda: whole(self._client.get_many, keys, SHARED_PASSES))

    def _check(self, keys: Sequence[str]) -> None:
        found = self._client.get_many(keys)
        if len(found) != len(keys):
            raise AssertionError(f"memcached has {len(found)} of {len(keys)} values")


class PymemcacheHash:
    """pymemcache's ``HashClient``, by its own defaults: it visits one server after another."""

    NAME = "pymemcache, HashClient"

    def __init__(self, servers: Sequence[Memcached], keys: Sequence[str], ending: ExitStack) -> None:
        self._client = HashClient([(server.host, server.port) for server in servers], no_delay=True)
        self._keys = keys
        ending.callback(self._client.close)
        self._client.set_many(dict.fromkeys(keys, VALUE), noreply=False)

    def gets_many(self) -> Contender:
        """Get all values with one call."""
        if len(self._client.get_many(self._keys)) != len(self._keys):
            raise AssertionError("not all values are there")
        return Contender(self.NAME, lambda: lambda: whole(self._client.get_many, self._keys, SHARED_PASSES))


class Emcache:
    """emcache: Cython, for asyncio; by its own defaults, and with its ``autobatching``."""

    NAME = "emcache, gather of get"
    NAME_OF_ONE = "emcache"
    NAME_OF_BATCHES = "emcache, autobatching"
    NAME_OF_MANY = "emcache, get_many"

    def __init__(
        self, runner: asyncio.Runner, host: str, port: int, keys: Sequence[str], ending: ExitStack
    ) -> None:
        self._runner = runner
        self._keys = [key.encode() for key in keys]
        self._plain: Any = None
        self._batching: Any = None
        emcache = found("emcache")
        if not emcache:
            return

        def connected(*, autobatching: bool) -> Any:
            address = emcache.MemcachedHostAddress(host, port)
            client = runner.run(emcache.create_client([address], autobatching=autobatching))
            ending.callback(lambda: runner.run(client.close()))
            runner.run(self._open_all(client, emcache.DEFAULT_MAX_CONNECTIONS))
            return client

        self._plain, self._batching = connected(autobatching=False), connected(autobatching=True)

    def gets_each(self) -> Contender:
        """Get every value with a call of its own, one after another."""
        if self._plain is None:
            return Contender(self.NAME_OF_ONE, None)
        return Contender(
            self.NAME_OF_ONE,
            lambda: lambda: self._runner.run(aeach(self._plain.get, self._keys, SHARED_PASSES)),
        )

    def gets(self) -> tuple[Contender, ...]:
        """Get every value with a call of its own, all at once."""
        return (
            self._contender(self.NAME, self._plain, self._gather),
            self._contender(self.NAME_OF_BATCHES, self._batching, self._gather),
        )

    def gets_many(self) -> Contender:
        """Get all values with one call."""
        return self._contender(self.NAME_OF_MANY, self._plain, lambda client: client.get_many(self._keys))

    def _contender(self, name: str, client: Any, get: Callable[[Any], Awaitable[Sized]]) -> Contender:
        if client is None:
            return Contender(name, None)
        return Contender(name, lambda: lambda: self._runner.run(self._run(client, get)))

    async def _run(self, client: Any, get: Callable[[Any], Awaitable[Sized]]) -> float:
        start = perf_counter()
        for _ in range(SHARED_PASSES):
            await get(client)
        return (perf_counter() - start) / (SHARED_PASSES * len(self._keys))

    async def _gather(self, client: Any) -> list[Any]:
        return await asyncio.gather(*[client.get(key) for key in self._keys])

    async def _open_all(self, client: Any, connections: int) -> None:
        # It connects while it is used, and would be late where the loop stands still meanwhile.
        def opened() -> int:
            (pool,) = client.cluster_managment().connection_pool_metrics().values()
            return int(pool.cur_connections)

        while opened() < connections:
            if None in await self._gather(client):
                raise AssertionError("memcached does not have all values")


class Aiomcache:
    """aiomcache: pure Python, for asyncio; by its own defaults."""

    NAME = "aiomcache, gather of get"
    NAME_OF_ONE = "aiomcache"
    NAME_OF_MANY = "aiomcache, multi_get"

    def __init__(
        self, runner: asyncio.Runner, host: str, port: int, keys: Sequence[str], ending: ExitStack
    ) -> None:
        self._runner = runner
        self._keys = [key.encode() for key in keys]
        self._client: Any = None
        if module := found("aiomcache"):
            self._client = module.Client(host, port)
            ending.callback(lambda: runner.run(self._client.close()))
            if None in runner.run(self._many()):
                raise AssertionError("memcached does not have all values")

    def gets_each(self) -> Contender:
        """Get every value with a call of its own, one after another."""
        return self._contender(self.NAME_OF_ONE, lambda: aeach(self._client.get, self._keys))

    def gets(self) -> Contender:
        """Get every value with a call of its own, all at once."""
        return self._contender(self.NAME, lambda: self._timed(self._gather))

    def gets_many(self) -> Contender:
        """Get all values with one call."""
        return self._contender(self.NAME_OF_MANY, lambda: self._timed(self._many))

    def _contender(self, name: str, run: Callable[[], Coroutine[Any, Any, float]]) -> Contender:
        return Contender(name, (lambda: lambda: self._runner.run(run())) if self._client else None)

    async def _timed(self, get: Callable[[], Awaitable[Sized]]) -> float:
        start = perf_counter()
        for _ in range(SHARED_PASSES):
            await get()
        return (perf_counter() - start) / (SHARED_PASSES * len(self._keys))

    async def _gather(self) -> list[Any]:
        return await asyncio.gather(*[self._client.get(key) for key in self._keys])

    async def _many(self) -> Any:
        return await self._client.multi_get(*self._keys)
