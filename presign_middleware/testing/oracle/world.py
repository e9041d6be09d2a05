"""
The nouns of the decision: what there is, where a request points, what it claims, and what it changes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field


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
class Object:
    body: bytes = field(repr=False)
    content_type: str
    stored_at: float
    version_id: str | None

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.body, usedforsecurity=False).hexdigest()}"'


@dataclass(frozen=True, slots=True)
class Bucket:
    name: str
    region: str
    listable: bool
    versions: dict[str, tuple[Object, ...]] = field(default_factory=dict, repr=False)  # newest last


@dataclass(frozen=True, slots=True)
class World:
    """What the decisions may read: nothing here is changed by them."""

    keys: Mapping[str, KeyPair]
    buckets: Mapping[str, Bucket]
    access_points: Mapping[str, str]
    domains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request points. ``region`` is the host's: None for one that serves several."""

    bucket: str
    key: str
    is_virtual_host: bool
    region: str | None = None
    is_global: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
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
class Change:
    """What an accepted request does to a bucket. ``store`` None: delete."""

    bucket: Bucket
    key: str
    store: Object | None = None
    version_id: str | None = None
