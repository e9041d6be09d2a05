"""What `explain` says, that it is so, that asking changes nothing, and the notes that errors carry."""

import asyncio
import copy
import pickle
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, replace
from typing import Any, Final
from urllib.parse import quote

import boto3
import pytest
from crowds import in_threads
from faults import FakeMemcached, eventually
from fleet import Fleet, let_publish
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sources import A_DAY, Chain, Role, held, settle, source_of

from presign_middleware import (
    ConfigurationError,
    Explanation,
    NotCovered,
    Origin,
    Presigner,
    SigningError,
    intercept,
    signing,
)
from presign_middleware.explaining import Explaining
from presign_middleware.testing import Clock, Memcached

NOW: Final = 1_767_268_800  # of a new Clock
CAT: Final = "s3://acme-media/public/cat.jpg"
CAT_URL: Final = "https://acme-media.s3.eu-west-1.amazonaws.com/public/cat.jpg"

SECRET: Final = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN: Final = "FwoGZXIvYXdzEBYaDH//a-session+token=="
SESSION: Final = boto3.Session("ASIATEST", SECRET, TOKEN, region_name="eu-west-1")
STATIC: Final = boto3.Session("AKIATEST", SECRET, region_name="eu-west-1")


def media(clock: Clock | None = None, session: boto3.Session = STATIC, **options: Any) -> Presigner:
    origin = Origin("media", bucket="acme-media", prefix="public/", session=session, **options)
    return Presigner(origin, clock=clock or Clock())


@pytest.fixture
def presigner(clock: Clock) -> Presigner:
    return media(clock)


@pytest.fixture
def nobody() -> Presigner:
    """Return a presigner that has no credentials for one of its origins."""
    return Presigner(
        Origin("media", bucket="acme-media", session=STATIC),
        Origin("bare", bucket="bare", region="eu-west-1"),
        clock=Clock(),
    )


def fields(explanation: Explanation, *names: str) -> tuple[Any, ...]:
    return tuple([getattr(explanation, name) for name in names])


def bereft(fleet: Fleet, own: Memcached) -> Presigner:
    """Return a presigner that has shared URLs through *own*, and has met it dead."""
    presigner = fleet.member(own.url, fleet.session("ASIAONE"))
    presigner.url("s3://media/a")
    let_publish(presigner)
    own.kill()
    presigner.url("s3://media/b")
    return presigner


# Which object.


@pytest.mark.parametrize(
    ("target", "form"),
    [(CAT, ""), (CAT_URL, "https://acme-media.s3.eu-west-1.amazonaws.com/")],
)
def test_a_covered_target(presigner: Presigner, target: str, form: str) -> None:
    """O2: of a covered target it says the origin, the object, and the form that it was asked for in."""
    found = presigner.explain(target, "HEAD", {"VersionId": "3"}, 600)
    assert fields(found, "covered", "reason", "origin", "bucket", "key") == (
        *(True, "", "media"),
        *("acme-media", "public/cat.jpg"),
    )
    assert fields(found, "form", "method", "params", "lifetime") == (
        *(form, "HEAD"),
        *((("versionId", "3"),), 600),
    )
    assert (found.target, found.at) == (target, NOW)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("s3://other/a", {}),
        ("https://acme-media.s3.eu-west-1.amazonaws.com.evil.com/public/a", {}),
        ("s3://acme-media/private/a", {}),
        ("s3://acme-media/public/../private/a", {}),
        ("s3://acme-media/", {}),
        ("", {}),
        ("ftp://acme-media/public/a", {}),
        (f"{CAT_URL}?acl", {}),
        (f"{CAT_URL}?X-Amz-Signature=5e5e", {}),
        ("s3://acme-media/public/\ud800", {}),
        (CAT, {"method": "PUT"}),
        (CAT, {"method": "PATCH"}),
        (CAT, {"lifetime": 1}),
        (CAT, {"params": {"Range": "bytes=0-1"}}),
    ],
)
def test_a_target_that_is_refused(presigner: Presigner, target: str, options: dict[str, Any]) -> None:
    """O4: why not is told in the words of the error that url() raises, which names the origins."""
    with pytest.raises((NotCovered, ConfigurationError)) as refused:
        presigner.url(target, **options)
    found = presigner.explain(target, **options)
    assert fields(found, "covered", "reason", "caught") == (False, str(refused.value), False)
    assert str(refused.value) in str(found)
    assert str(refused.value) in found.short


def test_a_target_that_cannot_be_written(presigner: Presigner) -> None:
    """O4: an object whose text raises is no target, and is explained like any other."""

    class Unspeakable:
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert "Unspeakable" in presigner.explain(Unspeakable()).reason  # type: ignore[arg-type]


# Who signs, with what.


def test_nothing_is_known_yet(presigner: Presigner) -> None:
    """Before anything was signed nobody knows who would sign, nor with which keys."""
    found = presigner.explain(CAT)
    assert fields(found, "signer", "access_key", "tier", "state") == (
        *("unknown until something is signed", None),
        *("signer", None),
    )
    assert found.credentials == "a session"


def test_a_plan_signs(presigner: Presigner) -> None:
    """What a plan signs is said to be, with the lasting key."""
    presigner.url("s3://acme-media/public/dog.jpg")
    found = presigner.explain(CAT)
    assert fields(found, "signer", "signer_reason", "access_key", "credentials_end") == (
        *("plan", ""),
        *("AKIATEST", None),
    )


def test_boto3_signs(presigner: Presigner, monkeypatch: pytest.MonkeyPatch) -> None:
    """S1: what no plan can make boto3 is said to sign, and why."""

    def broken(*_: Any) -> Any:
        raise ValueError

    monkeypatch.setattr(signing, "Plan", broken)
    with pytest.raises(SigningError):  # which dates its URLs by another clock than the test's
        presigner.url(CAT)
    found = presigner.explain(CAT)
    assert found.signer == "boto3"
    assert "no plan" in found.signer_reason


def test_a_session(clock: Clock) -> None:
    """P3: of a session it says whose it is and when it ends, and that the URL ends with it."""
    sessions = Role(clock)
    presigner = Presigner(sessions.origin(), clock=clock)
    presigner.url("s3://media/a")
    found = presigner.explain("s3://media/a")
    assert fields(found, "access_key", "credentials_end", "credentials_reason") == (
        *("ASIATEST00000001", NOW + 3600),
        "credentials",
    )
    assert fields(found, "expires_at", "expires_reason", "remaining") == (NOW + 3600, "credentials", 3600)
    assert "role arn:aws:iam" in found.credentials


def test_an_assumed_session() -> None:
    """P10: of a session of which nobody knows the end, it says that the end is assumed."""
    presigner = media(session=SESSION)
    presigner.url(CAT)
    found = presigner.explain(CAT)
    assert fields(found, "credentials_end", "credentials_reason", "expires_reason") == (
        *(NOW + 900, "assumed"),
        "assumed",
    )
    assert "(assumed)" in str(found)


def test_a_session_that_ends_too_soon(clock: Clock) -> None:
    """P5: where a session can carry no URL any more and there is none newer, nobody is said to answer."""
    sessions = Role(clock)
    sessions.is_stuck = True
    presigner = Presigner(sessions.origin(policy=replace(A_DAY, min_remaining=300)), clock=clock)
    presigner.url("s3://media/a")
    clock.advance(3600 - 290)
    with pytest.raises(SigningError):
        presigner.url("s3://media/b")
    assert presigner.explain("s3://media/b").tier.startswith("nobody: its credentials end too soon")


def test_no_credentials(nobody: Presigner) -> None:
    """Where the source had none when it was asked last, nobody is said to answer, and why."""
    with pytest.raises(SigningError) as failed:
        nobody.url("s3://bare/a")
    found = nobody.explain("s3://bare/a")
    assert found.tier.startswith("nobody: no credentials were found")
    assert found.tier.removeprefix("nobody: ") in str(failed.value)
    assert nobody.explain("s3://acme-media/a").tier == "signer"


# What is held.


@pytest.mark.parametrize(
    ("seconds", "state", "tier"),
    [(0, "FRESH", "local"), (2939, "FRESH", "local"), (2941, "AGEING", "local"), (3301, "SPENT", "signer")],
)
def test_the_age_of_what_is_held(
    presigner: Presigner, clock: Clock, seconds: int, state: str, tier: str
) -> None:
    """P3: what is held is FRESH, AGEING or SPENT, and by that it answers or does not."""
    clock.advance(media().resolve(CAT).created_at - NOW + 2940)  # to the first instant of a window
    signed = presigner.resolve(CAT)
    clock.advance(seconds)
    found = presigner.explain(CAT)
    assert fields(found, "state", "tier") == (state, tier)
    born = signed.created_at
    assert fields(found, "dated", "fresh_until", "ageing_until") == (born, born + 2940, born + 3300)
    assert fields(found, "expires_at", "expires_reason", "remaining") == (
        *(born + 3600, "lifetime"),
        3600 - seconds,
    )


def test_a_clock_that_was_set_back(presigner: Presigner, clock: Clock) -> None:
    """P7: a URL whose time has really passed is SPENT, whatever the wall clock says."""
    presigner.url(CAT)
    clock.advance(3400)
    clock.step(-3400)
    assert presigner.explain(CAT).state == "SPENT"


def test_in_a_scope(presigner: Presigner) -> None:
    """D1: what the request has resolved it answers itself; nothing else."""
    presigner.url(CAT)
    with presigner.scope():
        assert presigner.explain(CAT).tier == "local"
        presigner.url(CAT)
        assert presigner.explain(CAT).tier == "scope"
    assert presigner.explain(CAT).tier == "local"


def test_uploads_are_never_held(fake: FakeMemcached, fleet: Fleet) -> None:
    """S3: what is signed each time anew is answered by the signer, also when it was signed just now."""
    presigner = fleet.member(fake.url, fleet.session("ASIAONE"), place={"methods": ("GET", "PUT")})
    assert presigner.explain("s3://media/a", "PUT").tier == "signer"
    presigner.url("s3://media/a", "PUT")
    assert fields(presigner.explain("s3://media/a", "PUT"), "tier", "state") == ("signer", None)


@pytest.mark.parametrize("take_back", [lambda p: p.invalidate(CAT), lambda p: p.revoke("media")])
def test_what_was_taken_back(
    presigner: Presigner, clock: Clock, take_back: Callable[[Presigner], None]
) -> None:
    """M6: since when an invalidation or a revocation is in force, and that what is held is none any more."""
    presigner.url(CAT)
    assert fields(presigner.explain(CAT), "epoch", "taken_back") == (None, False)
    take_back(presigner)
    found = presigner.explain(CAT)
    assert found.epoch is not None
    assert fields(found, "taken_back", "tier") == (True, "signer")
    assert 0 <= found.epoch - clock.time() <= 1
    presigner.url(CAT)
    assert fields(presigner.explain(CAT), "taken_back", "tier") == (False, "local")
    clock.advance(3700)
    assert presigner.explain(CAT).epoch is None  # nothing that it took back is alive


# The shared cache.


def test_a_shared_cache_that_is_up(memcached: Memcached, fleet: Fleet) -> None:
    """What this process does not hold is asked for in memcached first; what it holds is not."""
    presigner = fleet.member(memcached.url, fleet.session("ASIAONE"), namespace="shop")
    found = presigner.explain("s3://media/a")
    assert fields(found, "shared", "namespace", "tier") == ("up", "shop", "shared or signer")
    assert not found.epochs_known
    presigner.url("s3://media/a")
    assert fields(presigner.explain("s3://media/a"), "tier", "epochs_known") == ("local", True)
    assert presigner.explain("s3://media/b").tier == "shared or signer"


@pytest.mark.usefixtures("never_trying")
def test_a_shared_cache_that_is_down(fleet: Fleet, own: Memcached) -> None:
    """M1: while memcached is not asked because it failed, the signer answers."""
    presigner = bereft(fleet, own)
    assert fields(presigner.explain("s3://media/c"), "shared", "tier") == ("down", "signer")


@pytest.mark.parametrize(("reads", "tier"), [("always", "shared or signer"), ("auto", "signer")])
def test_where_all_sign_alike(fake: FakeMemcached, fleet: Fleet, reads: str, tier: str) -> None:
    """With shared_reads="auto" a static key's URLs are signed, and nobody is asked for them."""
    presigner = fleet.member(fake.url, fleet.static(), policy={"shared_reads": reads})
    presigner.url("s3://media/a")
    assert fields(presigner.explain("s3://media/b"), "shared", "tier") == ("up", tier)


def test_an_assumed_session_is_not_shared(fake: FakeMemcached) -> None:
    """P10: URLs whose end is a guess are not looked for in the shared cache."""
    presigner = Presigner(
        Origin("media", bucket="acme-media", session=SESSION), shared=fake.url, clock=Clock()
    )
    presigner.url(CAT)
    assert presigner.explain("s3://acme-media/b").tier == "signer"
    presigner.close()


@pytest.mark.parametrize("warm", [None, "scope", "local", "shared"])
def test_what_it_says_is_so(fake: FakeMemcached, fleet: Fleet, warm: str | None) -> None:
    """The tier that it names is the one that then answers."""
    one, other = (fleet.member(fake.url, fleet.session(name)) for name in ("ASIAONE", "ASIATWO"))
    with one.scope():
        if warm == "local":
            one.warm(["s3://media/a"])
        elif warm == "scope":
            one.url("s3://media/a")
        elif warm == "shared":
            other.url("s3://media/a")
            let_publish(other)
        tier, before = one.explain("s3://media/a").tier, one.stats()
        one.url("s3://media/a")
    (answered,) = [name for name in before if name.startswith("from_") and one.stats()[name] > before[name]]
    assert answered.removeprefix("from_") in tier


# Hooks.


def test_a_fetch_in_a_scope_is_caught(presigner: Presigner) -> None:
    """O6: inside a request a fetch of a covered object would be signed, outside of any it would not."""
    with presigner.scope():
        assert fields(presigner.explain(CAT), "caught", "caught_reason") == (True, "")
    found = presigner.explain(CAT)
    assert not found.caught
    assert "presigner.scope()" in found.caught_reason


def test_a_fetch_is_caught_everywhere(presigner: Presigner) -> None:
    """D7: with intercept(presigner=) a fetch outside any request would be signed too, by that presigner."""
    with intercept("httpx", presigner=presigner):
        assert presigner.explain(CAT).caught
        assert not media().explain(CAT).caught


def test_a_fetch_while_paused(presigner: Presigner) -> None:
    """O6: inside paused() nothing would be caught; url() signs there as ever."""
    with presigner.scope(), presigner.paused():
        found = presigner.explain(CAT)
        assert fields(found, "covered", "caught") == (True, False)
        assert "paused()" in found.caught_reason


def test_an_origin_for_links_only() -> None:
    """O6: a fetch from an Origin(catch=False) would not be caught."""
    presigner = media(catch=False)
    with presigner.scope():
        found = presigner.explain(CAT)
        assert not found.caught
        assert "catch=False" in found.caught_reason


def test_the_scope_of_another(presigner: Presigner) -> None:
    """In another presigner's request this one would catch nothing."""
    with media().scope():
        assert "another presigner" in presigner.explain(CAT).caught_reason


# What S3 has taught.


def test_what_was_learned(presigner: Presigner, monkeypatch: pytest.MonkeyPatch) -> None:
    """H1: what S3's answers have taught of the origin is told by name."""
    assert presigner.explain(CAT).learned == {}
    taught = {"media": {"region": "eu-central-1"}}
    monkeypatch.setattr(presigner.healing, "learned", taught.__getitem__)
    found = presigner.explain(CAT)
    assert found.learned == {"region": "eu-central-1"}
    assert "region: eu-central-1" in str(found)


# How it reads.


def test_it_reads_as_aligned_lines(presigner: Presigner) -> None:
    """A person gets about ten lines, whose texts begin in one column."""
    presigner.url(CAT)
    lines = str(presigner.explain(CAT)).splitlines()
    assert 10 <= len(lines) <= 12
    assert {line[12] for line in lines} == {" "}
    assert all(line[13] != " " for line in lines)


def test_the_short_form_is_one_line(presigner: Presigner) -> None:
    """A log gets one line, with the object, who answers, and with which keys."""
    presigner.url(CAT)
    short = presigner.explain(CAT).short
    assert len(short.splitlines()) == 1
    assert [word for word in (CAT, "media", "local", "FRESH", "AKIATEST") if word not in short] == []


def test_the_short_form_of_an_object(presigner: Presigner) -> None:
    """Whoever has the object itself gets the same line as for its target."""
    presigner.url(CAT)
    for target in (CAT, CAT_URL):
        obj = presigner._targets.named(target)
        assert presigner.explaining.short(obj) == presigner.explain(target).short


def test_an_explanation_is_a_value(presigner: Presigner) -> None:
    """It cannot be changed, and can be compared, hashed and pickled."""
    found = presigner.explain(CAT)
    with pytest.raises(FrozenInstanceError):
        found.tier = "local"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(found)) == found == presigner.explain(CAT)
    assert {found, presigner.explain(CAT)} == {found}


# It changes nothing.


@pytest.fixture
def busy(clock: Clock, fake: FakeMemcached) -> Iterator[tuple[Presigner, Role]]:
    """Return a presigner in the middle of its work, whose session is due, and the source of that."""
    sessions = Role(clock)
    presigner = Presigner(sessions.origin(methods=("GET", "PUT")), shared=fake.url, clock=clock)
    presigner.urls(["s3://media/a", "s3://media/b", "s3://media/c"])
    let_publish(presigner)
    presigner.invalidate("s3://media/c")
    clock.advance(Role.renews_at + 1)
    yield presigner, sessions
    presigner.close()


def explain_all(presigner: Presigner) -> None:
    """Explain what is held and what is not, in every way."""
    for key in ("a", "b", "c", "cold"):
        presigner.explain(f"s3://media/{key}")
        presigner.explain(f"https://media.s3.eu-west-1.amazonaws.com/{key}", "PUT")
        presigner.explain(f"s3://media/{key}", "GET", {"VersionId": "1"})
        presigner.explain(f"s3://media/{key}", lifetime=7200)  # whose plan is known
    presigner.explain("s3://other/a")


def test_nothing_is_counted(busy: tuple[Presigner, Role]) -> None:
    """Explaining leaves every counter as it was."""
    presigner, _ = busy
    before = presigner.stats()
    explain_all(presigner)
    assert presigner.stats() == before


def test_no_url_is_used(busy: tuple[Presigner, Role]) -> None:
    """Explaining marks no URL as used, names none, and leaves the table and its order as they were."""
    presigner, _ = busy
    table = presigner._table

    def state() -> list[Any]:
        entries = [(entry, entry.used, entry.alias) for entry in table._entries.values()]
        return [entries, list(table._queue), dict(table._aliases)]

    before = state()
    explain_all(presigner)
    assert state() == before


def test_a_scope_is_left_alone(busy: tuple[Presigner, Role]) -> None:
    """D6: explaining makes nothing the most recently used of a request, nor uses up its patience."""
    presigner, _ = busy
    with presigner.scope() as scope:
        presigner.urls(["s3://media/b", "s3://media/a"])  # another order than they are explained in
        assert scope.met is not None
        before = list(scope.met.items()), scope.left, scope._at_rest
        explain_all(presigner)
        assert (list(scope.met.items()), scope.left, scope._at_rest) == before


def test_no_source_is_asked(busy: tuple[Presigner, Role]) -> None:
    """P5: explaining asks for no credentials, though they are due, and begins nothing in the background."""
    presigner, sessions = busy
    source = source_of(presigner)
    before = vars(source).copy()
    explain_all(presigner)
    settle(presigner)
    assert len(sessions.asks) == 1
    assert vars(source) == before


def test_nothing_is_told(busy: tuple[Presigner, Role], caplog: pytest.LogCaptureFixture) -> None:
    """Explaining logs nothing."""
    caplog.set_level("DEBUG")
    explain_all(busy[0])
    assert caplog.records == []


def test_nothing_is_learned(busy: tuple[Presigner, Role]) -> None:
    """Explaining learns no plan, makes no recipe, reads no epoch and opens no flight."""
    presigner, _ = busy
    signs = presigner._signing.of("media")

    def state() -> list[Any]:
        epochs = presigner._epochs
        return [
            *(dict(signs._plans), dict(signs._recipes), signs._boto),
            *(epochs.version, epochs.good_until, dict(presigner._flights.aloft)),
        ]

    before = state()
    explain_all(presigner)
    assert state() == before


def test_no_server_is_asked(
    busy: tuple[Presigner, Role], fake: FakeMemcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Explaining opens no connection, starts no thread, and sends memcached nothing."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("explaining does no I/O")

    before = [*fake.commands]
    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(socket, "socket", refuse)
    explain_all(busy[0])
    assert fake.commands == before


def test_no_server_that_failed_is_probed(
    fleet: Fleet, own: Memcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1: explaining begins no probe, though it is time for one, and does not count as skipped."""
    presigner = bereft(fleet, own)
    (server,) = presigner._runner._sharing._shared._servers.each()  # type: ignore[union-attr]
    eventually(lambda: not server._connecting)
    server._retry_at = 0.0
    before = presigner.stats()
    monkeypatch.setattr(server, "_begin_to_connect", None)
    assert presigner.explain("s3://media/c").shared == "down"
    assert presigner.stats() == before


def test_no_nodes_are_asked_for() -> None:
    """M7: explaining does not ask for the nodes of a cluster; until somebody has, nothing is against them."""
    presigner = Presigner(
        Origin("media", bucket="acme-media", session=STATIC), shared="elasticache://127.0.0.1:1"
    )
    assert presigner.explain(CAT).shared == "up"
    discovery = presigner.explaining._shared._servers._discovery  # type: ignore[union-attr]
    assert discovery is not None
    assert not discovery.is_asking
    discovery.has_failed = True
    assert presigner.explain(CAT).shared == "down"


# Whatever the target.

SIGNATURE: Final = "5e" * 32
_HIDDEN: Final = [
    *(f"X-Amz-Signature={SIGNATURE}", f"X-Amz-Signature%3D{SIGNATURE}"),
    *(f"x-amz-security-token={quote(TOKEN, safe='')}", f"Signature={SIGNATURE}"),
]
_hostile = st.builds(
    "".join,
    st.lists(
        st.one_of(
            st.sampled_from(["s3://acme-media/public/", f"{CAT_URL}", "https://", "s3://", "//", "..", "/"]),
            st.sampled_from(["%2e%2e", "%2F", "%3F", "%26", "%", "\\", "\0", "\n", "@", ":", "?", "#", "&"]),
            st.sampled_from([f"{mark}{hidden}" for mark in ("?", "&", "%3F", "%26") for hidden in _HIDDEN]),
            st.text(st.characters(), max_size=5),  # surrogates too
        ),
        max_size=8,
    ),
)


@pytest.fixture(scope="module")
def hostile_presigner() -> Presigner:
    """Return one with a token, and with something signed."""
    presigner = media(session=SESSION)
    presigner.url(CAT)
    return presigner


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(target=_hostile)
def test_hostile_targets(hostile_presigner: Presigner, target: str) -> None:
    """O1, L1: it raises for no target, agrees with url(), fits on its lines, and tells no signature."""
    found, refused = hostile_presigner.explain(target), ""
    try:
        hostile_presigner.url(target)
    except NotCovered as error:
        refused = str(error)
    assert fields(found, "covered", "reason") == (not refused, refused)
    texts = [str(found), found.short, repr(found)]
    if found.covered:  # as a note on an error names it
        texts.append(hostile_presigner.explaining.short(hostile_presigner._targets.named(target)))
    for text in texts:
        assert SIGNATURE not in text
        assert quote(TOKEN, safe="") not in text
        assert text.isascii()
    assert "\n" not in "".join(texts[1:])
    assert len(str(found).splitlines()) <= 12


def test_no_signature_of_ours_is_told() -> None:
    """L1: of a URL that is held, and of one that was signed here, no signature, token or secret is told."""
    presigner = media(session=SESSION)
    url = presigner.url(CAT)
    signature = re.findall(r"X-Amz-Signature=(\w+)", url)[0]
    for target in (CAT, url, quote(url, safe=""), f"s3://acme-media/public/{url}"):
        found = presigner.explain(target)
        said = f"{found}{found.short}{found!r}"
        leaked = [part for part in (signature, SECRET, TOKEN, quote(TOKEN, safe="")) if part in said]
        assert leaked == []


# Notes on errors.

DOORS: Final[list[Callable[[Presigner], Any]]] = [
    lambda p: p.url("s3://bare/a"),
    lambda p: asyncio.run(p.aurl("s3://bare/a")),
    lambda p: p.urls(["s3://acme-media/b", "s3://bare/a"]),
    lambda p: asyncio.run(p.aurls(["s3://acme-media/b", "s3://bare/a"])),
    lambda p: p.resolve("s3://bare/a"),
    lambda p: asyncio.run(p.aresolve("s3://bare/a")),
    lambda p: p.refresh("s3://bare/a"),
    lambda p: asyncio.run(p.arefresh("s3://bare/a")),
    lambda p: p.warm(["s3://bare/a"]),
    lambda p: asyncio.run(p.awarm(["s3://bare/a"])),
    lambda p: caught(p, {}).sign("a client"),
    lambda p: asyncio.run(caught(p, {}).asign("a client")),
    lambda p: caught(p, {"x-amz-request-payer": "requester"}).sign("a client"),
    lambda p: asyncio.run(caught(p, {"x-amz-request-payer": "requester"}).asign("a client")),
]


def caught(presigner: Presigner, headers: dict[str, str]) -> Any:
    url = "https://bare.s3.eu-west-1.amazonaws.com/a"
    return presigner.catching.decide(url, "GET", headers, None).catch


def failed(attempt: Callable[[], Any]) -> SigningError:
    with pytest.raises(SigningError) as found:
        attempt()
    return found.value


@pytest.mark.parametrize("door", DOORS)
def test_an_error_is_explained(nobody: Presigner, door: Callable[[Presigner], Any]) -> None:
    """A SigningError carries one note, of the object that it is about, through whatever door it leaves."""
    (note,) = failed(lambda: door(nobody)).__notes__
    assert re.search(r"^GET \S+ of origin bare: answered by nobody: no credentials were found; ", note)
    assert "bare" in note.split()[1]


@pytest.mark.parametrize(
    "ask", [lambda p: p.url("s3://media/b"), lambda p: p.urls(["s3://static/a", "s3://media/b"])]
)
def test_an_error_of_the_quick_path_is_explained(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Presigner], Any]
) -> None:
    """So does one for which nobody had to be waited for."""
    sessions = Role(clock)
    sessions.is_stuck = True
    static = Origin("static", bucket="static", session=STATIC)
    presigner = Presigner(static, sessions.origin(policy=replace(A_DAY, min_remaining=300)), clock=clock)
    presigner.urls(["s3://media/a", "s3://static/b"])
    clock.advance(3600 - 290)
    failed(lambda: presigner.url("s3://media/a"))  # after which the source is left alone for a while
    monkeypatch.setattr(presigner._flights, "board", None)
    (note,) = failed(lambda: ask(presigner)).__notes__
    assert note.startswith(
        "GET s3://media/b of origin media: answered by nobody: its credentials end too soon"
    )


def test_those_who_wait_for_one_flight_have_notes_of_their_own(clock: Clock) -> None:
    """D2: each of those whom one failure reaches has an error with one note, in threads and in tasks."""
    sessions = Chain(clock)
    sessions.failure = RuntimeError()
    presigner = Presigner(sessions.origin(), clock=clock)
    with held(sessions):
        answers = in_threads(presigner, ["s3://media/a"] * 5, sessions.gate.set)

    async def ask() -> list[Any]:
        return await asyncio.gather(
            *[presigner.aurl("s3://media/a") for _ in range(5)], return_exceptions=True
        )

    every: list[list[Any]] = [answers, asyncio.run(ask())]
    for errors in every:
        assert [type(error) for error in errors] == [SigningError] * 5
        assert [len(error.__notes__) for error in errors] == [1] * 5
        assert len({id(error.__notes__) for error in errors}) == 5


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_an_error_can_be_copied(nobody: Presigner, copied: Callable[[SigningError], SigningError]) -> None:
    """A copy of an error, and one that went through a pickle, has its text and its note."""
    error = failed(lambda: nobody.url("s3://bare/a"))
    again = copied(error)
    assert (type(again), str(again), again.__notes__) == (SigningError, str(error), error.__notes__)


def test_nothing_is_explained_where_nothing_fails(
    presigner: Presigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL that can be signed costs no explanation."""
    monkeypatch.setattr(Explaining, "note", None)
    monkeypatch.setattr(Explaining, "_explained", None)
    presigner.url(CAT)
    presigner.urls([CAT, f"{CAT}.2"])
    asyncio.run(presigner.aurls([CAT, f"{CAT}.3"]))


def test_a_defect_does_not_take_the_place_of_the_error(
    nobody: Presigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If explaining fails, the error is raised all the same, without a note."""
    monkeypatch.setattr(Explaining, "_explained", None)
    assert not hasattr(failed(lambda: nobody.url("s3://bare/a")), "__notes__")
