from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.improvement.actions import Progress
from fedhw.improvement.attempt import MAX_FAILED_ROUNDS, STALLED_WINDOWS
from fedhw.improvement.improvement import Improvement, ImprovementState, Recipe
from fedhw.improvement.plan import Plan
from fedhw.improvement.public import Public
from fedhw.improvement.trigger import Trigger
from fedhw.privacy.estimate import Sums
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.secure_sum import SumError
from fedhw.privacy.statistics import LATENCIES, Evaluation, Tally, make_report
from fedhw.release.release import Release
from fedhw.research.simulation.simulated_coordinator import Coordinator, Policy, RoundTaken
from fedhw.research.simulation.simulated_devices import Version

NAMES = [f"device-{i}" for i in range(40)]
PLAN = Plan(
    automatic=True,
    rounds=2,
    noise=0.0,
    cohort=20,
    survivors=5,
    canary=0.5,
    trigger=Trigger(cohort=2),
)
POLICY = Policy(PLAN, Recipe(), minimum_cohort=5)


def mechanism(seed: int) -> GaussianMechanism:
    return GaussianMechanism(1000.0, 1e-6, np.random.default_rng(seed).bytes)


def reports(right: int, version: str, devices: int = 40) -> dict[str, Sums]:
    """Of devices each of which had ten corrections, and so many right."""
    errors = (10 - right, *(0,) * 61)
    tally = Tally(10, right, right, right, 0, 10, errors, (0,) * (len(LATENCIES) + 1))
    noise = mechanism(seed=right)
    some = [make_report(tally, name, 0, version, noise) for name in NAMES[:devices]]
    return {version: Sums.of(*some)}


@dataclass
class Devices:
    """Forty devices that are online; a candidate has so many more of forty corrections right."""

    gain: int = 4
    rho: float = 0.0
    taking: int = 40
    running: dict[str, str] = field(default_factory=lambda: dict.fromkeys(NAMES, "v1"))
    evaluating: list[str] = field(default_factory=list)

    def take_round(
        self, improvement: Improvement, state: ImprovementState, names: Sequence[str], plan: Plan
    ) -> RoundTaken:
        if self.taking < plan.survivors:
            raise SumError(f"keys: {self.taking} of {len(names)} devices have sent theirs")
        return RoundTaken(state._replace(round=state.round + 1), tuple(names[: self.taking]))

    def evaluate(
        self, candidate: Version, names: Sequence[str]
    ) -> tuple[Mapping[str, Progress], Sums | None]:
        self.evaluating += names
        found = Evaluation(40, 20 + self.gain, 20, 24, 24)
        some = [
            make_report(found, name, 0, candidate.name, mechanism(NAMES.index(name)))
            for name in names
        ]
        return dict.fromkeys(names, Progress.TOLD), Sums.of(*some)


@pytest.fixture
def make(release: Release, tmp_path: Path) -> Callable[..., Coordinator]:
    public = Public.of(synthetic_writers(30, 150), release)

    def made() -> Coordinator:
        coordinator = Coordinator(release, public, POLICY, 1e-6, 0, tmp_path)
        coordinator.enrolled = len(NAMES)
        return coordinator

    return made


def told(coordinator: Coordinator) -> list[str]:
    return [decision.decision for decision in coordinator.decisions]


UNTIL_PUBLISHED = ["begin", "candidate", "promote", "publish"]


def test_a_candidate_goes_step_by_step_to_all(make: Callable[..., Coordinator]) -> None:
    coordinator, devices = make(), Devices()
    coordinator.end_day(0, reports(5, "v1"), devices)
    assert told(coordinator) == UNTIL_PUBLISHED
    assert [version.name for version in coordinator.versions] == ["v1", "v2"]
    assert len(devices.evaluating) == 20
    reached = []
    for day in range(1, 10):
        devices.running = {name: coordinator.offered(name).name for name in NAMES}
        new = sum(running == "v2" for running in devices.running.values())
        reached.append(new)
        mixed = reports(6, "v2", new) | reports(5, "v1", 40 - new or 1)
        coordinator.end_day(day, mixed, devices)
    assert 0 < reached[0] == reached[5] < reached[6] == 40
    # The day on which a step begins is no day of it alone.
    assert told(coordinator)[4:] == ["wait", "advance", "wait", "advance", "wait", "promoted"]
    assert {coordinator.offered(name).name for name in NAMES} == {"v2"}
    assert coordinator.current is None


@pytest.mark.parametrize("gain", [-4, 0])
def test_a_candidate_without_gain_is_rejected(gain: int, make: Callable[..., Coordinator]) -> None:
    coordinator = make()
    coordinator.end_day(0, reports(5, "v1"), Devices(gain))
    assert told(coordinator) == ["begin", "candidate", "rejected"]
    assert [version.name for version in coordinator.versions] == ["v1"]
    coordinator.end_day(1, reports(5, "v1"), Devices(gain))
    assert told(coordinator)[-1] == "wait"
    assert "days ago" in coordinator.decisions[-1].reason


def test_a_version_that_turns_out_worse_is_taken_back(make: Callable[..., Coordinator]) -> None:
    coordinator = make()
    coordinator.end_day(0, reports(5, "v1"), Devices())
    for day in (1, 2):
        mixed = reports(2, "v2", 20) | reports(6, "v1", 20)
        coordinator.end_day(day, mixed, Devices())
    assert told(coordinator) == [*UNTIL_PUBLISHED, "rolled back"]
    first, _, back = coordinator.versions
    assert (back.name, back.restores) == ("v3", 1)
    assert back.release is first.release
    assert all(coordinator.offered(name) is back for name in NAMES)


def test_a_version_that_nobody_reports_on_is_taken_back(make: Callable[..., Coordinator]) -> None:
    coordinator = make()
    coordinator.end_day(0, reports(5, "v1"), Devices())
    for day in range(1, STALLED_WINDOWS + 2):
        assert told(coordinator) == UNTIL_PUBLISHED
        coordinator.end_day(day, {}, Devices())
    assert told(coordinator)[-1] == "rolled back"
    assert coordinator.decisions[-1].reason == "there was nothing to compare it with in 7 windows"


def test_nothing_is_decided_by_too_few_reports(make: Callable[..., Coordinator]) -> None:
    coordinator = make()
    assert coordinator.end_day(0, reports(5, "v1", 4), Devices()) is None
    assert coordinator.end_day(1, {}, Devices()) is None
    assert told(coordinator) == ["wait", "wait"]


def test_rounds_that_come_to_nothing_are_tried_again_until_the_attempt_is_abandoned(
    make: Callable[..., Coordinator],
) -> None:
    coordinator = make()
    coordinator.end_day(0, reports(5, "v1"), Devices(taking=3))
    failed = ["round abandoned"] * MAX_FAILED_ROUNDS
    assert told(coordinator) == ["begin", *failed, "abandoned"]
    moments = [decision.moment for decision in coordinator.decisions[1:]]
    pauses = np.diff(moments)
    assert list(pauses[:-1]) == [60 * 2**failed for failed in range(MAX_FAILED_ROUNDS - 1)]


def test_what_all_attempts_cost_is_bounded(make: Callable[..., Coordinator]) -> None:
    coordinator = make()
    coordinator.end_day(0, reports(5, "v1"), Devices(rho=2.0))
    assert told(coordinator) == ["wait"]
    assert "above 8" in coordinator.decisions[0].reason
