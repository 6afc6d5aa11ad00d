"""No framework: torch, and the loops that one writes oneself, in a process for each core."""

import os
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from task import (
    BATCH,
    FINE_TUNING,
    MOMENTUM,
    Answer,
    Averaging,
    Network,
    Personalising,
    Row,
    descend,
    main,
    mean,
)

PROCESSES = int(os.environ["PROCESSES"])

task: Averaging | Personalising | None = None
"""What this process works on."""


def trained(device: int, weights: np.ndarray) -> np.ndarray:
    network = Network(weights)
    descend(network, task.devices[device], task.batch, task.rate)
    return network.weights()


def tuned(writer: int, rate: float, epochs: int) -> np.ndarray:
    network = Network(task.weights)
    descend(network, task.learn[writer], BATCH, rate, epochs, MOMENTUM)
    return network.weights()


def start(kind: type, folder: Path) -> None:
    global task
    task = kind.load(folder)


def mapped(task: Averaging | Personalising) -> Callable[..., list]:
    """Return a `map` over all processes, each of which has the task."""
    return get_context("spawn").Pool(PROCESSES, start, (type(task), task.folder)).map


def averaging(task: Averaging) -> Answer:
    many, weights, began, ended = mapped(task), task.weights, [], []
    for devices in task.rounds():
        began.append(time.time())
        weights = mean(many(partial(trained, weights=weights), devices, 1))
        ended.append(time.time())
    return task.answer(began, ended, weights)


def personalising(task: Personalising) -> list[Row]:
    many, rows, everybody = mapped(task), [], range(len(task.learn))
    for method, (rate, epochs) in FINE_TUNING.items():
        many(partial(tuned, rate=rate, epochs=1), everybody[:4])  # warm-up
        began = time.time()
        found = many(partial(tuned, rate=rate, epochs=epochs), everybody, 1)
        seconds = time.time() - began
        measured = task.measure([Network(weights) for weights in found])
        rows.append(task.row(method, len(task.weights), seconds, *measured))
    return rows


if __name__ == "__main__":
    main(averaging, personalising)
