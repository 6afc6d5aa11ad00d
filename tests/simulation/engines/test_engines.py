"""One check suite for every engine: what works on the cohorts changes no outcome."""

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedhw.errors import InputError
from fedhw.personalization.baselines import METHODS
from fedhw.release.release import Release
from fedhw.simulation.engines.engine import Engine
from fedhw.simulation.engines.flower import FlowerEngine
from fedhw.simulation.engines.local import LocalEngine
from fedhw.simulation.engines.ray import RayEngine
from fedhw.simulation.population import SyntheticPopulation
from fedhw.simulation.trial import Outcome, Trial

ENGINES = [LocalEngine(1), LocalEngine(2), RayEngine(), RayEngine(actors=1), FlowerEngine()]


@pytest.fixture(scope="module")
def trial(release: Release) -> Trial:
    chosen = {name: METHODS[name] for name in ("ge", "moe")}
    return Trial(release, SyntheticPopulation(10, 40, 0), chosen, 20, seed=0)


@pytest.fixture(scope="module")
def expected(trial: Trial) -> Outcome:
    return trial.run(range(10))


def ran(engine: Engine, trial: Trial, cohorts: Sequence[range]) -> Outcome:
    found = dict(engine.run(trial, cohorts))
    assert set(found) == set(cohorts)
    return Outcome.joined([found[cohort] for cohort in cohorts])


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_an_engine_changes_no_outcome(engine: Engine, trial: Trial, expected: Outcome) -> None:
    found = ran(engine, trial, trial.population.cohorts())
    assert found.names.tolist() == expected.names.tolist()
    assert np.array_equal(found.changes, expected.changes)
    for name, measured in expected.methods.items():
        assert np.allclose(found.methods[name].array()[:4], measured.array()[:4], atol=1e-5)


@pytest.fixture
def mortal(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """The same, but the process that first works on its third writer is killed."""
    here = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", here)
    population = importlib.import_module("mortal").Mortal(10, 40, 0, tmp_path)
    return replace(trial, population=population)


def test_an_actor_that_is_killed_is_started_again(
    mortal: Trial, expected: Outcome, tmp_path: Path
) -> None:
    found = ran(RayEngine(), mortal, mortal.population.cohorts())
    assert len(list(tmp_path.iterdir())) == 1
    assert np.array_equal(found.changes, expected.changes)


def test_a_process_that_is_killed_is_told(mortal: Trial, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^engine: a process was killed.*; the same command"):
        ran(LocalEngine(2), mortal, mortal.population.cohorts())
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "ray://127.0.0.1:1"])
def test_a_cluster_that_does_not_answer_is_told(address: str) -> None:
    with pytest.raises(InputError, match=f"^address: no Ray cluster answers at {address} "):
        RayEngine(address)
