"""How the server steps along the mean of the devices' updates.

Reddi et al. 2021, Adaptive Federated Optimization, arXiv 2003.00295; FedAvgM is Hsu, Qi, Brown
2019, arXiv 1909.06335. The state is explicit, so that a coordinator can keep it on its disk.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fedhw.personalization.learner import orthogonal

Vector = NDArray[np.float32]
Shapes = Sequence[tuple[int, ...]]
"""Of the expert's parameters, in the order in which they stand in a vector."""


class Moments(NamedTuple):
    """What an optimiser remembers of earlier updates: their mean and that of their squares, [P]."""

    first: Vector
    second: Vector

    @classmethod
    def zero(cls, entries: int) -> "Moments":
        """Return the memory of one that has not stepped yet."""
        return cls(np.zeros(entries, np.float32), np.zeros(entries, np.float32))


@dataclass(frozen=True)
class ServerOptimiser(ABC):
    """Steps of length `rate`, with `momentum`."""

    rate: float = 1.0
    momentum: float = 0.9

    @abstractmethod
    def step(
        self, parameters: Vector, update: Vector, moments: Moments, shapes: Shapes
    ) -> tuple[Vector, Moments]:
        """Return the parameters [P] after a step along the mean update [P], and the new memory."""

    def _moved(self, parameters: Vector, along: Vector) -> Vector:
        there: Vector = parameters + np.float32(self.rate) * along
        return there


@dataclass(frozen=True)
class FedAvgM(ServerOptimiser):
    """The sum of all updates, the older ones fading; without momentum it is FedAvg.

    >>> one = np.ones(1, np.float32)
    >>> after, _ = FedAvgM(1.0, 0.0).step(one, 2 * one, Moments.zero(1), [(1,)])
    >>> after.tolist()
    [3.0]
    """

    def step(
        self, parameters: Vector, update: Vector, moments: Moments, shapes: Shapes
    ) -> tuple[Vector, Moments]:
        """Return the parameters [P] after a step along the mean update [P], and the new memory."""
        first = self.momentum * moments.first + update
        return self._moved(parameters, first), Moments(first, moments.second)


@dataclass(frozen=True)
class _Adaptive(ServerOptimiser):
    """Each entry steps by its own scale; `caution` bounds how far a rarely changed one goes."""

    memory: float = 0.99
    caution: float = 1e-3

    def step(
        self, parameters: Vector, update: Vector, moments: Moments, shapes: Shapes
    ) -> tuple[Vector, Moments]:
        """Return the parameters [P] after a step along the mean update [P], and the new memory."""
        first = self.momentum * moments.first + (1 - self.momentum) * update
        second = self._second(moments.second, np.square(update))
        along = (first / (np.sqrt(second) + self.caution)).astype(np.float32)
        return self._moved(parameters, along), Moments(first, second)

    @abstractmethod
    def _second(self, second: Vector, square: Vector) -> Vector:
        """Return the new mean of squares."""


@dataclass(frozen=True)
class FedAdam(_Adaptive):
    """Adam on the mean update, without the correction of its beginning (Reddi et al.)."""

    def _second(self, second: Vector, square: Vector) -> Vector:
        return self.memory * second + (1 - self.memory) * square


@dataclass(frozen=True)
class FedYogi(_Adaptive):
    """Yogi on the mean update: the mean of squares changes by no more than the square itself."""

    def _second(self, second: Vector, square: Vector) -> Vector:
        change: Vector = (1 - self.memory) * square * np.sign(second - square)
        return second - change


@dataclass(frozen=True)
class FedMuon(ServerOptimiser):
    """Momentum, made orthogonal for every weight matrix, as the learner on a device steps.

    A mean over many devices knows the weak directions of a layer as well as the strong ones, and
    rounds are few: each goes as far in all of them (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon). Biases step by the unit vector.
    """

    def step(
        self, parameters: Vector, update: Vector, moments: Moments, shapes: Shapes
    ) -> tuple[Vector, Moments]:
        """Return the parameters [P] after a step along the mean update [P], and the new memory."""
        first = self.momentum * moments.first + (1 - self.momentum) * update
        ahead = self.momentum * first + (1 - self.momentum) * update
        ends = np.cumsum([math.prod(shape) for shape in shapes])
        parts = np.split(ahead, ends[:-1])
        along = np.concatenate(
            [_orthogonal(part, shape) for part, shape in zip(parts, shapes, strict=True)]
        )
        return self._moved(parameters, along), Moments(first, moments.second)


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
