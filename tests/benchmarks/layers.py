"""
Where the time of a `url()` goes: the same work, begun deeper and deeper inside the library.

Each function has those above it within it, as a call of `Presigner.url` comes by them, and is
timed by itself: the difference of two is what a layer adds.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from time import monotonic, perf_counter, time
from typing import Any

from pymemcache.client.base import Client  # type: ignore[import-untyped]

from presign_middleware import Presigner
from presign_middleware.plans import DAY

from .ours import PATIENCE, Fleet, Ours
from .rounds import Contender
from .workload import SHARED_PASSES, TARGETS

__all__ = ["PYMEMCACHE", "URL", "cold_layers", "shared_layers"]

URL = "url()"  #: the whole
PYMEMCACHE = "pymemcache, gets"  #: what this library uses

#: A function, and what it is called with, time after time.
_Calls = tuple[Callable[..., object], Sequence[tuple[Any, ...]]]


def cold_layers(ours: Ours) -> tuple[Contender, ...]:
    """Sign 200 URLs that nobody holds, each time by a presigner that has its plan and nothing else."""
    layers: dict[str, Callable[[Presigner], _Calls]] = {
        "Signer.sign()": _signatures,
        "Signing.sign()": lambda presigner: (
            presigner._signing.sign,
            [(obj, time(), monotonic()) for obj in _objects(presigner)],
        ),
        "Resolver.quick()": lambda presigner: (presigner._resolver.quick, _asked(presigner)),
        URL: lambda presigner: (presigner.url, _targets()),
    }

    def contender(name: str, layer: Callable[[Presigner], _Calls]) -> Contender:
        def prepare() -> Callable[[], float]:
            calls = layer(ours.ready())
            return lambda: _timed(calls)

        return Contender(name, prepare, is_ours=True)

    return tuple(contender(name, layer) for name, layer in layers.items())


def shared_layers(fleet: Fleet, host: str, port: int, ending: ExitStack) -> tuple[Contender, ...]:
    """Find 200 URLs in memcached, one after another; *ending* closes what this opens."""
    client, presigner = Client((host, port), no_delay=True), fleet.member
    ending.callback(client.close)
    shared = presigner.shared
    assert shared is not None  # it is of a fleet
    layers: dict[str, Callable[[], _Calls]] = {
        PYMEMCACHE: lambda: (client.gets, [(key,) for key in fleet.keys]),
        "Servers.read()": lambda: (
            shared._servers.read,
            [([key], monotonic() + PATIENCE) for key in fleet.keys],
        ),
        "Shared.read()": lambda: (
            shared.read,
            [([obj], monotonic() + PATIENCE) for obj in _objects(presigner)],
        ),
        "Runner.wait_for()": lambda: (presigner._runner.wait_for, _asked(presigner)),
        URL: lambda: (presigner.url, _targets()),
    }

    def contender(name: str, layer: Callable[[], _Calls]) -> Contender:
        def timed() -> float:
            took = 0.0
            for _ in range(SHARED_PASSES):
                fleet.forget()
                took += _timed(layer())
            return took / SHARED_PASSES

        return Contender(name, lambda: timed, is_ours=name != PYMEMCACHE, is_floor=name == PYMEMCACHE)

    return tuple(contender(name, layer) for name, layer in layers.items())


def _signatures(presigner: Presigner) -> _Calls:
    """Return what completes two texts and hashes them, for instants of one day."""
    day, objects = int(time()) // DAY, _objects(presigner)
    recipe: Any = presigner._signing.of("media").last_recipe(objects[0])
    return recipe._signer(day).sign, [(obj.key, day * DAY + second) for second, obj in enumerate(objects)]


def _objects(presigner: Presigner) -> list[Any]:
    return [presigner._targets.named(target) for target in TARGETS]


def _asked(presigner: Presigner) -> list[tuple[Any, ...]]:
    return list(zip(_objects(presigner), TARGETS, [None] * len(TARGETS), strict=True))


def _targets() -> list[tuple[Any, ...]]:
    return [(target,) for target in TARGETS]


def _timed(calls: _Calls) -> float:
    """Return the seconds that one of *calls* takes."""
    call, asked = calls
    start = perf_counter()
    for given in asked:
        call(*given)
    return (perf_counter() - start) / len(asked)
