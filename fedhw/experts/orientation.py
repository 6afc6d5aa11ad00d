"""Whether a person's observations are upside down: evidence from what a global expert reads."""

import numpy as np
from numpy.typing import NDArray

from fedhw.experts.evaluation import accuracy
from fedhw.experts.global_expert import GlobalExpert
from fedhw.observation import Observations

FAR_BETTER = 0.2
"""What another way must read more to be worth a warning, a fraction."""

FEWEST_SAMPLES = 30
"""Fewer samples are no evidence."""


def warn_if_upside_down(
    expert: GlobalExpert, observations: Observations, labels: NDArray[np.int64]
) -> str | None:
    """Return a warning where an expert reads pictures [N, H, W] far better upside down.

    Screens have y downward, and so do strokes; mathematics and some tablets have it upward.
    """
    if observations.ndim != 3 or len(observations) < FEWEST_SAMPLES:
        return None
    plain = accuracy(expert, observations, labels)
    turned = accuracy(expert, np.ascontiguousarray(observations[:, ::-1]), labels)
    if turned < plain + FAR_BETTER:
        return None
    return (
        f"strokes: the global expert reads {plain:.0%} of the corrections, and {turned:.0%} "
        "of them upside down; give strokes with y downward"
    )
