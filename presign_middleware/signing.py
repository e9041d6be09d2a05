"""
Signatures: plans, and boto3 as their oracle and their fallback.

For every shape of URL boto3 is asked for one, for a marker key with every awkward
character. A plan learns host, path and query from the answer and signs the marker
again. Only when the two agree byte for byte does the plan sign that shape; otherwise
boto3 does, one by one.
"""

import hmac
import logging
import time
from abc import ABC, abstractmethod
from binascii import crc32  # zlib's, in three quarters of the time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from math import floor, inf
from threading import Lock
from time import perf_counter
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

from .credentials import Answer, Clients, Snapshot, Source, SourceError, Sources
from .epochs import Epochs
from .errors import SigningError
from .events import tell
from .local import Entry, Passing, Service
from .metrics import SAMPLED, Counts, Tally
from .objects import PLAIN, SIGNED_PARAMETERS, Kind, S3Object, quote_key, quote_keys
from .origins import Origin
from .plans import DAY, DIGEST, Composer, Plan, Shelf, Signature, Signer
from .policy import FOREVER, LONGEST, Credential, Policy, Rotation
from .redaction import hushed
from .resolver import Clock
from .scope import paused

__all__ = ["OriginSigning", "Signing"]

logger = logging.getLogger("presign_middleware.signing")

_OPERATIONS = {"GET": "get_object", "HEAD": "head_object", "PUT": "put_object", "DELETE": "delete_object"}
_BOTO_NAMES = {wire: name for name, wire in SIGNED_PARAMETERS.items()}

#: A key with everything that could be escaped differently.
_MARKER = "marker/~-_. ü€😀+%25%zz!*'()@:$&,;=?#[]\"<>|{}^`//x"
_MARKER_VALUE = "ü +%25&=/~\"'();*"
_MARKER_VALUES = {"partNumber": "7", "response-expires": "Wed, 21 Oct 2026 07:28:00 GMT", "x-id": "GetObject"}

#: Seconds by which the wall clock must run away from the monotonic one to have been set.
_STEP = 2.0

#: Seconds after which what was found to be so is looked at again, at most.
_LEASE = 60.0

#: Other processes' credentials whose URLs are put together here, for each recipe and day.
_MOST_COMPOSERS = 256

#: Recipes kept for one origin: made anew in 20 us, and parameter values may be without end.
_MOST_RECIPES = 1_000

#: Clients kept to learn from: regions, endpoints and sessions may be as many as origins.
_MOST_EXAMPLES = 16

#: Leases kept for all origins, which may be many: each is a tuple, and had again in 2 us. Of kinds with
#: parameters, of which an origin keeps no more recipes than that, leases are kept while they are fewer.
_MOST_LEASES = 10_000

#: Shapes kept for one origin: more than that are a caller's mistake, and are learned anew.
_MOST_PLANS = 64

#: Tells the earliest date, by S3's clock, that a URL of an object may have.
_Epochs = Callable[[S3Object], int]


#: A recipe, and for how long it may be used without a further question: while the source has given this
#: answer, the monotonic clock is before an instant, and monotonic less wall time, the offset, lies between
#: two bounds: so does the wall clock then. And the offset when the session was obtained; inf: there is none.
#: A bare tuple, which Python takes apart in a third of the time.
_Lease = tuple["_Recipe", Source, Answer, float, float, float, float]


class _Recipe(ABC):
    """All that signing an object of one kind needs but its key: who signs, with what, for how long."""

    #: What these URLs have in common; None: other processes cannot use them.
    shelf: Shelf | None = None

    def __init__(self, snapshot: Snapshot, rotation: Rotation, skew: float, tally: Tally) -> None:
        self.snapshot = snapshot
        least = rotation.least(snapshot.credential)
        #: By S3's clock: what is signed from then on cannot be served.
        self.good_until = snapshot.credential.end - least
        #: Whether the credentials are too short for URLs that have *min_remaining* left.
        self.is_short = least < rotation.min_remaining
        self._rotation = rotation
        self._skew = float(skew)  # beside a clock's float it is added sooner
        self._tally = tally

    @abstractmethod
    def entry(
        self, obj: S3Object, wall: float, offset: float, epochs: _Epochs | None
    ) -> Entry | SigningError:
        """
        Return a new URL of *obj*, which is of the kind that this is for.

        It is not dated earlier than *epochs* says of its object. *offset*: monotonic less wall time.
        """

    def entries(
        self, objects: Sequence[S3Object], wall: float, offset: float, epochs: _Epochs | None
    ) -> tuple[Sequence[Entry], SigningError | None]:
        """Return what `entry` does of *objects*, up to the first error, and that."""
        return _up_to_error(self.entry(obj, wall, offset, epochs) for obj in objects)

    @abstractmethod
    def latest(self, phase: int, now: float) -> int:
        """Return the latest date that a URL of *phase* may have *now*."""

    def adopted(self, obj: S3Object, signature: Signature, offset: float) -> Entry | None:
        """Return the URL of *obj* with the *signature* of another process; None: it must not be used."""
        return None


class _PlanRecipe(_Recipe):
    """Signs by a plan, with one credential, one lifetime and one set of parameter values."""

    def __init__(
        self, plan: Plan, snapshot: Snapshot, rotation: Rotation, obj: S3Object, skew: float, tally: Tally
    ) -> None:
        super().__init__(snapshot, rotation, skew, tally)
        if snapshot.identity is not None:
            self.shelf = Shelf(snapshot.identity, plan.region, plan.base)
        self._plan = plan
        self._values = dict(obj.params)
        #: Of every URL that the credential does not cut short: of those dated until then.
        self._service = Service.of(rotation.life(0, snapshot.credential), 0, skew, snapshot.credential)
        self._is_lasting = snapshot.credential.end == inf
        self._whole_until = snapshot.credential.end - rotation.lifetime
        self._period = rotation.period
        self._signers: dict[int, Signer] = {}
        self._composers: dict[tuple[Credential, int], Composer] = {}  # of other processes' credentials

    def entry(
        self, obj: S3Object, wall: float, offset: float, epochs: _Epochs | None
    ) -> Entry | SigningError:
        """Return a URL that is dated at the start of its present window, or at its epoch."""
        tally = self._tally
        began = None if tally.signed % SAMPLED else perf_counter()
        present = floor(wall + self._skew)
        path = obj[1]
        if (data := path.encode()).translate(None, PLAIN):
            path = quote_key(path)
            data = path.encode()
        phase = crc32(data)
        date = window = present - (present - phase) % self._period  # `Rotation.date`
        if epochs is not None:
            date = max(window, epochs(obj))
        url = (self._signers.get(date // DAY) or self._signer(date // DAY)).sign(path, date)
        tally.signed += 1
        if self.is_short:
            tally.short_lived += 1
        if began is not None:
            tally.measured.plan_seconds += perf_counter() - began
            tally.measured.plans_timed += 1
        if date is window and (self._is_lasting or date <= self._whole_until):  # as most are
            return self._service.entry(obj, url, date, offset, tally)
        return _alive(self._entry(obj, url, date, self.snapshot.credential, offset, phase), wall)

    def entries(
        self, objects: Sequence[S3Object], wall: float, offset: float, epochs: _Epochs | None
    ) -> tuple[Sequence[Entry], SigningError | None]:
        """Return what `entry` does of *objects*, in half the time: step by step for all of them."""
        if len(objects) == 1:
            return super().entries(objects, wall, offset, epochs)
        began, tally = perf_counter(), self._tally
        answers = self._entries(objects, wall, offset, epochs)
        tally.signed += len(objects)
        if self.is_short:
            tally.short_lived += len(objects)
        tally.measured.plan_seconds += perf_counter() - began
        tally.measured.plans_timed += len(objects)
        return answers

    def _entries(
        self, objects: Sequence[S3Object], wall: float, offset: float, epochs: _Epochs | None
    ) -> tuple[Sequence[Entry], SigningError | None]:
        present, period, signers = floor(wall + self._skew), self._period, self._signers
        paths = quote_keys(objects)
        phases = [crc32(path.encode()) for path in paths]
        dates = windows = [present - (present - phase) % period for phase in phases]  # `Rotation.date`
        if epochs is not None:
            dates = [max(window, epochs(obj)) for window, obj in zip(windows, objects, strict=True)]
        urls = [
            (signers.get(date // DAY) or self._signer(date // DAY)).sign(path, date)
            for path, date in zip(paths, dates, strict=True)
        ]
        if dates is windows and present <= self._whole_until:  # all of them are like most
            entry, tally = self._service.entry, self._tally
            entries = [
                entry(obj, url, date, offset, tally)
                for obj, url, date in zip(objects, urls, dates, strict=True)
            ]
            return entries, None
        credential = self.snapshot.credential
        return _up_to_error(
            _alive(self._entry(obj, url, date, credential, offset, phase), wall)
            for obj, url, date, phase in zip(objects, urls, dates, phases, strict=True)
        )

    def adopted(self, obj: S3Object, signature: Signature, offset: float) -> Entry | None:
        """Return the URL of *obj* with *signature*, which is checked where this process has the key."""
        path, own = quote_key(obj.key), self.snapshot.credential
        date, digest, credential = signature
        if credential.access_key == own.access_key:
            url, credential = self.sign(path, date), own
            if not hmac.compare_digest(url[-DIGEST:], digest):
                return None
        elif inf in (own.end, credential.end) or (own.token is None) != (credential.token is None):
            return None  # a lasting key is part of the cache key, and this plan has a token or none
        else:
            url = self._composer(credential, date // DAY).url(path, date, digest)
        return self._entry(obj, url, date, credential, offset, crc32(path.encode()))

    def latest(self, phase: int, now: float) -> int:
        """Return the start of the window."""
        return self._rotation.date(phase, now)

    def sign(self, path: str, date: int) -> str:
        """Return the URL of the key that is quoted as *path*, signed at *date*."""
        return self._signer(date // DAY).sign(path, date)

    def _entry(
        self, obj: S3Object, url: str, date: int, credential: Credential, offset: float, phase: int
    ) -> Entry:
        service = self._service
        if date > self._whole_until or credential is not self.snapshot.credential:
            service = Service.of(self._rotation.life(date, credential, phase), date, self._skew, credential)
        elif into := (phase - date) % self._rotation.period:  # it begins inside a window, and turns with it
            service = service.fresh_for(into - self._skew)
        return service.entry(obj, url, date, offset, self._tally)

    def _composer(self, credential: Credential, day: int) -> Composer:
        composer = self._composers.get((credential, day))
        if composer is None:
            if len(self._composers) >= _MOST_COMPOSERS:
                self._composers.clear()
            composer = Composer(self._plan, credential, day, self._rotation.lifetime, self._values)
            self._composers[credential, day] = composer
        return composer

    def _signer(self, day: int) -> Signer:
        signer = self._signers.get(day)
        if signer is None:
            if len(self._signers) > LONGEST // DAY + 1:  # more days than URLs live are past
                self._signers.clear()
            signer = Signer(self._plan, self.snapshot, day, self._rotation.lifetime, self._values)
            self._signers[day] = signer
        return signer


class _BotoRecipe(_Recipe):
    """
    Has boto3 sign a shape that no plan can make. Such a URL is dated now, by this host's clock.

    It has no shelf: without a plan, another process's signature cannot be made a URL.
    """

    def __init__(
        self, boto: "_Boto", snapshot: Snapshot, rotation: Rotation, skew: float, tally: Tally
    ) -> None:
        super().__init__(snapshot, rotation, skew, tally)
        self._boto = boto

    def entry(
        self, obj: S3Object, wall: float, offset: float, epochs: _Epochs | None
    ) -> Entry | SigningError:
        """Return what boto3 makes of *obj*, taken for as late as its epoch: it signs after that."""
        epoch = 0 if epochs is None else epochs(obj)
        try:
            url = _signed_by_boto3(self._boto, obj, {}, self._tally)
        except SigningError as error:
            return error
        self._tally.short_lived += self.is_short
        date, credential = _date(url), self.snapshot.credential
        since = max(floor(date + self._skew), epoch)  # by S3's clock, as epochs are
        service = Service.of(self._rotation.life(date, credential), since, self._skew, credential)
        return _alive(service.entry(obj, url, since, offset, self._tally), wall)

    def latest(self, phase: int, now: float) -> int:
        """Return this second."""
        return floor(now)


class _Shape(NamedTuple):
    """What a plan is for."""

    form: str
    method: str
    names: tuple[str, ...]
    has_token: bool

    @classmethod
    def of(cls, obj: S3Object, snapshot: Snapshot) -> "_Shape":
        """Return the shape of *obj*'s URL when *snapshot* signs it."""
        # Sorted: nine names have too many orders to learn a plan for each.
        names = tuple(sorted(name for name, _ in obj.params))
        return cls(obj.form, obj.method, names, snapshot.credential.token is not None)


class _Boto:
    """One boto3 client, which signs for one credential. Builds in about 15 ms; signs in about 0.3."""

    def __init__(self, clients: Clients, origin: Origin, snapshot: Snapshot) -> None:
        from botocore.config import Config

        given: Any = Config() if origin.client is None else origin.client.meta.config
        # SigV2 is what boto3 presigns with by default in the oldest regions, and the
        # global host is what it makes by default of SigV4: it fails in newer regions.
        style = "path" if origin.path_style else "virtual"
        s3: Any = {**(given.s3 or {}), "addressing_style": style, "us_east_1_regional_endpoint": "regional"}
        self.snapshot = snapshot
        self._lock = Lock()
        self._form = ""
        self._query: str | None = None
        self._headers: Mapping[str, str] = {}
        self._key = ""
        self._client = clients.new(
            origin,
            "s3",
            region_name=origin.region,
            endpoint_url=origin.endpoint_url,
            aws_access_key_id=snapshot.credential.access_key,
            aws_secret_access_key=snapshot.secret_key,
            aws_session_token=snapshot.credential.token,
            config=given.merge(Config(signature_version="s3v4", s3=s3)),
        )
        self._client.meta.events.register("before-sign.s3", self._complete)

    def url(self, obj: S3Object, headers: Mapping[str, str]) -> str:
        """Return what boto3 makes of *obj*, signed now, with *headers* signed too. Raises SigningError."""
        params: dict[str, Any] = {_BOTO_NAMES[n]: v for n, v in obj.params if n in _BOTO_NAMES}
        if "PartNumber" in params:
            params["PartNumber"] = int(params["PartNumber"])
        with self._lock:
            self._form, self._key, self._headers = obj.form, obj.key, headers
            named = len(params) == len(obj.params)
            self._query = None if named else "&".join(f"{n}={quote(v, safe='-._~')}" for n, v in obj.params)
            try:
                with hushed(), paused():  # a hook must not answer the very call that it rests on
                    url: str = self._client.generate_presigned_url(
                        _OPERATIONS[obj.method],
                        Params={"Bucket": obj.bucket, "Key": obj.key, **params},
                        ExpiresIn=obj.lifetime,
                    )
            except Exception as error:  # botocore has no common base for them
                raise SigningError(
                    f"origin {obj.origin!r}: boto3 cannot sign {obj.method} for bucket {obj.bucket!r}: "
                    f"{type(error).__name__}: {error}"
                ) from error
        return url

    def _complete(self, request: Any, **_: Any) -> None:
        # What boto3 has no argument for: other hosts of the same bucket, x-id, further headers.
        if self._form:
            _, mark, query = request.url.partition("?")
            request.url = f"{self._form}{quote_key(self._key)}{mark}{query}"
        if self._query is not None:
            request.url = f"{request.url.partition('?')[0]}?{self._query}"
        for name, value in self._headers.items():
            request.headers[name] = value


class _Examples:
    """
    URLs that boto3 signs with keys of nobody's, for plans to be learned from.

    No real key is needed to learn a form, and none can then be in an error's text. Origins that differ
    in nothing but their buckets have one client between them, since tenants are many.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._botos: dict[Hashable, _Boto] = {}
        self._lock = Lock()

    def of(self, origin: Origin, obj: S3Object, snapshot: Snapshot) -> str:
        """Return what boto3 makes of *obj*, which is in *origin*, now."""
        given = id(origin.client), id(origin.session), origin.profile
        place = origin.region, origin.endpoint_url, origin.path_style
        with self._lock:
            boto = self._botos.get((given, place, snapshot))
            if boto is None:
                if len(self._botos) >= _MOST_EXAMPLES:
                    self._botos.clear()
                boto = self._botos[given, place, snapshot] = _Boto(self._clients, origin, snapshot)
        return boto.url(obj, {})


class _Steps:
    """Notices that this host's wall clock was set."""

    def __init__(self, clock: Clock, counts: Counts) -> None:
        self._counts = counts
        self._offset = clock.monotonic() - clock.time()

    def look(self, offset: float) -> None:
        """Look at the *offset* of now, monotonic less wall time: what it runs away by slowly is no step."""
        seconds, self._offset = self._offset - offset, offset
        if -_STEP < seconds < _STEP:
            return
        self._counts.clock_steps += 1
        tell(
            logger,
            logging.WARNING,
            "clock_stepped",
            "this host's clock was set %s by %g s; URLs held here end by the time that has really passed",
            "forward" if seconds > 0 else "back",
            round(abs(seconds), 3),
            seconds=round(seconds, 3),
        )


class OriginSigning:
    """Signs for one origin."""

    def __init__(
        self,
        origin: Origin,
        counts: Counts,
        sources: Sources,
        clients: Clients,
        examples: _Examples,
        steps: _Steps,
    ) -> None:
        self.origin = origin
        self._clients = clients
        self._examples = examples
        self._steps = steps
        self.policy = origin.policy or Policy()
        #: Seconds that S3's clock is ahead of this host's: as the policy says, and as its answers do.
        self.skew = self.policy.skew
        self._counts = counts
        self._tally = counts.of(origin.name)
        self.source = sources.of(origin, self.policy.assumed_session, self.policy.skew)
        self._plans: dict[_Shape, Plan | None] = {}  # None: boto3 signs this shape
        self._recipes: dict[Kind, _Recipe] = {}
        self._learning = Lock()
        self._boto: _Boto | None = None  # of the snapshot in use

    def lease(self, obj: S3Object, wall: float, monotonic: float) -> _Lease | None:
        """Return what signs *obj* and its like, and for how long, or None if `prepare` must come first."""
        offset = monotonic - wall
        self._steps.look(offset)
        snapshot, answer, now = self.source.present(wall + self.skew, monotonic)
        recipe = self._recipe(obj, snapshot)
        if recipe is None:
            return None
        until = -inf  # not at all
        least, most = offset - _STEP, offset + _STEP
        if now < recipe.good_until:
            ends = min(recipe.good_until, answer.due)  # by S3's clock
            until = min(ends - self.skew + least, ends + answer.offset, monotonic + _LEASE)
        elif self.source.is_due(now) or self.source.held is not recipe.snapshot:
            return None  # there may be newer keys; if not, the recipe will say why it is of no use
        return recipe, self.source, answer, until, least, most, answer.began + self.skew

    def offset(self, present: float) -> float:
        """Return *present*, monotonic less wall time; of when the session began, if it was set back since."""
        return min(present, self.source.answer.began + self.skew)

    def outgrown(self, obj: S3Object) -> Credential | None:
        """Return the credential that should sign *obj* if it is too old for that."""
        recipe = self.last_recipe(obj)
        if recipe is None or self.source.now < recipe.good_until:
            return None
        return recipe.snapshot.credential

    def last_recipe(self, obj: S3Object) -> _Recipe | None:
        """Return what signs *obj*, or has signed it: its credentials may be past. None: nothing yet."""
        return self._recipe(obj, self.source.held)

    def signer(self, obj: S3Object) -> str:
        """Return what would sign *obj*, "plan" or "boto3"; "": nothing of its shape was signed yet."""
        held = self.source.held
        if held is None:
            return ""
        try:
            return "boto3" if self._plans[_Shape.of(obj, held)] is None else "plan"
        except KeyError:
            return ""

    def is_common(self, obj: S3Object) -> bool:
        """Return whether other processes may sign *obj* otherwise, or are to be asked anyway."""
        if self.policy.shared_reads == "always":
            return True
        recipe = self.last_recipe(obj)
        return recipe is None or recipe.snapshot.credential.end != inf

    def dated(self, obj: S3Object, wall: float) -> int:
        """Return the latest date that a URL of *obj*'s key may have, of any kind that is in use here."""
        phase, now = crc32(quote_key(obj.key).encode()), wall + self.skew
        usual = self.policy.rotation(self.policy.lifetime).date(phase, now)
        return max([usual, *(recipe.latest(phase, now) for recipe in list(self._recipes.values()))])

    def shift(self, seconds: float) -> None:
        """Take S3's clock for so many *seconds* further ahead than the policy says."""
        self.source.shift(self.policy.skew + seconds)
        self.skew = self.policy.skew + seconds
        self._recipes = {}  # not clear(): what another thread makes of what was, it puts where nobody looks

    def move(self, origin: Origin) -> None:
        """Sign for *origin* from now on: the same one, in another region."""
        with self._learning:
            self.origin = origin
            self._boto = None
            self._plans = {}
            self._recipes = {}  # as in `shift`

    def sign_once(self, obj: S3Object, headers: Mapping[str, str]) -> str:
        """Return a URL whose signature covers *headers*. May block; raises SigningError."""
        return _signed_by_boto3(self._boto_of(self.renew()), obj, headers, self._tally)

    def sign_by_boto3(self, obj: S3Object, wall: float, monotonic: float) -> Entry | SigningError:
        """Return what boto3 makes of *obj* now, for one call alone. May block; raises SigningError."""
        snapshot = self.source.present(wall + self.skew, monotonic)[0] or self.renew()
        recipe = self._passing(obj, snapshot)
        if self.source.now >= recipe.good_until:
            recipe = self._passing(obj, self.renew(snapshot.credential))
        answer = recipe.entry(obj, wall, self.offset(monotonic - wall), None)
        if isinstance(answer, Entry):
            answer.__class__ = Passing
        return answer

    def _passing(self, obj: S3Object, snapshot: Snapshot) -> _Recipe:
        rotation = self.policy.rotation(obj.lifetime, obj.share)
        with self._learning:  # boto3's sessions do not make two clients at once
            boto = self._boto_of(snapshot)
        return _BotoRecipe(boto, snapshot, rotation, self.skew, self._tally)

    def renew(self, than: Credential | None = None) -> Snapshot:
        """Return credentials to sign with, fetched if need be. May block; raises SigningError."""
        try:
            return self.source.renew(than)
        except SourceError as error:
            raise self.failure(error) from error.__cause__

    def failure(self, error: SourceError) -> SigningError:
        """Return *error* as this origin's callers are to see it."""
        failure = SigningError(f"origin {self.origin.name!r}: {error}")
        failure.__cause__ = error.__cause__
        return failure

    def _recipe(self, obj: S3Object, snapshot: Snapshot | None) -> _Recipe | None:
        if snapshot is None:
            return None
        recipes = self._recipes
        recipe = recipes.get(obj.kind)
        if recipe is not None and recipe.snapshot is snapshot:
            return recipe
        return self._new_recipe(obj, snapshot, recipes)

    def learn(self, obj: S3Object, snapshot: Snapshot) -> None:
        """Learn the plan that *obj* needs when *snapshot* signs. May block; raises SigningError."""
        shape = _Shape.of(obj, snapshot)
        with self._learning:
            if shape not in self._plans:
                plan = self._learn(shape)
                if len(self._plans) >= _MOST_PLANS:
                    del self._plans[next(iter(self._plans))]
                self._plans[shape] = plan
            if self._plans[shape] is None:
                self._boto_of(snapshot)

    def _new_recipe(self, obj: S3Object, snapshot: Snapshot, recipes: dict[Kind, _Recipe]) -> _Recipe | None:
        """Return a recipe made anew, and put it into *recipes*, which were read before anything else."""
        try:
            plan = self._plans[_Shape.of(obj, snapshot)]
        except KeyError:
            return None
        if len(recipes) >= _MOST_RECIPES:
            recipes.clear()
        rotation = self.policy.rotation(obj.lifetime, obj.share)
        skew, tally = self.skew, self._tally
        recipe: _Recipe
        if plan is None:
            if self._boto is None or self._boto.snapshot != snapshot:
                return None  # a client takes 10 ms to build
            recipe = _BotoRecipe(self._boto, snapshot, rotation, skew, tally)
        else:
            recipe = _PlanRecipe(plan, snapshot, rotation, obj, skew, tally)
        if recipe.is_short:
            least = rotation.least(snapshot.credential)
            self.source.tell_short(snapshot.credential, rotation.min_remaining, least)
        recipes[obj.kind] = recipe
        return recipe

    def _boto_of(self, snapshot: Snapshot) -> _Boto:
        boto = self._boto
        if boto is None or boto.snapshot != snapshot:
            boto = self._boto = _Boto(self._clients, self.origin, snapshot)
        return boto

    def _learn(self, shape: _Shape) -> Plan | None:
        """Return a plan that agrees with boto3 byte for byte, or None."""
        values = tuple([(name, _MARKER_VALUES.get(name, _MARKER_VALUE)) for name in shape.names])
        name, bucket, lifetime = self.origin.name, self.origin.bucket, self.policy.lifetime
        marker = S3Object.of(name, bucket, shape.form, _MARKER, shape.method, values, lifetime)
        token = "marker/token+=" if shape.has_token else None
        credential = FOREVER._replace(access_key="AKIAMARKER", token=token)
        snapshot = Snapshot(credential, "marker", None)
        theirs = self._examples.of(self.origin, marker, snapshot)
        path = quote_key(_MARKER)
        try:
            plan = Plan(shape.method, theirs, path, shape.names)
            recipe = _PlanRecipe(plan, snapshot, self.policy.rotation(lifetime), marker, 0, self._tally)
            ours = recipe.sign(path, _date(theirs))
        except (KeyError, ValueError, IndexError):
            ours = ""
        if ours != theirs:
            self._counts.plans_refused += 1
            logger.warning(
                "boto3 will sign %s of origin %s one by one: its URLs have a form no plan can make",
                shape.method,
                name,
            )
            return None
        self._counts.plans_proven += 1
        return plan


class Signing:
    """Signs for every origin of a presigner."""

    def __init__(self, origins: Sequence[Origin], counts: Counts, clock: Clock, epochs: Epochs) -> None:
        clients = Clients()
        examples, steps = _Examples(clients), _Steps(clock, counts)
        self._leases: dict[Kind, _Lease] = {}
        self.sources = sources = Sources(clock, counts, clients)
        self._epochs = epochs
        self._origins = {
            origin.name: OriginSigning(origin, counts, sources, clients, examples, steps)
            for origin in origins
        }
        self._clock = clock

    def sign(
        self, obj: S3Object, wall: float, monotonic: float, since: int = 0
    ) -> Entry | SigningError | None:
        """Return a new URL of *obj*, why there is none, or None: `prepare` must come first."""
        lease = self._leases.get(obj[0])
        if lease is None:
            lease = self._lease(obj, wall, monotonic)
            if lease is None:
                return None
        recipe, source, answer, until, least, most, began = lease
        offset = monotonic - wall
        if not (monotonic < until and least < offset < most and answer is source.answer):
            lease = self._lease(obj, wall, monotonic)
            if lease is None:
                return None
            recipe, *_, began = lease
        epochs = self._dated_from(wall, since) if since or self._epochs.any else None
        return recipe.entry(obj, wall, offset if offset < began else began, epochs)  # noqa: FURB136  # quicker

    def sign_all(
        self, objects: Sequence[S3Object], wall: float, monotonic: float, since: int = 0
    ) -> tuple[Sequence[Entry], SigningError | None] | None:
        """Return what `sign` does of *objects*, all of one kind, up to the first error, and that; or None."""
        lease = self._holding(objects[0], wall, monotonic)
        if lease is None:
            return None
        recipe, *_, began = lease
        epochs = self._dated_from(wall, since) if since or self._epochs.any else None
        return recipe.entries(objects, wall, min(monotonic - wall, began), epochs)

    def _holding(self, obj: S3Object, wall: float, monotonic: float) -> _Lease | None:
        """Return the lease at hand for *obj* and its like if it holds, as `sign` finds it, or a new one."""
        lease = self._leases.get(obj.kind)
        if lease is not None:
            _, source, answer, until, least, most, _ = lease
            if monotonic < until and least < monotonic - wall < most and answer is source.answer:
                return lease
        return self._lease(obj, wall, monotonic)

    def _lease(self, obj: S3Object, wall: float, monotonic: float) -> _Lease | None:
        leases = self._leases  # first: whoever changes what a lease follows from has others then
        lease = self._origins[obj.origin].lease(obj, wall, monotonic)
        if lease is not None and (obj.kind in leases or not obj.params or len(leases) < _MOST_RECIPES):
            if len(leases) >= _MOST_LEASES:
                leases.clear()
            leases[obj.kind] = lease
        return lease

    def _dated_from(self, wall: float, since: int) -> _Epochs:
        """Return what tells the earliest date that a URL may have."""
        dated = self._epochs.date
        return lambda obj: max(since, dated(obj, wall))

    def credential(self, obj: S3Object) -> Credential | None:
        """Return the credential that signs *obj* at present; None: there is none yet."""
        held = self._origins[obj.origin].source.held
        return None if held is None else held.credential

    def skew(self, origin: str) -> float:
        """Return how many seconds the clock of *origin*'s S3 is ahead of this host's."""
        return self._origins[origin].skew

    def shift(self, origin: str, seconds: float) -> None:
        """Take the clock of *origin*'s S3 for so many *seconds* further ahead than its policy says."""
        self._origins[origin].shift(seconds)
        self._leases = {}

    def move(self, origin: Origin) -> None:
        """Sign for *origin*, which is the same one in another region."""
        self._origins[origin.name].move(origin)
        self._leases = {}

    def of(self, origin: str) -> OriginSigning:
        """Return what signs for *origin*."""
        return self._origins[origin]

    def dated(self, obj: S3Object, wall: float) -> int:
        """Return the latest date that a URL of *obj*'s key may have by now."""
        return self._origins[obj.origin].dated(obj, wall)

    def queue(self, obj: S3Object) -> Hashable:
        """Return what tells those who might wait for the same source from others."""
        return self._origins[obj.origin].source

    def is_ready(self, obj: S3Object) -> bool:
        """Return whether `sign` could now."""
        return self._holding(obj, self._clock.time(), self._clock.monotonic()) is not None

    def is_common(self, obj: S3Object) -> bool:
        """Return whether it is of use to ask the shared cache for *obj*, as its origin's policy sees it."""
        return self._origins[obj.origin].is_common(obj)

    def shelf(self, obj: S3Object) -> Shelf | None:
        """Return what the URL of *obj* has in common; None: unknown, or other processes cannot use it."""
        recipe = self._origins[obj.origin].last_recipe(obj)
        return None if recipe is None else recipe.shelf

    def adopter(
        self, obj: S3Object, wall: float, monotonic: float
    ) -> Callable[[S3Object, Signature], Entry | None] | None:
        """
        Return what makes URLs of other processes' signatures, of *obj* and its kind; None: nothing can.

        It returns None for a signature that must not be used.
        """
        signing = self._origins[obj.origin]
        recipe = signing.last_recipe(obj)
        if recipe is None:
            return None
        offset = signing.offset(monotonic - wall)
        adopted, epochs = recipe.adopted, self._epochs

        def adopt(obj: S3Object, signature: Signature) -> Entry | None:
            if epochs.any and signature.date < epochs.of(obj):
                return None
            entry = adopted(obj, signature, offset)
            return None if entry is None or entry.is_spent(wall, monotonic) else entry

        return adopt

    def knows(self, obj: S3Object, keys: bytes) -> bool | None:
        """Return whether *keys*, a `fingerprint`, sign *obj*, or have lately; None: nobody has asked yet."""
        return self._origins[obj.origin].source.knows(keys)

    def freshen(self, entries: Sequence[Entry]) -> None:
        """Ask for newer credentials than those that bound the life of *entries*. May block."""
        for source, than in {(self._origins[e.object.origin].source, e.credential) for e in entries}:
            with suppress(SourceError):  # told already; those at hand must do
                source.renew(than)

    def sign_once(self, obj: S3Object, headers: Mapping[str, str]) -> str:
        """Return a URL whose signature covers *headers*, for one request alone. May block."""
        return self._origins[obj.origin].sign_once(obj, headers)

    def sign_by_boto3(self, obj: S3Object, wall: float, monotonic: float) -> Entry | SigningError:
        """Return what boto3 makes of *obj* now, for one call alone, or why not. May block."""
        try:
            return self._origins[obj.origin].sign_by_boto3(obj, wall, monotonic)
        except SigningError as error:
            return error
        except Exception as error:  # as in `prepare`
            return _clientless(obj, error)

    def prepare(self, objects: Sequence[S3Object]) -> dict[S3Object, SigningError]:
        """Do what *objects* need before they can be signed; return those that failed. May block."""
        refused: dict[S3Object, SigningError] = {}
        renewed: dict[Hashable, Snapshot | SourceError] = {}  # a source is asked once, not once an object
        for obj in objects:
            signing = self._origins[obj.origin]
            than = signing.outgrown(obj)
            try:
                if (signing.source, than) not in renewed:
                    renewed[signing.source, than] = _renewed(signing.source, than)
                snapshot = renewed[signing.source, than]
                if isinstance(snapshot, SourceError):
                    raise signing.failure(snapshot)
                signing.learn(obj, snapshot)
            except SigningError as error:
                refused[obj] = error
            except Exception as error:  # botocore has no common base for what keeps it from making a client
                refused[obj] = _clientless(obj, error)
        return refused


def _signed_by_boto3(boto: _Boto, obj: S3Object, headers: Mapping[str, str], tally: Tally) -> str:
    began = perf_counter()
    url = boto.url(obj, headers)
    tally.measured.boto3_seconds += perf_counter() - began
    tally.signed += 1
    tally.signed_by_boto3 += 1
    return url


def _clientless(obj: S3Object, error: Exception) -> SigningError:
    failure = SigningError(f"origin {obj.origin!r}: boto3 cannot make a client: {type(error).__name__}")
    failure.__cause__ = error
    return failure


def _renewed(source: Source, than: Credential | None) -> Snapshot | SourceError:
    try:
        return source.renew(than)
    except SourceError as error:
        return error


def _up_to_error(answers: Iterable[Entry | SigningError]) -> tuple[list[Entry], SigningError | None]:
    entries: list[Entry] = []
    for answer in answers:
        if isinstance(answer, SigningError):
            return entries, answer
        entries.append(answer)
    return entries, None


def _alive(entry: Entry, wall: float) -> Entry | SigningError:
    """Return *entry*, or why it can never be handed out."""
    if entry.born <= wall < entry.ageing_until:
        return entry
    name = entry.object.origin
    if entry.reason == "lifetime":
        return SigningError(f"origin {name!r}: boto3 dates URLs by this host's clock, not by clock= or skew=")
    return SigningError(
        f"origin {name!r}: its {entry.reason} end too soon for a URL that could be handed out; "
        "renew the credentials, or shorten min_remaining"
    )


def _date(url: str) -> int:
    """Return X-Amz-Date of *url* in Unix seconds."""
    import calendar  # as strptime() does, which is slow to import

    text = dict(parse_qsl(urlsplit(url).query))["X-Amz-Date"]
    return calendar.timegm(time.strptime(text, "%Y%m%dT%H%M%SZ"))
