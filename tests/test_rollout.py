"""A rollout: which requests use the cache, what the others get, and how it is switched off."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final

import boto3
import botocore.auth
import httpx
import pytest
from botocore.config import Config
from sources import A_DAY, Role, held, settle, signed_by
from stacks import Pets
from ways import SIGNED

from presign_middleware import ConfigurationError, Origin, Presigner, SigningError, intercept
from presign_middleware.account import Account
from presign_middleware.links import link
from presign_middleware.testing import Clock

NOW: Final = 1_767_268_800  # of a new Clock
CAT: Final = "s3://media/cat.jpg"
DEADLINE: Final = 20.0  # seconds after which a test that has gone wrong stops waiting
SECRET: Final = "a-secret-of-the-rollout"
SESSION: Final = boto3.Session("AKIATEST", SECRET, region_name="eu-west-1")

#: How an application asks for one URL.
ASKS: Final[dict[str, Callable[[Presigner, str], str]]] = {
    "url": lambda presigner, target: presigner.url(target),
    "aurl": lambda presigner, target: asyncio.run(presigner.aurl(target)),
    "urls": lambda presigner, target: presigner.urls([target])[0],
    "aurls": lambda presigner, target: asyncio.run(presigner.aurls([target]))[0],
    "resolve": lambda presigner, target: presigner.resolve(target).url,
    "link": lambda presigner, target: str(link(presigner, {"a": target}, "a")["a"]),
}
every_ask = pytest.mark.parametrize("ask", ASKS.values(), ids=list(ASKS))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give a clock that boto3 goes by, too."""
    clock = Clock()
    now = lambda *_: datetime.fromtimestamp(clock.time(), UTC)  # noqa: E731
    monkeypatch.setattr(botocore.auth, "get_current_datetime", now)
    return clock


def media(clock: Clock, rollout: float | os.PathLike[str] = 0.0, **options: Any) -> Presigner:
    given = {"bucket": "media", "session": SESSION, **options}
    return Presigner(Origin("media", **given), clock=clock, rollout=rollout)


def boto_url(operation: str = "get_object", expires: int = 3600, **params: Any) -> str:
    """Return what boto3 makes, told to sign as new regions want it."""
    config = Config(signature_version="s3v4", s3={"addressing_style": "virtual"})
    client = SESSION.client("s3", config=config)
    params = {"Bucket": "media", "Key": "cat.jpg", **params}
    return str(client.generate_presigned_url(operation, params, expires))


def counted(presigner: Presigner) -> tuple[int, int]:
    stats = presigner.stats()
    return stats["resolved_by_cache"], stats["resolved_by_boto3"]


def seeded(presigner: Presigner) -> Presigner:
    presigner._arms._chance = Random(7)
    return presigner


# --- what boto3's arm hands out -----------------------------------------------------------------------------


@every_ask
def test_boto3s_arm_is_boto3_byte_for_byte(clock: Clock, ask: Callable[[Presigner, str], str]) -> None:
    """S1: at the same second it is what boto3 makes; the next second it is another."""
    presigner = media(clock)
    first = ask(presigner, CAT)
    assert first == boto_url()
    clock.advance(1)
    assert first != ask(presigner, CAT) == boto_url()


def test_methods_parameters_and_lifetimes(clock: Clock) -> None:
    """S1, S3, S4: they are those of the call."""
    presigner = media(clock, methods=("GET", "HEAD", "PUT"))
    shown = {"ResponseContentDisposition": 'attachment; filename="ü .jpg"'}
    assert presigner.url(CAT, params=shown, lifetime=600) == boto_url(expires=600, **shown)
    assert presigner.url(CAT, "HEAD") == boto_url("head_object")
    assert presigner.url(CAT, "PUT") == boto_url("put_object")


@pytest.mark.parametrize("rollout", [0.0, 1.0])
def test_both_arms_cover_the_same(clock: Clock, rollout: float) -> None:
    """O4: what an origin does not hold is refused in the same words, in either arm."""
    presigner = media(clock, rollout, prefix="public/")
    with pytest.raises(Exception, match="no origin holds s3://media/private") as refused:
        presigner.url("s3://media/private")
    assert type(refused.value).__name__ == "NotCovered"


@every_ask
def test_boto3s_arm_keeps_nothing(clock: Clock, ask: Callable[[Presigner, str], str]) -> None:
    """Each call is signed by boto3, also the second of one request."""
    presigner = media(clock)
    with presigner.scope() as scope:
        ask(presigner, CAT)
        ask(presigner, CAT)
        assert not scope.met
    stats = presigner.stats()
    assert (stats["signed_by_boto3"], stats["from_signer"], stats["resolved"]) == (2, 2, 2)
    assert (len(presigner._table), stats["plans_proven"]) == (0, 0)


def test_what_is_known_of_its_urls(clock: Clock) -> None:
    """P9: dated now, with the whole lifetime before it."""
    found = media(clock).resolve(CAT, lifetime=600)
    assert (found.created_at, found.expires_at, found.expires_reason) == (NOW, NOW + 600, "lifetime")


def test_credentials_that_end_before_the_url(clock: Clock) -> None:
    """P5: a URL tells the end of the session that signed it; one that is about to end is renewed first."""
    role = Role(clock, seconds=3600)
    presigner = Presigner(role.origin(), clock=clock, rollout=0.0)
    found = presigner.resolve(CAT)
    assert (found.expires_at, found.expires_reason) == (NOW + 3600, "credentials")
    clock.advance(3590)
    assert presigner.resolve(CAT).expires_at == NOW + 3590 + 3600
    assert len(role.asks) == 2


def test_credentials_are_renewed_in_the_background(clock: Clock) -> None:
    """P5: those at hand sign while their source is asked for the next ones."""
    role = Role(clock)
    presigner = Presigner(role.origin(), clock=clock, rollout=0.0)
    presigner.url(CAT)
    clock.advance(role.renews_at + 1)
    with held(role):
        assert signed_by(presigner.url(CAT)) == "ASIATEST00000001"
    settle(presigner)
    assert signed_by(presigner.url(CAT)) == "ASIATEST00000002"


def test_no_credentials(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """P5, O5: SigningError, with the words and the note of the other arm, counted."""
    role = Role(clock)
    role.failure = RuntimeError(SECRET)
    presigner = Presigner(role.origin(policy=A_DAY), clock=clock, rollout=0.0)
    for ask in (presigner.url, lambda target: asyncio.run(presigner.aurl(target))):
        with pytest.raises(SigningError, match="origin 'media': its credential source failed") as refused:
            ask(CAT)
        assert "GET s3://media/cat.jpg of origin media" in refused.value.__notes__[0]
    assert (presigner.stats()["failed"], counted(presigner)) == (2, (0, 0))
    assert SECRET not in caplog.text


def test_boto3_never_signs_on_the_loop(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """D5: `aurl` and `aurls` have it done in another thread."""
    presigner, signers = media(clock), []
    sign = presigner._signing.sign_by_boto3

    def noted(*args: Any) -> Any:
        signers.append(threading.current_thread())
        return sign(*args)

    monkeypatch.setattr(presigner._signing, "sign_by_boto3", noted)

    async def ask() -> None:
        await presigner.aurl(CAT)
        assert len(await presigner.aurls([CAT, CAT])) == 2
        assert await presigner.aurls([]) == []

    asyncio.run(ask())
    assert len(signers) == 3
    assert threading.current_thread() not in signers


# --- who is in which arm ------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_of_requests_holds(clock: Clock, share: float) -> None:
    """Of 4,000 requests, and of calls outside of any, the share uses the cache."""
    presigner = seeded(media(clock, share))

    def arm_of_request() -> str:
        with presigner.scope():
            return presigner.arm

    for arms in ([arm_of_request() for _ in range(4_000)], [presigner.arm for _ in range(4_000)]):
        assert arms.count("cache") / 4_000 == pytest.approx(share, abs=0.025)


@every_ask
def test_a_request_is_wholly_in_one_arm(clock: Clock, ask: Callable[[Presigner, str], str]) -> None:
    """Whatever it asks for and how; and the scopes in it, its tasks and threads, and its links."""
    presigner = seeded(media(clock, 0.5))
    arms = set()
    for _ in range(12):
        before = counted(presigner)
        with presigner.scope():
            arm = presigner.arm
            for number in range(3):
                ask(presigner, f"s3://media/{number}")
            with presigner.scope():
                assert presigner.arm == arm
                ask(presigner, CAT)
            asyncio.run(asyncio.to_thread(ask, presigner, CAT))
        by_cache, by_boto3 = counted(presigner)
        assert (by_cache - before[0], by_boto3 - before[1]) == ((5, 0) if arm == "cache" else (0, 5))
        arms.add(arm)
    assert arms == {"cache", "boto3"}


def test_threads_of_one_request_agree(clock: Clock) -> None:
    """Whoever decides first decides for all: here another thread does, while this one is at it."""
    scope = media(clock, 0.5).scope()
    assert scope.arm(lambda: not scope.arm(lambda: True)) is True
    assert scope.arm(lambda: False) is True


def test_a_forked_child_draws_for_itself(clock: Clock) -> None:
    """Workers of one parent do not put their first, second, third request into the same arms."""
    presigner = media(clock, 0.5)
    before = presigner._arms._chance.getstate()
    presigner._open(presigner._epochs)  # as a child does
    assert presigner._arms._chance.getstate() != before
    assert presigner.rollout == 0.5


def test_a_seed_of_the_application_decides_nothing(clock: Clock) -> None:
    """An application that seeds `random` for each request does not put all of them into one arm."""
    import random

    presigner, arms = media(clock, 0.5), set()
    for _ in range(64):
        random.seed(1)
        arms.add(presigner.arm)
    assert arms == {"cache", "boto3"}


# --- what is counted ----------------------------------------------------------------------------------------


def test_both_arms_are_counted_and_timed(clock: Clock) -> None:
    """Each URL that is handed out is of one arm, and so is the time that was waited for it."""
    presigner = seeded(media(clock, 0.5))
    for _ in range(40):
        with presigner.scope():
            presigner.urls([CAT, "s3://media/dog.jpg"])
    stats = presigner.stats()
    assert stats["resolved_by_cache"] + stats["resolved_by_boto3"] == stats["resolved"] == 80
    assert stats["resolved_by_boto3"] == stats["signed_by_boto3"] > 0
    assert min(stats["nanoseconds_by_cache"], stats["nanoseconds_by_boto3"]) > 0
    assert {type(value) for value in stats.values()} == {int}


@every_ask
def test_a_response_tells_of_boto3s_urls(clock: Clock, ask: Callable[[Presigner, str], str]) -> None:
    """X1, X2: they count as signed, and no cache may keep a page for longer than they can be served."""
    presigner, account = media(clock), Account()
    with presigner.scope() as scope:
        scope.tell(account)
        ask(presigner, CAT)
        assert account.from_signer == 1
        assert account.left(clock.time(), clock.monotonic()) == 3300


def test_nothing_is_in_the_way_of_a_whole_rollout(clock: Clock) -> None:
    """At 1.0 no arm is drawn, nothing is timed, and the quick path is that of a presigner without one."""
    presigner = media(clock, 1.0)
    presigner.url(CAT)
    presigner.rollout = 0.5
    presigner.rollout = 1.0
    with presigner.scope() as scope:
        presigner.url(CAT)
        assert scope.is_by_boto3 is None
    runner = presigner._runner
    assert (presigner._arms.quick, presigner._arms.afind_all) == (runner.quick, runner.afind_all)
    assert presigner._by_alias == presigner._table.by_alias
    assert (counted(presigner), presigner.stats()["nanoseconds_by_cache"]) == ((0, 0), 0)


def test_explain_tells_the_arm(clock: Clock) -> None:
    """It says that boto3 answers, or may, and decides nothing itself."""
    presigner = seeded(media(clock, 0.5))
    assert presigner.explain(CAT).tier == "signer, or boto3. The arm is open, rollout=0.5"
    with presigner.scope() as scope:
        assert "or boto3" in presigner.explain(CAT).tier
        assert scope.is_by_boto3 is None
        scope.is_by_boto3 = True
        assert presigner.explain(CAT).tier == "boto3: this is the other arm of rollout=0.5"
        scope.is_by_boto3 = False
        assert presigner.explain(CAT).tier == "signer"
    presigner.rollout = 0.0
    assert presigner.explain(CAT).tier == "boto3: this is the other arm of rollout=0"


# --- caught fetches, and boto3's own links ------------------------------------------------------------------


@pytest.mark.parametrize("rollout", [0.0, 0.5, 1.0])
def test_both_arms_fetch_from_a_real_server(pets: Pets, rollout: float) -> None:
    """C1: caught fetches and links of either arm are served; the application sees the unsigned URL."""
    presigner = seeded(pets.presigner())
    presigner.rollout = rollout
    with intercept("httpx"), httpx.Client() as client:
        for _ in range(8):
            with presigner.scope():
                found = client.get(pets.cat)
            assert (found.text, str(found.url)) == ("a private cat", pets.cat)
    for target in (pets.cat, f"s3://{pets.bucket}/cats/cat.jpg"):
        assert httpx.get(presigner.url(target)).text == "a private cat"
    stats = presigner.stats()
    assert stats["caught"] == 8
    if rollout < 1:
        assert sum(counted(presigner)) == stats["resolved"]


def test_a_refused_fetch_is_not_healed(pets: Pets) -> None:
    """H1: boto3's arm does what boto3 does alone: the refusal is the application's."""
    wrong = boto3.Session(pets.server.access_key, "not-the-secret", region_name="us-east-1")
    origin = Origin("pets", bucket=pets.bucket, endpoint_url=pets.server.endpoint_url, session=wrong)
    presigner = Presigner(origin, rollout=0.0)
    with intercept("httpx"), presigner.scope(), httpx.Client() as client:
        assert client.get(pets.cat).status_code == 403
    stats = presigner.stats()
    assert (stats["signed"], stats["healed"], stats["unhealed"]) == (1, 0, 0)


def test_a_fallback_origin_is_asked_in_both_arms(pets: Pets) -> None:
    """H4: where an object is looked for is no business of the cache."""
    session = boto3.Session(pets.server.access_key, pets.server.secret_key, region_name="us-east-1")
    options: dict[str, Any] = {"endpoint_url": pets.server.endpoint_url, "session": session}
    pets.server.client().create_bucket(Bucket="empty")
    first = Origin("first", bucket="empty", fallback="second", **options)
    presigner = Presigner(first, Origin("second", bucket=pets.bucket, **options), rollout=0.0)
    with intercept("httpx"), presigner.scope(), httpx.Client() as client:
        found = client.get(f"{pets.server.endpoint_url}/empty/cats/cat.jpg")
    assert (found.text, presigner.stats()["resolved_by_boto3"]) == ("a private cat", 2)


@pytest.mark.parametrize("in_scope", [True, False])
def test_boto3s_own_links_are_left_to_it(clock: Clock, in_scope: bool) -> None:
    """C6: in boto3's arm the hook hands out nothing; what it leaves is counted."""
    presigner = media(clock)
    client = SESSION.client("s3", config=Config(signature_version="s3v4"))
    params = {"Bucket": "media", "Key": "cat.jpg"}
    theirs = client.generate_presigned_url("get_object", params)
    hooked = intercept("botocore", presigner=None if in_scope else presigner)
    with hooked, presigner.scope() if in_scope else nullcontext():
        assert [client.generate_presigned_url("get_object", params) for _ in range(3)] == [theirs] * 3
    stats = presigner.stats()
    assert (stats["left_to_boto3"], stats["caught"], stats["resolved"]) == (3, 0, 0)


# --- the switch ---------------------------------------------------------------------------------------------


@pytest.fixture
def switch(tmp_path: Path) -> Path:
    path = tmp_path / "rollout"
    path.write_text("1\n")
    return path


@every_ask
def test_zero_holds_at_once(clock: Clock, ask: Callable[[Presigner, str], str]) -> None:
    """Also for a request under way, in the cache's arm, that holds the URL already; and so does 1."""
    presigner = media(clock, 1.0)
    with presigner.scope() as scope:
        assert scope.arm(lambda: False) is False
        kept = ask(presigner, CAT)
        clock.advance(60)
        presigner.rollout = 0.0
        assert kept != ask(presigner, CAT) == boto_url()
        presigner.rollout = 1
        assert kept == ask(presigner, CAT)


@every_ask
def test_the_file_is_read_every_two_seconds(
    clock: Clock, switch: Path, ask: Callable[[Presigner, str], str]
) -> None:
    """What it says is done by running requests, and calls outside of any, within two seconds."""
    presigner = media(clock, switch)
    kept = ask(presigner, CAT)
    switch.write_text("0\n")
    assert kept == ask(presigner, CAT)
    clock.advance(2)
    assert kept != ask(presigner, CAT) == boto_url()
    switch.write_text(" 1.0 ")
    clock.advance(2)
    assert (kept == ask(presigner, CAT), presigner.rollout) == (True, 1.0)
    assert counted(presigner) == (0, 1)  # at 1 nothing is counted or timed, with a file neither


def test_the_file_may_be_replaced(clock: Clock, switch: Path) -> None:
    """As Kubernetes does with a ConfigMap, and editors do; its times tell nothing."""
    presigner, times = media(clock, switch), switch.stat()
    new = switch.with_name("new")
    new.write_text("0\n")
    os.utime(new, ns=(times.st_atime_ns, times.st_mtime_ns))
    new.replace(switch)
    clock.advance(2)
    assert presigner.arm == "boto3"


def test_who_spoke_last_is_heard(clock: Clock, switch: Path) -> None:
    """What the program says holds until the file says something else."""
    presigner = media(clock, switch)
    presigner.rollout = 0.5
    clock.advance(2)
    assert presigner.arm in ("cache", "boto3")  # which has it look at the file
    assert presigner.rollout == 0.5
    switch.write_text("0")
    clock.advance(2)
    assert (presigner.arm, presigner.rollout) == ("boto3", 0.0)


@pytest.mark.parametrize("text", ["", "2", "-1", "nan", "off", SECRET, None])
def test_a_file_that_cannot_be_read_changes_nothing(
    clock: Clock, switch: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """L1: it is told once, without what is in the file, which may be another one."""
    presigner = media(clock, switch)
    switch.unlink() if text is None else switch.write_text(text)
    for _ in range(3):
        clock.advance(2)
        assert presigner.arm == "cache"
    (record,) = [one for one in caplog.records if one.name == "presign_middleware.rollout"]
    assert (vars(record)["presign_event"], vars(record)["presign_share"]) == ("rollout_unreadable", 1.0)
    assert str(switch) in record.getMessage()
    assert SECRET not in f"{record.getMessage()} {vars(record)}"
    switch.write_text("0")
    clock.advance(2)
    assert presigner.arm == "boto3"


def test_a_change_is_told(clock: Clock, switch: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever throws the switch sees it in the log of each process, once."""
    presigner = media(clock, switch)
    for text in ("1.0", "0", "0.0"):
        switch.write_text(text)
        clock.advance(2)
        assert presigner.arm == ("cache" if text == "1.0" else "boto3")
    (record,) = [one for one in caplog.records if one.name == "presign_middleware.rollout"]
    assert (record.levelno, vars(record)["presign_share"]) == (logging.WARNING, 0.0)
    assert vars(record)["presign_event"] == "rollout_changed"


_PROCESS: Final = """
import json, sys, threading, asyncio
from pathlib import Path
import boto3
from presign_middleware import Origin, Presigner, rollout
rollout._EVERY = 0.01
session = boto3.Session("AKIATEST", "secret", region_name="eu-west-1")
presigner = Presigner(Origin("media", bucket="media", session=session), rollout=Path(sys.argv[1]))
ended = threading.Event()

def work(arms):
    with presigner.scope():  # one that never ends
        while not ended.wait(0.002):
            presigner.url("s3://media/a")
            arms[0] = presigner.arm

async def main():
    async with presigner.scope():
        while not ended.is_set():
            await presigner.aurl("s3://media/a")
            arms[1][0] = presigner.arm
            await asyncio.sleep(0.002)

arms = [[""], [""]]
loop = threading.Thread(target=asyncio.run, args=(main(),))
threads = [threading.Thread(target=work, args=(arms[0],)), loop]
for thread in threads:
    thread.start()
print("ready", flush=True)
for wanted in sys.stdin:
    while [arms[0][0], arms[1][0]] != [wanted.strip()] * 2:
        ended.wait(0.002)
    print(json.dumps([arms[0][0], arms[1][0]]), flush=True)
ended.set()
"""


def test_the_switch_is_seen_by_every_process(switch: Path) -> None:
    """Of one host, in its threads and on its loops, in requests that never end; nobody is deployed."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(switch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    watchdog = threading.Timer(DEADLINE, lambda: list(map(subprocess.Popen.kill, running)))
    watchdog.start()
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for share, arm in (("1", "cache"), ("0", "boto3"), ("1", "cache")):
            switch.write_text(share)
            for process in running:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(f"{arm}\n")
                process.stdin.flush()
                assert json.loads(process.stdout.readline()) == [arm, arm]
    finally:
        for process in running:
            process.communicate()
        watchdog.cancel()


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [-0.1, 1.1, float("nan"), True, "0.5", None, 10])
def test_what_is_no_share_is_refused(clock: Clock, said: Any) -> None:
    """The message names what was given and what is wanted, at start-up and later."""
    presigner = media(clock, 0.5)
    for refuse in (lambda: media(clock, said), lambda: setattr(presigner, "rollout", said)):
        with pytest.raises(ConfigurationError, match="from 0 to 1") as refused:
            refuse()
        assert repr(said) in str(refused.value)
    assert presigner.rollout == 0.5


@pytest.mark.parametrize("text", ["2", "on", "", SECRET, None])
def test_a_file_that_is_no_share_is_refused(clock: Clock, switch: Path, text: str | None) -> None:
    """L1: at start-up, naming the file, and not what is in it."""
    switch.unlink() if text is None else switch.write_text(text)
    with pytest.raises(ConfigurationError, match="from 0 to 1") as refused:
        media(clock, switch)
    assert str(switch) in str(refused.value)
    assert SECRET not in str(refused.value)


def test_the_environment(monkeypatch: pytest.MonkeyPatch, switch: Path) -> None:
    """PRESIGN_ROLLOUT is a number, PRESIGN_ROLLOUT_FILE a path; both together are refused."""
    monkeypatch.setenv("PRESIGN_ORIGINS", "media=s3://media/?region=eu-west-1")
    monkeypatch.setenv("PRESIGN_ROLLOUT", "0.25")
    assert Presigner.from_env().rollout == 0.25
    monkeypatch.setenv("PRESIGN_ROLLOUT_FILE", str(switch))
    with pytest.raises(ConfigurationError, match="either PRESIGN_ROLLOUT or PRESIGN_ROLLOUT_FILE"):
        Presigner.from_env()
    monkeypatch.delenv("PRESIGN_ROLLOUT")
    assert Presigner.from_env().rollout == 1.0
    monkeypatch.setenv("PRESIGN_ROLLOUT", "all")
    monkeypatch.delenv("PRESIGN_ROLLOUT_FILE")
    with pytest.raises(ConfigurationError, match="PRESIGN_ROLLOUT must be a number, got 'all'"):
        Presigner.from_env()


def test_nothing_leaks(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """L1: no record holds a signature or a secret, and no repr."""
    caplog.set_level(logging.DEBUG)
    presigner = media(clock)
    found = presigner.resolve(CAT)
    presigner.rollout = 0.5
    texts = [f"{one.getMessage()} {vars(one)!r}" for one in caplog.records]
    assert [
        text for text in [*texts, repr(found), repr(presigner)] if SIGNED.search(text) or SECRET in text
    ] == []
