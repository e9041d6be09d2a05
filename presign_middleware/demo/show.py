"""
The demo from its first line to its last.

This process serves the gallery twice, "before" and "after". The latter is the first of
two workers; the second is another process, once without memcached and once with it.
"""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.console import Console

from .report import Bar, bars, sharing_bars, step, table, write_json
from .serving import example, listen, served, with_presigner

if TYPE_CHECKING:
    from presign_middleware import Presigner
    from presign_middleware.testing import SeaweedFS

    from .drive import Check, Figures, Side, Workers

__all__ = ["show"]

_BUCKET = "landscapes"
_STEPS_OF_START = 4  # SeaweedFS names so many

# A role, as hosts have one: each process that assumes it gets a session of its own.
_PROFILES = """\
[profile root]
aws_access_key_id = {s3.access_key}
aws_secret_access_key = {s3.secret_key}

[profile gallery]
source_profile = root
role_arn = {s3.role_arn}
duration_seconds = 3600
region = {s3.region}
endpoint_url = {s3.endpoint_url}
s3 =
    addressing_style = path
    signature_version = s3v4
"""


def show(*, pictures: int, pages: int, port: int | None, once: bool, json: Path | None) -> int:
    """Run the demo and return its exit code."""
    console = Console()
    # Both end it cleanly: a script's background job would otherwise ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    _forget_environment()
    try:
        with listen(port) as listening, _server(console) as s3, _memcached(console) as shared:
            stored = _store(console, s3, pictures)
            with _role(s3), _applications(list(stored), shared, listening) as applications:
                measured = _measure(console, applications, pages, stored)
                _tell(console, measured, pictures, pages)
                if json is not None:
                    write_json(
                        json,
                        [*measured.bars, *measured.sharing_bars],
                        measured.before,
                        measured.after,
                        measured.unsigned,
                        measured.workers,
                        pictures=pictures,
                        pages=pages,
                    )
                if not once:
                    _keep_serving(console, applications.after)
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    except (OSError, RuntimeError) as error:
        print(f"The demo could not run: {error}", file=sys.stderr)
        return 2
    is_private = measured.unsigned.refused == measured.unsigned.asked
    rows = [*measured.bars, *measured.sharing_bars]
    return 0 if is_private and all(row.is_met for row in rows if row.counts) else 1


@dataclass(frozen=True, slots=True)
class _Applications:
    """The gallery twice: where it is served, and what counts its signatures."""

    before: str
    after: str
    boto3_calls: list[str]  #: the key of each call of ``generate_presigned_url`` that "before" made
    presigner: "Presigner"
    shared: str | None  #: the memcached it shares URLs through, if there is one


@dataclass(frozen=True, slots=True)
class _Measured:
    before: "Figures"
    after: "Figures"
    unsigned: "Check"
    workers: "Workers | None"  #: without memcached there is nothing to compare
    seconds: float  #: that loading the pages took

    @property
    def bars(self) -> list[Bar]:
        return bars(self.before, self.after)

    @property
    def sharing_bars(self) -> list[Bar]:
        return sharing_bars(self.workers) if self.workers is not None else []


def _forget_environment() -> None:
    # Everything is on loopback with keys of its own: no profile, endpoint or proxy is for it.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"


@contextmanager
def _server(console: Console) -> Iterator["SeaweedFS"]:
    with ExitStack() as stack:
        with step(console, "Starting an S3 server (SeaweedFS)", _STEPS_OF_START) as advance:
            # Here and below imported where it is used, so that the first line does not wait for it.
            from presign_middleware.testing import SeaweedFS

            server = stack.enter_context(SeaweedFS(progress=lambda _: advance()))
        yield server


@contextmanager
def _memcached(console: Console) -> Iterator[str | None]:
    from presign_middleware.testing import Memcached

    if not Memcached.is_available():
        console.print("memcached is absent, so nothing is shared (apt-get or brew install memcached).")
        yield None
        return
    with Memcached() as server:
        yield server.url


@contextmanager
def _role(s3: "SeaweedFS") -> Iterator[None]:
    """Have boto3's default credentials be those of a role, in this process and in those it starts."""
    with TemporaryDirectory(prefix="presign-demo-") as directory:
        profiles = Path(directory, "config")
        profiles.write_text(_PROFILES.format(s3=s3))
        os.environ.update(AWS_CONFIG_FILE=str(profiles), AWS_PROFILE="gallery")
        yield


def _store(console: Console, s3: "SeaweedFS", pictures: int) -> dict[str, bytes]:
    """Put *pictures* into a new bucket, which is private as every new bucket is; return them by key."""
    from .pictures import keys, landscape

    stored = {key: landscape(number) for number, key in enumerate(keys(pictures), 1)}
    client = s3.client()
    client.create_bucket(Bucket=_BUCKET)

    def put(number_and_item: tuple[int, tuple[str, bytes]]) -> None:
        number, (key, body) = number_and_item
        client.put_object(
            Bucket=_BUCKET,
            Key=key,
            Body=body,
            ContentType="image/svg+xml",
            CacheControl="private, max-age=3600",  # a URL that stays the same is then fetched once
            Metadata={"caption": f"Landscape {number}"},
        )

    with step(console, "Storing pictures", pictures) as advance, ThreadPoolExecutor(8) as pool:
        for _ in pool.map(put, enumerate(stored.items(), 1)):
            advance()
    return stored


@contextmanager
def _applications(keys: Sequence[str], shared: str | None, listening: socket) -> Iterator[_Applications]:
    import boto3

    client = boto3.client("s3")
    calls = _count_calls(client)
    without_presigner = example().gallery(None, _BUCKET, keys, client)
    with_it, presigner = with_presigner(_BUCKET, keys, shared)
    try:
        with served(without_presigner, listen(0)) as before, served(with_it, listening) as after:
            yield _Applications(before, after, calls, presigner, shared)
    finally:
        presigner.close()


def _count_calls(client: Any) -> list[str]:
    """Have *client* note each call of its ``generate_presigned_url`` in the list returned."""
    calls: list[str] = []
    original = client.generate_presigned_url

    def generate_presigned_url(operation: str, **kwargs: Any) -> Any:
        calls.append(kwargs["Params"]["Key"])
        return original(operation, **kwargs)

    client.generate_presigned_url = generate_presigned_url
    return calls


def _measure(
    console: Console, applications: _Applications, pages: int, stored: dict[str, bytes]
) -> _Measured:
    import httpx

    from .drive import WARM_UP, Figures, Side, check, check_private, drive, learned_of_boto3, steps_of_check

    presigner = applications.presigner
    rotation = presigner.policy.rotation(presigner.policy.lifetime).period
    with httpx.Client(timeout=30) as http, presigner.paused():  # its fetches are a browser's
        before, after = Side(applications.before, http), Side(applications.after, http)
        with step(console, "Loading pages, before and after in turn", 2 * (WARM_UP + pages)) as advance:
            start = monotonic()
            drive([before, after], pages, advance)
            seconds = monotonic() - start
        calls, stats = len(applications.boto3_calls), presigner.stats()
        workers = None
        if applications.shared is not None:
            workers = _measure_workers(console, after, list(stored.values()), applications.shared, rotation)
        steps = steps_of_check(before) + steps_of_check(after) + len(after.pages[-1])
        with step(console, "Following the links", steps) as advance:
            followed = [check(side, list(stored.values()), advance) for side in (before, after)]
            unsigned = check_private(after, advance)
    return _Measured(
        Figures.of(
            before,
            followed[0],
            rotation=rotation,
            resolutions=calls,
            signatures=calls,
            signed_by_boto3=calls,
            boto3_signing_calls=calls,
        ),
        Figures.of(
            after,
            followed[1],
            rotation=rotation,
            resolutions=stats["resolved"],
            signatures=stats["from_signer"],
            signed_by_boto3=stats["signed_by_boto3"],
            boto3_signing_calls=stats["signed_by_boto3"] + learned_of_boto3(stats),
        ),
        unsigned,
        workers,
        seconds,
    )


def _measure_workers(
    console: Console, first: "Side", stored: Sequence[bytes], shared: str, rotation: int
) -> "Workers":
    from .drive import SecondWorker, Side, Workers, check
    from .worker import Worker

    with (
        step(console, "Loading a page of a second worker", 2 * len(stored)) as advance,
        Worker(_BUCKET, len(stored), None) as alone,
        Worker(_BUCKET, len(stored), shared) as sharing,
    ):
        measured = []
        for worker in (alone, sharing):  # which have started side by side
            second = Side(worker.address(), first.http)
            second.load()
            counts = worker.counts()
            followed = check(second, stored, advance)
            measured.append(SecondWorker.of(first, second, followed, counts, rotation=rotation))
        return Workers(*measured)


def _tell(console: Console, measured: _Measured, pictures: int, pages: int) -> None:
    from .drive import WARM_UP

    unsigned = measured.unsigned
    console.print()
    console.print(table(measured.bars))
    if measured.workers is not None:
        console.print()
        console.print(table(measured.sharing_bars, "Two workers", "Alone", "Sharing"))
    console.print(
        f"\n{pages} pages a side with {pictures} links each, before and after in turn, in "
        f"{measured.seconds:.0f} s. Page times are those of whole HTTP requests over loopback and leave out "
        f"{WARM_UP} warm-up pages a side; everything else counts them. boto3's URL of an object is another "
        "one each second. All links of the last page and some of each other were followed. "
        f"Without a signature S3 refused {unsigned.refused:,} of {unsigned.asked:,}: "
        + ("the bucket is private." if unsigned.refused == unsigned.asked else "THE BUCKET IS NOT PRIVATE."),
        highlight=False,
    )
    if measured.workers is not None:
        console.print(
            "\nThe two workers are processes, each with a session (AssumeRole) of its own. The first one is "
            "After. Of the second one a page was then loaded, without memcached (Alone) and with it "
            f"(Sharing). It asked boto3 {measured.workers.sharing.boto3_signing_calls} times, to learn what "
            "URLs look like.",
            highlight=False,
        )


def _keep_serving(console: Console, address: str) -> None:
    console.print(f"\nThe gallery, with PresignMiddleware, is at {address}\nCtrl-C ends it.", highlight=False)
    with suppress(KeyboardInterrupt):
        Event().wait()
    console.print("Stopped.")
