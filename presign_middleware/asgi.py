"""
The middleware for ASGI: Starlette, FastAPI, Django's ``asgi.py``, any.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any

from .account import Account
from .interception import intercept
from .local import PATIENCE
from .presigner import Presigner
from .scope import Scope, make_current
from .telling import Telling, by_name

__all__ = ["PresignMiddleware"]

Connection = MutableMapping[str, Any]  # what ASGI calls a scope
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Connection, Receive, Send], Awaitable[None]]

#: Seconds after which a loop that still turns is not ending.
_MOMENT = 0.1

#: Seconds that shutdown waits for renewals which are under way.
DRAIN_WITHIN = 5.0


class PresignMiddleware:
    """
    Gives every HTTP request and websocket a scope, in which fetches from S3 are signed::

        app.add_middleware(PresignMiddleware, presigner=presigner)

    Without *presigner* the environment describes it: see `Presigner.from_env`.

    What a request found AGEING is renewed once the server has the last byte of its
    response. At the lifespan's start-up credentials are fetched and plans learned,
    so that no request waits for them; its shutdown waits a few seconds for renewals.

    With *freshness* no cache keeps a response longer than the URLs that it hands out can be
    served; with *diagnostics* a response tells where its URLs came from. See `telling`.
    """

    def __init__(
        self,
        app: App,
        presigner: Presigner | None = None,
        *,
        freshness: bool = False,
        diagnostics: bool = False,
    ) -> None:
        self.app = app
        self.presigner = presigner or Presigner.from_env()
        clock, policy = self.presigner.clock, self.presigner.policy
        self._open = Scope.opener(self.presigner, clock.monotonic, policy.shared_patience)
        self._telling = Telling.of(self.presigner, freshness=freshness, diagnostics=diagnostics)
        intercept()  # for as long as the process lives: hooks do nothing outside of a scope

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] in ("http", "websocket"):
            # No with statement: most requests meet nothing, and are to cost next to nothing.
            # And what is called is called by a local name: as a method it would be sought on the class first.
            opened, app = self._open, self.app
            request = opened()
            make_current(request)
            if self._telling is not None and scope["type"] == "http":
                send = _told(self._telling, request, send)
            try:
                await app(scope, receive, send)
            except BaseException as error:
                try:
                    self._renew(request, None, is_cancelled=isinstance(error, asyncio.CancelledError))
                finally:
                    request.end()
                raise
            try:
                if request.met:
                    self._renew(request, None if _may_have_body(scope) else receive)
            finally:
                request.end()
        elif scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _renew(self, request: Scope, receive: Receive | None, *, is_cancelled: bool = False) -> None:
        due = self.presigner.renewals.due(request)
        if not due or asyncio._get_running_loop() is None:  # another kind of loop: signed anew when SPENT
            return
        task = _task_of_request()
        begin = partial(self.presigner.renewals.begin, due, lambda: _response_sent(task, receive))
        if is_cancelled:
            # The client may have left, or the loop is ending. Then it never comes to this, and leaves no
            # task unfinished.
            asyncio.get_running_loop().call_later(_MOMENT, begin, context=Context())
        else:
            begin()

    async def _live(self, scope: Connection, receive: Receive, send: Send) -> None:
        # Before the application is asked: not every one knows of lifespans.
        await self.presigner.make_ready()

        async def send_drained(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self.presigner.renewals.drain(DRAIN_WITHIN)
            await send(message)

        await self.app(scope, receive, send_drained)


def _told(telling: Telling, request: Scope, send: Send) -> Send:
    """Return a *send* with which the response tells what its request was given until it begins."""
    account = Account()
    request.tell(account)

    async def send_told(message: Message) -> None:
        if message["type"] == "http.response.start" and not account.is_empty:
            headers = list(message.get("headers", ()))
            lines = by_name((bytes(n).decode("latin-1"), bytes(v).decode("latin-1")) for n, v in headers)
            changes = telling.changes(account, request, message["status"], lines)
            if changes:
                new = {name.lower().encode(): lines for name, lines in changes.items()}
                kept = [(name, value) for name, value in headers if bytes(name).lower() not in new]
                written = [(name, line.encode("latin-1")) for name, lines in new.items() for line in lines]
                message = {**message, "headers": [*kept, *written]}
        await send(message)

    return send_told


async def _response_sent(task: "asyncio.Task[Any] | None", receive: Receive | None) -> bool:
    """
    Return when the server has the last byte of the response; False if nobody will tell, or not in time.

    That the application has returned does not say it: a middleware further out may still
    hold a part, or is only about to answer for an error. The end of the server's *task*
    says it. Under a client that calls the application in a task of its own, such as a
    test's, there may be none, and then *receive* says it: the server, and each middleware
    that hands it on, gives ``http.disconnect`` once the response is complete. It must not
    be asked while someone may still want the body of the request.
    """
    signs = [] if task is None else [task]
    listening = None if receive is None else asyncio.create_task(_disconnected(receive))
    if listening is not None:
        signs.append(listening)
    if not signs:
        return False
    try:
        done, _ = await asyncio.wait(signs, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if listening is not None:
            listening.cancel()
    # Where nothing has run meanwhile, time is up as well when the task has long ended.
    return bool(done)


async def _disconnected(receive: Receive) -> None:
    with suppress(Exception):
        for _ in range(2):  # the one message of a body that is empty may come first
            if (await receive())["type"] == "http.disconnect":
                return
    await asyncio.get_running_loop().create_future()  # for ever: this one tells nothing


def _may_have_body(scope: Connection) -> bool:
    if scope.get("method") not in ("GET", "HEAD"):
        return True
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope.get("headers", ()))


def _task_of_request() -> "asyncio.Task[Any] | None":
    """
    Return the task that serves this request.

    Starlette's ``BaseHTTPMiddleware`` runs what is below it in a child of that task, which
    ends before the response is complete.
    """
    task = asyncio.current_task()
    anyio = sys.modules.get("anyio")  # nobody else makes such children
    if task is None or anyio is None:
        return task
    parents = {info.id: info.parent_id for info in anyio.get_running_tasks()}
    tasks = {id(each): each for each in asyncio.all_tasks()}
    while (parent := parents.get(id(task))) in tasks:
        task = tasks[parent]
    return task
