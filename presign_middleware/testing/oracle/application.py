"""
The application: the `Oracle` itself, which owns the world, the clock and the lock, over ASGI and WSGI.
"""

import contextlib
import threading
import time as _time
from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote

from .decision import decide
from .requests import (
    Receive,
    S3Request,
    S3Response,
    Scope,
    Seen,
    Send,
    from_asgi,
    from_wsgi,
)
from .serving import Server
from .sigv4 import split_query
from .world import Bucket, Change, KeyPair, Object, World


class WallClock(Protocol):
    """What tells the oracle the time: `Clock`, or the ``time`` module."""

    def time(self) -> float: ...


class Oracle:
    """
    Be a strict S3 on a clock the test owns, as an ASGI and a WSGI application.

    `asgi` and `wsgi` are the applications, `serve` puts them behind a real socket.
    Buckets are private. A host is path style if it is one of *domain*, ``localhost``
    or an IP address; ``bucket.<domain>`` is a virtual host; the hosts of AWS are
    known in all their forms. Safe to call from threads.

    Args:
        clock: Anything with ``time()``; ``time`` itself unless given.
        domain: The endpoint's host name, or several; without a port.
    """

    def __init__(self, *, clock: WallClock = _time, domain: str | Sequence[str] = "s3.localhost") -> None:
        domains = (domain,) if isinstance(domain, str) else tuple(domain)
        self.clock = clock
        self._lock = threading.Lock()
        self._keys: dict[str, KeyPair] = {}
        self._buckets: dict[str, Bucket] = {}
        self._access_points: dict[str, str] = {}
        names = tuple(name.lower() for name in domains)
        self._world = World(self._keys, self._buckets, self._access_points, names)
        self._seen: list[Seen] = []
        self._answered = 0

    # -- what there is

    def add_key(
        self, access_key: str, secret_key: str, *, token: str | None = None, ends: float | None = None
    ) -> KeyPair:
        """
        Let *access_key* sign, in place of an earlier one of that name.

        Args:
            token: The session token, for a temporary key.
            ends: Unix seconds at which *token* dies.

        Raises:
            ValueError: *ends* without *token*: a permanent key has no end, see `remove_key`.
        """
        if ends is not None and token is None:
            raise ValueError("ends= goes with token=: a permanent key has no end, use remove_key()")
        key_pair = KeyPair(access_key, secret_key, token, ends)
        with self._lock:
            self._keys[access_key] = key_pair
        return key_pair

    def remove_key(self, access_key: str) -> None:
        """Disable *access_key*: what it signed answers InvalidAccessKeyId from now on."""
        with self._lock:
            self._keys.pop(access_key, None)

    def create_bucket(self, name: str, region: str = "us-east-1", *, listable: bool = True) -> None:
        """
        Create a private bucket.

        Args:
            listable: Whether the keys have s3:ListBucket, without which a missing object answers 403.

        Raises:
            ValueError: There is one of that name.
        """
        with self._lock:
            if name in self._buckets:
                raise ValueError(f"there is a bucket {name!r} already")
            self._buckets[name] = Bucket(name, region, listable)

    def create_access_point(self, name: str, account: str, bucket: str) -> None:
        """
        Let ``name-account.s3-accesspoint.region.amazonaws.com`` reach *bucket*.

        Raises:
            ValueError: There is no such bucket.
        """
        with self._lock:
            self._access_points[f"{name}-{account}"] = self._bucket(bucket).name

    def put(
        self,
        bucket: str,
        key: str,
        body: bytes,
        *,
        version_id: str | None = None,
        content_type: str = "binary/octet-stream",
    ) -> None:
        """
        Store an object as if someone had uploaded it now.

        With *version_id* it joins the earlier versions of *key*, as the newest; without, it is the only one.

        Raises:
            ValueError: There is no such bucket.
        """
        with self._lock:
            stored = Object(body, content_type, self.clock.time(), version_id)
            self._apply(Change(self._bucket(bucket), key, stored))

    # -- what arrived

    @property
    def requests(self) -> tuple[Seen, ...]:
        """Return what arrived so far, oldest first."""
        with self._lock:
            return tuple(self._seen)

    def forget_requests(self) -> None:
        """Empty `requests`."""
        with self._lock:
            self._seen.clear()

    # -- answering

    def answer(self, request: S3Request) -> S3Response:
        """Answer *request* now, and record it: what both applications and the server call."""
        with self._lock:
            self._answered += 1
            response, change = decide(request, self._world, self.clock.time(), f"{self._answered:016X}")
            if change is not None:
                self._apply(change)
            names = tuple(unquote(name) for name, _, _ in split_query(request.query))
            self._seen.append(
                Seen(
                    method=request.method,
                    host=request.host,
                    path=request.path,
                    query_names=names,
                    headers=request.headers,
                    status=response.status,
                    code=response.code,
                )
            )
            return response

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer as an ASGI application.

        The signature is checked on ``scope["raw_path"]``; a server that gives none has its
        decoded path quoted again, which cannot tell ``%2F`` from a slash. Under uvicorn
        pass ``date_header=False, server_header=False``, or those go out twice.
        """
        if scope["type"] == "lifespan":
            return await _live(receive, send)
        if scope["type"] != "http":
            raise ValueError(f'the oracle answers "http" scopes, got "{scope["type"]}"')
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
        response = self.answer(from_asgi(scope, body))
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": [(name.lower().encode(), value.encode()) for name, value in response.headers],
            }
        )
        await send({"type": "http.response.body", "body": response.body})
        return None

    def wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """
        Answer as a WSGI application.

        The signature is checked on the path of ``REQUEST_URI`` (uWSGI, waitress, mod_wsgi, werkzeug)
        or else of ``RAW_URI`` (gunicorn). A server that sets neither has the bytes of ``SCRIPT_NAME``
        and ``PATH_INFO`` quoted again, which cannot tell ``%2F`` from a slash.
        """
        response = self.answer(from_wsgi(environ))
        headers = [(name, value.encode().decode("latin-1")) for name, value in response.headers]
        start_response(f"{response.status} {HTTPStatus(response.status).phrase}", headers)
        return [response.body]

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """
        Serve on loopback, at a free port, in threads; give the base URL.

        The base URL is path style: ``http://127.0.0.1:<port>``. For a virtual host, connect
        to it and send the Host header. Connections are kept alive, and closed at the end.
        """
        server = Server(self)
        thread = threading.Thread(
            target=server.serve_forever, args=(0.02,), name="presign-oracle", daemon=True
        )
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.hang_up()
            server.server_close()
            thread.join()

    def _bucket(self, name: str) -> Bucket:
        try:
            return self._buckets[name]
        except KeyError:
            raise ValueError(f"there is no bucket {name!r}: call create_bucket() first") from None

    def _apply(self, change: Change) -> None:
        versions = change.bucket.versions
        kept: tuple[Object, ...] = ()
        if change.store is not None:
            kept = versions.get(change.key, ()) if change.store.version_id is not None else ()
            kept = (*(old for old in kept if old.version_id != change.store.version_id), change.store)
        elif change.version_id is not None:
            kept = tuple(old for old in versions.get(change.key, ()) if old.version_id != change.version_id)
        versions[change.key] = kept
        if not kept:
            del versions[change.key]


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
