"""What was tried to improve the expert in use: attempts, their rounds, canaries, and decisions.

All of it is in the fleet's database, and none of it is ever forgotten: what rounds have cost each
device adds up.
"""

import json
import sqlite3
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import NamedTuple

from fedhw.errors import InputError
from fedhw.improvement.rollout import draw, share_at
from fedhw.release.manifest import Manifest
from fedhw.system.clock import Clock
from fedhw.system.sqlite import Database
from fedhw_server.leader.plan import Plan
from fedhw_server.store.members import Member, Members
from fedhw_server.store.settings import FleetSettings


class Stage(StrEnum):
    """Where an attempt stands; it has ended with those below ROLL_OUT."""

    ROUNDS = "rounds"
    SHADOW = "shadow"
    ROLL_OUT = "roll-out"
    PROMOTED = "promoted"
    REJECTED = "rejected"
    ABANDONED = "abandoned"
    STOPPED = "stopped"
    ROLLED_BACK = "rolled back"


IN_FLIGHT = (Stage.ROUNDS, Stage.SHADOW, Stage.ROLL_OUT)
"""Of which one attempt may be at a time."""

ENDS = tuple(stage for stage in Stage if stage not in IN_FLIGHT)

DRAWN = 2
"""Times the minimum cohort that a roll-out reaches at least, since not everybody reports."""

PLAN = "plan"
"""The setting that has the plan for the next attempt."""


class Attempt(NamedTuple):
    """One attempt to improve the version `parent`, in its `stage` `since` that Unix second.

    `candidate` is the name of what it has made and `version` what that was published as. Of its
    roll-out `step` is under way, judged by so many `windows`, of which `window` was the last, and
    `baseline` is what the fleet's figures were before it, as JSON.
    """

    number: int
    parent: int
    plan: str
    stage: str
    since: float
    stopping: int
    candidate: str | None
    version: int | None
    step: int
    windows: int
    window: int
    baseline: str

    @property
    def is_in_flight(self) -> bool:
        """Whether it has not ended."""
        return self.stage in IN_FLIGHT


class TrainingRound(NamedTuple):
    """One secure sum of updates, that of `summed` devices; None where it was abandoned.

    `within` is the share of them whose update was within the radius, noised; `seconds` is None
    while it runs and where it was cut off.
    """

    number: int
    attempt: int
    began: float
    seconds: float | None
    rho: float
    summed: int | None
    within: float | None


class Decision(NamedTuple):
    """What was decided about an attempt at that Unix second, or that there is none, and why."""

    attempt: int | None
    moment: float
    decision: str
    reason: str


class RollOut(NamedTuple):
    """The newest release is for a `share` of the devices, the version `before` for the others."""

    newest: Manifest
    before: int
    share: float

    def version_for(self, device: Member) -> int:
        """Return the version that a device should run; nobody is taken one that it has."""
        has_it = device.running == self.newest.name
        is_for = has_it or draw(device.name, self.newest.name) < self.share
        return self.newest.version if is_for else self.before


class Attempts:
    """The attempts of one fleet."""

    def __init__(
        self, db: Database, settings: FleetSettings, members: Members, clock: Clock
    ) -> None:
        self._db = db
        self._settings = settings
        self._members = members
        self._clock = clock

    @property
    def plan(self) -> Plan:
        """What the next attempt will be like."""
        content = self._settings.find(PLAN)
        return Plan() if content is None else Plan.from_json(content)

    def agree(self, plan: Plan) -> None:
        """Plan the next attempts so; one in flight goes on as it began."""
        self._settings.keep(PLAN, plan.to_json())

    def begin(self, parent: int, reason: str) -> None:
        """Begin an attempt by the plan; raises InputError while another one is in flight."""
        with self._db.transaction() as db:
            other = self.current
            if other is not None:
                raise InputError(
                    f"improve: attempt {other.number} is in flight ({other.stage}); wait for its "
                    "end, or end it with --stop"
                )
            begun = db.execute(
                "INSERT INTO attempts (parent, plan, stage, since) VALUES (?, ?, ?, ?)",
                (parent, self.plan.to_json(), Stage.ROUNDS, self._clock.wall()),
            )
            self._decide(db, begun.lastrowid, "begin", reason)

    def stop(self) -> None:
        """Ask for the end of the attempt in flight; raises InputError where there is none."""
        with self._db.transaction() as db:
            if self.current is None:
                raise InputError("stop: no attempt to improve is in flight; there is none to stop")
            db.execute(f"UPDATE attempts SET stopping = 1 WHERE {_IN_FLIGHT}")

    def roll_out(self, newest: Manifest) -> RollOut:
        """Return how far the newest release goes now: to all, but where an attempt rolls it out.

        To all as well where too few would be left for their figures to be shown.
        """
        attempt = self.current
        if attempt is None or attempt.stage != Stage.ROLL_OUT:
            return RollOut(newest, newest.version, 1.0)
        fewest = DRAWN * self._settings.policy.minimum_cohort
        devices = len(self._members.by_node())
        share = share_at(attempt.step, devices, fewest)
        has_others = (1 - share) * devices >= fewest
        return RollOut(newest, attempt.parent, share if has_others else 1.0)

    @property
    def current(self) -> Attempt | None:
        """The attempt in flight."""
        for row in self._db.read(f"{_SELECT} WHERE {_IN_FLIGHT}"):
            return Attempt(*row)
        return None

    def all(self) -> list[Attempt]:
        """Return every attempt, the oldest first."""
        return [Attempt(*row) for row in self._db.read(f"{_SELECT} ORDER BY number")]

    def move(self, attempt: Attempt, decision: str, reason: str) -> None:
        """Put this in the place of what is known of an attempt, and say why."""
        changes = attempt._asdict()
        del changes["stopping"]  # the operator may have asked meanwhile
        number = changes.pop("number")
        places = ", ".join(f"{name} = ?" for name in changes)
        with self._db.transaction() as db:
            db.execute(
                f"UPDATE attempts SET {places} WHERE number = ?", (*changes.values(), number)
            )
            self._decide(db, number, decision, reason)

    def decide(self, attempt: int, decision: str, reason: str) -> None:
        """Keep a decision that leaves an attempt where it is."""
        with self._db.transaction() as db:
            self._decide(db, attempt, decision, reason)

    def wait(self, reason: str) -> None:
        """Keep that no attempt was begun; of many such in a row the last."""
        with self._db.transaction() as db:
            db.execute(
                "DELETE FROM decisions WHERE number = (SELECT max(number) FROM decisions) "
                "AND attempt IS NULL"
            )
            self._decide(db, None, "wait", reason)

    def decisions(self, most: int | None = None) -> list[Decision]:
        """Return every decision or so many of the last, the oldest first."""
        found = self._db.read(
            "SELECT attempt, moment, decision, reason FROM decisions ORDER BY number DESC LIMIT ?",
            (-1 if most is None else most,),
        )
        return [Decision(*row) for row in reversed(found)]

    # Rounds

    def begin_round(self, attempt: int, devices: Collection[str], rho: float) -> int:
        """Charge a round to all that are asked, and return its number."""
        with self._db.transaction() as db:
            begun = db.execute(
                "INSERT INTO training_rounds (attempt, began, rho, devices) VALUES (?, ?, ?, ?)",
                (attempt, self._clock.wall(), rho, json.dumps(sorted(devices))),
            )
            return int(begun.lastrowid or 0)

    def end_round(
        self,
        number: int,
        seconds: float,
        devices: Collection[str] = (),
        summed: int | None = None,
        within: float | None = None,
    ) -> None:
        """Note how a round went; only these devices have paid for it."""
        with self._db.transaction() as db:
            db.execute(
                "UPDATE training_rounds SET seconds = ?, devices = ?, summed = ?, within = ? "
                "WHERE number = ?",
                (seconds, json.dumps(sorted(devices)), summed, within, number),
            )

    def rounds(self, attempt: int) -> list[TrainingRound]:
        """Return the rounds of an attempt, the oldest first."""
        found = self._db.read(
            f"SELECT {', '.join(TrainingRound._fields)} FROM training_rounds "
            "WHERE attempt = ? ORDER BY number",
            (attempt,),
        )
        return [TrainingRound(*row) for row in found]

    @property
    def outcomes(self) -> tuple[int, int]:
        """How many rounds of all attempts have come to a sum, and to nothing."""
        [(done, ended)] = self._db.read("SELECT count(summed), count(seconds) FROM training_rounds")
        return done, ended - done

    @property
    def last_round(self) -> TrainingRound | None:
        """The newest round that has come to a sum."""
        for row in self._db.read(
            f"SELECT {', '.join(TrainingRound._fields)} FROM training_rounds "
            "WHERE summed IS NOT NULL ORDER BY number DESC LIMIT 1"
        ):
            return TrainingRound(*row)
        return None

    def participations(self, attempt: int) -> dict[str, int]:
        """Return how many rounds of an attempt were charged to each device."""
        return dict(
            self._db.read(
                "SELECT value, count(*) FROM training_rounds, json_each(devices) "
                "WHERE attempt = ? GROUP BY value",
                (attempt,),
            )
        )

    @property
    def rho(self) -> float:
        """What all rounds there ever were have cost the device that was in most, in zCDP."""
        [(most,)] = self._db.read(
            "SELECT max(paid) FROM (SELECT sum(rho) AS paid "
            "FROM training_rounds, json_each(devices) GROUP BY value)"
        )
        return float(most or 0)

    # Canaries

    def canaries(self, attempt: int) -> dict[str, str]:
        """Return what each canary has said last of the candidate, by name."""
        return dict(
            self._db.read("SELECT device, state FROM canaries WHERE attempt = ?", (attempt,))
        )

    def is_canary(self, device: str, candidate: str) -> bool:
        """Whether a device is to report of this candidate now."""
        found = self._db.read(
            "SELECT 1 FROM attempts JOIN canaries ON attempt = number "
            "WHERE stage = ? AND candidate = ? AND device = ?",
            (Stage.SHADOW, candidate, device),
        )
        return found != []

    def note_canaries(self, attempt: int, states: Mapping[str, str]) -> None:
        """Keep what canaries have said; they are canaries from then on."""
        with self._db.transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO canaries VALUES (?, ?, ?)",
                [(attempt, device, state) for device, state in states.items()],
            )

    def _decide(
        self, db: sqlite3.Connection, attempt: int | None, decision: str, reason: str
    ) -> None:
        db.execute(
            "INSERT INTO decisions (attempt, moment, decision, reason) VALUES (?, ?, ?, ?)",
            (attempt, self._clock.wall(), decision, reason),
        )


_SELECT = f"SELECT {', '.join(Attempt._fields)} FROM attempts"
_IN_FLIGHT = f"stage IN ({', '.join(repr(stage.value) for stage in IN_FLIGHT)})"
