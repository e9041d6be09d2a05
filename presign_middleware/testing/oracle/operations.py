"""
The four operations, GET, HEAD, PUT and DELETE of an object: what an accepted request is answered.
"""

import re
from collections.abc import Mapping
from email.utils import formatdate
from typing import Final

from .answers import S3Error
from .requests import S3Request, S3Response
from .world import Bucket, Change, Object

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
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")


def operate(
    request: S3Request, query: Mapping[str, str], bucket: Bucket, key: str, now: float
) -> tuple[S3Response, Change | None]:
    if not key:
        return _operate_on_bucket(request, bucket), None
    if _SUBRESOURCES.intersection(query):
        raise S3Error(
            501, "NotImplemented", "The oracle performs GET, HEAD, PUT and DELETE of objects alone."
        )
    if request.method in ("GET", "HEAD"):
        return _get(request, query, _find(bucket, key, query.get("versionId"))), None
    if request.method == "PUT":
        return _put(request, bucket, key, now)
    if request.method == "DELETE":
        return S3Response(204, ()), Change(bucket, key, version_id=query.get("versionId"))
    raise S3Error(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")


def _operate_on_bucket(request: S3Request, bucket: Bucket) -> S3Response:
    if request.method == "HEAD":
        return S3Response(200, (("x-amz-bucket-region", bucket.region),))
    raise S3Error(501, "NotImplemented", "The oracle lists no buckets.")


def _find(bucket: Bucket, key: str, version_id: str | None) -> Object:
    """Row "missing key": 404 NoSuchKey with ListBucket, else 403."""
    versions = bucket.versions.get(key, ())
    for stored in reversed(versions):
        if version_id in (None, stored.version_id or "null"):
            return stored
    if not bucket.listable:
        raise S3Error(403, "AccessDenied", "Access Denied")
    if versions:
        raise S3Error(404, "NoSuchVersion", "The specified version does not exist.", {"Key": key})
    raise S3Error(404, "NoSuchKey", "The specified key does not exist.", {"Key": key})


def _put(request: S3Request, bucket: Bucket, key: str, now: float) -> tuple[S3Response, Change]:
    if request.header("transfer-encoding") is not None:
        raise S3Error(
            501,
            "NotImplemented",
            "A header you provided implies functionality that is not implemented",
            {"Header": "Transfer-Encoding"},
        )
    stored = Object(request.body, request.header("content-type") or "binary/octet-stream", now, None)
    return S3Response(200, (("ETag", stored.etag),)), Change(bucket, key, stored)


def _get(request: S3Request, query: Mapping[str, str], stored: Object) -> S3Response:
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Type": stored.content_type,
        "ETag": stored.etag,
        "Last-Modified": formatdate(stored.stored_at, usegmt=True),
        **({"x-amz-version-id": stored.version_id} if stored.version_id else {}),
        **_overrides(query),
    }
    if request.header("if-match") not in (None, "*", stored.etag):
        raise S3Error(
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
        raise S3Error(400, "InvalidArgument", "A response header override holds a control character.")
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
        raise S3Error(
            416,
            "InvalidRange",
            "The requested range is not satisfiable",
            {"RangeRequested": header or "", "ActualObjectSize": str(size)},
            (("Content-Range", f"bytes */{size}"),),
        )
    return range(start, stop)
