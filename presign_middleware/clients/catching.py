"""
Which presigner decides about an outgoing fetch: what every client asks first.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, TypeVar

from ..catching import Catch
from ..healing import Attempt
from ..presigner import Presigner
from ..redaction import redact
from ..scope import Holding, ambient, catching, current
from ..writing import METHODS, Write, written_to

__all__ = [
    "Mark",
    "Marks",
    "bare",
    "deciding",
    "explained",
    "is_elsewhere",
    "judge",
    "unheard",
    "unsigned",
    "written",
]

T = TypeVar("T")

logger = logging.getLogger("presign_middleware.clients")

#: Whether a hook further up hears of the present write.
_unheard: ContextVar[bool] = ContextVar("presign_unheard", default=False)

#: Frames of these packages stand between an application's call and a hook.
_PLUMBING = {
    "aiohttp",
    "anyio",
    "asyncio",
    "concurrent",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "requests",
    "threading",
    "urllib3",
    "wrapt",
}
_PLUMBING.add(__name__.partition(".")[0])

#: Call sites that were told of a fetch outside any scope.
_told: set[tuple[str, int]] = set()
_MOST_TOLD = 1_000


class Mark(NamedTuple):
    """What the first hop of a fetch came to, for its redirects."""

    url: str
    origin: str  #: the origin that covered it; "" if none did

    def __repr__(self) -> str:
        return f"<Mark of {redact(self.url)}>"  # it may travel where tools write down what there is


#: The marks of one fetch, by the presigner that decided. An adapter may sit above a hook.
Marks = dict[Presigner, Mark]


def judge(
    presigner: Presigner | None, url: str, method: str, headers: Mapping[str, str], marks: Marks
) -> Catch | None:
    """
    Return how to sign one hop of a fetch, or None: it goes out as it is.

    *presigner*: the one of an explicit adapter, or None for a hook, which uses that of
    the scope. *headers* are those of `Catching.decide`. *marks* travels with the fetch,
    from the first hop to its redirects, and is written here.
    """
    if not catching():
        return None
    presigner = presigner or _of_scope(url)
    if presigner is None:
        _tell_if_covered(url)
        return None
    first = None
    # A request that is sent again, by a retry or in another scope, has the URL of a mark.
    if marks and all(mark.url != url for mark in marks.values()):
        first = marks[presigner].origin if presigner in marks else ""
    verdict = presigner.catching.decide(url, method, headers, first)
    if first is None:
        marks[presigner] = Mark(url, verdict.first)
    return verdict.catch


def written(presigner: Presigner | None, method: str, *urls: str) -> Write | None:
    """
    Return who is to hear what becomes of a request that writes the objects at *urls*, signed or not.

    None, mostly: it writes none, or no origin of a presigner that may decide wants to know. To be
    asked of each hop: it is the one which S3 answers that counts.
    """
    if method not in METHODS or _unheard.get():
        return None
    takers = [one.writing for one in deciding(presigner) if one.writing.is_wanted]
    targets = [bare for url in urls if (bare := written_to(method, url)) is not None] if takers else []
    parts = [(taker, objects) for taker in takers if (objects := taker.objects(targets))]
    return Write(parts) if parts else None


def unheard() -> AbstractContextManager[None]:
    """
    Return a context manager in which `written` says nothing.

    For a client that sends through another that is hooked too.
    """
    return Holding(_unheard, True)


def unsigned(presigner: Presigner | None, url: str) -> str | None:
    """
    Return the unsigned form of *url* if a presigner that may decide about it has signed it, or None.

    For clients that log a URL, or keep it, before it comes to `judge`, which is to get *url* itself.
    """
    if "X-Amz-Signature=" not in url:
        return None
    found = (one.catching.unsigned(url) for one in deciding(presigner))
    return next((bare for bare in found if bare is not None), None)


def is_elsewhere(presigner: Presigner | None, url: str, method: str) -> bool:
    """Return whether a presigner that may decide has *url* asked for at another place than it says."""
    return any(one.catching.is_elsewhere(url, method) for one in deciding(presigner))


def bare(url: str) -> str:
    """Return *url*, which is signed, without what a signer adds."""
    unsigned, _, query = url.partition("?")
    rest = "&".join(pair for pair in query.split("&") if not pair.startswith("X-Amz-"))
    return f"{unsigned}?{rest}" if rest else unsigned


def explained(response: T, attempt: Attempt) -> T:
    """Return *response*, to a refused *attempt*, whose ``raise_for_status`` adds a note to what it raises."""
    answer: Any = response
    raising = partial(_raise_explained, type(answer).raise_for_status, answer, attempt.note())
    answer.raise_for_status = raising
    return response


def _raise_explained(raising: Callable[..., Any], response: Any, note: str) -> Any:
    try:
        return raising(response)
    except Exception as error:
        error.add_note(note)
        raise


def deciding(presigner: Presigner | None = None) -> tuple[Presigner, ...]:
    """
    Return the presigners that are asked here: that of an adapter, or of the scope, else the ambient ones.

    *presigner* is as `judge` has it.
    """
    if not catching():
        return ()
    if presigner is not None:
        return (presigner,)
    scope = current()
    return tuple(ambient) if scope is None else (scope.presigner,)


def _of_scope(url: str) -> Presigner | None:
    scope = current()
    if scope is not None:
        presigner: Presigner = scope.presigner
        return presigner
    candidates: tuple[Presigner, ...] = tuple(ambient)
    for presigner in candidates:
        # Its own signed URLs too, which are treated like their unsigned form.
        if presigner.catching.covers(url) or presigner.catching.unsigned(url) is not None:
            return presigner
    return candidates[0] if candidates else None


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
