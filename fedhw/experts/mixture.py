"""The mixture of experts: the local expert corrects the global one as far as the gate opens."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedhw.experts.gate import CONFIDENCE, Gate, gate_view
from fedhw.experts.global_expert import GlobalExpert
from fedhw.experts.local_expert import LocalExpert


class Mixture(NamedTuple):
    """`scores = global scores + g * local residual`, with the gate's opening g.

    The original paper adds the whole residual where g > 0.5 and nothing elsewhere (Zhang, Davoodi,
    Hu 2018, arXiv 1811.00056).
    """

    local: LocalExpert
    gate: Gate

    @classmethod
    def silent(cls, expert: GlobalExpert, rank: int) -> "Mixture":
        """Return the mixture of one writer that leaves the global expert's scores unchanged."""
        classes, depth = expert.head.weight.shape
        local = LocalExpert(
            torch.zeros(1, depth, rank), torch.zeros(1, rank, classes), torch.zeros(1, 1, classes)
        )
        return cls(local, Gate(torch.zeros(1, depth + CONFIDENCE, 1), torch.zeros(1, 1, 1)))

    @classmethod
    def join(cls, mixtures: Sequence["Mixture"]) -> "Mixture":
        """Return the mixtures of all writers as one."""
        local = zip(*(mixture.local for mixture in mixtures), strict=True)
        gate = zip(*(mixture.gate for mixture in mixtures), strict=True)
        return cls(LocalExpert(*map(torch.cat, local)), Gate(*map(torch.cat, gate)))

    def split(self) -> "list[Mixture]":
        """Return the mixture of each writer; they share no memory."""
        return [
            Mixture(
                LocalExpert(*(part[w : w + 1].clone() for part in self.local)),
                Gate(*(part[w : w + 1].clone() for part in self.gate)),
            )
            for w in range(len(self.gate.w))
        ]

    @property
    def is_usable(self) -> bool:
        """Whether no number has overflowed; a gate that always stays open holds infinity."""
        return all(part.isfinite().all() for part in self.local) and not any(
            part.isnan().any() for part in self.gate
        )

    def opening(self, features: Tensor, scores: Tensor) -> Tensor:
        """Return the gate's opening [W, N, 1] in (0, 1)."""
        return self.gate.opening(gate_view(features, scores))

    def scores(self, features: Tensor, scores: Tensor) -> Tensor:
        """Return the mixture's scores [W, N, C].

        `features` [W or 1, N, D] and `scores` [W or 1, N, C] are the global expert's; with a
        leading 1 every writer's mixture gets the same observations.
        """
        g = self.opening(features, scores)
        residual = self.local.residual(features)
        return residual.mul_(g).add_(scores)
