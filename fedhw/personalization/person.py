"""The state of a person and the decisions about it, on a device as in a simulation.

    a correction     ->  keep      it is kept, and counts
    enough are new   ->  relearn   learn from scratch; samples that are held back judge the result
    another release  ->  adopt     learn anew for it; the samples held back judge the release, too
    a candidate      ->  evaluate  count how it would do, and change nothing

A state is a value. Decisions are pure functions from the states of W people, who use the same
release and have the same seed, to their next states. A device has one person, a simulation
thousands; the result for each is the same as for that person alone.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fedhw.experts.evaluation import looks_worse
from fedhw.experts.global_expert import GlobalExpert
from fedhw.experts.mixture import Mixture
from fedhw.observation import Observations
from fedhw.personalization.learner import Learner
from fedhw.personalization.method import Activations, Cohort, extract_features, filled, pad
from fedhw.personalization.prequential import Prequential
from fedhw.personalization.replay import HELD_BACK, Replay, Sample
from fedhw.privacy.statistics import Evaluation
from fedhw.release.sketch import Sketch

MAX_REHEARSED_SAMPLES = 512
"""Most samples to learn from at a time."""

MAX_JUDGING_SAMPLES = MAX_REHEARSED_SAMPLES // HELD_BACK
"""Most samples that judge a mixture; a release is judged by all that are held back."""

FIRST_LEARNING_SAMPLES, LEARNING_GROWTH_SHARE = 4, 0.02
"""Learning is due after this many corrections, or this share of those kept, if that is more."""

STALE_SHARE = 0.25
"""Corrections that may arrive while a mixture is learned, as a share of all earlier ones.

A mixture that was learned from few corrections and comes later would stay in use for long.
"""

FEATURE_BATCH = 256
"""Observations whose features are extracted between two pauses."""

Bools = NDArray[np.bool_]


class Base(NamedTuple):
    """The parts of a release that learning needs: the global expert, the sketch, and the name."""

    expert: GlobalExpert
    sketch: Sketch
    release: str = ""


@dataclass(frozen=True, eq=False)
class Person:
    """One person: the corrections that are kept, with features of a release, and the mixture.

    `mixture` [W = 1] is the one in use, None where the global expert decides alone; `version`
    counts the mixtures so far. `tried_at` is the position in the stream of the last learning, and
    `has_failed` whether its numbers were not finite. The accuracies are those of the global expert
    and of the model in use.
    """

    replay: Replay = field(default_factory=Replay)
    release: str = ""
    mixture: Mixture | None = None
    version: int = 0
    tried_at: int = 0
    has_failed: bool = False
    ge_accuracy: Prequential = field(default_factory=Prequential)
    accuracy: Prequential = field(default_factory=Prequential)

    @property
    def is_due(self) -> bool:
        """Whether enough corrections were kept since the last learning."""
        fresh = self.replay.next_position - self.tried_at
        return fresh >= max(FIRST_LEARNING_SAMPLES, LEARNING_GROWTH_SHARE * len(self.replay))

    def keep(
        self, observation: Observations, features: NDArray[np.float32], label: int
    ) -> "Person":
        """Keep an observation with its features [D] and its class."""
        return replace(self, replay=self.replay.add(observation, features, label))

    def count(self, ge_is_right: bool, is_right: bool) -> "Person":
        """Count whether the guess before a correction was right."""
        return replace(
            self,
            ge_accuracy=self.ge_accuracy.after(ge_is_right),
            accuracy=self.accuracy.after(is_right),
        )

    def forget(self, positions: Collection[int]) -> "Person":
        """Drop the samples at these positions; the mixture learned from them stays in use."""
        return replace(self, replay=self.replay.remove(positions))

    def tried(self) -> "Person":
        """Record that learning begins: the next one is due after more corrections."""
        return replace(self, tried_at=self.replay.next_position)


def relearn(
    people: Sequence[Person], base: Base, learner: Learner, forced: bool = False
) -> list[Person]:
    """Learn each person's mixture from scratch, from the samples that are rehearsed.

    The new mixture is used unless it looks worse on the samples held back. If `forced`, it is used
    in any case, since the old one may have learned samples that must be forgotten; with nothing to
    rehearse there is no mixture then. A mixture whose numbers overflow counts as none.
    """
    found = _learned(people, base, learner)
    failed = [mixture is not None and not mixture.is_usable for mixture in found]
    learned = [
        None if has_failed else mixture for mixture, has_failed in zip(found, failed, strict=True)
    ]
    tried = [
        replace(person.tried(), has_failed=has_failed)
        for person, has_failed in zip(people, failed, strict=True)
    ]
    judges = [[] if forced else p.replay.held_back(MAX_JUDGING_SAMPLES) for p in people]
    rights = _right(base, judges, learned), _right(base, judges, [p.mixture for p in people])
    return [
        replace(person, mixture=mixture, version=person.version + 1)
        if forced or (mixture is not None and not looks_worse(new, old))
        else person
        for person, mixture, new, old in zip(tried, learned, *rights, strict=True)
    ]


def take_up(learned: Person, now: Person) -> Person:
    """Use what was learned from an earlier state of the same person.

    Since then only corrections have arrived. If there are too many of them, the mixture is stale
    and is not used.
    """
    now = replace(now, tried_at=learned.tried_at, has_failed=learned.has_failed)
    if now.replay.next_position > (1 + STALE_SHARE) * learned.tried_at:
        return now
    return replace(now, mixture=learned.mixture, version=learned.version)


def follow(
    people: Sequence[Person], leaders: Sequence[Person], base: Base, pause: Callable[[], None]
) -> list[Person]:
    """Copy the samples and accuracies of the leaders, with features of one's own release.

    Features are extracted for new samples only; `pause` is called a few times meanwhile.
    """
    own = [{sample.position: sample for sample in person.replay.samples} for person in people]
    fresh = [
        sample.observation
        for known, leader in zip(own, leaders, strict=True)
        for sample in leader.replay.samples
        if sample.position not in known
    ]
    features = iter(_features(base.expert, fresh, pause))
    return [
        replace(
            person,
            replay=replace(
                leader.replay,
                samples=tuple(
                    known.get(sample.position) or sample._replace(features=next(features))
                    for sample in leader.replay.samples
                ),
            ),
            ge_accuracy=leader.ge_accuracy,
            accuracy=leader.accuracy,
        )
        for person, known, leader in zip(people, own, leaders, strict=True)
    ]


def transfer(people: Sequence[Person], base: Base, learner: Learner) -> list[Person]:
    """Move to another release and learn for it, as in `relearn`.

    The global expert decides alone where the new mixture looks worse than that.
    """
    empty = [
        replace(p, replay=replace(p.replay, samples=()), release=base.release, mixture=None)
        for p in people
    ]
    learned = relearn(follow(empty, people, base, learner.pause), base, learner)
    return [
        replace(new, version=old.version + 1)
        if new.mixture is None and old.mixture is not None
        else new
        for new, old in zip(learned, people, strict=True)
    ]


def adopt(
    people: Sequence[Person], running: Base, offered: Base, learner: Learner, is_rollback: bool
) -> list[Person]:
    """Use the release that is offered; a person for whom it is worse keeps the one in use.

    All samples that are held back judge, and it is worse where learning for it fails. A rollback is
    followed in any case: the operator has a reason that no device can see. The same expert under
    another name needs no learning.
    """
    if offered.expert is running.expert:
        return [replace(person, release=offered.release) for person in people]
    moved = transfer(people, offered, learner)
    if is_rollback:
        return moved
    rights = _right_on_held_back(moved, offered), _right_on_held_back(people, running)
    return [
        old if new.has_failed or looks_worse(new_right, old_right) else new
        for new, old, new_right, old_right in zip(moved, people, *rights, strict=True)
    ]


def evaluate(
    people: Sequence[Person], running: Base, candidate: Base, learner: Learner
) -> list[Evaluation]:
    """Count how a candidate for a release would do for each person, and change nothing.

    Only the samples held back count: the others may have trained it, in rounds of this device.
    """
    moved = transfer(people, candidate, learner)
    return [
        Evaluation(len(rights[0]), *(int(right.sum()) for right in rights))
        for rights in zip(
            _right_on_held_back(moved, candidate, alone=True),
            _right_on_held_back(people, running, alone=True),
            _right_on_held_back(moved, candidate),
            _right_on_held_back(people, running),
            strict=True,
        )
    ]


def _learned(people: Sequence[Person], base: Base, learner: Learner) -> list[Mixture | None]:
    """Return a mixture for each person, None where there is nothing to rehearse."""
    samples = [person.replay.rehearsed(MAX_REHEARSED_SAMPLES) for person in people]
    if not any(samples):
        return [None] * len(people)
    [seed] = {person.replay.seed for person in people}
    learned = learner.learn(base.expert, _cohort(base, samples), base.sketch, seed)
    return [
        mixture if own else None
        for own, mixture in zip(samples, learned.mixture.split(), strict=True)
    ]


def _right_on_held_back(people: Sequence[Person], base: Base, alone: bool = False) -> list[Bools]:
    """Tell which samples held back each person's model recognises, or the global expert alone."""
    judges = [person.replay.held_back(person.replay.capacity) for person in people]
    return _right(base, judges, [None if alone else person.mixture for person in people])


@torch.no_grad()
def _right(
    base: Base, samples: Sequence[Sequence[Sample]], mixtures: Sequence[Mixture | None]
) -> list[Bools]:
    """Tell which of its samples each mixture recognises, or the global expert where it is None."""
    if not any(samples):
        return [np.zeros(0, bool) for _ in samples]
    (_, features, scores), labels, mask = _cohort(base, samples)
    given = [mixture for mixture in mixtures if mixture is not None]
    if given:
        silent = Mixture.silent(base.expert, given[0].local.u.shape[-1])
        scores = Mixture.join([mixture or silent for mixture in mixtures]).scores(features, scores)
    right = scores.argmax(-1) == labels
    return [each[own].numpy() for each, own in zip(right, mask, strict=True)]


@torch.no_grad()
def _cohort(base: Base, samples: Sequence[Sequence[Sample]]) -> Cohort:
    """Pad the samples of all people to one cohort, by their features and without observations."""
    flat = [sample for own in samples for sample in own]
    mask = filled([len(own) for own in samples])
    features = pad(torch.from_numpy(np.stack([sample.features for sample in flat])), mask)
    labels = pad(torch.tensor([sample.label for sample in flat]), mask)
    nothing = np.empty((*mask.shape, 0), np.uint8)
    return Cohort(Activations(nothing, features, base.expert.head(features)), labels, mask)


def _features(
    expert: GlobalExpert, observations: Sequence[Observations], pause: Callable[[], None]
) -> list[NDArray[np.float32]]:
    """Return the features [D] of each observation."""
    found: list[NDArray[np.float32]] = []
    for start in range(0, len(observations), FEATURE_BATCH):
        some = np.stack(observations[start : start + FEATURE_BATCH])[None]
        found += list(extract_features(expert, some).features[0].numpy())
        pause()
    return found
