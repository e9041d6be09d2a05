"""
One process of the fleet: a small application behind `PresignMiddleware`, and its steady traffic.

Told what to be by one line of JSON on standard input, and ends when that is closed. What they
are given is told on standard output, a line each.
"""

import asyncio
import json
import logging
import random
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import boto3
import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from presign_middleware import Origin, Policy, Presigner, SigningError
from presign_middleware.asgi import PresignMiddleware

CODE = re.compile("<Code>([A-Za-z]+)</Code>")

#: What an ASGI server and an application say to each other.
Message = MutableMapping[str, Any]


class Events(logging.Handler):
    """Counts what the library has told operators: by its event, or by its text where it has none."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.seen: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Count *record*."""
        self.seen[getattr(record, "presign_event", record.msg)] += 1


def new_presigner(told: dict[str, Any]) -> Presigner:
    """Return the presigner of this process; its session is its own."""
    keys = boto3.Session(
        aws_access_key_id=told["access_key"],
        aws_secret_access_key=told["secret_key"],
        region_name=told["region"],
    )
    origin = Origin(
        "soak",
        bucket=told["bucket"],
        region=told["region"],
        endpoint_url=told["endpoint_url"],
        session=keys,
        role_arn=told["role_arn"],
        sts_endpoint_url=told["sts_endpoint_url"],
    )
    return Presigner(origin, shared=told["shared"], policy=Policy(**told["policy"]))


def new_app(told: dict[str, Any], presigner: Presigner) -> PresignMiddleware:
    """Return an application with one page: links to objects, and one object that it fetches itself."""
    bucket, s3 = told["bucket"], httpx.AsyncClient(trust_env=False, timeout=30)

    async def link(key: str, failures: list[str]) -> str:
        try:
            signed = await presigner.aresolve(f"s3://{bucket}/{key}")
        except Exception as error:  # whatever it is, the run is to tell it
            failures.append(_told_of(error))
            return ""
        # At once: the page may have to wait for another one for longer than this one lives.
        _say({"link": [key, signed.url, time.time(), signed.expires_at, signed.expires_reason]})
        return signed.url

    async def page(request: Request) -> JSONResponse:
        keys, failures = request.query_params.getlist("key"), list[str]()
        urls = await asyncio.gather(*[link(key, failures) for key in keys])
        fetched = None
        try:
            answer = await s3.get(f"{told['endpoint_url']}/{bucket}/{keys[0]}")  # caught, and signed
            fetched = " ".join([str(answer.status_code), *CODE.findall(answer.text)])
        except Exception as error:
            failures.append(_told_of(error))
        return JSONResponse({"urls": urls, "fetched": fetched, "failures": failures})

    return PresignMiddleware(Starlette(routes=[Route("/", page)]), presigner)


def _told_of(error: Exception) -> str:
    return f"{'' if isinstance(error, SigningError) else 'NOT '}SigningError: {type(error).__name__}: {error}"


@asynccontextmanager
async def living(app: Callable[..., Any]) -> AsyncIterator[None]:
    """Start *app* up and shut it down, as a server does."""
    heard, said = asyncio.Queue[Message](), asyncio.Queue[Message]()
    serving = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, heard.get, said.put))
    for event in ("startup", "shutdown"):
        await heard.put({"type": f"lifespan.{event}"})
        answer = await said.get()
        if answer["type"] != f"lifespan.{event}.complete":
            raise RuntimeError(f"the application answered {answer['type']}")
        if event == "startup":
            yield
    await serving


async def visit(browser: httpx.AsyncClient, keys: list[str]) -> None:
    """Ask for one page, and say what it was given."""
    began = time.time()
    page = (await browser.get("/", params={"key": keys})).json()
    told = {"fetched": page["fetched"], "failures": page["failures"]}
    _say({"page": {**told, "began": began, "ended": time.time()}})


async def serve(told: dict[str, Any]) -> None:
    """Serve pages at a steady rate, however long they take, until standard input is closed."""
    events = Events()
    logger = logging.getLogger("presign_middleware")
    logger.addHandler(events)
    logger.setLevel(logging.INFO)
    presigner = new_presigner(told)
    app = new_app(told, presigner)
    # It answers "http.disconnect" once the response is complete, as a server does.
    transport = httpx.ASGITransport(app)
    chance = random.Random(told["number"])
    reading = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    async with living(app), httpx.AsyncClient(transport=transport, base_url="http://app", timeout=None) as b:
        _say({"ready": True})
        async with asyncio.TaskGroup() as visits:
            next_at = time.monotonic() + chance.random() * told["every"]
            while not reading.done():
                await asyncio.sleep(max(0.0, next_at - time.monotonic()))
                visits.create_task(visit(b, chance.sample(told["keys"], told["links"])))
                next_at += told["every"]
    await presigner.aclose()
    _say({"stats": presigner.stats(), "events": events.seen})


def _say(what: object) -> None:
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.stdin.readline())))
