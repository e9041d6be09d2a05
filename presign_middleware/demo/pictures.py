"""
Small pictures to put into a bucket: landscapes, no two alike, the same on every machine.
"""

from math import sin
from random import Random

__all__ = ["keys", "landscape"]

_WIDTH, _HEIGHT = 320, 240


def keys(count: int) -> list[str]:
    """Return the keys under which the landscapes 1 to *count* are stored."""
    return [f"landscape-{number:03}.svg" for number in range(1, count + 1)]


def landscape(number: int) -> bytes:
    """Return an SVG of about 1 KB: a sky, a sun, three ranges of hills and *number*."""
    dice = Random(number)
    hue = number * 137.508 % 360  # the golden angle: neighbours never look alike
    sun = (
        f'<circle cx="{dice.randrange(50, 270)}" cy="{dice.randrange(50, 130)}" r="{dice.randrange(16, 34)}"'
    )
    hills = "".join(_hills(dice, hue, distance) for distance in (2, 1, 0))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
        f"<title>Landscape {number}</title>"
        '<linearGradient id="sky" x2="0" y2="1">'
        f'<stop stop-color="hsl({hue:.0f} 65% 46%)"/>'
        f'<stop offset="1" stop-color="hsl({hue + 50:.0f} 85% 82%)"/></linearGradient>'
        f'<path fill="url(#sky)" d="M0 0h{_WIDTH}v{_HEIGHT}H0z"/>'
        f'{sun} fill="hsl({hue + 60:.0f} 100% 93%)"/>{hills}'
        f'<text x="16" y="224" font-family="system-ui, sans-serif" font-size="22" fill="#fff">{number}</text>'
        "</svg>"
    ).encode()


def _hills(dice: Random, hue: float, distance: int) -> str:
    """Return one range of hills; the further away, the paler and the higher."""
    top, rise, pitch, phase = (
        200 - 28 * distance,
        dice.uniform(10, 26),
        dice.uniform(40, 80),
        dice.uniform(0, 6),
    )
    ridge = "L".join(f"{x} {top - rise * sin(x / pitch + phase):.0f}" for x in range(0, _WIDTH + 1, 20))
    colour = f"hsl({hue + 20:.0f} 38% {24 + 15 * distance}%)"
    return f'<path fill="{colour}" d="M0 {_HEIGHT}L{ridge}L{_WIDTH} {_HEIGHT}z"/>'
