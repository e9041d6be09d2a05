"""
What is measured otherwise than by the time of one call: rows of figures under headings.

A figure is the list of what was measured in each round; the headings say in which unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

__all__ = ["Row", "Sheet"]


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one contender, by heading. Without figures it is one that is missing here."""

    name: str
    figures: Mapping[str, Sequence[float]] = field(default_factory=dict)
    is_ours: bool = False
    is_floor: bool = False  # no peer, but what nobody can go below

    def median(self, heading: str) -> float:
        """Return the median of the rounds."""
        return median(self.figures[heading])


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table: *title*, what a reader has to know in one or two lines, and its rows."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    more_is_better: bool = False  # of the first heading
    digits: int | None = None  # after the point; None: three figures in all

    def row(self, name: str) -> Row | None:
        """Return the row of *name* if it has figures."""
        return next((row for row in self.rows if row.name == name and row.figures), None)
