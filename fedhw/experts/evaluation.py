"""What a global expert recognises by itself, and whether another one is worse."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from fedhw.experts.global_expert import GlobalExpert
from fedhw.observation import Observations

DOUBT_STANDARD_DEVIATIONS = 1.0
"""Standard deviations by which what is new may look worse than the old and replace it."""


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
    """Tell whether what is new did worse on the same samples beyond what chance explains.

    Takes which of the samples each had right. McNemar's test on those that only one of both has
    right (McNemar 1947, Psychometrika 12:153). Without the allowance for chance up to a quarter of
    the gain is lost on real writers: the old mixture was itself chosen by these samples and looks
    better on them than it is.

    >>> new, old = np.zeros(9, bool), np.arange(9) < 1
    >>> looks_worse(new, old), looks_worse(new, ~new)
    (False, True)
    """
    lost, won = int((old & ~new).sum()), int((new & ~old).sum())
    return lost - won > DOUBT_STANDARD_DEVIATIONS * math.sqrt(lost + won)
