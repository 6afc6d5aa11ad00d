"""`fedhw simulate`: two programs with options of their own; --fleet tells them apart."""

from typing import Any

import click
import typer
from click.core import ParameterSource
from typer.core import TyperCommand, TyperOption

from fedhw.errors import InputError
from fedhw.research.commands.simulate_fleet import simulate_fleet
from fedhw.research.commands.simulate_writers import simulate_writers

_both = typer.Typer()
_both.command()(simulate_writers)
_both.command()(simulate_fleet)
_WRITERS, _FLEET = typer.main.get_group(_both).commands.values()
_OPTIONS = {option.name: option for option in (*_WRITERS.params, *_FLEET.params)}


@click.pass_context
def _simulate(context: click.Context, /, fleet: bool, **given: Any) -> Any:
    """Run one of the two; raises InputError for an option that only the other one has."""
    chosen = _FLEET if fleet else _WRITERS
    wrong = "not for a fleet; leave one of both out" if fleet else "for a fleet; give --fleet, too"
    own = {str(option.name): given.pop(str(option.name)) for option in chosen.params}
    for name, value in given.items():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise InputError(f"{name}: {value} is {wrong}")
    return context.invoke(chosen, **own)


simulate = TyperCommand(
    "simulate",
    callback=_simulate,
    params=[
        *_OPTIONS.values(),
        TyperOption(
            param_decls=["--fleet"],
            is_flag=True,
            help="Live through the days of a fleet, improvements and all.",
        ),
    ],
    help="Personalise for many writers, compare methods, and write a report with pictures.\n\n"
    "What was cut off goes on where it was when the same command is given again. With --fleet the "
    "writers are the fleet of a coordinator, for some days in virtual time.",
)
