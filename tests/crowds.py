"""
Crowds: many who ask at once, each in a thread or in a task of its own.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from presign_middleware import Presigner

Outcome = str | BaseException
Crowd = Callable[[Presigner, Sequence[str], Callable[[], None]], list[Outcome]]


def in_threads(presigner: Presigner, targets: Sequence[str], meanwhile: Callable[[], None]) -> list[Outcome]:
    """Ask for each of *targets* in a thread of its own, do *meanwhile*, and return what each was told."""
    with ThreadPoolExecutor(len(targets)) as pool:
        futures = [pool.submit(presigner.url, target) for target in targets]
        meanwhile()
        return [future.exception() or future.result() for future in futures]


def in_tasks(presigner: Presigner, targets: Sequence[str], meanwhile: Callable[[], None]) -> list[Outcome]:
    """Ask for each of *targets* in a task of its own, do *meanwhile*, and return what each was told."""

    async def ask() -> list[Outcome]:
        tasks = [asyncio.ensure_future(presigner.aurl(target)) for target in targets]
        await asyncio.to_thread(meanwhile)
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(ask())


both_ways = pytest.mark.parametrize("crowd", [in_threads, in_tasks])
