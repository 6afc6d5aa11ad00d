import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.personalization.baselines import METHODS
from fedhw.release.manifest import FOR_DEVICES, MANIFEST, TRAINING
from fedhw.release.release import Release, sha256
from fedhw.simulation.experiment import Experiment, draw_writers, run_experiment

CHOSEN = {name: METHODS[name] for name in ("ge", "moe", "prior")}


@pytest.fixture(scope="module")
def experiment(release: Release, unseen_writers: WriterSet) -> Experiment:
    splits = draw_writers(release, unseen_writers, None, "half", seed=0)
    return run_experiment(release, unseen_writers, splits, CHOSEN, "half", seed=0)


def test_accuracies_are_those_of_the_guesses(experiment: Experiment) -> None:
    for measured in experiment.methods.values():
        for split, guesses, custom in zip(
            experiment.splits, measured.guesses, measured.custom, strict=True
        ):
            assert custom == pytest.approx(np.mean(experiment.data.labels[split.test] == guesses))


def test_the_global_expert_costs_and_gains_nothing(experiment: Experiment) -> None:
    ge = experiment.methods["ge"]
    assert (ge.parameter_overhead, ge.mac_overhead) == (0, 0)
    assert ge.generic == pytest.approx(
        experiment.release.manifest.validation["generic_accuracy"], abs=1e-6
    )
    assert not experiment.gain("ge").any()


def test_the_mixture_helps_its_writers_within_the_budget(experiment: Experiment) -> None:
    moe = experiment.methods["moe"]
    assert experiment.gain("moe").mean() > 0.05
    assert 0.02 < moe.parameter_overhead <= 0.025
    assert 0 < moe.mac_overhead <= 0.025
    assert experiment.openings is not None
    assert experiment.openings.own.mean() > experiment.openings.generic.mean()


def test_more_samples_help_more(experiment: Experiment) -> None:
    means = [gains.mean() for gains in experiment.curve.values()]
    assert list(experiment.curve) == [8, 16, 31, 62]
    assert means[-1] > means[0]


def test_the_same_seed_gives_the_same_figures(
    experiment: Experiment, release: Release, unseen_writers: WriterSet
) -> None:
    splits = draw_writers(release, unseen_writers, None, "half", seed=0)
    again = run_experiment(release, unseen_writers, splits, CHOSEN, "half", seed=0)
    for name, measured in experiment.methods.items():
        assert np.array_equal(measured.custom, again.methods[name].custom)
        assert np.array_equal(measured.generic, again.methods[name].generic)


def test_fewer_shots_test_on_the_same_characters(
    release: Release, unseen_writers: WriterSet
) -> None:
    half = draw_writers(release, unseen_writers, 3, "half", seed=1)
    ten = draw_writers(release, unseen_writers, 3, 10, seed=1)
    assert [s.name for s in half] == [s.name for s in ten]
    assert all(np.array_equal(a.test, b.test) for a, b in zip(half, ten, strict=True))
    assert all(not set(s.learn) & set(s.test) for s in half)


def test_writers_trained_on_are_never_drawn(
    release: Release, unseen_writers: WriterSet, tmp_path: Path
) -> None:
    copy = tmp_path / "release"
    shutil.copytree(release.directory, copy)
    names = json.dumps({"trained_on": unseen_writers.names[:5]}).encode()
    (copy / TRAINING).write_bytes(names)
    files = release.manifest.files | {TRAINING: sha256(names)}
    manifest = dataclasses.replace(release.manifest, files=files)
    (copy / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    seen = Release.load(copy)
    assert [s.name for s in draw_writers(seen, unseen_writers, None, "half", 0)] == [
        unseen_writers.names[5]
    ]
    with pytest.raises(InputError, match="writers: 2 cannot be drawn from the 1"):
        draw_writers(seen, unseen_writers, 2, "half", 0)


def test_a_release_that_travelled_is_no_ground_for_an_experiment(
    release: Release, unseen_writers: WriterSet, tmp_path: Path
) -> None:
    for name in (MANIFEST, *FOR_DEVICES):
        shutil.copy(release.directory / name, tmp_path)
    with pytest.raises(InputError, match="give the directory that train-expert made"):
        draw_writers(Release.load(tmp_path), unseen_writers, None, "half", 0)
