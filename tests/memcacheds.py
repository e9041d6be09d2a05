"""
Real memcacheds that do not listen on loopback TCP in the clear: with TLS, or on a unix socket.

Durations are seconds.
"""

import contextlib
import os
import pwd
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import trustme

from presign_middleware.testing.memcached import _find_memcached
from presign_middleware.testing.ports import free_ports
from presign_middleware.testing.processes import Processes

_START_WITHIN: Final = 10.0


class Authority:
    """An authority whose certificate, in *directory*, nobody has heard of."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._authority = trustme.CA(organization_name=name)
        self.file = directory / f"{name}.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def certify(self, host: str) -> tuple[Path, Path]:
        """Return the files of a certificate for *host*, a name or an IP address, and of its key."""
        issued = self._authority.issue_cert(host)
        certificate, key = (self._directory / f"{host}.{kind}" for kind in ("pem", "key"))
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        return certificate, key


@contextlib.contextmanager
def with_tls(certificate: Path, key: Path, *, clients: Path | None = None) -> Iterator[str]:
    """Run a memcached with TLS, and give its address; *clients*: the authority that theirs must be of."""
    (port,) = free_ports(1)
    options = f"ssl_chain_cert={certificate},ssl_key={key}"
    if clients is not None:
        options += f",ssl_verify_mode=2,ssl_ca_cert={clients}"

    def connected() -> socket.socket:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = socket.create_connection(("127.0.0.1", port), timeout=1)
        with contextlib.closing(connection):  # which wrap_socket leaves empty, unless it fails
            return context.wrap_socket(connection)

    with _running(connected, "-l", "127.0.0.1", "-p", str(port), "-Z", "-o", options):
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def on_a_socket(path: Path) -> Iterator[None]:
    """Run a memcached on the unix socket at *path*."""

    def connected() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            raise
        return connection

    with _running(connected, "-s", str(path)):
        yield


@contextlib.contextmanager
def _running(connected: Callable[[], socket.socket], *arguments: str) -> Iterator[None]:
    binary = _find_memcached()
    assert binary is not None
    processes = Processes("memcached")
    try:
        # As who runs the tests, root too: whose directories nobody else can enter.
        processes.spawn(binary, *arguments, "-u", pwd.getpwuid(os.geteuid()).pw_name)
        for _ in processes.polls(time.monotonic() + _START_WITHIN, processes.log_tail(), every=0.01):
            with contextlib.suppress(OSError), connected():
                break
        yield
    finally:
        processes.stop()
