import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from fedhw.experts.gate import CONFIDENCE, Gate
from fedhw.experts.global_expert import ARCHITECTURES, GlobalExpert, LayeredExpert, as_ink, build
from fedhw.experts.local_expert import LocalExpert
from fedhw.experts.mixture import Mixture
from fedhw.experts.one_sample import OneMixture, compile_for_one_sample, softmax

GLYPHS = arrays(np.uint8, (28, 28))


class Strided(LayeredExpert):
    """Layers that have no numpy form here."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.Tanh(), nn.Flatten())
        self.head = nn.Linear(338, 5)


class Own(GlobalExpert):
    """No sequence of layers at all."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(784, 5)

    def features(self, ink: Tensor) -> Tensor:
        return ink.flatten(1).sin()


class Odd(LayeredExpert):
    """Odd sizes, no biases, a kernel that is not square."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 3, (2, 4), padding=(1, 0), bias=False),
            nn.MaxPool2d(2),
            nn.Conv2d(3, 2, 4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(40, 7, bias=False),
        )
        self.head = nn.Linear(7, 5)


class Inverted(GlobalExpert):
    """Has layers as others have, and does more with them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(2304, 5)

    def features(self, ink: Tensor) -> Tensor:
        return self.layers(1 - ink[:, None])


def experts() -> dict[str, GlobalExpert]:
    torch.manual_seed(3)
    own = {"strided": Strided(), "own": Own(), "odd": Odd(), "inverted": Inverted()}
    return {name: build(name, 62) for name in ARCHITECTURES} | own


@pytest.mark.parametrize("expert", experts().values(), ids=experts().keys())
@given(glyph=GLYPHS)
@torch.no_grad()
def test_one_glyph_is_seen_as_in_a_batch(expert, glyph):
    features, scores = compile_for_one_sample(expert)(glyph)
    expected = expert.features(as_ink(glyph[None]))
    np.testing.assert_allclose(features, expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores, expert.head(expected)[0], rtol=1e-4, atol=1e-4)
    assert features.dtype == scores.dtype == np.float32


def test_a_shipped_architecture_is_not_asked_through_torch():
    for name in ARCHITECTURES:
        expert = build(name, 62)
        look = compile_for_one_sample(expert)
        before = look(np.full((28, 28), 9, np.uint8))[1]
        nn.init.zeros_(expert.head.weight)
        assert np.array_equal(look(np.full((28, 28), 9, np.uint8))[1], before)


@given(st.integers(0, 50), st.floats(0.1, 100))
def test_the_mixture_of_one_glyph_is_the_mixture(seed, scale):
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return scale * torch.randn(*shape, generator=random)

    local = LocalExpert(draw(1, 9, 2), draw(1, 2, 5), draw(1, 1, 5))
    gate = Gate(draw(1, 9 + CONFIDENCE, 1), draw(1, 1, 1))
    mixture = Mixture(local, gate)
    features, scores = draw(1, 1, 9).relu(), draw(1, 1, 5)
    one = OneMixture.of(mixture)
    f, s = features[0, 0].numpy(), scores[0, 0].numpy()
    opening = one.opening(f, s)
    expected = mixture.opening(features, scores).item()
    assert opening == pytest.approx(expected, abs=1e-4)
    blended = s + np.float32(opening) * one.residual(f)
    np.testing.assert_allclose(
        softmax(blended), mixture.scores(features, scores)[0, 0].softmax(-1), rtol=1e-2, atol=2e-3
    )


def test_scores_beyond_every_exponential_are_no_warning(recwarn):
    one = OneMixture(*(np.zeros(s, np.float32) for s in [(4, 2), (2, 3), 3]), np.full(7, -1e4), 0)
    opening = one.opening(np.ones(4, np.float32), np.array([1e4, 0, 0], np.float32))
    assert opening == 0
    assert not recwarn.list
