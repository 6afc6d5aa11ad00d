import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fedhw.experts.architecture import Architecture
from fedhw.experts.global_expert import GlobalExpert, expert_of
from fedhw.experts.layers import Conv1d, Conv2d, Flatten, Layer, Linear, MaxPool2d, Relu
from fedhw.experts.per_writer_gradients import gradient
from fedhw.handwriting.glyph import GLYPH
from fedhw.handwriting.lenet import LENET5
from fedhw.observation import ObservationType


def layered(blocks: list[tuple[int, int, int]], dense: list[int]) -> GlobalExpert:
    """An expert of layers that are known, of any number and size."""
    layers: list[Layer] = []
    for out, kernel, padding in blocks:
        layers += [Conv2d(out, kernel, padding), Relu(), MaxPool2d()]
    layers.append(Flatten())
    for out in dense:
        layers += [Linear(out), Relu()]
    return expert_of(Architecture(GLYPH, (*layers, Linear(7))), 5)


class Own(GlobalExpert):
    """No sequence of layers at all, and frozen."""

    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__(architecture)
        self.head = nn.Linear(784, classes).requires_grad_(False)

    def features(self, scaled: Tensor) -> Tensor:
        return scaled.flatten(1).sin()


UNKNOWN = {
    "own": Architecture(GLYPH, Own),
    "unpooled": Architecture(GLYPH, (Conv2d(2, 5), Relu(), Flatten(), Linear(9))),
    "sound": Architecture(
        ObservationType((9, 8), "float32"), (Conv2d(2, 3), Relu(), MaxPool2d(), Flatten())
    ),
    "window": Architecture(ObservationType((4, 9), "int16"), (Conv1d(3, 2), Relu(), Flatten())),
    "colour": Architecture(ObservationType((2, 6, 6), "uint8"), (Flatten(), Linear(3), Relu())),
}
"""Architectures whose gradient is torch's."""


BLOCKS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([1, 3, 5]), st.sampled_from([0, 2])), max_size=2
)


def check(expert: GlobalExpert, counts: list[int], seed: int) -> None:
    """Compare with what torch says of one copy after the other."""
    torch.manual_seed(seed)
    writers, batch = len(counts), max(counts)
    start = nn.utils.parameters_to_vector(expert.parameters()).detach()
    parameters = start + 0.1 * torch.randn(writers, len(start))
    into = torch.zeros_like(parameters)
    write = gradient(expert, parameters, into, batch)
    for _ in range(2):  # what is left of one step must not show in the next
        shape = expert.architecture.observation.shape
        scaled = (torch.rand(writers, batch, *shape) - 0.5).relu()
        labels = torch.randint(0, 5, (writers, batch))
        write(scaled, labels, torch.tensor(counts))
        for i, count in enumerate(counts):
            nn.utils.vector_to_parameters(parameters[i], expert.parameters())
            expert.requires_grad_()
            loss = F.cross_entropy(expert(scaled[i, :count]), labels[i, :count])
            expected = torch.autograd.grad(loss, list(expert.parameters()))
            torch.testing.assert_close(
                into[i], torch.cat([g.flatten() for g in expected]), rtol=1e-4, atol=1e-5
            )


@settings(max_examples=40)
@given(
    BLOCKS,
    st.lists(st.integers(1, 9), max_size=2),
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.integers(0, 999),
)
def test_the_gradient_is_torchs(blocks, dense, counts, seed):
    check(layered(blocks, dense), counts, seed)


@pytest.mark.parametrize("architecture", [LENET5, *UNKNOWN.values()], ids=["lenet5", *UNKNOWN])
def test_the_gradient_of_any_expert_is_torchs(architecture):
    check(expert_of(architecture, 5), [3, 1], seed=0)


@torch.inference_mode()
def test_lenet_is_differentiated_by_hand():
    """Where torch cannot differentiate."""
    for architecture, by_hand in ((LENET5, True), (UNKNOWN["unpooled"], False)):
        expert = expert_of(architecture, 5)
        parameters = nn.utils.parameters_to_vector(expert.parameters())[None]
        into = torch.zeros_like(parameters)
        step = torch.rand(1, 2, 28, 28), torch.zeros(1, 2, dtype=torch.int64), torch.tensor([2])
        if by_hand:
            gradient(expert, parameters, into, batch=2)(*step)
            assert into.any()
        else:
            with pytest.raises(RuntimeError):
                gradient(expert, parameters, into, batch=2)(*step)
