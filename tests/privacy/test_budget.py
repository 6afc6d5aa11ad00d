import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from dp_accounting import get_epsilon_gaussian
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw.privacy.budget import (
    ROUNDS_A_DAY,
    TOLERANCE,
    Budget,
    BudgetSpentError,
    Limits,
    ReportCost,
    RoundCost,
    Spent,
)
from fedhw.privacy.discrete_gaussian import epsilon_of
from fedhw.privacy.ledger import Ledger
from fedhw.privacy.mechanism import GaussianMechanism, composed_epsilon
from fedhw.system.clock import DAY_SECONDS

MECHANISM = GaussianMechanism(1, 1e-6)
LIMITS = Limits(per_day=1, in_all=4, delta=1e-6)
NOON = 20_000.5 * DAY_SECONDS


class Account(Protocol):
    """A budget, wherever it is kept."""

    def report(self, mechanism: GaussianMechanism, now: float) -> None:
        """Pay for one more report."""

    def round(self, rho: float, now: float) -> None:
        """Pay for one more round."""

    def spent(self, now: float) -> Spent:
        """What it has cost."""


class InMemory:
    def __init__(self, limits: Limits) -> None:
        self.budget = Budget(limits)

    def report(self, mechanism: GaussianMechanism, now: float) -> None:
        self.budget = self.budget.with_report(mechanism.sigma, now)

    def round(self, rho: float, now: float) -> None:
        self.budget = self.budget.with_round(rho, now)

    def spent(self, now: float) -> Spent:
        return self.budget.spent(now)


class Stored:
    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.names = itertools.count()
        Ledger.create(path, limits)

    def report(self, mechanism: GaussianMechanism, now: float) -> None:
        Ledger.open(self.path).charge(next(self.names), mechanism, now, lambda: b"report")

    def round(self, rho: float, now: float) -> None:
        Ledger.open(self.path).charge_round(f"round {next(self.names)}", rho, now)

    def spent(self, now: float) -> Spent:
        return Ledger.open(self.path).spent(now)


class TestEveryBudget:
    """What holds wherever a budget is kept."""

    @pytest.fixture(params=["in memory", "stored"])
    def begin(self, request: Any, tmp_path: Path) -> Callable[[Limits], Account]:
        return {
            "in memory": InMemory,
            "stored": lambda limits: Stored(tmp_path / "ledger.db", limits),
        }[request.param]

    @pytest.fixture
    def account(self, begin: Callable[[Limits], Account]) -> Account:
        return begin(LIMITS)

    def test_nothing_was_told_at_first(self, account):
        assert account.spent(NOON) == (0, 0, 0)

    def test_a_day_s_budget_is_spent_and_comes_back_after_24_hours(self, account):
        account.report(MECHANISM, NOON)
        assert account.spent(NOON).day == pytest.approx(1)
        with pytest.raises(BudgetSpentError, match=r"epsilon 1\.\d+ of the last 24 hours.* is 1;"):
            account.report(MECHANISM, NOON + DAY_SECONDS - 1)
        account.report(MECHANISM, NOON + DAY_SECONDS)

    def test_the_budget_in_all_never_comes_back(self, account):
        affordable = sum(composed_epsilon([MECHANISM.sigma] * n, 1e-6) <= 4 for n in range(1, 100))
        # Gaussians compose by their squares: more than four reports of epsilon 1.
        assert affordable > 8
        for day in range(affordable):
            account.report(MECHANISM, NOON + day * DAY_SECONDS)
        for day in (affordable, 10_000):
            with pytest.raises(BudgetSpentError, match=r"of all that was told, and the limit is 4"):
                account.report(MECHANISM, NOON + day * DAY_SECONDS)
        assert account.spent(NOON + 10_000 * DAY_SECONDS).day == 0

    def test_what_is_refused_is_not_charged(self, account):
        account.round(0.001, NOON)
        before = account.spent(NOON)
        with pytest.raises(BudgetSpentError):
            account.report(GaussianMechanism(1.01, 1e-6), NOON)
        for rho in (1.0, math.inf):
            with pytest.raises(BudgetSpentError):
                account.round(rho, NOON)
        assert account.spent(NOON) == before

    def test_costs_of_another_delta_are_counted_at_the_limits_delta(self, begin):
        with pytest.raises(BudgetSpentError, match=r"epsilon 1\.\d+ of the last 24 hours"):
            begin(Limits(1, 4, 1e-9)).report(MECHANISM, NOON)

    def test_rounds_and_reports_share_one_budget(self, account):
        # Half of a day's epsilon of 1 each: by themselves either would do twice.
        half, rho = GaussianMechanism(0.5, 1e-6), 0.006
        assert 0.45 < epsilon_of(rho, 1e-6) < 0.55
        account.round(rho, NOON)
        account.report(half, NOON)
        assert 0.5 < account.spent(NOON).day <= 1
        with pytest.raises(BudgetSpentError, match=r"epsilon 1\.\d+ of the last 24 hours"):
            account.round(4 * rho, NOON)
        with pytest.raises(BudgetSpentError, match=r"epsilon 1\.\d+ of the last 24 hours"):
            account.report(GaussianMechanism(0.9, 1e-6), NOON)
        assert account.spent(NOON).rounds == 1
        account.round(4 * rho, NOON + DAY_SECONDS)

    def test_rounds_of_a_day_are_few_however_little_they_tell(self, begin):
        account = begin(Limits(per_day=1000, in_all=1000, delta=1e-6))
        for _ in range(ROUNDS_A_DAY):
            account.round(0.0, NOON)
        with pytest.raises(BudgetSpentError, match=r"201 rounds in the last 24 hours, .* is 200;"):
            account.round(0.0, NOON + DAY_SECONDS - 1)
        account.round(0.0, NOON + DAY_SECONDS)
        assert account.spent(NOON).rounds == 1 + ROUNDS_A_DAY  # what is dated later is of today

    @pytest.mark.parametrize("rho", [-0.1, math.nan])
    def test_a_cost_that_is_none_is_refused(self, account, rho):
        with pytest.raises(InputError, match=r"rho: .* is not a cost"):
            account.round(rho, NOON)
        assert account.spent(NOON) == (0, 0, 0)

    def test_a_clock_that_is_set_back_refunds_nothing(self, account):
        account.report(MECHANISM, NOON + 9 * DAY_SECONDS)
        assert account.spent(NOON).day == pytest.approx(1)
        with pytest.raises(BudgetSpentError):
            account.report(MECHANISM, NOON)
        # Nor does a clock that was ahead silence the device for ever.
        account.report(MECHANISM, NOON + 20 * DAY_SECONDS)


WALL_TIMES = st.floats(-5 * DAY_SECONDS, 5 * DAY_SECONDS).map(lambda jump: NOON + jump)
CHARGES = st.one_of(
    st.tuples(st.just("report"), st.sampled_from([0.3, 1.0, 2.0])),
    st.tuples(st.just("round"), st.sampled_from([0.0, 0.001, 0.02])),
)
STEPS = st.lists(st.tuples(WALL_TIMES, CHARGES), max_size=12)
SOME = Limits(per_day=2.5, in_all=5, delta=1e-6)


def charged(budget: Budget, kind: str, cost: float, now: float) -> Budget:
    """The budget after a charge; the same where it is refused."""
    try:
        if kind == "round":
            return budget.with_round(cost, now)
        return budget.with_report(GaussianMechanism(cost, 1e-6).sigma, now)
    except BudgetSpentError:
        return budget


@given(STEPS, WALL_TIMES, WALL_TIMES)
def test_it_never_refunds_whatever_the_clock_shows(steps, one, other):
    budget, earlier, later = Budget(SOME), min(one, other), max(one, other)
    for now, (kind, cost) in steps:
        after = charged(budget, kind, cost, now)
        # With every charge it has told more, whenever it is asked.
        for moment in (earlier, later, now):
            before_it, after_it = budget.spent(moment), after.spent(moment)
            assert after_it.day >= before_it.day - TOLERANCE
            assert after_it.in_all >= before_it.in_all - TOLERANCE
            assert after_it.rounds >= before_it.rounds
        if after != budget:
            assert after.spent(now).day <= SOME.per_day + TOLERANCE
            assert after.spent(now).in_all <= SOME.in_all + TOLERANCE
        budget = after
        # Only time that passes gives something back; what is refused now is refused before.
        assert budget.spent(earlier).day >= budget.spent(later).day - TOLERANCE
        assert budget.spent(earlier).in_all == budget.spent(later).in_all
        if charged(budget, kind, cost, later) == budget:
            assert charged(budget, kind, cost, earlier) == budget


@given(STEPS, WALL_TIMES, st.randoms())
def test_the_order_of_charges_does_not_matter(steps, now, rng: random.Random):
    reports = [ReportCost(at, 2 / cost) for at, (kind, cost) in steps if kind == "report"]
    rounds = [RoundCost(at, cost) for at, (kind, cost) in steps if kind == "round"]
    spent = Budget(SOME, tuple(reports), tuple(rounds)).spent(now)
    rng.shuffle(reports)
    rng.shuffle(rounds)
    assert Budget(SOME, tuple(reports), tuple(rounds)).spent(now) == spent


@given(STEPS, WALL_TIMES)
def test_it_composes_as_the_accountant_does(steps, now):
    reports = tuple(ReportCost(at, 2 / cost) for at, (kind, cost) in steps if kind == "report")
    rounds = tuple(RoundCost(at, cost) for at, (kind, cost) in steps if kind == "round")
    spent = Budget(SOME, reports, rounds).spent(now)
    of_day = [cost for cost in reports if cost.at > now - DAY_SECONDS]
    told = sum(cost.rho for cost in rounds if cost.at > now - DAY_SECONDS)
    squares = sum((2 / cost.sigma) ** 2 for cost in of_day)
    if told > 0:
        assert spent.day == pytest.approx(epsilon_of(squares / 2 + told, 1e-6))
    elif squares > 0:
        assert spent.day == pytest.approx(get_epsilon_gaussian(squares**-0.5, 1e-6))
    else:
        assert spent.day == 0
    assert spent.in_all >= spent.day - TOLERANCE


@given(steps=STEPS)
@settings(max_examples=15, deadline=None)
def test_a_stored_budget_and_one_in_memory_tell_the_same(tmp_path_factory, steps):
    accounts = InMemory(SOME), Stored(tmp_path_factory.mktemp("ledger") / "ledger.db", SOME)
    for now, (kind, cost) in steps:
        told = []
        for account in accounts:
            try:
                if kind == "round":
                    account.round(cost, now)
                else:
                    account.report(GaussianMechanism(cost, 1e-6), now)
                told.append((account.spent(now), None))
            except BudgetSpentError as error:
                told.append((account.spent(now), str(error)))
        assert told[0] == told[1]


def test_a_budget_is_not_changed_by_what_comes_after_it():
    budget = Budget(LIMITS)
    after = budget.with_round(0.02, NOON)
    assert budget == Budget(LIMITS)
    assert after == Budget(LIMITS, rounds=(RoundCost(NOON, 0.02),))
    assert (budget.rho, after.rho) == (0, 0.02)


def test_a_time_that_is_none_counts_as_today():
    after = Budget(LIMITS).with_report(MECHANISM.sigma, NOON)
    assert after.spent(math.nan).day == pytest.approx(1)
    with pytest.raises(BudgetSpentError):
        after.with_report(MECHANISM.sigma, math.nan)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((0, 4, 1e-6), "per_day: 0 is not a budget"),
        ((1, float("inf"), 1e-6), "in_all: inf is not a budget"),
        ((1, float("nan"), 1e-6), "in_all: nan is not a budget"),
        ((1, 4, 0), "delta: 0 is out of range"),
    ],
)
def test_limits_that_are_none_are_refused(limits, message):
    with pytest.raises(InputError, match=message):
        Limits(*limits)
