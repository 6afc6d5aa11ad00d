"""Make the first release: hold writers out, train the global expert, publish what devices need."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.experts.architecture import find_architecture
from fedhw.experts.evaluation import accuracy
from fedhw.experts.global_expert import build
from fedhw.release.release import check_new, publish
from fedhw.release.sketch import SKETCH_SIZE, Sketch
from fedhw.research.training import Training, train_expert
from fedhw.system.atomic import recover

GENERIC_SHARE = 0.1
HELD_OUT_CHARACTERS = 150


def make_release(
    directory: Path,
    writers: WriterSet,
    architecture: str,
    training: Training,
    hold_out: int | None,
    after_epoch: Callable[[int], None] = lambda epoch: None,
    made_from: str = "",
) -> float:
    """Train on all but `hold_out` writers, publish to `directory`, return generic accuracy.

    The held-out writers are drawn from those with 150 characters or more; None is 60 of them, or
    half of them where there are fewer than 120. A tenth of the others' characters is the generic
    test set. An unfinished training leaves its state beside `directory`, and continues from it.
    `made_from` is stored in the release. Raises InputError when `directory` exists, the
    architecture takes other observations, or there are too few writers.
    """
    check_new(directory)
    takes = find_architecture(architecture).observation
    if writers.observation != takes:
        raise InputError(
            f"observation: {writers.observation} is not what {architecture} takes, {takes}; give "
            "other data or another architecture"
        )
    rng = np.random.default_rng(training.seed)
    trained_writers = _without_held_out(writers, hold_out, rng)
    rows = rng.permutation(np.flatnonzero(np.isin(writers.writer, trained_writers)))
    generic_rows, training_rows = np.split(rows, [max(1, int(GENERIC_SHARE * len(rows)))])
    if len(training_rows) == 0:
        raise InputError("data: one character is left to train on; give more characters")

    torch.manual_seed(training.seed)
    expert = build(architecture, len(writers.classes))
    checkpoint = directory.with_name(f".{directory.name}.training")
    recover(checkpoint)
    train_expert(
        expert,
        writers.observations[training_rows],
        writers.labels[training_rows],
        training,
        checkpoint,
        after_epoch,
    )
    generic = writers.take(generic_rows)
    reached = accuracy(expert, generic.observations, generic.labels)
    with torch.no_grad():
        scaled = expert.scale(writers.observations[training_rows[:SKETCH_SIZE]])
        sketch = Sketch.of(expert.features(scaled))
    publish(
        directory,
        expert,
        architecture,
        sketch,
        generic,
        trained_on=[writers.names[w] for w in trained_writers],
        validation={"generic_accuracy": reached, "generic_characters": len(generic)},
        made_from=made_from,
    )
    checkpoint.unlink()
    return reached


def default_hold_out(writers: WriterSet) -> int:
    """Return how many writers are held out unless a user says how many."""
    return min(60, int((writers.counts() >= HELD_OUT_CHARACTERS).sum()) // 2)


def _without_held_out(
    writers: WriterSet, hold_out: int | None, rng: np.random.Generator
) -> list[int]:
    counts = writers.counts()
    candidates = np.flatnonzero(counts >= HELD_OUT_CHARACTERS)
    if hold_out is None:
        hold_out = default_hold_out(writers)
    if hold_out > len(candidates):
        raise InputError(
            f"hold-out: {hold_out} writers are more than the {len(candidates)} with "
            f"{HELD_OUT_CHARACTERS} characters; hold out fewer"
        )
    held_out = rng.permutation(candidates)[:hold_out]
    rest = np.setdiff1d(np.flatnonzero(counts), held_out)
    if len(rest) == 0:
        raise InputError(f"hold-out: {hold_out} writers are all there are; hold out fewer")
    return [int(w) for w in rest]
