"""What everybody signs: the same keys of one bucket, most often 200, with the same made-up credentials."""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import botocore.session
from botocore.credentials import RefreshableCredentials

__all__ = [
    "ACCESS_KEY",
    "BUCKET",
    "KEYS",
    "LIFETIME",
    "MANY_KEYS",
    "MANY_TARGETS",
    "PAGE",
    "PASSES",
    "REGION",
    "SECRET_KEY",
    "SHARED_PASSES",
    "TARGETS",
    "VALUE",
    "pages",
    "session",
    "temporary_session",
]

BUCKET = "acme-media"
REGION = "eu-west-1"
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

#: Seconds. A day, so that next to no URL turns over while the benchmark runs.
LIFETIME = 86_400

#: Thumbnails; keys of 56 characters.
MANY_KEYS = tuple(
    f"public/galleries/2026/{n // 24:06}/thumbnail-640x480-{n * 7919 % 99_991:05}.jpg" for n in range(1_000)
)
MANY_TARGETS = tuple(f"s3://{BUCKET}/{key}" for key in MANY_KEYS)

#: A page of them, which most cases have.
KEYS = MANY_KEYS[:200]
TARGETS = MANY_TARGETS[:200]


def pages(of: Sequence[str], size: int) -> list[Sequence[str]]:
    """Return pages of *size* of what there is *of*, of 200 in all if they are smaller."""
    return [of[start : start + size] for start in range(0, max(size, 200), size)]


#: How often what is held already is gone through in one round: once is too short to time.
PASSES = 25

#: What is asked for at once where many calls wait for one cache.
PAGE = TARGETS[:100]

#: As long as an entry by a static key.
VALUE = b"1 1767225600 AKIAIOSFODNN7EXAMPLE " + b"0" * 64

#: How often what memcached has is gone through in one round.
SHARED_PASSES = 5


def session() -> Any:  # Any: boto3's clients are made at run time
    """Return a boto3 session with keys of nobody's."""
    return boto3.Session(aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY, region_name=REGION)


def temporary_session(number: int) -> Any:
    """Return a boto3 session as a role has it: keys of its own, a token, and an end in half a day."""
    token = b64encode(hashlib.shake_256(b"%d" % number).digest(600)).decode()  # STS's are about as long
    ends = datetime.now(UTC) + timedelta(hours=12)
    core: Any = botocore.session.Session()
    core._credentials = RefreshableCredentials(
        f"ASIAIOSFODNN7EXAM{number:03}", SECRET_KEY, token, ends, refresh_using=dict, method="assume-role"
    )
    return boto3.Session(botocore_session=core, region_name=REGION)
