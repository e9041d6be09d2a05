"""
A fleet whose sessions live for seconds, on a real S3 server, for as long as one likes.

    python -m tests.soak [--seconds N] [--session N] [--json PATH]

Four processes with sessions of their own serve pages and share URLs through memcached. Every
URL is fetched when it is handed out, each distinct one again shortly before its stated end.
The exit code is 0 when S3 refused none, none was unsigned, and nobody got an error but a
SigningError while STS was out.
"""

import argparse
import asyncio
import json
import os
import sys
import textwrap
import time
from pathlib import Path

from presign_middleware.testing import Memcached

from .run import LAST_LOOK, Outcome, Settings, run
from .tally import Phase

_LEAST = 12  # seconds; the outage and what comes after it need some


def main() -> int:
    """Play all phases, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description="Sessions that live for seconds."
    )
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="of the longest phase (60)")
    parser.add_argument("--session", type=int, default=4, metavar="N", help="seconds a session lives (4)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every figure there")
    options = parser.parse_args()
    if options.seconds < _LEAST or options.session < 1:
        parser.error(f"wanted {_LEAST} or more --seconds, and a --session of 1 or more")
    if not Memcached.is_available():
        print("memcached is not installed: make memcached", file=sys.stderr)
        return 2
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    seconds, part = options.seconds, max(_LEAST, options.seconds / 3)
    phases = [
        Phase("shared", seconds),
        Phase("STS refuses", part, outage="refusing"),
        Phase("STS silent", max(part, 25), outage="silent"),  # botocore waits 10 s for an answer
        Phase("not shared", part, is_shared=False),
    ]
    settings = Settings(session=options.session)
    print(
        f"{settings.processes} processes, sessions of {settings.session} s, {settings.objects} objects; "
        f"about {sum(phase.seconds for phase in phases) + 15:.0f} s"
    )
    outcome = asyncio.run(run(phases, settings, Progress()))
    show(outcome, settings)
    if options.json:
        told = {
            "phases": [tally.as_json() for tally in outcome.tallies],
            "stats": outcome.stats,
            "events": outcome.events,
        }
        options.json.write_text(json.dumps(told, indent=2) + "\n")
    return 1 if outcome.faults else 0


class Progress:
    """One line on a terminal, written over and over; nothing elsewhere."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._next_at = 0.0
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        """Show *text*, at most a few times a second."""
        now = time.monotonic()
        if self._is_shown and now >= self._next_at:
            self._next_at = now + 0.2
            sys.stderr.write(f"\r\x1b[K{now - self._began:5.0f} s  {text}")
            sys.stderr.flush()

    def end(self) -> None:
        """Leave an empty line."""
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")


def show(outcome: Outcome, settings: Settings) -> None:
    """Print a table with a column for each phase, and the verdict."""
    columns = [tally.rows() for tally in outcome.tallies]
    names = [tally.phase.name for tally in outcome.tallies]
    width = 13
    print("\n" + " " * 28 + "".join(f"{name:>{width}}" for name in names))
    for row in columns[0]:
        print(f"{row:<28}" + "".join(f"{column[row]:>{width}}" for column in columns))
    shared = next(tally for tally in outcome.tallies if tally.phase.is_shared)
    alone = next((tally for tally in outcome.tallies if not tally.phase.is_shared), None)
    print(
        f"\nEach hand-out was fetched, each distinct URL again {LAST_LOOK:g} s before its stated end.\n"
        f"A process had {len(shared.sessions) / settings.processes * 60 / shared.phase.seconds:.0f} "
        "sessions a minute: they are renewed when a third of their life is left."
    )
    if alone is not None:
        print(
            f"An object had {shared.per_minute:.0f} URLs a minute in the fleet that shares, "
            f"{alone.per_minute:.0f} in the one that does not."
        )
    for name, stats in outcome.stats.items():
        told = {**stats, **{f'"{event}"': count for event, count in outcome.events[name].items()}}
        text = ", ".join(f"{word} {count:,}" for word, count in told.items() if count)
        print(textwrap.fill(f"Counters, from {name!r} on: {text}", 80, subsequent_indent="  "))
    for fault in outcome.faults:
        print(f"FAILED {fault}")
    if not outcome.faults:
        print("All as promised.")


if __name__ == "__main__":
    sys.exit(main())
