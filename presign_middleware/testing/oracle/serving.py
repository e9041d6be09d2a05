"""
The oracle behind a real socket: a server of threads that hangs up on what is kept alive.
"""

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from .requests import S3Request, S3Response, split_target

if TYPE_CHECKING:
    from .application import Oracle


class Server(ThreadingHTTPServer):
    """
    Answer each connection in a thread.

    The threads are daemons, so that a test which never ends its `serve` does not keep
    the interpreter from exiting; hang_up() waits for them all the same.
    """

    request_queue_size = 128  # connections that may wait: a hundred clients begin at once

    def __init__(self, oracle: "Oracle") -> None:
        self.oracle = oracle
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._guard = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def hang_up(self) -> None:
        """Wake the threads that wait for a next request on a connection kept alive, and wait for them."""
        with self._guard:
            connections = dict(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections.values():
            thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Register the connection before its thread starts, so that hang_up() misses none."""
        thread = threading.Thread(target=self._converse, args=(request, client_address), daemon=True)
        with self._guard:
            self._connections[request] = thread
        thread.start()

    def _converse(self, request: Any, client_address: Any) -> None:
        try:
            self.process_request_thread(request, client_address)
        finally:
            with self._guard:
                del self._connections[request]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that hangs up is what tests of cancellation do."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        # self.path has had leading slashes merged, which would hide a key that begins with one.
        path, query = split_target(self.requestline.split()[1])
        headers = tuple((name.lower(), value) for name, value in self.headers.items())
        length = int(self.headers.get("Content-Length", 0))
        request = S3Request(self.command, path, query, headers, self.rfile.read(length) if length else b"")
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True  # the body was not read, so what follows is no request
        self._send(self.server.oracle.answer(request))

    do_HEAD = do_PUT = do_DELETE = do_POST = do_PATCH = do_OPTIONS = do_GET  # noqa: N815

    def _send(self, response: S3Response) -> None:
        self.send_response_only(response.status)
        for name, value in response.headers:
            # The base class writes latin-1; S3 writes UTF-8.
            self.send_header(name, value.encode().decode("latin-1"))
        if self.close_connection:
            self.send_header("Connection", "close")
        is_framed = {name for name, _ in response.headers} & {"Content-Length", "Transfer-Encoding"}
        if not is_framed and response.status not in (204, 304):
            self.send_header("Content-Length", "0")
        self.end_headers()
        self.wfile.write(response.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: the request line holds a signature."""
