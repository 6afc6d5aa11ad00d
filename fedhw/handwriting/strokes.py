"""Draw pen strokes as glyphs, for pen devices and synthetic writers alike."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fedhw.data.encoders import Encoder, check_points
from fedhw.errors import InputError
from fedhw.handwriting.glyph import GLYPH, SIDE
from fedhw.handwriting.stray_ink import is_stray

Stroke = NDArray[np.number]
"""The pen's path from touching to leaving the paper: [P, 2], x to the right, y down, any unit."""

LINE_WIDTH = 0.14
"""Width of the line, as a fraction of the longer side of the strokes' bounding box."""

MAX_COORDINATE = 1e9
"""The largest coordinate: beyond any tablet's, and small enough to square without overflow."""

# EMNIST (Cohen et al. 2017, arXiv 1702.05373) blurs, crops where ink is seen, and leaves a border
# of two pixels. A blurred line is seen a little beyond its edge: both lengths are fractions of the
# box, fitted to glyphs that were drawn and blurred on a large canvas.
_INNER = SIDE - 2 * 2
_SEEN_BEYOND_EDGE = 0.027
BLUR_PIXELS = 0.45
"""Standard deviation of a line's edge in a glyph: its blur and the pixel's own extent."""

_CENTRES = np.arange(SIDE, dtype=np.float32) + 0.5
_INK_FROM = np.array([NormalDist().inv_cdf((ink - 0.5) / 255) for ink in range(1, 256)], np.float32)


def rasterise(strokes: Sequence[Stroke], width: float = LINE_WIDTH) -> NDArray[np.uint8]:
    """Draw strokes as a glyph [28, 28], ink 255 on paper 0, centred and scaled to fill it.

    Lines have round caps and joints, `width` is a fraction of the bounding box's longer side. A
    pixel's ink follows from its distance to the nearest stroke, as if the line's edge were blurred
    by a Gaussian. Position and size of the strokes do not matter; a lone dot is drawn as a dot. A
    stroke that is short and far from the others, such as a stray tap or a palm's, is left out.

    Raises InputError for strokes without points, of wrong shape, too long or not finite, and for a
    width outside 0..1.

    >>> glyph = rasterise([np.array([[0, 0], [0, 100]])])
    >>> glyph.shape, int(glyph[14, 14]), int(glyph[14, 0])
    ((28, 28), 249, 0)
    """
    if not 0 < width <= 1:
        raise InputError(f"width: {width} is not a fraction of the box; use 0.05..0.3")
    points = _checked_points(strokes)
    lengths = np.array([len(stroke) for stroke in strokes])
    starts = np.cumsum(lengths) - lengths
    kept = ~is_stray(np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts))
    points, ends = points[np.repeat(kept, lengths)], np.cumsum(lengths[kept])
    return coverage(signed_distances(points, ends, width))


def signed_distances(
    points: NDArray[np.float64], ends: NDArray[np.int64], width: float
) -> NDArray[np.float32]:
    """Return how far inside the line's edge each pixel of a glyph is, [28, 28]; outside is < 0.

    `points` [P, 2] are of strokes that end before `ends`; `width` is that of `rasterise`. The unit
    is the standard deviation of the edge's blur.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    extent = float((high - low).max()) or 1.0
    box = box_pixels(width)
    placed = ((points - (low + high) / 2) / extent * box + SIDE / 2).astype(np.float32)

    distance = np.sqrt(_squared_distance(*_segments(placed, ends)))
    edge = np.float32(width / 2 * box)
    return (edge - distance) / np.float32(BLUR_PIXELS)


def box_pixels(width: float) -> float:
    """Return the longer side of the strokes' bounding box in a glyph's pixels, for a line width."""
    return _INNER / (1 + width + 2 * _SEEN_BEYOND_EDGE)


def coverage(distances: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the ink 0..255 of pixels at these signed distances; a Gaussian blurs the edge."""
    return np.searchsorted(_INK_FROM, distances, side="right").astype(np.uint8)


def _segments(
    points: NDArray[np.float32], ends: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Start and end [S, 2] of every line; the last point of a stroke is a line of no length."""
    following = np.arange(1, len(points) + 1)
    following[ends - 1] -= 1
    return points, points[following]


def _squared_distance(start: NDArray[np.float32], end: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared distance [28, 28], in pixels, of every pixel's centre to the nearest line."""
    along = end - start
    squared_length = np.maximum((along * along).sum(axis=1), np.float32(1e-9))
    x, y = _CENTRES - start[:, :1], _CENTRES - start[:, 1:]
    unit = along / squared_length[:, None]
    nearest = (y * unit[:, 1:])[:, :, None] + (x * unit[:, :1])[:, None, :]
    np.clip(nearest, 0, 1, out=nearest)
    dx = x[:, None, :] - nearest * along[:, 0, None, None]
    dy = y[:, :, None] - nearest * along[:, 1, None, None]
    dx *= dx
    dy *= dy
    dx += dy
    squared: NDArray[np.float32] = dx.min(axis=0)
    return squared


def _checked_points(strokes: Sequence[Stroke]) -> NDArray[np.float64]:
    if len(strokes) == 0:
        raise InputError("strokes: there are none; give at least one stroke of one point")
    for number, stroke in enumerate(strokes):
        if not isinstance(stroke, np.ndarray) or stroke.dtype.kind not in "iuf":
            raise InputError(f"strokes[{number}]: it is no array of numbers; give one [P, 2]")
        if stroke.ndim != 2 or stroke.shape[1] != 2 or len(stroke) == 0:
            raise InputError(
                f"strokes[{number}]: shape {stroke.shape} is not [P, 2] with P at least 1; "
                "give one (x, y) a point"
            )
    check_points(map(len, strokes))
    points = np.concatenate(strokes).astype(np.float64)
    # One comparison finds NaN, infinity and the absurd alike.
    if not np.all(np.abs(points) <= MAX_COORDINATE):
        raise InputError(
            f"strokes: a coordinate is not a number within {MAX_COORDINATE:g}; leave that point out"
        )
    return points


FROM_STROKES = Encoder(GLYPH, rasterise)
