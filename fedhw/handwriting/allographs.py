"""Allographs, the different ways to write a character: drawn for this project, and one typeface.

A line of `allographs.txt` is `character weight path`. The weight says how common an allograph is
among those of its character. A path is a list of points `x,y`, x to the right and y down, in a box
of about 0..100. A smooth curve runs through them, `!` makes a point a corner, `/` lifts the pen.
"""

from collections.abc import Iterator
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from HersheyFonts import HersheyFonts
from numpy.typing import NDArray

from fedhw.handwriting.alphabet import BYCLASS

_FACE, _FACE_WEIGHT = "futural", 3  # single-stroke letters (A. V. Hershey, 1967)

_STEPS = np.linspace(0, 1, 4)[:, None]  # of a curve from one point of a path to the next


class Allograph(NamedTuple):
    """One way to write a character: strokes [P, 2], y down, in any unit."""

    character: str
    weight: int
    strokes: list[NDArray[np.float64]]


def allographs() -> Iterator[Allograph]:
    """Yield all allographs of all 62 characters: those of the file first, then the typeface.

    >>> sum(allograph.character == "7" for allograph in allographs()) > 3
    True
    """
    table = files("fedhw.handwriting").joinpath("allographs.txt").read_text(encoding="ascii")
    for line in table.splitlines():
        character, weight, path = line.split(maxsplit=2)
        yield Allograph(character, int(weight), [_curve(stroke) for stroke in path.split("/")])
    font = HersheyFonts()
    font.load_default_font(_FACE)
    for character in BYCLASS:
        strokes = [np.array(stroke, float) for stroke in font.strokes_for_text(character)]
        yield Allograph(character, _FACE_WEIGHT, strokes)


def _curve(path: str) -> NDArray[np.float64]:
    """Points [P, 2] of the curve through a path, smooth but for its corners."""
    runs: list[list[list[float]]] = [[]]
    for token in path.split():
        point = [float(number) for number in token.rstrip("!").split(",")]
        runs[-1].append(point)
        if token.endswith("!"):
            runs.append([point])
    return np.concatenate([piece for run in runs for piece in _catmull_rom(np.array(run))])


def _catmull_rom(points: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    knots = np.concatenate([points[:1], points, points[-1:]])
    t = _STEPS
    for a, b, c, d in zip(knots, knots[1:], knots[2:], knots[3:], strict=False):
        yield b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * b - a - 3 * c + d)))
