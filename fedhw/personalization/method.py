"""The interface of every method of personalisation: learn from a cohort, then recognise."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
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
    """Observations with the global expert's features and scores.

    Shapes: observations [W, N, *shape], features [W, N, D], scores [W, N, C]. W is the writer
    axis; with W = 1 every writer's model gets the same observations.
    """

    observations: Observations
    features: Tensor
    scores: Tensor

    def between(self, start: int, stop: int) -> "Activations":
        """Return the samples from `start` to `stop` of every writer."""
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
        """Return class scores [W, N, C] of observations [W or 1, N]; changes nothing."""

    @abstractmethod
    def parameter_count(self) -> int:
        """Return how many numbers a writer's device keeps beside the global expert."""


@dataclass(frozen=True)
class Method(ABC):
    """A way of personalising the global expert to each writer of a cohort.

    A method that `is_heavy` takes many times as long as the others; a comparison includes it only
    on request.
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
    """Run the global expert on observations [W, N, *shape]."""
    flat = expert.architecture.observation.flat(observations)
    # In batches so small that the activations of the layers stay in the cache.
    parts = [expert.features(expert.scale(flat[i : i + 256])) for i in range(0, len(flat), 256)]
    features = torch.cat(parts) if parts else torch.empty(0, expert.head.in_features)
    features = features.reshape(*observations.shape[:2], expert.head.in_features)
    return Activations(observations, features, expert.head(features))


def pad_cohort(
    expert: GlobalExpert, observations: list[Observations], labels: list[NDArray[np.int64]]
) -> Cohort:
    """Pad each writer's observations [n, *shape] and labels [n] to one cohort, with features.

    >>> from fedhw.experts.global_expert import build
    >>> glyphs = [np.zeros((n, 28, 28), np.uint8) for n in (2, 3)]
    >>> cohort = pad_cohort(build("lenet5", 62), glyphs, [np.zeros(n, np.int64) for n in (2, 3)])
    >>> cohort.mask.sum(1).tolist()
    [2, 3]
    """
    mask = filled([len(own) for own in labels])
    rows = np.concatenate(observations)
    padded = np.zeros((*mask.shape, *rows.shape[1:]), rows.dtype)
    padded[mask.numpy()] = rows
    _, features, scores = extract_features(expert, rows[None])
    activations = Activations(padded, pad(features[0], mask), pad(scores[0], mask))
    return Cohort(activations, pad(torch.from_numpy(np.concatenate(labels)), mask), mask)


def filled(counts: Sequence[int]) -> Tensor:
    """Return the mask, bool [W, N], of writers with this many samples each."""
    return torch.arange(max(counts)) < torch.tensor(counts)[:, None]


def pad(rows: Tensor, mask: Tensor) -> Tensor:
    """Return rows [n, ...] in the n true places of a mask [W, N], with zeros in the others."""
    padded = rows.new_zeros(*mask.shape, *rows.shape[1:])
    padded[mask] = rows
    return padded
