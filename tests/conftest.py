"""What every test has: the public fixtures, and no AWS settings, proxies or netrc of whoever runs it."""

import os
import sys
from collections.abc import Iterator

import pytest
from clients import Front
from faults import FakeMemcached
from fleet import Fleet

from presign_middleware.testing import Clock, SeaweedFS

pytest_plugins = ["presign_middleware.testing.fixtures", "stacks"]


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
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fake() -> Iterator[FakeMemcached]:
    with FakeMemcached() as server:
        yield server


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with Fleet() as members:
        yield members


@pytest.fixture
def switching_often() -> Iterator[None]:
    """Have threads take turns a thousand times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


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
