"""
A day of requests in simulated time, the most of them for a few objects: how many need a signature.

Requests are of one object each, drawn by Zipf's law with exponent 1 and spread evenly over the
day, so that nothing is asked for twice in one of them. Each has a scope, as under the middleware,
and its renewals. The bound is what any cache could answer that has one URL for an object and
window: each pair that is asked for needs one signature. Renewals count as signatures too.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from itertools import accumulate
from zlib import crc32

from presign_middleware import Origin, Policy, Presigner
from presign_middleware.testing import Clock

from .sheets import Row, Sheet
from .workload import BUCKET, LIFETIME, REGION, session

__all__ = ["BOUND", "OF_BOUND", "OURS", "SAVED", "TITLE", "UNSIGNED", "measure", "steps"]

TITLE = "Zipf: a day of requests, share that needs no signature, %"
OURS, BOUND = "url()", "any cache, same windows"
SAVED, UNSIGNED, OF_BOUND = "no boto3", "unsigned", "of bound"

_OBJECTS = 100_000
_REQUESTS, _QUICK_REQUESTS = 10_000_000, 50_000
_HOURS = 24
_STEP = 60  # seconds: the clock's step
_STEPS = _HOURS * 3_600 // _STEP


def steps(is_quick: bool) -> int:
    """Return how often `measure` will advance."""
    return _STEPS


def measure(is_quick: bool, advance: Callable[[], object]) -> list[Sheet]:
    """Run the day through, once: the same requests every time."""
    requests = _QUICK_REQUESTS if is_quick else _REQUESTS
    clock, policy = Clock(), Policy(lifetime=LIFETIME)
    origin = Origin("media", bucket=BUCKET, region=REGION, session=session())
    presigner = Presigner(origin, policy=policy, clock=clock)
    keys = [f"public/{number:06}.jpg" for number in range(_OBJECTS)]
    random.Random(0).shuffle(keys)  # no order of names is one of popularity
    targets = [f"s3://{BUCKET}/{key}" for key in keys]
    period = policy.rotation(LIFETIME).period
    phases = [crc32(key.encode()) % period for key in keys]  # as the library has them: by the key
    weights = list(accumulate(1 / rank for rank in range(1, _OBJECTS + 1)))
    draw, numbers = random.Random(1).choices, range(_OBJECTS)
    windows: set[tuple[int, int]] = set()
    done = 0
    with asyncio.Runner() as runner:
        runner.run(presigner.make_ready())
        for step in range(_STEPS):
            wanted = requests * (step + 1) // _STEPS - done
            asked = draw(numbers, cum_weights=weights, k=wanted)
            now = int(clock.time())
            windows.update([(number, (now - phases[number]) // period) for number in asked])
            runner.run(_serve(presigner, [targets[number] for number in asked]))
            clock.advance(_STEP)
            done += wanted
            advance()
    stats = presigner.stats()
    if stats["resolved"] != requests:
        raise AssertionError(f"{stats['resolved']} URLs were handed out where {requests} were asked for")
    asked_of_boto3 = stats["signed_by_boto3"] + stats["plans_proven"] + stats["plans_refused"]
    saved, unsigned = 1 - asked_of_boto3 / requests, 1 - stats["signed"] / requests
    bound = 1 - len(windows) / requests
    rows = (
        Row(OURS, _percent({SAVED: saved, UNSIGNED: unsigned, OF_BOUND: unsigned / bound}), is_ours=True),
        Row(BOUND, _percent({SAVED: bound, UNSIGNED: bound, OF_BOUND: 1}), is_floor=True),
    )
    note = (
        f"{requests:,} requests in {_HOURS} hours, {_OBJECTS:,} objects, exponent 1, "
        f"URLs of {LIFETIME:,} s that turn over every {period:,} s."
    )
    headings = (UNSIGNED, SAVED, OF_BOUND)
    return [Sheet(TITLE, headings, rows, note, more_is_better=True, digits=4)]


async def _serve(presigner: Presigner, targets: Iterable[str]) -> None:
    """Serve a request for each of *targets*, and renew what they found AGEING."""
    renewals = presigner.renewals
    for target in targets:
        with presigner.scope() as scope:
            presigner.url(target)
            due = renewals.due(scope)
        if due:
            renewals.begin(due, _sent)
    await renewals.drain(1)


async def _sent() -> bool:
    """Return at once, since nothing is sent."""
    return True


def _percent(shares: dict[str, float]) -> dict[str, list[float]]:
    return {heading: [100 * share] for heading, share in shares.items()}
