"""fedhw: the devices of a round train in step, and writers are personalised in cohorts."""

import time

import numpy as np
import torch
from task import Answer, Averaging, Personalising, Row, main

from fedhw.experts.global_expert import build
from fedhw.improvement.local_update import Lesson, LocalTraining, unflatten
from fedhw.personalization.learner import Learner
from fedhw.personalization.method import gather, observe
from fedhw.release.release import Release

COHORT = 50


def averaging(task: Averaging) -> Answer:
    training = LocalTraining(batch=task.batch, momentum=0.0, distortion=0.0)
    architecture = build("lenet5", 62)
    lessons = [lesson(device, *own) for device, own in enumerate(task.devices)]
    weights, began, ended = task.weights, [], []
    for devices in task.rounds():
        began.append(time.time())
        expert = unflatten(architecture, weights)
        updates = training.updates(expert, [lessons[i] for i in devices], task.rate)
        weights = weights + np.mean(list(updates), axis=0)
        ended.append(time.time())
    return task.answer(began, ended, weights)


def lesson(seed: int, ink: torch.Tensor, labels: torch.Tensor) -> Lesson:
    """Hand the characters over in such an order that shuffling puts them in theirs."""
    shuffle = torch.randperm(len(ink), generator=torch.Generator().manual_seed(seed))
    back = shuffle.argsort()
    return Lesson(glyphs(ink[back]), labels[back].numpy(), seed)


def glyphs(ink: torch.Tensor) -> np.ndarray:
    return (255 * ink).round().to(torch.uint8).numpy()


def personalising(task: Personalising) -> list[Row]:
    release = Release.load(task.folder / "release")
    learn, test = (
        [(glyphs(ink), labels.numpy()) for ink, labels in part] for part in (task.learn, task.test)
    )
    everybody = observe(release.expert, glyphs(task.generic[0])[None])
    rows = []
    for method, learner in (("local expert and gate", Learner()),):
        seconds, writer, generic = 0.0, [], []
        for start in range(0, len(learn), COHORT):
            part = slice(start, start + COHORT)
            began = time.time()
            own = gather(release.expert, *map(list, zip(*learn[part], strict=True)))
            personal = learner.learn(release.expert, own, release.sketch, seed=0)
            seconds += time.time() - began
            asked = gather(release.expert, *map(list, zip(*test[part], strict=True)))
            right = (personal.scores(asked.seen).argmax(-1) == asked.labels) & asked.mask
            writer += (right.sum(1) / asked.mask.sum(1)).tolist()
            right = personal.scores(everybody).argmax(-1) == task.generic[1]
            generic += right.float().mean(1).tolist()
        rows.append(task.row(method, personal.numbers(), seconds, writer, generic))
    return rows


if __name__ == "__main__":
    main(averaging, personalising)
