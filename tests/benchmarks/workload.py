"""What everybody signs: the same 200 keys of one bucket, with the same made-up keys."""

import hashlib
from base64 import b64encode
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
    "PAGE",
    "PASSES",
    "REGION",
    "SECRET_KEY",
    "SHARED_PASSES",
    "TARGETS",
    "VALUE",
    "key",
    "session",
    "temporary_session",
]

BUCKET = "acme-media"
REGION = "eu-west-1"
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

#: Seconds. A day, so that next to no URL turns over while the benchmark runs.
LIFETIME = 86_400


def key(number: int) -> str:
    """Return the key of a thumbnail, of 56 characters."""
    return f"public/galleries/2026/{number // 24:06}/thumbnail-640x480-{number * 7919 % 99_991:05}.jpg"


#: A page of thumbnails.
KEYS = tuple(key(number) for number in range(200))
TARGETS = tuple(f"s3://{BUCKET}/{key}" for key in KEYS)

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
