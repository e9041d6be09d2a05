"""
boto3's ``generate_presigned_url``, answered from the cache: when, with what, and when not.

boto3 is always the judge: what it makes of the same call with SigV4, at the instant at
which our URL is dated, is what ours has to be. It reads its clock from `boto3s_clock`.
"""

import asyncio
import contextlib
import gc
import logging
import threading
import time
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from datetime import date as date_of_day
from functools import partial
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import boto3
import botocore.auth
import httpx
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from sources import DEADLINE, Chain, held, settle, source_of

from presign_middleware import Origin, Policy, Presigner, intercept
from presign_middleware.credentials import fingerprint
from presign_middleware.interception import Interception
from presign_middleware.testing import Clock, Memcached, SeaweedFS

NOON: Final = 1_767_268_800  # 2026-01-01 12:00:00 UTC
REGION: Final = "eu-west-1"
KEYS: Final = boto3.Session("AKIABOTOCORE00000001", "a-secret-of-test-botocore", region_name=REGION)
SIGV4: Final = Config(signature_version="s3v4")

OPERATIONS: Final = {
    "get_object": "GET",
    "head_object": "HEAD",
    "put_object": "PUT",
    "delete_object": "DELETE",
}


class Botocore:
    """The clock that botocore signs by."""

    now: float = NOON

    def datetime(self, remove_tzinfo: bool = True) -> datetime:
        instant = datetime.fromtimestamp(self.now, UTC)
        return instant.replace(tzinfo=None) if remove_tzinfo else instant

    def time(self) -> float:
        return self.now


@pytest.fixture
def boto3s_clock(monkeypatch: pytest.MonkeyPatch) -> Botocore:
    """Let boto3 sign at the instant that the test says."""
    clock = Botocore()
    monkeypatch.setattr(botocore.auth, "get_current_datetime", clock.datetime)
    monkeypatch.setattr(botocore.auth, "time", clock)
    return clock


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture(autouse=True)
def hooks() -> Iterator[Interception]:
    with intercept("botocore") as hooks:
        yield hooks


def media(**options: Any) -> Origin:
    given = {"bucket": "acme-media", "prefix": "public/", "region": REGION, "session": KEYS, **options}
    return Origin("media", **given)


@pytest.fixture
def presigner(clock: Clock) -> Presigner:
    return Presigner(media(), clock=clock)


def s3(session: boto3.Session = KEYS, config: Config | None = None, **options: Any) -> Any:
    """Return a boto3 client, by default as most applications have it: nothing but keys and a region."""
    return session.client("s3", config=config, **options)


def link(client: Any, key: str = "public/cat.jpg", operation: str = "get_object", **options: Any) -> str:
    """Return what *client* makes of a call; *options* are those of the call, and further Params."""
    call = {name: options.pop(name) for name in ("ExpiresIn", "HttpMethod") if name in options}
    params = {"Bucket": "acme-media", "Key": key, **options}
    url: str = client.generate_presigned_url(operation, Params=params, **call)
    return url


def query(url: str) -> dict[str, str]:
    """Return the query of *url*."""
    return {name: value for name, (value,) in parse_qs(urlsplit(url).query, keep_blank_values=True).items()}


def date(url: str) -> float:
    """Return X-Amz-Date of *url*, in Unix seconds."""
    return datetime.strptime(query(url)["X-Amz-Date"] + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp()


def by_boto3(client: Any, *args: Any, **kwargs: Any) -> str:
    """Return what boto3 makes of a call that no hook sees."""
    with Presigner(media()).paused():
        return link(client, *args, **kwargs)


# --- what is answered ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SIGV4, None], ids=["SigV4", "nothing chosen"])
def test_a_link_to_a_covered_object_stays_the_same(
    presigner: Presigner, clock: Clock, config: Config
) -> None:
    """C6: asked again in another request, or by another client, it is the same URL, and was signed once."""
    urls = set()
    for _ in range(2):
        client = s3(config=config)
        for _ in range(3):
            with presigner.scope():
                urls.add(link(client))
            clock.advance(1)
    assert len(urls) == 1
    stats = presigner.stats()
    assert (stats["caught"], stats["signed"], stats["signed_by_boto3"]) == (6, 1, 0)


FORMS: Final[dict[str, dict[str, Any]]] = {
    "default": {},
    "virtual": {"config": Config(s3={"addressing_style": "virtual"})},
    "path": {"config": Config(s3={"addressing_style": "path"})},
    "dual-stack": {"config": Config(use_dualstack_endpoint=True)},
    "accelerate": {"config": Config(s3={"use_accelerate_endpoint": True})},
    "new region": {"region_name": "eu-south-2"},
    "custom endpoint": {"endpoint_url": "http://minio.local:9000"},
    "custom endpoint, virtual": {
        "endpoint_url": "https://minio.local",
        "config": Config(s3={"addressing_style": "virtual"}),
    },
}

PARAMS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "version": {"VersionId": "a b+c"},
    "overrides": {
        "ResponseContentType": "text/html; a=ü",
        "ResponseContentDisposition": 'attachment; filename="a"',
    },
    "part": {"ResponseExpires": datetime(2026, 10, 21, tzinfo=UTC), "PartNumber": 7},
}


@pytest.mark.parametrize("upgrade", [True, False], ids=["nothing chosen", "SigV4"])
@pytest.mark.parametrize("form", FORMS)
def test_an_answer_is_what_boto3_would_have_signed(
    boto3s_clock: Botocore, clock: Clock, form: str, upgrade: bool
) -> None:
    """C6, S1, S10: SigV4 for the client's own host, byte for byte, whatever the method and parameters."""
    options = {"region_name": REGION, **FORMS[form]}
    origin = media(
        region=options["region_name"],
        endpoint_url=options.get("endpoint_url"),
        methods=tuple(OPERATIONS.values()),
    )
    presigner = Presigner(origin, clock=clock)
    native = s3(**{**options, "config": SIGV4.merge(options.get("config", Config()))})
    client = s3(**options) if upgrade else native
    calls = [("get_object", params) for params in PARAMS.values()]
    calls += [("head_object", PARAMS["version"]), ("put_object", {}), ("delete_object", {"VersionId": "v"})]
    for operation, params in calls:
        for key in ("public/cat.jpg", "public/a b/ü+%2F?&=#.jpg"):
            with presigner.scope():
                url = link(client, key, operation, ExpiresIn=900, **params)
            boto3s_clock.now = date(url)
            assert url == by_boto3(native, key, operation, ExpiresIn=900, **params)
    assert presigner.stats()["caught"] == 2 * len(calls)
    assert presigner.stats()["left_to_boto3"] == 0


def test_every_spelling_of_a_call_is_one(presigner: Presigner) -> None:
    """C6: positional or by name, ExpiresIn left out or said, HttpMethod given where it agrees."""
    client, params = s3(), {"Bucket": "acme-media", "Key": "public/cat.jpg"}
    with presigner.scope():
        assert {
            client.generate_presigned_url("get_object", params),
            client.generate_presigned_url("get_object", params, 3600, "GET"),
            client.generate_presigned_url(ClientMethod="get_object", Params=params, ExpiresIn=3600),
        } == {link(client)}
    assert params == {"Bucket": "acme-media", "Key": "public/cat.jpg"}


def test_a_resource_is_answered_too(presigner: Presigner) -> None:
    """C6: boto3.resource() has a client, which is hooked as any other."""
    with presigner.scope():
        assert link(KEYS.resource("s3").meta.client) == link(s3())


def test_uploads_and_deletions_are_signed_each_time(clock: Clock) -> None:
    """S3, C6: only where the origin says so, and never kept."""
    presigner, client = Presigner(media(methods=("GET", "PUT")), clock=clock), s3()
    with presigner.scope():
        assert query(link(client, operation="put_object")) == query(link(client, operation="put_object"))
        assert "X-Amz-Date" not in link(client, operation="delete_object")
    assert (presigner.stats()["signed"], len(presigner._table)) == (2, 0)


def test_an_origins_standing_parameters_are_added(clock: Clock) -> None:
    """O7: Origin(params=...) is for every link; what the call says outranks it."""
    presigner, client = Presigner(media(params={"ResponseCacheControl": "max-age=60"}), clock=clock), s3()
    with presigner.scope():
        assert query(link(client))["response-cache-control"] == "max-age=60"
        assert query(link(client, ResponseCacheControl="private"))["response-cache-control"] == "private"
        assert query(link(client, ResponseContentType="a/b"))["response-content-type"] == "a/b"


def test_in_one_request_it_is_resolved_once(presigner: Presigner) -> None:
    """D1: threads and tasks of one request have it from its scope."""
    with presigner.scope():
        client = s3()
        first = link(client)
        assert {first} == {link(client) for _ in range(3)}
    assert (presigner.stats()["from_signer"], presigner.stats()["from_scope"]) == (1, 3)


def test_it_shares_nothing_with_links_of_the_policys_own_lifetime(presigner: Presigner) -> None:
    """K1: url() of the same object and lifetime has another class of lifetime: each its own URL."""
    with presigner.scope():
        url = link(s3(config=Config(s3={"addressing_style": "virtual"})))
        other = presigner.url(url.partition("?")[0])
    assert query(url)["X-Amz-Expires"] == query(other)["X-Amz-Expires"] == "3600"
    assert query(url)["X-Amz-Date"] != query(other)["X-Amz-Date"]


def test_a_fetch_of_such_a_link_is_one_of_its_unsigned_form(presigner: Presigner) -> None:
    """S5: a hook that meets it later knows it for this presigner's own."""
    with presigner.scope():
        url = link(s3(), ResponseContentType="text/html")
    bare, _, asked = url.partition("?")
    assert presigner.catching.unsigned(url) == f"{bare}?{asked.partition('&')[0]}"
    assert presigner.catching.unsigned(url[:-1] + ("0" if url[-1] != "0" else "1")) is None


# --- ExpiresIn ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seconds", [60, 900, 3600, 604_800])
def test_expires_in_is_kept_and_a_share_of_it_is_left(clock: Clock, seconds: int, share: float) -> None:
    """C6: X-Amz-Expires is the caller's, and at every instant boto_share of it is left."""
    presigner, client = Presigner(media(policy=Policy(boto_share=share)), clock=clock), s3(config=SIGV4)
    for _ in range(40):
        with presigner.scope():
            url = link(client, ExpiresIn=seconds)
        assert query(url)["X-Amz-Expires"] == str(seconds)
        assert date(url) <= clock.time() <= date(url) + seconds * (1 - share)
        clock.advance(seconds / 17)
    assert presigner.stats()["caught"] == 40


def test_half_of_it_is_the_default() -> None:
    """C6: of an hour at least 30 minutes."""
    assert Policy().rotation(3600, Policy().boto_share).min_remaining == 1800


def test_a_policys_own_bounds_do_not_count(clock: Clock) -> None:
    """C6: min_remaining and ageing are for the policy's lifetime; 60 s would have no room for these."""
    presigner = Presigner(media(policy=Policy(lifetime=86_400, min_remaining=7200, ageing=7200)), clock=clock)
    with presigner.scope():
        assert query(link(s3(), ExpiresIn=60))["X-Amz-Expires"] == "60"


@pytest.mark.parametrize("seconds", [1, 59, 604_801, 90.5, True, "3600", None])
def test_other_lifetimes_are_boto3s(boto3s_clock: Botocore, presigner: Presigner, seconds: Any) -> None:
    """C6: outside of 60..604800, or what is no whole number: untouched, its exceptions too."""
    client, answers = s3(config=SIGV4), []
    for scope in (presigner.scope(), contextlib.nullcontext()):
        with scope:
            try:
                answers.append(link(client, ExpiresIn=seconds))
            except Exception as error:
                answers.append(repr(error))
    assert answers[0] == answers[1]
    assert presigner.stats() == Presigner(media()).stats()


CAT: Final = {"Bucket": "acme-media", "Key": "public/cat.jpg"}


@pytest.mark.parametrize(
    "params",
    [
        MappingProxyType(CAT),
        list(CAT.items()),
        {**CAT, "ResponseExpires": None},
        {**CAT, "ResponseExpires": date_of_day(2026, 1, 1)},
        {**CAT, "ResponseExpires": "2026-W01-1"},
        {**CAT, "ResponseExpires": 1e20},
    ],
    ids=str,
)
def test_params_that_boto3_refuses_are_boto3s_to_refuse(presigner: Presigner, params: Any) -> None:
    """C6: what boto3 does not take is not answered, and the exception is its own."""
    client, refused = s3(config=SIGV4), []
    with presigner.scope():
        link(client, ResponseExpires=0)  # this kind is proven
        link(client)
    for scope in (presigner.scope(), presigner.paused()):
        with scope, pytest.raises(Exception) as error:  # noqa: PT011  # botocore's, and of many kinds
            client.generate_presigned_url("get_object", Params=params)
        refused.append(repr(error.value))
    assert refused[0] == refused[1]


def test_the_end_of_a_session_can_come_sooner(clock: Clock) -> None:
    """P3, P5: where the session ends a link, it is served as any URL of that session is, and no longer."""
    chain = Chain(clock)
    presigner, client = (
        Presigner(chain.origin(bucket="acme-media"), clock=clock),
        s3(chain.session(), SIGV4, region_name=REGION),
    )
    presigner.url("s3://acme-media/x")  # the session has its first keys
    for _ in range(60):
        with presigner.scope():
            url = link(client, ExpiresIn=7200)
        settle(presigner)
        end = min(date(url) + 7200, chain.ends[query(url)["X-Amz-Credential"].split("/")[0]])
        assert end - clock.time() >= 599
        clock.advance(97)
    assert presigner.stats()["caught"] == 60


# --- whose keys ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SIGV4, None], ids=["SigV4", "nothing chosen"])
def test_a_client_with_other_keys_gets_its_own_links(
    boto3s_clock: Botocore, presigner: Presigner, config: Config | None
) -> None:
    """C6: what it may read is decided by its keys; boto3 answers, byte for byte."""
    client = s3(boto3.Session("AKIAOTHER00000000001", "another-secret", region_name=REGION), config)
    before = by_boto3(client)
    for _ in range(2):
        with presigner.scope():
            assert before == link(client)
    stats = presigner.stats()
    assert (stats["caught"], stats["left_to_boto3"]) == (0, 2)
    assert stats["resolved"] == 1  # the first call had the origin's keys fetched


def test_whoever_knows_an_access_key_id_has_no_keys_yet(boto3s_clock: Botocore, presigner: Presigner) -> None:
    """C6: every link shows the id; a client with another secret gets what boto3 makes of that, void links."""
    presigner.url("s3://acme-media/public/cat.jpg")
    client = s3(boto3.Session("AKIABOTOCORE00000001", "a-guess", region_name=REGION), SIGV4)
    before = by_boto3(client)
    for _ in range(2):
        with presigner.scope():
            assert before == link(client)
    assert presigner.stats()["left_to_boto3"] == 2


def test_a_client_that_renews_its_keys_in_the_very_call_gets_its_own_link(clock: Clock) -> None:
    """C6: boto3's URL tells who has signed it, and that counts; the next call is judged anew."""
    chain, other = Chain(clock), Chain(clock)
    presigner = Presigner(chain.origin(bucket="acme-media"), clock=clock)
    presigner.url("s3://acme-media/x")
    client = s3(other.session(), SIGV4, region_name=REGION)
    credentials: Any = other.credentials
    other.keys.append({})  # what it fetches is not the origin's first session but another
    credentials._access_key = chain.keys[0]["AccessKeyId"]
    credentials._secret_key = chain.keys[0]["SecretAccessKey"]
    with presigner.scope():
        assert query(link(client))["X-Amz-Credential"].startswith("ASIATEST00000002/")
    assert presigner.stats()["left_to_boto3"] == 1
    credentials._access_key = chain.keys[0]["AccessKeyId"]
    credentials._secret_key = chain.keys[0]["SecretAccessKey"]
    credentials._frozen_credentials = chain.credentials.get_frozen_credentials()
    with presigner.scope():
        link(client)
    assert presigner.stats()["caught"] == 1


def test_the_keys_of_the_default_chain_are_the_origins(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """C6: client and origin were told of no keys, and both find those of the environment: without a lead."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAAMBIENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-environment")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token-of-the-environment")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the keys that it found first
    presigner = Presigner("s3://acme-media/public/", clock=clock)
    with presigner.scope():
        url = link(boto3.client("s3"))
    assert presigner.stats()["caught"] == 1
    assert query(url)["X-Amz-Credential"].startswith("ASIAAMBIENT/")
    assert query(url)["X-Amz-Security-Token"] == "a-token-of-the-environment"


def test_keys_that_the_origin_held_before_count(clock: Clock) -> None:
    """C6: the origin has renewed its session and the client has not yet: its links stay the cache's."""
    chain = Chain(clock)
    presigner = Presigner(chain.origin(bucket="acme-media"), clock=clock)
    presigner.url("s3://acme-media/x")
    old = chain.keys[-1]
    client = s3(
        boto3.Session(old["AccessKeyId"], old["SecretAccessKey"], old["SessionToken"]),
        SIGV4,
        region_name=REGION,
    )
    clock.advance(3000)
    presigner.url("s3://acme-media/y")
    settle(presigner)
    assert len(chain.keys) == 2
    with presigner.scope():
        url = link(client)
    assert query(url)["X-Amz-Credential"].startswith(chain.keys[-1]["AccessKeyId"])


def test_the_keys_that_are_remembered_are_bounded(clock: Clock) -> None:
    """C6: sixteen sessions back, a key is nobody's."""
    chain = Chain(clock)
    presigner = Presigner(chain.origin(bucket="acme-media"), clock=clock)
    for number in range(17):
        presigner.url(f"s3://acme-media/{number}")
        settle(presigner)
        clock.advance(3000)
    source = source_of(presigner)
    known = [source.knows(fingerprint(k["AccessKeyId"], k["SecretAccessKey"])) for k in chain.keys]
    assert known == [False] + [True] * 16


def test_looking_at_a_clients_keys_has_none_fetched(clock: Clock) -> None:
    """C6: credentials that renew themselves when they are read are not read."""
    chain = Chain(clock)
    presigner, client = (
        Presigner(chain.origin(bucket="acme-media"), clock=clock),
        s3(chain.session(), SIGV4, region_name=REGION),
    )
    with presigner.scope():
        link(client)
        link(client)
        before = chain.reads, len(chain.asks)
        for _ in range(3):
            link(client)
    assert before == (chain.reads, len(chain.asks))
    assert presigner.stats()["caught"] == 4  # when first asked, the client itself had no keys yet


def test_an_origin_can_have_the_very_client(clock: Clock) -> None:
    """C6: where each session has keys of its own, as with a web identity, the client is the origin's too."""
    chain = Chain(clock)
    client = s3(chain.session(), region_name=REGION)
    presigner = Presigner(Origin("media", bucket="acme-media", client=client), clock=clock)
    presigner.url("s3://acme-media/x")
    with presigner.scope():
        assert query(link(client))["X-Amz-Security-Token"] == chain.keys[0]["SessionToken"]
    assert presigner.stats()["caught"] == 1


def test_a_client_without_credentials_is_boto3s(presigner: Presigner) -> None:
    """C6: its exception is the one that boto3 raises."""
    client = s3(boto3.Session(region_name=REGION), SIGV4)
    with presigner.scope(), pytest.raises(Exception, match="Unable to locate credentials"):
        link(client)


# --- what is left to boto3 ----------------------------------------------------------------------------------


UNTOUCHED: Final[dict[str, dict[str, Any]]] = {
    "another bucket": {"Bucket": "acme-other"},
    "outside the prefix": {"Key": "private/cat.jpg"},
    "dot segment": {"Key": "public/../private/cat.jpg"},
    "a bucket with a slash": {"Bucket": "acme-media/public", "Key": "x"},
    "a parameter that becomes a header": {"Range": "bytes=0-1"},
    "requester pays": {"RequestPayer": "requester"},
    "another method": {"HttpMethod": "DELETE"},
    "an operation that the origin does not allow": {"operation": "put_object"},
    "an operation without an object": {"operation": "list_objects_v2", "Key": None},
    "a key that is no text": {"Key": 7},
    "no such parameter": {"VersionID": "1"},
    "a version that is none": {"VersionId": None},
    "no such operation": {"operation": "get_objekt"},
}


@pytest.mark.parametrize("config", [SIGV4, None], ids=["SigV4", "nothing chosen"])
@pytest.mark.parametrize("case", UNTOUCHED)
def test_what_is_not_covered_is_boto3s(
    boto3s_clock: Botocore, presigner: Presigner, case: str, config: Config | None
) -> None:
    """C6, S4, O4: byte for byte what boto3 makes, or the very exception it raises."""
    options = dict(UNTOUCHED[case])
    operation, http_method = options.pop("operation", "get_object"), options.pop("HttpMethod", None)
    params = {"Bucket": "acme-media", "Key": "public/cat.jpg", **options}
    if operation == "list_objects_v2":
        del params["Key"]
    client, answers = s3(config=config), list[str]()
    with presigner.scope():
        link(client)  # what is known of this client must not help
    for scope in (presigner.scope(), contextlib.nullcontext()):
        with scope:
            try:
                answers.append(client.generate_presigned_url(operation, params, 3600, http_method))
            except Exception as error:
                answers.append(repr(error))
    assert answers[0] == answers[1]
    assert presigner.stats()["caught"] == 1


CHOSEN: Final[dict[str, dict[str, Any]]] = {
    "SigV2": {"config": Config(signature_version="s3")},
    "SigV2 for links": {"config": Config(signature_version="s3-query")},
    "unsigned": {"config": Config(signature_version=UNSIGNED)},
    "another region": {"region_name": "eu-central-1", "config": SIGV4},
    "another region, nothing chosen": {"region_name": "us-east-1"},
    "another endpoint": {"endpoint_url": "http://minio.local:9000", "config": SIGV4},
    "FIPS": {"config": SIGV4.merge(Config(use_fips_endpoint=True))},
}


@pytest.mark.parametrize("case", CHOSEN)
def test_a_client_of_another_kind_is_boto3s(boto3s_clock: Botocore, presigner: Presigner, case: str) -> None:
    """C6: signature version, region or endpoint that are not the origin's: byte for byte what boto3 makes."""
    client = s3(**{"region_name": REGION, **CHOSEN[case]})
    before = by_boto3(client)
    for _ in range(2):
        with presigner.scope():
            assert before == link(client)
    assert (presigner.stats()["caught"], presigner.stats()["left_to_boto3"]) == (0, 2)


def test_a_profile_can_choose_sigv2(
    boto3s_clock: Botocore, presigner: Presigner, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C6: "signature_version = s3" in the configuration file is a choice as any other."""
    (tmp_path / "config").write_text("[default]\ns3 =\n  signature_version = s3\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    client = s3(boto3.Session("AKIABOTOCORE00000001", "a-secret-of-test-botocore", region_name=REGION))
    before = by_boto3(client)
    with presigner.scope():
        assert before == link(client)
    assert presigner.stats()["left_to_boto3"] == 1


def add_a_parameter(request: Any, **_: Any) -> None:
    request.params["tenant"] = "7"


def add_a_header(request: Any, **_: Any) -> None:
    request.headers["x-amz-request-payer"] = "requester"


def take_another_key(params: dict[str, Any], **_: Any) -> dict[str, Any]:
    return {**params, "Key": "public/7/cat.jpg"}


@pytest.mark.parametrize(
    ("event", "handler"),
    [
        ("before-sign.s3", add_a_parameter),
        ("before-sign.s3", add_a_header),
        ("provide-client-params.s3", take_another_key),
    ],
)
def test_handlers_of_a_client_are_heeded(
    boto3s_clock: Botocore, presigner: Presigner, event: str, handler: Any
) -> None:
    """C6: a client whose URLs are for another key, or have more in them than the call says, is boto3's."""
    client = s3(config=SIGV4)
    before = by_boto3(client)
    client.meta.events.register(event, handler)
    after = by_boto3(client)
    assert before != after
    for _ in range(2):
        with presigner.scope():
            assert after == link(client)
    assert presigner.stats()["left_to_boto3"] == 2


def test_links_only_means_explicit_ones(presigner: Presigner, clock: Clock) -> None:
    """O6: hooks leave an origin with catch=False alone, and everything inside paused()."""
    client = s3()
    quiet = Presigner(media(catch=False), clock=clock)
    with quiet.scope():
        assert "AWSAccessKeyId" in link(client)
    with presigner.scope(), presigner.paused():
        assert "AWSAccessKeyId" in link(client)
    assert quiet.stats() == presigner.stats() == Presigner(media()).stats()


def test_outside_of_any_request_boto3_answers_and_nothing_is_said(
    presigner: Presigner, caplog: pytest.LogCaptureFixture
) -> None:
    """D7: no URL goes out unsigned, so there is nothing to warn of or to count."""
    assert "AWSAccessKeyId" in link(s3())
    assert [record for record in caplog.records if record.name.startswith("presign")] == []
    assert presigner.stats() == Presigner(media()).stats()


def test_with_a_presigner_it_is_answered_everywhere(presigner: Presigner) -> None:
    """D7: intercept(presigner=p) is for the whole process; of several the one that covers the object."""
    other = Presigner(media(bucket="acme-other"))
    with intercept("botocore", presigner=other), intercept("botocore", presigner=presigner):
        assert "X-Amz-Date" in link(s3())
    assert (other.stats()["caught"], presigner.stats()["caught"]) == (0, 1)


def test_posts_are_not_touched(boto3s_clock: Botocore, presigner: Presigner) -> None:
    """C6: generate_presigned_post has its own signature, of a policy."""
    client, posts = s3(), []
    for scope in (presigner.scope(), contextlib.nullcontext()):
        with scope:
            posts.append(client.generate_presigned_post("acme-media", "public/${filename}")["url"])
    assert posts[0] == posts[1]
    assert presigner.stats()["caught"] == 0


def no_plan(*_: object) -> None:
    raise ValueError


def test_the_signer_below_is_never_caught(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """C6: where no plan can be made boto3 signs for the cache, and that call is not answered from it."""
    monkeypatch.setattr("presign_middleware.signing.Plan", no_plan)
    presigner, client = Presigner(media()), s3()
    with presigner.scope():
        assert link(client) == link(client)
    stats = presigner.stats()
    assert (stats["caught"], stats["signed_by_boto3"], stats["left_to_boto3"]) == (2, 1, 0)


# --- upgrade ------------------------------------------------------------------------------------------------


def test_boto3s_own_choice_can_be_kept(presigner: Presigner) -> None:
    """C6: with upgrade=False whoever chose nothing keeps SigV2, though another call of intercept wants it."""
    plain, chosen = s3(), s3(config=SIGV4)
    with presigner.scope():
        with intercept("botocore", upgrade=False):
            assert "AWSAccessKeyId" in link(plain)
            assert "X-Amz-Date" in link(chosen)
        assert "X-Amz-Date" in link(plain)
    assert presigner.stats()["caught"] == 2


# --- the fleet ----------------------------------------------------------------------------------------------


def test_links_are_shared(memcached: Memcached, clock: Clock) -> None:
    """K1, K4: a process with another session of the same identity hands out the link of the first."""
    urls: list[str] = []
    for _ in range(2):
        chain = Chain(clock)
        chain.keys += [{}] * len(urls)  # what is fetched next has another number
        patient = Policy(shared_patience=10)
        presigner = Presigner(
            chain.origin(bucket="acme-media"), shared=memcached.url, policy=patient, clock=clock
        )
        presigner.url("s3://acme-media/x")
        client = s3(chain.session(), SIGV4, region_name=REGION)
        with presigner.scope():
            urls.append(link(client, ExpiresIn=900))
        stats = presigner.stats()
        presigner.close()
    assert urls[0] == urls[1]
    assert (stats["caught"], stats["from_shared"]) == (1, 2)


# --- failures -----------------------------------------------------------------------------------------------


def test_where_the_cache_fails_boto3_answers(clock: Clock) -> None:
    """C6, O5: a source of keys that fails is asked once, and not again for each link of a page."""
    chain = Chain(clock)
    chain.failure = RuntimeError("no credentials today")
    presigner, client = Presigner(chain.origin(bucket="acme-media"), clock=clock), s3()
    with presigner.scope():
        urls = [link(client) for _ in range(5)]
    assert ["AWSAccessKeyId" in url for url in urls] == [True] * 5
    assert len(chain.asks) == 1
    assert (presigner.stats()["caught"], presigner.stats()["left_to_boto3"]) == (0, 5)


def test_what_a_client_is_known_for_goes_with_it(presigner: Presigner) -> None:
    """Neither the hooks nor the presigner keep a client or its class alive."""
    client = s3(boto3.Session("AKIABOTOCORE00000001", "a-secret-of-test-botocore", region_name=REGION))
    with presigner.scope():
        link(client)
    known = weakref.ref(client), weakref.ref(type(client))
    del client
    gc.collect()
    assert [ref() for ref in known] == [None, None]


# --- event loops --------------------------------------------------------------------------------------------


def later(seconds: float) -> float:
    return time.monotonic() + seconds


def test_on_a_loops_thread_nothing_is_fetched(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """D5: as long as the origin is not ready boto3 answers, and a thread makes it ready meanwhile."""
    chain = Chain(clock)
    keys = boto3.Session(
        "ASIATEST00000001", "a-secret-1-of-test-credentials", "a-token-1-of-test-credentials"
    )
    presigner, client = (
        Presigner(chain.origin(bucket="acme-media"), clock=clock),
        s3(keys, SIGV4, region_name=REGION),
    )

    async def handler() -> list[str]:
        with held(chain):
            urls = [link(client), link(client)]
            assert chain.asked.wait(DEADLINE)
        presigner.close()  # waits for its threads
        urls.append(link(client))
        monkeypatch.setattr("presign_middleware.answering.monotonic", partial(later, 1))
        return [*urls, link(client)]

    with presigner.scope():
        urls = asyncio.run(handler())
    assert [presigner.catching.unsigned(url) is not None for url in urls] == [False, False, False, True]
    assert len(chain.asks) == 1


def test_after_a_failure_boto3_answers_for_a_while(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """C6, O5: half a minute later the source is asked again."""
    chain = Chain(clock)
    chain.failure = RuntimeError("no credentials today")
    presigner, client = Presigner(chain.origin(bucket="acme-media"), clock=clock), s3()
    with presigner.scope():
        for seconds, asks in [(0, 1), (29, 1), (31, 2)]:
            monkeypatch.setattr("presign_middleware.answering.monotonic", partial(later, seconds))
            assert "AWSAccessKeyId" in link(client)
            assert len(chain.asks) == asks


def test_once_it_is_ready_a_loops_thread_is_answered(
    presigner: Presigner, caplog: pytest.LogCaptureFixture
) -> None:
    """D5: after the lifespan's start-up a blocking call in an async handler has nothing to wait for."""

    async def handler() -> str:
        await presigner.make_ready()
        with presigner.scope():
            return link(s3(config=Config(s3={"addressing_style": "virtual"})))

    assert "X-Amz-Date" in asyncio.run(handler())
    assert presigner.stats()["caught"] == 1
    assert caplog.records == []


def test_threads_ask_at_once(presigner: Presigner) -> None:
    """D1: whoever is first, all get one URL, and it is signed once."""
    client, urls, barrier = s3(), [], threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        with presigner.scope():
            urls.append(link(client))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(urls) == 8
    assert len(set(urls)) == 1
    assert presigner.stats()["signed"] == 1


# --- a real server ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SIGV4, None], ids=["SigV4", "nothing chosen"])
def test_links_fetch(seaweedfs: SeaweedFS, config: Config | None) -> None:
    """C6: GET, HEAD, PUT and DELETE by links that the cache has made, over real HTTP."""
    bucket = f"botocore-{'plain' if config is None else 'chosen'}"
    seaweedfs.client().create_bucket(Bucket=bucket)
    session = boto3.Session(seaweedfs.access_key, seaweedfs.secret_key)
    place: dict[str, Any] = {
        "region": seaweedfs.region,
        "endpoint_url": seaweedfs.endpoint_url,
        "session": session,
    }
    presigner = Presigner(Origin("links", bucket=bucket, methods=tuple(OPERATIONS.values()), **place))
    client = s3(session, config, endpoint_url=seaweedfs.endpoint_url)
    steps = [("put_object", 200), ("head_object", 200), ("get_object", 200), ("delete_object", 204)]
    with httpx.Client(trust_env=False, verify=False) as http:
        for operation, status in [*steps, ("get_object", 404)]:
            with presigner.scope():
                url = link(client, "a b/ü+.txt", operation, Bucket=bucket)
            answer = http.request(
                OPERATIONS[operation], url, content=b"a cat" if "put" in operation else None
            )
            assert (operation, status) == (operation, answer.status_code)
            assert answer.content == b"a cat" or (operation, status) != ("get_object", 200)
    assert presigner.stats()["caught"] == 5


# --- leaks --------------------------------------------------------------------------------------------------


def test_no_record_has_a_signature(presigner: Presigner, caplog: pytest.LogCaptureFixture) -> None:
    """L1: at DEBUG, botocore's loggers included, nothing tells the signature of an answer, nor its repr."""
    caplog.set_level(logging.DEBUG)
    client = s3()
    with presigner.scope():
        urls = [link(client), link(client)]
        foreign = s3(boto3.Session("AKIAOTHER", "another-secret", region_name=REGION))
        link(foreign)
    said = "\n".join(
        [
            *(record.getMessage() for record in caplog.records),
            repr(presigner),
            repr(vars(presigner.answering)),
        ]
    )
    assert [url for url in urls if query(url)["X-Amz-Signature"] in said] == []
    assert "a-secret-of-test-botocore" not in said
