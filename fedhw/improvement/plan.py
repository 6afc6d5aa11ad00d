"""How a fleet's operator wants the global expert to be improved."""

import json
import math
from dataclasses import asdict, dataclass, field

from fedhw.errors import InputError
from fedhw.improvement.contribution import Task
from fedhw.improvement.trigger import Outlook, Trigger
from fedhw.improvement.verdicts import Outcome, Verdict
from fedhw.privacy.discrete_gaussian import LEAST_SIGMA
from fedhw.privacy.mechanism import GRID


@dataclass(frozen=True)
class Plan:
    """What every attempt to improve is like; an `automatic` one begins when the trigger says so.

    An attempt has so many `rounds`, whose sums have `noise` in lengths of an update; only a
    simulation goes without. A round asks at most `cohort` devices and halts with fewer than
    `survivors`; a device is asked for at most `participations` of them. The share `canary` of the
    devices that are online takes part in the shadow evaluation. Raises InputError for a value that
    is out of range.
    """

    automatic: bool = False
    rounds: int = 100
    noise: float = 4.0
    cohort: int = 100
    survivors: int = 60
    participations: int = 10
    canary: float = 0.2
    trigger: Trigger = field(default_factory=Trigger)

    def __post_init__(self) -> None:
        good = {
            "rounds": 1 <= self.rounds <= 10_000,
            "cohort": 2 <= self.cohort <= 1_000_000,
            "survivors": 2 <= self.survivors <= self.cohort,
            "participations": self.participations >= 1,
            "canary": 0 < self.canary <= 1,
        }
        if all(good.values()):
            # With less there is no saying what a sum tells.
            least = LEAST_SIGMA * GRID * math.sqrt(self.survivors)
            good["noise"] = self.noise == 0 or least <= self.noise < 1000
        for name, is_good in good.items():
            if not is_good:
                raise InputError(f"{name}: {getattr(self, name):g} is out of range; see --help")

    def round_rho(self, parameters: int) -> float:
        """Return what a round costs a device, in zCDP; nothing where there is no noise to pay for.

        That is in a simulation: a sum without noise protects nobody.
        """
        if self.noise == 0:
            return 0.0
        return Task(bytes(4 * parameters), 0.1, 1.0, self.noise, self.cohort, self.survivors).rho

    def rho(self, parameters: int) -> float:
        """Return what an attempt costs a device that is in as many rounds as it may, in zCDP."""
        return self.round_rho(parameters) * min(self.participations, self.rounds)

    def check_noise(self) -> None:
        """Raise InputError where sums would have no noise: people's corrections are at stake."""
        if self.noise == 0:
            raise InputError("noise: 0 protects nobody; give more, see --help")

    def check_fleet(self, devices: int) -> None:
        """Raise InputError where so many devices are too few for all the rounds."""
        each = min(self.participations, self.rounds)
        if devices * each < self.rounds * self.survivors:
            raise InputError(
                f"rounds: {self.rounds} of {self.survivors} devices are "
                f"{self.rounds * self.survivors} participations and {devices} enrolled devices "
                f"have {devices * each}; enrol more, or change `fedhw server improvement`"
            )

    def consider(self, outlook: Outlook) -> Verdict:
        """Pass where an attempt should begin now, or wait."""
        if not outlook.has_public:
            reason = "there are no public characters to rehearse and to judge by"
            return Verdict(Outcome.WAIT, reason)
        try:
            self.check_fleet(outlook.enrolled)
        except InputError as error:
            return Verdict(Outcome.WAIT, str(error))
        return self.trigger.decide(outlook)

    def to_json(self) -> str:
        """Return the plan as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, content: str) -> "Plan":
        """Read what `to_json` wrote."""
        found = json.loads(content)
        return cls(**found | {"trigger": Trigger(**found["trigger"])})
