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
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from presign_middleware.testing.memcached import _find_memcached
from presign_middleware.testing.ports import free_ports
from presign_middleware.testing.processes import Processes

_START_WITHIN: Final = 10.0


class Authority:
    """An authority whose certificate, in *directory*, nobody has heard of."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.file = self._written(f"{name}.pem", builder.sign(self._key, hashes.SHA256()))

    def certify(self, host: str) -> tuple[Path, Path]:
        """Return the files of a certificate for *host*, a name or an IP address, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            whom: x509.GeneralName = x509.IPAddress(ip_address(host))
        except ValueError:
            whom = x509.DNSName(host)
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]), key)
        builder = builder.add_extension(x509.SubjectAlternativeName([whom]), critical=False)
        certificate = self._written(f"{host}.pem", builder.sign(self._key, hashes.SHA256()))
        key_file = self._directory / f"{host}.key"
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, key_file

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return x509.CertificateBuilder(
            self._name,
            subject,
            key.public_key(),
            x509.random_serial_number(),
            now - timedelta(days=1),
            now + timedelta(days=1),
        )

    def _written(self, name: str, certificate: x509.Certificate) -> Path:
        path = self._directory / name
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path


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
