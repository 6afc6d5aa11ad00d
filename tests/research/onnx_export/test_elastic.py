import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedhw.experts.gate import CONFIDENCE, Gate
from fedhw.experts.local_expert import LocalExpert
from fedhw.experts.mixture import Mixture
from fedhw.personalization.learner import Learner
from fedhw.research.onnx_export.elastic import first, ordered

DEPTH, CLASSES, SAMPLES = 12, 7, 20


@st.composite
def cases(draw: st.DrawFn) -> tuple[Mixture, Tensor]:
    """A mixture and features, at times with twin columns, dead features and uneven scales."""
    random = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    rank = draw(st.integers(1, 10))
    uneven = 10 ** (draw(st.floats(0, 3)) * torch.linspace(-1, 1, rank))

    def drawn(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=random)

    u, v = drawn(DEPTH, rank) * uneven, drawn(rank, CLASSES) / uneven[:, None]
    if draw(st.booleans()):
        u[..., -1], v[:, -1] = u[..., 0], v[:, 0]
    features = drawn(draw(st.integers(0, SAMPLES)), DEPTH).relu()
    features[..., : draw(st.integers(0, DEPTH))] *= draw(st.sampled_from([0.0, 1e-6, 1e3]))
    gate = Gate(drawn(DEPTH + CONFIDENCE, 1), drawn(1, 1))
    return Mixture(LocalExpert(u, v, drawn(1, CLASSES)), gate), features


def lost(mixture: Mixture, cut: Mixture, features: Tensor) -> Tensor:
    """The sum of squares by which residuals change, of each writer."""
    whole, less = (m.local.u.double() @ m.local.v.double() for m in (mixture, cut))
    return (features.double() @ (whole - less)).square().sum((1, 2))


@given(cases())
def test_in_full_it_says_the_same(case):
    mixture, features = case
    turned = ordered(mixture, features)
    assert turned.gate is mixture.gate
    assert turned.local.b is mixture.local.b
    shown = torch.rand(2, 9, DEPTH)
    expected = mixture.local.residual(shown)
    torch.testing.assert_close(
        turned.local.residual(shown), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
    )


@given(cases())
def test_each_rank_loses_the_least_that_it_can(case):
    """By the theorem of Eckart and Young: what is left out of the singular values."""
    mixture, features = case
    turned = ordered(mixture, features)
    whole = features.double() @ (mixture.local.u.double() @ mixture.local.v.double())
    values = torch.linalg.svdvals(whole).square()
    before = values.sum(-1) * (1 + 1e-9)
    for rank in range(mixture.local.u.shape[-1] + 1):
        loss = lost(mixture, first(turned, rank), features)
        least = values[:, rank:].sum(-1)
        tolerance = 1e-5 * values.sum(-1)
        assert (loss <= least + tolerance).all()
        assert (loss <= before + tolerance).all()
        before = loss


def test_rows_that_pad_a_cohort_change_nothing(world):
    cohort = world.cohort({0: 40, 1: 12})
    mixture = Learner().learn(world.expert, cohort, world.sketch, seed=0).mixture
    alone = Mixture(
        LocalExpert(*(part[1:] for part in mixture.local)), Gate(*(p[1:] for p in mixture.gate))
    )
    together = first(ordered(mixture, cohort.activations.features), 3)
    single = first(ordered(alone, cohort.activations.features[1:, :12]), 3)
    features, scores = cohort.activations.features[1:, :12], cohort.activations.scores[1:, :12]
    expected = single.scores(features, scores)
    found = together.scores(cohort.activations.features, cohort.activations.scores)[1:, :12]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_was_learned_is_worth_more_in_order_than_as_it_came(world):
    cohort = world.cohort(dict.fromkeys(range(8), 62))
    mixture = Learner().learn(world.expert, cohort, world.sketch, seed=0).mixture
    features = cohort.activations.features
    for rank in (1, 2, 4, 8):
        in_order = lost(mixture, first(ordered(mixture, features), rank), features)
        assert (in_order < 0.8 * lost(mixture, first(mixture, rank), features)).all()


@pytest.mark.parametrize("rank", [10, 11])
def test_a_rank_above_all_columns_is_all_of_them(world, rank):
    silent = Mixture.silent(world.expert, 10)
    assert first(silent, rank).local.u.shape == (1, 84, 10)
