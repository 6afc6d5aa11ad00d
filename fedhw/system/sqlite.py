"""SQLite files: opened, migrated, read, written and, where they fail, explained in one way.

Waiting for another process comes before the first statement of a transaction runs, so what is
waited for never runs twice. SQLite keeps real time.
"""

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedhw.errors import InputError


class StoreError(InputError):
    """The disk or the file refuses; nothing is wrong with what was asked."""


class StoreFullError(StoreError):
    """There is no room on the disk."""


class StoreDamagedError(StoreError):
    """The file is not as it was written."""


class Database:
    """One SQLite file; threads take turns, processes wait for each other `timeout_seconds`.

    The file is made, readable to its owner only, where there is none. `migrations` make each
    schema version, which is the file's `user_version`, of the one before, from an empty file on;
    opening brings an older file up to date, whole or not at all. `pragmas` are set on each opening.
    When `checked`, every page is checked first. Messages begin with `name`, and that of a damaged
    file ends with `mend`.

    Raises StoreDamagedError, StoreFullError or StoreError where the file or the disk refuses, and
    InputError, the file left as it is, where its schema is newer than the migrations.
    """

    def __init__(
        self,
        path: Path,
        migrations: Sequence[str],
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
            # Statements are sent as they are: transactions begin and end where we say.
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
        """Let go of the file."""
        with self._turn:
            self._connection.close()

    def read(self, query: str, values: Any = ()) -> list[Any]:
        """Return the rows that a statement gives."""
        with self._turn, self._explaining():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection to write with: all of it or nothing, and nobody else meanwhile."""
        with self._turn, self._explaining():
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def damaged(self) -> StoreDamagedError:
        """What to raise where the file's owner finds that it is not as it was written."""
        return StoreDamagedError(f"{self._name}: {self._path} is damaged; {self._mend}")

    def _set(self, pragma: str, value: str) -> None:
        try:
            self._connection.execute(f"PRAGMA {pragma} = {value}").fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY":
                raise
            # Two processes that both begin a write-ahead log do not wait for each other by
            # themselves; to begin a transaction does wait, and fails when it was too long.
            self._connection.execute("BEGIN EXCLUSIVE")
            self._connection.execute("ROLLBACK")
            self._set(pragma, value)

    def _migrate(self, migrations: Sequence[str]) -> None:
        if self._version() == len(migrations):
            return
        with self.transaction() as db:
            version = self._version()  # somebody else may have done it meanwhile
            if version > len(migrations):
                raise InputError(
                    f"{self._name}: the schema {version} of {self._path} is newer than "
                    f"{len(migrations)}, the newest this program knows; update fedhw"
                )
            try:
                for migration in migrations[version:]:
                    run_script(db, migration)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname != "SQLITE_ERROR":
                    raise
                # Not damage: the file must stay where it is.
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
        # A damaged file may have SQLite complain in what is no text.
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self._explained(error) from error

    def _explained(self, error: sqlite3.Error | UnicodeDecodeError) -> StoreError:
        misuse = isinstance(error, sqlite3.ProgrammingError)
        name = getattr(error, "sqlite_errorname", "SQLITE_MISUSE" if misuse else "SQLITE_CORRUPT")
        match name.split("_")[1]:
            case "FULL":
                return StoreFullError(
                    f"{self._name}: the disk is full; free some space, nothing stored is lost"
                )
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
        # Even a statement that SQLite cannot compile: ours are tested, so the schema is damaged.
        return self.damaged()

    def _unusable(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self._name}: {self._path} cannot be used ({error}); check the disk and the home"
        )


def run_script(db: sqlite3.Connection, script: str) -> None:
    """Run the statements of a script, in the transaction that `db` is in."""
    statement = ""
    for part in script.split(";"):
        statement += f"{part};"  # one inside a string, a comment or a trigger ends nothing
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""
    if statement:
        db.execute(statement)  # which says what is wrong with it
