"""The estimates of one window, over all devices and by the release that they run."""

from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import NamedTuple

from fedhw.privacy.estimate import Estimate, Sums, estimate


class WindowEstimates(NamedTuple):
    """The estimates of one window, over all devices and by release.

    `ended` is in Unix seconds; `cohort` counts the devices that have reported. Releases with fewer
    devices than the minimum cohort are left out. So are all releases where subtracting the others
    from the whole would reveal fewer devices than that.
    """

    window: int
    ended: float
    cohort: int
    estimates: list[Estimate]
    by_release: dict[str, list[Estimate]]

    @classmethod
    def of(
        cls,
        window: int,
        seconds: float,
        sums: Mapping[str, Sums],
        classes: int,
        minimum_cohort: int,
    ) -> "WindowEstimates | None":
        """Estimate from the sums of each release; None where too few devices have reported."""
        whole_sums = reduce(add, sums.values())
        whole = estimate(whole_sums, classes, minimum_cohort)
        if whole is None:
            return None
        by_release = {
            release: part
            for release, some in sums.items()
            if (part := estimate(some, classes, minimum_cohort)) is not None
        }
        hidden = sum(some.count for release, some in sums.items() if release not in by_release)
        if 0 < hidden < minimum_cohort:
            by_release = {}
        return cls(window, (window + 1) * seconds, whole_sums.count, whole, by_release)

    def get(self, name: str) -> Estimate:
        """Return one figure over all devices; raises KeyError where it is not there."""
        for each in self.estimates:
            if each.name == name and each.entry is None:
                return each
        raise KeyError(name)
