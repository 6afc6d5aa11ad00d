"""The example of docs/own-data.md does what the page says, from its loader to a device."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from fedhw.data.npz import save_npz
from fedhw.release.release import Release
from fedhw_client import connect
from tests.places import ROOT

EXAMPLES = ROOT / "docs" / "examples"
FEDHW = Path(sys.executable).with_name("fedhw")


@pytest.fixture(scope="module")
def drawings() -> Iterator[ModuleType]:
    """The example's package, as if this directory were on the path."""
    sys.path.insert(0, str(EXAMPLES))
    yield import_module("drawings.learn")
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def trained(drawings: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Release:
    return drawings.train(tmp_path_factory.mktemp("drawings") / "release")


@pytest.fixture
def installed(install: Callable[[Path], dict[str, str]]) -> dict[str, str]:
    """The environment of a machine on which the example is installed."""
    return install(EXAMPLES)


def test_the_mixture_learns_how_unseen_people_draw(drawings: ModuleType, trained: Release):
    people = drawings.draw(range(1000, 1012), 60)
    outcome = drawings.personalise(trained, people)

    gain = outcome.after - outcome.before
    assert gain.mean() > 0.08
    assert gain.min() > -0.05  # one drawing of thirty
    assert (gain > 0).mean() > 0.7
    assert outcome.generic_after > outcome.generic_before - 0.02
    assert set(people.names) & trained.trained_on == set()


def test_a_stream_learns_and_asking_changes_nothing(drawings: ModuleType, trained: Release):
    me = drawings.live(trained, drawings.draw([1000], 150))

    assert me.accuracy.guesses == 150
    assert me.accuracy.total > me.ge_accuracy.total + 0.08
    answer = me.predict_one(np.zeros((28, 28), np.uint8))
    assert answer == me.predict_one(np.zeros((28, 28), np.uint8))
    assert answer.label in drawings.draw([0], 1).classes


def test_the_commands_know_an_architecture_that_is_installed(
    drawings: ModuleType, installed: dict[str, str], tmp_path: Path
):
    few = drawings.draw(range(4), 30)
    save_npz(tmp_path / "drawings.npz", few)
    train = "train-expert --data drawings.npz --architecture drawings --epochs 1 --hold-out 0"
    command = [FEDHW, *train.split(), "--out", "release"]
    subprocess.run(command, cwd=tmp_path, env=installed, check=True, capture_output=True)
    Image.fromarray(few.observations[0]).save(tmp_path / "drawing.png")

    command = [FEDHW, "recognize", "release", "drawing.png"]
    said = subprocess.run(command, cwd=tmp_path, env=installed, check=True, capture_output=True)
    assert any(thing in said.stdout.decode() for thing in few.classes)
    without = subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert without.returncode == 2
    assert "architecture: 'drawings' is not known" in without.stderr.decode()


def test_an_agent_learns_drawings(
    drawings: ModuleType, trained: Release, installed: dict[str, str], tmp_path: Path
):
    mine = drawings.draw([1000], 30)
    home = tmp_path / "home"
    command = [FEDHW, "client", "--home", home, "--release", trained.directory]
    with subprocess.Popen(command, env=installed, stdout=subprocess.PIPE, text=True) as agent:
        try:
            assert agent.stdout.readline()  # it says where it listens
            with connect(home) as device:
                assert device.recognize(mine.observations[0]).label in mine.classes
                for glyph, label in zip(mine.observations, mine.labels, strict=True):
                    device.learn(glyph, mine.classes[label])
                assert device.status().alphabet == "".join(mine.classes)
                tree = mine.classes[mine.labels[0]]
                assert device.forget(label=tree) == (mine.labels == mine.labels[0]).sum()
        finally:
            agent.terminate()
            agent.wait(30)
