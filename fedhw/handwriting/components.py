"""Connected components of ink, and which of them are the character."""

import numpy as np
from numpy.typing import NDArray

from fedhw.handwriting.stray_ink import is_stray

Mask = NDArray[np.bool_]

_RIM = 0.1  # of the sides: what lies within it and spans the picture is a frame
_SPAN = 0.8
_SMALLEST = 0.02  # of the longer side of the picture: what is smaller is a speck beside a frame
_DOT = 0.4  # of the square of the pen's width: the least area of a dot


def of_character(ink: Mask) -> Mask:
    """Return the ink [H, W] that is the character: without specks, frames and what the rim cuts.

    A frame is thin, and spans the picture along its rim. What the rim cuts stays if it is larger
    than all that the rim does not cut. Any mark of the pen is as wide as the pen, so that a dot is
    told from a speck by the width of the largest component's line.
    """
    count, number = connected_components(ink)
    if count == 0:
        return ink
    parts = np.arange(1, count + 1)
    y, x = np.nonzero(ink)
    area = np.bincount(number[y, x])[1:]
    top, bottom = _extremes(y, number[y, x], count)
    left, right = _extremes(x, number[y, x], count)
    height, width = bottom - top + 1, right - left + 1
    rows, columns = ink.shape
    down, across = round(rows * _RIM), round(columns * _RIM)
    inner = number[down : rows - down, across : columns - across]
    spans = (height >= _SPAN * rows) | (width >= _SPAN * columns)
    frame = spans & ~np.isin(parts, inner)
    cut = (top == 0) | (left == 0) | (bottom == rows - 1) | (right == columns - 1)
    # A bar may be a part of an E whose rest runs along the rim.
    whole = ~frame & ~cut & (2 * height >= width)
    whole &= np.maximum(height, width) >= _SMALLEST * max(ink.shape)
    kept = np.ones(count, bool)
    if whole.any():
        kept = ~frame & (~cut | (area > area[whole].max()))
    main = int(np.argmax(area * kept))
    pen = _line_width(number == main + 1)
    kept &= area >= min(_DOT * pen**2, area[main])
    low, high = np.stack([left, top], axis=1), np.stack([right, bottom], axis=1) + 1
    kept[kept] = ~is_stray(low[kept], high[kept])
    mask: Mask = np.isin(number, parts[kept])
    return mask


def connected_components(ink: Mask) -> tuple[int, NDArray[np.int64]]:
    """Count the components of a mask [H, W], 8-connected, and number them from 1; 0 is no ink."""
    pixels = int(ink.sum())
    place = np.zeros(ink.shape, np.int64)
    place[ink] = np.arange(pixels)
    one, other = np.concatenate(
        [
            np.stack([place[here], place[there]])[:, ink[here] & ink[there]]
            for here, there in (
                (np.s_[:, 1:], np.s_[:, :-1]),
                (np.s_[1:], np.s_[:-1]),
                (np.s_[1:, 1:], np.s_[:-1, :-1]),
                (np.s_[1:, :-1], np.s_[:-1, 1:]),
            )
        ],
        axis=1,
    )
    root = np.arange(pixels)
    while (apart := root[one] != root[other]).any():
        one, other = one[apart], other[apart]
        low, high = np.sort([root[one], root[other]], axis=0)
        np.minimum.at(root, high, low)
        while (root[root] != root).any():
            root = root[root]
    roots, index = np.unique(root, return_inverse=True)
    place[ink] = index + 1
    return len(roots), place


def _extremes(
    values: NDArray[np.int64], number: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The least and the greatest value of each component."""
    least, greatest = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
    np.minimum.at(least, number - 1, values)
    np.maximum.at(greatest, number - 1, values)
    return least, greatest


def _line_width(ink: Mask) -> float:
    """About the width of a component's line in pixels: twice its area, by its edge's length."""
    padded = np.pad(ink, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return 2 * float(ink.sum()) / int((ink & ~inside).sum())


def bounding_box(ink: Mask) -> tuple[int, int, int, int]:
    """Return top, left, height and width of what is set in a mask; all 0 for nothing."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if len(rows) == 0:
        return 0, 0, 0, 0
    top, left = int(rows[0]), int(columns[0])
    return top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left
