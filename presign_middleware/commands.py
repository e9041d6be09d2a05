"""
What the commands of the command line do, and how they show it.

Data goes to stdout, as text or with ``--json``; messages go to stderr. Only `url` prints signatures.
Each command returns its exit code; what cannot work at all is a ConfigurationError, and 2.
"""

import asyncio
import json
import logging
import os
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from .doctor import Finding, examine
from .errors import ConfigurationError, NotCovered, SigningError
from .memcached import Failed
from .presigner import Presigner
from .redaction import redact
from .shared import Look, Shared

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["run"]

_GOOD, _FOUND, _USAGE, _STOPPED = 0, 1, 2, 130

#: Seconds for telling memcached, and for learning which servers there are.
_WITHIN = 5.0

#: Targets that are warmed with one round trip.
_CHUNK = 500

#: Columns of what is written to a pipe, where each row is to stay one line.
_WIDE = 10_000

_STYLES = {"ok": "green", "warning": "yellow", "failure": "bold red"}

#: What is shown of a server's own counters.
_SHOWN = (
    *("uptime", "curr_connections", "curr_items", "total_items", "bytes", "limit_maxbytes"),
    *("get_hits", "get_misses", "evictions"),
)


def run(options: Namespace) -> int:
    """Run the command that *options* name; return its exit code."""
    command: Callable[[Namespace], int] = _COMMANDS[options.command]
    try:
        code = command(options)
        sys.stdout.flush()
    except ConfigurationError as error:
        _say(error)
        return _USAGE
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
        return _FOUND
    except KeyboardInterrupt:
        return _STOPPED
    return code


def _url(options: Namespace) -> int:
    params = dict([_parameter(text) for text in options.param])
    found, code = [], _GOOD
    with _presigner(options) as presigner:
        for target in options.targets:
            try:
                found.append(presigner.resolve(target, options.method, params or None, options.lifetime))
            except (NotCovered, SigningError) as error:
                _say(error)
                code = _FOUND
                continue
            if not options.json:
                print(found[-1].url)
    if options.json:
        _print_json([asdict(url) for url in found])
    return code


def _explain(options: Namespace) -> int:
    with _presigner(options) as presigner:
        # This process has done nothing yet, and would know nothing.
        asyncio.run(presigner.make_ready())
        explanation = presigner.explain(options.target)
    if options.json:
        _print_json(asdict(explanation))
    else:
        print(explanation)
    return _GOOD if explanation.covered and not explanation.tier.startswith("nobody") else _FOUND


def _warm(options: Namespace) -> int:
    with _presigner(options) as presigner:
        _shared(presigner, "warms")
        asyncio.run(presigner.make_ready())  # connects, so that no target waits for it
        targets = list(_targets(options.sources))
        failed = 0
        with _progress(len(targets)) as advance:
            for some in _chunks(targets):
                failed += _warmed(presigner, some)
                advance(len(some))
        stats = presigner.stats()
    # After all is written: what could not be was counted meanwhile.
    lost = presigner.stats()["shared_errors"] + presigner.stats()["shared_skipped"]
    figures = {
        "targets": len(targets),
        "signed": stats["signed"],
        "found": stats["from_shared"],
        "failed": failed,
    }
    if options.json:
        _print_json(figures)
    else:
        print(", ".join([f"{number:,} {name}" for name, number in figures.items()]))
    if lost:
        _say("memcached failed meanwhile, and may not have all of them: presign-middleware doctor tells more")
    return _FOUND if failed or lost else _GOOD


def _warmed(presigner: Presigner, targets: Sequence[str]) -> int:
    """Warm *targets*; return how many could not be."""
    covered = []
    for target in targets:
        why = presigner.explain(target)
        if why.covered:
            covered.append(target)
        else:
            _say(why.reason)
    try:
        presigner.warm(covered)
    except SigningError as error:
        _say(error)
        return len(targets)
    return len(targets) - len(covered)


def _invalidate(options: Namespace) -> int:
    code, done = _GOOD, []
    with _presigner(options) as presigner:
        shared = _shared(presigner, "takes back")
        for target in options.targets:
            try:
                presigner.invalidate(target)
            except NotCovered as error:
                _say(error)
                code = _FOUND
            else:
                done.append(redact(target))
        code = max(code, _told(shared))
    _tell_of(options, "invalidated", done, code)
    return code


def _revoke(options: Namespace) -> int:
    with _presigner(options) as presigner:
        shared = _shared(presigner, "takes back")
        presigner.revoke(options.origin)
        code = _told(shared)
    _tell_of(options, "revoked", [options.origin], code)
    return code


def _tell_of(options: Namespace, verb: str, done: Sequence[str], code: int) -> None:
    if options.json:
        _print_json({verb: done, "all": code == _GOOD})
    else:
        for name in done:
            print(f"{verb} {name}")


def _told(shared: Shared) -> int:
    """Have every server know what was taken back; this process will not be there to try again."""
    if shared.catch_up(monotonic() + _WITHIN):
        return _GOOD
    _say("not every memcached server could be told, so this may be lost: run it again when they all answer")
    return _FOUND


def _stats(options: Namespace) -> int:
    with _presigner(options) as presigner:
        looks = [] if presigner.shared is None else presigner.shared.look(monotonic() + _WITHIN)
        processes = _processes(presigner)
    if options.json:
        _print_json({"memcached": [_figures(look) for look in looks], "processes": processes})
    else:
        _show_stats(_console(), looks, processes)
    return _FOUND if any(isinstance(look.state, Failed) for look in looks) else _GOOD


def _processes(presigner: Presigner) -> dict[str, Mapping[str, int]]:
    """Return the counters of each process that is known of, by a name for it; see `presence`."""
    workers, _ = presigner.presence.all()
    return {"this process": presigner.stats(), **{worker.name: worker.counts for worker in workers[1:]}}


def _figures(look: Look) -> dict[str, Any]:
    state = look.state
    if isinstance(state, Failed):
        return {"server": look.server, "failure": str(state)}
    counted = {name: state.stats[name] for name in _SHOWN if name in state.stats}
    return {
        "server": look.server,
        "version": state.version,
        "round_trip": round(state.round_trip, 6),
        **counted,
    }


def _doctor(options: Namespace) -> int:
    with _hushed(), _presigner(options) as presigner:  # what is logged is found as well
        findings = list(examine(presigner, options.sample))
    number = Counter(finding.level for finding in findings)
    if options.json:
        _print_json([asdict(finding) for finding in findings])
    else:
        _show_findings(_console(), findings)
        print(f"{number['failure']} failed, {number['warning']} warned, {number['ok']} ok", file=sys.stderr)
    return _FOUND if number["failure"] or (options.strict and number["warning"]) else _GOOD


_COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "url": _url,
    "explain": _explain,
    "warm": _warm,
    "invalidate": _invalidate,
    "revoke": _revoke,
    "stats": _stats,
    "doctor": _doctor,
}


# What was asked for.


@contextmanager
def _presigner(options: Namespace) -> Iterator[Presigner]:
    presigner = Presigner.from_env() if options.app is None else _of_app(options.app)
    try:
        yield presigner
    finally:
        presigner.close()  # once what it publishes is published


def _of_app(name: str) -> Presigner:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ConfigurationError(f"--app must look like module:attribute, got {name}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as application servers do
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"--app {name} is not there: {error}") from error
    if not isinstance(found, Presigner):
        raise ConfigurationError(f"--app {name} is a {type(found).__name__}, wanted a Presigner")
    return found


def _shared(presigner: Presigner, what: str) -> Shared:
    if presigner.shared is None:
        raise ConfigurationError(
            f"no memcached is configured, and what this {what} ends with it: set PRESIGN_SHARED"
        )
    return presigner.shared


def _parameter(text: str) -> tuple[str, str | int]:
    name, mark, value = text.partition("=")
    if not mark:
        raise ConfigurationError(f"--param must look like ResponseContentType=text/plain, got {redact(text)}")
    return name, int(value) if name == "PartNumber" and value.isdecimal() else value


def _targets(sources: Iterable[str]) -> Iterator[str]:
    for source in sources:
        if "://" in source:
            yield source
            continue
        try:
            text = sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
        except (OSError, UnicodeError) as error:
            raise ConfigurationError(
                f"{source} is neither a target nor a file of targets: {error}"
            ) from error
        yield from filter(None, [line.strip("\r") for line in text.split("\n")])


def _chunks(targets: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(targets)
    while some := list(islice(rest, _CHUNK)):
        yield some


# How it is shown.


def _say(message: object) -> None:
    print(f"presign-middleware: {message}", file=sys.stderr)


def _print_json(data: object) -> None:
    print(json.dumps(data, indent=2))


def _console() -> "Console":
    try:
        from rich.console import Console
    except ImportError as error:
        raise ConfigurationError(
            'tables need rich: pip install "presign-middleware[cli]"; --json does without'
        ) from error
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDE
    return console


def _show(console: "Console", shown: object) -> None:
    with console.capture() as captured:
        console.print(shown)
    print("\n".join([line.rstrip() for line in captured.get().splitlines()]))


def _show_findings(console: "Console", findings: Sequence[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(overflow="fold")
    parted = "; " if console.width == _WIDE else "\n"
    for finding in findings:
        detail = Text(finding.detail)
        if finding.cure:
            detail.append(f"{parted}cure: {finding.cure}", style="dim")
        table.add_row(Text(finding.level, style=_STYLES[finding.level]), Text(finding.what), detail)
    _show(console, table)


def _show_stats(
    console: "Console", looks: Sequence[Look], processes: Mapping[str, Mapping[str, int]]
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def new(*columns: str) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=bool(number))
        return table

    if looks:
        servers = new("memcached", "version", "ms", "items", "MB", "hits", "evictions", "connections")
        for look in looks:
            servers.add_row(*[Text(cell) for cell in _cells(look)])
        _show(console, servers)
    for name, counts in processes.items():
        counters = new(name, "count")
        for counter, number in counts.items():
            if number:
                counters.add_row(counter, f"{number:,}")
        _show(console, counters if any(counts.values()) else f"{name} has counted nothing")


def _cells(look: Look) -> list[str]:
    if isinstance(look.state, Failed):
        return [look.server, f"no answer ({look.state})"]
    count = Counter({name: int(look.state.stats.get(name, 0)) for name in _SHOWN})
    asked = count["get_hits"] + count["get_misses"]
    return [
        look.server,
        look.state.version,
        f"{look.state.round_trip * 1000:.2f}",
        f"{count['curr_items']:,}",
        f"{count['bytes'] / 2**20:.1f} of {count['limit_maxbytes'] / 2**20:.0f}",
        f"{count['get_hits'] / asked:.0%}" if asked else "-",
        f"{count['evictions']:,}",
        f"{count['curr_connections']:,}",
    ]


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, if that is a terminal and there is rich; give what moves it on."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield lambda number: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda number: None
        return
    with Progress(console=console) as progress:
        task = progress.add_task("warming", total=total)

        def advance(number: int) -> None:
            progress.advance(task, number)

        yield advance


@contextmanager
def _hushed() -> Iterator[None]:
    logger = logging.getLogger("presign_middleware")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
