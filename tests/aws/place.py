"""Where the bucket is, and what is put into it."""

import os
import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Final, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from presign_middleware import Origin, Policy, Presigner
from presign_middleware.resolver import Clock

__all__ = ["BODY", "VARIABLES", "Place"]

#: Environment variables in which the tests are told of the place.
VARIABLES: Final = {name: f"TEST_AWS_{name.upper()}" for name in ("bucket", "region", "role", "endpoint")}

BODY: Final = b"0123456789"


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket, a prefix of our own in it, and whoever may write there."""

    bucket: str
    region: str
    endpoint: str | None
    role: str | None
    client: Any
    session: boto3.Session
    prefix: str = field(default_factory=lambda: f"presign-middleware-{secrets.token_hex(8)}/")

    @classmethod
    def of_environment(cls) -> Self:
        """Return the place that `VARIABLES` describe. Asks S3 for the bucket's region, if need be."""
        bucket, region, role, endpoint = (
            os.environ.get(VARIABLES[name]) or None for name in ("bucket", "region", "role", "endpoint")
        )
        assert bucket is not None, "run it as python -m tests.aws"
        session = boto3.Session()
        if region is None:
            client: Any = session.client("s3", region_name="us-east-1", endpoint_url=endpoint)
            answer = client.head_bucket(Bucket=bucket)
            region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", "us-east-1")
        style: Any = {"addressing_style": "auto" if endpoint is None else "path"}
        client = session.client(
            "s3",
            region_name=region,
            endpoint_url=endpoint,
            config=Config(signature_version="s3v4", s3=style),
        )
        return cls(bucket, region, endpoint, role, client, session)

    def put(self, name: str, body: bytes = BODY) -> str:
        """Store *body*, and return the target that names it."""
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}{name}", Body=body)
        return self.target(name)

    def target(self, name: str) -> str:
        """Return the target of what is stored as *name*."""
        return f"s3://{self.bucket}/{self.prefix}{name}"

    def presigner(self, *, clock: Clock = time, policy: Policy | None = None, **options: Any) -> Presigner:
        """Return a presigner for this prefix."""
        settings = {"session": self.session, "endpoint_url": self.endpoint, **options}
        origin = Origin("aws", bucket=self.bucket, prefix=self.prefix, region=self.region, **settings)
        return Presigner(origin, policy=policy, clock=clock)

    def new_session(self) -> boto3.Session | None:
        """Return a session that begins now, or None: neither a role nor a user's own is to be had."""
        sts: Any = self.session.client("sts", region_name=self.region, endpoint_url=self.endpoint)
        try:
            if self.role is not None:
                answer = sts.assume_role(RoleArn=self.role, RoleSessionName="presign-middleware-tests")
            else:
                answer = sts.get_session_token(DurationSeconds=900)
        except (BotoCoreError, ClientError):
            return None
        keys = answer["Credentials"]
        return boto3.Session(
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["SessionToken"],
            region_name=self.region,
        )

    def has_versions(self) -> bool:
        """Return whether the bucket keeps versions."""
        status: str | None = self.client.get_bucket_versioning(Bucket=self.bucket).get("Status")
        return status == "Enabled"

    def clear(self) -> None:
        """Delete everything under the prefix, every version of it."""
        where = {"Bucket": self.bucket, "Prefix": self.prefix}
        for page in self.client.get_paginator("list_object_versions").paginate(**where):
            for kind in ("Versions", "DeleteMarkers"):
                for found in page.get(kind, ()):
                    which = {} if found["VersionId"] == "null" else {"VersionId": found["VersionId"]}
                    self.client.delete_object(Bucket=self.bucket, Key=found["Key"], **which)
