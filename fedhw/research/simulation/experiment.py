"""Personalise a population by several methods, cohort by cohort, and join the outcomes."""

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhw import __version__
from fedhw.errors import InputError
from fedhw.research.simulation.engines.engine import Engine
from fedhw.research.simulation.trial import CURVE, Measurement, Outcome, Trial

FULL_ALPHABET = 55
"""Classes from which on a writer counts as one of the full alphabet.

A class prior gains nothing for such a writer.
"""

HURT = 0.01
"""A writer whose accuracy falls by more than this is hurt."""


@dataclass(frozen=True)
class Experiment:
    """A trial of all writers of its population, and its outcome."""

    trial: Trial
    outcome: Outcome

    @property
    def methods(self) -> dict[str, Measurement]:
        """The measurement of each method; `ge` is always among them."""
        return self.outcome.methods

    def gain(self, method: str) -> NDArray[np.float64]:
        """Return each writer's accuracy by `method` less that by the global expert alone."""
        return self.methods[method].custom - self.methods["ge"].custom

    def full_alphabet(self) -> NDArray[np.bool_]:
        """Tell which writers wrote at least 55 classes."""
        return self.outcome.classes >= FULL_ALPHABET

    @cached_property
    def curve(self) -> dict[int, NDArray[np.float64]]:
        """The gain by `moe` at each number of samples, for the writers who have as many."""
        able = ~np.isnan(self.outcome.curve)
        return {
            k: gains[mask]
            for k, gains, mask in zip(CURVE, self.outcome.curve, able, strict=True)
            if mask.any()
        }


def run_experiment(
    trial: Trial,
    engine: Engine,
    kept: Path | None = None,
    after: Callable[[int], None] = lambda writers: None,
) -> Experiment:
    """Run a trial of all writers on an engine; `after` is called with how many more are done.

    With a directory `kept`, each cohort's outcome is stored there as it arrives, so that an
    interrupted experiment continues where it stopped, until `forget` removes them. Outcomes of
    another release, population or trial in that directory are neither used nor changed.
    """
    cohorts = trial.population.cohorts()
    place = None if kept is None else kept / identity(trial)
    done = {} if place is None else _done(place, trial)
    after(sum(map(len, done)))
    waiting = [cohort for cohort in cohorts if cohort not in done]
    for cohort, outcome in engine.run(trial, waiting) if waiting else ():
        if place is not None:
            outcome.save(_file(place, cohort))
        done[cohort] = outcome
        after(len(cohort))
    return Experiment(trial, Outcome.joined([done[cohort] for cohort in cohorts]))


def forget(trial: Trial, kept: Path) -> None:
    """Remove the outcomes that `run_experiment` has kept of a trial."""
    shutil.rmtree(kept / identity(trial), ignore_errors=True)
    with suppress(OSError):  # outcomes of other trials are there, too
        kept.rmdir()


def _done(place: Path, trial: Trial) -> dict[range, Outcome]:
    """The outcomes that are kept; a damaged one does not count, and is made again."""
    found = {}
    for cohort in trial.population.cohorts():
        with suppress(InputError):
            outcome = Outcome.load(_file(place, cohort))
            if set(outcome.methods) == set(trial.methods) and len(outcome.names) == len(cohort):
                found[cohort] = outcome
    return found


def identity(trial: Trial) -> str:
    """Return a name for everything that determines an outcome."""
    made_from = (
        __version__,
        trial.release.manifest.digest,
        trial.population.identity,
        sorted(trial.methods.items()),
        trial.shots,
        trial.seed,
    )
    return hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]


def _file(place: Path, cohort: range) -> Path:
    return place / f"{cohort.start}-{cohort.stop}.npz"
