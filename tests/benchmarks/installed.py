"""Peers are optional: one that is not installed is told as missing, and is no error."""

import importlib
from typing import Any

__all__ = ["found"]


def found(name: str) -> Any:
    """Return the module *name*, None if it or what it needs is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
