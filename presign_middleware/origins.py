"""
Where objects live, and which targets each place covers.

Only what an `Origin` covers is ever signed. A target is taken apart here and
compared exactly; whatever is doubtful is not covered. Everything here is pure.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import chain
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlsplit

from .errors import ConfigurationError, NotCovered
from .objects import SIGNED_PARAMETERS, Parameters, wire_parameters
from .policy import Policy
from .redaction import redact

__all__ = ["METHODS", "Coverage", "Origin", "Place", "Spot", "check_fallbacks"]

METHODS = ("GET", "HEAD", "PUT", "DELETE")

#: Names a query may have: what boto3 signs, and the operation name that other SDKs add.
_QUERY_NAMES = frozenset(SIGNED_PARAMETERS.values()) | {"x-id"}

#: What an origin's short form may say.
_SHORT_OPTIONS = (
    "region",
    "endpoint_url",
    "addressing_style",
    "profile",
    "role_arn",
    "external_id",
    "sts_endpoint_url",
    "fallback",
)

#: Origins that a message names.
_MOST_SHOWN = 10

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}").fullmatch
_DNS_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]").fullmatch
_DNS_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]").fullmatch
_REGION = re.compile(r"[a-z0-9-]{2,}").fullmatch
_URL = re.compile(
    r"(https?)://([^/?#@]+)(/[^?#]*)?(?:\?([^#]*))?(?:#.*)?", re.IGNORECASE | re.DOTALL
).fullmatch
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]").search
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})").search
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://").match

# Texts, since few origins have any of it: `re` compiles them when it meets them first.
_ACCESS_POINT = r"arn:aws[a-z-]*:s3:([a-z0-9-]+):(\d{12}):accesspoint[/:]([a-z0-9-]+)"
_ROLE = r"(?a)arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+"
_EXTERNAL_ID = r"(?a)[\w+=,.@:/-]{2,1224}"
_HTTP_BASE = r"(?i)https?://[^/?#@\\\s]+(/[^?#\\\s]*)?"
_PLAIN_NAME = r"[A-Za-z0-9_-]{1,40}"


@dataclass(frozen=True, slots=True, eq=False)  # by identity: params and sessions have no hash
class Origin:
    """
    A named place where objects live.

    A prefix is an authorization decision: nothing outside it is ever signed. It is
    compared as S3 does, character by character, so it should end with a slash.

    Raises:
        ConfigurationError: A setting that cannot work; named in the message.
    """

    name: str
    _: KW_ONLY
    bucket: str  # a bucket's name, or the ARN of an access point
    prefix: str = ""
    region: str | None = None  # None: what boto3's configuration says
    endpoint_url: str | None = None  # None: AWS
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    urls: Sequence[str] = ()  # further base URLs of the same objects
    methods: Sequence[str] = ("GET", "HEAD")
    params: Mapping[str, Any] = field(default_factory=dict)  # boto3's names; added to every URL
    catch: bool = True  # False: links only, hooks leave its fetches alone
    response_overrides: bool = False  # keep response-content-type and -disposition of caught URLs
    fallback: str | None = None  # the name of the origin that may have what this one has not
    invalidate_on_write: bool = False  # a write that hooks or adapters see has the object's next URL differ
    hides_misses: bool = False  # S3 says 403 of an object that is not there: the keys may not list the bucket
    policy: Policy | None = None  # None: the presigner's
    # Where the keys come from: at most one of these, else boto3's default chain.
    profile: str | None = None
    session: Any = field(default=None, repr=False)  # a boto3.Session
    client: Any = field(default=None, repr=False)  # a boto3 S3 client
    role_arn: str | None = None  # assumed with the keys of the profile, the session or the default chain
    external_id: str | None = None  # that the role's trust policy asks for
    sts_endpoint_url: str | None = None  # None: AWS's, of the origin's region

    def __post_init__(self) -> None:
        fault = next(chain(self._faults_of_place(), self._faults_of_use(), self._faults_of_keys()), None)
        if fault is not None:
            raise ConfigurationError(f"origin {self.name!r}: {fault}")

    def _faults_of_place(self) -> Iterator[str]:
        bucket = self.bucket if isinstance(self.bucket, str) else ""
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w.-]{1,64}", self.name, re.ASCII):
            yield 'the name must be 1 to 64 of A-Z a-z 0-9 _ - . (a metric label), e.g. "media"'
        if bucket.endswith(("--x-s3", "--xa-s3")):
            yield f"{bucket} is of a directory bucket, which needs session signatures; not supported yet"
        if bucket.startswith("arn:") and not _access_point(bucket):
            yield (
                f"bucket {bucket!r} is an ARN that cannot be signed; wanted a regional access point, "
                "arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME (not multi-region, Outposts or Object Lambda)"
            )
        if not bucket.startswith("arn:") and not _BUCKET(bucket):
            yield f'bucket must be a bucket\'s name such as "acme-media", got {redact(self.bucket)!r}'
        if self.arn_region not in (None, self.region) and self.region is not None:
            yield f"region is {self.region!r}, and the access point's ARN says {self.arn_region!r}"
        if self.region is not None and not _REGION(self.region):
            yield f'region must look like "eu-west-1", got {self.region!r}'
        if self.addressing_style not in ("auto", "path", "virtual"):
            yield f'addressing_style must be "auto", "path" or "virtual", got {self.addressing_style!r}'
        if self.endpoint_url is not None and not _is_base(self.endpoint_url):
            yield f'endpoint_url must look like "https://host/", got {redact(self.endpoint_url)!r}'
        for url in [self.urls] if isinstance(self.urls, str) else self.urls:
            if isinstance(self.urls, str) or not _is_base(url):
                yield f'urls must be a list of base URLs such as ["https://host/path/"], got {redact(url)!r}'

    def _faults_of_use(self) -> Iterator[str]:
        if not isinstance(self.prefix, str) or _has_surrogates(self.prefix):
            yield f'prefix must be text such as "public/", got {self.prefix!a}'
            return
        if self.prefix.startswith("/"):
            yield f'prefix must not begin with a slash: keys do not; got {self.prefix!r}, wanted "public/"'
        if _has_dots(self.prefix):
            yield f"prefix {self.prefix!r} has a dot segment, which HTTP clients collapse"
        if isinstance(self.methods, str) or not self.methods or not set(self.methods) <= set(METHODS):
            yield f"methods must be a tuple of some of {', '.join(METHODS)}, got {self.methods!r}"
        try:
            wire_parameters(self.params)
        except ConfigurationError as error:
            yield str(error)

    def _faults_of_keys(self) -> Iterator[str]:
        given = [name for name in ("profile", "session", "client") if getattr(self, name) is not None]
        if len(given) > 1:
            yield f"{' and '.join(given)} were both given: credentials come from one of them"
        if self.role_arn is not None and not _matches(_ROLE, self.role_arn):
            yield f'role_arn must look like "arn:aws:iam::123456789012:role/media", got {self.role_arn!r}'
        if self.role_arn is not None and self.client is not None:
            yield "role_arn and client were both given: a client has credentials already"
        for name in ("external_id", "sts_endpoint_url"):
            if getattr(self, name) is not None and self.role_arn is None:
                yield f"{name} was given without role_arn, which it belongs to"
        if self.external_id is not None and not _matches(_EXTERNAL_ID, self.external_id):
            yield "external_id must be 2 to 1224 of A-Z a-z 0-9 _ + = , . @ : / -"
        if self.sts_endpoint_url is not None and not _is_base(self.sts_endpoint_url):
            yield f'sts_endpoint_url must look like "https://host/", got {redact(self.sts_endpoint_url)!r}'

    @property
    def path_style(self) -> bool:
        """Whether the origin's own form names the bucket in the path and not in the host."""
        if self.addressing_style == "auto":
            # A wildcard certificate covers one label, so a dotted name cannot be a virtual host.
            return self.endpoint_url is not None or not _DNS_LABEL(self.bucket)
        return self.addressing_style == "path"

    @property
    def arn_region(self) -> str | None:
        """The region an access point's ARN names."""
        found = _access_point(self.bucket)
        return found[1] if found else None

    @classmethod
    def parse(cls, text: str) -> "Origin":
        """
        Make an origin of its short form, ``[name=]s3://bucket/prefix?region=...``.

        Without a name it is called after the bucket. The query takes ``region``,
        ``endpoint_url``, ``addressing_style``, ``profile``, ``role_arn``, ``external_id``,
        ``sts_endpoint_url`` and ``fallback``.

        Raises:
            ConfigurationError: *text* has another form.
        """
        found = re.fullmatch(r"(?:([\w.-]+)=)?s3://([^/?#]+)(?:/([^?#]*))?(?:\?([^#]*))?", text)
        if not found:
            raise ConfigurationError(
                f'an origin must look like "s3://bucket/prefix/?region=eu-west-1", got {redact(text)!r}'
            )
        name, bucket, prefix, query = found.groups()
        options: dict[str, Any] = dict(parse_qsl(query or ""))
        unknown = options.keys() - set(_SHORT_OPTIONS)
        if unknown:
            raise ConfigurationError(
                f"origin {redact(text)!r} has the option {min(unknown)!r}; wanted {', '.join(_SHORT_OPTIONS)}"
            )
        return cls(name or bucket, bucket=bucket, prefix=prefix or "", **options)


def check_fallbacks(origins: Sequence[Origin]) -> None:
    """
    See that each of *origins* can fall back as it says.

    Raises:
        ConfigurationError: It says another name, leads back to itself, or to an origin whose
            prefix does not cover its keys, which stay the same.
    """
    known = {origin.name: origin for origin in origins}
    for origin in origins:
        passed, fault = [origin], ""
        while (name := passed[-1].fallback) is not None and not fault:
            following = known.get(name)
            if following is None:
                fault = f"no origin is called that; known are {', '.join(known)}"
            elif following in passed:
                fault = "that leads back to itself"
            elif not passed[-1].prefix.startswith(following.prefix):
                fault = (
                    f"its keys begin with {passed[-1].prefix!r}, those of {name} with {following.prefix!r}"
                )
            else:
                passed.append(following)
        if fault:
            raise ConfigurationError(f"origin {passed[-1].name!r} has fallback={name!r}: {fault}")


#: A `Place` as a plain tuple, for whoever takes it apart at once: made in a fifth of the time.
Spot = tuple[Origin, str, str, Parameters]


class Place(NamedTuple):
    """Where a target points: one key of one origin, and how the caller wrote it."""

    origin: Origin
    form: str  #: base URL the caller asked for; "" for an s3:// target
    key: str  #: decoded
    params: Parameters


class _Holdings:
    """The origins at one base, by prefix: the longest wins, the first of equals."""

    __slots__ = ("_lengths", "_origins")

    def __init__(self) -> None:
        self._origins: dict[str, Origin] = {}
        self._lengths: tuple[int, ...] = ()  # of the prefixes, the longest first

    def add(self, origin: Origin) -> None:
        self._origins.setdefault(origin.prefix, origin)
        if len(origin.prefix) not in self._lengths:
            self._lengths = tuple(sorted((*self._lengths, len(origin.prefix)), reverse=True))

    @property
    def longest(self) -> int:
        """How long the longest prefix is."""
        return self._lengths[0]

    def find(self, key: str) -> Origin | None:
        for length in self._lengths:
            origin = self._origins.get(key[:length])
            if origin is not None:
                return origin
        return None


class Coverage:
    """
    Which origin holds a target. The cost does not grow with the number of origins.

    Origins must have their region by now. *former*: what some of them were before S3 told
    their region. Whoever asks for an object at an endpoint of the former region, where it
    cannot be had, means the origin's own form.
    """

    def __init__(self, origins: Sequence[Origin], former: Sequence[Origin] = ()) -> None:
        shown = [f"{o.name} (s3://{o.bucket}/{o.prefix})" for o in origins[:_MOST_SHOWN]]
        hidden = len(origins) - len(shown)
        self._said = ", ".join(shown) + (f" and {hidden} more" if hidden else "")
        self._buckets: dict[str, _Holdings] = {}
        self._bases: dict[str, _Holdings] = {}
        self._named: dict[str, tuple[Origin, _Holdings]] = {}  # each origin, and all that are at its place
        self._depths: dict[str, tuple[int, ...]] = {}  # how many path segments bases of this host have
        for origin in origins:
            self._buckets.setdefault(origin.bucket, _Holdings()).add(origin)
            for base in _bases(origin):
                self._bases.setdefault(base, _Holdings()).add(origin)
                self._know(base)
            # By its last base, which two origins of one bucket have in common, whatever their `urls`.
            self._named[origin.name] = origin, self._bases[base]
        current = {origin.name: origin for origin in origins}
        self._left: set[str] = set()  # bases of former regions
        for origin in former:
            for base in _bases(origin):
                if base not in self._bases or base in self._left:
                    self._bases.setdefault(base, _Holdings()).add(current[origin.name])
                    self._know(base)
                    self._left.add(base)

    def _know(self, base: str) -> None:
        host, depth = base[: base.index("/", 8)], base.count("/") - 3
        self._depths[host] = tuple(sorted({*self._depths.get(host, ()), depth}, reverse=True))

    def locate(self, target: str, *, encoded: bool = False) -> Spot:
        """
        Return where *target* points.

        *encoded*: an ``s3://`` target has come through an HTTP client, which has
        percent-encoded it.

        Raises:
            NotCovered: No origin holds it, or it must not be signed.
        """
        if not target.isascii() and _has_surrogates(target):
            raise NotCovered(f"{redact(target)} cannot be written as UTF-8: it has a lone surrogate")
        place = self._locate_bucket(target, encoded) if target[:5] == "s3://" else self._locate_url(target)
        key = place[2]
        if ("/." in key or key[0] == ".") and _has_dots(key):
            raise NotCovered(f"{redact(target)} has a dot segment, which HTTP clients collapse on their own")
        return place

    def named(self, name: str) -> tuple[Origin, bool, Callable[[str], Spot]]:
        """
        Return the origin of that *name*, whether all keys with its prefix are its own, and a function.

        That one says where a text points: a key of the origin, or a target. It raises NotCovered for
        what the origin does not hold, or another one with a longer prefix does.

        Raises:
            ConfigurationError: There is no such origin.
        """
        found = self._named.get(name)
        if found is None:
            raise ConfigurationError(f"no origin is called {name!r}; known are {self._said}")
        origin, neighbours = found
        is_alone = neighbours.longest == len(origin.prefix)
        return origin, is_alone, lambda text: self._within(origin, neighbours, text)

    def is_alone(self, origin: Origin) -> bool:
        """Return whether no ``s3://`` target that begins as those of *origin* is another's."""
        return self._buckets[origin.bucket].longest == len(origin.prefix)

    def _within(self, origin: Origin, neighbours: _Holdings, text: str) -> Spot:
        key = text
        if _HAS_SCHEME(text):
            own = f"s3://{origin.bucket}/"
            if not text.startswith(own):
                place = self.locate(text)
                if place[0] is not origin:
                    raise NotCovered(
                        f"{redact(text)} is of origin {place[0].name!r}, and {origin.name!r} was named: "
                        f"name the other one, or none, or give a key of s3://{origin.bucket}/{origin.prefix}"
                    )
                return place
            key = text[len(own) :]
        holder = neighbours.find(key) if key else None
        if holder is None or not key.startswith(origin.prefix):
            raise NotCovered(
                f"origin {origin.name!r} does not hold the key {redact(key)!r}: a key is given whole, "
                f"as it is in bucket {origin.bucket}, and begins with {origin.prefix!r}"
            )
        # The longest prefix wins, whichever was named: its origin may add parameters, to keep users safe.
        if holder.prefix != origin.prefix:
            raise NotCovered(
                f"the key {redact(key)!r} is of origin {holder.name!r}, whose prefix is longer, "
                f"and {origin.name!r} was named: name the other one, or none"
            )
        if not key.isascii() and _has_surrogates(key):
            raise NotCovered(f"{redact(key)} cannot be written as UTF-8: it has a lone surrogate")
        if _has_dots(key):
            raise NotCovered(f"{redact(key)} has a dot segment, which HTTP clients collapse on their own")
        return origin, "", key, ()

    def _locate_bucket(self, target: str, encoded: bool) -> Spot:
        bucket, _, key = target[5:].partition("/")
        holdings = self._buckets.get(bucket)
        if holdings is None and bucket[:4] == "arn:":  # an ARN may have a slash of its own
            name, _, key = key.partition("/")
            holdings = self._buckets.get(f"{bucket}/{name}")
        params: Parameters = ()
        if encoded:
            key, _, query = key.partition("?")
            key, params = _decoded(target, key), _parameters(target, query)
        if not key:
            raise NotCovered(f"{redact(target)} has no key: a target is s3://bucket/key")
        origin = None if holdings is None else holdings.find(key)
        if origin is None:
            raise NotCovered(f"no origin holds {redact(target)}; origins: {self._said}")
        return origin, "", key, params

    def _locate_url(self, target: str) -> Spot:
        found = _URL(target)
        if not found:
            raise NotCovered(
                f"{redact(target)!r} is no target: wanted s3://bucket/key or an https URL of an origin; "
                f"origins: {self._said}"
            )
        scheme, netloc, path, query = found.groups(default="")
        host = _host(scheme.lower(), netloc)
        depths = self._depths.get(host)
        if depths is None:
            raise NotCovered(f"no origin holds {redact(target)}; origins: {self._said}")
        # Some parsers drop control characters and read a backslash as a slash: two readings of one URL.
        if _FORBIDDEN(target):
            raise NotCovered(f"{redact(target)} has a control character or a backslash; escape it")
        path = _decoded(target, path)
        segments = path.split("/")
        for depth in depths:
            base = "/".join([host, *segments[1 : depth + 1], ""])
            holdings = self._bases.get(base)
            key = "/".join(segments[depth + 1 :])
            origin = holdings.find(key) if holdings and key else None
            if origin:
                form = "" if base in self._left else _quoted_base(base)
                return origin, form, key, _parameters(target, query)
        raise NotCovered(f"no origin holds {redact(target)}; origins: {self._said}")


def _has_dots(key: str) -> bool:
    return not {".", ".."}.isdisjoint(key.split("/"))


def _has_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _is_base(url: object) -> bool:
    """Return whether objects can be found below *url*: an http URL with nothing doubtful about it."""
    if not isinstance(url, str) or not url.isascii() or not re.fullmatch(_HTTP_BASE, url) or _BAD_ESCAPE(url):
        return False
    try:
        return not _has_dots(unquote_to_bytes(urlsplit(url).path).decode())
    except ValueError:  # not UTF-8, or an IPv6 address without its bracket
        return False


def _host(scheme: str, netloc: str) -> str:
    """Return scheme and host as they are compared: ASCII lower case, the default port left out."""
    if not netloc.isascii():  # lower() maps some other letters to ASCII ones
        return ""
    default = ":443" if scheme == "https" else ":80"
    return f"{scheme}://{netloc.lower().removesuffix(default)}"


def _quoted_base(base: str) -> str:
    scheme, _, rest = base.partition("://")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}/{quote(path, safe='/~')}"


def _decoded(target: str, text: str) -> str:
    if _BAD_ESCAPE(text):
        raise NotCovered(f"{redact(target)} has a bad escape: % must be followed by two hex digits")
    if "%" not in text:
        return text
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise NotCovered(f"{redact(target)} is not UTF-8 once its escapes are read") from None


def _parameters(target: str, query: str) -> Parameters:
    if not query:
        return ()
    if _BAD_ESCAPE(query):
        raise NotCovered(f"the query of {redact(target)} has a bad escape")
    try:
        pairs = tuple(parse_qsl(query, keep_blank_values=True, errors="strict"))
    except UnicodeDecodeError:
        raise NotCovered(f"the query of {redact(target)} is not UTF-8 once its escapes are read") from None
    names = [name for name, _ in pairs]
    other = set(names) - _QUERY_NAMES
    if "X-Amz-Signature" in other or "Signature" in other:
        raise NotCovered(f"{redact(target)} is signed already")
    if other:
        # A name may hold anything once it is decoded, a signature too.
        shown = next((name for name in sorted(other) if re.fullmatch(_PLAIN_NAME, name)), "?")
        raise NotCovered(
            f"{redact(target)} has the query parameter {shown}, which is not an object's; "
            f"wanted {', '.join(sorted(_QUERY_NAMES))}"
        )
    if len(set(names)) < len(names):
        raise NotCovered(f"{redact(target)} has a query parameter twice")
    return pairs


def _bases(origin: Origin) -> Iterator[str]:
    """Yield every base URL at which *origin*'s objects can be asked for, host in lower case, path decoded."""
    bucket = origin.bucket
    for url in origin.urls:
        yield _plain_base(url)
    if origin.endpoint_url is not None:
        endpoint = _plain_base(origin.endpoint_url)
        yield f"{endpoint}{bucket}/"
        scheme, _, host = endpoint.partition("://")
        if _DNS_NAME(bucket):
            yield f"{scheme}://{bucket}.{host}"
        return
    region = origin.region
    suffix = "amazonaws.com.cn" if str(region).startswith("cn-") else "amazonaws.com"
    access_point = _access_point(bucket)
    if access_point:
        _, account, name = access_point.groups()
        for dualstack in ("", ".dualstack"):
            yield f"https://{name}-{account}.s3-accesspoint{dualstack}.{region}.{suffix}/"
        return
    endpoints = [f"s3.{region}.{suffix}", f"s3.dualstack.{region}.{suffix}", f"s3-{region}.{suffix}"]
    if suffix == "amazonaws.com":
        endpoints.append("s3.amazonaws.com")
    if region == "us-east-1":
        endpoints.append("s3-external-1.amazonaws.com")
    for endpoint in endpoints:
        yield f"https://{endpoint}/{bucket}/"
        if _DNS_NAME(bucket):
            yield f"https://{bucket}.{endpoint}/"
    if _DNS_LABEL(bucket) and suffix == "amazonaws.com":
        yield f"https://{bucket}.s3-accelerate.amazonaws.com/"
        yield f"https://{bucket}.s3-accelerate.dualstack.amazonaws.com/"


def _matches(pattern: str, value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _access_point(bucket: str) -> re.Match[str] | None:
    return re.fullmatch(_ACCESS_POINT, bucket) if bucket.startswith("arn:") else None


def _plain_base(url: str) -> str:
    parts = urlsplit(url)
    path = unquote_to_bytes(parts.path).decode()
    return f"{_host(parts.scheme.lower(), parts.netloc)}{path.rstrip('/')}/"
