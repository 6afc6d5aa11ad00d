import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw.personalization.replay import (
    HELD_BACK,
    Floats,
    Policy,
    PowerLaw,
    Replay,
)

GLYPH = np.zeros((28, 28), np.uint8)
FEATURES = np.zeros(84, np.float32)
UNIFORM = PowerLaw(0.0)
"""Reservoir sampling (Vitter 1985)."""


def newest(age: Floats, luck: Floats) -> Floats:
    return -age


def newest_few(age: Floats, luck: Floats) -> Floats:
    return np.where(age < 4, -age, -np.inf)


POLICIES = [PowerLaw(), PowerLaw(0.3), UNIFORM, newest, newest_few]


def filled(policy: Policy, characters: int, capacity: int = 2000, seed: int = 0) -> Replay:
    replay = Replay(policy, capacity, seed)
    for position in range(characters):
        replay = replay.add(GLYPH, FEATURES, position % 62)
    return replay


def kept_positions(replay: Replay) -> list[int]:
    kept = replay.rehearsed(replay.capacity) + replay.held_back(replay.capacity)
    return sorted(sample.position for sample in kept)


@given(
    st.sampled_from(POLICIES[:-1]),
    st.integers(HELD_BACK, 40),
    st.integers(1, 100),
    st.integers(0, 9),
)
def test_never_more_than_the_capacity_and_the_newest_always_kept(
    policy, capacity, characters, seed
):
    replay = Replay(policy, capacity, seed)
    for position in range(characters):
        replay = replay.add(GLYPH, FEATURES, 0)
        kept = kept_positions(replay)
        assert len(kept) == len(replay) == min(capacity, position + 1)
        assert kept[-1] == position
    assert replay.next_position == characters


@given(st.sampled_from(POLICIES), st.integers(1, 80), st.integers(1, 80), st.integers(0, 9))
def test_the_learned_and_the_held_back_are_apart_and_in_order(policy, characters, n, seed):
    replay = filled(policy, characters, capacity=48, seed=seed)
    rehearsed = [sample.position for sample in replay.rehearsed(n)]
    held_back = [sample.position for sample in replay.held_back(n)]
    assert len(rehearsed) <= n
    assert rehearsed == sorted(set(rehearsed))
    assert held_back == sorted(set(held_back))
    assert not any(position % HELD_BACK == HELD_BACK - 1 for position in rehearsed)
    assert all(position % HELD_BACK == HELD_BACK - 1 for position in held_back)
    assert set(rehearsed) <= {sample.position for sample in replay.rehearsed(n + 1)}


@pytest.mark.parametrize("policy", [PowerLaw(), UNIFORM, newest])
def test_all_are_rehearsed_while_they_are_few(policy):
    replay = filled(policy, characters=30)
    expected = [p for p in range(30) if p % HELD_BACK != HELD_BACK - 1]
    assert [sample.position for sample in replay.rehearsed(27)] == expected


@pytest.mark.parametrize(("policy", "exponent"), [(PowerLaw(1.5), 1.5), (UNIFORM, 0.0)])
def test_an_age_is_rehearsed_as_often_as_the_policy_says(policy, exponent):
    characters, seeds = 20, 3000
    newest = characters - 1
    chosen = [
        filled(policy, characters, seed=seed).rehearsed(1)[0].position for seed in range(seeds)
    ]
    learnable = np.array([p for p in range(characters) if p % HELD_BACK != HELD_BACK - 1])
    expected = (newest - learnable + 1.0) ** -exponent
    expected /= expected.sum()
    observed = np.bincount(chosen, minlength=characters)[learnable] / seeds
    assert (np.abs(observed - expected) < 4 * np.sqrt(expected / seeds)).all()


def test_a_full_uniform_store_is_a_fair_sample_of_the_whole_stream():
    characters, capacity, seeds = 40, 10, 1000
    times = np.zeros(characters)
    for seed in range(seeds):
        times[kept_positions(filled(UNIFORM, characters, capacity, seed))] += 1
    assert times[-1] == seeds
    fair = (capacity - 1) / (characters - 1)
    assert (np.abs(times[:-1] / seeds - fair) < 4 * np.sqrt(fair / seeds)).all()


def test_a_full_power_law_store_is_younger_than_a_uniform_one_and_older_than_a_recent_one():
    young, between, old = (
        np.mean([np.mean(kept_positions(filled(policy, 300, 50, seed))) for seed in range(5)])
        for policy in (newest, PowerLaw(1.0), UNIFORM)
    )
    assert young > between + 20 > old + 40


def test_recent_keeps_and_rehearses_the_newest():
    replay = filled(newest, characters=50, capacity=16)
    assert kept_positions(replay) == list(range(34, 50))
    assert [sample.position for sample in replay.rehearsed(3)] == [46, 48, 49]


def test_no_rehearsal_learns_from_nothing_old_but_is_still_judged():
    replay = filled(newest_few, characters=50)
    assert [sample.position for sample in replay.rehearsed(100)] == [46, 48, 49]
    assert [sample.position for sample in replay.held_back(100)] == [7, 15, 23, 31, 39, 47]


def test_the_choice_follows_from_the_seed():
    first, again, other = (
        [sample.position for sample in filled(PowerLaw(), 100, 50, seed).rehearsed(20)]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_the_stored_glyph_is_a_copy():
    glyph = np.full((28, 28), 7, np.uint8)
    replay = Replay(newest).add(glyph, FEATURES, 0)
    glyph[:] = 0
    assert (replay.rehearsed(1)[0].observation == 7).all()


def test_a_capacity_without_room_for_one_held_back_is_refused():
    with pytest.raises(InputError, match="capacity: 3"):
        Replay(UNIFORM, capacity=3)


def test_what_makes_room_and_what_is_removed_is_gone():
    replay = filled(newest, 16, capacity=16).add(GLYPH, FEATURES, 7)
    assert kept_positions(replay) == list(range(1, 17))
    replay = replay.remove({3, 16})
    assert kept_positions(replay) == [1, 2, *range(4, 16)]
    assert replay.next_position == 17
    replay = replay.add(GLYPH, FEATURES, 7)
    assert kept_positions(replay) == [1, 2, *range(4, 16), 17]


@given(st.sampled_from(POLICIES), st.integers(0, 30), st.integers(0, 9))
def test_a_replay_never_changes(policy, characters, position):
    replay = filled(policy, characters, capacity=16)
    before, samples = dict(vars(replay)), [*replay.samples]
    replay.add(GLYPH, FEATURES, 1)
    replay.remove({position})
    replay.skip_to(position)
    assert vars(replay) == before
    assert all(kept is sample for kept, sample in zip(replay.samples, samples, strict=True))


@given(st.sets(st.integers(0, 60), min_size=1), st.integers(0, 9))
def test_luck_follows_from_the_place_whatever_is_left_out(positions, seed):
    """As it must, where a store knows again only what is still kept."""
    whole, some = Replay(seed=seed), Replay(seed=seed)
    for position in range(max(positions) + 1):
        whole = whole.add(GLYPH, FEATURES, 0)
        if position in positions:
            some = some.skip_to(position).add(GLYPH, FEATURES, 0)
    lucks = {sample.position: sample.luck for sample in whole.samples}
    assert {sample.position: sample.luck for sample in some.samples} == {
        position: lucks[position] for position in positions
    }
    assert some.skip_to(0).next_position == whole.next_position


def test_what_is_held_back_is_not_learnable():
    replay = filled(PowerLaw(), 20)
    assert [s.position for s in replay.learnable] == [*range(7), *range(8, 15), *range(16, 20)]
