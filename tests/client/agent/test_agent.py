import math
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.experts.one_sample import compile_for_one_sample
from fedhw.observation import Labels
from fedhw.personalization.learner import Learner
from fedhw.personalization.person import Person, relearn
from fedhw.personalization.stream import Personalizer
from fedhw.privacy.statistics import Tally
from fedhw.release.release import Release
from fedhw.system.clock import SettableClock
from fedhw_client.agent.agent import CAPACITY, LEARNING_FAILED, MAX_CORRECTIONS, Agent
from fedhw_client.agent.correction import Correction
from fedhw_client.agent.durable_person import base_of
from fedhw_client.store.corrections import Selection, Store
from fedhw_client.store.profile import Profile
from tests.releases import changed, overflowing, shuffled, spoiling
from tests.waiting import until

CROSS = np.maximum(np.eye(28, dtype=np.uint8), np.eye(28, dtype=np.uint8)[::-1]) * 255
BAR = np.zeros((28, 28), np.uint8)
BAR[4:24, 13:15] = 255


def settled(agent: Agent) -> None:
    """Wait until nothing is left to be learned."""
    until(lambda: not agent.status().learning)


def corrections(label: str, n: int, glyph: np.ndarray = CROSS) -> list[Correction]:
    return [Correction(glyph, label) for _ in range(n)]


def weights(person: Person) -> list[torch.Tensor]:
    assert person.mixture is not None
    return [*person.mixture.local, *person.mixture.gate]


def relearned(agent: Agent) -> list[torch.Tensor]:
    """The weights that are learned from all that is kept now, whatever is in use."""
    [person] = relearn([agent.person], base_of(agent.release), Learner(), forced=True)
    return weights(person)


def test_corrected_a_few_times_it_has_learned_in_the_background(agent):
    before = agent.recognize(CROSS)
    assert before.decided_by == "global"
    assert before.le_label is None
    truth = "Q" if before.label != "Q" else "R"
    agent.learn(corrections(truth, 8))
    until(lambda: agent.status().personal_version > 0)
    settled(agent)
    after = agent.recognize(CROSS)
    assert after.label == truth
    assert after.decided_by == "local"
    assert after.ge_label == before.ge_label
    assert after.personal_version == agent.status().personal_version


def test_what_was_learned_survives_a_restart(release, tmp_path):
    agent = Agent(release, Store(tmp_path / "device.db"))
    agent.learn(corrections("Q", 6) + corrections("7", 6, BAR))
    until(lambda: agent.status().personal_version > 0)
    settled(agent)
    expected, status = agent.recognize(CROSS), agent.status()
    agent.close()
    again = Agent(release, Store(tmp_path / "device.db"))
    assert again.recognize(CROSS) == expected
    assert again.status().personal_version == status.personal_version
    assert again.status().accuracy == status.accuracy
    assert again.status().ge_accuracy == status.ge_accuracy
    assert again.status().corrections == 12
    again.close()


def test_without_its_mixture_it_learns_again_at_the_start(release, tmp_path):
    agent = Agent(release, Store(tmp_path / "device.db"))
    agent.learn(corrections("Q", 6))
    until(lambda: agent.status().personal_version > 0)
    settled(agent)
    version = agent.status().personal_version
    agent.close()
    with closing(Store(tmp_path / "device.db")) as store:
        assert store.personal is not None
        store.set_personal(store.personal._replace(release="another"), version)
    again = Agent(release, Store(tmp_path / "device.db"))
    until(lambda: again.status().personal_version > version)
    assert again.recognize(CROSS).label == "Q"
    again.close()


def test_a_glyph_or_label_that_is_none_stores_nothing(agent):
    good = Correction(CROSS, "Q")
    for bad in (
        Correction(CROSS, "é"),
        Correction(CROSS, ""),
        Correction(CROSS, "QQ"),
        Correction(CROSS[:20], "Q"),
        Correction(CROSS.astype(float), "Q"),
        Correction(CROSS, "Q", "x" * 65),
    ):
        with pytest.raises(InputError):
            agent.learn([good, bad])
    with pytest.raises(InputError, match="send them in parts"):
        agent.learn([good] * (MAX_CORRECTIONS + 1))
    assert agent.status().kept == 0
    assert agent.progress(99) == []


def test_a_repeated_call_stores_once(agent):
    named = [Correction(CROSS, "Q", f"name-{i}") for i in range(3)]
    assert agent.learn(named) == agent.learn(named) == ["name-0", "name-1", "name-2"]
    assert agent.learn([named[0], Correction(BAR, "7", "new"), named[0]]) == [
        "name-0",
        "new",
        "name-0",
    ]
    assert [kept.id for kept in agent.recent(9)] == ["new", "name-2", "name-1", "name-0"]
    assert agent.status().corrections == 4


def test_undo_takes_back_the_newest_and_what_it_taught(release, tmp_path):
    undone, never = (
        Agent(release, Store(tmp_path / name / "device.db"))
        for name in ("undone", "never")
        if (tmp_path / name).mkdir() is None
    )
    for agent in (undone, never):
        agent.learn(corrections("7", 4, BAR))
        settled(agent)
    undone.learn(corrections("Q", 2))
    assert [kept.label for kept in (undone.undo(), undone.undo()) if kept] == ["Q", "Q"]
    torch.testing.assert_close(weights(undone.person), relearned(never))
    assert undone.status().accuracy == never.status().accuracy
    assert undone.progress(99) == never.progress(99)
    for _ in range(4):
        assert undone.undo() is not None
    assert undone.undo() is None
    assert undone.recognize(BAR).le_label is None
    for agent in (undone, never):
        agent.close()


def test_what_is_forgotten_is_unlearned_before_the_answer(agent):
    agent.learn(corrections("Q", 12))
    agent.learn(corrections("7", 6, BAR))
    until(lambda: agent.recognize(CROSS).label == "Q")
    assert agent.forget(Selection(label="Q")) == 12
    assert {kept.label for kept in agent.recent(99)} == {"7"}
    # Nothing of a Q is in the mixture: it is the one of the sevens alone.
    torch.testing.assert_close(weights(agent.person), relearned(agent))
    assert agent.forget(Selection()) == 6
    assert agent.recognize(CROSS).decided_by == "global"
    assert agent.recognize(CROSS).le_label is None
    assert agent.status().kept == 0
    assert agent.progress(99) == []


def test_forgetting_while_learning_leaves_nothing_of_it(agent):
    agent.learn(corrections("7", 8, BAR))
    for _ in range(10):
        agent.learn(corrections("Q", 20))
        time.sleep(0.02)  # somewhere in the middle of a learning
        agent.forget(Selection(label="Q"))
        mixture = weights(agent.person)
        settled(agent)
        torch.testing.assert_close(weights(agent.person), mixture)


def test_forgetting_nobody_leaves_the_mixture_alone(agent):
    agent.learn(corrections("7", 8, BAR))
    until(lambda: agent.status().personal_version > 0)
    settled(agent)
    version = agent.status().personal_version
    assert agent.forget(Selection(id="nobody")) == 0
    assert agent.status().personal_version == version


def test_a_profile_moves_a_person(agent, release, tmp_path):
    agent.learn(corrections("Q", 8) + corrections("7", 8, BAR))
    profile = agent.export_profile("correct horse")
    (tmp_path / "new").mkdir()
    new = Agent(release, Store(tmp_path / "new" / "device.db"))
    new.learn(corrections("r", 1))
    assert new.import_profile(profile, "correct horse") == 16
    assert new.import_profile(profile, "correct horse") == 0
    until(lambda: new.recognize(CROSS).label == "Q")

    def content(kept):
        return kept.id, kept.at, kept.label, kept.observation, kept.right

    assert [content(kept) for kept in new.recent(16)] == [content(k) for k in agent.recent(16)]
    with pytest.raises(InputError, match="passphrase"):
        new.import_profile(profile, "wrong horse")
    new.close()


def test_no_more_is_kept_than_there_is_room_for(release, tmp_path):
    agent = Agent(release, Store(tmp_path / "device.db"), capacity=40)
    for _ in range(10):
        agent.learn(corrections("Q", 7))
    assert len(in_memory(agent)) == agent.status().kept == 40
    assert agent.status().corrections == 70
    agent.learn(corrections("Q", 1))
    # What made room for the last one goes with the next one.
    assert len(on_disk(agent)) == 41
    moved = Profile.unseal(agent.export_profile("correct horse"), "correct horse")
    assert len(moved.rows) == 40
    assert [row for row in on_disk(agent) if row in in_memory(agent)] == in_memory(agent)
    agent.close()
    again = Agent(release, Store(tmp_path / "device.db"), capacity=40)
    assert again.status().kept == 40
    assert sum(window.guesses for window in again.progress(99)) == 71
    again.close()


def test_a_status_is_told_after_all_that_is_kept_is_forgotten_by_its_period(release, tmp_path):
    def check(agent: Agent) -> None:
        status = agent.status()
        assert (status.kept, status.accuracy.guesses) == (0, 20)
        assert 0 <= status.accuracy.total <= 1
        assert math.isnan(status.accuracy.recent)

    with closing(Agent(release, Store(tmp_path / "device.db"), capacity=20)) as agent:
        for n in (20, 20, 1):
            agent.learn(corrections("Q", n))
        # The first 20 have made room, but still count.
        assert agent.forget(Selection(end=time.time() + 60)) == 21
        check(agent)
    with closing(Agent(release, Store(tmp_path / "device.db"), capacity=20)) as agent:
        check(agent)
        agent.learn(corrections("Q", 1))
        assert agent.status().accuracy.recent in (0, 1)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_a_release_that_overflows_ends_no_agent_and_a_good_one_mends_it(release, tmp_path):
    with closing(Agent(changed(release, overflowing), Store(tmp_path / "device.db"))) as agent:
        agent.learn(corrections("Q", 8) + corrections("R", 8, BAR))
        until(lambda: agent.status().notices == (LEARNING_FAILED,))
        settled(agent)
        assert agent.is_alive
        assert agent.recognize(CROSS).decided_by == "global"
        assert agent.undo().label == "R"
        assert agent.forget(Selection(label="Q")) == 8
        assert agent.status().notices == (LEARNING_FAILED,)
        assert agent.adopt(better(release, 2))
        assert agent.status().notices == ()
        assert agent.recognize(BAR).label == "R"


def test_what_is_older_than_may_be_kept_is_forgotten(release, tmp_path):
    clock = SettableClock()
    agent = Agent(release, Store(tmp_path / "device.db"), clock=clock)
    agent.learn(corrections("Q", 5))
    clock.advance(3 * 86_400)
    agent.learn(corrections("7", 5, BAR))
    agent.close()
    again = Agent(release, Store(tmp_path / "device.db"), keep_days=2, clock=clock)
    until(lambda: again.status().kept == 5)
    assert {kept.label for kept in again.recent(9)} == {"7"}
    assert again.removals == 1
    again.close()


def test_it_recognises_with_one_mixture_after_another_while_it_learns(
    agent, unseen_writers: WriterSet
):
    stop = threading.Event()

    def correct() -> None:
        number = 0
        while not stop.is_set():
            glyph = unseen_writers.observations[number % len(unseen_writers)]
            label = unseen_writers.classes[unseen_writers.labels[number % len(unseen_writers)]]
            agent.learn([Correction(glyph, label)])
            number += 1
            time.sleep(0.005)

    thread = threading.Thread(target=correct)
    thread.start()
    versions = set()
    deadline = time.monotonic() + 60
    while len(versions) < 4 and time.monotonic() < deadline:
        recognition = agent.recognize(CROSS)
        assert sum(recognition.probabilities) == pytest.approx(1, abs=1e-4)
        versions.add(recognition.personal_version)
        time.sleep(0.001)
    stop.set()
    thread.join()
    assert len(versions) >= 4
    assert agent.status().recognitions > 4


def test_listeners_hear_of_changes_until_they_end(agent):
    heard = []
    end = agent.on_change(lambda: heard.append(agent.status().kept))
    agent.learn(corrections("Q", 2))
    assert 2 in heard
    end()
    heard.clear()
    agent.learn(corrections("Q", 1))
    assert heard == []


def test_the_release_must_know_what_is_stored(agent, release, tmp_path):
    agent.learn(corrections("Q", 2))
    agent.close()
    manifest = replace(release.manifest, labels=Labels(tuple(map(str, range(62)))))
    digits = replace(release, manifest=manifest)
    with (
        closing(Store(tmp_path / "device.db")) as store,
        pytest.raises(InputError, match="does not know the labels of 2 stored"),
    ):
        Agent(digits, store)


def better(release: Release, version: int = 1) -> Release:
    return changed(release, shuffled(version), version)


def handwriting(writers: WriterSet, n: int, writer: int = 0) -> list[Correction]:
    own = writers.take(writers.rows_of(writer)[:n])
    return [
        Correction(glyph, own.classes[label])
        for glyph, label in zip(own.observations, own.labels, strict=True)
    ]


def test_with_nothing_learned_a_release_is_adopted_at_once(agent, release):
    assert agent.adopt(better(release))
    recognition = agent.recognize(CROSS)
    assert agent.release_name == recognition.release == better(release).manifest.name
    assert agent.release_name == agent.status().release != release.manifest.name
    assert (recognition.le_label, recognition.personal_version) == (None, 0)


def test_what_was_learned_is_learned_anew_for_the_new_release(release, unseen_writers, tmp_path):
    agent = Agent(release, Store(tmp_path / "device.db"))
    written = handwriting(unseen_writers, 120)
    for start in range(0, 120, 20):
        agent.learn(written[start : start + 20])
    settled(agent)
    before, kept = agent.status(), agent.recent(999)
    new = better(release)
    assert agent.adopt(new)
    settled(agent)
    after = agent.status()
    assert after.personal_version > before.personal_version > 0
    assert (after.accuracy, after.ge_accuracy) == (before.accuracy, before.ge_accuracy)
    assert (after.kept, after.corrections) == (before.kept, before.corrections)
    assert [k.id for k in agent.recent(999)] == [k.id for k in kept]
    # It is the mixture that the new release's own features give.
    alone = Personalizer(new.expert, new.sketch, new.labels, capacity=CAPACITY)
    for correction in written:
        alone.keep(correction.observation, correction.label)
    alone.relearn(forced=True)
    torch.testing.assert_close(weights(agent.person), weights(alone.person))
    expected = agent.recognize(CROSS)
    agent.close()
    again = Agent(new, Store(tmp_path / "device.db"))
    assert again.recognize(CROSS) == expected
    again.close()


def test_a_worse_release_is_held_back_and_nothing_has_changed(agent, release, unseen_writers):
    agent.learn(handwriting(unseen_writers, 150))
    until(lambda: agent.status().personal_version > 0)
    settled(agent)
    before, status = agent.recognize(CROSS), agent.status()
    installed = []
    assert not agent.adopt(changed(release, spoiling), lambda: installed.append(1))
    assert installed == []
    assert agent.recognize(CROSS) == before
    assert replace(agent.status(), learnings=0, learning_seconds=0, recognitions=0) == replace(
        status, learnings=0, learning_seconds=0, recognitions=0
    )
    assert agent.adopt(better(release))  # another one is not held against it


def test_what_cannot_be_installed_is_not_used(agent, release, unseen_writers):
    agent.learn(handwriting(unseen_writers, 40))
    until(lambda: agent.status().personal_version > 0)
    settled(agent)
    before = agent.recognize(CROSS)

    def full() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        agent.adopt(better(release), full)
    assert agent.recognize(CROSS) == before
    assert not agent.status().learning
    agent.learn(corrections("Q", 1))
    assert agent.adopt(better(release))


def test_a_release_of_other_labels_is_not_adopted(agent, release):
    manifest = replace(release.manifest, labels=Labels(release.labels.texts[::-1]))
    with pytest.raises(InputError, match=r"the labels or observations of .* are not those of"):
        agent.adopt(replace(release, manifest=manifest))
    assert agent.release is release


def test_an_agent_that_has_ended_adopts_nothing(release, tmp_path):
    agent = Agent(release, Store(tmp_path / "device.db"))
    agent.close()
    with pytest.raises(InputError, match="stopping"):
        agent.adopt(better(release))
    assert agent.release is release


class Pausing(SettableClock):
    """A clock by which a learning in one thread goes on only when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.allowed = threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None

    def sleep(self, seconds: float) -> None:
        """Let the learning of that thread wait, and no other one."""
        if threading.current_thread() is self.thread:
            self.begun.set()
            assert self.allowed.wait(60)

    def adopt(self, agent: Agent, release: Release) -> None:
        """Begin to adopt a release."""
        self.outcome: list[bool] = []
        self.thread = threading.Thread(target=lambda: self.outcome.append(agent.adopt(release)))
        self.thread.start()
        assert self.begun.wait(60)
        assert agent.status().learning

    def finish(self) -> None:
        """Let the adoption go on to its end."""
        self.allowed.set()
        assert self.thread is not None
        self.thread.join(60)
        assert self.outcome == [True]


@pytest.fixture
def clock() -> Pausing:
    return Pausing()


@pytest.fixture
def agent(release: Release, tmp_path: Path, clock: Pausing) -> Iterator[Agent]:
    agent = Agent(release, Store(tmp_path / "device.db"), clock=clock)
    yield agent
    agent.close()


def in_memory(agent: Agent) -> list[tuple[int, str]]:
    return [(s.position, agent.release.labels[s.label]) for s in agent.person.replay.samples]


def on_disk(agent: Agent) -> list[tuple[int, str]]:
    return [(kept.position, kept.label) for kept in agent.recent(10_000)[::-1]]


def test_corrections_and_recognitions_go_on_during_an_adoption(
    agent, clock, release, unseen_writers
):
    agent.learn(handwriting(unseen_writers, 60))
    until(lambda: agent.status().personal_version > 0)
    settled(agent)
    clock.adopt(agent, better(release))
    old = agent.recognize(CROSS)
    assert old.release == release.manifest.name
    for correction in handwriting(unseen_writers, 30, writer=1):
        agent.learn([correction])
        assert agent.recognize(CROSS) == old
    clock.finish()
    assert agent.recognize(CROSS).release == better(release).manifest.name
    settled(agent)
    assert len(in_memory(agent)) == 90
    assert in_memory(agent) == on_disk(agent)
    assert agent.status().accuracy.guesses == 90
    # Their features are those of the new expert.
    look = compile_for_one_sample(better(release).expert)
    for sample in agent.person.replay.samples:
        np.testing.assert_allclose(
            sample.features, look(sample.observation)[0], rtol=1e-4, atol=1e-5
        )


def test_no_correction_is_too_late_for_an_adoption(release, unseen_writers, tmp_path):
    adopting, late = threading.current_thread(), iter(unseen_writers.observations)

    class Correcting(SettableClock):
        """One by which somebody corrects whenever an adoption pauses."""

        def sleep(self, seconds: float) -> None:
            if threading.current_thread() is adopting:
                agent.learn([Correction(next(late), "q")])

    with closing(Agent(release, Store(tmp_path / "device.db"), clock=Correcting())) as agent:
        agent.learn(handwriting(unseen_writers, 40))
        until(lambda: agent.status().personal_version > 0)
        settled(agent)
        assert agent.adopt(better(release))
        # Up to the very last moment, when corrections have to wait.
        assert len(in_memory(agent)) > 240
        assert in_memory(agent) == on_disk(agent)


def test_what_made_room_during_an_adoption_is_gone_afterwards(
    release, unseen_writers, tmp_path, clock
):
    agent = Agent(release, Store(tmp_path / "device.db"), capacity=64, clock=clock)
    agent.learn(handwriting(unseen_writers, 64))
    until(lambda: agent.status().personal_version > 0)
    settled(agent)
    clock.adopt(agent, better(release))
    for correction in handwriting(unseen_writers, 30, writer=1):
        agent.learn([correction])
    clock.finish()
    settled(agent)
    agent.learn(corrections("Q", 1))
    assert len(in_memory(agent)) == 64
    # What made room for the last one goes with the next one.
    assert len(on_disk(agent)) == 65
    assert [row for row in on_disk(agent) if row in in_memory(agent)] == in_memory(agent)
    agent.close()


@pytest.mark.parametrize("taken_back", ["undo", "forget"])
def test_what_is_taken_back_during_an_adoption_stays_taken_back(
    agent, clock, release, unseen_writers, taken_back
):
    stays = [one for one in handwriting(unseen_writers, 50) if one.label != "Q"]
    agent.learn([*stays, Correction(CROSS, "Q")])
    until(lambda: agent.status().personal_version > 0)
    settled(agent)
    clock.adopt(agent, better(release))
    act = agent.undo if taken_back == "undo" else lambda: agent.forget(Selection(label="Q"))
    taking = threading.Thread(target=act)
    taking.start()
    clock.finish()
    taking.join(60)
    settled(agent)
    assert [label for _, label in in_memory(agent)] == [one.label for one in stays]
    assert in_memory(agent) == on_disk(agent)
    torch.testing.assert_close(weights(agent.person), relearned(agent))


def test_a_recognition_is_of_one_release_and_its_own_mixture(agent, release, unseen_writers):
    agent.learn(handwriting(unseen_writers, 60))
    until(lambda: agent.status().personal_version > 0)
    settled(agent)
    stop = threading.Event()
    seen: dict[tuple[str, int], set[tuple[float, ...]]] = {}

    def recognise() -> None:
        while not stop.is_set():
            found = agent.recognize(CROSS)
            key = (found.release, found.personal_version)
            seen.setdefault(key, set()).add(found.probabilities)

    thread = threading.Thread(target=recognise)
    thread.start()
    for version in range(1, 5):
        assert agent.adopt(better(release, version))
        count = agent.recognitions
        until(lambda before=count: agent.recognitions > before + 20)
    stop.set()
    thread.join()
    assert len({name for name, _ in seen}) == 5
    # Had one part been another's, a name and a version would have stood for two answers.
    assert all(len(answers) == 1 for answers in seen.values())


def test_a_window_is_tallied_from_what_is_still_kept(agent, clock, release, unseen_writers):
    latencies = (0, 3, 0, 0, 0, 0, 0, 0, 0, 1)
    assert agent.tally(0, 2e9, latencies) == replace(
        Tally.empty(62), recognitions=4, latencies=latencies
    )
    first, second = handwriting(unseen_writers, 60), handwriting(unseen_writers, 60, writer=1)
    agent.learn(first)
    until(lambda: agent.status().personal_version > 0)
    settled(agent)
    guesses = [agent.recognize(correction.observation) for correction in second]
    clock.advance(100)
    now = clock.wall()
    agent.learn(second)
    tally = agent.tally(now, now + 1, latencies)
    labels = [correction.label for correction in second]
    pairs = list(zip(guesses, labels, strict=True))
    assert tally.corrections == 60
    assert tally.ge_right == sum(guess.ge_label == label for guess, label in pairs)
    assert tally.le_right == sum(guess.le_label == label for guess, label in pairs)
    assert tally.right == sum(guess.label == label for guess, label in pairs)
    assert tally.opened == sum(guess.opening > 0.5 for guess in guesses)
    assert 0 < tally.le_right != tally.ge_right
    wrong = [label for guess, label in pairs if guess.label != label]
    assert tally.errors == tuple(wrong.count(label) for label in release.labels)
    # Before anything was learned the local expert said what the global one did.
    earlier = agent.tally(now - 100, now, latencies)
    assert earlier.corrections == 60
    assert (earlier.le_right, earlier.opened) == (earlier.ge_right, 0)
    agent.forget(Selection(label=labels[0]))
    assert agent.tally(now, now + 1, latencies).corrections == 60 - labels.count(labels[0])
    agent.forget(Selection())
    assert agent.tally(0, 2e9, latencies).corrections == 0


@settings(max_examples=8, stateful_step_count=15)
class AnyOrder(RuleBasedStateMachine):
    """Whatever is asked in whatever order, memory and disk agree with a plain list."""

    release: Release
    directory: Path

    @initialize()
    def start(self) -> None:
        place = self.directory / f"{time.monotonic_ns()}"
        place.mkdir()
        self.path = place / "device.db"
        self.running = self.release
        self.agent = Agent(self.release, Store(self.path))
        self.expected: list[str] = []

    @rule(labels=st.text("Q7r", min_size=1, max_size=12))
    def learn(self, labels: str) -> None:
        self.agent.learn([Correction(CROSS, label) for label in labels])
        self.expected += labels

    @rule()
    def undo(self) -> None:
        undone = self.agent.undo()
        assert (undone and undone.label) == (self.expected.pop() if self.expected else None)

    @rule(label=st.sampled_from("Q7r"))
    def forget(self, label: str) -> None:
        assert self.agent.forget(Selection(label=label)) == self.expected.count(label)
        self.expected = [kept for kept in self.expected if kept != label]

    @rule(version=st.integers(1, 3))
    def adopt(self, version: int) -> None:
        if self.agent.adopt(better(AnyOrder.release, version)):
            self.running = better(AnyOrder.release, version)
        assert self.agent.release_name == self.running.manifest.name

    @rule()
    def restart(self) -> None:
        self.agent.close()
        self.agent = Agent(self.running, Store(self.path))

    @invariant()
    def agree(self) -> None:
        newest = [kept.label for kept in self.agent.recent(10_000)]
        assert newest[::-1] == self.expected
        alphabet = self.release.labels
        in_memory = [alphabet[s.label] for s in self.agent.person.replay.samples]
        assert in_memory == self.expected
        status = self.agent.status()
        assert status.kept == status.accuracy.guesses == len(self.expected)
        assert sum(window.guesses for window in self.agent.progress(99)) == len(self.expected)

    def teardown(self) -> None:
        self.agent.close()


def test_any_order_of_calls_keeps_memory_and_disk_the_same(release, tmp_path):
    from hypothesis.stateful import run_state_machine_as_test

    AnyOrder.release, AnyOrder.directory = release, tmp_path
    run_state_machine_as_test(AnyOrder)
