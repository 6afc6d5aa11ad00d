"""A coordinator, paused, resumed and looked at by the operator."""

import json
import re

import pytest

from tests.command_line import run
from tests.server.commands.conftest import report
from tests.server.conftest import POLICY, Pen, past


def test_pause_and_resume(typed, ready):
    assert not ready.settings.is_paused
    typed("pause")
    assert ready.settings.is_paused
    assert "no, paused" in typed("status")
    typed("resume")
    assert not ready.settings.is_paused


def test_status(typed, ready, published):
    Pen("run").join(ready)
    Pen("gone").join(ready)
    ready.members.invite("guest")
    ready.members.note_answer("run", 1, published.name, "running", None)
    ready.members.revoke("gone")
    ready.offer_log.end(ready.offer_log.begin(1, 2), 1, 0.5)
    report(ready, published.name, 1)
    known = json.loads(typed("status", "--json"))
    assert known["running"] is False
    assert known["release"] == published.name
    assert known["statistics"] == "fleet.example.org:9470"
    assert known["devices"] == {
        "invited": 1,
        "enrolled": 1,
        "online": 0,
        "on_release": 1,
        "held_back": 0,
        "refused": 0,
        "revoked": 1,
    }
    assert (known["last_round"]["asked"], known["last_round"]["answered"]) == (2, 1)
    assert known["newest_window"] == {"window": past(), "reports": 1}
    assert known["policy"] == vars(POLICY)
    shown = typed("status")
    assert re.search(r"1 of 2, \d+ seconds ago", shown)
    assert "covers 10 s, costs (50, 1e-06)" in shown


def test_status_of_a_fleet_that_has_nothing(typed):
    known = json.loads(typed("status", "--json"))
    assert known["release"] is known["last_round"] is known["newest_window"] is None
    assert "none published yet" in typed("status")


@pytest.mark.parametrize("command", [("enroll", "pen"), ("status",)], ids=lambda each: each[0])
def test_a_coordinator_that_was_never_ready_is_one_sentence(fleet, home, capsys, command):
    assert run("server", *command, "--home", home.directory) == 2
    assert "no coordinator was ever ready" in capsys.readouterr().err
    assert fleet.members.all() == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--epsilon", "0"], "epsilon: 0 is out of range"),
        (["--epsilon", "nan"], "epsilon: nan is out of range"),
        (["--delta", "1"], "delta: 1 is out of range"),
    ],
)
def test_a_policy_that_cannot_be_is_one_sentence(typed, options, sentence):
    assert typed(*options, code=2).startswith(sentence)
