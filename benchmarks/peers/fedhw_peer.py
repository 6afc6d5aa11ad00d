"""fedhw: the devices of a round train in step, and writers are personalised in cohorts."""

import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from task import Answer, Averaging, Characters, Personalising, Row, main

from fedhw.data.writers import WriterSet
from fedhw.experts.global_expert import build
from fedhw.improvement.local_update import Lesson, LocalTraining, unflatten
from fedhw.personalization.learner import Learner, PersonalMixture
from fedhw.personalization.method import Cohort, extract_features, pad_cohort
from fedhw.release.release import Release
from fedhw.research.simulation.population import RecordedPopulation


def averaging(task: Averaging) -> Answer:
    training = LocalTraining(batch=task.batch, momentum=0.0, distortion=0.0)
    architecture = build("lenet5", 62)
    lessons = [lesson(device, *own) for device, own in enumerate(task.devices)]
    weights, began, ended = task.weights, [], []
    for devices in task.rounds():
        began.append(time.time())
        expert = unflatten(architecture, weights)
        updates = training.updates(expert, [lessons[i] for i in devices], task.rate)
        weights = weights + sum(updates) / len(devices)
        ended.append(time.time())
    return task.answer(began, ended, weights)


def lesson(seed: int, ink: torch.Tensor, labels: torch.Tensor) -> Lesson:
    """Hand the characters over in such an order that shuffling puts them in theirs."""
    shuffle = torch.randperm(len(ink), generator=torch.Generator().manual_seed(seed))
    back = shuffle.argsort()
    return Lesson(glyphs(ink[back]), labels[back].numpy(), seed)


def glyphs(ink: torch.Tensor) -> np.ndarray:
    return (255 * ink).round().to(torch.uint8).numpy()


release: Release
learn: RecordedPopulation


def start(task: Personalising) -> None:
    """Let this process have the release, and what everybody learns from."""
    global release, learn
    release, learn = Release.load(task.folder / "release"), population(task.learn)


def start_alone(folder: Path) -> None:
    torch.set_num_threads(1)
    start(Personalising.load(folder))


def personal(cohort: range) -> PersonalMixture:
    own = gathered(learn.data, cohort)
    return Learner().learn(release.expert, own, release.sketch, seed=0)


def personalising(task: Personalising) -> list[Row]:
    start(task)
    cohorts, processes = learn.cohorts(), torch.get_num_threads()
    with get_context("spawn").Pool(processes, start_alone, (task.folder,)) as pool:
        pool.map(personal, cohorts[-processes:], 1)  # warm-up
        began = time.time()
        found = pool.map(personal, cohorts, 1)
        seconds = time.time() - began
    test = population(task.test).data
    generic = extract_features(release.expert, glyphs(task.generic[0])[None])
    writer, rest = [], []
    for cohort, own in zip(cohorts, found, strict=True):
        asked = gathered(test, [test.names.index(learn.data.names[w]) for w in cohort])
        right = (own.scores(asked.activations).argmax(-1) == asked.labels) & asked.mask
        writer += (right.sum(1) / asked.mask.sum(1)).tolist()
        rest += (own.scores(generic).argmax(-1) == task.generic[1]).float().mean(1).tolist()
    return [task.row("local expert and gate", found[0].parameter_count(), seconds, writer, rest)]


def gathered(data: WriterSet, cohort: Sequence[int]) -> Cohort:
    rows = [data.rows_of(w) for w in cohort]
    return pad_cohort(
        release.expert, [data.observations[r] for r in rows], [data.labels[r] for r in rows]
    )


def population(part: list[Characters]) -> RecordedPopulation:
    data = WriterSet.of(
        glyphs(torch.cat([ink for ink, _ in part])),
        torch.cat([labels for _, labels in part]).numpy(),
        writer=np.repeat(np.arange(len(part)), [len(labels) for _, labels in part]),
        names=[str(w) for w in range(len(part))],
    )
    return RecordedPopulation.of(data, range(len(part)))


if __name__ == "__main__":
    main(averaging, personalising)
