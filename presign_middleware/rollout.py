"""
How many of the requests use the cache, while it is being rolled out, and what the others get.

A request is wholly in one of two *arms*. In the cache's it gets what `runner` finds. In boto3's
each URL is signed by boto3 for that one call: nothing is kept, shared, renewed or healed. So the
two can be compared in production, and what each has cost is counted.

The share may change at any time, as the program says, or a file that is read again every few
seconds. 0 and 1 hold at once, also for requests under way: 0 is the switch that takes the cache
out of use. In between a request stays in the arm that it has begun in.
"""

import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from math import inf
from random import Random
from threading import Lock
from time import perf_counter_ns
from typing import Any

from .errors import ConfigurationError, SigningError
from .events import tell
from .local import Entry
from .metrics import Counts
from .objects import S3Object
from .resolver import Clock, Note
from .runner import Runner
from .scope import Scope
from .signing import Signing

__all__ = ["Arms", "Rollout"]

logger = logging.getLogger("presign_middleware.rollout")

#: Seconds after which the file is read again.
_EVERY = 2.0

#: Bytes of the file that are read: a number has no more.
_MOST_BYTES = 64


class Rollout:
    """The share of requests that use the cache: what was said last, by the program or by a file."""

    def __init__(self, said: "float | os.PathLike[str]") -> None:
        self._path = os.fspath(said) if isinstance(said, os.PathLike) else None
        self._text = b""  # of the file, when it could be read last
        self._is_lost = False  # it was told that it cannot be read
        #: When the file is to be read again, monotonic seconds; inf: there is none.
        self.due = inf
        if self._path is None:
            self.share = _checked(said)
            return
        self.due = -inf
        try:
            self._text = _read(self._path)
            self.share = _parsed(self._text)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"rollout must be a share from 0 to 1, or a file that holds one; {self._path}: {_said(error)}"
            ) from None

    def set(self, share: object) -> None:
        """Have *share* of the requests use it, until someone says otherwise. Raises ConfigurationError."""
        self._change(_checked(share))

    def look(self, monotonic: float) -> None:
        """Read the file if that is due. What cannot be read changes nothing, and is told once."""
        if monotonic < self.due or self._path is None:
            return
        self.due = monotonic + _EVERY  # first, so that other threads go on
        try:
            text = _read(self._path)
            if text != self._text:
                share, self._text = _parsed(text), text
                self._change(share)
            self._is_lost = False
        except (OSError, ValueError) as error:
            if not self._is_lost:
                self._is_lost = True
                tell(
                    logger,
                    logging.WARNING,
                    "rollout_unreadable",
                    "the rollout stays at %g, since its file cannot be read: %s: %s",
                    self.share,
                    self._path,
                    _said(error),
                    share=self.share,
                )

    def _change(self, share: float) -> None:
        if share == self.share:
            return
        before, self.share = self.share, share
        tell(
            logger,
            logging.WARNING,  # it is rare, and whoever has thrown the switch wants to see it
            "rollout_changed",
            "the cache is used by %g of the requests from now on; before, by %g",
            share,
            before,
            share=share,
        )


class Arms:
    """
    Finds URLs in the arm of whoever asks. ``quick`` and the like are `Runner`'s where there is but one arm.
    """

    quick: Callable[[S3Object, str | None, Scope | None], Entry | None]
    wait_for: Callable[[S3Object, str | None, Scope | None], Entry]
    await_for: Callable[[S3Object, str | None, Scope | None], Coroutine[Any, Any, Entry]]
    find_all: Callable[[Sequence[S3Object], Sequence[str | None], Scope | None], list[Entry]]
    afind_all: Callable[
        [Sequence[S3Object], Sequence[str | None], Scope | None], Coroutine[Any, Any, list[Entry]]
    ]

    def __init__(
        self,
        rollout: Rollout,
        runner: Runner,
        signing: Signing,
        counts: Counts,
        clock: Clock,
        note: Note,
        held: Callable[[str], Entry | None],  # what this process has of a target's text
        rely: Callable[[Callable[[str], Entry | None]], None],  # has such texts looked up so from now on
    ) -> None:
        self._rollout = rollout
        self._runner = runner
        self._signing = signing
        self._counts = counts
        self._time = clock.time
        self._monotonic = clock.monotonic
        self._note = note
        self._held = held
        self._rely = rely
        # Of its own, and made in each process: a seed that an application sets, or a fork, is not to
        # have requests fall into one arm alike.
        self._chance = Random()
        self._choosing = Lock()
        self.choose()

    def choose(self) -> None:
        """Have URLs found as the share wants it: where it is 1, as if there were no rollout."""
        runner, rollout = self._runner, self._rollout
        with self._choosing:  # the share that was said last decides, whoever comes here last
            is_whole, is_told = rollout.share == 1, rollout.due != inf
            if is_whole and not is_told:
                self.quick, self.wait_for, self.await_for = runner.quick, runner.wait_for, runner.await_for
                self.find_all, self.afind_all = runner.find_all, runner.afind_all
            else:
                self.quick, self.wait_for, self.await_for = _undecided, self._find, self._afind
                self.find_all, self.afind_all = self._find_all, self._afind_all
            self._rely(_nothing if not is_whole else self._looked if is_told else self._held)

    def is_by_boto3(self, scope: Scope | None) -> bool:
        """Return whether boto3 signs for *scope*; None: for this call, which is made outside of any."""
        self._look()
        share = self._rollout.share
        if share in (0, 1):
            return share == 0
        return self._draw() if scope is None else scope.arm(self._draw)

    def explain(self, scope: Scope | None, tier: str) -> str:
        """Return who answers where the cache's arm has *tier*. Decides nothing that is not yet decided."""
        share = self._rollout.share
        drawn = None if scope is None else scope.is_by_boto3
        if share == 0 or (share < 1 and drawn):
            return f"boto3: this is the other arm of rollout={share:g}"
        return (
            tier if share == 1 or drawn is False else f"{tier}, or boto3. The arm is open, rollout={share:g}"
        )

    def _draw(self) -> bool:
        return self._chance.random() >= self._rollout.share

    def _look(self) -> None:
        before = self._rollout.share
        self._rollout.look(self._monotonic())
        if self._rollout.share != before:
            self.choose()

    def _looked(self, alias: str) -> Entry | None:
        """Return what is held under *alias*, after a look at the file."""
        if self._monotonic() >= self._rollout.due:
            self._look()
            if self._rollout.share != 1:
                return None
        return self._held(alias)

    def _find(self, obj: S3Object, alias: str | None, scope: Scope | None) -> Entry:
        return self._find_all([obj], [alias], scope)[0]

    async def _afind(self, obj: S3Object, alias: str | None, scope: Scope | None) -> Entry:
        return (await self._afind_all([obj], [alias], scope))[0]

    def _find_all(
        self, objects: Sequence[S3Object], aliases: Sequence[str | None], scope: Scope | None
    ) -> list[Entry]:
        is_by_boto3, since = self.is_by_boto3(scope), perf_counter_ns()
        if is_by_boto3:
            entries = self._signed(objects, scope)
        else:
            entries = self._runner.find_all(objects, aliases, scope)
        self._count(len(entries), perf_counter_ns() - since, is_by_boto3=is_by_boto3)
        return entries

    async def _afind_all(
        self, objects: Sequence[S3Object], aliases: Sequence[str | None], scope: Scope | None
    ) -> list[Entry]:
        is_by_boto3, since = self.is_by_boto3(scope), perf_counter_ns()
        if not is_by_boto3:
            entries = await self._runner.afind_all(objects, aliases, scope)
        elif objects:
            entries = await self._runner.in_thread(objects[0], self._signed, objects, scope)
        else:
            entries = []
        self._count(len(entries), perf_counter_ns() - since, is_by_boto3=is_by_boto3)
        return entries

    def _signed(self, objects: Sequence[S3Object], scope: Scope | None) -> list[Entry]:
        """Return what boto3 makes of each of *objects*. May block; raises the first SigningError."""
        entries = []
        for obj in objects:
            answer = self._signing.sign_by_boto3(obj, self._time(), self._monotonic())
            if isinstance(answer, SigningError):
                self._counts.of(obj.origin).failed += 1
                self._note(answer, obj)
                raise answer
            self._counts.of(obj.origin).from_signer += 1
            if scope is not None and scope.account is not None:
                scope.account.from_signer += 1
            entries.append(answer)
        return entries

    def _count(self, urls: int, nanoseconds: int, *, is_by_boto3: bool) -> None:
        if self._rollout.share == 1:
            return  # most URLs do not come this way, see `choose`
        if is_by_boto3:
            self._counts.resolved_by_boto3 += urls
            self._counts.nanoseconds_by_boto3 += nanoseconds
        else:
            self._counts.resolved_by_cache += urls
            self._counts.nanoseconds_by_cache += nanoseconds


def _nothing(alias: str) -> Entry | None:
    """Return nothing of any text: first it is decided in which arm it is asked for."""
    return None


def _undecided(obj: S3Object, alias: str | None, scope: Scope | None) -> Entry | None:
    """Return no URL at once, for the same reason."""
    return None


def _checked(share: object) -> float:
    if isinstance(share, (int, float)) and not isinstance(share, bool) and 0 <= share <= 1:
        return float(share)
    raise ConfigurationError(
        "rollout must be the share of requests that use the cache, a number from 0 to 1, or the path of a "
        f"file that holds one, got {share!r}"
    )


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(_MOST_BYTES).strip()


def _parsed(text: bytes) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise ValueError
    return share


def _said(error: OSError | ValueError) -> str:
    """Return what is wrong with a file; nothing of what is in it, which may be the wrong one."""
    return str(error.strerror) if isinstance(error, OSError) else "it holds no number from 0 to 1"
