import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, from_dtype
from torch import Tensor, nn

from fedhw.experts.architecture import Architecture
from fedhw.experts.gate import CONFIDENCE, Gate
from fedhw.experts.global_expert import GlobalExpert, build, expert_of
from fedhw.experts.layers import Conv1d, Conv2d, Flatten, Linear, MaxPool1d, MaxPool2d, Relu
from fedhw.experts.local_expert import LocalExpert
from fedhw.experts.mixture import Mixture
from fedhw.experts.one_sample import OneMixture, compile_for_one_sample, softmax
from fedhw.handwriting.glyph import GLYPH
from fedhw.observation import ObservationType

SHIPPED = ("lenet5", "leaf-cnn")


class Own(GlobalExpert):
    """No sequence of layers at all."""

    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__(architecture)
        self.head = nn.Linear(784, classes)

    def features(self, scaled: Tensor) -> Tensor:
        return scaled.flatten(1).sin()


class Inverted(GlobalExpert):
    """Has layers as others have, and does more with them."""

    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__(architecture)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(2304, classes)

    def features(self, scaled: Tensor) -> Tensor:
        return self.layers(1 - scaled[:, None])


ODD = (Conv2d(3, 2, 1), MaxPool2d(), Conv2d(2, 4), Relu(), MaxPool2d(), Flatten(), Linear(7))
SOUND = (Conv2d(4, 5, 2), Relu(), MaxPool2d(), Conv2d(3, 4), Flatten(), Linear(7), Relu())
WINDOW = (Conv1d(4, 5), Relu(), MaxPool1d(), Conv1d(3, 2, 1), MaxPool1d(), Flatten())
OWN = {
    "own": Architecture(GLYPH, Own),
    "odd": Architecture(GLYPH, ODD),
    "inverted": Architecture(GLYPH, Inverted),
    "sound": Architecture(ObservationType((49, 32), "float32"), SOUND, offset=0.3, divisor=4.0),
    "window": Architecture(ObservationType((6, 31), "int16"), WINDOW),
    "colour": Architecture(ObservationType((3, 9, 8), "uint8"), (*ODD[:1], Flatten())),
    "flat": Architecture(ObservationType((2, 3, 2, 2), "float16"), (Flatten(), Linear(4), Relu())),
}


def experts() -> dict[str, GlobalExpert]:
    torch.manual_seed(3)
    own = {name: expert_of(architecture, 5) for name, architecture in OWN.items()}
    return {name: build(name, 62) for name in SHIPPED} | own


@pytest.mark.parametrize("expert", experts().values(), ids=experts().keys())
@given(data=st.data())
@torch.no_grad()
def test_one_observation_is_seen_as_in_a_batch(expert, data):
    takes = expert.architecture.observation
    bounds = {"min_value": -4, "max_value": 4} if "float" in takes.dtype else {}
    elements = from_dtype(np.dtype(takes.dtype), **bounds)
    observation = data.draw(arrays(takes.dtype, takes.shape, elements=elements))
    features, scores = compile_for_one_sample(expert)(observation)
    expected = expert.features(expert.scale(observation[None]))
    np.testing.assert_allclose(features, expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores, expert.head(expected)[0], rtol=1e-4, atol=1e-4)
    assert features.dtype == scores.dtype == np.float32


def test_a_shipped_architecture_is_not_asked_through_torch():
    for name in SHIPPED:
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
