"""
For how long caches may keep a response that holds URLs which end: the rules, one function each.

A response's headers come as lines by name in lower case, ages are whole seconds, instants are
Unix seconds. Everything here is pure. Two things always hold, whatever an application says:

* no cache may keep the response, fresh or stale, for longer than *age*;
* nothing that the application said is lengthened. What cannot be read counts as 0 seconds.

What caches make of headers is in RFC 9111; of ``immutable`` in RFC 8246; of ``stale-while-revalidate``
and ``stale-if-error`` in RFC 5861.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from math import floor
from typing import NamedTuple

__all__ = ["REDIRECTS", "Directive", "directives", "limits"]

#: Statuses whose Location says where to go.
REDIRECTS = frozenset({301, 302, 303, 307, 308})

#: What caches may keep without having been told for how long (RFC 9110, 15.1), and a 304 of it.
_HEURISTIC = frozenset({200, 203, 204, 206, 300, 301, 304, 308, 404, 405, 410, 414, 501})

#: What browsers keep for ever then.
_PERMANENT = frozenset({300, 301, 308, 410})

#: The part of its age for which caches take a response to be good then (RFC 9111, 4.2.2).
_SHARE = 1 / 10

#: A longer lifetime counts as this one (RFC 9111, 1.2.2).
_LONGEST = 2**31

_LIFETIMES = frozenset({"max-age", "s-maxage"})
_STALE = frozenset({"stale-while-revalidate", "stale-if-error"})
_AUDIENCE = frozenset({"public", "private", "no-store"})

_ELEMENT = re.compile(r'(?:"(?:\\.|[^"\\])*"|[^,])+')
_TIME = r"\d\d:\d\d:\d\d"
_DATE = re.compile(
    rf"[A-Z][a-z]{{2}}, \d\d [A-Z][a-z]{{2}} [1-9]\d{{3}} {_TIME} GMT"
    rf"|[A-Z][a-z]+day, \d\d-[A-Z][a-z]{{2}}-\d\d {_TIME} GMT"
    rf"|[A-Z][a-z]{{2}} [A-Z][a-z]{{2}} [ \d]\d {_TIME} [1-9]\d{{3}}",
    re.ASCII,
)


class Directive(NamedTuple):
    """One directive of Cache-Control."""

    name: str  #: in lower case
    value: str | None  #: without its quotes; None: it has none
    text: str  #: as it was written

    @property
    def seconds(self) -> int:
        """Its value; 0 if that is no number."""
        digits = self.value or ""
        if not re.fullmatch("[0-9]+", digits):
            return 0
        return min(int(digits), _LONGEST) if len(digits) <= 10 else _LONGEST

    def at_most(self, seconds: int) -> "Directive":
        """Return this one if it says no more than *seconds*, in digits, else one that says them."""
        capped = min(self.seconds, seconds)
        if re.fullmatch("[0-9]+", self.value or "") and capped == self.seconds:
            return self
        return Directive(self.name, str(capped), f"{self.name}={capped}")


def directives(lines: Iterable[str]) -> list[Directive]:
    """Return what the *lines* of Cache-Control say, which are one list."""
    found = []
    for text in [element.strip(" \t") for line in lines for element in _ELEMENT.findall(line)]:
        name, sign, value = [part.strip(" \t") for part in text.partition("=")]
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        if text:
            found.append(Directive(name.lower(), value if sign else None, text))
    return found


def limits(
    status: int,
    lines: Mapping[str, Sequence[str]],
    *,
    age: int,  # seconds from now, 0 or more
    now: float,
    is_link: bool = False,  # whether it redirects to a URL that is good for this age
) -> dict[str, list[str]]:
    """Return the headers that must change lest a cache keep the response over *age*, and their lines."""
    changes = {}
    expires = lines.get("expires", ())
    capped = [limit_expires(line, now + age) for line in expires]
    if capped != list(expires):
        changes["Expires"] = capped
    said = directives(lines.get("cache-control", ()))
    new = limit_lifetimes(said, age)
    if new != said or changes:
        new = drop_immutable(new)
    new = add_private(new)
    if is_link and not said and not expires:
        new = [*new, _max_age(age)]
    else:
        new = limit_guess(new, status, lines, age, now)
    new = limit_stale(new, capped, age, now)
    if new != said:
        changes["Cache-Control"] = [", ".join([directive.text for directive in new])]
    return changes


def limit_expires(line: str, end: float) -> str:
    """Return an Expires that is not after *end*. What is no date is past, but not every cache knows."""
    instant = _instant(line)
    if instant is None:
        return "0"
    return line if instant <= end else formatdate(floor(end), usegmt=True)


def limit_lifetimes(said: Sequence[Directive], age: int) -> list[Directive]:
    """Let max-age and s-maxage be *age* at most, each of them: of several, caches take any."""
    return [one.at_most(age) if one.name in _LIFETIMES else one for one in said]


def drop_immutable(said: Sequence[Directive]) -> list[Directive]:
    """Let browsers ask again: what was to last for ever does not."""
    return [one for one in said if one.name != "immutable"]


def add_private(said: Sequence[Directive]) -> list[Directive]:
    """Keep the response out of caches that many share, unless the application said whom it is for."""
    return list(said) if _AUDIENCE & _names(said) else [*said, _PRIVATE]


def limit_guess(
    said: Sequence[Directive], status: int, lines: Mapping[str, Sequence[str]], age: int, now: float
) -> list[Directive]:
    """Where caches may guess how long a response is good, say so: what they would guess, *age* at most."""
    is_told = "expires" in lines or any(
        one.name in ("max-age", "no-store") or (one.name == "no-cache" and one.value is None) for one in said
    )
    modified = lines.get("last-modified", ())
    may_guess = status in _HEURISTIC or "public" in _names(said)
    if is_told or not may_guess or not (modified or status in _PERMANENT):
        return list(said)
    instants = [_instant(line) for line in modified]
    guesses = [0.0 if instant is None else (now - instant) * _SHARE for instant in instants]
    return [*said, _max_age(max(0, floor(min([age, *guesses]))))]


def limit_stale(said: Sequence[Directive], expires: Sequence[str], age: int, now: float) -> list[Directive]:
    """Let a response that is served stale, once it is no longer fresh, be no older than *age*."""
    own = [one.seconds for one in said if one.name == "max-age"]
    common = [one.seconds for one in said if one.name == "s-maxage"]
    ends = [instant - now for line in expires if (instant := _instant(line)) is not None]
    fresh = max([0, *common, *(own or ends)])
    room = max(0, floor(age - fresh))
    return [one.at_most(room) if one.name in _STALE else one for one in said]


_PRIVATE = Directive("private", None, "private")


def _max_age(seconds: int) -> Directive:
    return Directive("max-age", str(seconds), f"max-age={seconds}")


def _names(said: Sequence[Directive]) -> set[str]:
    return {one.name for one in said}


def _instant(line: str) -> float | None:
    """Return the instant of an HTTP date; None: it is none."""
    line = line.strip(" \t")
    if not _DATE.fullmatch(line):  # what follows reads more than caches do
        return None
    try:
        return parsedate_to_datetime(line).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
