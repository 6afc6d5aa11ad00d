"""What a device has told so far, and how much more it may: a privacy budget that survives anything.

A charge and the bytes that it pays for are one transaction, on the disk before anybody gets the
bytes. The ledger is a file of its own, so that forgetting corrections refunds nothing. It keeps no
write-ahead log: SQLite drops what stands behind a damaged place in one, and a dropped charge would
be a refund. With a rollback journal and synchronous=EXTRA every commit is in the one file
(https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

import math
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fedhw.atomic import replacing
from fedhw.errors import InputError
from fedhw.privacy.mechanism import DELTAS, GaussianMechanism, composed_epsilon

DAY = 24 * 60 * 60
"""Seconds."""

TOLERANCE = 1e-6
"""How far rounding may carry an epsilon over a limit that it just meets."""

SCHEMA = """
BEGIN IMMEDIATE;
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


class BudgetSpentError(InputError):
    """One more report would cost more than the device may tell."""


@dataclass(frozen=True)
class Limits:
    """The most that reports may cost together: epsilon `per_day` and `in_all`, both at `delta`."""

    per_day: float
    in_all: float
    delta: float

    def __post_init__(self) -> None:
        for name in ("per_day", "in_all"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name}: {getattr(self, name):g} is no budget; give it above 0")
        if not DELTAS[0] <= self.delta <= DELTAS[1]:
            raise InputError(
                f"delta: {self.delta:g} is out of range; give {DELTAS[0]:g} to {DELTAS[1]:g}"
            )

    @property
    def checksum(self) -> int:
        """CRC-32 of all of it."""
        return _checksum(float(self.per_day), float(self.in_all), float(self.delta))


class Spent(NamedTuple):
    """Epsilon of all reports of the last 24 hours, and of all reports, at the limits' delta."""

    day: float
    in_all: float


class Charge(NamedTuple):
    """One report that was paid for: when, in Unix seconds, its cost, its bytes, what became of it.

    `sigma` is the standard deviation of its noise as a fraction of the ball's radius.
    """

    window: int
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
        cost = (self.window, self.at, self.epsilon, self.delta, self.sigma)
        return _checksum(*cost, zlib.crc32(self.message))


class Ledger:
    """The budget of one device; any number of threads and processes may use the same file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._opened() as db:
            self.limits = self._limits(db)
            self._charges(db)

    @classmethod
    def create(cls, path: Path, limits: Limits) -> "Ledger":
        """Begin a ledger, readable to its owner only, whole or not at all.

        Raises InputError where there is one.
        """
        if path.exists():
            raise InputError(f"ledger: {path} exists; go on with it")
        try:
            with replacing(path, durable=True) as unfinished:
                unfinished.touch(mode=0o600)
                with closing(_connect(unfinished)) as db:
                    _migrate(db, limits)
        except (OSError, *_FAILURES) as error:
            raise _explained(path, error) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "Ledger":
        """Go on with a ledger.

        Raises InputError where it is missing or damaged: what was told before is unknown then, and
        nothing more may be.
        """
        return cls(path)

    def spent(self, now: float) -> Spent:
        """Return what reports have cost by `now`, in Unix seconds.

        Charges that are dated later count as of today: a clock that is set back refunds nothing.
        """
        with self._opened() as db:
            return self._composed(self._charges(db), now)

    def charge(
        self,
        window: int,
        mechanism: GaussianMechanism,
        now: float,
        make: Callable[[], bytes],
    ) -> bytes:
        """Pay for a window's report and return the bytes of it, which `make` makes.

        They are durable before they are returned. A window that is paid for returns the same bytes
        and costs nothing. Raises BudgetSpentError where a limit would be passed, and InputError
        where the disk refuses.
        """
        with self._opened() as db:
            db.execute("BEGIN IMMEDIATE")
            charges = self._charges(db)
            for earlier in charges:
                if earlier.window == window:
                    return earlier.message
            # As SQLite gives them back, for the checksum.
            epsilon, delta = float(mechanism.epsilon), float(mechanism.delta)
            charge = Charge(window, float(now), epsilon, delta, mechanism.sigma, b"")
            self._refuse_beyond_limits([*charges, charge], now)
            charge = charge._replace(message=make())
            db.execute(
                "INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
                (*charge[:6], charge.checksum),
            )
            db.execute("COMMIT")
            return charge.message

    def unsent(self) -> list[Charge]:
        """Return what was paid for and has neither arrived nor been refused, the oldest first."""
        return [c for c in self.history() if c.sent_at is None and c.refused is None]

    def mark_sent(self, window: int, at: float) -> None:
        """Note that a report has arrived; raises InputError where it was never paid for."""
        self._mark("sent_at", window, at)

    def mark_refused(self, window: int, reason: str) -> None:
        """Note that a report is not to be sent again; it stays charged.

        Raises InputError where it was never paid for.
        """
        self._mark("refused", window, reason)

    def history(self) -> list[Charge]:
        """Return every charge, the oldest first."""
        with self._opened() as db:
            return self._charges(db)

    def _mark(self, column: str, window: int, value: float | str) -> None:
        with self._opened() as db:
            changed = db.execute(
                f"UPDATE charges SET {column} = ? WHERE window = ?", (value, window)
            )
            if changed.rowcount != 1:
                raise InputError(f"window: {window} was never charged; charge it first")

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each use: rare, and then nothing is shared or goes stale."""
        if not self._path.exists():
            raise InputError(f"ledger: {self._path} is missing; {_MEND}")
        try:
            with closing(_connect(self._path)) as db:
                yield db
        except _FAILURES as error:
            raise _explained(self._path, error) from error

    def _limits(self, db: sqlite3.Connection) -> Limits:
        found = db.execute("SELECT per_day, in_all, delta, checksum FROM limits").fetchall()
        if len(found) == 1 and found[0][3] == _checksum(*found[0][:3]):
            return Limits(*found[0][:3])
        raise sqlite3.DatabaseError("limits")

    def _charges(self, db: sqlite3.Connection) -> list[Charge]:
        if db.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("pages")
        columns = "window, at, epsilon, delta, sigma, message, sent_at, refused, checksum"
        charges = []
        for *row, checksum in db.execute(f"SELECT {columns} FROM charges ORDER BY window"):
            charges.append(Charge(*row))
            if charges[-1].checksum != checksum:
                raise sqlite3.DatabaseError("charges")
        return charges

    def _composed(self, charges: list[Charge], now: float) -> Spent:
        today = [charge.sigma for charge in charges if charge.at > now - DAY]
        delta = self.limits.delta
        return Spent(
            composed_epsilon(today, delta),
            composed_epsilon([charge.sigma for charge in charges], delta),
        )

    def _refuse_beyond_limits(self, charges: list[Charge], now: float) -> None:
        after = self._composed(charges, now)
        for period, epsilon, limit in (
            ("the last 24 hours", after.day, self.limits.per_day),
            ("all reports", after.in_all, self.limits.in_all),
        ):
            # Written so that NaN fails.
            if not epsilon <= limit + TOLERANCE:
                raise BudgetSpentError(
                    f"budget: one more report would make epsilon {epsilon:.3g} of {period}, and "
                    f"the limit is {limit:g}; nothing is sent"
                )


_MEND = "nothing may be sent, for what was told before is unknown; enrol as a new device"

_FAILURES = (sqlite3.Error, UnicodeDecodeError)
"""The latter where a damaged file has SQLite complain in what is no text."""


def _connect(path: Path) -> sqlite3.Connection:
    # Commands are sent as they are: transactions begin and end where we say.
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
    db.execute("PRAGMA synchronous = EXTRA")
    db.execute("PRAGMA cell_size_check = ON")
    return db


def _migrate(db: sqlite3.Connection, limits: Limits) -> None:
    db.executescript(SCHEMA)
    values = (limits.per_day, limits.in_all, limits.delta, limits.checksum)
    db.execute("INSERT INTO limits VALUES (?, ?, ?, ?)", values)
    db.execute("COMMIT")


def _checksum(*values: float) -> int:
    return zlib.crc32(repr(values).encode())


def _explained(path: Path, error: Exception) -> InputError:
    name = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT")
    if isinstance(error, OSError) or name.startswith(
        ("SQLITE_BUSY", "SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR")
    ):
        return InputError(f"ledger: {path} cannot be used ({error}); check the disk and the home")
    return InputError(f"ledger: {path} is damaged; {_MEND}")
