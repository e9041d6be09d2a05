"""
``@presigned``: a function that is given a target receives its URL.
"""

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar, overload

import wrapt

from .errors import ConfigurationError
from .healing import Attempt
from .presigner import Presigner
from .refusals import Reply
from .scope import current

__all__ = ["presigned"]

F = TypeVar("F", bound=Callable[..., Any])


@overload
def presigned(presigner: F, /) -> F: ...
@overload
def presigned(
    presigner: Presigner | None = None, /, *, arg: str | None = None, fallback: str | None = None
) -> Callable[[F], F]: ...
def presigned(presigner: Any = None, /, *, arg: str | None = None, fallback: str | None = None) -> Any:
    """
    Replace one argument of a function, the target, by its presigned URL.

    ::

        @presigned
        async def fetch(url: str) -> bytes: ...

        @presigned(presigner, arg="source")
        def download(source: str, to: Path) -> None: ...

        @presigned(presigner, fallback="archive")
        def fetch(url: str) -> requests.Response: ...

    For functions and methods, sync and async; name, signature and docstring stay.
    *arg* names the argument; None: the one called ``url``, else the first. Without a
    *presigner*, that of the current scope is used.

    A function whose response or exception has status 404 is called again with the URL of
    the same key in the origin *fallback*, or where the target's own origin falls back to.
    Generators are not.

    Raises:
        ConfigurationError: At decoration, there is no such argument; at the call, there
            is neither a presigner nor a scope, or no such origin.
        NotCovered, SigningError: At the call, as from `Presigner.url`.
    """
    if presigner is None or isinstance(presigner, Presigner):
        return lambda function: _decorate(function, presigner, arg, fallback)
    if not callable(presigner) and not isinstance(presigner, (staticmethod, classmethod)):
        raise ConfigurationError(
            f"@presigned takes a Presigner or a function, got {type(presigner).__name__}"
        )
    return _decorate(presigner, None, arg, fallback)


def _decorate(function: Any, presigner: Presigner | None, arg: str | None, fallback: str | None) -> Any:
    plain = getattr(function, "__func__", function)  # of a staticmethod or classmethod
    if fallback is not None and (inspect.isasyncgenfunction(plain) or inspect.isgeneratorfunction(plain)):
        raise ConfigurationError(
            f"@presigned {_name(plain)}() is a generator, which cannot begin anew: leave fallback= out"
        )
    target = _Target(plain, arg, presigner, fallback, is_static=isinstance(function, staticmethod))
    wrapper: Callable[..., Any] = target.call
    if inspect.isasyncgenfunction(plain):
        wrapper = target.iterate
    elif inspect.iscoroutinefunction(plain):
        wrapper = target.acall
    return wrapt.FunctionWrapper(function, wrapper)


Arguments = tuple[Any, ...]
Keywords = dict[str, Any]


class _Target:
    """The argument that is a target, and the three ways of calling with its URL."""

    def __init__(
        self,
        function: Any,
        arg: str | None,
        presigner: Presigner | None,
        fallback: str | None,
        *,
        is_static: bool,
    ) -> None:
        self._position, self._name = _argument(function, arg)
        self._presigner = presigner
        self._fallback = fallback
        self._is_static = is_static
        self._function = _name(function)

    def call(self, wrapped: Any, instance: Any, args: Arguments, kwargs: Keywords) -> Any:
        target, go = self._taken(wrapped, instance, args, kwargs)
        if target is _MISSING:
            return go(target)
        presigner = self._chosen()
        attempt = presigner.attempt(target, self._fallback) if self._falls_back(presigner) else None
        if attempt is None:
            return go(presigner.url(target))
        while True:
            following: Attempt | None = None
            try:
                outcome = go(attempt.url)
            except Exception as error:
                following = attempt.again(Reply(404, {})) if _is_missing(attempt, error) else None
                if following is None:
                    raise
            else:
                following = attempt.again(Reply(404, {})) if _is_missing(attempt, outcome) else None
                if following is None:
                    return outcome
                getattr(outcome, "close", _nothing)()
            attempt = following

    async def acall(self, wrapped: Any, instance: Any, args: Arguments, kwargs: Keywords) -> Any:
        target, go = self._taken(wrapped, instance, args, kwargs)
        if target is _MISSING:
            return await go(target)
        presigner = self._chosen()
        attempt = await presigner.aattempt(target, self._fallback) if self._falls_back(presigner) else None
        if attempt is None:
            return await go(await presigner.aurl(target))
        while True:
            following: Attempt | None = None
            try:
                outcome = await go(attempt.url)
            except Exception as error:
                following = await attempt.aagain(Reply(404, {})) if _is_missing(attempt, error) else None
                if following is None:
                    raise
            else:
                following = await attempt.aagain(Reply(404, {})) if _is_missing(attempt, outcome) else None
                if following is None:
                    return outcome
                closing = getattr(outcome, "aclose", getattr(outcome, "close", _nothing))()
                if inspect.isawaitable(closing):
                    await closing
            attempt = following

    async def iterate(
        self, wrapped: Any, instance: Any, args: Arguments, kwargs: Keywords
    ) -> AsyncIterator[Any]:
        target, go = self._taken(wrapped, instance, args, kwargs)
        url = target if target is _MISSING else await self._chosen().aurl(target)
        async with aclosing(go(url)) as items:
            async for item in items:
                yield item

    def _falls_back(self, presigner: Presigner) -> bool:
        if self._fallback is not None and self._fallback not in presigner.origins:
            raise ConfigurationError(
                f"@presigned {self._function}() has fallback={self._fallback!r}: no origin is called that; "
                f"known are {', '.join(presigner.origins)}"
            )
        return self._fallback is not None or presigner.falls_back

    def _chosen(self) -> Presigner:
        if self._presigner is not None:
            return self._presigner
        scope = current()
        if scope is None:
            raise ConfigurationError(
                f"@presigned {self._function}() was called outside any request and has no presigner: "
                "call it inside `with presigner.scope():`, add PresignMiddleware to the application, "
                "or write @presigned(presigner)"
            )
        presigner: Presigner = scope.presigner
        return presigner

    def _taken(
        self, wrapped: Any, instance: Any, args: Arguments, kwargs: Keywords
    ) -> tuple[Any, Callable[[Any], Any]]:
        """Return the target, and what calls the function with its URL."""
        name = self._name
        if name in kwargs:
            return kwargs[name], lambda url: wrapped(*args, **{**kwargs, name: url})
        # wrapt hands over a method's arguments without its self or cls.
        at = self._position - (instance is not None and not self._is_static)
        if self._position < 0 or not 0 <= at < len(args):
            inspect.signature(wrapped).bind(*args, **kwargs)  # says in Python's own words what is missing
            return _MISSING, lambda _: wrapped(*args, **kwargs)
        return args[at], lambda url: wrapped(*args[:at], url, *args[at + 1 :], **kwargs)


#: The argument was left out and has a default: there is nothing to sign.
_MISSING = object()


def _argument(function: Any, arg: str | None) -> tuple[int, str]:
    """Return position and name of the argument that is the target; -1 where it has a name only."""
    parameters = inspect.signature(function).parameters
    names = [n for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if arg is None:
        # Outside of classes there is no self to step over; inside, it is never the target.
        arg = "url" if "url" in names else next((n for n in names if n not in ("self", "cls")), None)
    if arg not in names:
        raise ConfigurationError(
            f"@presigned {_name(function)}() has no argument that could be the target"
            if arg is None
            else f"@presigned {_name(function)}() has no argument {arg}; it has: {', '.join(names)}"
        )
    return -1 if parameters[arg].kind is inspect.Parameter.KEYWORD_ONLY else names.index(arg), arg


def _is_missing(attempt: Attempt, outcome: Any) -> bool:
    """Return whether *outcome*, a response or an exception, says 404; tell *attempt* what it says."""
    status = _status(outcome)
    if status is None and not isinstance(outcome, Exception):
        status = 200  # the function has made something else of the response
    return status is not None and attempt.heard(status, {}) and status == 404


def _status(outcome: Any) -> int | None:
    """Return the HTTP status that a response or an exception of any client has."""
    for name in ("status_code", "status", "code"):  # of httpx and requests, of aiohttp and urllib3, of urllib
        status = getattr(outcome, name, None)
        if isinstance(status, int):
            return status
    response = getattr(outcome, "response", None)
    if isinstance(response, dict):  # botocore's
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else None
    return None if response is None else _status(response)


def _nothing() -> None:
    pass


def _name(function: Any) -> str:
    """Return what *function* is called; a partial one, or an object with ``__call__``, by its class."""
    return getattr(function, "__qualname__", type(function).__qualname__)
