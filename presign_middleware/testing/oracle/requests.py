"""
The nouns of the wire: a request, an answer, what is remembered of both; and a request out of ASGI or WSGI.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

Headers = tuple[tuple[str, str], ...]
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class S3Request:
    """
    Hold one request as it was on the wire.

    Attributes:
        path: Still percent-encoded; bytes outside ASCII as latin-1.
        query: Still percent-encoded, without the question mark.
        headers: Names in lower case, values as latin-1, repeated ones as they came.
    """

    method: str
    path: str
    query: str = field(default="", repr=False)
    headers: Headers = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """Return the value of header *name*, repeated ones joined by commas, white space folded."""
        values = [" ".join(value.split()) for given, value in self.headers if given == name]
        return ",".join(values) if values else None

    @property
    def host(self) -> str:
        """Return the Host header."""
        return self.header("host") or ""


@dataclass(frozen=True, slots=True)
class S3Response:
    """
    Hold one answer.

    Attributes:
        code: The S3 error code, also of a HEAD, which has no body to say it; None: no error.
    """

    status: int
    headers: Headers
    body: bytes = field(default=b"", repr=False)
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """
    Tell what arrived and what was answered.

    Attributes:
        path: Still percent-encoded, as on the wire.
        query_names: Names of the query parameters in the order of the wire; no values: one is a signature.
        headers: Names in lower case; not in the repr, since some hold secrets.
        code: The S3 error code; None: no error.
    """

    method: str
    host: str
    path: str
    query_names: tuple[str, ...]
    headers: Headers = field(repr=False)
    status: int
    code: str | None

    @property
    def accepted(self) -> bool:
        """Return whether the answer was no error."""
        return self.status < 400 and self.code is None


def from_asgi(scope: Scope, body: bytes) -> S3Request:
    # Some servers leave the query on raw_path.
    raw_path = (scope.get("raw_path") or quote(scope["path"]).encode()).partition(b"?")[0]
    headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    return S3Request(
        method=scope["method"],
        path=raw_path.decode("latin-1"),
        query=scope.get("query_string", b"").decode("latin-1"),
        headers=tuple((name.lower(), value) for name, value in headers),
        body=body,
    )


def from_wsgi(environ: Mapping[str, Any]) -> S3Request:
    raw_uri: str = environ.get("REQUEST_URI") or environ.get("RAW_URI") or ""
    if raw_uri:
        path, query = split_target(raw_uri)
    else:
        path = quote(f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}".encode("latin-1"))
        query = environ.get("QUERY_STRING", "")
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
    }
    length = int(headers.get("content-length", 0))
    return S3Request(
        method=environ["REQUEST_METHOD"],
        path=path,
        query=query,
        headers=tuple(headers.items()),
        body=environ["wsgi.input"].read(length) if length else b"",
    )


def split_target(target: str) -> tuple[str, str]:
    """Return path and query of a request line's target, which a client of a proxy writes as a whole URL."""
    if target.startswith("/"):
        path, _, query = target.partition("?")
        return path, query
    parts = urlsplit(target)
    return parts.path or "/", parts.query
