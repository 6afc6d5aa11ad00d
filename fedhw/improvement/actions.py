"""The actions that an attempt to improve asks for, and their results."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from fedhw.improvement.verdicts import Verdict


class Progress(StrEnum):
    """The state of a device's shadow evaluation, by its last answer."""

    WANTED = "wanted"
    EVALUATING = "evaluating"
    TOLD = "told"
    DECLINED = "declined"
    REFUSED = "refused"


UNSETTLED = (Progress.WANTED, Progress.EVALUATING)
"""Devices in these states are asked again."""


# Actions


@dataclass(frozen=True)
class TakeRound:
    """Sum the updates of these devices; the result is a RoundEnded."""

    devices: tuple[str, ...]


@dataclass(frozen=True)
class MakeCandidate:
    """Make a candidate from all rounds and validate it; the result is a CandidateMade."""


@dataclass(frozen=True)
class AskForEvaluation:
    """Ask these devices to evaluate the candidate; the result is an Answered."""

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
    """A round has summed `summed` updates, or failed for a `reason`.

    `paid` are the devices that were asked for their vectors, and so pay for the round.
    """

    paid: tuple[str, ...]
    seconds: float
    summed: int | None = None
    within: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class CandidateMade:
    """A candidate of this name was made, with this verdict on public data."""

    name: str
    verdict: Verdict


@dataclass(frozen=True)
class Answered:
    """The answers of the devices that have answered."""

    progress: Mapping[str, Progress]


@dataclass(frozen=True)
class RolledBack:
    """The previous release is the newest one again, for this reason."""

    reason: str


Result: TypeAlias = RoundEnded | CandidateMade | Answered | RolledBack
