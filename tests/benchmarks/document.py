"""
Writes what a run has told into the docs: the page "Performance", its picture, and the README's table.

    python -m tests.benchmarks.document PATH.json [--into ROOT]

The README has the place for its table between two marks.
"""

import argparse
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

from . import cases, imports, layers, load, memory, threads, zipf
from .caches import Aiocache, Cachetools, Cashews, Dogpile
from .clients import Emcache, Pymemcache
from .floors import Floors, SharedFloors
from .peers import Boto3, Dict, Hashes, Signers
from .plot import plot

__all__ = ["BEGIN", "END", "page", "table"]

BEGIN = "<!-- performance: written by `python -m tests.benchmarks.document` -->"
END = "<!-- /performance -->"

#: Processes that wanted a core, with which a run is told as disturbed: its own are two.
_BUSY = 3

_ROOT = Path(__file__).parents[2]
_PAGE, _PICTURE = Path("docs/explanation/performance.md"), Path("docs/pictures/performance.svg")


class _Told:
    """What a run has told, by name. Raises KeyError for what it has not measured."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.all = told
        self._rows = {(row["case"], row["name"]): row for row in told["rows"] if not row["missing"]}
        self._sheets = {sheet["title"]: sheet for sheet in told["sheets"]}

    def us(self, case: str, name: str) -> str:
        """Return how many microseconds *name* takes for one URL."""
        return _number(self.median(case, name))

    def median(self, case: str, name: str) -> float:
        """Return the same as a number."""
        return float(self._rows[case, name]["median_us"])

    def beside(self, case: str, ours: str, peer: str) -> str:
        """Return how *ours* compares with *peer*, whose name is to follow."""
        ratio = self._rows[case, ours]["times_as_long_as"][peer]
        if 0.95 < ratio < 1.05:
            return "as fast as"
        return (
            f"{_factor(ratio)} times as long as" if ratio > 1 else f"{_factor(1 / ratio)} times faster than"
        )

    def figure(self, title: str, name: str, heading: str) -> str:
        """Return the median of a figure."""
        row = next(row for row in self._sheets[title]["rows"] if row["name"] == name)
        return _number(row["figures"][heading]["median"])

    def table_of(self, title: str) -> Iterator[str]:
        """Return a case as a table."""
        rows = self._case(title)
        ours = _first_of_ours(rows)
        yield f"| {title} | µs a URL | least to most | as long as {ours['name']} takes |"
        yield "|---|--:|--:|--:|"
        for row in sorted(rows, key=lambda row: row["median_us"] or inf):
            if row["missing"]:
                yield f"| {_name(row)} | missing | | |"
                continue
            ratio = _number(row["times_as_long_as"][ours["name"]])
            low, high = _number(row["min_us"]), _number(row["max_us"])
            yield f"| {_name(row)} | {_number(row['median_us'])} | {low} to {high} | {ratio} |"

    def sheet(self, title: str) -> Iterator[str]:
        """Return a sheet as a table, with its note below."""
        sheet = self._sheets[title]
        headings = sheet["headings"]
        yield f"| {title} | {' | '.join(headings)} |"
        yield f"|---|{'--:|' * len(headings)}"
        for row in sheet["rows"]:
            figures = (row["figures"].get(heading) for heading in headings)
            cells = [_number(f["median"], sheet["digits"]) if f else "-" for f in figures]
            yield f"| {_name(row)} | {'missing' if row['missing'] else ' | '.join(cells)} |"
        yield ""
        yield sheet["note"]

    def titles(self, begin: str) -> list[str]:
        """Return the titles of sheets that begin so."""
        return [title for title in self._sheets if title.startswith(begin)]

    def losses(self) -> Iterator[str]:
        """Tell of every peer that was better; of floors it is known."""
        for row in self.all["rows"]:
            if row["loss"] and not row["floor"]:
                ours = _first_of_ours(self._case(row["case"]))
                name, ratio = ours["name"], _factor(ours["times_as_long_as"][row["name"]])
                yield f"| {row['case']} | {row['name']} | {_number(row['median_us'])} µs | {name} | {ratio} |"
        for sheet in self.all["sheets"]:
            heading, ours = sheet["headings"][0], _first_of_ours(sheet["rows"])
            for row in sheet["rows"]:
                if row["loss"] and not row["floor"]:
                    theirs, mine = (found["figures"][heading]["median"] for found in (row, ours))
                    ratio = _factor(max(theirs, mine) / min(theirs, mine))
                    name = ours["name"]
                    yield f"| {sheet['title']} | {row['name']} | {_number(theirs)} | {name} | {ratio} |"

    def _case(self, title: str) -> list[Mapping[str, Any]]:
        rows = [row for row in self.all["rows"] if row["case"] == title]
        if not rows:
            raise KeyError(title)
        return rows


def _first_of_ours(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next(row for row in rows if row["ours"])


def _name(row: Mapping[str, Any]) -> str:
    return f"**{row['name']}**" if row["ours"] else str(row["name"])


def _number(figure: float, digits: int | None = None) -> str:
    if digits is None:
        digits = 2 if abs(figure) < 10 else 1 if abs(figure) < 100 else 0
    return f"{figure:,.{digits}f}"


def _factor(times: float) -> str:
    return f"{times:,.{0 if times >= 10 else 1}f}"


Part = Callable[[_Told], Iterable[str]]


def _prose(text: str) -> str:
    """Return *text* as a paragraph of the docs' width."""
    return textwrap.fill(" ".join(text.split()), 118, break_long_words=False, break_on_hyphens=False)


def _begin(told: _Told) -> Iterator[str]:
    run = told.all
    yield "# Performance"
    yield ""
    yield _prose(
        f"""
        One run of `make bench`, everybody in turn, medians of {run["rounds"]} rounds: Python {run["python"]},
        {run["cores"]} cores of {run["processor"]}. In the minute before it {run["load_before"]:.1f} processes
        wanted a core, in its last {run["load_after"]:.1f}, of which it had one or two. Compare ratios and not
        times: yours will differ. This page is written from the run's own figures, also where they are not
        flattering.
        """
    )
    if _is_busy(run):
        yield ""
        yield _prose(
            """
            **The machine was busy with other things.** What takes long was interrupted and what is short was
            not, which flatters whoever is quick: compare the least of each row. These figures are not final.
            """
        )
    if run["quick"]:
        yield ""
        yield "**A quick run, of few rounds and small numbers: a first look and no more.**"
    yield ""
    yield "![Microseconds a URL, here and elsewhere](../pictures/performance.svg)"
    yield ""
    yield _prose(
        """
        Bars are on a scale of powers of ten. What is light grey is no way to come by URLs but a floor: a
        look-up in a bare dict, and two bare hashes.
        """
    )


def _why_not_boto3(told: _Told) -> Iterator[str]:
    boto3, held, cold, page = Boto3.NAME, cases.HELD, cases.COLD, cases.COLD_PAGE
    yield "## Why not just call boto3?"
    yield ""
    yield _prose(
        f"""
        `generate_presigned_url` takes {told.us(held, boto3)} µs for a URL, each time. Here one that is
        held takes {told.us(held, "url()")} µs, {told.beside(held, "url()", boto3)} boto3; one that has to be
        signed {told.us(cold, "url()")}, {told.beside(cold, "url()", boto3)} boto3, and in a page of 200
        {told.us(page, "urls()")}, {told.beside(page, "urls()", boto3)} boto3.
        """
    )
    yield ""
    alone, busy = load.STARLETTE_ALONE, load.STARLETTE_BUSY
    making, making_ours = (told.figure(alone, name, load.MAKING) for name in (load.BOTO3, load.OURS))
    p50, p50_ours, floor = (
        told.figure(alone, name, load.P50) for name in (load.BOTO3, load.OURS, load.FLOOR)
    )
    rate, rate_ours = (told.figure(busy, name, load.RATE) for name in (load.BOTO3, load.OURS))
    yield _prose(
        f"""
        The links of a page of 200 take {making} ms of CPU with boto3 and {making_ours} ms here, when they are
        held. Such a page comes from Starlette on uvicorn, one process, after {p50} ms with boto3, {p50_ours}
        ms with this library, and {floor} ms where links cost nothing. A busy process serves {rate} pages a
        second with boto3 and {rate_ours} with this library.
        """
    )
    yield ""
    yield _prose(
        f"""
        A cache around boto3 helps too: cachetools' TTLCache answers in {told.us(held, Cachetools.NAME)} µs,
        dogpile.cache in {told.us(held, Dogpile.NAME)}, aiocache in {told.us(held, Aiocache.NAME)}, cashews in
        {told.us(held, Cashews.NAME)}. None of them knows when the session ends that signed a URL, and none
        renews a URL before a request has to wait for it. Where a few links a minute are all there is, [boto3
        will do](why-not-boto3.md).
        """
    )


def _memcached(told: _Told) -> Iterator[str]:
    one, many = cases.SHARED, cases.SHARED_PAGE
    yield "## When does memcached help?"
    yield ""
    yield _prose(
        f"""
        Not with speed. With memcached on the same machine a URL from there takes {told.us(one, "url()")} µs,
        {told.beside(one, "url()", Pymemcache.NAME)} a bare get of pymemcache; to sign it takes
        {told.us(cases.COLD, "url()")}. Of a page of 100 on an event loop each takes
        {told.us(many, "await aurls()")} µs in one call and {told.us(many, "gather of aurl()")} where 100 are
        awaited together; emcache's bare gets take {told.us(many, Emcache.NAME)} together, and
        {told.us(many, Emcache.NAME_OF_MANY)} in one `get_many`. To sign a page takes
        {told.us(cases.COLD_PAGE, "await aurls()")} µs a URL.
        """
    )
    yield ""
    yield _prose(
        """
        It helps where processes would sign differently. Hosts with sessions of their own (roles on EC2, ECS,
        EKS, Lambda) then hand out one URL of an object, and browsers and CDNs find it in their caches. With
        static keys every process makes the same URL without asking: leave memcached out, or say
        `Policy(shared_reads="auto")`. And it carries what was [taken back](../how-to/invalidate.md) to all
        processes.
        """
    )


def _load(told: _Told) -> Iterator[str]:
    yield "## Pages under load"
    for title in told.titles("Load"):
        yield ""
        yield from told.sheet(title)


def _one_url(told: _Told) -> Iterator[str]:
    yield "## One URL, and a page of 200"
    for title in (cases.HELD, cases.HELD_PAGE, cases.COLD, cases.COLD_PAGE):
        yield ""
        yield from told.table_of(title)
    yield ""
    yield _prose(
        """
        Some sign for another host, as their documentation has it: libpresign for the global one, signurlarity
        with the bucket in the path. aiobotocore wants an older botocore, and runs in a process of its own.
        """
    )


def _shared(told: _Told) -> Iterator[str]:
    yield "## From memcached"
    for title in (cases.SHARED, cases.SHARED_PAGE):
        yield ""
        yield from told.table_of(title)


def _idle(told: _Told) -> Iterator[str]:
    yield "## Requests that fetch nothing"
    yield ""
    for title, ours, bare in (
        (cases.IDLE_ASGI, "PresignMiddleware()", "bare Starlette"),
        (cases.IDLE_WSGI, "PresignMiddleware(Flask)", "bare Flask"),
        (cases.UNCOVERED_HTTPX, "intercept(httpx)", "httpx"),
        (cases.UNCOVERED_REQUESTS, "intercept(requests)", "requests"),
    ):
        yield f"- {title}: {told.us(title, ours)} µs; {told.us(title, bare)} without this library."


def _others(told: _Told) -> Iterator[str]:
    yield "## Memory, threads, import"
    for title in (memory.TITLE, threads.TITLE, imports.TITLE):
        yield ""
        yield from told.sheet(title)


def _zipf(told: _Told) -> Iterator[str]:
    yield "## A day of requests"
    yield ""
    yield from told.sheet(zipf.TITLE)
    yield ""
    yield _prose(
        """
        A signature is needed for each object and window in which it is asked for at all, whoever keeps the
        URLs: that is the second row. "no boto3" is the share of requests for which boto3 was not called.
        """
    )


def _losses(told: _Told) -> Iterator[str]:
    yield "## What it loses"
    yield ""
    losses = list(told.losses())
    if not losses:
        yield "Nobody, in this run."
        return
    yield "| in | is faster, or takes less | with | than | by a factor of |"
    yield "|---|---|--:|---|--:|"
    yield from losses


def _goals(told: _Told) -> Iterator[str]:
    yield "## Goals"
    yield ""
    yield "| | measured | | floor |"
    yield "|---|--:|---|--:|"
    words = {True: "met", False: "**missed**", None: "not measured"}
    for goal in told.all["goals"]:
        floor = "" if goal["floor"] is None else goal["floor_said"]
        yield f"| {goal['goal']} | {goal['said']} | {words[goal['met']]} | {floor} |"
    yield ""
    yield _prose(
        """
        A floor is what the least that Python takes for it comes to: one function that signs by this library's
        signer, or gets an entry with pymemcache and checks it by signing, and holds the URL in a dict; for a
        request, a middleware that sets one context variable. Nothing of it is bounded, counted, renewed or
        taken back. A goal that its floor misses is out of Python's reach.
        """
    )
    missed = [goal for goal in told.all["goals"] if goal["met"] is False and goal["is_in_reach"]]
    if missed:
        yield ""
        yield _prose(
            f"""
            The other goals that are missed ({len(missed)}) are missed by what makes a library of such a
            function: the origin of a target is looked for, credentials and clocks are looked at, one thread
            signs an object and the others wait for it, everything is counted and bounded. [What each of these
            takes](#where-the-time-goes) is measured, too.
            """
        )


def _layers(told: _Told) -> Iterator[str]:
    cold, shared, url = cases.COLD_LAYERS, cases.SHARED_LAYERS, layers.URL
    checking = told.median(cases.SHARED, SharedFloors.NAME) - told.median(cases.SHARED, Pymemcache.NAME)
    yield "## Where the time goes"
    yield ""
    yield _prose(
        f"""
        Each function has those above it within it, and is timed by itself. Of the {told.us(cold, url)} µs
        of a URL that has to be signed, its two texts and their hashes take
        {told.us(cold, "Signer.sign()")}; with credentials, clocks, epochs and what is to be known of the URL
        later it is {told.us(cold, "Signing.sign()")}; with one signature an object however many threads ask
        for it, a table that is bounded, and counters, {told.us(cold, "Resolver.quick()")}. The rest is to
        find the object that a text names, and the request it is for.
        """
    )
    yield ""
    yield from told.table_of(cold)
    yield ""
    yield _prose(
        f"""
        Of the {told.us(shared, url)} µs of one that memcached has, pymemcache takes
        {told.us(shared, layers.PYMEMCACHE)}; with a deadline that holds for the whole answer, and a breaker,
        it is {told.us(shared, "Servers.read()")}; with the key's digest, and a signature to check what was
        found, {told.us(shared, "Shared.read()")}; with one flight an object, a table and counters,
        {told.us(shared, "Runner.wait_for()")}. All of it takes longer after a wait, when the processor has
        done something else: the one function that signs in {told.us(cases.COLD, Floors.NAME)} µs takes
        {_number(checking)} to name an entry and to check it by signing.
        """
    )
    yield ""
    yield from told.table_of(shared)


def _versions(told: _Told) -> Iterator[str]:
    yield "## Versions"
    yield ""
    yield ", ".join(f"{name} {number or 'missing'}" for name, number in told.all["versions"].items()) + "."


_PARTS: Sequence[Part] = (
    _begin,
    _why_not_boto3,
    _memcached,
    _losses,
    _goals,
    _layers,
    _load,
    _one_url,
    _shared,
    _idle,
    _others,
    _zipf,
    _versions,
)


def page(told: Mapping[str, Any]) -> str:
    """Return the page. What the run has not measured, or who was missing, is left out with its section."""
    found = _Told(told)
    sections = []
    for part in _PARTS:
        try:
            sections.append("\n".join(part(found)))
        except KeyError:  # not measured
            continue
    return "\n\n".join(sections) + "\n"


def table(told: Mapping[str, Any]) -> str:
    """Return the README's table. Raises KeyError: the run was not a full one."""
    found = _Told(told)
    held, cold, boto3 = cases.HELD, cases.COLD, Boto3.NAME

    def row(what: str, ours: str, boto3: str, other: str) -> str:
        return f"| {what} | {ours} | {boto3} | {other} |"

    def load_row(what: str, title: str, heading: str) -> str:
        ours, theirs, floor = (
            found.figure(title, name, heading) for name in (load.OURS, load.BOTO3, load.FLOOR)
        )
        return row(what, ours, theirs, f"{floor} without links")

    lines = [
        "| | presign-middleware | boto3 | for comparison |",
        "|---|--:|--:|---|",
        row(
            "A URL that is held, µs",
            found.us(held, "url()"),
            found.us(held, boto3),
            f"{found.us(held, Dict.NAME)} a dict",
        ),
        row(
            "A URL that has to be signed, µs",
            found.us(cold, "url()"),
            found.us(cold, boto3),
            f"{found.us(cold, Hashes.NAME)} two hashes, {found.us(cold, Signers.OBSTORE)} obstore",
        ),
        load_row("A page of 200 links from Starlette, ms", load.STARLETTE_ALONE, load.P50),
        load_row("The same, pages a second", load.STARLETTE_BUSY, load.RATE),
    ]
    if _is_busy(told):
        lines += ["", "The machine was busy with other things, and these figures are not final."]
    return "\n".join(lines)


def _is_busy(told: Mapping[str, Any]) -> bool:
    return bool(max(told["load_before"], told["load_after"]) > _BUSY)


def main() -> None:
    """Write the page, the picture and the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.document", description=__doc__)
    parser.add_argument("json", type=Path, help="what `make bench ARGS='--json PATH'` wrote")
    parser.add_argument("--into", type=Path, default=_ROOT, metavar="ROOT", help="whose README and docs")
    options = parser.parse_args()
    told = json.loads(options.json.read_text())
    readme: Path = options.into / "README.md"
    (options.into / _PAGE).write_text(page(told))
    plot(told, options.into / _PICTURE)
    between = re.compile(f"({re.escape(BEGIN)}\n).*?({re.escape(END)})", re.DOTALL)
    text, places = between.subn(lambda marks: f"{marks[1]}{table(told)}\n{marks[2]}", readme.read_text())
    if places != 1:
        raise SystemExit(f"{readme} has not one place for the table, between {BEGIN} and {END}")
    readme.write_text(text)


if __name__ == "__main__":
    main()
