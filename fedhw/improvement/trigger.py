"""The decision whether an improvement of the global expert is worth its privacy cost now."""

import math
from dataclasses import dataclass

from fedhw.errors import InputError
from fedhw.improvement.verdicts import Outcome, Verdict
from fedhw.privacy.window_estimates import WindowEstimates
from fedhw.system.clock import DAY_SECONDS

CLEARLY = 2.0
"""A figure must be above a bound by this many standard errors."""


@dataclass(frozen=True)
class Outlook:
    """The facts about the fleet and earlier attempts on which the trigger decides.

    `epsilon` is the total for the device that took part in most rounds, with one more attempt.
    `since_last` is in seconds, infinite before any attempt has ended; `after_last` is the first
    window after it.
    """

    has_public: bool
    enrolled: int
    online: int
    since_last: float
    epsilon: float
    newest: WindowEstimates | None
    after_last: WindowEstimates | None


@dataclass(frozen=True)
class Trigger:
    """The conditions for an automatic improvement.

    The global expert is wrong on more than `error` of the corrections, or gates open on `rise` more
    of them than after the last improvement; at least `cohort` devices are online; the last
    improvement was `pause` seconds ago; and all improvements together cost at most `epsilon`.
    Raises InputError for a value that is out of range.
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

    def decide(self, outlook: Outlook) -> Verdict:
        """Return PASS where all conditions hold, else WAIT."""
        newest, after_last = outlook.newest, outlook.after_last
        if newest is None:
            return Verdict(Outcome.WAIT, "no window has reports of enough devices yet")
        for is_met, reason in (
            (
                outlook.since_last >= self.pause,
                f"the last improvement was {outlook.since_last / DAY_SECONDS:.1f} days ago, less "
                f"than the {self.pause / DAY_SECONDS:.1f} between two",
            ),
            (
                outlook.online >= self.cohort,
                f"{outlook.online} devices are online and {self.cohort} are wanted",
            ),
            (
                outlook.epsilon <= self.epsilon,
                f"one more improvement would make epsilon {outlook.epsilon:.2f} of all of them, "
                f"above {self.epsilon:g}",
            ),
        ):
            if not is_met:
                return Verdict(Outcome.WAIT, reason)
        accuracy = newest.get("ge_accuracy")
        error, doubt = 1 - accuracy.mean, accuracy.standard_error
        if error - CLEARLY * doubt > self.error:
            return Verdict(
                Outcome.PASS,
                f"the global expert is wrong on {error:.1%} of the corrections (standard error "
                f"{doubt:.1%}), above {self.error:.1%}",
            )
        if after_last is not None:
            now, then = newest.get("gate_open"), after_last.get("gate_open")
            rise = now.mean - then.mean
            doubt = math.hypot(now.standard_error, then.standard_error)
            if rise - CLEARLY * doubt > self.rise:
                return Verdict(
                    Outcome.PASS,
                    f"gates open on {rise:.1%} more of the corrections than after the last "
                    f"improvement (standard error {doubt:.1%}), above {self.rise:.1%}",
                )
        return Verdict(
            Outcome.WAIT,
            f"the global expert is wrong on {error:.1%} of the corrections (standard error "
            f"{accuracy.standard_error:.1%}), not clearly above {self.error:.1%}",
        )
