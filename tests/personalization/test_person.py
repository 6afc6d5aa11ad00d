import copy
import pickle
from collections.abc import Sequence
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedhw.experts.global_expert import build
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.personalization.learner import Learner
from fedhw.personalization.person import (
    FIRST_LEARNING_SAMPLES,
    LEARNING_GROWTH_SHARE,
    STALE_SHARE,
    Base,
    Person,
    adopt,
    evaluate,
    follow,
    relearn,
    take_up,
    transfer,
)
from fedhw.personalization.recogniser import Recogniser
from fedhw.personalization.replay import Replay, Sample
from fedhw.release.release import Release
from fedhw.release.sketch import Sketch
from tests.releases import changed
from tests.releases import overflowing as too_large

WRITTEN = synthetic_writers(range(700, 704), 186)
QUICK = Learner(steps=6)

people_counts = st.lists(st.integers(0, 60), min_size=1, max_size=4)
few = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def rest() -> None:
    """Pause for nobody."""


@pytest.fixture(scope="module")
def running(release: Release) -> Base:
    return Base(release.expert, release.sketch, "running")


@pytest.fixture(scope="module")
def turned(running: Base) -> Base:
    """The same expert with its features in another order."""
    expert = copy.deepcopy(running.expert)
    order = torch.randperm(84, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last = [part for part in expert.modules() if isinstance(part, torch.nn.Linear)][-2]
        last.weight.copy_(last.weight[order])
        last.bias.copy_(last.bias[order])
        expert.head.weight.copy_(expert.head.weight[:, order])
    sketch = Sketch(running.sketch.steps[:, order], running.sketch.scale[order])
    return Base(expert, sketch, "turned")


@pytest.fixture(scope="module")
def blind(running: Base) -> Base:
    """A release that takes everything for the first character."""
    expert = copy.deepcopy(running.expert)
    with torch.no_grad():
        for part in expert.parameters():
            part.zero_()
    return Base(expert, running.sketch, "blind")


@pytest.fixture(scope="module")
def overflowing(release: Release) -> Base:
    made = changed(release, too_large)
    return Base(made.expert, made.sketch, "overflowing")


def write(person: Person, base: Base, writer: int, first: int, last: int) -> Person:
    """Let a writer correct some of their characters."""
    recogniser = Recogniser.of(base, WRITTEN.classes).of_person(person)
    for row in WRITTEN.rows_of(writer)[first:last]:
        glyph, label = WRITTEN.observations[row], int(WRITTEN.labels[row])
        guess = recogniser.predict_one(glyph)
        character = WRITTEN.classes[label]
        person = person.count(guess.ge_label == character, guess.label == character)
        person = person.keep(glyph, recogniser.features(glyph), label)
    return person


def new(base: Base, capacity: int = 2000) -> Person:
    return Person(Replay(capacity=capacity), base.release)


def people_of(base: Base, counts: Sequence[int]) -> list[Person]:
    """People of whom so many characters are kept; every other one has learned from the first."""
    people = []
    for writer, count in enumerate(counts):
        person = write(new(base), base, writer, 0, count // 2)
        if writer % 2:
            [person] = relearn([person], base, QUICK)
        people.append(write(person, base, writer, count // 2, count))
    return people


def right(person: Person, base: Base, samples: Sequence[Sample]) -> np.ndarray:
    """Which of these samples a person's device would recognise."""
    recogniser = Recogniser.of(base, WRITTEN.classes).of_person(person)
    labels = [recogniser.predict_one(sample.observation).label for sample in samples]
    return np.array([WRITTEN.classes[s.label] for s in samples]) == np.array(labels)


def weights(person: Person) -> torch.Tensor:
    assert person.mixture is not None
    return torch.cat([part.flatten() for parts in person.mixture for part in parts])


def assert_alike(one: Person, other: Person, tolerance: float = 1e-4) -> None:
    """Assert that both are the same, up to rounding."""
    assert (one.release, one.version, one.tried_at) == (
        other.release,
        other.version,
        other.tried_at,
    )
    assert (one.ge_accuracy, one.accuracy) == (other.ge_accuracy, other.accuracy)
    assert one.replay.next_position == other.replay.next_position
    assert [s[2:] for s in one.replay.samples] == [s[2:] for s in other.replay.samples]
    for mine, theirs in zip(one.replay.samples, other.replay.samples, strict=True):
        assert np.array_equal(mine.observation, theirs.observation)
        np.testing.assert_allclose(mine.features, theirs.features, atol=tolerance)
    assert (one.mixture is None) == (other.mixture is None)
    if one.mixture is not None:
        torch.testing.assert_close(weights(one), weights(other), atol=tolerance, rtol=1e-3)


DECISIONS = {
    "relearn": lambda people, base, other: relearn(people, base, QUICK),
    "relearn by force": lambda people, base, other: relearn(people, base, QUICK, forced=True),
    "transfer": lambda people, base, other: transfer(people, other, QUICK),
    "adopt": lambda people, base, other: adopt(people, base, other, QUICK, is_rollback=False),
    "roll back": lambda people, base, other: adopt(people, base, other, QUICK, is_rollback=True),
    "follow": lambda people, base, other: follow([new(other)] * len(people), people, other, rest),
}


@pytest.mark.parametrize("decision", DECISIONS)
@few
@given(counts=people_counts)
def test_together_each_comes_out_as_alone(running, turned, decision, counts):
    decide, people = DECISIONS[decision], people_of(running, counts)
    together = decide(people, running, turned)
    for person, with_others in zip(people, together, strict=True):
        [alone] = decide([person], running, turned)
        assert_alike(with_others, alone)


@few
@given(counts=people_counts)
def test_each_is_evaluated_as_alone(running, turned, blind, counts):
    people = people_of(running, counts)
    for candidate in (turned, blind):
        found = evaluate(people, running, candidate, QUICK)
        alone = [evaluate([person], running, candidate, QUICK)[0] for person in people]
        assert found == alone


@pytest.mark.parametrize("decision", [*DECISIONS, "evaluate"])
def test_a_decision_changes_no_state(running, turned, decision):
    people = people_of(running, [0, 3, 40, 60])
    before = pickle.dumps(people)
    decide = DECISIONS.get(decision, lambda p, base, other: evaluate(p, base, other, QUICK))
    decide(people, running, turned)
    assert pickle.dumps(people) == before


@few
@given(count=st.integers(1, 60), forced=st.booleans())
def test_of_the_same_state_the_same_is_learned(running, count, forced):
    person = write(new(running), running, 0, 0, count)
    [once] = relearn([person], running, QUICK, forced)
    [again] = relearn([person], running, QUICK, forced)
    [twice] = relearn([once], running, QUICK, forced)
    assert torch.equal(weights(once), weights(again))
    # It begins from scratch, so nothing but the count of mixtures changes.
    assert torch.equal(weights(once), weights(twice))
    assert (twice.version, twice.tried_at) == (once.version + 1, once.tried_at)


def test_with_nothing_to_rehearse_the_old_mixture_stays_unless_by_force(running):
    [person] = relearn([write(new(running), running, 0, 0, 20)], running, QUICK)
    emptied = person.forget({sample.position for sample in person.replay.samples})
    [left] = relearn([emptied], running, QUICK)
    assert left.mixture is person.mixture
    assert left.version == person.version
    [by_force] = relearn([emptied], running, QUICK, forced=True)
    assert (by_force.mixture, by_force.version) == (None, person.version + 1)


@given(st.integers(0, 80), st.integers(0, 80), st.sets(st.integers(0, 80)))
def test_it_is_due_after_a_few_and_after_a_share_of_what_is_kept(before, after, forgotten):
    glyph, features = np.zeros((28, 28), np.uint8), np.zeros(84, np.float32)
    person = Person(Replay(capacity=30))
    for _ in range(before):
        person = person.keep(glyph, features, 0)
    person = person.tried().forget(forgotten)
    for _ in range(after):
        person = person.keep(glyph, features, 0)
    kept = len(person.replay)
    expected = after >= FIRST_LEARNING_SAMPLES and after >= LEARNING_GROWTH_SHARE * kept
    assert person.is_due == expected


@given(before=st.integers(1, 60), late=st.integers(0, 30))
def test_what_was_learned_of_an_earlier_state_is_stale_after_too_many(before, late):
    glyph, features = np.zeros((28, 28), np.uint8), np.zeros(84, np.float32)
    person = Person()
    for _ in range(before):
        person = person.keep(glyph, features, 0)
    learned, now = replace(person.tried(), version=person.version + 1), person
    for _ in range(late):
        now = now.keep(glyph, features, 1).count(True, False)
    taken = take_up(learned, now)
    assert taken.version == (0 if late > STALE_SHARE * before else 1)
    assert taken.tried_at == before
    assert (taken.replay, taken.accuracy) == (now.replay, now.accuracy)


def test_a_worse_release_is_held_back_by_everybody_and_they_are_as_they_were(running, blind):
    people = relearn([write(new(running), running, w, 0, 120) for w in range(3)], running, QUICK)
    kept = adopt(people, running, blind, QUICK, is_rollback=False)
    assert all(one is other for one, other in zip(kept, people, strict=True))


def test_a_rollback_is_followed_to_what_is_worse(running, blind):
    people = relearn([write(new(running), running, w, 0, 120) for w in range(3)], running, QUICK)
    followed = adopt(people, running, blind, QUICK, is_rollback=True)
    assert [person.release for person in followed] == ["blind"] * 3


def test_the_same_expert_under_another_name_is_nothing_to_learn_for(running):
    [person] = relearn([write(new(running), running, 0, 0, 40)], running, QUICK)
    renamed = running._replace(release="again")
    for is_rollback in (False, True):
        [after] = adopt([person], running, renamed, QUICK, is_rollback)
        assert after.release == "again"
        assert after.mixture is person.mixture
        assert after.replay is person.replay
        assert after.version == person.version


def test_a_learning_that_overflows_leaves_what_was_in_use_and_is_told(running, overflowing):
    person = write(new(running), running, 0, 0, 40)
    [before] = relearn([person], running, QUICK)
    [tried] = relearn([before], overflowing, QUICK)
    assert tried.has_failed
    assert tried.mixture is before.mixture
    assert (tried.version, tried.tried_at) == (before.version, 40)
    assert take_up(tried, write(before, running, 0, 40, 41)).has_failed
    [by_force] = relearn([before], overflowing, QUICK, forced=True)
    assert (by_force.has_failed, by_force.mixture) == (True, None)
    [mended] = relearn([tried], running, QUICK)
    assert not mended.has_failed
    assert mended.mixture is not None


def test_a_release_for_which_learning_fails_is_held_back(running, overflowing):
    people = [write(new(running), running, w, 0, 4) for w in range(2)]
    kept = adopt(people, running, overflowing, QUICK, is_rollback=False)
    assert all(one is other for one, other in zip(kept, people, strict=True))
    followed = adopt(people, running, overflowing, QUICK, is_rollback=True)
    assert [(each.release, each.mixture) for each in followed] == [("overflowing", None)] * 2


def test_what_was_learned_is_counted_where_a_release_takes_it_away(running, blind):
    """Of a release under which nothing helps, the global expert is all that is used."""
    [person] = relearn([write(new(running), running, 0, 0, 120)], running, QUICK)
    [moved] = transfer([person], blind, Learner(steps=0))
    assert moved.release == "blind"
    assert moved.version == person.version + 1


def test_a_mixture_learned_for_another_release_is_that_of_its_features(running, turned):
    person = write(new(running), running, 0, 0, 120)
    [moved] = transfer([person], turned, QUICK)
    [alone] = relearn([write(new(turned), turned, 0, 0, 120)], turned, QUICK)
    torch.testing.assert_close(weights(moved), weights(alone), atol=1e-4, rtol=1e-3)


def test_an_evaluation_counts_what_each_would_say(running, turned):
    [person] = relearn([write(new(running), running, 0, 0, 150)], running, QUICK)
    [moved] = transfer([person], turned, QUICK)
    judges = person.replay.held_back(2000)
    [found] = evaluate([person], running, turned, QUICK)
    expected = (
        len(judges),
        right(new(turned), turned, judges).sum(),
        right(new(running), running, judges).sum(),
        right(moved, turned, judges).sum(),
        right(person, running, judges).sum(),
    )
    assert astuple(found) == expected
    assert 0 < found.ge_right < found.held_back


def test_who_keeps_nothing_takes_and_judges_what_comes(running, blind):
    [found] = evaluate([new(running)], running, blind, QUICK)
    assert astuple(found) == (0,) * 5
    [adopted] = adopt([new(running)], running, blind, QUICK, is_rollback=False)
    assert (adopted.release, adopted.mixture, adopted.version) == ("blind", None, 0)


def test_who_follows_keeps_counts_and_learns_the_same(running):
    leader, follower = new(running, capacity=64), new(running, capacity=64)
    for start in range(0, 150, 40):
        leader = write(leader, running, 0, start, start + 40)
        [follower] = follow([follower], [leader], running, rest)
        assert_alike(follower, leader)
    leader = leader.forget(range(100, 130))
    [follower] = follow([follower], [leader], running, rest)
    assert_alike(follower, leader)
    [leader], [follower] = (
        relearn([person], running, QUICK, forced=True) for person in (leader, follower)
    )
    assert_alike(follower, leader)


def test_who_follows_again_extracts_the_features_of_what_is_new_alone(running, turned):
    leader = write(new(running), running, 0, 0, 30)
    [follower] = follow([new(turned)], [leader], turned, rest)
    later = write(leader, running, 0, 30, 50).forget({3, 4})
    [again] = follow([follower], [later], turned, rest)
    known = {id(sample) for sample in follower.replay.samples}
    assert sum(id(sample) in known for sample in again.replay.samples) == 28
    assert len(again.replay) == 48


def test_who_follows_with_another_expert_has_its_features(running):
    torch.manual_seed(1)
    expert = build("leaf-cnn", 62)
    with torch.no_grad():
        sketch = Sketch.of(expert.features(expert.scale(WRITTEN.observations[:100])))
    other = Base(expert, sketch, "other")
    leader = write(new(running), running, 0, 0, 20)
    pauses: list[int] = []
    [follower] = follow([new(other)], [leader], other, lambda: pauses.append(1))
    assert pauses
    for sample in follower.replay.samples:
        with torch.no_grad():
            features = expert.features(expert.scale(sample.observation[None]))[0]
        np.testing.assert_allclose(sample.features, features, rtol=1e-4, atol=1e-5)
    [learned] = relearn([follower], other, QUICK, forced=True)
    assert learned.mixture is not None
