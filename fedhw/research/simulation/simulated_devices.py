"""The devices of a simulated fleet, computed many at a time.

`fedhw.personalization.person` decides for each person, as on a device. Only the writer axis is
longer: devices are taken `COHORT` at a time. A cohort is padded to its longest, so devices that
keep about as many samples are taken together.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fedhw.experts.mixture import Mixture
from fedhw.observation import Observations
from fedhw.personalization import person
from fedhw.personalization.learner import Learner
from fedhw.personalization.method import pad_cohort
from fedhw.personalization.person import Base, Person
from fedhw.personalization.replay import Replay
from fedhw.privacy.statistics import Evaluation
from fedhw.release.release import Release
from fedhw.research.simulation.population import COHORT

Bools = NDArray[np.bool_]

LEARNER = Learner()


class Version(NamedTuple):
    """A release and its number in a fleet; a rollback `restores` the version of that number."""

    number: int
    release: Release
    restores: int | None = None

    @property
    def name(self) -> str:
        """Its name in the fleet."""
        return f"v{self.number}"

    @property
    def base(self) -> Base:
        """What personalisation starts from."""
        return Base(self.release.expert, self.release.sketch, self.name)


@dataclass(eq=False)
class Device:
    """One person's device: the version that it runs, and the person's state.

    `held_back` has the names of versions that it has refused.
    """

    name: str
    running: Version
    person: Person
    held_back: set[str] = field(default_factory=set)

    @classmethod
    def new(cls, name: str, version: Version, seed: int) -> "Device":
        """Return a device that has learned nothing yet."""
        return cls(name, version, Person(Replay(seed=seed), version.name))


class Written(NamedTuple):
    """Recognised observations [N, *shape], their features [N, D] and labels [N].

    The others are bool [N]: whether the global expert, the local expert and the mixture were right,
    and whether the gate was open by more than 0.5.
    """

    observations: Observations
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    ge_right: Bools
    le_right: Bools
    right: Bools
    opened: Bools


def cohorts(devices: Iterable[Device]) -> Iterator[list[Device]]:
    """Split devices into cohorts, each of which runs one version."""
    ordered = sorted(devices, key=lambda device: (device.running.number, len(device.person.replay)))
    for _, same in groupby(ordered, key=lambda device: device.running.number):
        some = list(same)
        for start in range(0, len(some), COHORT):
            yield some[start : start + COHORT]


@torch.no_grad()
def recognise(
    cohort: Sequence[Device],
    observations: list[Observations],
    labels: list[NDArray[np.int64]],
) -> list[Written]:
    """Recognise observations [n, *shape] on each device of a cohort; changes nothing."""
    expert = _base(cohort).expert
    (_, features, scores), target, mask = pad_cohort(expert, observations, labels)
    silent = Mixture.silent(expert, LEARNER.rank)
    mixture = Mixture.join([device.person.mixture or silent for device in cohort])
    opening = mixture.opening(features, scores)
    residual = mixture.local.residual(features)
    all_scores = scores, scores + residual, scores + opening * residual
    rights = [(each.argmax(-1) == target).numpy() for each in all_scores]
    opened = (opening[..., 0] > 0.5).numpy()
    return [
        Written(
            observations[row],
            features[row, own].numpy(),
            target[row, own].numpy(),
            *(each[row, own.numpy()] for each in (*rights, opened)),
        )
        for row, own in enumerate(mask)
    ]


def relearn(cohort: Sequence[Device]) -> None:
    """Let each device of a cohort learn from the samples that it keeps."""
    _put_to_use(cohort, person.relearn(_people(cohort), _base(cohort), LEARNER))


def adopt(cohort: Sequence[Device], version: Version) -> None:
    """Offer another version to a cohort."""
    is_rollback = version.restores is not None
    moved = person.adopt(_people(cohort), _base(cohort), version.base, LEARNER, is_rollback)
    _put_to_use(cohort, moved)
    for device in cohort:
        if device.person.release == version.name:
            device.running = version
        else:
            device.held_back.add(version.name)


def evaluate(cohort: Sequence[Device], candidate: Version) -> list[Evaluation]:
    """Evaluate a candidate on each device of a cohort; changes nothing."""
    return person.evaluate(_people(cohort), _base(cohort), candidate.base, LEARNER)


def _base(cohort: Sequence[Device]) -> Base:
    return cohort[0].running.base


def _people(cohort: Sequence[Device]) -> list[Person]:
    return [device.person for device in cohort]


def _put_to_use(cohort: Sequence[Device], people: Sequence[Person]) -> None:
    for device, known in zip(cohort, people, strict=True):
        device.person = known
