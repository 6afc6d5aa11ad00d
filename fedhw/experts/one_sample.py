"""The experts in plain numpy, for one observation at a time: this takes a third of torch's time.

A tensor library is built for batches; on a single observation most of the time is its overhead.
Each layer here is a few array operations on [C, *axes], a convolution being one matrix product with
the windows of its input (im2col; Chellapilla, Puri, Simard 2006, High performance convolutional
neural networks for document processing). Nothing is shared between calls: any thread may call.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedhw.experts.global_expert import GlobalExpert, LayeredExpert
from fedhw.experts.layers import (
    Conv1d,
    Conv2d,
    Flatten,
    Layer,
    Linear,
    MaxPool1d,
    MaxPool2d,
    Relu,
)
from fedhw.experts.mixture import Mixture
from fedhw.observation import Observations

Floats = NDArray[np.float32]
Step = Callable[[Floats], Floats]
OneSampleForward = Callable[[Observations], tuple[Floats, Floats]]
"""Takes an observation [*shape] and returns the global expert's features [D] and scores [C]."""


def compile_for_one_sample(expert: GlobalExpert) -> OneSampleForward:
    """Return the expert as a function of one observation.

    The weights of a `LayeredExpert` are copied; any other expert still runs in torch.

    >>> from fedhw.experts.global_expert import build
    >>> features, scores = compile_for_one_sample(build("lenet5", 62))(np.zeros((28, 28), np.uint8))
    >>> features.shape, scores.shape
    ((84,), (62,))
    """
    if not isinstance(expert, LayeredExpert):
        return _through_torch(expert)
    steps = [_step(*pair) for pair in zip(expert.network, expert.layers, strict=True)]
    head = _linear(expert.head)

    def forward(observation: Observations) -> tuple[Floats, Floats]:
        hidden: Floats = expert.architecture.scale(observation).reshape(expert.input_shape)
        for step in steps:
            hidden = step(hidden)
        return hidden, head(hidden)

    return forward


class OneMixture(NamedTuple):
    """One writer's mixture on one observation; see `fedhw.experts.mixture.Mixture`.

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


def _step(layer: Layer, module: nn.Module) -> Step:
    match layer:
        case Conv1d() | Conv2d():
            return _convolution(layer, module)
        case Relu():
            return lambda x: np.maximum(x, np.float32(0))
        case MaxPool1d() | MaxPool2d():
            return _halved
        case Flatten():
            return np.ravel
        case Linear():
            return _linear(module)


def _convolution(layer: Conv1d | Conv2d, module: nn.Module) -> Step:
    weight, bias = _copied(module)
    kernel, padding = weight.shape[2:], layer.padding
    kernels, bias = weight.reshape(len(weight), -1), bias[:, None]

    def convolve(x: Floats) -> Floats:
        sizes = x.shape[1:]
        padded = np.zeros((len(x), *(n + 2 * padding for n in sizes)), np.float32)
        padded[(slice(None), *(slice(padding, padding + n) for n in sizes))] = x
        moves = [n + 2 * padding - k + 1 for n, k in zip(sizes, kernel, strict=True)]
        channel, *along = padded.strides
        windows: Floats = np.ndarray(
            (len(x), *kernel, *moves), np.float32, padded, strides=(channel, *along, *along)
        )
        output = kernels @ windows.reshape(kernels.shape[1], -1)
        output += bias
        return output.reshape(-1, *moves)

    return convolve


def _halved(x: Floats) -> Floats:
    """Max pooling by 2 along every axis but the channels; a last odd value is dropped."""
    for axis in range(1, x.ndim):
        whole, before = x.shape[axis] // 2 * 2, (slice(None),) * axis
        x = np.maximum(x[(*before, slice(0, whole, 2))], x[(*before, slice(1, whole, 2))])
    return x


def _linear(module: nn.Module) -> Step:
    weight, bias = _copied(module)
    return lambda x: weight @ x + bias


def _copied(module: nn.Module) -> tuple[Floats, Floats]:
    """Return copies of a layer's weight and bias."""
    weight, bias = (p.detach().numpy().copy() for p in module.parameters())
    return weight, bias


def _through_torch(expert: GlobalExpert) -> OneSampleForward:
    @torch.no_grad()
    def forward(observation: Observations) -> tuple[Floats, Floats]:
        features = expert.features(expert.scale(observation[None]))
        return features[0].numpy(), expert.head(features)[0].numpy()

    return forward
