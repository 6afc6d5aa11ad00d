"""A device's update of the global expert: a little training on its own corrections."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedhw.experts.global_expert import GlobalExpert
from fedhw.experts.per_writer_gradients import gradient
from fedhw.observation import Observations

FEWEST = 20
"""Corrections that a device needs to take part: with fewer it pays as much for less effect."""

TOGETHER = 5
"""Simulated devices that train in step: they share most of the overhead and fit the caches."""


class Lesson(NamedTuple):
    """The training data of a device: observations, labels [N], and the seed of all randomness."""

    observations: Observations
    labels: NDArray[np.int64]
    seed: int


@dataclass(frozen=True)
class LocalTraining:
    """Stochastic gradient descent with momentum, starting from the expert that a device was sent.

    Observations are augmented at random by their architecture, as in `train_expert`; with a
    `distortion` of 0 they stay as they are.
    """

    epochs: int = 1
    batch: int = 32
    momentum: float = 0.9
    distortion: float = 1.0

    def update(
        self,
        expert: GlobalExpert,
        observations: Observations,
        labels: NDArray[np.int64],
        rate: float,
        seed: int,
        pause: Callable[[], None] = lambda: None,
    ) -> NDArray[np.float32]:
        """Return the change of all parameters [P] by training on observations [N, *shape].

        `labels` are [N]; `expert` is not changed. `pause` is called after every batch, so that a
        device can yield the processor.
        """
        return self._together(expert, [Lesson(observations, labels, seed)], rate, pause)[0]

    def updates(
        self, expert: GlobalExpert, lessons: Sequence[Lesson], rate: float
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the update [P] of each of many devices, equal to that of `update` up to rounding.

        Groups of devices train in parallel, on as many threads as torch is set to use.
        """
        threads = torch.get_num_threads()
        parts = [lessons[i : i + TOGETHER] for i in range(0, len(lessons), TOGETHER)]
        try:
            with ThreadPoolExecutor(threads, "training", torch.set_num_threads, (1,)) as pool:
                for done in pool.map(lambda part: self._together(expert, part, rate), parts):
                    yield from done
        finally:
            torch.set_num_threads(threads)  # new threads inherit it

    @torch.no_grad()
    def _together(
        self,
        expert: GlobalExpert,
        lessons: Sequence[Lesson],
        rate: float,
        pause: Callable[[], None] = lambda: None,
    ) -> list[NDArray[np.float32]]:
        """Return the updates [P] of devices that train in step, the longest lesson first."""
        sizes = [len(lesson.labels) for lesson in lessons]
        order = np.argsort(sizes)[::-1]
        batches = [self._batches(expert, lessons[i]) for i in order]
        room = max(math.ceil(n / math.ceil(n / self.batch)) for n in sizes)
        shape = expert.architecture.observation.shape
        seen = torch.zeros(len(order), room, *shape)
        labels = torch.zeros(len(order), room, dtype=torch.int64)
        start = torch.from_numpy(flat(expert))
        parameters = start.repeat(len(order), 1)
        velocities, slopes = torch.zeros_like(parameters), torch.zeros_like(parameters)
        for training, steps in groupby(zip_longest(*batches), lambda step: sum(map(bool, step))):
            own, velocity, slope = (x[:training] for x in (parameters, velocities, slopes))
            write_slope = gradient(expert, own, slope, room)
            for step in steps:
                counts = [len(named) for _, named in step[:training]]
                for i, (scaled, named) in enumerate(step[:training]):
                    seen[i, : counts[i]], labels[i, : counts[i]] = scaled, named
                write_slope(seen[:training], labels[:training], torch.tensor(counts))
                velocity.mul_(self.momentum).add_(slope)
                own.sub_(velocity, alpha=rate)
                pause()
        changes: NDArray[np.float32] = (parameters - start).numpy()
        return list(changes[np.argsort(order)])

    def _batches(self, expert: GlobalExpert, lesson: Lesson) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield scaled observations [B, *shape] and labels [B], one batch after the other."""
        scaled, labels = expert.scale(lesson.observations), torch.from_numpy(lesson.labels)
        random = torch.Generator().manual_seed(lesson.seed)
        batches = math.ceil(len(scaled) / self.batch)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(scaled), generator=random).tensor_split(batches):
                yield expert.augment(scaled[rows], self.distortion, random), labels[rows]


def flat(expert: GlobalExpert) -> NDArray[np.float32]:
    """Return a copy of all parameters of an expert as one vector [P]."""
    vector: NDArray[np.float32] = (
        nn.utils.parameters_to_vector(expert.parameters()).detach().numpy()
    )
    return vector


def unflatten(expert: GlobalExpert, parameters: NDArray[np.float32]) -> GlobalExpert:
    """Return an expert of the same architecture with these parameters [P], ready to recognise.

    Raises ValueError where they are not as many as the architecture has.
    """
    other = deepcopy(expert).eval()
    if len(parameters) != sum(p.numel() for p in other.parameters()):
        raise ValueError(f"{len(parameters)} parameters do not fit the architecture")
    nn.utils.vector_to_parameters(torch.from_numpy(parameters.copy()), other.parameters())
    return other
