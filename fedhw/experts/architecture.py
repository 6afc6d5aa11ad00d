"""Architectures: a network's input, how it is scaled, and the layers as data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedhw.errors import InputError
from fedhw.experts.layers import Layer
from fedhw.observation import Observations, ObservationType
from fedhw.system.plugins import ARCHITECTURES, installed, load

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from fedhw.experts.global_expert import GlobalExpert


Augment = Callable[["Tensor", float, "Generator"], "Tensor"]
"""From scaled observations [B, *shape], a strength and a random generator to changed ones."""


@dataclass(frozen=True)
class Architecture:
    """A kind of global expert.

    `network` is a sequence of layers that ends in features [D] (`fedhw.experts.layers`), or a
    callable that takes this architecture and the number of classes and returns any other network.
    Its input is `(observation - offset) / divisor` as float32; the default divisor is the largest
    value of an integer dtype, and 1 for floats. `augment` changes observations at random for
    training; by default they stay as they are.
    """

    observation: ObservationType
    network: "tuple[Layer, ...] | Callable[[Architecture, int], GlobalExpert]"
    offset: float = 0.0
    divisor: float | None = None
    augment: Augment | None = None

    def standardise(self, values: Any) -> Any:
        """Return values of a float array or tensor, scaled for the network."""
        divisor = self.observation.largest if self.divisor is None else self.divisor
        return (values - self.offset) / divisor

    def scale(self, observations: Observations) -> NDArray[np.float32]:
        """Return observations [..., *shape], scaled for the network.

        >>> pair = Architecture(ObservationType((2,), "uint8"), network=())
        >>> pair.scale(np.array([0, 255], np.uint8)).tolist()
        [0.0, 1.0]
        """
        scaled: NDArray[np.float32] = self.standardise(observations.astype(np.float32))
        return scaled


_registered: dict[str, Architecture] = {}


def register(name: str, architecture: Architecture) -> None:
    """Make an architecture known in this process; an installed package needs an entry point."""
    _registered[name] = architecture


def find_architecture(name: str) -> Architecture:
    """Return a registered or installed architecture.

    Raises InputError where there is none of this name or its package cannot be imported.
    """
    if name not in _registered:
        found: Any = load(ARCHITECTURES, name)
        if found is None:
            known = ", ".join(sorted({*_registered, *installed(ARCHITECTURES)})) or "none"
            raise InputError(
                f"architecture: {name!r} is not known; install its package, or use one of {known}"
            )
        if not isinstance(found, Architecture):
            raise InputError(
                f"architecture: the plug-in {name!r} is a {type(found).__name__}; let its entry "
                "point name an Architecture"
            )
        _registered[name] = found
    return _registered[name]
