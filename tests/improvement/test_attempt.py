"""What holds of every attempt, whatever becomes of it."""

import math
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.improvement.actions import (
    AskForEvaluation,
    CandidateMade,
    MakeCandidate,
    Progress,
    Publish,
    RollBack,
    RolledBack,
    RoundEnded,
    TakeRound,
)
from fedhw.improvement.attempt import (
    ENDS,
    MAX_FAILED_ROUNDS,
    ROUND_RETRY_SECONDS,
    STALLED_WINDOWS,
    Attempt,
    Facts,
    Newest,
    Round,
    Stage,
    Transition,
    advance,
    give_up,
    roll_out,
)
from fedhw.improvement.verdicts import GUARDED, Outcome, Verdict, judge_candidate
from fedhw.privacy.estimate import Estimate
from fedhw.privacy.window_estimates import WindowEstimates
from tests.improvement.attempts import HOUR, NAMES, PLAN, begun, facts_for, result_of

STEPS_TO = {
    Stage.ROUNDS: {Stage.SHADOW, Stage.REJECTED, Stage.ABANDONED, Stage.STOPPED},
    Stage.SHADOW: {Stage.ROLL_OUT, Stage.REJECTED, Stage.ABANDONED, Stage.STOPPED},
    Stage.ROLL_OUT: {Stage.PROMOTED, Stage.ABANDONED, Stage.STOPPED, Stage.ROLLED_BACK},
}

ACTIONS = {
    Stage.ROUNDS: TakeRound | MakeCandidate,
    Stage.SHADOW: AskForEvaluation,
    Stage.ROLL_OUT: Publish | RollBack,
}


def story(rng: Random, steps: int = 40) -> Iterator[tuple[Attempt, Facts, Transition]]:
    """One attempt, step by step: results may be lost, and the operator may want it ended."""
    attempt, action = begun(), None
    for _ in range(steps):
        if rng.random() < 0.01:
            attempt = replace(attempt, stopping=True)
        result = result_of(rng, action) if rng.random() < 0.8 else None
        facts = facts_for(rng, attempt, action, result)
        moved = advance(attempt, facts, rng)
        yield attempt, facts, moved
        attempt, action = moved.attempt, moved.action


RANDOM = st.integers(0, 2**32).map(Random)


@given(RANDOM)
def test_every_step_is_legal(rng: Random) -> None:
    for before, _, (after, action, decision) in story(rng):
        if before.stage in ENDS:
            assert (after, action, decision) == (before, None, None)
            continue
        if after.stage != before.stage:
            assert after.stage in STEPS_TO[before.stage]
            assert decision is not None
        if action is not None:
            assert isinstance(action, ACTIONS[after.stage])
        if decision is not None:
            assert decision.attempt == before.number
            assert decision.reason
            assert (decision.decision in ENDS) == (after.stage in ENDS)
        assert (after.number, after.parent, after.plan) == (1, 3, PLAN)


@given(RANDOM)
def test_nothing_is_published_that_was_not_validated_and_evaluated(rng: Random) -> None:
    is_valid = is_better = False
    for before, facts, (after, action, _) in story(rng):
        if (before.stage, after.stage) == (Stage.ROUNDS, Stage.SHADOW):
            made = facts.result
            is_valid = isinstance(made, CandidateMade) and made.verdict.outcome == Outcome.PASS
        if (before.stage, after.stage) == (Stage.SHADOW, Stage.ROLL_OUT):
            is_better = judge_candidate(facts.shadow, True).outcome == Outcome.PASS
        if action == Publish() or after.version is not None:
            assert is_valid
            assert is_better


@given(RANDOM)
def test_a_rollback_restores_the_parent(rng: Random) -> None:
    for before, facts, (after, action, _) in story(rng):
        if isinstance(action, RollBack):
            assert action.version == before.parent
            assert before.version is not None
        if after.stage == Stage.ROLLED_BACK != before.stage:
            restored = facts.newest.restores == before.parent
            assert restored or isinstance(facts.result, RolledBack)


@given(RANDOM)
def test_nobody_is_asked_too_often_or_while_away(rng: Random) -> None:
    for before, facts, (after, action, _) in story(rng):
        if isinstance(action, TakeRound | AskForEvaluation):
            assert {*action.devices} <= {*facts.online}
            assert len({*action.devices}) == len(action.devices)
        if isinstance(action, TakeRound):
            assert PLAN.survivors <= len(action.devices) <= PLAN.cohort
            assert max(after.participations.values()) <= PLAN.participations
            assert after.rounds[:-1] == before.rounds


@given(RANDOM)
def test_an_action_whose_result_is_lost_is_chosen_again(rng: Random) -> None:
    for _, facts, (after, action, _) in story(rng):
        later = replace(facts, result=None)
        if isinstance(action, TakeRound):  # which counts as failed, and as paid by all
            assert after.failed_rounds > 0
            assert {*action.devices} <= {*after.participations}
            again = advance(after, later, rng)
            assert again.attempt.rounds[: len(after.rounds)] == after.rounds
        elif action is not None:
            assert advance(after, later, rng)[:2] == (after, action)


@given(RANDOM, st.text(min_size=1))
def test_what_cannot_be_known_ends_only_what_is_not_published(rng: Random, reason: str) -> None:
    for before, facts, _ in story(rng):
        after, action, decision = give_up(before, facts.now, reason)
        assert action is None
        if before.stage in (Stage.ROUNDS, Stage.SHADOW):
            assert (after.stage, decision[3]) == (Stage.ABANDONED, reason)
        else:
            assert (after, decision) == (before, None)


def test_every_stage_is_reached_or_all_this_says_nothing() -> None:
    stories = (story(Random(seed), 80) for seed in range(200))
    assert {after.stage for one in stories for _, _, (after, _, _) in one} == {*Stage}


# By example


def facts(attempt: Attempt, **changes: object) -> Facts:
    version = attempt.version or attempt.parent
    known = Facts(
        now=attempt.since + 1,
        newest=Newest(version, f"v{version}-00000000"),
        online=NAMES,
        devices=12,
        window_seconds=HOUR,
        minimum_cohort=3,
        parent_name="v3-00000000",
    )
    return replace(known, **changes)


def after_rounds(*summed: int | None) -> Attempt:
    now = begun().since
    rounds = [Round(now, 0.25, NAMES[:4], 1.0, each, each and 0.5) for each in summed]
    return replace(begun(), rounds=tuple(rounds))


def test_pauses_double_and_rounds_that_fail_are_bounded() -> None:
    for failed in range(1, MAX_FAILED_ROUNDS):
        attempt = after_rounds(5, *[None] * failed)
        due = attempt.since + 1.0 + ROUND_RETRY_SECONDS * 2 ** (failed - 1)
        assert advance(attempt, facts(attempt, now=due - 1), Random(0)).action is None
        assert isinstance(advance(attempt, facts(attempt, now=due), Random(0)).action, TakeRound)
    ended = advance(after_rounds(*[None] * MAX_FAILED_ROUNDS), facts(attempt), Random(0))
    assert ended.attempt.stage == Stage.ABANDONED
    assert ended.decision.reason == f"{MAX_FAILED_ROUNDS} rounds in a row failed"


def test_a_clock_that_is_set_back_does_not_keep_rounds_waiting() -> None:
    attempt = after_rounds(None)
    earlier = facts(attempt, now=attempt.since - 1e6)
    assert isinstance(advance(attempt, earlier, Random(0)).action, TakeRound)


def test_a_round_with_too_few_devices_fails_and_costs_nobody() -> None:
    attempt, action, decision = advance(begun(), facts(begun(), online=NAMES[:3]), Random(0))
    assert action is None
    assert (attempt.failed_rounds, attempt.participations) == (1, {})
    assert decision.reason == "devices: 3 can be asked and 4 are wanted; wait for more"


def test_those_come_first_of_whom_the_candidate_was_not_made() -> None:
    attempt = replace(after_rounds(4, 4), stage=Stage.SHADOW, candidate="v0-00000001")
    _, action, _ = advance(attempt, facts(attempt), Random(0))
    assert isinstance(action, AskForEvaluation)
    assert len(action.devices) == math.ceil(PLAN.canary * 12)
    assert not {*action.devices} & {*NAMES[:4]}


def test_the_figures_of_the_fleet_before_it_are_kept_to_compare_with() -> None:
    attempt = replace(
        begun(), stage=Stage.SHADOW, progress={NAMES[0]: Progress.TOLD}, candidate="v0-00000001"
    )
    gains = [Estimate(name, None, 0.1, 0.001, 9, "share") for name in ("ge_gain", "gain")]
    figures = [Estimate(name, None, 0.8, 0.01, 9, "share") for name in (*GUARDED, "samples")]
    shown = WindowEstimates(999, 1000.0 * HOUR, 9, figures, {})
    for estimates, baseline in ((None, ()), (shown, tuple(figures[:2]))):
        known = facts(attempt, shadow_reports=1, shadow=gains, estimates=estimates)
        promoted, _, decision = advance(attempt, known, Random(0))
        assert (promoted.stage, promoted.baseline) == (Stage.ROLL_OUT, baseline)
        assert decision.decision == "promote"
        # An attempt of version 0.1 that was promoted, and not yet published, has kept none.
        there = Newest(4, "v4-00000000", None, is_candidate=True)
        known = facts(attempt, newest=there, estimates=estimates)
        published = advance(replace(promoted, baseline=()), known, Random(0)).attempt
        assert (published.version, published.baseline) == (4, baseline)


@pytest.mark.parametrize("windows", [STALLED_WINDOWS, STALLED_WINDOWS + 1])
def test_a_roll_out_that_nothing_is_known_of_goes_back(windows: int) -> None:
    attempt = replace(begun(), stage=Stage.ROLL_OUT, version=4, window=1000)
    _, action, _ = advance(attempt, facts(attempt, now=(1000 + windows) * HOUR), Random(0))
    reason = "there was nothing to compare it with in 7 windows"
    assert action == (RollBack(3, reason) if windows > STALLED_WINDOWS else None)


def test_it_is_published_once() -> None:
    attempt = replace(begun(), stage=Stage.ROLL_OUT, candidate="v0-00000001")
    before = facts(attempt)
    assert advance(attempt, before, Random(0)) == (attempt, Publish(), None)
    there = facts(attempt, newest=Newest(4, "v4-00000000", None, is_candidate=True))
    published, action, decision = advance(attempt, there, Random(0))
    assert (published.version, action) == (4, None)
    assert decision.reason == "v4-00000000 is for 50% of the devices"
    other = facts(attempt, newest=Newest(4, "v4-00000000"))
    assert advance(attempt, other, Random(0)).attempt.stage == Stage.ABANDONED


def test_a_release_by_hand_is_for_all() -> None:
    newest = Newest(4, "v4-00000000")
    for attempt in (None, begun(), replace(begun(), stage=Stage.PROMOTED, version=4)):
        reach = roll_out(attempt, newest, devices=1000, minimum_cohort=10)
        assert (reach.share, reach.version_for("anna", None)) == (1.0, 4)
    rolling = replace(begun(), stage=Stage.ROLL_OUT, version=4)
    reach = roll_out(rolling, newest, devices=1000, minimum_cohort=10)
    assert (reach.share, reach.before) == (0.02, 3)


def test_a_round_that_was_cut_off_is_paid_by_all_who_were_asked() -> None:
    attempt, action, _ = advance(begun(), facts(begun()), Random(0))
    assert isinstance(action, TakeRound)
    assert attempt.participations == dict.fromkeys(action.devices, 1)
    ended = RoundEnded(action.devices[:5], 2.0, 5, 0.4)
    attempt, _, decision = advance(attempt, facts(attempt, result=ended), Random(0))
    assert attempt.participations == dict.fromkeys(action.devices[:5], 1)
    assert (attempt.failed_rounds, decision) == (0, None)


def test_a_verdict_on_public_characters_is_the_reason() -> None:
    for outcome, stage in ((Outcome.PASS, Stage.SHADOW), (Outcome.REJECT, Stage.REJECTED)):
        made = CandidateMade("v0-00000001", Verdict(outcome, "95% of 100 characters"))
        after, _, decision = advance(begun(), facts(begun(), result=made), Random(0))
        assert (after.stage, after.candidate) == (stage, "v0-00000001")
        assert decision.reason == "95% of 100 characters"
