"""Exponential backoff."""

import random


class Backoff:
    """Pauses that double up to a longest one, with jitter of up to half so that devices spread.

    >>> pauses = Backoff(longest=4.0)
    >>> [0.25 <= pauses.next() <= 0.5, 0.5 <= pauses.next() <= 1.0]
    [True, True]
    >>> pauses.reset()
    >>> pauses.next() <= 0.5
    True
    """

    def __init__(self, longest: float, first: float = 0.5) -> None:
        self._first = first
        self._longest = longest
        self._pause = first

    def next(self) -> float:
        """Return the seconds to wait now."""
        pause, self._pause = self._pause, min(self._pause * 2, self._longest)
        return pause * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start over with the first pause."""
        self._pause = self._first
