"""The privacy budget of a device: its limits, and the composition of what it has spent.

State in, state out: a charge returns the next budget, or is refused. The time is an argument. Costs
dated in the future count as of today, so that setting a clock back refunds nothing.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from fedhw.errors import InputError
from fedhw.privacy.mechanism import DELTAS, composed_epsilon
from fedhw.system.clock import DAY_SECONDS

ROUNDS_A_DAY = 200
"""Most improvement rounds in 24 hours, however little each costs: they use energy, and this also
stops a coordinator whose rounds reveal more than was assumed."""

TOLERANCE = 1e-6
"""How far rounding may push an epsilon above a limit that it meets exactly."""


class BudgetSpentError(InputError):
    """One more report or round would exceed the budget."""


@dataclass(frozen=True)
class Limits:
    """The limits of a budget: epsilon `per_day` and `in_all`, both at `delta`.

    Raises InputError for a value that is out of range.
    """

    per_day: float
    in_all: float
    delta: float

    def __post_init__(self) -> None:
        for name in ("per_day", "in_all"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(
                    f"{name}: {getattr(self, name):g} is not a budget; give a number above 0"
                )
        if not DELTAS[0] <= self.delta <= DELTAS[1]:
            raise InputError(
                f"delta: {self.delta:g} is out of range; give {DELTAS[0]:g} to {DELTAS[1]:g}"
            )


class Spent(NamedTuple):
    """The joint cost of reports and rounds, as epsilon at the limits' delta.

    `day` covers the last 24 hours, which had this many `rounds`.
    """

    day: float
    in_all: float
    rounds: int


class ReportCost(NamedTuple):
    """A report: its Unix second, and the standard deviation of its noise relative to the radius."""

    at: float
    sigma: float


class RoundCost(NamedTuple):
    """An improvement round: its Unix second, and its cost in zCDP."""

    at: float
    rho: float


@dataclass(frozen=True)
class Budget:
    """The limits of a device and its costs, in any order; immutable.

    >>> budget = Budget(Limits(per_day=1.0, in_all=4.0, delta=1e-6)).with_round(0.02, now=0.0)
    >>> round(budget.spent(now=60.0).day, 2), budget.spent(now=86_400.0).day
    (0.9, 0.0)
    """

    limits: Limits
    reports: tuple[ReportCost, ...] = ()
    rounds: tuple[RoundCost, ...] = ()

    def spent(self, now: float) -> Spent:
        """Return the cost of all reports and rounds; `now` is in Unix seconds."""
        # Negated so that NaN counts as of today.
        reports = [cost for cost in self.reports if not cost.at <= now - DAY_SECONDS]
        rounds = [cost for cost in self.rounds if not cost.at <= now - DAY_SECONDS]
        return Spent(
            day=self._epsilon(reports, rounds),
            in_all=self._epsilon(self.reports, self.rounds),
            rounds=len(rounds),
        )

    @property
    def rho(self) -> float:
        """The cost of all rounds, in zCDP."""
        return math.fsum(cost.rho for cost in self.rounds)

    def with_report(self, sigma: float, now: float) -> "Budget":
        """Return the budget after a report with noise of `sigma`.

        Raises BudgetSpentError where it would exceed a limit.
        """
        return replace(self, reports=(*self.reports, ReportCost(now, sigma)))._within_limits(now)

    def with_round(self, rho: float, now: float) -> "Budget":
        """Return the budget after an improvement round that is rho-zCDP.

        Raises BudgetSpentError where it would exceed a limit, InputError for a negative cost.
        """
        # Negated so that NaN fails.
        if not rho >= 0:
            raise InputError(f"rho: {rho:g} is not a cost; give 0 or more")
        return replace(self, rounds=(*self.rounds, RoundCost(now, rho)))._within_limits(now)

    def _epsilon(self, reports: Iterable[ReportCost], rounds: Iterable[RoundCost]) -> float:
        rho = math.fsum(cost.rho for cost in rounds)
        return composed_epsilon([cost.sigma for cost in reports], self.limits.delta, rho)

    def _within_limits(self, now: float) -> "Budget":
        spent = self.spent(now)
        for what, value, limit in (
            ("epsilon {:.3g} of the last 24 hours", spent.day, self.limits.per_day),
            ("epsilon {:.3g} of all that was told", spent.in_all, self.limits.in_all),
            ("{} rounds in the last 24 hours", spent.rounds, ROUNDS_A_DAY),
        ):
            # Negated so that NaN fails.
            if not value <= limit + TOLERANCE:
                raise BudgetSpentError(
                    f"budget: one more would make {what.format(value)}, and the limit is "
                    f"{limit:g}; nothing is sent"
                )
        return self
