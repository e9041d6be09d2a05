"""
httpx and httpx2, which has the same shape.

The seam is the transport: it sees every hop of a redirect, and what it sends the
client never looks at, so ``response.url``, ``request.url``, the history, the log and
outer transports keep the unsigned URL.

What can go wrong:

* A transport of your own that subclasses ``HTTPTransport``, overrides its method and never
  calls ``super()`` passes by the hook; give that client a `PresignTransport`.
* A plain function that someone put in the place of ``HTTPTransport.handle_request`` before
  the hook came sees the signed URL: only wrapt's wrappers can be looked through.
* httpcore's ``extensions={"trace": ...}`` is told of the signed request, being below it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from functools import cache, partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ..catching import Catch
from ..presigner import Presigner
from ..refusals import MOST_READ, Reply
from ..writing import Write
from .catching import Marks, explained, judge, unsigned, written
from .hooking import Hooks

if TYPE_CHECKING:
    import httpx

    class _Transport(httpx.BaseTransport, httpx.AsyncBaseTransport):
        pass
else:
    _Transport = object  # httpx asks nothing of a transport but its methods, and may not be installed

__all__ = ["HttpxHooks", "PresignTransport"]

#: Request extension with which a caller opts out, and with which a signed copy is marked.
OPT_OUT = "presign"

#: Request extension in which the marks of the first hop travel to its redirects.
_MARKS = "presign.marks"

#: Request extension in which a URL travels that the application signed here itself.
_GIVEN = "presign.given"

#: The present ``send``, for transports that make requests of their own and lose the extensions.
_sending: ContextVar["_Sending | None"] = ContextVar("presign_sending", default=None)

#: A transport that chooses among others has them in a list or a dict no longer than this.
_MOST_PARTS = 32

#: A transport may wrap a transport; deeper than this is a circle.
_DEEPEST = 8


class PresignTransport(_Transport):
    """
    A transport that signs what its presigner covers, for one client and without any patch::

        httpx.Client(transport=PresignTransport(presigner))
        httpx.AsyncClient(transport=PresignTransport(presigner, httpx.AsyncHTTPTransport(retries=2)))

    It signs inside and outside of scopes. *transport* sends; None: the client library's own.
    Put it outside of transports that make requests of their own: a redirect's first hop is
    known by the request's extensions, which such a transport may lose.
    """

    def __init__(self, presigner: Presigner, transport: Any = None) -> None:
        self._presigner = presigner
        self._inner = transport

    def handle_request(self, request: Any) -> Any:
        """Send *request*, signed if it is covered. Raises SigningError."""
        if self._inner is None:
            self._inner = _library(request).HTTPTransport()
        send = self._inner.handle_request
        return _fetched(lambda signed: send(self._veiled(signed, request)), request, self._presigner)

    async def handle_async_request(self, request: Any) -> Any:
        """Send *request*, signed if it is covered. Raises SigningError."""
        if self._inner is None:
            self._inner = _library(request).AsyncHTTPTransport()
        send = self._inner.handle_async_request
        return await _afetched(lambda signed: send(self._veiled(signed, request)), request, self._presigner)

    def _veiled(self, signed: Any, request: Any) -> Any:
        """Return *signed* so that tools around the library's own transport see the URL of *request*."""
        library = _library(request)
        if signed is not request and isinstance(
            self._inner, (library.HTTPTransport, library.AsyncHTTPTransport)
        ):
            signed.url = _veil(library.URL)(request.url, signed.url)
        return signed

    def close(self) -> None:
        """Close the transport that sends."""
        if self._inner is not None:
            self._inner.close()

    async def aclose(self) -> None:
        """Close the transport that sends."""
        if self._inner is not None:
            await self._inner.aclose()

    def __enter__(self) -> "PresignTransport":
        if self._inner is not None:
            self._inner.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._inner is not None:
            self._inner.__exit__(*exc)

    async def __aenter__(self) -> "PresignTransport":
        if self._inner is not None:
            await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        if self._inner is not None:
            await self._inner.__aexit__(*exc)


class HttpxHooks:
    """
    The hooks on one library (httpx or httpx2): every client's, made before or after.

    ``HTTPTransport`` and ``AsyncHTTPTransport`` are hooked at once. Whatever other
    transport a client turns out to use is hooked where it is first met: the innermost
    one, where transports wrap transports.
    """

    def __init__(self, library: ModuleType) -> None:
        self._library = library
        self._hooks = Hooks()
        self._known: WeakSet[Any] = WeakSet()  # transports that were looked through
        self._hooks.place(library.HTTPTransport, "handle_request", self._sending_one)
        self._hooks.place(library.AsyncHTTPTransport, "handle_async_request", self._asending_one)
        self._hooks.place(library.Client, "send", self._sending_all)
        self._hooks.place(library.AsyncClient, "send", self._asending_all)
        for client in (library.Client, library.AsyncClient):
            self._hooks.place(client, "_transport_for_url", self._choosing)
        base = next(c for c in library.Client.__mro__ if "_build_redirect_request" in vars(c))
        self._hooks.place(base, "build_request", self._building)
        self._hooks.place(base, "_build_redirect_request", self._redirecting)

    def remove(self) -> None:
        """Leave the library as it was, or with hooks that do nothing."""
        self._hooks.remove()

    # What stands in the place of the library's functions.

    def _sending_one(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def handle_request(*args: Any) -> Any:
            *transport, request = args  # of an object's own method there is no transport
            send = partial(original, *transport)
            return _fetched(send, request, None) if self._hooks.active else send(request)

        return handle_request

    def _asending_one(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def handle_async_request(*args: Any) -> Any:
            *transport, request = args
            send = partial(original, *transport)
            return await (_afetched(send, request, None) if self._hooks.active else send(request))

        return handle_async_request

    def _sending_all(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def send(client: Any, request: Any, **kwargs: Any) -> Any:
            with _Sending(self._shown(request)):
                return original(client, request, **kwargs)

        return send

    def _asending_all(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def send(client: Any, request: Any, **kwargs: Any) -> Any:
            with _Sending(self._shown(request)):
                return await original(client, request, **kwargs)

        return send

    def _building(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def build_request(*args: Any, **kwargs: Any) -> Any:
            request = original(*args, **kwargs)
            self._shown(request)
            return request

        return build_request

    def _redirecting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def _build_redirect_request(*args: Any) -> Any:
            request, sending = original(*args), _sending.get()
            given = self._shown(request)
            if sending is not None:
                sending.redirects.add(str(request.url))
                sending.given.update(given)
            return request

        return _build_redirect_request

    def _shown(self, request: Any) -> "_Given":
        return _shown(request, None) if self._hooks.active else _Given()

    def _choosing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def _transport_for_url(client: Any, url: Any) -> Any:
            transport = original(client, url)
            if self._hooks.active and not self._is_known(transport):
                for leaf in self._leaves(transport, _DEEPEST):
                    self._meet(leaf)
            return transport

        return _transport_for_url

    def _is_known(self, transport: Any) -> bool:
        """Return whether *transport* was looked through before, and note that it is now."""
        own = getattr(transport, "__dict__", None)
        if own is None or type(transport).__hash__ is None:
            return False
        wrapped_since = "handle_request" in own or "handle_async_request" in own
        if transport in self._known and not wrapped_since:
            return True
        self._known.add(transport)
        return False

    def _leaves(self, transport: Any, depth: int) -> Iterator[Any]:
        """Yield the transports that wrap no other."""
        if isinstance(transport, PresignTransport):
            return  # it signs already
        kinds = (self._library.BaseTransport, self._library.AsyncBaseTransport, PresignTransport)
        values = tuple(getattr(transport, "__dict__", {}).values())
        parts = [part for value in values for part in _parts(value)]
        inner = [part for part in parts if isinstance(part, kinds)]
        if not inner or not depth:
            yield transport
        for part in inner if depth else ():
            yield from self._leaves(part, depth - 1)

    def _meet(self, transport: Any) -> None:
        bases = (self._library.BaseTransport, self._library.AsyncBaseTransport)
        hooked = (self._library.HTTPTransport, self._library.AsyncHTTPTransport)
        for name, make in (
            ("handle_request", self._sending_one),
            ("handle_async_request", self._asending_one),
        ):
            if name in getattr(transport, "__dict__", ()):
                # Someone has wrapped this one object's method, perhaps for a while: its class is hooked too.
                self._hooks.place(transport, name, make)
            if not isinstance(transport, hooked):
                owner = next((c for c in type(transport).__mro__ if name in vars(c)), None)
                if owner is not None and owner not in bases:
                    self._hooks.place(owner, name, make)


def _parts(value: Any) -> Collection[Any]:
    """Return what a transport's attribute may hold transports in; a long container holds data."""
    if not isinstance(value, (list, tuple, dict)) or len(value) > _MOST_PARTS:
        return (value,)
    return tuple(value.values() if isinstance(value, dict) else value)


class _Given(dict[str, str]):
    """By its unsigned form, a URL that the application signed here itself."""

    def __repr__(self) -> str:
        return "<URLs signed here>"  # tools write down what a request's extensions are


class _Sending:
    """One call of a client's ``send``: a fetch with its redirects."""

    __slots__ = ("_outer", "given", "marks", "redirects")

    def __init__(self, given: _Given) -> None:
        self.given = _Given(given)
        self.marks: Marks = {}  # of the first hop
        self.redirects: set[str] = set()  # the URLs it was redirected to
        self._outer: _Sending | None = None

    def __enter__(self) -> None:
        self._outer = _sending.get()
        _sending.set(self)

    def __exit__(self, *exc: object) -> None:
        _sending.set(self._outer)


def _shown(request: Any, presigner: Presigner | None) -> _Given:
    """Have *request* show the unsigned form of a URL signed here; return what its URLs were before."""
    given: _Given = request.extensions.get(_GIVEN, _Given())
    if request.extensions.get(OPT_OUT) is not False:
        url = str(request.url)
        bare = unsigned(presigner, url)
        if bare is not None:
            request.url = type(request.url)(bare)
            given = request.extensions[_GIVEN] = _Given({**given, str(request.url): url})
    return given


def _fetched(send: Callable[[Any], Any], request: Any, presigner: Presigner | None) -> Any:
    """Return the answer to *request*, signed if it is covered, and once more if S3 refuses its URL."""
    url, catch, write = _judged(request, presigner)
    attempt = catch.sign(_library(request).__name__) if catch is not None else None
    while True:
        response = send(_copy(request, url, attempt.url if attempt is not None else None))
        if attempt is None or not attempt.heard(response.status_code, response.headers):
            if write is not None:
                write.heard(response.status_code, partial(_read, response, request))
            return response
        following = attempt.again(Reply(response.status_code, response.headers, _read(response, request)))
        if following is None or not _can_be_sent_again(request):
            return explained(response, attempt)
        attempt = following
        response.close()


async def _afetched(send: Callable[[Any], Awaitable[Any]], request: Any, presigner: Presigner | None) -> Any:
    """Return what `_fetched` returns, without ever blocking the event loop."""
    url, catch, write = _judged(request, presigner)
    attempt = await catch.asign(_library(request).__name__) if catch is not None else None
    while True:
        response = await send(_copy(request, url, attempt.url if attempt is not None else None))
        if attempt is None or not attempt.heard(response.status_code, response.headers):
            if write is not None:
                await write.aheard(response.status_code, partial(_aread, response, request))
            return response
        body = await _aread(response, request)
        following = await attempt.aagain(Reply(response.status_code, response.headers, body))
        if following is None or not _can_be_sent_again(request):
            return explained(response, attempt)
        attempt = following
        await response.aclose()


def _read(response: Any, request: Any) -> bytes:
    """Return the beginning of the body of *response*, which keeps all of it."""
    chunks, parts, size = [], iter(response.stream), 0
    while size < MOST_READ and (chunk := next(parts, None)) is not None:
        chunks.append(chunk)
        size += len(chunk)
    response.stream = _rejoined(_library(request))(chunks, parts, response.stream)
    return b"".join(chunks)


async def _aread(response: Any, request: Any) -> bytes:
    chunks, parts, size = [], aiter(response.stream), 0
    while size < MOST_READ and (chunk := await anext(parts, None)) is not None:
        chunks.append(chunk)
        size += len(chunk)
    response.stream = _rejoined(_library(request))(chunks, parts, response.stream)
    return b"".join(chunks)


@cache
def _rejoined(library: ModuleType) -> Any:
    """Return a kind of stream that has what was read of another, and then the rest of it."""

    class Rejoined(library.SyncByteStream, library.AsyncByteStream):  # type: ignore[misc,name-defined]
        def __init__(self, chunks: list[bytes], rest: Any, stream: Any) -> None:
            self._chunks, self._rest, self._stream = chunks, rest, stream

        def __iter__(self) -> Iterator[bytes]:
            yield from self._chunks
            yield from self._rest

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for chunk in self._chunks:
                yield chunk
            async for chunk in self._rest:
                yield chunk

        def close(self) -> None:
            self._stream.close()

        async def aclose(self) -> None:
            await self._stream.aclose()

    return Rejoined


def _can_be_sent_again(request: Any) -> bool:
    return isinstance(request.stream, _library(request).ByteStream)


def _judged(request: Any, presigner: Presigner | None) -> tuple[str, Catch | None, Write | None]:
    """Return the URL that the application asked for, how to sign it, and who is to hear if it is written."""
    extensions, sending = request.extensions, _sending.get()
    given = _shown(request, presigner) or (sending.given if sending is not None else {})
    shown = str(request.url)
    url = given.get(shown, shown)
    if extensions.get(OPT_OUT) is False:
        return url, None, None
    headers: Mapping[str, str] = request.headers  # names are looked up and listed in lower case
    # The client hands a request's extensions on to the request it makes of a redirect, also
    # when the application follows the redirect by itself.
    marks: Marks | None = extensions.get(_MARKS)
    if marks is None and sending is not None and shown in sending.redirects:
        marks = sending.marks  # a transport between has made a request of its own
    if marks is None:
        marks = {}
    catch = judge(presigner, url, request.method, headers, marks)
    extensions[_MARKS] = marks
    if sending is not None and not sending.marks:
        sending.marks = marks
    return url, catch, written(presigner, request.method, url)


def _copy(request: Any, asked: str, signed: str | None) -> Any:
    """Return what is to be sent: a copy of *request* to *signed*, with the same body, which is read once."""
    if signed is None and asked == str(request.url):
        return request
    wire = type(request.url)(signed or asked)
    headers = request.headers.copy()
    if wire.netloc != request.url.netloc:  # that of an s3 URL is a bucket
        headers["Host"] = wire.netloc.decode("ascii")
    return type(request)(
        request.method,
        wire,
        headers=headers,
        stream=request.stream,
        extensions={**request.extensions, OPT_OUT: False} if signed else request.extensions,
    )


@cache
def _veil(kind: Any) -> Any:
    """Return a *kind* of URL that shows one URL and is sent as another."""

    class Veiled(kind):  # type: ignore[misc]  # the library comes with the request
        def __init__(self, shown: Any, wire: Any) -> None:
            super().__init__(shown)
            self._wire = wire

        # What the library's own transports read, and nothing else does.
        raw_scheme = property(lambda self: self._wire.raw_scheme)
        raw_host = property(lambda self: self._wire.raw_host)
        port = property(lambda self: self._wire.port)
        raw_path = property(lambda self: self._wire.raw_path)

    return Veiled


def _library(request: Any) -> ModuleType:
    return import_module(type(request).__module__.partition(".")[0])
