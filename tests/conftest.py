"""What every test has: the public fixtures, and no AWS settings, proxies or netrc of whoever runs it."""

import logging
import os
import ssl
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import botocore.session
import hypothesis
import pytest
import trustme
from clients import Front
from faults import FakeMemcached
from fleet import Fleet
from ways import SIGNED, Door, opened

from presign_middleware import memcached as memcached_room
from presign_middleware.testing import Clock, Memcached, SeaweedFS

# How long an example takes is no fact of the library's: a busy machine may take any time for it.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

pytest_plugins = ["presign_middleware.testing.fixtures", "stacks"]

# boto3's models are read once, and not for each of the sessions that tests make: that takes 100 ms.
botocore.session.create_loader = cache(botocore.session.create_loader)

#: Files that take 10 s and more, the longest first.
_LONG = (
    "test_bench",
    "test_soak",
    "test_outage",
    "test_demo",
    "test_healing",
    "test_operations",
    "test_signing",
    "test_prometheus",
    "test_contract",
    "test_credentials",
    "test_wsgi_servers",
    "test_shared_faults",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long: one that begins last leaves all other processors idle."""
    items.sort(key=lambda item: _LONG.index(item.path.stem) if item.path.stem in _LONG else len(_LONG))


# Of the session, so that it is in force before the servers of the session start.
@pytest.fixture(scope="session", autouse=True)
def no_aws_environment() -> Iterator[None]:
    """Hide credentials, profiles, regions and endpoints from botocore, and proxies from all."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.delenv(name, raising=False)
            patch.delenv(name.lower(), raising=False)
        patch.setenv("NETRC", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have the user's netrc name 127.0.0.1; give the Authorization header that this makes."""
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(path))
    return "Basic bWU6c2VjcmV0"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def own() -> Iterator[Memcached]:
    """Give a real memcached that a test may end as it likes."""
    with Memcached() as server:
        yield server


@pytest.fixture
def fake() -> Iterator[FakeMemcached]:
    with FakeMemcached() as server:
        yield server


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with Fleet() as members:
        yield members


@pytest.fixture
def never_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a long pause between two attempts to reach a server that failed."""
    monkeypatch.setattr(memcached_room, "_SHORTEST_PAUSE", 1000.0)
    monkeypatch.setattr(memcached_room, "_LONGEST_PAUSE", 1000.0)


@pytest.fixture
def switching_often() -> Iterator[None]:
    """Have threads take turns a thousand times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.fixture
def door(s3_clock: Clock) -> Iterator[Door]:
    """Give a strict S3 that tells what was on the wire."""
    with opened(Door(clock=s3_clock)) as door:
        yield door


@pytest.fixture(scope="session")
def the_front(seaweedfs: SeaweedFS) -> Iterator[Front]:
    front = Front(seaweedfs)
    with front.serve() as front.base:
        yield front


@pytest.fixture
def front(the_front: Front) -> Front:
    """Give a real S3 server whose wire can be looked at, with nothing on it yet."""
    the_front.forget()
    return the_front


@pytest.fixture(scope="session")
def tls() -> ssl.SSLContext:
    """Give the server's side of TLS for s3.localhost, which nobody trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("s3.localhost").configure_cert(context)
    return context


@pytest.fixture
def nothing_leaks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """L1: no record that anyone logs at DEBUG while the test runs holds a signature."""
    caplog.set_level(logging.DEBUG)
    yield
    texts = [f"{one.getMessage()} {one.args!r} {vars(one)!r}" for one in caplog.get_records("call")]
    assert [text for text in texts if SIGNED.search(text)] == []
