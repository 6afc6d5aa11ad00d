"""The global expert (GE): a network trained on everybody, the same on every device."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, final

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedhw.errors import InputError
from fedhw.experts.fast_max_pool import Halving


class GlobalExpert(nn.Module, ABC):
    """A feature extractor under a linear head; the private networks read its features.

    Subclasses set `head`, a linear layer D -> C, and define `features`.
    """

    head: nn.Linear

    @abstractmethod
    def features(self, ink: Tensor) -> Tensor:
        """Return the features [B, D] of float glyphs [B, 28, 28], ink 1 on paper 0."""

    def forward(self, ink: Tensor) -> Tensor:
        """Return the class scores [B, C] (logits) of float glyphs [B, 28, 28]."""
        scores: Tensor = self.head(self.features(ink))
        return scores


class LayeredExpert(GlobalExpert):
    """An expert whose features are what a plain sequence of layers makes of a glyph.

    Subclasses set `layers`, from [B, 1, 28, 28] to [B, D], and `head`. One glyph at a time it is
    then recognised without torch, where `fedhw.experts.one_sample` knows all of the layers.
    """

    layers: nn.Sequential

    @final
    def features(self, ink: Tensor) -> Tensor:
        """Return what the last layer gives, [B, D]."""
        hidden: Tensor = self.layers(ink[:, None])
        return hidden


ARCHITECTURES: dict[str, Callable[[int], GlobalExpert]] = {}
"""Constructors by name; each takes the number of classes."""

PLUGINS = "fedhw.architectures"
"""Entry points of installed packages: an architecture's name, and the module that registers it."""


def register(
    name: str,
) -> Callable[[Callable[[int], GlobalExpert]], Callable[[int], GlobalExpert]]:
    """Enter a constructor into the registry under `name`."""

    def enter(constructor: Callable[[int], GlobalExpert]) -> Callable[[int], GlobalExpert]:
        ARCHITECTURES[name] = constructor
        return constructor

    return enter


def build(architecture: str, classes: int) -> GlobalExpert:
    """Build an untrained expert; raises InputError for an unknown architecture.

    >>> sum(p.numel() for p in build("lenet5", 62).parameters())
    66126
    """
    if architecture not in ARCHITECTURES:
        for plugin in entry_points(group=PLUGINS, name=architecture):
            plugin.load()  # a module of an installed package, which registers its own
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise InputError(f"architecture: {architecture!r} is not known; use one of {known}")
    return ARCHITECTURES[architecture](classes)


def as_ink(images: NDArray[Any]) -> Tensor:
    """Turn uint8 glyphs [..., 28, 28] into float ink 0..1 of the same shape."""
    return torch.from_numpy(images).float().div_(255)


@register("lenet5")
class LeNet5(LayeredExpert):
    """LeNet-5 with ReLU and max pooling, 66,126 parameters at 62 classes (LeCun et al. 1998)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            Halving(),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            Halving(),
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )
        self.head = nn.Linear(84, classes)


@register("leaf-cnn")
class LeafCNN(LayeredExpert):
    """The wider CNN of LEAF's FEMNIST benchmark, 6.6 M parameters (Caldas et al. 2018)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2),
            nn.ReLU(),
            Halving(),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            Halving(),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 2048),
            nn.ReLU(),
        )
        self.head = nn.Linear(2048, classes)
