import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import distance_transform_edt

from fedhw.handwriting.line_width import pen_width, signed_distance, with_usual_line
from fedhw.handwriting.strokes import rasterise
from tests.handwriting.pictures_of_letters import LETTERS, drawn


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.booleans()))
def test_distances_are_those_of_scipy(ink: np.ndarray) -> None:
    if ink.all() or not ink.any():
        return
    ours = signed_distance(ink)
    np.testing.assert_allclose(ours[ink], distance_transform_edt(ink)[ink] - 0.5, rtol=1e-5)
    np.testing.assert_allclose(-ours[~ink], distance_transform_edt(~ink)[~ink] - 0.5, rtol=1e-5)


@pytest.mark.parametrize("pen", [0.05, 0.12, 0.25])
def test_the_width_of_a_pen(pen: float) -> None:
    distances = signed_distance(np.asarray(drawn(pen=pen)) < 128)
    assert pen_width(distances) == pytest.approx(pen * 0.6 * 200, rel=0.1)


def test_a_lone_dot_is_drawn_as_a_dot() -> None:
    down, right = np.mgrid[-20:21, -20:21]
    np.testing.assert_array_equal(
        with_usual_line(down**2 + right**2 < 100), rasterise([np.zeros((1, 2))])
    )


@pytest.mark.parametrize("letter", LETTERS)
def test_the_line_becomes_that_of_strokes(letter: str) -> None:
    glyphs = [with_usual_line(np.asarray(drawn(letter, pen)) < 128) for pen in (0.04, 0.2)]
    for glyph in glyphs:
        assert np.abs(glyph.astype(float) - rasterise(LETTERS[letter])).mean() / 255 < 0.03
