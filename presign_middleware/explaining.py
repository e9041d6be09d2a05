"""
Why a target would be signed or not, and how, as far as this process knows.

Everything here looks and touches nothing: no I/O, no lock, nothing counted, signed or
renewed. So it can be asked on any path, also of an error that is just being raised.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from .epochs import Epochs
from .errors import ConfigurationError, NotCovered, SigningError
from .healing import Healing
from .local import Entry, Table
from .objects import Parameters, S3Object, quote_key
from .origins import Origin
from .redaction import redact
from .resolver import Clock, Resolver
from .rollout import Arms
from .scope import Scope, ambient, catching, current
from .signing import OriginSigning, Signing
from .targets import Targets

if TYPE_CHECKING:
    from .shared import Shared  # which imports pymemcache

__all__ = ["Explaining", "Explanation"]

_UNKNOWN: Literal["unknown until something is signed"] = "unknown until something is signed"

_NO_PLAN = "no plan makes URLs of its form, method and parameters as boto3 does"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """
    Why a target would be signed or not, and how, at one instant.

    ``str()`` has a line for each thing that matters, `short` is one line for logs. Neither
    they nor ``repr()`` hold a signature, a session token or a secret.

    Instants are Unix seconds, durations seconds; None: there is none, or nobody knows.
    Where *covered* is false, what follows *reason* has no meaning.
    """

    target: str  #: fit for a message: without a query
    at: float  #: when all this was so
    method: str
    covered: bool  #: whether `Presigner.url` would sign it
    reason: str = ""  #: why not, in the words of the error that it raises

    origin: str = ""
    bucket: str = ""
    key: str = ""  #: decoded
    form: str = ""  #: the base URL asked for; "": the origin's own form
    params: Parameters = ()  #: wire names and values
    lifetime: int | None = None  #: X-Amz-Expires

    signer: Literal["plan", "boto3", "unknown until something is signed"] = _UNKNOWN
    signer_reason: str = ""  #: why boto3
    credentials: str = ""  #: where they come from
    access_key: str | None = None  #: the id of those at hand
    credentials_end: float | None = None  #: of those at hand
    credentials_reason: str | None = None  #: "credentials", or "assumed" where nobody knows their end

    #: Who would answer now: "scope", "local", "shared or signer" (asked in this order), "signer" or
    #: "nobody: " and why. Where a rollout is under way: "boto3: " and why, or one of the two.
    tier: str = ""
    state: Literal["FRESH", "AGEING", "SPENT"] | None = None  #: of what is held, by its age
    taken_back: bool = False  #: whether what is held was signed before *epoch*
    dated: float | None = None  #: X-Amz-Date of what is held
    fresh_until: float | None = None
    ageing_until: float | None = None  #: SPENT from then on
    expires_at: float | None = None  #: S3 refuses what is held after this
    expires_reason: str | None = None  #: "lifetime", "credentials", "assumed" or "policy"
    remaining: float | None = None  #: until *expires_at*, by S3's clock; negative when it is past

    epoch: int | None = None  #: an invalidation or a revocation: nothing dated before is handed out
    epochs_known: bool = True  #: False: the shared cache is asked first for what others have taken back
    shared: Literal["none", "up", "down"] = "none"  #: "down": all servers failed, and are not asked
    namespace: str = ""
    caught: bool = False  #: whether a client with a hook would have a fetch of it signed, if made here
    caught_reason: str = ""  #: why not
    #: What S3's answers have taught of the origin, by what it is about.
    learned: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def short(self) -> str:
        """All that matters most, in one line."""
        if not self.covered:
            return f"{self.method} {self.target} is not signed: {self.reason}"
        tier, _, _ = self.tier.partition(". ")  # what follows is a cure, which the error tells too
        return (
            f"{self.method} {self.target} of origin {self.origin}: answered by {tier}; {self._held}; "
            f"signer {self.signer}; credentials of {self._credentials}; shared cache {self.shared}"
        )

    def __str__(self) -> str:
        return "\n".join(f"{name:<13}{text}" for name, text in self._lines())

    def __repr__(self) -> str:
        return f"<Explanation: {self.short}>"

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "asked for", f"{self.method} {self.target}"
        if not self.covered:
            yield "not signed", self.reason
            return
        yield "object", f"origin {self.origin}, bucket {self.bucket}, key {redact(self.key)}"
        names = ", ".join([name for name, _ in self.params]) or "no parameters"
        form = self.form or "the origin's own form"
        yield "signed as", f"{form}, {names}, lifetime {self.lifetime} s"
        yield "signer", self.signer + (f": {self.signer_reason}" if self.signer_reason else "")
        yield "credentials", self._credentials
        yield "answered by", self.tier
        yield "held", self._held
        if self.state is not None:
            ages = f"FRESH until {_utc(self.fresh_until)}, SPENT from {_utc(self.ageing_until)}"
            yield "", f"dated {_utc(self.dated)}, {ages}"
        taken_back = "no" if self.epoch is None else f"what was signed before {_utc(self.epoch)}"
        yield "taken back", taken_back if self.epochs_known else f"{taken_back}; others are asked first"
        namespace = "" if self.shared == "none" else f", namespace {self.namespace!r}"
        yield "shared cache", f"{self.shared}{namespace}"
        yield "hooks", "would sign a fetch made here" if self.caught else f"would not: {self.caught_reason}"
        yield "learned", "; ".join([f"{name}: {text}" for name, text in self.learned.items()]) or "nothing"

    @property
    def _credentials(self) -> str:
        if self.access_key is None:
            return f"{self.credentials}: none at hand"
        if self.credentials_end is None:
            return f"{self.credentials}: {self.access_key}, without an end"
        assumed = " (assumed)" if self.credentials_reason == "assumed" else ""
        return f"{self.credentials}: {self.access_key} until {_utc(self.credentials_end)}{assumed}"

    @property
    def _held(self) -> str:
        if self.state is None:
            return "nothing held"
        state = f"{self.state}, but taken back" if self.taken_back else self.state
        return f"{state}, ends {_utc(self.expires_at)} ({self.expires_reason}), {self.remaining:.0f} s left"


class Explaining:
    """The side of a presigner that tells what it would do."""

    def __init__(
        self,
        targets: Targets,
        table: Table,
        signing: Signing,
        healing: Healing,
        resolver: Resolver,
        epochs: Epochs,
        arms: Arms,
        shared: "Shared | None",
        namespace: str,
        clock: Clock,
        scope: Callable[[], Scope | None],
    ) -> None:
        self._targets = targets
        self._table = table
        self._signing = signing
        self._healing = healing
        self._resolver = resolver
        self._epochs = epochs
        self._arms = arms
        self._shared = shared
        self._namespace = namespace
        self._clock = clock
        self._scope = scope

    def explain(
        self, target: object, method: str, params: Mapping[str, Any] | None, lifetime: int | None
    ) -> Explanation:
        """Explain what `Presigner.url` would do with the same arguments. Raises for no target."""
        try:
            text = str(target)
        except Exception:  # whatever a stranger's object may raise
            text = f"<{type(target).__name__}>"
        try:
            obj = self._targets.asked(text, method, params, lifetime)
        except (NotCovered, ConfigurationError) as error:
            return Explanation(
                target=redact(text),
                at=self._clock.time(),
                method=redact(method),
                covered=False,
                reason=str(error),
                caught_reason="it is not covered",
            )
        return self._explained(self._healing.where(obj), redact(text))

    def short(self, obj: S3Object) -> str:
        """Return in one line what is known of *obj*, as a note on an exception."""
        target = f"{obj.form}{quote_key(obj.key)}" if obj.form else f"s3://{obj.bucket}/{obj.key}"
        return self._explained(obj, redact(target)).short

    def note(self, error: SigningError, obj: S3Object) -> None:
        """Add the short form of *obj* to *error*, which is about to be raised for the first time."""
        with suppress(Exception):  # a defect of ours must not take the error's place
            error.add_note(self.short(obj))

    def _explained(self, obj: S3Object, target: str) -> Explanation:
        wall, monotonic, scope = self._clock.time(), self._clock.monotonic(), self._scope()
        signs, epoch = self._signing.of(obj.origin), self._epochs.of(obj)
        tier, entry = self._held(obj, scope, wall, monotonic)
        held, signer = signs.source.held, signs.signer(obj)
        now = wall + signs.skew
        uncaught = self._uncaught(signs.origin)
        explanation = Explanation(
            target=target,
            at=wall,
            method=obj.method,
            covered=True,
            origin=obj.origin,
            bucket=obj.bucket,
            key=obj.key,
            form=obj.form,
            params=obj.params,
            lifetime=obj.lifetime,
            signer=_signer(signer),
            signer_reason=_NO_PLAN if signer == "boto3" else "",
            credentials=signs.source.label,
            access_key=held and held.credential.access_key,
            credentials_end=None if held is None or held.credential.end == inf else held.credential.end,
            credentials_reason=None if held is None or held.credential.end == inf else held.credential.reason,
            tier=self._arms.explain(scope, tier or self._maker(obj, signs, signer)),
            # No URL that is older than its lifetime is left to be taken back.
            epoch=epoch if epoch > now - obj.lifetime else None,
            epochs_known=not self._resolver.is_behind(),
            shared=self._shared_state(),
            namespace=self._namespace,
            caught=not uncaught,
            caught_reason=uncaught,
            learned=self._healing.learned(obj.origin),
        )
        if entry is None:
            return explanation
        is_fresh, is_spent = entry.is_fresh(wall, monotonic), entry.is_spent(wall, monotonic)
        return replace(
            explanation,
            state="FRESH" if is_fresh else "SPENT" if is_spent else "AGEING",
            taken_back=entry.date < epoch,
            dated=entry.date,
            fresh_until=entry.fresh_until,
            ageing_until=entry.ageing_until,
            expires_at=entry.end,
            expires_reason=entry.reason,
            remaining=entry.end - now,
        )

    def _held(
        self, obj: S3Object, scope: Scope | None, wall: float, monotonic: float
    ) -> tuple[str, Entry | None]:
        """Return which tier holds what may be served, or ""; and what is held, be it past."""
        # Not by Scope.seen(), which makes it the one that was used last.
        met = scope.met if scope is not None else None
        of_scope, of_process = met.get(obj) if met else None, self._table.get(obj)
        for tier, entry in (("scope", of_scope), ("local", of_process)):
            if entry is not None and self._resolver.is_servable(scope, entry, wall, monotonic):
                return tier, entry
        return "", of_process or of_scope

    def _maker(self, obj: S3Object, signs: OriginSigning, signer: str) -> str:
        """Return the tier of what is not held."""
        source = signs.source
        if source.failure:
            return f"nobody: {source.failure}"
        if self._is_asked(obj, signs, signer):
            return "shared or signer"
        now, held = source.now, source.held
        if held is not None and not source.is_due(now):
            least = signs.policy.rotation(obj.lifetime, obj.share).least(held.credential)
            if now >= held.credential.end - least:
                return "nobody: its credentials end too soon for a URL that could be handed out"
        return "signer"

    def _is_asked(self, obj: S3Object, signs: OriginSigning, signer: str) -> bool:
        """Return whether the shared cache is asked for *obj* before it is signed."""
        if self._shared_state() != "up" or not obj.kind.is_kept:
            return False
        held = signs.source.held
        if held is None or not signer:  # as one does who has yet to learn what it is like
            return True
        is_common = signs.policy.shared_reads == "always" or held.credential.end != inf
        return is_common and signer == "plan" and held.identity is not None

    def _shared_state(self) -> Literal["none", "up", "down"]:
        if self._shared is None:
            return "none"
        return "down" if self._shared.has_failed() else "up"

    def _uncaught(self, origin: Origin) -> str:
        """Return why no hook would sign a fetch that is made here; "": one would."""
        if not origin.catch:
            return f"Origin({origin.name!r}, catch=False) is for links only"
        if not catching():
            return "it would be made inside paused()"
        if current() is None and all(presigner.explaining is not self for presigner in ambient):
            return "it would be made outside any request; a script puts it into `with presigner.scope():`"
        if current() is not None and self._scope() is None:
            return "the request here has another presigner"
        return ""


def _signer(signer: str) -> Literal["plan", "boto3", "unknown until something is signed"]:
    match signer:
        case "plan" | "boto3":
            return signer
    return _UNKNOWN


def _utc(instant: float | None) -> str:
    return "" if instant is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(instant))
