"""fedhw: the devices of a round train in step, and writers are personalised in cohorts."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from task import Answer, Averaging, Personalising, Row, main

from fedhw.experts.global_expert import build
from fedhw.improvement.local_update import Lesson, LocalTraining, unflatten
from fedhw.personalization.learner import Learner, PersonalMixture
from fedhw.personalization.method import Cohort, gather, observe
from fedhw.release.release import Release

COHORT = 8


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


def personalising(task: Personalising) -> list[Row]:
    release = Release.load(task.folder / "release")
    learn, test = (
        [(glyphs(ink), labels.numpy()) for ink, labels in part] for part in (task.learn, task.test)
    )

    def cohort(writers: list[int], part: list[tuple[np.ndarray, np.ndarray]]) -> Cohort:
        images, labels = zip(*(part[w] for w in writers), strict=True)
        return gather(release.expert, list(images), list(labels))

    def personal(writers: list[int]) -> PersonalMixture:
        return Learner().learn(release.expert, cohort(writers, learn), release.sketch, seed=0)

    # Those who wrote about as much learn together, the most first.
    everybody = sorted(range(len(learn)), key=lambda w: -len(learn[w][1]))
    cohorts = [everybody[i : i + COHORT] for i in range(0, len(everybody), COHORT)]
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, "learning", torch.set_num_threads, (1,)) as pool:
        list(pool.map(personal, cohorts[-threads:]))  # warm-up
        began = time.time()
        found = list(pool.map(personal, cohorts))
        seconds = time.time() - began
    generic = observe(release.expert, glyphs(task.generic[0])[None])
    writer, rest = [], []
    for own, writers in zip(found, cohorts, strict=True):
        asked = cohort(writers, test)
        right = (own.scores(asked.seen).argmax(-1) == asked.labels) & asked.mask
        writer += (right.sum(1) / asked.mask.sum(1)).tolist()
        rest += (own.scores(generic).argmax(-1) == task.generic[1]).float().mean(1).tolist()
    return [task.row("local expert and gate", found[0].numbers(), seconds, writer, rest)]


if __name__ == "__main__":
    main(averaging, personalising)
