"""A stranger's plug-in: architectures for short sounds and for windows of motion."""

from fedhw.experts.architecture import Architecture
from fedhw.experts.layers import (
    Conv1d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool1d,
    MaxPool2d,
    Relu,
)
from fedhw.observation import ObservationType

SOUND = Architecture(
    ObservationType((49, 32), "float32"),
    (Conv2d(4, 5), Relu(), MaxPool2d(), MaxPool2d(), Flatten(), Linear(24), Relu()),
    offset=-1.0,
    divisor=2.0,
)

MOTION = Architecture(
    ObservationType((128, 6), "float32"),
    (Conv1d(24, 3, padding=1), Relu(), MaxPool1d(), Flatten(), Linear(24), Relu()),
)
"""128 channels of 6 values, as far as the network is concerned."""
