import dataclasses
import json
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fedhw.errors import InputError
from fedhw.improvement.attempt import Decision
from fedhw.improvement.improvement import Recipe
from fedhw.improvement.plan import Plan
from fedhw.privacy.estimate import Estimate
from fedhw.release.release import Release
from fedhw.research.reports.fleet_report import summary, table, write_report
from fedhw.research.simulation.simulated_coordinator import Policy
from fedhw.research.simulation.simulated_devices import Version
from fedhw.research.simulation.simulated_fleet import Chronicle, Day, Figure, Scenario
from fedhw.system.clock import DAY_SECONDS

HOSTILE = "<script>alert('x')</script> & \"co\""
NOTHING = Figure(float("nan"), None)


def figure(truth: float) -> Figure:
    return Figure(truth, Estimate("gain", None, truth + 0.01, 0.02, 12, "share of corrections"))


@pytest.fixture
def chronicle(release: Release) -> Chronicle:
    """Four days: one on which nobody wrote, and a version that comes and is taken back."""
    silent = Day(
        0, {}, 0, 0, 0, *[float("nan")] * 2, {"gain": NOTHING, "gate_open": NOTHING}, 0, 0, 0
    )
    figures = {"gain": figure(0.05), "gate_open": figure(0.4)}
    days = [
        silent,
        Day(1, {"v1": 20}, 18, 18, 400, 0.6, 0.7, figures, 2.0, 3.0, 12),
        Day(2, {"v1": 15, "v2": 5}, 16, 16, 400, 0.65, 0.7, figures, 3.0, 4.5, 0),
        Day(3, {"v3": 20}, 19, 19, 800, 0.6, 0.75, figures, 4.0, 6.0, 0),
    ]
    versions = [Version(1, release), Version(2, release), Version(3, release, restores=1)]
    decisions = [
        Decision(None, 1.2 * DAY_SECONDS, "wait", "nothing is known"),
        Decision(1, 2.2 * DAY_SECONDS, "begin", HOSTILE),
        Decision(1, 3.2 * DAY_SECONDS, "rolled back", "it is worse"),
    ]
    scenario = Scenario(4, 50.0, 7, Policy(Plan(noise=0.0), Recipe()))
    return Chronicle(scenario, release, 20, days, versions, decisions)


@pytest.fixture
def page(chronicle: Chronicle, tmp_path: Path) -> str:
    write_report(chronicle, tmp_path / "report")
    return (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


def test_the_summary_is_json_and_says_what_happened(chronicle: Chronicle, tmp_path: Path) -> None:
    write_report(chronicle, tmp_path / "report")
    found = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert found == json.loads(json.dumps(summary(chronicle)))
    assert (found["seed"], found["writers"], len(found["days"])) == (7, 20, 4)
    first, second = found["days"][:2]
    assert first["accuracy"] is None
    assert set(first["figures"]["gain"].values()) == {None}
    gain = second["figures"]["gain"]
    assert gain["low"] < gain["truth"] < gain["estimate"] < gain["high"]
    assert second["devices"] == {"v1": 20}
    assert [version["restores"] for version in found["versions"].values()] == [None, None, 1]
    decided = [(each["day"], each["attempt"], each["decision"]) for each in found["decisions"]]
    assert decided == [(0, None, "wait"), (1, 1, "begin"), (2, 1, "rolled back")]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.opened.append(tag)


def test_the_page_has_five_pictures_and_every_decision(page: str, chronicle: Chronicle) -> None:
    tags = Tags()
    tags.feed(page)
    assert tags.opened.count("svg") == 5
    for decision in chronicle.decisions:
        assert escape(decision.reason) in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_words_are_never_markup(page: str) -> None:
    assert HOSTILE not in page
    assert escape(HOSTILE) in page


def test_the_page_says_how_it_began_and_ended(page: str) -> None:
    """Both weeks are the same four days, in which 1,600 characters were written."""
    expected = np.average([0.6, 0.65, 0.6], weights=[400, 400, 800])
    assert page.count(f"{expected:.1%}") == 2
    assert "2 versions" in page
    assert "v3" in page
    assert "(restores v1)" in page


def test_noise_is_put_into_words_that_can_be_compared(chronicle: Chronicle, tmp_path: Path) -> None:
    """At the usual epsilon it takes one device to know what one device tells."""
    scenario = dataclasses.replace(chronicle.scenario, epsilon=2.0)
    usual = dataclasses.replace(chronicle, scenario=scenario)
    write_report(usual, tmp_path / "report")
    assert "takes 1.0 times as many devices" in (tmp_path / "report" / "index.html").read_text()


def test_a_fleet_in_which_nothing_happened_has_a_page(chronicle: Chronicle, tmp_path: Path) -> None:
    bare = dataclasses.replace(
        chronicle, days=chronicle.days[:1], versions=chronicle.versions[:1], decisions=[]
    )
    write_report(bare, tmp_path / "report")
    assert "In these days nobody wrote" in (tmp_path / "report" / "index.html").read_text()


def test_the_table_leaves_waiting_out(chronicle: Chronicle) -> None:
    console = Console(width=200, record=True)
    console.print(table(chronicle))
    shown = console.export_text()
    assert "rolled back" in shown
    assert HOSTILE in shown
    assert "nothing is known" not in shown


def test_nothing_else_is_replaced(chronicle: Chronicle, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="holds something else"):
        write_report(chronicle, tmp_path)
