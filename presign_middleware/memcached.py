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
import socket
from collections.abc import Callable
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

#: Connections kept for a server. More are made when more are wanted at once, and closed after use.
_MOST_IDLE = 16

T = TypeVar("T")


class Failed(Exception):
    """The server failed, or was not in time. Never leaves the library."""


class Skipped(Exception):
    """The server failed lately, and was not asked."""


class _Socket(socket.socket):
    """A socket that gives up at an instant, where others give up after so long a silence."""

    deadline = inf  # monotonic seconds

    def recv(self, *args: Any) -> bytes:
        self._limit()
        return super().recv(*args)

    def sendall(self, *args: Any) -> None:
        self._limit()
        return super().sendall(*args)

    def _limit(self) -> None:
        if self.deadline != inf:
            left = self.deadline - monotonic()
            if left <= 0:
                raise TimeoutError
            self.settimeout(left)


#: What pymemcache takes for the socket module.
_sockets: Any = ModuleType("socket")
vars(_sockets).update(vars(socket), socket=_Socket)


def parse(url: str) -> tuple[str, int]:
    """Return host and port of ``memcached://host:port``. Raises ConfigurationError."""
    scheme, _, rest = url.partition("://") if isinstance(url, str) else ("", "", "")
    host, _, port = rest.removesuffix("/").rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    plain = host and not set(host) & set("/?#@, \\") and (":" not in host or rest.startswith("["))
    if scheme != "memcached" or not plain or not port.isascii() or not port.isdecimal():
        raise ConfigurationError(f'shared must look like "memcached://host:port", got {_shown(url)}')
    if not 0 < int(port) < 65_536:
        raise ConfigurationError(f"shared has port {port}; wanted 1 to 65535")
    return host, int(port)


def _shown(url: object) -> str:
    # A user's name and password, which have no meaning here, may have been put in.
    text = url if isinstance(url, str) else type(url).__name__
    return repr(text if "@" not in text else "...@" + text.rpartition("@")[2])


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
        self._failures = 0  # since the last answer; over 0, the breaker is open
        self._retry_at = -inf  # monotonic
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
        try:
            answer = work(client)
        except BaseException as error:
            client.close()
            if not isinstance(error, Exception):
                raise
            self._fail(era, error)
            raise Failed(type(error).__name__) from error
        with self._condition:
            if era == self._era and len(self._idle) < _MOST_IDLE:
                self._idle.append(client)
                if self._waiting:
                    self._condition.notify()
                return answer
        client.close()
        return answer

    def connect(self) -> None:
        """Begin to make a connection, in the background, if there is none."""
        with self._condition:
            if not self._idle and not self._connecting and monotonic() >= self._retry_at:
                self._begin_to_connect()

    def close(self) -> None:
        """Close what is not in use. A later use connects again."""
        with self._condition:
            idle, self._idle = self._idle, []
            self._era += 1
        for client in idle:
            client.close()

    def _take(self, deadline: float) -> tuple[Client, int]:
        with self._condition:
            self._waiting += 1
            try:
                while not self._idle:
                    if self._failures:
                        if not self._connecting and monotonic() >= self._retry_at:
                            self._begin_to_connect()
                        raise Skipped
                    if self._connecting < self._waiting:
                        self._begin_to_connect()
                    era = self._era
                    if not self._condition.wait(deadline - monotonic()):
                        break
            finally:
                self._waiting -= 1
            if self._idle:
                return self._idle.pop(), self._era
        self._fail(era, TimeoutError("no connection in time"))
        raise Failed("TimeoutError")

    def _begin_to_connect(self) -> None:
        self._connecting += 1
        Thread(target=self._connect, args=(self._era,), name="presign-memcached", daemon=True).start()

    def _connect(self, era: int) -> None:
        client, failure = None, None
        try:
            client = self._connected()
        except Exception as error:  # of the resolver, the socket, pymemcache
            failure = error
        with self._condition:
            self._connecting -= 1
            if client is not None:
                if self._failures:
                    logger.info("memcached %s answers again", self.name)
                self._failures = 0
                self._idle.append(client)
            self._condition.notify_all()
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
            self._failures += 1
            self._era += 1
            pause = min(_LONGEST_PAUSE, _SHORTEST_PAUSE * 2 ** (self._failures - 1))
            self._retry_at = monotonic() + pause * random.uniform(0.5, 1)
            idle, self._idle = self._idle, []
            is_first = self._failures == 1
            self._condition.notify_all()
        for client in idle:
            client.close()
        if is_first:
            logger.warning(
                "memcached %s failed (%s): URLs are signed in this process until it answers again",
                self.name,
                type(error).__name__,
            )
