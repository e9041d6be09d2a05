"""
A fleet whose sessions live for 3 s, on a real S3 server: the short form of `make soak`.

Every URL is fetched when it is handed out, each distinct one again shortly before its end.
"""

import asyncio
from collections.abc import Sequence

import pytest
from soak.run import Settings, run
from soak.tally import Phase, Tally

PHASES = (Phase("steady", 3), Phase("outage", 10, outage="refusing", outage_seconds=2.5, ends_early=True))


@pytest.fixture(scope="module")
def tallies() -> Sequence[Tally]:
    return asyncio.run(run(PHASES, Settings(session=3, objects=12, every=0.25))).tallies


def test_no_url_of_a_session_that_lives_for_seconds_is_refused_and_nobody_gets_an_error(
    tallies: Sequence[Tally],
) -> None:
    steady, _ = tallies
    assert steady.faults == []
    assert steady.checked >= steady.handed_out - steady.too_late
    assert len(steady.sessions) > 4  # each of the four processes had one to begin with


def test_while_sts_is_out_nothing_is_unsigned_or_refused_and_all_recover_by_themselves(
    tallies: Sequence[Tally],
) -> None:
    _, outage = tallies
    assert outage.faults == []
    assert outage.in_vain > 0
    assert outage.recovered.keys() == {0, 1, 2, 3}
