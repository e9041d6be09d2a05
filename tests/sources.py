"""
Sources of credentials for tests: sessions of a length of the test's choosing, by the test's clock.

`Role` answers AssumeRole in the place of STS; `Chain` is botocore's own renewing credentials.
Both count who asks, and stand at a gate until the test opens it.
"""

import re
import threading
from calendar import timegm
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from time import strptime
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import boto3
import botocore.session
from botocore.credentials import DeferredRefreshableCredentials

from presign_middleware import Origin, Policy, Presigner
from presign_middleware.credentials import Source
from presign_middleware.testing import Clock

DEADLINE: Final = 5.0  # seconds after which a test that has gone wrong stops waiting
ROLE: Final = "arn:aws:iam::123456789012:role/media"
A_DAY: Final = Policy(lifetime=86_400)  # so that sessions end before URLs do


class Sessions:
    """Sessions of *seconds* by the test's clock, from a source that counts who asks and stands at a gate."""

    lead: float  # the part of a session of an hour after which it is renewed

    def __init__(self, clock: Clock, *, seconds: float = 3600) -> None:
        self.seconds = seconds
        self.asks: list[float] = []  # when
        self.failure: Exception | None = None
        self.is_stuck = False  # it gives the same session again
        self.was_waited_for = False  # whatever holds the gate waited for what was to come through it
        self.takes = 0.0  # seconds by which the clock advances before it answers
        self.asked = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.keys: list[dict[str, Any]] = []
        self.ends: dict[str, float] = {}  # of each access key
        self._clock = clock

    def shut(self) -> None:
        """Let nobody have an answer until the gate is set."""
        self.asked.clear()
        self.gate.clear()

    def session(self) -> boto3.Session:
        raise NotImplementedError

    def origin(self, name: str = "media", **options: Any) -> Origin:
        given = {"bucket": name, "region": "eu-west-1", "session": self.session(), "policy": A_DAY, **options}
        return Origin(name, **given)

    def origins(self, number: int) -> list[Origin]:
        """Return origins that share this source."""
        first = self.origin("media0")
        return [replace(first, name=f"media{n}", bucket=f"media{n}") for n in range(number)]

    def _begin(self) -> dict[str, Any]:
        self.asks.append(self._clock.time())
        self.asked.set()
        if not self.gate.wait(DEADLINE):
            self.was_waited_for = True
            raise RuntimeError("the test did not open the gate")
        self._clock.advance(self.takes)
        if self.failure is not None:
            raise self.failure
        if not self.is_stuck or not self.keys:
            number = len(self.keys) + 1
            end = self._clock.time() + self.seconds
            self.keys.append(
                {
                    "AccessKeyId": f"ASIATEST{number:08}",
                    "SecretAccessKey": f"a-secret-{number}-of-test-credentials",
                    "SessionToken": f"a-token-{number}-of-test-credentials",
                    "Expiration": datetime.fromtimestamp(end, UTC),
                }
            )
            self.ends[f"ASIATEST{number:08}"] = end
        return self.keys[-1]


class Role(Sessions):
    """What an origin with ``role_arn`` has: this answers AssumeRole in the place of STS."""

    renews_at = 2400  # seconds after an hour's session has begun

    def __init__(self, clock: Clock, *, seconds: float = 3600) -> None:
        super().__init__(clock, seconds=seconds)
        self.said: list[dict[str, Any]] = []  # of each request its parameters
        core = botocore.session.Session()
        self._session = boto3.Session("AKIABASE", "a-secret-of-the-base", botocore_session=core)
        self._session.events.register("before-parameter-build.sts.AssumeRole", self._note)
        self._session.events.register("before-call.sts.AssumeRole", self._answer)

    def session(self) -> boto3.Session:
        return self._session

    def origin(self, name: str = "media", **options: Any) -> Origin:
        return super().origin(name, **{"role_arn": ROLE, **options})

    def _note(self, params: dict[str, Any], **_: Any) -> None:
        self.said.append(dict(params))

    def _answer(self, **_: Any) -> Any:
        class Ok:
            status_code = 200

        return Ok, {"Credentials": self._begin()}


class Chain(Sessions):
    """What boto3 finds by itself: credentials of botocore that renew themselves when they are read."""

    renews_at = 2701  # at 2700 botocore sees no reason yet

    def __init__(
        self, clock: Clock, *, seconds: float = 3600, method: str = "test", account: str = ""
    ) -> None:
        super().__init__(clock, seconds=seconds)
        self.reads = 0  # by whoever; botocore asks the source in only some of them
        now = lambda: datetime.fromtimestamp(clock.time(), UTC)  # noqa: E731
        counting = self

        class Counted(DeferredRefreshableCredentials):
            def get_frozen_credentials(self) -> Any:
                counting.reads += 1
                return super().get_frozen_credentials()

        core: Any = botocore.session.Session()
        core._credentials = self.credentials = Counted(self._as_botocore_wants, method, time_fetcher=now)
        self._account = account
        self._session = boto3.Session(botocore_session=core)

    def session(self) -> boto3.Session:
        return self._session

    def _as_botocore_wants(self) -> dict[str, str]:
        keys = self._begin()
        return {
            "access_key": keys["AccessKeyId"],
            "secret_key": keys["SecretAccessKey"],
            "token": keys["SessionToken"],
            "expiry_time": keys["Expiration"].isoformat(),
            **({"account_id": self._account} if self._account else {}),
        }


@contextmanager
def held(sessions: Sessions) -> Iterator[None]:
    """Hold the source at its gate inside."""
    sessions.shut()
    try:
        yield
    finally:
        sessions.gate.set()
    assert not sessions.was_waited_for


def source_of(presigner: Presigner, origin: str = "media") -> Source:
    return presigner._signing._origins[origin].source


def settle(presigner: Presigner) -> None:
    """Wait until no thread asks a source in the background."""
    for origin in presigner.origins:
        background = source_of(presigner, origin)._background
        assert background.acquire(timeout=DEADLINE), "a source is still being asked"
        background.release()


def signed_by(url: object) -> str:
    """Return the access key that signed *url*."""
    found = re.search(r"X-Amz-Credential=(\w+)", str(url))
    return found[1] if found else repr(url)


def end_of(url: str, sessions: Sessions) -> float:
    """Return when S3 begins to refuse *url*."""
    query = dict(parse_qsl(urlsplit(url).query))
    date = timegm(strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ"))
    return min(date + int(query["X-Amz-Expires"]), sessions.ends[signed_by(url)])
