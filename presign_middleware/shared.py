"""
The cache that all processes share: what a signer adds to a URL, by the object it is for.

An entry holds no URL. Each process puts the URL together by its own plan, so that a
foreign or damaged entry can name no other object: at worst S3 refuses it. What does
not have the form of an entry, or cannot be served any more, counts as rejected and is
written over.

The shared cache can only help. When it fails nothing is raised: objects are missing.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from math import inf
from time import monotonic as instant
from typing import Literal, NamedTuple, Protocol

from pymemcache.client.base import Client  # type: ignore[import-untyped]

from .addresses import Addresses
from .epochs import Epochs
from .local import Entry
from .memcached import Failed, Server, State, Value
from .metrics import Counts
from .objects import Kind, S3Object, board_key
from .plans import DIGEST, Shelf, Signature
from .policy import FOREVER, Credential
from .resolver import Clock, Copy, Item
from .seal import Seal, is_this_machine
from .servers import Put, Servers

__all__ = ["Look", "Notes", "Post", "Shared", "decode", "encode"]

#: Version, date, access key, signature; of a session also from when until when it works, and its token.
_INSTANT = r"(\d{1,10}(?:\.\d{1,9})?)"
_FORM = re.compile(
    rf"1 (\d{{10}}) ([!-~]{{1,128}}) ([0-9a-f]{{64}})(?: {_INSTANT} {_INSTANT} ([!-~]{{1,8192}}))?", re.ASCII
).fullmatch

#: Times that the board is read and written until it stands: others may be writing it too.
_MOST_EXCHANGES = 20

#: Servers that are looked at at once.
_MOST_LOOKING = 16

#: Keys that are asked for at once. One answer for many more would not be there in time.
_PORTION = 2_500

#: Kinds of URL whose cache keys are begun: parameter values may be without end.
_MOST_NAMERS = 1_000

#: Seconds that this may take. Nobody waits for it but who has raised an epoch.
_WRITE_WITHIN = 1.0

#: What stands for the token of a key that ends and has none, as some of ``credential_process`` do.
_TOKENLESS = "-"


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
        credential = _lasting(access_key)
    else:
        token = None if token == _TOKENLESS else token
        credential = Credential(float(obtained), float(end), "credentials", access_key, token)
        if credential.obtained >= credential.end:
            return None
    return Signature(int(date), digest, credential)


@lru_cache(maxsize=64)
def _lasting(access_key: str) -> Credential:
    return FOREVER._replace(access_key=access_key)


class Look(NamedTuple):
    """What one server looks like from here."""

    server: str  #: its name
    is_private: bool  #: whether nobody on the way there can read what is said
    is_skipped: bool  #: whether this process asks it for nothing at present, because it failed
    state: State | Failed
    epochs: Literal["readable", "unreadable", "none"]  #: what has been taken back, as it stands there


class Post(NamedTuple):
    """What is to stand under a key for so many seconds; 0: nothing."""

    key: str
    data: bytes
    seconds: int
    is_contested: bool = False  #: whether others write it too: it is put in the place of *version* alone
    version: bytes | None = None  #: None: of nothing


#: What stands under keys, opened, and its version. Empty: damaged, or sealed with another secret.
Notes = dict[str, tuple[bytes, bytes]]


#: Returns the URL of an object with another process's signature; None: it must not be used.
Adopt = Callable[[S3Object, Signature], Entry | None]


class Signs(Protocol):
    """Whoever can make a URL of another process's signature."""

    def shelf(self, obj: S3Object) -> Shelf | None:
        """Return what the URL of *obj* has in common with others; None: other processes cannot use it."""

    def adopter(self, obj: S3Object, wall: float, monotonic: float) -> Adopt | None:
        """Return what makes URLs of other processes' signatures, of *obj* and its kind; None: nothing can."""


class Shared:
    """Entries in memcached, for the objects of one presigner. For any number of threads."""

    def __init__(
        self,
        addresses: Addresses,
        namespace: str,
        signs: Signs,
        epochs: Epochs,
        raised: Callable[[], None],  # called when others have raised an epoch
        seal: Seal | None,  # None: what is stored can be read and forged
        counts: Counts,
        clock: Clock,
    ) -> None:
        self._servers = Servers(addresses, counts)
        self._namespace = namespace
        self._signs = signs
        self._counts = counts
        self._clock = clock
        self._epochs = epochs
        self._raised = raised
        self._board = board_key(namespace)
        self._seal = seal
        self._namers: dict[tuple[Kind, Shelf], Callable[[str], str]] = {}

    @property
    def namespace(self) -> str:
        """The namespace of all that is stored."""
        return self._namespace

    @property
    def is_sealed(self) -> bool:
        """Whether what is stored is of no use to those without the secret."""
        return self._seal is not None

    def look(self, deadline: float) -> list[Look]:
        """
        Return what each server looks like, asking all of them at once. Writes nothing.

        Blocks for some seconds at most; *deadline* (``time.monotonic()``) is for learning which
        servers there are. Nothing: nobody knows that yet.
        """
        servers = self._servers.found(deadline)
        with ThreadPoolExecutor(_MOST_LOOKING) as pool:
            return list(pool.map(self._look, servers))

    def _look(self, server: Server) -> Look:
        state: State | Failed
        epochs: Literal["readable", "unreadable", "none"] = "none"
        try:
            state = server.state(self._board)
        except Failed as failure:
            state = failure
        else:
            if state.value is not None:
                data = self._unsealed(self._board, state.value)
                is_read = data is not None and self._epochs.can_read(data)
                epochs = "readable" if is_read else "unreadable"
        is_private = server.is_private or is_this_machine(server.host)
        return Look(server.name, is_private, server.has_failed, state, epochs)

    def is_down(self) -> bool:
        """Return whether all servers failed lately and are not asked; they are probed in the background."""
        is_down = self._servers.is_down()
        self._counts.shared_skipped += is_down
        return is_down

    def has_failed(self) -> bool:
        """Return what `is_down` does, without counting it, and without a probe."""
        return self._servers.has_failed()

    def servers(self) -> tuple[Server, ...]:
        """Return the servers that are known. No I/O."""
        return self._servers.known()

    def connect(self) -> None:
        """Begin to connect, in the background."""
        self._servers.connect()

    def notes(self, keys: Sequence[str], deadline: float, post: Post | None = None) -> Notes | None:
        """
        Return what stands under *keys*, which are nobody's entries; None: not all servers have answered.

        *post* is left first. Nothing is counted as missing: what stands here speeds nothing up.
        """
        if self._servers.is_down():
            return None
        wanted: dict[str, Post | None] = dict.fromkeys(keys)
        if post is not None:
            wanted[post.key] = post
        found, untold = self._servers.write(wanted, self._post, deadline)
        return None if untold else {key: self._note(key, *found[key]) for key in keys if key in found}

    def _post(self, client: Client, wanted: Mapping[str, Post | None]) -> list[str]:
        for post in wanted.values():
            if post is not None:
                data, options = self._sealed(post.key, post.data), {"expire": post.seconds, "noreply": True}
                if not post.seconds:
                    client.delete(post.key, noreply=True)
                elif not post.is_contested:
                    client.set(post.key, data, **options)
                elif post.version is None:
                    client.add(post.key, data, **options)
                else:
                    client.cas(post.key, data, post.version, **options)
        return list(wanted)

    def _note(self, key: str, data: bytes, version: bytes) -> tuple[bytes, bytes]:
        return self._unsealed(key, data) or b"", version

    def close(self) -> None:
        """Close connections. A later use opens them again."""
        self._servers.close()

    def read(self, objects: Sequence[S3Object], deadline: float) -> dict[S3Object, Copy]:
        """
        Return what there is of *objects*, asked for in one round trip; of more, 2,500 in each.

        Gives up at *deadline* (``time.monotonic()``). What is missing has no entry here;
        neither has what is on a server that fails, nor what was too much for the time.
        """
        found = self._found(objects, deadline)
        wall, monotonic = self._clock.time(), self._clock.monotonic()
        adopters: dict[Kind, Adopt | None] = {}
        copies = {}
        for key, obj, value in found:
            if obj.kind not in adopters:
                adopters[obj.kind] = self._signs.adopter(obj, wall, monotonic)
            copies[obj] = self._copy(key, obj, value, adopters[obj.kind])
        return copies

    def _found(self, objects: Sequence[S3Object], deadline: float) -> list[tuple[str, S3Object, Value]]:
        found: list[tuple[str, S3Object, Value]] = []
        for start in range(0, len(objects), _PORTION):
            began = instant()
            keys = self._keys(objects[start : start + _PORTION])
            if keys:
                values = self._servers.read(list(keys), deadline)
                found += [(key, keys[key], value) for key, value in values.items()]
            now = instant()
            # A server that is sound must not be blamed for a call that asks for more than there is time for.
            if self._servers.has_failed() or deadline - now < 2 * (now - began):
                break
        return found

    def publish(self, items: Sequence[Item], deadline: float) -> tuple[list[Entry], list[Item]]:
        """
        Store new URLs; return for each what all processes are to use from now on, and those not stored.

        Who is first wins: one that is new is added, one that replaces another does so only
        where nobody else has. What every process would sign alike is just written.
        """
        standing = {item.entry.object: item.entry for item in items}
        by_object = {item.entry.object: item for item in items}
        wanted = {key: by_object[obj] for key, obj in self._keys(by_object).items()}
        untold: list[Item] = []
        # Twice, for whoever could not read before: what stands there may be of no use.
        for _ in range(2):
            found, keys = self._servers.write(wanted, self._write, deadline) if wanted else ({}, [])
            untold += [wanted[key] for key in keys]
            wanted = self._settle(wanted, found, standing)
        return list(standing.values()), untold

    def catch_up(self, deadline: float) -> bool:
        """
        Know the epochs that other processes have raised, and let them know those raised here.

        Every server has a board. Nearly always one read is all, since none is behind. Return
        whether every server has answered, and knows what is known here.
        """
        key, puts, written_by = self._board, dict[str, Put](), max(deadline, instant() + _WRITE_WITHIN)
        for _ in range(_MOST_EXCHANGES):
            wall, monotonic, before = self._clock.time(), self._clock.monotonic(), self._epochs.version
            found = self._servers.everywhere(key, puts, deadline)
            boards = {name: value and (self._unsealed(key, value[0]) or b"") for name, value in found.items()}
            behind = self._outdated(found, boards) | self._epochs.exchange(boards, wall, monotonic)
            if self._epochs.version != before:
                self._raised()
            if not behind:
                if found:
                    self._epochs.rely(monotonic, was_read=True)
                return 0 < len(found) == len(self._servers.each())
            puts = {name: (self._sealed(key, board), found[name]) for name, board in behind.items()}
            deadline = written_by  # a server is not to be blamed for the time that all this has taken
        return False

    def _outdated(
        self, found: Mapping[str, Value | None], boards: Mapping[str, bytes | None]
    ) -> dict[str, bytes]:
        """Return those of *boards* that are to be sealed anew, before their secret or their day is past."""
        seal = self._seal
        if seal is None:
            return {}
        return {
            name: board
            for name, board in boards.items()
            if board and (value := found[name]) and not seal.is_fresh(self._board, value[0])
        }

    def _write(self, client: Client, items: Mapping[str, Item]) -> list[str]:
        """Store *items*, and return the keys where another process may have been first."""
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
        return contested

    def _settle(
        self,
        written: Mapping[str, Item],
        found: Mapping[str, Value],
        standing: dict[S3Object, Entry],
    ) -> dict[str, Item]:
        """Note in *standing* what was *found* and is of use; return what is to be written over the rest."""
        wall, monotonic = self._clock.time(), self._clock.monotonic()
        left = {}
        for key, value in found.items():
            own, _, accepts = written[key]
            adopt = self._signs.adopter(own.object, wall, monotonic)
            entry, version = self._copy(key, own.object, value, adopt)
            is_worse = (
                own.is_fresh(wall, monotonic) and entry is not None and not entry.is_fresh(wall, monotonic)
            )
            if entry is None or is_worse or not (entry.url == own.url or accepts(entry, wall, monotonic)):
                left[key] = Item(own, version, accepts)
            elif entry.url != own.url:
                standing[own.object] = entry
                self._counts.shared_adopted += 1
        return left

    def _keys(self, objects: Collection[S3Object]) -> dict[str, S3Object]:
        """Return *objects* by their cache keys; those that are not shared have none."""
        keys: dict[str, S3Object] = {}
        namers: dict[Kind, Callable[[str], str] | None] = {}
        for obj in objects:
            kind, key = obj
            if kind not in namers:
                namers[kind] = self._namer(obj)
            if (namer := namers[kind]) is not None:
                keys[namer(key)] = obj
        return keys

    def _namer(self, obj: S3Object) -> Callable[[str], str] | None:
        """Return what tells the cache keys of objects of *obj*'s kind; None: they are not shared."""
        shelf = self._signs.shelf(obj)
        if shelf is None:
            return None
        namer = self._namers.get((obj.kind, shelf))
        if namer is None:
            if len(self._namers) >= _MOST_NAMERS:
                self._namers.clear()
            namer = self._namers[obj.kind, shelf] = obj.kind.cache_keys(self._namespace, *shelf)
        return namer

    def _copy(self, key: str, obj: S3Object, value: Value, adopt: Adopt | None) -> Copy:
        data, version = value
        plain = self._unsealed(key, data)
        signature = None if plain is None else decode(plain)
        entry = None if signature is None or adopt is None else adopt(obj, signature)
        if entry is None:
            self._counts.shared_rejected += 1
        return Copy(entry, version)

    def _sealed(self, key: str, data: bytes) -> bytes:
        return data if self._seal is None else self._seal.seal(key, data)

    def _unsealed(self, key: str, data: bytes) -> bytes | None:
        return data if self._seal is None else self._seal.unseal(key, data)
