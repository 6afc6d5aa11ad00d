import copy
import dataclasses
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch

from fedhw.data.writers import WriterSet
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.personalization.stream import Personalizer
from fedhw.release.release import Release
from fedhw.research.simulation.simulated_devices import (
    COHORT,
    Device,
    Version,
    Written,
    adopt,
    cohorts,
    evaluate,
    recognise,
    relearn,
)


@cache
def written() -> WriterSet:
    return synthetic_writers(range(700, 703), 186)


@pytest.fixture
def version(release: Release) -> Version:
    return Version(1, release)


@pytest.fixture
def worse(release: Release) -> Version:
    """A version whose expert is blind."""
    expert = copy.deepcopy(release.expert)
    with torch.no_grad():
        for part in expert.parameters():
            part.zero_()
    return Version(2, dataclasses.replace(release, expert=expert))


def write(devices: Sequence[Device], written: WriterSet, first: int, last: int) -> list[Written]:
    """Let each device's writer write some of their characters, and correct or confirm all."""
    rows = [written.rows_of(w)[first:last] for w in range(len(devices))]
    images = [written.observations[own] for own in rows]
    labels = [written.labels[own] for own in rows]
    tested = recognise(devices, images, labels)
    for device, own in zip(devices, tested, strict=True):
        for observation, features, label in zip(*own[:3], strict=True):
            device.person = device.person.keep(observation, features, int(label))
    return tested


@pytest.fixture
def devices(version: Version) -> list[Device]:
    """Three that have learned 160 characters of their own."""
    some = [Device.new(name, version, seed=0) for name in written().names]
    write(some, written(), 0, 160)
    relearn(some)
    return some


def test_a_device_does_what_a_personalizer_does(release: Release, version: Version) -> None:
    """Alone and among others, from the first character on."""
    some = [Device.new(name, version, seed=0) for name in written().names]
    people = [Personalizer(release.expert, release.sketch, release.labels) for _ in written().names]
    for first in range(0, 62, 20):
        tested = write(some, written(), first, first + 20)
        for w, (person, own) in enumerate(zip(people, tested, strict=True)):
            for row, right, ge_right, opened in zip(
                written().rows_of(w)[first:], own.right, own.ge_right, own.opened, strict=False
            ):
                label = release.labels[written().labels[row]]
                guess = person.store(written().observations[row], label)
                assert (guess.label == label) == right
                assert (guess.ge_label == label) == ge_right
                assert (guess.opening > 0.5) == opened
        assert [device.person.is_due for device in some] == [person.due for person in people]
        for cohort in cohorts(device for device in some if device.person.is_due):
            relearn(cohort)
        for person in people:
            if person.due:
                person.relearn()
    for device, person in zip(some, people, strict=True):
        mixture, its = device.person.mixture, person.person.mixture
        assert mixture is not None
        assert its is not None
        for mine, theirs in zip(mixture.local, its.local, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-3)


def test_recognising_changes_nothing(devices: list[Device]) -> None:
    before = copy.deepcopy([device.person for device in devices])
    rows = [written().rows_of(w) for w in range(3)]
    images, labels = ([of[r] for r in rows] for of in (written().observations, written().labels))
    recognise(devices, images, labels)
    for person, device in zip(before, devices, strict=True):
        assert person.mixture is not None
        assert device.person.mixture is not None
        assert torch.equal(person.mixture.local.u, device.person.mixture.local.u)
        assert len(person.replay) == len(device.person.replay)


def test_cohorts_run_one_version_each_and_are_bounded(version: Version, worse: Version) -> None:
    some = [Device.new(str(i), (version, worse)[i % 3 == 0], seed=0) for i in range(4 * COHORT)]
    parts = list(cohorts(some))
    assert sorted(device.name for part in parts for device in part) == sorted(
        device.name for device in some
    )
    assert all(len({device.running.number for device in part}) == 1 for part in parts)
    assert max(map(len, parts)) == COHORT


def test_a_version_that_is_worse_is_held_back(devices: list[Device], worse: Version) -> None:
    people = [device.person for device in devices]
    adopt(devices, worse)
    assert [device.running.name for device in devices] == ["v1"] * 3
    assert [device.held_back for device in devices] == [{"v2"}] * 3
    assert all(device.person is old for device, old in zip(devices, people, strict=True))


def test_a_rollback_is_followed(devices: list[Device], worse: Version) -> None:
    adopt(devices, worse._replace(restores=1))
    assert [device.running.name for device in devices] == ["v2"] * 3


def test_the_same_files_under_another_number_keep_the_mixture(
    devices: list[Device], version: Version
) -> None:
    people = [device.person for device in devices]
    adopt(devices, Version(5, version.release, restores=1))
    assert [device.running.number for device in devices] == [5] * 3
    for device, before in zip(devices, people, strict=True):
        assert device.person.mixture is before.mixture


def test_what_is_kept_moves_to_the_features_of_a_new_version(
    devices: list[Device], release: Release
) -> None:
    expert = copy.deepcopy(release.expert)
    turned = torch.randperm(84, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # the same expert, its features in another order
        last = [part for part in expert.modules() if isinstance(part, torch.nn.Linear)][-2]
        last.weight.copy_(last.weight[turned])
        last.bias.copy_(last.bias[turned])
        expert.head.weight.copy_(expert.head.weight[:, turned])
    sketch = type(release.sketch)(release.sketch.steps[:, turned], release.sketch.scale[turned])
    other = Version(2, dataclasses.replace(release, expert=expert, sketch=sketch))
    kept = [device.person.replay.samples for device in devices]
    adopt(devices, other)
    for device, before in zip(devices, kept, strict=True):
        assert device.running is other
        after = device.person.replay.samples
        assert [s[2:] for s in after] == [s[2:] for s in before]
        for new, old in zip(after, before, strict=True):
            assert np.allclose(new.features, old.features[turned], atol=1e-4)


def test_an_evaluation_counts_both_and_changes_nothing(
    devices: list[Device], version: Version, worse: Version
) -> None:
    for same, bad in zip(evaluate(devices, version), evaluate(devices, worse), strict=True):
        assert same.held_back == bad.held_back == 20
        assert same.candidate_ge_right == same.ge_right == bad.ge_right > bad.candidate_ge_right
        assert same.right == bad.right
    assert [device.running.name for device in devices] == ["v1"] * 3
    assert not any(device.held_back for device in devices)


def test_a_device_that_keeps_nothing_takes_and_judges_what_comes(
    version: Version, worse: Version
) -> None:
    new = [Device.new("new", version, seed=0)]
    [found] = evaluate(new, worse)
    assert dataclasses.astuple(found) == (0,) * 5
    adopt(new, worse)
    assert new[0].running is worse
