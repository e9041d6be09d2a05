"""
The cache that all processes share: what a signer adds to a URL, by the object it is for.

An entry holds no URL. Each process puts the URL together by its own plan, so that a
foreign or damaged entry can name no other object: at worst S3 refuses it. What does
not have the form of an entry, or cannot be served any more, counts as rejected and is
written over.

The shared cache can only help. When it fails nothing is raised: objects are missing.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Protocol, TypeVar

from pymemcache.client.base import Client  # type: ignore[import-untyped]

from .epochs import Epochs
from .local import Entry
from .memcached import Failed, Server, Skipped, parse
from .metrics import Counts
from .objects import S3Object, board_key
from .plans import DIGEST, Shelf, Signature
from .policy import FOREVER, Credential
from .resolver import Clock, Copy, Item
from .seal import Seal

__all__ = ["Shared", "decode", "encode"]

#: Version, date, access key, signature; of a session also from when until when it works, and its token.
_INSTANT = r"(\d{1,10}(?:\.\d{1,9})?)"
_FORM = re.compile(
    rf"1 (\d{{10}}) ([!-~]{{1,128}}) ([0-9a-f]{{64}})(?: {_INSTANT} {_INSTANT} ([!-~]{{1,8192}}))?", re.ASCII
).fullmatch

#: Times that the board is read and written until it stands: others may be writing it too.
_MOST_EXCHANGES = 20

#: What stands for the token of a key that ends and has none, as some of ``credential_process`` do.
_TOKENLESS = "-"

T = TypeVar("T")


def encode(signature: Signature) -> bytes:
    """Return *signature* as it is stored."""
    date, digest, credential = signature
    text = f"1 {date} {credential.access_key} {digest}"
    if credential.end != inf:
        text += f" {credential.obtained!r} {credential.end!r} {credential.token or _TOKENLESS}"
    return text.encode("ascii")


def decode(data: bytes) -> Signature | None:
    """Return what `encode` was given, or None: *data* has not that form."""
    found = _FORM(data.decode("latin-1"))
    if found is None:
        return None
    date, access_key, digest, obtained, end, token = found.groups()
    if obtained is None:
        credential = FOREVER._replace(access_key=access_key)
    else:
        token = None if token == _TOKENLESS else token
        credential = Credential(float(obtained), float(end), "credentials", access_key, token)
        if credential.obtained >= credential.end:
            return None
    return Signature(int(date), digest, credential)


class Signs(Protocol):
    """Whoever can make a URL of another process's signature."""

    def shelf(self, obj: S3Object) -> Shelf | None:
        """Return what the URL of *obj* has in common with others; None: other processes cannot use it."""

    def adopted(self, obj: S3Object, signature: Signature, wall: float, monotonic: float) -> Entry | None:
        """Return the URL of *obj* with *signature*; None: it must not be used."""


class Shared:
    """Entries in memcached, for the objects of one presigner. For any number of threads."""

    def __init__(
        self,
        url: str,
        namespace: str,
        signs: Signs,
        epochs: Epochs,
        raised: Callable[[], None],  # called when others have raised an epoch
        seal: Seal | None,  # None: what is stored can be read and forged
        counts: Counts,
        clock: Clock,
    ) -> None:
        self._server = Server(*parse(url))
        self._namespace = namespace
        self._signs = signs
        self._counts = counts
        self._clock = clock
        self._epochs = epochs
        self._raised = raised
        self._board = board_key(namespace)
        self._seal = seal

    def is_down(self) -> bool:
        """Return whether the server failed lately and is not asked; it is probed in the background."""
        is_down = self._server.is_down()
        self._counts.shared_skipped += is_down
        return is_down

    def connect(self) -> None:
        """Begin to connect, in the background."""
        self._server.connect()

    def close(self) -> None:
        """Close connections. A later use opens them again."""
        self._server.close()

    def read(self, objects: Sequence[S3Object], deadline: float) -> dict[S3Object, Copy]:
        """
        Return what there is of *objects*, asked for in one round trip.

        Gives up at *deadline* (``time.monotonic()``). What is missing has no entry here;
        neither has anything when the server fails.
        """
        keys = {key: obj for obj in objects if (key := self._key(obj)) is not None}
        found = self._use(lambda client: client.gets_many(list(keys)), deadline) if keys else None
        if found is None:
            return {}
        missing = len(keys) - len(found)
        self._counts.shared_misses += missing
        return {keys[key]: self._copy(key, keys[key], *value) for key, value in found.items()}

    def publish(self, items: Sequence[Item], deadline: float) -> list[Entry]:
        """
        Store new URLs, and return for each what all processes are to use from now on.

        Who is first wins: one that is new is added, one that replaces another does so only
        where nobody else has. What every process would sign alike is just written.
        """
        standing = {item.entry.object: item.entry for item in items}
        wanted = {key: item for item in items if (key := self._key(item.entry.object)) is not None}
        # Twice, for whoever could not read before: what stands there may be of no use.
        for _ in range(2):
            found = self._use(partial(self._write, items=wanted), deadline) if wanted else None
            wanted = self._settle(wanted, found or {}, standing)
        return list(standing.values())

    def catch_up(self, deadline: float) -> bool:
        """
        Know the epochs that other processes have raised, and let them know those raised here.

        Nearly always one read is all, since nothing is behind. Return whether the server has
        answered and knows all that is known here.
        """
        for _ in range(_MOST_EXCHANGES):
            monotonic = self._clock.monotonic()
            is_current = self._use(self._exchange, deadline)
            if is_current is None:
                return False
            if is_current:
                self._epochs.rely(monotonic, was_read=True)
                return True
        return False

    def _exchange(self, client: Client) -> bool:
        """Know what the board says; write it where it is missing or behind. Return whether it was neither."""
        wall, monotonic = self._clock.time(), self._clock.monotonic()
        key = self._board
        data, version = client.gets(key)
        if data is None:
            client.add(key, self._sealed(key, self._epochs.begin(wall, monotonic)), noreply=False)
            return False
        before = self._epochs.version
        board = self._unsealed(key, data)
        is_to_write = None if board is None else self._epochs.absorb(board, wall)
        if self._epochs.version != before:
            self._raised()
        if is_to_write is None:
            self._counts.epochs_rejected += 1
            client.cas(key, self._sealed(key, self._epochs.begin(wall, monotonic)), version, noreply=False)
        elif is_to_write:
            client.cas(key, self._sealed(key, self._epochs.board()), version, noreply=False)
        return is_to_write is False

    def _write(self, client: Client, items: Mapping[str, Item]) -> dict[str, tuple[bytes, bytes]]:
        """Store *items*, and return what stands where another process may have been first."""
        wall = self._clock.time()
        contested = []
        for key, (entry, version, _) in items.items():
            # Until it is SPENT, and not until it ends: nobody would be served it after that.
            expire = int(entry.ageing_until - wall)
            if expire < 1:  # to memcached 0 is for ever
                continue
            data = self._sealed(key, encode(Signature(entry.date, entry.url[-DIGEST:], entry.credential)))
            # Without a reply, since the answer that counts is what stands there in the end.
            if not entry.is_contested:
                client.set(key, data, expire, noreply=True)
                continue
            contested.append(key)
            if version is None:
                client.add(key, data, expire, noreply=True)
            else:
                client.cas(key, data, version, expire, noreply=True)
        found: dict[str, tuple[bytes, bytes]] = client.gets_many(contested) if contested else {}
        return found

    def _settle(
        self,
        written: Mapping[str, Item],
        found: Mapping[str, tuple[bytes, bytes]],
        standing: dict[S3Object, Entry],
    ) -> dict[str, Item]:
        """Note in *standing* what was *found* and is of use; return what is to be written over the rest."""
        wall, monotonic = self._clock.time(), self._clock.monotonic()
        left = {}
        for key, value in found.items():
            own, _, accepts = written[key]
            entry, version = self._copy(key, own.object, *value)
            is_worse = (
                own.is_fresh(wall, monotonic) and entry is not None and not entry.is_fresh(wall, monotonic)
            )
            if entry is None or is_worse or not (entry.url == own.url or accepts(entry, wall, monotonic)):
                left[key] = Item(own, version, accepts)
            elif entry.url != own.url:
                standing[own.object] = entry
                self._counts.shared_adopted += 1
        return left

    def _key(self, obj: S3Object) -> str | None:
        """Return the cache key of *obj*, or None if it is not shared."""
        shelf = self._signs.shelf(obj)
        return None if shelf is None else obj.cache_key(self._namespace, *shelf)

    def _copy(self, key: str, obj: S3Object, data: bytes, version: bytes) -> Copy:
        plain = self._unsealed(key, data)
        signature = None if plain is None else decode(plain)
        wall, monotonic = self._clock.time(), self._clock.monotonic()
        entry = signature and self._signs.adopted(obj, signature, wall, monotonic)
        if entry is None:
            self._counts.shared_rejected += 1
        return Copy(entry, version)

    def _sealed(self, key: str, data: bytes) -> bytes:
        return data if self._seal is None else self._seal.seal(key, data)

    def _unsealed(self, key: str, data: bytes) -> bytes | None:
        return data if self._seal is None else self._seal.unseal(key, data)

    def _use(self, work: Callable[[Client], T], deadline: float) -> T | None:
        """Return what *work* returns, or None: the server failed or is not asked."""
        try:
            return self._server.use(work, deadline)
        except Skipped:
            self._counts.shared_skipped += 1
        except Failed:
            self._counts.shared_errors += 1
        return None
