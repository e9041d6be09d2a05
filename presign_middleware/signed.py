"""
A URL with what is known of it, for whoever asked for more than its text.
"""

from urllib.parse import parse_qs, urlsplit

from .local import Entry
from .objects import SignedURL

__all__ = ["signed_url"]


def signed_url(entry: Entry, target: str) -> SignedURL:
    """Return the URL of *entry*, which was asked for as *target*."""
    scope = parse_qs(urlsplit(entry.url).query)["X-Amz-Credential"][0]
    *_, region, service, _ = scope.split("/")
    return SignedURL(
        url=entry.url,
        original_url=str(target),
        origin=entry.object.origin,
        method=entry.object.method,
        region=region,
        service=service,
        created_at=entry.date,
        expires_at=entry.end,
        expires_reason=entry.reason,
    )
