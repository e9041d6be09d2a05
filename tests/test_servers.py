"""
Several memcached servers: where keys are, what one that fails costs, and what it does not cost the others.

Real ones where entries live and die, fakes where they misbehave. Patience is told in real
seconds, so what must not take long has a generous bound.
"""

import hashlib
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from faults import FakeMemcached, Proxy, eventually
from fleet import DEADLINE, Fleet, counted, let_publish
from memcacheds import Authority, on_a_socket, with_tls
from pymemcache.client.base import Client  # type: ignore[import-untyped]  # it has no types

from presign_middleware import memcached, sharing
from presign_middleware.addresses import Addresses
from presign_middleware.memcached import Failed, Server
from presign_middleware.metrics import Counts
from presign_middleware.servers import Servers, shares
from presign_middleware.testing import Memcached

PATIENCE: Final = 1.0  # seconds, of those tests that need it to end

TARGETS: Final = [f"s3://media/{number}" for number in range(100)]
KEYS: Final = [f"p2:{hashlib.sha256(b'%d' % number).hexdigest()}" for number in range(300)]


@pytest.fixture
def fakes() -> Iterator[list[FakeMemcached]]:
    with ExitStack() as stack:
        yield [stack.enter_context(FakeMemcached()) for _ in range(4)]


@pytest.fixture(scope="module")
def reals() -> Iterator[list[Memcached]]:
    # Who counts what they have restarts them first: what was flushed is still counted for a while.
    with ExitStack() as stack:
        yield [stack.enter_context(Memcached()) for _ in range(4)]


@pytest.fixture
def publishing_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have threads that publish give up soon, since a presigner waits for them when it is closed."""
    monkeypatch.setattr(sharing, "_PUBLISH_WITHIN", PATIENCE)


def setting(servers: Sequence[FakeMemcached | Memcached | Proxy]) -> str:
    """Return the setting that names *servers*."""
    return f"memcached://{','.join(server.address for server in servers)}"


@pytest.fixture
def servers_of(request: pytest.FixtureRequest) -> Callable[..., Servers]:
    """Give a function that returns what is connected to all of some fakes."""

    def connected(fakes: Sequence[FakeMemcached]) -> Servers:
        servers = Servers(Addresses.parse(setting(fakes)), Counts())
        request.addfinalizer(servers.close)
        servers.connect()
        eventually(lambda: all(server._idle for server in servers.each()))
        return servers

    return connected


def soon(seconds: float = DEADLINE) -> float:
    return time.monotonic() + seconds


def asked(fake: FakeMemcached) -> list[str]:
    """Return what was asked for a request's sake, and not to see whether the server answers."""
    return [name for name, _ in fake.commands if name != "version"]


def place(fakes: Sequence[FakeMemcached], keys: Sequence[str] = KEYS) -> dict[str, list[str]]:
    """Put a value that tells its key under each of *keys*, where it belongs; return the keys by address."""
    owners = shares([fake.address for fake in fakes])
    found: dict[str, list[str]] = {fake.address: [] for fake in fakes}
    for key in keys:
        found[owners[key[-3:]]].append(key)
    for fake in fakes:
        fake.values |= {key: key.encode() for key in found[fake.address]}
    return found


# Where a key is.


def test_places_never_change() -> None:
    """M7: which server has a key is the same in every process, on every machine and Python, for ever."""
    found = shares(["10.0.0.1:11211", "10.0.0.2:11211", "[::1]:11211", "/run/a.sock"])
    text = " ".join(f"{slot}={name}" for slot, name in found.items())
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "7d5a50aeef5a555e60622bbc76de93d0c21eaed2833eafe69c14056b46c95f66"
    )


def test_the_order_does_not_matter() -> None:
    """M7: processes that name the servers in another order find each other's entries."""
    assert shares(["a:1", "b:1", "c:1"]) == shares(["c:1", "a:1", "b:1"])


@pytest.mark.parametrize("number", [2, 3, 8, 40])
def test_shares_are_even(number: int) -> None:
    """M7: each server has about as many keys as any other."""
    counts = Counter(shares([f"10.0.0.{each}:11211" for each in range(number)]).values())
    assert len(counts) == number
    assert max(counts.values()) < 1.35 * 4096 / number


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_one_more_or_less(number: int) -> None:
    """M7: a server that joins takes its part of the keys, from all, and no other key moves; likewise back."""
    names = [f"10.0.0.{each}:11211" for each in range(number + 1)]
    before, after = shares(names[:-1]), shares(names)
    moved = [slot for slot, name in before.items() if after[slot] != name]
    assert {after[slot] for slot in moved} == {names[-1]}
    assert {before[slot] for slot in moved} == set(names[:-1])
    assert len(moved) / 4096 == pytest.approx(1 / (number + 1), abs=0.03)


def entries(server: Memcached) -> int:
    """Return how many URLs *server* has; it has the board of epochs too."""
    return int(server.stats()["curr_items"]) - 1


def test_a_fleet_over_three_servers(reals: list[Memcached], fleet: Fleet) -> None:
    """M7, K6: processes that share several servers hand out one URL an object; each server has its part."""
    for server in reals:
        server.restart()
    shared = setting(reals[:3])
    one, other = (fleet.member(shared, fleet.session(name)) for name in ("ASIAONE", "ASIATWO"))
    urls = one.urls(TARGETS)
    assert other.urls(TARGETS) == urls
    assert counted(other, "from_shared", "signed", "shared_errors") == (100, 0, 0)
    assert fleet.refused(urls, TARGETS) == []
    held = [entries(server) for server in reals[:3]]
    assert sum(held) == len(TARGETS)
    assert min(held) > 15


def test_one_multi_get_a_server(fakes: list[FakeMemcached], fleet: Fleet) -> None:
    """D4: many targets make one multi-get for each server, of its keys alone."""
    fleet.member(setting(fakes), fleet.session("ASIAONE")).urls(TARGETS)
    reader = fleet.member(setting(fakes), fleet.session("ASIATWO"))
    for fake in fakes:
        fake.commands.clear()
    reader.urls(TARGETS)
    assert [asked(fake) for fake in fakes] == [["gets"]] * 4
    keys = [{key for _, keys in fake.commands for key in keys} for fake in fakes]
    assert keys == [set(fake.values) for fake in fakes]
    assert sum(map(len, keys)) == len(TARGETS)


# One round trip for all.


def test_all_are_asked_before_any_answers(
    fakes: list[FakeMemcached], servers_of: Callable[..., Servers]
) -> None:
    """M7, D4: a read over several servers waits for all of them at once, not for one after another."""
    place(fakes)
    servers = servers_of(fakes)
    for fake in fakes:
        fake.hold()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(servers.read, KEYS, soon())
        eventually(lambda: [fake.held for fake in fakes] == [1] * 4)
        for fake in reversed(fakes):
            fake.release()
        assert reading.result() == {key: (key.encode(), b"0") for key in KEYS}


def test_all_are_told_before_any_answers(fakes: list[FakeMemcached], fleet: Fleet) -> None:
    """M7, K8: so does a write that wants to know who was first."""
    presigner = fleet.member(setting(fakes), fleet.session("ASIAONE"))
    presigner.urls(TARGETS)
    let_publish(presigner)
    for fake in fakes:
        fake.hold()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(presigner.urls, [f"{target}-more" for target in TARGETS])
        for _ in range(2):  # to read, and to write
            eventually(lambda: [fake.held for fake in fakes] == [1] * 4)
            for fake in fakes:
                fake.release()
                fake.hold()
            eventually(lambda: asking.done() or any(fake.held for fake in fakes))
        for fake in fakes:
            fake.release()
        assert fleet.refused(asking.result(), [f"{target}-more" for target in TARGETS]) == []


def test_large_commands_and_answers(reals: list[Memcached], monkeypatch: pytest.MonkeyPatch) -> None:
    """M7: megabytes in both directions, more than any buffer between holds, arrive whole."""
    monkeypatch.setattr(memcached, "_CHUNK", 1000)
    servers = Servers(Addresses.parse(setting(reals[:3])), Counts())
    values = {f"p2:{hashlib.sha256(b'%d' % n).hexdigest()}": b"%d" % n * 10_000 for n in range(300)}

    def write(client: Client, items: Any) -> list[str]:
        for key, value in items.items():
            client.set(key, value, 60, noreply=True)
        return list(items)

    found, untold = servers.write(values, write, soon())
    assert untold == []
    assert {key: value for key, (value, _) in found.items()} == values
    assert {key: value for key, (value, _) in servers.read(list(values), soon()).items()} == values
    servers.close()


def test_values_that_look_like_the_end(
    fakes: list[FakeMemcached], servers_of: Callable[..., Servers]
) -> None:
    """M4: a value that ends like an answer, and arrives in bytes, does not end it."""
    place(fakes)
    for fake in fakes:
        fake.values = dict.fromkeys(fake.values, b"END\r\nEND\r\n")
        fake.drip(0.00001)
    servers = servers_of(fakes)
    assert servers.read(KEYS[:20], soon()) == dict.fromkeys(KEYS[:20], (b"END\r\nEND\r\n", b"0"))


# Servers that fail.


def test_a_dead_server_is_missed(reals: list[Memcached], fleet: Fleet) -> None:
    """M7: a dead server's keys are misses and go to no other; when it is back they are shared again."""
    for server in reals:
        server.restart()
    shared = setting(reals[:3])
    urls = fleet.member(shared, fleet.session("ASIAONE")).urls(TARGETS)
    lost = entries(reals[0])
    kept = [entries(server) for server in reals[1:3]]
    reals[0].kill()
    try:
        reader = fleet.member(shared, fleet.session("ASIATWO"))
        found = reader.urls(TARGETS)
        let_publish(reader)
        assert fleet.refused(found, TARGETS) == []
        assert counted(reader, "from_shared", "from_signer", "shared_misses") == (100 - lost, lost, 0)
        assert sum(own != other for own, other in zip(urls, found, strict=True)) == lost
        assert [entries(server) for server in reals[1:3]] == kept
    finally:
        reals[0].start()

    def shares_again() -> bool:
        for name in ("ASIATHREE", "ASIAFOUR"):
            fleet.member(shared, fleet.session(name)).urls(TARGETS)
        return entries(reals[0]) == lost

    eventually(shares_again, within=DEADLINE)


def test_one_joins_and_leaves(reals: list[Memcached], fleet: Fleet) -> None:
    """M4, M7: where a node joins or leaves, keys that stay are shared, the others signed; URLs are right."""
    for server in reals:
        server.restart()
    three, four = setting(reals[:3]), setting(reals)
    owners = [shares([server.address for server in some]) for some in (reals[:3], reals)]
    moved = sum(before != after for before, after in zip(*(each.values() for each in owners), strict=True))
    fleet.member(three, fleet.session("ASIAONE")).urls(TARGETS)
    for shared, name in ((four, "ASIATWO"), (three, "ASIATHREE")):
        member = fleet.member(shared, fleet.session(name))
        assert fleet.refused(member.urls(TARGETS), TARGETS) == []
        hits, misses = counted(member, "from_shared", "shared_misses")
        assert hits + misses == len(TARGETS)
        # What it left behind when it moved is still there when it comes back.
        expected = len(TARGETS) * moved / 4096 if shared == four else 0
        assert misses == pytest.approx(expected, abs=15)


BAD: Final[list[Callable[[FakeMemcached], object]]] = [
    FakeMemcached.blackhole,
    lambda fake: fake.drip(PATIENCE / 4),
    FakeMemcached.refuse,
]


@pytest.mark.usefixtures("publishing_briefly")
@pytest.mark.parametrize("is_connected", [True, False])
def test_three_bad_servers_at_once(
    fakes: list[FakeMemcached], fleet: Fleet, monkeypatch: pytest.MonkeyPatch, is_connected: bool
) -> None:
    """M1: three bad servers cost a request its patience once, and the good one beside them serves."""
    credentials = [fleet.session(name) for name in ("ASIAONE", "ASIATWO", "ASIATHREE")]
    urls = fleet.member(setting(fakes), credentials[0]).urls(TARGETS)
    good = len(fakes[3].values)
    presigner = fleet.member(setting(fakes), credentials[1], patience=PATIENCE)
    if is_connected:
        presigner.urls([f"{target}-connected" for target in TARGETS])
        let_publish(presigner)
    else:
        fleet.member(None, credentials[1]).url("s3://media/imported")
    before = counted(presigner, "from_shared", "shared_errors")
    for fake, misbehave in zip(fakes, BAD, strict=False):
        misbehave(fake)
    failed: list[str] = []
    fail = Server._fail

    def told(server: Server, era: int, error: Exception) -> None:
        failed.append(server.name)
        fail(server, era, error)

    monkeypatch.setattr(Server, "_fail", told)
    start = time.monotonic()
    found = presigner.urls(TARGETS)
    assert time.monotonic() - start < 2.5 * PATIENCE  # one after another would take three times as long
    assert counted(presigner, "from_shared")[0] - before[0] == good
    assert sum(url in urls for url in found) == good
    assert set(failed) == {fake.address for fake in fakes[:3]}
    if is_connected:
        assert counted(presigner, "shared_errors")[0] - before[1] == 3
    for fake in fakes[:3]:
        fake.obey()
    assert fleet.refused(found, TARGETS) == []


@pytest.mark.usefixtures("never_trying")
def test_errors_are_counted_per_server(
    fakes: list[FakeMemcached], servers_of: Callable[..., Servers]
) -> None:
    """M3: failures and skips count once for each server asked, misses for each key of one that answered."""
    places = place(fakes)
    servers = servers_of(fakes)
    counts = servers._counts
    for fake in fakes[:2]:
        fake.refuse()
    missing = places[fakes[2].address][0]
    del fakes[2].values[missing]
    for errors, skipped in ((2, 0), (2, 2)):
        found = servers.read(KEYS, soon())
        assert (counts.shared_errors, counts.shared_skipped) == (errors, skipped)
        assert set(found) == {*places[fakes[2].address], *places[fakes[3].address]} - {missing}
    assert counts.shared_misses == 2


@pytest.mark.usefixtures("never_trying")
def test_when_all_are_down(fakes: list[FakeMemcached], servers_of: Callable[..., Servers]) -> None:
    """M1: the shared cache is down when every server is, not before."""
    place(fakes)
    servers = servers_of(fakes)
    for fake in fakes[:3]:
        fake.refuse()
        servers.read(KEYS, soon())
        assert not servers.is_down()
    fakes[3].refuse()
    servers.read(KEYS, soon())
    assert servers.is_down()


def test_an_answer_in_time_to_a_process_that_is_late(
    fakes: list[FakeMemcached], servers_of: Callable[..., Servers], monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1: what had arrived by the deadline is read, though it is past when this process comes to look."""
    places = place(fakes)
    servers = servers_of(fakes)
    deadline = soon()
    answered = threading.Semaphore(0)

    def answering(connection: Any, answer: bytes) -> None:
        connection.sendall(answer)
        answered.release()

    for fake in fakes[1:]:
        fake._behave(answering)
    fakes[0].blackhole()

    waiting = [True] * 3

    def late() -> float:
        while waiting:
            waiting.pop()
            assert answered.acquire(timeout=DEADLINE)
        return deadline + 1

    monkeypatch.setattr(memcached, "monotonic", late)
    found = servers.read(KEYS, deadline)
    assert set(found) == set(KEYS) - set(places[fakes[0].address])
    assert servers._counts.shared_errors == 1


def test_a_connection_that_comes_late_waits_for_no_other(
    fakes: list[FakeMemcached], servers_of: Callable[..., Servers]
) -> None:
    """M1: who has no connection to a silent server yet uses the others as soon as they have theirs."""
    places = place(fakes)
    for fake in fakes[:3]:
        fake.hold()
    servers = Servers(Addresses.parse(setting(fakes)), Counts())
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(servers.read, KEYS, soon(1.0))
        eventually(lambda: [fake.held for fake in fakes[:3]] == [1] * 3)
        fakes[1].release()
        found = reading.result()
    for fake in fakes:
        fake.release()
    servers.close()
    assert set(found) == {key for fake in (fakes[1], fakes[3]) for key in places[fake.address]}
    assert servers._counts.shared_errors == 2


def test_a_large_answer_while_a_connection_is_waited_for(fakes: list[FakeMemcached]) -> None:
    """M1: an answer that fits into no buffer is read while another server lets itself be waited for."""
    fakes = fakes[:2]
    places = place(fakes, KEYS[:100])
    large = places[fakes[1].address]
    fakes[1].values = dict.fromkeys(large, b"x" * 250_000)
    fakes[0].hold()
    servers = Servers(Addresses.parse(setting(fakes)), Counts())
    assert set(servers.read(KEYS[:100], soon(2.0))) == set(large)
    fakes[0].release()
    servers.close()


def test_an_answer_that_is_there_is_in_time(
    fakes: list[FakeMemcached], monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1: a server is not blamed where it was this process that looked too late, be it for its garbage."""
    fakes[0].values = {"a": b"1"}
    servers = Servers(Addresses.parse(setting(fakes[:1])), Counts())
    flush = memcached.Connection.flush

    def late(connection: memcached.Connection) -> None:
        is_asked = bool(connection._unsent)
        flush(connection)
        if is_asked:
            assert select.select([connection], [], [], DEADLINE)[0]
            connection.deadline = time.monotonic() - 1

    assert set(servers.read(["a"], soon(DEADLINE))) == {"a"}  # connected
    monkeypatch.setattr(memcached.Connection, "flush", late)
    assert set(servers.read(["a"], soon(DEADLINE))) == {"a"}
    assert servers._counts.shared_errors == 0
    servers.close()


def test_an_answer_without_an_end(fakes: list[FakeMemcached]) -> None:
    """M1: a server that never stops answering is heard until the deadline, and costs no other its own."""
    places = place(fakes)
    over = threading.Event()

    def flooding(connection: Any, answer: bytes) -> None:
        connection.sendall(
            b"VERSION 1.6.0\r\n" if answer.startswith(b"VERSION") else b"VALUE x 0 1000000000 1\r\n"
        )
        while not (over.is_set() or answer.startswith(b"VERSION")):
            connection.sendall(b"x" * 100_000)

    fakes[0]._behave(flooding)
    servers = Servers(Addresses.parse(setting(fakes)), Counts())
    start = time.monotonic()
    found = servers.read(KEYS, soon(PATIENCE))
    assert time.monotonic() - start < PATIENCE + 1
    over.set()
    servers.close()
    assert set(found) == set(KEYS) - set(places[fakes[0].address])


def test_what_is_not_all_there_by_the_deadline_is_not_read(
    fakes: list[FakeMemcached], monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1: what a server has sent of an answer without an end costs nobody the time to read it."""
    places = place(fakes)
    over, received = threading.Event(), list[bytes]()

    def flooding(connection: Any, answer: bytes) -> None:
        while not over.is_set() and not answer.startswith(b"VERSION"):
            connection.sendall(b"VALUE x 0 1 1\r\na\r\n" * 1_000)
        connection.sendall(answer)

    receive = memcached.Connection.recv

    def receiving(connection: memcached.Connection, size: int) -> bytes:
        received.append(receive(connection, size))
        return received[-1]

    monkeypatch.setattr(memcached.Connection, "recv", receiving)
    fakes[0]._behave(flooding)
    servers = Servers(Addresses.parse(setting(fakes)), Counts())
    found = servers.read(KEYS, soon(PATIENCE / 4))
    over.set()
    servers.close()
    assert set(found) == set(KEYS) - set(places[fakes[0].address])
    assert [data for data in received if b"VALUE x " in data] == []


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("is_new", [True, False], ids=["at first", "later"])
def test_an_answer_without_an_end_does_not_fill_the_memory(
    fakes: list[FakeMemcached], monkeypatch: pytest.MonkeyPatch, is_new: bool, others: int
) -> None:
    """M1: a server that never stops answering is left after so many bytes, long before the deadline."""
    monkeypatch.setattr(memcached, "_LONGEST", 2**20)
    sent, is_left = 0, threading.Event()

    def flooding(connection: Any, answer: bytes) -> None:
        nonlocal sent
        try:
            while answer.startswith(b"VERSION") is is_new and sent < 2**27:
                sent += connection.send(b"x" * 65_536)
            connection.sendall(answer)
        except OSError:
            is_left.set()
            raise

    fakes[0]._behave(flooding)
    servers = Servers(Addresses.parse(setting(fakes[: 1 + others])), Counts())
    servers.read(KEYS, soon())
    assert is_left.wait(DEADLINE)
    assert sent < 2**25  # what lies in the buffers of the system counts too
    servers.close()


def test_a_command_that_was_not_sent_ahead(fakes: list[FakeMemcached]) -> None:
    """M5: a client that sends another command than was sent for it fails, and its connection is closed."""
    fakes[0].values = {"a": b"1", "b": b"2"}
    server = Server(Addresses.parse(fakes[0].url).servers[0])

    def work(client: Client) -> None:
        client.sock.send_ahead(b"gets a\r\n")
        client.gets_many(["b"])

    with pytest.raises(Failed, match="ConnectionError"):
        server.use(work, soon())
    eventually(lambda: fakes[0].accepted and not fakes[0].open)


def test_a_client_does_not_connect(fakes: list[FakeMemcached]) -> None:
    """M1: a client whose connection is gone makes none of its own, which would have no deadline."""
    server = Server(Addresses.parse(fakes[0].url).servers[0])

    def work(client: Client) -> None:
        client.close()
        client.get("a")

    with pytest.raises(Failed):
        server.use(work, soon())
    assert fakes[0].accepted == 1


# What is on every server.


@pytest.mark.usefixtures("never_trying")
def test_one_key_of_every_server(fakes: list[FakeMemcached], servers_of: Callable[..., Servers]) -> None:
    """M9: a key is asked for on all servers at once: each tells its value, or that it has none."""
    servers = servers_of(fakes)
    fakes[0].values["e"] = b"1"
    fakes[2].refuse()
    expected = {fakes[0].address: (b"1", b"0"), fakes[1].address: None, fakes[3].address: None}
    assert servers.everywhere("e", {}, soon()) == expected
    assert servers.everywhere("e", {}, soon()) == expected


def test_every_server_is_told(fakes: list[FakeMemcached], servers_of: Callable[..., Servers]) -> None:
    """M9: what is to replace what was read does so where nobody else was first; what stands is told."""
    servers = servers_of(fakes)
    fakes[0].values["e"] = b"old"
    read = servers.everywhere("e", {}, soon())
    fakes[1].values["e"] = b"another's"
    found = servers.everywhere("e", {name: (b"new", value) for name, value in read.items()}, soon())
    assert [value and value[0] for value in found.values()] == [b"new", b"another's", b"new", b"new"]
    assert [fake.values["e"] for fake in fakes] == [b"new", b"another's", b"new", b"new"]


# Unix sockets and TLS.


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def shared_by_two(shared: str, fleet: Fleet) -> tuple[int, ...]:
    """Return from_shared and shared_errors of a member when another has signed."""
    one, other = (fleet.member(shared, fleet.session(name)) for name in ("ASIAONE", "ASIATWO"))
    urls = one.urls(TARGETS)
    found = other.urls(TARGETS)
    assert fleet.refused([*urls, *found], TARGETS * 2) == []
    return counted(other, "from_shared", "shared_errors")


def test_unix_sockets(tmp_path_factory: pytest.TempPathFactory, fleet: Fleet, reals: list[Memcached]) -> None:
    """M7: memcacheds on unix sockets are shared, beside others too."""
    directory = tmp_path_factory.mktemp("s")  # a short name: a path has 107 bytes at most
    paths = [directory / name for name in ("a.sock", "b.sock")]
    reals[0].restart()
    with on_a_socket(paths[0]), on_a_socket(paths[1]):
        assert shared_by_two(f"memcached://{paths[0]},{paths[1]},{reals[0].address}", fleet) == (100, 0)
    assert 0 < int(reals[0].stats()["curr_items"]) < 100


def test_tls(authority: Authority, fleet: Fleet) -> None:
    """M7: memcacheds with TLS are shared: their certificates are verified, by the authority that is named."""
    with (
        with_tls(*authority.certify("127.0.0.1")) as first,
        with_tls(*authority.certify("localhost")) as second,
    ):
        addresses = f"{first},{second.replace('127.0.0.1', 'localhost')}"
        assert shared_by_two(f"memcacheds://{addresses}?cafile={authority.file}", fleet) == (100, 0)


def test_tls_for_known_clients(authority: Authority, fleet: Fleet) -> None:
    """M7: a server that wants certificates of its clients gets this host's."""
    certificate, key = authority.certify("client.internal")
    files = f"cafile={authority.file}&certfile={certificate}&keyfile={key}"
    with with_tls(*authority.certify("127.0.0.1"), clients=authority.file) as address:
        assert shared_by_two(f"memcacheds://{address}?{files}", fleet) == (100, 0)
        refused, errors = shared_by_two(f"memcacheds://{address}?cafile={authority.file}", fleet)
        assert refused == 0
        assert errors > 0


@pytest.mark.parametrize(
    ("host", "options", "is_accepted"),
    [
        ("127.0.0.1", "", False),  # of an authority nobody has heard of
        ("127.0.0.1", "?cafile={other}", False),
        ("127.0.0.1", "?verify=none", True),
        ("else.where", "?cafile={own}", False),
        ("else.where", "?cafile={own}&verify=ca", True),
        ("else.where", "?cafile={other}&verify=ca", False),
    ],
)
def test_what_tls_accepts(
    authority: Authority, tmp_path: Path, fleet: Fleet, host: str, options: str, is_accepted: bool
) -> None:
    """M7: a certificate of another authority, or for another host, makes no URL wrong but keys misses."""
    files = {"own": authority.file, "other": Authority(tmp_path, "other").file}
    with with_tls(*authority.certify(host)) as address:
        hits, errors = shared_by_two(f"memcacheds://{address}{options.format(**files)}", fleet)
    assert (hits, errors > 0) == ((100, False) if is_accepted else (0, True))


def test_tls_and_none(authority: Authority, memcached: Memcached, fleet: Fleet) -> None:
    """M4: TLS spoken to a server that has none, and none to one that has it, is an error that is counted."""
    with with_tls(*authority.certify("127.0.0.1")) as address:
        hits, errors = shared_by_two(f"memcached://{address}", fleet)
        assert (hits, errors > 0) == (0, True)
    hits, errors = shared_by_two(f"memcacheds://{memcached.address}", fleet)
    assert (hits, errors > 0) == (0, True)
