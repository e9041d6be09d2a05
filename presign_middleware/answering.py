"""
Whether a call of boto3's ``generate_presigned_url`` is answered from here: the decision of one presigner.

An answer has to be what boto3 would have signed, and no rule of boto3's is copied: it makes
the first URL of each kind, which is taken apart. Only if host, path, query and region are
those that a URL from here has, this one and the next come from here.
"""

from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import parse_qsl
from weakref import WeakKeyDictionary

from .credentials import fingerprint
from .errors import ConfigurationError, NotCovered, SigningError
from .local import Entry
from .metrics import Counts
from .objects import Parameters, S3Object, quote_key, wire_parameters
from .rollout import Arms
from .runner import Runner
from .scope import Scope
from .signing import Signing
from .targets import Targets

__all__ = ["Answer", "Answering", "Call"]

_METHODS = {"get_object": "GET", "head_object": "HEAD", "put_object": "PUT", "delete_object": "DELETE"}

#: What SigV2 adds to a query.
_SIGV2 = {"AWSAccessKeyId", "Signature", "Expires", "x-amz-security-token"}

#: Kinds of URL that are remembered of one client.
_MOST_KINDS = 1_000

#: Seconds for which boto3 answers: while a thread makes an origin ready, and after a failure.
_SHORT_REST, _LONG_REST = 1.0, 30.0


class Call(NamedTuple):
    """A call of ``generate_presigned_url``, under boto3's names."""

    client: Any
    ClientMethod: Any
    Params: Any = None
    ExpiresIn: Any = 3600
    HttpMethod: Any = None


class _Kind(NamedTuple):
    """What those URLs of one client have in common of which one speaks for all."""

    origin: str
    method: str
    names: tuple[str, ...]
    upgrade: bool


class Answer(NamedTuple):
    """A call that may be answered from here."""

    answering: "Answering"
    call: Call
    keys: bytes  #: the client's, as `fingerprint` has them
    object: S3Object  #: without its form until it is proven
    params: Parameters  #: of the call
    kind: _Kind

    @property
    def is_proven(self) -> bool:
        """Whether boto3 makes the same of it; if nobody knows, `proven` comes first."""
        return self.object.form != ""

    def proven(self, theirs: str) -> "Answer | None":
        """Return this answer if it may take the place of *theirs*, which boto3 has made of the call."""
        form = self.answering.prove(self, theirs)
        return self._replace(object=self.object.but(form=form)) if form else None

    def url(self) -> str | None:
        """Return the URL; None: boto3 has to answer. May block, but not on an event loop's thread."""
        return self.answering.url(self)

    async def aurl(self) -> str | None:
        """Return what `url` returns, without ever blocking the event loop."""
        return await self.answering.aurl(self)


class Answering:
    """The side of a presigner that answers for boto3."""

    def __init__(
        self,
        targets: Targets,
        signing: Signing,
        runner: Runner,
        arms: Arms,
        counts: Counts,
        scope: Callable[[], Scope | None],
    ) -> None:
        self._targets = targets
        self._signing = signing
        self._runner = runner
        self._arms = arms
        self._counts = counts
        self._scope = scope
        #: By client: the base URL of each kind, "" where boto3 has to answer.
        self._forms: WeakKeyDictionary[Any, dict[_Kind, str]] = WeakKeyDictionary()
        self._rests: dict[_Kind, float] = {}  # until when boto3 answers

    def decide(self, call: Call, *, upgrade: bool) -> Answer | None:
        """Return how *call* may be answered; None: boto3 does. *upgrade*: to SigV4, if nobody chose SigV2."""
        try:
            method = _METHODS[call.ClientMethod]
            rest = dict(call.Params) if isinstance(call.Params, dict) else {}  # boto3 takes nothing else
            bucket, key = rest.pop("Bucket"), rest.pop("Key")
            params = wire_parameters(rest)
            obj = self._targets.linked(bucket, key, method, params, call.ExpiresIn)
        except (NotCovered, ConfigurationError, KeyError, TypeError, ValueError):
            return None
        kind = _Kind(obj.origin, method, tuple([name for name, _ in params]), upgrade)
        form = self._forms.get(call.client, {}).get(kind)
        _, keys = _keys(call.client)
        if (
            form == ""
            or keys is None
            or call.HttpMethod not in (None, method)
            or self._signing.knows(obj, keys) is False
            or monotonic() < self._rests.get(kind, 0)
            or self._arms.is_by_boto3(self._scope())
        ):
            self._counts.left_to_boto3 += 1
            return None
        return Answer(self, call, keys, obj.but(form=form or ""), params, kind)

    def prove(self, answer: Answer, theirs: str) -> str:
        """Return the base URL that *theirs* has in common with URLs from here; "": it cannot be replaced."""
        bare, _, query = theirs.partition("?")
        pairs = parse_qsl(query, keep_blank_values=True)
        asked = [pair for pair in pairs if pair[0] not in _SIGV2 and not pair[0].startswith("X-Amz-")]
        access_key, region = _signer(dict(pairs), answer)
        form = ""
        if access_key and asked == list(answer.params):
            form = self._form(answer.object, bare, region)
        held, keys = _keys(answer.call.client)
        if form and (held != access_key or keys is None or self._signing.knows(answer.object, keys) is False):
            self._counts.left_to_boto3 += 1
            return ""  # the client has renewed its keys just now: that says nothing of the next call
        forms = self._forms.setdefault(answer.call.client, {})
        if len(forms) >= _MOST_KINDS:
            forms.clear()
        forms[answer.kind] = form
        self._counts.left_to_boto3 += not form
        return form

    def url(self, answer: Answer) -> str | None:
        """Return the URL of *answer*, which is proven; None: boto3 has to answer."""
        try:
            entry = self._runner.find_promptly(answer.object, self._scope())
        except SigningError:
            self._leave(answer, _LONG_REST)
            return None
        return self._handed_out(answer, entry)

    async def aurl(self, answer: Answer) -> str | None:
        """Return what `url` returns, without ever blocking the event loop."""
        try:
            obj, scope = answer.object, self._scope()
            entry = self._runner.quick(obj, None, scope) or await self._runner.await_for(obj, None, scope)
        except SigningError:
            self._leave(answer, _LONG_REST)
            return None
        return self._handed_out(answer, entry)

    def _form(self, obj: S3Object, bare: str, region: str) -> str:
        try:
            place = self._targets.located(bare)
        except NotCovered:
            return ""
        is_ours = (place.origin.name, place.origin.region) == (obj.origin, region)
        return place.form if is_ours and bare == f"{place.form}{quote_key(obj.key)}" else ""

    def _handed_out(self, answer: Answer, entry: Entry | None) -> str | None:
        if entry is None:
            self._leave(answer, _SHORT_REST)
            return None
        if not self._signing.knows(answer.object, answer.keys):
            self._leave(answer, 0)  # the origin has got its first keys just now, and they are others
            return None
        self._counts.caught += 1
        scope = self._scope()
        if scope is not None and scope.account is not None:
            scope.account.hand_out(entry)
        return entry.url

    def _leave(self, answer: Answer, seconds: float) -> None:
        """Leave *answer* to boto3, and others of its kind for so many seconds."""
        self._counts.left_to_boto3 += 1
        self._rests[answer.kind] = monotonic() + seconds


def _keys(client: Any) -> tuple[str, bytes | None]:
    """
    Return the access key id that *client* signs with, and the fingerprint of its keys; None: nobody knows.

    Of its keys, since an access key id is no secret: every link shows it.
    """
    # Their attributes, and not their properties, which may fetch others: I/O.
    held = getattr(getattr(client._request_signer, "_credentials", None), "__dict__", {})
    access_key = held.get("_access_key") or held.get("access_key")
    secret_key = held.get("_secret_key") or held.get("secret_key")
    return access_key or "", fingerprint(access_key, secret_key) if access_key and secret_key else None


def _signer(query: dict[str, str], answer: Answer) -> tuple[str, str]:
    """Return the access key id and the region of a URL with *query*; "": it must not be replaced."""
    meta = answer.call.client.meta
    # Where nobody chose a version it says this too, even if boto3 signs links with SigV2.
    if meta.config.signature_version != "s3v4":
        return "", ""
    if query.get("X-Amz-SignedHeaders") == "host":
        access_key, _, region, *_ = query["X-Amz-Credential"].split("/")
        return access_key, region
    return (query.get("AWSAccessKeyId", ""), meta.region_name) if answer.kind.upgrade else ("", "")
