"""
The last events of this process, kept in memory for whoever looks after it.
"""

import logging
import os
from collections import deque
from typing import NamedTuple

from .events import EVENTS

__all__ = ["Happening", "happenings", "listen"]

#: Events that are kept, and characters of one.
_MOST, _LONGEST = 50, 300


class Happening(NamedTuple):
    """One event, as it was logged."""

    at: float  #: Unix seconds
    level: str
    event: str
    text: str


class _Recent(logging.Handler):
    """Keeps what `events.tell` has told. Other records may name keys, and are none of its business."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: deque[Happening] = deque(maxlen=_MOST)
        self._pid = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "presign_event", None)
        if event in EVENTS:
            try:
                text = record.getMessage()[:_LONGEST]
            except Exception:
                self.handleError(record)
            else:
                self.kept.append(Happening(record.created, record.levelname, event, text))
        last = logging.lastResort
        # A logger that has a handler is no longer heard on stderr where nobody has configured logging.
        if last is not None and record.levelno >= last.level and self._is_alone(record.name):
            last.handle(record)

    @property
    def kept(self) -> deque[Happening]:
        """What was kept, the newest last; in a fork, nothing of its parent's."""
        if self._pid != os.getpid():
            self._kept, self._pid = deque(maxlen=_MOST), os.getpid()
        return self._kept

    def _is_alone(self, name: str) -> bool:
        logger: logging.Logger | None = logging.getLogger(name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return False
            logger = logger.parent if logger.propagate else None
        return True


_recent = _Recent()


def listen() -> None:
    """Keep events from now on. What a logger's level drops is not among them."""
    logging.getLogger("presign_middleware").addHandler(_recent)  # adding it twice does nothing


def happenings(most: int) -> tuple[Happening, ...]:
    """Return the last events, the newest first."""
    return tuple(reversed(_recent.kept.copy()))[:most]
