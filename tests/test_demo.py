"""The demo measures what it says, ends cleanly, and its example renders safely."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote
from xml.etree import ElementTree

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.stub import Stubber
from starlette.testclient import TestClient

import presign_middleware.asgi
from presign_middleware import ConfigurationError, Origin, Presigner, __version__, intercept
from presign_middleware.__main__ import main
from presign_middleware.demo.drive import SecondWorker, Workers, urls_per_object
from presign_middleware.demo.pictures import landscape
from presign_middleware.demo.report import sharing_bars
from presign_middleware.demo.serving import example
from presign_middleware.demo.worker import Worker

COMMAND = ["demo", "--pictures", "24", "--pages", "6"]
WITH_MEMCACHED = ["-m", "presign_middleware"]
ABSENT = """
from presign_middleware.__main__ import main
from presign_middleware.testing import Memcached
Memcached.is_available = lambda: False
raise SystemExit(main())
"""
WITHOUT_MEMCACHED = ["-c", ABSENT]
BARS = (
    "Page time saved, median",
    "boto3 signing calls saved",
    "Hit rate",
    "Distinct URLs per object",
    "URLs refused by S3",
)
SHARING_BARS = (
    "URLs that the second signed",
    "Distinct URLs per object, both",
    "URLs of the second refused by S3",
)


class Demo:
    """A demo in a session of its own, so that whatever it leaves behind can be found."""

    def __init__(self, directory: Path, start: Sequence[str], *arguments: str) -> None:
        self.figures = directory / "figures.json"
        self.temporary = directory / "temporary"
        self.temporary.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, *start, *COMMAND, "--json", str(self.figures), *arguments],
            cwd=directory,
            env={**os.environ, "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; return its exit code, output and errors."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def left_behind(self) -> list[str]:
        """Return the files that it left, and the processes of its session that live on."""
        return [*(file.name for file in self.temporary.iterdir()), *_left_alive(self.process.pid)]


def _left_alive(session: int) -> list[str]:
    """Return the processes of *session*; a killed one gets a moment to go."""
    deadline = time.monotonic() + 5
    while (alive := _alive(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive


def _alive(session: int) -> list[str]:
    if not Path("/proc/self/stat").exists():
        pytest.skip("only Linux lists the processes of a session without further tools")
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue  # it has just ended
        state, _, _, its_session, *_ = rest.split()
        if int(its_session) == session and state != "Z":
            found.append(stat.parent.name)
    return found


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Demo]]:
    """Start two demos at the same time, since most of what they do is to wait for their server."""
    started = {
        "once": Demo(tmp_path_factory.mktemp("once"), WITH_MEMCACHED, "--once"),
        "serving": Demo(tmp_path_factory.mktemp("serving"), WITHOUT_MEMCACHED, "--pages", "1"),
    }
    yield started
    for demo in started.values():
        with demo.process:
            demo.process.kill()


def test_one_run_prints_the_table_writes_the_figures_and_leaves_nothing(demos: dict[str, Demo]) -> None:
    demo = demos["once"]

    code, out, err = demo.end()

    assert (code, err) == (0, "")
    assert demo.left_behind() == []
    assert [bar for bar in (*BARS, *SHARING_BARS) if bar not in out] == []
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert "Without a signature S3 refused 24 of 24" in " ".join(out.split())
    assert "memcached is absent" not in out
    figures = demo.figures.read_text()
    assert "X-Amz-" not in out + figures
    measured = json.loads(figures)
    before, after = measured["before"], measured["after"]
    uses = (8 + 6) * (24 + 4)  # pages with their warm-up, links and what the handler fetches itself
    assert before["boto3_signing_calls"] == before["resolutions"] == after["resolutions"] == uses
    assert (after["signed_by_boto3"], after["boto3_signing_calls"], after["signatures"]) == (0, 2, 24)
    assert (before["hit_rate"], after["hit_rate"]) == (0, 1 - 24 / uses)
    assert after["urls_per_object"] == 1
    assert before["urls_checked"] == after["urls_checked"] == 24 + 3 * 13
    assert measured["refused"] == before["urls_refused"] == after["urls_refused"] == 0
    assert measured["unsigned"] == {"asked": 24, "refused": 24}
    assert [bar["name"] for bar in measured["bars"]] == [*BARS, *SHARING_BARS]
    second = {"resolutions": 24 + 4, "boto3_signing_calls": 2, "urls_checked": 24, "urls_refused": 0}
    assert measured["second_worker"] == {
        "alone": {**second, "signatures": 24, "from_shared": 0, "urls_per_object": 2},
        "sharing": {**second, "signatures": 0, "from_shared": 24, "urls_per_object": 1},
    }


def test_without_memcached_it_says_so_and_serves_the_gallery_until_ctrl_c(demos: dict[str, Demo]) -> None:
    demo = demos["serving"]
    assert demo.process.stdout is not None
    said: list[str] = []
    while not (said and " is at http://127.0.0.1:" in said[-1]):
        said.append(demo.process.stdout.readline())
        assert said[-1], f"it ended early: {''.join(said)} {demo.end()}"
    address = said[-1].split()[-1]

    page = httpx.get(address, trust_env=False)
    demo.process.send_signal(signal.SIGINT)
    code, out, err = demo.end()

    assert page.status_code == 200
    assert page.text.count("<img ") == 24
    assert (code, err) == (0, "")
    told = "memcached is absent, so nothing is shared (apt-get or brew install memcached).\n"
    assert said.count(told) == 1
    assert [bar for bar in SHARING_BARS if bar in "".join(said)] == []
    measured = json.loads(demo.figures.read_text())
    assert measured["second_worker"] is None
    assert [bar["name"] for bar in measured["bars"]] == [*BARS]
    assert out.endswith("Stopped.\n")
    assert demo.left_behind() == []


@pytest.fixture
def keys_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give boto3 credentials and an endpoint at which nothing listens."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")


@pytest.mark.usefixtures("keys_of_nobody")
def test_a_worker_ends_with_the_process_that_started_it_however_that_ended() -> None:
    starter = (
        "from presign_middleware.demo.worker import Worker\n"
        "with Worker('landscapes', 3, None) as worker:\n"
        "    print(worker.address(), worker.counts()['resolved'], flush=True)\n"
        "    input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", starter],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        address, resolved = process.stdout.readline().split()
        answer = httpx.get(f"{address}nowhere", trust_env=False)
        alive = _alive(process.pid)
        process.kill()

    assert (answer.status_code, resolved) == (404, "0")
    assert len(alive) == 2
    assert _left_alive(process.pid) == []


@pytest.mark.usefixtures("keys_of_nobody")
def test_a_worker_that_cannot_serve_is_reported_with_its_status(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        Worker("landscapes", 3, "nowhere") as worker,
        pytest.raises(RuntimeError, match=r"^a worker process ended with status 1$"),
    ):
        worker.address()

    assert 'shared must look like "memcached://host:port"' in capfd.readouterr().err


def test_a_second_worker_with_urls_of_its_own_or_refused_ones_misses_the_bars() -> None:
    good = SecondWorker(
        resolutions=28,
        signatures=0,
        from_shared=24,
        boto3_signing_calls=2,
        urls_per_object=1,
        urls_checked=24,
        urls_refused=0,
    )

    def missed(sharing: SecondWorker) -> list[str]:
        rows = sharing_bars(Workers(alone=good, sharing=sharing))
        return [row.name for row in rows if row.counts and not row.is_met]

    assert missed(good) == []
    assert missed(replace(good, signatures=1)) == ["URLs that the second signed"]
    assert missed(replace(good, urls_per_object=2)) == ["Distinct URLs per object, both"]
    assert missed(replace(good, urls_refused=1)) == ["URLs of the second refused by S3"]


def test_the_example_shares_through_the_memcached_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = example()
    s3 = boto3.client("s3", region_name="us-east-1", aws_access_key_id="AKIA", aws_secret_access_key="secret")
    monkeypatch.setattr(module.boto3, "client", lambda _: s3)
    monkeypatch.setenv("BUCKET", "landscapes")
    monkeypatch.setenv("SHARED", "nowhere")

    with Stubber(s3) as stubber:
        stubber.add_response("list_objects_v2", {})
        with pytest.raises(ConfigurationError, match=r"^shared must look like .* got \'nowhere\'$"):
            module.app()


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
def test_the_example_fetches_and_links_signed_urls_and_escapes_everything(
    is_after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = "landscapes"
    s3 = boto3.client(
        "s3",
        endpoint_url="http://s3.test",
        region_name="eu-west-1",
        aws_access_key_id="AKIAEXAMPLE",
        aws_secret_access_key="secret",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    fetched: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        fetched.append(str(request.url))
        headers = {"content-type": 'image/svg+xml"><script>', "x-amz-meta-caption": "<script>"}
        return httpx.Response(200, headers=headers, content=b"<svg/>")

    module = example()
    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(module, "httpx", SimpleNamespace(AsyncClient=lambda: client))
    keys = [f'"><script>{number} & ü.svg' for number in range(6)]
    presigner = Presigner(Origin("gallery", bucket=bucket, client=s3)) if is_after else None
    with intercept("httpx"):
        # The middleware's hooks stay for good, which is not for a process that tests other things too.
        monkeypatch.setattr(presign_middleware.asgi, "intercept", lambda: None)
        with TestClient(module.gallery(presigner, bucket, keys, s3)) as browser:
            page = browser.get("/").text

    links = [unescape(link) for link in re.findall(r'<a href="([^"]*)"', page)]
    plain = [f"http://s3.test/{bucket}/{quote(key)}" for key in keys]
    assert [link.partition("?")[0] for link in links] == plain
    assert [link for link in links if "X-Amz-Signature=" not in link] == []
    assert sorted(fetched) == sorted(links[:4])
    assert "<script" not in page


def test_a_url_that_follows_another_in_its_turn_is_not_counted_beside_it() -> None:
    def link(second: int) -> str:
        # Its windows begin at the seconds 3, 13, 23 and so on: the CRC-32 of "a/%C3%BC.svg" ends in 3.
        return f"http://s3.test/b/a/%C3%BC.svg?X-Amz-Date=20260101T0000{second:02}Z&X-Amz-Signature=0"

    assert urls_per_object([[link(3)], [link(3)]], rotation=10) == 1
    assert urls_per_object([[link(3)], [link(12)]], rotation=10) == 2
    assert urls_per_object([[link(3)], [link(13)], [link(23)]], rotation=10) == 1
    assert urls_per_object([[link(3)], [link(13)], [link(14)]], rotation=10) == 2
    assert urls_per_object([[]], rotation=10) == 0

    # What is dated at the epoch of a new memcached turns when its window ends, be that a second later.
    assert urls_per_object([[link(12)], [link(13)]], rotation=10) == 1
    assert urls_per_object([[link(12)], [link(13)], [link(22)]], rotation=10) == 2


def test_no_two_pictures_are_alike_and_each_is_always_the_same() -> None:
    drawn = [landscape(number) for number in range(1, 301)]

    assert len(set(drawn)) == 300
    assert drawn == [landscape(number) for number in range(1, 301)]
    assert {ElementTree.fromstring(picture).tag for picture in drawn} == {"{http://www.w3.org/2000/svg}svg"}


def test_the_command_line_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])

    assert capsys.readouterr().out == f"presign-middleware {__version__}\n"


def test_the_demo_says_what_is_missing_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("presign_middleware.demo._MODULES", ("rich", "no_such_module"))

    assert main(["demo", "--once"]) == 2
    assert 'needs no_such_module: pip install "presign-middleware[demo]"' in capsys.readouterr().err


def test_the_demo_explains_its_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["demo", "--help"])

    assert "exit codes:" in capsys.readouterr().out
