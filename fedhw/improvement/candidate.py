"""A candidate for the next release, and its validation on public data."""

from pathlib import Path

import numpy as np
import torch

from fedhw.experts.evaluation import looks_worse, recognised
from fedhw.experts.global_expert import GlobalExpert
from fedhw.improvement.public import Public
from fedhw.improvement.verdicts import Outcome, Verdict
from fedhw.release.release import Release, publish
from fedhw.release.sketch import SKETCH_SIZE, Sketch


def make_candidate(
    directory: Path,
    expert: GlobalExpert,
    running: Release,
    public: Public,
    privacy: dict[str, float],
) -> None:
    """Write an improved expert to `directory` as a release that has no version yet.

    The sketch holds features of public observations by the new expert. `privacy` is the epsilon and
    delta that the rounds have spent. Raises InputError where `directory` exists.
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
    """Judge a candidate on public observations that neither expert was trained on."""
    if not all(part.isfinite().all() for part in candidate.parameters()):
        return Verdict(Outcome.REJECT, "its parameters are not all finite")
    new, old = (
        recognised(expert, public.validation.observations, public.validation.labels)
        for expert in (candidate, running)
    )
    figures = f"{new.mean():.1%} on {len(new)} public observations, {old.mean():.1%} before"
    if looks_worse(new, old):
        return Verdict(Outcome.REJECT, f"worse on public data: {figures}")
    return Verdict(Outcome.PASS, figures)
