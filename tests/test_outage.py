"""
Real memcacheds that fail while processes serve traffic: the short form of `make outage`.

Every URL is judged by a strict S3, at the last instant at which it must still work.
"""

import asyncio

import pytest
from fleet import DEADLINE
from outage.misfortunes import MISFORTUNES
from outage.run import Outcome, Settings, run

NAMES = ("half open", "killed (SIGKILL)", "a node leaves")


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    settings = Settings(
        processes=3,
        seconds=1,
        warm_up=0.5,
        every=0.05,
        few=6,
        many=500,
        local_size=60,
        invalidate_every=0.2,
        slack=DEADLINE,  # nothing is said of time
        policy={"shared_patience": 0.05, "invalidation_lag": 0.2},
    )
    return asyncio.run(run([each for each in MISFORTUNES if each.name in NAMES], settings))


def test_nothing_is_broken(outcome: Outcome) -> None:
    """M1, M4, M6, M7: no error, no wrong URL, nothing taken back comes back, descriptors are flat."""
    assert outcome.broken == []
    assert [tally.misfortune.name for tally in outcome.tallies] == ["calm", *NAMES]
    assert all(tally.urls and tally.handed and tally.invalidations for tally in outcome.tallies)


def test_all_share_again(outcome: Outcome) -> None:
    """M1, M7: every process has URLs from memcached again, without a restart."""
    assert [tally.again.keys() for tally in outcome.tallies] == [{0, 1, 2}] * 4
