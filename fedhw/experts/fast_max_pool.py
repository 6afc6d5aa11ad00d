"""Max pooling of two by two pixels, which most experts use."""

import torch
from torch import Tensor, nn


class Halving(nn.MaxPool2d):
    """`nn.MaxPool2d(2)`, several times as fast where no gradient is needed.

    torch searches each window by itself. This takes the larger of two rows, then of two columns,
    for many windows at once.

    >>> with torch.no_grad():
    ...     Halving()(torch.arange(8.0).view(1, 2, 4)).tolist()
    [[[5.0, 7.0]]]
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, input: Tensor) -> Tensor:
        """Return the largest of each two by two, [..., H / 2, W / 2] of [..., H, W]."""
        height, width = input.shape[-2:]
        odd = height % 2 or width % 2
        if odd or torch.is_grad_enabled() or torch.compiler.is_exporting():
            whole: Tensor = super().forward(input)
            return whole
        rows = torch.maximum(input[..., ::2, :], input[..., 1::2, :])
        return torch.maximum(rows[..., ::2], rows[..., 1::2])
