"""SQLite databases: opening, migration, transactions, and errors as sentences.

A transaction waits for other processes before its first statement, so no statement runs twice.
SQLite uses real time.
"""

import errno
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedhw.errors import InputError


class StoreError(InputError):
    """The disk or the file fails; the request itself is valid."""


class StoreFullError(StoreError):
    """The disk is full."""


class StoreDamagedError(StoreError):
    """The file is damaged."""


Migration = str | Callable[[sqlite3.Connection], None]
"""A script of SQL, or a function that is called in the migration's transaction."""


class Database:
    """One SQLite file; threads take turns, processes wait for each other `timeout_seconds`.

    A missing file is created, readable to its owner only. Each of the `migrations` leads to the
    next schema version, the file's `user_version`, starting from an empty file; an older file is
    migrated when it is opened, completely or not at all. `pragmas` are set each time. If `checked`,
    all pages are checked first. Messages begin with `name`; that for a damaged file ends with
    `mend`.

    Raises StoreDamagedError, StoreFullError or StoreError where the file or the disk fails, and
    InputError, without changing the file, where its schema is newer than the migrations.
    """

    def __init__(
        self,
        path: Path,
        migrations: Sequence[Migration],
        *,
        name: str,
        mend: str,
        pragmas: Mapping[str, str],
        timeout_seconds: float,
        checked: bool = False,
    ) -> None:
        self._path = path
        self._name = name
        self._mend = mend
        self._turn = threading.RLock()
        try:
            path.touch(mode=0o600)
        except OSError as error:
            raise self._unusable(error) from error
        with self._explaining():
            # No implicit transactions: they begin and end only in `transaction`.
            self._connection = sqlite3.connect(
                path, timeout=timeout_seconds, isolation_level=None, check_same_thread=False
            )
        try:
            with self._explaining():
                for pragma, value in pragmas.items():
                    self._set(pragma, value)
            if checked and self.read("PRAGMA integrity_check(1)") != [("ok",)]:
                raise self.damaged()
            self._migrate(migrations)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            self._connection.close()

    def read(self, query: str, values: Any = ()) -> list[Any]:
        """Return the rows of a statement."""
        with self._turn, self._explaining():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection for an exclusive transaction, which is committed or rolled back.

        An OSError in it is raised as a StoreError, a full disk as a StoreFullError.
        """
        with self._turn, self._explaining():
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def damaged(self) -> StoreDamagedError:
        """Return the error to raise where the content is found to be damaged."""
        return StoreDamagedError(f"{self._name}: {self._path} is damaged; {self._mend}")

    def _set(self, pragma: str, value: str) -> None:
        try:
            self._connection.execute(f"PRAGMA {pragma} = {value}").fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY":
                raise
            # Two processes that both start a write-ahead log do not wait for each other. BEGIN
            # does wait, and fails after the timeout.
            self._connection.execute("BEGIN EXCLUSIVE")
            self._connection.execute("ROLLBACK")
            self._set(pragma, value)

    def _migrate(self, migrations: Sequence[Migration]) -> None:
        if self._version() == len(migrations):
            return
        with self.transaction() as db:
            version = self._version()  # another process may have migrated it meanwhile
            if version > len(migrations):
                raise InputError(
                    f"{self._name}: the schema {version} of {self._path} is newer than "
                    f"{len(migrations)}, the newest this program knows; update fedhw"
                )
            try:
                for migration in migrations[version:]:
                    if callable(migration):
                        migration(db)
                    else:
                        run_script(db, migration)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname != "SQLITE_ERROR":
                    raise
                # This is no damage: the file must stay in place.
                raise StoreError(
                    f"{self._name}: the schema {version} of {self._path} cannot be brought up to "
                    f"date ({error}); nothing in it was changed, use the fedhw that wrote it"
                ) from error
            db.execute(f"PRAGMA user_version = {len(migrations)}")

    def _version(self) -> int:
        [(version,)] = self.read("PRAGMA user_version")
        if version < 0:
            raise self.damaged()
        return int(version)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        # SQLite's message about a damaged file may not be valid UTF-8.
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError, OSError) as error:
            raise self._explained(error) from error

    def _explained(self, error: sqlite3.Error | UnicodeDecodeError | OSError) -> StoreError:
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            return self._full() if full else self._unusable(error)
        misuse = isinstance(error, sqlite3.ProgrammingError)
        name = getattr(error, "sqlite_errorname", "SQLITE_MISUSE" if misuse else "SQLITE_CORRUPT")
        match name.split("_")[1]:
            case "FULL":
                return self._full()
            case "IOERR":
                return StoreError(
                    f"{self._name}: the disk fails ({name}); free some space or check it"
                )
            case "BUSY" | "LOCKED":
                return StoreError(
                    f"{self._name}: another program keeps {self._path} busy; try again later"
                )
            case "READONLY" | "CANTOPEN" | "PERM" | "AUTH" | "NOMEM" | "CONSTRAINT" | "MISUSE":
                return self._unusable(error)
        # This includes statements that do not compile: ours are tested, so the schema is damaged.
        return self.damaged()

    def _full(self) -> StoreFullError:
        return StoreFullError(
            f"{self._name}: the disk is full; free some space, nothing stored is lost"
        )

    def _unusable(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self._name}: {self._path} cannot be used ({error}); check the disk and the home"
        )


def run_script(db: sqlite3.Connection, script: str) -> None:
    """Run the statements of a script in the current transaction of `db`."""
    statement = ""
    for part in script.split(";"):
        statement += f"{part};"  # not complete inside a string, comment or trigger
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""
    if statement:
        db.execute(statement)  # raises an error that tells what is wrong
