"""
The gallery of the examples, and a real uvicorn on loopback that serves it.
"""

import importlib.util
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import uvicorn

    from presign_middleware import Presigner

__all__ = ["example", "listen", "served", "with_presigner"]

_EXAMPLE = "starlette_gallery.py"
_HOST = "127.0.0.1"
_USUAL_PORT = 8000
_START_WITHIN = 10.0  # seconds
_STOP_WITHIN = 5.0  # seconds
_SHARED_PATIENCE = 1.0  # seconds, and not 0.05: a busy machine must not decide what the demo shows


def example() -> Any:
    """
    Return the example application's module.

    A wheel has it beside this file, a checkout among the examples.

    Raises:
        FileNotFoundError: It is in neither place.
    """
    here = Path(__file__).resolve().parent
    places = [here / _EXAMPLE, here.parents[1] / "examples" / _EXAMPLE]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{_EXAMPLE} is neither in {here} nor in the checkout's examples")
    spec = importlib.util.spec_from_file_location("starlette_gallery", path)
    assert spec is not None  # both are given for any .py file
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_presigner(bucket: str, keys: Sequence[str], shared: str | None) -> "tuple[Any, Presigner]":
    """Return the gallery with PresignMiddleware, and its presigner. Credentials are the environment's."""
    import boto3

    from presign_middleware import Origin, Policy, Presigner

    client = boto3.client("s3")
    presigner = Presigner(
        Origin("gallery", bucket=bucket, client=client),
        shared=shared,
        policy=Policy(shared_patience=_SHARED_PATIENCE),
    )
    return example().gallery(presigner, bucket, keys, client), presigner


def listen(port: int | None) -> socket.socket:
    """
    Return a listening socket of loopback; None: port 8000, or any other if that is taken.

    Raises:
        RuntimeError: *port* was named and is taken.
    """
    for candidate in (_USUAL_PORT, 0) if port is None else (port,):
        # Said to be TCP, since asyncio asks that before it turns Nagle's algorithm off: 40 ms an answer.
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((_HOST, candidate))
            listening.listen()  # with SO_REUSEADDR two may bind, and only one listens
        except OSError as error:
            listening.close()
            fault = error
        else:
            return listening
    raise RuntimeError(f"{_HOST}:{port or _USUAL_PORT} cannot be listened on: {fault.strerror}") from fault


@contextmanager
def served(app: Any, listening: socket.socket) -> Iterator[str]:
    """Serve *app* from a thread; give its address. Ends the server and closes the socket."""
    import uvicorn  # not needed to listen, which is to fail early

    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=1,  # seconds; a browser may hold its connection open
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listening]}, name="demo-uvicorn", daemon=True
    )
    with listening:
        thread.start()
        try:
            _await_start(server, thread)
            yield f"http://{_HOST}:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(_STOP_WITHIN)


def _await_start(server: "uvicorn.Server", thread: threading.Thread) -> None:
    deadline = time.monotonic() + _START_WITHIN
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("uvicorn did not start")
        time.sleep(0.01)
