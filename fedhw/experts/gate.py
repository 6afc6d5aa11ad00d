"""The gate (GN): how far to trust the local expert on each observation."""

from typing import NamedTuple

import torch
from torch import Tensor

from fedhw.experts.per_writer_projection import project_per_writer

CONFIDENCE = 3
"""How many numbers tell the gate about the global expert's confidence, beside the features."""


class Gate(NamedTuple):
    """A logistic gate on the global expert's features and confidence.

    Shapes: w [W, D + 3, 1], c [W, 1, 1].

    >>> undecided = Gate(torch.zeros(1, 87, 1), torch.zeros(1, 1, 1))
    >>> undecided.opening(torch.rand(1, 5, 87)).unique().item()
    0.5
    """

    w: Tensor
    c: Tensor

    def opening(self, view: Tensor) -> Tensor:
        """Return the opening in (0, 1), [W, N, 1], for `gate_view` [W or 1, N, D + 3]."""
        return torch.sigmoid(project_per_writer(view, self.w) + self.c)


def gate_view(features: Tensor, scores: Tensor) -> Tensor:
    """Return the gate's input [..., D + 3]: features, highest probability, second, margin."""
    top = scores.softmax(-1).topk(2, dim=-1).values
    return torch.cat([features, top, top[..., :1] - top[..., 1:]], -1)
