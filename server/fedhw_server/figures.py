"""What the fleet's reports say, window by window, for people and for Prometheus."""

from functools import reduce
from operator import add
from typing import NamedTuple

from fedhw.privacy.estimate import Estimate, estimate
from fedhw_server.fleet import Fleet


class Figures(NamedTuple):
    """The estimates of one window, over all devices and by release.

    `ended` is in Unix seconds. Releases with fewer devices than the minimum cohort are left out.
    """

    window: int
    ended: float
    cohort: int
    estimates: list[Estimate]
    by_release: dict[str, list[Estimate]]


def figures(fleet: Fleet, classes: int, window: int | None = None) -> Figures | None:
    """Return the figures of a window, or of the newest that has the minimum cohort.

    None where too few devices have reported; so many is then nobody's business.
    """
    policy = fleet.policy
    for number, devices in fleet.windows():
        if window not in (None, number) or devices < policy.minimum_cohort:
            continue
        sums = fleet.sums(number)
        whole = estimate(reduce(add, sums.values()), classes, policy.minimum_cohort)
        if whole is None:
            continue
        by_release = {
            release: part
            for release, some in sums.items()
            if (part := estimate(some, classes, policy.minimum_cohort)) is not None
        }
        return Figures(number, (number + 1) * policy.window, devices, whole, by_release)
    return None
