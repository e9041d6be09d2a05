"""
A clock that the test owns.

Instants are Unix seconds (UTC), durations float seconds.
"""

import threading

# 2026-01-01 12:00:00 UTC. Noon, so that no test crosses midnight by accident.
_DEFAULT_NOW = 1_767_268_800.0


class Clock:
    """
    Stand still until told to move.

    Has the ``time()`` and ``monotonic()`` of the ``time`` module, which is all
    that ``Presigner(clock=)`` and `Oracle` ask for. Safe to share between threads.

        clock = Clock()
        presigner = Presigner(origin, clock=clock)
        clock.advance(3600)
    """

    def __init__(self, now: float = _DEFAULT_NOW) -> None:
        self._lock = threading.Lock()
        self._time = float(now)
        # Far from the wall time, so that mixing up the two shows at once.
        self._monotonic = 1000.0

    def time(self) -> float:
        """Return the wall time in Unix seconds."""
        with self._lock:
            return self._time

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start, which never go back."""
        with self._lock:
            return self._monotonic

    def advance(self, seconds: float) -> None:
        """
        Let *seconds* go by: both times move.

        Raises:
            ValueError: *seconds* is negative. Use `step` to set the wall clock back.
        """
        if seconds < 0:
            raise ValueError(f"advance() takes 0 seconds or more, got {seconds}: use step() to go back")
        with self._lock:
            self._time += seconds
            self._monotonic += seconds

    def step(self, seconds: float) -> None:
        """Move the wall time alone, as NTP does to a host whose clock was wrong; negative goes back."""
        with self._lock:
            self._time += seconds

    def __repr__(self) -> str:
        return f"Clock(now={self.time()!r})"
