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

#: Seconds that shutdown waits for renewals which are under way.
DRAIN_WITHIN = 5.0


class PresignMiddleware:
    """
    Gives every HTTP request and websocket a scope, in which fetches from S3 are signed::

        app.add_middleware(PresignMiddleware, presigner=presigner)

    Without *presigner* the environment describes it: see `Presigner.from_env`.

    What a request found AGEING is renewed once the last byte of its response was handed
    to the server. At the lifespan's start-up credentials are fetched and plans learned,
    so that no request waits for them; its shutdown waits a few seconds for renewals.
    """

    def __init__(self, app: App, presigner: Presigner | None = None) -> None:
        self.app = app
        self.presigner = presigner or Presigner.from_env()
        intercept()  # for as long as the process lives: hooks do nothing outside of a scope

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] in ("http", "websocket"):
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _serve(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        renewals = self.presigner.renewals
        with self.presigner.scope() as request:
            try:
                await self.app(scope, receive, send)
            finally:
                due = renewals.due(request)
                if due:
                    renewals.begin(due, lambda: _response_sent(scope["type"], receive))

    async def _live(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        async def receive_ready() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.presigner.make_ready()
            return message

        async def send_drained(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self.presigner.renewals.drain(DRAIN_WITHIN)
            await send(message)

        await self.app(scope, receive_ready, send_drained)


async def _response_sent(kind: str, receive: Receive) -> None:
    """
    Return when the server has the last byte of the response.

    That the application has returned does not say it: a middleware further out may still
    hold a part, or is only about to answer for an error. The server, and each middleware
    that hands *receive* on, gives ``http.disconnect`` when the response is complete.
    """
    try:
        while kind == "http" and (await receive())["type"] != "http.disconnect":
            pass  # what the application left of the request's body
    except Exception:
        return  # such as starlette's ClientDisconnect: nobody waits for bytes any more
