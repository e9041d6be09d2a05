"""
Fixtures for pytest.

    pytest_plugins = ["presign_middleware.testing.fixtures"]     # in the top conftest.py

    def test_something(s3_oracle, s3_key): ...
"""

from collections.abc import Iterator

import pytest

from presign_middleware.testing.clock import Clock
from presign_middleware.testing.memcached import Memcached
from presign_middleware.testing.oracle import KeyPair, Oracle
from presign_middleware.testing.seaweedfs import SeaweedFS


@pytest.fixture
def s3_clock() -> Clock:
    """Give a clock that stands still until told to move."""
    return Clock()


@pytest.fixture
def s3_key() -> KeyPair:
    """Give the key pair that `s3_oracle` knows."""
    return KeyPair("AKIAPRESIGNTESTING00", "a-secret-of-the-strict-oracle-for-tests")


@pytest.fixture
def s3_oracle(s3_clock: Clock, s3_key: KeyPair) -> Oracle:
    """Give a strict S3 on `s3_clock` that knows `s3_key`, with the bucket ``media`` in eu-west-1."""
    oracle = Oracle(clock=s3_clock)
    oracle.add_key(s3_key.access_key, s3_key.secret_key)
    oracle.create_bucket("media", region="eu-west-1")
    return oracle


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[SeaweedFS]:
    """Give a real S3 server, started once for all tests, in 4 to 5 s: take a bucket of your own."""
    with SeaweedFS() as server:
        yield server


@pytest.fixture(scope="session")
def memcached_server() -> Iterator[Memcached]:
    """Give a real memcached, started once for all tests; see `memcached` for an empty one."""
    with Memcached() as server:
        yield server


@pytest.fixture
def memcached(memcached_server: Memcached) -> Memcached:
    """Give `memcached_server`, running and empty, whatever the test before did to it."""
    if memcached_server.is_running:
        memcached_server.thaw()
    else:
        memcached_server.start()
    memcached_server.flush()
    return memcached_server
