"""What a global expert recognises by itself."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedhw.experts.global_expert import GlobalExpert, as_ink


@torch.no_grad()
def recognised(
    expert: GlobalExpert, images: NDArray[np.uint8], labels: NDArray[np.integer[Any]]
) -> NDArray[np.bool_]:
    """Tell which of the glyphs [N, 28, 28] the expert alone recognises, bool [N]."""
    right = np.zeros(len(images), dtype=bool)
    for start in range(0, len(images), 4096):
        part = slice(start, start + 4096)
        right[part] = expert(as_ink(images[part])).argmax(1).numpy() == labels[part]
    return right


def accuracy(
    expert: GlobalExpert, images: NDArray[np.uint8], labels: NDArray[np.integer[Any]]
) -> float:
    """Return the share of glyphs [N, 28, 28] that the expert alone recognises."""
    return float(recognised(expert, images, labels).mean())
