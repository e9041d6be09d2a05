"""
What one URL is for, and what is known of a URL once it is signed.

An object is identified by everything that makes its URL differ from another's.
Everything here is pure.
"""

import hashlib
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlsplit

from .errors import ConfigurationError

__all__ = [
    "PLAIN",
    "SIGNED_PARAMETERS",
    "Kind",
    "Parameters",
    "S3Object",
    "SignedURL",
    "board_key",
    "quote_key",
    "quote_keys",
    "wire_parameters",
    "workers_key",
]

#: Wire names and decoded values, in the caller's order.
Parameters = tuple[tuple[str, str], ...]

#: Format version of cache keys: two versions never read each other's entries.
KEY_VERSION = "p2"

#: boto3's name of every parameter that can be part of a presigned URL, and its name on the wire.
SIGNED_PARAMETERS = {
    "VersionId": "versionId",
    "PartNumber": "partNumber",
    "ResponseCacheControl": "response-cache-control",
    "ResponseContentDisposition": "response-content-disposition",
    "ResponseContentEncoding": "response-content-encoding",
    "ResponseContentLanguage": "response-content-language",
    "ResponseContentType": "response-content-type",
    "ResponseExpires": "response-expires",
}

_key = itemgetter(1)

#: Bytes that stand in a path as they are. What `bytes.translate` leaves of a key without them has to be
#: quoted: nothing, mostly, and that is seen in half the time of a regular expression.
PLAIN = f"{string.ascii_letters}{string.digits}-._~/".encode()

#: Uploads and deletions are signed each time: their URLs are not kept.
_KEPT_METHODS = frozenset({"GET", "HEAD"})


class Kind(str):
    """
    All that says what a URL is for but the key, which most URLs of a page have in common.

    A text that spells its fields, since objects are hashed and compared several times on
    every miss: of a text, Python keeps the hash.
    """

    __slots__ = ("bucket", "form", "is_kept", "lifetime", "method", "origin", "params", "share")

    origin: str
    bucket: str
    form: str  #: base URL the caller asked for; "" for the origin's own form
    method: str
    params: Parameters
    lifetime: int  #: seconds, X-Amz-Expires
    share: float  #: of the lifetime, that is left whenever it is handed out; 0: as the policy says
    is_kept: bool  #: whether URLs are kept, and not signed each time

    def __new__(
        cls,
        origin: str,
        bucket: str,
        form: str,
        method: str,
        params: Parameters,
        lifetime: int,
        share: float = 0.0,
    ) -> Self:
        """Return the kind with these fields."""
        kind = super().__new__(cls, repr((origin, bucket, form, method, params, lifetime, share)))
        kind.origin, kind.bucket, kind.form, kind.method = origin, bucket, form, method
        kind.params, kind.lifetime, kind.share = params, lifetime, share
        kind.is_kept = method in _KEPT_METHODS
        return kind

    def but(
        self, *, form: str | None = None, lifetime: int | None = None, share: float | None = None
    ) -> "Kind":
        """Return a kind that differs from this one as said."""
        return _differing(self, form, lifetime, share)

    def cache_keys(self, namespace: str, identity: str, region: str, base: str) -> Callable[[str], str]:
        """
        Return what tells, by its key, the name of an object's entry in a cache that processes share.

        *identity* names the credentials' owner (never a temporary access key id). *base*
        is the URL to which the key is added, and *region* what is signed for: two applications
        may give one origin's name to different servers. A digest of 67 printable characters:
        all fields but the last, the key, are length-prefixed, and there are as many of them as
        the first says, so no two different objects spell the same bytes.

        Raises:
            UnicodeEncodeError: A field holds a lone surrogate, so there is no name. The function
                that is returned raises the same for a key.
        """
        fields = [namespace, identity, region, base, self.origin, self.bucket, self.form, self.method]
        fields.append(f"{self.lifetime} {self.share}" if self.share else str(self.lifetime))
        for name, value in self.params:
            fields += (name, value)
        begun = hashlib.sha256(b"%d:" % len(fields))
        for text in fields:
            data = text.encode()
            begun.update(b"%d:" % len(data))
            begun.update(data)

        def cache_key(key: str) -> str:
            digest = begun.copy()  # all that the objects of a page have in common is hashed once
            digest.update(key.encode())
            return f"{KEY_VERSION}:{digest.hexdigest()}"

        return cache_key


@lru_cache(maxsize=1_000)  # every link that is answered for boto3 asks, for one of a few kinds
def _differing(kind: Kind, form: str | None, lifetime: int | None, share: float | None) -> Kind:
    return Kind(
        kind.origin,
        kind.bucket,
        kind.form if form is None else form,
        kind.method,
        kind.params,
        kind.lifetime if lifetime is None else lifetime,
        kind.share if share is None else share,
    )


class S3Object(NamedTuple):
    """What one URL is for. Two objects that differ in any field never share a URL."""

    kind: Kind
    key: str  #: decoded, never empty

    @classmethod
    def of(
        cls,
        origin: str,
        bucket: str,
        form: str,
        key: str,
        method: str,
        params: Parameters,
        lifetime: int,
        share: float = 0.0,
    ) -> "S3Object":
        """Return the object with these fields; see `Kind`."""
        return cls(Kind(origin, bucket, form, method, params, lifetime, share), key)

    @property
    def origin(self) -> str:
        """The name of its origin."""
        return self.kind.origin

    @property
    def bucket(self) -> str:
        """The bucket it is in."""
        return self.kind.bucket

    @property
    def form(self) -> str:
        """The base URL the caller asked for; "" for the origin's own form."""
        return self.kind.form

    @property
    def method(self) -> str:
        """What the URL is to be used with."""
        return self.kind.method

    @property
    def params(self) -> Parameters:
        """The parameters that are signed."""
        return self.kind.params

    @property
    def lifetime(self) -> int:
        """X-Amz-Expires, in seconds."""
        return self.kind.lifetime

    @property
    def share(self) -> float:
        """The part of the lifetime that is left whenever the URL is handed out; 0: as the policy says."""
        return self.kind.share

    def but(
        self, *, form: str | None = None, lifetime: int | None = None, share: float | None = None
    ) -> "S3Object":
        """Return an object that differs from this one as said."""
        return S3Object(self.kind.but(form=form, lifetime=lifetime, share=share), self.key)

    def cache_key(self, namespace: str, identity: str, region: str, base: str) -> str:
        """Return the name of this object's entry in a cache that processes share; see `Kind.cache_keys`."""
        return self.kind.cache_keys(namespace, identity, region, base)(self.key)


def board_key(namespace: str) -> str:
    """Return the name of the board of epochs, in a cache that processes share."""
    return f"{KEY_VERSION}:epochs:{hashlib.sha256(namespace.encode()).hexdigest()[:32]}"


def workers_key(namespace: str, worker: str = "") -> str:
    """Return the name of the list of processes, or of what one of them tells, in a cache that they share."""
    digest = hashlib.sha256(f"{namespace}\0{worker}".encode()).hexdigest()[:32]
    return f"{KEY_VERSION}:{'worker' if worker else 'workers'}:{digest}"


@dataclass(frozen=True, slots=True)
class SignedURL:
    """
    A presigned URL and what is known of it. ``str()`` is the URL; ``repr()`` hides the signature.

    Instants are Unix seconds.
    """

    url: str = field(repr=False)
    original_url: str  #: the target as it was asked for
    origin: str
    method: str
    region: str
    service: str
    created_at: float  #: X-Amz-Date
    expires_at: float  #: when S3 begins to refuse it
    expires_reason: str  #: "lifetime", "credentials", "assumed" or "policy"
    auth_type: str = "AWS4-HMAC-SHA256"  #: X-Amz-Algorithm

    @property
    def path(self) -> str:
        """The URL's path, percent-encoded as it is on the wire."""
        return urlsplit(self.url).path

    def remaining(self, now: float) -> float:
        """Return for how many seconds after *now* S3 will accept this URL; negative when it is past."""
        return self.expires_at - now

    def is_expiring(self, within: float, now: float) -> bool:
        """Return whether this URL has less than *within* seconds left at *now*."""
        return self.remaining(now) < within

    def __str__(self) -> str:
        return self.url


def quote_key(key: str) -> str:
    """
    Return *key* as S3 canonicalises it in a path: UTF-8, everything escaped but ``A-Za-z0-9-._~/``.

    Raises:
        UnicodeEncodeError: *key* holds a lone surrogate.
    """
    # To look is four times faster than quote(), and most keys are plain.
    return quote(key, safe="/~") if key.encode().translate(None, PLAIN) else key


def quote_keys(objects: Iterable[S3Object]) -> list[str]:
    """Return `quote_key` of the key of each of *objects*, in a third of the time where all are plain."""
    keys = list(map(_key, objects))
    return [quote_key(key) for key in keys] if "".join(keys).encode().translate(None, PLAIN) else keys


def wire_parameters(params: Mapping[str, Any]) -> Parameters:
    """
    Return boto3's parameter names and values as they stand in a URL, in the order given.

    Raises:
        ConfigurationError: A value that boto3 would refuse, or a name that is not a signed
            query parameter: those that become headers (``Range``, ``RequestPayer``, ...)
            cannot be part of a URL.
    """
    pairs = []
    for name, value in params.items():
        wire = SIGNED_PARAMETERS.get(name)
        if wire is None:
            raise ConfigurationError(
                f"params has {name!r}, which cannot be part of a presigned URL; "
                f"wanted boto3's names: {', '.join(SIGNED_PARAMETERS)}"
            )
        try:
            text = _TEXTS.get(name, _text)(value)
            text.encode()
        except (TypeError, ValueError, OverflowError, RuntimeError):  # the last two of botocore's dates
            wanted = {"PartNumber": "a whole number", "ResponseExpires": "a datetime"}.get(name, "text")
            given = type(value).__name__
            raise ConfigurationError(f"params[{name!r}] must be {wanted}, got another {given}") from None
        pairs.append((wire, text))
    return tuple(pairs)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _whole_number(value: Any) -> str:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return str(value)


def _http_date(value: Any) -> str:
    """Return *value* as boto3 writes an instant: a datetime, Unix seconds, or the text of either."""
    from datetime import UTC
    from email.utils import format_datetime  # which costs 8 ms, and hardly anybody needs it

    from botocore.utils import parse_to_aware_datetime  # its own reading: texts have many

    return format_datetime(parse_to_aware_datetime(value).astimezone(UTC), usegmt=True)


_TEXTS = {"PartNumber": _whole_number, "ResponseExpires": _http_date}
