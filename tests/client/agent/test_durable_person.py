"""A person's state on the disk and in memory, without anything that learns in the background."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fedhw.errors import InputError
from fedhw.observation import ObservationType
from fedhw.personalization.learner import Learner
from fedhw.personalization.person import Person, relearn
from fedhw.release.release import Release
from fedhw.system.clock import SettableClock
from fedhw_client.agent.correction import Correction
from fedhw_client.agent.durable_person import DurablePerson, base_of
from fedhw_client.store.corrections import Selection, Store
from tests.releases import changed, shuffled

CROSS = np.maximum(np.eye(28, dtype=np.uint8), np.eye(28, dtype=np.uint8)[::-1]) * 255
BAR = np.zeros((28, 28), np.uint8)
BAR[4:24, 13:15] = 255


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "device.db")
    yield store
    store.close()


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def durable(release: Release, store: Store, clock: SettableClock) -> DurablePerson:
    return DurablePerson(release, store, 16, clock)


def relearned(durable: DurablePerson, forced: bool = False) -> Person:
    in_use = durable.in_use
    [learned] = relearn([in_use.person], base_of(in_use.release), Learner(), forced)
    return learned


def weights(person: Person) -> list[torch.Tensor]:
    assert person.mixture is not None
    return [*person.mixture.local, *person.mixture.gate]


def test_what_made_room_before_it_was_forgotten_is_unlearned_too(durable):
    durable.learn([Correction(CROSS, "Q")] * 12)
    assert durable.take_up(relearned(durable))
    assert durable.in_use.recogniser.predict_one(CROSS).label == "Q"
    for _ in range(40):
        durable.learn([Correction(BAR, "7")] * 12)
    alphabet = durable.in_use.release.labels
    assert {alphabet[s.label] for s in durable.in_use.person.replay.samples} == {"7"}
    # Nothing but the mixture speaks of a Q now.
    assert durable.in_use.recogniser.predict_one(CROSS).label == "Q"
    assert durable.forget(Selection(label="Q")) == 0
    expected = weights(relearned(durable, forced=True))
    torch.testing.assert_close(weights(durable.in_use.person), expected)


def test_what_was_learned_is_put_to_use_with_what_has_come_meanwhile(durable):
    durable.learn([Correction(CROSS, "Q")] * 12)
    learned = relearned(durable)
    durable.learn([Correction(BAR, "7")] * 3)
    assert durable.take_up(learned)
    assert len(durable.in_use.person.replay) == 15
    torch.testing.assert_close(weights(durable.in_use.person), weights(learned))


def test_what_was_learned_of_too_few_is_stale(durable, store):
    durable.learn([Correction(CROSS, "Q")] * 12)
    learned = relearned(durable)
    durable.learn([Correction(BAR, "7")] * 4)
    assert not durable.take_up(learned)
    assert durable.in_use.person.mixture is None
    assert store.personal is None


def test_a_learning_that_begins_is_not_due_again_until_more_has_come(durable):
    durable.learn([Correction(CROSS, "Q")] * 4)
    assert durable.in_use.person.is_due
    begun = durable.try_to_learn()
    assert begun is durable.in_use
    assert not begun.person.is_due
    durable.learn([Correction(CROSS, "Q")] * 4)
    assert durable.in_use.person.is_due


def test_a_restart_brings_back_the_same_state(durable, store, release, clock):
    for number in range(5):
        durable.learn([Correction(CROSS, "Q"), Correction(BAR, "7")] * 2)
        durable.take_up(relearned(durable))
        if number == 3:
            durable.undo()
    before = durable.in_use.person
    after = DurablePerson(release, store, 16, clock).in_use.person
    assert [s[2:] for s in after.replay.samples] == [s[2:] for s in before.replay.samples]
    assert after.replay.next_position == before.replay.next_position
    assert (after.version, after.release) == (before.version, before.release)
    assert (after.ge_accuracy.total, after.accuracy.total) == (
        before.ge_accuracy.total,
        before.accuracy.total,
    )
    for kept, was in zip(weights(after), weights(before), strict=True):
        assert torch.equal(kept, was)


def test_the_type_of_observations_is_recorded_and_checked(durable, store, release, clock):
    assert store.observation == release.observation
    store.set_observation(ObservationType((14, 56), "uint8"))
    assert DurablePerson(release, store, 16, clock).in_use.person.version == 0
    assert store.observation == release.observation  # there was nothing of the other type
    durable.learn([Correction(CROSS, "Q")])
    store.set_observation(ObservationType((14, 56), "uint8"))  # as many bytes
    message = r"takes uint8 \[28, 28\], unlike 1 stored corrections of uint8 \[14, 56\]; give"
    with pytest.raises(InputError, match=message):
        DurablePerson(release, store, 16, clock)
    assert len(store.rows()) == 1


def test_a_move_that_cannot_be_installed_changes_nothing(durable, release):
    durable.learn([Correction(CROSS, "Q")] * 8)
    before = durable.in_use

    def full() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        durable.move(changed(release, shuffled(1)), before.person, full)
    assert durable.in_use is before


def test_corrections_are_dated_by_the_clock(durable, store, clock):
    durable.learn([Correction(CROSS, "Q")])
    clock.set_wall(1_000.0)
    durable.learn([Correction(CROSS, "Q")])
    assert [row.at for row in store.rows()] == [1_750_000_000.0, 1_000.0]


def test_the_newest_corrections_of_another_device_come_last(durable, store, release, tmp_path):
    durable.learn([Correction(CROSS, "Q", "old")])
    with_two = Store(tmp_path / "other.db")
    other = DurablePerson(release, with_two, 16, SettableClock())
    other.learn([Correction(BAR, "7", "new"), Correction(CROSS, "Q", "old")])
    assert durable.take_in(with_two.rows()) == 1
    with_two.close()
    assert [(row.position, row.id) for row in store.rows()] == [(0, "old"), (1, "new")]
