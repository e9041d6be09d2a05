"""The oracle does with a presigned URL what AWS does with it: one test for each row of the table."""

import asyncio
import contextlib
import dataclasses
import functools
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import botocore.auth
import httpx
import pytest
from botocore.config import Config
from botocore.session import Session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from presign_middleware.testing import Clock, KeyPair, Oracle, S3Request, S3Response

BODY = b"0123456789"
ENDPOINT = "http://s3.localhost"

Sign = Callable[..., str]
Send = Callable[..., httpx.Response]
Shell = Callable[[Oracle], contextlib.AbstractContextManager[Send]]


_session = functools.cache(Session)  # loading the service model takes longer than most tests


@functools.cache
def _client(
    key_pair: KeyPair, region: str, style: str, endpoint_url: str | None, s3: tuple[tuple[str, Any], ...]
) -> Any:
    options: Any = {"addressing_style": style, **dict(s3)}
    return _session().create_client(
        "s3",
        region_name=region,
        endpoint_url=endpoint_url,
        aws_access_key_id=key_pair.access_key,
        aws_secret_access_key=key_pair.secret_key,
        aws_session_token=key_pair.token,
        config=Config(signature_version="s3v4", s3=options),
    )


@pytest.fixture
def oracle(s3_oracle: Oracle) -> Oracle:
    s3_oracle.put("media", "cat.jpg", BODY, content_type="image/jpeg")
    return s3_oracle


@pytest.fixture
def sign(s3_clock: Clock, s3_key: KeyPair, monkeypatch: pytest.MonkeyPatch) -> Sign:
    """Give boto3's generate_presigned_url, dated on the oracle's clock."""

    def now(remove_tzinfo: bool = True) -> datetime:
        instant = datetime.fromtimestamp(s3_clock.time(), UTC)
        return instant.replace(tzinfo=None) if remove_tzinfo else instant

    monkeypatch.setattr(botocore.auth, "get_current_datetime", now)

    def sign(
        operation: str = "get_object",
        *,
        expires: int = 3600,
        key_pair: KeyPair = s3_key,
        region: str = "eu-west-1",
        style: str = "virtual",
        endpoint_url: str | None = ENDPOINT,
        s3: dict[str, Any] | None = None,
        **params: Any,
    ) -> str:
        client = _client(key_pair, region, style, endpoint_url, tuple((s3 or {}).items()))
        params = {"Bucket": "media", "Key": "cat.jpg", **params}
        url: str = client.generate_presigned_url(operation, Params=params, ExpiresIn=expires)
        return url

    return sign


@contextlib.contextmanager
def _through_asgi(oracle: Oracle) -> Iterator[Send]:
    def send(url: str, method: str = "GET", **options: Any) -> httpx.Response:
        async def fetch() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=oracle.asgi)) as client:
                return await client.request(method, url, **options)

        return asyncio.run(fetch())

    yield send


@contextlib.contextmanager
def _through_wsgi(oracle: Oracle) -> Iterator[Send]:
    with httpx.Client(transport=httpx.WSGITransport(app=oracle.wsgi)) as client:
        yield lambda url, method="GET", **options: client.request(method, url, **options)


@contextlib.contextmanager
def _through_a_socket(oracle: Oracle) -> Iterator[Send]:
    with oracle.serve() as base, httpx.Client(trust_env=False, verify=False) as client:

        def send(url: str, method: str = "GET", **options: Any) -> httpx.Response:
            parts = urlsplit(url)
            headers = {"Host": parts.netloc, **options.pop("headers", {})}
            target = f"{base}{parts.path}?{parts.query}" if parts.query else f"{base}{parts.path}"
            return client.request(method, target, headers=headers, **options)

        yield send


@pytest.fixture(params=[_through_asgi, _through_wsgi, _through_a_socket], ids=["asgi", "wsgi", "socket"])
def send(request: pytest.FixtureRequest, oracle: Oracle) -> Iterator[Send]:
    with request.param(oracle) as send:
        yield send


def _said(response: httpx.Response) -> dict[str, str]:
    """Return the elements of an error body."""
    return {element.tag: element.text or "" for element in ElementTree.fromstring(response.content)}


def _verdict(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, _said(response)["Code"]


def _with_parameter(url: str, name: str, value: str | None) -> str:
    """Return *url* with query parameter *name* replaced, or dropped."""
    changed = re.sub(rf"([?&]){name}=[^&]*", "" if value is None else rf"\g<1>{name}={value}", url)
    assert changed != url
    return changed if "?" in changed else changed.replace("&", "?", 1)


# -- what is accepted


def test_a_url_of_boto3_gives_the_object(oracle: Oracle, sign: Sign, send: Send) -> None:
    response = send(sign())
    assert (response.status_code, response.content, response.headers["content-type"]) == (
        200,
        BODY,
        "image/jpeg",
    )
    assert oracle.requests[-1].accepted


def test_a_path_style_url_gives_the_object(oracle: Oracle, sign: Sign, send: Send) -> None:
    assert send(sign(style="path")).content == BODY


def test_a_head_url_gives_the_headers_alone(oracle: Oracle, sign: Sign, send: Send) -> None:
    response = send(sign("head_object"), "HEAD")
    assert (response.status_code, response.content, response.headers["content-length"]) == (200, b"", "10")


def test_what_a_put_url_stored_a_get_url_gives(oracle: Oracle, sign: Sign, send: Send) -> None:
    assert send(sign("put_object", Key="new"), "PUT", content=b"fresh").status_code == 200
    assert send(sign(Key="new")).content == b"fresh"


def test_what_a_delete_url_deleted_is_gone(oracle: Oracle, sign: Sign, send: Send) -> None:
    assert send(sign("delete_object"), "DELETE").status_code == 204
    assert _verdict(send(sign())) == (404, "NoSuchKey")


def test_signed_overrides_are_sent_back(oracle: Oracle, sign: Sign, send: Send) -> None:
    response = send(sign(ResponseContentDisposition='attachment; filename="a b.jpg"'))
    assert response.headers["content-disposition"] == 'attachment; filename="a b.jpg"'


def test_an_override_cannot_write_a_header_of_its_own(oracle: Oracle, sign: Sign, send: Send) -> None:
    assert _verdict(send(sign(ResponseContentType="a\r\nset-cookie: b"))) == (400, "InvalidArgument")


def test_a_version_is_its_own_object(oracle: Oracle, sign: Sign, send: Send) -> None:
    oracle.put("media", "doc", b"one", version_id="v1")
    oracle.put("media", "doc", b"two", version_id="v2")
    bodies = [
        send(sign(Key="doc", **which)).content for which in ({}, {"VersionId": "v1"}, {"VersionId": "v2"})
    ]
    assert bodies == [b"two", b"one", b"two"]
    assert _verdict(send(sign(Key="doc", VersionId="v3"))) == (404, "NoSuchVersion")


def test_part_numbers_are_accepted(oracle: Oracle, sign: Sign, send: Send) -> None:
    assert send(sign(PartNumber=1)).status_code == 200


def test_an_etag_the_client_has_is_not_sent_again(oracle: Oracle, sign: Sign, send: Send) -> None:
    etag = send(sign()).headers["etag"]
    assert send(sign(), headers={"If-None-Match": etag}).status_code == 304


def test_the_date_header_is_the_oracles_time(oracle: Oracle, sign: Sign, send: Send) -> None:
    assert send(sign()).headers["date"] == "Thu, 01 Jan 2026 12:00:00 GMT"


# -- row: GET URL used with HEAD, PUT, DELETE; tampered signature, key, query, Host; wrong secret; an extra
#    unsigned parameter


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE"])
def test_a_get_url_is_for_get_alone(oracle: Oracle, sign: Sign, send: Send, method: str) -> None:
    assert send(sign(), method).status_code == 403
    assert oracle.requests[-1].code == "SignatureDoesNotMatch"
    assert send(sign()).content == BODY


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("X-Amz-Signature=", "X-Amz-Signature=0"),
        ("/cat.jpg", "/cot.jpg"),
        ("X-Amz-Expires=3600", "X-Amz-Expires=7200"),
        ("//media.s3", "//other.s3"),
        ("X-Amz-Signature", "response-content-type=text%2Fhtml&X-Amz-Signature"),
        ("X-Amz-Algorithm", "harmless&X-Amz-Algorithm"),
    ],
    ids=["signature", "key", "query", "host", "override", "unknown parameter"],
)
def test_a_tampered_url_does_not_match(
    oracle: Oracle, sign: Sign, send: Send, was: str, becomes: str
) -> None:
    oracle.create_bucket("other", region="eu-west-1")
    assert _verdict(send(sign().replace(was, becomes, 1))) == (403, "SignatureDoesNotMatch")


def test_another_secret_does_not_match(oracle: Oracle, sign: Sign, send: Send, s3_key: KeyPair) -> None:
    wrong = dataclasses.replace(s3_key, secret_key="another")
    assert _verdict(send(sign(key_pair=wrong))) == (403, "SignatureDoesNotMatch")


# -- row: X-Amz-Expires, X-Amz-Signature, ... missing; malformed date; Expires < 1 or > 604800; service not s3


@pytest.mark.parametrize("name", ["Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature"])
def test_a_missing_parameter_is_named_malformed(oracle: Oracle, sign: Sign, send: Send, name: str) -> None:
    url = _with_parameter(sign(), f"X-Amz-{name}", None)
    assert _verdict(send(url)) == (400, "AuthorizationQueryParametersError")


@pytest.mark.parametrize("date", ["20260101", "20261301T120000Z", "2026-01-01T12:00:00Z", "20260101t120000z"])
def test_a_malformed_date_is_named_malformed(oracle: Oracle, sign: Sign, send: Send, date: str) -> None:
    url = _with_parameter(sign(), "X-Amz-Date", date)
    assert _verdict(send(url)) == (400, "AuthorizationQueryParametersError")


@pytest.mark.parametrize("expires", [0, -1, 604_801])
def test_a_lifetime_is_from_a_second_to_a_week(oracle: Oracle, sign: Sign, send: Send, expires: int) -> None:
    assert _verdict(send(sign(expires=expires))) == (400, "AuthorizationQueryParametersError")


@pytest.mark.parametrize("expires", [1, 604_800])
def test_a_second_and_a_week_are_lifetimes(oracle: Oracle, sign: Sign, send: Send, expires: int) -> None:
    assert send(sign(expires=expires)).status_code == 200


def test_a_lifetime_is_a_number(oracle: Oracle, sign: Sign, send: Send) -> None:
    url = _with_parameter(sign(), "X-Amz-Expires", "1h")
    assert _verdict(send(url)) == (400, "AuthorizationQueryParametersError")


@pytest.mark.parametrize(
    ("was", "becomes"),
    [("%2Fs3%2F", "%2Fsts%2F"), ("aws4_request", "aws5_request"), ("%2F20260101%2F", "%2F20260102%2F")],
    ids=["service", "terminal", "date"],
)
def test_a_foreign_scope_is_named_malformed(
    oracle: Oracle, sign: Sign, send: Send, was: str, becomes: str
) -> None:
    assert _verdict(send(sign().replace(was, becomes))) == (400, "AuthorizationQueryParametersError")


def test_an_unknown_algorithm_is_named_malformed(oracle: Oracle, sign: Sign, send: Send) -> None:
    url = _with_parameter(sign(), "X-Amz-Algorithm", "AWS4-HMAC-SHA1")
    assert _verdict(send(url)) == (400, "AuthorizationQueryParametersError")


# -- row: region of the scope is not the bucket's


@pytest.mark.parametrize("endpoint_url", [ENDPOINT, "http://s3.eu-west-1.amazonaws.com"])
def test_a_scope_of_another_region_is_told_the_right_one(
    oracle: Oracle, sign: Sign, send: Send, endpoint_url: str
) -> None:
    response = send(sign(region="us-east-1", endpoint_url=endpoint_url))
    assert _verdict(response) == (400, "AuthorizationQueryParametersError")
    assert (_said(response)["Region"], response.headers["x-amz-bucket-region"]) == ("eu-west-1", "eu-west-1")
    assert "expecting 'eu-west-1'" in _said(response)["Message"]


# -- row: now > date + Expires


def test_a_url_lives_up_to_its_last_second(oracle: Oracle, sign: Sign, send: Send, s3_clock: Clock) -> None:
    url = sign(expires=60)
    s3_clock.advance(60)
    assert send(url).status_code == 200


def test_a_url_dies_after_its_last_second(oracle: Oracle, sign: Sign, send: Send, s3_clock: Clock) -> None:
    url = sign(expires=60)
    s3_clock.advance(60.5)
    response = send(url)
    assert _verdict(response) == (403, "AccessDenied")
    assert {
        "Message": "Request has expired",
        "Expires": "2026-01-01T12:01:00Z",
        "ServerTime": "2026-01-01T12:01:00Z",
        "X-Amz-Expires": "60",
    }.items() <= _said(response).items()


# -- row: date more than 15 min ahead


def test_a_date_of_15_minutes_ahead_is_accepted(
    oracle: Oracle, sign: Sign, send: Send, s3_clock: Clock
) -> None:
    url = sign()
    s3_clock.step(-900)
    assert send(url).status_code == 200


def test_a_date_further_ahead_is_refused(oracle: Oracle, sign: Sign, send: Send, s3_clock: Clock) -> None:
    url = sign()
    s3_clock.step(-901)
    response = send(url)
    assert _verdict(response) == (403, "AccessDenied")
    assert _said(response)["Message"] == "Request is not yet valid"


# -- row: unknown access key


def test_an_unknown_access_key_is_refused(oracle: Oracle, sign: Sign, send: Send) -> None:
    response = send(sign(key_pair=KeyPair("AKIAUNKNOWN", "secret")))
    assert _verdict(response) == (403, "InvalidAccessKeyId")
    assert _said(response)["AWSAccessKeyId"] == "AKIAUNKNOWN"


def test_a_removed_key_is_unknown(oracle: Oracle, sign: Sign, send: Send, s3_key: KeyPair) -> None:
    oracle.remove_key(s3_key.access_key)
    assert _verdict(send(sign())) == (403, "InvalidAccessKeyId")


def test_a_temporary_key_without_its_token_is_unknown(oracle: Oracle, sign: Sign, send: Send) -> None:
    key_pair = oracle.add_key("ASIATEMPORARY", "secret", token="the token")
    url = sign(key_pair=dataclasses.replace(key_pair, token=None))
    assert _verdict(send(url)) == (403, "InvalidAccessKeyId")


# -- row: token malformed / expired


def test_a_token_is_accepted_while_it_lives(oracle: Oracle, sign: Sign, send: Send, s3_clock: Clock) -> None:
    key_pair = oracle.add_key("ASIATEMPORARY", "secret", token="t/+= ~", ends=s3_clock.time() + 900)
    url = sign(key_pair=key_pair)
    s3_clock.advance(899)
    assert send(url).status_code == 200


def test_an_expired_token_ends_its_urls_early(
    oracle: Oracle, sign: Sign, send: Send, s3_clock: Clock
) -> None:
    key_pair = oracle.add_key("ASIATEMPORARY", "secret", token="the token", ends=s3_clock.time() + 900)
    url = sign(key_pair=key_pair)
    s3_clock.advance(900)
    assert _verdict(send(url)) == (400, "ExpiredToken")


def test_a_foreign_token_is_refused(oracle: Oracle, sign: Sign, send: Send) -> None:
    key_pair = oracle.add_key("ASIATEMPORARY", "secret", token="the token")
    url = sign(key_pair=dataclasses.replace(key_pair, token="another token"))
    assert _verdict(send(url)) == (400, "InvalidToken")


def test_a_permanent_key_takes_no_token(oracle: Oracle, sign: Sign, send: Send, s3_key: KeyPair) -> None:
    url = sign(key_pair=dataclasses.replace(s3_key, token="the token"))
    assert _verdict(send(url)) == (400, "InvalidToken")


def test_a_permanent_key_has_no_end(oracle: Oracle) -> None:
    with pytest.raises(ValueError, match="remove_key"):
        oracle.add_key("AKIAPERMANENT", "secret", ends=1.0)


# -- row: presigned URL and an Authorization header


def test_two_mechanisms_are_one_too_many(oracle: Oracle, sign: Sign, send: Send) -> None:
    response = send(sign(), headers={"Authorization": "Bearer of something"})
    assert _verdict(response) == (400, "InvalidArgument")
    assert _said(response)["Message"].startswith("Only one auth mechanism allowed")


def test_sigv2_is_not_supported(oracle: Oracle, sign: Sign, send: Send) -> None:
    url = "http://media.s3.localhost/cat.jpg?AWSAccessKeyId=AKIA&Signature=abc&Expires=1767272400"
    assert _verdict(send(url)) == (400, "InvalidRequest")


# -- row: an x-amz-* header that was not signed


def test_an_unsigned_amz_header_is_refused(oracle: Oracle, sign: Sign, send: Send) -> None:
    response = send(sign(), headers={"x-amz-request-payer": "requester"})
    assert _verdict(response) == (403, "AccessDenied")
    assert _said(response)["Message"] == "There were headers present in the request which were not signed"
    assert _said(response)["HeadersNotSigned"] == "x-amz-request-payer"


def test_the_host_must_be_signed(oracle: Oracle, sign: Sign, send: Send) -> None:
    response = send(_with_parameter(sign(), "X-Amz-SignedHeaders", "range"))
    assert (_said(response)["Code"], _said(response)["HeadersNotSigned"]) == ("AccessDenied", "host")


def test_a_signed_amz_header_is_accepted(oracle: Oracle, sign: Sign, send: Send) -> None:
    headers = {
        "x-amz-server-side-encryption-customer-algorithm": "AES256",
        "x-amz-server-side-encryption-customer-key": "a" * 43 + "=",
        "x-amz-server-side-encryption-customer-key-md5": "b" * 22 + "==",
    }
    url = sign(
        SSECustomerAlgorithm=headers["x-amz-server-side-encryption-customer-algorithm"],
        SSECustomerKey=headers["x-amz-server-side-encryption-customer-key"],
        SSECustomerKeyMD5=headers["x-amz-server-side-encryption-customer-key-md5"],
    )
    assert send(url, headers=headers).status_code == 200
    assert _verdict(send(url)) == (403, "SignatureDoesNotMatch")


# -- row: a signed header (Content-Type, Range) absent or different


def test_a_signed_range_must_be_sent(oracle: Oracle, sign: Sign, send: Send) -> None:
    url = sign(Range="bytes=0-3")
    assert send(url, headers={"Range": "bytes=0-3"}).content == b"0123"
    assert _verdict(send(url)) == (403, "SignatureDoesNotMatch")
    assert _verdict(send(url, headers={"Range": "bytes=0-9"})) == (403, "SignatureDoesNotMatch")


def test_a_signed_content_type_must_be_sent(oracle: Oracle, sign: Sign, send: Send) -> None:
    url = sign("put_object", Key="new", ContentType="text/plain")
    assert send(url, "PUT", content=b"x", headers={"Content-Type": "text/html"}).status_code == 403
    assert send(url, "PUT", content=b"x").status_code == 403
    assert send(url, "PUT", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 200


# -- row: anonymous on a private bucket


def test_buckets_are_private(oracle: Oracle, send: Send) -> None:
    assert _verdict(send("http://media.s3.localhost/cat.jpg")) == (403, "AccessDenied")


def test_an_unknown_bucket_is_not_there(oracle: Oracle, sign: Sign, send: Send) -> None:
    assert _verdict(send("http://absent.s3.localhost/cat.jpg")) == (404, "NoSuchBucket")
    assert _verdict(send(sign(Bucket="absent"))) == (404, "NoSuchBucket")


# -- row: missing key


def test_a_missing_key_is_not_found_by_who_may_list(oracle: Oracle, sign: Sign, send: Send) -> None:
    assert _verdict(send(sign(Key="dog.jpg"))) == (404, "NoSuchKey")


def test_a_missing_key_is_denied_to_who_may_not_list(oracle: Oracle, sign: Sign, send: Send) -> None:
    oracle.create_bucket("blind", region="eu-west-1", listable=False)
    assert _verdict(send(sign(Bucket="blind"))) == (403, "AccessDenied")


# -- row: Range over a presigned GET


@pytest.mark.parametrize(
    ("asked", "given", "body"),
    [
        ("bytes=2-4", "bytes 2-4/10", b"234"),
        ("bytes=7-", "bytes 7-9/10", b"789"),
        ("bytes=-2", "bytes 8-9/10", b"89"),
        ("bytes=8-99", "bytes 8-9/10", b"89"),
    ],
)
def test_a_range_gives_a_part(
    oracle: Oracle, sign: Sign, send: Send, asked: str, given: str, body: bytes
) -> None:
    response = send(sign(), headers={"Range": asked})
    assert (206, given, body) == (response.status_code, response.headers["content-range"], response.content)


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "bytes=-", "lines=1-2", "bytes=5-2"])
def test_a_range_s3_cannot_read_gives_the_whole(oracle: Oracle, sign: Sign, send: Send, asked: str) -> None:
    response = send(sign(), headers={"Range": asked})
    assert (response.status_code, response.content) == (200, BODY)


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=-0"])
def test_a_range_outside_is_not_satisfiable(oracle: Oracle, sign: Sign, send: Send, asked: str) -> None:
    response = send(sign(), headers={"Range": asked})
    assert _verdict(response) == (416, "InvalidRange")
    assert _said(response)["ActualObjectSize"] == "10"


# -- row: bucket in another region, virtual host


@pytest.mark.parametrize("style", ["virtual", "path"])
def test_a_host_of_another_region_is_redirected(oracle: Oracle, sign: Sign, send: Send, style: str) -> None:
    response = send(sign(region="us-west-2", style=style, endpoint_url=None))
    assert _verdict(response) == (301, "PermanentRedirect")
    assert response.headers["x-amz-bucket-region"] == "eu-west-1"
    assert "location" not in response.headers
    endpoint = {"virtual": "media.s3.eu-west-1.amazonaws.com", "path": "s3.eu-west-1.amazonaws.com"}
    assert _said(response)["Endpoint"] == endpoint[style]


def test_the_legacy_global_host_fails_in_newer_regions(oracle: Oracle, sign: Sign, send: Send) -> None:
    oracle.create_bucket("newer", region="eu-south-2")
    response = send(sign(Bucket="newer", region="eu-south-2", endpoint_url="https://s3.amazonaws.com"))
    assert (response.status_code, response.headers["x-amz-bucket-region"]) == (400, "eu-south-2")


def test_the_legacy_global_host_takes_path_style_for_us_east_1_alone(
    oracle: Oracle, sign: Sign, send: Send
) -> None:
    oracle.create_bucket("oldest", region="us-east-1")
    oracle.put("oldest", "cat.jpg", BODY)
    old = {"style": "path", "endpoint_url": "https://s3.amazonaws.com"}
    assert send(sign(Bucket="oldest", region="us-east-1", **old)).content == BODY
    assert _verdict(send(sign(**old))) == (301, "PermanentRedirect")


# -- hosts


@pytest.mark.parametrize(
    ("style", "s3", "host"),
    [
        ("virtual", {}, "media.s3.eu-west-1.amazonaws.com"),
        ("path", {}, "s3.eu-west-1.amazonaws.com"),
        ("auto", {}, "media.s3.amazonaws.com"),
        ("virtual", {"use_dualstack_endpoint": True}, "media.s3.dualstack.eu-west-1.amazonaws.com"),
        ("virtual", {"use_accelerate_endpoint": True}, "media.s3-accelerate.amazonaws.com"),
    ],
)
def test_the_hosts_of_aws_are_known(
    oracle: Oracle, sign: Sign, send: Send, style: str, s3: dict[str, Any], host: str
) -> None:
    assert send(sign(style=style, s3=s3, endpoint_url=None)).content == BODY
    assert oracle.requests[-1].host == host


def test_an_access_point_reaches_its_bucket(oracle: Oracle, sign: Sign, send: Send) -> None:
    oracle.create_access_point("shop", "123456789012", "media")
    arn = "arn:aws:s3:eu-west-1:123456789012:accesspoint/shop"
    assert send(sign(Bucket=arn, style="auto", endpoint_url=None)).content == BODY
    assert oracle.requests[-1].host == "shop-123456789012.s3-accesspoint.eu-west-1.amazonaws.com"


@pytest.mark.parametrize(
    "endpoint_url",
    ["http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9000", "http://s3.two:8000"],
)
def test_an_endpoint_may_be_an_address_or_one_of_several_domains(
    sign: Sign, s3_clock: Clock, s3_key: KeyPair, endpoint_url: str
) -> None:
    oracle = Oracle(clock=s3_clock, domain=["s3.one", "s3.two"])
    oracle.add_key(s3_key.access_key, s3_key.secret_key)
    oracle.create_bucket("media", region="eu-west-1")
    oracle.put("media", "cat.jpg", BODY)
    assert _direct(oracle, sign(style="path", endpoint_url=endpoint_url)).body == BODY


# -- the wire


# fmt: off
ODD_KEYS = [
    "a b", "a+b", "a%b", "a%2Fb", "a%20b", "a//b", "a///b", "/a", "//a", "a/", "a~b", "~", "-_.", "a=b",
    "a&b", "a?b", "a#b", "a;b", "a:b", "a@b", "a,b", "a$b", "a!b", "a'b", 'a"b', "a(b)", "a*b", "a[b]",
    "a{b}", "a|b", "a\\b", "a^b", "a`b", "a<b>", "é", "e\u0301", "日本語/写真.jpg", "🐈", "a\u00a0b",
    "a\tb", "a\nb", "\x7f", "%", "%%", "%zz", "+", " ", "ü+ü %ü", "a" * 900, "x-amz-signature=1",
]
# fmt: on


def _direct(oracle: Oracle, url: str, method: str = "GET") -> S3Response:
    """Answer *url* without a client in between that could put it right."""
    parts = urlsplit(url)
    return oracle.answer(S3Request(method, parts.path, parts.query, headers=(("host", parts.netloc),)))


def test_there_are_fifty_odd_keys() -> None:
    assert len(set(ODD_KEYS)) == 50


@pytest.mark.parametrize("shell", [_through_asgi, _through_a_socket], ids=["asgi", "socket"])
@pytest.mark.parametrize("style", ["virtual", "path"])
def test_odd_keys_of_boto3_are_accepted_as_they_are_on_the_wire(
    oracle: Oracle, sign: Sign, style: str, shell: Shell
) -> None:
    with shell(oracle) as send:
        for key in ODD_KEYS:
            oracle.put("media", key, key.encode())
            url = sign(Key=key, style=style)
            assert send(url).content == key.encode()
            assert oracle.requests[-1].path == urlsplit(url).path


@pytest.mark.parametrize("style", ["virtual", "path"])
def test_no_single_character_can_be_changed(oracle: Oracle, sign: Sign, style: str) -> None:
    chance = random.Random(style)
    for key in ODD_KEYS:
        oracle.put("media", key, b"")
        url = sign(Key=key, style=style)
        assert _direct(oracle, url).status == 200
        start = url.index("/", len("http://")) + 1
        positions = range(start, len(url))
        for at in chance.sample(positions, 40):
            # The case of a hex digit after a percent sign changes nothing.
            other = chance.choice([c for c in "aZ09&=+%/~-" if c.casefold() != url[at].casefold()])
            changed = f"{url[:at]}{other}{url[at + 1 :]}"
            assert 400 <= _direct(oracle, changed).status < 500, changed[:start]


@given(key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_key_boto3_can_sign_is_found(oracle: Oracle, sign: Sign, key: str) -> None:
    oracle.put("media", key, key.encode())
    for style in ("virtual", "path"):
        assert _direct(oracle, sign(Key=key, style=style)).body == key.encode()


@pytest.mark.parametrize(("was", "becomes"), [("%20", "+"), ("%28", "("), ("~", "%7E"), ("%C3%A9", "%c3%a9")])
def test_the_path_must_be_spelt_as_it_was_signed(oracle: Oracle, sign: Sign, was: str, becomes: str) -> None:
    oracle.put("media", " (~é", BODY)
    url = sign(Key=" (~é")
    assert _direct(oracle, url).status == 200
    assert _direct(oracle, url.replace(was, becomes)).code == "SignatureDoesNotMatch"


def test_a_plus_in_the_query_is_not_a_space(oracle: Oracle, sign: Sign) -> None:
    url = sign(ResponseContentType="a b")
    assert _direct(oracle, url).status == 200
    assert _direct(oracle, url.replace("a%20b", "a+b")).code == "SignatureDoesNotMatch"


def test_a_bad_escape_is_no_uri(oracle: Oracle, sign: Sign) -> None:
    assert _direct(oracle, sign().replace("cat", "c%t")).code == "InvalidURI"


def test_a_key_is_at_most_1024_bytes(oracle: Oracle, sign: Sign) -> None:
    assert _direct(oracle, sign(Key="é" * 512)).code == "NoSuchKey"
    assert _direct(oracle, sign(Key="é" * 513)).code == "KeyTooLongError"


@pytest.mark.parametrize("name", ["REQUEST_URI", "RAW_URI"])
def test_wsgi_reads_the_path_of_the_wire(oracle: Oracle, sign: Sign, name: str) -> None:
    oracle.put("media", "a//é+", BODY)
    parts = urlsplit(sign(Key="a//é+"))

    def with_raw_uri(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        environ[name] = f"{parts.path}?{parts.query}"
        environ["PATH_INFO"] = "/something else"
        return oracle.wsgi(environ, start_response)

    with httpx.Client(transport=httpx.WSGITransport(app=with_raw_uri)) as client:
        assert client.get(f"http://{parts.netloc}/").content == BODY


def test_asgi_without_a_raw_path_quotes_the_decoded_one(oracle: Oracle, sign: Sign) -> None:
    oracle.put("media", "é b", BODY)

    async def without_raw_path(scope: Any, receive: Any, send: Any) -> None:
        await oracle.asgi({**scope, "raw_path": None}, receive, send)

    async def fetch() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=without_raw_path)) as client:
            return await client.get(sign(Key="é b"))

    assert asyncio.run(fetch()).content == BODY


def test_asgi_starts_and_stops_with_its_server(oracle: Oracle, sign: Sign) -> None:
    with TestClient(oracle.asgi) as client:
        assert client.get(sign()).content == BODY


def test_the_server_keeps_connections_alive_and_closes_them_at_the_end(oracle: Oracle, sign: Sign) -> None:
    with httpx.Client(trust_env=False, verify=False) as client:
        with oracle.serve() as base:
            for _ in range(3):
                assert client.get(sign(style="path", endpoint_url=base)).content == BODY
        with pytest.raises(httpx.ConnectError):
            client.get(base)


def test_chunked_uploads_are_not_implemented(oracle: Oracle, sign: Sign) -> None:
    with oracle.serve() as base, httpx.Client(trust_env=False, verify=False) as client:
        url = sign("put_object", Key="new", style="path", endpoint_url=base)
        assert _verdict(client.put(url, content=iter([b"a", b"b"]))) == (501, "NotImplemented")
        assert client.get(sign(style="path", endpoint_url=base)).content == BODY


def test_threads_get_an_answer_each(oracle: Oracle, sign: Sign) -> None:
    url = sign()
    with ThreadPoolExecutor(8) as pool:
        assert {BODY} == {response.body for response in pool.map(_direct, [oracle] * 200, [url] * 200)}
    assert len(oracle.requests) == 200


# -- what the oracle tells


def test_requests_tell_what_was_on_the_wire(oracle: Oracle, sign: Sign, send: Send) -> None:
    send(sign(Key="dog.jpg"), headers={"Accept": "image/*"})
    (seen,) = oracle.requests
    assert (
        seen.method,
        seen.host,
        seen.path,
        seen.status,
        seen.code,
        seen.accepted,
    ) == ("GET", "media.s3.localhost", "/dog.jpg", 404, "NoSuchKey", False)
    assert seen.query_names == (
        *("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires"),
        *("X-Amz-SignedHeaders", "X-Amz-Signature"),
    )
    assert ("accept", "image/*") in seen.headers
    oracle.forget_requests()
    assert oracle.requests == ()


def test_nothing_that_is_told_holds_a_secret(oracle: Oracle, sign: Sign, send: Send) -> None:
    key_pair = oracle.add_key("ASIATEMPORARY", "the-secret", token="the-token")
    url = sign(key_pair=dataclasses.replace(key_pair, secret_key="another"))
    response = send(url)
    signature = url.partition("X-Amz-Signature=")[2]
    told = f"{response.text} {response.headers} {oracle.requests} {key_pair} {S3Request('GET', '/', url)}"
    assert _verdict(response) == (403, "SignatureDoesNotMatch")
    assert [secret for secret in ("the-secret", "the-token", signature) if secret in told] == []


def test_an_error_body_is_xml_whatever_the_key(oracle: Oracle, sign: Sign) -> None:
    response = _direct(oracle, sign(Key="<&>\x01\ufffe"))
    root = ElementTree.fromstring(response.body)
    assert root.findtext("Key") == "<&>\ufffd\ufffd"
    assert root.findtext("Resource") == quote("/<&>\x01\ufffe")


@pytest.mark.parametrize("call", ["put", "create_access_point"])
def test_an_absent_bucket_is_named(oracle: Oracle, call: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "put": ("absent", "key", b""),
        "create_access_point": ("name", "123456789012", "absent"),
    }
    with pytest.raises(ValueError, match=r"no bucket 'absent': call create_bucket\(\)"):
        getattr(oracle, call)(*arguments[call])


def test_importing_the_package_imports_no_third_party() -> None:
    program = (
        "import sys, presign_middleware.testing; "
        "print({'pytest', 'boto3', 'botocore', 'httpx', 'starlette'}.intersection(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# -- the clock


def test_time_that_goes_by_moves_both_times() -> None:
    clock = Clock(now=100.0)
    before = clock.monotonic()
    clock.advance(2.5)
    assert (clock.time(), clock.monotonic() - before) == (102.5, 2.5)


def test_a_step_moves_the_wall_time_alone() -> None:
    clock = Clock(now=100.0)
    before = clock.monotonic()
    clock.step(-50)
    assert (50.0, before) == (clock.time(), clock.monotonic())


def test_time_does_not_go_by_backwards() -> None:
    with pytest.raises(ValueError, match=r"step\(\)"):
        Clock().advance(-1)
