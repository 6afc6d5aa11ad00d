import math
from dataclasses import replace
from typing import Any

import pytest

from fedhw.errors import InputError
from fedhw.improvement.trigger import Outlook, Trigger
from fedhw.improvement.verdicts import Outcome
from fedhw.privacy.estimate import Estimate
from fedhw.privacy.window_estimates import WindowEstimates
from fedhw.system.clock import DAY_SECONDS


def seen(ge_accuracy: float, gate_open: float = 0.3, error: float = 0.01) -> WindowEstimates:
    figures = [
        Estimate("error_share", 0, 0.9, 0.1, 500, "share"),
        Estimate("ge_accuracy", None, ge_accuracy, error, 500, "share"),
        Estimate("gate_open", None, gate_open, error, 500, "share"),
    ]
    return WindowEstimates(1, 1e9, 500, figures, {})


OUTLOOK = Outlook(
    has_public=True,
    enrolled=1000,
    online=500,
    since_last=math.inf,
    epsilon=2.0,
    newest=seen(0.7),
    after_last=None,
)


def decide(newest: WindowEstimates | None = OUTLOOK.newest, **changes: Any) -> tuple[bool, str]:
    outcome, reason = Trigger().decide(replace(OUTLOOK, newest=newest, **changes))
    assert outcome in (Outcome.PASS, Outcome.WAIT)
    return outcome == Outcome.PASS, reason


def test_many_errors_are_a_reason() -> None:
    improve, reason = decide(seen(0.7))
    assert improve
    assert "wrong on 30.0%" in reason


@pytest.mark.parametrize("accuracy", [0.85, 0.79])
def test_errors_that_are_few_or_not_clearly_many_are_none(accuracy: float) -> None:
    improve, reason = decide(seen(accuracy))
    assert not improve
    assert "not clearly above 20.0%" in reason


def test_gates_that_open_more_than_after_the_last_improvement_are_a_reason() -> None:
    improve, reason = decide(seen(0.85, gate_open=0.5), after_last=seen(0.85, gate_open=0.3))
    assert improve
    assert "20.0% more" in reason
    assert not decide(seen(0.85, gate_open=0.41), after_last=seen(0.85, gate_open=0.3))[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"online": 99}, "99 devices are online"),
        ({"since_last": 6.5 * DAY_SECONDS}, "6.5 days ago"),
        ({"epsilon": 8.1}, "epsilon 8.10"),
    ],
)
def test_what_forbids_an_improvement_is_said(changes: dict[str, float], reason: str) -> None:
    improve, said = decide(**changes)
    assert not improve
    assert reason in said


def test_without_a_window_nothing_is_known() -> None:
    assert not decide(None)[0]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("error", 1.1, "error: 1.1 is"),
        ("rise", -0.1, "rise: -0.1 is"),
        ("cohort", 1, "online: 1 is"),
        ("pause", -DAY_SECONDS, "pause-days: -1 is"),
        ("pause", math.inf, "pause-days: inf is"),
        ("epsilon", math.nan, "epsilon-in-all: nan is"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(field: str, value: float, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Trigger(**{field: value})
