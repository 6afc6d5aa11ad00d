import math
from dataclasses import replace

import pytest

from fedhw.errors import InputError
from fedhw.improvement.plan import Plan
from fedhw.improvement.trigger import Outlook, Trigger
from fedhw.improvement.verdicts import Outcome
from fedhw.privacy.discrete_gaussian import epsilon_of


def test_it_is_the_same_after_a_journey_through_json():
    plan = Plan(True, 7, 0.5, 50, 30, 3, 0.5, Trigger(error=0.3, cohort=7))
    assert Plan.from_json(plan.to_json()) == plan


def test_an_attempt_costs_a_device_what_its_rounds_cost():
    plan = Plan(rounds=50, noise=4.0, participations=10)
    assert plan.rho(1000) == pytest.approx(10 / (2 * 4.0**2))
    assert plan.rho(1000) == replace(plan, rounds=10).rho(1000)
    assert replace(plan, rounds=5).rho(1000) == pytest.approx(plan.rho(1000) / 2)
    assert plan.round_rho(1000) == pytest.approx(plan.rho(1000) / 10)


def test_only_a_simulation_goes_without_noise_and_pays_nothing():
    plan = Plan(noise=0.0)
    assert plan.rho(1000) == plan.round_rho(1000) == 0
    with pytest.raises(InputError, match="noise: 0 protects nobody"):
        plan.check_noise()
    Plan().check_noise()


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


def test_an_attempt_waits_for_public_characters_and_for_devices():
    plan = Plan(automatic=True)
    outlook = Outlook(False, 600, 600, math.inf, 0.0, None, None)
    outcome, reason = plan.consider(outlook)
    assert (outcome, reason[:36]) == (Outcome.WAIT, "there are no public observations to ")
    outcome, reason = plan.consider(replace(outlook, has_public=True, enrolled=599))
    assert (outcome, reason[:16]) == (Outcome.WAIT, "rounds: 100 of 6")
    outcome, reason = plan.consider(replace(outlook, has_public=True))
    assert (outcome, reason) == plan.trigger.decide(outlook)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("rounds", 0), ("rounds", 10_001)),
        *(("noise", -1.0), ("noise", 0.001), ("noise", float("nan")), ("noise", 1000.0)),
        *(("cohort", 59), ("cohort", 1), ("survivors", 101), ("survivors", 1)),
        *(("participations", 0), ("canary", 0.0), ("canary", 1.1), ("canary", float("nan"))),
    ],
)
def test_what_cannot_be_is_refused(name, value):
    with pytest.raises(InputError, match="out of range; see --help"):
        replace(Plan(), **{name: value})
