"""
Where keys come from, one snapshot of them, and when they end.

botocore's credential objects change under the reader's hands when they renew
themselves. Whoever signs uses a `Snapshot`: the keys and their end, read together.

A source is asked again in the background when a third of its credentials' life is left;
what is at hand is used meanwhile. Nobody waits before no URL can be signed with it.
"""

import hashlib
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from math import inf
from threading import Lock, Thread
from time import sleep
from typing import Any, NamedTuple

from .errors import ConfigurationError
from .events import tell
from .metrics import Counts
from .origins import Origin
from .policy import FOREVER, Credential
from .redaction import hushed
from .resolver import Clock

__all__ = ["Clients", "Snapshot", "Source", "SourceError", "Sources", "effective", "fingerprint"]

logger = logging.getLogger("presign_middleware.credentials")

#: Seconds before the end at which botocore begins to renew credentials on its own.
BOTOCORE_RENEWS = 900

#: What botocore calls the credentials of an EC2 instance. Near their end it tells a later one, 12 to 20
#: minutes ahead (botocore#2694), in the hope that a metadata service that is down comes back.
_INSTANCE, _EXTENDED, _LEFT_OF_EXTENDED = "iam-role", 1_200, 300

#: Attempts, a millisecond apart, to read credentials between two renewals of theirs.
_MOST_READS = 1_000

#: Seconds a caller waits for another that is fetching credentials.
PATIENCE = 30

#: Seconds for which a source is due before nobody can be using it. One that fails is due anew each minute.
_UNUSED = 120

#: Pairs of keys that a source remembers: sessions are renewed long before they end, so few are in use.
_MOST_KNOWN = 16

#: Seconds for STS to take a connection and to answer, and how often it is tried: within `PATIENCE` in all.
_STS_CONNECT, _STS_READ, _STS_ATTEMPTS = 2, 4, 3


class SourceError(Exception):
    """There are no credentials, or their source failed. What is asked for an origin names it besides."""


class Snapshot(NamedTuple):
    """One credential with its secret."""

    credential: Credential
    secret_key: str
    identity: str | None  #: whose it is; equal wherever its URLs may be shared. None: nowhere

    def has(self, access_key: str, secret_key: str, token: str | None) -> bool:
        """Return whether these are the keys."""
        return (access_key, secret_key, token) == (
            self.credential.access_key,
            self.secret_key,
            self.credential.token,
        )

    def __repr__(self) -> str:
        return f"<Snapshot of {self.credential!r}>"


class Keys(NamedTuple):
    """What a provider gives."""

    access_key: str
    secret_key: str
    token: str | None
    end: float | None  #: None: nobody knows, or never
    method: str  #: botocore's word for where they are from
    account: str

    def __repr__(self) -> str:
        return f"<Keys {self.access_key} until {self.end}>"


class Answer(NamedTuple):
    """
    What a source has given, and when it may give something else. Instants are AWS's.

    There is a new one whenever it was asked: whatever was concluded from one holds while it is the last.
    """

    snapshot: Snapshot | None  #: None: it was not asked yet
    due: float  #: when the source is to be asked again
    soonest: float  #: when it may be, should someone have a reason
    offset: float  #: monotonic less AWS's time when it was asked

    @property
    def began(self) -> float:
        """Monotonic less AWS's time when the session at hand was obtained; inf: there is no session."""
        snapshot = self.snapshot
        return inf if snapshot is None or snapshot.credential.end == inf else self.offset


def fingerprint(access_key: str, secret_key: str) -> bytes:
    """Return what tells a pair of keys from all others, and the secret to nobody."""
    return hashlib.sha256(f"{access_key} {secret_key}".encode("utf-8", "surrogatepass")).digest()


class Source:
    """
    Where keys come from. One thread at a time asks; whoever has none that work waits for it.

    `present` does no I/O. When it returns None, `renew` comes first, which may.
    """

    def __init__(
        self,
        label: str,  # for people and for metrics
        fetch: Callable[[], Keys],
        identity: str | None,  # of temporary credentials; None: their method and account
        lead: float,  # seconds before the end at which asking has a point
        assumed_session: float,
        skew: float,  # seconds by which AWS's clock, which tells the ends, is ahead of this host's
        clock: Clock,
        counts: Counts,
    ) -> None:
        self.label = label
        self._fetch = fetch
        self._identity = identity
        self._lead = lead
        self._assumed_session = assumed_session
        self._skew = skew
        self._clock = clock
        self._counts = counts
        self._lock = Lock()  # of whoever asks
        self._background = Lock()  # of the thread that asks while nobody waits
        #: The last one. All in one, since others read it without a lock.
        self.answer = Answer(None, -inf, -inf, 0.0)
        self._asks = 0
        self._failure: SourceError | None = None  # of the last ask
        self._told_short = ""  # the access key of whom it was told
        self._known: deque[bytes] = deque(maxlen=_MOST_KNOWN)  # fingerprints

    @property
    def held(self) -> Snapshot | None:
        """The credentials at hand, whether or not they work."""
        return self.answer.snapshot

    def knows(self, keys: bytes) -> bool | None:
        """Return whether this source gave *keys*, a `fingerprint`, now or lately; None: it was not asked."""
        return keys in self._known if self._known else None

    @property
    def failure(self) -> str:
        """Why the source had no credentials when it was asked last; "": it had, or was not asked."""
        failure = self._failure
        return "" if failure is None else str(failure)

    @property
    def now(self) -> float:
        """The time by AWS's clock, whatever was done to this host's since the source was asked."""
        return max(self._time(), self._clock.monotonic() - self.answer.offset)

    def present(self, wall: float, monotonic: float) -> tuple[Snapshot | None, Answer, float]:
        """
        Return the snapshot to sign with at *wall*, by AWS's clock; None: the source must be asked first.

        The second is the answer that it is from; the third that time, or what it would be by now,
        since a clock that is set back revives nothing.
        """
        answer = self.answer
        snapshot, now = answer.snapshot, max(wall, monotonic - answer.offset)
        if snapshot is not None and now >= answer.due:
            if now >= snapshot.credential.end:
                snapshot = None
            else:
                self._ask_in_background()
        return snapshot, answer, now

    def shift(self, skew: float) -> None:
        """Take AWS's clock for *skew* seconds ahead of this host's; when to ask is asked anew."""
        # Without the lock, which whoever asks holds for seconds: this may be an event loop's thread.
        while True:
            answer = self.answer
            shifted = Answer(answer.snapshot, -inf, -inf, answer.offset - (skew - self._skew))
            if self.answer is answer:  # or another thread has asked; none comes between this and the next
                self.answer = shifted
                break
        self._skew = skew

    @property
    def is_in_use(self) -> bool:
        """Whether somebody wants its keys: only then is it asked when it is due."""
        return self.now < self.answer.due + _UNUSED

    def is_due(self, now: float) -> bool:
        """Return whether asking the source *now* may bring newer credentials."""
        return now >= self.answer.due

    def renew(self, than: Credential | None = None) -> Snapshot:
        """
        Ask the source, if it is due, and return the snapshot. May block on I/O.

        *than*: only newer credentials than this one are of use, also before it is due. While
        one caller asks, others get the credentials at hand; they wait only where there are
        none of use, and share its failure.

        Raises:
            SourceError: There are no credentials, or the source failed and those at hand
                have ended.
        """
        asks = self._asks
        if not self._lock.acquire(blocking=False):
            held = self.held
            if held is not None and held.credential is not than and self.now < held.credential.end:
                return held
            if not self._lock.acquire(timeout=PATIENCE):
                raise SourceError(f"waited {PATIENCE} s for its credentials")
        try:
            if self._failure is not None and self._asks != asks:
                raise SourceError(*self._failure.args) from self._failure.__cause__
            held = self.held
            if held is not None and self.now < self._due_than(held.credential, than):
                return held
            return self._ask()
        finally:
            self._lock.release()

    def _due_than(self, held: Credential, than: Credential | None) -> float:
        """Return when the source is to be asked, if newer credentials are wanted than *than*."""
        if than is None:
            return self.answer.due
        # Another process's session may have bound a URL: one of ours that is old would soon do so again.
        is_old = self.now > (held.obtained + held.end) / 2
        return self.answer.soonest if held.end <= than.end or is_old else self.answer.due

    def tell_short(self, credential: Credential, wanted: float, least: float) -> None:
        """Tell, once, that *credential* cannot carry URLs with *wanted* seconds left, but *least*."""
        if self._told_short == credential.access_key:
            return
        self._told_short = credential.access_key
        tell(
            logger,
            logging.WARNING,
            "credentials_short",
            "the credentials of %s are too short for URLs with %g s left: some will have %g s",
            self.label,
            wanted,
            least,
            source=self.label,
            seconds=least,
        )

    def _time(self) -> float:
        return self._clock.time() + self._skew

    def _ask_in_background(self) -> None:
        if not self._background.acquire(blocking=False):
            return

        def ask() -> None:
            try:
                self.renew()
            except SourceError:
                pass  # told already; whoever needs it next will ask again
            finally:
                self._background.release()

        try:
            Thread(target=ask, name="presign-credentials", daemon=True).start()
        except RuntimeError:  # no more threads, or the interpreter is ending
            self._background.release()

    def _ask(self) -> Snapshot:
        """Return what the source gives, or the credentials at hand where it fails and they still work."""
        held, self._failure = self.held, None
        try:
            with hushed():
                keys = self._fetch()
            fresh, has_failed = self._given(keys), False
        except Exception as error:  # botocore has no common base for what a provider may raise
            fresh, has_failed = self._kept(error), True
        finally:
            self._asks += 1
        # The time is taken anew: a source may have taken its time.
        wall = self._time()
        offset = self._clock.monotonic() - wall
        due, soonest = self._next(fresh, wall)
        known = fingerprint(fresh.credential.access_key, fresh.secret_key)
        if known not in self._known:
            self._known.append(known)
        # What is kept ends by the clock of when it was given: one that was set back revives nothing.
        self.answer = Answer(fresh, due, soonest, min(offset, self.answer.offset) if has_failed else offset)
        # Telling comes last, since a logging handler may take its time.
        if fresh != held:
            self._tell_of(fresh, held)
        return fresh

    def _kept(self, error: Exception) -> Snapshot:
        """Tell of *error*, and return the credentials at hand. Raises SourceError where none work."""
        cause = error.__cause__ if isinstance(error, SourceError) else error
        name = type(cause or error).__name__
        held = self.held
        if held is not None and self.now >= held.credential.end:
            held = None
        tell(
            logger,
            logging.WARNING,
            "credentials_failed",
            "credentials could not be had from %s (%s)%s",
            self.label,
            name,
            "; using those at hand" if held else "",
            source=self.label,
            error=name,
        )
        self._counts.credentials_failed += 1
        if held is None:
            said = str(error) if isinstance(error, SourceError) else f"its credential source failed: {name}"
            self._failure = SourceError(said)
            raise self._failure from cause
        return held

    def _given(self, keys: Keys) -> Snapshot:
        if not keys.access_key or not keys.secret_key:
            raise SourceError("its credentials have no key")
        held = self.held
        credential = self._credential(keys, self._time())
        if held is not None and held == Snapshot(credential, keys.secret_key, held.identity):
            return held
        return Snapshot(credential, keys.secret_key, self._whose(keys, credential))

    def _credential(self, keys: Keys, now: float) -> Credential:
        access_key, secret_key, token, end, method, _ = keys
        if end is not None:
            held = self.held
            if held is not None and held.has(access_key, secret_key, token):
                known = held.credential
                return known if end >= known.end else known._replace(end=end)  # no session is prolonged
            if method == _INSTANCE and end < now + _EXTENDED:
                end = min(end, now + _LEFT_OF_EXTENDED)
            return Credential(now, end, "credentials", access_key, token)
        if token is None:
            return FOREVER._replace(access_key=access_key)
        return Credential(now, now + self._assumed_session, "assumed", access_key, token)

    def _whose(self, keys: Keys, credential: Credential) -> str | None:
        """Return what processes with these rights have in common, and know without asking anyone."""
        if credential.reason == "assumed":
            return None  # a fleet must not rely on a guess
        if credential.end == inf:
            return f"key {credential.access_key}"
        return self._identity or f"{keys.method} {keys.account}"

    def _next(self, fresh: Snapshot, now: float) -> tuple[float, float]:
        """Return when the source is to be asked again, and when it may be."""
        obtained, end = fresh.credential.obtained, fresh.credential.end
        if end == inf:
            return inf, inf
        soonest = now + min(60, (end - now) / 10)
        if fresh is self.held:  # the same again: ask more often as the end comes near
            return soonest, soonest
        span = end - obtained
        return max(end - min(self._lead, span / 3), now + span / 10), soonest

    def _tell_of(self, fresh: Snapshot, held: Snapshot | None) -> None:
        credential = fresh.credential
        if credential.end == inf:
            return
        seconds = round(credential.end - credential.obtained, 3)
        if credential.reason == "credentials":
            tell(
                logger,
                logging.INFO,
                "credentials_renewed",
                "new credentials of %s, which live %g s",
                self.label,
                seconds,
                source=self.label,
                seconds=seconds,
            )
        elif held is None or held.credential.access_key != credential.access_key:
            tell(
                logger,
                logging.WARNING,
                "credentials_assumed",
                "the credentials of %s have a session token and no known end: taken to live %g s from each "
                "time they are seen. A credential source that knows the end (a role, credential_process) "
                "is the cure",
                self.label,
                seconds,
                source=self.label,
                seconds=seconds,
            )


class Sources:
    """The sources of some origins. Origins with the same credentials have one between them."""

    def __init__(self, clock: Clock, counts: Counts, clients: "Clients") -> None:
        self._clock = clock
        self._counts = counts
        self._clients = clients
        self._sources: dict[Hashable, Source] = {}

    def of(self, origin: Origin, assumed_session: float, skew: float) -> Source:
        """Return the source of *origin*'s credentials."""
        key: Hashable = (_kind(origin), assumed_session, skew)
        source = self._sources.get(key)
        if source is None:
            label, identity, lead, fetch = _provider(origin, self._clients)
            source = Source(label, fetch, identity, lead, assumed_session, skew, self._clock, self._counts)
            self._sources[key] = source
        return source

    def each(self) -> list[Source]:
        """Return all sources."""
        return list(self._sources.values())


def _kind(origin: Origin) -> Hashable:
    """Return what tells the source of *origin*'s credentials from others."""
    if origin.client is not None:
        return "client", id(origin.client)
    base = (id(origin.session) if origin.session is not None else None, origin.profile)
    if origin.role_arn is not None:
        return "role", base, origin.role_arn, origin.external_id, origin.sts_endpoint_url, origin.region
    return "boto3", base


def _provider(origin: Origin, clients: "Clients") -> tuple[str, str | None, float, Callable[[], Keys]]:
    """Return the label, the identity, the lead and the fetching of *origin*'s credentials."""
    if origin.role_arn is not None:
        whose = f"role {origin.role_arn} {origin.external_id or ''}"
        return f"role {origin.role_arn}", whose, inf, _Role(origin, clients).fetch
    label, identity = "boto3's default chain", None
    if origin.profile is not None:
        label = identity = f"profile {origin.profile}"
    elif origin.session is not None:
        label = "a session"
    elif origin.client is not None:
        label = "a client"
    return label, identity, BOTOCORE_RENEWS, _Boto3(origin).fetch


class _Role:
    """A role's sessions, by AssumeRole."""

    def __init__(self, origin: Origin, clients: "Clients") -> None:
        self._origin = origin
        self._clients = clients
        self._client: Any = None

    def fetch(self) -> Keys:
        """Return a new session. Blocks on I/O."""
        if self._client is None:
            self._client = self._new_client()
        asked = {"RoleArn": self._origin.role_arn, "RoleSessionName": "presign-middleware"}
        if self._origin.external_id is not None:
            asked["ExternalId"] = self._origin.external_id
        given = self._client.assume_role(**asked)["Credentials"]
        account = str(self._origin.role_arn).split(":")[4]
        return Keys(
            given["AccessKeyId"],
            given["SecretAccessKey"],
            given["SessionToken"],
            given["Expiration"].timestamp(),
            "assume-role",
            account,
        )

    def _new_client(self) -> Any:
        from botocore.config import Config

        config = Config(
            connect_timeout=_STS_CONNECT,
            read_timeout=_STS_READ,
            retries={"mode": "standard", "total_max_attempts": _STS_ATTEMPTS},
        )
        origin = self._origin
        return self._clients.new(
            origin, "sts", region_name=origin.region, endpoint_url=origin.sts_endpoint_url, config=config
        )


class _Boto3:
    """What boto3 finds: in its default chain, a profile, a session or a client."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._credentials: Any = None  # botocore's

    def fetch(self) -> Keys:
        """Return the keys of now. May block on I/O."""
        if self._credentials is None:
            self._credentials = _find(self._origin)
        if self._credentials is None:
            raise SourceError(
                "no credentials were found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or give Origin(profile=...), session=..., client=... or role_arn=..."
            )
        frozen, end = _read(self._credentials)
        account = getattr(frozen, "account_id", None) or ""
        return Keys(
            frozen.access_key,
            frozen.secret_key,
            frozen.token,
            end,
            getattr(self._credentials, "method", None) or "",
            account,
        )


def _find(origin: Origin) -> Any:
    if origin.client is not None:
        # A client has no public name for the credentials it signs with.
        return origin.client._request_signer._credentials
    return _boto_session(origin).get_credentials()


def _read(credentials: Any) -> tuple[Any, float | None]:
    """Return the keys and their end, of one and the same credential. May block on I/O."""
    from datetime import datetime

    frozen = credentials.get_frozen_credentials()
    # Only credentials that renew themselves know their end; botocore has no public name for it.
    if not isinstance(getattr(credentials, "_expiry_time", None), datetime):
        return frozen, None
    for _ in range(_MOST_READS):
        # Another thread may be renewing them. It sets the keys, the end and the frozen copy, in
        # an order that depends on the version: when copy and keys agree and the end stood still
        # meanwhile, and no other end is about to be set, all are of one.
        end = credentials._expiry_time
        frozen = credentials._frozen_credentials
        keys = (credentials._access_key, credentials._secret_key, credentials._token)
        is_staged = getattr(credentials, "_staged_expiry_time", None) is not None
        if keys == tuple(frozen[:3]) and end == credentials._expiry_time and not is_staged:
            break
        sleep(0.001)
    return frozen, end.timestamp()


class Clients:
    """
    Makes boto3's clients for any number of origins, in any number of threads.

    Origins that bring no session have one a profile between them: a session's first client takes some
    100 ms and each further one 15, since it keeps what it has read, and tenants are many.
    """

    def __init__(self) -> None:
        self._sessions: dict[str | None, Any] = {}
        self._lock = Lock()  # a session does not make two clients at once

    def new(self, origin: Origin, service: str, **options: Any) -> Any:
        """Return a client of *service* with boto3's *options*, as *origin* is configured. No network."""
        with self._lock:
            session = origin.session or self._sessions.get(origin.profile)
            if session is None:
                session = self._sessions[origin.profile] = _boto_session(origin)
            return session.client(service, **options)


def _boto_session(origin: Origin) -> Any:
    """Return the boto3 session that *origin* is configured with; a new one unless it was given."""
    if origin.session is not None:
        return origin.session
    import boto3
    from botocore.exceptions import ProfileNotFound

    try:
        return boto3.Session(profile_name=origin.profile)
    except ProfileNotFound as error:
        raise ConfigurationError(f"origin {origin.name!r}: {error}") from error


def effective(origins: Sequence[Origin]) -> list[Origin]:
    """
    Return *origins* with all they left to boto3 filled in: the region, and with a client the endpoint.

    Raises:
        ConfigurationError: boto3's configuration has no region either, or no such profile.
    """
    sessions: dict[str | None, Any] = {}  # by profile: making one takes 10 ms, and tenants are many
    return [_effective(origin, sessions) for origin in origins]


def _effective(origin: Origin, sessions: dict[str | None, Any]) -> Origin:
    if origin.client is not None:
        return _of_client(origin)

    def session() -> Any:
        if origin.session is not None:
            return origin.session
        if origin.profile not in sessions:
            sessions[origin.profile] = _boto_session(origin)
        return sessions[origin.profile]

    if origin.profile is not None:
        session()  # says now, and not at the first request, that there is no such profile
    if origin.endpoint_url is None and not origin.bucket.startswith("arn:"):
        origin = replace(origin, endpoint_url=_endpoint_of_environment())
    if origin.region is not None:
        return origin
    region = origin.arn_region or session().region_name
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
_BOTO_CHOICE = r"https://s3(-accelerate)?(\.dualstack)?(\.[a-z0-9-]+)?\.amazonaws\.com(\.cn)?"


def _of_client(origin: Origin) -> Origin:
    meta = origin.client.meta
    endpoint = origin.endpoint_url or meta.endpoint_url
    if re.fullmatch(_BOTO_CHOICE, endpoint):
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
