"""The servers that tests of the shared cache run against: a real memcached, a fake one, and a proxy."""

import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

import pytest
from faults import Commands, FakeMemcached, Proxy, eventually
from pymemcache.client.base import Client  # type: ignore[import-untyped]  # it has no types
from pymemcache.exceptions import (  # type: ignore[import-untyped]  # it has no types
    MemcacheError,
    MemcacheServerError,
    MemcacheUnexpectedCloseError,
    MemcacheUnknownError,
)

from presign_middleware.testing import Memcached
from presign_middleware.testing import memcached as module
from presign_middleware.testing.ports import free_ports

TIMEOUT: Final = 0.3  # seconds, of a client that waits in vain


class Connect(Protocol):
    def __call__(self, address: str, timeout: float = ...) -> Client: ...


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Give a function that returns a client of an address, which waits for every answer."""
    with contextlib.ExitStack() as stack:

        def connect(address: str, timeout: float = 2.0) -> Client:
            client = Client(address, connect_timeout=1, timeout=timeout, default_noreply=False)
            stack.callback(client.close)
            return client

        yield connect


@pytest.fixture
def proxy(memcached: Memcached) -> Iterator[Proxy]:
    with Proxy(memcached.address) as server:
        yield server


def exchange(address: str, sent: bytes) -> bytes:
    """Return all that is answered to *sent*."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=2) as connection:
        connection.sendall(sent + b"quit\r\n")
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# The real one.


def test_its_addresses(memcached: Memcached) -> None:
    """url and address name the port on loopback."""
    assert memcached.address == f"127.0.0.1:{memcached.port}"
    assert memcached.url == f"memcached://127.0.0.1:{memcached.port}"


def test_restarted(own: Memcached, connect: Connect) -> None:
    """restart() keeps the port, and no item."""
    port = own.port
    connect(own.address).set("a", b"1")
    own.restart()
    assert own.port == port
    assert connect(own.address).get("a") is None


def test_killed(own: Memcached, connect: Connect) -> None:
    """kill() hangs up on clients and frees the port; start() takes the same again."""
    client = connect(own.address)
    client.set("a", b"1")
    own.kill()
    assert not own.is_running
    with pytest.raises(MemcacheUnexpectedCloseError):
        client.get("a")
    with pytest.raises(ConnectionRefusedError):
        client.get("a")
    own.start()
    assert client.get("a") is None


def test_frozen(memcached: Memcached, connect: Connect) -> None:
    """freeze() leaves clients waiting, new ones too; thaw() lets the items be had again."""
    client = connect(memcached.address, TIMEOUT)
    client.set("a", b"1")
    memcached.freeze()
    memcached.freeze()
    for waiting in (client, connect(memcached.address, TIMEOUT)):
        with pytest.raises(TimeoutError):
            waiting.get("a")
    memcached.thaw()
    memcached.thaw()
    assert client.get("a") == b"1"


def test_killed_while_frozen(own: Memcached) -> None:
    """A frozen server can be killed, and is not frozen when it is started again."""
    own.freeze()
    own.kill()
    own.start()
    assert own.stats()["pid"]


def test_flushed(memcached: Memcached, connect: Connect) -> None:
    """flush() forgets what was stored before, even in the same second, and nothing after."""
    client = connect(memcached.address)
    client.set("a", b"1")
    memcached.flush()
    assert client.get("a") is None
    client.set("a", b"2")
    assert client.get("a") == b"2"


def test_its_stats(memcached: Memcached, connect: Connect) -> None:
    """stats() are those of the server now."""
    before = int(memcached.stats()["cmd_set"])
    connect(memcached.address).set("a", b"1")
    assert int(memcached.stats()["cmd_set"]) == before + 1


@pytest.mark.parametrize("memory", [1, 2])
def test_its_memory(memory: int) -> None:
    """memory is in MB, of which memcached has 1 at least."""
    with Memcached(memory=memory) as server:
        assert server.stats()["limit_maxbytes"] == str(memory * 1024 * 1024)
    with pytest.raises(ValueError, match="1 MB or more, got 0"):
        Memcached(memory=0)


def test_without_a_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where memcached is not installed the message says how to."""
    assert Memcached.is_available()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "_DIRECTORIES", ())
    assert not Memcached.is_available()
    with pytest.raises(RuntimeError, match="apt-get install memcached, or brew install memcached"):
        Memcached().start()


def test_a_binary_off_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """memcached is found where packages put it, whatever the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Memcached.is_available()


def test_misuse(own: Memcached) -> None:
    """What runs cannot be started; what does not run has nothing to kill, freeze or thaw; both say so."""
    with pytest.raises(RuntimeError, match="running already"):
        own.start()
    own.stop()
    own.stop()
    for attempt in (own.kill, own.freeze, own.thaw):
        with pytest.raises(RuntimeError, match="not running"):
            attempt()
    with pytest.raises(RuntimeError, match="has not been started"):
        _ = Memcached().address


def test_a_port_taken_at_the_start(monkeypatch: pytest.MonkeyPatch, memcached: Memcached) -> None:
    """A port that another server took since it was found free is given up for another."""
    found = iter([memcached.port, *free_ports(1)])
    monkeypatch.setattr(module, "free_ports", lambda count: (next(found),))
    with Memcached() as server:
        assert server.port != memcached.port


def test_a_port_taken_meanwhile(own: Memcached, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose port was taken while it was down does not move: it says why it did not start."""
    own.stop()
    monkeypatch.setattr(module, "_ATTEMPTS", 1)
    with (
        socket.create_server(("127.0.0.1", own.port)),
        pytest.raises(RuntimeError, match=rf"on port {own.port}(?s:.)*in use"),
    ):
        own.start()


ENDS: Final = {
    "of its interpreter": "",
    "of its interpreter, by an exception": "raise SystemExit(1)",
    "of its interpreter, killed": "os.kill(os.getpid(), 9)",
    "of its interpreter, killed while it was frozen": "server.freeze(); os.kill(os.getpid(), 9)",
    "of its interpreter, though a fork lives on": """
if os.fork() == 0:
    os.close(1)
    for _ in range(100):
        time.sleep(0.05)
        if socket.socket().connect_ex((server.host, server.port)):
            break
    os._exit(0)
os.kill(os.getpid(), 9)
""",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_the_end(end: str, tmp_path: Path) -> None:
    """A server, and its directory, end with the end ..."""
    begin = (
        "import os, socket, time\nfrom presign_middleware.testing import Memcached\n"
        "server = Memcached()\nserver.start()\nprint(os.getpid(), server.port, flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", begin + end],
        env={"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    _, port = done.stdout.split()
    eventually(lambda: not is_listening(int(port)))
    eventually(lambda: not list(tmp_path.iterdir()))


def test_a_fork_leaves_it_alone() -> None:
    """A fork that leaves the with block, and then the interpreter, ends nothing."""
    code = """
import os
from presign_middleware.testing import Memcached
with Memcached() as server:
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
        server.stats()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("damage", ["nothing", "set", "freeze", "kill", "stop", "nothing more"])
def test_the_fixture(memcached: Memcached, connect: Connect, damage: str) -> None:
    """Whatever one test does to the server, the next one has it running and empty."""
    client = connect(memcached.address)
    assert client.get("a") is None
    client.set("a", b"1")
    if damage in ("freeze", "kill", "stop"):
        getattr(memcached, damage)()


# The fake one, while it obeys.


@pytest.mark.parametrize(
    "sent",
    [
        b"get a\r\n",
        b"set a 5 0 1\r\n1\r\nget a\r\n",
        b"set a 5 0 1 noreply\r\n1\r\nget a b a\r\n",
        b"set a 0 0 0\r\n\r\nget a\r\n",
        b"set a 0 0 4\r\n\r\n\r\n\r\nset b 0 60 1\r\n2\r\nget a b\r\n",
        b"add a 0 0 1\r\n1\r\nadd a 0 0 1\r\n2\r\nadd a 0 0 1 noreply\r\n2\r\nget a\r\n",
        b"set a 0 0 1\r\n1\r\ndelete a\r\ndelete a\r\nget a\r\n",
        b"set a 0 0 1\r\n1\r\ndelete a noreply\r\nget a\r\n",
        b"set a 0 0 1\r\n1\r\nflush_all\r\nget a\r\nflush_all noreply\r\n",
        b"set a 0 0 1\r\n1\r\nset b 0 0 1\r\n2\r\ngets a b c\r\n",
        b"cas a 0 0 1 1\r\n1\r\n",
        b"set a 0 0 1\r\n1\r\ncas a 0 0 1 999999999\r\n2\r\nget a\r\n",
        b"nonsense\r\nget a\r\n",
    ],
)
def test_it_answers_as_the_real_one(memcached: Memcached, fake: FakeMemcached, sent: bytes) -> None:
    """The fake answers byte for byte what memcached does, but for the numbers that are cas uniques."""

    def answer(address: str) -> bytes:
        return re.sub(rb"(?m)^(VALUE \S+ \d+ \d+) \d+", rb"\1 unique", exchange(address, sent))

    assert answer(memcached.address) == answer(fake.address)


@pytest.mark.parametrize("which", ["memcached", "fake"])
def test_cas(request: pytest.FixtureRequest, connect: Connect, which: str) -> None:
    """A cas stores if nobody has stored since the gets."""
    client = connect(request.getfixturevalue(which).address)
    assert client.cas("a", b"0", b"1") is None
    client.set("a", b"1")
    _, unique = client.gets("a")
    assert client.cas("a", b"2", unique) is True
    assert client.cas("a", b"3", unique) is False
    assert client.get("a") == b"2"


def test_what_it_was_asked(fake: FakeMemcached, connect: Connect) -> None:
    """commands has every command with its keys, in order, answered or not."""
    client = connect(fake.address)
    client.version()
    client.set("a", b"1", noreply=True)
    client.get_many(["a", "b"])
    client.delete("a")
    assert fake.commands == [("version", []), ("set", ["a"]), ("get", ["a", "b"]), ("delete", ["a"])]


def test_what_it_holds(fake: FakeMemcached, connect: Connect) -> None:
    """values and expiries are what was sent, and what a test writes there is served."""
    client = connect(fake.address)
    client.set("a", b"1", expire=60)
    assert fake.values == {"a": b"1"}
    assert fake.expiries == {"a": 60}
    fake.values["b"] = b"planted"
    assert client.gets("b") == (b"planted", b"0")
    assert client.cas("b", b"2", b"0") is True


def test_its_connections(fake: FakeMemcached, connect: Connect) -> None:
    """accepted counts connections, open those that are not closed."""
    first, second = connect(fake.address), connect(fake.address)
    first.version()
    second.version()
    assert (fake.accepted, fake.open) == (2, 2)
    first.close()
    eventually(lambda: fake.open == 1)
    assert fake.accepted == 2


def test_it_is_gone_after_its_block(connect: Connect) -> None:
    """Leaving the block ends connections and refuses new ones, whatever the fault."""
    with FakeMemcached() as fake:
        client = connect(fake.address)
        client.version()
        fake.hold()
        fake.drip(60)
    assert fake.open == 0
    with pytest.raises(MemcacheUnexpectedCloseError):
        client.version()
    assert not is_listening(fake.port)


def test_commands_in_pieces() -> None:
    """A command is the same however its bytes arrive."""
    sent = b"set a 0 60 4 noreply\r\n\r\n\r\n\r\nget a b\r\nquit\r\n"
    whole = list(Commands().feed(sent))
    commands = Commands()
    pieces = [command for byte in sent for command in commands.feed(bytes([byte]))]
    assert whole == pieces
    assert [(each.name, each.keys) for each in whole] == [("set", ["a"]), ("get", ["a", "b"]), ("quit", [])]
    assert whole[0].data == b"\r\n\r\n"


# The fake one, with a fault.

FAULTS: Final[dict[str, tuple[Callable[[FakeMemcached], object], type[Exception]]]] = {
    "blackhole": (FakeMemcached.blackhole, TimeoutError),
    "hold": (FakeMemcached.hold, TimeoutError),
    "refuse": (FakeMemcached.refuse, OSError),
    "garble": (FakeMemcached.garble, MemcacheUnknownError),
    "truncate": (FakeMemcached.truncate, MemcacheUnexpectedCloseError),
    "error": (FakeMemcached.error, MemcacheServerError),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault(name: str, connect: Connect) -> None:
    """A fault is there from the first connection on, and gone with obey()."""
    fault, expected = FAULTS[name]
    with FakeMemcached(fault) as fake:
        fake.values["a"] = b"0123456789"
        # A connection that was closed before it was used shows itself in either way.
        with pytest.raises((expected, MemcacheUnexpectedCloseError) if name == "refuse" else expected):
            connect(fake.address, TIMEOUT).get("a")
        fake.obey()
        assert connect(fake.address).get("a") == b"0123456789"


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_midway(name: str, fake: FakeMemcached, connect: Connect) -> None:
    """A fault also befalls a connection that there was before."""
    fault, _ = FAULTS[name]
    client = connect(fake.address, TIMEOUT)
    client.set("a", b"1")
    fault(fake)
    with pytest.raises((OSError, MemcacheError)):
        client.get("a")


@pytest.mark.parametrize("name", FAULTS)
def test_noreply_is_never_answered(name: str, fake: FakeMemcached) -> None:
    """No fault answers what is not to be answered."""
    fault, _ = FAULTS[name]
    fault(fake)
    with socket.create_connection((fake.host, fake.port)) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"set a 0 0 1 noreply\r\n1\r\n")
        connection.settimeout(0.02)
        with contextlib.suppress(TimeoutError):
            assert connection.recv(1) == b""


def test_drip_outlasts_a_timeout(fake: FakeMemcached, connect: Connect) -> None:
    """A dripped answer is whole, and takes far longer than a client's timeout, which is for each byte."""
    fake.values["a"] = b"0123456789"
    fake.drip(0.035)
    begun = time.monotonic()
    assert connect(fake.address, TIMEOUT).get("a") == b"0123456789"
    assert time.monotonic() - begun >= 0.035 * len(b"VALUE a 0 10\r\n0123456789\r\nEND\r\n") > 3 * TIMEOUT


def test_drip_ends(fake: FakeMemcached, connect: Connect) -> None:
    """The rest of a dripping answer comes at once when the fault is another."""
    fake.drip(60)
    with socket.create_connection((fake.host, fake.port), timeout=2) as connection:
        connection.sendall(b"get a\r\n")
        eventually(lambda: fake.commands)
        fake.obey()
        assert connection.recv(100) == b"END\r\n"


def test_truncate_cuts_a_value(fake: FakeMemcached) -> None:
    """truncate() hangs up in the middle of the first value."""
    fake.values["a"] = b"0123456789"
    fake.truncate()
    assert exchange(fake.address, b"get a\r\n") == b"VALUE a 0 10\r\n01234"


@pytest.mark.parametrize("name", ["blackhole", "hold", "error"])
def test_what_is_not_executed(name: str, fake: FakeMemcached, connect: Connect) -> None:
    """What is swallowed, held or refused with an error is recorded, and has no effect."""
    fault, expected = FAULTS[name]
    fault(fake)
    with pytest.raises(expected):
        connect(fake.address, TIMEOUT).set("a", b"1")
    assert fake.commands == [("set", ["a"])]
    assert not fake.values


def test_another_error(fake: FakeMemcached) -> None:
    """error() answers the line that it is given."""
    fake.error("CLIENT_ERROR bad command line format")
    assert exchange(fake.address, b"get a\r\n") == b"CLIENT_ERROR bad command line format\r\n"


def test_swap(fake: FakeMemcached, connect: Connect) -> None:
    """swap() gives each key the value of another, and nothing for a key that is alone or absent."""
    client = connect(fake.address)
    fake.swap()
    client.set("a", b"1")
    assert client.get("a") is None
    client.set("b", b"2")
    assert client.get_many(["a", "b", "c"]) == {"a": b"2", "b": b"1"}
    fake.obey()
    assert client.get_many(["a", "b"]) == {"a": b"1", "b": b"2"}


def test_hold_and_release(fake: FakeMemcached) -> None:
    """A held command is executed and answered once it is released."""
    fake.hold()
    with socket.create_connection((fake.host, fake.port), timeout=2) as connection:
        connection.sendall(b"set a 0 0 1\r\n1\r\n")
        eventually(lambda: fake.held == 1)
        assert not fake.values
        fake.release()
        assert connection.recv(100) == b"STORED\r\n"
    assert fake.held == 0


def test_refuse_undoes_what_is_held(fake: FakeMemcached) -> None:
    """A server that held a command and then refuses has neither executed nor answered it."""
    fake.hold()
    with socket.create_connection((fake.host, fake.port), timeout=2) as connection:
        connection.sendall(b"set a 0 0 1\r\n1\r\n")
        eventually(lambda: fake.held == 1)
        fake.refuse()
        assert connection.recv(100) == b""
    assert not fake.values


# The proxy.


def test_it_forwards_and_records(proxy: Proxy, connect: Connect) -> None:
    """The proxy is a memcached to its client, and commands has what was asked, with the keys."""
    client = connect(proxy.address)
    client.set("a", b"x" * 500_000)
    assert client.get_many(["a", "b"]) == {"a": b"x" * 500_000}
    assert proxy.commands == [("set", ["a"]), ("get", ["a", "b"])]
    assert proxy.accepted == proxy.open == 1


def test_round_trips(proxy: Proxy, connect: Connect) -> None:
    """round_trips counts the times a client waited: not for noreply, and once for commands sent as one."""
    client = connect(proxy.address)
    client.set("a", b"1", noreply=True)
    client.get_many(["a", "b", "c"])
    assert proxy.round_trips == 1
    client.set_many({"a": b"1", "b": b"2"})
    assert proxy.round_trips == 2
    assert len(proxy.commands) == 4


def test_delay(proxy: Proxy, connect: Connect) -> None:
    """delay() keeps each answer for so many seconds, and obey() lets it go."""
    client = connect(proxy.address, TIMEOUT)
    proxy.delay(TIMEOUT / 2)
    begun = time.monotonic()
    client.version()
    assert time.monotonic() - begun >= TIMEOUT / 2
    proxy.delay(60)
    with pytest.raises(TimeoutError):
        client.version()
    proxy.obey()
    assert client.get("a") is None


def test_a_blackhole_before_a_server(proxy: Proxy, connect: Connect) -> None:
    """What the blackhole takes is recorded, reaches nobody, and is not answered."""
    client = connect(proxy.address, TIMEOUT)
    client.set("a", b"1")
    proxy.blackhole()
    with pytest.raises(TimeoutError):
        client.set("a", b"2")
    assert proxy.commands == [("set", ["a"])] * 2
    proxy.obey()
    assert client.get("a") == b"1"


def test_reset(proxy: Proxy, connect: Connect) -> None:
    """reset() resets the connections there are, and those to come, until obey()."""
    client = connect(proxy.address)
    client.set("a", b"1")
    proxy.reset()
    assert proxy.open == 0
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            client.get("a")
    proxy.obey()
    assert client.get("a") == b"1"


def test_half_open(proxy: Proxy, connect: Connect) -> None:
    """half_open() leaves the connections there are without an answer for ever, and serves those to come."""
    client = connect(proxy.address, TIMEOUT)
    client.set("a", b"1")
    proxy.half_open()
    assert connect(proxy.address).get("a") == b"1"
    proxy.obey()
    with pytest.raises(TimeoutError):
        client.get("a")
    assert client.get("a") == b"1"  # over a new connection, after a time-out


def test_truncated_by_the_proxy(proxy: Proxy, connect: Connect) -> None:
    """truncate() lets half of an answer through and hangs up, until obey()."""
    client = connect(proxy.address)
    client.set("a", b"1" * 100)
    proxy.truncate()
    for _ in range(2):
        with pytest.raises(MemcacheUnexpectedCloseError):
            client.get("a")
    assert exchange(proxy.address, b"get b\r\n") == b"EN"
    proxy.obey()
    assert client.get("a") == b"1" * 100


def test_garbled_by_the_proxy(proxy: Proxy, connect: Connect) -> None:
    """garble() answers bytes that mean nothing, except to whoever asks for the version."""
    client = connect(proxy.address)
    client.set("a", b"1" * 100)
    proxy.garble()
    answer = exchange(proxy.address, b"get a\r\n")
    assert len(answer) == 122
    assert b"1" * 10 not in answer
    assert client.version().startswith(b"1.")
    proxy.obey()
    assert client.get("a") == b"1" * 100


def test_nobody_upstream(own: Memcached, connect: Connect) -> None:
    """A proxy closes connections that there were when the server dies, and those that come after."""
    with Proxy(own.address) as proxy:
        client = connect(proxy.address)
        client.set("a", b"1")
        own.kill()
        for _ in range(2):
            with pytest.raises((MemcacheUnexpectedCloseError, ConnectionError)):
                client.get("a")
        own.start()
        assert client.get("a") is None


def test_a_proxy_is_gone_after_its_block(memcached: Memcached, connect: Connect) -> None:
    """Leaving the block ends connections, also while the server is frozen."""
    with Proxy(memcached.address) as proxy:
        client = connect(proxy.address, TIMEOUT)
        client.version()
        memcached.freeze()
        with pytest.raises(TimeoutError):
            client.version()
        connect(proxy.address, TIMEOUT)
    assert proxy.open == 0
    assert not is_listening(proxy.port)
