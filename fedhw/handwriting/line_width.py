"""Line-width normalisation: a character as the pen of the training data would have written it."""

import numpy as np
from numpy.typing import NDArray

from fedhw.handwriting.components import Mask, bounding_box
from fedhw.handwriting.glyph import SIDE
from fedhw.handwriting.strokes import BLUR_PIXELS, LINE_WIDTH, box_pixels, coverage, rasterise

Floats = NDArray[np.float32]


def with_usual_line(ink: Mask) -> NDArray[np.uint8]:
    """Draw the ink [H, W] of a character as a glyph [28, 28] with lines of `LINE_WIDTH`.

    The edges of the ink move in or out by the same distance, which is what another round pen does.
    """
    top, left, height, width = bounding_box(ink)
    longer = max(height, width)
    pad = longer // 2
    distance = signed_distance(np.pad(ink[top : top + height, left : left + width], pad))
    pen = pen_width(distance)
    box = longer - pen
    if box < pen:
        return rasterise([np.zeros((1, 2))])
    scale = box_pixels(LINE_WIDTH) / box
    distance += (LINE_WIDTH * box - pen) / 2
    centres = (np.arange(SIDE) + 0.5 - SIDE / 2) / scale
    down, across = (centres + pad + length / 2 - 0.5 for length in (height, width))
    sampled = _interpolated(_interpolated(distance, down).T, across).T
    return coverage(sampled * np.float32(scale / BLUR_PIXELS))


def signed_distance(ink: Mask) -> Floats:
    """Distance of each pixel's centre to the edge of the ink [H, W], in pixels; outside is < 0."""
    return _distance(ink) - _distance(~ink)


def pen_width(distance: Floats) -> float:
    """Width of the pen in pixels, of signed distances: the median along the middle of the lines."""
    height, width = distance.shape
    padded = np.pad(distance, 1)
    around = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    middle = (distance > 0) & (distance >= np.max(around, axis=0) - 0.1)
    half = np.sort(distance[middle])
    total = np.cumsum(half)
    return 2 * float(half[np.searchsorted(total, total[-1] / 2)]) + 0.5


def _interpolated(values: Floats, rows: NDArray[np.floating]) -> Floats:
    """Values [H, W] between rows, linearly."""
    first = np.clip(rows.astype(int), 0, len(values) - 2)
    share = np.clip(rows - first, 0, 1).astype(np.float32)[:, None]
    between: Floats = values[first] * (1 - share) + values[first + 1] * share
    return between


def _distance(inside: Mask) -> Floats:
    """Euclidean distance of each pixel inside to the edge; 0 for those outside."""
    height, width = inside.shape
    columns = np.arange(width, dtype=np.float32)
    far = np.float32(2 * (height + width))
    left = np.maximum.accumulate(np.where(inside, -far, columns), axis=1)
    right = np.minimum.accumulate(np.where(inside, far, columns)[:, ::-1], axis=1)[:, ::-1]
    along = np.minimum(columns - left, right - columns) ** 2
    rows = np.arange(height, dtype=np.float32)
    apart = (rows[:, None] - rows) ** 2
    nearest = np.stack([(along + one[:, None]).min(axis=0) for one in apart])
    return np.where(inside, np.sqrt(nearest) - 0.5, 0).astype(np.float32)
