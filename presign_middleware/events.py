"""
What an operator must know, as log records with fields.

The text of a record is for people. Its fields are for machines: ``record.presign_event``
is one of `EVENTS`, further ones are ``presign_...`` too. Fields are bounded: names of
origins, sources and servers, enumerations, numbers; never a key, a URL or a secret.
"""

import logging
from typing import Any, Literal, get_args

__all__ = ["EVENTS", "Event", "tell"]

Event = Literal[
    "credentials_renewed",  # source, seconds: of life
    "credentials_short",  # source, seconds: they cannot carry min_remaining
    "credentials_assumed",  # source, seconds: nobody knows when they end
    "credentials_failed",  # source, error: the name of an exception
    "clock_stepped",  # seconds: forward, or back where negative
    "clock_learned",  # origin, seconds: that S3's clock is ahead
    "region_learned",  # origin, region
    "healing_stopped",  # origin, client
    "invalidate_failed",  # origin, error: the name of an exception, after a write
    "shared_in_clear",  # server: its host, as it was given
    "rollout_changed",  # share: of the requests, that uses the cache from then on
    "rollout_unreadable",  # share: at which it stays
    "shared_failed",  # server, error: the name of an exception
    "shared_back",  # server: one that had failed
]

#: The names of all events.
EVENTS: tuple[str, ...] = get_args(Event)


def tell(logger: logging.Logger, level: int, event: Event, text: str, *args: object, **fields: Any) -> None:
    """Log *text* with *args*, and *event* and *fields* as attributes of the record."""
    logger.log(
        level,
        text,
        *args,
        extra={"presign_event": event, **{f"presign_{name}": value for name, value in fields.items()}},
        stacklevel=2,
    )
