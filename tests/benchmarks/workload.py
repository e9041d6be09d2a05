"""What everybody signs: the same 200 keys of one bucket, with the same made-up keys."""

from typing import Any

import boto3

__all__ = ["ACCESS_KEY", "BUCKET", "KEYS", "LIFETIME", "PASSES", "REGION", "SECRET_KEY", "TARGETS", "session"]

BUCKET = "acme-media"
REGION = "eu-west-1"
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

#: Seconds. A day, so that next to no URL turns over while the benchmark runs.
LIFETIME = 86_400

#: A page of thumbnails; keys of 56 characters.
KEYS = tuple(
    f"public/galleries/2026/{n // 24:06}/thumbnail-640x480-{n * 7919 % 99_991:05}.jpg" for n in range(200)
)
TARGETS = tuple(f"s3://{BUCKET}/{key}" for key in KEYS)

#: How often what is held already is gone through in one round: once is too short to time.
PASSES = 25


def session() -> Any:  # Any: boto3's clients are made at run time
    """Return a boto3 session with keys of nobody's."""
    return boto3.Session(aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY, region_name=REGION)
