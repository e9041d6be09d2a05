"""
The run: memcacheds that fail, processes that serve pages meanwhile, and a strict S3 that judges their URLs.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.parse import urlsplit

from fleet import REGION, SECRET, dated

from presign_middleware.testing import Clock, Oracle, S3Request

from .misfortunes import Misfortune, Street
from .tally import Invalidation, Promises, Tally

__all__ = ["Outcome", "Settings", "run"]

_TESTS: Final = Path(__file__).parent.parent
_START_WITHIN: Final = 60.0  # seconds
_STOP_WITHIN: Final = 30.0

#: Seconds within which all processes share again, or the run goes on without them.
_AGAIN_WITHIN: Final = 30.0

#: Seconds that a session lives, which is not what this is about.
_SESSION: Final = 43_200

#: Characters of a session's token, as STS makes them.
_TOKEN: Final = 900


@dataclass(frozen=True, slots=True)
class Settings:
    """How the fleet is made."""

    processes: int = 8
    seconds: float = 6.0  # that each misfortune lasts
    warm_up: float = 6.0  # seconds
    every: float = 0.1  # seconds from one page of a process to the next
    links: tuple[int, int] = (2, 8)  # of a page, to the few and to the many
    few: int = 24  # objects that are on many pages, and are taken back
    many: int = 3000  # objects, more than local tables hold, and than fit in 1 MB
    local_size: int = 200
    invalidate_every: float = 0.5  # seconds
    slack: float = 0.15  # seconds
    policy: dict[str, float] = field(default_factory=lambda: {"shared_patience": 0.05, "invalidation_lag": 1})
    #: A URL of the many is AGEING after 20 s, and SPENT after 40: most runs see all of it. One of the
    #: few is the same for all of the run, unless it is taken back.
    origins: dict[str, dict[str, float]] = field(
        default_factory=lambda: {
            "few": {"lifetime": 3600, "min_remaining": 300},
            "many": {"lifetime": 60, "min_remaining": 20, "ageing": 20},
        }
    )

    @property
    def promises(self) -> Promises:
        """What it is held against."""
        return Promises(self.policy["shared_patience"], self.policy["invalidation_lag"], self.slack)

    def targets(self, origin: str) -> list[str]:
        """Return the objects of *origin*."""
        return [f"s3://{origin}/ü {number}.jpg" for number in range(getattr(self, origin))]


class Judge:
    """Hears what pages were given, and counts."""

    def __init__(self, processes: int) -> None:
        self.tally: Tally | None = None
        self.calm_median = float("inf")
        self.all_share = asyncio.Event()
        self._processes = processes
        self._counted: dict[int, list[int]] = {}
        self._known: dict[tuple[int, str], tuple[float, int]] = {}  # by process and target: since, and epoch
        self._taken_back: dict[str, Invalidation] = {}  # the last time

    def hear_page(
        self,
        number: int,
        links: list[tuple[str, str, int]],
        began: float,
        seconds: float,
        late: float,
        counted: list[int],
    ) -> None:
        """Take note of a page of process *number*."""
        before = self._counted.get(number, [0] * 4)
        self._counted[number] = counted
        tally = self.tally
        if tally is None:
            return
        signed, shared, failures, _ = [now - then for now, then in zip(counted, before, strict=True)]
        tally.signed += signed
        tally.shared += shared
        tally.failures += failures
        tally.urls += len(links)
        tally.note_page(number, began, seconds, late, self.calm_median)
        if tally.ended and began >= tally.ended and shared > 0 and number not in tally.again:
            tally.again[number] = began + seconds - tally.ended
            if len(tally.again) == self._processes:
                self.all_share.set()
        for target, url, epoch in links:
            tally.handed[target, url] = began
            self._look(tally, (number, target), dated(url), epoch, began)

    def hear_taken_back(self, number: int, target: str, at: float, known: float) -> None:
        """Take note of an invalidation by process *number*, which by now has returned."""
        taken = self._taken_back[target] = Invalidation(target, at, known)
        if self.tally is not None:
            self.tally.invalidations.append(taken)
        self._know((number, target), int(at), known)

    def hear_error(self, error: str) -> None:
        """Take note of an exception in a process."""
        if self.tally is not None:
            self.tally.errors[error] += 1

    def _look(self, tally: Tally, whose: tuple[int, str], date: int, epoch: int, began: float) -> None:
        self._know(whose, epoch, began)
        since, known = self._known[whose]
        is_lost = date < known and began >= since
        taken = self._taken_back.get(whose[1])
        if taken is not None and date < int(taken.at):
            taken.last_old = max(taken.last_old, began)
            is_lost = is_lost or taken.known < tally.began  # by now everybody has had the time to hear of it
        tally.lost += is_lost

    def _know(self, whose: tuple[int, str], epoch: int, since: float) -> None:
        # What was known once is known for ever, whatever the process says later.
        if epoch > self._known.get(whose, (0.0, -1))[1]:
            self._known[whose] = (since, epoch)


class Member:
    """A process of the fleet."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, judge: Judge) -> None:
        self._number = number
        self._process = process
        self._judge = judge
        self._hearing: asyncio.Task[None] | None = None

    @property
    def descriptors(self) -> int:
        """How many it has open; 0 where /proc does not tell."""
        directory = Path(f"/proc/{self._process.pid}/fd")
        return len(list(directory.iterdir())) if directory.exists() else 0

    def start(self, told: dict[str, Any]) -> None:
        """Tell it what to be."""
        self._say(json.dumps(told))
        self._hearing = asyncio.create_task(self._hear())

    def take_back(self, target: str) -> None:
        """Have it take *target* back."""
        self._say(target)

    async def stop(self) -> None:
        """Have it end, and wait until it has. Raises RuntimeError: it had ended before, or badly."""
        assert self._process.stdin is not None
        assert self._hearing is not None
        self._process.stdin.close()
        async with asyncio.timeout(_STOP_WITHIN):
            await self._hearing
            if await self._process.wait():
                raise RuntimeError(f"a process ended with status {self._process.returncode}")

    async def kill(self) -> None:
        """Have it gone."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def _hear(self) -> None:
        assert self._process.stdout is not None
        said: dict[str, Any] = {}
        async for line in self._process.stdout:
            said = json.loads(line)
            if "page" in said:
                self._judge.hear_page(self._number, *said["page"])
            elif "taken_back" in said:
                self._judge.hear_taken_back(self._number, *said["taken_back"])
            elif "error" in said:
                self._judge.hear_error(said["error"])
        if "ended" not in said:
            self._judge.hear_error(f"process {self._number} died")


@dataclass(slots=True)
class Outcome:
    """What the run has found; the first tally is of the calm phase."""

    tallies: list[Tally]
    evictions: int

    @property
    def calm(self) -> Tally:
        """The phase that others are compared with."""
        return self.tallies[0]

    @property
    def broken(self) -> list[str]:
        """What is not as promised, in words."""
        found = [(tally, said) for tally in self.tallies for said in tally.broken(self.calm)]
        found += [(t, "nothing was evicted") for t in self.tallies if t.misfortune.evicts > self.evictions]
        return [f"{tally.misfortune.name}: {said}" for tally, said in found]


Progress = Callable[[str], object]  # told what is next


async def run(
    misfortunes: Sequence[Misfortune], settings: Settings, progress: Progress = lambda text: None
) -> Outcome:
    """Have *misfortunes* befall the servers one after another, and judge what was handed out."""
    judge = Judge(settings.processes)
    keys = [_keys(number) for number in range(settings.processes)]
    async with AsyncExitStack() as stack:
        progress("starting")
        members = [await _spawned(stack, number, judge) for number in range(settings.processes)]
        street = Street(stack.enter_context(ExitStack()))
        for number, member in enumerate(members):
            member.start(_told(settings, street, number, keys[number]))
        progress("warming up")
        await _wait_until_all_share(judge, settings)
        tallies = []
        player = _Player(settings, street, members, judge)
        for misfortune in (Misfortune("calm", is_felt=False), *misfortunes):
            progress(misfortune.name)
            tallies.append(await player.play(misfortune))
            if len(tallies) == 1:
                judge.calm_median = median(tallies[0].pages)
        evictions = street.evictions
        judge.tally = None
        await asyncio.gather(*[member.stop() for member in members])
    progress("judging")
    _judge_urls(tallies, settings, keys)
    return Outcome(tallies, evictions)


class _Player:
    """Has misfortunes happen, and things taken back meanwhile."""

    def __init__(self, settings: Settings, street: Street, members: Sequence[Member], judge: Judge) -> None:
        self._settings = settings
        self._street = street
        self._members = members
        self._judge = judge
        self._next = self._endless()

    async def play(self, misfortune: Misfortune) -> Tally:
        """Return what happened."""
        settings, judge = self._settings, self._judge
        tally = Tally(misfortune, settings.promises, settings.processes)
        before = self._descriptors()
        judge.all_share.clear()
        judge.tally = tally
        tally.began = time.time()
        await self._while_it_lasts(tally)
        await asyncio.to_thread(misfortune.end, self._street)
        tally.ended = time.time()
        try:
            async with asyncio.timeout(_AGAIN_WITHIN):
                await judge.all_share.wait()
        except TimeoutError:
            pass
        await asyncio.sleep(2 * settings.promises.lag + 1)
        tally.descriptors = (before, self._descriptors())
        return tally

    async def _while_it_lasts(self, tally: Tally) -> None:
        misfortune, over = tally.misfortune, time.monotonic() + self._settings.seconds
        again_at = 0.0
        while (now := time.monotonic()) < over:
            if now >= again_at:
                await asyncio.to_thread(misfortune.begin, self._street)
                tally.times += 1
                again_at = now + misfortune.again if misfortune.again else over
            member, target = next(self._next)
            member.take_back(target)
            await asyncio.sleep(self._settings.invalidate_every)

    def _endless(self) -> Iterator[tuple[Member, str]]:
        number = 0
        while True:
            targets = self._settings.targets("few")
            yield self._members[number % len(self._members)], targets[number % len(targets)]
            number += 1

    def _descriptors(self) -> int:
        return sum([member.descriptors for member in self._members])


async def _wait_until_all_share(judge: Judge, settings: Settings) -> None:
    judge.tally = Tally(Misfortune("warming up"), settings.promises, settings.processes)
    judge.tally.ended = time.time()
    async with asyncio.timeout(_START_WITHIN):
        await judge.all_share.wait()
    await asyncio.sleep(settings.warm_up)
    if judge.tally.errors:
        raise RuntimeError(f"errors at the start: {dict(judge.tally.errors)}")


async def _spawned(stack: AsyncExitStack, number: int, judge: Judge) -> Member:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "outage.member"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=_TESTS,
        limit=2**22,  # bytes of a line
    )
    member = Member(number, process, judge)
    stack.push_async_callback(member.kill)
    return member


def _keys(number: int) -> dict[str, str]:
    end = datetime.fromtimestamp(int(time.time()) + _SESSION, UTC)
    name = f"ASIAOUTAGE{number:02}"
    return {"access_key": name, "token": name + "t" * (_TOKEN - len(name)), "end": end.isoformat()}


def _told(settings: Settings, street: Street, number: int, keys: dict[str, str]) -> dict[str, Any]:
    return {
        "number": number,
        "keys": keys,
        "shared": street.url,
        "region": REGION,
        "origins": settings.origins,
        "policy": settings.policy,
        "local_size": settings.local_size,
        "links": settings.links,
        "every": settings.every,
        "look_every": 0.5,
        "few": settings.targets("few"),
        "many": settings.targets("many"),
    }


def _judge_urls(tallies: Sequence[Tally], settings: Settings, keys: Sequence[dict[str, str]]) -> None:
    """Fetch every URL as late as it must still work: so long after it was handed out for the last time."""
    clock = Clock()
    oracle = Oracle(clock=clock)
    for own in keys:
        ends = datetime.fromisoformat(own["end"]).timestamp()
        oracle.add_key(own["access_key"], SECRET, token=own["token"], ends=ends)
    for origin in settings.origins:
        oracle.create_bucket(origin, region=REGION)
        for target in settings.targets(origin):
            oracle.put(origin, target.removeprefix(f"s3://{origin}/"), target.encode())

    def fetches(url: str, target: str, at: float) -> bool:
        clock.step(at - clock.time())
        parts = urlsplit(url)
        answer = oracle.answer(S3Request("GET", parts.path, parts.query, headers=(("host", parts.netloc),)))
        return answer.status == 200 and answer.body == target.encode()

    for tally in tallies:
        for (target, url), at in tally.handed.items():
            origin = target.removeprefix("s3://").partition("/")[0]
            if fetches(url, target, at + settings.origins[origin]["min_remaining"]):
                continue
            if fetches(url, target, at):
                tally.spent += 1
            else:
                tally.wrong += 1
            tally.refused.append(target)
        oracle.forget_requests()
