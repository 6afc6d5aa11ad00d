from statistics import NormalDist

import numpy as np
import pytest

from fedhw.improvement.rollout import STAGES, WINDOWS, Step, draw, look, share_at
from fedhw.privacy.estimate import Estimate


def figures(moe: float, ge: float = 0.7, error: float = 0.005) -> list[Estimate]:
    return [
        Estimate("moe_accuracy", None, moe, error, 100, "share"),
        Estimate("ge_accuracy", None, ge, error, 100, "share"),
        Estimate("samples", None, 1.0, 1e-9, 100, "corrections"),
    ]


def test_stages_are_nested_and_end_with_everybody() -> None:
    numbers = np.array([draw(f"device-{n}", "v2-0123abcd") for n in range(20_000)])
    reached = [set(np.flatnonzero(numbers < share)) for share in STAGES]
    assert reached[0] < reached[1] < reached[2] == set(range(20_000))
    assert [len(some) / 20_000 for some in reached] == pytest.approx(STAGES, rel=0.2)


def test_another_release_draws_other_devices() -> None:
    first, second = (
        {n for n in range(5000) if draw(f"device-{n}", release) < 0.1} for release in ("a", "b")
    )
    assert len(first & second) / len(first) < 0.3


def test_a_small_fleet_begins_with_a_cohort_that_may_be_shown() -> None:
    assert share_at(0, 50, 10) == 0.2
    assert share_at(0, 5, 10) == 1.0
    assert share_at(1, 100_000, 10) == 0.1


def test_a_clear_fall_goes_back_at_once() -> None:
    verdict = look(figures(0.70), figures(0.80), windows=0)
    assert verdict.step is Step.ROLL_BACK
    assert "moe_accuracy is -0.100" in verdict.reason


def test_a_fall_within_the_noise_does_not() -> None:
    assert look(figures(0.78, error=0.02), figures(0.80, error=0.02), 0).step is Step.WAIT


def test_a_dozen_looks_at_what_is_no_worse_rarely_go_back() -> None:
    change = NormalDist(0, 0.01 * 2**0.5)
    falls = [figures(0.80 + each, error=0.01) for each in change.samples(4000, seed=1)]
    old = figures(0.80, error=0.01)
    back = sum(look(new, old, 0).step is Step.ROLL_BACK for new in falls)
    assert back / len(falls) < 0.003


def test_what_is_not_guarded_may_fall() -> None:
    new, old = figures(0.8), figures(0.8)
    new[2] = new[2]._replace(mean=0.0)
    assert look(new, old, WINDOWS).step is Step.ADVANCE


def test_a_stage_lasts_its_windows() -> None:
    steps = [look(figures(0.81), figures(0.80), windows).step for windows in range(WINDOWS + 1)]
    assert steps == [Step.WAIT] * WINDOWS + [Step.ADVANCE]
