"""Sealed entries: who can read what is shared, what is made of anything else, and changing the secret."""

import asyncio
import logging
import os
import signal
import warnings
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from typing import Any, Final

import pytest
from faults import EMPTY_BOARD, FakeMemcached, eventually
from fleet import DEADLINE, SECRET, Fleet, Process, counted, dated, let_publish

from presign_middleware import ConfigurationError, Presigner, presigner
from presign_middleware.epochs import Epochs
from presign_middleware.testing import Memcached

OLD: Final = "the-secret-of-the-fleet-until-today"
NEW: Final = "the-secret-of-the-fleet-from-today-on"

#: More than a sealed entry has bytes, so that each byte of one can be altered in another.
TARGETS: Final = [f"s3://media/{number}" for number in range(200)]

#: Seconds of a URL's life as the default policy divides it, and of the longest there is.
LIFETIME, LONGEST_PERIOD, LONGEST_AGEING_UNTIL = 3600, 544_020, 604_500


@pytest.fixture(autouse=True)
def nothing_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have whoever finds a board that does not open put an empty one there, so that dates are the usual."""

    def exchange(epochs: Epochs, boards: Mapping[str, bytes | None], *now: float) -> dict[str, bytes]:
        return {name: EMPTY_BOARD for name, board in boards.items() if board != EMPTY_BOARD}

    monkeypatch.setattr(Epochs, "exchange", exchange)


def aurls(presigner: Presigner, targets: Sequence[str]) -> list[str]:
    return asyncio.run(presigner.aurls(targets))


both_colours: Final = pytest.mark.parametrize("urls", [Presigner.urls, aurls])
both_kinds: Final = pytest.mark.parametrize("kind", ["static", "session"])
URLs = Callable[[Presigner, Sequence[str]], list[str]]


def is_stored(fake: FakeMemcached, number: int) -> bool:
    """Return whether so many entries are."""
    return len(fake.values) == number


def member(fleet: Fleet, url: str | None, kind: str, name: str, secret: Any, **options: Any) -> Presigner:
    """Return a process of *fleet*; those with static keys have the same ones, whatever their *name*."""
    credentials = fleet.static() if kind == "static" else fleet.session(name)
    return fleet.member(url, credentials, secret=secret, **options)


# One URL for a fleet that has a secret.


@both_kinds
@both_colours
def test_those_with_the_secret_share(memcached: Memcached, fleet: Fleet, urls: URLs, kind: str) -> None:
    """K5, K6: processes with one secret hand out the same URLs, signed once, which S3 accepts."""
    one, other = (member(fleet, memcached.url, kind, name, OLD) for name in ("ASIAONE", "ASIATWO"))
    found = urls(one, TARGETS)
    let_publish(one)
    assert urls(other, TARGETS) == found
    assert counted(other, "signed", "from_shared", "shared_rejected") == (0, 200, 0)
    assert fleet.refused(found, TARGETS) == []


@both_kinds
def test_nothing_of_an_entry_can_be_read(fake: FakeMemcached, fleet: Fleet, kind: str) -> None:
    """K5: neither names nor values of what is stored hold an access key, a signature, a token or a date."""
    one = member(fleet, fake.url, kind, "ASIAONE", OLD)
    found = one.urls(TARGETS)
    let_publish(one)
    eventually(partial(is_stored, fake, len(TARGETS)))
    stored = b"".join([*map(str.encode, fake.values), *fake.values.values()])
    for text in (
        "AKIAFLEET",
        "ASIAONE",
        "token",
        *[str(dated(url)) for url in found],
        *[u[-64:] for u in found],
    ):
        assert text.encode() not in stored


@pytest.mark.parametrize("elapsed", [0, 86_400, LONGEST_PERIOD, LONGEST_AGEING_UNTIL - 1])
def test_for_as_long_as_a_url_can_live(fake: FakeMemcached, fleet: Fleet, elapsed: int) -> None:
    """K5, P3: what was sealed for a URL that lives for seven days can be read until that is SPENT."""
    one, other = (member(fleet, fake.url, "static", "", OLD) for _ in range(2))
    present = member(fleet, None, "static", "", None).url(TARGETS[0], lifetime=604_800)
    fleet.clock.advance(dated(present) + LONGEST_PERIOD - fleet.clock.time())
    url = one.url(TARGETS[0], lifetime=604_800)
    assert dated(url) == fleet.clock.time()
    let_publish(one)
    eventually(lambda: fake.values)
    fleet.clock.advance(elapsed)
    assert other.url(TARGETS[0], lifetime=604_800) == url
    assert counted(other, "from_shared", "shared_rejected") == (1, 0)


def test_who_was_first_wins(fake: FakeMemcached, fleet: Fleet) -> None:
    """K5, K8: what was signed without asking gives way to what another has sealed before."""
    first = member(fleet, fake.url, "session", "ASIAONE", OLD).url(TARGETS[0])
    other = member(fleet, fake.url, "session", "ASIATWO", OLD)

    async def ask() -> str:
        return other.url(TARGETS[0])  # a blocking call on a loop's thread, which reads nothing

    assert asyncio.run(ask()) != first
    let_publish(other)
    assert other.url(TARGETS[0]) == first
    assert counted(other, "shared_adopted", "shared_rejected") == (1, 0)


# What is not sealed, or not for this.

Alteration = Callable[[MutableMapping[str, bytes]], object]


def swapped(values: MutableMapping[str, bytes]) -> None:
    """Give each key the value of the next."""
    first, *others = values.values()
    values.update(zip(list(values), [*others, first], strict=True))


def flipped(values: MutableMapping[str, bytes]) -> None:
    """Alter a bit of each value, every byte in one of them."""
    assert len(values) > max(map(len, values.values()))
    for number, (key, value) in enumerate(values.items()):
        at = number % len(value)
        values[key] = bytes([*value[:at], value[at] ^ (1 << number % 8), *value[at + 1 :]])


def truncated(values: MutableMapping[str, bytes]) -> None:
    """Leave of each value another number of bytes, none included."""
    for number, (key, value) in enumerate(values.items()):
        values[key] = value[: number % len(value)]


def nothing(values: MutableMapping[str, bytes]) -> None:
    """Leave all as it is."""


@pytest.mark.parametrize(
    ("alter", "writers", "readers"),
    [
        (swapped, OLD, OLD),
        (flipped, OLD, OLD),
        (truncated, OLD, OLD),
        (nothing, OLD, NEW),
        (nothing, [OLD, NEW], [NEW]),
        (nothing, None, OLD),
        (nothing, OLD, None),
    ],
    ids=["swapped", "flipped", "truncated", "another-secret", "another-first", "in-clear", "sealed"],
)
@pytest.mark.parametrize(("kind", "urls"), [("static", Presigner.urls), ("session", aurls)])
def test_what_does_not_open(
    fake: FakeMemcached, fleet: Fleet, urls: URLs, kind: str, alter: Alteration, writers: Any, readers: Any
) -> None:
    """K5: what was sealed for another key, by another secret, altered or not at all is a counted miss."""
    writer = member(fleet, fake.url, kind, "ASIAONE", writers)
    writer.urls(TARGETS)
    let_publish(writer)
    eventually(partial(is_stored, fake, len(TARGETS)))
    alter(fake.values)
    reader = member(fleet, fake.url, kind, "ASIATWO", readers)
    own = member(fleet, None, kind, "ASIATWO", None).urls(TARGETS)
    assert urls(reader, TARGETS) == own
    assert counted(reader, "from_shared", "shared_rejected", "signed") == (0, 200, 200)
    assert counted(reader, "shared_misses", "shared_errors", "failed") == (0, 0, 0)
    reader.close()  # what it publishes, it has published
    third = member(fleet, fake.url, kind, "ASIATHREE", readers)
    assert urls(third, TARGETS) == own
    assert counted(third, "from_shared", "shared_rejected") == (200, 0)


def test_why_swapped_entries_matter(fake: FakeMemcached, fleet: Fleet) -> None:
    """K5: without a secret, an entry that stands where another should is believed, and S3 refuses it."""
    writer = member(fleet, fake.url, "session", "ASIAONE", None)
    writer.urls(TARGETS)
    let_publish(writer)
    swapped(fake.values)
    found = member(fleet, fake.url, "session", "ASIATWO", None).urls(TARGETS)
    assert len(fleet.refused(found, TARGETS)) == 200


@both_kinds
@both_colours
def test_another_namespace(fake: FakeMemcached, fleet: Fleet, urls: URLs, kind: str) -> None:
    """K5: an entry of one namespace, put into another where the secret is the same, is a counted miss."""
    for number, namespace in enumerate(["blue", "green"], 1):
        one = member(fleet, fake.url, kind, "ASIAONE", OLD, namespace=namespace)
        urls(one, TARGETS[:1])
        let_publish(one)
        eventually(partial(is_stored, fake, number))
    blue, green = fake.values
    fake.values[green] = fake.values[blue]
    reader = member(fleet, fake.url, kind, "ASIATWO", OLD, namespace="green")
    own = member(fleet, None, kind, "ASIATWO", None).urls(TARGETS[:1])
    assert urls(reader, TARGETS[:1]) == own
    assert counted(reader, "from_shared", "shared_rejected", "shared_errors") == (0, 1, 0)


def test_the_same_entry_again(fake: FakeMemcached, fleet: Fleet) -> None:
    """K5, P3: an entry that is put back after its time opens, and is not served: it is SPENT."""
    writer = member(fleet, fake.url, "session", "ASIAONE", OLD)
    old = writer.url(TARGETS[0])
    ((key, value),) = fake.values.items()
    fleet.clock.advance(LIFETIME)
    fake.values[key] = value
    reader = member(fleet, fake.url, "session", "ASIATWO", OLD)
    assert reader.url(TARGETS[0]) != old
    assert counted(reader, "from_shared", "shared_rejected") == (0, 1)


# Changing the secret.


@both_kinds
@both_colours
def test_in_both_orders(fake: FakeMemcached, fleet: Fleet, urls: URLs, kind: str) -> None:
    """K5: of two processes that have both secrets in different order each reads what the other has sealed."""
    one = member(fleet, fake.url, kind, "ASIAONE", [OLD, NEW])
    other = member(fleet, fake.url, kind, "ASIATWO", [NEW, OLD])
    for writer, reader, targets in ((one, other, TARGETS[:100]), (other, one, TARGETS[100:])):
        found = urls(writer, targets)
        writer.close()  # what it publishes, it has published
        assert urls(reader, targets) == found
        assert counted(reader, "from_shared", "shared_rejected") == (100, 0)


def test_a_change_in_three_steps(fake: FakeMemcached, fleet: Fleet) -> None:
    """K5: while processes go from step to step one by one nothing is signed twice, and nothing rejected."""
    names, targets = iter(range(100)), iter(TARGETS)
    before: list[str] = []
    members: list[Presigner] = []
    for steps in pairwise([[OLD], [OLD, NEW], [NEW, OLD], [NEW]]):
        if steps[1] == [NEW]:  # when nothing lives any more that the old one has sealed
            fleet.clock.advance(LIFETIME)
            before = []
        pair = [member(fleet, fake.url, "session", f"ASIA{next(names)}", list(step)) for step in steps]
        for one in pair:
            before += [next(targets) for _ in range(10)]
            one.urls(before)
            let_publish(one)
        first, second = (one.urls(before) for one in pair)
        assert first == second
        members += pair
    assert sum(counted(one, "shared_rejected", "shared_adopted") != (0, 0) for one in members) == 0
    assert sum(counted(one, "signed")[0] for one in members) == 60


def test_two_processes_change_it(memcached: Memcached) -> None:
    """K5: so it is with two real processes, one of which has gone a step further."""
    end = "2126-01-01T00:00:00+00:00"
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(
                Process(
                    memcached.url,
                    {"access_key": f"ASIA{n}", "secret_key": SECRET, "token": f"token-{n}", "end": end},
                    secret=secrets,
                    bucket="media",
                    region="eu-west-1",
                )
            )
            for n, secrets in enumerate([[OLD, NEW], [NEW, OLD]])
        )
        for process in (one, other):
            process.wait_until_ready()
        for writer, reader, targets in ((one, other, TARGETS[:100]), (other, one, TARGETS[100:])):
            writer.ask(targets)
            found, _ = writer.answer()
            reader.ask(targets)
            urls, stats = reader.answer()
            assert urls == found
            assert (stats["from_shared"], stats["shared_rejected"], stats["shared_errors"]) == (100, 0, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child(memcached: Memcached, fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """K5: a child opens what its parent's fleet has sealed, and seals what its parent opens."""
    found = member(fleet, memcached.url, "session", "ASIAONE", OLD).urls(TARGETS)
    own = member(fleet, memcached.url, "session", "ASIATWO", OLD)
    own.url(TARGETS[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # since 3.12: a process with threads forks
        child = os.fork()
    if not child:
        signal.alarm(DEADLINE)
        right = own.urls(TARGETS) == found
        own.url("s3://media/of the child")
        stats = own.stats()
        os._exit(0 if right and (stats["from_shared"], stats["signed"]) == (200, 1) else 1)
    assert os.waitpid(child, 0)[1] == 0
    own.url("s3://media/of the child")
    assert counted(own, "from_shared", "shared_rejected", "signed") == (2, 0, 0)


# What must not be said, and what must.


def test_nothing_leaks(
    fake: FakeMemcached, fleet: Fleet, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """L1: no log, repr or counter holds a secret, whatever comes of the entries."""
    caplog.set_level(logging.DEBUG)
    members = [
        member(fleet, fake.url, "session", f"ASIA{n}", secret, patience=0.2)
        for n, secret in enumerate([OLD, NEW, [NEW, OLD], NEW.encode()])
    ]

    async def ask() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0  # the loop then tells of each
        for one in members:
            await one.aurls(TARGETS[:5])

    asyncio.run(ask(), debug=True)
    assert sum(counted(one, "shared_rejected")[0] for one in members) > 0
    fake.garble()
    texts = []
    for one in members:
        one.urls(TARGETS[5:10])
        texts += [repr(one), repr(vars(one)), repr(one.stats()), repr(one._seal)]
    texts += [caplog.text, *[repr(vars(record)) for record in caplog.records], *capfd.readouterr()]
    assert "presign_middleware.memcached" in caplog.text
    assert [text for text in texts if any(part in text for part in (OLD, NEW, "of-the-fleet"))] == []


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the servers that were told of."""
    event = "shared_in_clear"
    return [vars(r)["presign_server"] for r in caplog.records if vars(r).get("presign_event") == event]


def test_a_server_of_the_network(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """K5: a presigner without a secret tells once of a server elsewhere, and its forked children do not."""
    first = fleet.member("memcached://cache.internal:11211", fleet.static())
    assert told(caplog) == ["cache.internal"]
    presigner._open_anew()
    first.close()
    assert told(caplog) == ["cache.internal"]
    fleet.member("memcached://[fe80::1]:11211", fleet.static())
    assert told(caplog) == ["cache.internal", "fe80::1"]


@pytest.mark.parametrize(
    ("shared", "secret"),
    [
        ("memcached://cache.internal:11211", OLD),
        ("memcached://localhost:11211", None),
        ("memcached://[::1]:11211", None),
        ("memcached://127.0.0.1:11211", None),
        (None, None),
    ],
)
def test_a_server_that_is_no_danger(
    fleet: Fleet, caplog: pytest.LogCaptureFixture, shared: str | None, secret: str | None
) -> None:
    """K5: of a server of this machine, and of any where there is a secret, nothing is told."""
    fleet.member(shared, fleet.static(), secret=secret)
    assert told(caplog) == []


def test_a_server_that_is_none(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """M7: what is refused is not told of."""
    with pytest.raises(ConfigurationError, match="shared"):
        fleet.member("memcached://cache.internal:0", fleet.static())
    assert told(caplog) == []
