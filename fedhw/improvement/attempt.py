"""An attempt to improve the release in use, as a state machine: state, facts -> state, action.

    rounds     online devices sum what they have learned, round by round; all rounds together make a
               candidate, which must not be worse on public data
    shadow     some devices evaluate the candidate beside the release in use, and report
    roll-out   it is published for few devices, for more, and for all, or it is rolled back

`advance` is the state machine, `proceed` the loop that a coordinator and a simulation run:

    attempt, action, decision := advance(attempt, facts)
    keep the attempt, then perform the action; its result is among the next facts

Nothing here reads a clock, a disk or a network. The state is kept before its action is performed,
so the result of an action may be lost: a round that was begun then counts as failed, and as paid by
all devices that were asked; every other action is repeated.
"""

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import takewhile
from typing import Any, NamedTuple, Protocol

from fedhw.improvement.actions import (
    UNSETTLED,
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
from fedhw.improvement.plan import Plan
from fedhw.improvement.rollout import RollOut, share_at
from fedhw.improvement.verdicts import GUARDED, Outcome, judge_candidate, judge_release
from fedhw.privacy.estimate import Estimate
from fedhw.privacy.window_estimates import WindowEstimates

ROUND_RETRY_SECONDS = 60.0
"""Seconds to wait after a failed round; the pause doubles with each further failure."""

MAX_FAILED_ROUNDS = 10
"""Rounds in a row that may fail before the attempt is abandoned."""

SHADOW_WINDOWS = 2
"""Windows in which devices may report on a candidate."""

SHADOW_REMINDER_SECONDS = 10.0
"""Seconds between two requests to devices for the state of their evaluation."""

STALLED_WINDOWS = 7
"""Windows in a row for which a roll-out may lack figures to compare."""


class Stage(StrEnum):
    """The stage of an attempt; those below ROLL_OUT are its possible ends."""

    ROUNDS = "rounds"
    SHADOW = "shadow"
    ROLL_OUT = "roll-out"
    PROMOTED = "promoted"
    REJECTED = "rejected"
    ABANDONED = "abandoned"
    STOPPED = "stopped"
    ROLLED_BACK = "rolled back"


IN_FLIGHT = (Stage.ROUNDS, Stage.SHADOW, Stage.ROLL_OUT)
"""Only one attempt at a time may be in these stages."""

ENDS = tuple(stage for stage in Stage if stage not in IN_FLIGHT)


class Round(NamedTuple):
    """One secure sum of updates; it has cost each of `devices` this `rho`.

    `summed` counts its updates and is None where the round failed; `within` is the noised share of
    updates within the radius; `seconds` is None while the round runs and where it was cut off.
    Until it has ended, all devices that were asked count as having paid.
    """

    began: float
    rho: float
    devices: tuple[str, ...]
    seconds: float | None = None
    summed: int | None = None
    within: float | None = None


@dataclass(frozen=True)
class Attempt:
    """One attempt to improve the version `parent`, in its `stage` `since` that Unix second.

    `candidate` is the name of its candidate and `version` the one it was published as. `step` of
    the roll-out is under way, judged by `windows` windows up to the `window`; `baseline` are the
    fleet's figures before it. `progress` is the state of each device in the shadow evaluation.
    """

    number: int
    parent: int
    plan: Plan
    since: float
    stage: Stage = Stage.ROUNDS
    stopping: bool = False
    candidate: str | None = None
    version: int | None = None
    step: int = 0
    windows: int = 0
    window: int = 0
    baseline: tuple[Estimate, ...] = ()
    rounds: tuple[Round, ...] = ()
    progress: Mapping[str, Progress] = field(default_factory=dict)

    @property
    def participations(self) -> Counter[str]:
        """How many rounds each device has paid for."""
        return Counter(device for each in self.rounds for device in each.devices)

    @property
    def is_in_round(self) -> bool:
        """Whether the last round has not ended."""
        return self.rounds != () and self.rounds[-1].seconds is None

    @property
    def failed_rounds(self) -> int:
        """How many rounds in a row have failed up to now."""
        return sum(1 for _ in takewhile(lambda each: each.summed is None, reversed(self.rounds)))


class Newest(NamedTuple):
    """The newest release; `restores` is the version that it is a rollback to, if any.

    `is_candidate` tells whether its files are those of the attempt's candidate.
    """

    version: int
    name: str
    restores: int | None = None
    is_candidate: bool = False


@dataclass(frozen=True)
class Facts:
    """Everything that a decision about an attempt depends on.

    All stages use the Unix second, the newest release, the names of the devices that are `online`
    and run it, the number of `devices`, the length of a window and the minimum cohort.

    Rounds use `rounds_done`, the steps that the improvement has taken, and `round_rho`, the cost of
    one. The shadow evaluation uses the number of `shadow_reports`, `shadow`, their estimates, and
    `since_asked`, the seconds since devices were asked. The roll-out uses `parent_name`, the
    previous release, and the `estimates` of the newest window that may be shown.
    """

    now: float
    newest: Newest
    online: tuple[str, ...]
    devices: int
    window_seconds: float
    minimum_cohort: int
    rounds_done: int = 0
    round_rho: float = 0.0
    shadow_reports: int = 0
    shadow: list[Estimate] | None = None
    since_asked: float = math.inf
    parent_name: str = ""
    estimates: WindowEstimates | None = None
    result: Result | None = None

    @property
    def window(self) -> int:
        """The current window; its reports also cover what came before now."""
        return int(self.now // self.window_seconds)


class Decision(NamedTuple):
    """A decision at that Unix second, with its reason; `attempt` is None where none was begun."""

    attempt: int | None
    moment: float
    decision: str
    reason: str


class Transition(NamedTuple):
    """The next state, the action to take, and the decision, if any."""

    attempt: Attempt
    action: Action | None = None
    decision: Decision | None = None


class World(Protocol):
    """The side that runs attempts: a coordinator, or a simulation."""

    def facts(self, attempt: Attempt, result: Result | None) -> Facts:
        """Return the facts now, with the result of the last action."""

    def keep(self, attempt: Attempt, decision: Decision | None) -> None:
        """Store a state and a decision, so that they survive a crash."""

    def perform(self, attempt: Attempt, action: Action) -> Result | None:
        """Perform an action and return its result."""


def proceed(attempt: Attempt, world: World, draw: random.Random) -> None:
    """Advance an attempt until it waits for other facts; `draw` chooses devices."""
    result: Result | None = None
    while True:
        known, facts = attempt, world.facts(attempt, result)
        attempt, action, decision = advance(known, facts, draw)
        if attempt != known or decision is not None:
            world.keep(attempt, decision)
        if action is None:
            return
        result = world.perform(attempt, action)


def advance(attempt: Attempt, facts: Facts, draw: random.Random) -> Transition:
    """Return the next state, action and decision; `draw` chooses devices."""
    newest, parent = facts.newest, attempt.parent
    if attempt.stage in ENDS:
        return Transition(attempt)
    settled = _settle(attempt, facts)
    if settled is not None:
        return settled
    if attempt.stopping and newest.version == parent:
        return _moved(attempt, facts.now, Stage.STOPPED, "ended by hand")
    if attempt.stage == Stage.ROLL_OUT and attempt.version is None:
        return _publish(attempt, facts)
    if newest.version != (attempt.version or parent):
        return _give_way(attempt, facts)
    if attempt.stopping:
        return Transition(attempt, RollBack(parent, "ended by hand"))
    match attempt.stage:
        case Stage.ROUNDS:
            return _train(attempt, facts, draw)
        case Stage.SHADOW:
            return _evaluate(attempt, facts, draw)
        case _:
            return _roll_out(attempt, facts)


def give_up(attempt: Attempt, now: float, reason: str) -> Transition:
    """Return the next state where facts or actions are impossible, for this reason.

    An attempt that has published nothing ends. A roll-out waits, since the operator may mend it.
    """
    if attempt.stage in (Stage.ROUNDS, Stage.SHADOW):
        return _moved(attempt, now, Stage.ABANDONED, reason)
    return Transition(attempt)


def roll_out(
    attempt: Attempt | None, newest: Newest, *, devices: int, minimum_cohort: int
) -> RollOut:
    """Return which devices get the newest release: all, unless an attempt is rolling it out."""
    if attempt is None or attempt.stage != Stage.ROLL_OUT:
        return RollOut(newest.version, newest.name, newest.version, 1.0)
    share = share_at(attempt.step, devices=devices, minimum_cohort=minimum_cohort)
    return RollOut(newest.version, newest.name, attempt.parent, share)


def _moved(
    attempt: Attempt, now: float, to: Stage | str, reason: str, **changes: Any
) -> Transition:
    """Return an attempt after a decision; a decision for an end also moves it to that stage."""
    if to in ENDS:
        changes["stage"] = Stage(to)
    moved = replace(attempt, since=now, **changes)
    return Transition(moved, None, Decision(attempt.number, now, str(to), reason))


def _settle(attempt: Attempt, facts: Facts) -> Transition | None:
    """Apply the result of the last action; None where it ends nothing."""
    now = facts.now
    match attempt.stage, facts.result:
        case Stage.ROUNDS, RoundEnded() as ended if attempt.is_in_round:
            return _end_round(attempt, ended, now)
        case Stage.ROUNDS, CandidateMade(name, (Outcome.PASS, reason)):
            return _moved(attempt, now, "candidate", reason, stage=Stage.SHADOW, candidate=name)
        case Stage.ROUNDS, CandidateMade(name, (_, reason)):
            return _moved(attempt, now, Stage.REJECTED, reason, candidate=name)
        case Stage.ROLL_OUT, RolledBack(reason) if attempt.version is not None:
            return _moved(attempt, now, Stage.ROLLED_BACK, reason)
    return None


def _give_way(attempt: Attempt, facts: Facts) -> Transition:
    """End an attempt because another release was published meanwhile."""
    newest = facts.newest
    if attempt.stage == Stage.ROLL_OUT and newest.restores == attempt.parent:
        reason = f"{newest.name} restores the release before"
        return _moved(attempt, facts.now, Stage.ROLLED_BACK, reason)
    reason = f"{newest.name} was published meanwhile"
    return _moved(attempt, facts.now, Stage.ABANDONED, reason)


# Rounds


def _train(attempt: Attempt, facts: Facts, draw: random.Random) -> Transition:
    plan, failed = attempt.plan, attempt.failed_rounds
    if facts.rounds_done >= plan.rounds:
        return Transition(attempt, MakeCandidate())
    if failed >= MAX_FAILED_ROUNDS:
        reason = f"{MAX_FAILED_ROUNDS} rounds in a row failed"
        return _moved(attempt, facts.now, Stage.ABANDONED, reason)
    if failed and not _is_time(attempt.rounds[-1], ROUND_RETRY_SECONDS * 2 ** (failed - 1), facts):
        return Transition(attempt)
    devices = _drawn_for_round(attempt, facts.online, draw)
    begun = Round(facts.now, facts.round_rho, devices)
    attempt = replace(attempt, rounds=(*attempt.rounds, begun))
    if len(devices) < plan.survivors:
        reason = f"devices: {len(devices)} can be asked and {plan.survivors} are wanted; wait "
        return _end_round(attempt, RoundEnded((), 0.0, reason=f"{reason}for more"), facts.now)
    return Transition(attempt, TakeRound(devices))


def _is_time(last: Round, pause: float, facts: Facts) -> bool:
    """Tell whether the pause after a round is over; setting a clock back does not prolong it."""
    return not 0 <= facts.now - last.began - (last.seconds or 0) < pause


def _drawn_for_round(
    attempt: Attempt, online: Iterable[str], draw: random.Random
) -> tuple[str, ...]:
    """Draw among the devices that may be asked once more.

    Devices that have paid least do not come first: those are always the devices that decline.
    """
    paid, plan = attempt.participations, attempt.plan
    free = [device for device in online if paid[device] < plan.participations]
    return tuple(draw.sample(free, min(len(free), plan.cohort)))


def _end_round(attempt: Attempt, ended: RoundEnded, now: float) -> Transition:
    *earlier, last = attempt.rounds
    last = last._replace(
        devices=ended.paid, seconds=ended.seconds, summed=ended.summed, within=ended.within
    )
    attempt = replace(attempt, rounds=(*earlier, last))
    if ended.summed is not None:
        return Transition(attempt)
    decision = Decision(attempt.number, now, "round abandoned", ended.reason)
    return Transition(attempt, None, decision)


# The shadow evaluation


def _evaluate(attempt: Attempt, facts: Facts, draw: random.Random) -> Transition:
    if isinstance(facts.result, Answered):
        attempt = replace(attempt, progress={**attempt.progress, **facts.result.progress})
    else:
        if not attempt.progress:
            drawn = _drawn_for_evaluation(attempt, facts, draw)
            attempt = replace(attempt, progress=dict.fromkeys(drawn, Progress.WANTED))
        unsettled = [one for one in facts.online if attempt.progress.get(one) in UNSETTLED]
        if unsettled and facts.since_asked >= SHADOW_REMINDER_SECONDS:
            return Transition(attempt, AskForEvaluation(tuple(unsettled)))
    answers = list(attempt.progress.values())
    have_all = answers != [] and not {*UNSETTLED} & {*answers}
    have_reported = facts.shadow_reports >= answers.count(Progress.TOLD)
    is_late = facts.now - attempt.since > SHADOW_WINDOWS * facts.window_seconds
    outcome, reason = judge_candidate(facts.shadow, is_late or (have_all and have_reported))
    match outcome:
        case Outcome.PASS:
            baseline = _baseline(facts)
            return _moved(
                attempt, facts.now, "promote", reason, stage=Stage.ROLL_OUT, baseline=baseline
            )
        case Outcome.REJECT:
            return _moved(attempt, facts.now, Stage.REJECTED, reason)
    return Transition(attempt)


def _baseline(facts: Facts) -> tuple[Estimate, ...]:
    """Return the fleet's figures, as far as they judge a roll-out."""
    found = [] if facts.estimates is None else facts.estimates.estimates
    return tuple(each for each in found if each.name in GUARDED)


def _drawn_for_evaluation(attempt: Attempt, facts: Facts, draw: random.Random) -> list[str]:
    """Draw devices, first those that took part in no round; none where too few are online."""
    online, paid = facts.online, attempt.participations
    if len(online) < facts.minimum_cohort:
        return []
    names = sorted(draw.sample(online, len(online)), key=paid.__contains__)
    return names[: max(facts.minimum_cohort, math.ceil(attempt.plan.canary * len(names)))]


# The roll-out


def _publish(attempt: Attempt, facts: Facts) -> Transition:
    newest = facts.newest
    if newest.version == attempt.parent:
        return Transition(attempt, Publish())
    if not newest.is_candidate:
        return _give_way(attempt, facts)
    reason = f"{newest.name} is for {_share(attempt, facts):.0%} of the devices"
    published = {
        "version": newest.version,
        "window": facts.window,
        "baseline": attempt.baseline or _baseline(facts),  # version 0.1 kept none before
    }
    return _moved(attempt, facts.now, "publish", reason, **published)


def _roll_out(attempt: Attempt, facts: Facts) -> Transition:
    """Judge the release by a new window, and advance it or roll it back."""
    is_for_all = _share(attempt, facts) == 1
    found = facts.estimates
    new, old = _compared(attempt, facts, is_for_all)
    if found is None or not (new and old):
        if facts.window - attempt.window > STALLED_WINDOWS:
            reason = f"there was nothing to compare it with in {STALLED_WINDOWS} windows"
            return Transition(attempt, RollBack(attempt.parent, reason))
        return Transition(attempt)
    outcome, reason = judge_release(new, old, attempt.windows + 1)
    if outcome == Outcome.REJECT:
        return Transition(attempt, RollBack(attempt.parent, reason))
    attempt = replace(attempt, windows=attempt.windows + 1, window=found.window)
    if outcome == Outcome.WAIT:
        return _moved(attempt, facts.now, "wait", reason)
    if is_for_all:
        return _moved(attempt, facts.now, Stage.PROMOTED, reason)
    step = {"step": attempt.step + 1, "windows": 0, "window": facts.window}
    return _moved(attempt, facts.now, "advance", reason, **step)


def _compared(
    attempt: Attempt, facts: Facts, is_for_all: bool
) -> tuple[Iterable[Estimate], Iterable[Estimate]]:
    """Return the figures of the new release, and those to compare with; empty where there are none.

    These are the old release's, or the fleet's before the roll-out. A release for all is judged by
    the whole fleet: then devices that hold it back are in both figures.
    """
    found = facts.estimates
    if found is None or found.window <= attempt.window:
        return (), ()
    if is_for_all:
        return found.estimates, attempt.baseline
    by_release = found.by_release
    before = by_release.get(facts.parent_name, attempt.baseline)
    return by_release.get(facts.newest.name, ()), before


def _share(attempt: Attempt, facts: Facts) -> float:
    return share_at(attempt.step, devices=facts.devices, minimum_cohort=facts.minimum_cohort)
