"""A candidate for the next release, and what it must prove before it is one.

on public data: not clearly worse than the running expert         validate
on the canary devices' own characters, by their noised reports:   judge
    the expert alone is better, surely
    the mixtures learned on it are not clearly worse
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fedhw.experts.evaluation import looks_worse, recognised
from fedhw.experts.global_expert import GlobalExpert
from fedhw.improvement.public import Public
from fedhw.privacy.estimate import Estimate
from fedhw.release.release import Release, publish
from fedhw.release.sketch import SKETCH_SIZE, Sketch

CONFIDENCE = 0.95
"""Of the interval of a shadow evaluation whose lower end must be above zero."""


class Outcome(StrEnum):
    """What becomes of a candidate."""

    WAIT = "wait"
    PASS = "pass"
    REJECT = "reject"


class Verdict(NamedTuple):
    """An outcome and the reason for it, one sentence for people."""

    outcome: Outcome
    reason: str


def make_candidate(
    directory: Path,
    expert: GlobalExpert,
    running: Release,
    public: Public,
    privacy: dict[str, float],
) -> None:
    """Write an improved expert to `directory` as a release that no registry has numbered yet.

    Devices rehearse on a sketch of the public characters by its own features. `privacy` has the
    epsilon and delta of people's data spent in making it. Raises InputError where `directory`
    exists.
    """
    validation = public.validation
    reached = recognised(expert, validation.observations, validation.labels).mean()
    rows = np.random.default_rng(0).permutation(len(public.rehearsal))[:SKETCH_SIZE]
    with torch.no_grad():
        scaled = expert.scale(public.rehearsal.observations[np.sort(rows)])
        sketch = Sketch.of(expert.features(scaled))
    publish(
        directory,
        expert,
        running.manifest.architecture,
        sketch,
        validation,
        trained_on=public.writers,
        validation={
            "generic_accuracy": float(reached),
            "generic_characters": float(len(validation)),
        },
        privacy=privacy,
    )


def validate(candidate: GlobalExpert, running: GlobalExpert, public: Public) -> Verdict:
    """Judge a candidate on public characters that neither has trained on."""
    if not all(part.isfinite().all() for part in candidate.parameters()):
        return Verdict(Outcome.REJECT, "its parameters are not all finite")
    new, old = (
        recognised(expert, public.validation.observations, public.validation.labels)
        for expert in (candidate, running)
    )
    figures = f"{new.mean():.1%} on {len(new)} public characters, {old.mean():.1%} before"
    if looks_worse(new, old):
        return Verdict(Outcome.REJECT, f"worse on public data: {figures}")
    return Verdict(Outcome.PASS, figures)


def judge(shadow: Sequence[Estimate] | None, is_complete: bool) -> Verdict:
    """Judge a candidate by the canary's reports; until they are complete it waits for more.

    A gain that is not clear once all have reported is none.
    """
    if shadow is None:
        if is_complete:
            return Verdict(Outcome.REJECT, "too few of the canary devices have reported")
        return Verdict(Outcome.WAIT, "too few of the canary devices have reported so far")
    figures = {each.name: each for each in shadow}
    alone, mixed = figures["ge_gain"], figures["gain"]
    low, high = alone.interval(CONFIDENCE)
    said = f"gain of the expert {alone.mean:+.2%} ({low:+.2%} to {high:+.2%}), "
    said += f"of the mixtures {mixed.mean:+.2%}, {alone.cohort} devices"
    if mixed.interval(CONFIDENCE)[1] < 0:
        return Verdict(Outcome.REJECT, f"the mixtures are worse: {said}")
    if high < 0:
        return Verdict(Outcome.REJECT, f"worse for the canary: {said}")
    if not is_complete:
        return Verdict(Outcome.WAIT, said)
    if not low > 0 or not math.isfinite(low):
        return Verdict(Outcome.REJECT, f"no gain that is sure: {said}")
    return Verdict(Outcome.PASS, said)
