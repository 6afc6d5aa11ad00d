"""`fedhw server statistics`: estimates from the devices' reports."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fedhw.errors import InputError
from fedhw.system.console import out
from fedhw_server.commands.operator_options import HomeOption, JsonOption, opened
from fedhw_server.commands.times import window_span

if TYPE_CHECKING:
    from fedhw.privacy.estimate import Estimate

WORST = 10
"""Most labels that are listed, those with the most errors."""


def statistics(
    home: HomeOption = None,
    window: Annotated[
        int | None,
        typer.Option(help="The window to show; by default the newest that may be shown."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show estimates from the devices' reports: means, standard errors, cohort sizes.

    For example: fedhw server statistics
    """
    with opened(home) as (place, fleet):
        latest, policy = place.registry.latest, fleet.policy
        found = fleet.reports.estimates(len(latest.labels), window) if latest else None
    if latest is None or found is None:
        raise InputError(
            f"statistics: no window has reports of {policy.minimum_cohort} devices, and nothing is "
            "shown of fewer; wait for more"
        )
    if as_json:
        content = {
            "window": found.window,
            "ended": found.ended,
            "cohort": found.cohort,
            "estimates": [_estimate(each) for each in found.estimates],
            "by_release": {
                release: [_estimate(each) for each in estimates]
                for release, estimates in found.by_release.items()
            },
        }
        out.print_json(json.dumps(content))
        return
    out.print(f"window {window_span(found.window, policy.window)}, {found.cohort} devices")
    out.print(_table_of_means(found.estimates))
    out.print(_table_of_errors(found.estimates, latest.labels.texts))


def _table_of_means(estimates: "Sequence[Estimate]") -> Table:
    shown = Table("statistic", "mean", "standard error", "99 % interval", "unit")
    for each in estimates:
        if each.entry is None:
            low, high = each.interval()
            figures = f"{each.mean:.3f}", f"{each.standard_error:.3f}", f"{low:.3f} to {high:.3f}"
            shown.add_row(each.name, *figures, each.unit)
    return shown


def _table_of_errors(estimates: "Sequence[Estimate]", labels: Sequence[str]) -> Table:
    """Return a table of the labels with the most errors."""
    errors = [each for each in estimates if each.name == "error_share"]
    worst = sorted(errors, key=lambda each: each.mean, reverse=True)[:WORST]
    shown = Table("most errors at", "share of corrections", "standard error")
    for each in worst:
        label = Text(labels[each.entry or 0])
        shown.add_row(label, f"{each.mean:.3f}", f"{each.standard_error:.3f}")
    return shown


def _estimate(estimate: "Estimate") -> dict[str, Any]:
    low, high = estimate.interval()
    return estimate._asdict() | {"low": low, "high": high}
