"""The generic sketch: what everybody's writing looks like to the global expert, without images."""

from typing import NamedTuple

import torch
from torch import Tensor

SKETCH_SIZE = 4096
"""Public glyphs in a sketch."""


class Sketch(NamedTuple):
    """Features of public glyphs as int8: `features = steps * scale`.

    Shapes: steps int8 [S, D], scale float [D]. Devices rehearse on it so that learning one
    person's hand does not unlearn everybody else's.

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
