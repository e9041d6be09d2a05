"""
The shared cache: who was first, how often it is asked, and what must not be said of it.

What is stored is tested in `test_shared_entries`, faults of memcached in `test_shared_faults`.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from botocore.credentials import ReadOnlyCredentials
from faults import FakeMemcached, Proxy, eventually
from fleet import DEADLINE, SECRET, Fleet, Process, access_key, counted, dated, let_publish

from presign_middleware import Presigner, shared, sharing
from presign_middleware.servers import Servers
from presign_middleware.shared import Shared
from presign_middleware.sharing import Sharing
from presign_middleware.testing import Memcached, SeaweedFS

TARGETS: Final = [f"s3://media/{number}" for number in range(50)]

#: Seconds for which a URL is FRESH by the default policy.
PERIOD: Final = 2940


@pytest.fixture
def proxy(memcached: Memcached) -> Iterator[Proxy]:
    with Proxy(memcached.address) as server:
        yield server


def renewed(presigner: Presigner, target: str) -> None:
    """Renew *target* as it is done after a response."""
    held = presigner._table.get(presigner._targets.named(target))
    assert held is not None
    asyncio.run(presigner._runner.arenew([held]))


def aurls(presigner: Presigner, targets: Sequence[str]) -> list[str]:
    return asyncio.run(presigner.aurls(targets))


both_colours: Final = pytest.mark.parametrize("urls", [Presigner.urls, aurls])
URLs = Callable[[Presigner, Sequence[str]], list[str]]


# One URL for a fleet.


@both_colours
def test_thousands_of_urls_are_told_and_asked_for_in_portions(
    fake: FakeMemcached, fleet: Fleet, urls: URLs
) -> None:
    """M1: no call is too large for a server: it is shared as a small one is."""
    targets = [f"s3://media/{number}" for number in range(6_000)]
    one, other = (fleet.member(fake.url, fleet.session(name)) for name in ("ASIAONE", "ASIATWO"))
    handed_out = urls(one, targets)
    let_publish(one)
    told = len(fake.commands)
    assert urls(other, targets) == handed_out
    sizes = [len(keys) for name, keys in fake.commands if name == "gets" and len(keys) > 1]
    assert sizes == [2500, 2500, 1000] * 3  # looked for, told and read back; looked for by the other one
    assert {name for name, _ in fake.commands[told:]} == {"gets", "version"}
    assert counted(other, "from_shared", "signed", "shared_errors") == (6_000, 0, 0)


@both_colours
def test_a_call_for_more_than_there_is_time_for(
    fake: FakeMemcached, fleet: Fleet, urls: URLs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1: what takes too long to ask for is signed here, and no server is blamed for it."""
    took, read = [0.0], Servers.read

    def slow(servers: Servers, keys: Sequence[str], deadline: float) -> Any:
        found = read(servers, keys, deadline)
        took[0] += 2.3  # of 10 seconds
        return found

    presigner = fleet.member(fake.url, fleet.session("ASIAONE"))
    presigner.url("s3://media/connected")
    let_publish(presigner)
    asked = len(fake.commands)
    monkeypatch.setattr(Servers, "read", slow)
    monkeypatch.setattr(shared, "instant", lambda: time.monotonic() + took[0])
    monkeypatch.setattr(Sharing, "publish", lambda _, items: sharing._known([item.entry for item in items]))
    urls(presigner, [f"s3://media/{number}" for number in range(10_000)])
    assert [len(keys) for _, keys in fake.commands[asked:]] == [2500, 2500, 2500]
    assert counted(presigner, "signed", "shared_errors", "shared_skipped") == (10_001, 0, 0)


@both_colours
def test_sessions_of_one_identity_share(memcached: Memcached, fleet: Fleet, urls: URLs) -> None:
    """K6: processes with different sessions of one identity hand out the same URLs, signed once."""
    one, other = (fleet.member(memcached.url, fleet.session(name)) for name in ("ASIAONE", "ASIATWO"))
    found = urls(one, TARGETS)
    assert urls(other, TARGETS) == found
    assert counted(one, "signed", "from_shared", "shared_misses") == (50, 0, 50)
    assert counted(other, "signed", "from_shared", "shared_misses") == (0, 50, 0)
    assert fleet.refused(found, TARGETS) == []


@both_colours
def test_processes_with_a_static_key_share(memcached: Memcached, fleet: Fleet, urls: URLs) -> None:
    """K6: processes with one static key hand out the same URLs, signed once."""
    one, other = (fleet.member(memcached.url, fleet.static()) for _ in range(2))
    found = urls(one, TARGETS)
    one.close()  # what it publishes, it has published
    assert urls(other, TARGETS) == found
    assert counted(other, "signed", "from_shared") == (0, 50)
    assert fleet.refused(found, TARGETS) == []


def test_sessions_without_a_token_share(memcached: Memcached, fleet: Fleet) -> None:
    """K6: so do sessions that end and have no token, as a credential process may give them."""
    members = []
    for name in ("ASIAONE", "ASIATWO"):
        session: Any = fleet.session(name)
        session.get_credentials()._token = None
        session.get_credentials()._frozen_credentials = ReadOnlyCredentials(name, SECRET, None)
        members.append(fleet.member(memcached.url, session))
    one, other = members
    url = one.url(TARGETS[0])
    assert "X-Amz-Security-Token" not in url
    assert other.url(TARGETS[0]) == url


def test_a_static_key_is_rotated(memcached: Memcached, fleet: Fleet) -> None:
    """K6: to a new static key the old one's entries are clean misses."""
    old = fleet.member(memcached.url, fleet.static("AKIAOLD"))
    old.urls(TARGETS)
    old.close()
    new = fleet.member(memcached.url, fleet.static("AKIANEW"))
    found = new.urls(TARGETS)
    assert {access_key(url) for url in found} == {"AKIANEW"}
    assert counted(new, "shared_misses", "shared_rejected", "signed") == (50, 0, 50)


@pytest.mark.parametrize("kind", ["static", "session"])
def test_processes_share_on_a_real_server(memcached: Memcached, seaweedfs: SeaweedFS, kind: str) -> None:
    """K6: what one process signed with its own session is handed out by another, and S3 accepts it."""
    client = seaweedfs.client()
    bucket = f"shared-{kind}"
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="a b/ü.txt", Body=b"a cat")
    target = [f"s3://{bucket}/a b/ü.txt"]

    def keys(number: int) -> dict[str, str]:
        if kind == "static":
            return {"access_key": seaweedfs.access_key, "secret_key": seaweedfs.secret_key}
        answer = seaweedfs.sts_client().assume_role(RoleArn=seaweedfs.role_arn, RoleSessionName=f"n{number}")
        given = answer["Credentials"]
        return {
            "access_key": given["AccessKeyId"],
            "secret_key": given["SecretAccessKey"],
            "token": given["SessionToken"],
            "end": given["Expiration"].isoformat(),
        }

    place: dict[str, Any] = {
        "bucket": bucket,
        "region": seaweedfs.region,
        "endpoint_url": seaweedfs.endpoint_url,
    }
    answers = []
    with ExitStack() as stack:
        processes = [
            stack.enter_context(Process(memcached.url, keys(number), **place)) for number in range(2)
        ]
        for process in processes:
            process.wait_until_ready()
            process.ask(target)
            answers.append(process.answer())
            eventually(lambda: memcached.stats()["curr_items"] == "2")  # the URL, and the board of epochs
    (first, its), (second, others) = answers
    assert first == second
    assert (its["signed"], others["signed"], others["from_shared"]) == (1, 0, 1)
    with httpx.Client(trust_env=False, verify=False) as fetcher:
        response = fetcher.get(second[0])
    assert (response.status_code, response.content) == (200, b"a cat")


def test_cold_processes_agree(memcached: Memcached) -> None:
    """K8: four processes that start cold at once, each with its own session, have one URL an object."""
    targets = [f"s3://media/{number}" for number in range(200)]
    end = "2126-01-01T00:00:00+00:00"
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                Process(
                    memcached.url,
                    {"access_key": f"ASIA{n}", "secret_key": SECRET, "token": f"token-{n}", "end": end},
                    bucket="media",
                    region="eu-west-1",
                )
            )
            for n in range(4)
        ]
        for process in processes:
            process.wait_until_ready()
        for process in processes:
            process.ask(targets)
        first, *others = [process.answer() for process in processes]
        for urls, stats in [first, *others]:
            assert urls == first[0]
            assert stats["shared_errors"] == 0
            assert stats["from_shared"] + stats["from_signer"] == 200
        assert sum(stats["from_signer"] for _, stats in [first, *others]) == 200


@pytest.fixture
def both_have_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Give a function after which two that read wait for each other before they go on."""
    barrier, read = threading.Barrier(2), Shared.read

    def waiting(shared: Shared, objects: Sequence[Any], deadline: float) -> dict[Any, Any]:
        found = read(shared, objects, deadline)
        barrier.wait(DEADLINE)
        return found

    return lambda: monkeypatch.setattr(Shared, "read", waiting)


def at_once(work: Callable[[Presigner], Any], members: Sequence[Presigner]) -> None:
    """Have each of *members* do *work* at once."""
    with ThreadPoolExecutor(len(members)) as pool:
        list(pool.map(work, members))


@pytest.mark.parametrize("ask", [Presigner.urls, aurls])
def test_a_race_for_a_miss(
    fake: FakeMemcached, fleet: Fleet, both_have_read: Callable[[], None], ask: URLs
) -> None:
    """K8: of two that found nothing and sign at once, the second one adopts what the first one added."""
    members = [fleet.member(fake.url, fleet.session(name)) for name in ("ASIAONE", "ASIATWO")]
    both_have_read()
    at_once(lambda member: ask(member, TARGETS), members)
    one, other = (member.urls(TARGETS) for member in members)
    assert one == other
    assert sum(counted(member, "shared_adopted")[0] for member in members) == len(TARGETS)
    assert sum(counted(member, "signed")[0] for member in members) == 2 * len(TARGETS)


@pytest.mark.parametrize("renew", [renewed, Presigner.refresh])
def test_a_race_to_renew(
    fake: FakeMemcached,
    fleet: Fleet,
    both_have_read: Callable[[], None],
    renew: Callable[[Presigner, str], Any],
) -> None:
    """K8: of two that renew the same AGEING entry at once, the second one adopts what the first one made."""
    members = [fleet.member(fake.url, fleet.session(name)) for name in ("ASIAONE", "ASIATWO")]
    (old,) = {member.url(TARGETS[0]) for member in members}
    fleet.clock.advance(dated(old) + PERIOD - fleet.clock.time())
    assert {member.url(TARGETS[0]) for member in members} == {old}
    both_have_read()
    at_once(lambda member: renew(member, TARGETS[0]), members)
    (new,) = {member.url(TARGETS[0]) for member in members}
    assert new != old
    assert sum(counted(member, "shared_adopted")[0] for member in members) == 1


def test_a_renewal_takes_what_is_newer(fake: FakeMemcached, fleet: Fleet) -> None:
    """R3, K8: who renews an AGEING URL takes what another has renewed by then, and signs nothing."""
    one, other = (fleet.member(fake.url, fleet.session(name)) for name in ("ASIAONE", "ASIATWO"))
    old = one.url(TARGETS[0])
    assert other.url(TARGETS[0]) == old
    fleet.clock.advance(dated(old) + PERIOD - fleet.clock.time())
    renewed(one, TARGETS[0])
    renewed(other, TARGETS[0])
    assert one.url(TARGETS[0]) == other.url(TARGETS[0]) != old
    assert counted(other, "signed", "refreshed") == (0, 1)


def ask_on_a_loop(presigner: Presigner, target: str) -> str:
    async def ask() -> str:
        return presigner.url(target)  # a blocking call, as handlers make by mistake

    return asyncio.run(ask())


@pytest.mark.parametrize("colour", ["blocking", "asyncio", "blocking on a loop"])
def test_refreshed_with_a_new_session(fake: FakeMemcached, fleet: Fleet, colour: str) -> None:
    """R3, K8: a refresh replaces the entry it was asked to replace, and goes on to serve the new URL."""
    presigner = fleet.member(fake.url, fleet.session("ASIAONE", seconds=3600))
    presigner.url("s3://media/connected")
    fleet.clock.advance(3000)  # botocore renews sessions by now
    target = TARGETS[0]
    old = presigner.url(target)
    assert access_key(old) == "NEXTASIAONE"
    other = fleet.member(fake.url, fleet.session("ASIAOTHER"))
    assert other.url(target) == old
    fleet.clock.advance(60)

    async def on_a_loop() -> None:
        if colour == "asyncio":
            await other.arefresh(target)
        else:
            other.refresh(target)

    if colour == "blocking":
        other.refresh(target)
    else:
        asyncio.run(on_a_loop())
    other.close()  # what it publishes, it has published
    assert access_key(other.url(target)) == "ASIAOTHER"
    assert access_key(fleet.member(fake.url, fleet.session("ASIATHREE")).url(target)) == "ASIAOTHER"


# Round trips.


def reads(proxy: Proxy) -> int:
    """Return how many multi-gets there were; a further connection's first command is none."""
    return sum(name == "gets" for name, _ in list(proxy.commands))


@both_colours
def test_one_round_trip_a_call(proxy: Proxy, fleet: Fleet, urls: URLs) -> None:
    """D4: fifty targets of three origins, which are ready, make one multi-get."""
    targets = [f"s3://{name}/{number}" for name in ("media", "films", "music") for number in range(50)]
    names = ("media", "films", "music")
    fleet.member(proxy.url, fleet.session("ASIAONE"), origins=names).urls(targets)
    reader = fleet.member(proxy.url, fleet.session("ASIATWO"), origins=names)
    urls(reader, [f"s3://{name}/ready" for name in names])
    before = reads(proxy)
    urls(reader, targets)
    assert reads(proxy) == before + 1
    assert counted(reader, "from_shared") == (150,)


@pytest.mark.parametrize("number", [1, 2_000])
@both_colours
def test_one_round_trip_to_find_nothing(proxy: Proxy, fleet: Fleet, urls: URLs, number: int) -> None:
    """D4, K8: with a static key a call that finds nothing waits once; its writes have no answer."""
    presigner = fleet.member(proxy.url, fleet.static())
    presigner.url("s3://media/ready")
    let_publish(presigner)
    before = reads(proxy)
    urls(presigner, [f"s3://media/{n}" for n in range(number)])
    presigner.close()
    assert reads(proxy) == before + 1
    eventually(lambda: sum(name == "set" for name, _ in proxy.commands) == number + 1)


@both_colours
def test_two_round_trips_to_agree(proxy: Proxy, fleet: Fleet, urls: URLs) -> None:
    """D4, K8: with a session a call that finds nothing asks once more: what stands of all it has written."""
    presigner = fleet.member(proxy.url, fleet.session("ASIAONE"))
    presigner.url("s3://media/ready")
    let_publish(presigner)
    before = reads(proxy)
    urls(presigner, TARGETS)
    assert reads(proxy) == before + 2


def test_gathered(fake: FakeMemcached, fleet: Fleet) -> None:
    """D4: a hundred awaits of one loop turn, of two origins, make one multi-get."""
    origins = ("media", "films")
    targets = [f"s3://{name}/{number}" for name in origins for number in range(50)]
    fleet.member(fake.url, fleet.session("ASIAONE"), origins=origins).urls(targets)
    reader = fleet.member(fake.url, fleet.session("ASIATWO"), origins=origins)
    reader.urls([f"s3://{name}/ready" for name in origins])
    fake.commands.clear()

    async def ask() -> list[str]:
        return await asyncio.gather(*[reader.aurl(target) for target in targets])

    found = asyncio.run(ask())
    assert [(name, len(keys)) for name, keys in fake.commands] == [("gets", 100)]
    assert fleet.refused(found, targets) == []
    assert counted(reader, "from_shared") == (100,)


def test_gathered_cold(fake: FakeMemcached, fleet: Fleet) -> None:
    """D4: a hundred awaits of one loop turn make one multi-get, also where credentials must come first."""
    presigner = fleet.member(fake.url, fleet.static())

    async def ask() -> None:
        await asyncio.gather(*[presigner.aurl(f"s3://media/{number}") for number in range(100)])

    asyncio.run(ask())
    assert [len(keys) for name, keys in fake.commands if name == "gets"] == [100]


def test_two_that_ask_share_a_multi_get(fake: FakeMemcached, fleet: Fleet) -> None:
    """D1, D4: an object that two tasks and a call ask for twice is asked for once."""
    presigner = fleet.member(fake.url, fleet.static())

    async def ask() -> None:
        await asyncio.gather(presigner.aurls(TARGETS[:2] * 2), presigner.aurl(TARGETS[0]))

    asyncio.run(ask())
    assert [len(keys) for name, keys in fake.commands if name == "gets"] == [2]


# A blocking call on the thread of a running loop.


def test_a_blocking_call_on_a_loop_asks_nobody(fake: FakeMemcached, fleet: Fleet) -> None:
    """D5: on a running loop's thread a URL is there before memcached has answered anything."""
    presigner = fleet.member(fake.url, fleet.session("ASIAONE"))
    presigner.url("s3://media/ready")
    fake.commands.clear()
    fake.hold()
    start = time.monotonic()
    url = ask_on_a_loop(presigner, TARGETS[0])
    assert time.monotonic() - start < 5  # PATIENT is longer
    assert {name for name, _ in fake.commands} <= {"add"}
    assert access_key(url) == "ASIAONE"
    fake.release()
    eventually(lambda: len(fake.values) == 2)
    assert fleet.member(fake.url, fleet.session("ASIATWO")).url(TARGETS[0]) == url


def test_a_blocking_call_on_a_loop_that_was_not_first(fake: FakeMemcached, fleet: Fleet) -> None:
    """D5, K8: what was signed on a loop's thread gives way to what stood first, once that is known."""
    first = fleet.member(fake.url, fleet.session("ASIAONE")).url(TARGETS[0])
    presigner = fleet.member(fake.url, fleet.session("ASIATWO"))
    presigner.url("s3://media/ready")
    fake.hold()
    own = ask_on_a_loop(presigner, TARGETS[0])
    assert access_key(own) == "ASIATWO"
    assert presigner.url(TARGETS[0]) == own
    fake.release()
    eventually(lambda: presigner.url(TARGETS[0]) == first)
    assert counted(presigner, "shared_adopted") == (1,)


@pytest.mark.parametrize("stands", ["rubbish", "another's AGEING entry"])
def test_a_blocking_call_on_a_loop_replaces_what_is_of_no_use(
    fake: FakeMemcached, fleet: Fleet, stands: str
) -> None:
    """D5, K4: what was signed on a loop's thread replaces what stands there and nobody can or should use."""
    old = fleet.member(fake.url, fleet.session("ASIAONE")).url(TARGETS[0])
    (key,) = fake.values
    if stands == "rubbish":
        fake.values[key] = b"rubbish"
    else:
        fleet.clock.advance(dated(old) + PERIOD - fleet.clock.time())
    presigner = fleet.member(fake.url, fleet.session("ASIATWO"))
    url = ask_on_a_loop(presigner, TARGETS[0])
    let_publish(presigner)
    assert presigner.url(TARGETS[0]) == url != old
    assert fake.values[key].split(b" ")[2:4] == [b"ASIATWO", url[-64:].encode()]


def test_the_publisher_is_faster(fake: FakeMemcached, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """D5, K8: it does so too when what stood first is known before this process holds its own URL."""
    first = fleet.member(fake.url, fleet.session("ASIAONE")).url(TARGETS[0])
    presigner = fleet.member(fake.url, fleet.session("ASIATWO"))
    presigner.url("s3://media/ready")
    publish = sharing.Sharing.publish

    def published(self: sharing.Sharing, items: Any) -> Any:
        future = publish(self, items)
        wait([future])  # as if the thread of this loop had been suspended just here
        return future

    monkeypatch.setattr(sharing.Sharing, "publish", published)
    ask_on_a_loop(presigner, TARGETS[0])
    assert presigner.url(TARGETS[0]) == first


# What must not be said, and what must.


def test_nothing_leaks(
    memcached: Memcached, fleet: Fleet, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """L1: no log, repr or counter of the shared cache's holds a signature, a token or a secret."""
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []
    urls: list[str] = []
    with Proxy(memcached.address) as proxy, FakeMemcached() as fake:
        for url in (proxy.url, fake.url):
            members = [fleet.member(url, fleet.session(name), patience=0.2) for name in ("ASIAA", "ASIAB")]

            async def ask(members: list[Presigner] = members) -> None:
                asyncio.get_running_loop().slow_callback_duration = 0  # the loop then tells of each
                for member in members:
                    urls.extend(await member.aurls(TARGETS))

            asyncio.run(ask(), debug=True)
            proxy.reset()
            fake.garble()
            for member in members:
                urls.extend(member.urls([f"{target}-more" for target in TARGETS]))
                texts += [repr(member), repr(member.stats())]
                for entry in member._table._entries.values():
                    texts += [repr(entry), repr(entry.credential)]
    texts += [caplog.text, *map(repr, [record.args for record in caplog.records])]
    texts += capfd.readouterr()
    assert "presign_middleware.memcached" in caplog.text
    hidden = {SECRET, "X-Amz-Signature", *[url[-64:] for url in urls]}
    hidden |= {found for url in urls for found in parse_qs(urlsplit(url).query)["X-Amz-Security-Token"]}
    hidden |= {quote(secret, safe="") for secret in hidden}
    assert [part for part in hidden if any(part in text for text in texts)] == []


@pytest.mark.usefixtures("switching_often")
def test_counters_are_exact(memcached: Memcached, fleet: Fleet) -> None:
    """M3: what eight threads miss at once is counted exactly."""
    presigner = fleet.member(memcached.url, fleet.static())
    presigner.url("s3://media/ready")
    start = threading.Barrier(8)

    def ask(thread: int) -> None:
        start.wait()
        for number in range(50):
            presigner.urls([f"s3://media/{thread}-{number}-{n}" for n in range(3)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert counted(presigner, "signed", "shared_misses") == (1201, 1201)


def test_nobody_connects_before_it_is_needed(fake: FakeMemcached, fleet: Fleet) -> None:
    """M1: a presigner that is made, and one that is made ready, holds no request up for its connection."""
    presigner = fleet.member(fake.url, fleet.static())
    assert fake.accepted == 0
    asyncio.run(presigner.make_ready())
    eventually(lambda: fake.accepted == 1)
    presigner.url(TARGETS[0])
    assert fake.accepted == 1


def test_the_embedded_default(fake: FakeMemcached, fleet: Fleet) -> None:
    """M8: what is shared answers as what is not: the same URLs with a static key."""
    one, alone = (fleet.member(shared, fleet.static()) for shared in (fake.url, None))
    assert one.urls(TARGETS) == alone.urls(TARGETS)


@both_colours
def test_auto_reads_nothing_that_every_process_signs_alike(
    fake: FakeMemcached, fleet: Fleet, urls: URLs
) -> None:
    """M9: with a static key only the epochs are read, once, and nothing is written."""
    presigner = fleet.member(fake.url, fleet.static(), policy={"shared_reads": "auto"})
    first = urls(presigner, TARGETS)
    assert [name for name, _ in fake.commands if name != "version"] == []
    assert [name for name, _ in fake.board_commands] == ["gets"]
    presigner.invalidate(TARGETS[0])
    assert [new == old for new, old in zip(urls(presigner, TARGETS), first, strict=True)].count(False) == 1
    assert fleet.refused(urls(presigner, TARGETS), TARGETS) == []


@both_colours
def test_auto_shares_sessions(fake: FakeMemcached, fleet: Fleet, urls: URLs) -> None:
    """K6: processes with sessions of their own share as ever."""
    one, another = (
        fleet.member(fake.url, fleet.session(name), policy={"shared_reads": "auto"})
        for name in ("ASIAONE", "ASIATWO")
    )
    assert urls(one, TARGETS) == urls(another, TARGETS)
    assert another.stats()["signed"] == 0
