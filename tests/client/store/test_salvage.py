import random
import shutil
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedhw.handwriting.glyph import GLYPH
from fedhw_client.store.corrections import Store
from fedhw_client.store.salvage import PAGE_BYTES, carve
from fedhw_client.store.stored_sample import StoredSample

SCHEMA = """
CREATE TABLE samples (
  position INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  at REAL NOT NULL,
  glyph BLOB NOT NULL,
  label TEXT NOT NULL,
  ge_right INTEGER NOT NULL,
  right INTEGER NOT NULL,
  checksum INTEGER NOT NULL
) STRICT
"""
FILE_HEADER, WAL_HEADER, FRAME = 100, 32, 24 + PAGE_BYTES


def sample(position: int, at: float | None = None, label: str = "7") -> StoredSample:
    rng = random.Random(position)
    return StoredSample(
        position,
        f"sample-{position}",
        1.7e9 + rng.random() if at is None else at,
        rng.randbytes(GLYPH.nbytes),
        label,
        rng.random() < 0.5,
        rng.random() < 0.5,
    )


ROWS = [sample(position) for position in range(1, 121)]


def connect(database: Path, page: int = PAGE_BYTES) -> sqlite3.Connection:
    connection = sqlite3.connect(database)
    connection.execute(f"PRAGMA page_size = {page}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection


def insert(connection: sqlite3.Connection, rows: Sequence[StoredSample]) -> None:
    for row in rows:
        with connection:
            connection.execute(
                "INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, row.checksum)
            )


def checkpoint(connection: sqlite3.Connection) -> None:
    assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


def wal_of(database: Path) -> Path:
    return database.with_name(f"{database.name}-wal")


def database_with(database: Path, rows: Sequence[StoredSample], page: int = PAGE_BYTES) -> Path:
    with closing(connect(database, page)) as connection:
        connection.execute(SCHEMA)
        insert(connection, rows)
    assert not wal_of(database).exists()
    return database


class Files(NamedTuple):
    """A database and its log as they were when the power went."""

    database: bytes
    wal: bytes


def copied(database: Path, to: Path) -> Path:
    """The files of an open database, as a crash would leave them."""
    shutil.copy(database, to)
    shutil.copy(wal_of(database), wal_of(to))
    return to


@pytest.fixture(scope="module")
def checkpointed(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """All rows in the database, nothing in the log."""
    database = tmp_path_factory.mktemp("checkpointed") / "samples.db"
    return Files(database_with(database, ROWS).read_bytes(), b"")


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """All rows in the log, nothing in the database."""
    database = tmp_path_factory.mktemp("logged") / "samples.db"
    with closing(connect(database)) as connection:
        connection.execute(SCHEMA)
        checkpoint(connection)
        insert(connection, ROWS)
        return Files(database.read_bytes(), wal_of(database).read_bytes())


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "samples.db"


def carved(files: Files) -> list[StoredSample]:
    with tempfile.TemporaryDirectory() as directory:
        database = Path(directory) / "samples.db"
        database.write_bytes(files.database)
        wal_of(database).write_bytes(files.wal)
        return carve(database)


def places(content: bytes, first: int, step: int) -> dict[StoredSample, set[int]]:
    """The pages or frames each row is in, found by its glyph."""
    found = defaultdict(set)
    for row in ROWS:
        at = content.find(row.observation)
        while at >= 0:
            found[row].add((at - first) // step)
            at = content.find(row.observation, at + 1)
    return found


Damage = list[tuple[float, bytes]]

# Where as a share of the file, and what is written there.
damages = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=6000)),
    min_size=1,
    max_size=12,
)


def damaged(content: bytes, damage: Damage, first: int, step: int) -> tuple[bytes, set[int]]:
    """The content after damage, and the pages or frames that it met."""
    spoilt, met = bytearray(content), set()
    for share, span in damage:
        start = int(share * len(content))
        end = min(start + len(span), len(content))
        spoilt[start:end] = span[: end - start]
        met |= set(range((start - first) // step, (end - 1 - first) // step + 1))
    return bytes(spoilt), met


def test_an_intact_database_gives_every_row(database: Path) -> None:
    assert carve(database_with(database, ROWS)) == ROWS


@pytest.mark.parametrize(
    "at", [0.0, -0.0, 1.0, 2.0, 200.0, 1.7e9, -3.0, 2.0**40, 2.0**47, 2.0**60, 1e300, 1.5]
)
def test_a_time_comes_back_however_it_is_stored(database: Path, at: float) -> None:
    row = sample(1, at=at)
    (found,) = carve(database_with(database, [row]))
    assert found == row
    assert isinstance(found.at, float)


@pytest.mark.parametrize("position", [1, 127, 128, 2**14, 2**31, 2**49, 2**56, 2**63 - 1])
@pytest.mark.parametrize("label", ["a", "é", "字", "\N{GOTHIC LETTER AHSA}"])
def test_any_position_and_label_come_back(database: Path, position: int, label: str) -> None:
    row = sample(position, label=label)
    assert carve(database_with(database, [row])) == [row]


@pytest.mark.parametrize("page", [1024, 2048, 8192, 65536])
def test_pages_of_any_size_are_read(database: Path, page: int) -> None:
    assert carve(database_with(database, ROWS, page)) == ROWS


@pytest.mark.parametrize("page", [1024, 65536])
def test_frames_of_any_size_are_read(database: Path, page: int) -> None:
    with closing(connect(database, page)) as connection:
        connection.execute(SCHEMA)
        insert(connection, ROWS[:9])
        assert carve(database) == ROWS[:9]


def test_a_row_whose_checksum_fails_is_left_out(database: Path) -> None:
    database_with(database, ROWS[:3])
    with closing(connect(database)) as connection, connection:
        connection.execute("UPDATE samples SET label = '8' WHERE position = 2")
    assert carve(database) == [ROWS[0], ROWS[2]]


def test_the_checksum_knows_where_a_field_ends() -> None:
    row = StoredSample(1, "ab", 0.5, b"c", "d", True, False)
    assert row.checksum != row._replace(id="a", observation=b"bc").checksum
    assert row.checksum != row._replace(observation=b"", label="cd").checksum


def test_the_header_and_the_schema_are_not_needed(checkpointed: Files) -> None:
    rng = random.Random(0)
    for size in (FILE_HEADER, PAGE_BYTES):
        for junk in (bytes(size), rng.randbytes(size)):
            assert carved(Files(junk + checkpointed.database[size:], b"")) == ROWS


def test_a_wrong_page_size_in_the_header_does_no_harm(checkpointed: Files) -> None:
    for size in (b"\x00\x00", b"\x00\x01", b"\x02\x00", b"\x80\x00", b"\xff\xff"):
        content = checkpointed.database
        assert carved(Files(content[:16] + size + content[18:], b"")) == ROWS


@given(damage=damages)
@example(damage=[(0.0, bytes(6000)), (0.3, bytes(6000)), (0.6, bytes(6000))])
def test_damage_takes_rows_of_its_pages_alone_and_invents_none(
    checkpointed: Files, damage: Damage
) -> None:
    content, met = damaged(checkpointed.database, damage, 0, PAGE_BYTES)
    found = set(carved(Files(content, b"")))
    assert found <= set(ROWS)
    assert found >= {
        row
        for row, pages in places(checkpointed.database, 0, PAGE_BYTES).items()
        if not pages & met
    }


@given(damage=damages)
@example(damage=[(0.0, bytes(WAL_HEADER))])
def test_damage_to_the_log_takes_rows_of_its_frames_alone_and_invents_none(
    logged: Files, damage: Damage
) -> None:
    content, met = damaged(logged.wal, damage, WAL_HEADER, FRAME)
    found = set(carved(Files(logged.database, content)))
    assert found <= set(ROWS)
    assert found >= {
        row for row, frames in places(logged.wal, WAL_HEADER, FRAME).items() if frames - met
    }


def test_cells_of_a_damaged_page_are_tried_one_by_one(checkpointed: Files) -> None:
    glyph = checkpointed.database.find(ROWS[50].observation)
    content = bytearray(checkpointed.database)
    content[glyph + 100] ^= 1
    assert carved(Files(bytes(content), b"")) == [row for row in ROWS if row != ROWS[50]]


@given(share=st.floats(0, 1))
def test_a_truncated_file_gives_the_rows_before_the_cut(checkpointed: Files, share: float) -> None:
    content = checkpointed.database[: int(share * len(checkpointed.database))]
    found = set(carved(Files(content, b"")))
    whole = set(range(len(content) // PAGE_BYTES))
    assert found <= set(ROWS)
    assert found >= {
        row for row, pages in places(checkpointed.database, 0, PAGE_BYTES).items() if pages <= whole
    }


@given(content=st.binary(max_size=9000), wal=st.binary(max_size=9000))
def test_noise_holds_no_rows(content: bytes, wal: bytes) -> None:
    assert carved(Files(content, wal)) == []


@given(seed=st.integers(0, 2**32))
def test_a_leaf_of_noise_holds_no_rows(seed: int) -> None:
    assert carved(Files(b"\x0d" + random.Random(seed).randbytes(PAGE_BYTES), b"")) == []


def test_rows_that_are_only_in_the_log_are_found(logged: Files) -> None:
    assert carved(Files(logged.database, b"")) == []
    assert carved(logged) == ROWS
    assert carved(Files(b"", logged.wal)) == ROWS


@pytest.mark.parametrize("byte", [0, 8, 11, 16, 20, 31])
def test_a_damaged_log_header_does_not_hide_the_frames(logged: Files, byte: int) -> None:
    wal = bytearray(logged.wal)
    wal[byte] ^= 0xFF
    assert carved(Files(logged.database, bytes(wal))) == ROWS


def test_database_and_log_complete_each_other(database: Path, tmp_path: Path) -> None:
    with closing(connect(database)) as connection:
        connection.execute(SCHEMA)
        insert(connection, ROWS[:60])
        checkpoint(connection)
        insert(connection, ROWS[60:])
        crashed = copied(database, tmp_path / "crashed.db")
    assert carve(crashed) == ROWS


def test_frames_of_an_earlier_run_of_the_log_are_not_read(database: Path) -> None:
    with closing(connect(database)) as connection:
        connection.execute(SCHEMA)
        insert(connection, ROWS[:20])
        with connection:
            connection.execute("DELETE FROM samples WHERE position = 3")
        # Without truncation the next write starts at the front of a log that keeps old frames.
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
        insert(connection, ROWS[20:21])
        assert ROWS[2].observation in wal_of(database).read_bytes()
        assert carve(database) == [row for row in ROWS[:21] if row != ROWS[2]]


@pytest.mark.parametrize("forgotten", [[1], [120], list(range(30, 90)), list(range(1, 121, 2))])
def test_what_was_forgotten_does_not_come_back(database: Path, forgotten: list[int]) -> None:
    with closing(connect(database)) as connection:
        connection.execute(SCHEMA)
        insert(connection, ROWS)
        with connection:
            connection.executemany(
                "DELETE FROM samples WHERE position = ?", [(position,) for position in forgotten]
            )
        checkpoint(connection)
        assert carve(database) == [row for row in ROWS if row.position not in forgotten]
        left = database.read_bytes() + wal_of(database).read_bytes()
        assert not any(row.observation in left for row in ROWS if row.position in forgotten)


def test_of_rows_at_one_position_the_last_logged_is_returned(database: Path) -> None:
    later = sample(2)._replace(position=1)
    with closing(connect(database)) as connection:
        connection.execute(SCHEMA)
        insert(connection, [sample(1)])
        checkpoint(connection)
        with connection:
            connection.execute("DELETE FROM samples")
        insert(connection, [later])
        assert carve(database) == [later]


def test_of_rows_with_one_id_the_last_is_returned(database: Path) -> None:
    again = sample(3)._replace(id=ROWS[0].id)
    with closing(connect(database)) as connection:
        connection.execute(SCHEMA)
        insert(connection, ROWS[:2])
        with connection:
            connection.execute("DELETE FROM samples WHERE position = 1")
        insert(connection, [again])
        assert carve(database) == [ROWS[1], again]


def test_an_empty_file_holds_no_rows(database: Path) -> None:
    database.touch()
    assert carve(database) == []


def test_a_file_that_cannot_be_read_is_an_error_and_a_missing_one_is_empty(tmp_path: Path) -> None:
    assert carve(tmp_path / "missing.db") == []
    with pytest.raises(IsADirectoryError):
        carve(tmp_path)


def test_carving_changes_nothing(logged: Files, database: Path) -> None:
    database.write_bytes(logged.database)
    wal_of(database).write_bytes(logged.wal)
    carve(database)
    assert Files(database.read_bytes(), wal_of(database).read_bytes()) == logged
    assert len(list(database.parent.iterdir())) == 2


# Encrypted rows, as stores have had them since version 3 of their schema; those before are above.


class Encrypted(NamedTuple):
    """A store's files, and where each row is in its database."""

    directory: Path
    sealed: dict[StoredSample, bytes]


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Encrypted:
    directory = tmp_path_factory.mktemp("encrypted")
    with closing(Store(directory / "samples.db")) as store:
        store.append(ROWS)
    with closing(sqlite3.connect(directory / "samples.db")) as db:
        found = db.execute("SELECT sealed FROM samples ORDER BY position").fetchall()
    return Encrypted(directory, {row: one for row, (one,) in zip(ROWS, found, strict=True)})


@given(damage=damages)
@settings(max_examples=15)
@example(damage=[(0.0, bytes(6000)), (0.5, bytes(6000))])
def test_damage_takes_encrypted_rows_of_its_pages_alone(
    encrypted: Encrypted, damage: Damage
) -> None:
    whole = (encrypted.directory / "samples.db").read_bytes()
    content, met = damaged(whole, damage, 0, PAGE_BYTES)
    with tempfile.TemporaryDirectory() as directory:
        place = shutil.copytree(encrypted.directory, directory, dirs_exist_ok=True)
        (Path(place) / "samples.db").write_bytes(content)
        found = set(carve(Path(place) / "samples.db"))
    assert found <= set(ROWS)
    assert found >= {
        row for row, one in encrypted.sealed.items() if whole.find(one) // PAGE_BYTES not in met
    }


def test_encrypted_rows_come_back_from_the_log_and_from_overflow_pages(database: Path) -> None:
    sizes = (1, 3500, 4000, 4100, 9000, 64 * 1024)
    rows = [sample(n)._replace(observation=random.Random(n).randbytes(n)) for n in sizes]
    with closing(Store(database)) as store:
        store.append(rows)
        assert carve(database) == rows
    assert not wal_of(database).exists()
    assert carve(database) == rows


def test_encrypted_rows_without_their_keys_do_not_come_back(database: Path) -> None:
    with closing(Store(database)) as store:
        store.append(ROWS)
    for keys in database.parent.glob("samples.db-keys*"):
        keys.unlink()
    assert carve(database) == []
