"""How much a device may tell, and how much it has told: limits and composition, without a disk.

State in, state out: a charge gives the budget that follows, or is refused. The time is handed in.
What is dated later than now counts as of today, so that a clock which is set back refunds nothing.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from fedhw.errors import InputError
from fedhw.privacy.mechanism import DELTAS, composed_epsilon
from fedhw.system.clock import DAY_SECONDS

ROUNDS_A_DAY = 200
"""Improvement rounds in 24 hours, however little each tells: they cost the device energy, and a
coordinator whose rounds tell more than was believed is stopped all the same."""

TOLERANCE = 1e-6
"""How far rounding may carry an epsilon over a limit that it just meets."""


class BudgetSpentError(InputError):
    """One more report or round would cost more than the device may tell."""


@dataclass(frozen=True)
class Limits:
    """The most that all may cost together: epsilon `per_day` and `in_all`, both at `delta`.

    Raises InputError for a value that is out of range.
    """

    per_day: float
    in_all: float
    delta: float

    def __post_init__(self) -> None:
        for name in ("per_day", "in_all"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name}: {getattr(self, name):g} is no budget; give it above 0")
        if not DELTAS[0] <= self.delta <= DELTAS[1]:
            raise InputError(
                f"delta: {self.delta:g} is out of range; give {DELTAS[0]:g} to {DELTAS[1]:g}"
            )


class Spent(NamedTuple):
    """What reports and rounds have cost together: epsilon at the limits' delta.

    `day` is of the last 24 hours, in which there were that many `rounds`.
    """

    day: float
    in_all: float
    rounds: int


class ReportCost(NamedTuple):
    """A report: when, in Unix seconds, and its noise's standard deviation over the radius."""

    at: float
    sigma: float


class RoundCost(NamedTuple):
    """An improvement round: when, in Unix seconds, and its cost in zCDP."""

    at: float
    rho: float


@dataclass(frozen=True)
class Budget:
    """What a device may tell and what it has told, in any order; a charge makes another budget.

    >>> budget = Budget(Limits(per_day=1.0, in_all=4.0, delta=1e-6)).with_round(0.02, now=0.0)
    >>> round(budget.spent(now=60.0).day, 2), budget.spent(now=86_400.0).day
    (0.9, 0.0)
    """

    limits: Limits
    reports: tuple[ReportCost, ...] = ()
    rounds: tuple[RoundCost, ...] = ()

    def spent(self, now: float) -> Spent:
        """Return what reports and rounds have cost by `now`, in Unix seconds."""
        # Written so that NaN is of today.
        reports = [cost for cost in self.reports if not cost.at <= now - DAY_SECONDS]
        rounds = [cost for cost in self.rounds if not cost.at <= now - DAY_SECONDS]
        return Spent(
            day=self._epsilon(reports, rounds),
            in_all=self._epsilon(self.reports, self.rounds),
            rounds=len(rounds),
        )

    @property
    def rho(self) -> float:
        """What the rounds have cost, in zCDP."""
        return math.fsum(cost.rho for cost in self.rounds)

    def with_report(self, sigma: float, now: float) -> "Budget":
        """Return the budget after a report with noise of `sigma`.

        Raises BudgetSpentError where a limit would be passed.
        """
        return replace(self, reports=(*self.reports, ReportCost(now, sigma)))._within_limits(now)

    def with_round(self, rho: float, now: float) -> "Budget":
        """Return the budget after an improvement round that is rho-zCDP.

        Raises BudgetSpentError where a limit would be passed, InputError for a negative cost.
        """
        # Written so that NaN fails.
        if not rho >= 0:
            raise InputError(f"rho: {rho:g} is no cost; give it from 0 on")
        return replace(self, rounds=(*self.rounds, RoundCost(now, rho)))._within_limits(now)

    def _epsilon(
        self,
        reports: Iterable[ReportCost],
        rounds: Iterable[RoundCost],
    ) -> float:
        rho = math.fsum(cost.rho for cost in rounds)
        return composed_epsilon([cost.sigma for cost in reports], self.limits.delta, rho)

    def _within_limits(self, now: float) -> "Budget":
        spent = self.spent(now)
        for what, value, limit in (
            ("epsilon {:.3g} of the last 24 hours", spent.day, self.limits.per_day),
            ("epsilon {:.3g} of all that was told", spent.in_all, self.limits.in_all),
            ("{} rounds in the last 24 hours", spent.rounds, ROUNDS_A_DAY),
        ):
            # Written so that NaN fails.
            if not value <= limit + TOLERANCE:
                raise BudgetSpentError(
                    f"budget: one more would make {what.format(value)}, and the limit is "
                    f"{limit:g}; nothing is sent"
                )
        return self
