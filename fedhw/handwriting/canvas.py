"""Draw pen strokes on a large canvas and scale it down, as EMNIST does with scanned characters.

The recorded handwriting of docs/results.md is drawn this way. Devices and synthetic writers use
`fedhw.handwriting.strokes.rasterise`, which draws almost the same glyph in a tenth of the time.
"""

from collections.abc import Sequence
from math import hypot

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fedhw.handwriting.components import bounding_box
from fedhw.handwriting.glyph import SIDE
from fedhw.handwriting.strokes import LINE_WIDTH

Polyline = NDArray[np.float64]
"""A stroke [P, 2] in the box, x to the right, y down."""

BOX = 1000.0
"""The longer side of a character's strokes."""

_CANVAS_PIXELS = 256  # a side; every 2 x 2 are averaged before the blur
_MARGIN_PIXELS = 30
_PIXELS_PER_UNIT = (_CANVAS_PIXELS - 2 * _MARGIN_PIXELS) / BOX
_LINE_PIXELS = LINE_WIDTH * BOX * _PIXELS_PER_UNIT
_BLUR_PIXELS = 1.8  # standard deviation, of averaged pixels
_INK_FROM = 20  # of 255
_BORDER = 2 / 24  # on every side, of the longer side

_SPACING = 15.0  # between the points of a smoothed stroke
_SMOOTHING_POINTS = 1.2


def _gaussian(deviation: float) -> NDArray[np.float64]:
    """The middle and one side of a Gaussian kernel, cut off at four standard deviations."""
    reach = int(4 * deviation + 0.5)
    kernel = np.exp(-0.5 / (deviation * deviation) * np.arange(-reach, reach + 1) ** 2)
    side: NDArray[np.float64] = (kernel / kernel.sum())[reach:]
    return side


_BLUR = _gaussian(_BLUR_PIXELS)
_SMOOTHING = _gaussian(_SMOOTHING_POINTS)


def draw(strokes: Sequence[Polyline]) -> NDArray[np.uint8]:
    """Draw strokes in the box as a glyph [28, 28], ink 255 on paper 0, centred.

    Round lines of `LINE_WIDTH` are drawn on a canvas, blurred by a Gaussian and cropped to the ink.
    Squaring, border and bicubic scaling are EMNIST's (Cohen et al. 2017, arXiv 1702.05373).
    """
    centring = (BOX - np.concatenate(strokes).max(axis=0)) / 2
    image = Image.new("L", (_CANVAS_PIXELS, _CANVAS_PIXELS), 0)
    pen = ImageDraw.Draw(image)
    radius = _LINE_PIXELS / 2
    for stroke in strokes:
        points = ((stroke + centring) * _PIXELS_PER_UNIT + _MARGIN_PIXELS).tolist()
        if len(points) > 1:
            pen.line([tuple(p) for p in points], fill=255, width=round(_LINE_PIXELS), joint="curve")
        for x, y in (points[0], points[-1]):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    ink = _blurred(_averaged(np.asarray(image)))
    top, left, height, width = bounding_box(ink > _INK_FROM)
    cropped = np.clip(ink, 0, 255).astype(np.uint8)[top : top + height, left : left + width]
    side = max(height, width)
    border = round(side * _BORDER)
    square = Image.new("L", (side + 2 * border, side + 2 * border))
    corner = border + (side - width) // 2, border + (side - height) // 2
    square.paste(Image.fromarray(cropped), corner)
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def smooth(stroke: Polyline) -> Polyline:
    """Space a stroke's points evenly and smooth it a little, to hide the tablet's grid."""
    if len(stroke) < 3:
        return stroke
    # Not `hypot`, whose last bit differs between C libraries and can change which point stays.
    steps = np.sqrt((np.diff(stroke, axis=0) ** 2).sum(axis=1))
    along = np.concatenate([[0], np.cumsum(steps)])
    if along[-1] < 2 * _SPACING:
        return stroke
    at = np.linspace(0, along[-1], max(3, round(float(along[-1] / _SPACING)) + 1))
    even = np.stack([np.interp(at, along, stroke[:, axis]) for axis in (0, 1)], axis=1)
    reach = len(_SMOOTHING) - 1
    padded = np.concatenate([even[:1].repeat(reach, 0), even, even[-1:].repeat(reach, 0)])
    smoothed = _convolved(padded, _SMOOTHING)
    smoothed[0], smoothed[-1] = even[0], even[-1]
    return smoothed


def simplify(strokes: Sequence[Polyline], tolerance: float) -> list[Polyline]:
    """Remove points that are no further than `tolerance` from the path that remains.

    The algorithm of Douglas and Peucker (1973), for all strokes at once.
    """
    points = np.concatenate(strokes)
    lengths = np.array([len(stroke) for stroke in strokes])
    starts = np.cumsum(lengths) - lengths
    kept = np.zeros(len(points), bool)
    first, last = starts, starts + lengths - 1
    kept[first] = kept[last] = True
    while (apart := last - first > 1).any():
        first, last = first[apart], last[apart]
        furthest, distance = _furthest(points, first, last)
        bent = distance > tolerance
        first, middle, last = first[bent], furthest[bent], last[bent]
        kept[middle] = True
        first, last = np.concatenate([first, middle]), np.concatenate([middle, last])
    return np.split(points[kept], np.cumsum(np.add.reduceat(kept, starts))[:-1])


def _furthest(
    points: Polyline, first: NDArray[np.int64], last: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The point between each pair that is furthest from their line, and its distance.

    A pair of equal points has no line: there the distance to that point counts.
    """
    counts = last - first - 1
    starts = np.cumsum(counts) - counts
    pair = np.repeat(np.arange(len(first)), counts)
    between = np.arange(len(pair)) - (starts - first - 1)[pair]
    line = points[last] - points[first]
    length = np.array([hypot(x, y) for x, y in line.tolist()])[pair]
    x, y = (points[between] - points[first][pair]).T
    from_line = np.abs(line[pair, 0] * y - line[pair, 1] * x) / np.where(length > 0, length, 1)
    distance = np.where(length > 0, from_line, np.sqrt(x * x + y * y))
    most = np.maximum.reduceat(distance, starts)
    reached = np.flatnonzero(distance == most[pair])
    return between[reached[np.searchsorted(reached, starts)]], most


def _averaged(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean of every 2 x 2 pixels."""
    ink = image.astype(np.float32)
    rows = ink[::2] + ink[1::2]
    average: NDArray[np.float32] = rows[:, ::2] + rows[:, 1::2]
    average /= 4
    return average


def _blurred(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gaussian blur of an image with an empty rim, rounded to float32 after each direction."""
    for _ in range(2):
        padded = np.zeros((len(image) + 2 * len(_BLUR) - 2, image.shape[1]))
        padded[len(_BLUR) - 1 : 1 - len(_BLUR)] = image
        image = _convolved(padded, _BLUR).astype(np.float32).T
    return image


def _convolved(padded: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convolve along the first axis with a symmetric kernel, given by its middle and one side.

    Terms are added from the outermost inward, so that glyphs are the same on every machine.
    """
    reach = len(kernel) - 1
    rows = len(padded) - 2 * reach
    total: NDArray[np.float64] = padded[reach : reach + rows] * kernel[0]
    both = np.empty_like(total)
    for distance in range(reach, 0, -1):
        before, after = reach - distance, reach + distance
        np.add(padded[before : before + rows], padded[after : after + rows], out=both)
        both *= kernel[distance]
        total += both
    return total
