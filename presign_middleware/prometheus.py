"""
A presigner's counters for Prometheus, through prometheus-client.

::

    from prometheus_client import REGISTRY
    REGISTRY.register(presign_middleware.prometheus.collector(presigner))

In its multiprocess mode (``PROMETHEUS_MULTIPROC_DIR``, as with several workers of gunicorn)
prometheus-client asks no collector of the other processes: it adds up files of theirs. The
collector then keeps this process's file up to date, every second and at the end, by what
its counters have grown. A process that was recycled leaves its file, so nothing is lost.
"""

import atexit
import os
import threading
from collections.abc import Iterable, Iterator
from math import inf, isnan, nan
from time import sleep, time

from prometheus_client import Metric, values
from prometheus_client.utils import floatToGoString

from .measuring import FAMILIES, Distribution, Family, Measuring, Point
from .presigner import Presigner

__all__ = ["collector", "exposed"]

_PREFIX = "presign_middleware_"

_UNITS = {"s": "_seconds", "By": "_bytes"}

#: Seconds between two looks at what this process has counted, where others have to be told.
_EVERY = 1.0

#: What is written of what is no more, since it cannot be erased: what changes nothing when processes are
#: put together. NaN: nothing is written.
_NOTHING = {"livesum": 0.0, "livemin": inf, "livemax": -inf, "mostrecent": nan}

#: The end of a sample's name, its label "le" if it has one, and its value.
_Sample = tuple[str, str | None, float]


class Collector:
    """What prometheus-client asks for the metrics of one presigner."""

    def __init__(self, presigner: Presigner) -> None:
        self._presigner = presigner

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, waiting for nothing: memcacheds are asked in a thread, for the next time."""
        measuring = self._presigner.measuring
        measuring.ask_servers()
        for family in FAMILIES:
            metric = Metric(_name(family), family.text, family.kind)
            for labels, value in family.read(measuring):
                named = dict(zip(family.labels, labels, strict=True))
                below = 0.0
                for end, bound, number in _samples(family, value):
                    if bound is not None:
                        number = below = below + number
                    le = {} if bound is None else {"le": bound}
                    metric.add_sample(metric.name + end, named | le, number)
                if family.kind == "histogram":
                    metric.add_sample(f"{metric.name}_count", named, below)
            yield metric


class Mirror:
    """
    Keeps the file of this process up to date, from which another process makes its answer.

    It is a collector that has nothing to say: what reads the files says it.
    """

    def __init__(self, presigner: Presigner) -> None:
        self._presigner = presigner
        self._of: Measuring | None = None
        self._cells: dict[tuple[str, str, tuple[str, ...], str | None], values.ValueClass] = {}
        self._written: dict[tuple[str, str, tuple[str, ...], str | None], float] = {}
        if hasattr(os, "register_at_fork"):
            # A child that is forked while this thread has prometheus-client's lock would wait for ever.
            os.register_at_fork(
                before=lambda: self._lock.acquire(), after_in_parent=lambda: self._lock.release()
            )
        presigner.opened_anew.append(self._begin)
        atexit.register(self.write)
        self._begin()

    def collect(self) -> Iterable[Metric]:
        """Write what was counted, have memcached servers asked, and return nothing."""
        self._presigner.measuring.ask_servers()
        self.write()
        return ()

    def write(self) -> None:
        """Write what was counted since the last time."""
        with self._lock:
            measuring = self._presigner.measuring
            if measuring is not self._of:  # it is a fork's, and begins at 0
                self._of = measuring
                self._written.clear()
            for family in FAMILIES:
                points: dict[tuple[str, ...], float | Distribution] = {}
                if family.kind == "gauge":
                    gone = [labels for name, _, labels, _ in self._cells if name == family.name]
                    points = dict.fromkeys(gone, _NOTHING[family.across])
                points |= dict(family.read(measuring))
                for point in points.items():
                    self._write(family, point)

    def _write(self, family: Family, point: Point) -> None:
        labels, value = point
        for end, bound, number in _samples(family, value):
            place = family.name, end, labels, bound
            cell = self._cells.get(place)
            if cell is None:
                cell = self._cells[place] = _cell(family, labels, end, bound)
            elif self._written.get(place, 0.0) == number:
                continue
            if family.kind == "gauge":
                if not isnan(number):
                    cell.set(number, time())
            else:  # set() would lose what a process of the same number had counted before
                cell.inc(number - self._written.get(place, 0.0))
            self._written[place] = number

    def _begin(self) -> None:
        self._lock = threading.Lock()  # anew: in a fork it is held by a thread of its parent's
        threading.Thread(target=self._run, name="presign-prometheus", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.write()
            sleep(_EVERY)


def collector(presigner: Presigner) -> Collector | Mirror:
    """
    Return the collector of *presigner*'s metrics, to be registered with one registry.

    In prometheus-client's multiprocess mode call it once in each process, or once before
    they are forked; registering it is then of no use and does no harm.
    """
    return Mirror(presigner) if values.ValueClass._multiprocess else Collector(presigner)


def exposed(family: Family) -> list[str]:
    """Return the names of *family*'s samples; the last is what it is called by."""
    name = _name(family)
    match family.kind:
        case "counter":
            return [f"{name}_total"]
        case "gauge":
            return [name]
        case "summary":
            return [f"{name}_sum", f"{name}_count", name]
        case "histogram":
            return [f"{name}_bucket", f"{name}_sum", f"{name}_count", name]


def _name(family: Family) -> str:
    return _PREFIX + family.name.replace(".", "_") + _UNITS.get(family.unit, "")


def _samples(family: Family, value: float | Distribution) -> Iterator[_Sample]:
    """Yield the samples of one point. Those of a histogram's buckets do not hold one another."""
    if not isinstance(value, Distribution):
        yield "_total" if family.kind == "counter" else "", None, value
        return
    for bound, number in value.buckets:
        text = floatToGoString(bound)  # type: ignore[no-untyped-call]  # it has no types
        yield "_bucket", text, float(number)
    yield "_sum", None, value.sum
    if family.kind == "summary":
        yield "_count", None, float(value.number)


def _cell(family: Family, labels: tuple[str, ...], end: str, bound: str | None) -> values.ValueClass:
    """Return a place in the file of this process, as prometheus-client's own metrics have them."""
    name = _name(family)
    le = {} if bound is None else {"le": bound}
    named = dict(zip(family.labels, labels, strict=True)) | le
    return values.ValueClass(
        family.kind,
        name,
        name + end,
        tuple(named),
        tuple(named.values()),
        family.text,
        multiprocess_mode=family.across,
    )
