"""A round of an improvement among simulated devices: what they would send, summed without masks."""

from collections.abc import Sequence

import numpy as np

from fedhw.data.writers import WriterSet
from fedhw.improvement.improvement import Improvement, State


def take_round(
    improvement: Improvement, state: State, people: Sequence[WriterSet], random: np.random.Generator
) -> State:
    """Return the state after a round among these people's devices, each with its own characters."""
    task = improvement.task(state, len(people), len(people))
    expert, training = improvement.start(state), improvement.recipe.training
    total = np.zeros(task.entries, np.int64)
    for own in people:
        labels = own.labels.astype(np.int64)
        seed = int(random.integers(2**31))
        update = training.update(expert, own.images, labels, task.rate, seed)
        total += task.contribution(update, random.bytes)
    return improvement.advance(state, task, total, len(people))
