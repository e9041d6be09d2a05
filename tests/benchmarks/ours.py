"""
What `Presigner` does: the same runs, once with every URL held and once with none.

Held URLs are asked for by the very same strings each time, which is the hardest
comparison: a dict finds those fastest. What is cold has a presigner of its own each
round, whose plan is learned before the clock starts. What is shared was put into
memcached by a presigner that is closed by then; before each pass the one that is timed
forgets what it has taken from there.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from time import monotonic, perf_counter
from typing import Any

from presign_middleware import Origin, Policy, Presigner
from presign_middleware.addresses import Addresses
from presign_middleware.metrics import Counts
from presign_middleware.servers import Servers
from presign_middleware.testing import Memcached

from .rounds import Contender, each, whole
from .workload import (
    BUCKET,
    LIFETIME,
    PAGE,
    PASSES,
    REGION,
    SHARED_PASSES,
    TARGETS,
    VALUE,
    session,
    temporary_session,
)

__all__ = ["PATIENCE", "Fleet", "Ours", "gets_many"]

#: Seconds for memcached. A machine that is busy elsewhere must not make a signature of what is shared.
PATIENCE = 5.0

_SECRET = "a-secret-of-the-benchmarks-alone"

#: Targets of one request each.
Pages = Sequence[Sequence[str]]

#: Ask a presigner for every target, so many times over; return the seconds for one URL.
Run = Callable[[Presigner, int], float]
AsyncRun = Callable[[Presigner, int], Coroutine[Any, Any, float]]


class Ours:
    """The contenders of this library; those of asyncio run on *runner*'s loop."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._session = session()
        self._singles: dict[str, Run] = {
            "url()": lambda presigner, passes: each(presigner.url, TARGETS, passes),
            "url(), in a scope": _urls_in_scopes,
            "await aurl()": _awaited(runner, _await_each),
        }
        self._pages: dict[str, Run] = {
            "urls()": lambda presigner, passes: whole(presigner.urls, TARGETS, passes),
            "urls(), in a scope": _pages_in_scopes,
            "await aurls()": _awaited(runner, _await_pages),
            "await aurls(), in a scope": _awaited(runner, _await_pages_in_scopes),
        }

    def url(self, target: str) -> str:
        """Return a URL of *target*."""
        return self._presigner().url(target)

    def ready(self) -> Presigner:
        """Return a presigner that has learned its plan and holds none of the URLs."""
        presigner = self._presigner()
        presigner.url(f"s3://{BUCKET}/learn-the-plan")
        return presigner

    def finds_each(self) -> tuple[Contender, ...]:
        """Find every URL with a call of its own; a scope lasts for 200, or for all of them."""
        return self._held({**self._singles, "url(), again in a scope": _urls_again_in_a_scope})

    def finds_pages(self) -> tuple[Contender, ...]:
        """Find 200 URLs with one call; a scope is as long as a page."""
        return self._held(self._pages)

    def signs_each(self) -> tuple[Contender, ...]:
        """Sign every URL with a call of its own."""
        return self._cold(self._singles)

    def signs_pages(self) -> tuple[Contender, ...]:
        """Sign 200 URLs with one call."""
        return self._cold(self._pages)

    def finds_these(self, pages: Pages) -> tuple[Contender, ...]:
        """Find the URLs of each of *pages* with one call, in a scope of its own as a request has it."""
        return self._held(self._pages_of(pages), pages)

    def signs_these(self, pages: Pages) -> tuple[Contender, ...]:
        """Sign the URLs of each of *pages* with one call, in a scope of its own as a request has it."""
        return self._cold(self._pages_of(pages), pages)

    def _pages_of(self, pages: Pages) -> dict[str, Run]:
        return {
            "urls(), in a scope": lambda presigner, passes: _pages_in_scopes(presigner, passes, pages),
            "await aurls(), in a scope": _awaited(
                self._runner, lambda presigner, passes: _await_pages_in_scopes(presigner, passes, pages)
            ),
        }

    def _held(self, runs: Mapping[str, Run], pages: Pages = (TARGETS,)) -> tuple[Contender, ...]:
        presigner = self._presigner()
        for page in pages:
            presigner.urls(page)

        def contender(name: str, run: Run) -> Contender:
            # A URL or two may turn over meanwhile; more, and something else is timed.
            return Contender(
                name, lambda: lambda: _checked(presigner, run, PASSES, signed=range(10)), is_ours=True
            )

        return tuple(contender(name, run) for name, run in runs.items())

    def _cold(self, runs: Mapping[str, Run], pages: Pages = (TARGETS,)) -> tuple[Contender, ...]:
        urls = sum(map(len, pages))

        def contender(name: str, run: Run) -> Contender:
            def prepare() -> Callable[[], float]:
                presigner = self.ready()
                all_of_them = range(urls, urls + 1)
                return lambda: _checked(presigner, run, 1, signed=all_of_them)

            return Contender(name, prepare, is_ours=True)

        return tuple(contender(name, run) for name, run in runs.items())

    def _presigner(self) -> Presigner:
        origin = Origin("media", bucket=BUCKET, region=REGION, session=self._session)
        return Presigner(origin, policy=Policy(lifetime=LIFETIME))


class Fleet:
    """The contenders that find everything in memcached at *url*, put there by others with the like keys."""

    def __init__(self, runner: asyncio.Runner, url: str, ending: ExitStack) -> None:
        self._runner = runner
        self._url = url
        self._ending = ending
        self._static = self._member(session(), session())
        self._sealed = self._member(session(), session(), namespace="sealed", secret=_SECRET)
        self._temporary = self._member(temporary_session(1), temporary_session(2))
        self.keys = _cache_keys(self._static)  #: of memcached, for all targets
        self.temporary_keys = _cache_keys(self._temporary)  #: the same, where sessions have signed

    @property
    def member(self) -> Presigner:
        """The presigner with static keys."""
        return self._static

    def forget(self) -> None:
        """Have it hold no URL: all of them are in memcached."""
        _forget(self._static)

    def url(self, target: str) -> str:
        """Return a URL of *target*."""
        return self._static.url(target)

    def finds_each(self) -> tuple[Contender, ...]:
        """
        Find every URL with a call of its own.

        A signature by keys that this process has is checked; one by another's session cannot be.
        """

        def run(presigner: Presigner, passes: int) -> float:
            return each(presigner.url, TARGETS, passes)

        return (
            _shared("url()", self._static, run, len(TARGETS)),
            _shared("url(), sealed", self._sealed, run, len(TARGETS)),
            _shared("url(), others' sessions", self._temporary, run, len(TARGETS)),
            _shared("await aurl()", self._static, _awaited(self._runner, _await_each), len(TARGETS)),
        )

    def finds_pages(self) -> tuple[Contender, ...]:
        """Find 100 URLs at once, on an event loop; in a scope as a request has it, and without."""
        runs = {
            "await aurls()": _await_page,
            "gather of aurl()": _gather_page,
            "aurls(), in a scope": _await_page_in_scope,
            "gather, in a scope": _gather_page_in_scope,
        }
        return tuple(
            _shared(name, self._static, _awaited(self._runner, run), len(PAGE)) for name, run in runs.items()
        )

    def _member(self, theirs: Any, own: Any, **options: str) -> Presigner:
        """Return a presigner with *own* keys, ready, when one with *theirs* has shared all URLs."""
        other = self._presigner(theirs, **options)
        other.warm(TARGETS)
        other.close()  # which ends when all is written
        presigner = self._presigner(own, **options)
        self._runner.run(presigner.make_ready())
        self._ending.callback(presigner.close)
        if presigner.urls(TARGETS) != other.urls(TARGETS) or presigner.stats()["from_signer"]:
            raise AssertionError("a process does not serve what another has shared")
        return presigner

    def _presigner(self, credentials: Any, namespace: str = "", secret: str | None = None) -> Presigner:
        origin = Origin("media", bucket=BUCKET, region=REGION, session=credentials)
        policy = Policy(lifetime=LIFETIME, shared_patience=PATIENCE)
        return Presigner(origin, shared=self._url, policy=policy, namespace=namespace, secret=secret)


def gets_many(servers: Sequence[Memcached], keys: Sequence[str], ending: ExitStack) -> Contender:
    """Get the values of *keys*, which are put where they belong, with one call, of which no URL is made."""
    setting = f"memcached://{','.join(server.address for server in servers)}"
    ours = Servers(Addresses.parse(setting), Counts())
    ending.callback(ours.close)

    def write(client: Any, own: Mapping[str, bytes]) -> list[str]:
        client.set_many(own, 3600, noreply=True)
        return list(own)

    def read(keys: Sequence[str]) -> None:
        if len(ours.read(keys, monotonic() + PATIENCE)) != len(keys):
            raise AssertionError("not all values are there")

    ours.write(dict.fromkeys(keys, VALUE), write, monotonic() + PATIENCE)
    read(keys)
    return Contender("read()", lambda: lambda: whole(read, keys, SHARED_PASSES), is_ours=True)


def _shared(name: str, presigner: Presigner, run: Run, urls: int) -> Contender:
    """Return the contender whose *run* makes *urls* of what memcached has."""

    def timed() -> float:
        return sum([_fetched(presigner, run, urls) for _ in range(SHARED_PASSES)]) / SHARED_PASSES

    return Contender(name, lambda: timed, is_ours=True)


def _fetched(presigner: Presigner, run: Run, urls: int) -> float:
    """Return what *run* took with nothing held here, if memcached gave all of its *urls*."""
    _forget(presigner)
    before = presigner.stats()
    took = run(presigner, 1)
    after = presigner.stats()
    found = after["from_shared"] - before["from_shared"]
    if found != urls or after["signed"] != before["signed"]:
        raise AssertionError(f"{found} URLs came from memcached where {urls} were expected")
    return took


def _forget(presigner: Presigner) -> None:
    presigner._table._entries.clear()
    presigner._table._queue.clear()
    presigner._table._aliases.clear()


def _cache_keys(presigner: Presigner) -> list[str]:
    """Return under what memcached has the URLs of *presigner*."""
    keys = []
    for target in TARGETS:
        obj = presigner._targets.named(target)
        shelf = presigner._signing.shelf(obj)
        assert shelf is not None  # it has served what is shared
        keys.append(obj.cache_key("", *shelf))
    return keys


def _checked(presigner: Presigner, run: Run, passes: int, *, signed: range) -> float:
    """Return what *run* took, if it made as many signatures as it was to make, and by plan."""
    before = presigner.stats()
    took = run(presigner, passes)
    after = presigner.stats()
    made = after["signed"] - before["signed"]
    if made not in signed or after["signed_by_boto3"]:
        raise AssertionError(f"{made} URLs were signed where {signed} were expected, not all by plan")
    return took


def _awaited(runner: asyncio.Runner, run: AsyncRun) -> Run:
    return lambda presigner, passes: runner.run(run(presigner, passes))


def _urls_in_scopes(presigner: Presigner, passes: int) -> float:
    start = perf_counter()
    for _ in range(passes):
        with presigner.scope():
            for target in TARGETS:
                presigner.url(target)
    return (perf_counter() - start) / (passes * len(TARGETS))


def _urls_again_in_a_scope(presigner: Presigner, passes: int) -> float:
    with presigner.scope():
        presigner.urls(TARGETS)
        return each(presigner.url, TARGETS, passes)


def _pages_in_scopes(presigner: Presigner, passes: int, pages: Pages = (TARGETS,)) -> float:
    start = perf_counter()
    for _ in range(passes):
        for page in pages:
            with presigner.scope():
                presigner.urls(page)
    return (perf_counter() - start) / (passes * sum(map(len, pages)))


async def _await_each(presigner: Presigner, passes: int) -> float:
    start = perf_counter()
    for _ in range(passes):
        for target in TARGETS:
            await presigner.aurl(target)
    return (perf_counter() - start) / (passes * len(TARGETS))


async def _await_pages(presigner: Presigner, passes: int) -> float:
    start = perf_counter()
    for _ in range(passes):
        await presigner.aurls(TARGETS)
    return (perf_counter() - start) / (passes * len(TARGETS))


async def _await_pages_in_scopes(presigner: Presigner, passes: int, pages: Pages = (TARGETS,)) -> float:
    start = perf_counter()
    for _ in range(passes):
        for page in pages:
            async with presigner.scope():
                await presigner.aurls(page)
    return (perf_counter() - start) / (passes * sum(map(len, pages)))


async def _await_page(presigner: Presigner, passes: int) -> float:
    start = perf_counter()
    for _ in range(passes):
        await presigner.aurls(PAGE)
    return (perf_counter() - start) / (passes * len(PAGE))


async def _gather_page(presigner: Presigner, passes: int) -> float:
    start = perf_counter()
    for _ in range(passes):
        await asyncio.gather(*[presigner.aurl(target) for target in PAGE])
    return (perf_counter() - start) / (passes * len(PAGE))


async def _await_page_in_scope(presigner: Presigner, passes: int) -> float:
    start = perf_counter()
    for _ in range(passes):
        async with presigner.scope():
            await presigner.aurls(PAGE)
    return (perf_counter() - start) / (passes * len(PAGE))


async def _gather_page_in_scope(presigner: Presigner, passes: int) -> float:
    start = perf_counter()
    for _ in range(passes):
        async with presigner.scope():
            await asyncio.gather(*[presigner.aurl(target) for target in PAGE])
    return (perf_counter() - start) / (passes * len(PAGE))
