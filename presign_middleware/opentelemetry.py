"""
A presigner's counters for OpenTelemetry, as observable instruments. The API is all it needs.

::

    presign_middleware.opentelemetry.instrument(presigner)

Observable histograms are none of OpenTelemetry: of times and lives their sum and their
number are counted.
"""

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from typing import Any

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from .measuring import FAMILIES, Family
from .presigner import Presigner

__all__ = ["instrument"]

_PREFIX = "presign_middleware."


def instrument(presigner: Presigner, meter_provider: MeterProvider | None = None) -> None:
    """
    Have *presigner* observed by the meters of *meter_provider*; None: of the global one.

    Counters are read when a reader collects, and memcached servers are then asked in the
    background, for the next time. Call it once for a provider, in each process.
    """
    meter = get_meter("presign_middleware", version("presign-middleware"), meter_provider)
    make = {"counter": meter.create_observable_counter, "gauge": meter.create_observable_gauge}
    for family in FAMILIES:
        name = _PREFIX + family.name
        if family.kind in make:
            observe = _observing(presigner, family, lambda value: value)
            make[family.kind](name, [observe], unit=family.unit, description=family.text)
        else:
            observe = _observing(presigner, family, lambda value: value.sum)
            make["counter"](f"{name}.sum", [observe], unit=family.unit, description=family.text)
            observe = _observing(presigner, family, lambda value: value.number)
            make["counter"](f"{name}.count", [observe], unit="{url}", description=family.text)


def _observing(
    presigner: Presigner, family: Family, number: Callable[[Any], float]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterator[Observation]:
        measuring = presigner.measuring  # at call time: a fork has another
        if family is FAMILIES[0]:  # once a collection
            measuring.ask_servers()
        for labels, value in family.read(measuring):
            yield Observation(number(value), dict(zip(family.labels, labels, strict=True)))

    return observe
