"""The radius that updates are clipped to follows a quantile of their norms.

Andrew, Thakkar, McMahan, Ramaswamy 2021, Differentially Private Learning with Adaptive Clipping,
arXiv 1905.03871: the share of devices whose update was within comes with the sum, noised as all of
it, so following it costs no privacy of its own.
"""

import math

RATE = 0.2
"""How fast the radius follows."""


def adapted(radius: float, within: float, quantile: float) -> float:
    """Return the next round's radius: the share `within` this one's should become `quantile`.

    >>> [round(adapted(1.0, within, quantile=0.5), 3) for within in (0.5, 1.0, 0.0)]
    [1.0, 0.905, 1.105]
    """
    share = min(1.0, max(0.0, within))  # noise may carry it beyond
    return radius * math.exp(-RATE * (share - quantile))
