"""
Whether a fetch that a client is about to send is to be signed: the decision of one presigner.
"""

import re
from collections.abc import Mapping
from itertools import product
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from .errors import NotCovered, SigningError
from .healing import Attempt, Healing
from .local import Table
from .metrics import Counts
from .objects import S3Object
from .origins import Place
from .targets import Targets

__all__ = ["Catch", "Catching", "Verdict"]


class Catch(NamedTuple):
    """A fetch that is to be signed."""

    catching: "Catching"
    object: S3Object
    headers: Mapping[str, str]  #: to be signed as well, for this request alone
    may_pass: bool  #: whether it may go out unsigned when it cannot be signed
    unsigned: str | None  #: the URL without its signature, where the application had put one there

    def sign(self, client: str) -> Attempt | None:
        """
        Return what *client*, a library's name, is to send. May block; raises SigningError.

        None: it cannot be signed, and the policy lets the fetch go.
        """
        try:
            attempt = self.catching.healing.begin(self.object, self.headers, client)
        except SigningError:
            if not self.may_pass:
                raise
            self.catching.counts.passed_on_error += 1
            return None
        self.catching.counts.caught += 1
        return attempt

    async def asign(self, client: str) -> Attempt | None:
        """Return what `sign` returns, without ever blocking the event loop."""
        try:
            attempt = await self.catching.healing.abegin(self.object, self.headers, client)
        except SigningError:
            if not self.may_pass:
                raise
            self.catching.counts.passed_on_error += 1
            return None
        self.catching.counts.caught += 1
        return attempt


class Verdict(NamedTuple):
    """What to do with one hop, and what its redirects need to know."""

    catch: Catch | None
    first: str  #: the origin that covered the first hop; "" if none did


class Catching:
    """The catching side of a presigner."""

    def __init__(
        self,
        targets: Targets,
        table: Table,
        healing: Healing,
        counts: Counts,
    ) -> None:
        self._targets = targets
        self._table = table
        self.healing = healing
        self.counts = counts

    def covers(self, url: str) -> bool:
        """Return whether *url* is one that is caught inside a scope."""
        try:
            return self._targets.located(url).origin.catch
        except NotCovered:
            return False

    def decide(self, url: str, method: str, headers: Mapping[str, str], first: str | None) -> Verdict:
        """
        Decide about one hop of a fetch, and count what goes out unsigned.

        *headers* has lower-case names. *first* is what the first hop's verdict said, None
        for the first hop itself: a redirect is signed only by the origin that covered the
        first hop, or else any server could have this one sign for it.
        """
        unsigned = self.unsigned(url) if "X-Amz-Signature=" in url else None
        try:
            place = self._targets.located(unsigned or url)
            if not _is_ours(place, method, headers):
                raise NotCovered
            # In a URL of this presigner's own, the application itself chose the overrides.
            find = self._targets.caught if unsigned is None else self._targets.at
            obj = find(place, method)
        except NotCovered:
            self.counts.passed_uncovered += 1
            return Verdict(None, first or "")
        if first not in (None, obj.origin):
            self.counts.passed_redirect += 1
            return Verdict(None, first)
        extra = {name: value for name, value in headers.items() if name.startswith("x-amz-")}
        may_pass = self._targets.policy(obj).on_error == "pass"
        return Verdict(Catch(self, obj, extra, may_pass, unsigned), obj.origin)

    def is_elsewhere(self, url: str, method: str) -> bool:
        """Return whether *url* is to be asked for at another place than it says."""
        if not self.healing.has_moved:
            return False
        try:
            place = self._targets.located(self.unsigned(url) or url)
            return bool(place.origin.catch) and self.healing.is_elsewhere(self._targets.at(place, method))
        except NotCovered:
            return False

    def unsigned(self, url: str) -> str | None:
        """Return the unsigned form of *url*, a signed one, if this presigner made it and still holds it."""
        bare, _, query = url.partition("?")
        pairs = parse_qsl(query, keep_blank_values=True)
        signed = dict(pairs)
        if not signed.get("X-Amz-Signature") or not re.fullmatch(r"\d{1,6}", signed.get("X-Amz-Expires", "")):
            return None
        rest = urlencode([(name, value) for name, value in pairs if not name.startswith("X-Amz-")])
        unsigned = f"{bare}?{rest}" if rest else bare
        try:
            place = self._targets.located(unsigned)
        except NotCovered:
            return None
        lifetime = int(signed["X-Amz-Expires"])
        for method, form in product(place.origin.methods, (place.form, "")):
            obj = self._targets.at(place._replace(form=form), method)
            for share in (0.0, self._targets.policy(obj).boto_share):
                entry = self._table.get(obj.but(lifetime=lifetime, share=share))
                if entry is not None and entry.url.endswith(signed["X-Amz-Signature"]):
                    return unsigned
        return None


def _is_ours(place: Place, method: str, headers: Mapping[str, str]) -> bool:
    """Return whether a hook may sign a request to *place*."""
    if not place.origin.catch or method not in place.origin.methods:
        return False
    if "authorization" in headers:  # S3 accepts one mechanism only
        return False
    # The signature is for the URL's host: a Host header of the caller's own would break it.
    host = headers.get("host", "").lower()
    bare = host.removesuffix(":443").removesuffix(":80")  # a form has no default port
    return not place.form or not host or f"//{host}/" in place.form or f"//{bare}/" in place.form
