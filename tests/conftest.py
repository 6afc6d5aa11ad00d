"""Parts that many tests share: a small real release, made once a run."""

import fcntl
import os

# Agents, their learners and the tests are many at once: torch's own threads would spin for the
# same few cores. Before torch is imported, and for every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.experts.global_expert import GlobalExpert, build
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.improvement.public import Public
from fedhw.personalization.method import Activations, Cohort, extract_features, pad_cohort
from fedhw.release.release import Release
from fedhw.release.sketch import Sketch
from fedhw.research.train_release import make_release
from fedhw.research.training import Training, train_expert
from tests.parts import need

# What made the files of earlier versions imports the code of then.
collect_ignore = ["fixtures"]

# A busy machine is slow, not wrong.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for part in mark.args:
            need(part)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Have one process of a run make a directory, and the others wait for it."""
    place = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent  # that of all workers
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / name).exists():
            make(place / name)
    return place / name


@pytest.fixture(scope="session")
def release_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, training = synthetic_writers(30, 150), Training(epochs=4, batch=64)
    return made_once(
        tmp_path_factory,
        "small",
        lambda place: make_release(place, data, "lenet5", training, hold_out=6),
    )


@pytest.fixture(scope="session")
def release(release_directory: Path) -> Release:
    return Release.load(release_directory)


@pytest.fixture(scope="session")
def unseen_writers() -> WriterSet:
    return synthetic_writers(range(1000, 1006), 186)


@pytest.fixture(scope="session")
def launch_data() -> WriterSet:
    return synthetic_writers(12, 124)


@pytest.fixture(scope="session")
def running(launch_data: WriterSet, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release that leaves much to be gained: few writers, briefly trained."""
    training = Training(epochs=8, batch=32)
    return Release.load(
        made_once(
            tmp_path_factory,
            "launch",
            lambda place: make_release(place, launch_data, "lenet5", training, hold_out=0),
        )
    )


@pytest.fixture(scope="session")
def public(launch_data: WriterSet, running: Release) -> Public:
    return Public.of(launch_data, running)


class World(NamedTuple):
    """A briefly trained expert, and what 52 writers whom it never saw wrote, by writer."""

    expert: GlobalExpert
    sketch: Sketch
    generic: Activations
    observations: list[NDArray[np.uint8]]
    labels: list[NDArray[np.int64]]

    def cohort(self, counts: dict[int, int]) -> Cohort:
        """The first glyphs of these writers, as many as said."""
        return pad_cohort(
            self.expert,
            [self.observations[w][:count] for w, count in counts.items()],
            [self.labels[w][:count] for w, count in counts.items()],
        )


@pytest.fixture(scope="session")
def world() -> World:
    public = synthetic_writers(range(20), characters=124)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expert = build("lenet5", 62)
    train_expert(expert, public.observations, public.labels, Training(epochs=12, batch=64))
    sketch = Sketch.of(extract_features(expert, public.observations[None, :1024]).features[0])
    generic = extract_features(
        expert, synthetic_writers([98, 99], characters=62).observations[None]
    )
    unseen = synthetic_writers(range(100, 152), characters=62)
    rows = [unseen.rows_of(w) for w in range(52)]
    return World(
        expert,
        sketch,
        generic,
        [unseen.observations[r] for r in rows],
        [unseen.labels[r] for r in rows],
    )
