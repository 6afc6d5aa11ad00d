"""Tries to tell two extreme windows apart by their reports, as an adversary would."""

import math

import numpy as np
from scipy.stats import beta

from fedhw.privacy.mechanism import GRID, GaussianMechanism, composed_epsilon
from fedhw.privacy.statistics import Tally, make_report, vector

RUNS = 10_000
THRESHOLDS = np.linspace(-1.5, 1.5, 7)
"""In standard deviations of the noise that is claimed."""
NEVER = 1e-6

IDLE_LATENCIES = (0,) * 10
GOOD = Tally(1, 0, 1, 1, 1, 10**6, (0, 0), IDLE_LATENCIES)
BAD = Tally(500, 500, 0, 0, 0, 500, (500, 0), (500, *IDLE_LATENCIES[1:]))


def audited_epsilon(mechanism: GaussianMechanism, claim: GaussianMechanism) -> float:
    """The least epsilon that explains how well the likelihood ratio tells GOOD from BAD.

    A lower bound at the claim's delta: Clopper and Pearson (1934) at each of the fixed thresholds.
    """
    direction = vector(GOOD) - vector(BAD)
    assert np.linalg.norm(direction) > 1.8
    direction /= np.linalg.norm(direction)
    scores = [
        [make_report(tally, "d", 1, "v1", mechanism).steps @ direction * GRID for _ in range(RUNS)]
        for tally in (GOOD, BAD)
    ]
    doubt = NEVER / (2 * len(THRESHOLDS))
    bounds = [0.0]
    for threshold in THRESHOLDS * claim.sigma:
        hits, false = (int((np.array(score) > threshold).sum()) for score in scores)
        least = beta.ppf(doubt, hits, RUNS - hits + 1)
        most = beta.ppf(1 - doubt, false + 1, RUNS - false)
        if least > claim.delta:
            bounds.append(math.log((least - claim.delta) / most))
    return max(bounds)


def test_reports_tell_no_more_than_they_claim():
    claim = GaussianMechanism(2, 1e-6)
    audited = audited_epsilon(claim, claim)
    assert 0.2 < audited < claim.epsilon


def test_the_audit_catches_noise_ten_times_too_small():
    claim = GaussianMechanism(2, 1e-6)
    weak = GaussianMechanism(composed_epsilon([claim.sigma / 10], claim.delta), claim.delta)
    assert weak.sigma < claim.sigma / 9.9
    assert audited_epsilon(weak, claim) > claim.epsilon
