"""One person, one character at a time: recognise, be corrected, learn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import eq, itemgetter
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fedhw.data.writers import SIDE
from fedhw.errors import InputError
from fedhw.experts.global_expert import GlobalExpert
from fedhw.experts.one_sample import OneMixture, compile_for_one_sample, softmax
from fedhw.handwriting.alphabet import BYCLASS
from fedhw.personalization.learner import Learner, PersonalMixture
from fedhw.personalization.method import Activations, Cohort
from fedhw.personalization.replay import HELD_BACK, Policy, PowerLaw, Replay, Sample
from fedhw.release.sketch import Sketch

MAX_REHEARSED_SAMPLES = 512
"""Most samples to learn from at a time."""

FIRST_LEARNING_SAMPLES, LEARNING_GROWTH_SHARE = 4, 0.02
"""Learning is due after that many corrections, or that share of those kept, if it is more."""

STALE_SHARE = 0.25
"""Corrections that may come during a learning, as a share of all there were before.

One that was learned from a handful and comes late would be in use for many times as many.
"""

DOUBT_STANDARD_DEVIATIONS = 1.0
"""Standard deviations by which a new mixture may look worse than the old one and replace it."""

FADING = 0.99
"""What one more correction leaves of the weight of all earlier ones in the recent accuracy."""


class Recognition(NamedTuple):
    """What a glyph was taken for, how surely, and who said so.

    `probability` is that of `label`, `probabilities` [C] those of the whole alphabet; `ge_label`
    and `le_label` are what each expert says by itself, the local one nothing before anything was
    learned. The local expert decides where the gate's `opening` is above 0.5 or where it changes
    what the global expert says. `personal_version` counts the mixtures, 0 before the first;
    `release` names the release whose global expert it was.
    """

    label: str
    probability: float
    probabilities: tuple[float, ...]
    ge_label: str
    ge_probability: float
    le_label: str | None
    le_probability: float | None
    opening: float
    decided_by: Literal["global", "local"]
    personal_version: int
    release: str

    def likeliest(self, alphabet: str, n: int) -> list[tuple[str, float]]:
        """Return at most n characters of the alphabet with their probabilities, best first."""
        ranked = sorted(zip(self.probabilities, alphabet, strict=True), key=_first, reverse=True)
        return [(label, probability) for probability, label in ranked[:n]]


_first = itemgetter(0)


@dataclass
class Prequential:
    """Accuracy of guesses made before the answer was learned, over all and with fading memory.

    The fading is that of Gama, Sebastiao, Rodrigues 2013, On evaluating stream learning
    algorithms, Machine Learning 90:317; both figures are NaN before the first guess.

    >>> accuracy = Prequential()
    >>> for right in (False, True, True):
    ...     accuracy.update(right)
    >>> accuracy.total.__round__(3), accuracy.recent.__round__(3)
    (0.667, 0.67)
    """

    guesses: int = 0
    right: int = 0
    faded_guesses: float = 0.0
    faded_right: float = 0.0

    def update(self, right: bool) -> None:
        """Count one more guess."""
        self.guesses += 1
        self.right += right
        self.faded_guesses = FADING * self.faded_guesses + 1
        self.faded_right = FADING * self.faded_right + right

    @property
    def total(self) -> float:
        """The share of all guesses that were right."""
        return self.right / self.guesses if self.guesses else math.nan

    @property
    def recent(self) -> float:
        """The share of about the last hundred guesses that were right."""
        return self.faded_right / self.faded_guesses if self.guesses else math.nan


@dataclass(eq=False, repr=False)
class Personalizer:
    """Recognises one person's characters and learns from each correction.

    Memory is bounded by `capacity` samples; everything random follows from `seed`. What a device
    needs to learn in the background is `keep` where answers are given and, whenever it is `due`,
    `relearn` in another thread: the new mixture replaces the old one in one step. `release` is the
    name of the release that the expert and the sketch are from, if any.

    >>> from fedhw.experts.global_expert import build
    >>> _ = torch.manual_seed(0)
    >>> person = Personalizer(build("lenet5", 62), Sketch.of(torch.rand(100, 84)))
    >>> glyph = np.eye(28, dtype=np.uint8) * 255
    >>> person.predict_one(glyph).decided_by
    'global'
    >>> for _ in range(4):
    ...     person = person.learn_one(glyph, "x")
    >>> person.predict_one(glyph).label
    'x'
    >>> person.accuracy.total
    0.0
    """

    expert: GlobalExpert
    sketch: Sketch
    alphabet: str = BYCLASS
    learner: Learner = field(default_factory=Learner)
    policy: Policy = field(default_factory=PowerLaw)
    capacity: int = 2000
    seed: int = 0
    release: str = ""
    ge_accuracy: Prequential = field(default_factory=Prequential, init=False)
    accuracy: Prequential = field(default_factory=Prequential, init=False)

    def __post_init__(self) -> None:
        classes = self.expert.head.out_features
        if len(self.alphabet) != classes:
            raise InputError(
                f"alphabet: {len(self.alphabet)} characters do not fit the {classes} classes of "
                "the expert; give the alphabet that it was trained on"
            )
        self.replay = Replay(self.policy, self.capacity, self.seed)
        self._look = compile_for_one_sample(self.expert)
        self._deciding = _Deciding(None, None, 0)
        self._tried_at = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the expert's other form, which is made of functions."""
        return {name: value for name, value in vars(self).items() if name != "_look"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _look=compile_for_one_sample(state["expert"]))

    @property
    def personal(self) -> PersonalMixture | None:
        """The mixture in use, None before anything was learned."""
        return self._deciding.personal

    @property
    def version(self) -> int:
        """How many mixtures there have been."""
        return self._deciding.version

    def adopt(self, personal: PersonalMixture | None, version: int) -> None:
        """Put a mixture to use, or the global expert alone, in one step."""
        one = None if personal is None else OneMixture.of(personal.mixture)
        self._deciding = _Deciding(personal, one, version)

    def predict_one(self, glyph: NDArray[np.uint8]) -> Recognition:
        """Recognise a glyph [28, 28], ink 255 on paper 0; changes nothing."""
        _check(glyph)
        features, scores = self._look(glyph)
        _, mixture, version = self._deciding
        ge = le = softmax(scores)
        ge_best = le_best = best = int(ge.argmax())
        probabilities, opening = ge, 0.0
        if mixture is not None:
            residual = mixture.residual(features)
            opening = mixture.opening(features, scores)
            le = softmax(scores + residual)
            probabilities = softmax(scores + np.float32(opening) * residual)
            le_best, best = int(le.argmax()), int(probabilities.argmax())
        return Recognition(
            label=self.alphabet[best],
            probability=float(probabilities[best]),
            probabilities=tuple(probabilities.tolist()),
            ge_label=self.alphabet[ge_best],
            ge_probability=float(ge[ge_best]),
            le_label=None if mixture is None else self.alphabet[le_best],
            le_probability=None if mixture is None else float(le[le_best]),
            opening=opening,
            decided_by="local" if opening > 0.5 or best != ge_best else "global",
            personal_version=version,
            release=self.release,
        )

    def learn_one(self, glyph: NDArray[np.uint8], label: str) -> "Personalizer":
        """Test on a glyph [28, 28], store it with its character, and learn if it is due."""
        self.store(glyph, label)
        if self.due:
            self.relearn()
        return self

    def store(self, glyph: NDArray[np.uint8], label: str) -> Recognition:
        """Test on a glyph [28, 28] and keep it; returns what it was taken for before.

        Raises InputError for a glyph that is none or a label outside the alphabet.
        """
        self.check_label(label)
        guess = self.predict_one(glyph)
        self.ge_accuracy.update(guess.ge_label == label)
        self.accuracy.update(guess.label == label)
        self.keep(glyph, label)
        return guess

    def keep(self, glyph: NDArray[np.uint8], label: str) -> Sample | None:
        """Keep a glyph [28, 28] without a test; returns the sample that had to make room."""
        self.check_label(label)
        features, _ = self._look(glyph)
        return self.replay.add(glyph, features, self.alphabet.index(label))

    def follow(self, other: "Personalizer") -> None:
        """Keep what the other one keeps, by this one's features, and count as it counts.

        The other one may go on keeping in another thread; followed again, only the difference is
        new. Both must have the same alphabet, capacity and seed.
        """
        theirs = other.replay.samples()
        kept = {sample.position for sample in self.replay.samples()}
        self.replay.remove(kept - {sample.position for sample in theirs})
        for sample in theirs:
            if sample.position not in kept:
                self.replay.seen = sample.position
                self.keep(sample.glyph, self.alphabet[sample.label])
                self.learner.pause()
        self.replay.seen = max(self.replay.seen, other.replay.seen)
        self.ge_accuracy, self.accuracy = other.ge_accuracy, other.accuracy

    def right_on(self, samples: Sequence[Sample]) -> NDArray[np.bool_]:
        """Tell which of these samples [N] it recognises."""
        labels = [self.alphabet[sample.label] for sample in samples]
        guesses = [self.predict_one(sample.glyph).label for sample in samples]
        return np.array([*map(eq, guesses, labels)], dtype=bool)

    def check_label(self, label: str) -> None:
        """Raise InputError for a label outside the alphabet."""
        if len(label) != 1 or label not in self.alphabet:
            raise InputError(
                f"label: {label[:20]!r} is not one character of the alphabet; use one of "
                f"{self.alphabet}"
            )

    @property
    def due(self) -> bool:
        """Whether enough was stored since the last learning."""
        return self.replay.seen - self._tried_at >= max(
            FIRST_LEARNING_SAMPLES, LEARNING_GROWTH_SHARE * len(self.replay)
        )

    def relearn(self, forced: bool = False) -> bool:
        """Learn from scratch and return whether the new mixture has replaced the old one.

        It does unless the samples held back tell against it or too many have come meanwhile; when
        `forced`, always, the old one having learned what is to be forgotten. Works on what is
        stored at its start, so that `keep` may go on meanwhile in another thread.
        """
        self._tried_at = self.replay.seen
        rehearsed = self.replay.rehearsed(MAX_REHEARSED_SAMPLES)
        held_back = [] if forced else self.replay.held_back(MAX_REHEARSED_SAMPLES // HELD_BACK)
        if not rehearsed and not forced:
            return False
        learned = None
        if rehearsed:
            learned = self.learner.learn(
                self.expert, self._cohort(rehearsed), self.sketch, self.seed
            )
            if self.replay.seen > (1 + STALE_SHARE) * self._tried_at and not forced:
                return False
            if held_back and self._is_worse(learned, self._cohort(held_back)):
                return False
        self.adopt(learned, self.version + 1)
        return True

    def _is_worse(self, new: PersonalMixture, cohort: Cohort) -> bool:
        """Whether a new mixture looks worse than the one in use."""
        old = self.personal
        new_right, old_right = (
            (scores.argmax(-1) == cohort.labels).numpy()
            for scores in (
                new.scores(cohort.activations),
                cohort.activations.scores if old is None else old.scores(cohort.activations),
            )
        )
        return looks_worse(new_right, old_right)

    @torch.no_grad()
    def _cohort(self, samples: list[Sample]) -> Cohort:
        """A cohort of one writer with these samples."""
        images = np.stack([sample.glyph for sample in samples])[None]
        features = torch.from_numpy(np.stack([sample.features for sample in samples]))[None]
        labels = torch.tensor([[sample.label for sample in samples]])
        seen = Activations(images, features, self.expert.head(features))
        return Cohort(seen, labels, torch.ones_like(labels, dtype=torch.bool))


def looks_worse(new: NDArray[np.bool_], old: NDArray[np.bool_]) -> bool:
    """Whether what is new did worse on the same samples beyond what chance explains.

    Takes which of the samples each had right. McNemar's test on those that only one of both has
    right (McNemar 1947, Psychometrika 12:153). Without the allowance for chance up to a quarter of
    the gain is lost on real writers: the old mixture was itself chosen by these samples and looks
    better on them than it is.

    >>> new, old = np.zeros(9, bool), np.arange(9) < 1
    >>> looks_worse(new, old), looks_worse(new, ~new)
    (False, True)
    """
    lost, won = int((old & ~new).sum()), int((new & ~old).sum())
    return lost - won > DOUBT_STANDARD_DEVIATIONS * math.sqrt(lost + won)


class _Deciding(NamedTuple):
    """The mixture in use, the same for one glyph at a time, and its version."""

    personal: PersonalMixture | None
    one: OneMixture | None
    version: int


def _check(glyph: NDArray[np.uint8]) -> None:
    if glyph.dtype != np.uint8:
        raise InputError(f"glyph: dtype {glyph.dtype} is not uint8; scale ink to 0..255 and cast")
    if glyph.shape != (SIDE, SIDE):
        raise InputError(f"glyph: shape {glyph.shape} is not [28, 28]; resize it")
