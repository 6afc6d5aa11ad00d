"""What a device has told so far, and how much more it may: a privacy budget that survives anything.

A charge and the bytes that it pays for are one transaction, on the disk before anybody gets the
bytes. The ledger is a file of its own, so that forgetting corrections refunds nothing. It keeps no
write-ahead log: SQLite drops what stands behind a damaged place in one, and a dropped charge would
be a refund. With a rollback journal and synchronous=EXTRA every commit is in the one file
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
"""Seconds for which somebody else may be at the ledger: an accountant is slow to import."""

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
"""How a ledger begins; never edit it."""

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
"""What makes each schema version of the one before; never edit one."""


class Charge(NamedTuple):
    """One report that was paid for: when, in Unix seconds, its cost, its bytes, what became of it.

    It is `about` the window of that number, or the candidate of that name. `sigma` is the standard
    deviation of its noise as a fraction of the ball's radius.
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
        """CRC-32 of what never changes."""
        cost = (self.about, self.at, self.epsilon, self.delta, self.sigma)
        return _checksum(*cost, zlib.crc32(self.message))


class PaidRound(NamedTuple):
    """An improvement round that was paid for: when, in Unix seconds, and its cost in zCDP."""

    name: str
    at: float
    rho: float

    @property
    def checksum(self) -> int:
        """CRC-32 of all of it."""
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
        """Begin a ledger, readable to its owner only, whole or not at all.

        Raises InputError where there is one.
        """
        if path.exists():
            raise InputError(f"ledger: {path} exists; go on with it")
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
        """Go on with a ledger.

        Raises InputError where it is missing or damaged: what was told before is unknown then, and
        nothing more may be.
        """
        return cls(path)

    def spent(self, now: float) -> Spent:
        """Return what reports and rounds have cost by `now`, in Unix seconds."""
        with self._opened() as database:
            return self._budget(*_paid(database)).spent(now)

    def charge(
        self,
        about: int | str,
        mechanism: GaussianMechanism,
        now: float,
        make: Callable[[], bytes],
    ) -> bytes:
        """Pay for the report about a window or a candidate and return what `make` makes, its bytes.

        They are durable before they are returned. What is paid for returns the same bytes and costs
        nothing. Raises BudgetSpentError where a limit would be passed, and InputError where the
        disk refuses.
        """
        with self._opened() as database, database.transaction() as db:
            charges, rounds = _paid(database)
            for earlier in charges:
                if earlier.about == about:
                    return earlier.message
            self._budget(charges, rounds).with_report(mechanism.sigma, now)
            charge = Charge(
                about,
                float(now),
                float(mechanism.epsilon),
                float(mechanism.delta),
                mechanism.sigma,
                make(),
            )
            db.execute(
                "INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
                (*charge[:6], charge.checksum),
            )
            return charge.message

    def check_report(self, mechanism: GaussianMechanism, now: float) -> None:
        """Raise BudgetSpentError where one more report would pass a limit."""
        with self._opened() as database:
            self._budget(*_paid(database)).with_report(mechanism.sigma, now)

    def check_round(self, rho: float, now: float) -> None:
        """Raise BudgetSpentError where one more round that is rho-zCDP would pass a limit."""
        with self._opened() as database:
            self._budget(*_paid(database)).with_round(rho, now)

    def charge_round(self, round: str, rho: float, now: float) -> None:
        """Pay for taking part in an improvement round that is rho-zCDP; durable on return.

        A round that is paid for costs nothing again. Raises BudgetSpentError where a limit would be
        passed, and InputError where the round was paid for at another cost or the disk refuses.
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
        """Return the rounds that were paid for, as they came."""
        with self._opened() as database:
            return _paid(database)[1]

    def unsent(self) -> list[Charge]:
        """Return the reports that have neither arrived nor been refused, in order."""
        return [c for c in self.history() if c.sent_at is None and c.refused is None]

    def mark_sent(self, about: int | str, at: float) -> None:
        """Note that a report has arrived; raises InputError where it was never paid for."""
        self._mark("sent_at", about, at)

    def mark_refused(self, about: int | str, reason: str) -> None:
        """Note that a report is not to be sent again; it stays charged.

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
        """A connection of its own for each use: rare, and then nothing is shared or goes stale."""
        # SQLite takes an empty file for a new database.
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


_MEND = "nothing may be sent, for what was told before is unknown; enrol as a new device"


def _database(path: Path, migrations: Sequence[str]) -> Database:
    return Database(
        path,
        migrations,
        name="ledger",
        mend=_MEND,
        pragmas={"synchronous": "EXTRA", "cell_size_check": "ON"},
        timeout_seconds=LOCK_TIMEOUT_SECONDS,
        checked=True,  # or what cannot be read would be a refund
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
