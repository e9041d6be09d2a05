"""
``@presigned``: a function that is given a target receives its URL.
"""

import inspect
from collections.abc import Callable
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
    position, name = _argument(plain, arg)

    def chosen() -> Presigner:
        scope = current()
        if presigner is not None:
            return presigner
        if scope is None:
            raise ConfigurationError(
                f"@presigned {plain.__qualname__}() was called outside any request and has no presigner "
                "of its own: call it inside `with presigner.scope():`, add PresignMiddleware to the application, "
                "or write @presigned(presigner)"
            )
        found: Presigner = scope.presigner
        return found

    def taken(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Return the target and how to call with its URL."""
        if name in kwargs:
            return kwargs[name], lambda url: wrapped(*args, **{**kwargs, name: url})
        # wrapt hands over a method's arguments without its self or cls.
        at = position - (instance is not None and not isinstance(function, staticmethod))
        if not 0 <= at < len(args):
            inspect.signature(wrapped).bind(*args, **kwargs)  # says in Python's own words what is missing
            return _MISSING, lambda _: wrapped(*args, **kwargs)
        return args[at], lambda url: wrapped(*args[:at], url, *args[at + 1 :], **kwargs)

    if inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):

        async def acall(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            target, go = taken(wrapped, instance, args, kwargs)
            return await go(target if target is _MISSING else await chosen().aurl(target))

        return wrapt.FunctionWrapper(function, acall)

    def call(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target, go = taken(wrapped, instance, args, kwargs)
        return go(target if target is _MISSING else chosen().url(target))

    return wrapt.FunctionWrapper(function, call)


#: The argument was left out and has a default: there is nothing to sign.
_MISSING = object()


def _argument(function: Any, arg: str | None) -> tuple[int, str]:
    """Return position and name of the argument that is the target."""
    names = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if arg is None:
        # Outside of classes there is no self to step over; inside, it is never the target.
        arg = "url" if "url" in names else next((n for n in names if n not in ("self", "cls")), None)
    if arg not in names:
        raise ConfigurationError(
            f"@presigned {function.__qualname__}() has no argument {arg or 'at all'}; "
            f"it has: {', '.join(names)}"
        )
    return names.index(arg), arg
