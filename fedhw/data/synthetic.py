"""Synthetic writers: the data set that comes with the product, without end and by seed.

A writer is a choice of allographs, one for each character, and a style: smooth displacements of
their strokes, some common to all characters, some to one. Each sample adds a smaller displacement
of its own. All are sums of the same few basis functions, so a style is an array of coefficients.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from HersheyFonts import HersheyFonts
from numpy.typing import NDArray

from fedhw.data.allographs import TABLE
from fedhw.data.alphabet import BYCLASS
from fedhw.data.strokes import LINE_WIDTH, rasterise
from fedhw.data.writers import SIDE, WriterSet
from fedhw.errors import InputError

Floats = NDArray[np.float64]

_FACES = {"futural": 3, "cursive": 1}
"""Single-stroke Hershey faces (A. V. Hershey, 1967), with the weight of their allographs."""

_MOST_STROKES = 4
_SPACING = 0.3  # at most, between points of a path, in half heights of a character
_ROUNDING = 0.2  # standard deviation of the smoothing that a hasty hand does, in half heights

# Rows: the basis functions in the order of `_basis`; columns: displacement in x and in y.
_GLYPH_SPREAD = [
    [0.20, 0.08],  # x: aspect, rotation
    [0.25, 0.00],  # y: slant
    [0.05, 0.10],  # x * y
    [0.08, 0.05],  # x^2
    [0.10, 0.05],  # y^2
    [0.06, 0.05],  # sin(pi x)
    [0.08, 0.06],  # sin(pi y)
]
_STROKE_SPREAD = [
    [0.12, 0.10],  # constant: place of the stroke
    [0.15, 0.15],  # linear: its length and direction
    [0.12, 0.10],  # its beginning
    [0.12, 0.10],  # its end
    [0.08, 0.08],  # sin(pi s): its bow
    [0.06, 0.06],  # sin(2 pi s)
]
_SPREAD = np.array(_GLYPH_SPREAD + _STROKE_SPREAD * _MOST_STROKES)

_OF_WRITER = 0.8
_OF_CHARACTER = 0.8
_OF_SAMPLE = 0.5
_UPRIGHTNESS = 0.1  # hands lean to the right on average
_WIDTH_SPREAD = 0.12
_INCONSTANCY = 0.08


def synthetic_writers(
    writers: int | Sequence[int], characters: int, seed: int = 0, drift: float = 0.0
) -> WriterSet:
    """Let writers, that many or of these indices, write `characters` characters each.

    A writer depends on `seed` and its own index only. Every 62 characters in a row are the whole
    alphabet, shuffled. With `drift` above 0 the style moves while the writer writes, by that
    fraction of the way to the style of somebody else.

    Raises InputError for no writers or characters, a negative index or seed, or drift outside 0..1.

    >>> written = synthetic_writers(2, characters=62, seed=7)
    >>> len(written), written.names, written.classes_of(1)
    (124, ('synthetic-7-0', 'synthetic-7-1'), 62)
    """
    indices = range(writers) if isinstance(writers, int) else writers
    if len(indices) == 0 or min(indices) < 0:
        raise InputError(f"writers: {writers} names no writer; give a count or indices from 0 up")
    if characters < 1:
        raise InputError(f"characters: {characters} is too few; give at least 1")
    if seed < 0:
        raise InputError(f"seed: {seed} is negative; use 0 or more")
    if not 0 <= drift <= 1:
        raise InputError(f"drift: {drift} is not a fraction; use 0..1")
    images = np.empty((len(indices), characters, SIDE, SIDE), np.uint8)
    labels = np.empty((len(indices), characters), np.uint8)
    for row, index in enumerate(indices):
        rng = np.random.default_rng([seed, index])
        images[row], labels[row] = _write(rng, characters, drift)
    return WriterSet.of(
        images.reshape(-1, SIDE, SIDE),
        labels.reshape(-1),
        writer=np.repeat(np.arange(len(indices)), characters),
        names=[f"synthetic-{seed}-{index}" for index in indices],
        order=np.tile(np.arange(characters), len(indices)),
    )


@dataclass(frozen=True)
class _Allograph:
    """One way to write a character: points [P, 2] with a half height of 1 around 0.

    `stroke_ends` is where each stroke ends, `basis` [P, D] the displacement functions at each
    point, `rounding` [P, 2] the displacement that rounds all corners off.
    """

    weight: int
    points: Floats
    stroke_ends: NDArray[np.int64]
    basis: Floats
    rounding: Floats

    @classmethod
    def of(cls, strokes: Sequence[Floats], weight: int) -> "_Allograph":
        points = np.concatenate(strokes)
        low, high = points.min(axis=0), points.max(axis=0)
        half = (high - low).max() / 2
        placed = [
            _refined((stroke - (low + high) / 2) / half) for stroke in strokes[:_MOST_STROKES]
        ]
        return cls(
            weight,
            np.concatenate(placed),
            np.cumsum([len(stroke) for stroke in placed]),
            _basis(placed),
            np.concatenate([_rounding(stroke) for stroke in placed]),
        )


@dataclass(frozen=True)
class _Style:
    """How one writer writes: allograph number [62], coefficients [62, D, 2], rounding, width."""

    allograph: NDArray[np.int64]
    coefficients: Floats
    rounding: float
    width: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "_Style":
        common = rng.normal(size=_SPREAD.shape)
        common[len(_GLYPH_SPREAD) :] = 0
        own = rng.normal(size=(len(BYCLASS), *_SPREAD.shape))
        coefficients = (_OF_WRITER * common + _OF_CHARACTER * own) * _SPREAD
        coefficients[:, 1, 0] -= _UPRIGHTNESS
        return cls(
            np.array([_choice(rng, label) for label in range(len(BYCLASS))]),
            coefficients,
            rng.uniform(0, 1),
            LINE_WIDTH * np.exp(rng.normal(0, _WIDTH_SPREAD)),
        )


def _write(
    rng: np.random.Generator, characters: int, drift: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images [N, 28, 28] and labels [N] of one writer in the order of writing."""
    early, late = _Style.drawn(rng), _Style.drawn(rng)
    rounds = -(-characters // len(BYCLASS))
    labels = np.concatenate([rng.permutation(len(BYCLASS)) for _ in range(rounds)])[:characters]
    moved = drift * np.linspace(0, 1, characters)
    jitter = _OF_SAMPLE * _SPREAD * rng.normal(size=(characters, *_SPREAD.shape))
    images = np.empty((characters, SIDE, SIDE), np.uint8)
    for row, (label, share) in enumerate(zip(labels, moved, strict=True)):
        number = (late if rng.random() < share else early).allograph[label]
        if rng.random() < _INCONSTANCY:
            number = _choice(rng, label)
        images[row] = _drawn(
            _allographs()[BYCLASS[label]][number],
            (1 - share) * early.coefficients[label]
            + share * late.coefficients[label]
            + jitter[row],
            (1 - share) * early.rounding + share * late.rounding,
            (1 - share) * early.width + share * late.width,
        )
    return images, labels.astype(np.uint8)


def _drawn(
    allograph: _Allograph, coefficients: Floats, rounding: float, width: float
) -> NDArray[np.uint8]:
    points = allograph.points + rounding * allograph.rounding + allograph.basis @ coefficients
    return rasterise(np.split(points, allograph.stroke_ends[:-1]), width)


def _choice(rng: np.random.Generator, label: int) -> int:
    weights = np.array([allograph.weight for allograph in _allographs()[BYCLASS[label]]])
    return int(np.searchsorted(np.cumsum(weights), rng.uniform(0, weights.sum())))


@cache
def _allographs() -> dict[str, list[_Allograph]]:
    """All allographs of each character, from the table and from the faces."""
    found: dict[str, list[_Allograph]] = {character: [] for character in BYCLASS}
    for line in TABLE.strip().splitlines():
        character, preference, path = line.split(maxsplit=2)
        strokes = [_curve(stroke) for stroke in path.split("/")]
        found[character].append(_Allograph.of(strokes, int(preference)))
    for face, weight in _FACES.items():
        font = HersheyFonts()
        font.load_default_font(face)
        for character in BYCLASS:
            strokes = [np.array(stroke, float) for stroke in font.strokes_for_text(character)]
            found[character].append(_Allograph.of(strokes, weight))
    return found


def _curve(path: str) -> Floats:
    """Points [P, 2] of a smooth curve (Catmull-Rom) through the points of a path in the table."""
    runs: list[list[list[float]]] = [[]]
    for token in path.split():
        point = [float(number) for number in token.rstrip("!").split(",")]
        runs[-1].append(point)
        if token.endswith("!"):
            runs.append([point])
    return np.concatenate(list(_smooth_runs(runs)))


def _smooth_runs(runs: Sequence[Sequence[Sequence[float]]]) -> Iterator[Floats]:
    t = np.linspace(0, 1, 4)[:, None]
    for run in runs:
        knots = np.array([run[0], *run, run[-1]])
        for a, b, c, d in zip(knots, knots[1:], knots[2:], knots[3:], strict=False):
            yield (
                b
                + t * ((c - a) + t * (2 * a - 5 * b + 4 * c - d + t * (3 * b - a - 3 * c + d))) / 2
            )


def _refined(stroke: Floats) -> Floats:
    """The same stroke with points put in where they are further apart than `_SPACING`."""
    along = _arc_length(stroke)
    parts = np.ceil(np.diff(along) / _SPACING).astype(int)
    starts = [np.linspace(*gap, n, False) for gap, n in zip(pairwise(along), parts, strict=True)]
    at = np.concatenate([*starts, along[-1:]])
    return np.stack([np.interp(at, along, stroke[:, axis]) for axis in (0, 1)], axis=1)


def _arc_length(stroke: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(stroke, axis=0).T))])


def _rounding(stroke: Floats) -> Floats:
    along = _arc_length(stroke)
    kernel = np.exp(-(((along[:, None] - along) / _ROUNDING) ** 2) / 2)
    smooth: Floats = kernel @ stroke / kernel.sum(axis=1, keepdims=True)
    return smooth - stroke


def _basis(strokes: Sequence[Floats]) -> Floats:
    """Displacement functions [P, D]: seven of the place, then six along each stroke."""
    points = np.concatenate(strokes)
    x, y = points.T
    place = np.stack([x, y, x * y, x * x, y * y, np.sin(np.pi * x), np.sin(np.pi * y)], axis=1)
    basis = np.zeros((len(points), len(_SPREAD)))
    basis[:, : place.shape[1]] = place
    row, column = 0, place.shape[1]
    for stroke in strokes:
        s = np.linspace(0, 1, len(stroke))
        along = np.stack(
            [
                np.ones_like(s),
                s - 0.5,
                (1 - s) ** 4,
                s**4,
                np.sin(np.pi * s),
                np.sin(2 * np.pi * s),
            ],
            axis=1,
        )
        basis[row : row + len(s), column : column + along.shape[1]] = along
        row, column = row + len(s), column + along.shape[1]
    return basis
