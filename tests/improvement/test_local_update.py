import numpy as np
import pytest
import torch

from fedhw.data.synthetic import synthetic_writers
from fedhw.experts.training import accuracy
from fedhw.improvement.local_update import LocalTraining, flat, unflatten
from fedhw.release.release import Release

OWN = synthetic_writers([900], 124)
LABELS = OWN.labels.astype(np.int64)


def test_an_update_makes_the_expert_better_for_its_writer(release: Release) -> None:
    before = flat(release.expert)
    training = LocalTraining(epochs=5)
    update = training.update(release.expert, OWN.images, LABELS, rate=0.01, seed=0)
    better = unflatten(release.expert, before + update)
    assert accuracy(better, OWN.images, LABELS) > accuracy(release.expert, OWN.images, LABELS) + 0.1
    np.testing.assert_array_equal(flat(release.expert), before)


def test_the_same_seed_gives_the_same_update(release: Release) -> None:
    first, again, other = (
        LocalTraining().update(release.expert, OWN.images, LABELS, 0.01, seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_pause_is_offered_after_every_batch(release: Release) -> None:
    pauses = []
    LocalTraining(epochs=2, batch=50).update(
        release.expert, OWN.images, LABELS, 0.01, 0, lambda: pauses.append(1)
    )
    assert len(pauses) == 2 * 3


def test_parameters_go_there_and_back(release: Release) -> None:
    same = unflatten(release.expert, flat(release.expert))
    ink = torch.rand(3, 28, 28)
    assert torch.equal(same(ink), release.expert(ink))
    with pytest.raises(ValueError, match="3 parameters"):
        unflatten(release.expert, np.zeros(3, np.float32))
