import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fedhw.experts.global_expert import GlobalExpert, LayeredExpert, build
from fedhw.experts.per_writer_gradients import gradient


class Layered(LayeredExpert):
    """Layers that are known, of any number and size."""

    def __init__(self, blocks: list[tuple[int, int, int]], dense: list[int]) -> None:
        super().__init__()
        layers, channels, side = [], 1, 28
        for out, kernel, padding in blocks:
            layers += [nn.Conv2d(channels, out, kernel, padding=padding), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
            channels, side = out, (side + 2 * padding - kernel + 1) // 2
        layers.append(nn.Flatten())
        wide = channels * side**2
        for out in dense:
            layers += [nn.Linear(wide, out), nn.ReLU()]
            wide = out
        self.layers = nn.Sequential(*layers, nn.Linear(wide, 7))
        self.head = nn.Linear(7, 5)


class Twice(LayeredExpert):
    """Known layers, of which one stands there twice."""

    def __init__(self) -> None:
        super().__init__()
        same = nn.Linear(9, 9)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 9), same, nn.ReLU(), same)
        self.head = nn.Linear(9, 5)


class Strided(LayeredExpert):
    """Layers that are not known."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 5, stride=2), nn.Tanh(), nn.Flatten())
        self.head = nn.Linear(288, 5)


class Own(GlobalExpert):
    """No sequence of layers at all, and frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(784, 5).requires_grad_(False)

    def features(self, ink: Tensor) -> Tensor:
        return ink.flatten(1).sin()


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
        ink = (torch.rand(writers, batch, 28, 28) - 0.5).relu()
        labels = torch.randint(0, 5, (writers, batch))
        write(ink, labels, torch.tensor(counts))
        for i, count in enumerate(counts):
            nn.utils.vector_to_parameters(parameters[i], expert.parameters())
            expert.requires_grad_()
            loss = F.cross_entropy(expert(ink[i, :count]), labels[i, :count])
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
    check(Layered(blocks, dense), counts, seed)


@pytest.mark.parametrize(
    "expert", [build("lenet5", 5), Twice(), Strided(), Own()], ids=lambda e: type(e).__name__
)
def test_the_gradient_of_any_expert_is_torchs(expert):
    check(expert, [3, 1], seed=0)


@torch.inference_mode()
def test_lenet_is_differentiated_by_hand():
    """Where torch cannot differentiate."""
    for expert, by_hand in ((build("lenet5", 5), True), (Strided(), False)):
        parameters = nn.utils.parameters_to_vector(expert.parameters())[None]
        into = torch.zeros_like(parameters)
        step = torch.rand(1, 2, 28, 28), torch.zeros(1, 2, dtype=torch.int64), torch.tensor([2])
        if by_hand:
            gradient(expert, parameters, into, batch=2)(*step)
            assert into.any()
        else:
            with pytest.raises(RuntimeError):
                gradient(expert, parameters, into, batch=2)(*step)
