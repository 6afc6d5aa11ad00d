"""The durable privacy budget of a device: what it has sent so far, and what that has cost.

A charge and the bytes that it pays for are one transaction, and on the disk before the bytes are
used. The ledger is a separate file, so forgetting corrections refunds nothing. It has no
write-ahead log: SQLite drops everything after a damaged part of one, and that would be a refund.
With a rollback journal and synchronous=EXTRA every commit is in the one file
(https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

from fedhw.errors import InputError
from fedhw.privacy.budget import Budget, Limits, ReportCost, RoundCost, Spent
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.system.atomic import replacing
from fedhw.system.sqlite import Database, StoreError, run_script

LOCK_TIMEOUT_SECONDS = 30.0
"""Seconds to wait for another process to finish: importing the accountant is slow."""

SCHEMA = """
CREATE TABLE limits (
  per_day REAL NOT NULL,
  in_all REAL NOT NULL,
  delta REAL NOT NULL,
  checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE charges (
  window INTEGER PRIMARY KEY,
  at REAL NOT NULL,
  epsilon REAL NOT NULL,
  delta REAL NOT NULL,
  sigma REAL NOT NULL,
  message BLOB NOT NULL,
  checksum INTEGER NOT NULL,
  -- What became of the message; its cost does not depend on it.
  sent_at REAL,
  refused TEXT
) STRICT;
"""
"""The schema of a new ledger; never edit it."""

MIGRATIONS = [
    """
    CREATE TABLE told (
      about ANY PRIMARY KEY, -- a window or, as text, a candidate
      at REAL NOT NULL,
      epsilon REAL NOT NULL,
      delta REAL NOT NULL,
      sigma REAL NOT NULL,
      message BLOB NOT NULL,
      checksum INTEGER NOT NULL,
      sent_at REAL,
      refused TEXT
    ) STRICT;
    INSERT INTO told SELECT * FROM charges;
    DROP TABLE charges;
    ALTER TABLE told RENAME TO charges;
    CREATE TABLE rounds (
      name TEXT PRIMARY KEY,
      at REAL NOT NULL,
      rho REAL NOT NULL,
      checksum INTEGER NOT NULL
    ) STRICT;
    """,
]
"""The migration from each schema version to the next; never edit one."""


class Charge(NamedTuple):
    """One report that was paid for: its Unix second, its cost, its bytes, and its fate.

    It is `about` the window of that number, or the candidate of that name. `sigma` is the standard
    deviation of its noise relative to the radius.
    """

    about: int | str
    at: float
    epsilon: float
    delta: float
    sigma: float
    message: bytes
    sent_at: float | None = None
    refused: str | None = None

    @property
    def checksum(self) -> int:
        """CRC-32 of the fields that never change."""
        cost = (self.about, self.at, self.epsilon, self.delta, self.sigma)
        return _checksum(*cost, zlib.crc32(self.message))


class PaidRound(NamedTuple):
    """An improvement round that was paid for: its Unix second, and its cost in zCDP."""

    name: str
    at: float
    rho: float

    @property
    def checksum(self) -> int:
        """CRC-32 of all fields."""
        return _checksum(*self)


class Ledger:
    """The budget of one device; any number of threads and processes may use the same file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._opened() as database:
            self.limits = _limits(database)
            _paid(database)

    @classmethod
    def create(cls, path: Path, limits: Limits) -> "Ledger":
        """Create a ledger, readable to its owner only, completely or not at all.

        Raises InputError where it exists.
        """
        if path.exists():
            raise InputError(f"ledger: {path} exists; open it instead")
        try:
            with (
                replacing(path, durable=True) as unfinished,
                closing(_database(unfinished, migrations=[])) as database,
                database.transaction() as db,
            ):
                run_script(db, SCHEMA)
                values = tuple(map(float, astuple(limits)))
                db.execute("INSERT INTO limits VALUES (?, ?, ?, ?)", (*values, _checksum(*values)))
        except OSError as error:
            raise StoreError(
                f"ledger: {path} cannot be made ({error.strerror}); check the disk and the home"
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "Ledger":
        """Open a ledger.

        Raises InputError where it is missing or damaged: then earlier costs are unknown, and
        nothing more may be sent.
        """
        return cls(path)

    def spent(self, now: float) -> Spent:
        """Return the cost of all reports and rounds; `now` is in Unix seconds."""
        with self._opened() as database:
            return self._budget(*_paid(database)).spent(now)

    def charge(
        self,
        about: int | str,
        mechanism: GaussianMechanism,
        now: float,
        make: Callable[[], bytes],
    ) -> bytes:
        """Pay for the report about a window or a candidate and return its bytes, made by `make`.

        The bytes are durable before they are returned. A report that was paid for before returns
        the same bytes at no cost. Raises BudgetSpentError where it would exceed a limit, and
        InputError where the disk fails.
        """
        with self._opened() as database, database.transaction() as db:
            charges, rounds = _paid(database)
            for earlier in charges:
                if earlier.about == about:
                    return earlier.message
            self._budget(charges, rounds).with_report(mechanism.sigma, now)
            epsilon, delta = float(mechanism.epsilon), float(mechanism.delta)
            charge = Charge(about, float(now), epsilon, delta, mechanism.sigma, make())
            db.execute(
                "INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
                (*charge[:6], charge.checksum),
            )
            return charge.message

    def check_report(self, mechanism: GaussianMechanism, now: float) -> None:
        """Raise BudgetSpentError where one more report would exceed a limit."""
        with self._opened() as database:
            self._budget(*_paid(database)).with_report(mechanism.sigma, now)

    def check_round(self, rho: float, now: float) -> None:
        """Raise BudgetSpentError where one more round that is rho-zCDP would exceed a limit."""
        with self._opened() as database:
            self._budget(*_paid(database)).with_round(rho, now)

    def charge_round(self, round: str, rho: float, now: float) -> None:
        """Pay for taking part in an improvement round that is rho-zCDP; durable on return.

        A round is charged only once. Raises BudgetSpentError where it would exceed a limit, and
        InputError where the round was paid for at another cost or the disk fails.
        """
        with self._opened() as database, database.transaction() as db:
            charges, rounds = _paid(database)
            for earlier in rounds:
                if earlier.name == round:
                    if earlier.rho != rho:
                        raise InputError(
                            f"round: {round} was paid for at rho {earlier.rho:g}, and {rho:g} is "
                            "another cost; begin another round"
                        )
                    return
            self._budget(charges, rounds).with_round(rho, now)
            paid = PaidRound(round, float(now), float(rho))
            db.execute("INSERT INTO rounds VALUES (?, ?, ?, ?)", (*paid, paid.checksum))

    def rounds(self) -> list[PaidRound]:
        """Return the rounds that were paid for, in their order."""
        with self._opened() as database:
            return _paid(database)[1]

    def unsent(self) -> list[Charge]:
        """Return the reports that have neither arrived nor been refused, in order."""
        return [c for c in self.history() if c.sent_at is None and c.refused is None]

    def mark_sent(self, about: int | str, at: float) -> None:
        """Record that a report has arrived; raises InputError where it was never paid for."""
        self._mark("sent_at", about, at)

    def mark_refused(self, about: int | str, reason: str) -> None:
        """Record that a report must not be sent again; it stays charged.

        Raises InputError where it was never paid for.
        """
        self._mark("refused", about, reason)

    def history(self) -> list[Charge]:
        """Return every report that was paid for: of windows in order, then of candidates."""
        with self._opened() as database:
            return _paid(database)[0]

    def _mark(self, column: str, about: int | str, value: float | str) -> None:
        with self._opened() as database, database.transaction() as db:
            changed = db.execute(f"UPDATE charges SET {column} = ? WHERE about = ?", (value, about))
            if changed.rowcount != 1:
                raise InputError(f"about: {about} was never charged; charge it first")

    @contextmanager
    def _opened(self) -> Iterator[Database]:
        """Open a connection for each use: uses are rare, and nothing is shared or becomes stale."""
        # SQLite treats an empty file as a new database.
        if not self._path.exists() or self._path.stat().st_size == 0:
            raise InputError(f"ledger: {self._path} is missing; {_MEND}")
        with closing(_database(self._path, MIGRATIONS)) as database:
            yield database

    def _budget(self, charges: Sequence[Charge], rounds: Sequence[PaidRound]) -> Budget:
        return Budget(
            self.limits,
            tuple(ReportCost(charge.at, charge.sigma) for charge in charges),
            tuple(RoundCost(paid.at, paid.rho) for paid in rounds),
        )


_MEND = "nothing may be sent, since earlier costs are unknown; enrol as a new device"


def _database(path: Path, migrations: Sequence[str]) -> Database:
    return Database(
        path,
        migrations,
        name="ledger",
        mend=_MEND,
        pragmas={"synchronous": "EXTRA", "cell_size_check": "ON"},
        timeout_seconds=LOCK_TIMEOUT_SECONDS,
        checked=True,  # an unreadable charge would be a refund
    )


def _limits(database: Database) -> Limits:
    for *values, checksum in database.read("SELECT per_day, in_all, delta, checksum FROM limits"):
        if checksum == _checksum(*values):
            return Limits(*values)
    raise database.damaged()


def _paid(database: Database) -> tuple[list[Charge], list[PaidRound]]:
    charges, rounds = [], []
    columns = "about, at, epsilon, delta, sigma, message, sent_at, refused, checksum"
    for *row, checksum in database.read(f"SELECT {columns} FROM charges ORDER BY about"):
        charges.append(Charge(*row))
        if charges[-1].checksum != checksum:
            raise database.damaged()
    for *row, checksum in database.read("SELECT * FROM rounds ORDER BY rowid"):
        rounds.append(PaidRound(*row))
        if rounds[-1].checksum != checksum:
            raise database.damaged()
    return charges, rounds


def _checksum(*values: float | str) -> int:
    return zlib.crc32(repr(values).encode())
