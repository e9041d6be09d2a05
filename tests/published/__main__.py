"""
Run the published suites bare and hooked, and compare what becomes of each test.

    python -m tests.published [requests] [httpx] [urllib3]

The hooks are process-wide, with a presigner that covers nothing that these suites fetch: every fetch passes
through them, and none is to be changed. A test that ends otherwise than without them is a defect of ours.

The suites come out of the sdists on PyPI, into a cache; nothing of them is kept here. They have an
environment of their own, with the dependency group ``published``. Tests that need the internet fail both
times where there is none. Those that differ are run again, both ways: what does not differ then is
unsteady by itself, and is counted as such.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import time
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

#: Of each sdist, what pytest is to run.
SUITES = {
    "requests": ("tests",),
    "httpx": ("tests",),
    # Without the internet the threads of that one wait for each other for ever, with hooks or without.
    "urllib3": ("test", "-k", "not test_http2_probe_blocked_per_thread"),
}


class Run(NamedTuple):
    """What became of the tests of one run, by their ids."""

    outcomes: dict[str, str]
    judged: int  #: fetches that a hook decided about


class Line(NamedTuple):
    """One line of the table."""

    suite: str
    version: str
    tests: int
    passed: int  #: in both runs
    same: int
    unsteady: list[str]  #: differed, and did not when they were run again
    differing: dict[str, tuple[str, str]]
    judged: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what *arguments* name, print the table, and return the exit status."""
    parser = argparse.ArgumentParser("python -m tests.published", description="Run published suites hooked.")
    parser.add_argument(
        "suites", nargs="*", metavar="suite", help=f"of {', '.join(SUITES)}; all unless given"
    )
    parser.add_argument("--cache", type=Path, default=Path(sys.prefix) / "published", help="a directory")
    given = parser.parse_args(arguments)
    unknown = set(given.suites) - SUITES.keys()
    if unknown:
        parser.error(f"there is no suite {min(unknown)!r}; there are {', '.join(SUITES)}")
    python = _environment(given.cache)
    lines = [_compared(name, given.cache, python) for name in given.suites or SUITES]
    print(_table(lines))
    return 1 if any(line.differing or not line.judged for line in lines) else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _pip(python: Path, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "--disable-pip-version-check", *arguments], check=True, cwd=ROOT)


def _environment(cache: Path) -> Path:
    """Return the Python of an environment that has the suites' clients, what they need, and this library."""
    _say("Preparing the environment of the suites ...")
    python = cache / "venv" / "bin" / "python"
    if not python.exists():
        venv.create(cache / "venv", with_pip=True)
        _pip(python, "install", "-qq", "--upgrade", "pip>=25.1")
    _pip(python, "install", "-qq", "--group", "published", ".")
    _pip(python, "install", "-qq", "--no-deps", "--force-reinstall", ".")  # as it is now
    return python


def _version(name: str) -> str:
    """Return the version of *name* that is pinned, for the suite must be that of the client it tests."""
    group = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["published"]
    pins = (re.fullmatch(rf"{name}(?:\[.*\])?==(.+)", pin) for pin in group)
    return next(found[1] for found in pins if found)


def _unpacked(name: str, version: str, cache: Path, python: Path) -> Path:
    """Return where the sdist of *name* is unpacked."""
    place = cache / f"{name}-{version}"
    if not place.exists():
        _say(f"Fetching the sdist of {name} {version} ...")
        what = ("--no-deps", "--no-binary", name, f"{name}=={version}")
        _pip(python, "download", "-qq", "--dest", str(cache), *what)
        with tarfile.open(cache / f"{place.name}.tar.gz") as archive:
            archive.extractall(cache, filter="data")
    return place


def _compared(name: str, cache: Path, python: Path) -> Line:
    version = _version(name)
    place = _unpacked(name, version, cache, python)
    bare, hooked = (_ran(name, place, python, is_hooked, SUITES[name]) for is_hooked in (False, True))
    different = _differing(bare, hooked)
    again = dict(different)
    if different:
        _say(f"{name}: {len(different)} differ, which are run again")
        again = _differing(*(_ran(name, place, python, hook, list(different)) for hook in (False, True)))
    tests = bare.outcomes.keys() | hooked.outcomes.keys()
    passed = sum(bare.outcomes.get(test) == hooked.outcomes.get(test) == "passed" for test in tests)
    settled = [test for test in different if test not in again]
    return Line(name, version, len(tests), passed, len(tests) - len(different), settled, again, hooked.judged)


def _differing(bare: Run, hooked: Run) -> dict[str, tuple[str, str]]:
    tests = sorted(bare.outcomes.keys() | hooked.outcomes.keys())
    pairs = {test: (bare.outcomes.get(test, "absent"), hooked.outcomes.get(test, "absent")) for test in tests}
    return {test: pair for test, pair in pairs.items() if pair[0] != pair[1]}


def _ran(name: str, place: Path, python: Path, is_hooked: bool, tests: Sequence[str]) -> Run:
    """Run *tests*, and return what became of them. Raises RuntimeError: pytest itself failed."""
    how, began = "hooked" if is_hooked else "bare", time.monotonic()
    outcomes = place / f"outcomes-{how}.json"
    outcomes.unlink(missing_ok=True)
    environment = {
        "PATH": os.environ["PATH"],  # and no proxies, certificates or credentials of whoever runs this
        "HOME": str(place),
        "PYTHONPATH": str(Path(__file__).parent),
        "PRESIGN_HOOKED": "yes" if is_hooked else "no",
        "PRESIGN_OUTCOMES": str(outcomes),
    }
    options = ("-q", "--tb=no", "--timeout=60", "-p", "presign_outcomes", "-p", "no:cacheprovider")
    with subprocess.Popen(
        [python, "-m", "pytest", *options, *tests],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said = (said + line)[-4000:]
            done = re.search(r"\[ *(\d+)%\]$", line)
            if done and sys.stderr.isatty():
                print(f"\r{name}, {how}: {done[1]:>3} %", end="", file=sys.stderr, flush=True)
    if not outcomes.exists():
        raise RuntimeError(f"the suite of {name} did not run to its end ({how}):\n{said}")
    found = Run(**json.loads(outcomes.read_text()))
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    _say(f"{name}, {how}: {len(found.outcomes)} tests in {time.monotonic() - began:.0f} s")
    return found


def _table(lines: Sequence[Line]) -> str:
    head = ["suite", "version", "tests", "passed", "same outcome", "unsteady", "differing", "seen by hooks"]
    rows = [head]
    for one in lines:
        figures = (one.tests, one.passed, one.same, len(one.unsteady), len(one.differing), one.judged)
        rows.append([one.suite, one.version, *map(str, figures)])
    text = ["| " + " | ".join(row) + " |" for row in rows]
    text.insert(1, "|---|---" + "|---:" * 6 + "|")
    text += [f"unsteady: {one.suite} {test}" for one in lines for test in one.unsteady]
    text += [
        f"differs: {one.suite} {test}: {bare} without hooks, {hooked} with them"
        for one in lines
        for test, (bare, hooked) in one.differing.items()
    ]
    return "\n".join(text)


if __name__ == "__main__":
    sys.exit(main())
