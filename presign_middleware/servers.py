"""
The memcached servers of the shared cache: which of them has a key, and all of them at once.

A key is on the server that rendezvous hashing gives its slot, one of 4096: the same in
every process, and one server that comes or goes moves the keys of its own slots and no
others. A server that is down stays the place of its keys, which are misses meanwhile:
processes that disagree on who is down would otherwise split the fleet.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import shake_256
from threading import Condition
from time import monotonic
from typing import TypeVar

from pymemcache.client.base import Client  # type: ignore[import-untyped]

from .addresses import Address, Addresses
from .discovery import Discovery
from .memcached import Answer, Ask, Failed, Server, Skipped, Value, exchange
from .metrics import Counts

__all__ = ["Put", "Servers", "shares"]

#: A key's slot is its last digits: keys end with the hexadecimal digits of a digest.
_DIGITS = 3
_SLOTS = 16**_DIGITS

#: What is to stand under a key, and what stood there when it was made.
Put = tuple[bytes, Value | None]

T = TypeVar("T")


def shares(names: Iterable[str]) -> dict[str, str]:
    """Return the name of the server that has each slot, of those of *names*."""
    # A weight for each server and slot; the heaviest has it.
    names = sorted(names)
    weights = [struct.unpack(f">{_SLOTS}Q", shake_256(name.encode()).digest(8 * _SLOTS)) for name in names]
    return {
        f"{slot:0{_DIGITS}x}": names[each.index(max(each))]
        for slot, each in enumerate(zip(*weights, strict=True))
    }


class Servers:
    """
    One memcached or several. For any number of threads.

    Nothing here raises for what servers do; errors are counted, per server asked.
    """

    def __init__(self, addresses: Addresses, counts: Counts) -> None:
        self._tls = addresses.tls
        self._counts = counts
        self._condition = Condition()  # of all servers, so that one can wait for any of them
        self._discovery = Discovery(addresses, self._condition) if addresses.are_discovered else None
        self._addresses: tuple[Address, ...] = ()
        self._servers: dict[str, Server] = {}
        self._owners: dict[str, Server] = {}  # by slot; none where there is one server
        if self._discovery is None:
            self._have(addresses.servers)

    def each(self) -> tuple[Server, ...]:
        """Return the servers there are now: none as long as none has been discovered."""
        if self._discovery is not None:
            self._discovery.look()
            if self._discovery.nodes != self._addresses:
                self._have(self._discovery.nodes)
        return tuple(self._servers.values())

    def known(self) -> tuple[Server, ...]:
        """Return what `each` has returned last. No I/O."""
        return tuple(self._servers.values())

    def found(self, deadline: float) -> tuple[Server, ...]:
        """Return what `each` does, and wait until *deadline* for the first ones to be discovered."""
        self._wait_until_known(deadline)
        return self.each()

    def read(self, keys: Sequence[str], deadline: float) -> dict[str, Value]:
        """Return what stands under *keys*, asking every server that has any of them at once."""
        groups = self._by_server(keys, deadline)
        found: dict[str, Value] = {}
        for server, answer in self._exchange(
            {server: _wanting(group) for server, group in groups.items()}, deadline
        ).items():
            if isinstance(answer, dict):
                self._counts.shared_misses += len(groups[server]) - len(answer)
                found |= answer
        return found

    def write(
        self,
        items: Mapping[str, T],
        write: Callable[[Client, Mapping[str, T]], Sequence[str]],
        deadline: float,
    ) -> tuple[dict[str, Value], list[str]]:
        """
        Have *write* store *items*, by key; return what stands after that, and the keys that were not told.

        It is called for every server with the items that are its own, must want no replies, and
        returns the keys of which is to be known what stands; each server is told and asked in one
        go, and all of them at once.
        """

        def writing(own: Mapping[str, T]) -> Ask:
            return lambda client: write(client, own)

        groups = self._by_server(items, deadline)
        asks = {server: writing({key: items[key] for key in keys}) for server, keys in groups.items()}
        found: dict[str, Value] = {}
        untold = [] if groups else list(items)
        for server, answer in self._exchange(asks, deadline).items():
            if isinstance(answer, dict):
                found |= answer
            else:
                untold += groups[server]
        return found, untold

    def everywhere(self, key: str, puts: Mapping[str, Put], deadline: float) -> dict[str, Value | None]:
        """
        Return what each server has under *key*, by its name; those that do not answer are absent.

        *puts* are tried first, by the names of servers: each replaces what is said to stand
        there, for ever, if nobody else has replaced it.
        """
        self._wait_until_known(deadline)
        asks = {server: _putting(key, puts.get(server.name)) for server in self.each()}
        answers = self._exchange(asks, deadline)
        return {
            server.name: answer.get(key) for server, answer in answers.items() if isinstance(answer, dict)
        }

    def is_down(self) -> bool:
        """Return whether all servers failed lately and are not asked; they are probed in the background."""
        servers = self.each()
        if not servers:
            return self._discovery is not None and not self._discovery.is_asking
        down = [server.is_down() for server in servers]  # all of them, since each may have to be probed
        return all(down)

    def has_failed(self) -> bool:
        """Return whether all servers are known to be down. Asks nobody, and begins no probe."""
        servers = self.known()
        if not servers:
            return self._discovery is not None and self._discovery.has_failed
        return all(server.has_failed for server in servers)

    def connect(self) -> None:
        """Begin to connect to each, in the background."""
        for server in self.each():
            server.connect()

    def close(self) -> None:
        """Close connections. A later use opens them again."""
        for server in self._servers.values():
            server.close()

    def _exchange(self, asks: Mapping[Server, Ask], deadline: float) -> dict[Server, Answer]:
        if not asks:
            return {}
        answers = exchange(asks, deadline)
        for server, answer in answers.items():
            for_now, failed = isinstance(answer, Skipped), isinstance(answer, Failed)
            self._counts.shared_skipped += for_now
            self._counts.shared_errors += failed
            server.skipped += for_now
            server.errors += failed
        return answers

    def _by_server(self, keys: Iterable[str], deadline: float) -> dict[Server, list[str]]:
        self._wait_until_known(deadline)
        servers = self.each()
        if len(servers) < 2:
            return {server: list(keys) for server in servers}
        owners = self._owners
        groups: dict[Server, list[str]] = {}
        for key in keys:
            groups.setdefault(owners[key[-_DIGITS:]], []).append(key)
        return groups

    def _wait_until_known(self, deadline: float) -> None:
        if self._discovery is None or self.each():
            return
        with self._condition:
            while self._discovery.is_asking and not self._discovery.nodes:
                if not self._condition.wait(deadline - monotonic()):
                    break
        self._counts.shared_skipped += not self._discovery.nodes

    def _have(self, addresses: tuple[Address, ...]) -> None:
        """Have the servers at *addresses* from now on; those that stay keep their connections."""
        with self._condition:
            before = self._servers
            servers = {
                name: before.get(name) or Server(address, self._tls, self._condition)
                for name, address in ((str(address), address) for address in addresses)
            }
            if len(servers) > 1:  # and before anybody sees that there is more than one
                self._owners = {slot: servers[name] for slot, name in shares(servers).items()}
            self._addresses, self._servers = addresses, servers
        for name in before.keys() - servers.keys():
            before[name].close()


def _wanting(keys: Sequence[str]) -> Ask:
    return lambda client: keys


def _putting(key: str, put: Put | None) -> Ask:
    def ask(client: Client) -> Sequence[str]:
        match put:
            case (data, None):
                client.add(key, data, noreply=True)
            case (data, (_, version)):
                client.cas(key, data, version, noreply=True)
        return [key]

    return ask
