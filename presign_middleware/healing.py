"""
What is learned from S3's answers to signed fetches, and what is tried when one is refused.

A fetch is an `Attempt`, and may have another after it:

* Refused for what is wrong with its URL (its keys, its signature, its region, its date), it is
  signed anew and sent once more. One object has one remedy for one cause in a minute; whoever has
  fetched with the same URL shares it. A signature that is refused twice, though the second was new,
  is spoilt on its way: that client is left alone with URLs of that shape.
* An object that is not there is looked for in the fallback origin. Where it was found is
  remembered for a short time, in which it is asked for there alone, and links lead there.

S3's clock is read from its answers, and its region from a refusal that names it. Both are kept
for the origin, for as long as this process lives.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import floor
from threading import Lock
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from .epochs import Epochs
from .errors import SigningError
from .events import tell
from .local import Entry, Passing
from .metrics import Counts
from .objects import S3Object
from .origins import Origin
from .refusals import REFUSED, Cause, Reply, clock_of, refusal
from .resolver import Clock
from .rollout import Arms
from .runner import Runner
from .scope import Scope
from .signing import Signing
from .targets import Targets

__all__ = ["Attempt", "Healing"]

logger = logging.getLogger("presign_middleware.healing")

#: Seconds in which an object has one remedy for one cause.
_MINUTE = 60.0

#: Remedies, and answers of fallback origins, that are remembered.
_MOST_REMEDIES, _MOST_FOUND = 10_000, 100_000

#: Clients and shapes of URL that are left alone. With more, all may be tried again.
_MOST_STOPPED = 1_000

#: Answers by which S3's clock is told, the seconds by which it must differ, and may.
_DATES, _LEAST_OFFSET, _MOST_OFFSET = 5, 2.0, 86_400.0

#: What S3 sends with a refusal that may be for keys that are past.
_RENEWS: frozenset[Cause] = frozenset({"credentials", "signature"})


class _Shape(NamedTuple):
    """What those fetches have in common of which one tells that signatures are spoilt on their way."""

    client: str
    origin: str
    form: str
    method: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.client} {self.method}"


class _Step(NamedTuple):
    """What is to be tried next."""

    object: S3Object
    failed: Entry | None = None  #: whose successor is wanted; None: any URL will do
    since: int = 0  #: the earliest date that its successor may have
    renews: bool = False  #: whether newer credentials are to be asked for
    cause: Cause | None = None  #: for which it is the remedy


class Attempt:
    """
    One signed fetch, from its URL to the answer. Clients send it, and tell what came of it::

        attempt = catch.sign("httpx")
        response = send(attempt.url)
        while attempt and attempt.heard(status, headers):
            attempt = attempt.again(Reply(status, headers, body))
            ...

    A client that cannot send its request's body twice does not, but tells of the refusal too.
    """

    __slots__ = (
        "_cause",
        "_client",
        "_entry",
        "_fallback",
        "_headers",
        "_healing",
        "_object",
        "_sent",
        "_tried",
        "_wanted",
        "url",
    )

    def __init__(
        self,
        healing: "Healing",
        client: str,
        wanted: S3Object,  # what the application asked for
        headers: Mapping[str, str],  # that are signed as well
        obj: S3Object,  # what is fetched: of a fallback origin, perhaps
        signed: "Entry | str",  # a URL that is kept, or one for this fetch alone
        cause: Cause | None = None,  # for which this is the remedy
        tried: frozenset[str] = frozenset(),  # origins
        fallback: str | None = None,  # an origin; None: as that of what is wanted says
    ) -> None:
        self._healing = healing
        self._client = client
        self._wanted = wanted
        self._headers = headers
        self._object = obj
        self._entry = signed if isinstance(signed, Entry) else None
        self._cause = cause
        self._tried = tried | {obj.origin}
        self._fallback = fallback
        self._sent = healing.wall()
        #: The signed URL. Its host is not always the one that was asked for.
        self.url = signed if isinstance(signed, str) else signed.url

    def heard(self, status: int, headers: Mapping[str, str]) -> bool:
        """
        Take note of an answer, and return whether `again` may know a remedy.

        *headers* has lower-case names. To be called as soon as they have come: they have the time.
        """
        return self._healing.hear(self, status, headers)

    def again(self, reply: Reply) -> "Attempt | None":
        """Return what to send in the place of this, or None: *reply* is for the application. May block."""
        step = self._healing.step(self, reply)
        if step is None:
            return None
        try:
            return self._next(step, self._healing.signed(step, self._headers))
        except SigningError:  # S3's own answer says more
            return None

    async def aagain(self, reply: Reply) -> "Attempt | None":
        """Return what `again` returns, without ever blocking the event loop."""
        step = self._healing.step(self, reply)
        if step is None:
            return None
        try:
            return self._next(step, await self._healing.asigned(step, self._headers))
        except SigningError:
            return None

    def note(self) -> str:
        """Return in one line what is known of what was asked for, for the exception of a refused fetch."""
        return self._healing.explain(self._object)

    def _next(self, step: _Step, signed: "Entry | str") -> "Attempt | None":
        if signed is step.failed:
            return None
        return Attempt(
            self._healing,
            self._client,
            self._wanted,
            self._headers,
            step.object,
            signed,
            step.cause or self._cause,
            self._tried,
            self._fallback,
        )

    def __repr__(self) -> str:
        return f"<Attempt at {self._object.origin}>"


class Healing:
    """What a presigner has learned from S3's answers."""

    def __init__(
        self,
        origins: dict[str, Origin],  # by name; one whose region is learned is replaced
        targets: Targets,
        signing: Signing,
        runner: Runner,
        arms: Arms,
        epochs: Epochs,
        counts: Counts,
        clock: Clock,
        scope: Callable[[], Scope | None],
        explain: Callable[[S3Object], str],  # in one line
    ) -> None:
        self._origins = origins
        self._targets = targets
        self._signing = signing
        self._runner = runner
        self._arms = arms
        self._epochs = epochs
        self._counts = counts
        self._clock = clock
        self._scope = scope
        self.explain = explain
        self._lock = Lock()
        self._dates: dict[str, deque[float]] = {}  # by origin, how far its clock was ahead of ours lately
        self._offsets: dict[str, float] = {}  # by origin, what was learned of that
        self._regions: dict[str, str] = {}
        self._remedies: OrderedDict[tuple[S3Object, Cause], tuple[float, str]] = OrderedDict()
        self._stopped: set[_Shape] = set()
        self._found: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()

    def begin(
        self, obj: S3Object, headers: Mapping[str, str], client: str, fallback: str | None = None
    ) -> Attempt:
        """
        Return the first attempt to fetch *obj*. May block; raises SigningError.

        *fallback*: the origin in which it is looked for besides; None: as its own says.
        """
        present = self.where(obj, fallback)
        signed = self.signed(_Step(present), headers)
        return Attempt(self, client, obj, headers, present, signed, fallback=fallback)

    async def abegin(
        self, obj: S3Object, headers: Mapping[str, str], client: str, fallback: str | None = None
    ) -> Attempt:
        """Return what `begin` returns, without ever blocking the event loop."""
        present = self.where(obj, fallback)
        signed = await self.asigned(_Step(present), headers)
        return Attempt(self, client, obj, headers, present, signed, fallback=fallback)

    def where(self, obj: S3Object, fallback: str | None = None) -> S3Object:
        """Return *obj*, or the object of a fallback origin that was found in its place lately."""
        found = self._found.get((obj.origin, obj.key)) if self._found else None
        if found is None or self._clock.monotonic() >= found[1]:
            return obj
        return next((one for one in self._chain(obj, fallback) if one.origin == found[0]), obj)

    def where_all(self, objects: Sequence[S3Object]) -> Sequence[S3Object]:
        """Return `where` of each of *objects*."""
        return [self.where(obj) for obj in objects] if self._found else objects

    @property
    def has_moved(self) -> bool:
        """Whether there may be objects that are asked for at another place than they were."""
        return bool(self._found or self._regions)

    def is_elsewhere(self, obj: S3Object) -> bool:
        """Return whether *obj* is one of them. An ``s3://`` target, which says no place, is."""
        return not obj.form or self.where(obj) is not obj

    def learned(self, origin: str) -> dict[str, str]:
        """Return what was learned of *origin*, for people."""
        said = {}
        if origin in self._regions:
            said["region"] = self._regions[origin]
        if offset := self._offsets.get(origin):
            said["clock"] = f"{abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} this host's"
        stopped = sorted({str(shape) for shape in self._stopped.copy() if shape.origin == origin})
        if stopped:
            said["healing"] = f"stopped for {', '.join(stopped)}: new signatures were refused as well"
        return said

    def wall(self) -> float:
        """Return the time by this host's clock."""
        return self._clock.time()

    # The rest is an attempt's.

    def signed(self, step: _Step, headers: Mapping[str, str]) -> Entry | str:
        """Return a URL for *step*. May block; raises SigningError."""
        if headers:
            url = self._runner.sign_once(step.object, headers)
            self._account_for_one()
            return url
        if step.failed is None:
            scope = self._scope()
            return self._arms.quick(step.object, None, scope) or self._arms.wait_for(step.object, None, scope)
        return self._runner.remedy(step.object, step.failed, step.since, self._scope(), renews=step.renews)

    async def asigned(self, step: _Step, headers: Mapping[str, str]) -> Entry | str:
        """Return what `signed` returns, without ever blocking the event loop."""
        if headers:
            url = await self._runner.asign_once(step.object, headers)
            self._account_for_one()
            return url
        if step.failed is None:
            scope = self._scope()
            return self._arms.quick(step.object, None, scope) or await self._arms.await_for(
                step.object, None, scope
            )
        return await self._runner.aremedy(
            step.object, step.failed, step.since, self._scope(), renews=step.renews
        )

    def _account_for_one(self) -> None:
        scope = self._scope()
        if scope is not None and scope.account is not None:
            scope.account.from_signer += 1

    def hear(self, attempt: Attempt, status: int, headers: Mapping[str, str]) -> bool:
        """Take note of an answer; see `Attempt.heard`."""
        obj, wanted = attempt._object, attempt._wanted
        if attempt.url.startswith("https:"):
            date = clock_of(headers)
            if date is not None:
                self._note(obj.origin, date, attempt._sent)
        if status < 400 and status not in REFUSED:
            self._counts.of(obj.origin).healed += attempt._cause is not None
            if obj.origin != wanted.origin:
                self._remember(wanted, obj.origin)
            elif self._found:
                self._found.pop((wanted.origin, wanted.key), None)
            return False
        return status in REFUSED or (status == 404 and self._untried(attempt) is not None)

    def step(self, attempt: Attempt, reply: Reply) -> _Step | None:
        """Return what to try after *reply*; None: nothing would help."""
        if reply.status == 404:
            return self._elsewhere(attempt)
        found = refusal(reply)
        if found is not None and found.region == _region(attempt.url):
            found = None  # answers name the region of their bucket whatever they are refused for
        cause = found.cause if found is not None else self._cause_of_head(attempt, reply)
        if cause is None or cause == "access":
            hides = self._origins[attempt._object.origin].hides_misses and reply.status == 403
            is_head = attempt._object.method == "HEAD" and not reply.body
            return self._elsewhere(attempt) if hides and (cause or is_head) else None
        if isinstance(attempt._entry, Passing):
            return None  # boto3's arm of a rollout is to do what boto3 does alone
        if attempt._cause is not None:
            self._give_up(attempt, cause)
            return None
        if not self._may(attempt, cause):
            return None
        if found is not None and found.region is not None and not self._move(attempt, found.region):
            return None
        obj = self._targets.present(attempt._object)
        return _Step(obj, attempt._entry, self._since(attempt, cause), cause in _RENEWS, cause)

    def _cause_of_head(self, attempt: Attempt, reply: Reply) -> Cause | None:
        """Return what is wrong with the URL of a refused HEAD, whose answer does not say it."""
        entry = attempt._entry
        if attempt._object.method != "HEAD" or entry is None or reply.body or reply.status == 301:
            return None
        date = clock_of(reply.headers)
        if date is not None and date >= entry.end:
            return "clock"
        present = self._signing.credential(attempt._object)
        is_other = present is not None and present.access_key != entry.credential.access_key
        return "credentials" if is_other else None

    def _may(self, attempt: Attempt, cause: Cause) -> bool:
        """Return whether a remedy may be tried, and note that it is."""
        if cause == "signature" and _shape(attempt) in self._stopped:
            return False
        key, now = (attempt._object, cause), self._clock.monotonic()
        with self._lock:
            at, url = self._remedies.get(key, (now - _MINUTE, ""))
            if now - at < _MINUTE:
                return url == attempt.url  # another fetch with the same URL, which has a successor by now
            if len(self._remedies) >= _MOST_REMEDIES:
                self._remedies.popitem(last=False)
            self._remedies[key] = now, attempt.url
            self._remedies.move_to_end(key)
        return True

    def _since(self, attempt: Attempt, cause: Cause) -> int:
        """Return the earliest date of a new URL: one of this window may have the bytes that were refused."""
        if cause == "region":
            return 0
        now = floor(self.wall() + self._signing.skew(attempt._object.origin))
        return now + (attempt._entry is not None and attempt._entry.date == now)

    def _give_up(self, attempt: Attempt, cause: Cause) -> None:
        self._counts.of(attempt._object.origin).unhealed += 1
        shape = _shape(attempt)
        if cause != "signature" or shape in self._stopped:
            return
        with self._lock:
            if len(self._stopped) >= _MOST_STOPPED:
                self._stopped.clear()
            self._stopped.add(shape)
        tell(
            logger,
            logging.WARNING,
            "healing_stopped",
            "S3 refuses the signatures of origin %s that %s sends, new ones too: something between changes "
            "the request. Its refused fetches (%s) are not sent again",
            shape.origin,
            shape.client,
            shape.method,
            origin=shape.origin,
            client=shape.client,
        )

    # Fallback origins.

    def _chain(self, obj: S3Object, fallback: str | None) -> list[S3Object]:
        """Return *obj*, and what is asked for in its place, one after another."""
        chain = [obj]
        while (following := self._targets.fallback(chain[-1], fallback)) is not None:
            chain.append(following)
            if fallback is not None:
                break
        return chain

    def _untried(self, attempt: Attempt) -> S3Object | None:
        chain = self._chain(attempt._wanted, attempt._fallback)
        return next((one for one in chain if one.origin not in attempt._tried), None)

    def _elsewhere(self, attempt: Attempt) -> _Step | None:
        obj = self._untried(attempt)
        return None if obj is None else _Step(obj)

    def _remember(self, wanted: S3Object, found: str) -> None:
        self._counts.of(wanted.origin).fallbacks += 1
        key, ttl = (wanted.origin, wanted.key), self._targets.policy(wanted).fallback_ttl
        now = self._clock.monotonic()
        with self._lock:
            name, until = self._found.get(key, ("", now))
            if name == found and now < until:
                return  # or one that is asked for all the time would never be looked for where it belongs
            if len(self._found) >= _MOST_FOUND:
                self._found.popitem(last=False)
            self._found[key] = found, now + ttl
            self._found.move_to_end(key)

    # S3's clock and region.

    def _note(self, origin: str, date: int, sent: float) -> None:
        """Take note of the *date* of an answer to what was *sent* then, by this host's clock."""
        skew = self._signing.skew(origin) - self._offsets.get(origin, 0.0)  # the policy's
        since, until = sent + skew, self.wall() + skew
        if until < since:  # this host's clock was set back in between
            return
        # The answer is from some instant in between, and of that second.
        least, most = date - until, date + 1 - since
        offset = 0.0 if least <= 0 <= most else (least + most) / 2
        if abs(offset) > _MOST_OFFSET:
            return
        with self._lock:
            dates = self._dates.setdefault(origin, deque(maxlen=_DATES))
            dates.append(offset)
            learned = sorted(dates)[len(dates) // 2]
            learned = learned if abs(learned) > _LEAST_OFFSET else 0.0
            known = self._offsets.get(origin, 0.0)
            if learned == known or (learned and abs(learned - known) <= _LEAST_OFFSET):
                return
            self._offsets[origin] = learned
            self._signing.shift(origin, learned)
            self._epochs.shift(origin, skew + learned)
        self._runner.drop(origin)  # what is held is served by another time than S3's
        self._counts.clocks_learned += 1
        tell(
            logger,
            logging.WARNING,
            "clock_learned",
            "the clock of this host differs from S3's by %.0f s, as the answers to origin %s say: its URLs "
            "are dated by S3's from now on. Set this host's clock by NTP",
            learned,
            origin,
            origin=origin,
            seconds=round(learned, 1),
        )

    def _move(self, attempt: Attempt, region: str) -> bool:
        """Sign for *region* from now on; False: it cannot be meant."""
        name = attempt._object.origin
        with self._lock:
            origin = self._origins[name]
            if _partition(region) != _partition(str(origin.region)):
                return False
            if region == origin.region:
                return True  # another fetch has learned it just now
            before, self._origins[name] = origin.region, replace(origin, region=region)
            self._targets.move(self._origins[name])
            self._signing.move(self._origins[name])
            self._regions[name] = region
        self._runner.drop(name)
        self._counts.regions_learned += 1
        tell(
            logger,
            logging.WARNING,
            "region_learned",
            "origin %s is configured for region %s, and its bucket is in %s: its URLs are signed for that "
            "from now on. Write it into the configuration",
            name,
            before,
            region,
            origin=name,
            region=region,
        )
        return True


def _shape(attempt: Attempt) -> _Shape:
    obj = attempt._object
    names = tuple([name for name, _ in obj.params])
    return _Shape(attempt._client, obj.origin, obj.form, obj.method, names)


def _region(url: str) -> str:
    """Return the region that *url* was signed for."""
    return parse_qs(urlsplit(url).query)["X-Amz-Credential"][0].split("/")[2]


def _partition(region: str) -> str:
    """Return what a region's hosts have in common with those of others."""
    return "cn" if region.startswith("cn-") else ""
