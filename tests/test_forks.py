"""
Forked children of a process that is connected: none gets an answer that another one asked for.

``FORKED_READS`` is how many keys they read in all; ``make forks`` has them read a million.
"""

import hashlib
import os
import random
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest
from fleet import DEADLINE, Fleet
from pymemcache.client.base import Client  # type: ignore[import-untyped]  # it has no types

from presign_middleware import Presigner
from presign_middleware.servers import Servers
from presign_middleware.testing import Memcached

CHILDREN: Final = 8
BATCH: Final = 500
READS: Final = int(os.environ.get("FORKED_READS", "160_000"))

KEYS: Final = [f"p2:{hashlib.sha256(b'%d' % number).hexdigest()}" for number in range(5_000)]


@pytest.fixture
def reals() -> Iterator[list[Memcached]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Memcached()) for _ in range(2)]


def servers_of(presigner: Presigner) -> Servers:
    found = presigner._runner._sharing._shared._servers  # type: ignore[union-attr]
    assert isinstance(found, Servers)
    return found


def write(client: Client, items: Any) -> list[str]:
    """Put a value that tells its key under each."""
    for key in items:
        client.set(key, key.encode(), 600, noreply=True)
    return list(items)


def read(presigner: Presigner, count: int, seed: int) -> str:
    """Read *count* keys, and return what was wrong: nothing, as a rule."""
    servers, chance = servers_of(presigner), random.Random(seed)
    for _ in range(count // BATCH):
        keys = chance.sample(KEYS, BATCH)
        found = servers.read(keys, time.monotonic() + DEADLINE)
        wrong = [key for key in keys if key not in found or found[key][0] != key.encode()]
        if wrong:
            return f"{len(wrong)} wrong of {BATCH}, {presigner.stats()['shared_errors']} errors"
    return ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_eight_children_read(reals: list[Memcached]) -> None:
    """M5: eight forked children, and their parent, have connections of their own, and only their answers."""
    with Fleet() as fleet:
        shared = f"memcached://{reals[0].address},{reals[1].address}"
        presigner = fleet.member(shared, fleet.static())
        servers = servers_of(presigner)
        found, _ = servers.write(dict.fromkeys(KEYS), write, time.monotonic() + DEADLINE)
        assert len(found) == len(KEYS)
        before = [int(real.stats()["total_connections"]) for real in reals]
        reading, writing = os.pipe()
        children = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # since 3.12: a process with threads forks
            for seed in range(CHILDREN):
                child = os.fork()
                if not child:
                    signal.alarm(DEADLINE + READS // 10_000)
                    try:
                        said = read(presigner, READS // CHILDREN, seed)
                    except BaseException as error:
                        said = repr(error)
                    os.write(writing, said.encode())
                    os._exit(bool(said))
                children.append(child)
        own = read(presigner, BATCH * 20, CHILDREN)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            assert own + pipe.read() == ""
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * CHILDREN
        after = [int(real.stats()["total_connections"]) for real in reals]
        opened = [now - then - 1 for then, now in zip(before, after, strict=True)]  # 1: to ask for that
        assert opened == [CHILDREN] * 2
