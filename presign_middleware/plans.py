"""
Plans: SigV4 for query parameters, with everything but the key and the instant in place.

No rule of AWS is written down here but the arithmetic. What a URL looks like is
learned from one that boto3 made; see `signing`. Everything here is pure.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

from .credentials import Snapshot
from .policy import Credential

__all__ = ["DAY", "DIGEST", "Composer", "Plan", "Shelf", "Signature", "Signer", "signing_key"]

#: Seconds of a UTC day: a signing key is good for one.
DAY = 86_400

#: Characters of a signature, which are the last of every URL that a plan makes.
DIGEST = 64

_FILLED = frozenset({"X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Security-Token"})

_TO_60 = [f"{number:02}" for number in range(60)]
_MINUTES = tuple([f"T{hour}{minute}" for hour in _TO_60[:24] for minute in _TO_60])
_SECONDS = tuple([f"{second}Z" for second in _TO_60])

#: What HMAC makes of the bytes of a key.
_XOR_36, _XOR_5C = (bytes([byte ^ pad for byte in range(256)]) for pad in (0x36, 0x5C))


def signing_key(secret_key: str, day: str, region: str, service: str) -> bytes:
    """Return the key that signs for one UTC *day* (``YYYYMMDD``), *region* and *service*."""
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


class Shelf(NamedTuple):
    """What URLs have in common that are filed together: all but what an object has of its own."""

    identity: str  #: whose credentials sign
    region: str
    base: str  #: the URL to which a key is added


class Signature(NamedTuple):
    """What a signer adds to a URL: all that has to be known of it where the plan is known."""

    date: int  #: X-Amz-Date, Unix seconds
    digest: str  #: X-Amz-Signature
    credential: Credential

    def __repr__(self) -> str:
        return f"<Signature of {self.date} by {self.credential!r}>"


class Composer:
    """Makes the URLs of one plan, credential and UTC day of a key, an instant and a signature."""

    __slots__ = ("_base", "_day", "_midnight", "_pairs", "_query")

    def __init__(
        self, plan: "Plan", credential: Credential, day: int, lifetime: int, values: Mapping[str, str]
    ) -> None:
        self._midnight = day * DAY
        self._day = time.strftime("%Y%m%d", time.gmtime(self._midnight))
        filled = {
            "X-Amz-Credential": quote(f"{credential.access_key}/{self._scope(plan)}", safe="-._~"),
            "X-Amz-Date": "\0",  # where the instant goes: no escaped text holds a NUL
            "X-Amz-Expires": str(lifetime),
            "X-Amz-Security-Token": quote(credential.token or "", safe="-._~"),
        }
        self._pairs = [(name, quote(value, safe="-._~")) for name, value in values.items()]
        self._pairs += [(name, filled[name] if value is None else value) for name, value in plan.query]
        before, after = "&".join(f"{name}={value}" for name, value in self._pairs).split("\0")
        self._query = (f"?{before}{self._day}", f"{after}&X-Amz-Signature=")
        self._base = plan.base

    def _scope(self, plan: "Plan") -> str:
        return f"{self._day}/{plan.region}/{plan.service}/aws4_request"

    def url(self, path: str, date: int, digest: str) -> str:
        """Return the URL of the key that is quoted as *path*, signed as *digest* at *date*, of this day."""
        before, after = self._query
        minute, second = divmod(date - self._midnight, 60)
        return f"{self._base}{path}{before}{_MINUTES[minute]}{_SECONDS[second]}{after}{digest}"


class Signer(Composer):
    """
    Signs the keys of one plan on one UTC day: everything else is already in place.

    Holds two texts that a key and a time of day complete: the URL, and SigV4's canonical
    request. See "Authenticating Requests: Using Query Parameters" in the S3 reference.
    """

    __slots__ = ("_canonical", "_inner", "_outer", "_request", "_suffix")

    def __init__(
        self, plan: "Plan", keys: Snapshot, day: int, lifetime: int, values: Mapping[str, str]
    ) -> None:
        super().__init__(plan, keys.credential, day, lifetime, values)
        canonical = "&".join(f"{name}={value}" for name, value in sorted(self._pairs)).split("\0")
        self._canonical = (
            f"\n{canonical[0]}{self._day}",
            f"{canonical[1]}\nhost:{plan.host}\n\nhost\nUNSIGNED-PAYLOAD",
        )
        self._suffix = f"\n{self._scope(plan)}\n"
        # HMAC is two hashes, each begun with the key (RFC 2104). Copies of the two begun
        # ones sign in a quarter of the time of hmac.digest, the most of a signature's cost.
        # They are begun with what every text begins with, too, as is that of the request.
        key = signing_key(keys.secret_key, self._day, plan.region, plan.service).ljust(64, b"\0")
        self._inner = hashlib.sha256(key.translate(_XOR_36))
        self._outer = hashlib.sha256(key.translate(_XOR_5C))
        self._inner.update(f"AWS4-HMAC-SHA256\n{self._day}".encode())
        self._request = hashlib.sha256(f"{plan.method}\n{plan.root}".encode())

    def sign(self, path: str, date: int) -> str:
        """Return the URL of the key that is quoted as *path*, signed at *date*, an instant of this day."""
        minute, second = divmod(date - self._midnight, 60)
        time_of_day = _MINUTES[minute] + _SECONDS[second]
        before, after = self._canonical
        request, inner, outer = self._request.copy(), self._inner.copy(), self._outer.copy()
        request.update(f"{path}{before}{time_of_day}{after}".encode())
        inner.update(f"{time_of_day}{self._suffix}{request.hexdigest()}".encode())
        outer.update(inner.digest())
        before, after = self._query  # not by url(): the call would be a tenth of the work
        return f"{self._base}{path}{before}{time_of_day}{after}{outer.hexdigest()}"


class Plan:
    """
    Everything of a URL but the key, the instant, the credential and the parameters' values.

    Made of a *url* that boto3 signed for *method* and a key that is quoted as *path*, with
    the parameters *names*. A signer puts them into the order of the values it is given, as
    boto3 does.

    Raises:
        ValueError: The URL is not of a form that a plan can make.
    """

    def __init__(self, method: str, url: str, path: str, names: Sequence[str]) -> None:
        parts = urlsplit(url)
        if not parts.path.endswith(f"/{path}"):
            raise ValueError("the key is not the end of the path")
        self.method = method
        # SigV4 signs the Host header as clients send it: in lower case, without a default port.
        default = ":443" if parts.scheme == "https" else ":80"
        self.host = parts.netloc.lower().removesuffix(default)
        self.root = parts.path.removesuffix(path)
        self.base = f"{parts.scheme}://{parts.netloc}{self.root}"
        raw = dict(pair.split("=", 1) for pair in parts.query.split("&"))
        if list(raw)[: len(names)] != list(names):
            raise ValueError("the parameters are not the beginning of the query")
        del raw["X-Amz-Signature"]
        #: What follows the parameters; a value where every URL of this plan has the same one.
        self.query = tuple(
            (name, None if name in _FILLED else value) for name, value in raw.items() if name not in names
        )
        *_, self.region, self.service, _ = dict(parse_qsl(parts.query))["X-Amz-Credential"].split("/")
