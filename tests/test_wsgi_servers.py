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

DEADLINE: Final = 60.0  # seconds after which a test that has gone wrong stops waiting
CAT: Final = b"a cat"
BIG: Final = 8_000_000  # bytes: more than a socket takes that nobody reads

# FRESH for a second, AGEING for 49.
_SHOP = """
import contextvars, io, os, time
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

@app.get("/spawned")
def spawned():
    import gevent
    with_context = gevent.spawn(contextvars.copy_context().run, fetched, "view")
    return [gevent.spawn(http.get, cat("view")).get().status_code, with_context.get().decode()]

@app.get("/stats")
def stats():
    return presigner.stats()

@app.get("/link")
def link():
    return presigner.url(f"{door}/media/cat.jpg")

def closed(what):
    open(f"closed-{what}", "w").close()

class Big(io.FileIO):
    def close(self):
        if not self.closed:
            closed("file")
        super().close()

@app.get("/big/<what>")
def big(what):
    if what == "file":
        with open("big", "wb") as file:
            file.truncate(BIG)
        return flask.send_file(Big("big"), mimetype="image/jpeg")
    parts = [bytes(BIG)] if what == "list" else (bytes(BIG // 100) for _ in range(100))
    response = flask.Response(parts)
    response.call_on_close(lambda: closed(what))
    return response

app.wsgi_app = PresignMiddleware(app.wsgi_app, presigner=presigner)
""".replace("BIG", str(BIG))

_SHOP_IN_ASGI = """
from a2wsgi import WSGIMiddleware
from shop import app
asgi = WSGIMiddleware(app)
"""

_PATCHED = "from gevent import monkey; monkey.patch_all()"

_GUNICORN: Final = "gunicorn --bind unix:socket --log-file log --access-logfile log shop:app"
_UWSGI: Final = (
    "uwsgi --http-socket socket --master --processes 1 --die-on-term --need-app --logto log "
    "--wsgi-file shop.py --callable app"
)

#: Kinds of server, and the command of each, run in a directory of its own.
SERVERS: Final = {
    "gunicorn, sync": _GUNICORN,
    "gunicorn, sync, preloaded": f"{_GUNICORN} --preload",
    "gunicorn, gthread": f"{_GUNICORN} --worker-class gthread --threads 4",
    "gunicorn, gthread, preloaded": f"{_GUNICORN} --worker-class gthread --threads 4 --preload",
    "gunicorn, gevent": f"{_GUNICORN} --worker-class gevent",
    "gunicorn, gevent, preloaded": f"{_GUNICORN} --worker-class gevent --preload --config patched.py",
    "uWSGI": _UWSGI,
    "uWSGI, threads": f"{_UWSGI} --threads 2",
    "waitress": "waitress-serve --unix-socket=socket shop:app",
    "Flask's own": "flask --app shop run --host unix://socket",
    "a2wsgi": "uvicorn --uds socket shop_in_asgi:asgi",
}

#: Those that load the application in a process of which the worker is a fork.
FORKING: Final = {kind for kind in SERVERS if "preloaded" in kind or "uWSGI" in kind}

#: Those that close a body when they have buffered it, and not when the system has it.
BUFFERING: Final = {("waitress", "list"), ("waitress", "generator"), ("a2wsgi", "list")}

#: Each fetches an object of its own, whose key is the path.
PATHS: Final = ("/view", "/streamed", "/file", "/broken")


class Server:
    """A WSGI server with one worker, on a unix socket."""

    def __init__(self, kind: str, directory: Path, shop: str) -> None:
        self.kind = kind
        self.directory = directory
        self.log = directory / "log"
        self.resolved_at_first = 0  #: URLs that its worker had handed out before the first request
        (directory / "shop.py").write_text(_SHOP)
        (directory / "shop_in_asgi.py").write_text(_SHOP_IN_ASGI)
        (directory / "patched.py").write_text(_PATCHED)
        program, *arguments = SERVERS[kind].split()
        with (directory / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [Path(sys.executable).with_name(program), *arguments],
                cwd=directory,
                env={**os.environ, "SHOP": shop},
                stdout=output,
                stderr=output,
            )

    def client(self) -> httpx.Client:
        # Without keep-alive: uWSGI closes each connection without a word about it.
        once = httpx.Limits(max_keepalive_connections=0)
        transport = httpx.HTTPTransport(uds=str(self.directory / "socket"), verify=False, limits=once)
        return httpx.Client(transport=transport, base_url="http://shop", timeout=DEADLINE)

    def wait_until_it_listens(self) -> None:
        def listens() -> bool:
            assert self._process.poll() is None, self.logs()
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(str(self.directory / "socket")) == 0

        eventually(listens, within=DEADLINE)

    def logs(self) -> str:
        """Return all that it has told."""
        names = ("log", "output")
        return "".join(path.read_text() for name in names if (path := self.directory / name).exists())

    def stop(self) -> None:
        self._process.terminate()

    def wait(self) -> None:
        self._process.wait(DEADLINE)


@pytest.fixture(scope="module")
def live_door() -> Iterator[Door]:
    """Give a door on the real clock, as servers have, with a cat of its own for each of them."""
    with opened(Door()) as door:
        for number in range(len(SERVERS)):
            for path in PATHS:
                door.put("media", f"{number}{path}", CAT)
        yield door


@pytest.fixture(scope="module")
def servers(live_door: Door, memcached_server: Memcached) -> Iterator[dict[str, Server]]:
    """Start every kind of server at the same time, since most of it is importing."""
    shop = f"{live_door.base} {memcached_server.url} {ACCESS_KEY} {SECRET_KEY}"
    with contextlib.ExitStack() as stack:
        started = {}
        for number, kind in enumerate(SERVERS):
            # Not pytest's, whose path may be too long for a unix socket.
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="presign-")))
            started[kind] = Server(kind, directory, f"{shop} {number}")
            stack.callback(started[kind].wait)
        for server in started.values():
            stack.callback(server.stop)
        for server in started.values():
            server.wait_until_it_listens()
            with server.client() as browser:
                server.resolved_at_first = count(browser, "resolved")
        yield started


@pytest.fixture(scope="module")
def aged(servers: dict[str, Server]) -> None:
    """Have every worker hold AGEING URLs of all that its paths fetch."""
    for server in servers.values():
        with server.client() as browser:
            browser.get("/met")
    time.sleep(1.05)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    return servers[request.param]


@pytest.fixture
def browser(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def count(browser: httpx.Client, name: str) -> int:
    """Return a counter of the worker."""
    found: int = browser.get("/stats").json()[name]
    return found


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.usefixtures("aged")
def test_a_renewal_follows_the_response(browser: httpx.Client, path: str) -> None:
    """R1, R2: what a request found AGEING is renewed when it is over, and not before."""
    before = count(browser, "refreshed")
    with contextlib.suppress(httpx.RemoteProtocolError):  # a body that breaks off
        answer = browser.get(path).content
        if path == "/streamed":
            assert answer == CAT + b" %d" % before
    eventually(lambda: count(browser, "refreshed") == before + 1)


def test_fetches_arrive(browser: httpx.Client, server: Server) -> None:
    """D3, S1: what views, streams and files fetch is accepted, and no log of the server holds a signature."""
    assert browser.get("/view").content == CAT
    assert browser.get("/streamed").content.startswith(CAT)
    assert browser.get("/file").text == _SHOP
    assert httpx.get(browser.get("/link").text, verify=False).content == CAT
    assert count(browser, "caught") >= 3
    assert "X-Amz-" not in server.logs()


@pytest.mark.parametrize("what", ["list", "generator", "file"])
def test_a_body_is_closed_when_the_system_has_its_last_byte(
    server: Server, browser: httpx.Client, what: str
) -> None:
    """R1: while the client still reads it is not; a server that buffers counts as the system."""
    closed = server.directory / f"closed-{what}"
    is_buffering = (server.kind, what) in BUFFERING
    with browser.stream("GET", f"/big/{what}") as response:
        parts = response.iter_raw(BIG // 2)
        next(parts)
        if is_buffering:
            eventually(closed.exists)
        else:
            assert not closed.exists()
        for _ in parts:
            pass
    eventually(closed.exists)


def test_a_forked_worker_begins_anew(server: Server) -> None:
    """M5: with no thread, lock or connection of its parent's; also where Python is not told of the fork."""
    assert server.resolved_at_first == (0 if server.kind in FORKING else 1)


def test_workers_hand_out_one_url(servers: dict[str, Server], memcached_server: Memcached) -> None:
    """K8, M5: through memcached, those that were forked from a process with a connection of its own too."""
    with contextlib.ExitStack() as stack:
        browsers = [stack.enter_context(server.client()) for server in servers.values()]
        eventually(lambda: len({browser.get("/link").text for browser in browsers}) == 1, within=5)
        assert [count(browser, "shared_errors") for browser in browsers] == [0] * len(browsers)
        assert int(memcached_server.stats()["curr_items"]) > 0


@pytest.mark.parametrize("server", [kind for kind in SERVERS if "gevent" in kind], indirect=True)
def test_a_greenlet_has_the_scope_of_the_context_it_is_given(browser: httpx.Client) -> None:
    """D3: as a thread has; gevent itself gives it none."""
    assert browser.get("/spawned").json() == [403, CAT.decode()]
