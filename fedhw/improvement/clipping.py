"""Adaptive clipping: the radius follows a quantile of the norms of the updates.

Andrew, Thakkar, McMahan, Ramaswamy 2021, Differentially Private Learning with Adaptive Clipping,
arXiv 1905.03871: the share of devices whose update was within the radius is an entry of the noised
sum, so it costs no extra privacy.
"""

import math

RATE = 0.2
"""The learning rate of the radius."""


def adapted(radius: float, within: float, quantile: float) -> float:
    """Return the next radius, which moves the share of updates `within` it towards `quantile`.

    >>> [round(adapted(1.0, within, quantile=0.5), 3) for within in (0.5, 1.0, 0.0)]
    [1.0, 0.905, 1.105]
    """
    share = min(1.0, max(0.0, within))  # noise may push it out of range
    return radius * math.exp(-RATE * (share - quantile))
