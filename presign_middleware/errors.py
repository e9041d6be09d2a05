"""
What can go wrong, and whose fault it is.

::

    PresignError
    ├── ConfigurationError   the program: a setting or an argument that cannot work
    ├── NotCovered           the target: no origin holds it, or it must not be signed
    └── SigningError         the world: no credentials, or the signer refused

A message says what was given, what was wanted and what to do. No message holds
a query string, a signature, a token or a secret.
"""

__all__ = ["ConfigurationError", "NotCovered", "PresignError", "SigningError"]


class PresignError(Exception):
    """Any error this library raises."""


class ConfigurationError(PresignError):
    """A setting or an argument that cannot work, whatever the target."""


class NotCovered(PresignError):
    """A target that no origin holds, or that must not be signed."""


class SigningError(PresignError):
    """A covered target that could not be signed: no credentials, or the signer refused."""
