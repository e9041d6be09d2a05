"""
What a URL costs here and elsewhere, and what it costs to have none, in one run.

    python -m tests.benchmarks [--json PATH] [--plot PATH] [--rounds N] [--quick] [--only PART ...]

Figures are told, not judged: the exit code is 0 whatever they are.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.progress import Progress

from presign_middleware.testing import Memcached

from . import imports, load, memory, threads, zipf
from .cases import idle_cases, page_cases, shared_cases, url_cases
from .goals import Results
from .peers import Aiobotocore
from .plot import plot
from .report import Run, as_json, show
from .rounds import Case, Timings, play
from .sheets import Sheet

_ROUNDS, _QUICK_ROUNDS = 30, 2

_TIMED = ("urls", "pages", "shared", "idle")  # the last hooks clients
_LONG: dict[str, ModuleType] = {
    "import": imports,
    "memory": memory,
    "threads": threads,
    "load": load,
    "zipf": zipf,
}


def main() -> None:
    """Measure everybody, print the tables, write what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="What a URL costs.")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every figure there")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw a chart there, SVG or PNG")
    parser.add_argument("--rounds", type=_positive, metavar="N", help=f"rounds to time (default {_ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="few rounds and small numbers, for a first look")
    parser.add_argument(
        "--only",
        action="append",
        choices=(*_TIMED, *_LONG),
        help="leave everything else out; may be given several times",
    )
    options = parser.parse_args()
    _hide_aws_settings()
    rounds = options.rounds or (_QUICK_ROUNDS if options.quick else _ROUNDS)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 80
    load_before = os.getloadavg()[0]
    parts = options.only or [*_TIMED, *_LONG]
    left_out: list[str] = []
    if not Memcached.is_available() and "shared" in parts:
        left_out.append("memcached is not installed: the shared cases are left out.")
        parts = [part for part in parts if part != "shared"]
    if not load.is_available() and "load" in parts:
        left_out.append("wrk is not installed: pages under load are left out.")
        parts = [part for part in parts if part != "load"]
    with Progress(console=Console(stderr=True), transient=True) as progress, ExitStack() as ending:
        progress.disable = not progress.console.is_terminal
        aiobotocore = Aiobotocore(ending)
        # Before the others, which import in this process what a child of its own measures anyway.
        timings = _timed([part for part in _TIMED if part in parts], rounds, aiobotocore, progress)
        sheets = _measured([part for part in _LONG if part in parts], options.quick, progress)
    results = Results(timings, sheets)
    loads = load_before, os.getloadavg()[0]
    run = Run(rounds, parts, options.quick, *loads, aiobotocore.version, left_out)
    show(console, run, results)
    told = as_json(run, results)
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")
    if options.plot:
        plot(told, options.plot)


def _timed(parts: Sequence[str], rounds: int, aiobotocore: Aiobotocore, progress: Progress) -> list[Timings]:
    """Play all *rounds* of each part, one part after another, since each leaves hooks or threads behind."""
    timings = []
    for part in parts:
        task = progress.add_task(f"Timing: {part}", total=rounds + 1)
        with asyncio.Runner() as runner, ExitStack() as ending:
            meeting = _cases(part, runner, aiobotocore, ending)
            timings += play(meeting, rounds, partial(progress.advance, task))
    return timings


def _cases(
    part: str, runner: asyncio.Runner, aiobotocore: Aiobotocore, ending: ExitStack
) -> tuple[Case, ...]:
    if part == "urls":
        return url_cases(runner, aiobotocore, ending)
    if part == "pages":
        return page_cases(runner)
    if part == "idle":
        return idle_cases(runner, ending)
    server, *others = [ending.enter_context(Memcached()) for _ in range(4)]
    return shared_cases(runner, server, others, ending)


def _measured(parts: Sequence[str], is_quick: bool, progress: Progress) -> list[Sheet]:
    sheets = []
    for part in parts:
        task = progress.add_task(f"Measuring: {part}", total=_LONG[part].steps(is_quick))
        sheets += _LONG[part].measure(is_quick, partial(progress.advance, task))
    return sheets


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"wanted 1 or more, got {number}")
    return number


def _hide_aws_settings() -> None:
    """Let no endpoint, profile or region of whoever runs this change what is signed."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull


if __name__ == "__main__":
    main()
