"""`fedhw simulate`: of single writers, or with --fleet of a fleet."""

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
    help="Live through the days of a fleet, improvements and all.",
)


@click.pass_context
def _simulate(context: click.Context, /, **given: Any) -> Any:
    return _PROGRAMS.run(context, given)


simulate = TyperCommand(
    "simulate",
    callback=_simulate,
    params=[*_PROGRAMS.options, _FLEET],
    help="Personalise for many writers, compare methods, and write a report with pictures.\n\n"
    "What was cut off goes on where it was when the same command is given again. With --fleet the "
    "writers are the fleet of a coordinator, for some days in virtual time.",
)
