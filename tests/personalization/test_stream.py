import pickle
import threading
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.experts.global_expert import GlobalExpert, as_ink, build
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.personalization.learner import Learner, PersonalMixture
from fedhw.personalization.method import pad_cohort
from fedhw.personalization.replay import HELD_BACK
from fedhw.personalization.stream import (
    FIRST_LEARNING_SAMPLES,
    Personalizer,
    Prequential,
    looks_worse,
)
from fedhw.release.sketch import Sketch
from fedhw.research.training import Training, train_expert


@pytest.fixture(scope="module")
def public() -> tuple[GlobalExpert, Sketch]:
    torch.manual_seed(0)
    seen = synthetic_writers(80, characters=62, seed=1)
    expert = build("lenet5", 62)
    train_expert(expert, seen.images, seen.labels, Training(epochs=4, batch=64))
    with torch.no_grad():
        return expert, Sketch.of(expert.features(as_ink(seen.images[:1000])))


@pytest.fixture(scope="module")
def writer() -> WriterSet:
    return synthetic_writers([3], characters=400, seed=2)


def written(writer: WriterSet, first: int, last: int) -> list[tuple[np.ndarray, str]]:
    characters = [writer.alphabet[label] for label in writer.labels[first:last]]
    return list(zip(writer.images[first:last], characters, strict=True))


def test_predicting_changes_nothing_and_needs_no_learning(public, writer):
    expert, sketch = public
    person = Personalizer(expert, sketch)
    before = pickle.dumps(person)
    guesses = [person.predict_one(glyph) for glyph in writer.images[:20]]
    assert pickle.dumps(person) == before
    with torch.no_grad():
        probabilities = expert(as_ink(writer.images[:20])).softmax(-1)
    for guess, expected in zip(guesses, probabilities, strict=True):
        assert guess.label == guess.ge_label == writer.alphabet[int(expected.argmax())]
        assert guess.probability == pytest.approx(float(expected.max()), abs=1e-5)
        assert (guess.opening, guess.decided_by) == (0.0, "global")


def test_predicting_after_learning_changes_nothing(public, writer):
    person = Personalizer(*public)
    for glyph, label in written(writer, 0, 30):
        person.learn_one(glyph, label)
    before = pickle.dumps(person)
    first = person.predict_one(writer.images[0])
    assert person.predict_one(writer.images[0]) == first
    assert 0 < first.opening < 1
    assert pickle.dumps(person) == before


def test_the_same_seed_goes_the_same_way(public, writer):
    first, again, other = (Personalizer(*public, seed=seed) for seed in (5, 5, 6))
    for glyph, label in written(writer, 0, 40):
        assert first.predict_one(glyph) == again.predict_one(glyph)
        for person in (first, again, other):
            person.learn_one(glyph, label)
    glyph = writer.images[50]
    assert first.predict_one(glyph) == again.predict_one(glyph)
    assert first.predict_one(glyph) != other.predict_one(glyph)


def test_a_pickled_person_goes_on_as_if_nothing_had_happened(public, writer):
    person = Personalizer(*public, capacity=32)
    for glyph, label in written(writer, 0, 50):
        person.learn_one(glyph, label)
    woken = pickle.loads(pickle.dumps(person))
    for glyph, label in written(writer, 50, 90):
        assert woken.predict_one(glyph) == person.predict_one(glyph)
        person.learn_one(glyph, label)
        woken.learn_one(glyph, label)
    assert woken.accuracy == person.accuracy
    assert woken.ge_accuracy == person.ge_accuracy


def test_memory_is_bounded(public, writer):
    person = Personalizer(*public, capacity=16)
    sizes = []
    for glyph, label in written(writer, 0, 120):
        person.learn_one(glyph, label)
        sizes.append(len(pickle.dumps(person)))
    assert len(person.replay) == 16
    assert max(sizes[60:]) < sizes[59] + 500


def test_a_character_is_tested_before_it_is_learned(public, writer):
    person = Personalizer(*public)
    glyph = writer.images[0]
    wrong = "7" if person.predict_one(glyph).label != "7" else "8"
    for _ in range(40):
        person.learn_one(glyph, wrong)
    assert person.ge_accuracy.right == 0
    assert person.accuracy.right == 40 - FIRST_LEARNING_SAMPLES
    guess = person.predict_one(glyph)
    assert (guess.label, guess.decided_by) == (wrong, "local")


def test_the_mixture_ends_better_than_the_global_expert(public):
    writers = synthetic_writers(3, characters=248, seed=2)
    gains = []
    for index in range(3):
        person = Personalizer(*public)
        own = writers.take(writers.rows_of(index))
        for glyph, label in written(own, 0, 248):
            person.learn_one(glyph, label)
        gains.append(person.accuracy.recent - person.ge_accuracy.recent)
        assert person.accuracy.guesses == 248
    assert np.mean(gains) > 0.05
    assert min(gains) > 0


def test_what_is_worse_on_the_held_back_does_not_replace_what_there_is(public, writer):
    person = Personalizer(*public)
    for glyph, label in written(writer, 0, 160):
        person.learn_one(glyph, label)
    for glyph, label in written(writer, 160, 400):
        is_held_back = person.replay.seen % HELD_BACK == HELD_BACK - 1
        poisoned = writer.alphabet[writer.alphabet.index(label) - 1]
        person.store(glyph, label if is_held_back else poisoned)
    kept = person.personal
    assert not person.relearn()
    assert person.personal is kept
    assert not person.due


def test_what_is_better_replaces_what_there_is(public, writer):
    person = Personalizer(*public)
    for glyph, label in written(writer, 0, 10):
        person.learn_one(glyph, label)
    for glyph, label in written(writer, 10, 200):
        person.store(glyph, label)
    before = person.personal
    assert person.due
    assert person.relearn()
    assert person.personal is not before
    assert not person.due


def weights(personal: PersonalMixture) -> torch.Tensor:
    parts = (*personal.mixture.local, *personal.mixture.gate)
    return torch.cat([part.flatten() for part in parts])


def test_one_by_one_equals_one_batch(public, writer):
    expert, sketch = public
    learner = Learner(steps=10)
    person = Personalizer(expert, sketch, learner=learner, seed=4)
    for glyph, label in written(writer, 0, 60):
        person.learn_one(glyph, label)
    assert person.relearn()
    rows = np.flatnonzero(np.arange(60) % HELD_BACK != HELD_BACK - 1)
    cohort = pad_cohort(expert, [writer.images[rows]], [writer.labels[rows]])
    batch = learner.learn(expert, cohort, sketch, seed=4)
    torch.testing.assert_close(weights(person.personal), weights(batch), rtol=1e-5, atol=1e-5)


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
    person, still = Personalizer(*public, learner=pausing), Personalizer(*public)
    for glyph, label in written(writer, 0, 40):
        person.store(glyph, label)
        still.store(glyph, label)
    learning = threading.Thread(target=person.relearn)
    learning.start()
    assert pausing.begun.wait(timeout=20)
    for glyph, label in written(writer, 40, 48):
        assert person.store(glyph, label).decided_by == "global"
    pausing.allowed.set()
    learning.join(timeout=20)
    still.relearn()
    torch.testing.assert_close(weights(person.personal), weights(still.personal))
    assert person.due
    assert person.replay.seen == 48


def test_recent_accuracy_forgets_and_total_does_not():
    accuracy = Prequential()
    assert np.isnan(accuracy.total)
    assert np.isnan(accuracy.recent)
    for right in [False] * 500 + [True] * 500:
        accuracy.update(right)
    assert accuracy.total == 0.5
    assert accuracy.recent > 0.99


@pytest.mark.parametrize(
    ("glyph", "label", "said"),
    [
        (np.zeros((28, 28), np.float32), "a", "glyph: dtype float32"),
        (np.zeros((28, 27), np.uint8), "a", r"glyph: shape \(28, 27\)"),
        (np.zeros((1, 28, 28), np.uint8), "a", r"glyph: shape \(1, 28, 28\)"),
        (np.zeros((28, 28), np.uint8), "ä", "label: 'ä'"),
        (np.zeros((28, 28), np.uint8), "", "label: ''"),
        (np.zeros((28, 28), np.uint8), "ab", "label: 'ab'"),
    ],
)
def test_bad_input_is_told_and_leaves_no_trace(public, glyph, label, said):
    person = Personalizer(*public)
    with pytest.raises(InputError, match=said):
        person.learn_one(glyph, label)
    assert (person.replay.seen, person.accuracy.guesses) == (0, 0)


def test_an_alphabet_that_does_not_fit_the_expert_is_refused(public):
    expert, sketch = public
    with pytest.raises(InputError, match="alphabet: 3 characters"):
        Personalizer(expert, sketch, alphabet="abc")


def test_nothing_stored_is_nothing_learned(public):
    person = Personalizer(*public)
    assert not person.due
    assert not person.relearn()


def test_the_learner_in_hand_is_the_one_that_learns(public, writer):
    person = Personalizer(*public, learner=replace(Learner(), rank=3))
    for glyph, label in written(writer, 0, FIRST_LEARNING_SAMPLES):
        person.learn_one(glyph, label)
    assert person.personal.mixture.local.u.shape == (1, 84, 3)


def test_the_likeliest_come_first_and_the_label_is_the_first_of_them(release, unseen_writers):
    person = Personalizer(release.expert, release.sketch, release.alphabet)
    for glyph in unseen_writers.images[:20]:
        recognition = person.predict_one(glyph)
        likeliest = recognition.likeliest(release.alphabet, 5)
        assert len(likeliest) == 5
        assert likeliest[0] == (recognition.label, recognition.probability)
        assert [p for _, p in likeliest] == sorted((p for _, p in likeliest), reverse=True)
        assert len(recognition.likeliest(release.alphabet, 1000)) == 62
        assert sum(p for _, p in recognition.likeliest(release.alphabet, 62)) == pytest.approx(1)


def test_removed_and_relearned_by_force_nothing_is_left(release, unseen_writers):
    person = Personalizer(release.expert, release.sketch, release.alphabet)
    for glyph in unseen_writers.images[:8]:
        person.learn_one(glyph, "Q")
    assert person.personal is not None
    version = person.version
    person.replay.remove(range(8))
    assert not person.relearn()
    assert person.relearn(forced=True)
    assert person.personal is None
    assert person.version == version + 1
    assert person.predict_one(unseen_writers.images[0]).le_label is None


def test_what_was_learned_from_a_few_while_many_came_is_not_used(release, unseen_writers):
    person = Personalizer(release.expert, release.sketch, release.alphabet)
    arrived = 0

    def meanwhile() -> None:
        nonlocal arrived
        if arrived < late:
            person.keep(unseen_writers.images[arrived], "Q")
            arrived += 1

    person.learner = replace(person.learner, pause=meanwhile)
    for glyph in unseen_writers.images[:9]:
        person.keep(glyph, "Q")
    late = 3
    assert not person.relearn()
    assert person.personal is None
    arrived, late = 0, 2
    assert person.relearn()
    assert person.personal is not None


def test_a_recognition_names_the_release(public, writer):
    expert, sketch = public
    assert Personalizer(expert, sketch).predict_one(writer.images[0]).release == ""
    person = Personalizer(expert, sketch, release="v1-01234567")
    assert person.predict_one(writer.images[0]).release == "v1-01234567"


def test_who_follows_keeps_and_learns_the_same(public, writer):
    expert, sketch = public
    leader, follower = (Personalizer(expert, sketch, capacity=64) for _ in range(2))
    for start in range(0, 200, 40):
        for glyph, label in written(writer, start, start + 40):
            leader.store(glyph, label)
        follower.follow(leader)
        theirs, own = leader.replay.samples(), follower.replay.samples()
        assert [s.position for s in own] == [s.position for s in theirs]
        assert [(s.label, s.luck) for s in own] == [(s.label, s.luck) for s in theirs]
        assert follower.replay.seen == leader.replay.seen
        assert follower.accuracy == leader.accuracy
    leader.replay.remove(range(150, 180))
    follower.follow(leader)
    assert len(follower.replay) == len(leader.replay)
    leader.relearn(forced=True)
    follower.relearn(forced=True)
    assert torch.equal(weights(leader.personal), weights(follower.personal))


def test_who_follows_with_another_expert_has_its_features(public, writer):
    torch.manual_seed(1)
    expert, sketch = public
    other = build("leaf-cnn", 62)
    with torch.no_grad():
        others = Sketch.of(other.features(as_ink(writer.images[:100])))
    leader = Personalizer(expert, sketch)
    for glyph, label in written(writer, 0, 20):
        leader.store(glyph, label)
    follower = replace(leader, expert=other, sketch=others)
    assert len(follower.replay) == 0
    follower.follow(leader)
    for sample, glyph in zip(follower.replay.samples(), writer.images, strict=False):
        with torch.no_grad():
            features = other.features(as_ink(glyph[None]))[0]
        np.testing.assert_allclose(sample.features, features, rtol=1e-4, atol=1e-5)
    assert follower.relearn(forced=True)


def test_what_is_right_is_what_it_would_say(public, writer):
    person = Personalizer(*public)
    for glyph, label in written(writer, 0, 40):
        person.learn_one(glyph, label)
    samples = person.replay.samples()
    expected = [person.predict_one(g).label == label for g, label in written(writer, 0, 40)]
    assert person.right_on(samples).tolist() == expected
    assert len(set(expected)) == 2
    assert person.right_on([]).shape == (0,)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=80))
def test_who_looks_worse_has_lost_more_than_chance_explains(judged):
    new, old = (np.array([pair[i] for pair in judged], bool) for i in range(2))
    lost, won = (old & ~new).sum(), (new & ~old).sum()
    assert looks_worse(new, old) == (lost > won and (lost - won) ** 2 > lost + won)
    assert not looks_worse(new, new)
    assert not (looks_worse(new, old) and looks_worse(old, new))
