"""
One process of the fleet: a small application behind a middleware, and its steady traffic.

Told what to be by one line of JSON on standard input; each further line has it take back
an object, and it ends when there are no more. What its pages were given is told on standard
output, a line each. Even numbers are threads and WSGI, odd ones an event loop and ASGI.
"""

import asyncio
import json
import logging
import random
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final

from botocore.credentials import RefreshableCredentials
from fleet import SECRET, boto_session

from presign_middleware import Origin, Policy, Presigner, asgi, discovery, wsgi
from presign_middleware.objects import S3Object

#: Pages that a process with threads serves at once.
_THREADS: Final = 2

_said = threading.Lock()


def say(what: object) -> None:
    """Tell *what*, in a line of its own."""
    with _said:
        sys.stdout.write(f"{json.dumps(what)}\n")
        sys.stdout.flush()


class Complaints(logging.Handler):
    """Tells of what anybody logs as an error; that servers fail is a warning, and is what this is about."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell of *record*, if it is an error."""
        if record.levelno >= logging.ERROR:
            say({"error": self.format(record)})


class Traffic:
    """Pages, each of them some links to objects."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told
        self._chance = random.Random(told["number"])
        keys = told["keys"]
        session = boto_session(
            RefreshableCredentials(
                keys["access_key"],
                SECRET,
                keys["token"],
                datetime.fromisoformat(keys["end"]),
                refresh_using=lambda: None,
                method="assume-role",
            )
        )
        origins = [
            Origin(name, bucket=name, region=told["region"], session=session, policy=Policy(**policy))
            for name, policy in told["origins"].items()
        ]
        self.presigner = Presigner(
            *origins, shared=told["shared"], policy=Policy(**told["policy"]), local_size=told["local_size"]
        )
        self.over = threading.Event()
        self._latest = 0.0  # seconds that a thread overslept at most which does nothing but sleep

    def choose(self) -> tuple[list[str], list[int]]:
        """Return what is on the next page, some of the few and some of the many, and its epochs."""
        told, sample = self._told, self._chance.sample
        few, many = told["links"]
        targets = sample(told["few"], few) + sample(told["many"], many)
        located = [target.removeprefix("s3://").split("/", 1) for target in targets]
        # No URL tells whether its process has heard of an invalidation, or has it from one that has.
        objects = [S3Object.of(bucket, bucket, "", key, "GET", (), 3600) for bucket, key in located]
        return targets, [self.presigner._epochs.of(obj) for obj in objects]

    def instants(self) -> Iterator[float]:
        """Yield when pages begin, at a steady rate."""
        at = time.monotonic() + self._chance.random() * self._told["every"]
        while not self.over.is_set():
            yield at
            at = max(at + self._told["every"], time.monotonic() - 1)  # what a busy machine missed is missed

    def note_late(self, at: float) -> None:
        """Take note of how late a thread woke up that wanted to do so *at* that instant."""
        self._latest = max(self._latest, time.monotonic() - at)

    def tell(
        self, targets: Sequence[str], epochs: Sequence[int], urls: Sequence[str], began: float, seconds: float
    ) -> None:
        """Tell of a page."""
        stats = self.presigner.stats()
        counted = [stats[name] for name in ("from_signer", "from_shared", "shared_errors", "shared_skipped")]
        late, self._latest = self._latest, 0.0
        say({"page": [list(zip(targets, urls, epochs, strict=True)), began, seconds, late, counted]})


def serve_from_threads(traffic: Traffic) -> None:
    """Serve pages from threads, as a WSGI server does."""
    presigner = traffic.presigner

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        targets: list[str] = environ["targets"]
        half = len(targets) // 2
        environ["urls"] = presigner.urls(targets[:half]) + [presigner.url(t) for t in targets[half:]]
        return [b""]

    app = wsgi.PresignMiddleware(application, presigner)

    def page(targets: list[str], epochs: list[int]) -> None:
        environ: dict[str, Any] = {"targets": targets, "REQUEST_METHOD": "GET"}
        began, start = time.time(), time.perf_counter()
        try:
            body = app(environ, lambda *args: lambda data: None)
            seconds = time.perf_counter() - start
            body.close()  # type: ignore[attr-defined]  # ours has one
        except Exception:
            say({"error": traceback.format_exc(limit=-3)})
        else:
            traffic.tell(targets, epochs, environ["urls"], began, seconds)

    with ThreadPoolExecutor(_THREADS) as pool:
        free = threading.Semaphore(_THREADS)
        for at in traffic.instants():
            time.sleep(max(0.0, at - time.monotonic()))
            traffic.note_late(at)
            free.acquire()  # or one that hangs would pile up pages behind it, whose time would be its own
            pool.submit(page, *traffic.choose()).add_done_callback(lambda done: free.release())


async def serve_from_a_loop(traffic: Traffic) -> None:
    """Serve pages from an event loop, as an ASGI server does."""
    presigner = traffic.presigner

    async def application(scope: Any, receive: Any, send: Any) -> None:
        targets: list[str] = scope["targets"]
        half = len(targets) // 2
        scope["urls"] = await presigner.aurls(targets[:half])
        scope["urls"] += await asyncio.gather(*[presigner.aurl(target) for target in targets[half:]])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app = asgi.PresignMiddleware(application, presigner)

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        pass

    async def page(targets: list[str], epochs: list[int]) -> None:
        scope: dict[str, Any] = {"type": "http", "targets": targets, "method": "GET", "headers": []}
        began, start = time.time(), time.perf_counter()
        try:
            await app(scope, receive, send)
        except Exception:
            say({"error": traceback.format_exc(limit=-3)})
        else:
            traffic.tell(targets, epochs, scope["urls"], began, time.perf_counter() - start)

    async with asyncio.TaskGroup() as pages:
        for at in traffic.instants():
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            pages.create_task(page(*traffic.choose()))
    await presigner.aclose()


def obey(traffic: Traffic) -> None:
    """Take back what standard input names, until it is closed."""
    presigner = traffic.presigner
    for line in sys.stdin:
        target, at = line.strip(), time.time()
        try:
            presigner.invalidate(target)
        except Exception:
            say({"error": traceback.format_exc(limit=-3)})
        else:
            say({"taken_back": [target, at, time.time()]})
    traffic.over.set()


def main() -> None:
    """Serve until standard input is closed."""
    told = json.loads(sys.stdin.readline())
    logging.getLogger().addHandler(Complaints())
    threading.excepthook = lambda args: say({"error": f"in a thread: {args.exc_value!r}"})
    discovery._AGAIN_AFTER = told["look_every"]
    traffic = Traffic(told)
    threading.Thread(target=obey, args=(traffic,), daemon=True).start()
    if told["number"] % 2:
        asyncio.run(serve_from_a_loop(traffic))
    else:
        serve_from_threads(traffic)
        traffic.presigner.close()
    say({"ended": True})


if __name__ == "__main__":
    main()
