"""
A hook on the innermost callable of an attribute, and its exact inverse.

Other tools wrap the same methods. Ours sits inside all wrappers that wrapt made, so
that they see what the application asked for, and leaves every one of them in place.
"""

import os
from collections.abc import Callable
from functools import update_wrapper
from threading import RLock
from typing import Any
from weakref import WeakSet

import wrapt

__all__ = ["Hooks", "innermost"]

_PROXIES = (wrapt.ObjectProxy, wrapt.FunctionWrapper, wrapt.BoundFunctionWrapper)

_lock = RLock()  # of all hooks, so that a forked child can have another


class Hooks:
    """
    The hooks of one `intercept`: on classes, and on objects whose method was wrapped by itself.

    What is placed asks `active` at each call, since a tool that keeps one of ours in a
    closure makes it irremovable; from then on it does nothing.
    """

    def __init__(self) -> None:
        self.active = True
        self._owners: dict[str, WeakSet[Any]] = {}  # weak: neither clients nor classes live longer for us
        # Known by identity: a wrapper made with functools.wraps, as Sentry's, has all our attributes.
        # No wrapt proxies: OpenTelemetry's ``unwrap`` takes off whatever proxy is outermost.
        self._ours: WeakSet[Callable[..., Any]] = WeakSet()

    def place(self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Put ``make(original)`` in the place of the original behind ``owner.name``, once."""
        if type(owner).__hash__ is None:  # it cannot be found again to take the hook off
            return
        with _lock:
            owners = self._owners.setdefault(name, WeakSet())
            if not self.active or owner in owners:
                return
            owners.add(owner)
            outer, original = innermost(owner, name)
            ours = update_wrapper(make(original), original)
            self._ours.add(ours)
            _put(owner, name, outer, ours)

    def remove(self) -> None:
        """Leave everything as it was; where another tool has one of ours in a closure, it stays, inert."""
        with _lock:
            self.active = False
            for name, owners in self._owners.items():
                for owner in [owner for owner in owners if name in vars(owner)]:  # else it was taken off
                    outer, inner = innermost(owner, name)
                    if any(inner is one for one in self._ours):
                        _put(owner, name, outer, inner.__wrapped__)
            self._owners.clear()


def innermost(owner: Any, name: str) -> tuple[Any, Any]:
    """Return the last wrapt proxy of the chain, or None, and the callable it holds."""
    outer, inner = None, vars(owner)[name]
    while isinstance(inner, _PROXIES):
        outer, inner = inner, inner.__wrapped__
    return outer, inner


def _put(owner: Any, name: str, outer: Any, function: Callable[..., Any]) -> None:
    if outer is None:
        setattr(owner, name, function)
    else:
        outer.__wrapped__ = function


def _unlock() -> None:
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)  # a thread that held it is not in the child
