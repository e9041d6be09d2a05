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
* Where a response is to tell what its request was given, the server gets the headers together
  with the first part of the body: what a generator does for that part belongs to them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

from .account import Account
from .interception import intercept
from .presigner import Presigner, notice_fork
from .renewal import Renewals
from .scope import Scope, Setting, current
from .telling import Telling, by_name

__all__ = ["PresignMiddleware"]

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
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

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        notice_fork()
        request = _Request(self._open, self.presigner.renewals)
        is_file = None if environ.get("wsgi.file_wrapper") is None else _recognise_files(environ)
        head = None
        if self._telling is not None:
            head = _Head(start_response, self._telling, request.scope)
            start_response = head.start
        try:
            body = request.inside.run(self.app, environ, start_response)
        except BaseException:
            request.drop()
            raise
        if is_file is not None and is_file(body):
            if head is not None:
                head.hand_over()
            request.end_with(body)
            return body  # this very object, or the server will not send the file by itself
        return _SizedBody(body, request, head) if hasattr(body, "__len__") else _Body(body, request, head)


class _Request:
    """One request, from its begin to the closing of its body."""

    def __init__(self, open_scope: Callable[[], Scope], renewals: Renewals) -> None:
        staying = _staying.get()
        if staying is not None:  # the server closes that one elsewhere, or never
            staying.go()
        self._renewals = renewals
        self._outside: Setting | None = None  # while it stays: what did hold before
        self.inside = Setting()  #: what holds for the application
        self.scope = self.inside.scope = open_scope()

    def end(self) -> None:
        """End it, and begin to renew what it has met. A second time does nothing."""
        due = self._renewals.due(self.scope) if self.scope.met else []
        self.drop()
        if due:
            self._renewals.begin_in_thread(due)

    def drop(self) -> None:
        """End it, and leave what is AGEING to the next request."""
        self.scope.forget()  # and not its end: what is current in this context, it is not to decide

    def end_with(self, body: Any) -> None:
        """Have ``body.close()`` end this request too; where it cannot be replaced, the request ends now."""
        close = getattr(body, "close", None)

        def close_and_end() -> None:
            self.go()
            try:
                if close is not None:
                    self.inside.run(close)
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
        self._outside = Setting()
        self.inside.enter()
        _staying.set(self)

    def go(self) -> None:
        """Undo `stay`, in the context where that was."""
        if self._outside is None or _staying.get() is not self:
            return
        if current() is self.inside.scope:  # else whoever has opened one since is still to leave it
            _staying.set(None)
            self._outside.enter()


class _Head:
    """Status and headers of a response that tells what its request was given until they are handed over."""

    def __init__(self, start_response: Callable[..., Any], telling: Telling, request: Scope) -> None:
        self._account = Account()
        request.tell(self._account)
        self._start_response = start_response
        self._telling = telling
        self._request = request
        self._held: tuple[str, Headers, Any] | None = None
        self._write: Callable[[bytes], object] | None = None

    def start(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        """Be the application's ``start_response``."""
        if exc_info is None:
            self.hand_over()  # of a second start: the server is to refuse it
        self._held = status, headers, exc_info
        if self._write is not None:
            self.hand_over()
        return self.write

    def write(self, data: bytes) -> object:
        """Be what ``start_response`` returns."""
        self.hand_over()
        assert self._write is not None
        return self._write(data)

    def hand_over(self) -> None:
        """Hand the server what it has not got yet."""
        if self._held is None:
            return
        (status, headers, exc_info), self._held = self._held, None
        if not self._account.is_empty:
            lines = by_name(headers)
            changes = self._telling.changes(self._account, self._request, int(status[:3]), lines)
            names = {name.lower() for name in changes}
            headers = [header for header in headers if header[0].lower() not in names]
            headers += [(name, line) for name, lines in changes.items() for line in lines]
        self._write = self._start_response(status, headers, *(() if exc_info is None else (exc_info,)))


#: The request whose scope has stayed in this context, for a file that the server reads.
_staying: ContextVar[_Request | None] = ContextVar("presign_staying", default=None)


def _recognise_files(environ: Environ) -> Callable[[object], bool]:
    """Return whether a body was made by the server's ``wsgi.file_wrapper``, which may be any callable."""
    wrapper = environ["wsgi.file_wrapper"]
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

    def __init__(self, body: Iterable[bytes], request: _Request, head: _Head | None) -> None:
        self._body = body
        self._request = request
        self._head = head

    def __iter__(self) -> Iterator[bytes]:
        run = self._request.inside.run
        parts, part = run(_begun, self._body)
        if self._head is not None:
            self._head.hand_over()
        while part is not _END:
            yield part
            part = run(next, parts, _END)

    def close(self) -> None:
        """Close the application's body, then end the request."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                self._request.inside.run(close)
        finally:
            self._request.end()


def _begun(body: Iterable[bytes]) -> tuple[Iterator[bytes], Any]:
    parts = iter(body)
    return parts, next(parts, _END)


class _SizedBody(_Body):
    """A body of known length, of which servers make a Content-Length."""

    def __len__(self) -> int:
        length: int = len(self._body)  # type: ignore[arg-type]  # made only where it has one
        return length
