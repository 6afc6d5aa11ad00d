"""The coordinator of a simulated fleet: the world around `fedhw.improvement.attempt`, in memory.

It gathers the facts at the end of each day, when the day's reports have arrived, and takes steps
until there is nothing left to do before the next day. Devices do at once what they are asked.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

from fedhw.improvement.actions import (
    Action,
    Answered,
    AskForEvaluation,
    CandidateMade,
    MakeCandidate,
    Progress,
    Publish,
    Result,
    RollBack,
    RolledBack,
    RoundEnded,
    TakeRound,
)
from fedhw.improvement.attempt import (
    ENDS,
    Attempt,
    Decision,
    Facts,
    Newest,
    Stage,
    proceed,
    roll_out,
)
from fedhw.improvement.candidate import make_candidate, validate
from fedhw.improvement.improvement import Improvement, ImprovementState, Recipe
from fedhw.improvement.plan import Plan
from fedhw.improvement.public import Public
from fedhw.improvement.trigger import Outlook
from fedhw.improvement.verdicts import Outcome
from fedhw.privacy.discrete_gaussian import epsilon_of
from fedhw.privacy.estimate import Sums, estimate
from fedhw.privacy.secure_sum import SumError
from fedhw.privacy.statistics import SHADOW
from fedhw.privacy.window_estimates import WindowEstimates
from fedhw.release.release import Release
from fedhw.research.simulation.simulated_devices import Version
from fedhw.system.clock import DAY_SECONDS, SettableClock

REPORTING_SHARE = 0.2
"""Share of the next day after which all reports of a day have arrived."""

STEP_SECONDS = 60.0
"""Seconds between two steps of an attempt."""


class Policy(NamedTuple):
    """What an operator sets: the plan, the recipe of rounds, and the smallest cohort shown.

    The plan's number of rounds and noise replace those of the recipe.
    """

    plan: Plan
    recipe: Recipe
    minimum_cohort: int = 10


class RoundTaken(NamedTuple):
    """The state after a round, and the devices that paid for it and are in its sum."""

    state: ImprovementState
    contributors: tuple[str, ...]


class Devices(Protocol):
    """The devices that are online on a day."""

    @property
    def rho(self) -> float:
        """The largest cost of rounds to one device, in zCDP."""

    @property
    def running(self) -> Mapping[str, str]:
        """The version that each device runs, by the name of the device."""

    def take_round(
        self, improvement: Improvement, state: ImprovementState, names: Sequence[str], plan: Plan
    ) -> RoundTaken:
        """Sum what devices learn; raises SumError where too few take part."""

    def evaluate(
        self, candidate: Version, names: Sequence[str]
    ) -> tuple[Mapping[str, Progress], Sums | None]:
        """Have devices evaluate a candidate; return their answers and the sums of their reports."""


class Coordinator:
    """Runs the improvements of one fleet; candidates are made in `directory`.

    `versions` lists the published versions and `decisions` every decision; `enrolled` is the number
    of devices so far.
    """

    def __init__(
        self, release: Release, public: Public, policy: Policy, delta: float, seed: int,
        directory: Path,
    ) -> None:  # fmt: skip
        self.versions = [Version(1, release)]
        self.decisions: list[Decision] = []
        self.enrolled = 0
        self._public = public
        self._policy = policy
        self._delta = delta
        self._seed = seed
        self._draw = random.Random(seed)
        self._directory = directory
        self._attempts: list[Attempt] = []
        self._windows: list[WindowEstimates] = []
        self._clock = SettableClock(0.0)
        self._devices: Devices
        self._prepare(0)

    @property
    def current(self) -> Attempt | None:
        """The attempt in flight."""
        last = self._attempts[-1] if self._attempts else None
        return None if last is None or last.stage in ENDS else last

    def offered(self, device: str, running: str | None = None) -> Version:
        """Return the version to offer to a device that runs the version called `running`."""
        reach = roll_out(
            self.current,
            self._newest,
            devices=self.enrolled,
            minimum_cohort=self._policy.minimum_cohort,
        )
        return self.versions[reach.version_for(device, running) - 1]

    def end_day(
        self, day: int, reports: Mapping[str, Sums], devices: Devices
    ) -> WindowEstimates | None:
        """Take the day's reports, by release, decide what follows; return the day's estimates."""
        classes, minimum = len(self.versions[0].release.labels), self._policy.minimum_cohort
        found = None
        if reports:
            found = WindowEstimates.of(day, DAY_SECONDS, reports, classes, minimum)
        if found is not None:
            self._windows.append(found)
        self._devices = devices
        self._clock.set_wall((day + 1 + REPORTING_SHARE) * DAY_SECONDS)
        if self.current is None:
            self._consider()
        while (before := self.current) and self._clock.wall() < (day + 2) * DAY_SECONDS:
            proceed(before, self, self._draw)
            # Only rounds need nothing but time; every other stage waits for reports.
            if self.current == before and before.stage != Stage.ROUNDS:
                break
            self._clock.advance(STEP_SECONDS)
        return found

    @property
    def _newest(self) -> Newest:
        newest = self.versions[-1]
        is_candidate = newest is self._candidate
        return Newest(newest.number, newest.name, newest.restores, is_candidate)

    @property
    def _online(self) -> tuple[str, ...]:
        """The devices that are online and run the newest version."""
        running, newest = self._devices.running, self._newest.name
        return tuple(name for name, version in running.items() if version == newest)

    def _consider(self) -> None:
        plan, now = self._policy.plan, self._clock.wall()
        outlook = Outlook(
            has_public=True,
            enrolled=self.enrolled,
            online=len(self._online),
            since_last=now - self._attempts[-1].since if self._attempts else math.inf,
            epsilon=epsilon_of(
                self._devices.rho + plan.rho(len(self._state.parameters)), self._delta
            ),
            newest=self._windows[-1] if self._windows else None,
            after_last=self._after_last(),
        )
        outcome, reason = plan.consider(outlook)
        if outcome != Outcome.PASS:
            self.decisions.append(Decision(None, now, "wait", reason))
            return
        number = len(self._attempts) + 1
        self._attempts.append(Attempt(number, self._newest.version, plan, now))
        self.decisions.append(Decision(number, now, "begin", reason))
        self._prepare(number)

    def _prepare(self, number: int) -> None:
        """Prepare the improvement that an attempt works on."""
        plan, running = self._policy.plan, self.versions[-1].release.expert
        recipe = replace(self._policy.recipe, rounds=plan.rounds, noise=plan.noise)
        self._improvement = Improvement(running, self._public, recipe, self._seed + number)
        self._state = self._improvement.begin()
        self._candidate: Version | None = None
        self._shadow: Sums | None = None

    def _after_last(self) -> WindowEstimates | None:
        """The first estimates since the last attempt that was promoted."""
        promoted = [one.since for one in self._attempts if one.stage == Stage.PROMOTED]
        for found in self._windows if promoted else []:
            if found.window * DAY_SECONDS >= promoted[-1]:
                return found
        return None

    def facts(self, attempt: Attempt, result: Result | None) -> Facts:
        """Gather the facts, with the result of the last action."""
        minimum, shadow = self._policy.minimum_cohort, self._shadow
        return Facts(
            now=self._clock.wall(),
            newest=self._newest,
            online=self._online,
            devices=self.enrolled,
            window_seconds=DAY_SECONDS,
            minimum_cohort=minimum,
            rounds_done=self._state.round,
            round_rho=attempt.plan.round_rho(len(self._state.parameters)),
            shadow_reports=0 if shadow is None else shadow.count,
            shadow=None if shadow is None else estimate(shadow, 0, minimum, SHADOW),
            parent_name=self.versions[attempt.parent - 1].name,
            estimates=self._windows[-1] if self._windows else None,
            result=result,
        )

    def keep(self, attempt: Attempt, decision: Decision | None) -> None:
        """Keep a state and a decision."""
        self._attempts[-1] = attempt
        if decision is not None:
            self.decisions.append(decision)

    def perform(self, attempt: Attempt, action: Action) -> Result | None:
        """Perform an action and return its result."""
        newest = self.versions[-1]
        match action:
            case TakeRound(names):
                return self._take_round(attempt, names)
            case MakeCandidate():
                return self._make_candidate(attempt)
            case AskForEvaluation(names):
                assert self._candidate is not None
                answers, sums = self._devices.evaluate(self._candidate, names)
                if sums is not None:
                    self._shadow = sums if self._shadow is None else self._shadow + sums
                return Answered(answers)
            case Publish():
                assert self._candidate is not None
                self.versions.append(self._candidate)
                return None
            case RollBack(version, reason):
                old = self.versions[version - 1].release
                self.versions.append(Version(newest.number + 1, old, restores=version))
                return RolledBack(reason)

    def _take_round(self, attempt: Attempt, names: Sequence[str]) -> RoundEnded:
        try:
            taken = self._devices.take_round(self._improvement, self._state, names, attempt.plan)
        except SumError as error:
            return RoundEnded((), 0.0, reason=str(error))
        self._state = taken.state
        return RoundEnded(taken.contributors, 0.0, summed=len(taken.contributors))

    def _make_candidate(self, attempt: Attempt) -> CandidateMade:
        improvement, newest = self._improvement, self.versions[-1]
        place = self._directory / str(attempt.number)
        privacy = {"epsilon": epsilon_of(self._devices.rho, self._delta), "delta": self._delta}
        expert = improvement.expert(self._state)
        make_candidate(place, expert, newest.release, self._public, privacy)
        self._candidate = Version(newest.number + 1, Release.load(place))
        verdict = validate(expert, improvement.running, self._public)
        return CandidateMade(self._candidate.name, verdict)
