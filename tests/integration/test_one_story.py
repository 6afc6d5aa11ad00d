"""One story of a fleet, told by the coordinator and agents that ship and by the simulation.

Twelve people enrol, make signs with their hands, correct and report; the expert is improved and
rolled out, turns out worse, and goes back. Whoever tells it, the same is decided, at the same times
and for the same reasons.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Protocol

import numpy as np
import pytest
import torch

from fedhw.data.writers import WriterSet
from fedhw.experts.architecture import Architecture, register
from fedhw.experts.global_expert import GlobalExpert
from fedhw.experts.layers import Linear, Relu
from fedhw.improvement import rollout
from fedhw.improvement.actions import Progress
from fedhw.improvement.attempt import Decision, Stage
from fedhw.improvement.contribution import Task
from fedhw.improvement.improvement import Improvement, ImprovementState, Recipe
from fedhw.improvement.local_update import Lesson, LocalTraining, unflatten
from fedhw.improvement.plan import Plan
from fedhw.improvement.public import Public
from fedhw.improvement.trigger import Trigger
from fedhw.observation import Labels, Observations, ObservationType
from fedhw.privacy.estimate import Sums
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.statistics import LATENCIES, Evaluation, Report, Tally, make_report
from fedhw.release.registry import Registry
from fedhw.release.release import Release
from fedhw.release.signing import ReleaseKey
from fedhw.research.simulation import simulated_devices
from fedhw.research.simulation.simulated_coordinator import (
    REPORTING_SHARE,
    STEP_SECONDS,
    Coordinator,
    Policy,
    RoundTaken,
)
from fedhw.research.simulation.simulated_devices import Device, Version, cohorts
from fedhw.research.simulation.simulated_rounds import summed
from fedhw.research.train_release import make_release
from fedhw.research.training import Training
from fedhw.system.clock import DAY_SECONDS, SettableClock
from fedhw_client.agent.agent import Agent
from fedhw_client.agent.correction import Correction
from fedhw_client.store.corrections import Store
from fedhw_server.leader.improver import Improver
from fedhw_server.leader.secure_round import Summed
from fedhw_server.store.coordinator_home import Home
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.members import Member
from fedhw_server.store.reports import Accepted
from tests.fed_avg_m import FedAvgM
from tests.server.conftest import Pen
from tests.waiting import until

NAMES = [f"pen-{number:02}" for number in range(12)]
DAYS, PER_DAY = 7, 40
LATER = NAMES[8:]
"""Those who come on the third day, which is when there are enough."""

WORSE = 5
"""The day on which everybody means what the first expert reads: all others are worse then."""

WORDS = Labels(("yes", "no", "later", "never", "perhaps"))
SIGNS = Architecture(ObservationType((8,), "float32"), (Linear(16), Relu()))
THEN = np.random.default_rng(1).normal(size=(5, 8))
NOW = np.concatenate([THEN[:3], THEN[4:], THEN[3:4]])
"""How each word was signed when the first expert was made, and how it is now: two have changed."""

COHORT, SEED = 3, 0
PLAN = Plan(
    automatic=True,
    rounds=8,
    noise=0.01,
    cohort=12,
    survivors=6,
    canary=1.0,
    trigger=Trigger(cohort=12, epsilon=1e12),
)
RECIPE = Recipe(rate=0.05, writers=6, optimiser=FedAvgM(1.0, 0.7), training=LocalTraining(epochs=4))
MECHANISM = GaussianMechanism(1000.0, 1e-6)
NO_LATENCIES = (0,) * (len(LATENCIES) + 1)


@dataclass(frozen=True)
class Story:
    """What twelve people write, day by day, and what they mean by it."""

    data: WriterSet

    def rows(self, name: str, day: int) -> np.ndarray:
        own = self.data.rows_of(NAMES.index(name))
        return own[day * PER_DAY : (day + 1) * PER_DAY]


class World(Protocol):
    """Where a story takes place."""

    def enrol(self, name: str) -> None: ...
    def offer(self) -> None: ...
    def write(self, day: int) -> None: ...
    def end_day(self, day: int) -> None: ...
    @property
    def decisions(self) -> Sequence[Decision]: ...


def live_through(world: World) -> None:
    for day in range(DAYS):
        for name in (NAMES[:8], (), LATER)[day] if day < 3 else ():
            world.enrol(name)
        world.offer()
        world.write(day)
        world.end_day(day)


def reported(counts: Tally | Evaluation, name: str, day: int, about: str) -> Report:
    return make_report(counts, name, day, about, MECHANISM)


class Shipped:
    """The coordinator and the agents that ship; of the network there is nothing."""

    def __init__(self, directory: Path, first: Release, public: Public, story: Story) -> None:
        self._story = story
        self._directory = directory
        self._clock = SettableClock(0.0)
        self._open = ExitStack()
        self._agents: dict[str, Agent] = {}
        home = Home(directory / "coordinator")
        home.directory.mkdir()
        self._registry = Registry(home.releases, ReleaseKey.create(home.release_key))
        self._first = self._registry.publish(first.directory)
        public.save(home.public)
        self._fleet = Fleet(home.database, self._clock)
        self._open.callback(self._fleet.close)
        self._fleet.settings.agree(
            window=int(DAY_SECONDS), epsilon=MECHANISM.epsilon, minimum_cohort=COHORT
        )
        self._fleet.attempts.agree(PLAN)
        draw = Random(SEED)
        self._improver = Improver(
            home,
            self._fleet,
            self._registry,
            self._add_up,
            self._evaluate,
            RECIPE,
            draw,
            self._clock,
        )

    def close(self) -> None:
        self._open.close()

    @property
    def decisions(self) -> list[Decision]:
        return self._fleet.attempts.decisions()

    def enrol(self, name: str) -> None:
        Pen(name).join(self._fleet)
        self._fleet.members.set_node(name, NAMES.index(name))
        release = self._registry.release(self._first.version)
        agent = Agent(release, Store(self._directory / f"{name}.db"), clock=self._clock)
        self._open.callback(agent.close)
        self._agents[name] = agent
        self._note(name, self._first.version, True)

    def _note(self, name: str, version: int, adopted: bool) -> None:
        adoption = "running" if adopted else "held back"
        release = self._agents[name].release_name
        self._fleet.members.note_answer(name, version, release, adoption, None)

    def offer(self) -> None:
        newest = self._registry.latest
        reach = self._fleet.attempts.roll_out(newest)
        for name, agent in self._agents.items():
            member = self._fleet.members.get(name)
            version = reach.version_for(name, member.running)
            if member.wants(version, self._clock.wall()):
                self._note(name, version, agent.adopt(self._registry.release(version)))

    def write(self, day: int) -> None:
        self._until(day + 0.5)
        data = self._story.data
        for name, agent in self._agents.items():
            rows = self._story.rows(name, day)
            agent.learn(
                [
                    Correction(data.observations[row], data.classes.texts[data.labels[row]])
                    for row in rows
                ]
            )
        until(lambda: not any(agent.status().learning for agent in self._agents.values()))

    def end_day(self, day: int) -> None:
        for name, agent in self._agents.items():
            start = day * DAY_SECONDS
            tally = agent.tally(start, start + DAY_SECONDS, NO_LATENCIES)
            report = reported(tally, name, day, agent.release_name)
            self._fleet.reports.count([Accepted(report, f"{name} {day}")])
        self._until(day + 1 + REPORTING_SHARE)
        attempts = self._fleet.attempts
        while True:
            before = attempts.current
            self._improver.step(self._fleet.members.by_node())
            after = attempts.current
            if after == before and (after is None or after.stage != Stage.ROUNDS):
                return
            self._clock.advance(0 if before is None else STEP_SECONDS)

    def _until(self, day: float) -> None:
        self._clock.advance(day * DAY_SECONDS - self._clock.wall())

    def _add_up(self, devices: Mapping[int, Member], task: Task) -> Summed:
        names = [device.name for device in devices.values()]
        start = unflatten(self._registry.release(1).expert, np.frombuffer(task.parameters, "<f4"))
        lessons = [Lesson(*self._agents[name].samples(), seed=SEED) for name in names]
        updates = RECIPE.training.updates(start, lessons, task.rate)
        total = np.sum([task.contribution(update) for update in updates], axis=0)
        return Summed(total, tuple(names), tuple(names))

    def _evaluate(self, devices: Mapping[int, Member], directory: Path) -> dict[str, Progress]:
        candidate = Release.load(directory)
        day = int(self._clock.wall() // DAY_SECONDS)
        for device in devices.values():
            found = self._agents[device.name].evaluate(candidate)
            report = reported(found, device.name, day, candidate.manifest.name)
            self._fleet.reports.count([Accepted(report, device.name)])
        return {device.name: Progress.TOLD for device in devices.values()}


class Simulated:
    """The coordinator and the devices of the simulation."""

    def __init__(self, directory: Path, first: Release, public: Public, story: Story) -> None:
        self._story = story
        policy = Policy(PLAN, RECIPE, COHORT)
        self._coordinator = Coordinator(first, public, policy, MECHANISM.delta, SEED, directory)
        self._devices: dict[str, Device] = {}
        self._tallies: dict[str, Tally] = {}
        self._random = np.random.default_rng(SEED)
        self._day = 0
        self.rho = 0.0

    def close(self) -> None:
        pass

    @property
    def decisions(self) -> list[Decision]:
        return self._coordinator.decisions

    def enrol(self, name: str) -> None:
        self._devices[name] = Device.new(name, self._coordinator.versions[0], SEED)
        self._coordinator.enrolled = len(self._devices)

    def offer(self) -> None:
        for name, device in self._devices.items():
            version = self._coordinator.offered(name, device.running.name)
            if version is not device.running and version.name not in device.held_back:
                simulated_devices.adopt([device], version)

    def write(self, day: int) -> None:
        self._day, data = day, self._story.data
        for cohort in cohorts(self._devices.values()):
            rows = [self._story.rows(device.name, day) for device in cohort]
            found = simulated_devices.recognise(
                cohort, [data.observations[own] for own in rows], [data.labels[own] for own in rows]
            )
            for device, written in zip(cohort, found, strict=True):
                self._keep(device, written)
        for cohort in cohorts(one for one in self._devices.values() if one.person.is_due):
            simulated_devices.relearn(cohort)

    def _keep(self, device: Device, written: simulated_devices.Written) -> None:
        for row, label in enumerate(written.labels):
            device.person = device.person.keep(
                written.observations[row], written.features[row], int(label)
            )
        wrong = written.labels[~written.right]
        self._tallies[device.name] = Tally(
            corrections=len(written.labels),
            ge_right=int(written.ge_right.sum()),
            le_right=int(written.le_right.sum()),
            right=int(written.right.sum()),
            opened=int(written.opened.sum()),
            recognitions=0,
            errors=tuple(np.bincount(wrong, minlength=len(self._story.data.classes)).tolist()),
            latencies=NO_LATENCIES,
        )

    def end_day(self, day: int) -> None:
        reports: dict[str, list[Report]] = {}
        for name, device in self._devices.items():
            about = device.running.name
            reports.setdefault(about, []).append(reported(self._tallies[name], name, day, about))
        sums = {about: Sums.of(*some) for about, some in reports.items()}
        self._coordinator.end_day(day, sums, self)

    @property
    def running(self) -> dict[str, str]:
        return {name: device.running.name for name, device in self._devices.items()}

    def take_round(
        self, improvement: Improvement, state: ImprovementState, names: Sequence[str], plan: Plan
    ) -> RoundTaken:
        task = improvement.task(state, len(names), plan.survivors)
        kept = [self._devices[name].person.replay.learnable for name in names]
        own = (
            (np.stack([one.observation for one in some]), np.array([one.label for one in some]))
            for some in kept
        )
        total = summed(improvement, state, task, own, self._random)
        self.rho += task.rho
        return RoundTaken(improvement.advance(state, task, total, len(names)), tuple(names))

    def evaluate(
        self, candidate: Version, names: Sequence[str]
    ) -> tuple[dict[str, Progress], Sums]:
        found = [
            reported(one, device.name, self._day, candidate.name)
            for cohort in cohorts(self._devices[name] for name in names)
            for device, one in zip(
                cohort, simulated_devices.evaluate(cohort, candidate), strict=True
            )
        ]
        return dict.fromkeys(names, Progress.TOLD), Sums.of(*found)


def signed(people: int, each: int, centres: np.ndarray, seed: int) -> WriterSet:
    """So many signs of each of some people, who all have a habit of their own."""
    random = np.random.default_rng(seed)
    labels = random.integers(len(WORDS), size=people * each)
    person = np.repeat(np.arange(people), each)
    habits = random.normal(scale=0.3, size=(people, 8))
    signs = centres[labels] + habits[person] + random.normal(scale=0.5, size=(len(labels), 8))
    names = [f"{seed}-{number}" for number in range(people)]
    return WriterSet.of(signs.astype(np.float32), labels, person, names, WORDS)


@torch.no_grad()
def reading(expert: GlobalExpert, observations: Observations) -> np.ndarray:
    return expert(expert.scale(observations)).argmax(1).numpy()


@pytest.fixture
def first(tmp_path: Path) -> Release:
    register("signs", SIGNS)
    training = Training(epochs=8, batch=32)
    make_release(tmp_path / "first", signed(12, 100, THEN, 2), "signs", training, hold_out=0)
    return Release.load(tmp_path / "first")


@pytest.fixture
def story(first: Release) -> Story:
    data = signed(len(NAMES), DAYS * PER_DAY, NOW, 3)
    labels = data.labels.copy()
    for number in range(len(NAMES)):
        rows = data.rows_of(number)[WORSE * PER_DAY : (WORSE + 1) * PER_DAY]
        labels[rows] = reading(first.expert, data.observations[rows])
    return Story(replace(data, labels=labels))


def told(decisions: Sequence[Decision]) -> list[tuple[int | None, float, str, str]]:
    """When what was decided, and why but for what is measured; of waiting the last in a row."""
    found: list[tuple[int | None, float, str, str]] = []
    for attempt, moment, decision, reason in decisions:
        if attempt is None and found and found[-1][0] is None:
            found.pop()
        sentence = re.sub(r"[-+]?\d+\.\d+%?", "#", re.sub(r"\b(v\d+)-[0-9a-f]{8}", r"\1", reason))
        found.append((attempt, round(moment / DAY_SECONDS, 2), decision, sentence))
    return found


def test_the_same_is_decided_in_both_worlds(
    tmp_path: Path, first: Release, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "draw", lambda name, _: NAMES.index(name) / len(NAMES))
    public = Public(signed(12, 100, NOW, 4), signed(12, 100, NOW, 5))
    worlds = Shipped(tmp_path, first, public, story), Simulated(tmp_path, first, public, story)
    decided = []
    for world in worlds:
        with closing(world):
            live_through(world)
            decided.append(told(world.decisions))
    shipped, simulated = decided
    assert shipped == simulated
    assert [decision for _, _, decision, _ in shipped] == [
        *("wait", "begin", "candidate", "promote", "publish"),
        *("wait", "rolled back", "wait"),
    ]
