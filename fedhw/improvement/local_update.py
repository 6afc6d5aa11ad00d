"""What one device would change of the global expert: a little training on its own corrections."""

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

from fedhw.data.writers import SIDE
from fedhw.experts.global_expert import GlobalExpert, as_ink
from fedhw.experts.per_writer_gradients import gradient
from fedhw.handwriting.augmentation import distort

FEWEST = 20
"""Corrections that a device must have: of fewer it has little to say, and pays as much for it."""

TOGETHER = 5
"""Simulated devices that train in step: they share most of the overhead, and fit the caches."""


class Lesson(NamedTuple):
    """What a device trains on: glyphs [N, 28, 28], labels [N], and the seed of all chance."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    seed: int


@dataclass(frozen=True)
class LocalTraining:
    """How a device trains: stochastic gradient with momentum, from the expert that it was sent.

    Each character is seen through a small random affine map of its own, as in `train_expert`, or as
    it is where `distortion` is 0.
    """

    epochs: int = 1
    batch: int = 32
    momentum: float = 0.9
    distortion: float = 1.0

    def update(
        self,
        expert: GlobalExpert,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        rate: float,
        seed: int,
        pause: Callable[[], None] = lambda: None,
    ) -> NDArray[np.float32]:
        """Return the change of all parameters [P] by training on glyphs [N, 28, 28] and labels [N].

        `expert` stays as it is. `pause` is called after every batch, so that a device may let
        others have the processor.
        """
        return self._together(expert, [Lesson(images, labels, seed)], rate, pause)[0]

    def updates(
        self, expert: GlobalExpert, lessons: Sequence[Lesson], rate: float
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the update [P] of each of many devices, as `update` gives it to rounding.

        They train on as many threads as torch has, each of which torch uses alone.
        """
        threads = torch.get_num_threads()
        parts = [lessons[i : i + TOGETHER] for i in range(0, len(lessons), TOGETHER)]
        try:
            with ThreadPoolExecutor(threads, "training", torch.set_num_threads, (1,)) as pool:
                for done in pool.map(lambda part: self._together(expert, part, rate), parts):
                    yield from done
        finally:
            torch.set_num_threads(threads)  # which holds for threads to come, too

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
        batches = [self._batches(lessons[i]) for i in order]
        room = max(math.ceil(n / math.ceil(n / self.batch)) for n in sizes)
        ink = torch.zeros(len(order), room, SIDE, SIDE)
        labels = torch.zeros(len(order), room, dtype=torch.int64)
        start = torch.from_numpy(flat(expert))
        parameters = start.repeat(len(order), 1)
        velocities, slopes = torch.zeros_like(parameters), torch.zeros_like(parameters)
        for training, steps in groupby(zip_longest(*batches), lambda step: sum(map(bool, step))):
            own, velocity, slope = (x[:training] for x in (parameters, velocities, slopes))
            write_slope = gradient(expert, own, slope, room)
            for step in steps:
                counts = [len(named) for _, named in step[:training]]
                for i, (glyphs, named) in enumerate(step[:training]):
                    ink[i, : counts[i]], labels[i, : counts[i]] = glyphs, named
                write_slope(ink[:training], labels[:training], torch.tensor(counts))
                velocity.mul_(self.momentum).add_(slope)
                own.sub_(velocity, alpha=rate)
                pause()
        changes: NDArray[np.float32] = (parameters - start).numpy()
        return list(changes[np.argsort(order)])

    def _batches(self, lesson: Lesson) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the glyphs [B, 28, 28] and labels [B] of one batch after the other."""
        ink, labels = as_ink(lesson.images), torch.from_numpy(lesson.labels)
        random = torch.Generator().manual_seed(lesson.seed)
        batches = math.ceil(len(ink) / self.batch)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(ink), generator=random).tensor_split(batches):
                glyphs = ink[rows]
                if self.distortion:
                    glyphs = distort(glyphs, self.distortion, random)
                yield glyphs, labels[rows]


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
