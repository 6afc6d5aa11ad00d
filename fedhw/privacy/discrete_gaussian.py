"""Integer noise that many devices add together, and the privacy of their noised sum.

The discrete Gaussian gives the integer k a probability in proportion to exp(-k^2 / 2 sigma^2)
(Canonne, Kamath and Steinke 2020, arXiv 2004.00010). Devices add it to integer vectors that are
summed modulo a power of two, where continuous noise is impossible.

A sum of n of them is nearly a discrete Gaussian of variance n sigma^2 (Kairouz, Liu and Steinke
2021, arXiv 2102.06387). With sigma >= 1/2, by Poisson's summation formula, the k-th of the n - 1
convolutions changes the distribution by at most q_k = exp(-2 pi^2 sigma^2 k / (k + 1)), so that
every log probability is within

    tau / 2 = 5 (q_1 + ... + q_(n-1))

of the discrete Gaussian's. For a shift by x, add up three steps: from the shifted sum to the
shifted discrete Gaussian, from there to the one in the middle, and back to the sum. A log ratio
within t is t^2/2-zCDP, a discrete Gaussian x^2 / 2 n sigma^2, and a^2/2 after b^2/2 make
(a + b)^2/2 (Bun and Steinke 2016, arXiv 1605.02065, proposition 3.3 and section 5). Over d entries,
by Minkowski:

    rho = (norm / (sqrt(n) sigma) + tau sqrt(d))^2 / 2
"""

import math
import secrets
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedhw.errors import InputError

REACH = 9.2
"""Standard deviations at which the noise is cut off: less than 2^-63 of it would lie beyond."""

LARGEST_SIGMA = 1e6
"""The table of probabilities has this many times `REACH` entries."""

LEAST_SIGMA = 0.5
"""Below this sigma there is no bound for a sum."""


def discrete_gaussian(
    sigma: float, size: int, source: Callable[[int], bytes] = secrets.token_bytes
) -> NDArray[np.int64]:
    """Draw independent integers [size] from the discrete Gaussian of parameter sigma.

    Inverse transform sampling of 64-bit words from the system's cryptographic generator; only a
    simulation gives another `source` of random bytes. Each probability is exact to about 15 digits.
    Raises InputError where sigma is not from 0, which is no noise, to 1e6.
    """
    # Negated so that NaN fails.
    if not 0 <= sigma <= LARGEST_SIGMA:
        raise InputError(f"sigma: {sigma:g} is out of range; give 0 to {LARGEST_SIGMA:g}")
    words = np.frombuffer(source(8 * size), np.uint64)
    tails = _tails(sigma)
    beyond = np.searchsorted(tails, words >> np.uint64(1), side="right")
    signs = 1 - 2 * (words & np.uint64(1)).astype(np.int64)
    steps: NDArray[np.int64] = signs * (len(tails) - beyond)
    return steps


@lru_cache(maxsize=2)
def _tails(sigma: float) -> NDArray[np.uint64]:
    """Return how many of 2^63 draws are at each distance from 0 or beyond, the farthest first.

    The sum starts at the far end, where a single draw in 2^63 still counts.
    """
    distances = np.arange(math.ceil(REACH * sigma), 0, -1)
    tails = np.cumsum(np.exp(-((distances / sigma) ** 2) / 2)) if sigma else np.empty(0)
    total = 1 + 2 * tails[-1:].sum()
    draws: NDArray[np.uint64] = np.rint(2 * tails / total * 2**63).astype(np.uint64)
    return draws


def rho_of_sum(norm: float, sigma: float, devices: int, entries: int) -> float:
    """Return the rho, in zCDP, of a sum to which `devices` devices have added noise of `sigma`.

    It bounds what the sum reveals about one integer vector [entries] of L2 norm up to `norm`,
    compared with zeros in its place. Count only devices that are trusted to have added noise. It is
    infinite where sigma is below 1/2 or there is no device.
    """
    # Negated so that NaN fails.
    if not (sigma >= LEAST_SIGMA and devices >= 1):
        return math.inf
    order = np.arange(1, devices)
    tau = 10 * float(np.exp(-2 * (math.pi * sigma) ** 2 * order / (order + 1)).sum())
    return (norm / (sigma * math.sqrt(devices)) + tau * math.sqrt(entries)) ** 2 / 2


def epsilon_of(rho: float, delta: float) -> float:
    """Return the epsilon, at `delta`, of a rho-zCDP mechanism; NaN is kept.

    By proposition 12 of Canonne, Kamath and Steinke 2020, at the best of many orders.

    >>> round(epsilon_of(0.01, 1e-6), 2)
    0.62
    """
    if not 0 < rho < math.inf:
        return rho
    from dp_accounting.rdp import compute_epsilon

    orders = 1 + np.geomspace(0.011, 1e8, 2000)
    return float(compute_epsilon(orders, rho * orders, delta)[0])
