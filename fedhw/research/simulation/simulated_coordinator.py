"""What a coordinator decides in a simulated fleet, at the end of each window.

nothing is going on   would an improvement help?        trigger -> rounds, at once
rounds are done       does it hold on public data?      validate
a candidate is there  do the canary devices gain?       judge, for a few windows
it is published       do its devices fare worse?        look, stage by stage
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import NamedTuple

from fedhw.improvement import rollout
from fedhw.improvement.candidate import Outcome, judge, make_candidate, validate
from fedhw.improvement.improvement import Improvement, Recipe, State
from fedhw.improvement.public import Public
from fedhw.improvement.rollout import STAGES, Step, draw, share_at
from fedhw.improvement.server_optimiser import FedMuon
from fedhw.improvement.trigger import Look, Trigger
from fedhw.privacy.estimate import Estimate, Sums, estimate
from fedhw.privacy.statistics import SHADOW
from fedhw.release.release import Release
from fedhw.research.simulation.simulated_devices import Version
from fedhw.system.clock import DAY_SECONDS


class Decision(NamedTuple):
    """What was decided about what at the end of which window, and why, in words."""

    day: int
    about: str
    outcome: str
    reason: str


@dataclass(frozen=True)
class Policy:
    """How a fleet is run.

    `canary` is the share of devices that judge a candidate, within `patience` windows.
    """

    recipe: Recipe
    trigger: Trigger
    minimum_cohort: int = 10
    canary: float = 0.5
    patience: int = 3

    @classmethod
    def quick(cls, devices: int, noise: float = 0.0) -> "Policy":
        """Return a policy for so many devices, with rounds of so much noise.

        Improvements begin when half of the devices are online, and have fewer rounds than real
        ones, which would take most of the time.
        """
        recipe = Recipe(rounds=12, noise=noise, writers=12, optimiser=FedMuon(0.01, 0.9))
        return cls(recipe, Trigger(cohort=max(2, devices // 2)))


@dataclass
class _Trial:
    """A candidate before the canary devices."""

    candidate: Version
    began: int
    told: set[str] = field(default_factory=set)
    sums: Sums | None = None


@dataclass
class _RollOut:
    """A new version on its way, and how many windows of its stage have been looked at."""

    version: Version
    stage: int = 0
    windows: int = 0


Round = Callable[[Improvement, State], State | None]
"""Takes one round with the devices that are online; None where there are too few."""


class Coordinator:
    """Runs the improvements of one fleet of at most `devices`; candidates are made in `directory`.

    `versions` are those that were published, `decisions` all that was decided.
    """

    def __init__(
        self, release: Release, public: Public, policy: Policy, seed: int, devices: int,
        directory: Path,
    ) -> None:  # fmt: skip
        self.versions = [Version(1, release)]
        self.decisions: list[Decision] = []
        self._public = public
        self._policy = policy
        self._seed = seed
        self._devices = devices
        self._directory = directory
        self._running = self.versions[0]
        self._trial: _Trial | None = None
        self._roll_out: _RollOut | None = None
        self._made = 1
        self._last: int | None = None
        self._after_last: Look | None = None

    def offered(self, device: str) -> Version:
        """Return the version that a device should run."""
        rolling, fewest = self._roll_out, 3 * self._policy.minimum_cohort
        if rolling is not None:
            share = share_at(rolling.stage, self._devices, fewest)
            if draw(device, rolling.version.name) < share:
                return rolling.version
        return self._running

    def asked(self, device: str) -> Version | None:
        """Return the candidate that a device is to judge, if any."""
        trial = self._trial
        if trial is None or device in trial.told:
            return None
        is_canary = draw(device, trial.candidate.name) < self._policy.canary
        return trial.candidate if is_canary else None

    def note(self, device: str, judged: Sums) -> None:
        """Take a device's report of the candidate."""
        if self._trial is not None:
            self._trial.told.add(device)
            sums = self._trial.sums
            self._trial.sums = judged if sums is None else sums + judged

    def decide(
        self,
        day: int,
        online: int,
        reports: Mapping[str, Sums],
        epsilon: float,
        take_round: Round,
    ) -> list[Estimate] | None:
        """Decide what is next by a window's reports, by release, and return what they say.

        `epsilon` is what people would have paid for all improvements with one more.
        """
        found = self._estimated(reduce(add, reports.values())) if reports else None
        newest = None
        if found is not None:
            newest = Look((day + 1) * DAY_SECONDS, found[0].cohort, found)
        if self._roll_out is not None:
            self._look(day, self._roll_out, reports)
        elif self._trial is not None:
            self._judge(day, self._trial)
        else:
            if self._after_last is None and self._last is not None:
                self._after_last = newest
            since_last = float("inf") if self._last is None else (day - self._last) * DAY_SECONDS
            trigger = self._policy.trigger
            decision = trigger.decide(newest, self._after_last, online, since_last, epsilon)
            outcome = "improve" if decision.improve else "wait"
            self._note(day, "improvement", outcome, decision.reason)
            if decision.improve:
                self._improve(day, take_round)
        return found

    def _estimated(self, sums: Sums) -> list[Estimate] | None:
        classes = len(self.versions[0].release.labels)
        return estimate(sums, classes, self._policy.minimum_cohort)

    def _improve(self, day: int, take_round: Round) -> None:
        running, recipe = self._running.release, self._policy.recipe
        number = self._made + 1
        improvement = Improvement(running.expert, self._public, recipe, self._seed + number)
        state: State | None = improvement.begin()
        while state is not None and state.round < recipe.rounds:
            before, state = state, take_round(improvement, state)
        if state is not None or before.round > 0:
            self._last, self._after_last = day, None
        if state is None:
            reason = f"too few devices take part in round {before.round + 1} of {recipe.rounds}"
            self._note(day, "improvement", "given up", reason)
            return
        self._made = number
        candidate = improvement.expert(state)
        verdict = validate(candidate, running.expert, self._public)
        self._note(day, f"candidate v{number} on public data", verdict.outcome, verdict.reason)
        if verdict.outcome is Outcome.PASS:
            place = self._directory / f"v{number}"
            make_candidate(place, candidate, running, self._public, {"epsilon": 0.0, "delta": 0.0})
            self._trial = _Trial(Version(number, Release.load(place)), day)

    def _judge(self, day: int, trial: _Trial) -> None:
        candidate, policy = trial.candidate, self._policy
        shadow = None
        if trial.sums is not None:
            classes = len(candidate.release.labels)
            shadow = estimate(trial.sums, classes, policy.minimum_cohort, SHADOW)
        verdict = judge(shadow, day - trial.began >= policy.patience)
        about = f"candidate {candidate.name} on canary devices"
        self._note(day, about, verdict.outcome, verdict.reason)
        if verdict.outcome is not Outcome.WAIT:
            self._trial, self._last = None, day
        if verdict.outcome is Outcome.PASS:
            self.versions.append(candidate)
            self._roll_out = _RollOut(candidate)

    def _look(self, day: int, rolling: _RollOut, reports: Mapping[str, Sums]) -> None:
        new, old = (
            self._estimated(reports[version.name]) if version.name in reports else None
            for version in (rolling.version, self._running)
        )
        about = f"roll-out of {rolling.version.name}, stage {rolling.stage + 1} of {len(STAGES)}"
        if new is None:
            self._note(day, about, Step.WAIT, "too few devices have reported on it")
            return
        rolling.windows += 1
        verdict = rollout.look(new, old or [], rolling.windows)
        self._note(day, about, verdict.step, verdict.reason)
        if verdict.step is Step.ROLL_BACK:
            self._made += 1
            back = self._running
            self._running = Version(self._made, back.release, restores=back.number)
            self.versions.append(self._running)
            self._roll_out, self._last = None, day
        elif verdict.step is Step.ADVANCE and rolling.stage + 1 < len(STAGES):
            self._roll_out = _RollOut(rolling.version, rolling.stage + 1)
        elif verdict.step is Step.ADVANCE:
            self._running, self._roll_out, self._last = rolling.version, None, day

    def _note(self, day: int, about: str, outcome: str, reason: str) -> None:
        self.decisions.append(Decision(day, about, str(outcome), reason))
