"""
What becomes of a fetch that S3 refuses for its URL, through every client.

The strict oracle is asked, and told what to refuse. What the clients have in common is in ``clients.py``.
"""

import gzip
import ssl
from collections import deque
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import parse_qs

import httpx
import pytest
from clients import LIMITS, Fetcher, OneShot, fetchers, limit_of, tunnels
from fleet import MEDIA, REGION, Fleet, counted, let_publish
from ways import SIGNED, Door, opened, origin, presigner_for

from presign_middleware import Policy, Presigner
from presign_middleware.clients.httpx import PresignTransport
from presign_middleware.testing import Clock, Memcached, S3Request, S3Response

ERRORS: Final = {
    "ExpiredToken": 400,
    "InvalidToken": 400,
    "TokenRefreshRequired": 400,
    "InvalidAccessKeyId": 403,
    "SignatureDoesNotMatch": 403,
}


#: urllib3 warns of the certificate that a test's proxy shows.
INSECURE: Final = pytest.mark.filterwarnings("ignore:Unverified HTTPS request")

#: The length of a `OneShot`.
NINE: Final = {"Content-Length": "9"}


def refusal(code: str, status: int, message: str = "No.", *, more: str = "", **headers: str) -> S3Response:
    """Return S3's answer with this *code*."""
    inner = f"<Code>{code}</Code><Message>{message}</Message>{more}"
    body = f"<?xml version='1.0'?>\n<Error>{inner}</Error>".encode()
    given = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return S3Response(status, (*given, ("Content-Length", str(len(body)))), body, code)


#: L1 for each of these.
pytestmark = pytest.mark.usefixtures("nothing_leaks")


class Refusing(Door):
    """A door that answers with what it is told to first, and writes down what for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.told: deque[S3Response] = deque()
        self.always: S3Response | None = None
        self.spoilt: set[str] = set()  #: signatures that are refused

    def answer(self, request: S3Request) -> S3Response:
        answer = super().answer(request)
        if self.signatures[-1] in self.spoilt:
            answer = refusal("ExpiredToken", 400)
        elif self.told:
            answer = self.told.popleft()
        elif self.always is not None:
            answer = self.always
        if request.method == "HEAD":
            answer = S3Response(answer.status, answer.headers, b"", answer.code)
        return answer

    @property
    def signatures(self) -> list[str]:
        """The signature of each request that arrived."""
        return [parse_qs(one.query).get("X-Amz-Signature", [""])[0] for one in self.arrived]

    @property
    def regions(self) -> list[str]:
        """The region for which each request that arrived was signed."""
        return [parse_qs(one.query)["X-Amz-Credential"][0].split("/")[2] for one in self.arrived]


@pytest.fixture
def door(s3_clock: Clock) -> Iterator[Refusing]:
    with opened(Refusing(clock=s3_clock)) as door:
        assert isinstance(door, Refusing)
        yield door


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the fields of the events that were told."""
    records = [vars(record) for record in caplog.records if hasattr(record, "presign_event")]
    prefix = "presign_"
    return [{k.removeprefix(prefix): v for k, v in one.items() if k.startswith(prefix)} for one in records]


@pytest.fixture(params=fetchers())
def fetcher(request: pytest.FixtureRequest, door: Refusing) -> Iterator[Fetcher]:
    client, is_explicit = request.param
    limit = limit_of(request.function.__name__, request.node.callspec.id)
    if limit is not None:
        request.applymarker(pytest.mark.xfail(reason=limit.reason))
    fetcher = Fetcher(client, is_explicit, presigner_for(door))
    with fetcher.hooked():
        yield fetcher


# --- H1: one new signature, one replay ----------------------------------------------------------------------


def test_a_refused_url_is_signed_anew_and_fetched_once_more(fetcher: Fetcher, door: Refusing) -> None:
    """H1: the application sees the good answer; there is one more request, and one more signature."""
    for number, (code, status) in enumerate(ERRORS.items(), 1):
        door.put("media", code, code.encode())
        url = f"{door.base}/media/{code}"
        fetcher.presigner.url(url)
        door.told.append(refusal(code, status))
        door.arrived.clear()
        answer = fetcher.fetch(url)
        assert (answer.status, answer.content, answer.url) == (200, code.encode(), url)
        assert len(set(door.signatures)) == len(door.arrived) == 2
        assert counted(fetcher.presigner, "signed", "healed", "unhealed") == (2 * number, number, 0)


def test_what_took_its_place_is_served_from_then_on(fetcher: Fetcher, door: Refusing) -> None:
    """H1: in the request that met the refusal, and in those that come after it."""
    door.told.append(refusal("InvalidAccessKeyId", 403))
    assert [answer.status for answer in fetcher.fetch_all([door.cat] * 2)] == [200, 200]
    assert fetcher.fetch(door.cat).status == 200
    first, *others = door.signatures
    assert len(others) == 3
    assert {first} & set(others) == set()
    assert len(set(others)) == 1


OTHERS: Final = [
    refusal("AccessDenied", 403, "Access Denied"),
    refusal("NoSuchKey", 404, "The specified key does not exist."),
    refusal("InternalError", 500),
    refusal("InvalidArgument", 400),
    S3Response(403, (("Content-Length", "5"),), b"nope!"),
    S3Response(403, (("Content-Length", "0"),), b""),
    S3Response(304, (), b""),
    S3Response(200, (("Content-Length", "5"),), b"<Code"),
]


def test_any_other_answer_is_the_applications(fetcher: Fetcher, door: Refusing) -> None:
    """H1: no replay and no signature; the answer arrives as it is."""
    for answer in OTHERS:
        door.told.append(answer)
        found = fetcher.fetch(door.cat)
        assert (found.status, found.content) == (answer.status, answer.body)
    assert len(door.arrived) == len(OTHERS)
    assert counted(fetcher.presigner, "signed", "healed", "unhealed") == (1, 0, 0)


@pytest.mark.parametrize("is_sized", [True, False])
def test_a_long_refusal_arrives_whole(fetcher: Fetcher, door: Refusing, is_sized: bool) -> None:
    """H1: what was read of an answer to understand it is not missing in it."""
    body = bytes(range(256)) * 1_000
    sent, headers = body, (("Content-Length", str(len(body))),)
    if not is_sized:
        sent, headers = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), (("Transfer-Encoding", "chunked"),)
    door.told.append(S3Response(403, headers, sent))
    found = fetcher.fetch(door.cat)
    assert (found.status, found.content, len(door.arrived)) == (403, body, 1)


def test_a_compressed_refusal_is_understood(fetcher: Fetcher, door: Refusing) -> None:
    """H1: servers between may compress what S3 says."""
    said = refusal("ExpiredToken", 400)
    packed = gzip.compress(said.body)
    headers = (("Content-Encoding", "gzip"), ("Content-Length", str(len(packed))))
    door.told.append(S3Response(400, headers, packed))
    assert fetcher.fetch(door.cat).status == 200


def test_a_refused_replay_is_the_answer(fetcher: Fetcher, door: Refusing) -> None:
    """H1: once, whatever the second answer is."""
    door.told += [refusal("ExpiredToken", 400, "first"), refusal("InvalidToken", 400, "second")]
    found = fetcher.fetch(door.cat)
    assert (found.status, b"second" in found.content, len(door.arrived)) == (400, True, 2)
    assert counted(fetcher.presigner, "healed", "unhealed") == (0, 1)


def test_an_upload_is_never_sent_twice(fetcher: Fetcher, door: Refusing) -> None:
    """C5, H1: a body that can be read once is; the next upload has another signature."""
    able = fetcher.using(presigner_for(door, methods=("GET", "PUT")))
    door.told.append(refusal("ExpiredToken", 400))
    body = OneShot()
    assert able.fetch(f"{door.base}/media/new.jpg", method="PUT", body=body, headers=NINE).status == 400
    assert (body.readings, len(door.arrived)) == (1, 1)


def test_headers_that_were_signed_are_signed_anew(fetcher: Fetcher) -> None:
    """S6, H1: a request with headers of its own heals like any other. boto3 signs by this host's clock."""
    with opened(Refusing()) as door:
        assert isinstance(door, Refusing)
        door.told.append(refusal("InvalidAccessKeyId", 403))
        own = fetcher.using(presigner_for(door))
        found = own.fetch(door.cat, headers={"x-amz-request-payer": "requester"})
        assert (found.status, len(door.arrived)) == (200, 2)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_refused_leaves_the_fleet(fleet: Fleet, memcached: Memcached, method: str) -> None:
    """H1: a process whose shared URL is refused shares its own in its place, which others adopt."""
    fleet.oracle.create_bucket("media", region=REGION)
    fleet.oracle.put("media", method, b"a cat")
    one, two, three = (
        fleet.member(memcached.url, fleet.session(name)) for name in ("ASIAONE", "ASIATWO", "ASIATHREE")
    )
    target = f"{MEDIA}/{method}"
    spoilt = one.url(target, method)
    fleet.oracle.remove_key("ASIAONE")
    with httpx.Client(transport=PresignTransport(two, httpx.WSGITransport(app=fleet.oracle.wsgi))) as client:
        assert client.request(method, target).status_code == 200
    assert counted(two, "from_shared", "signed", "healed") == (1, 1, 1)
    let_publish(two)
    assert three.url(target, method) == two.url(target, method) != spoilt
    assert counted(three, "signed") == (0,)


# --- H1: HEAD -----------------------------------------------------------------------------------------------


def test_a_head_that_says_nothing_changes_nothing(fetcher: Fetcher, door: Refusing) -> None:
    """H1: a refused HEAD has no body that would say why."""
    door.told.append(refusal("InvalidToken", 400))
    assert fetcher.fetch(door.cat, method="HEAD").status == 400
    assert len(door.arrived) == 1


def test_a_head_heals_when_its_url_is_past_by_s3s_clock(
    fetcher: Fetcher, door: Refusing, s3_clock: Clock
) -> None:
    """H1: the Date of the answer says so."""
    late = "Thu, 01 Jan 2099 00:00:00 GMT"
    door.told.append(refusal("AccessDenied", 403, "Request has expired", Date=late))
    assert fetcher.fetch(door.cat, method="HEAD").status == 200
    assert len(door.arrived) == 2


def test_a_head_heals_though_its_answer_names_the_region(fetcher: Fetcher, door: Refusing) -> None:
    """H1: S3 names it also where it is the right one."""
    late = {"Date": "Thu, 01 Jan 2099 00:00:00 GMT", "x_amz_bucket_region": "eu-west-1"}
    door.told.append(refusal("AccessDenied", 403, "Request has expired", **late))
    assert fetcher.fetch(door.cat, method="HEAD").status == 200
    wrong = fetcher.using(presigner_for(door, region="us-west-2"))
    assert wrong.fetch(door.cat, method="HEAD").status == 200
    assert wrong.presigner.explain(door.cat).learned == {"region": "eu-west-1"}


# --- what the application is told --------------------------------------------------------------------------


def test_a_refused_fetch_says_what_is_known_of_it(fetcher: Fetcher, door: Refusing) -> None:
    """The exception that a refusal is made carries the short form of `Presigner.explain`."""
    door.always = refusal("AccessDenied", 403, "Access Denied")

    async def refused(client: Any) -> list[str]:
        answer = client.get(door.cat)
        response = await answer if fetcher.client.is_async else answer
        with pytest.raises(Exception, match="403") as caught:
            response.raise_for_status()
        if fetcher.client.name == "aiohttp":
            response.close()
        return list(getattr(caught.value, "__notes__", ()))

    async def opened_client() -> list[str]:
        async with fetcher.open() as client:
            return await refused(client)

    if fetcher.client.name == "urllib3":
        return  # its responses raise nothing
    with fetcher.scope():
        (note,) = fetcher.client.run(opened_client())
    assert note.startswith(f"GET {door.cat} of origin media: ")
    assert not SIGNED.search(note)


# --- H5: limits ---------------------------------------------------------------------------------------------


def test_an_object_heals_once_a_minute_for_a_cause(fetcher: Fetcher, door: Refusing, s3_clock: Clock) -> None:
    """H5: what is refused again and again is not asked for twice each time."""
    door.always = refusal("InvalidAccessKeyId", 403)
    for expected in (2, 1, 1):
        door.arrived.clear()
        assert fetcher.fetch(door.cat).status == 403
        assert len(door.arrived) == expected
    s3_clock.advance(61)
    door.arrived.clear()
    assert fetcher.fetch(door.cat).status == 403
    assert len(door.arrived) == 2


def test_a_client_that_mangles_every_url_is_left_alone(
    fetcher: Fetcher, door: Refusing, caplog: pytest.LogCaptureFixture
) -> None:
    """H5: after a second refusal of a new signature, for all objects of that shape; and it is told."""
    door.always = refusal("SignatureDoesNotMatch", 403)
    counts = []
    for name in ("cat", "dog", "bird"):
        door.arrived.clear()
        assert fetcher.fetch(f"{door.base}/media/{name}.jpg").status == 403
        counts.append(len(door.arrived))
    assert counts == [2, 1, 1]
    stopped = {"event": "healing_stopped", "origin": "media", "client": fetcher.client.name}
    assert told(caplog) == [stopped]
    assert "stopped for" in fetcher.presigner.explain(door.cat).learned["healing"]


def test_whoever_fetched_with_the_same_url_shares_the_remedy(fetcher: Fetcher, door: Refusing) -> None:
    """H5, D1: ten refused fetches of one object come to one new signature."""
    fetcher.fetch(door.cat)
    door.spoilt.update(door.signatures)
    assert {answer.status for answer in fetcher.fetch_at_once([door.cat] * 10)} == {200}
    assert counted(fetcher.presigner, "signed") == (2,)


# --- H1, H2: the region -------------------------------------------------------------------------------------


def test_a_wrong_region_heals_within_one_request(
    fetcher: Fetcher, door: Refusing, caplog: pytest.LogCaptureFixture
) -> None:
    """H1: the refusal names the right one, which stays learned; other objects need no replay."""
    wrong = fetcher.using(presigner_for(door, region="us-west-2"))
    assert wrong.fetch(door.cat).status == 200
    assert door.regions == ["us-west-2", "eu-west-1"]
    door.put("media", "dog.jpg", b"a dog")
    assert wrong.fetch(f"{door.base}/media/dog.jpg").content == b"a dog"
    assert wrong.fetch(door.cat).status == 200
    assert door.regions[2:] == ["eu-west-1"] * 2
    assert wrong.presigner.explain(door.cat).learned["region"] == "eu-west-1"
    assert told(caplog) == [{"event": "region_learned", "origin": "media", "region": "eu-west-1"}]


@pytest.mark.parametrize(
    "region", ["evil.example/", "EU", "us-west-2", "cn-north-1", "eu-west-1x", "a" * 2000]
)
def test_a_region_that_is_none_is_not_believed(fetcher: Fetcher, door: Refusing, region: str) -> None:
    """H2: what a server names is signed for only if AWS could call a region that."""
    wrong = fetcher.using(presigner_for(door, region="us-west-2"))
    door.always = refusal("AuthorizationQueryParametersError", 400, more=f"<Region>{region}</Region>")
    assert wrong.fetch(door.cat).status == 400
    assert door.regions == ["us-west-2"]
    assert wrong.presigner.explain(door.cat).learned == {}


@INSECURE
def test_the_endpoint_of_another_region_is_left(
    fetcher: Fetcher, door: Refusing, tls: ssl.SSLContext
) -> None:
    """H1: what is asked for at the wrong region's host is fetched at the right one's."""
    door.create_bucket("acme-media", region="eu-west-1")
    door.put("acme-media", "cat.jpg", b"a cat")
    door.put("acme-media", "dog.jpg", b"a dog")
    there = {"bucket": "acme-media", "region": "us-west-2", "endpoint_url": None}
    with tunnels(door, tls) as (proxy, asked):
        wrong = fetcher.using(presigner_for(door, **there)).through(proxy)
        base = "https://acme-media.s3.us-west-2.amazonaws.com"
        cat, dog = (wrong.fetch(f"{base}/{name}.jpg") for name in ("cat", "dog"))
    assert (cat.content, dog.content) == (b"a cat", b"a dog")
    assert (cat.url, dog.url) == (f"{base}/cat.jpg", f"{base}/dog.jpg")
    assert asked == [
        f"acme-media.s3.{region}.amazonaws.com" for region in ("us-west-2", "eu-west-1", "eu-west-1")
    ]


# --- H3: the clock ------------------------------------------------------------------------------------------


class Ahead:
    """A clock that is wrong by some seconds."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds
        self.monotonic = clock.monotonic

    def time(self) -> float:
        return self._clock.time() + self._seconds


@INSECURE
@pytest.mark.parametrize("seconds", [1200, -1200])
def test_a_wrong_clock_heals_within_a_few_requests(
    fetcher: Fetcher,
    door: Refusing,
    tls: ssl.SSLContext,
    s3_clock: Clock,
    caplog: pytest.LogCaptureFixture,
    seconds: int,
) -> None:
    """H3, P8: for objects of every phase; and from then on no URL is refused."""
    for number in range(6):
        door.put("media", f"{number}.jpg", b"%d" % number)
    with tunnels(door, tls) as (proxy, _):
        base = "https://media.s3.eu-west-1.amazonaws.com"
        presigner = Presigner(origin(door, endpoint_url=None), clock=Ahead(s3_clock, seconds))
        off = fetcher.using(presigner).through(proxy)
        urls = [f"{base}/{number}.jpg" for number in range(6)]
        presigner.urls(urls)
        assert {answer.status for answer in off.fetch_all(urls)} == {200}
        assert len(door.arrived) <= len(urls) + 3
        for entry in [presigner.resolve(url) for url in urls]:
            assert 599 < entry.expires_at - s3_clock.time() <= 3601
            assert entry.created_at <= s3_clock.time() + 1
    assert presigner.stats()["clocks_learned"] == 1
    (event,) = told(caplog)
    assert (event["event"], event["origin"]) == ("clock_learned", "media")
    assert event["seconds"] == pytest.approx(-seconds, abs=1)


@INSECURE
def test_a_date_that_cannot_be_is_not_believed(fetcher: Fetcher, door: Refusing, tls: ssl.SSLContext) -> None:
    """H3: nor one that is more than a day away."""
    url = "https://media.s3.eu-west-1.amazonaws.com/cat.jpg"
    with tunnels(door, tls) as (proxy, _):
        off = fetcher.using(presigner_for(door, endpoint_url=None)).through(proxy)
        for date in ("Thu, 01 Jan 1970 00:00:00 GMT", "yesterday", ""):
            door.always = S3Response(200, (("Date", date), ("Content-Length", "0")))
            assert off.fetch(url).status == 200
    assert counted(off.presigner, "clocks_learned") == (0,)


# --- H4: fallback origins -----------------------------------------------------------------------------------


@pytest.fixture
def archive(s3_clock: Clock) -> Iterator[Refusing]:
    with opened(Refusing(clock=s3_clock)) as door:
        assert isinstance(door, Refusing)
        door.create_bucket("archive", region="eu-west-1")
        door.put("archive", "old.jpg", b"an old cat")
        yield door


def with_fallback(door: Door, archive: Door, **options: Any) -> Presigner:
    first = origin(door, fallback="archive", **options)
    second = origin(archive, "archive", bucket="archive")
    return Presigner(first, second, clock=door.clock, policy=Policy(fallback_ttl=60))  # type: ignore[arg-type]


def test_an_object_of_the_fallback_is_asked_for_there(
    fetcher: Fetcher, door: Refusing, archive: Refusing, s3_clock: Clock
) -> None:
    """H4: the first request asks both, the next ten the second; after a while the first again."""
    presigner = with_fallback(door, archive)
    both, old = fetcher.using(presigner), f"{door.base}/media/old.jpg"
    found = both.fetch(old)
    assert (found.status, found.content, found.url) == (200, b"an old cat", old)
    assert (len(door.arrived), len(archive.arrived)) == (1, 1)
    for _ in range(10):
        assert both.fetch(old).content == b"an old cat"
    assert (len(door.arrived), len(archive.arrived)) == (1, 11)
    assert presigner.resolve(old).origin == "archive"
    assert presigner.url("s3://media/old.jpg").startswith(f"{archive.base}/archive/old.jpg?")
    door.put("media", "old.jpg", b"a new cat")
    s3_clock.advance(61)
    assert presigner.resolve(old).origin == "media"
    assert both.fetch(old).content == b"a new cat"
    assert (len(door.arrived), len(archive.arrived)) == (2, 11)


def test_what_neither_has_is_missing(fetcher: Fetcher, door: Refusing, archive: Refusing) -> None:
    """H4: each time both are asked, and nothing is remembered."""
    both = fetcher.using(with_fallback(door, archive))
    for number in (1, 2):
        assert both.fetch(f"{door.base}/media/no.jpg").status == 404
        assert (len(door.arrived), len(archive.arrived)) == (number, number)
    assert counted(both.presigner, "fallbacks") == (0,)


def test_what_the_fallback_has_lost_is_looked_for_where_it_belongs(
    fetcher: Fetcher, door: Refusing, archive: Refusing
) -> None:
    """H4: also while it is remembered."""
    both, old = fetcher.using(with_fallback(door, archive)), f"{door.base}/media/old.jpg"
    assert both.fetch(old).content == b"an old cat"
    door.put("media", "old.jpg", b"it has moved")
    archive.always = refusal("NoSuchKey", 404)
    assert both.fetch(old).content == b"it has moved"


def test_a_403_is_a_miss_where_the_origin_says_so(
    fetcher: Fetcher, door: Refusing, archive: Refusing
) -> None:
    """H4: S3 says AccessDenied of what is not there to whoever may not list the bucket."""
    door.always = refusal("AccessDenied", 403, "Access Denied")
    for hides_misses, status in ((True, 200), (False, 403)):
        for method in ("GET", "HEAD"):
            both = fetcher.using(with_fallback(door, archive, hides_misses=hides_misses))
            assert both.fetch(f"{door.base}/media/old.jpg", method=method).status == status


def test_an_upload_stays_where_it_is(fetcher: Fetcher, door: Refusing, archive: Refusing) -> None:
    """H4: what is written goes to the origin that was named."""
    able = fetcher.using(with_fallback(door, archive, methods=("GET", "PUT")))
    door.told.append(refusal("NoSuchBucket", 404))
    assert able.fetch(f"{door.base}/media/new.jpg", method="PUT", body=OneShot(), headers=NINE).status == 404
    assert archive.arrived == []


def test_every_limit_is_met_here_or_in_the_contract() -> None:
    """The table of limits names no test that is not there."""
    import test_contract

    for limit in LIMITS:
        for name in limit.tests:
            assert name in globals() or hasattr(test_contract, name)
