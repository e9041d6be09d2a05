"""
Writes that take URLs back by themselves: ``Origin(invalidate_on_write=True)``, through each client and boto3.

A real S3 server decides which of them succeed. What it cannot be brought to say, a 500 or an error
after a 200, is put in the place of its answer.
"""

import asyncio
import contextlib
import io
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, NamedTuple
from weakref import WeakSet

import aiohttp
import boto3
import httpx
import httpx2
import pytest
import requests
import urllib3
from boto3.s3.transfer import TransferConfig
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from clients import Fetcher, Front, OneShot, fetchers
from fleet import PATIENT
from opentelemetry.instrumentation.botocore import BotocoreInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from s3transfer.tasks import Task
from sentry_sdk.integrations.boto3 import Boto3Integration
from test_instrumentation import ORDERS, Sentry

from presign_middleware import Origin, Policy, Presigner, intercept, writing
from presign_middleware.clients.httpx import PresignTransport
from presign_middleware.effects import BlockingEffects
from presign_middleware.runner import Runner
from presign_middleware.testing import Clock, Memcached, S3Response, SeaweedFS
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


# --- through boto3 ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(seaweedfs: SeaweedFS) -> dict[str, Any]:
    """Give what an origin and a client of the real server have in common."""
    seaweedfs.client().create_bucket(Bucket="writes")
    seaweedfs.client().create_bucket(Bucket="elsewhere")
    return {
        "endpoint_url": seaweedfs.endpoint_url,
        "session": boto3.Session(seaweedfs.access_key, seaweedfs.secret_key, region_name=seaweedfs.region),
    }


@pytest.fixture
def presigner(place: dict[str, Any]) -> Iterator[Presigner]:
    presigner = Presigner(Origin("media", bucket="writes", invalidate_on_write=True, **place))
    with intercept("botocore"):
        yield presigner


def made(place: dict[str, Any], session: boto3.Session | None = None) -> Any:
    """Return a boto3 client, as an application has it."""
    session = session or place["session"]
    return session.client(
        "s3", endpoint_url=place["endpoint_url"], config=Config(retries={"max_attempts": 0})
    )


@pytest.fixture
def s3(place: dict[str, Any]) -> Any:
    return made(place)


PARTS: Final = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
WHOLE: Final = b"\0" * (6 << 20)  # S3 takes no part of less than 5 MB but the last

WRITES: Final[dict[str, Callable[[Any, dict[str, str]], object]]] = {
    "put_object": lambda s3, to: s3.put_object(Body=b"new", **to),
    "upload_file": lambda s3, to: s3.upload_file(__file__, to["Bucket"], to["Key"]),
    "upload_fileobj": lambda s3, to: s3.upload_fileobj(io.BytesIO(b"new"), to["Bucket"], to["Key"]),
    "upload_fileobj, no threads": lambda s3, to: s3.upload_fileobj(
        io.BytesIO(b"new"), to["Bucket"], to["Key"], Config=TransferConfig(use_threads=False)
    ),
    "upload_fileobj in parts": lambda s3, to: s3.upload_fileobj(
        io.BytesIO(WHOLE), to["Bucket"], to["Key"], Config=PARTS
    ),
    "copy_object": lambda s3, to: s3.copy_object(CopySource="writes/source", **to),
    "copy": lambda s3, to: s3.copy({"Bucket": "writes", "Key": "source"}, to["Bucket"], to["Key"]),
    "delete_object": lambda s3, to: s3.delete_object(**to),
    "delete_objects": lambda s3, to: s3.delete_objects(
        Bucket=to["Bucket"], Delete={"Objects": [{"Key": to["Key"]}], "Quiet": True}
    ),
}


@pytest.mark.parametrize("key", ["cat.jpg", "a b/ü+%2F&'<>.jpg"], ids=["plain", "odd"])
def test_boto3s_writes_take_back_the_urls_of_their_objects(presigner: Presigner, s3: Any, key: str) -> None:
    """M6: each way of writing, in s3transfer's threads and in parts too; and each once."""
    s3.put_object(Bucket="writes", Key="source", Body=b"old")
    other = presigner.url("s3://writes/other")
    for number, (name, write) in enumerate(WRITES.items()):
        to = {"Bucket": "writes", "Key": f"{number}/{key}"}
        before = presigner.url(f"s3://writes/{to['Key']}")
        with presigner.scope():
            write(s3, to)
            assert presigner.url(f"s3://writes/{to['Key']}") != before, name
    assert presigner.url("s3://writes/other") == other
    assert counted(presigner) == (len(WRITES), 0)


def test_of_objects_deleted_at_once_those_count_that_are_gone(presigner: Presigner, s3: Any) -> None:
    """M6: one call, one round trip for all; what S3 could not delete keeps its URLs."""
    keys = ["a", "b", "kept"]
    before = presigner.urls([f"s3://writes/{key}" for key in keys])

    def refuse(parsed: dict[str, Any], **_: Any) -> None:
        parsed["Errors"] = [{"Key": "kept", "Code": "AccessDenied"}]

    s3.meta.events.register(
        "before-parse.s3.DeleteObjects",
        lambda customized_response_dict, **_: refuse(customized_response_dict),
    )
    with presigner.scope():
        s3.delete_objects(Bucket="writes", Delete={"Objects": [{"Key": key} for key in keys]})
    after = presigner.urls([f"s3://writes/{key}" for key in keys])
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, False, True]
    assert counted(presigner) == (2, 0)


def test_boto3s_failures_and_stubs_take_nothing_back(
    presigner: Presigner, s3: Any, place: dict[str, Any]
) -> None:
    """M6: S3 has said no, or was never asked."""
    to = {"Bucket": "writes", "Key": "cat.jpg"}
    failing: list[Callable[[], object]] = [
        lambda: made(place, STRANGER).put_object(Body=b"new", **to),
        lambda: s3.copy_object(CopySource="writes/no such thing", **to),
        lambda: s3.complete_multipart_upload(UploadId="none", MultipartUpload={"Parts": []}, **to),
    ]
    with presigner.scope():
        for fail in failing:
            with pytest.raises(ClientError):
                fail()
        with Stubber(s3) as stub:
            stub.add_response("put_object", {})
            s3.put_object(**to)
        upload = s3.create_multipart_upload(**to)["UploadId"]
        s3.upload_part(UploadId=upload, PartNumber=1, Body=b"part", **to)
        s3.abort_multipart_upload(UploadId=upload, **to)
        assert counted(presigner) == (0, 0)


@pytest.mark.parametrize(
    "origin",
    [
        {"bucket": "elsewhere"},
        {"endpoint_url": "http://localhost:9"},
        {"prefix": "cats/"},
        {"invalidate_on_write": False},
    ],
    ids=["another bucket", "another endpoint", "outside the prefix", "not asked for"],
)
def test_boto3s_writes_of_nobodys_objects_take_nothing_back(
    presigner: Presigner, s3: Any, place: dict[str, Any], origin: dict[str, Any]
) -> None:
    """M6: a bucket of the same name at another endpoint is another one; who writes does not matter."""
    other = Presigner(Origin("media", **{"bucket": "writes", "invalidate_on_write": True, **place, **origin}))
    with other.scope():
        s3.put_object(Bucket="writes", Key="cat.jpg", Body=b"new")
    assert counted(other) == (0, 0)


def test_other_credentials_write_too(s3: Any, place: dict[str, Any]) -> None:
    """M6: an origin signs links with keys of its own, and hears of whoever writes."""
    reader = Presigner(
        Origin("media", bucket="writes", invalidate_on_write=True, **{**place, "session": STRANGER})
    )
    with intercept("botocore"), reader.scope():
        s3.put_object(Bucket="writes", Key="cat.jpg", Body=b"new")
    assert counted(reader) == (1, 0)


def test_boto3s_writes_count_in_scopes_or_with_ambient_presigners(presigner: Presigner, s3: Any) -> None:
    """M6, D7: what `paused` says holds in s3transfer's threads too."""

    def upload() -> int:
        s3.upload_fileobj(io.BytesIO(b"new"), "writes", "cat.jpg")
        return presigner.stats()["invalidated"]

    assert upload() == 0
    with presigner.scope(), presigner.paused():
        assert upload() == 0
    with intercept("botocore", presigner=presigner):
        assert upload() == 1
        with presigner.paused():
            assert upload() == 1


def seams() -> list[object]:
    """Return what writes go through."""
    return [vars(BaseClient)["_make_request"], vars(Task)["__init__"], vars(Task)["__call__"]]


def test_writes_are_hooked_while_someone_wants_to_know(
    monkeypatch: pytest.MonkeyPatch, place: dict[str, Any]
) -> None:
    """C4: by whichever comes second, the presigner or the hooks; and all is as it was afterwards."""
    monkeypatch.setattr(writing, "_wanting", WeakSet())
    monkeypatch.setattr(writing, "_waiting", WeakSet())
    bare = seams()
    with intercept("botocore"):
        _ = Presigner(Origin("media", bucket="writes", **place))
        assert seams() == bare
        presigner = Presigner(Origin("media", bucket="writes", invalidate_on_write=True, **place))
        assert set(seams()).isdisjoint(bare)
        assert [one.__wrapped__ for one in seams()] == bare  # type: ignore[attr-defined]
    assert seams() == bare
    with intercept("botocore"):
        assert set(seams()).isdisjoint(bare)
    assert seams() == bare
    del presigner


class Tool(NamedTuple):
    """A tool that wraps what botocore does, and the calls that it tells of since it was asked last."""

    install: Callable[[], object]
    remove: Callable[[], object]
    at_work: Callable[[], AbstractContextManager[object]]
    told: Callable[[], str]


@pytest.fixture(params=["opentelemetry", "sentry"])
def tool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tool:
    if request.param == "opentelemetry":
        memory, provider = InMemorySpanExporter(), TracerProvider()
        instrumentor = BotocoreInstrumentor()  # type: ignore[no-untyped-call]  # it has no types
        provider.add_span_processor(SimpleSpanProcessor(memory))

        def spans() -> str:
            found = "".join(span.to_json() for span in memory.get_finished_spans())
            memory.clear()
            return found

        install = partial(instrumentor.instrument, tracer_provider=provider)
        return Tool(install, instrumentor.uninstrument, contextlib.nullcontext, spans)
    for name in ("__init__", "_make_api_call"):  # which Sentry never puts back
        monkeypatch.setattr(BaseClient, name, vars(BaseClient)[name])
    sentry = Sentry(Boto3Integration)

    def events() -> str:
        found = f"{[item.payload.json for envelope in sentry._envelopes for item in envelope.items]}"
        sentry._envelopes.clear()
        return found

    return Tool(sentry.install, sentry.remove, sentry.at_work, events)


@pytest.mark.parametrize("order", ORDERS)
def test_tools_around_botocore_work_on(
    presigner: Presigner, place: dict[str, Any], tool: Tool, order: str
) -> None:
    """C4: OpenTelemetry and Sentry wrap `_make_api_call`; they tell of each call, and each write counts."""
    here: dict[str, Callable[[], object]] = {}
    for step in order.split():
        if step == "ours":
            here[step] = intercept("botocore", presigner=presigner).remove
        elif step == "theirs":
            tool.install()
            here[step] = tool.remove
        else:
            here.pop(step[1:])()
        before = counted(presigner)[0]
        with tool.at_work():
            made(place).put_object(Bucket="writes", Key="cat.jpg", Body=b"new")
        assert ("PutObject" in tool.told()) == ("theirs" in here), f"after {step}"
        assert counted(presigner)[0] - before == ("ours" in here), f"after {step}"


# --- who knows, when, and what if not -----------------------------------------------------------------------


def test_whoever_asks_after_the_write_has_the_new_url(presigner: Presigner, s3: Any) -> None:
    """M6: threads that ask all the while are never told the old one once the application has its answer."""
    old, written, stop = presigner.url("s3://writes/busy"), threading.Event(), threading.Event()
    late: list[str] = []

    def ask() -> None:
        while not stop.is_set():
            is_after = written.is_set()
            with presigner.scope():
                url = presigner.url("s3://writes/busy")
            if is_after:
                late.append(url)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        with presigner.scope():
            s3.put_object(Bucket="writes", Key="busy", Body=b"new")
        written.set()
        while len(late) < 100:
            assert all(thread.is_alive() for thread in threads)
    finally:
        stop.set()
        for thread in threads:
            thread.join(DEADLINE)
    assert old not in late
    assert len(set(late)) == 1


@pytest.mark.parametrize("by", ["boto3", "httpx"])
def test_the_fleet_knows_within_the_lag(
    by: str, s3: Any, place: dict[str, Any], memcached: Memcached
) -> None:
    """M6: with a real memcached, the other process hands out the same new URL as the one that wrote."""
    clock = Clock()
    one, other = (
        Presigner(
            Origin("media", bucket="writes", invalidate_on_write=True, **place),
            shared=memcached.url,
            policy=Policy(shared_patience=PATIENT),
            clock=clock,
        )
        for _ in range(2)
    )
    before = one.url("s3://writes/cat.jpg")
    assert other.url("s3://writes/cat.jpg") == before
    with intercept("botocore", "httpx"), one.scope(), httpx.Client() as client:
        if by == "boto3":
            s3.put_object(Bucket="writes", Key="cat.jpg", Body=b"new")
        else:
            link = s3.generate_presigned_url("delete_object", Params={"Bucket": "writes", "Key": "cat.jpg"})
            assert client.delete(link).status_code == 204
    clock.advance(one.policy.invalidation_lag)
    assert before != other.url("s3://writes/cat.jpg") == one.url("s3://writes/cat.jpg")
    one.close()
    other.close()


def failing(*args: Any) -> None:
    raise RuntimeError("no")


@some
def test_what_fails_after_a_write_is_counted_and_told(
    fetcher: Fetcher, front: Front, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """M6, L1: the application has S3's answer all the same; the record has no key and no URL."""
    monkeypatch.setattr(fetcher.presigner._epochs, "invalidate", failing)
    answer = fetcher.fetch(Theirs(front).url("delete_object", "secret.jpg"), method="DELETE")
    assert answer.status == 204
    assert counted(fetcher.presigner) == (0, 1)
    (record,) = [one for one in caplog.records if one.name == "presign_middleware.writing"]
    fields = vars(record)
    assert (record.levelno, fields["presign_event"]) == (logging.ERROR, "invalidate_failed")
    assert (fields["presign_origin"], fields["presign_error"]) == ("media", "RuntimeError")
    assert "secret" not in f"{fields}"


def test_a_write_is_taken_back_though_its_task_is_cancelled(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D2: a client may leave when S3 has the object already, and memcached is still being told."""
    presigner = front.presigner(invalidate_on_write=True)
    take_back, url = Runner.atake_back, Theirs(front).url("delete_object", "gone.jpg")

    async def run() -> None:
        begun, gate = asyncio.Event(), asyncio.Event()

        async def hanging(runner: Runner, raise_epoch: Callable[[], None]) -> None:
            begun.set()
            await gate.wait()
            await take_back(runner, raise_epoch)

        monkeypatch.setattr(Runner, "atake_back", hanging)
        async with httpx.AsyncClient(transport=PresignTransport(presigner)) as client:
            fetch = asyncio.create_task(client.delete(url))
            await asyncio.wait_for(begun.wait(), DEADLINE)
            fetch.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetch
            gate.set()
            await asyncio.wait_for(asyncio.gather(*presigner.writing._tasks), DEADLINE)

    asyncio.run(run())
    assert counted(presigner) == (1, 0)


def test_a_blocking_client_on_an_event_loop_waits_for_no_memcached(
    s3: Any, place: dict[str, Any], memcached: Memcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D5: its own process knows at once, and the fleet is told in the background."""
    monkeypatch.setattr(BlockingEffects, "catch_up", failing)
    presigner = Presigner(
        Origin("media", bucket="writes", invalidate_on_write=True, **place), shared=memcached.url
    )

    async def write() -> None:
        with presigner.scope():
            s3.put_object(Bucket="writes", Key="cat.jpg", Body=b"new")

    with intercept("botocore"):
        asyncio.run(write())
    presigner.close()
    assert counted(presigner) == (1, 0)
