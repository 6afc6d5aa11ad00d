"""Binarisation: which pixels of a picture are ink, whatever the colours and the light."""

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.45
"""A pixel is ink from this share of the strongest ink around it on."""

_WINDOW = 0.5  # of the longer side: what is as wide is paper or shadow, not a line
_FAINTEST = 0.65  # of the strongest ink of all: the strongest around a pixel is at least this
_LEAST_CONTRAST = 6.0  # grey levels, mean of 3 x 3 pixels
_LEAST_CONTRAST_TO_NOISE = 2.0  # of that mean to one pixel's standard deviation
_LEAST_RISE = 1.0  # grey levels

Floats = NDArray[np.float32]


def contrast_axis(picture: NDArray[np.uint8]) -> Floats:
    """Return the direction in which colours differ most in a picture [H, W, RGB], of length 1.

    Its sign is arbitrary: ink may be darker or lighter than paper, or of another colour.
    """
    away = picture.reshape(-1, 3) - np.median(picture, axis=(0, 1))
    spread = (away * (away * away).sum(1, keepdims=True)).T @ away
    axis: Floats = np.linalg.eigh(spread)[1][:, -1].astype(np.float32)
    return axis


def contrast(picture: NDArray[np.uint8], direction: Floats) -> Floats:
    """Return how far each pixel of a picture [H, W, RGB] is from paper, in grey levels, [H, W].

    Only what differs from the paper around it in this direction of colours counts. Paper, gradients
    and shadows are removed by a top-hat by reconstruction (Vincent 1993, IEEE Trans. Image
    Processing 2:176): what is less than half as wide as the picture stays.
    """
    level = _even(picture @ (direction / np.float32(np.sqrt(3))))  # grey keeps its levels
    paper = -_highest(-_box_mean(level), _reach(level))
    ink = level - _reconstructed(np.minimum(paper, level), level)
    above: Floats = ink - np.float32(np.median(ink))
    return above


def strongest(contrast: Floats) -> float:
    """Return the strongest contrast [H, W], 0 where nothing stands out from the noise."""
    noise = 1.48 * float(np.median(np.abs(contrast)))
    highest = float(_box_mean(contrast).max())
    return highest if highest > max(_LEAST_CONTRAST, _LEAST_CONTRAST_TO_NOISE * noise) else 0.0


def ink_strength(contrast: Floats, strongest: float) -> Floats:
    """Return contrasts [H, W] relative to the strongest around, from 0 up to about 1."""
    around = _highest(contrast, _reach(contrast))
    return np.divide(contrast, np.maximum(around, _FAINTEST * strongest), dtype=np.float32)


def _reach(values: Floats) -> int:
    height, width = values.shape
    return max(1, int(max(height, width) * _WINDOW / 2))


def _even(level: Floats) -> Floats:
    """Subtract the plane that fits best: light that fades from one side to the other."""
    down, across = (np.linspace(-1, 1, side, dtype=np.float32) for side in level.shape)
    slope = down @ level.mean(1) / (down @ down), across @ level.mean(0) / (across @ across)
    even: Floats = level - slope[0] * down[:, None] - slope[1] * across
    return even


def _box_mean(values: Floats) -> Floats:
    """Mean of every 3 x 3 pixels."""
    rows = np.pad(values, 1, mode="edge")
    rows = rows[:-2] + rows[1:-1] + rows[2:]
    mean: Floats = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / np.float32(9)
    return mean


def _highest(values: Floats, reach: int) -> Floats:
    """The greatest value within `reach` rows and columns of each pixel."""
    length = 2 * reach + 1
    for _ in range(2):
        values = np.pad(values.T, ((0, 0), (reach, reach)), constant_values=-np.inf)
        span = 1
        while span < length:  # the greatest of `span` values from each on
            step = min(span, length - span)
            values = np.maximum(values[:, :-step], values[:, step:])
            span += step
    return values


def _reconstructed(marker: Floats, under: Floats) -> Floats:
    """Let the marker spread to its neighbours as far as it stays under the other levels."""
    rise = np.inf
    while rise >= _LEAST_RISE:
        before = marker
        for _ in range(4):  # downward, then across and back
            marker, under = np.rot90(marker).copy(), np.rot90(under).copy()
            for row in range(1, len(marker)):
                np.maximum(marker[row], marker[row - 1], out=marker[row])
                np.minimum(marker[row], under[row], out=marker[row])
        rise = float((marker - before).max())
    return marker
