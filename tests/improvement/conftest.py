import pytest

from fedhw.data.writers import WriterSet
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.improvement.public import Public
from fedhw.release.release import Release
from fedhw.research.train_release import make_release
from fedhw.research.training import Training


@pytest.fixture(scope="session")
def launch_data() -> WriterSet:
    return synthetic_writers(12, 124)


@pytest.fixture(scope="session")
def running(launch_data: WriterSet, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release that leaves much to be gained: few writers, briefly trained."""
    directory = tmp_path_factory.mktemp("launch") / "release"
    make_release(directory, launch_data, "lenet5", Training(epochs=8, batch=32), hold_out=0)
    return Release.load(directory)


@pytest.fixture(scope="session")
def public(launch_data: WriterSet, running: Release) -> Public:
    return Public.of(launch_data, running)
