"""Estimates from the reports of a fleet: means and their standard errors.

A server stores only sums. Means are unbiased, so noise may push one outside the range of the
statistic.
"""

import json
import math
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import add
from typing import NamedTuple

import numpy as np

from fedhw.errors import InputError
from fedhw.privacy.mechanism import GRID, GaussianMechanism
from fedhw.privacy.statistics import WINDOW, Report, Statistic, Table, layout, length

LEAST_ACTIVE = 0.1
"""The smallest share of active devices that is used as a divisor."""

AT_ONCE = 256
"""Reports whose squares are summed in int64: with the highest noise they need 63 bits."""


@dataclass(frozen=True)
class Sums:
    """Sums over reports, exact: Python integers do not overflow.

    `count` reports, `noise` the sum of their noise's variance in steps squared, rounded up;
    `totals` and `squares` [D] sum each entry's steps and their squares.
    """

    count: int
    noise: int
    totals: tuple[int, ...]
    squares: tuple[int, ...]

    @classmethod
    def of(cls, *reports: Report) -> "Sums":
        """Return the sums of checked reports of one table and number of classes."""
        sums = []
        for start in range(0, len(reports), AT_ONCE):
            some = reports[start : start + AT_ONCE]
            steps = np.stack([report.steps for report in some]).astype(np.int64)
            totals, squares = steps.sum(0), np.square(steps).sum(0)
            noise = sum(_noise(report.epsilon, report.delta) for report in some)
            sums.append(cls(len(some), noise, tuple(totals.tolist()), tuple(squares.tolist())))
        return reduce(add, sums)

    def __add__(self, other: "Sums") -> "Sums":
        """Return the sum of both; raises ValueError where their lengths differ."""
        if len(self.totals) != len(other.totals):
            raise ValueError(f"{len(self.totals)} entries and {len(other.totals)} do not add")
        return Sums(
            self.count + other.count,
            self.noise + other.noise,
            tuple(map(add, self.totals, other.totals)),
            tuple(map(add, self.squares, other.squares)),
        )

    def to_bytes(self) -> bytes:
        """Return the sums as JSON."""
        return json.dumps(list(vars(self).values()), separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Sums":
        """Read what `to_bytes` wrote; raises InputError where it is something else."""
        try:
            count, noise, totals, squares = json.loads(content)
            if any(type(value) is not int for value in (count, noise, *totals, *squares)):
                raise TypeError
        except (ValueError, TypeError):
            raise InputError("sums: they are damaged; restore the coordinator's home") from None
        return cls(count, noise, tuple(totals), tuple(squares))


@lru_cache
def _noise(epsilon: float, delta: float) -> int:
    """Return the variance of a report's noise in steps squared, rounded up."""
    return math.ceil((GaussianMechanism(epsilon, delta).sigma / GRID) ** 2)


class Estimate(NamedTuple):
    """The mean of a figure over devices, in `unit`.

    `entry` is the class or the latency bucket where the statistic has many, else None; `cohort`
    counts the reports behind it.
    """

    name: str
    entry: int | None
    mean: float
    standard_error: float
    cohort: int
    unit: str

    def interval(self, confidence: float = 0.99) -> tuple[float, float]:
        """Return an interval that covers the fleet's true mean with the given confidence.

        It uses Student's t with cohort - 1 degrees of freedom: the variance of the noise is known,
        but that among people is estimated from the same reports.
        """
        from scipy.stats import t

        reach = float(t.ppf((1 + confidence) / 2, self.cohort - 1)) * self.standard_error
        return self.mean - reach, self.mean + reach


def estimate(
    sums: Sums, classes: int, minimum_cohort: int, table: Table = WINDOW
) -> list[Estimate] | None:
    """Return the estimate of every statistic of a table; None under the minimum cohort.

    The table of a window also gives `moe_accuracy`, the sum of `ge_accuracy` and `gain`.

    A standard error comes from the sample variance over reports, which includes noise and the
    variance among people; it is never less than that of the noise alone, so a tiny cohort that
    happens to agree gets no credit for it. Where a statistic exists only for devices with
    corrections, the mean is over those: the sum divided by the estimated share of active devices
    (delta method; the share is limited to 0.1 to 1). All reports must be of different devices, so
    of one window or candidate. Raises InputError where the minimum is below 2 or the sums are of
    another table or number of classes.
    """
    if minimum_cohort < 2:
        raise InputError(
            f"minimum_cohort: {minimum_cohort} would reveal one device; give 2 or more"
        )
    if len(sums.totals) != length(classes, table):
        raise InputError(
            f"sums: {len(sums.totals)} entries do not fit {classes} classes; give sums of reports "
            "for these labels"
        )
    if sums.count < minimum_cohort:
        return None
    rows, places = {row.name: row for row in table.rows}, layout(classes, table)
    moments = {name: _moments(sums, row, places[name]) for name, row in rows.items()}
    [active] = moments["active"]
    share = min(1.0, max(LEAST_ACTIVE, rows["active"].centre + active.mean))
    estimates = []
    for name, entries in moments.items():
        row = rows[name]
        for entry, one in enumerate(entries):
            mean, error = (
                one.among(share, active, sums.count) if row.of_active else one.over(sums.count)
            )
            index = None if row.size == 1 else entry
            estimates.append(Estimate(name, index, row.centre + mean, error, sums.count, row.unit))
    if table is WINDOW:
        ge, [mixed] = rows["ge_accuracy"], map(_both, moments["ge_accuracy"], moments["gain"])
        mean, error = mixed.among(share, active, sums.count)
        moe = Estimate("moe_accuracy", None, ge.centre + mean, error, sums.count, ge.unit)
        estimates.append(moe)
    return estimates


def noise_error(
    name: str, mechanism: GaussianMechanism, devices: int, table: Table = WINDOW
) -> float:
    """Return the standard error of a statistic due to noise alone, in its unit.

    This is for a value that is sent as 0, with all devices active.

    >>> round(noise_error("gain", GaussianMechanism(2, 1e-6), 10_000), 3)
    0.029
    """
    [row] = [row for row in table.rows if row.name == name]
    return mechanism.sigma * row.scale / math.sqrt(devices)


class _Moments(NamedTuple):
    """The mean of an entry over reports, from its centre and in its unit, and the variances of one
    report due to noise and to people.
    """

    mean: float
    noise: float
    people: float

    def over(self, count: int) -> tuple[float, float]:
        """Return the mean over all devices, and its standard error."""
        return self.mean, math.sqrt((self.noise + self.people) / count)

    def among(self, share: float, active: "_Moments", count: int) -> tuple[float, float]:
        """Return the mean over the devices with corrections, a `share` of all, and its error.

        The others send 0, so the covariance with being active is known: mean * (1 - share).
        """
        mean = self.mean / share
        noise = self.noise + mean**2 * active.noise
        people = max(0.0, self.people - mean**2 * share * (1 - share))
        return mean, math.sqrt((noise + people) / count) / share


def _moments(sums: Sums, row: Statistic, place: slice) -> list[_Moments]:
    count, step = sums.count, GRID * row.scale
    noise = sums.noise / count * step**2
    entries = zip(sums.totals[place], sums.squares[place], strict=True)
    return [
        _Moments(
            total / count * step,
            noise,
            # Exact integers up to the division, so there is no cancellation.
            max(0.0, (count * square - total**2) / (count * (count - 1)) * step**2 - noise),
        )
        for total, square in entries
    ]


def _both(one: _Moments, other: _Moments) -> _Moments:
    """Return the moments of a sum. Noise is independent; the covariance among people is bounded by
    Cauchy and Schwarz, which overestimates the error.
    """
    people = (math.sqrt(one.people) + math.sqrt(other.people)) ** 2
    return _Moments(one.mean + other.mean, one.noise + other.noise, people)
