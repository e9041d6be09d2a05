"""
A process that serves the dashboard, and a browser without a window.

    with Serving(memcached.address) as one, Browser() as browser: ...
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from types import TracebackType
from typing import Any, Final, Self

CHROMIUM: Final = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)

DEADLINE: Final = 30  # seconds after which a browser that says nothing is given up

_PROCESS: Final = """
import json, os, sys
from socketserver import ThreadingMixIn
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import boto3
from botocore.credentials import RefreshableCredentials
from botocore.session import Session
from datetime import UTC, datetime, timedelta

from presign_middleware import Origin, Policy, Presigner, dashboard, presence

shared, secret, shown = json.loads(sys.argv[1])
presence._LOOK_EVERY, presence._LOOKS, presence._EXPIRE, presence._READ_EVERY = 0.1, 1, 2, 0.1
session = Session()
session._credentials = RefreshableCredentials(
    "AKIAPRESIGNPAGE00000", "a-secret-of-the-dashboard", "a-token-of-the-dashboard",
    datetime.now(UTC) + timedelta(hours=6), lambda: None, "test")
session = boto3.Session(botocore_session=session)
origin = Origin("media", bucket="acme-media", region="eu-west-1", session=session)
presigner = Presigner(origin, shared=shared, secret=secret, policy=Policy(shared_patience=1.0))

class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass

class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

port = 0
if shown == "page":
    server = make_server("127.0.0.1", 0, dashboard.wsgi(presigner), Server, Quiet)
    Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_port
elif shown:
    dashboard.publish(presigner)
if shown == "fork" and os.fork():
    os.wait()
    os._exit(0)
print(port, flush=True)
for line in sys.stdin:
    begin, number = json.loads(line)
    presigner.urls([f"s3://acme-media/secret-name-{begin + each}" for each in range(number)])
    print("done", flush=True)
presigner.close()
"""


class Serving:
    """
    A process with a presigner.

    *shown*: "page", "publish", "fork" (publish, and then fork), or "" where nothing asks for it.
    """

    def __init__(
        self, shared: str | None, *, shown: str = "page", secret: str | None = None, **environment: str
    ) -> None:
        self._running = subprocess.Popen(
            [sys.executable, "-c", _PROCESS, json.dumps([shared, secret, shown])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.pid = self._running.pid
        self._base: str | None = None

    @property
    def base(self) -> str:
        """Where its page is."""
        if self._base is None:
            assert self._running.stdout is not None
            self._base = f"http://127.0.0.1:{int(self._running.stdout.readline())}/"
        return self._base

    def sign(self, number: int, begin: int = 0) -> None:
        """Have it hand out so many URLs, and wait until it has."""
        assert self.base
        assert self._running.stdin is not None
        assert self._running.stdout is not None
        self._running.stdin.write(f"{json.dumps([begin, number])}\n")
        self._running.stdin.flush()
        assert self._running.stdout.readline() == "done\n"

    def read(self, path: str = "") -> bytes:
        """Return what its page answers at *path*."""
        with urllib.request.urlopen(self.base + path, timeout=10) as answer:
            body: bytes = answer.read()
        return body

    def data(self) -> dict[str, Any]:
        """Return what its page tells machines."""
        told: dict[str, Any] = json.loads(self.read("data.json"))
        return told

    def pids(self) -> set[int]:
        """Return the processes that its page shows."""
        return {worker["pid"] for worker in self.data()["workers"]}

    def end(self) -> None:
        """Have it close its presigner, and end."""
        self._running.communicate(timeout=20)

    def kill(self) -> None:
        """End it without a goodbye."""
        self._running.kill()
        self._running.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            self._running.kill()
        if self._running.returncode is None:
            self.end()


class Browser:
    """A headless Chromium, spoken to in its own protocol through a pipe: one page, one command at a time."""

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self._directory = tempfile.mkdtemp(prefix="presign-browser-")
        ours, theirs = os.pipe(), os.pipe()  # what we read, what it reads
        # It reads from 3 and writes to 4, by any numbers that are free here.
        self._running = subprocess.Popen(
            [
                *("/bin/bash", "-c", f'exec "$@" 3<&{theirs[0]} 4>&{ours[1]}', "bash", CHROMIUM),
                *("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
                *("--hide-scrollbars", f"--user-data-dir={self._directory}", "about:blank"),
            ],
            pass_fds=(theirs[0], ours[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        os.close(theirs[0])
        os.close(ours[1])
        self._in, self._out = os.fdopen(ours[0], "rb"), os.fdopen(theirs[1], "wb", buffering=0)
        self._number, self._session = 0, ""
        self._rest = b""
        self.complaints: list[str] = []  #: of the console, exceptions, refused and failed loads
        targets = self.say("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self.say("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.say(f"{domain}.enable")

    def say(self, method: str, **params: Any) -> Any:
        """Return what the browser answers to a command."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while (heard := self._hear()).get("id") != self._number:
            pass
        assert "error" not in heard, heard
        return heard["result"]

    def open(self, url: str, *, width: int, height: int = 900, scheme: str = "light") -> None:
        """Show *url* in a window of so many pixels."""
        self.say(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.say("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.say("Page.navigate", url=url)
        while self._hear().get("method") != "Page.loadEventFired":
            pass

    def value(self, expression: str) -> Any:
        """Return what *expression* is in the page; a promise is awaited."""
        found = self.say("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self) -> bytes:
        """Return the window as a WebP image."""
        shot = self.say("Page.captureScreenshot", format="webp", quality=80)
        return base64.b64decode(shot["data"])

    def _hear(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._in], [], [], DEADLINE)[0], "the browser is silent"
            part = os.read(self._in.fileno(), 65_536)
            assert part, "the browser has ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        heard: dict[str, Any] = json.loads(line)
        params = heard.get("params", {})
        match heard.get("method"):
            case "Runtime.exceptionThrown" | "Network.loadingFailed":
                self.complaints.append(json.dumps(params))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(params))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(json.dumps(params))
        return heard

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._running.pid, 9)
        self._running.wait()
        self._in.close()
        self._out.close()
        shutil.rmtree(self._directory, ignore_errors=True)
