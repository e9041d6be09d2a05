"""
The processes of a fleet, for tests of what they share: presigners with credentials of their own.

    with Fleet() as fleet:
        one, other = (fleet.member(server.url, fleet.session(name)) for name in ("ONE", "TWO"))

All are on one clock, and one strict S3 knows all their keys. A `Process` is a real one.
"""

import contextlib
import json
import subprocess
import sys
import time
from calendar import timegm
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

import boto3
import botocore.session
from botocore.credentials import Credentials, RefreshableCredentials

from presign_middleware import Origin, Policy, Presigner
from presign_middleware.testing import Clock, Oracle, S3Request

DEADLINE: Final = 20  # seconds after which a test that has gone wrong stops waiting

#: Seconds for the shared cache where a test is not about patience: a busy machine must not matter.
PATIENT: Final = 10.0

SECRET: Final = "a+secret/of-the-fleet"
REGION: Final = "eu-west-1"
MEDIA: Final = "https://media.s3.eu-west-1.amazonaws.com"


def boto_session(credentials: Any) -> boto3.Session:
    """Return a session that has *credentials*, of botocore's kinds."""
    session: Any = botocore.session.Session()
    session._credentials = credentials
    return boto3.Session(botocore_session=session)


def let_publish(presigner: Presigner) -> None:
    """Wait until what *presigner* wants to publish is published, or has failed to be."""
    presigner._runner._sharing._publishers.close()  # type: ignore[union-attr]


def counted(presigner: Presigner, *names: str) -> tuple[int, ...]:
    """Return these counters of *presigner*."""
    stats = presigner.stats()
    return tuple([stats[name] for name in names])


def dated(url: str) -> int:
    """Return X-Amz-Date of *url* in Unix seconds."""
    return timegm(time.strptime(parse_qs(urlsplit(url).query)["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ"))


def access_key(url: str) -> str:
    """Return the access key that signed *url*."""
    return parse_qs(urlsplit(url).query)["X-Amz-Credential"][0].partition("/")[0]


class Fleet:
    """Presigners on one clock, closed with the block, and a strict S3 that knows their keys."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.oracle = Oracle(clock=self.clock)
        self._stack = contextlib.ExitStack()
        self._buckets: set[str] = set()

    def static(self, access_key: str = "AKIAFLEET") -> boto3.Session:
        """Return a user's keys, which never end."""
        self.oracle.add_key(access_key, SECRET)
        return boto_session(Credentials(access_key, SECRET))

    def session(
        self,
        access_key: str,
        *,
        seconds: float = 43_200,
        method: str = "test",
        token: str | None = "token+of/{}==",  # None: keys that end, and have none
    ) -> boto3.Session:
        """Return temporary keys that end in *seconds*; the next ones are called ``NEXT`` + *access_key*."""
        form = token

        def keys(access_key: str) -> Any:
            end, token = self.clock.time() + seconds, None if form is None else form.format(access_key)
            self.oracle.add_key(access_key, SECRET, token=token, ends=end if token else None)
            ends = datetime.fromtimestamp(end, UTC).isoformat()
            return {"access_key": access_key, "secret_key": SECRET, "token": token, "expiry_time": ends}

        given = keys(access_key)
        credentials = RefreshableCredentials(
            given["access_key"],
            given["secret_key"],
            given["token"],
            datetime.fromisoformat(given["expiry_time"]),
            lambda: keys(f"NEXT{access_key}"),
            method,
            time_fetcher=lambda: datetime.fromtimestamp(self.clock.time(), UTC),
        )
        return boto_session(credentials)

    def member(
        self,
        shared: str | None,
        credentials: boto3.Session,
        *,
        origins: Sequence[str] = ("media",),
        patience: float = PATIENT,
        place: Mapping[str, Any] | None = None,  # of its origins
        policy: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Presigner:
        """Return a presigner, as one process has it; each origin is called after its bucket."""
        settings = {"region": REGION, "session": credentials, **(place or {})}
        presigner = Presigner(
            *[Origin(name, **{"bucket": name, **settings}) for name in origins],
            shared=shared,
            policy=Policy(shared_patience=patience, **(policy or {})),
            clock=self.clock,
            **options,
        )
        self._stack.callback(presigner.close)
        return presigner

    def refused(self, urls: Sequence[str], targets: Sequence[str]) -> list[tuple[str, str | None]]:
        """Return those of *targets* whose URL does not fetch that very object, and what S3 says."""
        found = []
        for url, target in dict(zip(urls, targets, strict=True)).items():
            bucket, _, key = target.removeprefix("s3://").partition("/")
            if bucket not in self._buckets:
                self.oracle.create_bucket(bucket, region=REGION)
                self._buckets.add(bucket)
            self.oracle.put(bucket, key, target.encode())
            parts = urlsplit(url)
            answer = self.oracle.answer(
                S3Request("GET", parts.path, parts.query, headers=(("host", parts.netloc),))
            )
            if (answer.status, answer.body) != (200, target.encode()):
                found.append((target, answer.code))
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()


_PROCESS: Final = """
import json, sys
from datetime import datetime
import boto3, botocore.session
from botocore.credentials import Credentials, RefreshableCredentials
from presign_middleware import Origin, Policy, Presigner

told = json.loads(sys.stdin.readline())
keys = told["keys"]
session = botocore.session.Session()
if "end" in keys:
    end = datetime.fromisoformat(keys.pop("end"))
    session._credentials = RefreshableCredentials(
        **keys, expiry_time=end, refresh_using=None, method="assume-role"
    )
else:
    session._credentials = Credentials(**keys)
origin = Origin("media", session=boto3.Session(botocore_session=session), **told["origin"])
policy = Policy(shared_patience=told["patience"], invalidation_lag=told["lag"])
presigner = Presigner(origin, shared=told["shared"], secret=told["secret"], policy=policy)
print("ready", flush=True)
for line in sys.stdin:
    match json.loads(line):
        case {"invalidate": target}:
            urls = presigner.invalidate(target)
        case {"revoke": origin}:
            urls = presigner.revoke(origin)
        case targets:
            urls = presigner.urls(targets)
    print(json.dumps([urls, presigner.stats()]), flush=True)
presigner.close()
"""


class Process:
    """
    A process that has one presigner, whose origin is called ``media``.

    Args:
        keys: Of botocore: access_key, secret_key and, of a session, token and end, an instant in ISO 8601.
        secret: As `Presigner` has it, in text.
        origin: Arguments of its `Origin`.
    """

    def __init__(
        self,
        shared: str,
        keys: Mapping[str, str],
        *,
        lag: float = 2.0,
        secret: Sequence[str] | None = None,
        **origin: str,
    ) -> None:
        self._running = subprocess.Popen(
            [sys.executable, "-c", _PROCESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        told = {"shared": shared, "keys": keys, "origin": origin, "secret": secret}
        self._say({**told, "patience": PATIENT, "lag": lag})

    def wait_until_ready(self) -> None:
        """Wait until it has imported and configured everything, and has signed nothing."""
        assert self._hear() == "ready\n"

    def ask(self, targets: Sequence[str]) -> None:
        """Have it ask for *targets* in one call, without waiting for the answer."""
        self._say(targets)

    def take_back(self, **what: str) -> None:
        """Have it call ``invalidate=`` a target, or ``revoke=`` an origin, and wait until it has."""
        self._say(what)
        self._hear()

    def urls(self, targets: Sequence[str]) -> list[str]:
        """Return the URLs of *targets* that it hands out now."""
        self.ask(targets)
        return self.answer()[0]

    def answer(self) -> tuple[list[str], dict[str, int]]:
        """Return the URLs that it was asked for, and its counters."""
        urls, stats = json.loads(self._hear())
        return urls, stats

    def _say(self, what: object) -> None:
        assert self._running.stdin is not None
        self._running.stdin.write(f"{json.dumps(what)}\n")
        self._running.stdin.flush()

    def _hear(self) -> str:
        assert self._running.stdout is not None
        return self._running.stdout.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            self._running.kill()
        self._running.communicate(timeout=DEADLINE)
        if exc is None:
            assert self._running.returncode == 0
