import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw.handwriting.glyph import GLYPH
from fedhw.system.sqlite import StoreError
from fedhw_client.store.corrections import (
    MIGRATIONS,
    WINDOW,
    Judged,
    Opinion,
    Selection,
    Store,
    StoredMixture,
    Window,
)
from fedhw_client.store.salvage import carve
from fedhw_client.store.sample_keys import SPARE
from fedhw_client.store.stored_sample import StoredSample


def row(position: int, label: str = "a", at: float = 0.0, right: bool = True) -> StoredSample:
    glyph = position.to_bytes(4, "big") + bytes(GLYPH.nbytes - 4)
    return StoredSample(position, f"id-{position}", at, glyph, label, False, right)


def rows(*positions: int) -> list[StoredSample]:
    return [row(position, at=float(position)) for position in positions]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "device.db"


@pytest.fixture
def store(path: Path) -> Store:
    return Store(path)


@contextmanager
def directly(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as another program has it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


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
    pragmas = ("synchronous", "journal_mode", "secure_delete")
    found = [store._db.read(f"PRAGMA {pragma}") for pragma in pragmas]
    assert found == [[(2,)], [("wal",)], [(1,)]]
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
    secret = StoredSample(1, "secret-name", 0, b"\xab\xcd" * (GLYPH.nbytes // 2), "a", True, True)
    store.append([row(0), secret, row(2)])
    store.set_personal(StoredMixture("release", b"secret-weights"), 1)
    store.remove([1])
    store.scrub()
    content = b"".join(part.read_bytes() for part in path.parent.iterdir())
    for trace in (b"secret-name", b"\xab\xcd\xab\xcd", b"secret-weights"):
        assert trace not in content
    assert store.personal is None
    assert [kept.position for kept in store.rows()] == [0, 2]


def test_keys_of_what_made_room_are_destroyed_and_used_no_more(store):
    batches = [range(first, first + 64) for first in range(0, 3 * SPARE, 64)]
    store.append(rows(*batches[0]))
    first = store._keys._wrapped.copy()
    for evicted, batch in pairwise(batches):
        store.append(rows(*batch), evicted)
    store.set_personal(StoredMixture("r", b"weights"), 1)
    assert len(store._keys._wrapped) == len(first)
    assert not set(first) & set(store._keys._wrapped)
    store = reopened(store)
    assert store.rows() == rows(*batches[-1])
    assert store.personal == StoredMixture("r", b"weights")


def test_more_rows_than_keys_get_more_keys(store):
    many = rows(*range(2 * SPARE))
    store.append(many)
    store.set_personal(StoredMixture("r", b"weights"), 1)
    store = reopened(store)
    assert store.rows() == many
    store.append(rows(2 * SPARE))
    assert reopened(store).rows() == [*many, *rows(2 * SPARE)]


def test_a_store_without_its_keys_is_left_as_it_is(store, path):
    store.append(rows(0))
    store.close()
    before = path.read_bytes()
    keys = {file: file.read_bytes() for file in store._keys.files}
    for file in keys:
        file.unlink()
    with pytest.raises(StoreError, match=r"without its keys; put device\.db-master and"):
        Store(path)
    assert path.read_bytes() == before
    assert not any(file.exists() for file in keys)
    for file, content in keys.items():
        file.write_bytes(content)
    assert Store(path).rows() == rows(0)


def test_a_store_beside_the_keys_of_another_is_left_as_it_is(store, path):
    store.append(rows(0, 1))
    store.close()
    before = path.read_bytes()
    for copy in ("", "2"):
        path.with_name(f"{path.name}-keys{copy}").unlink()
    with pytest.raises(StoreError, match=r"without its keys; put device\.db-master and"):
        Store(path)
    assert path.read_bytes() == before


def test_a_store_opens_once_at_a_time(store, path):
    store.append(rows(0))
    with pytest.raises(StoreError, match="another program keeps it open"):
        Store(path)
    store.append(rows(1))
    assert reopened(store).rows() == rows(0, 1)


def test_the_keys_of_a_damaged_store_are_kept_with_it_until_something_is_forgotten(store, path):
    store.append(rows(*range(5)))
    store.close()
    keys = [file.read_bytes() for file in store._keys.files]
    damage(path, 0)
    again = Store(path)
    [aside] = path.parent.glob("damaged-*")
    assert [(aside / file.name).read_bytes() for file in store._keys.files] == keys
    assert carve(aside / path.name) == rows(*range(5))
    again.scrub()
    assert not list(aside.iterdir())
    assert again.rows() == rows(*range(5))


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
    store.set_personal(StoredMixture("r", b"first"), 1)
    store.set_personal(StoredMixture("r", b"second"), 2)
    store = reopened(store)
    assert store.personal == StoredMixture("r", b"second")
    assert store.personal_version == 2
    store.set_personal(None, 3)
    assert store.personal is None
    assert store.personal_version == 3


def test_a_damaged_mixture_is_none(store, path):
    store.set_personal(StoredMixture("r", b"first"), 1)
    with directly(path) as db:
        db.execute("UPDATE personal SET sealed = x'00'")
    assert store.personal is None


def test_a_newer_schema_is_refused_and_left_alone(store, path):
    store.append(rows(0))
    store.close()
    with directly(path) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = path.read_bytes()
    with pytest.raises(InputError, match="update fedhw"):
        Store(path)
    assert path.read_bytes() == before


def test_a_later_migration_keeps_what_is_there(store, path, monkeypatch):
    store.append(rows(0, 1))
    added = "ALTER TABLE windows ADD COLUMN note TEXT;"
    monkeypatch.setattr("fedhw_client.store.corrections.MIGRATIONS", [*MIGRATIONS, added])
    store = reopened(store)
    assert store.rows() == rows(0, 1)
    with directly(path) as db:
        assert db.execute("SELECT note FROM windows").fetchall() == [(None,)]
    assert reopened(store).rows() == rows(0, 1)


def test_a_migration_that_fails_changes_nothing(store, monkeypatch):
    store.append(rows(0, 1))
    broken = "DELETE FROM samples; SELECT nonsense FROM nowhere;"
    monkeypatch.setattr("fedhw_client.store.corrections.MIGRATIONS", [*MIGRATIONS, broken])
    with pytest.raises(StoreError, match=r"cannot be brought up to date \(no such table: nowhere"):
        reopened(store)
    monkeypatch.undo()
    assert Store(store.path).rows() == rows(0, 1)


def sealed(path: Path, position: int) -> bytes:
    """A row as the file has it."""
    with directly(path) as db:
        ask = "SELECT sealed FROM samples WHERE position = ?"
        [(content,)] = db.execute(ask, (position,)).fetchall()
    return bytes(content)


def crashed(path: Path, tmp_path: Path) -> Path:
    """A copy of a store's files while it is open, as a kill leaves them."""
    (tmp_path / "crashed").mkdir()
    for part in path.parent.glob(f"{path.name}*"):
        shutil.copy(part, tmp_path / "crashed")
    return tmp_path / "crashed" / path.name


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
    damage(path, content.index(sealed(path, 7)) + 200, 1)
    again = Store(path)
    assert again.rows() == rows(*range(7), *range(8, 20))
    assert again.notices


def test_a_damaged_log_loses_nothing_that_is_whole_in_it(store, path, tmp_path):
    store.append(rows(0))
    store.scrub()
    for position in range(1, 40):
        store.append(rows(position))
    copy = crashed(path, tmp_path)
    log = copy.with_name("device.db-wal")
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
    many = [row(n).seal(store._keys) for n in range(1, 200)]
    with directly(path) as db:
        db.execute("PRAGMA cache_size = 1")
        db.execute("BEGIN")
        db.executemany("INSERT INTO samples VALUES (?, ?, ?)", many)
        copy = crashed(path, tmp_path)
        db.execute("ROLLBACK")
    assert many[100][-1] in copy.with_name("device.db-wal").read_bytes()
    again = Store(copy)
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


def opinions(store: Store) -> list[int]:
    with directly(store.path) as db:
        return [position for (position,) in db.execute("SELECT position FROM opinions")]


def test_a_time_is_judged_by_what_is_kept_of_it(store):
    store.append([row(n, label, at=10.0 * n) for n, label in enumerate("abcd")])
    store.append(
        [row(4, "e", at=40.0, right=False), row(5, "f", at=50.0)],
        opinions=[Opinion(4, True, True), Opinion(5, True, False)],
    )
    store = reopened(store)
    # Without an opinion: what the global expert had said, which was wrong, and a closed gate.
    early = Judged("c", False, False, True, False), Judged("d", False, False, True, False)
    late = Judged("e", False, True, False, True), Judged("f", False, True, True, False)
    assert store.judged(20.0, 1e9) == [*early, *late]
    assert store.judged(20.0, 40.0) == [*early]
    assert store.judged(40.0, 50.0) == [late[0]]
    assert store.judged(60.0, 1e9) == []
    store.remove([4])
    assert store.judged(40.0, 1e9) == [late[1]]


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.sets(st.integers(0, 29)))
@settings(max_examples=20)
def test_an_opinion_goes_with_its_sample(tmp_path_factory, evicted, removed):
    store = Store(tmp_path_factory.mktemp("store") / "device.db")
    for position, makes_room in enumerate(evicted):
        gone = [position - 1] if makes_room and position else []
        store.append([row(position)], gone, [Opinion(position, True, False)])
    store.remove(removed)
    assert opinions(store) == [kept.position for kept in store.rows()]
    store.remove(store.select(Selection()), everything=True)
    assert opinions(store) == []


def test_an_opinion_is_stored_with_its_sample_or_not_at_all(store):
    store.append([row(0)], opinions=[Opinion(0, True, True)])
    with pytest.raises(InputError, match="UNIQUE"):
        store.append([row(1), row(0)], opinions=[Opinion(1, True, True)])
    assert opinions(store) == [0]


@pytest.mark.parametrize("version", [1, 2])
def test_a_store_from_before_there_were_keys_goes_on_encrypted(path, version):
    written = [row(0), row(1)._replace(observation=b"\xab\xcd" * (GLYPH.nbytes // 2))]
    with directly(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        for migration in MIGRATIONS[:version]:
            db.executescript(migration)
        db.execute(f"PRAGMA user_version = {version}")
        glyphs = [(*one, one.checksum) for one in written]
        db.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?)", glyphs)
        db.execute("UPDATE counters SET next_position = 2")
        weights = b"secret-weights"
        db.execute("INSERT INTO personal VALUES ('r', ?, ?)", (weights, zlib.crc32(weights)))
    store = Store(path)
    assert store.rows() == written
    assert store.personal == StoredMixture("r", weights)
    assert store.judged(0.0, 9.0) == [Judged("a", False, False, True, False)] * 2
    left = b"".join(part.read_bytes() for part in path.parent.iterdir())
    assert not any(trace in left for trace in (b"\xab\xcd\xab\xcd", b"id-1", weights))
    store.append([row(2)], opinions=[Opinion(2, True, True)])
    assert reopened(store).judged(0.0, 0.5)[-1] == Judged("a", False, True, True, True)


def test_damage_costs_opinions_and_no_sample(store, path):
    store.append(rows(*range(30)), opinions=[Opinion(n, True, True) for n in range(30)])
    store.close()
    damage(path, 0)
    again = Store(path)
    assert again.rows() == rows(*range(30))
    assert again.judged(0.0, 99.0) == [Judged("a", False, False, True, False)] * 30
    again.append(rows(30), opinions=[Opinion(30, True, True)])
    assert opinions(again) == [30]
