from statistics import NormalDist

import pytest

from fedhw.improvement.verdicts import STEP_WINDOWS, Outcome, judge_candidate, judge_release
from fedhw.privacy.estimate import Estimate


def shadow(alone: float, mixed: float = 0.0, error: float = 0.005) -> list[Estimate]:
    return [
        Estimate("active", None, 1.0, 0.01, 200, "share"),
        Estimate("ge_gain", None, alone, error, 200, "share"),
        Estimate("gain", None, mixed, error, 200, "share"),
    ]


def test_a_sure_gain_is_promoted_once_all_have_reported() -> None:
    assert judge_candidate(shadow(0.03), is_complete=False).outcome is Outcome.WAIT
    verdict = judge_candidate(shadow(0.03), is_complete=True)
    assert verdict.outcome is Outcome.PASS
    assert "+3.00%" in verdict.reason


@pytest.mark.parametrize("gain", [0.005, 0.0, -0.005])
def test_a_gain_that_is_not_sure_is_none(gain: float) -> None:
    assert judge_candidate(shadow(gain), is_complete=True).outcome is Outcome.REJECT


@pytest.mark.parametrize(("alone", "mixed"), [(-0.05, 0.0), (0.05, -0.05)])
def test_harm_ends_the_evaluation_at_once(alone: float, mixed: float) -> None:
    assert judge_candidate(shadow(alone, mixed), is_complete=False).outcome is Outcome.REJECT


def test_of_too_few_nothing_is_known() -> None:
    assert judge_candidate(None, is_complete=False).outcome is Outcome.WAIT
    assert judge_candidate(None, is_complete=True).outcome is Outcome.REJECT


def figures(moe: float, ge: float = 0.7, error: float = 0.005) -> list[Estimate]:
    return [
        Estimate("moe_accuracy", None, moe, error, 100, "share"),
        Estimate("ge_accuracy", None, ge, error, 100, "share"),
        Estimate("samples", None, 1.0, 1e-9, 100, "corrections"),
    ]


def test_a_clear_fall_goes_back_at_once() -> None:
    verdict = judge_release(figures(0.70), figures(0.80), windows=0)
    assert verdict.outcome is Outcome.REJECT
    assert "moe_accuracy is -0.100" in verdict.reason


def test_a_fall_within_the_noise_does_not() -> None:
    assert (
        judge_release(figures(0.78, error=0.02), figures(0.80, error=0.02), 0).outcome
        is Outcome.WAIT
    )


def test_a_dozen_looks_at_what_is_no_worse_rarely_go_back() -> None:
    change = NormalDist(0, 0.01 * 2**0.5)
    falls = [figures(0.80 + each, error=0.01) for each in change.samples(4000, seed=1)]
    old = figures(0.80, error=0.01)
    back = sum(judge_release(new, old, 0).outcome is Outcome.REJECT for new in falls)
    assert back / len(falls) < 0.003


def test_what_is_not_guarded_may_fall() -> None:
    new, old = figures(0.8), figures(0.8)
    new[2] = new[2]._replace(mean=0.0)
    assert judge_release(new, old, STEP_WINDOWS).outcome is Outcome.PASS


def test_a_step_lasts_its_windows() -> None:
    outcomes = [
        judge_release(figures(0.81), figures(0.80), windows).outcome
        for windows in range(STEP_WINDOWS + 1)
    ]
    assert outcomes == [Outcome.WAIT] * STEP_WINDOWS + [Outcome.PASS]
