"""Improvements in which some devices lie, under several defences.

    Device          honest: sends what it has learned, clipped
    Scaled(100)     sends a hundred times as much, without clipping
    Scaled(-1)      sends the opposite of what it has learned
    LabelFlipped    learns from wrong labels (Tolpegin et al. 2020, arXiv 2007.08432), else honest
    NotANumber      sends NaN; under masks, where there are only whole numbers, random ones

Under masks nobody sees a single vector, so the server can only check the sum, and the expert that
follows from it. Without masks it sees all updates and can clip
or trim them; then no noise is added.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.experts.global_expert import GlobalExpert
from fedhw.improvement.candidate import validate
from fedhw.improvement.contribution import Task
from fedhw.improvement.improvement import Improvement, ImprovementState
from fedhw.improvement.robust import clipped, trimmed_mean
from fedhw.improvement.server_optimiser import Vector
from fedhw.improvement.verdicts import Outcome, Verdict

TRIMMED = 0.2
"""The share of devices that a trimmed mean leaves out at each end of each entry."""

MAX_TRIES = 3
"""Dropped rounds in a row that end an improvement: the same devices would lie again."""


class Defence(StrEnum):
    """How the updates of a round are combined."""

    MASKED = "masked sum"
    CLIPPED = "clipped mean"
    TRIMMED = "trimmed mean"


class Device:
    """An honest device."""

    def labels(self, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
        """Return the labels [N] that it trains on."""
        return labels

    def update(self, learned: Vector) -> Vector:
        """Return the update [P] that it sends where sums are not masked."""
        return learned

    def contribution(
        self, task: Task, learned: Vector, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return the vector [P + 1] that it masks."""
        return task.contribution(self.update(learned), random.bytes)


@dataclass(frozen=True)
class Scaled(Device):
    """Sends a multiple of what it has learned, without clipping."""

    factor: int

    def update(self, learned: Vector) -> Vector:
        """Return a multiple."""
        return self.factor * learned

    def contribution(
        self, task: Task, learned: Vector, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return a multiple of an honest contribution."""
        return self.factor * task.contribution(learned, random.bytes)


class LabelFlipped(Device):
    """Trains on the next class instead of the right one."""

    def labels(self, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
        """Return wrong labels."""
        return (labels + 1) % classes


class NotANumber(Device):
    """Sends NaN."""

    def update(self, learned: Vector) -> Vector:
        """Return NaN."""
        return np.full_like(learned, np.nan)

    def contribution(
        self, task: Task, learned: Vector, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return random numbers of the ring."""
        return random.integers(2**task.bits, size=task.entries)


class Improved(NamedTuple):
    """The result of an improvement: its expert, the number of dropped rounds, and the verdict."""

    expert: GlobalExpert
    dropped: int
    verdict: Verdict


def improve(
    improvement: Improvement,
    devices: Sequence[tuple[Device, WriterSet]],
    defence: Defence,
) -> Improved:
    """Improve over devices, each with its writer's characters; all take part in every round."""
    random = np.random.default_rng(improvement.seed)
    training, state, dropped, failed = improvement.recipe.training, improvement.begin(), 0, 0
    while state.round < improvement.recipe.rounds and failed < MAX_TRIES:
        task = improvement.task(state, len(devices), len(devices))
        expert, sent = improvement.start(state), []
        for device, own in devices:
            labels = device.labels(own.labels, len(own.classes))
            seed = int(random.integers(2**31))
            sent.append(
                (device, training.update(expert, own.observations, labels, task.rate, seed))
            )
        try:
            state, failed = _advanced(improvement, state, task, sent, defence, random), 0
        except (InputError, ValueError):  # an impossible sum, or only NaN
            dropped, failed = dropped + 1, failed + 1
    expert = improvement.expert(state)
    if failed:
        verdict = Verdict(Outcome.REJECT, f"{MAX_TRIES} rounds in a row were dropped")
    else:
        verdict = validate(expert, improvement.running, improvement.public)
    return Improved(expert, dropped, verdict)


def _advanced(
    improvement: Improvement,
    state: ImprovementState,
    task: Task,
    sent: Sequence[tuple[Device, Vector]],
    defence: Defence,
    random: np.random.Generator,
) -> ImprovementState:
    """Take a step along the updates as the defence combines them."""
    if defence is Defence.MASKED:
        total = np.sum(
            [device.contribution(task, update, random) for device, update in sent], axis=0
        )
        # The server unmasks a residue whose highest bit is the sign.
        unused = 64 - task.bits
        return improvement.advance(state, task, (total << unused) >> unused, len(sent))
    updates = np.stack([device.update(update) for device, update in sent])
    if defence is Defence.CLIPPED:
        mean = clipped(updates, task.radius).mean(axis=0)
    else:
        mean = trimmed_mean(updates, TRIMMED)
    within = float((np.linalg.norm(updates, axis=1) <= task.radius).mean())
    return improvement.step(state, task, mean, within)
