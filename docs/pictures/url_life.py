"""
Draws url-life.svg: the life of a URL, computed by the policy's own functions.

    python docs/pictures/url_life.py [PATH]
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from presign_middleware import Policy
from presign_middleware.policy import Credential, Life

WIDTH, HEIGHT = 760, 470
LEFT, RIGHT = 34, 728  # the time axis, in pixels
UNTIL = 72 * 60  # seconds on the axis
BAR = 30  # pixels

#: A URL signed at 0:00 by a session that ends at 0:40, an hour after it began.
SESSION = Credential(obtained=-20 * 60, end=40 * 60, reason="credentials")

PATTERNS = """
  <defs>
    <pattern id="ageing" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
      <rect width="8" height="8" fill="#fff8c5"/><rect width="3" height="8" fill="#9a6700"/>
    </pattern>
    <pattern id="spent" width="7" height="7" patternUnits="userSpaceOnUse">
      <rect width="7" height="7" fill="#ffffff"/><circle cx="3.5" cy="3.5" r="1.2" fill="#57606a"/>
    </pattern>
  </defs>
  <style>
    text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
    .title { font-weight: 600; }
    .phase { font-size: 12px; font-weight: 600; text-anchor: middle; }
    .time { font-size: 12px; fill: #57606a; text-anchor: middle; }
    .fresh { fill: #1a7f37; stroke: #1a7f37; }
    .ageing { fill: url(#ageing); stroke: #9a6700; }
    .spent { fill: url(#spent); stroke: #57606a; }
    .session { fill: #ddf4ff; stroke: #0969da; }
    .both { fill: #0969da; fill-opacity: 0.08; stroke: #0969da; stroke-dasharray: 4 3; }
    .line { stroke: #57606a; }
  </style>"""


def x(instant: float) -> float:
    """Return where *instant*, in seconds, is on the axis."""
    return round(LEFT + (RIGHT - LEFT) * min(max(instant, 0), UNTIL) / UNTIL, 1)


def clock(instant: float) -> str:
    """Return *instant* as hours and minutes."""
    return f"{int(instant) // 3600}:{int(instant) // 60 % 60:02}"


def box(name: str, begin: float, end: float, y: float, height: float = BAR) -> str:
    """Return a rectangle from *begin* to *end*, in seconds."""
    return f'<rect class="{name}" x="{x(begin)}" y="{y}" width="{x(end) - x(begin):.1f}" height="{height}"/>'


def text(name: str, at: float, y: float, said: str) -> str:
    """Return *said* at *at* pixels from the left."""
    kind = f' class="{name}"' if name else ""
    return f'<text{kind} x="{at}" y="{y}">{said}</text>'


def bar(date: float, life: Life, y: float) -> Iterator[str]:
    """Yield the phases of a URL that is signed at *date*, with their names and the instants between them."""
    phases = [("fresh", date, life.fresh_until), ("ageing", life.fresh_until, life.ageing_until)]
    for name, begin, end in [*phases, ("spent", life.ageing_until, life.end)]:
        if begin >= UNTIL:
            break
        yield box(name, begin, end, y)
        if end <= UNTIL:
            yield text("phase", (x(begin) + x(end)) / 2, y - 6, name.upper())
            yield text("time", x(end), y + BAR + 15, clock(end))
        else:
            yield text("phase", (x(begin) + 60 + RIGHT) / 2, y - 6, f"{name.upper()}, until {clock(end)}")
    yield text("time", x(date), y + BAR + 15, clock(date))


def picture() -> str:
    """Return the SVG."""
    rotation = Policy().rotation(Policy().lifetime)
    first, second = rotation.life(0), rotation.life(rotation.period)
    short = rotation.life(0, SESSION)
    overlap = first.ageing_until - rotation.period
    tops = (64, 152, 296)
    parts = [
        text("title", LEFT, 30, "Two URLs of one object: each has its window"),
        box("both", rotation.period, first.ageing_until, 40, tops[1] + BAR + 4 - 40),
        *bar(0, first, tops[0]),
        *bar(rotation.period, second, tops[1]),
        text("", LEFT, tops[1] + 13, f"for {overlap / 60:g} minutes both are served: the old one by whoever"),
        text("", LEFT, tops[1] + 30, "holds it still, the new one by whoever has renewed it"),
        text("", x(first.end) + 7, tops[0] + 13, "S3 refuses it"),
        text("", x(first.end) + 7, tops[0] + 29, f"({first.reason})"),
        text("title", LEFT, 252, "A URL whose session ends first"),
        *bar(0, short, tops[2]),
        text("", x(short.end) + 7, tops[2] + 13, f"S3 refuses it, {(first.end - short.end) / 60:g} minutes"),
        text("", x(short.end) + 7, tops[2] + 29, f"before its lifetime is over ({short.reason})"),
        *session(tops[2] + BAR + 26),
        *legend(HEIGHT - 26),
    ]
    body = "\n  ".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" \
viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title desc">
  <title id="title">How long a URL lives</title>
  <desc id="desc">{said(first, second, short)}</desc>{PATTERNS}
  <rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8" fill="#ffffff" stroke="#d0d7de"/>
  {body}
</svg>
"""


def session(y: float) -> Iterator[str]:
    """Yield the session's bar, below the URL that it signs."""
    renewed = SESSION.end - (SESSION.end - SESSION.obtained) / 3
    yield box("session", 0, SESSION.end, y, 22)
    yield text("", LEFT + 8, y + 16, "its session, 20 min old")
    yield f'<line class="line" x1="{x(renewed)}" y1="{y - 3}" x2="{x(renewed)}" y2="{y + 25}"/>'
    yield text("", x(renewed) + 6, y + 16, "role_arn: the next is fetched")
    yield text("time", x(renewed), y + 38, clock(renewed))
    yield text("time", x(SESSION.end), y + 38, clock(SESSION.end))


def legend(y: float) -> Iterator[str]:
    """Yield what the patterns mean."""
    entries: Sequence[tuple[int, str, str]] = (
        (LEFT, "fresh", "FRESH: served"),
        (186, "ageing", "AGEING: served, renewed after the response"),
        (548, "spent", "SPENT: not served"),
    )
    for at, name, meaning in entries:
        yield f'<rect class="{name}" x="{at}" y="{y - 12}" width="22" height="15"/>'
        yield text("", at + 29, y, meaning)


def said(first: Life, second: Life, short: Life) -> str:
    """Return the picture in words."""
    return (
        f"A URL signed at 0:00 is FRESH until {clock(first.fresh_until)}, AGEING until "
        f"{clock(first.ageing_until)}, SPENT until S3 refuses it at {clock(first.end)}. "
        f"The next one is signed at {clock(second.end - first.end)}. "
        f"One whose session ends at {clock(short.end)} is FRESH until {clock(short.fresh_until)}, "
        f"AGEING until {clock(short.ageing_until)}, and SPENT until {clock(short.end)}."
    )


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("url-life.svg")
    path.write_text(picture(), encoding="utf-8")
