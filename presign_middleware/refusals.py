"""
Why S3 has refused a presigned URL: read from the beginning of its answer.

Codes are those of AWS; servers that are compatible with it use the same, or some of them.
Everything here is pure.
"""

import re
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal, NamedTuple

__all__ = ["MOST_READ", "REFUSED", "Cause", "Refusal", "Reply", "clock_of", "code_of", "refusal"]

#: Bytes that are read of an answer, to learn why it is a refusal.
MOST_READ = 65_536

#: Statuses of answers that may say something about the URL, and not only about the object.
REFUSED = frozenset({301, 400, 403})

Cause = Literal["credentials", "signature", "region", "clock", "access"]

_CAUSES: dict[str, Cause] = {
    "ExpiredToken": "credentials",
    "InvalidToken": "credentials",
    "TokenRefreshRequired": "credentials",
    "InvalidAccessKeyId": "credentials",
    "SignatureDoesNotMatch": "signature",
    "AuthorizationQueryParametersError": "region",
    "PermanentRedirect": "region",
    "AccessDenied": "access",
}

#: What S3 says, with AccessDenied, of URLs that are refused for their dates.
_CLOCK = ("Request has expired", "Request is not yet valid")

#: What regions of AWS are called, those of its partitions included.
_REGION = r"[a-z]{2,4}(-[a-z]+){1,3}-\d{1,2}"

_CODE = r"[A-Za-z]{1,64}"


class Reply(NamedTuple):
    """The beginning of an answer."""

    status: int
    headers: Mapping[str, str]  #: names in lower case
    body: bytes = b""  #: `MOST_READ` bytes of it at most, decoded or not


class Refusal(NamedTuple):
    """What a reply says."""

    cause: Cause  #: "access": the request is refused, and for nothing that is wrong with its URL
    region: str | None = None  #: where the bucket is, if that is the cause


def refusal(reply: Reply) -> Refusal | None:
    """Return why *reply* refuses a URL, or None: it does not, or does not say why."""
    if reply.status not in REFUSED:
        return None
    text = _text(reply)
    cause = _CAUSES.get(_said(text, "Code"))
    if cause is None and not text:
        # The answer to HEAD has no body, but names the region.
        cause = "region" if reply.headers.get("x-amz-bucket-region") else None
    if cause == "access" and _said(text, "Message").startswith(_CLOCK):
        cause = "clock"
    if cause == "region":
        region = _said(text, "Region") or reply.headers.get("x-amz-bucket-region", "")
        return Refusal(cause, region) if re.fullmatch(_REGION, region) else None
    return None if cause is None else Refusal(cause)


def code_of(reply: Reply) -> str:
    """Return S3's word for what is wrong, such as ``NoSuchKey``; "": it does not say."""
    code = _said(_text(reply), "Code")
    return code if re.fullmatch(_CODE, code) else ""


def clock_of(headers: Mapping[str, str]) -> int | None:
    """Return the Unix second in which the server answered, as it says; None: nobody knows."""
    if "age" in headers:  # a cache's answer, with the date of another day
        return None
    from email.utils import parsedate_to_datetime  # which costs 8 ms, and not everybody fetches

    with suppress(TypeError, ValueError, OverflowError):
        return int(parsedate_to_datetime(headers.get("date", "")).timestamp())
    return None


def _text(reply: Reply) -> str:
    body = reply.body[:MOST_READ]
    if reply.headers.get("content-encoding"):
        with suppress(zlib.error):  # the client has decoded it already, or nobody here can
            body = zlib.decompressobj(wbits=47).decompress(body, MOST_READ)  # gzip or deflate
    return body.decode("utf-8", "replace")


def _said(text: str, name: str) -> str:
    # No XML parser: a few names, each once, in an answer that may be cut off or come from anybody.
    found = re.search(rf"<{name}>([^<]{{1,1000}})</{name}>", text)
    return found[1].strip() if found else ""
