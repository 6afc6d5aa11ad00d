"""Whether an improvement of the global expert is worth its privacy now, by the statistics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fedhw.errors import InputError
from fedhw.privacy.estimate import Estimate
from fedhw.system.clock import DAY_SECONDS

CLEARLY = 2.0
"""Standard errors by which a figure must be above a bound."""


class Decision(NamedTuple):
    """Whether to improve now, and why or why not, one sentence for people."""

    improve: bool
    reason: str


class Look(NamedTuple):
    """What the statistics said of one window: `ended` in Unix seconds, `cohort` devices."""

    ended: float
    cohort: int
    estimates: Sequence[Estimate]

    def of(self, name: str) -> Estimate:
        """Return the estimate of one figure; raises KeyError where it is not there."""
        for each in self.estimates:
            if each.name == name and each.entry is None:
                return each
        raise KeyError(name)


@dataclass(frozen=True)
class Trigger:
    """When to improve by itself.

    The global expert is wrong on more than `error` of the corrections, or gates open on `rise` more
    of them than after the last improvement; at least `cohort` devices are online; the last
    improvement was `pause` seconds ago; and all improvements together stay below `epsilon`. Raises
    InputError for a value that cannot be.
    """

    error: float = 0.2
    rise: float = 0.1
    cohort: int = 100
    pause: float = 7 * DAY_SECONDS
    epsilon: float = 8.0

    def __post_init__(self) -> None:
        for option, value, is_good in (
            ("error", self.error, 0 <= self.error <= 1),
            ("rise", self.rise, 0 <= self.rise <= 1),
            ("online", self.cohort, self.cohort >= 2),
            ("pause-days", self.pause / DAY_SECONDS, 0 <= self.pause < math.inf),
            ("epsilon-in-all", self.epsilon, self.epsilon > 0),
        ):
            if not is_good:
                raise InputError(f"{option}: {value:g} is out of range; see --help")

    def decide(
        self,
        newest: Look | None,
        after_last: Look | None,
        online: int,
        since_last: float,
        epsilon: float,
    ) -> Decision:
        """Decide by the newest window and by the first one after the last improvement, if any.

        `online` devices are there, the last improvement ended `since_last` seconds ago (infinity
        where there was none), and `epsilon` would be spent by all improvements with this one.
        """
        if newest is None:
            return Decision(False, "no window has reports of enough devices yet")
        if since_last < self.pause:
            return Decision(
                False,
                f"the last improvement was {since_last / DAY_SECONDS:.1f} days ago, less than the "
                f"{self.pause / DAY_SECONDS:.1f} between two",
            )
        if online < self.cohort:
            return Decision(False, f"{online} devices are online and {self.cohort} are wanted")
        if epsilon > self.epsilon:
            return Decision(
                False,
                f"one more improvement would make epsilon {epsilon:.2f} of all of them, above "
                f"{self.epsilon:g}",
            )
        accuracy = newest.of("ge_accuracy")
        error, doubt = 1 - accuracy.mean, accuracy.standard_error
        if error - CLEARLY * doubt > self.error:
            return Decision(
                True,
                f"the global expert is wrong on {error:.1%} of the corrections (standard error "
                f"{doubt:.1%}), above {self.error:.1%}",
            )
        if after_last is not None:
            now, then = newest.of("gate_open"), after_last.of("gate_open")
            rise = now.mean - then.mean
            doubt = math.hypot(now.standard_error, then.standard_error)
            if rise - CLEARLY * doubt > self.rise:
                return Decision(
                    True,
                    f"gates open on {rise:.1%} more of the corrections than after the last "
                    f"improvement (standard error {doubt:.1%}), above {self.rise:.1%}",
                )
        return Decision(
            False,
            f"the global expert is wrong on {error:.1%} of the corrections (standard error "
            f"{accuracy.standard_error:.1%}), not clearly above {self.error:.1%}",
        )
