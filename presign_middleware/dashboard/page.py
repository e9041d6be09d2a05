"""
The page as HTML. All of it is made here, charts too, so that it can be read without JavaScript.

What changes is in parts, by the ids of their elements; a script puts newer ones in their places.
Nothing has a style of its own, which the page's Content-Security-Policy would refuse.
"""

import time
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from ..origins import Origin
from ..redaction import redact
from ..worker import SLOT, SLOTS, Worker
from .picture import Finding, Picture, is_near, spoken

__all__ = ["document", "parts"]

#: Height and width of the chart's own units; it is stretched to the room there is.
_WIDTH, _HEIGHT = 590, 120

_LAYERS: Final = (("here", "had in this process"), ("shared", "from memcached"), ("signed", "signed"))

_TIERS: Final = (
    ("from_scope", "this request had it"),
    ("from_local", "this process had it"),
    ("from_flight", "joined a resolution under way"),
    ("from_shared", "memcached had it"),
    ("from_signer", "signed"),
)

_AGES: Final = (
    "not served any more",
    "under 1 min",
    "1 to 5 min",
    "5 to 15 min",
    "15 to 30 min",
    "30 to 60 min",
    "1 to 6 h",
    "over 6 h",
)

_WORDS: Final = {"healthy": "Healthy", "attention": "Needs attention", "failing": "Failing"}

_DOCUMENT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Presigned URLs</title>
<link rel="icon" href="icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="page.css">
<noscript><meta http-equiv="refresh" content="10"></noscript>
<script src="page.js" defer></script>
</head>
<body>
<header>
<h1>Presigned URLs</h1>
<p id="health" role="status">{health}</p>
<p id="about">{about}</p>
</header>
<main>
<section id="findings" aria-label="What is wrong">{findings}</section>
<section aria-label="Figures"><dl id="figures">{figures}</dl></section>
<div class="pair">
<section aria-labelledby="h-traffic"><h2 id="h-traffic">URLs handed out</h2>
<div id="traffic">{traffic}</div></section>
<section aria-labelledby="h-ages"><h2 id="h-ages">Remaining life of what is held</h2>
<table class="bars"><caption class="unseen">URLs held, by what is left of their lives</caption>
<thead class="unseen">
<tr><th scope="col">left</th><th scope="col">share</th><th scope="col">URLs</th></tr></thead>
<tbody id="ages">{ages}</tbody></table>
<p class="note">Estimated from 200 URLs of each process.</p></section>
</div>
<div class="pair">
<section aria-labelledby="h-tiers"><h2 id="h-tiers">Where URLs came from</h2>
{tiers_table}</section>
<section aria-labelledby="h-servers"><h2 id="h-servers">memcached</h2>
{servers_table}
<p class="note" id="latency">{latency}</p></section>
</div>
<section aria-labelledby="h-origins"><h2 id="h-origins">Origins</h2>
{origins_table}</section>
<section aria-labelledby="h-workers"><h2 id="h-workers">Processes</h2>
{workers_table}
<p class="note" id="fleet">{fleet}</p></section>
<section aria-labelledby="h-events"><h2 id="h-events">Recent events</h2>
{events_table}
<p class="note">The last ten of each process, as far as its loggers' levels let them through.</p></section>
</main>
<footer><p>No keys of objects, URLs or secrets are shown. Instants are UTC.
<a href="data.json">All of it as JSON</a>.</p></footer>
<p id="lost" role="alert" hidden>No answer: what is shown is old.</p>
</body>
</html>
"""


def document(picture: Picture) -> str:
    """Return the whole page."""
    made = parts(picture)
    return _DOCUMENT.format(
        **made,
        tiers_table=_table("tiers", ("came from", "URLs", "share"), made["tiers"]),
        servers_table=_table("servers", ("server", "state", "as seen by"), made["servers"]),
        origins_table=_table(
            "origins", ("origin", "objects", "policy", "credentials end", "learned of S3"), made["origins"]
        ),
        workers_table=_table(
            "workers",
            ("process", "up for", "URLs", "hit rate", "signed", "failed", "held", "last told"),
            made["workers"],
        ),
        events_table=_table("events", ("at", "level", "process", "event"), made["events"]),
    )


def parts(picture: Picture) -> dict[str, str]:
    """Return what changes, by the ids of the elements that it is in."""
    return {
        "health": _health(picture),
        "about": _about(picture),
        "findings": "".join([_finding(finding) for finding in picture.findings]),
        "figures": _figures(picture),
        "traffic": _traffic(picture),
        "ages": _ages(picture),
        "tiers": _tiers(picture),
        "servers": _servers(picture),
        "latency": _latency(picture),
        "origins": _origins(picture),
        "workers": "".join([_worker(worker) for worker in _in_order(picture.workers)]),
        "fleet": _fleet(picture),
        "events": _events(picture),
    }


def _health(picture: Picture) -> str:
    return f'<span class="pill {picture.health}">{_WORDS[picture.health]}</span>'


def _about(picture: Picture) -> str:
    hosts = len({worker.host for worker in picture.workers})
    fleet = f"{_many(len(picture.workers), 'process', 'processes')} on {_many(hosts, 'host')}"
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(picture.now))
    return f'{fleet}, as of <time datetime="{at}">{at[11:19]} UTC</time>'


def _finding(finding: Finding) -> str:
    since = f' <span class="since">{escape(finding.since)}</span>' if finding.since else ""
    return (
        f'<article class="finding {finding.weight}"><h3>{escape(finding.what)}{since}</h3>'
        f"<p>{escape(finding.cure)} In the documentation: {escape(finding.page)}.</p></article>"
    )


def _figures(picture: Picture) -> str:
    counts, lately = picture.counts, picture.lately
    recent = lately.here + lately.shared + lately.signed
    hits = _share(recent - lately.signed, recent)
    ends = [first for name in _names(picture) if (first := picture.first_end(name)) is not None]
    if ends:
        left, held = min(ends, key=lambda each: each[0])
        tone = " failing" if left <= 0 else " near" if is_near(left, held) else ""
        end = ("now" if left <= 0 else spoken(left), "assumed" if held.is_assumed else "then renewed", tone)
    else:
        end = ("no end", "none known to end", "")
    return "".join(
        [
            _figure("Hit rate, last 5 min", hits, f"{_percent(picture.hit_rate)} since start"),
            _figure("URLs a second", f"{picture.rate:,.1f}", f"{counts['resolved']:,} in all"),
            _figure("boto3 calls saved", f"{picture.saved:,}", f"{picture.made:,} made"),
            _figure("Signatures made", f"{counts['signed']:,}", f"{counts['refreshed']:,} renewals"),
            _figure("Failed, last 5 min", f"{lately.failed:,}", f"{counts['failed']:,} in all",
                    " failing" if lately.failed else ""),
            _figure("Credentials end in", *end),
        ]
    )  # fmt: skip


def _figure(name: str, value: str, more: str, tone: str = "") -> str:
    return f'<div class="figure{tone}"><dt>{name}</dt><dd><b>{value}</b> <span>{more}</span></dd></div>'


def _traffic(picture: Picture) -> str:
    """Return a chart of three layers, the one on the other."""
    rows = picture.rows[:-1]  # the last slot has only begun
    most = max([row.here + row.shared + row.signed for row in rows]) or SLOT
    step = _WIDTH / (len(rows) - 1)
    layers, below, said = [], [0.0] * len(rows), []
    for name, words in _LAYERS:
        above = [base + getattr(row, name) for base, row in zip(below, rows, strict=True)]
        line = [f"{x * step:.1f},{_HEIGHT * (1 - y / most):.1f}" for x, y in enumerate(above)]
        base = [f"{x * step:.1f},{_HEIGHT * (1 - y / most):.1f}" for x, y in enumerate(below)]
        layers.append(f'<polygon class="{name}" points="{" ".join(line + base[::-1])}"/>')
        said.append(f"{sum([getattr(row, name) for row in rows]):,} {words}")
        below = above
    legend = "".join([f'<li class="{name}">{words}</li>' for name, words in _LAYERS])
    return (
        f'<p class="axis"><span>{most / SLOT:,.1f} a second at most</span></p>'
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="In the last ten minutes: {", ".join(said)}">{"".join(layers)}</svg>'
        f'<p class="axis"><span>{SLOTS * SLOT // 60} min ago</span><span>now</span></p>'
        f'<ul class="legend">{legend}</ul>'
    )


def _ages(picture: Picture) -> str:
    most = max(picture.ages) or 1
    rows = []
    for place, (label, number) in enumerate(zip(_AGES, picture.ages, strict=True)):
        tone, width = "alive" if place else "spent", f"{100 * number / most:.1f}%"
        bar = (
            f'<svg class="bar" aria-hidden="true"><rect class="{tone}" width="{width}" height="100%"/></svg>'
        )
        rows.append(_row(label, f'<td class="wide">{bar}</td>', _n(f"{number:,}")))
    return "".join(rows)


def _tiers(picture: Picture) -> str:
    counts = picture.counts
    return "".join(
        [
            _row(words, _n(f"{counts[name]:,}"), _n(_share(counts[name], counts["resolved"])))
            for name, words in _TIERS
        ]
    )


def _servers(picture: Picture) -> str:
    if not picture.is_shared:
        return (
            '<tr><td colspan="3">None: each process keeps its own URLs, and only this one is shown.</td></tr>'
        )
    rows = []
    for name, states in picture.servers.items():
        down = [seconds for _, seconds in states if seconds is not None]
        state = (
            f'<td><span class="pill attention">down</span> for {spoken(max(down))}</td>'
            if down
            else '<td><span class="pill healthy">up</span></td>'
        )
        seen = f"{len(down) or len(states)} of {_many(len(states), 'process', 'processes')}"
        rows.append(_row(escape(name), state, _n(seen)))
    return "".join(rows) or '<tr><td colspan="3">None is known yet.</td></tr>'


def _latency(picture: Picture) -> str:
    trips = [worker.round_trip for worker in picture.workers if worker.round_trip is not None]
    counts = picture.counts
    said = f"Since start {_many(counts['shared_errors'], 'failure')} and {counts['shared_misses']:,} misses. "
    if not picture.is_shared:
        return ""
    if not trips:
        return said + "No round trip is known yet."
    return (
        said
        + f"A note to memcached took {min(trips) * 1000:.2f} to {max(trips) * 1000:.2f} ms, as last tried."
    )


def _origins(picture: Picture) -> str:
    known = {origin.name: origin for origin in picture.origins}
    rows = []
    for name in _names(picture):
        held = [each for _, each in picture.held(name)]
        learned = sorted({each.learned for each in held if each.learned})
        rows.append(
            _row(
                escape(name),
                *_where(known.get(name), picture),
                _end(picture, name),
                f"<td>{escape('; '.join(learned)) or 'nothing'}</td>",
            )
        )
    return "".join(rows)


def _where(origin: Origin | None, picture: Picture) -> tuple[str, str]:
    if origin is None:
        return "<td>of another process</td>", "<td></td>"
    policy = origin.policy or picture.policy
    place = f"s3://{redact(origin.bucket)}/{redact(origin.prefix)}"
    at = ", ".join([redact(text) for text in (origin.region, origin.endpoint_url) if text])
    more = [at] * bool(at) + [", ".join(origin.methods)] + ["links only"] * (not origin.catch)
    if origin.fallback:
        more.append(f"falls back to {origin.fallback}")
    rotation = policy.rotation(policy.lifetime)
    lives, left = spoken(policy.lifetime), spoken(rotation.min_remaining)
    said = f"lives {lives}, {left} left at least; on error: {policy.on_error}"
    return (
        f"<td>{escape(place)}<br><small>{escape('; '.join(more))}</small></td>",
        f"<td>{escape(said)}</td>",
    )


def _end(picture: Picture, name: str) -> str:
    failures = [held.failure for _, held in picture.held(name) if held.failure]
    if failures:
        return f'<td class="failing">{escape(failures[0])}</td>'
    first = picture.first_end(name)
    if first is None:
        return "<td>never, or not asked yet</td>"
    left, held = first
    tone = ' class="failing"' if is_near(left, held) else ""
    assumed = " (assumed)" if held.is_assumed else ""
    said = f"in {spoken(left)}" if left > 0 else f"{spoken(-left)} ago"
    return f"<td{tone}>{said}{assumed}</td>"


def _worker(worker: Worker) -> str:
    counts = worker.counts
    hits = _share(counts["resolved"] - counts["from_signer"], counts["resolved"])
    at = time.strftime("%H:%M:%S", time.gmtime(worker.at))
    return _row(
        escape(worker.name),
        _n(spoken(worker.at - worker.started)),
        _n(f"{counts['resolved']:,}"),
        _n(hits),
        _n(f"{counts['signed']:,}"),
        _n(f"{counts['failed']:,}", "failing" if counts["failed"] else ""),
        _n(f"{worker.held:,}"),
        _n(at),
    )


def _fleet(picture: Picture) -> str:
    if not picture.is_shared:
        return "There is no shared cache, so a process knows of no other: this is the one that answered."
    if not picture.is_whole:
        return "The others could not be asked just now: this is the one that answered."
    return (
        "Those that share this memcached and namespace, have this page or publish themselves, and were "
        "asked for anything yet. One that has ended leaves within 15 s. Figures are sums of all."
    )


def _events(picture: Picture) -> str:
    rows = []
    for worker, one in picture.happenings:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one.at))
        tone = "attention" if one.level in ("WARNING", "ERROR", "CRITICAL") else "quiet"
        rows.append(
            f'<tr><th scope="row"><time datetime="{at}">{at[11:19]}</time></th>'
            f'<td><span class="pill {tone}">{escape(one.level.lower())}</span></td>'
            f"<td>{escape(worker.name)}</td><td>{escape(one.text)}</td></tr>"
        )
    return "".join(rows) or '<tr><td colspan="4">None.</td></tr>'


def _table(name: str, heads: Sequence[str], body: str) -> str:
    cells = "".join([f'<th scope="col">{head}</th>' for head in heads])
    # The frame can be scrolled with keys where the table is wider than the screen.
    return (
        f'<div class="frame" role="region" aria-labelledby="h-{name}" tabindex="0"><table>'
        f'<thead><tr>{cells}</tr></thead><tbody id="{name}">{body}</tbody></table></div>'
    )


def _row(head: str, *cells: str) -> str:
    return f'<tr><th scope="row">{head}</th>{"".join(cells)}</tr>'


def _n(text: str, tone: str = "") -> str:
    return f'<td class="number {tone}">{text}</td>' if tone else f'<td class="number">{text}</td>'


def _names(picture: Picture) -> list[str]:
    names: Iterable[str] = (name for worker in picture.workers for name in worker.origins)
    return list(dict.fromkeys(names))[:100]


def _in_order(workers: Sequence[Worker]) -> list[Worker]:
    # Always the same, whichever of them answers.
    return sorted(workers, key=lambda worker: (worker.host, worker.pid))


def _many(number: int, one: str, more: str = "") -> str:
    return f"{number:,} {one if number == 1 else more or f'{one}s'}"


def _share(part: int, whole: int) -> str:
    return _percent(part / whole if whole else None)


def _percent(share: float | None) -> str:
    return "none yet" if share is None else f"{100 * share:.1f} %"
