import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from fedhw.experts.architecture import Architecture
from fedhw.experts.gate import CONFIDENCE, Gate
from fedhw.experts.global_expert import GlobalExpert, build, expert_of
from fedhw.experts.local_expert import LocalExpert
from fedhw.experts.mixture import Mixture
from fedhw.handwriting.glyph import GLYPH
from fedhw.personalization.method import extract_features
from fedhw.research.onnx_export.elastic import first, ordered
from fedhw.research.onnx_export.graph import graph
from tests.research.onnx_export.conftest import Answer, Runtime, in_torch


def check_same(found: Answer, expected: Answer) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * abs(other).max())


class Own(GlobalExpert):
    """Layers that no shipped architecture has."""

    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__(architecture)
        self.first = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU())
        self.head = nn.Linear(4 * 14, classes)

    def features(self, ink: Tensor) -> Tensor:
        seen = self.first(ink[:, None])
        return (seen + self.block(seen)).amax(-1).flatten(1)


def drawn(depth: int, classes: int, rank: int) -> Mixture:
    random = torch.Generator().manual_seed(rank)
    u, v, b, w, c = (
        torch.randn(1, *shape, generator=random) / shape[0] ** 0.5
        for shape in ((depth, rank), (rank, classes), (1, classes), (depth + CONFIDENCE, 1), (1, 1))
    )
    return Mixture(LocalExpert(u, v, b), Gate(w, c))


@pytest.mark.parametrize("rank", [1, 4, 10])
def test_of_a_trained_release_it_says_what_torch_says(release, unseen_writers, mixture, rank):
    glyphs = unseen_writers.observations[unseen_writers.rows_of(0)]
    cut = first(ordered(mixture, extract_features(release.expert, glyphs[None]).features), rank)
    run = Runtime(graph(release.expert, cut))
    for batch in (1, 7):
        check_same(run(glyphs[:batch]), in_torch(release.expert, cut, glyphs[:batch]))
    everything = run(glyphs)
    check_same(everything, in_torch(release.expert, cut, glyphs))
    assert everything.gate.min() < 0.4 < 0.6 < everything.gate.max()
    assert (everything.scores.argmax(1) != everything.ge_scores.argmax(1)).any()


@pytest.mark.parametrize(("architecture", "rank"), [("lenet5", 16), ("leaf-cnn", 8), ("own", 4)])
def test_of_every_architecture_it_says_what_torch_says(unseen_writers, architecture, rank):
    torch.manual_seed(0)
    own = Architecture(GLYPH, Own)
    expert = (expert_of(own, 62) if architecture == "own" else build(architecture, 62)).eval()
    mixture = drawn(expert.head.in_features, 62, rank)
    run = Runtime(graph(expert, mixture))
    for batch in (1, 7):
        glyphs = unseen_writers.observations[:batch]
        check_same(run(glyphs), in_torch(expert, mixture, glyphs))


@pytest.fixture(scope="module")
def run(model: onnx.ModelProto) -> Runtime:
    return Runtime(model)


@given(glyphs=arrays(np.uint8, st.tuples(st.integers(1, 5), st.just(28), st.just(28))))
def test_whatever_is_written_it_says_what_torch_says(run, release, mixture, glyphs):
    check_same(run(glyphs), in_torch(release.expert, mixture, glyphs))


def test_without_a_mixture_the_global_expert_decides(release, unseen_writers):
    glyphs = unseen_writers.observations[:7]
    found = Runtime(graph(release.expert, None))(glyphs)
    np.testing.assert_array_equal(found.scores, found.ge_scores)
    np.testing.assert_array_equal(found.gate, np.zeros((7, 1)))
    expected = extract_features(release.expert, glyphs[None]).scores[0]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-4)


def test_private_tensors_keep_their_names(model, mixture):
    found = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    for name, tensor in (mixture.local._asdict() | mixture.gate._asdict()).items():
        np.testing.assert_array_equal(found[name], tensor)


def test_the_exporter_says_nothing(release, capfd: pytest.CaptureFixture[str], recwarn):
    graph(release.expert, None)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
