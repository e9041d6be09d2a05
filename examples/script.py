"""
Print how large the objects are that the command line names: a job is one "request".

    pip install httpx presign-middleware
    export PRESIGN_ORIGINS="files=s3://acme-files/reports/?region=eu-west-1"
    python script.py s3://acme-files/reports/may.csv s3://acme-files/reports/june.csv

Credentials are boto3's.
"""

import sys

import httpx

from presign_middleware import Presigner, intercept


def main(targets: list[str]) -> None:
    presigner = Presigner.from_env()
    with intercept("httpx"), presigner.scope(), httpx.Client() as http:
        for target in targets:
            found = http.get(target).raise_for_status()
            print(f"{len(found.content):>10,}  {target}")
    presigner.close()


if __name__ == "__main__":
    main(sys.argv[1:])
