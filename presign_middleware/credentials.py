"""
Where keys come from, one snapshot of them, and when they end.

botocore's credential objects change under the reader's hands when they renew
themselves. Whoever signs uses a `Snapshot`: the keys and their end, read together.
"""

import logging
import os
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from math import inf
from threading import Lock
from time import sleep
from typing import Any, NamedTuple

from .errors import ConfigurationError, SigningError
from .origins import Origin
from .policy import FOREVER, Credential

__all__ = ["Snapshot", "Source", "boto_session", "effective"]

logger = logging.getLogger("presign_middleware.credentials")

#: Seconds before the end at which botocore begins to renew credentials on its own.
BOTOCORE_RENEWS = 900

#: Attempts, a millisecond apart, to read credentials between two renewals of theirs.
_MOST_READS = 1_000

#: Seconds a caller waits for another that is fetching credentials.
PATIENCE = 30


class Snapshot(NamedTuple):
    """One credential with its secret."""

    credential: Credential
    secret_key: str
    identity: str | None  #: whose it is; equal wherever its URLs may be shared. None: nowhere

    def __repr__(self) -> str:
        return f"<Snapshot of {self.credential!r}>"


class Source:
    """
    Where one origin's keys come from. One thread at a time asks; the rest wait for it.

    `present` does no I/O. When it returns None, `renew` comes first, which may.
    """

    def __init__(self, origin: Origin, assumed_session: float, time: Callable[[], float]) -> None:
        self._origin = origin
        self._time = time
        self._assumed_session = assumed_session
        self._lock = Lock()
        self._credentials: Any = None  # botocore's
        self._snapshot: Snapshot | None = None
        self._due = -inf  # when the source is to be asked again, Unix seconds

    @property
    def held(self) -> Snapshot | None:
        """The credentials at hand, whether or not the source is to be asked."""
        return self._snapshot

    def present(self, now: float) -> Snapshot | None:
        """Return the snapshot in use, or None when the source is to be asked."""
        return self._snapshot if now < self._due else None

    def renew(self) -> Snapshot:
        """
        Ask the source, if it is due, and return the snapshot. May block on I/O.

        While one caller asks, others get the credentials at hand; they wait only where
        there are none that work.

        Raises:
            SigningError: There are no credentials, or the source failed and those at
                hand have ended.
        """
        if not self._lock.acquire(blocking=False):
            held = self._snapshot
            if held is not None and self._time() < held.credential.end:
                return held
            if not self._lock.acquire(timeout=PATIENCE):
                raise SigningError(f"origin {self._origin.name!r}: waited {PATIENCE} s for its credentials")
        try:
            if self._snapshot is not None and self._time() < self._due:
                return self._snapshot
            fresh = self._asked()
            # The time is taken anew: a source may have taken its time to fail.
            self._due = self._next(fresh, self._time())
            self._snapshot = fresh
            return fresh
        finally:
            self._lock.release()

    def _asked(self) -> Snapshot:
        """Return what the source gives, or the credentials at hand where it fails and they still work."""
        try:
            return self._fetch(self._time())
        except SigningError:
            raise
        except Exception as error:  # botocore has no common base for what a provider may raise
            held = self._snapshot
            if held is None or held.credential.end <= self._time():
                raise SigningError(
                    f"origin {self._origin.name!r}: its credential source failed: {type(error).__name__}"
                ) from error
            logger.warning(
                "credentials of origin %s could not be renewed (%s); using those at hand",
                self._origin.name,
                type(error).__name__,
            )
            return held

    def _fetch(self, now: float) -> Snapshot:
        if self._credentials is None:
            self._credentials = _find(self._origin)
        if self._credentials is None:
            raise SigningError(
                f"origin {self._origin.name!r}: no credentials were found. Set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or give Origin(profile=...), session=... or client=..."
            )
        frozen, end = _read(self._credentials)
        if not frozen.access_key or not frozen.secret_key:
            raise SigningError(f"origin {self._origin.name!r}: its credentials have no key")
        credential = self._credential(frozen.access_key, frozen.token, end, now)
        return Snapshot(credential, frozen.secret_key, self._identity(frozen, credential))

    def _credential(self, access_key: str, token: str | None, end: float | None, now: float) -> Credential:
        held = self._snapshot.credential if self._snapshot is not None else None
        if end is not None:
            if held is not None and held.access_key == access_key and held.end == end:
                return held
            return Credential(now, end, "credentials", access_key, token)
        if token is None:
            return FOREVER._replace(access_key=access_key)
        if held is None or held.access_key != access_key:
            logger.warning(
                "the credentials of origin %s have a session token and no known end: taken to live %g s "
                "from each time they are seen. A credential source that knows the end (a role, "
                "credential_process) is the cure",
                self._origin.name,
                self._assumed_session,
            )
        return Credential(now, now + self._assumed_session, "assumed", access_key, token)

    def _identity(self, frozen: Any, credential: Credential) -> str | None:
        """Return what processes with these rights have in common, and know without asking anyone."""
        if credential.reason == "assumed":
            return None  # a fleet must not rely on a guess
        if credential.end == inf:
            return f"key {credential.access_key}"
        if self._origin.profile is not None:
            return f"profile {self._origin.profile}"
        return f"{self._credentials.method} {getattr(frozen, 'account_id', None) or ''}"

    def _next(self, fresh: Snapshot, now: float) -> float:
        obtained, end = fresh.credential.obtained, fresh.credential.end
        if end == inf:
            return inf
        left = end - now
        if fresh == self._snapshot:  # the same again: ask more often as the end comes near
            return now + min(60, left / 10)
        return max(end - min(BOTOCORE_RENEWS, (end - obtained) / 3), now + (end - obtained) / 10)


def _find(origin: Origin) -> Any:
    if origin.client is not None:
        # A client has no public name for the credentials it signs with.
        return origin.client._request_signer._credentials
    return boto_session(origin).get_credentials()


def _read(credentials: Any) -> tuple[Any, float | None]:
    """Return the keys and their end, of one and the same credential. May block on I/O."""
    frozen = credentials.get_frozen_credentials()
    # Only credentials that renew themselves know their end; botocore has no public name for it.
    if not isinstance(getattr(credentials, "_expiry_time", None), datetime):
        return frozen, None
    for _ in range(_MOST_READS):
        # Another thread may be renewing them. It sets the keys, then the end, then the frozen
        # copy: when copy and keys agree and the end stood still meanwhile, all are of one.
        end = credentials._expiry_time
        frozen = credentials._frozen_credentials
        keys = (credentials._access_key, credentials._secret_key, credentials._token)
        if keys == tuple(frozen[:3]) and end == credentials._expiry_time:
            break
        sleep(0.001)
    return frozen, end.timestamp()


def boto_session(origin: Origin) -> Any:
    """Return the boto3 session that *origin* is configured with; a new one unless it was given."""
    if origin.session is not None:
        return origin.session
    import boto3
    from botocore.exceptions import ProfileNotFound

    try:
        return boto3.Session(profile_name=origin.profile)
    except ProfileNotFound as error:
        raise ConfigurationError(f"origin {origin.name!r}: {error}") from error


def effective(origin: Origin) -> Origin:
    """
    Return *origin* with everything it left to boto3 filled in: its region, and with a client its endpoint.

    Raises:
        ConfigurationError: boto3's configuration has no region either, or no such profile.
    """
    if origin.client is not None:
        return _of_client(origin)
    if origin.profile is not None:
        boto_session(origin)  # says now, and not at the first request, that there is no such profile
    if origin.endpoint_url is None and not origin.bucket.startswith("arn:"):
        origin = replace(origin, endpoint_url=_endpoint_of_environment())
    if origin.region is not None:
        return origin
    region = origin.arn_region or boto_session(origin).region_name
    if region is None and origin.endpoint_url is not None:
        region = "us-east-1"  # what S3-compatible servers take when nobody says
    if region is None:
        raise ConfigurationError(
            f'origin {origin.name!r} has no region: give Origin(region="eu-west-1"), '
            "or set AWS_DEFAULT_REGION or the profile's region"
        )
    return replace(origin, region=region)


def _endpoint_of_environment() -> str | None:
    """Return the endpoint that boto3 takes from the environment."""
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


#: Endpoints that a client has without having been given one.
_is_boto_choice = re.compile(
    r"https://s3(-accelerate)?(\.dualstack)?(\.[a-z0-9-]+)?\.amazonaws\.com(\.cn)?"
).fullmatch


def _of_client(origin: Origin) -> Origin:
    meta = origin.client.meta
    endpoint = origin.endpoint_url or meta.endpoint_url
    if _is_boto_choice(endpoint):
        endpoint = None  # nobody gave it: boto3 chooses host and style for each bucket
    style = origin.addressing_style
    if style == "auto":
        style = (meta.config.s3 or {}).get("addressing_style", "auto")
    return replace(
        origin,
        region=origin.region or origin.arn_region or meta.region_name,
        endpoint_url=endpoint,
        addressing_style=style,
    )
