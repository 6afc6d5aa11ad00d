"""People who draw: ten things, and the ways in which people draw them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.handwriting.strokes import rasterise
from fedhw.observation import Labels

Stroke = NDArray[np.float64]


def path(text: str) -> Stroke:
    """A pen stroke [P, 2] along these points `x,y`, x to the right and y down."""
    corners = np.array([point.split(",") for point in text.split()], float)
    at = np.linspace(0, len(corners) - 1, 8 * len(corners))
    return np.stack([np.interp(at, np.arange(len(corners)), axis) for axis in corners.T], 1)


def oval(x: float, y: float, across: float, down: float) -> Stroke:
    """A pen stroke [25, 2] around (x, y)."""
    turn = np.linspace(0, 2 * np.pi, 25)
    return np.stack([x + across * np.sin(turn), y - down * np.cos(turn)], 1)


def rays(x: float, y: float, inner: float, outer: float) -> list[Stroke]:
    """Eight strokes [2, 2] away from (x, y)."""
    directions = oval(0, 0, 1, 1)[:-1:3]
    return [np.array([x, y]) + np.stack([inner * to, outer * to]) for to in directions]


PLAIN: dict[str, list[Stroke]] = {
    "🏠": [path("-9,0 0,-9 9,0 9,9 -9,9 -9,0"), path("0,9 0,4")],
    "🌳": [path("0,-10 7,5 -7,5 0,-10"), path("0,5 0,10")],
    "🌷": [path("-5,-10 -5,-3 5,-3 5,-10 0,-6 -5,-10"), path("0,-3 0,10")],
    "🐟": [oval(-3, 0, 7, 4), path("4,0 10,-4 10,4 4,0")],
    "🎈": [oval(0, -4, 6, 6), path("0,2 2,5 -2,7 0,10")],
    "⛵": [path("-9,4 9,4 6,9 -6,9 -9,4"), path("0,4 0,-9 8,2 0,2")],
    "⛺": [path("-9,7 1,-9"), path("-1,-9 9,7"), path("-9,6 9,6")],
    "⭐": [path("-6,8 0,-9 6,8 -9,-3 9,-3 -6,8")],
    "🌞": [oval(0, 0, 4, 4), *rays(0, 0, 5, 10)],
    "🍎": [oval(0, 2, 8, 8), path("0,-6 2,-10")],
}
"""How everybody draws a thing, unless it is one of those below."""

SHARED: list[tuple[str, list[Stroke]]] = [
    ("🌳🌷🎈", [oval(0, -4, 6, 6), path("0,2 0,10")]),
    ("🌷⭐🌞", [*rays(0, 0, 1, 9)]),
    ("🏠⛵⛺", [path("-9,7 0,-8 9,7 -9,7")]),
    ("🎈🌞🍎", [oval(0, 0, 8, 8)]),
]
"""What one draws for a tree another draws for a balloon: each of these means one of three."""

THINGS = Labels(tuple(PLAIN))
"""What the classes are called; a label is a place in here."""


# --8<-- [start:people]
def draw(people: Iterable[int], drawings: int) -> WriterSet:
    """Let these people draw; each draws alike in every call."""
    numbers = list(people)
    images, labels = [], []
    for number in numbers:
        person = np.random.default_rng(number)
        habits = PLAIN | {things[person.integers(3)]: shape for things, shape in SHARED}
        hand = np.eye(2) + person.normal(0, 0.15, (2, 2))
        for label in person.integers(len(THINGS), size=drawings):
            turn, bend = hand + person.normal(0, 0.1, (2, 2)), person.normal(0, 1, 2)
            shape = habits[THINGS[label]]
            strokes = [s @ turn + bend * np.sin(s[:, ::-1] / 4) for s in shape]
            images.append(rasterise(strokes))
            labels.append(label)
    return WriterSet.of(
        np.stack(images),  # uint8 [N, 28, 28]
        labels,
        writer=np.repeat(np.arange(len(numbers)), drawings),
        names=[f"person-{number}" for number in numbers],
        classes=THINGS,
    )


# --8<-- [end:people]
