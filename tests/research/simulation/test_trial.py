import contextlib
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.release.release import Release
from fedhw.research.baselines import METHODS
from fedhw.research.simulation.population import RecordedPopulation, SyntheticPopulation
from fedhw.research.simulation.trial import Outcome, Trial

Alike = Callable[[Outcome, Outcome], None]

CHOSEN = {name: METHODS[name] for name in ("ge", "moe", "knn")}


@pytest.fixture(scope="module")
def trial(release: Release) -> Trial:
    return Trial(release, SyntheticPopulation(6, 62, 0), CHOSEN, "half", seed=0)


@pytest.fixture(scope="module")
def outcome(trial: Trial) -> Outcome:
    return trial.run(range(6))


def test_cohorts_join_to_the_outcome_of_all(trial: Trial, outcome: Outcome, alike: Alike) -> None:
    alike(Outcome.joined([trial.run(range(2)), trial.run(range(2, 5)), trial.run([5])]), outcome)


def test_an_outcome_survives_the_disk(outcome: Outcome, alike: Alike, tmp_path: Path) -> None:
    outcome.save(tmp_path / "outcome.npz")
    read = Outcome.load(tmp_path / "outcome.npz")
    alike(read, outcome)
    for name, measured in outcome.methods.items():
        assert np.array_equal(read.methods[name].array(), measured.array())


@pytest.mark.parametrize("content", [b"", b"no archive", "half"])
def test_a_damaged_outcome_is_told(outcome: Outcome, content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "outcome.npz"
    outcome.save(path)
    path.write_bytes(path.read_bytes()[:3000] if content == "half" else content)
    with pytest.raises(InputError, match=r"outcome\.npz: is not a cohort's outcome .*; delete it"):
        Outcome.load(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_flipped_bit_is_told_or_harmless(
    outcome: Outcome, tmp_path: Path, share: float, bit: int
) -> None:
    path = tmp_path / "outcome.npz"
    outcome.save(path)
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1 << bit
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        Outcome.load(path)


def test_a_trial_travels(trial: Trial, outcome: Outcome, alike: Alike) -> None:
    alike(pickle.loads(pickle.dumps(trial)).run(range(6)), outcome)


def test_fewer_shots_test_on_the_same_characters(
    release: Release, unseen_writers: WriterSet
) -> None:
    half = Trial(release, RecordedPopulation.of(unseen_writers, (0, 3)), CHOSEN, "half", seed=1)
    ten = dataclasses.replace(half, shots=10)
    one, other = half.run(range(2)), ten.run(range(2))
    assert other.learned.tolist() == [10, 10]
    assert one.learned.tolist() == one.tested.tolist() == other.tested.tolist() == [93, 93]
    assert np.array_equal(one.methods["ge"].custom, other.methods["ge"].custom)
    assert not np.isnan(one.curve[:4]).any()
    assert np.isnan(other.curve).all()


def test_without_the_mixture_there_is_nothing_of_it(trial: Trial) -> None:
    bare = dataclasses.replace(trial, methods={"ge": METHODS["ge"]}).run(range(2))
    assert not bare.openings.any()
    assert len(bare.changes) == 0
    assert np.isnan(bare.curve).all()


def test_there_is_nothing_to_measure_without_the_global_expert(trial: Trial) -> None:
    with pytest.raises(ValueError, match="there is no ge to measure against"):
        dataclasses.replace(trial, methods={"moe": METHODS["moe"]})
