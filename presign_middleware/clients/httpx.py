"""
httpx and httpx2, which has the same shape.

The seam is the transport: it sees every hop of a redirect, and what it sends the
client never looks at, so ``response.url``, ``request.url``, the history, the log and
outer transports keep the unsigned URL.

What can go wrong: a transport of your own that subclasses ``HTTPTransport``, overrides
its method and never calls ``super()`` passes by the hook; give that client a
`PresignTransport`.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..presigner import Presigner
from .catching import Catch, judge
from .hooking import Hook

if TYPE_CHECKING:
    import httpx

    class _Transport(httpx.BaseTransport, httpx.AsyncBaseTransport):
        pass
else:
    _Transport = object  # httpx asks nothing of a transport but its methods, and may not be installed

__all__ = ["HttpxHooks", "PresignTransport"]

#: Request extension with which a caller opts out, and with which a signed copy is marked.
OPT_OUT = "presign"

#: Request extension in which the first hop's origin travels to its redirects.
_FIRST = "presign.first"

#: The origin of the first hop that the present ``send`` has made: for transports that lose extensions.
_sending: ContextVar["_Sending | None"] = ContextVar("presign_sending", default=None)

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
        return self._inner.handle_request(_signed(request, self._presigner))

    async def handle_async_request(self, request: Any) -> Any:
        """Send *request*, signed if it is covered. Raises SigningError."""
        if self._inner is None:
            self._inner = _library(request).AsyncHTTPTransport()
        return await self._inner.handle_async_request(await _asigned(request, self._presigner))

    def close(self) -> None:
        """Close the transport that sends."""
        if self._inner is not None:
            self._inner.close()

    async def aclose(self) -> None:
        """Close the transport that sends."""
        if self._inner is not None:
            await self._inner.aclose()

    def __enter__(self) -> "PresignTransport":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> "PresignTransport":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


class HttpxHooks:
    """
    The hooks on one library (httpx or httpx2): every client's, made before or after.

    ``HTTPTransport`` and ``AsyncHTTPTransport`` are hooked at once. Whatever other
    transport a client turns out to use is hooked where it is first met: the innermost
    one, where transports wrap transports.
    """

    def __init__(self, library: ModuleType) -> None:
        self._library = library
        self._hooks: dict[tuple[type, str], Hook] = {}
        self._hook(library.HTTPTransport, "handle_request", _sync_hook)
        self._hook(library.AsyncHTTPTransport, "handle_async_request", _async_hook)
        self._hook(library.Client, "send", _send_hook)
        self._hook(library.AsyncClient, "send", _asend_hook)
        for client in (library.Client, library.AsyncClient):
            self._hook(client, "_transport_for_url", self._meet)

    def remove(self) -> None:
        """Leave the library as it was, or with hooks that do nothing."""
        for hook in reversed(self._hooks.values()):
            hook.remove()
        self._hooks.clear()

    def _hook(self, owner: type, name: str, make: Callable[[Callable[..., Any], Hook], Any]) -> None:
        if (owner, name) not in self._hooks:
            self._hooks[owner, name] = Hook(owner, name, make)

    def _meet(self, original: Callable[..., Any], hook: Hook) -> Callable[..., Any]:
        def _transport_for_url(client: Any, url: Any) -> Any:
            transport = original(client, url)
            if hook.active:
                for leaf in self._leaves(transport, _DEEPEST):
                    self._hook_class(type(leaf))
            return transport

        return _transport_for_url

    def _leaves(self, transport: Any, depth: int) -> Iterator[Any]:
        """Yield the transports that wrap no other."""
        if isinstance(
            transport, (PresignTransport, self._library.HTTPTransport, self._library.AsyncHTTPTransport)
        ):
            return  # one signs already, the others are hooked
        kinds = (self._library.BaseTransport, self._library.AsyncBaseTransport, PresignTransport)
        inner = [part for part in getattr(transport, "__dict__", {}).values() if isinstance(part, kinds)]
        if not inner or not depth:
            yield transport
        for part in inner if depth else ():
            yield from self._leaves(part, depth - 1)

    def _hook_class(self, transport: type) -> None:
        bases = (self._library.BaseTransport, self._library.AsyncBaseTransport)
        for name, make in (("handle_request", _sync_hook), ("handle_async_request", _async_hook)):
            owner = next((c for c in transport.__mro__ if name in vars(c)), None)
            if owner is not None and owner not in bases:
                self._hook(owner, name, make)


class _Sending:
    """One call of a client's ``send``: a fetch with its redirects."""

    __slots__ = ("first",)

    def __init__(self) -> None:
        self.first: str | None = None

    def __enter__(self) -> None:
        _sending.set(self)

    def __exit__(self, *exc: object) -> None:
        _sending.set(None)


def _send_hook(original: Callable[..., Any], hook: Hook) -> Callable[..., Any]:
    def send(*args: Any, **kwargs: Any) -> Any:
        with _Sending():
            return original(*args, **kwargs)

    return send


def _asend_hook(original: Callable[..., Awaitable[Any]], hook: Hook) -> Callable[..., Awaitable[Any]]:
    async def send(*args: Any, **kwargs: Any) -> Any:
        with _Sending():
            return await original(*args, **kwargs)

    return send


def _sync_hook(original: Callable[..., Any], hook: Hook) -> Callable[..., Any]:
    def handle_request(transport: Any, request: Any) -> Any:
        return original(transport, _signed(request, None) if hook.active else request)

    return handle_request


def _async_hook(original: Callable[..., Awaitable[Any]], hook: Hook) -> Callable[..., Awaitable[Any]]:
    async def handle_async_request(transport: Any, request: Any) -> Any:
        return await original(transport, await _asigned(request, None) if hook.active else request)

    return handle_async_request


def _signed(request: Any, presigner: Presigner | None) -> Any:
    catch = _judged(request, presigner)
    url = catch.url() if catch is not None else None
    return request if catch is None or url is None else _copy(request, catch, url)


async def _asigned(request: Any, presigner: Presigner | None) -> Any:
    catch = _judged(request, presigner)
    url = await catch.aurl() if catch is not None else None
    return request if catch is None or url is None else _copy(request, catch, url)


def _judged(request: Any, presigner: Presigner | None) -> Catch | None:
    extensions = request.extensions
    if extensions.get(OPT_OUT) is False:
        return None
    headers: Mapping[str, str] = request.headers  # names are looked up and listed in lower case
    sending = _sending.get()
    first = extensions.get(_FIRST, sending.first if sending is not None else None)
    verdict = judge(presigner, str(request.url), request.method, headers, first)
    if verdict.first is not None:
        # The client hands a request's extensions on to the request it makes of a redirect,
        # also when the application follows the redirect by itself.
        extensions[_FIRST] = verdict.first
        if sending is not None:
            sending.first = verdict.first
    return verdict.catch


def _copy(request: Any, catch: Catch, url: str) -> Any:
    """Return a copy of *request* that goes to *url*; the body is the same stream, read once."""
    if catch.unsigned is not None:
        request.url = type(request.url)(catch.unsigned)
    signed = type(request.url)(url)
    headers = request.headers.copy()
    if request.url.scheme == "s3":
        headers["Host"] = signed.netloc.decode("ascii")
    return type(request)(
        request.method,
        signed,
        headers=headers,
        stream=request.stream,
        extensions={**request.extensions, OPT_OUT: False},
    )


def _library(request: Any) -> ModuleType:
    return import_module(type(request).__module__.partition(".")[0])
