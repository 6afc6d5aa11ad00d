"""A fleet in virtual time: people write, devices learn and report, a coordinator decides.

    for each day, which is a window of the statistics:
        some people arrive; some of those present are offline
        each online device is offered a version, and adopts it or not
        everybody writes; wrong guesses are corrected, and some of the right ones confirmed
        the devices that are due learn
        each online device reports, as far as its budget goes
        the coordinator decides; in an attempt to improve, devices do at once what they are asked

The parts are those of a real fleet, without the network and without the masks, which cancel in a
sum. Budgets are kept in memory: a ledger for each of thousands of devices would take most of the
time. Everything random, noise included, comes from the seed. A day is one step: what is learned on
it is in use on the next.
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
from fedhw.improvement.actions import Progress
from fedhw.improvement.attempt import Decision
from fedhw.improvement.improvement import Improvement, ImprovementState, Recipe
from fedhw.improvement.local_update import FEWEST
from fedhw.improvement.plan import Plan
from fedhw.improvement.public import Public
from fedhw.improvement.server_optimiser import FedMuon
from fedhw.improvement.trigger import Trigger
from fedhw.observation import Observations
from fedhw.privacy.budget import Budget, BudgetSpentError, Limits
from fedhw.privacy.estimate import Estimate, Sums
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.secure_sum import SumError
from fedhw.privacy.statistics import LATENCIES, STATISTICS, Evaluation, Report, Tally, make_report
from fedhw.release.release import Release
from fedhw.research.simulation.simulated_coordinator import (
    Coordinator,
    Devices,
    Policy,
    RoundTaken,
)
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

    They arrive in a Poisson process, the share `arriving` of all on an average day, until all are
    there. What a person has written is spread over their days by lognormal weights, whose
    logarithms have the standard deviation `unevenness`. The share `confirmed` of the characters
    recognised correctly is confirmed; all wrong ones are corrected. A device is offline on the
    share `offline` of the days: its person writes and it learns, but that day is never reported.
    """

    arriving: float = 0.2
    unevenness: float = 1.0
    confirmed: float = 0.5
    offline: float = 0.2


@dataclass(frozen=True)
class Scenario:
    """What to simulate: the `days`, the `epsilon` of a report, and the `seed` of all chance.

    A device may spend two reports' epsilon a day and twenty reports' in all, which is the default
    of real devices. Raises InputError for less than one day.
    """

    days: int
    epsilon: float
    seed: int
    policy: Policy
    people: People = field(default_factory=People)

    def __post_init__(self) -> None:
        if self.days < 1:
            raise InputError(f"days: {self.days} is no time; give 1 or more")

    @classmethod
    def quick(
        cls, days: int, epsilon: float, seed: int, *, devices: int, noise: float
    ) -> "Scenario":
        """Return a scenario for that many devices, with rounds of that noise multiplier.

        Attempts begin when half of the devices are online. They have fewer rounds than real ones,
        which would take most of the time.
        """
        cohort = min(60, max(6, devices // 2))
        plan = Plan(
            automatic=True,
            rounds=12,
            noise=noise,
            cohort=cohort,
            survivors=cohort // 3,
            participations=12,
            canary=0.5,
            trigger=Trigger(cohort=max(2, devices // 2)),
        )
        recipe = Recipe(writers=12, optimiser=FedMuon(0.01, 0.9))
        return cls(days, epsilon, seed, Policy(plan, recipe))

    @property
    def limits(self) -> Limits:
        """The privacy budget of a device."""
        return Limits(2 * self.epsilon, 20 * self.epsilon, DELTA)


class Figure(NamedTuple):
    """The mean of a figure over the devices that reported, and the estimate from their reports.

    The true mean is NaN where none of them was corrected.
    """

    truth: float
    estimate: Estimate | None


class Day(NamedTuple):
    """What happened on a day.

    `devices` counts devices by the version that they run. Accuracies are over all `characters` that
    were written, NaN where there were none; `figures` are over corrections, as reports are.
    `epsilon` is the median of what devices have spent so far, `worst` the maximum.
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
    """What happened in a fleet of that many `writers`: its days, versions and decisions."""

    scenario: Scenario
    release: Release
    writers: int
    days: list[Day]
    versions: list[Version]
    decisions: list[Decision]


@dataclass(eq=False)
class _Person:
    """A writer who has arrived: their device, its budget, and their rows of the data by day."""

    device: Device
    budget: Budget
    rows: dict[int, NDArray[np.int64]]

    def charged(self, charge: Callable[[Budget], Budget]) -> Budget | None:
        """Return the budget after a charge, None where it would pass a limit."""
        try:
            return charge(self.budget)
        except BudgetSpentError:
            return None


def draw_people(release: Release, data: WriterSet, writers: int | None, seed: int) -> list[int]:
    """Draw that many writers of the data that the release was not trained on; None draws all.

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
    scenario: Scenario,
    after: Callable[[Day], None] = lambda day: None,
) -> Chronicle:
    """Simulate a fleet of the data's `writers`, given by number, that begins with `release`.

    `after` is called with each day as it ends.
    """
    with TemporaryDirectory() as directory:
        coordinator = Coordinator(
            release, public, scenario.policy, DELTA, scenario.seed, Path(directory)
        )
        fleet = _Fleet(data, list(writers), scenario, coordinator)
        days = []
        for day in range(scenario.days):
            days.append(fleet.live_through(day))
            after(days[-1])
    return Chronicle(
        scenario, release, len(writers), days, coordinator.versions, coordinator.decisions
    )


class _Fleet(Devices):
    """The people of a fleet, and the coordinator that their devices talk to."""

    def __init__(
        self, data: WriterSet, writers: list[int], scenario: Scenario, coordinator: Coordinator
    ) -> None:
        self._data = data
        self._absent = writers
        self._scenario = scenario
        self._coordinator = coordinator
        self._random = np.random.default_rng(scenario.seed)
        self._mechanism = GaussianMechanism(scenario.epsilon, DELTA, self._random.bytes)
        self._people: list[_Person] = []
        self._day = 0
        self._online: dict[str, _Person] = {}
        self._rounds = 0

    def live_through(self, day: int) -> Day:
        """Simulate a day and return what happened."""
        self._day = day
        self._arrive(day)
        is_online = self._random.random(len(self._people)) >= self._scenario.people.offline
        online = [p for p, there in zip(self._people, is_online, strict=True) if there]
        self._online = {person.device.name: person for person in online}
        self._offer(online)
        written = self._write(day)
        tallies = {person.device: Tally.empty(len(self._data.classes)) for person in self._people}
        tallies |= {device: self._corrected(device, one) for device, one in written.items()}
        for cohort in cohorts(p.device for p in self._people if p.device.person.is_due):
            relearn(cohort)
        telling = [person for person in online if self._pays_for_report(person)]
        reports: defaultdict[str, list[Report]] = defaultdict(list)
        for device in (person.device for person in telling):
            report = self._reported(device, tallies[device], device.running)
            reports[report.release].append(report)
        sums = {release: Sums.of(*some) for release, some in reports.items()}
        before = self._rounds
        found = self._coordinator.end_day(day, sums, self)
        told = [tallies[p.device] for p in telling]
        estimates = () if found is None else found.estimates
        rounds = self._rounds - before
        return self._summed_up(day, len(online), written, told, estimates, rounds)

    @property
    def rho(self) -> float:
        return max((person.budget.rho for person in self._people), default=0.0)

    @property
    def running(self) -> dict[str, str]:
        return {name: person.device.running.name for name, person in self._online.items()}

    def _arrive(self, day: int) -> None:
        people, random = self._scenario.people, self._random
        everybody = len(self._absent) + len(self._people)
        coming = random.poisson(people.arriving * everybody)
        days = np.arange(day, self._scenario.days)
        for writer in self._absent[:coming]:
            rows = self._data.rows_of(writer)
            weights = random.lognormal(sigma=people.unevenness, size=len(days))
            counts = random.multinomial(len(rows), weights / weights.sum())
            parts = np.split(rows, np.cumsum(counts)[:-1])
            name = self._data.names[writer]
            version = self._coordinator.offered(name)
            device = Device.new(name, version, self._scenario.seed)
            by_day = dict(zip(days.tolist(), parts, strict=True))
            self._people.append(_Person(device, Budget(self._scenario.limits), by_day))
        del self._absent[:coming]
        self._coordinator.enrolled = len(self._people)

    def _offer(self, online: Sequence[_Person]) -> None:
        offers: dict[int, tuple[Version, list[Device]]] = {}
        for device in (person.device for person in online):
            version = self._coordinator.offered(device.name, device.running.name)
            if version is not device.running and version.name not in device.held_back:
                offers.setdefault(version.number, (version, []))[1].append(device)
        for version, devices in offers.values():
            for cohort in cohorts(devices):
                adopt(cohort, version)

    def _write(self, day: int) -> dict[Device, Written]:
        """Recognise what everybody writes on a day."""
        rows = {person.device: person.rows.pop(day) for person in self._people}
        written: dict[Device, Written] = {}
        for cohort in cohorts(device for device, own in rows.items() if len(own)):
            observations = [self._data.observations[rows[device]] for device in cohort]
            labels = [self._data.labels[rows[device]] for device in cohort]
            tested = recognise(cohort, observations, labels)
            written.update(zip(cohort, tested, strict=True))
        return written

    def _corrected(self, device: Device, tested: Written) -> Tally:
        """Keep what a person corrects and confirms, and count it."""
        is_confirmed = self._random.random(len(tested.labels)) < self._scenario.people.confirmed
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

    def _pays_for_report(self, person: _Person) -> bool:
        now = self._day * DAY_SECONDS
        charged = person.charged(lambda budget: budget.with_report(self._mechanism.sigma, now))
        if charged is None:
            return False
        person.budget = charged
        return True

    def evaluate(
        self, candidate: Version, names: Sequence[str]
    ) -> tuple[dict[str, Progress], Sums | None]:
        able = [name for name in names if self._pays_for_report(self._online[name])]
        reports = [
            self._reported(device, found, candidate)
            for cohort in cohorts(self._online[name].device for name in able)
            for device, found in zip(cohort, evaluate(cohort, candidate), strict=True)
        ]
        answers = dict.fromkeys(names, Progress.DECLINED) | dict.fromkeys(able, Progress.TOLD)
        return answers, Sums.of(*reports) if reports else None

    def _reported(self, device: Device, counts: Tally | Evaluation, about: Version) -> Report:
        return make_report(counts, device.name, self._day, about.name, self._mechanism)

    def take_round(
        self, improvement: Improvement, state: ImprovementState, names: Sequence[str], plan: Plan
    ) -> RoundTaken:
        people = [self._online[name] for name in names]
        task = improvement.task(state, len(names), plan.survivors)
        able = [person for person in people if len(person.device.person.replay.learnable) >= FEWEST]
        charged = {person: person.budget for person in able}
        if task.noise > 0:  # without noise a round protects nothing, so it costs nothing
            now = self._day * DAY_SECONDS
            asked = ((p, p.charged(lambda budget: budget.with_round(task.rho, now))) for p in able)
            charged = {person: budget for person, budget in asked if budget is not None}
            able = list(charged)
        if len(able) < plan.survivors:
            raise SumError(
                f"keys: {len(able)} of {len(names)} devices have sent theirs in time and "
                f"{plan.survivors} are needed; ask more of them, or later"
            )
        for person, budget in charged.items():
            person.budget = budget
        own = (_learned_from(person.device) for person in able)
        total = summed(improvement, state, task, own, self._random)
        self._rounds += 1
        state = improvement.advance(state, task, total, len(able))
        return RoundTaken(state, tuple(person.device.name for person in able))

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
    """Observations and labels that a device may learn from."""
    kept = device.person.replay.learnable
    return np.stack([each.observation for each in kept]), np.array([each.label for each in kept])


def _truth(name: str, told: Sequence[Tally]) -> float:
    """The true mean of a figure over the devices that were corrected, clipped as in reports."""
    [row] = [row for row in STATISTICS if row.name == name]
    active = [tally.figures()[name] for tally in told if tally.corrections]
    return float(np.clip(active, row.low, row.high).mean()) if active else math.nan
