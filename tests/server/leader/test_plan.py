from dataclasses import replace

import pytest

from fedhw.errors import InputError
from fedhw.improvement.trigger import Trigger
from fedhw.privacy.discrete_gaussian import epsilon_of
from fedhw_server.leader.plan import Plan


def test_it_is_the_same_after_a_journey_through_json():
    plan = Plan(True, 7, 0.5, 50, 30, 3, 0.5, Trigger(error=0.3, cohort=7))
    assert Plan.from_json(plan.to_json()) == plan


def test_its_recipe_has_its_rounds_and_noise():
    recipe = Plan(rounds=7, noise=0.5).recipe
    assert (recipe.rounds, recipe.noise) == (7, 0.5)


def test_an_attempt_costs_a_device_what_its_rounds_cost():
    plan = Plan(rounds=50, noise=4.0, participations=10)
    assert plan.rho(1000) == pytest.approx(10 / (2 * 4.0**2))
    assert plan.rho(1000) == replace(plan, rounds=10).rho(1000)
    assert replace(plan, rounds=5).rho(1000) == pytest.approx(plan.rho(1000) / 2)


def test_the_default_is_within_the_limit_of_the_trigger():
    plan = Plan()
    assert epsilon_of(plan.rho(66_126), 1e-6) < plan.trigger.epsilon


def test_a_fleet_that_cannot_do_all_rounds_is_told_by_how_much():
    plan = Plan(rounds=100, survivors=60, participations=10)
    plan.check_fleet(600)
    with pytest.raises(InputError, match=r"rounds: 100 of 60 .* 6000 .* 599 .* 5990; enrol more"):
        plan.check_fleet(599)
    few = replace(plan, rounds=1)  # nobody is in more rounds than there are
    few.check_fleet(60)
    with pytest.raises(InputError):
        few.check_fleet(59)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("rounds", 0), ("rounds", 10_001)),
        *(("noise", 0.0), ("noise", 0.001), ("noise", float("nan")), ("noise", 1000.0)),
        *(("cohort", 59), ("cohort", 1), ("survivors", 101), ("survivors", 1)),
        *(("participations", 0), ("canary", 0.0), ("canary", 1.1), ("canary", float("nan"))),
    ],
)
def test_what_cannot_be_is_refused(name, value):
    with pytest.raises(InputError, match="out of range; see --help"):
        replace(Plan(), **{name: value})
