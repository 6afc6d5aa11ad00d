"""How far a release goes: to a few devices, to more, and to all, step by step.

The devices that drew a small enough number run the new release, the others the one before.
"""

import hashlib
from typing import NamedTuple

SHARES = (0.01, 0.1, 1.0)
"""The share of devices that are offered the new release, step by step."""

FLOOR_COHORTS = 2
"""Minimum cohorts that a roll-out reaches at least, since not everybody reports."""


class RollOut(NamedTuple):
    """The version `newest`, called `name`, is for a `share` of the devices, `before` for the rest.

    >>> RollOut.at(0, 2, "v2-0123abcd", 1, devices=10_000, minimum_cohort=10).share
    0.01
    >>> RollOut.at(0, 2, "v2-0123abcd", 1, devices=100, minimum_cohort=10).share
    0.2
    """

    newest: int
    name: str
    before: int
    share: float

    @classmethod
    def at(
        cls, step: int, newest: int, name: str, before: int, *, devices: int, minimum_cohort: int
    ) -> "RollOut":
        """Return how far it goes at a step: to all where else too few would be left to report."""
        fewest = FLOOR_COHORTS * minimum_cohort
        share = min(1.0, max(SHARES[step], fewest / max(devices, 1)))
        has_others = (1 - share) * devices >= fewest
        return cls(newest, name, before, share if has_others else 1.0)

    def version_for(self, device: str, running: str | None) -> int:
        """Return the version that a device should run; nobody is taken one that it has."""
        is_for = running == self.name or draw(device, self.name) < self.share
        return self.newest if is_for else self.before


def draw(device: str, release: str) -> float:
    """Return a device's number in [0, 1) for a release, the same whenever it is asked for.

    Who has a small one for this release has any for the next.
    """
    digest = hashlib.sha256(f"{release}\0{device}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
