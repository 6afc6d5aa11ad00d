"""The store of corrections and of the learned mixture, in one SQLite file.

A correction is durable when `append` returns: SQLite in WAL mode with synchronous=FULL syncs every
commit to disk (https://www.sqlite.org/pragma.html#pragma_synchronous). Each row is encrypted under
a key of its own, which `scrub` destroys once the row is removed. Besides, removed rows are
overwritten (secure_delete), and so is the write-ahead log before it is cut.
"""

import fcntl
import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fedhw.observation import ObservationType
from fedhw.system.atomic import sync_entry
from fedhw.system.private_files import overwrite, write_private
from fedhw.system.sqlite import Database, StoreDamagedError, StoreError, run_script
from fedhw_client.store.salvage import carve
from fedhw_client.store.sample_keys import SPARE, SampleKeys
from fedhw_client.store.stored_sample import StoredSample

WINDOW = 20
"""Corrections that share one count of right guesses."""

SALVAGING, SET_ASIDE = "salvaging-", "damaged-"
"""Prefixes of a damaged database's directory: while its rows are salvaged, and afterwards."""

_ENCRYPTED_SCHEMA = """
    ALTER TABLE samples RENAME TO plain_samples;
    ALTER TABLE personal RENAME TO plain_personal;
    -- Each row encrypted, but for its position, under the key of this number.
    CREATE TABLE samples (
      position INTEGER PRIMARY KEY,
      key INTEGER NOT NULL,
      sealed BLOB NOT NULL
    ) STRICT;
    -- The mixture in use, at most one; it fits one release only.
    CREATE TABLE personal (
      release TEXT NOT NULL,
      key INTEGER NOT NULL,
      sealed BLOB NOT NULL
    ) STRICT;
    -- The type of every observation, as JSON, once it is known.
    CREATE TABLE observation (
      shape TEXT NOT NULL,
      dtype TEXT NOT NULL
    ) STRICT;
"""
_PLAIN_COLUMNS = "position, id, at, glyph, label, ge_right, right"


def _encrypt_all(keys: SampleKeys, db: sqlite3.Connection) -> None:
    """Encrypt the rows and the mixture of a store from before there were keys."""
    run_script(db, _ENCRYPTED_SCHEMA)
    rows = db.execute(f"SELECT {_PLAIN_COLUMNS}, checksum FROM plain_samples").fetchall()
    mixtures = db.execute("SELECT release, tensors, checksum FROM plain_personal").fetchall()
    keys.add(len(rows) + len(mixtures) + SPARE)
    for *columns, ge_right, right, checksum in rows:
        row = StoredSample._make([*columns, bool(ge_right), bool(right)])
        if row.checksum != checksum:
            raise StoreDamagedError(f"store: sample {row.position} is damaged")
        db.execute("INSERT INTO samples VALUES (?, ?, ?)", row.seal(keys))
    for release, tensors, checksum in mixtures:
        if zlib.crc32(tensors) == checksum:
            sealed = keys.seal(tensors, release.encode())
            db.execute("INSERT INTO personal VALUES (?, ?, ?)", (release, *sealed))
    run_script(db, "DROP TABLE plain_samples; DROP TABLE plain_personal;")


MIGRATIONS: list[str | Callable[[SampleKeys, sqlite3.Connection], None]] = [
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
    _encrypt_all,
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

    def selects(self, row: StoredSample) -> bool:
        """Return whether a correction is selected."""
        return (
            self.id in (None, row.id)
            and self.label in (None, row.label)
            and (self.start is None or row.at >= self.start)
            and (self.end is None or row.at < self.end)
        )


class Store:
    """The database of one device and its keys; callers let threads take turns.

    Opening it migrates an older schema. A damaged database is moved to a directory beside it, its
    undamaged corrections go into a new one, and `notices` says so. Raises InputError when the
    schema is newer than this program, the keys are missing, another program has the store open, or
    the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: list[str] = []
        try:
            self._lock = _locked(path)
            try:
                self._open()
            except BaseException:
                self._lock.close()
                raise
        except OSError as error:
            raise StoreError(
                f"store: {path} cannot be used ({error}); check the disk and the home"
            ) from error

    def close(self) -> None:
        """Close the files."""
        with suppress(StoreError):
            self._cut_off_log()  # SQLite would delete it as it is
        self._db.close()
        self._lock.close()

    def rows(self) -> list[StoredSample]:
        """Return every correction, the oldest first."""
        return self._unsealed("ORDER BY position")

    def select(self, selection: Selection) -> list[int]:
        """Return the positions of the selected corrections, the oldest first."""
        return [row.position for row in self.rows() if selection.selects(row)]

    def newest(self, n: int) -> list[StoredSample]:
        """Return at most n corrections, the newest first."""
        return self._unsealed("ORDER BY position DESC LIMIT ?", n)

    def known(self, ids: Collection[str]) -> set[str]:
        """Return those of the ids that are stored."""
        return set(ids) & set(self._names.values())

    def judged(self, start: float, end: float) -> list[Judged]:
        """Return how the kept corrections of a period were judged, the oldest first.

        Where a sample has no opinion, the local expert counts as right where the global one was,
        and the gate as closed.
        """
        opinions = {
            position: (bool(le_right), bool(opened))
            for position, le_right, opened in self._db.read("SELECT * FROM opinions")
        }
        judged = []
        for row in filter(Selection(start=start, end=end).selects, self.rows()):
            le_right, opened = opinions.get(row.position, (row.ge_right, False))
            judged.append(Judged(row.label, row.ge_right, le_right, row.right, opened))
        return judged

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
        for release, key, sealed in self._db.read("SELECT * FROM personal"):
            tensors = self._keys.unseal(key, sealed, release.encode())
            if tensors is not None:
                return StoredMixture(release, tensors)
        return None

    @property
    def observation(self) -> ObservationType | None:
        """The type of the observations, None where it was not recorded."""
        for shape, dtype in self._db.read("SELECT * FROM observation"):
            return ObservationType(tuple(json.loads(shape)), dtype)
        return None

    def set_observation(self, observation: ObservationType) -> None:
        """Record the type of the observations."""
        shape = json.dumps(observation.shape)
        with self._db.transaction() as db:
            db.execute("DELETE FROM observation")
            db.execute("INSERT INTO observation VALUES (?, ?)", (shape, observation.dtype))

    @property
    def size(self) -> int:
        """Bytes on disk."""
        parts = (self.path, _beside(self.path, "-wal"), *self._keys.files)
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
            self._provide_keys(db, len(rows))
            _delete(db, evicted)
            sealed = [row.seal(self._keys) for row in rows]
            db.executemany("INSERT INTO samples VALUES (?, ?, ?)", sealed)
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
        self._drop_names(evicted)
        self._names |= {row.position: row.id for row in rows}

    def remove(self, positions: Collection[int], everything: bool = False) -> None:
        """Remove corrections, their guesses, and the mixture that was learned from them.

        With `everything`, all counts are removed, too. Traces stay on the disk until `scrub`.
        """
        removed = [row for one in positions for row in self._unsealed("WHERE position = ?", one)]
        with self._db.transaction() as db:
            db.executemany(
                "UPDATE windows SET guesses = guesses - 1, ge_right = ge_right - ?, "
                "right = right - ? WHERE number = ?",
                [(row.ge_right, row.right, row.position // WINDOW) for row in removed],
            )
            _delete(db, positions)
            db.execute("DELETE FROM windows WHERE guesses <= 0 OR ?", (everything,))
            db.execute("DELETE FROM personal")
        self._drop_names(positions)

    def scrub(self) -> None:
        """Erase the traces of removed corrections: their keys, the log, and damaged databases.

        Mixtures that are no longer in use lose their keys, too. Raises StoreError when the disk
        fails, when there is no room to write the log back to the file, or when another program
        keeps it open.
        """
        with self._db.transaction() as db:
            self._destroy_unused_keys(db)
        self._cut_off_log()
        for copy in self.path.parent.glob(f"{SET_ASIDE}*/*"):
            _overwrite_all(copy)
            copy.unlink()

    def set_personal(self, personal: StoredMixture | None, version: int) -> None:
        """Store the mixture in use in place of the one before."""
        with self._db.transaction() as db:
            self._provide_keys(db, 1)
            db.execute("DELETE FROM personal")
            if personal is not None:
                release, tensors = personal
                sealed = self._keys.seal(tensors, release.encode())
                db.execute("INSERT INTO personal VALUES (?, ?, ?)", (release, *sealed))
            db.execute("UPDATE counters SET personal_version = ?", (version,))

    def _open(self) -> None:
        path = self.path
        # Carved before SQLite opens the file: it silently drops what a damaged log has behind the
        # damage. A database that an interrupted start set aside is carved again.
        found = [carve(place / path.name) for place in sorted(path.parent.glob(f"{SALVAGING}*"))]
        written = {row.position: row for rows in (carve(path), *found) for row in rows}
        self._keys = SampleKeys(path)
        try:
            self._open_database()
        except StoreDamagedError:
            _set_aside(path, self._keys)
            self._open_database()
        try:
            known = self.known([row.id for row in written.values()])
            self._restore(
                [
                    row
                    for row in written.values()
                    if row.position >= self.next_position and row.id not in known
                ]
            )
            with suppress(StoreError):  # on a full disk traces stay for now
                with self._db.transaction() as db:
                    self._destroy_unused_keys(db)
                self._cut_off_log()
        except BaseException:
            self._db.close()
            raise

    def _open_database(self) -> None:
        """Open the database and read all of it; raises StoreDamagedError where that fails."""
        self._db = Database(
            self.path,
            [step if isinstance(step, str) else partial(step, self._keys) for step in MIGRATIONS],
            name="store",
            mend="restart the agent, which saves what is whole",
            pragmas={
                "journal_mode": "WAL",
                "synchronous": "FULL",
                "secure_delete": "ON",
                "cell_size_check": "ON",
                "temp_store": "MEMORY",
            },
            timeout_seconds=1.0,
            checked=True,
        )
        try:
            if self._keys.are_missing and self._db.read("SELECT 1 FROM samples LIMIT 1"):
                raise self._keyless()
            if self._db.read("SELECT count(*) FROM counters") != [(1,)]:
                raise self._db.damaged()
            self._names = {row.position: row.id for row in self.rows()}
        except BaseException:
            self._db.close()
            raise

    def _restore(self, rows: Sequence[StoredSample]) -> None:
        """Store salvaged rows, and only then mark damaged databases as done."""
        if rows:
            with self._db.transaction():
                # None is destroyed yet: this is all there is of the rows until they are restored.
                self._keys.add(len(rows) + SPARE)
            self.append(sorted(rows))
            self.notices.append(f"{len(rows)} corrections were saved from a damaged store.")
        for place in self.path.parent.glob(f"{SALVAGING}*"):
            kept = place.rename(place.with_name(place.name.replace(SALVAGING, SET_ASIDE)))
            self.notices.append(f"The store was damaged; the damaged file is kept in {kept}.")

    def _unsealed(self, clause: str, *values: object) -> list[StoredSample]:
        columns = "SELECT position, key, sealed FROM samples"
        found = self._db.read(f"{columns} {clause}", values)
        rows = [
            StoredSample.unseal(position, key, sealed, self._keys)
            for position, key, sealed in found
        ]
        whole = [row for row in rows if row is not None]
        if rows and not whole:
            raise self._keyless()
        if len(whole) < len(rows):
            raise self._db.damaged()
        return whole

    def _keyless(self) -> StoreError:
        master, keys = (file.name for file in self._keys.files[::2])
        return StoreError(
            f"store: {self.path} cannot be read without its keys; put {master} and {keys} back "
            "beside it, or move it away to begin anew"
        )

    def _drop_names(self, positions: Collection[int]) -> None:
        for position in positions:
            self._names.pop(position, None)

    def _provide_keys(self, db: sqlite3.Connection, n: int) -> None:
        """Make sure that n records can be encrypted."""
        if self._keys.fresh < n:
            self._destroy_unused_keys(db)
        if self._keys.fresh < n:
            self._keys.add(n + SPARE)

    def _destroy_unused_keys(self, db: sqlite3.Connection) -> None:
        used = db.execute("SELECT key FROM samples UNION SELECT key FROM personal")
        self._keys.destroy_all_but({key for (key,) in used})

    def _cut_off_log(self) -> None:
        """Write the log back to the file, overwrite it, and cut it."""
        self._checkpoint("RESTART")
        with self._db.transaction():  # keeps others from writing to it
            _overwrite_all(_beside(self.path, "-wal"))
        self._checkpoint("TRUNCATE")

    def _checkpoint(self, mode: str) -> None:
        [(busy, _, _)] = self._db.read(f"PRAGMA wal_checkpoint({mode})")
        if busy:
            raise _busy()


def _busy() -> StoreError:
    return StoreError("store: another program keeps it open; close that one and try again")


def _locked(path: Path) -> BinaryIO:
    """Lock the store: two programs would destroy each other's keys."""
    lock = os.fdopen(os.open(_beside(path, "-lock"), os.O_RDWR | os.O_CREAT, 0o600), "rb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise _busy() from None
    return lock


def _overwrite_all(path: Path) -> None:
    overwrite(path, bytes(path.stat().st_size))


def _delete(db: sqlite3.Connection, positions: Collection[int]) -> None:
    for table in ("samples", "opinions"):
        db.executemany(f"DELETE FROM {table} WHERE position = ?", [(p,) for p in positions])


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _set_aside(path: Path, keys: SampleKeys) -> None:
    """Move a damaged database to a directory of its own, with a copy of its keys."""
    aside = path.with_name(f"{SALVAGING}{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    aside.mkdir(mode=0o700)
    for file in keys.files:
        if file.exists():
            write_private(aside / file.name, file.read_bytes())
    sync_entry(aside)
    sync_entry(aside.parent)
    for part in (path, _beside(path, "-wal"), _beside(path, "-shm")):
        if part.exists():
            part.rename(aside / part.name)
