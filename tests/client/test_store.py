import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw_client.row import GLYPH_BYTES, Row
from fedhw_client.store import MIGRATIONS, WINDOW, Personal, Selection, Store, StoreError, Window


def row(position: int, label: str = "a", at: float = 0.0, right: bool = True) -> Row:
    glyph = position.to_bytes(4, "big") + bytes(GLYPH_BYTES - 4)
    return Row(position, f"id-{position}", at, glyph, label, False, right)


def rows(*positions: int) -> list[Row]:
    return [row(position, at=float(position)) for position in positions]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "device.db"


@pytest.fixture
def store(path: Path) -> Store:
    return Store(path)


def reopened(store: Store) -> Store:
    store.close()
    return Store(store.path)


def test_what_is_appended_is_there_after_a_restart(store):
    store.append(rows(0, 1, 2))
    store = reopened(store)
    assert store.rows() == rows(0, 1, 2)
    assert store.newest(2) == rows(2, 1)
    assert store.known(["id-1", "id-7"]) == {"id-1"}
    assert store.next_position == 3
    assert store.notices == []


def test_every_commit_is_synced_and_the_file_is_private(store, path):
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA secure_delete").fetchone() == (1,)
    assert path.stat().st_mode & 0o777 == 0o600


def test_all_of_a_batch_is_stored_or_none(store):
    store.append(rows(0))
    with pytest.raises(InputError, match="UNIQUE"):
        store.append([row(1), row(0)])
    assert store.rows() == rows(0)
    assert store.windows(99) == [Window(0, 1, 0, 1)]
    assert store.next_position == 1
    store.append(rows(1))
    assert store.rows() == rows(0, 1)


def test_what_makes_room_goes_but_its_guess_stays_counted(store):
    store.append(rows(0, 1))
    store.append(rows(2), evicted=[0])
    assert store.rows() == rows(1, 2)
    assert store.windows(99) == [Window(0, 3, 0, 3)]


@given(st.lists(st.booleans(), max_size=60), st.sets(st.integers(0, 59)))
@settings(max_examples=20)
def test_windows_count_what_is_left(tmp_path_factory, guesses, removed):
    store = Store(tmp_path_factory.mktemp("store") / "device.db")
    store.append([row(i, right=right) for i, right in enumerate(guesses)])
    removed = {position for position in removed if position < len(guesses)}
    store.remove(removed)
    left = [(i, right) for i, right in enumerate(guesses) if i not in removed]
    expected = [
        Window(number, len(inside), 0, sum(inside))
        for number in range(3)
        if (inside := [right for i, right in left if i // WINDOW == number])
    ]
    assert store.windows(99) == expected
    assert store.next_position == len(guesses)


def test_a_selection_means_what_meets_all_that_is_given(store):
    store.append([row(0, "a", 10), row(1, "b", 20), row(2, "a", 30)])
    assert store.select(Selection(id="id-1")) == [1]
    assert store.select(Selection(label="a")) == [0, 2]
    assert store.select(Selection(start=20)) == [1, 2]
    assert store.select(Selection(end=20)) == [0]
    assert store.select(Selection(label="a", start=20)) == [2]
    assert store.select(Selection(label="' OR 1=1 --")) == []
    assert store.select(Selection()) == [0, 1, 2]
    assert Selection().is_everything
    assert not Selection(id="").is_everything


def test_what_is_removed_is_on_the_disk_no_more(store, path):
    secret = Row(1, "secret-name", 0, b"\xab\xcd" * (GLYPH_BYTES // 2), "a", True, True)
    store.append([row(0), secret, row(2)])
    store.set_personal(Personal("release", b"secret-weights"), 1)
    store.remove([1])
    store.scrub()
    content = b"".join(part.read_bytes() for part in path.parent.iterdir())
    for trace in (b"secret-name", b"\xab\xcd\xab\xcd", b"secret-weights"):
        assert trace not in content
    assert store.personal is None
    assert [kept.position for kept in store.rows()] == [0, 2]


def test_everything_takes_the_counts_and_the_damaged_files_with_it(store, path):
    store.append(rows(0, 1))
    store.close()
    damage(path, 0)
    store = Store(path)
    assert list(path.parent.glob("damaged-*"))
    store.append(rows(2), evicted=[0])
    store.remove(store.select(Selection()), everything=True)
    store.scrub()
    assert store.rows() == []
    assert store.windows(99) == []
    assert not list(path.parent.glob("damaged-*/*"))


def test_the_mixture_in_use_is_the_last_one(store):
    assert store.personal is None
    store.set_personal(Personal("r", b"first"), 1)
    store.set_personal(Personal("r", b"second"), 2)
    store = reopened(store)
    assert store.personal == Personal("r", b"second")
    assert store.personal_version == 2
    store.set_personal(None, 3)
    assert store.personal is None
    assert store.personal_version == 3


def test_a_damaged_mixture_is_none(store):
    store.set_personal(Personal("r", b"first"), 1)
    store._db.execute("UPDATE personal SET tensors = x'00'")
    assert store.personal is None


def test_a_newer_schema_is_refused_and_left_alone(store, path):
    store.append(rows(0))
    store._db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    store.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="update fedhw"):
        Store(path)
    assert path.read_bytes() == before


def test_a_later_migration_keeps_what_is_there(store, monkeypatch):
    store.append(rows(0, 1))
    added = "ALTER TABLE windows ADD COLUMN note TEXT;"
    monkeypatch.setattr("fedhw_client.store.MIGRATIONS", [*MIGRATIONS, added])
    store = reopened(store)
    assert store.rows() == rows(0, 1)
    assert store._db.execute("SELECT note FROM windows").fetchall() == [(None,)]
    assert reopened(store).rows() == rows(0, 1)


def test_a_migration_that_fails_changes_nothing(store, monkeypatch):
    store.append(rows(0, 1))
    broken = "DELETE FROM samples; SELECT nonsense FROM nowhere;"
    monkeypatch.setattr("fedhw_client.store.MIGRATIONS", [*MIGRATIONS, broken])
    with pytest.raises(RuntimeError, match=f"migration {len(MIGRATIONS) + 1} is wrong"):
        reopened(store)
    monkeypatch.undo()
    assert Store(store.path).rows() == rows(0, 1)


def damage(path: Path, offset: int, length: int = 100) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x5a" * length)


@pytest.mark.parametrize("offset", [0, 20, 95])
def test_a_damaged_header_costs_nothing(store, path, offset):
    store.append(rows(*range(50)))
    store.close()
    damage(path, offset)
    again = Store(path)
    assert again.rows() == rows(*range(50))
    assert again.windows(99) == [Window(0, 20, 0, 20), Window(1, 20, 0, 20), Window(2, 10, 0, 10)]
    assert "damaged" in again.notices[0]
    [aside] = path.parent.glob("damaged-*")
    assert (aside / "device.db").exists()
    assert aside.stat().st_mode & 0o777 == 0o700
    again.append(rows(50))
    assert reopened(again).rows() == rows(*range(51))


def test_a_page_that_is_lost_loses_its_corrections_only(store, path):
    store.append(rows(*range(100)))
    store.close()
    pages = path.stat().st_size // 4096
    damage(path, (pages // 2) * 4096, 4096)
    again = Store(path)
    kept = again.rows()
    assert 90 <= len(kept) < 100
    assert set(kept) < set(rows(*range(100)))
    assert again.notices


def test_a_glyph_that_changed_on_the_disk_is_not_believed(store, path):
    store.append(rows(*range(20)))
    store.close()
    content = path.read_bytes()
    where = content.index(row(7).glyph) + 200
    damage(path, where, 1)
    again = Store(path)
    assert again.rows() == rows(*range(7), *range(8, 20))
    assert again.notices


def test_a_damaged_log_loses_nothing_that_is_whole_in_it(store, path, tmp_path):
    store.append(rows(0))
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for position in range(1, 40):
        store.append(rows(position))
    copy = tmp_path / "crashed" / "device.db"
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    log = copy.with_name("device.db-wal")
    log.write_bytes(path.with_name("device.db-wal").read_bytes())
    damage(log, 32 + 24 + 100, 4)  # in the first frame: SQLite drops all that follow
    again = Store(copy)
    assert again.rows() == rows(*range(40))
    assert again.notices


def test_damage_is_survived_even_when_saving_is_cut_off(store, path, monkeypatch):
    store.append(rows(*range(30)))
    store.close()
    damage(path, 0)

    def cut_off(self: Store, saved: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Store, "_restore", cut_off)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                Store(path)
    again = Store(path)
    assert again.rows() == rows(*range(30))
    assert again.notices
    assert not list(path.parent.glob("salvaging-*"))
    assert reopened(again).notices == []


def test_a_log_without_its_database_is_read(store, path):
    store.append(rows(*range(5)))
    log = path.with_name("device.db-wal").read_bytes()
    store.close()
    path.unlink()
    path.with_name("device.db-wal").write_bytes(log)
    assert Store(path).rows() == rows(*range(5))


def test_what_was_never_committed_does_not_come_back(store, path, tmp_path):
    store.append(rows(0))
    store._db.execute("PRAGMA cache_size = 1")
    store._db.execute("BEGIN")
    many = [(*row(n), row(n).checksum) for n in range(1, 200)]
    store._db.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?)", many)
    crashed = tmp_path / "crashed" / "device.db"
    crashed.parent.mkdir()
    for part in (path, path.with_name("device.db-wal")):
        (crashed.parent / part.name).write_bytes(part.read_bytes())
    store._db.execute("ROLLBACK")
    assert b"id-100" in crashed.with_name("device.db-wal").read_bytes()
    again = Store(crashed)
    assert again.rows() == rows(0)
    assert again.notices == []


def test_a_reader_that_keeps_traces_alive_is_told_of(store, path):
    store.append(rows(0, 1))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM samples").fetchone()
    store.remove([0])
    with pytest.raises(StoreError, match="another program"):
        store.scrub()
    reader.close()
    store.scrub()
