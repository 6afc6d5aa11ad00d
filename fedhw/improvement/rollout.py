"""A promoted release goes to a few devices, to more, and to all; or back.

stage by stage, each for so many windows:
    the devices that drew a small enough number run the new release, the others the one before
    clearly worse than the others by the statistics -> back to the one before
    not clearly worse after the stage's time -> the next stage
"""

import hashlib
import math
from collections.abc import Iterable
from enum import StrEnum
from statistics import NormalDist
from typing import NamedTuple

from fedhw.privacy.estimate import Estimate

STAGES = (0.01, 0.1, 1.0)
"""The share of devices that are offered the new release."""

WINDOWS = 2
"""Windows of reports that a stage lasts at least."""

GUARDED = ("moe_accuracy", "ge_accuracy")
"""What must not be worse under the new release than under the one before."""

CONFIDENCE = 0.999
"""Of each test, of which a roll-out has a dozen."""


class Step(StrEnum):
    """What to do with a roll-out after a look at the statistics."""

    WAIT = "wait"
    ADVANCE = "advance"
    ROLL_BACK = "roll back"


class Verdict(NamedTuple):
    """A step and the reason for it, one sentence for people."""

    step: Step
    reason: str


def share_at(stage: int, devices: int, fewest: int) -> float:
    """Return the share of so many devices that a stage reaches: at least `fewest` of them.

    >>> share_at(0, 10_000, 10), share_at(0, 100, 10), share_at(2, 100, 10)
    (0.01, 0.1, 1.0)
    """
    return min(1.0, max(STAGES[stage], fewest / max(devices, 1)))


def draw(device: str, release: str) -> float:
    """Return a device's number in [0, 1) for a release, the same whenever it is asked for.

    Who has a small one for this release has any for the next.
    """
    digest = hashlib.sha256(f"{release}\0{device}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def look(new: Iterable[Estimate], old: Iterable[Estimate], windows: int) -> Verdict:
    """Compare estimates under the new release with those under the old one, after so many windows.

    Whether it got worse is a one-sided test of each
    guarded mean by normal approximation.
    """
    before = {each.name: each for each in old}
    for after in new:
        if after.name not in GUARDED or after.name not in before:
            continue
        change = after.mean - before[after.name].mean
        error = math.hypot(after.standard_error, before[after.name].standard_error)
        if change + NormalDist().inv_cdf(CONFIDENCE) * error < 0:
            return Verdict(
                Step.ROLL_BACK,
                f"{after.name} is {change:+.3f} (standard error {error:.3f}) against the release "
                "before",
            )
    if windows < WINDOWS:
        return Verdict(Step.WAIT, f"{windows} of {WINDOWS} windows have been looked at")
    return Verdict(Step.ADVANCE, f"not worse in {windows} windows")
