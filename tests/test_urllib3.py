"""
What holds for urllib3: used directly, under botocore, and through proxies.

What every client must keep is in ``test_contract.py``. Hooks are the only way.
"""

import http.client
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
import requests
import urllib3
from botocore import UNSIGNED
from botocore.config import Config
from test_interception import in_a_new_interpreter
from ways import ACCESS_KEY, SECRET_KEY, SIGNATURE, Door, presigner_for, signed

from presign_middleware import Origin, Presigner, SigningError, intercept
from presign_middleware.testing import SeaweedFS


@pytest.fixture
def presigner(door: Door) -> Presigner:
    return presigner_for(door)


@pytest.fixture
def served(presigner: Presigner) -> Iterator[Presigner]:
    """Be inside an application's request, with urllib3 hooked."""
    with intercept("urllib3"), presigner.scope():
        yield presigner


def get(url: str, **options: Any) -> urllib3.BaseHTTPResponse:
    """Return the answer to a GET, with a pool manager of its own."""
    with urllib3.PoolManager() as manager:
        return manager.request("GET", url, **options)


# --- C1: which fetches are signed ---------------------------------------------------------------------------


def test_a_covered_fetch_arrives(served: Presigner, door: Door) -> None:
    """C1: by the module's function, a manager, a pool, and streamed: signed, and accepted."""
    parts = urlsplit(door.base)
    pool = urllib3.HTTPConnectionPool(str(parts.hostname), parts.port)
    with urllib3.PoolManager() as manager:
        streamed = manager.request("GET", door.cat, preload_content=False)
        answers = [
            urllib3.request("GET", door.cat).data,
            get(door.cat).data,
            pool.request("GET", "/media/cat.jpg").data,
            b"".join(streamed.stream(2)),
        ]
    pool.close()
    assert answers == [b"a cat"] * 4
    assert (served.stats()["signed"], served.stats()["caught"]) == (1, 4)


def test_intercepting_requests_leaves_urllib3_alone(presigner: Presigner, door: Door) -> None:
    """C1: ``intercept("requests")`` signs for requests, and for nobody else who uses urllib3."""
    with intercept("requests"), presigner.scope():
        assert requests.get(door.cat, timeout=5).status_code == 200
        assert get(door.cat).status == 403


def test_intercepting_urllib3_brings_requests(served: Presigner, door: Door) -> None:
    """C1: requests passes there, and its redirects, each a fetch of its own to urllib3, open no way in."""
    door.moved["/attacker"] = "/media/cat.jpg"
    assert requests.get(door.cat, timeout=5).status_code == 200
    assert requests.get(f"{door.base}/attacker", timeout=5).status_code == 403
    assert signed(door) == [True, False, False]


LATER = """
from presign_middleware import intercept
import sys
ours = intercept({names})
assert not {{"requests", "urllib3"}} & sys.modules.keys(), "intercept imported them"
{between}
import requests, urllib3
functions = [requests.adapters.HTTPAdapter.send, urllib3.connection.HTTPConnection.request]
functions.append(urllib3.PoolManager.urlopen)
print(*["presign_middleware" in f.__code__.co_filename for f in functions])
"""


@pytest.mark.parametrize(
    ("names", "between", "expected"),
    [
        ("'requests'", "", "True True False"),
        ("'urllib3'", "from urllib3.poolmanager import PoolManager", "True True True"),
    ],
)
def test_each_is_hooked_when_it_is_imported(names: str, between: str, expected: str) -> None:
    """C1: as they come, and with requests no more of urllib3 than it needs."""
    assert expected == in_a_new_interpreter(LATER.format(names=names, between=between))


# --- C1: redirects ------------------------------------------------------------------------------------------


def test_a_redirect_within_an_origin_is_signed(served: Presigner, door: Door) -> None:
    """C1: a hop is signed when the first hop was covered by the same origin; in a pool too."""
    door.moved["/media/old.jpg"] = "/media/cat.jpg"
    assert get(f"{door.base}/media/old.jpg").data == b"a cat"
    parts = urlsplit(door.base)
    with urllib3.HTTPConnectionPool(str(parts.hostname), parts.port) as pool:
        assert pool.urlopen("GET", "/media/old.jpg").data == b"a cat"
    assert signed(door) == [True] * 4


def test_an_uncovered_request_cannot_redirect_into_an_origin(served: Presigner, door: Door) -> None:
    """C1: whoever is asked first cannot have this process sign for them, by a pool manager or a pool."""
    door.moved["/attacker"] = "/again"
    door.moved["/again"] = "/media/cat.jpg"
    assert get(f"{door.base}/attacker").status == 403
    parts = urlsplit(door.base)
    with urllib3.HTTPConnectionPool(str(parts.hostname), parts.port) as pool:
        assert pool.urlopen("GET", "/attacker").status == 403
    assert signed(door) == [False] * 6
    assert served.stats()["passed_redirect"] == 2


def test_a_redirect_to_a_url_signed_here_arrives_and_is_logged_unsigned(
    served: Presigner, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """C1, S5, L1: as in a browser, and "Redirecting ... -> ..." has no signature."""
    door.moved["/photo"] = served.url(door.cat)
    with caplog.at_level(logging.DEBUG):
        assert get(f"{door.base}/photo").data == b"a cat"
    assert f"Redirecting {door.base}/photo -> {door.cat}" in caplog.text
    assert SIGNATURE not in caplog.text


# --- C2: nobody but the socket sees the signature -----------------------------------------------------------


def test_a_url_signed_here_is_treated_like_its_unsigned_form(
    served: Presigner, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """S5, L1: manager and pool recognise it; it arrives with its parameters, and shows no signature."""
    ours = served.url(door.cat, params={"ResponseContentType": "text/html"})
    parts = urlsplit(door.base)
    with (
        caplog.at_level(logging.DEBUG),
        urllib3.HTTPConnectionPool(str(parts.hostname), parts.port) as pool,
    ):
        answers = [get(ours), pool.request("GET", ours.removeprefix(door.base))]
    assert {"text/html"} == {answer.headers["Content-Type"] for answer in answers}
    assert SIGNATURE not in f"{[answer.url for answer in answers]} {caplog.text}"
    assert served.stats()["signed"] == 1


# --- S5, S6: what is signed, and what is left alone ---------------------------------------------------------


def test_botocores_own_traffic_passes_untouched(served: Presigner, door: Door) -> None:
    """S5: a boto3 client inside a request signs for itself, or does not; no hook counts or changes it."""
    before = served.stats()
    for config in (Config(retries={"total_max_attempts": 1}), Config(signature_version=UNSIGNED)):
        client = boto3.client(
            "s3",
            endpoint_url=door.base,
            region_name="eu-west-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=config,
        )
        with pytest.raises(client.exceptions.ClientError):  # the door knows presigned requests alone
            client.get_object(Bucket="media", Key="cat.jpg")
    assert signed(door) == [False, False]
    assert [bool(r.header("authorization")) for r in door.arrived] == [True, False]
    assert before == served.stats()


def test_botocore_works_under_the_hooks(seaweedfs: SeaweedFS) -> None:
    """S5: it writes, waits for 100-continue and reads, in a scope that covers the bucket."""
    client = seaweedfs.client()
    client.create_bucket(Bucket="botocores")
    session = boto3.Session(seaweedfs.access_key, seaweedfs.secret_key, region_name=seaweedfs.region)
    presigner = Presigner(
        Origin("real", bucket="botocores", endpoint_url=seaweedfs.endpoint_url, session=session)
    )
    with intercept("urllib3"), presigner.scope():
        client.put_object(Bucket="botocores", Key="k", Body=b"x" * 100_000)
        assert client.get_object(Bucket="botocores", Key="k")["Body"].read() == b"x" * 100_000
    assert presigner.stats()["caught"] == 0


def test_what_is_signed_or_authorised_by_others_passes_untouched(served: Presigner, door: Door) -> None:
    """S5: byte for byte."""
    queries = ["AWSAccessKeyId=AKIA1&Signature=x%2By%3D&Expires=1", "X-Amz-Signature=0f&X-Amz-Expires=60"]
    for query in queries:
        get(f"{door.cat}?{query}")
    get(door.cat, headers={"Authorization": "mine"})
    get(door.cat, headers={"authorization": b"mine"})
    assert [*queries, "", ""] == [request.query for request in door.arrived]


def test_a_name_with_a_dot_at_its_end_is_another_name(
    served: Presigner, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O1: urllib3 drops the dot from the Host header, and the hook looks at what was asked for."""
    connect = urllib3.util.connection.create_connection

    def resolved(address: tuple[str, int], *args: Any, **kwargs: Any) -> Any:
        return connect(("127.0.0.1", address[1]), *args, **kwargs)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", resolved)
    named = presigner_for(door, endpoint_url=door.base.replace("127.0.0.1", "s3.localhost"))
    with named.scope():
        for host in ("s3.localhost", "s3.localhost."):
            get(door.cat.replace("127.0.0.1", host))
    assert signed(door) == [True, False]


# --- O4, O5, O6, D1, D7 -------------------------------------------------------------------------------------


def test_a_connection_that_cannot_be_signed_for_does_not_send(
    served: Presigner, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O5: one that makes its request line in a way of its own, as a fork of urllib3 does, is refused."""
    monkeypatch.setattr(urllib3.connection.HTTPConnection, "_encode_request", None, raising=False)
    with pytest.raises(SigningError, match="connections of HTTPConnection"):
        get(door.cat)
    assert door.arrived == []


def test_a_connection_that_did_not_send_is_fit_for_the_next(served: Presigner, door: Door) -> None:
    """O5: after SigningError the pool gives a connection that works."""
    with urllib3.PoolManager(maxsize=1, block=True) as manager:
        for _ in range(2):
            with presigner_for(door, session=None).scope(), pytest.raises(SigningError):
                manager.request("GET", door.cat)
            assert manager.request("GET", door.cat).data == b"a cat"


# --- S10: proxies -------------------------------------------------------------------------------------------


def test_the_seam_below_is_there() -> None:
    """C2: the standard library makes bytes of a request line in one place, replaced while one is sent."""
    assert callable(http.client.HTTPConnection._encode_request)  # type: ignore[attr-defined]  # not in its stubs
