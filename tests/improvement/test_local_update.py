from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fedhw.experts.evaluation import accuracy
from fedhw.experts.global_expert import build
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.improvement.local_update import Lesson, LocalTraining, flat, unflatten
from fedhw.release.release import Release

OWN = synthetic_writers([900], 124)
LABELS = OWN.labels


def test_an_update_makes_the_expert_better_for_its_writer(release: Release) -> None:
    before = flat(release.expert)
    training = LocalTraining(epochs=5)
    update = training.update(release.expert, OWN.observations, LABELS, rate=0.01, seed=0)
    better = unflatten(release.expert, before + update)
    assert (
        accuracy(better, OWN.observations, LABELS)
        > accuracy(release.expert, OWN.observations, LABELS) + 0.1
    )
    np.testing.assert_array_equal(flat(release.expert), before)


def test_the_same_seed_gives_the_same_update(release: Release) -> None:
    first, again, other = (
        LocalTraining().update(release.expert, OWN.observations, LABELS, 0.01, seed)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_pause_is_offered_after_every_batch(release: Release) -> None:
    pauses = []
    LocalTraining(epochs=2, batch=50).update(
        release.expert, OWN.observations, LABELS, 0.01, 0, lambda: pauses.append(1)
    )
    assert len(pauses) == 2 * 3


def test_an_update_is_that_of_torchs_own_gradient_descent(release: Release) -> None:
    expert, ink, labels = (
        release.expert,
        release.expert.scale(OWN.observations),
        torch.from_numpy(LABELS),
    )
    update = LocalTraining(distortion=0.0).update(expert, OWN.observations, LABELS, 0.05, seed=3)
    student = unflatten(expert, flat(expert))
    optimiser = torch.optim.SGD(student.parameters(), 0.05, 0.9)
    order = torch.randperm(len(ink), generator=torch.Generator().manual_seed(3))
    for rows in order.tensor_split(4):  # of 31, the most that are not above 32
        optimiser.zero_grad()
        F.cross_entropy(student(ink[rows]), labels[rows]).backward()
        optimiser.step()
    expected = flat(student) - flat(expert)
    np.testing.assert_allclose(update, expected, atol=1e-4 * np.abs(expected).max())


@settings(max_examples=10, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), max_size=12),
    epochs=st.integers(1, 2),
    distortion=st.sampled_from([0.0, 1.0]),
)
def test_devices_learn_together_what_each_learns_alone(
    sizes: list[int], epochs: int, distortion: float
) -> None:
    expert = build("lenet5", 62)
    training = LocalTraining(epochs, batch=16, distortion=distortion)
    lessons = [
        Lesson(OWN.observations[i : i + n], LABELS[i : i + n], i) for i, n in enumerate(sizes)
    ]
    together = list(training.updates(expert, lessons, rate=0.01))
    assert len(together) == len(lessons)
    for update, (images, labels, seed) in zip(together, lessons, strict=True):
        alone = training.update(expert, images, labels, 0.01, seed)
        np.testing.assert_allclose(update, alone, atol=1e-4 * np.abs(alone).max())


def test_learning_together_leaves_torch_its_threads(release: Release) -> None:
    def of_a_new_thread() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    before = torch.get_num_threads(), of_a_new_thread()
    next(LocalTraining().updates(release.expert, 6 * [Lesson(OWN.observations, LABELS, 0)], 0.01))
    assert (torch.get_num_threads(), of_a_new_thread()) == before


def test_parameters_go_there_and_back(release: Release) -> None:
    same = unflatten(release.expert, flat(release.expert))
    ink = torch.rand(3, 28, 28)
    assert torch.equal(same(ink), release.expert(ink))
    with pytest.raises(ValueError, match="3 parameters"):
        unflatten(release.expert, np.zeros(3, np.float32))
