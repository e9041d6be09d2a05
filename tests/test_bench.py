"""The benchmark runs and tells everything it has measured. What it tells is nobody's to assert."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich", reason="the benchmark's tables are drawn by rich")

from benchmarks.rounds import Case, Contender, play  # which needs rich

ROOT = Path(__file__).parent.parent

SCOPED_PAGES = {"urls(), in a scope", "await aurls(), in a scope"}
SIGNERS = {"obstore", "fast-s3-url", "libpresign", "minio", "signurlarity", "S3Storage.url", "aiobotocore"}
LISTS = {"obstore, one list", "fast-s3-url, one list"}
FLOOR = "one function, and no more"

CASES = {
    "Held: one URL a call": {
        "url()",
        "url(), in a scope",
        "url(), again in a scope",
        "await aurl()",
        "dict, end compared",
        "dict, in a function",
        "boto3 in a TTLCache",
        "boto3 in dogpile",
        "boto3 in cashews",
        "cashews, get",
        "boto3 in aiocache",
        "boto3",
    },
    "Held: a page of 200": {
        "urls()",
        "await aurls()",
        "dict, end compared",
        "boto3 in a TTLCache",
        "boto3",
        *SCOPED_PAGES,
        *LISTS,
    },
    "Cold: one URL a call": {
        "url()",
        "url(), in a scope",
        "await aurl()",
        "two bare hashes",
        FLOOR,
        "boto3",
        "boto3 in a TTLCache",
        *SIGNERS,
    },
    "Cold: a page of 200": {
        "urls()",
        "await aurls()",
        "two bare hashes",
        FLOOR,
        "boto3",
        "boto3 in a TTLCache",
        *SCOPED_PAGES,
        *LISTS,
        *SIGNERS,
    },
    "Inside a url(), cold": {"Signer.sign()", "Signing.sign()", "Resolver.quick()", "url()"},
    **{
        f"Held: a page of {size}": {"dict, end compared", "boto3 in a TTLCache", "boto3", *SCOPED_PAGES}
        for size in ("1", "50", "1,000")
    },
    **{f"Cold: a page of {size}": {"boto3", *SCOPED_PAGES, *LISTS} for size in ("1", "50", "1,000")},
    "A Pydantic response of 1,000 links, cold": {"link()", "await alink()", "urls() of its keys", "boto3"},
    "Idle: an ASGI request that fetches nothing": {
        "PresignMiddleware()",
        "bare Starlette",
        "middleware of nothing",
        "middleware of one variable",
    },
    "Idle: a WSGI request that fetches nothing": {
        "PresignMiddleware(app)",
        "PresignMiddleware(Flask)",
        "bare function",
        "bare Flask",
    },
    "Not covered: a fetch of httpx": {"intercept(httpx)", "httpx"},
    "Not covered: a fetch of requests": {"intercept(requests)", "requests"},
}

SHARED_CASES = {
    "Shared: one URL a call": {
        "url()",
        "url(), sealed",
        "url(), others' sessions",
        "await aurl()",
        "pymemcache",
        "pymemcache, sessions",
        "emcache",
        "aiomcache",
        "dogpile, pymemcache",
        "aiocache, memcached",
        FLOOR,
    },
    "Shared: a page of 100 from asyncio": {
        "await aurls()",
        "gather of aurl()",
        "aurls(), in a scope",
        "gather, in a scope",
        "emcache, gather of get",
        "emcache, autobatching",
        "emcache, get_many",
        "aiomcache, gather of get",
        "aiomcache, multi_get",
        "pymemcache, get_many",
        "gather of futures",
        FLOOR,
    },
    "Inside a url(), shared": {
        "pymemcache, gets",
        "Servers.read()",
        "Shared.read()",
        "Runner.wait_for()",
        "url()",
    },
    "Shared: 100 entries of three servers": {
        "read()",
        "pymemcache, HashClient",
        "pymemcache, one server",
    },
}

SHEETS = {
    "Import: milliseconds of a process that does nothing else": {
        "nothing",
        "Presigner",
        "boto3",
        "obstore",
        "libpresign",
        "fast-s3-url",
        "signurlarity",
        "minio",
        "cachetools",
        "dogpile.cache",
        "cashews",
        "aiocache",
    },
    "Memory: bytes of the process for each URL it holds": {
        "Presigner",
        "cachetools.TTLCache",
        "dict, with ends",
    },
    "Threads: million held URLs a second, all threads together": {
        "url()",
        "dict",
        "cachetools.TTLCache",
        "dogpile, memory",
    },
    "Zipf: a day of requests, share that needs no signature, %": {"url()", "any cache, same windows"},
}

LOAD_SHEETS = {
    f"Load: 200 links, {framework}, {connections}": {
        "presign-middleware",
        "boto3 for each URL",
        "links at hand",
    }
    for framework in ("Starlette", "Flask")
    for connections in ("1 connection", "8 connections")
}

#: Which module a contender needs whose name has this word. aiobotocore has an environment of its own.
MODULES = {
    "TTLCache": "cachetools",
    "cachetools": "cachetools",
    "cachetools.TTLCache": "cachetools",
    "dogpile": "dogpile",
    "dogpile.cache": "dogpile",
    "cashews": "cashews",
    "aiocache": "aiocache",
    "memcached": "aiomcache",  # aiocache's
    "aiomcache": "aiomcache",
    "emcache": "emcache",
    "obstore": "obstore",
    "fast-s3-url": "fast_s3_url",
    "libpresign": "libpresign",
    "minio": "minio",
    "signurlarity": "signurlarity",
    "S3Storage.url": "storages",
}

GOALS = 28


@dataclass(frozen=True)
class Told:
    """What a run has printed, and its JSON."""

    printed: str
    json: Any
    path: Path

    @property
    def rows(self) -> list[Any]:
        """Every row of every table."""
        return [*self.json["rows"], *(row for sheet in self.json["sheets"] for row in sheet["rows"])]

    @property
    def tables(self) -> dict[str, set[str]]:
        """Which rows are in which table."""
        found: dict[str, set[str]] = {sheet["title"]: set() for sheet in self.json["sheets"]}
        for row in self.json["rows"]:
            found.setdefault(row["case"], set()).add(row["name"])
        for sheet in self.json["sheets"]:
            found[sheet["title"]].update(row["name"] for row in sheet["rows"])
        return found

    @property
    def missing(self) -> set[str]:
        """The rows of those who are not installed."""
        return {row["name"] for row in self.rows if row["missing"]}


def run(path: Path, arguments: Sequence[str], *, hide: str = "") -> Told:
    """Return what the benchmark tells, run after the statements of *hide*."""
    code = (
        f"import runpy, sys; {hide}runpy.run_module('tests.benchmarks', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--json", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return Told(done.stdout, json.loads(path.read_text()), path)


def needed(name: str) -> list[str]:
    """Return the modules that the contender *name* needs."""
    return [MODULES[word] for word in name.replace(",", "").split() if word in MODULES]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return run(tmp_path_factory.mktemp("bench") / "bench.json", ["--quick"])


def test_a_quick_run_tells_every_row(quick: Told) -> None:
    load = LOAD_SHEETS if shutil.which("wrk") else {}
    assert quick.tables == CASES | SHARED_CASES | SHEETS | load
    for row in quick.json["rows"]:
        if not row["missing"]:
            assert 0 < row["min_us"] <= row["median_us"] <= row["max_us"]
            assert row["times_as_long_as"][row["name"]] == 1
    for sheet in quick.json["sheets"]:
        for row in sheet["rows"]:
            assert row["missing"] or set(row["figures"]) == set(sheet["headings"])


def test_who_is_installed_is_not_missing(quick: Told) -> None:
    absent = {row["name"] for row in quick.rows if not all(map(find_spec, needed(row["name"])))}
    assert quick.missing - {"aiobotocore"} == absent


def test_every_table_and_goal_is_printed_in_80_columns(quick: Told) -> None:
    assert [title for title in quick.tables if title not in quick.printed] == []
    assert [goal["goal"] for goal in quick.json["goals"] if goal["goal"] not in quick.printed] == []
    assert len(quick.json["goals"]) == GOALS
    assert max(map(len, quick.printed.splitlines())) <= 80


def test_a_goal_is_judged_by_what_was_measured(quick: Told) -> None:
    judged = [goal for goal in quick.json["goals"] if goal["measured"] is not None]
    assert len(judged) >= 15
    for goal in judged:
        enough = goal["measured"] >= goal["bound"], goal["measured"] <= goal["bound"]
        assert goal["met"] is (enough[0] if goal["is_least"] else enough[1])


def test_a_floor_is_judged_as_its_goal_is(quick: Told) -> None:
    with_floors = [goal for goal in quick.json["goals"] if goal["floor"] is not None]
    assert len(with_floors) >= 5  # of as many as have their peers installed
    for goal in with_floors:
        enough = goal["floor"] >= goal["bound"], goal["floor"] <= goal["bound"]
        assert goal["is_in_reach"] is (enough[0] if goal["is_least"] else enough[1])


def test_the_page_and_the_readme_are_written_from_a_run(quick: Told, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    if not shutil.which("wrk"):
        pytest.skip("the README tells of pages under load: wrk is not installed")
    readme = tmp_path / "README.md"
    shutil.copy(ROOT / "README.md", readme)
    for folder in ("explanation", "pictures"):
        (tmp_path / "docs" / folder).mkdir(parents=True)
    command = [sys.executable, "-m", "tests.benchmarks.document", str(quick.path), "--into", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)

    page = (tmp_path / "docs/explanation/performance.md").read_text()
    held = next(row for row in quick.json["rows"] if row["name"] == "url()")
    assert f"| **url()** | {held['median_us']:.2f} |" in page
    assert "**A quick run" in page
    assert [title for title in quick.tables if title.startswith("Load") and title not in page] == []
    assert f"| {held['median_us']:.2f} |" in readme.read_text()
    assert (tmp_path / "docs/pictures/performance.svg").read_text().endswith("</svg>\n")


def test_a_part_is_run_alone_and_goals_of_others_are_not_judged(tmp_path: Path) -> None:
    told = run(tmp_path / "bench.json", ["--quick", "--only", "threads"])
    assert set(told.tables) == {"Threads: million held URLs a second, all threads together"}
    assert [goal["goal"] for goal in told.json["goals"] if goal["met"] is not None] == [
        "16 threads on one table: 0.85 of one thread's throughput"
    ]
    assert told.printed.count("not run") == GOALS - 1


def test_a_peer_that_is_not_installed_is_told_as_missing(tmp_path: Path) -> None:
    hide = f"sys.modules.update(dict.fromkeys({sorted(MODULES.values())!r})); "
    arguments = ["--rounds", "1", "--only", "urls", "--only", "shared"]
    told = run(tmp_path / "bench.json", arguments, hide=hide)
    ends = ("one URL a call", "of 200")
    of_urls = {t: CASES[t] for t in CASES if t.endswith(ends) or t.startswith("Inside")}
    assert told.tables == of_urls | SHARED_CASES
    everybody = set().union(*told.tables.values())
    assert told.missing - {"aiobotocore"} == {name for name in everybody if needed(name)}
    assert "missing" in told.printed
    assert len(told.json["goals"]) == GOALS


def test_without_memcached_or_wrk_their_parts_are_left_out_and_a_line_says_so(tmp_path: Path) -> None:
    hide = (
        "import shutil; shutil.which = lambda name: None; "
        "from presign_middleware.testing import Memcached; Memcached.is_available = lambda: False; "
    )
    told = run(tmp_path / "bench.json", ["--quick", "--only", "shared", "--only", "load"], hide=hide)
    assert told.tables == {}
    assert told.printed.splitlines()[-2:] == told.json["left_out"]
    assert told.json["left_out"] == [
        "memcached is not installed: the shared cases are left out.",
        "wrk is not installed: pages under load are left out.",
    ]


def test_nobody_is_first_in_every_round() -> None:
    """Who is first finds cold caches: round by round, the warming one too, another contender begins."""
    order: list[str] = []

    def contender(name: str) -> Contender:
        return Contender(name, lambda: lambda: order.append(name) or 1.0)  # type: ignore[func-returns-value]

    three, two = [Case(names, 1, ("a",), tuple(map(contender, names))) for names in ("abc", "de")]
    play([three, two], 2, lambda: None)
    assert "".join(order) == "abcde" + "bcaed" + "cabde"
