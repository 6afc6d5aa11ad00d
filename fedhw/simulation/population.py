"""The writers of a simulation, whom the release has never seen: as many as one likes.

A population hands out the characters of some of its writers at a time, so that no more of them are
in memory than are being learned from.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedhw.data.sources import SYNTHETIC_CHARACTERS
from fedhw.data.synthetic import synthetic_writers
from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.release.release import Release

COHORT = 50
"""Writers learned at once, at most; bounds the memory."""

FEWEST_COHORTS = 8
"""Fewer writers than make so many cohorts are shared out, so that there is work for everybody."""

UNSEEN = 1_000_000
"""Synthetic writers meet a release from this number on: none of them is ever trained on."""

Shots = int | Literal["half"]


class Population(ABC):
    """Writers by their number from 0."""

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
        """Share the writers out; how depends on their number alone, so results never do.

        >>> SyntheticPopulation(130, 20, 0).cohorts()[-1]
        range(119, 130)
        """
        size = min(COHORT, -(-len(self) // FEWEST_COHORTS))
        return [range(i, min(i + size, len(self))) for i in range(0, len(self), size)]


@dataclass(frozen=True)
class SyntheticPopulation(Population):
    """Synthetic writers of so many characters each, made when they are asked for.

    They write the whole alphabet again and again, or `text`, in which most characters are rare.
    """

    writers: int
    characters: int
    seed: int
    text: bool = False

    @classmethod
    def for_shots(cls, writers: int, shots: Shots, seed: int) -> "SyntheticPopulation":
        """Return writers who write the alphabet three times, or text of twice the shots."""
        if shots == "half":
            return cls(writers, SYNTHETIC_CHARACTERS, seed)
        return cls(writers, 2 * shots, seed, text=True)

    def __len__(self) -> int:
        return self.writers

    def write(self, writers: Sequence[int]) -> WriterSet:
        """Let these writers write."""
        numbers = [UNSEEN + w for w in writers]
        return synthetic_writers(numbers, self.characters, self.seed, text=self.text)

    @property
    def identity(self) -> str:
        """All that they are made from."""
        return repr(self)


@dataclass(frozen=True, eq=False)
class RecordedPopulation(Population):
    """Some writers of a set."""

    data: WriterSet
    drawn: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.drawn)

    def write(self, writers: Sequence[int]) -> WriterSet:
        """Look up what these writers wrote."""
        rows = [self.data.rows_of(self.drawn[w]) for w in writers]
        chosen, counts = np.concatenate(rows), [len(own) for own in rows]
        return WriterSet.of(
            self.data.images[chosen],
            self.data.labels[chosen],
            writer=np.repeat(np.arange(len(writers)), counts),
            names=[self.data.names[self.drawn[w]] for w in writers],
            alphabet=self.data.alphabet,
        )

    @property
    def identity(self) -> str:
        """A digest of all characters, and who was drawn."""
        digest = hashlib.sha256(self.data.images.tobytes() + self.data.labels.tobytes())
        return f"{digest.hexdigest()} {self.drawn}"


def draw_writers(
    release: Release, data: WriterSet, writers: int | None, shots: Shots, seed: int
) -> tuple[int, ...]:
    """Draw `writers` that the release never saw; None is all, 60 at most.

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
    return tuple(sorted(np.random.default_rng(seed).permutation(unseen)[:wanted].tolist()))
