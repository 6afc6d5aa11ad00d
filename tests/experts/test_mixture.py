import torch

from fedhw.experts.gate import Gate, gate_view
from fedhw.experts.global_expert import build
from fedhw.experts.local_expert import LocalExpert
from fedhw.experts.mixture import Mixture

WRITERS, GLYPHS, DEPTH, CLASSES, RANK = 3, 7, 84, 62, 4


def a_mixture(gate_bias: float = 0.0) -> Mixture:
    local = LocalExpert(
        torch.rand(WRITERS, DEPTH, RANK),
        torch.rand(WRITERS, RANK, CLASSES),
        torch.rand(WRITERS, 1, CLASSES),
    )
    gate = Gate(torch.zeros(WRITERS, DEPTH + 3, 1), torch.full((WRITERS, 1, 1), gate_bias))
    return Mixture(local, gate)


FEATURES, SCORES = torch.rand(1, GLYPHS, DEPTH), torch.randn(1, GLYPHS, CLASSES)


def test_an_open_gate_adds_the_residual_and_a_closed_one_nothing() -> None:
    open_, closed = a_mixture(50.0), a_mixture(-50.0)
    residual = open_.local.residual(FEATURES.expand(WRITERS, -1, -1))
    torch.testing.assert_close(open_.scores(FEATURES, SCORES), SCORES + residual)
    torch.testing.assert_close(
        closed.scores(FEATURES, SCORES), SCORES.expand(WRITERS, -1, -1), atol=1e-5, rtol=0
    )


def test_a_silent_mixture_says_what_the_global_expert_says() -> None:
    silent = Mixture.silent(build("lenet5", CLASSES), RANK)
    assert torch.equal(silent.scores(FEATURES, SCORES), SCORES)


def test_the_gate_sees_the_margin_of_the_global_expert() -> None:
    view = gate_view(FEATURES, SCORES)
    first, second, margin = view[0, :, -3:].T
    assert view.shape == (1, GLYPHS, DEPTH + 3)
    torch.testing.assert_close(first - second, margin)
    torch.testing.assert_close(first, SCORES.softmax(-1).max(-1).values[0])
