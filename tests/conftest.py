"""Parts that many tests share: a small real release, made once a run."""

import os

# Agents, their learners and the tests are many at once: torch's own threads would spin for the
# same few cores. Before torch is imported, and for every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from hypothesis import settings

from fedhw.data.writers import WriterSet
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.release.release import Release
from fedhw.research.train_release import make_release
from fedhw.research.training import Training
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


@pytest.fixture(scope="session")
def release_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("releases") / "small"
    make_release(
        directory, synthetic_writers(30, 150), "lenet5", Training(epochs=4, batch=64), hold_out=6
    )
    return directory


@pytest.fixture(scope="session")
def release(release_directory: Path) -> Release:
    return Release.load(release_directory)


@pytest.fixture(scope="session")
def unseen_writers() -> WriterSet:
    return synthetic_writers(range(1000, 1006), 186)
