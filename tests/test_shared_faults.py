"""
Whatever memcached does, every URL is right, nobody gets an exception, and nobody waits for long.

Patience and the breaker are told in real seconds, so what must not take long has a
generous bound; what happens after a while is made to happen by a clock or an event.
"""

import asyncio
import itertools
import logging
import os
import random
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from faults import FakeMemcached, Proxy, eventually
from fleet import DEADLINE, PATIENT, Fleet, counted, let_publish

from presign_middleware import Presigner, memcached, persistence, sharing
from presign_middleware.addresses import Address
from presign_middleware.memcached import Failed, Server, Skipped
from presign_middleware.persistence import Persistence
from presign_middleware.testing import Memcached

PATIENCE: Final = 0.2  # seconds, of those tests that need it to end
SLACK: Final = 5.0  # seconds by which a busy machine may be late

TARGETS: Final = [f"s3://media/{number}" for number in range(20)]


@pytest.fixture
def retrying_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what could not be written be tried again with next to no pause."""
    monkeypatch.setattr(persistence, "_SHORTEST_PAUSE", 0.001)


@pytest.fixture
def always_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no pause between two attempts to reach a server that failed."""
    monkeypatch.setattr(memcached, "_LONGEST_PAUSE", 0.0)


@pytest.fixture
def publishing_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have threads that publish give up soon, since a presigner waits for them when it is closed."""
    monkeypatch.setattr(sharing, "_PUBLISH_WITHIN", 0.02)


class Resolver:
    """A resolver of names that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = threading.Event()
        self._getaddrinfo = socket.getaddrinfo

    def getaddrinfo(self, host: str, *args: Any, **kwargs: Any) -> Any:
        if host != "cache.test":
            return self._getaddrinfo(host, *args, **kwargs)
        self.asked += 1
        assert self.answers.wait(DEADLINE)
        return self._getaddrinfo("127.0.0.1", *args, **kwargs)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    found = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", found.getaddrinfo)
    yield found
    found.answers.set()


def server_of(presigner: Presigner) -> Server:
    (server,) = presigner._runner._sharing._shared._servers.each()  # type: ignore[union-attr]
    assert isinstance(server, Server)
    return server


def settled(server: Server) -> bool:
    """Return whether nobody is connecting to *server* now."""
    return not server._connecting


def asked(fake: FakeMemcached | Proxy) -> list[str]:
    """Return what was asked for a request's sake, and not to see whether the server answers."""
    return [name for name, _ in fake.commands if name != "version"]


Way = Callable[[Presigner, Sequence[str]], list[str]]


def one_by_one(presigner: Presigner, targets: Sequence[str]) -> list[str]:
    """Return the URLs of *targets*, asked for one after another in one request."""
    with presigner.scope():
        return [presigner.url(target) for target in targets]


def one_by_one_async(presigner: Presigner, targets: Sequence[str]) -> list[str]:
    """Return the URLs of *targets*, awaited one after another in one request."""

    async def ask() -> list[str]:
        async with presigner.scope():
            return [await presigner.aurl(target) for target in targets]

    return asyncio.run(ask())


def gathered(presigner: Presigner, targets: Sequence[str]) -> list[str]:
    """Return the URLs of *targets*, awaited at once in one request."""

    async def ask() -> list[str]:
        async with presigner.scope():
            return await asyncio.gather(*[presigner.aurl(target) for target in targets])

    return asyncio.run(ask())


both_colours: Final = pytest.mark.parametrize("ask", [one_by_one, one_by_one_async])


def faulty(fake: FakeMemcached, fault: str) -> None:
    """Give *fake* the *fault* of this name, so that no answer is complete within PATIENCE."""
    if fault == "drip":
        fake.drip(PATIENCE / 4)
    else:
        getattr(fake, fault)()


FAULTS: Final = ["drip", "blackhole", "refuse", "hold"]


# Patience.


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("ask", "kind", "is_connected"),
    [
        (one_by_one, "static", False),
        (one_by_one, "session", True),
        (one_by_one_async, "static", True),
        (gathered, "session", False),
    ],
)
@pytest.mark.usefixtures("publishing_briefly")
def test_one_budget_a_request(
    fake: FakeMemcached,
    fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    ask: Way,
    kind: str,
    is_connected: bool,
) -> None:
    """M1: a request waits for its patience in all, however often it asks, even if no breaker opens."""
    credentials = fleet.static() if kind == "static" else fleet.session("ASIAONE")
    presigner = fleet.member(fake.url, credentials, patience=PATIENCE)
    if is_connected:
        presigner.url("s3://media/connected")
    else:
        fleet.member(None, credentials).url("s3://media/imported")
    monkeypatch.setattr(Server, "_fail", lambda *args: None)
    faulty(fake, fault)
    start = time.monotonic()
    urls = ask(presigner, TARGETS)
    assert time.monotonic() - start < PATIENCE + SLACK
    fake.obey()
    assert fleet.refused(urls, TARGETS) == []


@both_colours
def test_a_slow_resolver(fleet: Fleet, fake: FakeMemcached, resolver: Resolver, ask: Way) -> None:
    """M1: a request waits for its patience where the server's name takes longer to resolve; it is reused."""
    presigner = fleet.member(f"memcached://cache.test:{fake.port}", fleet.static(), patience=PATIENCE)
    start = time.monotonic()
    urls = ask(presigner, TARGETS)
    assert time.monotonic() - start < PATIENCE + SLACK
    assert fleet.refused(urls, TARGETS) == []
    eventually(lambda: counted(presigner, "shared_errors")[0] > 0)
    let_publish(presigner)
    times_asked = resolver.asked
    resolver.answers.set()
    eventually(lambda: ask(presigner, [f"s3://media/{time.monotonic()}"]) and asked(fake) != [])
    assert resolver.asked == times_asked


@both_colours
def test_no_patience(fake: FakeMemcached, fleet: Fleet, ask: Way) -> None:
    """M1: with shared_patience=0 nobody waits and nothing is read, and new URLs are shared all the same."""
    presigner = fleet.member(fake.url, fleet.static(), patience=0)
    fake.hold()
    ask(presigner, TARGETS)
    fake.release()
    presigner.close()
    assert "gets" not in asked(fake)
    eventually(lambda: len(fake.values) == len(TARGETS))


def test_nobody_waits_for_anothers_patience(fake: FakeMemcached, fleet: Fleet) -> None:
    """M1: of two requests that ask in one turn of a loop, the one whose patience ends first goes on first."""
    presigner = fleet.member(fake.url, fleet.session("ASIAONE"), patience=2)
    presigner.url("s3://media/connected")
    let_publish(presigner)

    async def ask(target: str, left: float) -> float:
        async with presigner.scope() as scope:
            scope.left = left
            await presigner.aurl(target)
            return scope.left

    async def both() -> None:
        fake.hold()
        hasty, patient = (
            asyncio.create_task(ask(*each)) for each in [("s3://media/a", 0.05), ("s3://media/b", 2)]
        )
        done, _ = await asyncio.wait([hasty, patient], return_when=asyncio.FIRST_COMPLETED)
        assert done == {hasty}
        assert hasty.result() <= 0
        fake.release()
        assert await patient > 0

    asyncio.run(both())


def test_a_new_request_has_its_own(fake: FakeMemcached, fleet: Fleet) -> None:
    """M1: patience that one request has spent is not missing to the next one."""
    presigner = fleet.member(fake.url, fleet.static(), patience=PATIENCE)
    presigner.url("s3://media/connected")
    with presigner.scope() as scope:
        scope.left = 0
        presigner.url("s3://media/a")
    before = len(asked(fake))
    with presigner.scope():
        presigner.url("s3://media/b")
    assert asked(fake)[before:].count("gets") == 1


def test_those_who_wait_at_once_wait_once(fake: FakeMemcached, fleet: Fleet) -> None:
    """M1, D4: what many tasks of one request wait for together is taken off its patience once."""
    presigner = fleet.member(fake.url, fleet.static())
    presigner.urls(TARGETS)
    fleet.clock.advance(10)  # so that the epochs have to be read

    async def page() -> float:
        async with presigner.scope() as scope:
            fake.hold()
            asking = asyncio.gather(*[presigner.aurl(target) for target in TARGETS * 20])
            await asyncio.to_thread(eventually, lambda: fake.held)
            fake.release()
            await asking
            return PATIENT - scope.left

    start = time.monotonic()
    assert 0 < asyncio.run(page()) < time.monotonic() - start


@pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "asyncio"])
def test_the_end_of_patience_is_no_fault(fake: FakeMemcached, fleet: Fleet, is_async: bool) -> None:
    """M1, M3: with next to no patience left a request reads nothing, and no server is blamed for that."""
    presigner = fleet.member(fake.url, fleet.static())
    presigner.urls(TARGETS)
    let_publish(presigner)
    fleet.clock.advance(10)  # so that the epochs have to be read too
    before = len(asked(fake))
    with presigner.scope() as scope:
        scope.left = 1e-6
        asyncio.run(presigner.aurl("s3://media/new")) if is_async else presigner.url("s3://media/new")
    let_publish(presigner)
    assert "gets" not in asked(fake)[before:]
    assert counted(presigner, "shared_errors", "shared_skipped") == (0, 0)


@pytest.mark.parametrize(("age", "reads"), [(9.9, 0), (10, 1), (3600, 1)])
def test_a_websocket_or_a_job_becomes_patient_again(
    fake: FakeMemcached, fleet: Fleet, age: float, reads: int
) -> None:
    """M1: a page has one patience; a scope that was open for longer than any page has it anew."""
    presigner = fleet.member(fake.url, fleet.static(), patience=PATIENCE)
    presigner.url("s3://media/connected")
    with presigner.scope() as scope:
        fleet.clock.advance(age)
        presigner.warm(["s3://media/warm"])  # what is held is as old, and the epochs have been read
        before = len(asked(fake))
        scope.left = 0
        presigner.url("s3://media/a")
        assert asked(fake)[before:].count("gets") == reads


def test_it_waits_for_a_twentieth_of_its_time_at_most(fake: FakeMemcached, fleet: Fleet) -> None:
    """M1: a job that lasts has its patience anew when twenty times as long has passed."""
    presigner = fleet.member(fake.url, fleet.static(), patience=PATIENCE)
    presigner.url("s3://media/connected")
    patient_at = []
    with presigner.scope() as scope:
        fleet.clock.advance(60)
        for number in range(40):
            presigner.url(f"s3://media/{number}")
            if scope.left > 0:
                patient_at.append(number)
            scope.left = 0
            fleet.clock.advance(PATIENCE * 1.25)
    assert patient_at == [0, 16, 32]


# The breaker.


@pytest.mark.usefixtures("never_trying", "publishing_briefly")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("ask", "is_connected"), [(one_by_one, False), (one_by_one_async, True)])
def test_after_a_failure_nobody_asks(
    fake: FakeMemcached, fleet: Fleet, fault: str, is_connected: bool, ask: Way
) -> None:
    """M1, M3: after a failure the server is not asked; failures, skips and misses are counted apart."""
    presigner = fleet.member(fake.url, fleet.static(), patience=PATIENCE)
    if is_connected:
        presigner.url("s3://media/connected")
        eventually(lambda: fake.values)
    faulty(fake, fault)
    ask(presigner, TARGETS[:1])
    let_publish(presigner)
    commands, before = asked(fake), counted(presigner, "shared_errors", "shared_misses")
    start = time.monotonic()
    urls = [url for target in TARGETS[1:] for url in ask(presigner, [target])]
    assert time.monotonic() - start < PATIENCE + SLACK
    let_publish(presigner)
    assert asked(fake) == commands
    errors, misses = counted(presigner, "shared_errors", "shared_misses")
    assert errors - before[0] <= 1  # a thread that read what was taken back may give up a moment later
    assert misses == before[1] == int(is_connected)
    assert counted(presigner, "shared_skipped")[0] >= 2 * len(urls)  # to read, and to publish
    assert fleet.refused(urls, TARGETS[1:]) == []


@pytest.mark.usefixtures("always_trying")
@both_colours
def test_no_request_is_the_probe(fake: FakeMemcached, fleet: Fleet, ask: Way) -> None:
    """M1: whether a server answers again is tried in the background, by one connection at a time."""
    presigner = fleet.member(fake.url, fleet.static(), patience=DEADLINE)
    presigner.url("s3://media/connected")
    let_publish(presigner)
    fake.refuse()
    presigner.url(TARGETS[0])
    fake.obey()
    fake.hold()
    fake.commands.clear()
    start = time.monotonic()
    eventually(lambda: ask(presigner, TARGETS[1:]) and fake.held == 1)  # until its pause is over
    ask(presigner, TARGETS[:1])
    assert time.monotonic() - start < DEADLINE / 2
    assert fake.commands == [("version", [])]
    fake.release()
    eventually(lambda: settled(server_of(presigner)))
    presigner.url("s3://media/more")
    assert "gets" in asked(fake)


def test_the_pauses_grow(fake: FakeMemcached, monkeypatch: pytest.MonkeyPatch) -> None:
    """M1: a server that goes on failing is tried after twice as long each time, up to half a minute."""
    now = 1000.0
    monkeypatch.setattr(memcached, "monotonic", lambda: now)
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    fake.refuse()
    server = Server(Address(fake.host, fake.port))
    server.connect()
    eventually(lambda: settled(server))
    tried = [now]
    gaps: list[float] = []
    while len(gaps) < 12:
        now += 0.05
        before = fake.accepted
        with pytest.raises(Skipped):
            server.use(lambda client: None, now)
        eventually(lambda: settled(server))
        if fake.accepted > before:
            gaps.append(now - tried[-1])
            tried.append(now)
    doubled = [min(30, 0.1 * 2**number) for number in range(12)]
    assert gaps == pytest.approx(doubled, abs=0.11)


def test_a_connection_from_before_the_failure(fake: FakeMemcached, monkeypatch: pytest.MonkeyPatch) -> None:
    """M1: one that was begun before the server failed is no probe: the pause goes on, and is not doubled."""
    now = 1000.0
    monkeypatch.setattr(memcached, "monotonic", lambda: now)
    server = Server(Address(fake.host, fake.port))
    fake.hold()
    server.connect()
    eventually(lambda: fake.held == 1)
    server._fail(0, TimeoutError())  # as one of its other connections was used
    fake.release()
    eventually(lambda: settled(server))
    with pytest.raises(Skipped):
        server.use(lambda client: None, now + DEADLINE)
    eventually(lambda: fake.open == 0)
    now += 0.1
    eventually(lambda: not server.is_down())
    server.close()


def test_the_pauses_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """M1: the processes of a fleet do not try all at once: each pause is shortened by chance."""
    monkeypatch.setattr(memcached, "monotonic", lambda: 0.0)
    servers = [Server(Address("cache.test")) for _ in range(20)]
    for server in servers:
        server._fail(0, OSError())
    pauses = {server._retry_at for server in servers}
    assert len(pauses) > 10
    assert max(pauses) <= 0.1


def test_an_outage_of_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """M1: after thousands of failures the pauses are as long as they ever get, and nothing overflows."""
    monkeypatch.setattr(memcached, "monotonic", lambda: 0.0)
    server = Server(Address("cache.test"))
    for failures in range(5_000):
        server._fail(failures, OSError())
    assert 15 <= server._retry_at <= 30


@pytest.mark.usefixtures("always_trying")
def test_descriptors_stay_flat(fake: FakeMemcached, fleet: Fleet) -> None:
    """M1: two thousand attempts that fail leave no descriptor, thread or connection behind."""
    presigner = fleet.member(fake.url, fleet.static(), patience=PATIENCE)
    presigner.url("s3://media/connected")
    fake.refuse()
    server = server_of(presigner)

    def attempt() -> None:
        with pytest.raises((Failed, Skipped)):
            server.use(lambda client: client.get("a"), time.monotonic() + PATIENCE)
        deadline = time.monotonic() + DEADLINE
        while not settled(server):
            assert time.monotonic() < deadline
            time.sleep(0)

    for _ in range(20):
        attempt()
    before = len(os.listdir("/dev/fd")), threading.active_count()
    accepted = fake.accepted
    for _ in range(2_000):
        attempt()
    assert fake.accepted >= accepted + 1_900
    eventually(lambda: (len(os.listdir("/dev/fd")), threading.active_count()) <= before)


@pytest.mark.parametrize("fault", [*FAULTS, "garble", "truncate", "error"])
@both_colours
def test_it_recovers(
    fake: FakeMemcached, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, fault: str, ask: Way
) -> None:
    """M1: once the server answers again its entries are used again, without a restart."""
    monkeypatch.setattr(memcached, "_CONNECT_WITHIN", 0.5)  # or a swallowed attempt takes its 5 s
    writer = fleet.member(fake.url, fleet.session("ASIAONE"))
    urls = writer.urls(TARGETS)
    presigner = fleet.member(fake.url, fleet.session("ASIATWO"), patience=PATIENCE)
    presigner.url("s3://media/connected")
    faulty(fake, fault)
    assert fleet.refused(ask(presigner, TARGETS[:1]), TARGETS[:1]) == []
    eventually(lambda: counted(presigner, "shared_errors")[0] > 0)
    fake.obey()
    numbers = itertools.count()

    def answers() -> bool:
        before = counted(presigner, "shared_misses")
        presigner.url(f"s3://media/probe-{next(numbers)}")
        return counted(presigner, "shared_misses") > before

    eventually(answers, within=DEADLINE)
    assert ask(presigner, TARGETS[1:]) == urls[1:]


def test_a_server_that_answers_but_never_in_time(fake: FakeMemcached, fleet: Fleet) -> None:
    """M1: one that says it is there, and then is too slow each time, costs ever fewer requests their time."""
    presigner = fleet.member(fake.url, fleet.static(), patience=0.02)
    server = server_of(presigner)
    pauses = []
    fail = server._fail

    def failed(era: int, error: Exception) -> None:
        fail(era, error)
        pauses.append(server._retry_at - time.monotonic())

    server._fail = failed  # type: ignore[method-assign]
    numbers = itertools.count()
    presigner.url("s3://media/connected")
    fake.drip(0.01)  # a version takes 0.15 s in the background, a miss longer than requests wait
    eventually(
        lambda: presigner.url(f"s3://media/{next(numbers)}") and len(pauses) >= 4,
        within=DEADLINE,
    )
    assert pauses[-1] > 0.11


@pytest.mark.parametrize("fault", ["drip", "hold"])
@both_colours
def test_a_late_answer_is_not_taken_for_anothers(
    fake: FakeMemcached, fleet: Fleet, fault: str, ask: Way
) -> None:
    """M1, M5: a connection that was too slow is not used again, so its late answer reaches nobody."""
    writer = fleet.member(fake.url, fleet.session("ASIAONE"))
    urls = writer.urls(TARGETS)
    writer.close()
    presigner = fleet.member(fake.url, fleet.session("ASIATWO"), patience=PATIENCE)
    presigner.url("s3://media/connected")
    let_publish(presigner)
    accepted = fake.accepted
    faulty(fake, fault)
    ask(presigner, TARGETS[:1])
    eventually(lambda: counted(presigner, "shared_errors")[0] > 0)
    fake.obey()  # what was held is answered now
    server = server_of(presigner)

    def connected() -> bool:
        server.connect()
        return bool(server._idle)

    eventually(connected)
    assert fake.accepted > accepted
    assert ask(presigner, TARGETS[1:]) == urls[1:]


@both_colours
def test_swapped_values(fake: FakeMemcached, fleet: Fleet, ask: Way) -> None:
    """K4, M4: with a static key a server that gives each key another's value is believed in nothing."""
    fleet.member(fake.url, fleet.static()).urls(TARGETS)
    eventually(lambda: len(fake.values) == len(TARGETS))
    fake.swap()
    reader = fleet.member(fake.url, fleet.static())
    assert fleet.refused(ask(reader, TARGETS), TARGETS) == []
    assert counted(reader, "shared_rejected", "from_signer", "shared_errors") == (20, 20, 0)


@pytest.mark.usefixtures("publishing_briefly")
@pytest.mark.parametrize("fault", ["garble", "truncate", "error", "refuse", "blackhole", "drip"])
@pytest.mark.parametrize(("ask", "kind"), [(one_by_one, "session"), (one_by_one_async, "static")])
def test_no_fault_makes_a_wrong_url(
    fake: FakeMemcached, fleet: Fleet, fault: str, kind: str, ask: Way
) -> None:
    """M4: a server that garbles, cuts, refuses or delays its answers raises nothing; URLs are right."""
    sessions = [fleet.static()] * 2 if kind == "static" else [fleet.session("ASIAA"), fleet.session("ASIAB")]
    fleet.member(fake.url, sessions[0]).urls(TARGETS)
    reader = fleet.member(fake.url, sessions[1], patience=PATIENCE)
    reader.url("s3://media/connected")
    faulty(fake, fault)
    assert fleet.refused(ask(reader, TARGETS), TARGETS) == []
    assert counted(reader, "failed") == (0,)


@both_colours
def test_an_unsound_server(fleet: Fleet, ask: Way) -> None:
    """M1, M4: a port at which nobody listens, or a name that does not resolve, costs no URL."""
    for url in ("memcached://127.0.0.1:1", "memcached://no-such-host.invalid:11211"):
        presigner = fleet.member(url, fleet.session("ASIAONE"), patience=PATIENCE)
        assert fleet.refused(ask(presigner, TARGETS), TARGETS) == []


@both_colours
def test_a_server_that_never_answered(fake: FakeMemcached, fleet: Fleet, ask: Way) -> None:
    """M3: a server that has refused every connection since the start counts as failing, not just skipped."""
    fake.refuse()
    presigner = fleet.member(fake.url, fleet.static(), patience=PATIENCE)
    ask(presigner, TARGETS[:1])
    eventually(lambda: counted(presigner, "shared_errors")[0] > 0, within=1)
    assert counted(presigner, "shared_misses") == (0,)


def test_no_thread_can_be_started(fake: FakeMemcached, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """M4: a process that can start no more threads, or is ending, has its URLs without the shared cache."""
    presigner = fleet.member(fake.url, fleet.session("ASIAONE"), patience=PATIENCE)
    fleet.member(None, fleet.static()).url("s3://media/imported")

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        urls = presigner.urls(TARGETS)
    assert fleet.refused(urls, TARGETS) == []
    eventually(lambda: presigner.url(f"s3://media/{time.monotonic()}") and fake.values)


def test_closed_while_connecting(fake: FakeMemcached, fleet: Fleet) -> None:
    """M1: a presigner that is closed while it connects leaves no connection behind."""
    presigner = fleet.member(fake.url, fleet.static(), patience=0.05)
    fake.hold()
    presigner.url(TARGETS[0])
    eventually(lambda: fake.held == 1)
    closing = threading.Thread(target=presigner.close)
    closing.start()
    closing.join(DEADLINE)
    fake.release()
    eventually(lambda: settled(server_of(presigner)))
    eventually(lambda: fake.open == 0)


def test_closed_while_in_use(fake: FakeMemcached) -> None:
    """M1: a connection that is in use when a presigner is closed is closed after its use."""
    server = Server(Address(fake.host, fake.port))
    server.use(lambda client: server.close(), time.monotonic() + DEADLINE)
    eventually(lambda: fake.accepted == 1 and fake.open == 0)


def test_clients_raise(fake: FakeMemcached, fleet: Fleet) -> None:
    """M3: pymemcache is not told to take errors for misses."""
    presigner = fleet.member(fake.url, fleet.static())
    presigner.url(TARGETS[0])
    server = server_of(presigner)
    eventually(lambda: server._idle)
    assert [client.ignore_exc for client in server._idle] == [False] * len(server._idle)


def test_what_is_said_of_an_outage(
    fake: FakeMemcached, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """M1: an outage is a warning when it begins and a line when it ends, however many requests there are."""
    caplog.set_level(logging.INFO, "presign_middleware")
    presigner = fleet.member(fake.url, fleet.static(), patience=PATIENCE)
    presigner.url("s3://media/connected")
    fake.refuse()
    for target in TARGETS:
        presigner.url(target)
    fake.obey()
    let_publish(presigner)
    eventually(lambda: presigner.url(f"s3://media/{time.monotonic()}") and len(caplog.records) > 1)
    said = [record.levelname for record in caplog.records if fake.address in record.getMessage()]
    assert said == ["WARNING", "INFO"]


# A real server.


@pytest.mark.parametrize("kind", ["static", "session"])
def test_flushed(memcached: Memcached, fleet: Fleet, kind: str) -> None:
    """M4: what was flushed is a miss, is signed again, and is shared again."""

    def member(name: str) -> Presigner:
        return fleet.member(memcached.url, fleet.static() if kind == "static" else fleet.session(name))

    member("ASIAONE").urls(TARGETS)
    memcached.flush()
    second = member("ASIATWO")
    urls = second.urls(TARGETS)
    second.close()
    assert fleet.refused(urls, TARGETS) == []
    assert member("ASIATHREE").urls(TARGETS) == urls


def test_evicted(fleet: Fleet) -> None:
    """M4: a memcached that is too small evicts; what is left is used, the rest is signed."""
    targets = [f"s3://media/{number}" for number in range(2_000)]
    with Memcached(memory=2) as small:
        # Few of them fit: a session's token may have kilobytes.
        first, second = (
            fleet.member(small.url, fleet.session(name, token=name * 500)) for name in ("ASIAA", "ASIAB")
        )
        first.warm(targets)
        assert int(small.stats()["evictions"]) > 0
        second.warm(reversed(targets))  # what is newest is still there
        assert counted(second, "shared_errors", "failed", "shared_rejected") == (0, 0, 0)
        hits, signed = counted(second, "from_shared", "from_signer")
        assert hits > 0
        assert signed > 0
        sample = random.Random(4).sample(targets, 300)
        assert fleet.refused(second.urls(sample), sample) == []


def test_restarted(own: Memcached, fleet: Fleet) -> None:
    """M1, M4: a server that is restarted is empty, and fills again without a restart of the processes."""
    sessions = [fleet.session("ASIAA"), fleet.session("ASIAB")]
    one, other = (fleet.member(own.url, session, patience=PATIENCE) for session in sessions)
    one.urls(TARGETS)
    other.urls(TARGETS)
    own.restart()
    numbers = itertools.count()

    def shares() -> bool:
        target = f"s3://media/again-{next(numbers)}"
        return one.url(target) == other.url(target)

    eventually(shares, within=DEADLINE)


class Traffic:
    """Requests of two processes of a fleet, from threads and from an event loop, until it is told to end."""

    targets: Final = [f"s3://media/{number}" for number in range(200)]

    def __init__(self, members: Sequence[Presigner]) -> None:
        self._members = members
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.served = 0
        self.found: dict[str, set[str]] = {target: set() for target in self.targets}
        self.slowest = 0.0  # seconds that one request took

    def _request(self, chance: random.Random) -> tuple[Presigner, list[str]]:
        return chance.choice(self._members), chance.sample(self.targets, 5)

    def _note(self, targets: Sequence[str], urls: Sequence[str], start: float) -> None:
        with self._lock:
            self.served += 1
            self.slowest = max(self.slowest, time.monotonic() - start)
            for target, url in zip(targets, urls, strict=True):
                self.found[target].add(url)

    def from_a_thread(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self._over.is_set():
            presigner, targets = self._request(chance)
            start = time.monotonic()
            with presigner.scope():
                self._note(targets, [*presigner.urls(targets[:2]), *map(presigner.url, targets[2:])], start)

    def from_a_loop(self, seed: int) -> None:
        chance = random.Random(seed)

        async def request() -> None:
            while not self._over.is_set():
                presigner, targets = self._request(chance)
                start = time.monotonic()
                async with presigner.scope():
                    urls = await presigner.aurls(targets[:2])
                    urls += await asyncio.gather(*[presigner.aurl(target) for target in targets[2:4]])
                    urls.append(presigner.url(targets[4]))  # a blocking call on the loop's thread
                    self._note(targets, urls, start)

        async def requests() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(request())

        asyncio.run(requests())

    def run(self, meanwhile: Callable[[], None]) -> None:
        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(self.from_a_thread, seed) for seed in range(3)]
            futures.append(pool.submit(self.from_a_loop, 3))
            try:
                meanwhile()
            finally:
                self._over.set()
            for future in futures:
                future.result()

    def goes_on(self) -> None:
        """Wait until a few dozen more requests have been served."""
        goal = self.served + 40
        eventually(lambda: self.served > goal, within=DEADLINE)


@pytest.mark.parametrize("kind", ["static", "session"])
def test_traffic_through_every_misfortune(own: Memcached, fleet: Fleet, kind: str) -> None:
    """M1, M4: killed, started, frozen, thawed, flushed and restarted under load: every URL is right."""
    sessions = [fleet.static()] * 2 if kind == "static" else [fleet.session("ASIAA"), fleet.session("ASIAB")]
    members = [fleet.member(own.url, each, patience=0.05, local_size=20) for each in sessions]
    for member in members:
        with member.scope() as patient:
            patient.left = DEADLINE  # whoever could not read the epochs would date its URLs otherwise
            member.url("s3://media/connected")
    traffic = Traffic(members)

    def shared() -> int:
        return sum(counted(member, "from_shared")[0] for member in members)

    def meanwhile() -> None:
        for happens in (own.kill, own.start, own.freeze, own.thaw, own.flush, own.restart, own.freeze):
            traffic.goes_on()
            happens()
        for happens in (own.kill, own.start):  # while it is frozen
            traffic.goes_on()
            happens()
        before = shared()
        eventually(lambda: shared() > before + 20, within=DEADLINE)

    traffic.run(meanwhile)
    found = [(target, url) for target, urls in traffic.found.items() for url in urls]
    assert fleet.refused([url for _, url in found], [target for target, _ in found]) == []
    assert [counted(member, "failed") for member in members] == [(0,), (0,)]
    assert sum(counted(member, "shared_errors")[0] for member in members) > 0
    assert traffic.slowest < 2
    if kind == "static":
        assert len(found) == len(traffic.found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_connects_anew(memcached: Memcached, fleet: Fleet) -> None:
    """M5: a child uses none of its parent's connections, and neither gets an answer for the other's key."""
    with Proxy(memcached.address) as proxy:
        urls = fleet.member(proxy.url, fleet.session("ASIAONE")).urls(TARGETS)
        presigner = fleet.member(proxy.url, fleet.session("ASIATWO"))
        presigner.url("s3://media/connected")
        accepted = proxy.accepted
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # since 3.12: a process with threads forks
            child = os.fork()
        if not child:
            signal.alarm(DEADLINE)
            right = [presigner.url(target) for target in TARGETS] == urls
            stats = presigner.stats()
            right = right and (stats["from_shared"], stats["shared_errors"], stats["signed"]) == (20, 0, 0)
            os.write(writing, b"right" if right else repr(stats).encode())
            os._exit(0)
        assert [presigner.url(target) for target in TARGETS] == urls
        os.close(writing)
        with os.fdopen(reading) as pipe:
            assert pipe.read() == "right"
        assert os.waitpid(child, 0)[1] == 0
        assert proxy.accepted == accepted + 1
        assert counted(presigner, "from_shared", "shared_errors") == (20, 0)


# What could not be written.


def test_what_could_not_be_written_is_written_later(memcached: Memcached, fleet: Fleet) -> None:
    """M2: once the server answers again it has what was signed meanwhile, though nobody asks for it."""
    presigner = fleet.member(memcached.url, fleet.session("ASIAONE"))
    presigner.url("s3://media/connected")
    memcached.stop()
    urls = presigner.urls(TARGETS)
    memcached.start()
    eventually(lambda: int(memcached.stats()["curr_items"]) > len(TARGETS), within=DEADLINE)
    assert fleet.member(memcached.url, fleet.session("ASIATWO")).urls(TARGETS) == urls


def test_the_pauses_between_two_attempts_to_write_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """M2: they double, from a tenth of a second to half a minute, and begin anew with what is new."""
    pauses, shares = list[float](), list[tuple[float, float]]()
    over = threading.Event()

    class Pause(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0)
            return self.is_set()

    def longest(*bounds: float) -> float:
        shares.append((bounds[0], bounds[1]))
        return bounds[1]

    def attempt() -> bool:
        if len(pauses) == 11:
            retrying.begin()  # while it is at it
            return True
        if len(pauses) == 12:
            over.set()
        return over.is_set()

    monkeypatch.setattr(persistence, "Event", Pause)
    monkeypatch.setattr(random, "uniform", longest)
    retrying = Persistence(attempt, "presign-test")
    retrying.begin()
    assert over.wait(DEADLINE)
    assert pauses == pytest.approx([0.1 * 2**n for n in range(9)] + [30, 30, 0.1])
    assert {*shares} == {(0.5, 1)}  # or all processes would come at once


@pytest.mark.usefixtures("retrying_at_once")
def test_an_attempt_to_write_that_is_under_way_at_the_end_is_the_last() -> None:
    """M2, R7: what it leaves for later begins nothing that nobody would end."""
    is_under_way, goes_on, attempts = threading.Event(), threading.Event(), list[str]()

    def attempt() -> bool:
        attempts.append(threading.current_thread().name)
        is_under_way.set()
        assert goes_on.wait(DEADLINE)
        retrying.begin()  # as whoever finds that there is more to tell
        return False

    retrying = Persistence(attempt, "presign-test")
    retrying.begin()
    assert is_under_way.wait(DEADLINE)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "presign-test"]
    retrying.close()
    goes_on.set()
    thread.join(DEADLINE)
    assert "presign-test" not in [thread.name for thread in threading.enumerate()]
    assert len(attempts) == 1


def test_the_newest_of_what_could_not_be_written(
    fake: FakeMemcached, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M2: of an object only the newest URL is kept for later, and of all not more than so many."""
    monkeypatch.setattr(sharing, "_MOST_UNTOLD", 3)
    presigner = fleet.member(fake.url, fleet.static(), patience=0.05)
    presigner.url("s3://media/connected")
    let_publish(presigner)
    fake.values.clear()
    fake.refuse()
    presigner.urls(TARGETS[:5])
    for target in TARGETS[3:5]:
        presigner.invalidate(target)
    newest = presigner.urls(TARGETS[3:5])
    fake.obey()
    eventually(lambda: len(fake.values) == 3, within=DEADLINE)
    eventually(lambda: not presigner._runner._sharing._untold, within=DEADLINE)  # type: ignore[union-attr]
    stored = {value.split(b" ")[3].decode() for value in fake.values.values()}
    assert {url[-64:] for url in newest} < stored
