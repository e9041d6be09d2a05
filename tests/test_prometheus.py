"""A presigner's counters as Prometheus sees them, from one process and from a fleet of forks."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import boto3
import httpx
import pytest
from faults import eventually
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sources import Role, settle
from ways import SIGNED

from presign_middleware import Origin, Policy, Presigner, measuring
from presign_middleware.prometheus import collector
from presign_middleware.testing import Clock, Memcached
from presign_middleware.testing.ports import free_ports

SESSION = boto3.Session(aws_access_key_id="AKIATEST", aws_secret_access_key="secret", region_name="eu-west-1")
MEDIA = Origin("media", bucket="media", session=SESSION)
P: Final = "presign_middleware_"
SENT: Final = 120  # requests, of eleven URLs of one origin and one of the other
DEADLINE: Final = 60.0  # seconds after which a test that has gone wrong stops waiting

Labels = frozenset[tuple[str, str]]


@pytest.fixture
def presigner(clock: Clock) -> Presigner:
    return Presigner(MEDIA, replace(MEDIA, name="archive", bucket="archive"), clock=clock)


def page_of(presigner: Presigner) -> str:
    """Return what Prometheus is given when it asks for the first time."""
    registry = CollectorRegistry()
    registry.register(collector(presigner))
    return generate_latest(registry).decode()


def samples(page: str) -> dict[tuple[str, Labels], float]:
    families = text_string_to_metric_families(page)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(page: str, name: str, **labels: str) -> float | None:
    return samples(page).get((P + name, frozenset(labels.items())))


def test_urls_are_told_by_origin_and_tier(presigner: Presigner) -> None:
    """L2: the tier that had them, and the origin they are of."""
    for _ in range(3):
        presigner.url("s3://media/a")
    page = page_of(presigner)
    assert value(page, "resolutions_total", origin="media", tier="signer") == 1
    assert value(page, "resolutions_total", origin="media", tier="local") == 2
    assert value(page, "resolutions_total", origin="archive", tier="local") == 0


def test_a_page_tells_what_stats_tells(presigner: Presigner) -> None:
    """L2: the sum over origins and tiers is ``resolved``, and is there without any traffic."""
    presigner.urls([f"s3://{bucket}/{n}" for bucket in ("media", "archive") for n in range(5)])
    handed_out = [
        v for (name, _), v in samples(page_of(presigner)).items() if name == f"{P}resolutions_total"
    ]
    assert (sum(handed_out), len(handed_out)) == (presigner.stats()["resolved"], 10)


def test_a_page_holds_no_key_and_no_signature(presigner: Presigner) -> None:
    """L1, L2: of what was asked for it has the names of origins."""
    presigner.urls(["s3://media/a-key-of-some-object", "s3://archive/a-key-of-some-object"])
    page = page_of(presigner)
    assert 'origin="media"' in page
    assert not SIGNED.search(page)
    assert not re.search("a-key-of|X-Amz|AKIATEST|secret", page)


def test_lives_are_a_histogram(presigner: Presigner) -> None:
    """Each bucket holds those before it, and the last holds all."""
    presigner.urls([f"s3://media/{n}" for n in range(20)])
    page = page_of(presigner)
    buckets = [
        v for (name, labels), v in samples(page).items()
        if name == f"{P}url_remaining_seconds_bucket" and ("origin", "media") in labels
    ]  # fmt: skip
    assert buckets == sorted(buckets)
    assert buckets[-1] == value(page, "url_remaining_seconds_count", origin="media") == 20
    assert 20 * 600 <= (value(page, "url_remaining_seconds_sum", origin="media") or 0) <= 20 * 3600


def test_signing_time_is_a_summary(presigner: Presigner) -> None:
    """In seconds, by who signed."""
    presigner.url("s3://media/a")
    page = page_of(presigner)
    assert value(page, "signing_seconds_count", signer="plan") == 1
    assert 0 < (value(page, "signing_seconds_sum", signer="plan") or 0) < DEADLINE


def test_the_end_of_credentials_is_told(clock: Clock) -> None:
    """By their source, in Unix seconds; two of the same name have the end of the first to end."""
    source = Role(clock, seconds=3600)
    later = replace(source.origin("later"), external_id="another")
    presigner = Presigner(source.origin(), later, clock=clock)
    assert "credentials_end" not in "".join(name for name, _ in samples(page_of(presigner)))
    presigner.url("s3://media/a")
    clock.advance(60)
    presigner.url("s3://later/a")
    settle(presigner)
    label = {"source": "role arn:aws:iam::123456789012:role/media"}
    assert value(page_of(presigner), "credentials_end_timestamp_seconds", **label) == min(
        source.ends.values()
    )


def test_the_end_of_credentials_that_nobody_uses_is_not_told(clock: Clock) -> None:
    """They are not renewed, and nobody is to be woken for it; those that fail are in use."""
    source = Role(clock, seconds=3600)
    presigner = Presigner(source.origin(), clock=clock)
    presigner.url("s3://media/a")
    label = {"source": "role arn:aws:iam::123456789012:role/media"}
    (end,) = source.ends.values()
    source.failure = RuntimeError("STS is down")
    for n in range(20):
        clock.advance(160)
        presigner.url(f"s3://media/{n}")
        settle(presigner)
        assert value(page_of(presigner), "credentials_end_timestamp_seconds", **label) == end
    clock.advance(200)
    assert value(page_of(presigner), "credentials_end_timestamp_seconds", **label) is None


def test_sources_are_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """L2: so many roles are told apart (a hundred, but here two), and the others are one."""
    monkeypatch.setattr(measuring, "_MOST_LABELS", 2)
    source = Role(clock)
    arns = [f"arn:aws:iam::123456789012:role/r{n}" for n in range(4)]
    origins = [source.origin(f"m{n}", role_arn=arn) for n, arn in enumerate(arns)]
    presigner = Presigner(*origins, clock=clock)
    presigner.urls([f"s3://m{n}/a" for n in range(4)])
    settle(presigner)
    found = [dict(labels)["source"] for name, labels in samples(page_of(presigner)) if "_end_" in name]
    assert found == [f"role {arns[0]}", f"role {arns[1]}", "other"]


def test_memcached_is_asked_of_itself_when_metrics_are(memcached: Memcached) -> None:
    """M1: not before, in a thread of its own, and the next page has what it said."""
    presigner = Presigner(MEDIA, shared=memcached.url, policy=Policy(shared_patience=5))
    presigner.url("s3://media/a")
    presigner.close()  # by then it is shared
    server = {"server": memcached.address}
    registry = CollectorRegistry()
    registry.register(collector(presigner))
    assert value(generate_latest(registry).decode(), "shared_up", **server) == 1
    eventually(lambda: value(generate_latest(registry).decode(), "memcached_items", **server) is not None)
    page = generate_latest(registry).decode()
    assert (value(page, "memcached_items", **server) or 0) >= 1
    assert value(page, "memcached_limit_bytes", **server) == 64 * 2**20
    assert 0 < (value(page, "memcached_used_bytes", **server) or 0) < 64 * 2**20
    assert value(page, "memcached_evictions", **server) == 0


@pytest.mark.usefixtures("never_trying")
def test_a_server_that_fails_is_told_apart(memcached: Memcached) -> None:
    """M1, M3: its breaker and its errors have its name; collecting asks it nothing and fails nobody."""
    absent = f"127.0.0.1:{free_ports(1)[0]}"
    shared = f"{memcached.url},{absent}"
    presigner = Presigner(MEDIA, shared=shared, policy=Policy(shared_patience=5))
    presigner.urls([f"s3://media/{n}" for n in range(50)])
    page = page_of(presigner)
    assert [value(page, "shared_up", server=name) for name in (memcached.address, absent)] == [1, 0]
    assert value(page, "shared_errors_total", server=memcached.address) == 0
    assert (value(page, "shared_errors_total", server=absent) or 0) >= 1
    assert page_of(presigner)
    presigner.close()


def test_who_collects_waits_for_no_server(memcached: Memcached) -> None:
    """M1: the page is there while one that is silent is still being asked, by one thread however often."""
    presigner = Presigner(MEDIA, shared=memcached.url)
    memcached.freeze()
    assert [value(page_of(presigner), "shared_up", server=memcached.address) for _ in range(2)] == [1, 1]
    assert [thread.name for thread in threading.enumerate()].count("presign-measuring") == 1
    memcached.thaw()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is absent: make prometheus")
def test_names_are_as_prometheus_wants_them(presigner: Presigner) -> None:
    """promtool finds nothing to complain of in names, units, types and texts."""
    presigner.url("s3://media/a")
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=page_of(presigner), capture_output=True, text=True, timeout=30
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


# --- A fleet of forks


_APP = """
import os
import boto3, flask
from prometheus_client import CollectorRegistry, CONTENT_TYPE_LATEST, generate_latest, multiprocess
from presign_middleware import Origin, Presigner, prometheus
from presign_middleware.wsgi import PresignMiddleware

session = boto3.Session("AKIATEST", "secret-of-the-fleet", region_name="eu-west-1")
origins = [Origin(name, bucket=name, session=session) for name in ("media", "docs")]
presigner = Presigner(*origins)
prometheus.collector(presigner)
app = flask.Flask("app")

@app.get("/page")
def page():
    presigner.urls([f"s3://media/a-key-{n}" for n in range(10)])
    presigner.url("s3://media/a-key-0")
    presigner.url("s3://docs/a-key")
    return str(os.getpid())

@app.get("/metrics")
def metrics():
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return flask.Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

app.wsgi_app = PresignMiddleware(app.wsgi_app, presigner=presigner)
"""

_CONFIG = """
from prometheus_client import multiprocess

def child_exit(server, worker):
    multiprocess.mark_process_dead(worker.pid)
"""


class Fleet:
    """Gunicorn with four workers, each of which is recycled after about 25 requests."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_ports(1)[0]
        (directory / "files").mkdir()
        (directory / "app.py").write_text(_APP)
        (directory / "config.py").write_text(_CONFIG)
        command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{self.port}", "--workers", "4"]
        command += ["--max-requests", "25", "--config", "config.py", *options, "app:app"]
        environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory / "files")}
        environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(command, cwd=directory, env=environ, stdout=log, stderr=log)
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            timeout=DEADLINE,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def __enter__(self) -> "Fleet":
        def listens() -> bool:
            assert self.process.poll() is None
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        eventually(listens, within=DEADLINE)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(DEADLINE)

    def page(self) -> str:
        return self.client.get("/metrics").raise_for_status().text


@pytest.fixture(scope="module", params=["", "--preload"], ids=["loaded by each", "preloaded"])
def fleet_of_forks(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    options = request.param.split()
    with (
        tempfile.TemporaryDirectory(prefix="presign-") as directory,
        Fleet(Path(directory), *options) as fleet,
    ):
        yield fleet


def by_tier(page: str, origin: str) -> float:
    name, wanted = f"{P}resolutions_total", ("origin", origin)
    return sum([v for (n, labels), v in samples(page).items() if n == name and wanted in labels])


def test_counters_of_all_workers_are_the_load(fleet_of_forks: Fleet) -> None:
    """L1, L2, M5: exactly what was sent, those of workers that were recycled meanwhile included."""
    fleet, workers = fleet_of_forks, set[str]()
    for _ in range(SENT):
        workers.add(fleet.client.get("/page").raise_for_status().text)
    assert len(workers) > 4
    eventually(lambda: by_tier(fleet.page(), "media") >= SENT * 11, within=20)
    page = fleet.page()
    assert (by_tier(page, "media"), by_tier(page, "docs")) == (SENT * 11, SENT)
    signed = value(page, "signatures_total", origin="media", signer="plan")
    assert signed == value(page, "resolutions_total", origin="media", tier="signer")
    assert value(page, "url_remaining_seconds_count", origin="docs") == len(workers)
    assert not re.search("X-Amz|a-key|secret-of-the-fleet", page)


_FORKING = """
import os, sys
import boto3
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from presign_middleware import Origin, Presigner, prometheus

session = boto3.Session("AKIATEST", "secret", region_name="eu-west-1")
presigner = Presigner(Origin("media", bucket="media", session=session))
presigner.url("s3://media/a")
prometheus.collector(presigner).collect()
child = os.fork()
if not child:
    presigner.urls(["s3://media/a", "s3://media/b"])
    sys.exit()
os.waitpid(child, 0)
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def test_a_fork_counts_from_its_own_begin(tmp_path: Path) -> None:
    """M5: what its parent had counted before is the parent's; what it has counted itself outlives it."""
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    page = subprocess.run(
        [sys.executable, "-c", _FORKING], env=environ, capture_output=True, text=True, timeout=DEADLINE
    ).stdout
    assert by_tier(page, "media") == 3


_IDLE = """
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from sources import Role
from presign_middleware import Presigner, prometheus
from presign_middleware.testing import Clock

clock = Clock()
presigner = Presigner(Role(clock).origin(), clock=clock)
collector = prometheus.collector(presigner)
for seconds in (0, 10_000):
    presigner.url("s3://media/a") if not seconds else clock.advance(seconds)
    collector.collect()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    print(generate_latest(registry).decode(), end="==")
"""


def test_a_process_that_is_idle_tells_no_end_of_credentials(tmp_path: Path) -> None:
    """What was written cannot be erased: -Inf, which loses against any other process's."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": path}
    first, second, _ = subprocess.run(
        [sys.executable, "-c", _IDLE], env=environ, capture_output=True, text=True, timeout=DEADLINE
    ).stdout.split("==")
    label = {"source": "role arn:aws:iam::123456789012:role/media"}
    assert (value(first, "credentials_end_timestamp_seconds", **label) or 0) > 0
    assert value(second, "credentials_end_timestamp_seconds", **label) == float("-inf")


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is absent: make prometheus")
@pytest.mark.parametrize("fleet_of_forks", ["--preload"], indirect=True, ids=["preloaded"])
def test_prometheus_has_the_load(fleet_of_forks: Fleet, tmp_path: Path) -> None:
    """L1, L2: a real Prometheus that scrapes it; the whole of what it holds has no signature."""
    fleet, port = fleet_of_forks, free_ports(1)[0]
    eventually(lambda: fleet.page() == fleet.page(), within=20)
    sent = by_tier(fleet.page(), "docs")
    scrape = {"job_name": "app", "static_configs": [{"targets": [f"127.0.0.1:{fleet.port}"]}]}
    config = {"global": {"scrape_interval": "500ms"}, "scrape_configs": [scrape]}
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with contextlib.ExitStack() as stack:
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        stack.callback(process.wait, DEADLINE)
        stack.callback(process.terminate)
        api = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1/"))

        def holds(query: str) -> float | None:
            with contextlib.suppress(httpx.TransportError):
                found = api.get("query", params={"query": query})
                if found.is_success and (result := found.json()["data"]["result"]):
                    return float(result[0]["value"][1])
            return None

        query = f'sum({P}resolutions_total{{origin="docs"}})'
        eventually(lambda: holds(query) is not None, within=DEADLINE)
        for _ in range(50):
            fleet.client.get("/page").raise_for_status()
        eventually(lambda: (holds(query) or 0) >= sent + 50, within=DEADLINE)
        assert holds(query) == sent + 50
        everything = api.get("series", params={"match[]": f'{{__name__=~"{P}.+"}}'}).text
        assert P in everything
        assert not re.search("X-Amz|a-key|secret-of-the-fleet", everything)
