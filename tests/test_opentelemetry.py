"""A presigner's counters as OpenTelemetry sees them."""

import re
from dataclasses import replace
from typing import Any

import boto3
import pytest
from faults import eventually
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sources import Role, settle

from presign_middleware import Origin, Policy, Presigner
from presign_middleware.opentelemetry import instrument
from presign_middleware.testing import Clock, Memcached

SESSION = boto3.Session(aws_access_key_id="AKIATEST", aws_secret_access_key="secret", region_name="eu-west-1")
MEDIA = Origin("media", bucket="media", session=SESSION)
P = "presign_middleware."


class Collected:
    """What a reader collects of one presigner."""

    def __init__(self, presigner: Presigner) -> None:
        self._reader = InMemoryMetricReader()
        instrument(presigner, MeterProvider([self._reader], shutdown_on_exit=False))

    def metrics(self) -> dict[str, Any]:
        data: Any = self._reader.get_metrics_data()
        return {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}

    def value(self, name: str, **attributes: str) -> float | None:
        metric = self.metrics().get(P + name)
        points = [] if metric is None else metric.data.data_points
        return next((point.value for point in points if point.attributes == attributes), None)


@pytest.fixture
def presigner(clock: Clock) -> Presigner:
    return Presigner(MEDIA, replace(MEDIA, name="archive", bucket="archive"), clock=clock)


def test_urls_are_told_by_origin_and_tier(presigner: Presigner) -> None:
    """L2: as attributes, with no part of the name for the unit."""
    collected = Collected(presigner)
    for _ in range(3):
        presigner.url("s3://media/a")
    assert collected.value("resolutions", origin="media", tier="signer") == 1
    assert collected.value("resolutions", origin="media", tier="local") == 2
    assert collected.value("resolutions", origin="archive", tier="local") == 0
    metric = collected.metrics()[f"{P}resolutions"]
    assert (metric.unit, metric.data.is_monotonic) == ("{url}", True)


def test_times_and_lives_are_sums_and_numbers(presigner: Presigner) -> None:
    """In seconds; observable histograms are none of OpenTelemetry."""
    collected = Collected(presigner)
    presigner.url("s3://media/a")
    assert collected.value("signing.count", signer="plan") == 1
    assert collected.value("url.remaining.count", origin="media") == 1
    assert 600 <= (collected.value("url.remaining.sum", origin="media") or 0) <= 3600
    assert collected.metrics()[f"{P}signing.sum"].unit == "s"


def test_the_end_of_credentials_is_told(clock: Clock) -> None:
    """By their source, in Unix seconds."""
    source = Role(clock)
    presigner = Presigner(source.origin(), clock=clock)
    presigner.url("s3://media/a")
    settle(presigner)
    found = Collected(presigner).value("credentials.end_timestamp", source=f"role {source.origin().role_arn}")
    assert [found] == list(source.ends.values())


def test_memcached_is_asked_of_itself(memcached: Memcached) -> None:
    """M1: in the background, when metrics are collected."""
    presigner = Presigner(MEDIA, shared=memcached.url, policy=Policy(shared_patience=5))
    collected = Collected(presigner)
    eventually(lambda: collected.value("memcached.limit", server=memcached.address) == 64 * 2**20)
    presigner.close()


def test_nothing_that_is_collected_holds_a_key_or_a_signature(presigner: Presigner) -> None:
    """L1, L2: of what was asked for it has the names of origins."""
    collected = Collected(presigner)
    presigner.url("s3://media/a-key-of-some-object")
    said = " ".join(metric.to_json() for metric in collected.metrics().values())
    assert '"origin": "media"' in said
    assert not re.search("a-key-of|X-Amz|AKIATEST|secret", said)
