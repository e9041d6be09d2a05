"""The command line: what its commands do and print, and what the doctor finds. Servers are real."""

import contextlib
import io
import json
import re
import shlex
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.credentials import RefreshableCredentials
from clients import tunnels
from fleet import boto_session
from memcacheds import Authority
from pymemcache.client.base import Client  # type: ignore[import-untyped]
from ways import ACCESS_KEY, SECRET_KEY, SIGNED, Door, opened, origin

from presign_middleware import Policy, Presigner, doctor
from presign_middleware import memcached as memcached_room
from presign_middleware.__main__ import main
from presign_middleware.doctor import Finding, examine
from presign_middleware.testing import Clock, Memcached, Oracle

PAGE: Final = Path(__file__).parent.parent / "docs" / "how-to" / "command-line.md"
CAT: Final = "s3://media/cat.jpg"

pytestmark = pytest.mark.usefixtures("nothing_leaks")


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Give what runs a command in an environment with the door's keys, and nothing configured."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    for name in ("PRESIGN_ORIGINS", "PRESIGN_SHARED", "COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        monkeypatch.setattr(Presigner, "_from_env", {})  # as a process that has just begun
        try:
            code = main(arguments)
        except SystemExit as end:  # of argparse
            code = int(str(end.code))
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def door() -> Iterator[Door]:
    """Give a strict S3 on the real clock, which is that of a presigner of the environment."""
    with opened(Door()) as door:
        yield door


@pytest.fixture
def configured(door: Door, run: Run, monkeypatch: pytest.MonkeyPatch) -> Door:
    """Have the environment describe an origin at the door."""
    monkeypatch.setenv("PRESIGN_ORIGINS", f"media=s3://media/?region=eu-west-1&endpoint_url={door.base}")
    return door


@pytest.fixture
def shared(configured: Door, memcached: Memcached, monkeypatch: pytest.MonkeyPatch) -> Memcached:
    """Have it describe a memcached too."""
    monkeypatch.setenv("PRESIGN_SHARED", memcached.url)
    return memcached


@contextlib.contextmanager
def other(door: Door, memcached: Memcached) -> Iterator[Presigner]:
    """Give another process's presigner, of the same keys."""
    session = boto3.Session(ACCESS_KEY, SECRET_KEY, region_name="eu-west-1")
    presigner = Presigner(
        origin(door, session=session), shared=memcached.url, policy=Policy(shared_patience=5)
    )
    yield presigner
    presigner.close()


# --- url ----------------------------------------------------------------------------------------------------


def test_url_prints_a_url_that_s3_takes_for_each_target(configured: Door, run: Run) -> None:
    ran = run("url", CAT, "s3://media/dog.jpg")
    urls = ran.out.splitlines()
    assert (ran.code, ran.err, [urlsplit(url).path for url in urls]) == (
        0,
        "",
        ["/media/cat.jpg", "/media/dog.jpg"],
    )
    assert [doctor._fetched(url, "GET").status for url in urls] == [200, 404]


def test_url_takes_method_lifetime_and_parameters(configured: Door, run: Run) -> None:
    ran = run(
        "url", CAT, "--method", "HEAD", "--lifetime", "120", "--param", "ResponseContentType=text/plain"
    )
    query = parse_qs(urlsplit(ran.out.strip()).query)
    assert (query["X-Amz-Expires"], query["response-content-type"]) == (["120"], ["text/plain"])
    assert doctor._fetched(ran.out.strip(), "HEAD").status == 200


def test_url_tells_of_a_target_that_is_not_covered_and_signs_the_others(configured: Door, run: Run) -> None:
    ran = run("url", "s3://strange/key", CAT)
    assert ran.code == 1
    assert len(ran.out.splitlines()) == 1
    assert ran.err.startswith("presign-middleware: no origin holds s3://strange/key; origins: media")


def test_url_as_json_says_until_when(configured: Door, run: Run) -> None:
    (told,) = run("url", "--json", CAT).json
    assert (told["original_url"], told["expires_reason"]) == (CAT, "lifetime")
    assert told["expires_at"] == told["created_at"] + 3600


def test_the_help_of_url_says_that_urls_are_bearer_credentials(run: Run) -> None:
    assert "They are bearer credentials" in run("url", "--help").out


# --- what it runs with --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["url", CAT], "there is no presigner: give presigner=Presigner(...), or set PRESIGN_ORIGINS"),
        (["url", CAT, "--app", "nowhere"], "--app must look like module:attribute, got nowhere"),
        (["url", CAT, "--app", "no_such_module:it"], "--app no_such_module:it is not there: No module named"),
        (["url", CAT, "--app", "json:dumps"], "--app json:dumps is a function, wanted a Presigner"),
    ],
)
def test_what_cannot_work_is_told_in_a_sentence_and_is_2(run: Run, arguments: list[str], said: str) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"presign-middleware: {said}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--method", "POST"],
        ["--lifetime", "5"],
        ["--lifetime", "soon"],
        ["--param", "nothing"],
        ["--param", "Range=1"],
        ["--unheard-of"],
    ],
)
def test_arguments_that_cannot_work_are_2(configured: Door, run: Run, arguments: list[str]) -> None:
    ran = run("url", CAT, *arguments)
    assert (ran.code, ran.out) == (2, "")


def test_app_names_the_presigner_of_an_application(
    door: Door, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = ModuleType("an_application")
    module.web = SimpleNamespace(presigner=Presigner(origin(door)))
    monkeypatch.setitem(sys.modules, "an_application", module)
    assert run("url", CAT, "--app", "an_application:web.presigner").code == 0


def test_without_rich_tables_are_told_to_need_it_and_json_does_not(
    configured: Door, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    ran = run("doctor")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        'presign-middleware: tables need rich: pip install "presign-middleware[cli]"; --json does without\n'
    )
    assert run("doctor", "--json").code == 0


def test_a_pipe_gets_a_line_for_each_finding_and_no_escapes(configured: Door, run: Run) -> None:
    lines = run("doctor", "--sample", CAT).out.splitlines()
    assert len(lines) == 7
    assert [line for line in lines if line != line.rstrip()] == []
    assert [line for line in lines if not re.match(r"(ok|warning|failure)  ", line)] == []
    assert "\x1b" not in "".join(lines)


def test_no_color_is_respected_on_a_terminal(
    configured: Door, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[32mok" in run("doctor").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32mok" not in run("doctor").out


# --- explain, warm, invalidate, revoke, stats ---------------------------------------------------------------


def test_explain_knows_the_credentials_and_what_was_taken_back(
    shared: Memcached, configured: Door, run: Run
) -> None:
    with other(configured, shared) as presigner:
        presigner.revoke("media")
    ran = run("explain", CAT)
    assert (ran.code, ran.err) == (0, "")
    assert f"boto3's default chain: {ACCESS_KEY}, without an end" in ran.out
    assert "taken back   what was signed before" in ran.out
    assert run("explain", "--json", CAT).json["access_key"] == ACCESS_KEY


def test_explain_is_1_for_what_would_not_be_signed(configured: Door, run: Run) -> None:
    assert run("explain", "s3://strange/key").code == 1


@pytest.mark.parametrize("source", ["target", "file", "stdin"])
def test_warm_has_other_processes_find_the_urls(
    shared: Memcached,
    configured: Door,
    run: Run,
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    targets = [f"s3://media/{number}" for number in range(3)]
    text = "\n".join(["", *targets, ""])
    (tmp_path / "targets").write_text(text)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    given = {"target": targets, "file": [str(tmp_path / "targets")], "stdin": ["-"]}[source]
    ran = run("warm", *given)
    assert ran == (0, "3 targets, 3 signed, 0 found, 0 failed\n", "")
    with other(configured, shared) as presigner:
        presigner.urls(targets)
        assert presigner.stats()["from_shared"] == 3


def test_warm_tells_what_it_could_not(shared: Memcached, run: Run) -> None:
    ran = run("warm", CAT, "s3://strange/key", "--json")
    assert (ran.code, ran.json) == (1, {"targets": 2, "signed": 1, "found": 0, "failed": 1})
    assert "no origin holds s3://strange/key" in ran.err
    assert run("warm", "no-such-file").code == 2


def test_warm_shows_a_bar_on_a_terminal_alone(
    shared: Memcached, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "warming" not in run("warm", CAT).err
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "warming" in run("warm", CAT).err


@pytest.mark.parametrize("arguments", [["invalidate", CAT], ["revoke", "media"]])
def test_what_is_taken_back_is_so_in_other_processes(
    shared: Memcached, configured: Door, run: Run, arguments: list[str]
) -> None:
    """M6."""
    with other(configured, shared) as presigner:
        before = presigner.url(CAT)
    assert run(*arguments).code == 0
    with other(configured, shared) as presigner:
        assert presigner.url(CAT) != before


def test_an_origin_or_a_target_that_nobody_has_is_told(shared: Memcached, run: Run) -> None:
    assert run("revoke", "nobody") == (
        2,
        "",
        "presign-middleware: no origin is called 'nobody'; known are media\n",
    )
    assert run("invalidate", "s3://strange/key").code == 1


@pytest.mark.parametrize("arguments", [["warm", CAT], ["invalidate", CAT], ["revoke", "media"]])
def test_where_memcached_is_dead_it_is_1_and_where_there_is_none_it_is_2(
    shared: Memcached, run: Run, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.stop()
    ran = run(*arguments)
    assert ran.code == 1
    assert "presign-middleware: " in ran.err
    monkeypatch.delenv("PRESIGN_SHARED")
    assert run(*arguments).code == 2


def test_stats_tells_of_each_server_and_of_this_process(shared: Memcached, run: Run) -> None:
    told = run("stats", "--json").json
    (server,) = told["memcached"]
    assert (server["server"], server["version"]) == (shared.address, shared.stats()["version"])
    assert told["processes"]["this process"]["resolved"] == 0
    assert shared.address in run("stats").out
    shared.stop()
    dead = run("stats")
    assert dead.code == 1
    assert "no answer (ConnectionRefusedError)" in dead.out


def test_stats_tells_of_the_processes_that_leave_a_note(shared: Memcached, run: Run) -> None:
    """Those with the live page, or with PRESIGN_DASHBOARD=1, as the page does."""
    with contextlib.closing(Presigner.from_env()) as other:
        other.url("s3://media/a")
        other.presence._tell(other.shared)  # type: ignore[arg-type]  # it has one
        told = run("stats", "--json").json["processes"]
    assert [counts["resolved"] for counts in told.values()] == [0, 1]


# --- doctor -------------------------------------------------------------------------------------------------


def found(presigner: Presigner, *samples: str) -> dict[str, Finding]:
    """Return what the doctor finds, by what it is about; the last of each."""
    return {finding.what: finding for finding in examine(presigner, samples)}


def levels(presigner: Presigner, *samples: str) -> set[tuple[str, str]]:
    """Return what is not good, and how bad it is."""
    findings = examine(presigner, samples)
    return {(one.what, one.level) for one in findings if one.level != "ok"}


def at(door: Door, **options: Any) -> Presigner:
    return Presigner(origin(door, **options))


def test_where_all_is_well_nothing_is_found(shared: Memcached, run: Run) -> None:
    ran = run("doctor", "--json", "--strict")
    assert (ran.code, [one for one in ran.json if one["level"] != "ok"]) == (0, [])
    assert [one["what"] for one in ran.json] == [
        *("lifetime of media", "credentials of media", "region of media", "clock of media"),
        *("access to media", f"memcached {shared.address}", "sharing"),
    ]


def test_a_failure_is_1_and_a_warning_only_where_one_is_strict(configured: Door, run: Run) -> None:
    assert run("doctor", "--sample", CAT).code == 0
    assert run("doctor", "--sample", CAT, "--strict").code == 1
    assert run("doctor", "--sample", "s3://media/gone").code == 1


def test_the_doctor_writes_nothing(shared: Memcached, configured: Door, run: Run) -> None:
    before = shared.stats()
    run("doctor", "--sample", CAT)
    assert {request.method for request in configured.arrived} == {"GET", "HEAD"}
    after = shared.stats()
    assert [(after[name], after["curr_items"]) for name in ("cmd_set", "cmd_touch", "cmd_flush")] == [
        (before[name], before["curr_items"]) for name in ("cmd_set", "cmd_touch", "cmd_flush")
    ]


def test_no_command_but_url_prints_a_signature(shared: Memcached, configured: Door, run: Run) -> None:
    """L1."""
    signed = run("url", CAT).out.strip()
    for arguments in (
        ["explain", CAT],
        ["explain", "--json", signed],
        ["warm", CAT, signed],
        ["stats"],
        ["doctor", "--sample", CAT, "--sample", signed],
        ["doctor", "--json", "--sample", CAT, "--sample", signed],
        ["invalidate", CAT, signed],
    ):
        ran = run(*arguments)
        assert not SIGNED.search(ran.out + ran.err), arguments


def test_a_stopped_memcached_is_named(shared: Memcached, run: Run) -> None:
    shared.stop()
    ran = run("doctor")
    assert ran.code == 1
    assert re.search(rf"failure  memcached {shared.address} +no answer \(ConnectionRefusedError\)", ran.out)


def test_a_memcached_that_says_nothing_is_named(
    door: Door, memcached: Memcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memcached_room, "_CONNECT_WITHIN", 0.1)
    memcached.freeze()
    finding = found(Presigner(origin(door), shared=memcached.url))[f"memcached {memcached.address}"]
    assert (finding.level, finding.detail) == ("failure", "no answer (TimeoutError)")


@pytest.mark.usefixtures("never_trying")
def test_a_memcached_that_this_process_asks_for_nothing_is_named(door: Door, memcached: Memcached) -> None:
    """M1: the breaker."""
    presigner = Presigner(origin(door), shared=memcached.url, policy=Policy(shared_patience=5))
    memcached.stop()
    presigner.url(CAT)
    what = f"memcached {memcached.address}"
    assert "; this process does not ask it at present" in found(presigner)[what].detail
    memcached.start()
    assert found(presigner)[what].detail == "answers again, and this process has yet to notice"
    presigner.close()


def test_an_endpoint_that_tells_of_no_servers_is_named(door: Door, memcached: Memcached) -> None:
    """M7."""
    shared = f"elasticache://{memcached.address}"  # which is no cluster
    assert ("memcached", "failure") in levels(Presigner(origin(door), shared=shared))


def test_a_memcached_that_pushes_entries_out_is_named() -> None:
    with Memcached(memory=1) as small, opened(Door()) as door:
        client = Client(small.address)
        for number in range(40):
            client.set(str(number), b"x" * 100_000, noreply=False)
        client.close()
        presigner = Presigner(origin(door), shared=small.url)
        finding = found(presigner)[f"memcached {small.address}"]
        presigner.close()
    assert (finding.level, finding.cure) == ("warning", "give it more memory (-m)")


def test_what_goes_to_another_host_in_clear_is_named(door: Door, memcached: Memcached) -> None:
    """K5."""
    # Linux takes it for this machine, and no parser does.
    where = f"memcached://0.0.0.0:{memcached.port}"
    name = (f"memcached 0.0.0.0:{memcached.port}", "warning")
    assert name in levels(Presigner(origin(door), shared=where))
    assert name not in levels(Presigner(origin(door), shared=where, secret="s3cret" * 8))


def test_epochs_that_were_sealed_with_another_secret_are_named(door: Door, memcached: Memcached) -> None:
    """K5, M9."""
    one, two = (Presigner(origin(door), shared=memcached.url, secret=text * 32) for text in ("ab", "cd"))
    one.revoke("media")
    assert found(two)[f"memcached {memcached.address}"].detail == "what was taken back cannot be read"
    assert found(one)[f"memcached {memcached.address}"].level == "ok"
    one.close()


def test_a_wrong_region_is_named_with_the_right_one(door: Door) -> None:
    presigner = at(door, region="eu-central-1")
    findings = found(presigner)
    assert findings["region of media"].level == "failure"
    assert findings["region of media"].detail == "configured is eu-central-1, and the bucket is in eu-west-1"
    assert findings["access to media"].level == "ok"
    assert presigner.explain(CAT).learned == {}


def test_what_the_doctor_finds_is_not_logged_besides(
    door: Door, run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"media=s3://media/?region=eu-central-1&endpoint_url={door.base}"
    monkeypatch.setenv("PRESIGN_ORIGINS", where)
    assert run("doctor").code == 1
    assert [one.name for one in caplog.records if one.name.startswith("presign_middleware")] == []


@pytest.mark.parametrize(
    ("seconds", "level", "said"),
    [
        (-7200, "failure", "7200 s behind S3's (told over plain http: shown, not trusted): S3 refuses"),
        (7200, "failure", "7200 s ahead of S3's"),
        (30, "warning", "30 s ahead of S3's (told over plain http: shown, not trusted)"),
        (0, "ok", "this host's is S3's"),
    ],
)
def test_a_wrong_clock_is_named(s3_clock: Clock, seconds: int, level: str, said: str) -> None:
    """H3, over plain http: by so much that S3 refuses its URLs wherever in a window they are dated."""
    with opened(Door(clock=s3_clock)) as door:
        presigner = Presigner(origin(door), clock=Clock(s3_clock.time() + seconds))
        finding = found(presigner)["clock of media"]
    assert finding.level == level
    assert said in finding.detail


def test_over_https_the_clock_is_trusted(
    s3_clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H3."""
    authority = Authority(tmp_path)
    certificate, key = authority.certify("media.s3.eu-west-1.amazonaws.com")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.file))
    doctor._opener.cache_clear()
    with opened(Door(clock=s3_clock)) as door, tunnels(door, tls) as (proxy, _):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        presigner = Presigner(replace(origin(door), endpoint_url=None), clock=Clock(s3_clock.time() - 120))
        finding = found(presigner)["clock of media"]
    doctor._opener.cache_clear()
    assert (finding.level, finding.detail) == ("failure", "this host's is 120 s behind S3's")


def test_temporary_credentials_that_have_ended_are_named(door: Door) -> None:
    """P10: S3 says it, where nobody else knows."""
    door.add_key("ASIAENDED", "secret", token="a-token", ends=door.clock.time() - 1)
    session = boto3.Session("ASIAENDED", "secret", "a-token", region_name="eu-west-1")
    finding = found(at(door, session=session))["credentials of media"]
    assert finding.level == "failure"
    assert finding.detail == "a session: ASIAENDED: S3 refuses them (ExpiredToken)"
    assert finding.cure.startswith("get new ones")


def ending_in(seconds: float, door: Door) -> boto3.Session:
    """Return a session of *seconds*, whose source has no other one."""
    end = door.clock.time() + seconds
    door.add_key("ASIASESSION", "secret", token="a-token", ends=end)

    ends = datetime.fromtimestamp(end, UTC)
    again = {
        "access_key": "ASIASESSION",
        "secret_key": "secret",
        "token": "a-token",
        "expiry_time": ends.isoformat(),
    }
    return boto_session(
        RefreshableCredentials("ASIASESSION", "secret", "a-token", ends, lambda: again, "test")
    )


@pytest.mark.parametrize(
    ("seconds", "level", "said"),
    [
        (-5, "failure", "its credential source failed"),
        (200, "warning", "too short for min_remaining"),
        (1800, "warning", "URLs end with them, before their lifetime"),
        (43_200, "ok", "ASIASESSION until "),
    ],
)
def test_the_end_of_credentials_is_held_against_the_policy(
    door: Door, seconds: float, level: str, said: str
) -> None:
    """P5."""
    finding = found(at(door, session=ending_in(seconds, door)))["credentials of media"]
    assert finding.level == level
    assert said in finding.detail


def test_a_session_whose_end_nobody_knows_is_told(door: Door) -> None:
    """P10."""
    door.add_key("ASIAENV", "secret", token="a-token")
    session = boto3.Session("ASIAENV", "secret", "a-token", region_name="eu-west-1")
    finding = found(at(door, session=session))["credentials of media"]
    assert finding.level == "warning"
    assert "taken to live 900 s" in finding.detail


def test_keys_that_s3_does_not_know_are_named(door: Door) -> None:
    session = boto3.Session("AKIASTRANGE", "secret", region_name="eu-west-1")
    finding = found(at(door, session=session))["credentials of media"]
    assert (finding.level, finding.detail) == (
        "failure",
        "a session: AKIASTRANGE: S3 refuses them (InvalidAccessKeyId)",
    )


def test_no_credentials_at_all_are_named(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = found(at(door, session=boto3.Session(region_name="eu-west-1")))["credentials of media"]
    assert finding.level == "failure"
    assert "no credentials were found" in finding.detail


def test_keys_that_may_not_list_are_named_unless_the_origin_says_so(door: Door) -> None:
    """H4."""
    door.create_bucket("hidden", region="eu-west-1", listable=False)
    finding = found(at(door, bucket="hidden"))["access to media"]
    assert (finding.level, finding.detail) == ("warning", "403 AccessDenied for a key that is not there")
    assert "hides_misses=True" in finding.cure
    assert levels(at(door, bucket="hidden", hides_misses=True)) == set()


def test_a_bucket_that_is_not_there_is_named(door: Door) -> None:
    assert levels(at(door, bucket="nowhere")) == {("access to media", "failure")}


def test_an_endpoint_that_does_not_answer_is_named(door: Door) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    finding = found(at(door, endpoint_url=f"http://127.0.0.1:{port}"))["access to media"]
    assert finding.level == "failure"
    assert "Connection refused" in finding.detail


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (Policy(signature_age=900), "signature_age ends them sooner"),
        (Policy(min_remaining=3000), "a new URL each 240 s"),
    ],
)
def test_policies_that_serve_badly_are_named(door: Door, policy: Policy, said: str) -> None:
    finding = found(at(door, policy=policy))["lifetime of media"]
    assert finding.level == "warning"
    assert said in finding.detail


def test_prefixes_that_meet_are_named(door: Door) -> None:
    """O2."""
    nested = Presigner(origin(door, "all"), origin(door, "public", prefix="public/"))
    assert levels(nested) == {("prefix of public", "warning")}
    assert levels(at(door, prefix="public")) == {("prefix of media", "warning")}
    same = Presigner(origin(door, "one", prefix="a/"), origin(door, "two", prefix="a/"))
    assert levels(same) == {("prefix of two", "warning")}


def test_an_object_without_cache_control_is_named(door: Door) -> None:
    """O7."""
    assert levels(at(door), CAT) == {(f"sample {CAT}", "warning")}
    kept = at(door, params={"ResponseCacheControl": "private, max-age=60"})
    assert found(kept, CAT)[f"sample {CAT}"].detail == "Cache-Control: private, max-age=60"


def test_a_sample_that_is_not_there_or_not_covered_is_named(door: Door) -> None:
    findings = found(at(door), "s3://media/gone", "s3://strange/key")
    assert findings["sample s3://media/gone"].detail == "S3 answers 404"
    assert findings["sample s3://strange/key"].level == "failure"


def test_an_origin_that_signs_no_get_is_not_looked_at(door: Door) -> None:
    finding = found(at(door, methods=("PUT",)))["access to media"]
    assert finding.level == "warning"
    assert finding.detail.startswith("not looked at: ")


# --- the page -----------------------------------------------------------------------------------------------

SHOWN: Final = re.compile(r"^```console\n\$ (.*?)\n(.*?)^```", re.MULTILINE | re.DOTALL)

VARYING: Final = (
    (r"127\.0\.0\.1:\d+", "HOST"),
    (r"\d{8}T\d{6}Z|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "INSTANT"),
    (r"%2F\d{8}%2F", "%2FDAY%2F"),
    (r"X-Amz-Signature=(?:[0-9a-f]{64}|\.\.\.)", "SIGNATURE"),
    (r"(?m)^(HOST) .*[\d-]", r"\1 FIGURES"),  # a server's row of stats
    (r"version \S+, [\d.]+ ms, [\d.]+ of", "version, ms, used of"),
    (r"(\"(?:created_at|expires_at)\"): \d+", r"\1: INSTANT"),
    (r"[ ─]+", " "),
    (r"(?m) $", ""),
)


def normal(text: str) -> str:
    """Return *text* without what differs from run to run."""
    for pattern, constant in VARYING:
        text = re.sub(pattern, constant, text)
    return text.strip()


def outputs(
    run: Run, memcached: Memcached, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str, str]]:
    """Yield each command of the page, what the page says of it, and what it says itself."""
    oracle = Oracle()
    oracle.add_key("AKIAEXAMPLE", "example")
    oracle.create_bucket("acme-media", region="eu-west-1")
    oracle.put("acme-media", "public/cat.jpg", b"a cat")
    with oracle.serve() as base:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "example",
            "AWS_ENDPOINT_URL": base,
            "COLUMNS": "116",
            "PRESIGN_ORIGINS": "media=s3://acme-media/public/?region=eu-west-1",
            "PRESIGN_SHARED": memcached.url,
        }.items():
            monkeypatch.setenv(name, value)
        for command, said in SHOWN.findall(PAGE.read_text()):
            words = shlex.split(command)
            with monkeypatch.context() as patch:
                while "=" in words[0]:
                    patch.setenv(*words.pop(0).split("=", 1))
                assert words.pop(0) == "presign-middleware"
                ran = run(*words)
            yield command, said, ran.out + ran.err


def test_the_page_shows_what_the_commands_print(
    run: Run, memcached: Memcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = list(outputs(run, memcached, monkeypatch))
    assert len(shown) > 8
    for command, said, real in shown:
        assert (command, normal(said)) == (command, normal(real))


def test_the_page_has_every_command(run: Run) -> None:
    listed = re.search(r"COMMAND\n(.*?)\n\n", run("--help").out, re.DOTALL)
    assert listed is not None
    commands = re.findall(r"^    (\w+)", listed[1], re.MULTILINE)
    assert len(commands) == 8
    text = PAGE.read_text()
    assert [name for name in commands if f"presign-middleware {name}" not in text] == []
