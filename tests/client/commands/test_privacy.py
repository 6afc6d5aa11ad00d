"""`fedhw client privacy`: what a person reads about what their device has told."""

import json
import re
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from fedhw.privacy.budget import Limits
from fedhw.privacy.ledger import Ledger
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.statistics import Evaluation, Tally, make_report
from fedhw_client.fleet.enrolment import enrol
from fedhw_client.fleet.reporter import signed
from fedhw_client.store.device_home import Home
from tests.client.fleet.coordinators import Services
from tests.command_line import run

LIMITS = Limits(per_day=4.0, in_all=40.0, delta=1e-6)

Told = Callable[..., str]


@pytest.fixture
def home(tmp_path: Path, release_directory: Path) -> Home:
    """A device that has made three reports: one arrived, one was refused, one waits.

    It has also tried a candidate, and taken part in two rounds.
    """
    home = Home(tmp_path / "home")
    home.directory.mkdir()
    with closing(Services(tmp_path / "coordinator", release_directory, window=60)) as services:
        services.start()
        enrolment = enrol(services.invitation("anna"), home.enrolment)
    ledger = Ledger.create(home.ledger, LIMITS)
    mechanism = GaussianMechanism(0.5, 1e-6)
    for window in (100, 101, 102):
        report = make_report(Tally.empty(62), "anna", window, "v1-0123abcd", mechanism)
        message = signed(report, enrolment.report_key)
        ledger.charge(window, mechanism, time.time(), lambda message=message: message)
    evaluation = Evaluation(100, 80, 80, 83, 75)
    report = make_report(evaluation, "anna", 102, "v0-4567cdef", mechanism)
    message = signed(report, enrolment.report_key)
    ledger.charge("v0-4567cdef", mechanism, time.time(), lambda: message)
    for name in ("00ff", "11ee"):
        ledger.charge_round(name, 0.001, time.time())
    ledger.mark_sent(100, time.time())
    ledger.mark_refused(101, "device: anna is revoked; leave the fleet")
    return home


@pytest.fixture
def told(home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Told:
    """Returns what the command prints on a wide terminal."""
    monkeypatch.setattr("fedhw.system.console.out.width", 160)

    def say(*options: object, code: int = 0) -> str:
        assert run("client", "privacy", "--home", home.directory, *options) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return say


def test_it_tells_in_plain_words_what_was_sent(told):
    text = told()
    assert text.startswith("This device is anna of the fleet at 127.0.0.1:")
    assert "\nEvery minute it sends one report: how many corrections were made" in text
    rows = {line.split()[1]: line for line in text.splitlines() if re.search(r"│ 10\d ", line)}
    assert set(rows) == {"100", "101", "102"}
    assert re.search(r"│ sent \d{4}-", rows["100"])
    assert "refused: device: anna is revoked; leave the fleet" in rows["101"]
    assert "not sent yet" in rows["102"]
    assert "4 reports in all" in text
    assert re.search(r"│ v0-4567cdef +│ +│ +│ 0\.5 ", text)
    assert re.search(r"│ 11ee +│ \d{4}-.* │ 0\.001 ", text)
    assert "2 rounds in all" in text


def test_what_was_spent_stands_beside_the_limits(told, home):
    spent = Ledger.open(home.ledger).spent(time.time())
    assert spent.in_all > 0.5
    text = told()
    assert re.search(r"rounds in the last 24 hours +│ 2 +│ 200 ", text)
    assert re.search(rf"24 hours .*{spent.day:.2f} .*{LIMITS.per_day:g} ", text)
    assert re.search(rf"epsilon in all .*{spent.in_all:.2f} .*{LIMITS.in_all:g} ", text)


def test_a_program_can_read_it(told, home):
    found = json.loads(told("--json"))
    charges = Ledger.open(home.ledger).history()
    assert (found["device"], found["limits"]) == ("anna", vars(LIMITS))
    assert [bytes.fromhex(each["bytes"]) for each in found["reports"]] == [
        charge.message for charge in charges
    ]
    assert [each["about"] for each in found["reports"]] == [100, 101, 102, "v0-4567cdef"]
    assert [(each["name"], each["rho"]) for each in found["rounds"]] == [
        ("00ff", 0.001),
        ("11ee", 0.001),
    ]
    assert found["reports"][2]["sent_at"] is found["reports"][2]["refused"] is None


def test_a_report_is_shown_byte_for_byte(told, home):
    text = told("--report", 101)
    [charge] = [each for each in Ledger.open(home.ledger).history() if each.about == 101]
    shown = re.findall(r"^[0-9a-f]{6}  ((?:[0-9a-f]{2} )*[0-9a-f]{2}) ", text, re.MULTILINE)
    assert bytes.fromhex(" ".join(shown)) == charge.message
    for line in ("device: anna", "window: 101", "release: v1-0123abcd", "epsilon: 0.5"):
        assert f"\n{line}\n" in text
    figures = re.findall(r"^error_share, with noise of [\d.]+: (.*)$", text, re.MULTILINE)
    assert len(figures[0].split()) == 62


def test_a_report_of_a_candidate_is_shown_by_its_own_table(told):
    text = told("--report", "v0-4567cdef")
    assert "\nschema: 2\n" in text
    names = re.findall(r"^(\w+), with noise of [\d.]+: \S+$", text, re.MULTILINE)
    assert names == ["active", "ge_gain", "gain"]


def test_a_report_that_was_never_made_is_said(told):
    text = told("--report", 99, code=2)
    assert text == ("fedhw: report: none was made of 99; `fedhw client privacy` lists them all\n")


def test_the_home_may_stand_before_the_command(home, capsys):
    assert run("client", "--home", home.directory, "privacy") == 0
    assert capsys.readouterr().out.startswith("This device is anna")


def test_a_device_of_no_fleet_tells_nothing(tmp_path, capsys):
    assert run("client", "privacy", "--home", tmp_path / "lone") == 0
    told = capsys.readouterr().out
    assert told == "This device belongs to no fleet. Nothing leaves it.\n"


def test_a_ledger_that_is_lost_or_damaged_is_said(told, home):
    home.ledger.write_bytes(b"garbage" * 1000)
    assert told(code=2).startswith(f"fedhw: ledger: {home.ledger} is damaged; nothing may be sent")
    home.ledger.unlink()
    assert told(code=2).startswith(f"fedhw: ledger: {home.ledger} is missing; nothing may be sent")
