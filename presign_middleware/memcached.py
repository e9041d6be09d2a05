"""
A memcached server, as one who serves a request must use it.

Connections are made in the background, names are resolved there too: a request only
waits for them, until its deadline. Each use of a connection has that deadline, whatever
number of packets the answer comes in; a connection that overran is closed, so that a
late answer is never taken for another's. After a failure nobody waits any more until a
new connection has answered (a breaker, whose half-open probe is nobody's request).
"""

import logging
import random
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from threading import Condition, Thread
from time import monotonic
from types import ModuleType
from typing import Any, TypeVar

from pymemcache.client.base import Client  # type: ignore[import-untyped]

from .errors import ConfigurationError

__all__ = ["Failed", "Server", "Skipped", "parse"]

logger = logging.getLogger("presign_middleware.memcached")

#: Seconds that making a connection may take, and its first answer. No request waits so long.
_CONNECT_WITHIN = 5.0

#: Seconds between two attempts to reach a server that failed: the first pause, and the longest.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0

#: Doublings that make the one of the other at least.
_MOST_DOUBLINGS = 10

#: Connections kept for a server. More are made when more are wanted at once, and closed after use.
_MOST_IDLE = 16

_URL = re.compile(
    r"memcached://(?:\[([0-9a-f:.]+)\]|([\w.-]+)):(\d{1,5})/?", re.ASCII | re.IGNORECASE
).fullmatch

T = TypeVar("T")


class Failed(Exception):
    """The server failed, or was not in time. Never leaves the library."""


class Skipped(Exception):
    """The server failed lately, and was not asked."""


class _Socket(socket.socket):
    """A socket that gives up at an instant, where others give up after so long a silence."""

    has_answered = False  # since whoever uses it last set this

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.deadline = monotonic() + 2 * _CONNECT_WITHIN  # seconds: for the connection and its first answer

    def recv(self, *args: Any) -> bytes:
        self._limit()
        data = super().recv(*args)
        self.has_answered = True
        return data

    def sendall(self, *args: Any) -> None:
        self._limit()
        return super().sendall(*args)

    def _limit(self) -> None:
        left = self.deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        self.settimeout(left)


#: What pymemcache takes for the socket module.
_sockets: Any = ModuleType("socket")
vars(_sockets).update(vars(socket), socket=_Socket)


def parse(url: str) -> tuple[str, int]:
    """Return host and port of ``memcached://host:port``. Raises ConfigurationError."""
    found = _URL(url) if isinstance(url, str) else None
    if found is None or not 0 < int(found[3]) < 65_536:
        raise ConfigurationError(
            f'shared must look like "memcached://host:port", one server, port 1 to 65535; got {_shown(url)}'
        )
    return found[1] or found[2], int(found[3])


def _shown(url: object) -> str:
    # A user's name and password, which have no meaning here, may have been put in.
    text = url if isinstance(url, str) else type(url).__name__
    return repr(text if "@" not in text else "...@" + text.rpartition("@")[2])[:200]


class Server:
    """One memcached server. For any number of threads."""

    def __init__(self, host: str, port: int) -> None:
        self.name = f"{host}:{port}"
        self._host = host
        self._port = port
        self._addresses: list[tuple[Any, ...]] = []  # of the host, once resolved; reused
        self._condition = Condition()
        # What follows is read and written with the condition held.
        self._idle: list[Client] = []
        self._waiting = 0  # who wait for a connection
        self._connecting = 0
        self._is_open = False  # the breaker: nobody waits
        self._failures = 0  # since the last answer to a request; that of a probe does not count
        self._retry_at = -inf  # monotonic
        self._closings = 0
        self._era = 0  # ends when the server fails: what was begun in an earlier one says nothing new

    def use(self, work: Callable[[Client], T], deadline: float) -> T:
        """
        Return what *work* returns, given a connection, until *deadline* (``time.monotonic()``).

        Raises:
            Failed: The server failed, or it was not in time.
            Skipped: It failed lately; nothing was tried.
        """
        client, era = self._take(deadline)
        assert client.sock is not None  # only those that have answered are kept
        client.sock.deadline = deadline
        client.sock.has_answered = False
        try:
            answer = work(client)
        except BaseException as error:
            client.close()
            if not isinstance(error, Exception):
                raise
            self._fail(era, error)
            raise Failed(type(error).__name__) from error
        with self._condition:
            if client.sock.has_answered:
                self._failures = 0
            if era == self._era and len(self._idle) < _MOST_IDLE:
                self._idle.append(client)
                if self._waiting:
                    self._condition.notify()
                return answer
        client.close()
        return answer

    def is_down(self) -> bool:
        """Return whether the breaker is open; begin a probe if it is time for one."""
        if self._is_open:  # read without the condition: who comes a moment late is told by `use`
            self.connect()
        return self._is_open

    def connect(self) -> None:
        """Begin to make a connection, in the background, if there is none."""
        with self._condition:
            if not self._idle and not self._connecting and monotonic() >= self._retry_at:
                with suppress(Failed):
                    self._begin_to_connect()

    def close(self) -> None:
        """Close what is not in use. A later use connects again."""
        with self._condition:
            idle, self._idle = self._idle, []
            self._era += 1
            self._closings += 1
        for client in idle:
            client.close()

    def _take(self, deadline: float) -> tuple[Client, int]:
        has_waited = False
        with self._condition:
            self._waiting += 1
            try:
                while not self._idle:
                    if self._is_open:
                        if not self._connecting and monotonic() >= self._retry_at:
                            self._begin_to_connect()
                        raise Failed("no connection") if has_waited else Skipped
                    if self._connecting < self._waiting:
                        self._begin_to_connect()
                    era, has_waited = self._era, True
                    if not self._condition.wait(deadline - monotonic()):
                        break
            finally:
                self._waiting -= 1
            if self._idle:
                return self._idle.pop(), self._era
        self._fail(era, TimeoutError("no connection in time"))
        raise Failed("TimeoutError")

    def _begin_to_connect(self) -> None:
        work = partial(self._connect, self._era, self._closings)
        try:
            Thread(target=work, name="presign-memcached", daemon=True).start()
        except RuntimeError as error:  # no more threads, or the interpreter is ending
            raise Failed("no thread") from error
        self._connecting += 1

    def _connect(self, era: int, closings: int) -> None:
        client, failure = None, None
        try:
            client = self._connected()
        except Exception as error:  # of the resolver, the socket, pymemcache
            failure = error
        with self._condition:
            self._connecting -= 1
            if client is not None and closings == self._closings:
                if self._is_open:
                    logger.info("memcached %s answers again", self.name)
                self._is_open = False
                if len(self._idle) < max(_MOST_IDLE, self._waiting):
                    self._idle.append(client)
                    client = None
            self._condition.notify_all()
        if client is not None:
            client.close()
        if failure is not None:
            self._fail(era, failure)

    def _connected(self) -> Client:
        """Return a connection that has answered."""
        if not self._addresses:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self._addresses = [address[:2] for *_, address in found]
        failure: Exception | None = None
        for address in self._addresses:
            client = Client(
                address,
                connect_timeout=_CONNECT_WITHIN,
                timeout=_CONNECT_WITHIN,
                no_delay=True,  # or several writes and a read would wait for each other's acknowledgements
                socket_module=_sockets,
            )
            try:
                client.version()
            except Exception as error:
                client.close()
                failure = error
            else:
                return client
        self._addresses = []
        raise failure or OSError("the name has no address")

    def _fail(self, era: int, error: Exception) -> None:
        """Open the breaker, because of what was begun in *era*; keep it open for longer, if it is open."""
        with self._condition:
            if era != self._era:
                return  # others have noticed
            is_first = not self._is_open
            self._is_open = True
            self._era += 1
            pause = min(_LONGEST_PAUSE, _SHORTEST_PAUSE * 2 ** min(self._failures, _MOST_DOUBLINGS))
            self._failures += 1
            self._retry_at = monotonic() + pause * random.uniform(0.5, 1)
            idle, self._idle = self._idle, []
            self._condition.notify_all()
        for client in idle:
            client.close()
        if is_first:
            logger.warning(
                "memcached %s failed (%s): URLs are signed in this process until it answers again",
                self.name,
                type(error).__name__,
            )
