import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from fedhw.release.release import Release
from fedhw.system.clock import SettableClock
from fedhw.system.sqlite import StoreError
from fedhw_client.agent.background_learner import BackgroundLearner
from fedhw_client.agent.correction import Correction
from fedhw_client.agent.durable_person import DurablePerson
from fedhw_client.store.corrections import Store
from tests.releases import changed, shuffled
from tests.waiting import until

CROSS = np.maximum(np.eye(28, dtype=np.uint8), np.eye(28, dtype=np.uint8)[::-1]) * 255


class Working(SettableClock):
    """By which each pause of a learning follows some work; nobody waits."""

    def sleep(self, seconds: float) -> None:
        self.work(0.5)


@pytest.fixture
def durable(release: Release, tmp_path: Path) -> Iterator[DurablePerson]:
    with closing(Store(tmp_path / "device.db")) as store:
        yield DurablePerson(release, store, 64, SettableClock())


@pytest.fixture
def learner(durable: DurablePerson) -> Iterator[BackgroundLearner]:
    learner = BackgroundLearner(durable, lambda: None, Working())
    yield learner
    learner.close()


def test_what_is_due_is_learned_once(learner, durable):
    durable.learn([Correction(CROSS, "Q")] * 3)
    learner.wake_if_due()
    assert not learner.is_learning
    durable.learn([Correction(CROSS, "Q")])
    learner.wake_if_due()
    until(lambda: not learner.is_learning)
    assert learner.learnings == durable.in_use.person.version == 1
    assert durable.in_use.recogniser.predict_one(CROSS).label == "Q"
    learner.wake_if_due()
    assert not learner.is_learning


def test_strokes_with_y_upward_are_warned_of(learner, durable, unseen_writers):
    flipped = unseen_writers.observations[:64, ::-1]
    labels = unseen_writers.labels[:64]
    named = [durable.in_use.release.labels[label] for label in labels]
    durable.learn([Correction(*one) for one in zip(flipped, named, strict=True)])
    with capture_logs() as logs:
        learner.wake()
        until(lambda: not learner.is_learning)
    [told] = [one["event"] for one in logs if one["log_level"] == "warning"]
    assert told.endswith("upside down; give strokes with y downward")


def test_a_learning_costs_the_processor_time_of_its_thread(learner, durable):
    durable.learn([Correction(CROSS, "Q")] * 8)
    learner.wake()
    until(lambda: not learner.is_learning)
    once = learner.learning_seconds
    assert once > 0
    learner.wake()
    until(lambda: learner.learnings == 2)
    assert learner.learning_seconds == 2 * once


def test_nothing_is_learned_while_it_is_paused(learner, durable):
    durable.learn([Correction(CROSS, "Q")] * 8)
    with learner.paused():
        learner.wake()
        assert learner.is_learning
        assert learner.learnings == 0
    until(lambda: not learner.is_learning)
    assert learner.learnings == 1


def test_it_says_when_it_begins_and_when_it_has_ended(durable):
    heard: list[bool] = []
    durable.learn([Correction(CROSS, "Q")] * 8)
    learner = BackgroundLearner(durable, lambda: heard.append(learner.is_learning), Working())
    with closing(learner):
        learner.wake()
        until(lambda: heard[-1:] == [False])
    assert heard[0]


def test_closed_while_a_learning_waits_for_its_turn_it_ends(durable):
    begun = threading.Event()
    learner = BackgroundLearner(durable, begun.set, Working())
    with learner.paused():
        learner.wake()
        assert begun.wait(60)
        closing_it = threading.Thread(target=learner.close)
        closing_it.start()
    closing_it.join(60)
    assert not closing_it.is_alive()
    assert not learner.is_alive


def test_once_closed_it_learns_for_no_release(learner, durable, release):
    learner.close()
    for learn in (lambda r: learner.adopt(r, lambda: None), learner.evaluate):
        with pytest.raises(StoreError, match="stopping"):
            learn(changed(release, shuffled(1)))
    assert durable.in_use.release is release


def test_the_same_files_under_another_name_keep_what_was_learned(learner, durable, release):
    durable.learn([Correction(CROSS, "Q")] * 8)
    learner.wake()
    until(lambda: not learner.is_learning)
    mixture, version = durable.in_use.person.mixture, durable.in_use.person.version
    assert learner.adopt(changed(release, lambda expert, sketch: sketch, version=3), lambda: None)
    assert durable.in_use.person.release == durable.in_use.release.manifest.name
    assert durable.in_use.release.manifest.version == release.manifest.version + 3
    assert durable.in_use.person.mixture is mixture
    assert durable.in_use.person.version == version


class Failing(torch.nn.Linear):
    """The head of a plug-in, which fails on many samples at once."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        raise OSError("no such accelerator")


def test_whatever_a_release_raises_the_learner_goes_on(release, tmp_path):
    failing = changed(release, lambda expert, sketch: sketch)
    failing.expert.head.__class__ = Failing
    clock = SettableClock()
    with closing(Store(tmp_path / "device.db")) as store:
        durable = DurablePerson(failing, store, 64, clock)
        with closing(BackgroundLearner(durable, lambda: None, Working())) as learner:
            durable.learn([Correction(CROSS, "Q")] * 8)
            learner.wake()
            until(lambda: durable.in_use.person.has_failed)
            until(lambda: not learner.is_learning)
            assert learner.is_alive
            durable.learn([Correction(CROSS, "Q")] * 8)
            learner.wake_if_due()
            until(lambda: learner.learnings == 2)
            assert durable.in_use.recogniser.predict_one(CROSS).decided_by == "global"
