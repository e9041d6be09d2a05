"""
What a presigner can be asked for at any moment, for whoever shows it: Prometheus, OpenTelemetry, a page.

Asking costs those who want URLs nothing: counters are read, not kept twice. Labels are
bounded: origins as far as `metrics` tells them apart, enumerations, memcached servers and
sources of credentials.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from math import inf
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .credentials import Sources
from .local import Table
from .metrics import LIVES, OTHER, Counts, Tally

if TYPE_CHECKING:
    from .shared import Shared

__all__ = ["FAMILIES", "Distribution", "Family", "Measuring", "Point"]

#: Servers, and sources of credentials, that are told apart.
_MOST_LABELS = 100

#: URLs that have left the local table before that is worth a word.
_MANY = 1_000


class Distribution(NamedTuple):
    """How many, of how much in all, and how many up to each of some bounds but over the one before."""

    number: int
    sum: float
    buckets: tuple[tuple[float, int], ...] = ()  #: the last bound is infinite


#: The values of a family's labels, and what was measured.
Point = tuple[tuple[str, ...], float | Distribution]


class Measuring:
    """Reads what one presigner counts and holds."""

    def __init__(
        self, counts: Counts, table: Table, local_size: int, sources: Sources, shared: "Shared | None"
    ) -> None:
        self.counts = counts
        self.table = table
        self.local_size = local_size
        self._sources = sources
        self._shared = shared
        self._asking = Lock()
        self._told: Mapping[str, Mapping[str, Any]] = {}  # what servers have told of themselves, last

    def ask_servers(self) -> None:
        """Have a thread ask the memcached servers of themselves, if none is at it. Returns at once."""
        if self._shared is None or not self._asking.acquire(blocking=False):
            return
        try:
            # Not a request's thread, connection or patience: whoever collects metrics is not served.
            Thread(target=self._ask, name="presign-measuring", daemon=True).start()
        except RuntimeError:  # no more threads, or the interpreter is ending
            self._asking.release()

    def servers(self, what: Literal["up", "errors", "skipped"]) -> Iterator[Point]:
        """Yield it of each memcached server."""
        for server in islice(() if self._shared is None else self._shared.servers(), _MOST_LABELS):
            values = {"up": not server.has_failed, "errors": server.errors, "skipped": server.skipped}
            yield (server.name,), float(values[what])

    def told(self, what: str) -> Iterator[Point]:
        """Yield what servers have told of themselves by the name that memcached has for it."""
        for name, said in self._told.items():
            value = said.get(what)
            if isinstance(value, int):
                yield (name,), float(value)

    def ends(self) -> Iterator[Point]:
        """
        Yield when credentials that are in use end, Unix seconds, by their source.

        Of several sources of the same name the first to end.
        """
        ends: dict[str, float] = {}
        for source in self._sources.each():
            held = source.held
            if held is None or held.credential.end == inf or not source.is_in_use:
                continue
            label = source.label if source.label in ends or len(ends) < _MOST_LABELS else OTHER
            ends[label] = min(ends.get(label, inf), held.credential.end)
        for label, end in ends.items():
            yield (label,), end

    def advice(self) -> list[str]:
        """Return what the counters give reason to change."""
        stats = self.counts.as_dict()
        return [text.format(size=self.local_size, **stats) for told, text in _ADVICE if told(stats)]

    def _ask(self) -> None:
        told = {}
        try:
            for server in islice(self._shared.servers() if self._shared else (), _MOST_LABELS):
                if not server.has_failed:
                    with suppress(Exception):  # that it failed: requests will notice, too
                        told[server.name] = server.state().stats
            self._told = told
        finally:
            self._asking.release()


_Stats = Mapping[str, int]

#: When something is to be told, and what.
_ADVICE: tuple[tuple[Callable[[_Stats], bool], str], ...] = (
    (
        lambda stats: stats["evicted"] >= _MANY and 2 * stats["evicted_unused"] > stats["evicted"],
        """\
{evicted_unused} of {evicted} URLs that left this process for lack of room had not been asked for again \
(evicted_unused). If objects come back later, raise Presigner(local_size={size}), at about 1 KB a URL; \
if each is asked for once, nothing is lost""",
    ),
    (
        lambda stats: stats["signed"] >= _MANY and 2 * stats["signed_by_boto3"] > stats["signed"],
        """\
boto3 signed {signed_by_boto3} of {signed} URLs (signed_by_boto3), 20 to 30 times slower than a plan; \
presigner.explain(target) says why""",
    ),
    (
        lambda stats: stats["shared_rejected"] > stats["from_shared"] + _MANY,
        """\
most of what memcached had was of no use (shared_rejected {shared_rejected}, from_shared {from_shared}): \
give all processes one secret, and services with different rights a namespace each""",
    ),
    (
        lambda stats: stats["short_lived"] > 0,
        """\
credentials were too short for min_remaining: {short_lived} URLs were signed with less (short_lived). \
Ask for longer sessions, or lower Policy(min_remaining)""",
    ),
    (
        lambda stats: stats["passed_outside_scope"] > 0,
        """\
{passed_outside_scope} fetches of covered objects went out unsigned, outside any request \
(passed_outside_scope): put them into presigner.scope()""",
    ),
)


class Family(NamedTuple):
    """Measurements of one kind. Views make its name their own."""

    name: str  #: words parted by dots
    kind: Literal["counter", "gauge", "summary", "histogram"]
    unit: Literal["s", "By", "{url}", "{time}", "{item}", "1"]  #: as UCUM writes it
    text: str
    labels: tuple[str, ...]
    read: Callable[[Measuring], Iterable[Point]]
    across: Literal["livesum", "livemin", "livemax", "mostrecent"] = (
        "livesum"  #: of gauges: what several processes make
    )


def _by_origin(outcomes: Mapping[str, Callable[[Tally], int]]) -> Callable[[Measuring], Iterator[Point]]:
    def read(measuring: Measuring) -> Iterator[Point]:
        for origin, tally in measuring.counts.each().items():
            for outcome, number in outcomes.items():
                yield (origin, outcome) if outcome else (origin,), float(number(tally))

    return read


def _in_all(names: Mapping[str, str]) -> Callable[[Measuring], Iterator[Point]]:
    def read(measuring: Measuring) -> Iterator[Point]:
        for outcome, name in names.items():
            yield (outcome,) if outcome else (), float(getattr(measuring.counts, name))

    return read


def _lives(measuring: Measuring) -> Iterator[Point]:
    for origin, tally in measuring.counts.each().items():
        lives = tuple(tally.measured.lives)
        buckets = tuple(zip((*LIVES, inf), lives, strict=True))
        yield (origin,), Distribution(sum(lives), tally.measured.lives_seconds, buckets)


def _signing(measuring: Measuring) -> Iterator[Point]:
    tallies = list(measuring.counts.each().values())
    timed = sum([tally.measured.plans_timed for tally in tallies])
    yield ("plan",), Distribution(timed, sum([tally.measured.plan_seconds for tally in tallies]))
    by_boto3 = sum([tally.signed_by_boto3 for tally in tallies])
    yield ("boto3",), Distribution(by_boto3, sum([tally.measured.boto3_seconds for tally in tallies]))


def _evictions(measuring: Measuring) -> Iterator[Point]:
    unused = measuring.counts.evicted_unused
    yield ("false",), float(unused)
    yield ("true",), float(measuring.counts.evicted - unused)


def _held(measuring: Measuring) -> Iterator[Point]:
    yield (), float(len(measuring.table))


def _room(measuring: Measuring) -> Iterator[Point]:
    yield (), float(measuring.local_size)


#: All that is measured, in the order in which it is shown.
FAMILIES = (
    Family(
        "resolutions",
        "counter",
        "{url}",
        "URLs handed out, by the tier that had them.",
        ("origin", "tier"),
        _by_origin(
            {
                "scope": lambda tally: tally.from_scope,
                "local": lambda tally: tally.from_local,
                "flight": lambda tally: tally.from_flight,
                "shared": lambda tally: tally.from_shared,
                "signer": lambda tally: tally.from_signer,
            }
        ),
    ),
    Family(
        "resolution.failures",
        "counter",
        "{url}",
        "URLs that could not be had: SigningError.",
        ("origin",),
        _by_origin({"": lambda tally: tally.failed}),
    ),
    Family(
        "signatures",
        "counter",
        "{url}",
        "Signatures made, by a plan or by boto3.",
        ("origin", "signer"),
        _by_origin(
            {
                "plan": lambda tally: tally.signed - tally.signed_by_boto3,
                "boto3": lambda tally: tally.signed_by_boto3,
            }
        ),
    ),
    Family(
        "signing",
        "summary",
        "s",
        "Time that signatures took: all of boto3's, one by a plan of 64.",
        ("signer",),
        _signing,
    ),
    Family(
        "url.remaining",
        "histogram",
        "s",
        "Life that URLs new to this process had left; one of 64 of those that a plan signed at once.",
        ("origin",),
        _lives,
    ),
    Family(
        "short_lived_urls",
        "counter",
        "{url}",
        "URLs signed with credentials too short for min_remaining.",
        ("origin",),
        _by_origin({"": lambda tally: tally.short_lived}),
    ),
    Family(
        "refreshes",
        "counter",
        "{url}",
        "URLs renewed, or not, mostly with nobody waiting for them.",
        ("origin", "outcome"),
        _by_origin({"renewed": lambda tally: tally.refreshed, "failed": lambda tally: tally.refresh_failed}),
    ),
    Family(
        "heals",
        "counter",
        "{time}",
        "Fetches that S3 refused and that were signed anew and sent again.",
        ("origin", "outcome"),
        _by_origin({"healed": lambda tally: tally.healed, "refused": lambda tally: tally.unhealed}),
    ),
    Family(
        "fallbacks",
        "counter",
        "{time}",
        "Fetches that another origin answered than this one.",
        ("origin",),
        _by_origin({"": lambda tally: tally.fallbacks}),
    ),
    Family(
        "invalidations",
        "counter",
        "{time}",
        "Calls that took back the URLs of an object or an origin.",
        ("origin", "of"),
        _by_origin({"object": lambda tally: tally.invalidated, "origin": lambda tally: tally.revoked}),
    ),
    Family(
        "fetches",
        "counter",
        "{time}",
        "Fetches and links that hooks have met, by what became of them.",
        ("outcome",),
        _in_all(
            {
                "signed": "caught",
                "uncovered": "passed_uncovered",
                "outside_scope": "passed_outside_scope",
                "redirect": "passed_redirect",
                "on_error": "passed_on_error",
                "left_to_boto3": "left_to_boto3",
            }
        ),
    ),
    Family(
        "local.urls",
        "gauge",
        "{url}",
        "URLs held in memory.",
        (),
        _held,
    ),
    Family(
        "local.limit",
        "gauge",
        "{url}",
        "URLs that may be held: local_size.",
        (),
        _room,
    ),
    Family(
        "evictions",
        "counter",
        "{url}",
        "URLs that left memory for lack of room, by whether anybody had asked for them again.",
        ("was_used",),
        _evictions,
    ),
    Family(
        *(
            "plans",
            "counter",
            "{item}",
            "Signing plans that agreed with boto3, and shapes of URL left to it.",
        ),
        ("outcome",),
        _in_all({"proven": "plans_proven", "refused": "plans_refused"}),
    ),
    Family(
        "credentials.end_timestamp",
        "gauge",
        "s",
        "When credentials that are in use end, Unix time, by their source.",
        ("source",),
        Measuring.ends,
        "livemax",  # a process that does nothing renews nothing
    ),
    Family(
        "credentials.failures",
        "counter",
        "{time}",
        "Times a source of credentials failed.",
        (),
        _in_all({"": "credentials_failed"}),
    ),
    Family(
        "clock.steps",
        "counter",
        "{time}",
        "Times this host's clock was seen to jump.",
        (),
        _in_all({"": "clock_steps"}),
    ),
    Family(
        "corrections",
        "counter",
        "{time}",
        "Regions and clock differences learned from S3's answers.",
        ("of",),
        _in_all({"region": "regions_learned", "clock": "clocks_learned"}),
    ),
    Family(
        "shared.entries",
        "counter",
        "{item}",
        "Entries of the shared cache that were missing, of no use, or taken for a signature made here.",
        ("outcome",),
        _in_all({"missing": "shared_misses", "rejected": "shared_rejected", "adopted": "shared_adopted"}),
    ),
    Family(
        "shared.errors",
        "counter",
        "{time}",
        "Times a memcached server failed or was too slow.",
        ("server",),
        lambda measuring: measuring.servers("errors"),
    ),
    Family(
        "shared.skipped",
        "counter",
        "{time}",
        "Times a memcached server was not asked, having failed lately.",
        ("server",),
        lambda measuring: measuring.servers("skipped"),
    ),
    Family(
        "shared.up",
        "gauge",
        "1",
        "Whether a memcached server is asked; 0: its breaker is open.",
        ("server",),
        lambda measuring: measuring.servers("up"),
        "livemin",
    ),
    Family(
        "epochs.failures",
        "counter",
        "{time}",
        "Times that what was taken back could not be known.",
        ("outcome",),
        _in_all({"rejected": "epochs_rejected", "unread": "epochs_unread"}),
    ),
    Family(
        "memcached.used",
        "gauge",
        "By",
        "Bytes in use, as a memcached server tells.",
        ("server",),
        lambda measuring: measuring.told("bytes"),
        "mostrecent",
    ),
    Family(
        "memcached.limit",
        "gauge",
        "By",
        "Bytes that a memcached server may use.",
        ("server",),
        lambda measuring: measuring.told("limit_maxbytes"),
        "mostrecent",
    ),
    Family(
        "memcached.items",
        "gauge",
        "{item}",
        "Items that a memcached server holds, whoever's.",
        ("server",),
        lambda measuring: measuring.told("curr_items"),
        "mostrecent",
    ),
    Family(
        "memcached.evictions",
        "gauge",
        "{item}",
        "Items that a memcached server has dropped for lack of room since it started.",
        ("server",),
        lambda measuring: measuring.told("evictions"),
        "mostrecent",
    ),
)
