"""
Writes that take URLs back by themselves: ``Origin(invalidate_on_write=True)``, through each client.

A real S3 server decides which of them succeed. What it cannot be brought to say, a 500 or an error
after a 200, is put in the place of its answer.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import aiohttp
import boto3
import httpx
import httpx2
import pytest
import requests
import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from clients import Fetcher, Front, OneShot, fetchers

from presign_middleware import Presigner, intercept
from presign_middleware.testing import S3Response
from presign_middleware.writing import written_to

DEADLINE: Final = 10.0  # seconds after which a test that has gone wrong stops waiting
STRANGER: Final = boto3.Session("AKIAPRESIGNSTRANGER0", "a-secret-of-nobody", region_name="us-east-1")
SIGV4: Final = Config(signature_version="s3v4", s3={"addressing_style": "path"})


class Body(OneShot):
    """A body that can be read once."""

    def __init__(self, content: bytes = b"a new cat") -> None:
        super().__init__()
        self.content = content

    def __len__(self) -> int:
        return len(self.content)

    def __iter__(self) -> Iterator[bytes]:
        yield self.content

    @property
    def options(self) -> dict[str, Any]:
        """How a fetcher is told to send it."""
        return {"body": self, "headers": {"Content-Length": str(len(self))}}


def differs(presigner: Presigner, target: str, act: Callable[[], object]) -> bool:
    """Return whether the next URL of *target* is another one after *act*."""
    before = presigner.url(target)
    act()
    return presigner.url(target) != before


def counted(presigner: Presigner) -> tuple[int, int]:
    """Return how many objects were taken back, and how many could not be."""
    stats = presigner.stats()
    return stats["invalidated"], stats["invalidate_failed"]


# --- through HTTP clients -----------------------------------------------------------------------------------


@pytest.fixture(params=fetchers())
def fetcher(request: pytest.FixtureRequest, front: Front) -> Iterator[Fetcher]:
    client, is_explicit = request.param
    presigner = front.presigner(methods=("GET", "PUT", "DELETE"), invalidate_on_write=True)
    fetcher = Fetcher(client, is_explicit, presigner)
    with fetcher.hooked():
        yield fetcher


#: For what does not depend on the client: one blocking, one with asyncio.
some = pytest.mark.parametrize(
    "fetcher", [one for one in fetchers() if one.id in ("requests-hook", "aiohttp-adapter")], indirect=True
)


class Theirs:
    """Whoever signs requests to the real server by itself."""

    def __init__(self, front: Front, session: boto3.Session | None = None) -> None:
        self.base, self.session = f"{front.base}/front", session or front.session
        self.client: Any = self.session.client("s3", endpoint_url=front.base, config=SIGV4)

    def url(self, operation: str, key: str, **params: Any) -> str:
        """Return a URL signed for an operation under boto3's name."""
        asked = {"Bucket": "front", "Key": key, **params}
        url: str = self.client.generate_presigned_url(operation, Params=asked)
        return url

    def authorization(self, method: str, key: str) -> dict[str, str]:
        """Return headers that authorise a request with any body."""
        request: Any = AWSRequest(method, f"{self.base}/{key}", headers={})
        request.context["payload_signing_enabled"] = False
        keys: Any = self.session.get_credentials()
        signer: Any = S3SigV4Auth(keys, "s3", "us-east-1")
        signer.payload = lambda _: "UNSIGNED-PAYLOAD"
        signer.add_auth(request)
        return dict(request.headers.items())

    def upload(self, key: str) -> tuple[str, Body]:
        """Return where a multipart upload is completed that has one part, and what is to be sent there."""
        upload = self.client.create_multipart_upload(Bucket="front", Key=key)["UploadId"]
        part = {"Bucket": "front", "Key": key, "UploadId": upload, "PartNumber": 1}
        tag = self.client.upload_part(Body=b"a whole cat", **part)["ETag"]
        listed = f"<Part><PartNumber>1</PartNumber><ETag>{tag}</ETag></Part>"
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>"
        return self.url("complete_multipart_upload", key, UploadId=upload), Body(body.encode())


def test_every_write_takes_back_the_urls_of_its_object(fetcher: Fetcher, front: Front) -> None:
    """M6: PUT, DELETE, a copy and a completed upload, though others signed them; and of no other object."""
    theirs, presigner = Theirs(front), fetcher.presigner
    copied = {"x-amz-copy-source": "front/cat.jpg"}
    place, parts = theirs.upload("whole.jpg")
    writes: dict[str, dict[str, Any]] = {
        "put.jpg": {"method": "PUT", "url": theirs.url("put_object", "put.jpg"), **Body().options},
        "gone a+b.jpg": {"method": "DELETE", "url": theirs.url("delete_object", "gone a+b.jpg")},
        "copy.jpg": {
            "method": "PUT",
            "url": theirs.url("copy_object", "copy.jpg", CopySource="front/cat.jpg"),
            "headers": copied,
        },
        "whole.jpg": {"method": "POST", "url": place, **parts.options},
    }
    other = presigner.url(front.cat)
    for key, options in writes.items():
        before, url = presigner.url(f"s3://front/{key}"), options.pop("url")
        answer = fetcher.fetch(url, **options)
        assert answer.status in (200, 204), (key, answer)
        assert answer.content.startswith(b"<?xml") == (key in ("copy.jpg", "whole.jpg")), (
            "it has its body still"
        )
        assert presigner.url(f"s3://front/{key}") != before, key
    assert presigner.url(front.cat) == other
    assert counted(presigner) == (4, 0)


def test_a_write_counts_whoever_signs_it(fetcher: Fetcher, front: Front) -> None:
    """M6: signed here; or with Authorization, which every other SDK sends."""
    new = f"{front.base}/front/new.jpg"
    given = {**Body().options["headers"], **Theirs(front).authorization("PUT", "new.jpg")}
    for headers in (Body().options["headers"], given):
        before = fetcher.presigner.url(new)
        assert fetcher.fetch(new, method="PUT", body=Body(), headers=headers).status == 200
        assert fetcher.presigner.url(new) != before
    assert counted(fetcher.presigner) == (2, 0)
    assert "X-Amz-Signature" in front.arrived[0].query
    assert not front.arrived[1].query


def test_what_s3_refuses_takes_nothing_back(fetcher: Fetcher, front: Front) -> None:
    """M6: 403 for a stranger's signature, 404 for an upload or a source that is not there."""
    theirs = Theirs(front)
    missing = theirs.url("copy_object", "copy.jpg", CopySource="front/no such cat.jpg")
    answers = [
        fetcher.fetch(Theirs(front, STRANGER).url("put_object", "a.jpg"), method="PUT", **Body().options),
        fetcher.fetch(
            theirs.url("complete_multipart_upload", "a.jpg", UploadId="none"), method="POST", **Body().options
        ),
        fetcher.fetch(missing, method="PUT", headers={"x-amz-copy-source": "front/no%20such%20cat.jpg"}),
    ]
    assert [answer.status // 100 for answer in answers] == [4, 4, 4]
    assert answers[0].status == 403
    assert counted(fetcher.presigner) == (0, 0)


@pytest.mark.parametrize(
    ("status", "body", "taken_back"),
    [
        (500, b"<Error><Code>InternalError</Code></Error>", 0),
        (200, b"\n\n<Error><Code>InternalError</Code></Error>", 0),
        (200, b"\n\n<CopyObjectResult></CopyObjectResult>", 1),
    ],
    ids=["500", "an error after a 200", "a result"],
)
def test_an_error_that_comes_after_its_status_is_one(
    fetcher: Fetcher,
    front: Front,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    body: bytes,
    taken_back: int,
) -> None:
    """M6: S3 begins to answer before it has copied; the application gets all of its answer."""
    answer = S3Response(status, (("Content-Length", str(len(body))),), body)
    monkeypatch.setattr(front, "_passed_on", lambda request: answer)
    assert fetcher.fetch(f"{front.base}/front/new.jpg?X-Amz-Signature=0", method="PUT").content == body
    assert counted(fetcher.presigner) == (taken_back, 0)


def test_the_hop_that_writes_counts(fetcher: Fetcher, front: Front) -> None:
    """M6: a redirect is answered 307 and writes nothing; where it leads is written, or not."""
    theirs = Theirs(front)
    front.moved["/front/here.jpg"] = theirs.url("delete_object", "there.jpg")
    front.moved["/front/lost.jpg"] = Theirs(front, STRANGER).url("delete_object", "cat.jpg")
    here, there, cat = (f"s3://front/{name}.jpg" for name in ("here", "there", "cat"))
    before = fetcher.presigner.urls([here, there, cat])
    for name, status in {"here": 204, "lost": 403}.items():
        url = f"{front.base}/front/{name}.jpg?X-Amz-Signature=0"
        assert fetcher.fetch(url, method="DELETE").status == status
    after = fetcher.presigner.urls([here, there, cat])
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]
    assert counted(fetcher.presigner) == (1, 0)


@pytest.mark.parametrize("fetcher", fetchers(hooks_only=True), indirect=True)
def test_hooks_see_writes_in_scopes_or_with_ambient_presigners(fetcher: Fetcher, front: Front) -> None:
    """M6, D7: and none inside `paused`."""
    url, presigner = Theirs(front).url("delete_object", "gone.jpg"), fetcher.presigner

    def delete() -> int:
        assert fetcher.outside().fetch(url, method="DELETE").status == 204
        return presigner.stats()["invalidated"]

    assert delete() == 0
    with presigner.scope(), presigner.paused():
        assert delete() == 0
    with presigner.scope():
        assert delete() == 1
    with intercept(fetcher.client.name, presigner=presigner):
        assert delete() == 2
        with presigner.paused():
            assert delete() == 2


def test_nothing_is_seen_inside_paused(fetcher: Fetcher, front: Front) -> None:
    """O6: what users have this application write is nobody's, through adapters too."""
    with fetcher.presigner.paused():
        url = Theirs(front).url("delete_object", "gone.jpg")
        assert fetcher.fetch(url, method="DELETE").status == 204
    assert counted(fetcher.presigner) == (0, 0)


@pytest.mark.parametrize(
    "origin",
    [{"bucket": "secrets"}, {"endpoint_url": "http://s3.invalid"}, {"prefix": "cats/"}, {}],
    ids=["another bucket", "another endpoint", "outside the prefix", "not asked for"],
)
@some
def test_writes_of_nobodys_objects_take_nothing_back(
    fetcher: Fetcher, front: Front, origin: dict[str, Any]
) -> None:
    """M6: what no origin holds that wants to know is none of ours."""
    presigner = front.presigner(invalidate_on_write=bool(origin), **origin)
    url = Theirs(front).url("delete_object", "gone.jpg")
    assert fetcher.using(presigner).fetch(url, method="DELETE").status == 204
    assert counted(presigner) == (0, 0)


@some
def test_one_write_of_a_tenant_is_not_anothers(fetcher: Fetcher, front: Front) -> None:
    """M6, K7: of several origins the longest prefix holds the object, and says whether it wants to know."""
    wants = {"a/": True, "b/": False}
    origins = [front.origin(f"o{p[0]}", prefix=p, invalidate_on_write=w) for p, w in wants.items()]
    presigner = Presigner(*origins)
    for prefix, does_want in wants.items():
        url = Theirs(front).url("delete_object", f"{prefix}x")
        delete = lambda url=url: fetcher.using(presigner).fetch(url, method="DELETE")  # noqa: E731
        assert differs(presigner, f"s3://front/{prefix}x", delete) == does_want


@pytest.mark.parametrize(
    ("request_line", "is_write"),
    [
        ("PUT https://h/b/k", True),
        ("DELETE https://h/b/k?versionId=1", True),
        ("PUT https://h/b/k?X-Amz-Signature=0&X-Amz-Expires=1&x-id=PutObject&x-amz-acl=private", True),
        ("PUT https://h/b/k?AWSAccessKeyId=A&Signature=x&Expires=1", True),
        ("POST https://h/b/k?uploadId=1&X-Amz-Signature=0#top", True),
        ("PUT https://h/b/k?partNumber=1&uploadId=1", False),
        ("DELETE https://h/b/k?uploadId=1", False),
        *[(f"PUT https://h/b/k?{name}", False) for name in ("acl", "tagging=", "retention", "legal-hold")],
        ("DELETE https://h/b/k?tagging", False),
        *[(f"POST https://h/b/k{query}", False) for query in ("", "?uploads", "?restore", "?select&x=1")],
        ("GET https://h/b/k", False),
        ("HEAD https://h/b/k?uploadId=1", False),
    ],
)
def test_what_a_write_is(request_line: str, is_write: bool) -> None:
    """M6: whatever replaces or removes the bytes of an object; a part, an ACL or tags do not."""
    method, _, url = request_line.partition(" ")
    assert written_to(method, url) == ("https://h/b/k" if is_write else None)


@pytest.fixture
def breaking() -> Iterator[str]:
    """Give the URL of a server that breaks off in the middle of each answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65_536)
                        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n<Copy")

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(DEADLINE)


BROKEN: Final = (
    httpx.TransportError,
    httpx2.TransportError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    aiohttp.ClientError,
)


def test_an_answer_that_breaks_off_is_the_clients_to_tell(
    fetcher: Fetcher, front: Front, breaking: str
) -> None:
    """M6: that it was looked into first makes no short answer of it."""
    presigner = front.presigner(endpoint_url=breaking, invalidate_on_write=True)
    with pytest.raises(BROKEN):
        fetcher.using(presigner).fetch(
            f"{breaking}/front/x", method="PUT", headers={"Authorization": "theirs"}
        )
