import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedhw.data.encoders import MAX_POINTS
from fedhw.errors import InputError
from fedhw.handwriting.stroke_file import StrokeFile
from fedhw.handwriting.strokes import coverage, rasterise
from tests.parts import need_data
from tests.places import SHARED

SEVEN = [np.array([[10, 5], [88, 3], [40, 100]]), np.array([[25, 52], [80, 48]])]

paths = st.lists(
    arrays(np.int16, st.tuples(st.integers(1, 8), st.just(2)), elements=st.integers(0, 1000)),
    min_size=1,
    max_size=4,
)


@given(paths)
def test_any_path_leaves_ink_within_the_border(strokes):
    glyph = rasterise(strokes)
    assert glyph.shape == (28, 28)
    assert glyph.dtype == np.uint8
    assert glyph.max() > 200
    frame = np.concatenate([glyph[0], glyph[-1], glyph[:, 0], glyph[:, -1]])
    assert frame.max() == 0


@given(paths, st.integers(-1000, 1000), st.integers(-1000, 1000), st.sampled_from([0.25, 1, 16]))
def test_place_and_size_do_not_matter(strokes, right, down, scale):
    moved = [scale * (stroke + np.array([right, down])) for stroke in strokes]
    np.testing.assert_allclose(rasterise(moved).astype(int), rasterise(strokes).astype(int), atol=1)


@given(paths, st.randoms())
def test_order_and_direction_of_strokes_do_not_matter(strokes, random):
    turned = [stroke[::-1] for stroke in strokes]
    random.shuffle(turned)
    np.testing.assert_allclose(
        rasterise(turned).astype(int), rasterise(strokes).astype(int), atol=1
    )


def test_mirrored_strokes_give_the_mirrored_glyph():
    mirrored = rasterise([stroke * [-1, 1] for stroke in SEVEN])
    np.testing.assert_allclose(mirrored.astype(int), rasterise(SEVEN)[:, ::-1].astype(int), atol=1)


def test_a_dot_is_a_round_dot_in_the_middle():
    glyph = rasterise([np.array([[512.0, -3.0]])])
    assert glyph[13:15, 13:15].min() > 200
    assert glyph.sum() == glyph[10:18, 10:18].sum()
    np.testing.assert_array_equal(glyph, glyph.T)
    np.testing.assert_array_equal(glyph, glyph[::-1])


def test_the_longer_side_fills_the_box_and_the_aspect_is_kept():
    inked = rasterise([np.array([[0, 0], [30, 0], [30, 100], [0, 100], [0, 0]])]) > 20
    assert 23 <= inked.any(axis=1).sum() <= 25
    assert 8 <= inked.any(axis=0).sum() <= 10


def test_a_wider_line_leaves_more_ink():
    ink = [int(rasterise(SEVEN, width).sum()) for width in (0.06, 0.10, 0.14, 0.20)]
    assert ink == sorted(ink)
    assert ink[-1] > 2 * ink[0]


@pytest.mark.parametrize(
    "stray", [[[260, 130]], [[250, 160], [252, 163]], [[-120, 90], [-100, 80], [-90, 120]]]
)
def test_a_stray_tap_or_the_mark_of_a_palm_is_left_out(stray):
    np.testing.assert_array_equal(rasterise([np.array(stray), *SEVEN]), rasterise(SEVEN))


@pytest.mark.parametrize("dot", [[[0, -80]], [[25, -60], [25, -60]], [[-30, -20], [-28, -18]]])
def test_the_dot_of_an_i_stays(dot):
    stem = np.array([[0, 0], [0, 100]])
    assert (rasterise([stem, np.array(dot)]) != rasterise([stem])).any()


def test_points_and_strokes_may_be_repeated():
    again = [np.repeat(stroke, 2, axis=0) for stroke in SEVEN] * 2
    np.testing.assert_array_equal(rasterise(again), rasterise(SEVEN))


def test_two_dots_are_both_drawn():
    two = rasterise([np.array([[0, 0]]), np.array([[0, 50]])])
    assert two[3:6, 13:15].max() > 200
    assert two[22:25, 13:15].max() > 200


@pytest.mark.parametrize(
    ("strokes", "message"),
    [
        ([], "strokes: there are none"),
        ([np.zeros((0, 2))], r"strokes\[0\]: shape \(0, 2\)"),
        ([np.zeros((4, 2)), np.zeros((4, 3))], r"strokes\[1\]: shape \(4, 3\)"),
        ([np.zeros(4)], r"strokes\[0\]: shape \(4,\)"),
        ([np.zeros((MAX_POINTS + 1, 2))], "strokes: 10001 points are over 10000"),
        ([np.array([[0.0, np.nan]])], "strokes: a coordinate is not a number"),
        ([np.array([[0.0, 1.0], [np.inf, 0.0]])], "strokes: a coordinate is not a number"),
        ([np.array([[0.0, 1e300]])], "strokes: a coordinate is not a number"),
        ([np.array([["a", "b"]])], r"strokes\[0\]: it is no array of numbers"),
        ([[[0, 1]]], r"strokes\[0\]: it is no array of numbers"),
        ([None], r"strokes\[0\]: it is no array of numbers"),
    ],
)
def test_unusable_strokes_are_refused(strokes, message):
    with pytest.raises(InputError, match=message):
        rasterise(strokes)


@pytest.mark.parametrize("width", [0, -0.1, 1.5, float("nan")])
def test_unusable_widths_are_refused(width):
    with pytest.raises(InputError, match="width"):
        rasterise(SEVEN, width)


@given(st.floats(-50, 50, width=32))
def test_ink_is_a_gaussian_edge_to_the_nearest_level(distance):
    exact = 255 * (1 + math.erf(distance / math.sqrt(2))) / 2
    assert abs(int(coverage(np.array([distance], np.float32))[0]) - exact) < 0.5001


def test_redrawn_strokes_agree_with_the_shared_images():
    need_data(SHARED / "unipen62_strokes.npz")
    strokes = StrokeFile.read(SHARED / "unipen62_strokes.npz")
    with np.load(SHARED / "unipen62.npz") as archive:
        images = archive["images"]
    rows = np.random.default_rng(0).choice(len(strokes), 2000, replace=False)
    redrawn = np.stack([rasterise(strokes[row]) for row in rows])
    difference = np.abs(redrawn.astype(float) - images[rows]).mean() / 255
    assert difference < 0.015


def test_ten_thousand_dots_take_little_memory() -> None:
    """Each is compared with each only where they are few: they come from outside."""
    points = np.random.default_rng(0).uniform(0, 100, (10_000, 1, 2))
    tracemalloc.start()
    glyph = rasterise(list(points))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert glyph.any()
    assert most < 200e6
