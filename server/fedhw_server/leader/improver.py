"""The coordinator's part in improving the expert: one step of an attempt at a time.

    no attempt   the trigger, or the operator, begins one
    rounds       a secure sum over some of the devices that are online, and a step along it;
                 after the last: a candidate, which must not be worse on public characters
    shadow       some devices try the candidate beside what they run, and report: better or not
    roll-out     it is published, for few devices, for more, for all; or back to the one before

Everything is on the disk after each step, so a coordinator that is killed goes on where it was. Of
the network this knows two functions: one adds up a task over devices, one has devices try a
candidate.
"""

import json
import math
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import structlog

from fedhw.errors import InputError
from fedhw.improvement.candidate import Outcome, judge, make_candidate, validate
from fedhw.improvement.improvement import Improvement, State
from fedhw.improvement.public import Public
from fedhw.improvement.rollout import GUARDED, Step, look
from fedhw.improvement.trigger import Decision, Look
from fedhw.privacy.discrete_gaussian import epsilon_of
from fedhw.privacy.estimate import Estimate
from fedhw.privacy.secure_sum import SumError
from fedhw.release.manifest import MANIFEST, Manifest
from fedhw.release.registry import Registry
from fedhw.release.release import Release
from fedhw.system.atomic import replacing
from fedhw.system.sqlite import StoreError
from fedhw_server.leader.candidate_trials import TOLD, UNSETTLED, WANTED, TryOut
from fedhw_server.leader.plan import Plan
from fedhw_server.leader.secure_round import AddUp, LateSumError
from fedhw_server.store.attempts import ENDS, Attempt, Stage
from fedhw_server.store.coordinator_home import Home
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.members import Member
from fedhw_server.store.window_estimates import WindowEstimates, shadow_estimates, window_estimates

ROUND_RETRY_SECONDS = 60.0
"""Seconds after a round that came to nothing; twice as many after each further one."""

MAX_FAILED_ROUNDS = 10
"""Rounds in a row that may come to nothing."""

SHADOW_WINDOWS = 2
"""Windows that canaries have to report in."""

SHADOW_REMINDER_SECONDS = 10.0
"""Seconds between two times that canaries are asked how far they are."""

STALLED_WINDOWS = 7
"""Windows in a row in which a roll-out may have nothing to be compared by."""

TRIGGER_INTERVAL_SECONDS = 60.0
"""Seconds between two looks at the statistics while there is no attempt."""

log = structlog.get_logger()

T = TypeVar("T")


class Improver:
    """Takes attempts forward; a coordinator has one, in one process."""

    def __init__(
        self, home: Home, fleet: Fleet, registry: Registry, add_up: AddUp, try_out: TryOut
    ) -> None:
        self._home = home
        self._fleet = fleet
        self._registry = registry
        self._attempts = fleet.attempts
        self._add_up = add_up
        self._try_out = try_out
        self._done: dict[str, float] = {}
        self._loaded: tuple[int, Improvement] | None = None

    def step(self, online: Mapping[int, Member]) -> None:
        """Do the next thing there is to do, with the devices that are online by node."""
        attempt = self._attempts.current
        try:
            self._go_on(attempt, online)
        except StoreError:  # nothing is wrong with the attempt
            raise
        except InputError as error:
            if attempt is not None and attempt.stage in (Stage.ROUNDS, Stage.SHADOW):
                self._end(attempt, Stage.ABANDONED, str(error))
            elif self._is_time("warn", TRIGGER_INTERVAL_SECONDS):
                log.warning("improvement waits", reason=str(error))

    def _go_on(self, attempt: Attempt | None, online: Mapping[int, Member]) -> None:
        newest = self._registry.latest
        if newest is None:
            return
        if attempt is None:
            self._decide(newest, online)
        elif attempt.stopping and newest.version == attempt.parent:
            self._end(attempt, Stage.STOPPED, "ended by hand")
        elif attempt.stage == Stage.ROLL_OUT and attempt.version is None:
            self._publish(attempt, newest)
        elif newest.version != (attempt.version or attempt.parent):
            self._give_way(attempt, newest)
        elif attempt.stopping:
            self._go_back(attempt, "ended by hand")
        elif attempt.stage == Stage.ROUNDS:
            self._train(attempt, _running(newest, online))
        elif attempt.stage == Stage.SHADOW:
            self._try(attempt, _running(newest, online))
        else:
            self._roll_out(attempt, newest)

    # Beginning and ending

    def _decide(self, newest: Manifest, online: Mapping[int, Member]) -> None:
        """Begin an attempt where the plan is to do so by itself and the statistics tell for it."""
        plan = self._attempts.plan
        if not plan.automatic or not self._is_time("look", TRIGGER_INTERVAL_SECONDS):
            return
        decision = self._decision(plan, newest, online)
        if decision.improve:
            self._attempts.begin(newest.version, decision.reason)
        else:
            self._attempts.wait(decision.reason)

    def _decision(self, plan: Plan, newest: Manifest, online: Mapping[int, Member]) -> Decision:
        if not self._home.public.is_dir():
            return Decision(False, "there are no public characters to rehearse and to judge by")
        try:
            plan.check_fleet(self._fleet.members.enrolled)
        except InputError as error:
            return Decision(False, str(error))
        ended = [attempt for attempt in self._attempts.all() if attempt.stage in ENDS]
        expert = self._registry.release(newest.version).expert
        rho = self._attempts.rho + plan.rho(sum(each.numel() for each in expert.parameters()))
        classes = len(newest.labels)
        return plan.trigger.decide(
            _look(window_estimates(self._fleet, classes)),
            _look(self._after(ended, classes)),
            len(_running(newest, online)),
            time.time() - ended[-1].since if ended else math.inf,
            epsilon_of(rho, self._fleet.policy.delta),
        )

    def _after(self, ended: list[Attempt], classes: int) -> WindowEstimates | None:
        """The first figures there are since the last attempt that was promoted."""
        since = [attempt.since for attempt in ended if attempt.stage == Stage.PROMOTED]
        if not since:
            return None
        seconds = self._fleet.policy.window
        for window, _ in reversed(self._fleet.reports.windows()):
            if window * seconds >= since[-1]:
                found = window_estimates(self._fleet, classes, window)
                if found is not None:
                    return found
        return None

    def _give_way(self, attempt: Attempt, newest: Manifest) -> None:
        """End an attempt that somebody has published past."""
        if attempt.stage == Stage.ROLL_OUT and newest.restores == attempt.parent:
            self._end(attempt, Stage.ROLLED_BACK, f"{newest.name} restores the release before")
        else:
            self._end(attempt, Stage.ABANDONED, f"{newest.name} was published meanwhile")

    def _end(self, attempt: Attempt, stage: Stage, reason: str) -> None:
        self._move(attempt._replace(stage=stage), stage, reason)
        self._state(attempt).unlink(missing_ok=True)

    def _move(self, attempt: Attempt, decision: str, reason: str) -> None:
        self._attempts.move(attempt._replace(since=time.time()), decision, reason)
        log.info("improvement", attempt=attempt.number, decision=decision, reason=reason)

    def _is_time(self, what: str, between: float) -> bool:
        """Whether something was not done for so many seconds; it is done now then."""
        now = time.monotonic()
        if now - self._done.get(what, -math.inf) < between:
            return False
        self._done[what] = now
        return True

    # Rounds

    def _train(self, attempt: Attempt, online: Mapping[int, Member]) -> None:
        plan, place = Plan.from_json(attempt.plan), self._state(attempt)
        improvement = self._improvement(attempt, plan)
        state = State.from_bytes(place.read_bytes()) if place.exists() else improvement.begin()
        failures = self._failures(attempt)
        if state.round >= plan.rounds:
            self._propose(attempt, improvement, state)
        elif len(failures) >= MAX_FAILED_ROUNDS:
            self._end(
                attempt, Stage.ABANDONED, f"{MAX_FAILED_ROUNDS} rounds in a row came to nothing"
            )
        elif not failures or time.time() - failures[0] >= ROUND_RETRY_SECONDS * 2 ** (
            len(failures) - 1
        ):
            self._round(attempt, plan, improvement, state, online)

    def _improvement(self, attempt: Attempt, plan: Plan) -> Improvement:
        if self._loaded is None or self._loaded[0] != attempt.number:
            running = self._registry.release(attempt.parent)
            public = Public.load(self._home.public)
            running.check_fits(public.rehearsal)
            improvement = Improvement(running.expert, public, plan.recipe, attempt.number)
            self._loaded = attempt.number, improvement
        return self._loaded[1]

    def _round(
        self,
        attempt: Attempt,
        plan: Plan,
        improvement: Improvement,
        state: State,
        online: Mapping[int, Member],
    ) -> None:
        devices = self._drawn(attempt, plan, online)
        task = improvement.task(state, max(len(devices), plan.survivors), plan.survivors)
        names = [device.name for device in devices.values()]
        number = self._attempts.begin_round(attempt.number, names, task.rho)
        began = time.monotonic()
        paid: tuple[str, ...] = ()
        try:
            if len(devices) < plan.survivors:
                raise SumError(
                    f"devices: {len(devices)} can be asked and {plan.survivors} are wanted; wait "
                    "for more"
                )
            summed = self._add_up(devices, task)
            paid = summed.asked
            state = improvement.advance(state, task, summed.total, len(summed.contributors))
        except InputError as error:
            paid = error.asked if isinstance(error, LateSumError) else paid
            self._attempts.end_round(number, time.monotonic() - began, paid)
            self._attempts.decide(attempt.number, "round abandoned", str(error))
            log.warning("round abandoned", attempt=attempt.number, reason=str(error))
            return
        with replacing(self._state(attempt), durable=True) as unfinished:
            unfinished.write_bytes(state.to_bytes())
        contributors = len(summed.contributors)
        _, within = task.mean(summed.total, contributors)
        seconds = time.monotonic() - began
        self._attempts.end_round(number, seconds, paid, contributors, within)
        log.info("round", attempt=attempt.number, round=state.round, devices=contributors)

    def _drawn(
        self, attempt: Attempt, plan: Plan, online: Mapping[int, Member]
    ) -> dict[int, Member]:
        """Some devices that may be asked once more, at random.

        Not those first who have paid least: that are, for ever, those who decline.
        """
        paid = self._attempts.participations(attempt.number)
        free = [
            node
            for node, device in online.items()
            if paid.get(device.name, 0) < plan.participations
        ]
        return {node: online[node] for node in _shuffled(free)[: plan.cohort]}

    def _failures(self, attempt: Attempt) -> list[float]:
        """When each of the latest rounds that came to nothing ended, the newest first."""
        ends = []
        for each in reversed(self._attempts.rounds(attempt.number)):
            if each.summed is not None:
                break
            ends.append(each.began + (each.seconds or 0))
        return ends

    def _propose(self, attempt: Attempt, improvement: Improvement, state: State) -> None:
        """Make a candidate of what the rounds have come to, and judge it by public characters."""
        expert, place = improvement.expert(state), self._home.candidate(attempt.number)
        if place.exists():  # of a coordinator that was killed, or of another run
            shutil.rmtree(place)
        delta = self._fleet.policy.delta
        privacy = {"epsilon": epsilon_of(self._attempts.rho, delta), "delta": delta}
        running = self._registry.release(attempt.parent)
        make_candidate(place, expert, running, improvement.public, privacy)
        made = Release.load(place)
        attempt = attempt._replace(candidate=made.manifest.name)
        outcome, reason = validate(made.expert, improvement.running, improvement.public)
        if outcome == Outcome.PASS:
            self._move(attempt._replace(stage=Stage.SHADOW), "candidate", reason)
        else:
            self._end(attempt, Stage.REJECTED, reason)

    def _state(self, attempt: Attempt) -> Path:
        return self._home.improvement / f"{attempt.number}.safetensors"

    # The candidate

    def _try(self, attempt: Attempt, online: Mapping[int, Member]) -> None:
        """Have canaries try the candidate, until it is clear what it is to them."""
        said = self._attempts.canaries(attempt.number) or self._canaries(attempt, online)
        open_ones = {node: one for node, one in online.items() if said.get(one.name) in UNSETTLED}
        if open_ones and self._is_time("remind", SHADOW_REMINDER_SECONDS):
            news = self._try_out(open_ones, self._home.candidate(attempt.number))
            self._attempts.note_canaries(attempt.number, news)
            said |= news
        candidate = str(attempt.candidate)
        sums = self._fleet.reports.shadow_sums(candidate)
        heard = 0 if sums is None else sums.count
        answers = list(said.values())
        have_all = heard >= answers.count(TOLD) and not UNSETTLED & set(answers)
        is_late = time.time() - attempt.since > SHADOW_WINDOWS * self._fleet.policy.window
        is_complete = is_late or (answers != [] and have_all)
        outcome, reason = judge(shadow_estimates(self._fleet, candidate), is_complete)
        if outcome == Outcome.PASS:
            self._move(attempt._replace(stage=Stage.ROLL_OUT), "promote", reason)
        elif outcome == Outcome.REJECT:
            self._end(attempt, Stage.REJECTED, reason)

    def _canaries(self, attempt: Attempt, online: Mapping[int, Member]) -> dict[str, str]:
        """Draw canaries, first of those that the candidate was not made of; none of too few."""
        plan, fewest = Plan.from_json(attempt.plan), self._fleet.policy.minimum_cohort
        if len(online) < fewest:
            return {}
        paid = self._attempts.participations(attempt.number)
        names = sorted(_shuffled(one.name for one in online.values()), key=paid.__contains__)
        drawn = names[: max(fewest, math.ceil(plan.canary * len(names)))]
        said = dict.fromkeys(drawn, WANTED)
        self._attempts.note_canaries(attempt.number, said)
        return said

    # The roll-out

    def _publish(self, attempt: Attempt, newest: Manifest) -> None:
        """Publish the candidate, unless a coordinator that was killed then has done so."""
        place = self._home.candidate(attempt.number)
        if newest.version == attempt.parent:
            newest = self._registry.publish(place)
        elif newest.files != Manifest.load(place / MANIFEST).files:
            self._give_way(attempt, newest)
            return
        before = window_estimates(self._fleet, len(newest.labels))
        guarded = [] if before is None else [e for e in before.estimates if e.name in GUARDED]
        baseline = json.dumps(guarded)
        attempt = attempt._replace(version=newest.version, window=self._now, baseline=baseline)
        share = self._attempts.roll_out(newest).share
        self._move(attempt, "publish", f"{newest.name} is for {share:.0%} of the devices")

    def _roll_out(self, attempt: Attempt, newest: Manifest) -> None:
        """Look at a window that is new, and let the release go further, or back."""
        found = window_estimates(self._fleet, len(newest.labels))
        is_for_all = self._attempts.roll_out(newest).share == 1
        new, old = self._compared(attempt, newest, found, is_for_all)
        if found is None or not (new and old):
            if self._now - attempt.window > STALLED_WINDOWS:
                self._go_back(
                    attempt, f"there was nothing to compare it by in {STALLED_WINDOWS} windows"
                )
            return
        attempt = attempt._replace(windows=attempt.windows + 1, window=found.window)
        step, reason = look(new, old, attempt.windows)
        if step == Step.ROLL_BACK:
            self._go_back(attempt, reason)
        elif step == Step.WAIT:
            self._move(attempt, "wait", reason)
        elif is_for_all:
            self._end(attempt, Stage.PROMOTED, reason)
        else:
            attempt = attempt._replace(step=attempt.step + 1, windows=0, window=self._now)
            self._move(attempt, "advance", reason)

    def _compared(
        self, attempt: Attempt, newest: Manifest, found: WindowEstimates | None, is_for_all: bool
    ) -> tuple[list[Estimate], list[Estimate]]:
        """The figures of the new release and of the old, or of the fleet before it was published.

        Where it is for all they are the whole fleet's: who holds it back is in both then. Empty
        where there are none.
        """
        if found is None or found.window <= attempt.window:
            return [], []
        baseline = [Estimate(*each) for each in json.loads(attempt.baseline)]
        if is_for_all:
            return found.estimates, baseline
        before = self._registry.release(attempt.parent).manifest
        by_release = found.by_release
        return by_release.get(newest.name, []), by_release.get(before.name, baseline)

    @property
    def _now(self) -> int:
        """The window that is not over yet, of which no report is only of what comes now."""
        return int(time.time() // self._fleet.policy.window)

    def _go_back(self, attempt: Attempt, reason: str) -> None:
        self._registry.rollback(attempt.parent)
        self._end(attempt, Stage.ROLLED_BACK, reason)


def _running(release: Manifest, online: Mapping[int, Member]) -> dict[int, Member]:
    return {node: device for node, device in online.items() if device.running == release.name}


def _shuffled(items: Iterable[T]) -> list[T]:
    items = list(items)
    return secrets.SystemRandom().sample(items, len(items))


def _look(found: WindowEstimates | None) -> Look | None:
    return None if found is None else Look(found.ended, found.cohort, found.estimates)
