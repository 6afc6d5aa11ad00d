"""What an attempt to improve asks of whoever runs it, and what comes of that."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from fedhw.improvement.verdicts import Verdict


class Progress(StrEnum):
    """How far a device's shadow evaluation is, by its last answer."""

    WANTED = "wanted"
    EVALUATING = "evaluating"
    TOLD = "told"
    DECLINED = "declined"
    REFUSED = "refused"


UNSETTLED = (Progress.WANTED, Progress.EVALUATING)
"""What a device answers that is to be asked again."""


# Actions


@dataclass(frozen=True)
class TakeRound:
    """Have these devices add up what they learn; the result is a RoundEnded."""

    devices: tuple[str, ...]


@dataclass(frozen=True)
class MakeCandidate:
    """Make a candidate of all rounds and validate it; the result is a CandidateMade."""


@dataclass(frozen=True)
class AskForEvaluation:
    """Have these devices evaluate the candidate; the result is an Answered."""

    devices: tuple[str, ...]


@dataclass(frozen=True)
class Publish:
    """Publish the candidate; the next facts show it as the newest release."""


@dataclass(frozen=True)
class RollBack:
    """Publish a version's files again, for this reason; the result is a RolledBack."""

    version: int
    reason: str


Action: TypeAlias = TakeRound | MakeCandidate | AskForEvaluation | Publish | RollBack


# Results


@dataclass(frozen=True)
class RoundEnded:
    """A round has come to the sum of `summed` updates, or to nothing for a `reason`.

    `paid` are those who were asked for their vectors.
    """

    paid: tuple[str, ...]
    seconds: float
    summed: int | None = None
    within: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class CandidateMade:
    """A candidate of this name is there, and public characters say this of it."""

    name: str
    verdict: Verdict


@dataclass(frozen=True)
class Answered:
    """What devices have answered; those who did not are left out."""

    progress: Mapping[str, Progress]


@dataclass(frozen=True)
class RolledBack:
    """The release before is the newest one again."""

    reason: str


Result: TypeAlias = RoundEnded | CandidateMade | Answered | RolledBack
