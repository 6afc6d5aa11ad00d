"""Verdicts on a candidate and on a release during its roll-out, from noised reports.

A candidate passes its shadow evaluation if
    the expert alone is significantly better, and
    the mixtures learned on it are not significantly worse.
A release is rolled back if it is significantly worse than the release before it in any window.
"""

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from statistics import NormalDist
from typing import NamedTuple

from fedhw.privacy.estimate import Estimate

SHADOW_CONFIDENCE = 0.95
"""The confidence of the interval whose lower end must be above zero in a shadow evaluation."""

STEP_WINDOWS = 2
"""Windows in which each step of a roll-out is judged, at least."""

GUARDED = ("moe_accuracy", "ge_accuracy")
"""The figures that must not be worse under the new release than under the one before."""

GUARD_CONFIDENCE = 0.999
"""The confidence of each test of a roll-out; there are about a dozen."""


class Outcome(StrEnum):
    """The outcome of a judgement."""

    WAIT = "wait"
    PASS = "pass"
    REJECT = "reject"


class Verdict(NamedTuple):
    """An outcome and its reason, one sentence for people."""

    outcome: Outcome
    reason: str


def judge_candidate(shadow: Sequence[Estimate] | None, is_complete: bool) -> Verdict:
    """Judge a candidate by its shadow evaluation; until that is complete, wait for more reports.

    A complete evaluation without a significant gain rejects the candidate.
    """
    if shadow is None:
        if is_complete:
            return Verdict(Outcome.REJECT, "too few devices have reported of the candidate")
        return Verdict(Outcome.WAIT, "too few devices have reported of the candidate so far")
    figures = {each.name: each for each in shadow}
    alone, mixed = figures["ge_gain"], figures["gain"]
    low, high = alone.interval(SHADOW_CONFIDENCE)
    found = f"gain of the expert {alone.mean:+.2%} ({low:+.2%} to {high:+.2%}), "
    found += f"of the mixtures {mixed.mean:+.2%}, {alone.cohort} devices"
    if mixed.interval(SHADOW_CONFIDENCE)[1] < 0:
        return Verdict(Outcome.REJECT, f"the mixtures are worse: {found}")
    if high < 0:
        return Verdict(Outcome.REJECT, f"the expert is worse: {found}")
    if not is_complete:
        return Verdict(Outcome.WAIT, found)
    if not low > 0 or not math.isfinite(low):
        return Verdict(Outcome.REJECT, f"no gain that is sure: {found}")
    return Verdict(Outcome.PASS, found)


def judge_release(new: Iterable[Estimate], old: Iterable[Estimate], windows: int) -> Verdict:
    """Compare estimates under the new release with those under the old one, after some windows.

    Each guarded mean gets a one-sided test, by normal approximation.
    """
    before = {each.name: each for each in old}
    for after in new:
        if after.name not in GUARDED or after.name not in before:
            continue
        change = after.mean - before[after.name].mean
        error = math.hypot(after.standard_error, before[after.name].standard_error)
        if change + NormalDist().inv_cdf(GUARD_CONFIDENCE) * error < 0:
            return Verdict(
                Outcome.REJECT,
                f"{after.name} is {change:+.3f} (standard error {error:.3f}) against the release "
                "before",
            )
    if windows < STEP_WINDOWS:
        return Verdict(Outcome.WAIT, f"{windows} of {STEP_WINDOWS} windows have been looked at")
    return Verdict(Outcome.PASS, f"not worse in {windows} windows")
