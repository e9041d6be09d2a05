"""
The middleware for WSGI: Flask, Django's ``wsgi.py``, any.

The rules of one request:

* Its scope is that of the application's code alone: of the call, of each step of the body,
  of its ``close()``; and so is a `paused` that they are in. Between them the server's own scope
  is back, so a body that is iterated or closed in another thread, or never, changes nothing
  for whoever comes next in this one.
* It ends when the server calls ``close()`` on the body: the server has the last byte then.
  What the request found AGEING is renewed from there on, in a thread that nobody waits for.
* An application that raises instead of returning a body has no ``close()``, and its server is
  still to answer: the request ends, and what it found AGEING is left to the next one.
* A file for the server to send is handed on as the very object it is. The server may read it
  by calling the application's code, so the scope stays until its ``close()``.
"""

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

from .interception import intercept
from .presigner import Presigner, notice_fork
from .scope import Setting, current, setting, swap

__all__ = ["PresignMiddleware"]

Environ = dict[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
T = TypeVar("T")

_END: Any = object()


class PresignMiddleware:
    """
    Gives every request a scope, in which fetches from S3 are signed::

        app.wsgi_app = PresignMiddleware(app.wsgi_app, presigner=presigner)  # Flask
        application = PresignMiddleware(get_wsgi_application(), presigner=presigner)  # Django

    Without *presigner* the environment describes it: see `Presigner.from_env`.

    The scope lasts until the body is closed, so a streaming response may fetch too. What
    the request found AGEING is renewed then.
    """

    def __init__(self, app: App, presigner: Presigner | None = None) -> None:
        self.app = app
        self.presigner = presigner or Presigner.from_env()
        intercept()  # for as long as the process lives: hooks do nothing outside of a scope

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        notice_fork()
        request = _Request(self.presigner)
        is_file = _recognise_files(environ)
        try:
            body = request.run(self.app, environ, start_response)
        except BaseException:
            request.drop()
            raise
        if is_file(body):
            request.end_with(body)
            return body  # this very object, or the server will not send the file by itself
        return _SizedBody(body, request) if hasattr(body, "__len__") else _Body(body, request)


class _Request:
    """One request, from its begin to the closing of its body."""

    def __init__(self, presigner: Presigner) -> None:
        staying = _staying.get()
        if staying is not None:  # the server closes that one elsewhere, or never
            staying.go()
        self._presigner = presigner
        self._scope = presigner.scope()
        outside = setting()
        self._scope.__enter__()
        self._inside = swap(outside)
        self._stayed: tuple[Setting, Setting] | None = None  # what holds inside, and what did before

    def run(self, work: Callable[..., T], *args: Any) -> T:
        """Run the application's *work* in the scope that it was left in, whatever context this is."""
        outside = swap(self._inside)
        try:
            return work(*args)
        finally:
            self._inside = swap(outside)  # may be its own: a body can open a scope, or pause, and yield in it

    def end(self) -> None:
        """End it, and begin to renew what it has met. A second time does nothing."""
        renewals = self._presigner.renewals
        due = renewals.due(self._scope) if self._scope.met else []
        self.drop()
        if due:
            renewals.begin_in_thread(due)

    def drop(self) -> None:
        """End it, and leave what is AGEING to the next request."""
        self.run(self._scope.__exit__)  # or its end would decide what is current in this context

    def end_with(self, body: Any) -> None:
        """Have ``body.close()`` end this request too; where it cannot be replaced, the request ends now."""
        close = getattr(body, "close", None)

        def close_and_end() -> None:
            self.go()
            try:
                if close is not None:
                    self.run(close)
            finally:
                self.end()

        try:
            body.close = close_and_end
        except AttributeError:  # it has slots, or is an extension's
            self.drop()
        else:
            self.stay()

    def stay(self) -> None:
        """Keep the scope after the application has returned, until `go`: the server is to read a file."""
        self._stayed = self._inside, swap(self._inside)
        _staying.set(self)

    def go(self) -> None:
        """Undo `stay`, in the context where that was."""
        if self._stayed is None or _staying.get() is not self:
            return
        inside, outside = self._stayed
        if current() is inside[0]:  # else whoever has opened one since is still to leave it
            _staying.set(None)
            swap(outside)


#: The request whose scope has stayed in this context, for a file that the server reads.
_staying: ContextVar[_Request | None] = ContextVar("presign_staying", default=None)


def _recognise_files(environ: Environ) -> Callable[[object], bool]:
    """Return whether a body was made by the server's ``wsgi.file_wrapper``, which may be any callable."""
    wrapper = environ.get("wsgi.file_wrapper")
    if wrapper is None:
        return lambda body: False
    if isinstance(wrapper, type):  # left in its place: servers ask whether the body is one of these
        return lambda body: isinstance(body, wrapper)
    made: list[object] = []

    def remembered(*args: Any, **kwargs: Any) -> Any:
        made.append(wrapper(*args, **kwargs))
        return made[-1]

    environ["wsgi.file_wrapper"] = remembered
    return lambda body: any(body is one for one in made)


class _Body:
    """A body whose ``close()`` ends the request."""

    def __init__(self, body: Iterable[bytes], request: _Request) -> None:
        self._body = body
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        run = self._request.run
        parts = run(iter, self._body)
        while (part := run(next, parts, _END)) is not _END:
            yield part

    def close(self) -> None:
        """Close the application's body, then end the request."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                self._request.run(close)
        finally:
            self._request.end()


class _SizedBody(_Body):
    """A body of known length, of which servers make a Content-Length."""

    def __len__(self) -> int:
        length: int = len(self._body)  # type: ignore[arg-type]  # made only where it has one
        return length
