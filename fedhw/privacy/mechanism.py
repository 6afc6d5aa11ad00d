"""The Gaussian mechanism on integers, which makes a vector differentially private.

A vector in the ball of radius 1 is rounded to steps of 1/1024 and gets Gaussian noise in whole
steps. Two vectors of the ball are at most 2 apart, so the L2 sensitivity is 2, whatever the vector
was computed from.

dp-accounting is imported on first use: its import takes longer than all others.
"""

import math
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedhw.errors import InputError
from fedhw.privacy.discrete_gaussian import epsilon_of

GRID = 1 / 1024
"""One step, a fraction of the ball's radius."""

SENSITIVITY = 2.0
"""The largest distance between two vectors of the ball."""

EPSILONS = (0.001, 1000.0)
DELTAS = (1e-15, 0.1)
"""The range for reports: outside it noise is negligible or cannot be computed accurately."""


@dataclass(frozen=True)
class GaussianMechanism:
    """Noise that makes a vector of the ball (`epsilon`, `delta`)-differentially private.

    `source` returns random bytes; only a simulation, to be repeatable, replaces the system's
    generator. Raises InputError where epsilon or delta is out of range.
    """

    epsilon: float
    delta: float
    source: Callable[[int], bytes] = field(default=secrets.token_bytes, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, (lowest, highest) in (("epsilon", EPSILONS), ("delta", DELTAS)):
            value = getattr(self, name)
            # Negated so that NaN fails.
            if not lowest <= value <= highest:
                raise InputError(
                    f"{name}: {value:g} is out of range; give {lowest:g} to {highest:g}"
                )

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise of each entry, relative to the radius.

        Calibrated by the analytic Gaussian mechanism (Balle and Wang 2018, arXiv 1805.06530).
        """
        return _sigma(self.epsilon, self.delta)

    def privatise(self, vector: NDArray[np.float64]) -> NDArray[np.int64]:
        """Clip a vector [D] to the ball and return it with noise, int64 [D] in steps of 1/1024.

        The lowest bits of a noised float reveal the value underneath (Mironov 2012,
        doi 10.1145/2382196.2382264); integers have no such bits. The vector lies on the grid before
        noise is added, so rounding the noise is the same as rounding the sum: the result is the
        continuous mechanism's output after post-processing. Floating point only affects the
        probability of each step, in about the 15th digit.
        """
        return on_grid(vector) + gaussian_steps(self.sigma, len(vector), self.source)


@lru_cache
def _sigma(epsilon: float, delta: float) -> float:
    from dp_accounting import get_sigma_gaussian

    return SENSITIVITY * float(get_sigma_gaussian(epsilon, delta))


def on_grid(vector: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the whole steps nearest to a vector [D], with an L2 norm of at most the radius.

    A vector outside the ball is clipped to it; where rounding to the nearest step would leave the
    ball, all entries are rounded towards zero. Raises ValueError where one is not finite.
    """
    if not np.isfinite(vector).all():
        raise ValueError("a vector must be finite")
    # Divided by the largest entry first, since the squares of large ones would overflow.
    largest = max(1.0, float(np.abs(vector).max(initial=0.0)))
    inside = vector / largest
    inside = inside / max(1 / largest, float(np.linalg.norm(inside)))
    steps: NDArray[np.int64] = np.rint(inside / GRID).astype(np.int64)
    if int(steps @ steps) * GRID**2 > 1:
        steps = np.trunc(inside / GRID).astype(np.int64)
    return steps


def gaussian_steps(
    sigma: float, size: int, source: Callable[[int], bytes] = secrets.token_bytes
) -> NDArray[np.int64]:
    """Draw independent N(0, sigma^2), int64 [size], rounded to steps of 1/1024.

    Box and Muller (1958) on 64-bit integers from the system's cryptographic generator; the tail
    ends at 9.4 sigma, beyond which lies less than 1e-20.
    """
    pairs = -(-size // 2)
    drawn = np.frombuffer(source(16 * pairs), np.uint64).reshape(2, pairs)
    uniform, turn = (drawn.astype(np.float64) + 1) / 2**64  # in (0, 1]
    radius = sigma / GRID * np.sqrt(-2 * np.log(uniform))
    normal = np.concatenate([radius * np.cos(math.tau * turn), radius * np.sin(math.tau * turn)])
    steps: NDArray[np.int64] = np.rint(normal[:size]).astype(np.int64)
    return steps


def composed_epsilon(sigmas: Iterable[float], delta: float, rho: float = 0.0) -> float:
    """Return the joint epsilon, at `delta`, of several noised vectors about the same device.

    Gaussians compose exactly: together they are one with 1/z^2 = sum of 1/z_i^2, where z is sigma
    over sensitivity (Dong, Roth and Su 2019, arXiv 1905.02383), also where later noise was chosen
    after earlier answers (Smith and Thakurta 2022, arXiv 2210.17520). With further releases that
    are rho-zCDP, each Gaussian is 1/(2 z^2)-zCDP and all costs add up (Bun and Steinke 2016, arXiv
    1605.02065).
    """
    return _epsilon(math.fsum((SENSITIVITY / sigma) ** 2 for sigma in sigmas), delta, rho)


@lru_cache(maxsize=10_000)
def _epsilon(squares: float, delta: float, rho: float) -> float:
    if rho != 0:
        return epsilon_of(squares / 2 + rho, delta)
    if squares == 0:
        return 0.0
    from dp_accounting import get_epsilon_gaussian

    return float(get_epsilon_gaussian(1 / math.sqrt(squares), delta))
