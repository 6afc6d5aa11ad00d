"""One person, one observation at a time: recognise, be corrected, learn."""

from dataclasses import dataclass, field
from typing import Any

from fedhw.experts.global_expert import GlobalExpert
from fedhw.observation import Labels, Observations
from fedhw.personalization.learner import Learner
from fedhw.personalization.person import Base, Person, relearn, take_up
from fedhw.personalization.prequential import Prequential
from fedhw.personalization.recogniser import Recogniser, Recognition
from fedhw.personalization.replay import Policy, PowerLaw, Replay
from fedhw.release.sketch import Sketch


@dataclass(eq=False, repr=False)
class Personalizer:
    """Recognises the observations of one person and learns from each correction, in one thread.

    Memory is bounded by `capacity` samples; everything random follows from `seed`. `release` names
    the release of the expert and the sketch, if any. `person` is the current state. Raises
    InputError for labels that do not fit the expert.

    >>> import numpy as np
    >>> import torch
    >>> from fedhw.experts.global_expert import build
    >>> _ = torch.manual_seed(0)
    >>> labels = Labels(("circle", "cross"))
    >>> me = Personalizer(build("lenet5", 2), Sketch.of(torch.rand(100, 84)), labels)
    >>> glyph = np.eye(28, dtype=np.uint8) * 255
    >>> me.predict_one(glyph).decided_by
    'global'
    >>> for _ in range(4):
    ...     me = me.learn_one(glyph, "cross")
    >>> me.predict_one(glyph).label
    'cross'
    >>> me.accuracy.total
    0.0
    """

    expert: GlobalExpert
    sketch: Sketch
    labels: Labels
    learner: Learner = field(default_factory=Learner)
    policy: Policy = field(default_factory=PowerLaw)
    capacity: int = 2000
    seed: int = 0
    release: str = ""
    person: Person = field(init=False)

    def __post_init__(self) -> None:
        self.person = Person(Replay(self.policy, self.capacity, self.seed), self.release)
        self._recogniser = Recogniser.of(self._base, self.labels)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the recogniser, which holds functions and cannot be pickled."""
        return {name: value for name, value in vars(self).items() if name != "_recogniser"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._recogniser = Recogniser.of(self._base, self.labels).of_person(self.person)

    @property
    def _base(self) -> Base:
        return Base(self.expert, self.sketch, self.release)

    @property
    def ge_accuracy(self) -> Prequential:
        """The accuracy of the global expert alone, before each correction."""
        return self.person.ge_accuracy

    @property
    def accuracy(self) -> Prequential:
        """The accuracy of the model in use, before each correction."""
        return self.person.accuracy

    @property
    def due(self) -> bool:
        """Whether enough corrections were stored since the last learning."""
        return self.person.is_due

    def predict_one(self, observation: Observations) -> Recognition:
        """Recognise an observation; changes nothing."""
        return self._recogniser.predict_one(observation)

    def learn_one(self, observation: Observations, label: str) -> "Personalizer":
        """Test on an observation, store it with its label, and learn if it is due."""
        self.store(observation, label)
        if self.due:
            self.relearn()
        return self

    def store(self, observation: Observations, label: str) -> Recognition:
        """Test on an observation and keep it; returns how it was recognised before.

        Raises InputError for an observation of another type or a label that is not known.
        """
        self.labels.index(label)
        guess = self.predict_one(observation)
        self.person = self.person.count(guess.ge_label == label, guess.label == label)
        self.keep(observation, label)
        return guess

    def keep(self, observation: Observations, label: str) -> None:
        """Keep an observation without a test."""
        known = self.labels.index(label)
        features = self._recogniser.features(observation)
        self.person = self.person.keep(observation, features, known)

    def relearn(self, forced: bool = False) -> bool:
        """Learn from scratch and return whether the new mixture replaced the old one.

        See `fedhw.personalization.person.relearn`.
        """
        before = self.person
        [learned] = relearn([before], self._base, self.learner, forced)
        self.person = learned if forced else take_up(learned, self.person)
        self._recogniser = self._recogniser.of_person(self.person)
        return self.person.version > before.version
