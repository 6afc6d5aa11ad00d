"""The generic sketch: features of public observations, without the observations themselves."""

from typing import NamedTuple

import torch
from torch import Tensor

SKETCH_SIZE = 4096
"""Public observations in a sketch."""


class Sketch(NamedTuple):
    """Features of public observations as int8: `features = steps * scale`.

    Shapes: steps int8 [S, D], scale float [D]. Devices rehearse on it, so that the mixture learns
    one person without forgetting everybody else.

    >>> sketch = Sketch.of(torch.tensor([[0.0, 4.0], [1.0, 2.0]]))
    >>> sketch.features().round(decimals=1).tolist()
    [[0.0, 4.0], [1.0, 2.0]]
    """

    steps: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Sketch":
        """Quantise features [S, D], each dimension to its own largest magnitude."""
        scale = features.abs().amax(0).clamp_min(1e-6) / 127
        return cls((features / scale).round().to(torch.int8), scale)

    def features(self) -> Tensor:
        """Return the features [S, D] as float."""
        return self.steps * self.scale
