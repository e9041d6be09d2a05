"""
A hook on the innermost callable of a class attribute, and its exact inverse.

Other tools wrap the same methods. Ours sits inside all wrappers that wrapt made, so
that they see what the application asked for, and leaves every one of them in place.
"""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import wrapt

__all__ = ["Hook"]


class Hook:
    """
    Puts ``make(original, hook)`` in the place of ``owner.name``.

    A plain function and no wrapt proxy: OpenTelemetry's ``unwrap`` takes off whatever
    proxy is outermost, which must never be ours. What is installed asks `active` at
    each call, since a tool that keeps the hook in a closure makes it irremovable.
    """

    def __init__(self, owner: type, name: str, make: Callable[[Callable[..., Any], "Hook"], Any]) -> None:
        self.active = True
        self._owner = owner
        self._name = name
        outer, self._original = self._innermost()
        self._ours = update_wrapper(make(self._original, self), self._original)
        self._put(outer, self._ours)

    def remove(self) -> None:
        """Leave everything as it was; where another tool has us in a closure, stay and do nothing."""
        self.active = False
        outer, inner = self._innermost()
        if inner is self._ours:
            self._put(outer, self._original)

    def _innermost(self) -> tuple[Any, Callable[..., Any]]:
        """Return the last wrapt proxy of the chain, or None, and the callable it holds."""
        outer, inner = None, vars(self._owner)[self._name]
        while isinstance(inner, wrapt.ObjectProxy):
            outer, inner = inner, inner.__wrapped__
        return outer, inner

    def _put(self, outer: Any, function: Callable[..., Any]) -> None:
        if outer is None:
            setattr(self._owner, self._name, function)
        else:
            outer.__wrapped__ = function
