"""A network declared as layers that are data, which any array library can interpret.

A declaration says how wide each layer is; what it takes follows from the shape of the observation.
The parameters of layer i are `layers.i.weight` and `layers.i.bias`, as in PyTorch: a convolution's
weight is [out, channels, kernel, kernel], a linear layer's is [out, in].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedhw.errors import InputError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Conv2d:
    """A convolution of [channels, height, width]: square kernel, stride 1, zero padding, bias."""

    out: int
    kernel: int
    padding: int = 0


@dataclass(frozen=True)
class Conv1d:
    """A convolution of [channels, length]: stride 1, zero padding, bias."""

    out: int
    kernel: int
    padding: int = 0


@dataclass(frozen=True)
class Relu:
    """The positive part of every value."""


@dataclass(frozen=True)
class MaxPool2d:
    """The largest of each two by two values of [channels, height, width]; odd edges are dropped."""


@dataclass(frozen=True)
class MaxPool1d:
    """The larger of each two values of [channels, length]; a last odd one is dropped."""


@dataclass(frozen=True)
class Flatten:
    """All values in one row, the last axis fastest."""


@dataclass(frozen=True)
class Linear:
    """A fully connected layer of [D], with a bias."""

    out: int


Layer = Conv1d | Conv2d | Relu | MaxPool1d | MaxPool2d | Flatten | Linear


def layer_shapes(layers: Sequence[Layer], observation: Shape) -> list[Shape]:
    """Return the shape that each layer takes and, last, the shape [D] of the features.

    An observation has its channels first or is a single channel: a network with layers of one
    dimension takes [length] or [channels, length], any other takes [height, width] or more axes.
    Raises InputError when a layer does not fit the output of the layer before it, or when the last
    one does not give [D].

    >>> layer_shapes([Conv2d(6, 5), Relu(), MaxPool2d(), Flatten(), Linear(84)], (28, 20))
    [(1, 28, 20), (6, 24, 16), (6, 24, 16), (6, 12, 8), (576,), (84,)]
    >>> layer_shapes([Conv2d(6, 5), Linear(84)], (28, 28))
    Traceback (most recent call last):
    fedhw.errors.InputError: layers: layer 1, Linear(out=84), does not fit [6, 24, 24], which is \
what an observation [28, 28] has become there; declare another layer or another observation
    """
    along = 1 if any(isinstance(layer, Conv1d | MaxPool1d) for layer in layers) else 2
    shapes = [(1, *observation) if len(observation) == along else observation]
    for place, layer in enumerate(layers):
        shape = _output_shape(layer, shapes[-1])
        if shape is None:
            raise InputError(
                f"layers: layer {place}, {layer}, does not fit {[*shapes[-1]]}, which is what an "
                f"observation {[*observation]} has become there; declare another layer or another "
                "observation"
            )
        shapes.append(shape)
    if len(shapes[-1]) != 1:
        raise InputError(
            f"layers: they make {[*shapes[-1]]} of an observation {[*observation]}, and not "
            "features [D]; end with Flatten()"
        )
    return shapes


def _output_shape(layer: Layer, shape: Shape) -> Shape | None:
    """Return the shape of a layer's output, None where the layer does not fit its input."""
    match layer, shape:
        case (Conv2d(out, kernel, padding), (_, _, _)) | (Conv1d(out, kernel, padding), (_, _)) if (
            kernel > 0 and padding >= 0
        ):
            made = (out, *(n + 2 * padding - kernel + 1 for n in shape[1:]))
        case (MaxPool2d(), (_, _, _)) | (MaxPool1d(), (_, _)):
            made = (shape[0], *(n // 2 for n in shape[1:]))
        case Linear(out), (_,):
            made = (out,)
        case Flatten(), _:
            made = (math.prod(shape),)
        case Relu(), _:
            made = shape
        case _:
            return None
    return made if min(made) > 0 else None
