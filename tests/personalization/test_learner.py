import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from fedhw.experts.cost import macs_of
from fedhw.experts.gate import CONFIDENCE, gate_view
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.personalization import learner as module
from fedhw.personalization.learner import Learner, orthogonal
from fedhw.personalization.method import Activations, pad_cohort
from fedhw.release.sketch import Sketch


def learn(learner, world, cohort):
    return learner.learn(world.expert, cohort, world.sketch, seed=0)


def openings(personal, seen):
    return personal.mixture.opening(seen.features, seen.scores)[..., 0]


@pytest.fixture(scope="module")
def cohort(world):
    return world.cohort({0: 20, 1: 7, 2: 62})


@pytest.fixture(scope="module")
def learned(world, cohort):
    return learn(Learner(), world, cohort)


def descend(learner, expert, cohort, writer, sketch, shown):
    """Plain descent on the learner's objective, by autograd; the scores of `shown` at its end."""
    mask = cohort.mask[writer]
    generic = sketch.features()
    centre, spread = generic.mean(0), generic.std(0)
    spread = spread.clamp_min(0.3 * spread.mean())
    depth, classes = expert.head.in_features, expert.head.out_features

    def mixture(features):
        """Scores of the global expert, of the mixture, and the logit of the gate."""
        base = F.linear(features, expert.head.weight, expert.head.bias).detach()
        x = (features - centre) / spread
        z = torch.cat([x @ u, torch.ones(len(x), 1)], 1)
        gate = F.pad(gate_view(x, base), (0, 1), value=1.0) @ w
        return base, base + gate.sigmoid() * (z @ v), gate

    random = torch.Generator().manual_seed(0)
    u = torch.randn(depth, learner.rank, generator=random) / math.sqrt(depth)
    v = torch.zeros(learner.rank + 1, classes)
    w = torch.zeros(depth + CONFIDENCE + 1, 1)
    for p in (u, v, w):
        p.requires_grad_()
    for step in range(learner.steps):
        drawn = torch.randint(len(generic), (learner.rehearsal,), generator=random)
        _, own_scores, own_gate = mixture(cohort.activations.features[writer][mask])
        base, scores, gate = mixture(generic[drawn])
        loss = (
            F.cross_entropy(own_scores, cohort.labels[writer][mask])
            + learner.protect
            * F.kl_div(scores.log_softmax(-1), base.softmax(-1), reduction="batchmean")
            + learner.gating
            * F.binary_cross_entropy_with_logits(own_gate, torch.ones_like(own_gate))
            + learner.gating * F.binary_cross_entropy_with_logits(gate, torch.zeros_like(gate))
        )
        gradients = torch.autograd.grad(loss, (u, v, w))
        cooling = 0.5 * (1 + math.cos(math.pi * step / learner.steps))
        with torch.no_grad():
            for p, gradient, rate in zip(
                (u, v, w),
                gradients,
                (learner.rate, learner.rate, learner.gate_rate),
                strict=True,
            ):
                p -= cooling * rate * gradient
    return mixture(shown)[1]


def test_the_gradient_is_that_of_the_objective(world, cohort, monkeypatch):
    monkeypatch.setattr(module, "orthogonal", lambda m: m)
    learner = Learner(rank=4, steps=6, rehearsal=16, gating=0.5, momentum=0.0)
    learner = replace(learner, rate=1.0, gate_rate=0.5)
    scores = learn(learner, world, cohort).scores(world.generic)
    assert (scores - world.generic.scores).abs().max() > 0.5
    for writer in range(3):
        expected = descend(
            learner, world.expert, cohort, writer, world.sketch, world.generic.features[0]
        )
        torch.testing.assert_close(scores[writer], expected, rtol=1e-4, atol=1e-4)


def test_more_protection_moves_generic_scores_less(world, cohort):
    moved = []
    for protect in (0.0, 1.0, 4.0, 16.0):
        scores = learn(Learner(protect=protect), world, cohort).scores(world.generic)
        moved.append(
            F.kl_div(
                scores.log_softmax(-1),
                world.generic.scores.softmax(-1).expand_as(scores),
                reduction="sum",
            ).item()
        )
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < moved[0] / 10


def test_the_gate_opens_more_for_its_writer(world, cohort, learned):
    own = openings(learned, cohort.activations)
    generic = openings(learned, world.generic)
    for writer, mask in enumerate(cohort.mask):
        assert own[writer][mask].mean() > generic[writer].mean() + 0.1


def test_learning_makes_better(world):
    written = synthetic_writers(range(200, 210), characters=186)
    rows = [written.rows_of(w) for w in range(10)]
    learn_from, held_back = (
        pad_cohort(
            world.expert,
            [written.observations[r[part]] for r in rows],
            [written.labels[r[part]] for r in rows],
        )
        for part in (slice(0, 124), slice(124, 186))
    )
    personal = learn(Learner(), world, learn_from)
    before, after = (
        (scores.argmax(-1) == held_back.labels).float().mean()
        for scores in (held_back.activations.scores, personal.scores(held_back.activations))
    )
    assert after > before + 0.1


def test_a_gate_held_open_stays_open(world, cohort):
    personal = learn(Learner(gated=False), world, cohort)
    assert (openings(personal, world.generic) == 1).all()
    assert personal.scores(world.generic).isfinite().all()


def test_without_steps_nothing_is_said(world, cohort):
    scores = learn(Learner(steps=0), world, cohort).scores(world.generic)
    assert torch.equal(scores, world.generic.scores.expand_as(scores))


def test_recognising_costs_what_the_factors_say(world, learned):
    one = Activations(*(part[:, :1] for part in world.generic))
    rank, depth, classes = Learner().rank, 84, 62
    each = depth * rank + rank * classes + depth + CONFIDENCE
    assert macs_of(lambda: learned.scores(one)) == 3 * each


@given(
    st.integers(1, 4), st.integers(1, 12), st.integers(1, 12), st.floats(0.1, 1e3), st.integers(0)
)
def test_orthogonal_makes_every_direction_as_strong(writers, rows, columns, scale, seed):
    random = torch.Generator().manual_seed(seed % 2**32)
    m = torch.randn(writers, rows, columns, generator=random, dtype=torch.double)
    left, _, right = torch.linalg.svd(m, full_matrices=False)
    strength = scale * (0.5 + 0.5 * torch.rand(left.shape[-1], generator=random))
    near = orthogonal(((left * strength) @ right).float())
    torch.testing.assert_close(near, (left @ right).float(), rtol=0, atol=0.03)


@given(st.integers(0, 3), st.integers(4, 9), st.integers(4, 9), st.integers(0))
def test_orthogonal_makes_no_direction_stronger_than_one(rank, rows, columns, seed):
    random = torch.Generator().manual_seed(seed % 2**32)
    m = torch.randn(1, rows, rank, generator=random) @ torch.randn(
        1, rank, columns, generator=random
    )
    near = orthogonal(m)
    assert near.isfinite().all()
    assert torch.linalg.svdvals(near).max() < 1.001


@pytest.mark.parametrize("writer", [0, 3])
@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf, 3e38])
def test_a_matrix_that_overflows_harms_no_other_writer(number, writer):
    m = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    expected = orthogonal(m)
    m[writer, 1, 2] = number
    others = [w for w in range(4) if w != writer]
    torch.testing.assert_close(orthogonal(m)[others], expected[others])


@pytest.mark.parametrize("number", [torch.nan, torch.inf, 1e30])
def test_a_sample_that_overflows_is_left_out(world, cohort, number):
    features = cohort.activations.features.clone()
    features[0, 2] = number
    scores = world.expert.head(features)
    mask = cohort.mask.clone()
    mask[0, 2] = False
    with_it = cohort._replace(activations=Activations(*cohort.activations[:1], features, scores))
    learned, without = (
        learn(Learner(steps=3), world, c) for c in (with_it, cohort._replace(mask=mask))
    )
    for part, expected in zip(learned.mixture.local, without.mixture.local, strict=True):
        torch.testing.assert_close(part, expected)
    assert learned.mixture.is_usable


def test_a_mixture_that_overflows_is_not_usable(world, cohort):
    sketch = Sketch(world.sketch.steps, torch.full_like(world.sketch.scale, 1e37))
    with torch.no_grad():
        learned = Learner(steps=2).learn(world.expert, cohort, sketch, 0)
    assert not learned.mixture.is_usable
