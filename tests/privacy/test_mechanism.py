import math
import subprocess
import sys

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare, norm

from fedhw.errors import InputError
from fedhw.privacy.mechanism import (
    DELTAS,
    EPSILONS,
    GRID,
    SENSITIVITY,
    GaussianMechanism,
    composed_epsilon,
    gaussian_steps,
    on_grid,
)

NEVER = 1e-6
"""Chance of a false alarm in each test of randomness."""


def delta_of(epsilon: float, multiplier: float) -> float:
    """The least delta of Gaussian noise: theorem 8 of Balle and Wang 2018."""
    half, shift = 1 / (2 * multiplier), epsilon * multiplier
    return float(norm.cdf(half - shift) - math.exp(epsilon) * norm.cdf(-half - shift))


def fit(steps, sigma: float) -> float:
    """Probability that N(0, sigma^2), rounded to steps, looks like this or worse."""
    edges = np.rint(norm.ppf(np.linspace(0, 1, 101)[1:-1]) * sigma / GRID) + 0.5
    edges = np.unique(np.concatenate([[-np.inf], edges, [np.inf]]))
    observed, _ = np.histogram(steps, edges)
    expected = np.diff(norm.cdf(edges * GRID / sigma)) * len(steps)
    return float(chisquare(observed, expected).pvalue)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-6, 1e-3])
def test_noise_is_just_large_enough(epsilon, delta):
    multiplier = GaussianMechanism(epsilon, delta).sigma / SENSITIVITY
    assert delta_of(epsilon, multiplier) == pytest.approx(delta, rel=1e-6)
    assert delta_of(epsilon, multiplier * 0.999) > delta


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("delta", DELTAS)
def test_noise_fits_the_wire_over_the_whole_range(epsilon, delta):
    mechanism = GaussianMechanism(epsilon, delta)
    assert mechanism.sigma > GRID
    assert 20 * mechanism.sigma / GRID < 2**31
    assert composed_epsilon([mechanism.sigma], delta) == pytest.approx(epsilon, rel=1e-6)


@pytest.mark.parametrize("cost", [(0, 1e-6), (-1, 1e-6), (math.nan, 1e-6), (math.inf, 1e-6)])
def test_an_epsilon_that_is_none_is_refused(cost):
    with pytest.raises(InputError, match=r"^epsilon: .*; give 0\.001 to 1000$"):
        GaussianMechanism(*cost)


@pytest.mark.parametrize("delta", [0, 1, -1e-6, math.nan])
def test_a_delta_that_is_none_is_refused(delta):
    with pytest.raises(InputError, match=r"^delta: .*; give 1e-15 to 0\.1$"):
        GaussianMechanism(1, delta)


@given(arrays(np.float64, st.integers(1, 90), elements=st.floats(-1e300, 1e300)))
def test_every_vector_ends_in_the_ball_and_on_the_grid(vector):
    steps = on_grid(vector)
    assert steps.dtype == np.int64
    assert sum(step * step for step in steps.tolist()) <= 1024**2


@given(arrays(np.float64, st.integers(1, 90), elements=st.floats(-0.1, 0.1)))
def test_a_vector_inside_the_ball_is_moved_by_half_a_step_at_most(vector):
    if np.linalg.norm(vector) > 0.9:
        vector = vector * 0.9
    assert np.abs(on_grid(vector) * GRID - vector).max() <= GRID / 2


def test_a_vector_outside_keeps_its_direction():
    np.testing.assert_array_equal(on_grid(np.array([3e200, -4e200])), [614, -819])
    np.testing.assert_array_equal(on_grid(np.zeros(3)), [0, 0, 0])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_vector_that_is_not_finite_gets_no_noise(value):
    with pytest.raises(ValueError, match="finite"):
        on_grid(np.array([0.0, value]))


@pytest.mark.parametrize("sigma", [0.05, 4.5])
def test_noise_is_gaussian(sigma):
    steps = gaussian_steps(sigma, 1_000_000)
    assert fit(steps, sigma) > NEVER
    # The same test sees one per cent too little noise.
    assert fit(steps, sigma * 1.01) < NEVER
    # Variance of a sample variance of a normal: 2 / n.
    assert abs(np.var(steps * GRID) / sigma**2 - 1) < 6 * math.sqrt(2 / len(steps))
    beyond = np.abs(steps * GRID) > 4 * sigma
    assert abs(beyond.sum() - 63.3) < 6 * math.sqrt(63.3)


def test_entries_of_the_noise_know_nothing_of_each_other():
    steps = np.stack([gaussian_steps(1.0, 8) for _ in range(100_000)]).astype(float)
    for values in (steps, steps**2):
        correlations = np.corrcoef(values, rowvar=False)[np.triu_indices(8, 1)]
        assert np.abs(correlations).max() < 6 / math.sqrt(len(steps))


def test_noise_is_added_once_to_each_entry():
    mechanism = GaussianMechanism(2, 1e-6)
    vector = np.array([0.5, -0.25, 0.0])
    steps = np.stack([mechanism.privatise(vector) for _ in range(20_000)])
    for column, value in zip(steps.T, vector, strict=True):
        assert fit(column - round(value * 1024), mechanism.sigma) > NEVER


@pytest.mark.parametrize("size", [0, 1, 2, 81])
def test_noise_has_the_size_that_is_asked_for(size):
    assert gaussian_steps(1.0, size).shape == (size,)


@pytest.mark.parametrize("reports", [1, 7, 365])
def test_composition_agrees_with_two_accountants(reports):
    mechanism, delta = GaussianMechanism(1, 1e-6), 1e-6
    composed = composed_epsilon([mechanism.sigma] * reports, delta)
    event = SelfComposedDpEvent(GaussianDpEvent(mechanism.sigma / SENSITIVITY), reports)
    pessimistic = PLDAccountant(value_discretization_interval=1e-3).compose(event)
    assert pessimistic.get_epsilon(delta) == pytest.approx(composed, rel=2e-3)
    assert composed < RdpAccountant().compose(event).get_epsilon(delta) < 1.3 * composed


def test_composition_of_different_noises_agrees_with_an_accountant():
    sigmas, delta = [3.0, 5.0, 8.0], 1e-5
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for sigma in sigmas:
        accountant.compose(GaussianDpEvent(sigma / SENSITIVITY))
    composed = composed_epsilon(sigmas, delta)
    assert accountant.get_epsilon(delta) == pytest.approx(composed, rel=2e-3)
    assert composed_epsilon([], delta) == 0


def test_the_accountant_is_imported_when_it_is_needed():
    program = (
        "import sys, fedhw.privacy.estimate, fedhw.privacy.ledger;"
        "sys.exit('dp_accounting' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
