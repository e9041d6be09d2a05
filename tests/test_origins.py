"""Which targets an origin covers, and that nothing is ever signed outside its prefix or for another host."""

import posixpath
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import boto3
import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from presign_middleware import ConfigurationError, NotCovered, Origin, Presigner
from presign_middleware.origins import Coverage
from presign_middleware.redaction import redact
from presign_middleware.targets import Targets
from presign_middleware.testing import Clock

SESSION = boto3.Session("AKIAORIGINS000000001", "a-secret-of-test-origins")

VIRTUAL = "https://acme-media.s3.eu-west-1.amazonaws.com"
PATH = "https://s3.eu-west-1.amazonaws.com/acme-media"
MINIO = "http://minio.internal:9000/tenants"

#: Every base URL of the origins below, and the prefix within which they sign there.
BASES = {
    f"{VIRTUAL}/": "public/",
    "https://acme-media.s3.dualstack.eu-west-1.amazonaws.com/": "public/",
    "https://acme-media.s3-eu-west-1.amazonaws.com/": "public/",
    "https://acme-media.s3.amazonaws.com/": "public/",
    "https://acme-media.s3-accelerate.amazonaws.com/": "public/",
    "https://acme-media.s3-accelerate.dualstack.amazonaws.com/": "public/",
    f"{PATH}/": "public/",
    "https://s3.dualstack.eu-west-1.amazonaws.com/acme-media/": "public/",
    "https://s3-eu-west-1.amazonaws.com/acme-media/": "public/",
    "https://s3.amazonaws.com/acme-media/": "public/",
    "https://disk.acme.example/media/": "public/",
    f"{MINIO}/": "one/",
    "http://tenants.minio.internal:9000/": "one/",
}

#: What may stand in a query beside what SigV4 adds.
QUERY = {"versionId", "partNumber", "x-id"}


def words(text: str) -> list[str]:
    """Return what stands between the spaces of *text*."""
    return text.split()


def origin(name: str, **options: Any) -> Origin:
    """Return an origin at acme-media in eu-west-1 unless *options* say otherwise."""
    return Origin(name, **{"bucket": "acme-media", "region": "eu-west-1", "session": SESSION, **options})


@pytest.fixture(scope="module")
def presigner() -> Presigner:
    return Presigner(
        origin("media", prefix="public/", urls=["https://disk.acme.example/media"]),
        origin("minio", bucket="tenants", prefix="one/", endpoint_url="http://minio.internal:9000"),
        clock=Clock(),
    )


def is_inside(url: str) -> bool:
    """
    Return whether every reader of the signed *url* finds an object of an origin.

    The base is exactly one of an origin's. The key lies in its prefix: decoded once, as
    S3 reads it, and with its dot segments resolved after that, as the strictest client
    would. A client that normalises URLs leaves this one as it is.
    """
    found = re.fullmatch(r"(https?://[!-~]+)\?([!-~]+)", url)
    if not found or re.search(r"[\\#@]", url):
        return False
    where, query = found.groups()
    base = next((base for base in BASES if where.startswith(base)), None)
    if base is None:
        return False
    key, prefix = unquote(where.removeprefix(base), errors="strict"), BASES[base]
    resolved = posixpath.normpath(f"/{key}")
    names = [name for name, _ in parse_qsl(query, keep_blank_values=True)]
    client = httpx.URL(url)
    return (
        key.startswith(prefix)
        and f"{resolved}/".startswith(f"/{prefix}")
        and f"{client.scheme}://{client.netloc.decode()}{client.raw_path.decode()}" == url
        and urlsplit(url).path == urlsplit(where).path
        and len(names) == len(set(names))
        and all(n in QUERY or n.startswith(("X-Amz-", "response-")) for n in names)
        and names[-1] == "X-Amz-Signature"
    )


@pytest.mark.parametrize(
    "url",
    [
        f"{VIRTUAL}/secret/a?X-Amz-Signature=0",
        f"{VIRTUAL}/public/../secret/a?X-Amz-Signature=0",
        f"{VIRTUAL}/public/%2e%2e/secret/a?X-Amz-Signature=0",
        f"{VIRTUAL}/public/..%2fsecret?X-Amz-Signature=0",
        f"{VIRTUAL}.evil.com/public/a?X-Amz-Signature=0",
        f"{VIRTUAL}:8443/public/a?X-Amz-Signature=0",
        f"{VIRTUAL}/public/a?acl=&X-Amz-Signature=0",
        f"{VIRTUAL}/public/a?X-Amz-Signature=0&versionId=1",
        f"{VIRTUAL}/public/a\\b?X-Amz-Signature=0",
        f"{VIRTUAL}/public/a b?X-Amz-Signature=0",
        f"{VIRTUAL}/public/a",
    ],
)
def test_the_invariant_can_fail(url: str) -> None:
    """O1, O3: is_inside tells a URL that has left its origin from one that has not."""
    assert is_inside(f"{VIRTUAL}/public/a?X-Amz-Signature=0")
    assert not is_inside(url)


HOSTILE_HOSTS = words("""
    https://acme-media.s3.eu-west-1.amazonaws.com.evil.com
    https://evil.com/acme-media.s3.eu-west-1.amazonaws.com
    https://evil.com?u=https://acme-media.s3.eu-west-1.amazonaws.com
    https://evil.com#acme-media.s3.eu-west-1.amazonaws.com  https://evil-acme-media.s3.eu-west-1.amazonaws.com
    https://evil.acme-media.s3.eu-west-1.amazonaws.com      https://acme-media-s3.eu-west-1.amazonaws.com
    https://acme-mediaXs3.eu-west-1.amazonaws.com           https://acme-media.s3.eu-west-1.amazonaws.co
    https://acme-media.s3.eu-west-1.amazonaws.com.cn        https://acme-media.s3.us-east-2.amazonaws.com
    https://acme-media.s3-website-eu-west-1.amazonaws.com   https://other.s3.eu-west-1.amazonaws.com
    https://s3.eu-west-1.amazonaws.com/other                https://s3.eu-west-1.amazonaws.com/acme-media.evil
    https://s3.eu-west-1.amazonaws.com/ACME-MEDIA           https://s3.eu-west-1.amazonaws.com//acme-media
    https://acme-media.s3.eu-west-1.amazonaws.com.          https://acme-media.s3.eu-west-1.amazonaws.com:8443
    https://acme-media.s3.eu-west-1.amazonaws.com:80        https://acme-media.s3.eu-west-1.amazonaws.com:0443
    https://acme-media.s3.eu-west-1.amazonaws.com:443:443   https://acme-media.s3.eu-west-1.amazonaws.com:
    https://acme-media.s3.eu-west-1.amazonaws.com:443.evil.com
    https://user@acme-media.s3.eu-west-1.amazonaws.com
    https://user:word@acme-media.s3.eu-west-1.amazonaws.com
    https://acme-media.s3.eu-west-1.amazonaws.com@evil.com  https://@acme-media.s3.eu-west-1.amazonaws.com
    https://acme-media.s3.eu-west-1.amazonaws.com:443@evil.com
    https://acme-media.s3.eu-west-1.amazonaws.com\\@evil.com
    https://acme-media.s3.eu-west-1.amazonaws.com\\.evil.com
    https://evil.com\\.acme-media.s3.eu-west-1.amazonaws.com https:\\\\acme-media.s3.eu-west-1.amazonaws.com
    https:/acme-media.s3.eu-west-1.amazonaws.com            https:///acme-media.s3.eu-west-1.amazonaws.com
    https:acme-media.s3.eu-west-1.amazonaws.com             //acme-media.s3.eu-west-1.amazonaws.com
    acme-media.s3.eu-west-1.amazonaws.com                   https://acme%2Dmedia.s3.eu-west-1.amazonaws.com
    https://[acme-media.s3.eu-west-1.amazonaws.com]         ftp://acme-media.s3.eu-west-1.amazonaws.com
    http://acme-media.s3.eu-west-1.amazonaws.com            http://acme-media.s3.eu-west-1.amazonaws.com:443
    http://disk.acme.example/media                          https://disk.acme.example
    https://disk.acme.example/mediapublic                   https://disk.acme.example/other/../media
    file:///acme-media S3://acme-media s3a://acme-media     gs://acme-media s3:/acme-media s3:// s3://other
    s3://acme-media.evil s3://user@acme-media s3://acme-media:443 s3://acme-media/
    s3://acme-media/.
""")
HOSTILE_HOSTS += [
    "https://acme-media.s3.eu-west-1.\tamazonaws.com",
    "https://acme-media.s3.eu-west-1.amazonaws.com\n",
    "https://acme-media.s3.eu-west-1.amazonaws.com\r\nHost: evil.com",
    "https://acme-media.s3.eu-west-1.amazonaws.com\0.evil.com",
    "https://acme-media.s3.eu-west-1.amazonaws.com ",
    " https://acme-media.s3.eu-west-1.amazonaws.com",
    "\thttps://acme-media.s3.eu-west-1.amazonaws.com",
    "ht\ntps://acme-media.s3.eu-west-1.amazonaws.com",
    "https://acme-media.\u017f3.eu-west-1.amazonaws.com",  # long s, of which upper() makes S
    "https://s3.eu-we\u017ft-1.amazonaws.com/acme-media",
    "http\u017f://acme-media.s3.eu-west-1.amazonaws.com",
    "https://dis\u212a.acme.example/media",  # Kelvin sign, of which lower() makes k
    "https://disk\uff0eacme.example/media",  # dots and slashes that IDNA or NFKC make ASCII ones
    "https://disk\u3002acme.example/media",
    "https://disk.acme.example\u2044media",
    "https://acme\u00admedia.s3.eu-west-1.amazonaws.com",
]

#: At an origin's own host: no key, outside the prefix, or read differently by different clients.
HOSTILE_PATHS = words(r"""
    / ?versionId=1 /secret/a /public /publica /PUBLIC/a //public/a /./public/a /public/../secret/a /public/..
    /public/. /public/./a /public/a/../../secret /public/%2e%2e/secret/a /public/%2E./secret
    /public/.%2e/secret
    /public/..%2fsecret/a /public/..%2Fsecret/a /public%2f..%2fsecret/a /public%2f%2e%2e%2fsecret
    /..%2fpublic/a
    /public\..\secret /public/..\secret \public\a /public/% /public/%2 /public/%zz /public/%u002e /public/%ff
    /public/%c0%ae%c0%ae/secret /public/%ed%a0%80 /public/a%80
""")
HOSTILE_PATHS += ["", "/public/a\t", "/public/a\r\nHost: evil.com", "/pub\nlic/a", "/public/.\t./secret"]
HOSTILE_PATHS += ["/public/a\0", "/public/a\x7f", "/public\n/a", "/public/a?versionId=1\n"]

HOSTILE_QUERIES = words("""
    acl policy list-type=2 uploads uploadId=1 tagging torrent versions acl=&versionId=1
    versionId=1&versionId=2
    versionId=1&versionId=1 version%49d=1&versionId=2 VersionId=1 versionId=1&acl
    response-content-type=a&policy
    versionId=%zz versionId=%ff %00=1 a+b=1 x-id=GetObject&acl partNumber=1&partNumber=2
    response-content-length=1
    X-Amz-Signature=0123&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20260101 x-amz-signature=0
    Signature=abc%3D&AWSAccessKeyId=AKIA&Expires=1767268800 X-Amz-Date=20260101T000000Z X-Amz-Expires=604800
    X-Amz-Security-Token=t x-amz-acl=public-read utm_source=x Key=public/b &&&acl
""")

#: Whole targets of other origins, in the path's form of an origin, or of no form at all.
HOSTILE_REST: list[Any] = words(f"""
    {PATH} {PATH}/ {PATH}/../acme-media/public/a {PATH}/../other/public/a {PATH}/public/../../other/a
    {PATH}%2f..%2fother/public/a {PATH}?versionId=1 {MINIO}/two/a {MINIO}/one/../two/a {MINIO}/one/..;/../two
    http://minio.internal:9000/one/a http://minio.internal:9000/tenants%2ftwo/a
    http://minio.internal/tenants/one/a http://minio.internal:9001/tenants/one/a
    https://minio.internal:9000/tenants/one/a https://tenants.s3.us-east-1.amazonaws.com/one/a
    s3://acme-media/secret/a s3://acme-media/public/../secret s3://acme-media//public/a s3:///public/a
    s3://acme-media?versionId=1 s3://tenants/two/a s3://tenants/public/a
    cat.jpg /public/a public/a data:text/plain,public/a javascript:alert(1) None ? # :// https:// https://?acl
""")
HOSTILE_REST += ["", " ", "\n", None, 7, b"s3://acme-media/public/a"]

HOSTILE: list[Any] = [f"{host}/public/a" for host in HOSTILE_HOSTS]
HOSTILE += [f"{VIRTUAL}{path}" for path in HOSTILE_PATHS]
HOSTILE += [f"{VIRTUAL}/public/a?{query}" for query in HOSTILE_QUERIES]
HOSTILE += HOSTILE_REST


@pytest.mark.parametrize("target", HOSTILE)
def test_hostile_targets_are_not_covered(presigner: Presigner, target: Any) -> None:
    """O1, O3, S4, S5: what is not exactly an object of an origin is never signed, and url() says so."""
    with pytest.raises(NotCovered):
        presigner.url(target)


@pytest.mark.parametrize(
    ("target", "wire"),
    [
        (f"{VIRTUAL}/public/a", f"{VIRTUAL}/public/a"),
        (f"{VIRTUAL}/public/", f"{VIRTUAL}/public/"),
        (f"{VIRTUAL}/public/a#fragment?acl", f"{VIRTUAL}/public/a"),
        (f"{VIRTUAL}/public/a?", f"{VIRTUAL}/public/a"),
        (f"{VIRTUAL}:443/public/a", f"{VIRTUAL}/public/a"),
        ("HTTPS://ACME-Media.S3.eu-WEST-1.AmazonAWS.com/public/a", f"{VIRTUAL}/public/a"),
        (f"{VIRTUAL}/public/a+b%2Bc d%20e", f"{VIRTUAL}/public/a%2Bb%2Bc%20d%20e"),
        (f"{VIRTUAL}/public/ü%C3%BC", f"{VIRTUAL}/public/%C3%BC%C3%BC"),
        (f"{VIRTUAL}/public%2fa%2Fb", f"{VIRTUAL}/public/a/b"),
        (f"{VIRTUAL}/%70ublic/a%3Facl%23", f"{VIRTUAL}/public/a%3Facl%23"),
        (f"{VIRTUAL}/public/%252e%252e%252fsecret", f"{VIRTUAL}/public/%252e%252e%252fsecret"),
        (f"{VIRTUAL}/public/..%5csecret", f"{VIRTUAL}/public/..%5Csecret"),
        (f"{VIRTUAL}/public/%00%0d%0a", f"{VIRTUAL}/public/%00%0D%0A"),
        (f"{VIRTUAL}/public//.../..a/a..", f"{VIRTUAL}/public//.../..a/a.."),
        (f"{VIRTUAL}/public/https://evil.com/", f"{VIRTUAL}/public/https%3A//evil.com/"),
        (f"{PATH}/public/a", f"{PATH}/public/a"),
        ("https://s3.eu-west-1.amazonaws.com/acme%2Dmedia/public/a", f"{PATH}/public/a"),
        (f"{MINIO}/one/a@b:c", f"{MINIO}/one/a%40b%3Ac"),
        ("s3://acme-media/public/a%20b+c?acl#d", f"{VIRTUAL}/public/a%2520b%2Bc%3Facl%23d"),
        ("s3://acme-media/public/%2e%2e/secret", f"{VIRTUAL}/public/%252e%252e/secret"),
        ("s3://acme-media/public/..\\secret\t", f"{VIRTUAL}/public/..%5Csecret%09"),
        ("s3://tenants/one//a", f"{MINIO}/one//a"),
    ],
)
def test_a_key_is_read_once(presigner: Presigner, target: str, wire: str) -> None:
    """O3: an https path is decoded once, an s3:// key not at all, and the URL spells exactly that key."""
    url = presigner.url(target)
    assert wire == url.partition("?")[0]
    assert is_inside(url)


def test_an_s3_target_that_went_through_a_client_is_decoded_once() -> None:
    """O3: what a client made of an s3:// target is decoded once, its query is parameters, prefixes hold."""
    coverage = Coverage([origin("media", prefix="public/")])
    _, _, key, params = coverage.locate("s3://acme-media/public/a%20b%252F?versionId=1", encoded=True)
    assert (key, params) == ("public/a b%2F", (("versionId", "1"),))
    for hostile in words("public/%2e%2e/a public/..%2Fsecret secret public/a?acl public/%zz ?versionId=1"):
        with pytest.raises(NotCovered):
            coverage.locate(f"s3://acme-media/{hostile}", encoded=True)


VALID = [f"{base}{prefix}cat.jpg" for base, prefix in BASES.items()]
VALID += [f"{VALID[0]}?versionId=1&response-content-type=text/plain", "s3://acme-media/public/a/b"]
PIECES = words(r"""
    .. / // /../ /./ %2e %2E%2e %2f %2F.. %5c \ % %zz %25 %252e %00 ? # @ : :443 :80 :9000 . - ; * [ ] + user@
    %c0%ae %ff secret/ evil.com .evil.com evil.com/ s3.amazonaws.com https:// http:// s3:// public/ two/
    tenants
    ?acl &policy ?versionId=1 &versionId=2 &X-Amz-Signature=0 ?list-type=2 acme-media
""")
PIECES += [*"\0\t\n\r \x7f\x85\xad\xe9\u017f\u212a\uff0e\u3002\u2044\u200b\ud800", "\r\n", "\ud800%20"]


def escaped(text: str) -> str:
    """Return *text* with every byte percent-encoded."""
    return "".join(f"%{byte:02x}" for byte in text.encode("utf-8", "replace"))


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """Give a valid target with one to four pieces inserted, replaced, repeated, escaped or in other case."""
    url = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(url)))
        end = min(len(url), start + draw(st.sampled_from([0, 0, 1, 1, 2, 5, 12])))
        part = url[start:end]
        piece = draw(st.sampled_from([*PIECES, "", part.swapcase(), part * 2, escaped(part)]))
        url = url[:start] + piece + url[end:]
    return url


@settings(max_examples=1500)
@given(mutants())
@example(f"{VIRTUAL}/public/%2e%2e%2fsecret")
@example("http://minio.internal:9000/tenants/one/..;/two")
def test_no_mutant_leaves_its_origin(presigner: Presigner, target: str) -> None:
    """O1, O2, O3, S4: a mutated target is refused, or its URL is at an origin's own host in its prefix."""
    try:
        url = presigner.url(target)
    except NotCovered:
        return
    assert is_inside(url)


#: Origins of one bucket, of buckets whose names begin alike, of one prefix in two places, and an ARN's.
NEIGHBOURS = (
    Origin("all", bucket="media", region="eu-west-1"),
    Origin("a", bucket="media", region="eu-west-1", prefix="a/"),
    Origin(
        "minio", bucket="media", region="eu-west-1", prefix="a/b/", endpoint_url="http://minio.internal:9000"
    ),
    Origin("media2", bucket="media2", region="eu-west-1", prefix="a/"),
    Origin("reads", bucket="media3", region="eu-west-1", prefix="a/"),
    Origin("point", bucket="arn:aws:s3:eu-west-1:123456789012:accesspoint/photos", region="eu-west-1"),
)
BUCKETS = [*sorted({origin.bucket for origin in NEIGHBOURS}), "medi", "other"]
KEYS = [
    "",
    "a",
    "a/",
    "a/b",
    "a/b/",
    "a/b/c",
    "a/x",
    "b/x",
    "/",
    "a//b",
    "a/../b",
    "a/./b",
    ".",
    "a/.b",
    "é",
    "\ud800",
]
SPELT = st.builds("s3://{}/{}".format, st.sampled_from(BUCKETS), st.sampled_from(KEYS)) | st.sampled_from(
    ["s3://media", "S3://media/a", "https://media.s3.eu-west-1.amazonaws.com/a/x", "media/a/x", "", "\x80a"]
)


@given(st.permutations(NEIGHBOURS), st.lists(SPELT, max_size=12))
@settings(max_examples=400)
def test_a_target_is_found_whatever_was_before_it(origins: list[Origin], page: list[str]) -> None:
    """O1, O2: which origin holds a target, if any, does not depend on what was asked for before it."""
    targets = Targets(origins)

    def told(find: Callable[[str], Any], target: str) -> Any:
        try:
            return find(target)
        except NotCovered as error:
            return str(error)

    alone = [told(Targets(origins).named, target) for target in page]
    assert alone == [told(targets.named, target) for target in page]


def test_an_origin_that_has_moved_is_found_where_it_is() -> None:
    """O2, H2: a region that was learned has endpoints of its own, and the former ones are still covered."""
    origin = Origin("media", bucket="media", region="eu-west-1")
    targets = Targets([origin])
    former, present = [f"https://media.s3.{region}.amazonaws.com/a" for region in ("eu-west-1", "eu-north-1")]
    with pytest.raises(NotCovered):
        targets.named(present)
    targets.move(replace(origin, region="eu-north-1"))
    assert [targets.named(url).key for url in (present, former)] == ["a", "a"]


def test_threads_that_ask_at_once_find_each_its_own() -> None:
    """O2: what one thread has just found does not lead another one into its bucket."""
    targets = Targets([Origin(name, bucket=name, region="eu-west-1") for name in ("one", "another")])
    wrong = []

    def ask(bucket: str) -> None:
        for _ in range(3_000):
            found = targets.named(f"s3://{bucket}/a")
            if found.bucket != bucket or found.key != "a":
                wrong.append(found)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [Thread(target=ask, args=(bucket,)) for bucket in ("one", "another")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


# What a refusal says.


@pytest.mark.parametrize(
    "target",
    [
        "https://elsewhere.example/public/a?token=SENSITIVE#SENSITIVE",
        "https://user:SENSITIVE@elsewhere.example/public/a",
        f"{VIRTUAL}/secret/a?token=SENSITIVE",
        f"{PATH}?versionId=SENSITIVE",
        "ftp://elsewhere.example/?token=SENSITIVE",
        "s3://elsewhere/public/a?token=SENSITIVE",
    ],
)
def test_a_refusal_names_the_origins_and_no_query(presigner: Presigner, target: str) -> None:
    """O4: NotCovered names every origin and what was given, without its query, fragment and userinfo."""
    named = r"origins: media \(s3://acme-media/public/\), minio \(s3://tenants/one/\)|has no key"
    with pytest.raises(NotCovered, match=named) as refused:
        presigner.url(target)
    assert "SENSITIVE" not in str(refused.value)
    assert "elsewhere" in str(refused.value) or "amazonaws" in str(refused.value)


@pytest.mark.parametrize(
    "query",
    words("""
        acl=SENSITIVE versionId=SENSITIVE&versionId=2 versionId=SENSITIVE%zz versionId=SENSITIVE%ff
        X-Amz-Signature=SENSITIVE Signature=SENSITIVE&AWSAccessKeyId=AKIA X-Amz-Security-Token=SENSITIVE
    """),
)
def test_a_refusal_holds_no_value_of_the_query(presigner: Presigner, query: str) -> None:
    """O4, S5, L1: a target refused for its query is named without any value of that query."""
    with pytest.raises(NotCovered, match=re.escape(f"{VIRTUAL}/public/a")) as refused:
        presigner.url(f"{VIRTUAL}/public/a?{query}")
    assert "SENSITIVE" not in str(refused.value)


@pytest.mark.parametrize(
    "query",
    words("""
        a%26X-Amz-Signature%3DSENSITIVE SENSITIVE%20a=1 SENSITIVE.a SENSITIVE%0A a%3DSENSITIVE&versionId=1
        SENSITIVE%C3%BC %3CSENSITIVE%3E https://me:SENSITIVE@elsewhere.example/
    """),
)
def test_a_refusal_holds_no_odd_name_of_the_query(presigner: Presigner, query: str) -> None:
    """O4, L1: a parameter whose name, once decoded, could hold anything is not named in a message."""
    with pytest.raises(NotCovered, match=re.escape("has the query parameter ?,")) as refused:
        presigner.url(f"{VIRTUAL}/public/a?{query}")
    assert "SENSITIVE" not in str(refused.value)


def test_a_refusal_names_a_plain_name_of_the_query(presigner: Presigner) -> None:
    """O4: of the parameters that no object has, one whose name is a plain word is named."""
    for query in ("list-type=2", "%26odd&list-type=2", "versionId=1&list-type&~odd"):
        with pytest.raises(NotCovered, match="has the query parameter list-type,"):
            presigner.url(f"{VIRTUAL}/public/a?{query}")


@pytest.mark.parametrize("userinfo", words("user:pass/SENSITIVE user:SENSITIVE/word user:a/SENSITIVE@b"))
@pytest.mark.parametrize("host", ["elsewhere.example", "acme-media.s3.eu-west-1.amazonaws.com"])
def test_a_refusal_holds_no_userinfo_with_a_slash(presigner: Presigner, host: str, userinfo: str) -> None:
    """O4, L1: a password that has a slash in it is userinfo too, and in no part of a message."""
    target = f"https://{userinfo}@{host}/public/a"
    assert redact(target) == f"https://{host}/public/a"
    with pytest.raises(NotCovered) as refused:
        presigner.url(target)
    assert "sensitive" not in str(refused.value).lower()


def test_a_refusal_is_one_short_printable_line(presigner: Presigner) -> None:
    """O4: however long or odd the target, the message is printable ASCII and stays short."""
    long = f"s3://other/{'k' * 5000}"
    for target in (long, "https://\u017f\r\n\x1b[31m/", f"{VIRTUAL}/public/\r\nforged log line"):
        with pytest.raises(NotCovered) as refused:
            presigner.url(target)
        assert re.fullmatch(r"[ -~]{1,500}", str(refused.value))


# Which forms an origin has.

ACCESS_POINT = "arn:aws:s3:eu-west-1:123456789012:accesspoint/ap"

FORMS: list[tuple[dict[str, Any], str]] = [({}, base) for base in BASES if "amazonaws" in base]
FORMS += [
    ({"region": "us-east-1"}, "https://acme-media.s3.us-east-1.amazonaws.com/"),
    ({"region": "us-east-1"}, "https://acme-media.s3-external-1.amazonaws.com/"),
    ({"region": "cn-north-1"}, "https://acme-media.s3.cn-north-1.amazonaws.com.cn/"),
    ({"bucket": "my.dotted.bucket"}, "https://s3.eu-west-1.amazonaws.com/my.dotted.bucket/"),
    ({"bucket": "my.dotted.bucket"}, "https://my.dotted.bucket.s3.amazonaws.com/"),
    ({"bucket": "Old_Bucket"}, "https://s3.eu-west-1.amazonaws.com/Old_Bucket/"),
    ({"bucket": ACCESS_POINT}, "https://ap-123456789012.s3-accesspoint.eu-west-1.amazonaws.com/"),
    ({"bucket": ACCESS_POINT}, "https://ap-123456789012.s3-accesspoint.dualstack.eu-west-1.amazonaws.com/"),
    ({"endpoint_url": "http://127.0.0.1:9000/"}, "http://127.0.0.1:9000/acme-media/"),
    ({"endpoint_url": "https://gate.example/s3"}, "https://gate.example/s3/acme-media/"),
    ({"endpoint_url": "https://gate.example/s3"}, "https://acme-media.gate.example/s3/"),
    ({"urls": ["https://cdn.example:8443"]}, "https://cdn.example:8443/"),
    ({"urls": ["http://other.example", "https://cdn.example/a%20b/"]}, "https://cdn.example/a%20b/"),
]


@pytest.mark.parametrize(("options", "base"), FORMS)
def test_a_target_keeps_scheme_host_and_port(options: dict[str, Any], base: str) -> None:
    """O2, S10: every form of an origin is covered, and its URL goes to the very host that was asked for."""
    assert (
        Presigner(origin("o", **options))
        .url(f"{base}dir/cat.jpg")
        .startswith(f"{base}dir/cat.jpg?X-Amz-Algorithm=")
    )


def test_an_access_point_is_named_by_either_spelling_of_its_arn() -> None:
    """O2: an s3:// target may hold the ARN of an access point, spelled with a slash or a colon as in AWS."""
    for arn in (ACCESS_POINT, ACCESS_POINT.replace("/", ":")):
        url = Presigner(Origin("o", bucket=arn, session=SESSION)).url(f"s3://{arn}/dir/cat.jpg")
        assert url.startswith("https://ap-123456789012.s3-accesspoint.eu-west-1.amazonaws.com/dir/cat.jpg?")


def test_the_longest_prefix_wins() -> None:
    """O2: of several origins at one bucket the longest matching prefix signs, in either order."""
    nested = [origin(f"o{length}", prefix="a/b/c/"[:length]) for length in (0, 2, 4, 6)]
    for origins in (nested, nested[::-1]):
        presigner = Presigner(*origins)
        for base in ("s3://acme-media/", f"{VIRTUAL}/", f"{PATH}/"):
            urls = [f"{base}{key}" for key in ("x", "a/x", "a/bx", "a/b/x", "a/b/c/x")]
            holders = [presigner.resolve(url).origin for url in urls]
            assert holders == ["o0", "o2", "o2", "o4", "o6"]


def test_ten_thousand_tenants_on_one_bucket() -> None:
    """K7, O2: each of 10,000 tenants signs with its own key in its own prefix, and nobody elsewhere."""
    sessions = [boto3.Session(f"AKIATENANT{number:010}", "secret") for number in range(3)]
    presigner = Presigner(
        *[origin(f"tenant-{n}", prefix=f"tenants/{n}/", session=sessions[n % 3]) for n in range(10_000)]
    )
    for number in (0, 1, 10, 100, 1234, 9999):
        signed = presigner.resolve(f"s3://acme-media/tenants/{number}/a")
        assert signed.origin == f"tenant-{number}"
        assert f"AKIATENANT{number % 3:010}" in signed.url
    for outside in ("tenants/10000/a", "tenants/1", "tenants//a", "a", "tenants/1/../2/a"):
        with pytest.raises(NotCovered):
            presigner.url(f"{VIRTUAL}/{outside}")


# Settings that cannot work.


@pytest.mark.parametrize(
    "bucket",
    [
        *("media--usw2-az1--x-s3", "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap"),
        "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-1/accesspoint/ap",
        "arn:aws:s3-object-lambda:us-west-2:123456789012:accesspoint/ap",
    ],
)
def test_buckets_that_forced_sigv4_would_mis_sign(bucket: str) -> None:
    """S11: directory buckets and access points that are not regional are refused when the origin is made."""
    with pytest.raises(ConfigurationError, match=re.escape(bucket)):
        Origin("media", bucket=bucket, region="us-west-2")


SETTINGS: dict[str, list[Any]] = {
    "name": ["", "a b", "\xfc", "n" * 65, None],
    "bucket": ["", "a b", "\u017f3.bucket", "acme-media\n", *words("b a/b a?b b@evil.com evil.com#"), None],
    "prefix": ["/a/", "a/../b/", "./", "\ud800/", None],
    "region": ["", "eu west", "evil.com/", "EU-WEST-1"],
    "endpoint_url": [
        *words(
            "minio:9000 ftp://h/ https:// https:///x https://u@h/ https://h/?q=1 https://h/#f https://[::1/"
        ),
        *(
            "",
            "https://h\\x/",
            "https://h/\n",
            "https://\u017f3.example/",
            "https://h/%zz/",
            "https://h/%ff/",
        ),
    ],
    "urls": [
        "https://h/",
        *([url] for url in ("", "https://\xe4/")),
        *([url] for url in words("h https://u:p@h/ https://h/?q https://h/%ff https://h/%zz")),
        *([url] for url in words("https://h/a/../b/ https://h/%2e%2e/")),
    ],
    "addressing_style": ["dns", ""],
    "methods": [(), "GET", ("POST",), ("get",)],
    "params": [{"Range": "bytes=0-1"}, {"versionId": "1"}],
    "session": [SESSION],  # the origin below has a profile already
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in SETTINGS for value in SETTINGS[name]])
def test_settings_that_cannot_work(name: str, value: Any) -> None:
    """O1, O2: an origin with a setting that cannot work is refused when it is made, in printable words."""
    settings = {"name": "media", "bucket": "acme-media", "region": "eu-west-1", name: value}
    settings |= {"profile": "p"} if name == "session" else {"session": SESSION}
    with pytest.raises(ConfigurationError) as refused:
        Presigner(Origin(settings.pop("name"), **settings))
    str(refused.value).encode()


@pytest.mark.parametrize(
    "text",
    [
        *("", "a b=s3://acme-media", " s3://acme-media/"),
        *words("acme-media media s3:// s3:///a https://acme-media.s3.amazonaws.com/ =s3://acme-media"),
        *words("s3://acme-media/#a s3://acme-media//a s3://acme-media/../x/ s3://user@acme-media/"),
        *words("s3://acme-media:80/ media=https://acme-media/ s3://acme-media/?bucket=x"),
        *words(
            "s3://acme-media/?region=a.b/ s3://acme-media/?endpoint_url=h s3://acme-media/?addressing_style=dns"
        ),
        *words("s3://acme-media/?policy=SECRET s3://acme-media/?region=eu-west-1&secret_access_key=SECRET"),
    ],
)
def test_short_forms_that_cannot_work(text: str) -> None:
    """O2, L1: a short form that cannot work is refused, and no value of its query is repeated."""
    with pytest.raises(ConfigurationError) as refused:
        Presigner(text)
    assert "SECRET" not in str(refused.value)


def test_the_short_form_says_what_the_long_one_does() -> None:
    """O2: name=s3://bucket/prefix/?options is an Origin with that name, bucket, prefix and those options."""
    options = "region=eu-west-1&endpoint_url=http://h:9&addressing_style=virtual"
    short = Origin.parse(f"m=s3://acme-media/a/b/?{options}")
    assert (short.name, short.bucket, short.prefix, short.region) == ("m", "acme-media", "a/b/", "eu-west-1")
    assert (short.endpoint_url, short.addressing_style) == ("http://h:9", "virtual")
    assert Origin.parse("s3://acme-media").name == "acme-media"
    assert Origin.parse("s3://acme-media/a%20b/").prefix == "a%20b/"


def test_origins_need_different_names() -> None:
    """O2: two origins of one name are refused, and so is a presigner without any."""
    with pytest.raises(ConfigurationError, match="media, media"):
        Presigner(origin("media"), origin("media"))
    with pytest.raises(ConfigurationError, match="needs an origin"):
        Presigner()
