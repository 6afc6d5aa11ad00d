import math
from pathlib import Path

import numpy as np
import pytest

from fedhw.improvement.candidate import Outcome, judge, make_candidate, validate
from fedhw.improvement.local_update import flat, unflatten
from fedhw.improvement.public import Public
from fedhw.privacy.estimate import Estimate
from fedhw.release.release import Release


def shadow(alone: float, mixed: float = 0.0, error: float = 0.005) -> list[Estimate]:
    return [
        Estimate("active", None, 1.0, 0.01, 200, "share"),
        Estimate("ge_gain", None, alone, error, 200, "share"),
        Estimate("gain", None, mixed, error, 200, "share"),
    ]


def test_a_candidate_is_a_whole_release(public: Public, running: Release, tmp_path: Path) -> None:
    privacy = {"epsilon": 3.5, "delta": 1e-6}
    make_candidate(tmp_path / "candidate", running.expert, running, public, privacy)
    made = Release.load(tmp_path / "candidate")
    assert made.manifest.privacy == privacy
    assert made.manifest.labels == running.labels
    assert made.trained_on == running.trained_on
    np.testing.assert_array_equal(made.generic.observations, public.validation.observations)
    np.testing.assert_array_equal(flat(made.expert), flat(running.expert))


def test_the_running_expert_itself_is_not_worse(public: Public, running: Release) -> None:
    assert validate(running.expert, running.expert, public).outcome is Outcome.PASS


@pytest.mark.parametrize("poison", ["noise", "signs", "not a number"])
def test_a_poisoned_expert_is_rejected_on_public_data(
    poison: str, public: Public, running: Release
) -> None:
    parameters = flat(running.expert)
    if poison == "noise":
        parameters += np.random.default_rng(0).normal(0, 0.1, len(parameters)).astype(np.float32)
    elif poison == "signs":
        parameters = -parameters
    else:
        parameters[100] = math.nan
    verdict = validate(unflatten(running.expert, parameters), running.expert, public)
    assert verdict.outcome is Outcome.REJECT


def test_a_sure_gain_is_promoted_once_the_canary_is_complete() -> None:
    assert judge(shadow(0.03), is_complete=False).outcome is Outcome.WAIT
    verdict = judge(shadow(0.03), is_complete=True)
    assert verdict.outcome is Outcome.PASS
    assert "+3.00%" in verdict.reason


@pytest.mark.parametrize("gain", [0.005, 0.0, -0.005])
def test_a_gain_that_is_not_sure_is_none(gain: float) -> None:
    assert judge(shadow(gain), is_complete=True).outcome is Outcome.REJECT


@pytest.mark.parametrize(("alone", "mixed"), [(-0.05, 0.0), (0.05, -0.05)])
def test_harm_ends_the_evaluation_at_once(alone: float, mixed: float) -> None:
    assert judge(shadow(alone, mixed), is_complete=False).outcome is Outcome.REJECT


def test_of_too_few_nothing_is_known() -> None:
    assert judge(None, is_complete=False).outcome is Outcome.WAIT
    assert judge(None, is_complete=True).outcome is Outcome.REJECT
