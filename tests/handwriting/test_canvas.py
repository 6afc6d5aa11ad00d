import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedhw.handwriting.canvas import BOX, draw, simplify, smooth
from fedhw.handwriting.strokes import rasterise

SEVEN = [
    np.array([[0.0, 0.0], [820.0, 20.0], [310.0, 1000.0]]),
    np.array([[150.0, 480.0], [700.0, 440.0]]),
]

strokes = arrays(
    np.float64, st.tuples(st.integers(1, 30), st.just(2)), elements=st.integers(0, 1000)
)


def simplified_recursively(path: np.ndarray, tolerance: float) -> list[list[float]]:
    """Douglas and Peucker's algorithm as it is told, a pair of points at a time."""
    start, end = path[0], path[-1]
    length = math.hypot(*(end - start))
    distances = [
        abs((end - start)[0] * (p - start)[1] - (end - start)[1] * (p - start)[0]) / length
        if length
        else math.hypot(*(p - start))
        for p in path[1:-1]
    ]
    if not distances or max(distances) <= tolerance:
        return path[[0, -1]].tolist() if len(path) > 1 else path.tolist()
    furthest = distances.index(max(distances)) + 1
    before = simplified_recursively(path[: furthest + 1], tolerance)
    return before[:-1] + simplified_recursively(path[furthest:], tolerance)


def test_a_glyph_is_drawn_as_a_device_draws_it():
    difference = draw(SEVEN).astype(int) - rasterise(SEVEN)

    assert np.abs(difference).mean() < 3


def test_ink_is_centred_within_the_border_and_upright():
    glyph = draw([np.array([[0.0, 0.0], [0.0, BOX], [400.0, BOX]])])

    assert glyph.shape == (28, 28)
    assert glyph[:1].sum() == glyph[-1:].sum() == 0
    rows, columns = np.flatnonzero((glyph > 100).any(axis=1)), np.flatnonzero((glyph > 100).any(0))
    assert abs(rows[0] - (27 - rows[-1])) <= 1
    assert abs(columns[0] - (27 - columns[-1])) <= 1
    assert (glyph > 100)[14:].sum() > (glyph > 100)[:14].sum()


def test_a_smoothed_stroke_keeps_its_ends_and_evens_its_points():
    wobbly = np.stack([np.linspace(0, BOX, 101), np.tile([0.0, 8.0], 51)[:101]], axis=1)

    smoothed = smooth(wobbly)

    assert smoothed[0].tolist() == wobbly[0].tolist()
    assert smoothed[-1].tolist() == wobbly[-1].tolist()
    assert smoothed[5:-5, 1].std() < wobbly[:, 1].std() / 3


@pytest.mark.parametrize("stroke", [[[5, 5]], [[5, 5], [900, 5]], [[5, 5], [9, 5], [12, 5]]])
def test_a_stroke_too_short_to_smooth_stays(stroke):
    assert smooth(np.array(stroke, float)).tolist() == stroke


@given(st.lists(strokes, min_size=1, max_size=5), st.sampled_from([0.5, 6.0, 60.0]))
def test_strokes_are_simplified_as_if_one_by_one(many, tolerance):
    assert [stroke.tolist() for stroke in simplify(many, tolerance)] == [
        simplified_recursively(stroke, tolerance) for stroke in many
    ]
