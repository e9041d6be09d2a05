"""
The command line: ``presign-middleware`` or ``python -m presign_middleware``.

What the commands are called and take is here; what they do is in `commands` and `demo`,
which are imported when they are asked for.
"""

import argparse
import sys
from collections.abc import Sequence

from presign_middleware import __version__

__all__ = ["main"]

_EPILOG = """\
Origins, the shared cache and the policy come from the environment (PRESIGN_ORIGINS, PRESIGN_SHARED,
PRESIGN_LIFETIME, ...), as of an application, or from --app. Data goes to stdout, all else to stderr.

exit codes:
  0  good
  1  something was found, or failed: the message says what
  2  the command could not run: its arguments or the settings cannot work
"""

_BEARER = """\
Print a URL for each target, a line each. They are bearer credentials: whoever reads one can do what
it is for until it ends. Keep them out of logs, tickets and the shell's history.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that *argv* names (None: the process's arguments); return its exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    if options.command == "demo":
        from .demo import main as demo

        return demo(rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    from .commands import run

    return run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="presign-middleware",
        description="Presigned S3 URLs for web applications: caught, cached, stable, never dead on arrival.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"presign-middleware {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--app", metavar="MODULE:ATTRIBUTE", help="the Presigner of an application")
    common.add_argument("--json", action="store_true", help="print JSON, for machines")

    def add(name: str, summary: str, description: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            parents=[common],
            help=summary,
            description=description or f"{summary[0].upper()}{summary[1:]}.",
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    url = add("url", "print signed URLs, which are bearer credentials", _BEARER)
    url.add_argument("targets", nargs="+", metavar="TARGET", help="s3://bucket/key, or an unsigned https URL")
    url.add_argument("--method", default="GET", help="GET, HEAD, PUT or DELETE (%(default)s)")
    url.add_argument("--lifetime", type=int, metavar="SECONDS", help="60 to 604800 (as the policy says)")
    url.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter by boto3's name, such as ResponseContentDisposition=attachment",
    )

    explain = add("explain", "tell why a target would be signed or not, and how")
    explain.add_argument("target", metavar="TARGET")

    warm = add("warm", "have the URLs of many targets at hand in the shared cache")
    warm.add_argument(
        "sources",
        nargs="+",
        metavar="TARGET|FILE|-",
        help="a target, or a file of them, a line each; -: stdin",
    )

    invalidate = add("invalidate", "take back the URLs of overwritten objects, fleet-wide")
    invalidate.add_argument("targets", nargs="+", metavar="TARGET")

    revoke = add("revoke", "take back all URLs of an origin, fleet-wide")
    revoke.add_argument("origin", metavar="ORIGIN", help="its name")

    add("stats", "show what memcached and this process have counted")

    doctor = add("doctor", "look for what is wrong: credentials, region, clock, access, memcached, settings")
    doctor.add_argument(
        "--sample",
        action="append",
        default=[],
        metavar="TARGET",
        help="an object that is there, whose headers are looked at",
    )
    doctor.add_argument("--strict", action="store_true", help="exit with 1 for warnings too")

    # This one parses its own arguments.
    commands.add_parser(
        "demo", add_help=False, help="measure a gallery before and after on a real S3 server, then serve it"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
