"""Runs attempts to improve the expert: the effects around `fedhw.improvement.attempt`.

It gathers the facts, stores each state on disk and performs the actions, so a coordinator that was
killed resumes where it was. The network is behind two functions: one sums a task over devices, one
asks devices about their evaluation of a candidate.
"""

import math
import random
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from fedhw.errors import InputError
from fedhw.improvement.actions import (
    Action,
    Answered,
    AskForEvaluation,
    CandidateMade,
    MakeCandidate,
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
    give_up,
    proceed,
)
from fedhw.improvement.candidate import make_candidate, validate
from fedhw.improvement.improvement import Improvement, ImprovementState, Recipe
from fedhw.improvement.plan import Plan
from fedhw.improvement.public import Public
from fedhw.improvement.trigger import Outlook
from fedhw.improvement.verdicts import Outcome
from fedhw.privacy.discrete_gaussian import epsilon_of
from fedhw.privacy.window_estimates import WindowEstimates
from fedhw.release.manifest import MANIFEST, Manifest
from fedhw.release.registry import Registry
from fedhw.release.release import Release
from fedhw.system.atomic import replacing
from fedhw.system.clock import Clock, SystemClock
from fedhw.system.sqlite import StoreError
from fedhw_server.leader.secure_round import AddUp, LateSumError
from fedhw_server.leader.shadow_evaluation import AskForEvaluations
from fedhw_server.store.coordinator_home import Home
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.members import Member

TRIGGER_INTERVAL_SECONDS = 60.0
"""Seconds between two evaluations of the trigger while there is no attempt."""

log = structlog.get_logger()


class Improver:
    """Advances attempts; a coordinator has one, in one process.

    `recipe` configures the rounds, except for their number and noise, which the plan has; `draw`
    chooses devices.
    """

    def __init__(
        self,
        home: Home,
        fleet: Fleet,
        registry: Registry,
        add_up: AddUp,
        ask: AskForEvaluations,
        recipe: Recipe | None = None,
        draw: random.Random | None = None,
        clock: Clock = SystemClock(),
    ) -> None:
        self._home = home
        self._fleet = fleet
        self._registry = registry
        self._add_up = add_up
        self._ask = ask
        self._recipe = recipe or Recipe()
        self._draw = draw or random.SystemRandom()
        self._clock = clock
        self._looked_at = self._asked_at = self._warned_at = -math.inf
        self._loaded: tuple[int, Improvement] | None = None
        self._online: Mapping[int, Member] = {}

    def step(self, online: Mapping[int, Member]) -> None:
        """Take the next step, with the devices that are online, by node."""
        attempt = self._fleet.attempts.current
        try:
            newest = self._registry.latest
            if newest is None:
                return
            self._online = {n: one for n, one in online.items() if one.running == newest.name}
            if attempt is None:
                self._consider(newest)
            else:
                proceed(attempt, self, self._draw)
        except StoreError:  # nothing is wrong with the attempt
            raise
        except InputError as error:
            self._give_up(str(error))

    def keep(self, attempt: Attempt, decision: Decision | None) -> None:
        """Store an attempt's state, and a decision."""
        self._fleet.attempts.keep(attempt, decision)
        if decision is not None:
            number, _, decided, reason = decision
            log.info("improvement", attempt=number, decision=decided, reason=reason)
        if attempt.stage in ENDS:
            self._state_file(attempt).unlink(missing_ok=True)

    def _give_up(self, reason: str) -> None:
        attempt = self._fleet.attempts.current
        if attempt is not None:
            attempt, _, decision = give_up(attempt, self._clock.wall(), reason)
            if decision is not None:
                self.keep(attempt, decision)
                return
        now = self._clock.monotonic()
        if now - self._warned_at >= TRIGGER_INTERVAL_SECONDS:
            self._warned_at = now
            log.warning("improvement waits", reason=reason)

    # Beginning

    def _consider(self, newest: Manifest) -> None:
        """Begin an attempt if the plan is automatic and its trigger fires."""
        attempts, now = self._fleet.attempts, self._clock.monotonic()
        plan = attempts.plan
        if not plan.automatic or now - self._looked_at < TRIGGER_INTERVAL_SECONDS:
            return
        self._looked_at = now
        outcome, reason = plan.consider(self._outlook(plan, newest))
        if outcome == Outcome.PASS:
            attempts.begin(newest.version, reason)
        else:
            attempts.wait(reason)

    def _outlook(self, plan: Plan, newest: Manifest) -> Outlook:
        attempts, ended = self._fleet.attempts, self._fleet.attempts.all()
        classes = len(newest.labels)
        expert = self._registry.release(newest.version).expert
        rho = attempts.rho + plan.rho(sum(each.numel() for each in expert.parameters()))
        return Outlook(
            has_public=self._home.public.is_dir(),
            enrolled=self._fleet.members.enrolled,
            online=len(self._online),
            since_last=self._clock.wall() - ended[-1].since if ended else math.inf,
            epsilon=epsilon_of(rho, self._fleet.policy.delta),
            newest=self._fleet.reports.estimates(classes),
            after_last=self._after_last(ended, classes),
        )

    def _after_last(self, ended: list[Attempt], classes: int) -> WindowEstimates | None:
        """Return the first estimates since the last attempt that was promoted."""
        promoted = [attempt.since for attempt in ended if attempt.stage == Stage.PROMOTED]
        seconds, reports = self._fleet.policy.window, self._fleet.reports
        for window, _ in reversed(reports.windows() if promoted else []):
            if window * seconds >= promoted[-1]:
                found = reports.estimates(classes, window)
                if found is not None:
                    return found
        return None

    # Facts

    def facts(self, attempt: Attempt, result: Result | None) -> Facts:
        """Gather the facts of an attempt, with the result of the last action."""
        newest = self._registry.latest
        assert newest is not None  # releases are never removed
        policy, reports, classes = self._fleet.policy, self._fleet.reports, len(newest.labels)
        facts = Facts(
            now=self._clock.wall(),
            newest=Newest(
                newest.version, newest.name, newest.restores, self._is_made(attempt, newest)
            ),
            online=tuple(device.name for device in self._online.values()),
            devices=len(self._fleet.members.by_node()),
            window_seconds=policy.window,
            minimum_cohort=policy.minimum_cohort,
            result=result,
        )
        match attempt.stage:
            case Stage.ROUNDS:
                improvement = self._improvement(attempt)
                parameters = len(improvement.begin().parameters)
                return replace(
                    facts,
                    rounds_done=self._state(attempt, improvement).round,
                    round_rho=attempt.plan.round_rho(parameters),
                )
            case Stage.SHADOW:
                sums = reports.shadow_sums(str(attempt.candidate))
                return replace(
                    facts,
                    shadow_reports=0 if sums is None else sums.count,
                    shadow=reports.shadow_estimates(str(attempt.candidate)),
                    since_asked=self._clock.monotonic() - self._asked_at,
                    estimates=reports.estimates(classes),
                )
        return replace(
            facts,
            parent_name=self._registry.manifest(attempt.parent).name,
            estimates=reports.estimates(classes),
        )

    def _is_made(self, attempt: Attempt, newest: Manifest) -> bool:
        """Whether the newest release is the attempt's candidate."""
        is_unpublished = attempt.stage == Stage.ROLL_OUT and attempt.version is None
        if not is_unpublished or newest.version == attempt.parent:
            return False
        made = Manifest.load(self._home.candidate(attempt.number) / MANIFEST)
        return newest.files == made.files

    def _improvement(self, attempt: Attempt) -> Improvement:
        if self._loaded is None or self._loaded[0] != attempt.number:
            running = self._registry.release(attempt.parent)
            public = Public.load(self._home.public)
            running.check_fits(public.rehearsal)
            plan = attempt.plan
            recipe = replace(self._recipe, rounds=plan.rounds, noise=plan.noise)
            improvement = Improvement(running.expert, public, recipe, attempt.number)
            self._loaded = attempt.number, improvement
        return self._loaded[1]

    def _state(self, attempt: Attempt, improvement: Improvement) -> ImprovementState:
        place = self._state_file(attempt)
        if not place.exists():
            return improvement.begin()
        return ImprovementState.from_bytes(place.read_bytes())

    def _state_file(self, attempt: Attempt) -> Path:
        return self._home.improvement / f"{attempt.number}.safetensors"

    # Actions

    def perform(self, attempt: Attempt, action: Action) -> Result | None:
        """Perform an action and return its result."""
        match action:
            case TakeRound(names):
                return self._take_round(attempt, self._chosen(names))
            case MakeCandidate():
                return self._make_candidate(attempt)
            case AskForEvaluation(names):
                self._asked_at = self._clock.monotonic()
                candidate = self._home.candidate(attempt.number)
                return Answered(self._ask(self._chosen(names), candidate))
            case Publish():
                self._registry.publish(self._home.candidate(attempt.number))
                return None
            case RollBack(version, reason):
                self._registry.rollback(version)
                return RolledBack(reason)

    def _take_round(self, attempt: Attempt, devices: Mapping[int, Member]) -> RoundEnded:
        improvement = self._improvement(attempt)
        state = self._state(attempt, improvement)
        task = improvement.task(state, len(devices), attempt.plan.survivors)
        began = self._clock.monotonic()
        paid: tuple[str, ...] = ()
        try:
            summed = self._add_up(devices, task)
            paid, contributors = summed.asked, len(summed.contributors)
            state = improvement.advance(state, task, summed.total, contributors)
        except InputError as error:
            paid = error.asked if isinstance(error, LateSumError) else paid
            return RoundEnded(paid, self._clock.monotonic() - began, reason=str(error))
        with replacing(self._state_file(attempt), durable=True) as unfinished:
            unfinished.write_bytes(state.to_bytes())
        _, within = task.mean(summed.total, contributors)
        log.info("round", attempt=attempt.number, round=state.round, devices=contributors)
        return RoundEnded(paid, self._clock.monotonic() - began, contributors, within)

    def _make_candidate(self, attempt: Attempt) -> CandidateMade:
        """Make a candidate of the rounds' expert, and validate it on public observations."""
        improvement, place = self._improvement(attempt), self._home.candidate(attempt.number)
        expert = improvement.expert(self._state(attempt, improvement))
        if place.exists():  # left by a coordinator that was killed, or by another run
            shutil.rmtree(place)
        delta = self._fleet.policy.delta
        privacy = {"epsilon": epsilon_of(self._fleet.attempts.rho, delta), "delta": delta}
        running = self._registry.release(attempt.parent)
        make_candidate(place, expert, running, improvement.public, privacy)
        made = Release.load(place)
        verdict = validate(made.expert, improvement.running, improvement.public)
        return CandidateMade(made.manifest.name, verdict)

    def _chosen(self, names: tuple[str, ...]) -> dict[int, Member]:
        chosen = {*names}
        return {node: one for node, one in self._online.items() if one.name in chosen}
