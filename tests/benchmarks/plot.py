"""Draws what a run has told: bars of microseconds, on a scale of powers of ten."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .cases import COLD, HELD, SHARED_PAGE
from .installed import found

__all__ = ["plot"]

#: Cases that are drawn, and what their pictures are called.
_PANELS = {
    HELD: "A URL that is held: µs",
    COLD: "A URL that has to be signed: µs",
    SHARED_PAGE: "One of 100 URLs from memcached, asyncio: µs",
}

_OURS, _PEER, _FLOOR = "#0969da", "#8c959f", "#d0d7de"


def plot(told: Mapping[str, Any], path: Path) -> None:
    """
    Draw the cases of *told*, which is `as_json`'s, as an SVG or PNG at *path*.

    Raises:
        SystemExit: matplotlib is not installed.
    """
    matplotlib = found("matplotlib")
    if matplotlib is None:
        raise SystemExit("matplotlib is not installed: pip install --group bench")
    matplotlib.use("agg")
    # The same figures make the same file; text stays text, in the reader's font.
    matplotlib.rcParams.update({"svg.hashsalt": "presign-middleware", "svg.fonttype": "none", "font.size": 9})
    pyplot = found("matplotlib.pyplot")
    panels = {
        title: [row for row in told["rows"] if row["case"] == case and not row["missing"]]
        for case, title in _PANELS.items()
    }
    panels = {title: rows for title, rows in panels.items() if rows}
    sizes = [len(rows) + 2 for rows in panels.values()] or [1]
    figure, axes = pyplot.subplots(
        len(sizes), figsize=(7.6, 0.24 * sum(sizes) + 0.4), height_ratios=sizes, squeeze=False
    )
    for (axis,), (title, rows) in zip(axes, panels.items(), strict=False):
        rows.sort(key=lambda row: -row["median_us"])
        medians = [row["median_us"] for row in rows]
        colours = [_OURS if row["ours"] else _FLOOR if row["floor"] else _PEER for row in rows]
        bars = axis.barh([row["name"] for row in rows], medians, color=colours, log=True)
        axis.bar_label(bars, [f" {us:,.3g}" for us in medians], fontsize=8)
        axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axis.set_xlim(min(medians) / 2, max(medians) * 3)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.tick_params(bottom=False, labelbottom=False, left=False)
        axis.minorticks_off()
    figure.tight_layout()
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, metadata=metadata)
    pyplot.close(figure)
