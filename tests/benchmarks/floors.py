"""
The least that Python takes for a URL: one function for each way to it, and nothing around that.

They do only what no such way can leave out, by the means of this library: its signer, one
SHA-256 for the name of an entry, pymemcache. They are no library: one bucket, one key that
never ends, one lifetime, one day, one thread; nothing is bounded, counted, renewed or taken
back, and no target is wrong. What they miss too, no Python can reach.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from zlib import crc32

from pymemcache.client.base import Client  # type: ignore[import-untyped]

from presign_middleware.credentials import Snapshot
from presign_middleware.plans import DAY, DIGEST, Plan, Signer
from presign_middleware.policy import FOREVER

from .rounds import Contender, awhole, each, whole
from .workload import ACCESS_KEY, BUCKET, KEYS, LIFETIME, PAGE, SECRET_KEY, SHARED_PASSES, TARGETS

__all__ = ["Floors", "SharedFloors"]

_ROOT = len(f"s3://{BUCKET}/")
_IS_PLAIN = re.compile(r"[A-Za-z0-9_.\-~/]+").fullmatch
_ENTRY = re.compile(rb"1 (\d{10}) ([0-9a-f]{64})").fullmatch


class Floors:
    """What signs and holds. Its plan is that of *sign*, which makes boto3's URL of a key."""

    NAME = "one function, and no more"

    def __init__(self, sign: Callable[[str], str]) -> None:
        today = int(time.time()) // DAY
        snapshot = Snapshot(FOREVER._replace(access_key=ACCESS_KEY), SECRET_KEY, None)
        self._midnight = today * DAY
        self._sign = Signer(Plan("GET", sign(KEYS[0]), KEYS[0], ()), snapshot, today, LIFETIME, {}).sign
        self._held: dict[str, tuple[str, int]] = {}
        if len(self.url(TARGETS[0])) != len(sign(KEYS[0])):
            raise AssertionError("a floor signs something else than boto3")

    def url(self, target: str) -> str:
        """Sign the URL of *target*, dated at the start of its window, and hold it."""
        key = target[_ROOT:]
        if not _IS_PLAIN(key):
            raise ValueError(target)
        # Of yesterday's windows too, so that all are of one day: the same work.
        phase = crc32(key.encode()) % DAY
        url = self._sign(key, self._midnight + phase)
        self._held[target] = url, self._midnight + phase + LIFETIME
        return url

    def urls(self, targets: Sequence[str]) -> list[str]:
        """Sign the URL of each of *targets*, the same in a loop without calls."""
        sign, held, midnight, urls = self._sign, self._held, self._midnight, []
        for target in targets:
            key = target[_ROOT:]
            if not _IS_PLAIN(key):
                raise ValueError(target)
            phase = crc32(key.encode()) % DAY
            url = sign(key, midnight + phase)
            held[target] = url, midnight + phase + LIFETIME
            urls.append(url)
        return urls

    def signs_each(self) -> Contender:
        """Sign every URL with a call of its own."""
        return Contender(self.NAME, lambda: self._emptied(lambda: each(self.url, TARGETS)), is_floor=True)

    def signs_pages(self) -> Contender:
        """Sign 200 URLs with one call."""
        return Contender(self.NAME, lambda: self._emptied(lambda: whole(self.urls, TARGETS)), is_floor=True)

    def _emptied(self, run: Callable[[], float]) -> Callable[[], float]:
        self._held = {}
        return run


class SharedFloors:
    """What gets signatures from memcached, checks them by signing, and holds the URLs."""

    NAME = "one function, and no more"
    NAME_OF_GATHER = "gather of futures"

    def __init__(
        self, runner: asyncio.Runner, host: str, port: int, sign: Callable[[str], str], ending: ExitStack
    ) -> None:
        self._runner = runner
        self._signing = Floors(sign)
        self._client = Client((host, port), no_delay=True)
        ending.callback(self._client.close)
        self._begun = hashlib.sha256(b"the floor's own entries")
        entries = {self._name(t): f"1 {LIFETIME:010} {self._signing.url(t)[-DIGEST:]}" for t in TARGETS}
        self._client.set_many(entries, LIFETIME, noreply=False)
        self._waiting: list[tuple[str, asyncio.Future[str]]] = []

    def url(self, target: str) -> str:
        """Return the URL of *target*, which another has signed."""
        return self._checked(target, self._client.get(self._name(target)))

    def urls(self, targets: Sequence[str]) -> list[str]:
        """Return the URL of each of *targets*, asked for at once."""
        names = {self._name(target): target for target in targets}
        found = self._client.get_many(list(names))
        return [self._checked(target, found[name]) for name, target in names.items()]

    def gets_each(self) -> Contender:
        """Find every URL with a call of its own."""
        return Contender(self.NAME, lambda: lambda: each(self.url, TARGETS, SHARED_PASSES), is_floor=True)

    def gets_pages(self) -> tuple[Contender, ...]:
        """Find 100 URLs at once: where nothing else goes on, and for 100 tasks of an event loop's."""
        return (
            Contender(self.NAME, lambda: lambda: whole(self.urls, PAGE, SHARED_PASSES), is_floor=True),
            Contender(
                self.NAME_OF_GATHER,
                lambda: lambda: self._runner.run(awhole(self._gather, PAGE, SHARED_PASSES)),
                is_floor=True,
            ),
        )

    def _name(self, target: str) -> str:
        digest = self._begun.copy()
        digest.update(target[_ROOT:].encode())
        return digest.hexdigest()

    def _checked(self, target: str, entry: bytes) -> str:
        found = _ENTRY(entry)
        url = self._signing.url(target)
        if found is None or int(found[1]) != LIFETIME or found[2].decode() != url[-DIGEST:]:
            raise AssertionError("an entry is of another URL")
        return url

    async def _gather(self, targets: Sequence[str]) -> list[str]:
        return await asyncio.gather(*[self._aurl(target) for target in targets])

    async def _aurl(self, target: str) -> str:
        """Return the URL of *target*, asked for with all others of this turn. The loop stands still then."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._answer)
        answer: asyncio.Future[str] = loop.create_future()
        self._waiting.append((target, answer))
        return await answer

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, []
        urls = self.urls([target for target, _ in waiting])
        for (_, answer), url in zip(waiting, urls, strict=True):
            answer.set_result(url)
