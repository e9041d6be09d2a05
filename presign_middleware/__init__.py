"""
Presigned S3 URLs for web applications: caught, cached, stable, and never dead on arrival.

The public names and nothing else. Each is imported when it is first used, so that
importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .decorator import presigned
    from .errors import ConfigurationError, NotCovered, PresignError, SigningError
    from .explaining import Explanation
    from .interception import intercept
    from .objects import SignedURL
    from .origins import Origin
    from .policy import Policy
    from .presigner import Presigner
    from .redaction import RedactSignatures

__all__ = [
    "ConfigurationError",
    "Explanation",
    "NotCovered",
    "Origin",
    "Policy",
    "PresignError",
    "Presigner",
    "RedactSignatures",
    "SignedURL",
    "SigningError",
    "intercept",
    "presigned",
]

__version__ = "0.1.0"

_ROOMS = {
    "ConfigurationError": "errors",
    "Explanation": "explaining",
    "NotCovered": "errors",
    "Origin": "origins",
    "Policy": "policy",
    "PresignError": "errors",
    "Presigner": "presigner",
    "RedactSignatures": "redaction",
    "SignedURL": "objects",
    "SigningError": "errors",
    "intercept": "interception",
    "presigned": "decorator",
}


def __getattr__(name: str) -> Any:
    room = _ROOMS.get(name)
    if room is not None:
        value = globals()[name] = getattr(import_module(f".{room}", __name__), name)
        return value
    if name in {"asgi", "dashboard", "links", "testing", "wsgi"}:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
