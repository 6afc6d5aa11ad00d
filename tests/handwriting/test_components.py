import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import label

from fedhw.handwriting.components import bounding_box, connected_components, of_character

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(masks)
def test_components_are_those_of_scipy(ink: np.ndarray) -> None:
    count, number = connected_components(ink)
    theirs, expected = label(ink, np.ones((3, 3)))
    assert count == expected
    pairs = set(zip(number.ravel().tolist(), theirs.ravel().tolist(), strict=True))
    assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})


@given(masks)
def test_what_is_kept_is_ink_and_there_is_some(ink: np.ndarray) -> None:
    kept = of_character(ink)
    assert not (kept & ~ink).any()
    assert kept.any() == ink.any()


@given(masks, st.integers(0, 3))
def test_a_mask_is_empty_outside_its_bounding_box(ink: np.ndarray, turns: int) -> None:
    ink = np.rot90(ink, turns)
    top, left, height, width = bounding_box(ink)
    assert ink[top : top + height, left : left + width].sum() == ink.sum()
    assert (height == 0) == (not ink.any())
