"""
A strict S3, which does with a presigned URL what AWS does with it.

    oracle = Oracle(clock=clock)
    oracle.add_key("AKIDEXAMPLE", "a secret")
    oracle.create_bucket("media", region="eu-west-1")
    oracle.put("media", "cat.jpg", b"...")
    httpx.AsyncClient(transport=httpx.ASGITransport(app=oracle.asgi))   # or oracle.wsgi, or oracle.serve()

The oracle is an independent witness: it verifies SigV4 from the specification with
``hashlib`` and ``hmac``, and shares no code with the signers it judges.

The rules of the machine, in the order in which they are asked; the first that
refuses answers. What AWS documents no order for is settled here, once.

1. the URI is well formed                             400 InvalidURI
2. the endpoint is in the bucket's region             301 PermanentRedirect
3. one auth mechanism, and it is SigV4 in the query   400 InvalidArgument, InvalidRequest
4. no mechanism at all                                403 AccessDenied
5. the six query parameters are there and well formed 400 AuthorizationQueryParametersError
6. the region of the scope is the bucket's            400 AuthorizationQueryParametersError
7. the access key is known                            403 InvalidAccessKeyId
8. now is within the life of the URL                  403 AccessDenied
9. the session token is this key's, and alive         400 InvalidToken, ExpiredToken
10. host and every x-amz-* header are signed          403 AccessDenied
11. the signature matches                             403 SignatureDoesNotMatch
12. the bucket and the object exist                   404, or 403 without the right to list

Where AWS may be lenient the oracle is not, so that what passes here passes there:
the path must be on the wire exactly as it was signed (AWS may forgive another
spelling of the same bytes), and a literal ``+`` in the query never matches.

Instants are Unix seconds (UTC), durations float seconds.
"""

import contextlib
import hashlib
import hmac
import ipaddress
import re
import socket
import threading
import time as _time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NoReturn, Protocol
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit
from xml.sax.saxutils import escape

_AUTH_PARAMETERS: Final = (
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-Signature",
    "X-Amz-SignedHeaders",
)
_LONGEST_LIFE: Final = 604_800  # seconds
_FURTHEST_AHEAD: Final = 900  # seconds
_LONGEST_KEY: Final = 1024  # bytes

_OVERRIDES: Final = {
    "response-cache-control": "Cache-Control",
    "response-content-disposition": "Content-Disposition",
    "response-content-encoding": "Content-Encoding",
    "response-content-language": "Content-Language",
    "response-content-type": "Content-Type",
    "response-expires": "Expires",
}
# Each of these names another operation than the four the oracle performs.
_SUBRESOURCES: Final = frozenset(
    [
        *("acl", "attributes", "legal-hold", "list-type", "location", "logging", "policy", "restore"),
        *("retention", "select", "tagging", "torrent", "uploadId", "uploads", "versioning", "versions"),
        "website",
    ]
)

# The regions opened before 20 March 2019: the only ones the legacy global host serves.
_GLOBAL_HOST_SERVES: Final = frozenset(
    [
        *("ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-south-1", "ap-southeast-1"),
        *("ap-southeast-2", "ca-central-1", "eu-central-1", "eu-north-1", "eu-west-1", "eu-west-2"),
        *("eu-west-3", "sa-east-1", "us-east-1", "us-east-2", "us-west-1", "us-west-2"),
    ]
)
_AWS_HOST: Final = re.compile(
    r"(?:(?P<label>.+)\.)?s3(?P<kind>-accesspoint|-accelerate)?(?:-fips)?(?:\.dualstack)?"
    r"(?:[.-](?P<region>[a-z]{2}(?:-[a-z]+)+-\d+))?\.amazonaws\.com(?:\.cn)?"
)
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_DATE: Final = re.compile(r"\d{8}T\d{6}Z")
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")

Headers = tuple[tuple[str, str], ...]
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class WallClock(Protocol):
    """What tells the oracle the time: `Clock`, or the ``time`` module."""

    def time(self) -> float: ...


@dataclass(frozen=True, slots=True)
class KeyPair:
    """
    Hold an access key, and the session it belongs to if it is a temporary one.

    Attributes:
        ends: Unix seconds at which the session token dies; None: never.
    """

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    ends: float | None = None


@dataclass(frozen=True, slots=True)
class S3Request:
    """
    Hold one request as it was on the wire.

    Attributes:
        path: Still percent-encoded; bytes outside ASCII as latin-1.
        query: Still percent-encoded, without the question mark.
        headers: Names in lower case, values as latin-1, repeated ones as they came.
    """

    method: str
    path: str
    query: str = field(default="", repr=False)
    headers: Headers = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """Return the value of header *name*, repeated ones joined by commas, white space folded."""
        values = [" ".join(value.split()) for given, value in self.headers if given == name]
        return ",".join(values) if values else None

    @property
    def host(self) -> str:
        """Return the Host header."""
        return self.header("host") or ""


@dataclass(frozen=True, slots=True)
class S3Response:
    """
    Hold one answer.

    Attributes:
        code: The S3 error code, also of a HEAD, which has no body to say it; None: no error.
    """

    status: int
    headers: Headers
    body: bytes = field(default=b"", repr=False)
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """
    Tell what arrived and what was answered.

    Attributes:
        path: Still percent-encoded, as on the wire.
        query_names: Names of the query parameters in the order of the wire; no values: one is a signature.
        headers: Names in lower case; not in the repr, since some hold secrets.
        code: The S3 error code; None: no error.
    """

    method: str
    host: str
    path: str
    query_names: tuple[str, ...]
    headers: Headers = field(repr=False)
    status: int
    code: str | None

    @property
    def accepted(self) -> bool:
        """Return whether the answer was no error."""
        return self.status < 400 and self.code is None


@dataclass(frozen=True, slots=True)
class _Object:
    body: bytes = field(repr=False)
    content_type: str
    stored_at: float
    version_id: str | None

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.body, usedforsecurity=False).hexdigest()}"'


@dataclass(frozen=True, slots=True)
class _Bucket:
    name: str
    region: str
    listable: bool
    versions: dict[str, tuple[_Object, ...]] = field(default_factory=dict, repr=False)  # newest last


@dataclass(frozen=True, slots=True)
class _World:
    """What the decisions may read: nothing here is changed by them."""

    keys: Mapping[str, KeyPair]
    buckets: Mapping[str, _Bucket]
    access_points: Mapping[str, str]
    domains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a request points. ``region`` is the host's: None for one that serves several."""

    bucket: str
    key: str
    is_virtual_host: bool
    region: str | None = None
    is_global: bool = False


@dataclass(frozen=True, slots=True)
class _Claim:
    """What the six query parameters say, before any of it is believed."""

    access_key: str
    scope_date: str
    region: str
    amz_date: str
    date: float
    lifetime: int
    signed_headers: tuple[str, ...]
    signature: str = field(repr=False)
    token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Change:
    """What an accepted request does to a bucket. ``store`` None: delete."""

    bucket: _Bucket
    key: str
    store: _Object | None = None
    version_id: str | None = None


class _S3Error(Exception):
    """Ends the decision: one of the rules does not hold."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        elements: Mapping[str, str] | None = None,
        headers: Headers = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.elements = elements or {}
        self.headers = headers


# --- the decision -------------------------------------------------------------------------------------------


def _answer(
    request: S3Request, world: _World, now: float, request_id: str
) -> tuple[S3Response, _Change | None]:
    """Decide what S3 answers at *now*, and what becomes of the bucket; read no clock, change nothing."""
    change: _Change | None = None
    try:
        response, change = _perform(request, world, now)
    except _S3Error as refused:
        response = _error(refused, request.path, request_id)
    headers = (
        *response.headers,
        ("Date", formatdate(now, usegmt=True)),
        ("Server", "AmazonS3"),
        ("x-amz-request-id", request_id),
    )
    is_bodiless = request.method == "HEAD" or response.status in (204, 304)
    return S3Response(response.status, headers, b"" if is_bodiless else response.body, response.code), change


def _perform(request: S3Request, world: _World, now: float) -> tuple[S3Response, _Change | None]:
    uri_is_well_formed(request)
    place = _locate(request, world)
    bucket = world.buckets.get(place.bucket)
    endpoint_is_in_the_buckets_region(place, bucket)
    pairs = _pairs(request.query)
    query = {unquote(name): unquote(value) for name, value in pairs}
    if only_one_mechanism(request, query) is None:
        _refuse_anonymous(bucket)
    claim = _read_claim(query, pairs)
    scope_is_the_buckets_region(claim, bucket)
    global_host_serves_the_region(place, bucket)
    key_pair = access_key_is_known(claim, world)
    url_is_alive(claim, now)
    token_is_good(claim, key_pair, now)
    amz_headers_are_signed(request, claim)
    signature_matches(request, pairs, claim, key_pair)
    if bucket is None:
        raise _no_such_bucket()
    return _operate(request, query, bucket, place.key, now)


# --- the rules: one function each, citing the row of "What AWS does with a presigned URL" -------------------


def uri_is_well_formed(request: S3Request) -> None:
    """A percent sign is followed by two hex digits and the key is UTF-8, of at most 1024 bytes (no row)."""
    if _BAD_ESCAPE.search(request.path) or _BAD_ESCAPE.search(request.query):
        raise _S3Error(400, "InvalidURI", "Couldn't parse the specified URI.")


def endpoint_is_in_the_buckets_region(place: _Place, bucket: _Bucket | None) -> None:
    """Row "bucket in another region, virtual host": 301, with x-amz-bucket-region; also anonymously."""
    if bucket is not None and place.region not in (None, bucket.region):
        _redirect(place, bucket)


def only_one_mechanism(request: S3Request, query: Mapping[str, str]) -> str | None:
    """Row "presigned URL and an Authorization header": 400. Return the mechanism; None: anonymous."""
    found = [
        name
        for name, is_there in (
            ("query", any(name in query for name in _AUTH_PARAMETERS)),
            ("sigv2", "Signature" in query or "AWSAccessKeyId" in query),
            ("header", request.header("authorization") is not None),
        )
        if is_there
    ]
    if len(found) > 1:
        raise _S3Error(
            400,
            "InvalidArgument",
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query "
            "string parameter or the Authorization header should be specified",
            {"ArgumentName": "Authorization"},
        )
    if found == ["sigv2"]:
        raise _S3Error(400, "InvalidRequest", "This mechanism is not supported: use AWS4-HMAC-SHA256.")
    if found == ["header"]:
        raise _S3Error(501, "NotImplemented", "The oracle judges presigned URLs, not Authorization headers.")
    return found[0] if found else None


def _refuse_anonymous(bucket: _Bucket | None) -> NoReturn:
    """Row "anonymous on a private bucket": 403."""
    if bucket is None:
        raise _no_such_bucket()
    raise _S3Error(403, "AccessDenied", "Access Denied")


def query_is_complete(query: Mapping[str, str], names: Sequence[str]) -> None:
    """Row "X-Amz-Expires, X-Amz-Signature, ... missing": 400. One given twice says nothing either."""
    if any(names.count(name) != 1 or not query[name] for name in _AUTH_PARAMETERS):
        raise _malformed(f"Query-string authentication requires each of {', '.join(_AUTH_PARAMETERS)} once.")


def algorithm_is_sigv4(algorithm: str) -> None:
    """Row "X-Amz-Expires, X-Amz-Signature, ... missing": an unknown algorithm is as good as none."""
    if algorithm != "AWS4-HMAC-SHA256":
        raise _malformed("X-Amz-Algorithm must be AWS4-HMAC-SHA256.")


def date_is_well_formed(amz_date: str) -> float:
    """Row "malformed date": 400."""
    try:
        if not _DATE.fullmatch(amz_date):
            raise ValueError
        return datetime.strptime(amz_date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise _malformed("X-Amz-Date must be in the ISO8601 long format yyyyMMdd'T'HHmmss'Z'.") from None


def lifetime_is_allowed(expires: str) -> int:
    """Row "Expires < 1 or > 604800": 400."""
    if not re.fullmatch(r"-?[0-9]{1,18}", expires):
        raise _malformed("X-Amz-Expires should be a number.")
    if int(expires) < 1:
        raise _malformed("X-Amz-Expires must be at least 1 second.")
    if int(expires) > _LONGEST_LIFE:
        raise _malformed(f"X-Amz-Expires must be at most a week: {_LONGEST_LIFE} seconds.")
    return int(expires)


def scope_is_well_formed(credential: str, amz_date: str) -> tuple[str, str, str]:
    """Rows "X-Amz-... missing" and "service not s3": 400. Return access key, date and region."""
    parts = credential.split("/")
    if len(parts) != 5 or not all(parts) or parts[4] != "aws4_request":
        raise _malformed("X-Amz-Credential must be <access key>/YYYYMMDD/<region>/s3/aws4_request.")
    access_key, date, region, service, _ = parts
    if service != "s3":
        raise _malformed('X-Amz-Credential names another service; this endpoint belongs to "s3".')
    if date != amz_date[:8]:
        raise _malformed("The date of X-Amz-Credential is not that of X-Amz-Date.")
    return access_key, date, region


def scope_is_the_buckets_region(claim: _Claim, bucket: _Bucket | None) -> None:
    """Row "region of the scope is not the bucket's": 400, with the region it wants."""
    if bucket is not None and claim.region != bucket.region:
        raise _S3Error(
            400,
            "AuthorizationQueryParametersError",
            f"Error parsing the X-Amz-Credential parameter; the region '{claim.region}' is wrong; "
            f"expecting '{bucket.region}'",
            {"Region": bucket.region},
            (("x-amz-bucket-region", bucket.region),),
        )


def global_host_serves_the_region(place: _Place, bucket: _Bucket | None) -> None:
    """
    Row "bucket in another region, virtual host", at the legacy global host.

    It is us-east-1's alone for path style (301), and knows no newer region (400).
    """
    if bucket is None or not place.is_global:
        return
    if not place.is_virtual_host and bucket.region != "us-east-1":
        _redirect(place, bucket)
    if bucket.region not in _GLOBAL_HOST_SERVES:
        raise _S3Error(
            400,
            "IllegalLocationConstraintException",
            f"The {bucket.region} location constraint is incompatible with the endpoint of this request.",
            headers=(("x-amz-bucket-region", bucket.region),),
        )


def access_key_is_known(claim: _Claim, world: _World) -> KeyPair:
    """Row "unknown access key": 403. A temporary key without its token is unknown too."""
    key_pair = world.keys.get(claim.access_key)
    if key_pair is None or (key_pair.token is not None and claim.token is None):
        raise _S3Error(
            403,
            "InvalidAccessKeyId",
            "The AWS Access Key Id you provided does not exist in our records.",
            {"AWSAccessKeyId": claim.access_key},
        )
    return key_pair


def url_is_alive(claim: _Claim, now: float) -> None:
    """Rows "now > date + Expires" and "date more than 15 min ahead": 403."""
    times = {
        "X-Amz-Expires": str(claim.lifetime),
        "Expires": _iso(claim.date + claim.lifetime),
        "ServerTime": _iso(now),
    }
    if now > claim.date + claim.lifetime:
        raise _S3Error(403, "AccessDenied", "Request has expired", times)
    if claim.date > now + _FURTHEST_AHEAD:
        raise _S3Error(403, "AccessDenied", "Request is not yet valid", times)


def token_is_good(claim: _Claim, key_pair: KeyPair, now: float) -> None:
    """Row "token malformed / expired": 400."""
    if claim.token is None:
        return
    if key_pair.token is None or not hmac.compare_digest(claim.token.encode(), key_pair.token.encode()):
        raise _S3Error(400, "InvalidToken", "The provided token is malformed or otherwise invalid.")
    if key_pair.ends is not None and now >= key_pair.ends:
        raise _S3Error(400, "ExpiredToken", "The provided token has expired.")


def amz_headers_are_signed(request: S3Request, claim: _Claim) -> None:
    """Row "an x-amz-* header that was not signed": 403. The host must be signed as well."""
    needed = {"host", *(name for name, _ in request.headers if name.startswith("x-amz-"))}
    missing = sorted(needed.difference(claim.signed_headers))
    if missing:
        raise _S3Error(
            403,
            "AccessDenied",
            "There were headers present in the request which were not signed",
            {"HeadersNotSigned": ", ".join(missing)},
        )


def signature_matches(request: S3Request, pairs: Headers, claim: _Claim, key_pair: KeyPair) -> None:
    """Rows "GET URL used with HEAD ..." and "a signed header absent or different": 403."""
    to_sign = _string_to_sign(_canonical_request(request, pairs, claim.signed_headers), claim)
    expected = hmac.new(
        _signing_key(key_pair.secret_key, claim), to_sign.encode(), hashlib.sha256
    ).hexdigest()
    if not hmac.compare_digest(expected.encode(), claim.signature.encode()):
        # AWS also tells the signature it was given: left out here, as a signature never goes into a message.
        raise _S3Error(
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. "
            "Check your key and signing method.",
            {"AWSAccessKeyId": claim.access_key, "StringToSign": to_sign},
        )


# --- Signature Version 4, from its specification ------------------------------------------------------------


def _pairs(raw_query: str) -> Headers:
    """Return names and values in their canonical encoding, in the order of the wire."""
    return tuple((_recode(name), _recode(value)) for name, _, value in _split_query(raw_query))


def _split_query(raw_query: str) -> Iterator[tuple[str, str, str]]:
    return (piece.partition("=") for piece in raw_query.split("&")) if raw_query else iter(())


def _recode(piece: str) -> str:
    # A literal plus is left as it is, which no signer produces: whether S3 would read it as
    # a plus or as a space is not documented, so neither matches.
    return "+".join(quote(unquote_to_bytes(part.encode("latin-1")), safe="") for part in piece.split("+"))


def _canonical_request(request: S3Request, pairs: Headers, signed_headers: tuple[str, ...]) -> str:
    query = sorted(pair for pair in pairs if pair[0] != "X-Amz-Signature")
    return "\n".join(
        (
            request.method,
            request.path,
            "&".join(f"{name}={value}" for name, value in query),
            *(f"{name}:{request.header(name) or ''}" for name in sorted(signed_headers)),
            "",
            ";".join(signed_headers),
            "UNSIGNED-PAYLOAD",
        )
    )


def _string_to_sign(canonical_request: str, claim: _Claim) -> str:
    digest = hashlib.sha256(canonical_request.encode()).hexdigest()
    return f"AWS4-HMAC-SHA256\n{claim.amz_date}\n{claim.scope_date}/{claim.region}/s3/aws4_request\n{digest}"


def _signing_key(secret_key: str, claim: _Claim) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (claim.scope_date, claim.region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _read_claim(query: Mapping[str, str], pairs: Headers) -> _Claim:
    query_is_complete(query, [unquote(name) for name, _ in pairs])
    algorithm_is_sigv4(query["X-Amz-Algorithm"])
    amz_date = query["X-Amz-Date"]
    date = date_is_well_formed(amz_date)
    access_key, scope_date, region = scope_is_well_formed(query["X-Amz-Credential"], amz_date)
    return _Claim(
        access_key=access_key,
        scope_date=scope_date,
        region=region,
        amz_date=amz_date,
        date=date,
        lifetime=lifetime_is_allowed(query["X-Amz-Expires"]),
        signed_headers=tuple(query["X-Amz-SignedHeaders"].split(";")),
        signature=query["X-Amz-Signature"],
        token=query.get("X-Amz-Security-Token"),
    )


# --- where a request points ---------------------------------------------------------------------------------


def _locate(request: S3Request, world: _World) -> _Place:
    """Read bucket and key from Host and path: path style, virtual hosts, and the hosts of AWS."""
    host = _without_port(request.host).lower()
    aws = _AWS_HOST.fullmatch(host)
    if aws:
        return _locate_on_aws(request.path, aws, world)
    if host in world.domains or host == "localhost" or _is_address(host):
        return _path_style(request.path)
    for domain in world.domains:
        if host.endswith(f".{domain}"):
            return _Place(
                host.removesuffix(f".{domain}"), _decode_key(request.path[1:]), is_virtual_host=True
            )
    # Any other name is a bucket's own, pointed at S3 with a CNAME record.
    return _Place(host, _decode_key(request.path[1:]), is_virtual_host=True)


def _locate_on_aws(path: str, aws: re.Match[str], world: _World) -> _Place:
    label, kind, region = aws["label"], aws["kind"], aws["region"]
    is_global = kind is None and region is None
    if label is None:
        return _path_style(path, region, is_global=is_global)
    bucket = world.access_points.get(label, label) if kind == "-accesspoint" else label
    return _Place(bucket, _decode_key(path[1:]), True, region, is_global)


def _path_style(path: str, region: str | None = None, *, is_global: bool = False) -> _Place:
    bucket, _, key = path[1:].partition("/")
    return _Place(unquote(bucket), _decode_key(key), False, region, is_global)


def _decode_key(raw: str) -> str:
    key = unquote_to_bytes(raw.encode("latin-1"))
    if len(key) > _LONGEST_KEY:
        raise _S3Error(400, "KeyTooLongError", "Your key is too long", {"MaxSizeAllowed": str(_LONGEST_KEY)})
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise _S3Error(400, "InvalidURI", "Couldn't parse the specified URI.") from None


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# --- the four operations ------------------------------------------------------------------------------------


def _operate(
    request: S3Request, query: Mapping[str, str], bucket: _Bucket, key: str, now: float
) -> tuple[S3Response, _Change | None]:
    if not key:
        return _operate_on_bucket(request, bucket), None
    if _SUBRESOURCES.intersection(query):
        raise _S3Error(
            501, "NotImplemented", "The oracle performs GET, HEAD, PUT and DELETE of objects alone."
        )
    if request.method in ("GET", "HEAD"):
        return _get(request, query, _find(bucket, key, query.get("versionId"))), None
    if request.method == "PUT":
        return _put(request, bucket, key, now)
    if request.method == "DELETE":
        return S3Response(204, ()), _Change(bucket, key, version_id=query.get("versionId"))
    raise _S3Error(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")


def _operate_on_bucket(request: S3Request, bucket: _Bucket) -> S3Response:
    if request.method == "HEAD":
        return S3Response(200, (("x-amz-bucket-region", bucket.region),))
    raise _S3Error(501, "NotImplemented", "The oracle lists no buckets.")


def _find(bucket: _Bucket, key: str, version_id: str | None) -> _Object:
    """Row "missing key": 404 NoSuchKey with ListBucket, else 403."""
    versions = bucket.versions.get(key, ())
    for stored in reversed(versions):
        if version_id in (None, stored.version_id or "null"):
            return stored
    if not bucket.listable:
        raise _S3Error(403, "AccessDenied", "Access Denied")
    if versions:
        raise _S3Error(404, "NoSuchVersion", "The specified version does not exist.", {"Key": key})
    raise _S3Error(404, "NoSuchKey", "The specified key does not exist.", {"Key": key})


def _put(request: S3Request, bucket: _Bucket, key: str, now: float) -> tuple[S3Response, _Change]:
    if request.header("transfer-encoding") is not None:
        raise _S3Error(
            501,
            "NotImplemented",
            "A header you provided implies functionality that is not implemented",
            {"Header": "Transfer-Encoding"},
        )
    stored = _Object(request.body, request.header("content-type") or "binary/octet-stream", now, None)
    return S3Response(200, (("ETag", stored.etag),)), _Change(bucket, key, stored)


def _get(request: S3Request, query: Mapping[str, str], stored: _Object) -> S3Response:
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Type": stored.content_type,
        "ETag": stored.etag,
        "Last-Modified": formatdate(stored.stored_at, usegmt=True),
        **({"x-amz-version-id": stored.version_id} if stored.version_id else {}),
        **_overrides(query),
    }
    if request.header("if-match") not in (None, "*", stored.etag):
        raise _S3Error(
            412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold"
        )
    if request.header("if-none-match") in ("*", stored.etag):
        return S3Response(304, tuple(headers.items()))
    piece = _range(request.header("range"), len(stored.body))
    body = stored.body if piece is None else stored.body[piece.start : piece.stop]
    headers["Content-Length"] = str(len(body))
    if piece is not None:
        headers["Content-Range"] = f"bytes {piece.start}-{piece.stop - 1}/{len(stored.body)}"
    return S3Response(200 if piece is None else 206, tuple(headers.items()), body)


def _overrides(query: Mapping[str, str]) -> dict[str, str]:
    overrides = {header: query[name] for name, header in _OVERRIDES.items() if name in query}
    # A line break in a value would write headers of its own.
    if any(_CONTROL.search(value) for value in overrides.values()):
        raise _S3Error(400, "InvalidArgument", "A response header override holds a control character.")
    return overrides


def _range(header: str | None, size: int) -> range | None:
    """Row "Range over a presigned GET": 206 / 416. One it cannot read, or several, is the whole object."""
    match = _RANGE.fullmatch(header or "")
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        raise _S3Error(
            416,
            "InvalidRange",
            "The requested range is not satisfiable",
            {"RangeRequested": header or "", "ActualObjectSize": str(size)},
            (("Content-Range", f"bytes */{size}"),),
        )
    return range(start, stop)


# --- answers ------------------------------------------------------------------------------------------------


def _no_such_bucket() -> _S3Error:
    return _S3Error(404, "NoSuchBucket", "The specified bucket does not exist")


def _malformed(message: str) -> _S3Error:
    return _S3Error(400, "AuthorizationQueryParametersError", message)


def _redirect(place: _Place, bucket: _Bucket) -> NoReturn:
    # As AWS: no Location header, so that no client follows with a signature for another host.
    endpoint = f"s3.{bucket.region}.amazonaws.com"
    raise _S3Error(
        301,
        "PermanentRedirect",
        "The bucket you are attempting to access must be addressed using the specified endpoint. "
        "Please send all future requests to this endpoint.",
        {
            "Endpoint": f"{bucket.name}.{endpoint}" if place.is_virtual_host else endpoint,
            "Bucket": bucket.name,
        },
        (("x-amz-bucket-region", bucket.region),),
    )


def _error(refused: _S3Error, path: str, request_id: str) -> S3Response:
    elements = {
        "Code": refused.code,
        "Message": refused.message,
        **refused.elements,
        "Resource": path,
        "RequestId": request_id,
    }
    # XML has no way to write most control characters, not even escaped.
    inner = "".join(f"<{name}>{escape(_xml_text(value))}</{name}>" for name, value in elements.items())
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'.encode()
    headers = (*refused.headers, ("Content-Type", "application/xml"), ("Content-Length", str(len(body))))
    return S3Response(refused.status, headers, body, refused.code)


def _xml_text(value: str) -> str:
    return re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", value)


def _iso(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- the application ----------------------------------------------------------------------------------------


class Oracle:
    """
    Be a strict S3 on a clock the test owns, as an ASGI and a WSGI application.

    `asgi` and `wsgi` are the applications, `serve` puts them behind a real socket.
    Buckets are private. A host is path style if it is one of *domain*, ``localhost``
    or an IP address; ``bucket.<domain>`` is a virtual host; the hosts of AWS are
    known in all their forms. Safe to call from threads.

    Args:
        clock: Anything with ``time()``; ``time`` itself unless given.
        domain: The endpoint's host name, or several; without a port.
    """

    def __init__(self, *, clock: WallClock = _time, domain: str | Sequence[str] = "s3.localhost") -> None:
        domains = (domain,) if isinstance(domain, str) else tuple(domain)
        self.clock = clock
        self._lock = threading.Lock()
        self._keys: dict[str, KeyPair] = {}
        self._buckets: dict[str, _Bucket] = {}
        self._access_points: dict[str, str] = {}
        names = tuple(name.lower() for name in domains)
        self._world = _World(self._keys, self._buckets, self._access_points, names)
        self._seen: list[Seen] = []
        self._answered = 0

    # -- what there is

    def add_key(
        self, access_key: str, secret_key: str, *, token: str | None = None, ends: float | None = None
    ) -> KeyPair:
        """
        Let *access_key* sign, in place of an earlier one of that name.

        Args:
            token: The session token, for a temporary key.
            ends: Unix seconds at which *token* dies.

        Raises:
            ValueError: *ends* without *token*: a permanent key has no end, see `remove_key`.
        """
        if ends is not None and token is None:
            raise ValueError("ends= goes with token=: a permanent key has no end, use remove_key()")
        key_pair = KeyPair(access_key, secret_key, token, ends)
        with self._lock:
            self._keys[access_key] = key_pair
        return key_pair

    def remove_key(self, access_key: str) -> None:
        """Disable *access_key*: what it signed answers InvalidAccessKeyId from now on."""
        with self._lock:
            self._keys.pop(access_key, None)

    def create_bucket(self, name: str, region: str = "us-east-1", *, listable: bool = True) -> None:
        """
        Create a private bucket.

        Args:
            listable: Whether the keys have s3:ListBucket, without which a missing object answers 403.

        Raises:
            ValueError: There is one of that name.
        """
        with self._lock:
            if name in self._buckets:
                raise ValueError(f"there is a bucket {name!r} already")
            self._buckets[name] = _Bucket(name, region, listable)

    def create_access_point(self, name: str, account: str, bucket: str) -> None:
        """
        Let ``name-account.s3-accesspoint.region.amazonaws.com`` reach *bucket*.

        Raises:
            ValueError: There is no such bucket.
        """
        with self._lock:
            self._access_points[f"{name}-{account}"] = self._bucket(bucket).name

    def put(
        self,
        bucket: str,
        key: str,
        body: bytes,
        *,
        version_id: str | None = None,
        content_type: str = "binary/octet-stream",
    ) -> None:
        """
        Store an object as if someone had uploaded it now.

        With *version_id* it joins the earlier versions of *key*, as the newest; without, it is the only one.

        Raises:
            ValueError: There is no such bucket.
        """
        with self._lock:
            stored = _Object(body, content_type, self.clock.time(), version_id)
            self._apply(_Change(self._bucket(bucket), key, stored))

    # -- what arrived

    @property
    def requests(self) -> tuple[Seen, ...]:
        """Return what arrived so far, oldest first."""
        with self._lock:
            return tuple(self._seen)

    def forget_requests(self) -> None:
        """Empty `requests`."""
        with self._lock:
            self._seen.clear()

    # -- answering

    def answer(self, request: S3Request) -> S3Response:
        """Answer *request* now, and record it: what both applications and the server call."""
        with self._lock:
            self._answered += 1
            response, change = _answer(request, self._world, self.clock.time(), f"{self._answered:016X}")
            if change is not None:
                self._apply(change)
            names = tuple(unquote(name) for name, _, _ in _split_query(request.query))
            self._seen.append(
                Seen(
                    method=request.method,
                    host=request.host,
                    path=request.path,
                    query_names=names,
                    headers=request.headers,
                    status=response.status,
                    code=response.code,
                )
            )
            return response

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer as an ASGI application.

        The signature is checked on ``scope["raw_path"]``; a server that gives none has its
        decoded path quoted again, which cannot tell ``%2F`` from a slash. Under uvicorn
        pass ``date_header=False, server_header=False``, or those go out twice.
        """
        if scope["type"] == "lifespan":
            return await _live(receive, send)
        if scope["type"] != "http":
            raise ValueError(f'the oracle answers "http" scopes, got "{scope["type"]}"')
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
        response = self.answer(_from_asgi(scope, body))
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": [(name.lower().encode(), value.encode()) for name, value in response.headers],
            }
        )
        await send({"type": "http.response.body", "body": response.body})
        return None

    def wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """
        Answer as a WSGI application.

        The signature is checked on the path of ``REQUEST_URI`` (uWSGI, waitress, mod_wsgi, werkzeug)
        or else of ``RAW_URI`` (gunicorn). A server that sets neither has the bytes of ``SCRIPT_NAME``
        and ``PATH_INFO`` quoted again, which cannot tell ``%2F`` from a slash.
        """
        response = self.answer(_from_wsgi(environ))
        headers = [(name, value.encode().decode("latin-1")) for name, value in response.headers]
        start_response(f"{response.status} {HTTPStatus(response.status).phrase}", headers)
        return [response.body]

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """
        Serve on loopback, at a free port, in threads; give the base URL.

        The base URL is path style: ``http://127.0.0.1:<port>``. For a virtual host, connect
        to it and send the Host header. Connections are kept alive, and closed at the end.
        """
        server = _Server(self)
        thread = threading.Thread(
            target=server.serve_forever, args=(0.02,), name="presign-oracle", daemon=True
        )
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.hang_up()
            server.server_close()
            thread.join()

    def _bucket(self, name: str) -> _Bucket:
        try:
            return self._buckets[name]
        except KeyError:
            raise ValueError(f"there is no bucket {name!r}: call create_bucket() first") from None

    def _apply(self, change: _Change) -> None:
        versions = change.bucket.versions
        kept: tuple[_Object, ...] = ()
        if change.store is not None:
            kept = versions.get(change.key, ()) if change.store.version_id is not None else ()
            kept = (*(old for old in kept if old.version_id != change.store.version_id), change.store)
        elif change.version_id is not None:
            kept = tuple(old for old in versions.get(change.key, ()) if old.version_id != change.version_id)
        versions[change.key] = kept
        if not kept:
            del versions[change.key]


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _from_asgi(scope: Scope, body: bytes) -> S3Request:
    # Some servers leave the query on raw_path.
    raw_path = (scope.get("raw_path") or quote(scope["path"]).encode()).partition(b"?")[0]
    headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    return S3Request(
        method=scope["method"],
        path=raw_path.decode("latin-1"),
        query=scope.get("query_string", b"").decode("latin-1"),
        headers=tuple((name.lower(), value) for name, value in headers),
        body=body,
    )


def _from_wsgi(environ: Mapping[str, Any]) -> S3Request:
    raw_uri: str = environ.get("REQUEST_URI") or environ.get("RAW_URI") or ""
    if raw_uri:
        path, query = _split_target(raw_uri)
    else:
        path = quote(f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}".encode("latin-1"))
        query = environ.get("QUERY_STRING", "")
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
    }
    length = int(headers.get("content-length", 0))
    return S3Request(
        method=environ["REQUEST_METHOD"],
        path=path,
        query=query,
        headers=tuple(headers.items()),
        body=environ["wsgi.input"].read(length) if length else b"",
    )


def _split_target(target: str) -> tuple[str, str]:
    """Return path and query of a request line's target, which a client of a proxy writes as a whole URL."""
    if target.startswith("/"):
        path, _, query = target.partition("?")
        return path, query
    parts = urlsplit(target)
    return parts.path or "/", parts.query


class _Server(ThreadingHTTPServer):
    """
    Answer each connection in a thread.

    The threads are daemons, so that a test which never ends its `serve` does not keep
    the interpreter from exiting; hang_up() waits for them all the same.
    """

    request_queue_size = 128  # connections that may wait: a hundred clients begin at once

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._guard = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def hang_up(self) -> None:
        """Wake the threads that wait for a next request on a connection kept alive, and wait for them."""
        with self._guard:
            connections = dict(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections.values():
            thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Register the connection before its thread starts, so that hang_up() misses none."""
        thread = threading.Thread(target=self._converse, args=(request, client_address), daemon=True)
        with self._guard:
            self._connections[request] = thread
        thread.start()

    def _converse(self, request: Any, client_address: Any) -> None:
        try:
            self.process_request_thread(request, client_address)
        finally:
            with self._guard:
                del self._connections[request]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that hangs up is what tests of cancellation do."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        # self.path has had leading slashes merged, which would hide a key that begins with one.
        path, query = _split_target(self.requestline.split()[1])
        headers = tuple((name.lower(), value) for name, value in self.headers.items())
        length = int(self.headers.get("Content-Length", 0))
        request = S3Request(self.command, path, query, headers, self.rfile.read(length) if length else b"")
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True  # the body was not read, so what follows is no request
        self._send(self.server.oracle.answer(request))

    do_HEAD = do_PUT = do_DELETE = do_POST = do_PATCH = do_OPTIONS = do_GET  # noqa: N815

    def _send(self, response: S3Response) -> None:
        self.send_response_only(response.status)
        for name, value in response.headers:
            # The base class writes latin-1; S3 writes UTF-8.
            self.send_header(name, value.encode().decode("latin-1"))
        if self.close_connection:
            self.send_header("Connection", "close")
        if not any(name == "Content-Length" for name, _ in response.headers) and response.status not in (
            204,
            304,
        ):
            self.send_header("Content-Length", "0")
        self.end_headers()
        self.wfile.write(response.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: the request line holds a signature."""
