"""Stored attempts to improve the expert: their rounds, shadow evaluations and decisions.

None of it is ever deleted, since the privacy cost of all rounds adds up.
"""

import json
import sqlite3
from collections import defaultdict
from dataclasses import fields
from itertools import chain, repeat
from typing import Any

from fedhw.errors import InputError
from fedhw.improvement.actions import Progress
from fedhw.improvement.attempt import IN_FLIGHT, Attempt, Decision, Newest, Round, Stage, roll_out
from fedhw.improvement.plan import Plan
from fedhw.improvement.rollout import RollOut
from fedhw.privacy.estimate import Estimate
from fedhw.release.manifest import Manifest
from fedhw.system.clock import Clock
from fedhw.system.sqlite import Database
from fedhw_server.store.members import Members
from fedhw_server.store.settings import FleetSettings

PLAN = "plan"
"""The setting that has the next attempt's plan."""


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
        """The plan of the next attempt."""
        content = self._settings.find(PLAN)
        return Plan() if content is None else Plan.from_json(content)

    def agree(self, plan: Plan) -> None:
        """Set the plan of further attempts; one in flight keeps its own.

        Raises InputError where the plan's rounds have no noise.
        """
        plan.check_noise()
        self._settings.keep(PLAN, plan.to_json())

    def begin(self, parent: int, reason: str) -> None:
        """Begin an attempt by the plan; raises InputError while another one is in flight."""
        now = self._clock.wall()
        with self._db.transaction() as db:
            other = self.current
            if other is not None:
                raise InputError(
                    f"improve: attempt {other.number} is in flight ({other.stage}); wait for its "
                    "end, or end it with --stop"
                )
            begun = db.execute(
                "INSERT INTO attempts (parent, plan, stage, since) VALUES (?, ?, ?, ?)",
                (parent, self.plan.to_json(), Stage.ROUNDS, now),
            )
            _keep_decision(db, Decision(begun.lastrowid, now, "begin", reason))

    def stop(self) -> None:
        """Ask for the end of the attempt in flight; raises InputError where there is none."""
        with self._db.transaction() as db:
            if self.current is None:
                raise InputError("stop: no attempt to improve is in flight; there is none to stop")
            db.execute(f"UPDATE attempts SET stopping = 1 WHERE {_IN_FLIGHT}")

    @property
    def current(self) -> Attempt | None:
        """The attempt in flight."""
        return next(iter(self._load(f"WHERE {_IN_FLIGHT}")), None)

    def all(self) -> list[Attempt]:
        """Return every attempt, the oldest first."""
        return self._load()

    def keep(self, attempt: Attempt, decision: Decision | None = None) -> None:
        """Store an attempt's new state, and the decision that led to it."""
        with self._db.transaction() as db:
            # All but `stopping`, which the operator may have set meanwhile.
            db.execute(
                f"UPDATE attempts SET {', '.join(f'{name} = :{name}' for name in _CHANGING)}, "
                "baseline = :baseline WHERE number = :number",
                vars(attempt) | {"baseline": json.dumps(attempt.baseline)},
            )
            _keep_rounds(db, attempt)
            db.executemany(
                "INSERT OR REPLACE INTO canaries VALUES (?, ?, ?)",
                [(attempt.number, *each) for each in attempt.progress.items()],
            )
            if decision is not None:
                _keep_decision(db, decision)

    def wait(self, reason: str) -> None:
        """Store why no attempt was begun, in place of such a decision just before."""
        with self._db.transaction() as db:
            db.execute(
                "DELETE FROM decisions WHERE number = (SELECT max(number) FROM decisions) "
                "AND attempt IS NULL"
            )
            _keep_decision(db, Decision(None, self._clock.wall(), "wait", reason))

    def decisions(self, most: int | None = None) -> list[Decision]:
        """Return all decisions, or the newest `most`, the oldest first."""
        found = self._db.read(
            "SELECT attempt, moment, decision, reason FROM decisions ORDER BY number DESC LIMIT ?",
            (-1 if most is None else most,),
        )
        return [Decision(*row) for row in reversed(found)]

    def roll_out(self, newest: Manifest) -> RollOut:
        """Return how far the newest release is rolled out."""
        return roll_out(
            self.current,
            Newest(newest.version, newest.name),
            devices=len(self._members.by_node()),
            minimum_cohort=self._settings.policy.minimum_cohort,
        )

    def evaluates(self, device: str, candidate: str) -> bool:
        """Whether a device may report on this candidate now."""
        found = self._db.read(
            "SELECT 1 FROM attempts JOIN canaries ON attempt = number "
            "WHERE stage = ? AND candidate = ? AND device = ?",
            (Stage.SHADOW, candidate, device),
        )
        return found != []

    @property
    def round_counts(self) -> tuple[int, int]:
        """How many rounds of all attempts have ended with a sum, and how many without."""
        [(done, ended)] = self._db.read("SELECT count(summed), count(seconds) FROM training_rounds")
        return done, ended - done

    @property
    def last_round(self) -> Round | None:
        """The newest round that has ended with a sum."""
        found = self._db.read(
            f"SELECT {_ROUND} FROM training_rounds WHERE summed IS NOT NULL "
            "ORDER BY number DESC LIMIT 1"
        )
        return _round(*found[0]) if found else None

    @property
    def rho(self) -> float:
        """The zCDP cost of all rounds for the device that was in most of them."""
        [(most,)] = self._db.read(
            "SELECT max(paid) FROM (SELECT sum(rho) AS paid "
            "FROM training_rounds, json_each(devices) GROUP BY value)"
        )
        return float(most or 0)

    def _load(self, where: str = "") -> list[Attempt]:
        some = f"WHERE attempt IN (SELECT number FROM attempts {where})"
        rounds: dict[int, list[Round]] = defaultdict(list)
        for number, *row in self._db.read(
            f"SELECT attempt, {_ROUND} FROM training_rounds {some} ORDER BY number"
        ):
            rounds[number].append(_round(*row))
        progress: dict[int, dict[str, Progress]] = defaultdict(dict)
        for number, device, state in self._db.read(f"SELECT * FROM canaries {some}"):
            progress[number][device] = Progress(state)
        found = []
        for row in self._db.read(
            f"SELECT {', '.join(_COLUMNS)} FROM attempts {where} ORDER BY number"
        ):
            known = dict(zip(_COLUMNS, row, strict=True))
            known |= {
                "plan": Plan.from_json(known["plan"]),
                "stage": Stage(known["stage"]),
                "stopping": bool(known["stopping"]),
                "baseline": tuple(Estimate(*each) for each in json.loads(known["baseline"])),
                "rounds": tuple(rounds[known["number"]]),
                "progress": progress[known["number"]],
            }
            found.append(Attempt(**known))
        return found


_COLUMNS = [field.name for field in fields(Attempt) if field.name not in ("rounds", "progress")]
_CHANGING = ("stage", "since", "candidate", "version", "step", "windows", "window")
_ROUND = ", ".join(Round._fields)
_IN_FLIGHT = f"stage IN ({', '.join(repr(stage.value) for stage in IN_FLIGHT)})"


def _round(began: float, rho: float, devices: str, *ended: Any) -> Round:
    return Round(began, rho, tuple(json.loads(devices)), *ended)


def _keep_rounds(db: sqlite3.Connection, attempt: Attempt) -> None:
    """Store an attempt's rounds; of the stored ones only the last can have changed."""
    found = db.execute(
        "SELECT number FROM training_rounds WHERE attempt = ? ORDER BY number", (attempt.number,)
    )
    known = [number for (number,) in found]
    fixed = max(len(known) - 1, 0)
    numbers = chain(known[fixed:], repeat(None))  # SQLite numbers a new one
    db.executemany(
        f"INSERT OR REPLACE INTO training_rounds (number, attempt, {_ROUND}) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (number, attempt.number, began, rho, json.dumps(devices), *ended)
            for number, (began, rho, devices, *ended) in zip(
                numbers, attempt.rounds[fixed:], strict=False
            )
        ],
    )


def _keep_decision(db: sqlite3.Connection, decision: Decision) -> None:
    db.execute(
        "INSERT INTO decisions (attempt, moment, decision, reason) VALUES (?, ?, ?, ?)", decision
    )
