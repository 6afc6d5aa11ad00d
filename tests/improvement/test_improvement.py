from dataclasses import replace

import numpy as np
import pytest

from fedhw.errors import InputError
from fedhw.experts.evaluation import accuracy, looks_worse, recognised
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.improvement.contribution import Task
from fedhw.improvement.improvement import Improvement, ImprovementState, Recipe
from fedhw.improvement.local_update import LocalTraining, flat
from fedhw.improvement.public import Public
from fedhw.improvement.server_optimiser import FedMuon
from fedhw.release.release import Release
from tests.fed_avg_m import FedAvgM

RECIPE = Recipe(
    rounds=15,
    rate=0.03,
    noise=0.0,
    writers=4,
    optimiser=FedAvgM(1.0, 0.7),
    training=LocalTraining(epochs=4),
)
PEOPLE = synthetic_writers(range(300, 308), 124)
STRANGERS = synthetic_writers(range(400, 410), 62)


def contributions(
    improvement: Improvement, state: ImprovementState, task: Task
) -> list[np.ndarray]:
    expert = improvement.start(state)
    own = [PEOPLE.take(PEOPLE.rows_of(w)) for w in range(task.devices)]
    return [
        task.contribution(
            improvement.recipe.training.update(
                expert, one.observations, one.labels, task.rate, seed=w
            )
        )
        for w, one in enumerate(own)
    ]


def run(improvement: Improvement) -> ImprovementState:
    state = improvement.begin()
    for _ in range(improvement.recipe.rounds):
        task = improvement.task(state, len(PEOPLE.names), 6)
        total = sum(contributions(improvement, state, task))
        state = improvement.advance(state, task, total, len(PEOPLE.names))
    return state


def test_it_makes_the_expert_better_for_people_whom_nobody_trained_on(
    running: Release, public: Public
) -> None:
    improvement = Improvement(running.expert, public, RECIPE)
    better = improvement.expert(run(improvement))
    before, after = (
        accuracy(expert, STRANGERS.observations, STRANGERS.labels)
        for expert in (running.expert, better)
    )
    assert after > before + 0.05
    generic = public.validation
    assert accuracy(better, generic.observations, generic.labels) > accuracy(
        running.expert, generic.observations, generic.labels
    )


def test_the_expert_is_the_mean_over_the_second_half(running: Release, public: Public) -> None:
    recipe = Recipe(rounds=6, rehearsal=0.0, optimiser=FedAvgM(1.0, 0.0))
    improvement = Improvement(running.expert, public, recipe)
    state, passed = improvement.begin(), []
    for step in (1, 2, 4, 8, 16, 32):
        task = improvement.task(state, 8, 6)
        update = np.full(task.entries - 1, step, np.float32)
        state = improvement.step(state, task, update, within=0.5)
        passed.append(flat(improvement.start(state)))
    np.testing.assert_allclose(
        flat(improvement.expert(state)), np.mean(passed[3:], axis=0), rtol=1e-5
    )


def test_a_state_on_the_disk_goes_on_as_the_same(running: Release, public: Public) -> None:
    recipe = replace(RECIPE, optimiser=FedMuon(0.01, 0.5))
    improvement = Improvement(running.expert, public, recipe)
    state = improvement.begin()
    task = improvement.task(state, 8, 6)
    total = sum(contributions(improvement, state, task))
    state = improvement.advance(state, task, total, 8)
    kept = ImprovementState.from_bytes(state.to_bytes())
    assert kept.round == 1
    assert kept.radius == state.radius
    assert improvement.task(kept, 8, 6) == improvement.task(state, 8, 6)
    np.testing.assert_array_equal(kept.average, state.average)
    assert np.any(state.velocity)
    np.testing.assert_array_equal(kept.velocity, state.velocity)


@pytest.mark.parametrize("content", [b"", b"\0" * 64, ImprovementState.to_bytes])
def test_a_damaged_state_is_named(content: object, running: Release, public: Public) -> None:
    if callable(content):
        content = content(Improvement(running.expert, public, RECIPE).begin())[:-9]
    with pytest.raises(InputError, match="fedhw server improve"):
        ImprovementState.from_bytes(content)


def test_a_sum_that_nobody_honest_made_is_dropped(running: Release, public: Public) -> None:
    improvement = Improvement(running.expert, public, RECIPE)
    state = improvement.begin()
    task = improvement.task(state, 8, 6)
    total = sum(contributions(improvement, state, task)) + 100_000
    with pytest.raises(InputError, match="sum"):
        improvement.advance(state, task, total, 8)


def test_without_rehearsal_the_step_is_the_devices_mean(running: Release, public: Public) -> None:
    improvement = Improvement(
        running.expert, public, replace(RECIPE, rehearsal=0.0, optimiser=FedAvgM(1.0, 0.0))
    )
    state = improvement.begin()
    task = improvement.task(state, 8, 6)
    update = np.full(task.entries - 1, 1e-3, np.float32)
    after = improvement.step(state, task, update, within=0.5)
    np.testing.assert_allclose(after.parameters, flat(running.expert) + 1e-3, rtol=1e-5, atol=1e-6)
    assert after.radius == state.radius


def test_the_radius_follows_the_norms(running: Release, public: Public) -> None:
    improvement = Improvement(running.expert, public, replace(RECIPE, rehearsal=0.0))
    state = improvement.begin()
    task = improvement.task(state, 8, 6)
    none = np.zeros(task.entries - 1, np.float32)
    assert improvement.step(state, task, none, within=1.0).radius < state.radius
    assert improvement.step(state, task, none, within=0.0).radius > state.radius


def test_it_goes_no_farther_than_public_characters_allow(running: Release, public: Public) -> None:
    improvement = Improvement(running.expert, public, RECIPE)
    begun, characters = improvement.begin(), public.validation
    away = np.random.default_rng(0).normal(size=len(begun.average)).astype(np.float32)
    before = recognised(running.expert, characters.observations, characters.labels)
    shares = []
    for size in np.geomspace(1e-3, 1, 40, dtype=np.float32):
        state = begun._replace(average=begun.average + size * away)
        expert = improvement.expert(state)
        share = float((flat(expert) - begun.average) @ away) / float(size * (away @ away))
        after = recognised(expert, characters.observations, characters.labels)
        shares.append(round(share, 2))
        assert shares[-1] == 1 or not looks_worse(after, before)
    assert shares[0] == shares[-1] == 1  # all the way where it harms nothing, or nothing helps
    assert 0.5 <= min(shares) < 1
