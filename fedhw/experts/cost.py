"""The cost of recognising one observation: parameters, bytes, multiply-accumulates, energy.

Multiply-accumulates are counted while the parts run: those of matrix products and convolutions,
which are nearly all.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fedhw.experts.gate import Gate
from fedhw.experts.global_expert import GlobalExpert
from fedhw.experts.local_expert import LocalExpert

MULTIPLY_PICOJOULES = 3.7
ADD_PICOJOULES = 0.9
READ_PICOJOULES = 5.0
"""Float32 multiply and add, and a 32-bit read of an 8 kB SRAM, at 45 nm and 0.9 V.

M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9:
the cache figure there is 10 pJ for 64 bits.
"""


@dataclass(frozen=True)
class Cost:
    """The cost of one part for one observation."""

    parameters: int
    macs: int

    @property
    def bytes(self) -> int:
        """Memory of the parameters as float32."""
        return 4 * self.parameters

    @property
    def nanojoules(self) -> float:
        """Energy at batch size one: each multiply-accumulate, and each parameter read once."""
        arithmetic = self.macs * (MULTIPLY_PICOJOULES + ADD_PICOJOULES)
        return (arithmetic + self.parameters * READ_PICOJOULES) / 1000


def macs_of(run: Callable[[], Any]) -> int:
    """Count the multiply-accumulates of matrix products and convolutions while `run` runs.

    >>> macs_of(lambda: torch.rand(2, 3) @ torch.rand(3, 5))
    30
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return int(counter.get_total_flops()) // 2


def cost_of_global(expert: GlobalExpert) -> Cost:
    """Count a global expert.

    >>> from fedhw.experts.global_expert import build
    >>> cost_of_global(build("lenet5", 62))
    Cost(parameters=66126, macs=420888)
    """
    observation = torch.zeros(1, *expert.architecture.observation.shape)
    return _cost(expert.parameters(), lambda: expert(observation))


def cost_of_local(local: LocalExpert) -> Cost:
    """Count one writer's local expert."""
    one = LocalExpert(*(p[:1] for p in local))
    return _cost(one, lambda: one.residual(torch.zeros(1, 1, one.u.shape[1])))


def cost_of_gate(gate: Gate) -> Cost:
    """Count one writer's gate."""
    one = Gate(*(p[:1] for p in gate))
    return _cost(one, lambda: one.opening(torch.zeros(1, 1, one.w.shape[1])))


def _cost(parameters: Iterable[Tensor], run: Callable[[], Any]) -> Cost:
    return Cost(sum(p.numel() for p in parameters), macs_of(run))
