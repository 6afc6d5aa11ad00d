"""The pictures of reports, as SVG that follows the theme of its page."""

import io
import re
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

Floats = NDArray[np.floating]

STICKS = 400
"""The most writers in one picture."""

# Stand-ins for the custom properties of the page: SVG takes them, matplotlib does not.
_TEXT, _FAINT, _BLUE, _ORANGE = "#000001", "#000002", "#000003", "#000004"
_PROPERTIES = {_TEXT: "--text", _FAINT: "--faint", _BLUE: "--blue", _ORANGE: "--orange"}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _TEXT,
    "ytick.labelcolor": _TEXT,
    "text.color": _TEXT,
    "legend.frameon": False,
}


def standard_error(values: Floats) -> float:
    """Return the standard error of the mean, NaN of a single value.

    >>> standard_error(np.array([1.0, 3.0]))
    1.0
    """
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


@matplotlib.rc_context(_STYLE)
def before_and_after(before: Floats, after: Floats) -> str:
    """Draw each writer's accuracy before and after, in the order of the accuracy before.

    Of more than `STICKS` writers only that many are drawn, evenly spaced in that order.
    """
    order = np.argsort(before, kind="stable")
    order = order[np.linspace(0, len(order) - 1, min(STICKS, len(order))).round().astype(int)]
    before, after = 100 * before[order], 100 * after[order]
    place = np.arange(1, len(order) + 1)
    size = float(np.clip(240 / len(order), 1.5, 5))
    figure, axes = _canvas("writers, by accuracy before", "characters recognised, %")
    axes.plot(place, before, "o", ms=size, color=_FAINT, mfc="none", label="before")
    for label, which, marker, colour in (
        ("after", after >= before, "o", _BLUE),
        ("after, worse", after < before, "v", _ORANGE),
    ):
        if which.any():
            axes.vlines(place[which], before[which], after[which], color=colour, lw=size / 4)
            axes.plot(place[which], after[which], marker, ms=size, color=colour, label=label)
    axes.xaxis.set_major_locator(NullLocator())
    return _svg(figure, "Accuracy of each writer before and after")


@matplotlib.rc_context(_STYLE)
def gain_by_samples(curve: Mapping[int, Floats], samples: float, gains: Floats) -> str:
    """Draw the writers' mean gain by samples learned from, and mark the experiment's own."""
    counts = list(curve)
    mean = 100 * np.array([g.mean() for g in curve.values()])
    error = 100 * np.array([standard_error(g) for g in curve.values()])
    figure, axes = _canvas("characters learned from", "gain, points")
    axes.fill_between(counts, mean - error, mean + error, color=_BLUE, alpha=0.2, lw=0)
    axes.plot(counts, mean, color=_BLUE, marker="o", ms=4, label="mean, standard error")
    axes.errorbar(
        [samples],
        [100 * gains.mean()],
        [100 * standard_error(gains)],
        color=_TEXT,
        marker="D",
        ms=5,
        ls="",
        label=f"this experiment: {samples:.0f}",
    )
    axes.axhline(0, color=_FAINT, lw=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(k) for k in counts])
    return _svg(figure, "Mean gain by characters learned from")


@matplotlib.rc_context(_STYLE)
def gate_openings(own: NDArray[np.integer], generic: NDArray[np.integer]) -> str:
    """Draw how far the gates open for the writers' own characters and for generic ones.

    Both are counts in equal steps from 0 to 1.
    """
    edges = np.linspace(0, 1, len(own) + 1)
    figure, axes = _canvas("opening of the gate", "share of the characters, %")
    for openings, label, colour, line in (
        (own, "the writer's own", _BLUE, "-"),
        (generic, "generic", _ORANGE, "--"),
    ):
        share = 100 * openings / openings.sum()
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.2)
        axes.stairs(share, edges, color=colour, ls=line, label=label)
    return _svg(figure, "Distribution of gate openings")


@matplotlib.rc_context(_STYLE)
def by_day(
    title: str, up: str, lines: Mapping[str, Floats], intervals: tuple[Floats, Floats] | None = None
) -> str:
    """Draw up to four lines over the days, and the intervals that estimate the first of them."""
    figure, axes = _canvas("day", up)
    if intervals is not None:
        low, high = intervals
        days = np.arange(1, len(low) + 1)
        axes.vlines(days, low, high, color=_ORANGE, lw=1.5, label="estimate")
    ways = ((_BLUE, "-"), (_TEXT, ":"), (_FAINT, "--"), (_ORANGE, "-."))
    for (label, values), (colour, way) in zip(lines.items(), ways, strict=False):
        axes.plot(np.arange(1, len(values) + 1), values, way, color=colour, label=label)
    return _svg(figure, title)


@matplotlib.rc_context(_STYLE)
def devices_by_version(versions: Mapping[str, Floats], online: Floats) -> str:
    """Draw how many devices run each version on each day, and how many are online."""
    figure, axes = _canvas("day", "devices")
    days, below = np.arange(1, len(online) + 1), np.zeros(len(online))
    for count, (name, devices) in enumerate(versions.items(), 1):
        above, depth = below + devices, 0.15 + 0.75 * count / len(versions)
        axes.fill_between(days, below, above, color=_BLUE, alpha=depth, lw=0, label=name)
        below = above
    axes.plot(days, online, color=_ORANGE, label="online")
    return _svg(figure, "Devices by the version that they run, day by day")


def _canvas(across: str, up: str) -> tuple[Figure, Axes]:
    # As wide as a phone, so that the text is as large as the page's there.
    figure = Figure(figsize=(4.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return figure, axes


def _svg(figure: Figure, title: str) -> str:
    figure.legend(loc="outside upper left", ncols=3, handletextpad=0.4, columnspacing=1.2)
    file = io.StringIO()
    # The salt keeps the identifiers of several pictures in one page apart.
    with matplotlib.rc_context({"svg.hashsalt": title}):
        figure.savefig(file, format="svg", transparent=True)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'width="[^"]*" height="[^"]*"', f'role="img" aria-label="{title}"', svg, count=1)
    for colour, name in _PROPERTIES.items():
        svg = svg.replace(colour, f"var({name})")
    return svg
