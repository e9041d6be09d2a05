"""
Where the shared cache is: what ``shared=`` and ``PRESIGN_SHARED`` say.

::

    memcached://10.0.0.1:11211,10.0.0.2             servers; port 11211 where none is given
    memcached://[2001:db8::1]:11211                 an IPv6 address, in brackets
    memcached:///run/memcached/memcached.sock       a unix socket; a comma in a path is %2C
    memcacheds://cache.internal?cafile=/etc/ca.pem  TLS
    elasticache://name.cfg.use1.cache.amazonaws.com the servers that this endpoint tells of
    elasticaches://name.cfg.use1.cache.amazonaws.com  the same, all of it with TLS

Options of TLS, after a ``?``:

* ``cafile``: path of a PEM file of the authorities to trust; default: the system's.
* ``certfile``, ``keyfile``: paths of PEM files, this host's own certificate and its key
  where it is not in the same file, for servers that ask for one.
* ``verify``: ``full``, the default, verifies the certificate and that it is for the host
  named here; ``ca`` the certificate alone; ``none`` nothing, so that anybody may answer.
"""

import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote

from .errors import ConfigurationError

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["Address", "Addresses"]

#: memcached's own.
_PORT = 11_211

_SCHEMES = ("memcached", "memcacheds", "elasticache", "elasticaches")
_OPTIONS = ("cafile", "certfile", "keyfile", "verify")
_VERIFY = ("full", "ca", "none")

_SETTING = re.compile(r"(?s)([a-z]+)://([^?]*)(?:\?(.*))?", re.IGNORECASE).fullmatch
_SERVER = re.compile(r"(?:\[([^][]+)\]|([\w.-]+))(?::(\d{1,5}))?", re.ASCII).fullmatch
_HOST = re.compile(r"(?=.{1,254}$)(?:(?!-)[\w-]{1,63}(?<!-)\.)*(?!-)[\w-]{1,63}(?<!-)\.?", re.ASCII).fullmatch
_NUMBERS = re.compile(r"[\d.]+", re.ASCII).fullmatch
_PATH = re.compile(r"/[^\x00-\x1f\x7f]*[^\x00-\x1f\x7f/]").fullmatch

#: Bytes that the path of a unix socket can have, on Linux; others have a few less.
_LONGEST_PATH = 107


class Address(NamedTuple):
    """Where one server listens."""

    host: str  #: a name or an address, without brackets; or the path of a unix socket
    port: int | None = _PORT  #: None: a unix socket

    def __str__(self) -> str:
        if self.port is None:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Return the address that *text* is. Raises ValueError, which says what is wrong with it."""
        if text.startswith("/"):
            path = unquote(text)
            if not _PATH(path) or len(os.fsencode(path)) > _LONGEST_PATH:
                raise ValueError(f"is no path of a unix socket, {_LONGEST_PATH} bytes at most")
            return cls(path, None)
        found = _SERVER(text)
        if found is None:
            raise ValueError("is neither host:port nor [IPv6]:port nor the path of a unix socket")
        if found[1] and not _is_address(IPv6Address, found[1]):
            raise ValueError("has no IPv6 address in its brackets")
        if found[2] and not (_is_address(IPv4Address, found[2]) if _NUMBERS(found[2]) else _HOST(found[2])):
            raise ValueError("has neither the name of a host nor an IPv4 address")
        port = _PORT if found[3] is None else int(found[3])
        if not 0 < port < 65_536:
            raise ValueError("has a port that is not 1 to 65535")
        return cls((found[1] or found[2]).lower(), port)


@dataclass(frozen=True, slots=True)
class Addresses:
    """The servers of the shared cache, and how they are spoken to."""

    servers: tuple[Address, ...]  #: that hold entries; or the one that tells of them
    tls: "SSLContext | None" = None
    are_discovered: bool = False  #: *servers* is one, which tells of them

    @classmethod
    def parse(cls, setting: str) -> "Addresses":
        """
        Return what *setting* says. Reads the files of its options, and asks nobody.

        Raises:
            ConfigurationError: It names the server, the option or the file that cannot work.
        """
        found = _SETTING(setting) if isinstance(setting, str) else None
        # A user's name and password have no meaning here. Whatever else is wrong, they are not repeated.
        if found is None or "@" in setting or found[1].lower() not in _SCHEMES:
            raise ConfigurationError(
                'shared must look like "memcached://host:port", several servers parted by commas, or begin '
                f"with one of {', '.join(f'{scheme}://' for scheme in _SCHEMES[1:])}; no user, no password; "
                f"got {_shown(setting)}"
            )
        scheme, listed, query = found[1].lower(), found[2], found[3]
        has_tls, are_discovered = scheme.endswith("s"), scheme.startswith("elasticache")
        servers = _servers(listed)
        for server in servers:
            if server.port is None and (has_tls or are_discovered):
                raise ConfigurationError(
                    f"shared has {_shown(str(server))}: a unix socket is memcached:// only"
                )
        if are_discovered and len(servers) > 1:
            raise ConfigurationError(f"shared has {len(servers)} servers; {scheme}:// has one endpoint")
        options = _options(query)
        if options and not has_tls:
            raise ConfigurationError(
                f"shared has the option {min(options)}, which {scheme}:// has not: it is one of TLS, "
                "memcacheds:// or elasticaches://"
            )
        return cls(servers, _context(options) if has_tls else None, are_discovered)


def _is_address(kind: type[IPv4Address | IPv6Address], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _servers(listed: str) -> tuple[Address, ...]:
    if listed.endswith("/") and not listed.startswith("/"):
        listed = listed[:-1]  # many write it after a host
    servers = []
    for text in listed.split(","):
        try:
            servers.append(Address.parse(text))
        except ValueError as error:
            raise ConfigurationError(
                f'shared must look like "memcached://host:port"; its server {_shown(text)} {error}'
            ) from None
    for server in servers:
        if servers.count(server) > 1:
            raise ConfigurationError(f"shared has the server {_shown(str(server))} twice")
    return tuple(servers)


def _options(query: str | None) -> dict[str, str]:
    if query is None:
        return {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        pairs = [("", "")]
    options = dict(pairs)
    for name, value in pairs:
        # No value: one that is meant for something else may be a secret.
        if name not in _OPTIONS:
            raise ConfigurationError(f"shared has the option {_shown(name)}; there are {', '.join(_OPTIONS)}")
        if not value:  # of a variable that was not set, say; OpenSSL would take it for no option
            raise ConfigurationError(f"shared has the option {name} without a value")
    if len(options) < len(pairs):
        raise ConfigurationError("shared has an option twice")
    return options


def _context(options: dict[str, str]) -> "SSLContext":
    import ssl  # which costs a few ms, and few have TLS here

    verify = options.get("verify", "full")
    if verify not in _VERIFY:
        raise ConfigurationError(f"shared has verify={_shown(verify)}; wanted one of {', '.join(_VERIFY)}")
    if verify == "none" and "cafile" in options:
        raise ConfigurationError("shared has a cafile, which verify=none does not use")
    if "keyfile" in options and "certfile" not in options:
        raise ConfigurationError("shared has a keyfile without its certfile")
    name = "cafile"
    try:
        context = ssl.create_default_context(cafile=options.get(name))
        if "certfile" in options:
            name = "certfile"
            # A password of nothing: or OpenSSL would ask for one on the terminal.
            context.load_cert_chain(options[name], options.get("keyfile"), password="")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"shared has {name}={_shown(options.get(name))}, which cannot be used: {type(error).__name__}"
        ) from error
    context.check_hostname = verify == "full"
    context.verify_mode = ssl.CERT_NONE if verify == "none" else ssl.CERT_REQUIRED
    return context


def _shown(text: object) -> str:
    if not isinstance(text, str):
        return type(text).__name__
    if "@" in text:
        text = "...@" + text.rpartition("@")[2]
    return repr(text.partition("?")[0])[:120]  # an option that does not exist may have been given a secret
