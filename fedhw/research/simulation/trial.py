"""Personalise a cohort of writers by several methods, and measure each.

A trial holds everything that it needs and does not depend on the engine, so that a cohort has the
same outcome in this process, in another one, and on another machine.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedhw.data.writers import WriterSet, stratified_split
from fedhw.errors import InputError
from fedhw.experts.cost import Cost, cost_of_global, macs_of
from fedhw.personalization.learner import PersonalMixture
from fedhw.personalization.method import (
    Activations,
    Cohort,
    Method,
    PersonalModel,
    extract_features,
    pad_cohort,
)
from fedhw.release.release import Release
from fedhw.research.simulation.population import Population, Shots
from fedhw.system.atomic import replacing
from fedhw.system.clock import Clock, SystemClock

CURVE = (8, 16, 31, 62, 124)
"""Numbers of samples at which the gain is measured, unless `shots` sets one for all writers."""

MIXTURE = "moe"
"""The method whose gates, changes and curve are recorded, beside the measurement of all methods."""

OPENINGS = 20
"""Bins of the histogram of gate openings."""

DAMAGE = (OSError, EOFError, TypeError, ValueError, RuntimeError)
"""What numpy and zipfile raise for a damaged archive."""

AT_ONCE = 1024
"""Generic characters recognised at once; this bounds the memory."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """The measurement of one method on W writers; every field is [W].

    `custom` and `generic` are accuracies as fractions. Overheads are relative to the global expert;
    `mac_overhead` is counted on the padded cohort, which makes kNN look more expensive than it is.
    `seconds` is each writer's share of the processor time of learning.
    """

    custom: Floats
    generic: Floats
    parameter_overhead: Floats
    mac_overhead: Floats
    seconds: Floats

    @classmethod
    def joined(cls, parts: Sequence["Measurement"]) -> "Measurement":
        """Join the measurements of cohorts."""
        return cls(*np.concatenate([part.array() for part in parts], axis=1))

    def array(self) -> Floats:
        """Return everything as one array [5, W]; its rows are the arguments of the constructor."""
        return np.stack([getattr(self, field.name) for field in fields(self)])


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial for W writers.

    Shapes: names, classes, learned and tested (numbers of characters) are [W]. `openings`
    [2, OPENINGS] is a histogram of the gate of `moe`, from 0 to 1, for the writers' own test
    characters and for generic ones. `curve` [len(CURVE), W] is the gain by `moe` at each number of
    samples, NaN for writers with fewer. `changes` [K, 5] has a row for each test character that
    `moe` and `ge` recognise differently: writer, place among the writer's characters, label, label
    given by `ge`, label given by `moe`.
    """

    names: NDArray[np.str_]
    classes: NDArray[np.int64]
    learned: NDArray[np.int64]
    tested: NDArray[np.int64]
    methods: dict[str, Measurement]
    openings: NDArray[np.int64]
    curve: Floats
    changes: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence["Outcome"]) -> "Outcome":
        """Join the outcomes of cohorts, which are in the order of their writers."""
        starts = np.cumsum([0, *(len(part.names) for part in parts)])
        return cls(
            names=np.concatenate([part.names for part in parts]),
            classes=np.concatenate([part.classes for part in parts]),
            learned=np.concatenate([part.learned for part in parts]),
            tested=np.concatenate([part.tested for part in parts]),
            methods={
                name: Measurement.joined([part.methods[name] for part in parts])
                for name in parts[0].methods
            },
            openings=np.sum([part.openings for part in parts], axis=0),
            curve=np.concatenate([part.curve for part in parts], axis=1),
            changes=np.concatenate(
                [
                    part.changes + np.array([start, 0, 0, 0, 0])
                    for start, part in zip(starts, parts, strict=False)
                ]
            ),
        )

    def save(self, path: Path) -> None:
        """Write it to an npz archive, whole or not at all."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "methods"}
        for name, measured in self.methods.items():
            arrays[f"method {name}"] = measured.array()
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Outcome":
        """Read what `save` has written; raises InputError for anything else."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive)
            methods = {
                name.removeprefix("method "): Measurement(*arrays.pop(name))
                for name in list(arrays)
                if name.startswith("method ")
            }
            return cls(**arrays, methods=methods)
        except (*DAMAGE, BadZipFile, zlib.error) as error:
            raise InputError(f"{path}: is not a cohort's outcome ({error}); delete it") from error


@dataclass(frozen=True)
class Trial:
    """Let the writers of a population learn from `shots` characters each and test on others.

    A writer's characters are split by `seed` and the writer's name: a half to learn from, of which
    the first `shots` are taken, and a half to test on. `methods` must contain `ge`, the global
    expert alone, which the others are compared with. Raises InputError for a release without its
    test characters.
    """

    release: Release
    population: Population
    methods: Mapping[str, Method]
    shots: Shots
    seed: int

    def __post_init__(self) -> None:
        if "ge" not in self.methods:
            raise ValueError("methods: there is no ge to measure against")
        # Read now: another machine does not have these files.
        self.release.generic  # noqa: B018

    def run(self, writers: Sequence[int], clock: Clock = SystemClock()) -> Outcome:
        """Return the outcome for these writers of the population."""
        data = self.population.write(writers)
        halves = [self._halves(data, w) for w in range(len(data.names))]
        limit = None if self.shots == "half" else self.shots
        learn = self._gather(data, [rows[:limit] for rows, _ in halves])
        test = self._gather(data, [rows for _, rows in halves])
        methods, guesses = {}, {}
        openings = np.zeros((2, OPENINGS), np.int64)
        for name, method in self.methods.items():
            began = clock.processor()
            personal = method.learn(self.release.expert, learn, self.release.sketch, self.seed)
            seconds = clock.processor() - began
            scores = personal.scores(test.activations)
            guesses[name] = scores.argmax(-1)
            methods[name] = self._measured(personal, _accuracy(scores, test), test, seconds)
            if name == MIXTURE and isinstance(personal, PersonalMixture):
                openings += self._openings(personal, test)
        return Outcome(
            names=np.array(data.names),
            classes=np.array([data.classes_of(w) for w in range(len(data.names))]),
            learned=learn.mask.sum(1).numpy(),
            tested=test.mask.sum(1).numpy(),
            methods=methods,
            openings=openings,
            curve=self._curve(data, halves),
            changes=_changes(data, [rows for _, rows in halves], test, guesses),
        )

    def _halves(self, data: WriterSet, writer: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows to learn from and to test on, which do not depend on the other writers."""
        rows = data.rows_of(writer)
        rng = np.random.default_rng([self.seed, *data.names[writer].encode()])
        learn, test = stratified_split(data.labels[rows], rng)
        return rows[learn], rows[test]

    def _gather(self, data: WriterSet, rows: Iterable[NDArray[np.int64]]) -> Cohort:
        chosen = list(rows)
        return pad_cohort(
            self.release.expert,
            [data.observations[own] for own in chosen],
            [data.labels[own] for own in chosen],
        )

    @cached_property
    def _generic(self) -> Activations:
        return extract_features(self.release.expert, self.release.generic.observations[None])

    @cached_property
    def _cost(self) -> Cost:
        return cost_of_global(self.release.expert)

    @torch.no_grad()
    def _measured(
        self, personal: PersonalModel, custom: Floats, test: Cohort, seconds: float
    ) -> Measurement:
        labels = torch.from_numpy(self.release.generic.labels)
        right = torch.zeros(len(custom))
        for i in range(0, len(labels), AT_ONCE):
            guess = personal.scores(self._generic.between(i, i + AT_ONCE)).argmax(-1)
            right += (guess == labels[i : i + AT_ONCE]).sum(-1)
        glyph = test.activations.between(0, 1)
        macs = macs_of(lambda: personal.scores(glyph)) / len(custom)
        return Measurement(
            custom=custom,
            generic=(right.double() / len(labels)).numpy(),
            parameter_overhead=np.full(
                len(custom), personal.parameter_count() / self._cost.parameters
            ),
            mac_overhead=np.full(len(custom), macs / self._cost.macs),
            seconds=np.full(len(custom), seconds / len(custom)),
        )

    def _openings(self, personal: PersonalMixture, test: Cohort) -> NDArray[np.int64]:
        def counted(openings: Tensor) -> NDArray[np.int64]:
            return np.histogram(openings.numpy(), OPENINGS, (0, 1))[0]

        own = personal.mixture.opening(test.activations.features, test.activations.scores)[..., 0]
        everybody = personal.mixture.opening(self._generic.features, self._generic.scores)
        return np.stack([counted(own[test.mask]), counted(everybody)])

    def _curve(
        self, data: WriterSet, halves: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
    ) -> Floats:
        gains = np.full((len(CURVE), len(halves)), np.nan)
        if self.shots != "half" or MIXTURE not in self.methods:
            return gains
        for gain, k in zip(gains, CURVE, strict=True):
            able = [w for w, (learn, _) in enumerate(halves) if len(learn) >= k]
            if able:
                test = self._gather(data, [halves[w][1] for w in able])
                learn = self._gather(data, [halves[w][0][:k] for w in able])
                personal = self.methods[MIXTURE].learn(
                    self.release.expert, learn, self.release.sketch, self.seed
                )
                after = _accuracy(personal.scores(test.activations), test)
                gain[able] = after - _accuracy(test.activations.scores, test)
        return gains


def _accuracy(scores: Tensor, cohort: Cohort) -> Floats:
    right = (scores.argmax(-1) == cohort.labels) & cohort.mask
    return (right.sum(1).double() / cohort.mask.sum(1)).numpy()


def _changes(
    data: WriterSet,
    tested: Sequence[NDArray[np.int64]],
    test: Cohort,
    guesses: Mapping[str, Tensor],
) -> NDArray[np.int64]:
    if MIXTURE not in guesses:
        return np.empty((0, 5), np.int64)
    before, after = guesses["ge"], guesses[MIXTURE]
    writer, column = torch.nonzero((before != after) & test.mask, as_tuple=True)
    starts = np.cumsum(data.counts()) - data.counts()
    place = [tested[w][c] - starts[w] for w, c in zip(writer.tolist(), column, strict=True)]
    labels = (guess[writer, column].numpy() for guess in (test.labels, before, after))
    return np.stack([writer.numpy(), np.array(place, np.int64), *labels], axis=1)
