"""
A page of 200 links, warm, under load: Starlette on uvicorn and Flask on gunicorn, one process each.

wrk is the load, with one connection, which tells what a page takes, and with eight, which keep the
server busy. The servers run side by side and are loaded in turn, round by round.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import URLError

from presign_middleware.testing.ports import free_ports
from presign_middleware.testing.processes import Processes

from .sheets import Row, Sheet

__all__ = [
    "BOTO3",
    "FLOOR",
    "MAKING",
    "OURS",
    "P50",
    "RATE",
    "STARLETTE_ALONE",
    "STARLETTE_BUSY",
    "is_available",
    "measure",
    "steps",
]

OURS, BOTO3, FLOOR = "presign-middleware", "boto3 for each URL", "links at hand"
P50, P99, RATE, CPU, MAKING = "p50 ms", "p99 ms", "pages/s", "CPU ms", "links ms"

_ROOT = Path(__file__).parents[2]
_SCRIPT = Path(__file__).with_name("wrk.lua")
_NOTE = "Of a page: latency, CPU of the server, and that part of it in which links are made."

_SIDES = {OURS: "ours", BOTO3: "boto3", FLOOR: "floor"}
_CONNECTIONS = {1: "1 connection", 8: "8 connections"}
_ROUNDS, _QUICK_ROUNDS = 3, 1
_SECONDS, _QUICK_SECONDS = 3, 0.4
_WARM_UP, _QUICK_WARM_UP = 20, 3  # pages
_START_WITHIN = 20.0  # seconds


def _uvicorn(name: str, port: int) -> list[str]:
    command = f"-m uvicorn --factory --host 127.0.0.1 --port {port} --no-access-log --log-level warning"
    return [*command.split(), "--app-dir", str(_ROOT), f"tests.benchmarks.served:starlette_{name}"]


def _gunicorn(name: str, port: int) -> list[str]:
    command = f"-m gunicorn --workers 1 --threads 4 --bind 127.0.0.1:{port} --log-level warning"
    return [*command.split(), "--chdir", str(_ROOT), f"tests.benchmarks.served:flask_{name}()"]


_SERVERS: dict[str, Callable[[str, int], list[str]]] = {
    "Load: 200 links, Starlette": _uvicorn,
    "Load: 200 links, Flask": _gunicorn,
}


def _title(server: str, connections: int) -> str:
    return f"{server}, {_CONNECTIONS[connections]}"


STARLETTE_ALONE, STARLETTE_BUSY = (_title(next(iter(_SERVERS)), count) for count in _CONNECTIONS)


def is_available() -> bool:
    """Return whether wrk is installed."""
    return shutil.which("wrk") is not None


def steps(is_quick: bool) -> int:
    """Return how often `measure` will advance."""
    return len(_SERVERS) * len(_CONNECTIONS) * len(_SIDES) * (_QUICK_ROUNDS if is_quick else _ROUNDS)


def measure(is_quick: bool, advance: Callable[[], object]) -> list[Sheet]:
    """Load every application in turn. Raises RuntimeError: one answered with an error."""
    sheets = []
    for server, command in _SERVERS.items():
        with ExitStack() as ending:
            processes = Processes("load")
            ending.callback(processes.stop)
            ports = dict(zip(_SIDES, free_ports(len(_SIDES)), strict=True))
            for side, port in ports.items():
                processes.spawn(sys.executable, *command(_SIDES[side], port))
            for port in ports.values():
                _await_start(processes, port)
                for _ in range(_QUICK_WARM_UP if is_quick else _WARM_UP):
                    _get(port, "")
            sheets += _loaded(server, ports, is_quick, advance)
    return sheets


def _loaded(server: str, ports: dict[str, int], is_quick: bool, advance: Callable[[], object]) -> list[Sheet]:
    sheets = []
    for connections in _CONNECTIONS:
        found: dict[str, dict[str, list[float]]] = {side: {} for side in ports}
        for _ in range(_QUICK_ROUNDS if is_quick else _ROUNDS):
            for side, port in ports.items():
                for heading, figure in _round(port, connections, is_quick).items():
                    found[side].setdefault(heading, []).append(figure)
                advance()
        rows = tuple(
            Row(side, figures, is_ours=side == OURS, is_floor=side == FLOOR)
            for side, figures in found.items()
        )
        sheets.append(Sheet(_title(server, connections), (P50, P99, RATE, CPU, MAKING), rows, _NOTE))
    return sheets


def _round(port: int, connections: int, is_quick: bool) -> dict[str, float]:
    """Load the server at *port* once; return its figures, by heading."""
    before = _told(port)
    wrk = _wrk(port, connections, _QUICK_SECONDS if is_quick else None)
    after = _told(port)
    if wrk["errors"]:
        raise RuntimeError(f"{wrk['errors']} of {wrk['requests']} pages under load were errors")
    pages = after["pages"] - before["pages"]
    return {
        P50: wrk["p50"],
        P99: wrk["p99"],
        RATE: wrk["requests"] / wrk["seconds"],
        CPU: 1e3 * (after["cpu"] - before["cpu"]) / pages,
        MAKING: 1e3 * (after["making"] - before["making"]) / pages,
    }


def _wrk(port: int, connections: int, seconds: float | None) -> Any:
    """Return what wrk tells of a load of *seconds*; None: of those of a whole run."""
    url = f"http://127.0.0.1:{port}/"
    options = f"-t1 -c{connections} -d{_SECONDS}s --timeout 10s".split()
    command = ["wrk", *options, "-s", str(_SCRIPT), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if seconds is not None:
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)  # -d takes whole ones; it tells what it has seen
        told = process.stdout.read()
    wrk = json.loads(told.splitlines()[-1]) if process.returncode == 0 else None
    if seconds is not None and not (wrk and wrk["requests"]):
        # On a busy machine the signal may come before wrk is ready for it, or before any page.
        return _wrk(port, connections, None)
    if wrk is None:
        raise RuntimeError(f"wrk ended with status {process.returncode}")
    return wrk


def _await_start(processes: Processes, port: int) -> None:
    """Wait until the server at *port* answers."""
    deadline = time.monotonic() + _START_WITHIN
    for _ in processes.polls(deadline, "a server did not start"):
        try:
            _told(port)
        except URLError:
            continue
        break


def _told(port: int) -> Any:
    return json.loads(_get(port, "told"))


def _get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as response:
        found: bytes = response.read()
        return found
