import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from fedhw.experts.cost import macs_of
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.personalization.learner import Learner
from fedhw.personalization.method import Activations, pad_cohort
from fedhw.research.baselines import (
    METHODS,
    ClassMeans,
    ClassPrior,
    DistanceGate,
    FullTuning,
    GlobalOnly,
    HeadTuning,
    NearestClassMean,
    NearestNeighbours,
    Ungated,
    best_reach,
)

FEW = {0: 20, 1: 7, 2: 62}


@pytest.fixture(scope="module")
def cohort(world):
    return world.cohort(FEW)


def learn(method, world, cohort):
    return method.learn(world.expert, cohort, world.sketch, seed=0)


def accuracy(scores, cohort):
    right = (scores.argmax(-1) == cohort.labels) & cohort.mask
    return (right.sum() / cohort.mask.sum()).item()


def own_features(cohort, writer):
    mask = cohort.mask[writer]
    return cohort.activations.features[writer][mask], cohort.labels[writer][mask]


@pytest.mark.parametrize("name", ["moe", "head", "full", "knn", "ncm", "le", "distance-gate"])
def test_what_was_learned_is_known(world, cohort, name):
    scores = learn(METHODS[name], world, cohort).scores(cohort.activations)
    assert accuracy(scores, cohort) > accuracy(cohort.activations.scores, cohort) + 0.1


def test_the_global_expert_speaks_for_itself(world, cohort):
    assert torch.equal(
        learn(GlobalOnly(), world, cohort).scores(cohort.activations), cohort.activations.scores
    )


def test_a_step_of_head_tuning_is_down_the_gradient(world, cohort):
    tuned = learn(HeadTuning(steps=1, rate=0.5), world, cohort)
    rate = 0.5 / world.sketch.features().square().sum(-1).mean()
    for writer in range(3):
        weight, bias = (p.detach().clone().requires_grad_() for p in world.expert.head.parameters())
        features, labels = own_features(cohort, writer)
        F.cross_entropy(F.linear(features, weight, bias), labels).backward()
        expected = F.linear(
            world.generic.features, weight - rate * weight.grad, bias - rate * bias.grad
        )
        scores = tuned.scores(world.generic)[writer]
        torch.testing.assert_close(scores, expected[0], rtol=1e-4, atol=1e-4)


def test_full_tuning_moves_every_layer_of_a_copy(world, cohort):
    tuned = learn(FullTuning(steps=1), world, cohort)
    for expert in tuned.experts:
        for own, everybody in zip(expert.parameters(), world.expert.parameters(), strict=True):
            assert not torch.equal(own, everybody)


def test_full_tuning_can_start_from_a_frozen_expert(world, cohort):
    world.expert.requires_grad_(False)
    try:
        tuned = learn(FullTuning(steps=2), world, cohort)
    finally:
        world.expert.requires_grad_(True)
    assert not torch.equal(tuned.scores(world.generic)[:1], world.generic.scores)


def test_neighbours_vote_by_their_distance(world, cohort):
    memory = learn(NearestNeighbours(neighbours=10, trust=0.3), world, cohort)
    probability = memory.scores(world.generic).exp()
    everybody = world.generic.scores[0].softmax(-1)
    for writer in range(3):
        features, labels = own_features(cohort, writer)
        difference = world.generic.features[0, :, None] - features
        similarity = (-difference.double().square().mean(-1)).exp()
        for glyph in range(0, 124, 20):
            nearest = similarity[glyph].topk(min(10, len(labels))).indices
            votes = np.bincount(labels[nearest], similarity[glyph, nearest], minlength=62)
            expected = 0.3 * votes / votes.sum() + 0.7 * everybody[glyph].numpy()
            np.testing.assert_allclose(probability[writer, glyph], expected, atol=1e-5)


def test_a_trusted_nearest_neighbour_is_a_memory(world, cohort):
    memory = learn(NearestNeighbours(neighbours=1, trust=1.0), world, cohort)
    assert accuracy(memory.scores(cohort.activations), cohort) == 1


def test_without_trust_neighbours_are_not_heard(world, cohort):
    scores = learn(NearestNeighbours(trust=0.0), world, cohort).scores(cohort.activations)
    torch.testing.assert_close(scores.softmax(-1), cohort.activations.scores.softmax(-1))


def test_the_nearest_class_mean_wins(world, cohort):
    guess = learn(NearestClassMean(), world, cohort).scores(world.generic).argmax(-1)
    for writer in range(3):
        features, labels = own_features(cohort, writer)
        known = labels.unique()
        means = torch.stack([features[labels == c].mean(0) for c in known])
        expected = known[torch.cdist(world.generic.features[0], means).argmin(-1)]
        assert torch.equal(guess[writer], expected)


def test_the_prior_follows_what_a_writer_writes(world):
    labels = world.labels[0]
    digits = np.flatnonzero(labels < 10)
    cohort = pad_cohort(world.expert, [world.observations[0][digits]], [labels[digits]])
    bias = learn(ClassPrior(), world, cohort).bias[0, 0]
    assert bias[:10].min() > 0 > bias[10:].max()
    faint = learn(ClassPrior(strength=1e9), world, cohort).bias
    torch.testing.assert_close(faint, torch.zeros(1, 1, 62), atol=1e-5, rtol=0)


def test_without_a_gate_the_local_expert_is_always_heard(world, cohort):
    recipe = Learner(rank=3, steps=5)
    local = learn(Ungated(recipe), world, cohort)
    mixture = learn(Learner(rank=3, steps=5, gated=False), world, cohort).mixture
    assert (mixture.opening(world.generic.features, world.generic.scores) == 1).all()
    shown = (world.generic.features, world.generic.scores)
    torch.testing.assert_close(local.scores(world.generic), mixture.scores(*shown))


def test_the_distance_gate_is_all_or_nothing(world, cohort):
    gated = learn(DistanceGate(), world, cohort)
    glyphs = Activations(*(part[[0, 0, 0]] for part in world.generic))
    near = gated.means.distances(glyphs.features).amin(-1) <= gated.reach
    assert 0 < near.float().mean() < 1
    scores = gated.scores(glyphs)
    assert torch.equal(scores[near], gated.residual.scores(glyphs)[near])
    assert torch.equal(scores[~near], glyphs.scores[~near])


def test_the_distance_gate_opens_more_for_its_writer(world):
    twice = synthetic_writers(range(100, 110), characters=124)
    rows = [twice.rows_of(w) for w in range(10)]
    cohort = pad_cohort(
        world.expert, [twice.observations[r] for r in rows], [twice.labels[r] for r in rows]
    )
    gated = learn(DistanceGate(), world, cohort)
    own = (gated.means.distances_without_self(cohort).amin(-1) <= gated.reach).float()
    generic = (gated.means.distances(world.generic.features).amin(-1) <= gated.reach).float()
    assert own.mean() > generic.mean() + 0.2


def test_a_glyph_is_no_evidence_for_itself(world):
    images, labels = world.observations[0][:6], np.array([3, 3, 3, 5, 5, 9], np.int64)
    cohort = pad_cohort(world.expert, [images], [labels])
    features = cohort.activations.features[0]
    far = ClassMeans.of(cohort, 62).distances_without_self(cohort)[0]
    for i, label in enumerate(labels):
        for c in (3, 5, 9):
            others = [j for j in range(6) if labels[j] == c and j != i]
            expected = (
                (features[i] - features[others].mean(0)).square().mean() if others else math.inf
            )
            assert far[i, c] == pytest.approx(float(expected), rel=1e-4), (label, c)
    assert far[:, 0].isinf().all()


distances = st.lists(st.integers(0, 20).map(float), min_size=1, max_size=12)


@given(distances, distances, st.integers(0, 3))
def test_the_reach_parts_own_from_generic_as_well_as_any(own, generic, padding):
    padded = torch.tensor([own + [math.inf] * padding])
    mask = torch.arange(padded.shape[1])[None] < len(own)
    reach = best_reach(padded, mask, torch.tensor([generic])).item()

    def parted(r):
        return np.mean(np.array(own) <= r) - np.mean(np.array(generic) <= r)

    # Where a generic glyph is exactly as far as an own one the order of the two is free.
    if not set(own) & set(generic):
        assert parted(reach) == pytest.approx(max(0, *(parted(r) for r in own + generic)))
    assert reach == -1 or reach in own + generic


def test_costs_are_counted(world, cohort):
    one = Activations(*(part[:, :1] for part in world.generic))
    for name, macs in {
        "ge": 0,
        "head": 84 * 62,
        "knn": 62 * 84,
        "prior": 0,
        "le": 84 * 10 + 10 * 62,
        "distance-gate": 84 * 10 + 10 * 62 + 84 * 62,
    }.items():
        personal = learn(METHODS[name], world, cohort)
        assert macs_of(lambda personal=personal: personal.scores(one)) == 3 * macs
