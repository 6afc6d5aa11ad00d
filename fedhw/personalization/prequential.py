"""Accuracy of a stream: each guess is tested before its answer is learned."""

import math
from typing import NamedTuple

FADING = 0.99
"""What one more guess leaves of the weight of all earlier ones in the recent accuracy."""


class Prequential(NamedTuple):
    """Accuracy over all guesses and with fading memory; each is NaN while it has no guess.

    The fading is that of Gama, Sebastiao, Rodrigues 2013, On evaluating stream learning
    algorithms, Machine Learning 90:317.

    >>> accuracy = Prequential()
    >>> for right in (False, True, True):
    ...     accuracy = accuracy.after(right)
    >>> accuracy.total.__round__(3), accuracy.recent.__round__(3)
    (0.667, 0.67)
    """

    guesses: int = 0
    right: int = 0
    faded_guesses: float = 0.0
    faded_right: float = 0.0

    def after(self, is_right: bool) -> "Prequential":
        """Return the accuracy with one more guess."""
        return Prequential(
            self.guesses + 1,
            self.right + is_right,
            FADING * self.faded_guesses + 1,
            FADING * self.faded_right + is_right,
        )

    @property
    def total(self) -> float:
        """The share of all guesses that were right."""
        return self.right / self.guesses if self.guesses else math.nan

    @property
    def recent(self) -> float:
        """The share of about the last hundred guesses that were right."""
        return self.faded_right / self.faded_guesses if self.faded_guesses else math.nan
