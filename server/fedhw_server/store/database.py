"""One SQLite file that all processes of a coordinator share: read it, or write in a transaction."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedhw.errors import InputError
from fedhw_server.store.schema import MIGRATIONS


class Database:
    """The database of one coordinator; threads and processes may share it."""

    def __init__(self, path: Path) -> None:
        self._turn = threading.RLock()
        path.touch(mode=0o600)
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            for pragma in ("journal_mode = WAL", "synchronous = FULL"):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            self._migrate(path)
        except sqlite3.DatabaseError as error:
            self._db.close()
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise InputError(f"home: {path} is damaged; restore it from a copy") from None

    def close(self) -> None:
        """Let go of the file."""
        with self._turn:
            self._db.close()

    def read(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        """Return the rows that a statement gives."""
        with self._turn:
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the database to write to: all of it or nothing, and nobody else meanwhile."""
        with self._turn:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def _migrate(self, path: Path) -> None:
        with self.transaction() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                raise InputError(
                    f"home: the schema {version} of {path} is newer than {len(MIGRATIONS)}, the "
                    "newest this program knows; update fedhw"
                )
            for number, migration in enumerate(MIGRATIONS[version:], version + 1):
                for statement in filter(str.strip, migration.split(";\n")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {number}")
