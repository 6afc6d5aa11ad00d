"""The global expert (GE): a network trained on everybody, the same on every device."""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor, nn

from fedhw.errors import InputError
from fedhw.experts.architecture import Architecture, find_architecture
from fedhw.experts.fast_max_pool import Halving
from fedhw.experts.layers import (
    Conv1d,
    Conv2d,
    Flatten,
    Layer,
    Linear,
    MaxPool1d,
    MaxPool2d,
    Relu,
    Shape,
    layer_shapes,
)
from fedhw.observation import Observations
from fedhw.system.plugins import first_line


class GlobalExpert(nn.Module, ABC):
    """A feature extractor with a linear head; the private networks read its features.

    Subclasses set `head`, a linear layer D -> C, and define `features`.
    """

    head: nn.Linear

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture

    @abstractmethod
    def features(self, scaled: Tensor) -> Tensor:
        """Return the features [B, D] of scaled observations, float [B, *shape]."""

    def forward(self, scaled: Tensor) -> Tensor:
        """Return the class scores [B, C] (logits) of scaled observations, float [B, *shape]."""
        scores: Tensor = self.head(self.features(scaled))
        return scores

    @final
    def scale(self, observations: Observations) -> Tensor:
        """Return observations [..., *shape] as `features` takes them, float of the same shape."""
        return torch.from_numpy(self.architecture.scale(observations))

    @final
    def augment(self, scaled: Tensor, strength: float, random: torch.Generator) -> Tensor:
        """Return scaled observations [B, *shape], each randomly changed; at strength 0 as is."""
        change = self.architecture.augment
        return scaled if change is None or not strength else change(scaled, strength, random)


class LayeredExpert(GlobalExpert):
    """An expert of the layers in its architecture.

    `input_shape` is the shape of one observation with its channels first. Single observations are
    recognised without torch (`fedhw.experts.one_sample`). Raises InputError where a layer does not
    fit the one before.
    """

    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__(architecture)
        assert isinstance(architecture.network, tuple)
        self.network = architecture.network
        shapes = layer_shapes(self.network, architecture.observation.shape)
        self.input_shape = shapes[0]
        self.layers = nn.Sequential(*map(_module, self.network, shapes))
        self.head = nn.Linear(shapes[-1][0], classes)

    @final
    def features(self, scaled: Tensor) -> Tensor:
        """Return the output of the last layer, [B, D]."""
        output: Tensor = self.layers(scaled.view(-1, *self.input_shape))
        return output


def build(name: str, classes: int) -> GlobalExpert:
    """Build an untrained expert; raises InputError for an unknown architecture.

    >>> sum(p.numel() for p in build("lenet5", 62).parameters())
    66126
    """
    return expert_of(find_architecture(name), classes)


def expert_of(architecture: Architecture, classes: int) -> GlobalExpert:
    """Build an untrained expert of an architecture.

    Raises InputError for fewer than two classes and where the network cannot be built.
    """
    if classes < 2:
        raise InputError(f"labels: {classes} is too few to tell apart; give 2 or more")
    if not callable(architecture.network):
        return LayeredExpert(architecture, classes)
    try:
        return architecture.network(architecture, classes)
    except InputError:
        raise
    # The code of a plug-in may raise anything.
    except Exception as error:
        raise InputError(
            f"architecture: its network cannot be built for {classes} classes "
            f"({first_line(error)}); update the package that has it"
        ) from error


def _module(layer: Layer, shape: Shape) -> nn.Module:
    """Return a layer as a torch module, for an input of this shape."""
    match layer:
        case Conv1d(out, kernel, padding):
            return nn.Conv1d(shape[0], out, kernel, padding=padding)
        case Conv2d(out, kernel, padding):
            return nn.Conv2d(shape[0], out, kernel, padding=padding)
        case Relu():
            return nn.ReLU()
        case MaxPool1d():
            return nn.MaxPool1d(2)
        case MaxPool2d():
            return Halving()
        case Flatten():
            return nn.Flatten()
        case Linear(out):
            return nn.Linear(shape[0], out)
