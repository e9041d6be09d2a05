"""
What this process has counted since it started.

Plain numbers on a few objects. ``tally.signed += 1`` loses nothing between threads:
CPython switches threads at calls and backward jumps, and there is neither between
reading the attribute and writing it back.

What belongs to an origin is counted there and nowhere else: each URL that is held knows
the tally of its origin, so counting by origin costs no more than counting at all.
"""

from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields

__all__ = ["LIVES", "OTHER", "SAMPLED", "Counts", "Measured", "Tally"]

#: Origins that are counted each by itself: labels of metrics are bounded. All others are one.
_MOST_ORIGINS = 100

#: What they are called.
OTHER = "other"

#: One of so many that a plan signs for somebody is measured: to measure all would show in all of them.
SAMPLED = 64

#: Bounds of the histogram of the lives of new URLs, in seconds; S3 allows the last and no more.
LIVES = (60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 21_600.0, 86_400.0, 604_800.0)


class Measured:
    """Sums of seconds, and how many have gone into them."""

    __slots__ = ("boto3_seconds", "lives", "lives_seconds", "plan_seconds", "plans_timed")

    def __init__(self) -> None:
        self.plans_timed = 0
        self.plan_seconds = 0.0  # that those signatures took
        self.boto3_seconds = 0.0  # that all of boto3's took
        self.lives = [0] * (len(LIVES) + 1)  # URLs new to this process, by the seconds they had left
        self.lives_seconds = 0.0

    def note_life(self, seconds: float) -> None:
        """Take note of a URL that is new to this process and has so many seconds left."""
        self.lives[bisect_left(LIVES, seconds)] += 1
        self.lives_seconds += seconds


@dataclass(slots=True)
class Tally:
    """Counters of one origin."""

    # Every URL handed out is counted by exactly one of these five.
    from_scope: int = 0  # this request had it
    from_local: int = 0  # this process had it
    from_flight: int = 0  # a resolution already under way brought it
    from_shared: int = 0  # the fleet's cache had it
    from_signer: int = 0  # it was signed

    failed: int = 0  # resolutions that ended in SigningError
    signed: int = 0  # signatures made, by plan or by boto3
    signed_by_boto3: int = 0  # those of them that boto3 made
    short_lived: int = 0  # URLs signed with credentials too short for min_remaining

    refreshed: int = 0  # URLs renewed, mostly with nobody waiting for them
    refresh_failed: int = 0  # renewals that brought nothing better

    invalidated: int = 0  # calls that took back the URLs of one object
    revoked: int = 0  # calls that took back those of the origin

    healed: int = 0  # refused fetches that were signed anew, sent once more, and not refused
    unhealed: int = 0  # those that were refused again
    fallbacks: int = 0  # fetches that another origin answered than this one, which was asked for

    measured: Measured = field(default_factory=Measured)


_SUMMED = tuple(each.name for each in fields(Tally) if each.name != "measured")


@dataclass(slots=True)
class Counts:
    """Counters of one presigner."""

    origins: dict[str, Tally] = field(default_factory=dict)  # those that are counted by themselves
    others: Tally = field(default_factory=Tally)  # of all other origins
    has_others: bool = False

    plans_proven: int = 0  # signing plans that agreed with boto3
    plans_refused: int = 0  # shapes of URL that boto3 signs for ever
    evicted: int = 0  # URLs dropped because the local table was full
    evicted_unused: int = 0  # those of them that nobody had asked for again
    credentials_failed: int = 0  # times a source of credentials failed
    clock_steps: int = 0  # times the wall clock was seen to jump

    shared_misses: int = 0  # objects that the shared cache did not have
    shared_rejected: int = 0  # entries of it that were past, of no use, or sealed otherwise
    shared_adopted: int = 0  # signatures made here for which another process's was taken, being there first
    shared_errors: int = 0  # times a server of it failed or was too slow
    shared_skipped: int = 0  # times one was not asked, because it had failed lately

    invalidate_failed: int = 0  # objects that were written, and whose URLs could not be taken back
    epochs_rejected: int = 0  # times that what was taken back was damaged, or could not be opened
    epochs_unread: int = 0  # times that it could not be read what other processes have taken back

    caught: int = 0  # fetches that a hook or an adapter signed, and links that it answered for boto3
    passed_uncovered: int = 0  # fetches that it let go: not covered, or not to be signed
    passed_outside_scope: int = 0  # covered fetches that went out unsigned: made outside any request
    passed_redirect: int = 0  # covered hops that went out unsigned: something else redirected there
    passed_on_error: int = 0  # covered fetches that went out unsigned: Policy(on_error="pass")
    regions_learned: int = 0  # times that S3 told the region of an origin that was configured otherwise
    clocks_learned: int = 0  # times that S3's clock was found to differ from this host's
    left_to_boto3: int = 0  # links to covered objects that boto3 signed, for which a hook was asked

    # Counted where a rollout has two arms, and not where all requests use the cache.
    resolved_by_cache: int = 0  # URLs handed out in the cache's arm
    resolved_by_boto3: int = 0  # those in the other one; they are from_signer, too
    nanoseconds_by_cache: int = 0  # for which callers waited for the ones
    nanoseconds_by_boto3: int = 0  # and for the others

    @classmethod
    def by_origin(cls, names: Collection[str]) -> "Counts":
        """Return counters for the origins that have these *names*, of which the first are told apart."""
        apart = [name for name in names if name != OTHER][:_MOST_ORIGINS]
        return cls({name: Tally() for name in apart}, has_others=len(apart) < len(names))

    def of(self, origin: str) -> Tally:
        """Return the counters of *origin*, which are those of others too where origins are many."""
        return self.origins.get(origin, self.others)

    def each(self) -> Mapping[str, Tally]:
        """Return all counters of origins, by the label that they have in metrics."""
        return {**self.origins, OTHER: self.others} if self.has_others else self.origins

    def as_dict(self) -> dict[str, int]:
        """Return every counter, and ``resolved``: the number of URLs handed out."""
        tallies = [*self.origins.values(), self.others]
        sums = {name: sum([getattr(tally, name) for tally in tallies]) for name in _SUMMED}
        resolved = sum([sums[name] for name in sums if name.startswith("from_")])
        rest = {name: getattr(self, name) for name in _COUNTED}
        return {"resolved": resolved, **sums, **rest}


_COUNTED = tuple(each.name for each in fields(Counts) if each.type is int)
