"""Synthetic writers: an unlimited data set, reproducible by seed.

A writer has one allograph for each character, and a style: smooth displacements of the strokes,
some for all characters, some for one. Each sample adds a smaller displacement of its own. All are
sums of the same few basis functions, so a style is an array of coefficients.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from string import ascii_lowercase

import numpy as np
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.handwriting.allographs import Allograph, allographs
from fedhw.handwriting.alphabet import BYCLASS
from fedhw.handwriting.glyph import GLYPH, SIDE
from fedhw.handwriting.strokes import LINE_WIDTH, coverage, signed_distances

Floats = NDArray[np.float64]

SYNTHETIC_CHARACTERS = 186
"""By default a synthetic writer writes each of the 62 characters three times."""

_MOST_STROKES = 4
_SPACING = 0.3  # at most, between points of a path, in half longer sides of a character
_ROUNDING = 0.2  # standard deviation of the smoothing by a hasty hand, in the same unit

# Rows: the basis functions in the order of `_basis`; columns: displacement in x and in y.
_GLYPH_SPREAD = [
    [0.25, 0.08],  # x: aspect, rotation
    [0.25, 0.00],  # y: slant
    [0.06, 0.13],  # x * y
    [0.12, 0.05],  # x^2
    [0.10, 0.12],  # y^2
    [0.06, 0.05],  # sin(pi x)
    [0.08, 0.06],  # sin(pi y)
]
_STROKE_SPREAD = [
    [0.14, 0.12],  # constant: place of the stroke
    [0.18, 0.18],  # linear: its length and direction
    [0.14, 0.12],  # its beginning
    [0.14, 0.12],  # its end
    [0.10, 0.10],  # sin(pi s): its bow
    [0.07, 0.07],  # sin(2 pi s)
]
_SPREAD = np.array(_GLYPH_SPREAD + _STROKE_SPREAD * _MOST_STROKES)

_MEAN = np.zeros_like(_SPREAD)
_MEAN[:2, 0] = [-0.07, -0.1]  # most hands are narrow and lean to the right

# The share of the spread that differs by writer, by a writer's character, and by sample.
_OF_WRITER, _OF_CHARACTER, _OF_SAMPLE = 0.6, 0.9, 0.55

# Percentages in English text: of a to z (Lewand 2000, Cryptological Mathematics), and of all
# capitals and digits together.
_LETTERS = [
    *(8.17, 1.49, 2.78, 4.25, 12.70, 2.23, 2.02, 6.09, 6.97, 0.15, 0.77, 4.03, 2.41),
    *(6.75, 7.51, 1.93, 0.10, 5.99, 6.33, 9.06, 2.76, 0.98, 2.36, 0.15, 1.97, 0.07),
]
_OTHERS = 6.0

_WIDTH_SPREAD = 0.12  # of the logarithm of the line's width
_SWITCH_PROBABILITY = 0.08  # that a writer uses another allograph than their own


def synthetic_writers(
    writers: int | Sequence[int],
    characters: int,
    seed: int = 0,
    drift: float = 0.0,
    text: bool = False,
) -> WriterSet:
    """Generate `characters` characters by each of that many writers, or by those of given indices.

    A writer depends only on `seed` and its own index. Every 62 characters in a row are the whole
    alphabet, shuffled; with `text`, characters are as frequent as in English text. With `drift`
    above 0, the style moves from the first character to the last by that fraction of the way to
    another writer's style.

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
    labels = np.empty((len(indices), characters), np.int64)
    for row, index in enumerate(indices):
        rng = np.random.default_rng([seed, index])
        images[row], labels[row] = _write(rng, characters, drift, text)
    return WriterSet.of(
        GLYPH.flat(images),
        labels.reshape(-1),
        writer=np.repeat(np.arange(len(indices)), characters),
        names=[f"synthetic-{seed}-{index}" for index in indices],
        classes=BYCLASS,
        order=np.tile(np.arange(characters), len(indices)),
    )


@dataclass(frozen=True)
class _Skeleton:
    """An allograph ready for displacement: points [P, 2], the longer side -1..1.

    `stroke_ends` is where each stroke ends, `basis` [P, D] the displacement functions at each
    point, `rounding` [P, 2] the displacement that rounds all corners.
    """

    weight: int
    points: Floats
    stroke_ends: NDArray[np.int64]
    basis: Floats
    rounding: Floats

    @classmethod
    def of(cls, allograph: Allograph) -> "_Skeleton":
        points = np.concatenate(allograph.strokes)
        low, high = points.min(axis=0), points.max(axis=0)
        half = (high - low).max() / 2
        placed = [_refined((stroke - (low + high) / 2) / half) for stroke in allograph.strokes]
        return cls(
            allograph.weight,
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
        common = _unit(rng, *_SPREAD.shape)
        common[len(_GLYPH_SPREAD) :] = 0
        own = _unit(rng, len(BYCLASS), *_SPREAD.shape)
        coefficients = _MEAN + _SPREAD * (_OF_WRITER * common + _OF_CHARACTER * own)
        return cls(
            np.array([_choice(rng, label) for label in range(len(BYCLASS))]),
            coefficients,
            rng.uniform(0, 1),
            LINE_WIDTH * np.exp(rng.normal(0, _WIDTH_SPREAD)),
        )


def _write(
    rng: np.random.Generator, characters: int, drift: float, text: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images [N, 28, 28] and labels [N] of one writer in the order of writing."""
    early, late = _Style.drawn(rng), _Style.drawn(rng)
    if text:
        labels = rng.choice(len(BYCLASS), characters, p=_frequencies())
    else:
        rounds = -(-characters // len(BYCLASS))
        labels = np.concatenate([rng.permutation(len(BYCLASS)) for _ in range(rounds)])[:characters]
    moved = drift * np.linspace(0, 1, characters)
    jitter = _OF_SAMPLE * _SPREAD * _unit(rng, characters, *_SPREAD.shape)
    drawn = np.empty((characters, SIDE, SIDE), np.float32)
    for row, (label, share) in enumerate(zip(labels, moved, strict=True)):
        number = (late if rng.random() < share else early).allograph[label]
        if rng.random() < _SWITCH_PROBABILITY:
            number = _choice(rng, label)
        drawn[row] = _drawn(
            _skeletons()[BYCLASS[label]][number],
            (1 - share) * early.coefficients[label]
            + share * late.coefficients[label]
            + jitter[row],
            (1 - share) * early.rounding + share * late.rounding,
            (1 - share) * early.width + share * late.width,
        )
    return coverage(drawn), labels


@cache
def _frequencies() -> Floats:
    """How likely each character of the alphabet is in English text."""
    small = dict(zip(ascii_lowercase, _LETTERS, strict=True))
    other = _OTHERS / (len(BYCLASS) - len(small))
    frequencies: Floats = np.array([small.get(character, other) for character in BYCLASS])
    frequencies /= frequencies.sum()
    return frequencies


def _unit(rng: np.random.Generator, *shape: int) -> Floats:
    """Uniform random numbers of mean 0 and variance 1; with tails, letters would be illegible."""
    return rng.uniform(-(3**0.5), 3**0.5, size=shape)


def _drawn(
    skeleton: _Skeleton, coefficients: Floats, rounding: float, width: float
) -> NDArray[np.float32]:
    points = skeleton.points + rounding * skeleton.rounding + skeleton.basis @ coefficients
    return signed_distances(points, skeleton.stroke_ends, width)


def _choice(rng: np.random.Generator, label: int) -> int:
    upto = _weights()[label]
    return bisect_left(upto, rng.uniform(0, upto[-1]))


@cache
def _weights() -> list[list[int]]:
    """The cumulated weights of each character's allographs."""
    return [list(accumulate(s.weight for s in _skeletons()[character])) for character in BYCLASS]


@cache
def _skeletons() -> dict[str, list[_Skeleton]]:
    """The skeletons of each character."""
    found: dict[str, list[_Skeleton]] = {character: [] for character in BYCLASS}
    for allograph in allographs():
        found[allograph.character].append(_Skeleton.of(allograph))
    return found


def _refined(stroke: Floats) -> Floats:
    """The same stroke with points inserted where they are further apart than `_SPACING`."""
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
    """Displacement functions [P, D]: seven of the position, then six along each stroke."""
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
