"""What one URL is for, how a cache names it, and what a signed URL tells of itself."""

import asyncio
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import boto3
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from presign_middleware import ConfigurationError, Origin, Presigner, PresignError, SignedURL
from presign_middleware.objects import KEY_VERSION, SIGNED_PARAMETERS, S3Object, quote_key, wire_parameters
from presign_middleware.testing import Clock

Identified = tuple[S3Object, str, str]  # an object, a namespace and a credential identity

HOST = "https://acme-media.s3.eu-west-1.amazonaws.com"
CAT = S3Object.of("media", "acme-media", "", "cat.jpg", "GET", (), 3600)
FIELDS = ("origin", "bucket", "form", "key", "method", "params", "lifetime", "share")
AWKWARD = [
    "a+b",
    "a b",
    "a%20b",
    "a%2Bb",
    "a%2Fb",
    "a/b",
    "a//b",
    "a..b",
    "a@b",
    "a#b",
    "a?b",
    "a&b",
    "ä",
    "a\u0308",
]

# Few letters, so that different objects come close to spelling the same.
texts = st.text("ab1:/+ %2F.@#?é\0", max_size=6) | st.sampled_from(AWKWARD)
objects = st.builds(
    S3Object.of,
    origin=texts,
    bucket=texts,
    form=texts,
    key=texts,
    method=texts,
    params=st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
    lifetime=st.integers(60, 604_800),
    share=st.floats(0, 1),  # no NaN, which is no share, and is not equal to itself
)
identified = st.tuples(objects, texts, texts)


def but(obj: S3Object, **fields: Any) -> S3Object:
    """Return an object that differs from *obj* in *fields*."""
    return S3Object.of(**{**{name: getattr(obj, name) for name in FIELDS}, **fields})


def cache_key(what: Identified) -> str:
    """Return the cache key of an object with its namespace and identity."""
    obj, namespace, identity = what
    return obj.cache_key(namespace, identity, "eu-west-1", "https://host/")


@pytest.fixture(scope="module")
def presigner() -> Presigner:
    session = boto3.Session("AKIAOBJECTS000000001", "a-secret-of-test-objects", "token-of-test-objects")
    return Presigner(Origin("media", bucket="acme-media", region="eu-west-1", session=session), clock=Clock())


@given(identified, identified)
@example((but(CAT, origin="ab", bucket="c"), "", ""), (but(CAT, origin="a", bucket="bc"), "", ""))
@example((but(CAT, form="ab", key="c"), "", ""), (but(CAT, form="a", key="bc"), "", ""))
@example((CAT, "ab", "c"), (CAT, "a", "bc"))
@example((but(CAT, params=(("a", "b"),)), "", ""), (but(CAT, params=(("ab", ""),)), "", ""))
@example(
    (but(CAT, params=(("a", "b"), ("c", "d"))), "", ""),
    (but(CAT, params=(("a", "b1:c1:d"),)), "", ""),
)
@example((but(CAT, key="1:a", method="b"), "", ""), (but(CAT, key="", method="1:ab"), "", ""))
def test_different_objects_have_different_keys(one: Identified, other: Identified) -> None:
    """K1: two objects share a cache key if, and only if, all their fields, namespace and identity agree."""
    assert (one == other) == (cache_key(one) == cache_key(other))


@given(identified, st.sampled_from([*FIELDS, "namespace", "identity"]), st.data())
def test_every_field_counts(what: Identified, name: str, data: st.DataObject) -> None:
    """K1: changing any one field of an object, its namespace or its identity changes the cache key."""
    obj, namespace, identity = what
    if name in ("namespace", "identity"):
        old = namespace if name == "namespace" else identity
        new = data.draw(texts.filter(lambda text: text != old))
        changed = (obj, new, identity) if name == "namespace" else (obj, namespace, new)
    else:
        strategy: st.SearchStrategy[Any] = {
            "params": st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
            "lifetime": st.integers(60, 604_800),
            "share": st.floats(0, 1),
        }.get(name, texts)
        value = data.draw(strategy.filter(lambda value: value != getattr(obj, name)))
        changed = (but(obj, **{name: value}), namespace, identity)
    assert cache_key(what) != cache_key(changed)


@given(st.lists(texts, min_size=7, max_size=7), st.integers(0, 5), st.integers(1, 6))
def test_a_letter_that_moves_to_the_next_field_counts(fields: list[str], at: int, count: int) -> None:
    """K1: texts that spell the same when joined, ("ab", "c") and ("a", "bc"), differ."""
    moved = list(fields)
    moved[at], moved[at + 1] = fields[at][:-count], fields[at][-count:] + fields[at + 1]

    def named(texts: list[str]) -> Identified:
        namespace, identity, origin, bucket, form, key, method = texts
        return S3Object.of(origin, bucket, form, key, method, (), 3600), namespace, identity

    assert (fields == moved) == (cache_key(named(fields)) == cache_key(named(moved)))


def test_awkward_keys_never_share_a_url(presigner: Presigner) -> None:
    """K1: keys that differ in escapes, spaces, plus signs or slashes have URLs of their own each time."""
    for _ in range(2):
        urls = presigner.urls([f"s3://acme-media/{key}" for key in AWKWARD])
        assert len(AWKWARD) == len(set(urls))
        assert [unquote(urlsplit(url).path)[1:] for url in urls] == AWKWARD


def test_what_a_url_is_for_keeps_urls_apart(presigner: Presigner) -> None:
    """K1: form, method, version, parameters and lifetime each have a URL of their own."""
    target = "s3://acme-media/cat.jpg"
    urls = [
        presigner.url(target),
        presigner.url("https://acme-media.s3.dualstack.eu-west-1.amazonaws.com/cat.jpg"),
        presigner.url(target, method="HEAD"),
        presigner.url(target, params={"VersionId": "1"}),
        presigner.url(target, params={"VersionId": "2"}),
        presigner.url(target, params={"ResponseContentType": "1"}),
        presigner.url(target, lifetime=3601),
    ]
    assert len(urls) == len(set(urls))


@given(identified)
@example((but(CAT, key="k" * 1024), "namespace", "identity"))
@example((but(CAT, key="\U0001f600" * 256), "", ""))
def test_a_cache_key_is_fit_for_memcached(what: Identified) -> None:
    """K2: a cache key is printable ASCII of at most 250 bytes, and begins with the format version."""
    key = cache_key(what)
    assert key.startswith(f"{KEY_VERSION}:")
    assert re.fullmatch(r"[!-~]{1,250}", key)


@pytest.mark.parametrize("name", ["origin", "bucket", "form", "key", "method", "params"])
def test_no_key_rather_than_a_constant_one(name: str) -> None:
    """K3: an object with a lone surrogate has no cache key at all: asking for it fails."""
    values: dict[str, Any] = {name: (("versionId", "\ud800"),) if name == "params" else "\ud800"}
    unspeakable = but(CAT, **values)
    with pytest.raises(UnicodeEncodeError):
        unspeakable.cache_key("", "", "", "")


@pytest.mark.parametrize(
    ("target", "params"),
    [
        ("s3://acme-media/\ud800", None),
        ("s3://acme-media/a\udfff/b", None),
        ("s3://\ud800/a", None),
        (f"{HOST}/\ud800", None),
        (f"{HOST}/\ud800%20", None),
        (f"{HOST}/a?versionId=\ud800", None),
        (f"{HOST}/a?versionId=\ud800%20", None),
        (f"{HOST}/a?\ud800=1", None),
        (f"{HOST}\ud800/a", None),
        ("s3://acme-media/a", {"VersionId": "\ud800"}),
        ("s3://acme-media/a", {"ResponseContentDisposition": 'attachment; filename="\ud800"'}),
    ],
)
@pytest.mark.parametrize("colour", ["blocking", "asyncio"])
def test_what_utf8_cannot_spell_is_refused(
    presigner: Presigner, target: str, params: dict[str, str] | None, colour: str
) -> None:
    """K3: a lone surrogate anywhere fails the call with an error of this library, the second time as well."""

    def ask() -> str:
        if colour == "blocking":
            return presigner.url(target, params=params)
        return asyncio.run(presigner.aurl(target, params=params))

    for _ in range(2):
        with pytest.raises(PresignError) as refused:
            ask()
        assert str(refused.value).isascii()


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_quoting_is_undone_by_unquoting(key: str) -> None:
    """K1, O3: a quoted key is unreserved characters, slashes and escapes alone, and reads as the key."""
    assert key == unquote(quote_key(key))
    assert re.fullmatch(r"(?:[A-Za-z0-9_.~/-]|%[0-9A-F]{2})+", quote_key(key))


# What a signed URL tells.


@pytest.fixture(scope="module")
def signed(presigner: Presigner) -> SignedURL:
    return presigner.resolve("s3://acme-media/dir/ä cat.jpg")


def test_str_is_the_url(presigner: Presigner, signed: SignedURL) -> None:
    """P2: str() of a SignedURL is the URL, the one that url() and aresolve() give."""
    assert str(signed) == signed.url == presigner.url("s3://acme-media/dir/ä cat.jpg")
    assert signed == asyncio.run(presigner.aresolve("s3://acme-media/dir/ä cat.jpg"))


def test_repr_hides_the_signature(signed: SignedURL) -> None:
    """L1: repr() of a SignedURL, alone or in a list, has no signature, credential, token or query."""
    query = dict(parse_qsl(urlsplit(signed.url).query))
    for text in (repr(signed), f"{[signed]}", f"{signed!r}"):
        assert "s3://acme-media/dir/ä cat.jpg" in text
        assert "?" not in text
        assert "X-Amz-" not in text
        for name in ("X-Amz-Signature", "X-Amz-Security-Token", "X-Amz-Credential"):
            assert query[name] not in text


def test_a_signed_url_tells_what_it_was_signed_with(signed: SignedURL) -> None:
    """P4: origin, method, region, service, algorithm and instants are those of the URL's own query."""
    query = dict(parse_qsl(urlsplit(signed.url).query))
    said = (signed.origin, signed.method, signed.region, signed.service, signed.expires_reason)
    assert said == ("media", "GET", "eu-west-1", "s3", "assumed")
    assert query["X-Amz-Credential"].endswith(f"/{signed.region}/{signed.service}/aws4_request")
    assert query["X-Amz-Algorithm"] == signed.auth_type
    assert f"{datetime.fromtimestamp(signed.created_at, UTC):%Y%m%dT%H%M%SZ}" == query["X-Amz-Date"]


def test_path_is_as_on_the_wire(signed: SignedURL) -> None:
    """O3: path is the URL's path, still percent-encoded."""
    assert signed.path == "/dir/%C3%A4%20cat.jpg"


def test_remaining_is_told_of_the_end() -> None:
    """P4: remaining(now) counts down to expires_at, and is negative after it."""
    signed = SignedURL("https://h/k?q", "s3://b/k", "media", "GET", "eu-west-1", "s3", 1000, 4600, "lifetime")
    assert (signed.remaining(1000), signed.remaining(4600), signed.remaining(4601.5)) == (3600, 0, -1.5)
    assert [signed.is_expiring(300, now) for now in (1000, 4300, 4300.5)] == [False, False, True]
    assert signed.is_expiring(0, 4601)


@pytest.mark.parametrize(
    ("target", "original"),
    [
        ("s3://acme-media/a?b#c", "s3://acme-media/a?b#c"),
        (f"{HOST}/a%20b", f"{HOST}/a%20b"),
        (f"{HOST}/a?versionId=v1", f"{HOST}/a?versionId=v1"),
    ],
)
def test_original_url_is_the_target(presigner: Presigner, target: str, original: str) -> None:
    """original_url is the target as it was asked for, so that it still says which object it is."""
    assert original == presigner.resolve(target).original_url


# Parameters, by boto3's names.


@pytest.mark.parametrize("name", SIGNED_PARAMETERS)
def test_params_take_the_names_of_boto3(presigner: Presigner, name: str) -> None:
    """S4: each of boto3's parameters that can be part of a URL stands in it under its wire name."""
    url = presigner.url("s3://acme-media/a", params={name: 7 if name == "PartNumber" else "7"})
    first, value = parse_qsl(urlsplit(url).query)[0]
    # What boto3 makes of each value is compared byte for byte in test_signing.
    assert SIGNED_PARAMETERS[name] == first
    assert name == "ResponseExpires" or value == "7"


@pytest.mark.parametrize(
    "name",
    [
        *("Range", "RequestPayer", "ChecksumMode", "IfMatch", "IfModifiedSince", "ExpectedBucketOwner"),
        *(
            "SSECustomerKey",
            "Bucket",
            "Key",
            "versionId",
            "response-content-type",
            "x-id",
            "acl",
            "Policy",
            "",
        ),
    ],
)
def test_params_that_cannot_be_part_of_a_url(presigner: Presigner, name: str) -> None:
    """S4: a parameter that becomes a header, or that boto3 does not know, is refused by name."""
    with pytest.raises(ConfigurationError, match=re.escape(repr(name))):
        presigner.url("s3://acme-media/a", params={name: "secret-value"})
    with pytest.raises(ConfigurationError, match="VersionId") as refused:
        Origin("media", bucket="acme-media", params={name: "secret-value"})
    assert "secret-value" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("VersionId", None), ("VersionId", 5), ("PartNumber", "abc"), ("ResponseContentType", b"x")),
        *(("ResponseExpires", None), ("ResponseExpires", "2026-W01-1"), ("ResponseExpires", 1e20)),
    ],
)
def test_values_that_boto3_refuses(presigner: Presigner, name: str, value: Any) -> None:
    """S1, S4: a value that boto3 would refuse is refused, rather than signed as its Python text."""
    with pytest.raises(ConfigurationError, match=name):
        presigner.url("s3://acme-media/a", params={name: value})


def test_params_keep_their_order() -> None:
    """S4: parameters stand in the order in which they were given, as boto3 writes them."""
    given = {"VersionId": "v", "PartNumber": 3, "ResponseContentType": "text/plain"}
    assert wire_parameters(given) == (
        ("versionId", "v"),
        ("partNumber", "3"),
        ("response-content-type", "text/plain"),
    )
    assert [n for n, _ in wire_parameters({"PartNumber": 3, "VersionId": "v"})] == ["partNumber", "versionId"]
