"""
What a URL costs here and elsewhere, and what it costs to have none, in one run.

    python -m tests.benchmarks [--json PATH] [--rounds N] [--quick]

Figures are told, not judged: the exit code is 0 whatever they are.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from presign_middleware.testing import Memcached

from .cases import cases, idle_cases, shared_cases
from .report import as_json, show
from .rounds import Case, Timings, play

_ROUNDS, _QUICK_ROUNDS = 50, 3


def main() -> None:
    """Time everybody, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="What a URL costs.")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every figure there")
    parser.add_argument("--rounds", type=_positive, metavar="N", help=f"rounds to time (default {_ROUNDS})")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_ROUNDS} rounds, for a first look")
    options = parser.parse_args()
    rounds = options.rounds or (_QUICK_ROUNDS if options.quick else _ROUNDS)
    _hide_aws_settings()
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 80
    with asyncio.Runner() as runner, ExitStack() as ending:
        meeting = cases(runner) + idle_cases(runner, ending)
        if Memcached.is_available():
            server, *others = [ending.enter_context(Memcached()) for _ in range(4)]
            meeting += shared_cases(runner, server, others, ending)
        else:
            console.print("memcached is not installed: the shared cases are left out.")
        timings = _timed(meeting, rounds)
    show(console, timings, rounds)
    if options.json:
        options.json.write_text(json.dumps(as_json(timings, rounds), indent=2) + "\n")


def _timed(meeting: Sequence[Case], rounds: int) -> list[Timings]:
    """Play all *rounds*, telling on standard error how far that is."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Timing", total=rounds + 1)
        return play(meeting, rounds, lambda: progress.advance(task))


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
