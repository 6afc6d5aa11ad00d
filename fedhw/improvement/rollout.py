"""The steps of a roll-out: a release goes to a few devices, to more, and to all.

Each device draws a number for a release. Devices with a small number get the new release first.
"""

import hashlib
from typing import NamedTuple

SHARES = (0.01, 0.1, 1.0)
"""The share of devices that are offered the new release, by step."""

FLOOR_COHORTS = 2
"""A roll-out reaches at least this many minimum cohorts, since not every device reports."""


class RollOut(NamedTuple):
    """A `share` of the devices gets the version `newest`, called `name`, the rest gets `before`."""

    newest: int
    name: str
    before: int
    share: float

    def version_for(self, device: str, running: str | None) -> int:
        """Return the version for a device; a device that runs the newest one keeps it."""
        is_for = running == self.name or draw(device, self.name) < self.share
        return self.newest if is_for else self.before


def share_at(step: int, *, devices: int, minimum_cohort: int) -> float:
    """Return the share of devices at a step; it is 1 where too few others would be left to report.

    >>> share_at(0, devices=10_000, minimum_cohort=10)
    0.01
    >>> share_at(0, devices=100, minimum_cohort=10)
    0.2
    """
    fewest = FLOOR_COHORTS * minimum_cohort
    share = min(1.0, max(SHARES[step], fewest / max(devices, 1)))
    return share if (1 - share) * devices >= fewest else 1.0


def draw(device: str, release: str) -> float:
    """Return the number in [0, 1) that a device draws for a release, always the same one.

    The numbers of two releases are independent.
    """
    digest = hashlib.sha256(f"{release}\0{device}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
