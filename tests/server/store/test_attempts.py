from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw.improvement.actions import Progress
from fedhw.improvement.attempt import Round, Stage, advance
from fedhw.improvement.plan import Plan
from fedhw.improvement.rollout import draw
from tests.improvement.attempts import facts_for, result_of
from tests.server.conftest import POLICY, Pen


@pytest.fixture
def attempts(fleet):
    return fleet.attempts


def move(attempts, **changes):
    attempts.keep(replace(attempts.current, **changes))


def test_one_is_in_flight_at_a_time(attempts):
    assert attempts.current is None
    attempts.begin(3, "asked for by hand")
    current = attempts.current
    assert (current.number, current.parent, current.stage) == (1, 3, Stage.ROUNDS)
    with pytest.raises(InputError, match=r"improve: attempt 1 is in flight \(rounds\)"):
        attempts.begin(3, "asked for by hand")
    move(attempts, stage=Stage.REJECTED)
    assert attempts.current is None
    attempts.begin(4, "again")
    assert [(each.number, each.parent, each.stage) for each in attempts.all()] == [
        (1, 3, "rejected"),
        (2, 4, "rounds"),
    ]


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32).map(Random))
def test_what_is_kept_is_what_is_there_whatever_becomes_of_it(attempts, rng):
    if attempts.current is None:
        attempts.begin(3, "asked for by hand")
    decided = len(attempts.decisions())
    attempt, action = attempts.current, None
    for _ in range(12):
        facts = facts_for(rng, attempt, action, result_of(rng, action))
        attempt, action, decision = advance(attempt, facts, rng)
        attempts.keep(attempt, decision)
        decided += decision is not None
        assert attempts.all()[-1] == attempt
        assert len(attempts.decisions()) == decided
        assert decision is None or attempts.decisions(1) == [decision]


def test_only_what_is_in_flight_is_stopped_and_it_stays_so(attempts):
    with pytest.raises(InputError, match="no attempt to improve is in flight"):
        attempts.stop()
    attempts.begin(1, "by hand")
    before = attempts.current
    attempts.stop()
    # Who does not know of it yet does not undo it.
    attempts.keep(replace(before, stage=Stage.SHADOW))
    assert attempts.current.stopping


def test_an_attempt_goes_on_as_it_began(attempts):
    assert attempts.plan == Plan()
    attempts.agree(Plan(rounds=3))
    attempts.begin(1, "by hand")
    attempts.agree(Plan(rounds=5))
    assert attempts.current.plan == Plan(rounds=3)
    assert attempts.plan == Plan(rounds=5)


def test_a_plan_without_noise_is_for_simulations_only(attempts):
    with pytest.raises(InputError, match="noise: 0 protects nobody"):
        attempts.agree(Plan(noise=0.0))
    assert attempts.plan == Plan()


def test_of_waiting_only_the_last_reason_is_kept(attempts):
    attempts.wait("no window")
    attempts.wait("too few online")
    attempts.begin(1, "wrong on much")
    attempts.wait("too soon")
    assert attempts.decisions(2) == attempts.decisions()[-2:]
    told = [(each.attempt, each.decision, each.reason) for each in attempts.decisions()]
    assert told == [
        (None, "wait", "too few online"),
        (1, "begin", "wrong on much"),
        (None, "wait", "too soon"),
    ]


def rounds(*devices: str, rho: float = 1.0, summed: int | None = 2) -> Round:
    return Round(1e9, rho, devices, 1.0, summed, None if summed is None else 0.5)


def test_what_attempts_cost_adds_up_for_each_device(attempts):
    assert attempts.rho == 0
    attempts.begin(1, "by hand")
    move(attempts, rounds=(rounds("anna", "berta"),))
    move(attempts, rounds=(*attempts.current.rounds, rounds("anna", rho=0.5)))
    move(attempts, rounds=(*attempts.current.rounds, rounds("berta", rho=2.0)))
    assert attempts.current.participations == {"anna": 2, "berta": 2}
    move(attempts, stage=Stage.ABANDONED)
    attempts.begin(1, "by hand")
    move(attempts, rounds=(rounds("anna"),))
    assert attempts.current.participations == {"anna": 1}
    assert attempts.rho == 3.0


def test_what_came_of_all_rounds_is_counted(attempts):
    assert (attempts.round_counts, attempts.last_round) == ((0, 0), None)
    attempts.begin(1, "by hand")
    whole = (rounds("anna"), rounds("anna", "berta"), rounds("anna", summed=None))
    move(attempts, rounds=(*whole, Round(1e9, 1.0, ("anna",))))
    assert attempts.round_counts == (2, 1)
    assert attempts.last_round == whole[1]


def test_only_who_was_drawn_is_to_report_and_only_in_its_stage(attempts):
    attempts.begin(1, "by hand")
    first = replace(attempts.current, candidate="v0-1", progress={"anna": Progress.WANTED})
    for stage in Stage:
        attempts.keep(replace(first, stage=stage))
        assert attempts.evaluates("anna", "v0-1") == (stage == Stage.SHADOW)
        assert not attempts.evaluates("berta", "v0-1")
        assert not attempts.evaluates("anna", "v0-2")


def test_a_release_by_hand_is_for_all(attempts, fleet, published):
    pens = [Pen(f"pen-{n}").join(fleet) for n in range(5)]
    reach = attempts.roll_out(published)
    assert reach.share == 1
    assert {reach.version_for(pen.name, None) for pen in pens} == {1}


@pytest.mark.parametrize(("devices", "share"), [(8, 0.5), (7, 1.0)])
def test_a_roll_out_that_leaves_too_few_is_for_all(attempts, fleet, published, devices, share):
    for n in range(devices):
        fleet.members.set_node(Pen(f"pen-{n}").join(fleet).name, n)
    attempts.begin(1, "by hand")
    move(attempts, stage=Stage.ROLL_OUT, version=2)
    assert attempts.roll_out(published).share == share


def test_a_roll_out_reaches_those_who_drew_it(attempts, fleet, registry, releases):
    registry.publish(releases[0])
    newest = registry.publish(releases[1])
    names = [Pen(f"pen-{n}").join(fleet).name for n in range(40)]
    for n, name in enumerate(names):
        fleet.members.set_node(name, n)
    attempts.begin(1, "by hand")
    move(attempts, stage=Stage.ROLL_OUT, version=2)
    reach = attempts.roll_out(newest)
    assert reach.share == 2 * POLICY.minimum_cohort / 40
    reached = {name for name in names if reach.version_for(name, None) == 2}
    assert reached == {name for name in names if draw(name, newest.name) < reach.share}
    for step, share in ((1, 0.1), (2, 1.0)):
        move(attempts, step=step)
        assert attempts.roll_out(newest).share == share
