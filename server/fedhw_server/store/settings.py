"""The operator's settings: the report policy, and how the coordinator runs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedhw.errors import InputError
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.system.sqlite import Database

CLOCK_SKEW_SECONDS = 60.0
"""Most seconds by which a device's clock may be ahead."""

LATE_WINDOWS, LATE_SECONDS = 7, 3600.0
"""How late a report may be: so many windows, or so many seconds if that is longer."""


@dataclass(frozen=True)
class ReportPolicy:
    """The policy of all reports of a fleet, fixed once a device was invited under it.

    A report covers `window` seconds and costs (`epsilon`, `delta`); statistics of fewer than
    `minimum_cohort` devices are not shown. Raises InputError for a value that is out of range.
    """

    window: int = 86_400
    epsilon: float = 2.0
    delta: float = 1e-6
    minimum_cohort: int = 10

    def __post_init__(self) -> None:
        GaussianMechanism(self.epsilon, self.delta)
        for name, least in (("window", 1), ("minimum_cohort", 2)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"{name.replace('_', '-')}: {value} is below {least}; give more")

    def is_over(self, window: int, now: float) -> bool:
        """Whether a window is over by a clock that is up to `CLOCK_SKEW_SECONDS` ahead."""
        return (window + 1) * self.window <= now + CLOCK_SKEW_SECONDS

    def is_open(self, window: int, now: float) -> bool:
        """Whether a report about this window is accepted now."""
        late = max(LATE_WINDOWS * self.window, LATE_SECONDS)
        return self.is_over(window, now) and (window + 1) * self.window >= now - late


class FleetSettings:
    """The settings of one fleet."""

    def __init__(self, db: Database, path: Path) -> None:
        self._db = db
        self._path = path

    def agree(self, **given: Any) -> ReportPolicy:
        """Return the policy, changed to the given values if no device was invited yet.

        Raises InputError for a value that differs from the one that devices have agreed to, or that
        is out of range.
        """
        wanted = {name: value for name, value in given.items() if value is not None}
        with self._db.transaction() as db:
            known = ReportPolicy() if self.find("window") is None else self.policy
            policy = replace(known, **wanted)
            if policy != known and self._db.read("SELECT 1 FROM devices LIMIT 1"):
                name = next(name for name in wanted if wanted[name] != getattr(known, name))
                raise InputError(
                    f"{name.replace('_', '-')}: {wanted[name]:g} is not the "
                    f"{getattr(known, name):g} that devices have agreed to; leave it out"
                )
            for name, value in vars(policy).items():
                db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, repr(value)))
        return policy

    @property
    def policy(self) -> ReportPolicy:
        """The policy of all reports."""
        return ReportPolicy(
            window=int(self.get("window")),
            epsilon=float(self.get("epsilon")),
            delta=float(self.get("delta")),
            minimum_cohort=int(self.get("minimum_cohort")),
        )

    def get(self, name: str) -> str:
        """Return a setting; raises InputError before the first start of a coordinator."""
        found = self.find(name)
        if found is None:
            raise InputError(
                f"home: no coordinator was ever ready in {self._path.parent}; run `fedhw server` "
                "first"
            )
        return found

    def find(self, name: str) -> str | None:
        """Return a setting, None where it was never stored."""
        for (value,) in self._db.read("SELECT value FROM settings WHERE name = ?", (name,)):
            return str(value)
        return None

    def keep(self, name: str, value: str) -> None:
        """Store a setting."""
        with self._db.transaction() as db:
            db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    @property
    def is_paused(self) -> bool:
        """Whether the operator has paused the offering of releases."""
        return self.find("paused") == "yes"

    def pause(self, paused: bool) -> None:
        """Pause the offering of releases, or resume it."""
        self.keep("paused", "yes" if paused else "no")
