"""Gradients of many copies of an expert at once, each with its own parameters and observations.

On small batches most of the time is overhead, so the copies share every step along a leading axis
W. For common layers the gradient is written out by hand, on [W, C, height, width, B] with the
observations last. A convolution and the max pooling after it are one matrix product with windows of
the input (im2col; Chellapilla, Puri, Simard 2006, High performance convolutional neural networks
for document processing): the four outputs that are pooled have almost the same window, so one
window at every second pixel serves them all, with four kernels that are a pixel apart. The memory
of a step is allocated once, since allocation takes as much time as the products.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from fedhw.experts.global_expert import GlobalExpert, LayeredExpert
from fedhw.experts.layers import Conv2d, Flatten, Linear, MaxPool2d, Relu

Gradient = Callable[[Tensor, Tensor, Tensor], None]
"""Takes scaled observations [W, B, *shape], labels [W, B] and how many of each row are real [W]."""

FEW = 16
"""Most input channels of a convolution; with more channels torch is faster than this module."""


def gradient(expert: GlobalExpert, parameters: Tensor, into: Tensor, batch: int) -> Gradient:
    """Return a function that writes the gradients of W copies' mean cross entropies.

    It reads the current `parameters` [W, P] of the copies and writes `into` [W, P]; every batch has
    room for `batch` observations. An expert with other layers is differentiated by torch, one copy
    after the other.

    >>> from fedhw.experts.global_expert import build
    >>> parameters, into = torch.zeros(2, 66126), torch.zeros(2, 66126)
    >>> write = gradient(build("lenet5", 62), parameters, into, batch=3)
    >>> write(torch.rand(2, 3, 28, 28), torch.ones(2, 3, dtype=torch.int64), torch.tensor([3, 1]))
    >>> (62 * into[:, -62:-60]).round().tolist()  # all classes are as likely, and it is the second
    [[1.0, -61.0], [1.0, -61.0]]
    """
    layers = _by_hand(expert, parameters, into, batch)
    if not layers:
        return _through_torch(expert, parameters, into)

    @torch.no_grad()
    def write(scaled: Tensor, labels: Tensor, counts: Tensor) -> None:
        hidden = scaled.permute(0, 2, 3, 1)[:, None]
        for layer in layers:
            hidden = layer.forward(hidden)
        share = (torch.arange(batch) < counts[:, None]) / counts[:, None]
        error = hidden.softmax(2).sub_(F.one_hot(labels, hidden.shape[2])).mul_(share[..., None])
        for layer in reversed(layers):
            inner = layer.backward(error)
            if layer is not layers[0]:
                error = layer.to_input(inner)

    return write


class _Own(NamedTuple):
    """A layer's weights [W, O, ...] and biases [W, O], and where their gradients go."""

    weight: Tensor
    bias: Tensor
    to_weight: Tensor
    to_bias: Tensor


# Each layer has three methods. `forward` returns the output. `backward` takes the gradient of the
# output, writes those of the parameters, and returns that of the linear map, before pooling and
# ReLU. `to_input` takes the latter and returns the gradient of the input.


class _Dense:
    """A linear layer on [W, B, D], with a ReLU after it where it is `rectified`."""

    def __init__(self, own: _Own, rectified: bool, batch: int) -> None:
        copies, out, depth = own.weight.shape
        self.own, self.rectified = own, rectified
        self.output = own.weight.new_zeros(copies, batch, out)
        self.inner = own.weight.new_zeros(copies, batch, depth)
        self.turned, self.added = own.weight.mT, own.bias[:, None]

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        torch.baddbmm(self.added, x, self.turned, out=self.output)
        return self.output.clamp_(min=0) if self.rectified else self.output

    def backward(self, error: Tensor) -> Tensor:
        # The next layer no longer needs the output, so its memory is reused.
        inner = _where_positive(self.output, error, self.output) if self.rectified else error
        torch.bmm(inner.mT, self.x, out=self.own.to_weight)
        torch.sum(inner, 1, out=self.own.to_bias)
        return inner

    def to_input(self, inner: Tensor) -> Tensor:
        return torch.bmm(inner, self.own.weight, out=self.inner)


class _Flat:
    """From [W, C, height, width, B] to [W, B, D], which is faster for the dense layers."""

    def forward(self, x: Tensor) -> Tensor:
        self.shape = x.shape
        return x.flatten(1, 3).mT.contiguous()

    def backward(self, error: Tensor) -> Tensor:
        return error

    def to_input(self, inner: Tensor) -> Tensor:
        return inner.mT.reshape(self.shape)


class _Halved:
    """A convolution, ReLU and max pooling of two by two, on [W, C, S, S, B].

    S and the padding are even, the kernels' side k is odd. A window is [C, i, p, j, q], with row
    2 i + p and column 2 j + q. Pixels of one phase (p, q), an image of half the side, are adjacent
    in memory, so that a shift by (i, j) copies long runs.
    """

    def __init__(self, own: _Own, padding: int, side: int, batch: int) -> None:
        new = own.weight.new_zeros
        copies, out, channels, k, _ = own.weight.shape
        half = side // 2 + padding
        inside = slice(padding // 2, half - padding // 2)
        self.own, self.side = own, half - k // 2

        phases = new(copies, channels, 2, 2, half, half, batch)
        # All but the padding in rows and columns, [W, C, S / 2, 2, S / 2, 2, B].
        self.pixels = phases[..., inside, inside, :].permute(0, 1, 4, 2, 5, 3, 6)
        self.phases = phases
        moved = phases.unfold(4, self.side, 1).unfold(5, self.side, 1)
        self.moved = moved.permute(0, 1, 4, 2, 5, 3, 7, 8, 6)
        self.windows = new(self.moved.shape)
        self.columns = self.windows.flatten(6).flatten(1, 5)
        shifts = range(k // 2 + 1)
        self.shifted = [
            (
                phases[..., i : i + self.side, j : j + self.side, :],
                self.windows[:, :, i, :, j],
            )
            for i in shifts
            for j in shifts
        ]

        shape = copies, 2, 2, out, channels, k + 1, k + 1
        kernels, to_kernels = new(shape), new(shape)
        self.kernels, self.to_kernels = _matrix(kernels), _matrix(to_kernels)
        # Where the weights are in the kernels of each of the four neighbours.
        self.four, self.to_four = (
            [x[:, p, q, ..., p : p + k, q : q + k] for p in (0, 1) for q in (0, 1)]
            for x in (kernels, to_kernels)
        )

        scores = new(copies, 2, 2, out, self.side**2 * batch)
        rows = new(copies, 2, out, self.side**2 * batch)
        self.output = new(copies, out, self.side**2 * batch)
        self.scores = _matrix(scores)
        self.left, self.right, self.rows = scores[:, :, 0], scores[:, :, 1], rows
        self.upper, self.lower = rows[:, 0], rows[:, 1]

    def forward(self, x: Tensor) -> Tensor:
        self.phases.zero_()
        self.pixels.copy_(x.view(self.pixels.shape))
        self.windows.copy_(self.moved)
        for kernels in self.four:
            kernels.copy_(self.own.weight)
        torch.bmm(self.kernels, self.columns, out=self.scores)
        torch.maximum(self.left, self.right, out=self.rows)
        torch.maximum(self.upper, self.lower, out=self.output)
        self.output.add_(self.own.bias[..., None]).clamp_(min=0)
        return self.output.view(*self.output.shape[:2], self.side, self.side, -1)

    def backward(self, error: Tensor) -> Tensor:
        # The next layer no longer needs the output, so its memory is reused.
        error = _where_positive(self.output, error.reshape(self.output.shape), self.output)
        torch.sum(error, 2, out=self.own.to_bias)
        _share_out(error, self.upper, self.lower)
        _share_out(self.rows, self.left, self.right)
        torch.bmm(self.scores, self.columns.mT, out=self.to_kernels)
        first, *others = self.to_four
        self.own.to_weight.copy_(first)
        for kernels in others:
            self.own.to_weight.add_(kernels)
        return self.scores

    def to_input(self, inner: Tensor) -> Tensor:
        # Windows and phases are no longer needed: their gradients take their place.
        torch.bmm(self.kernels.mT, inner, out=self.columns)
        self.phases.zero_()
        for here, there in self.shifted:
            here += there
        return self.pixels.flatten(4, 5).flatten(2, 3)


_Layer = _Dense | _Flat | _Halved


def _matrix(x: Tensor) -> Tensor:
    """Return a matrix for each copy, with a row for each kernel."""
    return x.flatten(1, 3).flatten(2)


def _where_positive(x: Tensor, error: Tensor, into: Tensor) -> Tensor:
    """Write `error` where x > 0, else 0."""
    written: Tensor = torch.ops.aten.threshold_backward(error, x, 0, grad_input=into)
    return written


def _share_out(error: Tensor, first: Tensor, second: Tensor) -> None:
    """Replace the larger of two by the error and the other by 0; of equals the first is larger."""
    torch.sub(second, first, out=first)
    _where_positive(first, error, second)
    torch.sub(error, second, out=first)


def _by_hand(expert: GlobalExpert, parameters: Tensor, into: Tensor, batch: int) -> list[_Layer]:
    """Return the layers and the head, or nothing where one of them is of another kind."""
    shape = expert.architecture.observation.shape
    if not isinstance(expert, LayeredExpert) or len(shape) != 2 or shape[0] != shape[1]:
        return []
    parts = zip(_parts(expert, parameters), _parts(expert, into), strict=True)

    def own() -> _Own:
        (weight, to_weight), (bias, to_bias) = next(parts), next(parts)
        return _Own(weight, bias, to_weight, to_bias)

    layers: list[_Layer] = []
    side, channels = shape[0], 1
    rest = [*expert.network, Linear(expert.head.out_features)]
    while rest:
        match rest:
            case [Conv2d(out, k, padding), Relu(), MaxPool2d(), *rest] if (
                k % 2,
                padding % 2,
                side % 2,
            ) == (1, 0, 0) and channels <= FEW:
                halved = _Halved(own(), padding, side, batch)
                layers.append(halved)
                side, channels = halved.side, out
            case [Flatten(), *rest]:
                layers.append(_Flat())
                side = 1
            case [Linear(), Relu(), *rest] if side == 1:
                layers.append(_Dense(own(), rectified=True, batch=batch))
            case [Linear(), *rest] if side == 1:
                layers.append(_Dense(own(), rectified=False, batch=batch))
            case _:
                return []
    return layers


def _through_torch(expert: GlobalExpert, parameters: Tensor, into: Tensor) -> Gradient:
    student = deepcopy(expert)
    names = [name for name, _ in expert.named_parameters()]

    def write(scaled: Tensor, labels: Tensor, counts: Tensor) -> None:
        for copy, count in enumerate(counts.tolist()):
            own = parameters[copy : copy + 1].detach().requires_grad_()
            there = dict(zip(names, (part[0] for part in _parts(expert, own)), strict=True))
            scores = functional_call(student, there, scaled[copy, :count])
            loss = F.cross_entropy(scores, labels[copy, :count])
            into[copy] = torch.autograd.grad(loss, own)[0]

    return torch.enable_grad()(write)


def _parts(expert: GlobalExpert, flat: Tensor) -> list[Tensor]:
    """Return each parameter of W copies, [W, ...], as a view of the flat ones [W, P]."""
    sizes = [p.numel() for p in expert.parameters()]
    parts = zip(torch.split(flat, sizes, 1), expert.parameters(), strict=True)
    return [part.view(-1, *p.shape) for part, p in parts]
