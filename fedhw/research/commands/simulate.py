"""`fedhw simulate`: many writers, each alone, or with --fleet a fleet."""

from typing import Any

import click
from typer.core import TyperCommand, TyperOption

from fedhw.research.commands.simulate_fleet import simulate_fleet
from fedhw.research.commands.simulate_writers import simulate_writers
from fedhw.system.two_programs import TwoPrograms

_PROGRAMS = TwoPrograms.of(simulate_writers, simulate_fleet, "fleet", "a fleet")
_FLEET = TyperOption(
    param_decls=["--fleet"],
    is_flag=True,
    help="Simulate the days of a fleet, with its improvements.",
)


@click.pass_context
def _simulate(context: click.Context, /, **given: Any) -> Any:
    return _PROGRAMS.run(context, given)


simulate = TyperCommand(
    "simulate",
    callback=_simulate,
    params=[*_PROGRAMS.options, _FLEET],
    help="Personalise for many writers, compare methods, and write a report with pictures.\n\n"
    "An interrupted simulation continues when the same command is given again. With --fleet the "
    "writers have devices in a fleet with a coordinator, for some days in virtual time.\n\n"
    "For example: fedhw simulate --data writers.npz --out out/first",
)
