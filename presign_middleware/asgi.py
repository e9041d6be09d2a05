"""
The middleware for ASGI: Starlette, FastAPI, Django's ``asgi.py``, any.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .interception import intercept
from .presigner import Presigner

__all__ = ["PresignMiddleware"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class PresignMiddleware:
    """
    Gives every HTTP request and websocket a scope, in which fetches from S3 are signed::

        app.add_middleware(PresignMiddleware, presigner=presigner)

    Without *presigner* the environment describes it: see `Presigner.from_env`. Other
    events, such as the lifespan's, pass through.
    """

    def __init__(self, app: App, presigner: Presigner | None = None) -> None:
        self.app = app
        self.presigner = presigner or Presigner.from_env()
        intercept()  # for as long as the process lives: hooks do nothing outside of a scope

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        with self.presigner.scope():
            await self.app(scope, receive, send)
