"""
What this process has counted since it started.

Plain integers on one object. ``counts.signed += 1`` loses nothing between threads:
CPython switches threads at calls and backward jumps, and there is neither between
reading the attribute and writing it back.
"""

from dataclasses import asdict, dataclass

__all__ = ["Counts"]


@dataclass(slots=True)
class Counts:
    """Counters of one presigner."""

    # Every URL handed out is counted by exactly one of these five.
    from_scope: int = 0  # this request had it
    from_local: int = 0  # this process had it
    from_flight: int = 0  # a resolution already under way brought it
    from_shared: int = 0  # the fleet's cache had it
    from_signer: int = 0  # it was signed

    failed: int = 0  # resolutions that ended in SigningError
    signed: int = 0  # signatures made, by plan or by boto3
    signed_by_boto3: int = 0  # those of them that boto3 made
    plans_proven: int = 0  # signing plans that agreed with boto3
    plans_refused: int = 0  # shapes of URL that boto3 signs for ever
    evicted: int = 0  # URLs dropped because the local table was full
    short_lived: int = 0  # URLs signed with credentials too short for min_remaining
    credentials_failed: int = 0  # times a source of credentials failed
    clock_steps: int = 0  # times the wall clock was seen to jump

    refreshed: int = 0  # URLs renewed, mostly with nobody waiting for them
    refresh_failed: int = 0  # renewals that brought nothing better

    shared_misses: int = 0  # objects that the shared cache did not have
    shared_rejected: int = 0  # entries of it that were past, of no use, or sealed otherwise
    shared_adopted: int = 0  # signatures made here for which another process's was taken, being there first
    shared_errors: int = 0  # times a server of it failed or was too slow
    shared_skipped: int = 0  # times one was not asked, because it had failed lately

    invalidated: int = 0  # times that the URLs of one object were taken back, by a call or after a write
    invalidate_failed: int = 0  # objects that were written, and whose URLs could not be taken back
    revoked: int = 0  # calls that took back those of an origin
    epochs_rejected: int = 0  # times that what they have taken back was damaged, or could not be opened
    epochs_unread: int = 0  # times that it could not be read what other processes have taken back

    caught: int = 0  # fetches that a hook or an adapter signed, and links that it answered for boto3
    passed_uncovered: int = 0  # fetches that it let go: not covered, or not to be signed
    passed_outside_scope: int = 0  # covered fetches that went out unsigned: made outside any request
    passed_redirect: int = 0  # covered hops that went out unsigned: something else redirected there
    passed_on_error: int = 0  # covered fetches that went out unsigned: Policy(on_error="pass")
    healed: int = 0  # refused fetches that were signed anew, sent once more, and not refused
    unhealed: int = 0  # those that were refused again
    fallbacks: int = 0  # fetches that another origin answered than the one that was asked for
    regions_learned: int = 0  # times that S3 told the region of an origin that was configured otherwise
    clocks_learned: int = 0  # times that S3's clock was found to differ from this host's
    left_to_boto3: int = 0  # links to covered objects that boto3 signed, for which a hook was asked

    def as_dict(self) -> dict[str, int]:
        """Return every counter, and ``resolved``: the number of URLs handed out."""
        resolved = self.from_scope + self.from_local + self.from_flight + self.from_shared + self.from_signer
        return {"resolved": resolved, **asdict(self)}
