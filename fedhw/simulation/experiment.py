"""Personalise many writers by several methods, and measure each on the writer and on everybody."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedhw.cost import Cost, cost_of_global, macs_of
from fedhw.data.writers import WriterSet, stratified_split
from fedhw.errors import InputError
from fedhw.personalization.learner import PersonalMixture
from fedhw.personalization.method import Activations, Cohort, Method, Personal, gather, observe
from fedhw.release.release import Release

FULL_ALPHABET = 55
"""A writer of at least so many classes has the full alphabet: a class prior gains nothing there."""

HURT = 0.01
"""A writer whose accuracy falls by more than this is hurt."""

CURVE = (8, 16, 31, 62, 124)
"""Samples a writer at which the gain is measured."""

COHORT = 50
"""Writers learned at once; bounds the memory."""

Shots = int | Literal["half"]


@dataclass(frozen=True)
class Split:
    """One writer's rows: a half to learn from, its first k stratified, and a half to test on."""

    name: str
    classes: int
    learn: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Measurement:
    """One method on W writers.

    `custom` and `generic` are accuracies as fractions, [W]; `guesses` the labels given to each
    writer's test rows; overheads are relative to the global expert, `mac_overhead` counted on the
    padded cohort, which flatters no method but weighs on kNN; `seconds` is learning alone.
    """

    custom: NDArray[np.float64]
    generic: NDArray[np.float64]
    guesses: list[NDArray[np.int64]]
    parameter_overhead: float
    mac_overhead: float
    seconds: float


@dataclass(frozen=True)
class Openings:
    """How far the gates of W writers open, pooled: for own test characters and for generic ones."""

    own: NDArray[np.float32]
    generic: NDArray[np.float32]


@dataclass(frozen=True)
class Experiment:
    """What every method did for the same writers; `ge` is always among the methods.

    `curve` maps samples learned from to the gain by `moe` of each writer who has so many.
    """

    release: Release
    data: WriterSet
    splits: list[Split]
    shots: Shots
    seed: int
    methods: dict[str, Measurement]
    openings: Openings | None
    curve: dict[int, NDArray[np.float64]]

    def gain(self, method: str) -> NDArray[np.float64]:
        """Return each writer's accuracy by `method` less that by the global expert alone."""
        return self.methods[method].custom - self.methods["ge"].custom

    def full_alphabet(self) -> NDArray[np.bool_]:
        """Tell which writers wrote at least 55 classes."""
        return np.array([split.classes >= FULL_ALPHABET for split in self.splits])


def draw_writers(
    release: Release, data: WriterSet, writers: int | None, shots: Shots, seed: int
) -> list[Split]:
    """Draw `writers` that the release never saw and split each; None is all, 60 at most.

    Raises InputError when fewer have enough: twice the shots in characters, or 40 for half, and
    two classes.
    """
    release.check_fits(data)
    fewest = 40 if shots == "half" else 2 * shots
    unseen = [
        int(w)
        for w in np.flatnonzero(data.counts() >= fewest)
        if data.names[w] not in release.trained_on and data.classes_of(int(w)) > 1
    ]
    if not unseen:
        raise InputError(
            f"data: no writer that the release was not trained on has {fewest} characters of two "
            "classes or more; give more characters a writer"
        )
    wanted = min(60, len(unseen)) if writers is None else writers
    if not 0 < wanted <= len(unseen):
        raise InputError(
            f"writers: {wanted} cannot be drawn from the {len(unseen)} that have {fewest} "
            "characters of two classes and that the release was not trained on; ask for fewer"
        )
    rng = np.random.default_rng(seed)
    splits = []
    for w in sorted(rng.permutation(unseen)[:wanted]):
        rows = data.rows_of(w)
        learn, test = stratified_split(data.labels[rows], rng)
        splits.append(Split(data.names[w], data.classes_of(w), rows[learn], rows[test]))
    return splits


def run_experiment(
    release: Release,
    data: WriterSet,
    splits: list[Split],
    methods: Mapping[str, Method],
    shots: Shots,
    seed: int,
    after: Callable[[str, int], None] = lambda stage, writers: None,
) -> Experiment:
    """Learn and measure every method on every writer; `moe` also at the counts of `CURVE`.

    `after` is told the stage just done, a method's name or "curve", and for how many writers.
    """
    generic = observe(release.expert, release.generic.images[None])
    ge = cost_of_global(release.expert)
    parts: dict[str, list[Measurement]] = {name: [] for name in methods}
    openings: list[Openings] = []
    curve: dict[int, list[NDArray[np.float64]]] = {
        k: [] for k in CURVE if "moe" in methods and any(len(s.learn) >= k for s in splits)
    }
    for start in range(0, len(splits), COHORT):
        part = splits[start : start + COHORT]
        test = _gather(release, data, [s.test for s in part])
        limit = None if shots == "half" else shots
        learn = _gather(release, data, [s.learn[:limit] for s in part])
        for name, method in methods.items():
            began = time.perf_counter()
            personal = method.learn(release.expert, learn, release.sketch, seed)
            seconds = time.perf_counter() - began
            parts[name].append(_measure(release, ge, personal, test, generic, seconds))
            if name == "moe" and isinstance(personal, PersonalMixture):
                openings.append(_openings(personal, test, generic))
            after(name, len(part))
        for k, gains in curve.items():
            gains.append(_gain(release, data, part, methods["moe"], k, seed))
            after("curve", len(part))
    return Experiment(
        release=release,
        data=data,
        splits=splits,
        shots=shots,
        seed=seed,
        methods={name: _joined(measured) for name, measured in parts.items()},
        openings=Openings(
            np.concatenate([o.own for o in openings]), np.concatenate([o.generic for o in openings])
        )
        if openings
        else None,
        curve={k: np.concatenate(gains) for k, gains in curve.items()},
    )


def _gather(release: Release, data: WriterSet, rows: Sequence[NDArray[np.int64]]) -> Cohort:
    return gather(release.expert, [data.images[r] for r in rows], [data.labels[r] for r in rows])


def _gain(
    release: Release,
    data: WriterSet,
    splits: Sequence[Split],
    method: Method,
    shots: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return the gain of each writer who has so many samples to learn from."""
    able = [s for s in splits if len(s.learn) >= shots]
    if not able:
        return np.empty(0)
    test = _gather(release, data, [s.test for s in able])
    learn = _gather(release, data, [s.learn[:shots] for s in able])
    personal = method.learn(release.expert, learn, release.sketch, seed)
    return _accuracy(personal.scores(test.seen), test) - _accuracy(test.seen.scores, test)


@torch.no_grad()
def _measure(
    release: Release,
    ge: Cost,
    personal: Personal,
    test: Cohort,
    generic: Activations,
    seconds: float,
) -> Measurement:
    scores = personal.scores(test.seen)
    labels = torch.from_numpy(release.generic.labels.astype(np.int64))
    # In slices, since the scores of every generic character by every writer would be large.
    right = torch.zeros(len(test.labels))
    for i in range(0, len(labels), 1024):
        guess = personal.scores(generic.between(i, i + 1024)).argmax(-1)
        right += (guess == labels[i : i + 1024]).sum(-1)
    writers = len(test.labels)
    glyph = test.seen.between(0, 1)
    return Measurement(
        custom=_accuracy(scores, test),
        generic=(right.double() / len(labels)).numpy(),
        guesses=[
            guess[mask].numpy() for guess, mask in zip(scores.argmax(-1), test.mask, strict=True)
        ],
        parameter_overhead=personal.numbers() / ge.parameters,
        mac_overhead=macs_of(lambda: personal.scores(glyph)) / writers / ge.macs,
        seconds=seconds,
    )


def _accuracy(scores: Tensor, cohort: Cohort) -> NDArray[np.float64]:
    right = (scores.argmax(-1) == cohort.labels) & cohort.mask
    return (right.sum(1).double() / cohort.mask.sum(1)).numpy()


def _openings(personal: PersonalMixture, test: Cohort, generic: Activations) -> Openings:
    own = personal.mixture.opening(test.seen.features, test.seen.scores)[..., 0]
    everybody = personal.mixture.opening(generic.features, generic.scores)[..., 0]
    return Openings(own[test.mask].numpy(), everybody.flatten().numpy())


def _joined(parts: Sequence[Measurement]) -> Measurement:
    """Join cohorts; overheads are means over writers, since kNN keeps as much as each has."""
    weights = [len(part.custom) for part in parts]
    return Measurement(
        custom=np.concatenate([part.custom for part in parts]),
        generic=np.concatenate([part.generic for part in parts]),
        guesses=[guess for part in parts for guess in part.guesses],
        parameter_overhead=float(
            np.average([p.parameter_overhead for p in parts], weights=weights)
        ),
        mac_overhead=float(np.average([p.mac_overhead for p in parts], weights=weights)),
        seconds=sum(part.seconds for part in parts),
    )
