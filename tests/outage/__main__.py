"""
Real memcacheds that fail in every way there is, while a fleet serves traffic.

    make outage [ARGS="--seconds N --processes N --only NAME --json PATH"]

The exit code is 0 when all was as promised: no error, no URL that S3 refuses or that has
less life than promised, nothing taken back that came back, no page that waited for longer
than `shared_patience`, descriptors flat.
"""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from presign_middleware.testing import Memcached

from .misfortunes import MISFORTUNES
from .run import Outcome, Settings, run

_WIDTH = 136


def main() -> int:
    """Play every misfortune, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="make outage", description="Memcacheds that fail under traffic.")
    parser.add_argument("--seconds", type=float, default=6, metavar="N", help="that each lasts (6)")
    parser.add_argument("--processes", type=int, default=8, metavar="N", help="that serve traffic (8)")
    parser.add_argument("--only", metavar="TEXT", default="", help="those whose name has this")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every figure there")
    options = parser.parse_args()
    chosen = [each for each in MISFORTUNES if options.only in each.name]
    if options.seconds < 2 or options.processes < 2 or not chosen:
        parser.error(
            "wanted 2 or more --seconds and --processes, and --only one of "
            + ", ".join(each.name for each in MISFORTUNES)
        )
    if not Memcached.is_available():
        print("memcached is not installed: make memcached", file=sys.stderr)
        return 2
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    settings = Settings(processes=options.processes, seconds=options.seconds)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(chosen) + 4)

        def show_next(text: str) -> None:
            progress.update(task, description=f"{text:24}")
            progress.advance(task)

        outcome = asyncio.run(run(chosen, settings, show_next))
    show(outcome, settings)
    if options.json:
        told = [tally.as_json(outcome.calm) for tally in outcome.tallies]
        options.json.write_text(json.dumps({"evictions": outcome.evictions, "rows": told}, indent=2) + "\n")
    return 1 if outcome.broken else 0


def show(outcome: Outcome, settings: Settings) -> None:
    """Print the table and the verdict."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    rows = [tally.row(outcome.calm) for tally in outcome.tallies]
    for name in rows[0]:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    patience = settings.promises.patience * 1000
    console.print(table)
    console.print(
        f"\n{settings.processes} processes, shared_patience {patience:g} ms, invalidation_lag "
        f"{settings.promises.lag:g} s. Milliseconds of a page; median and p99 beside the calm ones.\n"
        f"The server of 1 MB threw out {outcome.evictions:,} entries."
    )
    for said in outcome.broken:
        console.print(f"FAILED {said}", markup=False)
    if not outcome.broken:
        console.print("All as promised.")


if __name__ == "__main__":
    sys.exit(main())
