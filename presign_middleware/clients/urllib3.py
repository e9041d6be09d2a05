"""
urllib3 2, directly and below requests.

The seam is ``HTTPConnection.request``: below redirects, retries, logs and exceptions,
and the one place that sees the host, the proxy and the headers of what is sent. Even
there the signature is put into the request line only as the line becomes bytes, so that
``response.url``, and tools which wrap ``putrequest`` as Sentry does, have the unsigned URL.

What can go wrong:

* A bare ``urllib3.connection.HTTPConnection`` that is used without a pool is not signed for.
* HTTP/2 (``urllib3.http2``, an experiment) has connections of its own and passes by.
* ``http.client``'s ``debuglevel`` prints what goes to the socket, hence the signature.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from ..errors import SigningError
from ..presigner import Presigner
from .catching import Marks, judge, unsigned
from .hooking import Hooks

__all__ = ["Fetch", "Urllib3Hooks", "hooked", "lowered", "mounted", "opened", "send", "wire"]


class Fetch:
    """One fetch, with its retries and redirects."""

    __slots__ = ("given", "marks", "presigner", "ready")

    def __init__(
        self,
        presigner: Presigner | None = None,  # None: that of the scope, for a hook
        marks: Marks | None = None,
        given: dict[str, str] | None = None,
    ) -> None:
        self.presigner = presigner
        self.marks: Marks = {} if marks is None else marks
        self.given = {} if given is None else given  #: by its unsigned URL, one that came with our signature
        self.ready: dict[str, str] = {}  #: by its unsigned URL, the URL that is to be on the wire

    def shown(self, url: str) -> str:
        """Return what the client may see and log of *url*: if this library signed it, its unsigned form."""
        bare = unsigned(self.presigner, url)
        if bare is None:
            return url
        self.given[bare] = url
        return bare


#: The present fetch of a hook, and that of an adapter. That of a hook is not set while its connection
#: sends: bodies and credentials may be fetched then, and those fetches are nobody's redirects.
hooked: ContextVar[Fetch | None] = ContextVar("presign_hooked", default=None)
mounted: ContextVar[Fetch | None] = ContextVar("presign_mounted", default=None)


@contextmanager
def opened(place: ContextVar[Fetch | None], fetch: Fetch | None) -> Iterator[None]:
    """Have *fetch* be the present one inside."""
    before = place.get()
    place.set(fetch)
    try:
        yield
    finally:
        place.set(before)


class Urllib3Hooks:
    """The hooks on urllib3: every pool's and pool manager's, made before or after."""

    def __init__(self, library: ModuleType) -> None:
        self._hooks = Hooks()
        self._hooks.place(library.PoolManager, "urlopen", self._opening)
        self._hooks.place(library.HTTPConnectionPool, "urlopen", self._opening_in_pool)
        response = next(c for c in library.HTTPResponse.__mro__ if "get_redirect_location" in vars(c))
        self._hooks.place(response, "get_redirect_location", self._redirecting)
        wire.take(library)

    def remove(self) -> None:
        """Leave the library as it was, or with hooks that do nothing."""
        self._hooks.remove()
        wire.give_back()

    def _opening(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def urlopen(manager: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
            if not self._hooks.active:
                return original(manager, method, url, *args, **kwargs)
            fetch = hooked.get() or Fetch()  # it calls itself for a redirect
            with opened(hooked, fetch):
                return original(manager, method, fetch.shown(url), *args, **kwargs)

        return urlopen

    def _opening_in_pool(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def urlopen(pool: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
            if not self._hooks.active:
                return original(pool, method, url, *args, **kwargs)
            fetch = hooked.get() or Fetch()  # a manager's or requests', or it calls itself for a retry
            with opened(hooked, fetch):
                shown = url
                if url.startswith("/") and "X-Amz-Signature=" in url:
                    shown = _target(fetch.shown(_url(pool.scheme, pool.host, pool.port, url)))
                return original(pool, method, shown, *args, **kwargs)

        return urlopen

    def _redirecting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get_redirect_location(response: Any) -> Any:
            location, fetch = original(response), hooked.get()
            if self._hooks.active and fetch is not None and location:
                return fetch.shown(location)  # it is about to be logged
            return location

        return get_redirect_location


class Wire:
    """The hook on connections, which requests and urllib3 share: placed by the first, removed by the last."""

    def __init__(self) -> None:
        self._users = 0
        self._hooks = Hooks()

    # Both run under the lock of `intercept`.

    def take(self, library: ModuleType) -> None:
        """Count one more user."""
        self._users += 1
        if self._users == 1:
            self._hooks = Hooks()
            self._hooks.place(library.connection.HTTPConnection, "request", self._sending(self._hooks))

    def give_back(self) -> None:
        """Count one less."""
        self._users -= 1
        if not self._users:
            self._hooks.remove()

    def _sending(self, hooks: Hooks) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            def request(connection: Any, *args: Any, **kwargs: Any) -> Any:
                fetch = hooked.get()
                if fetch is None or not hooks.active or _is_botocores(connection):
                    return original(connection, *args, **kwargs)
                with opened(hooked, None):
                    return send(fetch, original, connection, *args, **kwargs)

            return request

        return make


wire = Wire()


def send(
    fetch: Fetch,
    original: Callable[..., Any],
    connection: Any,
    method: str,
    url: str,
    body: Any = None,
    headers: Mapping[Any, Any] | None = None,
    **options: Any,
) -> Any:
    """
    Send with *original*, a connection's ``request``, signed if it is covered.

    *url* is what urllib3 puts into the request line: a path and query, or a whole URL
    for a proxy. Raises SigningError, before anything is sent.
    """
    asked = url if not url.startswith("/") else _url(*_peer(connection), url)
    with opened(hooked, None):
        wanted = fetch.ready.get(asked) or _wanted(fetch, asked, method, headers)
    if wanted == asked:
        return original(connection, method, url, body, headers, **options)
    target = wanted if url is asked else _target(wanted)
    encode = getattr(connection, "_encode_request", None)
    if encode is None:  # it is none of http.client's
        raise SigningError(
            f"cannot sign for connections of {type(connection).__qualname__}: they are not urllib3's own"
        )

    def encode_signed(line: str) -> bytes:
        # "GET /path HTTP/1.1": whatever stands between is what is replaced.
        verb, _, rest = line.partition(" ")
        encoded: bytes = encode(f"{verb} {target} {rest.rpartition(' ')[2]}")
        return encoded

    connection._encode_request = encode_signed  # of this one connection, which one thread uses at a time
    try:
        with opened(hooked, None):  # an adapter has signed: a hook below is not to sign again
            return original(connection, method, url, body, headers, **options)
    finally:
        del connection._encode_request


def _wanted(fetch: Fetch, asked: str, method: str, headers: Mapping[Any, Any] | None) -> str:
    url = fetch.given.get(asked, asked)
    catch = judge(fetch.presigner, url, method, lowered(headers or {}), fetch.marks)
    return (catch.url() if catch is not None else None) or url


def lowered(headers: Mapping[Any, Any]) -> dict[str, str]:
    """Return *headers* with lower-case names, as text."""
    return {_text(name).lower(): _text(value) for name, value in headers.items()}


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _peer(connection: Any) -> tuple[str, str, int]:
    """Return scheme, host and port of the server that *connection* leads to, through a tunnel if need be."""
    scheme = "https" if connection.default_port == 443 else "http"
    if connection._tunnel_host:
        return scheme, connection._tunnel_host, connection._tunnel_port
    # host is without the dot at its end, with which it is another name.
    return scheme, connection._dns_host, connection.port


def _url(scheme: str, host: str, port: int | None, target: str) -> str:
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    is_usual = port in (None, {"http": 80, "https": 443}[scheme])
    return f"{scheme}://{host}{target}" if is_usual else f"{scheme}://{host}:{port}{target}"


def _target(url: str) -> str:
    return url[url.index("/", url.index("//") + 2) :]


def _is_botocores(connection: Any) -> bool:
    """Return whether botocore sends, whose requests are its own business, signed or not."""
    return any(kind.__module__ == "botocore.awsrequest" for kind in type(connection).__mro__)
