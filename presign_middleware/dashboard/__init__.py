"""
A live page that tells how URLs are signed, cached and renewed, in every process of a fleet::

    app.mount("/presign", dashboard.asgi(presigner))  # Starlette, FastAPI
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/presign": dashboard.wsgi(presigner)})  # Flask

Who may see it is for the application to say: nothing here asks. It shows no key of an object, no
URL, no access key, token or secret; it does show names of hosts, origins, buckets and servers.

A process in which the page is mounted tells the others of itself through the shared cache. One that
has no page does so after ``dashboard.publish(presigner)``, or with ``PRESIGN_DASHBOARD=1``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from typing import Any

from ..presigner import Presigner, notice_fork
from .answers import Answer, Answers

__all__ = ["asgi", "publish", "wsgi"]

Connection = MutableMapping[str, Any]  # what ASGI calls a scope
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Connection, Receive, Send], Coroutine[Any, Any, None]]
WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_PHRASES = {200: "OK", 307: "Temporary Redirect", 404: "Not Found", 405: "Method Not Allowed"}


def publish(presigner: Presigner) -> None:
    """Have the page of any process that shares *presigner*'s cache show this one too. Does no I/O."""
    presigner.show()


def asgi(presigner: Presigner) -> ASGIApp:
    """Return the page as an ASGI application, to be mounted anywhere, and have this process shown."""
    answers = Answers(presigner)

    async def page(scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
            return
        root, path = scope.get("root_path", ""), scope["path"]
        # Frameworks differ in whether the path has the root in it.
        path = path.removeprefix(root) if path == root or path.startswith(f"{root}/") else path
        # In a thread, since the shared cache is asked.
        answer = await asyncio.to_thread(answers.answer, scope["method"], path, root)
        headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": _body(answer, scope["method"])})

    return page


def wsgi(presigner: Presigner) -> WSGIApp:
    """Return the page as a WSGI application, to be mounted anywhere, and have this process shown."""
    answers = Answers(presigner)

    def page(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        notice_fork()
        method = environ["REQUEST_METHOD"]
        answer = answers.answer(method, environ.get("PATH_INFO", ""), environ.get("SCRIPT_NAME", ""))
        start_response(f"{answer.status} {_PHRASES[answer.status]}", list(answer.headers.items()))
        return [_body(answer, method)]

    return page


def _body(answer: Answer, method: str) -> bytes:
    return b"" if method == "HEAD" else answer.body
