"""The URLs themselves: byte for byte what boto3 makes of the same object at the same instant."""

import asyncio
import functools
import logging
import random
import string
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from hashlib import md5
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, parse_qsl, quote, urlsplit

import boto3
import botocore.auth
import botocore.session
import pytest
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

import presign_middleware.plans
import presign_middleware.signing
from presign_middleware import ConfigurationError, NotCovered, Origin, Presigner, SignedURL, SigningError
from presign_middleware.local import Entry
from presign_middleware.objects import SIGNED_PARAMETERS, Kind, S3Object
from presign_middleware.signing import Signing
from presign_middleware.testing import Clock

NOON = 1_767_268_800  # 2026-01-01 12:00:00 UTC
ACCESS_KEY = "AKIASIGNING000000001"
SECRETS = {"key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYTESTKEY", "token": "IQoJb3Jp/Z2lu+X2VjE//token=="}
ACCESS_POINT = "arn:aws:s3:eu-west-1:123456789012:accesspoint/ap"
OPERATIONS = {"GET": "get_object", "HEAD": "head_object", "PUT": "put_object", "DELETE": "delete_object"}


class _Botocore:
    """botocore's clock, which these tests hold still."""

    now = float(NOON)

    def current(self, remove_tzinfo: bool = True) -> datetime:
        instant = datetime.fromtimestamp(self.now, UTC)
        return instant.replace(tzinfo=None) if remove_tzinfo else instant


botocore_clock = _Botocore()


@pytest.fixture(scope="module", autouse=True)
def botocore_stands_still() -> Iterator[None]:
    """Let boto3 sign at the instant that botocore_clock tells."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", botocore_clock.current)
        yield


class Form(NamedTuple):
    """An endpoint form: how ours and a native boto3 client are told of it."""

    name: str
    base: str = "s3://{bucket}/"  #: what targets begin with
    bucket: str = "acme-media"
    region: str = "eu-west-1"
    endpoint_url: str | None = None
    ours: Mapping[str, Any] = MappingProxyType({})  #: what Origin() is told beside it
    s3: Mapping[str, Any] = MappingProxyType({})  #: what boto3 is told beside it


VIRTUAL: dict[str, Any] = {"addressing_style": "virtual", "us_east_1_regional_endpoint": "regional"}
PATH: dict[str, Any] = {"addressing_style": "path", "us_east_1_regional_endpoint": "regional"}
HOST = "https://acme-media.s3{}.amazonaws.com/"
MINIO, GATE = "http://minio.internal:9000", "https://gate.example/s3"
FIPS = "https://s3-fips.us-east-1.amazonaws.com"
REGIONS = ("us-east-1", "eu-west-1", "eu-central-1", "ap-southeast-2", "cn-north-1")

AP_HOST = "https://ap-123456789012.s3-accesspoint.eu-west-1.amazonaws.com/"
DUAL = {"use_dualstack_endpoint": True}
FAST = {**VIRTUAL, "use_accelerate_endpoint": True}

FORMS = [
    *(Form(f"virtual-{region}", region=region, s3=VIRTUAL) for region in REGIONS),
    Form("virtual-url", HOST.format(".eu-west-1"), s3=VIRTUAL),
    Form("path", ours={"addressing_style": "path"}, s3=PATH),
    Form("path-url", "https://s3.eu-west-1.amazonaws.com/acme-media/", s3=PATH),
    Form("path-us-east-1", "https://s3.us-east-1.amazonaws.com/acme-media/", region="us-east-1", s3=PATH),
    Form("dotted-bucket", bucket="my.dotted.bucket", s3=PATH),
    Form("upper-case-bucket", bucket="Old_Bucket", s3=PATH),
    Form("dual-stack", HOST.format(".dualstack.eu-west-1"), s3=VIRTUAL | DUAL),
    Form("dual-stack-path", "https://s3.dualstack.eu-west-1.amazonaws.com/acme-media/", s3=PATH | DUAL),
    Form("accelerate", HOST.format("-accelerate"), s3=FAST),
    Form("accelerate-dual-stack", HOST.format("-accelerate.dualstack"), s3=FAST | DUAL),
    Form("access-point", bucket=ACCESS_POINT),
    Form("access-point-url", AP_HOST, bucket=ACCESS_POINT),
    Form("legacy-global", HOST.format("")),  # boto3's own choice for eu-west-1
    Form("legacy-global-us-east-1", HOST.format(""), region="us-east-1"),
    Form("custom-path", endpoint_url=MINIO, s3=PATH),
    Form("custom-virtual", ours={"addressing_style": "virtual"}, endpoint_url=MINIO, s3=VIRTUAL),
    Form("custom-path-prefix", endpoint_url="https://gate.example/s3/v1", s3=PATH),
    Form("custom-virtual-url", "https://acme-media.gate.example/s3/", endpoint_url=GATE, s3=VIRTUAL),
    Form("custom-address", endpoint_url="http://127.0.0.1:9000", s3=PATH),
]
BY_NAME = {form.name: form for form in FORMS}


@functools.cache
def session(token: bool = False, secret: str = SECRETS["key"]) -> Any:
    return boto3.Session(ACCESS_KEY, secret, SECRETS["token"] if token else None)


def presigning(clock: Clock | None = None, **options: Any) -> Presigner:
    """Return a presigner of acme-media in eu-west-1 unless *options* say otherwise."""
    origin: dict[str, Any] = {"bucket": "acme-media", "region": "eu-west-1", "session": session(), **options}
    return Presigner(Origin("o", **origin), clock=clock or Clock(NOON))


def presigning_for(form: Form, token: bool, clock: Clock) -> Presigner:
    """Return a presigner whose own form, or one of whose forms, is *form*."""
    ours = {"bucket": form.bucket, "region": form.region, "endpoint_url": form.endpoint_url, **form.ours}
    return presigning(clock, session=session(token), methods=tuple(OPERATIONS), **ours)


@functools.cache
def native(name: str, token: bool = False, secret: str = SECRETS["key"]) -> Any:
    """Return a boto3 client that was configured for the form of that *name* by boto3's own means."""
    form = BY_NAME[name]
    config: Any = {"signature_version": "s3v4", "s3": dict(form.s3)}
    return session(token, secret).client(
        "s3", form.region, endpoint_url=form.endpoint_url, config=Config(**config)
    )


def by_boto3(
    client: Any,
    signed: SignedURL,
    bucket: str,
    key: str,
    params: Mapping[str, Any] = MappingProxyType({}),
    lifetime: int = 3600,
) -> str:
    """Return what *client* makes of an object at the instant at which *signed* was signed."""
    botocore_clock.now = signed.created_at
    named = {"Bucket": bucket, "Key": key, **params}
    url: str = client.generate_presigned_url(OPERATIONS[signed.method], Params=named, ExpiresIn=lifetime)
    return url


@functools.cache
def signer(name: str, token: bool = False) -> tuple[Clock, Presigner]:
    clock = Clock(NOON)
    return clock, presigning_for(BY_NAME[name], token, clock)


def target(form: Form, key: str) -> str:
    """Return *key* as a target of *form*: literal after s3://, percent-encoded in a URL."""
    return form.base.format(bucket=form.bucket) + (key if form.base.startswith("s3:") else quote(key))


def agree(
    form: Form,
    token: bool,
    key: str,
    method: str = "GET",
    params: Mapping[str, Any] = MappingProxyType({}),
    lifetime: int = 3600,
) -> None:
    """Assert that ours and boto3's URL of one object are the same bytes."""
    _, presigner = signer(form.name, token)
    signed = presigner.resolve(target(form, key), method=method, params=params, lifetime=lifetime)
    assert by_boto3(native(form.name, token), signed, form.bucket, key, params, lifetime) == signed.url
    assert presigner.stats()["signed_by_boto3"] == 0


PARAMS: list[dict[str, Any]] = [
    {},
    {"VersionId": "3/L4kqtJl+40Nr8X8gdRQBpUMLUo="},
    {"ResponseContentType": "text/plain; charset=utf-8", "VersionId": "v"},
    {"VersionId": "v", "ResponseContentType": "text/plain; charset=utf-8"},
    {"PartNumber": 7, "ResponseCacheControl": "max-age=60, private", "VersionId": ""},
    {"ResponseContentDisposition": "attachment; filename=\"ü ~'()*+%2F.txt\"; filename*=UTF-8''%c3%bc"},
    {"ResponseExpires": datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC), "ResponseContentLanguage": "de-CH"},
    {"ResponseContentEncoding": "gzip", "ResponseContentLanguage": "de", "PartNumber": 10_000},
]

AWKWARD = (
    string.ascii_letters
    + string.digits
    + string.punctuation.replace(".", "")
    + " \t\n\0\x7f\xa0äß€日本😀e\u0308\u202e\ufeff"
)


def covered(key: str) -> bool:
    """Return whether *key* has no dot segment, which HTTP clients collapse."""
    return {".", ".."}.isdisjoint(key.split("/"))


keys = st.one_of(
    st.text(st.sampled_from(AWKWARD + "///...%%%++"), min_size=1, max_size=30),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.sampled_from(
        ["a+b", "a%20b", "%", "%%", "%zz", "/", "//", "a//", "/a", "...", ".a/b.", "~-_.", "a" * 1024]
    ),
).filter(covered)


@settings(max_examples=200)
@given(
    form=st.sampled_from(FORMS),
    token=st.booleans(),
    key=keys,
    method=st.sampled_from(["GET", "GET", "HEAD"]),
    params=st.sampled_from(PARAMS),
    lifetime=st.sampled_from([60, 3600, 604_800]),
    now=st.floats(NOON - 86_400 * 30, NOON + 86_400 * 400),
)
def test_every_url_is_the_one_that_boto3_makes(
    form: Form, token: bool, key: str, method: str, params: dict[str, Any], lifetime: int, now: float
) -> None:
    """S1, P9: whatever the key, form, parameters, method, token, lifetime and instant, not a byte differs."""
    clock, _ = signer(form.name, token)
    clock.step(now - clock.time())
    agree(form, token, key, method, params, lifetime)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("token", [False, True], ids=["key", "session"])
def test_every_form_agrees_with_boto3(form: Form, token: bool) -> None:
    """S1: in each endpoint form 50 keys of every awkward character, and every set of parameters, agree."""
    letters = random.Random(form.name)
    for _ in range(50):
        key = "".join(letters.choices(AWKWARD + "/", k=letters.randint(1, 40)))
        agree(form, token, key)
    for params in PARAMS:
        agree(form, token, "dir/ü +%2F.jpg", params=params)
    for method in ("PUT", "DELETE"):
        agree(form, token, "dir/ü +%2F.jpg", method)


@pytest.mark.parametrize(
    "order", ["versionId=v%2B1&response-content-type=a%2Fb&partNumber=7", "partNumber=7&versionId=v%2B1"]
)
def test_the_query_of_a_target_is_signed_as_boto3_would(order: str) -> None:
    """S4: parameters in an https target's query are signed as boto3's params= are, in any order."""
    form = BY_NAME["virtual-url"]
    _, presigner = signer(form.name)
    names = {wire: name for name, wire in SIGNED_PARAMETERS.items()}
    params: dict[str, Any] = {names[wire]: value for wire, value in parse_qsl(order)}
    params["PartNumber"] = 7
    signed = presigner.resolve(f"{target(form, 'cat.jpg')}?{order}")
    assert by_boto3(native(form.name), signed, form.bucket, "cat.jpg", params) == signed.url
    assert urlsplit(signed.url).query.startswith(order)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2030, 1, 2, 3, 4, 5),  # noqa: DTZ001  # boto3 takes it for UTC
        datetime(2030, 1, 2, 3, 4, 5, 678, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        *(
            "Wed, 02 Jan 2030 03:04:05 GMT",
            "2030-01-02T03:04:05Z",
            "2030-01-02T03:04:05+05:30",
            "Jan 2 2030 3:04 PM",
            1_893_553_445,
        ),
    ],
    ids=str,
)
def test_an_expiry_date_is_written_as_boto3_writes_it(value: Any) -> None:
    """S1, S4: ResponseExpires takes every kind of time that boto3 takes and is written as boto3 does."""
    agree(BY_NAME["virtual-eu-west-1"], False, "cat.jpg", params={"ResponseExpires": value})


# Which host, and which version of the signature.


@pytest.mark.parametrize(
    ("options", "base"),
    [
        ({}, "https://acme-media.s3.eu-west-1.amazonaws.com/"),
        ({"region": "us-east-1"}, "https://acme-media.s3.us-east-1.amazonaws.com/"),
        ({"region": "me-central-1"}, "https://acme-media.s3.me-central-1.amazonaws.com/"),
        ({"region": "cn-north-1"}, "https://acme-media.s3.cn-north-1.amazonaws.com.cn/"),
        ({"bucket": "my.dotted.bucket"}, "https://s3.eu-west-1.amazonaws.com/my.dotted.bucket/"),
        ({"bucket": "Old_Bucket"}, "https://s3.eu-west-1.amazonaws.com/Old_Bucket/"),
        ({"endpoint_url": MINIO}, f"{MINIO}/acme-media/"),
        ({"endpoint_url": MINIO, "addressing_style": "virtual"}, "http://acme-media.minio.internal:9000/"),
        ({"addressing_style": "path"}, "https://s3.eu-west-1.amazonaws.com/acme-media/"),
    ],
)
def test_an_s3_target_takes_the_origins_own_form(options: dict[str, Any], base: str) -> None:
    """S9: the regional virtual host; path style for custom endpoints and buckets that are no DNS label."""
    bucket = options.get("bucket", "acme-media")
    assert presigning(**options).url(f"s3://{bucket}/a").startswith(f"{base}a?X-Amz-Algorithm=")


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_of_the_environment_is_a_custom_one(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S9, O2: an endpoint that boto3 takes from the environment is signed for in path style and covered."""
    monkeypatch.setenv(variable, MINIO)
    presigner = presigning(session=boto3.Session("AKIA", "secret"))
    assert presigner.url("s3://acme-media/a").startswith(f"{MINIO}/acme-media/a?")
    assert presigner.url("s3://acme-media/a") == presigner.url(f"{MINIO}/acme-media/a")


@pytest.mark.parametrize(
    ("options", "base"),
    [
        ({"s3": {"use_dualstack_endpoint": True}}, HOST.format(".dualstack.eu-west-1")),
        ({"s3": {"use_accelerate_endpoint": True}}, HOST.format("-accelerate")),
        ({"s3": {"addressing_style": "path"}}, "https://s3.eu-west-1.amazonaws.com/acme-media/"),
        ({"endpoint_url": FIPS}, f"{FIPS}/acme-media/"),
        ({"endpoint_url": MINIO}, f"{MINIO}/acme-media/"),
        ({"signature_version": "s3"}, HOST.format(".eu-west-1")),
        ({}, HOST.format(".eu-west-1")),
    ],
)
def test_a_given_client_keeps_its_endpoint(options: dict[str, Any], base: str) -> None:
    """S1, S2, S9: Origin(client=) signs for the client's own endpoint and style, and always with SigV4."""
    config = {name: value for name, value in options.items() if name != "endpoint_url"}
    endpoint = options.get("endpoint_url")
    client = session().client("s3", "eu-west-1", endpoint_url=endpoint, config=Config(**config))
    url = presigning(client=client, session=None, region=None).url("s3://acme-media/a")
    assert url.startswith(f"{base}a?X-Amz-Algorithm=AWS4-HMAC-SHA256")


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "eu-central-1"])
def test_never_sigv2(region: str) -> None:
    """S2: where boto3 by itself presigns with SigV2, ours is SigV4 with the region in its scope."""
    query = parse_qs(urlsplit(presigning(region=region).url("s3://acme-media/a")).query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Credential"][0].endswith(f"/{region}/s3/aws4_request")
    assert query.keys().isdisjoint({"Signature", "AWSAccessKeyId", "Expires"})


def test_the_region_is_known_before_signing(monkeypatch: pytest.MonkeyPatch) -> None:
    """S2: without a region anywhere a presigner is refused; else it is the session's or the environment's."""
    with pytest.raises(ConfigurationError, match="region"):
        presigning(region=None, session=boto3.Session("AKIA", "secret"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "sa-east-1")
    for region, own in (
        ("sa-east-1", boto3.Session("AKIA", "secret")),
        ("eu-north-1", boto3.Session("AKIA", "secret", region_name="eu-north-1")),
    ):
        assert presigning(region=None, session=own).resolve("s3://acme-media/a").region == region


# Methods.


def test_tenants_share_what_boto3_needs_to_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """S1: a session, whose first client takes 100 ms, and the client whose URLs plans are learned from."""
    for name, value in (("ACCESS_KEY_ID", ACCESS_KEY), ("SECRET_ACCESS_KEY", SECRETS["key"])):
        monkeypatch.setenv(f"AWS_{name}", value)
    made: Counter[str] = Counter()

    class Counted(boto3.Session):
        def __init__(self, **options: Any) -> None:
            made["sessions"] += 1
            super().__init__(**options)

        def client(self, *args: Any, **options: Any) -> Any:
            made["clients"] += 1
            return super().client(*args, **options)

    monkeypatch.setattr("boto3.Session", Counted)

    def made_for(tenants: int) -> dict[str, int]:
        made.clear()
        names = [f"tenant-{number}" for number in range(tenants)]
        presigner = Presigner(*[Origin(name, bucket=name, region="eu-west-1") for name in names])
        urls = presigner.urls([f"s3://{name}/a" for name in names])
        assert [urlsplit(url).netloc.partition(".")[0] for url in urls] == names
        assert presigner.stats()["plans_proven"] == tenants
        return dict(made)

    assert made_for(5) == made_for(1) == {"sessions": 2, "clients": 1}


def test_methods_are_signed_apart() -> None:
    """S3: GET, HEAD, PUT and DELETE of one key have four different signatures at one instant."""
    _, presigner = signer("virtual-eu-west-1")
    urls = {presigner.url("s3://acme-media/a", method=method) for method in OPERATIONS}
    assert len(urls) == 4


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_what_changes_objects_is_signed_only_where_the_origin_says_so(method: str) -> None:
    """S3: PUT and DELETE are refused unless Origin(methods=) has them, and the refusal names the setting."""
    with pytest.raises(NotCovered, match=rf"methods=.*{method}"):
        presigning().url("s3://acme-media/a", method=method)
    for unknown in ("PATCH", "POST", "get", ""):
        with pytest.raises(ConfigurationError, match="method must be one of"):
            presigning().url("s3://acme-media/a", method=unknown)


@pytest.mark.parametrize(("method", "signed"), [("GET", 1), ("HEAD", 1), ("PUT", 2), ("DELETE", 2)])
@pytest.mark.parametrize("colour", ["blocking", "asyncio"])
def test_what_changes_objects_is_never_cached(method: str, signed: int, colour: str) -> None:
    """S3: two calls make one signature of a GET or HEAD, and two of a PUT or DELETE, in a request as well."""
    presigner = presigning(methods=tuple(OPERATIONS))
    with presigner.scope():
        for _ in range(2):
            if colour == "blocking":
                presigner.url("s3://acme-media/a", method=method)
            else:
                asyncio.run(presigner.aurl("s3://acme-media/a", method=method))
    assert (presigner.stats()["signed"], presigner.stats()["resolved"]) == (signed, 2)


# One URL, and many.


KINDS = [
    Kind("o", "acme-media", "", method, (), lifetime) for method, lifetime in [("GET", 3600), ("HEAD", 600)]
]


def told(answer: Entry | SigningError | None) -> object:
    """Return all that is known of a URL, or why there is none."""
    if not isinstance(answer, Entry):
        return str(answer)
    ends = answer.born, answer.fresh_until, answer.fresh_until_monotonic, answer.ageing_until, answer.end
    return answer.url, answer.date, ends, answer.reason


@functools.cache
def signing_for(lasts: int | None) -> Signing:
    """Return what signs from NOON on, with keys that last for so many seconds; None: for ever."""
    clock = Clock(NOON)
    origin = Origin("o", bucket="acme-media", region="eu-west-1", session=ending(clock, lasts))
    signing = Presigner(origin, clock=clock)._signing
    assert signing.prepare([S3Object(kind, "a") for kind in KINDS]) == {}
    return signing


@pytest.mark.parametrize("lasts", [None, 900, 4000, 7200], ids=str)
@given(
    after=st.integers(0, 8000),
    keys=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=5), min_size=1, max_size=8),
    since=st.none() | st.integers(-8000, 8000),
)
def test_a_page_is_signed_as_each_of_its_urls_is(
    lasts: int | None, after: int, keys: list[str], since: int | None
) -> None:
    """P1, P2, P3: however a URL is signed, alone or with others, it is the same and lives as long."""
    signing = signing_for(lasts)
    wall, monotonic = NOON + after, Clock(NOON).monotonic() + after
    dated = 0 if since is None else NOON + since

    for kind in KINDS:
        objects = [S3Object(kind, key) for key in keys]
        alone = [told(signing.sign(obj, wall, monotonic, dated)) for obj in objects]
        answers = signing.sign_all(objects, wall, monotonic, dated)
        if answers is None:
            assert set(alone) == {"None"}
            continue
        entries, error = answers
        assert [told(entry) for entry in entries] == alone[: len(entries)]
        assert alone[len(entries) : len(entries) + 1] == ([] if error is None else [told(error)])


def ending(clock: Clock, lasts: int | None) -> Any:
    """Return a session with keys that last for so many seconds; None: for ever."""
    core: Any = botocore.session.Session()
    if lasts is None:
        core.set_credentials(ACCESS_KEY, SECRETS["key"])
    else:
        ends = datetime.fromtimestamp(clock.time() + lasts, UTC)
        core._credentials = RefreshableCredentials(
            ACCESS_KEY, SECRETS["key"], SECRETS["token"], ends, refresh_using=dict, method="assume-role"
        )
        core._credentials._refresh = lambda: None  # there are no others
        core._credentials._time_fetcher = lambda: datetime.fromtimestamp(clock.time(), UTC)
    return boto3.Session(botocore_session=core, region_name="eu-west-1")


# What others signed, and what a request adds.


def test_urls_that_are_signed_already_are_not_signed_again() -> None:
    """S5: url() of a URL that boto3 or this presigner signed, with SigV2 or SigV4, is NotCovered."""
    _, presigner = signer("virtual-eu-west-1")
    old = session().client("s3", "eu-west-1", config=Config(signature_version="s3"))
    theirs = [
        client.generate_presigned_url("get_object", Params={"Bucket": "acme-media", "Key": "a"})
        for client in (old, native("virtual-eu-west-1"))
    ]
    for url in (presigner.url("s3://acme-media/a"), *theirs):
        with pytest.raises(NotCovered, match="signed already") as refused:
            presigner.url(url)
        assert "Signature" not in str(refused.value)


KEY_OF_CUSTOMER = b"0123456789abcdef0123456789ABCDEF"
SSE_C = {
    "x-amz-server-side-encryption-customer-algorithm": "AES256",
    "x-amz-server-side-encryption-customer-key": b64encode(KEY_OF_CUSTOMER).decode(),
    "x-amz-server-side-encryption-customer-key-md5": b64encode(md5(KEY_OF_CUSTOMER).digest()).decode(),
}


@pytest.mark.parametrize("token", [False, True], ids=["key", "session"])
@pytest.mark.parametrize("colour", ["blocking", "asyncio"])
def test_headers_of_one_request_are_signed_for_it_alone(token: bool, colour: str) -> None:
    """S6: x-amz-* headers are in X-Amz-SignedHeaders as boto3 puts them there, and in no other URL."""
    presigner = presigning(session=session(token))
    obj = S3Object.of("o", "acme-media", "", "a b", "GET", (), 3600)
    botocore_clock.now = NOON
    for _ in range(2):
        healing = presigner.healing
        begun = (
            healing.begin(obj, SSE_C, "a client")
            if colour == "blocking"
            else asyncio.run(healing.abegin(obj, SSE_C, "a client"))
        )
        url = begun.url
        assert parse_qs(urlsplit(url).query)["X-Amz-SignedHeaders"] == [";".join(["host", *SSE_C])]
    assert (presigner.stats()["signed"], presigner.stats()["from_local"]) == (2, 0)
    customer = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": KEY_OF_CUSTOMER.decode()}
    params = {"Bucket": "acme-media", "Key": "a b", **customer}
    assert url == native("virtual-eu-west-1", token).generate_presigned_url("get_object", Params=params)
    plain = presigner.url("s3://acme-media/a b")
    assert parse_qs(urlsplit(plain).query)["X-Amz-SignedHeaders"] == ["host"]


# Keys that change.


def test_another_secret_is_another_signature() -> None:
    """S7: one access key id with two secrets signs differently, each as boto3 does."""
    urls = []
    for secret in ("first-secret", "second-secret"):
        signed = presigning(session=session(False, secret)).resolve("s3://acme-media/a")
        assert by_boto3(native("virtual-eu-west-1", False, secret), signed, "acme-media", "a") == signed.url
        urls.append(signed.url)
    assert urls[0].partition("X-Amz-Signature")[0] == urls[1].partition("X-Amz-Signature")[0]
    assert urls[0] != urls[1]


def test_a_renewed_secret_never_meets_the_old_signing_key() -> None:
    """S7: when a source renews the secret and keeps the access key id, the next URL has the new signature."""
    clock, secrets = Clock(NOON), iter(["first-secret", "second-secret", "third-secret"])

    def renew() -> dict[str, str]:
        expiry = datetime.fromtimestamp(clock.time() + 7200, UTC).isoformat()
        keys = {"access_key": ACCESS_KEY, "secret_key": next(secrets), "token": SECRETS["token"]}
        return {**keys, "expiry_time": expiry}

    core: Any = botocore.session.Session()
    refreshable: Any = RefreshableCredentials
    core._credentials = refreshable.create_from_metadata(renew(), renew, "test")
    core._credentials._time_fetcher = lambda: datetime.fromtimestamp(clock.time(), UTC)
    presigner = presigning(clock, session=boto3.Session(botocore_session=core))
    for secret, key in (("first-secret", "a"), ("second-secret", "b")):
        signed = presigner.resolve(f"s3://acme-media/{key}")
        assert by_boto3(native("virtual-eu-west-1", True, secret), signed, "acme-media", key) == signed.url
        clock.advance(7000)


# The fallback.


class Disagreeing(presign_middleware.plans.Plan):
    """A plan that takes the marker's host for another one."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.host = f"x{self.host}"


def broken(*_: Any) -> Any:
    """Refuse to make a plan, as a form of URL that it cannot read would."""
    raise ValueError("not a form that a plan can make")


@pytest.mark.parametrize("plan", [Disagreeing, broken])
@pytest.mark.parametrize("colour", ["blocking", "asyncio"])
@pytest.mark.parametrize("name", ["virtual-eu-west-1", "dual-stack", "access-point", "custom-path-prefix"])
def test_a_form_that_no_plan_can_make_is_signed_by_boto3(
    name: str, colour: str, plan: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1, P2: when plan and oracle disagree boto3 signs, once an object; its URL is dated now and stays."""
    monkeypatch.setattr(presign_middleware.signing, "Plan", plan)
    form, clock = BY_NAME[name], Clock(NOON)
    presigner = presigning_for(form, True, clock)
    key, params = "dir/ü +%2F.jpg", {"VersionId": "v", "PartNumber": 7}
    botocore_clock.now = NOON

    def url() -> str:
        if colour == "blocking":
            return presigner.url(target(form, key), params=params)
        return asyncio.run(presigner.aurl(target(form, key), params=params))

    signed = presigner.resolve(target(form, key), params=params)
    assert signed.created_at == NOON
    assert by_boto3(native(name, True), signed, form.bucket, key, params) == signed.url == url()
    clock.advance(600)
    botocore_clock.now = NOON + 600
    assert signed.url == url()
    stats = presigner.stats()
    assert (stats["signed_by_boto3"], stats["signed"]) == (1, 1)
    assert (stats["plans_refused"], stats["plans_proven"]) == (1, 0)


def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """L1: at DEBUG, botocore's loggers included, no record holds a secret, token, signature or SSE-C key."""
    caplog.set_level(logging.DEBUG)
    obj = S3Object.of("o", "acme-media", "", "a", "GET", (), 3600)
    botocore_clock.now = NOON
    planned = presigning(session=session(True))
    urls = [planned.url("s3://acme-media/a"), planned.healing.begin(obj, SSE_C, "a client").url]
    monkeypatch.setattr(presign_middleware.signing, "Plan", broken)
    fallen_back = presigning(session=session(True), methods=("GET", "PUT"))
    urls += [fallen_back.url("s3://acme-media/a"), asyncio.run(fallen_back.aurl("s3://acme-media/b"))]
    with pytest.raises(SigningError):
        fallen_back.url("s3://acme-media/a", method="PUT", params={"VersionId": "v"})
    assert any(record.name.startswith("botocore") for record in caplog.records)
    texts = [f"{r.getMessage()} {r.exc_info} {r.args} {r.exc_text}" for r in caplog.records]
    secrets = [
        *SECRETS.values(),
        quote(SECRETS["token"], safe=""),
        KEY_OF_CUSTOMER.decode(),
        "X-Amz-Signature",
    ]
    secrets += [SSE_C["x-amz-server-side-encryption-customer-key"], *(url.rpartition("=")[2] for url in urls)]
    for secret in secrets:
        assert not [text[:300] for text in texts if secret in text]
