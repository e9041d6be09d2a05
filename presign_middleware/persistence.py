"""
What is tried again and again in the background, until it is done.
"""

from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread, local

__all__ = ["Persistence"]

#: Seconds between two attempts: the first pause, and the longest.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0


class Persistence:
    """
    Does some work until it succeeds, with growing pauses, in one thread.

    Args:
        work: Returns whether there is nothing left to do. Must not raise.
        name: Of the thread. A daemon: a process can end while it goes on.
    """

    def __init__(self, work: Callable[[], bool], name: str) -> None:
        self._work = work
        self._name = name
        self._lock = Lock()
        self._asked = 0
        self._closing: Event | None = None  # of the thread that is at it
        self._here = local()  # whether this is a thread of its own

    def begin(self) -> None:
        """See to it that the work is done from now on, whatever was done before."""
        with self._lock:
            self._asked += 1
            # The work itself asks too; was this closed meanwhile, nobody would end what that began.
            if self._closing is None and not hasattr(self._here, "is_own"):
                closing = Event()
                with suppress(RuntimeError):  # no more threads, or the interpreter is ending
                    Thread(target=self._run, args=(closing,), name=self._name, daemon=True).start()
                    self._closing = closing

    def close(self) -> None:
        """Give up what is left."""
        with self._lock:
            closing, self._closing = self._closing, None
        if closing is not None:
            closing.set()

    def _run(self, closing: Event) -> None:
        import random

        self._here.is_own = True
        pause = _SHORTEST_PAUSE
        while not closing.wait(pause * random.uniform(0.5, 1)):
            pause = min(2 * pause, _LONGEST_PAUSE)
            asked = self._asked
            if not self._work():
                continue
            with self._lock:
                if asked == self._asked:
                    if self._closing is closing:
                        self._closing = None
                    return
            pause = _SHORTEST_PAUSE
