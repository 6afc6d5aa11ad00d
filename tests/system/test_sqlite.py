import multiprocessing
import os
import resource
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw.system.sqlite import (
    Database,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    run_script,
)

SCHEMAS = [
    "CREATE TABLE glyphs (number INTEGER PRIMARY KEY, content BLOB NOT NULL) STRICT;",
    """
    -- What was said; of whom, is not kept.
    CREATE TABLE labels (number INTEGER PRIMARY KEY, label TEXT NOT NULL) STRICT;
    INSERT INTO labels SELECT number, 'a;b' FROM glyphs; -- an odd label
    """,
]
LOG = {"journal_mode": "WAL", "synchronous": "FULL"}
JOURNAL = {"synchronous": "EXTRA"}
FORK = multiprocessing.get_context("fork")


def opened(
    path: Path,
    pragmas: dict[str, str],
    migrations: list[str] = SCHEMAS,
    timeout_seconds: float = 10.0,
    checked: bool = True,
) -> Database:
    return Database(
        path,
        migrations,
        name="cards",
        mend="draw new ones",
        pragmas=pragmas,
        timeout_seconds=timeout_seconds,
        checked=checked,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cards.db"


@pytest.fixture(params=[LOG, JOURNAL], ids=["write-ahead log", "rollback journal"])
def pragmas(request: Any) -> dict[str, str]:
    return dict(request.param)


@pytest.fixture
def reopen(path: Path, pragmas: dict[str, str]) -> Callable[..., Database]:
    return partial(opened, path, pragmas)


def write(database: Database, *contents: bytes) -> None:
    with database.transaction() as db:
        db.executemany("INSERT INTO glyphs (content) VALUES (?)", [(c,) for c in contents])


def written(database: Database) -> list[bytes]:
    return [content for (content,) in database.read("SELECT content FROM glyphs ORDER BY number")]


def test_what_was_written_is_there_after_a_restart(reopen, path):
    with closing(reopen()) as database:
        write(database, b"one", b"two")
    assert path.stat().st_mode & 0o777 == 0o600
    with closing(reopen()) as database:
        assert written(database) == [b"one", b"two"]
        assert database.read("SELECT content FROM glyphs WHERE number = ?", (2,)) == [(b"two",)]


def test_pragmas_are_those_that_were_asked_for(reopen, pragmas):
    with closing(reopen()) as database:
        [(journal,)] = database.read("PRAGMA journal_mode")
        [(synchronous,)] = database.read("PRAGMA synchronous")
    expected = ("wal", 2) if pragmas == LOG else ("delete", 3)
    assert (journal, synchronous) == expected


@pytest.mark.parametrize("failing", [RuntimeError, KeyboardInterrupt])
def test_a_transaction_is_whole_or_nothing(reopen, failing):
    def fail(database: Database) -> None:
        with database.transaction() as db:
            db.execute("INSERT INTO glyphs (content) VALUES (?)", (b"two",))
            raise failing

    with closing(reopen()) as database:
        write(database, b"one")
        with pytest.raises(failing):
            fail(database)
        assert written(database) == [b"one"]
        write(database, b"three")
        assert written(database) == [b"one", b"three"]


def test_a_constraint_that_does_not_hold_is_no_damage(reopen):
    def twice(database: Database) -> None:
        with database.transaction() as db:
            db.executemany("INSERT INTO glyphs VALUES (1, ?)", [(b"one",), (b"two",)])

    with closing(reopen()) as database:
        with pytest.raises(StoreError, match=r"cannot be used \(UNIQUE") as told:
            twice(database)
        assert not isinstance(told.value, StoreDamagedError)
        assert written(database) == []


def test_threads_and_processes_take_turns(reopen, path):
    with closing(reopen()) as one, closing(reopen()) as other:

        def count(database: Database) -> None:
            for _ in range(20):
                with database.transaction() as db:
                    [(known,)] = db.execute("SELECT count(*) FROM glyphs").fetchall()
                    db.execute("INSERT INTO glyphs (content) VALUES (?)", (b"%d" % known,))

        threads = [threading.Thread(target=count, args=(each,)) for each in (one, one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert written(one) == [b"%d" % number for number in range(60)]


def _race(path: Path, pragmas: dict[str, str], start: Any) -> None:
    start.wait(60)
    with closing(opened(path, pragmas)) as database:
        write(database, b"mine")


def test_processes_that_begin_a_file_at_once_all_get_in(tmp_path, pragmas):
    for attempt in range(5):
        path, start = tmp_path / f"{attempt}.db", FORK.Barrier(4)
        racers = [FORK.Process(target=_race, args=(path, pragmas, start)) for _ in range(4)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join(60)
        assert [racer.exitcode for racer in racers] == [0] * 4
        with closing(opened(path, pragmas)) as database:
            assert written(database) == [b"mine"] * 4


def test_to_begin_a_write_ahead_log_waits_for_whoever_writes(path):
    opened(path, JOURNAL).close()
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    done = threading.Timer(0.3, writer.close)
    done.start()
    with closing(opened(path, LOG)) as database:
        write(database, b"one")
    done.join()


def test_an_older_file_is_brought_up_to_date(reopen):
    with closing(reopen(migrations=SCHEMAS[:1])) as database:
        write(database, b"one", b"two")
        assert database.read("PRAGMA user_version") == [(1,)]
    for _ in range(2):
        with closing(reopen()) as database:
            assert written(database) == [b"one", b"two"]
            assert database.read("SELECT * FROM labels") == [(1, "a;b"), (2, "a;b")]
            assert database.read("PRAGMA user_version") == [(2,)]


def test_migrations_that_fail_change_nothing(reopen, path):
    with closing(reopen(migrations=SCHEMAS[:1])) as database:
        write(database, b"one")
    before = path.read_bytes()
    wrong = [*SCHEMAS, "DELETE FROM glyphs; SELECT nonsense FROM nowhere;"]
    with pytest.raises(StoreError, match=r"schema 1 of .*cannot be brought up to date") as told:
        reopen(migrations=wrong)
    assert not isinstance(told.value, StoreDamagedError)  # or it would be moved away
    assert path.read_bytes() == before
    with closing(reopen()) as database:
        assert written(database) == [b"one"]


class Dying(sqlite3.Connection):
    """Kills the process after so many statements."""

    left = 0

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        done = super().execute(statement, *values)
        Dying.left -= 1
        if Dying.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return done


def _die_after(statements: int, path: Path, pragmas: dict[str, str]) -> None:
    Dying.left = statements
    sqlite3.connect = partial(sqlite3.connect, factory=Dying)
    opened(path, pragmas)


def test_killed_at_any_statement_a_migration_is_whole_or_was_not_begun(tmp_path, pragmas):
    found = []
    for statements in range(1, 100):
        path = tmp_path / f"{statements}.db"
        with closing(opened(path, pragmas, SCHEMAS[:1])) as database:
            write(database, b"one")
        killed = FORK.Process(target=_die_after, args=(statements, path, pragmas))
        killed.start()
        killed.join(60)
        with closing(sqlite3.connect(path)) as db:
            [(version,)] = db.execute("PRAGMA user_version").fetchall()
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
        assert tables == ({"glyphs"} if version == 1 else {"glyphs", "labels"})
        with closing(opened(path, pragmas)) as database:
            assert written(database) == [b"one"]
        if killed.exitcode == 0:
            break
        assert killed.exitcode == -signal.SIGKILL
        found.append(version)
    assert found == sorted(found)
    assert {1, 2} == set(found)


def test_a_newer_schema_is_refused_and_left_alone(reopen, path):
    reopen(migrations=[*SCHEMAS, "CREATE TABLE more (number INTEGER);"]).close()
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"schema 3 of .* is newer than 2.*; update fedhw") as told:
        reopen()
    assert not isinstance(told.value, StoreError)
    assert path.read_bytes() == before


def test_whoever_finds_it_busy_is_told_so_and_may_try_again(reopen, path):
    with closing(reopen(timeout_seconds=0.01)) as database:
        with closing(sqlite3.connect(path, isolation_level=None)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreError, match=r"another program keeps .*cards.db busy; try"):
                write(database, b"one")
        write(database, b"two")
        assert written(database) == [b"two"]


def test_on_a_full_disk_nothing_stored_is_lost(reopen, pragmas):
    reopen().close()
    pragmas["max_page_count"] = "6"
    with closing(reopen()) as database:
        write(database, b"one")
        with pytest.raises(StoreFullError, match="cards: the disk is full; free some space"):
            write(database, bytes(100_000))
        assert written(database) == [b"one"]
        write(database, b"two")
    with closing(reopen()) as database:
        assert written(database) == [b"one", b"two"]


def _fail(path: Path, pragmas: dict[str, str], told: Any) -> None:
    with closing(opened(path, pragmas)) as database:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            write(database, bytes(100_000))
        except StoreError as error:
            told.put((type(error), str(error)))


def test_a_disk_that_fails_is_no_damage(path, pragmas):
    opened(path, pragmas).close()
    told = FORK.SimpleQueue()
    failing = FORK.Process(target=_fail, args=(path, pragmas, told))
    failing.start()
    kind, message = told.get()
    failing.join(60)
    assert kind is StoreError
    assert message.startswith("cards: the disk fails (SQLITE_IOERR_WRITE); free some space")
    with closing(opened(path, pragmas)) as database:
        assert written(database) == []


def test_what_may_not_be_written_may_still_be_read(reopen, pragmas):
    with closing(reopen()) as database:
        write(database, b"one")
    pragmas["query_only"] = "ON"
    with closing(reopen()) as database:
        with pytest.raises(StoreError, match=r"cards\.db cannot be used \(.*readonly") as told:
            write(database, b"two")
        assert not isinstance(told.value, StoreDamagedError)
        assert written(database) == [b"one"]


def test_a_place_that_cannot_be_written_is_told_of(tmp_path, pragmas):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be used .*check the disk and the home"):
        opened(tmp_path / "file" / "cards.db", pragmas)


@pytest.mark.parametrize("content", [b"SQLite format 3\0", b"no database" * 1000])
def test_what_is_no_database_is_damaged(reopen, path, content):
    path.write_bytes(content)
    with pytest.raises(StoreDamagedError, match=r"cards: .*cards\.db is damaged; draw new ones"):
        reopen()
    assert path.read_bytes() == content


def test_a_file_that_is_checked_is_not_migrated_when_a_page_is_lost(reopen, path):
    with closing(reopen(migrations=SCHEMAS[:1])) as database:
        write(database, *(os.urandom(3000) for _ in range(20)))
        database.read("PRAGMA wal_checkpoint(TRUNCATE)")
    content = path.read_bytes()
    damaged = content[:20_480] + bytes(4096) + content[24_576:]
    path.write_bytes(damaged)
    with pytest.raises(StoreDamagedError):
        reopen()
    assert path.read_bytes() == damaged


def test_a_table_that_is_gone_is_damage(reopen):
    with closing(reopen()) as database:
        with database.transaction() as db:
            db.execute("DROP TABLE glyphs")
        with pytest.raises(StoreDamagedError):
            written(database)


def test_once_closed_it_says_so(reopen):
    database = reopen()
    database.close()
    with pytest.raises(StoreError, match=r"cannot be used .*closed"):
        written(database)


STATEMENTS = st.sampled_from(
    [
        "CREATE TABLE {} (x TEXT DEFAULT ';') STRICT;",
        "-- a table; and what is said of it\nCREATE TABLE {} (x TEXT, /* ; */ y TEXT) STRICT;",
        "CREATE TABLE {0} (x TEXT); CREATE TRIGGER {0}t INSERT ON {0} BEGIN SELECT 1; END;",
        "CREATE TABLE {} (x TEXT)\n;\n-- done;",
    ]
)


@given(st.lists(STATEMENTS, max_size=5), st.booleans())
def test_a_script_is_split_where_its_statements_end(parts, last_is_open):
    script = "\n".join(part.format(f"t{number}") for number, part in enumerate(parts))
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.execute("BEGIN")
        run_script(db, script + ("\nCREATE TABLE z (x)" if last_is_open else "\n"))
        assert db.in_transaction
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE sql > ''")}
    assert {name for name in tables if not name.endswith("t")} == {
        f"t{number}" for number in range(len(parts))
    } | ({"z"} if last_is_open else set())


def test_a_script_that_is_cut_off_is_refused():
    with (
        closing(sqlite3.connect(":memory:", isolation_level=None)) as db,
        pytest.raises(sqlite3.OperationalError),
    ):
        run_script(db, "CREATE TABLE a (x); CREATE TABLE b (x TEXT DEFAULT 'never closed;")
