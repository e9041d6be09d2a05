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


class Tally:
    """Counters of one origin."""

    def __init__(self) -> None:
        # Every URL handed out is counted by exactly one of these five.
        self.from_scope = 0  # this request had it
        self.from_local = 0  # this process had it
        self.from_flight = 0  # a resolution already under way brought it
        self.from_shared = 0  # the fleet's cache had it
        self.from_signer = 0  # it was signed

        self.failed = 0  # resolutions that ended in SigningError
        self.signed = 0  # signatures made, by plan or by boto3
        self.signed_by_boto3 = 0  # those of them that boto3 made
        self.short_lived = 0  # URLs signed with credentials too short for min_remaining

        self.refreshed = 0  # URLs renewed, mostly with nobody waiting for them
        self.refresh_failed = 0  # renewals that brought nothing better

        self.invalidated = 0  # calls that took back the URLs of one object
        self.revoked = 0  # calls that took back those of the origin

        self.healed = 0  # refused fetches that were signed anew, sent once more, and not refused
        self.unhealed = 0  # those that were refused again
        self.fallbacks = 0  # fetches that another origin answered than this one, which was asked for

        self.measured = Measured()


_SUMMED = tuple(name for name, value in vars(Tally()).items() if type(value) is int)


class Counts:
    """Counters of one presigner."""

    def __init__(self) -> None:
        #: Those that are counted by themselves.
        self.origins: dict[str, Tally] = {}
        self.others = Tally()  # of all other origins
        self.has_others = False

        self.plans_proven = 0  # signing plans that agreed with boto3
        self.plans_refused = 0  # shapes of URL that boto3 signs for ever
        self.evicted = 0  # URLs dropped because the local table was full
        self.evicted_unused = 0  # those of them that nobody had asked for again
        self.credentials_failed = 0  # times a source of credentials failed
        self.clock_steps = 0  # times the wall clock was seen to jump

        self.shared_misses = 0  # objects that the shared cache did not have
        self.shared_rejected = 0  # entries of it that were past, of no use, or sealed otherwise
        self.shared_adopted = 0  # signatures made here for which another process's earlier one was taken
        self.shared_errors = 0  # times a server of it failed or was too slow
        self.shared_skipped = 0  # times one was not asked, because it had failed lately

        self.invalidate_failed = 0  # objects that were written, and whose URLs could not be taken back
        self.epochs_rejected = 0  # times that what was taken back was damaged, or could not be opened
        self.epochs_unread = 0  # times that it could not be read what other processes have taken back

        self.caught = 0  # fetches that a hook or an adapter signed, and links that it answered for boto3
        self.passed_uncovered = 0  # fetches that it let go: not covered, or not to be signed
        self.passed_outside_scope = 0  # covered fetches that went out unsigned: made outside any request
        self.passed_redirect = 0  # covered hops that went out unsigned: something else redirected there
        self.passed_on_error = 0  # covered fetches that went out unsigned: Policy(on_error="pass")
        self.regions_learned = 0  # times that S3 told the region of an origin that was configured otherwise
        self.clocks_learned = 0  # times that S3's clock was found to differ from this host's
        self.left_to_boto3 = 0  # links to covered objects that boto3 signed, for which a hook was asked

        # Counted where a rollout has two arms, and not where all requests use the cache.
        self.resolved_by_cache = 0  # URLs handed out in the cache's arm
        self.resolved_by_boto3 = 0  # those in the other one; they are from_signer, too
        self.nanoseconds_by_cache = 0  # for which callers waited for the ones
        self.nanoseconds_by_boto3 = 0  # and for the others

    @classmethod
    def by_origin(cls, names: Collection[str]) -> "Counts":
        """Return counters for the origins that have these *names*, of which the first are told apart."""
        apart = [name for name in names if name != OTHER][:_MOST_ORIGINS]
        counts = cls()
        counts.origins = {name: Tally() for name in apart}
        counts.has_others = len(apart) < len(names)
        return counts

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


_COUNTED = tuple(name for name, value in vars(Counts()).items() if type(value) is int)
