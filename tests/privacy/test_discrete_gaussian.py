import math
from fractions import Fraction
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta, chisquare

from fedhw.errors import InputError
from fedhw.privacy.discrete_gaussian import (
    _tails,
    discrete_gaussian,
    epsilon_of,
    rho_of_sum,
)

NEVER = 1e-6
"""Chance of a false alarm in each test of randomness."""


def chances(sigma: float, reach: int) -> NDArray[np.float64]:
    """Of the integers from -reach to reach."""
    weights = np.exp(-((np.arange(-reach, reach + 1) / sigma) ** 2) / 2)
    return weights / weights.sum()


def fit(steps: NDArray[np.int64], sigma: float) -> float:
    """Probability that the discrete Gaussian looks like this or worse."""
    reach = math.ceil(40 * sigma)
    expected = chances(sigma, reach) * len(steps)
    observed = np.bincount(steps + reach, minlength=2 * reach + 1)
    # Bins of 50 or more expected, from the left; what is left over joins the last.
    bins = (np.cumsum(expected) // 50).astype(int)
    expected, observed = np.bincount(bins, expected), np.bincount(bins, observed)
    filled = expected > 0
    return float(chisquare(observed[filled], expected[filled]).pvalue)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.7, 50.0])
def test_noise_is_discrete_gaussian(sigma):
    steps = discrete_gaussian(sigma, 3_000_000)
    assert fit(steps, sigma) > NEVER
    # The same test sees one per cent too little noise.
    assert fit(steps, sigma * 1.01) < NEVER
    reach = math.ceil(40 * sigma)
    variance = float(chances(sigma, reach) @ np.arange(-reach, reach + 1.0) ** 2)
    assert abs(np.var(steps) / variance - 1) < 6 * math.sqrt(2 / len(steps))
    assert abs(steps.mean()) < 6 * math.sqrt(variance / len(steps))


def test_noise_of_100_000_steps_has_its_variance():
    steps = discrete_gaussian(1e5, 66_127)
    assert abs(np.var(steps / 1e5) - 1) < 6 * math.sqrt(2 / len(steps))
    assert len(np.unique(steps)) > 50_000


def test_entries_of_the_noise_know_nothing_of_each_other():
    steps = discrete_gaussian(2.0, 800_000).reshape(-1, 8).astype(float)
    for values in (steps, steps**2):
        correlations = np.corrcoef(values, rowvar=False)[np.triu_indices(8, 1)]
        assert np.abs(correlations).max() < 6 / math.sqrt(len(steps))


@pytest.mark.parametrize("size", [0, 1, 5])
def test_no_noise_is_zeros(size):
    steps = discrete_gaussian(0, size)
    assert steps.dtype == np.int64
    assert steps.tolist() == [0] * size


@pytest.mark.parametrize("sigma", [-1, math.nan, math.inf, 1e7])
def test_a_sigma_that_is_none_is_refused(sigma):
    with pytest.raises(InputError, match=r"^sigma: .*; give 0 to 1e\+06$"):
        discrete_gaussian(sigma, 3)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.5, 20.0])
def test_the_table_is_right_to_its_last_entries(sigma):
    reach = math.ceil(15 * sigma)
    weights = [Fraction(math.exp(-((k / sigma) ** 2) / 2)) for k in range(reach + 1)]
    total = 2 * sum(weights) - 1
    tails = _tails(sigma)[::-1].tolist()
    assert tails == sorted(tails, reverse=True)
    assert tails[-1] <= 1
    for distance, tail in enumerate(tails, 1):
        exact = 2 * sum(weights[distance:]) / total * 2**63
        assert abs(tail - exact) <= 1 + exact * Fraction(1e-14)


def divergence(noise: NDArray[np.float64], shift: int, order: float) -> float:
    """Renyi divergence of noise moved by `shift` from itself."""
    moved, still = noise[: len(noise) - shift], noise[shift:]
    both = (moved > 0) & (still > 0)
    terms = order * np.log(moved[both]) + (1 - order) * np.log(still[both])
    return float(np.logaddexp.reduce(terms)) / (order - 1)


@pytest.mark.parametrize("sigma", [0.5, 0.6, 0.8, 1.0, 2.0])
@pytest.mark.parametrize("devices", [1, 2, 3, 5])
def test_no_small_sum_tells_more_than_its_rho(sigma, devices):
    reach = math.ceil(35 * sigma)
    noise = reduce(np.convolve, [chances(sigma, reach)] * devices)
    for shift in (1, 2, 3):
        rho = rho_of_sum(shift, sigma, devices, 1)
        for order in (1.01, 1.5, 2.0, 5.0, 9.0):
            assert divergence(noise, shift, order) <= rho * order * (1 + 1e-9)
    # With little to allow for, hardly anything is given away.
    if sigma == 2:
        assert divergence(noise, 3, 2.0) > 0.99 * 2 * rho_of_sum(3, sigma, devices, 1)


def test_a_sum_of_many_is_as_good_as_a_gaussian_of_all_their_variance():
    assert rho_of_sum(100, 20, 1, 66_127) == pytest.approx(100**2 / 20**2 / 2)
    assert rho_of_sum(100, 20, 50, 66_127) == pytest.approx(100**2 / (50 * 20**2) / 2)


@given(st.floats(0.1, 1e6), st.floats(0.5, 1e5), st.integers(1, 500), st.integers(1, 10**6))
def test_a_longer_vector_and_less_noise_tell_more(norm, sigma, devices, entries):
    rho = rho_of_sum(norm, sigma, devices, entries)
    assert rho >= norm**2 / (devices * sigma**2) / 2 * (1 - 1e-12)
    assert rho_of_sum(2 * norm, sigma, devices, entries) > rho
    assert rho_of_sum(norm, 2 * sigma, devices, entries) < rho
    assert rho_of_sum(norm, sigma, devices, 2 * entries) >= rho


@pytest.mark.parametrize(("sigma", "devices"), [(0, 5), (0.49, 5), (math.nan, 5), (3, 0), (-1, 2)])
def test_without_noise_nothing_is_private(sigma, devices):
    assert rho_of_sum(1, sigma, devices, 10) == math.inf


@given(st.floats(1e-12, 1e4), st.sampled_from([1e-9, 1e-6, 1e-3]))
def test_epsilon_is_that_of_the_best_order(rho, delta):
    # The textbook's conversion (Bun and Steinke 2016, proposition 1.3) is never better.
    most = rho + 2 * math.sqrt(rho * math.log(1 / delta))
    assert 0 <= epsilon_of(rho, delta) <= most * (1 + 1e-9)
    orders = 1 + np.geomspace(0.02, 1e7, 997)
    costs = rho * orders + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)
    assert epsilon_of(rho, delta) <= max(0, costs.min()) * (1 + 1e-3) + 1e-6


def test_nothing_costs_nothing_and_everything_everything():
    assert epsilon_of(0, 1e-6) == 0
    assert epsilon_of(math.inf, 1e-6) == math.inf
    assert math.isnan(epsilon_of(math.nan, 1e-6))


RUNS = 200_000
DELTA = 1e-4


def audited_epsilon(vector: NDArray[np.int64], sigma: float, devices: int) -> float:
    """The least epsilon that explains how well noised sums with a vector differ from without.

    A lower bound at `DELTA`: Clopper and Pearson (1934) at each of the fixed thresholds.
    """
    scores = []
    for value in (vector, 0 * vector):
        draws = (discrete_gaussian(sigma, RUNS * len(vector)) for _ in range(devices))
        scores.append((sum(draws).reshape(RUNS, -1) + value) @ vector)
    middle, spread = vector @ vector / 2, math.sqrt(devices * (vector @ vector)) * sigma
    thresholds = middle + spread * np.linspace(-2, 2, 9)
    doubt, bounds = NEVER / (2 * len(thresholds)), [0.0]
    for threshold in thresholds:
        hits, false = (int((score > threshold).sum()) for score in scores)
        least = beta.ppf(doubt, hits, RUNS - hits + 1)
        most = beta.ppf(1 - doubt, false + 1, RUNS - false)
        if least > DELTA:
            bounds.append(math.log((least - DELTA) / most))
    return max(bounds)


def test_an_adversary_finds_no_more_than_is_claimed_and_sees_missing_noise():
    vector, sigma, devices = np.array([3, -2, 1, 0]), 2.0, 4
    norm = float(np.linalg.norm(vector))
    claim = epsilon_of(rho_of_sum(norm, sigma, devices, len(vector)), DELTA)
    assert 0.3 * claim < audited_epsilon(vector, sigma, devices) < claim
    # One that adds noise where four are claimed.
    assert audited_epsilon(vector, sigma / 2, 1) > claim
