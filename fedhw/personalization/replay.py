"""The corrections of a person that a device keeps, and the choice of those it rehearses.

A policy ranks the samples by age and luck. The highest ranks are rehearsed and the lowest one is
evicted, so a device forgets first what it would rehearse last. Luck is a Gumbel number that each
sample draws once: the n highest of `luck + log weight` are then a random choice of n without
replacement, in proportion to the weights (Kool, van Hoof, Welling 2019, arXiv 1903.06059), and the
choice changes between two learnings only as far as the samples have aged.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedhw.errors import InputError
from fedhw.observation import Observations

Floats = NDArray[np.float64]
Policy = Callable[[Floats, Floats], Floats]
"""Ranks [N] of samples by their ages [N] and lucks [N]; -inf is never rehearsed."""

HELD_BACK = 8
"""Every eighth sample is never learned from, so that it can judge a mixture."""


@dataclass(frozen=True)
class PowerLaw:
    """Rehearse a sample of age a in proportion to (a + 1) ** -exponent.

    The need for a memory decays in this way (Anderson and Schooler 1991, Psychological Science
    2:396), and rehearsal with the same decay keeps a network from forgetting (Gandhi, Shah,
    Marupudi, Varma 2024, arXiv 2401.10393).

    >>> PowerLaw()(np.array([0.0, 9.0]), np.zeros(2)).round(2).tolist()
    [0.0, -2.3]
    """

    exponent: float = 1.0

    def __call__(self, age: Floats, luck: Floats) -> Floats:
        """Return the rank of each sample."""
        return luck - self.exponent * np.log1p(age)


class Sample(NamedTuple):
    """A correction: observation [*shape], features [D], class, position in the stream, and luck."""

    observation: Observations
    features: NDArray[np.float32]
    label: int
    position: int
    luck: float

    @property
    def is_held_back(self) -> bool:
        """Whether it judges mixtures and is never learned from."""
        return self.position % HELD_BACK == HELD_BACK - 1


@dataclass(frozen=True, eq=False)
class Replay:
    """At most `capacity` samples of a stream, the oldest first, always including the newest.

    It is immutable. The luck of a sample follows from `seed` and its position in the stream. Raises
    InputError for a capacity below 8, which has no room for a sample that is held back.

    >>> replay = Replay(lambda age, luck: -age, capacity=16)
    >>> for label in range(40):
    ...     replay = replay.add(np.zeros((28, 28), np.uint8), np.zeros(84, np.float32), label)
    >>> len(replay), replay.next_position
    (16, 40)
    >>> [sample.label for sample in replay.rehearsed(5)]
    [34, 35, 36, 37, 38]
    >>> [sample.label for sample in replay.held_back(5)]
    [31, 39]
    """

    policy: Policy = field(default_factory=PowerLaw)
    capacity: int = 2000
    seed: int = 0
    samples: tuple[Sample, ...] = ()
    next_position: int = 0

    def __post_init__(self) -> None:
        if self.capacity < HELD_BACK:
            raise InputError(f"capacity: {self.capacity} is too few; give at least {HELD_BACK}")

    def __len__(self) -> int:
        return len(self.samples)

    def add(self, observation: Observations, features: NDArray[np.float32], label: int) -> "Replay":
        """Keep a copy of the observation with its features [D] and its class.

        If there is no room, the older sample with the lowest rank is evicted.
        """
        position = self.next_position
        luck = np.random.default_rng([self.seed, position]).gumbel()
        older = self.samples
        if len(older) == self.capacity:
            evicted = int(np.argmin(self._ranks(older, position)))
            older = older[:evicted] + older[evicted + 1 :]
        newest = Sample(observation.copy(), features, label, position, luck)
        return replace(self, samples=(*older, newest), next_position=position + 1)

    def remove(self, positions: Collection[int]) -> "Replay":
        """Drop the samples at these positions in the stream."""
        kept = tuple(sample for sample in self.samples if sample.position not in positions)
        return replace(self, samples=kept)

    def skip_to(self, position: int) -> "Replay":
        """Leave out positions in the stream: the next sample gets this one, or a later one."""
        return replace(self, next_position=max(self.next_position, position))

    @property
    def learnable(self) -> list[Sample]:
        """All but the samples that are held back."""
        return [sample for sample in self.samples if not sample.is_held_back]

    def rehearsed(self, n: int) -> list[Sample]:
        """Return at most n samples to learn from now, the oldest first."""
        return self._highest(n, held_back=False)

    def held_back(self, n: int) -> list[Sample]:
        """Return at most n of the samples that are never learned from, the oldest first."""
        return self._highest(n, held_back=True)

    def _highest(self, n: int, held_back: bool) -> list[Sample]:
        kept = self.samples
        if not kept:
            return []
        ranks = self._ranks(kept, kept[-1].position)
        eligible = [
            row
            for row in np.argsort(-ranks, kind="stable")
            if kept[row].is_held_back == held_back and (held_back or ranks[row] > -np.inf)
        ]
        return [kept[row] for row in sorted(eligible[:n])]

    def _ranks(self, samples: Sequence[Sample], now: int) -> Floats:
        position = np.array([sample.position for sample in samples])
        luck = np.array([sample.luck for sample in samples])
        return self.policy((now - position).astype(np.float64), luck)
