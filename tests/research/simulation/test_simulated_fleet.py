import dataclasses
from functools import cache

import numpy as np
import pytest

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.experts.evaluation import accuracy
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.improvement.improvement import Recipe
from fedhw.improvement.local_update import LocalTraining
from fedhw.improvement.plan import Plan
from fedhw.improvement.public import Public
from fedhw.improvement.trigger import Trigger
from fedhw.privacy.mechanism import GaussianMechanism, composed_epsilon
from fedhw.release.release import Release
from fedhw.research.simulation.simulated_coordinator import Policy
from fedhw.research.simulation.simulated_fleet import (
    DELTA,
    Chronicle,
    People,
    Scenario,
    draw_people,
    simulate_fleet,
)
from fedhw.research.train_release import make_release
from fedhw.research.training import Training
from fedhw.system.clock import DAY_SECONDS
from tests.fed_avg_m import FedAvgM

WRITERS = 30


@cache
def hidden() -> WriterSet:
    return synthetic_writers(12, 124)


@cache
def fleet() -> WriterSet:
    return synthetic_writers(range(500, 500 + WRITERS), 124)


RECIPE = Recipe(
    rate=0.03,
    rehearsal=0.3,
    writers=6,
    optimiser=FedAvgM(1.0, 0.7),
    training=LocalTraining(epochs=4),
)
NEVER = Trigger(error=1.0, rise=1.0, cohort=2)
SOON = Trigger(cohort=20, pause=4 * DAY_SECONDS)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """One that leaves much to be gained."""
    directory = tmp_path_factory.mktemp("launch") / "release"
    make_release(directory, hidden(), "lenet5", Training(epochs=8, batch=32), hold_out=0)
    return Release.load(directory)


@pytest.fixture(scope="module")
def public(release: Release) -> Public:
    return Public.of(hidden(), release)


PLAN = Plan(
    automatic=True,
    rounds=15,
    noise=0.0,
    cohort=20,
    survivors=5,
    participations=15,
    canary=1.0,
    trigger=SOON,
)


QUIET = dataclasses.replace(PLAN, trigger=NEVER)
BRIEF = dataclasses.replace(PLAN, rounds=3)
ARRIVING = People(arriving=1.0)


def scenario(
    days: int,
    epsilon: float = 1000.0,
    plan: Plan = PLAN,
    recipe: Recipe = RECIPE,
    people: People = ARRIVING,
    seed: int = 0,
) -> Scenario:
    return Scenario(days, epsilon, seed, Policy(plan, recipe, minimum_cohort=5), people)


@pytest.fixture(scope="module")
def quiet(release: Release, public: Public) -> Chronicle:
    """A fleet that is only watched."""
    return simulate_fleet(
        release,
        public,
        fleet(),
        range(WRITERS),
        scenario(6, plan=QUIET, people=People(arriving=0.6)),
    )


@pytest.fixture(scope="module")
def improved(release: Release, public: Public) -> Chronicle:
    """A fleet that gets a better expert as soon as half of it is online."""
    return simulate_fleet(release, public, fleet(), range(WRITERS), scenario(20))


def test_the_same_seed_gives_the_same_fleet(release: Release, public: Public) -> None:
    """Noise, rounds and shadow evaluations, too."""
    asked = scenario(6, plan=BRIEF)
    one, other = (simulate_fleet(release, public, fleet(), range(WRITERS), asked) for _ in range(2))
    assert any(day.rounds for day in one.days)
    assert "candidate" in [decision.decision for decision in one.decisions]
    assert repr(one.days) == repr(other.days)
    assert one.decisions == other.decisions


def test_everybody_comes_and_writes_all_they_have(quiet: Chronicle) -> None:
    assert sum(quiet.days[-1].devices.values()) == WRITERS
    assert sum(day.characters for day in quiet.days) == len(fleet())
    assert 0 < quiet.days[0].online < quiet.days[-1].online


def test_mixtures_learn_their_people(quiet: Chronicle) -> None:
    last = quiet.days[-1]
    assert last.accuracy > last.ge_accuracy + 0.1
    assert last.figures["gate_open"].truth > quiet.days[0].figures["gate_open"].truth


def test_estimates_cover_the_truth(release: Release, public: Public) -> None:
    watched = simulate_fleet(
        release, public, fleet(), range(WRITERS), scenario(10, epsilon=50.0, plan=QUIET)
    )
    covered = []
    for figure in (figure for day in watched.days for figure in day.figures.values()):
        if figure.estimate is not None:
            low, high = figure.estimate.interval(0.99)
            covered.append(low <= figure.truth <= high)
            assert high - low < 1.5
    assert len(covered) > 10
    assert np.mean(covered) >= 0.9


def test_who_is_offline_learns_and_reports_nothing(release: Release, public: Public) -> None:
    alone = simulate_fleet(
        release, public, fleet(), range(WRITERS), scenario(4, people=People(1.0, offline=1.0))
    )
    assert all((day.online, day.reports, day.worst) == (0, 0, 0.0) for day in alone.days)
    assert all(figure.estimate is None for day in alone.days for figure in day.figures.values())
    assert alone.days[-1].accuracy > alone.days[-1].ge_accuracy


def test_reports_cost_what_the_composition_says(quiet: Chronicle) -> None:
    sigma = GaussianMechanism(quiet.scenario.epsilon, DELTA).sigma
    costs = [composed_epsilon([sigma] * count, DELTA) for count in range(7)]
    for day in quiet.days:
        assert day.worst in costs[: day.day + 2]
    assert quiet.days[-1].worst > quiet.days[0].worst == costs[1]


def test_an_improvement_is_triggered_promoted_and_helps(improved: Chronicle) -> None:
    [promoted] = (each.attempt for each in improved.decisions if each.decision == "promoted")
    told = [each.decision for each in improved.decisions if each.attempt == promoted]
    assert told[:4] == ["begin", "candidate", "promote", "publish"]
    assert {day.rounds for day in improved.days} == {0, PLAN.rounds}
    first, second = improved.versions
    before, after = (
        accuracy(version.release.expert, fleet().observations, fleet().labels)
        for version in (first, second)
    )
    assert after > before + 0.02
    assert improved.days[-1].devices["v2"] > WRITERS / 2


def with_false_labels(data: WriterSet) -> WriterSet:
    return dataclasses.replace(data, labels=((data.labels.astype(int) + 7) % 62).astype(np.uint8))


def poisoned(release: Release, public: Public) -> list[str]:
    """What becomes of an attempt that rehearses on these characters."""
    asked = scenario(6, plan=BRIEF, recipe=dataclasses.replace(RECIPE, rehearsal=0.95))
    found = simulate_fleet(release, public, fleet(), range(WRITERS), asked)
    assert [version.name for version in found.versions] == ["v1"]
    assert set(found.days[-1].devices) == {"v1"}
    last = found.decisions[-1].attempt
    return [each.decision for each in found.decisions if each.attempt == last is not None]


def test_a_candidate_from_a_poisoned_public_set_is_rejected(
    release: Release, public: Public
) -> None:
    false = Public(with_false_labels(public.rehearsal), public.validation)
    assert poisoned(release, false) == ["begin", "rejected"]


def test_a_candidate_that_only_looks_good_is_rejected_by_the_shadow_evaluation(
    release: Release, public: Public
) -> None:
    false = Public(*map(with_false_labels, (public.rehearsal, public.validation)))
    assert poisoned(release, false) == ["begin", "candidate", "rejected"]


def test_rounds_with_noise_are_paid_for(release: Release, public: Public) -> None:
    asked = scenario(6, plan=dataclasses.replace(BRIEF, noise=5.0))
    noisy = simulate_fleet(release, public, fleet(), range(WRITERS), asked)
    *_, day = (day for day in noisy.days if day.rounds)
    sigma = GaussianMechanism(noisy.scenario.epsilon, DELTA).sigma
    reports = [composed_epsilon([sigma] * count, DELTA) for count in range(12)]
    assert day.worst not in reports


def test_people_are_drawn_from_those_whom_nobody_trained_on(release: Release) -> None:
    people = draw_people(release, fleet(), 10, seed=1)
    assert len(set(people)) == 10
    assert draw_people(release, fleet(), 10, seed=1) == people
    assert draw_people(release, fleet(), 10, seed=2) != people
    assert sorted(draw_people(release, fleet(), None, seed=1)) == list(range(WRITERS))
    with pytest.raises(InputError, match="writers: 1 cannot be drawn from the 0"):
        draw_people(release, hidden(), 1, seed=1)


def test_a_fleet_of_no_day_is_refused() -> None:
    with pytest.raises(InputError, match="days: 0 is no time"):
        scenario(0)
