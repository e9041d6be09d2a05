"""
Servers on loopback that fail on demand: a memcached that is none, and a proxy before a real one.

    with FakeMemcached(FakeMemcached.blackhole) as server: ...
    with Memcached() as upstream, Proxy(upstream.address) as proxy: ...

Their methods change the fault at run time, for connections that there are and those to
come, and can be called from any thread. Counters and records are written before the
client has its answer; what the client does not wait for is waited for with `eventually`.

Durations are seconds.
"""

import contextlib
import random
import socket
import ssl
import struct
import threading
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

_CHUNK: Final = 65_536
_END_WITHIN: Final = 5.0  # seconds
_STORING: Final = ("set", "add", "replace", "append", "prepend", "cas")

#: A board that knows of no epoch.
EMPTY_BOARD: Final = b"e1" + bytes(4)

#: What closing a socket with this option sends: a reset, and none of what was still to go.
_RESET: Final = struct.pack("ii", 1, 0)


def eventually(condition: Callable[[], object], within: float = 10.0) -> None:
    """Return as soon as *condition* holds; fail if it does not *within* so many seconds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not so within {within} s"
        time.sleep(0.001)


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the text protocol, with its data block if it has one."""

    name: str
    arguments: tuple[str, ...]
    data: bytes = b""

    @property
    def keys(self) -> list[str]:
        """The keys it is about."""
        if self.name in ("get", "gets"):
            return list(self.arguments)
        if self.name in (*_STORING, "delete", "touch", "incr", "decr"):
            return [self.arguments[0]]
        if self.name in ("gat", "gats"):
            return list(self.arguments[1:])
        return []

    @property
    def is_of_board(self) -> bool:
        """Whether it is about a board of epochs."""
        return any(":epochs:" in key for key in self.keys)

    @property
    def noreply(self) -> bool:
        """Whether no answer is wanted."""
        return self.name not in ("get", "gets") and self.arguments[-1:] == ("noreply",)


class Commands:
    """Cut a client's bytes, however they arrive, into commands."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, received: bytes) -> Iterator[Command]:
        """Yield the commands that *received* completes."""
        self._buffer += received
        while (end := self._buffer.find(b"\r\n")) >= 0:
            name, *arguments = self._buffer[:end].decode("utf-8", "replace").split() or [""]
            start = stop = end + 2
            if name in _STORING:
                stop = start + int(arguments[3]) + 2
                if len(self._buffer) < stop:
                    return
            data = self._buffer[start : max(start, stop - 2)]
            self._buffer = self._buffer[stop:]
            yield Command(name, tuple(arguments), data)


class _Listener(ABC):
    """
    Accept connections on loopback, each served in a thread, until the with block ends.

    Attributes:
        accepted: How many connections there have been.
        commands: What was asked of entries, as (name, keys), in the order of arrival.
        board_commands: What was asked of boards of epochs.
    """

    host: Final = "127.0.0.1"

    def __init__(self) -> None:
        self.accepted = 0
        self.commands: list[tuple[str, list[str]]] = []
        self.board_commands: list[tuple[str, list[str]]] = []
        self.port = 0
        self._lock = threading.RLock()
        self._closing = False
        self._connections: dict[socket.socket, threading.Thread] = {}

    @property
    def address(self) -> str:
        """``127.0.0.1:<port>``, in the with block and after."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """``memcached://127.0.0.1:<port>``."""
        return f"memcached://{self.address}"

    @property
    def open(self) -> int:
        """How many connections there are now."""
        with self._lock:
            return len(self._connections)

    @abstractmethod
    def obey(self) -> None:
        """Have no fault."""

    @abstractmethod
    def _admits(self, connection: socket.socket) -> bool:
        """Return whether to serve *connection*; if not it is closed."""

    @abstractmethod
    def _serve(self, connection: socket.socket) -> None:
        """Serve *connection* until it ends; an OSError ends it as well."""

    def __enter__(self) -> Self:
        self._closing = False
        self._listener = socket.create_server((self.host, 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._closing = True
        # close() would not wake accept().
        with contextlib.suppress(OSError):
            socket.create_connection((self.host, self.port), timeout=_END_WITHIN).close()
        self._join(self._accepting)
        self._listener.close()
        self.obey()
        self._cut()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                if self._closing:
                    connection.close()
                    return
                self.accepted += 1
                if not self._admits(connection):
                    connection.close()
                    continue
                thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
                self._connections[connection] = thread
                thread.start()

    def _run(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                self._serve(connection)
        finally:
            with self._lock:
                del self._connections[connection]

    def _cut(self, how: int = socket.SHUT_RDWR) -> None:
        """Shut down every connection there is, and wait until its thread has closed it."""
        with self._lock:
            connections = dict(self._connections)
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(how)
        for thread in connections.values():
            self._join(thread)

    def _join(self, thread: threading.Thread) -> None:
        thread.join(_END_WITHIN)
        if thread.is_alive():
            raise RuntimeError(f"{thread.name} of {self!r} did not end within {_END_WITHIN} s")

    def _record(self, command: Command) -> None:
        with self._lock:
            commands = self.board_commands if command.is_of_board else self.commands
            commands.append((command.name, command.keys))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"


_Reply = Callable[[socket.socket, bytes], None]


@dataclass(frozen=True, slots=True)
class _Behaviour:
    """
    What becomes of commands: `execute` makes the answer, empty if none is wanted, `reply` sends it.

    `over` is set when another behaviour takes its place.
    """

    execute: Callable[[Command], bytes]
    reply: _Reply
    over: threading.Event


class FakeMemcached(_Listener):
    """
    Speak as much of the text protocol as a cache needs, with faults.

    Commands: version, get, gets, set, add, cas, delete, flush_all, quit, and ElastiCache's
    ``config get cluster``. Nothing ever expires or is evicted; noreply is never answered,
    whatever the fault. A test may write to the mappings as well.

    Attributes:
        values: What is stored.
        expiries: The exptime it was stored with, as it was sent: relative, Unix seconds, or 0.
        flags, uniques: As `gets` gives them; 0 for what a test put into `values`.
        boards: Boards of epochs, apart from `values`; one that knows nothing stands under every such name.
        nodes: Of the cluster, as ``host|ip|port``; none: it is no ElastiCache.

    Args:
        behaviour: One of the methods below, called before there are connections.
        tls: The files of its certificate and key; connections have TLS then.
    """

    def __init__(
        self,
        behaviour: Callable[["FakeMemcached"], object] | None = None,
        *,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        super().__init__()
        self._tls = None if tls is None else ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self._tls is not None and tls is not None:
            self._tls.load_cert_chain(*tls)
        self.values: dict[str, bytes] = {}
        self.expiries: dict[str, int] = {}
        self.flags: dict[str, int] = {}
        self.uniques: dict[str, int] = {}
        self.boards: dict[str, bytes] = {}
        self.nodes: list[str] = []
        self._next_unique = 0
        self._held = 0
        self._released = threading.Event()
        self._released.set()
        self._refusing = False
        self._behaviour = _Behaviour(self._execute, _send, threading.Event())
        if behaviour is not None:
            behaviour(self)

    # -- faults, of which there is one at a time

    def obey(self) -> None:
        """Have no fault; what a fault has swallowed stays unanswered, what is held is released."""
        self._behave(_send)
        self.release()

    def drip(self, seconds: float) -> None:
        """Send answers byte by byte, *seconds* before each, until the fault is another."""
        over = threading.Event()

        def reply(connection: socket.socket, answer: bytes) -> None:
            for position in range(len(answer)):
                if over.wait(seconds):
                    connection.sendall(answer[position:])
                    return
                connection.sendall(answer[position : position + 1])

        self._behave(reply, over=over)

    def split(self, position: int, seconds: float) -> None:
        """Send answers in two pieces, cut at *position*, the second one *seconds* after the first."""
        over = threading.Event()

        def reply(connection: socket.socket, answer: bytes) -> None:
            connection.sendall(answer[:position])
            over.wait(seconds)
            connection.sendall(answer[position:])

        self._behave(reply, over=over)

    def blackhole(self) -> None:
        """Accept, read and record, but neither execute nor answer."""
        self._behave(_send, execute=lambda command: b"")

    def refuse(self) -> None:
        """Close every connection, its held command undone, and each new one as soon as it is accepted."""
        with self._lock:
            self._behave(_send)
            self._refusing = True
        self.release()
        self._cut()

    def garble(self) -> None:
        """Execute, and answer a line of random bytes, the same ones in each run."""
        source = random.Random(0)
        self._behave(lambda connection, answer: connection.sendall(source.randbytes(64) + b"\r\n"))

    def truncate(self) -> None:
        """Execute, answer to the middle of the first value, or of an answer that has none, and hang up."""

        def reply(connection: socket.socket, answer: bytes) -> None:
            start, stop = 0, len(answer)
            if answer.startswith(b"VALUE "):
                header, _, _ = answer.partition(b"\r\n")
                start = len(header) + 2
                stop = start + int(header.split()[3])
            connection.sendall(answer[: (start + stop) // 2])
            connection.shutdown(socket.SHUT_RDWR)

        self._behave(reply)

    def error(self, line: str = "SERVER_ERROR out of memory storing object") -> None:
        """Execute nothing, and answer *line*."""
        answer = f"{line}\r\n".encode()
        self._behave(_send, execute=lambda command: b"" if command.noreply else answer)

    def swap(self) -> None:
        """Give for each key the value of another, or nothing if it is the only one."""
        self._behave(_send, execute=lambda command: self._execute(command, swapped=True))

    def hold(self) -> None:
        """Keep every command waiting, recorded but not executed, until `release`; goes with any fault."""
        self._released.clear()

    def release(self) -> None:
        """Let the held commands go on."""
        self._released.set()

    @property
    def held(self) -> int:
        """How many connections have a command that is held."""
        with self._lock:
            return self._held

    def _behave(
        self,
        reply: _Reply,
        *,
        execute: Callable[[Command], bytes] | None = None,
        over: threading.Event | None = None,
    ) -> None:
        with self._lock:
            self._refusing = False
            self._behaviour.over.set()
            self._behaviour = _Behaviour(execute or self._execute, reply, over or threading.Event())

    # -- connections

    def _admits(self, connection: socket.socket) -> bool:
        return not self._refusing

    def _serve(self, connection: socket.socket) -> None:
        if self._tls is None:
            self._obey_commands(connection)
        else:
            with self._tls.wrap_socket(connection, server_side=True) as encrypted:
                self._obey_commands(encrypted)

    def _obey_commands(self, connection: socket.socket) -> None:
        commands = Commands()
        while received := connection.recv(_CHUNK):
            for command in commands.feed(received):
                self._record(command)
                self._wait_until_released()
                if command.name == "quit" or self._refusing:
                    return
                behaviour = self._behaviour
                answer = behaviour.execute(command)
                if answer:
                    behaviour.reply(connection, answer)

    def _wait_until_released(self) -> None:
        if self._released.is_set():
            return
        with self._lock:
            self._held += 1
        self._released.wait()
        with self._lock:
            self._held -= 1

    # -- commands

    def _execute(self, command: Command, *, swapped: bool = False) -> bytes:
        with self._lock:
            if command.is_of_board:
                answer = self._board(command)
                return b"" if command.noreply else answer
            if command.name in ("get", "gets"):
                return self._get(command, swapped)
            answer = self._answer(command)
        return b"" if command.noreply else answer + b"\r\n"

    def _get(self, command: Command, swapped: bool) -> bytes:
        found = b""
        for key in command.keys:
            source = self._other(key) if swapped else key
            if key not in self.values or source is None:
                continue
            value = self.values[source]
            header = f"VALUE {key} {self.flags.get(source, 0)} {len(value)}"
            if command.name == "gets":
                header += f" {self.uniques.get(key, 0)}"
            found += header.encode() + b"\r\n" + value + b"\r\n"
        return found + b"END\r\n"

    def _board(self, command: Command) -> bytes:
        [key] = command.keys
        board = self.boards.setdefault(key, EMPTY_BOARD)
        unique = zlib.crc32(board)
        if command.name == "gets":
            return b"VALUE %b 0 %d %d\r\n%b\r\nEND\r\n" % (key.encode(), len(board), unique, board)
        if command.name != "cas" or int(command.arguments[4]) != unique:
            return b"EXISTS\r\n" if command.name == "cas" else b"NOT_STORED\r\n"
        self.boards[key] = command.data
        return b"STORED\r\n"

    def _other(self, key: str) -> str | None:
        keys = sorted(self.values)
        if key not in keys or len(keys) == 1:
            return None
        return keys[(keys.index(key) + 1) % len(keys)]

    def _answer(self, command: Command) -> bytes:
        match command:
            case Command("version"):
                return b"VERSION 1.6.0"
            case Command("set" | "add" | "cas"):
                return self._store(command)
            case Command("delete", (key, *_)):
                return b"DELETED" if self._forget(key) else b"NOT_FOUND"
            case Command("config", ("get", "cluster")) if self.nodes:
                told = f"12\n{' '.join(self.nodes)}\n"
                return f"CONFIG cluster 0 {len(told)}\r\n{told}\r\nEND".encode()
            case Command("flush_all"):
                for key in tuple(self.values):
                    self._forget(key)
                return b"OK"
        return b"ERROR"

    def _store(self, command: Command) -> bytes:
        key, flags, exptime, _, *more = command.arguments
        if command.name == "add" and key in self.values:
            return b"NOT_STORED"
        if command.name == "cas":
            if key not in self.values:
                return b"NOT_FOUND"
            if int(more[0]) != self.uniques.get(key, 0):
                return b"EXISTS"
        self._next_unique += 1
        self.values[key] = command.data
        self.flags[key], self.expiries[key], self.uniques[key] = int(flags), int(exptime), self._next_unique
        return b"STORED"

    def _forget(self, key: str) -> bool:
        there = key in self.values
        mappings: tuple[dict[str, Any], ...] = (self.values, self.flags, self.expiries, self.uniques)
        for mapping in mappings:
            mapping.pop(key, None)
        return there


def _send(connection: socket.socket, answer: bytes) -> None:
    connection.sendall(answer)


class Proxy(_Listener):
    """
    Stand between clients and the memcached at *upstream*, and record what is asked.

    If there is nobody at *upstream*, connections are accepted and closed.

    Attributes:
        round_trips: How many times a client has waited: answers, however many
            commands each is to. What is never answered (noreply) counts for nothing.

    Args:
        upstream: ``host:port``, as `Memcached.address`.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self.round_trips = 0
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._delay = 0.0
        self._swallows = False
        self._resets = False
        self._change: Callable[[bytes], bytes] | None = None
        self._hangs_up = False
        self._lost: set[socket.socket] = set()
        self._changed = threading.Event()

    # -- faults, of which there is one at a time

    def obey(self) -> None:
        """Forward again; what a blackhole has swallowed is lost, and connections stay half open."""
        self._behave()

    def delay(self, seconds: float) -> None:
        """Keep each answer for *seconds*, or until the fault is another."""
        self._behave(delay=seconds)

    def blackhole(self) -> None:
        """Accept, read and record, but forward nothing in either direction."""
        self._behave(swallows=True)

    def reset(self) -> None:
        """Reset every connection, and each new one as soon as it is accepted."""
        self._behave(resets=True)
        # For reading alone: the other half would end in order.
        self._cut(socket.SHUT_RD)

    def half_open(self) -> None:
        """Forward no more on the connections there are, as if a router had forgotten them; serve new ones."""
        self._behave()
        with self._lock:
            self._lost |= self._connections.keys()

    def truncate(self) -> None:
        """Bring back the first half of each answer, and hang up."""
        self._behave(change=lambda answer: answer[: len(answer) // 2], hangs_up=True)

    def garble(self) -> None:
        """Answer random bytes, except to whoever asks for the version, so that clients go on asking."""
        source = random.Random(0)
        self._behave(
            change=lambda answer: answer if answer.startswith(b"VERSION ") else source.randbytes(len(answer))
        )

    def _behave(
        self,
        *,
        delay: float = 0.0,
        swallows: bool = False,
        resets: bool = False,
        change: Callable[[bytes], bytes] | None = None,
        hangs_up: bool = False,
    ) -> None:
        with self._lock:
            self._delay, self._swallows, self._resets = delay, swallows, resets
            self._change, self._hangs_up = change, hangs_up
            self._changed.set()
            self._changed = threading.Event()

    # -- connections

    def _admits(self, connection: socket.socket) -> bool:
        if self._resets:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return not self._resets

    def _serve(self, connection: socket.socket) -> None:
        with socket.create_connection(self._upstream, timeout=_END_WITHIN) as server:
            server.settimeout(None)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asked = threading.Event()
            back = threading.Thread(target=self._bring_back, args=(server, connection, asked), daemon=True)
            back.start()
            try:
                self._bring(connection, server, asked)
            finally:
                if self._resets:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    connection.close()
                with contextlib.suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)
                back.join()
                self._lost.discard(connection)

    def _bring(self, connection: socket.socket, server: socket.socket, asked: threading.Event) -> None:
        commands = Commands()
        while received := connection.recv(_CHUNK):
            for command in commands.feed(received):
                self._record(command)
            if not (self._swallows or connection in self._lost):
                asked.set()
                server.sendall(received)

    def _bring_back(self, server: socket.socket, connection: socket.socket, asked: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while received := server.recv(_CHUNK):
                if asked.is_set():
                    asked.clear()
                    with self._lock:
                        self.round_trips += 1
                        delay, changed = self._delay, self._changed
                    changed.wait(delay)
                if self._swallows or self._resets or connection in self._lost:
                    continue
                change, hangs_up = self._change, self._hangs_up
                connection.sendall(change(received) if change else received)
                if hangs_up:
                    break
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
