"""Stray ink: marks beside a character, such as a tap of the pen or the mark of a palm."""

import numpy as np
from numpy.typing import NDArray

_SHORT = 0.6
_BESIDE, _ABOVE = 0.6, 2.4
"""Shares of the longest part's longer side, larger than in all but one in a hundred of UNIPEN's i,
the dots of which are the parts that are the furthest from the rest."""

_MOST_PARTS = 256
"""Of a character; what has more, such as a dithered picture, is not compared part by part."""


def is_stray(low: NDArray[np.number], high: NDArray[np.number]) -> NDArray[np.bool_]:
    """Tell which parts of a character are stray ink, bool [N], by their bounding boxes [N, (x, y)].

    A part is stray if it is shorter than the longest part, and far beside or above all long parts.
    None is among more than 256 parts.

    >>> low = np.array([[0, 40], [1, 0], [90, 90]])
    >>> is_stray(low, low + [[2, 60], [1, 1], [3, 2]]).tolist()
    [False, False, True]
    """
    if len(low) > _MOST_PARTS:
        return np.zeros(len(low), np.bool_)
    longer = (high - low).max(axis=1)
    long = longer >= _SHORT * longer.max()
    apart = np.maximum(low[:, None] - high[long], low[long] - high[:, None])
    far = (apart > longer.max() * np.array([_BESIDE, _ABOVE])).any(axis=2)
    stray: NDArray[np.bool_] = ~long & far.all(axis=1)
    return stray
