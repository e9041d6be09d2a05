"""
Each example as its first lines say that it is run, with its environment, on a real S3 server.

`starlette_gallery` is what the demo shows: see `test_demo`.
"""

import contextlib
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fastapi.testclient import TestClient
from faults import eventually
from stacks import Pets

DEADLINE: Final = 60.0  # seconds after which a test that has gone wrong stops waiting
EXAMPLES: Final = Path(__file__).parent.parent / "examples"
PREFIX: Final = "public/"
CAT: Final = b"a cat, " * 100_000
NAMES: Final = ["cat 1.jpg", "index.txt"]

pytestmark = pytest.mark.usefixtures("own_hooks")


@pytest.fixture(scope="module")
def environment(pets: Pets) -> dict[str, str]:
    """Give the environment that an example is run in, and fill the bucket with what they want."""
    client = pets.server.client()
    index = "\n".join(NAMES).encode()
    for name, body, kind in (("cat 1.jpg", CAT, "image/jpeg"), ("index.txt", index, "text/plain")):
        client.put_object(Bucket=pets.bucket, Key=PREFIX + name, Body=body, ContentType=kind)
    client.close()
    origins = f"files=s3://{pets.bucket}/{PREFIX}?region={pets.server.region}"
    return {**pets.environment(), "PRESIGN_ORIGINS": origins, "SECRET_KEY": "secret"}


@contextlib.contextmanager
def served(command: str, directory: Path, environment: dict[str, str]) -> Iterator[httpx.Client]:
    """Run *command*, which serves at a unix socket whose path takes the place of {}; give a client of it."""
    program, *arguments = command.split()
    with tempfile.TemporaryDirectory(prefix="presign-") as temporary:
        path = Path(temporary) / "socket"
        process = subprocess.Popen(
            [Path(sys.executable).with_name(program), *(text.format(path) for text in arguments)],
            cwd=directory,
            env={**os.environ, **environment},
        )

        def listens() -> bool:
            assert process.poll() is None
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(str(path)) == 0

        try:
            eventually(listens, within=DEADLINE)
            transport = httpx.HTTPTransport(uds=str(path), verify=False)
            with httpx.Client(transport=transport, base_url="http://localhost", timeout=DEADLINE) as client:
                yield client
        finally:
            process.terminate()
            process.wait(DEADLINE)


def fetched(link: str) -> bytes:
    """Return what a browser gets that follows *link*."""
    return httpx.get(link, verify=False).raise_for_status().content


# --- FastAPI ------------------------------------------------------------------------------------------------


@pytest.fixture
def fastapi_files(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    names = runpy.run_path(str(EXAMPLES / "fastapi_files.py"))
    with TestClient(names["app"]) as names["client"]:
        yield names


def test_fastapi_files(fastapi_files: dict[str, Any]) -> None:
    """D1, D3: a page of links, a sync endpoint, a stream and its background task, one object's URL each."""
    client, presigner = fastapi_files["client"], fastapi_files["presigner"]
    page = client.get("/").text
    assert [f">{name}</a>" in page for name in NAMES] == [True] * 2
    link = page.partition('href="')[2].partition('"')[0].replace("&amp;", "&")
    assert fetched(link) == CAT
    assert client.get("/type/cat 1.jpg").json() == "image/jpeg"
    assert client.get("/file/cat 1.jpg").content == CAT
    assert fastapi_files["downloads"] == {"cat 1.jpg": len(CAT)}
    assert client.get("/file/dog.jpg").status_code == 404
    with client.websocket_connect("/preview") as websocket:
        websocket.send_text("cat 1.jpg")
        assert websocket.receive_bytes() == CAT[:100]
    stats = presigner.stats()
    assert (stats["signed"], stats["passed_uncovered"]) == (3, 0)  # GET of both, HEAD of one


# --- Flask --------------------------------------------------------------------------------------------------


def test_flask_files(environment: dict[str, str]) -> None:
    """D3, O4: under gunicorn with threads: a file passed through, a link, and what is not there."""
    with served("gunicorn --threads 4 --bind unix:{} flask_files:app", EXAMPLES, environment) as client:
        answer = client.get("/file/cat 1.jpg")
        assert (answer.content, answer.headers["Content-Type"]) == (CAT, "image/jpeg")
        assert answer.headers["Content-Length"] == str(len(CAT))
        assert fetched(client.get("/link/cat 1.jpg").headers["Location"]) == CAT
        # As they come from who does not collapse dots.
        lost = ["/file/none.jpg", "/file/%2e%2e/cats/cat.jpg", "/link/%2e%2e/cats/cat.jpg"]
        assert [client.get(path).status_code for path in lost] == [404] * 3


# --- Django -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["gunicorn --bind unix:{} files.wsgi", "uvicorn --uds {} files.asgi:application"]
)
def test_django_project(environment: dict[str, str], command: str) -> None:
    """D3, O4: sync and async views, a stream and links, in wsgi.py and in asgi.py."""
    with served(command, EXAMPLES / "django_project", environment) as client:
        answer = client.get("/file/cat 1.jpg")
        assert (answer.content, answer.headers["Content-Type"]) == (CAT, "image/jpeg")
        assert client.get("/type/cat 1.jpg").text == "image/jpeg"
        links = client.get("/links/cat 1.jpg,index.txt").json()
        assert [fetched(link) for link in links] == [CAT, "\n".join(NAMES).encode()]
        lost = ["/file/none.jpg", "/type/none.jpg", "/file/%2e%2e", "/type/%2e%2e", "/links/%2e%2e"]
        assert [client.get(path).status_code for path in lost] == [404] * 5


# --- a script -----------------------------------------------------------------------------------------------


def test_script(environment: dict[str, str], pets: Pets) -> None:
    """D3: its lines are those of the objects that it was given."""
    targets = [f"s3://{pets.bucket}/{PREFIX}{name}" for name in NAMES]
    done = subprocess.run(
        [sys.executable, EXAMPLES / "script.py", *targets],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert [line.split(maxsplit=1) for line in done.stdout.splitlines()] == [
        ["700,000", targets[0]],
        ["19", targets[1]],
    ]
