"""
A memcached server, as one who serves a request must use it; and several of them at once.

Connections are made in the background, names are resolved there too: a request only
waits for them, until its deadline. Each use of a connection has that deadline, whatever
number of packets the answer comes in; a connection that overran is closed, so that a
late answer is never taken for another's. After a failure nobody waits any more until a
new connection has answered (a breaker, whose half-open probe is nobody's request).

Several servers are asked first and then listened to, all at once and in this thread:
one that is slow or silent takes from no other's time.
"""

import logging
import random
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from threading import Condition, Thread
from time import monotonic
from typing import Any, NamedTuple, Self, TypeVar

from pymemcache.client.base import Client  # type: ignore[import-untyped]

from .addresses import Address
from .events import tell

__all__ = [
    "Answer",
    "Ask",
    "Connection",
    "Failed",
    "Server",
    "Skipped",
    "State",
    "Value",
    "exchange",
    "resolved",
]

logger = logging.getLogger("presign_middleware.memcached")

#: Seconds that making a connection may take, and its first answer. No request waits so long.
_CONNECT_WITHIN = 5.0

#: Seconds between two attempts to reach a server that failed: the first pause, and the longest.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0

#: Doublings that make the one of the other at least.
_MOST_DOUBLINGS = 10

#: Connections kept for a server. More are made when more are wanted at once, and closed after use.
_MOST_IDLE = 16

#: Bytes that are read at once where several servers are listened to. A TLS record has no more,
#: and must be read whole: what is left of it is no longer in the socket, and not polled for.
_CHUNK = 16_384

#: Bytes of the longest answer: of a use, some ten thousand entries; of a connection that is new, a board.
#: One without an end would otherwise fill the memory, and for seconds where no request waits.
_LONGEST, _LONGEST_AT_FIRST = 64 * 2**20, 2**20

#: Times that is done after the deadline, for what had arrived before it.
_LAST_LOOKS = 64

#: Seconds after which a connection that is waited for is noticed, while others are listened to.
_LOOK_EVERY = 0.001

T = TypeVar("T")


class Failed(Exception):
    """The server failed, or was not in time. Never leaves the library."""


class Skipped(Exception):
    """The server failed lately, and was not asked."""


class State(NamedTuple):
    """What a server tells of itself."""

    version: str
    round_trip: float  #: seconds
    stats: dict[str, Any]  #: as memcached's ``stats`` names them; numbers are numbers
    value: bytes | None  #: what stands under the key that was asked for, if one was


#: What stands under a key, and its version.
Value = tuple[bytes, bytes]

#: What a server has of the keys it was asked for; or why nobody knows.
Answer = dict[str, Value] | Failed | Skipped

#: Writes to a client, without replies, and returns the keys whose values are wanted after that.
Ask = Callable[[Client], Sequence[str]]


def resolved(address: Address) -> list[tuple[int, Any]]:
    """Return the families and addresses that *address* stands for. Raises OSError; may take long."""
    if address.port is None:
        return [(socket.AF_UNIX, address.host)]
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return [(family, where) for family, _, _, _, where in found]


class Connection:
    """
    What pymemcache takes for a socket: it gives up at an instant, others after so long a silence.

    What is sent leaves when an answer is waited for, with one call.

    Raises:
        OSError: No connection within some seconds, or its certificate is not accepted.
    """

    def __init__(self, family: int, where: Any, host: str, tls: ssl.SSLContext | None) -> None:
        self.deadline = monotonic() + _CONNECT_WITHIN
        self.room = _LONGEST_AT_FIRST  # bytes that may still come
        self.has_answered = False  # since whoever uses it last set this
        self._looks = _LAST_LOOKS  # that are left
        self._unsent = bytearray()
        self._ahead = b""  # a command that the client is yet to send, and that has been sent
        self._heard: deque[bytes] = deque()  # of the answer, that the client has yet to receive
        self._tail = b""
        self._failure: OSError | None = None
        self._is_plain = tls is None
        self._poll = select.poll()
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            if family != socket.AF_UNIX:
                # Or several writes and a read would wait for each other's acknowledgements.
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.settimeout(self._left())
            self._socket.connect(where)
            if tls is not None:
                self._socket.settimeout(self._left())
                self._socket = tls.wrap_socket(self._socket, server_hostname=host)
            # For good: to set a timeout, and to wait before each call as sockets with one do,
            # takes longer than all else that is done here for one answer.
            self._socket.settimeout(0)
        except BaseException:
            self.close()
            raise
        self.fileno = self._socket.fileno
        self._poll.register(self._socket, select.POLLIN)

    # -- as pymemcache uses it

    def sendall(self, data: bytes) -> None:
        """Send *data* when something is received next, or with `flush`."""
        if not self._ahead:
            self._unsent += data
        elif data == self._ahead:
            self._ahead = b""
        else:
            raise ConnectionError("the command is not the one that was sent ahead")

    def recv(self, size: int) -> bytes:
        """Return what comes next, *size* bytes or so, until the deadline."""
        if self._heard:
            return self._heard.popleft()
        if self._failure is not None:
            raise self._failure
        self.flush()
        if self._is_plain:  # what has just been asked for is not there yet; of TLS, something may be
            self._wait(select.POLLIN)
        while True:
            try:
                return self._received(size)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait(select.POLLIN)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT)

    def close(self) -> None:
        """Close it at once."""
        self._socket.close()

    def __del__(self) -> None:
        # A presigner need not be closed, and what a thread of a closed one has just made is nobody's.
        with suppress(AttributeError):  # it has none yet
            self._socket.close()

    # -- as this library uses it

    def begin(self, deadline: float) -> None:
        """Begin a use that ends at *deadline* (``time.monotonic()``)."""
        self.deadline, self.room, self.has_answered = deadline, _LONGEST, False
        self._looks = _LAST_LOOKS

    def flush(self) -> None:
        """Send what is unsent, until the deadline."""
        unsent = self._unsent
        if unsent:
            self._left()  # not if it is too late already
        while unsent:
            try:
                del unsent[: self._socket.send(unsent)]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait(select.POLLOUT)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN)

    def send_ahead(self, command: bytes) -> None:
        """Have *command* sent by `go_on`; when the client sends it, it is not sent again."""
        self._unsent += command
        self._ahead, self._tail = command, b""

    def go_on(self) -> int:
        """Send and receive what can be without waiting; return what to poll for, 0 when there is no more."""
        try:
            if self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
                return select.POLLOUT if self._unsent else select.POLLIN if self._ahead else 0
            # Once, or one that never stops sending would keep us here.
            data = self._received(_CHUNK)
            self._heard.append(data)
            self._tail = (self._tail + data)[-5:]
            return 0 if not data or self._is_answered() else select.POLLIN
        except ssl.SSLWantReadError:
            return select.POLLIN
        except ssl.SSLWantWriteError:
            return select.POLLOUT
        except BlockingIOError:
            return select.POLLOUT if self._unsent else select.POLLIN
        except OSError as error:
            self.give_up(error)
            return 0

    def give_up(self, failure: OSError) -> None:
        """Have whoever receives next be told of *failure*, and of nothing that came before it."""
        self._heard.clear()  # without an end it is of no use, and may take long to read
        self._failure = failure

    def _received(self, size: int) -> bytes:
        data = self._socket.recv(size)
        self.has_answered = True
        self.room -= len(data)
        if self.room < 0:
            raise ConnectionError("the answer has no end")
        return data

    def _is_answered(self) -> bool:
        # A value may end like this too: then the client receives the rest, until the deadline.
        is_error = not self._heard[0].startswith(b"V")
        return self._tail == b"END\r\n" or (is_error and self._tail.endswith(b"\r\n"))

    def _left(self) -> float:
        """Return how many seconds are left. Raises TimeoutError."""
        left = self.deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _wait(self, event: int) -> None:
        """Wait until it can be received, or sent. Raises TimeoutError."""
        poll = self._poll
        if event != select.POLLIN:
            poll = select.poll()
            poll.register(self._socket, event)
        left = self.deadline - monotonic()
        if left <= 0:  # what is there by now was in time, were we late ourselves
            left = 0
            self._looks -= 1
        if self._looks < 0 or not poll.poll(left * 1000):
            raise TimeoutError


class _Client(Client):  # type: ignore[misc]  # Client has no types
    """pymemcache's client, of a connection that somebody else makes."""

    def _connect(self) -> None:
        raise ConnectionError("connections are made in the background")


class Server:
    """
    One memcached server. For any number of threads.

    Those that are asked at once have one *condition*.
    """

    def __init__(
        self, address: Address, tls: ssl.SSLContext | None = None, condition: Condition | None = None
    ) -> None:
        self.name = str(address)
        self._address = address
        self._tls = tls
        self._addresses: list[tuple[int, Any]] = []  # once resolved; reused
        self._condition = condition or Condition()
        # What follows is read and written with the condition held.
        self._idle: list[Client] = []
        self._waiting = 0  # who wait for a connection
        self._connecting = 0
        self._is_open = False  # the breaker: nobody waits
        self._opened_at = 0.0  # monotonic, when it was opened last
        self._failures = 0  # since the last answer to a request; that of a probe does not count
        self._retry_at = -inf  # monotonic
        self._closings = 0
        self._era = 0  # ends when the server fails: what was begun in an earlier one says nothing new
        self.errors = 0  #: times it failed or was too slow
        self.skipped = 0  #: times it was not asked, because it had failed lately

    def use(self, work: Callable[[Client], T], deadline: float) -> T:
        """
        Return what *work* returns, given a connection, until *deadline* (``time.monotonic()``).

        Raises:
            Failed: The server failed, or it was not in time.
            Skipped: It failed lately; nothing was tried.
        """
        if self._idle:  # nearly always there is a connection that nobody has to be waited for
            with self._condition:
                turn = self._turn(has_waited=False) if self._idle else None
            if isinstance(turn, _Turn):
                turn.connection.begin(deadline)
                try:
                    return turn.done(work)
                finally:
                    turn.drop()
        with _Turns([self], deadline) as turns:
            while not (found := turns.come(inf)):
                pass
            arrived = found[self]
            if not isinstance(arrived, _Turn):
                raise arrived
            return arrived.done(work)

    @property
    def host(self) -> str:
        """The name or address of its host; or the path of its unix socket."""
        return self._address.host

    @property
    def is_private(self) -> bool:
        """Whether nobody on the way can read what is said: there is TLS, or no way."""
        return self._tls is not None or self._address.port is None

    def state(self, key: str | None = None) -> State:
        """
        Return what the server tells of itself, and has under *key*. Blocks for some seconds at most.

        Over a connection of its own, and also while the breaker is open, which it leaves as it is.

        Raises:
            Failed: It did not answer; the name of the error is the reason.
        """
        client = None
        try:
            client = self._connected()
            began = monotonic()
            version = client.version()
            round_trip = monotonic() - began
            stats = {name.decode(): _text(value) for name, value in client.stats().items()}
            value = None if key is None else client.get(key)
            return State(version.decode(), round_trip, stats, value)
        except Exception as error:  # of the resolver, the socket, pymemcache
            raise Failed(type(error).__name__) from error
        finally:
            if client is not None:
                client.close()

    @property
    def has_failed(self) -> bool:
        """Whether the breaker is open."""
        return self._is_open

    @property
    def down_for(self) -> float | None:
        """For how many seconds the breaker has been open; None: it is not."""
        return monotonic() - self._opened_at if self._is_open else None

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

    def _turn(self, has_waited: bool) -> "_Turn | Failed | Skipped | None":
        """Return a turn with a connection, or why there is none; None: it is waited for."""
        if self._idle:
            return _Turn(self, self._idle.pop(), self._era)
        try:
            if self._is_open:
                if not self._connecting and monotonic() >= self._retry_at:
                    self._begin_to_connect()
                return Failed("no connection") if has_waited else Skipped()
            if self._connecting < self._waiting + (not has_waited):
                self._begin_to_connect()
        except Failed as failure:
            return failure
        return None

    def _give_back(self, client: Client, era: int) -> bool:
        """Keep *client*, whose use has ended well, unless nobody would want it."""
        with self._condition:
            if client.sock.has_answered:
                self._failures = 0
            if era != self._era or len(self._idle) >= _MOST_IDLE:
                return False
            self._idle.append(client)
            if self._waiting:
                self._condition.notify_all()  # all, since who waits may do so for another server
            return True

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
            # One that was begun before the server failed is no probe, while the pause lasts.
            is_probe = era == self._era or monotonic() >= self._retry_at
            if client is not None and closings == self._closings and is_probe:
                if self._is_open:
                    tell(
                        logger,
                        logging.INFO,
                        "shared_back",
                        "memcached %s answers again",
                        self.name,
                        server=self.name,
                    )
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
            self._addresses = resolved(self._address)
        failure: Exception | None = None
        for family, where in self._addresses:
            client = _Client((self._address.host, self._address.port))
            try:
                client.sock = Connection(family, where, self._address.host, self._tls)
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
            if is_first:
                self._opened_at = monotonic()
            self._era += 1
            pause = min(_LONGEST_PAUSE, _SHORTEST_PAUSE * 2 ** min(self._failures, _MOST_DOUBLINGS))
            self._failures += 1
            self._retry_at = monotonic() + pause * random.uniform(0.5, 1)
            idle, self._idle = self._idle, []
            self._condition.notify_all()
        for client in idle:
            client.close()
        if is_first:
            tell(
                logger,
                logging.WARNING,
                "shared_failed",
                "memcached %s failed (%s): URLs are signed in this process until it answers again",
                self.name,
                type(error).__name__,
                server=self.name,
                error=type(error).__name__,
            )


class _Turn:
    """One use of a connection, which is kept if it ends well and else closed."""

    def __init__(self, server: Server, client: Client, era: int) -> None:
        self.connection: Connection = client.sock
        self._server = server
        self._client: Client | None = client
        self._era = era

    def done(self, work: Callable[[Client], T]) -> T:
        """Return what *work* returns, at the end of this turn. Raises Failed."""
        answer = self.do(work)
        self.end()
        return answer

    def do(self, work: Callable[[Client], T]) -> T:
        """Return what *work* returns. Raises Failed, after which there is no more to be done."""
        try:
            return work(self._client)
        except Exception as error:
            self.drop()
            self._server._fail(self._era, error)
            raise Failed(type(error).__name__) from error

    def end(self) -> None:
        """Send what is left to be sent, and give the connection back. Raises Failed."""
        self.do(lambda client: client.sock.flush())
        if self._server._give_back(self._client, self._era):
            self._client = None

    def drop(self) -> None:
        """Close the connection, if it was not given back."""
        if self._client is not None:
            self._client.close()
            self._client = None


class _Turns:
    """
    A turn with each of some servers, as their connections come; or why there is none.

    The servers have one condition. Turns that have not ended with the block are dropped.
    """

    def __init__(self, servers: Iterable[Server], deadline: float) -> None:
        self.missing = list(servers)
        self._deadline = deadline
        self._condition = self.missing[0]._condition
        self._waited: dict[Server, int] = {}  # who is waited for, and in which era
        self._turns: list[_Turn] = []

    def come(self, within: float) -> dict[Server, _Turn | Failed | Skipped]:
        """Return those that are there, if there are none after waiting so many seconds or to the deadline."""
        late: dict[Server, int] = {}
        with self._condition:
            found = self._found()
            if not found:
                left = self._deadline - monotonic()
                is_told = self._condition.wait(min(left, within))
                found = self._found()
                if not (found or is_told) and left <= within:
                    late = self._waited.copy()
                    self._forget(late)
        for server, era in late.items():
            server._fail(era, TimeoutError("no connection in time"))
            found[server] = Failed("TimeoutError")
        return found

    def _found(self) -> dict[Server, _Turn | Failed | Skipped]:
        found: dict[Server, _Turn | Failed | Skipped] = {}
        for server in self.missing:
            turn = server._turn(has_waited=server in self._waited)
            if turn is None:
                server._waiting += server not in self._waited
                self._waited[server] = server._era
                continue
            if isinstance(turn, _Turn):
                turn.connection.begin(self._deadline)
                self._turns.append(turn)
            found[server] = turn
        self._forget(found)
        return found

    def _forget(self, servers: Iterable[Server]) -> None:
        for server in servers:
            self.missing.remove(server)
            server._waiting -= self._waited.pop(server, None) is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._waited:
            with self._condition:
                self._forget(list(self._waited))
        for turn in self._turns:
            turn.drop()


class _Talk:
    """Some connections, on which is sent and received as each of them goes on, without waiting for any."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._going: dict[int, Connection] = {}

    def go_on(self, connection: Connection) -> None:
        """Begin to talk on *connection*, or go on, until its answer is there."""
        number = connection.fileno()
        if events := connection.go_on():
            self._going[number] = connection
            self._poll.register(number, events)  # anew, if it is
        elif self._going.pop(number, None):
            self._poll.unregister(number)

    @property
    def is_going(self) -> bool:
        """Whether there is more to be sent or received."""
        return bool(self._going)

    def listen(self, seconds: float) -> bool:
        """Go on where that is possible; return whether it was anywhere, within so many seconds."""
        events = self._poll.poll(seconds * 1000)
        for number, _ in events:
            self.go_on(self._going[number])
        return bool(events)

    def give_up(self) -> None:
        """End it where the answer is not there."""
        for connection in self._going.values():
            connection.give_up(TimeoutError())


def exchange(asks: Mapping[Server, Ask], deadline: float) -> dict[Server, Answer]:
    """
    Ask each of several servers at once, and return what each answers, until *deadline*.

    That takes as long as the slowest needs, not as long as all of them one after
    another. The servers have one condition; *asks* must not receive anything.
    """
    if len(asks) == 1:  # most have one, and there is nobody to take turns with
        ((server, ask),) = asks.items()
        try:
            return {server: server.use(lambda client: _heard(client, ask(client)), deadline)}
        except (Failed, Skipped) as failure:
            return {server: failure}
    answers: dict[Server, Answer] = {}
    hearing: dict[Server, tuple[_Turn, Sequence[str]]] = {}
    with _Turns(asks, deadline) as turns:
        talk = _Talk()
        while turns.missing:
            for server, turn in turns.come(0 if talk.is_going else inf).items():
                try:
                    if not isinstance(turn, _Turn):
                        raise turn
                    hearing[server] = turn, turn.do(partial(_begin, ask=asks[server]))
                except (Failed, Skipped) as failure:
                    answers[server] = failure
                    continue
                talk.go_on(turn.connection)
            if turns.missing and talk.is_going:
                talk.listen(_LOOK_EVERY)
        looks = _LAST_LOOKS
        while talk.is_going and looks:
            left = max(0.0, deadline - monotonic())
            has_heard = talk.listen(left)
            if not left:  # what is there by now was in time, were we late ourselves
                looks = looks - 1 if has_heard else 0
        talk.give_up()
        for server, (turn, keys) in hearing.items():
            try:
                answers[server] = turn.do(partial(_heard, keys=keys))
                turn.end()
            except Failed as failure:
                answers[server] = failure
    return {server: answers[server] for server in asks}


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _begin(client: Client, ask: Ask) -> Sequence[str]:
    keys = ask(client)
    if keys:
        client.sock.send_ahead(f"gets {' '.join(keys)}\r\n".encode("ascii"))
    return keys


def _heard(client: Client, keys: Sequence[str]) -> dict[str, Value]:
    found: dict[str, Value] = client.gets_many(keys) if keys else {}
    return found
