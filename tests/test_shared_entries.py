"""Entries of the shared cache: what is stored, under which key, for how long, and who believes it."""

import asyncio
import itertools
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl, quote

import httpx
import pytest
from botocore.credentials import Credentials
from faults import FakeMemcached, eventually
from fleet import MEDIA, SECRET, Fleet, access_key, boto_session, counted, dated
from hypothesis import example, given, settings
from hypothesis import strategies as st

from presign_middleware import Presigner, PresignError
from presign_middleware.clients.httpx import PresignTransport
from presign_middleware.signing import OriginSigning
from presign_middleware.testing import Clock, Memcached

TARGETS: Final = [f"s3://media/{number}" for number in range(50)]

#: Seconds of a URL's life as the default policy divides it.
PERIOD, AGEING_UNTIL, LIFETIME = 2940, 3300, 3600


def aurls(presigner: Presigner, targets: Sequence[str]) -> list[str]:
    return asyncio.run(presigner.aurls(targets))


both_colours: Final = pytest.mark.parametrize("urls", [Presigner.urls, aurls])
URLs = Callable[[Presigner, Sequence[str]], list[str]]


# How long memcached keeps an entry.


@pytest.mark.parametrize("fraction", [0, 0.25, 0.999])
def test_a_static_keys_entry_expires_when_its_url_is_spent(fake: FakeMemcached, fraction: float) -> None:
    """P6: memcached is given the whole seconds until SPENT, rounded down."""
    with Fleet(Clock(1_767_268_800 + fraction)) as fleet:
        presigner = fleet.member(fake.url, fleet.static())
        urls = presigner.urls(TARGETS)
        eventually(lambda: len(fake.expiries) == len(urls))
        assert sorted(int(dated(url) + AGEING_UNTIL - fleet.clock.time()) for url in urls) == sorted(
            fake.expiries.values()
        )


@pytest.mark.parametrize(("elapsed", "expected"), [(0, [7]), (6, [1]), (6.5, [1]), (6.6, []), (7.4, [])])
def test_a_sessions_entry_expires_when_its_url_is_spent(
    fake: FakeMemcached, fleet: Fleet, elapsed: float, expected: list[int]
) -> None:
    """P6: a session of 10 s leaves 7.5 s until SPENT; with less than 1 s left nothing is stored, not 0."""
    session = fleet.session("ASIAONE", seconds=10)
    session.get_credentials()._refresh = lambda: None  # type: ignore[union-attr]  # botocore's own would insist
    presigner = fleet.member(fake.url, session)
    presigner.url("s3://media/seen")  # the session is, from now on
    fake.expiries.clear()
    fleet.clock.advance(elapsed)
    presigner.url("s3://media/a")
    assert [*fake.expiries.values()] == expected


# Keys.


@pytest.mark.parametrize("key", ["a", "ü" * 512, "a b\r\nc", "x" * 1024, "%2F//../+"])
def test_memcacheds_key(fake: FakeMemcached, fleet: Fleet, key: str) -> None:
    """K2: a memcached key is printable, short for a 1024-byte key, and begins with a format version."""
    presigner = fleet.member(fake.url, fleet.session("ASIAONE"))
    target = f"s3://media/{key}" if ".." not in key else f"s3://media/{key.replace('..', '')}"
    presigner.url(target)
    (name,) = fake.values
    assert re.fullmatch(r"p2:[!-~]{1,247}", name)


def test_no_key_no_cache(fake: FakeMemcached, fleet: Fleet) -> None:
    """K3: where no key can be made the call fails, and nothing is read or stored under another."""
    presigner = fleet.member(fake.url, fleet.static())
    with pytest.raises(PresignError):
        presigner.url("s3://media/\ud800")
    assert [name for name, _ in fake.commands if name != "version"] == []


@pytest.mark.parametrize(
    "difference",
    [
        {"namespace": "blue"},
        {"access_key": "AKIAOTHER"},
        {"place": {"endpoint_url": "https://s3.test:1"}},
        {"place": {"bucket": "other-bucket"}},
        {"place": {"region": "us-east-1"}},
        {"place": {"addressing_style": "path"}},
        {"method": "HEAD"},
        {"lifetime": 1800},
        {"params": {"VersionId": "1"}},
        {"key": "A"},
        {"key": "a/"},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("kind", ["static", "session"])
def test_what_differs_has_another_key(
    fake: FakeMemcached, fleet: Fleet, kind: str, difference: Mapping[str, Any]
) -> None:
    """K1: of whatever makes a URL differ, the other one's entry is not read, nor is it written over."""

    def ask(*, key: str = "a", access_key: str = "", **given: Any) -> str:
        settings = {name: given.pop(name) for name in ("namespace", "place") if name in given}
        if kind == "static":
            credentials = fleet.static(access_key or "AKIAFLEET")
        else:  # whose identity is the same, unless it comes from elsewhere
            credentials = fleet.session("ASIAONE", method=access_key or "test")
        presigner = fleet.member(fake.url, credentials, **settings)
        bucket = settings.get("place", {}).get("bucket", "media")
        presigner.url(f"s3://{bucket}/{key}", **given)
        assert counted(presigner, "from_shared", "shared_misses", "shared_rejected", "signed") == (0, 1, 0, 1)
        return str(len(fake.values))

    ask()
    eventually(lambda: len(fake.values) == 1)
    before = dict(fake.values)
    ask(**difference)
    eventually(lambda: len(fake.values) == 2)
    assert before.items() <= fake.values.items()


@pytest.mark.parametrize("kind", ["static", "session"])
def test_regions_of_one_endpoint(fake: FakeMemcached, fleet: Fleet, kind: str) -> None:
    """K1, K4: with one endpoint and another region, which is signed, no other's signature is put in."""
    credentials = fleet.static() if kind == "static" else None
    answers = []
    for number, region in enumerate(("eu-west-1", "us-east-1")):
        session = credentials or fleet.session(f"ASIA{number}")
        place = {"endpoint_url": "https://s3.test:1", "region": region}
        presigner = fleet.member(fake.url, session, place=place)
        alone = fleet.member(None, session, place=place)
        answers.append((presigner.url(TARGETS[0]), alone.url(TARGETS[0])))
        eventually(lambda: len(fake.values) > 0)
    assert [theirs for _, theirs in answers] == [own for own, _ in answers]


# Entries.


@pytest.mark.parametrize("kind", ["static", "session"])
def test_what_an_entry_holds(fake: FakeMemcached, fleet: Fleet, kind: str) -> None:
    """K4: an entry is version, date, access key and signature, of a session its life and token: no URL."""
    static = kind == "static"
    presigner = fleet.member(fake.url, fleet.static() if static else fleet.session("ASIAONE"))
    url = presigner.url("s3://media/holiday/cat.jpg")
    eventually(lambda: fake.values)
    (entry,) = fake.values.values()
    version, date, key, digest, *life = entry.decode("ascii").split(" ")
    assert (version, int(date), key) == ("1", dated(url), access_key(url))
    assert digest == url[-64:]
    if static:
        assert life == []
    else:
        obtained, end, token = life
        assert (float(obtained), float(end)) == (fleet.clock.time(), fleet.clock.time() + 43_200)
        assert token == "token+of/ASIAONE=="
    for part in (b"media", b"cat", b"amazonaws", b"http", b"?", SECRET.encode()):
        assert part not in entry


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("GET", None),
        ("HEAD", None),
        ("GET", {"VersionId": "a/b +ü", "ResponseContentDisposition": 'attachment; filename="ü.txt"'}),
    ],
)
@both_colours
def test_composed(
    memcached: Memcached,
    fleet: Fleet,
    urls: URLs,
    method: str,
    params: Mapping[str, str] | None,
) -> None:
    """K4, K6: a URL that is composed of another session's entry is the one that session made."""
    one, other = (fleet.member(memcached.url, fleet.session(name)) for name in ("ASIAONE", "ASIATWO"))
    target = "s3://media/ü/a b+c%2F.txt"
    url = one.url(target, method, params)
    assert other.url(target, method, params) == url
    assert counted(other, "from_shared", "signed") == (1, 0)


Mutation = Callable[[bytes, bytes], bytes]  # of an entry, and of another object's

_ANYTHING = st.binary(max_size=60)
_NUMBERS = st.one_of(
    st.integers(-10, 10**12).map(str),
    st.sampled_from(["9" * 10, "9" * 400, "0" * 10, "1e9", "nan", "inf", "-1", "1_000", "0x10", "٣" * 10]),
    st.floats().map(repr),
)
_FIELDS = st.one_of(
    _ANYTHING,
    _NUMBERS.map(str.encode),
    st.text(max_size=20).map(str.encode),
    st.text("0123456789abcdef", min_size=64, max_size=64).map(str.encode),
    st.sampled_from([b"AKIAFLEET", b"AKIAOTHER", b"ASIAONE", b"ASIATWO", b"", b"2", b"01", b"a&b=c#d?e/f"]),
)


def _flipped(at: int, bit: int, entry: bytes, other: bytes) -> bytes:
    at %= len(entry)
    return entry[:at] + bytes([entry[at] ^ (1 << bit)]) + entry[at + 1 :]


def _cut(start: int, stop: int, entry: bytes, other: bytes) -> bytes:
    return entry[start % len(entry) : -(stop % len(entry)) or None]


def _joined(before: bytes, after: bytes, entry: bytes, other: bytes) -> bytes:
    return before + entry + after


def _replaced(changes: Mapping[int, bytes], entry: bytes, other: bytes) -> bytes:
    fields = entry.split(b" ")
    fields += [b""] * (1 + max(changes, default=0) - len(fields))
    for index, field in changes.items():
        fields[index] = field
    return b" ".join(fields).rstrip(b" ")


def _dated_otherwise(seconds: int, entry: bytes, other: bytes) -> bytes:
    version, date, *rest = entry.split(b" ")
    return b" ".join([version, b"%d" % (int(date) + seconds), *rest])


def _crossed(index: int, entry: bytes, other: bytes) -> bytes:
    fields, others = entry.split(b" "), other.split(b" ")
    return b" ".join(fields[:index] + others[index:])


MUTATIONS: Final[st.SearchStrategy[Mutation]] = st.one_of(
    st.builds(partial, st.just(_flipped), st.integers(0, 400), st.integers(0, 7)),
    st.builds(partial, st.just(_cut), st.integers(0, 5), st.integers(0, 400)),
    st.builds(partial, st.just(_joined), _ANYTHING, st.just(b"")),
    st.builds(partial, st.just(_joined), st.just(b""), _ANYTHING),
    st.builds(
        partial,
        st.just(_replaced),
        st.dictionaries(st.integers(0, 7), _FIELDS | _NUMBERS.map(str.encode), min_size=1, max_size=3),
    ),
    st.builds(partial, st.just(_dated_otherwise), st.integers(-100_000, 100_000) | st.integers(-20, 20)),
    st.builds(partial, st.just(_crossed), st.integers(0, 7)),
    _ANYTHING.map(lambda data: lambda entry, other: data),
)
ACCEPTED: Final = ("from_shared", "shared_rejected", "signed", "shared_errors", "failed")


class Poisoner:
    """One who writes entries, has them altered, and asks another process for their URLs."""

    def __init__(self, fake: FakeMemcached, writer: Presigner, reader: Presigner) -> None:
        self._fake = fake
        self._writer = writer
        self.reader = reader
        self._numbers = itertools.count()
        self.other = self.stored("s3://media/other")[1]

    def stored(self, target: str) -> tuple[str, bytes]:
        """Return key and value of a valid entry of *target*."""
        before = len(self._fake.values)
        self._writer.url(target, params={"VersionId": "1"})
        eventually(lambda: len(self._fake.values) > before)
        return list(self._fake.values.items())[-1]

    def poisoned(self, mutation: Mutation) -> tuple[str, str, bytes, bytes, list[int]]:
        """Return a target, its URL, the entry altered, what is there in the end, and what was counted."""
        target = f"s3://media/ü {next(self._numbers)}"
        key, entry = self.stored(target)
        altered = self._fake.values[key] = mutation(entry, self.other)
        before = counted(self.reader, *ACCEPTED)
        url = self.reader.url(target, params={"VersionId": "1"})
        after = [now - then for now, then in zip(counted(self.reader, *ACCEPTED), before, strict=True)]
        if after[1]:
            eventually(lambda: self._fake.values[key] != altered)
        return target, url, altered, self._fake.values[key], after


def test_poisoned_entries_of_a_static_key(fake: FakeMemcached, fleet: Fleet) -> None:
    """K4: whatever stands there, a static key's URL is byte for byte its own; else the entry is replaced."""
    writer, reader = (fleet.member(fake.url, fleet.static()) for _ in range(2))
    alone = fleet.member(None, fleet.static())
    poisoner = Poisoner(fake, writer, reader)

    @settings(max_examples=300, database=None)
    @given(MUTATIONS)
    @example(partial(_dated_otherwise, -PERIOD))
    @example(partial(_crossed, 0))
    @example(partial(_replaced, {2: b"AKIAOTHER", 4: b"1", 5: b"9999999999", 6: b"token"}))
    def check(mutation: Mutation) -> None:
        target, url, _, left, after = poisoner.poisoned(mutation)
        assert url == alone.url(target, params={"VersionId": "1"})
        if after[0]:
            assert after == [1, 0, 0, 0, 0]
        else:
            assert after == [0, 1, 1, 0, 0]
            assert left.split(b" ")[1:] == [b"%d" % dated(url), b"AKIAFLEET", url[-64:].encode()]

    check()


def test_poisoned_entries_of_a_session(fake: FakeMemcached, fleet: Fleet) -> None:
    """K4: whatever stands there, a URL is for the object asked for and not SPENT; else it is replaced."""
    writer, reader = (fleet.member(fake.url, fleet.session(name)) for name in ("ASIAONE", "ASIATWO"))
    alone = fleet.member(None, fleet.session("ASIATWO"))
    poisoner = Poisoner(fake, writer, reader)
    now = fleet.clock.time()

    @settings(max_examples=400, database=None)
    @given(MUTATIONS)
    @example(partial(_dated_otherwise, -PERIOD))
    @example(partial(_dated_otherwise, 5))
    @example(partial(_replaced, {1: b"9" * 400}))
    @example(partial(_replaced, {5: b"9" * 400}))
    @example(partial(_crossed, 0))
    @example(partial(_replaced, {2: b"ASIATWO"}))
    @example(partial(_replaced, {4: b"9999999999", 5: b"1"}))
    @example(partial(_replaced, {5: b"9999999999", 6: b"a&b=c#d?e/f"}))
    def check(mutation: Mutation) -> None:
        target, url, altered, left, after = poisoner.poisoned(mutation)
        own = alone.url(target, params={"VersionId": "1"})
        if not after[0]:
            assert after == [0, 1, 1, 0, 0]
            assert url == own
            assert left.split(b" ")[2] == b"ASIATWO"
            return
        assert after == [1, 0, 0, 0, 0]
        _, date, key, digest, obtained, end, token = altered.decode("ascii").split(" ")
        if key == "ASIATWO":
            assert url == own
            return
        base, _, query = url.partition("?")
        assert base == f"{MEDIA}/{quote(target.removeprefix('s3://media/'))}"
        pairs, own_pairs = parse_qsl(query, strict_parsing=True), parse_qsl(own.partition("?")[2])
        assert [name for name, _ in pairs] == [name for name, _ in own_pairs]
        day = time.strftime("%Y%m%d", time.gmtime(int(date)))
        changed = {
            "X-Amz-Credential": f"{key}/{day}/eu-west-1/s3/aws4_request",
            "X-Amz-Date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(int(date))),
            "X-Amz-Security-Token": token,
            "X-Amz-Signature": digest,
        }
        assert dict(pairs) == {**dict(own_pairs), **changed}
        least = min(300, (float(end) - float(obtained)) / 4)
        assert int(date) - 5 <= now < min(int(date) + LIFETIME, float(end)) - least

    check()


@pytest.mark.parametrize("age", [0, PERIOD, AGEING_UNTIL - 1, AGEING_UNTIL, LIFETIME])
def test_an_entry_that_outlived_its_url(fake: FakeMemcached, fleet: Fleet, age: int) -> None:
    """K4, P3: an entry that memcached still has is served while its URL is not SPENT, and not for longer."""
    url = fleet.member(fake.url, fleet.session("ASIAONE")).url(TARGETS[0])
    fleet.clock.advance(dated(url) + age - fleet.clock.time() if age else 0)
    reader = fleet.member(fake.url, fleet.session("ASIATWO"))
    is_served = age < AGEING_UNTIL
    assert (reader.url(TARGETS[0]) == url) is is_served
    assert counted(reader, "shared_rejected") == (0 if is_served else 1,)
    third = fleet.member(fake.url, fleet.session("ASIATHREE"))
    assert third.url(TARGETS[0]) == reader.url(TARGETS[0])


def stored_commands(fake: FakeMemcached) -> list[str]:
    return [name for name, _ in fake.commands if name != "version"]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@both_colours
def test_uploads_and_deletions_are_not_shared(
    fake: FakeMemcached, fleet: Fleet, urls: URLs, method: str
) -> None:
    """K4, S3: a URL for PUT or DELETE is neither looked for nor written."""
    presigner = fleet.member(fake.url, fleet.session("ASIAONE"), place={"methods": ("GET", method)})
    presigner.url(TARGETS[0], method)
    asyncio.run(presigner.aurl(TARGETS[0], method))
    presigner.close()
    assert stored_commands(fake) == []


def test_requests_with_amz_headers_are_not_shared(fake: FakeMemcached, fleet: Fleet) -> None:
    """K4, S6: a URL that signs x-amz-* headers is neither looked for nor written."""
    presigner = fleet.member(fake.url, fleet.session("ASIAONE"))
    secret = "c2VjcmV0LWtleS1vZi10aGUtY3VzdG9tZXI="
    headers = {"x-amz-server-side-encryption-customer-key": secret}
    sent: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200)

    with httpx.Client(transport=PresignTransport(presigner, httpx.MockTransport(respond))) as client:
        client.get(f"{MEDIA}/a", headers=headers)
    presigner.close()
    assert "x-amz-server-side-encryption-customer-key" in str(sent[0].url)
    assert stored_commands(fake) == []


@both_colours
def test_shapes_of_boto3_are_not_shared(
    fake: FakeMemcached, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, urls: URLs
) -> None:
    """K4: a URL of a form that no plan can make is neither looked for nor written."""
    monkeypatch.setattr(OriginSigning, "_learn", lambda self, shape: None)
    clock = Clock(time.time())  # boto3 dates by the clock of this host
    with Fleet(clock) as fleet:
        presigner = fleet.member(fake.url, fleet.session("ASIAONE"))
        urls(presigner, TARGETS)
        assert counted(presigner, "signed_by_boto3", "shared_misses") == (len(TARGETS), 0)
    assert stored_commands(fake) == []


@both_colours
def test_sessions_without_a_known_end_are_not_shared(fake: FakeMemcached, fleet: Fleet, urls: URLs) -> None:
    """P10: a URL of a session token whose end nobody knows is neither looked for nor written."""
    presigner = fleet.member(fake.url, boto_session(Credentials("ASIAONE", SECRET, "token")))
    urls(presigner, TARGETS)
    presigner.close()
    assert stored_commands(fake) == []
    assert counted(presigner, "shared_misses", "shared_errors") == (0, 0)


@both_colours
def test_keys_that_end_and_have_no_token_are_shared(fake: FakeMemcached, fleet: Fleet, urls: URLs) -> None:
    """K4: what one process signs with such keys is what another hands out; one with a token signs itself."""
    first = urls(fleet.member(fake.url, fleet.session("ASIAONE", token=None)), TARGETS)
    second = fleet.member(fake.url, fleet.session("ASIATWO", token=None))
    assert urls(second, TARGETS) == first
    assert fleet.refused(first, TARGETS) == []
    third = fleet.member(fake.url, fleet.session("ASIATHREE"))
    assert {access_key(url) for url in urls(third, TARGETS)} == {"ASIATHREE"}
