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

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from io import BufferedReader, RawIOBase
from types import ModuleType
from typing import Any

from ..errors import SigningError
from ..healing import Attempt
from ..presigner import Presigner
from ..refusals import MOST_READ, Reply
from ..scope import Holding
from ..writing import Write
from .catching import Marks, bare, is_elsewhere, judge, unsigned, written
from .hooking import Hooks

__all__ = ["Fetch", "Urllib3Hooks", "following", "hooked", "lowered", "mounted", "send", "wire"]


class Fetch:
    """One fetch, with its retries and redirects."""

    __slots__ = (
        "attempt",
        "can_be_sent_again",
        "client",
        "given",
        "marks",
        "presigner",
        "ready",
        "refused",
        "write",
    )

    def __init__(
        self,
        presigner: Presigner | None = None,  # None: that of the scope, for a hook
        marks: Marks | None = None,
        given: dict[str, str] | None = None,
        client: str = "urllib3",
    ) -> None:
        self.client = client
        self.presigner = presigner
        self.marks: Marks = {} if marks is None else marks
        self.given = {} if given is None else given  #: by its unsigned URL, one that came with our signature
        self.ready: dict[str, Attempt] = {}  #: by its unsigned URL, what is to be on the wire
        self.attempt: Attempt | None = None  #: what was sent last, if it was signed
        self.can_be_sent_again = True
        self.refused: Attempt | None = None  #: of which the answer is the application's
        self.write: Write | None = None  #: what was sent last, if it writes what someone wants to know of

    def elsewhere(self, url: str, method: str, headers: Mapping[Any, Any]) -> str | None:
        """Return what `located` does, if *url* is not to be asked for where it says."""
        return self.located(url, method, headers) if is_elsewhere(self.presigner, url, method) else None

    def located(self, url: str, method: str, headers: Mapping[Any, Any]) -> str | None:
        """Return the unsigned URL at which *url* is to be asked for, now signed; None: it is not."""
        catch = judge(self.presigner, self.given.get(url, url), method, lowered(headers), self.marks)
        attempt = catch.sign(self.client) if catch is not None else None
        return None if attempt is None else self.place(attempt)

    def place(self, attempt: Attempt) -> str:
        """Return the unsigned URL that is to be asked for, to send *attempt*."""
        located = bare(attempt.url)
        self.ready[located] = attempt
        return located

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
            with Holding(hooked, fetch):
                shown = fetch.shown(url)
                place = fetch.elsewhere(shown, method, kwargs.get("headers") or manager.headers)
                response = original(manager, method, place or shown, *args, **kwargs)
                while (again := following(fetch, response)) is not None:
                    place, response = again, original(manager, method, again, *args, **kwargs)
            if place is not None:
                response.url = _target(shown)
            return response

        return urlopen

    def _opening_in_pool(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def urlopen(pool: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
            if not self._hooks.active:
                return original(pool, method, url, *args, **kwargs)
            outer = hooked.get()  # a manager's or requests', or it calls itself for a retry
            fetch = outer or Fetch()
            with Holding(hooked, fetch):
                shown = url
                if url.startswith("/") and "X-Amz-Signature=" in url:
                    shown = _target(fetch.shown(_url(pool.scheme, pool.host, pool.port, url)))
                response = original(pool, method, shown, *args, **kwargs)
                if outer is not None:
                    return response
                # A pool by itself leads to one host: what has to be asked for at another is its own answer.
                while (again := following(fetch, response)) and pool.is_same_host(again):
                    response = original(pool, method, _target(again), *args, **kwargs)
                    response.url = shown
            return response

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
                with Holding(hooked, None):
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
    with Holding(hooked, None):
        fetch.attempt = fetch.ready.get(asked) or _attempt(fetch, asked, method, headers)
    fetch.write = written(fetch.presigner, method, asked)
    fetch.can_be_sent_again = body is None or isinstance(body, (bytes, str))
    wanted = fetch.given.get(asked, asked) if fetch.attempt is None else fetch.attempt.url
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
        with Holding(hooked, None):  # an adapter has signed: a hook below is not to sign again
            return original(connection, method, url, body, headers, **options)
    finally:
        del connection._encode_request


def _attempt(fetch: Fetch, asked: str, method: str, headers: Mapping[Any, Any] | None) -> Attempt | None:
    url = fetch.given.get(asked, asked)
    catch = judge(fetch.presigner, url, method, lowered(headers or {}), fetch.marks)
    return catch.sign(fetch.client) if catch is not None else None


def following(fetch: Fetch, response: Any) -> str | None:
    """
    Return the unsigned URL that *fetch* is to be sent to in the place of what *response* answers.

    None: S3 has not refused it for its URL, or there is no remedy. *response* is urllib3's.
    """
    attempt, fetch.attempt = fetch.attempt, None
    write, fetch.write = fetch.write, None
    if write is not None:
        write.heard(response.status, partial(_read, response))
    if attempt is None:
        return None
    headers = lowered(response.headers)
    if not attempt.heard(response.status, headers):
        return None
    following = attempt.again(Reply(response.status, headers, _read(response)))
    if following is None or not fetch.can_be_sent_again:
        fetch.refused = attempt
        return None
    response.drain_conn()
    return fetch.place(following)


def _read(response: Any) -> bytes:
    """Return the beginning of the body of *response*, which keeps all of it."""
    if response._body is not None:  # it was read when it came
        return bytes(response._body[:MOST_READ])
    if response._fp is None:
        return b""
    head: bytes = response._fp.read(MOST_READ)
    response._fp = BufferedReader(_Rejoined(head, response._fp))
    return head


class _Rejoined(RawIOBase):
    """A body of which the *head* was read."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(part) :]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._rest.close()
        super().close()


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
