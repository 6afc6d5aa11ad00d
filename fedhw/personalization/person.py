"""What is known of a person, and what is decided for them, on a device as in a simulation.

    a correction     ->  keep      it is kept, and counts
    enough are new   ->  relearn   learn from scratch; what is held back judges
    another release  ->  adopt     learn anew for it; what is held back judges the release, too
    a candidate      ->  evaluate  count how it would do, and change nothing

A state is a value, and what decides is a pure function from the states of W people, who use the
same release and have the same seed, to their next ones. A device has one person, a simulation
thousands; each comes out as they would alone.
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
from fedhw.personalization.method import Activations, Cohort, extract_features
from fedhw.personalization.prequential import Prequential
from fedhw.personalization.replay import HELD_BACK, Replay, Sample
from fedhw.privacy.statistics import Evaluation
from fedhw.release.sketch import Sketch

MAX_REHEARSED_SAMPLES = 512
"""Most samples to learn from at a time."""

MAX_JUDGING_SAMPLES = MAX_REHEARSED_SAMPLES // HELD_BACK
"""Most samples that judge what was learned; a release is judged by all that are held back."""

FIRST_LEARNING_SAMPLES, LEARNING_GROWTH_SHARE = 4, 0.02
"""Learning is due after that many corrections, or that share of those kept, if it is more."""

STALE_SHARE = 0.25
"""Corrections that may come during a learning, as a share of all there were before.

One that was learned from a handful and comes late would be in use for many times as many.
"""

FEATURE_BATCH = 256
"""Observations of which features are extracted between two pauses."""

Bools = NDArray[np.bool_]


class Base(NamedTuple):
    """What a release gives everybody alike: its global expert, its sketch, and its name."""

    expert: GlobalExpert
    sketch: Sketch
    release: str = ""


@dataclass(frozen=True, eq=False)
class Person:
    """One person: what is kept of them, by the features of a release, and what was learned of it.

    `mixture` [W = 1] is the one in use, None where the global expert decides alone, and `version`
    counts how many there were. `tried_at` is where in the stream was learned last. The accuracies
    are those of the global expert and of what was in use.
    """

    replay: Replay = field(default_factory=Replay)
    release: str = ""
    mixture: Mixture | None = None
    version: int = 0
    tried_at: int = 0
    ge_accuracy: Prequential = field(default_factory=Prequential)
    accuracy: Prequential = field(default_factory=Prequential)

    @property
    def is_due(self) -> bool:
        """Whether enough was kept since the last learning."""
        fresh = self.replay.next_position - self.tried_at
        return fresh >= max(FIRST_LEARNING_SAMPLES, LEARNING_GROWTH_SHARE * len(self.replay))

    def keep(
        self, observation: Observations, features: NDArray[np.float32], label: int
    ) -> "Person":
        """Keep an observation with its features [D] and its class."""
        return replace(self, replay=self.replay.add(observation, features, label))

    def count(self, ge_is_right: bool, is_right: bool) -> "Person":
        """Count how the guess before a correction went."""
        return replace(
            self,
            ge_accuracy=self.ge_accuracy.after(ge_is_right),
            accuracy=self.accuracy.after(is_right),
        )

    def forget(self, positions: Collection[int]) -> "Person":
        """Keep these places in the stream no longer; what was learned of them is still in use."""
        return replace(self, replay=self.replay.remove(positions))

    def tried(self) -> "Person":
        """Note that a learning begins: the next one is due after more corrections."""
        return replace(self, tried_at=self.replay.next_position)


def relearn(
    people: Sequence[Person], base: Base, learner: Learner, forced: bool = False
) -> list[Person]:
    """Learn everybody's mixture from scratch, from what is rehearsed.

    It is in use afterwards unless what is held back tells against it; when `forced`, always, since
    the old one may have learned what is to be forgotten, and where nothing is rehearsed there is
    none.
    """
    learned = _learned(people, base, learner)
    judges = [[] if forced else p.replay.held_back(MAX_JUDGING_SAMPLES) for p in people]
    rights = _right(base, judges, learned), _right(base, judges, [p.mixture for p in people])
    return [
        replace(person.tried(), mixture=mixture, version=person.version + 1)
        if forced or (mixture is not None and not looks_worse(new, old))
        else person.tried()
        for person, mixture, new, old in zip(people, learned, *rights, strict=True)
    ]


def take_up(learned: Person, now: Person) -> Person:
    """Put to use what was learned of an earlier state of the same person.

    Nothing but corrections has come since. Were those too many, it is stale and not put to use.
    """
    if now.replay.next_position > (1 + STALE_SHARE) * learned.tried_at:
        return replace(now, tried_at=learned.tried_at)
    return replace(now, tried_at=learned.tried_at, mixture=learned.mixture, version=learned.version)


def follow(
    people: Sequence[Person], leaders: Sequence[Person], base: Base, pause: Callable[[], None]
) -> list[Person]:
    """Keep what others keep, by the features of one's own release, and count as they count.

    Features are extracted of what is new alone; `pause` is called a few times meanwhile.
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
    """Learn anew for another release what was learned, as in `relearn`.

    The global expert decides alone where that looks worse.
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
    """Use the release that is offered, unless it is worse for a person, who stays as they are.

    All that is held back judges. A rollback is followed in any case: the operator goes back for a
    reason that no device can see. The same expert under another name is nothing to learn for.
    """
    if offered.expert is running.expert:
        return [replace(person, release=offered.release) for person in people]
    moved = transfer(people, offered, learner)
    if is_rollback:
        return moved
    rights = _right_on_held_back(moved, offered), _right_on_held_back(people, running)
    return [
        old if looks_worse(new_right, old_right) else new
        for new, old, new_right, old_right in zip(moved, people, *rights, strict=True)
    ]


def evaluate(
    people: Sequence[Person], running: Base, candidate: Base, learner: Learner
) -> list[Evaluation]:
    """Count how a candidate for a release would do for each, and change nothing.

    On what is not held back it may have been trained, in rounds that the device was in.
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
    """A mixture for each, None where nothing is rehearsed."""
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
    """Which of all that is held back each recognises, or the global expert alone."""
    judges = [person.replay.held_back(person.replay.capacity) for person in people]
    return _right(base, judges, [None if alone else person.mixture for person in people])


@torch.no_grad()
def _right(
    base: Base, samples: Sequence[Sequence[Sample]], mixtures: Sequence[Mixture | None]
) -> list[Bools]:
    """Which of its samples each mixture recognises, or the global expert where there is none."""
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
    """Pad everybody's samples to one cohort by the features that they have alone."""
    head = base.expert.head
    counts = torch.tensor([len(own) for own in samples])
    mask = torch.arange(int(counts.max())) < counts[:, None]
    flat = [sample for own in samples for sample in own]
    found = np.array([sample.features for sample in flat], np.float32)
    features = torch.zeros(*mask.shape, head.in_features)
    features[mask] = torch.from_numpy(found.reshape(-1, head.in_features))
    labels = torch.zeros(mask.shape, dtype=torch.int64)
    labels[mask] = torch.tensor([sample.label for sample in flat], dtype=torch.int64)
    nothing = np.empty((*mask.shape, 0), np.uint8)
    return Cohort(Activations(nothing, features, head(features)), labels, mask)


def _features(
    expert: GlobalExpert, observations: Sequence[Observations], pause: Callable[[], None]
) -> list[NDArray[np.float32]]:
    """The features [D] of each observation."""
    found: list[NDArray[np.float32]] = []
    for start in range(0, len(observations), FEATURE_BATCH):
        some = np.stack(observations[start : start + FEATURE_BATCH])[None]
        found += list(extract_features(expert, some).features[0].numpy())
        pause()
    return found
