"""A coordinator that was ready once, and what an operator types about it."""

import re

import pytest

from fedhw.system import console
from fedhw_server.leader.superlink import app_digest
from fedhw_server.store.reports import Accepted
from tests.command_line import run
from tests.server.conftest import Pen


@pytest.fixture
def ready(fleet):
    """A coordinator was ready here once."""
    fleet.settings.keep("statistics", "fleet.example.org:9470")
    fleet.settings.keep("flower", "fleet.example.org:9471")
    fleet.settings.keep("app", app_digest())
    return fleet


@pytest.fixture
def typed(home, ready, capsys, monkeypatch):
    """Types `fedhw server ...` and returns what it prints."""
    monkeypatch.setattr(console.out, "_width", 200)

    def typed(*command, code=0):
        ended = run("server", *command, "--home", home.directory)
        said = capsys.readouterr()
        assert ended == code, said.err
        if code:
            *_, last = said.err.splitlines()
            assert re.fullmatch(r"fedhw: [a-z].+[^.]", last)
            return last.removeprefix("fedhw: ")
        return said.out

    return typed


def report(fleet, release, cohort):
    """Let so many devices report on the window that is over."""
    for number in range(cohort):
        fleet.reports.count([Accepted(Pen(f"pen-{number}").report(release), f"{number}")])
