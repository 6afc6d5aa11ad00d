import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.observation import Labels
from fedhw.release.manifest import FOR_DEVICES, MANIFEST, TRAINING
from fedhw.release.release import Release, sha256
from fedhw.research.simulation.population import (
    COHORT,
    RecordedPopulation,
    SyntheticPopulation,
    draw_writers,
)


@given(st.integers(1, 100_000))
def test_every_writer_is_in_one_cohort(writers: int) -> None:
    cohorts = SyntheticPopulation(writers, 20, 0).cohorts()
    assert [w for cohort in cohorts for w in cohort] == list(range(writers))
    assert all(0 < len(cohort) <= COHORT for cohort in cohorts)


def test_synthetic_writers_write_the_same_whoever_else_is_asked() -> None:
    population = SyntheticPopulation.for_shots(1000, 15, seed=4)
    two = population.write([7, 900])
    one = population.write([900])
    assert len(two) == 60
    assert np.array_equal(two.observations[30:], one.observations)
    assert two.names[1] == one.names[0]
    assert not np.array_equal(two.observations[:30], two.observations[30:])


def test_recorded_writers_write_what_they_wrote_in_their_order(unseen_writers: WriterSet) -> None:
    shuffled = unseen_writers.take(np.random.default_rng(0).permutation(len(unseen_writers)))
    population = RecordedPopulation.of(shuffled, (1, 4))
    assert len(population) == 2
    assert len(population.data) == 2 * 186
    written = population.write([1, 0])
    assert written.names == (unseen_writers.names[4], unseen_writers.names[1])
    rows = np.concatenate([unseen_writers.rows_of(4), unseen_writers.rows_of(1)])
    assert np.array_equal(written.observations, unseen_writers.observations[rows])
    assert np.array_equal(written.labels, unseen_writers.labels[rows])


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80))
def test_recorded_writers_of_a_cohort_wrote_about_as_much(counts: list[int]) -> None:
    data = WriterSet.of(
        np.zeros((sum(counts), 28, 28), np.uint8),
        np.zeros(sum(counts), np.uint8),
        writer=np.repeat(np.arange(len(counts)), counts),
        names=[str(w) for w in range(len(counts))],
        classes=Labels(("a",)),
    )
    population = RecordedPopulation.of(data, range(len(counts)))
    assert population.data.counts().tolist() == sorted(counts, reverse=True)
    cohorts = population.cohorts()
    assert [w for cohort in cohorts for w in cohort] == list(range(len(counts)))
    for cohort in cohorts:
        assert 0 < len(cohort) <= COHORT
        most, *others = population.data.counts()[cohort]
        assert all(most / 2 <= count <= most for count in others)


def test_an_identity_is_that_of_the_writers_and_their_characters(
    unseen_writers: WriterSet,
) -> None:
    whole = unseen_writers
    observations, labels, writer = (
        array.copy() for array in (whole.observations, whole.labels, whole.writer)
    )
    observations[5, 14, 14] ^= 1
    labels[5] ^= 1
    writer[185] = 1  # the last character of the first writer is the second's
    others = [
        whole,
        dataclasses.replace(whole, observations=observations),
        dataclasses.replace(whole, labels=labels),
        dataclasses.replace(whole, writer=writer),
        dataclasses.replace(whole, names=("somebody", *whole.names[1:])),
        dataclasses.replace(whole, classes=Labels(whole.classes.texts[::-1])),
    ]
    identities = {RecordedPopulation.of(data, (0, 1)).identity for data in others}
    identities.add(RecordedPopulation.of(whole, (0, 2)).identity)
    identities |= {SyntheticPopulation(2, 40, seed).identity for seed in (0, 1)}
    identities.add(SyntheticPopulation(2, 40, 0, text=True).identity)
    assert len(identities) == len(others) + 4
    assert RecordedPopulation.of(whole, (0, 1)).identity in identities


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
    assert draw_writers(seen, unseen_writers, None, "half", 0) == (5,)
    with pytest.raises(InputError, match="writers: 2 cannot be drawn from the 1"):
        draw_writers(seen, unseen_writers, 2, "half", 0)


def test_fewer_writers_are_some_of_more(release: Release, unseen_writers: WriterSet) -> None:
    three = draw_writers(release, unseen_writers, 3, "half", seed=1)
    assert set(three) < set(draw_writers(release, unseen_writers, None, "half", seed=1))


def test_a_release_that_travelled_is_no_ground_for_an_experiment(
    release: Release, unseen_writers: WriterSet, tmp_path: Path
) -> None:
    for name in (MANIFEST, *FOR_DEVICES):
        shutil.copy(release.directory / name, tmp_path)
    with pytest.raises(InputError, match="give the directory that train-expert made"):
        draw_writers(Release.load(tmp_path), unseen_writers, None, "half", 0)
