"""How much longer a Python takes to start, and to end, that imports something."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from tempfile import TemporaryDirectory
from time import perf_counter

from .sheets import Row, Sheet

__all__ = ["OURS", "OVER", "TITLE", "measure", "steps"]

TITLE = "Import: milliseconds of a process that does nothing else"
OURS = "Presigner"
OVER = "over bare"

_BARE, _ALL = "nothing", "ms"
_ROUNDS, _QUICK_ROUNDS = 30, 1

_CODE = {
    _BARE: "pass",
    OURS: "from presign_middleware import Presigner",
    "boto3": "import boto3",
    "obstore": "import obstore",
    "libpresign": "import libpresign",
    "fast-s3-url": "import fast_s3_url",
    "signurlarity": "import signurlarity",
    "minio": "import minio",
    "cachetools": "import cachetools",
    "dogpile.cache": "import dogpile.cache",
    "cashews": "import cashews",
    "aiocache": "import aiocache",
}


def steps(is_quick: bool) -> int:
    """Return how often `measure` will advance."""
    return _QUICK_ROUNDS if is_quick else _ROUNDS


def measure(is_quick: bool, advance: Callable[[], object]) -> list[Sheet]:
    """Start everybody in turn, round by round. What is over bare is of the shortest of all rounds."""
    took: dict[str, list[float]] = {name: [] for name in _CODE}
    with TemporaryDirectory() as compiled:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # installed packages are compiled
        here = {name: code for name, code in _CODE.items() if _wall(code, environment) is not None}
        for _ in range(steps(is_quick)):
            for name, code in here.items():
                wall = _wall(code, environment)
                assert wall is not None  # it ran a moment ago
                took[name].append(wall)
            advance()
    least = min(took[_BARE])
    rows = tuple(
        Row(
            name,
            {_ALL: walls, OVER: [min(walls) - least]} if walls else {},
            is_ours=name == OURS,
            is_floor=name == _BARE,
        )
        for name, walls in took.items()
    )
    return [Sheet(TITLE, (_ALL, OVER), rows, f"{OVER}: the shortest of all rounds less Python's shortest.")]


def _wall(code: str, environment: Mapping[str, str]) -> float | None:
    """Return the milliseconds of a Python that runs *code*; None: it cannot."""
    start = perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL, check=False
    )
    return (perf_counter() - start) * 1e3 if done.returncode == 0 else None
