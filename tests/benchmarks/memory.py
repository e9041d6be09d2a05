"""
What one held URL takes of memory: what a process of its own grows by while it comes to hold many.

Keys have 120 bytes, so that the URLs, by a static key, have about 330. The others hold
strings of the same length; to have boto3 sign a million of them would take five minutes.
"""

import gc
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .installed import found
from .sheets import Row, Sheet
from .workload import BUCKET, LIFETIME, REGION, session

__all__ = ["OURS", "SIZES", "TITLE", "heading", "measure", "steps"]

TITLE = "Memory: bytes of the process for each URL it holds"
OURS, _DICT = "Presigner", "dict, with ends"

SIZES, _QUICK_SIZES = (10_000, 100_000, 1_000_000), (10_000,)
_CHUNK = 500


def heading(entries: int) -> str:
    """Return the heading of *entries*."""
    return f"{entries:,}"


def _targets(entries: int) -> Iterator[str]:
    for number in range(entries):
        yield f"s3://{BUCKET}/{number:0120}"


def _presigner(entries: int) -> Any:
    from presign_middleware import Origin, Policy, Presigner

    origin = Origin("media", bucket=BUCKET, region=REGION, session=session())
    presigner = Presigner(origin, policy=Policy(lifetime=LIFETIME), local_size=entries)
    presigner.url(f"s3://{BUCKET}/learn-the-plan")

    def fill() -> object:
        targets = _targets(entries)
        while chunk := [target for target, _ in zip(targets, range(_CHUNK), strict=False)]:
            presigner.urls(chunk)
        return presigner

    return fill


def _ttl_cache(entries: int) -> Any:
    cachetools = found("cachetools")
    if not cachetools:
        return None
    cache = cachetools.TTLCache(maxsize=entries, ttl=LIFETIME)

    def fill() -> object:
        for target in _targets(entries):
            cache[target] = _url(target)
        return cache

    return fill


def _dict(entries: int) -> Any:
    held = {}

    def fill() -> object:
        for target in _targets(entries):
            held[target] = (_url(target), float(entries))
        return held

    return fill


def _url(target: str) -> str:
    return f"{target}{'?':0<230}"


_CONTENDERS: dict[str, Callable[[int], Any]] = {
    OURS: _presigner,
    "cachetools.TTLCache": _ttl_cache,
    _DICT: _dict,
}


def steps(is_quick: bool) -> int:
    """Return how often `measure` will advance."""
    return len(_CONTENDERS) * len(_QUICK_SIZES if is_quick else SIZES)


def measure(is_quick: bool, advance: Callable[[], object]) -> list[Sheet]:
    """Measure everybody at each size, once: memory does not vary as time does."""
    sizes = _QUICK_SIZES if is_quick else SIZES
    rows = []
    for name in _CONTENDERS:
        figures = {}
        for entries in sizes:
            took = _in_a_process(name, entries)
            if took is not None:
                figures[heading(entries)] = [took]
            advance()
        rows.append(Row(name, figures, is_ours=name == OURS, is_floor=name == _DICT))
    return [Sheet(TITLE, tuple(map(heading, sizes)), tuple(rows), "Resident memory; 120-byte keys.")]


def _in_a_process(name: str, entries: int) -> float | None:
    command = [sys.executable, "-m", __name__, name, str(entries)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout) if done.stdout.strip() else None


def _resident() -> int:
    """Return the bytes of memory that this process has; where nobody tells, the most it has had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
    return pages * resource.getpagesize()


def _tell(name: str, entries: int) -> None:
    """Print the bytes for each entry, or nothing if the contender is missing."""
    fill = _CONTENDERS[name](entries)
    if fill is None:
        return
    gc.collect()
    before = _resident()
    kept = fill()
    gc.collect()
    print((_resident() - before) / entries)
    del kept


if __name__ == "__main__":
    _tell(sys.argv[1], int(sys.argv[2]))
