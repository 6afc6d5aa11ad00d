"""What every way of personalising has in common: learn from a cohort, then recognise."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedhw.experts.global_expert import GlobalExpert
from fedhw.observation import Observations
from fedhw.release.sketch import Sketch


class Activations(NamedTuple):
    """Observations and what the global expert makes of them.

    Shapes: observations [W, N, *shape], features [W, N, D], scores [W, N, C]. W is the writer
    axis; W = 1 stands for observations shown to every writer's model alike.
    """

    observations: Observations
    features: Tensor
    scores: Tensor

    def between(self, start: int, stop: int) -> "Activations":
        """Return what is from `start` to `stop` of every writer."""
        return Activations(
            self.observations[:, start:stop],
            self.features[:, start:stop],
            self.scores[:, start:stop],
        )


class Cohort(NamedTuple):
    """Labelled observations of W writers, padded to the longest: labels and mask are [W, N]."""

    activations: Activations
    labels: Tensor
    mask: Tensor


class PersonalModel(ABC):
    """The private models of W writers, ready to recognise."""

    @abstractmethod
    def scores(self, activations: Activations) -> Tensor:
        """Return class scores [W, N, C] for observations [W or 1, N]; changes nothing."""

    @abstractmethod
    def parameter_count(self) -> int:
        """How many numbers each writer's device keeps beside the global expert."""


@dataclass(frozen=True)
class Method(ABC):
    """A way of personalising the global expert to each writer of a cohort.

    One that `is_heavy` takes many times as long as the others: a comparison leaves it out unless it
    is asked for.
    """

    is_heavy: ClassVar[bool] = False

    @abstractmethod
    def learn(
        self, expert: GlobalExpert, cohort: Cohort, sketch: Sketch, seed: int
    ) -> PersonalModel:
        """Learn a private model for every writer of the cohort, independently of the others.

        A writer without samples gets a model that recognises as the global expert does.
        """


@torch.no_grad()
def extract_features(expert: GlobalExpert, observations: Observations) -> Activations:
    """Show observations [W, N, *shape] to the global expert."""
    flat = expert.architecture.observation.flat(observations)
    # So few at a time that what the layers hand on stays in the cache.
    parts = [expert.features(expert.scale(flat[i : i + 256])) for i in range(0, len(flat), 256)]
    features = torch.cat(parts) if parts else torch.empty(0, expert.head.in_features)
    features = features.reshape(*observations.shape[:2], expert.head.in_features)
    return Activations(observations, features, expert.head(features))


def pad_cohort(
    expert: GlobalExpert, observations: list[Observations], labels: list[NDArray[np.int64]]
) -> Cohort:
    """Pad each writer's observations [n, *shape] and labels [n] to one cohort and see it.

    >>> from fedhw.experts.global_expert import build
    >>> glyphs = [np.zeros((n, 28, 28), np.uint8) for n in (2, 3)]
    >>> cohort = pad_cohort(build("lenet5", 62), glyphs, [np.zeros(n, np.int64) for n in (2, 3)])
    >>> cohort.mask.sum(1).tolist()
    [2, 3]
    """
    counts = np.array([len(own) for own in labels])
    mask = np.arange(counts.max()) < counts[:, None]
    shape = mask.shape
    padded = np.zeros((*shape, *observations[0].shape[1:]), observations[0].dtype)
    padded_labels = np.zeros(shape, np.int64)
    padded[mask] = np.concatenate(observations)
    padded_labels[mask] = np.concatenate(labels)
    real = extract_features(expert, padded[mask][None])
    features = torch.zeros(*shape, real.features.shape[-1])
    scores = torch.zeros(*shape, real.scores.shape[-1])
    where = torch.from_numpy(mask)
    features[where], scores[where] = real.features[0], real.scores[0]
    activations = Activations(padded, features, scores)
    return Cohort(activations, torch.from_numpy(padded_labels), where)
