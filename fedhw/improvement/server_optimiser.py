"""The server's step along the mean of the devices' updates.

The velocity [P] is handed in and returned, so that a coordinator can store it; it starts at zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedhw.personalization.learner import orthogonal

Vector = NDArray[np.float32]
Shapes = Sequence[tuple[int, ...]]
"""The shapes of the expert's parameters, in their order in a vector."""


@dataclass(frozen=True)
class FedMuon:
    """Momentum, made orthogonal for every weight matrix, as in the learner on a device.

    A mean over many devices tells the weak directions of a layer as well as the strong ones, and
    rounds are few, so each step goes equally far in all of them (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon). Biases step by the unit vector times `rate`.
    """

    rate: float = 1.0
    momentum: float = 0.9

    def step(
        self, parameters: Vector, update: Vector, velocity: Vector, shapes: Shapes
    ) -> tuple[Vector, Vector]:
        """Return the parameters [P] after a step along the mean update [P], and the velocity."""
        velocity = self.momentum * velocity + (1 - self.momentum) * update
        lookahead = self.momentum * velocity + (1 - self.momentum) * update
        ends = np.cumsum([math.prod(shape) for shape in shapes])
        parts = zip(np.split(lookahead, ends[:-1]), shapes, strict=True)
        direction: Vector = np.concatenate([_orthogonal(part, shape) for part, shape in parts])
        there: Vector = parameters + np.float32(self.rate) * direction
        return there, velocity


def _orthogonal(part: Vector, shape: tuple[int, ...]) -> Vector:
    """Return a layer's step, equally long in each direction; a filter is a row of the matrix."""
    length = float(np.linalg.norm(part))
    if length == 0:
        return part
    if len(shape) == 1:
        return part / np.float32(length)
    matrix = torch.from_numpy(part / np.float32(length)).reshape(1, shape[0], -1)
    _, high, wide = matrix.shape
    step: Vector = orthogonal(matrix).numpy().ravel() * np.float32(max(1, high / wide) ** 0.5)
    return step
