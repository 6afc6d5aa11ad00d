import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.improvement.robust import clipped, trimmed_mean


@given(
    lie=st.sampled_from([-3e38, -1e6, 1.0, 1e6, 3e38, float("nan"), float("inf")]),
    liars=st.integers(0, 4),
    seed=st.integers(0, 50),
)
def test_liars_cannot_carry_the_mean_out_of_what_honest_ones_say(
    lie: float, liars: int, seed: int
) -> None:
    honest = np.random.default_rng(seed).normal(size=(20 - liars, 3)).astype(np.float32)
    mean = trimmed_mean(np.concatenate([honest, np.full((liars, 3), lie, np.float32)]), 0.2)
    assert (mean >= honest.min(0)).all()
    assert (mean <= honest.max(0)).all()


def test_without_liars_it_is_near_the_mean() -> None:
    honest = np.random.default_rng(0).normal(1.0, 0.1, size=(100, 5)).astype(np.float32)
    np.testing.assert_allclose(trimmed_mean(honest, 0.2), honest.mean(0), atol=0.03)


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing is left"):
        trimmed_mean(np.full((3, 2), np.nan, np.float32), 0.1)


def test_clipping_keeps_what_is_inside_and_drops_what_is_no_number() -> None:
    given_updates = np.array([[0.3, 0.4], [3.0, 4.0], [np.nan, 1.0], [np.inf, 0.0]], np.float32)
    np.testing.assert_allclose(
        clipped(given_updates, 1.0), [[0.3, 0.4], [0.6, 0.8], [0, 0], [0, 0]], rtol=1e-6
    )
