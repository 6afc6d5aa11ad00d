"""What the fleet's reports say of each window, and of a candidate: for people and Prometheus."""

from functools import reduce
from operator import add
from typing import NamedTuple

from fedhw.privacy.estimate import Estimate, estimate
from fedhw.privacy.statistics import SHADOW
from fedhw_server.store.fleet import Fleet


class WindowEstimates(NamedTuple):
    """The estimates of one window, over all devices and by release.

    `ended` is in Unix seconds. Releases with fewer devices than the minimum cohort are left out,
    and all of them where the others' sums, taken from the whole, would show those devices.
    """

    window: int
    ended: float
    cohort: int
    estimates: list[Estimate]
    by_release: dict[str, list[Estimate]]


FILLING = 0.15
"""Share of a window in which most reports of the one before come, as devices spread them."""


def window_estimates(
    fleet: Fleet, classes: int, window: int | None = None
) -> WindowEstimates | None:
    """Return the figures of a window, or of the newest that has the minimum cohort.

    One whose reports are just coming gives way to an older one. None where too few devices have
    reported; so many is then nobody's business.
    """
    policy = fleet.policy
    settled = fleet.clock.wall() - FILLING * policy.window
    shown = [
        (number, devices)
        for number, devices in fleet.reports.windows()
        if window in (None, number) and devices >= policy.minimum_cohort
    ]
    shown.sort(key=lambda one: (one[0] + 1) * policy.window > settled)
    for number, devices in shown:
        sums = fleet.reports.sums(number)
        whole = estimate(reduce(add, sums.values()), classes, policy.minimum_cohort)
        if whole is None:
            continue
        by_release = {
            release: part
            for release, some in sums.items()
            if (part := estimate(some, classes, policy.minimum_cohort)) is not None
        }
        hidden = sum(some.count for release, some in sums.items() if release not in by_release)
        if 0 < hidden < policy.minimum_cohort:
            by_release = {}
        return WindowEstimates(number, (number + 1) * policy.window, devices, whole, by_release)
    return None


def shadow_estimates(fleet: Fleet, candidate: str) -> list[Estimate] | None:
    """Return what the devices together say of a candidate; None under the minimum cohort."""
    sums = fleet.reports.shadow_sums(candidate)
    # No statistic of theirs goes by class.
    return None if sums is None else estimate(sums, 0, fleet.policy.minimum_cohort, SHADOW)
