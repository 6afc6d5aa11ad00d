"""The store of corrections and of the learned mixture, in one SQLite file.

A correction is durable when `append` returns: SQLite in WAL mode with synchronous=FULL syncs every
commit to disk (https://www.sqlite.org/pragma.html#pragma_synchronous). Removed rows are overwritten
(secure_delete), and the write-ahead log that still has them is truncated.
"""

import os
import sqlite3
import zlib
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from fedhw.system.sqlite import Database, StoreDamagedError, StoreError
from fedhw_client.store.salvage import carve
from fedhw_client.store.stored_sample import StoredSample

WINDOW = 20
"""Corrections that share one count of right guesses."""

SALVAGING, SET_ASIDE = "salvaging-", "damaged-"
"""Prefixes of a damaged database's directory: while its rows are salvaged, and afterwards."""

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
"""Each entry migrates the schema by one version, from an empty file on; never edit one."""


class Window(NamedTuple):
    """Guesses of up to 20 consecutive corrections, and how many of them were right."""

    number: int
    guesses: int
    ge_right: int
    right: int


class Opinion(NamedTuple):
    """Whether the local expert alone was right about a sample, and whether the gate was open.

    Before the first learning the global expert's answer counts as the local one's.
    """

    position: int
    le_right: bool
    opened: bool


class Judged(NamedTuple):
    """The label of a correction, and who was right about it."""

    label: str
    ge_right: bool
    le_right: bool
    right: bool
    opened: bool


class StoredMixture(NamedTuple):
    """A mixture as it is stored, and the digest of the release that it was learned for."""

    release: str
    tensors: bytes


@dataclass(frozen=True)
class Selection:
    """Selects corrections that match every given field, all of them by default.

    `start` and `end` are Unix times in seconds; `end` is exclusive.
    """

    id: str | None = None
    label: str | None = None
    start: float | None = None
    end: float | None = None

    @property
    def is_everything(self) -> bool:
        """Whether it selects all corrections."""
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
    """The database of one device; safe for threads.

    Opening it migrates an older schema. A damaged database is moved to a directory beside it, its
    undamaged corrections go into a new one, and `notices` says so. Raises InputError when the
    schema is newer than this program or the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: list[str] = []
        # Carved before SQLite opens the file: it silently drops what a damaged log has behind the
        # damage. A database that an interrupted start set aside is carved again.
        found = [carve(place / path.name) for place in sorted(path.parent.glob(f"{SALVAGING}*"))]
        written = {row.position: row for rows in (carve(path), *found) for row in rows}
        try:
            self._db = _opened(path)
        except StoreDamagedError:
            _set_aside(path)
            self._db = _opened(path)
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
        """Close the file."""
        self._db.close()

    def rows(self) -> list[StoredSample]:
        """Return every correction, the oldest first."""
        return [_row(*found) for found in self._db.read(f"{_SELECT} ORDER BY position")]

    def select(self, selection: Selection) -> list[int]:
        """Return the positions of the selected corrections, the oldest first."""
        condition, values = selection.condition()
        found = self._db.read(
            f"SELECT position FROM samples WHERE {condition} ORDER BY position", values
        )
        return [position for (position,) in found]

    def newest(self, n: int) -> list[StoredSample]:
        """Return at most n corrections, the newest first."""
        newest = self._db.read(f"{_SELECT} ORDER BY position DESC LIMIT ?", (n,))
        return [_row(*found) for found in newest]

    def known(self, ids: Collection[str]) -> set[str]:
        """Return those of the ids that are stored."""
        ask = "SELECT id FROM samples WHERE id = ?"
        return {found for name in ids for (found,) in self._db.read(ask, (name,))}

    def judged(self, start: float, end: float) -> list[Judged]:
        """Return how the kept corrections of a period were judged, the oldest first.

        Where a sample has no opinion, the local expert counts as right where the global one was,
        and the gate as closed.
        """
        found = self._db.read(
            "SELECT label, ge_right, coalesce(le_right, ge_right), right, coalesce(opened, 0) "
            "FROM samples LEFT JOIN opinions USING (position) WHERE at >= ? AND at < ? "
            "ORDER BY position",
            (start, end),
        )
        return [Judged(label, *map(bool, judgements)) for label, *judgements in found]

    def windows(self, n: int) -> list[Window]:
        """Return at most the n newest windows, the oldest first."""
        found = self._db.read("SELECT * FROM windows ORDER BY number DESC LIMIT ?", (n,))
        return [Window(*window) for window in found][::-1]

    def totals(self) -> tuple[int, int, int]:
        """Return the numbers of guesses, of the global expert's right ones, of the mixture's."""
        sums = "coalesce(sum(guesses), 0), coalesce(sum(ge_right), 0), coalesce(sum(right), 0)"
        [(guesses, ge_right, right)] = self._db.read(f"SELECT {sums} FROM windows")
        return guesses, ge_right, right

    @property
    def next_position(self) -> int:
        """The position that the next correction gets."""
        [(position,)] = self._db.read("SELECT next_position FROM counters")
        return int(position)

    @property
    def personal_version(self) -> int:
        """How many mixtures have been in use so far."""
        [(version,)] = self._db.read("SELECT personal_version FROM counters")
        return int(version)

    @property
    def personal(self) -> StoredMixture | None:
        """The stored mixture, None if there is none or it is damaged."""
        for release, tensors, checksum in self._db.read("SELECT * FROM personal"):
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
        """Store corrections and delete the evicted ones, durably, all or none.

        Raises StoreFullError, and InputError when the disk refuses for another reason.
        """
        with self._db.transaction() as db:
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
        """Remove corrections, their guesses, and the mixture that was learned from them.

        With `everything`, all counts are removed, too. Traces stay on the disk until `scrub`.
        """
        with self._db.transaction() as db:
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
        """Erase the traces of removed corrections: the log, and damaged databases.

        Raises StoreError when there is no room to write the log back to the file, or another
        program keeps it open.
        """
        self._cut_off_log()
        for copy in self.path.parent.glob(f"{SET_ASIDE}*/*"):
            # Best effort: a copy-on-write file system may keep the old blocks.
            with copy.open("r+b") as file:
                file.write(bytes(copy.stat().st_size))
                file.flush()
                os.fsync(file.fileno())
            copy.unlink()

    def set_personal(self, personal: StoredMixture | None, version: int) -> None:
        """Store the mixture in use in place of the one before."""
        with self._db.transaction() as db:
            db.execute("DELETE FROM personal")
            if personal is not None:
                checksum = zlib.crc32(personal.tensors)
                db.execute("INSERT INTO personal VALUES (?, ?, ?)", (*personal, checksum))
            db.execute("UPDATE counters SET personal_version = ?", (version,))

    def _restore(self, rows: Sequence[StoredSample]) -> None:
        """Store salvaged rows, and only then mark damaged databases as done."""
        if rows:
            self.append(sorted(rows))
            self.notices.append(f"{len(rows)} corrections were saved from a damaged store.")
        for place in self.path.parent.glob(f"{SALVAGING}*"):
            kept = place.rename(place.with_name(place.name.replace(SALVAGING, SET_ASIDE)))
            self.notices.append(f"The store was damaged; the damaged file is kept in {kept}.")

    def _cut_off_log(self) -> None:
        [(busy, _, _)] = self._db.read("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            raise StoreError("store: another program keeps it open; close that one and try again")


_COLUMNS = "position, id, at, glyph, label, ge_right, right"
_SELECT = f"SELECT {_COLUMNS} FROM samples"


def _row(*columns: Any) -> StoredSample:
    *others, ge_right, right = columns
    return StoredSample._make([*others, bool(ge_right), bool(right)])


def _delete(db: sqlite3.Connection, positions: Collection[int]) -> None:
    for table in ("samples", "opinions"):
        db.executemany(f"DELETE FROM {table} WHERE position = ?", [(p,) for p in positions])


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _opened(path: Path) -> Database:
    database = Database(
        path,
        MIGRATIONS,
        name="store",
        mend="restart the agent, which saves what is whole",
        pragmas={
            "journal_mode": "WAL",
            "synchronous": "FULL",
            "secure_delete": "ON",
            "cell_size_check": "ON",
            "journal_size_limit": "1048576",
        },
        timeout_seconds=1.0,
        checked=True,
    )
    try:
        _verify(database)
    except BaseException:
        database.close()
        raise
    return database


def _verify(database: Database) -> None:
    """Raise StoreDamagedError where a checksum is wrong or the counters are missing."""
    for *row, checksum in database.read(f"SELECT {_COLUMNS}, checksum FROM samples"):
        if _row(*row).checksum != checksum:
            raise database.damaged()
    if database.read("SELECT count(*) FROM counters") != [(1,)]:
        raise database.damaged()


def _set_aside(path: Path) -> None:
    """Move a damaged database to a directory of its own."""
    aside = path.with_name(f"{SALVAGING}{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    aside.mkdir(mode=0o700)
    for part in (path, _beside(path, "-wal"), _beside(path, "-shm")):
        if part.exists():
            part.rename(aside / part.name)
