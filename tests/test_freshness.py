"""
For how long caches may keep a response: the rules over its headers.

X1: what a cache makes of headers, `kept`, is written here a second time, after RFC 9111 and RFC 5861, for
the most generous cache there may be.
"""

import re
from collections.abc import Mapping, Sequence
from email.utils import formatdate, parsedate_to_datetime
from math import inf
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from presign_middleware.freshness import directives, limits

NOW: Final = 1_767_268_800.0
AGE: Final = 600


def date(seconds: float) -> str:
    """Return the HTTP date that many seconds from now."""
    return formatdate(NOW + seconds, usegmt=True)


def limited(
    *cache_control: str,
    status: int = 200,
    expires: Sequence[str] = (),
    modified: Sequence[str] = (),
    age: int = AGE,
    is_link: bool = False,
) -> dict[str, list[str]]:
    """Return what changes of a response with these lines."""
    lines = {"cache-control": cache_control, "expires": expires, "last-modified": modified}
    said = {name: some for name, some in lines.items() if some}
    return limits(status, said, age=age, now=NOW, is_link=is_link)


def of_cache_control(*cache_control: str, status: int = 200, age: int = AGE) -> str | None:
    """Return the Cache-Control that takes the place of these lines; None: they stay."""
    changes = limited(*cache_control, status=status, age=age)
    assert changes.keys() <= {"Cache-Control"}
    return ", ".join(changes["Cache-Control"]) if changes else None


# --- one rule after the other -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        # What says whom it is for, and for no longer, stays as it was written.
        ("private, max-age=60", None),
        ("PUBLIC , Max-Age=60", None),
        ("no-store", None),
        ("no-store, max-age=0", None),
        ("private, no-cache", None),
        ("private, max-age=600, immutable", None),
        ('private, x="a, max-age=9999"', None),
        ('private="set-cookie, max-age=9999", max-age=60', None),
        ('private, max-age="60"', None),
        # max-age and s-maxage.
        ("private, max-age=601", "private, max-age=600"),
        ("public, max-age=86400, s-maxage=86400", "public, max-age=600, s-maxage=600"),
        ("public, max-age=60, s-maxage=601", "public, max-age=60, s-maxage=600"),
        ("private, Max-Age = 9999", "private, max-age=600"),
        ('private, max-age="9999"', "private, max-age=600"),
        ("private, max-age=60, max-age=9999", "private, max-age=60, max-age=600"),
        ("no-cache, private, max-age=9999", "no-cache, private, max-age=600"),
        ("no-store, must-understand, max-age=9999", "no-store, must-understand, max-age=600"),
        (f"private, max-age={'9' * 5000}", "private, max-age=600"),
        # What cannot be read is nothing.
        ("private, max-age=soon", "private, max-age=0"),
        ("private, max-age", "private, max-age=0"),
        ("private, max-age=", "private, max-age=0"),
        ("private, max-age=-1", "private, max-age=0"),
        ("private, max-age=1.5", "private, max-age=0"),
        ("private, max-age=\u00b2", "private, max-age=0"),
        ('private, max-age="60', "private, max-age=0"),
        ("private, max-age=60, stale-if-error=soon", "private, max-age=60, stale-if-error=0"),
        # immutable.
        ("private, max-age=9999, immutable", "private, max-age=600"),
        # Stale: with what is fresh, no longer either.
        ("private, max-age=60, stale-while-revalidate=540", None),
        (
            "private, max-age=60, stale-while-revalidate=541",
            "private, max-age=60, stale-while-revalidate=540",
        ),
        ("private, max-age=60, stale-if-error=86400", "private, max-age=60, stale-if-error=540"),
        ("private, max-age=9999, stale-if-error=1", "private, max-age=600, stale-if-error=0"),
        (
            "public, max-age=60, s-maxage=500, stale-while-revalidate=9999",
            "public, max-age=60, s-maxage=500, stale-while-revalidate=100",
        ),
        ("private, stale-if-error=9999", "private, stale-if-error=600"),
        # Whom it is for.
        ("max-age=60", "max-age=60, private"),
        ("no-cache", "no-cache, private"),
        ("s-maxage=60", "s-maxage=60, private"),
        ('no-cache="set-cookie"', 'no-cache="set-cookie", private'),
        ("", "private"),
        (",, ,", "private"),
    ],
)
def test_cache_control(said: str, becomes: str | None) -> None:
    """X1: what is too long is shortened, what is not said is not added but for private, the rest stays."""
    assert of_cache_control(said) == becomes


def test_lines_are_one_list() -> None:
    """X1: they become one line if any of it changes, and stay several if nothing does."""
    assert of_cache_control("private", "max-age=9999, x=1", "immutable") == "private, max-age=600, x=1"
    assert of_cache_control("private", "max-age=60") is None


def test_nothing_is_left() -> None:
    """X1: of a URL that is SPENT by now nothing may be kept."""
    assert of_cache_control("private, max-age=60, stale-if-error=9", age=0) == (
        "private, max-age=0, stale-if-error=0"
    )


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        (date(599), None),
        (date(600), None),
        (date(601), date(600)),
        (date(-86400), None),
        ("Sunday, 06-Nov-94 08:49:37 GMT", None),
        ("Fri Jan  1 12:00:00 2027", date(600)),
        # No HTTP date, though some cache may take it for one.
        ("0", None),
        ("-1", "0"),
        ("soon", "0"),
        ("2037-12-31T23:59:59Z", "0"),
        ("Thu, 31 Dec 2037 23:59:59 +0000", "0"),
        ("Thu, 99 Dec 2037 23:59:59 GMT", "0"),
    ],
)
def test_expires(said: str, becomes: str | None) -> None:
    """X1: an Expires is not after the URLs are SPENT."""
    changes = limited("private", expires=[said])
    assert changes == ({} if becomes is None else {"Expires": [becomes]})


def test_every_expires() -> None:
    """X1: of several, caches take any."""
    changes = limited("private", expires=[date(60), date(9999)])
    assert changes == {"Expires": [date(60), date(600)]}


def test_expires_and_max_age() -> None:
    """X1: both are for the same, and both are shortened."""
    changes = limited("private, max-age=9999, immutable", expires=[date(9999)])
    assert changes == {"Expires": [date(600)], "Cache-Control": ["private, max-age=600"]}


def test_expires_and_immutable() -> None:
    """X1: what was shortened is not for ever, whichever header says how long it is."""
    changes = limited("private, immutable", expires=[date(9999)])
    assert changes == {"Expires": [date(600)], "Cache-Control": ["private"]}


@pytest.mark.parametrize(
    ("said", "room"),
    [
        ("", 540),
        ("max-age=10, ", 590),
        ("max-age=100, ", 500),
        ("s-maxage=10, ", 540),
        ("s-maxage=100, ", 500),
    ],
)
def test_stale_after_expires(said: str, room: int) -> None:
    """X1: who has no max-age goes by Expires; a cache that many share by s-maxage before either."""
    changes = limited(f"public, {said}stale-if-error=9999", expires=[date(60)])
    assert changes == {"Cache-Control": [f"public, {said}stale-if-error={room}"]}


@pytest.mark.parametrize(
    ("said", "status", "modified", "becomes"),
    [
        # Caches guess a tenth of its age.
        ([], 200, date(-1000), "private, max-age=100"),
        ([], 404, date(-1000), "private, max-age=100"),
        ([], 304, date(-1000), "private, max-age=100"),
        ([], 200, date(-86400), "private, max-age=600"),
        ([], 200, "Thu, 01 Jan 1970 00:00:00 GMT", "private, max-age=600"),
        ([], 200, date(+1000), "private, max-age=0"),
        ([], 200, "yesterday", "private, max-age=0"),
        (["private"], 200, date(-1000), "private, max-age=100"),
        (["public"], 200, date(-1000), "public, max-age=100"),
        (["public"], 302, date(-1000), "public, max-age=100"),
        (["public, s-maxage=60"], 200, date(-1000), "public, s-maxage=60, max-age=100"),
        (['private, no-cache="set-cookie"'], 200, date(-1000), 'private, no-cache="set-cookie", max-age=100'),
        # These they do not keep unless told to.
        ([], 302, date(-1000), "private"),
        ([], 500, date(-1000), "private"),
        ([], 200, None, "private"),
        (["private, no-cache"], 200, date(-1000), None),
        (["no-store"], 200, date(-1000), None),
        (["private, max-age=60"], 200, date(-1000), None),
        # And these for ever.
        ([], 301, None, "private, max-age=600"),
        (["private"], 308, None, "private, max-age=600"),
        ([], 410, date(-1000), "private, max-age=100"),
    ],
)
def test_nobody_guesses(said: Sequence[str], status: int, modified: str | None, becomes: str | None) -> None:
    """X1: where caches would guess for how long, they are told, and not for longer than they would."""
    changes = limited(*said, status=status, modified=[modified] if modified else [])
    assert changes == ({} if becomes is None else {"Cache-Control": [becomes]})


def test_an_expires_leaves_nothing_to_guess() -> None:
    """X1: also one in the past."""
    assert limited("private", expires=["0"], modified=[date(-1000)]) == {}


@pytest.mark.parametrize(
    ("said", "expires", "becomes"),
    [
        ([], [], "private, max-age=600"),
        ([""], [], "private, max-age=600"),
        (["private"], [], None),
        (["no-cache"], [], "no-cache, private"),
        ([], [date(60)], "private"),
    ],
)
def test_a_link(said: Sequence[str], expires: Sequence[str], becomes: str | None) -> None:
    """X1: a redirect to a URL may be kept as long as it, if the application says nothing of that."""
    changes = limited(*said, expires=expires, status=302, is_link=True)
    assert changes == ({} if becomes is None else {"Cache-Control": [becomes]})


# --- what always holds --------------------------------------------------------------------------------------


def instant(line: str) -> float | None:
    return parsedate_to_datetime(line).timestamp() if line.endswith(" GMT") else None


def number(text: str | None) -> int:
    return int(text) if text is not None and re.fullmatch("[0-9]+", text) else 0


def kept(status: int, lines: Mapping[str, Sequence[str]], *, is_shared: bool) -> tuple[float, float]:
    """Return for how long a cache takes a response to be fresh, and how long it may serve it at most."""
    found = [(d.name, d.value) for d in directives(lines.get("cache-control", ()))]
    names = {name for name, _ in found}
    if "no-store" in names or (is_shared and "private" in names):
        return 0, 0
    values: dict[str, list[int]] = {}
    for name, value in found:
        values.setdefault(name, []).append(number(value))
    expires = lines.get("expires", ())
    fresh: float
    if is_shared and "s-maxage" in values:
        fresh = max(values["s-maxage"])
    elif "max-age" in values:
        fresh = max(values["max-age"])
    elif expires:
        fresh = max([0.0, *[(instant(line) or NOW) - NOW for line in expires]])
    elif status in (301, 308, 410):
        fresh = inf
    else:
        dates = [at for line in lines.get("last-modified", ()) if (at := instant(line)) is not None]
        guess = max([0.0, *[(NOW - at) / 10 for at in dates]])
        fresh = guess if status in (200, 404) or "public" in names else 0
    if ("no-cache", None) in found:
        fresh = 0
    return fresh, fresh + max(
        [0, *values.get("stale-while-revalidate", ()), *values.get("stale-if-error", ())]
    )


OFFSETS: Final = (-1_000_000, -1000, 0, 1, 59, 60, 61, 600, 86400)
DATES: Final = st.sampled_from([*map(date, OFFSETS), "0", "soon"])
NUMBERS: Final = st.sampled_from(
    ["0", "1", "59", "60", "61", "600", "9999999999999", "-1", "x", '"60"', '"9999"', ""]
)
TIMED: Final = st.builds(
    "{}={}".format,
    st.sampled_from(["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error", "Max-Age"]),
    NUMBERS,
)
PLAIN: Final = st.sampled_from(
    [
        "public",
        "private",
        "no-cache",
        'no-cache="a"',
        "no-store",
        "immutable",
        "must-revalidate",
        "max-age",
        "x=1",
    ]
)
LINES: Final = st.lists(st.lists(TIMED | PLAIN, max_size=4).map(", ".join), max_size=2)
ANSWERS: Final = st.fixed_dictionaries(
    {}, optional={"cache-control": LINES, "expires": st.lists(DATES, min_size=1, max_size=2)}
) | st.fixed_dictionaries(
    {"last-modified": st.lists(DATES, min_size=1, max_size=1)}, optional={"cache-control": LINES}
)


@given(st.sampled_from([200, 301, 302, 404, 410, 500]), ANSWERS, st.sampled_from([0, 1, 60, 600, 3000]))
@example(200, {"last-modified": [date(-1000)]}, 600)
@example(200, {"expires": [date(60)], "cache-control": ["s-maxage=1, stale-if-error=99999"]}, 600)
def test_no_cache_keeps_it_longer(status: int, said: dict[str, list[str]], age: int) -> None:
    """X1: neither longer than the URLs can be served, nor longer than the application allowed."""
    changes = limits(status, said, age=age, now=NOW)
    new = {**said, **{name.lower(): lines for name, lines in changes.items()}}
    for is_shared in (False, True):
        fresh, longest = kept(status, new, is_shared=is_shared)
        fresh_before, longest_before = kept(status, said, is_shared=is_shared)
        assert longest <= age
        assert fresh <= fresh_before
        assert longest <= longest_before


@given(st.lists(st.text(st.characters(max_codepoint=255)), max_size=3), DATES | st.text(max_size=40))
def test_any_text_is_answered(cache_control: list[str], other: str) -> None:
    """X1: what an application writes raises nothing, and is understood when it comes again."""
    said = {"cache-control": cache_control, "expires": [other], "last-modified": [other]}
    changes = limits(200, said, age=AGE, now=NOW)
    again = {**said, **{name.lower(): lines for name, lines in changes.items()}}
    assert limits(200, again, age=AGE, now=NOW) == {}
