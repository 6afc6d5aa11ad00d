import sqlite3

import pytest

from fedhw.errors import InputError
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.reports import Accepted
from fedhw_server.store.schema import MIGRATIONS
from tests.server.conftest import Pen


def test_every_schema_grows_into_the_newest(tmp_path):
    path = tmp_path / "fleet.db"
    for version in range(len(MIGRATIONS)):
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as db:
            for migration in MIGRATIONS[:version]:
                db.executescript(migration)
            db.execute(f"PRAGMA user_version = {version}")
        db.close()
        fleet = Fleet(path)
        fleet.settings.agree()
        assert fleet.reports.count([Accepted(Pen("a").report("v1", 1), "a")]) == [True]
        fleet.close()
        assert Fleet(path).reports.windows() == [(1, 1)]


def test_a_newer_schema_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "fleet.db") as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(InputError, match="is newer than"):
        Fleet(tmp_path / "fleet.db")


def test_a_file_that_is_no_database_is_one_sentence(tmp_path):
    (tmp_path / "fleet.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(InputError, match="is damaged; restore it from a copy"):
        Fleet(tmp_path / "fleet.db")
