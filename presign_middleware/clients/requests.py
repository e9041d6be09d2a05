"""
requests, which sends through urllib3 (see `urllib3`).

requests makes a fetch of its own of every redirect, so that what the first hop came to
has to travel with the request: in its ``hooks``, the one thing that a copy shares.

What can go wrong:

* An adapter that is no ``HTTPAdapter``, such as a test double's, sends the unsigned URL.
* A copy of a request that was sent counts as its redirect, whatever its URL is by then.
* An entry in ``.netrc`` for the host adds ``Authorization``, and the request is left alone.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin

from ..errors import ConfigurationError
from ..presigner import Presigner
from ..redaction import redact
from ..scope import Holding
from .catching import Marks, explained, unsigned
from .hooking import Hooks
from .urllib3 import Fetch, following, hooked, mounted, send, wire

if TYPE_CHECKING:
    from requests import PreparedRequest, Response
    from requests.adapters import BaseAdapter as _Adapter
else:
    _Adapter = object  # a session asks nothing of an adapter but its methods

__all__ = ["PresignAdapter", "RequestsHooks"]


class PresignAdapter(_Adapter):
    """
    An adapter that signs what its presigner covers, for one session and without any patch::

        adapter = PresignAdapter(presigner)
        session.mount("https://", adapter)
        session.mount("s3://", adapter)

    It signs inside and outside of scopes. *adapter* sends, an ``HTTPAdapter`` with the
    settings of your choice; its pool managers are given connections that sign.

    Raises:
        ConfigurationError: *adapter* is no ``HTTPAdapter``.
    """

    def __init__(self, presigner: Presigner, adapter: Any = None) -> None:
        kind = import_module("requests.adapters").HTTPAdapter
        self._presigner = presigner
        self._inner = kind() if adapter is None else adapter
        if not isinstance(self._inner, kind):
            raise ConfigurationError(
                f"adapter must be a requests.adapters.HTTPAdapter, got {type(adapter).__name__}"
            )
        _have_sign(self._inner.poolmanager)
        make = self._inner.proxy_manager_for

        def proxy_manager_for(*args: Any, **kwargs: Any) -> Any:
            manager = make(*args, **kwargs)
            _have_sign(manager)
            return manager

        self._inner.proxy_manager_for = proxy_manager_for

    def send(self, request: "PreparedRequest", *args: Any, **kwargs: Any) -> "Response":
        """
        Send *request*, signed if it is covered.

        Raises:
            SigningError: It is covered and cannot be signed.
            requests.exceptions.InvalidSchema: An ``s3://`` target that is not signed; it has no other URL.
        """
        asked = str(request.url)
        trail = _trail(request)
        fetch = Fetch(self._presigner, trail.marks, trail.given, "requests")
        place = None
        if asked[:5].lower() == "s3://":
            # requests drops the params of such a target and encodes nothing: the rest is the literal key.
            place = self._located(request, asked, fetch)
        else:
            request.url = fetch.shown(asked)
        with Holding(mounted, fetch):
            response: Any = _sent(self._inner.send, request, fetch, place, *args, **kwargs)
        response.connection = self  # for an auth that sends again
        answer: Response = response
        return answer

    def close(self) -> None:
        """Close the adapter that sends."""
        self._inner.close()

    def _located(self, request: "PreparedRequest", asked: str, fetch: Fetch) -> str:
        """Return the unsigned URL at which an ``s3://`` target lives, and have *fetch* sign it."""
        url = f"s3://{quote(asked[5:], safe='/')}"
        located = fetch.located(url, str(request.method), request.headers)
        if located is None:
            raise import_module("requests.exceptions").InvalidSchema(
                f"{redact(asked)} can be fetched only if it is signed: no origin of this presigner covers "
                "it, or nothing is caught here"
            )
        return located


class RequestsHooks:
    """The hooks on requests: every session's, made before or after."""

    def __init__(self, library: ModuleType) -> None:
        self._hooks = Hooks()
        self._requote = library.utils.requote_uri
        self._hooks.place(library.PreparedRequest, "prepare_url", self._preparing)
        self._hooks.place(library.sessions.SessionRedirectMixin, "get_redirect_target", self._redirecting)
        self._hooks.place(library.adapters.HTTPAdapter, "send", self._sending)
        wire.take(import_module("urllib3"))

    def remove(self) -> None:
        """Leave the library as it was, or with hooks that do nothing."""
        self._hooks.remove()
        wire.give_back()

    # What wraps ``Session.send`` reads a request's URL before it comes to an adapter: the first two
    # see to it that it is the unsigned one.

    def _preparing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def prepare_url(request: Any, *args: Any, **kwargs: Any) -> None:
            original(request, *args, **kwargs)
            if request.url is not None:
                request.url = self._shown(request, request.url) or request.url

        return prepare_url

    def _redirecting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get_redirect_target(session: Any, response: Any) -> Any:
            location = original(session, response)
            if not location or "X-Amz-Signature=" not in location:
                return location
            return self._shown(response.request, self._requote(urljoin(response.url, location))) or location

        return get_redirect_target

    def _shown(self, request: Any, url: str) -> str | None:
        """Return the unsigned form of *url*, if it was signed here, and have *request* remember it."""
        bare = unsigned(None, url) if self._hooks.active else None
        if bare is not None:
            _trail(request).given[bare] = url
        return bare

    def _sending(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def send(adapter: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._hooks.active:
                return original(adapter, request, *args, **kwargs)
            trail = _trail(request)
            fetch = Fetch(None, trail.marks, trail.given, "requests")
            request.url = fetch.shown(request.url)
            with Holding(hooked, fetch):
                return _sent(partial(original, adapter), request, fetch, None, *args, **kwargs)

        return send


def _sent(
    send: Callable[..., Any], request: Any, fetch: Fetch, place: str | None, *args: Any, **kwargs: Any
) -> Any:
    """Return the answer to *request*, sent to *place* if not where it says, and once more if need be."""
    # A hook below an adapter of ours leaves that to it.
    if place is None and (fetch.presigner is not None or mounted.get() is None):
        place = fetch.elsewhere(request.url, request.method, request.headers)
    response = send(_moved(request, place), *args, **kwargs)
    while (again := following(fetch, response.raw)) is not None:
        place, response = again, send(_moved(request, again), *args, **kwargs)
    if place is not None:
        response.url, response.request = request.url, request
    return response if fetch.refused is None else explained(response, fetch.refused)


def _moved(request: Any, place: str | None) -> Any:
    if place is None:
        return request
    moved = request.copy()
    moved.url = place
    return moved


class _Trail(dict[str, Any]):
    """
    A request's ``hooks``, and what its redirects need to know.

    The copy that requests makes of a request for a redirect, ``response.next`` included,
    has the very same ``hooks``. A pickled or a deep copy has plain ones.
    """

    def __init__(self, hooks: dict[str, Any]) -> None:
        super().__init__(hooks)
        self.marks: Marks = {}
        self.given: dict[str, str] = {}

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return dict, (dict(self),)


def _trail(request: Any) -> _Trail:
    if not isinstance(request.hooks, _Trail):
        request.hooks = _Trail(request.hooks or {})
    trail: _Trail = request.hooks
    return trail


#: By a pool's class, the one whose connections sign.
_signing: dict[type, type] = {}


def _have_sign(manager: Any) -> None:
    """Give *manager* pools whose connections sign."""
    kinds = manager.pool_classes_by_scheme
    if all(kind in _signing.values() for kind in kinds.values()):
        return  # another adapter of ours sends with it too
    manager.pool_classes_by_scheme = {scheme: _signing_pool(kind) for scheme, kind in kinds.items()}
    manager.clear()  # pools that it has made already


def _signing_pool(pool: Any) -> type:
    if pool not in _signing:
        base = pool.ConnectionCls

        def request(connection: Any, *args: Any, **kwargs: Any) -> Any:
            fetch = mounted.get()
            if fetch is None:
                return base.request(connection, *args, **kwargs)
            return send(fetch, base.request, connection, *args, **kwargs)

        connection = type(base.__name__, (base,), {"request": request})
        _signing[pool] = type(pool.__name__, (pool,), {"ConnectionCls": connection})
    return _signing[pool]
