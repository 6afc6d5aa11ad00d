import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedhw.errors import InputError
from fedhw.experts.architecture import (
    Architecture,
    find_architecture,
    register,
)
from fedhw.experts.global_expert import GlobalExpert, build, expert_of
from fedhw.experts.layers import Conv1d, Conv2d, Flatten, Linear, MaxPool1d, MaxPool2d, Relu
from fedhw.observation import ObservationType
from fedhw.system.plugins import ARCHITECTURES, installed
from tests.installed_packages import install

LAYERED = {
    "windows": Architecture(
        ObservationType((6, 32), "float32"),
        (Conv1d(5, 3, padding=1), Relu(), MaxPool1d(), Flatten(), Linear(9), Relu()),
        offset=0.5,
        divisor=2.0,
    ),
    "colours": Architecture(
        ObservationType((3, 9, 8), "int16"), (Conv2d(4, 3), MaxPool2d(), Flatten())
    ),
    "pixels": Architecture(ObservationType((5, 4), "uint8"), (Flatten(), Linear(3), Relu())),
}


class Rows(GlobalExpert):
    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__(architecture)
        self.head = nn.Linear(28, classes)

    def features(self, scaled: Tensor) -> Tensor:
        return scaled.mean(2)


@pytest.mark.parametrize("name", installed(ARCHITECTURES))
def test_scores_are_the_head_on_the_features(name: str) -> None:
    expert = build(name, classes=26)
    scaled = torch.rand(3, *find_architecture(name).observation.shape)
    features = expert.features(scaled)
    assert features.shape == (3, expert.head.in_features)
    assert torch.equal(expert(scaled), expert.head(features))
    assert expert(scaled).shape == (3, 26)


@pytest.mark.parametrize("architecture", LAYERED.values(), ids=LAYERED.keys())
def test_layers_take_any_observation(architecture: Architecture) -> None:
    expert = expert_of(architecture, 7)
    assert expert(expert.scale(architecture.observation.empty(4))).shape == (4, 7)


def test_the_names_of_the_weights_are_those_of_every_release_there_is() -> None:
    names = [f"layers.{i}.{kind}" for i in (0, 3, 7, 9) for kind in ("weight", "bias")]
    assert list(build("lenet5", 62).state_dict()) == [*names, "head.weight", "head.bias"]


def test_the_registry_takes_an_expert_of_ones_own() -> None:
    register("rows", Architecture(ObservationType((28, 30), "int8"), Rows))
    expert = build("rows", 5)
    assert expert(expert.scale(np.ones((2, 28, 30), np.int8))).shape == (2, 5)


@pytest.mark.parametrize(
    ("dtype", "offset", "divisor", "value", "scaled"),
    [
        ("uint8", 0.0, None, 51, 0.2),
        ("int16", 0.0, None, -32767, -1.0),
        ("uint16", 0.0, None, 65535, 1.0),
        ("float16", 0.0, None, 3.5, 3.5),
        ("float32", 1.0, 4.0, 7.0, 1.5),
        ("uint8", 55.0, 100.0, 255, 2.0),
    ],
)
def test_what_an_architecture_says_of_its_scale_is_what_it_sees(
    dtype: str, offset: float, divisor: float | None, value: float, scaled: float
) -> None:
    takes = Architecture(ObservationType((2,), dtype), (), offset, divisor)
    seen = expert_of(takes, 3).scale(np.array([value, value], dtype))
    assert seen.tolist() == pytest.approx([scaled] * 2)
    assert seen.dtype == torch.float32


def test_all_greys_are_seen_as_fractions_of_255() -> None:
    greys = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(greys).float().div_(255)
    pixels = Architecture(ObservationType((256,), "uint8"), ())
    assert torch.equal(expert_of(pixels, 2).scale(greys), expected)


def test_observations_are_changed_as_the_architecture_says_or_not_at_all() -> None:
    random = torch.Generator().manual_seed(0)
    glyphs = torch.rand(2, 28, 28)
    changed = build("lenet5", 2).augment(glyphs, 1.0, random)
    assert changed.shape == glyphs.shape
    assert not torch.equal(changed, glyphs)
    for still in (
        build("lenet5", 2).augment(glyphs, 0.0, random),
        expert_of(LAYERED["pixels"], 2).augment(glyphs, 1.0, random),
    ):
        assert torch.equal(still, glyphs)


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(
        InputError,
        match=r"architecture: 'lenet6' is not known; install its package, or use one of .*lenet5",
    ):
        build("lenet6", 62)


def test_a_single_class_is_refused() -> None:
    with pytest.raises(InputError, match="labels: 1 is too few to tell apart"):
        build("lenet5", 1)


def test_a_network_that_cannot_be_built_is_told_in_a_sentence() -> None:
    def network(architecture: Architecture, classes: int) -> GlobalExpert:
        raise ZeroDivisionError("of two\nlines")

    broken = Architecture(ObservationType((3, 2), "float32"), network)
    with pytest.raises(
        InputError, match=r"built for 5 classes \(ZeroDivisionError: of two\); update the package"
    ):
        expert_of(broken, 5)


PLUGIN = """
from fedhw.experts.architecture import Architecture
from fedhw.experts.layers import Flatten
from fedhw.observation import ObservationType

FLAT = Architecture(ObservationType((3, 2), "float32"), (Flatten(),))
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (PLUGIN, "built"),
        ("raise OSError('a\\nb')", r"cannot be imported (OSError: a); install it again"),
        ("import nowhere", r"cannot be imported (ModuleNotFoundError: No module named 'nowhere')"),
        ("FLAT = 7", "architecture: the plug-in 'flat' is a int; let its entry point name an"),
    ],
)
def test_a_fresh_process_knows_an_installed_plug_in(tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / "flat_plugin.py").write_text(code)
    install(tmp_path, "flat", {ARCHITECTURES: {"flat": "flat_plugin:FLAT"}})
    script = "from fedhw.experts.global_expert import build; build('flat', 2); print('built')"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    told = (ran.stdout + ran.stderr).splitlines()[-1]
    assert said in told
