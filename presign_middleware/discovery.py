"""
The nodes of an ElastiCache cluster, as its configuration endpoint tells of them.

It is asked in the background and over a connection of its own, since what it answers
is of no form that other commands have: read to its END, until a deadline. Asked again
every minute in which anybody asks for the nodes; an answer that cannot be read changes
nothing.
"""

import logging
import re
from math import inf
from threading import Condition, Thread
from time import monotonic

from .addresses import Address, Addresses
from .memcached import Connection, resolved

__all__ = ["Discovery"]

logger = logging.getLogger("presign_middleware.memcached")

#: Seconds after which the nodes are asked for again: when they were told, and when they were not.
_AGAIN_AFTER, _SOONER_AFTER = 60.0, 2.0

#: Bytes of the longest answer. A cluster has 60 nodes at most, each told of in 100 bytes or so.
_LONGEST = 65_536

#: Version, and nodes as host|ip|port; the address may be absent.
_ANSWER = re.compile(rb"CONFIG cluster \d+ (\d+)\r\n(?s:(.*))\r\nEND\r\n").fullmatch
_NODES = re.compile(r"\d+\r?\n([^\n]*?)\s*").fullmatch


class Discovery:
    """Who knows the nodes of the cluster. *condition* is notified when that changes."""

    def __init__(self, addresses: Addresses, condition: Condition) -> None:
        (self._endpoint,) = addresses.servers
        self._tls = addresses.tls
        self._condition = condition
        # What follows is written with the condition held.
        self.nodes: tuple[Address, ...] = ()
        self.is_asking = False
        self.has_failed = False  # the last time
        self._again_at = -inf  # monotonic

    def look(self) -> None:
        """Begin to ask for the nodes, in the background, if it is time for that."""
        if self.is_asking or monotonic() < self._again_at:  # without the condition: for next to everybody
            return
        with self._condition:
            if self.is_asking or monotonic() < self._again_at:
                return
            try:
                Thread(target=self._ask, name="presign-discovery", daemon=True).start()
            except RuntimeError:  # no more threads, or the interpreter is ending
                return
            self.is_asking = True

    def _ask(self) -> None:
        nodes: tuple[Address, ...] | None = None
        failure = ""
        try:
            nodes = _read(self._answer())
        except Exception as error:  # of the resolver, the socket, the answer
            failure = type(error).__name__
        with self._condition:
            is_first, self.has_failed = not self.has_failed, nodes is None
            self._again_at = monotonic() + (_AGAIN_AFTER if nodes else _SOONER_AFTER)
            before, self.nodes = self.nodes, nodes or self.nodes
            self.is_asking = False
            self._condition.notify_all()
        if nodes is None and is_first:
            logger.warning("memcached nodes could not be asked for at %s (%s)", self._endpoint, failure)
        elif nodes and nodes != before:
            logger.info("memcached nodes of %s: %s", self._endpoint, ", ".join(map(str, nodes)))

    def _answer(self) -> bytes:
        failure: Exception | None = None
        for family, where in resolved(self._endpoint):
            try:
                connection = Connection(family, where, self._endpoint.host, self._tls)
            except OSError as error:
                failure = error
                continue
            try:
                return _exchanged(connection)
            finally:
                connection.close()
        raise failure or OSError("the name has no address")


def _exchanged(connection: Connection) -> bytes:
    """Return what *connection* answers, up to and with its END."""
    connection.sendall(b"config get cluster\r\n")
    answer = b""
    while not _is_complete(answer):
        received = connection.recv(4096)
        if not received or len(answer) > _LONGEST:
            raise ConnectionError("the answer has no end")
        answer += received
    return answer


def _is_complete(answer: bytes) -> bool:
    # The header of an answer counts its bytes, but END alone on a line is in none of them.
    is_error = not answer.startswith(b"CONFIG "[: len(answer)])
    return answer.endswith(b"\nEND\r\n") or (is_error and answer.endswith(b"\n"))


def _read(answer: bytes) -> tuple[Address, ...]:
    """Return the nodes that *answer* tells of. Raises ValueError."""
    found = _ANSWER(answer)
    nodes = _NODES(found[2].decode("ascii")) if found and int(found[1]) == len(found[2]) else None
    if nodes is None:
        raise ValueError("no configuration of a cluster")
    addresses = [_node(*text.split("|")) for text in nodes[1].split()]
    if not addresses:
        raise ValueError("a cluster without nodes")
    return tuple(dict.fromkeys(addresses))


def _node(host: str, ip: str, port: str) -> Address:
    # By its name, which a node keeps when it is replaced, and which its certificate is for.
    name = host or ip
    address = Address.parse(f"[{name}]:{port}" if ":" in name else f"{name}:{port}")
    if address.port is None:
        raise ValueError("a node that is a path")
    return address
