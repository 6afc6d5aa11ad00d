"""The report on an experiment: figures, a table, and a page with pictures."""

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from fedhw import __version__
from fedhw.data.observation_picture import png_url
from fedhw.research.reports.plots import (
    before_and_after,
    gain_by_samples,
    gate_openings,
    standard_error,
)
from fedhw.research.reports.report_page import (
    definitions,
    escape,
    section,
    side_by_side,
    write_page,
)
from fedhw.research.reports.report_page import table as html_table
from fedhw.research.simulation.experiment import FULL_ALPHABET, HURT, Experiment

TITLES = {
    "ge": "global expert",
    "moe": "local expert + gate",
    "head": "fine-tuned head",
    "full": "fine-tuned network",
    "knn": "nearest neighbours",
    "ncm": "nearest class mean",
    "prior": "class prior",
    "le": "ungated local expert",
    "distance-gate": "gate by distance",
}
"""What methods are called in the report."""

_PERCENTAGES = {
    "own\n%": ("custom_accuracy", ".1f"),
    "gain": ("custom_gain", "+z.1f"),
    f"gain\n≥ {FULL_ALPHABET}": ("full_alphabet_gain", "+z.1f"),
    "generic\n%": ("generic_accuracy", ".1f"),
    "change": ("generic_change", "+z.1f"),
    "hurt\n%": ("writers_hurt", ".0f"),
    "worst": ("worst_writer_gain", "+z.1f"),
    "extra\nparams\n%": ("parameter_overhead", ".1f"),
    "extra\nMACs\n%": ("mac_overhead", ".1f"),
}
"""Columns in percent and points: the figure that each shows, and its format."""

COLUMNS = ("method", *_PERCENTAGES, "time\ns")

RIGHTED = 48
WRONGED = 24
WORST = 8
LOST = 12
"""The most characters shown that became right and wrong; writers shown, and lost ones of each."""


class Change(NamedTuple):
    """A test character that the mixture and the global expert recognise differently.

    `place` is its index among the writer's characters; `true`, `before` and `after` are labels.
    """

    writer: int
    place: int
    true: int
    before: int
    after: int


def summary(experiment: Experiment) -> dict[str, Any]:
    """Return the figures, ready for JSON: means over writers, accuracies as fractions."""
    return {
        "seed": experiment.trial.seed,
        "writers": _writers(experiment),
        "shots": experiment.trial.shots,
        "methods": {name: _figures(experiment, name) for name in experiment.methods},
        "curve": {str(k): float(gains.mean()) for k, gains in experiment.curve.items()},
    }


def table(experiment: Experiment) -> Table:
    """Return the methods, by their names on the command line, for a terminal of 80 columns."""
    shown = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=0,
        caption=f"Own: % of a writer's test characters, ± standard error over "
        f"{_writers(experiment):,} writers. Gains and changes: points above the global expert; "
        f"gain ≥ {FULL_ALPHABET}: of writers with at least {FULL_ALPHABET} classes.",
    )
    for heading in COLUMNS:
        shown.add_column(
            heading, justify="left" if heading == "method" else "right", vertical="bottom"
        )
    for name in experiment.methods:
        style = "bold" if name == "moe" else ""
        shown.add_row(*map(Text, [name, *_cells(experiment, name)[1:]]), style=style)
    return shown


def write_report(experiment: Experiment, directory: Path, made_from: str = "") -> None:
    """Write `index.html` and `summary.json` to `directory`, whole or not at all.

    `made_from` is stored with the figures. An earlier report there is replaced.
    Raises InputError when there is anything else.
    """
    writers = _writers(experiment)
    title = f"What personalisation did for {writers:,} writer{'s' * (writers != 1)}"
    write_page(directory, title, _sections(experiment), summary(experiment), made_from)


def changes(experiment: Experiment) -> list[Change]:
    """Return every test character that the mixture and the global expert recognise differently."""
    return [Change(*change) for change in experiment.outcome.changes.tolist()]


def _figures(experiment: Experiment, name: str) -> dict[str, float | None]:
    measured, gain = experiment.methods[name], experiment.gain(name)
    generic_change = measured.generic - experiment.methods["ge"].generic
    full = gain[experiment.full_alphabet()]
    return {
        "custom_accuracy": float(measured.custom.mean()),
        "custom_gain": float(gain.mean()),
        "generic_accuracy": float(measured.generic.mean()),
        "generic_change": float(generic_change.mean()),
        # Rounded, since a difference of fractions that is exactly one point may come out as more.
        "writers_hurt": float(np.mean(gain.round(9) < -HURT)),
        "worst_writer_gain": float(gain.min()),
        "parameter_overhead": float(measured.parameter_overhead.mean()),
        "mac_overhead": float(measured.mac_overhead.mean()),
        "seconds": float(measured.seconds.sum()),
        "full_alphabet_gain": float(full.mean()) if len(full) else None,
        "full_alphabet_writers": len(full),
    }


def _cells(experiment: Experiment, name: str) -> list[str]:
    """One method's row under `COLUMNS`."""
    figures = _figures(experiment, name)
    own, *others = (
        "" if (value := figures[key]) is None else format(100 * value, form)
        for key, form in _PERCENTAGES.values()
    )
    error = standard_error(experiment.methods[name].custom)
    if not np.isnan(error):
        own += f"±{100 * error:.1f}"
    return [TITLES.get(name, name), own, *others, f"{figures['seconds']:.1f}"]


def _sections(experiment: Experiment) -> list[str]:
    methods, origin = _methods_section(experiment), _origin_section(experiment)
    if "moe" not in experiment.methods:
        return [methods, origin]
    found = changes(experiment)
    return [
        _lead(experiment),
        methods,
        _pictures(experiment),
        _changes_section(experiment, found),
        _worst_section(experiment, found),
        origin,
    ]


def _lead(experiment: Experiment) -> str:
    ge, moe = (_figures(experiment, name) for name in ("ge", "moe"))
    return (
        f"<p>The global expert recognises {ge['custom_accuracy']:.1%} of a writer's characters; "
        f"with a local expert and a gate beside it, {moe['custom_accuracy']:.1%}. Of everybody's "
        f"characters it recognises {ge['generic_accuracy']:.1%}, and with them "
        f"{moe['generic_accuracy']:.1%}.</p>"
    )


def _methods_section(experiment: Experiment) -> str:
    return section(
        "Methods",
        "Own: a writer's test characters, with the standard error over writers; generic: "
        "everybody's. Gains and changes are points above the global expert. The gain is repeated "
        f"for the {experiment.full_alphabet().sum()} writers with {FULL_ALPHABET} or more classes, "
        "since a method gains little there by knowing which classes a writer uses. A writer is "
        f"hurt if the accuracy falls by more than {100 * HURT:.0f} point. Extra cost is relative "
        "to the global expert's; time is that of learning, for all writers together.",
        html_table(
            COLUMNS,
            [_cells(experiment, name) for name in experiment.methods],
            chosen=TITLES["moe"],
        ),
    )


def _pictures(experiment: Experiment) -> str:
    pictures = [
        section(
            "Every writer, before and after",
            "Each bar is a writer: it goes from the accuracy of the global expert alone to that of "
            "the mixture. Triangles are writers who lost. Of many writers a sample is drawn.",
            before_and_after(experiment.methods["ge"].custom, experiment.methods["moe"].custom),
        )
    ]
    if experiment.curve:
        learned = float(experiment.outcome.learned.mean())
        pictures.append(
            section(
                "Gain by characters seen",
                "The writers' mean gain by the number of characters learned from. The diamond is "
                "this experiment.",
                gain_by_samples(experiment.curve, learned, experiment.gain("moe")),
            )
        )
    if experiment.outcome.openings.any():
        pictures.append(
            section(
                "How far the gates open",
                "At 1 the local expert has full weight, at 0 the global expert decides alone. "
                "Gates should open for their writer's characters and shut for everybody else's.",
                gate_openings(*experiment.outcome.openings),
            )
        )
    return side_by_side(pictures)


def _changes_section(experiment: Experiment, found: list[Change]) -> str:
    righted = [c for c in found if c.after == c.true]
    wronged = [c for c in found if c.before == c.true]
    tested = experiment.outcome.tested.sum()
    parts = [
        f"<h3>{heading}: {len(some):,} of {tested:,}</h3>\n"
        + _glyphs(experiment, _spread(some, most, experiment.trial.seed))
        for heading, some, most in (
            ("Became right", righted, RIGHTED),
            ("Became wrong", wronged, WRONGED),
        )
    ]
    return section(
        "Characters that changed",
        "Under each glyph: its label, the guess of the global expert, and that of the mixture. "
        "They are chosen at random, from every writer in turn.",
        "\n".join(parts),
    )


def _worst_section(experiment: Experiment, found: list[Change]) -> str:
    before, after = (experiment.methods[name].custom for name in ("ge", "moe"))
    gain = after - before
    outcome, parts = experiment.outcome, []
    for writer in np.argsort(gain, kind="stable")[:WORST].tolist():
        lost = [c for c in found if c.writer == writer and c.before == c.true]
        won = sum(c.writer == writer and c.after == c.true for c in found)
        left_out = f" ({LOST} of them shown)" if len(lost) > LOST else ""
        parts.append(
            f"<h3>{escape(outcome.names[writer])}: {before[writer]:.1%} → {after[writer]:.1%} "
            f"({100 * gain[writer]:+z.1f} points)</h3>\n"
            f'<p class="note">Learned from {outcome.learned[writer]} characters; wrote '
            f"{outcome.classes[writer]} classes. Won {won} of {outcome.tested[writer]} test "
            f"characters, lost {len(lost)}{left_out}.</p>\n"
            + _glyphs(experiment, _spread(lost, LOST, experiment.trial.seed))
        )
    return section(
        "Writers who gained least",
        "Their accuracy before and after, and the characters that the global expert recognised and "
        "the mixture does not.",
        "\n".join(parts),
    )


def _origin_section(experiment: Experiment) -> str:
    trial, outcome = experiment.trial, experiment.outcome
    manifest = trial.release.manifest
    each = "half of each writer's" if trial.shots == "half" else f"{trial.shots} each"
    facts = {
        "writers": f"{_writers(experiment):,}",
        "characters": f"{outcome.learned.sum():,} to learn from ({each}), "
        f"{outcome.tested.sum():,} to test on",
        "seed": str(trial.seed),
        "release": f"version {manifest.version}, {manifest.architecture}, {manifest.created}",
        "generic": f"{len(trial.release.generic):,} characters",
        **{f"release's {k.replace('_', ' ')}": f"{v:,.4g}" for k, v in manifest.validation.items()},
        "fedhw": __version__,
    }
    return section(
        "Made from",
        "The same data, release and seed give the same figures, except for the time.",
        definitions(facts),
    )


def _writers(experiment: Experiment) -> int:
    return len(experiment.outcome.names)


def _spread(some: list[Change], most: int, seed: int) -> list[Change]:
    """Draw at most `most` at random, from every writer in turn, in the order of their labels."""
    drawn = random.Random(seed).sample(some, len(some))
    turns: defaultdict[int, itertools.count[int]] = defaultdict(itertools.count)
    drawn.sort(key=lambda c: next(turns[c.writer]))
    return sorted(drawn[:most], key=lambda c: c.true)


def _glyphs(experiment: Experiment, some: Sequence[Change]) -> str:
    trial, items = experiment.trial, []
    written = {c.writer: trial.population.write([c.writer]).observations for c in some}
    for change in some:
        true, before, after = (
            escape(trial.release.labels[label])
            for label in (change.true, change.before, change.after)
        )
        writer = escape(experiment.outcome.names[change.writer])
        picture = png_url(written[change.writer][change.place])
        items.append(
            f'<li title="{writer}"><img alt="{true} by {writer}" src="{picture}">'
            f"{true}: {before} → {after}</li>"
        )
    return '<ul class="glyphs">\n' + "\n".join(items) + "\n</ul>"
