"""
What is wrong around a presigner, and its cure.

S3, this host's clock, the credentials and memcached are looked at as a fetch would meet them:
one object of each origin is asked for that is not there. Nothing is written, neither to S3
nor to memcached; nothing that is found holds a signature.

Instants are Unix seconds, durations seconds.
"""

import os
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPException
from itertools import permutations
from secrets import token_hex
from typing import Any, Literal
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from .errors import PresignError
from .explaining import Explanation
from .memcached import Failed, State
from .origins import Origin
from .policy import Policy
from .presigner import Presigner
from .redaction import redact
from .refusals import MOST_READ, Refusal, Reply, clock_of, code_of, refusal
from .shared import Look, Shared

__all__ = ["Finding", "Level", "examine"]

Level = Literal["ok", "warning", "failure"]

#: Seconds for each step of a fetch, and for learning which memcached servers there are.
_WITHIN = 5.0

#: Origins that are asked at once.
_MOST_ASKED = 8

#: Begins the name of the object that is asked for, after the origin's prefix. It is not there.
_PROBE = "presign-middleware-doctor-"

#: Seconds by which the clocks may differ unnoticed, and by which URLs become too short or too early.
_LEAST_OFFSET, _MOST_OFFSET = 2.0, 60.0

#: The part of a URL's lifetime for which it is at least to stay the same.
_LEAST_STABLE = 0.25

#: The part of what is stored in memcached, that is pushed out to make room, at which that is too much.
_MOST_EVICTED = 0.01

_CURES: Mapping[str, str] = {
    "ExpiredToken": "get new ones, or use a source that renews them itself: a role, a profile",
    "InvalidToken": "the session token does not go with the keys: set all three anew",
    "InvalidAccessKeyId": "S3 does not know this key, or no longer: set one that is active",
    "SignatureDoesNotMatch": "the secret key is not this key's, or something on the way changes requests",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    what: str  #: such as "region of media"
    detail: str
    cure: str = ""


def examine(presigner: Presigner, samples: Iterable[str] = ()) -> Iterator[Finding]:
    """
    Look at all that *presigner* rests on; yield what is found, good and bad, as it is known.

    *samples* are targets that are there, of which the headers are looked at. Blocks for some
    seconds where S3 or memcached does not answer. Raises nothing for what is wrong.
    """
    alone = presigner.alone()  # or what is signed here would be shared
    try:
        yield from _of_policies(presigner)
        yield from _of_places(list(presigner.origins.values()))
        with ThreadPoolExecutor(_MOST_ASKED) as pool:
            for probe in pool.map(lambda origin: _probed(alone, origin), presigner.origins.values()):
                yield from _of_origin(probe)
        yield from _of_memcached(presigner.shared)
        for sample in samples:
            yield _of_sample(alone, sample)
    finally:
        alone.close()


# Policies and places: nobody is asked.


def _of_policies(presigner: Presigner) -> Iterator[Finding]:
    policies: dict[Policy, list[str]] = {}
    for origin in presigner.origins.values():
        policies.setdefault(origin.policy or presigner.policy, []).append(origin.name)
    for policy, names in policies.items():
        rotation = policy.rotation(policy.lifetime)
        what = f"lifetime of {', '.join(names)}"
        detail = (
            f"{policy.lifetime} s; a new URL each {rotation.period} s; "
            f"handed out with {rotation.min_remaining:g} s left or more"
        )
        if rotation.signature_age < policy.lifetime:
            cure = f"lifetime={rotation.signature_age:.0f}, so that X-Amz-Expires says when they end"
            yield Finding("warning", what, f"{detail}; signature_age ends them sooner", cure)
        elif rotation.period < _LEAST_STABLE * policy.lifetime:
            cure = "raise lifetime, or lower min_remaining and ageing: each new URL is a miss for browsers"
            yield Finding("warning", what, detail, cure)
        else:
            yield Finding("ok", what, detail)


def _of_places(origins: Sequence[Origin]) -> Iterator[Finding]:
    for origin in origins:
        if origin.prefix and not origin.prefix.endswith("/"):
            detail = f"{origin.prefix!r} also covers keys such as {origin.prefix + 'x'!r}"
            yield Finding("warning", f"prefix of {origin.name}", detail, "end it with a slash")
    for inner, outer in permutations(origins, 2):
        if _place(inner) == _place(outer) and inner.prefix.startswith(outer.prefix):
            if inner.prefix == outer.prefix and origins.index(inner) < origins.index(outer):
                continue  # told once
            detail = f"{_uri(inner)} lies in {_uri(outer)} of {outer.name}: the longest prefix signs"
            if inner.prefix == outer.prefix:
                detail = f"{_uri(inner)} is that of {outer.name} too: only one of them signs"
            cure = "give them prefixes apart, unless this is meant"
            yield Finding("warning", f"prefix of {inner.name}", detail, cure)


def _place(origin: Origin) -> tuple[str, str | None]:
    return origin.bucket, origin.endpoint_url


def _uri(origin: Origin) -> str:
    return f"s3://{origin.bucket}/{origin.prefix}"


# Origins: S3 is asked.


@dataclass(slots=True)
class _Probe:
    """What came of asking for an object that is not there."""

    origin: Origin
    policy: Policy
    now: float  # by this host's clock
    explanation: Explanation
    unsigned: str = ""  # why nothing was sent
    unreached: str = ""  # why there is no answer
    is_secure: bool = False  # the answer is S3's, and nobody else's
    offset: float | None = None  # seconds that S3's clock is ahead of this host's
    replies: list[Reply] = field(default_factory=list)

    @property
    def refused(self) -> Refusal | None:
        """Why the last answer refuses the URL."""
        return refusal(self.replies[-1]) if self.replies else None

    @property
    def code(self) -> str:
        """S3's word for the last answer."""
        return code_of(self.replies[-1]) if self.replies else ""


def _probed(presigner: Presigner, origin: Origin) -> _Probe:
    target = f"{_uri(origin)}{_PROBE}{token_hex(8)}"
    clock, policy = presigner.clock, origin.policy or presigner.policy
    unsigned, unreached, is_secure, offset = "", "", False, None
    replies: list[Reply] = []
    try:
        attempt = presigner.attempt(target)
        is_secure = attempt.url.startswith("https:")
        while True:
            sent = clock.time()
            reply = _fetched(attempt.url, "GET", Range="bytes=0-0")
            if not replies:
                offset = _offset(reply, sent + policy.skew, clock.time() + policy.skew)
            replies.append(reply)
            refused = refusal(reply)
            if not attempt.heard(reply.status, reply.headers) or refused is None or refused.cause == "access":
                break
            following = attempt.again(reply)  # what was learned of the region, the clock
            if following is None:
                break
            attempt = following
    except PresignError as error:
        unsigned = str(error)
    except _UnreachedError as error:
        unreached = str(error)
    explanation = presigner.explain(target)
    return _Probe(origin, policy, clock.time(), explanation, unsigned, unreached, is_secure, offset, replies)


def _of_origin(probe: _Probe) -> Iterator[Finding]:
    if not probe.explanation.covered:
        yield Finding("warning", f"access to {probe.origin.name}", f"not looked at: {probe.unsigned}")
        return
    yield _of_credentials(probe)
    if probe.unreached:
        where = probe.origin.endpoint_url or f"AWS, {probe.origin.region}"
        cure = "is the endpoint right, and may this host reach it? HTTPS_PROXY and AWS_CA_BUNDLE are used"
        detail = f"no answer from {redact(where)} ({probe.unreached})"
        yield Finding("failure", f"access to {probe.origin.name}", detail, cure)
    if probe.replies:
        yield from _of_region(probe)
        yield _of_clock(probe)
        yield from _of_access(probe)


def _of_credentials(probe: _Probe) -> Finding:
    why, what, now = probe.explanation, f"credentials of {probe.origin.name}", probe.now + probe.policy.skew
    refused, end = probe.refused, probe.explanation.credentials_end
    key = f"{why.credentials}: {why.access_key}"
    detail = f"{key}, without an end"
    if end is not None:
        detail = f"{key} until {_utc(end)}"
    if end is not None and end <= now:
        detail = f"{key} ended {_utc(end)}, {now - end:.0f} s ago"
        return Finding("failure", what, detail, _CURES["ExpiredToken"])
    if probe.unsigned:
        return Finding(
            "failure", what, probe.unsigned, "have they ended? log in anew, or see what their source says"
        )
    if refused is not None and refused.cause in ("credentials", "signature"):
        return Finding(
            "failure", what, f"{key}: S3 refuses them ({probe.code})", _CURES.get(probe.code, "set new ones")
        )
    if why.credentials_reason == "assumed":
        detail = f"{key}, a session whose end nobody knows: taken to live {probe.policy.assumed_session:g} s"
        cure = "a source that knows the end (a role, credential_process); such URLs are not shared"
        return Finding("warning", what, detail, cure)
    least = probe.policy.rotation(probe.policy.lifetime).min_remaining
    if end is not None and end - now < least:
        cure = f"sessions that live longer, or a lower min_remaining ({least:g} s)"
        return Finding("warning", what, f"{detail}: {end - now:.0f} s, too short for min_remaining", cure)
    if end is not None and end - now < probe.policy.lifetime:
        cure = f"sessions that live longer, or a lower lifetime ({probe.policy.lifetime} s)"
        return Finding("warning", what, f"{detail}: URLs end with them, before their lifetime", cure)
    return Finding("ok", what, detail)


def _of_region(probe: _Probe) -> Iterator[Finding]:
    what, region = f"region of {probe.origin.name}", probe.origin.region
    refused = probe.refused
    learned = probe.explanation.learned.get("region")
    if learned is None and refused is not None and refused.cause == "region":
        learned = refused.region
    if learned is not None:
        cure = f"write region={learned} into the configuration: links are refused until that was learned"
        yield Finding("failure", what, f"configured is {region}, and the bucket is in {learned}", cure)
    elif refused is not None or probe.replies[-1].status in (200, 206, 404):
        yield Finding("ok", what, f"S3 takes {region}")


def _of_clock(probe: _Probe) -> Finding:
    what, offset = f"clock of {probe.origin.name}", probe.offset
    if offset is None:
        return Finding("warning", what, "S3's answer has no date")
    trust = "" if probe.is_secure else " (told over plain http: shown, not trusted)"
    cure = "set this host's clock by NTP"
    # Why it was refused before S3's clock was learned, where it was.
    refused = [found for reply in probe.replies if (found := refusal(reply)) and found.cause == "clock"]
    if abs(offset) <= _LEAST_OFFSET and not refused:
        return Finding("ok", what, f"this host's is S3's{trust}")
    detail = f"this host's is {abs(offset):.0f} s {'behind' if offset > 0 else 'ahead of'} S3's{trust}"
    if refused:
        return Finding("failure", what, f"{detail}: S3 refuses its URLs for their dates", cure)
    is_much = probe.is_secure and abs(offset) > _MOST_OFFSET
    return Finding("failure" if is_much else "warning", what, detail, cure)


def _of_access(probe: _Probe) -> Iterator[Finding]:
    what, status, code = f"access to {probe.origin.name}", probe.replies[-1].status, probe.code
    refused, said = probe.refused, f"{probe.replies[-1].status} {probe.code}".strip()
    if refused is not None and refused.cause == "access":
        detail = f"{said} for a key that is not there"
        if probe.origin.hides_misses:
            yield Finding("ok", what, f"{detail}, as hides_misses says")
            return
        cure = (
            "allow s3:ListBucket, without which S3 says 403 of what is missing; with a fallback origin, "
            "hides_misses=True does; whether keys may be read, --sample TARGET tells"
        )
        yield Finding("warning", what, detail, cure)
    elif refused is not None:
        return  # another finding says why
    elif code == "NoSuchBucket":
        yield Finding("failure", what, f"there is no bucket {probe.origin.bucket}", "name one that is there")
    elif status in (200, 206, 404):
        yield Finding("ok", what, f"{said} for a key that is not there")
    else:
        yield Finding("failure", what, f"{said} for a key that is not there", "is this an S3 server?")


def _of_sample(presigner: Presigner, target: str) -> Finding:
    what = f"sample {redact(target)}"
    try:
        reply = _fetched(presigner.url(target, method="HEAD"), "HEAD")
    except PresignError as error:
        return Finding("failure", what, f"not signed: {error}")
    except _UnreachedError as error:
        return Finding("failure", what, f"no answer ({error})")
    if reply.status != 200:
        cure = "403: s3:GetObject, or s3:ListBucket, is missing" if reply.status == 403 else ""
        return Finding("failure", what, f"S3 answers {reply.status}", cure)
    kept = redact(reply.headers.get("cache-control", ""))
    if not kept:
        cure = (
            "store objects with Cache-Control (private, max-age=...), or "
            'Origin(params={"ResponseCacheControl": ...}): a stable URL alone is cached little'
        )
        return Finding("warning", what, "has no Cache-Control", cure)
    return Finding("ok", what, f"Cache-Control: {kept}")


# Memcached.


def _of_memcached(shared: Shared | None) -> Iterator[Finding]:
    if shared is None:
        yield Finding("ok", "memcached", "none configured: each process by itself")
        return
    looks = shared.look(time.monotonic() + _WITHIN)
    if not looks:
        yield Finding("failure", "memcached", "its nodes are not known", "is the endpoint right?")
        return
    for look in looks:
        yield from _of_server(look, is_sealed=shared.is_sealed)
    namespace = f"namespace {shared.namespace!r}"
    if not shared.namespace:
        namespace = "no namespace: services with other rights on these servers need one each"
    yield Finding("ok", "sharing", namespace)


def _of_server(look: Look, *, is_sealed: bool) -> Iterator[Finding]:
    what = f"memcached {look.server}"
    if isinstance(look.state, Failed):
        cure = "start it, or correct the address; meanwhile every process signs for itself"
        skipped = "; this process does not ask it at present" if look.is_skipped else ""
        yield Finding("failure", what, f"no answer ({look.state}){skipped}", cure)
        return
    yield _of_memory(what, look.state)
    if look.is_skipped:
        yield Finding("warning", what, "answers again, and this process has yet to notice")
    if look.epochs == "unreadable":
        cure = "have all processes of this namespace use the same secret"
        yield Finding("failure", what, "what was taken back cannot be read", cure)
    if not (is_sealed or look.is_private):
        cure = "secret=, or memcacheds:// where only the way is not to be trusted"
        yield Finding("warning", what, "signatures lie there, and go there, in clear", cure)


def _of_memory(what: str, state: State) -> Finding:
    used, limit = (_number(state.stats, name) for name in ("bytes", "limit_maxbytes"))
    evicted, stored = (_number(state.stats, name) for name in ("evictions", "total_items"))
    detail = (
        f"version {state.version}, {state.round_trip * 1000:.2f} ms, "
        f"{used / 2**20:.1f} of {limit / 2**20:.0f} MB, {evicted} evictions"
    )
    if evicted > _MOST_EVICTED * stored:
        return Finding("warning", what, f"{detail} of {stored} entries stored", "give it more memory (-m)")
    return Finding("ok", what, detail)


def _number(stats: Mapping[str, Any], name: str) -> int:
    with suppress(KeyError, TypeError, ValueError):
        return int(stats[name])
    return 0


# Fetching.


class _UnreachedError(Exception):
    """There is no answer. Its text holds no URL."""


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow none: a signature is for one host."""


@cache
def _opener() -> OpenerDirector:
    # Of the standard library, which no hook signs for and which logs nothing.
    context = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE"))
    return build_opener(_NoRedirect, HTTPSHandler(context=context))


def _fetched(url: str, method: str, **headers: str) -> Reply:
    try:
        try:
            answer = _opener().open(Request(url, method=method, headers=headers), timeout=_WITHIN)
        except HTTPError as error:
            answer = error
        with answer:
            named = {name.lower(): value for name, value in answer.headers.items()}
            return Reply(answer.status, named, answer.read(MOST_READ))
    except URLError as error:
        raise _UnreachedError(redact(error.reason)) from None
    except (OSError, HTTPException, ValueError) as error:
        raise _UnreachedError(type(error).__name__) from None


def _offset(reply: Reply, since: float, until: float) -> float | None:
    """Return how far S3's clock was ahead when it answered, between *since* and *until* by this host's."""
    date = clock_of(reply.headers)
    if date is None:
        return None
    least, most = date - until, date + 1 - since  # the date is of a whole second
    return 0.0 if least <= 0 <= most else (least + most) / 2


def _utc(instant: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(instant))
