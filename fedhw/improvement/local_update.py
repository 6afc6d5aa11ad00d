"""What one device would change of the global expert: a little training on its own corrections."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from fedhw.experts.global_expert import GlobalExpert, as_ink
from fedhw.experts.training import distort

FEWEST = 20
"""Corrections that a device must have: of fewer it has little to say, and pays as much for it."""


@dataclass(frozen=True)
class LocalTraining:
    """How a device trains: stochastic gradient with momentum, from the expert that it was sent.

    Each character is seen through a small random affine map of its own, as in `train_expert`.
    """

    epochs: int = 1
    batch: int = 32
    momentum: float = 0.9

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
        student = deepcopy(expert)
        ink, target = as_ink(images), torch.from_numpy(labels)
        random = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.SGD(student.parameters(), rate, self.momentum)
        batches = -(-len(ink) // self.batch)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(ink), generator=random).tensor_split(batches):
                loss = F.cross_entropy(student(distort(ink[rows], 1.0, random)), target[rows])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                pause()
        return flat(student) - flat(expert)


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
