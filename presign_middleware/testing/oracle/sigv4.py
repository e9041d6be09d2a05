"""
Signature Version 4, from its specification: the canonical request, the string to sign and the signing key.

Shares no code with the signers it judges.
"""

import hashlib
import hmac
from collections.abc import Iterator
from urllib.parse import quote, unquote_to_bytes

from .requests import Headers, S3Request
from .world import Claim


def canonical_pairs(raw_query: str) -> Headers:
    """Return names and values in their canonical encoding, in the order of the wire."""
    return tuple((_recode(name), _recode(value)) for name, _, value in split_query(raw_query))


def split_query(raw_query: str) -> Iterator[tuple[str, str, str]]:
    return (piece.partition("=") for piece in raw_query.split("&")) if raw_query else iter(())


def _recode(piece: str) -> str:
    # A literal plus is left as it is, which no signer produces: whether S3 would read it as
    # a plus or as a space is not documented, so neither matches.
    return "+".join(quote(unquote_to_bytes(part.encode("latin-1")), safe="") for part in piece.split("+"))


def canonical_request(request: S3Request, pairs: Headers, signed_headers: tuple[str, ...]) -> str:
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


def string_to_sign(canonical_request: str, claim: Claim) -> str:
    digest = hashlib.sha256(canonical_request.encode()).hexdigest()
    return f"AWS4-HMAC-SHA256\n{claim.amz_date}\n{claim.scope_date}/{claim.region}/s3/aws4_request\n{digest}"


def signing_key(secret_key: str, claim: Claim) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (claim.scope_date, claim.region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
