from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedhw.data.writers import WriterSet
from fedhw.release.release import Release
from fedhw.research.baselines import METHODS
from fedhw.research.simulation.engines.local import LocalEngine
from fedhw.research.simulation.experiment import Experiment, forget, identity, run_experiment
from fedhw.research.simulation.population import (
    RecordedPopulation,
    SyntheticPopulation,
    draw_writers,
)
from fedhw.research.simulation.trial import Trial

CHOSEN = {name: METHODS[name] for name in ("ge", "moe", "prior")}


@pytest.fixture(scope="module")
def trial(release: Release, unseen_writers: WriterSet) -> Trial:
    drawn = draw_writers(release, unseen_writers, None, "half", seed=0)
    return Trial(release, RecordedPopulation.of(unseen_writers, drawn), CHOSEN, "half", seed=0)


@pytest.fixture(scope="module")
def experiment(trial: Trial) -> Experiment:
    return run_experiment(trial, LocalEngine())


def test_the_global_expert_costs_and_gains_nothing(experiment: Experiment) -> None:
    ge = experiment.methods["ge"]
    assert not ge.parameter_overhead.any()
    assert not ge.mac_overhead.any()
    assert ge.generic == pytest.approx(
        experiment.trial.release.manifest.validation["generic_accuracy"], abs=1e-6
    )
    assert not experiment.gain("ge").any()


def test_the_mixture_helps_its_writers_within_the_budget(experiment: Experiment) -> None:
    moe = experiment.methods["moe"]
    assert experiment.gain("moe").mean() > 0.05
    assert 0.02 < moe.parameter_overhead.mean() <= 0.025
    assert 0 < moe.mac_overhead.mean() <= 0.025
    own, generic = experiment.outcome.openings
    steps = np.arange(len(own))
    assert own @ steps / own.sum() > generic @ steps / generic.sum()


def test_more_samples_help_more(experiment: Experiment) -> None:
    means = [gains.mean() for gains in experiment.curve.values()]
    assert list(experiment.curve) == [8, 16, 31, 62]
    assert means[-1] > means[0]


def test_the_same_seed_gives_the_same_figures(experiment: Experiment, trial: Trial) -> None:
    again = run_experiment(trial, LocalEngine())
    for name, measured in experiment.methods.items():
        assert np.array_equal(measured.custom, again.methods[name].custom)
        assert np.array_equal(measured.generic, again.methods[name].generic)


class Interrupted(LocalEngine):
    """Works on two cohorts and is cut off."""

    def run(self, trial, cohorts):
        yield from super().run(trial, cohorts[:2])
        raise KeyboardInterrupt


class Counting(LocalEngine):
    """Remembers what it was to work on."""

    def run(self, trial, cohorts):
        object.__setattr__(self, "asked", list(cohorts))
        yield from super().run(trial, cohorts)


def test_what_was_cut_off_goes_on_where_it_was(
    experiment: Experiment, trial: Trial, tmp_path: Path
) -> None:
    told: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run_experiment(trial, Interrupted(), tmp_path, told.append)
    assert sum(told) == 2
    rest = Counting()
    resumed = run_experiment(trial, rest, tmp_path, told.append)
    assert rest.asked == trial.population.cohorts()[2:]
    assert told[-len(rest.asked) - 1] == 2
    assert sum(told) == 2 + len(trial.population)
    for name, measured in experiment.methods.items():
        assert np.array_equal(measured.custom, resumed.methods[name].custom)
    assert np.array_equal(experiment.outcome.changes, resumed.outcome.changes)
    assert np.array_equal(experiment.outcome.curve, resumed.outcome.curve, equal_nan=True)
    idle = Counting()
    run_experiment(trial, idle, tmp_path)
    assert not hasattr(idle, "asked")


@pytest.mark.parametrize("other", ["seed", "shots", "methods", "population"])
def test_what_another_trial_left_is_not_used(trial: Trial, other: str, tmp_path: Path) -> None:
    values = {
        "seed": 1,
        "shots": 20,
        "methods": {"ge": METHODS["ge"]},
        "population": SyntheticPopulation(6, 40, 0),
    }
    changed = replace(trial, **{other: values[other]})
    assert identity(changed) != identity(trial)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(trial, Interrupted(), tmp_path)
    engine = Counting()
    run_experiment(changed, engine, tmp_path)
    assert engine.asked == changed.population.cohorts()
    engine = Counting()
    run_experiment(trial, engine, tmp_path)
    assert len(engine.asked) == len(trial.population.cohorts()) - 2


def test_of_a_damaged_cohort_the_outcome_is_made_anew(
    experiment: Experiment, trial: Trial, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_experiment(trial, Interrupted(), tmp_path)
    damaged, _ = sorted(tmp_path.glob("*/*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:1000])
    engine = Counting()
    again = run_experiment(trial, engine, tmp_path)
    assert len(engine.asked) == len(trial.population.cohorts()) - 1
    assert np.array_equal(again.outcome.changes, experiment.outcome.changes)


def test_only_what_is_ones_own_is_forgotten(trial: Trial, tmp_path: Path) -> None:
    kept, other = tmp_path / "kept", replace(trial, seed=1)
    for each in (trial, other):
        with pytest.raises(KeyboardInterrupt):
            run_experiment(each, Interrupted(), kept)
    forget(other, kept)
    assert [place.name for place in kept.iterdir()] == [identity(trial)]
    forget(trial, kept)
    assert not kept.exists()
