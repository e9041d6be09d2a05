"""
aiohttp.

The seam is ``ClientRequest.send``: below middlewares, redirects, retries and the connection
pool, with all headers in place. Even there the request keeps its unsigned URL, since
``request_info``, TraceConfig's events and exceptions read it: the signed target goes into the
request line as the line is written, byte for byte, with no yarl that could requote it.

What can go wrong:

* A ``request_class`` of your own that overrides ``send`` and never calls ``super()`` passes by.
* ``middlewares=`` of one call replaces the session's, and with them a `PresignClientMiddleware`.
* ``s3://`` is refused by aiohttp before anyone else sees it: fetch ``await presigner.aurl("s3://...")``.
* A redirect to a URL with a signature of ours is known as it is sent. The response shows it unsigned;
  TraceConfig's last event, other middlewares, and a time-out before that have it as the server said.
* A middleware that writes another URL into a request that it has sent before makes a redirect of it.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from warnings import catch_warnings, simplefilter

from ..catching import Catch
from ..healing import Attempt
from ..presigner import Presigner
from ..refusals import MOST_READ, Reply
from ..scope import Holding, paused
from .catching import Marks, bare, deciding, explained, is_elsewhere, judge, unsigned, written
from .hooking import Hooks

if TYPE_CHECKING:
    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

__all__ = ["AiohttpHooks", "PresignClientMiddleware", "opt_out"]

#: Attributes of a request: what it is to be sent as, and what it was sent as.
_READY, _SENT = "_presign_ready", "_presign_sent"

#: By its unsigned URL, the one with a signature of ours that the application fetches at present.
_given: ContextVar[Mapping[str, str]] = ContextVar("presign_given", default=MappingProxyType({}))


class PresignClientMiddleware:
    """
    A client middleware that signs what its presigner covers, for one session and without any patch::

        aiohttp.ClientSession(middlewares=(PresignClientMiddleware(presigner),))

    It signs inside and outside of scopes, below all other middlewares wherever it stands
    among them: they see the unsigned URL. SigningError is raised before anything is sent.
    """

    def __init__(self, presigner: Presigner) -> None:
        self._presigner = presigner

    async def __call__(self, request: "ClientRequest", handler: "ClientHandlerType") -> "ClientResponse":
        """Have *handler* send *request*, signed if it is covered. Raises SigningError."""
        with _shown(self._presigner, str(request.url)) as url:
            if url is not None:
                _show(request, url)
            own: dict[str, Any] = vars(request)
            before, original = own.get("send"), request.send
            own["send"] = partial(_send, self._presigner, original, request)
            try:
                return await _healed(self._presigner, request, handler)
            finally:
                if before is None:
                    del own["send"]
                else:  # another of us, around this one
                    own["send"] = before


async def opt_out(request: "ClientRequest", handler: "ClientHandlerType") -> "ClientResponse":
    """
    Send one request, and its redirects, as it is: a client middleware for a single call::

        await session.get(url, middlewares=(opt_out,))
    """
    with paused():
        return await handler(request)


class AiohttpHooks:
    """The hooks on aiohttp: every session's, made before or after."""

    def __init__(self, library: ModuleType) -> None:
        self._hooks = Hooks()
        self._hooks.place(library.ClientRequest, "send", self._sending)
        self._hooks.place(library.ClientSession, "_request", self._requesting)

    def remove(self) -> None:
        """Leave the library as it was, or with hooks that do nothing."""
        self._hooks.remove()

    def _sending(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def send(request: Any, connection: Any) -> Any:
            if not self._hooks.active:
                return await original(request, connection)
            return await _send(None, partial(original, request), request, connection)

        return send

    def _requesting(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def _request(session: Any, method: str, url: Any, **options: Any) -> Any:
            if self._hooks.active and deciding():
                own = options.get("middlewares")
                # Innermost, where other middlewares see one request and its answer.
                options["middlewares"] = *(session._middlewares if own is None else own), _heal
            if not self._hooks.active or options.get("params") or "X-Amz-Signature=" not in str(url):
                return await original(session, method, url, **options)
            with _shown(None, _sent(url)) as shown:
                return await original(session, method, url if shown is None else _url(shown), **options)

        return _request


class _Trail:
    """
    What a fetch carries from its first hop to its redirects.

    Each hop is a request of its own. What they have in common, and with no other fetch, is
    the list of traces; so this is one, which nothing that it is told of concerns.
    """

    def __init__(self, marks: Marks) -> None:
        self.marks = marks

    def __getattr__(self, event: str) -> Callable[..., Awaitable[None]]:
        return _ignore


async def _ignore(*args: Any, **kwargs: Any) -> None:
    pass


class _SignedLine:
    """A connection's transport until its first write, which has the request line: there *url* goes."""

    def __init__(self, protocol: Any, url: str) -> None:
        self._protocol = protocol
        self._transport = protocol.transport
        self._url = url

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: Any) -> None:
        self._protocol.transport = self._transport
        self._transport.write(self._signed(data))

    def writelines(self, chunks: Iterable[Any]) -> None:
        head, *body = chunks
        self._protocol.transport = self._transport
        self._transport.writelines([self._signed(head), *body])

    def _signed(self, data: Any) -> bytes:
        line, end, rest = bytes(data).partition(b"\r\n")
        # "GET /path HTTP/1.1"; to a forward proxy, the whole URL.
        method, _, target = line.partition(b" ")
        start = self._url.index("/", len("https://")) if target.startswith(b"/") else 0
        version = target.rpartition(b" ")[2]
        return b" ".join((method, self._url[start:].encode("ascii"), version)) + end + rest


async def _send(
    presigner: Presigner | None, original: Callable[[Any], Awaitable[Any]], request: Any, connection: Any
) -> Any:
    """
    Send *request* on *connection* with *original*, signed if it is covered.

    Raises SigningError, before anything is sent.
    """
    # CONNECT opens a proxy's tunnel. A middleware of ours that has signed is above the hook.
    if request.method == "CONNECT" or isinstance(connection.protocol.transport, _SignedLine):
        return await original(connection)
    asked = str(request.url)
    wanted = _given.get().get(asked, asked)
    attempt = vars(request).pop(_READY, None)
    is_signed = attempt is not None
    if not is_signed and (catch := _judged(presigner, request, wanted)) is not None:
        attempt, is_signed = await catch.asign("aiohttp"), True
    if is_signed:
        vars(request)[_SENT] = attempt
        wanted = wanted if attempt is None else attempt.url
        transport = connection.protocol.transport
        if transport is None or transport.is_closing():
            # Nothing was written, so aiohttp may try again, as after any connection that was kept too long.
            raise import_module("aiohttp").ServerDisconnectedError
    shown = unsigned(presigner, asked)
    if shown is not None:  # a redirect led here
        _show(request, shown)
    if wanted != str(request.url):
        connection.protocol.transport = _SignedLine(connection.protocol, wanted)
    return await original(connection)


def _judged(presigner: Presigner | None, request: Any, url: str) -> Catch | None:
    trail = next((one for one in request._traces if isinstance(one, _Trail)), None)
    marks: Marks = {} if trail is None else trail.marks
    catch = judge(presigner, url, request.method, _lowered(request.headers), marks)
    if trail is None and marks:
        request._traces.append(_Trail(marks))
    return catch


async def _heal(request: "ClientRequest", handler: "ClientHandlerType") -> "ClientResponse":
    """Do what the hook does before the request is sent and after it is answered."""
    return await _healed(None, request, handler)


async def _healed(
    presigner: Presigner | None, request: Any, handler: "ClientHandlerType"
) -> "ClientResponse":
    """Return the answer to *request*, sent elsewhere if it is to be, and once more if S3 refuses its URL."""
    own, asked = vars(request), str(request.url)
    attempt: Attempt | None = None
    write = written(presigner, request.method, asked)
    if is_elsewhere(presigner, asked, request.method):
        catch = _judged(presigner, request, _given.get().get(asked, asked))
        attempt = await catch.asign("aiohttp") if catch is not None else None
    while True:
        response = await _answered(request, attempt, handler)
        attempt = own.pop(_SENT, None)
        headers = _lowered(response.headers) if attempt is not None else {}
        if attempt is None or not attempt.heard(response.status, headers):
            if write is not None:
                await write.aheard(response.status, partial(_read, response))
            return response
        following = await attempt.aagain(Reply(response.status, headers, await _read(response)))
        if following is None or not (isinstance(request.body, bytes) or _is_repeatable(request.body)):
            return explained(response, attempt)
        attempt = following
        response.close()


async def _answered(request: Any, attempt: Attempt | None, handler: "ClientHandlerType") -> "ClientResponse":
    """Return the answer to *request*, sent as *attempt* says, if there is one."""
    if attempt is None:
        return await handler(request)
    vars(request)[_READY] = attempt
    url, host = request.url, request.headers["Host"]
    request.url, there = _url(bare(attempt.url)), urlsplit(attempt.url).netloc
    if there != urlsplit(str(url)).netloc:
        request.headers["Host"] = there
    try:
        response = await handler(request)
    finally:
        request.url, request.headers["Host"] = url, host
    vars(response)["_request_info"] = request.request_info  # of the URL that was asked for
    return response


async def _read(response: Any) -> bytes:
    """Return the beginning of the body of *response*, which keeps all of it."""
    head = b""
    while len(head) < MOST_READ and (part := await response.content.read(MOST_READ - len(head))):
        head += part
    with catch_warnings():
        simplefilter("ignore", DeprecationWarning)  # there is nothing else yet
        response.content.unread_data(head)
    return head


def _is_repeatable(body: Any) -> bool:
    return isinstance(body, import_module("aiohttp").BytesPayload)


def _lowered(headers: Any) -> dict[str, str]:
    return {name.lower(): ",".join(headers.getall(name)) for name in headers}


@contextmanager
def _shown(presigner: Presigner | None, url: str) -> Iterator[str | None]:
    """Give the unsigned form of *url* if a presigner that may decide has signed it, and know it inside."""
    shown = unsigned(presigner, url)
    if shown is None:
        yield None
        return
    with Holding(_given, {**_given.get(), shown: url}):
        yield shown


def _show(request: Any, url: str) -> None:
    """Have *request*, and so its response, show *url*."""
    request.url = request.original_url = _url(url)


def _url(url: str) -> Any:
    return import_module("yarl").URL(url, encoded=True)


def _sent(url: Any) -> str:
    """Return what aiohttp makes of a URL that it is given; "" if it will refuse it."""
    try:
        return str(import_module("yarl").URL(url).with_fragment(None))
    except ValueError:
        return ""
