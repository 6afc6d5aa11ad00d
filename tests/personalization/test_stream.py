import pickle
import threading
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.experts.global_expert import GlobalExpert, build
from fedhw.experts.mixture import Mixture
from fedhw.handwriting.alphabet import BYCLASS
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.observation import Labels
from fedhw.personalization.learner import Learner
from fedhw.personalization.method import pad_cohort
from fedhw.personalization.person import FIRST_LEARNING_SAMPLES
from fedhw.personalization.replay import HELD_BACK
from fedhw.personalization.stream import Personalizer
from fedhw.release.sketch import Sketch
from fedhw.research.training import Training, train_expert


@pytest.fixture(scope="module")
def public() -> tuple[GlobalExpert, Sketch]:
    torch.manual_seed(0)
    seen = synthetic_writers(80, characters=62, seed=1)
    expert = build("lenet5", 62)
    train_expert(expert, seen.observations, seen.labels, Training(epochs=4, batch=64))
    with torch.no_grad():
        return expert, Sketch.of(expert.features(expert.scale(seen.observations[:1000])))


@pytest.fixture(scope="module")
def writer() -> WriterSet:
    return synthetic_writers([3], characters=400, seed=2)


def written(writer: WriterSet, first: int, last: int) -> list[tuple[np.ndarray, str]]:
    characters = [writer.classes[label] for label in writer.labels[first:last]]
    return list(zip(writer.observations[first:last], characters, strict=True))


def test_predicting_changes_nothing_and_needs_no_learning(public, writer):
    expert, sketch = public
    me = Personalizer(expert, sketch, BYCLASS)
    before = pickle.dumps(me)
    guesses = [me.predict_one(glyph) for glyph in writer.observations[:20]]
    assert pickle.dumps(me) == before
    with torch.no_grad():
        probabilities = expert(expert.scale(writer.observations[:20])).softmax(-1)
    for guess, expected in zip(guesses, probabilities, strict=True):
        assert guess.label == guess.ge_label == writer.classes[int(expected.argmax())]
        assert guess.probability == pytest.approx(float(expected.max()), abs=1e-5)
        assert (guess.opening, guess.decided_by) == (0.0, "global")


def test_predicting_after_learning_changes_nothing(public, writer):
    me = Personalizer(*public, BYCLASS)
    for glyph, label in written(writer, 0, 30):
        me.learn_one(glyph, label)
    before = pickle.dumps(me)
    first = me.predict_one(writer.observations[0])
    assert me.predict_one(writer.observations[0]) == first
    assert 0 < first.opening < 1
    assert pickle.dumps(me) == before


def test_the_same_seed_goes_the_same_way(public, writer):
    first, again, other = (Personalizer(*public, BYCLASS, seed=seed) for seed in (5, 5, 6))
    for glyph, label in written(writer, 0, 40):
        assert first.predict_one(glyph) == again.predict_one(glyph)
        for me in (first, again, other):
            me.learn_one(glyph, label)
    glyph = writer.observations[50]
    assert first.predict_one(glyph) == again.predict_one(glyph)
    assert first.predict_one(glyph) != other.predict_one(glyph)


def test_a_pickled_person_goes_on_as_if_nothing_had_happened(public, writer):
    me = Personalizer(*public, BYCLASS, capacity=32)
    for glyph, label in written(writer, 0, 50):
        me.learn_one(glyph, label)
    woken = pickle.loads(pickle.dumps(me))
    for glyph, label in written(writer, 50, 90):
        assert woken.predict_one(glyph) == me.predict_one(glyph)
        me.learn_one(glyph, label)
        woken.learn_one(glyph, label)
    assert woken.accuracy == me.accuracy
    assert woken.ge_accuracy == me.ge_accuracy


def test_memory_is_bounded(public, writer):
    me = Personalizer(*public, BYCLASS, capacity=16)
    sizes = []
    for glyph, label in written(writer, 0, 120):
        me.learn_one(glyph, label)
        sizes.append(len(pickle.dumps(me)))
    assert len(me.person.replay) == 16
    assert max(sizes[60:]) < sizes[59] + 500


def test_a_character_is_tested_before_it_is_learned(public, writer):
    me = Personalizer(*public, BYCLASS)
    glyph = writer.observations[0]
    wrong = "7" if me.predict_one(glyph).label != "7" else "8"
    for _ in range(40):
        me.learn_one(glyph, wrong)
    assert me.ge_accuracy.right == 0
    assert me.accuracy.right == 40 - FIRST_LEARNING_SAMPLES
    guess = me.predict_one(glyph)
    assert (guess.label, guess.decided_by) == (wrong, "local")


def test_the_mixture_ends_better_than_the_global_expert(public):
    writers = synthetic_writers(3, characters=248, seed=2)
    gains = []
    for index in range(3):
        me = Personalizer(*public, BYCLASS)
        own = writers.take(writers.rows_of(index))
        for glyph, label in written(own, 0, 248):
            me.learn_one(glyph, label)
        gains.append(me.accuracy.recent - me.ge_accuracy.recent)
        assert me.accuracy.guesses == 248
    assert np.mean(gains) > 0.05
    assert min(gains) > 0


def test_what_is_worse_on_the_held_back_does_not_replace_what_there_is(public, writer):
    me = Personalizer(*public, BYCLASS)
    for glyph, label in written(writer, 0, 160):
        me.learn_one(glyph, label)
    for glyph, label in written(writer, 160, 400):
        is_held_back = me.person.replay.next_position % HELD_BACK == HELD_BACK - 1
        poisoned = writer.classes[writer.classes.index(label) - 1]
        me.store(glyph, label if is_held_back else poisoned)
    kept = me.person.mixture
    assert not me.relearn()
    assert me.person.mixture is kept
    assert not me.due


def test_what_is_better_replaces_what_there_is(public, writer):
    me = Personalizer(*public, BYCLASS)
    for glyph, label in written(writer, 0, 10):
        me.learn_one(glyph, label)
    for glyph, label in written(writer, 10, 200):
        me.store(glyph, label)
    before = me.person.mixture
    assert me.due
    assert me.relearn()
    assert me.person.mixture is not before
    assert not me.due


def weights(mixture: Mixture) -> torch.Tensor:
    parts = (*mixture.local, *mixture.gate)
    return torch.cat([part.flatten() for part in parts])


def test_one_by_one_equals_one_batch(public, writer):
    expert, sketch = public
    learner = Learner(steps=10)
    me = Personalizer(expert, sketch, BYCLASS, learner=learner, seed=4)
    for glyph, label in written(writer, 0, 60):
        me.learn_one(glyph, label)
    assert me.relearn()
    rows = np.flatnonzero(np.arange(60) % HELD_BACK != HELD_BACK - 1)
    cohort = pad_cohort(expert, [writer.observations[rows]], [writer.labels[rows]])
    batch = learner.learn(expert, cohort, sketch, seed=4)
    torch.testing.assert_close(
        weights(me.person.mixture), weights(batch.mixture), rtol=1e-5, atol=1e-5
    )


@dataclass(frozen=True)
class Pausing(Learner):
    """Learns only when it is let."""

    begun: threading.Event = field(default_factory=threading.Event)
    allowed: threading.Event = field(default_factory=threading.Event)

    def learn(self, *arguments):
        self.begun.set()
        assert self.allowed.wait(timeout=20)
        return super().learn(*arguments)


def test_characters_stored_while_learning_goes_on_wait_for_the_next_learning(public, writer):
    pausing = Pausing()
    me, still = Personalizer(*public, BYCLASS, learner=pausing), Personalizer(*public, BYCLASS)
    for glyph, label in written(writer, 0, 40):
        me.store(glyph, label)
        still.store(glyph, label)
    learning = threading.Thread(target=me.relearn)
    learning.start()
    assert pausing.begun.wait(timeout=20)
    for glyph, label in written(writer, 40, 48):
        assert me.store(glyph, label).decided_by == "global"
    pausing.allowed.set()
    learning.join(timeout=20)
    still.relearn()
    torch.testing.assert_close(weights(me.person.mixture), weights(still.person.mixture))
    assert me.due
    assert me.person.replay.next_position == 48


@pytest.mark.parametrize(
    ("glyph", "label", "said"),
    [
        (np.zeros((28, 28), np.float32), "a", "observation: dtype float32"),
        (np.zeros((28, 27), np.uint8), "a", r"observation: shape \[28, 27\]"),
        (np.zeros((1, 28, 28), np.uint8), "a", r"observation: shape \[1, 28, 28\]"),
        (np.zeros((28, 28), np.uint8), "ä", "label: 'ä'"),
        (np.zeros((28, 28), np.uint8), "", "label: ''"),
        (np.zeros((28, 28), np.uint8), "ab", "label: 'ab'"),
        (np.zeros((28, 28), np.uint8), 7, "label: 7 is not a text but of type int; give a str"),
        (np.zeros((28, 28), np.uint8), 7.0, r"label: 7\.0 is not a text but of type float"),
        (np.zeros((28, 28), np.uint8), None, "label: None is not a text but of type NoneType"),
        (np.zeros((28, 28), np.uint8), b"7", "label: b'7' is not a text but of type bytes"),
        (np.zeros((28, 28), np.uint8), ["7"], r"label: \['7'\] is not a text but of type list"),
        ([[0] * 28] * 28, "a", r"observation: a list is no array; give uint8 \[28, 28\]"),
        (None, "a", "observation: a NoneType is no array"),
    ],
)
def test_bad_input_is_told_and_leaves_no_trace(public, glyph, label, said):
    me = Personalizer(*public, BYCLASS)
    with pytest.raises(InputError, match=said):
        me.learn_one(glyph, label)
    assert (me.person.replay.next_position, me.accuracy.guesses) == (0, 0)


def test_labels_that_do_not_fit_the_expert_is_refused(public):
    expert, sketch = public
    with pytest.raises(InputError, match="labels: 3 do not fit the 62 classes"):
        Personalizer(expert, sketch, Labels.characters("abc"))


def test_nothing_stored_is_nothing_learned(public):
    me = Personalizer(*public, BYCLASS)
    assert not me.due
    assert not me.relearn()


def test_the_learner_in_hand_is_the_one_that_learns(public, writer):
    me = Personalizer(*public, BYCLASS, learner=replace(Learner(), rank=3))
    for glyph, label in written(writer, 0, FIRST_LEARNING_SAMPLES):
        me.learn_one(glyph, label)
    assert me.person.mixture.local.u.shape == (1, 84, 3)


def test_the_likeliest_come_first_and_the_label_is_the_first_of_them(release, unseen_writers):
    me = Personalizer(release.expert, release.sketch, release.labels)
    for glyph in unseen_writers.observations[:20]:
        recognition = me.predict_one(glyph)
        likeliest = recognition.likeliest(release.labels, 5)
        assert len(likeliest) == 5
        assert likeliest[0] == (recognition.label, recognition.probability)
        assert [p for _, p in likeliest] == sorted((p for _, p in likeliest), reverse=True)
        assert len(recognition.likeliest(release.labels, 1000)) == 62
        assert sum(p for _, p in recognition.likeliest(release.labels, 62)) == pytest.approx(1)


def test_removed_and_relearned_by_force_nothing_is_left(release, unseen_writers):
    me = Personalizer(release.expert, release.sketch, release.labels)
    for glyph in unseen_writers.observations[:8]:
        me.learn_one(glyph, "Q")
    assert me.person.mixture is not None
    version = me.person.version
    me.person = me.person.forget(range(8))
    assert not me.relearn()
    assert me.relearn(forced=True)
    assert me.person.mixture is None
    assert me.person.version == version + 1
    assert me.predict_one(unseen_writers.observations[0]).le_label is None


def test_what_was_learned_from_a_few_while_many_came_is_not_used(release, unseen_writers):
    me = Personalizer(release.expert, release.sketch, release.labels)
    arrived = 0

    def meanwhile() -> None:
        nonlocal arrived
        if arrived < late:
            me.keep(unseen_writers.observations[arrived], "Q")
            arrived += 1

    me.learner = replace(me.learner, pause=meanwhile)
    for glyph in unseen_writers.observations[:9]:
        me.keep(glyph, "Q")
    late = 3
    assert not me.relearn()
    assert me.person.mixture is None
    arrived, late = 0, 2
    assert me.relearn()
    assert me.person.mixture is not None


def test_a_recognition_names_the_release(public, writer):
    expert, sketch = public
    assert Personalizer(expert, sketch, BYCLASS).predict_one(writer.observations[0]).release == ""
    me = Personalizer(expert, sketch, BYCLASS, release="v1-01234567")
    assert me.predict_one(writer.observations[0]).release == "v1-01234567"
