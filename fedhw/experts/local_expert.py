"""The local expert (LE): a low-rank correction of the global expert, private to one writer."""

from typing import NamedTuple

import torch
from torch import Tensor

from fedhw.experts.per_writer_projection import project_per_writer


class LocalExpert(NamedTuple):
    """`residual = (features U) V + b`, which is added to the global expert's scores.

    Every tensor has a leading writer axis: U [W, D, r], V [W, r, C], b [W, 1, C]. The low-rank
    form is that of LoRA (Hu et al. 2021, arXiv 2106.09685), on the head of the network.

    >>> silent = LocalExpert(torch.ones(1, 84, 8), torch.zeros(1, 8, 62), torch.zeros(1, 1, 62))
    >>> silent.residual(torch.rand(1, 5, 84)).abs().max().item()
    0.0
    """

    u: Tensor
    v: Tensor
    b: Tensor

    def residual(self, features: Tensor) -> Tensor:
        """Return the correction [W, N, C] of features [W or 1, N, D]."""
        return torch.baddbmm(self.b, project_per_writer(features, self.u), self.v)
