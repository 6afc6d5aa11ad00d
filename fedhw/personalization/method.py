"""What every way of personalising has in common: learn from a cohort, then recognise."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedhw.experts.global_expert import GlobalExpert, as_ink
from fedhw.release.sketch import Sketch


class Activations(NamedTuple):
    """Glyphs and what the global expert makes of them.

    Shapes: images uint8 [W, N, 28, 28], features [W, N, D], scores [W, N, C]. W is the writer
    axis; W = 1 stands for glyphs shown to every writer's model alike.
    """

    images: NDArray[np.uint8]
    features: Tensor
    scores: Tensor

    def between(self, start: int, stop: int) -> "Activations":
        """Return the glyphs from `start` to `stop` of every writer."""
        glyphs = slice(start, stop)
        return Activations(self.images[:, glyphs], self.features[:, glyphs], self.scores[:, glyphs])


class Cohort(NamedTuple):
    """Labelled glyphs of W writers, padded to the longest: labels and mask are [W, N]."""

    activations: Activations
    labels: Tensor
    mask: Tensor


class PersonalModel(ABC):
    """The private models of W writers, ready to recognise."""

    @abstractmethod
    def scores(self, activations: Activations) -> Tensor:
        """Return class scores [W, N, C] for glyphs [W or 1, N]; changes nothing."""

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
def extract_features(expert: GlobalExpert, images: NDArray[np.uint8]) -> Activations:
    """Show glyphs [W, N, 28, 28] to the global expert."""
    flat = images.reshape(-1, *images.shape[2:])
    # So few at a time that what the layers hand on stays in the cache.
    parts = [expert.features(as_ink(flat[i : i + 256])) for i in range(0, len(flat), 256)]
    features = torch.cat(parts) if parts else torch.empty(0, expert.head.in_features)
    features = features.reshape(*images.shape[:2], expert.head.in_features)
    return Activations(images, features, expert.head(features))


def pad_cohort(
    expert: GlobalExpert, images: list[NDArray[np.uint8]], labels: list[NDArray[np.uint8]]
) -> Cohort:
    """Pad each writer's glyphs [n, 28, 28] and labels [n] to one cohort and observe it.

    >>> from fedhw.experts.global_expert import build
    >>> glyphs = [np.zeros((n, 28, 28), np.uint8) for n in (2, 3)]
    >>> cohort = pad_cohort(build("lenet5", 62), glyphs, [np.zeros(n, np.uint8) for n in (2, 3)])
    >>> cohort.mask.sum(1).tolist()
    [2, 3]
    """
    counts = np.array([len(own) for own in labels])
    mask = np.arange(counts.max()) < counts[:, None]
    shape = mask.shape
    padded_images = np.zeros((*shape, *images[0].shape[1:]), np.uint8)
    padded_labels = np.zeros(shape, np.int64)
    padded_images[mask] = np.concatenate(images)
    padded_labels[mask] = np.concatenate(labels)
    real = extract_features(expert, padded_images[mask][None])
    features = torch.zeros(*shape, real.features.shape[-1])
    scores = torch.zeros(*shape, real.scores.shape[-1])
    where = torch.from_numpy(mask)
    features[where], scores[where] = real.features[0], real.scores[0]
    activations = Activations(padded_images, features, scores)
    return Cohort(activations, torch.from_numpy(padded_labels), where)
