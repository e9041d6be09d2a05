"""
``@presigned``: a function that is given a target receives its URL.
"""

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar, overload

import wrapt

from .errors import ConfigurationError
from .presigner import Presigner
from .scope import current

__all__ = ["presigned"]

F = TypeVar("F", bound=Callable[..., Any])


@overload
def presigned(presigner: F, /) -> F: ...
@overload
def presigned(presigner: Presigner | None = None, /, *, arg: str | None = None) -> Callable[[F], F]: ...
def presigned(presigner: Any = None, /, *, arg: str | None = None) -> Any:
    """
    Replace one argument of a function, the target, by its presigned URL.

    ::

        @presigned
        async def fetch(url: str) -> bytes: ...

        @presigned(presigner, arg="source")
        def download(source: str, to: Path) -> None: ...

    For functions and methods, sync and async; name, signature and docstring stay.
    *arg* names the argument; None: the one called ``url``, else the first. Without a
    *presigner*, that of the current scope is used.

    Raises:
        ConfigurationError: At decoration, there is no such argument; at the call, there
            is neither a presigner nor a scope.
        NotCovered, SigningError: At the call, as from `Presigner.url`.
    """
    if presigner is None or isinstance(presigner, Presigner):
        return lambda function: _decorate(function, presigner, arg)
    if not callable(presigner) and not isinstance(presigner, (staticmethod, classmethod)):
        raise ConfigurationError(
            f"@presigned takes a Presigner or a function, got {type(presigner).__name__}"
        )
    return _decorate(presigner, None, arg)


def _decorate(function: Any, presigner: Presigner | None, arg: str | None) -> Any:
    plain = getattr(function, "__func__", function)  # of a staticmethod or classmethod
    target = _Target(plain, arg, presigner, is_static=isinstance(function, staticmethod))
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
        self, function: Any, arg: str | None, presigner: Presigner | None, *, is_static: bool
    ) -> None:
        self._position, self._name = _argument(function, arg)
        self._presigner = presigner
        self._is_static = is_static
        self._function = _name(function)

    def call(self, wrapped: Any, instance: Any, args: Arguments, kwargs: Keywords) -> Any:
        target, go = self._taken(wrapped, instance, args, kwargs)
        return go(target if target is _MISSING else self._chosen().url(target))

    async def acall(self, wrapped: Any, instance: Any, args: Arguments, kwargs: Keywords) -> Any:
        target, go = self._taken(wrapped, instance, args, kwargs)
        return await go(target if target is _MISSING else await self._chosen().aurl(target))

    async def iterate(
        self, wrapped: Any, instance: Any, args: Arguments, kwargs: Keywords
    ) -> AsyncIterator[Any]:
        target, go = self._taken(wrapped, instance, args, kwargs)
        url = target if target is _MISSING else await self._chosen().aurl(target)
        async with aclosing(go(url)) as items:
            async for item in items:
                yield item

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


def _name(function: Any) -> str:
    """Return what *function* is called; a partial one, or an object with ``__call__``, by its class."""
    return getattr(function, "__qualname__", type(function).__qualname__)
