"""
The run: an S3 with an STS, a memcached, four processes, and a judge that fetches what they hand out.

The judge is no process of the fleet and imports no hook: it fetches each URL like a browser
does, when it was handed out and again shortly before the end that was stated.
"""

import asyncio
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from presign_middleware.testing import Memcached, SeaweedFS

from .gate import Gate
from .tally import Link, Phase, Tally

__all__ = ["Settings", "run"]

BUCKET: Final = "soak"

#: Seconds before its stated end at which a URL is fetched for the last time.
LAST_LOOK: Final = 0.5

#: Seconds before the end after which a refusal says nothing: it may have taken as long to arrive.
_TOO_CLOSE: Final = 0.05

#: Fetches of the judge's that are under way at once.
_AT_ONCE: Final = 4

_ROOT: Final = Path(__file__).parent.parent.parent
_START_WITHIN: Final = 30  # seconds
_STOP_WITHIN: Final = 60  # seconds; whoever waits for credentials is waited for


@dataclass(frozen=True, slots=True)
class Settings:
    """How the fleet is made."""

    session: int = 4  # seconds that a session lives
    processes: int = 4
    objects: int = 36
    links: int = 8  # a page
    every: float = 0.2  # seconds from one page of a process to the next
    # A minute is the shortest life there is. Of that, sessions of 4 s leave the last second for
    # min_remaining (a quarter of a session) and 0.4 s for AGEING (a tenth): they end every URL.
    # The long AGEING makes windows of 19 s, so that URLs turn over by rotation as well.
    policy: dict[str, float] = field(
        default_factory=lambda: {"lifetime": 60, "min_remaining": 1, "ageing": 40}
    )

    @property
    def keys(self) -> list[str]:
        """The keys of all objects."""
        return [f"pictures/{number:02} ü.jpg" for number in range(self.objects)]


class Judge:
    """Fetches what was handed out, and counts."""

    def __init__(self, progress: Callable[[str], object]) -> None:
        self._threads = ThreadPoolExecutor(_AT_ONCE)
        self._own = threading.local()  # a thread's connection
        self._connections: list[http.client.HTTPConnection] = []
        self._waiting: dict[str, list[Link]] = {}  # whose fetch has not begun, by URL
        self._looks: set[asyncio.Task[None]] = set()
        self._progress = progress
        self.tally: Tally | None = None  # of the present phase
        self.outage_over = float("inf")  # Unix seconds
        self.all_recovered = asyncio.Event()
        self._failure: BaseException | None = None

    def hear_page(self, number: int, page: dict[str, Any]) -> None:
        """Take note of a *page* of process *number*."""
        tally = self.tally
        if tally is None:
            return
        tally.pages += 1
        tally.longest_page = max(tally.longest_page, page["ended"] - page["began"])
        tally.failures.update(page["failures"])
        if page["fetched"] is not None:
            tally.fetched[page["fetched"]] += 1
        if page["began"] >= self.outage_over and not page["failures"] and number not in tally.recovered:
            tally.recovered[number] = page["ended"] - self.outage_over
            if len(tally.recovered) == tally.processes:
                self.all_recovered.set()
        refused, errors = len(tally.refused), tally.signing_errors
        self._progress(
            f"{tally.phase.name}: {tally.handed_out:,} URLs, {refused} refused, {errors} SigningErrors"
        )

    def hear_link(self, link: Link) -> None:
        """Take note of *link*, and begin to fetch it."""
        tally = self.tally
        if tally is None:
            return
        is_new = tally.note(link)
        self._begin(self._look(link, tally))
        if is_new:
            self._begin(self._look_again(link, tally))

    async def finish(self) -> None:
        """Wait for the last looks, and let go of everything. Raises what any look has raised."""
        try:
            while self._looks:
                await asyncio.gather(*self._looks)
            if self._failure is not None:
                raise self._failure
        finally:
            self._threads.shutdown()
            for connection in self._connections:
                connection.close()

    async def _look(self, link: Link, tally: Tally) -> None:
        """Fetch what was just handed out; until the fetch begins it stands for each further hand-out."""
        waiting = self._waiting.get(link.url)
        if waiting is not None:
            waiting.append(link)
            return
        links = self._waiting[link.url] = [link]
        good = await self._judged(links, tally)
        tally.checked += good  # in one step, unlike += await

    async def _look_again(self, link: Link, tally: Tally) -> None:
        """Fetch it again shortly before its end."""
        await asyncio.sleep(link.expires_at - LAST_LOOK - time.time())
        good = await self._judged([link], tally)
        tally.checked_late += good

    async def _judged(self, links: list[Link], tally: Tally) -> int:
        """Return for how many hand-outs it is as it must be; note what is not."""
        link = links[0]
        loop = asyncio.get_running_loop()
        status, body, now = await loop.run_in_executor(self._threads, self._get, link.url)
        if status == 200 and body == link.key.encode():
            return len(links)
        if now > link.expires_at - _TOO_CLOSE:
            tally.too_late += len(links)
        else:
            when = f"{now - link.handed_at:.2f} s after it was handed out"
            left = f"{link.expires_at - now:.2f} s before its end ({link.reason})"
            tally.refused.append(f"{link.key!r}: {status} {when}, {left}")
        return 0

    def _get(self, url: str) -> tuple[int, bytes, float]:
        """Return status and body of *url*, and when they came. Blocks; httpx would take too long."""
        self._waiting.pop(url, None)
        connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is not None:
            with suppress(http.client.HTTPException, OSError):  # the server may have closed it by now
                return self._got(connection, url)
            connection.close()
        parts = urlsplit(url)
        assert parts.hostname is not None
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
        self._own.connection = connection
        self._connections.append(connection)
        return self._got(connection, url)

    @staticmethod
    def _got(connection: http.client.HTTPConnection, url: str) -> tuple[int, bytes, float]:
        parts = urlsplit(url)
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        return answer.status, answer.read(), time.time()

    def _begin(self, look: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(look)
        self._looks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, look: asyncio.Task[None]) -> None:
        self._looks.discard(look)
        if not look.cancelled() and look.exception() is not None:
            self._failure = look.exception()


class Fleet:
    """The processes of one phase or of several, and what they say in the end. Spawned with the block."""

    def __init__(self, size: int, judge: Judge) -> None:
        self._size = size
        self._judge = judge
        self._members: list[asyncio.subprocess.Process] = []
        self._hearing: list[asyncio.Task[None]] = []
        self._ready = asyncio.Event()
        self._left = size
        self.farewells: list[dict[str, Any]] = []

    async def start(self, told: dict[str, Any]) -> None:
        """Tell each process what to be, and wait until all are at it."""
        for number, member in enumerate(self._members):
            assert member.stdin is not None
            member.stdin.write(f"{json.dumps({**told, 'number': number})}\n".encode())
            self._hearing.append(asyncio.create_task(self._hear(number, member)))
        await asyncio.wait_for(self._ready.wait(), _START_WITHIN)

    async def stop(self) -> None:
        """End traffic, and wait until each process has said what it counted."""
        for member in self._members:
            assert member.stdin is not None
            member.stdin.close()
        async with asyncio.timeout(_STOP_WITHIN):
            await asyncio.gather(*self._hearing)

    async def __aenter__(self) -> "Fleet":
        for _ in range(self._size):
            member = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.soak.member"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                cwd=_ROOT,
                limit=2**20,  # bytes of a line
            )
            self._members.append(member)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for member in self._members:
            if member.returncode is None:
                member.kill()
            await member.wait()

    async def _hear(self, number: int, member: asyncio.subprocess.Process) -> None:
        assert member.stdout is not None
        async for line in member.stdout:
            said = json.loads(line)
            if "link" in said:
                self._judge.hear_link(Link(*said["link"]))
            elif "page" in said:
                self._judge.hear_page(number, said["page"])
            elif "stats" in said:
                self.farewells.append(said)
            else:
                self._left -= 1
                if not self._left:
                    self._ready.set()
        await member.wait()
        if member.returncode:
            raise RuntimeError(f"a process of the fleet ended with status {member.returncode}")


@dataclass(slots=True)
class Outcome:
    """What the run has found."""

    tallies: list[Tally]
    stats: dict[str, dict[str, int]]  #: of the processes of a fleet, added up
    events: dict[str, dict[str, int]]

    @property
    def faults(self) -> list[str]:
        """What is not as it must be, in words."""
        return [f"{tally.phase.name}: {fault}" for tally in self.tallies for fault in tally.faults]


async def run(
    phases: Sequence[Phase], settings: Settings, progress: Callable[[str], object] = lambda text: None
) -> Outcome:
    """Play *phases* one after another; those that share in a row have one fleet."""
    outcome = Outcome([], {}, {})
    judge = Judge(progress)
    groups = _fleets(phases)
    async with AsyncExitStack() as stack:
        # First, since they take as long as the server does, and side by side.
        fleets = [await stack.enter_async_context(Fleet(settings.processes, judge)) for _ in groups]
        s3 = stack.enter_context(SeaweedFS(session_seconds=settings.session, progress=progress))
        memcached = stack.enter_context(Memcached())
        _store(settings.keys, s3.client())
        gate = await stack.enter_async_context(Gate(s3.endpoint_url))
        for (name, group), fleet in zip(groups, fleets, strict=True):
            shared = memcached.url if group[0].is_shared else None
            await fleet.start(_told(settings, s3, gate, shared))
            for phase in group:
                outcome.tallies.append(await _play(phase, settings, gate, judge))
            judge.tally = None
            await fleet.stop()
            outcome.stats[name] = _added(farewell["stats"] for farewell in fleet.farewells)
            outcome.events[name] = _added(farewell["events"] for farewell in fleet.farewells)
        await judge.finish()
    return outcome


def _store(keys: Sequence[str], client: Any) -> None:
    client.create_bucket(Bucket=BUCKET)
    for key in keys:
        client.put_object(Bucket=BUCKET, Key=key, Body=key.encode())


def _fleets(phases: Sequence[Phase]) -> list[tuple[str, list[Phase]]]:
    groups: list[tuple[str, list[Phase]]] = []
    for phase in phases:
        if groups and groups[-1][1][0].is_shared == phase.is_shared:
            groups[-1][1].append(phase)
        else:
            groups.append((phase.name, [phase]))
    return groups


def _told(settings: Settings, s3: SeaweedFS, gate: Gate, shared: str | None) -> dict[str, Any]:
    return {
        "bucket": BUCKET,
        "region": s3.region,
        "endpoint_url": s3.endpoint_url,
        "access_key": s3.access_key,
        "secret_key": s3.secret_key,
        "role_arn": s3.role_arn,
        "sts_endpoint_url": gate.url,
        "shared": shared,
        "policy": settings.policy,
        "keys": settings.keys,
        "links": settings.links,
        "every": settings.every,
    }


async def _play(phase: Phase, settings: Settings, gate: Gate, judge: Judge) -> Tally:
    # The server tells ends in whole seconds, rounded down: a session may seem to be a second shorter.
    least = min(settings.policy["min_remaining"], (settings.session - 1) / 4)
    tally = Tally(phase, least, processes=settings.processes)
    asked, in_vain = gate.asked, gate.in_vain
    judge.tally, judge.outage_over = tally, float("inf")
    if phase.outage is None:
        await asyncio.sleep(phase.seconds)
    else:
        before = phase.seconds / 8
        await asyncio.sleep(before)
        gate.set(phase.outage)
        await asyncio.sleep(phase.outage_seconds)
        gate.set("open")
        judge.all_recovered.clear()
        judge.outage_over = time.time()
        after = phase.seconds - before - phase.outage_seconds
        if phase.ends_early:
            await asyncio.wait_for(judge.all_recovered.wait(), after)
        else:
            await asyncio.sleep(after)
    tally.asked, tally.in_vain = gate.asked - asked, gate.in_vain - in_vain
    return tally


def _added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total
