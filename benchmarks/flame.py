"""A flame graph: who called whom, as wide as the time spent there (Gregg 2016, ACM Queue 14(2))."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

ROOM = 0.0062
"""A frame needs this share of the width to be named for each of its letters."""

THIN = 0.004
"""A frame with less than this share of the time is not drawn."""

COLOURS = {"fedhw": "#4878a8", "torch": "#c87840", "numpy": "#6a9a58"}

FRAME = re.compile(r"(.*) \(.*/(fedhw|torch|numpy)/[^()]*\)")
PLUMBING = re.compile(r"decorate_context|_call_impl|_wrapped_call_impl|<listcomp>|<genexpr>")

Stack = tuple[str, ...]


def stacks_of(raw: str, first: str) -> Counter[Stack]:
    r"""Read what `py-spy record --format raw --full-filenames` writes, from the frame `first` up.

    Frames outside fedhw, torch and numpy, calls of calls within torch, and imports are left out.

    >>> raw = "idle (/x/a.py:1) 7\nwork (/x/a.py:1);T.run (/x/fedhw/t.py:3);mm (/x/torch/m.py:9) 3"
    >>> stacks_of(raw, "fedhw: T.run")
    Counter({('fedhw: T.run', 'torch: mm'): 3})
    """
    found: Counter[Stack] = Counter()
    for line in raw.splitlines():
        frames, _, samples = line.rpartition(" ")
        stack = [
            f"{match[2]}: {match[1]}"
            for frame in frames.split(";")
            if (match := FRAME.fullmatch(frame)) and not PLUMBING.search(match[1])
        ]
        if first in stack and not any(frame.endswith(": <module>") for frame in stack):
            found[tuple(stack[stack.index(first) :])] += int(samples)
    return found


def frames_of(stacks: Counter[Stack], depth: int = 0) -> Iterator[tuple[str, int, int, int]]:
    """Yield (frame, depth, first sample, samples) of every frame, siblings by their width."""
    callees: dict[str, Counter[Stack]] = {}
    for stack, samples in stacks.items():
        if stack:
            callees.setdefault(stack[0], Counter())[stack[1:]] += samples
    start = 0
    for frame, above in sorted(callees.items(), key=lambda item: -item[1].total()):
        yield frame, depth, start, above.total()
        for name, level, offset, width in frames_of(above, depth + 1):
            yield name, level, start + offset, width
        start += above.total()


def draw(stacks: Counter[Stack], path: Path) -> None:
    """Write the graph as SVG."""
    whole = stacks.total()
    frames = [frame for frame in frames_of(stacks) if frame[-1] > THIN * whole]
    levels = 1 + max(level for _, level, _, _ in frames)
    figure = Figure(figsize=(11, 0.32 * levels), layout="constrained")
    axes = figure.subplots()
    for frame, level, start, samples in frames:
        package, _, function = frame.partition(": ")
        width = samples / whole
        colour = COLOURS.get(package, "#888888")
        axes.barh(level, width, 0.94, start / whole, color=colour, edgecolor="white", lw=0.4)
        label = f"{function} {width:.0%}"
        if width > ROOM * len(label):
            axes.text(
                (start + samples / 2) / whole,
                level,
                label,
                size=8,
                ha="center",
                va="center",
                color="white",
            )
    axes.set(xlim=(0, 1), ylim=(-0.5, levels - 0.5))
    axes.axis("off")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fedhw"}):
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})
