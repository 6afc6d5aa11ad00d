"""What a device adds to an improvement round, and what the sum of all says.

    clip the update [P] to the radius                       nobody's influence is above it
    (update / radius, +-INDICATOR), into the unit ball      the last: whether it was within
    round to whole steps of 1/1024 by chance, without bias, again until the norm is in bounds
    add discrete Gaussian noise: this device's share of what the sum must have
    -> the secure sum

This is the distributed discrete Gaussian mechanism of Kairouz, Liu, Steinke 2021, arXiv 2102.06387,
without its rotation: a sum modulo 2^32 has room for every entry, so none needs to be flattened.
The unit of privacy is the device: its vector replaced by zeros.
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
"""The entry that says whether the update was within the radius, of which half should be."""

SCALE = 1 / math.sqrt(1 + INDICATOR**2)

TAIL = 10
"""Standard deviations that noise does not reach."""


@dataclass(frozen=True)
class Task:
    """What every device of a round does alike, and agrees to.

    `parameters` are those of the expert to start from as little-endian float32, `rate` is that of
    the local training and `radius` what updates are clipped to. The sum has noise of `noise` times
    the longest vector once `survivors` of the `devices` that were asked are left; with more it has
    more. Raises InputError for a value that cannot be.
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
                raise InputError(f"{name}: {value:g} cannot be of a round; ask for another one")

    @property
    def entries(self) -> int:
        """How many entries a contribution has: one for each parameter, and one more."""
        return len(self.parameters) // 4 + 1

    @property
    def longest(self) -> float:
        """The longest vector in steps, noise aside: rounding adds a little to the ball's radius.

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
        """What the round costs a device, in zero-concentrated differential privacy."""
        return rho_of_sum(self.longest, self.sigma, self.survivors, self.entries)

    @property
    def bits(self) -> int:
        """The bits of an entry with which no sum overflows."""
        return bits_for(self.devices, math.ceil(self.longest + TAIL * self.sigma))

    @property
    def digest(self) -> bytes:
        """SHA-256 of all of it."""
        terms = struct.pack(
            "<dddQQ", self.rate, self.radius, self.noise, self.devices, self.survivors
        )
        return hashlib.sha256(terms + self.parameters).digest()

    def terms(self, sum: bytes) -> Terms:
        """Return what all devices agree on that add to the sum named by these 16 random bytes."""
        return Terms(sum, self.entries, self.bits, self.survivors, self.digest)

    def contribution(
        self, update: NDArray[np.float32], source: Callable[[int], bytes] = secrets.token_bytes
    ) -> NDArray[np.int64]:
        """Return what a device adds to the sum for its update [P], int64 [P + 1].

        `source` gives so many random bytes; only a simulation has another one than the system's.
        An update that is not finite counts as none and as beyond the radius. To refuse it would
        tell, without noise, what training on somebody's characters comes to.
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
        """Return the mean update [P] of so many devices, and the share of them within the radius.

        Both have noise, so the share may lie outside 0 to 1.
        """
        unit = total * (GRID / SCALE / devices)
        within = (1 + unit[-1] / INDICATOR) / 2
        return (unit[:-1] * self.radius).astype(np.float32), float(within)

    def is_plausible(self, total: NDArray[np.int64], devices: int) -> bool:
        """Whether honest devices may have summed to this: its norm is not beyond theirs and noise.

        The noise stands nearly at right angles to what they have learned, since it knows nothing of
        it. Of masked vectors nothing else can be checked.
        """
        learned, spread = devices * self.longest, self.sigma * math.sqrt(devices)
        noise = spread * (math.sqrt(self.entries) + TAIL)
        reach = math.sqrt(learned**2 + 2 * TAIL * learned * spread + noise**2)
        return float(np.linalg.norm(total.astype(np.float64))) <= reach

    def _rounded(
        self, steps: NDArray[np.float64], random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Round each entry up or down by chance; about every second try is within bounds."""
        while True:
            below = np.floor(steps)
            whole = (below + (random.random(len(steps)) < steps - below)).astype(np.int64)
            if float(whole @ whole) <= self.longest**2:
                return whole
