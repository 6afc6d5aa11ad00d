"""How the server steps along the mean of the devices' updates.

FedAvgM is Hsu, Qi, Brown 2019, arXiv 1909.06335. What an optimiser remembers, its velocity [P], is
handed in and returned, so that a coordinator can keep it on its disk; it begins with zeros.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedhw.personalization.learner import orthogonal

Vector = NDArray[np.float32]
Shapes = Sequence[tuple[int, ...]]
"""Of the expert's parameters, in the order in which they stand in a vector."""


@dataclass(frozen=True)
class ServerOptimiser(ABC):
    """Steps of length `rate`, with `momentum`."""

    rate: float = 1.0
    momentum: float = 0.9

    @abstractmethod
    def step(
        self, parameters: Vector, update: Vector, velocity: Vector, shapes: Shapes
    ) -> tuple[Vector, Vector]:
        """Return the parameters [P] after a step along the mean update [P], and the velocity."""

    def _moved(self, parameters: Vector, along: Vector) -> Vector:
        there: Vector = parameters + np.float32(self.rate) * along
        return there


@dataclass(frozen=True)
class FedAvgM(ServerOptimiser):
    """The sum of all updates, the older ones fading; without momentum it is FedAvg.

    >>> one = np.ones(1, np.float32)
    >>> after, _ = FedAvgM(1.0, 0.0).step(one, 2 * one, 0 * one, [(1,)])
    >>> after.tolist()
    [3.0]
    """

    def step(
        self, parameters: Vector, update: Vector, velocity: Vector, shapes: Shapes
    ) -> tuple[Vector, Vector]:
        """Return the parameters [P] after a step along the mean update [P], and the velocity."""
        velocity = self.momentum * velocity + update
        return self._moved(parameters, velocity), velocity


@dataclass(frozen=True)
class FedMuon(ServerOptimiser):
    """Momentum, made orthogonal for every weight matrix, as the learner on a device steps.

    A mean over many devices knows the weak directions of a layer as well as the strong ones, and
    rounds are few: each goes as far in all of them (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon). Biases step by the unit vector.
    """

    def step(
        self, parameters: Vector, update: Vector, velocity: Vector, shapes: Shapes
    ) -> tuple[Vector, Vector]:
        """Return the parameters [P] after a step along the mean update [P], and the velocity."""
        velocity = self.momentum * velocity + (1 - self.momentum) * update
        lookahead = self.momentum * velocity + (1 - self.momentum) * update
        ends = np.cumsum([math.prod(shape) for shape in shapes])
        parts = np.split(lookahead, ends[:-1])
        along = np.concatenate(
            [_orthogonal(part, shape) for part, shape in zip(parts, shapes, strict=True)]
        )
        return self._moved(parameters, along), velocity


def _orthogonal(part: Vector, shape: tuple[int, ...]) -> Vector:
    """One layer's step, as long in each direction; a convolution is a matrix of its filters."""
    length = float(np.linalg.norm(part))
    if length == 0:
        return part
    if len(shape) == 1:
        return part / np.float32(length)
    matrix = torch.from_numpy(part / np.float32(length)).reshape(1, shape[0], -1)
    _, high, wide = matrix.shape
    step: Vector = orthogonal(matrix).numpy().ravel() * np.float32(max(1, high / wide) ** 0.5)
    return step
