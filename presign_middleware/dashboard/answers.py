"""
What the page's paths answer. All it needs is here: nothing is loaded from anywhere else.
"""

import json
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from urllib.parse import quote

from ..presigner import Presigner
from ..worker import SLOT, Worker
from .page import document, parts
from .picture import Picture

__all__ = ["Answer", "Answers"]

#: Everything comes from the page's own paths; nothing is inline, so no nonce is needed.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_SAME = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-robots-tag": "noindex",
}
_FILES = {
    "/page.css": "text/css; charset=utf-8",
    "/page.js": "text/javascript; charset=utf-8",
    "/icon.svg": "image/svg+xml",
}
_LIVE = {"/", "/parts.json", "/data.json"}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response, complete with its body: whoever was asked by HEAD leaves that out."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Answers:
    """The answers of one presigner's page."""

    def __init__(self, presigner: Presigner) -> None:
        self._presigner = presigner
        here = files(__package__)
        self._files = {path: here.joinpath(path[1:]).read_bytes() for path in _FILES}
        presigner.show()

    def answer(self, method: str, path: str, root: str) -> Answer:
        """Return the answer to a request of *path*, below *root*. May block, as `Presence.all` does."""
        if path != "" and path not in _LIVE and path not in _FILES:
            return _answer(404, "text/plain; charset=utf-8", b"There is no such page.\n")
        if method not in ("GET", "HEAD"):
            answer = _answer(405, "text/plain; charset=utf-8", b"This page is only looked at.\n")
            answer.headers["allow"] = "GET, HEAD"
            return answer
        if path == "":  # what the page names is beside it, so its own path has to end with a slash
            answer = _answer(307, "text/plain; charset=utf-8", b"")
            answer.headers["location"] = f"{quote(root.rpartition('/')[2])}/" if root else "/"
            return answer
        if path in _FILES:
            answer = _answer(200, _FILES[path], self._files[path])
            answer.headers["cache-control"] = "no-cache"  # a release may change them
            return answer
        picture = self._look()
        match path:
            case "/parts.json":
                return _answer(200, "application/json", json.dumps(parts(picture)).encode())
            case "/data.json":
                return _answer(200, "application/json", json.dumps(_data(picture)).encode())
            case _:
                return _answer(200, "text/html; charset=utf-8", document(picture).encode())

    def _look(self) -> Picture:
        presence = self._presigner.presence
        presence.is_asked = True
        presence.begin()  # it may have been closed since
        workers, is_whole = presence.all()
        return Picture(
            workers,
            is_whole=is_whole,
            is_shared=presence.is_shared,
            origins=tuple(self._presigner.origins.values()),
            policy=self._presigner.policy,
        )


def _answer(status: int, kind: str, body: bytes) -> Answer:
    headers = {**_SAME, "content-type": kind, "content-length": str(len(body)), "cache-control": "no-store"}
    return Answer(status, body, headers)


def _data(picture: Picture) -> dict[str, object]:
    return {
        "at": picture.now,
        "health": picture.health,
        "findings": [asdict(finding) for finding in picture.findings],
        "is_shared": picture.is_shared,
        "is_whole": picture.is_whole,
        "hit_rate": picture.hit_rate,
        "boto3_calls_saved": picture.saved,
        "counts": picture.counts,
        "answered_by": picture.workers[0].name,
        "workers": [_told(worker) for worker in picture.workers],
    }


def _told(worker: Worker) -> dict[str, object]:
    """Return what *worker* tells, with a name for everything, and instants in the place of slots."""
    return {
        **asdict(worker),
        "history": {slot * SLOT: row._asdict() for slot, row in sorted(worker.history.items())},
        "origins": {name: held._asdict() for name, held in worker.origins.items()},
        "happenings": [one._asdict() for one in worker.happenings],
    }
