import pytest

from fedhw.errors import InputError
from fedhw.improvement.rollout import draw
from fedhw_server.leader.plan import Plan
from fedhw_server.store.attempts import Stage
from tests.server.conftest import POLICY, Pen


@pytest.fixture
def attempts(fleet):
    return fleet.attempts


def test_one_is_in_flight_at_a_time(attempts):
    assert attempts.current is None
    attempts.begin(3, "asked for by hand")
    current = attempts.current
    assert (current.number, current.parent, current.stage) == (1, 3, Stage.ROUNDS)
    with pytest.raises(InputError, match=r"improve: attempt 1 is in flight \(rounds\)"):
        attempts.begin(3, "asked for by hand")
    attempts.move(current._replace(stage=Stage.REJECTED), "rejected", "it is worse")
    assert attempts.current is None
    attempts.begin(4, "again")
    assert [(each.number, each.parent, each.stage) for each in attempts.all()] == [
        (1, 3, "rejected"),
        (2, 4, "rounds"),
    ]


def test_only_what_is_in_flight_is_stopped_and_it_stays_so(attempts):
    with pytest.raises(InputError, match="no attempt to improve is in flight"):
        attempts.stop()
    attempts.begin(1, "by hand")
    before = attempts.current
    attempts.stop()
    # Who does not know of it yet does not undo it.
    attempts.move(before._replace(stage=Stage.SHADOW), "candidate", "good")
    assert attempts.current.stopping == 1


def test_an_attempt_goes_on_as_it_began(attempts):
    assert attempts.plan == Plan()
    attempts.agree(Plan(rounds=3))
    attempts.begin(1, "by hand")
    attempts.agree(Plan(rounds=5))
    assert Plan.from_json(attempts.current.plan) == Plan(rounds=3)
    assert attempts.plan == Plan(rounds=5)


def test_every_decision_is_kept_but_waiting_only_once(attempts):
    attempts.wait("no window")
    attempts.wait("too few online")
    attempts.begin(1, "wrong on much")
    attempts.decide(1, "round abandoned", "too few")
    attempts.decide(1, "round abandoned", "too few")
    attempts.wait("too soon")
    assert attempts.decisions(2) == attempts.decisions()[-2:]
    told = [(each.attempt, each.decision, each.reason) for each in attempts.decisions()]
    assert told == [
        (None, "wait", "too few online"),
        (1, "begin", "wrong on much"),
        *[(1, "round abandoned", "too few")] * 2,
        (None, "wait", "too soon"),
    ]


def test_a_round_is_charged_before_it_is_asked_and_to_who_has_paid_after(attempts):
    attempts.begin(1, "by hand")
    assert attempts.rho == 0
    one = attempts.begin_round(1, ["anna", "berta"], 0.5)
    assert attempts.participations(1) == {"anna": 1, "berta": 1}
    attempts.end_round(one, 1.0, ["anna"], 1, 0.4)
    two = attempts.begin_round(1, ["anna", "berta"], 0.25)
    assert attempts.participations(1) == {"anna": 2, "berta": 1}
    attempts.end_round(two, 2.0)
    assert attempts.participations(1) == {"anna": 1}
    attempts.begin_round(1, ["berta"], 0.125)  # and the coordinator is killed
    assert attempts.participations(1) == {"anna": 1, "berta": 1}
    told = [(each.seconds, each.rho, each.summed, each.within) for each in attempts.rounds(1)]
    assert told == [(1.0, 0.5, 1, 0.4), (2.0, 0.25, None, None), (None, 0.125, None, None)]


def test_what_attempts_cost_adds_up_for_each_device(attempts):
    for devices, rho in ((["anna", "berta"], 1.0), (["anna"], 0.5), (["berta"], 2.0)):
        attempts.end_round(attempts.begin_round(1, devices, rho), 1.0, devices, 2, 0.5)
    attempts.end_round(attempts.begin_round(2, ["anna"], 1.0), 1.0, ["anna"], 1, 0.5)
    assert attempts.rho == 3.0
    assert attempts.participations(2) == {"anna": 1}


def test_canaries_are_known_by_what_they_said_last(attempts):
    assert attempts.canaries(1) == {}
    attempts.note_canaries(1, {"anna": "wanted", "berta": "wanted"})
    attempts.note_canaries(1, {"anna": "told"})
    attempts.note_canaries(2, {"carl": "wanted"})
    assert attempts.canaries(1) == {"anna": "told", "berta": "wanted"}


def test_only_canaries_are_to_report_and_only_in_their_stage(attempts):
    attempts.begin(1, "by hand")
    attempts.note_canaries(1, {"anna": "wanted"})
    for stage in Stage:
        attempts.move(attempts.all()[0]._replace(stage=stage, candidate="v0-1"), stage, "so")
        assert attempts.is_canary("anna", "v0-1") == (stage == Stage.SHADOW)
        assert not attempts.is_canary("berta", "v0-1")
        assert not attempts.is_canary("anna", "v0-2")


def test_what_came_of_all_rounds_is_counted(attempts):
    assert (attempts.outcomes, attempts.last_round) == ((0, 0), None)
    attempts.end_round(attempts.begin_round(1, ["anna"], 1.0), 1.0, ["anna"], 3, 0.5)
    attempts.end_round(attempts.begin_round(2, ["anna"], 1.0), 1.0, ["anna"], 2, 0.4)
    attempts.end_round(attempts.begin_round(2, ["anna"], 1.0), 1.0)
    attempts.begin_round(2, ["anna"], 1.0)
    assert attempts.outcomes == (2, 1)
    assert attempts.last_round == attempts.rounds(2)[0]


def test_a_release_by_hand_is_for_all(attempts, fleet, published):
    pens = [Pen(f"pen-{n}").join(fleet) for n in range(5)]
    roll_out = attempts.roll_out(published)
    assert roll_out.share == 1
    assert {roll_out.version_for(fleet.members.get(pen.name)) for pen in pens} == {1}


@pytest.mark.parametrize(("devices", "share"), [(8, 0.5), (7, 1.0)])
def test_a_roll_out_that_leaves_too_few_is_for_all(attempts, fleet, published, devices, share):
    for n in range(devices):
        fleet.members.set_node(Pen(f"pen-{n}").join(fleet).name, n)
    attempts.begin(1, "by hand")
    attempts.move(attempts.current._replace(stage=Stage.ROLL_OUT, version=2), "publish", "good")
    assert attempts.roll_out(published).share == share


def test_a_roll_out_reaches_those_who_drew_it_and_leaves_it_to_who_has_it(
    attempts, fleet, registry, releases
):
    registry.publish(releases[0])
    newest = registry.publish(releases[1])
    for n in range(40):
        pen = Pen(f"pen-{n}").join(fleet)
        fleet.members.set_node(pen.name, n)
    attempts.begin(1, "by hand")
    attempts.move(attempts.current._replace(stage=Stage.ROLL_OUT, version=2), "publish", "good")
    roll_out = attempts.roll_out(newest)
    assert roll_out.share == 2 * POLICY.minimum_cohort / 40
    reached = {d.name for d in fleet.members.all() if roll_out.version_for(d) == 2}
    assert reached == {
        d.name for d in fleet.members.all() if draw(d.name, newest.name) < roll_out.share
    }
    other = next(d.name for d in fleet.members.all() if d.name not in reached)
    fleet.members.note_answer(other, 2, newest.name, "running", None)
    assert roll_out.version_for(fleet.members.get(other)) == 2
    for step, share in ((1, 0.1), (2, 1.0)):
        attempts.move(attempts.current._replace(step=step), "advance", "good")
        assert attempts.roll_out(newest).share == share
