"""One glyph at a time: the same experts in plain numpy, a third of the time torch takes.

A tensor library is built for batches; on a single glyph its overhead is most of the time. Each
layer here is a few array operations on [C, H, W], a convolution being one matrix product with the
windows of its input (im2col; Chellapilla, Puri, Simard 2006, High performance convolutional neural
networks for document processing). Nothing is shared between calls: any thread may call.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedhw.experts.global_expert import GlobalExpert, LayeredExpert, as_ink
from fedhw.experts.mixture import Mixture

Floats = NDArray[np.float32]
Layer = Callable[[Floats], Floats]
OneSampleForward = Callable[[NDArray[np.uint8]], tuple[Floats, Floats]]
"""Takes a glyph [28, 28] and returns the global expert's features [D] and scores [C]."""


def compile_for_one_sample(expert: GlobalExpert) -> OneSampleForward:
    """Return the expert as a function of one glyph; its weights are copied.

    An expert that is no `LayeredExpert` of the layers known here is asked through torch.

    >>> from fedhw.experts.global_expert import build
    >>> features, scores = compile_for_one_sample(build("lenet5", 62))(np.zeros((28, 28), np.uint8))
    >>> features.shape, scores.shape
    ((84,), (62,))
    """
    layers = _compiled(expert.layers) if isinstance(expert, LayeredExpert) else None
    if layers is None:
        return _through_torch(expert)
    head = _linear(expert.head)

    def look(glyph: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        hidden: Floats = (glyph[None] / 255).astype(np.float32)
        for layer in layers:
            hidden = layer(hidden)
        return hidden, head(hidden)

    return look


class OneMixture(NamedTuple):
    """One writer's mixture on one glyph; see `fedhw.experts.mixture.Mixture`.

    Shapes: u [D, r], v [r, C], b [C], w [D + 3], c a number.
    """

    u: Floats
    v: Floats
    b: Floats
    w: Floats
    c: np.float32

    @classmethod
    def of(cls, mixture: Mixture) -> "OneMixture":
        """Take the mixture of the first writer."""
        u, v, b = (part[0].numpy() for part in mixture.local)
        w, c = (part[0, ..., 0].numpy() for part in mixture.gate)
        return cls(u, v, b[0], w, c[0])

    def opening(self, features: Floats, scores: Floats) -> float:
        """Return the gate's opening in [0, 1]."""
        probabilities = softmax(scores)
        second, top = np.partition(probabilities, -2)[-2:]
        depth = len(features)
        confidence = np.array([top, second, top - second], np.float32)
        logit = float(features @ self.w[:depth] + confidence @ self.w[depth:] + self.c)
        return 0.5 + 0.5 * math.tanh(logit / 2)

    def residual(self, features: Floats) -> Floats:
        """Return the local expert's correction [C] of the scores."""
        residual: Floats = features.dot(self.u).dot(self.v)
        residual += self.b
        return residual


def softmax(scores: Floats) -> Floats:
    """Return probabilities [C]."""
    odds: Floats = np.exp(scores - scores.max())
    odds /= odds.sum()
    return odds


def _compiled(layers: nn.Sequential) -> list[Layer] | None:
    compiled = [_layer(layer) for layer in layers]
    known = [layer for layer in compiled if layer is not None]
    return known if len(known) == len(compiled) else None


def _layer(layer: nn.Module) -> Layer | None:
    match layer:
        case nn.Conv2d(stride=(1, 1), dilation=(1, 1), groups=1, padding_mode="zeros"):
            return None if isinstance(layer.padding, str) else _convolution(layer)
        case nn.ReLU():
            return lambda x: np.maximum(x, np.float32(0))
        case nn.MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False):
            return _halved
        case nn.Flatten(start_dim=1):
            return np.ravel
        case nn.Linear():
            return _linear(layer)
        case _:
            return None


def _convolution(layer: nn.Conv2d) -> Layer:
    kernels = layer.weight.detach().flatten(1).numpy().copy()
    bias = _bias(layer)[:, None]
    tall, wide = layer.kernel_size
    down, across = map(int, layer.padding)

    def convolve(x: Floats) -> Floats:
        channels, height, width = x.shape
        padded = np.zeros((channels, height + 2 * down, width + 2 * across), np.float32)
        padded[:, down : down + height, across : across + width] = x
        rows, columns = padded.shape[1] - tall + 1, padded.shape[2] - wide + 1
        plane, line, dot = padded.strides
        windows: Floats = np.ndarray(
            (channels, tall, wide, rows, columns),
            np.float32,
            padded,
            strides=(plane, line, dot, line, dot),
        )
        seen = kernels @ windows.reshape(-1, rows * columns)
        seen += bias
        return seen.reshape(-1, rows, columns)

    return convolve


def _halved(x: Floats) -> Floats:
    """Max pooling by 2 without its last odd row and column."""
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    rows = np.maximum(x[:, ::2], x[:, 1::2])
    return np.maximum(rows[:, :, ::2], rows[:, :, 1::2])


def _linear(layer: nn.Linear) -> Layer:
    weight, bias = layer.weight.detach().numpy().copy(), _bias(layer)
    return lambda x: weight @ x + bias


def _bias(layer: nn.Conv2d | nn.Linear) -> Floats:
    if layer.bias is None:
        return np.zeros(len(layer.weight), np.float32)
    bias: Floats = layer.bias.detach().numpy().copy()
    return bias


def _through_torch(expert: GlobalExpert) -> OneSampleForward:
    @torch.no_grad()
    def look(glyph: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        features = expert.features(as_ink(glyph[None]))
        return features[0].numpy(), expert.head(features)[0].numpy()

    return look
