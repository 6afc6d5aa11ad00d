"""The experts of one person, ready for one observation at a time."""

from dataclasses import dataclass, replace
from heapq import nlargest
from operator import itemgetter
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedhw.errors import InputError
from fedhw.experts.one_sample import OneMixture, OneSampleForward, compile_for_one_sample, softmax
from fedhw.observation import Labels, Observations, ObservationType
from fedhw.personalization.person import Base, Person


class Recognition(NamedTuple):
    """The label of an observation, with its probability and the expert that decided.

    `probability` is that of `label`, `probabilities` [C] are those of all labels. `ge_label` and
    `le_label` are the answers of each expert alone; the local one is None before anything was
    learned. The local expert decided where the gate's `opening` is above 0.5 or where it changed
    the label. `personal_version` counts the mixtures, 0 before the first; `release` names the
    release of the global expert.
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

    def likeliest(self, labels: Labels, n: int) -> list[tuple[str, float]]:
        """Return at most n of the labels with their probabilities, best first."""
        return nlargest(n, zip(labels, self.probabilities, strict=True), key=itemgetter(1))


@dataclass(frozen=True, eq=False)
class Recogniser:
    """A release's expert and one person's mixture; immutable and safe to use from any thread.

    `forward` is the expert compiled for one sample; `mixture` is None where it decides alone.
    """

    forward: OneSampleForward
    observation: ObservationType
    labels: Labels
    release: str
    mixture: OneMixture | None = None
    version: int = 0

    @classmethod
    def of(cls, base: Base, labels: Labels) -> "Recogniser":
        """Return the recogniser of a release, without a mixture.

        Raises InputError for labels that do not fit the expert.
        """
        classes, takes = base.expert.head.out_features, base.expert.architecture.observation
        if len(labels) != classes:
            raise InputError(
                f"labels: {len(labels)} do not fit the {classes} classes of the expert; give those "
                "that it was trained on"
            )
        return cls(compile_for_one_sample(base.expert), takes, labels, base.release)

    def of_person(self, person: Person) -> "Recogniser":
        """Return the recogniser of the same release with what a person has learned for it."""
        mixture = None if person.mixture is None else OneMixture.of(person.mixture)
        return replace(self, release=person.release, mixture=mixture, version=person.version)

    def features(self, observation: Observations) -> NDArray[np.float32]:
        """Return the expert's features [D] of an observation."""
        return self.forward(observation)[0]

    def predict_one(self, observation: Observations) -> Recognition:
        """Recognise an observation; raises InputError for one of another type."""
        self.observation.check(observation)
        features, scores = self.forward(observation)
        ge = le = softmax(scores)
        ge_best = le_best = best = int(ge.argmax())
        probabilities, opening = ge, 0.0
        mixture = self.mixture
        if mixture is not None:
            residual = mixture.residual(features)
            opening = mixture.opening(features, scores)
            le = softmax(scores + residual)
            probabilities = softmax(scores + np.float32(opening) * residual)
            le_best, best = int(le.argmax()), int(probabilities.argmax())
        return Recognition(
            label=self.labels[best],
            probability=float(probabilities[best]),
            probabilities=tuple(probabilities.tolist()),
            ge_label=self.labels[ge_best],
            ge_probability=float(ge[ge_best]),
            le_label=None if mixture is None else self.labels[le_best],
            le_probability=None if mixture is None else float(le[le_best]),
            opening=opening,
            decided_by="local" if opening > 0.5 or best != ge_best else "global",
            personal_version=self.version,
            release=self.release,
        )
