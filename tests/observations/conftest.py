"""Three types of observation: each with labels, an architecture, people who differ, a release."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.experts.architecture import find_architecture
from fedhw.observation import Labels
from fedhw.release.release import Release
from fedhw.research.train_release import make_release
from fedhw.research.training import Training
from fedhw.system.plugins import ARCHITECTURES
from fedhw_client.agent.correction import Correction
from tests.installed_packages import install

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
USED = 6
"""Classes that anybody uses, the last ones of all."""

BLOCK = 7


@dataclass(frozen=True)
class Kind:
    """A type of observation, and people: to each class belongs a pattern, to each order a style.

    Who has another order than those whom the release was trained on means other classes by the
    patterns, and can be told by the style.
    """

    architecture: str
    labels: Labels

    def people(self, orders: list[int], each: int, seed: int = 0) -> WriterSet:
        """People with these orders and so many observations of each class."""
        takes = find_architecture(self.architecture).observation
        rng = np.random.default_rng(seed)
        patterns = [_pattern(takes.shape, each) for each in range(USED)]
        observations, labels, writer = [], [], []
        for person, order in enumerate(orders):
            style = _pattern(takes.shape, 100 + order)
            for place in rng.permutation(np.repeat(np.arange(USED), each)):
                noisy = patterns[(place + order) % USED] + style + rng.normal(0, 0.2, takes.shape)
                whole = np.clip(128 + 60 * noisy, 0, 255) if takes.dtype == "uint8" else noisy
                observations.append(whole.astype(takes.dtype))
                labels.append(len(self.labels) - USED + place)
                writer.append(person)
        return WriterSet.of(
            takes.stack(observations),
            labels,
            writer,
            names=[f"{seed}-{person}" for person in range(len(orders))],
            classes=self.labels,
        )

    def corrections(self, order: int, each: int, seed: int) -> list[Correction]:
        """What one person corrects."""
        own = self.people([order], each, seed)
        return [
            Correction(observation, self.labels[label], f"{seed}-{number}")
            for number, (observation, label) in enumerate(
                zip(own.observations, own.labels.tolist(), strict=True)
            )
        ]


def _pattern(shape: tuple[int, ...], number: int) -> NDArray[np.float64]:
    """Blocks of one value each, which survive pooling."""
    rng = np.random.default_rng([7, number])
    blocks = rng.normal(size=[-(-length // BLOCK) for length in shape])
    whole = np.kron(blocks, np.ones([BLOCK] * len(shape)))
    return whole[tuple(map(slice, shape))]


KINDS = {
    "handwriting": Kind("lenet5", Labels.characters("0123456789")),
    "sound": Kind("sound", Labels(tuple(WORDS))),
    "motion": Kind("motion", Labels(tuple(f"gesture number {i}" for i in range(1000)))),
}


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The plug-in, as pip would install it, in this process and in every process it starts."""
    site = tmp_path_factory.mktemp("site")
    points = {"sound": "motions_plugin:SOUND", "motion": "motions_plugin:MOTION"}
    install(site, "motions", {ARCHITECTURES: points})
    (site / "motions_plugin.py").write_text(Path(__file__).with_name("plugin.py").read_text())
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), before]))
    sys.path.insert(0, str(site))
    yield
    sys.path.remove(str(site))
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest, installed: None) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="session")
def launch(kind: Kind) -> WriterSet:
    return kind.people([0, 0, 0, 0], each=20)


@pytest.fixture(scope="session")
def made(kind: Kind, launch: WriterSet, tmp_path_factory: pytest.TempPathFactory) -> Release:
    directory = tmp_path_factory.mktemp(kind.architecture) / "release"
    recipe = Training(epochs=12, batch=32, distortion=0.0)
    make_release(directory, launch, kind.architecture, recipe, hold_out=0)
    return Release.load(directory)
