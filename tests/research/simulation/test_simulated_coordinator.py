from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.improvement.improvement import Improvement, Recipe, State
from fedhw.improvement.public import Public
from fedhw.improvement.trigger import Trigger
from fedhw.privacy.estimate import Sums
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.statistics import LATENCIES, Evaluation, Tally, make_report
from fedhw.release.release import Release
from fedhw.research.simulation.simulated_coordinator import Coordinator, Policy

NAMES = [f"device-{i}" for i in range(40)]
POLICY = Policy(Recipe(rounds=2, noise=0.0), Trigger(cohort=2), 5, 0.5, 2)


def mechanism(seed: int) -> GaussianMechanism:
    return GaussianMechanism(1000.0, 1e-6, np.random.default_rng(seed).bytes)


def reports(right: int, version: str, devices: int = 40) -> dict[str, Sums]:
    """Of devices each of which had ten corrections, and so many right."""
    errors = (10 - right, *(0,) * 61)
    tally = Tally(10, right, right, right, 0, 10, errors, (0,) * (len(LATENCIES) + 1))
    noise = mechanism(seed=right)
    some = [make_report(tally, name, 0, version, noise) for name in NAMES[:devices]]
    return {version: Sums.of(*some)}


def evaluated(gain: int, name: str) -> Sums:
    """Of a device that keeps forty corrections, so many more of which a candidate has right."""
    found = Evaluation(40, 20 + gain, 20, 24, 24)
    return Sums.of(make_report(found, name, 0, "v2", mechanism(NAMES.index(name))))


def next_round(improvement: Improvement, state: State) -> State:
    return state._replace(round=state.round + 1)


@pytest.fixture
def make(release: Release, tmp_path: Path) -> Callable[..., Coordinator]:
    public = Public.of(synthetic_writers(30, 150), release)
    return lambda: Coordinator(release, public, POLICY, 0, len(NAMES), tmp_path)


def told(coordinator: Coordinator) -> list[tuple[str, str]]:
    return [(decision.about, decision.outcome) for decision in coordinator.decisions]


def until_judged(coordinator: Coordinator, gain: int) -> None:
    """Have an improvement made on day 0 and judged with such a gain on days 1 and 2."""
    coordinator.decide(0, 40, reports(5, "v1"), 0.0, next_round)
    canary = [name for name in NAMES if coordinator.asked(name) is not None]
    assert 10 < len(canary) < 30
    for day, some in ((1, canary[:8]), (2, canary[8:])):
        for name in some:
            coordinator.note(name, evaluated(gain, name))
            assert coordinator.asked(name) is None
        coordinator.decide(day, 40, reports(5, "v1"), 0.0, next_round)
    assert all(coordinator.asked(name) is None for name in NAMES)


def test_a_candidate_goes_by_stages_to_all(make: Callable[..., Coordinator]) -> None:
    coordinator = make()
    until_judged(coordinator, gain=4)
    assert [version.name for version in coordinator.versions] == ["v1", "v2"]
    reached = []
    for day in range(3, 9):
        new = [name for name in NAMES if coordinator.offered(name).name == "v2"]
        reached.append(len(new))
        mixed = reports(6, "v2", len(new)) | reports(5, "v1", 40 - len(new) or 1)
        coordinator.decide(day, 40, mixed, 0.0, next_round)
    assert 0 < reached[0] == reached[1] <= reached[2] < reached[4] == 40
    assert told(coordinator) == [
        ("improvement", "improve"),
        ("candidate v2 on public data", "pass"),
        ("candidate v2 on canary devices", "wait"),
        ("candidate v2 on canary devices", "pass"),
        *[
            (f"roll-out of v2, stage {stage} of 3", outcome)
            for stage in (1, 2, 3)
            for outcome in ("wait", "advance")
        ],
    ]
    assert {coordinator.offered(name).name for name in NAMES} == {"v2"}


@pytest.mark.parametrize("gain", [-4, 0])
def test_a_candidate_without_gain_is_rejected(gain: int, make: Callable[..., Coordinator]) -> None:
    coordinator = make()
    until_judged(coordinator, gain)
    assert ("candidate v2 on canary devices", "reject") in told(coordinator)
    assert [version.name for version in coordinator.versions] == ["v1"]
    coordinator.decide(3, 40, reports(5, "v1"), 0.0, next_round)
    assert coordinator.decisions[-1].outcome == "wait"
    assert "days ago" in coordinator.decisions[-1].reason


def test_a_version_that_turns_out_worse_is_taken_back(make: Callable[..., Coordinator]) -> None:
    coordinator = make()
    until_judged(coordinator, gain=4)
    mixed = reports(2, "v2", 20) | reports(6, "v1", 20)
    coordinator.decide(3, 40, mixed, 0.0, next_round)
    assert told(coordinator)[-1] == ("roll-out of v2, stage 1 of 3", "roll back")
    first, _, back = coordinator.versions
    assert (back.name, back.restores) == ("v3", 1)
    assert back.release is first.release
    assert all(coordinator.offered(name) is back for name in NAMES)


def test_nothing_is_decided_by_too_few_reports(make: Callable[..., Coordinator]) -> None:
    coordinator = make()
    assert coordinator.decide(0, 40, reports(5, "v1", 4), 0.0, next_round) is None
    assert coordinator.decide(1, 40, {}, 0.0, next_round) is None
    assert [outcome for _, outcome in told(coordinator)] == ["wait", "wait"]


def test_rounds_without_devices_are_given_up(make: Callable[..., Coordinator]) -> None:
    """And tried again the next day, where none was taken at all."""
    coordinator = make()
    for day in (0, 1):
        coordinator.decide(day, 40, reports(5, "v1"), 0.0, lambda improvement, state: None)
    assert told(coordinator) == [
        ("improvement", "improve"),
        ("improvement", "given up"),
        ("improvement", "improve"),
        ("improvement", "given up"),
    ]


def test_what_all_improvements_cost_is_bounded(make: Callable[..., Coordinator]) -> None:
    coordinator = make()
    coordinator.decide(0, 40, reports(5, "v1"), 8.1, next_round)
    assert told(coordinator) == [("improvement", "wait")]
    assert "epsilon 8.10" in coordinator.decisions[0].reason
