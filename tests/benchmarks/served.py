"""
The applications that are put under load: a page of 200 links, whose URLs are made in three ways.

Each is a factory for uvicorn or gunicorn. ``/told`` answers with what the process has done so far.
"""

import json
import time
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from flask import Flask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route

import presign_middleware.asgi
import presign_middleware.wsgi
from presign_middleware import Origin, Policy, Presigner

from .peers import Boto3
from .workload import BUCKET, KEYS, LIFETIME, REGION, TARGETS, session

__all__ = [
    "flask_boto3",
    "flask_floor",
    "flask_ours",
    "starlette_boto3",
    "starlette_floor",
    "starlette_ours",
]


class _Told:
    """What making links has taken: seconds of the processor, in the thread that makes them."""

    def __init__(self) -> None:
        self._pages, self._making = 0, 0.0

    def page(self, urls: Sequence[str], began: float) -> str:
        """Return the page that shows *urls*, which were made since *began*."""
        self._making += time.thread_time() - began
        self._pages += 1
        return "".join([f'<img src="{escape(url)}">' for url in urls])

    def __str__(self) -> str:
        return json.dumps({"pages": self._pages, "making": self._making, "cpu": time.process_time()})


def _presigner() -> Presigner:
    origin = Origin("media", bucket=BUCKET, region=REGION, session=session())
    return Presigner(origin, policy=Policy(lifetime=LIFETIME))


def _starlette(make: Callable[[], Any]) -> Starlette:
    told = _Told()

    async def page(request: Request) -> HTMLResponse:
        began = time.thread_time()
        return HTMLResponse(told.page(await make(), began))

    async def tell(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(told))

    return Starlette(routes=[Route("/", page), Route("/told", tell)])


def starlette_boto3() -> Starlette:
    """Ask boto3 for each URL."""
    url = Boto3().url

    async def make() -> list[str]:
        return [url(key) for key in KEYS]

    return _starlette(make)


def starlette_ours() -> Starlette:
    """Ask this library for all of them."""
    presigner = _presigner()
    app = _starlette(lambda: presigner.aurls(TARGETS))
    app.add_middleware(presign_middleware.asgi.PresignMiddleware, presigner=presigner)
    return app


def starlette_floor() -> Starlette:
    """Have had them from the start: what the page takes without any."""
    url = Boto3().url
    made = [url(key) for key in KEYS]

    async def make() -> list[str]:
        return made

    return _starlette(make)


def _flask(make: Callable[[], Sequence[str]]) -> Flask:
    told = _Told()
    app = Flask("load")

    def page() -> str:
        began = time.thread_time()
        return told.page(make(), began)

    app.add_url_rule("/", "page", page)
    app.add_url_rule("/told", "told", lambda: str(told))
    return app


def flask_boto3() -> Flask:
    """Ask boto3 for each URL."""
    url = Boto3().url
    return _flask(lambda: [url(key) for key in KEYS])


def flask_ours() -> Flask:
    """Ask this library for all of them."""
    presigner = _presigner()
    app = _flask(lambda: presigner.urls(TARGETS))
    middleware = presign_middleware.wsgi.PresignMiddleware(app.wsgi_app, presigner=presigner)
    app.wsgi_app = middleware  # type: ignore[method-assign]  # Flask's own way
    return app


def flask_floor() -> Flask:
    """Have had them from the start: what the page takes without any."""
    url = Boto3().url
    made = [url(key) for key in KEYS]
    return _flask(lambda: made)
