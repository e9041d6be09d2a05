"""
What one would use instead, as its own documentation says, and two floors.

A floor is what nobody can go below: a look-up in a dict with its end compared, and
the two hashes that every signature takes. A client of memcached gets the bytes that
are shared, of which nothing is made.
"""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Sequence, Sized
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from threading import Lock
from time import perf_counter
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from botocore.config import Config
from pymemcache.client.base import Client  # type: ignore[import-untyped]
from pymemcache.client.hash import HashClient  # type: ignore[import-untyped]

from presign_middleware.testing import Memcached

from .rounds import Contender, each, whole
from .workload import (
    ACCESS_KEY,
    BUCKET,
    KEYS,
    LIFETIME,
    PASSES,
    REGION,
    SECRET_KEY,
    SHARED_PASSES,
    TARGETS,
    VALUE,
    session,
)

__all__ = ["Boto3", "Cachetools", "Dict", "Emcache", "Hashes", "Obstore", "Pymemcache", "PymemcacheHash"]


class Boto3:
    """``generate_presigned_url``, SigV4, at the bucket's regional virtual host."""

    NAME = "boto3"

    def __init__(self) -> None:
        config = Config(signature_version="s3v4", s3={"addressing_style": "virtual"})
        self._generate = session().client("s3", config=config).generate_presigned_url

    def url(self, key: str) -> str:
        """Return a URL of *key*."""
        params = {"Bucket": BUCKET, "Key": key}
        return cast(str, self._generate("get_object", Params=params, ExpiresIn=LIFETIME))

    def signs(self) -> Contender:
        """Sign every key; boto3 has no call for many."""
        return Contender(self.NAME, lambda: lambda: each(self.url, KEYS))


class Cachetools:
    """boto3 behind a TTLCache with a lock, as its documentation wants for threads."""

    NAME = "boto3 in a TTLCache"

    def __init__(self, boto3: Boto3) -> None:
        self._boto3 = boto3

    def _cached(self) -> Callable[[str], str]:
        from cachetools import TTLCache, cached

        cache: TTLCache[Any, str] = TTLCache(maxsize=100_000, ttl=LIFETIME - 300)
        return cached(cache, lock=Lock())(self._boto3.url)

    def signs(self) -> Contender:
        """Find nothing in the cache, sign and keep."""

        def prepare() -> Callable[[], float]:
            url = self._cached()
            return lambda: each(url, KEYS)

        return Contender(self.NAME, prepare if self._is_here() else None)

    def finds(self) -> Contender:
        """Find every key in the cache."""
        if not self._is_here():
            return Contender(self.NAME, None)
        url = self._cached()
        each(url, KEYS)
        return Contender(self.NAME, lambda: lambda: each(url, KEYS, PASSES))

    def _is_here(self) -> bool:
        try:
            self._cached()
        except ImportError:
            return False
        return True


class Obstore:
    """``obstore.sign``: Rust. It keeps nothing, so it signs what others hold."""

    NAME = "obstore"
    NAME_OF_LIST = "obstore, one list"

    def __init__(self) -> None:
        self._sign: Callable[[Any], Any] | None = None
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError:
            return
        store = S3Store(
            BUCKET,
            region=REGION,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            virtual_hosted_style_request=True,
        )
        lifetime = timedelta(seconds=LIFETIME)
        self._sign = lambda paths: obstore.sign(store, "GET", paths, lifetime)

    def url(self, key: str) -> str | None:
        """Return a URL of *key*, None where obstore is missing."""
        return self._sign and self._sign(key)

    def signs_each(self) -> Contender:
        """Sign every key with a call of its own."""
        return self._contender(self.NAME, lambda sign: each(sign, KEYS))

    def signs_all(self) -> Contender:
        """Sign all keys with one call."""
        keys = list(KEYS)
        return self._contender(self.NAME_OF_LIST, lambda sign: whole(sign, keys))

    def _contender(self, name: str, run: Callable[[Callable[[Any], Any]], float]) -> Contender:
        sign = self._sign
        if sign is None:
            return Contender(name, None)
        return Contender(name, lambda: partial(run, sign))


class Dict:
    """A dict of URLs and their ends. Nothing bounds it, nothing renews it."""

    NAME = "dict, end compared"

    def __init__(self, url: str) -> None:
        self._held = {target: (f"{url}{n}", time.time() + LIFETIME) for n, target in enumerate(TARGETS)}

    def finds(self) -> Contender:
        """Look every target up, written out in the loop."""
        return Contender(self.NAME, lambda: self._run)

    def finds_by_function(self) -> Contender:
        """Look every target up by a function, as a program would have it."""
        return Contender("dict, in a function", lambda: lambda: each(self._look_up, TARGETS, PASSES))

    def _run(self) -> float:
        get, now = self._held.get, time.time
        start = perf_counter()
        for _ in range(PASSES):
            for target in TARGETS:
                found = get(target)
                if found is not None and now() < found[1]:
                    _url = found[0]
        return (perf_counter() - start) / (PASSES * len(TARGETS))

    def _look_up(self, target: str) -> str | None:
        found = self._held.get(target)
        if found is not None and time.time() < found[1]:
            return found[0]
        return None


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
    NAME_OF_BATCHES = "emcache, autobatching"
    NAME_OF_MANY = "emcache, get_many"

    def __init__(
        self, runner: asyncio.Runner, host: str, port: int, keys: Sequence[str], ending: ExitStack
    ) -> None:
        self._runner = runner
        self._keys = [key.encode() for key in keys]
        self._plain: Any = None
        self._batching: Any = None
        try:
            import emcache
        except ImportError:
            return

        def connected(*, autobatching: bool) -> Any:
            address = emcache.MemcachedHostAddress(host, port)
            client = runner.run(emcache.create_client([address], autobatching=autobatching))
            ending.callback(lambda: runner.run(client.close()))
            runner.run(self._open_all(client, emcache.DEFAULT_MAX_CONNECTIONS))
            return client

        self._plain, self._batching = connected(autobatching=False), connected(autobatching=True)

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


class Hashes:
    """SHA-256 of a canonical request and HMAC of a string to sign, of a real URL's length. No URL is made."""

    def __init__(self, sign: Callable[[str], str]) -> None:
        self._texts = [_signed_texts(sign(key)) for key in KEYS]

    def hashes(self) -> Contender:
        """Hash what every key's signature takes."""
        return Contender("two bare hashes", lambda: lambda: _hash(self._texts))


def _hash(texts: Sequence[tuple[bytes, bytes]]) -> float:
    sha256, digest, key = hashlib.sha256, hmac.digest, bytes(32)
    start = perf_counter()
    for request, text in texts:
        sha256(request).hexdigest()
        digest(key, text, "sha256")
    return (perf_counter() - start) / len(texts)


def _signed_texts(url: str) -> tuple[bytes, bytes]:
    """Return the canonical request and the string to sign of *url*."""
    parts = urlsplit(url)
    query, _, _ = parts.query.partition("&X-Amz-Signature=")
    request = f"GET\n{parts.path}\n{query}\nhost:{parts.netloc}\n\nhost\nUNSIGNED-PAYLOAD".encode()
    names = parse_qs(parts.query)
    _, _, scope = names["X-Amz-Credential"][0].partition("/")
    digest = hashlib.sha256(request).hexdigest()
    return request, f"AWS4-HMAC-SHA256\n{names['X-Amz-Date'][0]}\n{scope}\n{digest}".encode()
