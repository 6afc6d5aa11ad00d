"""The operator's settings for improvements of the global expert."""

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
    """The settings of every attempt to improve; if `automatic`, the trigger begins attempts.

    An attempt has this many `rounds`. The sum of a round has `noise`, as a multiple of the longest
    update; only a simulation may use 0. A round asks at most `cohort` devices and stops with fewer
    than `survivors`; a device takes part in at most `participations` rounds. The share `canary` of
    the online devices takes part in the shadow evaluation. Raises InputError for a value that is
    out of range.
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
            # With less noise there is no bound on what a sum reveals.
            least = LEAST_SIGMA * GRID * math.sqrt(self.survivors)
            good["noise"] = self.noise == 0 or least <= self.noise < 1000
        for name, is_good in good.items():
            if not is_good:
                raise InputError(f"{name}: {getattr(self, name):g} is out of range; see --help")

    def round_rho(self, parameters: int) -> float:
        """Return the cost of a round for a device, in zCDP.

        It is 0 without noise, in a simulation: such a sum protects nobody.
        """
        if self.noise == 0:
            return 0.0
        return Task(bytes(4 * parameters), 0.1, 1.0, self.noise, self.cohort, self.survivors).rho

    def rho(self, parameters: int) -> float:
        """Return the highest cost of an attempt for a device, in zCDP."""
        return self.round_rho(parameters) * min(self.participations, self.rounds)

    def check_noise(self) -> None:
        """Raise InputError where sums would have no noise and so protect nobody."""
        if self.noise == 0:
            raise InputError("noise: 0 protects nobody; give more, see --help")

    def check_fleet(self, devices: int) -> None:
        """Raise InputError where this many devices are too few for all rounds."""
        each = min(self.participations, self.rounds)
        if devices * each < self.rounds * self.survivors:
            raise InputError(
                f"rounds: {self.rounds} of {self.survivors} devices are "
                f"{self.rounds * self.survivors} participations and {devices} enrolled devices "
                f"have {devices * each}; enrol more, or change `fedhw server improvement`"
            )

    def consider(self, outlook: Outlook) -> Verdict:
        """Return PASS where an attempt should begin now, else WAIT."""
        if not outlook.has_public:
            reason = "there are no public observations to rehearse and to judge by"
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
