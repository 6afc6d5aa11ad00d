"""The devices of a simulated fleet: many at once do what each does alone for its person.

What is kept, held back and rehearsed is decided by the same `Replay`, what is learned by the same
`Learner`, and whether that is put to use by the same test as on a device. Only the writer axis is
longer: devices are taken `COHORT` at a time, those that keep about as much together, since a cohort
is padded to its longest.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fedhw.data.writers import SIDE
from fedhw.experts.gate import Gate
from fedhw.experts.local_expert import LocalExpert
from fedhw.experts.mixture import Mixture
from fedhw.personalization.learner import Learner
from fedhw.personalization.method import Activations, Cohort, extract_features, pad_cohort
from fedhw.personalization.replay import HELD_BACK, PowerLaw, Replay, Sample
from fedhw.personalization.stream import (
    FIRST_LEARNING_SAMPLES,
    LEARNING_GROWTH_SHARE,
    MAX_REHEARSED_SAMPLES,
    looks_worse,
)
from fedhw.privacy.statistics import Evaluation
from fedhw.release.release import Release
from fedhw.research.simulation.population import COHORT

Bools = NDArray[np.bool_]

LEARNER = Learner()


class Version(NamedTuple):
    """A release under the number that a fleet knows it by; `restores` is that of a rollback."""

    number: int
    release: Release
    restores: int | None = None

    @property
    def name(self) -> str:
        """What the fleet calls it."""
        return f"v{self.number}"


@dataclass(eq=False)
class Device:
    """One person's device: the version that it runs, its mixture [W = 1], and what it keeps.

    `held_back` names the versions that it has refused.
    """

    name: str
    running: Version
    mixture: Mixture
    replay: Replay
    held_back: set[str] = field(default_factory=set)
    tried_at: int = 0

    @classmethod
    def new(cls, name: str, version: Version, seed: int) -> "Device":
        """Return a device that has learned nothing yet."""
        return cls(name, version, _silent(version), Replay(PowerLaw(), seed=seed))

    @property
    def is_due(self) -> bool:
        """Whether enough was kept since the last learning."""
        return self.replay.seen - self.tried_at >= max(
            FIRST_LEARNING_SAMPLES, LEARNING_GROWTH_SHARE * len(self.replay)
        )


class Written(NamedTuple):
    """What became of glyphs [N, 28, 28]: features [N, D], labels, who was right, gate above 0.5."""

    glyphs: NDArray[np.uint8]
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    ge_right: Bools
    le_right: Bools
    right: Bools
    opened: Bools


def cohorts(devices: Iterable[Device]) -> Iterator[list[Device]]:
    """Part devices into cohorts that run one version each."""
    ordered = sorted(devices, key=lambda device: (device.running.number, len(device.replay)))
    for _, same in groupby(ordered, key=lambda device: device.running.number):
        some = list(same)
        for start in range(0, len(some), COHORT):
            yield some[start : start + COHORT]


@torch.no_grad()
def recognise(
    cohort: Sequence[Device],
    images: list[NDArray[np.uint8]],
    labels: list[NDArray[np.uint8]],
) -> list[Written]:
    """Show each device of a cohort some glyphs [n, 28, 28]; changes nothing."""
    seen, target, mask = pad_cohort(_version(cohort).release.expert, images, labels)
    mixture = _joined([device.mixture for device in cohort])
    opening = mixture.opening(seen.features, seen.scores)
    residual = mixture.local.residual(seen.features)
    all_scores = seen.scores, seen.scores + residual, seen.scores + opening * residual
    rights = [(scores.argmax(-1) == target).numpy() for scores in all_scores]
    opened = (opening[..., 0] > 0.5).numpy()
    return [
        Written(
            images[row],
            seen.features[row, own].numpy(),
            target[row, own].numpy(),
            *(each[row, own.numpy()] for each in (*rights, opened)),
        )
        for row, own in enumerate(mask)
    ]


def relearn(cohort: Sequence[Device], seed: int) -> None:
    """Let a cohort learn from what it keeps: what `Personalizer.relearn` does."""
    version = _version(cohort)
    new = _learned(version, [device.replay for device in cohort], seed)
    judges = [device.replay.held_back(MAX_REHEARSED_SAMPLES // HELD_BACK) for device in cohort]
    old = [device.mixture for device in cohort]
    rights = _right(version, judges, new), _right(version, judges, old)
    for device, mixture, new_right, old_right in zip(cohort, new, *rights, strict=True):
        device.tried_at = device.replay.seen
        if not looks_worse(new_right, old_right):
            device.mixture = mixture


def adopt(cohort: Sequence[Device], version: Version, seed: int) -> None:
    """Offer a cohort another version: what `Agent.adopt` does."""
    if version.release is _version(cohort).release:
        for device in cohort:
            device.running = version
        return
    replays, mixtures = _transferred(cohort, version, seed)
    new_right = _right(version, _all_held_back(replays), mixtures)
    for device, replay, mixture, new, old in zip(
        cohort, replays, mixtures, new_right, _right_in_use(cohort), strict=True
    ):
        if version.restores is None and looks_worse(new, old):
            device.held_back.add(version.name)
        else:
            device.running, device.replay, device.mixture = version, replay, mixture
            device.tried_at = replay.seen


def evaluate(cohort: Sequence[Device], candidate: Version, seed: int) -> list[Evaluation]:
    """Count what a candidate would be to each device of a cohort; changes nothing."""
    replays, mixtures = _transferred(cohort, candidate, seed)
    parts = (
        _right(candidate, _all_held_back(replays)),
        _right(_version(cohort), _all_held_back([device.replay for device in cohort])),
        _right(candidate, _all_held_back(replays), mixtures),
        _right_in_use(cohort),
    )
    return [
        Evaluation(
            len(right),
            int(new_ge_right.sum()),
            int(ge_right.sum()),
            int(new_right.sum()),
            int(right.sum()),
        )
        for new_ge_right, ge_right, new_right, right in zip(*parts, strict=True)
    ]


def _version(cohort: Sequence[Device]) -> Version:
    return cohort[0].running


def _silent(version: Version) -> Mixture:
    return Mixture.silent(version.release.expert, LEARNER.rank)


def _transferred(
    cohort: Sequence[Device], version: Version, seed: int
) -> tuple[list[Replay], list[Mixture]]:
    """What the devices keep, by another version's features, and the mixtures learned for it.

    The expert alone where what was learned looks worse.
    """
    replays = _seen_by(version, [device.replay for device in cohort])
    judges = [replay.held_back(MAX_REHEARSED_SAMPLES // HELD_BACK) for replay in replays]
    learned = _learned(version, replays, seed)
    rights = _right(version, judges, learned), _right(version, judges)
    chosen = [
        _silent(version) if looks_worse(new, alone) else mixture
        for mixture, new, alone in zip(learned, *rights, strict=True)
    ]
    return replays, chosen


def _seen_by(version: Version, replays: Sequence[Replay]) -> list[Replay]:
    """The same samples with the features that another version has for them."""
    kept = [replay.samples() for replay in replays]
    glyphs = [sample.glyph for own in kept for sample in own]
    images = np.array(glyphs, np.uint8).reshape(1, -1, SIDE, SIDE)
    features = iter(extract_features(version.release.expert, images).features[0].numpy())
    others = []
    for replay, own in zip(replays, kept, strict=True):
        other = Replay(replay.policy, replay.capacity, replay.seed)
        for sample in own:
            other.seen = sample.position
            other.add(sample.glyph, next(features), sample.label)
        other.seen = replay.seen
        others.append(other)
    return others


def _learned(version: Version, replays: Sequence[Replay], seed: int) -> list[Mixture]:
    """Learn a mixture for each."""
    expert, sketch = version.release.expert, version.release.sketch
    cohort = _cohort(version, [replay.rehearsed(MAX_REHEARSED_SAMPLES) for replay in replays])
    local, gate = LEARNER.learn(expert, cohort, sketch, seed).mixture
    return [
        # Copies, or one device's mixture would keep the whole cohort's in memory.
        Mixture(
            LocalExpert(*(part[row : row + 1].clone() for part in local)),
            Gate(*(part[row : row + 1].clone() for part in gate)),
        )
        for row in range(len(replays))
    ]


def _all_held_back(replays: Iterable[Replay]) -> list[list[Sample]]:
    return [replay.held_back(replay.capacity) for replay in replays]


def _right_in_use(cohort: Sequence[Device]) -> list[Bools]:
    """Which of the samples held back each device recognises as it is."""
    judges = _all_held_back(device.replay for device in cohort)
    return _right(_version(cohort), judges, [device.mixture for device in cohort])


@torch.no_grad()
def _right(
    version: Version,
    samples: Sequence[Sequence[Sample]],
    mixtures: Sequence[Mixture] | None = None,
) -> list[Bools]:
    """Which of its samples each of the mixtures recognises, or the expert where there are none."""
    seen, labels, mask = _cohort(version, samples)
    scores = seen.scores
    if mixtures is not None:
        scores = _joined(mixtures).scores(seen.features, scores)
    right = scores.argmax(-1) == labels
    return [each[own].numpy() for each, own in zip(right, mask, strict=True)]


@torch.no_grad()
def _cohort(version: Version, samples: Sequence[Sequence[Sample]]) -> Cohort:
    """Pad each writer's samples to a cohort by the features that they have; images are left out."""
    head = version.release.expert.head
    counts = torch.tensor([len(own) for own in samples])
    mask = torch.arange(int(counts.max())) < counts[:, None]
    flat = [sample for own in samples for sample in own]
    found = np.array([sample.features for sample in flat], np.float32)
    features = torch.zeros(*mask.shape, head.in_features)
    features[mask] = torch.from_numpy(found.reshape(-1, head.in_features))
    labels = torch.zeros(mask.shape, dtype=torch.int64)
    labels[mask] = torch.tensor([sample.label for sample in flat], dtype=torch.int64)
    images = np.empty((*mask.shape, 0, 0), np.uint8)
    return Cohort(Activations(images, features, head(features)), labels, mask)


def _joined(mixtures: Sequence[Mixture]) -> Mixture:
    """Return mixtures of one writer each as one of all."""
    local = zip(*(mixture.local for mixture in mixtures), strict=True)
    gate = zip(*(mixture.gate for mixture in mixtures), strict=True)
    return Mixture(LocalExpert(*map(torch.cat, local)), Gate(*map(torch.cat, gate)))
