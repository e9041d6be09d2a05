"""
The life of a URL: when it is dated, how long it is served, and when it is renewed.

Durations are seconds, instants are Unix seconds (UTC), and every function of time
takes ``now``. Nothing here reads a clock.

A URL signed at *date* for *L* seconds is

* FRESH until a full rotation period has passed since *date*: served;
* AGEING until fewer than *min_remaining* seconds are left: served, and to be renewed;
* SPENT from then on: never served.
"""

from dataclasses import dataclass
from math import floor, inf
from typing import Literal, NamedTuple

from .errors import ConfigurationError

__all__ = ["FOREVER", "Credential", "Life", "Policy", "Rotation"]

#: Seconds before a session's end at which boto3 has renewed it.
_RENEWED = 600

#: S3 accepts X-Amz-Expires of 1 s to 7 days; below a minute there is no room for three phases.
SHORTEST, LONGEST = 60, 604_800


class Credential(NamedTuple):
    """The public side of a credential: from when until when it works, and how a URL names it."""

    obtained: float
    end: float
    reason: Literal["credentials", "assumed"]
    access_key: str = ""
    token: str | None = None

    def __repr__(self) -> str:
        return f"<Credential {self.access_key} until {self.end}>"


#: The life of a credential that never ends, such as a user's static key.
FOREVER = Credential(-inf, inf, "credentials")


class Life(NamedTuple):
    """The instants of one signed URL."""

    end: float  #: S3 refuses it after this
    reason: str  #: what ends it: "lifetime", "credentials", "assumed" or "policy"
    fresh_until: float
    ageing_until: float  #: SPENT from here on


class Rotation(NamedTuple):
    """How URLs of one lifetime are dated and how long each is served. Made by `Policy.rotation`."""

    lifetime: int  # seconds: X-Amz-Expires
    min_remaining: float  # seconds that every URL handed out still has
    ageing: float  # seconds of service after the rotation period
    period: int  # seconds from one URL of an object to the next
    signature_age: float  # seconds after which a bucket policy refuses a signature; inf: none
    is_share: bool = False  # min_remaining is a share of the lifetime: only a session's end can shorten it

    def date(self, phase: int, now: float) -> int:
        """
        Return X-Amz-Date for an object at *now*: the start of its present window.

        *phase* is any integer that depends on the object alone, so that objects
        turn over at different instants but every process turns at the same ones.
        """
        present = floor(now)
        return present - (present - phase) % self.period

    def least(self, credential: Credential) -> float:
        """Return how many seconds a URL that ends with *credential* has left at least when it is served."""
        # There may be no newer one any earlier: boto3 renews sessions 10 to 15 minutes before their end.
        return self.min_remaining if credential.end == inf else min(self._share(credential), _RENEWED)

    def life(self, date: int, credential: Credential = FOREVER, phase: int | None = None) -> Life:
        """
        Return the instants of a URL that was signed at *date* with *credential*.

        *phase* is wanted where *date* may lie inside of a window, as an epoch does: such a URL
        is FRESH until the next window begins, in which all others are signed anew.
        """
        end: float = date + self.lifetime
        reason = "lifetime"
        if self.signature_age < self.lifetime:
            end, reason = date + self.signature_age, "policy"
        least, ageing = self.min_remaining, self.ageing
        if credential.end != inf:
            least = least if self.is_share else self._share(credential)
            ageing = min(ageing, (credential.end - credential.obtained) / 10)
            if credential.end < end:
                end, reason, least = credential.end, credential.reason, self.least(credential)
        turn = self.period if phase is None else (phase - date) % self.period or self.period
        return Life(end, reason, min(date + turn, end - least - ageing), end - least)

    def _share(self, credential: Credential) -> float:
        # A short session must not make every URL SPENT at birth: the bounds shrink with it.
        return min(self.min_remaining, (credential.end - credential.obtained) / 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """
    How long URLs live, and how they are served.

    Raises:
        ConfigurationError: Numbers with which no URL could be served; named in the message.
    """

    lifetime: int = 3600  # seconds, X-Amz-Expires: 60 to 604800
    min_remaining: float | None = None  # seconds; None: a sixth of the lifetime, at most 300
    ageing: float | None = None  # seconds; None: a tenth of the lifetime
    skew: float = 0  # seconds that S3's clock is ahead of this host's
    signature_age: float | None = None  # seconds; set it where a bucket policy limits s3:signatureAge
    assumed_session: float = 900  # seconds a session token is taken to live when nobody knows
    shared_patience: float = 0.05  # seconds that one request waits for the shared cache, all in all
    shared_reads: Literal["always", "auto"] = "always"  # "auto": not where all would sign the same bytes
    invalidation_lag: float = 2.0  # seconds after which all processes know of an invalidation
    refresh_limit: int = 100  # URLs that are renewed after one request
    fallback_ttl: float = 60.0  # seconds for which an object found in a fallback origin is asked for there
    on_error: Literal["raise", "pass"] = "raise"  # what a hook does with a covered fetch it cannot sign
    boto_share: float = 0.5  # of ExpiresIn, that is left of what generate_presigned_url hands out

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "pass"):
            raise ConfigurationError(f'on_error must be "raise" or "pass", got {self.on_error!r}')
        if self.shared_reads not in ("always", "auto"):
            raise ConfigurationError(f'shared_reads must be "always" or "auto", got {self.shared_reads!r}')
        # An AGEING window of less than a second could pass between two requests of one page.
        for name, least in (
            ("min_remaining", 0),
            ("ageing", 1),
            ("signature_age", 1),
            ("assumed_session", 1),
            ("shared_patience", 0),
            ("invalidation_lag", 0.1),
            ("fallback_ttl", 0),
        ):
            value = getattr(self, name)
            if value is None and name in ("min_remaining", "ageing", "signature_age"):
                continue
            if not (_is_number(value) and least <= value < inf):
                raise ConfigurationError(f"{name} must be a number of seconds from {least} up, got {value!r}")
        if not (_is_number(self.skew) and -86_400 <= self.skew <= 86_400):
            raise ConfigurationError(f"skew must be within a day (86400 s), got {self.skew!r}")
        limit = self.refresh_limit
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise ConfigurationError(
                f"refresh_limit must be a whole number of URLs, 0 or more, got {limit!r}"
            )
        if not (_is_number(self.boto_share) and 0 < self.boto_share < 1):
            raise ConfigurationError(
                f"boto_share must be a share of ExpiresIn, over 0 and under 1, got {self.boto_share!r}"
            )
        self.rotation(self.lifetime)

    def rotation(self, lifetime: int, share: float = 0.0) -> Rotation:
        """
        Return how URLs that live for *lifetime* seconds are dated and served.

        *share*: the part of it that is left at least, in the place of *min_remaining* and
        *ageing*, which are for the policy's own lifetime; 0: those.

        Raises:
            ConfigurationError: *lifetime* is not an integer in 60..604800, or leaves
                no whole second between one URL and the next.
        """
        if isinstance(lifetime, bool) or not isinstance(lifetime, int) or not SHORTEST <= lifetime <= LONGEST:
            raise ConfigurationError(
                f"lifetime must be a whole number of seconds from {SHORTEST} to {LONGEST}, got {lifetime!r}"
            )
        # Where a bucket policy ends signatures sooner, that is the life there is to divide.
        span = lifetime if self.signature_age is None else min(lifetime, self.signature_age)
        least = min(300, span / 6) if self.min_remaining is None else self.min_remaining
        ageing = span / 10 if self.ageing is None else self.ageing
        if share:
            least = share * span
            ageing = min(span / 10, (span - least) / 2)
        period = floor(span - least - ageing)
        if period < 1:
            raise ConfigurationError(
                f"no time is left to serve a URL: of {span:g} s, min_remaining={least:g} and "
                f"ageing={ageing:g} leave a rotation period of {span - least - ageing:g} s, wanted 1 or more"
            )
        return Rotation(
            lifetime=lifetime,
            min_remaining=least,
            ageing=ageing,
            period=period,
            signature_age=inf if self.signature_age is None else self.signature_age,
            is_share=share > 0,
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
