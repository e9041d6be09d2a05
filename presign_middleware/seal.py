"""
Seals: what lies in the shared cache, for those alone who know the secret.

::

    seal = Seal([new, old], clock)
    seal.unseal(key, seal.seal(key, data)) == data

A sealed value is a version (``s``, one byte), the UTC day of sealing (three), a random
nonce (twelve), and AES-256-GCM of the data with its tag (sixteen more than the data). The
version, the day and the cache key are authenticated with it: under another cache key, and
so in another namespace, it does not open.

Each day has a key of its own, HKDF-SHA256 of the secret and the day. A nonce must not be
used twice with one key, and random ones may be used 2**32 times (NIST SP 800-38D, 8.3):
a fleet that seals 50,000 values a second gets there in a day.
"""

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import ConfigurationError
from .events import tell
from .policy import LONGEST
from .resolver import Clock

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["Seal", "Secrets", "is_this_machine", "tell_if_in_clear"]

logger = logging.getLogger("presign_middleware.seal")

#: One secret, or several of which the first one seals and each one opens.
Secrets = bytes | str | Sequence[bytes | str]

#: The form of a sealed value. What is not sealed begins otherwise, see `shared.encode`.
_VERSION = b"s"

#: Bytes of version and day, of these and the nonce, and of an empty value when it is sealed.
_HEADER, _PREFIX, _LEAST = 4, 16, 32

_DAY = 86_400

#: Days since sealing after which no URL lives any more, and days by which another host's clock may be ahead.
_PAST, _AHEAD = LONGEST // _DAY, 1

#: Bytes of a secret.
_SHORTEST = 32


class Seal:
    """
    Encrypts and authenticates values by their cache keys. For any number of threads and forks.

    Raises:
        ConfigurationError: A secret that is none, or ``cryptography`` is not installed.
    """

    def __init__(self, secrets: Secrets, clock: Clock) -> None:
        self._secrets = _checked(secrets)
        try:
            from cryptography.exceptions import InvalidTag
        except ImportError as error:
            raise ConfigurationError(
                "secret needs the package cryptography: pip install presign-middleware[crypto]"
            ) from error
        self._invalid = InvalidTag
        self._clock = clock
        self._ciphers: dict[bytes, list[AESGCM]] = {}  # of each secret, by version and day

    def seal(self, key: str, data: bytes) -> bytes:
        """Return *data* as it is to be stored under *key*; never the same bytes twice."""
        header = _VERSION + self._today().to_bytes(_HEADER - 1, "big")
        nonce = os.urandom(_PREFIX - _HEADER)  # of the kernel's, which no fork repeats
        return header + nonce + self._of(header)[0].encrypt(nonce, data, header + key.encode())

    def unseal(self, key: str, data: bytes) -> bytes | None:
        """Return what `seal` was given for *key*, or None: *data* is not of its making, or too old."""
        header = data[:_HEADER]
        if len(data) < _LEAST or not header.startswith(_VERSION):
            return None
        if not -_AHEAD <= self._today() - int.from_bytes(header[1:], "big") <= _PAST:
            return None
        for cipher in self._of(header):
            try:
                return cipher.decrypt(data[_HEADER:_PREFIX], data[_PREFIX:], header + key.encode())
            except self._invalid:
                continue
        return None

    def is_fresh(self, key: str, data: bytes) -> bool:
        """Return whether *data*, which opens, was sealed lately and with the first secret."""
        header, nonce = data[:_HEADER], data[_HEADER:_PREFIX]
        if self._today() - int.from_bytes(header[1:], "big") > 1:
            return False
        try:
            self._of(header)[0].decrypt(nonce, data[_PREFIX:], header + key.encode())
        except self._invalid:
            return False
        return True

    def _today(self) -> int:
        return int(self._clock.time()) // _DAY

    def _of(self, header: bytes) -> "list[AESGCM]":
        """Return the ciphers of the day in *header*, each secret's."""
        ciphers = self._ciphers.get(header)
        if ciphers is None:
            if len(self._ciphers) > _PAST + _AHEAD:  # all the days there can be at once
                self._ciphers.clear()
            ciphers = self._ciphers[header] = [_cipher(secret, header) for secret in self._secrets]
        return ciphers


def _cipher(secret: bytes, header: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return AESGCM(HKDF(SHA256(), 32, salt=None, info=b"presign-middleware " + header).derive(secret))


def _checked(secrets: object) -> list[bytes]:
    """Return *secrets* as bytes. Raises ConfigurationError, which does not show them."""
    if isinstance(secrets, (bytes, str)):
        secrets = [secrets]
    if not isinstance(secrets, Sequence):
        raise _refused(f"a {type(secrets).__name__}")
    if not secrets:
        raise _refused("none")
    return [_bytes(secret) for secret in secrets]


def _bytes(secret: object) -> bytes:
    if not isinstance(secret, (bytes, str)):
        raise _refused(f"a {type(secret).__name__}")
    # An error of encode() would hold the text, so there is none: any code point has bytes.
    data = secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else secret
    if len(data) < _SHORTEST:
        raise _refused(f"one of {len(data)}")
    if len(set(secret)) == 1:
        raise _refused("one character over and over")
    return data


def _refused(got: str) -> ConfigurationError:
    return ConfigurationError(
        f"secret must be {_SHORTEST} bytes or more that nobody can guess, bytes or text, or a list of them "
        f"(in PRESIGN_SECRET parted by spaces); got {got}. "
        "python -c 'import secrets; print(secrets.token_hex(32))' makes one"
    )


def tell_if_in_clear(host: str, *, is_private: bool) -> None:
    """
    Warn that others can read and alter what is shared through *host*.

    Unless the way there *is_private* (TLS, a unix socket) or does not leave this machine: no name
    is resolved to know that. For presigners without a secret.
    """
    if is_private or is_this_machine(host):
        return
    tell(
        logger,
        logging.WARNING,
        "shared_in_clear",
        "what is shared through memcached %s is in clear there and on the way: whoever can read it can fetch "
        "objects until their URLs end. Give secret=, or use memcacheds:// where only the way is not to be "
        "trusted",
        host,
        server=host,
    )


def is_this_machine(host: str) -> bool:
    """Return whether what is sent to *host* does not leave this machine. No name is resolved."""
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
