"""
A presigned URL is a bearer credential: nothing the library says may hold one.

Every path is walked with the whole process logging at DEBUG, botocore included.
"""

import asyncio
import gc
import io
import logging
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote

import boto3
import botocore.session
import pytest
from botocore.credentials import DeferredRefreshableCredentials

from presign_middleware import (
    NotCovered,
    Origin,
    Presigner,
    PresignError,
    RedactSignatures,
    SigningError,
    presigned,
    signing,
)
from presign_middleware.redaction import redact
from presign_middleware.testing import Clock

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN = "FwoGZXIvYXdzEBYaDH//a-session+token=="

SESSION = boto3.Session(
    aws_access_key_id="ASIATEST",
    aws_secret_access_key=SECRET,
    aws_session_token=TOKEN,
    region_name="eu-west-1",
)

URL = (
    "https://media.s3.eu-west-1.amazonaws.com/a?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIATEST"
    "%2F20260101%2Feu-west-1%2Fs3%2Faws4_request&X-Amz-Date=20260101T120000Z&X-Amz-Expires=3600&X-Amz-"
    f"SignedHeaders=host&X-Amz-Security-Token={quote(TOKEN, safe='')}&X-Amz-Signature={'5e' * 32}"
)
SIGV2 = "https://media.s3.amazonaws.com/a?AWSAccessKeyId=AKIATEST&Signature=c2ln5e5ebmF0dXJl%3D&Expires=1767268800"


@dataclass
class Said:
    """What a test has collected: texts that anyone may read, and URLs that were handed out."""

    texts: list[str]
    urls: list[str]


def leaks(texts: Sequence[str], urls: Sequence[str]) -> list[str]:
    """Return every line of *texts* that holds a signature, a session token or a secret."""
    signatures = [found for url in urls for found in re.findall(r"Signature=(\w+)", url)]
    hidden = ["X-Amz-Signature", SECRET, quote(SECRET, safe=""), TOKEN, quote(TOKEN, safe=""), *signatures]
    return [line for text in texts for line in text.splitlines() if any(part in line for part in hidden)]


class Everything(logging.Handler):
    """Writes every record down as text, and its arguments as structured logging does."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__()
        self._texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        self._texts += [record.name, logging.Formatter().format(record), repr(record.args)]


@pytest.fixture
def said() -> Iterator[Said]:
    """Collect what is said while every logger is at DEBUG, and find no leak in it at the end."""
    found = Said([], [])
    root, handler = logging.getLogger(), Everything(found.texts)
    usual = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield found
    root.setLevel(usual)
    root.removeHandler(handler)
    assert found.urls
    assert leaks(found.texts, found.urls) == []


@pytest.fixture
def presigner() -> Presigner:
    return Presigner(Origin("media", bucket="media", session=SESSION), clock=Clock())


def refused(said: Said, attempt: Callable[[], Any], kind: type[PresignError]) -> None:
    """Collect the error of *attempt* in every form in which it may be written down, causes included."""
    with pytest.raises(PresignError) as found:
        attempt()
    assert found.type is kind
    said.texts += [str(found.value), repr(found.value), "".join(traceback.format_exception(found.value))]
    logging.getLogger("application").error("failed", exc_info=found.value)


def held_by(root: object) -> list[object]:
    """Return every object of the library that *root* holds, directly or through others."""
    found: dict[int, object] = {}
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        ours = type(thing).__module__.startswith("presign_middleware")
        if id(thing) not in found and (ours or isinstance(thing, (dict, list, tuple, set, frozenset))):
            found[id(thing)] = thing
            waiting += gc.get_referents(thing)
    return [thing for thing in found.values() if type(thing).__module__.startswith("presign_middleware")]


# The library.


def test_nothing_leaks_of_signing(said: Said, presigner: Presigner) -> None:
    """L1: no record that is logged while URLs are signed and served holds a signature, token or secret."""
    with presigner.scope():
        said.urls += presigner.urls(["s3://media/a", "s3://media/b", "s3://media/a"])
        said.urls.append(presigner.url("https://media.s3.eu-west-1.amazonaws.com/a"))
        said.urls.append(presigner.url("s3://media/a", method="HEAD"))
        said.urls.append(presigner.url("s3://media/a", params={"ResponseContentType": "a/b"}, lifetime=600))
        said.urls.append(presigned(lambda url: str(url))("s3://media/c"))


def test_nothing_leaks_of_a_loop(said: Said, presigner: Presigner) -> None:
    """L1: an event loop that writes down every step with its task and its futures meets no signature."""

    async def ask() -> None:
        said.urls.append(await presigner.aurl("s3://media/a"))

    async def ask_at_once() -> None:
        asyncio.get_running_loop().slow_callback_duration = -1  # every step counts as slow
        await asyncio.gather(ask(), ask(), ask())

    asyncio.run(ask_at_once(), debug=True)
    assert "Executing <Task" in "".join(said.texts)


def test_nothing_leaks_of_boto3(said: Said, presigner: Presigner, monkeypatch: pytest.MonkeyPatch) -> None:
    """L1: where boto3 signs, none of what botocore logs at DEBUG of a signature comes through."""
    catch = presigner.catching.decide("s3://media/a", "GET", {"x-amz-checksum-mode": "ENABLED"}, None).catch
    assert catch is not None
    attempts = [catch.sign("a client"), asyncio.run(catch.asign("a client"))]
    said.urls += [attempt.url for attempt in attempts if attempt is not None]
    monkeypatch.setattr(signing, "Plan", Mock(side_effect=ValueError))
    # boto3 dates its URLs by the real clock.
    real = Presigner(Origin("media", bucket="media", session=SESSION))
    said.urls.append(real.url("s3://media/a"))
    said.urls += asyncio.run(real.aurls(["s3://media/b", "s3://media/c"]))
    assert real.stats()["signed_by_boto3"] == 3
    assert "botocore.hooks" in said.texts  # what it logs otherwise is there


def test_botocore_logs_for_others(presigner: Presigner, caplog: pytest.LogCaptureFixture) -> None:
    """L1: what botocore logs of signatures that the application makes by itself stays as it was."""
    presigner.url("s3://media/a")
    caplog.set_level(logging.DEBUG)
    SESSION.client("s3").generate_presigned_url("get_object", Params={"Bucket": "media", "Key": "a"})
    assert "botocore.auth" in {record.name for record in caplog.records}


def test_nothing_leaks_of_refusals(said: Said, presigner: Presigner) -> None:
    """L1: the error about a target that carries a signature, or userinfo, holds neither."""
    said.urls += [presigner.url("s3://media/a"), URL, SIGV2]
    for url in list(said.urls):
        elsewhere = url.replace("//media.", "//other.")
        with_userinfo = url.replace("https://", "https://me:5e5e@")
        for target in (url, elsewhere, with_userinfo, f"{url}#{url}", f"x{url}"):
            refused(said, partial(presigner.url, target), NotCovered)
    said.urls.append("Signature=5e5e")


def test_nothing_leaks_of_failures(said: Said) -> None:
    """L1: errors, their causes and warnings about a source that fails hold no token and no secret."""
    clock = Clock()
    session: Any = botocore.session.Session()
    answers: list[dict[str, str] | Exception] = [
        {
            "access_key": "ASIATEST",
            "secret_key": SECRET,
            "token": TOKEN,
            "expiry_time": "2026-01-01T14:00:00Z",
        },
    ]

    def fetch() -> dict[str, str]:
        if answers:
            answer = answers.pop()
            if isinstance(answer, dict):
                return answer
        raise RuntimeError("the source is down")

    session._credentials = DeferredRefreshableCredentials(
        fetch, "test", time_fetcher=lambda: datetime.fromtimestamp(clock.time(), UTC)
    )
    origin = Origin(
        "media", bucket="media", region="eu-west-1", session=boto3.Session(botocore_session=session)
    )
    presigner = Presigner(origin, clock=clock)
    said.urls.append(presigner.url("s3://media/a"))
    clock.advance(7000)
    refused(said, lambda: presigner.url("s3://media/b"), SigningError)
    refused(said, lambda: asyncio.run(presigner.aurl("s3://media/c")), SigningError)
    clock.advance(7000)
    refused(said, lambda: presigner.urls(["s3://media/d"]), SigningError)
    assert "RuntimeError: the source is down" in "".join(said.texts)


def test_nothing_leaks_of_reprs(said: Said, presigner: Presigner) -> None:
    """L1: no object that a presigner holds shows a signature, token or secret when it is written down."""
    with presigner.scope() as scope:
        said.urls.append(presigner.url("s3://media/a"))
        said.urls += asyncio.run(presigner.aurls(["s3://media/b"]))
        resolved = presigner.resolve("s3://media/c")
        said.urls.append(resolved.url)
        things = [*held_by([presigner, scope]), resolved]
    kinds = {type(thing).__name__ for thing in things}
    assert {"Presigner", "Origin", "Policy", "Entry", "Snapshot", "S3Object", "Scope", "SignedURL"} <= kinds
    said.texts += [repr(thing) for thing in things]
    said.texts += [f"{thing}" for thing in things if thing is not resolved]
    assert str(resolved) == resolved.url


def test_a_client_in_an_origin(said: Said) -> None:
    """L1: an origin that was given a client or a session shows neither's keys."""
    client = SESSION.client("s3")
    for origin in (
        Origin("media", bucket="media", client=client),
        Origin("media", bucket="media", session=SESSION),
    ):
        presigner = Presigner(origin, clock=Clock())
        said.urls.append(presigner.url("s3://media/a"))
        said.texts += [repr(origin), repr(presigner), *map(repr, presigner.origins.values())]


# The filter for everything else.


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """Give a logger and what is written of it through `RedactSignatures`."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(RedactSignatures())
    logger = logging.getLogger("application")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield logger, written
    logger.removeHandler(handler)


Log = tuple[logging.Logger, io.StringIO]


def failed(text: str) -> BaseException:
    """Return an exception that was raised with *text*, for another one that has it too."""
    try:
        try:
            raise ValueError(f"no answer from {text}")
        except ValueError as error:
            raise RuntimeError(text) from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize("url", [URL, SIGV2])
@pytest.mark.parametrize(
    "write",
    [
        lambda logger, url: logger.info(url),
        lambda logger, url: logger.info("%s", url),
        lambda logger, url: logger.info("%(url)s", {"url": url}),
        lambda logger, url: logger.info("%s and %r", Exception(url), [url]),
        lambda logger, url: logger.info('<a href="%s">', url),
        lambda logger, url: logger.info(Exception(url)),
        lambda logger, url: logger.error("failed", exc_info=failed(url)),
        lambda logger, url: logger.error("%s", url, exc_info=failed(url)),
    ],
)
def test_signatures_are_taken_out(log: Log, write: Callable[[logging.Logger, str], None], url: str) -> None:
    """L1: a record with a presigned URL anywhere in it comes out without signature and token."""
    logger, written = log
    write(logger, url)
    assert "amazonaws.com" in written.getvalue()
    for hidden in ("5e5e", TOKEN, quote(TOKEN, safe="")):
        assert hidden not in written.getvalue()


@pytest.mark.parametrize("url", [URL, SIGV2])
def test_a_url_within_a_url(log: Log, url: str) -> None:
    """L1: a presigned URL that is percent-encoded in another comes out without signature and token."""
    logger, written = log
    logger.info("https://app.example.org/redirect?next=%s", quote(url, safe=""))
    assert "amazonaws.com" in written.getvalue()
    for hidden in ("5e5e", quote(quote(TOKEN, safe=""), safe="")):
        assert hidden not in written.getvalue()


@pytest.mark.parametrize("target", [URL, SIGV2, quote(URL, safe=""), quote(quote(URL, safe=""), safe="")])
def test_a_target_in_a_message(target: str) -> None:
    """L1: of a target that is a presigned URL, or has one quoted in it, messages show no signature."""
    assert "5e5e" not in redact(f"https://media.s3.eu-west-1.amazonaws.com/{target}")


def test_the_rest_of_a_url_stays() -> None:
    """L1: of a presigned URL the place, the date and the lifetime can still be read."""
    record = logging.LogRecord("application", logging.INFO, __file__, 1, "took %s ms: %s", (3, URL), None)
    assert RedactSignatures().filter(record)
    bare, _, _ = URL.partition("?")
    assert f"took 3 ms: {bare}?" in record.getMessage()
    assert "X-Amz-Date=20260101T120000Z&X-Amz-Expires=3600" in record.getMessage()


def test_an_exception_that_is_formatted_anew() -> None:
    """L1: a handler that formats exceptions in its own way finds no signature in the record's either."""
    error = failed(URL)
    exc_info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("application", logging.ERROR, __file__, 1, "failed", (), exc_info)
    RedactSignatures().filter(record)
    text = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
    assert "5e5e" not in text
    assert "no answer from https://media.s3" in (record.exc_text or "") + text


@pytest.mark.parametrize(
    ("message", "args", "error"),
    [
        ("nothing", (), None),
        ("%s took %d ms", ("s3://media/a", 3), None),
        ("%(key)s", ({"key": "https://media.s3.amazonaws.com/a?versionId=1"},), None),
        ("100 %", (), None),
        ({"an": "object"}, (), None),
        ("Signature of the contract = %s", ("missing",), None),
        ("failed", (), ValueError("no such key")),
    ],
)
def test_other_records_are_unchanged(message: Any, args: tuple[Any, ...], error: Exception | None) -> None:
    """A record without a signature comes out as it went in."""
    exc_info = (type(error), error, None) if error else None
    record = logging.LogRecord("application", logging.INFO, __file__, 1, message, args, exc_info)
    before = dict(vars(record))
    assert RedactSignatures().filter(record)
    assert before == vars(record)


class Unspeakable:
    """An argument that cannot be written down."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("message", "args"),
    [
        ("%d of 3", ("three",)),
        ("%d of 3", (1, 2)),
        ("%d of 3", ()),
        ("%(this)s", ({"that": 1},)),
        ("%s", (Unspeakable(),)),
        (Unspeakable(), ()),
    ],
)
def test_a_record_that_cannot_be_formatted(message: Any, args: tuple[Any, ...]) -> None:
    """A record that logging cannot format is kept as it is, and raises nothing in the application."""
    record = logging.LogRecord("application", logging.INFO, __file__, 1, message, args, None)
    before = dict(vars(record))
    assert RedactSignatures().filter(record)
    assert before == vars(record)


@pytest.mark.parametrize(("message", "args"), [("%d of 3", (URL,)), (URL + "%d", ("three",))])
def test_a_signature_that_cannot_be_formatted(message: str, args: tuple[Any, ...]) -> None:
    """L1: a record that logging cannot format, and so reports with its arguments, is rid of signatures."""
    record = logging.LogRecord("application", logging.INFO, __file__, 1, message, args, None)
    assert RedactSignatures().filter(record)
    assert "5e5e" not in f"{record.msg} {record.args!r}"
