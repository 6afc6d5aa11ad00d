import torch
from torch import nn

from fedhw.experts.architecture import Architecture
from fedhw.experts.cost import Cost, cost_of_gate, cost_of_global, cost_of_local
from fedhw.experts.global_expert import GlobalExpert, build, expert_of
from fedhw.experts.mixture import Mixture
from fedhw.handwriting.glyph import GLYPH


class OneConvolution(GlobalExpert):
    """Small enough to count by hand."""

    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__(architecture)
        self.convolution = nn.Conv2d(1, 2, 3)
        self.head = nn.Linear(2 * 26 * 26, classes)

    def features(self, scaled: torch.Tensor) -> torch.Tensor:
        return self.convolution(scaled[:, None]).flatten(1)


def test_a_network_counted_by_hand() -> None:
    head = 2 * 26 * 26 * 10
    one = expert_of(Architecture(GLYPH, OneConvolution), 10)
    assert cost_of_global(one) == Cost(
        parameters=2 * 9 + 2 + head + 10, macs=26 * 26 * 9 * 2 + head
    )


def test_the_private_networks_keep_to_their_budget() -> None:
    expert = build("lenet5", 62)
    mixture = Mixture.silent(expert, rank=8)
    whole, local, gate = (
        cost_of_global(expert),
        cost_of_local(mixture.local),
        cost_of_gate(mixture.gate),
    )
    assert local == Cost(parameters=8 * (84 + 62) + 62, macs=8 * (84 + 62))
    assert gate == Cost(parameters=84 + 3 + 1, macs=84 + 3)
    assert local.parameters + gate.parameters == 1318
    assert (local.nanojoules + gate.nanojoules) / whole.nanojoules < 0.025


def test_writers_are_counted_one_at_a_time() -> None:
    mixture = Mixture.silent(build("lenet5", 62), rank=8)
    many = type(mixture.local)(*(p.repeat(5, 1, 1) for p in mixture.local))
    assert cost_of_local(many) == cost_of_local(mixture.local)
