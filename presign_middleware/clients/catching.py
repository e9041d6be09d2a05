"""
Which presigner decides about an outgoing fetch: what every client asks first.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Any

from ..catching import Verdict
from ..presigner import Presigner
from ..redaction import redact
from ..scope import catching, current

__all__ = ["ambient", "judge"]

logger = logging.getLogger("presign_middleware.clients")

#: Presigners that hooks use where there is no scope; put there by ``intercept(presigner=...)``.
ambient: list[Presigner] = []

#: Frames of these packages stand between an application's call and a hook.
_PLUMBING = {
    "anyio",
    "asyncio",
    "concurrent",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "threading",
    "wrapt",
}
_PLUMBING.add(__name__.partition(".")[0])

#: Call sites that were told of a fetch outside any scope.
_told: set[tuple[str, int]] = set()
_MOST_TOLD = 1_000


def judge(
    presigner: Presigner | None, url: str, method: str, headers: Mapping[str, str], first: str | None
) -> Verdict:
    """
    Return the verdict on one hop of a fetch.

    *presigner*: the one of an explicit adapter, or None for a hook, which uses that of
    the scope. *headers* and *first* are those of `Catching.decide`.
    """
    if not catching():
        return Verdict(None, first)
    presigner = presigner or _of_scope(url)
    if presigner is None:
        _tell_if_covered(url)
        return Verdict(None, first)
    return presigner.catching.decide(url, method, headers, first)


def _of_scope(url: str) -> Presigner | None:
    scope = current()
    if scope is not None:
        presigner: Presigner = scope.presigner
        return presigner
    return next((p for p in ambient if p.catching.covers(url)), ambient[0] if ambient else None)


def _tell_if_covered(url: str) -> None:
    for presigner in list(Presigner.alive):
        if presigner.catching.covers(url):
            presigner.counts.passed_outside_scope += 1
            site = _call_site()
            if site not in _told and len(_told) < _MOST_TOLD:
                _told.add(site)
                logger.warning(
                    "a fetch of %s went out unsigned, because it was made outside any request (%s:%d). In a "
                    "script or a job, put it into `with presigner.scope():`; for the whole process, call "
                    "intercept(presigner=presigner)",
                    redact(url),
                    *site,
                )
            return


def _call_site() -> tuple[str, int]:
    """Return file and line of the application's call: the first frame that is nobody's plumbing."""
    frame: Any = sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _PLUMBING:
            break
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
