"""
The WSGI middleware behind real servers: what they do with a body, and when a renewal comes after it.

Applications here fetch a private object with a bare client from the strict oracle behind a real
socket. A URL is FRESH for a second.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from faults import eventually
from ways import ACCESS_KEY, SECRET_KEY, Door, opened

from presign_middleware.testing import Memcached

DEADLINE: Final = 10.0  # seconds after which a test that has gone wrong stops waiting
CAT: Final = b"a cat"

# FRESH for a second, AGEING for 49.
_SHOP = """
import os, time
import boto3, flask, httpx
from presign_middleware import Origin, Policy, Presigner
from presign_middleware.wsgi import PresignMiddleware

door, shared, access_key, secret_key, own = os.environ["SHOP"].split()
presigner = Presigner(
    Origin(
        "media", bucket="media", endpoint_url=door,
        session=boto3.Session(access_key, secret_key, region_name="eu-west-1"),
    ),
    shared=shared,
    policy=Policy(lifetime=60, ageing=49, shared_patience=5),
)
presigner.url("s3://media/met before any fork")
http = httpx.Client(verify=False)
app = flask.Flask("shop")

def cat(name):
    return f"{door}/media/{own}/{name}"

def fetched(name):
    return http.get(cat(name)).raise_for_status().content

@app.get("/met")
def met():
    presigner.urls(map(cat, ["streamed", "view", "file", "broken"]))
    return ""

@app.get("/streamed")
def streamed():
    def parts():
        yield fetched("streamed")
        time.sleep(0.2)
        yield b" %d" % presigner.stats()["refreshed"]
    return flask.Response(parts())

@app.get("/view")
def view():
    return fetched("view")

@app.get("/file")
def file():
    fetched("file")
    return flask.send_file(__file__)

@app.get("/broken")
def broken():
    def parts():
        yield fetched("broken")
        raise RuntimeError("on purpose")
    return flask.Response(parts())

@app.get("/stats")
def stats():
    return presigner.stats()

@app.get("/link")
def link():
    return presigner.url(f"{door}/media/cat.jpg")

app.wsgi_app = PresignMiddleware(app.wsgi_app, presigner=presigner)
"""

WORKERS: Final = {
    "sync": [],
    "gthread": ["--worker-class", "gthread", "--threads", "4"],
    "sync, preloaded": ["--preload"],
    "gthread, preloaded": ["--worker-class", "gthread", "--threads", "4", "--preload"],
}


#: Each fetches an object of its own, whose key is the path.
PATHS: Final = ("/view", "/streamed", "/file", "/broken")


class Gunicorn:
    """A gunicorn with one worker, on a unix socket."""

    def __init__(self, directory: Path, shop: str, *options: str) -> None:
        self.log = directory / "log"
        self._socket = directory / "socket"
        arguments = ["--bind", f"unix:{self._socket}", "--chdir", str(directory), "--log-file", str(self.log)]
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "gunicorn",
                *arguments,
                "--access-logfile",
                str(self.log),
                *options,
                "shop:app",
            ],
            env={**os.environ, "SHOP": shop},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self._socket), verify=False)
        return httpx.Client(transport=transport, base_url="http://shop", timeout=DEADLINE)

    def wait_until_it_listens(self) -> None:
        def listens() -> bool:
            assert self._process.poll() is None, self.log.read_text()
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(str(self._socket)) == 0

        eventually(listens, within=DEADLINE)

    def stop(self) -> None:
        self._process.terminate()

    def wait(self) -> None:
        self._process.wait(DEADLINE)


@pytest.fixture(scope="module")
def live_door() -> Iterator[Door]:
    """Give a door on the real clock, as gunicorn's workers have, with a cat of its own for each of them."""
    with opened(Door()) as door:
        for number in range(len(WORKERS)):
            for path in PATHS:
                door.put("media", f"{number}{path}", CAT)
        yield door


@pytest.fixture(scope="module")
def servers(live_door: Door, memcached_server: Memcached) -> Iterator[dict[str, Gunicorn]]:
    """Start every kind of gunicorn at the same time, since most of it is importing."""
    shop = f"{live_door.base} {memcached_server.url} {ACCESS_KEY} {SECRET_KEY}"
    with contextlib.ExitStack() as stack:
        started = {}
        for number, (kind, options) in enumerate(WORKERS.items()):
            # Not pytest's, whose path may be too long for a unix socket.
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="presign-")))
            (directory / "shop.py").write_text(_SHOP)
            started[kind] = Gunicorn(directory, f"{shop} {number}", *options)
            stack.callback(started[kind].wait)
        for server in started.values():
            stack.callback(server.stop)
        for server in started.values():
            server.wait_until_it_listens()
        yield started


@pytest.fixture(scope="module")
def aged(servers: dict[str, Gunicorn]) -> None:
    """Have every worker hold AGEING URLs of all that its paths fetch."""
    for server in servers.values():
        with server.client() as browser:
            browser.get("/met")
    time.sleep(1.05)


@pytest.fixture(params=WORKERS)
def server(request: pytest.FixtureRequest, servers: dict[str, Gunicorn]) -> Gunicorn:
    return servers[request.param]


@pytest.fixture
def browser(server: Gunicorn) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def count(browser: httpx.Client, name: str) -> int:
    """Return a counter of the worker."""
    found: int = browser.get("/stats").json()[name]
    return found


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.usefixtures("aged")
def test_a_renewal_follows_the_response_of_gunicorn(browser: httpx.Client, path: str) -> None:
    """R1, R2: what a request found AGEING is renewed when it is over, and not before."""
    before = count(browser, "refreshed")
    with contextlib.suppress(httpx.RemoteProtocolError):  # a body that breaks off
        answer = browser.get(path).content
        if path == "/streamed":
            assert answer == CAT + b" %d" % before
    eventually(lambda: count(browser, "refreshed") == before + 1)


def test_fetches_arrive_behind_gunicorn(browser: httpx.Client, server: Gunicorn) -> None:
    """D3, S1: what views, streams and files fetch is accepted, and no log of the server holds a signature."""
    assert browser.get("/view").content == CAT
    assert browser.get("/streamed").content.startswith(CAT)
    assert browser.get("/file").text == _SHOP
    assert httpx.get(browser.get("/link").text, verify=False).content == CAT
    assert count(browser, "caught") >= 3
    assert "X-Amz-" not in server.log.read_text()


def test_workers_hand_out_one_url(servers: dict[str, Gunicorn], memcached_server: Memcached) -> None:
    """K8, M5: through memcached, those that were forked from a process with a connection of its own too."""
    with contextlib.ExitStack() as stack:
        browsers = [stack.enter_context(server.client()) for server in servers.values()]
        eventually(lambda: len({browser.get("/link").text for browser in browsers}) == 1, within=5)
        assert [count(browser, "shared_errors") for browser in browsers] == [0] * len(browsers)
        assert int(memcached_server.stats()["curr_items"]) > 0
