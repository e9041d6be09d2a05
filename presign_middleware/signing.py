"""
Signatures: plans, and boto3 as their oracle and their fallback.

No rule of AWS is written down here but the arithmetic of SigV4. For every shape of
URL boto3 is asked for one, for a marker key with every awkward character. Host, path
and query are learned from its answer, and the marker is signed again by the plan. Only
when the two agree byte for byte does the plan sign that shape; otherwise boto3 does.
"""

import calendar
import hashlib
import hmac
import logging
import time
from collections.abc import Mapping, Sequence
from threading import Lock, local
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit
from zlib import crc32

from .credentials import Snapshot, Source, boto_session
from .errors import SigningError
from .local import Entry
from .metrics import Counts
from .objects import SIGNED_PARAMETERS, S3Object, quote_key
from .origins import Origin
from .policy import FOREVER, LONGEST, Policy, Rotation
from .resolver import Clock

__all__ = ["OriginSigning", "Plan", "Recipe", "Signer", "Signing"]

logger = logging.getLogger("presign_middleware.signing")

_OPERATIONS = {"GET": "get_object", "HEAD": "head_object", "PUT": "put_object", "DELETE": "delete_object"}
_BOTO_NAMES = {wire: name for name, wire in SIGNED_PARAMETERS.items()}

#: A key with everything that could be escaped differently.
_MARKER = "marker/~-_. ü€😀+%25%zz!*'()@:$&,;=?#[]\"<>|{}^`//x"
_MARKER_VALUE = "ü +%25&=/~\"'();*"
_MARKER_VALUES = {"partNumber": "7", "response-expires": "Wed, 21 Oct 2026 07:28:00 GMT", "x-id": "GetObject"}

#: Recipes kept for one origin: made anew in 20 us, and parameter values may be without end.
_MOST_RECIPES = 1_000

#: Shapes kept for one origin: more than that are a caller's mistake, and are learned anew.
_MOST_PLANS = 64

_DAY = 86_400
_MINUTES = tuple(f"T{minute // 60:02}{minute % 60:02}" for minute in range(1440))
_SECONDS = tuple(f"{second:02}Z" for second in range(60))


#: An empty hash: a copy of it is there sooner than a new one.
_sha256 = hashlib.sha256()


def signing_key(secret_key: str, day: str, region: str, service: str) -> bytes:
    """Return the key that signs for one UTC *day* (``YYYYMMDD``), *region* and *service*."""
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


class Signer:
    """
    Signs the keys of one plan on one UTC day: everything else is already in place.

    Holds two texts that a key and an instant complete: the URL, and SigV4's canonical
    request. See "Authenticating Requests: Using Query Parameters" in the S3 reference.
    """

    __slots__ = ("_base", "_canonical", "_day", "_inner", "_midnight", "_outer", "_query", "_root", "_scope")

    def __init__(
        self, plan: "Plan", snapshot: Snapshot, day: int, lifetime: int, values: Mapping[str, str]
    ) -> None:
        self._midnight = day * _DAY
        self._day = time.strftime("%Y%m%d", time.gmtime(self._midnight))
        scope = f"{self._day}/{plan.region}/{plan.service}/aws4_request"
        filled = {
            "X-Amz-Credential": f"{snapshot.access_key}/{scope}",
            "X-Amz-Expires": str(lifetime),
            "X-Amz-Security-Token": snapshot.token or "",
            **values,
        }
        query = [
            (
                name,
                known
                if known is not None
                else "\0"
                if name == "X-Amz-Date"
                else quote(filled[name], safe="-._~"),
            )
            for name, known in plan.query
        ]
        # Where the instant goes is marked with a NUL, which no escaped text holds.
        self._query = "&".join(f"{name}={value}" for name, value in query).split("\0")
        self._query = [f"?{self._query[0]}", f"{self._query[1]}&X-Amz-Signature="]
        canonical = "&".join(f"{name}={value}" for name, value in sorted(query)).split("\0")
        self._canonical = [
            f"\n{canonical[0]}",
            f"{canonical[1]}\nhost:{plan.host}\n\nhost\nUNSIGNED-PAYLOAD",
        ]
        self._base = plan.base
        self._root = f"{plan.method}\n{plan.root}"
        self._scope = f"\n{scope}\n"
        # HMAC is two hashes, each begun with the key (RFC 2104). Copies of the two begun
        # ones sign in a quarter of the time of hmac.digest, the most of a signature's cost.
        key = signing_key(snapshot.secret_key, self._day, plan.region, plan.service).ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes([byte ^ 0x36 for byte in key]))
        self._outer = hashlib.sha256(bytes([byte ^ 0x5C for byte in key]))

    def sign(self, path: str, date: int) -> str:
        """Return the URL of the key that is quoted as *path*, signed at *date*, an instant of this day."""
        minute, second = divmod(date - self._midnight, 60)
        instant = f"{self._day}{_MINUTES[minute]}{_SECONDS[second]}"
        before, after = self._canonical
        request, inner, outer = _sha256.copy(), self._inner.copy(), self._outer.copy()
        request.update(f"{self._root}{path}{before}{instant}{after}".encode())
        inner.update(f"AWS4-HMAC-SHA256\n{instant}{self._scope}{request.hexdigest()}".encode())
        outer.update(inner.digest())
        before, after = self._query
        return f"{self._base}{path}{before}{instant}{after}{outer.hexdigest()}"


class Plan:
    """
    Everything of a URL but the key, the instant, the credential and the parameters' values.

    Made of a URL that boto3 signed for the marker key.

    Raises:
        ValueError: The URL is not of a form that a plan can make.
    """

    def __init__(self, method: str, url: str, names: Sequence[str]) -> None:
        parts = urlsplit(url)
        path = quote_key(_MARKER)
        if not parts.path.endswith(f"/{path}"):
            raise ValueError("the key is not the end of the path")
        self.method = method
        # SigV4 signs the Host header as clients send it: in lower case, without a default port.
        default = ":443" if parts.scheme == "https" else ":80"
        self.host = parts.netloc.lower().removesuffix(default)
        self.root = parts.path.removesuffix(path)
        self.base = f"{parts.scheme}://{parts.netloc}{self.root}"
        raw = dict(pair.split("=", 1) for pair in parts.query.split("&"))
        filled = {*names, "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Security-Token"}
        del raw["X-Amz-Signature"]
        #: Names in the URL's order; a value where every URL of this plan has the same one.
        self.query = tuple((name, None if name in filled else value) for name, value in raw.items())
        *_, self.region, self.service, _ = dict(parse_qsl(parts.query))["X-Amz-Credential"].split("/")


class Recipe:
    """
    A plan, a credential, a lifetime and parameter values: all that objects have in common.

    Holds one `Signer` a UTC day. *plan* is None where boto3 signs.
    """

    __slots__ = ("_params", "_signers", "plan", "rotation", "snapshot", "standing_life")

    def __init__(
        self, plan: Plan | None, snapshot: Snapshot, rotation: Rotation, params: tuple[tuple[str, str], ...]
    ) -> None:
        self.plan = plan
        self.snapshot = snapshot
        self.rotation = rotation
        #: The life of every URL, counted from its date, where no credential cuts it short.
        self.standing_life = rotation.life(0) if snapshot.life is FOREVER else None
        self._params = params
        self._signers: dict[int, Signer] = {}

    def sign(self, plan: Plan, path: str, now: float) -> tuple[str, int]:
        """Return the URL of the key that is quoted as *path*, and its date: the start of its window."""
        date = self.rotation.date(crc32(path.encode()), now)
        signer = self._signers.get(date // _DAY) or self.signer(plan, date)
        return signer.sign(path, date), date

    def signer(self, plan: Plan, date: int) -> Signer:
        """Make what signs on *date*'s UTC day."""
        day = date // _DAY
        if len(self._signers) > LONGEST // _DAY + 1:  # more days than URLs live are past
            self._signers.clear()
        signer = Signer(plan, self.snapshot, day, self.rotation.lifetime, dict(self._params))
        self._signers[day] = signer
        return signer


class _Shape(NamedTuple):
    """What a plan is for."""

    form: str
    method: str
    names: tuple[str, ...]
    has_token: bool

    @classmethod
    def of(cls, obj: S3Object, snapshot: Snapshot) -> "_Shape":
        """Return the shape of *obj*'s URL when *snapshot* signs it."""
        return cls(obj.form, obj.method, tuple([name for name, _ in obj.params]), snapshot.token is not None)


class _Hush(logging.Filter):
    """Drops what botocore logs at DEBUG of a signature while this library has it sign."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = local()

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(self.thread, "signing", False)


_hush = _Hush()


class _Boto:
    """One boto3 client, which signs for one credential. Builds in about 10 ms; signs in about 0.3."""

    def __init__(self, origin: Origin, snapshot: Snapshot) -> None:
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
        self._client = boto_session(origin).client(
            "s3",
            region_name=origin.region,
            endpoint_url=origin.endpoint_url,
            aws_access_key_id=snapshot.access_key,
            aws_secret_access_key=snapshot.secret_key,
            aws_session_token=snapshot.token,
            config=given.merge(Config(signature_version="s3v4", s3=s3)),
        )
        self._client.meta.events.register("before-sign.s3", self._complete)
        logging.getLogger("botocore.auth").addFilter(_hush)  # adding it twice does nothing

    def url(self, obj: S3Object, bucket: str, headers: Mapping[str, str]) -> str:
        """Return what boto3 makes of *obj*, signed now, with *headers* signed as well."""
        params: dict[str, Any] = {_BOTO_NAMES[n]: v for n, v in obj.params if n in _BOTO_NAMES}
        if "PartNumber" in params:
            params["PartNumber"] = int(params["PartNumber"])
        with self._lock:
            self._form, self._key, self._headers = obj.form, obj.key, headers
            named = len(params) == len(obj.params)
            self._query = None if named else "&".join(f"{n}={quote(v, safe='-._~')}" for n, v in obj.params)
            _hush.thread.signing = True
            try:
                url: str = self._client.generate_presigned_url(
                    _OPERATIONS[obj.method],
                    Params={"Bucket": bucket, "Key": obj.key, **params},
                    ExpiresIn=obj.lifetime,
                )
            finally:
                _hush.thread.signing = False
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


class OriginSigning:
    """Signs for one origin."""

    def __init__(self, origin: Origin, policy: Policy, counts: Counts) -> None:
        self.origin = origin
        self.policy = policy
        self._skew = policy.skew
        self._counts = counts
        self._source = Source(origin, policy.assumed_session)
        self._plans: dict[_Shape, Plan | None] = {}  # None: boto3 signs this shape
        self._recipes: dict[tuple[str, str, tuple[tuple[str, str], ...], int], Recipe] = {}
        self._learning = Lock()
        self._boto: _Boto | None = None

    def sign(self, obj: S3Object, wall: float, monotonic: float) -> Entry | None:
        """Return a new URL of *obj*, or None if `prepare` must come first."""
        snapshot = self._source.present(wall)
        if snapshot is None:
            return None
        _, _, form, key, method, params, lifetime = obj
        recipe = self._recipes.get((form, method, params, lifetime))
        if recipe is None or recipe.snapshot is not snapshot:
            recipe = self._new_recipe(obj, snapshot)
            if recipe is None:
                return None
        skew = self._skew
        plan = recipe.plan
        if plan is not None:
            url, date = recipe.sign(plan, quote_key(key), wall + skew)
            self._counts.signed += 1
        else:
            url, date = self._sign_by_boto(obj, snapshot, {})
        life, since = recipe.standing_life, date
        if life is None:
            life, since = recipe.rotation.life(date, snapshot.life), 0
        entry = Entry(obj, url, date, life, since, skew, monotonic - wall)
        if not entry.born <= wall < entry.ageing_until:
            raise SigningError(_why_spent(obj, entry, wall, by_plan=plan is not None))
        return entry

    def _new_recipe(self, obj: S3Object, snapshot: Snapshot) -> Recipe | None:
        try:
            plan = self._plans[_Shape.of(obj, snapshot)]
        except KeyError:
            return None
        if len(self._recipes) >= _MOST_RECIPES:
            self._recipes.clear()
        recipe = Recipe(plan, snapshot, self.policy.rotation(obj.lifetime), obj.params)
        self._recipes[obj.form, obj.method, obj.params, obj.lifetime] = recipe
        return recipe

    def sign_once(self, obj: S3Object, headers: Mapping[str, str], wall: float) -> str:
        """Return a URL whose signature covers *headers*, for one request alone. After `prepare`."""
        snapshot = self._source.present(wall)
        if snapshot is None:
            raise SigningError(f"origin {obj.origin!r}: its credentials ended while a URL was signed")
        return self._sign_by_boto(obj, snapshot, headers)[0]

    def renew(self, wall: float) -> Snapshot:
        """Return credentials to sign with, fetched if need be. May block; raises SigningError."""
        snapshot = self._source.present(wall)
        return self._source.renew(wall) if snapshot is None else snapshot

    def learn(self, obj: S3Object, snapshot: Snapshot) -> None:
        """Learn the plan that *obj* needs when *snapshot* signs. May block; raises SigningError."""
        shape = _Shape.of(obj, snapshot)
        with self._learning:
            if shape not in self._plans:
                if len(self._plans) >= _MOST_PLANS:
                    self._plans.clear()
                self._plans[shape] = self._learn(shape)

    def _learn(self, shape: _Shape) -> Plan | None:
        """Return a plan that agrees with boto3 byte for byte, or None."""
        values = tuple([(name, _MARKER_VALUES.get(name, _MARKER_VALUE)) for name in shape.names])
        marker = S3Object(
            self.origin.name,
            self.origin.bucket,
            shape.form,
            _MARKER,
            shape.method,
            values,
            self.policy.lifetime,
        )
        # No real key is needed to learn a form, and none can then be in an error's text.
        token = "marker/token+=" if shape.has_token else None
        snapshot = Snapshot("AKIAMARKER", "marker", token, FOREVER)
        try:
            theirs = _Boto(self.origin, snapshot).url(marker, self.origin.bucket, {})
        except Exception as error:
            raise SigningError(
                f"origin {self.origin.name!r}: boto3 cannot sign {shape.method} for bucket "
                f"{self.origin.bucket!r}: {type(error).__name__}: {error}"
            ) from error
        date = _date(theirs)
        try:
            plan = Plan(shape.method, theirs, shape.names)
            recipe = Recipe(plan, snapshot, self.policy.rotation(marker.lifetime), values)
            ours = recipe.signer(plan, date).sign(quote_key(_MARKER), date)
        except (KeyError, ValueError, IndexError):
            ours = ""
        if ours != theirs:
            self._counts.plans_refused += 1
            logger.warning(
                "boto3 will sign %s of origin %s one by one: its URLs have a form no plan can make",
                shape.method,
                self.origin.name,
            )
            return None
        self._counts.plans_proven += 1
        return plan

    def _sign_by_boto(self, obj: S3Object, snapshot: Snapshot, headers: Mapping[str, str]) -> tuple[str, int]:
        try:
            boto = self._boto
            if boto is None or boto.snapshot != snapshot:
                boto = self._boto = _Boto(self.origin, snapshot)
            url = boto.url(obj, self.origin.bucket, headers)
        except Exception as error:
            raise SigningError(
                f"origin {obj.origin!r}: boto3 refused to sign {obj.method}: {type(error).__name__}"
            ) from error
        self._counts.signed += 1
        self._counts.signed_by_boto3 += 1
        return url, _date(url)


class Signing:
    """Signs for every origin of a presigner."""

    def __init__(self, origins: Sequence[Origin], policy: Policy, counts: Counts, clock: Clock) -> None:
        self._origins = {o.name: OriginSigning(o, o.policy or policy, counts) for o in origins}
        self._time = clock.time

    def of(self, origin: str) -> OriginSigning:
        """Return what signs for the origin of that name."""
        return self._origins[origin]

    def sign(self, obj: S3Object, wall: float, monotonic: float) -> Entry | None:
        """Return a new URL of *obj*, or None if `prepare` must come first."""
        return self._origins[obj.origin].sign(obj, wall, monotonic)

    def prepare(self, objects: Sequence[S3Object]) -> dict[S3Object, SigningError]:
        """Do what *objects* need before they can be signed; return those that failed. May block."""
        refused: dict[S3Object, SigningError] = {}
        renewed: dict[str, Snapshot | SigningError] = {}  # a source is asked once, not once an object
        for obj in objects:
            signing = self._origins[obj.origin]
            try:
                if obj.origin not in renewed:
                    renewed[obj.origin] = _renewed(signing, self._time())
                snapshot = renewed[obj.origin]
                if isinstance(snapshot, SigningError):
                    raise snapshot
                signing.learn(obj, snapshot)
            except SigningError as error:
                refused[obj] = error
        return refused


def _renewed(signing: OriginSigning, wall: float) -> Snapshot | SigningError:
    try:
        return signing.renew(wall)
    except SigningError as error:
        return error


def _why_spent(obj: S3Object, entry: Entry, wall: float, *, by_plan: bool) -> str:
    if not by_plan and entry.reason == "lifetime":
        return f"origin {obj.origin!r}: boto3 dates its URLs by this host's clock, which differs from clock="
    return (
        f"origin {obj.origin!r}: its {entry.reason} end a URL in {entry.end - wall:.0f} s, "
        "too soon to hand it out; renew the credentials, or shorten min_remaining"
    )


def _date(url: str) -> int:
    """Return X-Amz-Date of *url* in Unix seconds."""
    text = dict(parse_qsl(urlsplit(url).query))["X-Amz-Date"]
    return calendar.timegm(time.strptime(text, "%Y%m%dT%H%M%SZ"))
