"""
What one request was given: for its response to tell.

Only a request that is to tell anything has an account; see `Scope.tell`.
"""

from __future__ import annotations

from math import floor, inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .local import Entry

__all__ = ["Account"]


class Account:
    """
    The URLs of one request: where they came from, and when the first that was handed out is SPENT.

    A URL that a hook signs for a caught fetch is counted, but not handed out: no client gets it.
    Counts as `metrics.Counts` does, and as safely between threads.
    """

    __slots__ = (
        "_since",
        "_until",
        "_until_monotonic",
        "_waiting",
        "from_flight",
        "from_local",
        "from_scope",
        "from_shared",
        "from_signer",
        "waited",
    )

    def __init__(self) -> None:
        self.from_scope = self.from_local = self.from_flight = self.from_shared = self.from_signer = 0
        self.waited = 0.0  #: seconds in which it waited for one URL or several
        self._waiting, self._since = 0, 0.0
        self._until = self._until_monotonic = inf

    def hand_out(self, entry: Entry) -> None:
        """Note that the application was given the URL of *entry*."""
        until, until_monotonic = entry.ageing_until, entry.ageing_until_monotonic
        if until < self._until:
            self._until = until
        if until_monotonic < self._until_monotonic:
            self._until_monotonic = until_monotonic

    @property
    def is_empty(self) -> bool:
        """Whether the request was given nothing so far."""
        counts = (
            self.from_scope or self.from_local or self.from_flight or self.from_shared or self.from_signer
        )
        return not counts and self._until == inf

    def left(self, wall: float, monotonic: float) -> int | None:
        """Return how many whole seconds all URLs that were handed out can be served; None: there are none."""
        if self._until == inf:
            return None
        return max(0, floor(min(self._until - wall, self._until_monotonic - monotonic)))

    def wait(self, monotonic: float) -> None:
        """Note that a wait begins; of several at once the time counts once."""
        if not self._waiting:
            self._since = monotonic
        self._waiting += 1

    def go_on(self, monotonic: float) -> None:
        """Note that one has ended."""
        self._waiting -= 1
        if not self._waiting:
            self.waited += monotonic - self._since
