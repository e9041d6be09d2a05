"""
Asks a real bucket whether S3 is as this library, and its oracle, take it to be.

    python -m tests.aws --bucket NAME [--region R] [--role ARN] [--endpoint URL]

Objects are put under a random prefix and deleted afterwards. Credentials are boto3's. Without a
bucket or credentials nothing is asked, and the exit code is 0. *--endpoint* asks another S3.
"""

import argparse
import os
import sys
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import BotoCoreError

from .place import VARIABLES


def main() -> int:
    """Run the tests, or say what is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.aws", description="S3 as it is taken to be.")
    parser.add_argument("--bucket", metavar="NAME", default="", help="that may be written to")
    parser.add_argument("--region", metavar="REGION", default="", help="of the bucket; else S3 is asked")
    parser.add_argument("--role", metavar="ARN", default="", help="to assume for a fresh session")
    parser.add_argument("--endpoint", metavar="URL", default="", help="of another S3 and its STS")
    options, rest = parser.parse_known_args()
    if not options.bucket:
        print("skipped: no bucket was named: make test-aws BUCKET=name [REGION=eu-west-1] [ROLE=arn:...]")
        return 0
    try:
        has_keys = boto3.Session().get_credentials() is not None
    except BotoCoreError as error:
        print(f"skipped: boto3 finds no AWS credentials: {error}")
        return 0
    if not has_keys:
        print("skipped: boto3 finds no AWS credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its like")
        return 0
    for name in ("bucket", "region", "role", "endpoint"):
        os.environ[VARIABLES[name]] = getattr(options, name)
    # By name, since pytest collects no file of this name by itself.
    return pytest.main([str(Path(__file__).with_name("on_aws.py")), *rest])


if __name__ == "__main__":
    sys.exit(main())
