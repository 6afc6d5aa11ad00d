"""The gate (GN): how far to believe the local expert, character by character."""

from typing import NamedTuple

import torch
from torch import Tensor

from fedhw.experts.per_writer_projection import project_per_writer

CONFIDENCE = 3
"""Numbers of the global expert's confidence that the gate reads beside its features."""


class Gate(NamedTuple):
    """A logistic gate on what the global expert saw and how sure it was.

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
    """Return what the gate reads, [..., D + 3]: features, top probability, second, margin."""
    top = scores.softmax(-1).topk(2, dim=-1).values
    return torch.cat([features, top, top[..., :1] - top[..., 1:]], -1)
