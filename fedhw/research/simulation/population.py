"""The writers of a simulation, none of whom the release was trained on.

A population returns the characters of a few writers at a time, so that only those that are being
learned from are in memory.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedhw.data.sources import find_generator, load_source
from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.release.release import Release
from fedhw.system.plugins import GENERATORS, installed

COHORT = 50
"""Writers learned at once, at most; this bounds the memory."""

FEWEST_COHORTS = 8
"""Cohorts to aim at where there are few writers, so that every processor has work."""

UNSEEN = 1_000_000
"""Number of the first generated writer of a simulation; no training uses numbers this high."""

Shots = int | Literal["half"]
"""How many samples a writer learns from, or half of them."""


def as_shots(text: str) -> Shots:
    """Parse the shots that a user gives; raises InputError for anything else."""
    if text == "half":
        return "half"
    if not text.isdecimal() or int(text) == 0:
        raise InputError(f"shots: {text!r} is not a count; give a whole number from 1 up, or half")
    return int(text)


class Population(ABC):
    """Writers, numbered from 0."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def write(self, writers: Sequence[int]) -> WriterSet:
        """Return the characters of these writers, in this order."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Differs where the writers or their characters do."""

    def cohorts(self) -> list[range]:
        """Split the writers into cohorts; only how many there are matters, not the machine.

        >>> SyntheticPopulation(130, 20, 0).cohorts()[-1]
        range(119, 130)
        """
        size = self._most_together
        return [range(i, min(i + size, len(self))) for i in range(0, len(self), size)]

    @property
    def _most_together(self) -> int:
        return min(COHORT, -(-len(self) // FEWEST_COHORTS))


@dataclass(frozen=True)
class SyntheticPopulation(Population):
    """Synthetic writers with `characters` observations each, generated when they are asked for.

    `source` names their generator. They write every class equally often, or `text`, in which most
    classes are rare.
    """

    writers: int
    characters: int
    seed: int
    text: bool = False
    source: str = "synthetic"

    @classmethod
    def for_shots(
        cls, writers: int, shots: Shots, seed: int, source: str = "synthetic"
    ) -> "SyntheticPopulation":
        """Return writers who write every class three times, or text of twice the shots."""
        if shots == "half":
            classes = len(find_generator(source)([0], 1, seed, text=False).classes)
            return cls(writers, 3 * classes, seed, source=source)
        return cls(writers, 2 * shots, seed, text=True, source=source)

    def __len__(self) -> int:
        return self.writers

    def write(self, writers: Sequence[int]) -> WriterSet:
        """Generate what these writers write."""
        numbers = [UNSEEN + w for w in writers]
        write = find_generator(self.source)
        return write(numbers, self.characters, self.seed, text=self.text)

    @property
    def identity(self) -> str:
        """Everything that they are generated from."""
        return repr(self)


@dataclass(frozen=True, eq=False)
class RecordedPopulation(Population):
    """The writers of a set, whose rows stand together in the order of writing."""

    data: WriterSet

    @classmethod
    def of(cls, data: WriterSet, drawn: Sequence[int]) -> "RecordedPopulation":
        """Return these writers of a set alone, those with the most characters first."""
        counts = data.counts()
        drawn = sorted(drawn, key=lambda w: -int(counts[w]))
        return cls(_taken(data, [data.rows_of(w) for w in drawn], [data.names[w] for w in drawn]))

    def __len__(self) -> int:
        return len(self.data.names)

    def cohorts(self) -> list[range]:
        """Split the writers into cohorts, each padded to the characters of its first writer.

        A writer with less than half of the characters of the first one begins another cohort.
        """
        counts, cohorts, start = self.data.counts(), [], 0
        for w in range(1, len(self) + 1):
            ends = w == len(self) or w - start == self._most_together
            if ends or 2 * counts[w] < counts[start]:
                cohorts.append(range(start, w))
                start = w
        return cohorts

    def write(self, writers: Sequence[int]) -> WriterSet:
        """Look up what these writers wrote."""
        names = [self.data.names[w] for w in writers]
        return _taken(self.data, [self.data.rows_of(w) for w in writers], names)

    @property
    def identity(self) -> str:
        """A digest of all characters, their writers and the texts of the labels."""
        digest = hashlib.sha256(repr((self.data.names, self.data.classes.texts)).encode())
        for array in (self.data.observations, self.data.labels, self.data.counts()):
            digest.update(array.tobytes())
        return digest.hexdigest()


def _taken(data: WriterSet, rows: Sequence[NDArray[np.int64]], names: Sequence[str]) -> WriterSet:
    """Rows of some writers, one writer after the other."""
    chosen = np.concatenate(rows)
    return WriterSet.of(
        data.observations[chosen],
        data.labels[chosen],
        writer=np.repeat(np.arange(len(rows)), [len(own) for own in rows]),
        names=names,
        classes=data.classes,
    )


def draw_writers(
    release: Release, data: WriterSet, writers: int | None, shots: Shots, seed: int
) -> tuple[int, ...]:
    """Draw that many writers whom the release was not trained on; None is all, but at most 60.

    Only those with two classes are drawn, and with twice as many characters as shots, or 40 for
    half. Raises InputError when there are fewer.
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
    return tuple(sorted(np.random.default_rng(seed).permutation(unseen)[:wanted].tolist()))


def draw_population(
    source: str, release: Release, writers: int | None, shots: Shots, seed: int
) -> Population:
    """Draw writers of a source whom the release was not trained on; None is 60 at most.

    Raises InputError as `draw_writers` does.
    """
    if source in installed(GENERATORS):
        population = SyntheticPopulation.for_shots(writers or 60, shots, seed, source)
        release.check_fits(population.write([0]))
        return population
    data = load_source(source, seed)
    return RecordedPopulation.of(data, draw_writers(release, data, writers, shots, seed))


def load_unseen(source: str, writers: int, seed: int) -> WriterSet:
    """Load the writers of a source; a generator makes that many writers for no training."""
    if source in installed(GENERATORS):
        population = SyntheticPopulation.for_shots(writers, "half", seed, source)
        return population.write(range(writers))
    return load_source(source, seed)
