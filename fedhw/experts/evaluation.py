"""The accuracy of a global expert by itself, and a test whether one model is worse than another."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from fedhw.experts.global_expert import GlobalExpert
from fedhw.observation import Observations

DOUBT_STANDARD_DEVIATIONS = 1.0
"""A new model replaces the old one unless it looks worse by more standard deviations than this."""


@torch.no_grad()
def recognised(
    expert: GlobalExpert, observations: Observations, labels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Tell which of the observations [N, *shape] the expert alone recognises, bool [N]."""
    right = np.zeros(len(observations), dtype=bool)
    for start in range(0, len(observations), 4096):
        part = slice(start, start + 4096)
        right[part] = expert(expert.scale(observations[part])).argmax(1).numpy() == labels[part]
    return right


def accuracy(expert: GlobalExpert, observations: Observations, labels: NDArray[np.int64]) -> float:
    """Return the share of observations [N, *shape] that the expert alone recognises."""
    return float(recognised(expert, observations, labels).mean())


def looks_worse(new: NDArray[np.bool_], old: NDArray[np.bool_]) -> bool:
    """Tell whether a new model does worse than the old one, beyond what chance explains.

    Both arguments say which of the same samples a model has right. McNemar's test on the samples
    that only one of the two has right (McNemar 1947, Psychometrika 12:153). Without the allowance
    for chance up to a quarter of the gain is lost on real writers: the old mixture was itself
    chosen by these samples and looks better on them than it is.

    >>> new, old = np.zeros(9, bool), np.arange(9) < 1
    >>> looks_worse(new, old), looks_worse(new, ~new)
    (False, True)
    """
    lost, won = int((old & ~new).sum()), int((new & ~old).sum())
    return lost - won > DOUBT_STANDARD_DEVIATIONS * math.sqrt(lost + won)
