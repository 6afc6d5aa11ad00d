"""A device's contribution to an improvement round, and the mean that follows from the sum.

    clip the update [P] to the radius                       this bounds the influence of a device
    (update / radius, +-INDICATOR), into the unit ball      the last entry: was it within?
    round at random to whole steps of 1/1024, unbiased, again until the norm is in bounds
    add discrete Gaussian noise: this device's share of the noise that the sum needs
    -> the secure sum

This is the distributed discrete Gaussian mechanism of Kairouz, Liu, Steinke 2021, arXiv 2102.06387,
without its rotation: a sum modulo 2^32 has room for every entry, so none needs to be flattened.
The unit of privacy is the device: neighbouring inputs replace its vector by zeros.
"""

import hashlib
import math
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedhw.errors import InputError
from fedhw.privacy.discrete_gaussian import discrete_gaussian, rho_of_sum
from fedhw.privacy.mechanism import GRID
from fedhw.privacy.secure_sum import Terms, bits_for

INDICATOR = 0.1
"""The entry that tells whether the update was within the radius, as half of them should be."""

SCALE = 1 / math.sqrt(1 + INDICATOR**2)

TAIL = 10
"""Noise stays below this many standard deviations."""


@dataclass(frozen=True)
class Task:
    """The terms of a round, which are the same for every device.

    `parameters` are those of the starting expert as little-endian float32, `rate` is that of the
    local training and `radius` the clipping radius. With the contributions of only `survivors` of
    the `devices` that were asked, the sum has noise of `noise` times the longest vector; with more
    contributions it has more. Raises InputError for a value that is out of range.
    """

    parameters: bytes
    rate: float
    radius: float
    noise: float
    devices: int
    survivors: int

    def __post_init__(self) -> None:
        good = {
            "parameters": len(self.parameters) > 0 and len(self.parameters) % 4 == 0,
            "rate": 0 < self.rate < 1,
            "radius": 0 < self.radius < math.inf,
            "noise": 0 <= self.noise < 1000,
            "devices": 2 <= self.devices <= 1_000_000,
            "survivors": 2 <= self.survivors <= self.devices,
        }
        for name, is_good in good.items():
            if not is_good:
                value = len(self.parameters) if name == "parameters" else getattr(self, name)
                raise InputError(f"{name}: {value:g} is out of range; ask for another round")

    @property
    def entries(self) -> int:
        """The length of a contribution: one entry for each parameter, and the indicator."""
        return len(self.parameters) // 4 + 1

    @property
    def longest(self) -> float:
        """The longest vector in steps, without noise: rounding adds a little to the ball's radius.

        Kairouz et al., proposition 22, at beta = exp(-1/2).
        """
        radius, entries = 1 / GRID, self.entries
        return math.sqrt(radius**2 + entries / 4 + radius + math.sqrt(entries) / 2)

    @property
    def sigma(self) -> float:
        """Standard deviation of each device's noise in steps."""
        return self.noise * self.longest / math.sqrt(self.survivors)

    @cached_property
    def rho(self) -> float:
        """The cost of the round for a device, in zero-concentrated differential privacy."""
        return rho_of_sum(self.longest, self.sigma, self.survivors, self.entries)

    @property
    def bits(self) -> int:
        """The bits of an entry, enough that no sum overflows."""
        return bits_for(self.devices, math.ceil(self.longest + TAIL * self.sigma))

    @property
    def digest(self) -> bytes:
        """SHA-256 of all terms."""
        terms = struct.pack(
            "<dddQQ", self.rate, self.radius, self.noise, self.devices, self.survivors
        )
        return hashlib.sha256(terms + self.parameters).digest()

    def terms(self, sum: bytes) -> Terms:
        """Return the terms of the secure sum that these 16 random bytes name."""
        return Terms(sum, self.entries, self.bits, self.survivors, self.digest)

    def contribution(
        self, update: NDArray[np.float32], source: Callable[[int], bytes] = secrets.token_bytes
    ) -> NDArray[np.int64]:
        """Return the contribution of a device for its update [P], int64 [P + 1].

        `source` returns that many random bytes; only a simulation replaces the system's. An update
        that is not finite counts as zeros and as beyond the radius: to refuse it would reveal,
        without noise, the result of training on one person's data.
        """
        norm = float(np.linalg.norm(update.astype(np.float64)))
        if math.isfinite(norm):
            clipped = update.astype(np.float64) / max(norm, self.radius)
        else:
            clipped = np.zeros(len(update))
        indicator = INDICATOR if norm <= self.radius else -INDICATOR
        random = np.random.default_rng(int.from_bytes(source(16)))
        steps = self._rounded(SCALE * np.append(clipped, indicator) / GRID, random)
        return steps + discrete_gaussian(self.sigma, self.entries, source)

    def mean(self, total: NDArray[np.int64], devices: int) -> tuple[NDArray[np.float32], float]:
        """Return the mean update [P] of this many devices, and their share within the radius.

        Both are noisy, so the share may lie outside 0 to 1.
        """
        unit = total * (GRID / SCALE / devices)
        within = (1 + unit[-1] / INDICATOR) / 2
        return (unit[:-1] * self.radius).astype(np.float32), float(within)

    def is_plausible(self, total: NDArray[np.int64], devices: int) -> bool:
        """Tell whether the norm of a sum is within the reach of honest devices and their noise.

        The noise is nearly orthogonal to the updates, since it is independent of them. Nothing else
        can be checked of masked vectors.
        """
        learned, spread = devices * self.longest, self.sigma * math.sqrt(devices)
        noise = spread * (math.sqrt(self.entries) + TAIL)
        reach = math.sqrt(learned**2 + 2 * TAIL * learned * spread + noise**2)
        return float(np.linalg.norm(total.astype(np.float64))) <= reach

    def _rounded(
        self, steps: NDArray[np.float64], random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Round each entry up or down at random; about every second try is within bounds."""
        while True:
            below = np.floor(steps)
            whole = (below + (random.random(len(steps)) < steps - below)).astype(np.int64)
            if float(whole @ whole) <= self.longest**2:
                return whole
