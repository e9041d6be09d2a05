"""The benchmark runs and tells everything it has timed. What it tells is nobody's to assert."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich", reason="the benchmark's tables are drawn by rich")

ROOT = Path(__file__).parent.parent

CASES = {
    "Held: one URL a call": {
        "url()",
        "url(), in a scope",
        "url(), again in a scope",
        "await aurl()",
        "dict, end compared",
        "dict, in a function",
        "boto3 in a TTLCache",
    },
    "Held: a page of 200": {
        "urls()",
        "urls(), in a scope",
        "await aurls()",
        "await aurls(), in a scope",
        "dict, end compared",
        "boto3 in a TTLCache",
        "obstore, one list",
        "boto3",
    },
    "Cold: one URL a call": {
        "url()",
        "url(), in a scope",
        "await aurl()",
        "two bare hashes",
        "obstore",
        "boto3",
        "boto3 in a TTLCache",
    },
    "Cold: a page of 200": {
        "urls()",
        "urls(), in a scope",
        "await aurls()",
        "await aurls(), in a scope",
        "two bare hashes",
        "obstore, one list",
        "obstore",
        "boto3",
        "boto3 in a TTLCache",
    },
    "A Pydantic response of 1,000 links, cold": {"link()", "await alink()", "urls() of its keys", "boto3"},
    "Idle: an ASGI request that fetches nothing": {
        "PresignMiddleware()",
        "bare Starlette",
        "middleware of nothing",
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
        "pymemcache",
        "pymemcache, sessions",
    },
    "Shared: a page of 100 from asyncio": {
        "await aurls()",
        "gather of aurl()",
        "emcache, gather of get",
        "emcache, autobatching",
        "emcache, get_many",
        "pymemcache, get_many",
    },
    "Shared: 100 entries of three servers": {
        "read()",
        "pymemcache, HashClient",
        "pymemcache, one server",
    },
}


def run(arguments: Sequence[str], *, without: Sequence[str] = (), memcached: bool = True) -> str:
    """Return what the benchmark prints where the modules *without*, or memcached, are not installed."""
    hide = "".join(f"sys.modules[{name!r}] = None; " for name in without)
    if not memcached:
        hide += "from presign_middleware.testing import Memcached; Memcached.is_available = lambda: False; "
    code = (
        f"import runpy, sys; {hide}runpy.run_module('tests.benchmarks', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def rows_by_case(told: Any) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in told["rows"]:
        found.setdefault(row["case"], set()).add(row["name"])
    return found


def test_a_quick_run_tells_every_row_and_goal_in_80_columns(tmp_path: Path) -> None:
    pytest.importorskip("cachetools")
    pytest.importorskip("emcache")
    pytest.importorskip("obstore")
    path = tmp_path / "bench.json"
    printed = run(["--quick", "--json", str(path)])
    told = json.loads(path.read_text())
    assert rows_by_case(told) == CASES | SHARED_CASES
    for row in told["rows"]:
        assert not row["missing"]
        assert 0 < row["min_us"] <= row["median_us"] <= row["max_us"]
        assert set(row["times_as_long_as"]) == (CASES | SHARED_CASES)[row["case"]]
        assert row["times_as_long_as"][row["name"]] == 1
    assert [goal["goal"] in printed for goal in told["goals"]] == [True] * 7
    assert [case in printed for case in SHARED_CASES] == [True] * 3
    assert max(map(len, printed.splitlines())) <= 80


def test_a_peer_that_is_not_installed_is_told_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    printed = run(["--rounds", "1", "--json", str(path)], without=["cachetools", "emcache", "obstore"])
    told = json.loads(path.read_text())
    missing = {row["name"] for row in told["rows"] if row["missing"]}
    emcache = {"emcache, gather of get", "emcache, autobatching", "emcache, get_many"}
    assert missing == {"boto3 in a TTLCache", "obstore", "obstore, one list", *emcache}
    assert rows_by_case(told) == CASES | SHARED_CASES
    assert "missing" in printed
    assert len(told["goals"]) == 7


def test_without_memcached_what_is_shared_is_left_out_and_a_line_says_so(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    printed = run(["--rounds", "1", "--json", str(path)], memcached=False)
    told = json.loads(path.read_text())
    assert set(rows_by_case(told)) == set(CASES)
    assert [line for line in printed.splitlines() if "memcached is not installed" in line] == [
        "memcached is not installed: the shared cases are left out."
    ]
