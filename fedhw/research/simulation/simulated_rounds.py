"""A round of an improvement among simulated devices; their updates are summed without masks."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.improvement.contribution import Task
from fedhw.improvement.improvement import Improvement, ImprovementState
from fedhw.improvement.local_update import Lesson
from fedhw.observation import Observations


def take_round(
    improvement: Improvement,
    state: ImprovementState,
    people: Sequence[WriterSet],
    random: np.random.Generator,
) -> ImprovementState:
    """Return the state after a round in which each device trains on its person's observations."""
    task = improvement.task(state, len(people), len(people))
    own = ((each.observations, each.labels) for each in people)
    total = summed(improvement, state, task, own, random)
    return improvement.advance(state, task, total, len(people))


def summed(
    improvement: Improvement,
    state: ImprovementState,
    task: Task,
    people: Iterable[tuple[Observations, NDArray[np.int64]]],
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """Return the sum int64 [P + 1] of the contributions of devices, one for each pair of `people`.

    A pair is the observations and labels that a device trains on.
    """
    lessons = [Lesson(*own, seed=int(random.integers(2**31))) for own in people]
    updates = improvement.recipe.training.updates(improvement.start(state), lessons, task.rate)
    total = np.zeros(task.entries, np.int64)
    for update in updates:
        total += task.contribution(update, random.bytes)
    return total
