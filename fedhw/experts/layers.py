"""A network declared as layers that are data, which any array library can interpret.

A declaration says how wide each layer is; what it takes follows from the shape of the observation.
The parameters of layer i are `layers.i.weight` and `layers.i.bias`, as in PyTorch: a convolution's
weight is [out, channels, kernel, kernel], a linear layer's is [out, in].
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedhw.errors import InputError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Conv2d:
    """A convolution with a square kernel, stride 1 and a border of zeros, with a bias."""

    out: int
    kernel: int
    padding: int = 0

    def output_shape(self, shape: Shape) -> Shape | None:
        """Return [out, height, width] for an input [channels, height, width]; None for others."""
        return _convolved(self, shape) if len(shape) == 3 else None


@dataclass(frozen=True)
class Conv1d:
    """A convolution along one axis, with stride 1 and a border of zeros, with a bias."""

    out: int
    kernel: int
    padding: int = 0

    def output_shape(self, shape: Shape) -> Shape | None:
        """Return [out, length] for an input [channels, length]; None for others."""
        return _convolved(self, shape) if len(shape) == 2 else None


@dataclass(frozen=True)
class Relu:
    """The positive part of every value."""

    def output_shape(self, shape: Shape) -> Shape | None:
        """Return the shape of the input."""
        return shape


@dataclass(frozen=True)
class MaxPool2d:
    """The largest of each two by two values; a last odd row or column is dropped."""

    def output_shape(self, shape: Shape) -> Shape | None:
        """Return [channels, height / 2, width / 2] for [channels, height, width]."""
        return _halved(shape) if len(shape) == 3 else None


@dataclass(frozen=True)
class MaxPool1d:
    """The larger of each two values; a last odd one is dropped."""

    def output_shape(self, shape: Shape) -> Shape | None:
        """Return [channels, length / 2] for [channels, length]."""
        return _halved(shape) if len(shape) == 2 else None


@dataclass(frozen=True)
class Flatten:
    """All values in one row, the last axis fastest."""

    def output_shape(self, shape: Shape) -> Shape | None:
        """Return [D] for a shape of D values."""
        values = 1
        for side in shape:
            values *= side
        return (values,)


@dataclass(frozen=True)
class Linear:
    """A fully connected layer with a bias."""

    out: int

    def output_shape(self, shape: Shape) -> Shape | None:
        """Return [out] for an input [D]; None for others."""
        return _positive(self.out) if len(shape) == 1 else None


Layer = Conv1d | Conv2d | Relu | MaxPool1d | MaxPool2d | Flatten | Linear


def layer_shapes(layers: Sequence[Layer], observation: Shape) -> list[Shape]:
    """Return the shape that each layer takes and, last, the shape [D] of the features.

    An observation has its channels first, or is all one channel: a network with layers of one
    dimension takes [length] or [channels, length], any other takes [height, width] or more axes.
    Raises InputError when a layer does not fit what the layers before it make of an observation, or
    when the last does not give [D].

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
        shape = layer.output_shape(shapes[-1])
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


def _convolved(layer: Conv1d | Conv2d, shape: Shape) -> Shape | None:
    if min(layer.out, layer.kernel) < 1 or layer.padding < 0:
        return None
    return _positive(layer.out, *(n + 2 * layer.padding - layer.kernel + 1 for n in shape[1:]))


def _halved(shape: Shape) -> Shape | None:
    return _positive(shape[0], *(n // 2 for n in shape[1:]))


def _positive(*shape: int) -> Shape | None:
    return shape if min(shape) > 0 else None
