"""
What one process tells of itself to whoever looks after it, and its form in the shared cache.

It holds names of hosts, origins and servers, enumerations and numbers: no key of an object,
no URL, nothing of a credential but when it ends. What is read may be anybody's, so every
field is checked for its form.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

from .metrics import Counts
from .recent import Happening

__all__ = ["AGES", "BUCKETS", "SLOT", "SLOTS", "Held", "Row", "Worker"]

#: Seconds of a slot of the history, and slots that are kept: ten minutes.
SLOT, SLOTS = 10, 60

#: Bounds, in seconds, of what is left of URLs; before the first is what is not served any more.
AGES = (60, 300, 900, 1800, 3600, 21_600)
BUCKETS = len(AGES) + 2

#: Bytes that may be read as one worker's.
_LONGEST = 65_536

#: Origins, servers and events of one worker.
_MOST = 100

T = TypeVar("T")


class Row(NamedTuple):
    """What was counted in one slot."""

    here: int = 0  #: URLs that this process had: of a request, of its table, of a flight
    shared: int = 0
    signed: int = 0
    failed: int = 0
    errors: int = 0  #: of the shared cache's servers
    rejected: int = 0  #: of its entries
    unhealed: int = 0

    @classmethod
    def of(cls, counts: Counts) -> "Row":
        """Return what was counted so far."""
        said = counts.as_dict()
        return cls(
            said["from_scope"] + said["from_local"] + said["from_flight"],
            said["from_shared"],
            said["from_signer"],
            said["failed"],
            said["shared_errors"],
            said["shared_rejected"],
            said["unhealed"],
        )

    def plus(self, other: "Row", sign: int = 1) -> "Row":
        """Return the sum, or the difference, of the two."""
        return Row(*[one + sign * two for one, two in zip(self, other, strict=True)])


class Held(NamedTuple):
    """The credentials of an origin in one process."""

    end: float | None = None  #: Unix seconds, by AWS's clock; None: they do not end, or there are none yet
    life: float | None = None  #: seconds from when they were obtained until then
    ahead: float = 0.0  #: seconds that AWS's clock is ahead of the host's
    failure: str = ""  #: why there were none when they were asked for last
    is_assumed: bool = False
    learned: str = ""  #: of S3's answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One process at one instant."""

    host: str
    pid: int
    started: float  #: Unix seconds, by the host's clock, as all instants
    at: float
    counts: Mapping[str, int]
    held: int  #: URLs in its table
    ages: tuple[int, ...]  #: of them, by what is left of their lives; estimated from a sample
    history: Mapping[int, Row]  #: by slot, Unix seconds divided by `SLOT`
    origins: Mapping[str, Held]
    servers: Mapping[str, float | None]  #: for how many seconds each has been down; None: it is up
    round_trip: float | None  #: seconds that the shared cache took to answer this process's last note
    happenings: tuple[Happening, ...]  #: the newest first

    @property
    def name(self) -> str:
        """What an operator calls it."""
        return f"{self.host}:{self.pid}"

    def encode(self) -> bytes:
        """Return what `decode` takes."""
        told = asdict(self)
        told["counts"] = {name: count for name, count in self.counts.items() if count}
        return json.dumps(told, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Worker | None":
        """Return what was encoded, or None: *data* has not that form."""
        if len(data) > _LONGEST:
            return None
        try:
            told = json.loads(data)
            known = Counts().as_dict()
            return cls(
                host=_text(told["host"]),
                pid=_whole(told["pid"]),
                started=_number(told["started"]),
                at=_number(told["at"]),
                counts=known
                | {name: count for name, count in _map(told["counts"], _whole).items() if name in known},
                held=_whole(told["held"]),
                ages=_row(told["ages"], BUCKETS),
                history={
                    int(slot): Row(*row)
                    for slot, row in _map(told["history"], lambda row: _row(row, len(Row._fields))).items()
                },
                origins=_map(told["origins"], _held),
                servers=_map(told["servers"], _maybe),
                round_trip=_maybe(told["round_trip"]),
                happenings=tuple([_happening(one) for one in _list(told["happenings"])]),
            )
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


def _held(value: Any) -> Held:
    end, life, ahead, failure, is_assumed, learned = value
    return Held(_maybe(end), _maybe(life), _number(ahead), _text(failure), is_assumed is True, _text(learned))


def _happening(value: Any) -> Happening:
    at, level, event, text = value
    return Happening(_number(at), _text(level), _text(event), _text(text))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value[:300].encode("utf-8", "replace").decode()


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    if not -1e12 < value < 1e12:  # nor is NaN
        raise ValueError
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise TypeError
    return value


def _maybe(value: Any) -> float | None:
    return None if value is None else _number(value)


def _row(value: Any, length: int) -> tuple[int, ...]:
    if len(value) != length:
        raise ValueError
    return tuple([_whole(number) for number in value])


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise TypeError
    return value


def _map(value: Any, checked: Callable[[Any], T]) -> dict[str, T]:
    if not isinstance(value, dict) or len(value) > _MOST:
        raise TypeError
    return {_text(name): checked(one) for name, one in value.items()}


def bucket(left: float, is_served: bool) -> int:
    """Return the place among `Worker.ages` of a URL with so many seconds *left*."""
    if not is_served:
        return 0
    return 1 + sum([left >= bound for bound in AGES])
