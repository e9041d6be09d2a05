"""
The rules: one function each, citing the row of "What AWS does with a presigned URL".

Their order is `decision`'s.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NoReturn
from urllib.parse import unquote

from .answers import S3Error, iso, malformed, no_such_bucket, redirect
from .requests import Headers, S3Request
from .sigv4 import canonical_request, signing_key, string_to_sign
from .world import Bucket, Claim, KeyPair, Place, World

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

# The regions opened before 20 March 2019: the only ones the legacy global host serves.
_GLOBAL_HOST_SERVES: Final = frozenset(
    [
        *("ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-south-1", "ap-southeast-1"),
        *("ap-southeast-2", "ca-central-1", "eu-central-1", "eu-north-1", "eu-west-1", "eu-west-2"),
        *("eu-west-3", "sa-east-1", "us-east-1", "us-east-2", "us-west-1", "us-west-2"),
    ]
)
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DATE: Final = re.compile(r"\d{8}T\d{6}Z")


def uri_is_well_formed(request: S3Request) -> None:
    """A percent sign is followed by two hex digits and the key is UTF-8, of at most 1024 bytes (no row)."""
    if _BAD_ESCAPE.search(request.path) or _BAD_ESCAPE.search(request.query):
        raise S3Error(400, "InvalidURI", "Couldn't parse the specified URI.")


def endpoint_is_in_the_buckets_region(place: Place, bucket: Bucket | None) -> None:
    """Row "bucket in another region, virtual host": 301, with x-amz-bucket-region; also anonymously."""
    if bucket is not None and place.region not in (None, bucket.region):
        redirect(place, bucket)


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
        raise S3Error(
            400,
            "InvalidArgument",
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query "
            "string parameter or the Authorization header should be specified",
            {"ArgumentName": "Authorization"},
        )
    if found == ["sigv2"]:
        raise S3Error(400, "InvalidRequest", "This mechanism is not supported: use AWS4-HMAC-SHA256.")
    if found == ["header"]:
        raise S3Error(501, "NotImplemented", "The oracle judges presigned URLs, not Authorization headers.")
    return found[0] if found else None


def refuse_anonymous(bucket: Bucket | None) -> NoReturn:
    """Row "anonymous on a private bucket": 403."""
    if bucket is None:
        raise no_such_bucket()
    raise S3Error(403, "AccessDenied", "Access Denied")


def read_claim(query: Mapping[str, str], pairs: Headers) -> Claim:
    query_is_complete(query, [unquote(name) for name, _ in pairs])
    algorithm_is_sigv4(query["X-Amz-Algorithm"])
    amz_date = query["X-Amz-Date"]
    date = date_is_well_formed(amz_date)
    access_key, scope_date, region = scope_is_well_formed(query["X-Amz-Credential"], amz_date)
    return Claim(
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


def query_is_complete(query: Mapping[str, str], names: Sequence[str]) -> None:
    """Row "X-Amz-Expires, X-Amz-Signature, ... missing": 400. One given twice says nothing either."""
    if any(names.count(name) != 1 or not query[name] for name in _AUTH_PARAMETERS):
        raise malformed(f"Query-string authentication requires each of {', '.join(_AUTH_PARAMETERS)} once.")


def algorithm_is_sigv4(algorithm: str) -> None:
    """Row "X-Amz-Expires, X-Amz-Signature, ... missing": an unknown algorithm is as good as none."""
    if algorithm != "AWS4-HMAC-SHA256":
        raise malformed("X-Amz-Algorithm must be AWS4-HMAC-SHA256.")


def date_is_well_formed(amz_date: str) -> float:
    """Row "malformed date": 400."""
    try:
        if not _DATE.fullmatch(amz_date):
            raise ValueError
        return datetime.strptime(amz_date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise malformed("X-Amz-Date must be in the ISO8601 long format yyyyMMdd'T'HHmmss'Z'.") from None


def lifetime_is_allowed(expires: str) -> int:
    """Row "Expires < 1 or > 604800": 400."""
    if not re.fullmatch(r"-?[0-9]{1,18}", expires):
        raise malformed("X-Amz-Expires should be a number.")
    if int(expires) < 1:
        raise malformed("X-Amz-Expires must be at least 1 second.")
    if int(expires) > _LONGEST_LIFE:
        raise malformed(f"X-Amz-Expires must be at most a week: {_LONGEST_LIFE} seconds.")
    return int(expires)


def scope_is_well_formed(credential: str, amz_date: str) -> tuple[str, str, str]:
    """Rows "X-Amz-... missing" and "service not s3": 400. Return access key, date and region."""
    parts = credential.split("/")
    if len(parts) != 5 or not all(parts) or parts[4] != "aws4_request":
        raise malformed("X-Amz-Credential must be <access key>/YYYYMMDD/<region>/s3/aws4_request.")
    access_key, date, region, service, _ = parts
    if service != "s3":
        raise malformed('X-Amz-Credential names another service; this endpoint belongs to "s3".')
    if date != amz_date[:8]:
        raise malformed("The date of X-Amz-Credential is not that of X-Amz-Date.")
    return access_key, date, region


def scope_is_the_buckets_region(claim: Claim, bucket: Bucket | None) -> None:
    """Row "region of the scope is not the bucket's": 400, with the region it wants."""
    if bucket is not None and claim.region != bucket.region:
        raise S3Error(
            400,
            "AuthorizationQueryParametersError",
            f"Error parsing the X-Amz-Credential parameter; the region '{claim.region}' is wrong; "
            f"expecting '{bucket.region}'",
            {"Region": bucket.region},
            (("x-amz-bucket-region", bucket.region),),
        )


def global_host_serves_the_region(place: Place, bucket: Bucket | None) -> None:
    """
    Row "bucket in another region, virtual host", at the legacy global host.

    It is us-east-1's alone for path style (301), and knows no newer region (400).
    """
    if bucket is None or not place.is_global:
        return
    if not place.is_virtual_host and bucket.region != "us-east-1":
        redirect(place, bucket)
    if bucket.region not in _GLOBAL_HOST_SERVES:
        raise S3Error(
            400,
            "IllegalLocationConstraintException",
            f"The {bucket.region} location constraint is incompatible with the endpoint of this request.",
            headers=(("x-amz-bucket-region", bucket.region),),
        )


def access_key_is_known(claim: Claim, world: World) -> KeyPair:
    """Row "unknown access key": 403. A temporary key without its token is unknown too."""
    key_pair = world.keys.get(claim.access_key)
    if key_pair is None or (key_pair.token is not None and claim.token is None):
        raise S3Error(
            403,
            "InvalidAccessKeyId",
            "The AWS Access Key Id you provided does not exist in our records.",
            {"AWSAccessKeyId": claim.access_key},
        )
    return key_pair


def url_is_alive(claim: Claim, now: float) -> None:
    """Rows "now > date + Expires" and "date more than 15 min ahead": 403."""
    times = {
        "X-Amz-Expires": str(claim.lifetime),
        "Expires": iso(claim.date + claim.lifetime),
        "ServerTime": iso(now),
    }
    if now > claim.date + claim.lifetime:
        raise S3Error(403, "AccessDenied", "Request has expired", times)
    if claim.date > now + _FURTHEST_AHEAD:
        raise S3Error(403, "AccessDenied", "Request is not yet valid", times)


def token_is_good(claim: Claim, key_pair: KeyPair, now: float) -> None:
    """Row "token malformed / expired": 400."""
    if claim.token is None:
        return
    if key_pair.token is None or not hmac.compare_digest(claim.token.encode(), key_pair.token.encode()):
        raise S3Error(400, "InvalidToken", "The provided token is malformed or otherwise invalid.")
    if key_pair.ends is not None and now >= key_pair.ends:
        raise S3Error(400, "ExpiredToken", "The provided token has expired.")


def amz_headers_are_signed(request: S3Request, claim: Claim) -> None:
    """Row "an x-amz-* header that was not signed": 403. The host must be signed as well."""
    needed = {"host", *(name for name, _ in request.headers if name.startswith("x-amz-"))}
    missing = sorted(needed.difference(claim.signed_headers))
    if missing:
        raise S3Error(
            403,
            "AccessDenied",
            "There were headers present in the request which were not signed",
            {"HeadersNotSigned": ", ".join(missing)},
        )


def signature_matches(request: S3Request, pairs: Headers, claim: Claim, key_pair: KeyPair) -> None:
    """Rows "GET URL used with HEAD ..." and "a signed header absent or different": 403."""
    to_sign = string_to_sign(canonical_request(request, pairs, claim.signed_headers), claim)
    expected = hmac.new(signing_key(key_pair.secret_key, claim), to_sign.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), claim.signature.encode()):
        # AWS also tells the signature it was given: left out here, as a signature never goes into a message.
        raise S3Error(
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. "
            "Check your key and signing method.",
            {"AWSAccessKeyId": claim.access_key, "StringToSign": to_sign},
        )
