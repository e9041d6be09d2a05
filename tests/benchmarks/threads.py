"""
Whether threads that share one table are in each other's way: URLs a second, all together.

The interpreter runs one thread at a time, so that as many as with one thread is the best there is.
"""

from collections.abc import Callable
from threading import Barrier, Lock, Thread
from time import perf_counter

from presign_middleware import Origin, Policy, Presigner

from .installed import found
from .sheets import Row, Sheet
from .workload import BUCKET, LIFETIME, REGION, TARGETS, session

__all__ = ["MANY", "OURS", "TITLE", "measure", "steps"]

TITLE = "Threads: million held URLs a second, all threads together"
OURS, _DICT = "url()", "dict"
MANY = "16 of 1"

_COUNTS = (1, 4, 16)
_ROUNDS, _QUICK_ROUNDS = 7, 2
_CALLS, _QUICK_CALLS = 480_000, 32_000

Find = Callable[[str], object]


def _ours() -> Find:
    origin = Origin("media", bucket=BUCKET, region=REGION, session=session())
    presigner = Presigner(origin, policy=Policy(lifetime=LIFETIME))
    presigner.urls(TARGETS)
    return presigner.url


def _dict() -> Find:
    return dict(zip(TARGETS, TARGETS, strict=True)).__getitem__


def _ttl_cache() -> Find | None:
    cachetools = found("cachetools")
    if not cachetools:
        return None

    @cachetools.cached(cachetools.TTLCache(maxsize=100_000, ttl=LIFETIME), lock=Lock())  # type: ignore[untyped-decorator]
    def url(target: str) -> str:
        return target

    for target in TARGETS:
        url(target)
    return url  # type: ignore[no-any-return]


def _dogpile() -> Find | None:
    dogpile = found("dogpile.cache")
    if not dogpile:
        return None
    region = dogpile.make_region().configure("dogpile.cache.memory", expiration_time=LIFETIME)

    @region.cache_on_arguments()  # type: ignore[untyped-decorator]
    def url(target: str) -> str:
        return target

    for target in TARGETS:
        url(target)
    return url  # type: ignore[no-any-return]


_SLOWER = {"dogpile, memory": 20}  # calls are fewer by this


def steps(is_quick: bool) -> int:
    """Return how often `measure` will advance."""
    return _QUICK_ROUNDS if is_quick else _ROUNDS


def measure(is_quick: bool, advance: Callable[[], object]) -> list[Sheet]:
    """Let everybody find held URLs with 1, 4 and 16 threads in turn, round by round."""
    calls = _QUICK_CALLS if is_quick else _CALLS
    contenders = {
        OURS: _ours(),
        _DICT: _dict(),
        "cachetools.TTLCache": _ttl_cache(),
        "dogpile, memory": _dogpile(),
    }
    told: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    for _ in range(steps(is_quick)):
        for name, find in contenders.items():
            if find is None:
                continue
            each = {count: _rate(find, count, calls // _SLOWER.get(name, 1)) for count in _COUNTS}
            for count, rate in each.items():
                told[name].setdefault(_heading(count), []).append(rate)
            told[name].setdefault(MANY, []).append(each[16] / each[1])
        advance()
    rows = tuple(
        Row(name, figures, is_ours=name == OURS, is_floor=name == _DICT) for name, figures in told.items()
    )
    note = f"{MANY}: 16 threads over one; 1.0 is all."
    return [Sheet(TITLE, (*map(_heading, _COUNTS), MANY), rows, note, more_is_better=True)]


def _heading(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _rate(find: Find, count: int, calls: int) -> float:
    """Return how many million calls a second *count* threads make, *calls* in all."""
    passes = max(1, calls // count // len(TARGETS))
    barrier = Barrier(count + 1)

    def run() -> None:
        barrier.wait()
        for _ in range(passes):
            for target in TARGETS:
                find(target)

    threads = [Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = perf_counter()
    for thread in threads:
        thread.join()
    return passes * len(TARGETS) * count / (perf_counter() - start) / 1e6
