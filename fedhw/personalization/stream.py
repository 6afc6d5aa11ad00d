"""One person, one character at a time: recognise, be corrected, learn."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhw.experts.global_expert import GlobalExpert
from fedhw.handwriting.alphabet import BYCLASS
from fedhw.personalization.learner import Learner
from fedhw.personalization.person import Base, Person, relearn, take_up
from fedhw.personalization.prequential import Prequential
from fedhw.personalization.recogniser import Recogniser, Recognition
from fedhw.personalization.replay import Policy, PowerLaw, Replay
from fedhw.release.sketch import Sketch


@dataclass(eq=False, repr=False)
class Personalizer:
    """Recognises one person's characters and learns from each correction, in one thread.

    Memory is bounded by `capacity` samples; everything random follows from `seed`. `release` is the
    name of the release that the expert and the sketch are from, if any. `person` is all that is
    known so far, a value. Raises InputError for an alphabet that does not fit the expert.

    >>> import torch
    >>> from fedhw.experts.global_expert import build
    >>> _ = torch.manual_seed(0)
    >>> me = Personalizer(build("lenet5", 62), Sketch.of(torch.rand(100, 84)))
    >>> glyph = np.eye(28, dtype=np.uint8) * 255
    >>> me.predict_one(glyph).decided_by
    'global'
    >>> for _ in range(4):
    ...     me = me.learn_one(glyph, "x")
    >>> me.predict_one(glyph).label
    'x'
    >>> me.accuracy.total
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
    person: Person = field(init=False)

    def __post_init__(self) -> None:
        self.person = Person(Replay(self.policy, self.capacity, self.seed), self.release)
        self._recogniser = Recogniser.of(self._base, self.alphabet)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the recogniser, which is made of functions."""
        return {name: value for name, value in vars(self).items() if name != "_recogniser"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._recogniser = Recogniser.of(self._base, self.alphabet).of_person(self.person)

    @property
    def _base(self) -> Base:
        return Base(self.expert, self.sketch, self.release)

    @property
    def ge_accuracy(self) -> Prequential:
        """How often the global expert by itself was right before a correction."""
        return self.person.ge_accuracy

    @property
    def accuracy(self) -> Prequential:
        """How often what was in use was right before a correction."""
        return self.person.accuracy

    @property
    def due(self) -> bool:
        """Whether enough was stored since the last learning."""
        return self.person.is_due

    def predict_one(self, glyph: NDArray[np.uint8]) -> Recognition:
        """Recognise a glyph [28, 28], ink 255 on paper 0; changes nothing."""
        return self._recogniser.predict_one(glyph)

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
        self._recogniser.check_label(label)
        guess = self.predict_one(glyph)
        self.person = self.person.count(guess.ge_label == label, guess.label == label)
        self.keep(glyph, label)
        return guess

    def keep(self, glyph: NDArray[np.uint8], label: str) -> None:
        """Keep a glyph [28, 28] without a test."""
        self._recogniser.check_label(label)
        features = self._recogniser.features(glyph)
        self.person = self.person.keep(glyph, features, self.alphabet.index(label))

    def relearn(self, forced: bool = False) -> bool:
        """Learn from scratch and return whether the new mixture has replaced the old one.

        See `fedhw.personalization.person.relearn`.
        """
        before = self.person
        [learned] = relearn([before], self._base, self.learner, forced)
        self.person = learned if forced else take_up(learned, self.person)
        self._recogniser = self._recogniser.of_person(self.person)
        return self.person.version > before.version
