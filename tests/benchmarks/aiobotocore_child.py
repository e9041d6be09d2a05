"""
Signs with aiobotocore whenever it is told to, and tells what one URL took in seconds.

A script, and not a module: it runs where nothing but aiobotocore is installed.
"""

import asyncio
import json
import sys
from time import perf_counter

import aiobotocore  # type: ignore[import-not-found,import-untyped,unused-ignore]
from aiobotocore.session import get_session  # type: ignore[import-not-found,import-untyped,unused-ignore]
from botocore.config import Config


async def _serve(
    bucket: str, region: str, access_key: str, secret_key: str, lifetime: int, keys: list[str]
) -> None:
    config = Config(signature_version="s3v4", s3={"addressing_style": "virtual"})
    made = get_session().create_client(
        "s3",
        region_name=region,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=config,
    )
    async with made as client:
        print(aiobotocore.__version__, flush=True)
        for _ in sys.stdin:  # nothing else runs on this loop
            start = perf_counter()
            for key in keys:
                await client.generate_presigned_url(
                    "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=lifetime
                )
            print((perf_counter() - start) / len(keys), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(*json.loads(input())))
