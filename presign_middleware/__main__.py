"""
The command line: ``presign-middleware`` or ``python -m presign_middleware``.
"""

import argparse
import sys
from collections.abc import Sequence

from presign_middleware import __version__

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that *argv* names (None: the process's arguments); return its exit code."""
    parser = argparse.ArgumentParser(
        prog="presign-middleware",
        description="Presigned S3 URLs for web applications: caught, cached, stable, never dead on arrival.",
    )
    parser.add_argument("--version", action="version", version=f"presign-middleware {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    # The command parses its own arguments, and is imported when it is asked for.
    commands.add_parser(
        "demo", add_help=False, help="measure a gallery before and after on a real S3 server, then serve it"
    )
    _, rest = parser.parse_known_args(argv)
    from .demo import main as demo

    return demo(rest)


if __name__ == "__main__":
    sys.exit(main())
