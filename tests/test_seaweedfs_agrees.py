"""
The oracle and a real SeaweedFS accept and refuse the same requests.

Only acceptance is compared, not the error code. Left out, because SeaweedFS is known to
deviate from AWS there: a date in the future (it accepts it); the region of the scope (it
does not look); SigV2 and a second mechanism in an Authorization header (it accepts both);
keys with ``//``, a leading slash or dot segments (it alters or refuses them).
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
import botocore.auth
import httpx
import pytest
from botocore.config import Config

from presign_middleware.testing import KeyPair, Oracle, SeaweedFS

BUCKET: Final = "agreement"
KEY: Final = "a b/ü+%.txt"
BODY: Final = b"0123456789"

Change = Callable[[str], str]


def _as_signed(url: str) -> str:
    return url


def _replaced(pattern: str, becomes: str) -> Change:
    def change(url: str) -> str:
        changed = re.sub(pattern, becomes, url, count=1)
        assert changed != url
        return changed

    return change


def _without(name: str) -> Change:
    return _replaced(rf"(?<=[?&])X-Amz-{name}=[^&]*&?", "")


@dataclass(frozen=True, slots=True)
class Case:
    """One request: what is signed, with what, when, and what is then sent."""

    accepted: bool
    operation: str = "get_object"
    params: dict[str, Any] = field(default_factory=dict)
    key_pair: str = "root"
    style: str = "path"
    expires: int = 3600  # seconds
    age: float = 0.0  # seconds since it was signed
    change: Change = _as_signed
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None


PUT: Final = Case(True, operation="put_object", method="PUT", body=b"new", params={"Key": "new"})
TYPED: Final = replace(PUT, params={"Key": "new", "ContentType": "text/plain"})

CASES: Final[dict[str, Case]] = {
    "get": Case(True),
    "get, virtual host": Case(True, style="virtual"),
    "head": Case(True, operation="head_object", method="HEAD"),
    "put": PUT,
    "delete": Case(True, operation="delete_object", method="DELETE", params={"Key": "doomed"}),
    "get with overrides": Case(True, params={"ResponseContentType": "text/html; a=b c"}),
    "session token": Case(True, key_pair="session"),
    "range": Case(True, headers={"Range": "bytes=2-4"}),
    "signed range": Case(True, params={"Range": "bytes=2-4"}, headers={"Range": "bytes=2-4"}),
    "signed content type": replace(TYPED, headers={"Content-Type": "text/plain"}),
    "a week": Case(True, expires=604_800),
    "last seconds": Case(True, expires=60, age=30),
    "get url used with head": Case(False, method="HEAD"),
    "get url used with put": Case(False, method="PUT", body=b""),
    "get url used with delete": Case(False, method="DELETE"),
    "another signature": Case(False, change=_replaced(r"X-Amz-Signature=\w{4}", "X-Amz-Signature=0000")),
    "another key": Case(False, change=_replaced(r"\.txt", ".text")),
    "another lifetime": Case(False, change=_replaced("Expires=3600", "Expires=7200")),
    "extra parameter": Case(False, change=_replaced(r"\?", "?extra=1&")),
    "extra override": Case(False, change=_replaced(r"\?", "?response-content-type=text%2Fhtml&")),
    "another host": Case(False, style="virtual", headers={"Host": f"{BUCKET}.s3.localhost:1"}),
    "wrong secret": Case(False, key_pair="wrong secret"),
    "unknown key": Case(False, key_pair="unknown"),
    "session token missing": Case(False, key_pair="session", change=_without("Security-Token")),
    "session token altered": Case(False, key_pair="wrong token"),
    "algorithm missing": Case(False, change=_without("Algorithm")),
    "credential missing": Case(False, change=_without("Credential")),
    "date missing": Case(False, change=_without("Date")),
    "expires missing": Case(False, change=_without("Expires")),
    "signed headers missing": Case(False, change=_without("SignedHeaders")),
    "signature missing": Case(False, change=_without("Signature")),
    "malformed date": Case(False, change=_replaced("X-Amz-Date=[^&]*", "X-Amz-Date=20260101")),
    "lifetime of 0": Case(False, expires=0),
    "lifetime below 0": Case(False, expires=-1),
    "more than a week": Case(False, expires=604_801),
    "service not s3": Case(False, change=_replaced("%2Fs3%2F", "%2Fsts%2F")),
    "expired": Case(False, expires=60, age=70),
    "unsigned amz header": Case(False, headers={"x-amz-meta-owner": "me"}),
    "signed range absent": Case(False, params={"Range": "bytes=2-4"}),
    "signed range different": Case(False, params={"Range": "bytes=2-4"}, headers={"Range": "bytes=2-9"}),
    "signed content type absent": replace(TYPED, accepted=False),
    "signed content type different": replace(TYPED, accepted=False, headers={"Content-Type": "text/html"}),
    "anonymous": Case(False, change=_replaced(r"\?.*", "")),
    "missing key": Case(False, params={"Key": "absent"}),
    "missing bucket": Case(False, params={"Bucket": "absent"}),
    "range outside": Case(False, headers={"Range": "bytes=10-"}),
}


@dataclass(frozen=True, slots=True)
class Server:
    """A server to ask, and the keys it knows."""

    endpoint_url: str
    key_pairs: dict[str, KeyPair]


def _with_wrong_ones(root: KeyPair, session: KeyPair) -> dict[str, KeyPair]:
    token = session.token or ""
    return {
        "root": root,
        "session": session,
        "wrong secret": replace(root, secret_key="another"),
        "wrong token": replace(session, token=f"{token[:-8]}AAAAAAAA"),
        "unknown": KeyPair("AKIAUNKNOWN", "another"),
    }


def _assume_role(seaweedfs: SeaweedFS) -> dict[str, Any]:
    answer = seaweedfs.sts_client().assume_role(RoleArn=seaweedfs.role_arn, RoleSessionName="agreement")
    credentials: dict[str, Any] = answer["Credentials"]
    return credentials


@pytest.fixture(scope="module")
def real(seaweedfs: SeaweedFS) -> Server:
    client = seaweedfs.client()
    client.create_bucket(Bucket=BUCKET)
    given = _assume_role(seaweedfs)
    return Server(
        seaweedfs.endpoint_url,
        _with_wrong_ones(
            KeyPair(seaweedfs.access_key, seaweedfs.secret_key),
            KeyPair(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"]),
        ),
    )


@pytest.fixture
def stored(seaweedfs: SeaweedFS, real: Server) -> None:
    client = seaweedfs.client()
    for key in (KEY, "doomed"):
        client.put_object(Bucket=BUCKET, Key=key, Body=BODY)


@pytest.fixture
def strict() -> Iterator[Server]:
    oracle = Oracle(clock=time)
    root = oracle.add_key("AKIAROOT", "the secret")
    session = oracle.add_key(
        "ASIASESSION", "the secret", token="a token of some length", ends=time.time() + 900
    )
    oracle.create_bucket(BUCKET)
    for key in (KEY, "doomed"):
        oracle.put(BUCKET, key, BODY)
    with oracle.serve() as base:
        yield Server(base, _with_wrong_ones(root, session))


def _sign(server: Server, case: Case, patch: pytest.MonkeyPatch) -> str:
    """Return the URL that boto3 made *age* seconds ago."""

    def then(remove_tzinfo: bool = True) -> datetime:
        instant = datetime.now(UTC) - timedelta(seconds=case.age)
        return instant.replace(tzinfo=None) if remove_tzinfo else instant

    key_pair = server.key_pairs[case.key_pair]
    host = "s3.localhost" if case.style == "virtual" else "127.0.0.1"
    options: Any = {"addressing_style": case.style}
    client: Any = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{urlsplit(server.endpoint_url).port}",
        region_name="us-east-1",
        aws_access_key_id=key_pair.access_key,
        aws_secret_access_key=key_pair.secret_key,
        aws_session_token=key_pair.token,
        config=Config(signature_version="s3v4", s3=options),
    )
    patch.setattr(botocore.auth, "get_current_datetime", then)
    params = {"Bucket": BUCKET, "Key": KEY, **case.params}
    url: str = client.generate_presigned_url(case.operation, Params=params, ExpiresIn=case.expires)
    return url


def _status(server: Server, case: Case, patch: pytest.MonkeyPatch) -> int:
    parts = urlsplit(case.change(_sign(server, case, patch)))
    target = server.endpoint_url + parts.path + (f"?{parts.query}" if parts.query else "")
    # Virtual hosts need not resolve: connect to the server, and name the host.
    headers = {"Host": parts.netloc, **case.headers}
    with httpx.Client(trust_env=False, verify=False, timeout=10) as client:
        return client.request(case.method, target, headers=headers, content=case.body).status_code


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("stored")
def test_both_servers_say_the_same(
    real: Server, strict: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    case = CASES[name]
    statuses = {
        "oracle": _status(strict, case, monkeypatch),
        "seaweedfs": _status(real, case, monkeypatch),
    }
    wanted = 2 if case.accepted else 4
    assert {server: status // 100 for server, status in statuses.items()} == dict.fromkeys(statuses, wanted)


def test_the_urls_of_a_session_die_with_it_on_both(monkeypatch: pytest.MonkeyPatch) -> None:
    with SeaweedFS(session_seconds=2) as seaweedfs:
        client = seaweedfs.client()
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key=KEY, Body=BODY)
        given = _assume_role(seaweedfs)
        session = KeyPair(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
        ends: float = given["Expiration"].timestamp()
        oracle = Oracle(clock=time)
        oracle.add_key(session.access_key, session.secret_key, token=session.token, ends=ends)
        oracle.create_bucket(BUCKET)
        oracle.put(BUCKET, KEY, BODY)
        with oracle.serve() as base:
            servers = [Server(url, {"session": session}) for url in (base, seaweedfs.endpoint_url)]
            case = Case(True, key_pair="session")
            assert [_status(server, case, monkeypatch) for server in servers] == [200, 200]
            # A real server keeps real time: SeaweedFS refuses 0.01 to 0.04 s after the end.
            time.sleep(max(0.0, ends + 0.3 - time.time()))
            assert [_status(server, case, monkeypatch) for server in servers] == [400, 403]
