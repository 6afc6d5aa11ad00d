"""What a device must not lose: corrections and what was learned, in one SQLite file.

A correction is durable when `append` returns: SQLite in WAL mode with synchronous=FULL syncs every
commit to disk (https://www.sqlite.org/pragma.html#pragma_synchronous). What is removed is
overwritten (secure_delete) and the log that still held it is cut off.
"""

import os
import sqlite3
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from fedhw.errors import InputError
from fedhw_client.store.salvage import carve
from fedhw_client.store.stored_sample import StoredSample

WINDOW = 20
"""Corrections that share one count of right guesses."""

SALVAGING, SET_ASIDE = "salvaging-", "damaged-"
"""How the directory of a damaged database begins, until and after what is whole in it is saved."""

MIGRATIONS = [
    f"""
    CREATE TABLE samples (
      position INTEGER PRIMARY KEY,
      id TEXT NOT NULL UNIQUE,
      at REAL NOT NULL,
      glyph BLOB NOT NULL,
      label TEXT NOT NULL,
      ge_right INTEGER NOT NULL,
      right INTEGER NOT NULL,
      checksum INTEGER NOT NULL
    ) STRICT;
    -- Right guesses in each {WINDOW} corrections; outlives the samples.
    CREATE TABLE windows (
      number INTEGER PRIMARY KEY,
      guesses INTEGER NOT NULL,
      ge_right INTEGER NOT NULL,
      right INTEGER NOT NULL
    ) STRICT;
    -- The next place in the stream, and the version of the personal mixture.
    CREATE TABLE counters (
      next_position INTEGER NOT NULL,
      personal_version INTEGER NOT NULL
    ) STRICT;
    INSERT INTO counters VALUES (0, 0);
    -- The mixture in use, at most one; it fits one release only.
    CREATE TABLE personal (
      release TEXT NOT NULL,
      tensors BLOB NOT NULL,
      checksum INTEGER NOT NULL
    ) STRICT;
    """,
    """
    -- What else is known of the guess before a correction; older and salvaged ones have none.
    CREATE TABLE opinions (
      position INTEGER PRIMARY KEY,
      le_right INTEGER NOT NULL,
      opened INTEGER NOT NULL
    ) STRICT;
    """,
]
"""What makes each schema version of the one before, from an empty file on; never edit one."""


class StoreError(InputError):
    """The disk or the file refuses; nothing is wrong with what was asked."""


class StoreFullError(StoreError):
    """There is no room on the disk for one more correction."""


class Window(NamedTuple):
    """Guesses of up to 20 consecutive corrections, and how many of them were right."""

    number: int
    guesses: int
    ge_right: int
    right: int


class Opinion(NamedTuple):
    """Whether the local expert alone was right of a sample, and whether the gate was open to it.

    Before anything was learned the local expert says what the global one does.
    """

    position: int
    le_right: bool
    opened: bool


class Judged(NamedTuple):
    """A correction that is kept, and who had been right of it."""

    label: str
    ge_right: bool
    le_right: bool
    right: bool
    opened: bool


class StoredMixture(NamedTuple):
    """A mixture as it is stored, and the release whose features it reads."""

    release: str
    tensors: bytes


@dataclass(frozen=True)
class Selection:
    """Corrections that meet all that is given; all of them when nothing is.

    `start` and `end` are Unix times in seconds, the end not included.
    """

    id: str | None = None
    label: str | None = None
    start: float | None = None
    end: float | None = None

    @property
    def is_everything(self) -> bool:
        """Whether nothing narrows it down."""
        return self == Selection()

    def condition(self) -> tuple[str, dict[str, object]]:
        """Return an SQL condition and its values."""
        clauses = {
            "id = :id": self.id,
            "label = :label": self.label,
            "at >= :start": self.start,
            "at < :end": self.end,
        }
        given = [clause for clause, value in clauses.items() if value is not None]
        return " AND ".join(given) or "TRUE", vars(self).copy()


class Store:
    """The database of one device; callers take turns.

    Opening it brings an older schema up to date. A database that is damaged is set aside in a
    directory beside it, every correction in it that is whole goes into a new one, and `notices`
    says so. Raises InputError when the schema is newer than this program or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: list[str] = []
        # Before SQLite sees it: what a damaged log holds beyond the damage, SQLite drops silently.
        # A database that an earlier start set aside counts until its rows are in the new one.
        found = [carve(place / path.name) for place in sorted(path.parent.glob(f"{SALVAGING}*"))]
        written = {row.position: row for rows in (carve(path), *found) for row in rows}
        try:
            self._open()
            self._verify()
        except sqlite3.DatabaseError as error:
            if _is_no_damage(error):
                raise _explained(error) from None
            self._set_aside()
        known = self.known([row.id for row in written.values()])
        self._restore(
            [
                row
                for row in written.values()
                if row.position >= self.next_position and row.id not in known
            ]
        )
        with suppress(StoreError):  # on a full disk the log stays for now
            self._cut_off_log()

    def close(self) -> None:
        """Bring everything into the one file."""
        self._db.close()

    def rows(self) -> list[StoredSample]:
        """Return every correction, the oldest first."""
        return [_row(*found) for found in self._read(f"{_SELECT} ORDER BY position")]

    def select(self, selection: Selection) -> list[int]:
        """Return the positions of the corrections that are meant, the oldest first."""
        condition, values = selection.condition()
        found = self._read(
            f"SELECT position FROM samples WHERE {condition} ORDER BY position", values
        )
        return [position for (position,) in found]

    def newest(self, n: int) -> list[StoredSample]:
        """Return at most n corrections, the newest first."""
        newest = self._read(f"{_SELECT} ORDER BY position DESC LIMIT ?", (n,))
        return [_row(*found) for found in newest]

    def known(self, ids: Collection[str]) -> set[str]:
        """Return those of the names that are stored."""
        ask = "SELECT id FROM samples WHERE id = ?"
        return {found for name in ids for (found,) in self._read(ask, (name,))}

    def judged(self, start: float, end: float) -> list[Judged]:
        """Return how guesses went on what is kept of a time, `end` not included, the oldest first.

        Of a sample without an opinion the local expert is taken to have said what the global one
        did, and the gate to have been closed.
        """
        found = self._read(
            "SELECT label, ge_right, coalesce(le_right, ge_right), right, coalesce(opened, 0) "
            "FROM samples LEFT JOIN opinions USING (position) WHERE at >= ? AND at < ? "
            "ORDER BY position",
            (start, end),
        )
        return [Judged(label, *map(bool, judgements)) for label, *judgements in found]

    def windows(self, n: int) -> list[Window]:
        """Return how guesses went in at most the n newest windows, the oldest first."""
        found = self._read("SELECT * FROM windows ORDER BY number DESC LIMIT ?", (n,))
        return [Window(*window) for window in found][::-1]

    def totals(self) -> tuple[int, int, int]:
        """Return all guesses, and how many of them each was right: global expert and mixture."""
        sums = "coalesce(sum(guesses), 0), coalesce(sum(ge_right), 0), coalesce(sum(right), 0)"
        [(guesses, ge_right, right)] = self._read(f"SELECT {sums} FROM windows")
        return guesses, ge_right, right

    @property
    def next_position(self) -> int:
        """The place in the stream that the next correction gets."""
        [(position,)] = self._read("SELECT next_position FROM counters")
        return int(position)

    @property
    def personal_version(self) -> int:
        """How many personal mixtures there have been."""
        [(version,)] = self._read("SELECT personal_version FROM counters")
        return int(version)

    @property
    def personal(self) -> StoredMixture | None:
        """The mixture in use, None if there is none or it is damaged."""
        for release, tensors, checksum in self._read("SELECT * FROM personal"):
            if zlib.crc32(tensors) == checksum:
                return StoredMixture(release, tensors)
        return None

    @property
    def size(self) -> int:
        """Bytes on disk."""
        parts = (self.path, _beside(self.path, "-wal"))
        return sum(part.stat().st_size for part in parts if part.exists())

    def append(
        self,
        rows: Sequence[StoredSample],
        evicted: Collection[int] = (),
        opinions: Sequence[Opinion] = (),
    ) -> None:
        """Store corrections and drop the evicted ones; all of it is durable, or none.

        Raises StoreFullError, and InputError when the disk refuses for another reason.
        """
        with self._transaction() as db:
            _delete(db, evicted)
            db.executemany(
                "INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(*row, row.checksum) for row in rows],
            )
            db.executemany("REPLACE INTO opinions VALUES (?, ?, ?)", opinions)
            db.executemany(
                "INSERT INTO windows VALUES (?, 1, ?, ?) ON CONFLICT (number) DO UPDATE SET "
                "guesses = guesses + 1, ge_right = ge_right + excluded.ge_right, "
                "right = right + excluded.right",
                [(row.position // WINDOW, row.ge_right, row.right) for row in rows],
            )
            db.executemany(
                "UPDATE counters SET next_position = max(next_position, ?)",
                [(row.position + 1,) for row in rows],
            )

    def remove(self, positions: Collection[int], everything: bool = False) -> None:
        """Take corrections, their guesses, and the mixture that was learned from them, or all.

        With `everything`, every count goes, too. Traces stay on the disk until `scrub`.
        """
        with self._transaction() as db:
            db.executemany(
                "UPDATE windows SET guesses = guesses - 1, ge_right = windows.ge_right - "
                "samples.ge_right, right = windows.right - samples.right FROM samples "
                f"WHERE samples.position = ? AND number = samples.position / {WINDOW}",
                [(position,) for position in positions],
            )
            _delete(db, positions)
            db.execute("DELETE FROM windows WHERE guesses <= 0 OR ?", (everything,))
            db.execute("DELETE FROM personal")

    def scrub(self) -> None:
        """Erase what still holds something that was removed: the log, and damaged databases.

        Raises StoreError when there is no room to bring the log into the file first, or another
        program keeps it open.
        """
        self._cut_off_log()
        for copy in self.path.parent.glob(f"{SET_ASIDE}*/*"):
            # Best effort: a disk that copies on write may keep the old blocks.
            with copy.open("r+b") as file:
                file.write(bytes(copy.stat().st_size))
                file.flush()
                os.fsync(file.fileno())
            copy.unlink()

    def set_personal(self, personal: StoredMixture | None, version: int) -> None:
        """Keep the mixture in use, in place of the one before."""
        with self._transaction() as db:
            db.execute("DELETE FROM personal")
            if personal is not None:
                checksum = zlib.crc32(personal.tensors)
                db.execute("INSERT INTO personal VALUES (?, ?, ?)", (*personal, checksum))
            db.execute("UPDATE counters SET personal_version = ?", (version,))

    def _open(self) -> None:
        self.path.touch(mode=0o600)
        # Commands are sent as they are: transactions begin and end where we say.
        self._db = sqlite3.connect(
            self.path, timeout=1, isolation_level=None, check_same_thread=False
        )
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "secure_delete = ON",
            "cell_size_check = ON",
            "journal_size_limit = 1048576",
        ):
            self._db.execute(f"PRAGMA {pragma}").fetchall()
        self._migrate()

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            self._db.close()
            raise InputError(
                f"home: the schema {version} of {self.path} is newer than {len(MIGRATIONS)}, the "
                "newest this program knows; update fedhw"
            )
        for number, migration in enumerate(MIGRATIONS[version:], version + 1):
            try:
                self._db.executescript(
                    f"BEGIN; {migration} PRAGMA user_version = {number}; COMMIT;"
                )
            except sqlite3.OperationalError as error:
                self._db.close()
                if error.sqlite_errorname == "SQLITE_ERROR":
                    # Wrong SQL is no damage: the person's file must stay where it is.
                    raise RuntimeError(f"migration {number} is wrong") from error
                raise

    def _verify(self) -> None:
        (verdict,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        checked = self._db.execute("SELECT checksum FROM samples ORDER BY position")
        for row, (checksum,) in zip(self.rows(), checked, strict=True):
            if row.checksum != checksum:
                raise sqlite3.DatabaseError("a correction is not as it was written")
        if self._db.execute("SELECT count(*) FROM counters").fetchone() != (1,):
            raise sqlite3.DatabaseError("the counters are missing")

    def _set_aside(self) -> None:
        """Move a damaged database out of the way and begin a new one."""
        self._db.close()
        aside = self.path.with_name(f"{SALVAGING}{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        aside.mkdir(mode=0o700)
        for part in (self.path, _beside(self.path, "-wal"), _beside(self.path, "-shm")):
            if part.exists():
                part.rename(aside / part.name)
        self._open()

    def _restore(self, rows: Sequence[StoredSample]) -> None:
        """Take in what was saved; only then is a damaged database done with."""
        if rows:
            self.append(sorted(rows))
            self.notices.append(f"{len(rows)} corrections were saved from a damaged store.")
        for place in self.path.parent.glob(f"{SALVAGING}*"):
            kept = place.rename(place.with_name(place.name.replace(SALVAGING, SET_ASIDE)))
            self.notices.append(f"The store was damaged; the damaged file is kept in {kept}.")

    def _cut_off_log(self) -> None:
        [(busy, _, _)] = self._read("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            raise StoreError("store: another program keeps it open; close that one and try again")

    def _read(self, query: str, values: object = ()) -> list[Any]:
        with _explaining():
            return self._db.execute(query, values).fetchall()  # type: ignore[arg-type]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _explaining():
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")


_SELECT = "SELECT position, id, at, glyph, label, ge_right, right FROM samples"


def _row(
    position: int, id: str, at: float, glyph: bytes, label: str, ge_right: int, right: int
) -> StoredSample:
    return StoredSample(position, id, at, glyph, label, bool(ge_right), bool(right))


def _delete(db: sqlite3.Connection, positions: Collection[int]) -> None:
    for table in ("samples", "opinions"):
        db.executemany(f"DELETE FROM {table} WHERE position = ?", [(p,) for p in positions])


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _is_no_damage(error: sqlite3.Error) -> bool:
    """Whether the file may be whole and only the disk or another process refuses."""
    refusals = ("BUSY", "LOCKED", "FULL", "READONLY", "CANTOPEN", "PERM", "NOMEM", "AUTH")
    return getattr(error, "sqlite_errorname", "").removeprefix("SQLITE_").startswith(refusals)


@contextmanager
def _explaining() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _explained(error) from error


def _explained(error: sqlite3.Error) -> StoreError:
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL":
        return StoreFullError("store: the disk is full; free some space, nothing stored is lost")
    if name.startswith("SQLITE_IOERR"):
        return StoreError(f"store: the disk fails ({name}); free some space or check it")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreError("store: it is damaged; restart the agent, which saves what is whole")
    return StoreError(f"store: it cannot be used ({error}); check the home")
