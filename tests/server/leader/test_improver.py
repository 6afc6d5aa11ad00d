"""Attempts to improve, over people who are simulated but for what they write and report."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhw.data.writers import WriterSet
from fedhw.experts.evaluation import accuracy, recognised
from fedhw.experts.global_expert import GlobalExpert
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.improvement import rollout
from fedhw.improvement.actions import Progress
from fedhw.improvement.attempt import (
    MAX_FAILED_ROUNDS,
    ROUND_RETRY_SECONDS,
    SHADOW_REMINDER_SECONDS,
    SHADOW_WINDOWS,
    STALLED_WINDOWS,
    Stage,
)
from fedhw.improvement.contribution import Task
from fedhw.improvement.improvement import Recipe
from fedhw.improvement.local_update import flat
from fedhw.improvement.plan import Plan
from fedhw.improvement.public import Public
from fedhw.improvement.trigger import Trigger
from fedhw.observation import Labels
from fedhw.privacy.discrete_gaussian import epsilon_of
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.secure_sum import SumError
from fedhw.privacy.statistics import Evaluation, make_report
from fedhw.release.manifest import MANIFEST, Manifest
from fedhw.release.registry import Registry
from fedhw.release.release import Release
from fedhw.research.train_release import make_release
from fedhw.research.training import Training
from fedhw.system.clock import SettableClock
from fedhw_server.leader.improver import Improver
from fedhw_server.leader.secure_round import LateSumError, Summed
from fedhw_server.store.attempts import Attempts
from fedhw_server.store.coordinator_home import Home
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.members import Member
from fedhw_server.store.reports import Accepted
from fedhw_server.store.settings import ReportPolicy
from tests.fed_avg_m import FedAvgM
from tests.server.conftest import Pen, busy, open_registry

FLEET = ReportPolicy(window=3600, epsilon=1000.0, delta=1e-6, minimum_cohort=3)
"""With hardly any noise: few people make a difference."""

PLAN = Plan(
    rounds=2, noise=0.01, cohort=8, survivors=6, participations=10, canary=0.5, trigger=Trigger()
)


RECIPE = Recipe(rate=5e-3, rehearsal=0.0, radius=100.0, optimiser=FedAvgM(1.0, 0.0))
"""Steps are the mean update itself, and nothing else."""

LONGEST_PAUSE = ROUND_RETRY_SECONDS * 2**MAX_FAILED_ROUNDS


NAMES = [f"pen-{number}" for number in range(12)]


@cache
def people() -> WriterSet:
    return synthetic_writers(range(300, 312), 124)


class KilledError(Exception):
    """The coordinator ends here."""


@dataclass
class World:
    """A fleet of people who are online, and a coordinator that may be killed.

    Their updates are a way to the expert `goal`, or nothing; `factor` is what liars multiply theirs
    by. What evaluations find is `gain`, or the truth where it is None.
    """

    home: Home
    fleet: Fleet
    registry: Registry
    clock: SettableClock
    recipe: Recipe = RECIPE
    goal: GlobalExpert | None = None
    factor: int = 1
    gain: float | None = 0.1
    silent: frozenset[str] = frozenset()
    declining: frozenset[str] = frozenset()
    refuses: list[Exception] = field(default_factory=list)
    asked: list[set[str]] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.attempts = self.fleet.attempts
        self.window = int(self.clock.wall() // FLEET.window)
        for node, name in enumerate(NAMES):
            Pen(name).join(self.fleet)
            self.fleet.members.set_node(name, node)
        self.run_newest()
        self.start()

    def start(self) -> None:
        self.improver = Improver(
            self.home,
            self.fleet,
            self.registry,
            self.add_up,
            self.evaluate,
            self.recipe,
            clock=self.clock,
        )

    def run_newest(self) -> None:
        newest = self.registry.latest
        assert newest is not None
        for name in NAMES:
            self.fleet.members.note_answer(name, newest.version, newest.name, "running", None)

    @property
    def online(self) -> dict[int, Member]:
        return self.fleet.members.by_node()

    def step(self, times: int = 1, pause: float = SHADOW_REMINDER_SECONDS) -> None:
        for _ in range(times):
            self.clock.advance(pause)
            self.improver.step(self.online)

    def until(
        self, *stages: Stage, restarting: bool = False, pause: float = SHADOW_REMINDER_SECONDS
    ) -> None:
        for _ in range(50):
            if self.attempts.all()[-1].stage in stages:
                return
            if restarting:
                self.start()
            self.step(pause=pause)
        raise AssertionError(f"{self.attempts.all()[-1]} {self.attempts.decisions()}")

    def begin(self, plan: Plan = PLAN) -> None:
        self.attempts.agree(plan)
        self.attempts.begin(1, "asked for by hand")

    @property
    def told(self) -> list[str]:
        return [each.decision for each in self.attempts.decisions()]

    @property
    def reason(self) -> str:
        return self.attempts.decisions()[-1].reason

    @property
    def latest(self) -> Manifest:
        latest = self.registry.latest
        assert latest is not None
        return latest

    # What devices do

    def add_up(self, devices: Mapping[int, Member], task: Task) -> Summed:
        names = [device.name for device in devices.values()]
        self.asked.append(set(names))
        if self.refuses:
            raise self.refuses.pop(0)
        asked = [name for name in names if name not in self.declining]
        total = sum((self.contribution(name, task) for name in asked[1:]), np.int64(0))
        return Summed(np.asarray(total), tuple(asked[1:]), tuple(asked))

    def contribution(self, name: str, task: Task) -> np.ndarray:
        update = np.zeros(task.entries - 1, np.float32)
        if self.goal is not None:
            update = flat(self.goal) - np.frombuffer(task.parameters, "<f4")
        return task.contribution(np.float32(self.factor) * update)

    def evaluate(self, devices: Mapping[int, Member], directory: Path) -> dict[str, Progress]:
        candidate = Release.load(directory)
        told = {device.name for device in devices.values()} - self.silent
        self.tried += sorted(told)
        mechanism = GaussianMechanism(FLEET.epsilon, FLEET.delta)
        for name in told:
            found, about = self.evaluation(name, candidate), candidate.manifest.name
            report = make_report(found, name, self.window, about, mechanism)
            self.fleet.reports.count([Accepted(report, name)])
        return dict.fromkeys(told, Progress.TOLD)

    def evaluation(self, name: str, candidate: Release) -> Evaluation:
        if self.gain is not None:
            better = 50 + round(100 * self.gain) + NAMES.index(name) % 2
            return Evaluation(100, better, 50, better, 50)
        rows = people().rows_of(NAMES.index(name))
        images, labels = people().observations[rows], people().labels[rows]
        new, old = (
            int(recognised(expert, images, labels).sum())
            for expert in (candidate.expert, self.registry.release(1).expert)
        )
        return Evaluation(len(rows), new, old, new, old)

    def report(self, right_on_newest: int, right_before: int) -> None:
        """A window in which everybody runs what is for them, and is right so often of 50."""
        self.window += 1
        mechanism = GaussianMechanism(FLEET.epsilon, FLEET.delta)
        roll_out = self.attempts.roll_out(self.latest)
        for number, device in enumerate(self.online.values()):
            on_newest = roll_out.version_for(device.name, device.running) == self.latest.version
            right = (right_on_newest if on_newest else right_before) - number % 2
            tally = replace(busy(), ge_right=right, right=right, errors=(50 - right, *(0,) * 61))
            name = (self.latest if on_newest else self.registry.versions()[0]).name
            report = make_report(tally, device.name, self.window, name, mechanism)
            self.fleet.reports.count([Accepted(report, f"{device.name} {self.window}")])


@pytest.fixture
def world(
    home: Home,
    running: Release,
    public: Public,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    monkeypatch.setattr(rollout, "draw", lambda name, _: NAMES.index(name) / len(NAMES))
    registry = open_registry(home)
    registry.publish(running.directory)
    public.save(home.public)
    clock = SettableClock()
    with closing(Fleet(home.database, clock)) as fleet:
        fleet.settings.agree(**vars(FLEET))
        yield World(home, fleet, registry, clock)


@pytest.fixture
def far(world: World) -> None:
    """Lets one round go a long way."""
    world.recipe = replace(RECIPE, radius=4000.0)
    world.start()


@pytest.fixture(scope="module")
def better(tmp_path_factory: pytest.TempPathFactory) -> GlobalExpert:
    """An expert that is better than the one in use, for everybody."""
    directory = tmp_path_factory.mktemp("better") / "release"
    training = Training(epochs=12, batch=32)
    make_release(directory, synthetic_writers(24, 124), "lenet5", training, hold_out=0)
    return Release.load(directory).expert


@pytest.mark.usefixtures("far")
def test_what_it_makes_is_published_with_its_price(world: World, better: GlobalExpert) -> None:
    world.goal, world.gain = better, None
    world.begin(replace(PLAN, noise=0.0015, canary=1.0))
    world.until(Stage.SHADOW)
    assert world.told == ["begin", "candidate"]
    assert world.latest.version == 1
    world.until(Stage.PROMOTED, Stage.ROLL_OUT)
    world.step()
    assert world.told == ["begin", "candidate", "promote", "publish"]
    assert (world.latest.version, world.latest.parent) == (2, 1)
    old, new = (world.registry.release(version) for version in (1, 2))
    strangers = synthetic_writers(range(400, 410), 62)
    before, after = (
        accuracy(each.expert, strangers.observations, strangers.labels) for each in (old, new)
    )
    assert after > before + 0.05
    assert world.latest.privacy == {
        "epsilon": epsilon_of(world.attempts.rho, FLEET.delta),
        "delta": FLEET.delta,
    }


def test_rounds_ask_some_of_those_who_may_be_asked(world: World) -> None:
    world.begin(replace(PLAN, rounds=3, participations=2, survivors=3))
    world.until(Stage.SHADOW)
    assert [len(asked) for asked in world.asked[:2]] == [8, 8]
    free = {*NAMES} - (world.asked[0] & world.asked[1])
    assert world.asked[2] <= free
    assert len(world.asked[2]) == min(8, len(free))
    [rounds] = (attempt.rounds for attempt in world.attempts.all())
    assert [each.summed for each in rounds] == [len(asked) - 1 for asked in world.asked]
    assert all(-1 < (each.within or 9) < 2 for each in rounds)
    assert world.attempts.rho == pytest.approx(2 * rounds[0].rho)


def test_those_who_decline_do_not_stand_before_the_others(world: World) -> None:
    world.declining = frozenset(NAMES[:4])
    world.begin(replace(PLAN, rounds=9, survivors=2))
    world.until(Stage.SHADOW)
    assert not all(world.declining <= asked for asked in world.asked[1:])


def test_only_devices_that_run_the_release_are_asked(world: World) -> None:
    world.fleet.members.note_answer("pen-3", 1, "v1-0123abcd", "held back", None)
    world.begin(replace(PLAN, cohort=12, canary=1.0))
    world.until(Stage.ROLL_OUT)
    assert [asked == {*NAMES} - {"pen-3"} for asked in world.asked] == [True, True]
    assert set(world.tried) == {*NAMES} - {"pen-3"}


def test_those_evaluate_first_of_whom_it_was_not_made(world: World) -> None:
    world.gain = 0.3  # which three of them are sure of
    world.begin(replace(PLAN, rounds=1, canary=0.25))
    world.until(Stage.ROLL_OUT)
    assert len(world.tried) == 3
    assert not set(world.tried) & world.asked[0]


def roll_out(world: World) -> None:
    world.window -= 1
    world.report(40, 40)
    world.begin(PLAN)
    world.until(Stage.ROLL_OUT)
    world.step()


def test_it_is_rolled_out_stage_by_stage(world: World) -> None:
    roll_out(world)
    assert world.attempts.roll_out(world.latest).share == pytest.approx(6 / 12)
    world.step(3)  # nobody has reported: nothing changes
    assert world.told[-1] == "publish"
    for stage, share in ((0, 6 / 12), (1, 6 / 12), (2, 1.0)):
        assert world.attempts.all()[-1].step == stage
        assert world.attempts.roll_out(world.latest).share == pytest.approx(share)
        for _ in range(2):
            world.report(45, 40)
            world.step(2)
    told = ["publish", "wait", "advance", "wait", "advance", "wait", "promoted"]
    assert world.told[-7:] == told
    assert world.attempts.current is None
    assert world.attempts.roll_out(world.latest).share == 1


def test_where_few_would_be_left_it_is_for_all_at_once(world: World) -> None:
    for name in NAMES[:2]:
        world.fleet.members.revoke(name)
    roll_out(world)
    assert world.attempts.roll_out(world.latest).share == 1
    for _ in range(2):
        world.report(40, 40)
        world.step()
    assert world.told[-3:] == ["publish", "wait", "promoted"]


def test_what_is_for_all_is_compared_with_the_fleet_before_it(world: World) -> None:
    roll_out(world)
    for _ in range(4):
        world.report(45, 40)
        world.step()
    assert world.attempts.roll_out(world.latest).share == 1
    world.report(10, 10)
    world.step()
    assert world.attempts.all()[-1].stage == Stage.ROLLED_BACK
    assert "accuracy is -0." in world.reason


@pytest.mark.parametrize("baseline", [False, True])
def test_what_nobody_takes_goes_back(
    world: World, monkeypatch: pytest.MonkeyPatch, baseline: bool
) -> None:
    if baseline:
        roll_out(world)
        monkeypatch.setattr(rollout, "draw", lambda *_: 1.0)
    else:
        monkeypatch.setattr(rollout, "FLOOR_COHORTS", 9)
        world.begin()
        world.until(Stage.ROLL_OUT)
        world.step()
    window = world.window
    for later in range(1, STALLED_WINDOWS + 2):
        assert world.attempts.current is not None
        world.clock.advance(FLEET.window)
        world.window = window + later - 2
        world.report(40, 40)
        world.step()
    assert world.attempts.all()[-1].stage == Stage.ROLLED_BACK
    assert world.reason == "there was nothing to compare it with in 7 windows"
    assert world.latest.restores == 1


def test_a_release_that_is_worse_goes_back(world: World) -> None:
    roll_out(world)
    world.report(10, 40)
    world.step()
    assert world.attempts.all()[-1].stage == Stage.ROLLED_BACK
    assert "against the release before" in world.reason
    assert (world.latest.version, world.latest.restores) == (3, 1)
    assert world.attempts.roll_out(world.latest).share == 1
    assert (
        world.latest.files["weights.safetensors"]
        == (world.registry.versions()[0].files["weights.safetensors"])
    )


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("factor", [-1, -50])
def test_a_poisoned_candidate_is_rejected_and_kept(
    world: World, better: GlobalExpert, factor: int
) -> None:
    world.goal, world.factor = better, factor
    world.begin(replace(PLAN, noise=0.0015))
    world.until(Stage.REJECTED)
    assert world.reason.startswith("worse on public data: ")
    assert world.latest.version == 1
    assert world.tried == []
    attempt = world.attempts.all()[-1]
    kept = Release.load(world.home.candidate(attempt.number))
    assert kept.manifest.name == attempt.candidate


def test_what_evaluations_find_worse_is_rejected(world: World) -> None:
    world.gain = -0.2
    world.begin()
    world.until(Stage.REJECTED)
    assert "worse" in world.reason
    assert world.latest.version == 1


def test_devices_that_do_not_answer_are_waited_for_until_their_time_is_over(
    world: World,
) -> None:
    world.silent = frozenset(NAMES[:10])
    world.begin(replace(PLAN, canary=1.0))
    world.until(Stage.SHADOW)
    world.step(3)
    assert world.attempts.current is not None
    assert world.attempts.current.stage == Stage.SHADOW
    assert set(world.tried) == {*NAMES[10:]}
    assert len(world.tried) == 2  # who has told is not asked again
    world.step(pause=SHADOW_WINDOWS * FLEET.window)
    assert world.attempts.all()[-1].stage == Stage.REJECTED
    assert world.reason == "too few devices have reported of the candidate"


def test_a_round_that_comes_to_nothing_costs_nobody_and_is_tried_again(world: World) -> None:
    world.refuses = [SumError("keys: 3 of 8 devices have sent theirs")] * (MAX_FAILED_ROUNDS - 1)
    world.begin()
    world.until(Stage.SHADOW, pause=LONGEST_PAUSE)
    assert world.told == ["begin", *["round abandoned"] * (MAX_FAILED_ROUNDS - 1), "candidate"]
    [rounds] = (attempt.rounds for attempt in world.attempts.all())
    assert [each.summed for each in rounds] == [*[None] * (MAX_FAILED_ROUNDS - 1), 7, 7]
    assert sum(world.attempts.all()[0].participations.values()) == 16


def test_after_many_in_a_row_the_attempt_is_abandoned(world: World) -> None:
    world.refuses = [SumError("keys: 3 of 8 devices have sent theirs")] * MAX_FAILED_ROUNDS
    world.begin()
    world.until(Stage.ABANDONED, pause=LONGEST_PAUSE)
    assert world.told == ["begin", *["round abandoned"] * MAX_FAILED_ROUNDS, "abandoned"]
    assert world.reason == f"{MAX_FAILED_ROUNDS} rounds in a row failed"
    assert world.attempts.rho == 0


def test_rounds_that_kill_the_coordinator_are_bounded_as_well(world: World) -> None:
    world.refuses = [KilledError()] * 50
    world.begin()
    for _ in range(MAX_FAILED_ROUNDS):
        world.start()
        with pytest.raises(KilledError):
            world.step(pause=LONGEST_PAUSE)
    world.start()
    world.step()
    assert world.attempts.all()[-1].stage == Stage.ABANDONED
    assert len(world.asked) == MAX_FAILED_ROUNDS


def test_who_was_asked_for_a_vector_has_paid_though_there_is_no_sum(world: World) -> None:
    world.refuses = [LateSumError("shares: 3 are there of pen-1", (*NAMES[:5],))]
    world.begin()
    world.step()
    assert world.told == ["begin", "round abandoned"]
    assert world.attempts.all()[0].participations == dict.fromkeys(NAMES[:5], 1)


def test_devices_are_not_asked_all_the_time_how_far_they_are(world: World) -> None:
    asked, evaluate = [], world.evaluate
    world.evaluate = lambda *of: asked.append(of) or evaluate(*of)  # type: ignore[method-assign, func-returns-value]
    world.start()
    world.silent = frozenset(NAMES)
    world.begin()
    world.until(Stage.SHADOW)
    world.step(21, pause=1.0)
    assert len(asked) == 3


def test_each_try_is_farther_from_the_one_before(world: World) -> None:
    world.refuses = [SumError("keys: 3 of 8 devices have sent theirs")] * 4
    world.begin()
    tries: list[int] = []
    for second in range(0, 1000, 10):
        before = len(world.asked)
        world.step(pause=10.0)
        tries += [second] * (len(world.asked) - before)
    pauses = [after - before for before, after in pairwise(tries)]
    assert [pause // 60 for pause in pauses] == [1, 2, 4, 8, 0]


def test_nobody_is_asked_while_too_few_are_there(world: World) -> None:
    for name in NAMES[5:]:
        world.fleet.members.set_node(name, None)
    world.begin()
    world.until(Stage.ABANDONED, pause=LONGEST_PAUSE)
    assert world.asked == []
    assert "devices: 5 can be asked and 6 are wanted" in world.attempts.decisions(2)[0].reason


def test_a_sum_that_cannot_be_is_dropped_and_has_its_price(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = World.contribution

    def huge(self: World, name: str, task: Task) -> np.ndarray:
        return honest(self, name, task) + 2**20

    monkeypatch.setattr(World, "contribution", huge)
    world.begin()
    world.step()
    assert world.told == ["begin", "round abandoned"]
    assert world.reason.startswith("sum: its norm is beyond what 7 devices can add")
    assert sum(world.attempts.all()[0].participations.values()) == 8


@pytest.mark.parametrize("stage", [Stage.ROUNDS, Stage.SHADOW, Stage.ROLL_OUT])
def test_it_is_stopped_by_hand(world: World, stage: Stage) -> None:
    world.begin()
    world.until(stage)
    world.attempts.stop()
    world.step()
    assert world.attempts.all()[-1].stage == Stage.STOPPED
    assert world.latest.version == 1
    assert list(world.home.improvement.glob("*.safetensors")) == []


def test_a_roll_out_that_is_stopped_goes_back(world: World) -> None:
    roll_out(world)
    world.attempts.stop()
    world.step()
    assert world.attempts.all()[-1].stage == Stage.ROLLED_BACK
    assert world.latest.restores == 1


@pytest.mark.parametrize(
    ("stage", "end"),
    [
        (Stage.ROUNDS, Stage.ABANDONED),
        (Stage.SHADOW, Stage.ABANDONED),
        (Stage.ROLL_OUT, Stage.ABANDONED),
    ],
)
def test_what_is_published_by_hand_goes_before(
    world: World, releases: list[Path], stage: Stage, end: Stage
) -> None:
    world.begin()
    world.until(stage)
    published = world.registry.publish(releases[0])
    world.step()
    assert world.attempts.all()[-1].stage == end
    assert world.reason == f"{published.name} was published meanwhile"
    assert world.latest == published


def test_a_rollback_by_hand_ends_a_roll_out(world: World) -> None:
    roll_out(world)
    world.registry.rollback(1)
    world.step()
    assert world.attempts.all()[-1].stage == Stage.ROLLED_BACK
    assert world.latest.version == 3


def test_a_damaged_state_ends_the_attempt(world: World) -> None:
    world.begin()
    world.step()
    [state] = world.home.improvement.glob("*.safetensors")
    state.write_bytes(b"nonsense")
    world.step()
    assert world.attempts.all()[-1].stage == Stage.ABANDONED
    assert world.reason.startswith("improvement: its state is damaged")


@pytest.mark.parametrize("stage", [Stage.SHADOW, Stage.ROLL_OUT])
def test_what_is_damaged_ends_no_more_than_the_attempt(world: World, stage: Stage) -> None:
    world.begin()
    world.until(stage)
    weights = world.home.candidate(1) / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"nonsense")
    world.step(2)
    if stage == Stage.SHADOW:
        assert world.attempts.all()[-1].stage == Stage.ABANDONED
        assert "weights.safetensors" in world.reason
    else:  # somebody may mend it
        assert world.attempts.all()[-1].stage == Stage.ROLL_OUT
        weights.write_bytes(whole)
        world.step()
        assert world.latest.version == 2


def test_a_candidate_of_another_run_is_not_taken_for_this_one(world: World) -> None:
    other = world.home.candidate(1)
    shutil.copytree(world.registry.release(1).directory, other)
    left = Manifest.load(other / MANIFEST).files
    world.begin()
    world.until(Stage.SHADOW)
    assert Manifest.load(other / MANIFEST).files != left


def test_public_characters_of_another_alphabet_are_not_rehearsed(world: World) -> None:
    given = Public.load(world.home.public)
    classes = Labels(given.rehearsal.classes.texts[::-1])
    Public(*(replace(part, classes=classes) for part in vars(given).values())).save(
        world.home.public
    )
    world.begin()
    world.step()
    assert world.attempts.all()[-1].stage == Stage.ABANDONED
    assert world.reason.startswith("labels: ")


def test_without_public_characters_nothing_is_begun(world: World) -> None:
    world.home.public.rename(world.home.directory / "elsewhere")
    world.begin()
    world.step()
    assert world.attempts.all()[-1].stage == Stage.ABANDONED
    assert world.reason.startswith("public: there are no public observations in")


@pytest.mark.parametrize("restarting", [False, True])
def test_it_goes_on_where_it_was(world: World, restarting: bool) -> None:
    world.begin(replace(PLAN, rounds=3))
    world.until(Stage.ROLL_OUT, restarting=restarting)
    world.step()
    assert len(world.asked) == 3
    assert [each.summed for each in world.attempts.all()[0].rounds] == [7, 7, 7]
    assert world.latest.version == 2


KILLED = {
    "as a round began": 1,
    "after a round": 2,
    "as the last round began": 5,
    "after the last round": 6,
    "after a candidate was made": 7,
    "as devices were drawn": 8,
    "after they have reported": 9,
    "after it was published": 10,
}
"""Which time that something is kept."""


@pytest.mark.parametrize("moment", KILLED)
def test_a_kill_loses_a_round_at_most(
    world: World, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    keep, kept = Attempts.keep, 0

    def dying(*arguments: Any) -> None:
        nonlocal kept
        kept += 1
        if kept == KILLED[moment]:
            raise KilledError
        keep(*arguments)

    monkeypatch.setattr(Attempts, "keep", dying)
    world.begin(replace(PLAN, rounds=3))
    with pytest.raises(KilledError):
        world.until(Stage.PROMOTED)
    world.start()
    world.until(Stage.ROLL_OUT, pause=ROUND_RETRY_SECONDS)
    world.step()
    assert world.attempts.all()[-1].version == world.latest.version == 2
    assert len(world.asked) == 3
    assert len(set(world.tried)) == 6


def test_a_kill_as_it_ends_leaves_the_rounds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.begin()
    world.step()
    world.attempts.stop()
    with monkeypatch.context() as patch:

        def dying(*_: object) -> None:
            raise KilledError

        patch.setattr(Attempts, "keep", dying)
        with pytest.raises(KilledError):
            world.step()
    assert len(list(world.home.improvement.glob("*.safetensors"))) == 1
    world.start()
    world.step()
    assert world.attempts.all()[-1].stage == Stage.STOPPED
    assert list(world.home.improvement.glob("*.safetensors")) == []


def test_a_kill_after_a_rollback_is_one_rollback(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    roll_out(world)
    world.report(10, 40)
    with monkeypatch.context() as patch:

        def dying(*_: object) -> None:
            raise KilledError

        patch.setattr(Attempts, "keep", dying)
        with pytest.raises(KilledError):
            world.step()
    world.start()
    world.step()
    assert world.attempts.all()[-1].stage == Stage.ROLLED_BACK
    assert world.latest.version == 3


def wrong_on_much(world: World) -> None:
    world.window -= 3
    world.report(30, 30)
    world.window += 2


AUTOMATIC = replace(PLAN, automatic=True, trigger=Trigger(cohort=12, epsilon=1e9, pause=3600))


def test_it_begins_by_itself_when_the_statistics_tell_for_it(world: World) -> None:
    world.attempts.agree(AUTOMATIC)
    world.step()
    assert world.reason == "no window has reports of enough devices yet"
    wrong_on_much(world)
    world.step()  # it has just looked
    assert world.told == ["wait"]
    world.start()
    world.step()
    assert world.told == ["wait", "begin"]
    assert world.reason.startswith("the global expert is wrong on ")
    world.attempts.stop()
    world.step()
    world.start()
    world.step()
    assert world.reason.startswith("the last improvement was 0.0 days ago")


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (replace(AUTOMATIC, trigger=replace(AUTOMATIC.trigger, error=0.6)), "not clearly above"),
        (replace(AUTOMATIC, trigger=replace(AUTOMATIC.trigger, cohort=13)), "12 devices are onl"),
        (replace(AUTOMATIC, trigger=replace(AUTOMATIC.trigger, epsilon=8.0)), "above 8"),
        (replace(AUTOMATIC, rounds=21), "rounds: 21 of 6 devices are 126 participations and 12"),
    ],
)
def test_it_waits_where_they_do_not(world: World, plan: Plan, reason: str) -> None:
    world.attempts.agree(plan)
    wrong_on_much(world)
    world.step()
    assert world.told == ["wait"]
    assert reason in world.reason


def test_it_waits_for_public_characters(world: World) -> None:
    world.home.public.rename(world.home.directory / "elsewhere")
    world.attempts.agree(AUTOMATIC)
    wrong_on_much(world)
    world.step()
    assert world.reason == "there are no public observations to rehearse and to judge by"


def test_by_hand_means_by_hand(world: World) -> None:
    world.attempts.agree(replace(AUTOMATIC, automatic=False))
    wrong_on_much(world)
    world.step()
    assert world.told == []
