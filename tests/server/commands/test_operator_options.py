"""How the operator's commands find a coordinator."""

import json

import pytest

from tests.command_line import run
from tests.full_disk import disk_of
from tests.server.conftest import Pen


@pytest.mark.parametrize("where", ["before", "environment"])
def test_the_home_may_be_told_otherwise(typed, home, capsys, monkeypatch, where):
    told = ["--home", str(home.directory)] if where == "before" else []
    if where == "environment":
        monkeypatch.setenv("FEDHW_SERVER_HOME", str(home.directory))
    assert run("server", *told, "status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["flower"] == "fleet.example.org:9471"


COMMANDS = [
    ("enroll", "pen"),
    ("revoke", "pen"),
    ("publish", "somewhere"),
    ("rollback", "1"),
    ("pause",),
    ("resume",),
    ("status",),
    ("devices",),
    ("releases",),
    ("statistics",),
    ("public", "synthetic", "somewhere"),
    ("improve",),
    ("improvement",),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_without_a_coordinator_each_says_so(tmp_path, capsys, command):
    place = tmp_path / "nowhere"
    assert run("server", *command, "--home", place) == 2
    assert capsys.readouterr().err == (
        f"fedhw: home: no coordinator was ever started in {place}; run `fedhw server` first, or "
        "give its --home\n"
    )
    assert not place.exists()


@pytest.mark.parametrize("command", ["pause", "resume", "enroll guest", "revoke pen", "publish"])
def test_a_full_disk_is_told_and_changes_nothing(typed, ready, releases, command):
    Pen("pen").join(ready)
    given = [*command.split(), *([releases[1]] if command == "publish" else [])]
    before = typed("devices", "--json"), typed("releases", "--json")
    with disk_of(4096):
        assert "free some space" in typed(*given, code=2)
    assert (typed("devices", "--json"), typed("releases", "--json")) == before
