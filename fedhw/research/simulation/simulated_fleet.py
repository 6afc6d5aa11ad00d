"""A fleet in virtual time: people write, devices learn and report, a coordinator decides.

    for each day, which is a window of the statistics:
        some arrive; of all who are there some are offline
        who is online is offered the version that it should run, and adopts it or not
        everybody writes; who got it wrong is corrected, and some of what was right is confirmed
        what is due is learned
        who is online reports, and judges a candidate if there is one, as far as its budget goes
        the coordinator decides; in an improvement its rounds are taken at once

The parts are those of a real fleet; left out are the network and the masks, which cancel in a sum.
Budgets are in memory, for a ledger of each of thousands of devices would take most of the time, and
everything random, noise too, comes from the seed. A day is one step: what is learned on it is in
use on the next.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.improvement.improvement import Improvement, State
from fedhw.improvement.local_update import FEWEST
from fedhw.improvement.public import Public
from fedhw.observation import Observations
from fedhw.privacy.budget import Budget, BudgetSpentError, Limits
from fedhw.privacy.discrete_gaussian import epsilon_of
from fedhw.privacy.estimate import Estimate, Sums
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.secure_sum import DROPPED
from fedhw.privacy.statistics import LATENCIES, STATISTICS, Evaluation, Report, Tally, make_report
from fedhw.release.release import Release
from fedhw.research.simulation.simulated_coordinator import Coordinator, Decision, Policy
from fedhw.research.simulation.simulated_devices import (
    Device,
    Version,
    Written,
    adopt,
    cohorts,
    evaluate,
    recognise,
    relearn,
)
from fedhw.research.simulation.simulated_rounds import summed
from fedhw.system.clock import DAY_SECONDS

DELTA = 1e-6

FOLLOWED = ("gain", "gate_open")
"""The figures whose estimates are compared with the truth."""


@dataclass(frozen=True)
class People:
    """How people behave.

    They come one by one, the share `arriving` of all on an average day (a Poisson process), until
    all are there. What a person has written is spread over their days by lognormal weights, whose
    logarithms have the standard deviation `unevenness`. Of the characters that were recognised a
    share is `confirmed`; all others are corrected. A device is `offline` on so many days: it goes
    on writing and learning, and what happened on such a day is never reported.
    """

    arriving: float = 0.2
    unevenness: float = 1.0
    confirmed: float = 0.5
    offline: float = 0.2


@dataclass(frozen=True)
class Plan:
    """What to simulate: `days`, reports of so much `epsilon`, rounds of `participants` at most.

    Raises InputError for no day. A device's limits are to the cost of a report as by default they
    are in a real one: two a day, and twenty times the cost of one in all.
    """

    days: int
    epsilon: float
    seed: int
    policy: Policy
    participants: int = 40
    people: People = field(default_factory=People)

    def __post_init__(self) -> None:
        if self.days < 1:
            raise InputError(f"days: {self.days} is no time; give 1 or more")

    @property
    def limits(self) -> Limits:
        """What a device may tell."""
        return Limits(2 * self.epsilon, 20 * self.epsilon, DELTA)


class Figure(NamedTuple):
    """The mean of a figure over the devices that reported: in truth, and as it was estimated.

    The truth is NaN where none of them was corrected.
    """

    truth: float
    estimate: Estimate | None


class Day(NamedTuple):
    """How a day went.

    `devices` by the version that they run; accuracies are over all `characters` that were written,
    NaN where there were none, while `figures` are over corrections, as reports are; `epsilon` is
    what the device in the middle has told so far, `worst` that of the one that has told most.
    """

    day: int
    devices: dict[str, int]
    online: int
    reports: int
    characters: int
    ge_accuracy: float
    accuracy: float
    figures: dict[str, Figure]
    epsilon: float
    worst: float
    rounds: int


@dataclass(frozen=True)
class Chronicle:
    """What happened in a fleet of so many `writers`: day by day, and what was decided."""

    plan: Plan
    release: Release
    writers: int
    days: list[Day]
    versions: list[Version]
    decisions: list[Decision]


@dataclass(eq=False)
class _Person:
    """A writer who is there: their device, its budget, and their rows of the data, day by day."""

    device: Device
    budget: Budget
    rows: dict[int, NDArray[np.int64]]

    def pays_for_report(self, sigma: float, day: int) -> bool:
        """Pay for a report of a day, unless a limit would be passed."""
        return self._pays(lambda: self.budget.with_report(sigma, day * DAY_SECONDS))

    def pays_for_round(self, rho: float, day: int) -> bool:
        """Pay for a round on a day, unless a limit would be passed."""
        return self._pays(lambda: self.budget.with_round(rho, day * DAY_SECONDS))

    def _pays(self, charged: Callable[[], Budget]) -> bool:
        try:
            self.budget = charged()
        except BudgetSpentError:
            return False
        return True


def draw_people(release: Release, data: WriterSet, writers: int | None, seed: int) -> list[int]:
    """Draw `writers` of the data that the release was not trained on, None all.

    Raises InputError where there are fewer.
    """
    release.check_fits(data)
    unseen = [
        int(w) for w in np.flatnonzero(data.counts() > 0) if data.names[w] not in release.trained_on
    ]
    wanted = len(unseen) if writers is None else writers
    if not 0 < wanted <= len(unseen):
        raise InputError(
            f"writers: {wanted} cannot be drawn from the {len(unseen)} that the release was not "
            "trained on; ask for fewer or give other data"
        )
    return [int(w) for w in np.random.default_rng(seed).permutation(unseen)[:wanted]]


def simulate_fleet(
    release: Release,
    public: Public,
    data: WriterSet,
    writers: Sequence[int],
    plan: Plan,
    after: Callable[[Day], None] = lambda day: None,
) -> Chronicle:
    """Let the writers of these numbers be a fleet that begins with `release`.

    `after` is told of each day as it ends.
    """
    with TemporaryDirectory() as directory:
        coordinator = Coordinator(
            release, public, plan.policy, plan.seed, len(writers), Path(directory)
        )
        fleet = _Fleet(data, list(writers), plan, coordinator)
        days = []
        for day in range(plan.days):
            days.append(fleet.live_through(day))
            after(days[-1])
    return Chronicle(plan, release, len(writers), days, coordinator.versions, coordinator.decisions)


class _Fleet:
    """The people of a fleet, and the coordinator that their devices talk to."""

    def __init__(
        self, data: WriterSet, writers: list[int], plan: Plan, coordinator: Coordinator
    ) -> None:
        self._data = data
        self._absent = writers
        self._plan = plan
        self._coordinator = coordinator
        self._random = np.random.default_rng(plan.seed)
        self._mechanism = GaussianMechanism(plan.epsilon, DELTA, self._random.bytes)
        self._people: list[_Person] = []
        self._rounds = 0

    def live_through(self, day: int) -> Day:
        """Live a day and tell how it went."""
        self._arrive(day)
        is_online = self._random.random(len(self._people)) >= self._plan.people.offline
        online = [p for p, there in zip(self._people, is_online, strict=True) if there]
        self._offer(online)
        written = self._write(day)
        tallies = self._correct(written)
        for cohort in cohorts(p.device for p in self._people if p.device.person.is_due):
            relearn(cohort)
        telling = [p for p in online if p.pays_for_report(self._mechanism.sigma, day)]
        reports = self._report(day, telling, tallies)
        self._judge(day, online)
        before = self._rounds
        estimates = self._coordinator.decide(
            day,
            len(online),
            reports,
            self._epsilon_after_one_more(),
            lambda improvement, state: self._take_round(improvement, state, day, online),
        )
        told = [tallies[p.device] for p in telling]
        rounds = self._rounds - before
        return self._summed_up(day, len(online), written, told, estimates or (), rounds)

    def _arrive(self, day: int) -> None:
        people, random = self._plan.people, self._random
        everybody = len(self._absent) + len(self._people)
        coming = random.poisson(people.arriving * everybody)
        days = np.arange(day, self._plan.days)
        for writer in self._absent[:coming]:
            rows = self._data.rows_of(writer)
            weights = random.lognormal(sigma=people.unevenness, size=len(days))
            counts = random.multinomial(len(rows), weights / weights.sum())
            parts = np.split(rows, np.cumsum(counts)[:-1])
            name = self._data.names[writer]
            version = self._coordinator.offered(name)
            device = Device.new(name, version, self._plan.seed)
            by_day = dict(zip(days.tolist(), parts, strict=True))
            self._people.append(_Person(device, Budget(self._plan.limits), by_day))
        del self._absent[:coming]

    def _offer(self, online: Sequence[_Person]) -> None:
        offers: dict[int, tuple[Version, list[Device]]] = {}
        for device in (person.device for person in online):
            version = self._coordinator.offered(device.name)
            if version is not device.running and version.name not in device.held_back:
                offers.setdefault(version.number, (version, []))[1].append(device)
        for version, devices in offers.values():
            for cohort in cohorts(devices):
                adopt(cohort, version)

    def _write(self, day: int) -> dict[Device, Written]:
        """Have everybody's characters of a day recognised."""
        rows = {person.device: person.rows.pop(day) for person in self._people}
        written: dict[Device, Written] = {}
        for cohort in cohorts(device for device, own in rows.items() if len(own)):
            observations = [self._data.observations[rows[device]] for device in cohort]
            labels = [self._data.labels[rows[device]] for device in cohort]
            tested = recognise(cohort, observations, labels)
            written.update(zip(cohort, tested, strict=True))
        return written

    def _correct(self, written: Mapping[Device, Written]) -> dict[Device, Tally]:
        """Have everybody correct or confirm; what they do is kept, and counted."""
        nothing = Tally.empty(len(self._data.classes))
        tallies = {person.device: nothing for person in self._people}
        tallies |= {device: self._corrected(device, one) for device, one in written.items()}
        return tallies

    def _corrected(self, device: Device, tested: Written) -> Tally:
        is_confirmed = self._random.random(len(tested.labels)) < self._plan.people.confirmed
        chosen = ~tested.right | is_confirmed
        for row in np.flatnonzero(chosen):
            counted = device.person.count(bool(tested.ge_right[row]), bool(tested.right[row]))
            device.person = counted.keep(
                tested.observations[row], tested.features[row], int(tested.labels[row])
            )
        errors = np.bincount(tested.labels[~tested.right], minlength=len(self._data.classes))
        return Tally(
            corrections=int(chosen.sum()),
            ge_right=int(tested.ge_right[chosen].sum()),
            le_right=int(tested.le_right[chosen].sum()),
            right=int(tested.right[chosen].sum()),
            opened=int(tested.opened[chosen].sum()),
            recognitions=len(tested.labels),
            errors=tuple(errors.tolist()),
            latencies=(0,) * (len(LATENCIES) + 1),  # nobody waits in virtual time
        )

    def _report(
        self, day: int, telling: Sequence[_Person], tallies: Mapping[Device, Tally]
    ) -> dict[str, Sums]:
        """Return the sums of the reports of a day, by release."""
        reports: defaultdict[str, list[Report]] = defaultdict(list)
        for device in (person.device for person in telling):
            report = self._reported(day, device, tallies[device], device.running)
            reports[report.release].append(report)
        return {release: Sums.of(*some) for release, some in reports.items()}

    def _judge(self, day: int, online: Sequence[_Person]) -> None:
        """Have the canary devices judge a candidate."""
        asked = {
            person.device: candidate
            for person in online
            if (candidate := self._coordinator.asked(person.device.name)) is not None
            and person.pays_for_report(self._mechanism.sigma, day)
        }
        for cohort in cohorts(asked):
            candidate = asked[cohort[0]]
            for device, found in zip(cohort, evaluate(cohort, candidate), strict=True):
                report = self._reported(day, device, found, candidate)
                self._coordinator.note(device.name, Sums.of(report))

    def _reported(
        self, day: int, device: Device, counts: Tally | Evaluation, about: Version
    ) -> Report:
        return make_report(counts, device.name, day, about.name, self._mechanism)

    def _take_round(
        self, improvement: Improvement, state: State, day: int, online: Sequence[_Person]
    ) -> State | None:
        """Take one round with some devices that are online; None where they are too few.

        Without noise a round protects nothing, so nothing is charged for it.
        """
        able = [person for person in online if len(person.device.person.replay) >= FEWEST]
        some = self._random.permutation(len(able))[: self._plan.participants]
        if len(some) < self._plan.policy.minimum_cohort:
            return None
        task = improvement.task(state, len(some), math.ceil((1 - DROPPED) * len(some)))
        asked = [able[i] for i in some]
        if task.noise > 0:
            asked = [person for person in asked if person.pays_for_round(task.rho, day)]
        taking = [person.device for person in asked]
        if len(taking) < task.survivors:
            return None
        own = (_learned_from(device) for device in taking)
        total = summed(improvement, state, task, own, self._random)
        self._rounds += 1
        return improvement.advance(state, task, total, len(taking))

    def _epsilon_after_one_more(self) -> float:
        """What the improvements have cost who paid most, with one more in which they are asked."""
        recipe = self._plan.policy.recipe
        most = max((person.budget.rho for person in self._people), default=0.0)
        one_more = recipe.rounds / (2 * recipe.noise**2) if recipe.noise > 0 else 0.0
        return epsilon_of(most + one_more, DELTA)

    def _summed_up(
        self,
        day: int,
        online: int,
        written: Mapping[Device, Written],
        told: Sequence[Tally],
        estimates: Sequence[Estimate],
        rounds: int,
    ) -> Day:
        devices = Counter(person.device.running.name for person in self._people)
        ge_right, right = (
            np.concatenate([getattr(tested, name) for tested in written.values()] or [[]])
            for name in ("ge_right", "right")
        )
        spent = [p.budget.spent(day * DAY_SECONDS).in_all for p in self._people] or [0.0]
        by_name = {each.name: each for each in estimates if each.entry is None}
        return Day(
            day=day,
            devices=dict(sorted(devices.items())),
            online=online,
            reports=len(told),
            characters=len(right),
            ge_accuracy=float(np.mean(ge_right)) if len(right) else math.nan,
            accuracy=float(np.mean(right)) if len(right) else math.nan,
            figures={name: Figure(_truth(name, told), by_name.get(name)) for name in FOLLOWED},
            epsilon=float(np.median(spent)),
            worst=max(spent),
            rounds=rounds,
        )


def _learned_from(device: Device) -> tuple[Observations, NDArray[np.int64]]:
    """Glyphs and classes that a device may learn from."""
    kept = device.person.replay.learnable
    return np.stack([each.observation for each in kept]), np.array([each.label for each in kept])


def _truth(name: str, told: Sequence[Tally]) -> float:
    """The mean of a figure over the devices that have it, clipped as it is in reports."""
    [row] = [row for row in STATISTICS if row.name == name]
    active = [tally.figures()[name] for tally in told if tally.corrections]
    return float(np.clip(active, row.low, row.high).mean()) if active else math.nan
