"""
``intercept()``: hooks on HTTP clients, and their exact inverse.

Hooks are process-wide and inert: a scope decides at each call whether anything is
signed. A client library that is not imported yet is hooked when it is.
"""

import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from threading import RLock
from types import ModuleType
from typing import Protocol

import wrapt

from .clients.aiohttp import AiohttpHooks
from .clients.botocore import AiobotocoreHooks, BotocoreHooks, keeping
from .clients.httpx import HttpxHooks
from .clients.requests import RequestsHooks
from .clients.urllib3 import Urllib3Hooks
from .errors import ConfigurationError
from .presigner import Presigner
from .scope import ambient

__all__ = ["Interception", "intercept"]


class _Hooks(Protocol):
    def remove(self) -> None: ...


_CLIENTS: dict[str, Callable[[ModuleType], _Hooks]] = {
    "httpx": HttpxHooks,
    "httpx2": HttpxHooks,
    "requests": RequestsHooks,
    "urllib3": Urllib3Hooks,
    "aiohttp": AiohttpHooks,
    "botocore": BotocoreHooks,
    "aiobotocore": AiobotocoreHooks,
}

#: The module to wait for, where it is not the package: many import that for its exceptions alone.
_MODULES = {"botocore": "botocore.client", "aiobotocore": "aiobotocore.client"}

#: A client that others send through: only their own hooks know a redirect for what it is.
_BRINGS = {"urllib3": ("requests",)}

_lock = RLock()  # an import hook may fire while one of ours is being placed
_wanted: Counter[str] = Counter()
_installed: dict[str, _Hooks] = {}
_awaited: set[str] = set()
_modules: dict[str, ModuleType] = {}  # those that are imported to their end, as not all of sys.modules are


class Interception:
    """What one call of `intercept` has put in place. A context manager."""

    def __init__(self, names: tuple[str, ...], presigner: Presigner | None, upgrade: bool) -> None:
        self._names = names
        self._presigner = presigner
        self._upgrade = upgrade
        self._placed = True

    def remove(self) -> None:
        """Take back what this call did. Hooks go when the last call that wanted them is taken back."""
        with _lock:
            if not self._placed:
                return
            self._placed = False
            if self._presigner is not None:
                ambient.remove(self._presigner)
            if not self._upgrade:
                keeping.remove(self)
            for name in reversed(self._names):  # no client is hooked without those it brings
                _wanted[name] -= 1
                if not _wanted[name] and name in _installed:
                    _installed.pop(name).remove()

    def __enter__(self) -> "Interception":
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


def intercept(*clients: str, presigner: Presigner | None = None, upgrade: bool = True) -> Interception:
    """
    Hook *clients* (all that are supported when none is named): "httpx", "httpx2", "requests",
    "urllib3", "aiohttp", "botocore", "aiobotocore". "urllib3" brings "requests" along, which sends
    through it.

    The middleware does this by itself. With *presigner* the hooks sign outside of
    scopes too, everywhere in the process. With ``upgrade=False`` boto3 clients that nobody gave
    a signature version keep the one that boto3 takes, SigV2 in the oldest regions: their
    ``generate_presigned_url`` is left to boto3, whoever else intercepts it.

    Raises:
        ConfigurationError: A name that is not a supported client's.
    """
    unknown = set(clients) - _CLIENTS.keys()
    if unknown:
        raise ConfigurationError(
            f"cannot intercept {min(unknown)!r}; known clients are {', '.join(_CLIENTS)}"
        )
    asked = clients or tuple(_CLIENTS)
    names = tuple(dict.fromkeys(name for one in asked for name in (*_BRINGS.get(one, ()), one)))
    with _lock:
        if presigner is not None:
            ambient.append(presigner)
        for name in names:
            _wanted[name] += 1
            if name not in _awaited:
                _awaited.add(name)
                wrapt.register_post_import_hook(partial(_place, name), _MODULES.get(name, name))
            elif name in _modules:
                _place(name, _modules[name])
        interception = Interception(names, presigner, upgrade)
        if not upgrade:
            keeping.append(interception)
    return interception


def _place(name: str, library: ModuleType) -> None:
    """Hook *library*, now that it is imported, if anyone still wants that."""
    with _lock:
        _modules[name] = library
        if _wanted[name] and name not in _installed:
            _installed[name] = _CLIENTS[name](library)


def _unlock() -> None:
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)  # a thread that held it is not in the child
