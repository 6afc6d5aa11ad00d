"""The report on a simulated fleet: figures, a table, and a page with pictures."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from rich.text import Text

from fedhw import __version__
from fedhw.improvement.attempt import Decision
from fedhw.privacy.estimate import Estimate
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.research.reports.plots import by_day, devices_by_version
from fedhw.research.reports.report_page import definitions, section, side_by_side, write_page
from fedhw.research.reports.report_page import table as html_table
from fedhw.research.simulation.simulated_fleet import DELTA, FOLLOWED, Chronicle, Day, Figure
from fedhw.system.clock import DAY_SECONDS

CONFIDENCE = 0.95
"""Of the intervals that are drawn."""

DECIDED = ("day", "attempt", "decision", "reason")
"""The columns of the table of decisions."""

USUAL = 2.0
"""Epsilon of a report in a real fleet by default."""

WEEK = 7

Floats = NDArray[np.float64]


def summary(chronicle: Chronicle) -> dict[str, Any]:
    """Return the figures, ready for JSON: accuracies as fractions, None for missing values."""
    return {
        "seed": chronicle.scenario.seed,
        "writers": chronicle.writers,
        "days": [_told(day) for day in chronicle.days],
        "versions": {
            version.name: {
                "restores": version.restores,
                "generic_accuracy": version.release.manifest.validation["generic_accuracy"],
            }
            for version in chronicle.versions
        },
        "decisions": [
            {"day": _day(each), "attempt": each.attempt}
            | dict(zip(DECIDED[2:], each[2:], strict=True))
            for each in chronicle.decisions
        ],
    }


def table(chronicle: Chronicle) -> Table:
    """Return the decisions, except those to wait, for a terminal."""
    shown = Table(*DECIDED, box=box.SIMPLE_HEAD, show_edge=False)
    for decision in chronicle.decisions:
        if decision.decision != "wait":
            shown.add_row(*map(Text, _cells(decision)))
    return shown


def write_report(chronicle: Chronicle, directory: Path, made_from: str = "") -> None:
    """Write `index.html` and `summary.json` to `directory`, whole or not at all.

    `made_from` is stored with the figures. An earlier report there is replaced.
    Raises InputError when there is anything else.
    """
    title = f"{len(chronicle.days)} days of a fleet of {chronicle.writers:,} devices"
    sections = (_lead(chronicle), _pictures(chronicle), _decisions(chronicle), _origin(chronicle))
    write_page(directory, title, sections, summary(chronicle), made_from)


def _told(day: Day) -> dict[str, Any]:
    figures = {name: _figure(figure) for name, figure in day.figures.items()}
    scores = {name: _number(getattr(day, name)) for name in ("ge_accuracy", "accuracy")}
    return day._asdict() | scores | {"figures": figures}


def _figure(figure: Figure) -> dict[str, float | None]:
    low, high = _interval(figure.estimate)
    mean = math.nan if figure.estimate is None else figure.estimate.mean
    found = {"truth": figure.truth, "estimate": mean, "low": low, "high": high}
    return {name: _number(value) for name, value in found.items()}


def _interval(estimate: Estimate | None) -> tuple[float, float]:
    return (math.nan, math.nan) if estimate is None else estimate.interval(CONFIDENCE)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _lead(chronicle: Chronicle) -> str:
    if not any(day.characters for day in chronicle.days):
        return "<p>In these days nobody wrote anything.</p>"
    first, last = (_week(days) for days in (chronicle.days[:WEEK], chronicle.days[-WEEK:]))
    published, day = len(chronicle.versions) - 1, chronicle.days[-1]
    return (
        f"<p>In the first week the global expert recognised {first[0]:.1%} of what people wrote "
        f"and the mixtures {first[1]:.1%}; in the last, {last[0]:.1%} and {last[1]:.1%}. "
        f"{published} version{'s' * (published != 1)} of the global expert "
        f"{'were' if published != 1 else 'was'} published. Devices have spent epsilon "
        f"{day.epsilon:,.1f} in the median, {day.worst:,.1f} at most.</p>"
    )


def _week(days: Iterable[Day]) -> tuple[float, float]:
    """The accuracies of the global expert and the mixtures over all characters of some days."""
    wrote = [day for day in days if day.characters]
    if not wrote:
        return math.nan, math.nan
    weights = [day.characters for day in wrote]
    ge, mixed = ([getattr(day, name) for day in wrote] for name in ("ge_accuracy", "accuracy"))
    return float(np.average(ge, weights=weights)), float(np.average(mixed, weights=weights))


def _series(chronicle: Chronicle, name: str) -> Floats:
    return np.array([getattr(day, name) for day in chronicle.days], float)


def _pictures(chronicle: Chronicle) -> str:
    names = [version.name for version in chronicle.versions]
    running = {
        name: np.array([day.devices.get(name, 0) for day in chronicle.days], float)
        for name in names
    }
    accuracies = {
        "mixtures": 100 * _series(chronicle, "accuracy"),
        "global expert": 100 * _series(chronicle, "ge_accuracy"),
    }
    spent = {
        "median": _series(chronicle, "epsilon"),
        "maximum": _series(chronicle, "worst"),
    }
    gain, gates = (_followed(chronicle, name) for name in FOLLOWED)
    felt = accuracies["mixtures"] - accuracies["global expert"]
    parts = (
        section(
            "Devices and versions",
            "Devices that have arrived, by the version of the global expert that they run. An "
            "offline device goes on learning but does not report.",
            devices_by_version(running, _series(chronicle, "online")),
        ),
        section(
            "Characters recognised",
            "The share of everything that people wrote on a day, before any of it was learned.",
            by_day("Characters recognised, day by day", "characters recognised, %", accuracies),
        ),
        section(
            "The gain and its estimates",
            "Bars are the coordinator's estimates from noised reports, with "
            f"{CONFIDENCE:.0%} confidence, and the line is the true gain. Both are over "
            "corrections, which have all wrong guesses but only a part of the right ones, so they "
            "differ from the dotted line, the gain over everything that was written.",
            by_day(
                "Gain by the mixtures, day by day",
                "gain, points",
                {"corrections": gain[0], "everything": felt},
                gain[1:],
            ),
        ),
        section(
            "How often gates are open",
            "The share of the corrections where the gate is open by more than 0.5.",
            by_day(
                "Gates open, day by day",
                "share of the corrections, %",
                {"corrections": gates[0]},
                gates[1:],
            ),
        ),
        section(
            "Privacy spent",
            f"Epsilon of all reports and rounds so far, at delta {DELTA:g}. A device spends "
            f"{chronicle.scenario.limits.in_all:,.1f} at most.",
            by_day("Epsilon spent, day by day", "epsilon", spent),
        ),
    )
    return side_by_side(parts)


def _followed(chronicle: Chronicle, name: str) -> tuple[Floats, Floats, Floats]:
    """In percent, the true figure on each day and the ends of its estimate's interval."""
    figures = [day.figures[name] for day in chronicle.days]
    ends = np.array([_interval(figure.estimate) for figure in figures], float)
    truth = np.array([figure.truth for figure in figures], float)
    return 100 * truth, 100 * ends[:, 0], 100 * ends[:, 1]


def _decisions(chronicle: Chronicle) -> str:
    return section(
        "Decisions",
        "Decisions of the coordinator at the end of each day, and their reasons.",
        html_table(DECIDED, map(_cells, chronicle.decisions), style="words"),
    )


def _cells(decision: Decision) -> tuple[str, str, str, str]:
    number = "" if decision.attempt is None else str(decision.attempt)
    return str(_day(decision) + 1), number, decision.decision, decision.reason


def _day(decision: Decision) -> int:
    """The day whose reports a decision follows from: they arrive on the next one."""
    return int(decision.moment // DAY_SECONDS) - 1


def _origin(chronicle: Chronicle) -> str:
    scenario, manifest = chronicle.scenario, chronicle.release.manifest
    plan, days = scenario.policy.plan, chronicle.days
    worth = GaussianMechanism(USUAL, DELTA).sigma / GaussianMechanism(scenario.epsilon, DELTA).sigma
    accuracies = (
        f"{version.name} {version.release.manifest.validation['generic_accuracy']:.1%}"
        + (f" (restores v{version.restores})" if version.restores is not None else "")
        for version in chronicle.versions
    )
    facts = {
        "people": f"{chronicle.writers:,}, who wrote {sum(d.characters for d in days):,} "
        "characters",
        "reports": f"{sum(d.reports for d in days):,}, epsilon {scenario.epsilon:g} each; with "
        f"{USUAL:g} the same accuracy takes {worth**2:,.1f} times as many devices",
        "rounds": f"{sum(d.rounds for d in days)} of at most {plan.cohort} devices, noise "
        f"{plan.noise:g}",
        "versions": ", ".join(accuracies) + " of the public observations recognised",
        "seed": str(scenario.seed),
        "release": f"version {manifest.version}, {manifest.architecture}, {manifest.created}",
        "fedhw": __version__,
    }
    return section(
        "Made from",
        "The same data, release and seed give the same figures. Noise comes from the seed, too, "
        "so it protects nobody here.",
        definitions(facts),
    )
