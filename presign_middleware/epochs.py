"""
Instants before which nothing signed is used any more: of an object, of an origin, of all.

Raising one takes URLs back: what is dated before it is not handed out any more, and the
next URL is dated at it, so that it differs and is the same in every process.

The rules:

* An epoch is a whole second of S3's clock. It never sinks; of two that are known, the
  later one counts. One that lies too far ahead was forged, or made by a clock that is
  wrong: it counts as the time at which it was met.
* All that is known in one namespace is a *board*: one value, which every process reads
  now and then, and writes back where it is missing or behind.
* A board is bounded. An object whose epoch is dropped is covered by its origin's, which
  is raised to it; an origin's by the one for all. So nothing is revived.
"""

import hashlib
import struct
from collections.abc import Mapping
from math import floor, inf
from threading import Lock

from .metrics import Counts
from .objects import S3Object

__all__ = ["Epochs"]

#: Seconds by which an epoch may lie ahead: so many invalidations of one second are told apart.
_AHEAD = 5

#: Objects of one origin that are invalidated within the lag before the origin's epoch is raised instead.
_FLOOD = 1_000

#: Seconds between two such raises of one origin.
_CALM = 60

#: Objects, and origins, that have epochs of their own: 100 KB, and 200 KB.
_MOST_OBJECTS, _MOST_ORIGINS = 8_000, 10_000

#: Seconds after which no URL works any more: SigV4 allows a week.
_OUTLIVED = 8 * 86_400

#: Instants too far ahead that are remembered.
_MOST_MET = 1_000

_VERSION = b"e1"
_HEAD = struct.Struct(">2sI")  # version, floor
_ORIGIN = struct.Struct(">8sIII")  # digest, epoch, when it was raised instead of objects', number of objects
_OBJECT = struct.Struct(">8sI")  # digest, epoch


class _Origin:
    """The epochs of one origin. 0: none."""

    __slots__ = ("calmed", "epoch", "objects")

    def __init__(self, epoch: int = 0, calmed: int = 0, objects: dict[bytes, int] | None = None) -> None:
        self.epoch = epoch
        self.calmed = calmed  #: when it was raised in place of too many objects'
        self.objects = {} if objects is None else objects  #: those that are later than the origin's

    def lift(self, epoch: int) -> None:
        """Raise the epoch, and drop what it covers."""
        if epoch > self.epoch:
            self.epoch = epoch
            self.objects = {digest: of for digest, of in self.objects.items() if of > epoch}


class _Board:
    """All epochs of a namespace."""

    __slots__ = ("floor", "origins")

    def __init__(self, floor: int = 0, origins: dict[bytes, _Origin] | None = None) -> None:
        self.floor = floor  #: for all origins
        self.origins = {} if origins is None else origins

    def encode(self) -> bytes:
        """Return what `decode` takes."""
        parts = [_HEAD.pack(_VERSION, self.floor)]
        for digest, origin in sorted(self.origins.items()):
            parts.append(_ORIGIN.pack(digest, origin.epoch, origin.calmed, len(origin.objects)))
            parts += [_OBJECT.pack(*one) for one in sorted(origin.objects.items())]
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> "_Board | None":
        """Return what was encoded, or None: *data* has not that form."""
        try:
            version, floor = _HEAD.unpack_from(data)
            board, at = cls(floor), _HEAD.size
            while at < len(data):
                digest, epoch, calmed, objects = _ORIGIN.unpack_from(data, at)
                at += _ORIGIN.size
                end = at + objects * _OBJECT.size
                found = dict(_OBJECT.iter_unpack(data[at:end]))
                board.origins[digest] = _Origin(epoch, calmed, found)
                at = end
        except struct.error:
            return None
        return board if version == _VERSION and at == len(data) else None

    def covers(self, other: "_Board") -> bool:
        """Return whether nothing of *other* is later than here."""
        if other.floor > self.floor:
            return False
        for digest, origin in other.origins.items():
            mine = self.origins.get(digest, _Origin())
            epoch = max(mine.epoch, self.floor)
            if origin.epoch > epoch or any(
                of > max(epoch, mine.objects.get(name, 0)) for name, of in origin.objects.items()
            ):
                return False
        return True


class Epochs:
    """
    What this process knows. For any number of threads; reading takes no lock.

    Args:
        skews: For each origin, the seconds that S3's clock is ahead of this host's.
        lag: Seconds for which what was read of the board may be relied on.
        is_shared: Whether there is a board to read.
        parent: Those of the process from which this one was forked: what it knows, this one knows.
    """

    def __init__(
        self,
        skews: Mapping[str, float],
        lag: float,
        counts: Counts,
        *,
        is_shared: bool,
        parent: "Epochs | None" = None,
    ) -> None:
        self._skews = dict(skews)
        self._lag = lag
        self._counts = counts
        self._lock = Lock()
        self._board: _Board = _Board() if parent is None else parent._board
        self._digests: dict[str, bytes] = {}  # of this process's origins, once they are wanted
        self._named: dict[str, _Origin] = {}  # those of them that have epochs
        self._met: dict[tuple[int, float], int] = {}  # what lay too far ahead, and for which skew: as what
        self._is_ahead = False  # whether the boards have yet to be told what that is
        self._room = 0  # for raises, until it is to be tidied
        self._covered: bytes | None = None  # the board as it was read last, if nothing here is later
        self._read_at = -inf  # monotonic
        self._skewed()
        #: Counts up whenever anything changes.
        self.version = 0
        #: Whether there is any epoch.
        self.any: bool = parent is not None and parent.any
        #: Monotonic instant until which what is known may be relied on.
        self.good_until = -inf if is_shared else inf
        self._name()

    def shift(self, origin: str, skew: float) -> None:
        """Take the clock of *origin*'s S3 for *skew* seconds ahead of this host's."""
        with self._lock:
            self._skews[origin] = skew
            self._skewed()

    def of(self, obj: S3Object) -> int:
        """Return the instant before which no URL of *obj* may be dated; 0: there is none."""
        origin = self._named.get(obj.origin)
        if origin is None:
            return self._board.floor
        objects = origin.objects  # before its epoch, which covers what is dropped of them meanwhile
        epoch = max(origin.epoch, self._board.floor)
        if objects:
            return max(epoch, objects.get(_of_object(obj), 0))
        return epoch

    def date(self, obj: S3Object, wall: float) -> int:
        """Return what `of` does, for whoever signs now: nothing far ahead, though the clock was set back."""
        epoch = self.of(obj)
        if epoch <= self._now(obj.origin, wall) + _AHEAD:
            return epoch
        with self._lock:
            board = _Board()
            self._merge(board, self._board, wall)
            self._board = board
            self._tidy()
            self._noted()
        return self.of(obj)

    def invalidate(self, obj: S3Object, dated: int, wall: float) -> None:
        """
        Raise the epoch of *obj*, for every form, method, parameter and lifetime.

        *dated* is the latest date that a URL of it may have by now. Where too many objects
        of one origin come, the origin's epoch is raised instead.
        """
        with self._lock:
            now, origin = self._now(obj.origin, wall), self._origin(obj.origin)
            epoch = _next(max(dated, self.of(obj)), now)
            # A few, mostly: those of the lag are not counted then.
            is_flood = len(origin.objects) >= _FLOOD and (
                sum([of > now - self._lag for of in origin.objects.values()]) >= _FLOOD
            )
            if is_flood and now >= origin.calmed + _CALM:
                origin.calmed = now
                origin.lift(max(epoch, *origin.objects.values()))
            else:
                origin.objects[_of_object(obj)] = epoch
            self._raised(wall)

    def revoke(self, name: str, wall: float) -> None:
        """Raise the epoch of an origin."""
        with self._lock:
            now, origin = self._now(name, wall), self._origin(name)
            # The window of some object may have begun in this very second.
            origin.lift(_next(max(now, self._board.floor, origin.epoch, *origin.objects.values()), now))
            self._raised(wall)

    # The board, as whoever reads and writes it wants it.

    def exchange(self, boards: Mapping[str, bytes | None], wall: float, monotonic: float) -> dict[str, bytes]:
        """
        Know what *boards* say, by server, and return what to put where one is missing, damaged or behind.

        Where all are lost, who has read one lately knows what it said. Else it may have said more
        than is known here, and nothing that is signed by now is used any more.
        """
        if not boards:  # nobody has answered, which says nothing
            return {}
        with self._lock:
            if self._covered is not None and all(data == self._covered for data in boards.values()):
                return {}
            known = self._board.encode()
            found = {name: None if data is None else _Board.decode(data) for name, data in boards.items()}
            self._counts.epochs_rejected += sum(
                [board is None is not boards[name] for name, board in found.items()]
            )
            for board in found.values():
                if board is not None:
                    self._merge(self._board, board, wall)
            self._tidy()
            mine = self._board.encode()
            if mine != known:
                self._noted()
            if all(board is None for board in found.values()) and monotonic - self._read_at > 2 * self._lag:
                mine = self._cold(wall).encode()
            behind = [
                name
                for name, board in found.items()
                if board is None or self._is_ahead or not board.covers(self._board)
            ]
            self._is_ahead = False
            if not behind:
                self._covered = mine
            return dict.fromkeys(behind, mine)

    @staticmethod
    def can_read(data: bytes) -> bool:
        """Return whether *data* is a board."""
        return _Board.decode(data) is not None

    def rely(self, monotonic: float, *, was_read: bool) -> None:
        """Rely on what is known, for the lag: the board *was_read* at *monotonic*, or could not be."""
        if was_read:
            self._read_at = monotonic
        self.good_until = monotonic + self._lag

    # The rest is called with the lock held.

    def _skewed(self) -> None:
        skews = self._skews.values()
        self._least_skew, self._most_skew = min(skews), max(skews)
        # By digest, where they differ: what is now for one S3 is far ahead for another.
        differ = self._least_skew < self._most_skew
        self._skew_of = {_digest(name): skew for name, skew in self._skews.items()} if differ else {}

    def _merge(self, mine: _Board, theirs: _Board, wall: float) -> None:
        """Raise *mine* to *theirs*, as far as that can be meant."""
        mine.floor = max(mine.floor, self._counted(theirs.floor, wall, self._least_skew))
        for digest, their in theirs.origins.items():
            skew = self._skew_of.get(digest, self._most_skew)
            origin = mine.origins.setdefault(digest, _Origin())
            origin.calmed = max(origin.calmed, self._counted(their.calmed, wall, skew))
            origin.lift(self._counted(their.epoch, wall, skew))
            for name, of in their.objects.items():
                of = self._counted(of, wall, skew)
                if of > max(origin.epoch, origin.objects.get(name, 0)):
                    origin.objects[name] = of

    def _counted(self, epoch: int, wall: float, skew: float) -> int:
        now = floor(wall + skew)
        if epoch <= now + _AHEAD:
            return epoch
        if (epoch, skew) not in self._met:
            if len(self._met) >= _MOST_MET:
                self._met.clear()
            self._met[epoch, skew] = now
            self._is_ahead = True
        return self._met[epoch, skew]

    def _cold(self, wall: float) -> _Board:
        """Return what is known, and that nothing which is signed by now is used any more."""
        board = _Board(floor(wall + self._least_skew), self._board.origins.copy())
        for digest, skew in self._skew_of.items():
            known = board.origins.get(digest, _Origin())
            board.origins[digest] = _Origin(max(known.epoch, floor(wall + skew)), known.calmed, known.objects)
        return board

    def _origin(self, name: str) -> _Origin:
        origin = self._named[name] = self._board.origins.setdefault(_digest(name), _Origin())
        return origin

    def _now(self, name: str, wall: float) -> int:
        return floor(wall + self._skews.get(name, 0))

    def _raised(self, wall: float) -> None:
        # What was signed before that has ended by now: its epochs need not be told apart.
        self._board.floor = max(self._board.floor, floor(wall) - _OUTLIVED)
        self._room -= 1  # for one object, or one origin
        if self._room < 0:
            self._tidy()
        self._noted()

    def _noted(self) -> None:
        self._covered = None
        self.version += 1
        self.any = True

    def _tidy(self) -> None:
        """Drop what is covered, and what there is no room for."""
        board = self._board
        for origin in board.origins.values():
            origin.lift(board.floor)
        epochs = [of for origin in board.origins.values() for of in origin.objects.values()]
        if len(epochs) > _MOST_OBJECTS:
            half = _median(epochs)
            for origin in board.origins.values():
                origin.lift(max([of for of in origin.objects.values() if of <= half], default=0))
            epochs = [of for of in epochs if of > half]
        if len(board.origins) > _MOST_ORIGINS:
            # There are more of them than objects may have epochs, so some have none but their own.
            whole = [origin.epoch for origin in board.origins.values() if not origin.objects]
            board.floor = max(board.floor, _median(whole))
        board.origins = {
            digest: origin
            for digest, origin in board.origins.items()
            if origin.epoch > board.floor or origin.objects
        }
        self._room = min(_MOST_OBJECTS - len(epochs), _MOST_ORIGINS - len(board.origins))
        self._name()

    def _name(self) -> None:
        if not self._digests and self._board.origins:
            self._digests = {name: _digest(name) for name in self._skews}
        origins = self._board.origins
        self._named = {name: origins[digest] for name, digest in self._digests.items() if digest in origins}


def _next(previous: int, now: int) -> int:
    """Return the epoch after which URLs differ from one of the date *previous*."""
    return max(now, min(previous + 1, now + _AHEAD))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _of_object(obj: S3Object) -> bytes:
    return _digest(f"{obj.bucket}/{obj.key}")  # a bucket's name has no slash


def _median(epochs: list[int]) -> int:
    """Return the one in the middle; the higher one of two."""
    # Not by the statistics module, which takes 8 ms to import.
    return sorted(epochs)[len(epochs) // 2]
