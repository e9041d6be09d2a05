"""
S3 is as the library and its oracle take it to be.

The rows are those of the oracle's table: status and code of every refusal.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest

from presign_middleware import Policy, Presigner
from presign_middleware.testing import Clock

from .place import BODY, Place

DAY: Final = 86_400

pytestmark = pytest.mark.filterwarnings("default")  # of whatever boto3 was told to use for credentials


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    place = Place.of_environment()
    try:
        yield place
    finally:
        place.clear()


@pytest.fixture(scope="module")
def stored(place: Place) -> str:
    return place.put("a b/ü+%.txt")


@pytest.fixture(scope="module")
def presigner(place: Place) -> Iterator[Presigner]:
    presigner = place.presigner(methods=("GET", "HEAD", "PUT", "DELETE"))
    yield presigner
    presigner.close()


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=30) as client:
        yield client


def said(answer: httpx.Response) -> tuple[int, str]:
    """Return status and error code."""
    code = re.search(r"<Code>(\w+)</Code>", answer.text) if answer.status_code >= 300 else None
    return answer.status_code, code[1] if code else ""


def test_a_url_fetches_its_object(presigner: Presigner, stored: str, http: httpx.Client) -> None:
    answer = http.get(presigner.url(stored))
    assert (answer.status_code, answer.content) == (200, BODY)


def test_a_new_sessions_url_is_accepted_though_dated_days_before_it(place: Place, http: httpx.Client) -> None:
    session = place.new_session()
    if session is None:
        pytest.skip("no session can be had: give ROLE=arn:aws:iam::...:role/...")
    # A week's window: the object's phase decides how long ago it began.
    presigner = place.presigner(session=session, policy=Policy(lifetime=604_800, assumed_session=900))
    now = time.time()
    names = (f"back-dated/{number}" for number in range(1000))
    name = next(
        name for name in names if 2 * DAY < now - presigner.resolve(place.target(name)).created_at < 6 * DAY
    )
    place.put(name)
    answer = http.get(presigner.url(place.target(name)))
    presigner.close()
    assert (said(answer), answer.content) == ((200, ""), BODY)


@pytest.mark.parametrize("style", ["virtual", "path"])
def test_the_regional_host_serves_both_styles(
    place: Place, stored: str, http: httpx.Client, style: str
) -> None:
    if place.endpoint is not None:
        pytest.skip("another S3 than AWS has hosts of its own")
    presigner = place.presigner(addressing_style=style)
    url = presigner.url(stored)
    presigner.close()
    host = f"s3.{place.region}.amazonaws.com"
    assert urlsplit(url).netloc == (f"{place.bucket}.{host}" if style == "virtual" else host)
    assert said(http.get(url)) == (200, "")


def test_get_and_head_have_urls_of_their_own(presigner: Presigner, stored: str, http: httpx.Client) -> None:
    get, head = presigner.url(stored), presigner.url(stored, "HEAD")
    statuses = [http.request(method, url).status_code for method in ("GET", "HEAD") for url in (get, head)]
    assert statuses == [200, 403, 403, 200]


def test_put_and_delete_do_what_they_say(presigner: Presigner, place: Place, http: httpx.Client) -> None:
    target = place.target("uploaded")
    assert http.put(presigner.url(target, "PUT"), content=b"new").status_code == 200
    assert http.get(presigner.url(target)).content == b"new"
    assert http.delete(presigner.url(target, "DELETE")).status_code == 204


def test_a_version_is_fetched_by_its_id(place: Place, presigner: Presigner, http: httpx.Client) -> None:
    if not place.has_versions():
        pytest.skip("the bucket keeps no versions")
    name = f"{place.prefix}versioned"
    first = place.client.put_object(Bucket=place.bucket, Key=name, Body=b"first")["VersionId"]
    place.put("versioned", b"second")
    url = presigner.url(place.target("versioned"), params={"VersionId": first})
    assert http.get(url).content == b"first"


def test_response_headers_are_as_they_were_signed(
    presigner: Presigner, stored: str, http: httpx.Client
) -> None:
    wanted = {
        "ResponseContentType": "text/x-test; charset=utf-8",
        "ResponseContentDisposition": 'attachment; filename="a b+c.txt"',
        "ResponseCacheControl": "private, max-age=60",
    }
    answer = http.get(presigner.url(stored, params=wanted))
    names = ("content-type", "content-disposition", "cache-control")
    assert [answer.headers.get(name) for name in names] == list(wanted.values())


def test_a_range_is_not_part_of_the_signature(presigner: Presigner, stored: str, http: httpx.Client) -> None:
    url = presigner.url(stored)
    part, outside = (http.get(url, headers={"Range": f"bytes={b}"}) for b in ("2-4", "10-"))
    assert (part.status_code, part.content) == (206, b"234")
    assert said(outside) == (416, "InvalidRange")


@pytest.mark.parametrize(
    ("ahead", "wanted"),
    [(-7200, (403, "AccessDenied")), (600, (200, "")), (1200, (403, "AccessDenied"))],
    ids=["expired", "10 minutes ahead", "20 minutes ahead"],
)
def test_a_date_is_good_until_it_expires_and_15_minutes_ahead(
    place: Place, stored: str, http: httpx.Client, ahead: float, wanted: tuple[int, str]
) -> None:
    # Windows of 15 s: the date is at most so long before this clock.
    policy = Policy(lifetime=60, min_remaining=5, ageing=40)
    presigner = place.presigner(clock=Clock(now=time.time() + ahead), policy=policy)
    answer = http.get(presigner.url(stored))
    presigner.close()
    assert said(answer) == wanted


def _as_signed(url: str) -> str:
    return url


def _replaced(pattern: str, becomes: str) -> Callable[[str], str]:
    def change(url: str) -> str:
        changed = re.sub(pattern, becomes, url, count=1)
        assert changed != url
        return changed

    return change


def _without(name: str) -> Callable[[str], str]:
    return _replaced(rf"(?<=[?&])X-Amz-{name}=[^&]*&?", "")


@dataclass(frozen=True, slots=True)
class Row:
    """What is made of a good URL, and what S3 says to it."""

    status: int
    code: str
    change: Callable[[str], str] = _as_signed
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)


MALFORMED: Final = (400, "AuthorizationQueryParametersError")
MISMATCH: Final = (403, "SignatureDoesNotMatch")
DENIED: Final = (403, "AccessDenied")

ROWS: Final = {
    "used with PUT": Row(*MISMATCH, method="PUT"),
    "used with DELETE": Row(*MISMATCH, method="DELETE"),
    "another signature": Row(*MISMATCH, _replaced(r"X-Amz-Signature=\w{8}", "X-Amz-Signature=00000000")),
    "another key": Row(*MISMATCH, _replaced(r"\.txt", ".text")),
    "another lifetime": Row(*MISMATCH, _replaced("Expires=3600", "Expires=7200")),
    "an extra parameter": Row(*MISMATCH, _replaced("$", "&extra=1")),
    "an extra override": Row(*MISMATCH, _replaced("$", "&response-content-type=text%2Fhtml")),
    "expires missing": Row(*MALFORMED, _without("Expires")),
    "signature missing": Row(*MALFORMED, _without("Signature")),
    "credential missing": Row(*MALFORMED, _without("Credential")),
    "malformed date": Row(*MALFORMED, _replaced("X-Amz-Date=[^&]*", "X-Amz-Date=20260101")),
    "lifetime of 0": Row(*MALFORMED, _replaced("Expires=3600", "Expires=0")),
    "more than a week": Row(*MALFORMED, _replaced("Expires=3600", "Expires=604801")),
    "another service": Row(*MALFORMED, _replaced("%2Fs3%2F", "%2Fsts%2F")),
    "another region": Row(*MALFORMED, _replaced(r"%2F[a-z0-9-]+%2Fs3", "%2Fmars-north-1%2Fs3")),
    "an unknown key": Row(
        403, "InvalidAccessKeyId", _replaced("Credential=[^%]*", "Credential=AKIAABSENTABSENTABSE")
    ),
    "an Authorization header": Row(
        400,
        "InvalidArgument",
        headers={
            "Authorization": "AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/s3/aws4_request, "
            f"SignedHeaders=host, Signature={'0' * 64}"
        },
    ),
    "an unsigned x-amz header": Row(*DENIED, headers={"x-amz-meta-owner": "me"}),
    "no signature at all": Row(*DENIED, _replaced(r"\?.*", "")),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_oracles_table_holds(
    presigner: Presigner, stored: str, http: httpx.Client, name: str
) -> None:
    row = ROWS[name]
    url = row.change(presigner.url(stored))
    assert said(http.request(row.method, url, headers=row.headers)) == (row.status, row.code)


def test_a_token_that_was_altered_is_refused(place: Place, stored: str, http: httpx.Client) -> None:
    session = place.new_session()
    if session is None:
        pytest.skip("no session can be had: give ROLE=arn:aws:iam::...:role/...")
    presigner = place.presigner(session=session)
    url = _replaced(r"(X-Amz-Security-Token=[^&]{20})[^&]{8}", r"\g<1>AAAAAAAA")(presigner.url(stored))
    presigner.close()
    assert said(http.get(url)) == (400, "InvalidToken")


def test_a_key_that_is_absent_is_not_found_or_not_to_be_known(
    place: Place, presigner: Presigner, http: httpx.Client
) -> None:
    # Whoever may list the bucket is told that there is no such key.
    assert said(http.get(presigner.url(place.target("absent")))) in [(404, "NoSuchKey"), DENIED]
