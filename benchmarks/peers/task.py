"""What every peer is given, and how it answers; needs numpy and torch alone.

`python PEER.py averaging FOLDER` and `python PEER.py personalising FOLDER` find their task in the
folder, and print the answer, in JSON, as their last line.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Characters = tuple[Tensor, Tensor]
"""Ink [N, 28, 28] and labels [N]."""

Answer = dict[str, object]
Row = dict[str, object]

FINE_TUNING = {"fine-tuned, for the writer": (0.003, 6), "fine-tuned, gently": (0.0006, 2)}
"""Rates and epochs of the peers that fine-tune, with `MOMENTUM` and batches of `BATCH`.

Like fluke's settings they were chosen on the unseen writers of another release: one that is about
as good for the writer as any, and one that leaves the generic accuracy where fedhw leaves it.
"""

BATCH, MOMENTUM = 32, 0.9

STARTED = float(os.environ.get("STARTED", time.time()))
"""When the peer was started, by the clock."""


class Network(nn.Module):
    """LeNet-5 as fedhw has it, with its parameters in the same order."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Unflatten(1, (1, 28)),
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )
        self.head = nn.Linear(84, 62)
        self.load(weights)

    def load(self, weights: np.ndarray) -> None:
        nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()), self.parameters())

    def weights(self) -> np.ndarray:
        return nn.utils.parameters_to_vector(self.parameters()).detach().numpy()

    def forward(self, ink: Tensor) -> Tensor:
        return self.head(self.body(ink))


@dataclass
class Averaging:
    """Rounds of federated averaging from `weights` [P], over devices of equally many characters.

    A device makes one pass of plain gradient descent over its characters in the order given, so
    that everybody must end with the same weights, to rounding. `sizes` are the devices of each
    round, the next ones in turn; the first round is a warm-up.
    """

    folder: Path
    devices: list[Characters]
    weights: np.ndarray
    sizes: list[int]
    batch: int
    rate: float

    @classmethod
    def load(cls, folder: Path) -> "Averaging":
        task = np.load(folder / "averaging.npz")
        devices = [_characters(*own) for own in zip(task["images"], task["labels"], strict=True)]
        batch, rate = int(task["batch"]), float(task["rate"])
        return cls(folder, devices, task["weights"], task["sizes"].tolist(), batch, rate)

    def rounds(self) -> Iterator[list[int]]:
        """Yield the numbers of the devices that take part in each round."""
        first = 0
        for size in self.sizes:
            yield [i % len(self.devices) for i in range(first, first + size)]
            first += size

    def answer(self, began: Sequence[float], ended: Sequence[float], weights: np.ndarray) -> Answer:
        """Return the answer, from when each round began and ended by the clock."""
        seconds = [end - begin for begin, end in zip(began, ended, strict=True)]
        np.save(self.folder / "weights.npy", weights)
        return {"startup": ended[0] - STARTED - seconds[1], "seconds": seconds[1:]}


@dataclass
class Personalising:
    """What each writer learns and is tested with, generic characters, and the weights [P]."""

    folder: Path
    learn: list[Characters]
    test: list[Characters]
    generic: Characters
    weights: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> "Personalising":
        task = np.load(folder / "personalising.npz")

        def each(part: str) -> list[Characters]:
            images, labels = (
                np.split(task[f"{part}_{what}"], task[f"{part}_ends"][:-1])
                for what in ("images", "labels")
            )
            return [_characters(*own) for own in zip(images, labels, strict=True)]

        return cls(folder, each("learn"), each("test"), *each("generic"), task["weights"])

    def measure(self, networks: Sequence[nn.Module]) -> tuple[list[float], list[float]]:
        """Return each writer's accuracy by its own network, and that of the network on generic."""
        own = [right(network, *test) for network, test in zip(networks, self.test, strict=True)]
        return own, [right(network, *self.generic) for network in networks]

    def row(
        self,
        method: str,
        numbers: int,
        seconds: float,
        writer: Sequence[float],
        generic: Sequence[float],
    ) -> Row:
        """Return a row of the answer; `numbers` are what each writer keeps beside the expert."""
        return {
            "method": method,
            "numbers": numbers,
            "seconds": seconds / len(self.learn),
            "writer": float(np.mean(writer)),
            "generic": float(np.mean(generic)),
        }


def _characters(images: np.ndarray, labels: np.ndarray) -> Characters:
    return torch.from_numpy(images).float() / 255, torch.from_numpy(labels.astype(np.int64))


@torch.no_grad()
def right(network: nn.Module, ink: Tensor, labels: Tensor) -> float:
    return float((network.eval()(ink).argmax(1) == labels).float().mean())


def mean(weights: Sequence[np.ndarray]) -> np.ndarray:
    """Average weights; in single precision rounding alone would lead the peers apart."""
    return np.mean(weights, axis=0, dtype=np.float64).astype(np.float32)


def descend(
    network: nn.Module,
    own: Characters,
    batch: int,
    rate: float,
    epochs: int = 1,
    momentum: float = 0,
) -> None:
    """Gradient descent as one writes it in torch, through the characters in the order given."""
    optimiser = torch.optim.SGD(network.parameters(), rate, momentum)
    for _ in range(epochs):
        for ink, labels in zip(own[0].split(batch), own[1].split(batch), strict=True):
            optimiser.zero_grad()
            F.cross_entropy(network(ink), labels).backward()
            optimiser.step()


def main(
    averaging: Callable[[Averaging], Answer], personalising: Callable[[Personalising], list[Row]]
) -> None:
    """Answer the task that the command line names."""
    folder = Path(sys.argv[2])
    if sys.argv[1] == "averaging":
        print(json.dumps(averaging(Averaging.load(folder))))
    else:
        print(json.dumps(personalising(Personalising.load(folder))))
