"""Taking URLs back: epochs, the board on which a fleet reads them, and what becomes of both."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from math import floor
from typing import Any, Final

import pytest
from faults import EMPTY_BOARD, FakeMemcached, Proxy, eventually
from fleet import PATIENT, REGION, SECRET, Fleet, Process, access_key, counted, dated
from hypothesis import given, settings
from hypothesis import strategies as st
from pymemcache.client.base import Client  # type: ignore[import-untyped]  # it has no types

from presign_middleware import ConfigurationError, NotCovered, Origin, Policy, Presigner
from presign_middleware.epochs import Epochs
from presign_middleware.metrics import Counts
from presign_middleware.objects import S3Object, board_key
from presign_middleware.signing import OriginSigning
from presign_middleware.testing import Clock, Memcached

CAT, DOG = "s3://media/cat.jpg", "s3://media/dog.jpg"
LAG: Final = 2.0  # seconds, the default
NOW: Final = 1_767_268_800


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with Fleet(Clock(NOW + 0.5)) as members:
        yield members


@pytest.fixture(params=["shared", "alone"])
def presigner(request: pytest.FixtureRequest, fake: FakeMemcached, fleet: Fleet) -> Presigner:
    """Return one that shares, and one that does not: both take back alike."""
    return fleet.member(fake.url if request.param == "shared" else None, fleet.static())


def ainvalidate(presigner: Presigner, target: str) -> None:
    asyncio.run(presigner.ainvalidate(target))


def arevoke(presigner: Presigner, origin: str) -> None:
    asyncio.run(presigner.arevoke(origin))


def reads(server: FakeMemcached | Proxy) -> int:
    """Return how often the board was read."""
    return [name for name, _ in server.board_commands].count("gets")


def board(epochs: Epochs) -> bytes:
    """Return all that is known."""
    return epochs.exchange({"": EMPTY_BOARD}, NOW, 0).get("", EMPTY_BOARD)


def read(mine: Epochs, other: Epochs, now: float) -> None:
    """Have *mine* know what *other* knows."""
    mine.exchange({"": board(other)}, now, 0)


def obj(key: str, origin: str = "media") -> S3Object:
    return S3Object.of(origin, "media", "", key, "GET", (), 3600)


# The date of the next URL.


@pytest.mark.parametrize("invalidate", [Presigner.invalidate, ainvalidate])
def test_the_next_url_is_dated_now(
    presigner: Presigner, fleet: Fleet, invalidate: Callable[[Presigner, str], Any]
) -> None:
    """P2, M6: the URL of an invalidated object differs, and S3 takes it; nothing else changes."""
    before, other = presigner.url(CAT), presigner.url(DOG)
    invalidate(presigner, CAT)
    after = presigner.url(CAT)
    assert dated(before) < dated(after) == NOW
    assert presigner.url(DOG) == other
    assert fleet.refused([after], [CAT]) == []
    assert presigner.stats()["invalidated"] == 1


def test_invalidations_of_one_second_are_told_apart(presigner: Presigner, fleet: Fleet) -> None:
    """P2: each differs, a second later each time, until they lie 5 s ahead: from then on they coalesce."""
    dates = [dated(presigner.url(CAT))]
    for _ in range(8):
        presigner.invalidate(CAT)
        dates.append(dated(presigner.url(CAT)))
    assert dates[1:] == [NOW, NOW + 1, NOW + 2, NOW + 3, NOW + 4, NOW + 5, NOW + 5, NOW + 5]
    assert fleet.refused([presigner.url(CAT)], [CAT]) == []


def test_a_window_that_begins_in_this_second(presigner: Presigner, fleet: Fleet) -> None:
    """P2: the URL differs from one that is dated this very second already."""
    first = dated(presigner.url(CAT))
    fleet.clock.advance(first + 2940 - fleet.clock.time())
    now = floor(fleet.clock.time())
    assert presigner.refresh(CAT).created_at == now
    presigner.invalidate(CAT)
    assert dated(presigner.url(CAT)) == now + 1


@pytest.mark.parametrize(
    "options",
    [{"method": "HEAD"}, {"params": {"VersionId": "1"}}, {"lifetime": 7200}, {}],
    ids=["method", "params", "lifetime", "form"],
)
def test_every_url_of_the_key(presigner: Presigner, options: dict[str, Any]) -> None:
    """M6: whatever the form, method, parameters and lifetime that it was signed with."""
    target = CAT if options else "https://media.s3.eu-west-1.amazonaws.com/cat.jpg"
    before = presigner.url(target, **options)
    presigner.invalidate(CAT)
    assert dated(presigner.url(target, **options)) == max(NOW, dated(before) + 1)


@pytest.mark.parametrize("revoke", [Presigner.revoke, arevoke])
def test_an_origin_is_revoked(
    fake: FakeMemcached, fleet: Fleet, revoke: Callable[[Presigner, str], Any]
) -> None:
    """M6: every URL of the origin differs, also one dated this second; those of others do not."""
    presigner = fleet.member(fake.url, fleet.static(), origins=["media", "archive"])
    targets = [f"s3://media/{number}" for number in range(50)]
    before, other = presigner.urls(targets), presigner.url("s3://archive/0")
    revoke(presigner, "media")
    after = presigner.urls(targets)
    assert {dated(url) for url in after} == {NOW + 1}
    assert not set(before) & set(after)
    assert presigner.url("s3://archive/0") == other
    assert fleet.refused(after, targets) == []
    assert presigner.stats()["revoked"] == 1


def test_an_open_scope_forgets(presigner: Presigner) -> None:
    """M6: a request that has resolved the object gets the new URL too."""
    with presigner.scope():
        before = presigner.url(CAT)
        presigner.invalidate(CAT)
        after = presigner.url(CAT)
        assert after != before
        assert presigner.url(CAT) == after


def test_an_open_scope_forgets_what_was_replaced(presigner: Presigner, fleet: Fleet) -> None:
    """M6: also a URL that only this request still holds, since the process has had a newer one."""
    before = presigner.url(CAT)
    fleet.clock.advance(dated(before) + 2940 - fleet.clock.time())
    with presigner.scope():
        assert presigner.url(CAT) == before  # AGEING
        newer = presigner.refresh(CAT)
        assert presigner.url(CAT) == before  # the same one all through a request
        presigner.invalidate(CAT)
        assert dated(presigner.url(CAT)) > newer.created_at


def test_fresh_until_the_window_ends(fleet: Fleet) -> None:
    """P2, P3: once a new window has begun, one who holds the epoch's URL and one who does not agree again."""
    one, another = (fleet.member(None, fleet.static()) for _ in range(2))
    window = dated(one.url(CAT))
    for presigner in (one, another):
        presigner.invalidate(CAT)
    assert one.url(CAT) == another.url(CAT)
    fleet.clock.advance(window + 2940 - fleet.clock.time() - 1)
    assert dated(one.url(CAT)) == NOW
    fleet.clock.advance(1)
    with one.scope() as scope:
        one.url(CAT)
        assert [entry.date for entry in one.renewals.due(scope)] == [NOW]
    one.refresh(CAT)
    assert dated(one.url(CAT)) == window + 2940
    assert one.url(CAT) == fleet.member(None, fleet.static()).url(CAT)


@pytest.mark.parametrize("skew", [0, 600, -600])
@pytest.mark.parametrize("count", [1, 4])
def test_a_shape_of_boto3(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, skew: int, count: int) -> None:
    """P2, P8, M6: what boto3 signs, by this host's clock, is signed anew once and then held."""
    monkeypatch.setattr(OriginSigning, "_learn", lambda self, shape: None)
    with Fleet(Clock(time.time())) as fleet:
        presigner = fleet.member(None, fleet.static(), policy={"skew": skew})
        presigner.url(CAT, "HEAD")
        fleet.clock.advance(1)
        for _ in range(count):
            presigner.invalidate(CAT)
        found = [presigner.resolve(CAT, "HEAD") for _ in range(10)]
        assert presigner.stats()["signed_by_boto3"] == 2
        assert {(each.url, each.expires_at) for each in found} == {(found[0].url, dated(found[0].url) + 3600)}


def test_an_epoch_that_is_past_its_window_changes_nothing(presigner: Presigner, fleet: Fleet) -> None:
    """P2: the date is the later one of the window's start and the epoch."""
    window = dated(presigner.url(CAT))
    presigner.invalidate(CAT)
    fleet.clock.advance(window + 2 * 2940 - fleet.clock.time())
    assert presigner.refresh(CAT).created_at == window + 2 * 2940


# What other processes know.


def test_within_the_lag_without_a_round_trip(fake: FakeMemcached, fleet: Fleet) -> None:
    """M6: others read once in a lag, however many URLs they hand out, and know then."""
    one, another = (fleet.member(fake.url, fleet.static()) for _ in range(2))
    old = one.url(CAT)
    assert another.url(CAT) == old
    one.invalidate(CAT)
    new = one.url(CAT)
    before = reads(fake)
    fleet.clock.advance(LAG - 0.01)
    assert [another.url(CAT) for _ in range(100)] == [old] * 100
    assert reads(fake) == before
    fleet.clock.advance(0.02)
    assert [another.url(CAT) for _ in range(100)] == [new] * 100
    assert another.urls([CAT, DOG])[0] == new
    assert reads(fake) == before + 1


def test_one_read_for_all_who_come_too_late(fake: FakeMemcached, fleet: Fleet) -> None:
    """M6, D4: a page of awaited URLs reads the board once."""
    presigner = fleet.member(fake.url, fleet.static())
    targets = [f"s3://media/{number}" for number in range(100)]
    presigner.urls(targets)
    fleet.clock.advance(LAG + 0.1)
    before = reads(fake)

    async def page() -> None:
        await asyncio.gather(*[presigner.aurl(target) for target in targets])

    asyncio.run(page())
    assert reads(fake) == before + 1


@pytest.mark.parametrize("kind", ["static", "session"])
def test_what_the_fleet_shares_is_taken_back(fake: FakeMemcached, fleet: Fleet, kind: str) -> None:
    """K4, M6: an entry dated before its epoch is a miss, is replaced, and the new one is everybody's."""
    one, another = (
        fleet.member(fake.url, fleet.session(name) if kind == "session" else fleet.static())
        for name in ("ASIAONE", "ASIATWO")
    )
    old = one.url(CAT)
    one.revoke("media")
    fleet.clock.advance(LAG + 0.1)
    new = another.url(CAT)
    assert new != old
    assert counted(another, "shared_rejected", "from_shared", "from_signer") == (1, 0, 1)
    assert one.url(CAT) == new
    assert fleet.refused([new], [CAT]) == []
    assert access_key(new) == ("AKIAFLEET" if kind == "static" else "ASIATWO")


@pytest.mark.parametrize("invalidate", [Presigner.invalidate, ainvalidate])
def test_one_after_another_in_one_second(
    fake: FakeMemcached, fleet: Fleet, invalidate: Callable[[Presigner, str], Any]
) -> None:
    """P2, M6: the next URL differs, though another process took the object back within the lag."""
    one, another = (fleet.member(fake.url, fleet.static()) for _ in range(2))
    another.url(CAT)
    dates = []
    for presigner in (one, another, one):
        invalidate(presigner, CAT)
        dates.append(dated(presigner.url(CAT)))
    assert dates == [NOW, NOW + 1, NOW + 2]


def test_a_newcomer_knows(fake: FakeMemcached, fleet: Fleet) -> None:
    """M9: a process reads the epochs before its first answer, from a plan too."""
    one = fleet.member(fake.url, fleet.static())
    one.invalidate(CAT)
    new = one.url(CAT)
    fake.values.clear()
    assert fleet.member(fake.url, fleet.static()).url(CAT) == new


def test_a_blocking_call_on_a_loop_does_not_wait(fake: FakeMemcached, fleet: Fleet) -> None:
    """D5, M6: the read goes on in the background, and what is held is handed out."""
    one, another = (fleet.member(fake.url, fleet.static()) for _ in range(2))
    old = another.url(CAT)
    one.invalidate(CAT)
    fleet.clock.advance(LAG + 0.1)
    fake.hold()

    async def handler() -> str:
        return another.url(CAT)

    assert asyncio.run(handler()) == old
    fake.release()
    eventually(lambda: another.url(CAT) != old)


def test_a_flight_that_began_before(fake: FakeMemcached, fleet: Fleet) -> None:
    """R4: who asks after the invalidation does not get what was being resolved before it."""
    presigner = fleet.member(fake.url, fleet.static())
    presigner.url(DOG)
    fake.hold()
    early: list[str] = []
    leader = threading.Thread(target=lambda: early.append(presigner.url(CAT)))
    leader.start()
    eventually(lambda: fake.held)
    presigner._epochs.invalidate(presigner._targets.named(CAT), 0, fleet.clock.time())
    presigner._runner._resolver.forget()
    late: list[str] = []
    follower = threading.Thread(target=lambda: late.append(presigner.url(CAT)))
    follower.start()
    fake.release()
    leader.join()
    follower.join()
    assert [dated(url) for url in late] == [NOW]
    assert dated(presigner.url(CAT)) == NOW


def test_a_refresh_that_lands_after_it_revives_nothing(fake: FakeMemcached, fleet: Fleet) -> None:
    """R4: the invalidation wins."""
    presigner = fleet.member(fake.url, fleet.session("ASIAONE"))
    old = presigner.url(CAT)
    entry = presigner._table.get(presigner._targets.named(CAT))
    presigner.invalidate(CAT)
    assert entry is not None
    presigner._table.put(entry)
    assert presigner.url(CAT) != old


def test_one_who_looks_while_an_origin_is_raised() -> None:
    """M6: what is dropped since the origin's epoch covers it is in force for whoever is looking just now."""
    epochs = Epochs({"media": 0.0}, LAG, Counts(), is_shared=False)
    epochs.invalidate(obj("cat.jpg"), 0, NOW)
    origin = epochs._named["media"]

    class Raised:
        """The origin, which is raised by another thread after each look at it."""

        def __getattr__(self, name: str) -> Any:
            found = getattr(origin, name)
            origin.lift(NOW + 1)
            return found

    epochs._named["media"] = Raised()  # type: ignore[assignment]  # it has what is looked at
    assert epochs.of(obj("cat.jpg")) >= NOW


# The board: missing, behind, forged, full.


def test_a_running_fleet_writes_back_what_it_knows(memcached: Memcached, fleet: Fleet) -> None:
    """M9: after a flush nothing is revived, and nothing that was not taken back changes."""
    one, another = (fleet.member(memcached.url, fleet.static()) for _ in range(2))
    dog = one.url(DOG)
    one.invalidate(CAT)
    cat = one.url(CAT)
    memcached.flush()
    fleet.clock.advance(LAG + 0.1)
    assert one.url(DOG) == dog
    newcomer = fleet.member(memcached.url, fleet.static())
    assert [newcomer.url(CAT), another.url(CAT)] == [cat, cat]
    assert newcomer.url(DOG) == dog


def test_what_nobody_knows_any_more_counts_as_now(memcached: Memcached, fleet: Fleet) -> None:
    """M9: who finds no board and has read none lately begins cold; all who come later agree."""
    one = fleet.member(memcached.url, fleet.static())
    one.invalidate(CAT)
    old = one.url(CAT)
    fleet.clock.advance(60)
    memcached.flush()
    newcomer = fleet.member(memcached.url, fleet.static())
    assert dated(newcomer.url(CAT)) == NOW + 60
    assert one.url(CAT) == newcomer.url(CAT) != old


def test_an_idle_process_that_finds_no_board(memcached: Memcached, fleet: Fleet) -> None:
    """M9: what it knew may be less than what was lost, so all is cold."""
    idle, busy = (fleet.member(memcached.url, fleet.static()) for _ in range(2))
    idle.url(CAT)
    fleet.clock.advance(60)
    busy.invalidate(CAT)
    new = dated(busy.url(CAT))
    memcached.flush()
    fleet.clock.advance(60)
    assert dated(idle.url(CAT)) > new


def test_no_answer_is_no_board() -> None:
    """M9: who was not answered knows nothing of the board that another makes in that very second."""
    mine, other = (Epochs({"media": 0.0}, LAG, Counts(), is_shared=True) for _ in range(2))
    assert mine.exchange({}, NOW, 0) == {}
    [made] = other.exchange({"": None}, NOW, 0).values()
    mine.exchange({"": made}, NOW, 0)
    assert mine.of(obj("cat.jpg")) == NOW


def test_an_epoch_far_ahead_counts_as_now(fake: FakeMemcached, fleet: Fleet) -> None:
    """M9: a forged epoch makes no URL that S3 refuses, and no URL of each moment."""
    presigner = fleet.member(fake.url, fleet.static())
    presigner.url(CAT)
    [key] = fake.boards
    fake.boards[key] = b"e1" + (NOW + 1200).to_bytes(4)
    fleet.clock.advance(LAG + 0.1)
    first = presigner.url(CAT)
    assert dated(first) == floor(fleet.clock.time())
    assert fleet.refused([first], [CAT]) == []
    for _ in range(5):
        fleet.clock.advance(LAG + 0.1)
        assert presigner.url(CAT) == first
    assert fleet.member(fake.url, fleet.static()).url(CAT) == first


def test_origins_with_clocks_of_their_own(memcached: Memcached, fleet: Fleet) -> None:
    """M9, P8: where nothing is known all is cold, by each origin's clock: no URL is of its future."""
    skews = {"media": 0, "slow": -3600, "fast": 3600}
    origins = [
        Origin(name, bucket=name, region=REGION, session=fleet.static(), policy=Policy(skew=skew))
        for name, skew in skews.items()
    ]
    policy = Policy(shared_patience=PATIENT)
    with contextlib.ExitStack() as stack:
        for _ in range(2):  # the first writes a board, the other reads it
            presigner = Presigner(*origins, shared=memcached.url, policy=policy, clock=fleet.clock)
            stack.callback(presigner.close)
            for name, skew in skews.items():
                assert dated(presigner.url(f"s3://{name}/a")) == NOW + skew


@pytest.mark.parametrize("kind", ["shared", "alone"])
@pytest.mark.parametrize("seconds", [60, 3600])
def test_a_clock_that_is_set_back(memcached: Memcached, fleet: Fleet, kind: str, seconds: int) -> None:
    """M9, P7: what was taken back by a clock that was ahead counts as now; it makes no URL of the future."""
    presigner = fleet.member(memcached.url if kind == "shared" else None, fleet.static())
    presigner.revoke("media")
    presigner.invalidate(CAT)
    fleet.clock.step(-seconds)
    first = presigner.urls([CAT, DOG])
    assert {dated(url) for url in first} == {NOW - seconds}
    assert fleet.refused(first, [CAT, DOG]) == []
    for _ in range(5):
        fleet.clock.advance(LAG + 0.1)
        assert presigner.urls([CAT, DOG]) == first
    if kind == "shared":
        assert fleet.member(memcached.url, fleet.static()).urls([CAT, DOG]) == first


@pytest.mark.parametrize("rubbish", [b"", b"e1", b"e2\0\0\0\0", EMPTY_BOARD + b"x", b"\xff" * 200])
def test_rubbish_is_no_board(fake: FakeMemcached, fleet: Fleet, rubbish: bytes) -> None:
    """M4, M9: it is written over with what is known."""
    presigner = fleet.member(fake.url, fleet.static())
    presigner.invalidate(CAT)
    known, url = dict(fake.boards), presigner.url(CAT)
    fake.boards = dict.fromkeys(known, rubbish)
    fleet.clock.advance(LAG + 0.1)
    assert presigner.url(CAT) == url
    assert fake.boards == known


def test_with_a_secret_nobody_else_can_read_or_raise_an_epoch(fake: FakeMemcached, fleet: Fleet) -> None:
    """K5, M9: a board is sealed like an entry, and one that does not open is written over."""
    secret = "a secret of the fleet, long enough"
    one, another = (fleet.member(fake.url, fleet.static(), secret=secret) for _ in range(2))
    urls = one.urls([CAT, DOG])
    one.invalidate(CAT)
    [key] = fake.boards
    known, cat = fake.boards[key], one.url(CAT)
    assert not known.startswith(EMPTY_BOARD[:2])
    for forged in (EMPTY_BOARD, b"e1" + NOW.to_bytes(4), known[:-1], known[:-1] + bytes([known[-1] ^ 1])):
        fake.boards[key] = forged
        fleet.clock.advance(LAG + 0.1)
        assert one.urls([CAT, DOG]) == [cat, urls[1]]
        assert another.url(CAT) == cat
    assert one.stats()["epochs_rejected"] == 1 + 4  # what stood there at first was in clear too


def test_a_board_outlives_its_secret_and_its_day(memcached: Memcached, fleet: Fleet) -> None:
    """K5, M9: whoever reads it seals it anew, so that a secret that is left out later takes nothing along."""
    old, new = "a secret of the fleet, until today", "a secret of the fleet, from today on"

    def member(*secrets: str) -> Presigner:
        return fleet.member(memcached.url, fleet.static(), secret=secrets)

    first = member(old)
    first.invalidate(CAT)
    urls = first.urls([CAT, DOG])
    for secrets in ((old, new), (new, old), (new,)):
        assert member(*secrets).urls([CAT, DOG]) == urls
    for _ in range(10):
        fleet.clock.advance(86_400)
        dates = [dated(url) for url in member(new).urls([CAT, DOG])]
        assert floor(fleet.clock.time()) not in dates  # as what is cold would be dated


def test_nobody_loses_what_all_take_back_at_once(memcached: Memcached, fleet: Fleet) -> None:
    """M9: boards are merged, however many write at once."""
    members = [fleet.member(memcached.url, fleet.static()) for _ in range(4)]
    targets = [[f"s3://media/{number}/{n}" for n in range(5)] for number in range(4)]
    for member in members:
        member.urls([target for some in targets for target in some])
    fleet.clock.advance(1)

    def take_back(member: Presigner, some: list[str]) -> None:
        for target in some:
            member.invalidate(target)

    threads = [threading.Thread(target=take_back, args=pair) for pair in zip(members, targets, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fleet.clock.advance(LAG + 0.1)
    everything = [target for some in targets for target in some]
    urls = [member.urls(everything) for member in members]
    assert all(one == urls[0] for one in urls)
    assert {dated(url) for url in urls[0]} == {NOW + 1}


def test_a_flood_raises_the_origins_epoch_once_a_minute(fake: FakeMemcached, fleet: Fleet) -> None:
    """M10: over 1,000 objects in a lag; what is taken back meanwhile is taken back all the same."""
    presigner = fleet.member(fake.url, fleet.static())
    board = presigner._epochs

    def flood(prefix: str) -> None:
        for number in range(1_001):
            board.invalidate(obj(f"{prefix}/{number}"), 0, fleet.clock.time())
        presigner.invalidate(CAT)

    bystander = presigner.url(DOG)
    flood("a")
    cold = presigner.url(DOG)
    assert dated(bystander) < dated(cold) == NOW
    fleet.clock.advance(30)
    flood("b")
    assert presigner.url(DOG) == cold
    assert dated(presigner.url(CAT)) >= NOW + 30
    fleet.clock.advance(31)
    flood("c")
    assert dated(presigner.url(DOG)) == NOW + 61


# The shared cache is away.


def test_it_goes_on_without_and_tells_later(memcached: Memcached, fleet: Fleet) -> None:
    """M2, M6: hits are served and counted, an invalidation works here at once, and elsewhere when it can."""
    one = fleet.member(memcached.url, fleet.static())
    another = fleet.member(memcached.url, fleet.static())
    old = [one.url(CAT), another.url(CAT)]
    memcached.stop()
    fleet.clock.advance(LAG + 0.1)
    assert another.url(CAT) == old[1]
    assert another.stats()["epochs_unread"] == 1
    one.invalidate(CAT)
    new = one.url(CAT)
    assert new != old[0]
    memcached.start()

    def is_known() -> bool:
        fleet.clock.advance(LAG + 0.1)
        return another.url(CAT) == one.url(CAT) != old[1]

    eventually(is_known, within=10)


def test_a_blackhole_costs_one_patience(fake: FakeMemcached, fleet: Fleet) -> None:
    """M1, M6: then the breaker is open, and what is held is handed out."""
    presigner = fleet.member(fake.url, fleet.static(), patience=0.05)
    presigner.url(CAT)
    fake.blackhole()
    fleet.clock.advance(LAG + 0.1)
    held = presigner.stats()["from_local"]
    for _ in range(100):
        presigner.url(CAT)
        fleet.clock.advance(LAG + 0.1)
    assert presigner.stats()["from_local"] == held + 100
    assert presigner.stats()["shared_errors"] <= 2


# Bad input, and a fork.


def test_a_server_that_was_away_is_told(fake: FakeMemcached, fleet: Fleet) -> None:
    """M2, M9: by whoever took something back, though others know and it serves no traffic."""
    with FakeMemcached() as other:
        presigner = fleet.member(f"{fake.url},{other.address}", fleet.static())
        presigner.url(CAT)
        other.refuse()
        presigner.invalidate(CAT)
        other.obey()
        eventually(lambda: other.boards == fake.boards != {})
        presigner.close()


def test_telling_ends_with_its_presigner(fake: FakeMemcached, fleet: Fleet) -> None:
    """M2, R7: what could not be told while it was being closed is not told for ever."""
    presigner = fleet.member(fake.url, fleet.static())
    presigner.url(CAT)
    fake.hold()

    async def handler() -> None:
        presigner.invalidate(CAT)

    asyncio.run(handler())
    eventually(lambda: fake.held)
    closing = threading.Thread(target=presigner.close)
    closing.start()
    eventually(lambda: not presigner._runner._sharing._publishers._threads)  # type: ignore[union-attr]
    fake.refuse()
    closing.join()
    eventually(lambda: "presign-shared-retry" not in [thread.name for thread in threading.enumerate()])


def test_a_board_that_took_its_time(
    fake: FakeMemcached, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1, M9: it is written back when nobody waits any more, and no server is blamed for that."""
    presigner = fleet.member(fake.url, fleet.static())
    presigner.invalidate(CAT)
    known, deadline = dict(fake.boards), time.monotonic() + 0.1
    fake.boards = dict.fromkeys(known, EMPTY_BOARD)

    def slowly(self: Epochs, *args: Any) -> dict[str, bytes]:
        eventually(lambda: time.monotonic() > deadline)
        return exchange(self, *args)

    exchange = Epochs.exchange
    monkeypatch.setattr(Epochs, "exchange", slowly)
    assert presigner._runner._sharing._shared.catch_up(deadline)  # type: ignore[union-attr]
    assert fake.boards == known
    assert presigner.stats()["shared_errors"] == 0


def test_an_unknown_origin_is_named(presigner: Presigner) -> None:
    """L1 of errors: what was given and what there is."""
    with pytest.raises(ConfigurationError, match=r"'archive'.*known are media"):
        presigner.revoke("archive")


def test_what_is_not_covered_cannot_be_invalidated(presigner: Presigner) -> None:
    """O4: NotCovered, as for any target."""
    with pytest.raises(NotCovered):
        presigner.invalidate("s3://other/cat.jpg")


@pytest.mark.parametrize("lag", [0, -1, float("nan"), "2"])
def test_a_lag_is_some_time(lag: Any) -> None:
    with pytest.raises(ConfigurationError, match="invalidation_lag"):
        Policy(invalidation_lag=lag)


def test_a_child_knows_what_its_parent_knew(fleet: Fleet) -> None:
    """M5, M8: a fork revives nothing."""
    presigner = fleet.member(None, fleet.static())
    presigner.invalidate(CAT)
    url = presigner.url(CAT)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, presigner.url(CAT).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    assert os.read(read, 65_536).decode() == url


# Real processes.


def test_four_processes_know_within_the_lag(memcached: Memcached) -> None:
    """M6: whoever calls it, and they read the board once in a lag, and nothing else that they hold."""
    lag, targets = 0.3, [CAT, DOG]
    place: dict[str, Any] = {"bucket": "media", "region": "eu-west-1"}
    keys = {"access_key": "AKIAFLEET", "secret_key": "secret"}
    with Proxy(memcached.address) as proxy, contextlib.ExitStack() as stack:
        processes = [stack.enter_context(Process(proxy.url, keys, lag=lag, **place)) for _ in range(4)]
        for process in processes:
            process.wait_until_ready()
        for number, what in enumerate([{"invalidate": CAT}, {"revoke": "media"}, {"invalidate": DOG}]):
            old = [process.urls(targets) for process in processes]
            processes[number].take_back(**what)
            time.sleep(lag)
            new = [process.urls(targets) for process in processes]
            assert new == [new[0]] * 4
            changed = [
                target for target, *urls in zip(targets, old[0], new[0], strict=True) if len({*urls}) > 1
            ]
            assert changed == ([what["invalidate"]] if "invalidate" in what else targets)
        entries, boards, start = len(proxy.commands), reads(proxy), time.monotonic()
        for _ in range(100):
            assert [process.urls(targets) for process in processes] == new
        passed = time.monotonic() - start
        assert len(proxy.commands) == entries
        assert reads(proxy) - boards <= 4 * (passed / lag + 1)


def test_four_processes_whose_board_is_lost_or_forged() -> None:
    """M9: evicted, 20 min ahead, or gone with its server: no URL is revived, and none is refused by S3."""
    lag, targets = 0.3, [CAT, DOG]
    place: dict[str, Any] = {"bucket": "media", "region": REGION}
    keys = {"access_key": "AKIAFLEET", "secret_key": SECRET}
    taken_back, clock = set[str](), Clock()
    with Fleet(clock) as fleet, Memcached() as memcached, contextlib.ExitStack() as stack:
        fleet.static(keys["access_key"])
        processes = [stack.enter_context(Process(memcached.url, keys, lag=lag, **place)) for _ in range(4)]
        client = stack.enter_context(contextlib.closing(Client(memcached.address)))

        def urls() -> list[str]:
            """Return the URLs of the cat that there are now, once nobody has one that was taken back."""
            found = [process.urls(targets) for process in processes]
            clock.step(time.time() - clock.time())
            for each in found:
                assert fleet.refused(each, targets) == []
                assert max(map(dated, each)) <= clock.time() + 5
            cats = [cat for cat, _ in found]
            assert taken_back.isdisjoint(cats)
            return cats

        for process in processes:
            process.wait_until_ready()
        for befall in (
            lambda: client.delete(board_key("")),
            lambda: client.set(board_key(""), b"e1" + (int(time.time()) + 1200).to_bytes(4)),
            memcached.restart,
        ):
            old = processes[0].urls(targets)[0]
            processes[1].take_back(invalidate=CAT)
            time.sleep(lag)
            taken_back.add(old)
            urls()
            befall()
            eventually(lambda: len({*urls()}) == 1)
            time.sleep(lag)
            assert len({*urls(), *urls()}) == 1


# The rules, by themselves.

_NAMES = st.sampled_from(["media", "archive", "elsewhere"])
_STEPS = st.lists(
    st.tuples(_NAMES, st.integers(0, 5), st.integers(0, 3), st.booleans(), st.booleans()), max_size=40
)


@settings(max_examples=200)
@given(_STEPS)
def test_epochs_never_sink_and_boards_merge_to_one(steps: list[tuple[str, int, int, bool, bool]]) -> None:
    """M9: whatever two processes raise, and whichever reads the other's board first, they come to agree."""
    skews = {"media": 0.0, "archive": 0.0}
    both = [Epochs(skews, 2, Counts(), is_shared=True) for _ in range(2)]
    known, now = {(which, name, key): 0 for which in (0, 1) for name in skews for key in range(6)}, NOW
    for name, key, seconds, is_first, is_all in steps:
        now += seconds
        mine = both[is_first]
        if name not in skews:
            read(both[not is_first], mine, now)
        elif is_all:
            mine.revoke(name, now)
        else:
            mine.invalidate(obj(str(key), name), now - 10, now)
        for which, name_of, key_of in known:
            epoch = both[which].of(obj(str(key_of), name_of))
            assert known[which, name_of, key_of] <= epoch <= now + 5
            known[which, name_of, key_of] = epoch
    for _ in range(2):
        read(both[0], both[1], now)
        read(both[1], both[0], now)
    assert board(both[0]) == board(both[1])


def test_a_board_is_bounded_and_revives_nothing() -> None:
    """M9: what is dropped is covered by a later epoch."""
    epochs = Epochs({f"o{number}": 0.0 for number in range(11_000)}, 2, Counts(), is_shared=True)
    raised = {}
    for number in range(11_000):
        of = obj("k", f"o{number}")
        epochs.invalidate(of, 0, NOW + number // 100)
        raised[of] = epochs.of(of)
    for number in range(11_000):
        epochs.revoke(f"o{number}", NOW + 200 + number // 100)
    assert len(board(epochs)) < 500_000
    assert all(epochs.of(of) > epoch for of, epoch in raised.items())


def test_what_no_url_can_outlive_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """M9: a board that was full once (of 8,000 objects, but here of 100) is not so for ever."""
    monkeypatch.setattr("presign_middleware.epochs._MOST_OBJECTS", 100)
    epochs = Epochs({"media": 0.0}, 2, Counts(), is_shared=True)
    for number in range(99):
        epochs.invalidate(obj(f"{number}"), 0, NOW + number)
    for number in range(10):
        epochs.invalidate(obj(f"later/{number}"), 0, NOW + 10 * 86_400)
    assert len(board(epochs)) < 200
