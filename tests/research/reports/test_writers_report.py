import dataclasses
import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.release.release import Release
from fedhw.research.baselines import METHODS
from fedhw.research.reports import writers_report as report
from fedhw.research.reports.writers_report import changes, summary, table, write_report
from fedhw.research.simulation.engines.local import LocalEngine
from fedhw.research.simulation.experiment import Experiment, run_experiment
from fedhw.research.simulation.population import RecordedPopulation, draw_writers
from fedhw.research.simulation.trial import Measurement, Trial

FIGURES = {
    "custom_accuracy",
    "custom_gain",
    "generic_accuracy",
    "generic_change",
    "writers_hurt",
    "worst_writer_gain",
    "parameter_overhead",
    "mac_overhead",
    "seconds",
    "full_alphabet_gain",
    "full_alphabet_writers",
}
HOSTILE = "<script>alert('x')</script> & \"co\""


@pytest.fixture(scope="module")
def experiment(release: Release, unseen_writers: WriterSet) -> Experiment:
    """Five writers of the whole alphabet, the first of a hostile name, and one of digits only."""
    named = dataclasses.replace(unseen_writers, names=(HOSTILE, *unseen_writers.names[1:]))
    written = named.take(np.flatnonzero((named.writer != 5) | (named.labels < 10)))
    drawn = draw_writers(release, written, None, 12, seed=3)
    population = RecordedPopulation.of(written, drawn)
    chosen = {name: METHODS[name] for name in ("ge", "moe", "prior")}
    return run_experiment(Trial(release, population, chosen, "half", seed=3), LocalEngine())


@pytest.fixture(scope="module")
def page(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("reports") / "report"
    write_report(experiment, directory)
    return (directory / "index.html").read_text(encoding="utf-8")


def changed(experiment: Experiment, **changes: object) -> Experiment:
    """The same but for some of its outcome."""
    outcome = dataclasses.replace(experiment.outcome, **changes)
    return dataclasses.replace(experiment, outcome=outcome)


def with_gains(experiment: Experiment, gains: list[float]) -> Experiment:
    """The same with accuracy 0.75 before and these gains by the mixture."""
    before = np.full(len(gains), 0.75)
    methods = {
        "ge": dataclasses.replace(experiment.methods["ge"], custom=before),
        "moe": dataclasses.replace(experiment.methods["moe"], custom=before + gains),
    }
    return changed(experiment, methods=methods)


class Page(HTMLParser):
    """Fails on a tag that closes another, or on an identifier given twice."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.headings: list[str] = []
        self.addresses: list[str] = []
        self.identifiers: set[str] = set()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        for name, value in attrs:
            if name == "id":
                assert value not in self.identifiers
                self.identifiers.add(str(value))
            if name in ("src", "href", "xlink:href"):
                self.addresses.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)


def test_the_summary_is_what_was_measured(experiment: Experiment) -> None:
    figures = summary(experiment)
    assert set(figures) == {"seed", "writers", "shots", "methods", "curve"}
    assert (figures["seed"], figures["writers"], figures["shots"]) == (3, 6, "half")
    assert list(figures["methods"]) == ["ge", "moe", "prior"]
    ge, moe = experiment.methods["ge"], experiment.methods["moe"]
    told = figures["methods"]["moe"]
    assert set(told) == FIGURES
    right = moe.custom
    assert told["custom_accuracy"] == pytest.approx(np.mean(right))
    assert told["custom_gain"] == pytest.approx(np.mean(right) - ge.custom.mean())
    assert told["worst_writer_gain"] == pytest.approx(min(right - ge.custom))
    assert told["generic_accuracy"] == pytest.approx(moe.generic.mean())
    assert told["generic_change"] == pytest.approx(moe.generic.mean() - ge.generic.mean())
    assert told["full_alphabet_writers"] == 5
    full = experiment.outcome.classes == 62
    assert told["full_alphabet_gain"] == pytest.approx((right - ge.custom)[full].mean())
    assert figures["curve"] == {
        str(count): pytest.approx(gains.mean()) for count, gains in experiment.curve.items()
    }


def test_the_summary_survives_json_as_it_is(experiment: Experiment) -> None:
    figures = summary(experiment)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_a_loss_of_one_point_hurts_nobody_and_more_does(experiment: Experiment) -> None:
    lost = with_gains(experiment, [0.74 - 0.75, -0.011, 0, 0.1, 0.1, 0.1])
    assert summary(lost)["methods"]["moe"]["writers_hurt"] == pytest.approx(1 / 6)


def test_without_writers_of_the_full_alphabet_there_is_no_gain_for_them(
    experiment: Experiment,
) -> None:
    digits = changed(experiment, classes=np.full(6, 10))
    figures = summary(digits)["methods"]["moe"]
    assert (figures["full_alphabet_gain"], figures["full_alphabet_writers"]) == (None, 0)


def test_the_table_fits_a_terminal(experiment: Experiment) -> None:
    console = Console(width=80)
    with console.capture() as shown:
        console.print(table(experiment))
    lines = shown.get().splitlines()
    row = next(line for line in lines if line.startswith("moe"))
    moe = summary(experiment)["methods"]["moe"]
    error = 100 * experiment.methods["moe"].custom.std(ddof=1) / 6**0.5
    shown_figures = row.removeprefix("moe").replace(" ± ", "±").split()
    assert shown_figures == [
        f"{100 * moe['custom_accuracy']:.1f}±{error:.1f}",
        f"{100 * moe['custom_gain']:+.1f}",
        f"{100 * moe['full_alphabet_gain']:+.1f}",
        f"{100 * moe['generic_accuracy']:.1f}",
        f"{100 * moe['generic_change']:+z.1f}",
        f"{100 * moe['writers_hurt']:.0f}",
        f"{100 * moe['worst_writer_gain']:+z.1f}",
        f"{100 * moe['parameter_overhead']:.1f}",
        f"{100 * moe['mac_overhead']:.1f}",
        f"{moe['seconds']:.1f}",
    ]
    assert max(map(len, lines)) <= 80


def test_changes_are_of_what_was_written_and_make_up_the_gain(experiment: Experiment) -> None:
    found = changes(experiment)
    won = np.zeros(6)
    for change in found:
        written = experiment.trial.population.write([change.writer])
        assert change.true == written.labels[change.place]
        assert change.before != change.after
        won[change.writer] += (change.after == change.true) - int(change.before == change.true)
    assert np.allclose(won / experiment.outcome.tested, experiment.gain("moe"))
    assert won.any()


def test_the_page_lists_changes_that_happened_and_of_every_writer(
    experiment: Experiment, page: str
) -> None:
    alphabet = experiment.trial.release.labels
    happened = {
        (
            str(experiment.outcome.names[c.writer]),
            f"{alphabet[c.true]}: {alphabet[c.before]} → {alphabet[c.after]}",
        )
        for c in changes(experiment)
    }
    section = re.search(r"Became right(.*?)</ul>", page, re.DOTALL)
    assert section is not None
    listed = re.findall(r'<li title="([^"]*)">.*?>(. *: . → .)</li>', section[1])
    assert 0 < len(listed) <= report.RIGHTED
    assert set(listed) <= {(escape(name), change) for name, change in happened}
    righted = {
        str(experiment.outcome.names[c.writer]) for c in changes(experiment) if c.after == c.true
    }
    assert {name for name, _ in listed} == {escape(name) for name in righted}


def test_the_page_is_well_formed_and_stands_alone(page: str) -> None:
    parsed = Page(page)
    assert parsed.seen.count("svg") == 3
    assert "script" not in parsed.seen
    assert all(address.startswith(("#", "data:image/png;")) for address in parsed.addresses)
    assert parsed.headings == [
        "Methods",
        "Every writer, before and after",
        "Gain by characters seen",
        "How far the gates open",
        "Characters that changed",
        "Writers who gained least",
        "Made from",
    ]


def test_names_are_escaped(page: str) -> None:
    assert HOSTILE not in page
    assert f"<h3>{escape(HOSTILE)}: " in page


def test_what_is_missing_is_left_out(experiment: Experiment, tmp_path: Path) -> None:
    only = {"ge": experiment.methods["ge"], "<new>": experiment.methods["prior"]}
    nothing = {
        "openings": np.zeros_like(experiment.outcome.openings),
        "curve": np.full_like(experiment.outcome.curve, np.nan),
    }
    bare = changed(experiment, methods=only, **nothing)
    write_report(bare, tmp_path / "bare")
    text = (tmp_path / "bare" / "index.html").read_text(encoding="utf-8")
    assert Page(text).headings == ["Methods", "Made from"]
    assert "&lt;new&gt;" in text

    learned = changed(experiment, **nothing)
    write_report(learned, tmp_path / "learned")
    text = (tmp_path / "learned" / "index.html").read_text(encoding="utf-8")
    assert Page(text).seen.count("svg") == 1


def test_one_writer_is_enough(experiment: Experiment, tmp_path: Path) -> None:
    outcome = experiment.outcome
    one = changed(
        experiment,
        **{name: getattr(outcome, name)[:1] for name in ("names", "classes", "learned", "tested")},
        methods={
            name: Measurement(*measured.array()[:, :1])
            for name, measured in outcome.methods.items()
        },
        curve=outcome.curve[:, :1],
        changes=outcome.changes[outcome.changes[:, 0] == 0],
    )
    write_report(one, tmp_path / "one")
    text = (tmp_path / "one" / "index.html").read_text(encoding="utf-8")
    assert "for 1 writer<" in text
    assert "nan" not in re.sub(r'src="[^"]*"', "", text)


def test_a_failure_leaves_nothing_behind_and_an_earlier_report_alone(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError("no more memory")

    write_report(experiment, tmp_path / "earlier")
    earlier = (tmp_path / "earlier" / "index.html").read_bytes()
    monkeypatch.setattr(report, "gate_openings", fail)
    for name in ("new", "earlier"):
        with pytest.raises(RuntimeError, match="no more memory"):
            write_report(experiment, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["earlier"]
    assert (tmp_path / "earlier" / "index.html").read_bytes() == earlier
    assert json.loads((tmp_path / "earlier" / "summary.json").read_text()) == summary(experiment)


def test_a_report_replaces_an_earlier_one_and_nothing_else(
    experiment: Experiment, tmp_path: Path
) -> None:
    write_report(experiment, tmp_path / "report")
    write_report(experiment, tmp_path / "report")
    (tmp_path / "report" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something else"):
        write_report(experiment, tmp_path / "report")
    assert (tmp_path / "report" / "thesis.txt").read_text() == "years of work"


def test_the_same_experiment_gives_the_same_page(
    experiment: Experiment, page: str, tmp_path: Path
) -> None:
    write_report(experiment, tmp_path / "again")
    assert (tmp_path / "again" / "index.html").read_text(encoding="utf-8") == page
