"""
Whether an outgoing fetch is to be signed: the decision every client shares.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import NotCovered, SigningError
from ..objects import S3Object
from ..presigner import Presigner
from ..redaction import redact
from ..scope import catching, current

__all__ = ["Catch", "Verdict", "ambient", "judge"]

logger = logging.getLogger("presign_middleware.clients")

#: Presigners that hooks use where there is no scope; put there by ``intercept(presigner=...)``.
ambient: list[Presigner] = []

#: Frames of these packages stand between an application's call and a hook.
_PLUMBING = frozenset(
    [
        "anyio",
        "asyncio",
        "concurrent",
        "httpcore",
        "httpcore2",
        "httpx",
        "httpx2",
        "presign_middleware",
        "threading",
        "wrapt",
    ]
)

#: Call sites that were told of a fetch outside any scope.
_told: set[tuple[str, int]] = set()
_MOST_TOLD = 1_000


class Catch(NamedTuple):
    """A fetch that is to be signed."""

    presigner: Presigner
    object: S3Object
    headers: Mapping[str, str]  #: to be signed as well, for this request alone
    unsigned: str | None  #: the URL without its signature, where the application had put one there

    def url(self) -> str | None:
        """Return the signed URL; None where it cannot be made and the policy lets it go. May block."""
        try:
            url = self.presigner.url_of(self.object, self.headers)
        except SigningError:
            return self._let_go()
        self.presigner.counts.caught += 1
        return url

    async def aurl(self) -> str | None:
        """Return what `url` returns, without ever blocking the event loop."""
        try:
            url = await self.presigner.aurl_of(self.object, self.headers)
        except SigningError:
            return self._let_go()
        self.presigner.counts.caught += 1
        return url

    def _let_go(self) -> None:
        origin = self.presigner.origins[self.object.origin]
        if (origin.policy or self.presigner.policy).on_error == "raise":
            raise
        self.presigner.counts.passed_on_error += 1


class Verdict(NamedTuple):
    """What to do with one hop, and what its redirects need to know."""

    catch: Catch | None
    first: str | None  #: the origin that covered the first hop, "" if none did; None: nobody looked


def judge(
    presigner: Presigner | None, url: str, method: str, headers: Mapping[str, str], first: str | None
) -> Verdict:
    """
    Decide about one hop of a fetch.

    *presigner*: the one of an explicit adapter, or None for a hook, which uses that
    of the scope. *headers* has lower-case names. *first* is what an earlier hop's
    verdict said: a redirect is signed only by the origin that covered the first hop,
    or else any server could have this one sign for it.
    """
    if not catching():
        return Verdict(None, first)
    if presigner is None:
        scope = current()
        presigner = scope.presigner if scope is not None else None
    if presigner is None:
        candidates = ambient
        if not candidates:
            _tell_if_covered(url)
            return Verdict(None, first)
        presigner = next((p for p in candidates if _covers(p, url)), candidates[0])
    try:
        catch = _catch(presigner, url, method, headers)
    except NotCovered:
        presigner.counts.passed_uncovered += 1
        return Verdict(None, "" if first is None else first)
    name = catch.object.origin
    if first not in (None, name):
        presigner.counts.passed_redirect += 1
        return Verdict(None, first)
    return Verdict(catch, name)


def _catch(presigner: Presigner, url: str, method: str, headers: Mapping[str, str]) -> Catch:
    unsigned = presigner.unsigned(url) if "X-Amz-Signature=" in url else None
    place = presigner.locate(unsigned or url)
    if not place.origin.catch:
        raise NotCovered(f"origin {place.origin.name!r} has catch=False")
    if method not in place.origin.methods:
        raise NotCovered(f"origin {place.origin.name!r} does not sign {method}")
    host = headers.get("host", "").lower()
    if place.form and host and f"//{host}/" not in place.form and f"//{_bare(host)}/" not in place.form:
        raise NotCovered("the request has a Host header of its own, and the signature would be for the URL's")
    if "authorization" in headers:
        raise NotCovered("the request has an Authorization header, and S3 accepts one mechanism only")
    obj = presigner.caught_object(place, method, keep_overrides=unsigned is not None)
    extra = {name: value for name, value in headers.items() if name.startswith("x-amz-")}
    return Catch(presigner, obj, extra, unsigned)


def _bare(host: str) -> str:
    """Return *host* without a default port, which no form has."""
    return host.removesuffix(":443").removesuffix(":80")


def _covers(presigner: Presigner, url: str) -> bool:
    try:
        return presigner.locate(url).origin.catch
    except NotCovered:
        return False


def _tell_if_covered(url: str) -> None:
    for presigner in list(Presigner.alive):
        if _covers(presigner, url):
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
