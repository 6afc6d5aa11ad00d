"""What is asked of every way of personalising, whatever it does."""

import pickle

import numpy as np
import pytest
import torch

from fedhw.personalization.learner import PersonalMixture
from fedhw.personalization.method import Activations, Cohort, pad_cohort
from fedhw.research.baselines import METHODS, FullTuning

FEW = {0: 20, 1: 7, 2: 31}
RANDOM = {"moe", "le", "distance-gate"}
TESTED = METHODS | {"full": FullTuning(steps=3)}

per_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module")
def learned(world):
    """The three writers' models by every method."""
    cohort = world.cohort(FEW)
    return {n: m.learn(world.expert, cohort, world.sketch, seed=0) for n, m in TESTED.items()}


def take(seen, writers):
    return Activations(*(part[writers] for part in seen))


def parameters(personal):
    return (*personal.mixture.local, *personal.mixture.gate)


def assert_close(one, other):
    """Equal to 1e-5 as probabilities."""
    assert (one.softmax(-1) - other.softmax(-1)).abs().max() < 1e-5


def test_the_methods_are_these():
    names = ["ge", "moe", "head", "full", "knn", "ncm", "prior", "le", "distance-gate"]
    assert list(METHODS) == names


@per_method
def test_learning_and_recognising_change_nothing(world, name):
    cohort = world.cohort(FEW)
    weights = [p.clone() for p in world.expert.parameters()]
    before = pickle.dumps((cohort, world.sketch, world.generic))
    state = torch.get_rng_state()
    personal = TESTED[name].learn(world.expert, cohort, world.sketch, seed=0)
    first = personal.scores(world.generic)
    assert torch.equal(first, personal.scores(world.generic))
    assert not first.requires_grad
    assert pickle.dumps((cohort, world.sketch, world.generic)) == before
    assert all(map(torch.equal, weights, world.expert.parameters()))
    assert torch.equal(torch.get_rng_state(), state)


@per_method
def test_without_samples_a_writer_has_the_global_expert(world, name):
    beside = world.cohort({0: 20, 1: 0})
    alone = Cohort(take(beside.activations, [1]), beside.labels[1:], beside.mask[1:])
    for cohort in (beside, alone):
        personal = TESTED[name].learn(world.expert, cohort, world.sketch, seed=0)
        guess = personal.scores(world.generic).argmax(-1)[-1]
        assert torch.equal(guess, world.generic.scores[0].argmax(-1))


@per_method
def test_a_model_survives_pickling(world, learned, name):
    again = pickle.loads(pickle.dumps(learned[name]))
    assert torch.equal(again.scores(world.generic), learned[name].scores(world.generic))


@per_method
def test_the_seed_is_all_the_luck_there_is(world, learned, name):
    scores = learned[name].scores(world.generic)
    same, other = (
        TESTED[name]
        .learn(world.expert, world.cohort(FEW), world.sketch, seed=seed)
        .scores(world.generic)
        for seed in (0, 1)
    )
    assert torch.equal(same, scores)
    assert torch.equal(other, scores) == (name not in RANDOM)


@per_method
def test_a_writer_learns_the_same_in_any_company(world, name):
    luck = np.random.default_rng(0)
    counts = {w: int(n) for w, n in enumerate(luck.integers(1, 62, 51))}
    counts |= {0: 1, 1: 2, 2: 3, 3: 5, 4: 10, 5: 18, 6: 40, 7: 62}
    many = TESTED[name].learn(world.expert, world.cohort(counts), world.sketch, seed=0)
    among = many.scores(world.generic)
    for w in range(8):
        own = world.cohort({w: counts[w]})
        alone = TESTED[name].learn(world.expert, own, world.sketch, seed=0)
        assert_close(alone.scores(world.generic)[0], among.expand(51, -1, -1)[w])
        if isinstance(alone, PersonalMixture):
            # Fewer digits than of probabilities: b and c are small differences of large numbers.
            for p, company in zip(parameters(alone), parameters(many), strict=True):
                assert (p[0] - company[w]).abs().max() < 1e-4 * company[w].abs().max()


@per_method
def test_glyphs_shown_to_all_are_glyphs_shown_to_each(world, learned, name):
    each = take(world.generic, [0, 0, 0])
    to_all = learned[name].scores(world.generic)
    assert_close(to_all.expand(3, -1, -1), learned[name].scores(each))


@per_method
def test_writers_may_come_in_any_order(world, learned, name):
    turned = {w: FEW[w] for w in (2, 0, 1)}
    personal = TESTED[name].learn(world.expert, world.cohort(turned), world.sketch, seed=0)
    each = take(world.generic, [0, 0, 0])
    assert_close(personal.scores(each), learned[name].scores(each)[[2, 0, 1]])


@per_method
def test_one_sample_or_one_class_is_enough(world, name):
    images, labels = world.observations[0], world.labels[0]
    one_class = np.flatnonzero(labels == labels[0])
    cohort = pad_cohort(
        world.expert, [images[:1], images[one_class]], [labels[:1], labels[one_class]]
    )
    personal = TESTED[name].learn(world.expert, cohort, world.sketch, seed=0)
    scores = personal.scores(world.generic)
    assert not scores.isnan().any()
    assert (scores < np.inf).all()


@per_method
def test_the_numbers_kept_are_counted(world, learned, name):
    (classes, depth), rank = world.expert.head.weight.shape, METHODS["moe"].rank
    local = depth * rank + rank * classes + classes
    kept = {
        "ge": 0,
        "moe": local + depth + 3 + 1,
        "head": depth * classes + classes,
        "full": sum(p.numel() for p in world.expert.parameters()),
        "knn": round(sum(FEW.values()) / len(FEW) * (depth + 1)),
        "ncm": depth * classes + classes,
        "prior": classes,
        "le": local,
        "distance-gate": local + depth * classes + 1,
    }
    assert learned[name].parameter_count() == kept[name]


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"knn"}))
def test_more_samples_take_no_more_memory(world, learned, name):
    twice = world.cohort({writer: 2 * count for writer, count in FEW.items()})
    more = TESTED[name].learn(world.expert, twice, world.sketch, seed=0)
    assert more.parameter_count() == learned[name].parameter_count()
