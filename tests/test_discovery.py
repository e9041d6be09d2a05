"""The nodes of an ElastiCache cluster: how they are learned, and what a bad answer costs."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from faults import FakeMemcached, eventually
from fleet import DEADLINE, Fleet, counted
from memcacheds import Authority

from presign_middleware import Presigner, discovery, memcached
from presign_middleware.addresses import Addresses
from presign_middleware.metrics import Counts
from presign_middleware.servers import Servers
from presign_middleware.testing import Memcached

TARGETS: Final = [f"s3://media/{number}" for number in range(60)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Memcached]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Memcached()) for _ in range(3)]


@pytest.fixture
def endpoint(nodes: list[Memcached]) -> Iterator[FakeMemcached]:
    """Give a configuration endpoint that tells of two of *nodes*, which are empty."""
    for node in nodes:
        node.restart()  # what is flushed is still counted for a while
    with FakeMemcached() as fake:
        fake.nodes = [told(node) for node in nodes[:2]]
        yield fake


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Give a function that has the nodes asked for again whenever anybody needs them."""

    def ask() -> None:
        monkeypatch.setattr(discovery, "_AGAIN_AFTER", 0.0)
        monkeypatch.setattr(discovery, "_SOONER_AFTER", 0.0)

    return ask


def told(node: Memcached) -> str:
    """Return *node* as an endpoint tells of it."""
    return f"{node.host}||{node.port}"


def setting(endpoint: FakeMemcached) -> str:
    return f"elasticache://{endpoint.address}"


def discovered(endpoint: FakeMemcached, within: float = DEADLINE) -> list[str]:
    """Return the names of the servers that *endpoint* tells of, as far as they are known in time."""
    servers = Servers(Addresses.parse(setting(endpoint)), Counts())
    servers._wait_until_known(time.monotonic() + within)  # and not for nodes that nobody has
    servers.close()
    return [server.name for server in servers.each()]


def servers_of(presigner: Presigner) -> Servers:
    found = presigner._runner._sharing._shared._servers  # type: ignore[union-attr]
    assert isinstance(found, Servers)
    return found


def test_the_first_request_shares(endpoint: FakeMemcached, nodes: list[Memcached], fleet: Fleet) -> None:
    """M7: with nothing but the endpoint, processes share through the nodes it tells of, at once."""
    one, other = (fleet.member(setting(endpoint), fleet.session(name)) for name in ("ASIAONE", "ASIATWO"))
    urls = one.urls(TARGETS)
    assert other.urls(TARGETS) == urls
    assert counted(other, "from_shared", "shared_errors", "shared_skipped") == (60, 0, 0)
    assert [int(node.stats()["curr_items"]) > 0 for node in nodes] == [True, True, False]
    assert [name for name, _ in endpoint.commands] == ["config", "config"]


def test_the_endpoint_has_a_connection_of_its_own(endpoint: FakeMemcached, fleet: Fleet) -> None:
    """M7: it is closed after the answer, and no entry is asked for on it, were the endpoint a node too."""
    endpoint.nodes = [f"{endpoint.host}||{endpoint.port}"]
    presigner = fleet.member(setting(endpoint), fleet.session("ASIAONE"))
    presigner.urls(TARGETS)
    assert endpoint.commands[:2] == [("config", []), ("version", [])]
    eventually(lambda: endpoint.accepted == 2 and endpoint.open == 1)


ANSWER: Final = "a.cache.internal|10.0.0.1|11211 b.cache.internal||11212 |10.0.0.3|1 |2001:db8::1|2"
NAMES: Final = ["a.cache.internal:11211", "b.cache.internal:11212", "10.0.0.3:1", "[2001:db8::1]:2"]


def test_split_anywhere() -> None:
    """M7: the answer is the same wherever it is cut on its way."""
    with FakeMemcached() as endpoint:
        endpoint.nodes = ANSWER.split()
        length = len(f"CONFIG cluster 0 90\r\n12\n{ANSWER}\n\r\nEND\r\n")
        for position in range(1, length):
            endpoint.split(position, 0.001)
            assert discovered(endpoint) == NAMES, position


def test_byte_by_byte() -> None:
    """M7: nor does it matter if it comes byte by byte."""
    with FakeMemcached() as endpoint:
        endpoint.nodes = ANSWER.split()
        endpoint.drip(0.0001)
        assert discovered(endpoint) == NAMES


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [""],
        ["a"],
        ["a|10.0.0.1"],
        ["a|10.0.0.1|0"],
        ["a|10.0.0.1|port"],
        ["a|10.0.0.1|11211|more"],
        ["||11211"],
        ["/run/a.sock|10.0.0.1|11211"],
        ["ä|10.0.0.1|11211"],
        ["a|10.0.0.1|11211", "b"],
        ["a|10.0.0.1|11211\nEND\r\n"],
        ["a|10.0.0.1|11211\r\nEND\r\nVALUE"],
    ],
)
def test_no_cluster(nodes: list[str]) -> None:
    """M4: an answer that is none, or names a node that cannot be, is not believed in part."""
    with FakeMemcached() as endpoint:
        endpoint.nodes = nodes
        assert discovered(endpoint, within=0.5) == []


@pytest.mark.parametrize("fault", ["blackhole", "refuse", "garble", "truncate", "error", "drip"])
def test_an_endpoint_that_fails(
    endpoint: FakeMemcached,
    fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
    at_once: Callable[[], None],
    fault: str,
) -> None:
    """M1, M4: an endpoint that fails costs nobody a URL, nor more than his patience, and is asked again."""
    monkeypatch.setattr(memcached, "_CONNECT_WITHIN", 0.3)
    at_once()
    if fault == "drip":
        endpoint.drip(0.1)
    else:
        getattr(endpoint, fault)()
    presigner = fleet.member(setting(endpoint), fleet.session("ASIAONE"), patience=0.1)
    start = time.monotonic()
    assert fleet.refused(presigner.urls(TARGETS), TARGETS) == []
    assert time.monotonic() - start < 3
    assert counted(presigner, "shared_skipped")[0] > 0
    endpoint.obey()

    def shares() -> bool:
        presigner.url(f"s3://media/{time.monotonic()}")
        return bool(servers_of(presigner).each())

    eventually(shares, within=DEADLINE)


def test_nodes_that_come_and_go(
    endpoint: FakeMemcached, nodes: list[Memcached], fleet: Fleet, at_once: Callable[[], None]
) -> None:
    """M4, M7: a node that joins gets its keys, one that leaves its connections taken."""
    presigner = fleet.member(setting(endpoint), fleet.session("ASIAONE"))
    presigner.urls(TARGETS)
    first, second = before = servers_of(presigner).each()
    at_once()
    discovery_of = servers_of(presigner)._discovery
    assert discovery_of is not None
    discovery_of._again_at = 0
    endpoint.nodes = [told(node) for node in nodes[1:]]

    def has_moved() -> bool:
        return servers_of(presigner).each() != before

    eventually(has_moved, within=DEADLINE)
    stays, joins = servers_of(presigner).each()
    assert stays is second
    assert joins.name == nodes[2].address
    eventually(lambda: not first._idle)
    urls = presigner.urls([f"{target}-more" for target in TARGETS])
    assert fleet.refused(urls, [f"{target}-more" for target in TARGETS]) == []
    assert int(nodes[2].stats()["curr_items"]) > 0
    assert counted(presigner, "shared_errors") == (0,)


def test_a_failure_changes_nothing(
    endpoint: FakeMemcached, fleet: Fleet, at_once: Callable[[], None]
) -> None:
    """M4: the nodes that were known are used as long as the endpoint does not answer."""
    presigner = fleet.member(setting(endpoint), fleet.session("ASIAONE"))
    presigner.urls(TARGETS)
    before = servers_of(presigner).each()
    endpoint.refuse()
    at_once()
    found = servers_of(presigner)._discovery
    assert found is not None
    found._again_at = 0
    times = endpoint.accepted
    eventually(lambda: servers_of(presigner).each() and endpoint.accepted > times + 1)
    assert servers_of(presigner).each() == before
    presigner.urls([f"{target}-more" for target in TARGETS])
    assert counted(presigner, "shared_errors", "shared_skipped") == (0, 0)


def test_how_often_it_is_asked(
    endpoint: FakeMemcached, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M7: the nodes are asked for once a minute, by whoever needs them then, and by nobody else."""
    now = 1000.0
    monkeypatch.setattr(discovery, "monotonic", lambda: now)
    presigner = fleet.member(setting(endpoint), fleet.session("ASIAONE"))
    found = servers_of(presigner)
    assert endpoint.accepted == 0
    presigner.urls(TARGETS)
    for later, times in ((59.0, 1), (61.0, 2), (119.0, 2), (122.0, 3)):
        now = 1000.0 + later
        found.each()
        eventually(lambda: found._discovery is not None and not found._discovery.is_asking)
        assert [name for name, _ in endpoint.commands].count("config") == times


def test_what_is_said(
    endpoint: FakeMemcached, fleet: Fleet, at_once: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """M7: the nodes are told when they change; an outage of the endpoint once, however long it is."""
    caplog.set_level("INFO", "presign_middleware.memcached")
    at_once()
    endpoint.refuse()
    presigner = fleet.member(setting(endpoint), fleet.session("ASIAONE"), patience=0.05)
    eventually(lambda: presigner.url(f"s3://media/{time.monotonic()}") and endpoint.accepted > 3)
    endpoint.obey()
    eventually(
        lambda: presigner.url(f"s3://media/{time.monotonic()}") and len(servers_of(presigner).each()) == 2
    )
    told_of = [record.levelname for record in caplog.records if endpoint.address in record.getMessage()]
    assert told_of == ["WARNING", "INFO"]


def test_with_tls(tmp_path: Path, nodes: list[Memcached]) -> None:
    """M7: elasticaches:// asks the endpoint with TLS, and believes none whose certificate is not accepted."""
    authority = Authority(tmp_path)
    for host, names in (("127.0.0.1", [nodes[0].address]), ("else.where", [])):
        with FakeMemcached(tls=authority.certify(host)) as endpoint:
            endpoint.nodes = [told(nodes[0])]
            options = f"cafile={authority.file}"
            servers = Servers(Addresses.parse(f"elasticaches://{endpoint.address}?{options}"), Counts())
            servers._wait_until_known(time.monotonic() + DEADLINE)
            servers.close()
            assert [server.name for server in servers.each()] == names
